//! The ledger at its borders: what callers are promised, what tampering leaves, what faults do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod concurrency;
mod faults;
mod rooms;
mod sealed;
mod support;
mod tampering;
