//! Whether two tables, in the same or in different stores, hold the same rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{
    Context, Effect, Error, ErrorKind, Finding, Outcome, Request, RowHash, RowKey, RowSet, RowSetField,
    RowSetSpec, RowSetTable, RowTraffic, Severity, Store, StoreDirectory, Trigger, form, key_form,
};
use futures::future::try_join;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::bisect::{self, Found};
use crate::inquiry::millis_since;
use crate::text;

/// Changed rows that are read to say which columns differ.
const CHANGED_READ_MAX: usize = 10_000;

/// Arguments of `store.compare`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareStores {
    /// The table that is right, as `store.table` or `store.schema.table`. Without it, the checks of the project file
    /// run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// The table to compare it with, in the same or another store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
    /// Checks of the project file to run; all without it.
    #[serde(default)]
    pub checks: Vec<String>,
    /// Columns that tell rows apart; the left table's primary key without them.
    #[serde(default)]
    pub key: Vec<String>,
    /// Columns to compare besides the key; all that both tables have without them.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Columns not to compare.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Columns with another name on the right, each as `left=right`.
    #[serde(default)]
    pub rename: Vec<String>,
    /// Only rows of which this holds, in SQL that both stores understand.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The same for the left table alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub where_left: Option<String>,
    /// The same for the right table alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub where_right: Option<String>,
    /// How rows are hashed: `fast` against chance, `md5` with 128 bits at about half the speed.
    #[serde(default)]
    pub hash: RowHash,
    /// Most differences that are listed; all are counted.
    #[serde(default = "default_list_max")]
    pub list_max: usize,
    /// Longest time one statement may take, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_list_max() -> usize {
    20
}

fn default_timeout_ms() -> u64 {
    1_800_000
}

impl Request for CompareStores {
    const NAME: &'static str = "store.compare";
    const SUMMARY: &'static str = "Compare the rows of two tables, also across stores, without moving them";
    const EXAMPLE: &'static str = "steward store compare orders.customers warehouse.customers";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "consistency.check";
    const POSITIONAL: &'static [&'static str] = &["left", "right"];
}

/// Two tables that shall hold the same rows, as the project file declares it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowCheck {
    /// The table that is right: `store.table` or `store.schema.table`.
    pub left: String,
    /// The table that shall hold the same rows.
    pub right: String,
    /// Columns that tell rows apart. Default: the left table's primary key.
    #[serde(default)]
    pub key: Vec<String>,
    /// Columns to compare besides the key. Default: all that both tables have.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Columns not to compare.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Columns with another name on the right.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// Only rows of which this holds, in SQL that both stores understand.
    #[serde(default, rename = "where")]
    pub condition: Option<String>,
    /// The same for the left table alone.
    #[serde(default)]
    pub where_left: Option<String>,
    /// The same for the right table alone.
    #[serde(default)]
    pub where_right: Option<String>,
    /// How rows are hashed. Default: `fast`.
    #[serde(default)]
    pub hash: RowHash,
}

/// One column of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedColumn {
    /// Its name on the left.
    pub left: String,
    /// Its name on the right.
    pub right: String,
    /// The form in which the values were compared.
    pub form: contract::Form,
}

/// A column in which a row differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DifferentValue {
    /// The column's name on the left.
    pub column: String,
    /// The left value in canonical form; absent for NULL.
    pub left: Option<String>,
    /// The right value in canonical form; absent for NULL.
    pub right: Option<String>,
}

/// A row that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// The key, a value per column.
    pub key: Vec<String>,
    /// `only_left`, `only_right` or `changed`.
    pub kind: String,
    /// For `changed`: where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<DifferentValue>,
}

/// What comparing two tables found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The declared check, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// `store.table`, as the store resolved it.
    pub left: String,
    /// `store.table`, as the store resolved it.
    pub right: String,
    /// The key.
    pub key: Vec<ComparedColumn>,
    /// The other columns.
    pub columns: Vec<ComparedColumn>,
    /// Columns that only one side has.
    pub columns_not_compared: Vec<String>,
    /// No difference was found.
    pub equal: bool,
    /// All differences were counted; otherwise there are at least so many.
    pub exact: bool,
    /// Rows on the left, with a whole key.
    pub rows_left: u64,
    /// Rows on the right, with a whole key.
    pub rows_right: u64,
    /// Rows on the left with NULL in the key, which were not compared.
    pub keyless_left: u64,
    /// Rows on the right with NULL in the key, which were not compared.
    pub keyless_right: u64,
    /// Keys that only the left has.
    pub only_left: u64,
    /// Keys that only the right has.
    pub only_right: u64,
    /// Keys whose rows differ.
    pub changed: u64,
    /// Changed rows by column, of the first 10,000 changed ones.
    pub changed_by_column: BTreeMap<String, u64>,
    /// Keys that differed at first and did not when they were looked at again.
    pub settled: u64,
    /// Some of the differences.
    pub differences: Vec<Difference>,
    /// What left the left store.
    pub moved_left: RowTraffic,
    /// What left the right store.
    pub moved_right: RowTraffic,
    /// Ranges of keys whose digests were compared.
    pub ranges: u64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: f64,
    /// Ids of the evidence: left, right.
    pub evidence: Vec<String>,
}

/// One comparison to make.
struct Job {
    check: Option<String>,
    left: (String, String),
    right: (String, String),
    key: Vec<String>,
    columns: Vec<String>,
    ignore: Vec<String>,
    rename: BTreeMap<String, String>,
    where_left: Option<String>,
    where_right: Option<String>,
    hash: RowHash,
    list_max: usize,
    timeout: Duration,
}

/// Splits `store.table`; the table may have a namespace.
fn address(text: &str, argument: &'static str) -> Result<(String, String), Error> {
    match text.split_once('.') {
        Some((store, table)) if !store.is_empty() && !table.is_empty() => {
            Ok((store.to_owned(), table.to_owned()))
        }
        _ => Err(Error::new(ErrorKind::Invalid, format!("`{text}` names no table of a store"))
            .with("argument", argument)
            .hint("write `store.table` or `store.schema.table`")),
    }
}

fn both(common: Option<&String>, own: Option<&String>) -> Option<String> {
    match (common, own) {
        (Some(common), Some(own)) => Some(format!("({common}\n) AND ({own}\n)")),
        (one, other) => one.or(other).cloned(),
    }
}

fn jobs(request: &CompareStores, declared: &BTreeMap<String, RowCheck>) -> Result<Vec<Job>, Error> {
    let timeout = Duration::from_millis(request.timeout_ms);
    match (&request.left, &request.right) {
        (Some(left), Some(right)) if request.checks.is_empty() => {
            let mut rename = BTreeMap::new();
            for pair in &request.rename {
                let (from, to) = pair.split_once('=').ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, format!("`{pair}` is no pair of names"))
                        .with("argument", "rename")
                        .hint("write `left=right`")
                })?;
                rename.insert(from.to_owned(), to.to_owned());
            }
            Ok(vec![Job {
                check: None,
                left: address(left, "left")?,
                right: address(right, "right")?,
                key: request.key.clone(),
                columns: request.columns.clone(),
                ignore: request.ignore.clone(),
                rename,
                where_left: both(request.condition.as_ref(), request.where_left.as_ref()),
                where_right: both(request.condition.as_ref(), request.where_right.as_ref()),
                hash: request.hash,
                list_max: request.list_max,
                timeout,
            }])
        }
        (None, None) => {
            let own = [&request.key, &request.columns, &request.ignore, &request.rename];
            let filtered = [&request.condition, &request.where_left, &request.where_right];
            if own.iter().any(|list| !list.is_empty()) || filtered.iter().any(|filter| filter.is_some()) {
                return Err(Error::new(ErrorKind::Invalid, "there are no tables to compare")
                    .with("argument", "left")
                    .hint(format!("name both, such as `{}`", CompareStores::EXAMPLE)));
            }
            let names: Vec<&String> = if request.checks.is_empty() {
                declared.keys().collect()
            } else {
                request.checks.iter().collect()
            };
            names
                .into_iter()
                .map(|name| {
                    let check = declared.get(name).ok_or_else(|| {
                        let known: Vec<&str> = declared.keys().map(String::as_str).collect();
                        Error::new(ErrorKind::NotFound, format!("there is no check `{name}`")).hint(
                            if known.is_empty() {
                                "declare it under `checks` in steward.yaml".to_owned()
                            } else {
                                format!("the project file has: {}", known.join(", "))
                            },
                        )
                    })?;
                    Ok(Job {
                        check: Some(name.clone()),
                        left: address(&check.left, "left")?,
                        right: address(&check.right, "right")?,
                        key: check.key.clone(),
                        columns: check.columns.clone(),
                        ignore: check.ignore.clone(),
                        rename: check.rename.clone(),
                        where_left: both(check.condition.as_ref(), check.where_left.as_ref()),
                        where_right: both(check.condition.as_ref(), check.where_right.as_ref()),
                        hash: check.hash,
                        list_max: request.list_max,
                        timeout,
                    })
                })
                .collect()
        }
        (Some(_), None) => Err(Error::new(ErrorKind::Invalid, "there is nothing to compare it with")
            .with("argument", "right")
            .hint(format!("name two tables, such as `{}`", CompareStores::EXAMPLE))),
        _ => Err(Error::new(ErrorKind::Invalid, "name two tables, or checks of the project file")
            .with("argument", "left")
            .hint(format!("such as `{}`", CompareStores::EXAMPLE))),
    }
}

/// Compares two tables, or the tables of every check that the project file declares.
///
/// Each side is read in one snapshot. Keys that differ are looked at again in a second one before they are reported;
/// those that agree by then are only counted. Nothing is changed.
///
/// Value: `equal`, `comparisons[]` ([`Comparison`]). Findings: `rows_only_left`, `rows_only_right`, `rows_changed`,
/// `rows_without_key`, `changed_while_comparing`, `columns_not_compared`; differences of a declared check escalate as
/// data corruption.
///
/// # Errors
///
/// `NotFound`: no such store, table, column or check. `Invalid`: no key, or columns that have no common form; every one
/// is named with its reason. `Unsupported`: a store cannot compare. `TimedOut`: a statement took longer than
/// `timeout_ms`.
pub async fn compare(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    declared: &BTreeMap<String, RowCheck>,
    request: &CompareStores,
) -> Result<Outcome, Error> {
    let jobs = jobs(request, declared)?;
    if jobs.is_empty() {
        return Ok(Outcome::new(
            json!({"equal": true, "comparisons": []}),
            format!(
                "no checks are declared; name two tables, such as `{}`, or add `checks` to steward.yaml",
                CompareStores::EXAMPLE
            ),
        ));
    }
    let mut outcome = Outcome::default();
    let (mut comparisons, mut texts) = (Vec::new(), Vec::new());
    for job in &jobs {
        let comparison = run(ctx, stores, job, &mut outcome).await.map_err(|error| match &job.check {
            Some(check) => error.with("check", check),
            None => error,
        })?;
        texts.push(written(&comparison));
        comparisons.push(comparison);
    }
    let equal = comparisons.iter().all(|comparison| comparison.equal);
    outcome.value = json!({"equal": equal, "comparisons": comparisons}).into();
    outcome.text = texts.join("\n");
    Ok(outcome)
}

/// One side of a comparison.
struct Side {
    store: Arc<dyn Store>,
    table: RowSetTable,
}

impl Side {
    async fn open(ctx: &Context, stores: &dyn StoreDirectory, at: &(String, String)) -> Result<Self, Error> {
        let store = stores.open(ctx, &at.0).await?;
        let Some(sets) = store.row_sets() else {
            return Err(store.unsupported(
                "store.compare",
                "this kind of store has no tables that can be compared",
                "compare tables of SQLite and PostgreSQL",
            ));
        };
        let table = sets.describe(ctx, &at.1).await.map_err(|error| error.with("store", &at.0))?;
        Ok(Self { store, table })
    }

    fn name(&self) -> String {
        format!("{}.{}", self.store.name(), self.table.name)
    }

    fn column(&self, name: &str) -> Option<&contract::RowSetColumn> {
        let columns = &self.table.columns;
        columns
            .iter()
            .find(|column| column.name == name)
            .or_else(|| columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)))
    }

    fn missing(&self, name: &str) -> Error {
        let names: Vec<&str> = self.table.columns.iter().map(|column| column.name.as_str()).collect();
        Error::new(ErrorKind::NotFound, format!("`{}` has no column `{name}`", self.name()))
            .hint(format!("it has: {}", names.join(", ")))
    }

    async fn rows(&self, ctx: &Context, spec: &RowSetSpec) -> Result<Box<dyn RowSet + '_>, Error> {
        self.store.row_sets().expect("checked when the side was opened").open_rows(ctx, spec).await
    }
}

/// The key and the columns of both sides, and what only one side has.
struct Pairs {
    key: Vec<ComparedColumn>,
    columns: Vec<ComparedColumn>,
    not_compared: Vec<String>,
}

fn columns(job: &Job, left: &Side, right: &Side) -> Result<Pairs, Error> {
    let renamed = |name: &str| job.rename.get(name).map_or_else(|| name.to_owned(), Clone::clone);
    for (from, to) in &job.rename {
        left.column(from).ok_or_else(|| left.missing(from))?;
        right.column(to).ok_or_else(|| right.missing(to))?;
    }
    let key_names = match (&job.key, &left.table.key, &right.table.key) {
        (asked, ..) if !asked.is_empty() => asked.clone(),
        (_, left, _) if !left.is_empty() => left.clone(),
        (_, _, of_right) if !of_right.is_empty() && job.rename.is_empty() => of_right.clone(),
        _ => {
            return Err(Error::new(ErrorKind::Invalid, format!("`{}` has no primary key", left.name()))
                .hint("name the columns that tell rows apart, such as `--key id`"));
        }
    };
    let mut refused = Vec::new();
    let mut pair = |name: &str, is_key: bool| -> Result<Option<ComparedColumn>, Error> {
        let on_left = left.column(name).ok_or_else(|| left.missing(name))?;
        let other = renamed(&on_left.name);
        let on_right = right.column(&other).ok_or_else(|| right.missing(&other))?;
        let form = if is_key {
            key_form(&on_left.kind, &on_right.kind)
        } else {
            form(&on_left.kind, &on_right.kind)
        };
        match form {
            Ok(form) => {
                Ok(Some(ComparedColumn { left: on_left.name.clone(), right: on_right.name.clone(), form }))
            }
            Err(reason) => {
                refused.push(format!("`{}`: {reason}", on_left.name));
                Ok(None)
            }
        }
    };
    let mut key = Vec::new();
    for name in &key_names {
        key.extend(pair(name, true)?);
    }
    let is_key = |name: &str| key_names.iter().any(|key| key.eq_ignore_ascii_case(name));
    let ignored = |name: &str| job.ignore.iter().any(|ignored| ignored.eq_ignore_ascii_case(name));
    let (mut columns, mut not_compared) = (Vec::new(), Vec::new());
    if job.columns.is_empty() {
        let mut used = BTreeSet::new();
        for column in &left.table.columns {
            let other = renamed(&column.name);
            if let Some(on_right) = right.column(&other) {
                used.insert(on_right.name.clone());
            }
            if is_key(&column.name) || ignored(&column.name) {
                continue;
            }
            if right.column(&other).is_some() {
                columns.extend(pair(&column.name, false)?);
            } else {
                not_compared.push(format!("{}.{}", left.name(), column.name));
            }
        }
        not_compared.extend(
            right
                .table
                .columns
                .iter()
                .filter(|column| !used.contains(&column.name) && !ignored(&column.name))
                .map(|column| format!("{}.{}", right.name(), column.name)),
        );
    } else {
        for name in job.columns.iter().filter(|name| !is_key(name) && !ignored(name)) {
            columns.extend(pair(name, false)?);
        }
    }
    if refused.is_empty() {
        return Ok(Pairs { key, columns, not_compared });
    }
    Err(Error::new(ErrorKind::Invalid, format!("columns cannot be compared: {}", refused.join("; ")))
        .with("left", left.name())
        .with("right", right.name())
        .hint("leave a column out with `--ignore`, or compare a view that casts it"))
}

async fn run(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    job: &Job,
    outcome: &mut Outcome,
) -> Result<Comparison, Error> {
    let started = Instant::now();
    let (left, right) =
        try_join(Side::open(ctx, stores, &job.left), Side::open(ctx, stores, &job.right)).await?;
    let columns = columns(job, &left, &right)?;
    let able = |hash: &RowHash| left.table.hashes.contains(hash) && right.table.hashes.contains(hash);
    // The fast hash needs a server that stores UTF-8 on a little-endian machine.
    let hash = if able(&job.hash) { job.hash } else { RowHash::Md5 };
    if !able(&hash) {
        return Err(Error::new(ErrorKind::Unsupported, "the texts of one store have no known encoding")
            .with("left", left.name())
            .with("right", right.name())
            .hint("a database with the encoding SQL_ASCII cannot be compared; dump it into one with UTF8"));
    }
    let fields = |columns: &[ComparedColumn], of_left: bool| {
        columns
            .iter()
            .map(|column| RowSetField {
                column: if of_left { column.left.clone() } else { column.right.clone() },
                form: column.form,
            })
            .collect::<Vec<_>>()
    };
    let spec = |side: &Side, of_left: bool, filter: &Option<String>| RowSetSpec {
        table: side.table.name.clone(),
        key: fields(&columns.key, of_left),
        columns: fields(&columns.columns, of_left),
        filter: filter.clone(),
        hash,
        statement_timeout: job.timeout,
    };
    let specs = (spec(&left, true, &job.where_left), spec(&right, false, &job.where_right));
    let (mut of_left, mut of_right) = try_join(left.rows(ctx, &specs.0), right.rows(ctx, &specs.1)).await?;
    let sample_right = right.table.samples && !left.table.samples;
    let fixed = columns.key.len() == 1
        && !matches!(columns.key[0].form, contract::Form::Text | contract::Form::Bytes);
    let rows = left.table.rows_estimated.max(right.table.rows_estimated);
    let keyless = try_join(of_left.keyless(ctx), of_right.keyless(ctx)).await?;
    let mut found =
        bisect::differences(ctx, &mut *of_left, &mut *of_right, bisect::parts(rows, fixed), sample_right)
            .await?;
    let mut moved = (of_left.traffic(), of_right.traffic());
    let statements = (of_left.statement(), of_right.statement());
    of_left.close().await;
    of_right.close().await;
    let mut values = Values::default();
    if !found.is_empty() {
        // A second look, at newer snapshots: what was under way has settled by now or is a difference.
        let (mut of_left, mut of_right) =
            try_join(left.rows(ctx, &specs.0), right.rows(ctx, &specs.1)).await?;
        bisect::look_again(ctx, &mut *of_left, &mut *of_right, &mut found).await?;
        values =
            Values::read(ctx, &mut *of_left, &mut *of_right, &columns.columns, &found, job.list_max).await?;
        add(&mut moved.0, of_left.traffic());
        add(&mut moved.1, of_right.traffic());
        of_left.close().await;
        of_right.close().await;
    }
    let mut comparison = Comparison {
        check: job.check.clone(),
        left: left.name(),
        right: right.name(),
        key: columns.key,
        columns: columns.columns,
        columns_not_compared: columns.not_compared,
        equal: found.is_empty(),
        exact: found.exact,
        rows_left: found.rows[0],
        rows_right: found.rows[1],
        keyless_left: keyless.0,
        keyless_right: keyless.1,
        only_left: found.only_left.len() as u64 + found.uncompared[0],
        only_right: found.only_right.len() as u64 + found.uncompared[1],
        changed: found.changed.len() as u64,
        changed_by_column: values.by_column,
        settled: found.settled,
        differences: values.listed,
        moved_left: moved.0,
        moved_right: moved.1,
        ranges: found.ranges,
        elapsed_ms: millis_since(started),
        evidence: Vec::new(),
    };
    note(ctx, outcome, &mut comparison, &statements, (&left, &right));
    Ok(comparison)
}

fn add(sum: &mut RowTraffic, more: RowTraffic) {
    sum.statements += more.statements;
    sum.rows += more.rows;
    sum.digests += more.digests;
    sum.bytes += more.bytes;
}

/// Values of rows that differ.
#[derive(Default)]
struct Values {
    listed: Vec<Difference>,
    by_column: BTreeMap<String, u64>,
}

impl Values {
    async fn read(
        ctx: &Context,
        left: &mut dyn RowSet,
        right: &mut dyn RowSet,
        columns: &[ComparedColumn],
        found: &Found,
        list_max: usize,
    ) -> Result<Self, Error> {
        let mut out = Self::default();
        let changed = &found.changed[..found.changed.len().min(CHANGED_READ_MAX)];
        let (of_left, of_right) = try_join(left.rows(ctx, changed), right.rows(ctx, changed)).await?;
        let of_right: BTreeMap<RowKey, Vec<String>> = of_right.into_iter().collect();
        let mut different: BTreeMap<RowKey, Vec<DifferentValue>> = BTreeMap::new();
        for (key, values) in of_left {
            let Some(others) = of_right.get(&key) else { continue };
            let mut here = Vec::new();
            for ((column, a), b) in columns.iter().zip(&values).zip(others) {
                if a != b {
                    *out.by_column.entry(column.left.clone()).or_insert(0) += 1;
                    here.push(DifferentValue {
                        column: column.left.clone(),
                        left: column.form.shown(a),
                        right: column.form.shown(b),
                    });
                }
            }
            different.insert(key, here);
        }
        let of_kind = |keys: &[RowKey], kind: &'static str| {
            keys.iter().map(move |key| (key.clone(), kind)).collect::<Vec<_>>()
        };
        // Some of each kind, however many there are of the others.
        let share = list_max.div_ceil(3);
        let kinds = [
            of_kind(&found.only_left, "only_left"),
            of_kind(&found.only_right, "only_right"),
            of_kind(&found.changed, "changed"),
        ];
        let first = kinds.iter().flat_map(|keys| keys.iter().take(share));
        let rest = kinds.iter().flat_map(|keys| keys.iter().skip(share));
        let mut chosen: Vec<_> = first.chain(rest).take(list_max).cloned().collect();
        chosen.sort();
        out.listed = chosen
            .into_iter()
            .map(|(key, kind)| Difference {
                columns: different.remove(&key).unwrap_or_default(),
                kind: kind.to_owned(),
                key,
            })
            .collect();
        Ok(out)
    }
}

/// Evidence and findings.
fn note(
    ctx: &Context,
    outcome: &mut Outcome,
    comparison: &mut Comparison,
    statements: &(String, String),
    sides: (&Side, &Side),
) {
    let differences = json!({"only_left": comparison.only_left, "only_right": comparison.only_right,
                             "changed": comparison.changed, "settled": comparison.settled});
    for (side, statement, rows, keyless, moved) in [
        (sides.0, &statements.0, comparison.rows_left, comparison.keyless_left, comparison.moved_left),
        (sides.1, &statements.1, comparison.rows_right, comparison.keyless_right, comparison.moved_right),
    ] {
        let answer = json!({
            "table": side.table.name, "rows": rows, "rows_without_key": keyless, "ranges": comparison.ranges,
            "moved": moved, "differences": differences, "listed": comparison.differences,
        });
        let source = format!("store:{}", side.store.name());
        let evidence = contract::Evidence::new(&source, statement, answer, ctx.now(), comparison.elapsed_ms);
        comparison.evidence.push(evidence.id.clone());
        outcome.evidence.push(evidence);
    }
    let declared = comparison.check.is_some();
    let (left, right) = (&comparison.left, &comparison.right);
    let least = if comparison.exact { "" } else { "at least " };
    let mut find =
        |code: &str, severity: Severity, title: String, object: &str, recommendation: Option<String>| {
            outcome.findings.push(Finding {
                code: code.into(),
                severity,
                title,
                object: object.to_owned(),
                recommendation,
                evidence: comparison.evidence.clone(),
                escalate: (severity == Severity::Critical).then_some(Trigger::DataCorruption),
            });
        };
    let severity = if declared { Severity::Critical } else { Severity::Warning };
    if comparison.only_left > 0 {
        find(
            "rows_only_left",
            severity,
            format!(
                "{least}{} of `{left}` {} missing in `{right}`",
                text::count(comparison.only_left, "row"),
                text::are(comparison.only_left)
            ),
            right,
            Some("find out why they did not arrive, then insert them on the right".into()),
        );
    }
    if comparison.only_right > 0 {
        find(
            "rows_only_right",
            severity,
            format!(
                "{least}{} of `{right}` {} not in `{left}`",
                text::count(comparison.only_right, "row"),
                text::are(comparison.only_right)
            ),
            right,
            Some("find out whether they were deleted on the left or invented on the right".into()),
        );
    }
    if comparison.changed > 0 {
        let columns: Vec<String> =
            comparison.changed_by_column.iter().map(|(column, rows)| format!("{column} ({rows})")).collect();
        find(
            "rows_changed",
            severity,
            format!(
                "{least}{} differ{} between `{left}` and `{right}`{}{}",
                text::count(comparison.changed, "row"),
                if comparison.changed == 1 { "s" } else { "" },
                if columns.is_empty() { "" } else { ", in " },
                columns.join(", ")
            ),
            right,
            Some("decide which side is right, then update the other".into()),
        );
    }
    for (side, keyless) in [(left, comparison.keyless_left), (right, comparison.keyless_right)] {
        if keyless > 0 {
            find(
                "rows_without_key",
                Severity::Warning,
                format!(
                    "{} of `{side}` have NULL in the key and were not compared",
                    text::count(keyless, "row")
                ),
                side,
                Some("give the rows a key, or compare by other columns: `--key`".into()),
            );
        }
    }
    if comparison.settled > 0 {
        find(
            "changed_while_comparing",
            Severity::Info,
            format!(
                "{} differed at first and agreed when looked at again: `{left}` or `{right}` is being written",
                text::count(comparison.settled, "key")
            ),
            right,
            None,
        );
    }
    if !comparison.columns_not_compared.is_empty() {
        find(
            "columns_not_compared",
            Severity::Info,
            format!("only one side has {}", comparison.columns_not_compared.join(", ")),
            right,
            Some("map other names with `--rename left=right`, or leave columns out with `--ignore`".into()),
        );
    }
}

/// The comparison for people.
fn written(comparison: &Comparison) -> String {
    let head = comparison.check.as_ref().map_or_else(String::new, |check| format!("{check}: "));
    let least = if comparison.exact { "" } else { "at least " };
    let mut lines = vec![if comparison.equal {
        format!(
            "{head}{} and {} hold the same {}",
            comparison.left,
            comparison.right,
            text::count(comparison.rows_left, "row")
        )
    } else {
        format!(
            "{head}{} ({}) and {} ({}) differ: {least}{} only left, {} only right, {} changed",
            comparison.left,
            text::count(comparison.rows_left, "row"),
            comparison.right,
            text::count(comparison.rows_right, "row"),
            comparison.only_left,
            comparison.only_right,
            comparison.changed
        )
    }];
    for difference in &comparison.differences {
        let key: Vec<String> = difference.key.iter().map(|part| text::plain(part, 60)).collect();
        let mut line = format!("  {:<10}  {}", difference.kind.replace('_', " "), key.join(" / "));
        let shown = |value: &Option<String>| {
            value.as_ref().map_or_else(|| "NULL".to_owned(), |value| text::plain(value, 60))
        };
        for value in &difference.columns {
            let (a, b) = (shown(&value.left), shown(&value.right));
            line.extend(["  ", &value.column, ": ", &a, " | ", &b]);
        }
        lines.push(line);
    }
    let total = comparison.only_left + comparison.only_right + comparison.changed;
    if total > comparison.differences.len() as u64 {
        lines.push(format!("  … and {} more", total - comparison.differences.len() as u64));
    }
    if comparison.settled > 0 {
        lines.push(format!("  {} settled while comparing", text::count(comparison.settled, "key")));
    }
    for (side, keyless) in
        [(&comparison.left, comparison.keyless_left), (&comparison.right, comparison.keyless_right)]
    {
        if keyless > 0 {
            lines.push(format!("  {} of {side} without a whole key", text::count(keyless, "row")));
        }
    }
    let (a, b) = (comparison.moved_left, comparison.moved_right);
    lines.push(format!(
        "  moved {} and {} for {}, {}, in {}",
        text::count(a.rows + b.rows, "row"),
        text::size(a.bytes + b.bytes),
        text::count(comparison.rows_left + comparison.rows_right, "row"),
        text::count(comparison.ranges, "range"),
        text::millis(comparison.elapsed_ms)
    ));
    lines.join("\n")
}

/// Runs the declared checks that involve a store, and adds what they find to the outcome of its consistency check.
///
/// A check that cannot be run, for one because the other store does not answer, is a finding.
pub async fn compare_declared(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    declared: &BTreeMap<String, RowCheck>,
    store: &str,
    outcome: &mut Outcome,
) {
    let mut across = Vec::new();
    for check in checks_of(declared, store) {
        let request = CompareStores {
            checks: vec![check.clone()],
            list_max: default_list_max(),
            timeout_ms: default_timeout_ms(),
            ..CompareStores::default()
        };
        match compare(ctx, stores, declared, &request).await {
            Ok(compared) => {
                let equal = compared.value["equal"] == json!(true);
                across.push(json!({"check": check, "equal": equal}));
                if !equal {
                    outcome.value["consistent"] = json!(false);
                }
                outcome.text = format!("{}\n{}", outcome.text, compared.text);
                outcome.findings.extend(compared.findings);
                outcome.evidence.extend(compared.evidence);
            }
            Err(error) => {
                across.push(json!({"check": check, "error": error.message()}));
                outcome.text = format!("{}\n{check}: could not be run: {}", outcome.text, error.message());
                outcome.findings.push(Finding {
                    code: "check_not_run".into(),
                    severity: Severity::Warning,
                    title: format!("the check `{check}` could not be run: {}", error.message()),
                    object: check.clone(),
                    recommendation: error.hint_text().map(ToOwned::to_owned),
                    evidence: Vec::new(),
                    escalate: None,
                });
            }
        }
    }
    if !across.is_empty() {
        outcome.value["checks_across_stores"] = json!(across);
    }
}

/// Names of the declared checks that involve a store.
fn checks_of(declared: &BTreeMap<String, RowCheck>, store: &str) -> Vec<String> {
    let is = |at: &str| at.split_once('.').is_some_and(|(name, _)| name == store);
    declared
        .iter()
        .filter(|(_, check)| is(&check.left) || is(&check.right))
        .map(|(name, _)| name.clone())
        .collect()
}

impl RowCheck {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// `Invalid`: names the key in its context.
    pub fn validate(&self) -> Result<(), Error> {
        for (key, at) in [("left", &self.left), ("right", &self.right)] {
            address(at, key).map_err(|_| {
                Error::new(ErrorKind::Invalid, "this names no table of a store")
                    .with("key", key)
                    .hint("write `store.table` or `store.schema.table`")
            })?;
        }
        Ok(())
    }

    /// Names of both stores.
    pub fn stores(&self) -> [&str; 2] {
        [&self.left, &self.right].map(|at| at.split_once('.').map_or(at.as_str(), |(store, _)| store))
    }
}
