//! What is set besides the project file: a budget's amount, a key's limits; and how keys and budgets stand.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use contract::{
    Context, Effect, Error, ErrorKind, Evidence, Outcome, Permit, Plan, PlanStep, Request, StepMode,
};
use ledger::{Ledger, NewEvent, Write};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::{AiConfig, BudgetConfig};
use crate::in_force::{Described, Granted, InForce, in_force, waiting};
use crate::key::GENERATION;
use crate::report::columns;
use crate::usd::Usd;

/// Shows the limits of virtual keys, and how budgets stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowLimits {
    /// Only this virtual key, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Request for ShowLimits {
    const NAME: &'static str = "ai.limits";
    const SUMMARY: &'static str = "Limits of virtual keys, and how budgets stand";
    const EXAMPLE: &'static str = "steward ai limits";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &["key"];
}

/// Sets the limits of a virtual key; what is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLimit {
    /// The virtual key's name.
    pub key: String,
    /// Requests in a minute; 0 for the project's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u32>,
    /// Tokens in a minute; 0 for the project's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<u32>,
    /// Requests at the same time; 0 for the project's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
}

impl Request for SetLimit {
    const NAME: &'static str = "ai.limit";
    const SUMMARY: &'static str = "Set the limits of a virtual key";
    const EXAMPLE: &'static str = "steward ai limit website --rpm 120";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "ai.limit.set";
    const POSITIONAL: &'static [&'static str] = &["key"];
}

/// Sets the amount of a budget, or takes over what the project file says of it; needs the PM's approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RaiseBudget {
    /// The budget's name in the project file.
    pub budget: String,
    /// The amount that takes the place of the project file's, in US dollars, such as `250`. Default: what the project
    /// file says, also where it allows more than before or names the budget no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<String>,
}

impl Request for RaiseBudget {
    const NAME: &'static str = "ai.budget";
    const SUMMARY: &'static str =
        "Set an AI budget, or let the project file raise it; needs the PM's approval";
    const EXAMPLE: &'static str = "steward ai budget month --usd 250";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "ai.budget.raise";
    const POSITIONAL: &'static [&'static str] = &["budget"];
}

/// Answers `ai.limits`, from the state file, so that it needs no daemon.
///
/// # Errors
///
/// `NotFound`: no such key. As the ledger's.
pub async fn limits(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    request: &ShowLimits,
) -> Result<Outcome, Error> {
    let rows = ledger
        .query(
            "SELECT name, person, rpm, tpm, concurrent FROM ai_keys \
             WHERE project = ? AND revoked_us IS NULL AND (? = '' OR name = ?) ORDER BY name",
            vec![
                ctx.project().into(),
                request.key.as_deref().unwrap_or_default().into(),
                request.key.as_deref().unwrap_or_default().into(),
            ],
        )
        .await?;
    if let (Some(key), true) = (&request.key, rows.is_empty()) {
        return Err(no_key(key));
    }
    let mut table =
        vec![["key", "person", "requests/min", "tokens/min", "at once"].map(str::to_owned).to_vec()];
    let mut keys = Vec::new();
    for row in &rows {
        let defaults = [
            config.limits.rpm.map(i64::from),
            config.limits.tpm.and_then(|tpm| i64::try_from(tpm).ok()),
            config.limits.concurrent.map(i64::from),
        ];
        let mut values = Vec::new();
        for (column, default) in ["rpm", "tpm", "concurrent"].into_iter().zip(defaults) {
            values.push(row.get_opt_i64(column)?.or(default));
        }
        let shown = |value: &Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let mut line = vec![
            row.get_text("name")?.to_owned(),
            row.get_opt_text("person")?.unwrap_or_default().to_owned(),
        ];
        line.extend(values.iter().map(shown));
        table.push(line);
        keys.push(json!({
            "key": row.get_text("name")?, "person": row.get_opt_text("person")?,
            "rpm": values[0], "tpm": values[1], "concurrent": values[2],
        }));
    }
    let mut text = if rows.is_empty() {
        "no virtual keys; `steward ai keys create NAME` makes one\n".to_owned()
    } else {
        columns(&table)
    };
    let mut budgets = Vec::new();
    let mut waits = Vec::new();
    if request.key.is_none() {
        let in_force = in_force(ledger, ctx.project(), config).await?;
        let stands = stands(ctx, ledger, &in_force).await?;
        waits = waiting(&in_force);
        if stands.is_empty() {
            text.push_str("\nno budgets; `ai.budgets` in steward.yaml names them\n");
        } else {
            let mut table =
                vec![["budget", "of", "USD", "spent", "left", "begins anew"].map(str::to_owned).to_vec()];
            for stand in &stands {
                table.push(vec![
                    stand.budget.clone(),
                    format!("{} {}", stand.scope, stand.value),
                    stand.limit.to_string(),
                    stand.spent.to_string(),
                    Usd::from_nanos(stand.limit.nanos() - stand.spent.nanos() - stand.for_jobs.nanos())
                        .to_string(),
                    stand.resets.map_or_else(|| "never".to_owned(), |at| at.to_string()),
                ]);
            }
            writeln!(text, "\n{}", columns(&table).trim_end()).expect("writing to a string does not fail");
        }
        for stand in stands.iter().filter(|stand| stand.for_jobs.nanos() > 0) {
            let (for_jobs, budget, value) = (stand.for_jobs, &stand.budget, &stand.value);
            writeln!(text, "{for_jobs} USD of `{budget}` ({value}) are set aside for batches and training that have not ended")
                .expect("writing to a string does not fail");
        }
        for stand in &stands {
            budgets.push(json!({
                "budget": stand.budget, "scope": stand.scope, "value": stand.value, "enforce": stand.enforce,
                "limit_usd_nanos": stand.limit.nanos(),
                "in_file_usd_nanos": config.budgets.get(&stand.budget).map(|budget| budget.usd.nanos()),
                "spent_usd_nanos": stand.spent.nanos(), "set_aside_for_jobs_usd_nanos": stand.for_jobs.nanos(),
                "resets": stand.resets,
            }));
        }
    }
    for sentence in &waits {
        writeln!(text, "{sentence}").expect("writing to a string does not fail");
    }
    let value = json!({ "keys": keys, "budgets": budgets, "waiting": waits });
    let mut outcome = Outcome::new(value.clone(), text);
    outcome.evidence.push(Evidence::new(
        &format!("project:{}", ctx.project()),
        "ai.limits",
        value,
        ctx.now(),
        0.0,
    ));
    Ok(outcome)
}

/// How a value of a budget stands by the state file.
struct Stand {
    budget: String,
    scope: &'static str,
    value: String,
    enforce: crate::config::Enforce,
    limit: Usd,
    spent: Usd,
    /// Held for batches and training that have not ended.
    for_jobs: Usd,
    resets: Option<jiff::Timestamp>,
}

async fn stands(
    ctx: &Context,
    ledger: &Ledger,
    in_force: &BTreeMap<String, InForce>,
) -> Result<Vec<Stand>, Error> {
    let rows = ledger
        .query(
            "SELECT a.account, a.period_us, a.spent_usd_nanos, \
             COALESCE((SELECT SUM(s.amount_usd_nanos - s.spent_usd_nanos) FROM ai_slices AS s \
                       WHERE s.project = a.project AND s.account = a.account AND s.period_us = a.period_us \
                         AND s.holder LIKE 'job/%'), 0) AS for_jobs \
             FROM ai_accounts AS a WHERE a.project = ? ORDER BY a.account, a.period_us",
            vec![ctx.project().into()],
        )
        .await?;
    let mut stands = Vec::new();
    for (name, InForce { budget, .. }) in in_force {
        let span = crate::budget::Span::of(budget.per, ctx.now());
        let scope = crate::budget::scope_word(budget.scope);
        let prefix = format!("{name}/{scope}/");
        let mut known = false;
        let mut add = |value: String, spent: i64, for_jobs: i64| {
            stands.push(Stand {
                budget: name.clone(),
                scope,
                value,
                enforce: budget.enforce,
                limit: budget.usd,
                spent: Usd::from_nanos(spent),
                for_jobs: Usd::from_nanos(for_jobs),
                resets: span.ends(),
            });
        };
        for row in &rows {
            if let Some(value) = row.get_text("account")?.strip_prefix(&prefix)
                && row.get_i64("period_us")? == span.start_us
            {
                known = true;
                add(value.to_owned(), row.get_i64("spent_usd_nanos")?, row.get_i64("for_jobs")?);
            }
        }
        if !known {
            add(
                budget.of.clone().unwrap_or_else(|| {
                    if scope == "project" { ctx.project().to_owned() } else { "(each)".into() }
                }),
                0,
                0,
            );
        }
    }
    Ok(stands)
}

/// How budgets stand by the state file, for a process that is not the daemon.
///
/// # Errors
///
/// As the ledger's.
pub async fn standings(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
) -> Result<Vec<crate::accounts::Standing>, Error> {
    let standing = |stand: Stand| crate::accounts::Standing {
        project: ctx.project().to_owned(),
        budget: stand.budget,
        scope: stand.scope,
        value: stand.value,
        limit: stand.limit,
        spent: stand.spent,
        in_flight: stand.for_jobs,
        overshoot: Usd::default(),
        resets: stand.resets,
    };
    let in_force = in_force(ledger, ctx.project(), config).await?;
    let stands = stands(ctx, ledger, &in_force).await?;
    Ok(stands.into_iter().filter(|stand| stand.value != "(each)").map(standing).collect())
}

fn no_key(key: &str) -> Error {
    Error::new(ErrorKind::NotFound, "this project has no virtual key of this name")
        .with("key", key)
        .hint("`steward ai keys list` shows them")
}

/// A change of one record of Steward's own state.
pub(crate) fn plan(
    ctx: &Context,
    request: &str,
    arguments: serde_json::Value,
    target: String,
    summary: String,
    pre_state: String,
) -> Plan {
    Plan {
        request: request.to_owned(),
        arguments,
        project: ctx.project().to_owned(),
        target,
        summary: summary.clone(),
        steps: vec![PlanStep {
            id: request.to_owned(),
            title: summary,
            mode: StepMode::Transaction,
            statements: Vec::new(),
            is_done: None,
            clean_up: Vec::new(),
            undo: Vec::new(),
            destructive: false,
            reversible: true,
            lock: None,
        }],
        pre_state,
        predicted: json!({}),
        cost_usd_nanos: 0,
    }
}

/// Plans to set a budget.
///
/// # Errors
///
/// `NotFound`: no such budget. `Invalid`: the amount.
pub async fn plan_raise(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    request: &RaiseBudget,
) -> Result<Plan, Error> {
    let (now, to) = change(ctx, ledger, config, request).await?;
    let arguments = serde_json::to_value(request).expect("a request holds only JSON values");
    let name = &request.budget;
    let summary = match &to {
        Some(to) => format!("the AI budget `{name}` is {} instead of {}", Described(to), Described(&now)),
        None => format!("the AI budget `{name}` is lifted; it was {}", Described(&now)),
    };
    let mut plan =
        plan(ctx, RaiseBudget::NAME, arguments, format!("budget:{name}"), summary, pre_state(&now));
    let usd = |budget: &BudgetConfig| budget.usd.to_string();
    plan.predicted = json!({ "usd_before": usd(&now), "usd_after": to.as_ref().map(usd) });
    if to.is_some_and(|to| pre_state(&to) == pre_state(&now)) {
        plan.steps.clear();
    }
    Ok(plan)
}

fn pre_state(budget: &BudgetConfig) -> String {
    Described(budget).to_string()
}

/// The budget that is in force and the one that is asked for; `None`: no such budget any more.
async fn change(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    request: &RaiseBudget,
) -> Result<(BudgetConfig, Option<BudgetConfig>), Error> {
    let mut in_force = in_force(ledger, ctx.project(), config).await?;
    let in_file = config.budgets.get(&request.budget);
    let unknown = || {
        let known: Vec<&str> = config.budgets.keys().map(String::as_str).collect();
        Error::new(ErrorKind::NotFound, "the project file has no budget of this name")
            .with("budget", &request.budget)
            .hint(if known.is_empty() {
                "`ai.budgets` in steward.yaml names them".to_owned()
            } else {
                format!("there are: {}", known.join(", "))
            })
    };
    let now = in_force.remove(&request.budget).ok_or_else(unknown)?.budget;
    let Some(usd) = &request.usd else { return Ok((now, in_file.cloned())) };
    let usd: Usd =
        usd.parse().map_err(|why: &str| Error::new(ErrorKind::Invalid, why).with("argument", "usd"))?;
    if usd.nanos() <= 0 {
        return Err(Error::new(ErrorKind::Invalid, "a budget must be above 0").with("argument", "usd"));
    }
    Ok((now, Some(BudgetConfig { usd, ..in_file.ok_or_else(unknown)?.clone() })))
}

/// Sets the budget as planned; daemons know it within a second.
///
/// # Errors
///
/// `Forbidden`: the permit is for another plan. `Conflict`: the budget has changed since.
pub async fn raise(
    ctx: &Context,
    ledger: &Ledger,
    permit: &Permit,
    plan: &Plan,
    config: &AiConfig,
    request: &RaiseBudget,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let (now, to) = change(ctx, ledger, config, request).await?;
    if pre_state(&now) != plan.pre_state {
        return Err(changed("budget", &request.budget));
    }
    let name = &request.budget;
    let body = json!({
        "budget": name, "was": pre_state(&now), "is": to.as_ref().map(pre_state),
        "usd_before": now.usd.to_string(), "usd_after": to.as_ref().map(|to| to.usd.to_string()),
        "approval": permit.approval(),
    });
    let setting = format!("budget/{name}");
    let (write, text) = if let (Some(to), Some(in_file)) = (&to, config.budgets.get(name)) {
        let granted =
            serde_json::to_string(&Granted::new(to.usd, in_file)).expect("a record holds only JSON values");
        let text = format!("the AI budget `{name}` is {} now, was {}\n", Described(to), Described(&now));
        (set(Write::new(), ctx, &setting, granted), text)
    } else {
        let text = format!("the AI budget `{name}` is lifted; it was {}\n", Described(&now));
        let delete = "DELETE FROM ai_settings WHERE project = ? AND name = ?";
        let write = Write::new().exec(delete, vec![ctx.project().into(), setting.as_str().into()]);
        (write.bump(GENERATION), text)
    };
    let write = write.event(NewEvent::new("ai.budget.set", format!("budget:{name}"), body.clone()));
    ledger.write(ctx, write).await?;
    Ok(Outcome::new(body, text))
}

/// Records a setting, which daemons read anew within a second.
pub(crate) fn set(write: Write, ctx: &Context, name: &str, value: String) -> Write {
    write
        .exec(
            "INSERT INTO ai_settings (project, name, value, set_us) VALUES (?, ?, ?, ?) \
             ON CONFLICT (project, name) DO UPDATE SET value = excluded.value, set_us = excluded.set_us",
            vec![ctx.project().into(), name.into(), value.into(), ctx.now().into()],
        )
        .bump(GENERATION)
}

fn changed(what: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::Conflict, "it has changed since the plan was made")
        .with(what, name)
        .with_retry(contract::Retry::Never)
        .hint("ask for the change again")
}

/// Limits as the state has them.
async fn present(ctx: &Context, ledger: &Ledger, key: &str) -> Result<[Option<i64>; 3], Error> {
    let rows = ledger
        .query(
            "SELECT rpm, tpm, concurrent FROM ai_keys WHERE project = ? AND name = ? AND revoked_us IS NULL",
            vec![ctx.project().into(), key.into()],
        )
        .await?;
    let row = rows.first().ok_or_else(|| no_key(key))?;
    Ok([row.get_opt_i64("rpm")?, row.get_opt_i64("tpm")?, row.get_opt_i64("concurrent")?])
}

fn wanted(request: &SetLimit, now: [Option<i64>; 3]) -> [Option<i64>; 3] {
    let asked = [request.rpm, request.tpm, request.concurrent];
    std::array::from_fn(|at| match asked[at] {
        None => now[at],
        Some(0) => None,
        Some(limit) => Some(i64::from(limit)),
    })
}

fn shown(limits: [Option<i64>; 3]) -> String {
    let word = |limit: Option<i64>| limit.map_or_else(|| "default".to_owned(), |limit| limit.to_string());
    format!("{} requests/min, {} tokens/min, {} at once", word(limits[0]), word(limits[1]), word(limits[2]))
}

/// Plans to set a key's limits.
///
/// # Errors
///
/// `NotFound`: no such key.
pub async fn plan_limit(ctx: &Context, ledger: &Ledger, request: &SetLimit) -> Result<Plan, Error> {
    let now = present(ctx, ledger, &request.key).await?;
    let to = wanted(request, now);
    let arguments = serde_json::to_value(request).expect("a request holds only JSON values");
    let summary = format!("limits of the key `{}`: {} instead of {}", request.key, shown(to), shown(now));
    let mut plan = plan(ctx, SetLimit::NAME, arguments, format!("key:{}", request.key), summary, shown(now));
    if now == to {
        plan.steps.clear();
    }
    Ok(plan)
}

/// Sets the limits as planned; daemons know them within a second.
///
/// # Errors
///
/// `Forbidden`: the permit is for another plan. `Conflict`: they have changed since.
pub async fn limit(
    ctx: &Context,
    ledger: &Ledger,
    permit: &Permit,
    plan: &Plan,
    request: &SetLimit,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let now = present(ctx, ledger, &request.key).await?;
    if shown(now) != plan.pre_state {
        return Err(changed("key", &request.key));
    }
    let [rpm, tpm, concurrent] = wanted(request, now);
    let body = json!({ "key": request.key, "rpm": rpm, "tpm": tpm, "concurrent": concurrent });
    let write = Write::new()
        .exec_expecting(
            "UPDATE ai_keys SET rpm = ?, tpm = ?, concurrent = ? WHERE project = ? AND name = ? AND revoked_us IS NULL",
            vec![rpm.into(), tpm.into(), concurrent.into(), ctx.project().into(), (&request.key).into()],
            1,
        )
        .bump(GENERATION)
        .event(NewEvent::new("ai.limit.set", format!("key:{}", request.key), body.clone()));
    ledger.write(ctx, write).await?;
    Ok(Outcome::new(
        body,
        format!("limits of the key `{}`: {}\n", request.key, shown([rpm, tpm, concurrent])),
    ))
}
