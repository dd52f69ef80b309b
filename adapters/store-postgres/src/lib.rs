//! PostgreSQL behind the store contract.

mod batch;
mod catalog;
mod config;
mod error;
mod execute;
mod explain;
mod health;
mod integrity;
mod rowset;
mod scram;
mod session;
mod slow;
mod statement;
mod store;
mod tls;
mod value;

pub use config::{Config, LoginConfig, Tls};
pub use store::{KIND, PostgresStore, open};
