//! Drills: a disaster is played on scratch copies, what is needed is restored for real, compared and timed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use contract::quantity::{count, size, span};
use contract::{
    Context, Effect, Error, ErrorKind, Finding, Kept, LoadTarget, Outcome, Permit, Plan, PlanStep,
    Repository, Request, Selection, Severity, StepMode, Trigger,
};
use jiff::Timestamp;
use ledger::{NewEvent, Write};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Recorded, State};
use crate::config::PlanConfig;
use crate::drilled::{DrillResult, DrillStep, Drilled, Loss, seconds};
use crate::manifest::Manifest;
use crate::run::{Scratch, kept, read_manifest};
use crate::runbook::{self, ExportRunbook};
use crate::signature;
use crate::verify;

/// Names that Steward's own state has as a store.
const OWN_STATE: &str = "steward";

const BEGIN: &str = "INSERT INTO backup_drills (project, id, lose, subject, backup, result, holder, begun_us, objective_ms, \
     steps, problem) VALUES (?, ?, ?, ?, '', 'failed', ?, ?, ?, '[]', 'it did not come to its end')";
const END: &str = "UPDATE backup_drills SET backup = ?, result = ?, finished_us = ?, bytes = ?, rows = ?, recovery_ms = ?, \
     steps = ?, problem = ? WHERE project = ? AND id = ?";
const UNFINISHED: &str = "SELECT id, holder FROM backup_drills WHERE project = ? AND finished_us IS NULL";
const GIVE_UP: &str = "UPDATE backup_drills SET finished_us = ?, problem = 'the process that played it ended in the middle' \
     WHERE project = ? AND id = ? AND finished_us IS NULL";

/// Plays a disaster on scratch copies: restores for real, compares every table, times each step, and touches nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrillBackup {
    /// A store, or a plan with its stores. Default: every store of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What is lost: `machine`, `database`, `table`, `repository` or `key`.
    pub lose: Loss,
    /// With `machine`: begin with the recovery key, which is asked for, instead of the key in the vault. `key` always does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_recovery_key: bool,
}

impl DrillBackup {
    /// Whether the recovery key is asked for.
    pub fn takes_key(&self) -> bool {
        self.lose == Loss::Key || (self.lose == Loss::Machine && self.with_recovery_key)
    }
}

impl Request for DrillBackup {
    const NAME: &'static str = "backup.drill";
    const SUMMARY: &'static str = "Play a disaster on scratch copies, restore for real, compare and time it";
    const EXAMPLE: &'static str = "steward backup drill orders --lose database";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.verify";
    const POSITIONAL: &'static [&'static str] = &["subject"];
}

/// What Steward was found to be when it was recovered on an empty machine.
#[derive(Debug, Clone, Default)]
pub struct RecoveredMachine {
    /// The steps until it answered.
    pub steps: Vec<DrillStep>,
    /// The backup of its own state.
    pub backup: String,
    /// Bytes of that.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// Each store that was to come back from there.
    pub stores: Vec<StoreBack>,
    /// What a person would have to do.
    pub notes: Vec<String>,
}

/// A store that was restored by the recovered Steward.
#[derive(Debug, Clone, Default)]
pub struct StoreBack {
    /// Its name.
    pub store: String,
    /// Time of its restore and comparison.
    pub ms: u64,
    /// Bytes of its backup.
    pub bytes: u64,
    /// Rows that were compared.
    pub rows: u64,
    /// Why it is not back.
    pub problem: Option<String>,
}

/// The stores that are meant, each with its plan.
fn stores_of(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &DrillBackup,
) -> Result<Vec<(String, PlanConfig)>, Error> {
    let all = around.stores().list(ctx);
    let plan_of = |store: &str| {
        let declared = around.plans().values().find(|plan| plan.stores.iter().any(|name| name == store));
        declared.cloned().unwrap_or_else(|| PlanConfig::of_store(store))
    };
    let names: Vec<String> = match &request.subject {
        Some(name) if around.plans().contains_key(name) => around.plans()[name].stores.clone(),
        Some(name) if all.iter().any(|(store, _)| store == name) => vec![name.clone()],
        Some(name) => {
            let known: Vec<&str> = around
                .plans()
                .keys()
                .map(String::as_str)
                .chain(all.iter().map(|(name, _)| name.as_str()))
                .collect();
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no backup plan and no store `{name}`"),
            )
            .hint(format!("there are: {}", known.join(", "))));
        }
        None => all.into_iter().map(|(name, _)| name).filter(|name| name != OWN_STATE).collect(),
    };
    Ok(names.into_iter().map(|name| (name.clone(), plan_of(&name))).collect())
}

/// Plans one step for each store; nothing but scratch copies is touched.
///
/// # Errors
///
/// `NotFound`: no such plan or store.
pub fn plan_drill(ctx: &Context, around: &dyn Surroundings, request: &DrillBackup) -> Result<Plan, Error> {
    let stores: Vec<String> = stores_of(ctx, around, request)?.into_iter().map(|(name, _)| name).collect();
    let title = |store: &str| match request.lose {
        Loss::Machine => {
            format!("recover Steward into an empty scratch folder, and restore {store} from there")
        }
        Loss::Database => format!("restore {store} into scratch and compare every table"),
        Loss::Table => format!("restore the largest table of {store} into scratch and compare it"),
        Loss::Repository => format!("restore {store} into scratch from a copy in another repository"),
        Loss::Key => format!("restore {store} into scratch with the recovery key alone"),
    };
    let steps = stores.iter().map(|store| PlanStep {
        reversible: true,
        ..PlanStep::new(format!("drill {store}"), title(store), StepMode::Transaction, Vec::new())
    });
    Ok(Plan {
        request: DrillBackup::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("backup:{}", request.subject.as_deref().unwrap_or("all")),
        summary: format!("play the loss of the {} on scratch copies", request.lose.as_str()),
        steps: steps.collect(),
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    })
}

/// What is known of a source without reading its data: who it is and, for a file or folder, how large and when it was
/// changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Source {
    identity: Option<String>,
    bytes: Option<u64>,
    modified: Option<Timestamp>,
}

impl Source {
    async fn look(ctx: &Context, around: &dyn Surroundings, store: &str) -> Self {
        let probe = async { around.stores().open(ctx, store).await?.probe(ctx).await };
        let Ok(probe) = probe.await else { return Self { identity: None, bytes: None, modified: None } };
        let file = Path::new(&probe.address);
        let metadata = if file.is_absolute() { file.symlink_metadata().ok() } else { None };
        Self {
            identity: Some(probe.identity),
            bytes: metadata.as_ref().map(std::fs::Metadata::len),
            modified: metadata.and_then(|it| it.modified().ok()).and_then(|at| Timestamp::try_from(at).ok()),
        }
    }
}

/// One drill while it is played.
struct Play {
    drilled: Drilled,
    began: Instant,
    remarks: Vec<String>,
    touched: bool,
}

impl Play {
    async fn begin(
        ctx: &Context,
        around: &dyn Surroundings,
        lose: Loss,
        subject: &str,
        rto_minutes: u32,
    ) -> Result<Self, Error> {
        let drilled = Drilled {
            id: format!("drill-{}", uuid::Uuid::now_v7().simple()),
            lose,
            subject: subject.to_owned(),
            backup: String::new(),
            result: DrillResult::Failed,
            begun_at: ctx.now(),
            bytes: None,
            rows: None,
            recovery_ms: None,
            objective_ms: u64::from(rto_minutes) * 60_000,
            steps: Vec::new(),
            problem: None,
        };
        let write = Write::new().exec(
            BEGIN,
            vec![
                ctx.project().into(),
                drilled.id.as_str().into(),
                lose.as_str().into(),
                subject.into(),
                around.holder().into(),
                drilled.begun_at.as_microsecond().into(),
                drilled.objective_ms.into(),
            ],
        );
        around.ledger().write(ctx, write).await?;
        Ok(Self { drilled, began: Instant::now(), remarks: Vec::new(), touched: false })
    }

    fn step(&mut self, what: impl Into<String>, since: Instant) {
        self.drilled.steps.push(DrillStep { step: what.into(), ms: ms(since) });
    }

    fn not_tried(&mut self, why: impl Into<String>) {
        self.drilled.result = DrillResult::NotTried;
        self.drilled.problem = Some(why.into());
    }

    fn recovered(&mut self) {
        self.drilled.result = DrillResult::Passed;
        self.drilled.recovery_ms = Some(ms(self.began));
    }

    /// Writes the receipt, also when whoever asked has gone away.
    async fn end(&self, ctx: &Context, around: &dyn Surroundings) -> Result<(), Error> {
        let ctx = Context::new(ctx.project(), ctx.actor().clone()).with_clock(ctx.clock());
        let drilled = &self.drilled;
        let write = Write::new()
            .exec(
                END,
                vec![
                    drilled.backup.as_str().into(),
                    drilled.result.as_str().into(),
                    ctx.now().as_microsecond().into(),
                    drilled.bytes.into(),
                    drilled.rows.into(),
                    drilled.recovery_ms.into(),
                    json!(drilled.steps).to_string().into(),
                    drilled.problem.clone().into(),
                    ctx.project().into(),
                    drilled.id.as_str().into(),
                ],
            )
            .event(NewEvent::new(
                "backup.drilled",
                format!("backup:{}", drilled.subject),
                serde_json::to_value(drilled).expect("a drill is JSON"),
            ));
        around.ledger().write(&ctx, write).await.map(|_| ())
    }

    fn findings(&self) -> Vec<Finding> {
        let drilled = &self.drilled;
        let finding = |code: &str, severity, title: String, recommendation: &str, escalate| Finding {
            code: code.into(),
            severity,
            title,
            object: drilled.subject.clone(),
            recommendation: Some(recommendation.to_owned()),
            evidence: Vec::new(),
            escalate,
        };
        let mut findings = Vec::new();
        match drilled.result {
            DrillResult::Failed => findings.push(finding(
                "drill_failed",
                Severity::Critical,
                drilled.said(),
                "what is lost like this does not come back: make another backup and look at the repository",
                Some(Trigger::BackupFailure),
            )),
            DrillResult::NotTried => findings.push(finding(
                "drill_not_tried",
                Severity::Warning,
                drilled.said(),
                "until it was tried, it is a hope",
                None,
            )),
            DrillResult::Passed => {}
        }
        if drilled.recovery_ms.is_some_and(|took| took > drilled.objective_ms) {
            findings.push(finding(
                "recovery_too_slow",
                Severity::Critical,
                format!("{}; the objective is {}", drilled.said(), span(drilled.objective_ms / 1_000)),
                "use physical backups, or a faster place for scratch and repository",
                Some(Trigger::BackupFailure),
            ));
        }
        if self.touched {
            findings.push(finding(
                "drill_source_is_another",
                Severity::Critical,
                format!("{} is another database than before the drill", drilled.subject),
                "a drill touches scratch copies alone: find out who else was at it",
                Some(Trigger::DataLossRisk),
            ));
        }
        findings
    }
}

fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Records drills whose process is gone as failed, and takes their scratch copies away.
async fn give_up_dead(ctx: &Context, around: &dyn Surroundings) -> Result<(), Error> {
    for row in around.ledger().query(UNFINISHED, vec![ctx.project().into()]).await? {
        let (id, holder) = (row.get_text("id")?, row.get_text("holder")?);
        if holder == around.holder() || !around.is_gone(holder) {
            continue;
        }
        let write = Write::new()
            .exec(GIVE_UP, vec![ctx.now().as_microsecond().into(), ctx.project().into(), id.into()]);
        around.ledger().write(ctx, write).await?;
        let folder = around.scratch().join(id);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "a scratch folder is left");
        }
    }
    Ok(())
}

/// Plays the drill of a permitted plan and regenerates the recovery runbook. `value`: `drills[]`, `sources[]`, `runbook`.
///
/// Findings: `drill_failed`, `drill_not_tried`, `recovery_too_slow`, `drill_source_is_another`.
///
/// # Errors
///
/// `Canceled`, `TimedOut`: nothing is left of the copies, and the receipt says so. As the ledger's. What a store or a repository
/// fails with is what the drill found.
pub async fn drill(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &DrillBackup,
    key: Option<&SecretString>,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    give_up_dead(ctx, around).await?;
    let stores = stores_of(ctx, around, request)?;
    let mut sources = Vec::new();
    for (store, _) in &stores {
        sources.push(Source::look(ctx, around, store).await);
    }
    let mut scenes = Vec::new();
    if request.lose == Loss::Machine {
        let rto = stores.iter().map(|(_, plan)| plan.objectives.rto_minutes).min();
        let rto = rto.unwrap_or(crate::config::Objectives::default().rto_minutes);
        let names: Vec<String> = stores.iter().map(|(name, _)| name.clone()).collect();
        let mut scene = Play::begin(ctx, around, Loss::Machine, OWN_STATE, rto).await?;
        let played = machine(ctx, around, &mut scene, key, &names).await;
        scenes.push(concluded(ctx, around, scene, played).await?);
    } else {
        for (store, plan) in &stores {
            let mut scene =
                Play::begin(ctx, around, request.lose, store, plan.objectives.rto_minutes).await?;
            let played = one_store(ctx, around, &mut scene, store, key).await;
            scenes.push(concluded(ctx, around, scene, played).await?);
        }
    }
    let (mut text, mut findings, mut looked) = (String::new(), Vec::new(), Vec::new());
    for (index, ((store, _), before)) in stores.iter().zip(sources).enumerate() {
        let after = Source::look(ctx, around, store).await;
        let scene = scenes.get_mut(if request.lose == Loss::Machine { 0 } else { index });
        if let Some(scene) = scene {
            match (&before.identity, &after.identity) {
                (Some(was), Some(is)) if was != is => scene.touched = true,
                (None, _) | (_, None) => {
                    scene
                        .remarks
                        .push(format!("{store} itself did not answer, so it is not known to be untouched"));
                }
                _ if before == after => scene.remarks.push(format!(
                    "{store} itself is as before: the same identity{}",
                    if after.bytes.is_some() { ", size and time of change" } else { "" }
                )),
                _ => scene
                    .remarks
                    .push(format!("{store} itself was written to meanwhile, by whoever works with it")),
            }
        }
        looked.push(json!({ "store": store, "before": before, "after": after }));
    }
    for scene in &scenes {
        tell(&mut text, scene);
        findings.extend(scene.findings());
    }
    let runbook = match regenerate(ctx, around).await {
        Ok(file) => {
            writeln!(text, "the recovery runbook has the measured times: {}", file.display())
                .expect("writing to a string does not fail");
            Some(file)
        }
        Err(error) => {
            writeln!(text, "the recovery runbook could not be written: {}", error.message())
                .expect("writing to a string does not fail");
            None
        }
    };
    let drilled: Vec<&Drilled> = scenes.iter().map(|scene| &scene.drilled).collect();
    let value = json!({ "drills": drilled, "sources": looked, "runbook": runbook });
    Ok(Outcome { findings, ..Outcome::new(value, text) })
}

/// What a drill came to, written down; only who asked and the time end the request.
async fn concluded(
    ctx: &Context,
    around: &dyn Surroundings,
    mut play: Play,
    played: Result<(), Error>,
) -> Result<Play, Error> {
    let over = match played {
        Ok(()) => None,
        Err(error) => {
            play.drilled.result = DrillResult::Failed;
            play.drilled.problem = Some(error.message().to_owned());
            matches!(error.kind(), ErrorKind::Canceled | ErrorKind::TimedOut).then_some(error)
        }
    };
    play.end(ctx, around).await?;
    over.map_or(Ok(play), Err)
}

fn tell(text: &mut String, play: &Play) {
    let drilled = &play.drilled;
    writeln!(text, "{}", drilled.said()).expect("writing to a string does not fail");
    for step in &drilled.steps {
        writeln!(text, "  {:>9}  {}", seconds(step.ms), step.step)
            .expect("writing to a string does not fail");
    }
    if let (Some(took), Some(bytes), Some(rows)) = (drilled.recovery_ms, drilled.bytes, drilled.rows) {
        writeln!(
            text,
            "  {:>9}  in all, of {}: {} in {}",
            seconds(took),
            span(drilled.objective_ms / 1_000),
            count(rows, "row"),
            size(bytes)
        )
        .expect("writing to a string does not fail");
    }
    for remark in &play.remarks {
        writeln!(text, "  {remark}").expect("writing to a string does not fail");
    }
}

/// The newest backup that counts, else the newest that is complete.
async fn newest(ctx: &Context, around: &dyn Surroundings, store: &str) -> Result<Option<Recorded>, Error> {
    if let Some(proven) = catalog::newest_proven(ctx, around.ledger(), store).await? {
        return Ok(Some(proven));
    }
    let all = catalog::list(ctx, around.ledger(), Some(store), 1_000).await?;
    Ok(all.into_iter().find(|backup| backup.state == State::Complete))
}

async fn machine(
    ctx: &Context,
    around: &dyn Surroundings,
    play: &mut Play,
    key: Option<&SecretString>,
    stores: &[String],
) -> Result<(), Error> {
    let Some(own) = newest(ctx, around, OWN_STATE).await? else {
        play.not_tried("Steward's own state has no backup: steward backup run steward");
        return Ok(());
    };
    play.drilled.backup.clone_from(&own.id);
    let scratch = Scratch::make(around, &play.drilled.id)?;
    play.began = Instant::now();
    let back = around.recover_into(ctx, &own.repository, key, scratch.path(), stores).await?;
    play.drilled.steps.extend(back.steps);
    play.drilled.backup = back.backup;
    let (mut bytes, mut rows) = (back.bytes, back.rows);
    let mut missing = Vec::new();
    for store in back.stores {
        bytes += store.bytes;
        rows += store.rows;
        play.drilled
            .steps
            .push(DrillStep { step: format!("restore and compare {}", store.store), ms: store.ms });
        missing.extend(store.problem.map(|problem| format!("{}: {problem}", store.store)));
    }
    play.drilled.bytes = Some(bytes);
    play.drilled.rows = Some(rows);
    play.remarks.extend(back.notes);
    play.remarks.push(if key.is_some() {
        "begun with the recovery key alone".to_owned()
    } else {
        "begun with the key in the vault; `--with-recovery-key` tries the recovery key too".to_owned()
    });
    match missing.first() {
        None => play.recovered(),
        Some(first) => play.drilled.problem = Some(first.clone()),
    }
    drop(scratch);
    Ok(())
}

/// Plays the loss of one store's data, its repository or its key.
async fn one_store(
    ctx: &Context,
    around: &dyn Surroundings,
    play: &mut Play,
    store: &str,
    key: Option<&SecretString>,
) -> Result<(), Error> {
    let Some(backup) = newest(ctx, around, store).await? else {
        play.not_tried(format!("{store} has no backup: steward backup run {store}"));
        return Ok(());
    };
    play.drilled.backup.clone_from(&backup.id);
    play.began = Instant::now();
    let (repository, entry) = match play.drilled.lose {
        Loss::Key => {
            let Some(key) = key else {
                play.not_tried("no recovery key was given: type it when it is asked for, or pipe it in");
                return Ok(());
            };
            let since = Instant::now();
            let opened = around.unlock(ctx, &backup.repository, key).await?;
            play.step("open the repository with the recovery key alone", since);
            (opened, kept(&backup))
        }
        Loss::Repository => {
            let Some((name, entry)) = copy_of(ctx, around, &backup).await? else {
                play.not_tried(format!(
                    "{} is in {} alone: if that is lost, so is the backup",
                    backup.id, backup.repository
                ));
                return Ok(());
            };
            let since = Instant::now();
            let opened = around.repository(ctx, &name).await?;
            play.step(format!("open the copy in {name}"), since);
            (opened, entry)
        }
        _ => (around.repository(ctx, &backup.repository).await?, kept(&backup)),
    };
    let since = Instant::now();
    let manifest = manifest_of(ctx, &repository, &backup, &entry).await?;
    signature::check(ctx, around, &manifest, &backup, false).await?;
    play.step(format!("find {} and read its manifest", backup.id), since);
    let selection = if play.drilled.lose == Loss::Table {
        let Some(table) = manifest.dumped.tables.iter().max_by_key(|table| table.rows) else {
            play.not_tried("the backup does not list tables, so that it comes back whole or not at all");
            return Ok(());
        };
        play.remarks.push(format!("the table was {} with {}", table.table, count(table.rows, "row")));
        play.drilled.rows = Some(table.rows);
        Selection::Tables(vec![table.table.clone()])
    } else {
        play.drilled.rows = Some(manifest.rows());
        Selection::Whole
    };
    play.drilled.bytes = Some(manifest.parts.iter().map(|part| part.bytes).sum());
    restore(ctx, around, play, store, &repository, &entry, &manifest, &selection).await
}

async fn manifest_of(
    ctx: &Context,
    repository: &Arc<dyn Repository>,
    backup: &Recorded,
    entry: &Kept,
) -> Result<Manifest, Error> {
    if entry.snapshot == backup.snapshot {
        return read_manifest(ctx, repository, backup).await;
    }
    let manifest = Manifest::read(&repository.manifest(ctx, entry).await?)?;
    if manifest.id != backup.id || manifest.project != ctx.project() {
        return Err(Error::new(ErrorKind::Corrupt, "the manifest of the copy is that of another backup")
            .with("backup", &backup.id)
            .with("manifest_of", &manifest.id));
    }
    Ok(manifest)
}

/// Where else the backup lies.
async fn copy_of(
    ctx: &Context,
    around: &dyn Surroundings,
    backup: &Recorded,
) -> Result<Option<(String, Kept)>, Error> {
    let sql = "SELECT repository, snapshot FROM backup_copies WHERE project = ? AND backup = ? AND state = 'complete' \
               AND repository <> ? AND problem IS NULL ORDER BY verified_us DESC";
    let parameters = vec![ctx.project().into(), backup.id.as_str().into(), backup.repository.as_str().into()];
    let rows = around.ledger().query(sql, parameters).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let entry = Kept { snapshot: row.get_text("snapshot")?.to_owned(), ..kept(backup) };
    Ok(Some((row.get_text("repository")?.to_owned(), entry)))
}

#[allow(clippy::too_many_arguments)] // What a restore needs, each of its own kind.
async fn restore(
    ctx: &Context,
    around: &dyn Surroundings,
    play: &mut Play,
    store: &str,
    repository: &Arc<dyn Repository>,
    entry: &Kept,
    manifest: &Manifest,
    selection: &Selection,
) -> Result<(), Error> {
    let opened = around.stores().open(ctx, store).await?;
    let Some(load) = opened.load() else {
        play.not_tried("this kind of store cannot be restored by itself");
        return Ok(());
    };
    let scratch = Scratch::make(around, &play.drilled.id)?;
    let target = LoadTarget::Scratch { folder: scratch.path().to_owned() };
    let since = Instant::now();
    let preflight = load.preflight(ctx, &manifest.dumped, &target).await?;
    if let Some(refusal) = preflight.refusals.into_iter().next() {
        play.not_tried(refusal);
        return Ok(());
    }
    let source = repository.open(ctx, entry, manifest.parts.clone()).await?;
    let restored = match load.load(ctx, &manifest.dumped, &*source, selection, &target).await {
        Ok(restored) => restored,
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            play.not_tried(error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    play.step("restore it into scratch", since);
    let since = Instant::now();
    let compared = verify::compare_and_count(ctx, &*restored, &manifest.dumped, &*source, selection).await;
    play.step("compare every table with what was dumped", since);
    match compared {
        Ok((problems, counted)) => {
            if manifest.dumped.tables.is_empty() {
                // The dump saw files and no rows: these are what came back.
                play.drilled.rows = Some(counted.iter().map(|table| table.rows).sum());
            }
            match problems.into_iter().next() {
                None => play.recovered(),
                Some(problem) => play.drilled.problem = Some(problem),
            }
        }
        Err(error) => {
            drop(restored.remove().await);
            return Err(error);
        }
    }
    restored.remove().await
}

/// Writes the recovery runbook beside the state.
async fn regenerate(ctx: &Context, around: &dyn Surroundings) -> Result<PathBuf, Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = runbook::export_runbook(ctx, around, &ExportRunbook::default()).await?;
    let file = around.scratch().with_file_name("recovery-runbook.md");
    let new = file.with_extension("new");
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut out| out.write_all(made.text.as_bytes()).and_then(|()| out.sync_all()))
        .and_then(|()| std::fs::rename(&new, &file));
    written.map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the recovery runbook cannot be written")
            .with("file", file.display())
            .because(cause)
    })?;
    Ok(file)
}
