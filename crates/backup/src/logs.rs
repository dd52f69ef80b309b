//! Logs behind physical backups: following them, what is known of them, and moments with a name.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::quantity::{count, size, span};
use contract::{
    BackupMethod, Context, Effect, Error, ErrorKind, Finding, FollowOptions, LogGap, LogPosition, LogSink,
    LogSpan, LogState, Logs, Outcome, Permit, Plan, PlanStep, RecoveryPoint, RecoveryTarget, Repository,
    Request, Severity, StepMode, Trigger, check_marker, sha256_hex,
};
use jiff::Timestamp;
use ledger::{Ledger, NewEvent, Row, Write};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Surroundings;
use crate::catalog::{self, Recorded, State, age_s};
use crate::chain::{Chain, chain_for, chains, fetch, moment};
use crate::config::{LogMode, PlanConfig};
use crate::run::{plan_named, repository_of, told_before};

/// Backups that are looked at for one that fits.
pub(crate) const LOOKED_AT_MAX: u32 = 10_000;
/// What the files of markers begin with.
pub(crate) const MARKER: &str = "marker.";
/// A follower that has not looked for so long is not at work.
const SILENT_S: u64 = 120;
/// How long after a base backup behind a gap failed it is made again, in seconds, at first and at last.
const BASE_PAUSE_S: u64 = 30;
const BASE_PAUSE_S_MAX: u64 = 3_600;

const STATE: &str = "INSERT INTO backup_logs (project, store, plan, repository, holder, source, timeline, written, kept, until_us, \
     retained_bytes, problem, looked_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
     ON CONFLICT (project, store) DO UPDATE SET plan = excluded.plan, repository = excluded.repository, \
     holder = excluded.holder, source = excluded.source, timeline = excluded.timeline, written = excluded.written, \
     kept = excluded.kept, until_us = COALESCE(excluded.until_us, until_us), retained_bytes = excluded.retained_bytes, \
     problem = excluded.problem, looked_us = excluded.looked_us";
const GAP: &str = "INSERT INTO backup_logs (project, store, plan, repository, holder, source, timeline, written, kept, \
     retained_bytes, looked_us, gap, gap_us) VALUES (?, ?, ?, ?, ?, '', 0, '0/0', '0/0', 0, ?, ?, ?) \
     ON CONFLICT (project, store) DO UPDATE SET gap = excluded.gap, gap_us = excluded.gap_us";
const SHOW: &str = "SELECT * FROM backup_logs WHERE project = ? AND store = ?";

/// Follows the logs of a plan's stores and keeps them beside its physical backups; `steward up` does so by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FollowLogs {
    /// A plan with `logs: continuous`.
    pub plan: String,
    /// Ends as soon as everything is kept that was written when it began. Default: goes on until it is interrupted.
    #[serde(default)]
    pub once: bool,
}

impl Request for FollowLogs {
    const NAME: &'static str = "backup.follow";
    const SUMMARY: &'static str =
        "Follow the logs of a plan's stores, so that they can be restored to any moment";
    const EXAMPLE: &'static str = "steward backup follow orders";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.run";
    const POSITIONAL: &'static [&'static str] = &["plan"];
}

/// Gives the present moment of a store a name to which it can be restored later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkLogs {
    /// 1 to 63 characters of `0-9A-Za-z._-`.
    pub name: String,
    /// The store. Default: the only one whose log is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

impl Request for MarkLogs {
    const NAME: &'static str = "backup.marker";
    const SUMMARY: &'static str = "Give the present moment of a store a name to restore to";
    const EXAMPLE: &'static str = "steward backup marker before-release --store orders";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.run";
    const POSITIONAL: &'static [&'static str] = &["name"];
}

/// Shows from when to when each store can be restored, gaps, markers, and what the server keeps for us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowLogs {
    /// Only this store. Default: every store with a physical backup or a followed log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

impl Request for ShowLogs {
    const NAME: &'static str = "backup.logs";
    const SUMMARY: &'static str =
        "Show from when to when each store can be restored, gaps, and what the server keeps for us";
    const EXAMPLE: &'static str = "steward backup logs orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Writes a store's log behind a physical backup into a folder, in the clear and under the server's own names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportLogs {
    /// A store, or a physical backup's id.
    pub backup: String,
    /// A new folder.
    pub folder: PathBuf,
    /// Which timeline. Default: the newest that the backup leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
}

impl Request for ExportLogs {
    const NAME: &'static str = "backup.export-logs";
    const SUMMARY: &'static str = "Write the log behind a physical backup into a folder, in the clear";
    const EXAMPLE: &'static str = "steward backup export-logs orders --folder ./wal";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.restore";
    const POSITIONAL: &'static [&'static str] = &["backup"];
}

/// What the ledger knows of a followed log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Followed {
    pub(crate) source: String,
    pub(crate) timeline: u32,
    pub(crate) written: LogPosition,
    pub(crate) kept: LogPosition,
    pub(crate) until: Option<Timestamp>,
    pub(crate) retained_bytes: u64,
    pub(crate) problem: Option<String>,
    pub(crate) looked_at: Timestamp,
    pub(crate) gap: Option<String>,
    pub(crate) gap_at: Option<Timestamp>,
}

impl Followed {
    fn read(row: &Row) -> Result<Self, Error> {
        let position = |name: &str| row.get_text(name)?.parse::<LogPosition>();
        Ok(Self {
            source: row.get_text("source")?.to_owned(),
            timeline: u32::try_from(row.get_opt_i64("timeline")?.unwrap_or(0)).unwrap_or(0),
            written: position("written")?,
            kept: position("kept")?,
            until: row.get_opt_time("until_us")?,
            retained_bytes: u64::try_from(row.get_opt_i64("retained_bytes")?.unwrap_or(0)).unwrap_or(0),
            problem: row.get_opt_text("problem")?.map(str::to_owned),
            looked_at: row.get_time("looked_us")?,
            gap: row.get_opt_text("gap")?.map(str::to_owned),
            gap_at: row.get_opt_time("gap_us")?,
        })
    }
}

pub(crate) async fn followed(
    ctx: &Context,
    around: &dyn Surroundings,
    store: &str,
) -> Result<Option<Followed>, Error> {
    let rows = around.ledger().query(SHOW, vec![ctx.project().into(), store.into()]).await?;
    rows.first().map(Followed::read).transpose()
}

/// The newest moment to which the followed log leads from a proven physical backup, by what the ledger knows of both; none where a
/// part is missing. The repository itself is not asked.
pub(crate) async fn known_until(
    ctx: &Context,
    ledger: &Ledger,
    store: &str,
) -> Result<Option<Timestamp>, Error> {
    let rows = ledger.query(SHOW, vec![ctx.project().into(), store.into()]).await?;
    let Some(state) = rows.first().map(Followed::read).transpose()? else { return Ok(None) };
    let Some(until) = state.until.filter(|until| !catalog::is_ahead(ctx.now(), *until)) else {
        return Ok(None);
    };
    let known = catalog::list(ctx, ledger, Some(store), LOOKED_AT_MAX).await?;
    let base = known.into_iter().find(|backup| {
        backup.state == State::Complete
            && backup.method == BackupMethod::Physical
            && backup.level.is_proven()
            && backup.problem.is_none()
            && !backup.is_ahead(ctx.now())
    });
    Ok(base.filter(|base| state.gap_at.is_none_or(|gap| gap <= base.begun_at)).map(|_| until))
}

pub(crate) fn logs_of(repository: &Arc<dyn Repository>) -> Result<&dyn Logs, Error> {
    repository.logs().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "this kind of repository keeps no logs")
            .with("repository", repository.name())
    })
}

/// The name of the slot of a store: what the server's administrator sees.
fn slot(project: &str, store: &str) -> String {
    let clean = |text: &str| -> String {
        text.chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' })
            .take(20)
            .collect()
    };
    let mark = sha256_hex(format!("{project}\0{store}").as_bytes());
    format!("steward_{}_{}_{}", clean(project), clean(store), &mark[..8])
}

async fn options(
    ctx: &Context,
    around: &dyn Surroundings,
    plan: &PlanConfig,
    store: &str,
    logs: &dyn Logs,
) -> Result<FollowOptions, Error> {
    Ok(FollowOptions {
        slot: slot(ctx.project(), store),
        folder: around.logs().join(ctx.project()).join(store),
        every: Duration::from_secs(u64::from(plan.log_every_s)),
        retained_bytes_max: u64::from(plan.log_retained_mib_max) << 20,
        unlimited: plan.log_unlimited,
        kept: logs.list(ctx, store).await?.pieces,
    })
}

fn step(id: String, title: String) -> PlanStep {
    PlanStep { reversible: true, ..PlanStep::new(id, title, StepMode::Transaction, Vec::new()) }
}

fn plan_of<R: Request>(
    ctx: &Context,
    request: &R,
    target: String,
    summary: String,
    steps: Vec<PlanStep>,
) -> Plan {
    Plan {
        request: R::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target,
        summary,
        steps,
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    }
}

/// Looks whether the logs of a plan's stores can be followed.
///
/// # Errors
///
/// `Invalid`: the plan does not say so. `Unsupported`: something is missing that it needs.
pub async fn plan_follow(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &FollowLogs,
) -> Result<(Plan, Vec<Finding>), Error> {
    let plan = plan_named(ctx, around, &request.plan)?;
    if plan.logs != Some(LogMode::Continuous) {
        return Err(Error::new(ErrorKind::Invalid, format!("the plan `{}` follows no logs", request.plan))
            .hint("set `method: physical` and `logs: continuous` in it"));
    }
    let name = repository_of(around, &plan)?;
    let repository = around.repository(ctx, &name).await?;
    let logs = logs_of(&repository)?;
    let (mut steps, mut findings) = (Vec::new(), Vec::new());
    for store in &plan.stores {
        let opened = around.stores().open(ctx, store).await?;
        let Some(role) = opened.follow_log() else {
            return Err(opened.unsupported(
                "backup.follow",
                "this kind of store has no log to follow",
                "take it out of the plan",
            ));
        };
        let looked = role.preflight(ctx, &options(ctx, around, &plan, store, logs).await?).await?;
        if let Some(refusal) = looked.refusals.first() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the log of `{store}` cannot be followed: {refusal}"),
            )
            .with("store", store));
        }
        findings.extend(told_before(store, "backup_log_unbounded", &looked));
        steps.push(step(format!("follow {store}"), format!("keep the log of {store} in {name} from now on")));
    }
    let summary = format!("follow the log of {} to {name}", plan.stores.join(", "));
    Ok((plan_of(ctx, request, format!("backup:{}", request.plan), summary, steps), findings))
}

/// Where a followed log goes: into the repository, and how far it is into the ledger.
struct Keeping<'a> {
    ctx: &'a Context,
    around: &'a dyn Surroundings,
    repository: Arc<dyn Repository>,
    plan: &'a str,
    store: &'a str,
    /// Ends when it has come as far as the server was at the beginning.
    once: bool,
    aim: Mutex<Option<LogPosition>>,
    stop: CancellationToken,
    gap: Mutex<Option<LogGap>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl LogSink for Keeping<'_> {
    async fn put(&self, span: LogSpan, body: Bytes) -> Result<(), Error> {
        let span = LogSpan { store: self.store.to_owned(), ..span };
        logs_of(&self.repository)?.append(self.ctx, &span, body).await.map(|_| ())
    }

    async fn gap(&self, gap: LogGap) -> Result<(), Error> {
        let now = self.ctx.now().as_microsecond();
        let write = Write::new()
            .exec(
                GAP,
                vec![
                    self.ctx.project().into(),
                    self.store.into(),
                    self.plan.into(),
                    self.repository.name().into(),
                    self.around.holder().into(),
                    now.into(),
                    gap.why.clone().into(),
                    now.into(),
                ],
            )
            .event(NewEvent::new("backup.log_gap", format!("store:{}", self.store), json!({ "gap": gap })));
        self.around.ledger().write(self.ctx, write).await?;
        *locked(&self.gap) = Some(gap);
        // Whoever runs us hears of it, makes a backup, and follows again.
        self.stop.cancel();
        Ok(())
    }

    async fn state(&self, state: LogState) {
        let write = Write::new().exec(
            STATE,
            vec![
                self.ctx.project().into(),
                self.store.into(),
                self.plan.into(),
                self.repository.name().into(),
                self.around.holder().into(),
                state.source.clone().into(),
                i64::from(state.timeline).into(),
                state.written.to_string().into(),
                state.kept.to_string().into(),
                state.until.map(Timestamp::as_microsecond).into(),
                state.retained_bytes.into(),
                state.problem.clone().into(),
                self.ctx.now().as_microsecond().into(),
            ],
        );
        if let Err(error) = self.around.ledger().write(self.ctx, write).await {
            tracing::warn!(store = self.store, %error, "how far the log was followed is not recorded");
        }
        if self.once && state.problem.is_none() {
            let aim = *locked(&self.aim).get_or_insert(state.written);
            if state.kept >= aim {
                self.stop.cancel();
            }
        }
    }
}

/// Follows the logs of a permitted plan until it is interrupted, until a gap opens, or, `once`, until it has caught up.
///
/// # Errors
///
/// `Canceled`: it was interrupted. `Denied`, `Unsupported`: it cannot work so.
pub async fn follow(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &FollowLogs,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let config = plan_named(ctx, around, &request.plan)?;
    let repository = around.repository(ctx, &repository_of(around, &config)?).await?;
    let stop = ctx.cancellation().child_token();
    let inner = ctx.clone().with_cancellation(stop.clone());
    let each = config.stores.iter().map(|store| {
        let (inner, repository, config) = (&inner, Arc::clone(&repository), &config);
        let one = stop.child_token();
        async move {
            let opened = around.stores().open(inner, store).await?;
            let role = opened
                .follow_log()
                .ok_or_else(|| Error::new(ErrorKind::Unsupported, "it has no log to follow"))?;
            let options = options(inner, around, config, store, logs_of(&repository)?).await?;
            let sink = Keeping {
                ctx: inner,
                around,
                repository: Arc::clone(&repository),
                plan: &request.plan,
                store,
                once: request.once,
                aim: Mutex::new(None),
                stop: one.clone(),
                gap: Mutex::new(None),
            };
            let ended = role.follow(&inner.clone().with_cancellation(one.clone()), &options, &sink).await;
            let gap = locked(&sink.gap).take();
            match ended {
                // We ended it ourselves.
                Err(error)
                    if error.kind() == ErrorKind::Canceled
                        && one.is_cancelled()
                        && !inner.cancellation().is_cancelled() =>
                {
                    Ok((store.clone(), gap))
                }
                Err(error) => Err(error),
                Ok(()) => Ok((store.clone(), gap)),
            }
        }
    });
    let ended = if request.once {
        futures::future::try_join_all(each).await?
    } else {
        // The first that ends, ends all: what it has found is to be heard at once.
        let (first, _, others) = futures::future::select_all(each.map(Box::pin)).await;
        drop(others);
        stop.cancel();
        vec![first?]
    };
    let (mut text, mut findings, mut values) = (String::new(), Vec::new(), Vec::new());
    for (store, gap) in ended {
        if let Some(gap) = &gap {
            findings.push(gap_finding(&store, &gap.why));
            writeln!(text, "{store}: GAP: {}", gap.why).expect("writing to a string does not fail");
        } else {
            let state = followed(ctx, around, &store).await?;
            let kept = state.as_ref().map_or_else(|| "0/0".to_owned(), |state| state.kept.to_string());
            writeln!(text, "{store}: the log is kept up to {kept}")
                .expect("writing to a string does not fail");
        }
        values.push(json!({ "store": store, "gap": gap }));
    }
    Ok(Outcome { findings, ..Outcome::new(json!({ "stores": values }), text) })
}

/// Why a plan needs a base backup at once: the log of one of its stores has a gap, and no base backup was begun behind it. None
/// while one is being made, and for a while after one failed: half a minute, then twice as long each time, at most an hour.
///
/// # Errors
///
/// `NotFound`: no such plan. As the ledger's.
pub async fn base_wanted(
    ctx: &Context,
    around: &dyn Surroundings,
    plan: &str,
) -> Result<Option<String>, Error> {
    for store in plan_named(ctx, around, plan)?.stores {
        let state = followed(ctx, around, &store).await?;
        let Some((gap, at)) = state.and_then(|state| state.gap.zip(state.gap_at)) else { continue };
        let known = catalog::list(ctx, around.ledger(), Some(&store), LOOKED_AT_MAX).await?;
        let behind =
            || known.iter().filter(|backup| backup.method == BackupMethod::Physical && backup.begun_at >= at);
        let is_dead = |backup: &Recorded| backup.holder != around.holder() && around.is_gone(&backup.holder);
        let is_there = behind().any(|backup| match backup.state {
            State::Complete | State::Forgotten => true,
            State::Running => !is_dead(backup),
            State::Failed => false,
        });
        let failed: Vec<Timestamp> =
            behind().filter(|backup| backup.state == State::Failed).map(|backup| backup.begun_at).collect();
        let doubled = u32::try_from(failed.len()).unwrap_or(u32::MAX).saturating_sub(1).min(16);
        let pause_s = (BASE_PAUSE_S << doubled).min(BASE_PAUSE_S_MAX);
        let is_too_early = failed.iter().max().is_some_and(|last| age_s(ctx.now(), *last) < pause_s);
        if !is_there && !is_too_early {
            return Ok(Some(format!("{store}: {gap}")));
        }
    }
    Ok(None)
}

fn gap_finding(store: &str, why: &str) -> Finding {
    Finding {
        code: "backup_log_gap".into(),
        severity: Severity::Critical,
        title: format!("a part of the log of {store} is lost: {why}"),
        object: store.to_owned(),
        recommendation: Some(format!(
            "make a new base backup at once; what was written in between can be restored only as of it: steward backup run {store}"
        )),
        evidence: Vec::new(),
        escalate: Some(Trigger::DataLossRisk),
    }
}

/// The store of a marker.
fn marked_store(ctx: &Context, around: &dyn Surroundings, request: &MarkLogs) -> Result<String, Error> {
    if let Some(store) = &request.store {
        return Ok(store.clone());
    }
    let followed: BTreeSet<&String> = around
        .plans()
        .values()
        .filter(|plan| plan.logs == Some(LogMode::Continuous))
        .flat_map(|plan| &plan.stores)
        .collect();
    if let [one] = followed.into_iter().collect::<Vec<_>>().as_slice() {
        return Ok((*one).clone());
    }
    let stores: Vec<String> = around.stores().list(ctx).into_iter().map(|(store, _)| store).collect();
    Err(Error::new(ErrorKind::Invalid, "say which store is meant")
        .with("argument", "store")
        .hint(format!("there are: {}", stores.join(", "))))
}

/// Plans one step: a record in the store's log.
///
/// # Errors
///
/// `Invalid`: the name, or no store is named. `Unsupported`: the store has no log.
pub async fn plan_marker(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &MarkLogs,
) -> Result<Plan, Error> {
    check_marker(&request.name)?;
    let store = marked_store(ctx, around, request)?;
    let opened = around.stores().open(ctx, &store).await?;
    if opened.follow_log().is_none() {
        return Err(opened.unsupported(
            "backup.marker",
            "this kind of store has no log",
            "back it up instead",
        ));
    }
    let title = format!("write the marker `{}` into the log of {store}", request.name);
    Ok(plan_of(ctx, request, format!("store:{store}"), title.clone(), vec![step("marker".into(), title)]))
}

/// Sets a marker, and notes it beside the log.
///
/// # Errors
///
/// As the store's; `Conflict`: there is one of this name.
pub async fn marker(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &MarkLogs,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let store = marked_store(ctx, around, request)?;
    let config = around
        .plans()
        .values()
        .find(|plan| plan.stores.contains(&store) && plan.logs.is_some())
        .cloned()
        .unwrap_or_else(|| PlanConfig::of_store(&store));
    let repository = around.repository(ctx, &repository_of(around, &config)?).await?;
    let logs = logs_of(&repository)?;
    let file = format!("{MARKER}{}", request.name);
    let listing = logs.list(ctx, &store).await?;
    if listing.pieces.iter().any(|piece| piece.span.file == file) {
        return Err(Error::new(ErrorKind::Conflict, format!("there is a marker `{}`", request.name))
            .with("store", &store)
            .hint("give another name"));
    }
    let opened = around.stores().open(ctx, &store).await?;
    let role = opened
        .follow_log()
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "this kind of store has no log"))?;
    let point: RecoveryPoint = role.marker(ctx, &request.name).await?;
    let position: LogPosition = point.position.as_deref().unwrap_or("0/0").parse()?;
    let source = match followed(ctx, around, &store).await?.filter(|state| !state.source.is_empty()) {
        Some(state) => state.source,
        // `identity` begins with the server's own.
        None => opened.probe(ctx).await?.identity.split('/').next().unwrap_or_default().to_owned(),
    };
    let span = LogSpan {
        store: store.clone(),
        source,
        timeline: point.timeline.unwrap_or(1),
        file,
        file_bytes: 0,
        start: position,
        end: position,
        until: point.server_at,
        parent: None,
    };
    // It has no bytes: its name says everything.
    logs.append(ctx, &span, Bytes::new()).await?;
    let at = point.server_at.unwrap_or(point.at);
    let text = format!(
        "{store}: marker `{}` at {position}, {}\nrestore to it: steward backup restore {store} --until marker:{}\n",
        request.name,
        moment(at),
        request.name
    );
    Ok(Outcome::new(json!({ "store": store, "marker": request.name, "point": point }), text))
}

/// Findings about the log of a store: what it lacks, and whether it is followed. One that was not kept for longer than work may be
/// lost, by the plan that wants it, is escalated: every backup before it leads no further.
pub(crate) fn judged(
    now: Timestamp,
    store: &str,
    wanted: Option<&PlanConfig>,
    newest: Option<&Chain>,
    state: Option<&Followed>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(gap) = newest.and_then(|chain| chain.reach.gap.as_ref()) {
        let why = format!(
            "{} between {} and {}",
            gap.why,
            gap.after.unwrap_or_default(),
            gap.before.unwrap_or_default()
        );
        findings.push(gap_finding(store, &why));
    } else if let Some((gap, at)) = state.and_then(|state| state.gap.as_deref().zip(state.gap_at))
        && newest.is_none_or(|chain| chain.manifest.begun_at < at)
    {
        findings.push(gap_finding(store, gap));
    }
    let silent = match state {
        _ if wanted.is_none() => None,
        None => Some("nobody has followed it yet".to_owned()),
        Some(state) => state.problem.clone().or_else(|| {
            let silent_s = age_s(now, state.looked_at);
            (silent_s > SILENT_S).then(|| format!("nobody has followed it for {}", span(silent_s)))
        }),
    };
    if let (Some(why), Some(plan)) = (silent, wanted) {
        // Nothing is lost yet as long as there is no backup that the log would belong to.
        let kept_until = state.and_then(|state| state.until).max(newest.map(|chain| chain.backup.begun_at));
        let behind_s = kept_until.map(|until| age_s(now, until));
        let is_lost = behind_s.is_some_and(|behind_s| behind_s > u64::from(plan.objectives.rpo_minutes) * 60);
        let title = match behind_s.filter(|_| is_lost) {
            Some(behind_s) => format!("the log of {store} was not kept for {}: {why}", span(behind_s)),
            None => format!("the log of {store} is not kept at the moment: {why}"),
        };
        findings.push(Finding {
            code: "backup_log_not_followed".into(),
            severity: if is_lost { Severity::Critical } else { Severity::Warning },
            title,
            object: store.to_owned(),
            recommendation: Some("run `steward up`, or `steward backup follow PLAN`".into()),
            evidence: Vec::new(),
            escalate: is_lost.then_some(Trigger::BackupFailure),
        });
    }
    findings
}

/// The plan that wants the log of this store.
pub(crate) fn wanted<'a>(around: &'a dyn Surroundings, store: &str) -> Option<&'a PlanConfig> {
    around
        .plans()
        .values()
        .find(|plan| plan.logs == Some(LogMode::Continuous) && plan.stores.iter().any(|known| known == store))
}

/// Answers `backup.logs`. `value`: `stores[] {store, followed, chains[] {backup, proven, from, start, reach}, markers}`. Findings:
/// `backup_log_gap`, `backup_log_not_followed`.
///
/// # Errors
///
/// As the ledger's and the repository's.
pub async fn show_logs(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &ShowLogs,
) -> Result<Outcome, Error> {
    let (mut text, mut values, mut findings) = (String::new(), Vec::new(), Vec::new());
    for (store, _) in around.stores().list(ctx) {
        if request.store.as_ref().is_some_and(|only| *only != store) {
            continue;
        }
        let state = followed(ctx, around, &store).await?;
        let wanted = wanted(around, &store);
        let chains = chains(ctx, around, &store, None, usize::MAX).await?;
        if state.is_none() && chains.is_empty() && wanted.is_none() && request.store.is_none() {
            continue;
        }
        findings.extend(judged(ctx.now(), &store, wanted, chains.first(), state.as_ref()));
        writeln!(text, "{store}:").expect("writing to a string does not fail");
        if let Some(state) = &state {
            writeln!(
                text,
                "  followed on timeline {} up to {} (the server is at {} and keeps {} for us), {} ago",
                state.timeline,
                state.kept,
                state.written,
                size(state.retained_bytes),
                span(age_s(ctx.now(), state.looked_at)),
            )
            .expect("writing to a string does not fail");
        }
        let mut told: Vec<Value> = Vec::new();
        for chain in &chains {
            writeln!(
                text,
                "  {}: {}; {}, {}",
                chain.backup.id,
                chain.said(),
                count(chain.reach.pieces.len() as u64, "piece"),
                size(chain.reach.bytes()),
            )
            .expect("writing to a string does not fail");
            told.push(json!({
                "backup": chain.backup.id, "proven": chain.backup.level, "from": chain.from, "start": chain.start,
                "reach": chain.reach, "pieces": chain.reach.pieces.len(), "bytes": chain.reach.bytes(),
            }));
        }
        if chains.is_empty() {
            text.push_str("  no physical backup that a log could be applied to\n");
        }
        let markers = chains.first().map(|chain| &chain.markers);
        for (name, (timeline, at)) in markers.into_iter().flatten() {
            writeln!(text, "  marker:{name} at {at} on timeline {timeline}")
                .expect("writing to a string does not fail");
        }
        values.push(json!({ "store": store, "followed": state, "chains": told, "markers": markers }));
    }
    if values.is_empty() {
        text.push_str("no logs are kept\n");
    }
    Ok(Outcome { findings, ..Outcome::new(json!({ "stores": values }), text) })
}

/// Plans one step: a folder with what the log says, in the clear.
///
/// # Errors
///
/// `NotFound`: no such backup, or none with a log.
pub async fn plan_export_logs(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &ExportLogs,
) -> Result<Plan, Error> {
    let chain = chain_for(ctx, around, &request.backup, &RecoveryTarget::End, request.timeline, None).await?;
    let title = format!(
        "write the log behind {} ({}) into {}, where it is in the clear",
        chain.backup.id,
        chain.said(),
        request.folder.display()
    );
    Ok(plan_of(
        ctx,
        request,
        format!("backup:{}", chain.backup.id),
        title.clone(),
        vec![step("export".into(), title)],
    ))
}

/// Writes a log into a new folder.
///
/// # Errors
///
/// `Conflict`: the folder exists. As the repository's.
pub async fn export_logs(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &ExportLogs,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let chain = chain_for(ctx, around, &request.backup, &RecoveryTarget::End, request.timeline, None).await?;
    let files = match fetch(ctx, &chain, &request.folder).await {
        Ok(files) => files,
        Err(error) => {
            // What was there before stays; what we have written does not.
            if error.kind() != ErrorKind::Conflict {
                drop(std::fs::remove_dir_all(&request.folder));
            }
            return Err(error);
        }
    };
    let text = format!(
        "{} in {}, {}\na restored server reads them with: restore_command = 'cp {}/%f %p'\n",
        count(files, "file"),
        request.folder.display(),
        chain.said(),
        request.folder.display()
    );
    let value = json!({ "backup": chain.backup.id, "files": files, "reach": chain.reach });
    Ok(Outcome::new(value, text))
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_not_kept_for_longer_than_work_may_be_lost_is_escalated() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| Timestamp::from_second(1_000_000 - seconds).unwrap();
        let mut plan = PlanConfig::of_store("orders");
        plan.objectives.rpo_minutes = 5;
        let state = |until_s: Option<i64>, looked_s: i64, problem: Option<&str>| Followed {
            source: "7".into(),
            timeline: 1,
            written: LogPosition(9),
            kept: LogPosition(9),
            until: until_s.map(ago),
            retained_bytes: 0,
            problem: problem.map(str::to_owned),
            looked_at: ago(looked_s),
            gap: None,
            gap_at: None,
        };
        let (warned, told) =
            (Some((Severity::Warning, None)), Some((Severity::Critical, Some(Trigger::BackupFailure))));
        for (state, expected) in [
            (Some(state(Some(3), 3, None)), None),
            // Nothing was written for long, and it was looked at.
            (Some(state(Some(3), 119, None)), None),
            (Some(state(Some(299), 299, None)), warned),
            (Some(state(Some(301), 301, None)), told),
            // It looks again and again, and cannot.
            (Some(state(Some(200), 1, Some("the login is not permitted to replicate"))), warned),
            (Some(state(Some(301), 1, Some("the login is not permitted to replicate"))), told),
            // There is no backup yet that it would belong to.
            (Some(state(None, 9_999, None)), warned),
            (None, warned),
        ] {
            let found = judged(now, "orders", Some(&plan), None, state.as_ref());
            let found = found.first().map(|finding| (finding.severity, finding.escalate));
            assert_eq!(found, expected, "{state:?}");
            assert_eq!(judged(now, "orders", None, None, state.as_ref()), [], "nobody wants it");
        }
    }

    #[test]
    fn slots_have_names_that_a_server_takes() {
        let name = slot("My Shop", "orders-ä");
        assert!(name.starts_with("steward_my_shop_orders___"), "{name}");
        assert!(
            name.len() < 64
                && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
        );
        assert_ne!(slot("a", "b_c"), slot("a_b", "c"));
    }
}
