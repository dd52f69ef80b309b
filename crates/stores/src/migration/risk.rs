//! What a statement of a migration locks, loses and breaks, judged by its text together with the live catalog.
//!
//! Sources: PostgreSQL manual, "ALTER TABLE" (Notes), "CREATE INDEX" (Building Indexes Concurrently), "Explicit
//! Locking"; SQLite manual, "ALTER TABLE".

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use contract::Severity;
use schema::{Column, Dialect, Schema, Table};
use serde::{Deserialize, Serialize};
use sqlparser::ast::{
    AlterColumnOperation, AlterTableOperation, ColumnDef, ColumnOption, Expr, GeneratedExpressionMode,
    ObjectName, ObjectType, SqliteOnConflict, Statement, TableConstraint, TableFactor, visit_expressions,
    visit_relations, visit_statements,
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
        let head: Vec<&str> = words.iter().take(4).map(String::as_str).collect();
        let mut judgement = Judgement { tables: Some(BTreeSet::new()), ..Judgement::default() };
        match (dialect, head.as_slice()) {
            (_, ["VACUUM", rest @ ..]) => {
                if rest.first() == Some(&"FULL") || dialect == Dialect::Sqlite {
                    judgement.lock = Some(self.lock("ACCESS EXCLUSIVE"));
                    judgement.risk(
                        "rewrite",
                        Severity::Warning,
                        "rewrites the table or the whole file while nobody else can use it",
                        "run it in a quiet hour, with free disk space of the same size",
                    );
                }
                return judgement;
            }
            // The parser does not know SQLite's trigger bodies; making a trigger loses nothing.
            (
                Dialect::Sqlite,
                ["CREATE", "TRIGGER", ..] | ["CREATE", "TEMP" | "TEMPORARY", "TRIGGER", ..],
            ) => {
                judgement.tables = None;
                judgement.lock = Some(self.lock("ACCESS EXCLUSIVE"));
                return judgement;
            }
            // The parser reads only some values of a pragma.
            (Dialect::Sqlite, ["PRAGMA", "FOREIGN_KEYS", ..]) => {
                judgement.risk(
                    "no_effect",
                    Severity::Info,
                    "PRAGMA foreign_keys counts only as the first and the last statement of a migration",
                    "use it there, to rebuild a table that others refer to",
                );
                return judgement;
            }
            (Dialect::Sqlite, ["PRAGMA", name, ..]) => {
                if !["USER_VERSION", "APPLICATION_ID", "OPTIMIZE", "JOURNAL_MODE"].contains(name) {
                    judgement.unknown("this pragma is not known here, and some destroy the file");
                }
                return judgement;
            }
            (Dialect::Postgres, ["REINDEX", ..]) => {
                judgement.lock = Some("SHARE UPDATE EXCLUSIVE");
                return judgement;
            }
            _ => {}
        }
        match parse(sql, dialect) {
            Some(statement) => {
                walked(visit_relations(&statement, |name| {
                    judgement.touch(name_parts(name, dialect).join("."));
                    ControlFlow::<()>::Continue(())
                }));
                self.judge_parsed(&statement, &mut judgement);
            }
            None => judgement.unknown("the statement cannot be read, so nobody can say what it does"),
        }
        judgement
    }

    fn lock(&self, postgres: &'static str) -> &'static str {
        match self.schema.dialect {
            Dialect::Postgres => postgres,
            Dialect::Sqlite => LOCKS[0],
        }
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
                Some((severity, text::count(table.rows, "row")))
            }
        }
    }

    fn column(&self, table: &ObjectName, column: &str) -> Option<&'a Column> {
        let table = resolve(self.schema, &name_parts(table, self.schema.dialect))?;
        table.columns.iter().find(|known| known.name.eq_ignore_ascii_case(column))
    }

    /// Whether a function is one that somebody wrote for this database, or reaches beyond the data.
    fn can_do_anything(&self, function: &str) -> bool {
        let written = self.schema.others.iter().any(|(kind, definition)| {
            let name =
                definition.split('(').next().unwrap_or_default().rsplit('.').next().unwrap_or_default();
            (kind.contains("function") || kind == "procedure")
                && name.trim_matches('"').eq_ignore_ascii_case(function)
        });
        written || ["dblink", "lo_", "pg_"].iter().any(|prefix| function.starts_with(prefix))
    }

    fn judge_parsed(&mut self, statement: &Statement, out: &mut Judgement) {
        let postgres = self.schema.dialect == Dialect::Postgres;
        match statement {
            Statement::CreateTable(create) => {
                if create.or_replace {
                    out.destructive = true;
                }
                let name = name_parts(&create.name, self.schema.dialect).join(".");
                self.new_tables.insert(name);
                out.lock = Some(self.lock("SHARE ROW EXCLUSIVE"));
            }
            Statement::CreateIndex(create) => {
                out.touch(name_parts(&create.table_name, self.schema.dialect).join("."));
                out.lock =
                    Some(self.lock(if create.concurrently { "SHARE UPDATE EXCLUSIVE" } else { "SHARE" }));
                if let Some((severity, rows)) = self.weight(&create.table_name) {
                    if postgres && !create.concurrently {
                        out.risk(
                            "index_blocks_writes",
                            severity,
                            &format!("writes to `{}` ({rows}) wait until the index is built", create.table_name),
                            "use CREATE INDEX CONCURRENTLY in a migration that says `-- steward: no-transaction`",
                        );
                    }
                    if create.unique {
                        out.risk(
                            "unique_can_fail",
                            Severity::Info,
                            &format!("fails if `{}` holds duplicates", create.table_name),
                            "look for duplicates first",
                        );
                    }
                }
            }
            Statement::AlterTable(alter) => {
                out.touch(name_parts(&alter.name, self.schema.dialect).join("."));
                out.lock = Some(self.lock("ACCESS EXCLUSIVE"));
                for operation in &alter.operations {
                    if postgres {
                        self.judge_alter_postgres(&alter.name, operation, out);
                    } else {
                        self.judge_alter_sqlite(&alter.name, operation, out);
                    }
                }
            }
            Statement::Drop { object_type, names, cascade, .. } => {
                for name in names {
                    out.touch(name_parts(name, self.schema.dialect).join("."));
                }
                out.lock = Some(self.lock("ACCESS EXCLUSIVE"));
                match object_type {
                    ObjectType::View | ObjectType::Index if !cascade => {
                        if *object_type == ObjectType::Index {
                            out.tables = None;
                        }
                        out.risk(
                            "breaks_readers",
                            Severity::Info,
                            "queries that use it fail or become slow",
                            "make sure that no released application needs it",
                        );
                    }
                    _ => out.lose("drops objects and all data in them"),
                }
            }
            Statement::Truncate(truncate) => {
                for target in &truncate.table_names {
                    out.touch(name_parts(&target.name, self.schema.dialect).join("."));
                }
                out.lock = Some(self.lock("ACCESS EXCLUSIVE"));
                out.lose("deletes all rows");
            }
            Statement::Delete(_) | Statement::Merge(_) | Statement::Update(_) | Statement::Insert(_) => {
                judge_data(statement, self.lock("ROW EXCLUSIVE"), out);
                if let Some(name) = functions(statement).into_iter().find(|name| self.can_do_anything(name)) {
                    out.unknown(&format!("it calls `{name}`, and a function can do anything"));
                }
            }
            Statement::Query(query) => {
                let mut writes = false;
                walked(visit_statements(query, |inner: &Statement| {
                    if !matches!(inner, Statement::Query(_)) {
                        writes = true;
                        judge_data(inner, self.lock("ROW EXCLUSIVE"), out);
                    }
                    ControlFlow::<()>::Continue(())
                }));
                let called = functions(query.as_ref());
                if called.iter().any(|name| !HARMLESS_FUNCTIONS.contains(&name.as_str())) {
                    out.unknown("it calls a function, and a function can do anything");
                }
            }
            Statement::CreateView(view) => {
                // What it reads may be a view; views are not in the list of tables.
                out.lock = Some(self.lock("ACCESS EXCLUSIVE"));
                if view.materialized && postgres {
                    out.risk(
                        "long_read",
                        Severity::Info,
                        "the query runs once now, inside the transaction",
                        "make it WITH NO DATA and refresh it later",
                    );
                }
            }
            Statement::Grant(_)
            | Statement::Revoke(_)
            | Statement::CreateRole(_)
            | Statement::AlterRole { .. } => {
                out.risk(
                    "changes_rights",
                    Severity::Warning,
                    "changes who may do what",
                    "let Security look at it",
                );
            }
            Statement::AlterType(_) | Statement::AlterIndex { .. } | Statement::AlterView { .. } => {
                out.tables = None;
                out.risk(
                    "rename_breaks_application",
                    Severity::Warning,
                    "code that was released before uses the old name or definition",
                    "add the new one beside it, switch the code, remove the old one later",
                );
            }
            Statement::CreateSchema { .. }
            | Statement::CreateSequence { .. }
            | Statement::CreateType { .. }
            | Statement::CreateDomain(_)
            | Statement::CreateExtension(_)
            | Statement::CreateFunction(_)
            | Statement::CreateProcedure { .. }
            | Statement::CreatePolicy(_)
            | Statement::Comment { .. }
            | Statement::Analyze(_)
            | Statement::Set(_) => {}
            Statement::CreateTrigger(_) | Statement::DropTrigger(_) => {
                out.tables = None;
                out.lock = Some(self.lock("SHARE ROW EXCLUSIVE"));
            }
            Statement::Lock(_) | Statement::LockTables { .. } => {
                out.lock = Some(self.lock("ACCESS EXCLUSIVE"));
            }
            _ => out.unknown("this kind of statement is not known here, so it is taken for the worst"),
        }
    }

    fn judge_alter_postgres(
        &mut self,
        table: &ObjectName,
        operation: &AlterTableOperation,
        out: &mut Judgement,
    ) {
        let weight = self.weight(table);
        let heavy = |out: &mut Judgement, rule: &str, note: &str, advice: &str| {
            if let Some((severity, rows)) = &weight {
                out.risk(rule, *severity, &format!("{note} (`{table}` has {rows})"), advice);
            }
        };
        match operation {
            AlterTableOperation::AddColumn { column_def, .. } => {
                if let Some(rewrite) = rewriting_column(column_def) {
                    heavy(
                        out,
                        "rewrite",
                        &format!("{rewrite}: the table is rewritten while nobody can use it"),
                        "add the column without it, fill it in batches, then set the default",
                    );
                }
                if required_without_default(column_def) && weight.is_some() {
                    out.risk(
                        "fails_on_rows",
                        Severity::Critical,
                        &format!("NOT NULL without a default fails as soon as `{table}` has rows"),
                        "give it a default, or add it nullable, fill it and set NOT NULL later",
                    );
                }
                for option in &column_def.options {
                    match option.option {
                        ColumnOption::Unique(_) | ColumnOption::PrimaryKey(_) => heavy(
                            out,
                            "index_under_lock",
                            "the unique index is built while nobody can use the table",
                            "build a unique index CONCURRENTLY, then add the constraint USING INDEX",
                        ),
                        ColumnOption::Check(_) => heavy(
                            out,
                            "scan_under_lock",
                            "all rows are checked while nobody can use the table",
                            "add the constraint NOT VALID, then VALIDATE it in another migration",
                        ),
                        _ => {}
                    }
                }
            }
            AlterTableOperation::AddConstraint { constraint, not_valid } => match constraint {
                TableConstraint::ForeignKey(key) => {
                    out.touch(name_parts(&key.foreign_table, Dialect::Postgres).join("."));
                    out.lock = stronger(out.lock, Some("SHARE ROW EXCLUSIVE"));
                    if !not_valid {
                        heavy(
                            out,
                            "scan_under_lock",
                            "all rows are checked against the parent while both tables take no writes",
                            "add the foreign key NOT VALID, then VALIDATE CONSTRAINT in another migration",
                        );
                    }
                }
                TableConstraint::Check(_) if !not_valid => heavy(
                    out,
                    "scan_under_lock",
                    "all rows are checked while nobody can use the table",
                    "add the constraint NOT VALID, then VALIDATE CONSTRAINT in another migration",
                ),
                TableConstraint::Unique(_) | TableConstraint::PrimaryKey(_) => heavy(
                    out,
                    "index_under_lock",
                    "the unique index is built while nobody can use the table",
                    "build a unique index CONCURRENTLY, then add the constraint USING INDEX",
                ),
                _ => {}
            },
            AlterTableOperation::AlterColumn { column_name, op } => match op {
                AlterColumnOperation::SetDataType { data_type, using, .. } => {
                    let known =
                        self.column(table, &column_name.value).map(|column| column.native_type.as_str());
                    match type_change(known, &data_type.to_string(), using.is_some()) {
                        TypeChange::Free => {}
                        TypeChange::Rewrite => heavy(
                            out,
                            "rewrite",
                            "the new type rewrites the table while nobody can use it",
                            "add a column of the new type, fill it in batches, switch, drop the old one later",
                        ),
                        TypeChange::Narrower => {
                            out.lose(&format!(
                                "the new type of `{table}.{column_name}` may not hold what is there"
                            ));
                        }
                    }
                }
                AlterColumnOperation::SetNotNull => heavy(
                    out,
                    "scan_under_lock",
                    "all rows are checked while nobody can use the table",
                    "add CHECK (… IS NOT NULL) NOT VALID, VALIDATE it, then SET NOT NULL needs no scan",
                ),
                AlterColumnOperation::AddGenerated { .. } => heavy(
                    out,
                    "rewrite",
                    "an identity column rewrites the table while nobody can use it",
                    "make a sequence and a default instead",
                ),
                _ => {}
            },
            AlterTableOperation::ValidateConstraint { .. } => {
                out.lock = Some("SHARE UPDATE EXCLUSIVE");
            }
            AlterTableOperation::AttachPartition { .. } => heavy(
                out,
                "scan_under_lock",
                "the new partition is checked under a lock unless a CHECK proves its bound",
                "add the matching CHECK first, validated",
            ),
            other => judge_alter_common(table, other, weight.is_some(), out),
        }
    }

    fn judge_alter_sqlite(
        &mut self,
        table: &ObjectName,
        operation: &AlterTableOperation,
        out: &mut Judgement,
    ) {
        match operation {
            AlterTableOperation::AddColumn { column_def, .. } => {
                if required_without_default(column_def) {
                    out.risk(
                        "fails_on_rows",
                        Severity::Critical,
                        "SQLite refuses to add a NOT NULL column without a default",
                        "give it a default",
                    );
                }
            }
            AlterTableOperation::AlterColumn { .. } | AlterTableOperation::AddConstraint { .. } => out.risk(
                "not_supported",
                Severity::Critical,
                "SQLite cannot change a column or add a constraint in place",
                "make a new table, copy the rows, drop the old one and rename, in one migration",
            ),
            other => judge_alter_common(table, other, self.weight(table).is_some(), out),
        }
    }
}

fn judge_alter_common(
    table: &ObjectName,
    operation: &AlterTableOperation,
    in_use: bool,
    out: &mut Judgement,
) {
    match operation {
        AlterTableOperation::DropColumn { column_names, .. } => {
            let names: Vec<String> = column_names.iter().map(ToString::to_string).collect();
            out.lose(&format!("drops column {} of `{table}` and its data", names.join(", ")));
        }
        AlterTableOperation::DropPartitions { .. } | AlterTableOperation::SwapWith { .. } => {
            out.lose(&format!("drops or swaps data of `{table}`"));
        }
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
        AlterTableOperation::RenameColumn { .. }
        | AlterTableOperation::RenameTable { .. }
        | AlterTableOperation::RenameConstraint { .. }
        | AlterTableOperation::EnableRowLevelSecurity
        | AlterTableOperation::ForceRowLevelSecurity
        | AlterTableOperation::EnableTrigger { .. }
        | AlterTableOperation::ReplicaIdentity { .. }
        | AlterTableOperation::SetOptionsParens { .. }
        | AlterTableOperation::DetachPartition { .. } => {}
        AlterTableOperation::OwnerTo { .. }
        | AlterTableOperation::DisableRowLevelSecurity
        | AlterTableOperation::NoForceRowLevelSecurity
        | AlterTableOperation::DisableTrigger { .. } => out.risk(
            "changes_rights",
            Severity::Warning,
            &format!("changes who may do what with `{table}`, or what is enforced"),
            "let Security look at it",
        ),
        _ => out.unknown("this kind of ALTER TABLE is not known here, so it is taken for the worst"),
    }
}

/// Functions that a migration may call in a SELECT without being taken for the worst.
const HARMLESS_FUNCTIONS: [&str; 14] = [
    "setval",
    "nextval",
    "currval",
    "set_config",
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "coalesce",
    "lower",
    "upper",
    "now",
    "length",
];

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

fn judge_data(statement: &Statement, lock: &'static str, out: &mut Judgement) {
    out.lock = stronger(out.lock, Some(lock));
    let risk = |out: &mut Judgement, note: &str| {
        out.risk(
            "data_change",
            Severity::Warning,
            note,
            "count the rows that it touches first, and keep what they were",
        );
    };
    match statement {
        Statement::Delete(delete) => {
            out.lose(if delete.selection.is_some() { "deletes rows" } else { "deletes all rows" });
        }
        Statement::Merge(_) => out.lose("can overwrite and delete rows"),
        Statement::Update(update) => {
            let name = match &update.table.relation {
                TableFactor::Table { name, .. } => name.to_string(),
                _ => "the table".into(),
            };
            if update.selection.is_some() {
                risk(out, &format!("overwrites values in some rows of `{name}`"));
            } else {
                out.lose(&format!("overwrites values in all rows of `{name}`"));
            }
        }
        Statement::Insert(insert) => {
            if insert.replace_into || insert.or == Some(SqliteOnConflict::Replace) {
                out.lose("replaces rows that are there");
            } else if insert.on.is_some() {
                risk(out, "may overwrite rows that are there");
            }
        }
        _ => out.unknown("a statement inside the query is not known here"),
    }
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

#[derive(Debug, PartialEq, Eq)]
pub(super) enum TypeChange {
    /// Only the catalog changes.
    Free,
    /// Every value fits and is written anew.
    Rewrite,
    /// Some value may not fit, or nobody can say.
    Narrower,
}

/// What `ALTER COLUMN … TYPE` does to the rows.
///
/// Measured on PostgreSQL 15: longer varchar, varchar to text and more numeric digits at one scale change only the
/// catalog; all else is written anew.
pub(super) fn type_change(from: Option<&str>, to: &str, using: bool) -> TypeChange {
    let Some(from) = from else { return TypeChange::Narrower };
    let ((from, from_size), (to, to_size)) = (type_parts(from), type_parts(to));
    if using {
        return TypeChange::Narrower;
    }
    let integer = |name: &str| ["smallint", "integer", "bigint"].iter().position(|known| *known == name);
    match (from.as_str(), to.as_str()) {
        ("varchar" | "text", "text") => TypeChange::Free,
        ("varchar", "varchar") => match (from_size.first(), to_size.first()) {
            (_, None) => TypeChange::Free,
            (Some(from), Some(to)) if to >= from => TypeChange::Free,
            _ => TypeChange::Narrower,
        },
        ("numeric", "numeric") => match (from_size.as_slice(), to_size.as_slice()) {
            (_, []) => TypeChange::Free,
            ([from, from_scale], [to, to_scale]) if to >= from && to_scale == from_scale => TypeChange::Free,
            ([from, from_scale], [to, to_scale])
                if to_scale >= from_scale && to - to_scale >= from - from_scale =>
            {
                TypeChange::Rewrite
            }
            _ => TypeChange::Narrower,
        },
        (from, "numeric") if integer(from).is_some() && to_size.is_empty() => TypeChange::Rewrite,
        ("real", "double precision") | ("timestamp" | "date", "timestamptz") | ("date", "timestamp") => {
            TypeChange::Rewrite
        }
        (from, to) if from == to && from_size == to_size => TypeChange::Free,
        (from, to) => match (integer(from), integer(to)) {
            (Some(a), Some(b)) if b >= a => TypeChange::Rewrite,
            _ if to == "text" => TypeChange::Rewrite,
            _ => TypeChange::Narrower,
        },
    }
}

/// A type's name without aliases and its sizes: `character varying(20)` is `varchar` and 20.
fn type_parts(native: &str) -> (String, Vec<i64>) {
    let native = native.to_ascii_lowercase();
    let (name, rest) = native.split_once('(').unwrap_or((&native, ""));
    let (sizes, tail) = rest.split_once(')').unwrap_or((rest, ""));
    let sizes: Vec<i64> = sizes.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let whole = format!("{}{}", name.trim(), tail);
    let name = match whole.trim() {
        "character varying" => "varchar",
        "int" | "int4" => "integer",
        "int8" => "bigint",
        "int2" => "smallint",
        "decimal" | "dec" => "numeric",
        "float4" => "real",
        "float8" | "float" => "double precision",
        "timestamp with time zone" => "timestamptz",
        "timestamp without time zone" => "timestamp",
        other => return (other.to_owned(), sizes),
    };
    let mut sizes = sizes;
    if name == "numeric" && sizes.len() == 1 {
        sizes.push(0);
    }
    (name.to_owned(), sizes)
}

impl Judgement {
    fn touch(&mut self, table: String) {
        if let Some(tables) = &mut self.tables {
            tables.insert(table);
        }
    }

    fn risk(&mut self, rule: &str, severity: Severity, note: &str, advice: &str) {
        self.risks.push(Risk { rule: rule.into(), severity, note: note.into(), advice: advice.into() });
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

    fn verdict(dialect: &str, sql: &str) -> (bool, Vec<String>) {
        let schema = schema(dialect);
        let judgement = Judge::new(&schema, BTreeSet::new()).judge(sql);
        (judgement.destructive, judgement.risks.into_iter().map(|risk| risk.rule).collect())
    }

    #[test]
    fn statements_are_judged_with_the_catalog_of_postgresql() {
        for (sql, destructive, rules) in [
            ("CREATE TABLE a (id int)", false, vec![]),
            ("CREATE INDEX i ON orders (note)", false, vec!["index_blocks_writes"]),
            ("CREATE INDEX CONCURRENTLY i ON orders (note)", false, vec![]),
            ("ALTER TABLE orders ADD COLUMN a int", false, vec![]),
            ("ALTER TABLE orders ADD COLUMN a int NOT NULL DEFAULT 0", false, vec![]),
            ("ALTER TABLE orders ADD COLUMN a timestamptz DEFAULT now()", false, vec![]),
            ("ALTER TABLE orders ADD COLUMN a uuid DEFAULT gen_random_uuid()", false, vec!["rewrite"]),
            ("ALTER TABLE orders ADD COLUMN a int NOT NULL", false, vec!["fails_on_rows"]),
            ("ALTER TABLE orders ADD COLUMN a bigserial", false, vec!["rewrite"]),
            ("ALTER TABLE orders DROP COLUMN note", true, vec!["data_loss"]),
            ("ALTER TABLE orders ALTER COLUMN note TYPE text", false, vec![]),
            ("ALTER TABLE orders ALTER COLUMN note TYPE varchar(40)", false, vec![]),
            ("ALTER TABLE orders ALTER COLUMN note TYPE varchar(10)", true, vec!["data_loss"]),
            ("ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,2)", false, vec![]),
            ("ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,3)", false, vec!["rewrite"]),
            ("ALTER TABLE orders ALTER COLUMN id TYPE bigint", false, vec!["rewrite"]),
            ("ALTER TABLE orders ALTER COLUMN id TYPE smallint", true, vec!["data_loss"]),
            ("ALTER TABLE orders ALTER COLUMN note SET NOT NULL", false, vec!["scan_under_lock"]),
            ("ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES b (id)", false, vec!["scan_under_lock"]),
            ("ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES b (id) NOT VALID", false, vec![]),
            ("ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0)", false, vec!["scan_under_lock"]),
            ("ALTER TABLE orders RENAME COLUMN note TO remark", false, vec!["rename_breaks_application"]),
            ("DROP TABLE orders", true, vec!["data_loss"]),
            ("DROP SCHEMA s CASCADE", true, vec!["data_loss"]),
            ("DROP VIEW v", false, vec!["breaks_readers"]),
            ("TRUNCATE orders", true, vec!["data_loss"]),
            ("DELETE FROM orders WHERE id = 1", true, vec!["data_loss"]),
            ("UPDATE orders SET note = ''", true, vec!["data_loss"]),
            ("UPDATE orders SET note = '' WHERE note IS NULL", false, vec!["data_change"]),
            ("WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone", true, vec!["data_loss"]),
            ("SELECT setval('s', 1)", false, vec![]),
            ("SELECT drop_everything()", true, vec!["unknown"]),
            ("DO $$ BEGIN DROP TABLE orders; END $$", true, vec!["unknown"]),
            ("THIS IS NOT SQL", true, vec!["unknown"]),
            ("INSERT INTO orders VALUES (1)", false, vec![]),
            ("INSERT INTO orders SELECT lower('A')", false, vec![]),
            ("INSERT INTO orders SELECT audit(1)", true, vec!["unknown"]),
            ("INSERT INTO orders SELECT pg_terminate_backend(1)", true, vec!["unknown"]),
            ("GRANT SELECT ON orders TO public", false, vec!["changes_rights"]),
        ] {
            let (lost, found) = verdict("postgres", sql);
            assert_eq!(
                (lost, found.iter().map(String::as_str).collect::<Vec<_>>()),
                (destructive, rules),
                "{sql}"
            );
        }
    }

    #[test]
    fn statements_are_judged_with_the_catalog_of_sqlite() {
        for (sql, destructive, rules) in [
            ("CREATE TABLE a (id INTEGER PRIMARY KEY, b TEXT) STRICT", false, vec![]),
            ("CREATE INDEX i ON orders (note)", false, vec![]),
            ("ALTER TABLE orders ADD COLUMN a INTEGER NOT NULL", false, vec!["fails_on_rows"]),
            ("ALTER TABLE orders ADD COLUMN a INTEGER NOT NULL DEFAULT 0", false, vec![]),
            ("ALTER TABLE orders DROP COLUMN note", true, vec!["data_loss"]),
            ("ALTER TABLE orders RENAME TO old", false, vec!["rename_breaks_application"]),
            ("CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM orders; END", false, vec![]),
            ("INSERT OR REPLACE INTO orders VALUES (1, 'a', 2)", true, vec!["data_loss"]),
            (
                "DELETE FROM orders WHERE note IS NULL AND NOT EXISTS (SELECT 1 FROM b WHERE b.id = orders.id)",
                true,
                vec!["data_loss"],
            ),
            ("PRAGMA foreign_keys = OFF", false, vec!["no_effect"]),
            ("VACUUM", false, vec!["rewrite"]),
        ] {
            let (lost, found) = verdict("sqlite", sql);
            assert_eq!(
                (lost, found.iter().map(String::as_str).collect::<Vec<_>>()),
                (destructive, rules),
                "{sql}"
            );
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
