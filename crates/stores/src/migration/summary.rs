//! What a PM wants to know of a change: type, tables, volume, downtime, rollback, validation, impact.

use contract::{Plan, PlanStep, StepMode};
use schema::Schema;
use serde::{Deserialize, Serialize};

use super::effect::{Effect, WEIGHED};
use super::risk::resolve;
use super::{PlacedRisk, risks};
use crate::lint::Blocking;
use crate::text;

/// How long others would wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Downtime {
    /// Nobody waits.
    None,
    /// As long as a change of the catalog takes, once the lock is there.
    Brief,
    /// As long as reading or writing a table takes.
    Long,
}

/// A table and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) table: String,
    /// `None`: the table is not there yet.
    pub(crate) rows: Option<u64>,
    pub(crate) size_bytes: Option<u64>,
}

/// A migration in a PM's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// `schema`, `data`, `schema and data` or `nothing`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) tables: Vec<Volume>,
    /// Whether there may be others that nobody can name.
    pub(crate) tables_unknown: bool,
    pub(crate) rows: u64,
    pub(crate) size_bytes: u64,
    pub(crate) downtime: Downtime,
    /// Why that long.
    pub(crate) downtime_why: Vec<String>,
    pub(crate) rollback: String,
    /// Whether the way back brings everything back.
    pub(crate) rollback_complete: bool,
    /// What is looked at afterwards.
    pub(crate) validation: Vec<String>,
    /// What running code meets.
    pub(crate) impact: Vec<String>,
}

/// Rules about code that was released before.
const BREAKING: [&str; 3] = ["data_loss", "guard_removed", "changes_rights"];
/// The same, where the linter does not say it better.
const BREAKING_UNMEASURED: [&str; 3] = ["rename_breaks_application", "breaks_readers", "fails_on_rows"];

/// The summary of a plan of migrations for a store with this schema.
pub(crate) fn of(plan: &Plan, schema: &Schema) -> Summary {
    let risks = risks(plan);
    let rows = plan.predicted["table_rows_at_most"].as_object().cloned().unwrap_or_default();
    // Not part of the plan: both change with every row, and what was approved would no longer be what is asked for. Of a
    // table that has gone, the plan's bound is what remains.
    let volume = |(name, at_most): (&String, &serde_json::Value)| {
        let parts: Vec<String> = name.split('.').map(ToOwned::to_owned).collect();
        let now = resolve(schema, &parts);
        Volume {
            table: name.clone(),
            rows: at_most.as_u64().map(|at_most| now.map_or(at_most, |table| table.rows)),
            size_bytes: now.and_then(|table| table.size_bytes),
        }
    };
    let tables: Vec<Volume> = rows.iter().map(volume).collect();
    let first_word = |sql: &str| sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let words: Vec<String> = of_migrations(plan)
        .flat_map(|step| &step.statements)
        .filter(|statement| {
            !statement.sql.contains("steward_migrations") && !statement.sql.starts_with("SET ")
        })
        .map(|statement| first_word(&statement.sql))
        .collect();
    let data =
        words.iter().any(|word| ["INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE"].contains(&word.as_str()));
    let schema =
        words.iter().any(|word| ["CREATE", "ALTER", "DROP", "REINDEX", "REFRESH"].contains(&word.as_str()));
    let kind = match (schema, data) {
        (true, true) => "schema and data",
        (true, false) => "schema",
        (false, true) => "data",
        (false, false) => "nothing",
    };
    let in_use = tables.iter().any(|table| table.rows.is_some());
    let effects: Option<Vec<Effect>> =
        plan.predicted.get("effects").and_then(|effects| serde_json::from_value(effects.clone()).ok());
    let (downtime, why) = match &effects {
        Some(effects) => downtime_measured(effects),
        None => downtime_by_rules(plan, &risks, in_use),
    };
    let complete = plan.reversible();
    let rollback = match (complete, of_migrations(plan).any(|step| !step.undo.is_empty())) {
        (true, _) => "`steward migration rollback` runs the down section and brings everything back",
        (false, true) => {
            "`steward migration rollback` runs the down section; values that were lost stay lost"
        }
        (false, false) => "there is no way back but a restored backup",
    };
    let mut validation = vec!["the store's history shows the migration as applied".to_owned()];
    if schema {
        validation.push("no index that the store had or gets is left unusable".into());
        validation.push("every constraint that is to be validated is".into());
    }
    if of_migrations(plan).any(|step| matches!(step.mode, StepMode::Batched(_))) {
        validation.push("every batch is recorded together with its rows, so each row is changed once".into());
    }
    let breaks =
        |rule: &str| BREAKING.contains(&rule) || effects.is_none() && BREAKING_UNMEASURED.contains(&rule);
    let mut impact: Vec<String> = risks
        .iter()
        .filter(|placed| breaks(&placed.risk.rule))
        .map(|placed| placed.risk.note.clone())
        .collect();
    impact.extend(effects.iter().flatten().flat_map(|effect| effect.breaks.iter().cloned()));
    impact.dedup();
    if impact.is_empty() {
        impact.push("none known: code that was released before goes on as it is".into());
    }
    Summary {
        kind: kind.into(),
        rows: tables.iter().filter_map(|table| table.rows).sum(),
        size_bytes: tables.iter().filter_map(|table| table.size_bytes).sum(),
        tables,
        tables_unknown: plan.predicted["tables_unknown"] == true,
        downtime,
        downtime_why: why,
        rollback: rollback.into(),
        rollback_complete: complete,
        validation,
        impact,
    }
}

/// How long others wait, as the linter says it, whose verdicts are measured on real servers.
fn downtime_measured(effects: &[Effect]) -> (Downtime, Vec<String>) {
    let mut why: Vec<String> = effects
        .iter()
        .filter(|effect| effect.is_long())
        .flat_map(|effect| effect.why.iter().cloned())
        .collect();
    why.dedup();
    if !why.is_empty() {
        return (Downtime::Long, why);
    }
    match effects.iter().filter(|effect| effect.blocking == Blocking::Brief).count() as u64 {
        0 => (Downtime::None, vec!["nothing waits for a lock on a table in use".into()]),
        strong => (Downtime::Brief, vec![asks(strong, "statement")]),
    }
}

/// The same where nothing was measured: SQLite has one lock, and what is known of it is in the plan's risks.
fn downtime_by_rules(plan: &Plan, risks: &[PlacedRisk], in_use: bool) -> (Downtime, Vec<String>) {
    let long = |placed: &&PlacedRisk| {
        WEIGHED.contains(&placed.risk.rule.as_str()) && placed.risk.severity > contract::Severity::Info
    };
    let why: Vec<String> = risks.iter().filter(long).map(|placed| placed.risk.note.clone()).collect();
    if !why.is_empty() {
        return (Downtime::Long, why);
    }
    let is_strong = |lock: &str| {
        lock.contains("EXCLUSIVE") && lock != "ROW EXCLUSIVE" && lock != "SHARE UPDATE EXCLUSIVE"
    };
    match of_migrations(plan).filter(|step| step.lock.as_deref().is_some_and(is_strong)).count() as u64 {
        strong if strong > 0 && in_use => (Downtime::Brief, vec![asks(strong, "step")]),
        _ => (Downtime::None, vec!["nothing waits for a lock on a table in use".into()]),
    }
}

fn asks(times: u64, what: &str) -> String {
    let verb = if times == 1 { "asks" } else { "ask" };
    format!("{} {verb} for a strong lock, each held only while the catalog changes", text::count(times, what))
}

/// The steps of the migrations themselves.
fn of_migrations(plan: &Plan) -> impl Iterator<Item = &PlanStep> {
    plan.steps.iter().filter(|step| step.id != "steward_migrations" && !step.id.ends_with("/begin"))
}

impl Summary {
    /// The summary for people.
    pub(crate) fn text(&self) -> String {
        let tables: Vec<String> = self
            .tables
            .iter()
            .map(|table| match (table.rows, table.size_bytes) {
                (None, _) => format!("{} (new)", table.table),
                (Some(rows), None) => format!("{} ({})", table.table, text::count(rows, "row")),
                (Some(rows), Some(bytes)) => {
                    format!("{} ({}, {})", table.table, text::count(rows, "row"), text::size(bytes))
                }
            })
            .collect();
        let others = self.tables_unknown.then(|| "others that nobody can name".to_owned());
        let tables: Vec<String> = tables.into_iter().chain(others).collect();
        let tables = if tables.is_empty() { "none".to_owned() } else { tables.join(", ") };
        let downtime = match self.downtime {
            Downtime::None => "none",
            Downtime::Brief => "brief",
            Downtime::Long => "LONG",
        };
        let volume = match self.size_bytes {
            0 => text::count(self.rows, "row"),
            bytes => format!("{}, {}", text::count(self.rows, "row"), text::size(bytes)),
        };
        format!(
            "summary\n  type        {}\n  tables      {tables}\n  volume      {volume}\n  downtime    {downtime}: {}\n  \
             rollback    {}\n  validation  {}\n  impact      {}",
            self.kind,
            self.downtime_why.join("; "),
            self.rollback,
            self.validation.join("; "),
            self.impact.join("; "),
        )
    }
}
