//! Backups that prove themselves: taken, kept, restored into scratch, compared, and told about.
//!
//! A backup counts only after it was restored and every table had the rows that were dumped.

mod accept;
pub mod archive;
mod catalog;
mod chain;
mod clock;
mod config;
mod copies;
mod copy;
mod drill;
mod drilled;
mod forecast;
mod forgetting;
mod indicators;
mod interrupted;
mod lamps;
mod list;
mod log_copies;
mod logs;
mod manifest;
mod meter;
mod places;
mod plan;
mod prune;
mod rebuild;
mod restore;
mod retention;
mod run;
mod runbook;
mod setup;
mod shares;
mod signature;
mod suspicion;
mod verify;

pub use accept::{AcceptBackup, accept, plan_accept};
pub use catalog::{Level, Origin, Recorded, State, newest_proven};
pub use clock::Uptime;
pub use config::{
    Consistency, LogMode, Mode, Objectives, PlanConfig, PlanSchedule, Probe, Retention, Verification,
};
pub use copies::Copied;
pub use copy::{CopyBackup, copy, plan_copy};
pub use drill::{DrillBackup, RecoveredMachine, StoreBack, drill, plan_drill};
pub use drilled::{DrillResult, DrillStep, Drilled, Loss, drills};
pub use indicators::Indicators;
pub use interrupted::{Left, left};
pub use list::{ListBackups, ShowBackup, list, show};
pub use logs::{
    ExportLogs, FollowLogs, MarkLogs, ShowLogs, base_wanted, export_logs, follow, marker, plan_export_logs,
    plan_follow, plan_marker, show_logs,
};
pub use manifest::{MANIFEST_VERSION, Manifest};
pub use plan::{ShowPlans, show_plans};
pub use prune::{PruneBackups, plan_prune, prune, prune_warnings};
pub use rebuild::{RebuildCatalog, plan_rebuild, rebuild};
pub use restore::{RestoreBackup, RestoreTo, plan_restore, restore};
pub use retention::{Kept, Reason, keep};
pub use run::{RunBackup, plan_run, run};
pub use runbook::{ExportRunbook, export_runbook};
pub use setup::{SetupRepository, plan_setup, setup};
pub use signature::{Signature, Signed, new_signing_key, public_key};
pub use verify::{VerifyBackup, plan_verify, verify};

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use contract::{Context, Error, Repository, StoreDirectory};
use ledger::Ledger;

/// What the room knows of the project that it works for.
#[async_trait]
pub trait Surroundings: Send + Sync {
    /// The project's stores.
    fn stores(&self) -> &dyn StoreDirectory;

    /// The plans of the project file, by name.
    fn plans(&self) -> &std::collections::BTreeMap<String, PlanConfig>;

    /// Names of the repositories of the project file; the first is used where a plan names none.
    fn repositories(&self) -> Vec<String>;

    /// Opens a repository.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such name. `Invalid`: a setting. `NotFound` with the hint of its set-up: it has no key yet.
    async fn repository(&self, ctx: &Context, name: &str) -> Result<Arc<dyn Repository>, Error>;

    /// Opens a repository with its recovery key alone, as one would who has no vault.
    ///
    /// # Errors
    ///
    /// `Denied`: the key does not open it. As `repository`.
    async fn unlock(
        &self,
        ctx: &Context,
        name: &str,
        key: &secrecy::SecretString,
    ) -> Result<Arc<dyn Repository>, Error> {
        let _ = (ctx, key);
        Err(Error::new(contract::ErrorKind::Unsupported, format!("`{name}` has no keys of its own")))
    }

    /// The keys that sign the project's manifests, the newest first; the others were put out of force. None: nothing is signed.
    ///
    /// # Errors
    ///
    /// As the vault's.
    async fn signing_keys(&self, ctx: &Context) -> Result<Vec<secrecy::SecretString>, Error> {
        let _ = ctx;
        Ok(Vec::new())
    }

    /// Recovers Steward from this repository into the empty folder, which the caller removes, and restores and compares the
    /// stores from there. With `key` the repository is opened with that alone.
    ///
    /// # Errors
    ///
    /// As `unlock`; `NotFound`: the repository holds no backup of Steward's own state. `Corrupt`: what came back is not what was
    /// backed up.
    async fn recover_into(
        &self,
        ctx: &Context,
        repository: &str,
        key: Option<&secrecy::SecretString>,
        folder: &std::path::Path,
        stores: &[String],
    ) -> Result<RecoveredMachine, Error> {
        let _ = (ctx, repository, key, folder, stores);
        Err(Error::new(contract::ErrorKind::Unsupported, "Steward cannot be recovered here"))
    }

    /// The folder for scratch copies.
    fn scratch(&self) -> PathBuf;

    /// The folder for logs on their way; what is in it stays between runs.
    fn logs(&self) -> PathBuf {
        self.scratch().with_file_name("log")
    }

    /// This process, as the ledger names it.
    fn holder(&self) -> &str;

    /// Whether the process of this name is gone.
    fn is_gone(&self, holder: &str) -> bool;

    /// How long the machine has run, where the project's clock is the machine's.
    fn uptime(&self) -> Option<Uptime> {
        None
    }

    /// The ledger.
    fn ledger(&self) -> &Ledger;
}
