//! One reading statement under bounds.

use std::time::Duration;

use contract::{Context, Effect, Error, Limits, Outcome, Query, Request, Rows, StoreDirectory, Truncation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::Inquiry;
use crate::text;

/// Arguments of `store.query`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryStore {
    /// The store's name in the project file.
    pub store: String,
    /// Exactly one reading statement.
    pub sql: String,
    /// Values for its placeholders (`$1` in PostgreSQL, `?1` in SQLite), in order.
    #[serde(default)]
    pub parameters: Vec<Value>,
    /// Most rows returned.
    #[serde(default = "default_rows_max")]
    pub rows_max: u64,
    /// Most bytes of values returned.
    #[serde(default = "default_bytes_max")]
    pub bytes_max: u64,
    /// Longest time the store may work on it, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_rows_max() -> u64 {
    1_000
}

fn default_bytes_max() -> u64 {
    1 << 20
}

fn default_timeout_ms() -> u64 {
    30_000
}

impl Request for QueryStore {
    const NAME: &'static str = "store.query";
    const SUMMARY: &'static str = "Run one reading statement under row, byte and time limits";
    const EXAMPLE: &'static str = "steward store query orders 'SELECT count(*) FROM orders'";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["store", "sql"];
}

/// Runs one statement in a session in which the engine refuses every write.
///
/// Value: [`Rows`]: `columns`, `types`, `rows`, `truncated`, `elapsed_ms`.
///
/// # Errors
///
/// `Invalid`: more than one statement, or one that the engine does not understand. `Denied`: it tried to write, or the
/// login is a superuser or owner. `TimedOut`: `timeout_ms` passed.
pub async fn query(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &QueryStore,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let query = Query {
        sql: request.sql.clone(),
        parameters: request.parameters.clone(),
        limits: Limits {
            rows_max: usize::try_from(request.rows_max).unwrap_or(usize::MAX),
            bytes_max: usize::try_from(request.bytes_max).unwrap_or(usize::MAX),
            statement_timeout: Duration::from_millis(request.timeout_ms),
        },
    };
    let (rows, _) = inquiry.rows(&query).await?;
    let mut outcome = Outcome::new(json!(rows), rows_text(&rows));
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

fn rows_text(rows: &Rows) -> String {
    let count = text::count(rows.rows.len() as u64, "row");
    let end = match rows.truncated {
        None => format!("({count})"),
        Some(Truncation::Rows) => format!("(the first {count}; there are more: raise `rows_max`)"),
        Some(Truncation::Bytes) => format!("(the first {count}; there are more: raise `bytes_max`)"),
    };
    if rows.columns.is_empty() { end } else { format!("{}\n{end}", text::table(&rows.columns, &rows.rows)) }
}
