//! A folder of files behind the store contract: it is backed up and restored, and answers nothing else.

mod config;
mod dump;
mod entry;
mod error;
mod load;
mod store;
mod walk;

pub use config::Config;
pub use store::{FolderStore, KIND, open};
