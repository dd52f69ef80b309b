//! Arguments of the requests about setup, indexes and migrations.

use contract::{Effect, Request, Statement};
use schema::Dialect;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A migration's number, as number or text, or its name.
fn number_or_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrName {
        Number(u64),
        Name(String),
    }
    Ok(Option::<NumberOrName>::deserialize(deserializer)?.map(|given| match given {
        NumberOrName::Number(number) => number.to_string(),
        NumberOrName::Name(name) => name,
    }))
}

fn one_number_or_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    number_or_name(deserializer)?.ok_or_else(|| serde::de::Error::custom("give a number or a name"))
}

/// Arguments of `store.setup`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetupStore {
    /// The store's name in the project file.
    pub store: String,
    /// Namespaces that Steward may read and work in.
    #[serde(default = "default_schemas")]
    pub schemas: Vec<String>,
    /// Role that will read. Default: the `reader` of the project file.
    #[serde(default = "default_reader")]
    pub reader: String,
    /// Role that will change. Default: the `writer` of the project file.
    #[serde(default = "default_writer")]
    pub writer: String,
    /// Role that owns the tables: the writing login joins it, because only owners may alter and index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

fn default_schemas() -> Vec<String> {
    vec!["public".into()]
}

fn default_reader() -> String {
    "steward_reader".into()
}

fn default_writer() -> String {
    "steward_writer".into()
}

impl Request for SetupStore {
    const NAME: &'static str = "store.setup";
    const SUMMARY: &'static str = "Make least-privilege logins for reading and writing";
    const EXAMPLE: &'static str = "steward store setup orders --owner shop_owner";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "store.setup";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Arguments of `index.advise`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdviseIndexes {
    /// The store's name in the project file.
    pub store: String,
    /// Reading statements that should be fast; without any, only indexes that are there are judged.
    #[serde(default)]
    pub queries: Vec<String>,
    /// Tables with fewer rows than this need no index.
    #[serde(default = "default_rows_min")]
    pub rows_min: u64,
}

fn default_rows_min() -> u64 {
    1_000
}

impl Request for AdviseIndexes {
    const NAME: &'static str = "index.advise";
    const SUMMARY: &'static str = "Find indexes that queries miss, and indexes that nobody needs";
    const EXAMPLE: &'static str =
        "steward index advise orders --queries 'SELECT * FROM orders WHERE customer_id = 7'";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "index.advise";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// How long a change waits for what others hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waits {
    /// Longest wait for a lock, in milliseconds; others wait behind us meanwhile.
    #[serde(default = "default_lock_timeout_ms")]
    pub lock_timeout_ms: u64,
    /// How often a step tries to get its locks, with growing pauses in between in which others go first.
    #[serde(default = "default_lock_attempts")]
    pub lock_attempts: u64,
    /// Longest time one statement may take, in milliseconds.
    #[serde(default = "default_statement_timeout_ms")]
    pub statement_timeout_ms: u64,
}

fn default_lock_timeout_ms() -> u64 {
    5_000
}

fn default_lock_attempts() -> u64 {
    5
}

fn default_statement_timeout_ms() -> u64 {
    900_000
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            lock_timeout_ms: default_lock_timeout_ms(),
            lock_attempts: default_lock_attempts(),
            statement_timeout_ms: default_statement_timeout_ms(),
        }
    }
}

impl Waits {
    /// What a step sets before its own statements. A concurrent build waits for the transactions that are under way, and
    /// nobody waits behind it, so it may wait for as long as a statement may take.
    pub(crate) fn settings(&self, dialect: Dialect, concurrent: bool) -> Vec<Statement> {
        let Self { lock_timeout_ms, statement_timeout_ms, .. } = self;
        match (dialect, concurrent) {
            (Dialect::Sqlite, _) => Vec::new(),
            (Dialect::Postgres, true) => {
                vec![Statement::new(format!("SET lock_timeout = {statement_timeout_ms}"))]
            }
            (Dialect::Postgres, false) => vec![
                Statement::new(format!("SET LOCAL lock_timeout = {lock_timeout_ms}")),
                Statement::new(format!("SET LOCAL statement_timeout = {statement_timeout_ms}")),
            ],
        }
    }
}

/// Arguments of `index.create`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateIndex {
    /// The store's name in the project file.
    pub store: String,
    /// The table, such as `orders` or `sales.orders`.
    pub table: String,
    /// Its columns in the index's order, each optionally followed by `DESC`.
    pub columns: Vec<String>,
    /// The index's name; made from table and columns without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it refuses duplicates.
    #[serde(default)]
    pub unique: bool,
    /// The query that it is for, measured before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// How long it waits.
    #[serde(flatten)]
    pub waits: Waits,
}

impl Request for CreateIndex {
    const NAME: &'static str = "index.create";
    const SUMMARY: &'static str = "Build an index without blocking writers, and measure what it brings";
    const EXAMPLE: &'static str =
        "steward index create orders orders --columns customer_id --query 'SELECT …'";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "index.create";
    const POSITIONAL: &'static [&'static str] = &["store", "table"];
}

/// Arguments of `index.drop`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropIndex {
    /// The store's name in the project file.
    pub store: String,
    /// The index's name, such as `orders_customer_id_idx` or `sales.orders_customer_id_idx`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// The table whose index on exactly `columns` is meant, when `index` is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The columns of that index, in its order.
    #[serde(default)]
    pub columns: Vec<String>,
    /// How long it waits.
    #[serde(flatten)]
    pub waits: Waits,
}

impl Request for DropIndex {
    const NAME: &'static str = "index.drop";
    const SUMMARY: &'static str = "Drop an index; its definition is kept for the way back";
    const EXAMPLE: &'static str = "steward index drop orders orders_customer_id_idx";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "index.drop";
    const POSITIONAL: &'static [&'static str] = &["store", "index"];
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Arguments of `migration.new`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMigration {
    /// The store's name in the project file.
    pub store: String,
    /// What it does, in words, such as `add status to orders`.
    pub name: String,
}

impl Request for NewMigration {
    const NAME: &'static str = "migration.new";
    const SUMMARY: &'static str = "Make the next migration file";
    const EXAMPLE: &'static str = "steward migration new orders 'add status'";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "file.write";
    const POSITIONAL: &'static [&'static str] = &["store", "name"];
}

/// Arguments of `migration.status`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrationStatus {
    /// The store's name in the project file.
    pub store: String,
}

impl Request for MigrationStatus {
    const NAME: &'static str = "migration.status";
    const SUMMARY: &'static str = "Show which migrations a store has and which are pending";
    const EXAMPLE: &'static str = "steward migration status orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Arguments of `migration.plan`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanMigrations {
    /// The store's name in the project file.
    pub store: String,
    /// Number or name of the last migration to plan; all pending ones without it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "number_or_name")]
    pub to: Option<String>,
    /// Show the safe form: what would hold a lock for long is done another way that ends in the same schema.
    #[serde(default, skip_serializing_if = "is_false")]
    pub safe: bool,
}

/// Arguments of `migration.rewrite`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewriteMigration {
    /// The store's name in the project file.
    pub store: String,
    /// Number or name of the pending migration.
    #[serde(deserialize_with = "one_number_or_name")]
    pub migration: String,
}

impl Request for RewriteMigration {
    const NAME: &'static str = "migration.rewrite";
    const SUMMARY: &'static str = "Replace a pending migration's file by its safe form";
    const EXAMPLE: &'static str = "steward migration rewrite orders 4";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "file.write";
    const POSITIONAL: &'static [&'static str] = &["store", "migration"];
}

impl Request for PlanMigrations {
    const NAME: &'static str = "migration.plan";
    const SUMMARY: &'static str = "Show what the pending migrations would run, lock, lose and break";
    const EXAMPLE: &'static str = "steward migration plan orders --safe";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Arguments of `migration.apply`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyMigrations {
    /// The store's name in the project file.
    pub store: String,
    /// Number or name of the last migration to apply; all pending ones without it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "number_or_name")]
    pub to: Option<String>,
    /// Apply the safe form, as `migration plan --safe` shows it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub safe: bool,
    /// How long it waits.
    #[serde(flatten)]
    pub waits: Waits,
}

impl Request for ApplyMigrations {
    const NAME: &'static str = "migration.apply";
    const SUMMARY: &'static str = "Apply the pending migrations";
    const EXAMPLE: &'static str = "steward migration apply orders --to 4";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "schema.migrate";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Arguments of `migration.rollback`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackMigrations {
    /// The store's name in the project file.
    pub store: String,
    /// How many migrations to take back, newest first; 1 without it and without `to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Number or name of the last migration to keep; 0 takes all back.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "number_or_name")]
    pub to: Option<String>,
    /// How long it waits.
    #[serde(flatten)]
    pub waits: Waits,
}

impl Request for RollbackMigrations {
    const NAME: &'static str = "migration.rollback";
    const SUMMARY: &'static str = "Take applied migrations back through their down sections";
    const EXAMPLE: &'static str = "steward migration rollback orders --steps 1";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "schema.migrate";
    const POSITIONAL: &'static [&'static str] = &["store"];
}
