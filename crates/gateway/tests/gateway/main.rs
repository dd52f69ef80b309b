//! The hot path against scripted providers, over real sockets.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its stage is its own"
)]

mod bounds;
mod cached;
mod collected;
mod converted;
mod fallback;
mod forwarding;
mod honest;
mod kept;
mod markers;
mod once;
mod over_tls;
mod prompts;
mod refusals;
mod retired;
mod same_format;
#[path = "../../../outbound/tests/upstream/secure.rs"]
mod secure;
mod semantic;
mod stage;
mod traces;
