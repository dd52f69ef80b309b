//! What a store adapter promises.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schema::{Dialect, Schema, Table, TableName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Access, Batch, BatchProgress, Context, Error, ErrorKind, Health, LockHolder, Operate, Permit, Plan,
    ReplicaLag, SecretSource, SlowStatements,
};

/// Something that an adapter can do; what is not declared answers `Unsupported`, what is declared passes its cases of
/// the conformance suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// `Relational::inspect`.
    Inspect,
    /// `Relational::query`, read-only by the engine.
    Query,
    /// `Relational::explain`.
    Explain,
    /// `Execute`: plans with steps recorded in the store.
    Execute,
    /// Schema changes take part in transactions.
    TransactionalDdl,
    /// Indexes can be built while others write.
    ConcurrentIndex,
    /// `Integrity`: the engine's own corruption check.
    Integrity,
    /// Separate logins for reading and writing.
    Logins,
}

/// The declared capabilities.
pub type Capabilities = BTreeSet<Capability>;

/// Rights of the login that reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Login {
    /// The server's name for it; for a file, the path.
    pub user: String,
    /// Bypasses all permission checks.
    pub superuser: bool,
    /// Owns at least one table or the database.
    pub owner: bool,
    /// Can write at least one table.
    pub can_write: bool,
}

/// What a connection attempt found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// Server version, such as `15.18`.
    pub version: String,
    /// Host, port and database, or the file's path; never a password.
    pub address: String,
    /// What identifies the database across addresses, if the engine has such a thing.
    pub identity: String,
    /// The login that reads.
    pub reader: Login,
    /// The login that writes, if one is configured and can connect.
    pub writer: Option<Login>,
    /// The engine itself refuses writes in our reading sessions, and how.
    pub read_only_by: String,
    /// The connection is encrypted.
    pub encrypted: bool,
    /// Something in between hands our statements to sessions that others share, and how we know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler: Option<String>,
    /// Set when the server is a copy that only reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
    /// Time from connect to first answer, in milliseconds.
    pub connect_ms: f64,
}

/// A server that repeats the changes of another and takes none itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Standby {
    /// Where its changes come from, if our login may see it: `host:port`.
    pub primary: Option<String>,
    /// Bytes that have arrived and are not yet applied.
    pub lag_bytes: Option<u64>,
    /// How long ago the last applied change was committed, in milliseconds; 0 when all that arrived is applied.
    pub lag_ms: Option<f64>,
    /// It is connected to its source now, if our login may see it.
    pub streaming: Option<bool>,
}

/// Bounds of one query; each is enforced while reading, not after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most rows returned.
    pub rows_max: usize,
    /// Most bytes of values returned.
    pub bytes_max: usize,
    /// Longest time the engine may work on it.
    pub statement_timeout: Duration,
}

impl Default for Limits {
    /// 1,000 rows, 1 MiB, 30 s.
    fn default() -> Self {
        Self { rows_max: 1_000, bytes_max: 1 << 20, statement_timeout: Duration::from_secs(30) }
    }
}

/// One statement to read with.
#[derive(Debug, Clone)]
pub struct Query {
    /// Exactly one statement.
    pub sql: String,
    /// Values for its placeholders (`$1` or `?1` by dialect): null, bool, number or string.
    pub parameters: Vec<Value>,
    /// The bounds.
    pub limits: Limits,
}

impl Query {
    /// A query without values under the default bounds.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new(), limits: Limits::default() }
    }
}

/// Which bound cut the rows off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// `rows_max`.
    Rows,
    /// `bytes_max`.
    Bytes,
}

/// Rows as they came. Every row has as many values as there are columns.
///
/// Values are JSON: integers beyond 2^53 and unbounded numerics travel as strings, binary as `\x` and hex, times as
/// ISO 8601 text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rows {
    /// Column names, in order.
    pub columns: Vec<String>,
    /// The server's type name of each column; empty where the engine has none.
    pub types: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
    /// Set when there were more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
    /// Time until the last row, in milliseconds.
    pub elapsed_ms: f64,
}

/// A table read from end to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TableScan {
    /// The table, as the plan names it.
    pub table: String,
    /// Rows that the engine expects to read; `None` where it does not say.
    pub rows_expected: Option<u64>,
}

/// How the engine would run a statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explain {
    /// The engine's own text.
    pub text: String,
    /// Tables that would be read from end to end.
    pub full_scans: Vec<TableScan>,
    /// Indexes that would be used.
    pub indexes_used: Vec<String>,
    /// The engine's cost estimate, in its own unit.
    pub cost: Option<f64>,
}

/// A connected store. Adapters classify errors and keep deadlines; they never retry and never log policy.
#[async_trait]
pub trait Store: Send + Sync {
    /// The kind as in configuration, such as `postgres`.
    fn kind(&self) -> &'static str;

    /// The name in the project file.
    fn name(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Connects with each configured login and says what is there.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`; `Unsupported` for a server that is too old.
    async fn probe(&self, ctx: &Context) -> Result<Probe, Error>;

    /// The SQL family, if this is one of it.
    fn relational(&self) -> Option<&dyn Relational> {
        None
    }

    /// The role that changes the store by plans.
    fn execute(&self) -> Option<&dyn Execute> {
        None
    }

    /// The engine's own corruption check.
    fn integrity(&self) -> Option<&dyn Integrity> {
        None
    }

    /// The role that knows who may do what.
    fn access(&self) -> Option<&dyn Access> {
        None
    }

    /// The role that looks at the running store and changes how it works.
    fn operate(&self) -> Option<&dyn Operate> {
        None
    }

    /// What an expert asks of the engine to tell whether all is well.
    fn health(&self) -> Option<&dyn Health> {
        None
    }

    /// The engine's own count of what its statements cost.
    fn slow_statements(&self) -> Option<&dyn SlowStatements> {
        None
    }

    /// The role that compares tables with those of other stores.
    fn row_sets(&self) -> Option<&dyn crate::RowSets> {
        None
    }

    /// The role that takes its contents out.
    fn dump(&self) -> Option<&dyn crate::Dump> {
        None
    }

    /// The role that puts a backup back.
    fn load(&self) -> Option<&dyn crate::Load> {
        None
    }

    /// The role that follows its log.
    fn follow_log(&self) -> Option<&dyn crate::FollowLog> {
        None
    }

    /// The role that moves rows by rule.
    fn cold_rows(&self) -> Option<&dyn crate::cold::ColdRows> {
        None
    }

    /// Closes all connections; calls in flight end with `Canceled`.
    async fn close(&self);

    /// What an undeclared capability answers.
    fn unsupported(&self, operation: &str, reason: &str, instead: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("`{operation}` is not supported"))
            .with("store", self.name())
            .with("kind", self.kind())
            .with("reason", reason)
            .hint(instead)
    }
}

/// Tables and SQL.
#[async_trait]
pub trait Relational: Send + Sync {
    /// Which SQL it speaks.
    fn dialect(&self) -> Dialect;

    /// The identifier as it can stand in a statement, whatever is in it.
    fn quote_identifier(&self, name: &str) -> String;

    /// The whole schema as the engine's catalog has it, without Steward's own tables.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`, `Canceled`, `Corrupt`.
    async fn inspect(&self, ctx: &Context) -> Result<Schema, Error>;

    /// Runs one statement in a session in which the engine refuses every write.
    ///
    /// # Errors
    ///
    /// `Invalid`: more than one statement, or a statement the engine does not understand. `Denied`: it tried to
    /// write, or the login is a superuser or owner (the hint names `steward store setup`). `TimedOut`.
    async fn query(&self, ctx: &Context, query: &Query) -> Result<Rows, Error>;

    /// How the engine would run the statement; it is not run.
    ///
    /// # Errors
    ///
    /// As `query`.
    async fn explain(&self, ctx: &Context, sql: &str) -> Result<Explain, Error>;
}

/// A broken piece of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IntegrityProblem {
    /// Table, index or page.
    pub object: String,
    /// The engine's words.
    pub problem: String,
}

/// Unique indexes whose keys the engine's own check compared with each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeysCompared {
    /// Every one.
    All,
    /// These, by namespace and name; of the others nobody has looked for duplicates.
    Of(Vec<TableName>),
}

impl Default for KeysCompared {
    fn default() -> Self {
        Self::Of(Vec::new())
    }
}

/// What the engine's own check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IntegrityReport {
    /// The statements that were run.
    pub statement: String,
    /// Tables and indexes that were checked to their end; the whole file counts as one.
    pub checked: u64,
    /// What is broken.
    pub problems: Vec<IntegrityProblem>,
    /// What was not checked to its end, and why: a time limit, a lock.
    pub unchecked: Vec<IntegrityProblem>,
    /// Pages whose checksum did not fit when they were read, as the server counted them for this database; `None` where
    /// pages have no checksums.
    pub checksum_failures: Option<u64>,
    /// Where duplicates were looked for: a sound index can hold a key twice.
    pub keys_compared: KeysCompared,
}

/// Which kind of promise a test of rows is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowPromise {
    /// A CHECK constraint.
    Check,
    /// NOT NULL.
    NotNull,
    /// The declared type, where the engine takes values of others.
    Type,
}

/// A promise of the schema that rows can break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowTest {
    /// Which kind.
    pub promise: RowPromise,
    /// The column or the constraint.
    pub name: String,
    /// What is promised, in the engine's words.
    pub text: String,
    /// An expression of SQL that is true for a row that breaks it, and that the engine does not answer from the promise
    /// itself.
    pub broken: String,
}

/// The engine's own corruption check, and what must be asked of rows because the engine takes its promises for granted.
#[async_trait]
pub trait Integrity: Send + Sync {
    /// Runs it, at most `limit` for each table and index, and gives what it found.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the engine's check is not installed. `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn check_integrity(&self, ctx: &Context, limit: Duration) -> Result<IntegrityReport, Error>;

    /// The promises that rows of this table can break unseen.
    fn row_tests(&self, table: &Table) -> Vec<RowTest> {
        let _ = table;
        Vec::new()
    }

    /// The quoted table as it stands in FROM when no index may answer for it.
    fn unindexed(&self, table: &str) -> String {
        table.to_owned()
    }
}

/// What the store itself says of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun, as far as the store knows.
    Pending,
    /// Begun outside a transaction and not known to have ended.
    Started,
    /// Done.
    Done,
}

/// Changes a store by plans; the state of each step lives in the store, so that a crash at any point can be resumed.
///
/// An adapter keeps the record in a table of its own (`steward_steps`: plan digest, step id, state, times).
#[async_trait]
pub trait Execute: Send + Sync {
    /// The state of each step of the plan, in order, as recorded in the store. Takes no lock, changes nothing;
    /// a store without the record table answers `Pending` for all.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn progress(&self, ctx: &Context, plan: &Plan) -> Result<Vec<StepState>, Error>;

    /// How many records of steps with one of these ids there are, whatever their plan and state; 0 without the record
    /// table. Takes no lock, changes nothing.
    ///
    /// It is part of a plan's pre-state: a change that was taken back and is asked for again is then another plan,
    /// which finds no record of the first one's steps.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn records(&self, ctx: &Context, step_ids: &[&str]) -> Result<u64, Error>;

    /// Takes the store's change lock with the writing login. At most one execution runs per store.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the permit does not cover the plan. `Conflict`: another execution holds the lock. `Denied`: no
    /// login may write.
    async fn begin<'a>(
        &'a self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        secrets: Arc<dyn SecretSource>,
    ) -> Result<Box<dyn Execution + 'a>, Error>;

    /// Batched steps that were begun and have not come to their end, the oldest first. Takes no lock, changes nothing.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn batches_begun(&self, _ctx: &Context) -> Result<Vec<BatchProgress>, Error> {
        Ok(Vec::new())
    }

    /// Sessions that hold or await locks on these tables (names as statements write them), the oldest transaction
    /// first; nobody where the engine cannot say. Tables that do not exist are passed over.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn lock_holders(&self, _ctx: &Context, _tables: &[String]) -> Result<Vec<LockHolder>, Error> {
        Ok(Vec::new())
    }
}

/// A running execution; dropping it releases the lock and rolls an open transaction back.
#[async_trait]
pub trait Execution: Send {
    /// The recorded state of step `index`.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`, `Canceled`.
    async fn state(&mut self, ctx: &Context, plan: &Plan, index: usize) -> Result<StepState, Error>;

    /// Runs step `index` if it is not done, and records it. Returns rows affected, or 0 when it was done already.
    ///
    /// A transaction step leaves all or nothing. An autocommit step that is found `Started` is first asked through
    /// `is_done`, then cleaned up and run again.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the permit does not cover the plan. `Invalid`: the step runs in batches. `TimedOut`: a lock or
    /// statement timeout; nothing of a transaction step remains; a lock that did not come is worth another attempt
    /// (`retry` says `Later`), a statement that took too long is not. Otherwise by the server's code.
    async fn run(&mut self, ctx: &Context, permit: &Permit, plan: &Plan, index: usize) -> Result<u64, Error>;

    /// Runs the next batch of the `Batched` step `index`, at most `rows_max` rows of its key range, in one transaction
    /// with the record of how far the step has come.
    ///
    /// The last row of the range is fixed with the first batch: what is inserted behind it later belongs to whoever
    /// inserts it. A failed batch leaves nothing of itself; the ones before it stay. The permit must be valid when an
    /// execution takes the step up; a step that has been taken up is not cut by its expiry.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the permit does not cover the plan. `Invalid`: the step is of another mode. `Conflict`: another
    /// plan has taken the step over. `TimedOut`: a lock or statement timeout. Otherwise by the server's code.
    async fn run_batch(
        &mut self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        index: usize,
        rows_max: u64,
    ) -> Result<Batch, Error>;

    /// How far each replica of the store is behind; none where there are no replicas.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`, `Canceled`.
    async fn replication(&mut self, _ctx: &Context) -> Result<Vec<ReplicaLag>, Error> {
        Ok(Vec::new())
    }

    /// Releases the lock.
    ///
    /// # Errors
    ///
    /// `Unavailable`: the connection is gone, and with it the lock.
    async fn finish(self: Box<Self>, ctx: &Context) -> Result<(), Error>;
}

/// The project's stores by name; implemented by the door.
#[async_trait]
pub trait StoreDirectory: Send + Sync {
    /// Names and kinds of all stores of the context's project, sorted by name.
    fn list(&self, ctx: &Context) -> Vec<(String, String)>;

    /// The store called `name`; opened once and kept.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such store in this project; the hint lists those there are.
    async fn open(&self, ctx: &Context, name: &str) -> Result<Arc<dyn Store>, Error>;
}
