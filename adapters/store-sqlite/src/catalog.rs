//! The schema as SQLite's catalog has it, completed from the texts that SQLite keeps.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use schema::{Check, Column, Dialect, ForeignKey, Index, Key, Schema, Table, TableName, View};

use crate::text::{self, TableText, quote_identifier};

/// Tables of Steward's own begin with this.
const OWN_PREFIX: &str = "steward_";

/// Sizes of tables and indexes are told for files of up to so many pages, because telling them reads every page.
const PAGES_MEASURED_MAX: u64 = 65_536;

struct Entry {
    kind: String,
    name: String,
    table: String,
    sql: Option<String>,
}

/// Reads everything within the connection's snapshot.
pub(crate) fn inspect(connection: &Connection, rows_counted_max: u64) -> rusqlite::Result<Schema> {
    let entries = query(connection, include_str!("sql/entries.sql"), [], |row| {
        Ok(Entry {
            kind: text_at(row, 0)?,
            name: text_at(row, 1)?,
            table: text_at(row, 2)?,
            sql: optional_text_at(row, 3)?,
        })
    })?;
    let pages: u64 =
        connection.query_row("SELECT page_count FROM pragma_page_count", [], |row| count_at(row, 0))?;
    let page_bytes: u64 =
        connection.query_row("SELECT page_size FROM pragma_page_size", [], |row| count_at(row, 0))?;
    let sizes: BTreeMap<String, u64> = if pages <= PAGES_MEASURED_MAX {
        query(connection, include_str!("sql/sizes.sql"), [], |row| Ok((text_at(row, 0)?, count_at(row, 1)?)))?
            .into_iter()
            .collect()
    } else {
        BTreeMap::new()
    };
    let statistics = statistics(connection, &entries)?;
    let kinds = query(connection, include_str!("sql/tables.sql"), [], |row| {
        Ok((text_at(row, 0)?, (text_at(row, 1)?, row.get::<_, bool>(2)?, row.get::<_, bool>(3)?)))
    })?;
    let mut tables = Vec::new();
    for (name, (kind, without_rowid, strict)) in kinds {
        if is_hidden(&name) || kind == "shadow" || kind == "view" {
            continue;
        }
        if name.contains('\u{FFFD}') && !is_addressable(connection, &name)? {
            tables.push(unaddressable(&name));
            continue;
        }
        let sql = entries
            .iter()
            .find(|entry| entry.kind == "table" && entry.name == name)
            .and_then(|entry| entry.sql.as_deref())
            .unwrap_or_default();
        let mut found = table(connection, &entries, &sizes, &name, sql, without_rowid)?;
        if strict {
            found.options.push("STRICT".into());
        }
        if without_rowid {
            found.options.push("WITHOUT ROWID".into());
        }
        if kind == "virtual" {
            found.options.push(virtual_option(sql));
        }
        found.options.sort();
        let counting = Counting { rows_counted_max, is_virtual: kind == "virtual", without_rowid };
        (found.rows, found.rows_estimated) = rows(connection, &name, &counting, statistics.get(&name))?;
        tables.push(found);
    }
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    let mut views: Vec<View> = entries
        .iter()
        .filter(|entry| entry.kind == "view" && !is_hidden(&entry.name))
        .map(|entry| View {
            name: main(&entry.name),
            definition: entry.sql.as_deref().map(text::view).unwrap_or_default(),
            materialized: false,
        })
        .collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    // A trigger of a view belongs to no table.
    let mut others: Vec<(String, String)> = entries
        .iter()
        .filter(|entry| entry.kind == "trigger" && views.iter().any(|view| view.name.name == entry.table))
        .map(|entry| ("trigger".to_owned(), entry.sql.clone().unwrap_or_default()))
        .collect();
    others.sort();
    Ok(Schema {
        dialect: Dialect::Sqlite,
        tables,
        views,
        others,
        extensions: Vec::new(),
        size_bytes: Some(pages.saturating_mul(page_bytes)),
    })
}

/// Whether the name in the catalog is what it looks like, so that statements can speak of it.
fn is_addressable(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection
        .query_row("SELECT count(*) > 0 FROM main.sqlite_schema WHERE name = ?1", [name], |row| row.get(0))
}

/// A table whose name is not UTF-8: shown, so that nobody overlooks it.
fn unaddressable(name: &str) -> Table {
    Table {
        name: main(name),
        columns: Vec::new(),
        primary_key: None,
        unique_keys: Vec::new(),
        foreign_keys: Vec::new(),
        checks: Vec::new(),
        indexes: Vec::new(),
        triggers: Vec::new(),
        partition: None,
        options: vec!["NAME IS NOT UTF-8".into()],
        comment: None,
        rows: 0,
        rows_estimated: true,
        size_bytes: None,
    }
}

fn is_hidden(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with(OWN_PREFIX) || name.starts_with("sqlite_")
}

fn main(name: &str) -> TableName {
    TableName { namespace: "main".into(), name: name.to_owned() }
}

/// `VIRTUAL USING fts5(title, body)`.
fn virtual_option(sql: &str) -> String {
    let words = text::words(sql);
    let using = words.iter().find(|word| word.is("USING"));
    format!("VIRTUAL {}", using.map_or("", |word| &sql[word.start..]))
}

fn table(
    connection: &Connection,
    entries: &[Entry],
    sizes: &BTreeMap<String, u64>,
    name: &str,
    sql: &str,
    without_rowid: bool,
) -> rusqlite::Result<Table> {
    let mut written = text::table(sql);
    let (columns, key) = columns(connection, name, &written, without_rowid)?;
    let (mut indexes, unique_columns) = indexes(connection, entries, sizes, name)?;
    indexes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut unique_keys: Vec<Key> = unique_columns
        .into_iter()
        .map(|columns| Key { name: name_of_unique(&mut written, &columns), columns })
        .collect();
    unique_keys.sort_by(|a, b| (&a.name, &a.columns).cmp(&(&b.name, &b.columns)));
    let foreign_keys = foreign_keys(connection, name, &mut written)?;
    let mut checks: Vec<Check> = written
        .checks
        .iter()
        .map(|(name, expression)| Check {
            name: name.clone(),
            expression: expression.clone(),
            // There is no way to add one without checking the rows that are there.
            validated: true,
        })
        .collect();
    checks.sort_by(|a, b| (&a.name, &a.expression).cmp(&(&b.name, &b.expression)));
    let mut triggers: Vec<String> = entries
        .iter()
        .filter(|entry| entry.kind == "trigger" && entry.table == name)
        .filter_map(|entry| entry.sql.clone())
        .collect();
    triggers.sort();
    let size_bytes = sizes
        .get(name)
        .map(|own| own + indexes.iter().filter_map(|index| sizes.get(&index.name)).sum::<u64>());
    Ok(Table {
        name: main(name),
        columns,
        primary_key: (!key.is_empty()).then(|| Key { name: written.primary_key.clone(), columns: key }),
        unique_keys,
        foreign_keys,
        checks,
        indexes,
        triggers,
        partition: None,
        options: if written.autoincrement { vec!["AUTOINCREMENT".into()] } else { Vec::new() },
        comment: None,
        rows: 0,
        rows_estimated: true,
        size_bytes,
    })
}

fn name_of_unique(written: &mut TableText, columns: &[String]) -> String {
    let same = |a: &[String]| {
        a.len() == columns.len() && a.iter().zip(columns).all(|(a, b)| a.eq_ignore_ascii_case(b))
    };
    match written.uniques.iter().position(|(_, of)| same(of)) {
        Some(at) => written.uniques.remove(at).0,
        None => String::new(),
    }
}

/// The columns, and the names of the primary key's in the key's order.
fn columns(
    connection: &Connection,
    table: &str,
    written: &TableText,
    without_rowid: bool,
) -> rusqlite::Result<(Vec<Column>, Vec<String>)> {
    struct Found {
        column: Column,
        key: u32,
        hidden: u32,
    }
    let of = |of: &[(String, String)], name: &str| {
        of.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).map(|(_, text)| text.clone())
    };
    let found = query(connection, include_str!("sql/columns.sql"), [table], |row| {
        let name = text_at(row, 0)?;
        let mut native_type = text_at(row, 1)?;
        if let Some(collation) = of(&written.collations, &name) {
            let separator = if native_type.is_empty() { "" } else { " " };
            native_type = format!("{native_type}{separator}COLLATE {collation}");
        }
        let hidden: u32 = row.get(5)?;
        // 2: a virtual, 3: a stored generated column.
        let generated = (hidden >= 2).then(|| of(&written.generated, &name).unwrap_or_default());
        Ok(Found {
            column: Column {
                nullable: !row.get::<_, bool>(2)?,
                default: optional_text_at(row, 3)?,
                generated,
                comment: None,
                name,
                native_type,
            },
            key: row.get(4)?,
            hidden,
        })
    })?;
    let mut key: Vec<(u32, String)> =
        found.iter().filter(|f| f.key > 0).map(|f| (f.key, f.column.name.clone())).collect();
    key.sort();
    let key: Vec<String> = key.into_iter().map(|(_, name)| name).collect();
    let columns = found
        .into_iter()
        // 1: a hidden column of a virtual table, which is an argument rather than data.
        .filter(|found| found.hidden != 1)
        .map(|found| {
            let mut column = found.column;
            // An INTEGER PRIMARY KEY is the row's number. Other keys may hold NULL, for historical reasons.
            let is_rowid = key.len() == 1 && column.native_type.eq_ignore_ascii_case("integer");
            if found.key > 0 && (without_rowid || is_rowid) {
                column.nullable = false;
            }
            column
        })
        .collect();
    Ok((columns, key))
}

/// The indexes, and the columns of each unique constraint.
fn indexes(
    connection: &Connection,
    entries: &[Entry],
    sizes: &BTreeMap<String, u64>,
    table: &str,
) -> rusqlite::Result<(Vec<Index>, Vec<Vec<String>>)> {
    let list = query(connection, include_str!("sql/indexes.sql"), [table], |row| {
        Ok((text_at(row, 0)?, row.get::<_, bool>(1)?, text_at(row, 2)?))
    })?;
    let (mut indexes, mut unique_keys) = (Vec::new(), Vec::new());
    for (name, unique, origin) in list {
        let names: Vec<Option<String>> =
            query(connection, include_str!("sql/index_columns.sql"), [&name], |row| {
                optional_text_at(row, 0)
            })?;
        let sql = entries
            .iter()
            .find(|entry| entry.kind == "index" && entry.name == name)
            .and_then(|entry| entry.sql.clone());
        let (written, predicate) = sql.as_deref().map(text::index).unwrap_or_default();
        let columns: Vec<String> = names
            .into_iter()
            .enumerate()
            // An expression has no name; its text is in the statement.
            .map(|(i, name)| {
                name.or_else(|| written.get(i).cloned()).unwrap_or_else(|| "<expression>".into())
            })
            .collect();
        let backs_constraint = origin != "c";
        let definition = sql.unwrap_or_else(|| {
            let quoted: Vec<_> = columns.iter().map(|column| quote_identifier(column)).collect();
            let constraint = if origin == "pk" { "PRIMARY KEY" } else { "UNIQUE" };
            format!("{constraint} ({})", quoted.join(", "))
        });
        if origin == "u" {
            unique_keys.push(columns.clone());
        }
        indexes.push(Index {
            size_bytes: sizes.get(&name).copied(),
            name,
            columns,
            unique,
            method: "btree".into(),
            definition,
            predicate,
            backs_constraint,
            valid: true,
        });
    }
    Ok((indexes, unique_keys))
}

fn foreign_keys(
    connection: &Connection,
    table: &str,
    written: &mut TableText,
) -> rusqlite::Result<Vec<ForeignKey>> {
    struct Part {
        id: i64,
        parent: String,
        column: String,
        parent_column: Option<String>,
        actions: String,
    }
    let parts = query(connection, include_str!("sql/foreign_keys.sql"), [table], |row| {
        Ok(Part {
            id: row.get(0)?,
            parent: text_at(row, 1)?,
            column: text_at(row, 2)?,
            parent_column: optional_text_at(row, 3)?,
            actions: format!("ON DELETE {} ON UPDATE {}", text_at(row, 4)?, text_at(row, 5)?),
        })
    })?;
    let mut keys: BTreeMap<i64, (ForeignKey, bool)> = BTreeMap::new();
    for part in parts {
        let (key, by_name) = keys.entry(part.id).or_insert_with(|| {
            let key = ForeignKey {
                name: String::new(),
                columns: Vec::new(),
                parent: main(&part.parent),
                parent_columns: Vec::new(),
                actions: part.actions,
                // Each connection decides whether it enforces foreign keys, so rows may break any of them.
                validated: false,
            };
            (key, part.parent_column.is_some())
        });
        key.columns.push(part.column);
        if *by_name && let Some(column) = part.parent_column {
            key.parent_columns.push(column);
        }
    }
    let mut keys: Vec<ForeignKey> = keys.into_values().map(|(key, _)| key).collect();
    for key in &mut keys {
        if key.parent_columns.is_empty() {
            // `REFERENCES parent` without columns means its primary key.
            key.parent_columns =
                query(connection, include_str!("sql/key_columns.sql"), [&key.parent.name], |row| {
                    text_at(row, 0)
                })?;
        }
        let same = |columns: &[String]| {
            columns.len() == key.columns.len()
                && columns.iter().zip(&key.columns).all(|(a, b)| a.eq_ignore_ascii_case(b))
        };
        if let Some(at) = written.foreign_keys.iter().position(|(_, columns, _)| same(columns)) {
            let (name, _, deferrable) = written.foreign_keys.remove(at);
            key.name = name;
            if !deferrable.is_empty() {
                key.actions = format!("{} {deferrable}", key.actions);
            }
        }
    }
    keys.sort_by(|a, b| (&a.name, &a.columns, &a.parent).cmp(&(&b.name, &b.columns, &b.parent)));
    Ok(keys)
}

/// Rows by table, as the last `ANALYZE` saw them.
fn statistics(connection: &Connection, entries: &[Entry]) -> rusqlite::Result<BTreeMap<String, u64>> {
    if !entries.iter().any(|entry| entry.kind == "table" && entry.name == "sqlite_stat1") {
        return Ok(BTreeMap::new());
    }
    let rows = query(connection, "SELECT tbl, stat FROM sqlite_stat1", [], |row| {
        Ok((text_at(row, 0)?, optional_text_at(row, 1)?))
    })?;
    let mut statistics = BTreeMap::new();
    for (table, stat) in rows {
        // The first number is the rows of the table, or fewer of a partial index.
        let rows = stat.and_then(|stat| stat.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
        let known = statistics.entry(table).or_insert(0);
        *known = rows.max(*known);
    }
    Ok(statistics)
}

struct Counting {
    rows_counted_max: u64,
    is_virtual: bool,
    without_rowid: bool,
}

/// The number of rows and whether it is an estimate.
fn rows(
    connection: &Connection,
    table: &str,
    counting: &Counting,
    analyzed: Option<&u64>,
) -> rusqlite::Result<(u64, bool)> {
    let quoted = quote_identifier(table);
    if counting.is_virtual {
        // Its module decides what counting means and costs, or may be missing.
        return Ok((0, true));
    }
    let most = counting.rows_counted_max;
    let counted: u64 = connection.query_row(
        &format!("SELECT count(*) FROM (SELECT 1 FROM main.{quoted} LIMIT ?1)"),
        [i64::try_from(most.saturating_add(1)).unwrap_or(i64::MAX)],
        |row| count_at(row, 0),
    )?;
    if counted <= most {
        return Ok((counted, false));
    }
    if let Some(rows) = analyzed.filter(|rows| **rows > most) {
        return Ok((*rows, true));
    }
    if !counting.without_rowid {
        // A column may be called `rowid`; then one of the other two names is the row's number.
        for rowid in ["rowid", "_rowid_", "oid"] {
            let taken: bool =
                connection.query_row(include_str!("sql/has_column.sql"), [table, rowid], |row| row.get(0))?;
            if !taken {
                let highest: Option<i64> =
                    connection.query_row(&format!("SELECT max({rowid}) FROM main.{quoted}"), [], |row| {
                        row.get(0)
                    })?;
                let highest = highest.and_then(|highest| u64::try_from(highest).ok()).unwrap_or(0);
                return Ok((highest.max(counted), true));
            }
        }
    }
    Ok((counted, true))
}

fn query<T, P: rusqlite::Params>(
    connection: &Connection,
    sql: &str,
    parameters: P,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map(parameters, read)?.collect()
}

/// A count; SQLite has no unsigned integers.
pub(crate) fn count_at(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn text_at(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(optional_text_at(row, column)?.unwrap_or_default())
}

/// Names need not be UTF-8; what is not becomes U+FFFD, so that the rest can still be shown.
fn optional_text_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Integer(number) => Some(number.to_string()),
        _ => None,
    })
}
