//! The one executor: takes a permitted plan through its steps, and looks afterwards whether it did what it said.

use std::sync::Arc;
use std::time::Instant;

use contract::{
    Context, Error, ErrorKind, Finding, Outcome, Permit, Plan, SecretSource, Severity, StepState,
    StoreDirectory, Trigger,
};
use serde_json::{Value, json};

use crate::index;
use crate::inquiry::{Inquiry, millis_since};
use crate::migration;
use crate::operate;
use crate::prestate::Scope;
use crate::steps::Run;
use crate::text;

/// The state of each step of the plan as the store records it, for an intent that was found unfinished.
///
/// # Errors
///
/// `NotFound`: no such store. `Unavailable`, `Denied`, `TimedOut`: from the store.
pub async fn progress(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    plan: &Plan,
) -> Result<Vec<StepState>, Error> {
    let inquiry = Inquiry::open(ctx, stores, store_name(plan)?).await?;
    inquiry.execute()?.progress(ctx, plan).await
}

/// Runs the steps of a plan that are not done yet, in order, and verifies the effect.
///
/// The first time, the store must be as the plan found it; a plan that was begun is resumed, whatever killed it.
/// Dropping the future between steps leaves a plan that can be resumed; within a transaction step nothing of it.
///
/// Value: `request`, `store`, `digest`, `resumed`, `nothing_to_do`, `steps_run`, `rows_affected`, `steps[] {id, title,
/// already_done, rows_affected, elapsed_ms, lock_waits, batches, replica_wait_ms}`, `lock_waits`, `verified`, and by request: `migrations[]`, or `index {…}`, `before` and
/// `after` ([`crate::Measured`]), `speedup`. Findings: `unverified`, `index_unused`.
///
/// # Errors
///
/// `Forbidden`: the permit does not cover the plan. `Conflict`: the store has changed since the plan was made, or
/// another change is running. `TimedOut`: a lock or statement timeout. Otherwise what the store says; the steps before
/// stay done and recorded.
#[tracing::instrument(skip_all, fields(store = permit.resource(), actor = %permit.actor(), request = plan.request))]
pub async fn execute(
    ctx: &Context,
    permit: &Permit,
    plan: &Plan,
    stores: &dyn StoreDirectory,
    secrets: Arc<dyn SecretSource>,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let mut inquiry = Inquiry::open(ctx, stores, store_name(plan)?).await?;
    let mut value = json!({
        "request": plan.request,
        "store": inquiry.store.name(),
        "digest": plan.digest(),
        "nothing_to_do": plan.steps.is_empty(),
    });
    if plan.steps.is_empty() {
        return Ok(Outcome::new(value, &plan.summary));
    }
    let recorded = inquiry.execute()?.progress(ctx, plan).await?;
    let fresh = recorded.iter().all(|state| *state == StepState::Pending);
    // Measured before the store's change lock is taken, so that nobody waits for it.
    let before = if fresh { index::measure_for(&mut inquiry, plan).await? } else { None };
    let baseline = if fresh { operate::baseline(&mut inquiry, plan).await? } else { Value::Null };

    let store = Arc::clone(&inquiry.store);
    let executor = store.execute().expect("the store took plans a moment ago");
    let mut execution = executor.begin(ctx, permit, plan, secrets).await?;
    let mut states = Vec::with_capacity(plan.steps.len());
    for index in 0..plan.steps.len() {
        states.push(execution.state(ctx, plan, index).await?);
    }
    let resumed = states.iter().any(|state| *state != StepState::Pending);
    if !resumed {
        let found = match operate::pre_state(&mut inquiry, plan).await? {
            Some(found) => found,
            None => inquiry.pre_state(&Scope::of(plan), &plan.steps).await?,
        };
        if found != plan.pre_state {
            return Err(Error::new(ErrorKind::Conflict, "the store has changed since the plan was made")
                .with("store", inquiry.store.name())
                .with("plan", plan.digest().short())
                .with_retry(contract::Retry::Never)
                .hint("ask for the change again: the new plan fits the store as it is now"));
        }
    }
    let mut steps = Vec::with_capacity(plan.steps.len());
    let (mut steps_run, mut rows_affected, mut lock_waits) = (0_u64, 0_u64, 0_u64);
    let run = Run::new(ctx, &*store, permit, plan);
    for (index, step) in plan.steps.iter().enumerate() {
        let already_done = states[index] == StepState::Done;
        let started = Instant::now();
        let ran = run.step(&mut *execution, index).await.map_err(|error| {
            let error = error.with("step", format!("{} of {}: {}", index + 1, plan.steps.len(), step.title));
            if steps_run > 0 || resumed {
                error.with("done", format!("the {index} before it stay done and recorded"))
            } else {
                error
            }
        })?;
        let (rows, elapsed_ms) = (ran.rows_affected, millis_since(started));
        lock_waits += ran.lock_waits;
        if !already_done {
            tracing::info!(step = step.id, rows, elapsed_ms, "step done");
            let statements: Vec<&str> =
                step.statements.iter().map(|statement| statement.sql.as_str()).collect();
            let parameters: Vec<&Vec<Value>> =
                step.statements.iter().map(|statement| &statement.parameters).collect();
            inquiry.note(
                &statements.join(";\n"),
                json!({"step": step.id, "rows_affected": rows, "parameters": parameters}),
                elapsed_ms,
            );
            steps_run += 1;
            rows_affected += rows;
        }
        steps.push(json!({"id": step.id, "title": step.title, "already_done": already_done,
                          "rows_affected": rows, "elapsed_ms": elapsed_ms, "lock_waits": ran.lock_waits,
                          "batches": ran.batches, "replica_wait_ms": ran.replica_wait_ms}));
    }
    execution.finish(ctx).await?;

    value["resumed"] = json!(resumed);
    value["steps_run"] = json!(steps_run);
    value["rows_affected"] = json!(rows_affected);
    value["lock_waits"] = json!(lock_waits);
    value["steps"] = json!(steps);
    let mut findings = Vec::new();
    let problems = verify(&mut inquiry, plan, before, &baseline, &mut value, &mut findings).await?;
    value["verified"] = json!(problems.is_empty());
    let evidence: Vec<String> = inquiry.evidence.iter().map(|evidence| evidence.id.clone()).collect();
    findings.extend(problems.into_iter().map(|problem| Finding {
        code: "unverified".into(),
        severity: Severity::Critical,
        title: format!("the change ran, and afterwards {problem}"),
        object: String::new(),
        recommendation: Some("look at the store before anything else is changed".into()),
        evidence: evidence.clone(),
        escalate: Some(Trigger::DataLossRisk),
    }));
    let text = outcome_text(plan, &value, &findings);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("summary_text");
    }
    let mut outcome = Outcome::new(&value, text);
    outcome.findings = findings;
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

/// The store that a plan changes.
fn store_name(plan: &Plan) -> Result<&str, Error> {
    plan.target.strip_prefix("store:").ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "the plan's target is not a store").with("target", &plan.target)
    })
}

/// What is not as the plan said, after it ran.
async fn verify(
    inquiry: &mut Inquiry<'_>,
    plan: &Plan,
    before: Option<Value>,
    baseline: &Value,
    value: &mut Value,
    findings: &mut Vec<Finding>,
) -> Result<Vec<String>, Error> {
    match plan.request.as_str() {
        "migration.apply" | "migration.rollback" => {
            let versions: Vec<u64> =
                serde_json::from_value(plan.predicted["versions"].clone()).unwrap_or_default();
            let history = migration::history::read(inquiry).await?.unwrap_or_default();
            let schema = inquiry.schema().await?.0;
            let wanted = plan.request == "migration.apply";
            value["migrations"] = plan.predicted["migrations"].clone();
            let (summary, text) = migration::summary_of(plan, &schema);
            value["summary"] = summary;
            value["summary_text"] = json!(text);
            let mut problems = migration::not_valid(plan, &schema);
            problems.extend(
                versions
                    .into_iter()
                    .filter(|version| {
                        let applied = history.iter().any(|record| {
                            record.version == *version && record.state == migration::history::State::Applied
                        });
                        applied != wanted
                    })
                    .map(|version| format!("the store's history does not show it for migration {version}")),
            );
            Ok(problems)
        }
        "index.create" | "index.drop" => index::verify(inquiry, plan, before, value, findings).await,
        _ => operate::verify(inquiry, plan, baseline).await,
    }
}

fn outcome_text(plan: &Plan, value: &Value, findings: &[Finding]) -> String {
    let number = |name: &str| value[name].as_u64().unwrap_or(0);
    let mut lines = vec![format!(
        "done: {} ({}{})",
        plan.summary,
        text::count(number("steps_run"), "step"),
        if value["resumed"] == json!(true) { ", resumed" } else { "" }
    )];
    if number("rows_affected") > 0 {
        lines.push(format!("  {} affected", text::count(number("rows_affected"), "row")));
    }
    if let (Some(before), Some(after)) =
        (value["before"]["p95_ms"].as_f64(), value["after"]["p95_ms"].as_f64())
    {
        lines.push(format!("  p95 {} before, {} after", text::millis(before), text::millis(after)));
    }
    lines.push(if value["verified"] == json!(true) { "  verified".into() } else { "  NOT verified".into() });
    lines.extend(findings.iter().map(|finding| format!("  {}", finding.title)));
    lines.extend(value["summary_text"].as_str().map(ToOwned::to_owned));
    lines.join("\n")
}
