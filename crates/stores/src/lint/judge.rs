//! What a statement locks, reads and writes, by what it does and what the catalog says.
//!
//! The class of a statement follows from two things: the strongest lock that the transaction holds on relations that
//! others use, and whether this statement works for long. Both were measured for each case in `tests/lint`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use contract::Severity;
use serde::Serialize;

use super::lock::{Blocking, Lock};
use super::loss::{Grade, losses, unjudged_call};
use super::operation::{
    Demand, Kind, Name, NewConstraint, Operation, Reach, Script, Statement, Target, TransactionStep, TypeName,
};
use super::rules::rule_of;
use super::world::{
    ColumnState, ConstraintKind, ConstraintState, IndexState, Relation, Shape, Weight, World, key,
};
use crate::text;

/// Work that takes as long as the relation is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Reads it whole.
    Scan,
    /// Builds an index over it.
    IndexBuild,
    /// Writes it anew.
    Rewrite,
    /// Changes many of its rows.
    RowsChanged,
}

/// What the linter says of a statement beside its class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Code of the rule.
    pub rule: &'static str,
    /// How much it matters here.
    pub severity: Severity,
    /// What is the matter, with its numbers.
    pub message: String,
    /// What it is about.
    pub object: String,
    /// What to do instead: SQL or a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// Why the author allows it, when a remark in the file does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

/// A lock on a relation that was there before the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RelationLock {
    /// The relation.
    pub relation: String,
    /// Its strongest lock.
    pub lock: Lock,
}

/// What the linter says of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Where it begins, from 1.
    pub line: usize,
    /// Its bytes in the file.
    pub range: Range<usize>,
    /// Its first words.
    pub statement: String,
    /// What it does to others.
    pub blocking: Blocking,
    /// Strongest lock on each relation that was there before, sorted by name.
    pub locks: Vec<RelationLock>,
    /// Relations it reads or writes whole, and how.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub work: Vec<(String, Work)>,
    /// What is the matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Remark>,
    /// What was assumed because nobody could ask.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
}

/// What one statement does, gathered from its operations.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) locks: BTreeMap<String, Lock>,
    /// Strongest lock on indexes alone: readers plan with them.
    index_lock: Option<Lock>,
    work: Vec<(String, Work, Weight)>,
    pub(super) remarks: Vec<Remark>,
    pub(super) assumed: BTreeSet<String>,
    pub(super) fails: Option<String>,
    pub(super) unjudged: bool,
    /// SQL that does the same without keeping others waiting.
    instead: Option<String>,
}

impl Effects {
    pub(super) fn lock(&mut self, relation: &str, lock: Lock) {
        let held = self.locks.entry(relation.to_owned()).or_insert(lock);
        *held = (*held).max(lock);
    }

    pub(super) fn index_lock(&mut self, lock: Lock) {
        self.index_lock = self.index_lock.max(Some(lock));
    }

    pub(super) fn work(&mut self, relation: &str, work: Work, weight: Weight) {
        match self.work.iter_mut().find(|(known, _, _)| known == relation) {
            Some(known) => known.1 = known.1.max(work),
            None => self.work.push((relation.to_owned(), work, weight)),
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.fails.get_or_insert(reason);
    }

    pub(super) fn instead(&mut self, sql: impl Into<String>) {
        self.instead.get_or_insert(sql.into());
    }

    pub(super) fn remark(
        &mut self,
        rule: &'static str,
        severity: Severity,
        object: &str,
        message: String,
    ) -> &mut Remark {
        self.remarks.push(Remark {
            rule,
            severity,
            message,
            object: object.to_owned(),
            instead: rule_of(rule).map(|rule| rule.instead.to_owned()),
            allowed: None,
        });
        self.remarks.last_mut().expect("one was pushed")
    }

    pub(super) fn breaks(&mut self, object: &str, message: String) {
        self.remark("old_code_breaks", Severity::Warning, object, message);
    }

    /// What breaks only those who write what no longer fits.
    pub(super) fn may_break(&mut self, object: &str, message: String) {
        self.remark("old_code_breaks", Severity::Info, object, message);
    }

    /// Nobody can say what it does.
    pub(super) fn unjudged(&mut self, rule: &'static str, object: &str, message: String) {
        self.unjudged = true;
        self.remark(rule, Severity::Critical, object, message);
    }

    pub(super) fn no_effect(&mut self, object: &str, message: String) {
        self.remark("no_effect", Severity::Info, object, message);
    }
}

/// Judges the statements of a file in order.
pub(crate) struct Judge<'a> {
    pub(super) world: &'a mut World,
    /// Locks that the open transaction holds; `None` outside of one.
    pub(super) held: Option<BTreeMap<String, Lock>>,
    held_on_indexes: Option<Lock>,
    /// Tables locked against everybody in the open transaction.
    exclusive: BTreeSet<String>,
    /// Constraints added NOT VALID in the open transaction.
    pub(super) unchecked: BTreeSet<(String, String)>,
    /// Enum values added in the open transaction, with types made in it.
    pub(super) new_values: Vec<String>,
    new_types: BTreeSet<String>,
}

/// Judges a file: what each statement does, and what the file as a whole.
pub(crate) fn judge(script: &Script, world: &mut World) -> Vec<Verdict> {
    let own_control = script.statements.iter().any(|statement| {
        matches!(
            statement.operations[..],
            [Operation::Transaction { step: TransactionStep::Begin | TransactionStep::Commit }]
        )
    });
    let mut judge = Judge::new(world);
    if script.transaction && !own_control {
        judge.begin();
    }
    let mut verdicts: Vec<Verdict> =
        script.statements.iter().map(|statement| judge.statement(statement)).collect();
    verdicts.extend(broken(script));
    allow(script, &mut verdicts);
    verdicts
}

/// Takes in what files that ran before have made.
pub(crate) fn replay(script: &Script, world: &mut World) {
    let mut judge = Judge::new(world);
    for statement in &script.statements {
        judge.statement(statement);
    }
    world.settle();
}

/// The verdict about the rest of a file that cannot be cut into statements.
pub(super) fn broken(script: &Script) -> Option<Verdict> {
    script.broken.as_ref().map(|(line, message)| unreadable(*line, message))
}

fn unreadable(line: usize, message: &str) -> Verdict {
    let mut effects = Effects::default();
    effects.remark(
        "unknown_statement",
        Severity::Critical,
        "",
        format!("the file cannot be read from here on ({message}): it may block"),
    );
    Verdict {
        line,
        range: 0..0,
        statement: String::new(),
        blocking: Blocking::Unjudged,
        locks: Vec::new(),
        work: Vec::new(),
        remarks: effects.remarks,
        assumed: Vec::new(),
    }
}

/// Marks the remarks that the author allows: those of the statement that follows the allowance.
pub(super) fn allow(script: &Script, verdicts: &mut [Verdict]) {
    for allowance in &script.allowances {
        let next = script.statements.iter().position(|statement| statement.line > allowance.line);
        let Some(verdict) = next.and_then(|at| verdicts.get_mut(at)) else { continue };
        for remark in &mut verdict.remarks {
            if allowance.rule == remark.rule || allowance.rule == "all" {
                remark.allowed = Some(allowance.reason.clone());
            }
        }
    }
}

/// The statement with a word behind another: `CREATE INDEX` becomes `CREATE INDEX CONCURRENTLY`.
pub(super) fn with_word(sql: &str, after: &str, word: &str) -> String {
    let upper = sql.to_ascii_uppercase();
    match upper.find(after) {
        Some(at) => {
            let end = at + after.len();
            format!("{} {word}{}", &sql[..end], &sql[end..])
        }
        None => sql.to_owned(),
    }
}

pub(super) fn one_line(sql: &str, chars_max: usize) -> String {
    let words = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    text::plain(&words, chars_max)
}

#[allow(clippy::single_match_else, reason = "both arms are of one weight")]
impl<'a> Judge<'a> {
    fn new(world: &'a mut World) -> Self {
        Self {
            world,
            held: None,
            held_on_indexes: None,
            exclusive: BTreeSet::new(),
            unchecked: BTreeSet::new(),
            new_values: Vec::new(),
            new_types: BTreeSet::new(),
        }
    }

    fn begin(&mut self) {
        self.held = Some(BTreeMap::new());
        self.end_of_locks();
    }

    fn end(&mut self) {
        self.held = None;
        self.end_of_locks();
    }

    fn end_of_locks(&mut self) {
        self.held_on_indexes = None;
        self.exclusive.clear();
        self.unchecked.clear();
        self.new_values.clear();
        self.new_types.clear();
    }

    fn statement(&mut self, statement: &Statement) -> Verdict {
        let mut effects = Effects::default();
        let losses = losses(statement, &*self.world);
        for operation in &statement.operations {
            if effects.fails.is_some() {
                break;
            }
            self.operation(operation, statement, &mut effects);
        }
        if effects.fails.is_none() {
            self.reads(statement, &mut effects);
        }
        if effects.fails.is_none() {
            for loss in losses.into_iter().filter(|loss| loss.grade != Grade::Unknown) {
                effects.remark("data_loss", Severity::Warning, &loss.object, loss.message);
            }
        }
        self.conclude(statement, effects)
    }

    /// Relations read by queries, and functions that they call.
    fn reads(&mut self, statement: &Statement, effects: &mut Effects) {
        let defines_only = statement.operations.iter().all(defines);
        for name in &statement.reads {
            let relation = key(name);
            let known = self.world.relation(&relation);
            match known {
                Some(found) => {
                    effects.lock(&relation, Lock::AccessShare);
                    if !defines_only {
                        effects.work(&relation, Work::Scan, found.weight());
                    }
                }
                None if !is_of_the_server(name) => {
                    effects.fail(format!("relation `{relation}` does not exist"));
                }
                None => {}
            }
        }
        if let Some(function) = unjudged_call(statement, &*self.world) {
            effects.unjudged(
                "unjudged_code",
                &function,
                format!("the function `{function}` is called, and nobody can say what it does"),
            );
        }
    }

    /// The class, from the locks that are held and the work that is done.
    fn conclude(&mut self, statement: &Statement, mut effects: Effects) -> Verdict {
        let world = &*self.world;
        let mut locks = effects.locks.clone();
        locks.retain(|relation, _| {
            // What the file made itself is in nobody's way.
            world.relation(relation).is_none_or(|found| !found.new)
        });
        let before = self.held.as_ref().and_then(|held| held.values().max().copied());
        let before = before.max(self.held_on_indexes);
        let here = locks.values().max().copied().max(effects.index_lock);
        let strongest = before.max(here);
        let long: Vec<&(String, Work, Weight)> =
            effects.work.iter().filter(|(_, _, weight)| weight.is_long()).collect();
        let heaviest = long.iter().max_by_key(|(_, work, _)| *work).copied().cloned();
        let rows_changed =
            long.iter().find(|(_, work, _)| *work == Work::RowsChanged).map(|found| (*found).clone());
        let mut blocking = match (strongest, &heaviest) {
            (Some(lock), Some(_)) if lock.blocks() > Blocking::None => lock.blocks(),
            _ if rows_changed.is_some() => Blocking::Writes,
            _ if here.is_some_and(|lock| lock.blocks() > Blocking::None) => Blocking::Brief,
            _ => Blocking::None,
        };
        if let Some((relation, work, weight)) = &heaviest
            && let Some(lock) = strongest
            && lock.blocks() > Blocking::None
        {
            let of = match weight {
                Weight::Big(rows) => text::count(*rows, "row"),
                _ => "an unknown number of rows".into(),
            };
            let who =
                if lock.blocks() == Blocking::All { "readers and writers wait" } else { "writers wait" };
            let instead = effects.instead.clone();
            if here.is_some_and(|here| here.blocks() >= lock.blocks()) {
                let (rule, what) = match work {
                    Work::Rewrite => ("rewrite", "is written anew"),
                    Work::IndexBuild if lock.blocks() == Blocking::All => {
                        ("index_blocks_all", "gets an index")
                    }
                    Work::IndexBuild => ("index_blocks_writes", "gets an index"),
                    Work::Scan if lock.blocks() == Blocking::All => ("scan_blocks_all", "is read whole"),
                    Work::Scan => ("scan_blocks_writes", "is read whole"),
                    Work::RowsChanged => ("many_rows_changed", "is changed"),
                };
                let remark = effects.remark(
                    rule,
                    Severity::Critical,
                    relation,
                    format!("`{relation}` ({of}) {what} under {lock}: {who}"),
                );
                if instead.is_some() {
                    remark.instead = instead;
                }
            } else {
                let validates = statement.operations.iter().any(|operation| {
                    matches!(operation, Operation::ValidateConstraint { table, constraint }
                        if self.unchecked.contains(&(key(table), constraint.clone())))
                });
                let rule = if validates { "validated_at_once" } else { "lock_held_during_work" };
                effects.remark(
                    rule,
                    Severity::Critical,
                    relation,
                    format!(
                        "an earlier statement of the transaction holds {lock} while `{relation}` ({of}) is worked on: {who}"
                    ),
                );
            }
        }
        if let Some((relation, _, weight)) = rows_changed {
            let of = match weight {
                Weight::Big(rows) => text::count(rows, "row"),
                _ => "an unknown number of rows".into(),
            };
            if !effects.remarks.iter().any(|remark| remark.rule == "many_rows_changed") {
                effects.remark(
                    "many_rows_changed",
                    Severity::Critical,
                    &relation,
                    format!("up to {of} of `{relation}` stay locked until the transaction ends"),
                );
            }
        }
        for busy in &self.world.busy {
            if locks.get(&busy.relation).is_some_and(|lock| *lock >= Lock::Share) {
                let message = format!(
                    "a transaction{} ({}) has held a lock on `{}` for {} s",
                    if busy.application.is_empty() {
                        String::new()
                    } else {
                        format!(" of `{}`", busy.application)
                    },
                    busy.state,
                    busy.relation,
                    busy.seconds
                );
                let relation = busy.relation.clone();
                effects.remark("busy_table", Severity::Warning, &relation, message);
            }
        }
        if self.held.is_some() {
            let exclusive: Vec<String> = locks
                .iter()
                .filter(|(name, lock)| {
                    **lock == Lock::AccessExclusive
                        && self.world.relation(name).is_none_or(|it| {
                            matches!(it.shape, Shape::Table | Shape::Partitioned) && it.parent.is_none()
                        })
                })
                .map(|(name, _)| name.clone())
                .collect();
            let earlier = !self.exclusive.is_empty();
            let fresh = exclusive.iter().any(|name| !self.exclusive.contains(name));
            self.exclusive.extend(exclusive);
            if earlier && fresh {
                let tables = self.exclusive.iter().cloned().collect::<Vec<_>>().join("`, `");
                effects.remark(
                    "several_exclusive_locks",
                    Severity::Warning,
                    &tables.replace('`', ""),
                    format!("`{tables}` are locked against everybody by one transaction"),
                );
            }
        }
        if effects.unjudged {
            blocking = blocking.max(Blocking::Unjudged);
        }
        if let Some(reason) = effects.fails.take() {
            blocking = Blocking::Fails;
            if !effects.remarks.iter().any(|remark| {
                matches!(
                    remark.rule,
                    "not_in_transaction" | "enum_value_unusable" | "required_column" | "null_values_found"
                )
            }) {
                effects.remark("fails", Severity::Critical, "", reason).instead = None;
            }
        }
        if let Some(held) = &mut self.held {
            for (relation, lock) in &locks {
                let known = held.entry(relation.clone()).or_insert(*lock);
                *known = (*known).max(*lock);
            }
            self.held_on_indexes = self.held_on_indexes.max(effects.index_lock);
        }
        Verdict {
            line: statement.line,
            range: statement.range.clone(),
            statement: one_line(&statement.sql, 100),
            blocking,
            locks: locks.into_iter().map(|(relation, lock)| RelationLock { relation, lock }).collect(),
            work: long_names(&effects.work),
            remarks: effects.remarks,
            assumed: effects.assumed.into_iter().collect(),
        }
    }

    /// The view reads its sources, and the columns of theirs that its text names.
    fn note_view(&mut self, view: &str, statement: &Statement) {
        let words: BTreeSet<&str> =
            statement.sql.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        for source in &statement.reads {
            let Some(relation) = self.world.relation_mut(&key(source)) else { continue };
            relation.viewed.push((view.to_owned(), String::new()));
            let used: Vec<String> = relation
                .columns
                .iter()
                .map(|column| column.name.clone())
                .filter(|column| words.contains(column.as_str()))
                .collect();
            relation.viewed.extend(used.into_iter().map(|column| (view.to_owned(), column)));
        }
    }

    /// The relation, or why the statement does nothing or fails.
    pub(super) fn table(
        &self,
        name: &Name,
        statement: &Statement,
        effects: &mut Effects,
    ) -> Option<(String, Relation)> {
        let relation = key(name);
        match self.world.relation(&relation) {
            Some(found) => {
                if !self.world.known(&relation) {
                    effects.assumed.insert(format!("`{relation}` exists and is large"));
                }
                Some((relation, found))
            }
            None if statement.if_exists => {
                effects.no_effect(&relation, format!("`{relation}` does not exist"));
                None
            }
            None => {
                effects.fail(format!("relation `{relation}` does not exist"));
                None
            }
        }
    }

    /// Locks the table and its partitions.
    pub(super) fn lock_tree(&self, table: &str, lock: Lock, effects: &mut Effects) {
        effects.lock(table, lock);
        for partition in self.world.partitions(table) {
            effects.lock(&partition, lock);
        }
    }

    pub(super) fn refuse_in_transaction(&self, what: &str, object: &str, effects: &mut Effects) {
        if self.held.is_some() {
            effects.remark(
                "not_in_transaction",
                Severity::Critical,
                object,
                format!("{what} cannot run inside a transaction"),
            );
            effects.fail(format!("{what} cannot run inside a transaction"));
        }
    }

    pub(super) fn column(
        relation: &Relation,
        table: &str,
        column: &str,
        effects: &mut Effects,
    ) -> Option<ColumnState> {
        let found = relation.column(column).cloned();
        if found.is_none() && relation.complete {
            effects.fail(format!("column `{column}` of `{table}` does not exist"));
        }
        found
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each operation")]
    fn operation(&mut self, operation: &Operation, statement: &Statement, effects: &mut Effects) {
        match operation {
            Operation::CreateTable {
                table,
                if_not_exists,
                temporary,
                columns,
                constraints,
                partition_of,
                default_partition,
                partitioned,
                bound,
                unlogged,
                inherits,
                ..
            } => {
                let name = key(table);
                if self.world.known(&name) && !temporary {
                    if *if_not_exists {
                        effects.no_effect(&name, format!("`{name}` exists already"));
                    } else {
                        effects.fail(format!("relation `{name}` exists already"));
                    }
                    return;
                }
                if let Some(schema) = &table.namespace
                    && self.world.connected
                    && !self.world.has_schema(schema)
                {
                    effects.fail(format!("schema `{schema}` does not exist"));
                    return;
                }
                self.create_table(&name, columns, constraints, effects);
                let mut parent_key = None;
                if let Some(parent) = partition_of
                    && let Some((parent_name, parent)) = self.table(parent, statement, effects)
                {
                    effects.lock(&parent_name, Lock::AccessExclusive);
                    if let Some(default) = self.world.default_partition(&parent_name) {
                        effects.lock(&default, Lock::AccessExclusive);
                        if let Some(found) = self.world.relation(&default) {
                            effects.work(&default, Work::Scan, found.weight());
                        }
                    }
                    for (other, _) in parent.constraints.iter().filter_map(foreign_parent) {
                        effects.lock(&other, Lock::ShareRowExclusive);
                    }
                    parent_key = Some((parent_name, parent));
                }
                for parent in inherits {
                    if let Some((parent, _)) = self.table(parent, statement, effects) {
                        effects.lock(&parent, Lock::ShareUpdateExclusive);
                    }
                }
                if effects.fails.is_some() {
                    return;
                }
                let mut relation =
                    Relation::made(if partitioned.is_some() { Shape::Partitioned } else { Shape::Table });
                relation.partition_key.clone_from(partitioned);
                relation.unlogged = *unlogged;
                relation.columns = columns.iter().map(Self::column_state).collect();
                relation.complete = !columns.is_empty() && partition_of.is_none() && inherits.is_empty();
                if let Some((parent_name, parent)) = parent_key {
                    relation.columns.clone_from(&parent.columns);
                    relation.complete = parent.complete;
                    relation.parent = Some(parent_name);
                    relation.bound =
                        if *default_partition { Some("DEFAULT".to_owned()) } else { bound.clone() };
                }
                for constraint in constraints.iter().chain(columns.iter().flat_map(|it| &it.constraints)) {
                    let state = constraint_state(&name, constraint);
                    if matches!(state.kind, ConstraintKind::PrimaryKey | ConstraintKind::Unique) {
                        relation.indexes.push(index_of(&state.name, constraint));
                    }
                    relation.constraints.push(state);
                }
                self.world.insert(&name, relation);
            }
            Operation::AddColumn { table, if_not_exists, column } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    if relation.column(&column.name).is_some() {
                        if *if_not_exists {
                            effects.no_effect(&name, format!("`{name}.{}` exists already", column.name));
                        } else {
                            effects.fail(format!("column `{}` of `{name}` exists already", column.name));
                        }
                        return;
                    }
                    self.add_column(&name, &relation, column, effects);
                }
            }
            Operation::DropColumn { table, column, if_exists, cascade } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    if relation.complete && relation.column(column).is_none() {
                        if *if_exists {
                            effects.no_effect(&name, format!("`{name}.{column}` does not exist"));
                        } else {
                            effects.fail(format!("column `{column}` of `{name}` does not exist"));
                        }
                        return;
                    }
                    self.depends(&name, &relation, Some(column), *cascade, effects);
                    self.drop_foreign(&name, &relation, Some(column), *cascade, effects);
                    if !relation.new {
                        let object = format!("{name}.{column}");
                        effects.breaks(&object, format!("statements that name `{object}` fail"));
                    }
                    if let Some(relation) = self.world.relation_mut(&name) {
                        relation.columns.retain(|known| known.name != *column);
                        relation.indexes.retain(|index| !index.columns.contains(column));
                    }
                }
            }
            Operation::RenameColumn { table, from, to } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    if statement.operations.len() > 1 {
                        effects.fail("RENAME cannot stand beside other actions".into());
                        return;
                    }
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    Self::column(&relation, &name, from, effects);
                    if relation.column(to).is_some() {
                        effects.fail(format!("column `{to}` of `{name}` exists already"));
                    }
                    if effects.fails.is_some() {
                        return;
                    }
                    if !relation.new {
                        let object = format!("{name}.{from}");
                        effects.breaks(
                            &object,
                            format!("statements that name `{object}` fail; it is now `{to}`"),
                        );
                    }
                    if let Some(column) = self.world.relation_mut(&name).and_then(|it| it.column_mut(from)) {
                        to.clone_into(&mut column.name);
                    }
                }
            }
            Operation::AlterColumnType { table, column, to, using, collate } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    self.alter_type(&name, &relation, column, to, using.as_ref(), *collate, effects);
                }
            }
            Operation::SetNotNull { table, column } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    self.set_not_null(&name, &relation, column, effects);
                }
            }
            Operation::DropNotNull { table, column } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    Self::column(&relation, &name, column, effects);
                    let in_key = relation.constraints.iter().any(|it| it.kind == ConstraintKind::PrimaryKey)
                        && relation.indexes.iter().any(|it| {
                            it.backs_constraint && it.name.ends_with("_pkey") && it.columns.contains(column)
                        });
                    if in_key {
                        effects.fail(format!("column `{column}` is in the primary key of `{name}`"));
                    }
                    if let Some(column) = self.world.relation_mut(&name).and_then(|it| it.column_mut(column))
                    {
                        column.nullable = true;
                    }
                }
            }
            Operation::SetDefault { table, column, default } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    let found = Self::column(&relation, &name, column, effects);
                    if default.is_none()
                        && !relation.new
                        && found.as_ref().is_none_or(|column| !column.nullable && column.has_default)
                    {
                        let object = format!("{name}.{column}");
                        effects.breaks(
                            &object,
                            format!("inserts that leave `{object}` out fail if it is NOT NULL"),
                        );
                    }
                    if found.is_some_and(|column| column.generated.is_some()) {
                        effects.fail(format!("column `{column}` of `{name}` is generated"));
                    }
                    if let Some(column) = self.world.relation_mut(&name).and_then(|it| it.column_mut(column))
                    {
                        column.has_default = default.is_some();
                    }
                }
            }
            Operation::AlterIdentity { table, column } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::AccessExclusive);
                    let found = Self::column(&relation, &name, column, effects);
                    let adds = statement.sql.to_ascii_uppercase().contains("ADD GENERATED");
                    if adds && found.as_ref().is_some_and(|column| column.nullable) {
                        effects.fail(format!("column `{column}` of `{name}` must be NOT NULL first"));
                    }
                    if adds && found.is_some_and(|column| column.has_default) {
                        effects.fail(format!("column `{column}` of `{name}` has a default already"));
                    }
                }
            }
            Operation::SetExpression { table, column } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    if self.world.version.is_some_and(|version| version < 17) {
                        effects.fail("SET EXPRESSION needs PostgreSQL 17".into());
                        return;
                    }
                    let found = Self::column(&relation, &name, column, effects);
                    match found.map(|column| column.generated) {
                        Some(None) => effects.fail(format!("column `{column}` of `{name}` is not generated")),
                        Some(Some(generated)) if generated.ends_with("VIRTUAL") => {}
                        _ => effects.work(&name, Work::Rewrite, relation.weight()),
                    }
                }
            }
            Operation::DropExpression { table, column } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    if let Some(found) = Self::column(&relation, &name, column, effects)
                        && found.generated.is_none()
                        && !statement.sql.to_ascii_uppercase().contains("IF EXISTS")
                    {
                        effects.fail(format!("column `{column}` of `{name}` is not generated"));
                    }
                }
            }
            Operation::SetColumnOption { table, column, planner_only } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    let lock = if *planner_only { Lock::ShareUpdateExclusive } else { Lock::AccessExclusive };
                    self.lock_tree(&name, lock, effects);
                    Self::column(&relation, &name, column, effects);
                }
            }
            Operation::AddConstraint { table, constraint } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.add_constraint(&name, &relation, constraint, effects);
                }
            }
            Operation::ValidateConstraint { table, constraint } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::ShareUpdateExclusive, effects);
                    let found = relation.constraint(constraint);
                    if found.is_none() && relation.complete {
                        effects.fail(format!("constraint `{constraint}` of `{name}` does not exist"));
                        return;
                    }
                    if found.is_some_and(|found| found.validated) {
                        effects.no_effect(&name, format!("`{constraint}` is valid already"));
                        return;
                    }
                    effects.work(&name, Work::Scan, relation.weight());
                    if let Some(ConstraintKind::ForeignKey { parent, .. }) = found.map(|found| &found.kind) {
                        effects.lock(parent, Lock::RowShare);
                    }
                    if let Some(relation) = self.world.relation_mut(&name) {
                        for known in relation.constraints.iter_mut().filter(|it| it.name == *constraint) {
                            known.validated = true;
                        }
                    }
                }
            }
            Operation::DropConstraint { table, constraint, if_exists, cascade } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    let found = relation.constraint(constraint).cloned();
                    if found.is_none() && relation.complete {
                        if *if_exists {
                            effects.no_effect(&name, format!("`{constraint}` does not exist"));
                        } else {
                            effects.fail(format!("constraint `{constraint}` of `{name}` does not exist"));
                        }
                        return;
                    }
                    match found.map(|found| found.kind) {
                        Some(ConstraintKind::ForeignKey { parent, .. }) => {
                            effects.lock(&parent, Lock::AccessExclusive);
                        }
                        Some(ConstraintKind::PrimaryKey | ConstraintKind::Unique) => {
                            self.drop_foreign(&name, &relation, None, *cascade, effects);
                            let message = format!("`ON CONFLICT` on the columns of `{constraint}` fails");
                            effects.breaks(&name, message);
                        }
                        _ => {}
                    }
                    if let Some(relation) = self.world.relation_mut(&name) {
                        relation.constraints.retain(|known| known.name != *constraint);
                        relation.indexes.retain(|index| index.name != *constraint);
                    }
                }
            }
            Operation::AlterConstraint { table, constraint, enforce } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    let parent = relation.constraint(constraint).map(|found| found.kind.clone());
                    effects.lock(&name, Lock::AccessExclusive);
                    if relation.complete && parent.is_none() {
                        effects.fail(format!("constraint `{constraint}` of `{name}` does not exist"));
                        return;
                    }
                    match parent {
                        Some(ConstraintKind::ForeignKey { parent, .. }) => {
                            effects.lock(&parent, Lock::AccessExclusive);
                            if *enforce {
                                effects.work(&name, Work::Scan, relation.weight());
                            }
                        }
                        Some(_) => {
                            effects.fail(format!("constraint `{constraint}` of `{name}` is no foreign key"));
                        }
                        None => {}
                    }
                }
            }
            Operation::AttachPartition { table, partition, default, bound } => {
                self.attach(table, partition, *default, bound, statement, effects);
            }
            Operation::DetachPartition { table, partition, concurrently, finalize } => {
                if let Some((name, relation)) = self.table(table, statement, effects)
                    && let Some((part, _)) = self.table(partition, statement, effects)
                {
                    if *concurrently {
                        self.refuse_in_transaction("DETACH PARTITION CONCURRENTLY", &name, effects);
                        if self.world.default_partition(&name).is_some() {
                            effects.fail(format!(
                                "`{name}` has a default partition, so nothing can be detached concurrently"
                            ));
                        }
                    }
                    let lock = if *concurrently || *finalize {
                        Lock::ShareUpdateExclusive
                    } else {
                        Lock::AccessExclusive
                    };
                    effects.lock(&name, lock);
                    effects.lock(&part, if *finalize { Lock::AccessExclusive } else { lock });
                    if !concurrently && let Some(default) = self.world.default_partition(&name) {
                        effects.lock(&default, Lock::AccessExclusive);
                    }
                    for (other, _) in relation.constraints.iter().filter_map(foreign_parent) {
                        effects.lock(&other, Lock::ShareRowExclusive);
                    }
                    effects.breaks(&part, format!("queries of `{name}` no longer see the rows of `{part}`"));
                    if let Some(part) = self.world.relation_mut(&part) {
                        part.parent = None;
                        part.bound = None;
                    }
                }
            }
            Operation::SetInheritance { table, parent } => {
                if let Some((name, _)) = self.table(table, statement, effects)
                    && let Some((parent, _)) = self.table(parent, statement, effects)
                {
                    effects.lock(&name, Lock::AccessExclusive);
                    let leaves = statement.sql.to_ascii_uppercase().contains("NO INHERIT");
                    effects
                        .lock(&parent, if leaves { Lock::AccessShare } else { Lock::ShareUpdateExclusive });
                }
            }
            Operation::SetPersistence { table, logged } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    if !logged && !relation.new {
                        let message = format!("a crash empties `{name}`, and replicas lose it");
                        effects.remark("unlogged", Severity::Warning, &name, message);
                    }
                    if relation.complete && relation.unlogged != *logged {
                        effects.no_effect(&name, format!("`{name}` is so already"));
                    } else if !logged && self.world.referring(&name).iter().any(|(child, _)| *child != name) {
                        effects.fail(format!("`{name}` is referred to by a logged table"));
                    } else {
                        effects.work(&name, Work::Rewrite, relation.weight());
                    }
                    if let Some(relation) = self.world.relation_mut(&name) {
                        relation.unlogged = !logged;
                    }
                }
            }
            Operation::SetTablespace { object, tablespace } => {
                let (name, index) = match object {
                    Target::Table(name) => (name.clone(), None),
                    Target::Index(index) => {
                        let index = key(index);
                        let table = self.world.index_table(&index).cloned().unwrap_or_default();
                        (Name::bare(table), Some(index))
                    }
                    Target::Schema(_) | Target::Database => return,
                };
                if let Some(index) = index {
                    effects.index_lock(Lock::AccessExclusive);
                    let weight = self.world.relation(&key(&name)).map_or(Weight::Assumed, |it| it.weight());
                    effects.work(&index, Work::Rewrite, weight);
                } else if let Some((name, relation)) = self.table(&name, statement, effects) {
                    effects.lock(&name, Lock::AccessExclusive);
                    if relation.shape != Shape::Partitioned && tablespace != "pg_default" {
                        effects.work(&name, Work::Rewrite, relation.weight());
                    }
                }
            }
            Operation::SetAccessMethod { table } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::AccessExclusive);
                    if self.world.connected && statement.sql.to_ascii_lowercase().contains("heap") {
                        effects.no_effect(&name, format!("`{name}` is so already"));
                    } else {
                        effects.work(&name, Work::Rewrite, relation.weight());
                    }
                }
            }
            Operation::SetTableOptions { table, options } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    let planner = |option: &String| option != "user_catalog_table";
                    let view = matches!(relation.shape, Shape::View);
                    let lock = if options.iter().all(planner) && !view {
                        Lock::ShareUpdateExclusive
                    } else {
                        Lock::AccessExclusive
                    };
                    effects.lock(&name, lock);
                }
            }
            Operation::ToggleTrigger { table, rule, disable } => {
                if let Some((name, _)) = self.table(table, statement, effects) {
                    let lock = if *rule { Lock::AccessExclusive } else { Lock::ShareRowExclusive };
                    self.lock_tree(&name, lock, effects);
                    if *disable {
                        let message = format!("what triggers or rules of `{name}` enforce is not enforced");
                        effects.remark("changes_rights", Severity::Warning, &name, message);
                    }
                }
            }
            Operation::SetRowSecurity { table, enable } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::AccessExclusive);
                    if !relation.new {
                        let message = if *enable {
                            format!("rows of `{name}` become invisible to those without a policy")
                        } else {
                            format!("rows of `{name}` become visible to those whom a policy kept away")
                        };
                        effects.remark("changes_rights", Severity::Warning, &name, message);
                    }
                }
            }
            Operation::SetReplicaIdentity { table } => {
                if let Some((name, _)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::AccessExclusive);
                }
            }
            Operation::SetClusterIndex { table } => {
                if let Some((name, _)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::ShareUpdateExclusive);
                }
            }
            Operation::CreateIndex { .. } => self.create_index(operation, statement, effects),
            Operation::AttachIndex { index, partition } => {
                for index in [index, partition] {
                    let name = key(index);
                    match self.world.index_table(&name) {
                        Some(_) => effects.index_lock(Lock::AccessExclusive),
                        None if self.world.connected => {
                            effects.fail(format!("relation `{name}` does not exist"));
                        }
                        None => {}
                    }
                }
                // The partition's index is locked against everybody, its table against schema changes only.
                if let Some(table) = self.world.index_table(&key(index)).cloned() {
                    effects.lock(&table, Lock::AccessShare);
                }
                if let Some(table) = self.world.index_table(&key(partition)).cloned() {
                    effects.lock(&table, Lock::AccessShare);
                }
            }
            Operation::Reindex { target, concurrently } => {
                self.reindex(target, *concurrently, statement, effects);
            }
            Operation::Drop { .. } => self.drop(operation, effects),
            Operation::Rename { kind, object, to, table } => {
                self.rename(*kind, object, to, table.as_ref(), statement, effects);
            }
            Operation::SetSchema { kind, object, schema } => {
                if self.world.connected && !self.world.has_schema(schema) {
                    effects.fail(format!("schema `{schema}` does not exist"));
                    return;
                }
                match kind {
                    Kind::Table
                    | Kind::View
                    | Kind::MaterializedView
                    | Kind::Sequence
                    | Kind::ForeignTable => {
                        if let Some((name, relation)) = self.table(object, statement, effects) {
                            effects.lock(&name, Lock::AccessExclusive);
                            if !relation.new {
                                effects.breaks(&name, format!("statements that name `{name}` fail unless `{schema}` is in the search path"));
                            }
                            self.world.rename(
                                &name,
                                &key(&Name { namespace: Some(schema.clone()), name: object.name.clone() }),
                            );
                        }
                    }
                    _ => {
                        let object = key(object);
                        effects.breaks(
                            &object,
                            format!(
                                "statements that name `{object}` fail unless `{schema}` is in the search path"
                            ),
                        );
                    }
                }
            }
            Operation::SetOwner { kind, object, owner } => {
                if let Kind::Table | Kind::View | Kind::MaterializedView | Kind::Sequence | Kind::ForeignTable =
                    kind
                    && let Some((name, _)) = self.table(object, statement, effects)
                {
                    effects.lock(&name, Lock::AccessExclusive);
                }
                let object = key(object);
                effects.remark(
                    "changes_rights",
                    Severity::Warning,
                    &object,
                    format!("`{object}` belongs to `{owner}` afterwards"),
                );
            }
            Operation::CreateView { view, replace } => {
                let name = key(view);
                if self.world.known(&name) {
                    if *replace {
                        effects.lock(&name, Lock::AccessExclusive);
                    } else {
                        effects.fail(format!("relation `{name}` exists already"));
                    }
                } else {
                    let mut made = Relation::made(Shape::View);
                    made.complete = false;
                    self.world.insert(&name, made);
                    self.note_view(&name, statement);
                }
            }
            Operation::CreateMaterializedView { view, if_not_exists, with_data } => {
                let name = key(view);
                if self.world.known(&name) {
                    if *if_not_exists {
                        effects.no_effect(&name, format!("`{name}` exists already"));
                    } else {
                        effects.fail(format!("relation `{name}` exists already"));
                    }
                    return;
                }
                let mut made = Relation::made(Shape::MaterializedView);
                made.complete = false;
                made.populated = *with_data;
                self.world.insert(&name, made);
                self.note_view(&name, statement);
            }
            Operation::Refresh { view, concurrently, with_data } => {
                if let Some((name, relation)) = self.table(view, statement, effects) {
                    let lock = if *concurrently { Lock::Exclusive } else { Lock::AccessExclusive };
                    effects.lock(&name, lock);
                    if relation.shape != Shape::MaterializedView && self.world.connected {
                        effects.fail(format!("`{name}` is no materialized view"));
                        return;
                    }
                    let unique = self.world.unique_index_on(&name);
                    if *concurrently && self.world.connected && (!unique || !relation.populated) {
                        effects.fail(format!(
                            "`{name}` needs a unique index and rows before it can be refreshed concurrently"
                        ));
                        return;
                    }
                    if *with_data {
                        // It is computed anew from its sources, however few rows it had.
                        let weight = match relation.weight() {
                            Weight::Small(_) if !relation.populated => Weight::Assumed,
                            weight => weight,
                        };
                        effects.work(&name, if *concurrently { Work::Scan } else { Work::Rewrite }, weight);
                        effects.instead(
                            "REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index on the view",
                        );
                    } else {
                        effects.breaks(&name, format!("`{name}` cannot be read until it is refreshed"));
                    }
                }
            }
            Operation::Cluster { table } => match table {
                Some(table) => {
                    if let Some((name, relation)) = self.table(table, statement, effects) {
                        if relation.shape == Shape::Partitioned {
                            self.refuse_in_transaction("CLUSTER of a partitioned table", &name, effects);
                        }
                        let says_how = statement.sql.to_ascii_uppercase().contains("USING");
                        if relation.complete && !relation.clustered && !says_how && !relation.new {
                            effects.fail(format!("`{name}` was never clustered, so an index must be named"));
                        }
                        effects.lock(&name, Lock::AccessExclusive);
                        effects.work(&name, Work::Rewrite, relation.weight());
                        effects.instead(
                            "an index whose order the queries need; no rewrite brings a lasting order",
                        );
                    }
                }
                None => {
                    self.refuse_in_transaction("CLUSTER of all tables", "", effects);
                    let clustered: Vec<(String, Weight)> = self
                        .world
                        .relations()
                        .filter(|(_, relation)| relation.clustered)
                        .map(|(name, relation)| (name.clone(), relation.weight()))
                        .collect();
                    for (name, weight) in clustered {
                        effects.lock(&name, Lock::AccessExclusive);
                        effects.work(&name, Work::Rewrite, weight);
                    }
                    if !self.world.connected {
                        effects.lock("every clustered table", Lock::AccessExclusive);
                        effects.work("every clustered table", Work::Rewrite, Weight::Assumed);
                    }
                }
            },
            Operation::Vacuum { tables, full } => {
                self.refuse_in_transaction("VACUUM", &names(tables), effects);
                let lock = if *full { Lock::AccessExclusive } else { Lock::ShareUpdateExclusive };
                for (name, relation) in self.these_or_all(tables, statement, effects) {
                    effects.lock(&name, lock);
                    if *full {
                        effects.work(&name, Work::Rewrite, relation.weight());
                        effects.instead("VACUUM without FULL, or pg_repack; no row is lost by waiting");
                    }
                }
            }
            Operation::Analyze { tables } => {
                for (name, _) in self.these_or_all(tables, statement, effects) {
                    effects.lock(&name, Lock::ShareUpdateExclusive);
                }
            }
            Operation::Truncate { tables, cascade } => {
                let mut next: Vec<String> = Vec::new();
                for table in tables {
                    if let Some((name, _)) = self.table(table, statement, effects) {
                        next.push(name);
                    }
                }
                let mut seen: BTreeSet<String> = next.iter().cloned().collect();
                while let Some(name) = next.pop() {
                    self.lock_tree(&name, Lock::AccessExclusive, effects);
                    for (child, _) in self.world.referring(&name) {
                        if seen.contains(&child) {
                            continue;
                        }
                        if *cascade {
                            seen.insert(child.clone());
                            next.push(child);
                        } else {
                            effects.fail(format!("`{child}` refers to `{name}`"));
                        }
                    }
                }
            }
            Operation::Insert { table, .. } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::RowExclusive);
                    Self::write_relations(&name, &relation, effects);
                    self.uses_new_value(statement, effects);
                }
            }
            Operation::Update { table, reach, columns, condition } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::RowExclusive);
                    Self::write_relations(&name, &relation, effects);
                    self.uses_new_value(statement, effects);
                    for column in columns {
                        Self::column(&relation, &name, &column.to_lowercase(), effects);
                    }
                    self.rows_changed(&name, &relation, *reach, condition.as_deref(), effects);
                }
            }
            Operation::Delete { table, reach, condition } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::RowExclusive);
                    for (child, _) in self.world.referring(&name) {
                        effects.lock(&child, Lock::RowShare);
                    }
                    self.rows_changed(&name, &relation, *reach, condition.as_deref(), effects);
                }
            }
            Operation::Merge { table } => {
                if let Some((name, relation)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::RowExclusive);
                    self.rows_changed(&name, &relation, Reach::Some, None, effects);
                }
            }
            Operation::Query { locks_rows } => {
                if *locks_rows {
                    for read in &statement.reads {
                        if let Some((name, relation)) = self.table(read, statement, effects) {
                            effects.lock(&name, Lock::RowShare);
                            effects.work(&name, Work::Scan, relation.weight());
                        }
                    }
                }
            }
            Operation::Lock { tables, mode } => {
                if self.held.is_none() {
                    effects.fail("LOCK TABLE can only be used in a transaction".into());
                }
                for table in tables {
                    if let Some((name, _)) = self.table(table, statement, effects) {
                        self.lock_tree(&name, Lock::named(mode).unwrap_or(Lock::AccessExclusive), effects);
                    }
                }
            }
            Operation::AddEnumValue { type_name, value, if_not_exists } => {
                let name = key(type_name);
                match self.world.enums.get_mut(&name) {
                    Some(values) if values.contains(value) => {
                        if *if_not_exists {
                            effects.no_effect(&name, format!("`{name}` has `{value}` already"));
                        } else {
                            effects.fail(format!("enum `{name}` has `{value}` already"));
                        }
                    }
                    Some(values) => {
                        values.push(value.clone());
                        if !self.new_types.contains(&name) {
                            self.new_values.push(value.clone());
                        }
                    }
                    None if self.world.connected => effects.fail(format!("type `{name}` does not exist")),
                    None => self.new_values.push(value.clone()),
                }
            }
            Operation::RenameEnumValue { type_name, from, to } => {
                let name = key(type_name);
                match self.world.enums.get_mut(&name) {
                    Some(values) => match values.iter_mut().find(|value| *value == from) {
                        Some(value) => to.clone_into(value),
                        None => effects.fail(format!("enum `{name}` has no `{from}`")),
                    },
                    None if self.world.connected => effects.fail(format!("type `{name}` does not exist")),
                    None => {}
                }
                effects.breaks(&name, format!("statements that say `{from}` fail; it is now `{to}`"));
            }
            Operation::AlterTypeAttributes { type_name } => {
                let name = key(type_name);
                if self.world.connected && !self.world.has_type(&name) {
                    effects.fail(format!("type `{name}` does not exist"));
                }
                effects.lock(&name, Lock::AccessExclusive);
                effects.may_break(&name, format!("statements that write values of `{name}` whole may fail"));
            }
            Operation::CreateType { type_name, values } => {
                let name = key(type_name);
                if self.world.has_type(&name) {
                    effects.fail(format!("type `{name}` exists already"));
                    return;
                }
                self.world.add_type(&name);
                self.new_types.insert(name.clone());
                if let Some(values) = values {
                    self.world.enums.insert(name, values.clone());
                }
            }
            Operation::CreateDomain { domain, constrained } => {
                let name = key(domain);
                if self.world.has_type(&name) {
                    effects.fail(format!("type `{name}` exists already"));
                    return;
                }
                self.world.add_type(&name);
                let base = TypeName::read(statement.sql.split_whitespace().nth(4).unwrap_or_default());
                self.world.domains.insert(name, (base.to_string(), *constrained));
            }
            Operation::AlterDomain { domain, checks_rows } => {
                let name = key(domain);
                if self.world.connected && !self.world.domains.contains_key(&name) {
                    effects.fail(format!("type `{name}` does not exist"));
                    return;
                }
                if *checks_rows {
                    let validates = statement.sql.to_ascii_uppercase().contains("VALIDATE");
                    let weaker = validates && self.world.version.is_some_and(|version| version >= 17);
                    let lock = if weaker { Lock::ShareUpdateExclusive } else { Lock::Share };
                    let users: Vec<(String, Weight)> = self
                        .world
                        .relations()
                        .filter(|(_, relation)| {
                            relation.columns.iter().any(|column| column.type_name.base == name)
                        })
                        .map(|(name, relation)| (name.clone(), relation.weight()))
                        .collect();
                    for (table, weight) in users {
                        effects.lock(&table, lock);
                        effects.work(&table, Work::Scan, weight);
                    }
                    if !self.world.connected {
                        effects.assumed.insert(format!("large tables use the domain `{name}`"));
                        effects.lock(&format!("tables that use {name}"), lock);
                        effects.work(&format!("tables that use {name}"), Work::Scan, Weight::Assumed);
                    }
                }
            }
            Operation::CreateSequence { sequence, if_not_exists } => {
                let name = key(sequence);
                if self.world.known(&name) {
                    if *if_not_exists {
                        effects.no_effect(&name, format!("`{name}` exists already"));
                    } else {
                        effects.fail(format!("relation `{name}` exists already"));
                    }
                    return;
                }
                self.world.insert(&name, Relation::made(Shape::Sequence));
            }
            Operation::AlterSequence { sequence } => {
                if let Some((name, _)) = self.table(sequence, statement, effects) {
                    effects.lock(&name, Lock::ShareRowExclusive);
                }
            }
            Operation::CreateTrigger { table, rule, from, .. } => {
                if let Some((name, _)) = self.table(table, statement, effects) {
                    if *rule {
                        effects.lock(&name, Lock::AccessExclusive);
                    } else {
                        self.lock_tree(&name, Lock::ShareRowExclusive, effects);
                    }
                    if let Some(from) = from
                        && let Some((from, _)) = self.table(from, statement, effects)
                    {
                        effects.lock(&from, Lock::AccessShare);
                    }
                }
            }
            Operation::SetPolicy { table } => {
                if let Some((name, _)) = self.table(table, statement, effects) {
                    effects.lock(&name, Lock::AccessExclusive);
                    let message = format!("who sees which rows of `{name}` changes");
                    effects.remark("changes_rights", Severity::Warning, &name, message);
                }
            }
            Operation::CreateFunction { function, .. } => {
                let sql = statement.sql.to_ascii_uppercase();
                let steady = sql.contains(" STABLE") || sql.contains(" IMMUTABLE");
                self.world.add_function(&function.name, !steady);
            }
            Operation::SetExtension { extension, if_not_exists, create } => {
                if *create {
                    if self.world.has_extension(extension) {
                        if *if_not_exists {
                            effects.no_effect(extension, format!("extension `{extension}` is there already"));
                        } else {
                            effects.fail(format!("extension `{extension}` exists already"));
                        }
                        return;
                    }
                    self.world.add_extension(extension);
                } else {
                    effects.unjudged(
                        "unjudged_code",
                        extension,
                        format!("the update script of `{extension}` runs, and nobody can say what it does"),
                    );
                }
            }
            Operation::CreateSchema { schema, if_not_exists } => {
                if self.world.has_schema(schema) {
                    if *if_not_exists {
                        effects.no_effect(schema, format!("schema `{schema}` exists already"));
                    } else {
                        effects.fail(format!("schema `{schema}` exists already"));
                    }
                }
                self.world.add_schema(schema);
            }
            Operation::ChangeRights { revoke, tables } => {
                for table in tables {
                    if let Some((name, _)) = self.table(table, statement, effects)
                        && self.world.version.is_some_and(|version| version >= 18)
                    {
                        effects.lock(&name, Lock::AccessShare);
                    }
                }
                if *revoke {
                    effects.breaks(&names(tables), "statements of those who lose the right fail".into());
                }
                effects.remark(
                    "changes_rights",
                    Severity::Warning,
                    &names(tables),
                    "who may do what changes".into(),
                );
            }
            Operation::Comment { table, .. } | Operation::CreateStatistics { table } => {
                if let Some(table) = table
                    && let Some((name, _)) = self.table(table, statement, effects)
                {
                    effects.lock(&name, Lock::ShareUpdateExclusive);
                }
            }
            Operation::Replication { tables } => {
                for table in tables {
                    if let Some((name, _)) = self.table(table, statement, effects) {
                        effects.lock(&name, Lock::ShareUpdateExclusive);
                    }
                }
                effects.remark(
                    "changes_rights",
                    Severity::Warning,
                    "",
                    "who receives changes changes".into(),
                );
            }
            Operation::Transaction { step } => {
                match step {
                    TransactionStep::Begin => self.begin(),
                    TransactionStep::Commit | TransactionStep::Rollback => self.end(),
                    TransactionStep::Savepoint => {}
                }
                effects.remark(
                    "transaction_control",
                    Severity::Warning,
                    "",
                    "the file begins or ends a transaction itself".into(),
                );
            }
            Operation::Set { .. } => {}
            Operation::Code { what } => {
                effects.unjudged(
                    "unjudged_code",
                    "",
                    format!("what {what} does cannot be judged: it may block"),
                );
            }
            Operation::Unmodelled { what } => effects.unjudged(
                "unknown_statement",
                "",
                format!("nobody taught the judge what `{what}` does: it may block"),
            ),
            Operation::Unknown { reason } => effects.unjudged(
                "unknown_statement",
                "",
                format!("the statement cannot be read ({reason}): it may block"),
            ),
        }
    }
}

/// Makes something without reading a row.
fn defines(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::CreateView { .. }
            | Operation::CreateFunction { .. }
            | Operation::CreateTable { from_query: false, .. }
    )
}

fn long_names(work: &[(String, Work, Weight)]) -> Vec<(String, Work)> {
    work.iter()
        .filter(|(_, _, weight)| weight.is_long())
        .map(|(relation, work, _)| (relation.clone(), *work))
        .collect()
}

fn names(tables: &[Name]) -> String {
    tables.iter().map(key).collect::<Vec<_>>().join(", ")
}

fn is_of_the_server(name: &Name) -> bool {
    match name.namespace.as_deref() {
        Some(namespace) => namespace.starts_with("pg_") || namespace == "information_schema",
        None => name.name.starts_with("pg_"),
    }
}

pub(super) fn foreign_parent(constraint: &ConstraintState) -> Option<(String, &ConstraintState)> {
    match &constraint.kind {
        ConstraintKind::ForeignKey { parent, .. } => Some((parent.clone(), constraint)),
        _ => None,
    }
}

/// The state of a constraint that is made, with the name that the server gives it where the statement gives none.
pub(super) fn constraint_state(table: &str, constraint: &NewConstraint) -> ConstraintState {
    let table = table.rsplit('.').next().unwrap_or(table);
    let (kind, suffix, columns) = match &constraint.demand {
        Demand::PrimaryKey { .. } => (ConstraintKind::PrimaryKey, "pkey", Vec::new()),
        Demand::Unique { columns, .. } => (ConstraintKind::Unique, "key", columns.clone()),
        Demand::Check { expression } => {
            (ConstraintKind::Check { expression: expression.sql.clone() }, "check", Vec::new())
        }
        Demand::NotNull { column } => {
            (ConstraintKind::NotNull { column: column.clone() }, "not_null", vec![column.clone()])
        }
        Demand::ForeignKey { columns, parent, parent_columns } => (
            ConstraintKind::ForeignKey {
                columns: columns.clone(),
                parent: key(parent),
                parent_columns: parent_columns.clone(),
            },
            "fkey",
            columns.clone(),
        ),
        Demand::Exclude => (ConstraintKind::Exclude, "excl", Vec::new()),
    };
    let mut parts = vec![table.to_owned()];
    parts.extend(columns);
    parts.push(suffix.to_owned());
    ConstraintState {
        name: constraint.name.clone().unwrap_or_else(|| parts.join("_")),
        kind,
        validated: !constraint.not_valid && !constraint.not_enforced,
    }
}

pub(super) fn index_of(name: &str, constraint: &NewConstraint) -> IndexState {
    let columns = match &constraint.demand {
        Demand::PrimaryKey { columns, .. } | Demand::Unique { columns, .. } => columns.clone(),
        _ => Vec::new(),
    };
    IndexState {
        name: name.to_owned(),
        columns,
        unique: true,
        valid: true,
        plain: true,
        backs_constraint: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::lint_text;
    use crate::lint::parse::read;

    fn rules(text: &str) -> Vec<Vec<&'static str>> {
        lint_text(text, None, &[])
            .iter()
            .map(|verdict| verdict.remarks.iter().map(|remark| remark.rule).collect())
            .collect()
    }

    #[test]
    fn what_nobody_can_judge_is_never_passed() {
        for sql in [
            "FROBNICATE orders",
            "ALTER TABLE orders FROBNICATE",
            "ALTER SYSTEM SET work_mem = '1GB'",
            "DO $$ BEGIN EXECUTE 'DROP TABLE orders'; END $$",
            "CALL clean_up()",
            "SELECT fix_everything()",
            "COPY orders FROM PROGRAM 'curl x'",
            "ALTER EXTENSION postgis UPDATE",
            "SELECT 'an open string",
        ] {
            let verdicts = lint_text(sql, None, &[]);
            let verdict = verdicts.last().unwrap();
            assert!(verdict.blocking >= Blocking::Unjudged, "{sql}: {verdict:?}");
            assert!(
                verdict.remarks.iter().any(|remark| remark.severity == Severity::Critical),
                "{sql}: {verdict:?}"
            );
        }
    }

    #[test]
    fn a_lock_held_from_before_counts() {
        let text = "ALTER TABLE a ADD COLUMN b int;\nUPDATE c SET d = 1;";
        assert!(rules(text)[1].contains(&"lock_held_during_work"), "{:?}", rules(text));
        let apart = format!("-- steward: no-transaction\n{text}");
        assert!(!rules(&apart)[1].contains(&"lock_held_during_work"));
    }

    #[test]
    fn an_allowance_counts_for_the_next_statement_and_its_rule() {
        let text = "-- steward: allow index_blocks_writes nobody writes at night\n\
                    CREATE INDEX i ON a (b);\nCREATE INDEX j ON a (c);";
        let verdicts = lint_text(text, None, &[]);
        let allowed: Vec<Option<&str>> = verdicts
            .iter()
            .flat_map(|verdict| &verdict.remarks)
            .filter(|remark| remark.rule == "index_blocks_writes")
            .map(|remark| remark.allowed.as_deref())
            .collect();
        assert_eq!(allowed, [Some("nobody writes at night"), None]);
    }

    #[test]
    fn a_table_that_others_hold_is_told() {
        let mut world = World::offline(Some(17));
        world.busy.push(crate::lint::world::Busy {
            relation: "orders".into(),
            application: "report".into(),
            state: "idle in transaction".into(),
            seconds: 300,
        });
        let verdicts = judge(&read("ALTER TABLE orders ADD COLUMN a int"), &mut world);
        let busy = verdicts[0].remarks.iter().find(|remark| remark.rule == "busy_table").unwrap();
        assert_eq!(
            busy.message,
            "a transaction of `report` (idle in transaction) has held a lock on `orders` for 300 s"
        );
    }

    #[test]
    fn a_new_table_is_free_to_change() {
        let text = "CREATE TABLE fresh (id int, a text);\nCREATE INDEX i ON fresh (a);\n\
                    ALTER TABLE fresh ADD COLUMN b int NOT NULL;\nALTER TABLE fresh ALTER a TYPE varchar(5);";
        for verdict in lint_text(text, None, &[]) {
            assert_eq!(verdict.blocking, Blocking::None, "{verdict:?}");
        }
    }

    #[test]
    fn every_rule_is_known() {
        let codes: Vec<&str> = crate::lint::RULES.iter().map(|rule| rule.code).collect();
        assert!(codes.is_sorted());
        let source = concat!(include_str!("judge.rs"), include_str!("alter.rs"));
        for code in codes {
            assert!(source.contains(&format!("\"{code}\"")), "`{code}` is never found");
        }
    }
}
