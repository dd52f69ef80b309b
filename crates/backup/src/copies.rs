//! What the ledger knows of copies: backups that lie in further repositories.

use std::collections::BTreeMap;

use contract::{Context, Error};
use jiff::Timestamp;
use ledger::{Ledger, NewEvent, Row, Write};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::catalog::Recorded;

/// A copy of a backup, whose manifest and bytes were read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Copied {
    /// Where it is kept.
    pub repository: String,
    /// The repository's id.
    pub snapshot: String,
    /// When it was made.
    #[schemars(with = "String")]
    pub copied_at: Timestamp,
    /// When its manifest and bytes were last read back; not yet, where it was found in its repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub verified_at: Option<Timestamp>,
    /// Bytes that its repository had not yet.
    pub bytes_added: u64,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Copied {
    /// Whether it was read back and was sound.
    pub(crate) fn is_sound(&self) -> bool {
        self.problem.is_none() && self.verified_at.is_some()
    }
}

const FOUND: &str = "INSERT INTO backup_copies (project, backup, repository, snapshot, state, copied_us, verified_us, bytes_added, problem) \
     VALUES (?, ?, ?, ?, 'complete', ?, 0, 0, ?) ON CONFLICT (project, backup, repository) DO UPDATE SET \
     snapshot = excluded.snapshot, state = 'complete', copied_us = excluded.copied_us, verified_us = 0, bytes_added = 0, \
     problem = excluded.problem";
const DOUBT: &str = "UPDATE backup_copies SET problem = ? WHERE project = ? AND backup = ? AND repository = ? AND state = 'complete'";
const RECORD: &str = "INSERT INTO backup_copies (project, backup, repository, snapshot, state, copied_us, verified_us, bytes_added) \
     VALUES (?, ?, ?, ?, 'complete', ?, ?, ?) ON CONFLICT (project, backup, repository) DO UPDATE SET \
     snapshot = excluded.snapshot, state = 'complete', copied_us = excluded.copied_us, verified_us = excluded.verified_us, \
     bytes_added = excluded.bytes_added, problem = NULL";
const VERIFIED: &str = "UPDATE backup_copies SET verified_us = ?, problem = ? WHERE project = ? AND backup = ? AND repository = ? \
     AND state = 'complete'";
const FORGET: &str =
    "UPDATE backup_copies SET state = 'forgotten' WHERE project = ? AND backup = ? AND repository = ?";
const OF_ALL: &str = "SELECT * FROM backup_copies WHERE project = ? AND (? = '' OR backup = ?) AND state = 'complete' \
     ORDER BY backup, copied_us, repository";

fn read(row: &Row) -> Result<(String, Copied), Error> {
    let copied = Copied {
        repository: row.get_text("repository")?.to_owned(),
        snapshot: row.get_text("snapshot")?.to_owned(),
        copied_at: row.get_time("copied_us")?,
        // 0: never.
        verified_at: row.get_opt_time("verified_us")?.filter(|at| *at > Timestamp::UNIX_EPOCH),
        bytes_added: row.get_opt_i64("bytes_added")?.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        problem: row.get_opt_text("problem")?.map(str::to_owned),
    };
    Ok((row.get_text("backup")?.to_owned(), copied))
}

/// Fills in the copies of these backups.
pub(crate) async fn fill(ctx: &Context, ledger: &Ledger, backups: &mut [Recorded]) -> Result<(), Error> {
    let only = if let [one] = &backups[..] { one.id.clone() } else { String::new() };
    if backups.is_empty() {
        return Ok(());
    }
    let rows = ledger.query(OF_ALL, vec![ctx.project().into(), only.clone().into(), only.into()]).await?;
    let mut by_backup: BTreeMap<String, Vec<Copied>> = BTreeMap::new();
    for row in &rows {
        let (backup, copied) = read(row)?;
        by_backup.entry(backup).or_default().push(copied);
    }
    for backup in backups {
        backup.copies = by_backup.remove(&backup.id).unwrap_or_default();
    }
    Ok(())
}

/// Records a copy that was read back.
pub(crate) async fn record(
    ctx: &Context,
    ledger: &Ledger,
    backup: &str,
    repository: &str,
    snapshot: &str,
    bytes_added: u64,
) -> Result<(), Error> {
    let now = ctx.now().as_microsecond();
    let write = Write::new()
        .exec(
            RECORD,
            vec![
                ctx.project().into(),
                backup.into(),
                repository.into(),
                snapshot.into(),
                now.into(),
                now.into(),
                bytes_added.into(),
            ],
        )
        .event(NewEvent::new(
            "backup.copied",
            format!("backup:{backup}"),
            json!({ "repository": repository, "snapshot": snapshot, "bytes_added": bytes_added }),
        ));
    ledger.write(ctx, write).await.map(|_| ())
}

/// Records a copy that was found in its repository, of which only the manifest was read.
pub(crate) async fn found(
    ctx: &Context,
    ledger: &Ledger,
    backup: &str,
    repository: &str,
    snapshot: &str,
    made_at: Timestamp,
    problem: Option<&str>,
) -> Result<(), Error> {
    let write = Write::new()
        .exec(
            FOUND,
            vec![
                ctx.project().into(),
                backup.into(),
                repository.into(),
                snapshot.into(),
                made_at.as_microsecond().into(),
                problem.map(str::to_owned).into(),
            ],
        )
        .event(NewEvent::new(
            "backup.copy_found",
            format!("backup:{backup}"),
            json!({ "repository": repository, "snapshot": snapshot, "problem": problem }),
        ));
    ledger.write(ctx, write).await.map(|_| ())
}

/// Records what is wrong with a copy without having looked at its bytes.
pub(crate) async fn doubt(
    ctx: &Context,
    ledger: &Ledger,
    backup: &str,
    repository: &str,
    problem: &str,
) -> Result<(), Error> {
    let write = Write::new()
        .exec(DOUBT, vec![problem.into(), ctx.project().into(), backup.into(), repository.into()])
        .event(NewEvent::new(
            "backup.copy_doubted",
            format!("backup:{backup}"),
            json!({ "repository": repository, "problem": problem }),
        ));
    ledger.write(ctx, write).await.map(|_| ())
}

/// Records what a look at a copy found.
pub(crate) async fn verified(
    ctx: &Context,
    ledger: &Ledger,
    backup: &str,
    repository: &str,
    problem: Option<&str>,
) -> Result<(), Error> {
    let write = Write::new()
        .exec(
            VERIFIED,
            vec![
                ctx.now().as_microsecond().into(),
                problem.map(str::to_owned).into(),
                ctx.project().into(),
                backup.into(),
                repository.into(),
            ],
        )
        .event(NewEvent::new(
            "backup.copy_verified",
            format!("backup:{backup}"),
            json!({ "repository": repository, "problem": problem }),
        ));
    ledger.write(ctx, write).await.map(|_| ())
}

/// Records that a copy was taken off its repository's list.
pub(crate) async fn forget(
    ctx: &Context,
    ledger: &Ledger,
    backup: &str,
    repository: &str,
) -> Result<(), Error> {
    let write = Write::new()
        .exec(FORGET, vec![ctx.project().into(), backup.into(), repository.into()])
        .event(NewEvent::new(
            "backup.copy_forgotten",
            format!("backup:{backup}"),
            json!({ "repository": repository }),
        ));
    ledger.write(ctx, write).await.map(|_| ())
}
