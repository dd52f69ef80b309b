//! Whole tables: partitions, storage, what is switched on and off.

use contract::Severity;

use super::judge::{Judge, foreign_parent};
use super::lock::Lock;
use super::operation::{Name, Operation, Statement, Target};
use super::verdict::{Effects, Work};
use super::world::{ConstraintKind, Relation, Shape, Weight, conjuncts, key};

impl Judge<'_> {
    pub(super) fn table_operation(
        &mut self,
        operation: &Operation,
        statement: &Statement,
        effects: &mut Effects,
    ) {
        match operation {
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
            // Never taken for harmless.
            other => effects.unjudged(
                "unknown_statement",
                "",
                format!("nobody taught the judge `{other:?}`: it may block"),
            ),
        }
    }

    fn attach(
        &mut self,
        table: &Name,
        partition: &Name,
        default: bool,
        bound: &str,
        statement: &Statement,
        effects: &mut Effects,
    ) {
        let Some((name, parent)) = self.table(table, statement, effects) else { return };
        let Some((part, found)) = self.table(partition, statement, effects) else { return };
        effects.lock(&name, Lock::ShareUpdateExclusive);
        self.lock_tree(&part, Lock::AccessExclusive, effects);
        if parent.complete && parent.shape != Shape::Partitioned {
            effects.fail(format!("`{name}` is not partitioned"));
            return;
        }
        if found.parent.is_some() {
            effects.fail(format!("`{part}` is a partition already"));
            return;
        }
        if default && self.world.default_partition(&name).is_some() {
            effects.fail(format!("`{name}` has a default partition already"));
            return;
        }
        for column in &parent.columns {
            match found.column(&column.name) {
                None if found.complete => effects.fail(format!("`{part}` has no column `{}`", column.name)),
                Some(own) if own.type_name != column.type_name => {
                    effects.fail(format!("`{part}.{}` has another type than in `{name}`", column.name));
                }
                _ => {}
            }
        }
        // With a check that says what the bound says, no row is read.
        let key_column = parent
            .partition_key
            .as_deref()
            .and_then(|partition_key| partition_key.split_once('('))
            .map(|(_, rest)| rest.trim_end_matches(')').trim().trim_matches('"').to_owned());
        let proven = !default && key_column.as_deref().is_some_and(|column| implies(&found, column, bound));
        if !proven {
            effects.work(&part, Work::Scan, found.weight());
            effects.instead(format!(
                "add a CHECK to {part} that says what the bound says, NOT VALID, then VALIDATE it, then attach"
            ));
        }
        // Indexes of the parent that the part lacks are built while it is locked.
        let lacks = parent.indexes.iter().any(|wanted| {
            !found
                .indexes
                .iter()
                .any(|own| own.columns == wanted.columns && own.unique == wanted.unique && own.valid)
        });
        if lacks && found.complete {
            effects.work(&part, Work::IndexBuild, found.weight());
            effects.instead(format!(
                "build the indexes of {name} on {part} with CREATE INDEX CONCURRENTLY first"
            ));
        }
        for (other, _) in parent.constraints.iter().filter_map(foreign_parent) {
            effects.lock(&other, Lock::ShareRowExclusive);
            effects.work(&part, Work::Scan, found.weight());
        }
        if let Some(existing) = self.world.default_partition(&name) {
            effects.lock(&existing, Lock::AccessExclusive);
            if let Some(relation) = self.world.relation(&existing) {
                effects.work(&existing, Work::Scan, relation.weight());
            }
        }
        if let Some(part) = self.world.relation_mut(&part) {
            part.parent = Some(name);
            part.bound = Some(if default { "DEFAULT".into() } else { bound.to_owned() });
        }
    }
}

/// Whether an expression names the column.
pub(super) fn mentions(expression: &str, column: &str) -> bool {
    expression
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .any(|word| word.eq_ignore_ascii_case(column))
}

/// A literal without quotes, casts and parentheses.
fn literal(text: &str) -> String {
    let text = text.trim().trim_matches(['(', ')']).trim();
    let text = text.split("::").next().unwrap_or(text).trim();
    text.trim_matches('\'').to_owned()
}

/// Compares two literals as numbers if both are, else as text, which orders ISO dates too.
fn compare(a: &str, b: &str) -> std::cmp::Ordering {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    }
}

/// Whether a validated check of the table says at least what the bound says.
fn implies(part: &Relation, column: &str, bound: &str) -> bool {
    let parts: Vec<String> = part
        .constraints
        .iter()
        .filter(|constraint| constraint.validated)
        .filter_map(|constraint| match &constraint.kind {
            ConstraintKind::Check { expression } => Some(conjuncts(expression)),
            _ => None,
        })
        .flatten()
        .collect();
    let present = part.column(column).is_some_and(|column| !column.nullable) || part.proven_not_null(column);
    let comparison = |operator: &str| -> Vec<String> {
        parts
            .iter()
            .filter_map(|part| {
                let (left, right) = part.split_once(operator)?;
                let same = left.trim().trim_matches(['(', ')', '"']).eq_ignore_ascii_case(column);
                (same && !right.starts_with('=')).then(|| literal(right))
            })
            .collect()
    };
    let upper = bound.to_ascii_uppercase();
    let within = |from: &str, to: &str| -> Option<String> {
        let start = upper.find(from)? + from.len();
        let end = start + upper[start..].find(to)?;
        Some(bound[start..end].to_owned())
    };
    if let (Some(low), Some(high)) = (within("FROM (", ")"), within("TO (", ")")) {
        let (low, high) = (literal(&low), literal(&high));
        let above = low == "MINVALUE" || comparison(" >= ").iter().any(|value| compare(value, &low).is_ge());
        let below = high == "MAXVALUE" || comparison(" < ").iter().any(|value| compare(value, &high).is_le());
        return present && above && below;
    }
    if let Some(values) = within("IN (", ")") {
        let wanted: Vec<String> = values.split(',').map(literal).collect();
        let equal = comparison(" = ");
        return present && equal.iter().any(|value| wanted.contains(value));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_says_what_the_bound_says_is_recognised() {
        let mut part = Relation::made(Shape::Table);
        part.constraints.push(super::super::world::ConstraintState {
            name: "c".into(),
            kind: ConstraintKind::Check {
                expression:
                    "((day IS NOT NULL) AND (day >= '2026-01-01'::date) AND (day < '2026-02-01'::date))"
                        .into(),
            },
            validated: true,
        });
        for (bound, expected) in [
            ("FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')", true),
            ("FOR VALUES FROM ('2025-12-01') TO ('2026-03-01')", true),
            ("FOR VALUES FROM ('2026-01-02') TO ('2026-02-01')", false),
            ("FOR VALUES FROM (MINVALUE) TO ('2026-02-01')", true),
            ("FOR VALUES IN ('2026-01-01')", false),
        ] {
            assert_eq!(implies(&part, "day", bound), expected, "{bound}");
        }
        part.constraints[0].validated = false;
        assert!(!implies(&part, "day", "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')"));
    }
}
