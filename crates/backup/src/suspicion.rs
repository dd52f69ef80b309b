//! What is odd about a backup beside the one before it: an empty dump is a perfect dump of nothing.

use contract::quantity::{size, thousands};

use crate::manifest::Manifest;

/// Tables with fewer rows come and go.
const ROWS_MANY: u64 = 100;
/// A backup with less than this share of the bytes of the one before is odd, in percent.
const SHRUNK_PERCENT: u64 = 50;
/// Backups with fewer bytes come and go.
const BYTES_MANY: u64 = 1 << 20;
/// Names that are said of each kind.
const NAMED_MAX: usize = 5;

/// What is odd about `now`, in sentences; `before` is the backup before it of the same store.
pub(crate) fn suspicions(now: &Manifest, before: Option<&Manifest>) -> Vec<String> {
    let mut odd = Vec::new();
    let Some(before) = before else { return odd };
    let (was, is) = (&before.dumped, &now.dumped);
    if was.identity != is.identity {
        odd.push(
            "it is of another database than the backup before: the address leads elsewhere now".to_owned(),
        );
    }
    let of = |name: &str| is.tables.iter().find(|table| table.table == name);
    let many = || was.tables.iter().filter(|table| table.rows >= ROWS_MANY);
    let emptied: Vec<String> = many()
        .filter(|table| of(&table.table).is_some_and(|now| now.rows == 0))
        .map(|table| format!("{} (had {} rows)", table.table, thousands(table.rows)))
        .collect();
    if !emptied.is_empty() {
        odd.push(format!("empty now: {}", named(&emptied)));
    }
    let gone: Vec<String> = many()
        .filter(|table| of(&table.table).is_none())
        .map(|table| format!("{} (had {} rows)", table.table, thousands(table.rows)))
        .collect();
    if !gone.is_empty() && was.method == is.method {
        odd.push(format!("no longer there: {}", named(&gone)));
    }
    let bytes = |manifest: &Manifest| manifest.parts.iter().map(|part| part.bytes).sum::<u64>();
    let (bytes_before, bytes_now) = (bytes(before), bytes(now));
    if was.method == is.method
        && bytes_before >= BYTES_MANY
        && bytes_now < bytes_before / 100 * SHRUNK_PERCENT
    {
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
        assert_eq!(
            suspicions(&manifest(&[("orders", 5_100), ("teams", 0)], 11 << 20), Some(&before)),
            [""; 0]
        );
        assert_eq!(suspicions(&before, None), [""; 0]);
        let odd = suspicions(&manifest(&[("orders", 0), ("teams", 7)], 10 << 20), Some(&before));
        assert_eq!(odd, ["empty now: orders (had 5,000 rows)"]);
        let odd = suspicions(&manifest(&[("teams", 7)], 4 << 20), Some(&before));
        assert_eq!(odd, ["no longer there: orders (had 5,000 rows)", "4.0 MiB where there were 10.0 MiB"]);
        let mut other = before.clone();
        other.dumped.identity = "two".into();
        assert_eq!(suspicions(&other, Some(&before)).len(), 1);
    }
}
