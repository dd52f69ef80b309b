//! Operations on a file: statistics, rewriting, indexes built anew. A file has no sessions, roles or settings of its own.

use async_trait::async_trait;
use contract::{
    Activity, Context, Error, ErrorKind, Operate, Operation, PlanStep, Prepared, Relational, Statement,
    StepMode, Store,
};
use schema::Schema;
use serde_json::{Value, json};

use crate::store::SqliteStore;

fn step(id: String, title: String, sql: String, mode: StepMode, reversible: bool) -> PlanStep {
    PlanStep {
        reversible,
        lock: Some("SQLite's write lock".into()),
        ..PlanStep::new(id, title, mode, vec![Statement::new(sql)])
    }
}

fn not_found(what: &str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {what} `{name}`"))
        .hint("`steward store inspect` shows them")
}

#[async_trait]
impl Operate for SqliteStore {
    async fn activity(&self, _: &Context) -> Result<Activity, Error> {
        Err(self.unsupported(
            "store locks",
            "SQLite's locks are the operating system's and have no names: a file does not know who has it open",
            "ask the operating system, such as `fuser -v FILE` or `lsof FILE`; a writer waits as long as its busy_timeout",
        ))
    }

    async fn prepare(&self, ctx: &Context, operation: &Operation) -> Result<Prepared, Error> {
        match operation {
            Operation::EndSession { .. } => Err(self.unsupported(
                "session end",
                "a file has no sessions",
                "end the program that has the file open; `fuser -v FILE` names it",
            )),
            Operation::Configure { .. } => Err(self.unsupported(
                "store configure",
                "SQLite's settings belong to each connection, not to the file",
                "set the PRAGMA in the program that opens the file",
            )),
            Operation::Grant(_) | Operation::Revoke(_) => Err(self.unsupported(
                "store access",
                "a file has no roles: whoever may open it may do everything",
                "use file permissions: a user of its own with mode 0640, and its group for those who read",
            )),
            Operation::Vacuum { tables, analyze, full, freeze } => {
                if *freeze {
                    return Err(self.unsupported(
                        "freeze",
                        "SQLite has no transaction ids that wrap around",
                        "leave it out",
                    ));
                }
                let schema = self.inspect(ctx).await?;
                self.vacuum(&schema, tables, *analyze, *full)
            }
            Operation::RebuildIndex { index, table, .. } => {
                let schema = self.inspect(ctx).await?;
                self.rebuild(&schema, index.as_deref(), table.as_deref())
            }
        }
    }

    async fn baseline(&self, _: &Context, _: &Operation, _: &Value) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    async fn unfulfilled(
        &self,
        _: &Context,
        _: &Operation,
        _: &Value,
        _: &Value,
    ) -> Result<Vec<String>, Error> {
        // A statement that SQLite reports as done is done: nothing is queued and nothing is skipped.
        Ok(Vec::new())
    }
}

impl SqliteStore {
    fn vacuum(
        &self,
        schema: &Schema,
        tables: &[String],
        analyze: bool,
        full: bool,
    ) -> Result<Prepared, Error> {
        for name in tables {
            if schema.table(name).is_none() {
                return Err(not_found("table", name));
            }
        }
        let mut steps = Vec::new();
        if full {
            if !tables.is_empty() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "SQLite rewrites the whole file, not single tables",
                )
                .hint("leave `tables` out"));
            }
            // Nobody can write while it is rewritten, and that time cannot be given back.
            let title = "rewrite the whole file; nobody can write meanwhile, and the disk needs room for a second copy";
            steps.push(step("vacuum".into(), title.into(), "VACUUM".into(), StepMode::Autocommit, false));
        }
        if analyze && tables.is_empty() {
            let title = "renew the statistics of all tables".to_owned();
            steps.push(step("analyze".into(), title, "ANALYZE".into(), StepMode::Transaction, true));
        }
        for name in tables.iter().filter(|_| analyze) {
            let sql = format!("ANALYZE {}", self.quote_identifier(name));
            let title = format!("renew the statistics of `{name}`");
            steps.push(step(format!("analyze {name}"), title, sql, StepMode::Transaction, true));
        }
        let summary = match (full, steps.is_empty()) {
            (true, _) => "rewrite the file, which nobody can write meanwhile",
            (false, false) => "renew statistics; SQLite reuses the room of deleted rows by itself",
            (false, true) => "nothing to do: SQLite reuses the room of deleted rows by itself",
        };
        Ok(Prepared {
            summary: summary.into(),
            steps,
            login: "writer".into(),
            state: json!({"tables": tables}),
            seen: json!({"tables": tables}),
            ..Prepared::default()
        })
    }

    fn rebuild(&self, schema: &Schema, index: Option<&str>, table: Option<&str>) -> Result<Prepared, Error> {
        let (what, name) = match (index, table) {
            (Some(index), None) => {
                let known =
                    schema.tables.iter().flat_map(|table| &table.indexes).any(|known| known.name == index);
                if !known {
                    return Err(not_found("index", index));
                }
                (format!("build the index `{index}` anew"), index)
            }
            (None, Some(table)) => {
                if schema.table(table).is_none() {
                    return Err(not_found("table", table));
                }
                (format!("build all indexes of `{table}` anew"), table)
            }
            _ => return Err(Error::new(ErrorKind::Invalid, "name either an index or a table")),
        };
        let sql = format!("REINDEX {}", self.quote_identifier(name));
        Ok(Prepared {
            steps: vec![step(format!("rebuild {name}"), what.clone(), sql, StepMode::Transaction, true)],
            summary: what,
            login: "writer".into(),
            state: json!({"rebuild": name}),
            seen: json!({"rebuild": name}),
            ..Prepared::default()
        })
    }
}
