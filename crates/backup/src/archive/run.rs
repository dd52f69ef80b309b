//! Moving rows into an archive: exported, read back, and only then deleted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use contract::cold::{ArchivePlace, ColdRows, ColdSelection, ColdTable, Fate};
use contract::quantity::{count, size, thousands};
use contract::{
    Context, Effect, Error, ErrorKind, Evidence, Finding, Outcome, Permit, Plan, PlanStep, Request, Severity,
    StepMode, Store, canonical_json, sha256_hex,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ending::Deletion;
use super::files::{self, Export, is_kept_as_text};
use super::look::{Found, archives_of};
use super::manifest::{ArchiveManifest, ENDING, Ending, MANIFEST, VERSION};
use super::rule::Boundary;
use super::{ColdRule, ColdSurroundings, at_most, rule_named};
use crate::run::Scratch;

/// Moves old rows by a rule of the project file: to Parquet files with checksums, verified, then deleted in batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchiveRows {
    /// The rule, by its name under `archive` in the project file.
    pub rule: String,
    /// Rows before this day or moment, such as `2024-11-23`; never younger than the rule says. Default: the rule's age before
    /// the start of today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl Request for ArchiveRows {
    const NAME: &'static str = "backup.archive";
    const SUMMARY: &'static str =
        "Move old rows by a rule: to Parquet files with checksums, verified, then deleted in batches";
    const EXAMPLE: &'static str = "steward backup archive old_orders";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "archive.run";
    const POSITIONAL: &'static [&'static str] = &["rule"];
}

/// The lock of a rule.
fn lock_name(ctx: &Context, rule: &str) -> String {
    format!(".locks/{}/{rule}.json", ctx.project())
}

/// Who is at work on a rule.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    holder: String,
    /// Tells two runs of one process apart: a place may count the same bytes as kept.
    #[serde(default)]
    run: String,
}

/// The role of a store that moves rows.
pub(super) fn cold_rows(store: &dyn Store) -> Result<&dyn ColdRows, Error> {
    store.cold_rows().ok_or_else(|| {
        store.unsupported(
            "archive",
            "rows of this kind of store cannot be moved by rule yet",
            "use its own tools",
        )
    })
}

/// A rule on its store as it is now.
pub(super) struct Meant {
    pub(super) store: Arc<dyn Store>,
    pub(super) table: ColdTable,
    pub(super) selection: ColdSelection,
    pub(super) holds: Vec<String>,
    pub(super) boundary: Option<Boundary>,
}

impl Meant {
    pub(super) async fn of(
        ctx: &Context,
        around: &dyn ColdSurroundings,
        rule: &ColdRule,
        before: Option<&str>,
    ) -> Result<Self, Error> {
        let boundary = rule.boundary(ctx.now(), before)?;
        let store = around.stores().open(ctx, &rule.store).await?;
        let dialect = store.relational().map(contract::Relational::dialect).ok_or_else(|| {
            store.unsupported("archive", "this kind of store has no tables", "use its own tools")
        })?;
        let table = cold_rows(&*store)?.cold_table(ctx, &rule.table_name(dialect)).await?;
        let (selection, holds) = rule.selection(around, &table, dialect, boundary)?;
        Ok(Self { store, table, selection, holds, boundary })
    }

    pub(super) fn cold(&self) -> Result<&dyn ColdRows, Error> {
        cold_rows(&*self.store)
    }

    /// What a plan was made for: the table's shape, which rows, which holds.
    pub(super) fn fingerprint(&self) -> String {
        let state = json!({ "table": self.table, "selection": self.selection });
        sha256_hex(canonical_json(&state).as_bytes())
    }

    /// Refuses while rows of other tables point at those that are meant: deleting would break them, or delete them too.
    pub(super) fn refuse_referred(referred: &[(String, u64)]) -> Result<(), Error> {
        if referred.is_empty() {
            return Ok(());
        }
        let named: Vec<String> =
            referred.iter().map(|(name, rows)| format!("{name}: {}", count(*rows, "row"))).collect();
        Err(Error::new(ErrorKind::Conflict, "rows of other tables point at the rows that are meant")
            .with("foreign_keys", named.join("; "))
            .with_retry(contract::Retry::Never)
            .hint("archive or delete those rows first, by a rule of their own, or exclude their parents with `where`"))
    }

    pub(super) fn evidence(&self, ctx: &Context, rows: u64, held: u64, since: Instant) -> Evidence {
        Evidence::new(
            &format!("store:{}", self.store.name()),
            &format!("count of {} by {}", self.table.name, json!(self.selection)),
            json!({ "rows": rows, "held": held }),
            ctx.now(),
            since.elapsed().as_secs_f64() * 1e3,
        )
    }
}

/// The folder of a rule in its place.
pub(super) fn folder(ctx: &Context, rule: &str) -> String {
    format!("{}/{rule}", ctx.project())
}

pub(super) fn place_of(
    around: &dyn ColdSurroundings,
    rule: &ColdRule,
) -> Result<Arc<dyn ArchivePlace>, Error> {
    around.archive_place(rule.to.as_deref().unwrap_or_default())
}

/// Archives of the rule whose rows were not all looked at in the table.
fn unfinished(found: &[Found]) -> Vec<&ArchiveManifest> {
    found.iter().filter(|one| one.ending.is_none() && one.manifest.delete).map(|one| &one.manifest).collect()
}

/// Plans an archive: which rows, to where, and what is deleted.
///
/// # Errors
///
/// `NotFound`: no such rule or table. `Invalid`: an expression, a column or a day that cannot be; a table without a key. `Conflict`: rows
/// of other tables point at the rows. As the store's and the place's.
pub async fn plan_archive(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    request: &ArchiveRows,
) -> Result<(Plan, Vec<Evidence>), Error> {
    let rule = rule_named(around.archive_rules(), &request.rule, "archive")?;
    let meant = Meant::of(ctx, around, rule, request.before.as_deref()).await?;
    let place = place_of(around, rule)?;
    let since = Instant::now();
    let counted = meant.cold()?.cold_count(ctx, &meant.table, &meant.selection).await?;
    if rule.delete {
        Meant::refuse_referred(&counted.referred)?;
    }
    let scratch = Scratch::make(around, &format!("archive-{}", uuid::Uuid::now_v7().simple()))?;
    let found = archives_of(ctx, &*place, &folder(ctx, &request.rule), scratch.path()).await?;
    let begun = unfinished(&found.archives);
    let step = |id: &str, title: String| PlanStep {
        reversible: true,
        ..PlanStep::new(id, title, StepMode::Transaction, Vec::new())
    };
    let delete = |id: &str, title: String| PlanStep {
        destructive: true,
        reversible: true,
        ..PlanStep::new(id, title, StepMode::Transaction, Vec::new())
    };
    let mut steps = Vec::new();
    for archive in &begun {
        steps.push(delete(
            &format!("finish {}", archive.id),
            format!(
                "delete what is left in the table of the {} of archive {}",
                count(archive.rows, "row"),
                archive.id
            ),
        ));
    }
    // Those of an archive that is not finished are not archived again.
    let left: u64 = begun.iter().map(|archive| archive.rows).sum();
    if counted.rows > 0 && begun.is_empty() {
        steps.push(step("export", format!("write the rows to Parquet files in {}", place.address())));
        steps.push(step(
            "verify",
            "read all files back and compare their rows with those that were read".into(),
        ));
        if rule.delete {
            steps.push(delete(
                "delete",
                format!(
                    "delete the rows that are still as archived, {} at a time",
                    thousands(rule.rows_per_batch as u64)
                ),
            ));
        }
    }
    let before = meant.boundary.map(|boundary| boundary.at.to_string());
    let summary = if steps.is_empty() {
        format!("nothing to archive: no {}", rule.said())
    } else if begun.is_empty() {
        format!("archive {} from {}{}", rule.said(), rule.store, said_before(before.as_deref()))
    } else {
        format!("finish {} of {}", count(begun.len() as u64, "archive"), rule.store)
    };
    // Asked with and without the day it is the same plan, so that an approval is found later too.
    let arguments = json!(ArchiveRows { rule: request.rule.clone(), before: before.clone() });
    let plan = Plan {
        request: ArchiveRows::NAME.to_owned(),
        arguments,
        project: ctx.project().to_owned(),
        target: format!("store:{}", rule.store),
        summary,
        steps,
        pre_state: meant.fingerprint(),
        predicted: json!({
            "rows_max": if begun.is_empty() { at_most(counted.rows) } else { left },
            "held_max": at_most(counted.held), "before": before, "place": place.address(),
            "legal_holds": meant.holds, "where": meant.selection.filter,
        }),
        cost_usd_nanos: 0,
    };
    Ok((plan, vec![meant.evidence(ctx, counted.rows, counted.held, since)]))
}

pub(super) fn said_before(before: Option<&str>) -> String {
    before.map(|before| format!(", before {before}")).unwrap_or_default()
}

/// The lock of a rule; given back by `release`.
struct Lock<'a> {
    ctx: &'a Context,
    place: &'a dyn ArchivePlace,
    name: String,
}

impl<'a> Lock<'a> {
    async fn take(
        ctx: &'a Context,
        around: &dyn ColdSurroundings,
        place: &'a dyn ArchivePlace,
        rule: &str,
        scratch: &Scratch,
    ) -> Result<Lock<'a>, Error> {
        let name = lock_name(ctx, rule);
        let run = uuid::Uuid::now_v7().simple().to_string();
        let own = Open { holder: around.holder().to_owned(), run };
        match files::write_record(ctx, place, &name, &own, scratch.path()).await {
            Ok(()) => return Ok(Self { ctx, place, name }),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        let other: Result<Open, Error> = files::read_record(ctx, place, &name, scratch.path()).await;
        match other {
            Ok(other) if !around.is_gone(&other.holder) => {
                return Err(Error::new(ErrorKind::Conflict, "another process is at work on this rule")
                    .with("holder", other.holder)
                    .hint("wait until it has ended"));
            }
            // Given back in this moment.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            _ => place.remove(ctx, &name).await?,
        }
        files::write_record(ctx, place, &name, &own, scratch.path()).await?;
        Ok(Self { ctx, place, name })
    }

    /// Gives it back, also after a failure; what was done decides what is told. With it what is to be said of the lock.
    async fn release<T>(self, done: Result<T, Error>) -> Result<(T, Option<Finding>), Error> {
        // Also when the call was canceled: the lock must not outlive it.
        let ctx = Context::new(self.ctx.project(), self.ctx.actor().clone());
        let released = self.place.remove(&ctx, &self.name).await;
        let done = done?;
        let Err(error) = released else { return Ok((done, None)) };
        tracing::warn!(lock = self.name, %error, "the lock of the rule is left");
        let title = format!("the lock of the rule stays in its place: {}", error.message());
        let said = error.hint_text().unwrap_or("the next run takes it over, if it may remove it");
        Ok((done, Some(left_behind("archive_lock_left", &self.name, title, said))))
    }
}

fn left_behind(code: &str, object: &str, title: String, recommendation: &str) -> Finding {
    Finding {
        code: code.to_owned(),
        severity: Severity::Warning,
        title,
        object: object.to_owned(),
        recommendation: Some(recommendation.to_owned()),
        evidence: Vec::new(),
        escalate: None,
    }
}

/// Takes away what runs that were cut short have left: files without a manifest, whose rows are in the table. What the place keeps is told and
/// does no harm; it is no archive.
async fn take_away(
    ctx: &Context,
    place: &dyn ArchivePlace,
    folder: &str,
    leftovers: &[String],
) -> Result<Option<Finding>, Error> {
    let mut kept: Vec<(&String, Error)> = Vec::new();
    for name in leftovers {
        match place.remove(ctx, name).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Denied => kept.push((name, error)),
            Err(error) => return Err(error),
        }
    }
    if let Err(error) = place.clean(ctx, &format!("{folder}/")).await {
        tracing::warn!(folder, %error, "what was never finished stays in the place");
    }
    Ok(kept.first().map(|(name, error)| {
        let title = format!(
            "{} of runs that were cut short cannot be removed, the first {name}: {}",
            count(kept.len() as u64, "file"),
            error.message()
        );
        let said = error.hint_text().unwrap_or("remove them by hand; their rows are in the table");
        left_behind("archive_leftovers", folder, title, said)
    }))
}

/// What was done with one archive.
struct Done {
    manifest: ArchiveManifest,
    ending: Option<Ending>,
}

/// Archives as a permitted plan says. Until the files are verified nothing of the store is touched; after an end at any
/// point each row is in the archive, in the table, or, until the run is finished, in both.
///
/// # Errors
///
/// `Conflict`: the table, the rule or the holds are others than when the plan was made; another process is at work. `Corrupt`: the files are not
/// what was written; nothing was deleted. `LimitExceeded`: the place is full. As the store's and the place's.
pub async fn run_archive(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    permit: &Permit,
    plan: &Plan,
    request: &ArchiveRows,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let rule = rule_named(around.archive_rules(), &request.rule, "archive")?;
    let meant = Meant::of(ctx, around, rule, plan.arguments["before"].as_str()).await?;
    refuse_another_state(&meant, plan)?;
    let place = place_of(around, rule)?;
    let scratch = Scratch::make(around, &format!("archive-{}", uuid::Uuid::now_v7().simple()))?;
    let lock = Lock::take(ctx, around, &*place, &request.rule, &scratch).await?;
    let done = work(ctx, around, permit, plan, request, rule, &meant, &*place, &scratch).await;
    let ((done, left), lock_left) = lock.release(done).await?;
    let mut outcome = told(ctx, rule, &*place, done);
    for finding in left.into_iter().chain(lock_left) {
        writeln!(outcome.text, "  {}", finding.title).expect("writing to a string does not fail");
        outcome.findings.push(finding);
    }
    Ok(outcome)
}

pub(super) fn refuse_another_state(meant: &Meant, plan: &Plan) -> Result<(), Error> {
    if meant.fingerprint() == plan.pre_state {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "the table, the rule or the holds are others than when the plan was made",
    )
    .with("table", &meant.table.name)
    .with_retry(contract::Retry::Never)
    .hint("ask again, and read the new plan"))
}

#[allow(clippy::too_many_arguments, reason = "what a run knows, once")]
async fn work(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    permit: &Permit,
    plan: &Plan,
    request: &ArchiveRows,
    rule: &ColdRule,
    meant: &Meant,
    place: &dyn ArchivePlace,
    scratch: &Scratch,
) -> Result<(Vec<Done>, Option<Finding>), Error> {
    let deletion = Deletion {
        ctx,
        cold: meant.cold()?,
        place,
        columnar: around.columnar(),
        permit,
        plan,
        scratch: scratch.path(),
    };
    let folder = folder(ctx, &request.rule);
    let found = archives_of(ctx, place, &folder, scratch.path()).await?;
    if let Some(odd) = found.unreadable.first() {
        return Err(Error::new(ErrorKind::Corrupt, "an archive of the rule cannot be read")
            .with("archive", odd)
            .hint("rows of it may be in the table still; look at it before more is archived"));
    }
    let left = take_away(ctx, place, &folder, &found.leftovers).await?;
    let mut done = Vec::new();
    for manifest in unfinished(&found.archives) {
        let ending = deletion.run(manifest, &meant.selection.holds).await?;
        done.push(Done { manifest: manifest.clone(), ending: Some(ending) });
    }
    if plan.steps.iter().any(|step| step.id == "export") {
        if !done.is_empty() {
            return Err(Error::new(ErrorKind::Conflict, "another run of the rule was cut short meanwhile")
                .hint("it is finished now; ask again"));
        }
        let manifest = export(ctx, around, plan, request, rule, meant, place, scratch).await?;
        let ending = match &manifest {
            Some(manifest) if manifest.delete => Some(deletion.run(manifest, &meant.selection.holds).await?),
            _ => None,
        };
        done.extend(manifest.map(|manifest| Done { manifest, ending }));
    }
    Ok((done, left))
}

/// Writes the files, reads them back, and only then the record that makes them an archive. `None`: there are no rows any more.
#[allow(clippy::too_many_arguments, reason = "what a run knows, once")]
async fn export(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    plan: &Plan,
    request: &ArchiveRows,
    rule: &ColdRule,
    meant: &Meant,
    place: &dyn ArchivePlace,
    scratch: &Scratch,
) -> Result<Option<ArchiveManifest>, Error> {
    let at = ctx.now();
    let random = uuid::Uuid::new_v4().simple().to_string();
    let id = format!("{}-{}", at.strftime("%Y%m%dT%H%M%SZ"), &random[..6]);
    let in_place = format!("{}/{id}", folder(ctx, &request.rule));
    let mut notes = BTreeMap::from([
        ("steward.archive".to_owned(), id.clone()),
        ("steward.table".to_owned(), meant.table.name.clone()),
    ]);
    if let Some(boundary) = meant.boundary {
        notes.insert("steward.before".to_owned(), boundary.at.to_string());
    }
    let export = Export {
        ctx,
        cold: meant.cold()?,
        place,
        columnar: around.columnar(),
        table: &meant.table,
        selection: &meant.selection,
        scratch: scratch.path(),
        folder: in_place.clone(),
        rows_per_file: rule.rows_per_file,
        rows_max: plan.predicted["rows_max"].as_u64().unwrap_or(0),
        notes,
    };
    let made = async {
        let exported = export.run().await?;
        let sum = exported.sum.of_table("");
        let manifest = ArchiveManifest {
            version: VERSION,
            id,
            project: ctx.project().to_owned(),
            rule: request.rule.clone(),
            store: rule.store.clone(),
            kind: meant.store.kind().to_owned(),
            table: meant.table.clone(),
            selection: meant.selection.clone(),
            delete: rule.delete,
            rows_per_batch: rule.rows_per_batch,
            plan: plan.digest().0,
            at,
            point: exported.point,
            rows: sum.rows,
            bytes: exported.files.iter().map(|file| file.bytes).sum(),
            digest: sum.digest,
            beside: exported.beside,
            as_text: meant
                .table
                .columns
                .iter()
                .filter(|column| is_kept_as_text(column))
                .map(|column| format!("{} ({})", column.name, column.native_type))
                .collect(),
            files: exported.files,
        };
        if manifest.rows == 0 {
            return Ok(None);
        }
        files::verify(ctx, place, &around.columnar(), &manifest, scratch.path()).await?;
        let name = format!("{in_place}/{MANIFEST}");
        files::write_record_for_sure(ctx, place, &name, &manifest, scratch.path()).await?;
        Ok(Some(manifest))
    };
    let made: Result<_, Error> = made.await;
    if made.is_err() {
        // Not in the call's context, which may have ended; what is left all the same is removed by the next run.
        let ctx = Context::new(ctx.project(), ctx.actor().clone());
        // The manifest first: what has none is no archive.
        let mut names = vec![format!("{in_place}/{MANIFEST}")];
        names.extend(place.list(&ctx, &format!("{in_place}/")).await.unwrap_or_default());
        for name in names {
            if let Err(error) = place.remove(&ctx, &name).await {
                tracing::warn!(file = name, %error, "a file of an archive that failed is left");
            }
        }
    }
    made
}

/// Goes on with an archive that was interrupted, as its plan says: files without a manifest are removed, rows of a whole archive
/// deleted. Gives what was done.
///
/// # Errors
///
/// As [`run_archive`].
pub async fn finish_archive(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    permit: &Permit,
    plan: &Plan,
) -> Result<String, Error> {
    permit.covers(ctx, plan)?;
    let request: ArchiveRows = serde_json::from_value(plan.arguments.clone()).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "the plan is of another request").because(cause.to_string())
    })?;
    let rule = rule_named(around.archive_rules(), &request.rule, "archive")?;
    let place = place_of(around, rule)?;
    let scratch = Scratch::make(around, &format!("archive-{}", uuid::Uuid::now_v7().simple()))?;
    let folder = folder(ctx, &request.rule);
    let lock = Lock::take(ctx, around, &*place, &request.rule, &scratch).await?;
    let finish = async {
        let found = archives_of(ctx, &*place, &folder, scratch.path()).await?;
        let left = take_away(ctx, &*place, &folder, &found.leftovers).await?;
        let digest = plan.digest().0;
        let mut said: Vec<String> = Vec::new();
        let finishes = |manifest: &ArchiveManifest| {
            manifest.plan == digest
                || plan.steps.iter().any(|step| step.id == format!("finish {}", manifest.id))
        };
        let meant = Meant::of(ctx, around, rule, request.before.as_deref()).await?;
        for manifest in unfinished(&found.archives).into_iter().filter(|manifest| finishes(manifest)) {
            let deletion = Deletion {
                ctx,
                cold: meant.cold()?,
                place: &*place,
                columnar: around.columnar(),
                permit,
                plan,
                scratch: scratch.path(),
            };
            let ending = deletion.run(manifest, &meant.selection.holds).await?;
            said.push(format!(
                "archive {} was whole; {} deleted now, {} before",
                manifest.id,
                count(ending.deleted, "row"),
                thousands(ending.gone)
            ));
        }
        if said.is_empty() {
            let whole = found.archives.iter().any(|one| one.manifest.plan == digest);
            said.push(
                if whole { "the archive was finished" } else { "no archive was made; nothing was deleted" }
                    .to_owned(),
            );
        }
        said.extend(left.map(|finding| finding.title));
        Ok(said)
    };
    let done = finish.await;
    let (mut said, left) = lock.release(done).await?;
    said.extend(left.map(|finding| finding.title));
    Ok(said.join("; "))
}

fn told(ctx: &Context, rule: &ColdRule, place: &dyn ArchivePlace, done: Vec<Done>) -> Outcome {
    let (mut text, mut values, mut findings, mut evidence) =
        (String::new(), Vec::new(), Vec::new(), Vec::new());
    if done.is_empty() {
        text.push_str("nothing was archived: there are no such rows any more\n");
    }
    for one in done {
        let Done { manifest, ending } = &one;
        write!(
            text,
            "archive {}: {} of {} in {}, {}, digest {}\n  {}/{}\n",
            manifest.id,
            count(manifest.rows, "row"),
            manifest.table.name,
            count(manifest.files.len() as u64, "file"),
            size(manifest.bytes),
            manifest.digest,
            place.address(),
            manifest.folder(),
        )
        .expect("writing to a string does not fail");
        if let Some(ending) = ending {
            write!(text, "  deleted {} as archived", count(ending.deleted, "row"))
                .expect("writing to a string does not fail");
            if ending.gone > 0 {
                write!(text, ", {} were gone already", thousands(ending.gone))
                    .expect("writing to a string does not fail");
            }
            text.push('\n');
            findings.extend(stayed(rule, manifest, ending));
        } else {
            text.push_str("  the rows stay in the table: the rule says `delete: false`\n");
        }
        let value = value(manifest, ending.as_ref());
        evidence.push(Evidence::new(
            &format!("store:{}", manifest.store),
            &format!("archive {} of {}", manifest.id, manifest.table.name),
            value.clone(),
            ctx.now(),
            0.0,
        ));
        values.push(value);
    }
    for finding in &mut findings {
        finding.evidence = evidence.iter().map(|one| one.id.clone()).collect();
        writeln!(text, "  {}", finding.title).expect("writing to a string does not fail");
    }
    Outcome { findings, evidence, ..Outcome::new(json!({ "archives": values }), text) }
}

/// What is told of an archive, and kept as evidence: no rows, only what they come to.
pub(super) fn value(manifest: &ArchiveManifest, ending: Option<&Ending>) -> Value {
    json!({
        "archive": manifest.id, "rule": manifest.rule, "store": manifest.store, "table": manifest.table.name,
        "at": manifest.at, "before": manifest.selection.older.as_ref().map(|older| older.before),
        "where": manifest.selection.filter, "rows": manifest.rows, "bytes": manifest.bytes, "digest": manifest.digest,
        "files": manifest.files.iter().map(|file| json!({ "name": file.name, "rows": file.rows, "sha256": file.sha256 }))
            .collect::<Vec<_>>(),
        "position": manifest.point.position, "beside": manifest.beside, "as_text": manifest.as_text,
        "delete": manifest.delete, "finished": ending.is_some() || !manifest.delete,
        "deleted": ending.map(|ending| ending.deleted), "deleted_digest": ending.map(|ending| &ending.digest),
        "gone": ending.map(|ending| ending.gone), "stayed": ending.map(|ending| ending.stayed.len()),
    })
}

/// Rows that are in the archive and stayed, by why.
fn stayed(rule: &ColdRule, manifest: &ArchiveManifest, ending: &Ending) -> Vec<Finding> {
    let of = |why: Fate| ending.stayed.iter().filter(move |row| row.why == why);
    [
        (Fate::Changed, "changed", "have changed since they were archived"),
        (Fate::Held, "held", "are under a legal hold"),
        (Fate::Referred, "referred", "are pointed at by rows of other tables"),
    ]
    .into_iter()
    .filter_map(|(why, word, said)| {
        let first = of(why).next()?;
        let rows = of(why).count() as u64;
        Some(Finding {
            code: format!("archive_rows_{word}"),
            severity: Severity::Warning,
            title: format!(
                "{} of {} {said} and stay in the table, the first with the key {}",
                count(rows, "row"),
                manifest.table.name,
                json!(first.key)
            ),
            object: rule.table.clone(),
            recommendation: Some(
                "the table's row counts: a query or a restore of the archive leaves these rows out"
                    .to_owned(),
            ),
            evidence: Vec::new(),
            escalate: None,
        })
    })
    .collect()
}

/// Name of the record that ends an archive.
pub(super) fn ending_name(manifest: &ArchiveManifest) -> String {
    format!("{}/{ENDING}", manifest.folder())
}
