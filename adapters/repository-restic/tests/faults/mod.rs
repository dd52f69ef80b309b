//! What a repository does when something breaks: its files, its place, its clock, its process.
//!
//! These tests see the inside of the crate: they put a place between that fails when it is told to.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]
#![allow(clippy::format_push_string, clippy::format_collect, reason = "a server of a test need not be fast")]

mod bucket;
mod damage;
mod fake_s3;
mod guard;
mod home;
mod keys;
mod kill;
mod power;
mod prune;
mod s3;
mod s3_faults;
mod write;
