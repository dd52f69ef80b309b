//! What differs between two schemas.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Schema, Table};

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// In both, not alike.
    Changed,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// `table`, `column`, `primary_key`, `unique_key`, `foreign_key`, `check`, `index`, `trigger`, `option`,
    /// `comment`, `partition`, `view`, `extension`, or the engine's own kind.
    pub kind: String,
    /// Such as `orders` or `orders.customer_id`.
    pub object: String,
    /// How it differs.
    pub change: Change,
    /// The first's form; absent when added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The second's form; absent when removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// All differences in structure from `a` to `b`, sorted by kind within each table; counts and sizes do not count.
pub fn diff(a: &Schema, b: &Schema) -> Vec<Difference> {
    let (a, b) = (a.structure(), b.structure());
    let mut out = Vec::new();
    let tables = |schema: &Schema| -> BTreeMap<String, Table> {
        schema.tables.iter().map(|table| (table.name.to_string(), table.clone())).collect()
    };
    let (tables_a, tables_b) = (tables(&a), tables(&b));
    for (name, table) in &tables_a {
        match tables_b.get(name) {
            None => out.push(removed("table", name, columns_text(table))),
            Some(other) => diff_table(name, table, other, &mut out),
        }
    }
    for (name, table) in &tables_b {
        if !tables_a.contains_key(name) {
            out.push(added("table", name, columns_text(table)));
        }
    }
    let views = |schema: &Schema| -> BTreeMap<String, String> {
        let text = |view: &crate::View| {
            format!("{}{}", if view.materialized { "materialized: " } else { "" }, view.definition)
        };
        schema.views.iter().map(|view| (view.name.to_string(), text(view))).collect()
    };
    diff_maps("view", "", &views(&a), &views(&b), &mut out);
    let extensions = |schema: &Schema| -> BTreeMap<String, String> {
        schema
            .extensions
            .iter()
            .map(|extension| (extension.name.clone(), extension.version.clone()))
            .collect()
    };
    diff_maps("extension", "", &extensions(&a), &extensions(&b), &mut out);
    let others = |schema: &Schema| -> BTreeMap<String, String> {
        schema
            .others
            .iter()
            .map(|(kind, definition)| (format!("{kind} {definition}"), definition.clone()))
            .collect()
    };
    diff_maps("other", "", &others(&a), &others(&b), &mut out);
    out
}

fn diff_table(name: &str, a: &Table, b: &Table, out: &mut Vec<Difference>) {
    let columns = |table: &Table| by_name(&table.columns, |column| column.name.clone());
    diff_maps("column", name, &columns(a), &columns(b), out);
    let order = |table: &Table| {
        table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (mut names_a, mut names_b): (Vec<_>, Vec<_>) =
        (a.columns.iter().map(|c| &c.name).collect(), b.columns.iter().map(|c| &c.name).collect());
    let reordered = names_a != names_b;
    names_a.sort();
    names_b.sort();
    if reordered && names_a == names_b {
        out.push(changed("column_order", name, order(a), order(b)));
    }
    diff_option("primary_key", name, a.primary_key.as_ref().map(text), b.primary_key.as_ref().map(text), out);
    let named = |prefix: &str, name: &str, value: &Value| {
        // A constraint without a name is known by what it says.
        if name.is_empty() { format!("{prefix}({value})") } else { name.to_owned() }
    };
    let keys = |table: &Table| by_name(&table.unique_keys, |key| named("unique", &key.name, &to_value(key)));
    diff_maps("unique_key", name, &keys(a), &keys(b), out);
    let foreign =
        |table: &Table| by_name(&table.foreign_keys, |key| named("foreign", &key.name, &to_value(key)));
    diff_maps("foreign_key", name, &foreign(a), &foreign(b), out);
    let checks =
        |table: &Table| by_name(&table.checks, |check| named("check", &check.name, &to_value(check)));
    diff_maps("check", name, &checks(a), &checks(b), out);
    let indexes = |table: &Table| by_name(&table.indexes, |index| index.name.clone());
    diff_maps("index", name, &indexes(a), &indexes(b), out);
    let words =
        |items: &[String]| items.iter().map(|item| (item.clone(), item.clone())).collect::<BTreeMap<_, _>>();
    diff_maps("trigger", name, &words(&a.triggers), &words(&b.triggers), out);
    diff_maps("option", name, &words(&a.options), &words(&b.options), out);
    diff_option("comment", name, a.comment.clone(), b.comment.clone(), out);
    diff_option("partition", name, a.partition.as_ref().map(text), b.partition.as_ref().map(text), out);
}

fn by_name<T: Serialize>(items: &[T], name: impl Fn(&T) -> String) -> BTreeMap<String, String> {
    items.iter().map(|item| (name(item), text(item))).collect()
}

fn to_value<T: Serialize>(item: &T) -> Value {
    serde_json::to_value(item).expect("schema types are JSON")
}

fn text<T: Serialize>(item: &T) -> String {
    to_value(item).to_string()
}

fn columns_text(table: &Table) -> String {
    table
        .columns
        .iter()
        .map(|column| format!("{} {}", column.name, column.native_type))
        .collect::<Vec<_>>()
        .join(", ")
}

fn diff_maps(
    kind: &str,
    table: &str,
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
    out: &mut Vec<Difference>,
) {
    let object = |name: &str| if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
    for (name, from) in a {
        match b.get(name) {
            None => out.push(removed(kind, &object(name), from.clone())),
            Some(to) if to != from => out.push(changed(kind, &object(name), from.clone(), to.clone())),
            Some(_) => {}
        }
    }
    for (name, to) in b {
        if !a.contains_key(name) {
            out.push(added(kind, &object(name), to.clone()));
        }
    }
}

fn diff_option(kind: &str, object: &str, a: Option<String>, b: Option<String>, out: &mut Vec<Difference>) {
    match (a, b) {
        (Some(a), Some(b)) if a != b => out.push(changed(kind, object, a, b)),
        (Some(a), None) => out.push(removed(kind, object, a)),
        (None, Some(b)) => out.push(added(kind, object, b)),
        _ => {}
    }
}

fn added(kind: &str, object: &str, to: String) -> Difference {
    Difference { kind: kind.into(), object: object.into(), change: Change::Added, from: None, to: Some(to) }
}

fn removed(kind: &str, object: &str, from: String) -> Difference {
    Difference {
        kind: kind.into(),
        object: object.into(),
        change: Change::Removed,
        from: Some(from),
        to: None,
    }
}

fn changed(kind: &str, object: &str, from: String, to: String) -> Difference {
    Difference {
        kind: kind.into(),
        object: object.into(),
        change: Change::Changed,
        from: Some(from),
        to: Some(to),
    }
}
