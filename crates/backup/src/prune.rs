//! Deleting what the retention rules no longer keep: first off the list, two days later off the disk.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use contract::quantity::{count, size};
use contract::{
    BackupMethod, Context, Effect, Error, ErrorKind, Kept as Entry, Outcome, Permit, Plan, PlanStep, Request,
    StepMode, canonical_json, sha256_hex,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Recorded, State};
use crate::config::PlanConfig;
use crate::copies;
use crate::forgetting;
use crate::logs;
use crate::retention::keep;
use crate::run::{give_up_dead, kept, plan_named, point};

/// Backups that one look takes in.
const LOOKED_AT_MAX: u32 = 100_000;

/// Deletes backups that no retention rule keeps; their bytes are gone 48 hours later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneBackups {
    /// Only backups of this plan. Default: all plans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

impl Request for PruneBackups {
    const NAME: &'static str = "backup.prune";
    const SUMMARY: &'static str =
        "Delete backups that no retention rule keeps; a person approves the list first";
    const EXAMPLE: &'static str = "steward backup prune --dry-run";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.delete";
    const POSITIONAL: &'static [&'static str] = &["plan"];
}

/// What no rule keeps, the oldest first.
async fn doomed(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &PruneBackups,
) -> Result<Vec<Recorded>, Error> {
    if let Some(name) = &request.plan {
        plan_named(ctx, around, name)?;
    }
    let mut groups: BTreeMap<(String, String, String), Vec<Recorded>> = BTreeMap::new();
    for backup in catalog::list(ctx, around.ledger(), None, LOOKED_AT_MAX).await? {
        if request.plan.as_ref().is_some_and(|plan| *plan != backup.plan) {
            continue;
        }
        let group = (backup.plan.clone(), backup.store.clone(), backup.repository.clone());
        groups.entry(group).or_default().push(backup);
    }
    let mut doomed = Vec::new();
    for ((plan, store, _), backups) in groups {
        // Of a plan that is no longer in the project file, the usual rules hold.
        let rules = plan_named(ctx, around, &plan).unwrap_or_else(|_| PlanConfig::of_store(&store)).keep;
        for (backup, verdict) in backups.iter().zip(keep(&backups, &rules, ctx.now())) {
            if backup.state == State::Complete && verdict.reasons.is_empty() {
                doomed.push(backup.clone());
            }
        }
    }
    doomed.sort_by_key(|backup| (point(backup), backup.id.clone()));
    Ok(doomed)
}

fn fingerprint(doomed: &[Recorded]) -> String {
    let ids: Vec<&str> = doomed.iter().map(|backup| backup.id.as_str()).collect();
    sha256_hex(canonical_json(&json!(ids)).as_bytes())
}

/// Plans which backups are deleted, each by its name. The plan is bound to exactly these.
///
/// # Errors
///
/// `NotFound`: no such plan. As the ledger's.
pub async fn plan_prune(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &PruneBackups,
) -> Result<Plan, Error> {
    let doomed = doomed(ctx, around, request).await?;
    let mut steps: Vec<PlanStep> = doomed
        .iter()
        .map(|backup| PlanStep {
            destructive: true,
            ..PlanStep::new(
                format!("forget {}", backup.id),
                format!(
                    "delete {} of {} as of {} from {}",
                    backup.id,
                    backup.store,
                    point(backup).strftime("%Y-%m-%d %H:%M:%SZ"),
                    backup.repository
                ),
                StepMode::Transaction,
                Vec::new(),
            )
        })
        .collect();
    let orphaned = orphaned_logs(ctx, around, &doomed).await?;
    for (store, repository, pieces) in &orphaned {
        steps.push(PlanStep {
            destructive: true,
            ..PlanStep::new(
                format!("log {store} {repository}"),
                format!(
                    "delete {} of the log of {store} from {repository}, which lie before the oldest backup that stays",
                    count(pieces.len() as u64, "piece")
                ),
                StepMode::Transaction,
                Vec::new(),
            )
        });
    }
    let summary = match doomed.len() {
        0 if !orphaned.is_empty() => "delete logs that no backup needs".to_owned(),
        0 => "nothing to do: the retention rules keep every backup".to_owned(),
        1 => "delete 1 backup that no retention rule keeps".to_owned(),
        many => format!("delete {many} backups that no retention rule keeps"),
    };
    Ok(Plan {
        request: PruneBackups::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("backup:{}", request.plan.as_deref().unwrap_or("all")),
        summary,
        steps,
        pre_state: fingerprint(&doomed),
        predicted: json!({}),
        cost_usd_nanos: 0,
    })
}

/// Deletes what was planned, and of what was deleted two days ago the bytes.
///
/// # Errors
///
/// `Conflict`: the rules would delete others by now; nothing was deleted. As the repository's.
pub async fn prune(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &PruneBackups,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    give_up_dead(ctx, around).await?;
    forgetting::finish(ctx, around).await?;
    let doomed = doomed(ctx, around, request).await?;
    if fingerprint(&doomed) != plan.pre_state {
        return Err(Error::new(ErrorKind::Conflict, "the rules would delete other backups by now")
            .with("planned", plan.steps.len())
            .with("now", doomed.len())
            .hint("ask again, and read the new list"));
    }
    let mut by_repository: BTreeMap<&str, Vec<&Recorded>> = BTreeMap::new();
    for backup in &doomed {
        by_repository.entry(&backup.repository).or_default().push(backup);
    }
    let mut text = String::new();
    let mut values = Vec::new();
    for (name, backups) in by_repository {
        let repository = around.repository(ctx, name).await?;
        let ids: Vec<&str> = backups.iter().map(|backup| backup.id.as_str()).collect();
        forgetting::take_off(ctx, around, &repository, &backups).await?;
        text.push_str(&forget_copies(ctx, around, &backups).await?);
        let pruned = repository.prune(ctx).await?;
        writeln!(
            text,
            "{name}: {} backups deleted; {} are gone in 48 hours, {} are gone now, {} stay",
            ids.len(),
            size(pruned.bytes_marked),
            size(pruned.bytes_deleted),
            size(pruned.bytes_kept)
        )
        .expect("writing to a string does not fail");
        values.push(json!({ "repository": name, "deleted": ids, "pruned": pruned }));
    }
    let mut logs = Vec::new();
    // Of what is forgotten by now, nothing is doomed any more.
    for (store, name, pieces) in orphaned_logs(ctx, around, &[]).await? {
        let repository = around.repository(ctx, &name).await?;
        let Some(role) = repository.logs() else { continue };
        let pruned = role.prune(ctx, &store, &pieces).await?;
        writeln!(
            text,
            "{name}: of the log of {store} {} are gone in 48 hours, {} are gone now, {} stay",
            size(pruned.bytes_marked),
            size(pruned.bytes_deleted),
            size(pruned.bytes_kept)
        )
        .expect("writing to a string does not fail");
        logs.push(json!({ "store": store, "repository": name, "pruned": pruned }));
    }
    Ok(Outcome::new(json!({ "repositories": values, "logs": logs }), text))
}

/// What of the stores' logs no backup needs once `doomed` are gone: store, repository, pieces.
async fn orphaned_logs(
    ctx: &Context,
    around: &dyn Surroundings,
    doomed: &[Recorded],
) -> Result<Vec<(String, String, Vec<contract::LogPiece>)>, Error> {
    let mut stay: BTreeMap<(String, String), Vec<contract::LogStart>> = BTreeMap::new();
    for backup in catalog::list(ctx, around.ledger(), None, LOOKED_AT_MAX).await? {
        let is_doomed = doomed.iter().any(|it| it.id == backup.id);
        if is_doomed || backup.state != State::Complete || backup.method != BackupMethod::Physical {
            continue;
        }
        let known = around.stores().list(ctx);
        if !known.iter().any(|(store, _)| *store == backup.store) {
            // Nobody can say what its backups need; everything stays.
            continue;
        }
        let key = (backup.store.clone(), backup.repository.clone());
        if let Some(chain) = logs::chain(ctx, around, backup, None).await? {
            stay.entry(key).or_default().push(chain.start);
        }
    }
    let mut orphaned = Vec::new();
    for ((store, name), starts) in stay {
        let repository = around.repository(ctx, &name).await?;
        let Some(role) = repository.logs() else { continue };
        let pieces = logs::unneeded(&starts, &role.list(ctx, &store).await?.pieces);
        if !pieces.is_empty() {
            orphaned.push((store, name, pieces));
        }
    }
    Ok(orphaned)
}

/// Takes the copies of forgotten backups off the lists too; a repository that cannot be asked keeps its own until the next time.
async fn forget_copies(
    ctx: &Context,
    around: &dyn Surroundings,
    backups: &[&Recorded],
) -> Result<String, Error> {
    let mut said = String::new();
    for backup in backups {
        for copied in &backup.copies {
            let there = Entry { snapshot: copied.snapshot.clone(), ..kept(backup) };
            let forgotten = async {
                let repository = around.repository(ctx, &copied.repository).await?;
                repository.forget(ctx, &[there]).await
            };
            match forgotten.await {
                Ok(()) => copies::forget(ctx, around.ledger(), &backup.id, &copied.repository).await?,
                Err(error) => {
                    writeln!(said, "{}: the copy of {} stays: {error}", copied.repository, backup.id)
                        .expect("writing to a string does not fail");
                }
            }
        }
    }
    Ok(said)
}
