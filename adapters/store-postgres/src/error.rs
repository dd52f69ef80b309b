//! The server's codes as kinds of errors.

use std::error::Error as _;

use contract::{Error, ErrorKind, Retry};

/// SQLSTATE, or its first two characters for a whole class, to kind. The longer entry wins; what is in neither is
/// `Other` and keeps its text.
///
/// Source: PostgreSQL manual, appendix A, "PostgreSQL Error Codes".
const KINDS: &[(&str, ErrorKind)] = &[
    ("03", ErrorKind::Invalid),
    ("08", ErrorKind::Unavailable),
    ("0A", ErrorKind::Unsupported),
    ("0L", ErrorKind::Denied),
    ("0P", ErrorKind::Invalid),
    ("21", ErrorKind::Invalid),
    ("22", ErrorKind::Invalid),
    ("22021", ErrorKind::Corrupt), // character_not_in_repertoire: stored text that is not in its encoding
    ("23", ErrorKind::Invalid),
    ("23505", ErrorKind::AlreadyExists),
    ("25", ErrorKind::Invalid),
    ("25006", ErrorKind::Denied),   // read_only_sql_transaction
    ("25P03", ErrorKind::TimedOut), // idle_in_transaction_session_timeout
    ("25P04", ErrorKind::TimedOut), // transaction_timeout
    ("26", ErrorKind::Invalid),
    ("28", ErrorKind::Denied),
    ("2B", ErrorKind::Conflict), // dependent objects still exist
    ("2D", ErrorKind::Invalid),
    ("2F", ErrorKind::Denied), // a function was not permitted to do something, such as dblink to connect
    ("34", ErrorKind::Invalid),
    ("3B", ErrorKind::Invalid),
    ("3D", ErrorKind::NotFound),
    ("3F", ErrorKind::NotFound),
    ("40", ErrorKind::Conflict),
    ("42", ErrorKind::Invalid),
    ("42501", ErrorKind::Denied),   // insufficient_privilege
    ("42P01", ErrorKind::NotFound), // undefined_table
    ("42703", ErrorKind::NotFound), // undefined_column
    ("42704", ErrorKind::NotFound), // undefined_object
    ("42883", ErrorKind::NotFound), // undefined_function
    ("42P04", ErrorKind::AlreadyExists),
    ("42P06", ErrorKind::AlreadyExists),
    ("42P07", ErrorKind::AlreadyExists),
    ("42701", ErrorKind::AlreadyExists),
    ("42710", ErrorKind::AlreadyExists),
    ("42723", ErrorKind::AlreadyExists),
    ("44", ErrorKind::Invalid),
    ("53", ErrorKind::LimitExceeded),
    ("53300", ErrorKind::Unavailable), // too_many_connections
    ("54", ErrorKind::LimitExceeded),
    ("55", ErrorKind::Conflict),
    ("55P03", ErrorKind::TimedOut), // lock_not_available: `lock_timeout` passed
    ("57", ErrorKind::Unavailable),
    ("57014", ErrorKind::TimedOut), // query_canceled: `statement_timeout` passed, or someone canceled it
    ("57P04", ErrorKind::NotFound), // database_dropped
    ("58", ErrorKind::Other),
    ("58P01", ErrorKind::NotFound),
    ("P0", ErrorKind::Invalid),
    ("XX001", ErrorKind::Corrupt),
    ("XX002", ErrorKind::Corrupt),
];

/// The kind of a SQLSTATE.
pub(crate) fn kind(code: &str) -> ErrorKind {
    let exact = KINDS.iter().find(|(entry, _)| *entry == code);
    let class = || KINDS.iter().find(|(entry, _)| Some(*entry) == code.get(..2));
    exact.or_else(class).map_or(ErrorKind::Other, |(_, kind)| *kind)
}

/// Codes of conflicts and timeouts after which the same can succeed: a serialization failure or a deadlock, an object in
/// use, a lock that did not come.
const WORTH_ANOTHER_ATTEMPT: [&str; 4] = ["40001", "40P01", "55006", "55P03"];

/// The driver's error as ours.
///
/// The server's message becomes the message. Its detail is left out: it quotes rows, such as
/// `Key (email)=(…) already exists`.
pub(crate) fn translate(error: &tokio_postgres::Error) -> Error {
    if let Some(server) = error.as_db_error() {
        let code = server.code().code();
        let mut kind = kind(code);
        // The server has one code for both; only its words say which, in English.
        if code == "57014" && server.message().contains("user request") {
            kind = ErrorKind::Canceled;
        }
        let mut out = Error::new(kind, server.message().trim_end_matches('.')).with("code", code);
        // A statement that took too long takes too long again, and what depends on an object goes on doing so.
        if matches!(kind, ErrorKind::TimedOut | ErrorKind::Conflict) && !WORTH_ANOTHER_ATTEMPT.contains(&code)
        {
            out = out.with_retry(Retry::Never);
        }
        if let Some(tokio_postgres::error::ErrorPosition::Original(position)) = server.position() {
            out = out.with("position", position);
        }
        return match (server.hint(), code) {
            (_, "22021") => out.hint("read it as binary, such as `convert_to(name, 'SQL_ASCII')`"),
            (_, "55P03") => out.hint("another session holds the lock; try again when it has ended"),
            (_, "42501") if server.message().starts_with("must be owner") => out.hint(
                "only the owner may change it: `steward store setup NAME --owner ROLE` lets the writing login act for the \
                 role that owns the tables",
            ),
            (Some(hint), _) => out.hint(hint),
            (None, _) => out,
        };
    }
    let cause = error.source().map(ToString::to_string);
    let io = error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
    let text = error.to_string();
    let kind = if error.is_closed() || (io && !text.starts_with("error encoding")) {
        ErrorKind::Unavailable
    } else if text.starts_with("error serializing")
        || text.starts_with("error encoding")
        || text.starts_with("expected")
    {
        ErrorKind::Invalid
    } else {
        ErrorKind::Other
    };
    let message = match kind {
        ErrorKind::Unavailable => "the connection to the server was lost".to_owned(),
        _ => text,
    };
    let out = Error::new(kind, message);
    match cause {
        Some(cause) => out.because(cause),
        None => out,
    }
}

/// Whether the server itself said so, which means that it has ended the statement.
pub(crate) fn is_from_server(error: &Error) -> bool {
    error.context().iter().any(|(name, _)| *name == "code")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kinds() {
        for (code, expected) in [
            ("42601", ErrorKind::Invalid),
            ("42501", ErrorKind::Denied),
            ("25006", ErrorKind::Denied),
            ("28P01", ErrorKind::Denied),
            ("57P01", ErrorKind::Unavailable),
            ("57014", ErrorKind::TimedOut),
            ("55P03", ErrorKind::TimedOut),
            ("40001", ErrorKind::Conflict),
            ("XX000", ErrorKind::Other),
            ("", ErrorKind::Other),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
    }
}
