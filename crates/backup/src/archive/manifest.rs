//! What is written beside the files of an archive: what they hold, and how it ended for the rows in the table.

use std::collections::BTreeMap;

use contract::RecoveryPoint;
use contract::cold::{ColdSelection, ColdTable, Fate};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the manifest's form.
pub(super) const VERSION: u32 = 1;

/// Name of the manifest in an archive's folder. It is the record that makes the files an archive.
pub(super) const MANIFEST: &str = "manifest.json";
/// Name of the record that every row of it was looked at in the table.
pub(super) const ENDING: &str = "ending.json";

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveFile {
    /// Its name in the archive's folder.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// Of its rows, as in `TableDigest`.
    pub digest: String,
    /// Key of its first row.
    pub first_key: Vec<Value>,
    /// Key of its last row.
    pub last_key: Vec<Value>,
    /// Values that are kept in the column `_steward_beside`, by column.
    pub beside: BTreeMap<String, u64>,
}

/// An archive: rows of one table that were old at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArchiveManifest {
    /// The version of this form.
    pub version: u32,
    /// The archive's id.
    pub id: String,
    /// The project.
    pub project: String,
    /// The rule.
    pub rule: String,
    /// The store.
    pub store: String,
    /// Its kind, such as `postgres`.
    pub kind: String,
    /// The table, its columns, its key.
    pub table: ColdTable,
    /// Which rows were meant: boundary, condition, holds.
    pub selection: ColdSelection,
    /// Rows are deleted after this.
    pub delete: bool,
    /// Rows deleted in one transaction.
    pub rows_per_batch: usize,
    /// Digest of the plan.
    pub plan: String,
    /// When it was begun.
    pub at: Timestamp,
    /// The state of the database that the rows are of.
    pub point: RecoveryPoint,
    /// Rows in all files.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Of all rows, as in `TableDigest`.
    pub digest: String,
    /// Values that no type of the files holds as they are, by column: they are in the column `_steward_beside`.
    pub beside: BTreeMap<String, u64>,
    /// Columns whose type has no kind of its own in the files and which are kept as the engine's text.
    pub as_text: Vec<String>,
    /// The files.
    pub files: Vec<ArchiveFile>,
}

impl ArchiveManifest {
    /// Where its files lie.
    pub(super) fn folder(&self) -> String {
        format!("{}/{}/{}", self.project, self.rule, self.id)
    }
}

/// A row that is in an archive and stayed in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stayed {
    /// The file.
    pub file: String,
    /// Its number in the file, from 0.
    pub row: u64,
    /// Its key.
    pub key: Vec<Value>,
    /// Why.
    pub why: Fate,
}

/// How it ended for the rows in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Rows that were deleted by whoever wrote this.
    pub deleted: u64,
    /// Of them, as in `TableDigest`: of the rows as they were deleted.
    pub digest: String,
    /// Rows that were not in the table any more: deleted before an interruption, or by others.
    pub gone: u64,
    /// Rows that stayed, because they are others now, under a hold, or pointed at. The table's row counts, not the archive's.
    pub stayed: Vec<Stayed>,
    /// When.
    pub at: Timestamp,
}
