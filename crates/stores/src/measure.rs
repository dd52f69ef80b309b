//! How long a query takes, measured by running it.

use std::time::Duration;

use contract::{
    Context, Effect, Error, ErrorKind, Explain, Finding, Limits, Outcome, Query, Request, Severity,
    StoreDirectory,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::Inquiry;
use crate::migration::risk::resolve;
use crate::text;

/// Most runs of one measurement.
const RUNS_MAX: u32 = 1_000;

/// A table of at least this many rows should not be read from end to end to answer one query.
pub(crate) const SCAN_ROWS_MAX: u64 = 5_000;

/// Arguments of `store.measure`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasureStore {
    /// The store's name in the project file.
    pub store: String,
    /// The reading statement to measure.
    pub query: String,
    /// How often it is run, after one run that does not count.
    #[serde(default = "default_runs")]
    pub runs: u32,
    /// Longest time one run may take, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_runs() -> u32 {
    20
}

fn default_timeout_ms() -> u64 {
    30_000
}

impl Request for MeasureStore {
    const NAME: &'static str = "store.measure";
    const SUMMARY: &'static str = "Measure a query: percentiles of its time, and how the store runs it";
    const EXAMPLE: &'static str =
        "steward store measure orders 'SELECT * FROM orders WHERE customer_id = 7' --runs 50";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "performance.read";
    const POSITIONAL: &'static [&'static str] = &["store", "query"];
}

/// What a measurement found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// The statement.
    pub query: String,
    /// What was run: the statement with a value of the store for each placeholder, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_values: Option<String>,
    /// Runs that count.
    pub runs: u32,
    /// Rows that each run returned.
    pub rows: u64,
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile by nearest rank, in milliseconds.
    pub p95_ms: f64,
    /// 99th percentile by nearest rank, in milliseconds.
    pub p99_ms: f64,
    /// Longest, in milliseconds.
    pub max_ms: f64,
    /// How the store runs it.
    pub explain: Explain,
}

/// Runs the query once to warm up and then `runs` times, one after the other.
///
/// Value: [`Measured`], with `store`. Finding: `full_scan` for a table of at least 5,000 rows that is read from end to
/// end. The evidence holds each run's time.
///
/// # Errors
///
/// `Invalid`: no runs, or not one reading statement. `Denied`, `TimedOut`: as `store.query`.
pub async fn measure(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &MeasureStore,
) -> Result<Outcome, Error> {
    if !(1..=RUNS_MAX).contains(&request.runs) {
        return Err(Error::new(ErrorKind::Invalid, format!("`runs` must lie between 1 and {RUNS_MAX}"))
            .with("runs", request.runs));
    }
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let timeout = Duration::from_millis(request.timeout_ms);
    let (measured, evidence) = inquiry.measure(&request.query, request.runs, timeout).await?;
    let findings = scan_findings(&measured.explain, &evidence[1]);
    let mut value = json!(measured);
    value["store"] = json!(request.store);
    let mut outcome = Outcome::new(value, measured_text(&measured));
    outcome.findings = findings;
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

impl Inquiry<'_> {
    /// Measures a query. Gives the ids of the evidence for the times and for the plan.
    pub(crate) async fn measure(
        &mut self,
        sql: &str,
        runs: u32,
        timeout: Duration,
    ) -> Result<(Measured, [String; 2]), Error> {
        let given = sql;
        let with_values = self.with_values(given).await?;
        let sql = with_values.as_deref().unwrap_or(given);
        let mut query = Query::new(sql);
        query.limits = Limits { statement_timeout: timeout, ..Limits::default() };
        let mut times = Vec::with_capacity(runs as usize);
        let warm_up = self.relational()?.query(self.ctx, &query).await?;
        for _ in 0..runs {
            let elapsed_ms = self.relational()?.query(self.ctx, &query).await?.elapsed_ms;
            // Whole microseconds: further digits are noise, in a report and in its evidence.
            times.push((elapsed_ms * 1e3).round() / 1e3);
        }
        let answer = json!({"warm_up_ms": warm_up.elapsed_ms, "runs_ms": times, "rows": warm_up.rows.len(),
                            "truncated": warm_up.truncated});
        let run = self.note(sql, answer, times.iter().sum());
        let (explain, explained) = self.explain(sql).await?;
        times.sort_by(f64::total_cmp);
        let measured = Measured {
            query: given.to_owned(),
            with_values: with_values.clone(),
            runs,
            rows: warm_up.rows.len() as u64,
            p50_ms: percentile(&times, 50),
            p95_ms: percentile(&times, 95),
            p99_ms: percentile(&times, 99),
            max_ms: percentile(&times, 100),
            explain,
        };
        Ok((measured, [run, explained]))
    }

    /// How the store would run the statement, with evidence.
    pub(crate) async fn explain(&mut self, sql: &str) -> Result<(Explain, String), Error> {
        let started = std::time::Instant::now();
        let mut explain = self.relational()?.explain(self.ctx, sql).await?;
        // SQLite's plans say nothing of rows.
        if explain.full_scans.iter().any(|scan| scan.rows_expected.is_none()) {
            let schema = self.schema().await?.0;
            for scan in &mut explain.full_scans {
                let parts: Vec<String> = scan.table.split('.').map(ToOwned::to_owned).collect();
                scan.rows_expected =
                    scan.rows_expected.or_else(|| resolve(&schema, &parts).map(|table| table.rows));
            }
        }
        let id = self.note(&format!("EXPLAIN {sql}"), json!(explain), crate::inquiry::millis_since(started));
        Ok((explain, id))
    }
}

/// The smallest value that at least `percent` of all values do not exceed (nearest rank).
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

fn scan_findings(explain: &Explain, evidence: &str) -> Vec<Finding> {
    explain
        .full_scans
        .iter()
        .filter_map(|scan| {
            let rows = scan.rows_expected.filter(|rows| *rows >= SCAN_ROWS_MAX)?;
            Some(Finding {
                code: "full_scan".into(),
                severity: Severity::Warning,
                title: format!("the query reads all {} of `{}`", text::count(rows, "row"), scan.table),
                object: scan.table.clone(),
                recommendation: Some("ask `steward index advise` for an index".into()),
                evidence: vec![evidence.to_owned()],
                escalate: None,
            })
        })
        .collect()
}

pub(crate) fn measured_text(measured: &Measured) -> String {
    let scans = match measured.explain.full_scans.as_slice() {
        [] => "none".to_owned(),
        scans => scans
            .iter()
            .map(|scan| match scan.rows_expected {
                Some(rows) => format!("{} ({})", scan.table, text::count(rows, "row")),
                None => scan.table.clone(),
            })
            .collect::<Vec<_>>()
            .join(", "),
    };
    let indexes = match measured.explain.indexes_used.as_slice() {
        [] => "none".to_owned(),
        indexes => indexes.join(", "),
    };
    [
        format!(
            "{} of {} each",
            text::count(u64::from(measured.runs), "run"),
            text::count(measured.rows, "row")
        ),
        format!(
            "  p50 {}  p95 {}  p99 {}  max {}",
            text::millis(measured.p50_ms),
            text::millis(measured.p95_ms),
            text::millis(measured.p99_ms),
            text::millis(measured.max_ms)
        ),
        format!("  full scans    {scans}"),
        format!("  indexes used  {indexes}"),
    ]
    .join("\n")
}

/// The percentiles as a value, for comparisons of before and after.
pub(crate) fn summary_value(measured: &Measured, evidence: &[String; 2]) -> Value {
    let mut value = json!(measured);
    value["evidence"] = json!(evidence);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let five = [1.0, 2.0, 3.0, 4.0, 50.0];
        for (values, percent, expected) in [
            (&hundred[..], 50, 50.0),
            (&hundred[..], 95, 95.0),
            (&hundred[..], 99, 99.0),
            (&hundred[..], 100, 100.0),
            (&five[..], 50, 3.0),
            (&five[..], 95, 50.0),
            (&five[..1], 95, 1.0),
        ] {
            assert!((percentile(values, percent) - expected).abs() < f64::EPSILON, "{percent} of {values:?}");
        }
    }
}
