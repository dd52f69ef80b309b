//! The SQLite backend: the only module that knows of it. Everything above speaks the common dialect through
//! [`Connection`]; a second backend brings a `Connection` of its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use contract::{Error, ErrorKind, Retry};
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, OpenFlags, ffi};

use crate::{Row, Value};

/// How long a statement waits for another process before it fails with `Conflict`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory for pages of the file that the writer holds. It adds to the ends of tables, so more than SQLite's usual 2 MiB only lies
/// there; what a larger transaction changes goes to the log early.
const CACHE_KIB: i64 = 1024;
/// Prepared statements kept per connection.
const STATEMENTS_CACHED_MAX: usize = 128;
/// Most rows that one query may return; larger readings stream.
const QUERY_ROWS_MAX: usize = 100_000;
/// Pages in the log before they are moved into the file: 16 MiB. Moving takes about 10 ms, so it happens once in some
/// 500 events; SQLite's default of 1000 pages showed in the 99th percentile.
const LOG_PAGES_MAX: i32 = 4000;
/// Largest log that is left behind.
const LOG_BYTES_KEPT_MAX: u64 = 16 * 1024 * 1024;
/// "Stwd", in the header of the file.
const APPLICATION_ID: i64 = 0x5374_7764;
const HINT_WRITABLE: &str = "make the file and its directory readable and writable for the user that runs Steward, \
                             on a file system that is not read-only";
/// What SQLite alone can promise: the chain is only ever added to.
const GUARDS: &str = include_str!("../sql/sqlite_guards.sql");

/// One connection; used by one thread at a time.
pub(crate) struct Connection {
    inner: rusqlite::Connection,
    path: PathBuf,
    synced: bool,
    /// Pages in the log after the last commit.
    log_pages: Arc<AtomicI32>,
}

impl Connection {
    /// Opens an existing file for writing. Writes nothing yet.
    pub(crate) fn open_writer(path: &Path, pages_max: Option<u32>) -> Result<Self, Error> {
        let mut connection = Self::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // SQLite opens for reading what it may not write, without a word.
        if connection.inner.is_readonly("main").map_err(|cause| translate(cause, path))? {
            return Err(Error::new(ErrorKind::Denied, "the state file is read-only")
                .with("file", path.display())
                .hint(HINT_WRITABLE));
        }
        connection.pragma("foreign_keys", 1)?;
        connection.pragma("cache_size", -CACHE_KIB)?;
        // An erased body shall not stay in free pages.
        connection.pragma("secure_delete", 1)?;
        // Instead of SQLite's own checkpoint inside of a commit: the writer calls it when nobody waits.
        let pages = Arc::clone(&connection.log_pages);
        let hook = move |_: &mut Wal, now: i32| {
            pages.store(now, Ordering::Relaxed);
            Ok(())
        };
        connection.inner.wal_hook(Some(hook)).map_err(|cause| translate(cause, path))?;
        if let Some(pages_max) = pages_max {
            connection.pragma("max_page_count", i64::from(pages_max))?;
        }
        Ok(connection)
    }

    /// Opens an existing file that this connection cannot change.
    pub(crate) fn open_reader(path: &Path) -> Result<Self, Error> {
        let probe = |connection: &Self| connection.query("SELECT count(*) AS n FROM sqlite_master", &[]);
        let refused = match Self::open(path, OpenFlags::SQLITE_OPEN_READ_ONLY) {
            Ok(connection) => match probe(&connection) {
                Ok(_) => {
                    connection.keep_log();
                    return Ok(connection);
                }
                Err(refused) => refused,
            },
            Err(refused) => refused,
        };
        // On a read-only file system SQLite cannot make the shared memory that WAL needs. The file may then be
        // read as it is, if no log waits beside it and nobody else can write either.
        let log_bytes = std::fs::metadata(wal_of(path)).map_or(0, |metadata| metadata.len());
        if refused.kind() != ErrorKind::Denied || log_bytes > 0 || !path.is_file() {
            return Err(refused);
        }
        let mut uri = String::from("file:");
        for byte in path.as_os_str().as_encoded_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                    uri.push(char::from(*byte));
                }
                other => {
                    write!(uri, "%{other:02X}").expect("writing to a string does not fail");
                }
            }
        }
        uri.push_str("?immutable=1");
        let inner = rusqlite::Connection::open_with_flags(
            uri,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(|_| refused)?;
        let connection = Self { inner, path: path.to_owned(), synced: true, log_pages: Arc::default() };
        probe(&connection)?;
        Ok(connection)
    }

    fn open(path: &Path, flags: OpenFlags) -> Result<Self, Error> {
        let inner = rusqlite::Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|cause| translate(cause, path))?;
        inner.busy_timeout(BUSY_TIMEOUT).map_err(|cause| translate(cause, path))?;
        inner.set_prepared_statement_cache_capacity(STATEMENTS_CACHED_MAX);
        // A plan that could depend on a bound value is made anew with every one: longer than what most statements do.
        inner
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
            .map_err(|cause| translate(cause, path))?;
        Ok(Self { inner, path: path.to_owned(), synced: true, log_pages: Arc::default() })
    }

    /// The tables that exist.
    pub(crate) fn tables(&self) -> Result<Vec<String>, Error> {
        self.query("SELECT name FROM sqlite_master WHERE type = 'table'", &[])?
            .iter()
            .map(|row| row.get_text("name").map(str::to_owned))
            .collect()
    }

    /// Prepares a new file: readers and one writer at the same time.
    pub(crate) fn use_write_ahead_log(&self) -> Result<(), Error> {
        // Two processes that switch at once get SQLITE_BUSY without any waiting, whatever the timeout.
        let mut attempts_left = 200;
        loop {
            let mode = self
                .inner
                .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
            match mode {
                Ok(mode) if mode == "wal" => return Ok(()),
                Ok(mode) => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "the state file cannot use a write-ahead log",
                    )
                    .with("file", self.path.display())
                    .with("journal_mode", mode)
                    .hint("keep the state on a local file system, not on a network share"));
                }
                Err(cause) if attempts_left > 0 && is_busy(&cause) => {
                    attempts_left -= 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(cause) => return Err(self.error(cause)),
            }
        }
    }

    /// Runs a migration; called inside a transaction.
    pub(crate) fn migrate(&self, script: &str, first: bool) -> Result<(), Error> {
        self.inner.execute_batch(script).map_err(|cause| self.error(cause))?;
        if first {
            self.inner.execute_batch(GUARDS).map_err(|cause| self.error(cause))?;
            self.pragma("application_id", APPLICATION_ID)?;
        }
        Ok(())
    }

    /// Whether the next commits wait for fsync. Called outside of transactions.
    pub(crate) fn set_synced(&mut self, synced: bool) -> Result<(), Error> {
        if synced != self.synced {
            self.pragma("synchronous", if synced { 2 } else { 1 })?;
            self.synced = synced;
        }
        Ok(())
    }

    /// Begins a transaction that no other process's write can interleave.
    pub(crate) fn begin_write(&self) -> Result<(), Error> {
        self.execute("BEGIN IMMEDIATE", &[]).map(drop)
    }

    /// Begins a transaction in which all readings see one state.
    pub(crate) fn begin_read(&self) -> Result<(), Error> {
        self.execute("BEGIN", &[]).map(drop)
    }

    pub(crate) fn commit(&self) -> Result<(), Error> {
        self.execute("COMMIT", &[]).map(drop)
    }

    /// Moves what a long log holds to its place in the file, as far as no reader still needs the old state.
    pub(crate) fn shorten_log(&self) {
        if self.log_pages.swap(0, Ordering::Relaxed) < LOG_PAGES_MAX {
            return;
        }
        let moved = self.inner.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(0));
        if let Err(error) = moved {
            tracing::warn!(error = %self.error(error), "cannot move the log into the state file");
        }
    }

    /// Leaves a short log beside the file when this connection is closed: no fsync at the end.
    pub(crate) fn keep_log(&self) {
        let bytes = std::fs::metadata(wal_of(&self.path)).map_or(0, |metadata| metadata.len());
        if bytes > LOG_BYTES_KEPT_MAX {
            return;
        }
        if let Err(error) = self.inner.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
            tracing::debug!(error = %self.error(error), "the log is emptied at the end");
        }
    }

    /// Overwrites the log, so that what was erased does not stay in it. Readers may stand in the way; then the log is
    /// overwritten later, in the course of writing.
    pub(crate) fn empty_log(&self) {
        let emptied = self.inner.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        if !matches!(emptied, Ok(0)) {
            tracing::info!("the log still holds what was erased; it is overwritten as writing goes on");
        }
    }

    /// Ends the transaction without a trace; also when SQLite has already done so by itself.
    pub(crate) fn rollback(&self) {
        if self.in_transaction()
            && let Err(error) = self.execute("ROLLBACK", &[])
        {
            tracing::error!(%error, "cannot roll back");
        }
    }

    /// Whether a transaction is open; after a full disk SQLite may have ended it by itself.
    pub(crate) fn in_transaction(&self) -> bool {
        !self.inner.is_autocommit()
    }

    /// Runs a statement and returns how many rows it changed.
    pub(crate) fn execute(&self, sql: &str, parameters: &[Value]) -> Result<u64, Error> {
        let run = || {
            let mut statement = self.inner.prepare_cached(sql)?;
            statement.execute(rusqlite::params_from_iter(parameters.iter().map(Bound)))
        };
        run().map(|rows| rows as u64).map_err(|cause| self.error(cause).with("statement", sql))
    }

    /// Runs a query and returns all its rows.
    pub(crate) fn query(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, Error> {
        let run = || {
            let mut statement = self.inner.prepare_cached(sql)?;
            let names: Arc<[String]> = statement.column_names().map(str::to_owned).collect();
            let mut rows = statement.query(rusqlite::params_from_iter(parameters.iter().map(Bound)))?;
            let mut out = Vec::new();
            while let Some(row) = rows.next()? {
                if out.len() == QUERY_ROWS_MAX {
                    return Ok(Err(Error::new(
                        ErrorKind::LimitExceeded,
                        "the query of the state returns too many rows",
                    )
                    .with("rows_max", QUERY_ROWS_MAX)
                    .with("statement", sql)));
                }
                let values =
                    (0..names.len())
                        .map(|column| row.get_ref(column).map(owned))
                        .collect::<Result<Vec<_>, _>>()?;
                out.push(Row::new(Arc::clone(&names), values));
            }
            Ok(Ok(out))
        };
        run().map_err(|cause| self.error(cause).with("statement", sql))?
    }

    /// Runs a query and hands over each row without copying it, until `each` answers false.
    pub(crate) fn stream(
        &self,
        sql: &str,
        parameters: &[Value],
        mut each: impl FnMut(&RawRow<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut statement = self.inner.prepare(sql).map_err(|cause| self.error(cause))?;
        let mut rows = statement
            .query(rusqlite::params_from_iter(parameters.iter().map(Bound)))
            .map_err(|cause| self.error(cause))?;
        while let Some(row) = rows.next().map_err(|cause| self.error(cause))? {
            if !each(&RawRow(row))? {
                break;
            }
        }
        Ok(())
    }

    /// Runs two queries that are ordered by their first column, an integer, and hands over their rows side by side
    /// where that column is equal, alone where it is not, until `each` answers false.
    pub(crate) fn stream_joined(
        &self,
        left: &str,
        right: &str,
        mut each: impl FnMut(Option<&RawRow<'_>>, Option<&RawRow<'_>>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let error = |cause| self.error(cause);
        let mut left = self.inner.prepare(left).map_err(error)?;
        let mut right = self.inner.prepare(right).map_err(error)?;
        let mut left = left.query([]).map_err(error)?;
        let mut right = right.query([]).map_err(error)?;
        let mut left_row = left.next().map_err(error)?;
        let mut right_row = right.next().map_err(error)?;
        let key = |row: Option<&rusqlite::Row<'_>>| row.map(|row| RawRow(row).integer(0).unwrap_or(i64::MIN));
        loop {
            let (take_left, take_right) = match (key(left_row), key(right_row)) {
                (None, None) => return Ok(()),
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some(l), Some(r)) => (l <= r, r <= l),
            };
            let go_on = each(
                left_row.filter(|_| take_left).map(RawRow).as_ref(),
                right_row.filter(|_| take_right).map(RawRow).as_ref(),
            )?;
            if !go_on {
                return Ok(());
            }
            if take_left {
                left_row = left.next().map_err(error)?;
            }
            if take_right {
                right_row = right.next().map_err(error)?;
            }
        }
    }

    fn pragma(&self, name: &str, value: i64) -> Result<(), Error> {
        // Some pragmas answer with a row, others do not.
        self.inner
            .execute_batch(&format!("PRAGMA {name} = {value}"))
            .map_err(|cause| self.error(cause).with("pragma", name))
    }

    fn error(&self, cause: rusqlite::Error) -> Error {
        translate(cause, &self.path)
    }
}

/// A row as it lies in the page, valid until the next step.
pub(crate) struct RawRow<'r>(&'r rusqlite::Row<'r>);

impl RawRow<'_> {
    /// The column as an integer; `None` for any other type.
    pub(crate) fn integer(&self, column: usize) -> Option<i64> {
        match self.0.get_ref(column) {
            Ok(ValueRef::Integer(value)) => Some(value),
            _ => None,
        }
    }

    /// The bytes of a text column; `None` for any other type.
    pub(crate) fn text(&self, column: usize) -> Option<&[u8]> {
        match self.0.get_ref(column) {
            Ok(ValueRef::Text(value)) => Some(value),
            _ => None,
        }
    }

    /// The bytes of a blob column; `None` for any other type.
    pub(crate) fn blob(&self, column: usize) -> Option<&[u8]> {
        match self.0.get_ref(column) {
            Ok(ValueRef::Blob(value)) => Some(value),
            _ => None,
        }
    }
}

struct Bound<'v>(&'v Value);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Text(value) => ValueRef::Text(value.as_bytes()),
            Value::Shared(value) => ValueRef::Text(value.as_bytes()),
            Value::Blob(value) => ValueRef::Blob(value),
        }))
    }
}

fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(value) => Value::Text(String::from_utf8_lossy(value).into_owned()),
        ValueRef::Blob(value) => Value::Blob(value.to_vec()),
    }
}

fn wal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn is_busy(cause: &rusqlite::Error) -> bool {
    matches!(cause.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The table from SQLite's result codes to our kinds.
///
/// Source: SQLite, "Result and Error Codes".
fn translate(cause: rusqlite::Error, path: &Path) -> Error {
    let (kind, message, hint) = match (
        cause.sqlite_error_code(),
        cause.sqlite_error().map(|e| e.extended_code),
    ) {
        (Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt), _) => (
            ErrorKind::Corrupt,
            "the state file is damaged",
            "restore it from a backup, or move it away with its `-wal` and `-shm` files to start with an empty state",
        ),
        (Some(ErrorCode::DiskFull), _) => (
            ErrorKind::LimitExceeded,
            "the disk is full; nothing of this was written to the state file",
            "free space on the file system that holds the state file, then try again",
        ),
        (Some(ErrorCode::ReadOnly), _) => (ErrorKind::Denied, "the state file is read-only", HINT_WRITABLE),
        (Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied), _) => {
            (ErrorKind::Denied, "the state file cannot be opened", HINT_WRITABLE)
        }
        (Some(ErrorCode::SystemIoFailure), _) => (
            ErrorKind::Unavailable,
            "the operating system failed to read or write the state file",
            "check the disk and its file system; the system log says more",
        ),
        (Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked), _) => (
            ErrorKind::Conflict,
            "the state file is locked by another process",
            "try again; if it stays so, look for a process that holds the file open",
        ),
        (Some(_), Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY)) => {
            (ErrorKind::AlreadyExists, "a row with this key exists already in the state", "")
        }
        (Some(ErrorCode::ConstraintViolation), _) => {
            (ErrorKind::Conflict, "the state does not accept this row", "")
        }
        (Some(ErrorCode::TooBig), _) => {
            (ErrorKind::LimitExceeded, "a value is too large for the state file", "")
        }
        _ => (ErrorKind::Other, "a statement on the state file failed", ""),
    };
    let mut error = Error::new(kind, message).with("file", path.display()).because(cause);
    if !hint.is_empty() {
        error = error.hint(hint);
    }
    if kind == ErrorKind::LimitExceeded {
        error = error.with_retry(Retry::Later);
    }
    error
}
