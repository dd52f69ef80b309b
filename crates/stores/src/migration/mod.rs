//! Migrations: numbered SQL files, applied once, in order, so that a crash at any point can be resumed.
//!
//! A file is `migrations/<store>/0001_create_orders.sql`: SQL, with these optional lines:
//!
//! - `-- steward: up`, `-- steward: down`: the way there and the way back;
//! - `-- steward: no-transaction`: each statement in a step of its own, for what cannot run in a transaction;
//! - `-- steward: irreversible`: there is no way back, and the author knows it.

mod file;
pub(crate) mod history;
mod plan;
pub(crate) mod risk;
pub(crate) mod split;

use contract::{Context, Error, ErrorKind, Finding, Outcome, Plan, Severity, StoreDirectory};
use serde_json::json;

pub use file::MigrationFile;
pub(crate) use plan::{PlacedRisk, Progress, index_is_gone, index_is_valid};
pub use plan::{plan_apply, plan_rollback};

use crate::inquiry::Inquiry;
use crate::request::{
    ApplyMigrations, MigrationStatus, NewMigration, PlanMigrations, default_lock_timeout_ms,
    default_statement_timeout_ms,
};
use crate::text;

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
/// `pending[] {version, name}`, `last_applied`. Finding: `migration_cut_short`.
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
    let value = json!({
        "store": request.store,
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
/// line, statement, rule, severity, note, advice}`. Finding: `risky_migration` per risk that is more than a note.
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
        lock_timeout_ms: default_lock_timeout_ms(),
        statement_timeout_ms: default_statement_timeout_ms(),
    };
    let plan = plan_apply(ctx, stores, files, &apply).await?;
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let evidence = inquiry.note(
        "migration.plan",
        json!({"digest": plan.digest(), "risks": plan.predicted["risks"]}),
        0.0,
    );
    let risks = risks(&plan);
    let value = json!({
        "plan": plan,
        "digest": plan.digest(),
        "pending": plan.predicted["migrations"],
        "destructive": plan.destructive(),
        "reversible": plan.reversible(),
        "risks": plan.predicted["risks"],
    });
    let mut outcome = Outcome::new(value, crate::plan_text(&plan));
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
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

/// The risks that a plan carries.
pub(crate) fn risks(plan: &Plan) -> Vec<PlacedRisk> {
    serde_json::from_value(plan.predicted["risks"].clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
