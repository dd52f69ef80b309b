//! Backups in the repository format of restic, which restic itself can check and restore.

mod backend;
mod check;
mod clean;
mod cold;
mod config;
mod error;
mod keyfile;
mod local;
mod lock;
mod logs;
mod objects;
mod place;
mod prune;
mod reading;
mod repository;
mod run;
mod s3;
mod seal;
mod snapshot;
mod source;
mod unlock;
mod writer;

#[cfg(test)]
#[path = "../tests/faults/mod.rs"]
mod faults;

pub use cold::{ColdBucket, open_place};
pub use config::{BucketConfig, Config, LockMode, ObjectLock};
pub use repository::{ResticRepository, new_master_key, open};
