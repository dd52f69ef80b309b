//! Indexes built anew while others write, and what a build that was cut short leaves behind.

use contract::{Context, Error, ErrorKind, PlanStep, Prepared, Statement, StepMode};
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::error::translate;
use crate::operate::denied;
use crate::session::{Purpose, Session};
use crate::statement::{quote_identifier, quote_literal};
use crate::store::PostgresStore;
use crate::vacuum::MAINTAIN_SINCE;

/// Longest name that the server keeps, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// The name that the server gives to an index while it replaces another: the end of a long name gives way.
///
/// Source: PostgreSQL, `ChooseRelationName` and `ReindexRelationConcurrently`.
fn working_name(index: &str, label: &str) -> String {
    let room = NAME_BYTES_MAX - label.len() - 1;
    let mut end = index.len().min(room);
    while !index.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{label}", &index[..end])
}

fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(name))
}

/// Whether the index lies in another file than before, is usable, and nothing of its making is left.
fn is_rebuilt(schema: &str, name: &str, file: i64) -> Statement {
    let left: Vec<String> =
        ["ccnew", "ccold"].iter().map(|label| quote_literal(&working_name(name, label))).collect();
    Statement::new(format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_index x ON x.indexrelid = c.oid WHERE n.nspname = {schema} AND c.relname = {name} \
         AND x.indisvalid AND x.indisready AND c.relfilenode::int8 <> {file}) AND NOT EXISTS (SELECT FROM \
         pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_index x \
         ON x.indexrelid = c.oid WHERE n.nspname = {schema} AND c.relname IN ({left}) AND NOT x.indisvalid)",
        schema = quote_literal(schema),
        name = quote_literal(name),
        left = left.join(", ")
    ))
}

fn is_gone(schema: &str, name: &str) -> Statement {
    Statement::new(format!("SELECT to_regclass({}) IS NULL", quote_literal(&qualified(schema, name))))
}

impl PostgresStore {
    pub(crate) async fn prepare_rebuild(
        &self,
        session: &Session,
        index: Option<&str>,
        table: Option<&str>,
        blocking: bool,
    ) -> Result<Prepared, Error> {
        let what = match (index, table) {
            (Some(index), None) => format!("index `{index}`"),
            (None, Some(table)) => format!("index of `{table}`"),
            _ => {
                return Err(Error::new(ErrorKind::Invalid, "name either an index or a table")
                    .hint("`steward index rebuild STORE INDEX`, or `--table TABLE` for all of a table"));
            }
        };
        let (_, users) = self.acting_logins();
        let maintain = session.rights.version_num >= MAINTAIN_SINCE;
        let rows = session
            .client
            .query(include_str!("sql/rebuild_indexes.sql"), &[&index, &table, &users, &maintain])
            .await
            .map_err(|error| translate(&error))?;
        let rows: Vec<&Row> =
            rows.iter().filter(|row| !row.get::<_, bool>("is_left_over") || index.is_some()).collect();
        if rows.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no {what}"))
                .hint("`steward store inspect` shows them"));
        }
        let name_of = |row: &Row| (row.get::<_, String>("schema"), row.get::<_, String>("name"));
        if let Some(left) = rows.iter().find(|row| row.get("is_left_over")) {
            let (schema, name) = name_of(left);
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("`{schema}.{name}` is what a rebuild that was cut short left behind"),
            )
            .hint("drop it: `steward index drop`; or rebuild the index that it was to replace, which drops it too"));
        }
        let may = |user: &String| rows.iter().all(|row| row.get::<_, Vec<String>>("may").contains(user));
        let able: Vec<String> = users.iter().filter(|user| may(user)).cloned().collect();
        let Some(login) = self.first_of(&able) else {
            let mut owners: Vec<String> = rows.iter().map(|row| row.get("owner")).collect();
            owners.dedup();
            let mut who = self.who_owns(&owners);
            if maintain {
                who.push_str("; or GRANT MAINTAIN on the table");
            }
            return Err(denied(&format!("no configured login may rebuild the {what}"), &who));
        };
        let mut steps = Vec::new();
        let mut effect = Vec::new();
        for row in &rows {
            let (schema, name) = name_of(row);
            let file: i64 = row.get("file");
            for left in row.get::<_, Vec<String>>("left_over") {
                steps.push(drop_left_over(&schema, &left));
            }
            // The server cannot build this kind beside the old one, and would only warn.
            let concurrent = !row.get::<_, bool>("is_exclusion");
            if !concurrent && !blocking {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("`{schema}.{name}` serves an exclusion constraint: it can only be built while nobody writes"),
                )
                .hint("say `blocking` in a maintenance window"));
            }
            steps.push(rebuild(&schema, &name, file, concurrent));
            effect.push(json!({"schema": schema, "name": name, "file": file}));
        }
        let names: Vec<String> =
            rows.iter().map(|row| name_of(row)).map(|(schema, name)| format!("{schema}.{name}")).collect();
        let seen: Vec<Value> = rows
            .iter()
            .map(|row| {
                let (schema, name) = name_of(row);
                json!({"index": format!("{schema}.{name}"), "valid": row.get::<_, bool>("valid"),
                       "size_bytes": row.get::<_, i64>("size_bytes"),
                       "left_over": row.get::<_, Vec<String>>("left_over")})
            })
            .collect();
        Ok(Prepared {
            summary: format!("build {} anew", names.join(", ")),
            state: json!({"indexes": effect, "steps": steps.len()}),
            predicted: json!({"indexes": effect}),
            steps,
            login,
            findings: Vec::new(),
            seen: json!({"indexes": seen}),
        })
    }

    pub(crate) async fn not_rebuilt(&self, ctx: &Context, predicted: &Value) -> Result<Vec<String>, Error> {
        let session = self.open_to_look(ctx, Purpose::Read).await?;
        let mut problems = Vec::new();
        for index in predicted["indexes"].as_array().into_iter().flatten() {
            let text = |key: &str| index[key].as_str().unwrap_or_default().to_owned();
            let (schema, name) = (text("schema"), text("name"));
            let question = is_rebuilt(&schema, &name, index["file"].as_i64().unwrap_or_default());
            let row =
                session.client.query_one(&question.sql, &[]).await.map_err(|error| translate(&error))?;
            if !row.get::<_, bool>(0) {
                problems.push(format!(
                    "`{schema}.{name}` is not valid, lies where it lay before, or something of its making is left"
                ));
            }
        }
        Ok(problems)
    }
}

fn drop_left_over(schema: &str, name: &str) -> PlanStep {
    PlanStep {
        is_done: Some(is_gone(schema, name)),
        reversible: true,
        lock: Some("SHARE UPDATE EXCLUSIVE".into()),
        ..PlanStep::new(
            format!("drop left over {schema}.{name}"),
            format!("drop `{schema}.{name}`, which an earlier rebuild left behind"),
            StepMode::Autocommit,
            vec![Statement::new(format!("DROP INDEX CONCURRENTLY IF EXISTS {}", qualified(schema, name)))],
        )
    }
}

fn rebuild(schema: &str, name: &str, file: i64, concurrent: bool) -> PlanStep {
    let index = qualified(schema, name);
    let left: Vec<Statement> = ["ccnew", "ccold"]
        .iter()
        .map(|label| {
            let left = qualified(schema, &working_name(name, label));
            Statement::new(format!("DROP INDEX CONCURRENTLY IF EXISTS {left}"))
        })
        .collect();
    let mut statements = vec![Statement::new(format!("REINDEX INDEX CONCURRENTLY {index}"))];
    if concurrent {
        // It waits for transactions that began before, and nobody waits behind it meanwhile.
        statements.insert(0, Statement::new("SET lock_timeout = 0"));
    } else {
        statements = vec![Statement::new(format!("REINDEX INDEX {index}"))];
    }
    PlanStep {
        is_done: Some(is_rebuilt(schema, name, file)),
        clean_up: if concurrent { left } else { Vec::new() },
        // The index is the same afterwards: there is nothing to bring back.
        reversible: true,
        lock: Some(
            if concurrent { "SHARE UPDATE EXCLUSIVE" } else { "SHARE; ACCESS EXCLUSIVE on the index" }.into(),
        ),
        ..PlanStep::new(
            format!("rebuild {schema}.{name}"),
            format!("build `{schema}.{name}` anew"),
            StepMode::Autocommit,
            statements,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_names_are_cut_as_the_server_cuts_them() {
        assert_eq!(working_name("orders_idx", "ccnew"), "orders_idx_ccnew");
        let long = "x".repeat(63);
        assert_eq!(working_name(&long, "ccnew"), format!("{}_ccnew", "x".repeat(57)));
        let wide = "ä".repeat(31);
        assert_eq!(working_name(&wide, "ccold"), format!("{}_ccold", "ä".repeat(28)));
    }
}
