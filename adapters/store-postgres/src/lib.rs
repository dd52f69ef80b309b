//! PostgreSQL behind the store contract.

mod access;
mod access_change;
mod access_review;
mod activity;
mod backup;
mod batch;
mod catalog;
mod cold;
mod config;
mod configure;
mod error;
mod execute;
mod explain;
mod health;
mod integrity;
mod operate;
mod physical;
mod rebuild;
mod rowset;
mod scram;
mod session;
mod slow;
mod statement;
mod store;
mod tls;
mod vacuum;
mod value;

pub use config::{Config, LoginConfig, Tls};
pub use store::{KIND, PostgresStore, open};
