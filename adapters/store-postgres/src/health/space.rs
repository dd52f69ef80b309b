//! Where the space goes, what is empty in it, and what is read from where.

use contract::quantity::{percent, size, span, thousands};
use contract::{Error, Severity, Trigger};
use serde::Deserialize;

use super::judgement::{Judged, Row, Server, count, read};

/// Empty space from which on it is worth winning back.
const BLOAT_BYTES_MIN: f64 = 10.0 * 1024.0 * 1024.0;
/// Share of empty space from which on it is worth winning back. The estimate does not know the padding between columns,
/// which a fifth of a table may be; half is beyond that.
const BLOAT_SHARE: f64 = 0.5;
/// Share of reads that memory should answer in a database that serves transactions.
///
/// The usual rule of thumb is 99 %; below 90 % the cache is plainly too small for what is read.
const CACHE_HIT_SHARE: f64 = 0.9;
/// Blocks read before the share says anything.
const CACHE_READS_MIN: f64 = 50_000.0;
/// Bytes in temporary files from which on work_mem is worth a look.
const TEMPORARY_BYTES_INFO: u64 = 64 << 20;
/// Bytes in temporary files from which on work_mem is too small for what is asked.
const TEMPORARY_BYTES_WARNING: u64 = 10 << 30;
/// Deadlocks per day of statistics that are no longer accidents.
const DEADLOCKS_PER_DAY: f64 = 10.0;
/// Requested checkpoints before their share says anything.
const CHECKPOINTS_MIN: u64 = 10;
const SECONDS_PER_DAY: f64 = 86_400.0;

#[derive(Deserialize)]
struct Checksums {
    enabled: bool,
    database: String,
    failures: u64,
    seconds_ago: Option<f64>,
}

pub(crate) fn checksum_failures(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let rows: Vec<Checksums> = read(rows)?;
    if rows.first().is_some_and(|row| !row.enabled) {
        judged.found(
            "data_checksums_off",
            Severity::Warning,
            "",
            "pages carry no checksums: damage on disk is not noticed until it is read as nonsense".into(),
            "stop the server and run `pg_checksums --enable`; from PostgreSQL 18 on, initdb switches them on by itself",
        );
    }
    for row in rows.into_iter().filter(|row| row.failures > 0) {
        let ago =
            row.seconds_ago.map_or_else(String::new, |age| format!(", the last {} ago", whole_span(age)));
        judged.escalated(
            Trigger::DataCorruption,
            "checksum_failures",
            &row.database,
            format!("{} of `{}` did not match its checksum{ago}", count(row.failures, "page"), row.database),
            "make a copy of the data directory before anything else, look for a failing disk, and restore what is \
             damaged from a backup; `steward store consistency` says what can still be read",
        );
    }
    Ok(judged)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Saturates, and ages are no negative numbers.
fn whole_span(seconds: f64) -> String {
    span(seconds.max(0.0) as u64)
}

#[derive(Deserialize)]
struct Bloat {
    name: String,
    table_name: Option<String>,
    pages: f64,
    page_bytes: f64,
    complete: bool,
    pages_needed: f64,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Positive and rounded.
fn bytes(value: f64) -> String {
    size(value.max(0.0) as u64)
}

pub(crate) fn table_bloat(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    bloat(rows, "table_bloat")
}

pub(crate) fn index_bloat(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    bloat(rows, "index_bloat")
}

fn bloat(rows: &[Row], code: &str) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let mut unknown = 0;
    for row in read::<Bloat>(rows)? {
        if !row.complete {
            unknown += 1;
            continue;
        }
        let wasted = row.pages - row.pages_needed;
        let share = wasted / row.pages.max(1.0);
        if wasted * row.page_bytes < BLOAT_BYTES_MIN || share < BLOAT_SHARE {
            continue;
        }
        let title = format!(
            "about {} of the {} of `{}` are empty ({}, estimated from statistics)",
            bytes(wasted * row.page_bytes),
            bytes(row.pages * row.page_bytes),
            row.name,
            percent(share)
        );
        let fix = if row.table_name.is_some() {
            format!("REINDEX INDEX CONCURRENTLY {}", row.name)
        } else {
            format!(
                "pg_repack --table {name}, which lets others work, or `VACUUM (FULL) {name}`, which locks the table; \
                 then find out why autovacuum did not keep up",
                name = row.name
            )
        };
        judged.found(code, Severity::Warning, &row.name, title, fix);
    }
    if unknown > 0 {
        judged.hidden = Some(format!(
            "for {} there are no statistics that this login may read: ANALYZE them, or grant SELECT",
            count(unknown, "large relation")
        ));
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Measured {
    name: String,
    bytes: f64,
    dead_bytes: f64,
    free_bytes: f64,
}

pub(crate) fn table_bloat_measured(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Measured>(rows)? {
        let wasted = row.dead_bytes + row.free_bytes;
        let share = wasted / row.bytes.max(1.0);
        if wasted >= BLOAT_BYTES_MIN && share >= BLOAT_SHARE {
            judged.found(
                "table_bloat_measured",
                Severity::Warning,
                &row.name,
                format!(
                    "{} of the {} of `{}` are dead or free ({}, measured by pgstattuple)",
                    bytes(wasted),
                    bytes(row.bytes),
                    row.name,
                    percent(share)
                ),
                format!(
                    "pg_repack --table {name}, which lets others work, or `VACUUM (FULL) {name}`, which locks the table",
                    name = row.name
                ),
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Counters {
    blocks_hit: f64,
    blocks_read: f64,
    temporary_files: u64,
    temporary_bytes: u64,
    deadlocks: u64,
    shared_buffers_bytes: f64,
}

#[allow(clippy::cast_precision_loss)] // Only rates are computed.
pub(crate) fn cache(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let since = match server.statistics_seconds {
        Some(age) => format!("in the last {}", span(age)),
        None => "since the database was made".to_owned(),
    };
    for row in read::<Counters>(rows)? {
        let hit = row.blocks_hit / (row.blocks_hit + row.blocks_read).max(1.0);
        if row.blocks_read >= CACHE_READS_MIN && hit < CACHE_HIT_SHARE {
            judged.found(
                "cache_hits_low",
                Severity::Warning,
                "",
                format!("only {} of the blocks that queries needed were in the server's memory {since}", percent(hit)),
                format!(
                    "look for queries that read whole tables (`steward store slow`), then consider more than {} of \
                     shared_buffers for {} of data",
                    bytes(row.shared_buffers_bytes),
                    size(server.database_bytes)
                ),
            );
        }
        if row.temporary_bytes >= TEMPORARY_BYTES_INFO {
            let much = row.temporary_bytes >= TEMPORARY_BYTES_WARNING;
            judged.found(
                "temporary_files",
                if much { Severity::Warning } else { Severity::Info },
                "",
                format!(
                    "sorts and joins wrote {} to {} {since}",
                    size(row.temporary_bytes),
                    count(row.temporary_files, "temporary file")
                ),
                "look at `blocks_temporary` of `steward store slow`; give those queries an index, or their role more \
                 work_mem",
            );
        }
        if row.deadlocks > 0 {
            let days = server.statistics_seconds.map(|age| (age as f64 / SECONDS_PER_DAY).max(1.0));
            let often = days.is_some_and(|days| row.deadlocks as f64 / days >= DEADLOCKS_PER_DAY);
            judged.found(
                "deadlocks",
                if often { Severity::Warning } else { Severity::Info },
                "",
                format!("{} {since}", count(row.deadlocks, "deadlock")),
                "let transactions lock rows in one order (ORDER BY the key before FOR UPDATE); the server's log has the \
                 statements",
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Checkpoints {
    timed: u64,
    requested: u64,
    max_wal_size: String,
}

/// Source: PostgreSQL manual, "WAL Configuration": checkpoints should come by time; those forced by the log's size mean
/// that `max_wal_size` is too small.
pub(crate) fn checkpoints(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Checkpoints>(rows)? {
        if row.requested >= CHECKPOINTS_MIN && row.requested > row.timed {
            judged.found(
                "checkpoints_requested",
                Severity::Warning,
                "",
                format!(
                    "{} of {} checkpoints came early, asked for by the size of the log or by hand",
                    thousands(row.requested),
                    thousands(row.requested + row.timed)
                ),
                format!(
                    "if no backups or CREATE DATABASE asked for them: ALTER SYSTEM SET max_wal_size to more than {}, \
                     then SELECT pg_reload_conf()",
                    row.max_wal_size
                ),
            );
        }
    }
    Ok(judged)
}

/// Tells what is large and finds nothing wrong with it.
#[allow(clippy::unnecessary_wraps)] // A judge like the others.
pub(crate) fn disk(_: &Server, _: &[Row]) -> Result<Judged, Error> {
    Ok(Judged::default())
}

#[derive(Deserialize)]
struct WalDirectory {
    bytes: u64,
    files: u64,
    max_wal_bytes: u64,
    keep_bytes: u64,
}

pub(crate) fn wal_directory(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<WalDirectory>(rows)? {
        // A checkpoint may let the log grow to max_wal_size while it runs; twice that is kept by something.
        if row.bytes > 2 * row.max_wal_bytes + row.keep_bytes {
            judged.found(
                "wal_directory_large",
                Severity::Warning,
                "",
                format!(
                    "the write-ahead log takes {} in {}, beyond twice max_wal_size ({})",
                    size(row.bytes),
                    count(row.files, "file"),
                    size(row.max_wal_bytes)
                ),
                "a slot, a failing archive or wal_keep_size keeps it: see the checks of replication",
            );
        }
    }
    Ok(judged)
}
