//! Connections on threads of their own, and what stops them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contract::{Context, Error, ErrorKind, Retry};
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, ffi};
use tokio_util::sync::CancellationToken;

use crate::error::translate;

/// SQLite asks whether to stop after about so many instructions of its virtual machine: well under a millisecond.
const INSTRUCTIONS_BETWEEN_CHECKS: i32 = 2_000;

/// Pause between two attempts to get a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Largest value that is read or built by a query, so that one value cannot take all memory.
const VALUE_BYTES_MAX: i32 = 64 << 20;

/// Says whether a running call has to stop, and why.
#[derive(Debug)]
pub(crate) struct Stop {
    canceled: AtomicBool,
    deadline: Option<Instant>,
}

impl Stop {
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Self {
            canceled: AtomicBool::new(false),
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        }
    }

    fn cancel(&self) {
        self.canceled.store(true, Ordering::SeqCst);
    }

    pub(crate) fn requested(&self) -> bool {
        self.canceled.load(Ordering::SeqCst)
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Why the call was stopped.
    pub(crate) fn error(&self) -> Error {
        if self.canceled.load(Ordering::SeqCst) {
            Error::new(ErrorKind::Canceled, "canceled")
        } else {
            // It takes too long again; a lock that did not come has another message and is worth another attempt.
            Error::new(ErrorKind::TimedOut, "the statement took longer than it may").with_retry(Retry::Never)
        }
    }
}

/// Cancels the thread's work when the future that waits for it is dropped.
struct CancelOnDrop(Arc<Stop>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs blocking `work` on its own thread until it ends, `ctx` ends, `timeout` passes or the store is closed.
///
/// Comes back only when the work has come to rest, so what it says about the database is so.
pub(crate) async fn on_thread<T: Send + 'static>(
    ctx: &Context,
    closed: &CancellationToken,
    timeout: Option<Duration>,
    work: impl FnOnce(&Arc<Stop>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if ctx.cancellation().is_cancelled() {
        return Err(Error::new(ErrorKind::Canceled, "canceled"));
    }
    if closed.is_cancelled() {
        return Err(Error::new(ErrorKind::Canceled, "the store was closed"));
    }
    let remaining = match (ctx.remaining(), timeout) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    if remaining == Some(Duration::ZERO) {
        return Err(Error::new(ErrorKind::TimedOut, "the deadline passed"));
    }
    let stop = Arc::new(Stop::new(remaining));
    let _cancel = CancelOnDrop(Arc::clone(&stop));
    let of_thread = Arc::clone(&stop);
    let mut thread = tokio::task::spawn_blocking(move || work(&of_thread));
    let ended = tokio::select! {
        ended = &mut thread => ended,
        () = ctx.cancellation().cancelled() => { stop.cancel(); thread.await }
        () = closed.cancelled() => { stop.cancel(); thread.await }
    };
    ended.unwrap_or_else(|_| Err(Error::new(ErrorKind::Canceled, "the runtime is shutting down")))
}

/// Where the file is and how long to wait for its locks.
///
/// Only SQLite may open the file: when any descriptor of it is closed, the operating system drops all locks that this
/// process holds on it. Source: sqlite.org, "How To Corrupt An SQLite Database File", section 2.2.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) lock_timeout: Duration,
    pub(crate) read_only: bool,
}

impl File {
    fn check(&self) -> Result<(), Error> {
        let path = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(file) if file.is_file() => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::Invalid, "the path is not a file").with("path", path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::NotFound, "there is no database file")
                    .with("path", path)
                    .hint("check `path` of the store; Steward never creates a database"))
            }
            Err(error) => Err(Error::new(ErrorKind::Denied, "the database file cannot be reached")
                .with("path", path)
                .because(error)),
        }
    }

    /// The path without symbolic links, which is one for all who use the file.
    pub(crate) fn canonical(&self) -> Result<PathBuf, Error> {
        self.check()?;
        self.path.canonicalize().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the database file cannot be reached")
                .with("path", self.path.display())
                .because(error)
        })
    }

    /// A connection that only reads, within one snapshot of the database that ends with the connection.
    pub(crate) fn reader(&self, stop: &Arc<Stop>) -> Result<Connection, Error> {
        self.check()?;
        match self.try_reader(stop) {
            Ok(connection) => Ok(connection),
            // A process died in the middle of a write. SQLite rolls that back as soon as someone may write.
            Err(rusqlite::Error::SqliteFailure(code, text))
                if [ffi::SQLITE_READONLY_ROLLBACK, ffi::SQLITE_READONLY_RECOVERY]
                    .contains(&code.extended_code) =>
            {
                if self.read_only {
                    return Err(self.explain(&rusqlite::Error::SqliteFailure(code, text), stop));
                }
                let writer = self.writer(stop)?;
                begin_snapshot(&writer).map_err(|error| self.explain(&error, stop))?;
                drop(writer);
                self.try_reader(stop).map_err(|error| self.explain(&error, stop))
            }
            // To read a file in WAL mode, SQLite must write beside it; nothing else makes reading a matter of writing.
            Err(rusqlite::Error::SqliteFailure(code, _))
                if code.extended_code & 0xff == ffi::SQLITE_READONLY =>
            {
                let what = "a file in WAL mode cannot be read in a folder that cannot be written";
                Err(Error::new(ErrorKind::Denied, what).with("path", self.path.display()).hint(
                    "make the folder writable, or let the file's owner run `PRAGMA journal_mode = DELETE`",
                ))
            }
            Err(error) => Err(self.explain(&error, stop)),
        }
    }

    fn try_reader(&self, stop: &Arc<Stop>) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        watch(&mut connection, stop, self.lock_timeout)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA cell_size_check = ON")?;
        begin_snapshot(&connection)?;
        Ok(connection)
    }

    /// A connection that may write; outside a transaction.
    pub(crate) fn writer(&self, stop: &Arc<Stop>) -> Result<Connection, Error> {
        self.check()?;
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let mut connection = Connection::open_with_flags(&self.path, flags)?;
            watch(&mut connection, stop, self.lock_timeout)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            Ok(connection)
        };
        open().map_err(|error| self.explain(&error, stop))
    }

    pub(crate) fn explain(&self, error: &rusqlite::Error, stop: &Stop) -> Error {
        translate(error, stop).with("path", self.path.display())
    }
}

/// Takes the lock that keeps the snapshot, so that nothing after it has to wait.
fn begin_snapshot(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN")?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Lets `stop` end whatever the connection does, also its waiting for locks.
pub(crate) fn watch(
    connection: &mut Connection,
    stop: &Arc<Stop>,
    lock_timeout: Duration,
) -> rusqlite::Result<()> {
    let of_progress = Arc::clone(stop);
    connection.progress_handler(INSTRUCTIONS_BETWEEN_CHECKS, Some(move || of_progress.requested()))?;
    let of_lock = Arc::clone(stop);
    let mut since = Instant::now();
    connection.busy_handler(Some(move |attempt: i32| {
        if attempt == 0 {
            since = Instant::now();
        }
        if of_lock.requested() || since.elapsed() >= lock_timeout {
            return false;
        }
        std::thread::sleep(LOCK_PAUSE);
        true
    }))
}

/// Lets the connection prepare nothing but statements that read. The file is open read-only besides.
pub(crate) fn only_reads(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Allow
        }
        AuthAction::Pragma { pragma_name, pragma_value }
            if pragma_reads(pragma_name, pragma_value.is_some()) =>
        {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }))
}

/// Whether this PRAGMA changes nothing, neither in the file nor in the session.
fn pragma_reads(name: &str, has_value: bool) -> bool {
    const ABOUT: [&str; 17] = [
        "collation_list",
        "compile_options",
        "database_list",
        "foreign_key_check",
        "foreign_key_list",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "module_list",
        "pragma_list",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
        "data_version",
    ];
    const WITHOUT_VALUE: [&str; 9] = [
        "application_id",
        "auto_vacuum",
        "encoding",
        "foreign_keys",
        "freelist_count",
        "page_count",
        "page_size",
        "schema_version",
        "user_version",
    ];
    let name = name.to_ascii_lowercase();
    ABOUT.contains(&name.as_str()) || (!has_value && WITHOUT_VALUE.contains(&name.as_str()))
}

/// What stands beside the database file, such as `shop.db-steward-lock`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_refuses_writes_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (id INTEGER)").unwrap();
        let file = File { path: path.clone(), lock_timeout: Duration::from_millis(10), read_only: false };
        let stop = Arc::new(Stop::new(None));
        let refused = |connection: &Connection, code: i32| {
            for sql in [
                "INSERT INTO t VALUES (1)",
                "CREATE TABLE u (id INTEGER)",
                "CREATE TEMP TABLE u (id INTEGER)",
            ] {
                let error = connection.execute_batch(sql).unwrap_err();
                assert_eq!(
                    error.sqlite_error().map(|error| error.extended_code & 0xff),
                    Some(code),
                    "{sql}: {error}"
                );
            }
        };
        // The file opened read-only, and `query_only`, which covers temporary tables too.
        refused(&file.reader(&stop).unwrap(), ffi::SQLITE_READONLY);
        // The authorizer, on a connection that could write.
        let mut connection = Connection::open(&path).unwrap();
        only_reads(&mut connection).unwrap();
        refused(&connection, ffi::SQLITE_AUTH);
    }

    #[test]
    fn pragmas_that_change_anything_are_not_reads() {
        for (name, has_value, reads) in [
            ("table_info", true, true),
            ("USER_VERSION", false, true),
            ("user_version", true, false),
            ("query_only", false, false),
            ("query_only", true, false),
            ("wal_checkpoint", false, false),
            ("optimize", false, false),
        ] {
            assert_eq!(pragma_reads(name, has_value), reads, "{name} {has_value}");
        }
    }
}
