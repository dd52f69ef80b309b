//! Deleting rows by rule, without an archive.

use std::fmt::Write as _;
use std::time::Instant;

use contract::cold::{ColdPage, Fate};
use contract::columnar::Row;
use contract::quantity::{count, thousands};
use contract::{
    Context, Effect, Error, ErrorKind, Evidence, Outcome, Permit, Plan, PlanStep, Request, RowSum, StepMode,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::ending::pace;
use super::files::add;
use super::run::{Meant, refuse_another_state, said_before};
use super::{ColdRule, ColdSurroundings, at_most, rule_named};

/// Deletes the rows that a rule under `retention` means, in batches, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRetention {
    /// The rule, by its name under `retention` in the project file.
    pub rule: String,
    /// Rows before this day or moment, such as `2024-11-23`; never younger than the rule says. Default: the rule's age before
    /// the start of today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl Request for ApplyRetention {
    const NAME: &'static str = "retention.apply";
    const SUMMARY: &'static str = "Delete the rows that a retention rule means, in batches, for good";
    const EXAMPLE: &'static str = "steward retention apply old_logins";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "retention.delete";
    const POSITIONAL: &'static [&'static str] = &["rule"];
}

/// Lists the rules that move or delete rows, with the legal holds on their tables, and counts what each means now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListRetention {}

impl Request for ListRetention {
    const NAME: &'static str = "retention.list";
    const SUMMARY: &'static str =
        "List the rules that archive or delete rows, with their legal holds, and count what each means now";
    const EXAMPLE: &'static str = "steward retention list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Plans the deletion.
///
/// # Errors
///
/// As `plan_archive`.
pub async fn plan_retention(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    request: &ApplyRetention,
) -> Result<(Plan, Vec<Evidence>), Error> {
    let rule = rule_named(around.retention_rules(), &request.rule, "retention")?;
    let meant = Meant::of(ctx, around, rule, request.before.as_deref()).await?;
    let since = Instant::now();
    let counted = meant.cold()?.cold_count(ctx, &meant.table, &meant.selection).await?;
    Meant::refuse_referred(&counted.referred)?;
    let before = meant.boundary.map(|boundary| boundary.at.to_string());
    let mut steps = Vec::new();
    if counted.rows > 0 {
        steps.push(PlanStep {
            destructive: true,
            reversible: false,
            ..PlanStep::new(
                "delete",
                format!(
                    "delete at most {} of {}, {} at a time",
                    count(at_most(counted.rows), "row"),
                    meant.table.name,
                    thousands(rule.rows_per_batch as u64)
                ),
                StepMode::Transaction,
                Vec::new(),
            )
        });
    }
    let summary = if steps.is_empty() {
        format!("nothing to delete: no {}", rule.said())
    } else {
        format!("delete {} from {}{}", rule.said(), rule.store, said_before(before.as_deref()))
    };
    let plan = Plan {
        request: ApplyRetention::NAME.to_owned(),
        arguments: json!(ApplyRetention { rule: request.rule.clone(), before: before.clone() }),
        project: ctx.project().to_owned(),
        target: format!("store:{}", rule.store),
        summary,
        steps,
        pre_state: meant.fingerprint(),
        predicted: json!({
            "rows_max": at_most(counted.rows), "held_max": at_most(counted.held), "before": before,
            "legal_holds": meant.holds, "where": meant.selection.filter,
        }),
        cost_usd_nanos: 0,
    };
    Ok((plan, vec![meant.evidence(ctx, counted.rows, counted.held, since)]))
}

/// One page of rows.
async fn page(ctx: &Context, meant: &Meant, after: Option<Row>, rows_max: u64) -> Result<Vec<Row>, Error> {
    let (sender, mut receiver) = mpsc::channel(1);
    let page = ColdPage { after, rows_max: Some(rows_max) };
    let cold = meant.cold()?;
    let take = async {
        let mut rows = Vec::new();
        while let Some(piece) = receiver.recv().await {
            rows.extend(piece);
        }
        Ok(rows)
    };
    let (rows, _) =
        tokio::try_join!(take, cold.cold_read(ctx, &meant.table, &meant.selection, &page, sender))?;
    Ok(rows)
}

/// Deletes as a permitted plan says, never more rows than it says. Interrupted, it has deleted whole batches; asked again, it goes on.
///
/// # Errors
///
/// `Conflict`: the table, the rule or the holds are others than when the plan was made; there are more rows. As the store's.
pub async fn apply_retention(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    permit: &Permit,
    plan: &Plan,
    request: &ApplyRetention,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let rule = rule_named(around.retention_rules(), &request.rule, "retention")?;
    let meant = Meant::of(ctx, around, rule, plan.arguments["before"].as_str()).await?;
    refuse_another_state(&meant, plan)?;
    let cold = meant.cold()?;
    let rows_max = plan.predicted["rows_max"].as_u64().unwrap_or(0);
    let since = Instant::now();
    let (mut sum, mut stayed, mut batches, mut after) = (RowSum::default(), 0_u64, 0_u64, None);
    let mut seen = 0;
    loop {
        let rows = page(ctx, &meant, after.take(), rule.rows_per_batch as u64).await?;
        let Some(last) = rows.last() else { break };
        seen += rows.len() as u64;
        if seen > rows_max {
            let deleted = sum.of_table("").rows;
            return Err(Error::new(ErrorKind::Conflict, "there are more old rows than the plan says")
                .with("planned", rows_max)
                .with("deleted", deleted)
                .with_retry(contract::Retry::Never)
                .hint("ask again, and read the new plan"));
        }
        pace(ctx, cold).await?;
        let fates = cold.cold_delete(ctx, permit, plan, &meant.table, &meant.selection, &rows).await?;
        for (row, fate) in rows.iter().zip(fates) {
            match fate {
                Fate::Deleted => add(&mut sum, row),
                Fate::Gone => {}
                Fate::Changed | Fate::Held | Fate::Referred => stayed += 1,
            }
        }
        batches += 1;
        after = Some(last.clone());
    }
    let deleted = sum.of_table(meant.table.name.clone());
    let value = json!({
        "rule": request.rule, "store": rule.store, "table": meant.table.name,
        "before": plan.predicted["before"], "where": meant.selection.filter, "legal_holds": meant.holds,
        "deleted": deleted.rows, "digest": deleted.digest, "stayed": stayed, "batches": batches,
    });
    let mut text = format!(
        "deleted {} of {} in {}, digest {}\n",
        count(deleted.rows, "row"),
        meant.table.name,
        count_batches(batches),
        deleted.digest
    );
    if stayed > 0 {
        writeln!(
            text,
            "{} changed meanwhile and stayed; the next run looks at them again",
            count(stayed, "row")
        )
        .expect("writing to a string does not fail");
    }
    let evidence = Evidence::new(
        &format!("store:{}", rule.store),
        &format!("retention of {} by {}", meant.table.name, json!(meant.selection)),
        value.clone(),
        ctx.now(),
        since.elapsed().as_secs_f64() * 1e3,
    );
    Ok(Outcome { evidence: vec![evidence], ..Outcome::new(value, text) })
}

fn count_batches(batches: u64) -> String {
    if batches == 1 { "1 batch".to_owned() } else { format!("{} batches", thousands(batches)) }
}

/// Answers `retention.list`. `value`: `rules[] {rule, kind, store, table, before, rows, held, legal_holds, problem}`.
///
/// # Errors
///
/// `Canceled`, `TimedOut`; a rule that cannot be counted says why.
pub async fn list_retention(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    _: &ListRetention,
) -> Result<Outcome, Error> {
    let (mut text, mut values, mut evidence) = (String::new(), Vec::new(), Vec::new());
    let rules = around.archive_rules().iter().map(|rule| ("archive", rule));
    for (kind, (name, rule)) in rules.chain(around.retention_rules().iter().map(|rule| ("delete", rule))) {
        ctx.run(async { Ok(()) }).await?;
        let since = Instant::now();
        let counted = count_rule(ctx, around, rule).await;
        let mut value = json!({ "rule": name, "kind": kind, "store": rule.store, "table": rule.table });
        let said = match counted {
            Ok((meant, counted)) => {
                value["before"] = json!(meant.boundary.map(|boundary| boundary.at));
                value["rows"] = json!(counted.rows);
                value["held"] = json!(counted.held);
                value["legal_holds"] = json!(meant.holds);
                evidence.push(meant.evidence(ctx, counted.rows, counted.held, since));
                let held = if counted.held == 0 {
                    String::new()
                } else {
                    format!(", {} under {}", count(counted.held, "row"), meant.holds.join(", "))
                };
                format!("{} now{held}", count(counted.rows, "row"))
            }
            Err(error) => {
                value["problem"] = json!(error.message());
                format!("CANNOT BE COUNTED: {}", error.message())
            }
        };
        writeln!(text, "{name}  {kind} {} in {}: {said}", rule.said(), rule.store)
            .expect("writing to a string does not fail");
        values.push(value);
    }
    if values.is_empty() {
        text.push_str("no rules; they stand under `archive` and `retention` in steward.yaml\n");
    }
    Ok(Outcome { evidence, ..Outcome::new(json!({ "rules": values }), text) })
}

async fn count_rule(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    rule: &ColdRule,
) -> Result<(Meant, contract::cold::ColdCount), Error> {
    let meant = Meant::of(ctx, around, rule, None).await?;
    let counted = meant.cold()?.cold_count(ctx, &meant.table, &meant.selection).await?;
    Ok((meant, counted))
}
