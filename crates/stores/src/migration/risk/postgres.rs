//! What PostgreSQL locks and works for: the weight of a statement. What it loses is the linter's to say.

use std::ops::ControlFlow;

use contract::Severity;
use schema::{Dialect, Schema};
use sqlparser::ast::{
    AlterColumnOperation, AlterTableOperation, ColumnOption, ObjectName, Statement, TableConstraint,
    visit_statements,
};

use super::{
    Judge, Judgement, changes_of_any_table, name_parts, parse, required_without_default, resolve,
    rewriting_column, stronger, walked,
};
use crate::lint::loss::{Grade, Known, losses};
use crate::lint::operation::{Name, TypeName};
use crate::lint::read_statement;
use crate::lint::types::{TypeChange, type_change};

/// The database as the plan's catalog has it.
struct Planned<'a>(&'a Schema);

impl Known for Planned<'_> {
    /// A name that an earlier statement made may since have been given to another table.
    fn spared(&self, _: &Name, _: Option<&str>) -> bool {
        false
    }

    fn column_type(&self, table: &Name, column: &str) -> Option<TypeName> {
        let parts: Vec<String> = table.namespace.iter().chain([&table.name]).cloned().collect();
        let table = resolve(self.0, &parts)?;
        let column = table.columns.iter().find(|known| known.name == column)?;
        Some(TypeName::read(&column.native_type))
    }

    fn written_function(&self, calls: &[String]) -> Option<String> {
        let written = |call: &&String| {
            self.0.others.iter().any(|(kind, definition)| {
                let name = definition.split('(').next().unwrap_or_default().rsplit('.').next();
                (kind.contains("function") || kind == "procedure")
                    && name.unwrap_or_default().trim_matches('"').eq_ignore_ascii_case(call)
            })
        };
        calls.iter().find(written).cloned()
    }
}

impl Judge<'_> {
    pub(super) fn judge_by_postgres(&mut self, sql: &str, words: &[String], out: &mut Judgement) {
        if words.first().is_some_and(|word| word == "REINDEX") {
            out.lock = Some("SHARE UPDATE EXCLUSIVE");
            return;
        }
        match parse(sql, Dialect::Postgres) {
            Some(statement) => {
                out.touch_all(&statement, Dialect::Postgres);
                self.judge_parsed_by_postgres(&statement, out);
            }
            // The other parser reads more.
            None if words.iter().any(|word| word == "CONCURRENTLY") => {
                out.tables = None;
                out.lock = Some("SHARE UPDATE EXCLUSIVE");
            }
            None => out.worst_lock(),
        }
        for loss in losses(&read_statement(1, 0, sql.to_owned()), &Planned(self.schema)) {
            match loss.grade {
                Grade::Overwritten => out.changes_data(&loss.message),
                Grade::Gone => out.lose(&loss.message),
                Grade::Unknown => out.unknown(&loss.message),
            }
        }
    }

    fn judge_parsed_by_postgres(&mut self, statement: &Statement, out: &mut Judgement) {
        let name_of = |name: &ObjectName| name_parts(name, Dialect::Postgres).join(".");
        match statement {
            Statement::CreateTable(create) => {
                self.new_tables.insert(name_of(&create.name));
                out.lock = Some("SHARE ROW EXCLUSIVE");
            }
            Statement::CreateIndex(create) => {
                out.touch(name_of(&create.table_name));
                out.lock = Some(if create.concurrently { "SHARE UPDATE EXCLUSIVE" } else { "SHARE" });
                if let Some((severity, rows)) = self.weight(&create.table_name) {
                    if !create.concurrently {
                        out.risk(
                            "index_blocks_writes",
                            severity,
                            &format!("writes to `{}` ({rows}) wait until the index is built", create.table_name),
                            "use CREATE INDEX CONCURRENTLY in a migration that says `-- steward: no-transaction`",
                        );
                    }
                    if create.unique {
                        out.unique_can_fail(&create.table_name);
                    }
                }
            }
            Statement::AlterTable(alter) => {
                out.touch(name_of(&alter.name));
                out.lock = Some("ACCESS EXCLUSIVE");
                for operation in &alter.operations {
                    self.judge_alter_postgres(&alter.name, operation, out);
                }
            }
            Statement::Drop { object_type, names, cascade, .. } => {
                for name in names {
                    out.touch(name_of(name));
                }
                out.lock = Some("ACCESS EXCLUSIVE");
                out.drops_what_is_read(*object_type, *cascade);
            }
            Statement::Truncate(truncate) => {
                for target in &truncate.table_names {
                    out.touch(name_of(&target.name));
                }
                out.lock = Some("ACCESS EXCLUSIVE");
            }
            Statement::Delete(_) | Statement::Merge(_) | Statement::Update(_) | Statement::Insert(_) => {
                out.lock = Some("ROW EXCLUSIVE");
            }
            Statement::Query(query) => walked(visit_statements(query, |inner: &Statement| {
                if !matches!(inner, Statement::Query(_)) {
                    out.lock = Some("ROW EXCLUSIVE");
                }
                ControlFlow::<()>::Continue(())
            })),
            Statement::CreateView(view) => {
                // What it reads may be a view; views are not in the list of tables.
                out.lock = Some("ACCESS EXCLUSIVE");
                if view.materialized {
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
                out.lock = Some("SHARE ROW EXCLUSIVE");
            }
            _ => out.worst_lock(),
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
                AlterColumnOperation::SetDataType { data_type, .. } => {
                    let known = self.column(table, &column_name.value);
                    let change = known.map(|column| {
                        let (from, to) = (&column.native_type, &data_type.to_string());
                        type_change(&TypeName::read(from), &TypeName::read(to), false)
                    });
                    if change.is_none_or(|change| !matches!(change, TypeChange::Same | TypeChange::Catalog)) {
                        heavy(
                            out,
                            "rewrite",
                            "the new type rewrites the table while nobody can use it",
                            "add a column of the new type, fill it in batches, switch, drop the old one later",
                        );
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
            other => changes_of_any_table(table, other, weight.is_some(), out),
        }
    }
}
