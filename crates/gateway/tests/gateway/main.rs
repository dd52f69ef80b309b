//! The hot path against scripted providers, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fallback;
mod forwarding;
mod honest;
mod refusals;
mod same_format;
mod stage;
