//! What a statement locks, reads and writes, by what it does and what the catalog says.
//!
//! The class of a statement follows from two things: the strongest lock that the transaction holds on relations that
//! others use, and whether this statement works for long. Both were measured for each case in `tests/lint`.

use std::collections::{BTreeMap, BTreeSet};

use contract::Severity;

use super::lock::{Blocking, Lock};
use super::loss::{Grade, losses, unjudged_call};
use super::operation::{Demand, Name, NewConstraint, Operation, Script, Statement, TransactionStep, quote};
use super::verdict::{Effects, RelationLock, Verdict, Work};
use super::world::{
    ColumnState, ConstraintKind, ConstraintState, IndexState, Relation, Shape, Weight, World, key,
};
use crate::text;

/// Judges the statements of a file in order.
pub(crate) struct Judge<'a> {
    pub(super) world: &'a mut World,
    /// Locks that the open transaction holds; `None` outside of one.
    pub(super) held: Option<BTreeMap<String, Lock>>,
    pub(super) held_on_indexes: Option<Lock>,
    /// Tables locked against everybody in the open transaction.
    pub(super) exclusive: BTreeSet<String>,
    /// Constraints added NOT VALID in the open transaction.
    pub(super) unchecked: BTreeSet<(String, String)>,
    /// Enum values added in the open transaction, with types made in it.
    pub(super) new_values: Vec<String>,
    pub(super) new_types: BTreeSet<String>,
}

#[cfg(test)]
thread_local! {
    static JUDGED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Statements that this thread has judged or taken in.
#[cfg(test)]
pub(super) fn statements_judged() -> usize {
    JUDGED.with(std::cell::Cell::get)
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
        #[cfg(test)]
        JUDGED.with(|judged| judged.set(judged.get() + 1));
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
                Weight::Big(rows) if self.world.rounded => format!("up to {}", self.world.said(*rows)),
                Weight::Big(rows) => self.world.said(*rows),
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
                Weight::Big(rows) => self.world.said(rows),
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
    pub(super) fn note_view(&mut self, view: &str, statement: &Statement) {
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

    fn operation(&mut self, operation: &Operation, statement: &Statement, effects: &mut Effects) {
        match operation {
            Operation::CreateTable { .. }
            | Operation::AddColumn { .. }
            | Operation::DropColumn { .. }
            | Operation::RenameColumn { .. }
            | Operation::AlterColumnType { .. }
            | Operation::SetNotNull { .. }
            | Operation::DropNotNull { .. }
            | Operation::SetDefault { .. }
            | Operation::AlterIdentity { .. }
            | Operation::SetExpression { .. }
            | Operation::DropExpression { .. }
            | Operation::SetColumnOption { .. } => self.column_operation(operation, statement, effects),
            Operation::AddConstraint { .. }
            | Operation::ValidateConstraint { .. }
            | Operation::DropConstraint { .. }
            | Operation::AlterConstraint { .. } => self.constraint_operation(operation, statement, effects),
            Operation::AttachPartition { .. }
            | Operation::DetachPartition { .. }
            | Operation::SetInheritance { .. }
            | Operation::SetPersistence { .. }
            | Operation::SetTablespace { .. }
            | Operation::SetAccessMethod { .. }
            | Operation::SetTableOptions { .. }
            | Operation::ToggleTrigger { .. }
            | Operation::SetRowSecurity { .. }
            | Operation::SetReplicaIdentity { .. }
            | Operation::SetClusterIndex { .. } => self.table_operation(operation, statement, effects),
            Operation::CreateIndex { .. } | Operation::AttachIndex { .. } | Operation::Reindex { .. } => {
                self.index_operation(operation, statement, effects);
            }
            Operation::Drop { .. }
            | Operation::Rename { .. }
            | Operation::SetSchema { .. }
            | Operation::SetOwner { .. }
            | Operation::CreateView { .. }
            | Operation::CreateMaterializedView { .. }
            | Operation::AddEnumValue { .. }
            | Operation::RenameEnumValue { .. }
            | Operation::AlterTypeAttributes { .. }
            | Operation::CreateType { .. }
            | Operation::CreateDomain { .. }
            | Operation::AlterDomain { .. }
            | Operation::CreateSequence { .. }
            | Operation::AlterSequence { .. }
            | Operation::CreateTrigger { .. }
            | Operation::SetPolicy { .. }
            | Operation::CreateFunction { .. }
            | Operation::SetExtension { .. }
            | Operation::CreateSchema { .. }
            | Operation::ChangeRights { .. }
            | Operation::Comment { .. }
            | Operation::CreateStatistics { .. }
            | Operation::Replication { .. } => self.object_operation(operation, statement, effects),
            Operation::Refresh { .. }
            | Operation::Cluster { .. }
            | Operation::Vacuum { .. }
            | Operation::Analyze { .. }
            | Operation::Truncate { .. }
            | Operation::Insert { .. }
            | Operation::Update { .. }
            | Operation::Delete { .. }
            | Operation::Merge { .. }
            | Operation::Query { .. }
            | Operation::Lock { .. } => self.row_operation(operation, statement, effects),
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

pub(super) fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")
}

pub(super) fn names(tables: &[Name]) -> String {
    tables.iter().map(key).collect::<Vec<_>>().join(", ")
}

pub(super) fn is_of_the_server(name: &Name) -> bool {
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
    fn advice_for_a_rebuild_is_a_statement_that_runs() {
        for (sql, instead) in [
            ("REINDEX TABLE shop.orders", "REINDEX TABLE CONCURRENTLY shop.orders;"),
            ("reindex index orders_pkey", "REINDEX INDEX CONCURRENTLY orders_pkey;"),
        ] {
            let verdicts = lint_text(sql, None, &[]);
            let said =
                verdicts[0].remarks.iter().find_map(|remark| remark.instead.as_deref()).unwrap_or_default();
            assert!(said.starts_with(instead), "{sql}: {said}");
        }
    }

    #[test]
    fn a_condition_that_always_holds_is_none() {
        for (sql, of) in [
            ("UPDATE orders SET a = 1 WHERE true", "all rows of `orders`"),
            ("UPDATE orders SET a = 1 WHERE b AND true", "some rows of `orders`"),
            ("UPDATE orders SET a = 1 WHERE false", "some rows of `orders`"),
        ] {
            let verdicts = lint_text(sql, None, &[]);
            let loss = verdicts[0].remarks.iter().find(|remark| remark.rule == "data_loss").unwrap();
            assert!(loss.message.contains(of), "{sql}: {}", loss.message);
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
        let source = concat!(
            include_str!("judge.rs"),
            include_str!("columns.rs"),
            include_str!("constraints.rs"),
            include_str!("indexes.rs"),
            include_str!("objects.rs"),
            include_str!("rows.rs"),
            include_str!("tables.rs"),
            include_str!("verdict.rs")
        );
        for code in codes {
            assert!(source.contains(&format!("\"{code}\"")), "`{code}` is never found");
        }
    }
}
