//! The schema as the server's catalog has it: a few questions about all tables at once.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use contract::Error;
use futures::TryStreamExt;
use schema::{
    Check, Column, Dialect, Extension, ForeignKey, Index, Key, Partition, Schema, Table, TableName, View,
};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::error::translate;
use crate::statement::quote_identifier;
use crate::store::Reading;

/// A table up to this size is counted; beyond it the server's estimate is told.
const COUNTED_TABLE_BYTES_MAX: i64 = 8 << 20;
/// All counted tables together are not larger than this; the smallest are counted first.
const COUNTED_BYTES_MAX: i64 = 256 << 20;
/// Tables counted by one statement.
const COUNTED_AT_ONCE: usize = 100;
/// Up to this many tables, each one's files are looked at and all small ones are counted. Both open the table, which costs
/// about 0.1 ms each; with more, the server's own record is told, which the next autovacuum brings up to date.
const OPENED_TABLES_MAX: i64 = 300;
/// Tables whose checks are printed by one statement: few, so that two sessions share them evenly.
const CHECKED_AT_ONCE: usize = 25;
/// Type `varchar`, whose operator class is that of `text`.
const VARCHAR: u32 = 1043;
const TEXT: u32 = 25;

/// What a transaction that inspects begins with. With an empty search path the server prints every name with its schema,
/// whatever the login's settings are. To start processes that help with a catalog costs more than their help, and so does
/// compiling a statement that runs once.
pub(crate) const SETTINGS: &str =
    "SET LOCAL search_path = ''; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off";
/// From this size of the catalog's table of columns on, a second session helps more than it costs to connect.
const SHARED_CATALOG_BYTES_MIN: i64 = 1 << 20;

/// Prepares a transaction that sees one state of the data. Where the catalog is large, a snapshot of that state comes
/// back, by which a second session can see the same.
pub(crate) async fn begin(client: &Client) -> Result<Option<String>, Error> {
    let shared: [(&(dyn ToSql + Sync), Type); 1] = [(&SHARED_CATALOG_BYTES_MIN, Type::INT8)];
    let sql =
        "SELECT CASE WHEN pg_relation_size('pg_catalog.pg_attribute') >= $1 THEN pg_export_snapshot() END";
    // Sent together.
    let ((), answers): ((), Vec<Option<String>>) =
        tokio::try_join!(client.batch_execute(SETTINGS), ask(client, sql, &shared, |row| row.get(0)))
            .map_err(|error| translate(&error))?;
    Ok(answers.into_iter().flatten().next())
}

/// Inspects inside a transaction that was prepared; with the help of a second one that sees the same, if there is one,
/// which comes back.
pub(crate) async fn inspect(
    client: &Client,
    second: impl Future<Output = Option<Reading>>,
) -> Result<(Schema, Option<Reading>), Error> {
    let read = match Box::pin(read(client, second)).await {
        // The one that helped was lost, such as ended by an administrator: this one does it all.
        Err((error, Some(second))) if ends_session(&error) && !client.is_closed() => {
            drop(second);
            Box::pin(self::read(client, std::future::ready(None))).await
        }
        read => read,
    };
    let (mut tables, rest, second) = read.map_err(|(error, _)| translate(&error))?;
    tables.count(client).await?;
    tables.sum_up_partitions();
    let schema = Schema {
        dialect: Dialect::Postgres,
        tables: tables.into_sorted(),
        views: rest.views,
        others: rest.others,
        extensions: rest.extensions,
        size_bytes: rest.size_bytes,
    };
    Ok((schema, second))
}

/// The first error that is one: where a statement failed, the server refuses all that was sent behind it.
fn cause(refused: tokio_postgres::Error, other: Option<tokio_postgres::Error>) -> tokio_postgres::Error {
    match other {
        Some(other) if refused.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => other,
        _ => refused,
    }
}

/// Whether the session is over with this error: the server says so before it closes the connection.
fn ends_session(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.code().is_none_or(|code| code.code().starts_with("57P"))
}

/// With the second session also where it fails.
async fn read(
    client: &Client,
    second: impl Future<Output = Option<Reading>>,
) -> Result<(Tables, Rest, Option<Reading>), (tokio_postgres::Error, Option<Reading>)> {
    // The second session connects while the first finds the tables.
    let (tables, second) = tokio::join!(Box::pin(Tables::read(client)), second);
    let (mut tables, oids) = match tables {
        Ok(tables) => tables,
        Err(error) => return Err((error, second)),
    };
    let helper = second.as_ref().map_or(client, |second| &second.session().client);
    // Sent one behind the other, so that the server works on the next while this side reads the one before.
    let (more, rest) =
        tokio::join!(Box::pin(tables.read_more(client, helper, &oids)), Box::pin(Rest::read(helper)));
    match (more, rest) {
        (Ok(()), Ok(rest)) => Ok((tables, rest, second)),
        (Err(error), rest) => Err((cause(error, rest.err()), second)),
        (Ok(()), Err(error)) => Err((error, second)),
    }
}

/// Asks in one round trip, and reads each row as it comes.
async fn ask<T>(
    client: &Client,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
    mut read: impl FnMut(&Row) -> T,
) -> Result<Vec<T>, tokio_postgres::Error> {
    let rows =
        client.query_typed_raw(sql, parameters.iter().map(|(value, kind)| (*value, kind.clone()))).await?;
    let mut rows = pin!(rows);
    let mut out = Vec::new();
    while let Some(row) = rows.try_next().await? {
        out.push(read(&row));
    }
    Ok(out)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// What a database is made of besides tables.
struct Rest {
    views: Vec<View>,
    others: Vec<(String, String)>,
    extensions: Vec<Extension>,
    size_bytes: Option<u64>,
}

impl Rest {
    async fn read(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let (views, others, extensions, size) = tokio::try_join!(
            ask(client, include_str!("sql/views.sql"), &[], |row| View {
                name: TableName { namespace: row.get("namespace"), name: row.get("name") },
                definition: row.get("definition"),
                materialized: row.get("materialized"),
            }),
            ask(client, include_str!("sql/others.sql"), &[], |row| (row.get("kind"), row.get("definition"))),
            ask(
                client,
                "SELECT extname AS name, extversion AS version FROM pg_extension ORDER BY extname COLLATE \"C\"",
                &[],
                |row| Extension { name: row.get("name"), version: row.get("version") },
            ),
            ask(client, include_str!("sql/database_size.sql"), &[(&OPENED_TABLES_MAX, Type::INT8)], |row| {
                unsigned(row.get("bytes"))
            }),
        )?;
        Ok(Self { views, others, extensions, size_bytes: size.first().copied() })
    }
}

/// Tables by their oid.
struct Tables {
    by_oid: HashMap<u32, Found>,
    /// Size, oid.
    countable: Vec<(i64, u32)>,
    partitions: HashMap<u32, Vec<u32>>,
    /// Those with checks.
    checked: Vec<u32>,
}

struct Found {
    table: Table,
    /// Its name as statements write it.
    quoted: String,
    parent: Option<u32>,
    /// As many as the table's columns, by ascending number.
    columns: Vec<ColumnKey>,
    /// Its size was measured with its indexes; otherwise theirs are still to be added.
    measured: bool,
}

/// What keys and indexes need of a column.
struct ColumnKey {
    number: i16,
    type_oid: u32,
    collation_oid: u32,
}

impl Found {
    fn column(&self, number: i16) -> Option<(&ColumnKey, &Column)> {
        let place = self.columns.binary_search_by_key(&number, |column| column.number).ok()?;
        Some((&self.columns[place], &self.table.columns[place]))
    }

    /// Names of columns by their numbers.
    fn names(&self, numbers: &[i16]) -> Vec<String> {
        numbers.iter().filter_map(|number| Some(self.column(*number)?.1.name.clone())).collect()
    }
}

/// A column whose type is not printed yet: few types are printed once each instead of with each of very many columns.
struct ColumnRow {
    table_oid: u32,
    key: ColumnKey,
    type_modifier: i32,
    column: Column,
}

struct ConstraintRow {
    oid: u32,
    table_oid: u32,
    name: String,
    kind: i8,
    columns: Vec<i16>,
    validated: bool,
    index_oid: u32,
    parent: Option<ParentRow>,
    expression: Option<String>,
    no_inherit: bool,
    definition: Option<String>,
}

/// Whom a foreign key refers to.
struct ParentRow {
    oid: u32,
    columns: Vec<i16>,
    /// Of a table that was not asked for.
    name: Option<TableName>,
    column_names: Option<Vec<String>>,
    actions: String,
}

struct IndexRow {
    oid: u32,
    table_oid: u32,
    name: String,
    columns: Vec<i16>,
    operator_classes: Vec<u32>,
    collations: Vec<u32>,
    unique: bool,
    method: String,
    plain: bool,
    valid: bool,
    size_bytes: i64,
}

/// An index as the server prints it.
struct PrintedIndex {
    columns: Vec<String>,
    definition: String,
    predicate: Option<String>,
}

/// How the server writes names, by the rule of its function `quote_ident`.
struct Quoting {
    /// Words that a statement could take for something else.
    reserved: HashSet<String>,
    always: bool,
}

impl Quoting {
    fn write(&self, name: &str) -> String {
        let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !self.reserved.contains(name);
        if plain && !self.always { name.to_owned() } else { quote_identifier(name) }
    }
}

impl Tables {
    /// The tables and their oids.
    async fn read(client: &Client) -> Result<(Self, Vec<u32>), tokio_postgres::Error> {
        let mut out = Self {
            by_oid: HashMap::new(),
            countable: Vec::new(),
            partitions: HashMap::new(),
            checked: Vec::new(),
        };
        let sizes: [(&(dyn ToSql + Sync), Type); 2] =
            [(&COUNTED_TABLE_BYTES_MAX, Type::INT8), (&OPENED_TABLES_MAX, Type::INT8)];
        let mut oids: Vec<u32> = Vec::new();
        ask(client, include_str!("sql/tables.sql"), &sizes, |row| oids.push(out.add(row))).await?;
        out.name_parents();
        Ok((out, oids))
    }

    /// What belongs to the tables. Besides what is asked of each session, both take a part of the checks until none is left.
    async fn read_more(
        &mut self,
        client: &Client,
        helper: &Client,
        oids: &Vec<u32>,
    ) -> Result<(), tokio_postgres::Error> {
        let of_tables: [(&(dyn ToSql + Sync), Type); 1] = [(oids, Type::OID_ARRAY)];
        let of_indexes: [(&(dyn ToSql + Sync), Type); 2] =
            [(oids, Type::OID_ARRAY), (&OPENED_TABLES_MAX, Type::INT8)];
        let checked = std::mem::take(&mut self.checked);
        let parts = Mutex::new(checked.chunks(CHECKED_AT_ONCE));
        let (columns, constraints, indexes, triggers, classes, quoting, checks) = tokio::try_join!(
            columns(client, &of_tables),
            ask(helper, include_str!("sql/constraints.sql"), &of_tables, constraint_row),
            ask(client, include_str!("sql/indexes.sql"), &of_indexes, index_row),
            ask(helper, include_str!("sql/triggers.sql"), &of_tables, |row| (row.get(0), row.get(1))),
            ask(client, include_str!("sql/operator_classes.sql"), &[], |row| (row.get(0), row.get(1))),
            ask(client, include_str!("sql/keywords.sql"), &[], |row| Quoting {
                reserved: row.get::<_, Vec<String>>(0).into_iter().collect(),
                always: row.get(1),
            }),
            // Two of each session: while this side reads one answer, the server works on the next.
            futures::future::try_join_all(
                [client, helper, client, helper].map(|of| check_expressions(of, &parts))
            ),
        )?;
        self.add_columns(columns);
        let mut checks: HashMap<u32, Option<String>> = checks.into_iter().flatten().collect();
        let backing: HashSet<u32> = constraints
            .iter()
            .filter(|constraint| constraint.kind != FOREIGN && constraint.kind != CHECK)
            .map(|constraint| constraint.index_oid)
            .collect();
        for mut constraint in constraints {
            if constraint.kind == CHECK {
                constraint.expression =
                    constraint.expression.or_else(|| checks.remove(&constraint.oid).flatten());
            }
            self.add_constraint(constraint);
        }
        let classes: HashMap<u32, u32> = classes.into_iter().collect();
        self.add_indexes(client, indexes, &classes, quoting.first(), &backing).await?;
        for (table, definition) in triggers {
            self.of(table).table.triggers.push(definition);
        }
        Ok(())
    }

    fn add_columns(&mut self, (columns, types): (Vec<ColumnRow>, Types)) {
        for ColumnRow { table_oid, key, type_modifier, mut column } in columns {
            column.native_type.clone_from(&types[&(key.type_oid, type_modifier, key.collation_oid)]);
            let found = self.of(table_oid);
            found.columns.push(key);
            found.table.columns.push(column);
        }
    }

    /// Writes plain indexes itself, exactly as the server would, and has the others printed.
    async fn add_indexes(
        &mut self,
        client: &Client,
        rows: Vec<IndexRow>,
        classes: &HashMap<u32, u32>,
        quoting: Option<&Quoting>,
        backing: &HashSet<u32>,
    ) -> Result<(), tokio_postgres::Error> {
        let plain: Vec<Option<(Vec<String>, String)>> =
            rows.iter().map(|row| self.plain_index(row, classes, quoting?)).collect();
        let unwritten: Vec<u32> = rows
            .iter()
            .zip(&plain)
            .filter(|(_, written)| written.is_none())
            .map(|(row, _)| row.oid)
            .collect();
        let mut printed: HashMap<u32, PrintedIndex> = HashMap::new();
        if !unwritten.is_empty() {
            let of_unwritten: [(&(dyn ToSql + Sync), Type); 1] = [(&unwritten, Type::OID_ARRAY)];
            ask(client, include_str!("sql/index_definitions.sql"), &of_unwritten, |row| {
                let index = PrintedIndex {
                    columns: row.get("columns"),
                    definition: row.get("definition"),
                    predicate: row.get("predicate"),
                };
                printed.insert(row.get("index_oid"), index);
            })
            .await?;
        }
        for (row, written) in rows.into_iter().zip(plain) {
            let (columns, definition, predicate) = match (written, printed.remove(&row.oid)) {
                (Some((columns, definition)), _) => (columns, definition, None),
                (None, Some(printed)) => (printed.columns, printed.definition, printed.predicate),
                (None, None) => continue, // Dropped meanwhile: the catalog's functions see the newest state.
            };
            let found = self.of(row.table_oid);
            if !found.measured {
                *found.table.size_bytes.get_or_insert(0) += unsigned(row.size_bytes);
            }
            found.table.indexes.push(Index {
                name: row.name,
                columns,
                unique: row.unique,
                method: row.method,
                definition,
                predicate,
                backs_constraint: backing.contains(&row.oid),
                valid: row.valid,
                size_bytes: Some(unsigned(row.size_bytes)),
            });
        }
        Ok(())
    }

    /// Columns and definition of an index that is nothing but columns with the operator class and the collation that
    /// they have anyway.
    fn plain_index(
        &self,
        row: &IndexRow,
        classes: &HashMap<u32, u32>,
        quoting: &Quoting,
    ) -> Option<(Vec<String>, String)> {
        if !row.plain {
            return None;
        }
        let found = self.by_oid.get(&row.table_oid)?;
        let mut names = Vec::with_capacity(row.columns.len());
        for ((number, class), collation) in row.columns.iter().zip(&row.operator_classes).zip(&row.collations)
        {
            let (key, column) = found.column(*number)?;
            let for_type = *classes.get(class)?;
            let usual = for_type == key.type_oid || (for_type == TEXT && key.type_oid == VARCHAR);
            // An index without collation is one on a type that has none.
            if !usual || *collation != key.collation_oid {
                return None;
            }
            names.push(quoting.write(&column.name));
        }
        let unique = if row.unique { "UNIQUE " } else { "" };
        let (name, table) = (quoting.write(&row.name), &found.quoted);
        let definition = format!("CREATE {unique}INDEX {name} ON {table} USING btree ({})", names.join(", "));
        Some((names, definition))
    }

    /// The table that a row of another answer belongs to.
    fn of(&mut self, oid: u32) -> &mut Found {
        self.by_oid.get_mut(&oid).expect("only known tables were asked for, in one view of the catalog")
    }

    /// Keeps the table and gives its oid.
    fn add(&mut self, row: &Row) -> u32 {
        let oid: u32 = row.get("oid");
        let size: i64 = row.get::<_, Option<i64>>("size_bytes").unwrap_or(0);
        let key: Option<String> = row.get("partition_key");
        let bound: Option<String> = row.get("partition_bound");
        let parent: Option<u32> = row.get("parent_oid");
        if let Some(parent) = parent {
            self.partitions.entry(parent).or_default().push(oid);
        }
        if row.get::<_, Option<bool>>("countable") == Some(true) {
            self.countable.push((size, oid));
        }
        if row.get("checked") {
            self.checked.push(oid);
        }
        let table = Table {
            name: TableName { namespace: row.get("namespace"), name: row.get("name") },
            columns: Vec::new(),
            primary_key: None,
            unique_keys: Vec::new(),
            foreign_keys: Vec::new(),
            checks: Vec::new(),
            indexes: Vec::new(),
            triggers: Vec::new(),
            partition: (key.is_some() || parent.is_some()).then_some(Partition { key, parent: None, bound }),
            options: row.get::<_, Option<Vec<String>>>("options").unwrap_or_default(),
            comment: row.get("comment"),
            rows: unsigned(row.get::<_, Option<i64>>("rows_expected").unwrap_or(0)),
            rows_estimated: true,
            size_bytes: Some(unsigned(size)),
        };
        let (quoted, measured) = (row.get("quoted_name"), row.get("measured"));
        self.by_oid.insert(oid, Found { table, quoted, parent, columns: Vec::new(), measured });
        oid
    }

    fn name_parents(&mut self) {
        let names: Vec<(u32, Option<TableName>)> = self
            .by_oid
            .iter()
            .filter_map(|(oid, found)| {
                Some((*oid, self.by_oid.get(&found.parent?).map(|parent| parent.table.name.clone())))
            })
            .collect();
        for (oid, parent) in names {
            if let Some(partition) = &mut self.of(oid).table.partition {
                partition.parent = parent;
            }
        }
    }

    fn add_constraint(&mut self, row: ConstraintRow) {
        let parent = row.parent.and_then(|parent| {
            let known = self.by_oid.get(&parent.oid);
            Some((
                known.map(|found| found.table.name.clone()).or(parent.name)?,
                parent
                    .column_names
                    .or_else(|| known.map(|found| found.names(&parent.columns)))
                    .unwrap_or_default(),
                parent.actions,
            ))
        });
        let found = self.of(row.table_oid);
        let (name, columns) = (row.name, found.names(&row.columns));
        let table = &mut found.table;
        table.options.extend(row.definition);
        match (row.kind, parent) {
            (PRIMARY, _) => table.primary_key = Some(Key { name, columns }),
            (UNIQUE, _) => table.unique_keys.push(Key { name, columns }),
            (FOREIGN, Some((parent, parent_columns, actions))) => table.foreign_keys.push(ForeignKey {
                name,
                columns,
                parent,
                parent_columns,
                actions,
                validated: row.validated,
            }),
            (CHECK, _) => {
                let mut expression = row.expression.unwrap_or_default();
                if row.no_inherit && !expression.is_empty() {
                    expression.push_str(" NO INHERIT");
                }
                table.checks.push(Check { name, expression, validated: row.validated });
            }
            _ => {} // An exclusion is told by its definition.
        }
    }

    /// Counts the small tables. A table that cannot be counted now, as it is locked or was dropped, keeps its estimate.
    async fn count(&mut self, client: &Client) -> Result<(), Error> {
        self.countable.sort_unstable();
        let mut left = COUNTED_BYTES_MAX;
        let countable: Vec<u32> = std::mem::take(&mut self.countable)
            .into_iter()
            .take_while(|(size, _)| {
                left -= size;
                left >= 0
            })
            .map(|(_, oid)| oid)
            .take(usize::try_from(OPENED_TABLES_MAX).unwrap_or(usize::MAX))
            .collect();
        for oids in countable.chunks(COUNTED_AT_ONCE) {
            let mut sql = String::new();
            for oid in oids {
                let TableName { namespace, name } = &self.by_oid[oid].table.name;
                let union = if sql.is_empty() { "" } else { " UNION ALL " };
                let (namespace, name) = (quote_identifier(namespace), quote_identifier(name));
                write!(sql, "{union}SELECT {oid}::oid, count(*) FROM ONLY {namespace}.{name}")
                    .expect("writing to a string does not fail");
            }
            client.batch_execute("SAVEPOINT counting").await.map_err(|error| translate(&error))?;
            let end = match client.query(&sql, &[]).await {
                Ok(rows) => {
                    for row in rows {
                        if let Some(found) = self.by_oid.get_mut(&row.get(0)) {
                            (found.table.rows, found.table.rows_estimated) = (unsigned(row.get(1)), false);
                        }
                    }
                    "RELEASE counting"
                }
                Err(error) if error.as_db_error().is_some() => {
                    tracing::debug!(error = %translate(&error), "rows are estimated, not counted");
                    "ROLLBACK TO counting"
                }
                Err(error) => return Err(translate(&error)),
            };
            client.batch_execute(end).await.map_err(|error| translate(&error))?;
        }
        Ok(())
    }

    /// A partitioned table has the rows and the size of its partitions.
    fn sum_up_partitions(&mut self) {
        let parents: Vec<u32> = self.partitions.keys().copied().collect();
        for oid in parents {
            let mut leaves = vec![oid];
            let (mut rows, mut size, mut estimated) = (0, 0, false);
            while let Some(next) = leaves.pop() {
                match self.partitions.get(&next) {
                    Some(children) => leaves.extend(children),
                    None => {
                        if let Some(Found { table, .. }) = self.by_oid.get(&next) {
                            rows += table.rows;
                            size += table.size_bytes.unwrap_or(0);
                            estimated |= table.rows_estimated;
                        }
                    }
                }
            }
            if let Some(Found { table, .. }) = self.by_oid.get_mut(&oid) {
                (table.rows, table.size_bytes, table.rows_estimated) = (rows, Some(size), estimated);
            }
        }
    }

    fn into_sorted(self) -> Vec<Table> {
        let mut tables: Vec<Table> = self.by_oid.into_values().map(|found| found.table).collect();
        for table in &mut tables {
            table.options.sort();
            table.unique_keys.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            table.foreign_keys.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            table.checks.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            table.indexes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        tables.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        tables
    }
}

/// `pg_constraint.contype`.
const PRIMARY: i8 = b'p'.cast_signed();
const UNIQUE: i8 = b'u'.cast_signed();
const FOREIGN: i8 = b'f'.cast_signed();
const CHECK: i8 = b'c'.cast_signed();

/// Types as they are written, by oid, modifier and collation.
type Types = HashMap<(u32, i32, u32), String>;

/// The columns of all tables, and the types that they have.
async fn columns(
    client: &Client,
    of_tables: &[(&(dyn ToSql + Sync), Type)],
) -> Result<(Vec<ColumnRow>, Types), tokio_postgres::Error> {
    let columns = ask(client, include_str!("sql/columns.sql"), of_tables, column_row).await?;
    let mut types = Types::new();
    for row in &columns {
        types.entry((row.key.type_oid, row.type_modifier, row.key.collation_oid)).or_default();
    }
    let (mut kinds, mut modifiers, mut collations) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, modifier, collation) in types.keys() {
        kinds.push(*kind);
        modifiers.push(*modifier);
        collations.push(*collation);
    }
    let wanted: [(&(dyn ToSql + Sync), Type); 3] =
        [(&kinds, Type::OID_ARRAY), (&modifiers, Type::INT4_ARRAY), (&collations, Type::OID_ARRAY)];
    ask(client, include_str!("sql/types.sql"), &wanted, |row| {
        types.insert((row.get(0), row.get(1), row.get(2)), row.get(3));
    })
    .await?;
    Ok((columns, types))
}

/// Conditions of checks by their oid, of one part of the tables after the other until none is left.
async fn check_expressions(
    client: &Client,
    parts: &Mutex<std::slice::Chunks<'_, u32>>,
) -> Result<Vec<(u32, Option<String>)>, tokio_postgres::Error> {
    let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next().map(<[u32]>::to_vec);
    let mut out = Vec::new();
    while let Some(oids) = next() {
        let of_tables: [(&(dyn ToSql + Sync), Type); 1] = [(&oids, Type::OID_ARRAY)];
        let part = ask(client, include_str!("sql/check_expressions.sql"), &of_tables, |row| {
            (row.get(0), row.get(1))
        });
        out.extend(part.await?);
    }
    Ok(out)
}

// Columns by their place: to look for a name among them, for each of ten thousand rows, shows.

fn column_row(row: &Row) -> ColumnRow {
    ColumnRow {
        table_oid: row.get(0),
        key: ColumnKey { number: row.get(1), type_oid: row.get(3), collation_oid: row.get(5) },
        type_modifier: row.get(4),
        column: Column {
            name: row.get(2),
            native_type: String::new(),
            nullable: row.get(6),
            default: row.get(7),
            generated: row.get(8),
            comment: row.get(9),
        },
    }
}

fn constraint_row(row: &Row) -> ConstraintRow {
    let kind = row.get(2);
    let parent = (kind == FOREIGN).then(|| ParentRow {
        oid: row.get(6),
        columns: row.get::<_, Option<Vec<i16>>>(7).unwrap_or_default(),
        name: row.get::<_, Option<String>>(9).map(|name| TableName { namespace: row.get(8), name }),
        column_names: row.get(10),
        actions: row.get(11),
    });
    ConstraintRow {
        table_oid: row.get(0),
        name: row.get(1),
        kind,
        validated: row.get(3),
        columns: row.get::<_, Option<Vec<i16>>>(4).unwrap_or_default(),
        index_oid: row.get(5),
        parent,
        expression: row.get(12),
        definition: row.get(13),
        oid: row.get(14),
        no_inherit: row.get(15),
    }
}

fn index_row(row: &Row) -> IndexRow {
    IndexRow {
        oid: row.get(0),
        table_oid: row.get(1),
        name: row.get(2),
        columns: row.get(3),
        operator_classes: row.get(4),
        collations: row.get(5),
        unique: row.get(6),
        method: row.get(7),
        plain: row.get(8),
        valid: row.get(9),
        size_bytes: row.get(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_by_the_servers_rule() {
        let mut quoting = Quoting { reserved: HashSet::from(["order".to_owned()]), always: false };
        for (name, written) in [
            ("orders", "orders"),
            ("_x1", "_x1"),
            ("1x", r#""1x""#),
            ("Orders", r#""Orders""#),
            ("order", r#""order""#),
            ("a b", r#""a b""#),
            ("a\"b", r#""a""b""#),
            ("é", r#""é""#),
            ("", r#""""#),
        ] {
            assert_eq!(quoting.write(name), written, "{name}");
        }
        quoting.always = true;
        assert_eq!(quoting.write("orders"), r#""orders""#);
    }
}
