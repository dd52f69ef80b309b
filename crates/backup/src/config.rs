//! What a project file says of backups.

use std::collections::BTreeSet;

use contract::{BackupMethod, Error, ErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalog::Level;

/// What is backed up together, how, where to and how long it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanConfig {
    /// The stores, each backed up after the other.
    pub stores: Vec<String>,
    /// Where to. Default: the first repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Further repositories, into which each backup is copied once it was restored and compared. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<String>,
    /// `logical` or `physical`. Default: the best that the store offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<BackupMethod>,
    /// `continuous`: the log of the stores is kept too, so that they can be restored to any moment; needs `method: physical`.
    /// `steward up` follows it. Default: only the backups are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<LogMode>,
    /// Longest time between two looks at the log, in seconds; what was written since the last one would be lost. Default: 5.
    #[serde(default = "default_log_every_s", skip_serializing_if = "is_default_log_every_s")]
    pub log_every_s: u32,
    /// Most MiB of log that a server may keep for us, beyond what it keeps for itself; above, its slot is given up, which is a
    /// gap. Default: 4,096.
    #[serde(
        default = "default_log_retained_mib_max",
        skip_serializing_if = "is_default_log_retained_mib_max"
    )]
    pub log_retained_mib_max: u32,
    /// Follow the log also of a server with `max_slot_wal_keep_size = -1`, whose disk fills while no Steward runs. Default: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_unlimited: bool,
    /// When `steward up` makes it by itself. Default: only when it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<PlanSchedule>,
    /// Whether the states of the stores must fit each other.
    #[serde(default)]
    pub consistency: Consistency,
    /// How a backup is proven.
    #[serde(default)]
    pub verify: Verification,
    /// How long backups are kept.
    #[serde(default)]
    pub keep: Retention,
    /// What the numbers should be.
    #[serde(default)]
    pub objectives: Objectives,
}

impl PlanConfig {
    /// The plan of a store that no plan of the project file names.
    pub fn of_store(store: &str) -> Self {
        Self {
            stores: vec![store.to_owned()],
            repository: None,
            copies: Vec::new(),
            method: None,
            logs: None,
            log_every_s: default_log_every_s(),
            log_retained_mib_max: default_log_retained_mib_max(),
            log_unlimited: false,
            schedule: None,
            consistency: Consistency::default(),
            verify: Verification::default(),
            keep: Retention::default(),
            objectives: Objectives::default(),
        }
    }

    /// Refuses a plan that cannot work.
    ///
    /// # Errors
    ///
    /// `Invalid`: with the key.
    pub fn check(&self, stores: &BTreeSet<String>, repositories: &[String]) -> Result<(), Error> {
        let invalid = |key: &'static str, message: String| {
            Err(Error::new(ErrorKind::Invalid, message).with("key", key))
        };
        if self.stores.is_empty() {
            return invalid("stores", "a backup plan names no store".into());
        }
        if let Some(unknown) = self.stores.iter().find(|store| !stores.contains(*store)) {
            return invalid("stores", format!("there is no store `{unknown}`"));
        }
        let mut once = BTreeSet::new();
        if let Some(twice) = self.stores.iter().find(|store| !once.insert(*store)) {
            return invalid("stores", format!("the store `{twice}` is named twice"));
        }
        if let Some(repository) = self.repository.as_ref().filter(|name| !repositories.contains(name)) {
            return invalid("repository", format!("there is no repository `{repository}`"));
        }
        if let Some(unknown) = self.copies.iter().find(|name| !repositories.contains(name)) {
            return invalid("copies", format!("there is no repository `{unknown}`"));
        }
        let first = self.repository.as_ref().or(repositories.first());
        if self.copies.iter().any(|name| Some(name) == first) {
            return invalid("copies", "a backup is copied to other repositories than its own".into());
        }
        if self.verify.level == Level::None {
            return invalid(
                "verify",
                "the lowest level is `l0`: what was written is always looked at".into(),
            );
        }
        if let Some(unknown) = self.verify.probes.iter().find(|probe| !self.stores.contains(&probe.store)) {
            return invalid(
                "verify",
                format!("a probe asks `{}`, which the plan does not back up", unknown.store),
            );
        }
        if self.logs.is_some() && self.method != Some(BackupMethod::Physical) {
            return invalid(
                "logs",
                "a log can be applied to physical backups only: set `method: physical`".into(),
            );
        }
        if self.log_every_s == 0 || self.log_retained_mib_max == 0 {
            let key = if self.log_every_s == 0 { "log_every_s" } else { "log_retained_mib_max" };
            return invalid(key, "must be at least 1".into());
        }
        if self.keep == Retention::nothing() {
            return invalid("keep", "every backup would be deleted at once".into());
        }
        Ok(())
    }
}

/// How the stores of a plan fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Consistency {
    /// Default: `independent`.
    pub mode: Mode,
    /// With `together`: most seconds between the moments of two stores; more is told as a finding. Default: 5.
    pub max_skew_seconds: u32,
}

impl Default for Consistency {
    fn default() -> Self {
        Self { mode: Mode::default(), max_skew_seconds: 5 }
    }
}

/// When the stores of a plan are backed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One after the other: what refers from one store to another may dangle.
    #[default]
    Independent,
    /// All at once, with one name for all: how far their moments lie apart is measured and told.
    Together,
}

/// Whether the logs of a plan's stores are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogMode {
    /// As they are written.
    Continuous,
}

fn default_log_every_s() -> u32 {
    5
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_default_log_every_s(value: &u32) -> bool {
    *value == default_log_every_s()
}

fn default_log_retained_mib_max() -> u32 {
    4_096
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_default_log_retained_mib_max(value: &u32) -> bool {
    *value == default_log_retained_mib_max()
}

/// When a plan is due. A time that passed while nothing ran is made up for once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanSchedule {
    /// Five fields: minute, hour, day of month, month, day of week.
    pub cron: String,
    /// IANA time zone in which the fields and the hours are read. Default: UTC.
    #[serde(default = "utc")]
    pub zone: String,
    /// A run begins up to this many minutes later, always the same for the same time, so that not everything begins at
    /// once. Default: 0.
    #[serde(default)]
    pub jitter_minutes: u32,
    /// Runs begin only in these hours, such as `22:00-06:00`; what is due at other times waits for them. A run by hand does
    /// not wait. Default: at any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<String>,
}

fn utc() -> String {
    "UTC".into()
}

/// How a backup is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Verification {
    /// How far, right after the backup: `l0` the dump's own word, `l1` the repository's records, `l2` its bytes, `l3` a real
    /// restore whose rows are compared, `l4` and the probes. Default: `l3`.
    pub level: Level,
    /// Questions to the restored copy that must be answered by true.
    pub probes: Vec<Probe>,
}

impl Default for Verification {
    fn default() -> Self {
        Self { level: Level::L3, probes: Vec::new() }
    }
}

/// A question to a restored copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The store whose copy is asked.
    pub store: String,
    /// One statement that gives one row whose first value is true, such as `SELECT count(*) > 1000 FROM orders`.
    pub sql: String,
}

/// How long backups are kept: whatever one of the rules keeps, stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// All that are younger than this many hours. Default: 48.
    pub within_hours: u32,
    /// The newest of each of the last hours that have one. Default: 24.
    pub hourly: u32,
    /// The newest of each of the last days that have one. Default: 14.
    pub daily: u32,
    /// The newest of each of the last weeks that have one. Default: 8.
    pub weekly: u32,
    /// The newest of each of the last months that have one. Default: 12.
    pub monthly: u32,
    /// The newest of each of the last years that have one. Default: 3.
    pub yearly: u32,
    /// Never fewer than this many that were restored and compared. Default: 3.
    pub verified_min: u32,
    /// Ids of backups that are kept whatever the rules say.
    pub legal_hold: Vec<String>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            within_hours: 48,
            hourly: 24,
            daily: 14,
            weekly: 8,
            monthly: 12,
            yearly: 3,
            verified_min: 3,
            legal_hold: Vec::new(),
        }
    }
}

impl Retention {
    fn nothing() -> Self {
        Self {
            within_hours: 0,
            hourly: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            verified_min: 0,
            legal_hold: Vec::new(),
        }
    }
}

/// What the numbers of a plan should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Objectives {
    /// Most work that may be lost, in minutes: the age of the newest proven backup. Default: 1,500 (25 hours).
    pub rpo_minutes: u32,
    /// Longest time until the data is back, in minutes. Default: 30, from the mission.
    pub rto_minutes: u32,
}

impl Default for Objectives {
    fn default() -> Self {
        Self { rpo_minutes: 1_500, rto_minutes: 30 }
    }
}
