//! The database as the linter believes it to be: the catalog's facts, changed by each statement that is judged.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Error, ErrorKind, Query};
use schema::Schema;
use serde_json::{Value, json};

use super::loss::Known;
use super::operation::{Name, Operation, Statement, TypeName};
use super::parse::read_statement;
use super::types;
use crate::inquiry::Inquiry;
use crate::text;

/// Below this many rows a scan or rewrite under a lock is over before anyone notices.
pub(crate) const ROWS_SMALL: u64 = 10_000;

/// How much there is to read or write in a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Made by this file: nobody else uses it yet.
    New,
    /// This many rows, few.
    Small(u64),
    /// This many rows.
    Big(u64),
    /// Nobody looked; taken for many.
    Assumed,
}

impl Weight {
    /// Whether work on it takes long and keeps others waiting.
    pub(crate) fn is_long(self) -> bool {
        matches!(self, Self::Big(_) | Self::Assumed)
    }
}

/// What kind of relation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Sequence,
    Foreign,
}

#[derive(Debug, Clone)]
pub(crate) struct ColumnState {
    pub(crate) name: String,
    pub(crate) type_name: TypeName,
    pub(crate) nullable: bool,
    pub(crate) has_default: bool,
    /// From an expression, kept in the row.
    pub(crate) generated: Option<String>,
    /// Share of NULLs, by the planner's sample.
    pub(crate) nulls: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConstraintKind {
    PrimaryKey,
    Unique,
    Check { expression: String },
    NotNull { column: String },
    ForeignKey { columns: Vec<String>, parent: String, parent_columns: Vec<String> },
    Exclude,
}

#[derive(Debug, Clone)]
pub(crate) struct ConstraintState {
    pub(crate) name: String,
    pub(crate) kind: ConstraintKind,
    pub(crate) validated: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct IndexState {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
    pub(crate) unique: bool,
    pub(crate) valid: bool,
    pub(crate) plain: bool,
    pub(crate) backs_constraint: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub(crate) shape: Shape,
    /// Made by this file.
    pub(crate) new: bool,
    /// Rows, where known.
    pub(crate) rows: Option<u64>,
    rows_estimated: bool,
    /// All columns, constraints and indexes are known.
    pub(crate) complete: bool,
    pub(crate) columns: Vec<ColumnState>,
    pub(crate) constraints: Vec<ConstraintState>,
    pub(crate) indexes: Vec<IndexState>,
    /// The partitioned table that it is a part of.
    pub(crate) parent: Option<String>,
    pub(crate) bound: Option<String>,
    pub(crate) partition_key: Option<String>,
    pub(crate) unlogged: bool,
    pub(crate) clustered: bool,
    pub(crate) populated: bool,
    /// Views that read it, each with the column that it reads, empty for the whole.
    pub(crate) viewed: Vec<(String, String)>,
}

impl Relation {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            new: false,
            rows: None,
            rows_estimated: false,
            complete: false,
            columns: Vec::new(),
            constraints: Vec::new(),
            indexes: Vec::new(),
            parent: None,
            bound: None,
            partition_key: None,
            unlogged: false,
            clustered: false,
            populated: true,
            viewed: Vec::new(),
        }
    }

    /// One that this file makes.
    pub(crate) fn made(shape: Shape) -> Self {
        Self { new: true, rows: Some(0), complete: true, ..Self::new(shape) }
    }

    pub(crate) fn column(&self, name: &str) -> Option<&ColumnState> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(crate) fn column_mut(&mut self, name: &str) -> Option<&mut ColumnState> {
        self.columns.iter_mut().find(|column| column.name == name)
    }

    pub(crate) fn constraint(&self, name: &str) -> Option<&ConstraintState> {
        self.constraints.iter().find(|constraint| constraint.name == name)
    }

    pub(crate) fn weight(&self) -> Weight {
        match self.rows {
            _ if self.new => Weight::New,
            Some(rows) if rows < ROWS_SMALL => Weight::Small(rows),
            Some(rows) => Weight::Big(rows),
            None => Weight::Assumed,
        }
    }

    /// A check that was made and says that the column is not null.
    pub(crate) fn proven_not_null(&self, column: &str) -> bool {
        self.constraints.iter().any(|constraint| {
            constraint.validated
                && match &constraint.kind {
                    ConstraintKind::Check { expression } => says_not_null(expression, column),
                    ConstraintKind::NotNull { column: found } => found == column,
                    _ => false,
                }
        })
    }
}

/// Whether a check's expression is, or is a conjunction with, `column IS NOT NULL`.
fn says_not_null(expression: &str, column: &str) -> bool {
    conjuncts(expression).iter().any(|part| {
        let part = part.to_ascii_lowercase();
        part.strip_suffix(" is not null")
            .is_some_and(|left| left.trim().trim_matches('"').eq_ignore_ascii_case(column))
    })
}

/// The parts of an expression that `AND` joins at its top, without parentheses around them.
pub(crate) fn conjuncts(expression: &str) -> Vec<String> {
    let text = bare(expression);
    let mut parts = Vec::new();
    let (mut depth, mut quoted, mut from) = (0_usize, false, 0);
    let lower = text.to_ascii_lowercase();
    for (at, c) in text.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            _ if !quoted && depth == 0 && lower[at..].starts_with(" and ") => {
                parts.push(text[from..at].to_owned());
                from = at + " and ".len();
            }
            _ => {}
        }
    }
    parts.push(text[from.min(text.len())..].to_owned());
    if parts.len() == 1 {
        return vec![bare(&parts[0])];
    }
    parts.iter().flat_map(|part| conjuncts(part)).collect()
}

/// The text without the parentheses that enclose all of it.
fn bare(expression: &str) -> String {
    let mut text = expression.trim();
    while let Some(inner) = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        let mut depth = 0_i32;
        let encloses = inner.chars().all(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth >= 0
        });
        if !encloses || depth != 0 {
            break;
        }
        text = inner.trim();
    }
    text.to_owned()
}

/// A transaction that is open now and holds a lock.
#[derive(Debug, Clone)]
pub(crate) struct Busy {
    pub(crate) relation: String,
    pub(crate) application: String,
    pub(crate) state: String,
    pub(crate) seconds: u64,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    /// Read from a live catalog.
    pub(crate) connected: bool,
    /// Major version of the server.
    pub(crate) version: Option<u32>,
    pub(crate) utc: bool,
    relations: BTreeMap<String, Relation>,
    /// Relations that were made or given another name since the last file: a folder of a thousand files would otherwise be
    /// gone through a thousand times.
    unsettled: Vec<String>,
    /// Index to table.
    index_tables: BTreeMap<String, String>,
    /// Domains, each with its base type and whether it has constraints.
    pub(crate) domains: BTreeMap<String, (String, bool)>,
    pub(crate) enums: BTreeMap<String, Vec<String>>,
    types: BTreeSet<String>,
    schemas: BTreeSet<String>,
    extensions: BTreeSet<String>,
    own_functions: BTreeSet<String>,
    volatility: BTreeMap<String, bool>,
    pub(crate) busy: Vec<Busy>,
    pub(crate) row_estimates: BTreeMap<String, u64>,
    /// Numbers of rows are said as the power of ten that they do not exceed.
    pub(crate) rounded: bool,
    /// The catalog was asked; the finding's evidence.
    pub(crate) evidence: Vec<String>,
}

impl Known for World {
    fn spared(&self, table: &Name, column: Option<&str>) -> bool {
        let Some(relation) = self.relation(&key(table)) else { return true };
        let absent = |column: &str| relation.complete && relation.column(column).is_none();
        relation.new || column.is_some_and(absent)
    }

    fn column_type(&self, table: &Name, column: &str) -> Option<TypeName> {
        let relation = self.relation(&key(table))?;
        relation.column(column).map(|column| column.type_name.clone())
    }

    fn written_function(&self, calls: &[String]) -> Option<String> {
        calls.iter().find(|call| self.own_functions.contains(*call)).cloned()
    }
}

/// The name that relations are known by: `orders`, `sales.orders`.
pub(crate) fn key(name: &Name) -> String {
    name.to_string()
}

fn catalog_key(namespace: &str, name: &str) -> String {
    match namespace {
        "" | "public" => name.to_owned(),
        namespace => format!("{namespace}.{name}"),
    }
}

impl World {
    /// Knows nothing: every table exists and is large.
    pub(crate) fn offline(version: Option<u32>) -> Self {
        Self { version, utc: false, ..Self::default() }
    }

    /// Reads the catalog of a PostgreSQL store. `calls`: functions whose volatility matters.
    ///
    /// # Errors
    ///
    /// As `Relational::inspect` and `Relational::query`.
    pub(crate) async fn read(
        inquiry: &mut Inquiry<'_>,
        (schema, schema_evidence): &(Schema, String),
        calls: &BTreeSet<String>,
    ) -> Result<Self, Error> {
        let mut query = Query::new(include_str!("sql/facts.sql"));
        query.parameters = vec![json!(serde_json::to_string(calls).expect("names are JSON"))];
        query.limits.rows_max = 200_000;
        query.limits.bytes_max = 64 << 20;
        let (rows, evidence) = inquiry.rows(&query).await?;
        if rows.truncated.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "the catalog is too large to be read at once")
                .hint("lint with `--offline`"));
        }
        let mut world = Self::of(schema, &rows.rows);
        world.evidence = vec![schema_evidence.clone(), evidence];
        Ok(world)
    }

    fn of(schema: &Schema, facts: &[Vec<Value>]) -> Self {
        let mut world = Self { connected: true, ..Self::default() };
        world.schemas = ["public", "pg_catalog", "information_schema"].map(str::to_owned).into();
        world.extensions = schema.extensions.iter().map(|extension| extension.name.clone()).collect();
        for (kind, definition) in &schema.others {
            if kind == "schema" {
                world.schemas.insert(definition.trim_matches('"').to_owned());
            }
        }
        let matview_indexes: Vec<Statement> = schema
            .others
            .iter()
            .filter(|(kind, _)| kind == "index of a materialized view")
            .map(|(_, definition)| read_statement(1, 0, definition.clone()))
            .collect();
        for table in &schema.tables {
            let name = catalog_key(&table.name.namespace, &table.name.name);
            world.add_table(&name, table);
        }
        for row in facts {
            let cell = |at: usize| row.get(at).and_then(Value::as_str).unwrap_or_default();
            let number = row.get(5).and_then(|value| {
                value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
            });
            world.learn(
                cell(0),
                &catalog_key(cell(1), cell(2)),
                cell(3),
                cell(4),
                number.unwrap_or_default(),
            );
        }
        for statement in matview_indexes {
            if let [Operation::CreateIndex { index: Some(index), table, unique, columns, predicate, .. }] =
                &statement.operations[..]
            {
                let made = IndexState {
                    name: index.clone(),
                    columns: columns.clone(),
                    unique: *unique,
                    valid: true,
                    plain: predicate.is_none() && !columns.iter().any(|column| column.contains('(')),
                    backs_constraint: false,
                };
                world.add_index(&key(table), made);
            }
        }
        world
    }

    fn add_table(&mut self, name: &str, table: &schema::Table) {
        let partition = table.partition.as_ref();
        let shape = if partition.is_some_and(|partition| partition.key.is_some()) {
            Shape::Partitioned
        } else if table.options.iter().any(|option| option == "FOREIGN") {
            Shape::Foreign
        } else {
            Shape::Table
        };
        let mut relation = Relation::new(shape);
        relation.rows = Some(table.rows);
        relation.rows_estimated = table.rows_estimated;
        relation.complete = true;
        relation.unlogged = table.options.iter().any(|option| option == "UNLOGGED");
        if let Some(partition) = partition {
            relation.parent =
                partition.parent.as_ref().map(|parent| catalog_key(&parent.namespace, &parent.name));
            relation.bound.clone_from(&partition.bound);
            relation.partition_key.clone_from(&partition.key);
        }
        relation.columns = table
            .columns
            .iter()
            .map(|column| ColumnState {
                name: column.name.clone(),
                type_name: TypeName::read(column.native_type.split(" COLLATE ").next().unwrap_or_default()),
                nullable: column.nullable,
                has_default: column.default.is_some() || column.generated.is_some(),
                generated: column.generated.clone(),
                nulls: 0.0,
            })
            .collect();
        let constraint =
            |name: &str, kind, validated| ConstraintState { name: name.to_owned(), kind, validated };
        relation.constraints.extend(
            table.primary_key.iter().map(|pk| constraint(&pk.name, ConstraintKind::PrimaryKey, true)),
        );
        relation
            .constraints
            .extend(table.unique_keys.iter().map(|pk| constraint(&pk.name, ConstraintKind::Unique, true)));
        relation.constraints.extend(table.checks.iter().map(|check| {
            let kind = ConstraintKind::Check { expression: check.expression.clone() };
            constraint(&check.name, kind, check.validated)
        }));
        relation.constraints.extend(table.foreign_keys.iter().map(|foreign| {
            let kind = ConstraintKind::ForeignKey {
                columns: foreign.columns.clone(),
                parent: catalog_key(&foreign.parent.namespace, &foreign.parent.name),
                parent_columns: foreign.parent_columns.clone(),
            };
            constraint(&foreign.name, kind, foreign.validated)
        }));
        for index in &table.indexes {
            let index_name = match name.rsplit_once('.') {
                Some((namespace, _)) => format!("{namespace}.{}", index.name),
                None => index.name.clone(),
            };
            self.index_tables.insert(index_name, name.to_owned());
            relation.indexes.push(IndexState {
                name: index.name.clone(),
                columns: index.columns.iter().map(|column| column.trim_matches('"').to_owned()).collect(),
                unique: index.unique,
                valid: index.valid,
                plain: index.predicate.is_none() && !index.columns.iter().any(|column| column.contains('(')),
                backs_constraint: index.backs_constraint,
            });
        }
        self.relations.insert(name.to_owned(), relation);
    }

    fn learn(&mut self, fact: &str, name: &str, detail: &str, text: &str, number: f64) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts below 2^53")]
        let count = number.max(0.0) as u64;
        match fact {
            "setting" if name == "server_version_num" => {
                self.version = text.parse::<u32>().ok().map(|number| number / 10_000);
            }
            "setting" => {
                self.utc = matches!(text, "UTC" | "Etc/UTC" | "GMT" | "Etc/GMT" | "Zulu" | "Universal");
            }
            "relation" => match detail {
                "r" => {
                    if let Some(relation) = self.relations.get_mut(name) {
                        // A table that was never analyzed has no rows by the planner's record, and its file knows better.
                        if relation.rows_estimated && relation.rows.is_some_and(|rows| rows == 0) {
                            relation.rows = Some(count);
                        }
                    }
                }
                "v" | "m" | "S" => {
                    let mut relation = Relation::new(match detail {
                        "v" => Shape::View,
                        "m" => Shape::MaterializedView,
                        _ => Shape::Sequence,
                    });
                    relation.rows = Some(if detail == "m" { count } else { 0 });
                    relation.populated = text != "unpopulated";
                    self.relations.insert(name.to_owned(), relation);
                }
                "i" | "I" => {
                    self.index_tables.entry(name.to_owned()).or_default();
                }
                _ => {}
            },
            "clustered" => {
                if let Some(relation) = self.relations.get_mut(name) {
                    relation.clustered = true;
                }
            }
            "domain" => {
                self.domains.insert(name.to_owned(), (detail.to_owned(), text == "constrained"));
                self.types.insert(name.to_owned());
            }
            "enum" => {
                self.enums.insert(name.to_owned(), detail.split('\u{1f}').map(str::to_owned).collect());
                self.types.insert(name.to_owned());
            }
            "type" => {
                self.types.insert(name.to_owned());
            }
            // Of several functions with one name, the most volatile counts.
            "function" => {
                self.volatility.insert(name.to_owned(), text == "v");
            }
            "own_function" => {
                self.own_functions.insert(name.rsplit('.').next().unwrap_or(name).to_owned());
            }
            "viewed" => {
                if let Some(relation) = self.relations.get_mut(name) {
                    let view = text.strip_prefix("public.").unwrap_or(text).to_owned();
                    relation.viewed.push((view, detail.to_owned()));
                }
            }
            "nulls" => {
                if let Some(column) = self.relations.get_mut(name).and_then(|it| it.column_mut(detail)) {
                    column.nulls = number;
                }
            }
            "constraint" => {
                if let Some(relation) = self.relations.get_mut(name)
                    && relation.constraint(detail).is_none()
                    && let Some((kind, _)) = text.split_at_checked(1)
                    && kind == "n"
                {
                    let at = usize::try_from(count).unwrap_or(0);
                    let column = relation.columns.get(at.wrapping_sub(1)).map(|column| column.name.clone());
                    relation.constraints.push(ConstraintState {
                        name: detail.to_owned(),
                        kind: ConstraintKind::NotNull { column: column.unwrap_or_default() },
                        validated: !text.contains("unchecked"),
                    });
                }
            }
            "busy" => self.busy.push(Busy {
                relation: name.to_owned(),
                application: detail.to_owned(),
                state: text.to_owned(),
                seconds: count,
            }),
            _ => {}
        }
    }

    /// The relation of this name; offline one that exists and is large.
    pub(crate) fn relation(&self, name: &str) -> Option<Relation> {
        match self.relations.get(name) {
            Some(relation) => Some(relation.clone()),
            None if self.connected => None,
            None => Some(Relation::new(Shape::Table)),
        }
    }

    /// Whether the relation is known by this file or the catalog.
    pub(crate) fn known(&self, name: &str) -> bool {
        self.relations.contains_key(name)
    }

    /// The relation, to be changed; offline it is remembered from now on.
    pub(crate) fn relation_mut(&mut self, name: &str) -> Option<&mut Relation> {
        if !self.connected {
            self.relations.entry(name.to_owned()).or_insert_with(|| Relation::new(Shape::Table));
        }
        self.relations.get_mut(name)
    }

    pub(crate) fn insert(&mut self, name: &str, relation: Relation) {
        self.unsettled.push(name.to_owned());
        for index in &relation.indexes {
            self.index_tables.insert(index.name.clone(), name.to_owned());
        }
        self.relations.insert(name.to_owned(), relation);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.index_tables.retain(|_, table| table != name);
        self.relations.remove(name);
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        if let Some(relation) = self.relations.remove(from) {
            self.unsettled.push(to.to_owned());
            self.relations.insert(to.to_owned(), relation);
        }
        for table in self.index_tables.values_mut().filter(|table| *table == from) {
            to.clone_into(table);
        }
        for relation in self.relations.values_mut() {
            if relation.parent.as_deref() == Some(from) {
                relation.parent = Some(to.to_owned());
            }
        }
    }

    /// Names of the partitions of a table, and theirs.
    pub(crate) fn partitions(&self, table: &str) -> Vec<String> {
        let mut out = Vec::new();
        let mut next = vec![table.to_owned()];
        while let Some(parent) = next.pop() {
            for (name, relation) in &self.relations {
                if relation.parent.as_deref() == Some(&parent) {
                    out.push(name.clone());
                    next.push(name.clone());
                }
            }
        }
        out
    }

    /// The default partition of a table.
    pub(crate) fn default_partition(&self, table: &str) -> Option<String> {
        self.relations
            .iter()
            .find(|(_, it)| it.parent.as_deref() == Some(table) && it.bound.as_deref() == Some("DEFAULT"))
            .map(|(name, _)| name.clone())
    }

    /// Foreign keys of other tables that refer to this one: table and constraint.
    pub(crate) fn referring(&self, parent_name: &str) -> Vec<(String, ConstraintState)> {
        let mut out = Vec::new();
        for (name, relation) in &self.relations {
            for constraint in &relation.constraints {
                if let ConstraintKind::ForeignKey { parent, .. } = &constraint.kind
                    && parent == parent_name
                {
                    out.push((name.clone(), constraint.clone()));
                }
            }
        }
        out
    }

    /// All relations with their names.
    pub(crate) fn relations(&self) -> impl Iterator<Item = (&String, &Relation)> {
        self.relations.iter()
    }

    pub(crate) fn index_table(&self, index: &str) -> Option<&String> {
        self.index_tables.get(index)
    }

    pub(crate) fn add_index(&mut self, table: &str, index: IndexState) {
        self.index_tables.insert(index.name.clone(), table.to_owned());
        if let Some(relation) = self.relation_mut(table) {
            relation.indexes.push(index);
        }
    }

    pub(crate) fn remove_index(&mut self, index: &str) {
        if let Some(table) = self.index_tables.remove(index)
            && let Some(relation) = self.relations.get_mut(&table)
        {
            relation.indexes.retain(|found| found.name != index);
        }
    }

    /// Whether the relation has a usable unique index without a condition.
    pub(crate) fn unique_index_on(&self, name: &str) -> bool {
        self.relations
            .get(name)
            .is_some_and(|relation| relation.indexes.iter().any(|it| it.unique && it.valid && it.plain))
    }

    pub(crate) fn add_type(&mut self, name: &str) {
        self.types.insert(name.to_owned());
    }

    pub(crate) fn has_type(&self, name: &str) -> bool {
        self.types.contains(name)
    }

    pub(crate) fn remove_type(&mut self, name: &str) {
        self.types.remove(name);
        self.enums.remove(name);
        self.domains.remove(name);
    }

    pub(crate) fn has_schema(&self, name: &str) -> bool {
        self.schemas.contains(name)
    }

    pub(crate) fn add_schema(&mut self, name: &str) {
        self.schemas.insert(name.to_owned());
    }

    pub(crate) fn remove_schema(&mut self, name: &str) {
        self.schemas.remove(name);
        let prefix = format!("{name}.");
        self.relations.retain(|relation, _| !relation.starts_with(&prefix));
    }

    pub(crate) fn has_extension(&self, name: &str) -> bool {
        self.extensions.contains(name)
    }

    pub(crate) fn add_extension(&mut self, name: &str) {
        self.extensions.insert(name.to_owned());
    }

    /// Whether one of the functions gives another value for each row; a function that nobody knows may.
    pub(crate) fn volatile<'a>(&self, calls: &'a [String]) -> Option<&'a str> {
        calls
            .iter()
            .find(|call| {
                self.volatility.get(*call).copied().or_else(|| types::is_volatile(call)).unwrap_or(true)
            })
            .map(String::as_str)
    }

    pub(crate) fn add_function(&mut self, name: &str, volatile: bool) {
        self.own_functions.insert(name.to_owned());
        self.volatility.insert(name.to_owned(), volatile);
    }

    /// What the files before have made is used by others and of unknown size.
    pub(crate) fn settle(&mut self) {
        for name in std::mem::take(&mut self.unsettled) {
            if let Some(relation) = self.relations.get_mut(&name) {
                relation.new = false;
                relation.rows = None;
            }
        }
    }

    /// Rows as a remark says them.
    pub(crate) fn said(&self, rows: u64) -> String {
        text::count(if self.rounded { text::magnitude(rows) } else { rows }, "row")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conjunction_is_cut_at_its_top() {
        for (expression, expected) in [
            ("(a IS NOT NULL)", vec!["a IS NOT NULL"]),
            ("((a IS NOT NULL) AND (b > 1))", vec!["a IS NOT NULL", "b > 1"]),
            ("(a > 1) OR (b = 1 AND c = 2)", vec!["(a > 1) OR (b = 1 AND c = 2)"]),
            ("a = ' and ' AND b", vec!["a = ' and '", "b"]),
        ] {
            assert_eq!(conjuncts(expression), expected, "{expression}");
        }
        assert!(says_not_null("((Note IS NOT NULL) AND (b > 1))", "note"));
        assert!(!says_not_null("((note IS NOT NULL) OR (b > 1))", "note"));
    }
}
