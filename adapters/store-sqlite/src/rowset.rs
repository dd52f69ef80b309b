//! Tables as sets of rows: encoded and hashed beside the engine, in one pass over the table where no index helps.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use contract::{
    Affinity, ColumnKind, Context, Error, ErrorKind, Form, KeyRange, RangeDigest, RowChoice, RowEntry,
    RowHash, RowKey, RowSet, RowSetColumn, RowSetSpec, RowSetTable, RowSets, RowTraffic,
};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row};

use crate::canonical::{self, Fit};
use crate::error::translate;
use crate::session::{Stop, on_thread, only_reads, watch};
use crate::store::SqliteStore;
use crate::text::quote_identifier;

/// Rows that are counted for the estimate.
const ROWS_COUNTED_MAX: i64 = 1_000_000;
/// Keys that are kept for each quantile, so that parts are of about the same size.
const SAMPLED_PER_PART: usize = 8;

/// What a declared type prefers.
///
/// Source: sqlite.org, "Datatypes In SQLite", 3.1.
fn affinity(declared: &str) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    if has(&["INT"]) {
        Affinity::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if declared.is_empty() || declared == "ANY" {
        Affinity::Any
    } else if has(&["BLOB"]) {
        Affinity::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

/// The storage classes that values of a declared type should have, as a list of literals; `None` where a type says
/// nothing plain about them, such as `DATETIME`.
pub(crate) fn classes_of(declared: &str) -> Option<&'static str> {
    match affinity(declared) {
        Affinity::Integer => Some("'integer', 'null'"),
        Affinity::Real => Some("'real', 'integer', 'null'"),
        Affinity::Text => Some("'text', 'null'"),
        Affinity::Blob => Some("'blob', 'null'"),
        Affinity::Numeric => {
            let declared = declared.to_ascii_uppercase();
            let is_number =
                ["NUMERIC", "DECIMAL", "NUMBER", "MONEY"].iter().any(|word| declared.contains(word));
            is_number.then_some("'integer', 'real', 'null'")
        }
        Affinity::Any => None,
    }
}

fn describe(connection: &Connection, name: &str) -> Result<RowSetTable, rusqlite::Error> {
    let table = name.strip_prefix("main.").unwrap_or(name);
    let mut found = connection.prepare(
        "SELECT t.name FROM pragma_table_list AS t \
         WHERE t.schema = 'main' AND t.type <> 'shadow' AND (t.name = ?1 OR t.name = ?2 COLLATE NOCASE) \
         ORDER BY t.name = ?1 DESC LIMIT 1",
    )?;
    let table: String = found.query_row([name, table], |row| row.get(0))?;
    let mut columns = Vec::new();
    let mut key: Vec<(i64, String)> = Vec::new();
    let mut listed =
        connection.prepare("SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1)")?;
    let mut rows = listed.query([&table])?;
    while let Some(row) = rows.next()? {
        let (name, native_type): (String, String) = (row.get(0)?, row.get(1)?);
        if row.get::<_, i64>(4)? == 1 {
            continue;
        }
        let of_key: i64 = row.get(3)?;
        if of_key > 0 {
            key.push((of_key, name.clone()));
        }
        columns.push(RowSetColumn {
            kind: ColumnKind::Loose(affinity(&native_type)),
            nullable: !row.get::<_, bool>(2)?,
            name,
            native_type,
        });
    }
    key.sort();
    // The row's number itself is never NULL.
    if let [(_, only)] = key.as_slice()
        && let Some(column) = columns
            .iter_mut()
            .find(|column| column.name == *only && column.native_type.eq_ignore_ascii_case("integer"))
    {
        column.nullable = false;
    }
    let mut key: Vec<String> = key.into_iter().map(|(_, name)| name).collect();
    if key.is_empty() {
        let mut indexes = connection.prepare(
            "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND NOT partial ORDER BY seq",
        )?;
        let names: Vec<String> =
            indexes.query_map([&table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for index in names {
            let mut parts = connection.prepare("SELECT name FROM pragma_index_info(?1) ORDER BY seqno")?;
            let of_index: Vec<Option<String>> =
                parts.query_map([&index], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            let whole: Option<Vec<String>> = of_index.into_iter().collect();
            if let Some(whole) = whole
                && whole
                    .iter()
                    .all(|name| columns.iter().any(|column| column.name == *name && !column.nullable))
            {
                key = whole;
                break;
            }
        }
    }
    let quoted = format!("main.{}", quote_identifier(&table));
    let counted: i64 = connection.query_row(
        &format!("SELECT count(*) FROM (SELECT 1 FROM {quoted} LIMIT {ROWS_COUNTED_MAX})"),
        [],
        |row| row.get(0),
    )?;
    let highest = || -> rusqlite::Result<i64> {
        connection.query_row(&format!("SELECT max(rowid) FROM {quoted}"), [], |row| row.get(0))
    };
    let rows = if counted == ROWS_COUNTED_MAX { highest().unwrap_or(counted).max(counted) } else { counted };
    Ok(RowSetTable {
        name: table,
        columns,
        key,
        rows_estimated: u64::try_from(rows).unwrap_or(0),
        hashes: vec![RowHash::Fast, RowHash::Md5],
        samples: false,
    })
}

/// A part of a key in its order: numbers before everything else, as SQLite has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Number(i64),
    Bytes(Vec<u8>),
}

type Ordered = Vec<Part>;

/// What statements need to know; the same for all calls.
struct Shape {
    /// Quoted columns of the key, each in byte order.
    key: Vec<(String, Form)>,
    columns: Vec<(String, Form)>,
    from: String,
    filter: String,
    hash: RowHash,
    /// An index gives ranges of keys; not any more once a key was seen that is not stored in its form.
    indexed: AtomicBool,
}

struct SqliteRows<'a> {
    store: &'a SqliteStore,
    connection: Option<Connection>,
    shape: Arc<Shape>,
    timeout: std::time::Duration,
    traffic: RowTraffic,
}

#[async_trait]
impl RowSets for SqliteStore {
    async fn describe(&self, ctx: &Context, table: &str) -> Result<RowSetTable, Error> {
        let name = table.to_owned();
        self.read(ctx, None, move |connection, stop| {
            describe(connection, &name).map_err(|error| not_found(&error, &name, stop))
        })
        .await
    }

    async fn open_rows<'a>(
        &'a self,
        ctx: &Context,
        spec: &RowSetSpec,
    ) -> Result<Box<dyn RowSet + 'a>, Error> {
        let (file, spec, timeout) = (self.file.clone(), spec.clone(), spec.statement_timeout);
        let opened = on_thread(ctx, &self.closed, Some(timeout), move |stop| {
            let mut connection = file.reader(stop)?;
            let shape = shape(&mut connection, &spec, stop)?;
            Ok((connection, shape))
        });
        let (connection, shape) = opened.await.map_err(|error| error.with("store", &self.name))?;
        Ok(Box::new(SqliteRows {
            store: self,
            connection: Some(connection),
            shape: Arc::new(shape),
            timeout,
            traffic: RowTraffic::default(),
        }))
    }
}

fn not_found(error: &rusqlite::Error, name: &str, stop: &Stop) -> Error {
    match error {
        rusqlite::Error::QueryReturnedNoRows => {
            Error::new(ErrorKind::NotFound, format!("there is no table or view `{name}`"))
                .hint("`steward store inspect NAME` lists them")
        }
        error => translate(error, stop),
    }
}

fn shape(connection: &mut Connection, spec: &RowSetSpec, stop: &Stop) -> Result<Shape, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let described =
        describe(connection, &spec.table).map_err(|error| not_found(&error, &spec.table, stop))?;
    for field in spec.key.iter().chain(&spec.columns) {
        if !described.columns.iter().any(|column| column.name == field.column) {
            let names: Vec<&str> = described.columns.iter().map(|column| column.name.as_str()).collect();
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("`{}` has no column `{}`", described.name, field.column),
            )
            .hint(format!("it has: {}", names.join(", "))));
        }
    }
    only_reads(connection).map_err(failed)?;
    let fields = |fields: &[contract::RowSetField]| {
        fields.iter().map(|field| (quote_identifier(&field.column), field.form)).collect::<Vec<_>>()
    };
    let (key, columns) = (fields(&spec.key), fields(&spec.columns));
    let shape = Shape {
        from: format!("main.{}", quote_identifier(&described.name)),
        filter: spec.filter.as_ref().map_or_else(String::new, |filter| format!(" AND ({filter}\n)")),
        hash: spec.hash,
        indexed: AtomicBool::new(false),
        key,
        columns,
    };
    // Also tells whether the filter is a condition.
    let sql = format!("EXPLAIN QUERY PLAN {}", shape.range_sql("1", true, true));
    let native = shape.key.iter().all(|(_, form)| matches!(form, Form::Integer | Form::Text | Form::Bytes));
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let plan: Vec<String> =
        statement.raw_query().mapped(|row| row.get(3)).collect::<rusqlite::Result<_>>().map_err(failed)?;
    let searched = plan.first().is_some_and(|line| line.starts_with("SEARCH"));
    shape.indexed.store(native && searched, Ordering::Relaxed);
    Ok(shape)
}

impl Shape {
    fn keys(&self) -> String {
        self.key.iter().map(|(column, _)| column.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Key and columns, one after the other.
    fn all(&self) -> String {
        let all: Vec<&str> =
            self.key.iter().chain(&self.columns).map(|(column, _)| column.as_str()).collect();
        all.join(", ")
    }

    fn ordered(&self) -> String {
        let key: Vec<String> =
            self.key.iter().map(|(column, _)| format!("{column} COLLATE BINARY")).collect();
        format!("({})", key.join(", "))
    }

    fn placeholders(&self, first: usize) -> String {
        let places: Vec<String> = (0..self.key.len()).map(|i| format!("?{}", first + i)).collect();
        format!("({})", places.join(", "))
    }

    fn range_sql(&self, what: &str, from: bool, to: bool) -> String {
        let from_sql =
            if from { format!(" AND {} >= {}", self.ordered(), self.placeholders(1)) } else { String::new() };
        let first = if from { self.key.len() + 1 } else { 1 };
        let to_sql = if to {
            format!(" AND {} < {}", self.ordered(), self.placeholders(first))
        } else {
            String::new()
        };
        format!("SELECT {what} FROM {} WHERE true{}{from_sql}{to_sql}", self.from, self.filter)
    }

    /// The key of a row in order; `None` if a part is NULL.
    fn key_of(&self, row: &Row<'_>, scratch: &mut Vec<u8>) -> rusqlite::Result<Option<Ordered>> {
        let mut key = Vec::with_capacity(self.key.len());
        for (i, (_, form)) in self.key.iter().enumerate() {
            let value = row.get_ref(i)?;
            if let (Form::Integer, ValueRef::Integer(number)) = (form, value) {
                key.push(Part::Number(number));
                continue;
            }
            scratch.clear();
            match canonical::plain(*form, value, scratch) {
                Fit::Null => return Ok(None),
                Fit::Odd => self.indexed.store(false, Ordering::Relaxed),
                Fit::Fits => {}
            }
            key.push(Part::Bytes(scratch.clone()));
        }
        Ok(Some(key))
    }

    /// The hash of a row that was selected by [`Shape::all`].
    fn hash_of(&self, row: &Row<'_>, scratch: &mut Vec<u8>) -> rusqlite::Result<[i64; 2]> {
        scratch.clear();
        for (i, (_, form)) in self.key.iter().chain(&self.columns).enumerate() {
            canonical::encode(*form, row.get_ref(i)?, scratch);
            scratch.push(b';');
        }
        Ok(canonical::hash(self.hash, scratch))
    }

    /// A key as it was given, in order.
    fn order(&self, key: &RowKey) -> Ordered {
        self.key
            .iter()
            .zip(key)
            .map(|((_, form), part)| match (form, part.parse::<i64>()) {
                (Form::Integer, Ok(number)) => Part::Number(number),
                _ => Part::Bytes(part.as_bytes().to_vec()),
            })
            .collect()
    }

    /// The key as values to bind.
    fn bound(&self, key: &RowKey) -> Vec<Value> {
        self.key
            .iter()
            .zip(key)
            .map(|((_, form), part)| match form {
                Form::Integer => part.parse().map_or_else(|_| Value::Text(part.clone()), Value::Integer),
                Form::Bytes => Value::Blob(
                    part.as_bytes()
                        .chunks(2)
                        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                        .collect(),
                ),
                _ => Value::Text(part.clone()),
            })
            .collect()
    }
}

fn shown(key: &Ordered) -> RowKey {
    key.iter()
        .map(|part| match part {
            Part::Number(number) => number.to_string(),
            Part::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        })
        .collect()
}

/// Ordered ranges that are looked up by key.
struct Places {
    from: Vec<Option<Ordered>>,
    to: Vec<Option<Ordered>>,
}

impl Places {
    fn new(shape: &Shape, ranges: &[KeyRange]) -> Self {
        let order = |key: &Option<RowKey>| key.as_ref().map(|key| shape.order(key));
        Self {
            from: ranges.iter().map(|range| order(&range.from)).collect(),
            to: ranges.iter().map(|range| order(&range.to)).collect(),
        }
    }

    fn of(&self, key: &Ordered) -> Option<usize> {
        let behind = self.from.partition_point(|from| from.as_ref().is_none_or(|from| from <= key));
        let place = behind.checked_sub(1)?;
        self.to[place].as_ref().is_none_or(|to| key < to).then_some(place)
    }
}

/// What a pass over the table gives besides its answer.
#[derive(Default)]
struct Passed {
    statements: u64,
    rows: u64,
    digests: u64,
    bytes: u64,
}

fn cover_all(ranges: &[KeyRange]) -> bool {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return false };
    first.from.is_none() && last.to.is_none() && ranges.windows(2).all(|pair| pair[0].to == pair[1].from)
}

/// Reads what `what` selects of the rows in the ranges, and gives each with its range.
fn each_in_ranges(
    connection: &Connection,
    shape: &Shape,
    ranges: &[KeyRange],
    what: &str,
    passed: &mut Passed,
    mut row: impl FnMut(usize, &Ordered, &Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut scratch = Vec::new();
    if shape.indexed.load(Ordering::Relaxed) && !cover_all(ranges) {
        for (i, range) in ranges.iter().enumerate() {
            let sql = shape.range_sql(what, range.from.is_some(), range.to.is_some());
            let mut statement = connection.prepare_cached(&sql)?;
            let bounds: Vec<Value> =
                range.from.iter().chain(&range.to).flat_map(|key| shape.bound(key)).collect();
            let mut rows = statement.query(rusqlite::params_from_iter(bounds))?;
            while let Some(found) = rows.next()? {
                if let Some(key) = shape.key_of(found, &mut scratch)? {
                    row(i, &key, found)?;
                }
            }
            passed.statements += 1;
        }
        return Ok(());
    }
    let places = Places::new(shape, ranges);
    let mut statement = connection.prepare(&shape.range_sql(what, false, false))?;
    let mut rows = statement.query([])?;
    while let Some(found) = rows.next()? {
        if let Some(key) = shape.key_of(found, &mut scratch)?
            && let Some(place) = places.of(&key)
        {
            row(place, &key, found)?;
        }
    }
    passed.statements += 1;
    Ok(())
}

/// Reads what `what` selects of the rows with these keys.
fn each_of_keys(
    connection: &Connection,
    shape: &Shape,
    keys: &[RowKey],
    what: &str,
    passed: &mut Passed,
    mut row: impl FnMut(&Ordered, &Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut scratch = Vec::new();
    if shape.indexed.load(Ordering::Relaxed) {
        let sql = format!(
            "SELECT {what} FROM {} WHERE {} = {}{}",
            shape.from,
            shape.ordered(),
            shape.placeholders(1),
            shape.filter
        );
        let mut statement = connection.prepare(&sql)?;
        for key in keys {
            let mut rows = statement.query(rusqlite::params_from_iter(shape.bound(key)))?;
            while let Some(found) = rows.next()? {
                if let Some(key) = shape.key_of(found, &mut scratch)? {
                    row(&key, found)?;
                }
            }
            passed.statements += 1;
        }
        return Ok(());
    }
    let wanted: HashSet<Ordered> = keys.iter().map(|key| shape.order(key)).collect();
    let mut statement = connection.prepare(&shape.range_sql(what, false, false))?;
    let mut rows = statement.query([])?;
    while let Some(found) = rows.next()? {
        if let Some(key) = shape.key_of(found, &mut scratch)?
            && wanted.contains(&key)
        {
            row(&key, found)?;
        }
    }
    passed.statements += 1;
    Ok(())
}

impl SqliteRows<'_> {
    /// Runs `work` on the snapshot's connection; a failure ends the snapshot.
    async fn on_snapshot<T: Send + 'static>(
        &mut self,
        ctx: &Context,
        work: impl FnOnce(&Connection, &Shape, &mut Passed) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let mut connection = self.connection.take().ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "the snapshot has ended").with("store", &self.store.name)
        })?;
        let shape = Arc::clone(&self.shape);
        let lock_timeout = self.store.file.lock_timeout;
        let answer = on_thread(ctx, &self.store.closed, Some(self.timeout), move |stop| {
            let failed = |error: rusqlite::Error| translate(&error, stop);
            watch(&mut connection, stop, lock_timeout).map_err(failed)?;
            let mut passed = Passed::default();
            let answer = work(&connection, &shape, &mut passed).map_err(failed)?;
            Ok((connection, answer, passed))
        });
        let (connection, answer, passed) =
            answer.await.map_err(|error| error.with("store", &self.store.name))?;
        self.connection = Some(connection);
        self.traffic.statements += passed.statements;
        self.traffic.rows += passed.rows;
        self.traffic.digests += passed.digests;
        self.traffic.bytes += passed.bytes;
        Ok(answer)
    }
}

fn key_bytes(key: &RowKey) -> u64 {
    key.iter().map(|part| part.len() as u64).sum()
}

#[async_trait]
impl RowSet for SqliteRows<'_> {
    async fn keyless(&mut self, ctx: &Context) -> Result<u64, Error> {
        self.on_snapshot(ctx, |connection, shape, passed| {
            let tests: Vec<String> =
                shape.key.iter().map(|(column, _)| format!("{column} IS NULL")).collect();
            let sql =
                format!("SELECT count(*) FROM {} WHERE ({}){}", shape.from, tests.join(" OR "), shape.filter);
            passed.statements += 1;
            passed.bytes += 8;
            connection
                .query_row(&sql, [], |row| row.get::<_, i64>(0))
                .map(|rows| u64::try_from(rows).unwrap_or(0))
        })
        .await
    }

    async fn quantiles(&mut self, ctx: &Context, parts: usize) -> Result<Vec<RowKey>, Error> {
        self.on_snapshot(ctx, move |connection, shape, passed| {
            let most = parts.saturating_mul(SAMPLED_PER_PART).max(2);
            let mut statement = connection.prepare(&shape.range_sql(&shape.keys(), false, false))?;
            let mut rows = statement.query([])?;
            let (mut sample, mut scratch): (Vec<Ordered>, Vec<u8>) = (Vec::new(), Vec::new());
            let (mut seen, mut step) = (0_usize, 1_usize);
            while let Some(row) = rows.next()? {
                if seen.is_multiple_of(step) {
                    if sample.len() == most {
                        let mut kept = 0;
                        sample.retain(|_| {
                            kept += 1;
                            kept % 2 == 1
                        });
                        step *= 2;
                    }
                    if seen.is_multiple_of(step)
                        && let Some(key) = shape.key_of(row, &mut scratch)?
                    {
                        sample.push(key);
                    }
                }
                seen += 1;
            }
            passed.statements += 1;
            sample.sort();
            sample.dedup();
            let every = sample.len().div_ceil(parts.max(1)).max(1);
            let keys: Vec<RowKey> = sample.iter().skip(every).step_by(every).map(shown).collect();
            passed.bytes += keys.iter().map(key_bytes).sum::<u64>();
            Ok(keys)
        })
        .await
    }

    async fn cuts(&mut self, ctx: &Context, ranges: &[(KeyRange, u64)]) -> Result<Vec<Vec<RowKey>>, Error> {
        let (ranges, steps): (Vec<KeyRange>, Vec<u64>) = ranges.iter().cloned().unzip();
        self.on_snapshot(ctx, move |connection, shape, passed| {
            let mut keys: Vec<Vec<Ordered>> = vec![Vec::new(); ranges.len()];
            let what = shape.keys();
            each_in_ranges(connection, shape, &ranges, &what, passed, |range, key, _| {
                keys[range].push(key.clone());
                Ok(())
            })?;
            let mut out = Vec::new();
            for ((mut keys, step), range) in keys.into_iter().zip(steps).zip(&ranges) {
                keys.sort();
                let step = usize::try_from(step).unwrap_or(usize::MAX).max(1);
                let mut cuts: Vec<RowKey> = keys.iter().skip(step).step_by(step).map(shown).collect();
                cuts.dedup();
                cuts.retain(|key| range.from.as_ref() != Some(key));
                passed.bytes += cuts.iter().map(key_bytes).sum::<u64>();
                out.push(cuts);
            }
            Ok(out)
        })
        .await
    }

    async fn digests(&mut self, ctx: &Context, ranges: &[KeyRange]) -> Result<Vec<RangeDigest>, Error> {
        let ranges = ranges.to_vec();
        self.on_snapshot(ctx, move |connection, shape, passed| {
            let mut out = vec![RangeDigest::default(); ranges.len()];
            let mut scratch = Vec::new();
            each_in_ranges(connection, shape, &ranges, &shape.all(), passed, |range, _, row| {
                let hash = shape.hash_of(row, &mut scratch)?;
                let digest = &mut out[range];
                digest.rows += 1;
                digest.sums[0] += i128::from(hash[0]);
                digest.sums[1] += i128::from(hash[1]);
                Ok(())
            })?;
            passed.digests += out.len() as u64;
            passed.bytes += out.len() as u64 * 24;
            Ok(out)
        })
        .await
    }

    async fn entries(&mut self, ctx: &Context, choice: RowChoice<'_>) -> Result<Vec<RowEntry>, Error> {
        let (ranges, keys) = match choice {
            RowChoice::Ranges(ranges) => (Some(ranges.to_vec()), Vec::new()),
            RowChoice::Keys(keys) => (None, keys.to_vec()),
        };
        self.on_snapshot(ctx, move |connection, shape, passed| {
            let mut out = Vec::new();
            let mut scratch = Vec::new();
            let mut entry = |key: &Ordered, row: &Row<'_>| {
                out.push(RowEntry { key: shown(key), hash: shape.hash_of(row, &mut scratch)? });
                Ok(())
            };
            match ranges {
                Some(ranges) => {
                    each_in_ranges(connection, shape, &ranges, &shape.all(), passed, |_, key, row| {
                        entry(key, row)
                    })?;
                }
                None => each_of_keys(connection, shape, &keys, &shape.all(), passed, entry)?,
            }
            passed.rows += out.len() as u64;
            passed.bytes += out.iter().map(|entry| key_bytes(&entry.key) + 16).sum::<u64>();
            Ok(out)
        })
        .await
    }

    async fn rows(&mut self, ctx: &Context, keys: &[RowKey]) -> Result<Vec<(RowKey, Vec<String>)>, Error> {
        let keys = keys.to_vec();
        self.on_snapshot(ctx, move |connection, shape, passed| {
            let mut out = Vec::new();
            let mut bytes = 0;
            each_of_keys(connection, shape, &keys, &shape.all(), passed, |key, row| {
                let mut values = Vec::new();
                for (i, (_, form)) in shape.columns.iter().enumerate() {
                    let mut value = Vec::new();
                    canonical::encode(*form, row.get_ref(shape.key.len() + i)?, &mut value);
                    bytes += value.len() as u64;
                    values.push(String::from_utf8_lossy(&value).into_owned());
                }
                out.push((shown(key), values));
                Ok(())
            })?;
            passed.rows += out.len() as u64;
            passed.bytes += bytes;
            Ok(out)
        })
        .await
    }

    fn statement(&self) -> String {
        self.shape.range_sql(&self.shape.all(), false, false)
    }

    fn traffic(&self) -> RowTraffic {
        self.traffic
    }

    async fn close(mut self: Box<Self>) {
        if let Some(connection) = self.connection.take() {
            // Closing waits for the operating system.
            tokio::task::spawn_blocking(move || drop(connection)).await.ok();
        }
    }
}
