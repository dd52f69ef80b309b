//! Counters that several daemons share, on Redis.

mod config;
mod connection;
mod counters;
mod error;

pub use config::RedisConfig;
pub use counters::RedisCounters;
