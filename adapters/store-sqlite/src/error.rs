//! From SQLite's result codes to kinds.
//!
//! Source: sqlite.org, "Result and Error Codes" (rescode.html).

use contract::{Error, ErrorKind};
use rusqlite::ffi;

use crate::session::Stop;

/// What to do about a statement that was refused because it writes.
const HINT_READ_ONLY: &str = "queries only read; a change goes through a plan, such as `steward migration new` and `steward migration apply`";

/// Translates the driver's error. `stop` says why a statement was interrupted.
///
/// The driver's own text is not kept whole: it repeats the statement, which may hold a secret.
pub(crate) fn translate(error: &rusqlite::Error, stop: &Stop) -> Error {
    use rusqlite::Error as Driver;
    match error {
        Driver::SqliteFailure(code, message) => by_code(*code, message.as_deref(), stop),
        Driver::SqlInputError { error, msg, .. } => by_code(*error, Some(msg), stop),
        Driver::MultipleStatement => more_than_one_statement(),
        Driver::NulError(_) => Error::new(ErrorKind::Invalid, "the statement contains a NUL character"),
        Driver::InvalidParameterCount(given, wanted) => {
            Error::new(ErrorKind::Invalid, format!("{given} values were given for {wanted} placeholders"))
        }
        Driver::Utf8Error(..) | Driver::FromSqlConversionFailure(..) | Driver::InvalidColumnType(..) => {
            Error::new(ErrorKind::Corrupt, "the catalog holds a value that it should not hold")
        }
        _ => Error::new(ErrorKind::Other, "SQLite's driver failed").because(error.to_string()),
    }
}

pub(crate) fn more_than_one_statement() -> Error {
    Error::new(ErrorKind::Invalid, "more than one statement").hint("give one statement at a time")
}

pub(crate) fn refused_write(text: &str) -> Error {
    Error::new(ErrorKind::Denied, "the engine refused a statement that does not only read")
        .because(text.to_owned())
        .hint(HINT_READ_ONLY)
}

fn by_code(code: ffi::Error, message: Option<&str>, stop: &Stop) -> Error {
    let text = message.map_or_else(|| code.to_string(), str::to_owned);
    let (kind, what, hint) = match (code.extended_code & 0xff, code.extended_code) {
        (ffi::SQLITE_INTERRUPT, _) => return stop.error(),
        (ffi::SQLITE_BUSY, _) => {
            if stop.requested() {
                return stop.error();
            }
            (
                ErrorKind::TimedOut,
                "another connection holds the lock",
                "try again, or raise `lock_timeout_ms` of this store",
            )
        }
        (ffi::SQLITE_LOCKED, _) => (ErrorKind::Conflict, "another statement holds the lock", "try again"),
        (ffi::SQLITE_AUTH, _) => return refused_write(&text),
        (ffi::SQLITE_READONLY, ffi::SQLITE_READONLY_ROLLBACK | ffi::SQLITE_READONLY_RECOVERY) => (
            ErrorKind::Unavailable,
            "an interrupted write must be rolled back first, and the file cannot be written",
            "open the file once with write access, such as with the application itself",
        ),
        (ffi::SQLITE_READONLY | ffi::SQLITE_PERM, _) => {
            (ErrorKind::Denied, "the file cannot be written", "check the file's and its folder's permissions")
        }
        (ffi::SQLITE_NOTADB, _) => (
            ErrorKind::Corrupt,
            "the file is not a SQLite database",
            "check `path`; an encrypted file is not read",
        ),
        (ffi::SQLITE_CORRUPT, _) => (
            ErrorKind::Corrupt,
            "the database file is damaged",
            "keep the file as it is and restore a verified backup; `steward store consistency` lists the damage",
        ),
        (ffi::SQLITE_CANTOPEN, _) => (
            ErrorKind::Unavailable,
            "the file cannot be opened",
            "check the permissions of the file and, for a file in WAL mode, of its folder",
        ),
        (ffi::SQLITE_FULL, _) => (ErrorKind::LimitExceeded, "the disk is full", "make room, then try again"),
        (ffi::SQLITE_NOMEM, _) => (ErrorKind::LimitExceeded, "memory ran out", "ask for less at a time"),
        (ffi::SQLITE_TOOBIG, _) => (
            ErrorKind::LimitExceeded,
            "a value or the statement is too large",
            "ask for a part, such as `substr(column, 1, 1000)` or `length(column)`",
        ),
        (ffi::SQLITE_IOERR, _) => (
            ErrorKind::Unavailable,
            "reading or writing the file failed",
            "check the disk and the system's log",
        ),
        (ffi::SQLITE_SCHEMA, _) => (ErrorKind::Conflict, "the schema changed meanwhile", "try again"),
        (
            ffi::SQLITE_CONSTRAINT,
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID,
        ) => (ErrorKind::AlreadyExists, "a row with this key exists already", ""),
        (ffi::SQLITE_CONSTRAINT, _) => (ErrorKind::Invalid, "a constraint does not hold", ""),
        (ffi::SQLITE_MISMATCH | ffi::SQLITE_RANGE, _) => {
            (ErrorKind::Invalid, "a value does not fit its column or placeholder", "")
        }
        (ffi::SQLITE_ERROR, _) => match of_message(&text) {
            ErrorKind::NotFound => {
                (ErrorKind::NotFound, "the statement names something that does not exist", "")
            }
            ErrorKind::AlreadyExists => (ErrorKind::AlreadyExists, "the thing to be made exists already", ""),
            kind => (kind, "SQLite does not accept the statement", ""),
        },
        _ => (ErrorKind::Other, "SQLite failed", ""),
    };
    let error = Error::new(kind, what).because(text);
    if hint.is_empty() { error } else { error.hint(hint) }
}

/// SQLite has one code for all mistakes in statements, so the words decide.
fn of_message(text: &str) -> ErrorKind {
    if text.starts_with("no such ") {
        ErrorKind::NotFound
    } else if text.ends_with("already exists")
        || text.starts_with("there is already ")
        || text.starts_with("duplicate column name")
    {
        ErrorKind::AlreadyExists
    } else {
        ErrorKind::Invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_kinds() {
        let stop = Stop::new(None);
        for (code, text, kind) in [
            (ffi::SQLITE_ERROR, "no such table: x", ErrorKind::NotFound),
            (ffi::SQLITE_ERROR, "table x already exists", ErrorKind::AlreadyExists),
            (ffi::SQLITE_ERROR, "near \"SELEC\": syntax error", ErrorKind::Invalid),
            (ffi::SQLITE_NOTADB, "file is not a database", ErrorKind::Corrupt),
            (ffi::SQLITE_CORRUPT, "database disk image is malformed", ErrorKind::Corrupt),
            (ffi::SQLITE_FULL, "database or disk is full", ErrorKind::LimitExceeded),
            (ffi::SQLITE_READONLY, "attempt to write a readonly database", ErrorKind::Denied),
            (ffi::SQLITE_AUTH, "not authorized", ErrorKind::Denied),
            (ffi::SQLITE_BUSY, "database is locked", ErrorKind::TimedOut),
            (ffi::SQLITE_IOERR_WRITE, "disk I/O error", ErrorKind::Unavailable),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, "UNIQUE constraint failed: t.a", ErrorKind::AlreadyExists),
            (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, "FOREIGN KEY constraint failed", ErrorKind::Invalid),
            (ffi::SQLITE_CANTOPEN, "unable to open database file", ErrorKind::Unavailable),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(text.to_owned()));
            assert_eq!(translate(&error, &stop).kind(), kind, "{text}");
        }
    }

    #[test]
    fn errors_do_not_repeat_the_statement() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let error = connection.prepare("SELECT 'top secret' FROM FROM").unwrap_err();
        assert!(error.to_string().contains("top secret"), "the driver's text does: {error}");
        assert!(!format!("{:?}", translate(&error, &Stop::new(None))).contains("top secret"));
    }
}
