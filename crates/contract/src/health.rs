//! Whether a store is well: what was asked, what came back, and what an expert makes of it.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Rows, Severity, Trigger};

/// What part of a store's life a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthArea {
    /// Broken pages and pages that nobody would notice to be broken.
    Integrity,
    /// How many are connected, and how many may be.
    Connections,
    /// Transactions that are open too long, and who waits for whom.
    Sessions,
    /// Copies of the store, slots and the archive.
    Replication,
    /// Dead rows, statistics, age of transactions.
    Vacuum,
    /// Space that holds nothing.
    Bloat,
    /// Indexes that are broken, missing or superfluous.
    Indexes,
    /// Tables, keys, constraints and triggers.
    Schema,
    /// Numbers that run out.
    Sequences,
    /// What is read from memory and what spills to disk.
    Cache,
    /// Where the space goes.
    Disk,
    /// Settings that are unsafe or out of proportion.
    Settings,
    /// Encryption on the way and at rest.
    Encryption,
    /// Who may do more than they need.
    Logins,
}

impl HealthArea {
    /// All areas, in the order in which they are asked about.
    pub const ALL: [HealthArea; 14] = [
        HealthArea::Integrity,
        HealthArea::Connections,
        HealthArea::Sessions,
        HealthArea::Replication,
        HealthArea::Vacuum,
        HealthArea::Bloat,
        HealthArea::Indexes,
        HealthArea::Schema,
        HealthArea::Sequences,
        HealthArea::Cache,
        HealthArea::Disk,
        HealthArea::Settings,
        HealthArea::Encryption,
        HealthArea::Logins,
    ];

    /// The name in requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthArea::Integrity => "integrity",
            HealthArea::Connections => "connections",
            HealthArea::Sessions => "sessions",
            HealthArea::Replication => "replication",
            HealthArea::Vacuum => "vacuum",
            HealthArea::Bloat => "bloat",
            HealthArea::Indexes => "indexes",
            HealthArea::Schema => "schema",
            HealthArea::Sequences => "sequences",
            HealthArea::Cache => "cache",
            HealthArea::Disk => "disk",
            HealthArea::Settings => "settings",
            HealthArea::Encryption => "encryption",
            HealthArea::Logins => "logins",
        }
    }
}

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthScope {
    /// The areas; all when empty.
    pub areas: Vec<HealthArea>,
    /// How long a transaction may be open, or wait for a lock, before it is reported.
    pub transaction_max: Duration,
}

impl HealthScope {
    /// Longest time that a transaction should be open.
    ///
    /// An open transaction keeps vacuum from removing what died after it began, and its locks from others. What users
    /// wait for ends within seconds, so minutes mean that something was forgotten; the number is our judgement.
    ///
    /// Source of the reason: PostgreSQL manual, "Routine Vacuuming".
    pub const TRANSACTION_MAX: Duration = Duration::from_mins(5);

    /// Whether checks of this area are wanted.
    pub fn wants(&self, area: HealthArea) -> bool {
        self.areas.is_empty() || self.areas.contains(&area)
    }
}

impl Default for HealthScope {
    /// All areas; transactions of up to 5 minutes.
    fn default() -> Self {
        Self { areas: Vec::new(), transaction_max: Self::TRANSACTION_MAX }
    }
}

/// How much of a check could be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "seen", rename_all = "snake_case")]
pub enum Seen {
    /// All of it.
    All,
    /// Some of it; the rest is hidden.
    Part {
        /// What hides it, and what would show it.
        because: String,
    },
    /// Nothing.
    Nothing {
        /// What is missing: an extension, a right, a version, another role of the server.
        because: String,
    },
}

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthFinding {
    /// Stable name, such as `index_invalid`.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence with its numbers.
    pub title: String,
    /// What it is about, such as `public.orders`; empty for the store as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// What to do about it: SQL, or a command of Steward.
    pub fix: String,
    /// Set where the mission demands that the PM hears of it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate: Option<Trigger>,
}

/// One question to the store, its answer, and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthCheck {
    /// Stable name, such as `invalid_indexes`; unique within a store's answer.
    pub name: String,
    /// What it is about.
    pub area: HealthArea,
    /// The statement exactly as it was run, or what was looked at; empty when nothing was asked.
    pub statement: String,
    /// What came back; `None` when nothing was asked.
    pub answer: Option<Rows>,
    /// How much could be seen.
    pub seen: Seen,
    /// What is not well.
    pub findings: Vec<HealthFinding>,
}

/// Looks at the whole store with an expert's eyes. Nothing is changed.
#[async_trait]
pub trait Health: Send + Sync {
    /// Makes every check of the scope. A check that cannot be made says why and does not fail the others.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`: no connection. `TimedOut`, `Canceled`: from `ctx`. `Corrupt`: so damaged that nothing
    /// can be asked.
    async fn check_health(&self, ctx: &Context, scope: &HealthScope) -> Result<Vec<HealthCheck>, Error>;
}
