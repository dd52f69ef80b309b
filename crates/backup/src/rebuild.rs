//! The ledger's table of backups made anew from the manifests in the repositories.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use contract::quantity::count;
use contract::{
    Context, Effect, Error, ErrorKind, Finding, Kept, Outcome, Permit, Plan, PlanStep, Request, Severity,
    StepMode,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Found, State};
use crate::copies;
use crate::manifest::Manifest;
use crate::places::is_the_place;
use crate::run::{give_up_dead, read_manifest};
use crate::signature::{self, Signed};
use crate::suspicion;

/// Makes the list of backups anew from what lies in the repositories: after the state was lost, or came from an older copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebuildCatalog {
    /// Only this repository. Default: all of the project file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

impl Request for RebuildCatalog {
    const NAME: &'static str = "backup.rebuild";
    const SUMMARY: &'static str = "Make the list of backups anew from the manifests in the repositories";
    const EXAMPLE: &'static str = "steward backup rebuild";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.configure";
    const POSITIONAL: &'static [&'static str] = &["repository"];
}

impl RebuildCatalog {
    fn names(&self, around: &dyn Surroundings) -> Result<Vec<String>, Error> {
        let known = around.repositories();
        match &self.repository {
            // What lies in several places was made where its plan makes it; those that only hold copies come last.
            None => {
                let plans = around.plans().values();
                let makes: BTreeSet<_> = plans.clone().filter_map(|plan| plan.repository.clone()).collect();
                let copied_to: BTreeSet<_> = plans.flat_map(|plan| plan.copies.clone()).collect();
                let mut names = known;
                names.sort_by_key(|name| copied_to.contains(name) && !makes.contains(name));
                Ok(names)
            }
            Some(name) if known.contains(name) => Ok(vec![name.clone()]),
            Some(name) => Err(Error::new(ErrorKind::NotFound, format!("there is no repository `{name}`"))
                .hint(format!("there are: {}", known.join(", ")))),
        }
    }
}

/// Plans one step for each repository; nothing but the ledger's list is touched.
///
/// # Errors
///
/// `NotFound`: no such repository.
pub fn plan_rebuild(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &RebuildCatalog,
) -> Result<Plan, Error> {
    let steps = request.names(around)?.into_iter().map(|name| {
        let title =
            format!("read the manifests in {name} and take in the backups that the list does not have");
        PlanStep {
            reversible: true,
            ..PlanStep::new(format!("read {name}"), title, StepMode::Transaction, Vec::new())
        }
    });
    Ok(Plan {
        request: RebuildCatalog::NAME.to_owned(),
        arguments: serde_json::to_value(request).expect("arguments are JSON"),
        project: ctx.project().to_owned(),
        target: format!("project:{}", ctx.project()),
        summary: "make the list of backups anew from the repositories".to_owned(),
        steps: steps.collect(),
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    })
}

/// What reading the repositories came to.
#[derive(Debug, Default)]
struct Tally {
    taken_in: Vec<String>,
    known: u64,
    foreign: u64,
    forgotten: u64,
    unreadable: Vec<String>,
    missing: Vec<String>,
    doubtful: Vec<(String, Signed)>,
    /// Copies of backups that lie elsewhere too, each with its repository.
    copies: Vec<(String, String)>,
    missing_copies: Vec<(String, String)>,
}

/// Takes in every backup of this project that the ledger does not know, and says which of those that it knows are no longer
/// there. What was proven before is not known of what is taken in: it is at `l0` until it is verified.
///
/// Findings: `backup_unreadable`, `backup_not_in_repository`, `repository_unreadable`, `backup_suspicious`.
///
/// # Errors
///
/// `NotFound`: no such repository. As the ledger's; a repository that cannot be read is a finding, and the others are read.
pub async fn rebuild(
    ctx: &Context,
    around: &dyn Surroundings,
    permit: &Permit,
    plan: &Plan,
    request: &RebuildCatalog,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    // A backup that is whole counts, and what its process has left in the clear goes.
    give_up_dead(ctx, around).await?;
    let mut tally = Tally::default();
    let mut findings = Vec::new();
    let mut text = String::new();
    for name in request.names(around)? {
        let (before, copies) = (tally.taken_in.len(), tally.copies.len());
        match one(ctx, around, &name, &mut tally).await {
            Ok(found) => writeln!(
                text,
                "{name}: {}, {} taken in{}",
                count(found, "backup"),
                count((tally.taken_in.len() - before) as u64, "backup"),
                match tally.copies.len() - copies {
                    0 => String::new(),
                    1 => " and 1 copy".to_owned(),
                    many => format!(" and {many} copies"),
                }
            )
            .expect("writing to a string does not fail"),
            // The ledger's own errors end the request.
            Err(error) if error.kind() == ErrorKind::Other => return Err(error),
            Err(error) => {
                writeln!(text, "{name}: cannot be read: {}", error.message())
                    .expect("writing to a string does not fail");
                findings.push(finding(
                    "repository_unreadable",
                    &name,
                    format!("the repository {name} cannot be read: {error}"),
                    error
                        .hint_text()
                        .unwrap_or("see whether its storage answers, and whether the key is its own"),
                ));
            }
        }
    }
    for (backup, odd) in judge(ctx, around, &tally.taken_in).await? {
        writeln!(text, "SUSPICIOUS: {}: {odd}", backup.id).expect("writing to a string does not fail");
        findings.push(suspicion::finding(&backup, &odd));
    }
    if tally.foreign > 0 {
        writeln!(text, "{} of other projects or programs are left alone", count(tally.foreign, "backup"))
            .expect("writing to a string does not fail");
    }
    for line in &tally.unreadable {
        writeln!(text, "UNREADABLE: {line}").expect("writing to a string does not fail");
        findings.push(finding(
            "backup_unreadable",
            "backups",
            format!("a backup cannot be taken in: {line}"),
            "its bytes are damaged; `restic` may tell more. The others are not touched by it",
        ));
    }
    for id in &tally.missing {
        writeln!(text, "MISSING: {id} is not in its repository").expect("writing to a string does not fail");
        findings.push(finding(
            "backup_not_in_repository",
            id,
            format!("the backup {id} is on the list and not in its repository"),
            "someone has deleted it, or the repository is an older copy",
        ));
    }
    for (id, name) in &tally.missing_copies {
        writeln!(text, "MISSING: the copy of {id} is not in {name}")
            .expect("writing to a string does not fail");
        findings.push(finding(
            "backup_not_in_repository",
            id,
            format!("the copy of {id} is on the list and not in {name}"),
            "make it again: steward backup copy --all",
        ));
    }
    for (id, signed) in &tally.doubtful {
        writeln!(text, "NOT TRUSTED: {id}: {}", signed.means()).expect("writing to a string does not fail");
        findings.push(finding(
            "backup_not_trusted",
            id,
            format!("the backup {id} was found in its repository, and {}", signed.means()),
            "whoever has the repository's key can write such a one; it is not restored unless you say so: --accept-unsigned",
        ));
    }
    let value = json!({
        "not_trusted": tally.doubtful.iter().map(|(id, _)| id).collect::<Vec<_>>(), "taken_in": tally.taken_in, "known": tally.known, "foreign": tally.foreign,
        "forgotten": tally.forgotten, "unreadable": tally.unreadable, "missing": tally.missing,
        "copies": places(&tally.copies), "missing_copies": places(&tally.missing_copies),
    });
    if !tally.taken_in.is_empty() {
        text.push_str("what was taken in counts once it was restored: steward backup verify ID\n");
    }
    if !tally.copies.is_empty() {
        text.push_str(
            "copies that were taken in count once they were read back: steward backup copy --all\n",
        );
    }
    Ok(Outcome { findings, ..Outcome::new(value, text) })
}

fn places(copies: &[(String, String)]) -> Vec<serde_json::Value> {
    copies.iter().map(|(id, name)| json!({ "backup": id, "repository": name })).collect()
}

fn finding(code: &str, object: &str, title: String, recommendation: &str) -> Finding {
    Finding {
        code: code.into(),
        severity: Severity::Warning,
        title,
        object: object.to_owned(),
        recommendation: Some(recommendation.to_owned()),
        evidence: Vec::new(),
        escalate: None,
    }
}

/// Reads one repository; gives how many backups of this project it holds.
async fn one(ctx: &Context, around: &dyn Surroundings, name: &str, tally: &mut Tally) -> Result<u64, Error> {
    let ledger = around.ledger();
    let keys = signature::known(ctx, around).await?;
    let repository = around.repository(ctx, name).await?;
    let listing = repository.list(ctx).await?;
    // Ledger errors are told apart from the repository's by the caller.
    let of_ledger =
        |error: Error| Error::new(ErrorKind::Other, "the list of backups cannot be read").because(error);
    let all = catalog::list(ctx, ledger, None, u32::MAX).await.map_err(of_ledger)?;
    let known: BTreeMap<&str, &catalog::Recorded> = all.iter().map(|one| (one.id.as_str(), one)).collect();
    let there: BTreeSet<&str> = listing.kept.iter().map(|kept| kept.snapshot.as_str()).collect();
    let mut ours = 0;
    for kept in &listing.kept {
        if kept.project.as_deref() != Some(ctx.project()) {
            tally.foreign += 1;
            continue;
        }
        ours += 1;
        let record = kept.id.as_deref().and_then(|id| known.get(id));
        let of_elsewhere = record.filter(|it| it.state == State::Complete && it.repository != name);
        if let Some(record) = of_elsewhere {
            let here = |it: &copies::Copied| it.repository == name && there.contains(it.snapshot.as_str());
            if record.copies.iter().any(here) {
                tally.known += 1;
                continue;
            }
        }
        match record.map(|record| record.state) {
            Some(State::Complete) if of_elsewhere.is_none() => {
                tally.known += 1;
                continue;
            }
            Some(State::Forgotten) => {
                tally.forgotten += 1;
                continue;
            }
            Some(State::Running) if record.is_some_and(|it| !is_over(around, &it.holder)) => continue,
            _ => {}
        }
        match read(ctx, &repository, kept).await {
            Ok(manifest) => {
                let signed = manifest.signed_by(&keys);
                if of_elsewhere.is_some() {
                    let doubt = signed != Signed::Signed && !(keys.is_empty() && signed == Signed::Unsigned);
                    let problem =
                        doubt.then(|| format!("it was found in its repository, and {}", signed.means()));
                    let (id, at) = (&manifest.id, kept.at);
                    copies::found(ctx, ledger, id, name, &kept.snapshot, at, problem.as_deref())
                        .await
                        .map_err(of_ledger)?;
                    if doubt {
                        tally.doubtful.push((manifest.id.clone(), signed));
                    }
                    tally.copies.push((manifest.id, name.to_owned()));
                    continue;
                }
                take_in(ctx, around, name, kept, &manifest, signed).await.map_err(of_ledger)?;
                // Where nothing was ever signed, nothing is told by that.
                if signed != Signed::Signed && !(keys.is_empty() && signed == Signed::Unsigned) {
                    let problem = format!("it was found in its repository, and {}", signed.means());
                    catalog::doubt(ctx, ledger, &manifest.id, &problem).await.map_err(of_ledger)?;
                    tally.doubtful.push((manifest.id.clone(), signed));
                }
                tally.taken_in.push(manifest.id);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Canceled | ErrorKind::TimedOut) => {
                return Err(error);
            }
            Err(error) => tally.unreadable.push(format!("{name}, {}: {}", kept.snapshot, error.message())),
        }
    }
    tally.unreadable.extend(listing.unreadable.iter().map(|line| format!("{name}: {line}")));
    if listing.unreadable.is_empty() {
        let gone = all.iter().filter(|one| {
            one.state == State::Complete && one.repository == name && !there.contains(one.snapshot.as_str())
        });
        for one in gone {
            catalog::doubt(ctx, ledger, &one.id, "it is not in its repository").await.map_err(of_ledger)?;
            tally.missing.push(one.id.clone());
        }
        for one in all.iter().filter(|one| one.state == State::Complete) {
            let gone = |it: &&copies::Copied| it.repository == name && !there.contains(it.snapshot.as_str());
            // Another snapshot of it may have been taken in just now.
            let taken_in = tally.copies.iter().any(|(id, at)| *id == one.id && at == name);
            if one.copies.iter().find(gone).is_some() && !taken_in {
                copies::doubt(ctx, ledger, &one.id, name, "it is not in its repository")
                    .await
                    .map_err(of_ledger)?;
                tally.missing_copies.push((one.id.clone(), name.to_owned()));
            }
        }
    }
    Ok(ours)
}

/// Compares what was taken in with what was made before it, as its run had done, the oldest first; gives what is odd. What was accepted
/// is not known any more, nor what was counted in restored copies: that comes back with the next looks at them.
async fn judge(
    ctx: &Context,
    around: &dyn Surroundings,
    taken_in: &[String],
) -> Result<Vec<(catalog::Recorded, String)>, Error> {
    let mut backups = Vec::new();
    for id in taken_in {
        backups.extend(catalog::show(ctx, around.ledger(), id).await?);
    }
    backups.sort_by_key(|backup| (backup.begun_at, backup.id.clone()));
    let mut found = Vec::new();
    for backup in backups {
        let looked = async {
            let repository = around.repository(ctx, &backup.repository).await?;
            let manifest = read_manifest(ctx, &repository, &backup).await?;
            Ok::<_, Error>((repository, manifest))
        };
        let (repository, manifest) = match looked.await {
            Ok(looked) => looked,
            Err(error) if is_the_place(&error) => continue, // It was read a moment ago; another look tells.
            Err(error) => return Err(error),
        };
        let before = Some(backup.begun_at);
        let odd = suspicion::of_manifest(ctx, around, &repository, &backup, &manifest, before).await?;
        if !odd.is_empty() {
            catalog::suspect(ctx, around.ledger(), &backup.id, &odd).await?;
        }
        found.extend(odd.into_iter().map(|odd| (backup.clone(), odd)));
    }
    Ok(found)
}

/// Whether the run that was making a backup can no longer say what became of it.
fn is_over(around: &dyn Surroundings, holder: &str) -> bool {
    holder != around.holder() && around.is_gone(holder)
}

async fn read(
    ctx: &Context,
    repository: &std::sync::Arc<dyn contract::Repository>,
    kept: &Kept,
) -> Result<Manifest, Error> {
    let manifest = Manifest::read(&repository.manifest(ctx, kept).await?)?;
    // The label beside it can be written by whoever has the key; the manifest says what the parts are.
    if manifest.project != ctx.project() || kept.id.as_ref().is_some_and(|id| *id != manifest.id) {
        return Err(Error::new(ErrorKind::Corrupt, "its manifest is that of another backup")
            .with("manifest_of", &manifest.id));
    }
    Ok(manifest)
}

async fn take_in(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &str,
    kept: &Kept,
    manifest: &Manifest,
    signed: Signed,
) -> Result<(), Error> {
    let found = Found {
        id: &manifest.id,
        plan: &manifest.plan,
        store: &manifest.store,
        repository,
        snapshot: &kept.snapshot,
        method: manifest.dumped.method,
        begun_at: manifest.begun_at,
        point_at: manifest.dumped.point.at,
        ended_at: manifest.ended_at,
        bytes: manifest.parts.iter().map(|part| part.bytes).sum(),
        rows: manifest.rows(),
        together: manifest.together.as_deref().unwrap_or_default(),
        signed,
    };
    catalog::take_in(ctx, around.ledger(), &found).await
}
