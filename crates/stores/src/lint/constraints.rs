//! Constraints: what they cost to add, to prove and to drop.

use contract::Severity;

use super::judge::{Judge, constraint_state, index_of, list};
use super::lock::Lock;
use super::operation::{Demand, Name, NewConstraint, Operation, Statement, quote};
use super::verdict::{Effects, Work};
use super::world::{ConstraintKind, Relation, Shape, key};

impl Judge<'_> {
    pub(super) fn constraint_operation(
        &mut self,
        operation: &Operation,
        statement: &Statement,
        effects: &mut Effects,
    ) {
        match operation {
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
            // Never taken for harmless.
            other => effects.unjudged(
                "unknown_statement",
                "",
                format!("nobody taught the judge `{other:?}`: it may block"),
            ),
        }
    }

    pub(super) fn one_primary_key(name: &str, relation: &Relation, effects: &mut Effects) {
        if relation.constraints.iter().any(|known| known.kind == ConstraintKind::PrimaryKey) {
            effects.fail(format!("`{name}` has a primary key already"));
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each kind")]
    fn add_constraint(
        &mut self,
        name: &str,
        relation: &Relation,
        constraint: &NewConstraint,
        effects: &mut Effects,
    ) {
        let state = constraint_state(name, constraint);
        let lock = match constraint.demand {
            Demand::ForeignKey { .. } => Lock::ShareRowExclusive,
            _ => Lock::AccessExclusive,
        };
        self.lock_tree(name, lock, effects);
        if relation.constraints.iter().any(|known| known.name == state.name) && constraint.name.is_some() {
            effects.fail(format!("constraint `{}` of `{name}` exists already", state.name));
            return;
        }
        if constraint.not_enforced && self.world.version.is_some_and(|version| version < 18) {
            effects.fail("NOT ENFORCED needs PostgreSQL 18".into());
            return;
        }
        let weight = relation.weight();
        let unchecked = constraint.not_valid || constraint.not_enforced;
        let (table, quoted) = (name, quote(&state.name));
        let validate = format!("in a migration of its own ALTER TABLE {table} VALIDATE CONSTRAINT {quoted}");
        match &constraint.demand {
            Demand::Check { expression } => {
                if !unchecked {
                    effects.work(name, Work::Scan, weight);
                    effects.instead(format!(
                        "ALTER TABLE {table} ADD CONSTRAINT {quoted} CHECK ({}) NOT VALID; {validate}",
                        expression.sql
                    ));
                }
                if !relation.new && !constraint.not_enforced {
                    effects.may_break(name, format!("writes that do not fit `{}` fail", state.name));
                }
            }
            Demand::NotNull { column } => {
                if self.world.version.is_some_and(|version| version < 18) {
                    effects.fail("NOT NULL as a table constraint needs PostgreSQL 18".into());
                    return;
                }
                if unchecked {
                    Self::column(relation, name, column, effects);
                } else {
                    self.set_not_null(name, relation, column, effects);
                }
            }
            Demand::PrimaryKey { columns, using_index } | Demand::Unique { columns, using_index } => {
                let primary = matches!(constraint.demand, Demand::PrimaryKey { .. });
                if primary {
                    Self::one_primary_key(name, relation, effects);
                }
                if let Some(index) = using_index {
                    Self::promote_index(name, relation, index, primary, effects);
                } else {
                    for column in columns {
                        Self::column(relation, name, column, effects);
                    }
                    effects.work(name, Work::IndexBuild, weight);
                    let what = if primary { "PRIMARY KEY" } else { "UNIQUE" };
                    effects.instead(format!(
                        "CREATE UNIQUE INDEX CONCURRENTLY {quoted} ON {table} ({}); then ALTER TABLE {table} ADD CONSTRAINT {quoted} {what} USING INDEX {quoted}",
                        list(columns)
                    ));
                    let holes = columns
                        .iter()
                        .filter_map(|column| relation.column(column))
                        .find(|column| column.nulls > 0.0);
                    if let Some(hole) = holes.filter(|_| primary) {
                        effects.fail(format!("`{name}.{}` holds NULLs", hole.name));
                    }
                }
            }
            Demand::Exclude => {
                effects.work(name, Work::IndexBuild, weight);
            }
            Demand::ForeignKey { columns, parent, parent_columns } => {
                self.add_foreign_key(name, relation, constraint, (columns, parent, parent_columns), effects);
                if !unchecked {
                    effects.instead(format!(
                        "ALTER TABLE {table} ADD CONSTRAINT {quoted} FOREIGN KEY ({}) REFERENCES {} NOT VALID; {validate}",
                        list(columns),
                        parent.quoted()
                    ));
                }
            }
        }
        if effects.fails.is_some() {
            return;
        }
        if unchecked {
            self.unchecked.insert((name.to_owned(), state.name.clone()));
        }
        let index = matches!(state.kind, ConstraintKind::PrimaryKey | ConstraintKind::Unique)
            .then(|| index_of(&state.name, constraint));
        if let Some(changed) = self.world.relation_mut(name) {
            changed.constraints.push(state);
        }
        if let Some(index) = index.filter(|index| !index.columns.is_empty()) {
            self.world.add_index(name, index);
        }
    }

    /// ADD CONSTRAINT … USING INDEX.
    fn promote_index(name: &str, relation: &Relation, index: &str, primary: bool, effects: &mut Effects) {
        effects.index_lock(Lock::AccessExclusive);
        let Some(found) = relation.indexes.iter().find(|known| known.name == index) else {
            if relation.complete {
                effects.fail(format!("index `{index}` of `{name}` does not exist"));
            } else if primary {
                effects.assumed.insert(format!("the columns of `{index}` may be NULL"));
                effects.work(name, Work::Scan, relation.weight());
            }
            return;
        };
        if found.backs_constraint {
            effects.fail(format!("`{index}` belongs to a constraint already"));
        } else if !found.unique {
            effects.fail(format!("`{index}` is not unique"));
        } else if !found.valid {
            effects.fail(format!("`{index}` is invalid"));
        } else if !found.plain {
            effects.fail(format!("`{index}` is partial or has expressions"));
        } else if primary {
            for column in &found.columns {
                let Some(state) = relation.column(column) else { continue };
                if state.nullable && !relation.proven_not_null(column) {
                    effects.work(name, Work::Scan, relation.weight());
                    effects.instead(format!(
                        "make `{name}.{column}` NOT NULL first, through a validated CHECK: the key then reads nothing"
                    ));
                    if state.nulls > 0.0 {
                        effects.fail(format!("`{name}.{column}` holds NULLs"));
                    }
                }
            }
        }
    }

    fn add_foreign_key(
        &self,
        name: &str,
        relation: &Relation,
        constraint: &NewConstraint,
        (columns, parent, parent_columns): (&[String], &Name, &[String]),
        effects: &mut Effects,
    ) {
        let parent_name = key(parent);
        let Some(parent) = self.world.relation(&parent_name) else {
            effects.fail(format!("relation `{parent_name}` does not exist"));
            return;
        };
        self.lock_tree(&parent_name, Lock::ShareRowExclusive, effects);
        for column in columns {
            Self::column(relation, name, column, effects);
        }
        for column in parent_columns {
            Self::column(&parent, &parent_name, column, effects);
        }
        if parent.complete && effects.fails.is_none() {
            let keyed = if parent_columns.is_empty() {
                parent.constraints.iter().any(|known| known.kind == ConstraintKind::PrimaryKey)
            } else {
                let mut wanted: Vec<&String> = parent_columns.iter().collect();
                wanted.sort();
                parent.indexes.iter().any(|index| {
                    let mut has: Vec<&String> = index.columns.iter().collect();
                    has.sort();
                    index.unique && index.valid && index.plain && has == wanted
                })
            };
            if !keyed {
                effects.fail(format!("`{parent_name}` has no unique key on the columns referred to"));
            }
        }
        let old_partitioned = self.world.version.is_some_and(|version| version < 18);
        if constraint.not_valid && relation.shape == Shape::Partitioned && old_partitioned {
            effects.fail(format!(
                "`{name}` is partitioned, and NOT VALID foreign keys on those need PostgreSQL 18"
            ));
        }
        if !constraint.not_valid && !constraint.not_enforced {
            effects.work(name, Work::Scan, relation.weight());
        }
        let led = relation.indexes.iter().any(|index| {
            columns.len() <= index.columns.len()
                && columns.iter().all(|column| index.columns[..columns.len()].contains(column))
        });
        if relation.complete && !led {
            let message = format!("no index of `{name}` leads with {}", list(columns));
            effects.remark("foreign_key_without_index", Severity::Info, name, message).instead =
                Some(format!("CREATE INDEX CONCURRENTLY ON {name} ({})", list(columns)));
        }
        if !relation.new {
            effects.may_break(name, format!("writes to `{name}` whose reference leads nowhere fail"));
        }
    }
}
