//! Vacuum of given tables, or of those that need it.

use std::collections::BTreeMap;

use contract::{
    Context, Error, ErrorKind, Finding, PlanStep, Prepared, Severity, Statement, StepMode, Store,
};
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::error::translate;
use crate::operate::denied;
use crate::session::{Purpose, Session};
use crate::statement::quote_identifier;
use crate::store::PostgresStore;

/// The first server that knows the right MAINTAIN.
pub(crate) const MAINTAIN_SINCE: i32 = 170_000;

/// A table with the schema, as people write it.
fn full_name(row: &Row) -> String {
    format!("{}.{}", row.get::<_, String>("schema"), row.get::<_, String>("name"))
}

/// The rows that `name` means: with its schema, or alone where only one schema has it.
fn named<'a>(rows: &'a [Row], name: &str) -> Result<&'a Row, Error> {
    if let Some(row) = rows.iter().find(|row| full_name(row) == name) {
        return Ok(row);
    }
    let mut alike = rows
        .iter()
        .filter(|row| row.get::<_, String>("name") == name && row.get::<_, String>("schema") != "pg_catalog");
    match (alike.next(), alike.next()) {
        (Some(row), None) => Ok(row),
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::Invalid, format!("several schemas have a table `{name}`"))
                .hint("write the schema too, such as `public.orders`"))
        }
        (None, _) => Err(Error::new(ErrorKind::NotFound, format!("there is no table `{name}`"))
            .hint("`steward store inspect` shows them")),
    }
}

impl PostgresStore {
    pub(crate) async fn prepare_vacuum(
        &self,
        session: &Session,
        tables: &[String],
        analyze: bool,
        full: bool,
        freeze: bool,
    ) -> Result<Prepared, Error> {
        if full && tables.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a full vacuum needs the tables that it is for")
                .hint("name them: nobody can use a table while it is rewritten"));
        }
        let (_, users) = self.acting_logins();
        let maintain = session.rights.version_num >= MAINTAIN_SINCE;
        let all = session
            .client
            .query(include_str!("sql/vacuum_tables.sql"), &[&users, &maintain])
            .await
            .map_err(|error| translate(&error))?;
        let chosen: Vec<&Row> = if tables.is_empty() {
            all.iter().filter(|row| row.get("needs_vacuum") || analyze && row.get("needs_analyze")).collect()
        } else {
            let mut chosen: Vec<&Row> = Vec::new();
            for name in tables {
                let row = named(&all, name)?;
                if !chosen.iter().any(|other| full_name(other) == full_name(row)) {
                    chosen.push(row);
                }
            }
            chosen
        };
        let seen: Vec<Value> = chosen
            .iter()
            .map(|row| {
                json!({"table": full_name(row), "rows": row.get::<_, f64>("rows"), "dead_rows": row.get::<_, i64>("dead"),
                       "changed_since_analyze": row.get::<_, i64>("changed"),
                       "frozen_age": row.get::<_, Option<i64>>("frozen_age")})
            })
            .collect();
        let names: Vec<String> = chosen.iter().map(|row| full_name(row)).collect();
        if chosen.is_empty() {
            return Ok(Prepared {
                summary: "nothing to do: no table has more dead or changed rows than autovacuum leaves"
                    .into(),
                login: "writer".into(),
                state: json!({"tables": []}),
                seen: json!({"tables": []}),
                ..Prepared::default()
            });
        }
        let may = |user: &String| chosen.iter().all(|row| row.get::<_, Vec<String>>("may").contains(user));
        let able: Vec<String> = users.iter().filter(|user| may(user)).cloned().collect();
        let Some(login) = self.first_of(&able) else {
            // The server would only warn, skip the table and say that it went well.
            let refused = chosen
                .iter()
                .find(|row| users.last().is_none_or(|user| !row.get::<_, Vec<String>>("may").contains(user)));
            let owner: String = refused.map(|row| row.get("owner")).unwrap_or_default();
            let what = refused.map_or_else(String::new, |row| full_name(row));
            let mut who = self.who_owns(&[owner]);
            if maintain {
                who.push_str("; or GRANT MAINTAIN on the table");
            }
            return Err(denied(&format!("no configured login may vacuum `{what}`"), &who));
        };
        let mut options = Vec::new();
        for (on, word) in [(full, "FULL"), (freeze, "FREEZE"), (analyze, "ANALYZE")] {
            options.extend(on.then_some(word));
        }
        let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
        let steps = chosen
            .iter()
            .map(|row| {
                let (schema, name): (String, String) = (row.get("schema"), row.get("name"));
                PlanStep {
                    // No row changes. But time in which nobody can use a table cannot be given back.
                    reversible: !full,
                    lock: Some(if full { "ACCESS EXCLUSIVE" } else { "SHARE UPDATE EXCLUSIVE" }.into()),
                    ..PlanStep::new(
                        format!("vacuum {schema}.{name}"),
                        format!(
                            "{} `{schema}.{name}`{}",
                            if full { "rewrite" } else { "clear dead rows away in" },
                            if analyze { " and renew its statistics" } else { "" }
                        ),
                        StepMode::Autocommit,
                        vec![Statement::new(format!(
                            "VACUUM{options} {}.{}",
                            quote_identifier(&schema),
                            quote_identifier(&name)
                        ))],
                    )
                }
            })
            .collect();
        let mut findings = Vec::new();
        if full {
            findings.push(Finding {
                code: "table_unusable_meanwhile".into(),
                severity: Severity::Warning,
                title: format!(
                    "nobody can read or write {} while it is rewritten, and the disk needs room for a second copy",
                    names.join(", ")
                ),
                object: names.join(", "),
                recommendation: Some("do it in a maintenance window, or use pg_repack".into()),
                evidence: Vec::new(),
                escalate: None,
            });
        }
        Ok(Prepared {
            summary: format!(
                "vacuum {}{}",
                names.join(", "),
                if full { " by rewriting, which nobody can use meanwhile" } else { "" }
            ),
            steps,
            login,
            state: json!({"tables": names}),
            predicted: json!({"tables": names}),
            findings,
            seen: json!({"tables": seen}),
        })
    }

    /// How often each table has been vacuumed, and in which file it lies; partitions for their parents.
    pub(crate) async fn vacuum_counts(&self, ctx: &Context, predicted: &Value) -> Result<Value, Error> {
        let names: Vec<String> = serde_json::from_value(predicted["tables"].clone()).unwrap_or_default();
        let session = self.open_to_look(ctx, Purpose::Read).await?;
        let rows = session
            .client
            .query(
                "SELECT DISTINCT l.oid::regclass::text AS name, pg_stat_get_vacuum_count(l.oid) AS vacuums, \
                 l.relfilenode::int8 AS file \
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf \
                   UNION SELECT c.oid WHERE c.relkind <> 'p') p \
                 JOIN pg_catalog.pg_class l ON l.oid = p.relid \
                 WHERE n.nspname || '.' || c.relname = ANY ($1)",
                &[&names],
            )
            .await
            .map_err(|error| translate(&error))?;
        let counts: BTreeMap<String, Value> = rows
            .iter()
            .map(|row| {
                (
                    row.get("name"),
                    json!({"vacuums": row.get::<_, Option<i64>>("vacuums").unwrap_or(0),
                                         "file": row.get::<_, i64>("file")}),
                )
            })
            .collect();
        Ok(json!(counts))
    }

    pub(crate) async fn unvacuumed(
        &self,
        ctx: &Context,
        predicted: &Value,
        baseline: &Value,
        full: bool,
    ) -> Result<Vec<String>, Error> {
        let Some(before) = baseline.as_object() else { return Ok(Vec::new()) };
        let after = self.vacuum_counts(ctx, predicted).await?;
        let key = if full { "file" } else { "vacuums" };
        Ok(before
            .iter()
            .filter(|(name, counts)| after[name.as_str()][key] == counts[key])
            .map(|(name, _)| format!("the server `{}` does not say that `{name}` was vacuumed", self.name()))
            .collect())
    }
}
