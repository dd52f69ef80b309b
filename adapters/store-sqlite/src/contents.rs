//! What a database holds, so that two can be compared: a number for the rows of each table, and the schema.

use std::collections::{BTreeMap, HashSet};

use contract::{RowSum, TableDigest, sha256_hex};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use crate::text::{self, quote_identifier};

/// The names of the row's number, of which a table may have columns.
const ROW_NUMBERS: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// What the rows of a database come to.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) tables: Vec<TableDigest>,
    /// Tables whose rows could not be read, with the reason.
    pub(crate) unread: BTreeMap<String, String>,
}

/// Reads every row of every table that has pages of its own: those of virtual tables are rows of their shadow tables.
pub(crate) fn count(connection: &Connection) -> rusqlite::Result<Counted> {
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::MAX)?;
    let mut counted = Counted::default();
    for table in tables(connection)? {
        match count_table(connection, &table) {
            Ok(sum) => counted.tables.push(sum.of_table(quote_identifier(&table))),
            // The application brings its own collations; without them a table that is kept in their order is closed.
            Err(error) if error.to_string().contains("no such collation sequence") => {
                counted.unread.insert(quote_identifier(&table), error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(counted)
}

/// The names of all tables with pages of their own, in order.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Counts the rows as they are stored: columns that are computed when they are read are not.
fn count_table(connection: &Connection, table: &str) -> rusqlite::Result<RowSum> {
    let mut columns: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden IN (0, 3) ORDER BY cid")?
        .query_map([table], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let has_row_number = connection
        .prepare("SELECT NOT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1")?
        .query_row([table], |row| row.get::<_, bool>(0))
        .optional()?
        .unwrap_or(true);
    let mut of_row = None;
    if has_row_number {
        of_row = ROW_NUMBERS
            .into_iter()
            .find(|name| !columns.iter().any(|column| column.eq_ignore_ascii_case(name)));
    }
    columns = columns.iter().map(|column| quote_identifier(column)).collect();
    columns.extend(of_row.map(str::to_owned));
    let mut read = connection.prepare(&format!(
        "SELECT {} FROM main.{} NOT INDEXED",
        columns.join(", "),
        quote_identifier(table)
    ))?;
    let mut sum = RowSum::default();
    let mut rows = read.raw_query();
    let mut heads = vec![[0u8; 17]; columns.len()];
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns.len());
        for (i, head) in heads.iter_mut().enumerate() {
            let value = row.get_ref(i)?;
            values.push(encode(value, head));
        }
        sum.add(heads.iter().zip(&values).flat_map(|(head, (length, value))| [&head[..*length], *value]));
    }
    Ok(sum)
}

/// A value so that no two rows have the same bytes: its storage class, its length where it has one, and itself.
fn encode<'a>(value: ValueRef<'a>, head: &mut [u8; 17]) -> (usize, &'a [u8]) {
    let mut number = |class: u8, bits: [u8; 8]| {
        head[0] = class;
        head[1..9].copy_from_slice(&bits);
        9
    };
    match value {
        ValueRef::Null => (number(0, [0; 8]), &[]),
        ValueRef::Integer(value) => (number(1, value.to_be_bytes()), &[]),
        ValueRef::Real(value) => (number(2, value.to_bits().to_be_bytes()), &[]),
        ValueRef::Text(text) => (number(3, (text.len() as u64).to_be_bytes()), text),
        ValueRef::Blob(blob) => (number(4, (blob.len() as u64).to_be_bytes()), blob),
    }
}

/// A thing of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    /// Such as `table orders`.
    pub(crate) title: String,
    /// The table that it belongs to.
    pub(crate) table: String,
    /// SHA-256 of its definition.
    pub(crate) definition: String,
}

/// Everything that `sqlite_schema` lists, in the order of its titles. What a virtual table keeps its rows in belongs to it.
pub(crate) fn objects(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    let named = |kind: &str| -> rusqlite::Result<HashSet<String>> {
        connection
            .prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = ?1")?
            .query_map([kind], |row| row.get(0))?
            .collect()
    };
    let (virtuals, shadows) = (named("virtual")?, named("shadow")?);
    let owner = |table: String| {
        let owners = virtuals
            .iter()
            .filter(|name| table.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('_')));
        match owners.max_by_key(|name| name.len()) {
            Some(owner) if shadows.contains(&table) => owner.clone(),
            _ => table,
        }
    };
    let mut listed = connection.prepare(
        "SELECT type || ' ' || name, tbl_name, coalesce(sql, '') FROM main.sqlite_schema ORDER BY 1",
    )?;
    let objects = listed.query_map([], |row| {
        Ok(Object {
            title: row.get(0)?,
            table: owner(row.get(1)?),
            definition: sha256_hex(row.get::<_, String>(2)?.as_bytes()),
        })
    })?;
    objects.collect()
}

/// SHA-256 of the schema: of one line for each object, which ends in the SHA-256 of its definition.
pub(crate) fn schema_sha256(objects: &[Object]) -> String {
    let mut text = String::new();
    for Object { title, definition, .. } in objects {
        for part in [title, "\0", definition, "\n"] {
            text.push_str(part);
        }
    }
    sha256_hex(text.as_bytes())
}

/// The modules of the virtual tables, such as `fts5`: a library without them cannot open those tables.
pub(crate) fn modules(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut listed = connection.prepare(
        "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND coalesce(rootpage, 0) = 0 AND sql IS NOT NULL",
    )?;
    let mut modules: Vec<String> = Vec::new();
    for sql in listed.query_map([], |row| row.get::<_, String>(0))? {
        let sql = sql?;
        let words = text::words(&sql);
        if let Some(at) = words.iter().position(|word| word.is("USING"))
            && let Some(module) = words.get(at + 1)
        {
            modules.push(module.name().to_lowercase());
        }
    }
    modules.sort();
    modules.dedup();
    Ok(modules)
}
