//! Indexes: made, attached, built anew.

use contract::Severity;

use super::judge::{Judge, with_word};
use super::lock::Lock;
use super::operation::{Name, Operation, Statement, Target, quote};
use super::verdict::{Effects, Work};
use super::world::{IndexState, Relation, Shape, World, key};

impl Judge<'_> {
    pub(super) fn index_operation(
        &mut self,
        operation: &Operation,
        statement: &Statement,
        effects: &mut Effects,
    ) {
        match operation {
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
            // Never taken for harmless.
            other => effects.unjudged(
                "unknown_statement",
                "",
                format!("nobody taught the judge `{other:?}`: it may block"),
            ),
        }
    }

    fn create_index(&mut self, operation: &Operation, statement: &Statement, effects: &mut Effects) {
        let Operation::CreateIndex {
            index,
            table,
            only,
            unique,
            concurrently,
            if_not_exists,
            method: _,
            columns,
            predicate,
        } = operation
        else {
            return;
        };
        let Some((name, relation)) = self.table(table, statement, effects) else { return };
        if *concurrently {
            self.refuse_in_transaction("CREATE INDEX CONCURRENTLY", &name, effects);
        }
        let lock = if *concurrently { Lock::ShareUpdateExclusive } else { Lock::Share };
        let index_key = index
            .as_ref()
            .map(|index| key(&Name { namespace: table.namespace.clone(), name: index.clone() }));
        effects.lock(&name, lock);
        if relation.shape == Shape::View {
            effects.fail(format!("`{name}` is a view"));
            return;
        }
        if *concurrently && relation.shape == Shape::Partitioned {
            effects.fail(format!("an index on the partitioned table `{name}` cannot be built concurrently"));
            effects.instead("CREATE INDEX … ON ONLY, then CREATE INDEX CONCURRENTLY on each partition, then ALTER INDEX … ATTACH PARTITION");
            return;
        }
        if let Some(index) = &index_key
            && (self.world.index_table(index).is_some() || self.world.known(index))
        {
            if *if_not_exists {
                effects.no_effect(index, format!("`{index}` exists already"));
                let invalid = relation
                    .indexes
                    .iter()
                    .any(|known| key(&Name::bare(&known.name)) == *index && !known.valid);
                if invalid {
                    effects.remark(
                        "invalid_leftover",
                        Severity::Critical,
                        index,
                        format!("`{index}` is what a failed build left behind: nothing uses it, and nothing is built"),
                    ).instead = Some(format!("DROP INDEX CONCURRENTLY {index}, then build it again"));
                }
            } else {
                effects.fail(format!("relation `{index}` exists already"));
            }
            return;
        }
        for column in columns {
            let plain = column.split_whitespace().next().unwrap_or_default().trim_matches('"');
            if !column.contains(['(', ':']) && relation.complete && relation.column(plain).is_none() {
                effects.fail(format!("column `{plain}` of `{name}` does not exist"));
                return;
            }
        }
        if *only && relation.shape == Shape::Partitioned {
            // An index on the parent alone is an entry in the catalog.
        } else {
            if !concurrently {
                for partition in self.world.partitions(&name) {
                    effects.lock(&partition, lock);
                }
            }
            effects.work(&name, Work::IndexBuild, relation.weight());
            effects.instead(format!(
                "{}; in a migration that says `-- steward: no-transaction`",
                with_word(&statement.sql, "INDEX", "CONCURRENTLY")
            ));
        }
        if *concurrently && !relation.new {
            let left = index_key.clone().unwrap_or_else(|| "the index".into());
            effects.remark(
                "invalid_leftover",
                Severity::Info,
                &name,
                format!("if the build fails, `{left}` stays behind, invalid"),
            );
        }
        let made = IndexState {
            name: index.clone().unwrap_or_default(),
            columns: columns
                .iter()
                .map(|column| {
                    column.split_whitespace().next().unwrap_or_default().trim_matches('"').to_owned()
                })
                .collect(),
            unique: *unique,
            valid: !only,
            plain: predicate.is_none() && !columns.iter().any(|column| column.contains('(')),
            backs_constraint: false,
        };
        if !made.name.is_empty() {
            self.world.add_index(&name, made);
        }
    }

    fn reindex(&mut self, target: &Target, concurrently: bool, statement: &Statement, effects: &mut Effects) {
        if concurrently {
            self.refuse_in_transaction("REINDEX CONCURRENTLY", "", effects);
        }
        let tables: Vec<(String, Relation)> = match target {
            Target::Table(table) => self.table(table, statement, effects).into_iter().collect(),
            Target::Index(index) => {
                let index = key(index);
                match self.world.index_table(&index).cloned() {
                    Some(table) => {
                        self.world.relation(&table).map(|relation| (table, relation)).into_iter().collect()
                    }
                    None if self.world.connected => {
                        effects.fail(format!("relation `{index}` does not exist"));
                        return;
                    }
                    None => {
                        effects.assumed.insert(format!("the table of `{index}` is large"));
                        vec![(format!("the table of {index}"), self.assumed_table())]
                    }
                }
            }
            Target::Schema(_) | Target::Database => {
                if !concurrently {
                    self.refuse_in_transaction("REINDEX of a schema or database", "", effects);
                }
                let of = |name: &str| match target {
                    Target::Schema(schema) if schema == "public" => !name.contains('.'),
                    Target::Schema(schema) => name.starts_with(&format!("{schema}.")),
                    _ => true,
                };
                self.world
                    .relations()
                    .filter(|(name, relation)| {
                        of(name) && !relation.indexes.is_empty() && relation.shape == Shape::Table
                    })
                    .map(|(name, relation)| (name.clone(), relation.clone()))
                    .collect()
            }
        };
        let everything = matches!(target, Target::Schema(_) | Target::Database) && !self.world.connected;
        let tables = if everything { vec![("every table".to_owned(), self.assumed_table())] } else { tables };
        for (name, relation) in tables {
            let lock = if concurrently { Lock::ShareUpdateExclusive } else { Lock::Share };
            self.lock_tree(&name, lock, effects);
            if !concurrently {
                effects.index_lock(Lock::AccessExclusive);
            }
            effects.work(&name, Work::IndexBuild, relation.weight());
        }
        let object = match target {
            Target::Table(name) => format!("TABLE CONCURRENTLY {}", name.quoted()),
            Target::Index(name) => format!("INDEX CONCURRENTLY {}", name.quoted()),
            Target::Schema(name) => format!("SCHEMA CONCURRENTLY {}", quote(name)),
            Target::Database => "DATABASE CONCURRENTLY".to_owned(),
        };
        effects.instead(format!(
            "REINDEX {object}; in a migration that says `-- steward: no-transaction`; or `steward index rebuild`"
        ));
    }

    pub(super) fn assumed_table(&self) -> Relation {
        World::offline(self.world.version).relation("").expect("offline, every table exists")
    }
}
