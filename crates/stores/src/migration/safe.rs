//! The safe form of a migration: the same end, without holding a strong lock for long.
//!
//! What blocks for long is cut into statements that do not, each in a step of its own: an index is built concurrently, a
//! constraint is added NOT VALID and validated in another transaction, NOT NULL rests on a validated check, many rows
//! are changed in batches. What cannot be made safe stays as it is, and the reason is said.
//!
//! Sources: PostgreSQL manual, "ALTER TABLE" (Notes), "CREATE INDEX" (Building Indexes Concurrently), "ALTER INDEX"
//! (ATTACH PARTITION).

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::ControlFlow;

use contract::{BATCH, Error};
use schema::{Column, Dialect, Schema, Table};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, ColumnDef, ColumnOption, CreateIndex, Delete,
    Expr, FromTable, Ident, NullsDistinctOption, ObjectName, ObjectType, Statement, TableConstraint,
    TableFactor, TableWithJoins, Update, visit_expressions, visit_relations,
};

use super::effect;
use super::file::{Batched, Migration, Sql};
use super::risk::{
    functions, is_serial, name_parts, parse, required_without_default, resolve, rewriting_column, walked,
};
use super::split::words;
use crate::inquiry::Inquiry;
use crate::lint::operation::{Operation, Target, TypeName, quote};
use crate::lint::types::{TypeChange, type_change};
use crate::lint::{World, read_statement};
use crate::text::{self, TO_STRING};

/// PostgreSQL cuts longer names off.
const NAME_BYTES_MAX: usize = 63;
/// Stands in a parsed condition where the batch's range will.
const MARK: &str = "steward_batch_range";

/// What became of one statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Its line in the file.
    pub(crate) line: usize,
    /// As the file says it.
    pub(crate) statement: String,
    /// The statements that do the same; empty when it stays as it is.
    pub(crate) becomes: Vec<String>,
    /// Why it stays as it is although it may block for long or lose data; or what to know of its safe form.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
    /// It stays, and may block for long, fail or lose data.
    pub(crate) unsafe_still: bool,
}

/// What became of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rewritten {
    pub(crate) migration: String,
    pub(crate) statements: Vec<Part>,
    /// The whole safe form as the text of a migration file; `None` when the migration stays as it is.
    pub(crate) file: Option<String>,
}

impl Rewritten {
    pub(crate) fn text(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

/// How a statement comes out.
enum Outcome {
    /// As it is; nothing is wrong with it.
    Stays,
    /// As it is, with a warning.
    StaysUnsafe(String),
    /// As these statements, with what to know of them.
    Becomes(Vec<Sql>, String),
}

/// Rewrites one migration for the store as it is now.
///
/// # Errors
///
/// `Unavailable`, `Denied`, `TimedOut`: the catalog cannot be asked.
pub(crate) async fn rewrite(
    inquiry: &mut Inquiry<'_>,
    schema: &Schema,
    new_tables: &BTreeSet<String>,
    world: Option<&World>,
    migration: &Migration,
) -> Result<Rewritten, Error> {
    let mut rewriter = Rewriter {
        schema,
        world: world.cloned(),
        new_tables: new_tables.clone(),
        names: taken_names(schema),
        volatile: BTreeSet::new(),
        refreshable: BTreeSet::new(),
        new_columns: BTreeSet::new(),
    };
    if schema.dialect == Dialect::Postgres {
        rewriter.volatile = volatile_functions(inquiry, migration).await?;
        rewriter.refreshable = refreshable_views(inquiry).await?;
    }
    let stay = |why: &str, unsafe_still: bool| Rewritten {
        migration: migration.name.clone(),
        statements: migration
            .up
            .iter()
            .map(|sql| Part {
                line: sql.line,
                statement: sql.text.clone(),
                becomes: Vec::new(),
                note: why.to_owned(),
                unsafe_still,
            })
            .collect(),
        file: None,
    };
    if let Some((sql, why)) =
        migration.up.iter().find_map(|sql| Some((sql, binds_together(sql, schema.dialect)?)))
    {
        let what = text::plain(&sql.text.split_whitespace().collect::<Vec<_>>().join(" "), 60);
        return Ok(stay(&format!("the migration stays one piece: `{what}` {why}"), migration.up.len() > 1));
    }
    let mut statements = Vec::new();
    let mut up = Vec::new();
    for sql in &migration.up {
        let outcome = rewriter.statement(sql);
        let long = rewriter.still_long(sql, &outcome);
        rewriter.learn(sql);
        let unsafe_still = matches!(outcome, Outcome::StaysUnsafe(_)) || !long.is_empty();
        let (becomes, note) = match outcome {
            Outcome::StaysUnsafe(why) => (Vec::new(), why),
            Outcome::Stays if long.is_empty() => (Vec::new(), String::new()),
            Outcome::Stays => (Vec::new(), format!("{}; it has no safer form here", long.join("; "))),
            Outcome::Becomes(becomes, note) if long.is_empty() => (becomes, note),
            Outcome::Becomes(becomes, note) => (becomes, format!("{note}; still so: {}", long.join("; "))),
        };
        let part = Part {
            line: sql.line,
            statement: sql.text.clone(),
            becomes: becomes.iter().map(|sql| sql.text.clone()).collect(),
            note,
            unsafe_still,
        };
        up.push((if becomes.is_empty() { vec![sql.clone()] } else { becomes }, part.clone()));
        statements.push(part);
    }
    let rewritten = statements.iter().any(|part| !part.becomes.is_empty());
    // Several statements that lock tables in use hold the first lock until the last has run.
    let apart = migration.transaction && rewriter.locking_statements(&migration.up) > 1;
    let file = (rewritten || apart).then(|| render(migration, &up));
    Ok(Rewritten { migration: migration.name.clone(), statements, file })
}

/// The safe form as a migration file.
fn render(migration: &Migration, up: &[(Vec<Sql>, Part)]) -> String {
    let mut out = format!(
        "-- The safe form of `{}`: each statement in a step of its own.\n-- steward: no-transaction\n",
        migration.name
    );
    if migration.irreversible {
        out.push_str("-- steward: irreversible\n");
    }
    out.push_str("-- steward: up\n");
    for (list, part) in up {
        out.push('\n');
        if !part.becomes.is_empty() {
            let was = text::plain(&part.statement.split_whitespace().collect::<Vec<_>>().join(" "), 200);
            writeln!(out, "-- was, line {}: {was}", part.line).expect(TO_STRING);
        }
        if !part.note.is_empty() {
            writeln!(out, "-- {}", part.note).expect(TO_STRING);
        }
        for sql in list {
            if let Some(batched) = &sql.batched {
                writeln!(out, "-- steward: batched {} by {}", batched.table, batched.key.join(", "))
                    .expect(TO_STRING);
            }
            writeln!(out, "{};", sql.text).expect(TO_STRING);
        }
    }
    if let Some(down) = &migration.down {
        out.push_str("\n-- steward: down\n");
        for sql in down {
            if let Some(batched) = &sql.batched {
                writeln!(out, "-- steward: batched {} by {}", batched.table, batched.key.join(", "))
                    .expect(TO_STRING);
            }
            writeln!(out, "{};", sql.text).expect(TO_STRING);
        }
    }
    out
}

/// Whether the form itself took care of a risk: the check before a statement proves what it would scan for, and a check
/// that only served that is dropped again.
pub(super) fn is_settled(rule: &str, before: &str, statement: &str) -> bool {
    let own = |text: &str, verb: &str| {
        text.split_once(verb)
            .is_some_and(|(_, name)| name.trim_start_matches([' ', '"']).starts_with("steward_"))
    };
    match rule {
        "scan_under_lock" => own(before, "VALIDATE CONSTRAINT"),
        "guard_removed" => own(statement, "DROP CONSTRAINT"),
        _ => false,
    }
}

/// Why a statement needs the transaction of the others, if it does.
fn binds_together(sql: &Sql, dialect: Dialect) -> Option<&'static str> {
    if dialect == Dialect::Sqlite {
        return None;
    }
    let words = words(&sql.text, dialect);
    let head: Vec<&str> = words.iter().take(3).map(String::as_str).collect();
    match head.as_slice() {
        // Each step has its own.
        ["SET", "LOCAL" | "SESSION", name, ..] | ["SET", name, ..]
            if ["LOCK_TIMEOUT", "STATEMENT_TIMEOUT"].contains(name) =>
        {
            None
        }
        ["SET" | "RESET", ..] => Some("sets something for the statements after it"),
        ["LOCK", ..] => Some("holds a lock until the transaction ends"),
        ["CREATE", "TEMP" | "TEMPORARY", ..] => Some("makes something that goes with the session"),
        ["PREPARE" | "EXECUTE" | "DEALLOCATE" | "DECLARE" | "FETCH", ..] => Some("belongs to the session"),
        _ => None,
    }
}

/// Names of indexes and constraints that are taken, per namespace and table.
fn taken_names(schema: &Schema) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for table in &schema.tables {
        names.insert(table.name.name.clone());
        names.extend(table.indexes.iter().map(|index| index.name.clone()));
        names.extend(table.primary_key.iter().chain(&table.unique_keys).map(|key| key.name.clone()));
        names.extend(table.foreign_keys.iter().map(|key| key.name.clone()));
        names.extend(table.checks.iter().map(|check| check.name.clone()));
    }
    names
}

/// Functions that the migration calls and that give another value for each row.
async fn volatile_functions(
    inquiry: &mut Inquiry<'_>,
    migration: &Migration,
) -> Result<BTreeSet<String>, Error> {
    let mut called: Vec<String> = migration
        .up
        .iter()
        .filter_map(|sql| parse(&sql.readable(), Dialect::Postgres))
        .flat_map(|statement| functions(&statement))
        .collect();
    called.sort();
    called.dedup();
    let mut volatile = BTreeSet::new();
    for name in called {
        let mut query = contract::Query::new(
            "SELECT coalesce(bool_or(provolatile = 'v'), true) FROM pg_catalog.pg_proc WHERE proname = $1",
        );
        query.parameters = vec![json!(name)];
        let (rows, _) = inquiry.rows(&query).await?;
        if rows.rows.first().and_then(|row| row.first()) != Some(&json!(false)) {
            volatile.insert(name);
        }
    }
    Ok(volatile)
}

/// Materialized views that are filled and have a unique index over all rows, as `namespace.name`.
async fn refreshable_views(inquiry: &mut Inquiry<'_>) -> Result<BTreeSet<String>, Error> {
    let query = contract::Query::new(
        "SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_catalog.pg_class AS c \
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid \
         WHERE c.relkind = 'm' AND c.relispopulated AND i.indisunique AND i.indisvalid AND i.indpred IS NULL \
         AND i.indexprs IS NULL",
    );
    let (rows, _) = inquiry.rows(&query).await?;
    Ok(rows.rows.iter().filter_map(|row| row.first()?.as_str().map(ToOwned::to_owned)).collect())
}

struct Rewriter<'a> {
    schema: &'a Schema,
    /// The database as the linter knows it, changed by what was rewritten so far.
    world: Option<World>,
    /// Made by this plan: nobody uses them, so everything may be done with them.
    new_tables: BTreeSet<String>,
    names: BTreeSet<String>,
    volatile: BTreeSet<String>,
    refreshable: BTreeSet<String>,
    /// Added by this migration, as `table.column`: the catalog does not know them yet.
    new_columns: BTreeSet<String>,
}

impl Rewriter<'_> {
    /// Why others wait for long all the same: whatever the form, the linter has the last word, since what it says was
    /// measured, each statement in a step of its own.
    fn still_long(&mut self, sql: &Sql, outcome: &Outcome) -> Vec<String> {
        let Some(world) = &mut self.world else { return Vec::new() };
        let list = match outcome {
            Outcome::Becomes(list, _) => list.as_slice(),
            Outcome::Stays | Outcome::StaysUnsafe(_) => std::slice::from_ref(sql),
        };
        let effects = effect::effects("", list, false, world);
        let long = list.iter().zip(effects).filter(|(sql, effect)| effect.is_long() && !is_refresh(sql));
        let mut why: Vec<String> = long.flat_map(|(_, effect)| effect.why).collect();
        why.dedup();
        why
    }

    fn is_new(&self, table: &ObjectName) -> bool {
        self.new_tables.contains(&name_parts(table, self.schema.dialect).join("."))
    }

    fn table(&self, name: &ObjectName) -> Option<&Table> {
        resolve(self.schema, &name_parts(name, self.schema.dialect))
    }

    fn column(&self, table: &ObjectName, column: &Ident) -> Option<&Column> {
        let wanted = fold(column);
        self.table(table)?.columns.iter().find(|column| column.name == wanted)
    }

    /// Takes note of what a statement makes, for the ones after it.
    fn learn(&mut self, sql: &Sql) {
        match parse(&sql.readable(), self.schema.dialect) {
            Some(Statement::CreateTable(create)) => {
                self.new_tables.insert(name_parts(&create.name, self.schema.dialect).join("."));
            }
            Some(Statement::AlterTable(alter)) => {
                for operation in &alter.operations {
                    if let AlterTableOperation::AddColumn { column_def, .. } = operation {
                        self.new_columns.insert(format!("{}.{}", alter.name, fold(&column_def.name)));
                    }
                }
            }
            _ => {}
        }
    }

    /// Statements that lock a table which is in use against readers or writers.
    fn locking_statements(&self, list: &[Sql]) -> usize {
        let mut made = BTreeSet::new();
        list.iter()
            .filter(|sql| {
                let Some(statement) = parse(&sql.readable(), self.schema.dialect) else { return true };
                let table = match &statement {
                    Statement::CreateTable(create) => {
                        made.insert(create.name.to_string());
                        return false;
                    }
                    Statement::AlterTable(alter) => &alter.name,
                    Statement::CreateIndex(create) => &create.table_name,
                    Statement::Drop { .. } | Statement::Truncate(_) => return true,
                    _ => return false,
                };
                !self.new_tables.contains(&name_parts(table, self.schema.dialect).join("."))
                    && !made.contains(&table.to_string())
            })
            .count()
    }

    /// The name that the server would give, or with a number behind it when that is taken.
    fn free_name(&mut self, table: &str, columns: &str, suffix: &str) -> String {
        for number in 0.. {
            let suffix = if number == 0 { suffix.to_owned() } else { format!("{suffix}{number}") };
            let name = server_name(table, columns, &suffix);
            if self.names.insert(name.clone()) {
                return name;
            }
        }
        unreachable!("one of the numbers is free")
    }

    fn statement(&mut self, sql: &Sql) -> Outcome {
        if sql.batched.is_some() {
            return Outcome::Stays;
        }
        if self.schema.dialect == Dialect::Sqlite {
            return self.statement_sqlite(sql);
        }
        let operations = read_statement(sql.line, 0, sql.text.clone()).operations;
        if let Some(outcome) = self.by_operation(sql, &operations) {
            return outcome;
        }
        match parse(&sql.text, Dialect::Postgres) {
            None => Outcome::StaysUnsafe(
                "cannot be read, so nobody can say what it locks; it runs as it is, in a step of its own"
                    .into(),
            ),
            Some(Statement::CreateIndex(create)) => self.create_index(sql.line, create),
            Some(Statement::Drop { object_type: ObjectType::Index, names, cascade, if_exists, .. }) => {
                self.drop_index(sql.line, &names, cascade, if_exists)
            }
            Some(Statement::AlterTable(alter)) => self.alter_table(sql.line, &alter),
            Some(Statement::Update(update)) => self.update(sql.line, update),
            Some(Statement::Delete(delete)) => self.delete(sql.line, delete),
            Some(Statement::Truncate(_) | Statement::Drop { .. }) => Outcome::StaysUnsafe(
                "removes what is there; no other form is safer, so it waits for approval".into(),
            ),
            Some(_) => Outcome::Stays,
        }
    }

    /// What the other parser knows: forms that the first one cannot read.
    fn by_operation(&mut self, sql: &Sql, operations: &[Operation]) -> Option<Outcome> {
        let [operation] = operations else { return None };
        let one =
            |text: String, note: &str| Some(Outcome::Becomes(vec![Sql::new(sql.line, text)], note.into()));
        match operation {
            Operation::Refresh { view, concurrently: false, with_data: true } => {
                let namespace = view.namespace.as_deref().unwrap_or("public");
                if self.refreshable.contains(&format!("{namespace}.{}", view.name)) {
                    return one(
                        format!("REFRESH MATERIALIZED VIEW CONCURRENTLY {}", view.quoted()),
                        "readers go on with the old rows meanwhile",
                    );
                }
                Some(Outcome::StaysUnsafe(
                    "nobody reads the view while it is refreshed; with a unique index on plain columns it could be \
                     refreshed CONCURRENTLY"
                        .into(),
                ))
            }
            Operation::AttachPartition { table, partition, default: false, bound } => {
                Some(self.attach_partition(sql, table, partition, bound))
            }
            Operation::DetachPartition { table, partition, concurrently: false, finalize: false } => {
                Some(self.detach_partition(sql, table, partition))
            }
            Operation::Reindex { target, concurrently: false } => Some(self.reindex(sql, target)),
            Operation::AlterDomain { checks_rows: true, .. } => Some(Outcome::StaysUnsafe(
                "writers of every table that uses the domain wait while its rows are read; to add the constraint NOT VALID \
                 and VALIDATE it later does not change that, it only holds for new values at once: do the second in a \
                 quiet hour"
                    .into(),
            )),
            Operation::Cluster { .. }
            | Operation::SetPersistence { .. }
            | Operation::SetAccessMethod { .. }
            | Operation::SetTablespace { .. } => Some(Outcome::StaysUnsafe(
                "writes the table anew while nobody can use it; do it in a quiet hour, or with pg_repack".into(),
            )),
            Operation::Vacuum { full: true, .. } => Some(Outcome::StaysUnsafe(
                "writes the table anew while nobody can use it; plain VACUUM is enough in most cases".into(),
            )),
            Operation::Set { setting, .. } if setting == "lock_timeout" || setting == "statement_timeout" => {
                Some(Outcome::Stays)
            }
            Operation::Code { what } => Some(Outcome::StaysUnsafe(format!(
                "{what} can do anything; it runs as it is, in a step of its own"
            ))),
            Operation::Insert { reach: crate::lint::operation::Reach::Some | crate::lint::operation::Reach::All, .. } => {
                Some(Outcome::StaysUnsafe(
                    "copies an unknown number of rows in one transaction; it blocks nobody, and replicas fall behind \
                     meanwhile"
                        .into(),
                ))
            }
            _ => None,
        }
    }

    fn create_index(&mut self, line: usize, mut create: CreateIndex) -> Outcome {
        if create.concurrently || self.is_new(&create.table_name) {
            return Outcome::Stays;
        }
        let parts = name_parts(&create.table_name, Dialect::Postgres);
        let table_name = parts.last().cloned().unwrap_or_default();
        let columns: Vec<String> = create
            .columns
            .iter()
            .map(|column| match &column.column.expr {
                Expr::Identifier(ident) => fold(ident),
                _ => "expr".to_owned(),
            })
            .collect();
        let columns = columns.join("_");
        if create.name.is_none() {
            let name = self.free_name(&table_name, &columns, "idx");
            create.name = Some(ObjectName::from(vec![ident(&name)]));
        }
        let partitions = self.partitions(&create.table_name);
        let Some(partitions) = partitions else {
            create.concurrently = true;
            return Outcome::Becomes(
                vec![Sql::new(line, Statement::CreateIndex(create).to_string())],
                "writers go on while it is built".into(),
            );
        };
        if partitions.iter().any(|table| table.partition.as_ref().is_some_and(|one| one.key.is_some())) {
            return Outcome::StaysUnsafe(
                "the partitions are partitioned again: build the index on the lowest ones first, then attach it \
                 level by level"
                    .into(),
            );
        }
        let names: Vec<(String, String)> =
            partitions.iter().map(|table| (quoted_table(table), table.name.name.clone())).collect();
        let index = create.name.as_ref().map(ToString::to_string).unwrap_or_default();
        let namespace = partitions_namespace(&create.table_name, self.schema);
        let on = format!(" ON {}", create.table_name);
        let parent = Statement::CreateIndex(create.clone()).to_string();
        let mut out =
            vec![Sql::new(line, parent.replacen(&on, &format!(" ON ONLY {}", create.table_name), 1))];
        for (quoted, name) in names {
            let child = self.free_name(&name, &columns, "idx");
            let mut one = create.clone();
            one.concurrently = true;
            one.name = Some(ObjectName::from(vec![ident(&child)]));
            let text = Statement::CreateIndex(one).to_string().replacen(&on, &format!(" ON {quoted}"), 1);
            out.push(Sql::new(line, text));
            let of = |name: &str| {
                if namespace == "public" { name.to_owned() } else { format!("{}.{name}", quote(&namespace)) }
            };
            out.push(Sql::new(
                line,
                format!("ALTER INDEX {} ATTACH PARTITION {}", of(&index), of(&quote(&child))),
            ));
        }
        Outcome::Becomes(out, "partition by partition; writers go on while each is built".into())
    }

    /// The partitions of a partitioned table; `None` for any other.
    fn partitions(&self, name: &ObjectName) -> Option<Vec<&Table>> {
        let table = self.table(name)?;
        table.partition.as_ref()?.key.as_ref()?;
        let of = |other: &&Table| {
            other.partition.as_ref().and_then(|partition| partition.parent.as_ref()) == Some(&table.name)
        };
        Some(self.schema.tables.iter().filter(of).collect())
    }

    fn drop_index(&self, line: usize, names: &[ObjectName], cascade: bool, if_exists: bool) -> Outcome {
        if cascade {
            return Outcome::StaysUnsafe("CASCADE and CONCURRENTLY exclude each other".into());
        }
        let mut out = Vec::new();
        for name in names {
            let parts = name_parts(name, Dialect::Postgres);
            let wanted = parts.last().map(String::as_str).unwrap_or_default();
            let owner = self
                .schema
                .tables
                .iter()
                .find(|table| table.indexes.iter().any(|index| index.name == wanted));
            let partitioned = owner.and_then(|table| table.partition.as_ref());
            if partitioned.is_some_and(|partition| partition.key.is_some()) {
                return Outcome::StaysUnsafe(
                    "an index of a partitioned table cannot be dropped concurrently; the lock is short, and waits for \
                     whoever uses the table"
                        .into(),
                );
            }
            let exists = if if_exists { "IF EXISTS " } else { "" };
            out.push(Sql::new(line, format!("DROP INDEX CONCURRENTLY {exists}{name}")));
        }
        Outcome::Becomes(out, "nobody waits for it".into())
    }

    fn alter_table(&mut self, line: usize, alter: &AlterTable) -> Outcome {
        if self.is_new(&alter.name) {
            return Outcome::Stays;
        }
        let (mut out, mut notes, mut changed, mut refused) = (Vec::new(), Vec::new(), false, Vec::new());
        for operation in &alter.operations {
            match self.alter_operation(line, alter, operation) {
                Outcome::Stays => out.push(Sql::new(line, alter_one(alter, operation))),
                Outcome::StaysUnsafe(why) => {
                    refused.push(why);
                    out.push(Sql::new(line, alter_one(alter, operation)));
                }
                Outcome::Becomes(list, note) => {
                    changed = true;
                    out.extend(list);
                    if !note.is_empty() && !notes.contains(&note) {
                        notes.push(note);
                    }
                }
            }
        }
        if changed {
            notes.extend(refused);
            return Outcome::Becomes(out, notes.join("; "));
        }
        if refused.is_empty() { Outcome::Stays } else { Outcome::StaysUnsafe(refused.join("; ")) }
    }

    fn alter_operation(
        &mut self,
        line: usize,
        alter: &AlterTable,
        operation: &AlterTableOperation,
    ) -> Outcome {
        let table = name_parts(&alter.name, Dialect::Postgres).pop().unwrap_or_default();
        match operation {
            AlterTableOperation::AddConstraint { constraint, not_valid: false } => {
                self.add_constraint(line, alter, &table, constraint)
            }
            AlterTableOperation::AddColumn { column_def, if_not_exists, .. } => {
                self.add_column(line, alter, &table, column_def, *if_not_exists)
            }
            AlterTableOperation::AlterColumn { column_name, op: AlterColumnOperation::SetNotNull } => {
                match self.column(&alter.name, column_name) {
                    Some(column) if !column.nullable => Outcome::Stays,
                    _ if self.checked_not_null(&alter.name, column_name) => Outcome::Stays,
                    _ => Outcome::Becomes(
                        not_null(line, alter, column_name),
                        "the scan for NULLs runs while others read and write".into(),
                    ),
                }
            }
            AlterTableOperation::AlterColumn {
                column_name,
                op: AlterColumnOperation::SetDataType { data_type, using, .. },
            } => {
                let column = self.column(&alter.name, column_name);
                let to = TypeName::read(&data_type.to_string());
                let change = column.map(|column| type_change(&TypeName::read(&column.native_type), &to, false));
                if using.is_none() && matches!(change, Some(TypeChange::Same | TypeChange::Catalog)) {
                    return Outcome::Stays;
                }
                Outcome::StaysUnsafe(type_recipe(&alter.name, column_name, &data_type.to_string(), using.as_ref()))
            }
            AlterTableOperation::DropColumn { .. } => Outcome::StaysUnsafe(
                "removes a column with its values; code that was released before must no longer name it".into(),
            ),
            AlterTableOperation::RenameColumn { .. } | AlterTableOperation::RenameTable { .. } => Outcome::StaysUnsafe(
                "code that was released before uses the old name: add the new one beside it, write both, switch the \
                 code, remove the old one later"
                    .into(),
            ),
            _ => Outcome::Stays,
        }
    }

    /// A validated check says that the column holds no NULL; the server then does not look.
    fn checked_not_null(&self, table: &ObjectName, column: &Ident) -> bool {
        let wanted = [
            format!("(({} IS NOT NULL))", quote(&fold(column))),
            format!("({} IS NOT NULL)", quote(&fold(column))),
            format!("{} IS NOT NULL", quote(&fold(column))),
        ];
        self.table(table).is_some_and(|table| {
            table.checks.iter().any(|check| {
                let expression = check.expression.trim_start_matches("CHECK ").to_owned();
                check.validated && wanted.contains(&expression)
            })
        })
    }

    fn add_constraint(
        &mut self,
        line: usize,
        alter: &AlterTable,
        table: &str,
        constraint: &TableConstraint,
    ) -> Outcome {
        let head = alter_head(alter);
        let partitioned = self.partitions(&alter.name).is_some();
        let mut constraint = constraint.clone();
        let name = match &mut constraint {
            TableConstraint::ForeignKey(key) => {
                if partitioned {
                    return Outcome::StaysUnsafe(
                        "a foreign key of a partitioned table cannot be NOT VALID before PostgreSQL 18: add it to each \
                         partition first, NOT VALID and validated, then to the table"
                            .into(),
                    );
                }
                let columns: Vec<String> = key.columns.iter().map(fold).collect();
                if key.name.is_none() {
                    key.name = Some(ident(&self.free_name(table, &columns.join("_"), "fkey")));
                }
                key.name.clone()
            }
            TableConstraint::Check(check) => {
                if check.name.is_none() {
                    let columns = columns_of(&check.expr);
                    let column = if columns.len() == 1 { columns[0].as_str() } else { "" };
                    check.name = Some(ident(&self.free_name(table, column, "check")));
                }
                check.name.clone()
            }
            TableConstraint::Unique(unique) => {
                let plain = unique.index_options.is_empty()
                    && unique.characteristics.is_none()
                    && unique.nulls_distinct == NullsDistinctOption::None
                    && unique.index_type.is_none();
                let columns: Vec<String> = unique.columns.iter().map(ToString::to_string).collect();
                let names: Vec<String> =
                    unique.columns.iter().map(|column| plain_name(&column.column.expr)).collect();
                let name = unique.name.clone();
                return self.unique(
                    line,
                    alter,
                    table,
                    name,
                    &columns,
                    &names,
                    "UNIQUE",
                    plain && !partitioned,
                );
            }
            TableConstraint::PrimaryKey(key) => {
                let plain =
                    key.index_options.is_empty() && key.characteristics.is_none() && key.index_type.is_none();
                let columns: Vec<String> = key.columns.iter().map(ToString::to_string).collect();
                let names: Vec<String> =
                    key.columns.iter().map(|column| plain_name(&column.column.expr)).collect();
                let name = key.name.clone();
                return self.unique(
                    line,
                    alter,
                    table,
                    name,
                    &columns,
                    &names,
                    "PRIMARY KEY",
                    plain && !partitioned,
                );
            }
            TableConstraint::PrimaryKeyUsingIndex(_) | TableConstraint::UniqueUsingIndex(_) => {
                return Outcome::Stays;
            }
            _ => {
                return Outcome::StaysUnsafe(
                    "this constraint has no form that is checked later; it scans the table while nobody can use it"
                        .into(),
                );
            }
        };
        let name = name.map(|name| name.to_string()).unwrap_or_default();
        Outcome::Becomes(
            vec![
                Sql::new(line, format!("{head} ADD {constraint} NOT VALID")),
                Sql::new(line, format!("{head} VALIDATE CONSTRAINT {name}")),
            ],
            "rows that are there are looked at in a transaction of its own, while others read and write"
                .into(),
        )
    }

    #[allow(clippy::too_many_arguments, reason = "two kinds of constraint that differ in a word")]
    fn unique(
        &mut self,
        line: usize,
        alter: &AlterTable,
        table: &str,
        name: Option<Ident>,
        columns: &[String],
        names: &[String],
        kind: &str,
        can: bool,
    ) -> Outcome {
        if !can {
            return Outcome::StaysUnsafe(format!(
                "{kind} on a partitioned table, or with options, cannot be added by an index that was built before"
            ));
        }
        let name = match name {
            Some(name) => name,
            None if kind == "UNIQUE" => ident(&self.free_name(table, &names.join("_"), "key")),
            None => ident(&self.free_name(table, "", "pkey")),
        };
        let head = alter_head(alter);
        let mut out = Vec::new();
        if kind == "PRIMARY KEY" {
            for column in names {
                let column = ident(column);
                let known = self.column(&alter.name, &column);
                if known.is_none_or(|column| column.nullable) {
                    out.extend(not_null(line, alter, &column));
                }
            }
        }
        out.push(Sql::new(
            line,
            format!("CREATE UNIQUE INDEX CONCURRENTLY {name} ON {} ({})", alter.name, columns.join(", ")),
        ));
        out.push(Sql::new(line, format!("{head} ADD CONSTRAINT {name} {kind} USING INDEX {name}")));
        Outcome::Becomes(
            out,
            "the index is built while others write; the constraint then only takes it over".into(),
        )
    }

    fn add_column(
        &mut self,
        line: usize,
        alter: &AlterTable,
        table: &str,
        column: &ColumnDef,
        if_not_exists: bool,
    ) -> Outcome {
        let has =
            |test: &dyn Fn(&ColumnOption) -> bool| column.options.iter().any(|option| test(&option.option));
        if if_not_exists && self.column(&alter.name, &column.name).is_some() {
            return Outcome::Stays;
        }
        if required_without_default(column) {
            return Outcome::StaysUnsafe(
                "NOT NULL without a default fails as soon as the table has rows: give it a default".into(),
            );
        }
        let default = column.options.iter().find_map(|option| match &option.option {
            ColumnOption::Default(value) => Some(value.clone()),
            _ => None,
        });
        let varies = default
            .as_ref()
            .is_some_and(|value| functions(value).iter().any(|name| self.volatile.contains(name)));
        let serial = is_serial(column);
        if rewriting_column(column).is_some() && default.is_none() && !serial {
            return Outcome::StaysUnsafe(format!(
                "an identity or stored generated column writes the table anew while nobody can use it: add `{0}` as a plain \
                 column, fill it in batches and keep it by a trigger, or compute it in a view",
                column.name
            ));
        }
        if has(&|option| matches!(option, ColumnOption::PrimaryKey(_))) {
            return Outcome::StaysUnsafe(
                "a primary key cannot be added with its column: add the column, fill it, then add the key"
                    .into(),
            );
        }
        let apart = has(&|option| {
            matches!(option, ColumnOption::Unique(_) | ColumnOption::Check(_) | ColumnOption::ForeignKey(_))
        });
        if !varies && !serial && !apart {
            return Outcome::Stays;
        }
        let key = self.batch_key(&alter.name, None);
        if (varies || serial) && key.is_none() {
            return Outcome::StaysUnsafe(format!(
                "the default differs by row and `{}` has no primary key to fill it by in batches",
                alter.name
            ));
        }
        self.add_column_apart(line, alter, table, column, default, varies, serial, key)
    }

    #[allow(clippy::too_many_arguments, reason = "what `add_column` found out")]
    fn add_column_apart(
        &mut self,
        line: usize,
        alter: &AlterTable,
        table: &str,
        column: &ColumnDef,
        default: Option<Expr>,
        varies: bool,
        serial: bool,
        key: Option<Batched>,
    ) -> Outcome {
        let head = alter_head(alter);
        let name = &column.name;
        let (mut out, mut constraints, mut required) = (Vec::new(), Vec::new(), serial);
        let mut plain = column.clone();
        plain.options.retain(|option| match &option.option {
            ColumnOption::Unique(_) | ColumnOption::Check(_) | ColumnOption::ForeignKey(_) => {
                constraints.push(option.clone());
                false
            }
            ColumnOption::NotNull if varies || serial => {
                required = true;
                false
            }
            ColumnOption::Default(_) => !varies,
            _ => true,
        });
        let mut notes = Vec::new();
        let mut value = default.map(|value| value.to_string());
        let mut data_type = plain.data_type.to_string();
        let mut sequence = None;
        if serial {
            let integer = match data_type.to_ascii_lowercase().as_str() {
                "bigserial" | "serial8" => "bigint",
                "smallserial" | "serial2" => "smallint",
                _ => "integer",
            };
            integer.clone_into(&mut data_type);
            let made = self.free_name(table, &fold(name), "seq");
            let namespace = partitions_namespace(&alter.name, self.schema);
            let quoted = if namespace == "public" {
                quote(&made)
            } else {
                format!("{}.{}", quote(&namespace), quote(&made))
            };
            out.push(Sql::new(line, format!("CREATE SEQUENCE {quoted} AS {integer}")));
            value = Some(format!("nextval('{}'::regclass)", quoted.replace('\'', "''")));
            sequence = Some(quoted);
        }
        let options: Vec<String> = plain.options.iter().map(|option| format!(" {option}")).collect();
        let options = options.concat();
        out.push(Sql::new(line, format!("{head} ADD COLUMN {name} {data_type}{options}")));
        if let Some(sequence) = sequence {
            out.push(Sql::new(line, format!("ALTER SEQUENCE {sequence} OWNED BY {}.{name}", alter.name)));
        }
        if let (true, Some(value), Some(key)) = (varies || serial, value, key) {
            out.push(Sql::new(line, format!("{head} ALTER COLUMN {name} SET DEFAULT {value}")));
            out.push(Sql {
                line,
                text: format!("UPDATE {} SET {name} = DEFAULT WHERE {name} IS NULL AND {BATCH}", alter.name),
                batched: Some(key),
            });
            notes.push("rows that are there get their value in batches, new rows by the default".to_owned());
        }
        if required {
            out.extend(not_null(line, alter, name));
        }
        for option in constraints {
            let named = option.name.clone();
            let outcome = match option.option {
                ColumnOption::Unique(_) => self.unique(
                    line,
                    alter,
                    table,
                    named,
                    &[name.to_string()],
                    &[fold(name)],
                    "UNIQUE",
                    self.partitions(&alter.name).is_none(),
                ),
                ColumnOption::Check(mut check) => {
                    check.name = check.name.or(named);
                    if check.name.is_none() {
                        check.name = Some(ident(&self.free_name(table, &fold(name), "check")));
                    }
                    self.add_constraint(line, alter, table, &TableConstraint::Check(check))
                }
                ColumnOption::ForeignKey(mut key) => {
                    key.name = key.name.or(named);
                    key.columns = vec![name.clone()];
                    self.add_constraint(line, alter, table, &TableConstraint::ForeignKey(key))
                }
                _ => Outcome::Stays,
            };
            match outcome {
                Outcome::Becomes(list, note) => {
                    out.extend(list);
                    notes.push(note);
                }
                Outcome::StaysUnsafe(why) => return Outcome::StaysUnsafe(why),
                Outcome::Stays => {}
            }
        }
        notes.dedup();
        Outcome::Becomes(out, notes.join("; "))
    }

    /// The key by which a table's rows can be changed in batches: its primary key, named as the statement names the table.
    fn batch_key(&self, table: &ObjectName, alias: Option<&Ident>) -> Option<Batched> {
        let found = self.table(table)?;
        let named = |name: &str| found.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        // In SQLite a primary key may hold NULL, the number of a row never.
        let by_row = self.schema.dialect == Dialect::Sqlite
            && !found.options.iter().any(|option| option == "WITHOUT ROWID")
            && !named("rowid");
        let row = ["rowid".to_owned()];
        let key = if by_row { &row[..] } else { &found.primary_key.as_ref()?.columns };
        let prefix = alias
            .map_or_else(|| table.0.last().map(ToString::to_string).unwrap_or_default(), ToString::to_string);
        let columns = key.iter().map(|column| format!("{prefix}.{}", quote(column))).collect();
        let table = match alias {
            Some(alias) => format!("{table} AS {alias}"),
            None => table.to_string(),
        };
        Some(Batched { table, key: columns })
    }

    fn update(&mut self, line: usize, mut update: Update) -> Outcome {
        let TableFactor::Table { name, alias, .. } = &update.table.relation else { return Outcome::Stays };
        if self.is_new(name) {
            return Outcome::Stays;
        }
        let simple = update.from.is_none() && update.returning.is_none() && update.table.joins.is_empty();
        let Some(key) = self.batch_key(name, alias.as_ref().map(|alias| &alias.name)) else {
            return Outcome::StaysUnsafe(format!(
                "`{name}` has no primary key to cut the change into batches by; all rows stay locked until it ends"
            ));
        };
        let columns: Vec<String> = self
            .table(name)
            .and_then(|table| table.primary_key.as_ref())
            .map(|key| key.columns.clone())
            .unwrap_or_default();
        let set: Vec<String> =
            update.assignments.iter().map(|one| one.target.to_string().to_lowercase()).collect();
        if columns.iter().any(|column| set.iter().any(|set| set.trim_matches('"') == column)) {
            return Outcome::StaysUnsafe("it changes the key itself, so it cannot be cut by the key".into());
        }
        if let Some(why) = one_row(update.selection.as_ref(), &columns) {
            return why;
        }
        if !simple || reads_again(&Statement::Update(update.clone()), name) {
            return Outcome::StaysUnsafe(
                "it joins or reads the table that it changes, so batches could see each other's work".into(),
            );
        }
        update.selection = Some(with_range(update.selection.take()));
        let text = Statement::Update(update).to_string().replace(MARK, BATCH);
        Outcome::Becomes(
            vec![Sql { line, text, batched: Some(key) }],
            "in batches: half of the change may be visible for a while, and rows inserted meanwhile are not reached"
                .into(),
        )
    }

    fn delete(&mut self, line: usize, mut delete: Delete) -> Outcome {
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let [TableWithJoins { relation: TableFactor::Table { name, alias, .. }, joins }] = from.as_slice()
        else {
            return Outcome::Stays;
        };
        if self.is_new(name) {
            return Outcome::Stays;
        }
        let Some(key) = self.batch_key(name, alias.as_ref().map(|alias| &alias.name)) else {
            return Outcome::StaysUnsafe(format!(
                "`{name}` has no primary key to cut the change into batches by; all rows stay locked until it ends"
            ));
        };
        let columns: Vec<String> = self
            .table(name)
            .and_then(|table| table.primary_key.as_ref())
            .map(|key| key.columns.clone())
            .unwrap_or_default();
        if let Some(why) = one_row(delete.selection.as_ref(), &columns) {
            return why;
        }
        let simple = delete.using.is_none() && delete.returning.is_none() && joins.is_empty();
        if !simple || reads_again(&Statement::Delete(delete.clone()), name) {
            return Outcome::StaysUnsafe(
                "it joins or reads the table that it changes, so batches could see each other's work".into(),
            );
        }
        delete.selection = Some(with_range(delete.selection.take()));
        let text = Statement::Delete(delete).to_string().replace(MARK, BATCH);
        Outcome::Becomes(
            vec![Sql { line, text, batched: Some(key) }],
            "in batches: half of the change may be visible for a while, and rows inserted meanwhile are not reached"
                .into(),
        )
    }

    /// ATTACH PARTITION does not scan a table whose validated check says that its rows fit.
    fn attach_partition(
        &mut self,
        sql: &Sql,
        table: &crate::lint::operation::Name,
        partition: &crate::lint::operation::Name,
        bound: &str,
    ) -> Outcome {
        if self.new_tables.contains(&partition.name) {
            return Outcome::Stays;
        }
        let parts: Vec<String> = table.namespace.iter().chain([&table.name]).cloned().collect();
        let key = resolve(self.schema, &parts)
            .and_then(|table| table.partition.as_ref())
            .and_then(|one| one.key.clone());
        let Some(condition) = key.as_deref().and_then(|key| bound_condition(key, bound)) else {
            return Outcome::StaysUnsafe(
                "the bound cannot be written as a check, so the table is scanned while nobody can write it"
                    .into(),
            );
        };
        let check = quote(&server_name("steward", &partition.name, "bound"));
        let head = format!("ALTER TABLE {}", partition.quoted());
        Outcome::Becomes(
            vec![
                Sql::new(sql.line, format!("{head} ADD CONSTRAINT {check} CHECK ({condition}) NOT VALID")),
                Sql::new(sql.line, format!("{head} VALIDATE CONSTRAINT {check}")),
                Sql::new(sql.line, &sql.text),
                Sql::new(sql.line, format!("{head} DROP CONSTRAINT {check}")),
            ],
            "the scan for rows that do not fit runs before, while others read and write".into(),
        )
    }

    /// DETACH PARTITION … CONCURRENTLY leaves a check with the bound on the partition, unless one is there that says the
    /// same; so that both forms end alike, one with a name of ours is there, and goes again.
    ///
    /// Source: PostgreSQL manual, "ALTER TABLE", DETACH PARTITION.
    fn detach_partition(
        &self,
        sql: &Sql,
        table: &crate::lint::operation::Name,
        partition: &crate::lint::operation::Name,
    ) -> Outcome {
        let known = |name: &crate::lint::operation::Name| {
            let parts: Vec<String> = name.namespace.iter().chain([&name.name]).cloned().collect();
            resolve(self.schema, &parts)
        };
        let (Some(whole), Some(part)) = (known(table), known(partition)) else { return Outcome::Stays };
        let is_default = |other: &Table| {
            other.partition.as_ref().is_some_and(|one| {
                one.parent.as_ref() == Some(&whole.name) && one.bound.as_deref() == Some("DEFAULT")
            })
        };
        if self.schema.tables.iter().any(is_default) {
            // The server refuses it beside a default partition.
            return Outcome::Stays;
        }
        let key = whole.partition.as_ref().and_then(|one| one.key.as_deref());
        let bound = part.partition.as_ref().and_then(|one| one.bound.as_deref());
        let Some(condition) = key.zip(bound).and_then(|(key, bound)| bound_condition(key, bound)) else {
            return Outcome::Stays;
        };
        let check = quote(&server_name("steward", &partition.name, "bound"));
        let head = format!("ALTER TABLE {}", partition.quoted());
        Outcome::Becomes(
            vec![
                Sql::new(sql.line, format!("{head} ADD CONSTRAINT {check} CHECK ({condition}) NOT VALID")),
                Sql::new(sql.line, format!("{head} VALIDATE CONSTRAINT {check}")),
                Sql::new(
                    sql.line,
                    format!(
                        "ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY",
                        table.quoted(),
                        partition.quoted()
                    ),
                ),
                Sql::new(sql.line, format!("{head} DROP CONSTRAINT {check}")),
            ],
            "readers and writers of the other partitions go on; the check keeps the server from adding one of its own"
                .into(),
        )
    }

    fn reindex(&self, sql: &Sql, target: &Target) -> Outcome {
        let (object, owner) = match target {
            Target::Table(name) => {
                let parts: Vec<String> = name.namespace.iter().chain([&name.name]).cloned().collect();
                (format!("TABLE CONCURRENTLY {}", name.quoted()), resolve(self.schema, &parts))
            }
            Target::Index(name) => {
                let has = |table: &&Table| {
                    name.namespace.as_ref().is_none_or(|namespace| *namespace == table.name.namespace)
                        && table.indexes.iter().any(|index| index.name == name.name)
                };
                (format!("INDEX CONCURRENTLY {}", name.quoted()), self.schema.tables.iter().find(has))
            }
            Target::Schema(_) | Target::Database => {
                return Outcome::StaysUnsafe(
                    "builds index after index while writers of each table wait: rebuild them one by one, \
                     `steward index rebuild` does it without"
                        .into(),
                );
            }
        };
        let excludes =
            |table: &Table| table.indexes.iter().any(|index| index.backs_constraint && !index.unique);
        if owner.is_some_and(excludes) {
            return Outcome::StaysUnsafe(
                "the index of an exclusion constraint cannot be rebuilt concurrently; writers wait meanwhile"
                    .into(),
            );
        }
        // Such as `(TABLESPACE fast)`.
        let options = sql.text.find('(').filter(|at| sql.text[..*at].split_whitespace().count() == 1);
        let options = options.and_then(|at| Some(sql.text[at..].split_once(')')?.0.to_owned() + ") "));
        Outcome::Becomes(
            vec![Sql::new(sql.line, format!("REINDEX {}{object}", options.unwrap_or_default()))],
            "writers go on while it is built anew".into(),
        )
    }

    /// SQLite has one writer and no weaker locks: only the change of many rows gains from being cut.
    fn statement_sqlite(&mut self, sql: &Sql) -> Outcome {
        let outcome = match parse(&sql.text, Dialect::Sqlite) {
            Some(Statement::Update(update)) => self.update(sql.line, update),
            Some(Statement::Delete(delete)) => self.delete(sql.line, delete),
            _ => return Outcome::Stays,
        };
        match outcome {
            // Batches by several columns or a text are fine, by what cannot be bound again they are not.
            Outcome::Becomes(list, _) => {
                Outcome::Becomes(list, "in batches, so that others can write in between".into())
            }
            other => other,
        }
    }
}

/// A view that is refreshed while it is read: only who refreshes it too waits.
fn is_refresh(sql: &Sql) -> bool {
    let operations = read_statement(sql.line, 0, sql.text.clone()).operations;
    matches!(operations.as_slice(), [Operation::Refresh { concurrently: true, .. }])
}

fn alter_one(alter: &AlterTable, operation: &AlterTableOperation) -> String {
    format!("{} {operation}", alter_head(alter))
}

fn alter_head(alter: &AlterTable) -> String {
    let exists = if alter.if_exists { "IF EXISTS " } else { "" };
    let only = if alter.only { "ONLY " } else { "" };
    format!("ALTER TABLE {exists}{only}{}", alter.name)
}

/// NOT NULL by way of a check that is validated first.
fn not_null(line: usize, alter: &AlterTable, column: &Ident) -> Vec<Sql> {
    let head = alter_head(alter);
    let check = quote(&server_name("steward", &fold(column), "not_null"));
    vec![
        Sql::new(line, format!("{head} ADD CONSTRAINT {check} CHECK ({column} IS NOT NULL) NOT VALID")),
        Sql::new(line, format!("{head} VALIDATE CONSTRAINT {check}")),
        Sql::new(line, format!("{head} ALTER COLUMN {column} SET NOT NULL")),
        Sql::new(line, format!("{head} DROP CONSTRAINT {check}")),
    ]
}

/// The condition together with the range of a batch.
fn with_range(selection: Option<Expr>) -> Expr {
    let mark = Expr::Identifier(Ident::new(MARK));
    match selection {
        None => mark,
        Some(condition) => Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(condition))),
            op: sqlparser::ast::BinaryOperator::And,
            right: Box::new(mark),
        },
    }
}

/// `Stays` when the condition compares the whole key with constants.
fn one_row(selection: Option<&Expr>, key: &[String]) -> Option<Outcome> {
    let mut compared = BTreeSet::new();
    let mut stack = vec![selection?];
    while let Some(expression) = stack.pop() {
        match expression {
            Expr::Nested(inner) => stack.push(inner),
            Expr::BinaryOp { left, op: sqlparser::ast::BinaryOperator::And, right } => {
                stack.extend([&**left, right]);
            }
            Expr::BinaryOp { left, op: sqlparser::ast::BinaryOperator::Eq, right } => {
                for (column, value) in [(left, right), (right, left)] {
                    if let (Expr::Identifier(column), Expr::Value(_)) = (&**column, &**value) {
                        compared.insert(fold(column));
                    }
                }
            }
            Expr::InList { expr, list, negated: false } => {
                if let (Expr::Identifier(column), true) =
                    (&**expr, list.iter().all(|value| matches!(value, Expr::Value(_))))
                {
                    compared.insert(fold(column));
                }
            }
            _ => {}
        }
    }
    key.iter().all(|column| compared.contains(column)).then_some(Outcome::Stays)
}

/// Whether a statement names its table more than once.
fn reads_again(statement: &Statement, table: &ObjectName) -> bool {
    let mut times = 0;
    let wanted = name_parts(table, Dialect::Postgres);
    walked(visit_relations(statement, |name| {
        if name_parts(name, Dialect::Postgres).last() == wanted.last() {
            times += 1;
        }
        ControlFlow::<()>::Continue(())
    }));
    times > 1
}

/// Distinct columns that an expression names, in order.
fn columns_of(expression: &Expr) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    walked(visit_expressions(expression, |expression| {
        let name = match expression {
            Expr::Identifier(ident) => Some(fold(ident)),
            Expr::CompoundIdentifier(parts) => parts.last().map(fold),
            _ => None,
        };
        if let Some(name) = name
            && !columns.contains(&name)
        {
            columns.push(name);
        }
        ControlFlow::<()>::Continue(())
    }));
    columns
}

/// The bound of a partition as a condition on one plain column, if it is that simple.
fn bound_condition(key: &str, bound: &str) -> Option<String> {
    let (kind, rest) = key.trim().split_once('(')?;
    let column = rest.trim().strip_suffix(')')?.trim();
    let plain = column.chars().all(|c| c.is_alphanumeric() || c == '_')
        || (column.starts_with('"') && column.ends_with('"'));
    if !plain {
        return None;
    }
    let bound = bound.trim();
    let upper = bound.to_ascii_uppercase();
    let inside = |text: &str| {
        let text = text.trim();
        text.strip_prefix('(')?.strip_suffix(')').map(|text| text.trim().to_owned())
    };
    let values = upper.find("FOR VALUES").map_or(0, |at| at + "FOR VALUES".len());
    let (bound, upper) = (bound[values..].trim(), upper[values..].trim());
    match kind.trim().to_ascii_uppercase().as_str() {
        "RANGE" => {
            let to = upper.find(" TO ")?;
            let from = inside(bound[..to].trim().get("FROM".len()..)?)?;
            let upto = inside(&bound[to + " TO ".len()..])?;
            let mut conditions = vec![format!("{column} IS NOT NULL")];
            if !from.eq_ignore_ascii_case("MINVALUE") {
                conditions.push(format!("{column} >= {from}"));
            }
            if !upto.eq_ignore_ascii_case("MAXVALUE") {
                conditions.push(format!("{column} < {upto}"));
            }
            Some(conditions.join(" AND "))
        }
        "LIST" => {
            let list = inside(bound.get("IN".len()..).filter(|_| upper.starts_with("IN"))?)?;
            let null = list.split(',').any(|value| value.trim().eq_ignore_ascii_case("NULL"));
            (!null).then(|| format!("{column} IS NOT NULL AND {column} IN ({list})"))
        }
        _ => None,
    }
}

/// How people change a type without a rewrite under a lock.
fn type_recipe(table: &ObjectName, column: &Ident, to: &str, using: Option<&Expr>) -> String {
    let value = using.map_or_else(|| column.to_string(), ToString::to_string);
    let new = ident(&format!("{}_new", fold(column)));
    format!(
        "writes `{table}` anew while nobody can use it, and code must change with it, so it is not rewritten; expand and \
         contract by hand: 1. ADD COLUMN {new} {to}; 2. a BEFORE INSERT OR UPDATE trigger that sets NEW.{new} from \
         {value}; 3. `-- steward: batched {table} by …` and UPDATE {table} SET {new} = {value} WHERE {new} IS DISTINCT FROM \
         {value} AND {BATCH_WORD}; 4. let the code read {new}; 5. drop the trigger and {column}, rename {new}",
        BATCH_WORD = "the batch's range"
    )
}

/// The name as the server folds it.
fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The identifier, quoted where it must be.
fn ident(name: &str) -> Ident {
    if quote(name) == name { Ident::new(name) } else { Ident::with_quote('"', name) }
}

fn plain_name(expression: &Expr) -> String {
    match expression {
        Expr::Identifier(ident) => fold(ident),
        other => other.to_string(),
    }
}

fn quoted_table(table: &Table) -> String {
    match table.name.namespace.as_str() {
        "" | "public" => quote(&table.name.name),
        namespace => format!("{}.{}", quote(namespace), quote(&table.name.name)),
    }
}

/// The namespace that a table lies in.
fn partitions_namespace(name: &ObjectName, schema: &Schema) -> String {
    let parts = name_parts(name, Dialect::Postgres);
    match (parts.as_slice(), resolve(schema, &parts)) {
        ([namespace, _], _) => namespace.clone(),
        (_, Some(table)) => table.name.namespace.clone(),
        _ => "public".to_owned(),
    }
}

/// The name that the server makes of table, columns and kind: the longer of the two first parts is cut until it fits.
pub(super) fn server_name(table: &str, columns: &str, suffix: &str) -> String {
    let (mut table, mut columns) = (table.to_owned(), columns.to_owned());
    let separators = if columns.is_empty() { 1 } else { 2 };
    while table.len() + columns.len() + suffix.len() + separators > NAME_BYTES_MAX {
        if table.len() > columns.len() {
            table.pop();
        } else {
            columns.pop();
        }
    }
    if columns.is_empty() { format!("{table}_{suffix}") } else { format!("{table}_{columns}_{suffix}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_server_would_give() {
        for (table, columns, suffix, expected) in [
            ("orders", "customer_id", "idx", "orders_customer_id_idx"),
            ("orders", "", "pkey", "orders_pkey"),
        ] {
            assert_eq!(server_name(table, columns, suffix), expected);
        }
        let long = server_name(&"t".repeat(50), &"c".repeat(50), "fkey");
        assert_eq!(long, format!("{}_{}_fkey", "t".repeat(29), "c".repeat(28)));
        assert_eq!(long.len(), NAME_BYTES_MAX);
    }

    #[test]
    fn bounds_are_conditions_on_one_column() {
        for (key, bound, expected) in [
            (
                "RANGE (day)",
                "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
                Some("day IS NOT NULL AND day >= '2026-01-01' AND day < '2026-02-01'"),
            ),
            ("RANGE (day)", "FROM (MINVALUE) TO (10)", Some("day IS NOT NULL AND day < 10")),
            (
                "LIST (region)",
                "FOR VALUES IN ('eu', 'us')",
                Some("region IS NOT NULL AND region IN ('eu', 'us')"),
            ),
            ("LIST (region)", "FOR VALUES IN (NULL)", None),
            ("HASH (id)", "FOR VALUES WITH (MODULUS 4, REMAINDER 0)", None),
            ("RANGE (a, b)", "FOR VALUES FROM (1, 2) TO (3, 4)", None),
            ("RANGE (lower(a))", "FOR VALUES FROM ('a') TO ('b')", None),
        ] {
            assert_eq!(bound_condition(key, bound).as_deref(), expected, "{key} {bound}");
        }
    }
}
