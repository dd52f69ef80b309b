//! Rows that are moved out of a table, deleted or put back by a rule.
//!
//! Values travel as the server's texts, in the form that the session's settings fix; what a text says is kept by its type.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use contract::cold::{
    ColdCount, ColdPage, ColdRows, ColdSelection, ColdTable, Fate, OlderThan, Referrer, Return, TimeUnit,
};
use contract::columnar::{Cell, Column, ColumnKind, Row, encode_row, from_hex};
use contract::{Context, Error, ErrorKind, Permit, Plan, RecoveryPoint, Relational, ReplicaLag, Store};
use futures::TryStreamExt;
use schema::{Table, TableName};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::error::translate;
use crate::execute::{lock, replication};
use crate::session::{Purpose, Session};
use crate::statement::{TextValue, quote_identifier};
use crate::store::{Next, PostgresStore, View};

/// Rows that are handed over at once.
const ROWS_AT_ONCE: usize = 1_000;
/// Longest time for a count or an export, where the context has no end of its own.
const SCAN_TIMEOUT: Duration = Duration::from_hours(24);
/// Longest wait for the answer to COMMIT.
const COMMIT_TIMEOUT: Duration = Duration::from_mins(1);

fn failed(error: &tokio_postgres::Error) -> Error {
    translate(error)
}

/// What the values of a type are.
fn kind(native: &str) -> ColumnKind {
    let base = native.split('(').next().unwrap_or_default().trim_end();
    let with_zone = native.ends_with("with time zone");
    match base {
        "boolean" => ColumnKind::Boolean,
        "smallint" | "integer" => ColumnKind::Int32,
        "bigint" => ColumnKind::Int64,
        "real" => ColumnKind::Float32,
        "double precision" => ColumnKind::Float64,
        "json" | "jsonb" => ColumnKind::Json,
        "uuid" => ColumnKind::Uuid,
        "bytea" => ColumnKind::Bytes,
        "date" => ColumnKind::Date,
        "numeric" if !native.ends_with("[]") => decimal(native).unwrap_or(ColumnKind::Text),
        "time without time zone" => ColumnKind::Time,
        "time" if native.ends_with("without time zone") => ColumnKind::Time,
        "timestamp with time zone" => ColumnKind::TimestampUtc,
        "timestamp without time zone" => ColumnKind::Timestamp,
        "timestamp" if with_zone => ColumnKind::TimestampUtc,
        "timestamp" if native.ends_with("without time zone") => ColumnKind::Timestamp,
        _ => ColumnKind::Text,
    }
}

/// `numeric(12,2)`; without digits of its own it is kept as text, with the zeros that each value was written with.
fn decimal(native: &str) -> Option<ColumnKind> {
    let (precision, scale) = native
        .strip_prefix("numeric(")?
        .strip_suffix(')')?
        .split_once(',')
        .map(|(p, s)| (p.trim(), s.trim()))?;
    let (precision, scale) = (precision.parse::<u8>().ok()?, scale.parse::<u8>().ok()?);
    (precision <= 38 && scale <= precision).then_some(ColumnKind::Decimal { precision, scale })
}

/// A text of the server as a value of this kind; one that the kind cannot hold stays text, such as `infinity`.
fn cell(text: Option<&str>, kind: ColumnKind) -> Cell {
    let Some(text) = text else { return Cell::Null };
    let known = match kind {
        ColumnKind::Boolean => match text {
            "true" => Some(Cell::Bool(true)),
            "false" => Some(Cell::Bool(false)),
            _ => None,
        },
        ColumnKind::Int32 | ColumnKind::Int64 => text.parse().ok().map(Cell::Int),
        ColumnKind::Float32 => text.parse::<f32>().ok().map(|value| Cell::Float(f64::from(value))),
        ColumnKind::Float64 => text.parse::<f64>().ok().map(Cell::Float),
        ColumnKind::Decimal { precision, scale } => number(text, precision, scale).map(Cell::Decimal),
        ColumnKind::Uuid => from_hex(&text.replace('-', "")).map(Cell::Bytes),
        ColumnKind::Bytes => text.strip_prefix("\\x").and_then(from_hex).map(Cell::Bytes),
        ColumnKind::Date => text.parse::<jiff::civil::Date>().ok().and_then(day).map(Cell::Int),
        ColumnKind::Time => us(text).map(Cell::Int),
        ColumnKind::Timestamp => moment(text).map(Cell::Int),
        ColumnKind::TimestampUtc => text.strip_suffix("+00").and_then(moment).map(Cell::Int),
        ColumnKind::Text | ColumnKind::Json => None,
    };
    known.unwrap_or_else(|| Cell::Text(text.to_owned()))
}

fn number(text: &str, precision: u8, scale: u8) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() != usize::from(scale) {
        return None;
    }
    let value: i128 = format!("{whole}{fraction}").parse().ok()?;
    (value.unsigned_abs() < 10_u128.pow(u32::from(precision))).then_some(value)
}

fn day(date: jiff::civil::Date) -> Option<i64> {
    let since = date.since((jiff::Unit::Day, jiff::civil::date(1970, 1, 1))).ok()?;
    // Year 0 and earlier are written as BC, which is not read here.
    (date.year() > 0).then(|| i64::from(since.get_days()))
}

/// `05:06:07.89` in microseconds; also `24:00:00`.
fn us(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || fraction.len() > 6 {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction)
}

/// `2026-03-04 05:06:07.89`.
fn moment(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(' ')?;
    let day = day(date.parse().ok()?)?;
    day.checked_mul(86_400_000_000)?.checked_add(us(time)?)
}

fn same(one: &[Cell], other: &[Cell]) -> bool {
    let encoded = |row: &[Cell]| {
        let mut out = Vec::new();
        encode_row(row, &mut out);
        out
    };
    encoded(one) == encoded(other)
}

fn quoted(table: &TableName) -> String {
    format!("{}.{}", quote_identifier(&table.namespace), quote_identifier(&table.name))
}

fn names(columns: &[String]) -> String {
    columns.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ")
}

fn native<'a>(table: &'a ColdTable, name: &str) -> &'a str {
    table.columns.iter().find(|column| column.name == *name).map_or("text", |column| &column.native_type)
}

/// All columns as texts. They get no name of a column: ORDER BY would sort by the text.
fn texts(table: &ColdTable, of: &str) -> String {
    let one = |(place, column): (usize, &Column)| {
        format!("{of}{}::text AS \"steward text {place}\"", quote_identifier(&column.name))
    };
    table.columns.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
}

fn row_of(row: &tokio_postgres::Row, table: &ColdTable) -> Result<Row, Error> {
    let one = |(place, column): (usize, &Column)| {
        row.try_get::<_, Option<&str>>(place)
            .map(|text| cell(text, column.kind))
            .map_err(|error| failed(&error))
    };
    table.columns.iter().enumerate().map(one).collect()
}

/// `unnest($1::text[], $2::text[]) WITH ORDINALITY`, and its columns' names.
fn unnested(count: usize) -> String {
    let places: Vec<String> = (1..=count).map(|place| format!("${place}::text[]")).collect();
    let names: Vec<String> = (0..count).map(|place| format!("\"steward key {place}\"")).collect();
    format!(
        "unnest({}) WITH ORDINALITY AS \"steward keys\" ({}, \"steward number\")",
        places.join(", "),
        names.join(", ")
    )
}

/// Each column equals the key of the same number.
fn equal(of: &str, columns: &[String], types: &[&str]) -> String {
    let one = |(place, name): (usize, &String)| {
        format!("{of}{} = \"steward keys\".\"steward key {place}\"::{}", quote_identifier(name), types[place])
    };
    columns.iter().enumerate().map(one).collect::<Vec<_>>().join(" AND ")
}

/// The texts of these places of all rows, one list for each.
fn lists(table: &ColdTable, places: &[usize], rows: &[&Row]) -> Vec<Vec<Option<String>>> {
    let list = |place: &usize| rows.iter().map(|row| row[*place].text(table.columns[*place].kind)).collect();
    places.iter().map(list).collect()
}

fn bound(lists: &[Vec<Option<String>>]) -> Vec<&(dyn ToSql + Sync)> {
    lists.iter().map(|list| list as _).collect()
}

/// What is meant, as a condition with the value of `$1`.
fn meant(table: &ColdTable, selection: &ColdSelection) -> Result<(String, Vec<TextValue>), Error> {
    let (mut condition, mut values) = ("true".to_owned(), Vec::new());
    if let Some(OlderThan { column, before, before_local, unit }) = &selection.older {
        let native = native(table, column);
        let (cast, value) = match kind(native) {
            ColumnKind::TimestampUtc => ("timestamptz", before.to_string()),
            ColumnKind::Timestamp => ("timestamp", before_local.clone()),
            ColumnKind::Date => ("date", before_local.get(..10).unwrap_or(before_local).to_owned()),
            ColumnKind::Int32 | ColumnKind::Int64 => {
                let seconds = before.as_second();
                let number = match unit {
                    TimeUnit::Seconds => seconds,
                    TimeUnit::Milliseconds => seconds.saturating_mul(1_000),
                };
                ("bigint", number.to_string())
            }
            _ => {
                return Err(Error::new(ErrorKind::Invalid, format!("the column `{column}` holds no times"))
                    .with("type", native)
                    .hint("`by` names a column of dates, timestamps, or seconds since 1970"));
            }
        };
        condition = format!("{} < $1::text::{cast}", quote_identifier(column));
        values.push(TextValue::new(&Value::String(value))?);
    }
    if let Some(filter) = &selection.filter {
        condition = format!("({condition}) AND ({filter})");
    }
    Ok((format!("({condition})"), values))
}

fn held(selection: &ColdSelection) -> String {
    if selection.holds.is_empty() {
        return "false".to_owned();
    }
    selection.holds.iter().map(|hold| format!("(({hold}) IS TRUE)")).collect::<Vec<_>>().join(" OR ")
}

fn dynamic(values: &[TextValue]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}

async fn one_count(client: &Client, sql: &str, values: &[TextValue]) -> Result<u64, Error> {
    let row = client.query_one(sql, &dynamic(values)).await.map_err(|error| failed(&error))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

async fn count_of(client: &Client, table: &ColdTable, selection: &ColdSelection) -> Result<ColdCount, Error> {
    let (meant, values) = meant(table, selection)?;
    let (own, held) = (&table.name, held(selection));
    let rows = format!("SELECT count(*) FROM {own} WHERE {meant} AND NOT ({held})");
    let rows = one_count(client, &rows, &values).await?;
    let held_rows = format!("SELECT count(*) FROM {own} WHERE {meant} AND ({held})");
    let mut count =
        ColdCount { rows, held: one_count(client, &held_rows, &values).await?, referred: Vec::new() };
    for other in &table.referrers {
        // The rows are chosen inside, where the names of the rule's expressions mean this table alone.
        let sql = format!(
            "SELECT count(*) FROM {} WHERE ({}) IN (SELECT {} FROM {own} WHERE {meant} AND NOT ({held}))",
            other.table,
            names(&other.columns),
            names(&other.parent_columns)
        );
        let rows = one_count(client, &sql, &values).await?;
        if rows > 0 {
            count.referred.push((other.name.clone(), rows));
        }
    }
    Ok(count)
}

/// The columns that tell a row from every other.
fn key_of(table: &Table) -> Option<Vec<String>> {
    let not_null = |columns: &[String]| {
        columns.iter().all(|name| table.columns.iter().any(|column| column.name == *name && !column.nullable))
    };
    let primary = table.primary_key.as_ref().map(|key| key.columns.clone());
    primary
        .or_else(|| table.unique_keys.iter().map(|key| key.columns.clone()).find(|columns| not_null(columns)))
}

/// The table as an archive needs it.
fn describe(schema: &schema::Schema, name: &TableName, identity: String) -> Result<ColdTable, Error> {
    let Some(table) = schema.tables.iter().find(|table| table.name == *name) else {
        if schema.views.iter().any(|view| view.name == *name) {
            return Err(Error::new(ErrorKind::Invalid, format!("`{}` is a view", name.name))
                .hint("name the table that holds the rows"));
        }
        return Err(Error::new(ErrorKind::NotFound, format!("there is no table `{}`", quoted(name)))
            .hint("a table outside of `public` is named with its schema: `sales.orders`"));
    };
    let key = key_of(table).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("the table `{}` has no key", table.name.name))
            .hint("rows are told apart by a primary key, or a unique key whose columns are NOT NULL; add one")
    })?;
    // What the server computes from the other columns it computes again; an identity is a value of its own.
    let computed =
        |text: &Option<String>| text.as_ref().is_some_and(|text| text.starts_with("GENERATED ALWAYS AS ("));
    let columns: Vec<Column> = table
        .columns
        .iter()
        .filter(|column| !computed(&column.generated))
        .map(|column| {
            // A collation may follow the type; the values are the same with another.
            let native = column.native_type.split(" COLLATE ").next().unwrap_or_default();
            Column {
                name: column.name.clone(),
                kind: kind(native),
                native_type: native.to_owned(),
                nullable: column.nullable,
            }
        })
        .collect();
    let mut referrers = Vec::new();
    for other in &schema.tables {
        for foreign in other.foreign_keys.iter().filter(|it| it.parent == *name) {
            referrers.push(Referrer {
                table: quoted(&other.name),
                name: format!("{} of {}", foreign.name, other.name.name),
                columns: foreign.columns.clone(),
                parent_columns: foreign.parent_columns.clone(),
            });
        }
    }
    let defined = columns.iter().map(|column| {
        let null = if column.nullable { "" } else { " NOT NULL" };
        format!("{} {}{null}", quote_identifier(&column.name), column.native_type)
    });
    let create = format!(
        "CREATE TABLE {{{{table}}}} ({}, PRIMARY KEY ({}))",
        defined.collect::<Vec<_>>().join(", "),
        names(&key)
    );
    Ok(ColdTable { name: quoted(name), columns, key, referrers, identity, create })
}

async fn set_path(client: &Client, path: &str) -> Result<(), Error> {
    let set = client.execute("SELECT pg_catalog.set_config('search_path', $1, true)", &[&path]).await;
    set.map(drop).map_err(|error| failed(&error))
}

/// Refuses a table whose columns or types are others than when the plan was made. The lock on its rows keeps it so.
async fn unchanged(client: &Client, table: &ColdTable) -> Result<(), Error> {
    // Types are named as where the table was described: with their schemas. Triggers find theirs by the path that is set.
    let path = client
        .query_one("SELECT pg_catalog.current_setting('search_path')", &[])
        .await
        .map_err(|error| failed(&error))?
        .get::<_, String>(0);
    set_path(client, "pg_catalog").await?;
    let now = client
        .query(
            "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped \
             AND a.attgenerated = '' ORDER BY a.attnum",
            &[&table.name],
        )
        .await
        .map_err(|error| failed(&error))?;
    set_path(client, &path).await?;
    let now: Vec<(String, String)> = now.iter().map(|row| (row.get(0), row.get(1))).collect();
    let then: Vec<(String, String)> =
        table.columns.iter().map(|column| (column.name.clone(), column.native_type.clone())).collect();
    if now == then {
        return Ok(());
    }
    let differs = now
        .iter()
        .find(|column| !then.contains(column))
        .or_else(|| then.iter().find(|column| !now.contains(column)));
    let differs =
        differs.map_or_else(|| "their order".to_owned(), |(name, native)| format!("{name} {native}"));
    Err(Error::new(ErrorKind::Conflict, "the table has other columns than when it was archived")
        .with("table", &table.name)
        .with("column", differs)
        .with_retry(contract::Retry::Never)
        .hint("nothing was deleted; look at the change, and ask for the archive again"))
}

/// Numbers of the rows, counted from 1, that something points at.
async fn referred(client: &Client, table: &ColdTable, rows: &[&Row]) -> Result<HashSet<i64>, Error> {
    let mut found = HashSet::new();
    for other in &table.referrers {
        let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
        let Some(places) = other.parent_columns.iter().map(place).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let types: Vec<&str> = other.parent_columns.iter().map(|name| native(table, name)).collect();
        let sql = format!(
            "SELECT \"steward number\" FROM {} WHERE EXISTS (SELECT 1 FROM {} AS \"steward other\" WHERE {})",
            unnested(places.len()),
            other.table,
            equal("\"steward other\".", &other.columns, &types)
        );
        let lists = lists(table, &places, rows);
        let numbers = client.query(&sql, &bound(&lists)).await.map_err(|error| failed(&error))?;
        found.extend(numbers.iter().map(|row| row.get::<_, i64>(0)));
    }
    Ok(found)
}

async fn delete_rows(
    client: &Client,
    table: &ColdTable,
    selection: &ColdSelection,
    rows: &[Row],
) -> Result<Vec<Fate>, Error> {
    let places = table.key_places();
    let types: Vec<&str> = table.key.iter().map(|name| native(table, name)).collect();
    let (own, keys) = (&table.name, unnested(places.len()));
    let all: Vec<&Row> = rows.iter().collect();
    // Locked, so that what is compared is what is deleted; a foreign key that comes meanwhile waits for the lock too.
    let find = format!(
        "SELECT {}, ({}), \"steward number\" FROM {keys} JOIN {own} AS \"steward own\" ON {} FOR UPDATE OF \"steward own\"",
        texts(table, "\"steward own\"."),
        held(selection),
        equal("\"steward own\".", &table.key, &types)
    );
    let lists_of_all = lists(table, &places, &all);
    let found = client.query(&find, &bound(&lists_of_all)).await.map_err(|error| failed(&error))?;
    unchanged(client, table).await?;
    let mut fates = vec![Fate::Gone; rows.len()];
    let width = table.columns.len();
    for now in &found {
        let number = usize::try_from(now.get::<_, i64>(width + 1) - 1).unwrap_or(usize::MAX);
        let Some(row) = rows.get(number) else { continue };
        fates[number] = if !same(&row_of(now, table)?, row) {
            Fate::Changed
        } else if now.get(width) {
            Fate::Held
        } else {
            Fate::Deleted
        };
    }
    let chosen = |fates: &[Fate]| -> Vec<usize> {
        (0..rows.len()).filter(|number| fates[*number] == Fate::Deleted).collect()
    };
    let candidates = chosen(&fates);
    let rows_of = |numbers: &[usize]| -> Vec<&Row> { numbers.iter().map(|number| &rows[*number]).collect() };
    for number in referred(client, table, &rows_of(&candidates)).await? {
        if let Some(number) = usize::try_from(number - 1).ok().and_then(|number| candidates.get(number)) {
            fates[*number] = Fate::Referred;
        }
    }
    let to_delete = chosen(&fates);
    if to_delete.is_empty() {
        return Ok(fates);
    }
    let delete = format!(
        "DELETE FROM {own} AS \"steward own\" USING {keys} WHERE {}",
        equal("\"steward own\".", &table.key, &types)
    );
    let lists_to_delete = lists(table, &places, &rows_of(&to_delete));
    let deleted = client.execute(&delete, &bound(&lists_to_delete)).await.map_err(|error| failed(&error))?;
    if deleted == to_delete.len() as u64 {
        return Ok(fates);
    }
    Err(Error::new(ErrorKind::Conflict, "a trigger of the table keeps rows from being deleted")
        .with("table", own)
        .with("rows", to_delete.len())
        .with("deleted", deleted))
}

async fn insert_rows(
    client: &Client,
    table: &ColdTable,
    target: &str,
    rows: &[Row],
) -> Result<Vec<Return>, Error> {
    let every: Vec<usize> = (0..table.columns.len()).collect();
    let all: Vec<&Row> = rows.iter().collect();
    let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let values: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .map(|(place, column)| format!("\"steward key {place}\"::{}", column.native_type))
        .collect();
    let places = table.key_places();
    let types: Vec<&str> = table.key.iter().map(|name| native(table, name)).collect();
    let key_texts: Vec<String> =
        table.key.iter().map(|name| format!("{}::text", quote_identifier(name))).collect();
    let insert = format!(
        "INSERT INTO {target} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} ON CONFLICT DO NOTHING RETURNING {}",
        names(&columns),
        values.join(", "),
        unnested(every.len()),
        key_texts.join(", ")
    );
    let lists_of_all = lists(table, &every, &all);
    let inserted = client.query(&insert, &bound(&lists_of_all)).await.map_err(|error| failed(&error))?;
    let inserted: HashSet<Vec<Option<String>>> =
        inserted.iter().map(|row| (0..places.len()).map(|place| row.get(place)).collect()).collect();
    let find = format!(
        "SELECT {}, \"steward number\" FROM {} JOIN {target} AS \"steward own\" ON {}",
        texts(table, "\"steward own\"."),
        unnested(places.len()),
        equal("\"steward own\".", &table.key, &types)
    );
    let keys = lists(table, &places, &all);
    let found = client.query(&find, &bound(&keys)).await.map_err(|error| failed(&error))?;
    let mut out = vec![Return::Conflict; rows.len()];
    for now in &found {
        let number = usize::try_from(now.get::<_, i64>(table.columns.len()) - 1).unwrap_or(usize::MAX);
        let Some(row) = rows.get(number) else { continue };
        let is_same = same(&row_of(now, table)?, row);
        let key: Vec<Option<String>> =
            (0..places.len()).map(|place| now.get::<_, Option<String>>(places[place])).collect();
        out[number] = match (inserted.contains(&key), is_same) {
            (true, true) => Return::Inserted,
            (false, true) => Return::Present,
            (false, false) => Return::Conflict,
            (true, false) => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "a row that was put back is not what the archive holds",
                )
                .with("table", target)
                .hint("a trigger or a changed column makes another row of it; restore into a table beside"));
            }
        };
    }
    Ok(out)
}

impl PostgresStore {
    /// Runs `work` in one transaction of the writing login, under the store's change lock.
    async fn change_rows<T>(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.check(ctx, permit, plan)?;
        let (done, session) = self
            .within(ctx, async {
                let session = self.opener.open(ctx, Purpose::Write).await?;
                self.refuse_shared(&session)?;
                self.refuse_unchangeable(ctx, &session).await?;
                lock(&session.client).await?;
                session.client.batch_execute("BEGIN").await.map_err(|error| failed(&error))?;
                // A session that is dropped takes its transaction back.
                Ok((work(&session.client).await?, session))
            })
            .await?;
        // The next batch has a session of its own, which would wait until the server has noticed that this one is gone.
        let commit = session.client.batch_execute("COMMIT; SELECT pg_catalog.pg_advisory_unlock_all()");
        match tokio::time::timeout(COMMIT_TIMEOUT, commit).await {
            Ok(answer) => answer.map_err(|error| failed(&error))?,
            Err(_) => {
                return Err(Error::new(ErrorKind::Unavailable, "no answer to COMMIT: it may have happened"));
            }
        }
        Ok(done)
    }

    async fn looked<T>(
        &self,
        ctx: &Context,
        view: View,
        work: impl AsyncFnOnce(&Session) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.within(ctx, async {
            let reading = self.begin_reading(ctx, SCAN_TIMEOUT, view).await?;
            let answer = work(reading.session()).await;
            self.end_reading(reading, Next::after(&answer)).await;
            answer
        })
        .await
    }
}

#[async_trait]
impl ColdRows for PostgresStore {
    async fn cold_table(&self, ctx: &Context, table: &TableName) -> Result<ColdTable, Error> {
        let schema = self.inspect(ctx).await?;
        let identity = self.probe(ctx).await?.identity;
        describe(&schema, table, identity)
    }

    async fn cold_count(
        &self,
        ctx: &Context,
        table: &ColdTable,
        selection: &ColdSelection,
    ) -> Result<ColdCount, Error> {
        self.looked(ctx, View::Frozen, async |session| count_of(&session.client, table, selection).await)
            .await
    }

    async fn cold_read(
        &self,
        ctx: &Context,
        table: &ColdTable,
        selection: &ColdSelection,
        page: &ColdPage,
        rows: mpsc::Sender<Vec<Row>>,
    ) -> Result<RecoveryPoint, Error> {
        let (meant, mut values) = meant(table, selection)?;
        let mut sql = format!(
            "SELECT {} FROM {} WHERE {meant} AND NOT ({})",
            texts(table, ""),
            table.name,
            held(selection)
        );
        if let Some(after) = &page.after {
            let mut places = Vec::new();
            for (name, place) in table.key.iter().zip(table.key_places()) {
                let text = after[place].text(table.columns[place].kind);
                values.push(TextValue::new(&text.map_or(Value::Null, Value::String))?);
                places.push(format!("${}::text::{}", values.len(), native(table, name)));
            }
            sql = format!("{sql} AND ({}) > ({})", names(&table.key), places.join(", "));
        }
        sql = format!("{sql} ORDER BY {}", names(&table.key));
        if let Some(rows_max) = page.rows_max {
            sql = format!("{sql} LIMIT {rows_max}");
        }
        let at = ctx.now();
        self.looked(ctx, View::Frozen, async |session| {
            // The first statement fixes the state; whatever is behind this position is not in it.
            let point = session
                .client
                .query_one(include_str!("sql/cold_point.sql"), &[])
                .await
                .map_err(|error| failed(&error))?;
            let stream =
                session.client.query_raw(&sql, values.iter()).await.map_err(|error| failed(&error))?;
            let mut stream = std::pin::pin!(stream);
            let mut piece = Vec::with_capacity(ROWS_AT_ONCE);
            // A receiver that has gone has its own reason, which is the one to report.
            let gone = || Error::new(ErrorKind::Canceled, "nobody takes the rows any more");
            while let Some(row) = stream.try_next().await.map_err(|error| failed(&error))? {
                piece.push(row_of(&row, table)?);
                if piece.len() == ROWS_AT_ONCE {
                    rows.send(std::mem::take(&mut piece)).await.map_err(|_| gone())?;
                }
            }
            if !piece.is_empty() {
                rows.send(piece).await.map_err(|_| gone())?;
            }
            // Kept until here: who takes the rows ends when it is dropped.
            drop(rows);
            let server_us: i64 = point.get("server_us");
            Ok(RecoveryPoint {
                at,
                server_at: jiff::Timestamp::from_microsecond(server_us).ok(),
                position: point.get("position"),
                timeline: None,
            })
        })
        .await
    }

    async fn cold_delete(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        selection: &ColdSelection,
        rows: &[Row],
    ) -> Result<Vec<Fate>, Error> {
        self.change_rows(ctx, permit, plan, async |client| delete_rows(client, table, selection, rows).await)
            .await
    }

    async fn cold_create(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        target: &TableName,
    ) -> Result<(), Error> {
        let create = table.create.replace("{{table}}", &quoted(target));
        self.change_rows(ctx, permit, plan, async |client| {
            client.batch_execute(&create).await.map_err(|error| {
                failed(&error).hint("the writing login makes the table; it needs CREATE on the schema")
            })
        })
        .await
    }

    async fn cold_insert(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        target: &TableName,
        rows: &[Row],
    ) -> Result<Vec<Return>, Error> {
        let target = quoted(target);
        self.change_rows(ctx, permit, plan, async |client| insert_rows(client, table, &target, rows).await)
            .await
    }

    async fn cold_lag(&self, ctx: &Context) -> Result<Vec<ReplicaLag>, Error> {
        let lags = self.looked(ctx, View::Newest, async |session| replication(&session.client).await).await?;
        if lags.iter().all(|lag| lag.bytes.is_some()) {
            return Ok(lags);
        }
        let (watch, _) = self.open_to_watch(ctx).await?;
        self.within(ctx, replication(&watch.client)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_kinds() {
        for (native, expected) in [
            ("integer", ColumnKind::Int32),
            ("bigint", ColumnKind::Int64),
            ("numeric(12,2)", ColumnKind::Decimal { precision: 12, scale: 2 }),
            ("numeric(39,2)", ColumnKind::Text),
            ("numeric(5,-2)", ColumnKind::Text),
            ("numeric(2,5)", ColumnKind::Text),
            ("numeric", ColumnKind::Text),
            ("numeric(12,2)[]", ColumnKind::Text),
            ("integer[]", ColumnKind::Text),
            ("character varying(20)", ColumnKind::Text),
            ("timestamp with time zone", ColumnKind::TimestampUtc),
            ("timestamp(3) with time zone", ColumnKind::TimestampUtc),
            ("timestamp(3) without time zone", ColumnKind::Timestamp),
            ("time(0) without time zone", ColumnKind::Time),
            ("time with time zone", ColumnKind::Text),
            ("timestamp with time zone[]", ColumnKind::Text),
            ("interval", ColumnKind::Text),
            ("jsonb", ColumnKind::Json),
        ] {
            assert_eq!(kind(native), expected, "{native}");
        }
    }

    #[test]
    fn texts_are_values_that_give_the_text_again() {
        for (native, text, is_typed) in [
            ("boolean", "true", true),
            ("integer", "-5", true),
            ("bigint", "9223372036854775807", true),
            ("real", "0.1", true),
            ("double precision", "NaN", true),
            ("double precision", "-Infinity", true),
            ("double precision", "0.30000000000000004", true),
            ("numeric(12,2)", "-1234567890.50", true),
            ("numeric(12,2)", "NaN", false),
            ("uuid", "00010203-0405-0607-0809-0a0b0c0d0e0f", true),
            ("bytea", "\\x00ff", true),
            ("date", "2024-02-29", true),
            ("date", "0001-01-01", true),
            ("date", "9999-12-31", true),
            ("date", "infinity", false),
            ("date", "0044-03-15 BC", false),
            ("date", "20000-01-01", false),
            ("time without time zone", "24:00:00", true),
            ("time without time zone", "05:06:07.000001", true),
            ("timestamp without time zone", "1969-12-31 23:59:59.999999", true),
            ("timestamp with time zone", "2026-03-04 05:06:07.89+00", true),
            ("timestamp with time zone", "-infinity", false),
            ("timestamp with time zone", "0044-03-15 00:00:00+00 BC", false),
            ("interval", "P1Y2M3DT4H5M6.7S", false),
            ("integer[]", "{1,NULL,2}", false),
        ] {
            let value = cell(Some(text), kind(native));
            assert_eq!(value.text(kind(native)).as_deref(), Some(text), "{native}");
            assert_eq!(!matches!(value, Cell::Text(_)), is_typed, "{native} {text} {value:?}");
        }
    }
}
