//! Operations on a running store: who waits for whom, and changes of how it works.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AccessChange, Context, Error, Finding, PlanStep};

/// A lock in the engine's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockOn {
    /// Such as `AccessExclusiveLock`.
    pub mode: String,
    /// What is locked, such as `table public.orders` or `transaction 733`.
    pub object: String,
}

/// A session of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionInfo {
    /// The server's number for it; used again after it has ended.
    pub pid: i32,
    /// When it began, to the microsecond: with `pid` it names the session for good. Empty where our login may not see it.
    pub backend_start: String,
    /// Such as `client backend` or `autovacuum worker`.
    pub kind: String,
    /// Its login.
    pub user: String,
    /// Its database.
    pub database: String,
    /// What the program calls itself.
    pub application: String,
    /// Where it connects from.
    pub client: String,
    /// Such as `active` or `idle in transaction`.
    pub state: String,
    /// What it waits for, such as `Lock: relation`.
    pub waits_on: String,
    /// Age of its transaction, in milliseconds.
    pub transaction_ms: Option<f64>,
    /// Age of its statement, or of its last one, in milliseconds.
    pub statement_ms: Option<f64>,
    /// Time since its state changed, in milliseconds.
    pub state_ms: Option<f64>,
    /// It has changed something that is not committed.
    pub has_written: bool,
    /// Its statement, or its last one, with `?` for every literal; empty where our login may not see it.
    pub statement: String,
    /// Who must end before it can go on.
    pub blocked_by: Vec<i32>,
    /// The lock that it waits for.
    pub waits_for: Option<LockOn>,
    /// How long it has waited for that lock, in milliseconds.
    pub waiting_ms: Option<f64>,
    /// The locks that it has, if it blocks others or is idle in a transaction.
    pub holds: Vec<LockOn>,
    /// Ending it harms more than itself, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<String>,
}

/// How many sessions have something in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionCount {
    /// What, such as a state, an application or a login.
    pub of: String,
    /// How many.
    pub sessions: u64,
}

/// What a server is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Activity {
    /// Most sessions of clients at once.
    pub connections_max: u64,
    /// Those of them that only superusers (and, from 16 on, certain roles) get.
    pub connections_reserved: u64,
    /// Sessions of clients now, of all databases.
    pub connections: u64,
    /// By state.
    pub by_state: Vec<SessionCount>,
    /// By application.
    pub by_application: Vec<SessionCount>,
    /// By login.
    pub by_user: Vec<SessionCount>,
    /// By database.
    pub by_database: Vec<SessionCount>,
    /// Sessions of this database that wait, block, are in a transaction, or run a statement; and those of other
    /// databases that block one of them.
    pub sessions: Vec<SessionInfo>,
    /// Changes prepared for a commit in two phases that have not been ended, with their locks: no session holds them.
    pub prepared_transactions: Vec<String>,
    /// The login that looked.
    pub seen_as: String,
    /// What this login may not see, and how it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
}

/// How a session is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndHow {
    /// Its statement is stopped; the session stays.
    #[default]
    Cancel,
    /// The session is closed; what it has not committed is rolled back.
    Terminate,
}

/// Where a setting applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettingLevel {
    /// In new sessions of this database.
    #[default]
    Database,
    /// In new sessions of one role in this database.
    Role,
    /// On the whole server.
    Server,
}

/// A change of how a store works or who may use it, as somebody asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "operation")]
pub enum Operation {
    /// Stop a statement or close a session.
    EndSession {
        /// The session's number.
        pid: i32,
        /// When it began, as [`SessionInfo::backend_start`] has it.
        backend_start: String,
        /// How.
        how: EndHow,
        /// Also one whose end harms more than itself.
        protected: bool,
    },
    /// Clear dead rows away and renew statistics.
    Vacuum {
        /// These tables; none: those that need it.
        tables: Vec<String>,
        /// Renew the statistics too.
        analyze: bool,
        /// Rewrite the tables, which nobody can use meanwhile.
        full: bool,
        /// Freeze all rows.
        freeze: bool,
    },
    /// Build indexes anew.
    RebuildIndex {
        /// This one.
        index: Option<String>,
        /// All of this table.
        table: Option<String>,
        /// Also one that can only be built while nobody writes.
        blocking: bool,
    },
    /// Change one setting.
    Configure {
        /// Its name.
        setting: String,
        /// The new value; `None`: back to the default.
        value: Option<String>,
        /// Where.
        level: SettingLevel,
        /// Whose, for `SettingLevel::Role`.
        role: Option<String>,
    },
    /// Give rights.
    Grant(AccessChange),
    /// Take rights away.
    Revoke(AccessChange),
}

/// An operation that an adapter has thought through; nothing has changed.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// What will be different, in one sentence; why there is nothing to do, when there are no steps.
    pub summary: String,
    /// Exact steps, in order.
    pub steps: Vec<PlanStep>,
    /// The login that carries them out: `writer` or `admin`.
    pub login: String,
    /// What the steps were made for. Holds no ages and no statistics: as long as nobody interferes it stays the same.
    pub state: Value,
    /// What must be known afterwards to see whether it worked; part of the plan.
    pub predicted: Value,
    /// What whoever decides should know; their evidence is what the adapter looked at.
    pub findings: Vec<Finding>,
    /// What was looked at, for the record.
    pub seen: Value,
}

/// Looks at a running store and changes how it works, by plans.
#[async_trait]
pub trait Operate: Send + Sync {
    /// Who is connected, who waits for whom.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the engine does not know. `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn activity(&self, ctx: &Context) -> Result<Activity, Error>;

    /// Thinks the operation through on the store as it is. No steps: it is already as asked for.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such object, role, session or setting. `Denied`: no configured login may do it; the hint says
    /// who could. `Invalid`: it would do harm, and which. `Unsupported`: the engine has no such thing.
    async fn prepare(&self, ctx: &Context, operation: &Operation) -> Result<Prepared, Error>;

    /// What is measured before the steps run, for `unfulfilled`.
    ///
    /// # Errors
    ///
    /// As `activity`.
    async fn baseline(&self, ctx: &Context, operation: &Operation, predicted: &Value)
    -> Result<Value, Error>;

    /// What is not as promised after the steps have run, one sentence each. `baseline` is null for a plan that was
    /// resumed. Waits until the engine has carried out what it only queued, at most for a bounded time.
    ///
    /// # Errors
    ///
    /// As `activity`.
    async fn unfulfilled(
        &self,
        ctx: &Context,
        operation: &Operation,
        predicted: &Value,
        baseline: &Value,
    ) -> Result<Vec<String>, Error>;
}
