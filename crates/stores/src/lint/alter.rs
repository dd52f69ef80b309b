//! The longer judgements: columns, constraints, partitions, indexes, and what goes away.

use contract::Severity;

use super::judge::{Effects, Judge, Work, constraint_state, foreign_parent, index_of, with_word};
use super::lock::Lock;
use super::operation::{
    Demand, Expression, Generated, Kind, Name, NewColumn, NewConstraint, Operation, Reach, Statement, Target,
    TypeName, quote,
};
use super::types::{TypeChange, type_change};
use super::world::{
    ColumnState, ConstraintKind, IndexState, ROWS_SMALL, Relation, Shape, Weight, World, conjuncts, key,
};

fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")
}

impl Judge<'_> {
    pub(super) fn column_state(column: &NewColumn) -> ColumnState {
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
    pub(super) fn create_table(
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

    pub(super) fn add_column(
        &mut self,
        name: &str,
        relation: &Relation,
        column: &NewColumn,
        effects: &mut Effects,
    ) {
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

    fn one_primary_key(name: &str, relation: &Relation, effects: &mut Effects) {
        if relation.constraints.iter().any(|known| known.kind == ConstraintKind::PrimaryKey) {
            effects.fail(format!("`{name}` has a primary key already"));
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one clause")]
    pub(super) fn alter_type(
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
                    "ALTER TABLE {name} ADD COLUMN {column}_new {to}; a trigger writes both; fill it in batches; switch over; drop the old one; `steward migration plan --safe` writes it"
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

    #[allow(clippy::too_many_lines, reason = "one arm for each kind")]
    pub(super) fn add_constraint(
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

    pub(super) fn attach(
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

    pub(super) fn create_index(
        &mut self,
        operation: &Operation,
        statement: &Statement,
        effects: &mut Effects,
    ) {
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

    pub(super) fn reindex(
        &mut self,
        target: &Target,
        concurrently: bool,
        statement: &Statement,
        effects: &mut Effects,
    ) {
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
        effects.instead(format!(
            "{}; in a migration that says `-- steward: no-transaction`; or `steward index rebuild`",
            with_word(&with_word(&statement.sql, "INDEX", ""), "REINDEX", "").trim().replacen(
                "TABLE",
                "TABLE CONCURRENTLY",
                1
            )
        ));
    }

    fn assumed_table(&self) -> Relation {
        World::offline(self.world.version).relation("").expect("offline, every table exists")
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each kind")]
    pub(super) fn drop(&mut self, operation: &Operation, effects: &mut Effects) {
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

    pub(super) fn rename(
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

    /// Foreign keys look into the tables that they refer to.
    pub(super) fn write_relations(name: &str, relation: &Relation, effects: &mut Effects) {
        for (parent, _) in relation.constraints.iter().filter_map(foreign_parent) {
            if parent != name {
                effects.lock(&parent, Lock::RowShare);
            }
        }
    }

    pub(super) fn rows_changed(
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
    pub(super) fn uses_new_value(&self, statement: &Statement, effects: &mut Effects) {
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
    pub(super) fn these_or_all(
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

/// Whether an expression names the column.
fn mentions(expression: &str, column: &str) -> bool {
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
