//! What archives there are, what they hold, and whether they are still what was written.

use std::fmt::Write as _;
use std::path::Path;

use contract::cold::ArchivePlace;
use contract::quantity::{count, size};
use contract::{Context, Effect, Error, ErrorKind, Finding, Outcome, Request, Severity, Trigger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ColdSurroundings;
use super::files;
use super::manifest::{ArchiveManifest, Ending, MANIFEST};
use super::run::{ending_name, folder, place_of, value};
use crate::run::Scratch;

/// Lists archives of rows, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListArchives {
    /// Only those of this rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl Request for ListArchives {
    const NAME: &'static str = "archive.list";
    const SUMMARY: &'static str =
        "List archives of rows: rule, table, boundary, rows, and whether they are finished";
    const EXAMPLE: &'static str = "steward archive list --rule old_orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Shows an archive: its files, columns, digests, and the rows that stayed in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowArchive {
    /// The archive's id, or a rule, whose newest archive is meant.
    pub archive: String,
}

impl Request for ShowArchive {
    const NAME: &'static str = "archive.show";
    const SUMMARY: &'static str =
        "Show an archive: its files, columns, digests, and the rows that stayed in the table";
    const EXAMPLE: &'static str = "steward archive show old_orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &["archive"];
}

/// Reads archives back whole and compares bytes, rows and digests with what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyArchive {
    /// The archive's id, or a rule, whose archives are all verified.
    pub archive: String,
}

impl Request for VerifyArchive {
    const NAME: &'static str = "archive.verify";
    const SUMMARY: &'static str =
        "Read archives back whole and compare bytes, rows and digests with what was written";
    const EXAMPLE: &'static str = "steward archive verify old_orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &["archive"];
}

/// An archive as it lies in its place.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) manifest: ArchiveManifest,
    pub(super) ending: Option<Ending>,
}

/// What lies in the folder of a rule.
#[derive(Debug, Default)]
pub(super) struct FoundAll {
    /// The oldest first.
    pub(super) archives: Vec<Found>,
    /// Files that lie there without a manifest.
    pub(super) leftovers: Vec<String>,
    /// Archives whose records cannot be read, and why.
    pub(super) unreadable: Vec<String>,
}

/// Everything of a rule.
///
/// # Errors
///
/// As the place's; not for single archives.
pub(super) async fn archives_of(
    ctx: &Context,
    place: &dyn ArchivePlace,
    folder: &str,
    scratch: &Path,
) -> Result<FoundAll, Error> {
    let prefix = format!("{folder}/");
    let names = place.list(ctx, &prefix).await?;
    let mut all = FoundAll::default();
    let id_of = |name: &str| {
        name.strip_prefix(&prefix).and_then(|rest| rest.split_once('/')).map(|(id, _)| id.to_owned())
    };
    let mut ids: Vec<String> = names.iter().filter_map(|name| id_of(name)).collect();
    ids.dedup();
    for id in ids {
        // Asked for by name: a listing may not have it yet, and what counts as a leftover is deleted.
        match one(ctx, place, &format!("{prefix}{id}/{MANIFEST}"), scratch).await {
            Ok(Some(found)) => all.archives.push(found),
            Ok(None) => {
                all.leftovers.extend(names.iter().filter(|name| id_of(name).as_ref() == Some(&id)).cloned());
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                all.unreadable.push(format!("{id}: {}", error.message()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// A record that need not be there.
async fn record<T: serde::de::DeserializeOwned>(
    ctx: &Context,
    place: &dyn ArchivePlace,
    name: &str,
    scratch: &Path,
) -> Result<Option<T>, Error> {
    match files::read_record(ctx, place, name, scratch).await {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn one(
    ctx: &Context,
    place: &dyn ArchivePlace,
    name: &str,
    scratch: &Path,
) -> Result<Option<Found>, Error> {
    let Some(manifest) = record::<ArchiveManifest>(ctx, place, name, scratch).await? else { return Ok(None) };
    if name != format!("{}/{MANIFEST}", manifest.folder()) {
        return Err(Error::new(ErrorKind::Corrupt, "the manifest is that of another archive"));
    }
    let ending = record(ctx, place, &ending_name(&manifest), scratch).await?;
    Ok(Some(Found { manifest, ending }))
}

/// The archives that are meant by an id or a rule, the oldest first, with their rule's place.
///
/// # Errors
///
/// `NotFound`: neither. `Corrupt`: one of them cannot be read.
pub(super) async fn archives_named(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    name: &str,
    scratch: &Path,
) -> Result<(std::sync::Arc<dyn ArchivePlace>, Vec<Found>), Error> {
    let unreadable =
        |why: &String| Error::new(ErrorKind::Corrupt, "an archive cannot be read").with("archive", why);
    if let Some(rule) = around.archive_rules().get(name) {
        let place = place_of(around, rule)?;
        let all = archives_of(ctx, &*place, &folder(ctx, name), scratch).await?;
        if let Some(why) = all.unreadable.first() {
            return Err(unreadable(why));
        }
        if all.archives.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("the rule `{name}` has no archive yet"))
                .hint(format!("steward backup archive {name}")));
        }
        return Ok((place, all.archives));
    }
    for (rule_name, rule) in around.archive_rules() {
        let place = place_of(around, rule)?;
        let all = archives_of(ctx, &*place, &folder(ctx, rule_name), scratch).await?;
        if let Some(found) = all.archives.into_iter().find(|found| found.manifest.id == name) {
            return Ok((place, vec![found]));
        }
        if let Some(why) = all.unreadable.iter().find(|why| why.starts_with(&format!("{name}:"))) {
            return Err(unreadable(why));
        }
    }
    Err(Error::new(ErrorKind::NotFound, format!("there is no archive and no rule `{name}`"))
        .hint("`steward archive list` shows what there is"))
}

pub(super) fn scratch(around: &dyn ColdSurroundings) -> Result<Scratch, Error> {
    Scratch::make(around, &format!("archive-{}", uuid::Uuid::now_v7().simple()))
}

fn line(found: &Found) -> String {
    let Found { manifest, ending } = found;
    let before = manifest.selection.older.as_ref().map(|older| format!(" before {}", older.before));
    let state = match ending {
        Some(ending) => format!(
            "deleted {}{}",
            count(ending.deleted + ending.gone, "row"),
            if ending.stayed.is_empty() {
                String::new()
            } else {
                format!(", {} stayed", ending.stayed.len())
            }
        ),
        None if manifest.delete => "NOT FINISHED: rows are in the table too".to_owned(),
        None => "rows stay in the table".to_owned(),
    };
    format!(
        "{}  {}  {}.{}{}  {}, {}  {state}",
        manifest.id,
        manifest.rule,
        manifest.store,
        manifest.table.name,
        before.unwrap_or_default(),
        count(manifest.rows, "row"),
        size(manifest.bytes),
    )
}

/// Answers `archive.list`. `value`: `archives[]`. Findings: `archive_unfinished`, `archive_unreadable`.
///
/// # Errors
///
/// `NotFound`: no such rule. As the place's.
pub async fn list_archives(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    request: &ListArchives,
) -> Result<Outcome, Error> {
    if let Some(only) = &request.rule {
        super::rule_named(around.archive_rules(), only, "archive")?;
    }
    let scratch = scratch(around)?;
    let (mut text, mut values, mut findings) = (String::new(), Vec::new(), Vec::new());
    let mut archives = Vec::new();
    for (name, rule) in around.archive_rules() {
        if request.rule.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let place = place_of(around, rule)?;
        let all = archives_of(ctx, &*place, &folder(ctx, name), scratch.path()).await?;
        for why in all.unreadable {
            findings.push(finding("archive_unreadable", name, format!("an archive cannot be read: {why}")));
        }
        archives.extend(all.archives);
    }
    archives.sort_by(|one, other| other.manifest.id.cmp(&one.manifest.id));
    for found in &archives {
        writeln!(text, "{}", line(found)).expect("writing to a string does not fail");
        values.push(value(&found.manifest, found.ending.as_ref()));
        if found.ending.is_none() && found.manifest.delete {
            let title = format!("the archive {} is not finished", found.manifest.id);
            let recommendation = format!("steward backup archive {}", found.manifest.rule);
            findings.push(Finding {
                severity: Severity::Warning,
                recommendation: Some(recommendation),
                escalate: None,
                ..finding("archive_unfinished", &found.manifest.rule, title)
            });
        }
    }
    if archives.is_empty() {
        text.push_str("no archives\n");
    }
    Ok(Outcome { findings, ..Outcome::new(json!({ "archives": values }), text) })
}

fn finding(code: &str, object: &str, title: String) -> Finding {
    Finding {
        code: code.to_owned(),
        severity: Severity::Critical,
        title,
        object: object.to_owned(),
        recommendation: None,
        evidence: Vec::new(),
        escalate: Some(Trigger::DataLossRisk),
    }
}

/// Answers `archive.show`. `value`: `manifest`, `ending`.
///
/// # Errors
///
/// `NotFound`: no such archive. As the place's.
pub async fn show_archive(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    request: &ShowArchive,
) -> Result<Outcome, Error> {
    let scratch = scratch(around)?;
    let (place, mut found) = archives_named(ctx, around, &request.archive, scratch.path()).await?;
    let found = found.pop().expect("an archive that was found");
    let manifest = &found.manifest;
    let mut text = format!("{}\n{}/{}\n", line(&found), place.address(), manifest.folder());
    for file in &manifest.files {
        writeln!(
            text,
            "  {}  {}, {}  {} to {}  sha256 {}",
            file.name,
            count(file.rows, "row"),
            size(file.bytes),
            json!(file.first_key),
            json!(file.last_key),
            file.sha256
        )
        .expect("writing to a string does not fail");
    }
    for (column, values) in &manifest.beside {
        writeln!(text, "  {column}: {} kept beside its column", count(*values, "value"))
            .expect("writing to a string does not fail");
    }
    if !manifest.as_text.is_empty() {
        writeln!(text, "  kept as the engine's text: {}", manifest.as_text.join(", "))
            .expect("writing to a string does not fail");
    }
    for row in found.ending.iter().flat_map(|ending| &ending.stayed).take(20) {
        writeln!(text, "  stayed in the table ({}): {}", json!(row.why), json!(row.key))
            .expect("writing to a string does not fail");
    }
    Ok(Outcome::new(json!({ "manifest": manifest, "ending": found.ending }), text))
}

/// Answers `archive.verify`. `value`: `archives[] {archive, sound, problem}`. Findings: `archive_damaged`.
///
/// # Errors
///
/// `NotFound`: no such archive. `Unavailable`: the place does not answer, which is no verdict.
pub async fn verify_archive(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    request: &VerifyArchive,
) -> Result<Outcome, Error> {
    let scratch = scratch(around)?;
    let (mut text, mut values, mut findings) = (String::new(), Vec::new(), Vec::new());
    let (place, found) = archives_named(ctx, around, &request.archive, scratch.path()).await?;
    for found in found {
        let manifest = &found.manifest;
        let problem = match files::verify(ctx, &*place, &around.columnar(), manifest, scratch.path()).await {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let file =
                    error.context().iter().find(|(name, _)| *name == "file").map(|(_, file)| file.clone());
                Some(format!(
                    "{}{}",
                    error.message(),
                    file.map(|file| format!(": {file}")).unwrap_or_default()
                ))
            }
            Err(error) => return Err(error),
        };
        match &problem {
            None => writeln!(
                text,
                "{}: {} in {}, every one as it was written",
                manifest.id,
                count(manifest.rows, "row"),
                count(manifest.files.len() as u64, "file")
            ),
            Some(problem) => writeln!(text, "{}: DAMAGED: {problem}", manifest.id),
        }
        .expect("writing to a string does not fail");
        values.push(json!({ "archive": manifest.id, "sound": problem.is_none(), "problem": problem }));
        if let Some(problem) = problem {
            findings.push(finding(
                "archive_damaged",
                &manifest.id,
                format!("the archive {} of {} is damaged: {problem}", manifest.id, manifest.table.name),
            ));
        }
    }
    Ok(Outcome { findings, ..Outcome::new(json!({ "archives": values }), text) })
}
