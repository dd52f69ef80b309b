//! Tables that are made, and their columns.

use contract::Severity;

use super::judge::{Judge, constraint_state, foreign_parent, index_of};
use super::lock::Lock;
use super::operation::{
    Demand, Expression, Generated, NewColumn, NewConstraint, Operation, Statement, TypeName, quote,
};
use super::tables::mentions;
use super::types::{TypeChange, type_change};
use super::verdict::{Effects, Work};
use super::world::{ColumnState, ConstraintKind, ROWS_SMALL, Relation, Shape, key};

impl Judge<'_> {
    pub(super) fn column_operation(
        &mut self,
        operation: &Operation,
        statement: &Statement,
        effects: &mut Effects,
    ) {
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
            // Never taken for harmless.
            other => effects.unjudged(
                "unknown_statement",
                "",
                format!("nobody taught the judge `{other:?}`: it may block"),
            ),
        }
    }

    fn column_state(column: &NewColumn) -> ColumnState {
        let type_name = column.type_name.clone().unwrap_or_else(|| TypeName::read("text"));
        let serial = type_name.serial().is_some();
        ColumnState {
            name: column.name.clone(),
            type_name: type_name.serial().map_or_else(|| type_name.clone(), TypeName::read),
            nullable: !column.not_null && !serial && column.generated != Some(Generated::Identity),
            has_default: column.default.is_some() || serial || column.generated.is_some(),
            generated: column.generated.map(|generated| format!("{generated:?}").to_uppercase()),
            nulls: 0.0,
        }
    }

    /// Foreign keys of a new table lock the tables that they refer to.
    fn create_table(
        &self,
        name: &str,
        columns: &[NewColumn],
        constraints: &[NewConstraint],
        effects: &mut Effects,
    ) {
        for constraint in constraints.iter().chain(columns.iter().flat_map(|column| &column.constraints)) {
            if let Demand::ForeignKey { parent, .. } = &constraint.demand {
                let parent = key(parent);
                if parent == name {
                    continue;
                }
                match self.world.relation(&parent) {
                    Some(_) => effects.lock(&parent, Lock::ShareRowExclusive),
                    None => effects.fail(format!("relation `{parent}` does not exist")),
                }
            }
        }
    }

    /// Why the column is written into every row that is there.
    fn rewriting_column(&self, column: &NewColumn) -> Option<String> {
        let type_name = column.type_name.as_ref();
        if type_name.is_some_and(|found| found.serial().is_some()) {
            return Some("a serial column gives each row its own number".into());
        }
        match column.generated {
            Some(Generated::Identity) => {
                return Some("an identity column gives each row its own number".into());
            }
            Some(Generated::Stored) => {
                return Some("a stored generated column is computed for each row".into());
            }
            Some(Generated::Unsaid) if self.world.version.is_none_or(|version| version < 18) => {
                return Some("a generated column is stored before PostgreSQL 18".into());
            }
            _ => {}
        }
        if let Some((_, true)) = type_name.and_then(|found| self.world.domains.get(&found.base)) {
            return Some("a domain with constraints is checked by writing each row".into());
        }
        column
            .default
            .as_ref()
            .and_then(|default| self.world.volatile(&default.calls))
            .map(|function| format!("`{function}()` gives each row another value"))
    }

    fn add_column(&mut self, name: &str, relation: &Relation, column: &NewColumn, effects: &mut Effects) {
        let object = format!("{name}.{}", column.name);
        let weight = relation.weight();
        let (table, quoted) = (name, quote(&column.name));
        if column.generated == Some(Generated::Virtual) && self.world.version.is_some_and(|it| it < 18) {
            effects.fail("virtual generated columns need PostgreSQL 18".into());
            return;
        }
        let rewriting = self.rewriting_column(column);
        let computed = rewriting.is_some() || column.generated.is_some();
        let null_default =
            column.default.as_ref().is_none_or(|default| default.sql.eq_ignore_ascii_case("null"));
        let key = column.constraints.iter().any(|it| matches!(it.demand, Demand::PrimaryKey { .. }));
        let rows = relation.rows.unwrap_or(ROWS_SMALL);
        if (column.not_null || key) && null_default && !computed {
            if !relation.new && relation.rows != Some(0) {
                effects
                    .remark(
                        "required_column",
                        Severity::Critical,
                        &object,
                        format!("`{object}` is required and has no default, and `{name}` has rows"),
                    )
                    .instead = Some(format!(
                    "ALTER TABLE {table} ADD COLUMN {quoted} …; fill it in batches; then SET NOT NULL through a validated CHECK"
                ));
                effects.fail(format!("`{object}` would hold NULLs"));
            } else if !relation.new {
                effects.breaks(name, format!("inserts that do not name `{object}` fail"));
            }
        }
        if let Some(reason) = rewriting {
            effects.work(name, Work::Rewrite, weight);
            effects.instead(format!(
                "{reason}: ALTER TABLE {table} ADD COLUMN {quoted} without it, fill the rows in batches, then set the default"
            ));
        } else if matches!(column.generated, Some(Generated::Virtual | Generated::Unsaid)) && column.not_null
        {
            effects.work(name, Work::Scan, weight);
        }
        for constraint in &column.constraints {
            match &constraint.demand {
                Demand::Check { expression } => {
                    effects.work(name, Work::Scan, weight);
                    effects.instead(format!(
                        "ALTER TABLE {table} ADD COLUMN {quoted} without the check, then ADD CONSTRAINT … CHECK ({}) NOT VALID, then VALIDATE CONSTRAINT in a migration of its own",
                        expression.sql
                    ));
                }
                Demand::PrimaryKey { .. } | Demand::Unique { .. } => {
                    effects.work(name, Work::IndexBuild, weight);
                    effects.instead(format!(
                        "ALTER TABLE {table} ADD COLUMN {quoted} without it, then CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … USING INDEX"
                    ));
                    if !null_default && !computed && rows > 1 && !relation.new {
                        effects.fail(format!("all rows of `{name}` would have the same `{}`", column.name));
                    }
                    if matches!(constraint.demand, Demand::PrimaryKey { .. }) {
                        Self::one_primary_key(name, relation, effects);
                    }
                }
                Demand::ForeignKey { parent, .. } => {
                    let parent = super::world::key(parent);
                    match self.world.relation(&parent) {
                        Some(_) => effects.lock(&parent, Lock::ShareRowExclusive),
                        None => effects.fail(format!("relation `{parent}` does not exist")),
                    }
                    if !null_default && !constraint.not_enforced {
                        effects.work(name, Work::Scan, weight);
                    }
                }
                _ => {}
            }
        }
        let state = Self::column_state(column);
        if let Some(changed) = self.world.relation_mut(name) {
            changed.columns.push(state);
            for constraint in &column.constraints {
                let constraint_state = constraint_state(name, constraint);
                changed.constraints.push(constraint_state);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one clause")]
    fn alter_type(
        &mut self,
        name: &str,
        relation: &Relation,
        column: &str,
        to: &TypeName,
        using: Option<&Expression>,
        collate: bool,
        effects: &mut Effects,
    ) {
        let found = Self::column(relation, name, column, effects);
        if effects.fails.is_some() {
            return;
        }
        let object = format!("{name}.{column}");
        if let Some((view, _)) = relation.viewed.iter().find(|(_, viewed)| viewed == column) {
            effects.fail(format!("the view `{view}` uses `{object}`"));
            return;
        }
        if relation.partition_key.as_deref().is_some_and(|partition_key| mentions(partition_key, column)) {
            effects.fail(format!("`{object}` is in the partition key"));
            return;
        }
        if relation
            .columns
            .iter()
            .filter_map(|other| other.generated.as_deref())
            .any(|generated| mentions(generated, column))
        {
            effects.fail(format!("a generated column uses `{object}`"));
            return;
        }
        // A conversion that only says the cast again changes nothing.
        let plain_using = using.is_some_and(|using| {
            let sql = using.sql.replace(' ', "");
            let cast = sql.strip_prefix(&format!("{column}::"));
            sql == column || cast.is_some_and(|cast| TypeName::read(cast) == *to)
        });
        let (change, base) = match &found {
            None => {
                effects.assumed.insert(format!("the type of `{object}` changes how its rows are kept"));
                (TypeChange::Rewrite, None)
            }
            Some(_) if using.is_some() && !plain_using => (TypeChange::Rewrite, None),
            Some(column) => {
                let from = self.base_type(&column.type_name);
                let change = match self.world.domains.get(&to.base) {
                    Some((_, true)) => TypeChange::Rewrite,
                    Some((base, false)) => type_change(&from, &TypeName::read(base), self.world.utc),
                    None => type_change(&from, to, self.world.utc),
                };
                (change, Some(column.type_name.clone()))
            }
        };
        let change = match change {
            TypeChange::NoCast if plain_using => TypeChange::Rewrite,
            change if collate && change != TypeChange::Rewrite => TypeChange::Indexes,
            change => change,
        };
        let weight = relation.weight();
        let indexed = relation
            .indexes
            .iter()
            .any(|index| index.columns.iter().any(|part| part == column || mentions(part, column)));
        match change {
            TypeChange::Indexes if indexed => effects.work(name, Work::IndexBuild, weight),
            TypeChange::Same | TypeChange::Catalog | TypeChange::Indexes => {}
            TypeChange::NoCast => {
                let from = base.map(|base| base.to_string()).unwrap_or_default();
                effects.fail(format!("`{object}` cannot be cast from {from} to {to} without USING"));
                return;
            }
            TypeChange::Rewrite => {
                effects.work(name, Work::Rewrite, weight);
                effects.instead(format!(
                    "ALTER TABLE {name} ADD COLUMN {column}_new {to}; a trigger writes both; fill it in batches; switch over; drop the old one; `steward migration plan --safe` names the steps"
                ));
            }
        }
        // Checks on the column are made anew and so are checked again.
        let checked = relation.constraints.iter().any(|constraint| {
            matches!(&constraint.kind, ConstraintKind::Check { expression } if mentions(expression, column))
        });
        if checked {
            effects.work(name, Work::Scan, weight);
        }
        for constraint in &relation.constraints {
            if let ConstraintKind::ForeignKey { columns, parent, .. } = &constraint.kind
                && columns.iter().any(|known| known == column)
            {
                effects.lock(parent, Lock::AccessExclusive);
            }
        }
        for (child, constraint) in self.world.referring(name) {
            if let ConstraintKind::ForeignKey { parent_columns, .. } = &constraint.kind
                && parent_columns.iter().any(|known| known == column)
            {
                effects.lock(&child, Lock::AccessExclusive);
                if change == TypeChange::Rewrite
                    && constraint.validated
                    && let Some(found) = self.world.relation(&child)
                {
                    effects.work(&child, Work::Scan, found.weight());
                }
            }
        }
        if let Some(column) = self.world.relation_mut(name).and_then(|it| it.column_mut(column)) {
            column.type_name = to.clone();
        }
    }

    fn base_type(&self, type_name: &TypeName) -> TypeName {
        match self.world.domains.get(&type_name.base) {
            Some((base, _)) => TypeName::read(base),
            None => type_name.clone(),
        }
    }

    pub(super) fn set_not_null(
        &mut self,
        name: &str,
        relation: &Relation,
        column: &str,
        effects: &mut Effects,
    ) {
        let found = Self::column(relation, name, column, effects);
        let object = format!("{name}.{column}");
        match &found {
            Some(found) if !found.nullable => {
                effects.no_effect(&object, format!("`{object}` is NOT NULL already"));
                return;
            }
            Some(found) if found.nulls > 0.0 && !relation.new => {
                effects.remark(
                    "null_values_found",
                    Severity::Critical,
                    &object,
                    format!("about {:.1} % of `{object}` are NULL", found.nulls * 100.0),
                );
                effects.fail(format!("`{object}` holds NULLs"));
            }
            _ => {}
        }
        if !relation.new {
            // Where a check proves it, the application gives the value already.
            if found.as_ref().is_none_or(|column| !column.has_default) && !relation.proven_not_null(column) {
                effects.breaks(&object, format!("inserts that leave `{object}` out fail"));
            }
            if !relation.proven_not_null(column) {
                effects.work(name, Work::Scan, relation.weight());
                let (table, quoted) = (name, quote(column));
                effects.instead(format!(
                    "ALTER TABLE {table} ADD CONSTRAINT {column}_present CHECK ({quoted} IS NOT NULL) NOT VALID; in the next migration VALIDATE CONSTRAINT {column}_present; in the next SET NOT NULL and DROP CONSTRAINT {column}_present"
                ));
            }
        }
        if let Some(column) = self.world.relation_mut(name).and_then(|it| it.column_mut(column)) {
            column.nullable = false;
        }
    }
}
