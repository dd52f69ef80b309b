//! Which statements take the time, as the engine itself has counted.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Context, Error};

/// What the engine has counted for one statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatementStatistics {
    /// The engine's number for the statement, as text.
    pub id: String,
    /// The statement without its constants; what the engine left in is taken out here.
    pub text: String,
    /// The login that ran it.
    pub user: String,
    /// How often it ran.
    pub calls: u64,
    /// Time of all runs together, in milliseconds.
    pub total_ms: f64,
    /// Mean time of a run, in milliseconds.
    pub mean_ms: f64,
    /// Standard deviation of the time of a run, in milliseconds.
    pub stddev_ms: f64,
    /// Longest run, in milliseconds.
    pub max_ms: f64,
    /// Rows that all runs together gave or changed.
    pub rows: u64,
    /// Blocks found in memory.
    pub blocks_hit: u64,
    /// Blocks fetched from outside.
    pub blocks_read: u64,
    /// Blocks written to temporary files.
    pub blocks_temporary: u64,
}

/// The engine's statistics of statements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowAnswer {
    /// The statement that was run to get them.
    pub statement: String,
    /// Since when the engine counts, as ISO 8601 in UTC; `None` where it does not say.
    pub since: Option<String>,
    /// Time of all statements of this database but Steward's own, in milliseconds.
    pub total_ms: f64,
    /// Statements that the engine had no room for and has forgotten.
    pub forgotten: u64,
    /// Logins whose statements are left out, because they are Steward's.
    pub excluded_users: Vec<String>,
    /// What hides a part, and what would show it.
    pub hidden: Option<String>,
    /// The statements, those with the most time first.
    pub statements: Vec<StatementStatistics>,
    /// Time to answer, in milliseconds.
    pub elapsed_ms: f64,
}

/// The engine counts what its statements cost.
#[async_trait]
pub trait SlowStatements: Send + Sync {
    /// The statements of this database with the most time, without Steward's own; at most `statements_max`.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the engine does not count; the hint says how to make it. `Denied`, `Unavailable`, `TimedOut`.
    async fn slow_statements(&self, ctx: &Context, statements_max: u32) -> Result<SlowAnswer, Error>;
}
