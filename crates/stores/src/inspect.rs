//! A store's structure as readable text, JSON and Mermaid.

use std::borrow::Cow;
use std::fmt::Write;

use contract::{Context, Effect, Error, ErrorKind, Outcome, Request, StoreDirectory};
use schema::{Dialect, Schema, Table};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inquiry::Inquiry;
use crate::text::{self, TO_STRING};

/// Longest definition of a view that the text shows, in characters.
const DEFINITION_CHARS_MAX: usize = 100;

/// How a schema is written for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemaFormat {
    /// Tables with their columns, keys and indexes.
    #[default]
    Text,
    /// The schema as JSON, as `store.diff` takes it for `snapshot`.
    Json,
    /// An entity relationship diagram in Mermaid.
    Mermaid,
}

/// Arguments of `store.inspect`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InspectStore {
    /// The store's name in the project file.
    pub store: String,
    /// One table, such as `orders` or `sales.orders`; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// How the schema is written: `text`, `json` or `mermaid`.
    #[serde(default)]
    pub format: SchemaFormat,
}

impl Request for InspectStore {
    const NAME: &'static str = "store.inspect";
    const SUMMARY: &'static str = "Show tables, columns, keys, indexes, constraints, views, sizes and counts";
    const EXAMPLE: &'static str = "steward store inspect orders --format mermaid";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["store", "table"];
}

/// Reads the schema from the store's own catalog.
///
/// Value: [`Schema`]: `dialect`, `tables[] {namespace, name, columns[], rows, rows_estimated, size_bytes …}`,
/// `views[]`, `others[]`, `extensions[]`, `size_bytes`.
///
/// # Errors
///
/// `NotFound`: no such store or table. `Unavailable`, `Denied`, `TimedOut`, `Corrupt`: from the store.
pub async fn inspect(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &InspectStore,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let (mut schema, _) = inquiry.schema().await?;
    if let Some(name) = &request.table {
        let table = find_table(&schema, name)?.clone();
        schema.tables = vec![table];
        schema.views.clear();
        schema.others.clear();
        schema.extensions.clear();
        schema.size_bytes = None;
    }
    let text = match request.format {
        SchemaFormat::Text => schema_text(&format!("{}: {}", request.store, inquiry.store.kind()), &schema),
        SchemaFormat::Json => serde_json::to_string_pretty(&schema).expect("a schema is JSON"),
        SchemaFormat::Mermaid => mermaid(&schema),
    };
    let mut outcome = Outcome::of(schema, text);
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

/// The table called `name`.
pub(crate) fn find_table<'a>(schema: &'a Schema, name: &str) -> Result<&'a Table, Error> {
    schema.table(name).ok_or_else(|| {
        let names: Vec<String> = schema.tables.iter().take(20).map(|table| table.name.to_string()).collect();
        Error::new(ErrorKind::NotFound, format!("no table `{name}`")).hint(if names.is_empty() {
            "the store has no tables".into()
        } else {
            format!("there are: {}", names.join(", "))
        })
    })
}

/// The schema as text: one block per table.
fn schema_text(title: &str, schema: &Schema) -> String {
    let mut facts = vec![text::count(schema.tables.len() as u64, "table")];
    if !schema.views.is_empty() {
        facts.push(text::count(schema.views.len() as u64, "view"));
    }
    facts.extend(schema.size_bytes.map(text::size));
    let mut out = format!("{title}, {}", facts.join(", "));
    // SQLite never says that it has validated a constraint.
    let validates = schema.dialect != Dialect::Sqlite;
    for table in &schema.tables {
        out.push_str("\n\n");
        write_table(&mut out, table, validates);
    }
    for view in &schema.views {
        let kind = if view.materialized { "materialized view" } else { "view" };
        write!(out, "\n\n{kind} {}\n  {}", view.name, one_line(&view.definition)).expect(TO_STRING);
    }
    if !schema.extensions.is_empty() {
        let list: Vec<String> = schema
            .extensions
            .iter()
            .map(|extension| format!("{} {}", extension.name, extension.version))
            .collect();
        write!(out, "\n\nextensions: {}", list.join(", ")).expect(TO_STRING);
    }
    if !schema.others.is_empty() {
        out.push_str("\n\nothers");
        for (kind, definition) in &schema.others {
            write!(out, "\n  {kind} {}", one_line(definition)).expect(TO_STRING);
        }
    }
    out
}

fn write_table(out: &mut String, table: &Table, validates: bool) {
    let about = if table.rows_estimated { "about " } else { "" };
    let mut facts = vec![format!("{about}{}", text::count(table.rows, "row"))];
    facts.extend(table.size_bytes.map(text::size));
    facts.extend(table.options.iter().cloned());
    write!(out, "table {} ({})", text::plain(&table.name.to_string(), 200), facts.join(", "))
        .expect(TO_STRING);
    if let Some(comment) = &table.comment {
        write!(out, "\n  -- {}", one_line(comment)).expect(TO_STRING);
    }
    let name_width = table.columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0);
    let type_width = table.columns.iter().map(|column| column.native_type.chars().count()).max().unwrap_or(0);
    let primary: &[String] = table.primary_key.as_ref().map_or(&[], |key| &key.columns);
    for column in &table.columns {
        let line = out.len() + 1;
        let name = text::plain(&column.name, 200);
        write!(out, "\n  {name:<name_width$}  {:<type_width$}", column.native_type).expect(TO_STRING);
        let mut before = "  ";
        let mut note = |parts: &[&str]| {
            out.push_str(std::mem::replace(&mut before, ", "));
            out.extend(parts.iter().copied());
        };
        if primary.len() == 1 && primary[0] == column.name {
            note(&["primary key"]);
        }
        if !column.nullable && !primary.contains(&column.name) {
            note(&["not null"]);
        }
        if let Some(default) = &column.default {
            note(&["default ", &one_line(default)]);
        }
        if let Some(generated) = &column.generated {
            note(&[&one_line(generated)]);
        }
        for key in
            table.foreign_keys.iter().filter(|key| key.columns.len() == 1 && key.columns[0] == column.name)
        {
            let unvalidated = if key.validated || !validates { "" } else { " (not validated)" };
            let (parent, columns) = (key.parent.to_string(), key.parent_columns.join(", "));
            note(&["references ", &parent, " (", &columns, ")", unvalidated]);
        }
        if let Some(comment) = &column.comment {
            note(&["-- ", &one_line(comment)]);
        }
        out.truncate(line + out[line..].trim_end().len());
    }
    let mut more = |line: String| {
        write!(out, "\n  {line}").expect(TO_STRING);
    };
    if primary.len() > 1 {
        more(format!("primary key ({})", primary.join(", ")));
    }
    for key in &table.unique_keys {
        more(format!("unique ({})", key.columns.join(", ")));
    }
    for key in table.foreign_keys.iter().filter(|key| key.columns.len() > 1) {
        let (from, to) = (key.columns.join(", "), key.parent_columns.join(", "));
        more(format!("foreign key ({from}) references {} ({to})", key.parent));
    }
    for check in &table.checks {
        let unvalidated = if check.validated || !validates { "" } else { " (not validated)" };
        more(format!("check {}{unvalidated}", one_line(&check.expression)));
    }
    for index in table.indexes.iter().filter(|index| !index.backs_constraint) {
        let mut line = format!(
            "{}index {} ({})",
            if index.unique { "unique " } else { "" },
            text::plain(&index.name, 200),
            index.columns.join(", ")
        );
        if !matches!(index.method.as_str(), "" | "btree") {
            write!(line, " using {}", index.method).expect(TO_STRING);
        }
        if let Some(predicate) = &index.predicate {
            write!(line, " where {}", one_line(predicate)).expect(TO_STRING);
        }
        if let Some(size) = index.size_bytes {
            write!(line, ", {}", text::size(size)).expect(TO_STRING);
        }
        if !index.valid {
            line.push_str(", INVALID");
        }
        more(line);
    }
    for trigger in &table.triggers {
        more(format!("trigger {}", one_line(trigger)));
    }
    if let Some(partition) = &table.partition {
        if let Some(key) = &partition.key {
            more(format!("partitioned by {key}"));
        }
        if let (Some(parent), Some(bound)) = (&partition.parent, &partition.bound) {
            more(format!("partition of {parent} {bound}"));
        }
    }
}

fn one_line(text: &str) -> Cow<'_, str> {
    let is_one = text::is_plain(text, DEFINITION_CHARS_MAX)
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !text.contains("  ");
    if is_one {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text::plain(&text.split_whitespace().collect::<Vec<_>>().join(" "), DEFINITION_CHARS_MAX))
}

/// The schema as a Mermaid entity relationship diagram.
pub(crate) fn mermaid(schema: &Schema) -> String {
    let mut out = "erDiagram".to_owned();
    for table in &schema.tables {
        for key in &table.foreign_keys {
            let optional = key
                .columns
                .iter()
                .any(|name| table.columns.iter().any(|column| column.name == *name && column.nullable));
            let one_each = table
                .unique_keys
                .iter()
                .chain(&table.primary_key)
                .any(|unique| unique.columns.iter().all(|column| key.columns.contains(column)));
            write!(
                out,
                "\n    {} {}--{} {} : {}",
                mermaid_text(&key.parent.to_string()),
                if optional { "|o" } else { "||" },
                if one_each { "o|" } else { "o{" },
                mermaid_text(&table.name.to_string()),
                mermaid_text(&key.columns.join(", "))
            )
            .expect(TO_STRING);
        }
    }
    for table in &schema.tables {
        write!(out, "\n    {} {{", mermaid_text(&table.name.to_string())).expect(TO_STRING);
        for column in &table.columns {
            let mut marks = Vec::new();
            if table.primary_key.as_ref().is_some_and(|key| key.columns.contains(&column.name)) {
                marks.push("PK");
            }
            if table.foreign_keys.iter().any(|key| key.columns.contains(&column.name)) {
                marks.push("FK");
            }
            if table.unique_keys.iter().any(|key| key.columns == [column.name.clone()]) {
                marks.push("UK");
            }
            let kind = if column.native_type.is_empty() { "any" } else { &column.native_type };
            let name = mermaid_word(&column.name);
            write!(out, "\n        {} {name}", mermaid_word(kind)).expect(TO_STRING);
            if !marks.is_empty() {
                write!(out, " {}", marks.join(", ")).expect(TO_STRING);
            }
            if name != column.name {
                write!(out, " {}", mermaid_text(&column.name)).expect(TO_STRING);
            }
        }
        out.push_str("\n    }");
    }
    out
}

/// A quoted name; Mermaid has no escape for the quote itself.
fn mermaid_text(text: &str) -> String {
    format!("\"{}\"", text::plain(text, 200).replace('"', "'"))
}

/// A type or attribute as the one word that Mermaid allows: letters, digits and underscores, a letter first.
fn mermaid_word(text: &str) -> String {
    let mut word: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    while word.ends_with('_') && word.len() > 1 && !text.ends_with('_') {
        word.pop();
    }
    if word.starts_with(|c: char| c.is_ascii_alphabetic()) { word } else { format!("c{word}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        serde_json::from_value(json!({
            "dialect": "postgres",
            "size_bytes": 13_000_000,
            "tables": [
                {"namespace": "public", "name": "customers", "rows": 3, "rows_estimated": false,
                 "columns": [
                    {"name": "id", "native_type": "bigint", "nullable": false, "generated": "always as identity"},
                    {"name": "e mail", "native_type": "text", "nullable": false}],
                 "primary_key": {"name": "customers_pkey", "columns": ["id"]},
                 "unique_keys": [{"name": "customers_email_key", "columns": ["e mail"]}]},
                {"namespace": "sales", "name": "orders", "rows": 120_000, "rows_estimated": true, "size_bytes": 9_000_000,
                 "columns": [
                    {"name": "id", "native_type": "bigint", "nullable": false},
                    {"name": "customer_id", "native_type": "bigint", "nullable": true},
                    {"name": "total", "native_type": "numeric(10,2)", "nullable": false, "default": "0"}],
                 "primary_key": {"name": "orders_pkey", "columns": ["id"]},
                 "foreign_keys": [{"name": "fk", "columns": ["customer_id"],
                    "parent": {"namespace": "public", "name": "customers"}, "parent_columns": ["id"],
                    "actions": "", "validated": false}],
                 "checks": [{"name": "c", "expression": "(total >= 0)", "validated": true}],
                 "indexes": [{"name": "orders_total", "columns": ["total"], "unique": false, "method": "brin",
                    "definition": "CREATE INDEX …", "backs_constraint": false, "valid": false, "size_bytes": 2048}]}
            ],
            "views": [{"namespace": "public", "name": "big", "definition": "SELECT 1\n  FROM orders", "materialized": false}]
        }))
        .unwrap()
    }

    #[test]
    fn schema_reads_well_as_text() {
        insta::assert_snapshot!(schema_text("orders: postgres", &schema()), @r"
        orders: postgres, 2 tables, 1 view, 12.4 MiB

        table customers (3 rows)
          id      bigint  primary key, always as identity
          e mail  text    not null
          unique (e mail)

        table sales.orders (about 120,000 rows, 8.6 MiB)
          id           bigint         primary key
          customer_id  bigint         references customers (id) (not validated)
          total        numeric(10,2)  not null, default 0
          check (total >= 0)
          index orders_total (total) using brin, 2.0 KiB, INVALID

        view big
          SELECT 1 FROM orders
        ");
    }

    #[test]
    fn schema_reads_well_as_mermaid() {
        insta::assert_snapshot!(mermaid(&schema()), @r#"
        erDiagram
            "customers" |o--o{ "sales.orders" : "customer_id"
            "customers" {
                bigint id PK
                text e_mail UK "e mail"
            }
            "sales.orders" {
                bigint id PK
                bigint customer_id FK
                numeric_10_2 total
            }
        "#);
    }
}
