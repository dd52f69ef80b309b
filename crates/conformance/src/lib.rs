//! One suite per contract trait, run by every adapter against the real server.
//!
//! An adapter's test file says `conformance::store_suite!(open);` and gives `async fn open(namespace: &str) -> Opened`.
//! Capabilities cut both ways: what is declared must pass its cases, what is not declared must answer `Unsupported`.

#![allow(clippy::unwrap_used, reason = "a suite fails by panicking")]

mod cluster;
mod faulty;
mod parts;
mod server;
pub mod store;

pub use cluster::{Cluster, programs};
pub use faulty::{Fault, Faulty};
pub use parts::{Given, Parts};
pub use server::{namespace, namespace_age, postgres, server};
pub use store::{Admin, NoSecrets, Opened, Secrets, Sql, change, permit_for};
