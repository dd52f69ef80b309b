//! Files, batches and training through the gateway: money, restarts, and projects that do not see each other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod batches;
mod kept_there;
mod shared;
mod training;
mod world;
