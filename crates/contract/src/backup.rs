//! Backups: taking the contents of a store out in one consistent state, keeping them, and putting them back.
//!
//! A backup is a list of *parts*: byte strings of known length under a path, such as `tables/public.orders/00003.copy`.
//! A store's [`Dump`] makes them, a [`Repository`] keeps them encrypted, a store's [`Load`] reads them back. The last entry
//! of a backup is its manifest; without it there is no backup.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Context, Error, ErrorKind, IntegrityReport, LogStart, Logs, Recovery};

/// Most bytes of a part that is held in memory; what is larger is a file.
pub const PART_BYTES_MAX: usize = 64 << 20;

/// How a backup is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupMethod {
    /// Rows and definitions: readable by other versions, restored table by table.
    Logical,
    /// The engine's own files or pages: the fastest to restore.
    Physical,
}

/// How the bytes of a backup change from one to the next; it decides where they are cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Text or rows, in which what follows a change moves: cut by content.
    Stream,
    /// Pages that are overwritten in place: cut at fixed places.
    Pages,
}

/// Where in the history of its source a backup stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecoveryPoint {
    /// The state is that of this moment, by Steward's clock.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// The same moment by the server's clock, where it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub server_at: Option<Timestamp>,
    /// The engine's own position, such as an LSN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// Which history the position is in, where a server can begin a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
}

/// The rows of a table, as a number that does not depend on their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TableDigest {
    /// Quoted where the engine would, with its namespace.
    pub table: String,
    /// How many.
    pub rows: u64,
    /// Bytes of the rows as they were dumped.
    pub bytes: u64,
    /// Sum modulo 2^128 of the first 16 bytes of each row's SHA-256, as 32 hex digits.
    pub digest: String,
}

/// Counts rows into a [`TableDigest`], in any order and in pieces that are put together afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSum {
    rows: u64,
    bytes: u64,
    sum: u128,
}

impl RowSum {
    /// Counts one row: the bytes of all pieces, one after the other.
    pub fn add<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) {
        let mut hash = Sha256::new();
        for piece in pieces {
            hash.update(piece);
            self.bytes += piece.len() as u64;
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize()[..16]);
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(first));
        self.rows += 1;
    }

    /// Counts the rows of another piece too.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// What was counted, as the digest of this table.
    pub fn of_table(self, table: impl Into<String>) -> TableDigest {
        TableDigest {
            table: table.into(),
            rows: self.rows,
            bytes: self.bytes,
            digest: format!("{:032x}", self.sum),
        }
    }
}

/// A program that took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Such as `pg_dump`.
    pub name: String,
    /// Such as `17.6`.
    pub version: String,
    /// The command without credentials.
    pub command: String,
}

/// What a dump says of itself when it came to its end; it is part of the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dumped {
    /// The store's kind, such as `postgres`.
    pub kind: String,
    /// Version of the server or library, such as `17.6`.
    pub version: String,
    /// What identifies the source across addresses; the same after a restart, another after a failover to a clone.
    pub identity: String,
    /// Where it was, without credentials.
    pub address: String,
    /// How it was taken.
    pub method: BackupMethod,
    /// How its parts are cut.
    pub layout: Layout,
    /// The state that it holds.
    pub point: RecoveryPoint,
    /// Each table with its rows; empty where the method does not see rows.
    pub tables: Vec<TableDigest>,
    /// SHA-256 of the schema, normalised by the adapter.
    pub schema_sha256: String,
    /// What a target must have: extensions, collations, roles, each in words that the engine understands.
    pub needs: Vec<String>,
    /// What was not taken, each with its reason; empty when everything was.
    pub left_out: Vec<String>,
    /// Programs that took part.
    pub tools: Vec<Tool>,
    /// What only the adapter understands, such as which part holds what.
    #[serde(default)]
    pub detail: serde_json::Value,
}

/// What stands in the way of a dump or a restore, found before anything is begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Preflight {
    /// Makes it impossible: what, and what to do.
    pub refusals: Vec<String>,
    /// Makes it less than it could be: what is wrong, and what to do now.
    pub warnings: Vec<String>,
    /// Good to know and true of every run: what such a backup never holds or covers here. Nobody has to act.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Bytes that will be read, as far as the engine says.
    pub bytes_expected: Option<u64>,
    /// Bytes of disk that are needed in the scratch folder meanwhile.
    pub scratch_bytes: u64,
    /// Programs that will be used.
    pub tools: Vec<Tool>,
}

/// How a dump is to be made.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// Which way; one of those that the store offers.
    pub method: BackupMethod,
    /// A folder of this run alone, for copies that cannot be avoided; the caller removes it.
    pub scratch: PathBuf,
    /// Most connections or processes that read at once.
    pub parallel: usize,
}

/// The bytes of a part.
#[derive(Debug)]
pub enum PartBody {
    /// At most [`PART_BYTES_MAX`], complete.
    Bytes(Bytes),
    /// A file that nobody changes any more, of exactly this many bytes.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

/// One part on its way into a repository.
#[derive(Debug)]
pub struct Part {
    /// Components of `[0-9A-Za-z._-]`, joined by `/`. Parts come in the order of their paths, compared component by component.
    pub path: String,
    /// What is in it.
    pub body: PartBody,
}

/// A part as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartRecord {
    /// As in [`Part`].
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// Where a dump puts its parts.
#[async_trait]
pub trait PartSink: Send + Sync {
    /// Takes the next part; waits while too many are on their way.
    ///
    /// # Errors
    ///
    /// `Invalid`: a path that is out of order, twice or not allowed. `Unavailable`, `LimitExceeded`: the repository cannot keep
    /// it; nothing after it is taken either.
    async fn put(&self, part: Part) -> Result<(), Error>;
}

/// Takes the contents of a store out.
#[async_trait]
pub trait Dump: Send + Sync {
    /// The ways that this store offers, the best first.
    fn methods(&self) -> Vec<BackupMethod>;

    /// Looks for what stands in the way; changes nothing.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`: the store cannot be asked at all.
    async fn preflight(&self, ctx: &Context, options: &DumpOptions) -> Result<Preflight, Error>;

    /// Gives everything in one consistent state. Digests are counted from the very bytes that are given.
    ///
    /// # Errors
    ///
    /// `Unavailable`: the source went away or became another; `Denied`, `TimedOut`, `Canceled`, `Conflict`: a lock that
    /// does not come names its holder. After an error no manifest is written.
    async fn dump(&self, ctx: &Context, options: &DumpOptions, sink: &dyn PartSink) -> Result<Dumped, Error>;
}

/// Reads the parts of one backup; what does not have the length and SHA-256 of the manifest is an error.
#[async_trait]
pub trait PartSource: Send + Sync {
    /// All parts, in their order.
    fn parts(&self) -> &[PartRecord];

    /// A part of at most [`PART_BYTES_MAX`].
    ///
    /// # Errors
    ///
    /// `NotFound`: no such part. `Corrupt`: other bytes than were written. `Unavailable`.
    async fn read(&self, path: &str) -> Result<Bytes, Error>;

    /// A part into a new file with mode 0600, synced; nothing is left of it after an error.
    ///
    /// # Errors
    ///
    /// As `read`; `Conflict`: the file is there; `LimitExceeded`: the disk is full.
    async fn read_into(&self, path: &str, file: &Path) -> Result<(), Error>;
}

/// What of a backup is put back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Everything.
    #[default]
    Whole,
    /// One namespace with what is in it.
    Schema(String),
    /// Tables with their rows, indexes and constraints, by the names in [`TableDigest`].
    Tables(Vec<String>),
}

/// Where a backup is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadTarget {
    /// A server or file of its own below this folder, which ends with the handle.
    Scratch {
        /// Empty, of this restore alone.
        folder: PathBuf,
    },
    /// A new database of this name beside the store's own, or a new file at this path.
    Beside {
        /// Must not exist.
        name: String,
    },
}

/// What became of a swap that was cut off; the texts say it for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapLeft {
    /// This kind of store keeps no trace of it.
    Unknown,
    /// It had not begun, or was undone: the store's own database is in its place and open.
    AsBefore(String),
    /// It had come to its end: the copy is in its place, with what undoes it.
    InPlace(String),
}

/// Puts a backup back, and tells whether what is there is what was backed up.
#[async_trait]
pub trait Load: Send + Sync {
    /// What stands in the way of loading this backup there; changes nothing.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`.
    async fn preflight(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        target: &LoadTarget,
    ) -> Result<Preflight, Error>;

    /// Loads it. After an error nothing is left of the target.
    ///
    /// # Errors
    ///
    /// `Conflict`: the target exists. `Unsupported`: no program or extension that it needs. `Corrupt`, `LimitExceeded`, `Unavailable`,
    /// `Denied`, `TimedOut`, `Canceled`.
    async fn load(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error>;

    /// From where on a log can be applied to this backup; `None` where it cannot be brought forward.
    fn log_start(&self, dumped: &Dumped) -> Option<LogStart> {
        let _ = dumped;
        None
    }

    /// Loads it whole into scratch and brings it forward. After an error nothing is left of the target.
    ///
    /// # Errors
    ///
    /// As `load`; `NotFound`: the log that was given does not come to the target.
    async fn recover(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        recovery: &Recovery,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error> {
        let _ = (ctx, parts, recovery, target);
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("a backup of a store of kind `{}` cannot be brought forward", dumped.kind),
        ))
    }

    /// Puts a verified copy that lies beside into the place of the store's own database, which is kept under another name or
    /// in the copy's place; gives what undoes it, in words. Others have the store's lock time to end; those that are still
    /// connected then are ended with `end_sessions`, which only asks of stores that can.
    ///
    /// # Errors
    ///
    /// `Conflict`: others are connected and do not end. `Denied`, `Unavailable`. The store's own database is then as before.
    async fn swap(&self, ctx: &Context, restored: &dyn Restored, end_sessions: bool)
    -> Result<String, Error>;

    /// Puts in order what a swap that was cut off has left: afterwards the store has one database under its name, open for
    /// others, and of a copy that did not take its place nothing is left. `copy` is the name that the copy had beside the
    /// store's own, `since` a moment before it was made. To ask twice, or where nothing was begun, changes nothing.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`: it is not known how far it came; ask again.
    async fn settle_swap(&self, ctx: &Context, copy: &str, since: Timestamp) -> Result<SwapLeft, Error> {
        let _ = (ctx, copy, since);
        Ok(SwapLeft::Unknown)
    }

    /// Whether a swap can end the sessions of others.
    fn can_end_sessions(&self) -> bool {
        false
    }
}

/// A backup that was loaded.
#[async_trait]
pub trait Restored: Send + Sync {
    /// How to reach it, without a password: a URL or a path.
    fn address(&self) -> String;

    /// The rows of each table as they are now, in the order and under the names of `dumped.tables`.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`, `Canceled`.
    async fn fingerprint(&self, ctx: &Context, dumped: &Dumped) -> Result<Vec<TableDigest>, Error>;

    /// What its schema has and the dumped one has not, and the other way round, one line each; `selection` as it was loaded.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`, `Canceled`, `Corrupt`.
    async fn schema_differences(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
    ) -> Result<Vec<String>, Error>;

    /// The engine's own check of tables and indexes.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`, `Canceled`.
    async fn check(&self, ctx: &Context) -> Result<IntegrityReport, Error>;

    /// Runs a question of the user's, in a session that cannot write; true when it gives one row whose first value is true.
    ///
    /// # Errors
    ///
    /// `Invalid`: not one statement, or not one row. `Unavailable`, `TimedOut`.
    async fn probe(&self, ctx: &Context, sql: &str) -> Result<bool, Error>;

    /// Where in the history of its source it stands, for one that was brought forward.
    fn reached(&self) -> Option<RecoveryPoint> {
        None
    }

    /// What was done to prove it, where its manifest lists no rows to compare; one line each.
    fn proven_by(&self) -> Vec<String> {
        Vec::new()
    }

    /// How it takes the place of its source, for one that cannot be swapped in: commands, one line each.
    fn take_over(&self) -> Vec<String> {
        Vec::new()
    }

    /// Leaves it there when the handle is dropped; a scratch server goes on running until it is stopped by hand. Gives the
    /// command that does so.
    fn keep(&mut self) -> String;

    /// Takes it away.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`.
    async fn remove(self: Box<Self>) -> Result<(), Error>;
}

/// What a repository writes beside a backup so that other programs can tell which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Steward's id of the backup.
    pub id: String,
    /// The project's name.
    pub project: String,
    /// The store's name.
    pub store: String,
    /// The plan's name.
    pub plan: String,
    /// When it was begun.
    pub at: Timestamp,
    /// How it is cut.
    pub layout: Layout,
}

/// What makes the manifest of a backup from its parts, once all of them were read to their ends. A name of its own: in the
/// arguments of a method of such a trait the reference would get the lifetime of the call.
pub type MakeManifest = Box<dyn FnOnce(&[PartRecord]) -> Bytes + Send>;

/// A backup that is being written; dropped without `commit` it never was.
#[async_trait]
pub trait BackupWriter: PartSink {
    /// Waits until every part is durable, asks `manifest` for the last entry and writes the record that makes the backup
    /// exist.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `LimitExceeded`, `Conflict`: the repository was locked by another; the backup does not exist then.
    async fn commit(self: Box<Self>, manifest: MakeManifest) -> Result<Committed, Error>;

    /// Gives up; what was written is taken away by the next cleaning.
    async fn abandon(self: Box<Self>);
}

/// What a finished backup is in its repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Committed {
    /// The repository's id, such as restic's snapshot id.
    pub snapshot: String,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Bytes that were not there before, as they are kept: compressed and encrypted.
    pub bytes_added: u64,
}

/// A backup as a repository lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// The repository's id.
    pub snapshot: String,
    /// Steward's id, if Steward wrote it.
    pub id: Option<String>,
    /// The project's name, if Steward wrote it.
    pub project: Option<String>,
    /// The store's name, if Steward wrote it.
    pub store: Option<String>,
    /// The plan's name, if Steward wrote it.
    pub plan: Option<String>,
    /// When it was begun.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// How it is cut.
    pub layout: Layout,
}

/// Everything that a repository holds, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listing {
    /// The backups, the oldest first.
    pub kept: Vec<Kept>,
    /// What could not be read: file and reason. The others are listed all the same.
    pub unreadable: Vec<String>,
}

/// How far a repository is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckDepth {
    /// Records and the presence and length of every file.
    Structure,
    /// And the bytes of the `nth` of `of` shares of the data, counted from 1; all shares in turn are all of it.
    Share {
        /// Which.
        nth: u32,
        /// Of how many.
        of: u32,
    },
    /// And all bytes.
    Everything,
}

/// What a check of a repository found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryCheck {
    /// Damage, each with the file; empty when it is sound.
    pub problems: Vec<String>,
    /// What is odd and harms nothing, such as files of a backup that was cut short.
    pub remarks: Vec<String>,
    /// Bytes that were read back.
    pub bytes_read: u64,
    /// Backups that cannot be restored whole, by the repository's id.
    pub damaged: Vec<String>,
}

/// A key that opens a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryKey {
    /// The repository's id of it.
    pub id: String,
    /// What it is for: `passphrase`, `recovery`, or who made it.
    pub label: String,
    /// When it was made, if it says.
    #[schemars(with = "Option<String>")]
    pub created: Option<Timestamp>,
}

/// What pruning would do or has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    /// Bytes that no backup needs and that are marked now.
    pub bytes_marked: u64,
    /// Bytes that were marked long enough ago and are deleted.
    pub bytes_deleted: u64,
    /// Bytes that are written anew, because parts of their files are still needed.
    pub bytes_rewritten: u64,
    /// Bytes that stay.
    pub bytes_kept: u64,
}

/// On what kind of storage something lies.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Medium {
    /// Files of a file system.
    #[default]
    Disk,
    /// Objects of a bucket.
    ObjectStorage,
}

/// Where something lies, as far as it decides what is lost together.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Whereabouts {
    /// On what kind of storage.
    pub medium: Medium,
    /// On which host; `None` is this machine.
    pub host: Option<String>,
}

impl Whereabouts {
    /// A host by its name; this machine's own addresses are this machine.
    pub fn on(medium: Medium, host: &str) -> Self {
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let here = loopback || matches!(host.as_str(), "" | "localhost") || host.ends_with(".localhost");
        Self { medium, host: (!here).then_some(host) }
    }
}

/// A place where backups lie, encrypted.
#[async_trait]
pub trait Repository: Send + Sync {
    /// The name in the project file.
    fn name(&self) -> &str;

    /// Where it is, without credentials.
    fn address(&self) -> String;

    /// Where it lies.
    fn whereabouts(&self) -> Whereabouts {
        Whereabouts::default()
    }

    /// Why what is written can be changed or deleted by whoever has our credentials; `None` where the storage itself forbids it.
    async fn changeable(&self, ctx: &Context) -> Option<String>;

    /// Makes it, if it is not there: a repository that exists with this key is left as it is.
    ///
    /// # Errors
    ///
    /// `Conflict`: there is one with another key. `Unavailable`, `Denied`.
    async fn create(&self, ctx: &Context) -> Result<(), Error>;

    /// The role that keeps logs behind the backups.
    fn logs(&self) -> Option<&dyn Logs> {
        None
    }

    /// Begins a backup.
    ///
    /// # Errors
    ///
    /// `NotFound`: no repository is there. `Conflict`: it is locked, by whom. `Denied`: the key does not fit. `Unavailable`.
    async fn begin(&self, ctx: &Context, label: &BackupLabel) -> Result<Box<dyn BackupWriter>, Error>;

    /// What is there.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Denied`, `Unavailable`; not for single records that cannot be read.
    async fn list(&self, ctx: &Context) -> Result<Listing, Error>;

    /// The manifest of a backup.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such backup, or one without a manifest. `Corrupt`, `Unavailable`.
    async fn manifest(&self, ctx: &Context, kept: &Kept) -> Result<Bytes, Error>;

    /// Opens a backup whose manifest lists these parts.
    ///
    /// # Errors
    ///
    /// As `manifest`.
    async fn open(
        &self,
        ctx: &Context,
        kept: &Kept,
        parts: Vec<PartRecord>,
    ) -> Result<Box<dyn PartSource>, Error>;

    /// Looks for damage; damage found is an answer, not an error.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `Canceled`.
    async fn check(&self, ctx: &Context, depth: CheckDepth) -> Result<RepositoryCheck, Error>;

    /// Takes backups off the list; their bytes stay until they are pruned.
    ///
    /// # Errors
    ///
    /// `Denied`: our credentials may not. `Conflict`: it is locked. `Unavailable`.
    async fn forget(&self, ctx: &Context, kept: &[Kept]) -> Result<(), Error>;

    /// What `prune` would do now.
    ///
    /// # Errors
    ///
    /// `Corrupt`: something that is needed is missing; nothing may be deleted then. `Unavailable`.
    async fn prune_plan(&self, ctx: &Context) -> Result<Pruned, Error>;

    /// Marks what no backup needs, and deletes what was marked 48 hours ago or longer.
    ///
    /// # Errors
    ///
    /// As `prune_plan`; `Conflict`: backups are being written. `Denied`.
    async fn prune(&self, ctx: &Context) -> Result<Pruned, Error>;

    /// Takes away what interrupted runs have left: unfinished files older than a day, our own dead locks. Files of length 0
    /// are put aside, not deleted. What is kept twice is made whole from the one that is sound. Gives what was done, one line
    /// each.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`.
    async fn clean(&self, ctx: &Context) -> Result<Vec<String>, Error>;

    /// The keys that open it beside the master key.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`.
    async fn keys(&self, ctx: &Context) -> Result<Vec<RepositoryKey>, Error>;

    /// Adds a key that opens it, also with restic; `label` says what it is for.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `Invalid`: too weak.
    async fn add_key(
        &self,
        ctx: &Context,
        label: &str,
        passphrase: &SecretString,
    ) -> Result<RepositoryKey, Error>;

    /// Whether this passphrase opens it, and which key it is.
    ///
    /// # Errors
    ///
    /// `Unavailable`.
    async fn opens_with(
        &self,
        ctx: &Context,
        passphrase: &SecretString,
    ) -> Result<Option<RepositoryKey>, Error>;

    /// Takes a key away.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Denied`, `Unavailable`. `Conflict`: another program has the repository for itself.
    async fn remove_key(&self, ctx: &Context, id: &str) -> Result<(), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[&[&str]]) -> RowSum {
        let mut sum = RowSum::default();
        for row in rows {
            sum.add(row.iter().map(|piece| piece.as_bytes()));
        }
        sum
    }

    #[test]
    fn a_sum_depends_on_the_rows_alone() {
        let all = sum(&[&["a\n"], &["b\n"], &["b\n"]]);
        assert_eq!(sum(&[&["b\n"], &["a", "\n"], &["b", "", "\n"]]), all, "order and pieces do not matter");
        let mut merged = sum(&[&["b\n"]]);
        merged.merge(sum(&[&["b\n"], &["a\n"]]));
        assert_eq!(merged, all);
        for other in
            [sum(&[&["a\n"], &["a\n"], &["b\n"]]), sum(&[&["a\n"], &["b\n"]]), sum(&[&["a\nb\n"], &["b\n"]])]
        {
            assert_ne!(other.of_table("t").digest, all.of_table("t").digest);
        }
        // Of one row, so that another program can count it too: printf 'a\n' | sha256sum | cut -c-32
        let one = sum(&[&["a\n"]]).of_table("t");
        assert_eq!((one.rows, one.bytes), (1, 2));
        assert_eq!(one.digest, "87428fc522803d31065e7bce3cf03fe4");
    }
}
