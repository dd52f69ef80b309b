//! Copies of the server, slots, the archive, publications.

use contract::quantity::{size, span};
use contract::{Error, Severity, Trigger};
use serde::Deserialize;

use super::judgement::{Judged, Row, Server, count, read};

/// So many times max_wal_size kept by one slot is a disk that fills.
const SLOT_CRITICAL_FACTOR: f64 = 8.0;
/// A copy so far behind answers with old data, and a failover to it loses that much.
const BEHIND_BYTES: f64 = 256.0 * 1024.0 * 1024.0;
/// The same in time.
const BEHIND_SECONDS: f64 = 60.0;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Saturates; neither is negative.
fn bytes(value: f64) -> String {
    size(value.max(0.0) as u64)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Saturates; neither is negative.
fn seconds(value: f64) -> String {
    span(value.max(0.0) as u64)
}

#[derive(Deserialize)]
struct Slot {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    active: bool,
    wal_status: String,
    retained_bytes: Option<f64>,
    max_wal_bytes: f64,
    keep_max_bytes: f64,
    quoted_name: String,
}

pub(crate) fn slots(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Slot>(rows)? {
        let drop = format!("SELECT pg_drop_replication_slot({})", row.quoted_name);
        if row.wal_status == "lost" {
            judged.found(
                "slot_lost",
                Severity::Critical,
                &row.name,
                format!(
                    "the {} slot `{}` has lost log that it needed: its copy cannot go on",
                    row.kind, row.name
                ),
                format!("{drop}, and build the copy anew"),
            );
            continue;
        }
        if !row.active {
            judged.found(
                "slot_inactive",
                Severity::Warning,
                &row.name,
                format!("nobody reads the {} slot `{}`, and the server keeps log for it", row.kind, row.name),
                format!("bring its reader back, or {drop}"),
            );
        }
        let retained = row.retained_bytes.unwrap_or(0.0);
        if retained > row.max_wal_bytes || row.wal_status == "unreserved" {
            // A limit ends it before the disk is full; the copy is what is lost then.
            let unlimited = row.keep_max_bytes < 0.0;
            let critical = unlimited && retained > SLOT_CRITICAL_FACTOR * row.max_wal_bytes;
            let limit = if unlimited { "without a limit" } else { "up to max_slot_wal_keep_size" };
            let title = format!(
                "the slot `{}` keeps {} of log, more than max_wal_size ({}), {limit}",
                row.name,
                bytes(retained),
                bytes(row.max_wal_bytes)
            );
            let fix = format!(
                "bring its reader back, or {drop}; set max_slot_wal_keep_size so that no slot fills the disk"
            );
            if critical {
                judged.escalated(Trigger::DataLossRisk, "slot_retains_wal", &row.name, title, fix);
            } else {
                judged.found("slot_retains_wal", Severity::Warning, &row.name, title, fix);
            }
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Replica {
    synchronous_names: String,
    pid: Option<i64>,
    name: Option<String>,
    state: Option<String>,
    sync_state: Option<String>,
    behind_bytes: Option<f64>,
    behind_seconds: Option<f64>,
}

pub(crate) fn replicas(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    let rows: Vec<Replica> = read(rows)?;
    let wanted = rows.first().map(|row| row.synchronous_names.clone()).unwrap_or_default();
    let synchronous = |row: &Replica| {
        row.state.as_deref() == Some("streaming")
            && matches!(row.sync_state.as_deref(), Some("sync" | "quorum"))
    };
    if !wanted.is_empty() && server.sees_others() && !rows.iter().any(synchronous) {
        judged.escalated(
            Trigger::PerformanceDegradation,
            "synchronous_standby_missing",
            &wanted,
            format!("commits wait for `{wanted}`, and no synchronous copy is connected: writes hang"),
            "bring the copy back; to write without it: ALTER SYSTEM SET synchronous_standby_names = '', then SELECT \
             pg_reload_conf()",
        );
    }
    for row in rows.iter().filter(|row| row.pid.is_some()) {
        let (behind, late) = (row.behind_bytes.unwrap_or(0.0), row.behind_seconds.unwrap_or(0.0));
        if behind >= BEHIND_BYTES || late >= BEHIND_SECONDS {
            let name = row.name.as_deref().unwrap_or_default();
            judged.found(
                "replica_behind",
                Severity::Warning,
                name,
                format!("the copy `{name}` is {} and {} behind", bytes(behind), seconds(late)),
                "look at its disk, its network and its long queries; until then do not read from it what must be new",
            );
        }
    }
    judged.hidden = server.others_hidden();
    Ok(judged)
}

#[derive(Deserialize)]
struct Archiver {
    mode: String,
    without_command: bool,
    failed: u64,
    failed_segment: Option<String>,
    failing: bool,
    archived_seconds_ago: Option<f64>,
}

pub(crate) fn archiver(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Archiver>(rows)? {
        if row.mode == "off" {
            judged.found(
                "archive_off",
                Severity::Info,
                "",
                "the write-ahead log is not archived: a restore reaches the last backup and no later moment".into(),
                "set archive_mode and archive_command (or a backup tool that streams the log), if that is too little",
            );
        } else if row.without_command {
            judged.found(
                "archive_without_command",
                Severity::Warning,
                "",
                "archive_mode is on without archive_command or archive_library: the log piles up".into(),
                "set archive_command, or switch archive_mode off",
            );
        } else if row.failing {
            let last = match row.archived_seconds_ago {
                Some(age) => format!("the last success was {} ago", seconds(age)),
                None => "it has never worked".to_owned(),
            };
            judged.escalated(
                Trigger::BackupFailure,
                "archive_failing",
                "",
                format!(
                    "archiving fails ({}, now at `{}`) and {last}: no restore to a moment, and the log piles up",
                    count(row.failed, "failure"),
                    row.failed_segment.as_deref().unwrap_or("?")
                ),
                "the server's log has the command's words; make its target reachable and writable",
            );
        }
    }
    Ok(judged)
}

#[derive(Deserialize)]
struct Standby {
    paused: bool,
    receivers: u64,
    waiting_bytes: Option<f64>,
    seconds_behind: Option<f64>,
}

pub(crate) fn standby(server: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Standby>(rows)? {
        let old =
            row.seconds_behind.map_or_else(String::new, |age| format!("; its data are {} old", seconds(age)));
        if row.paused {
            judged.found(
                "replay_paused",
                Severity::Warning,
                "",
                format!("this standby has paused to replay{old}"),
                "SELECT pg_wal_replay_resume()",
            );
        }
        if row.receivers == 0 && server.sees_others() {
            judged.found(
                "standby_disconnected",
                Severity::Warning,
                "",
                format!("this standby receives nothing from its primary{old}"),
                "check primary_conninfo, the network and the primary's pg_hba.conf; a standby that reads from an archive \
                 alone is always so",
            );
        } else if row.waiting_bytes.is_some_and(|waiting| waiting >= BEHIND_BYTES) {
            judged.found(
                "standby_behind",
                Severity::Warning,
                "",
                format!(
                    "{} that this standby received are not replayed{old}",
                    bytes(row.waiting_bytes.unwrap_or(0.0))
                ),
                "end the long queries that replay waits for, or lower max_standby_streaming_delay",
            );
        }
    }
    judged.hidden = server.others_hidden();
    Ok(judged)
}

#[derive(Deserialize)]
struct Published {
    publication: String,
    name: String,
}

pub(crate) fn publications(_: &Server, rows: &[Row]) -> Result<Judged, Error> {
    let mut judged = Judged::default();
    for row in read::<Published>(rows)? {
        judged.found(
            "published_table_without_identity",
            Severity::Warning,
            &row.name,
            format!(
                "`{}` is published by `{}` and its rows have no identity: UPDATE and DELETE fail",
                row.name, row.publication
            ),
            format!(
                "give `{name}` a primary key, or ALTER TABLE {name} REPLICA IDENTITY FULL",
                name = row.name
            ),
        );
    }
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::health::judgement::Judge;

    type Expected = Option<(&'static str, Option<Trigger>)>;

    /// Recorded rows with other numbers: copies that are far behind, and slots that lost their log.
    #[test]
    fn copies_and_slots_are_judged() {
        let slot = |status: &str, retained: f64, keep: f64| {
            json!({"name": "s", "type": "physical", "active": true, "wal_status": status, "retained_bytes": retained,
                   "max_wal_bytes": 1e9, "keep_max_bytes": keep, "quoted_name": "'s'"})
        };
        let replica = |bytes: f64, seconds: f64| {
            json!({"synchronous_names": "", "pid": 1, "name": "copy", "state": "streaming", "sync_state": "async",
                   "behind_bytes": bytes, "behind_seconds": seconds})
        };
        let archive = json!({"mode": "on", "without_command": true, "failed": 0, "failed_segment": null,
                             "failing": false, "archived_seconds_ago": null});
        let standby_row =
            json!({"paused": false, "receivers": 1, "waiting_bytes": 3e8, "seconds_behind": 120.0});
        let cases: [(Judge, Value, Expected); 8] = [
            (slots, slot("lost", 0.0, 1e9), Some(("slot_lost", None))),
            (slots, slot("extended", 2e9, -1.0), Some(("slot_retains_wal", None))),
            (slots, slot("extended", 9e9, -1.0), Some(("slot_retains_wal", Some(Trigger::DataLossRisk)))),
            (slots, slot("reserved", 9e8, -1.0), None),
            (replicas, replica(3e8, 1.0), Some(("replica_behind", None))),
            (replicas, replica(1e3, 1.0), None),
            (archiver, archive, Some(("archive_without_command", None))),
            (standby, standby_row, Some(("standby_behind", None))),
        ];
        for (judge, row, expected) in cases {
            let server = Server { superuser: true, ..Server::default() };
            let judged = judge(&server, &[row.as_object().expect("an object").clone()]).expect("rows fit");
            let found: Vec<_> =
                judged.findings.iter().map(|finding| (finding.code.as_str(), finding.escalate)).collect();
            assert_eq!(found, Vec::from_iter(expected), "{row}");
        }
    }
}
