//! A database's structure as its own catalog has it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which SQL a store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// A table's name with the namespace it lies in; SQLite's namespace is `main`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct TableName {
    /// PostgreSQL's schema, SQLite's database.
    pub namespace: String,
    /// The table.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" | "main" | "public" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}.{}", self.name),
        }
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The engine's type with its parameters, such as `numeric(10,2)`; may be empty in SQLite.
    pub native_type: String,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// The default as the engine prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Identity or generated expression, as the engine prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
    /// The column's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A primary key or unique constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// The constraint's name; empty where the engine gives none.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<String>,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForeignKey {
    /// The constraint's name; empty where the engine gives none.
    pub name: String,
    /// Columns of the referring table.
    pub columns: Vec<String>,
    /// The table referred to.
    pub parent: TableName,
    /// Columns referred to, as many as `columns`.
    pub parent_columns: Vec<String>,
    /// What happens on delete and update, as the engine prints it.
    pub actions: String,
    /// The engine has checked the rows that are there, and checks new ones.
    pub validated: bool,
}

/// A check constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// The constraint's name; empty where the engine gives none.
    pub name: String,
    /// The expression as the engine prints it.
    pub expression: String,
    /// The engine has checked the rows that are there.
    pub validated: bool,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Key columns or expressions, in order.
    pub columns: Vec<String>,
    /// Refuses duplicates.
    pub unique: bool,
    /// The index method, such as `btree`.
    pub method: String,
    /// The statement that makes it, as the engine prints it: the lossless form.
    pub definition: String,
    /// Predicate of a partial index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// A constraint's index, which goes with the constraint.
    pub backs_constraint: bool,
    /// Usable; false for what a failed concurrent build left behind.
    pub valid: bool,
    /// Size on disk, in bytes, where the engine says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// How a table is cut into partitions, or which one it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Partition {
    /// The partition key, for a partitioned table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The parent, for a partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TableName>,
    /// The bound, for a partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
}

/// A table with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Table {
    /// Its name.
    #[serde(flatten)]
    pub name: TableName,
    /// Columns in the table's order.
    pub columns: Vec<Column>,
    /// The primary key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_key: Option<Key>,
    /// Unique constraints, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unique_keys: Vec<Key>,
    /// Foreign keys, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_keys: Vec<ForeignKey>,
    /// Check constraints, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Indexes, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Index>,
    /// Triggers as the engine prints them, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<String>,
    /// Partitioning, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<Partition>,
    /// Engine options that matter for its meaning, such as `STRICT` or `UNLOGGED`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The table's comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Rows: counted where that is cheap, otherwise the engine's estimate.
    pub rows: u64,
    /// Whether `rows` is an estimate.
    pub rows_estimated: bool,
    /// Size with indexes, in bytes, where the engine says; with very many tables, as it last recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// A view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct View {
    /// Its name.
    #[serde(flatten)]
    pub name: TableName,
    /// Its defining query as the engine prints it.
    pub definition: String,
    /// Holds its rows.
    pub materialized: bool,
}

/// An extension of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The whole structure of one database, without Steward's own tables. Everything is sorted by name, so that equal
/// databases have equal schemas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Schema {
    /// Which SQL it speaks.
    pub dialect: Dialect,
    /// Tables.
    pub tables: Vec<Table>,
    /// Views.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<View>,
    /// Sequences, types, functions and whatever else the engine has: kind and definition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<(String, String)>,
    /// Extensions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Extension>,
    /// Size of the whole database, in bytes, where the engine says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

impl Schema {
    /// The table with this name, written `orders` or `sales.orders`.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| {
            table.name.to_string() == name || format!("{}.{}", table.name.namespace, table.name.name) == name
        })
    }

    /// The same without what changes from day to day: counts and sizes. Two databases have the same structure when
    /// these are equal.
    #[must_use]
    pub fn structure(&self) -> Schema {
        let mut schema = self.clone();
        schema.visit_counts(&mut |count| *count = Count::default());
        schema
    }

    /// What `look` makes of [`Schema::structure`], without a copy of it.
    pub fn look_at_structure<T>(&mut self, look: impl FnOnce(&Schema) -> T) -> T {
        let mut counts = Vec::new();
        self.visit_counts(&mut |count| counts.push(std::mem::take(count)));
        let seen = look(self);
        let mut counts = counts.into_iter();
        self.visit_counts(&mut |count| *count = counts.next().unwrap_or_default());
        seen
    }

    /// Shows all counts and sizes, in an order that stays.
    fn visit_counts(&mut self, visit: &mut impl FnMut(&mut Count)) {
        let mut of = |rows: &mut u64, rows_estimated: &mut bool, size_bytes: &mut Option<u64>| {
            let mut count = Count { rows: *rows, rows_estimated: *rows_estimated, size_bytes: *size_bytes };
            visit(&mut count);
            Count { rows: *rows, rows_estimated: *rows_estimated, size_bytes: *size_bytes } = count;
        };
        of(&mut 0, &mut false, &mut self.size_bytes);
        for table in &mut self.tables {
            of(&mut table.rows, &mut table.rows_estimated, &mut table.size_bytes);
            for index in &mut table.indexes {
                of(&mut 0, &mut false, &mut index.size_bytes);
            }
        }
    }
}

/// What changes from day to day.
#[derive(Default)]
struct Count {
    rows: u64,
    rows_estimated: bool,
    size_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_at_the_structure_leaves_the_schema_as_it_was() {
        let mut schema: Schema = serde_json::from_value(serde_json::json!({
            "dialect": "postgres",
            "size_bytes": 1,
            "tables": [
                { "namespace": "public", "name": "a", "columns": [], "rows": 2, "rows_estimated": true, "size_bytes": 3,
                  "indexes": [{ "name": "i", "columns": ["x"], "unique": false, "method": "btree", "definition": "",
                                "backs_constraint": false, "valid": true, "size_bytes": 4 }] },
                { "namespace": "public", "name": "b", "columns": [], "rows": 5, "rows_estimated": false, "size_bytes": 6 },
            ],
        }))
        .unwrap();
        let before = schema.clone();
        let seen = schema.look_at_structure(Schema::clone);
        assert_eq!(schema, before);
        assert_eq!(seen, before.structure());
        assert_eq!(
            (seen.tables[0].rows, seen.tables[0].indexes[0].size_bytes, seen.size_bytes),
            (0, None, None)
        );
    }
}
