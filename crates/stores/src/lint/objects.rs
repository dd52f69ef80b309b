//! Everything beside tables and indexes; and whatever is dropped, renamed or given away.

use contract::Severity;

use super::judge::{Judge, foreign_parent, names};
use super::lock::Lock;
use super::operation::{Kind, Name, Operation, Statement, TypeName};
use super::verdict::{Effects, Work};
use super::world::{ConstraintKind, Relation, Shape, Weight, key};

impl Judge<'_> {
    pub(super) fn object_operation(
        &mut self,
        operation: &Operation,
        statement: &Statement,
        effects: &mut Effects,
    ) {
        match operation {
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
                    // Also VALIDATE: measured on 15, 17 and 18.
                    let lock = Lock::Share;
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
            // Never taken for harmless.
            other => effects.unjudged(
                "unknown_statement",
                "",
                format!("nobody taught the judge `{other:?}`: it may block"),
            ),
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each kind")]
    fn drop(&mut self, operation: &Operation, effects: &mut Effects) {
        let Operation::Drop { kind, object, if_exists, cascade, concurrently, table } = operation else {
            return;
        };
        let name = key(object);
        let missing = |effects: &mut Effects| {
            if *if_exists {
                effects.no_effect(&name, format!("`{name}` does not exist"));
            } else {
                effects.fail(format!("{kind} `{name}` does not exist"));
            }
        };
        match kind {
            Kind::Table | Kind::View | Kind::MaterializedView | Kind::Sequence | Kind::ForeignTable => {
                let Some(relation) = self.world.relation(&name) else {
                    missing(effects);
                    return;
                };
                self.lock_tree(&name, Lock::AccessExclusive, effects);
                let fits = match kind {
                    Kind::Table => matches!(relation.shape, Shape::Table | Shape::Partitioned),
                    Kind::View => relation.shape == Shape::View,
                    Kind::MaterializedView => relation.shape == Shape::MaterializedView,
                    Kind::Sequence => relation.shape == Shape::Sequence,
                    _ => true,
                };
                if !fits && self.world.connected {
                    effects.fail(format!("`{name}` is no {kind}"));
                    return;
                }
                self.depends(&name, &relation, None, *cascade, effects);
                self.drop_foreign(&name, &relation, None, *cascade, effects);
                for (parent, _) in relation.constraints.iter().filter_map(foreign_parent) {
                    effects.lock(&parent, Lock::AccessExclusive);
                }
                if let Some(parent) = &relation.parent {
                    effects.lock(parent, Lock::AccessExclusive);
                    if let Some(default) = self.world.default_partition(parent) {
                        effects.lock(&default, Lock::AccessExclusive);
                    }
                }
                if !relation.new {
                    effects.breaks(&name, format!("statements that name `{name}` fail"));
                }
                if effects.fails.is_none() {
                    for partition in self.world.partitions(&name) {
                        self.world.remove(&partition);
                    }
                    self.world.remove(&name);
                }
            }
            Kind::Index => {
                if *concurrently {
                    self.refuse_in_transaction("DROP INDEX CONCURRENTLY", &name, effects);
                }
                let lock = if *concurrently { Lock::ShareUpdateExclusive } else { Lock::AccessExclusive };
                let Some(table) = self.world.index_table(&name).cloned() else {
                    if self.world.connected {
                        missing(effects);
                    } else {
                        effects.assumed.insert(format!("`{name}` is the index of a table that others use"));
                        effects.lock(&format!("the table of {name}"), lock);
                    }
                    return;
                };
                self.lock_tree(&table, lock, effects);
                if !concurrently {
                    effects.index_lock(Lock::AccessExclusive);
                }
                let relation = self.world.relation(&table);
                let bare = name.rsplit('.').next().unwrap_or(&name);
                let backs = relation.as_ref().is_some_and(|relation| {
                    relation.indexes.iter().any(|index| index.name == bare && index.backs_constraint)
                });
                if backs {
                    effects.fail(format!("the constraint `{bare}` of `{table}` needs it"));
                } else if *concurrently && relation.is_some_and(|it| it.shape == Shape::Partitioned) {
                    effects.fail(format!("`{name}` is the index of a partitioned table"));
                } else {
                    if *cascade && *concurrently {
                        effects.fail("DROP INDEX CONCURRENTLY knows no CASCADE".into());
                    }
                    self.world.remove_index(&name);
                }
            }
            Kind::Trigger | Kind::Rule | Kind::Policy => {
                let Some(table) = table else { return };
                let table = key(table);
                match self.world.relation(&table) {
                    Some(_) => self.lock_tree(&table, Lock::AccessExclusive, effects),
                    None if *if_exists => missing(effects),
                    None => effects.fail(format!("relation `{table}` does not exist")),
                }
                effects.remark(
                    "changes_rights",
                    Severity::Warning,
                    &table,
                    format!("what the {kind} `{name}` enforces is not enforced"),
                );
            }
            Kind::Schema => {
                if self.world.connected && !self.world.has_schema(&name) {
                    missing(effects);
                    return;
                }
                let prefix = format!("{name}.");
                let inside: Vec<String> = self
                    .world
                    .relations()
                    .filter(|(relation, _)| {
                        relation.starts_with(&prefix) || name == "public" && !relation.contains('.')
                    })
                    .map(|(relation, _)| relation.clone())
                    .collect();
                if !cascade && !inside.is_empty() {
                    effects.fail(format!("`{name}` is not empty"));
                    return;
                }
                for relation in &inside {
                    effects.lock(relation, Lock::AccessExclusive);
                }
                if *cascade {
                    effects.breaks(&name, format!("statements that name what is in `{name}` fail"));
                    if !self.world.connected {
                        effects.lock(&format!("every table in {name}"), Lock::AccessExclusive);
                    }
                }
                self.world.remove_schema(&name);
            }
            Kind::Type | Kind::Domain => {
                if self.world.connected && !self.world.has_type(&name) {
                    missing(effects);
                    return;
                }
                let users: Vec<String> = self
                    .world
                    .relations()
                    .filter(|(_, it)| it.columns.iter().any(|column| column.type_name.base == name))
                    .map(|(relation, _)| relation.clone())
                    .collect();
                for user in users {
                    if *cascade {
                        self.lock_tree(&user, Lock::AccessExclusive, effects);
                        effects.breaks(&user, format!("statements that name them in `{user}` fail"));
                    } else {
                        effects.fail(format!("`{user}` has columns of type `{name}`"));
                    }
                }
                self.world.remove_type(&name);
            }
            Kind::Extension => {
                if self.world.connected && !self.world.has_extension(&name) {
                    missing(effects);
                    return;
                }
                effects.breaks(&name, format!("statements that use `{name}` fail"));
            }
            Kind::Database => {
                self.refuse_in_transaction("DROP DATABASE", &name, effects);
            }
            Kind::Owned => {
                effects.unjudged = true;
            }
            Kind::Function => effects.breaks(&name, format!("statements that call `{name}` fail")),
            _ => {
                effects.remark(
                    "changes_rights",
                    Severity::Warning,
                    &name,
                    format!("{kind} `{name}` is gone"),
                );
            }
        }
    }

    /// Views that read what goes away.
    pub(super) fn depends(
        &self,
        name: &str,
        relation: &Relation,
        column: Option<&str>,
        cascade: bool,
        effects: &mut Effects,
    ) {
        for (view, viewed) in &relation.viewed {
            if column.is_some_and(|column| viewed != column) || !self.world.known(view) {
                continue;
            }
            if cascade {
                effects.lock(view, Lock::AccessExclusive);
                effects.breaks(view, format!("the view `{view}` goes too"));
            } else {
                let what = column.map_or_else(|| name.to_owned(), |column| format!("{name}.{column}"));
                effects.fail(format!("the view `{view}` uses `{what}`"));
            }
        }
    }

    /// Foreign keys of others that need what goes away, and own ones that go with a column.
    pub(super) fn drop_foreign(
        &self,
        name: &str,
        relation: &Relation,
        column: Option<&str>,
        cascade: bool,
        effects: &mut Effects,
    ) {
        if let Some(column) = column {
            for constraint in &relation.constraints {
                if let ConstraintKind::ForeignKey { columns, parent, .. } = &constraint.kind
                    && columns.iter().any(|known| known == column)
                {
                    effects.lock(parent, Lock::AccessExclusive);
                }
            }
        }
        for (child, constraint) in self.world.referring(name) {
            let ConstraintKind::ForeignKey { parent_columns, .. } = &constraint.kind else { continue };
            if child == name || column.is_some_and(|column| !parent_columns.iter().any(|it| it == column)) {
                continue;
            }
            if cascade {
                effects.lock(&child, Lock::AccessExclusive);
            } else {
                effects.fail(format!("the foreign key `{}` of `{child}` needs it", constraint.name));
            }
        }
    }

    fn rename(
        &mut self,
        kind: Kind,
        object: &Name,
        to: &str,
        table: Option<&Name>,
        statement: &Statement,
        effects: &mut Effects,
    ) {
        let name = key(object);
        let target = key(&Name { namespace: object.namespace.clone(), name: to.to_owned() });
        match kind {
            Kind::Table | Kind::View | Kind::MaterializedView | Kind::Sequence | Kind::ForeignTable => {
                if statement.operations.len() > 1 {
                    effects.fail("RENAME cannot stand beside other actions".into());
                    return;
                }
                let Some((name, relation)) = self.table(object, statement, effects) else { return };
                effects.lock(&name, Lock::AccessExclusive);
                if self.world.known(&target) {
                    effects.fail(format!("relation `{target}` exists already"));
                    return;
                }
                if !relation.new {
                    effects
                        .breaks(&name, format!("statements that name `{name}` fail; it is now `{target}`"));
                }
                self.world.rename(&name, &target);
            }
            Kind::Index => match self.world.index_table(&name).cloned() {
                Some(_) => effects.index_lock(Lock::ShareUpdateExclusive),
                None if self.world.connected && statement.if_exists => {
                    effects.no_effect(&name, format!("`{name}` does not exist"));
                }
                None if self.world.connected => effects.fail(format!("relation `{name}` does not exist")),
                None => {}
            },
            Kind::Constraint | Kind::Trigger | Kind::Rule | Kind::Policy => {
                let Some(table) = table else { return };
                let Some((table, relation)) = self.table(table, statement, effects) else { return };
                effects.lock(&table, Lock::AccessExclusive);
                if kind == Kind::Constraint && relation.complete && relation.constraint(&name).is_none() {
                    effects.fail(format!("constraint `{name}` of `{table}` does not exist"));
                }
                if let Some(relation) = self.world.relation_mut(&table) {
                    for constraint in relation.constraints.iter_mut().filter(|it| it.name == name) {
                        to.clone_into(&mut constraint.name);
                    }
                }
            }
            _ => {
                if kind == Kind::Type && self.world.connected && !self.world.has_type(&name) {
                    effects.fail(format!("type `{name}` does not exist"));
                }
                effects.breaks(&name, format!("statements that name `{name}` fail; it is now `{target}`"));
            }
        }
    }
}
