//! What a statement of a migration locks, loses and breaks, judged by its text together with the live catalog.
//!
//! Sources: PostgreSQL manual, "ALTER TABLE" (Notes), "CREATE INDEX" (Building Indexes Concurrently), "Explicit
//! Locking"; SQLite manual, "ALTER TABLE".

mod postgres;
mod sqlite;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use contract::Severity;
use schema::{Column, Dialect, Schema, Table};
use serde::{Deserialize, Serialize};
use sqlparser::ast::{
    AlterTableOperation, ColumnDef, ColumnOption, Expr, GeneratedExpressionMode, ObjectName, ObjectType,
    Statement, visit_expressions, visit_relations,
};
use sqlparser::dialect::{PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;

use super::split::words;
use crate::text;

/// Below this many rows a scan or rewrite under a lock is over before anyone notices.
const ROWS_SMALL: u64 = 10_000;

/// Something that can go wrong when a statement runs on a live store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Risk {
    /// Stable name, such as `index_blocks_writes`.
    pub(crate) rule: String,
    pub(crate) severity: Severity,
    pub(crate) note: String,
    pub(crate) advice: String,
}

/// What is known of a statement before it runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Judgement {
    /// Tables that it touches, by name as written; `None` when that cannot be known.
    pub(crate) tables: Option<BTreeSet<String>>,
    /// Data or objects are lost by it, or nobody can say.
    pub(crate) destructive: bool,
    /// Strongest lock, in the engine's words.
    pub(crate) lock: Option<&'static str>,
    pub(crate) risks: Vec<Risk>,
}

/// Locks from weak to strong, in PostgreSQL's words.
const LOCKS: [&str; 7] = [
    "SQLite's write lock",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
];

/// The stronger of two locks.
pub(crate) fn stronger(a: Option<&'static str>, b: Option<&'static str>) -> Option<&'static str> {
    let rank = |lock: &str| LOCKS.iter().position(|known| *known == lock);
    match (a, b) {
        (Some(a), Some(b)) => Some(if rank(a) >= rank(b) { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// A walk that nothing breaks off.
pub(crate) fn walked(_: ControlFlow<()>) {}

/// The statement as the parser of the store's dialect reads it.
pub(crate) fn parse(sql: &str, dialect: Dialect) -> Option<Statement> {
    let parsed = match dialect {
        Dialect::Postgres => Parser::parse_sql(&PostgreSqlDialect {}, sql),
        Dialect::Sqlite => Parser::parse_sql(&SQLiteDialect {}, sql),
    };
    match parsed {
        Ok(mut statements) if statements.len() == 1 => statements.pop(),
        _ => None,
    }
}

/// A name's parts with unquoted ones folded as the dialect folds them.
pub(crate) fn name_parts(name: &ObjectName, dialect: Dialect) -> Vec<String> {
    name.0
        .iter()
        .filter_map(|part| part.as_ident())
        .map(|ident| match (dialect, ident.quote_style) {
            (Dialect::Postgres, None) => ident.value.to_lowercase(),
            _ => ident.value.clone(),
        })
        .collect()
}

/// The table of the schema that a name means: with namespace, or alone.
pub(crate) fn resolve<'a>(schema: &'a Schema, parts: &[String]) -> Option<&'a Table> {
    let same = |a: &str, b: &str| match schema.dialect {
        Dialect::Postgres => a == b,
        Dialect::Sqlite => a.eq_ignore_ascii_case(b),
    };
    match parts {
        [name] => {
            let mut found =
                schema.tables.iter().filter(|table| same(&table.name.name, name)).collect::<Vec<_>>();
            found.sort_by_key(|table| !matches!(table.name.namespace.as_str(), "public" | "main" | ""));
            found.first().copied()
        }
        [namespace, name] => schema
            .tables
            .iter()
            .find(|table| same(&table.name.name, name) && same(&table.name.namespace, namespace)),
        _ => None,
    }
}

/// Judges statements in the order in which they run.
pub(crate) struct Judge<'a> {
    schema: &'a Schema,
    /// Tables made by an earlier statement: nobody uses them yet and they hold little.
    new_tables: BTreeSet<String>,
}

impl<'a> Judge<'a> {
    /// A judge who knows the catalog, and the tables made by statements before these.
    pub(crate) fn new(schema: &'a Schema, new_tables: BTreeSet<String>) -> Self {
        Self { schema, new_tables }
    }

    /// Tables made by the statements judged so far, for the judge of the next ones.
    pub(crate) fn into_new_tables(self) -> BTreeSet<String> {
        self.new_tables
    }

    /// Judges the next statement.
    pub(crate) fn judge(&mut self, sql: &str) -> Judgement {
        let dialect = self.schema.dialect;
        let words = words(sql, dialect);
        let mut judgement = Judgement { tables: Some(BTreeSet::new()), ..Judgement::default() };
        let second = words.get(1).map(String::as_str);
        match (words.first().map(String::as_str), dialect) {
            (Some("VACUUM"), Dialect::Postgres) if second != Some("FULL") => {}
            (Some("VACUUM"), _) => {
                judgement.lock =
                    Some(if dialect == Dialect::Postgres { "ACCESS EXCLUSIVE" } else { LOCKS[0] });
                judgement.risk(
                    "rewrite",
                    Severity::Warning,
                    "rewrites the table or the whole file while nobody else can use it",
                    "run it in a quiet hour, with free disk space of the same size",
                );
            }
            (_, Dialect::Postgres) => self.judge_by_postgres(sql, &words, &mut judgement),
            (_, Dialect::Sqlite) => self.judge_by_sqlite(sql, &words, &mut judgement),
        }
        judgement
    }

    /// How much work under a lock on this table matters: nothing on a new one.
    fn weight(&self, name: &ObjectName) -> Option<(Severity, String)> {
        let parts = name_parts(name, self.schema.dialect);
        if self.new_tables.contains(&parts.join(".")) {
            return None;
        }
        match resolve(self.schema, &parts) {
            None => Some((Severity::Warning, "an unknown number of rows".into())),
            Some(table) if table.rows == 0 && !table.rows_estimated => None,
            Some(table) => {
                let severity = if table.rows < ROWS_SMALL { Severity::Info } else { Severity::Warning };
                Some((severity, format!("up to {}", text::count(text::magnitude(table.rows), "row"))))
            }
        }
    }

    fn column(&self, table: &ObjectName, column: &str) -> Option<&'a Column> {
        let table = resolve(self.schema, &name_parts(table, self.schema.dialect))?;
        table.columns.iter().find(|known| known.name.eq_ignore_ascii_case(column))
    }
}

/// What renaming, dropping guards and changing rights means in either engine.
fn changes_of_any_table(
    table: &ObjectName,
    operation: &AlterTableOperation,
    in_use: bool,
    out: &mut Judgement,
) {
    match operation {
        AlterTableOperation::DropConstraint { .. }
        | AlterTableOperation::DropPrimaryKey { .. }
        | AlterTableOperation::DropForeignKey { .. } => out.risk(
            "guard_removed",
            Severity::Warning,
            &format!("`{table}` accepts rows afterwards that it refused before"),
            "check with `steward store consistency` from then on",
        ),
        AlterTableOperation::RenameColumn { .. } | AlterTableOperation::RenameTable { .. } if in_use => out
            .risk(
                "rename_breaks_application",
                Severity::Warning,
                &format!("code that was released before still uses the old name in `{table}`"),
                "add the new one beside it, write both, switch the code, remove the old one later",
            ),
        AlterTableOperation::OwnerTo { .. }
        | AlterTableOperation::DisableRowLevelSecurity
        | AlterTableOperation::NoForceRowLevelSecurity
        | AlterTableOperation::DisableTrigger { .. } => out.risk(
            "changes_rights",
            Severity::Warning,
            &format!("changes who may do what with `{table}`, or what is enforced"),
            "let Security look at it",
        ),
        _ => {}
    }
}

/// Names of the functions that are called, last part, in lower case.
pub(super) fn functions<V: sqlparser::ast::Visit>(node: &V) -> Vec<String> {
    let mut names = Vec::new();
    walked(visit_expressions(node, |expression| {
        if let Expr::Function(function) = expression {
            names.extend(
                function
                    .name
                    .0
                    .last()
                    .and_then(|part| part.as_ident())
                    .map(|ident| ident.value.to_ascii_lowercase()),
            );
        }
        ControlFlow::<()>::Continue(())
    }));
    names
}

pub(super) fn required_without_default(column: &ColumnDef) -> bool {
    let has = |test: &dyn Fn(&ColumnOption) -> bool| column.options.iter().any(|option| test(&option.option));
    has(&|option| matches!(option, ColumnOption::NotNull | ColumnOption::PrimaryKey(_)))
        && !has(&|option| {
            matches!(
                option,
                ColumnOption::Default(_) | ColumnOption::Generated { .. } | ColumnOption::Identity(_)
            )
        })
        && !is_serial(column)
}

pub(super) fn is_serial(column: &ColumnDef) -> bool {
    matches!(
        column.data_type.to_string().to_ascii_lowercase().as_str(),
        "serial" | "bigserial" | "smallserial" | "serial4" | "serial8" | "serial2"
    )
}

/// Why adding this column rewrites a PostgreSQL table, if it does.
pub(super) fn rewriting_column(column: &ColumnDef) -> Option<&'static str> {
    if is_serial(column) {
        return Some("a serial column");
    }
    column.options.iter().find_map(|option| match &option.option {
        ColumnOption::Default(expression) => {
            let stable =
                ["now", "current_timestamp", "current_date", "localtimestamp", "transaction_timestamp"];
            let called = functions(expression);
            called
                .iter()
                .any(|name| !stable.contains(&name.as_str()))
                .then_some("a default that differs by row")
        }
        ColumnOption::Generated { generation_expr: None, .. } | ColumnOption::Identity(_) => {
            Some("an identity column")
        }
        ColumnOption::Generated { generation_expr_mode: Some(GeneratedExpressionMode::Virtual), .. } => None,
        ColumnOption::Generated { .. } => Some("a stored generated column"),
        _ => None,
    })
}

impl Judgement {
    /// Every table that the statement names.
    fn touch_all(&mut self, statement: &Statement, dialect: Dialect) {
        walked(visit_relations(statement, |name| {
            self.touch(name_parts(name, dialect).join("."));
            ControlFlow::<()>::Continue(())
        }));
    }

    fn touch(&mut self, table: String) {
        if let Some(tables) = &mut self.tables {
            tables.insert(table);
        }
    }

    fn risk(&mut self, rule: &str, severity: Severity, note: &str, advice: &str) {
        self.risks.push(Risk { rule: rule.into(), severity, note: note.into(), advice: advice.into() });
    }

    fn changes_data(&mut self, note: &str) {
        self.risk(
            "data_change",
            Severity::Warning,
            note,
            "count the rows that it touches first, and keep what they were",
        );
    }

    fn unique_can_fail(&mut self, table: &ObjectName) {
        self.risk(
            "unique_can_fail",
            Severity::Info,
            &format!("fails if `{table}` holds duplicates"),
            "look for duplicates first",
        );
    }

    fn drops_what_is_read(&mut self, object: ObjectType, cascade: bool) {
        if object == ObjectType::Index {
            self.tables = None;
        }
        if !cascade && matches!(object, ObjectType::View | ObjectType::Index) {
            self.risk(
                "breaks_readers",
                Severity::Info,
                "queries that use it fail or become slow",
                "make sure that no released application needs it",
            );
        }
    }

    /// Nobody can say what it touches.
    fn worst_lock(&mut self) {
        self.tables = None;
        self.lock = Some("ACCESS EXCLUSIVE");
    }

    fn lose(&mut self, note: &str) {
        self.destructive = true;
        self.risk(
            "data_loss",
            Severity::Critical,
            note,
            "take a verified backup first; undo brings no data back",
        );
    }

    fn unknown(&mut self, note: &str) {
        self.destructive = true;
        self.tables = None;
        self.risk("unknown", Severity::Critical, note, "have someone read it who knows what it does");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(dialect: &str) -> Schema {
        let column = |name: &str, native_type: &str| json!({"name": name, "native_type": native_type, "nullable": true});
        serde_json::from_value(json!({
            "dialect": dialect,
            "tables": [{
                "namespace": if dialect == "sqlite" { "main" } else { "public" }, "name": "orders", "rows": 50_000,
                "rows_estimated": false,
                "columns": [column("id", "integer"), column("note", "character varying(20)"), column("total", "numeric(10,2)")],
            }],
            "others": [["function", "public.audit(x integer) RETURNS integer LANGUAGE plpgsql"]],
        }))
        .unwrap()
    }

    /// The rules; a statement is destructive exactly where one of them says so.
    fn rules(dialect: &str, sql: &str) -> Vec<String> {
        let schema = schema(dialect);
        let judgement = Judge::new(&schema, BTreeSet::new()).judge(sql);
        let found: Vec<String> = judgement.risks.into_iter().map(|risk| risk.rule).collect();
        assert_eq!(
            judgement.destructive,
            found.iter().any(|rule| rule == "data_loss" || rule == "unknown"),
            "{sql}"
        );
        found
    }

    #[test]
    fn statements_are_judged_with_the_catalog_of_postgresql() {
        for (sql, expected) in [
            ("CREATE TABLE a (id int)", vec![]),
            ("CREATE INDEX i ON orders (note)", vec!["index_blocks_writes"]),
            ("CREATE INDEX CONCURRENTLY i ON orders (note)", vec![]),
            ("ALTER TABLE orders ADD COLUMN a int", vec![]),
            ("ALTER TABLE orders ADD COLUMN a int NOT NULL DEFAULT 0", vec![]),
            ("ALTER TABLE orders ADD COLUMN a timestamptz DEFAULT now()", vec![]),
            ("ALTER TABLE orders ADD COLUMN a uuid DEFAULT gen_random_uuid()", vec!["rewrite"]),
            ("ALTER TABLE orders ADD COLUMN a int NOT NULL", vec!["fails_on_rows"]),
            ("ALTER TABLE orders ADD COLUMN a bigserial", vec!["rewrite"]),
            ("ALTER TABLE orders DROP COLUMN note", vec!["data_loss"]),
            ("ALTER TABLE orders ALTER COLUMN note TYPE text", vec![]),
            ("ALTER TABLE orders ALTER COLUMN note TYPE varchar(40)", vec![]),
            ("ALTER TABLE orders ALTER COLUMN note TYPE varchar(10)", vec!["rewrite", "data_loss"]),
            ("ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,2)", vec![]),
            ("ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,3)", vec!["rewrite"]),
            ("ALTER TABLE orders ALTER COLUMN id TYPE bigint", vec!["rewrite"]),
            ("ALTER TABLE orders ALTER COLUMN id TYPE smallint", vec!["rewrite", "data_loss"]),
            ("ALTER TABLE orders ALTER COLUMN note SET NOT NULL", vec!["scan_under_lock"]),
            ("ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES b (id)", vec!["scan_under_lock"]),
            ("ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES b (id) NOT VALID", vec![]),
            ("ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0)", vec!["scan_under_lock"]),
            ("ALTER TABLE orders RENAME COLUMN note TO remark", vec!["rename_breaks_application"]),
            ("DROP TABLE orders", vec!["data_loss"]),
            ("DROP SCHEMA s CASCADE", vec!["data_loss"]),
            ("DROP VIEW v", vec!["breaks_readers"]),
            ("TRUNCATE orders", vec!["data_loss"]),
            ("DELETE FROM orders WHERE id = 1", vec!["data_loss"]),
            ("UPDATE orders SET note = ''", vec!["data_loss"]),
            ("UPDATE orders SET note = '' WHERE note IS NULL", vec!["data_change"]),
            ("WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone", vec!["data_loss"]),
            ("SELECT setval('s', 1)", vec![]),
            ("SELECT drop_everything()", vec!["unknown"]),
            ("DO $$ BEGIN DROP TABLE orders; END $$", vec!["unknown"]),
            ("THIS IS NOT SQL", vec!["unknown"]),
            ("INSERT INTO orders VALUES (1)", vec![]),
            ("INSERT INTO orders SELECT lower('A')", vec![]),
            ("INSERT INTO orders SELECT audit(1)", vec!["unknown"]),
            ("INSERT INTO orders SELECT pg_terminate_backend(1)", vec!["unknown"]),
            ("GRANT SELECT ON orders TO public", vec!["changes_rights"]),
        ] {
            assert_eq!(rules("postgres", sql), expected, "{sql}");
        }
    }

    #[test]
    fn statements_are_judged_with_the_catalog_of_sqlite() {
        for (sql, expected) in [
            ("CREATE TABLE a (id INTEGER PRIMARY KEY, b TEXT) STRICT", vec![]),
            ("CREATE INDEX i ON orders (note)", vec![]),
            ("ALTER TABLE orders ADD COLUMN a INTEGER NOT NULL", vec!["fails_on_rows"]),
            ("ALTER TABLE orders ADD COLUMN a INTEGER NOT NULL DEFAULT 0", vec![]),
            ("ALTER TABLE orders DROP COLUMN note", vec!["data_loss"]),
            ("ALTER TABLE orders RENAME TO old", vec!["rename_breaks_application"]),
            ("CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM orders; END", vec![]),
            ("INSERT OR REPLACE INTO orders VALUES (1, 'a', 2)", vec!["data_loss"]),
            (
                "DELETE FROM orders WHERE note IS NULL AND NOT EXISTS (SELECT 1 FROM b WHERE b.id = orders.id)",
                vec!["data_loss"],
            ),
            ("PRAGMA foreign_keys = OFF", vec!["no_effect"]),
            ("VACUUM", vec!["rewrite"]),
        ] {
            assert_eq!(rules("sqlite", sql), expected, "{sql}");
        }
    }

    #[test]
    fn new_tables_are_free_to_change() {
        let schema = schema("postgres");
        let mut judge = Judge::new(&schema, BTreeSet::new());
        judge.judge("CREATE TABLE fresh (id int)");
        for sql in ["CREATE INDEX i ON fresh (id)", "ALTER TABLE fresh ADD COLUMN a int NOT NULL"] {
            assert_eq!(judge.judge(sql).risks, [], "{sql}");
        }
    }
}
