//! The store: probing, reading and explaining.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use contract::{
    Capabilities, Capability, Context, Dump, Error, ErrorKind, Execute, Explain, Health, Integrity,
    IntegrityProblem, IntegrityReport, KeysCompared, Load, Login, Operate, Probe, Query, Relational,
    RowPromise, RowSets, RowTest, Rows, Store, TableScan, Truncation,
};
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use schema::{Dialect, Schema, Table};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::catalog;
use crate::config::Config;
use crate::error::{more_than_one_statement, refused_write, translate};
use crate::session::{File, Stop, on_thread, only_reads};
use crate::text;

/// The kind in configuration.
pub const KIND: &str = "sqlite";

/// Largest integer that every JSON reader keeps exactly.
const JSON_INTEGER_MAX: i64 = 1 << 53;

/// Most damages that one integrity check lists.
const PROBLEMS_MAX: usize = 100;

/// Opens a store on the file that `config` names; `path` is relative to `project_dir`. The file itself is opened by
/// each call, so a missing one is reported by the first.
///
/// # Errors
///
/// `Invalid`: as [`Config::validate`].
pub fn open(name: &str, config: &Config, project_dir: &Path) -> Result<SqliteStore, Error> {
    config.validate().map_err(|error| error.with("store", name))?;
    Ok(SqliteStore {
        name: name.to_owned(),
        file: File {
            path: project_dir.join(&config.path),
            lock_timeout: Duration::from_millis(config.lock_timeout_ms),
            read_only: config.read_only,
        },
        statement_timeout: Duration::from_millis(config.statement_timeout_ms),
        rows_counted_max: config.rows_counted_max,
        closed: CancellationToken::new(),
    })
}

/// A SQLite database file. Every call opens a connection of its own, so calls never wait for each other.
pub struct SqliteStore {
    pub(crate) name: String,
    pub(crate) file: File,
    pub(crate) statement_timeout: Duration,
    pub(crate) rows_counted_max: u64,
    pub(crate) closed: CancellationToken,
}

impl SqliteStore {
    /// Runs `work` with a connection that only reads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        ctx: &Context,
        timeout: Option<Duration>,
        work: impl FnOnce(&mut Connection, &Arc<Stop>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let file = self.file.clone();
        let answer = on_thread(ctx, &self.closed, timeout, move |stop| {
            let mut connection = file.reader(stop)?;
            work(&mut connection, stop)
        });
        answer.await.map_err(|error| error.with("store", &self.name))
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::from([
            Capability::Inspect,
            Capability::Query,
            Capability::Explain,
            Capability::Integrity,
        ]);
        if !self.file.read_only {
            capabilities.extend([Capability::Execute, Capability::TransactionalDdl]);
        }
        capabilities
    }

    async fn probe(&self, ctx: &Context) -> Result<Probe, Error> {
        let file = self.file.clone();
        let started = Instant::now();
        self.read(ctx, None, move |_, stop| {
            let path = file.canonical()?.display().to_string();
            let login = |can_write| Login { user: path.clone(), superuser: false, owner: false, can_write };
            // SQLite falls back to reading when the file cannot be written, and says so here.
            let can_write = |connection: &Connection| connection.is_readonly(rusqlite::MAIN_DB) == Ok(false);
            let writer = if file.read_only {
                None
            } else {
                file.writer(stop).ok().filter(can_write).map(|_| login(true))
            };
            Ok(Probe {
                version: rusqlite::version().to_owned(),
                address: path.clone(),
                identity: path.clone(),
                reader: login(false),
                writer,
                read_only_by:
                    "the file is opened read-only, `query_only` is on, and the authorizer lets nothing \
                               but reads be prepared"
                        .to_owned(),
                encrypted: false,
                connect_ms: milliseconds(started),
                pooler: None,
                standby: None,
            })
        })
        .await
    }

    fn relational(&self) -> Option<&dyn Relational> {
        Some(self)
    }

    fn execute(&self) -> Option<&dyn Execute> {
        if self.file.read_only { None } else { Some(self) }
    }

    fn integrity(&self) -> Option<&dyn Integrity> {
        Some(self)
    }

    fn row_sets(&self) -> Option<&dyn RowSets> {
        Some(self)
    }

    fn health(&self) -> Option<&dyn Health> {
        Some(self)
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    fn dump(&self) -> Option<&dyn Dump> {
        Some(self)
    }

    fn load(&self) -> Option<&dyn Load> {
        Some(self)
    }

    fn cold_rows(&self) -> Option<&dyn contract::cold::ColdRows> {
        Some(self)
    }

    async fn close(&self) {
        self.closed.cancel();
    }
}

#[async_trait]
impl Relational for SqliteStore {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn quote_identifier(&self, name: &str) -> String {
        text::quote_identifier(name)
    }

    async fn inspect(&self, ctx: &Context) -> Result<Schema, Error> {
        let rows_counted_max = self.rows_counted_max;
        self.read(ctx, None, move |connection, stop| {
            catalog::inspect(connection, rows_counted_max).map_err(|error| translate(&error, stop))
        })
        .await
    }

    async fn query(&self, ctx: &Context, query: &Query) -> Result<Rows, Error> {
        let query = query.clone();
        self.read(ctx, Some(query.limits.statement_timeout), move |connection, stop| {
            read_rows(connection, &query, stop)
        })
        .await
    }

    async fn explain(&self, ctx: &Context, sql: &str) -> Result<Explain, Error> {
        let sql = sql.to_owned();
        self.read(ctx, None, move |connection, stop| explain(connection, &sql, stop)).await
    }
}

#[async_trait]
impl Integrity for SqliteStore {
    /// One limit for the whole file, times ten: the engine does not stop between tables.
    async fn check_integrity(&self, ctx: &Context, limit: Duration) -> Result<IntegrityReport, Error> {
        let statement = format!("PRAGMA integrity_check({PROBLEMS_MAX})");
        let run = statement.clone();
        let answer = self
            .read(ctx, Some(limit.saturating_mul(10)), move |connection, stop| {
                let texts: rusqlite::Result<Vec<String>> = connection
                    .prepare(&run)
                    .and_then(|mut check| check.query_map([], |row| row.get(0))?.collect());
                texts.map_err(|error| translate(&error, stop))
            })
            .await;
        let texts = match answer {
            // Too damaged even to be checked: that is the answer, not a failure to get one.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                vec![error.causes().into_iter().next().unwrap_or_else(|| error.message().to_owned())]
            }
            other => other?,
        };
        let problems = texts
            .into_iter()
            .filter(|text| text != "ok")
            .map(|problem| IntegrityProblem { object: damaged_object(&problem).to_owned(), problem });
        Ok(IntegrityReport {
            statement,
            checked: 1,
            problems: problems.collect(),
            unchecked: Vec::new(),
            checksum_failures: None,
            // Source: SQLite manual, "PRAGMA integrity_check": UNIQUE constraints are among what it looks for.
            keys_compared: KeysCompared::All,
        })
    }

    fn row_tests(&self, table: &Table) -> Vec<RowTest> {
        row_tests(table)
    }

    fn unindexed(&self, table: &str) -> String {
        format!("{table} NOT INDEXED")
    }
}

/// What SQLite promises and does not look at again. It takes NOT NULL for granted when it plans, so the tests ask for the
/// storage class instead.
fn row_tests(table: &Table) -> Vec<RowTest> {
    if table.options.iter().any(|option| option.starts_with("VIRTUAL") || option == "NAME IS NOT UTF-8") {
        return Vec::new();
    }
    let mut tests: Vec<RowTest> = table
        .checks
        .iter()
        .map(|check| RowTest {
            promise: RowPromise::Check,
            name: if check.name.is_empty() { check.expression.clone() } else { check.name.clone() },
            text: check.expression.clone(),
            broken: format!("({}) IS FALSE", check.expression),
        })
        .collect();
    let strict = table.options.iter().any(|option| option == "STRICT");
    for column in &table.columns {
        let quoted = text::quote_identifier(&column.name);
        let declared = column.native_type.split(" COLLATE ").next().unwrap_or_default();
        if !column.nullable {
            tests.push(RowTest {
                promise: RowPromise::NotNull,
                name: column.name.clone(),
                text: "NOT NULL".into(),
                broken: format!("typeof({quoted}) = 'null'"),
            });
        }
        if strict {
            continue;
        }
        if let Some(classes) = crate::rowset::classes_of(declared) {
            tests.push(RowTest {
                promise: RowPromise::Type,
                name: column.name.clone(),
                text: declared.to_owned(),
                broken: format!("typeof({quoted}) NOT IN ({classes})"),
            });
        }
    }
    tests
}

/// `row 3 missing from index orders_customer` is about that index; most others name only pages.
fn damaged_object(problem: &str) -> &str {
    for before in ["missing from index ", "entries in index ", "values in index ", "NULL value in "] {
        if let Some((_, object)) = problem.split_once(before) {
            return object;
        }
    }
    "database"
}

pub(crate) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}

/// Refuses what is not exactly one statement. Only the error's kind depends on this: the engine sees to the rest.
fn exactly_one(sql: &str) -> Result<(), Error> {
    if sql.contains('\0') {
        return Err(Error::new(ErrorKind::Invalid, "the statement contains a NUL character"));
    }
    match text::statements(sql) {
        1 => Ok(()),
        0 => Err(Error::new(ErrorKind::Invalid, "there is no statement").hint("give one SELECT")),
        _ => Err(more_than_one_statement()),
    }
}

/// Prepares one statement that gives rows and changes nothing.
pub(crate) fn one_reading<'a>(
    connection: &'a Connection,
    sql: &str,
    stop: &Stop,
) -> Result<rusqlite::Statement<'a>, Error> {
    exactly_one(sql)?;
    let statement = connection.prepare(sql).map_err(|error| translate(&error, stop))?;
    if !statement.readonly() {
        return Err(refused_write("the statement is not read-only"));
    }
    if statement.column_count() == 0 {
        // `REINDEX` of a file without indexes is asked for no permission, because it does nothing.
        return Err(refused_write("the statement is not a query"));
    }
    Ok(statement)
}

fn read_rows(connection: &mut Connection, query: &Query, stop: &Stop) -> Result<Rows, Error> {
    let started = Instant::now();
    let failed = |error: rusqlite::Error| translate(&error, stop);
    only_reads(connection).map_err(failed)?;
    let mut statement = one_reading(connection, &query.sql, stop)?;
    bind(&mut statement, &query.parameters, stop)?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut types: Vec<Option<&'static str>> = vec![None; columns.len()];
    let (mut rows, mut bytes, mut truncated) = (Vec::new(), 0usize, None);
    let mut cursor = statement.raw_query();
    while let Some(row) = cursor.next().map_err(failed)? {
        if rows.len() >= query.limits.rows_max {
            truncated = Some(Truncation::Rows);
            break;
        }
        let mut values = Vec::with_capacity(columns.len());
        // Sizes first: a value that does not fit is never copied.
        for column in 0..columns.len() {
            bytes = bytes.saturating_add(size(row.get_ref(column).map_err(failed)?));
        }
        if bytes > query.limits.bytes_max {
            truncated = Some(Truncation::Bytes);
            break;
        }
        for (column, seen) in types.iter_mut().enumerate() {
            let value = row.get_ref(column).map_err(failed)?;
            let class = class(value);
            *seen = match *seen {
                None => class,
                Some(known) if class.is_none_or(|class| class == known) => Some(known),
                Some(_) => Some(""),
            };
            values.push(to_json(value));
        }
        rows.push(values);
    }
    Ok(Rows {
        columns,
        types: types.into_iter().map(|class| class.unwrap_or_default().to_owned()).collect(),
        rows,
        truncated,
        elapsed_ms: milliseconds(started),
    })
}

fn size(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null => 4,
        ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        ValueRef::Text(text) => text.len(),
        ValueRef::Blob(blob) => 2 + 2 * blob.len(),
    }
}

/// SQLite types values, not columns; a column of one class gets its name.
fn class(value: ValueRef<'_>) -> Option<&'static str> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(_) => Some("integer"),
        ValueRef::Real(_) => Some("real"),
        ValueRef::Text(_) => Some("text"),
        ValueRef::Blob(_) => Some("blob"),
    }
}

pub(crate) fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) if number.abs_diff(0) > JSON_INTEGER_MAX.unsigned_abs() => {
            Value::String(number.to_string())
        }
        ValueRef::Integer(number) => Value::from(number),
        // JSON has no infinities; SQLite stores no NaN.
        ValueRef::Real(number) if number.is_infinite() => {
            Value::from(if number > 0.0 { "Infinity" } else { "-Infinity" })
        }
        ValueRef::Real(number) => Value::from(number),
        // SQLite does not check what it is given as text.
        ValueRef::Text(text) => std::str::from_utf8(text).map_or_else(|_| hex(text), Value::from),
        ValueRef::Blob(blob) => hex(blob),
    }
}

fn hex(bytes: &[u8]) -> Value {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    Value::String(text)
}

/// Binds values to placeholders by position.
pub(crate) fn bind(
    statement: &mut rusqlite::Statement<'_>,
    parameters: &[Value],
    stop: &Stop,
) -> Result<(), Error> {
    let wanted = statement.parameter_count();
    if wanted != parameters.len() {
        let given = parameters.len();
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{given} values were given for {wanted} placeholders"),
        ));
    }
    for (i, value) in parameters.iter().enumerate() {
        let bound = match value {
            Value::Null => statement.raw_bind_parameter(i + 1, rusqlite::types::Null),
            Value::Bool(truth) => statement.raw_bind_parameter(i + 1, truth),
            Value::String(text) => statement.raw_bind_parameter(i + 1, text),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => statement.raw_bind_parameter(i + 1, integer),
                (None, Some(real)) if !number.is_u64() => statement.raw_bind_parameter(i + 1, real),
                _ => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!("value {} is larger than any integer of SQLite", i + 1),
                    ));
                }
            },
            Value::Array(_) | Value::Object(_) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("value {} is neither null, bool, number nor string", i + 1),
                ));
            }
        };
        bound.map_err(|error| translate(&error, stop))?;
    }
    Ok(())
}

fn explain(connection: &mut Connection, sql: &str, stop: &Stop) -> Result<Explain, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    exactly_one(sql)?;
    only_reads(connection).map_err(failed)?;
    // The statement by itself: `EXPLAIN` of a write would be read-only, and `ANALYZE x` must not become an option.
    if !connection.prepare(sql).map_err(failed)?.readonly() {
        return Err(refused_write("the statement is not read-only"));
    }
    let tables = tables_read(connection, sql).map_err(failed)?;
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).map_err(failed)?;
    let lines: Vec<(i64, i64, String)> = statement
        .raw_query()
        .mapped(|row| Ok((row.get(0)?, row.get(1)?, row.get(3)?)))
        .collect::<rusqlite::Result<_>>()
        .map_err(failed)?;
    Ok(read_plan(sql, &tables, &lines))
}

/// The tables that the engine says the statement reads.
fn tables_read(connection: &mut Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let of_authorizer = Arc::clone(&seen);
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        if let AuthAction::Read { table_name, .. } = context.action {
            of_authorizer.lock().expect("nothing panics with the set in hand").insert(table_name.to_owned());
        }
        Authorization::Allow
    }))?;
    connection.prepare(sql)?;
    only_reads(connection)?;
    let seen = seen.lock().expect("nothing panics with the set in hand");
    Ok(seen.iter().cloned().collect())
}

/// Reads the lines of `EXPLAIN QUERY PLAN`: id, parent and text.
///
/// Source: sqlite.org, "EXPLAIN QUERY PLAN" (eqp.html).
fn read_plan(sql: &str, tables: &[String], lines: &[(i64, i64, String)]) -> Explain {
    let mut text = String::new();
    let (mut full_scans, mut indexes_used) = (Vec::<TableScan>::new(), Vec::<String>::new());
    let derived: BTreeSet<&str> = lines
        .iter()
        .filter_map(|(.., line)| {
            line.strip_prefix("CO-ROUTINE ").or_else(|| line.strip_prefix("MATERIALIZE "))
        })
        .collect();
    let mut depths = std::collections::BTreeMap::<i64, usize>::new();
    for (id, parent, line) in lines {
        let depth = depths.get(parent).map_or(0, |depth| depth + 1);
        depths.insert(*id, depth);
        for part in [&"  ".repeat(depth), line.as_str(), "\n"] {
            text.push_str(part);
        }
        let (scans, rest) = match (line.strip_prefix("SCAN "), line.strip_prefix("SEARCH ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            // Below `MULTI-INDEX OR` each branch has a line such as `INDEX 1`, and a SEARCH of its own below it.
            _ => continue,
        };
        let rest =
            [" LEFT-JOIN", " EXISTS"].iter().fold(rest, |rest, end| rest.strip_suffix(end).unwrap_or(rest));
        let (named, using) = cut_plan_line(rest);
        let resolve = || match tables.iter().find(|table| *table == named) {
            Some(table) => table.clone(),
            None => text::table_of_alias(sql, named, tables).unwrap_or_else(|| named.to_owned()),
        };
        let full = match using {
            Using::Nothing => scans && !derived.contains(named) && !is_constant(named),
            // Made by reading the whole table, for this one statement.
            Using::AutomaticIndex => !derived.contains(named),
            Using::Index(index) => {
                if !indexes_used.iter().any(|known| known == index) {
                    indexes_used.push(index.to_owned());
                }
                false
            }
            Using::Key => false,
        };
        if full {
            let table = resolve();
            if !full_scans.iter().any(|scan| scan.table == table) {
                full_scans.push(TableScan { table, rows_expected: None });
            }
        }
    }
    Explain { text, full_scans, indexes_used, cost: None }
}

#[derive(Debug, PartialEq, Eq)]
enum Using<'a> {
    Nothing,
    AutomaticIndex,
    Index(&'a str),
    /// The rowid, the primary key or a virtual table's own way.
    Key,
}

/// Cuts `orders USING INDEX by_day (day>?)` into the table and what is used. Names are printed as they are, so the
/// last fitting place is taken.
fn cut_plan_line(rest: &str) -> (&str, Using<'_>) {
    if let Some((named, _)) = rest.split_once(" VIRTUAL TABLE INDEX ") {
        return (named, Using::Key);
    }
    for automatic in [
        " USING AUTOMATIC COVERING INDEX",
        " USING AUTOMATIC PARTIAL COVERING INDEX",
        " USING AUTOMATIC INDEX",
    ] {
        if let Some((named, _)) = rest.rsplit_once(automatic) {
            return (named, Using::AutomaticIndex);
        }
    }
    for key in [" USING INTEGER PRIMARY KEY", " USING ROWID", " USING PRIMARY KEY"] {
        if let Some((named, _)) = rest.rsplit_once(key) {
            return (named, Using::Key);
        }
    }
    for index in [" USING COVERING INDEX ", " USING INDEX "] {
        if let Some((named, index)) = rest.rsplit_once(index) {
            let name = match index.rsplit_once(" (") {
                Some((name, terms)) if terms.ends_with(')') => name,
                _ => index,
            };
            return (named, Using::Index(name));
        }
    }
    (rest, Using::Nothing)
}

/// `SCAN CONSTANT ROW`, `SCAN 3 CONSTANT ROWS`, `SCAN 2-ROW VALUES CLAUSE`, `SCAN (subquery-1)`.
fn is_constant(named: &str) -> bool {
    named.ends_with("CONSTANT ROW")
        || named.ends_with("CONSTANT ROWS")
        || named.ends_with("VALUES CLAUSE")
        || (named.starts_with('(') && named.ends_with(')'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_lines_are_cut_at_the_right_place() {
        for (line, named, using) in [
            ("orders", "orders", Using::Nothing),
            ("two words", "two words", Using::Nothing),
            ("orders USING INDEX by_day (day>? AND day<?)", "orders", Using::Index("by_day")),
            ("orders USING COVERING INDEX two words (a=?)", "orders", Using::Index("two words")),
            ("orders USING INDEX by (x) (a=?)", "orders", Using::Index("by (x)")),
            ("orders USING COVERING INDEX by_day", "orders", Using::Index("by_day")),
            ("orders USING INTEGER PRIMARY KEY (rowid=?)", "orders", Using::Key),
            ("pair USING PRIMARY KEY (a=?)", "pair", Using::Key),
            ("l USING AUTOMATIC COVERING INDEX (order_id=?)", "l", Using::AutomaticIndex),
            ("docs VIRTUAL TABLE INDEX 0:M1", "docs", Using::Key),
        ] {
            assert_eq!(cut_plan_line(line), (named, using), "{line}");
        }
    }

    #[test]
    fn values_become_json() {
        for (value, expected) in [
            (ValueRef::Integer(1 << 53), serde_json::json!(9_007_199_254_740_992_i64)),
            (ValueRef::Integer((1 << 53) + 1), serde_json::json!("9007199254740993")),
            (ValueRef::Integer(i64::MIN), serde_json::json!("-9223372036854775808")),
            (ValueRef::Real(f64::NEG_INFINITY), serde_json::json!("-Infinity")),
            (ValueRef::Text(b"a\xffb"), serde_json::json!("\\x61ff62")),
            (ValueRef::Blob(&[0, 255]), serde_json::json!("\\x00ff")),
        ] {
            assert_eq!(to_json(value), expected, "{value:?}");
        }
    }
}
