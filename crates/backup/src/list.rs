//! What backups there are, and what they are worth.

use std::fmt::Write as _;

use contract::quantity::{count, size, span, thousands};
use contract::{Context, Effect, Error, Finding, Outcome, Request, Severity, Trigger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Recorded, State, age_s};
use crate::chain;
use crate::config::PlanConfig;
use crate::drilled;
use crate::indicators::{Indicators, ahead, is_overdue};
use crate::lamps::{Repositories, lamps, lit};
use crate::logs;
use crate::run::{point, read_manifest};
use crate::signature;
use crate::verify::backup_named;

/// Backups that are listed, unless told otherwise.
const LISTED: u32 = 50;

/// Drills whose times are looked at.
const DRILLS: u32 = 100;

/// Lists backups, the newest first, with how far each is proven.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListBackups {
    /// Only those of this store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// At most this many. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl Request for ListBackups {
    const NAME: &'static str = "backup.list";
    const SUMMARY: &'static str =
        "List backups, how far each is proven, and per store how much work would be lost now";
    const EXAMPLE: &'static str = "steward backup list --store orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Shows a backup: what it holds, where, and what was found when it was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowBackup {
    /// The backup's id, or a store, whose newest backup is meant.
    pub backup: String,
}

impl Request for ShowBackup {
    const NAME: &'static str = "backup.show";
    const SUMMARY: &'static str =
        "Show a backup: its tables, rows and digests, its parts, and how far it is proven";
    const EXAMPLE: &'static str = "steward backup show orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &["backup"];
}

/// The kind of Steward's own state, which nobody has declared.
const OWN_STATE: &str = "steward";

/// Answers `backup.list`. `value`: `backups[]`, `stores[] {store, rpo_s, proven, restore_ms, rpo_objective_s,
/// rto_objective_s, forecast_ms, drill_median_ms, drill_p95_ms, last_drill, lamps[] {lamp, on, why, todo}, log_until, log_gap,
/// verified_at, verified_age_s, runs_30d, succeeded_30d, success_rate_30d, success_objective}`; `rpo_s`
/// is the age of the newest backup that was restored and compared, null where there is none; with a log that is kept
/// behind such a backup, the time since the newest moment to which it leads without a gap.
/// Findings: `backup_missing`, `backup_too_old`, `backup_from_the_future`, `recovery_too_slow`, `recovery_forecast_too_slow`,
/// `backup_log_gap`, `backup_log_not_followed`.
///
/// # Errors
///
/// As the ledger's.
pub async fn list(ctx: &Context, around: &dyn Surroundings, request: &ListBackups) -> Result<Outcome, Error> {
    let limit = request.limit.unwrap_or(LISTED);
    let now = ctx.now();
    let backups = catalog::list(ctx, around.ledger(), request.store.as_deref(), limit).await?;
    let mut text = String::new();
    for backup in &backups {
        writeln!(text, "{}", backup.line(now)).expect("writing to a string does not fail");
    }
    if backups.is_empty() {
        text.push_str("no backups\n");
    }
    let (mut stores, mut findings) = (Vec::new(), Vec::new());
    let mut repositories = Repositories::default();
    for (store, kind) in around.stores().list(ctx) {
        if request.store.as_ref().is_some_and(|only| *only != store) {
            continue;
        }
        let declared = around.plans().values().find(|plan| plan.stores.contains(&store));
        let plan = declared.cloned().unwrap_or_else(|| PlanConfig::of_store(&store));
        let objectives = plan.objectives;
        let indicators = Indicators::of(ctx, around.ledger(), &store, objectives).await?;
        let proven = catalog::newest_proven(ctx, around.ledger(), &store).await?;
        let wanted = logs::wanted(around, &store);
        let state = logs::followed(ctx, around, &store).await?;
        let chain =
            match (wanted.is_some() || state.is_some(), chain::newest_proven_chain(ctx, around, &store)) {
                (false, _) => None,
                (true, newest) => match newest.await {
                    Ok(chain) => chain,
                    Err(error) => {
                        writeln!(text, "{store}: how far its log reaches is not known: {}", error.message())
                            .expect("writing to a string does not fail");
                        None
                    }
                },
            };
        let reaches = chain.as_ref().and_then(|chain| chain.reach.until);
        let reaches = reaches.filter(|until| !catalog::is_ahead(now, *until));
        let newest = proven.as_ref().map(point).into_iter().chain(reaches).max();
        let rpo_s = newest.map(|newest| age_s(now, newest));
        let Indicators { restore_ms, forecast_ms, .. } = indicators;
        let (age_max_s, restore_max_s) = (indicators.rpo_objective_s, indicators.rto_objective_s);
        match (&proven, rpo_s) {
            (Some(backup), Some(age)) => writeln!(
                text,
                "{store}: if it were lost now, {} of work would be gone; restored in {} when it was last tried ({})",
                span(age),
                restore_ms.map_or_else(|| "an unknown time".to_owned(), seconds),
                backup.id,
            ),
            _ => writeln!(text, "{store}: no backup that was restored and compared"),
        }
        .expect("writing to a string does not fail");
        let lamps = lamps(ctx, around, &plan, &store, &mut repositories).await?;
        writeln!(text, "  lamps: {}", lit(&lamps)).expect("writing to a string does not fail");
        for lamp in lamps.iter().filter(|lamp| !lamp.on && proven.is_some()) {
            let todo = lamp.todo.as_deref().unwrap_or_default();
            writeln!(text, "    {}-: {}; {todo}", lamp.name, lamp.why)
                .expect("writing to a string does not fail");
        }
        if let Some(chain) = &chain {
            writeln!(text, "  any moment can be restored {}", chain.said())
                .expect("writing to a string does not fail");
        }
        findings.extend(logs::judged(now, &store, wanted, chain.as_ref(), state.as_ref()));
        let drills = drilled::drills(ctx, around.ledger(), Some(&store), DRILLS).await?;
        let (median_ms, p95_ms) = drilled::measured(&drills);
        if let Some(last) = drills.first() {
            write!(text, "  last drill: {}", last.said()).expect("writing to a string does not fail");
            if let (Some(median), Some(p95)) = (median_ms, p95_ms) {
                write!(
                    text,
                    "; of {} half took at most {}, 95 of 100 at most {}",
                    count(drills.len() as u64, "drill"),
                    seconds(median),
                    seconds(p95)
                )
                .expect("writing to a string does not fail");
            }
            text.push('\n');
        }
        if let Some(forecast) = forecast_ms.filter(|ms| ms / 1_000 > restore_max_s) {
            findings.push(Finding {
                code: "recovery_forecast_too_slow".into(),
                severity: Severity::Warning,
                title: format!(
                    "a restore of {store} is expected to take {}; the objective is {}",
                    span(forecast / 1_000),
                    span(restore_max_s)
                ),
                object: store.clone(),
                recommendation: Some(
                    "use physical backups, or a faster place for scratch and repository".into(),
                ),
                evidence: Vec::new(),
                escalate: None,
            });
        }
        if let Some(said) = indicators.success_said() {
            writeln!(text, "  {said}").expect("writing to a string does not fail");
        }
        findings.extend(ahead(ctx, around.ledger(), &store).await?);
        let mut judged = judged(&store, rpo_s, restore_ms, age_max_s, restore_max_s);
        // Whoever declared a plan waits for a backup; after as long as work may be lost it will not come by itself.
        if declared.is_some() && is_overdue(ctx, around.ledger(), &store, age_max_s).await? {
            for missing in judged.iter_mut().filter(|finding| finding.code == "backup_missing") {
                missing.severity = Severity::Critical;
                missing.escalate = Some(Trigger::BackupFailure);
            }
        }
        if kind == OWN_STATE {
            // No data of the user is lost with it: the recovery key opens the other backups without Steward.
            for missing in judged.iter_mut().filter(|finding| finding.code == "backup_missing") {
                missing.severity = Severity::Info;
            }
        }
        findings.extend(judged);
        stores.push(json!({
            "store": store, "rpo_s": rpo_s, "proven": proven.as_ref().map(|backup| &backup.id),
            "restore_ms": restore_ms, "rpo_objective_s": age_max_s, "rto_objective_s": restore_max_s,
            "forecast_ms": forecast_ms, "drill_median_ms": median_ms, "drill_p95_ms": p95_ms,
            "last_drill": drills.first(), "lamps": lamps, "log_until": reaches,
            "log_gap": chain.as_ref().and_then(|chain| chain.reach.gap.clone()),
            "verified_at": indicators.verified_at, "verified_age_s": indicators.verified_age_s,
            "runs_30d": indicators.runs_30d, "succeeded_30d": indicators.succeeded_30d,
            "success_rate_30d": indicators.success_rate_30d, "success_objective": indicators.success_objective,
        }));
    }
    let value = json!({ "backups": backups, "stores": stores });
    Ok(Outcome { findings, ..Outcome::new(value, text) })
}

/// Tenths of a second are shown.
pub(crate) fn seconds(ms: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // No restore takes that long.
    let seconds = ms as f64 / 1e3;
    format!("{seconds:.1} s")
}

fn judged(
    store: &str,
    rpo_s: Option<u64>,
    restore_ms: Option<u64>,
    age_max_s: u64,
    restore_max_s: u64,
) -> Vec<Finding> {
    let finding = |code: &str, severity, title: String, what: String| Finding {
        code: code.into(),
        severity,
        title,
        object: store.to_owned(),
        recommendation: Some(what),
        evidence: Vec::new(),
        escalate: (severity == Severity::Critical).then_some(Trigger::BackupFailure),
    };
    let mut findings = Vec::new();
    match rpo_s {
        None => findings.push(finding(
            "backup_missing",
            Severity::Warning,
            format!("{store} has no backup that was restored and compared"),
            format!("steward backup run {store}"),
        )),
        Some(age) if age > age_max_s => findings.push(finding(
            "backup_too_old",
            Severity::Critical,
            format!(
                "the newest proven backup of {store} is {} old; the objective is {}",
                span(age),
                span(age_max_s)
            ),
            format!("steward backup run {store}; see why the schedule did not"),
        )),
        Some(_) => {}
    }
    if let Some(ms) = restore_ms.filter(|ms| ms / 1_000 > restore_max_s) {
        findings.push(finding(
            "recovery_too_slow",
            Severity::Critical,
            format!("restoring {store} took {}; the objective is {}", seconds(ms), span(restore_max_s)),
            "use physical backups, or a faster place for scratch and repository".to_owned(),
        ));
    }
    findings
}

/// Answers `backup.show`. `value`: `backup`, `manifest {dumped, begun_at, ended_at, written_by}`, `parts`, `unreadable`.
///
/// # Errors
///
/// `NotFound`: no such backup. As the ledger's; a repository that does not answer is said in the answer.
pub async fn show(ctx: &Context, around: &dyn Surroundings, request: &ShowBackup) -> Result<Outcome, Error> {
    let backup = match catalog::show(ctx, around.ledger(), &request.backup).await? {
        Some(backup) => backup,
        None => backup_named(ctx, around, &request.backup).await?,
    };
    let mut text = format!("{}\n", backup.line(ctx.now()));
    let manifest =
        if backup.state == State::Complete { manifest(ctx, around, &backup).await } else { Ok(None) };
    let (value, unreadable) = match manifest {
        Ok(Some(manifest)) => {
            let dumped = &manifest.dumped;
            writeln!(
                text,
                "{} {} at {}, {} by {}\n{} in {}, {}, {}",
                dumped.kind,
                dumped.version,
                dumped.address,
                match dumped.method {
                    contract::BackupMethod::Logical => "logical",
                    contract::BackupMethod::Physical => "physical",
                },
                manifest.written_by,
                count(manifest.rows(), "row"),
                count(dumped.tables.len() as u64, "table"),
                count(manifest.parts.len() as u64, "part"),
                size(manifest.parts.iter().map(|part| part.bytes).sum()),
            )
            .expect("writing to a string does not fail");
            for table in &dumped.tables {
                writeln!(text, "  {:<40} {:>14} rows  {}", table.table, thousands(table.rows), table.digest)
                    .expect("writing to a string does not fail");
            }
            for left_out in &dumped.left_out {
                writeln!(text, "  not in it: {left_out}").expect("writing to a string does not fail");
            }
            let signed = manifest.signed_by(&signature::known(ctx, around).await?);
            writeln!(text, "{}", signed.means()).expect("writing to a string does not fail");
            let value = json!({
                "signed": signed, "dumped": dumped, "begun_at": manifest.begun_at, "ended_at": manifest.ended_at,
                "written_by": manifest.written_by, "parts": manifest.parts,
            });
            (value, None)
        }
        Ok(None) => (json!(null), None),
        Err(error) => {
            writeln!(text, "its manifest cannot be read now: {error}")
                .expect("writing to a string does not fail");
            (json!(null), Some(error.to_string()))
        }
    };
    Ok(Outcome::new(json!({ "backup": backup, "manifest": value, "unreadable": unreadable }), text))
}

async fn manifest(
    ctx: &Context,
    around: &dyn Surroundings,
    backup: &Recorded,
) -> Result<Option<crate::manifest::Manifest>, Error> {
    let repository = around.repository(ctx, &backup.repository).await?;
    read_manifest(ctx, &repository, backup).await.map(Some)
}
