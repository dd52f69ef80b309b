//! Rows that are moved out of a table or deleted by a rule: counted, read in one state, deleted as they were read, put back.

use std::path::Path;

use async_trait::async_trait;
use jiff::Timestamp;
use schema::TableName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::columnar::{Column, Row};
use crate::{Context, Error, Permit, Plan, RecoveryPoint, ReplicaLag};

/// What numbers of a column count, where times are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds since 1970-01-01 UTC.
    #[default]
    Seconds,
    /// Milliseconds since then.
    Milliseconds,
}

/// Older than a moment, by a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OlderThan {
    /// The column that says when.
    pub column: String,
    /// Rows before this moment are meant; it is a whole second.
    pub before: Timestamp,
    /// The same moment on the clock of the rule's zone, `2024-11-23 00:00:00`: for columns without a zone.
    pub before_local: String,
    /// What numbers count.
    pub unit: TimeUnit,
}

/// Which rows of a table are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColdSelection {
    /// The table.
    pub table: TableName,
    /// Those before a moment.
    pub older: Option<OlderThan>,
    /// And for which this expression of SQL is true: one expression, checked by the caller.
    pub filter: Option<String>,
    /// And for which none of these is true.
    pub holds: Vec<String>,
}

/// A foreign key of another table that points here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Referrer {
    /// The other table, quoted.
    pub table: String,
    /// The foreign key's name, or its columns.
    pub name: String,
    /// Columns of the other table.
    pub columns: Vec<String>,
    /// Columns of ours, in the same order.
    pub parent_columns: Vec<String>,
}

/// A table as its rows are moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ColdTable {
    /// Its name, quoted where the engine would.
    pub name: String,
    /// Its columns; generated ones are left out, the engine makes them again.
    pub columns: Vec<Column>,
    /// Columns of the primary key, or of a unique key whose columns are NOT NULL.
    pub key: Vec<String>,
    /// What points at its rows.
    pub referrers: Vec<Referrer>,
    /// What identifies the database across addresses.
    pub identity: String,
    /// Statement that makes a table with these columns and this key, with `{{table}}` for its quoted name.
    pub create: String,
}

impl ColdTable {
    /// Places of the key's columns.
    pub fn key_places(&self) -> Vec<usize> {
        let place = |key: &String| self.columns.iter().position(|column| column.name == *key);
        self.key.iter().filter_map(place).collect()
    }
}

/// How many rows a selection has now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ColdCount {
    /// Rows that are meant.
    pub rows: u64,
    /// Rows that would be meant, were they not under a hold.
    pub held: u64,
    /// Rows of other tables that point at rows that are meant, by the name of the foreign key.
    pub referred: Vec<(String, u64)>,
}

/// Part of the rows of a selection, by the order of the key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColdPage {
    /// Behind this row.
    pub after: Option<Row>,
    /// At most so many; all when `None`.
    pub rows_max: Option<u64>,
}

/// What became of a row that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is deleted, and was as it was read.
    Deleted,
    /// It was not there any more.
    Gone,
    /// It is another than was read, and stays.
    Changed,
    /// It is under a hold by now, and stays.
    Held,
    /// Rows of other tables point at it by now, and it stays.
    Referred,
}

/// What became of a row that was to be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Return {
    /// It is there again.
    Inserted,
    /// It was there, exactly so.
    Present,
    /// Another row has its key, or another of its unique values, and stays as it is.
    Conflict,
}

/// Moves rows by rule. Identifiers are quoted and values bound by the adapter.
#[async_trait]
pub trait ColdRows: Send + Sync {
    /// The table as it is now.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such table. `Invalid`: it is a view, or has no key by which a row can be told from another.
    async fn cold_table(&self, ctx: &Context, table: &TableName) -> Result<ColdTable, Error>;

    /// Counts.
    ///
    /// # Errors
    ///
    /// `Invalid`: an expression that the engine does not take. `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
    async fn cold_count(
        &self,
        ctx: &Context,
        table: &ColdTable,
        selection: &ColdSelection,
    ) -> Result<ColdCount, Error>;

    /// Gives the rows in the order of the key, all in one state of the database, in pieces; waits while nobody takes them.
    ///
    /// # Errors
    ///
    /// As `cold_count`.
    async fn cold_read(
        &self,
        ctx: &Context,
        table: &ColdTable,
        selection: &ColdSelection,
        page: &ColdPage,
        rows: mpsc::Sender<Vec<Row>>,
    ) -> Result<RecoveryPoint, Error>;

    /// Deletes those of these rows that are still exactly as they are given, that are under no hold and that nothing points
    /// at; all in one transaction. Gives the fate of each.
    ///
    /// # Errors
    ///
    /// `Forbidden`: the permit does not cover the plan. `Conflict`: a trigger kept a row. Nothing is deleted then. As `cold_count`.
    async fn cold_delete(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        selection: &ColdSelection,
        rows: &[Row],
    ) -> Result<Vec<Fate>, Error>;

    /// Makes the table `target` with the columns and the key of `table`.
    ///
    /// # Errors
    ///
    /// `Conflict`: it is there. `Forbidden`: as `cold_delete`.
    async fn cold_create(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        target: &TableName,
    ) -> Result<(), Error>;

    /// Puts rows into `target`, all in one transaction; what is there is never changed. Each is read back and compared
    /// before the transaction ends.
    ///
    /// # Errors
    ///
    /// `Forbidden`: as `cold_delete`. `Corrupt`: the engine gave another row back than it was given; nothing was put in.
    async fn cold_insert(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        target: &TableName,
        rows: &[Row],
    ) -> Result<Vec<Return>, Error>;

    /// How far replicas are behind; empty without any.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`.
    async fn cold_lag(&self, ctx: &Context) -> Result<Vec<ReplicaLag>, Error> {
        let _ = ctx;
        Ok(Vec::new())
    }
}

/// Where archives lie: files by names such as `shop/old_orders/20260304T050607Z-1f2e3d/rows-00001.parquet`. Names that begin with
/// `.locks/` are taken away by whoever wrote them; all others are meant to stay.
#[async_trait]
pub trait ArchivePlace: Send + Sync {
    /// Where it is, without credentials; a name behind it is where a file lies.
    fn address(&self) -> String;

    /// Keeps a copy of the file, durably and as a whole or not at all. One that is there with the same bytes may count as kept.
    ///
    /// # Errors
    ///
    /// `Conflict`: there is another of this name. `LimitExceeded`: it is full. `Denied`, `Unavailable`.
    async fn put(&self, ctx: &Context, name: &str, file: &Path) -> Result<(), Error>;

    /// Copies it into a new file with mode 0600.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Conflict`: the new file is there. `LimitExceeded`, `Denied`, `Unavailable`.
    async fn get(&self, ctx: &Context, name: &str, file: &Path) -> Result<(), Error>;

    /// Names that begin with this, sorted; it ends with `/`. What was written a moment ago may be missing: whether a file is there
    /// is known by `get` alone.
    ///
    /// # Errors
    ///
    /// `Denied`, `Unavailable`.
    async fn list(&self, ctx: &Context, prefix: &str) -> Result<Vec<String>, Error>;

    /// Takes it away; it need not be there.
    ///
    /// # Errors
    ///
    /// `Denied`: the place keeps it. `Unavailable`.
    async fn remove(&self, ctx: &Context, name: &str) -> Result<(), Error>;

    /// Takes away what was never finished below the prefix, and what was removed there and could not be given free until now. Only
    /// for whoever is alone at work there.
    ///
    /// # Errors
    ///
    /// `Denied`, `Unavailable`.
    async fn clean(&self, ctx: &Context, prefix: &str) -> Result<(), Error>;
}
