//! Deleting what the retention rules no longer keep: first off the list, two days later off the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use contract::quantity::{count, size};
use contract::{
    BackupMethod, Context, Effect, Error, ErrorKind, Finding, Kept as Entry, Outcome, Permit, Plan, PlanStep,
    Pruned, Request, Severity, StepMode, canonical_json, sha256_hex,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Recorded, State};
use crate::chain;
use crate::clock;
use crate::config::PlanConfig;
use crate::copies;
use crate::forgetting;
use crate::places::{is_the_place, places};
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
    let frozen = catalog::suspicious(ctx, around.ledger(), None).await?;
    let mut doomed = Vec::new();
    for ((plan, store, _), backups) in groups {
        // Of a plan that is no longer in the project file, the usual rules hold.
        let rules = plan_named(ctx, around, &plan).unwrap_or_else(|_| PlanConfig::of_store(&store)).keep;
        // Another plan's backups of the store are the last ones of its rows too.
        if frozen.iter().any(|odd| odd.store == store) {
            continue;
        }
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
    let (orphaned, unsure) = orphaned_logs(ctx, around, &doomed).await?;
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
    let summary = match unsure.as_slice() {
        [] => summary,
        [one] => format!("{summary}; {}", one.said()),
        [one, ..] => format!("{summary}; {}, and {} more", one.said(), unsure.len() - 1),
    };
    let frozen = frozen(ctx, around, request).await?;
    let summary = match frozen.as_slice() {
        [] => summary,
        all => format!("{summary}; {}", all.iter().map(Frozen::said).collect::<Vec<_>>().join("; ")),
    };
    Ok(Plan {
        request: PruneBackups::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("backup:{}", request.plan.as_deref().unwrap_or("all")),
        summary,
        steps,
        pre_state: fingerprint(&doomed),
        predicted: match (unsure.is_empty(), frozen.is_empty()) {
            (true, true) => json!({}),
            _ => json!({ "unsure": unsure, "frozen": frozen }),
        },
        cost_usd_nanos: 0,
    })
}

/// What a plan warns of: manifests that cannot be read, suspicious backups, and what stays for their sake.
pub fn prune_warnings(plan: &Plan) -> Vec<Finding> {
    let unsure: Vec<Unsure> = serde_json::from_value(plan.predicted["unsure"].clone()).unwrap_or_default();
    let frozen: Vec<Frozen> = serde_json::from_value(plan.predicted["frozen"].clone()).unwrap_or_default();
    unsure.iter().map(Unsure::finding).chain(frozen.iter().map(Frozen::finding)).collect()
}

/// Deletes what was planned, and of what was deleted two days ago the bytes.
///
/// # Errors
///
/// `Conflict`: the rules would delete others by now, or the clock jumped forward; nothing was deleted. As the repository's. What cannot be read is a finding, and
/// the rest is done: `backup_manifest_unreadable`, `repository_not_pruned`. What is kept for its sake is one too: `backup_retention_frozen`.
pub async fn prune(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &PruneBackups,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    clock::check(ctx, around).await?;
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
    let (mut values, mut findings) = (Vec::new(), Vec::new());
    let mut copied_to = BTreeSet::new();
    for (name, backups) in by_repository {
        let repository = around.repository(ctx, name).await?;
        let ids: Vec<&str> = backups.iter().map(|backup| backup.id.as_str()).collect();
        forgetting::take_off(ctx, around, &repository, &backups).await?;
        text.push_str(&forget_copies(ctx, around, &backups, &mut copied_to).await?);
        match repository.prune(ctx).await {
            Ok(pruned) => {
                let deleted = format!("{} deleted", count(ids.len() as u64, "backup"));
                writeln!(text, "{name}: {deleted}; {}", said(&pruned))
                    .expect("writing to a string does not fail");
                values.push(json!({ "repository": name, "deleted": ids, "pruned": pruned }));
            }
            // Nothing is deleted then: what cannot be read may need it.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                writeln!(
                    text,
                    "{name}: {} deleted; their bytes stay: {error}",
                    count(ids.len() as u64, "backup")
                )
                .expect("writing to a string does not fail");
                values.push(json!({ "repository": name, "deleted": ids, "pruned": null }));
                findings.push(not_pruned(name, &error));
            }
            Err(error) => return Err(error),
        }
    }
    for name in copied_to {
        let pruned = async { around.repository(ctx, &name).await?.prune(ctx).await };
        match pruned.await {
            Ok(pruned) => {
                writeln!(text, "{name}: copies deleted; {}", said(&pruned))
                    .expect("writing to a string does not fail");
                values.push(json!({ "repository": name, "deleted": [], "pruned": pruned }));
            }
            Err(error) if is_the_place(&error) => {
                writeln!(text, "{name}: the bytes of deleted copies stay: {error}")
                    .expect("writing to a string does not fail");
                findings.push(not_pruned(&name, &error));
            }
            Err(error) => return Err(error),
        }
    }
    let mut logs = Vec::new();
    // Of what is forgotten by now, nothing is doomed any more.
    let (orphaned, unsure) = orphaned_logs(ctx, around, &[]).await?;
    for one in frozen(ctx, around, request).await? {
        writeln!(text, "{}", one.said()).expect("writing to a string does not fail");
        findings.push(one.finding());
    }
    for one in &unsure {
        writeln!(text, "{}", one.said()).expect("writing to a string does not fail");
        findings.push(one.finding());
    }
    for (store, name, pieces) in orphaned {
        let done = async {
            let repository = around.repository(ctx, &name).await?;
            match repository.logs() {
                None => Ok(None),
                Some(role) => role.prune(ctx, &store, &pieces).await.map(Some),
            }
        };
        let pruned = match done.await {
            Ok(Some(pruned)) => pruned,
            Ok(None) => continue,
            Err(error) if is_the_place(&error) => {
                writeln!(text, "{name}: of the log of {store} everything stays: {error}")
                    .expect("writing to a string does not fail");
                findings.push(not_pruned(&name, &error));
                continue;
            }
            Err(error) => return Err(error),
        };
        writeln!(text, "{name}: of the log of {store} {}", said(&pruned))
            .expect("writing to a string does not fail");
        logs.push(json!({ "store": store, "repository": name, "pruned": pruned }));
    }
    Ok(Outcome { findings, ..Outcome::new(json!({ "repositories": values, "logs": logs }), text) })
}

fn said(pruned: &Pruned) -> String {
    format!(
        "{} are gone in 48 hours, {} are gone now, {} stay",
        size(pruned.bytes_marked),
        size(pruned.bytes_deleted),
        size(pruned.bytes_kept)
    )
}

fn warning(code: &str, object: &str, title: String, recommendation: String) -> Finding {
    Finding {
        code: code.to_owned(),
        severity: Severity::Warning,
        title,
        object: object.to_owned(),
        recommendation: Some(recommendation),
        evidence: Vec::new(),
        escalate: None,
    }
}

fn not_pruned(repository: &str, error: &Error) -> Finding {
    let title = format!("the bytes of deleted backups stay in {repository}: {error}");
    let said =
        error.hint_text().unwrap_or("see what `steward backup verify` says of the backups that are there");
    warning("repository_not_pruned", repository, title, said.to_owned())
}

/// A store whose backups all stay, because something is odd about one of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Frozen {
    store: String,
    /// The oldest of those about which something is odd.
    backup: String,
    odd: String,
}

impl Frozen {
    fn said(&self) -> String {
        format!("of {} nothing is deleted, because {} is suspicious: {}", self.store, self.backup, self.odd)
    }

    fn finding(&self) -> Finding {
        let todo = format!(
            "find out whether the data was meant to go; if it was: steward backup accept {}",
            self.store
        );
        warning("backup_retention_frozen", &self.store, self.said(), todo)
    }
}

/// The stores of which nothing is deleted.
async fn frozen(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &PruneBackups,
) -> Result<Vec<Frozen>, Error> {
    let only = match &request.plan {
        Some(name) => Some(plan_named(ctx, around, name)?.stores),
        None => None,
    };
    // The same while it lasts, or an approval would end with the next backup.
    let mut oldest = BTreeMap::new();
    for backup in catalog::suspicious(ctx, around.ledger(), None).await? {
        if only.as_ref().is_none_or(|stores| stores.contains(&backup.store)) {
            let odd = backup.suspicions.join("; ");
            let store = backup.store.clone();
            oldest.entry(store).or_insert(Frozen { store: backup.store, backup: backup.id, odd });
        }
    }
    Ok(oldest.into_values().collect())
}

/// A backup of which nobody can say what it needs of the log, so that all of it stays.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Unsure {
    backup: String,
    store: String,
    /// Where it lies; the log stays there.
    repositories: Vec<String>,
    why: String,
}

impl Unsure {
    fn said(&self) -> String {
        format!(
            "the manifest of {} cannot be read ({}), so the whole log of {} stays in {}",
            self.backup,
            self.why,
            self.store,
            self.repositories.join(", ")
        )
    }

    fn finding(&self) -> Finding {
        let todo =
            format!("try a copy: steward backup verify {}; a new backup makes it superfluous", self.backup);
        warning("backup_manifest_unreadable", &self.backup, self.said(), todo)
    }
}

/// Pieces of the log of a store in a repository.
type Orphaned = Vec<(String, String, Vec<contract::LogPiece>)>;

/// What of the stores' logs no backup needs once `doomed` are gone: store, repository, pieces. And the backups whose manifests cannot be
/// read anywhere: of the log that they may need, nothing is given.
async fn orphaned_logs(
    ctx: &Context,
    around: &dyn Surroundings,
    doomed: &[Recorded],
) -> Result<(Orphaned, Vec<Unsure>), Error> {
    let mut stay: BTreeMap<(String, String), Vec<contract::LogStart>> = BTreeMap::new();
    let mut unsure: Vec<Unsure> = Vec::new();
    let known: BTreeSet<String> = around.stores().list(ctx).into_iter().map(|(store, _)| store).collect();
    for backup in catalog::list(ctx, around.ledger(), None, LOOKED_AT_MAX).await? {
        let is_doomed = doomed.iter().any(|it| it.id == backup.id);
        if is_doomed || backup.state != State::Complete || backup.method != BackupMethod::Physical {
            continue;
        }
        if !known.contains(&backup.store) {
            // Nobody can say what its backups need; everything stays.
            continue;
        }
        let repositories: Vec<String> = places(&backup, None)?.into_iter().map(|it| it.repository).collect();
        match chain::chain(ctx, around, backup.clone(), None).await {
            Ok(Some(chain)) => {
                for name in repositories {
                    stay.entry((backup.store.clone(), name)).or_default().push(chain.start.clone());
                }
            }
            Ok(None) => {}
            Err(error) if is_the_place(&error) => unsure.push(Unsure {
                why: error.message().to_owned(),
                backup: backup.id,
                store: backup.store,
                repositories,
            }),
            Err(error) => return Err(error),
        }
    }
    let mut orphaned = Vec::new();
    for ((store, name), starts) in stay {
        if unsure.iter().any(|one| one.store == store && one.repositories.contains(&name)) {
            continue;
        }
        let listed = async {
            let repository = around.repository(ctx, &name).await?;
            match repository.logs() {
                None => Ok(None),
                Some(role) => role.list(ctx, &store).await.map(Some),
            }
        };
        let listing = match listed.await {
            Ok(Some(listing)) => listing,
            Ok(None) => continue,
            // It is pruned when it answers again.
            Err(error) if is_the_place(&error) => {
                tracing::warn!(store, repository = name, %error, "a log is not pruned");
                continue;
            }
            Err(error) => return Err(error),
        };
        let pieces = chain::unneeded(&starts, &listing.pieces);
        if !pieces.is_empty() {
            orphaned.push((store, name, pieces));
        }
    }
    Ok((orphaned, unsure))
}

/// Takes the copies of forgotten backups off the lists too; a repository that cannot be asked keeps its own until the next time.
async fn forget_copies(
    ctx: &Context,
    around: &dyn Surroundings,
    backups: &[&Recorded],
    repositories: &mut BTreeSet<String>,
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
                Ok(()) => {
                    copies::forget(ctx, around.ledger(), &backup.id, &copied.repository).await?;
                    repositories.insert(copied.repository.clone());
                }
                Err(error) => {
                    writeln!(said, "{}: the copy of {} stays: {error}", copied.repository, backup.id)
                        .expect("writing to a string does not fail");
                }
            }
        }
    }
    Ok(said)
}
