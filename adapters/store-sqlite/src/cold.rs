//! Rows that are moved out of a table, deleted or put back by a rule.

use async_trait::async_trait;
use contract::cold::{
    ColdCount, ColdPage, ColdRows, ColdSelection, ColdTable, Fate, Referrer, Return, TimeUnit,
};
use contract::columnar::{Cell, Column, ColumnKind, Row, encode_row};
use contract::{Context, Error, ErrorKind, Permit, Plan, RecoveryPoint};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params_from_iter};
use schema::{Table, TableName};
use tokio::sync::mpsc;

use crate::catalog;
use crate::error::translate;
use crate::execute::{LOCK_SUFFIX, lock};
use crate::session::{Stop, beside, on_thread};
use crate::store::SqliteStore;
use crate::text::quote_identifier;

/// Rows that are handed over at once.
const ROWS_AT_ONCE: usize = 1_000;

/// A cell as it is bound.
struct Bound<'a>(&'a Cell);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Cell::Null => ValueRef::Null,
            Cell::Bool(value) => ValueRef::Integer(i64::from(*value)),
            Cell::Int(value) => ValueRef::Integer(*value),
            Cell::Float(value) => ValueRef::Real(*value),
            Cell::Text(value) => ValueRef::Text(value.as_bytes()),
            Cell::Raw(value) => ValueRef::Text(value),
            Cell::Bytes(value) => ValueRef::Blob(value),
            Cell::Decimal(value) => return Ok(ToSqlOutput::from(value.to_string())),
        }))
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Int(value),
        ValueRef::Real(value) => Cell::Float(value),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cell::Text(text.to_owned()),
            Err(_) => Cell::Raw(bytes.to_vec()),
        },
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
    }
}

fn row_of(row: &rusqlite::Row<'_>, columns: usize) -> rusqlite::Result<Row> {
    (0..columns).map(|place| row.get_ref(place).map(cell)).collect()
}

fn same(one: &[Cell], other: &[Cell]) -> bool {
    let encoded = |row: &[Cell]| {
        let mut out = Vec::new();
        encode_row(row, &mut out);
        out
    };
    encoded(one) == encoded(other)
}

/// What a column holds most likely. SQLite takes any value in any column; those of another kind are kept beside it.
///
/// Source: sqlite.org, "Datatypes In SQLite", section 3.1.
fn kind(connection: &Connection, table: &str, name: &str, declared: &str) -> rusqlite::Result<ColumnKind> {
    let declared = declared.split(" COLLATE ").next().unwrap_or_default().to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    Ok(if has(&["INT", "BOOL"]) {
        ColumnKind::Int64
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        ColumnKind::Text
    } else if has(&["BLOB"]) {
        ColumnKind::Bytes
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        ColumnKind::Float64
    } else {
        // The name of the type says nothing: a time can be text or a number. Any value shows what is usual here.
        let column = quote_identifier(name);
        let sql = format!("SELECT typeof({column}) FROM {table} WHERE {column} IS NOT NULL LIMIT 1");
        let found = connection.query_row(&sql, [], |row| row.get::<_, String>(0));
        match found {
            Ok(class) if class == "integer" => ColumnKind::Int64,
            Ok(class) if class == "real" => ColumnKind::Float64,
            Ok(class) if class == "blob" => ColumnKind::Bytes,
            Ok(_) | Err(rusqlite::Error::QueryReturnedNoRows) => ColumnKind::Text,
            Err(error) => return Err(error),
        }
    })
}

fn quoted(table: &TableName) -> String {
    quote_identifier(&table.name)
}

fn names(columns: &[String]) -> String {
    columns.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ")
}

fn all_columns(table: &ColdTable) -> String {
    let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    names(&columns)
}

/// The columns that tell a row from every other.
fn key_of(table: &Table) -> Option<Vec<String>> {
    let not_null = |columns: &[String]| {
        columns.iter().all(|name| table.columns.iter().any(|column| column.name == *name && !column.nullable))
    };
    let primary = table.primary_key.as_ref().map(|key| key.columns.clone());
    let unique = table.unique_keys.iter().map(|key| key.columns.clone()).find(|columns| not_null(columns));
    primary.or(unique)
}

fn describe(connection: &Connection, name: &TableName, path: &str, stop: &Stop) -> Result<ColdTable, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let schema = catalog::inspect(connection, 0).map_err(failed)?;
    let folded = |other: &str| other.eq_ignore_ascii_case(&name.name);
    let Some(table) = schema.tables.iter().find(|table| folded(&table.name.name)) else {
        if schema.views.iter().any(|view| folded(&view.name.name)) {
            return Err(Error::new(ErrorKind::Invalid, format!("`{}` is a view", name.name))
                .hint("name the table that holds the rows"));
        }
        return Err(Error::new(ErrorKind::NotFound, format!("there is no table `{}`", name.name)));
    };
    if table.options.iter().any(|option| option.starts_with("VIRTUAL")) {
        return Err(Error::new(ErrorKind::Invalid, format!("`{}` is a virtual table", table.name.name)));
    }
    let key = key_of(table).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("the table `{}` has no key", table.name.name))
            .hint("rows are told apart by a primary key, or a unique key whose columns are NOT NULL; add one")
    })?;
    let own = quoted(&table.name);
    let stored = table.columns.iter().filter(|column| column.generated.is_none());
    let columns: Vec<Column> = stored
        .map(|column| {
            Ok(Column {
                name: column.name.clone(),
                kind: kind(connection, &own, &column.name, &column.native_type)?,
                native_type: column.native_type.clone(),
                nullable: column.nullable,
            })
        })
        .collect::<rusqlite::Result<_>>()
        .map_err(failed)?;
    let mut referrers = Vec::new();
    for other in &schema.tables {
        for foreign in other.foreign_keys.iter().filter(|it| folded(&it.parent.name)) {
            let columns = foreign.columns.join(", ");
            referrers.push(Referrer {
                table: quoted(&other.name),
                name: format!("{}({columns})", other.name.name),
                columns: foreign.columns.clone(),
                parent_columns: if foreign.parent_columns.is_empty() {
                    key.clone()
                } else {
                    foreign.parent_columns.clone()
                },
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
    Ok(ColdTable { name: own, columns, key, referrers, identity: path.to_owned(), create })
}

/// What is meant, as a condition: the first parameter is the boundary in seconds.
fn older(selection: &ColdSelection) -> (String, Vec<Cell>) {
    let Some(older) = &selection.older else { return ("true".to_owned(), Vec::new()) };
    let column = quote_identifier(&older.column);
    let seconds = older.before.as_second();
    let number = match older.unit {
        TimeUnit::Seconds => seconds,
        TimeUnit::Milliseconds => seconds.saturating_mul(1_000),
    };
    let condition = format!(
        "CASE typeof({column}) WHEN 'text' THEN unixepoch({column}) < ?1 WHEN 'integer' THEN {column} < ?2 WHEN 'real' \
         THEN {column} < ?2 END"
    );
    (condition, vec![Cell::Int(seconds), Cell::Int(number)])
}

fn meant(selection: &ColdSelection) -> (String, Vec<Cell>) {
    let (mut condition, values) = older(selection);
    if let Some(filter) = &selection.filter {
        condition = format!("({condition}) AND ({filter})");
    }
    (format!("({condition}) IS TRUE"), values)
}

fn held(selection: &ColdSelection) -> String {
    if selection.holds.is_empty() {
        return "false".to_owned();
    }
    selection.holds.iter().map(|hold| format!("(({hold}) IS TRUE)")).collect::<Vec<_>>().join(" OR ")
}

fn count_of(
    connection: &Connection,
    table: &ColdTable,
    selection: &ColdSelection,
    stop: &Stop,
) -> Result<ColdCount, Error> {
    let (meant, values) = meant(selection);
    let held = held(selection);
    let bound: Vec<Bound<'_>> = values.iter().map(Bound).collect();
    let one = |sql: &str| -> Result<u64, Error> {
        connection
            .query_row(sql, params_from_iter(&bound), |row| catalog::count_at(row, 0))
            .map_err(|error| translate(&error, stop))
    };
    let own = &table.name;
    let mut count = ColdCount {
        rows: one(&format!("SELECT count(*) FROM {own} WHERE {meant} AND NOT ({held})"))?,
        held: one(&format!("SELECT count(*) FROM {own} WHERE {meant} AND ({held})"))?,
        referred: Vec::new(),
    };
    for other in &table.referrers {
        // The rows are chosen inside, where the names of the rule's expressions mean this table alone.
        let sql = format!(
            "SELECT count(*) FROM {} WHERE ({}) IN (SELECT {} FROM {own} WHERE {meant} AND NOT ({held}))",
            other.table,
            names(&other.columns),
            names(&other.parent_columns)
        );
        count.referred.push((other.name.clone(), one(&sql)?));
    }
    count.referred.retain(|(_, rows)| *rows > 0);
    Ok(count)
}

fn read_rows(
    connection: &Connection,
    table: &ColdTable,
    selection: &ColdSelection,
    page: &ColdPage,
    sender: &mpsc::Sender<Vec<Row>>,
    stop: &Stop,
) -> Result<(), Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let (meant, mut values) = meant(selection);
    let mut sql = format!(
        "SELECT {} FROM {} WHERE {meant} AND NOT ({})",
        all_columns(table),
        table.name,
        held(selection)
    );
    let key = names(&table.key);
    if let Some(after) = &page.after {
        let places: Vec<String> =
            (0..table.key.len()).map(|place| format!("?{}", values.len() + place + 1)).collect();
        values.extend(table.key_places().into_iter().map(|place| after[place].clone()));
        sql = format!("{sql} AND ({key}) > ({})", places.join(", "));
    }
    sql = format!("{sql} ORDER BY {key}");
    if let Some(rows_max) = page.rows_max {
        sql = format!("{sql} LIMIT {rows_max}");
    }
    let mut prepared = connection.prepare(&sql).map_err(failed)?;
    let mut rows = prepared.query(params_from_iter(values.iter().map(Bound))).map_err(failed)?;
    let mut piece = Vec::with_capacity(ROWS_AT_ONCE);
    // A receiver that has gone has its own reason, which is the one to report.
    let gone = || Error::new(ErrorKind::Canceled, "nobody takes the rows any more");
    while let Some(row) = rows.next().map_err(failed)? {
        piece.push(row_of(row, table.columns.len()).map_err(failed)?);
        if piece.len() == ROWS_AT_ONCE {
            sender.blocking_send(std::mem::take(&mut piece)).map_err(|_| gone())?;
        }
    }
    if !piece.is_empty() {
        sender.blocking_send(piece).map_err(|_| gone())?;
    }
    Ok(())
}

/// `"a" IS ?1 AND "b" IS ?2`, from this number on.
fn by_key(columns: &[String], first: usize) -> String {
    let one = |(place, name): (usize, &String)| format!("{} IS ?{}", quote_identifier(name), first + place);
    columns.iter().enumerate().map(one).collect::<Vec<_>>().join(" AND ")
}

fn delete_rows(
    connection: &Connection,
    table: &ColdTable,
    selection: &ColdSelection,
    rows: &[Row],
    stop: &Stop,
) -> Result<Vec<Fate>, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let key = by_key(&table.key, 1);
    let (own, held) = (&table.name, held(selection));
    let find = format!("SELECT {}, ({held}) FROM {own} WHERE {key}", all_columns(table));
    let mut find = connection.prepare(&find).map_err(failed)?;
    let mut delete = connection.prepare(&format!("DELETE FROM {own} WHERE {key}")).map_err(failed)?;
    let mut referring = Vec::new();
    for other in &table.referrers {
        let sql =
            format!("SELECT EXISTS (SELECT 1 FROM {} WHERE {})", other.table, by_key(&other.columns, 1));
        let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
        let places: Option<Vec<usize>> = other.parent_columns.iter().map(place).collect();
        if let Some(places) = places {
            referring.push((connection.prepare(&sql).map_err(failed)?, places));
        }
    }
    let key_places = table.key_places();
    let mut fates = Vec::with_capacity(rows.len());
    for row in rows {
        let key = || key_places.iter().map(|place| Bound(&row[*place]));
        let mut found = find.query(params_from_iter(key())).map_err(failed)?;
        let Some(now) = found.next().map_err(failed)? else {
            fates.push(Fate::Gone);
            continue;
        };
        let is_held: bool = now.get(table.columns.len()).map_err(failed)?;
        let is_same = same(&row_of(now, table.columns.len()).map_err(failed)?, row);
        drop(found);
        if !is_same {
            fates.push(Fate::Changed);
            continue;
        }
        if is_held {
            fates.push(Fate::Held);
            continue;
        }
        let mut is_referred = false;
        for (statement, places) in &mut referring {
            // A key with a NULL in it points nowhere.
            if places.iter().all(|place| row[*place] != Cell::Null) {
                let values = params_from_iter(places.iter().map(|place| Bound(&row[*place])));
                is_referred |= statement.query_row(values, |row| row.get::<_, bool>(0)).map_err(failed)?;
            }
        }
        if is_referred {
            fates.push(Fate::Referred);
            continue;
        }
        let deleted = delete.execute(params_from_iter(key())).map_err(failed)?;
        if deleted != 1 || find.exists(params_from_iter(key())).map_err(failed)? {
            return Err(Error::new(
                ErrorKind::Conflict,
                "a trigger of the table keeps rows from being deleted",
            )
            .with("table", own));
        }
        fates.push(Fate::Deleted);
    }
    Ok(fates)
}

fn insert_rows(
    connection: &Connection,
    table: &ColdTable,
    target: &str,
    rows: &[Row],
    stop: &Stop,
) -> Result<Vec<Return>, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let places: Vec<String> = (1..=table.columns.len()).map(|place| format!("?{place}")).collect();
    let insert = format!(
        "INSERT INTO {target} ({}) VALUES ({}) ON CONFLICT DO NOTHING",
        all_columns(table),
        places.join(", ")
    );
    let mut insert = connection.prepare(&insert).map_err(failed)?;
    let find = format!("SELECT {} FROM {target} WHERE {}", all_columns(table), by_key(&table.key, 1));
    let mut find = connection.prepare(&find).map_err(failed)?;
    let key_places = table.key_places();
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let inserted = insert.execute(params_from_iter(row.iter().map(Bound))).map_err(failed)? == 1;
        let key = params_from_iter(key_places.iter().map(|place| Bound(&row[*place])));
        let mut found = find.query(key).map_err(failed)?;
        let now = match found.next().map_err(failed)? {
            Some(now) => Some(row_of(now, table.columns.len()).map_err(failed)?),
            None => None,
        };
        let is_same = now.as_ref().is_some_and(|now| same(now, row));
        out.push(match (inserted, is_same) {
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
        });
    }
    Ok(out)
}

impl SqliteStore {
    /// Runs `work` in one transaction that writes, under the store's change lock.
    async fn change_rows<T: Send + 'static>(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        work: impl FnOnce(&Connection, &Stop) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.covers(ctx, permit, plan)?;
        if self.file.read_only {
            return Err(Error::new(ErrorKind::Denied, "the store is configured as read-only")
                .with("store", &self.name)
                .hint("remove `read_only` from the store's configuration"));
        }
        let file = self.file.clone();
        let answer = on_thread(ctx, &self.closed, None, move |stop| {
            let _lock = lock(&beside(&file.canonical()?, LOCK_SUFFIX))?;
            let connection = file.writer(stop)?;
            let failed = |error: rusqlite::Error| file.explain(&error, stop);
            connection
                .execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; BEGIN IMMEDIATE")
                .map_err(failed)?;
            // Dropped before its COMMIT, the connection takes everything back.
            let done = work(&connection, stop)?;
            connection.execute_batch("COMMIT").map_err(failed)?;
            Ok(done)
        });
        answer.await.map_err(|error| error.with("store", &self.name))
    }

    fn path_text(&self) -> Result<String, Error> {
        Ok(self.file.canonical()?.display().to_string())
    }
}

/// Refuses a table whose columns or key are others than when the plan was made.
fn unchanged(connection: &Connection, table: &ColdTable, name: &TableName, stop: &Stop) -> Result<(), Error> {
    let now = describe(connection, name, &table.identity, stop)?;
    let shape = |table: &ColdTable| {
        let column = |column: &Column| (column.name.clone(), column.native_type.clone());
        (table.columns.iter().map(column).collect::<Vec<_>>(), table.key.clone())
    };
    if shape(&now) == shape(table) && now.referrers == table.referrers {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the table has other columns or keys than when it was archived")
        .with("table", &table.name)
        .with_retry(contract::Retry::Never)
        .hint("nothing was deleted; look at the change, and ask for the archive again"))
}

#[async_trait]
impl ColdRows for SqliteStore {
    async fn cold_table(&self, ctx: &Context, table: &TableName) -> Result<ColdTable, Error> {
        let (table, path) = (table.clone(), self.path_text()?);
        self.read(ctx, None, move |connection, stop| describe(connection, &table, &path, stop)).await
    }

    async fn cold_count(
        &self,
        ctx: &Context,
        table: &ColdTable,
        selection: &ColdSelection,
    ) -> Result<ColdCount, Error> {
        let (table, selection) = (table.clone(), selection.clone());
        self.read(ctx, None, move |connection, stop| count_of(connection, &table, &selection, stop)).await
    }

    async fn cold_read(
        &self,
        ctx: &Context,
        table: &ColdTable,
        selection: &ColdSelection,
        page: &ColdPage,
        rows: mpsc::Sender<Vec<Row>>,
    ) -> Result<RecoveryPoint, Error> {
        let (table, selection, page) = (table.clone(), selection.clone(), page.clone());
        let point = RecoveryPoint { at: ctx.now(), server_at: None, position: None, timeline: None };
        self.read(ctx, None, move |connection, stop| {
            read_rows(connection, &table, &selection, &page, &rows, stop)
        })
        .await?;
        Ok(point)
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
        let (table, selection, rows) = (table.clone(), selection.clone(), rows.to_vec());
        self.change_rows(ctx, permit, plan, move |connection, stop| {
            unchanged(connection, &table, &selection.table, stop)?;
            delete_rows(connection, &table, &selection, &rows, stop)
        })
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
        let (identity, target) = (table.identity.clone(), target.clone());
        self.change_rows(ctx, permit, plan, move |connection, stop| {
            let failed = |error: rusqlite::Error| translate(&error, stop);
            let sql = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE)";
            if connection.query_row(sql, [&target.name], |row| row.get::<_, bool>(0)).map_err(failed)? {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("there is a table `{}` already", target.name),
                )
                .with("database", identity));
            }
            connection.execute_batch(&create).map_err(failed)
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
        let (table, target, rows) = (table.clone(), quoted(target), rows.to_vec());
        self.change_rows(ctx, permit, plan, move |connection, stop| {
            insert_rows(connection, &table, &target, &rows, stop)
        })
        .await
    }
}
