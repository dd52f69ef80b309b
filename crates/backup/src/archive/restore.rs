//! Putting archived rows back: into a table beside, or into their own, where nothing is overwritten.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use contract::cold::Return;
use contract::columnar::Row;
use contract::quantity::{count, thousands};
use contract::{
    Context, Effect, Error, ErrorKind, Evidence, Finding, Outcome, Permit, Plan, PlanStep, Request, RowSum,
    Severity, StepMode,
};
use schema::TableName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ColdSurroundings;
use super::files::{self, add, key_of};
use super::look::{Found, archives_named, scratch};
use super::query::{Wanted, dialect_of};
use super::run::cold_rows;

/// Rows put back in one transaction.
const ROWS_PER_BATCH: usize = 1_000;
/// Most conflicts that are named.
const CONFLICTS_NAMED: usize = 20;

/// Puts archived rows back: into a new table beside, or into their own table, where nothing that is there is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreArchive {
    /// The archive's id, or a rule, whose archives are all restored.
    pub archive: String,
    /// Name of a new table for the rows. Default: the table that they come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<String>,
    /// Only rows for which this is true, as for `archive query`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

impl Request for RestoreArchive {
    const NAME: &'static str = "archive.restore";
    const SUMMARY: &'static str =
        "Put archived rows back: into a new table, or into their own, where nothing is overwritten";
    const EXAMPLE: &'static str = "steward archive restore old_orders --into orders_2024";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "backup.restore";
    const POSITIONAL: &'static [&'static str] = &["archive"];
}

fn target(request: &RestoreArchive, found: &Found) -> TableName {
    let own = &found.manifest.selection.table;
    match &request.into {
        Some(name) => match name.split_once('.') {
            Some((namespace, name)) => TableName { namespace: namespace.to_owned(), name: name.to_owned() },
            None => TableName { namespace: own.namespace.clone(), name: name.clone() },
        },
        None => own.clone(),
    }
}

/// Says what would be put where.
///
/// # Errors
///
/// `NotFound`: no such archive. `Conflict`: the new table is there; the table has other columns than the archive. `Invalid`: a condition that cannot be.
pub async fn plan_restore_archive(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    request: &RestoreArchive,
) -> Result<Plan, Error> {
    let scratch = scratch(around)?;
    let (_, found) = archives_named(ctx, around, &request.archive, scratch.path()).await?;
    let newest = found.last().expect("an archive that was found");
    let store = around.stores().open(ctx, &newest.manifest.store).await?;
    let cold = cold_rows(&*store)?;
    let name = target(request, newest);
    let rows: u64 = found.iter().map(|one| one.manifest.rows).sum();
    let step = |id: &str, title: String| PlanStep {
        reversible: true,
        ..PlanStep::new(id, title, StepMode::Transaction, Vec::new())
    };
    let mut steps = Vec::new();
    let there = cold.cold_table(ctx, &name).await;
    match (&request.into, there) {
        (Some(_), Ok(_)) => {
            return Err(Error::new(ErrorKind::Conflict, format!("there is a table `{}` already", name.name))
                .hint("give the name of a table that does not exist"));
        }
        (Some(_), Err(error)) if error.kind() == ErrorKind::NotFound => {
            steps.push(step(
                "create",
                format!("make the table {}, with the archive's columns and key", name.name),
            ));
        }
        (None, Ok(table)) => {
            for one in &found {
                refuse_other_columns(&table, one)?;
            }
        }
        (_, Err(error)) => return Err(error),
    }
    for one in &found {
        let manifest = &one.manifest;
        if let Some(text) = &request.filter {
            Wanted::parse(text, dialect_of(manifest), &manifest.table.columns)?;
        }
        steps.push(step(
            &format!("insert {}", manifest.id),
            format!(
                "put back {} of archive {} into {}; rows that are there stay as they are",
                if request.filter.is_some() {
                    "the wanted rows".to_owned()
                } else {
                    count(manifest.rows, "row")
                },
                manifest.id,
                name.name
            ),
        ));
    }
    Ok(Plan {
        request: RestoreArchive::NAME.to_owned(),
        arguments: json!(request),
        project: ctx.project().to_owned(),
        target: format!("store:{}", newest.manifest.store),
        summary: format!("put archived rows of {} back into {}", newest.manifest.table.name, name.name),
        steps,
        pre_state: found.iter().map(|one| one.manifest.id.clone()).collect::<Vec<_>>().join(" "),
        predicted: json!({ "rows_max": rows, "where": request.filter, "into": name.name }),
        cost_usd_nanos: 0,
    })
}

fn refuse_other_columns(table: &contract::cold::ColdTable, found: &Found) -> Result<(), Error> {
    let archived = &found.manifest.table;
    let missing = archived.columns.iter().find(|column| {
        !table.columns.iter().any(|now| now.name == column.name && now.native_type == column.native_type)
    });
    if let Some(missing) = missing {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the table has no column `{}` of the type `{}` any more",
                missing.name, missing.native_type
            ),
        )
        .with("archive", &found.manifest.id)
        .with_retry(contract::Retry::Never)
        .hint("restore into a table beside: `--into NAME`"));
    }
    if table.key != archived.key {
        return Err(Error::new(ErrorKind::Conflict, "the table has another key than when it was archived")
            .with("archive", &found.manifest.id)
            .with_retry(contract::Retry::Never)
            .hint("restore into a table beside: `--into NAME`"));
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    inserted: u64,
    present: u64,
    conflicts: u64,
    named: Vec<Vec<Value>>,
    back: RowSum,
}

/// Restores as a permitted plan says. Each batch is in the table as the archive holds it, or not at all; asked again, it goes on.
///
/// # Errors
///
/// `Conflict`: there are other archives than when the plan was made. `Corrupt`: a file is not what was written, or a row came back as
/// another. As the store's and the place's.
pub async fn restore_archive(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    permit: &Permit,
    plan: &Plan,
    request: &RestoreArchive,
) -> Result<Outcome, Error> {
    permit.covers(ctx, plan)?;
    let scratch = scratch(around)?;
    let (place, found) = archives_named(ctx, around, &request.archive, scratch.path()).await?;
    let ids = found.iter().map(|one| one.manifest.id.clone()).collect::<Vec<_>>().join(" ");
    if ids != plan.pre_state {
        return Err(Error::new(ErrorKind::Conflict, "there are other archives than when the plan was made")
            .with_retry(contract::Retry::Never)
            .hint("ask again, and read the new plan"));
    }
    let newest = found.last().expect("an archive that was found");
    let store = around.stores().open(ctx, &newest.manifest.store).await?;
    let cold = cold_rows(&*store)?;
    let name = target(request, newest);
    if plan.steps.iter().any(|step| step.id == "create") {
        cold.cold_create(ctx, permit, plan, &newest.manifest.table, &name).await?;
    }
    let started = std::time::Instant::now();
    let mut tally = Tally::default();
    for one in &found {
        let manifest = &one.manifest;
        let wanted = request
            .filter
            .as_ref()
            .map(|text| Wanted::parse(text, dialect_of(manifest), &manifest.table.columns))
            .transpose()?;
        for file in &manifest.files {
            let stayed: BTreeSet<u64> = one
                .ending
                .iter()
                .flat_map(|ending| &ending.stayed)
                .filter(|row| row.file == file.name)
                .map(|row| row.row)
                .collect();
            let fetched = files::fetch(ctx, &*place, &manifest.folder(), file, scratch.path()).await?;
            let mut groups = files::rows(&around.columnar(), &fetched, &manifest.table, wanted.clone());
            while let Some(group) = groups.recv().await {
                let (first, group) = group?;
                let rows: Vec<Row> = group
                    .into_iter()
                    .zip(first..)
                    .filter(|(row, number)| {
                        !stayed.contains(number) && wanted.as_ref().is_none_or(|wanted| wanted.holds(row))
                    })
                    .map(|(row, _)| row)
                    .collect();
                for batch in rows.chunks(ROWS_PER_BATCH) {
                    let returned = cold.cold_insert(ctx, permit, plan, &manifest.table, &name, batch).await?;
                    for (row, how) in batch.iter().zip(returned) {
                        match how {
                            Return::Inserted => tally.inserted += 1,
                            Return::Present => tally.present += 1,
                            Return::Conflict => {
                                tally.conflicts += 1;
                                if tally.named.len() < CONFLICTS_NAMED {
                                    tally.named.push(key_of(&manifest.table, row));
                                }
                                continue;
                            }
                        }
                        add(&mut tally.back, row);
                    }
                }
            }
        }
    }
    Ok(told(ctx, &found, &name, request, &tally, started.elapsed().as_secs_f64() * 1e3))
}

fn told(
    ctx: &Context,
    found: &[Found],
    name: &TableName,
    request: &RestoreArchive,
    tally: &Tally,
    elapsed_ms: f64,
) -> Outcome {
    let digest = tally.back.of_table("").digest;
    let store = found.last().map(|one| one.manifest.store.clone()).unwrap_or_default();
    let value = json!({
        "archives": found.iter().map(|one| &one.manifest.id).collect::<Vec<_>>(), "into": name.name,
        "inserted": tally.inserted, "present": tally.present, "conflicts": tally.conflicts,
        "conflict_keys": tally.named, "digest": digest,
    });
    let mut text = format!(
        "put {} back into {}, each read back and as the archive holds it, digest {digest}\n",
        count(tally.inserted, "row"),
        name.name
    );
    if tally.present > 0 {
        writeln!(text, "{} were there already, exactly so", thousands(tally.present))
            .expect("writing to a string does not fail");
    }
    let evidence = Evidence::new(
        &format!("store:{store}"),
        &json!(request).to_string(),
        value.clone(),
        ctx.now(),
        elapsed_ms,
    );
    let mut findings = Vec::new();
    if tally.conflicts > 0 {
        let title = format!(
            "{} of the archive not put back: other rows have their keys, the first {}",
            count(tally.conflicts, "row"),
            json!(tally.named.first())
        );
        writeln!(text, "{title}").expect("writing to a string does not fail");
        findings.push(Finding {
            code: "archive_rows_in_conflict".to_owned(),
            severity: Severity::Warning,
            title,
            object: name.name.clone(),
            recommendation: Some("restore into a table beside (`--into NAME`) and compare them".to_owned()),
            evidence: vec![evidence.id.clone()],
            escalate: None,
        });
    }
    Outcome { findings, evidence: vec![evidence], ..Outcome::new(value, text) }
}
