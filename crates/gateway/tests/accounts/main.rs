//! Limits, budgets and usage at their border: what is let in, what is written, what a crash and a full disk do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod advice;
mod budgets;
mod caches;
mod crash;
mod estimates;
mod limits;
mod reports;
mod scrape;
mod shared;
mod support;
mod writing;
