//! Will this migration hurt? What each statement of a file locks, scans, rewrites and breaks.

pub mod operation;
mod parse;

pub use parse::{read, read_statement};
