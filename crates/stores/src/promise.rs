//! Promises of the schema that are asked of the rows themselves: checks, NOT NULL, uniqueness, declared types.

use std::time::Duration;

use contract::{Error, ErrorKind, Finding, Limits, Query, RowPromise, RowTest, Severity, Trigger};
use schema::{Index, Table};
use serde_json::json;

use crate::consistency::Report;
use crate::inquiry::{Inquiry, as_u64};
use crate::text;

/// Tests of one statement; an engine bounds the columns of an answer.
const TESTS_MAX: usize = 200;

impl Inquiry<'_> {
    /// Counts the rows that break checks, NOT NULL or declared types, in one pass over the table.
    pub(crate) async fn check_rows(
        &mut self,
        table: &Table,
        timeout: Duration,
        report: &mut Report,
    ) -> Result<(), Error> {
        // The rows of partitions are those of their parent, and are asked there.
        if table.partition.as_ref().is_some_and(|partition| partition.parent.is_some()) {
            return Ok(());
        }
        let Some(integrity) = self.store.integrity() else { return Ok(()) };
        let tests = integrity.row_tests(table);
        for tests in tests.chunks(TESTS_MAX) {
            let counted = self.count_broken(table, tests, timeout).await;
            match counted {
                Ok((rows, evidence)) => {
                    for (test, rows) in tests.iter().zip(rows) {
                        note(table, test, rows, &evidence, report);
                    }
                }
                // One of them cannot be evaluated, such as a check by a function that the login may not call.
                Err(error) if refused(&error) && tests.len() > 1 => {
                    for test in tests {
                        match self.count_broken(table, std::slice::from_ref(test), timeout).await {
                            Ok((rows, evidence)) => {
                                note(table, test, rows.first().copied().unwrap_or(0), &evidence, report);
                            }
                            Err(error) if refused(&error) => {
                                self.note_unevaluated(table, test, &error, report);
                            }
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) if refused(&error) => {
                    for test in tests {
                        self.note_unevaluated(table, test, &error, report);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn count_broken(
        &mut self,
        table: &Table,
        tests: &[RowTest],
        timeout: Duration,
    ) -> Result<(Vec<u64>, String), Error> {
        let sums: Vec<String> =
            tests.iter().map(|test| format!("sum(CASE WHEN {} THEN 1 ELSE 0 END)", test.broken)).collect();
        let mut query = Query::new(format!("SELECT {} FROM {}", sums.join(", "), self.unindexed(table)?));
        query.limits = Limits { statement_timeout: timeout, ..Limits::default() };
        let (rows, evidence) = self.rows(&query).await?;
        let row = rows.rows.first().cloned().unwrap_or_default();
        // A sum over no rows is NULL.
        Ok((row.iter().map(|value| as_u64(value).unwrap_or(0)).collect(), evidence))
    }

    /// The table as it stands in FROM when no index may answer for it.
    fn unindexed(&self, table: &Table) -> Result<String, Error> {
        let quoted = self.quoted_table(&table.name)?;
        let from =
            self.store.integrity().map_or_else(|| quoted.clone(), |integrity| integrity.unindexed(&quoted));
        // A subquery needs a name; the table's own keeps expressions that use it working.
        Ok(if from.starts_with('(') { format!("{from} AS {}", self.quoted(&table.name.name)?) } else { from })
    }

    fn note_unevaluated(&mut self, table: &Table, test: &RowTest, error: &Error, report: &mut Report) {
        let answer = json!({"error": error.to_string()});
        let evidence = self.note(&test.broken, answer, 0.0);
        report.findings.push(Finding {
            code: "promise_not_checked".into(),
            severity: Severity::Info,
            title: format!("`{}` of `{}` could not be evaluated: {}", test.name, table.name, error.message()),
            object: format!("{}.{}", table.name, test.name),
            recommendation: None,
            evidence: vec![evidence],
            escalate: None,
        });
    }

    /// Counts keys that a unique index should hold once, without asking that index.
    pub(crate) async fn check_unique(
        &mut self,
        table: &Table,
        index: &Index,
        timeout: Duration,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut columns = Vec::new();
        for name in &index.columns {
            // A column by its name, an expression by its text.
            if table.columns.iter().any(|column| column.name == *name) {
                columns.push(self.quoted(name)?);
            } else if name.starts_with('<') {
                return Ok(());
            } else {
                columns.push(format!("({name})"));
            }
        }
        let present: Vec<String> = if index.definition.contains("NULLS NOT DISTINCT") {
            vec!["true".into()]
        } else {
            columns.iter().map(|column| format!("{column} IS NOT NULL")).collect()
        };
        let predicate = index.predicate.as_ref().map_or_else(String::new, |only| format!(" AND ({only})"));
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM {} WHERE {}{predicate} GROUP BY {} HAVING count(*) > 1) AS twice",
            self.unindexed(table)?,
            present.join(" AND "),
            columns.join(", ")
        );
        let (keys, evidence) = match self.number(sql, timeout).await {
            Ok(counted) => counted,
            Err(error) if refused(&error) || error.kind() == ErrorKind::TimedOut => {
                let test = RowTest {
                    promise: RowPromise::Check,
                    name: index.name.clone(),
                    text: index.definition.clone(),
                    broken: index.definition.clone(),
                };
                self.note_unevaluated(table, &test, &error, report);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if keys > 0 {
            report
                .duplicates
                .push(json!({"table": table.name.to_string(), "columns": index.columns, "keys": keys}));
            report.findings.push(Finding {
                code: "duplicate_rows".into(),
                severity: Severity::Critical,
                title: format!(
                    "{} of `{}` occur{} more than once in ({}), which `{}` says are unique",
                    text::count(keys, "key"),
                    table.name,
                    if keys == 1 { "s" } else { "" },
                    index.columns.join(", "),
                    index.name
                ),
                object: format!("{}.{}", table.name, index.columns.join(",")),
                recommendation: Some("merge the rows, then build the unique index again".into()),
                evidence: vec![evidence],
                escalate: Some(Trigger::DataCorruption),
            });
        }
        Ok(())
    }
}

/// The engine would not run the statement, and another one may still run.
fn refused(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Denied
            | ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::Unsupported
            | ErrorKind::Other
    )
}

fn note(table: &Table, test: &RowTest, rows: u64, evidence: &str, report: &mut Report) {
    if rows == 0 {
        return;
    }
    let counted = text::count(rows, "row");
    // What was never checked may be broken by rows that were there before it.
    let validated = table.checks.iter().all(|check| check.name != test.name || check.validated);
    let (code, severity, title, recommendation) = match test.promise {
        RowPromise::Check => (
            "check_violated",
            if validated { Severity::Critical } else { Severity::Warning },
            format!(
                "{counted} of `{}` break the check `{}`: {}",
                table.name,
                test.name,
                text::plain(&test.text, 120)
            ),
            "repair the rows or correct the check; then let the engine check it again",
        ),
        RowPromise::NotNull => (
            "null_violated",
            Severity::Critical,
            format!("{counted} of `{}` have NULL in `{}`, which is declared NOT NULL", table.name, test.name),
            "give the rows a value; find out what wrote past the constraint",
        ),
        RowPromise::Type => (
            "type_mismatch",
            Severity::Warning,
            format!(
                "{counted} of `{}` hold in `{}` what is not of its declared type {}",
                table.name, test.name, test.text
            ),
            "convert the values; a STRICT table refuses them from then on",
        ),
    };
    let promise = serde_json::to_value(test.promise).expect("a promise is JSON");
    report
        .broken
        .push(json!({"table": table.name.to_string(), "promise": promise, "name": test.name, "rows": rows}));
    report.findings.push(Finding {
        code: code.into(),
        severity,
        title,
        object: format!("{}.{}", table.name, test.name),
        recommendation: Some(recommendation.into()),
        evidence: vec![evidence.to_owned()],
        escalate: (severity == Severity::Critical).then_some(Trigger::DataCorruption),
    });
}
