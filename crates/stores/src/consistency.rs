//! Whether the data keeps what the schema promises, and what it plainly means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::{
    Context, Effect, Error, ErrorKind, Finding, KeysCompared, Limits, Outcome, Query, Request, Severity,
    StoreDirectory, Trigger,
};
use schema::{Dialect, ForeignKey, Index, Schema, Table, TableName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::{Inquiry, millis_since};
use crate::inspect::find_table;
use crate::text;

/// Orphan keys that are shown as a sample.
const SAMPLE_KEYS: usize = 5;

/// Arguments of `store.consistency`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckConsistency {
    /// The store's name in the project file.
    pub store: String,
    /// Tables to check; all without it.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Longest time one statement may take, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_timeout_ms() -> u64 {
    120_000
}

impl Request for CheckConsistency {
    const NAME: &'static str = "store.consistency";
    const SUMMARY: &'static str = "Find orphan rows, duplicates, unchecked constraints and corruption";
    const EXAMPLE: &'static str = "steward store consistency orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "consistency.check";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Rows that refer to nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Orphans {
    /// The referring table.
    pub table: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The table referred to.
    pub parent: String,
    /// Columns referred to.
    pub parent_columns: Vec<String>,
    /// Whether a foreign key declares the reference; otherwise names and types say it.
    pub declared: bool,
    /// Rows whose reference leads nowhere.
    pub rows: u64,
    /// Some of the keys that lead nowhere, each with a value per column.
    pub sample_keys: Vec<Vec<Value>>,
    /// Ids of the evidence: the count, and the sample if there is one.
    pub evidence: Vec<String>,
}

/// A reference from columns of one table to a key of another.
struct Reference<'a> {
    table: &'a Table,
    columns: Vec<String>,
    parent: TableName,
    parent_columns: Vec<String>,
    declared: Option<&'a ForeignKey>,
}

/// Checks references, keys and constraints by query, and asks the engine for its own check.
///
/// Value: `store`, `consistent`, `orphans[]` ([`Orphans`], only those with rows), `references[] {table, columns,
/// parent, declared, rows_orphaned}`, `duplicates[] {table, columns, keys}`, `null_keys[] {table, columns, rows}`,
/// `broken[] {table, promise, name, rows}`, `not_validated[]`, `not_checked[]` (tables), `integrity {checked, problems[],
/// unchecked[], checksum_failures}`, `unique_by_rows[]` (unique indexes whose keys were counted in the table, since the
/// engine's own check did not compare them), `checks_across_stores[]`. Findings: `orphan_rows`, `undeclared_reference`,
/// `duplicate_rows`, `null_in_key`, `check_violated`, `null_violated`, `type_mismatch`, `promise_not_checked`, `not_validated`,
/// `foreign_keys_unenforced`, `exclusion_not_checked`, `table_not_checked`, `integrity_not_checked`, `corruption`, `page_checksum_failures`; broken
/// promises escalate as data corruption.
///
/// # Errors
///
/// `NotFound`: no such table. `TimedOut`: a statement took longer than `timeout_ms`.
pub async fn consistency(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &CheckConsistency,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let timeout = Duration::from_millis(request.timeout_ms);
    let (schema, inspected) = inquiry.schema().await?;
    let mut chosen = BTreeSet::new();
    for name in &request.tables {
        chosen.insert(find_table(&schema, name)?.name.clone());
    }
    let tables: Vec<&Table> =
        schema.tables.iter().filter(|table| chosen.is_empty() || chosen.contains(&table.name)).collect();
    let mut report = Report::default();
    for table in &tables {
        for reference in references(&schema, table) {
            let answer = inquiry.check_reference(&reference, timeout, &inspected, &mut report).await;
            report.or_left_out(table, answer)?;
        }
        let answer = inquiry.check_keys(table, timeout, &mut report).await;
        report.or_left_out(table, answer)?;
        let answer = inquiry.check_rows(table, timeout, &mut report).await;
        report.or_left_out(table, answer)?;
        if schema.dialect == Dialect::Postgres {
            report.note_unvalidated(table, &inspected);
            report.note_exclusions(table, &inspected);
        }
    }
    if schema.dialect == Dialect::Sqlite && tables.iter().any(|table| !table.foreign_keys.is_empty()) {
        report.findings.push(Finding {
            code: "foreign_keys_unenforced".into(),
            severity: Severity::Info,
            title: "SQLite enforces foreign keys only in connections that ask for it".into(),
            object: String::new(),
            recommendation: Some(
                "let the application run `PRAGMA foreign_keys = ON` on every connection".into(),
            ),
            evidence: vec![inspected.clone()],
            escalate: None,
        });
    }
    let compared = inquiry.check_engine(timeout, &mut report).await?;
    let mut asked_of_rows = Vec::new();
    for table in &tables {
        // Where nobody has looked into an index for duplicates, its promise is asked of the rows themselves.
        for index in table.indexes.iter().filter(|index| index.unique && index.valid) {
            if !is_compared(&compared, &schema, table, index) {
                let answer = inquiry.check_unique(table, index, timeout, &mut report).await;
                if answer.is_ok() {
                    asked_of_rows.push(format!("{}.{}", table.name, index.name));
                }
                report.or_left_out(table, answer)?;
            }
        }
    }
    report.note_left_out();
    let consistent = report.findings.iter().all(|finding| finding.severity == Severity::Info);
    let value = json!({
        "store": request.store,
        "consistent": consistent,
        "orphans": report.orphans,
        "references": report.references,
        "duplicates": report.duplicates,
        "null_keys": report.null_keys,
        "broken": report.broken,
        "not_validated": report.not_validated,
        "not_checked": report.left_out.keys().collect::<Vec<_>>(),
        "integrity": report.integrity,
        "unique_by_rows": asked_of_rows,
    });
    let mut outcome = Outcome::new(value, report.text(&request.store, tables.len() as u64));
    outcome.findings = report.findings;
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

#[derive(Default)]
pub(crate) struct Report {
    orphans: Vec<Orphans>,
    references: Vec<Value>,
    pub(crate) duplicates: Vec<Value>,
    null_keys: Vec<Value>,
    pub(crate) broken: Vec<Value>,
    not_validated: Vec<String>,
    integrity: Value,
    /// Tables that this server cannot answer for, with its reason.
    left_out: BTreeMap<String, String>,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// A table that the server does not serve keeps nobody from checking the others, such as an unlogged one on a standby.
    fn or_left_out(&mut self, table: &Table, answer: Result<(), Error>) -> Result<(), Error> {
        match answer {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.left_out.insert(table.name.to_string(), error.message().to_owned());
                Ok(())
            }
            answer => answer,
        }
    }

    fn note_left_out(&mut self) {
        for (table, reason) in &self.left_out {
            self.findings.push(Finding {
                code: "table_not_checked".into(),
                severity: Severity::Info,
                title: format!("`{table}` was not checked, or not all of it: {reason}"),
                object: table.clone(),
                recommendation: Some(
                    "ask a server that has its rows: those of an unlogged table are not on a standby".into(),
                ),
                evidence: Vec::new(),
                escalate: None,
            });
        }
    }

    /// To hold every pair of rows against an exclusion constraint takes time that grows with the square of the rows.
    fn note_exclusions(&mut self, table: &Table, inspected: &str) {
        // From PostgreSQL 18 on also keys WITHOUT OVERLAPS, whose index is both.
        let excludes = |index: &&Index| index.backs_constraint && (!index.unique || index.method == "gist");
        for index in table.indexes.iter().filter(excludes) {
            self.findings.push(Finding {
                code: "exclusion_not_checked".into(),
                severity: Severity::Info,
                title: format!(
                    "exclusion constraint `{}` of `{}` was not asked of the rows",
                    index.name, table.name
                ),
                object: format!("{}.{}", table.name, index.name),
                recommendation: Some(
                    "to be sure of it, drop the constraint and add it again in a quiet hour: that looks at every row"
                        .into(),
                ),
                evidence: vec![inspected.to_owned()],
                escalate: None,
            });
        }
    }

    /// Only PostgreSQL remembers whether a constraint was checked; in SQLite each is counted by query instead.
    fn note_unvalidated(&mut self, table: &Table, inspected: &str) {
        let keys = table.foreign_keys.iter().filter(|key| !key.validated).map(|key| &key.name);
        let checks = table.checks.iter().filter(|check| !check.validated).map(|check| &check.name);
        for name in keys.chain(checks) {
            let object = format!("{}.{name}", table.name);
            self.findings.push(Finding {
                code: "not_validated".into(),
                severity: Severity::Warning,
                title: format!(
                    "constraint `{name}` of `{}` was never checked on the rows that were there",
                    table.name
                ),
                object: object.clone(),
                recommendation: Some(
                    "repair what it finds, then `ALTER TABLE … VALIDATE CONSTRAINT …`".into(),
                ),
                evidence: vec![inspected.to_owned()],
                escalate: None,
            });
            self.not_validated.push(object);
        }
    }

    fn text(&self, store: &str, tables: u64) -> String {
        let mut lines = vec![format!(
            "{store}: {} and {} checked",
            text::count(tables, "table"),
            text::count(self.references.len() as u64, "reference")
        )];
        if self.findings.is_empty() {
            lines.push("  nothing wrong was found".into());
        }
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Info => "info",
                Severity::Warning => "warning",
                Severity::Critical => "critical",
            };
            lines.push(format!("  {severity:<8}  {}", finding.title));
        }
        lines.join("\n")
    }
}

impl Inquiry<'_> {
    /// Counts rows whose reference leads nowhere, and samples their keys.
    async fn check_reference(
        &mut self,
        reference: &Reference<'_>,
        timeout: Duration,
        inspected: &str,
        report: &mut Report,
    ) -> Result<(), Error> {
        let (child, parent) =
            (self.quoted_table(&reference.table.name)?, self.quoted_table(&reference.parent)?);
        // A damaged index of either side would hide what is asked for. SQLite reads each row of the parent by its key, and
        // its own check looks into every index.
        let dialect = self.dialect()?;
        let past_indexes = |table: &str| match (dialect, self.store.integrity()) {
            (Dialect::Postgres, Some(integrity)) => integrity.unindexed(table),
            _ => table.to_owned(),
        };
        let mut present = Vec::new();
        let mut equal = Vec::new();
        let mut keys = Vec::new();
        for (column, parent_column) in reference.columns.iter().zip(&reference.parent_columns) {
            let (column, parent_column) = (self.quoted(column)?, self.quoted(parent_column)?);
            present.push(format!("child.{column} IS NOT NULL"));
            equal.push(format!("parent.{parent_column} = child.{column}"));
            keys.push(format!("child.{column}"));
        }
        let from = format!(
            "FROM {} AS child WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS parent WHERE {})",
            past_indexes(&child),
            present.join(" AND "),
            past_indexes(&parent),
            equal.join(" AND ")
        );
        let (rows, counted) = self.number(format!("SELECT count(*) {from}"), timeout).await?;
        let (table, columns) = (reference.table.name.to_string(), reference.columns.clone());
        let parent_name = reference.parent.to_string();
        report.references.push(json!({"table": table, "columns": columns, "parent": parent_name,
                                      "declared": reference.declared.is_some(), "rows_orphaned": rows}));
        let object = format!("{table}.{}", columns.join(","));
        if rows == 0 {
            if reference.declared.is_none() {
                report.findings.push(Finding {
                    code: "undeclared_reference".into(),
                    severity: Severity::Info,
                    title: format!(
                        "`{object}` is a likely reference to `{parent_name}`, and no foreign key declares it"
                    ),
                    object,
                    recommendation: Some(format!(
                        "declare it: FOREIGN KEY ({}) REFERENCES {parent} ({})",
                        self.quoted_list(&columns)?,
                        self.quoted_list(&reference.parent_columns)?
                    )),
                    evidence: vec![inspected.to_owned(), counted],
                    escalate: None,
                });
            }
            return Ok(());
        }
        let keys = keys.join(", ");
        let mut sample =
            Query::new(format!("SELECT DISTINCT {keys} {from} ORDER BY {keys} LIMIT {SAMPLE_KEYS}"));
        sample.limits = Limits { statement_timeout: timeout, ..Limits::default() };
        let (sample, sampled) = self.rows(&sample).await?;
        let evidence = vec![counted, sampled];
        let declared = reference.declared.is_some();
        let shown: Vec<String> =
            sample.rows.iter().map(|key| key.iter().map(text::cell).collect::<Vec<_>>().join("/")).collect();
        report.findings.push(Finding {
            code: "orphan_rows".into(),
            severity: if declared { Severity::Critical } else { Severity::Warning },
            title: format!(
                "{} of `{table}` refer{} by `{}` to {} that `{parent_name}` does not have{}, such as {}",
                text::count(rows, "row"),
                if rows == 1 { "s" } else { "" },
                columns.join(", "),
                if rows == 1 { "a row" } else { "rows" },
                if declared { "" } else { " (a likely reference: no foreign key declares it)" },
                shown.join(", ")
            ),
            object,
            recommendation: Some(
                "find out where the rows of the parent went before anything is deleted; then repair and enforce".into(),
            ),
            evidence: evidence.clone(),
            escalate: declared.then_some(Trigger::DataCorruption),
        });
        report.orphans.push(Orphans {
            table,
            columns,
            parent: parent_name,
            parent_columns: reference.parent_columns.clone(),
            declared,
            rows,
            sample_keys: sample.rows,
            evidence,
        });
        Ok(())
    }

    /// Looks for NULL and duplicates where a key forbids them.
    async fn check_keys(
        &mut self,
        table: &Table,
        timeout: Duration,
        report: &mut Report,
    ) -> Result<(), Error> {
        let quoted_table = self.quoted_table(&table.name)?;
        let nullable =
            |name: &String| table.columns.iter().any(|column| column.name == *name && column.nullable);
        // An engine trusts its own index when it plans; only a key whose index it declares unusable, or that allows
        // NULL (SQLite's primary keys do), can be broken unseen.
        if let Some(key) = &table.primary_key {
            let columns: Vec<String> = key.columns.iter().filter(|name| nullable(name)).cloned().collect();
            if !columns.is_empty() {
                let tests: Vec<String> = columns
                    .iter()
                    .map(|name| Ok(format!("{} IS NULL", self.quoted(name)?)))
                    .collect::<Result<_, Error>>()?;
                let sql = format!("SELECT count(*) FROM {quoted_table} WHERE {}", tests.join(" OR "));
                let (rows, evidence) = self.number(sql, timeout).await?;
                if rows > 0 {
                    report
                        .null_keys
                        .push(json!({"table": table.name.to_string(), "columns": columns, "rows": rows}));
                    report.findings.push(Finding {
                        code: "null_in_key".into(),
                        severity: Severity::Critical,
                        title: format!(
                            "{} of `{}` have NULL in the primary key",
                            text::count(rows, "row"),
                            table.name
                        ),
                        object: format!("{}.{}", table.name, columns.join(",")),
                        recommendation: Some("give the rows a key, then declare the columns NOT NULL".into()),
                        evidence: vec![evidence],
                        escalate: Some(Trigger::DataCorruption),
                    });
                }
            }
        }
        for index in table.indexes.iter().filter(|index| index.unique && !index.valid) {
            self.check_unique(table, index, timeout, report).await?;
        }
        Ok(())
    }

    /// Asks the engine for its own check, where it has one; says which unique indexes that compared.
    async fn check_engine(&mut self, timeout: Duration, report: &mut Report) -> Result<KeysCompared, Error> {
        let started = std::time::Instant::now();
        let Some(integrity) = self.store.integrity() else {
            report.integrity = json!({"checked": false, "problems": []});
            return Ok(KeysCompared::default());
        };
        let checked = match integrity.check_integrity(self.ctx, timeout).await {
            Ok(checked) => checked,
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Denied) => {
                let reason = error.context().iter().find(|(name, _)| *name == "reason");
                let reason = reason.map_or(error.message(), |(_, reason)| reason);
                let evidence =
                    self.note("check_integrity", json!({"error": error.to_string()}), millis_since(started));
                report.findings.push(Finding {
                    code: "integrity_not_checked".into(),
                    severity: Severity::Info,
                    title: format!("the engine's own check did not run: {reason}"),
                    object: String::new(),
                    recommendation: error.hint_text().map(ToOwned::to_owned),
                    evidence: vec![evidence],
                    escalate: None,
                });
                report.integrity = json!({"checked": false, "reason": reason, "problems": []});
                return Ok(KeysCompared::default());
            }
            Err(error) => return Err(error),
        };
        let evidence = self.note(&checked.statement, json!(checked), millis_since(started));
        for problem in &checked.problems {
            report.findings.push(Finding {
                code: "corruption".into(),
                severity: Severity::Critical,
                title: format!(
                    "the engine found corruption in {}: {}",
                    problem.object,
                    text::plain(&problem.problem, 200)
                ),
                object: problem.object.clone(),
                recommendation: Some(
                    "stop writing, keep a copy of the files, and restore a verified backup; a broken index alone is built \
                     again with REINDEX"
                        .into(),
                ),
                evidence: vec![evidence.clone()],
                escalate: Some(Trigger::DataCorruption),
            });
        }
        if let Some(failures) = checked.checksum_failures.filter(|failures| *failures > 0) {
            report.findings.push(Finding {
                code: "page_checksum_failures".into(),
                severity: Severity::Critical,
                title: format!("the server has read {} whose checksum does not fit", text::count(failures, "page")),
                object: String::new(),
                recommendation: Some(
                    "the disk or the memory damages data: keep a copy, look into the server's log for the blocks, and \
                     restore a verified backup on other hardware"
                        .into(),
                ),
                evidence: vec![evidence.clone()],
                escalate: Some(Trigger::DataCorruption),
            });
        }
        if !checked.unchecked.is_empty() {
            let named: Vec<String> = checked
                .unchecked
                .iter()
                .take(SAMPLE_KEYS)
                .map(|one| format!("{} ({})", one.object, text::plain(&one.problem, 80)))
                .collect();
            report.findings.push(Finding {
                code: "integrity_not_checked".into(),
                severity: Severity::Info,
                title: format!(
                    "the engine's own check left out {}, such as {}",
                    text::count(checked.unchecked.len() as u64, "relation"),
                    named.join(", ")
                ),
                object: String::new(),
                recommendation: Some("check again at a quiet time with a larger `--timeout-ms`".into()),
                evidence: vec![evidence.clone()],
                escalate: None,
            });
        }
        report.integrity = json!({
            "checked": true,
            "statement": checked.statement,
            "relations": checked.checked,
            "problems": checked.problems,
            "unchecked": checked.unchecked,
            "checksum_failures": checked.checksum_failures,
        });
        Ok(checked.keys_compared)
    }
}

/// Whether the engine's own check has looked for duplicates in an index. One of a partitioned table holds no key: its
/// partitions' indexes do, and the partition key, which is part of it, keeps equal keys in one partition.
fn is_compared(compared: &KeysCompared, schema: &Schema, table: &Table, index: &Index) -> bool {
    let KeysCompared::Of(names) = compared else { return true };
    if table.partition.as_ref().is_none_or(|partition| partition.key.is_none()) {
        return names.iter().any(|name| name.namespace == table.name.namespace && name.name == index.name);
    }
    let of_this = |part: &&Table| {
        part.partition.as_ref().is_some_and(|partition| partition.parent.as_ref() == Some(&table.name))
    };
    let mut parts = schema.tables.iter().filter(of_this).peekable();
    parts.peek().is_some()
        && parts.all(|part| {
            let mut unique = part.indexes.iter().filter(|index| index.unique && index.valid);
            unique.all(|index| is_compared(compared, schema, part, index))
        })
}

/// The references of a table: declared by foreign keys, or evident from names and types.
fn references<'a>(schema: &'a Schema, table: &'a Table) -> Vec<Reference<'a>> {
    let mut references: Vec<Reference<'a>> = table
        .foreign_keys
        .iter()
        .filter(|key| key.columns.len() == key.parent_columns.len() && parent(schema, &key.parent).is_some())
        .map(|key| Reference {
            table,
            columns: key.columns.clone(),
            // SQLite compares table names without case; the catalog's own spelling is the one to quote.
            parent: parent(schema, &key.parent)
                .map_or_else(|| key.parent.clone(), |table| table.name.clone()),
            parent_columns: key.parent_columns.clone(),
            declared: Some(key),
        })
        .collect();
    for column in &table.columns {
        let declared = table.foreign_keys.iter().any(|key| key.columns.contains(&column.name));
        let own_key = table.primary_key.as_ref().is_some_and(|key| key.columns == [column.name.clone()]);
        if declared || own_key {
            continue;
        }
        if let Some((parent, parent_column)) = likely_parent(schema, table, &column.name, &column.native_type)
        {
            references.push(Reference {
                table,
                columns: vec![column.name.clone()],
                parent: parent.name.clone(),
                parent_columns: vec![parent_column],
                declared: None,
            });
        }
    }
    references
}

fn parent<'a>(schema: &'a Schema, name: &TableName) -> Option<&'a Table> {
    let same = |table: &&Table| table.name == *name;
    schema.tables.iter().find(same).or_else(|| {
        schema.tables.iter().find(|table| {
            schema.dialect == Dialect::Sqlite && table.name.name.eq_ignore_ascii_case(&name.name)
        })
    })
}

/// The one table that `customer_id` (or `CustomerId`) plainly means: called `customer`, `customers`, or, as with
/// `tailnum`, the only one with that very key column; with a key of one column of the same type. `None` when there is
/// none or more than one.
fn likely_parent<'a>(
    schema: &'a Schema,
    table: &Table,
    column: &str,
    native_type: &str,
) -> Option<(&'a Table, String)> {
    let word = bare(column);
    let base = word.strip_suffix("id").filter(|base| base.len() >= 2);
    let keys = |candidate: &'a Table| {
        candidate
            .primary_key
            .iter()
            .chain(&candidate.unique_keys)
            .filter(|key| key.columns.len() == 1)
            .map(|key| key.columns[0].clone())
            .filter(|key| {
                let key_type =
                    candidate.columns.iter().find(|column| column.name == *key).map(|c| &c.native_type);
                key_type.is_some_and(|key_type| type_family(key_type) == type_family(native_type))
                    && (bare(key) == word || bare(key) == "id")
            })
            .collect::<Vec<_>>()
    };
    let others = || schema.tables.iter().filter(|candidate| candidate.name != table.name);
    let mut named: Vec<(&Table, String)> = others()
        .filter(|candidate| base.is_some_and(|base| is_plural_of(&bare(&candidate.name.name), base)))
        .filter_map(|candidate| Some((candidate, keys(candidate).into_iter().next()?)))
        .collect();
    // In the same namespace first: `sales.orders.customer_id` means `sales.customers`.
    if named.len() > 1 {
        named.retain(|(candidate, _)| candidate.name.namespace == table.name.namespace);
    }
    if let [one] = named.as_slice() {
        return Some(one.clone());
    }
    // Words that name a key in every other table say nothing about which table is meant.
    if word.len() < 3
        || ["code", "name", "key", "type", "status", "date", "uuid", "slug", "kind"].contains(&&*word)
    {
        return None;
    }
    let mut keyed = others().filter_map(|candidate| {
        keys(candidate).into_iter().find(|key| bare(key) == word).map(|key| (candidate, key))
    });
    match (keyed.next(), keyed.next()) {
        (Some(one), None) if named.is_empty() => Some(one),
        _ => None,
    }
}

fn bare(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn is_plural_of(table: &str, base: &str) -> bool {
    table == base
        || table.strip_suffix('s') == Some(base)
        || table.strip_suffix("es") == Some(base)
        || (base.ends_with('y') && table.strip_suffix("ies") == Some(&base[..base.len() - 1]))
}

/// Types whose values can be equal: all integers are one family.
fn type_family(native_type: &str) -> String {
    let word = native_type.to_ascii_lowercase();
    let word = word.split('(').next().unwrap_or_default().trim();
    match word {
        "int" | "integer" | "bigint" | "smallint" | "int2" | "int4" | "int8" | "mediumint" | "tinyint" => {
            "integer".into()
        }
        "text" | "varchar" | "character varying" | "char" | "character" | "nvarchar" | "bpchar" => {
            "text".into()
        }
        other => other.into(),
    }
}
