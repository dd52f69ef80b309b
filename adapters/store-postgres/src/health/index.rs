//! Indexes that are broken, missing or superfluous.

use contract::quantity::{size, span};
use contract::{Error, Severity};
use serde::Deserialize;

use super::judgement::{Judged, Row, Server, count, read};

/// Rows of a table from which on a missing index for a foreign key makes deletes of the parent slow.
const FOREIGN_KEY_ROWS_MIN: u64 = 1_000;
/// Statistics that cover so much see monthly jobs too; before, an unused index is only a hint.
const UNUSED_SECONDS_MIN: u64 = 30 * 86_400;
/// An unused index of this size is worth dropping.
const UNUSED_BYTES_WARNING: u64 = 10 << 20;

#[derive(Deserialize)]
struct Invalid {
    table_name: String,
    name: String,
    is_unique: bool,
    is_maintained: bool,
    constraint_name: Option<String>,
}

pub(crate) fn invalid(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Invalid>(rows)? {
        let costs = if row.is_maintained { "; writes still pay for it" } else { "" };
        let promise = if row.is_unique { " and it does not keep keys unique" } else { "" };
        judged.found(
            "index_invalid",
            Severity::Warning,
            &row.name,
            format!("the index `{}` of `{}` is invalid: no query uses it{promise}{costs}", row.name, row.table_name),
            match row.constraint_name {
                Some(constraint) => {
                    format!("ALTER TABLE {} DROP CONSTRAINT {constraint}, and make it again", row.table_name)
                }
                None => format!(
                    "DROP INDEX CONCURRENTLY {name}, then build it again; or REINDEX INDEX CONCURRENTLY {name}",
                    name = row.name
                ),
            },
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Duplicate {
    table_name: String,
    superfluous: String,
    kept: String,
    same_keys: bool,
    pages: u64,
    page_bytes: u64,
}

pub(crate) fn duplicates(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Duplicate>(rows)? {
        let size = size(row.pages * row.page_bytes);
        let fix = format!("DROP INDEX CONCURRENTLY {}", row.superfluous);
        if row.same_keys {
            judged.found(
                "index_duplicate",
                Severity::Warning,
                &row.superfluous,
                format!(
                    "`{}` ({size}) of `{}` does nothing that `{}` does not",
                    row.superfluous, row.table_name, row.kept
                ),
                fix,
            );
        } else {
            judged.found(
                "index_redundant",
                Severity::Info,
                &row.superfluous,
                format!(
                    "`{}` ({size}) of `{}` begins as `{}` does, which can answer for it",
                    row.superfluous, row.table_name, row.kept
                ),
                format!(
                    "{fix}, after measuring: the shorter index may be the faster one for what it is used for"
                ),
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Unused {
    table_name: String,
    name: String,
    pages: u64,
    page_bytes: u64,
    writes: u64,
}

pub(crate) fn unused(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let (known, since) = match server.statistics_seconds {
        Some(age) => (age >= UNUSED_SECONDS_MIN, format!("in the {} that the statistics cover", span(age))),
        None => (false, "since the statistics began, which is not known".to_owned()),
    };
    for row in read::<Unused>(rows)? {
        let bytes = row.pages * row.page_bytes;
        let kept_up = if server.in_recovery {
            "its writes are counted on the primary".to_owned()
        } else {
            format!("{} had to keep it up", count(row.writes, "write"))
        };
        judged.found(
            "index_unused",
            if known && bytes >= UNUSED_BYTES_WARNING { Severity::Warning } else { Severity::Info },
            &row.name,
            format!(
                "no query on this server has used `{}` ({}) of `{}` {since}; {kept_up}",
                row.name,
                size(bytes),
                row.table_name,
            ),
            format!(
                "ask every replica too (their statistics are their own) and think of yearly jobs; then DROP INDEX \
                 CONCURRENTLY {}",
                row.name
            ),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct ForeignKey {
    table_name: String,
    name: String,
    parent: String,
    rows: u64,
    columns: String,
}

/// Source: PostgreSQL manual, "Constraints": an index on the referring columns is often a good idea, and is not made by
/// itself.
pub(crate) fn foreign_keys(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<ForeignKey>(rows)? {
        judged.found(
            "foreign_key_without_index",
            if row.rows >= FOREIGN_KEY_ROWS_MIN { Severity::Warning } else { Severity::Info },
            &format!("{}.{}", row.table_name, row.name),
            format!(
                "a delete in `{}` reads all {} of `{}`: no index begins with ({})",
                row.parent,
                count(row.rows, "row"),
                row.table_name,
                row.columns
            ),
            format!("CREATE INDEX CONCURRENTLY ON {} ({})", row.table_name, row.columns),
        );
    }
    Ok(judged)
}
