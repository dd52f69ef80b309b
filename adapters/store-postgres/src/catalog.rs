//! The schema as the server's catalog has it: a few questions about all tables at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use contract::Error;
use schema::{
    Check, Column, Dialect, Extension, ForeignKey, Index, Key, Partition, Schema, Table, TableName, View,
};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::error::translate;
use crate::statement::quote_identifier;

/// A table up to this size is counted; beyond it the server's estimate is told.
const COUNTED_TABLE_BYTES_MAX: i64 = 8 << 20;
/// All counted tables together are not larger than this; the smallest are counted first.
const COUNTED_BYTES_MAX: i64 = 256 << 20;
/// Tables counted by one statement.
const COUNTED_AT_ONCE: usize = 100;
/// Up to this many tables, each one's files are looked at and all small ones are counted. Both open the table, which costs
/// about 0.1 ms each; with more, the server's own record is told, which the next autovacuum brings up to date.
const OPENED_TABLES_MAX: i64 = 300;
/// Type `varchar`, whose operator class is that of `text`.
const VARCHAR: u32 = 1043;
const TEXT: u32 = 25;

/// Inspects inside a transaction that sees one state of the data.
pub(crate) async fn inspect(client: &Client) -> Result<Schema, Error> {
    // With an empty search path the server prints every name with its schema, whatever the login's settings are.
    client.batch_execute("SET LOCAL search_path = ''").await.map_err(|error| translate(&error))?;
    let mut tables = Tables::read(client).await?;
    tables.count(client).await?;
    tables.sum_up_partitions();
    let views = ask(client, include_str!("sql/views.sql"), &[]).await?;
    let others = ask(client, include_str!("sql/others.sql"), &[]).await?;
    let extensions = ask(
        client,
        "SELECT extname AS name, extversion AS version FROM pg_extension ORDER BY extname COLLATE \"C\"",
        &[],
    )
    .await?;
    let size = ask(client, "SELECT pg_database_size(current_database())", &[]).await?;
    Ok(Schema {
        dialect: Dialect::Postgres,
        tables: tables.into_sorted(),
        views: views
            .iter()
            .map(|row| View {
                name: table_name(row, "namespace", "name"),
                definition: row.get("definition"),
                materialized: row.get("materialized"),
            })
            .collect(),
        others: others.iter().map(|row| (row.get("kind"), row.get("definition"))).collect(),
        extensions: extensions
            .iter()
            .map(|row| Extension { name: row.get("name"), version: row.get("version") })
            .collect(),
        size_bytes: size.first().map(|row| unsigned(row.get(0))),
    })
}

async fn ask(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
    client.query(sql, parameters).await.map_err(|error| translate(&error))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn table_name(row: &Row, namespace: &str, name: &str) -> TableName {
    TableName { namespace: row.get(namespace), name: row.get(name) }
}

/// Tables by their oid.
struct Tables {
    by_oid: BTreeMap<u32, Table>,
    /// Names as statements write them.
    quoted: HashMap<u32, String>,
    /// By table and number.
    columns: HashMap<(u32, i16), ColumnKey>,
    /// Size, oid.
    countable: Vec<(i64, u32)>,
    partitions: HashMap<u32, Vec<u32>>,
}

/// What keys and indexes need of a column.
struct ColumnKey {
    name: String,
    quoted_name: String,
    type_oid: u32,
    collation_oid: u32,
}

impl Tables {
    async fn read(client: &Client) -> Result<Self, Error> {
        let mut out = Self {
            by_oid: BTreeMap::new(),
            quoted: HashMap::new(),
            columns: HashMap::new(),
            countable: Vec::new(),
            partitions: HashMap::new(),
        };
        let sizes: [&(dyn ToSql + Sync); 2] = [&COUNTED_TABLE_BYTES_MAX, &OPENED_TABLES_MAX];
        let rows = ask(client, include_str!("sql/tables.sql"), &sizes).await?;
        let count_all = i64::try_from(rows.len()).is_ok_and(|tables| tables <= OPENED_TABLES_MAX);
        for row in rows {
            out.add(&row, count_all);
        }
        let oids: Vec<u32> = out.by_oid.keys().copied().collect();
        // Sent one behind the other, so that the server works on the next while this side reads the one before.
        let of_tables: [&(dyn ToSql + Sync); 1] = [&oids];
        let of_indexes: [&(dyn ToSql + Sync); 2] = [&oids, &OPENED_TABLES_MAX];
        let (columns, constraints, indexes, triggers, classes) = tokio::try_join!(
            ask(client, include_str!("sql/columns.sql"), &of_tables),
            ask(client, include_str!("sql/constraints.sql"), &of_tables),
            ask(client, include_str!("sql/indexes.sql"), &of_indexes),
            ask(client, include_str!("sql/triggers.sql"), &of_tables),
            ask(client, include_str!("sql/operator_classes.sql"), &[]),
        )?;
        for row in columns {
            out.add_column(&row);
        }
        for row in constraints {
            out.add_constraint(&row);
        }
        let classes = classes.iter().map(|row| (row.get("oid"), row.get("type_oid"))).collect();
        out.add_indexes(client, &indexes, &classes).await?;
        for row in triggers {
            let definition = row.get("definition");
            out.of(&row).triggers.push(definition);
        }
        Ok(out)
    }

    fn add_column(&mut self, row: &Row) {
        let (table, number): (u32, i16) = (row.get("table_oid"), row.get("number"));
        let name: String = row.get("name");
        let key = ColumnKey {
            name: name.clone(),
            quoted_name: row.get("quoted_name"),
            type_oid: row.get("type_oid"),
            collation_oid: row.get("collation_oid"),
        };
        self.columns.insert((table, number), key);
        self.of(row).columns.push(Column {
            name,
            native_type: row.get("native_type"),
            nullable: row.get("nullable"),
            default: row.get("default_value"),
            generated: row.get("generated"),
            comment: row.get("comment"),
        });
    }

    /// Writes plain indexes itself, exactly as the server would, and has the others printed.
    async fn add_indexes(
        &mut self,
        client: &Client,
        rows: &[Row],
        classes: &HashMap<u32, u32>,
    ) -> Result<(), Error> {
        let mut plain: Vec<Option<(Vec<String>, String)>> = Vec::with_capacity(rows.len());
        let mut unwritten: Vec<u32> = Vec::new();
        for row in rows {
            let written = self.plain_index(row, classes);
            if written.is_none() {
                unwritten.push(row.get("index_oid"));
            }
            plain.push(written);
        }
        let mut printed = HashMap::new();
        if !unwritten.is_empty() {
            for row in ask(client, include_str!("sql/index_definitions.sql"), &[&unwritten]).await? {
                printed.insert(row.get::<_, u32>("index_oid"), row);
            }
        }
        for (row, written) in rows.iter().zip(plain) {
            let oid: u32 = row.get("index_oid");
            let (columns, definition, predicate) = match (written, printed.get(&oid)) {
                (Some((columns, definition)), _) => (columns, definition, None),
                (None, Some(printed)) => {
                    (printed.get("columns"), printed.get("definition"), printed.get("predicate"))
                }
                (None, None) => continue, // Dropped meanwhile: the catalog's functions see the newest state.
            };
            self.of(row).indexes.push(Index {
                name: row.get("name"),
                columns,
                unique: row.get("is_unique"),
                method: row.get("method"),
                definition,
                predicate,
                backs_constraint: row.get("backs_constraint"),
                valid: row.get("is_valid"),
                size_bytes: Some(unsigned(row.get("size_bytes"))),
            });
        }
        Ok(())
    }

    /// Columns and definition of an index that is nothing but columns with the operator class and the collation that
    /// they have anyway.
    fn plain_index(&self, row: &Row, classes: &HashMap<u32, u32>) -> Option<(Vec<String>, String)> {
        if !row.get::<_, bool>("plain") {
            return None;
        }
        let table: u32 = row.get("table_oid");
        let numbers: Vec<i16> = row.get("columns");
        let of_columns: (Vec<u32>, Vec<u32>) = (row.get("operator_classes"), row.get("collations"));
        let mut names = Vec::with_capacity(numbers.len());
        for ((number, class), collation) in numbers.iter().zip(&of_columns.0).zip(&of_columns.1) {
            let column = self.columns.get(&(table, *number))?;
            let for_type = *classes.get(class)?;
            let usual = for_type == column.type_oid || (for_type == TEXT && column.type_oid == VARCHAR);
            // An index without collation is one on a type that has none.
            if !usual || *collation != column.collation_oid {
                return None;
            }
            names.push(column.quoted_name.clone());
        }
        let unique = if row.get("is_unique") { "UNIQUE " } else { "" };
        let (name, table) = (row.get::<_, &str>("quoted_name"), self.quoted.get(&table)?);
        let definition = format!("CREATE {unique}INDEX {name} ON {table} USING btree ({})", names.join(", "));
        Some((names, definition))
    }

    /// Names of columns by their numbers.
    fn names(&self, table: u32, numbers: Option<Vec<i16>>) -> Vec<String> {
        let numbers = numbers.unwrap_or_default();
        numbers
            .iter()
            .filter_map(|number| self.columns.get(&(table, *number)).map(|column| column.name.clone()))
            .collect()
    }

    /// The table that a row of another answer belongs to.
    fn of(&mut self, row: &Row) -> &mut Table {
        let oid = row.get("table_oid");
        self.by_oid.get_mut(&oid).expect("only known tables were asked for, in one view of the catalog")
    }

    fn add(&mut self, row: &Row, count_all: bool) {
        let oid: u32 = row.get("oid");
        let size: i64 = row.get::<_, Option<i64>>("size_bytes").unwrap_or(0);
        let key: Option<String> = row.get("partition_key");
        let bound: Option<String> = row.get("partition_bound");
        let parent_oid: Option<u32> = row.get("parent_oid");
        let parent = parent_oid.map(|_| table_name(row, "parent_namespace", "parent_name"));
        if let Some(parent) = parent_oid {
            self.partitions.entry(parent).or_default().push(oid);
        }
        self.quoted.insert(oid, row.get("quoted_name"));
        let worth_it = count_all || row.get("never_analyzed");
        if worth_it && row.get::<_, Option<bool>>("countable") == Some(true) {
            self.countable.push((size, oid));
        }
        let table = Table {
            name: table_name(row, "namespace", "name"),
            columns: Vec::new(),
            primary_key: None,
            unique_keys: Vec::new(),
            foreign_keys: Vec::new(),
            checks: Vec::new(),
            indexes: Vec::new(),
            triggers: Vec::new(),
            partition: (key.is_some() || parent.is_some()).then_some(Partition { key, parent, bound }),
            options: row.get("options"),
            comment: row.get("comment"),
            rows: unsigned(row.get::<_, Option<i64>>("rows_expected").unwrap_or(0)),
            rows_estimated: true,
            size_bytes: Some(unsigned(size)),
        };
        self.by_oid.insert(oid, table);
    }

    fn add_constraint(&mut self, row: &Row) {
        let name: String = row.get("name");
        let columns = self.names(row.get("table_oid"), row.get("columns"));
        let parent_columns = row
            .get::<_, Option<Vec<String>>>("parent_names")
            .unwrap_or_else(|| self.names(row.get("parent_oid"), row.get("parent_columns")));
        let validated = row.get("validated");
        let table = self.of(row);
        table.options.extend(row.get::<_, Option<String>>("definition"));
        match row.get("kind") {
            "p" => table.primary_key = Some(Key { name, columns }),
            "u" => table.unique_keys.push(Key { name, columns }),
            "f" => table.foreign_keys.push(ForeignKey {
                name,
                columns,
                parent: table_name(row, "parent_namespace", "parent_name"),
                parent_columns,
                actions: row.get("actions"),
                validated,
            }),
            "c" => table.checks.push(Check { name, expression: row.get("expression"), validated }),
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
                let TableName { namespace, name } = &self.by_oid[oid].name;
                let union = if sql.is_empty() { "" } else { " UNION ALL " };
                let (namespace, name) = (quote_identifier(namespace), quote_identifier(name));
                write!(sql, "{union}SELECT {oid}::oid, count(*) FROM ONLY {namespace}.{name}")
                    .expect("writing to a string does not fail");
            }
            client.batch_execute("SAVEPOINT counting").await.map_err(|error| translate(&error))?;
            let end = match client.query(&sql, &[]).await {
                Ok(rows) => {
                    for row in rows {
                        if let Some(table) = self.by_oid.get_mut(&row.get(0)) {
                            (table.rows, table.rows_estimated) = (unsigned(row.get(1)), false);
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
                        if let Some(table) = self.by_oid.get(&next) {
                            rows += table.rows;
                            size += table.size_bytes.unwrap_or(0);
                            estimated |= table.rows_estimated;
                        }
                    }
                }
            }
            if let Some(table) = self.by_oid.get_mut(&oid) {
                (table.rows, table.size_bytes, table.rows_estimated) = (rows, Some(size), estimated);
            }
        }
    }

    fn into_sorted(self) -> Vec<Table> {
        let mut tables: Vec<Table> = self.by_oid.into_values().collect();
        for table in &mut tables {
            table.options.sort();
        }
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    }
}
