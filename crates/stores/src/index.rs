//! Indexes: built without blocking writers where the engine can, measured before and after, dropped with a way back.

use std::time::Duration;

use contract::{
    Capability, Context, Error, ErrorKind, Finding, Plan, PlanStep, Request, Severity, Statement, StepMode,
    StoreDirectory,
};
use schema::{Dialect, Index, Schema, Table};
use serde_json::{Value, json};

use crate::inquiry::Inquiry;
use crate::inspect::find_table;
use crate::measure::summary_value;
use crate::migration::{index_is_gone, index_is_valid};
use crate::prestate::Scope;
use crate::request::{CreateIndex, DropIndex, Waits};
use crate::text;

/// Longest name that PostgreSQL keeps, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// Runs of the measurements before and after.
const MEASURED_RUNS: u32 = 20;

/// Longest time one run of a measurement may take.
const MEASURED_TIMEOUT: Duration = Duration::from_mins(1);

/// Plans an index. A plan without steps means that an index already does the work.
///
/// PostgreSQL builds it concurrently, which takes two table scans and blocks nobody; a build that is cut short is
/// dropped and begun again. SQLite builds it in one transaction that holds the write lock.
///
/// # Errors
///
/// `NotFound`: no such table or column. `AlreadyExists`: another index has the name. `Invalid`: no columns, or more
/// than 32.
///
/// Source: PostgreSQL manual, CREATE INDEX, "Building Indexes Concurrently".
pub async fn plan_create(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &CreateIndex,
) -> Result<Plan, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let (schema, _) = inquiry.schema().await?;
    let table = find_table(&schema, &request.table)?;
    if request.columns.is_empty() || request.columns.len() > 32 {
        return Err(Error::new(ErrorKind::Invalid, "an index has between 1 and 32 columns"));
    }
    let columns: Vec<(String, bool)> =
        request.columns.iter().map(|column| find_column(table, column)).collect::<Result<_, _>>()?;
    let names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
    let name = request.name.clone().unwrap_or_else(|| default_name(&table.name.name, &names));
    let dialect = inquiry.dialect()?;
    let quoted_index = {
        let index = inquiry.quoted(&name)?;
        if table.name.namespace.is_empty() {
            index
        } else {
            format!("{}.{index}", inquiry.quoted(&table.name.namespace)?)
        }
    };
    let scope = Scope { tables: Some(vec![table.name.to_string()]), history: false };
    let size_bytes = predicted_size(table, names.len() as u64);
    let mut plan = Plan {
        request: CreateIndex::NAME.into(),
        arguments: json!(request),
        project: ctx.project().into(),
        target: format!("store:{}", request.store),
        summary: format!("create index `{name}` on `{}` ({})", table.name, request.columns.join(", ")),
        steps: Vec::new(),
        pre_state: String::new(),
        predicted: json!({"scope": scope, "index": name, "table": table.name.to_string(), "columns": request.columns,
                          "size_bytes": size_bytes}),
        cost_usd_nanos: 0,
    };
    let descending = columns.iter().any(|(_, descending)| *descending);
    let equal = table.indexes.iter().find(|index| {
        index.valid
            && index.predicate.is_none()
            && index.columns == names
            && !descending
            && (index.unique || !request.unique)
    });
    if let Some(index) = equal {
        plan.summary = format!("nothing to do: index `{}` on `{}` has these columns", index.name, table.name);
        plan.predicted["index"] = json!(index.name);
        plan.pre_state = inquiry.pre_state(&scope, &[]).await?;
        return Ok(plan);
    }
    let existing = schema.tables.iter().flat_map(|table| &table.indexes).find(|index| index.name == name);
    if existing.is_some_and(|index| index.valid) {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("there is an index `{name}` with other columns"),
        )
        .with("store", &request.store)
        .hint("give another `name`"));
    }
    let mut parts = Vec::new();
    for (column, descending) in &columns {
        parts.push(format!("{}{}", inquiry.quoted(column)?, if *descending { " DESC" } else { "" }));
    }
    let parts = parts.join(", ");
    let unique = if request.unique { "UNIQUE " } else { "" };
    // A partitioned table takes no concurrent build.
    let concurrent = inquiry.store.capabilities().contains(&Capability::ConcurrentIndex)
        && table.partition.as_ref().is_none_or(|partition| partition.key.is_none());
    let step = |sql: String, undo: String| PlanStep {
        undo: vec![Statement::new(undo)],
        reversible: true,
        lock: Some(
            match (dialect, concurrent) {
                (Dialect::Sqlite, _) => "SQLite's write lock",
                (Dialect::Postgres, true) => "SHARE UPDATE EXCLUSIVE",
                (Dialect::Postgres, false) => "SHARE",
            }
            .to_owned(),
        ),
        ..PlanStep::new(
            format!("create index {name}"),
            format!("build `{name}` on `{}`", table.name),
            if concurrent { StepMode::Autocommit } else { StepMode::Transaction },
            patience(dialect, concurrent, &request.waits, sql),
        )
    };
    match dialect {
        Dialect::Postgres => {
            let on = inquiry.quoted_table(&table.name)?;
            let how = if concurrent { " CONCURRENTLY" } else { "" };
            if existing.is_some() {
                plan.steps.push(PlanStep {
                    id: format!("drop invalid index {name}"),
                    title: format!("drop what an earlier build of `{name}` left behind"),
                    statements: patience(
                        dialect,
                        true,
                        &request.waits,
                        format!("DROP INDEX CONCURRENTLY IF EXISTS {quoted_index}"),
                    ),
                    mode: StepMode::Autocommit,
                    is_done: Some(index_is_gone(&table.name.namespace, &name)?),
                    undo: Vec::new(),
                    ..step(String::new(), String::new())
                });
            }
            let mut step = step(
                format!("CREATE {unique}INDEX{how} {} ON {on} ({parts})", inquiry.quoted(&name)?),
                format!("DROP INDEX{how} IF EXISTS {quoted_index}"),
            );
            if concurrent {
                step.is_done = Some(index_is_valid(&table.name.namespace, &name)?);
                step.clean_up =
                    vec![Statement::new(format!("DROP INDEX CONCURRENTLY IF EXISTS {quoted_index}"))];
            }
            plan.steps.push(step);
        }
        Dialect::Sqlite => plan.steps.push(step(
            format!("CREATE {unique}INDEX {quoted_index} ON {} ({parts})", inquiry.quoted(&table.name.name)?),
            format!("DROP INDEX IF EXISTS {quoted_index}"),
        )),
    }
    plan.pre_state = inquiry.pre_state(&scope, &plan.steps).await?;
    Ok(plan)
}

/// Plans to drop an index; the way back is its own definition.
///
/// # Errors
///
/// `NotFound`: no such index. `Invalid`: a constraint needs it.
pub async fn plan_drop(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &DropIndex,
) -> Result<Plan, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let (schema, _) = inquiry.schema().await?;
    let (table, index) = find_index(&schema, request)?;
    if index.backs_constraint {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("a constraint of `{}` needs `{}`", table.name, index.name),
        )
        .hint("drop the constraint in a migration instead"));
    }
    let dialect = inquiry.dialect()?;
    let namespace = &table.name.namespace;
    let mut quoted = inquiry.quoted(&index.name)?;
    if !namespace.is_empty() {
        quoted = format!("{}.{quoted}", inquiry.quoted(namespace)?);
    }
    let concurrent = inquiry.store.capabilities().contains(&Capability::ConcurrentIndex)
        && table.partition.as_ref().is_none_or(|partition| partition.key.is_none());
    let how = if dialect == Dialect::Postgres && concurrent { " CONCURRENTLY" } else { "" };
    let scope = Scope { tables: Some(vec![table.name.to_string()]), history: false };
    let steps = vec![PlanStep {
        is_done: if how.is_empty() { None } else { Some(index_is_gone(namespace, &index.name)?) },
        undo: vec![Statement::new(&index.definition)],
        reversible: true,
        lock: Some(
            match (dialect, concurrent) {
                (Dialect::Sqlite, _) => "SQLite's write lock",
                (Dialect::Postgres, true) => "SHARE UPDATE EXCLUSIVE",
                (Dialect::Postgres, false) => "ACCESS EXCLUSIVE",
            }
            .to_owned(),
        ),
        ..PlanStep::new(
            format!("drop index {}", index.name),
            format!("drop `{}` of `{}`", index.name, table.name),
            if how.is_empty() { StepMode::Transaction } else { StepMode::Autocommit },
            patience(dialect, !how.is_empty(), &request.waits, format!("DROP INDEX{how} {quoted}")),
        )
    }];
    let pre_state = inquiry.pre_state(&scope, &steps).await?;
    Ok(Plan {
        request: DropIndex::NAME.into(),
        arguments: json!(request),
        project: ctx.project().into(),
        target: format!("store:{}", request.store),
        summary: format!("drop index `{}` of `{}`", index.name, table.name),
        steps,
        pre_state,
        predicted: json!({"scope": scope, "index": index.name, "table": table.name.to_string(),
                          "size_bytes_freed": index.size_bytes, "definition": index.definition}),
        cost_usd_nanos: 0,
    })
}

/// The statement, behind what says how long it waits. A concurrent one waits for the transactions that are under way, and
/// nobody waits behind it.
fn patience(dialect: Dialect, concurrent: bool, waits: &Waits, sql: String) -> Vec<Statement> {
    let mut statements = waits.settings(dialect, concurrent);
    statements.push(Statement::new(sql));
    statements
}

fn find_index<'a>(schema: &'a Schema, request: &DropIndex) -> Result<(&'a Table, &'a Index), Error> {
    let hint = format!("`steward store inspect {}` shows them", request.store);
    let (found, what) = match (&request.index, &request.table) {
        (Some(name), None) => {
            let named = |table: &Table, index: &Index| {
                index.name == *name || format!("{}.{}", table.name.namespace, index.name) == *name
            };
            let all =
                schema.tables.iter().flat_map(|table| table.indexes.iter().map(move |index| (table, index)));
            (all.into_iter().find(|(table, index)| named(table, index)), format!("`{name}`"))
        }
        (None, Some(table)) => {
            let table = find_table(schema, table)?;
            let columns: Vec<String> = request
                .columns
                .iter()
                .map(|column| Ok(find_column(table, column)?.0))
                .collect::<Result<_, Error>>()?;
            let index =
                table.indexes.iter().find(|index| index.columns == columns && !index.backs_constraint);
            (index.map(|index| (table, index)), format!("on `{}` ({})", table.name, columns.join(", ")))
        }
        _ => {
            return Err(Error::new(ErrorKind::Invalid, "give `index`, or `table` and `columns`").hint(hint));
        }
    };
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no index {what}")).with("store", &request.store).hint(hint)
    })
}

/// The column's own spelling, and whether it was followed by `DESC`.
fn find_column(table: &Table, wanted: &str) -> Result<(String, bool), Error> {
    let exact = |name: &str| table.columns.iter().find(|column| column.name == name);
    let same = |name: &str| table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
    if let Some(column) = exact(wanted).or_else(|| same(wanted)) {
        return Ok((column.name.clone(), false));
    }
    if let Some((name, order)) = wanted.trim().rsplit_once(' ') {
        let descending = order.eq_ignore_ascii_case("desc");
        if let Some(column) = exact(name.trim())
            .or_else(|| same(name.trim()))
            .filter(|_| descending || order.eq_ignore_ascii_case("asc"))
        {
            return Ok((column.name.clone(), descending));
        }
    }
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    Err(Error::new(ErrorKind::NotFound, format!("`{}` has no column `{wanted}`", table.name))
        .hint(format!("it has: {}", names.join(", "))))
}

/// `orders_customer_id_idx`, at most as long as PostgreSQL keeps.
pub(crate) fn default_name(table: &str, columns: &[String]) -> String {
    let mut name = format!("{table}_{}", columns.join("_"));
    while name.len() > NAME_BYTES_MAX - "_idx".len() {
        name.pop();
    }
    format!("{name}_idx")
}

/// A rough forecast: a row pointer and a short key per row and column, pages nine tenths full; a power of two, so that
/// the plan stays the same while rows come and go.
fn predicted_size(table: &Table, columns: u64) -> u64 {
    (table.rows.min(1 << 40) * (12 + 8 * columns) / 9 * 10).next_power_of_two()
}

/// The measurement of the query that an index is for; `None` when the plan names none.
pub(crate) async fn measure_for(inquiry: &mut Inquiry<'_>, plan: &Plan) -> Result<Option<Value>, Error> {
    let Some(query) = query_of(plan) else { return Ok(None) };
    let (measured, evidence) = inquiry.measure(&query, MEASURED_RUNS, MEASURED_TIMEOUT).await?;
    Ok(Some(summary_value(&measured, &evidence)))
}

fn query_of(plan: &Plan) -> Option<String> {
    if plan.request != CreateIndex::NAME {
        return None;
    }
    plan.arguments["query"].as_str().map(ToOwned::to_owned)
}

/// Looks whether the index is there and usable, or gone, and what it brought.
pub(crate) async fn verify(
    inquiry: &mut Inquiry<'_>,
    plan: &Plan,
    before: Option<Value>,
    value: &mut Value,
    findings: &mut Vec<Finding>,
) -> Result<Vec<String>, Error> {
    let name = plan.predicted["index"].as_str().unwrap_or_default().to_owned();
    let (schema, _) = inquiry.schema().await?;
    let table = find_table(&schema, plan.predicted["table"].as_str().unwrap_or_default())?;
    let index = table.indexes.iter().find(|index| index.name == name);
    if plan.request == DropIndex::NAME {
        return Ok(index.map(|_| format!("the index `{name}` is still there")).into_iter().collect());
    }
    let Some(index) = index else { return Ok(vec![format!("the index `{name}` is not there")]) };
    value["index"] = json!({"name": index.name, "table": table.name.to_string(), "columns": index.columns,
                            "definition": index.definition, "size_bytes": index.size_bytes, "valid": index.valid});
    if !index.valid {
        return Ok(vec![format!("the index `{name}` is not usable")]);
    }
    if let Some(query) = query_of(plan) {
        let (after, evidence) = inquiry.measure(&query, MEASURED_RUNS, MEASURED_TIMEOUT).await?;
        let p95_before = before.as_ref().and_then(|before| before["p95_ms"].as_f64());
        value["before"] = before.unwrap_or(Value::Null);
        value["speedup"] = json!(p95_before.map(|before| before / after.p95_ms.max(0.001)));
        value["index"]["used"] = json!(after.explain.indexes_used.contains(&name));
        if !after.explain.indexes_used.contains(&name) {
            findings.push(Finding {
                code: "index_unused".into(),
                severity: Severity::Warning,
                title: format!(
                    "the query does not use the index `{name}` (p95 {})",
                    text::millis(after.p95_ms)
                ),
                object: table.name.to_string(),
                recommendation: Some(format!(
                    "drop it: `steward index drop {} {name}`",
                    inquiry.store.name()
                )),
                evidence: evidence.to_vec(),
                escalate: None,
            });
        }
        value["after"] = summary_value(&after, &evidence);
    }
    Ok(Vec::new())
}
