//! What the planner would do.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Error, ErrorKind, Explain, TableScan};
use schema::TableName;
use serde_json::Value;

use crate::error::translate;
use crate::session::Session;
use crate::statement;

/// GENERIC_PLAN came with this version.
const GENERIC_PLAN_VERSION_NUM: i32 = 160_000;

/// Explains one statement inside the session's transaction.
pub(crate) async fn explain(session: &Session, sql: &str) -> Result<Explain, Error> {
    statement::check_text(sql)?;
    // Proves that it is one statement, before it becomes part of another.
    let prepared = session.client.prepare(sql).await.map_err(|error| translate(&error))?;
    if prepared.columns().is_empty() {
        return Err(refused());
    }
    let generic = if prepared.params().is_empty() {
        ""
    } else if session.rights.version_num >= GENERIC_PLAN_VERSION_NUM {
        ", GENERIC_PLAN"
    } else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "this server cannot explain a statement with placeholders",
        )
        .hint("write values in their place; PostgreSQL 16 and later need none"));
    };
    let plan = lines(session, &format!("EXPLAIN (VERBOSE, FORMAT JSON{generic})\n{sql}")).await?;
    let plan: Value = serde_json::from_str(&plan)
        .map_err(|error| Error::new(ErrorKind::Other, "the server's plan is not JSON").because(error))?;
    let root = &plan[0]["Plan"];
    let mut found = Found::default();
    found.walk(root);
    if found.writes {
        return Err(refused());
    }
    let text = lines(session, &format!("EXPLAIN (VERBOSE{generic})\n{sql}")).await?;
    let names: Vec<String> = found.scans.keys().map(|name| name.name.clone()).collect();
    let namespaces: Vec<String> = found.scans.keys().map(|name| name.namespace.clone()).collect();
    let rows = session
        .client
        .query(include_str!("sql/expected.sql"), &[&namespaces, &names])
        .await
        .map_err(|error| translate(&error))?;
    for row in rows {
        let name = TableName { namespace: row.get("namespace"), name: row.get("name") };
        if let Some(expected) = found.scans.get_mut(&name) {
            *expected = row.get::<_, Option<i64>>("rows").and_then(|rows| u64::try_from(rows).ok());
        }
    }
    Ok(Explain {
        text,
        full_scans: found
            .scans
            .into_iter()
            .map(|(name, rows_expected)| TableScan { table: name.to_string(), rows_expected })
            .collect(),
        indexes_used: found.indexes.into_iter().collect(),
        cost: root["Total Cost"].as_f64(),
    })
}

fn refused() -> Error {
    Error::new(ErrorKind::Denied, "the statement does not only read")
        .hint("explain the SELECT that finds the rows; changes go through `steward migration`")
}

/// The answer's lines as one text.
async fn lines(session: &Session, sql: &str) -> Result<String, Error> {
    let messages = session.client.simple_query(sql).await.map_err(|error| translate(&error))?;
    let mut text = String::new();
    for message in messages {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(row.try_get(0).map_err(|error| translate(&error))?.unwrap_or_default());
        }
    }
    Ok(text)
}

#[derive(Default)]
struct Found {
    scans: BTreeMap<TableName, Option<u64>>,
    indexes: BTreeSet<String>,
    writes: bool,
}

impl Found {
    fn walk(&mut self, node: &Value) {
        let text = |key: &str| node[key].as_str().map(str::to_owned);
        match node["Node Type"].as_str() {
            Some("Seq Scan") => {
                if let (Some(namespace), Some(name)) = (text("Schema"), text("Relation Name")) {
                    self.scans.insert(TableName { namespace, name }, None);
                }
            }
            Some("ModifyTable" | "LockRows") => self.writes = true,
            _ => {}
        }
        self.indexes.extend(text("Index Name"));
        for child in node["Plans"].as_array().into_iter().flatten() {
            self.walk(child);
        }
    }
}
