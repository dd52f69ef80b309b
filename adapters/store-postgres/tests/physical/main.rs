//! Physical backups of servers of the tests' own: taken, compared with the server's own list, started, damaged; and the log
//! behind them: followed, cut off, given up, led onto other timelines.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

mod base;
mod disk;
mod log;
mod promotion;
mod swap;
mod world;
