//! Accepting what is odd about a backup: a person has looked, and the data was meant to go.

use std::fmt::Write as _;

use contract::quantity::count;
use contract::{
    Context, Effect, Error, ErrorKind, Outcome, Permit, Plan, PlanStep, Request, StepMode, canonical_json,
    sha256_hex,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Recorded};
use crate::run::point;
use crate::verify::backup_named;

/// Accepts that a suspicious backup is as it should be, and the suspicious ones of the same store before it: later backups are
/// compared with it, and the retention rules may delete older ones again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptBackup {
    /// The backup's id, or a store, whose newest backup is meant.
    pub backup: String,
}

impl Request for AcceptBackup {
    const NAME: &'static str = "backup.accept";
    const SUMMARY: &'static str =
        "Accept that a suspicious backup is as it should be, so that older ones may be deleted again";
    const EXAMPLE: &'static str = "steward backup accept orders --dry-run";
    const EFFECT: Effect = Effect::Change;
    // What it opens the way to is the deletion of the last backups that had the rows.
    const ACTION: &'static str = "backup.delete";
    const POSITIONAL: &'static [&'static str] = &["backup"];
}

/// What would be accepted, the oldest first.
async fn meant(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &AcceptBackup,
) -> Result<(Recorded, Vec<Recorded>), Error> {
    let backup = backup_named(ctx, around, &request.backup).await?;
    let mut odd = catalog::suspicious(ctx, around.ledger(), Some(&backup.store)).await?;
    odd.retain(|one| (one.begun_at, &one.id) <= (backup.begun_at, &backup.id));
    Ok((backup, odd))
}

/// Of what is accepted, also what is said to be odd: another look may find more.
fn fingerprint(odd: &[Recorded]) -> String {
    let all: Vec<_> = odd.iter().map(|backup| json!([backup.id, backup.suspicions])).collect();
    sha256_hex(canonical_json(&json!(all)).as_bytes())
}

/// Plans one step for each suspicious backup, with what is odd about it.
///
/// # Errors
///
/// `NotFound`, `Conflict`: as for the backup's name.
pub async fn plan_accept(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &AcceptBackup,
) -> Result<Plan, Error> {
    let (backup, odd) = meant(ctx, around, request).await?;
    let steps = odd.iter().map(|one| {
        let at = point(one).strftime("%Y-%m-%d %H:%M:%SZ");
        let title =
            format!("accept {} of {} as of {at} as it is: {}", one.id, one.store, one.suspicions.join("; "));
        PlanStep {
            reversible: true,
            ..PlanStep::new(format!("accept {}", one.id), title, StepMode::Transaction, Vec::new())
        }
    });
    Ok(Plan {
        request: AcceptBackup::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("backup:{}", backup.id),
        summary: match odd.len() {
            0 => format!("nothing to do: nothing is suspicious about {} that was not accepted", backup.id),
            many => format!(
                "accept {} of {}; older ones may then be deleted under the retention rules",
                count(many as u64, "suspicious backup"),
                backup.store
            ),
        },
        steps: steps.collect(),
        pre_state: fingerprint(&odd),
        predicted: json!({}),
        cost_usd_nanos: 0,
    })
}

/// Records that what the plan names was accepted, and by whom. Nothing is deleted by it.
///
/// # Errors
///
/// `Conflict`: something else is odd by now; nothing was accepted. As the ledger's.
pub async fn accept(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &AcceptBackup,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let (backup, odd) = meant(ctx, around, request).await?;
    if plan.target != format!("backup:{}", backup.id) || fingerprint(&odd) != plan.pre_state {
        return Err(Error::new(ErrorKind::Conflict, "something else is suspicious by now")
            .with("planned", plan.steps.len())
            .with("now", odd.len())
            .hint("ask again, and read the new list"));
    }
    if !odd.is_empty() {
        catalog::accept(ctx, around.ledger(), &odd).await?;
    }
    let mut text = String::new();
    for one in &odd {
        writeln!(text, "{} of {} is accepted as it is: {}", one.id, one.store, one.suspicions.join("; "))
            .expect("writing to a string does not fail");
    }
    let ids: Vec<&str> = odd.iter().map(|one| one.id.as_str()).collect();
    Ok(Outcome::new(json!({ "store": backup.store, "accepted": ids }), text))
}
