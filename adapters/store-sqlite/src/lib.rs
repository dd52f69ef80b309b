//! SQLite behind the store contract.

mod batch;
mod canonical;
mod catalog;
mod cold;
mod config;
mod contents;
mod dump;
mod error;
mod execute;
mod health;
mod load;
mod operate;
mod rowset;
mod session;
mod store;
mod text;

pub use config::Config;
pub use store::{KIND, SqliteStore, open};
