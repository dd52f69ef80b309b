//! What is backed up, how, where to and against what objectives, and what is missing for it.

use std::fmt::Write as _;

use contract::quantity::{size, span};
use contract::{Context, Effect, Error, Finding, Outcome, Request, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Surroundings;
use crate::catalog::{self, age_s};
use crate::config::PlanConfig;
use crate::lamps::{Repositories, lamps, lit};
use crate::run::{plan_named, point, preflight, repository_of, told_before, word};

/// Shows what is backed up, how, where to, and what stands in the way; with five lamps per store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowPlans {
    /// One plan, or a store. Default: every plan, and every store that no plan names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

impl Request for ShowPlans {
    const NAME: &'static str = "backup.plan";
    const SUMMARY: &'static str =
        "Show what is backed up, how and where to, what stands in the way, and the 3-2-1-1-0 lamps";
    const EXAMPLE: &'static str = "steward backup plan";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &["plan"];
}

/// Answers `backup.plan`. `value`: `plans[] {plan, declared, repository, address, copies, stores[] {store, method, bytes_expected,
/// tools, refusals, warnings, notes, lamps[] {lamp, on, why, todo}, proven, age_s}}`. Findings: `backup_impossible`, `backup_is_partial`.
///
/// # Errors
///
/// `NotFound`: no such plan. What a store or a repository fails with is said in the answer.
pub async fn show_plans(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &ShowPlans,
) -> Result<Outcome, Error> {
    let mut plans: Vec<(String, PlanConfig)> = Vec::new();
    if let Some(name) = &request.plan {
        plans.push((name.clone(), plan_named(ctx, around, name)?));
    } else {
        plans.extend(around.plans().iter().map(|(name, plan)| (name.clone(), plan.clone())));
        for (store, _) in around.stores().list(ctx) {
            if !around.plans().values().any(|plan| plan.stores.contains(&store)) {
                let plan = PlanConfig::of_store(&store);
                plans.push((store, plan));
            }
        }
    }
    let (mut text, mut values, mut findings) = (String::new(), Vec::new(), Vec::new());
    let mut repositories = Repositories::default();
    for (name, plan) in &plans {
        let repository = repository_of(around, plan)?;
        let opened = around.repository(ctx, &repository).await;
        let address = match &opened {
            Ok(repository) => repository.address(),
            Err(error) => error.message().to_owned(),
        };
        writeln!(
            text,
            "{name}: to {repository} ({address}); at most {} of work lost, back within {}",
            span(u64::from(plan.objectives.rpo_minutes) * 60),
            span(u64::from(plan.objectives.rto_minutes) * 60)
        )
        .expect("writing to a string does not fail");
        if let Err(error) = &opened
            && let Some(hint) = error.hint_text()
        {
            writeln!(text, "  first: {hint}").expect("writing to a string does not fail");
        }
        let mut stores = Vec::new();
        for store in &plan.stores {
            let told =
                one_store(ctx, around, plan, store, &mut repositories, &mut text, &mut findings).await?;
            stores.push(told);
        }
        values.push(json!({
            "plan": name, "declared": around.plans().contains_key(name), "repository": repository, "address": address,
            "copies": plan.copies,
            "stores": stores,
        }));
    }
    if plans.is_empty() {
        text.push_str("the project has no stores\n");
    }
    Ok(Outcome { findings, ..Outcome::new(json!({ "plans": values }), text) })
}

async fn one_store(
    ctx: &Context,
    around: &dyn Surroundings,
    plan: &PlanConfig,
    store: &str,
    repositories: &mut Repositories,
    text: &mut String,
    findings: &mut Vec<Finding>,
) -> Result<Value, Error> {
    let proven = catalog::newest_proven(ctx, around.ledger(), store).await?;
    let age = proven.as_ref().map(|backup| age_s(ctx.now(), point(backup)));
    let lamps = lamps(ctx, around, plan, store, repositories).await?;
    let looked = preflight(ctx, around, plan, store).await;
    let mut say = |severity, code: &str, title: String| {
        findings.push(Finding {
            code: code.to_owned(),
            severity,
            title,
            object: store.to_owned(),
            recommendation: None,
            evidence: Vec::new(),
            escalate: None,
        });
    };
    let (method, before) = match looked {
        Ok((method, before)) => (Some(word(method)), before),
        Err(error) => (
            None,
            contract::Preflight { refusals: vec![error.to_string()], ..contract::Preflight::default() },
        ),
    };
    writeln!(
        text,
        "  {store}: {}{}; lamps: {}",
        method.unwrap_or("impossible"),
        before.bytes_expected.map_or_else(String::new, |bytes| format!(", about {}", size(bytes))),
        lit(&lamps),
    )
    .expect("writing to a string does not fail");
    for refusal in &before.refusals {
        writeln!(text, "    cannot be backed up: {refusal}").expect("writing to a string does not fail");
        say(Severity::Critical, "backup_impossible", format!("{store} cannot be backed up: {refusal}"));
    }
    for said in before.warnings.iter().chain(&before.notes) {
        writeln!(text, "    {said}").expect("writing to a string does not fail");
    }
    findings.extend(told_before(store, "backup_is_partial", &before));
    for lamp in lamps.iter().filter(|lamp| !lamp.on) {
        let todo = lamp.todo.as_deref().unwrap_or_default();
        writeln!(text, "    {}-: {}; {todo}", lamp.name, lamp.why)
            .expect("writing to a string does not fail");
    }
    Ok(json!({
        "store": store, "method": method, "bytes_expected": before.bytes_expected, "tools": before.tools,
        "refusals": before.refusals, "warnings": before.warnings, "notes": before.notes, "lamps": lamps,
        "proven": proven.map(|backup| backup.id), "age_s": age,
    }))
}
