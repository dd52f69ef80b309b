//! The door and its ways in: command line, HTTP, MCP, schedules; configuration, and the list of adapters.

mod adapters;
mod ai;
mod arguments;
mod audit;
mod audit_copy;
mod backups;
mod cli;
mod config;
mod daemon;
mod demo;
mod dispatch;
mod door;
mod exposure;
mod files;
mod holder;
mod http;
mod init;
mod line;
mod logging;
mod mcp;
mod own_state;
mod progress;
mod project;
mod reconcile;
mod recover;
mod reference;
mod request;
mod schedule;
mod serve;
mod spend;
mod status;
pub mod terminal;
mod tls;

pub use cli::run;
pub use config::{Loaded, load};
pub use door::{Options, Steward, Surroundings};
