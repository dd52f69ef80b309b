//! A store that is being asked, and the evidence of what it answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{
    Context, Error, ErrorKind, Evidence, Limits, Query, Relational, Rows, Store, StoreDirectory,
    canonical_json, json_sha256_hex, sha256_hex,
};
use schema::{Dialect, Schema, TableName};
use serde_json::{Value, json};

/// Rows of an answer that evidence keeps; the rest is told by count and hash.
const EVIDENCE_ROWS_MAX: usize = 200;

/// A store that is being asked.
pub(crate) struct Inquiry<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) evidence: Vec<Evidence>,
}

impl<'a> Inquiry<'a> {
    /// Opens the store called `name`.
    pub(crate) async fn open(
        ctx: &'a Context,
        stores: &dyn StoreDirectory,
        name: &str,
    ) -> Result<Self, Error> {
        Ok(Self { ctx, store: stores.open(ctx, name).await?, evidence: Vec::new() })
    }

    /// The SQL side of the store.
    pub(crate) fn relational(&self) -> Result<&dyn Relational, Error> {
        self.store.relational().ok_or_else(|| {
            self.store.unsupported("sql", "this kind of store has no tables", "ask a store that speaks SQL")
        })
    }

    /// Which SQL it speaks.
    pub(crate) fn dialect(&self) -> Result<Dialect, Error> {
        Ok(self.relational()?.dialect())
    }

    /// The identifier as it can stand in a statement.
    pub(crate) fn quoted(&self, name: &str) -> Result<String, Error> {
        Ok(self.relational()?.quote_identifier(name))
    }

    /// Identifiers as they can stand in a list.
    pub(crate) fn quoted_list(&self, names: &[String]) -> Result<String, Error> {
        let relational = self.relational()?;
        Ok(names.iter().map(|name| relational.quote_identifier(name)).collect::<Vec<_>>().join(", "))
    }

    /// The table's name as it can stand in a statement.
    pub(crate) fn quoted_table(&self, table: &TableName) -> Result<String, Error> {
        let relational = self.relational()?;
        let name = relational.quote_identifier(&table.name);
        Ok(match table.namespace.as_str() {
            "" => name,
            namespace => format!("{}.{name}", relational.quote_identifier(namespace)),
        })
    }

    /// The schema as it is now, with evidence. Gives the evidence's id.
    pub(crate) async fn schema(&mut self) -> Result<(Schema, String), Error> {
        let started = Instant::now();
        let mut schema = self.relational()?.inspect(self.ctx).await?;
        schema
            .tables
            .retain(|table| table.name.namespace != "steward" && table.name.name != "steward_migrations");
        let tables: Vec<Value> = schema
            .tables
            .iter()
            .map(|table| {
                json!({"table": table.name.to_string(), "rows": table.rows, "rows_estimated": table.rows_estimated,
                       "size_bytes": table.size_bytes})
            })
            .collect();
        let answer = json!({"structure_sha256": structure_digest(&mut schema), "tables": tables});
        let id = self.note("inspect", answer, millis_since(started));
        Ok((schema, id))
    }

    /// Runs one reading statement and keeps it as evidence. Gives the rows and the evidence's id.
    pub(crate) async fn rows(&mut self, query: &Query) -> Result<(Rows, String), Error> {
        let rows = self.relational()?.query(self.ctx, query).await?;
        let answer = rows_answer(&rows, &query.parameters);
        let id = self.note(&query.sql, answer, rows.elapsed_ms);
        Ok((rows, id))
    }

    /// Runs a statement that answers one number.
    pub(crate) async fn number(&mut self, sql: String, timeout: Duration) -> Result<(u64, String), Error> {
        let mut query = Query::new(sql);
        query.limits = Limits { statement_timeout: timeout, ..Limits::default() };
        let (rows, id) = self.rows(&query).await?;
        let number = rows.rows.first().and_then(|row| row.first()).and_then(as_u64).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the store answered no number where one was asked for")
                .with("store", self.store.name())
                .with("statement", &query.sql)
        })?;
        Ok((number, id))
    }

    /// Keeps what was asked and answered. Gives the evidence's id.
    pub(crate) fn note(&mut self, statement: &str, answer: Value, elapsed_ms: f64) -> String {
        let source = format!("store:{}", self.store.name());
        let evidence = Evidence::new(&source, statement, answer, self.ctx.now(), elapsed_ms);
        let id = evidence.id.clone();
        self.evidence.push(evidence);
        id
    }
}

/// The answer as evidence keeps it.
pub(crate) fn rows_answer(rows: &Rows, parameters: &[Value]) -> Value {
    let mut answer = json!({
        "columns": rows.columns,
        "rows": rows.rows.iter().take(EVIDENCE_ROWS_MAX).collect::<Vec<_>>(),
        "rows_returned": rows.rows.len(),
        "truncated": rows.truncated,
    });
    if rows.rows.len() > EVIDENCE_ROWS_MAX {
        let all = serde_json::to_value(&rows.rows).expect("rows are JSON");
        answer["rows_sha256"] = json!(sha256_hex(canonical_json(&all).as_bytes()));
    }
    if !parameters.is_empty() {
        answer["parameters"] = json!(parameters);
    }
    answer
}

/// SHA-256 of the structure, without counts and sizes.
pub(crate) fn structure_digest(schema: &mut Schema) -> String {
    // Fields in the order of their declaration and lists sorted by the adapter: no canonical form is needed.
    schema.look_at_structure(json_sha256_hex)
}

/// A count, which travels as a string when it is large.
pub(crate) fn as_u64(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

pub(crate) fn millis_since(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1_000.0
}

/// The `n`th placeholder, from 1.
pub(crate) fn placeholder(dialect: Dialect, n: usize) -> String {
    match dialect {
        Dialect::Postgres => format!("${n}"),
        Dialect::Sqlite => format!("?{n}"),
    }
}

/// A string as a literal, for the few statements that take no bound values. Refuses the backslash, whose meaning
/// depends on a server's settings.
pub(crate) fn quoted_literal(text: &str) -> Result<String, Error> {
    if text.contains(['\\', '\0']) {
        return Err(
            Error::new(ErrorKind::Invalid, "a name holds a backslash or a zero byte").with("name", text)
        );
    }
    Ok(format!("'{}'", text.replace('\'', "''")))
}
