//! Physical backups and the log behind them as the room makes them, over a real server and a real repository: processes die,
//! the server dies, another is promoted, the log has a gap.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

mod bucket;
mod crash;
mod emptied;
mod gap;
mod home;
mod loss;
mod promotion;
mod trip;
