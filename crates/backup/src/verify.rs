//! Proving a backup: its records, its bytes, a real restore whose rows are compared, the user's own questions.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use contract::quantity::{count, thousands};
use contract::{
    CheckDepth, Context, Dumped, Effect, Error, ErrorKind, Finding, LoadTarget, Outcome, PartSource, Permit,
    Plan, PlanStep, Repository, Request, Restored, Selection, Severity, StepMode, TableDigest, Trigger,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Counted, Level, Origin, Recorded, State};
use crate::config::PlanConfig;
use crate::copies;
use crate::manifest::Manifest;
use crate::meter::MeteredSource;
use crate::places::{is_the_place, places};
use crate::run::{Scratch, kept, plan_named, read_manifest};
use crate::signature::{self, Signed};
use crate::suspicion;

/// Differences that are said of one backup.
const SAID_MAX: usize = 10;

/// Restores a backup into scratch, compares every table with what was dumped, and takes the copy away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyBackup {
    /// The backup's id, or a store, whose newest backup is meant.
    pub backup: String,
    /// The repository to read from. Default: where it was made, and the copies too where that is gone or damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How far: `l1`, `l2`, `l3` or `l4`. Default: `l3`, or `l4` where the plan has probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
}

impl Request for VerifyBackup {
    const NAME: &'static str = "backup.verify";
    const SUMMARY: &'static str =
        "Restore a backup into scratch and compare every table with what was dumped";
    const EXAMPLE: &'static str = "steward backup verify orders";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.verify";
    const POSITIONAL: &'static [&'static str] = &["backup"];
}

/// The backup of this id, or the newest complete one of the store of this name.
///
/// # Errors
///
/// `NotFound`: there is none. `Conflict`: it is no backup that can be restored.
pub(crate) async fn backup_named(
    ctx: &Context,
    around: &dyn Surroundings,
    name: &str,
) -> Result<Recorded, Error> {
    let stores = around.stores().list(ctx);
    if stores.iter().any(|(store, _)| store == name) {
        let known = catalog::list(ctx, around.ledger(), Some(name), 1_000).await?;
        let known = catalog::made_last_first(ctx, around.ledger(), known).await?;
        // What someone else has put into the repository never comes before what was made here.
        let is_ours = |backup: &Recorded| backup.origin == Origin::Made || backup.signed == Signed::Signed;
        let complete = || known.iter().filter(|backup| backup.state == State::Complete);
        return complete().find(|backup| is_ours(backup)).or_else(|| complete().next()).cloned().ok_or_else(
            || {
                Error::new(ErrorKind::NotFound, format!("the store `{name}` has no backup"))
                    .hint(format!("make one: steward backup run {name}"))
            },
        );
    }
    let found = catalog::show(ctx, around.ledger(), name).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no backup `{name}`"))
            .hint("`steward backup list` shows all; a store's name means its newest one")
    })?;
    match found.state {
        State::Complete => Ok(found),
        State::Running => {
            Err(Error::new(ErrorKind::Conflict, "the backup is not finished").with("backup", name))
        }
        State::Failed => {
            Err(Error::new(ErrorKind::Conflict, "this backup failed; nothing of it can be restored")
                .with("backup", name)
                .with("problem", found.problem.unwrap_or_default()))
        }
        State::Forgotten => {
            Err(Error::new(ErrorKind::Conflict, "the backup was deleted under the retention rules")
                .with("backup", name))
        }
    }
}

/// What proving a backup came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Proof {
    /// What was asked for.
    pub asked: Level,
    /// What was reached.
    pub level: Level,
    /// Tables whose rows were compared.
    pub tables: usize,
    /// Rows in them.
    pub rows: u64,
    /// What was done instead, where the dump saw files and no rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// Time of the restore until the copy answered.
    pub restore_ms: Option<u64>,
    /// What is wrong with the backup; empty when it is sound.
    pub problems: Vec<String>,
    /// What is odd about the rows that were counted in the copy, where the dump saw none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub odd: Vec<String>,
    /// The rows of the copy, where the dump saw none.
    #[serde(skip)]
    counted: Option<Counted>,
    /// Why the level that was asked for was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unproven: Option<String>,
}

impl Proof {
    pub(crate) fn said(&self) -> String {
        if let Some(problem) = self.problems.first() {
            return format!("NOT A BACKUP: {problem}");
        }
        match (&self.unproven, self.restore_ms) {
            (Some(why), _) => format!("restorable: unproven ({why})"),
            (None, Some(ms)) if !self.by.is_empty() => {
                #[allow(clippy::cast_precision_loss)] // Tenths of a second are shown.
                let seconds = ms as f64 / 1e3;
                let probes = if self.level == Level::L4 { "; probes answered" } else { "" };
                format!("restored in {seconds:.1} s: {}{probes}", self.by.join("; "))
            }
            (None, Some(ms)) if self.rows > 0 || self.tables > 0 => {
                #[allow(clippy::cast_precision_loss)] // Tenths of a second are shown.
                let seconds = ms as f64 / 1e3;
                format!(
                    "restored in {seconds:.1} s, {} in {}: all as dumped{}",
                    count(self.rows, "row"),
                    count(self.tables as u64, "table"),
                    if self.level == Level::L4 { ", probes answered" } else { "" }
                )
            }
            _ => self.level.means().to_owned(),
        }
    }

    pub(crate) fn findings(&self, backup: &Recorded, asked: Level) -> Vec<Finding> {
        let finding = |code: &str, severity, title: String, recommendation: &str, escalate| Finding {
            code: code.into(),
            severity,
            title,
            object: backup.store.clone(),
            recommendation: Some(recommendation.to_owned()),
            evidence: Vec::new(),
            escalate,
        };
        let mut findings: Vec<Finding> = self
            .problems
            .iter()
            .map(|problem| {
                finding(
                    "backup_damaged",
                    Severity::Critical,
                    format!("the backup {} of {} cannot be relied on: {problem}", backup.id, backup.store),
                    "make another, and look at the repository: steward backup verify --level l2",
                    Some(Trigger::BackupFailure),
                )
            })
            .collect();
        if let Some(why) = &self.unproven
            && asked > self.level
        {
            findings.push(finding(
                "backup_unproven",
                Severity::Warning,
                format!("the backup {} of {} was not restored: {why}", backup.id, backup.store),
                "until it was restored once, it is a hope",
                None,
            ));
        }
        findings
    }
}

/// The questions that a plan asks copies of this store.
pub(crate) fn probes_of(plan: &PlanConfig, store: &str) -> Vec<String> {
    plan.verify.probes.iter().filter(|probe| probe.store == store).map(|probe| probe.sql.clone()).collect()
}

/// Proves a backup and records what was found. What is wrong with the backup is an answer, not an error.
pub(crate) async fn prove(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    backup: &Recorded,
    asked: Level,
    probes: &[String],
) -> Result<Proof, Error> {
    let mut proof = Proof { asked, level: Level::L0, ..Proof::default() };
    match look(ctx, around, repository, backup, asked, probes, &mut proof).await {
        Ok(()) => {}
        // The backup's fault, unlike a repository that is away or a deadline.
        Err(error) if error.kind() == ErrorKind::Corrupt => proof.problems.push(error.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            proof.problems.push(format!("it is not in its repository: {}", error.message()));
        }
        Err(error) => return Err(error),
    }
    // A level that was reached before is not lost by asking for less.
    let level = if proof.problems.is_empty() { proof.level.max(backup.level) } else { Level::L0 };
    let problem = proof.problems.first().map(String::as_str);
    catalog::prove(ctx, around.ledger(), &backup.id, level, proof.restore_ms, problem).await?;
    if let Some(counted) = &proof.counted {
        proof.odd = judge(ctx, around, backup, counted).await?;
    }
    Ok(proof)
}

/// Records what was counted in the copy, and what is odd about that; gives what was not known to be.
async fn judge(
    ctx: &Context,
    around: &dyn Surroundings,
    backup: &Recorded,
    counted: &Counted,
) -> Result<Vec<String>, Error> {
    catalog::count(ctx, around.ledger(), &backup.id, counted).await?;
    if backup.accepted_at.is_some() {
        return Ok(Vec::new());
    }
    let kind = |odd: &str| odd.split(':').next().unwrap_or_default().to_owned();
    let mut odd = suspicion::of_counted(ctx, around, backup, counted).await?;
    // Another look may compare with another backup, and what is empty is so all the same.
    odd.retain(|one| !backup.suspicions.iter().any(|known| kind(known) == kind(one)));
    if !odd.is_empty() {
        let all = [backup.suspicions.as_slice(), odd.as_slice()].concat();
        catalog::suspect(ctx, around.ledger(), &backup.id, &all).await?;
    }
    Ok(odd)
}

async fn look(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    backup: &Recorded,
    asked: Level,
    probes: &[String],
    proof: &mut Proof,
) -> Result<(), Error> {
    let manifest = read_manifest(ctx, repository, backup).await?;
    signature::check(ctx, around, &manifest, backup, false).await?;
    if asked <= Level::L0 {
        return Ok(());
    }
    let source = repository.open(ctx, &kept(backup), manifest.parts.clone()).await?;
    let stage =
        format!("{}: {}", backup.store, if asked >= Level::L3 { "test restore" } else { "reading back" });
    let source: Box<dyn PartSource> = Box::new(MeteredSource::new(ctx, stage, source));
    if asked >= Level::L3 {
        match restore_and_compare(ctx, around, backup, &manifest, &*source, probes, asked, proof).await? {
            None => return Ok(()),
            Some(why) => proof.unproven = Some(why),
        }
    }
    let check = repository.check(ctx, CheckDepth::Structure).await?;
    if check.damaged.contains(&backup.snapshot) {
        proof.problems.extend(check.problems.into_iter().take(SAID_MAX));
        return Ok(());
    }
    proof.level = Level::L1;
    if asked >= Level::L2 {
        let scratch = Scratch::make(around, &format!("read-{}", backup.id))?;
        for (number, part) in source.parts().iter().enumerate() {
            if part.bytes > contract::PART_BYTES_MAX as u64 {
                let file = scratch.path().join(number.to_string());
                source.read_into(&part.path, &file).await?;
                std::fs::remove_file(&file).map_err(|cause| {
                    Error::new(ErrorKind::Unavailable, "a scratch file cannot be removed").because(cause)
                })?;
            } else {
                source.read(&part.path).await?;
            }
        }
        proof.level = Level::L2;
    }
    Ok(())
}

/// Gives why it was not tried, if it was not.
#[allow(clippy::too_many_arguments)] // What a restore needs, each of its own kind.
async fn restore_and_compare(
    ctx: &Context,
    around: &dyn Surroundings,
    backup: &Recorded,
    manifest: &Manifest,
    source: &dyn PartSource,
    probes: &[String],
    asked: Level,
    proof: &mut Proof,
) -> Result<Option<String>, Error> {
    let store = around.stores().open(ctx, &backup.store).await?;
    let Some(load) = store.load() else {
        return Ok(Some("this kind of store cannot be restored by itself".into()));
    };
    let scratch = Scratch::make(around, &format!("verify-{}", backup.id))?;
    let target = LoadTarget::Scratch { folder: scratch.path().to_owned() };
    let preflight = load.preflight(ctx, &manifest.dumped, &target).await?;
    if let Some(refusal) = preflight.refusals.into_iter().next() {
        return Ok(Some(refusal));
    }
    let started = Instant::now();
    let restored = match load.load(ctx, &manifest.dumped, source, &Selection::Whole, &target).await {
        Ok(restored) => restored,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Some(error.to_string())),
        Err(error) => return Err(error),
    };
    proof.restore_ms = Some(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    let compared = compare_and_count(ctx, &*restored, &manifest.dumped, source, &Selection::Whole).await;
    let (problems, found) = match compared {
        Ok(compared) => compared,
        Err(error) => {
            drop(restored.remove().await);
            return Err(error);
        }
    };
    if manifest.dumped.tables.is_empty() && problems.is_empty() {
        proof.counted = Some(found.iter().map(|table| (table.table.clone(), table.rows)).collect());
    }
    let counted = if manifest.dumped.tables.is_empty() { &found } else { &manifest.dumped.tables };
    proof.tables = counted.len();
    proof.rows = counted.iter().map(|table| table.rows).sum();
    proof.by = restored.proven_by();
    proof.problems = problems;
    proof.level = Level::L3;
    if asked >= Level::L4 && proof.problems.is_empty() {
        for sql in probes {
            match restored.probe(ctx, sql).await {
                Ok(true) => {}
                Ok(false) => proof.problems.push(format!("the probe `{sql}` is not true of the copy")),
                Err(error) => proof.problems.push(format!("the probe `{sql}` failed: {error}")),
            }
        }
        if probes.is_empty() {
            proof.unproven = Some("the plan has no probes for this store".into());
        } else {
            proof.level = Level::L4;
        }
    }
    restored.remove().await?;
    Ok(None)
}

/// What the restored copy has other than was dumped, empty when nothing; and the tables of the copy with their rows. Of a
/// dump that saw no rows these are all there is to say of them: they were read, and nothing tells how many there should be.
///
/// # Errors
///
/// As the copy's.
pub(crate) async fn compare_and_count(
    ctx: &Context,
    restored: &dyn Restored,
    dumped: &Dumped,
    source: &dyn PartSource,
    selection: &Selection,
) -> Result<(Vec<String>, Vec<TableDigest>), Error> {
    let mut problems = Vec::new();
    let found = restored.fingerprint(ctx, dumped).await?;
    for expected in dumped.tables.iter().filter(|table| is_selected(&table.table, selection)) {
        let now = found.iter().find(|table| table.table == expected.table);
        if let Some(problem) = difference(expected, now) {
            problems.push(problem);
        }
    }
    problems.extend(restored.schema_differences(ctx, dumped, source, selection).await?);
    let integrity = restored.check(ctx).await?;
    problems.extend(integrity.problems.iter().map(|it| format!("{}: {}", it.object, it.problem)));
    if problems.len() > SAID_MAX {
        let more = problems.len() - SAID_MAX;
        problems.truncate(SAID_MAX);
        problems.push(format!("and {more} more differences"));
    }
    Ok((problems, found))
}

/// Whether a table is part of what is restored; schemas are the part of the name before the last dot.
fn is_selected(table: &str, selection: &Selection) -> bool {
    match selection {
        Selection::Whole => true,
        Selection::Schema(schema) => table.rsplit_once('.').is_some_and(|(namespace, _)| namespace == schema),
        Selection::Tables(tables) => tables.iter().any(|name| name == table),
    }
}

fn difference(expected: &TableDigest, now: Option<&TableDigest>) -> Option<String> {
    let Some(now) = now else { return Some(format!("{} is not there", expected.table)) };
    if now.rows != expected.rows {
        return Some(format!(
            "{} has {} rows instead of {}",
            expected.table,
            thousands(now.rows),
            thousands(expected.rows)
        ));
    }
    (now.digest != expected.digest)
        .then(|| format!("{} has as many rows as were dumped, and not the same", expected.table))
}

/// Plans one step: nothing but a scratch copy is touched.
///
/// # Errors
///
/// `NotFound`, `Conflict`: as for the backup's name.
pub async fn plan_verify(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &VerifyBackup,
) -> Result<Plan, Error> {
    let backup = backup_named(ctx, around, &request.backup).await?;
    let title =
        format!("restore {} of {} into scratch, compare it, and take it away", backup.id, backup.store);
    let step = PlanStep {
        reversible: true,
        ..PlanStep::new(format!("verify {}", backup.id), title.clone(), StepMode::Transaction, Vec::new())
    };
    Ok(Plan {
        request: VerifyBackup::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("backup:{}", backup.id),
        summary: title,
        steps: vec![step],
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    })
}

/// Proves the backup of a permitted plan.
///
/// # Errors
///
/// `Unavailable`, `TimedOut`, `Canceled`: it could not be looked at. A damaged backup is an answer.
pub async fn verify(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &VerifyBackup,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let backup = backup_named(ctx, around, plan.target.strip_prefix("backup:").unwrap_or_default()).await?;
    let config =
        plan_named(ctx, around, &backup.plan).unwrap_or_else(|_| PlanConfig::of_store(&backup.store));
    let probes = probes_of(&config, &backup.store);
    let usual = if probes.is_empty() { Level::L3 } else { Level::L4 };
    let asked = request.level.unwrap_or(usual).max(Level::L1);
    let made_in = backup.repository.clone();
    let mut text = String::new();
    let mut findings = Vec::new();
    let mut proofs = Vec::new();
    let mut first = None;
    for place in places(&backup, request.from.as_deref())? {
        let opened = around.repository(ctx, &place.repository).await;
        let proven = match &opened {
            Ok(repository) if place.repository == made_in => {
                prove(ctx, around, repository, &place, asked, &probes).await
            }
            Ok(repository) => prove_copy(ctx, around, repository, &place, asked, &probes).await,
            Err(error) => Err(Error::new(error.kind(), error.message().to_owned())),
        };
        let whose = if place.repository == made_in {
            String::new()
        } else {
            format!(" (the copy in {})", place.repository)
        };
        match proven {
            Ok(proof) => {
                writeln!(text, "{} of {}{whose}: {}", backup.id, backup.store, proof.said())
                    .expect("writing to a string does not fail");
                for odd in &proof.odd {
                    writeln!(text, "  SUSPICIOUS: {odd}").expect("writing to a string does not fail");
                }
                findings.extend(proof.findings(&backup, asked));
                findings.extend(proof.odd.iter().map(|odd| suspicion::finding(&backup, odd)));
                let is_sound = proof.problems.is_empty();
                proofs.push((place.repository, proof));
                if is_sound {
                    break;
                }
            }
            Err(error) if is_the_place(&error) => {
                writeln!(text, "{} of {}: not from {}: {error}", backup.id, backup.store, place.repository)
                    .expect("writing to a string does not fail");
                findings.push(unreachable_finding(&backup, &place.repository, &error));
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let now = catalog::show(ctx, around.ledger(), &backup.id).await?;
    let Some((from, proof)) = proofs.pop() else {
        return Err(first.unwrap_or_else(|| Error::new(ErrorKind::NotFound, "the backup lies nowhere")));
    };
    Ok(Outcome { findings, ..Outcome::new(json!({ "backup": now, "proof": proof, "from": from }), text) })
}

fn unreachable_finding(backup: &Recorded, repository: &str, error: &Error) -> Finding {
    Finding {
        code: "backup_repository_away".into(),
        severity: Severity::Critical,
        title: format!("{} of {} cannot be read from {repository}: {error}", backup.id, backup.store),
        object: backup.store.clone(),
        recommendation: Some(
            "bring the repository back, or copy the backups elsewhere: steward backup copy --all".into(),
        ),
        evidence: Vec::new(),
        escalate: Some(Trigger::BackupFailure),
    }
}

/// Proves a copy and records what was found with it; the backup's own record stays.
async fn prove_copy(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    place: &Recorded,
    asked: Level,
    probes: &[String],
) -> Result<Proof, Error> {
    let mut proof = Proof { asked, level: Level::L0, ..Proof::default() };
    match look(ctx, around, repository, place, asked, probes, &mut proof).await {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            proof.problems.push(error.to_string());
        }
        Err(error) => return Err(error),
    }
    let problem = proof.problems.first().map(String::as_str);
    copies::verified(ctx, around.ledger(), &place.id, &place.repository, problem).await?;
    Ok(proof)
}
