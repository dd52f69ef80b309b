//! The ledger at its borders: what callers are promised, what tampering leaves, what faults do.

mod concurrency;
mod faults;
mod rooms;
mod support;
mod tampering;
