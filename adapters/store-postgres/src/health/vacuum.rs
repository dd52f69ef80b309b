//! Dead rows, statistics of the planner, and the age of transaction ids.

use contract::quantity::{percent, thousands};
use contract::{Error, Severity, Trigger};
use serde::Deserialize;

pub(crate) use super::activity::horizon;
use super::judgement::{Judged, Row, Server, count, read};

/// Dead rows below this do not matter, whatever their share.
const DEAD_ROWS_MIN: u64 = 10_000;
/// So many times the dead rows at which autovacuum begins mean that it does not keep up.
///
/// Source: PostgreSQL manual, "The Autovacuum Daemon": a table is vacuumed at threshold + scale factor × rows.
const DEAD_ROWS_FACTOR: f64 = 2.0;
/// Rows of a table from which on the planner's guesses matter.
const STATISTICS_ROWS_MIN: u64 = 1_000;
/// Changed rows from which on stale statistics matter.
const CHANGED_ROWS_MIN: u64 = 10_000;
/// Share of a table's rows that may have changed since the last ANALYZE; autovacuum analyzes at 10 %.
const CHANGED_SHARE: f64 = 0.5;
/// Rows of a table that was never vacuumed from which on it is worth saying.
const NEVER_VACUUMED_ROWS_MIN: u64 = 100_000;
/// Age of ids from which on vacuum is plainly not freezing: two and a half times where autovacuum forces it.
///
/// Source: PostgreSQL manual, "Preventing Transaction ID Wraparound Failures": forced at 200 million by default, the
/// server warns at 2,107 million and stops assigning ids at 2,144 million.
const AGE_WARNING: u64 = 500_000_000;
/// Age of ids at which a busy server has days left.
const AGE_CRITICAL: u64 = 1_200_000_000;
/// Where the server stops.
const AGE_END: u64 = 2_144_483_647;

#[derive(Deserialize)]
struct DeadRows {
    name: String,
    live: u64,
    dead: u64,
    autovacuum_at: f64,
}

#[allow(clippy::cast_precision_loss)] // Only shares and thresholds are computed.
pub(crate) fn dead_rows(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<DeadRows>(rows)? {
        if row.dead < DEAD_ROWS_MIN || (row.dead as f64) < DEAD_ROWS_FACTOR * row.autovacuum_at {
            continue;
        }
        let share = row.dead as f64 / (row.live + row.dead) as f64;
        judged.found(
            "dead_rows",
            Severity::Warning,
            &row.name,
            format!(
                "{} of `{}` are dead ({}), and autovacuum has not come",
                count(row.dead, "row"),
                row.name,
                percent(share)
            ),
            format!("VACUUM (ANALYZE) {}", row.name),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Statistics {
    name: String,
    live: u64,
    changed: u64,
    inserted: u64,
    known_rows: f64,
    analyzed: bool,
    vacuumed: bool,
}

#[allow(clippy::cast_precision_loss)] // Only shares are computed.
pub(crate) fn statistics(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Statistics>(rows)? {
        let share = row.changed as f64 / row.live.max(1) as f64;
        if row.live >= STATISTICS_ROWS_MIN && !row.analyzed {
            judged.found(
                "never_analyzed",
                Severity::Warning,
                &row.name,
                format!(
                    "`{}` has about {} and the planner knows nothing of them",
                    row.name,
                    count(row.live, "row")
                ),
                format!("ANALYZE {}", row.name),
            );
        } else if row.changed >= CHANGED_ROWS_MIN && share >= CHANGED_SHARE {
            judged.found(
                "statistics_stale",
                Severity::Warning,
                &row.name,
                format!(
                    "{} of `{}` have changed since it was analyzed ({} of what it holds)",
                    count(row.changed, "row"),
                    row.name,
                    percent(share)
                ),
                format!("ANALYZE {}", row.name),
            );
        }
        if !row.vacuumed && row.inserted >= NEVER_VACUUMED_ROWS_MIN && row.known_rows >= 0.0 {
            judged.found(
                "never_vacuumed",
                Severity::Warning,
                &row.name,
                format!("`{}` has {} and was never vacuumed", row.name, count(row.inserted, "row")),
                format!("VACUUM (ANALYZE) {}", row.name),
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

pub(crate) fn autovacuum_off(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Named>(rows)? {
        judged.found(
            "autovacuum_off_for_table",
            Severity::Warning,
            &row.name,
            format!("autovacuum is switched off for `{}`", row.name),
            format!("ALTER TABLE {} RESET (autovacuum_enabled)", row.name),
        );
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Age {
    kind: String,
    name: String,
    transactions: u64,
    multixacts: u64,
}

pub(crate) fn wraparound(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Age>(rows)? {
        for (code, noun, age) in [
            ("transaction_ids_run_out", "transaction id", row.transactions),
            ("multixact_ids_run_out", "multixact id", row.multixacts),
        ] {
            // Ids beyond the range mean "none" to the server, as for an empty database's multixacts.
            if !(AGE_WARNING..=i32::MAX.unsigned_abs().into()).contains(&age) {
                continue;
            }
            let title = format!(
                "the oldest {noun} of {} `{}` is {} old; the server stops writing at {}",
                row.kind,
                row.name,
                thousands(age),
                thousands(AGE_END)
            );
            let fix = match row.kind.as_str() {
                "table" => format!("VACUUM (FREEZE, VERBOSE) {}", row.name),
                _ if row.name == server.database => {
                    "VACUUM (FREEZE) the tables named below; end what holds vacuum back first".to_owned()
                }
                _ => format!("vacuumdb --all --freeze, or at least `VACUUM (FREEZE)` in `{}`", row.name),
            };
            if age >= AGE_CRITICAL {
                judged.escalated(Trigger::DataLossRisk, code, &row.name, title, fix);
            } else {
                judged.found(code, Severity::Warning, &row.name, title, fix);
            }
        }
    }
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Recorded rows with the ages changed: two thousand million transactions are not to be had in a test.
    #[test]
    fn ages_of_ids_are_judged() {
        let row = |transactions: u64, multixacts: u64| {
            let row = json!({"kind": "database", "name": "shop", "transactions": transactions, "multixacts": multixacts});
            row.as_object().expect("an object").clone()
        };
        for (transactions, multixacts, codes) in [
            (200_000_000, 0, vec![]),
            (499_999_999, i64::from(i32::MAX).unsigned_abs() + 1, vec![]),
            (500_000_000, 0, vec![("transaction_ids_run_out", Severity::Warning)]),
            (1_200_000_000, 0, vec![("transaction_ids_run_out", Severity::Critical)]),
            (0, 1_500_000_000, vec![("multixact_ids_run_out", Severity::Critical)]),
        ] {
            let judged = wraparound(&Server::default(), &[row(transactions, multixacts)]).expect("rows fit");
            let found: Vec<_> =
                judged.findings.iter().map(|finding| (finding.code.as_str(), finding.severity)).collect();
            assert_eq!(found, codes, "{transactions} {multixacts}");
            for finding in judged.findings {
                let escalates = finding.severity == Severity::Critical;
                assert_eq!(finding.escalate, escalates.then_some(Trigger::DataLossRisk));
            }
        }
    }

    /// Recorded rows: ten million transactions take too long for a test.
    #[test]
    fn what_holds_vacuum_back_is_named() {
        let row = json!({"kind": "slot", "holder": "old_copy", "age": 10_000_000});
        let server = Server { superuser: true, ..Server::default() };
        let judged = horizon(&server, &[row.as_object().expect("an object").clone()]).expect("rows fit");
        assert_eq!(judged.findings[0].code, "vacuum_held_back");
        assert!(judged.findings[0].fix.contains("pg_drop_replication_slot('old_copy')"), "{judged:?}");
    }
}
