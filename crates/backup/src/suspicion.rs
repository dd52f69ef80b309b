//! What is odd about a backup beside the newest one about which nothing was: an empty dump is a perfect dump of nothing.

use std::sync::Arc;

use contract::quantity::{size, thousands};
use contract::{Context, Error, Finding, Repository, Severity, Trigger};
use jiff::Timestamp;

use crate::Surroundings;
use crate::catalog::{self, Counted, Recorded};
use crate::manifest::Manifest;
use crate::run::read_manifest;

/// Tables with fewer rows come and go.
const ROWS_MANY: u64 = 100;
/// A backup with less than this share of the bytes of the one before is odd, in percent.
const SHRUNK_PERCENT: u64 = 50;
/// Backups with fewer bytes come and go.
const BYTES_MANY: u64 = 1 << 20;
/// Names that are said of each kind.
const NAMED_MAX: usize = 5;

/// What is odd about a backup beside the newest one of its series about which nothing is, or was accepted. `begun_before`: only with
/// what was begun before that moment.
///
/// # Errors
///
/// As the ledger's. What cannot be read is passed by for the next one.
pub(crate) async fn of_manifest(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    backup: &Recorded,
    manifest: &Manifest,
    begun_before: Option<Timestamp>,
) -> Result<Vec<String>, Error> {
    for before in catalog::baselines(ctx, around.ledger(), backup, begun_before).await? {
        match read_manifest(ctx, repository, &before).await {
            Ok(before) => return Ok(suspicions(manifest, &before)),
            Err(error) => {
                tracing::warn!(backup = before.id, %error, "a backup cannot be compared with");
            }
        }
    }
    Ok(Vec::new())
}

/// What is odd about the rows that were counted in the restored copy, where the dump saw none. Nothing where nothing was counted before.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn of_counted(
    ctx: &Context,
    around: &dyn Surroundings,
    backup: &Recorded,
    counted: &Counted,
) -> Result<Vec<String>, Error> {
    for before in catalog::baselines(ctx, around.ledger(), backup, Some(backup.begun_at)).await? {
        if let Some(before) = catalog::counted(ctx, around.ledger(), &before.id).await? {
            return Ok(of_tables(&before, counted));
        }
    }
    Ok(Vec::new())
}

/// What people are told of it.
pub(crate) fn finding(backup: &Recorded, odd: &str) -> Finding {
    Finding {
        code: "backup_suspicious".into(),
        severity: Severity::Critical,
        title: format!("the backup of {} is suspicious: {odd}", backup.store),
        object: backup.store.clone(),
        recommendation: Some(format!(
            "find out whether the data was meant to go; until somebody accepts it, no backup of {} is deleted: \
             steward backup accept {}",
            backup.store, backup.id
        )),
        evidence: Vec::new(),
        escalate: Some(Trigger::DataLossRisk),
    }
}

fn rows(manifest: &Manifest) -> Counted {
    manifest.dumped.tables.iter().map(|table| (table.table.clone(), table.rows)).collect()
}

/// Tables that had many rows and have none, and such as are gone.
fn of_tables(was: &Counted, is: &Counted) -> Vec<String> {
    let mut odd = Vec::new();
    let had = |(table, rows): (&String, &u64)| format!("{table} (had {} rows)", thousands(*rows));
    let many = || was.iter().filter(|(_, rows)| **rows >= ROWS_MANY);
    let emptied: Vec<String> = many().filter(|(table, _)| is.get(*table) == Some(&0)).map(had).collect();
    if !emptied.is_empty() {
        odd.push(format!("empty now: {}", named(&emptied)));
    }
    let gone: Vec<String> = many().filter(|(table, _)| !is.contains_key(*table)).map(had).collect();
    if !gone.is_empty() {
        odd.push(format!("no longer there: {}", named(&gone)));
    }
    odd
}

/// What is odd about `now`, in sentences; `before` is an earlier backup of the same store by the same method.
fn suspicions(now: &Manifest, before: &Manifest) -> Vec<String> {
    let mut odd = Vec::new();
    let (was, is) = (&before.dumped, &now.dumped);
    if was.identity != is.identity {
        odd.push(
            "it is of another database than the backup before: the address leads elsewhere now".to_owned(),
        );
    }
    odd.extend(of_tables(&rows(before), &rows(now)));
    let bytes = |manifest: &Manifest| manifest.parts.iter().map(|part| part.bytes).sum::<u64>();
    let (bytes_before, bytes_now) = (bytes(before), bytes(now));
    if bytes_before >= BYTES_MANY && bytes_now < bytes_before / 100 * SHRUNK_PERCENT {
        odd.push(format!("{} where there were {}", size(bytes_now), size(bytes_before)));
    }
    odd
}

fn named(names: &[String]) -> String {
    match names.len() {
        0..=NAMED_MAX => names.join(", "),
        more => format!("{} and {} more", names[..NAMED_MAX].join(", "), more - NAMED_MAX),
    }
}

#[cfg(test)]
mod tests {
    use contract::{BackupMethod, Dumped, Layout, PartRecord, RecoveryPoint, TableDigest};

    use super::*;

    fn manifest(tables: &[(&str, u64)], bytes: u64) -> Manifest {
        let at = "2026-03-04T05:06:07Z".parse().unwrap();
        Manifest {
            version: 1,
            id: "b".into(),
            project: "p".into(),
            plan: "shop".into(),
            together: None,
            store: "shop".into(),
            begun_at: at,
            ended_at: at,
            written_by: "steward".into(),
            dumped: Dumped {
                kind: "sqlite".into(),
                version: "3".into(),
                identity: "one".into(),
                address: "app.db".into(),
                method: BackupMethod::Physical,
                layout: Layout::Pages,
                point: RecoveryPoint { at, server_at: None, position: None, timeline: None },
                tables: tables
                    .iter()
                    .map(|(table, rows)| TableDigest {
                        table: (*table).into(),
                        rows: *rows,
                        bytes: 0,
                        digest: String::new(),
                    })
                    .collect(),
                schema_sha256: String::new(),
                needs: Vec::new(),
                left_out: Vec::new(),
                tools: Vec::new(),
                detail: serde_json::Value::Null,
            },
            parts: vec![PartRecord { path: "app.db".into(), bytes, sha256: String::new() }],
            signature: None,
            raw: bytes::Bytes::new(),
        }
    }

    #[test]
    fn tables_that_lost_their_rows_are_odd_and_growth_is_not() {
        let before = manifest(&[("orders", 5_000), ("teams", 7)], 10 << 20);
        assert_eq!(suspicions(&manifest(&[("orders", 5_100), ("teams", 0)], 11 << 20), &before), [""; 0]);
        let odd = suspicions(&manifest(&[("orders", 0), ("teams", 7)], 10 << 20), &before);
        assert_eq!(odd, ["empty now: orders (had 5,000 rows)"]);
        let odd = suspicions(&manifest(&[("teams", 7)], 4 << 20), &before);
        assert_eq!(odd, ["no longer there: orders (had 5,000 rows)", "4.0 MiB where there were 10.0 MiB"]);
        let mut other = before.clone();
        other.dumped.identity = "two".into();
        assert_eq!(suspicions(&other, &before).len(), 1);
    }
}
