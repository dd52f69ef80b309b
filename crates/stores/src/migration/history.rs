//! The migrations that a store says it has: table `steward_migrations`.

use contract::{Error, ErrorKind, Limits, Query, Retry, Statement};
use schema::Dialect;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::file::Migration;
use crate::inquiry::{Inquiry, as_u64, placeholder};

/// Columns of the table.
pub(crate) const COLUMNS: u64 = 7;
/// More migrations than any store has.
const ROWS_MAX: usize = 100_000;

/// How far a migration has come in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Some of its statements have run, each in a step of its own.
    Begun,
    /// All of its statements have run.
    Applied,
    /// Some statements of its way back have run.
    Undoing,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Begun => "begun",
            State::Applied => "applied",
            State::Undoing => "undoing",
        }
    }
}

/// A migration as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u64,
    pub(crate) name: String,
    pub(crate) checksum: String,
    pub(crate) state: State,
    /// Statements that have run in this direction.
    pub(crate) statements_done: u64,
    pub(crate) applied_at: String,
    /// The text of the safe form in which it was begun, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) form: Option<String>,
}

/// The table's name as statements write it.
pub(crate) fn table(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "steward.steward_migrations",
        Dialect::Sqlite => "steward_migrations",
    }
}

/// What the store remembers, by version; `None` when it has no such table yet.
pub(crate) async fn read(inquiry: &mut Inquiry<'_>) -> Result<Option<Vec<Record>>, Error> {
    let dialect = inquiry.dialect()?;
    let columns = columns(inquiry).await?;
    if columns == 0 {
        return Ok(None);
    }
    let form = if columns < COLUMNS { "NULL" } else { "form" };
    let mut query = Query::new(format!(
        "SELECT version, name, checksum, state, statements_done, CAST(applied_at AS TEXT) AS applied_at, {form} AS form \
         FROM {} ORDER BY version",
        table(dialect)
    ));
    query.limits = Limits { rows_max: ROWS_MAX, bytes_max: usize::MAX, ..Limits::default() };
    let (rows, _) = inquiry.rows(&query).await?;
    rows.rows.iter().map(|row| record(inquiry, row)).collect::<Result<_, _>>().map(Some)
}

/// How many columns the table has: 0 when there is none, fewer than [`COLUMNS`] when an earlier version made it.
pub(crate) async fn columns(inquiry: &mut Inquiry<'_>) -> Result<u64, Error> {
    let sql = match inquiry.dialect()? {
        Dialect::Postgres => {
            "SELECT count(*) FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid \
             JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
             WHERE n.nspname = 'steward' AND c.relname = 'steward_migrations' AND a.attnum > 0 AND NOT a.attisdropped"
        }
        Dialect::Sqlite => "SELECT count(*) FROM pragma_table_info('steward_migrations')",
    };
    Ok(inquiry.number(sql.to_owned(), Limits::default().statement_timeout).await?.0)
}

fn record(inquiry: &Inquiry<'_>, row: &[Value]) -> Result<Record, Error> {
    let text = |i: usize| row.get(i).and_then(Value::as_str).map(ToOwned::to_owned);
    let parse = || {
        Some(Record {
            version: as_u64(row.first()?)?,
            name: text(1)?,
            checksum: text(2)?,
            state: serde_json::from_value(row.get(3)?.clone()).ok()?,
            statements_done: as_u64(row.get(4)?)?,
            applied_at: text(5)?,
            form: text(6),
        })
    };
    parse().ok_or_else(|| {
        Error::new(
            ErrorKind::Corrupt,
            "the table `steward_migrations` holds a row that Steward did not write",
        )
        .with("store", inquiry.store.name())
        .with("row", json!(row))
    })
}

/// What makes the table.
pub(crate) fn create(dialect: Dialect) -> Vec<Statement> {
    match dialect {
        Dialect::Postgres => vec![
            // CREATE SCHEMA IF NOT EXISTS asks for rights on the database even when the schema is there.
            Statement::new(
                "DO $steward$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'steward') THEN \
                 CREATE SCHEMA steward; END IF; END $steward$",
            ),
            Statement::new(
                "CREATE TABLE IF NOT EXISTS steward.steward_migrations (version bigint PRIMARY KEY, name text NOT NULL, \
                 checksum text NOT NULL, state text NOT NULL, statements_done bigint NOT NULL, \
                 applied_at timestamptz NOT NULL, form text)",
            ),
        ],
        Dialect::Sqlite => vec![Statement::new(
            "CREATE TABLE IF NOT EXISTS steward_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
             checksum TEXT NOT NULL, state TEXT NOT NULL, statements_done INTEGER NOT NULL, \
             applied_at TEXT NOT NULL, form TEXT)",
        )],
    }
}

/// What gives a table of an earlier version the column for safe forms.
pub(crate) fn complete(dialect: Dialect) -> Statement {
    Statement::new(format!("ALTER TABLE {} ADD COLUMN form text", table(dialect)))
}

/// Remembers that a migration has begun in this safe form, and that none of its statements has run.
pub(crate) fn begin(dialect: Dialect, migration: &Migration, form: &str) -> Statement {
    let p = |n| placeholder(dialect, n);
    Statement::with_parameters(
        format!(
            "INSERT INTO {} (version, name, checksum, state, statements_done, applied_at, form) \
             VALUES ({}, {}, {}, {}, 0, {}, {})",
            table(dialect),
            p(1),
            p(2),
            p(3),
            p(4),
            now(dialect),
            p(5)
        ),
        vec![
            json!(migration.version),
            json!(migration.name),
            json!(migration.checksum),
            json!(State::Begun.as_str()),
            json!(form),
        ],
    )
}

fn now(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "now()",
        Dialect::Sqlite => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
    }
}

/// Remembers that `done` statements of a migration have run.
pub(crate) fn remember(
    dialect: Dialect,
    migration: &Migration,
    first: bool,
    state: State,
    done: usize,
) -> Statement {
    let p = |n| placeholder(dialect, n);
    let (table, now) = (table(dialect), now(dialect));
    if first {
        Statement::with_parameters(
            format!(
                "INSERT INTO {table} (version, name, checksum, state, statements_done, applied_at) \
                 VALUES ({}, {}, {}, {}, {}, {now})",
                p(1),
                p(2),
                p(3),
                p(4),
                p(5)
            ),
            vec![
                json!(migration.version),
                json!(migration.name),
                json!(migration.checksum),
                json!(state.as_str()),
                json!(done),
            ],
        )
    } else {
        Statement::with_parameters(
            format!(
                "UPDATE {table} SET state = {}, statements_done = {}, applied_at = {now} WHERE version = {}",
                p(1),
                p(2),
                p(3)
            ),
            vec![json!(state.as_str()), json!(done), json!(migration.version)],
        )
    }
}

/// Forgets a migration that was taken back.
pub(crate) fn forget(dialect: Dialect, migration: &Migration) -> Statement {
    Statement::with_parameters(
        format!("DELETE FROM {} WHERE version = {}", table(dialect), placeholder(dialect, 1)),
        vec![json!(migration.version)],
    )
}

/// Refuses unless the store's history is the beginning of the files, unchanged.
///
/// # Errors
///
/// `Conflict`, with the file: applied and now missing, edited or renamed after it was applied, applied out of order.
pub(crate) fn match_files(files: &[Migration], history: &[Record]) -> Result<(), Error> {
    let conflict = |message: String| Error::new(ErrorKind::Conflict, message).with_retry(Retry::Never);
    for (i, record) in history.iter().enumerate() {
        let expected = i as u64 + 1;
        if record.version != expected {
            let error = conflict(format!(
                "migration {} was applied before migration {expected}, out of order",
                record.version
            ));
            let error = match files.get(i) {
                Some(file) => error.with("file", &file.path),
                None => error,
            };
            return Err(error.hint("the store's history was changed by hand; put the missing row back"));
        }
        let Some(file) = files.get(i) else {
            return Err(conflict(format!("migration `{}` was applied and its file is missing", record.name))
                .hint("bring the file back from version control"));
        };
        if file.checksum != record.checksum {
            return Err(conflict(format!("migration `{}` was edited after it was applied", record.name))
                .with("file", &file.path)
                .with("applied_at", &record.applied_at)
                .with("checksum_applied", &record.checksum[..record.checksum.len().min(12)])
                .with("checksum_file", &file.checksum[..12])
                .hint("restore the file as it was, and put the change into a new migration"));
        }
        if file.name != record.name {
            return Err(conflict(format!("migration `{}` was renamed after it was applied", record.name))
                .with("file", &file.path)
                .hint("give the file its old name"));
        }
        if record.state != State::Applied && i + 1 < history.len() {
            return Err(conflict(format!(
                "migration `{}` has not ended, and a later one has begun",
                record.name
            ))
            .with("file", &file.path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::file::{MigrationFile, read};
    use super::*;

    fn files() -> Vec<Migration> {
        let file = |name: &str, sql: &str| MigrationFile::new(format!("m/{name}"), sql);
        read(&[file("0001_a.sql", "SELECT 1"), file("0002_b.sql", "SELECT 2")], Dialect::Sqlite).unwrap()
    }

    fn record(file: &Migration) -> Record {
        Record {
            version: file.version,
            name: file.name.clone(),
            checksum: file.checksum.clone(),
            state: State::Applied,
            statements_done: 1,
            applied_at: "2026-01-01".into(),
            form: None,
        }
    }

    #[test]
    fn history_that_does_not_fit_the_files_is_refused() {
        let files = files();
        let (a, b) = (record(&files[0]), record(&files[1]));
        match_files(&files, &[]).unwrap();
        match_files(&files, &[a.clone(), b.clone()]).unwrap();
        for (files, history, expected) in [
            (
                &files[..],
                vec![b.clone()],
                "migration 2 was applied before migration 1, out of order\n  file: m/0001_a.sql",
            ),
            (
                &files[..1],
                vec![a.clone(), b.clone()],
                "migration `0002_b` was applied and its file is missing",
            ),
            (
                &files[..],
                vec![Record { checksum: "0".repeat(64), ..a.clone() }],
                "migration `0001_a` was edited after it was applied\n  file: m/0001_a.sql",
            ),
            (
                &files[..],
                vec![Record { name: "0001_x".into(), ..a.clone() }],
                "migration `0001_x` was renamed after it was applied\n  file: m/0001_a.sql",
            ),
            (
                &files[..],
                vec![Record { state: State::Begun, ..a.clone() }, b.clone()],
                "migration `0001_a` has not ended",
            ),
        ] {
            let error = match_files(files, &history).unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never));
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
