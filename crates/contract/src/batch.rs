//! Changes of many rows in ranges of a key, each range in a transaction of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Statement;

/// What stands in a batched step's statements where the condition on the key belongs; the adapter puts it in, with
/// bound values.
pub const BATCH: &str = "{{batch}}";

/// How a step is cut into batches.
///
/// The statements hold [`BATCH`] where the range belongs, such as `UPDATE orders SET size = 1 WHERE size IS NULL AND
/// {{batch}}`; their own values come first in the placeholders' count. A statement without it runs in every batch as
/// it is, such as a setting of the transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Batches {
    /// The table, quoted as statements write it.
    pub table: String,
    /// Columns of a unique key without NULL, quoted, in its index's order; the statements do not change them.
    pub key: Vec<String>,
    /// Run in the transaction of the last batch, such as what remembers that the statement is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finish: Vec<Statement>,
    /// Under this name the next plan finds how far an unfinished one has come, and goes on from there; without it, only
    /// the same plan does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
    /// Rows of the first batch.
    pub rows_start: u64,
    /// Fewest rows of a batch, however slow it is.
    pub rows_min: u64,
    /// Most rows of a batch, however fast it is.
    pub rows_max: u64,
    /// What a batch should take, in milliseconds: the time for which it holds its row locks.
    pub target_ms: u64,
    /// Shortest pause between batches, in milliseconds.
    pub pause_ms: u64,
    /// Pause while a replica is behind by more, in milliseconds.
    pub lag_ms_max: u64,
    /// Pause while a replica is behind by more, in bytes of the log.
    pub lag_bytes_max: u64,
    /// Longest wait for a replica that is behind, in milliseconds; after that the step fails, to be resumed.
    pub lag_wait_ms_max: u64,
}

impl Batches {
    /// Batches over `table` by `key` under the default limits: 100 to 50,000 rows, half a second each, a pause of 10 ms,
    /// replicas at most 10 s and 64 MiB behind, 10 minutes of waiting for them.
    pub fn new(table: impl Into<String>, key: Vec<String>) -> Self {
        Self {
            table: table.into(),
            key,
            finish: Vec::new(),
            resume: None,
            rows_start: 1_000,
            rows_min: 100,
            rows_max: 50_000,
            target_ms: 500,
            pause_ms: 10,
            lag_ms_max: 10_000,
            lag_bytes_max: 64 << 20,
            lag_wait_ms_max: 600_000,
        }
    }

    /// The condition for the rows behind `after` up to `upto`, and its values, bound from placeholder `first` on.
    pub fn range(
        &self,
        after: Option<&[Value]>,
        upto: Option<&[Value]>,
        first: usize,
        placeholder: fn(usize) -> String,
    ) -> (String, Vec<Value>) {
        let row = |parts: &[String]| match parts {
            [one] => one.clone(),
            many => format!("({})", many.join(", ")),
        };
        let (mut conditions, mut values) = (Vec::new(), Vec::new());
        for (operator, bound) in [(">", after), ("<=", upto)] {
            let Some(bound) = bound else { continue };
            let places: Vec<String> =
                (0..bound.len()).map(|i| placeholder(first + values.len() + i)).collect();
            conditions.push(format!("{} {operator} {}", row(&self.key), row(&places)));
            values.extend_from_slice(bound);
        }
        if conditions.is_empty() { ("true".into(), values) } else { (conditions.join(" AND "), values) }
    }

    /// The statement with the range in its place; one that does not ask for it stays as it is.
    pub fn statement(
        &self,
        statement: &Statement,
        after: Option<&[Value]>,
        upto: &[Value],
        placeholder: fn(usize) -> String,
    ) -> Statement {
        let mut out = statement.clone();
        if statement.sql.contains(BATCH) {
            let (condition, values) =
                self.range(after, Some(upto), statement.parameters.len() + 1, placeholder);
            out.sql = statement.sql.replace(BATCH, &format!("({condition})"));
            out.parameters.extend(values);
        }
        out
    }
}

/// How far a batched step has come, as adapters keep it beside the step's state. Keys are values that the adapter can
/// bind again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BatchPosition {
    /// Key of the last row that is done; `None` before the first batch.
    pub after: Option<Vec<Value>>,
    /// Key of the last row at all, fixed with the first batch; `None` when the table was empty.
    pub last: Option<Vec<Value>>,
    /// Batches that were committed.
    pub batches: u64,
    /// Rows in the ranges that are done.
    pub rows_seen: u64,
    /// Rows that the statements changed.
    pub rows_affected: u64,
    /// Rows expected in all ranges; 0 where the engine has no estimate.
    pub rows_expected: u64,
    /// Time of the last batch, UTC.
    pub updated_at: String,
}

impl BatchPosition {
    /// What is told of it.
    pub fn progress(&self, plan: String, step: String, started_at: String) -> BatchProgress {
        BatchProgress {
            plan,
            step,
            batches: self.batches,
            rows_seen: self.rows_seen,
            rows_affected: self.rows_affected,
            rows_expected: self.rows_expected,
            started_at,
            updated_at: self.updated_at.clone(),
        }
    }
}

/// What one batch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The step has come to its end.
    pub done: bool,
    /// Rows that the statements changed in this batch.
    pub rows_affected: u64,
    /// Sessions that waited for locks of this batch when it ended.
    pub sessions_waiting: u64,
    /// How far the step has come with it.
    pub progress: BatchProgress,
}

/// How far a batched step has come, as the store records it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct BatchProgress {
    /// Digest of the plan.
    pub plan: String,
    /// The step's id.
    pub step: String,
    /// Batches that were committed.
    pub batches: u64,
    /// Rows in the ranges that are done.
    pub rows_seen: u64,
    /// Rows that the statements changed.
    pub rows_affected: u64,
    /// Rows expected in all ranges, an estimate; 0 where the engine has none.
    pub rows_expected: u64,
    /// Time of the first batch, UTC.
    pub started_at: String,
    /// Time of the last one, UTC.
    pub updated_at: String,
}

impl BatchProgress {
    /// Share of the rows that are done, in per cent, if the engine has an estimate; 99 until the end.
    pub fn percent(&self) -> Option<u64> {
        (self.rows_expected > 0).then(|| (self.rows_seen.saturating_mul(100) / self.rows_expected).min(99))
    }
}

/// How far a replica is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaLag {
    /// What the replica calls itself, or its number.
    pub replica: String,
    /// Bytes of the log that it has not replayed; `None` where our login may not see it.
    pub bytes: Option<u64>,
    /// Age of what it replayed last, in milliseconds; `None` where the server has no recent measurement.
    pub ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranges_are_conditions_with_bound_values() {
        let placeholder = |n: usize| format!("${n}");
        let one = Batches::new("t", vec!["\"id\"".to_owned()]);
        let two = Batches::new("t", vec!["\"a\"".to_owned(), "\"b\"".to_owned()]);
        let (from, to) = ([json!("1")], [json!("9")]);
        let (from_pair, to_pair) = ([json!("1"), json!("x")], [json!("2"), json!("y")]);
        for (batches, after, upto, first, expected, values) in [
            (&one, None, None, 1, "true", 0),
            (&one, None, Some(&to[..]), 1, "\"id\" <= $1", 1),
            (&one, Some(&from[..]), Some(&to), 3, "\"id\" > $3 AND \"id\" <= $4", 2),
            (
                &two,
                Some(&from_pair),
                Some(&to_pair),
                1,
                "(\"a\", \"b\") > ($1, $2) AND (\"a\", \"b\") <= ($3, $4)",
                4,
            ),
        ] {
            let (condition, bound) = batches.range(after, upto, first, placeholder);
            assert_eq!((condition.as_str(), bound.len()), (expected, values));
        }
        let statement = Statement::with_parameters("UPDATE t SET a = $1 WHERE {{batch}}", vec![json!(7)]);
        let statement = one.statement(&statement, Some(&from), &to, placeholder);
        assert_eq!(statement.sql, "UPDATE t SET a = $1 WHERE (\"id\" > $2 AND \"id\" <= $3)");
        assert_eq!(statement.parameters, [json!(7), json!("1"), json!("9")]);
        let setting = Statement::new("SET LOCAL lock_timeout = 5");
        assert_eq!(one.statement(&setting, None, &to, placeholder), setting);
    }

    #[test]
    fn share_is_known_only_with_an_estimate_and_never_whole_before_the_end() {
        let progress = |seen, expected| BatchProgress {
            rows_seen: seen,
            rows_expected: expected,
            ..BatchProgress::default()
        };
        assert_eq!(progress(10, 0).percent(), None);
        assert_eq!(progress(10, 40).percent(), Some(25));
        assert_eq!(progress(90, 40).percent(), Some(99));
    }
}
