//! Copying backups into further repositories, so that no place is the only one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use contract::quantity::{count, size};
use contract::{
    BackupLabel, BackupMethod, Context, Effect, Error, ErrorKind, Finding, Kept, Outcome, PART_BYTES_MAX,
    Part, PartBody, PartSource, Permit, Plan, PlanStep, Repository, Request, Severity, StepMode, Trigger,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Recorded, State};
use crate::config::PlanConfig;
use crate::copies;
use crate::log_copies;
use crate::manifest::Manifest;
use crate::places::{Places, is_the_place};
use crate::run::{Scratch, kept, layout, plan_named};
use crate::verify::backup_named;

/// Most backups that `--all` looks at.
const ALL_MAX: u32 = 10_000;

/// Copies backups into further repositories. What a repository has already is not sent again; a copy counts once its manifest
/// and all its bytes were read back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyBackup {
    /// The backup's id, or a store, whose newest backup is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// All backups that were restored and compared, instead of one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// The repository. Default: those under `copies` in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Request for CopyBackup {
    const NAME: &'static str = "backup.copy";
    const SUMMARY: &'static str = "Copy backups into further repositories, and read the copies back";
    const EXAMPLE: &'static str = "steward backup copy orders --to far";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.run";
    const POSITIONAL: &'static [&'static str] = &["backup"];
}

/// What is missing in a repository.
enum Missing {
    /// A copy, with the log behind it.
    Backup { backup: Box<Recorded>, to: String },
    /// The log behind copies that are there.
    Log { store: String, to: String, title: String },
}

/// Whether a repository lacks a part of the log behind copies that are there. One that cannot be asked is asked again when it is done.
async fn missing_log(
    ctx: &Context,
    around: &dyn Surroundings,
    store: &str,
    to: &str,
) -> Result<Option<Missing>, Error> {
    let title = match log_copies::lacking(ctx, around, store, to).await {
        Ok(None) => return Ok(None),
        Ok(Some(lacking)) => format!(
            "copy {} of the log of {store} from {} to {to}",
            count(lacking.pieces.len() as u64, "piece"),
            lacking.from()
        ),
        Err(error) if is_the_place(&error) => format!("copy the log of {store} to {to}"),
        Err(error) => return Err(error),
    };
    Ok(Some(Missing::Log { store: store.to_owned(), to: to.to_owned(), title }))
}

/// The copies that a request asks for and that are not there.
async fn missing(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &CopyBackup,
) -> Result<Vec<Missing>, Error> {
    let backups = match (&request.backup, request.all) {
        (Some(name), false) => vec![backup_named(ctx, around, name).await?],
        (None, true) => {
            let mut all = catalog::list(ctx, around.ledger(), None, ALL_MAX).await?;
            all.retain(|it| it.state == State::Complete && it.level.is_proven() && it.problem.is_none());
            all.reverse();
            all
        }
        _ => {
            return Err(Error::new(ErrorKind::Invalid, "name one backup or store, or ask for all")
                .with("argument", "backup")
                .hint("steward backup copy orders, or steward backup copy --all"));
        }
    };
    let known = around.repositories();
    if let Some(to) = request.to.as_ref().filter(|to| !known.contains(to)) {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no repository `{to}`"))
            .hint(format!("there are: {}", known.join(", "))));
    }
    let (mut missing, mut logs) = (Vec::new(), BTreeSet::new());
    let mut asked = false;
    for backup in backups {
        let targets = match &request.to {
            Some(to) => vec![to.clone()],
            None => plan_of(ctx, around, &backup).copies,
        };
        asked |= !targets.is_empty();
        for to in targets {
            let there = |it: &copies::Copied| it.repository == to && it.is_sound();
            if to == backup.repository {
                continue;
            }
            if !backup.copies.iter().any(there) {
                missing.push(Missing::Backup { backup: Box::new(backup.clone()), to });
            } else if backup.method == BackupMethod::Physical {
                logs.insert((backup.store.clone(), to));
            }
        }
    }
    if !asked && !request.all {
        return Err(Error::new(ErrorKind::Invalid, "the plan names no copies").with("argument", "to").hint(
            format!("say where to: `--to`, or `copies` in the plan; there are: {}", known.join(", ")),
        ));
    }
    for (store, to) in logs {
        // With a new copy the log comes anyway.
        let comes = |it: &Missing| matches!(it, Missing::Backup { backup, to: target } if backup.store == store && *target == to && backup.method == BackupMethod::Physical);
        if !missing.iter().any(comes) {
            missing.extend(missing_log(ctx, around, &store, &to).await?);
        }
    }
    Ok(missing)
}

pub(crate) fn plan_of(ctx: &Context, around: &dyn Surroundings, backup: &Recorded) -> PlanConfig {
    plan_named(ctx, around, &backup.plan).unwrap_or_else(|_| PlanConfig::of_store(&backup.store))
}

/// Plans one step for each copy that is missing.
///
/// # Errors
///
/// `Invalid`: neither a backup nor all of them; no repository to copy to. `NotFound`: no such backup or repository. `Conflict`: it
/// is no backup that can be copied.
pub async fn plan_copy(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &CopyBackup,
) -> Result<Plan, Error> {
    let missing = missing(ctx, around, request).await?;
    let steps = missing
        .iter()
        .map(|it| {
            let (id, title) = match it {
                Missing::Backup { backup, to } => (
                    format!("copy {} to {to}", backup.id),
                    format!("copy {} of {} from {} to {to}", backup.id, backup.store, backup.repository),
                ),
                Missing::Log { store, to, title } => (format!("log {store} to {to}"), title.clone()),
            };
            PlanStep { reversible: true, ..PlanStep::new(id, title, StepMode::Transaction, Vec::new()) }
        })
        .collect();
    let summary = match missing.len() {
        0 => "nothing to do: every copy is there".to_owned(),
        1 => "make 1 copy, and read it back".to_owned(),
        many => format!("make {many} copies, and read them back"),
    };
    Ok(Plan {
        request: CopyBackup::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("backup:{}", request.backup.as_deref().unwrap_or("all")),
        summary,
        steps,
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    })
}

/// Makes the copies of a permitted plan. `value`: `copies[] {backup, store, repository, bytes_added}`. Findings:
/// `backup_copy_failed`.
///
/// # Errors
///
/// That of the copy, where only one was to be made; of several, those that failed are findings.
pub async fn copy(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &CopyBackup,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let missing = missing(ctx, around, request).await?;
    let (mut text, mut values, mut findings) = (String::new(), Vec::new(), Vec::new());
    let alone = missing.len() == 1;
    for one in missing {
        let (backup, to) = match one {
            Missing::Backup { backup, to } => (backup, to),
            Missing::Log { store, to, .. } => {
                match copy_log(ctx, around, &store, &to).await {
                    Ok(log) => {
                        writeln!(text, "{store}: {}", log.said(&to))
                            .expect("writing to a string does not fail");
                        values.push(json!({
                            "store": store, "repository": to, "log_pieces": log.pieces, "log_bytes": log.bytes,
                        }));
                    }
                    Err(error) if alone => return Err(error.with("store", &store)),
                    Err(error) => {
                        writeln!(text, "{store}: the log is not copied to {to}: {error}")
                            .expect("writing to a string does not fail");
                        findings.push(log_failed(&store, &to, &error));
                    }
                }
                continue;
            }
        };
        match copy_one(ctx, around, &backup, &to).await {
            Ok(made) => {
                writeln!(text, "{}: {}", backup.id, made.said(&to))
                    .expect("writing to a string does not fail");
                let log = made.log.unwrap_or_default();
                values.push(json!({
                    "backup": backup.id, "store": backup.store, "repository": to, "bytes_added": made.bytes,
                    "log_pieces": log.pieces, "log_bytes": log.bytes,
                }));
            }
            Err(error) if alone => return Err(error.with("backup", &backup.id)),
            Err(error) => {
                writeln!(text, "{}: not copied to {to}: {error}", backup.id)
                    .expect("writing to a string does not fail");
                findings.push(failed(&backup, &to, &error));
            }
        }
    }
    if text.is_empty() {
        text.push_str("nothing to do: every copy is there\n");
    }
    Ok(Outcome { findings, ..Outcome::new(json!({ "copies": values }), text) })
}

fn log_failed(store: &str, to: &str, error: &Error) -> Finding {
    Finding {
        code: "backup_copy_failed".into(),
        severity: Severity::Critical,
        title: format!("the log of {store} was not copied to {to}: {error}"),
        object: store.to_owned(),
        recommendation: Some(format!("steward backup copy {store} --to {to}")),
        evidence: Vec::new(),
        escalate: Some(Trigger::BackupFailure),
    }
}

/// What was copied of a log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CopiedLog {
    pieces: u64,
    bytes: u64,
}

impl CopiedLog {
    fn said(self, to: &str) -> String {
        if self.pieces == 0 {
            return format!("{to} has the whole log");
        }
        format!(
            "{} of the log copied to {to}, {}, all read back",
            count(self.pieces, "piece"),
            size(self.bytes)
        )
    }
}

/// What a copy came to.
pub(crate) struct Made {
    /// That its repository had not yet.
    pub(crate) bytes: u64,
    /// Of a physical backup, the log behind it.
    log: Option<CopiedLog>,
}

impl Made {
    pub(crate) fn said(&self, to: &str) -> String {
        let said = format!("copied to {to}, {} of it new there, all read back", size(self.bytes));
        match self.log {
            Some(log) if log.pieces > 0 => format!("{said}; {}", log.said(to)),
            _ => said,
        }
    }
}

/// Copies what a repository lacks of the log behind the copies that are there.
async fn copy_log(
    ctx: &Context,
    around: &dyn Surroundings,
    store: &str,
    to: &str,
) -> Result<CopiedLog, Error> {
    let Some(lacking) = log_copies::lacking(ctx, around, store, to).await? else {
        return Ok(CopiedLog::default());
    };
    let bytes = log_copies::fill(ctx, store, &lacking).await?;
    Ok(CopiedLog { pieces: lacking.pieces.len() as u64, bytes })
}

pub(crate) fn failed(backup: &Recorded, to: &str, error: &Error) -> Finding {
    Finding {
        code: "backup_copy_failed".into(),
        severity: Severity::Critical,
        title: format!("the backup {} of {} was not copied to {to}: {error}", backup.id, backup.store),
        object: backup.store.clone(),
        recommendation: Some(format!("steward backup copy {} --to {to}", backup.id)),
        evidence: Vec::new(),
        escalate: Some(Trigger::BackupFailure),
    }
}

/// Makes the copies that the plan of a backup names. Gives what is said of them, and what failed.
pub(crate) async fn copy_as_planned(
    ctx: &Context,
    around: &dyn Surroundings,
    config: &PlanConfig,
    backup: &Recorded,
) -> (Vec<String>, Vec<Finding>) {
    let (mut said, mut findings) = (Vec::new(), Vec::new());
    for to in config.copies.iter().filter(|to| **to != backup.repository) {
        match copy_one(ctx, around, backup, to).await {
            Ok(made) => said.push(made.said(to)),
            Err(error) => {
                said.push(format!("NOT COPIED to {to}: {error}"));
                findings.push(failed(backup, to, &error));
            }
        }
    }
    (said, findings)
}

/// Makes one copy, from wherever the backup can be read, and reads it back; of a physical backup with the log behind it.
///
/// # Errors
///
/// As the repositories'. `Corrupt`: the copy came back otherwise; it is taken off the list again and not recorded.
pub(crate) async fn copy_one(
    ctx: &Context,
    around: &dyn Surroundings,
    backup: &Recorded,
    to: &str,
) -> Result<Made, Error> {
    let target = around.repository(ctx, to).await?;
    let mut places = Places::of(backup, None)?;
    let mut first: Option<Error> = None;
    loop {
        let place = places.next(ctx, around, first.take()).await?;
        if place.repository.name() == to {
            // What is to be replaced, because it is damaged.
            continue;
        }
        let bytes = place.repository.manifest(ctx, &kept(&place.backup)).await?;
        let made =
            send(ctx, around, &place.repository, &place.backup, &place.manifest, &bytes, &target).await;
        match made {
            Ok((kept, added)) => {
                copies::record(ctx, around.ledger(), &backup.id, to, &kept.snapshot, added).await?;
                let log = match backup.method {
                    BackupMethod::Physical => {
                        Some(copy_log(ctx, around, &backup.store, to).await.map_err(|error| {
                            error
                                .with("copied", "the backup")
                                .hint("the backup is copied; its log is not, ask again")
                        })?)
                    }
                    BackupMethod::Logical => None,
                };
                return Ok(Made { bytes: added, log });
            }
            // Only what was read can be damaged; what was written is read back below.
            Err(error) if error.kind() == ErrorKind::Corrupt && places.has_more() => {
                places.pass(&place.backup, &error);
                first = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn send(
    ctx: &Context,
    around: &dyn Surroundings,
    from: &Arc<dyn Repository>,
    backup: &Recorded,
    manifest: &Manifest,
    bytes: &bytes::Bytes,
    target: &Arc<dyn Repository>,
) -> Result<(Kept, u64), Error> {
    // A copy that was finished when the process ended before it could say so.
    let there = target.list(ctx).await?.kept;
    for kept in there.iter().filter(|it| it.id.as_ref() == Some(&backup.id)) {
        if read_back(ctx, around, target, kept, manifest, bytes).await.is_ok() {
            return Ok((kept.clone(), 0));
        }
    }
    let before: BTreeSet<String> = there.into_iter().map(|it| it.snapshot).collect();
    let source = from.open(ctx, &kept(backup), manifest.parts.clone()).await?;
    let label = BackupLabel {
        id: backup.id.clone(),
        project: ctx.project().to_owned(),
        store: backup.store.clone(),
        plan: backup.plan.clone(),
        at: backup.begun_at,
        layout: layout(backup.method),
    };
    let scratch = Scratch::make(around, &scratch_name("copy"))?;
    let writer = target.begin(ctx, &label).await?;
    for (number, part) in source.parts().iter().enumerate() {
        let taken = async {
            let body = if part.bytes > PART_BYTES_MAX as u64 {
                let path = scratch.path().join(number.to_string());
                source.read_into(&part.path, &path).await?;
                PartBody::File { path, bytes: part.bytes }
            } else {
                PartBody::Bytes(source.read(&part.path).await?)
            };
            writer.put(Part { path: part.path.clone(), body }).await
        };
        if let Err(error) = taken.await {
            writer.abandon().await;
            return Err(error);
        }
    }
    let same = bytes.clone();
    let committed = writer.commit(Box::new(move |_| same)).await?;
    drop(scratch);
    let made = target.list(ctx).await?.kept.into_iter().find(|it| it.snapshot == committed.snapshot);
    let made = made.filter(|it| !before.contains(&it.snapshot)).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "the copy was written and is not on the list of its repository")
    })?;
    match read_back(ctx, around, target, &made, manifest, bytes).await {
        Ok(()) => Ok((made, committed.bytes_added)),
        Err(error) => {
            // It is not what it should be, and must not be taken for a backup.
            if let Err(left) = target.forget(ctx, std::slice::from_ref(&made)).await {
                tracing::warn!(snapshot = made.snapshot, error = %left, "a copy that is not good stays on the list");
            }
            Err(error.with("repository", target.name()))
        }
    }
}

/// Reads a copy to its last byte.
async fn read_back(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    kept: &Kept,
    manifest: &Manifest,
    bytes: &bytes::Bytes,
) -> Result<(), Error> {
    if repository.manifest(ctx, kept).await? != *bytes {
        return Err(Error::new(ErrorKind::Corrupt, "the copy has another manifest than the backup"));
    }
    let source = repository.open(ctx, kept, manifest.parts.clone()).await?;
    read_all(around, &*source).await
}

/// Reads every part; each is compared with its length and hash.
pub(crate) async fn read_all(around: &dyn Surroundings, source: &dyn PartSource) -> Result<(), Error> {
    let scratch = Scratch::make(around, &scratch_name("read"))?;
    for (number, part) in source.parts().iter().enumerate() {
        if part.bytes > PART_BYTES_MAX as u64 {
            let file = scratch.path().join(number.to_string());
            source.read_into(&part.path, &file).await?;
            std::fs::remove_file(&file).map_err(|cause| {
                Error::new(ErrorKind::Unavailable, "a scratch file cannot be removed").because(cause)
            })?;
        } else {
            source.read(&part.path).await?;
        }
    }
    Ok(())
}

/// A name that no other work has.
fn scratch_name(work: &str) -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("{work}-{}", &id[id.len() - 12..])
}
