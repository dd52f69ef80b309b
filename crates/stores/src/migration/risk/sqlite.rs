//! What SQLite does with a statement: one writer and no weaker locks, so what counts is what is lost and what fails.

use std::ops::ControlFlow;

use contract::Severity;
use schema::Dialect;
use sqlparser::ast::{
    AlterTableOperation, ObjectName, ObjectType, SqliteOnConflict, Statement, TableFactor, visit_statements,
};

use super::{
    Judge, Judgement, changes_of_any_table, functions, name_parts, parse, required_without_default, walked,
};

/// The one lock there is.
const WRITE_LOCK: &str = "SQLite's write lock";

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

impl Judge<'_> {
    pub(super) fn judge_by_sqlite(&mut self, sql: &str, words: &[String], out: &mut Judgement) {
        let head: Vec<&str> = words.iter().take(4).map(String::as_str).collect();
        match head.as_slice() {
            // The parser does not know SQLite's trigger bodies; making a trigger loses nothing.
            ["CREATE", "TRIGGER", ..] | ["CREATE", "TEMP" | "TEMPORARY", "TRIGGER", ..] => {
                out.tables = None;
                out.lock = Some(WRITE_LOCK);
            }
            // The parser reads only some values of a pragma.
            ["PRAGMA", "FOREIGN_KEYS", ..] => out.risk(
                "no_effect",
                Severity::Info,
                "PRAGMA foreign_keys counts only as the first and the last statement of a migration",
                "use it there, to rebuild a table that others refer to",
            ),
            ["PRAGMA", name, ..] => {
                if !["USER_VERSION", "APPLICATION_ID", "OPTIMIZE", "JOURNAL_MODE"].contains(name) {
                    out.unknown("this pragma is not known here, and some destroy the file");
                }
            }
            _ => match parse(sql, Dialect::Sqlite) {
                Some(statement) => {
                    out.touch_all(&statement, Dialect::Sqlite);
                    self.judge_parsed_by_sqlite(&statement, out);
                }
                None => out.unknown("the statement cannot be read, so nobody can say what it does"),
            },
        }
    }

    fn judge_parsed_by_sqlite(&mut self, statement: &Statement, out: &mut Judgement) {
        let name_of = |name: &ObjectName| name_parts(name, Dialect::Sqlite).join(".");
        match statement {
            Statement::CreateTable(create) => {
                out.destructive |= create.or_replace;
                self.new_tables.insert(name_of(&create.name));
                out.lock = Some(WRITE_LOCK);
            }
            Statement::CreateIndex(create) => {
                out.touch(name_of(&create.table_name));
                out.lock = Some(WRITE_LOCK);
                if create.unique && self.weight(&create.table_name).is_some() {
                    out.unique_can_fail(&create.table_name);
                }
            }
            Statement::AlterTable(alter) => {
                out.touch(name_of(&alter.name));
                out.lock = Some(WRITE_LOCK);
                for operation in &alter.operations {
                    self.judge_alter_sqlite(&alter.name, operation, out);
                }
            }
            Statement::Drop { object_type, names, cascade, .. } => {
                for name in names {
                    out.touch(name_of(name));
                }
                out.lock = Some(WRITE_LOCK);
                out.drops_what_is_read(*object_type, *cascade);
                if !matches!(object_type, ObjectType::View | ObjectType::Index) {
                    out.lose("drops objects and all data in them");
                }
            }
            Statement::Delete(_) | Statement::Update(_) | Statement::Insert(_) => {
                judge_data(statement, out);
            }
            Statement::Query(query) => {
                walked(visit_statements(query, |inner: &Statement| {
                    if !matches!(inner, Statement::Query(_)) {
                        judge_data(inner, out);
                    }
                    ControlFlow::<()>::Continue(())
                }));
                let called = functions(query.as_ref());
                if called.iter().any(|name| !HARMLESS_FUNCTIONS.contains(&name.as_str())) {
                    out.unknown("it calls a function, and a function can do anything");
                }
            }
            // What it reads may be a view; views are not in the list of tables.
            Statement::CreateView(_) => out.lock = Some(WRITE_LOCK),
            Statement::DropTrigger(_) => {
                out.tables = None;
                out.lock = Some(WRITE_LOCK);
            }
            Statement::Analyze(_) => {}
            _ => out.unknown("this kind of statement is not known here, so it is taken for the worst"),
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
            AlterTableOperation::DropColumn { column_names, .. } => {
                let names: Vec<String> = column_names.iter().map(ToString::to_string).collect();
                out.lose(&format!("drops column {} of `{table}` and its data", names.join(", ")));
            }
            AlterTableOperation::RenameColumn { .. } | AlterTableOperation::RenameTable { .. } => {
                changes_of_any_table(table, operation, self.weight(table).is_some(), out);
            }
            _ => out.unknown("this kind of ALTER TABLE is not known here, so it is taken for the worst"),
        }
    }
}

fn judge_data(statement: &Statement, out: &mut Judgement) {
    out.lock = Some(WRITE_LOCK);
    match statement {
        Statement::Delete(delete) => {
            out.lose(if delete.selection.is_some() { "deletes rows" } else { "deletes all rows" });
        }
        Statement::Update(update) => {
            let name = match &update.table.relation {
                TableFactor::Table { name, .. } => name.to_string(),
                _ => "the table".into(),
            };
            if update.selection.is_some() {
                out.changes_data(&format!("overwrites values in some rows of `{name}`"));
            } else {
                out.lose(&format!("overwrites values in all rows of `{name}`"));
            }
        }
        Statement::Insert(insert) => {
            if insert.replace_into || insert.or == Some(SqliteOnConflict::Replace) {
                out.lose("replaces rows that are there");
            } else if insert.on.is_some() {
                out.changes_data("may overwrite rows that are there");
            }
        }
        _ => out.unknown("a statement inside the query is not known here"),
    }
}
