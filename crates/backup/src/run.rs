//! Making a backup: dump, write, commit, compare with the one before, restore, compare.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use contract::quantity::{count, size};
use contract::{
    BackupLabel, BackupMethod, Context, DumpOptions, Dumped, Effect, Error, ErrorKind, Finding, Kept,
    Outcome, Permit, Plan, PlanStep, Preflight, Repository, Request, Severity, StepMode,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Surroundings;
use crate::catalog::{self, Begun, Completed, Level, Recorded};
use crate::clock;
use crate::config::{Mode, PlanConfig};
use crate::copy::copy_as_planned;
use crate::manifest::{MANIFEST_VERSION, Manifest};
use crate::meter::MeteredSink;
use crate::shares;
use crate::signature::{self, Signed};
use crate::suspicion;
use crate::verify::{self, Proof};

/// Readers of one store at once.
const PARALLEL: usize = 2;

/// Makes a backup, restores it into scratch and compares every table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunBackup {
    /// A plan under `backup.plans` in the project file, or a store, which is then backed up under the default plan.
    pub plan: String,
    /// How far it is proven afterwards: `l0`, `l1`, `l2`, `l3` or `l4`. Default: as the plan says, else `l3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Level>,
}

impl Request for RunBackup {
    const NAME: &'static str = "backup.run";
    const SUMMARY: &'static str = "Make a backup, restore it into scratch and compare every table";
    const EXAMPLE: &'static str = "steward backup run orders";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.run";
    const POSITIONAL: &'static [&'static str] = &["plan"];
}

/// The plan of this name, or the default plan of the store of this name.
///
/// # Errors
///
/// `NotFound`: neither.
pub(crate) fn plan_named(ctx: &Context, around: &dyn Surroundings, name: &str) -> Result<PlanConfig, Error> {
    if let Some(plan) = around.plans().get(name) {
        return Ok(plan.clone());
    }
    let stores = around.stores().list(ctx);
    if stores.iter().any(|(store, _)| store == name) {
        return Ok(PlanConfig::of_store(name));
    }
    let mut known: Vec<&str> = around.plans().keys().map(String::as_str).collect();
    known.extend(stores.iter().map(|(store, _)| store.as_str()));
    let hint = if known.is_empty() {
        "add a store under `stores` in steward.yaml".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    Err(Error::new(ErrorKind::NotFound, format!("there is no backup plan and no store `{name}`")).hint(hint))
}

/// The repository that a plan writes to.
///
/// # Errors
///
/// `Invalid`: the project has none.
pub(crate) fn repository_of(around: &dyn Surroundings, plan: &PlanConfig) -> Result<String, Error> {
    plan.repository.clone().or_else(|| around.repositories().into_iter().next()).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "the project has no backup repository")
            .hint("add one under `backup.repositories` in steward.yaml")
    })
}

/// What stands behind the name of a scratch folder in that of the file that says whose it is.
const HOLDER: &str = ".holder";

/// A folder of this run alone, readable by nobody else; gone with the handle, or when its process is known to be gone.
pub(crate) struct Scratch {
    folder: PathBuf,
    /// Says whose it is.
    holder: PathBuf,
}

impl Scratch {
    pub(crate) fn make(around: &dyn Surroundings, id: &str) -> Result<Self, Error> {
        let (folder, holder) = (around.scratch().join(id), around.scratch().join(format!("{id}{HOLDER}")));
        let failed = |cause: std::io::Error| {
            let kind = match cause.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorKind::LimitExceeded
                }
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "cannot make a folder for scratch copies")
                .with("folder", folder.display())
                .because(cause)
        };
        std::fs::create_dir_all(around.scratch()).map_err(failed)?;
        // Of a process that died it would be in the way.
        sweep_scratch(around);
        let mut mark = std::fs::OpenOptions::new();
        let mut mark = mark.write(true).create_new(true).mode(0o600).open(&holder).map_err(failed)?;
        // Whose it is before it is there: a folder of nobody's would stay for ever, with data in the clear.
        let made = mark
            .write_all(around.holder().as_bytes())
            .and_then(|()| std::fs::DirBuilder::new().mode(0o700).create(&folder));
        if let Err(cause) = made {
            drop(std::fs::remove_file(&holder));
            return Err(failed(cause));
        }
        Ok(Self { folder, holder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Leaves it to whoever asked for what is in it.
    pub(crate) fn leave(self) {
        if let Err(error) = std::fs::remove_file(&self.holder) {
            tracing::warn!(file = %self.holder.display(), %error, "what is left in scratch may be removed");
        }
        std::mem::forget(self);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_scratch(&self.folder, &self.holder);
    }
}

fn remove_scratch(folder: &Path, holder: &Path) {
    let is_left = |error: &std::io::Error| error.kind() != std::io::ErrorKind::NotFound;
    let removed =
        std::fs::remove_dir_all(folder).or_else(|error| if is_left(&error) { Err(error) } else { Ok(()) });
    if let Err(error) = removed.and_then(|()| std::fs::remove_file(holder))
        && is_left(&error)
    {
        tracing::warn!(folder = %folder.display(), %error, "a scratch folder is left");
    }
}

/// Takes away the scratch folders whose process is gone.
fn sweep_scratch(around: &dyn Surroundings) {
    let entries = std::fs::read_dir(around.scratch()).into_iter().flatten().flatten();
    for holder in entries.map(|entry| entry.path()) {
        let Some(folder) = holder.to_str().and_then(|path| path.strip_suffix(HOLDER)) else { continue };
        // One that is empty is being written.
        let Ok(name) = std::fs::read_to_string(&holder) else { continue };
        if !name.is_empty() && name != around.holder() && around.is_gone(&name) {
            remove_scratch(Path::new(folder), &holder);
        }
    }
}

/// Looks whether everything that a run needs is there; plans one step for each store.
///
/// # Errors
///
/// `NotFound`: no such plan, store or repository. `Unsupported`: the store cannot be backed up, or something is missing
/// that it needs. As the store's.
pub async fn plan_run(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &RunBackup,
) -> Result<(Plan, Vec<Finding>), Error> {
    let plan = plan_named(ctx, around, &request.plan)?;
    let name = repository_of(around, &plan)?;
    let repository = around.repository(ctx, &name).await?;
    let mut steps = Vec::new();
    let mut findings = Vec::new();
    let mut impossible = Vec::new();
    for store in &plan.stores {
        let looked = match preflight(ctx, around, &plan, store).await {
            Ok((method, preflight)) => match preflight.refusals.first() {
                None => Ok((method, preflight)),
                Some(refusal) => Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("`{store}` cannot be backed up: {refusal}"),
                )
                .with("store", store)
                .with("method", word(method))),
            },
            Err(error) => Err(error),
        };
        let (method, preflight) = match looked {
            Ok(looked) => looked,
            // It is tried all the same, and fails by itself: the others must not go without a backup for it.
            Err(error) => {
                findings.push(Finding {
                    code: "backup_impossible".into(),
                    severity: Severity::Critical,
                    title: format!("{store} cannot be backed up now: {}", error.message()),
                    object: store.clone(),
                    recommendation: error.hint_text().map(str::to_owned),
                    evidence: Vec::new(),
                    escalate: None,
                });
                impossible.push(error);
                continue;
            }
        };
        findings.extend(told_before(store, "backup_is_partial", &preflight));
        let title = format!("back up {store} ({}) to {name} at {}", word(method), repository.address());
        steps.push(PlanStep {
            reversible: true,
            ..PlanStep::new(format!("backup {store}"), title, StepMode::Transaction, Vec::new())
        });
    }
    if steps.is_empty()
        && let Some(error) = impossible.into_iter().next()
    {
        return Err(error);
    }
    let level = request.verify.unwrap_or(plan.verify.level);
    let made = Plan {
        request: RunBackup::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("backup:{}", request.plan),
        summary: format!("back up {} to {name}, and prove it as {}", plan.stores.join(", "), level.as_str()),
        steps,
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    };
    Ok((made, findings))
}

/// What was found before a run. A note is true of every run, so it does not make one end as if somebody had to act.
pub(crate) fn told_before(store: &str, code: &str, preflight: &Preflight) -> Vec<Finding> {
    let warnings = preflight.warnings.iter().map(|warning| (Severity::Warning, warning));
    let notes = preflight.notes.iter().map(|note| (Severity::Info, note));
    let finding = |(severity, said): (Severity, &String)| Finding {
        code: code.to_owned(),
        severity,
        title: format!("{store}: {said}"),
        object: store.to_owned(),
        recommendation: None,
        evidence: Vec::new(),
        escalate: None,
    };
    warnings.chain(notes).map(finding).collect()
}

pub(crate) fn word(method: BackupMethod) -> &'static str {
    match method {
        BackupMethod::Logical => "logical",
        BackupMethod::Physical => "physical",
    }
}

pub(crate) async fn preflight(
    ctx: &Context,
    around: &dyn Surroundings,
    plan: &PlanConfig,
    store: &str,
) -> Result<(BackupMethod, Preflight), Error> {
    let opened = around.stores().open(ctx, store).await?;
    let Some(dump) = opened.dump() else {
        return Err(opened.unsupported(
            "backup",
            "this kind of store has no backup yet",
            "back it up with its own tools",
        ));
    };
    let offered = dump.methods();
    let method = match plan.method {
        Some(method) if offered.contains(&method) => method,
        Some(method) => {
            return Err(Error::new(ErrorKind::Unsupported, format!("`{store}` offers no such backup"))
                .with("method", word(method))
                .hint(format!(
                    "it offers: {}",
                    offered.iter().copied().map(word).collect::<Vec<_>>().join(", ")
                )));
        }
        None => *offered.first().ok_or_else(|| Error::new(ErrorKind::Unsupported, "no way to back it up"))?,
    };
    let options = DumpOptions { method, scratch: around.scratch(), parallel: PARALLEL };
    Ok((method, dump.preflight(ctx, &options).await?))
}

/// A backup that is in its repository, and not proven yet.
struct Taken {
    recorded: Recorded,
    manifest: Manifest,
    started: Instant,
}

/// What one store's backup came to.
pub(crate) struct Made {
    pub(crate) recorded: Recorded,
    manifest: Manifest,
    proof: Proof,
    seconds: f64,
    /// What is said of its copies, and which failed.
    copied: (Vec<String>, Vec<Finding>),
}

/// Makes the backups of a permitted plan: one store after the other, or all at once where their states must fit each other.
///
/// # Errors
///
/// That of the first store whose backup failed, after all were tried; what the others came to is kept.
pub async fn run(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &RunBackup,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let config = plan_named(ctx, around, &request.plan)?;
    let name = repository_of(around, &config)?;
    let repository = around.repository(ctx, &name).await?;
    give_up_dead(ctx, around).await?;
    let level = request.verify.unwrap_or(config.verify.level);
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    let together = (config.consistency.mode == Mode::Together && config.stores.len() > 1)
        .then(|| format!("tg-{}", uuid::Uuid::now_v7().simple()));
    let mut taken = Vec::new();
    if let Some(name) = &together {
        let taking = config
            .stores
            .iter()
            .map(|store| take(ctx, around, &repository, &config, &request.plan, store, Some(name)));
        // One that fails does not end the others: each is a backup of its own too.
        taken = futures::future::join_all(taking).await;
    }
    let mut taken = taken.into_iter();
    for store in &config.stores {
        let one = match taken.next() {
            Some(Ok(taken)) => prove(ctx, around, &repository, &config, taken, level).await,
            Some(Err(error)) => Err(error),
            None => run_one(ctx, around, &repository, &config, &request.plan, store, level).await,
        };
        match one {
            Ok(mut one) => {
                // Only what was restored and compared is worth a copy.
                if one.recorded.level.is_proven() && one.recorded.problem.is_none() {
                    one.copied = copy_as_planned(ctx, around, &config, &one.recorded).await;
                    one.recorded = recorded(ctx, around, &one.recorded.id).await?;
                }
                made.push(one);
            }
            Err(error) => failed.push((store.clone(), error)),
        }
    }
    if let Some((store, error)) = failed.into_iter().next() {
        let kept: Vec<&str> = made.iter().map(|one| one.recorded.id.as_str()).collect();
        let error = if config.stores.len() > 1 { error.with("store", store) } else { error };
        return Err(if kept.is_empty() { error } else { error.with("kept", kept.join(", ")) });
    }
    let mut outcome = told(&made, level, &config);
    for name in std::iter::once(&name).chain(&config.copies) {
        // One that cannot be opened was told of where the copy failed.
        let Ok(repository) = around.repository(ctx, name).await else { continue };
        for finding in shares::look(ctx, around, &repository).await? {
            writeln!(outcome.text, "{}", finding.title).expect("writing to a string does not fail");
            outcome.findings.push(finding);
        }
    }
    // With the vault lost and no recovery key, all of these would be lost too.
    match repository.keys(ctx).await {
        Ok(keys) => outcome.findings.extend(crate::setup::without_recovery(repository.name(), &keys)),
        Err(error) => tracing::warn!(%error, "whether the recovery key is still there is not known"),
    }
    Ok(outcome)
}

pub(crate) async fn run_one(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    config: &PlanConfig,
    plan: &str,
    store: &str,
    level: Level,
) -> Result<Made, Error> {
    let taken = take(ctx, around, repository, config, plan, store, None).await?;
    prove(ctx, around, repository, config, taken, level).await
}

async fn prove(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    config: &PlanConfig,
    taken: Taken,
    level: Level,
) -> Result<Made, Error> {
    let Taken { recorded, manifest, started } = taken;
    let probes = verify::probes_of(config, &recorded.store);
    let proof = verify::prove(ctx, around, repository, &recorded, level, &probes).await?;
    let recorded = self::recorded(ctx, around, &recorded.id).await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Made { recorded, manifest, proof, seconds, copied: Default::default() })
}

/// Dumps a store into the repository. `together`: the name that it shares with those that are taken at the same time.
async fn take(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    config: &PlanConfig,
    plan: &str,
    store: &str,
    together: Option<&str>,
) -> Result<Taken, Error> {
    let started = Instant::now();
    clock::note(ctx, around).await?;
    let id = format!("bk-{}", uuid::Uuid::now_v7().simple());
    let (method, found) = preflight(ctx, around, config, store).await?;
    let expected = found.bytes_expected;
    if let Some(refusal) = found.refusals.into_iter().next() {
        return Err(Error::new(ErrorKind::Unsupported, refusal).with("store", store));
    }
    let begun = Begun {
        id: &id,
        plan,
        store,
        repository: repository.name(),
        method,
        holder: around.holder(),
        together: together.unwrap_or_default(),
    };
    catalog::begin(ctx, around.ledger(), &begun).await?;
    let written = write(ctx, around, repository, &begun, expected).await;
    let (manifest, committed) = match written {
        Ok(written) => written,
        Err(error) => {
            // Also a canceled run is recorded as what it came to.
            let recording = Context::new(ctx.project(), ctx.actor().clone()).with_clock(ctx.clock());
            catalog::fail(&recording, around.ledger(), &id, error.message()).await?;
            return Err(error.with("backup", &id));
        }
    };
    let begun = recorded(ctx, around, &id).await?;
    let odd = suspicion::of_manifest(ctx, around, repository, &begun, &manifest, None).await?;
    let completed = Completed {
        id: &id,
        store,
        snapshot: &committed.snapshot,
        point_at: manifest.dumped.point.at,
        bytes: committed.bytes,
        bytes_added: committed.bytes_added,
        rows: manifest.rows(),
        suspicions: &odd,
        signed: if manifest.signature.is_some() { Signed::Signed } else { Signed::Unsigned },
    };
    catalog::complete(ctx, around.ledger(), &completed).await?;
    Ok(Taken { recorded: recorded(ctx, around, &id).await?, manifest, started })
}

async fn recorded(ctx: &Context, around: &dyn Surroundings, id: &str) -> Result<Recorded, Error> {
    catalog::show(ctx, around.ledger(), id)
        .await?
        .ok_or_else(|| Error::new(ErrorKind::Other, "the record of the backup is gone").with("backup", id))
}

async fn write(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    begun: &Begun<'_>,
    expected: Option<u64>,
) -> Result<(Manifest, contract::Committed), Error> {
    let &Begun { id, plan, store, method, together, .. } = begun;
    let opened = around.stores().open(ctx, store).await?;
    let dump = opened.dump().ok_or_else(|| Error::new(ErrorKind::Unsupported, "it cannot be backed up"))?;
    let scratch = Scratch::make(around, id)?;
    let begun_at = ctx.now();
    let label = BackupLabel {
        id: id.to_owned(),
        project: ctx.project().to_owned(),
        store: store.to_owned(),
        plan: plan.to_owned(),
        at: begun_at,
        layout: layout(method),
    };
    let writer = repository.begin(ctx, &label).await?;
    let options = DumpOptions { method, scratch: scratch.path().to_owned(), parallel: PARALLEL };
    let dumped = {
        let sink = MeteredSink::new(ctx, format!("{store}: backup"), expected, &*writer);
        dump.dump(ctx, &options, &sink).await
    };
    let dumped: Dumped = match dumped {
        Ok(dumped) => dumped,
        Err(error) => {
            writer.abandon().await;
            return Err(error);
        }
    };
    let key = around.signing_keys(ctx).await?.into_iter().next();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let ended_at = ctx.now();
    let head = Manifest {
        version: MANIFEST_VERSION,
        id: id.to_owned(),
        project: ctx.project().to_owned(),
        plan: plan.to_owned(),
        store: store.to_owned(),
        together: Some(together.to_owned()).filter(|name| !name.is_empty()),
        begun_at,
        ended_at,
        written_by: format!("steward {}", env!("CARGO_PKG_VERSION")),
        dumped,
        parts: Vec::new(),
        signature: None,
        raw: bytes::Bytes::new(),
    };
    let manifest = Box::new(move |parts: &[contract::PartRecord]| {
        let mut manifest = Manifest { parts: parts.to_vec(), ..head };
        manifest.signature = signed(&manifest, key.as_ref());
        let bytes: bytes::Bytes = manifest.bytes().into();
        manifest.raw = bytes.clone();
        // Nobody listens any more when the run was canceled meanwhile.
        drop(sender.send(manifest));
        bytes
    });
    let committed = writer.commit(manifest).await?;
    let manifest = receiver.await.map_err(|cause| {
        Error::new(ErrorKind::Other, "the repository took no manifest and says that it is done")
            .because(cause)
    })?;
    Ok((manifest, committed))
}

/// A key that cannot sign must not cost the backup: an unsigned one made here is known by its snapshot.
fn signed(manifest: &Manifest, key: Option<&secrecy::SecretString>) -> Option<signature::Signature> {
    match signature::sign(manifest, key?) {
        Ok(signature) => Some(signature),
        Err(error) => {
            tracing::warn!(%error, "the manifest of the backup is not signed");
            None
        }
    }
}

pub(crate) fn layout(method: BackupMethod) -> contract::Layout {
    match method {
        BackupMethod::Logical => contract::Layout::Stream,
        BackupMethod::Physical => contract::Layout::Pages,
    }
}

/// The repository's entry of a backup.
pub(crate) fn kept(backup: &Recorded) -> Kept {
    Kept {
        snapshot: backup.snapshot.clone(),
        id: Some(backup.id.clone()),
        project: None,
        store: Some(backup.store.clone()),
        plan: Some(backup.plan.clone()),
        at: backup.begun_at,
        layout: layout(backup.method),
    }
}

pub(crate) async fn read_manifest(
    ctx: &Context,
    repository: &Arc<dyn Repository>,
    backup: &Recorded,
) -> Result<Manifest, Error> {
    let bytes = repository.manifest(ctx, &kept(backup)).await?;
    let manifest = Manifest::read(&bytes)?;
    if manifest.id != backup.id || manifest.project != ctx.project() {
        return Err(Error::new(ErrorKind::Corrupt, "the manifest is that of another backup")
            .with("backup", &backup.id)
            .with("manifest_of", &manifest.id));
    }
    Ok(manifest)
}

/// Records runs whose process is gone as failed. Gives their ids.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn give_up_dead(ctx: &Context, around: &dyn Surroundings) -> Result<Vec<String>, Error> {
    sweep_scratch(around);
    let mut given_up = Vec::new();
    for backup in catalog::running(ctx, around.ledger()).await? {
        if backup.holder != around.holder() && around.is_gone(&backup.holder) {
            catalog::fail(ctx, around.ledger(), &backup.id, "the process that made it ended in the middle")
                .await?;
            // Its scratch copies hold data in the clear.
            let folder = around.scratch().join(&backup.id);
            if folder.exists()
                && let Err(error) = std::fs::remove_dir_all(&folder)
            {
                tracing::warn!(folder = %folder.display(), %error, "a scratch folder is left");
            }
            given_up.push(backup.id);
        }
    }
    Ok(given_up)
}

/// Milliseconds between the moments of the first and the last of them.
fn skew_ms(made: &[Made]) -> u64 {
    let moments = || made.iter().map(|one| point(&one.recorded).as_millisecond());
    let (first, last) = (moments().min().unwrap_or(0), moments().max().unwrap_or(0));
    u64::try_from(last - first).unwrap_or(0)
}

fn told(made: &[Made], level: Level, config: &PlanConfig) -> Outcome {
    let mut text = String::new();
    let mut values: Vec<Value> = Vec::new();
    let mut findings = Vec::new();
    for one in made {
        let (backup, proof) = (&one.recorded, &one.proof);
        let said = proof.said();
        writeln!(
            text,
            "{}: {}, {}, {} of it new; {said} ({:.1} s)\n  backup {}",
            backup.store,
            holds(&one.manifest),
            size(backup.bytes.unwrap_or_default()),
            size(backup.bytes_added.unwrap_or_default()),
            one.seconds,
            backup.id,
        )
        .expect("writing to a string does not fail");
        for left_out in &one.manifest.dumped.left_out {
            writeln!(text, "  not in it: {left_out}").expect("writing to a string does not fail");
        }
        for copied in &one.copied.0 {
            writeln!(text, "  {copied}").expect("writing to a string does not fail");
        }
        findings.extend(one.copied.1.iter().cloned());
        for odd in &backup.suspicions {
            writeln!(text, "  SUSPICIOUS: {odd}").expect("writing to a string does not fail");
        }
        findings.extend(proof.findings(backup, level));
        findings.extend(backup.suspicions.iter().map(|odd| suspicion::finding(backup, odd)));
        values.push(json!({
            "backup": backup, "proof": proof, "left_out": one.manifest.dumped.left_out,
            "tables": one.manifest.dumped.tables.len(), "seconds": round(one.seconds),
        }));
    }
    let mut value = json!({ "backups": values });
    if let Some(name) = made.first().and_then(|one| one.recorded.together.as_ref()) {
        let (skew_ms, most_s) = (skew_ms(made), config.consistency.max_skew_seconds);
        writeln!(text, "taken together: their moments lie {} apart", crate::list::seconds(skew_ms))
            .expect("writing to a string does not fail");
        value["together"] = json!({ "name": name, "skew_ms": skew_ms });
        if skew_ms > u64::from(most_s) * 1_000 {
            findings.push(Finding {
                code: "backup_skew".into(),
                severity: Severity::Warning,
                title: format!(
                    "the moments of the backups lie {} apart; the plan allows {most_s} s",
                    crate::list::seconds(skew_ms)
                ),
                object: made[0].recorded.plan.clone(),
                recommendation: Some(
                    "what refers from one store to another may dangle after a restore; run it when less is written".into(),
                ),
                evidence: Vec::new(),
                escalate: None,
            });
        }
    }
    Outcome { findings, ..Outcome::new(value, text) }
}

/// How much is in a backup: rows where the dump saw them, parts where it saw files.
pub(crate) fn holds(manifest: &Manifest) -> String {
    let tables = manifest.dumped.tables.len() as u64;
    if tables == 0 && manifest.dumped.method == BackupMethod::Physical {
        return count(manifest.parts.len() as u64, "part");
    }
    format!("{} in {}", count(manifest.rows(), "row"), count(tables, "table"))
}

/// Milliseconds are enough.
fn round(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// The moment whose state a backup holds.
pub(crate) fn point(backup: &Recorded) -> Timestamp {
    backup.point_at.unwrap_or(backup.begun_at)
}
