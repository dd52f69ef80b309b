//! Migrations: numbered SQL files, applied once, in order, so that a crash at any point can be resumed.
//!
//! A file is `migrations/<store>/0001_create_orders.sql`: SQL, with these optional lines:
//!
//! - `-- steward: up`, `-- steward: down`: the way there and the way back;
//! - `-- steward: no-transaction`: each statement in a step of its own, for what cannot run in a transaction;
//! - `-- steward: irreversible`: there is no way back, and the author knows it.

mod effect;
mod file;
pub(crate) mod history;
mod plan;
pub(crate) mod risk;
mod safe;
pub(crate) mod split;

use std::fmt::Write;
mod summary;

use contract::{Context, Error, ErrorKind, Finding, LockHolder, Outcome, Plan, Severity, StoreDirectory};
use serde_json::json;

pub use file::MigrationFile;
pub(crate) use plan::{PlacedRisk, Progress, index_is_gone, index_is_valid};
pub use plan::{plan_apply, plan_rollback};

use crate::inquiry::Inquiry;
use crate::locks::end_of_holder;
use crate::request::{
    ApplyMigrations, MigrationStatus, NewMigration, PlanMigrations, RewriteMigration, Waits,
};
use crate::steps::holders;
use crate::text::{self, TO_STRING};
use safe::Rewritten;

/// A transaction that has run for longer makes a strong lock wait, and everybody else behind it.
const TRANSACTION_LONG_MS: u64 = 5_000;

/// The next migration file: its name in `migrations/<store>/` and its content. Writes nothing.
///
/// # Errors
///
/// `Invalid`: the name has no letter or digit, or a file that is there has no number.
pub fn new_file(files: &[MigrationFile], request: &NewMigration) -> Result<MigrationFile, Error> {
    let mut word = String::new();
    for c in request.name.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
        } else if !word.ends_with('_') && !word.is_empty() {
            word.push('_');
        }
    }
    let word = word.trim_end_matches('_');
    if word.is_empty() || word.len() > 100 {
        return Err(Error::new(ErrorKind::Invalid, "the name needs letters or digits, at most 100")
            .with("name", text::plain(&request.name, 120)));
    }
    let version = file::next_version(files)?;
    let content =
        format!("-- {}\n\n-- steward: up\n\n\n-- steward: down\n\n", text::plain(request.name.trim(), 100));
    Ok(MigrationFile::new(format!("migrations/{}/{version:04}_{word}.sql", request.store), content))
}

/// Shows which migrations the store has and which are pending.
///
/// Value: `store`, `applied[] {version, name, checksum, state, statements_done, applied_at}` (all that were begun),
/// `pending[] {version, name}`, `last_applied`, `batches[] {step, rows_seen, rows_expected, …}` of statements that run in
/// batches and have not ended. Finding: `migration_cut_short`.
///
/// # Errors
///
/// `Invalid`: a file is wrong. `Conflict`: files and history do not fit.
pub async fn status(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    files: &[MigrationFile],
    request: &MigrationStatus,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let progress = Progress::read(&mut inquiry, files).await?;
    let records = progress.records();
    let pending = &progress.files[progress.applied()..];
    let rows: Vec<_> = records
        .iter()
        .map(|record| vec![json!(record.name), json!(record.state.as_str()), json!(record.applied_at)])
        .chain(
            progress.files[records.len()..]
                .iter()
                .map(|migration| vec![json!(migration.name), json!("pending"), json!("")]),
        )
        .collect();
    let text = if rows.is_empty() {
        format!("{}: no migrations; `steward migration new {0} NAME` makes one", request.store)
    } else {
        text::table(&["migration".into(), "state".into(), "when".into()], &rows)
    };
    let batches = inquiry.execute()?.batches_begun(ctx).await?;
    let mut text = text;
    for one in &batches {
        let share = one.percent().map(|percent| format!(", about {percent} %")).unwrap_or_default();
        write!(
            text,
            "\n{}: {} done in {}{share}, the last one at {}",
            one.step,
            text::count(one.rows_seen, "row"),
            text::count(one.batches, "batch"),
            one.updated_at
        )
        .expect(TO_STRING);
    }
    let value = json!({
        "store": request.store,
        "batches": batches,
        "applied": records,
        "pending": pending
            .iter()
            .map(|migration| json!({"version": migration.version, "name": migration.name}))
            .collect::<Vec<_>>(),
        "last_applied": records.iter().rev().find(|record| record.state == history::State::Applied).map(|record| &record.name),
    });
    let mut outcome = Outcome::new(value, text);
    let evidence: Vec<String> = inquiry.evidence.iter().map(|evidence| evidence.id.clone()).collect();
    outcome.findings = records
        .iter()
        .filter(|record| record.state != history::State::Applied)
        .map(|record| Finding {
            code: "migration_cut_short".into(),
            severity: Severity::Warning,
            title: format!(
                "migration `{}` was cut short after {}",
                record.name,
                text::count(record.statements_done, "statement")
            ),
            object: record.name.clone(),
            recommendation: Some(
                match record.state {
                    history::State::Undoing => "`steward migration rollback` finishes it",
                    _ => "`steward migration apply` finishes it",
                }
                .into(),
            ),
            evidence: evidence.clone(),
            escalate: None,
        })
        .collect();
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

/// Shows what the pending migrations would do.
///
/// Value: `plan` (the whole plan), `digest`, `pending[]` names, `destructive`, `reversible`, `risks[] {migration, file,
/// line, statement, rule, severity, note, advice}`, `summary` (type, tables, volume, downtime, rollback, validation,
/// impact), with `safe` also `safe[] {migration, statements[] {line, statement, becomes[], note, unsafe_still}, file}`.
/// Findings: `risky_migration` per risk that is more than a note, `not_made_safe` per statement that has no safe form,
/// `long_transaction` per session whose transaction would hold a step up.
///
/// # Errors
///
/// As [`plan_apply`].
pub async fn preview(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    files: &[MigrationFile],
    request: &PlanMigrations,
) -> Result<Outcome, Error> {
    let apply = ApplyMigrations {
        store: request.store.clone(),
        to: request.to.clone(),
        safe: request.safe,
        waits: Waits::default(),
    };
    let plan = plan_apply(ctx, stores, files, &apply).await?;
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let evidence = inquiry.note(
        "migration.plan",
        json!({"digest": plan.digest(), "risks": plan.predicted["risks"]}),
        0.0,
    );
    let risks = risks(&plan);
    let schema = inquiry.schema().await?.0;
    let summary = summary::of(&plan, &schema);
    let safe: Vec<Rewritten> = serde_json::from_value(plan.predicted["safe"].clone()).unwrap_or_default();
    let mut value = json!({
        "plan": plan,
        "digest": plan.digest(),
        "pending": plan.predicted["migrations"],
        "destructive": plan.destructive(),
        "reversible": plan.reversible(),
        "risks": plan.predicted["risks"],
        "summary": summary,
    });
    if request.safe {
        value["safe"] = json!(safe);
    }
    let mut text = crate::plan_text(&plan);
    if !plan.steps.is_empty() {
        write!(text, "\n\n{}", summary.text()).expect(TO_STRING);
    }
    for file in safe.iter().filter_map(|form| form.file.as_deref()) {
        write!(text, "\n\nsafe form, as a file (`steward migration rewrite` puts it there):\n\n{file}")
            .expect(TO_STRING);
    }
    for form in &safe {
        for part in form.statements.iter().filter(|part| part.unsafe_still) {
            write!(text, "\n\nnot made safe: `{}`, line {}: {}", form.migration, part.line, part.note)
                .expect(TO_STRING);
        }
    }
    let holders = holders(ctx, &*inquiry.store, &plan).await;
    let waiting = inquiry.note("lock holders", json!(holders), 0.0);
    let long = long_transactions(&request.store, &holders, &waiting);
    for finding in &long {
        let advice = finding.recommendation.as_deref().unwrap_or_default();
        write!(text, "\n\nin the way: {}\n  {advice}", finding.title).expect(TO_STRING);
    }
    let mut outcome = Outcome::new(value, text);
    outcome.findings = risks
        .into_iter()
        .filter(|placed| placed.risk.severity > Severity::Info)
        .map(|placed| Finding {
            code: "risky_migration".into(),
            severity: placed.risk.severity,
            title: format!("`{}`, line {}: {}", placed.migration, placed.line, placed.risk.note),
            object: placed.migration,
            recommendation: Some(placed.risk.advice),
            evidence: vec![evidence.clone()],
            escalate: None,
        })
        .collect();
    outcome.findings.extend(safe.iter().flat_map(|form| {
        let evidence = &evidence;
        form.statements.iter().filter(|part| part.unsafe_still).map(move |part| Finding {
            code: "not_made_safe".into(),
            severity: Severity::Warning,
            title: format!("`{}`, line {}: {}", form.migration, part.line, part.note),
            object: form.migration.clone(),
            recommendation: None,
            evidence: vec![evidence.clone()],
            escalate: None,
        })
    }));
    outcome.findings.extend(long);
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

/// Sessions whose transactions a step with a strong lock would wait for, and everybody else behind it.
fn long_transactions(store: &str, holders: &[LockHolder], evidence: &str) -> Vec<Finding> {
    holders
        .iter()
        .filter(|holder| {
            !holder.waiting && holder.transaction_age_ms.is_some_and(|age| age >= TRANSACTION_LONG_MS)
        })
        .map(|holder| Finding {
            code: "long_transaction".into(),
            severity: Severity::Warning,
            title: holder.to_string(),
            object: holder.table.clone(),
            recommendation: Some(format!("wait for it, or end it: {}", end_of_holder(store, holder))),
            evidence: vec![evidence.to_owned()],
            escalate: None,
        })
        .collect()
}

/// The safe form of one pending migration, and the path of the file that it may replace.
///
/// # Errors
///
/// `NotFound`: no such migration. `Conflict`: it has been begun or applied. `Invalid`: there is nothing to rewrite.
pub async fn safe_file(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    files: &[MigrationFile],
    request: &RewriteMigration,
) -> Result<MigrationFile, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let (path, rewritten) = plan::rewrite_one(&mut inquiry, files, &request.migration).await?;
    match rewritten.file {
        Some(text) => Ok(MigrationFile::new(path, text)),
        None => Err(Error::new(ErrorKind::Invalid, "nothing in this migration has a safer form")
            .with("file", path)
            .hint(format!(
                "`steward migration plan {} --safe` says why, statement by statement",
                request.store
            ))),
    }
}

/// The summary for the PM, as the store is now.
pub(crate) fn summary_of(plan: &Plan, schema: &schema::Schema) -> (serde_json::Value, String) {
    let summary = summary::of(plan, schema);
    (json!(summary), summary.text())
}

/// What of a plan is not in the store as it should be: an index that is not usable, a constraint that is not validated.
pub(crate) fn not_valid(plan: &Plan, schema: &schema::Schema) -> Vec<String> {
    let texts: Vec<&str> =
        plan.steps.iter().flat_map(|step| &step.statements).map(|statement| statement.sql.as_str()).collect();
    let named = |name: &str, verb: &str| {
        texts.iter().any(|text| {
            text.to_ascii_uppercase().contains(verb)
                && text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
        })
    };
    let mut problems = Vec::new();
    for table in &schema.tables {
        for index in table.indexes.iter().filter(|index| !index.valid && named(&index.name, "INDEX")) {
            problems.push(format!("the index `{}` is not usable", index.name));
        }
        let keys = table.foreign_keys.iter().filter(|key| !key.validated).map(|key| &key.name);
        let checks = table.checks.iter().filter(|check| !check.validated).map(|check| &check.name);
        for name in keys.chain(checks).filter(|name| named(name, "VALIDATE CONSTRAINT")) {
            problems.push(format!("the constraint `{name}` of `{}` is not validated", table.name));
        }
    }
    problems
}

/// The risks that a plan carries.
pub(crate) fn risks(plan: &Plan) -> Vec<PlacedRisk> {
    serde_json::from_value(plan.predicted["risks"].clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_would_be_waited_for_is_told_with_the_command_that_ends_it() {
        let holder = |pid, age, state: &str, started: Option<&str>, protected: Option<&str>| LockHolder {
            pid,
            user: "app".into(),
            application: "till".into(),
            state: Some(state.into()),
            transaction_age_ms: Some(age),
            table: "public.orders".into(),
            lock: "ACCESS SHARE".into(),
            waiting: false,
            started: started.map(Into::into),
            protected: protected.map(Into::into),
        };
        let began = Some("2026-03-04T05:06:07.123456Z");
        let found = long_transactions(
            "shop",
            &[
                holder(1, 5_000, "idle in transaction", began, None),
                holder(2, 60_000, "active", began, None),
                holder(3, 4_999, "active", began, None),
                holder(4, 60_000, "active", None, None),
                holder(5, 60_000, "active", began, Some("it is Steward's own")),
            ],
            "ev-1",
        );
        let told: Vec<&str> = found.iter().filter_map(|finding| finding.recommendation.as_deref()).collect();
        assert_eq!(
            told,
            [
                "wait for it, or end it: `steward session end shop 1 --started 2026-03-04T05:06:07.123456Z --how terminate`",
                "wait for it, or end it: `steward session end shop 2 --started 2026-03-04T05:06:07.123456Z --how cancel`",
                "wait for it, or end it: give Steward a login that may see it: `steward store locks shop` says how",
                "wait for it, or end it: look at it first: it is Steward's own",
            ]
        );
    }

    #[test]
    fn new_files_are_numbered_and_named() {
        let request = |name: &str| NewMigration { store: "orders".into(), name: name.into() };
        let files = [MigrationFile::new("migrations/orders/0007_x.sql", "SELECT 1")];
        let file = new_file(&files, &request("Add status, please!")).unwrap();
        assert_eq!(file.path, "migrations/orders/0008_add_status_please.sql");
        assert!(String::from_utf8(file.content).unwrap().contains("-- steward: down"));
        assert_eq!(new_file(&[], &request("é!")).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(new_file(&[], &request("../../x")).unwrap().path, "migrations/orders/0001_x.sql");
    }
}
