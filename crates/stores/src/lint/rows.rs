//! Rows: changed, read, moved and locked.

use std::collections::BTreeSet;

use contract::Severity;

use super::judge::{Judge, foreign_parent, names};
use super::lock::Lock;
use super::operation::{Name, Operation, Reach, Statement};
use super::verdict::{Effects, Work};
use super::world::{ROWS_SMALL, Relation, Shape, Weight};

impl Judge<'_> {
    #[allow(clippy::single_match_else, reason = "both arms are of one weight")]
    pub(super) fn row_operation(
        &mut self,
        operation: &Operation,
        statement: &Statement,
        effects: &mut Effects,
    ) {
        match operation {
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
            // Never taken for harmless.
            other => effects.unjudged(
                "unknown_statement",
                "",
                format!("nobody taught the judge `{other:?}`: it may block"),
            ),
        }
    }

    /// Foreign keys look into the tables that they refer to.
    fn write_relations(name: &str, relation: &Relation, effects: &mut Effects) {
        for (parent, _) in relation.constraints.iter().filter_map(foreign_parent) {
            if parent != name {
                effects.lock(&parent, Lock::RowShare);
            }
        }
    }

    fn rows_changed(
        &self,
        name: &str,
        relation: &Relation,
        reach: Reach,
        condition: Option<&str>,
        effects: &mut Effects,
    ) {
        let estimate = condition.and_then(|condition| {
            self.world.row_estimates.get(&format!("{name} WHERE {}", condition.trim())).copied()
        });
        match (reach, estimate) {
            (Reach::Listed, _) => {}
            (Reach::Some, Some(rows)) if rows < ROWS_SMALL => {}
            (_, Some(rows)) if !relation.new => effects.work(name, Work::RowsChanged, Weight::Big(rows)),
            _ => effects.work(name, Work::RowsChanged, relation.weight()),
        }
        if reach != Reach::Listed {
            effects.instead(format!(
                "change {name} in batches by key range, each in a transaction of its own; `steward migration plan --safe` writes them"
            ));
        }
    }

    /// A value that the open transaction adds to an enum cannot be used in it.
    fn uses_new_value(&self, statement: &Statement, effects: &mut Effects) {
        if self.held.is_none() {
            return;
        }
        if let Some(value) =
            self.new_values.iter().find(|value| statement.sql.contains(&format!("'{value}'")))
        {
            effects.remark(
                "enum_value_unusable",
                Severity::Critical,
                value,
                format!("`{value}` is used in the transaction that adds it"),
            );
            effects.fail(format!("`{value}` is used in the transaction that adds it"));
        }
    }

    /// The tables named, or all there are.
    fn these_or_all(
        &self,
        tables: &[Name],
        statement: &Statement,
        effects: &mut Effects,
    ) -> Vec<(String, Relation)> {
        let named: Vec<(String, Relation)> =
            tables.iter().filter_map(|table| self.table(table, statement, effects)).collect();
        let mut out = named;
        if tables.is_empty() {
            out = self
                .world
                .relations()
                .filter(|(_, it)| {
                    matches!(it.shape, Shape::Table | Shape::Partitioned | Shape::MaterializedView)
                })
                .map(|(name, relation)| (name.clone(), relation.clone()))
                .collect();
            if !self.world.connected {
                out.push(("every table".to_owned(), self.assumed_table()));
            }
        }
        let mut parts = Vec::new();
        for (name, _) in &out {
            for partition in self.world.partitions(name) {
                if let Some(relation) = self.world.relation(&partition) {
                    parts.push((partition, relation));
                }
            }
        }
        out.extend(parts);
        out
    }
}
