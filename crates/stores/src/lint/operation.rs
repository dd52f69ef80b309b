//! What a statement does, in words that no parser and no server version changes.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// A name with its namespace as written, unquoted parts folded as the server folds them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name {
    /// The schema, where the statement names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The object.
    pub name: String,
}

impl Name {
    /// A name without a namespace.
    pub fn bare(name: impl Into<String>) -> Self {
        Self { namespace: None, name: name.into() }
    }

    /// The name as it can stand in a statement of PostgreSQL.
    pub fn quoted(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}.{}", quote(namespace), quote(&self.name)),
            None => quote(&self.name),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_deref() {
            None | Some("public") => f.write_str(&self.name),
            Some(namespace) => write!(f, "{namespace}.{}", self.name),
        }
    }
}

/// The identifier with quotes where it needs them: a suggestion that looks as people write it.
pub fn quote(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Words that cannot be a name without quotes. Source: PostgreSQL manual, appendix "SQL Key Words", reserved ones.
const RESERVED: [&str; 77] = [
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "system_user",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
];

/// A type as the server's catalog would print it: `varchar(20)` is `character varying(20)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeName {
    /// The type without parameters and array brackets, such as `numeric` or `timestamp with time zone`.
    pub base: String,
    /// Its parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<i64>,
    /// An array of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub array: bool,
}

impl TypeName {
    /// Reads a type as a statement or the catalog writes it.
    pub fn read(text: &str) -> Self {
        let mut text = text.trim().to_owned();
        if !text.contains('"') {
            text.make_ascii_lowercase();
        }
        let mut array = false;
        if let Some(at) = text.find('[') {
            text.truncate(at);
            array = true;
        }
        let mut text = text.trim().to_owned();
        if let Some(rest) = text.strip_suffix(" array") {
            text = rest.trim().to_owned();
            array = true;
        }
        let (head, rest) = text.split_once('(').unwrap_or((&text, ""));
        let (inside, tail) = rest.split_once(')').unwrap_or((rest, ""));
        let mut parameters: Vec<i64> =
            inside.split(',').filter_map(|part| part.trim().parse().ok()).collect();
        let words = format!("{head} {tail}");
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let words = words.strip_prefix("pg_catalog.").or(words.strip_prefix("public.")).unwrap_or(&words);
        let base = match words {
            "int" | "int4" => "integer",
            "int8" => "bigint",
            "int2" => "smallint",
            "serial4" => "serial",
            "serial8" => "bigserial",
            "serial2" => "smallserial",
            "bool" => "boolean",
            "float4" => "real",
            "float" if parameters.first().is_some_and(|bits| *bits < 25) => "real",
            "float8" | "float" => "double precision",
            "decimal" | "dec" => "numeric",
            "varchar"
            | "char varying"
            | "national character varying"
            | "national char varying"
            | "nchar varying" => "character varying",
            "char" | "bpchar" | "nchar" | "national character" | "national char" => "character",
            "timestamptz" => "timestamp with time zone",
            "timestamp" => "timestamp without time zone",
            "timetz" => "time with time zone",
            "time" => "time without time zone",
            "varbit" => "bit varying",
            other => other,
        }
        .to_owned();
        match base.as_str() {
            "numeric" if parameters.len() == 1 => parameters.push(0),
            // `char` is one character, the catalog's `bpchar` has no limit.
            "character" if parameters.is_empty() && words != "bpchar" => parameters.push(1),
            "bit" if parameters.is_empty() => parameters.push(1),
            "real" | "double precision" => parameters.clear(),
            _ => {}
        }
        Self { base, parameters, array }
    }

    /// The integer type that a serial type stands for.
    pub fn serial(&self) -> Option<&'static str> {
        match self.base.as_str() {
            "serial" => Some("integer"),
            "bigserial" => Some("bigint"),
            "smallserial" => Some("smallint"),
            _ => None,
        }
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = if self.parameters.is_empty() {
            String::new()
        } else {
            format!("({})", self.parameters.iter().map(i64::to_string).collect::<Vec<_>>().join(","))
        };
        match self.base.strip_suffix(" time zone").and_then(|rest| rest.split_once(' ')) {
            Some((name, with)) => write!(f, "{name}{parameters} {with} time zone")?,
            None => write!(f, "{}{parameters}", self.base)?,
        }
        f.write_str(if self.array { "[]" } else { "" })
    }
}

/// An expression as written, with the functions that it calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expression {
    /// The text.
    pub sql: String,
    /// Last parts of the names of functions that are called, in lower case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
}

/// What a constraint demands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Demand {
    /// Primary key.
    PrimaryKey {
        /// Its columns; empty when the columns come from an index.
        columns: Vec<String>,
        /// An index that is there already.
        using_index: Option<String>,
    },
    /// Unique.
    Unique {
        /// Its columns; empty when the columns come from an index.
        columns: Vec<String>,
        /// An index that is there already.
        using_index: Option<String>,
    },
    /// Check.
    Check {
        /// What must hold.
        expression: Expression,
    },
    /// Not null.
    NotNull {
        /// The column.
        column: String,
    },
    /// Foreign key.
    ForeignKey {
        /// Columns of the referring table.
        columns: Vec<String>,
        /// The table referred to.
        parent: Name,
        /// Columns referred to; empty for the primary key.
        parent_columns: Vec<String>,
    },
    /// Exclusion.
    Exclude,
}

/// A constraint that a statement makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewConstraint {
    /// Its name, where one is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it demands.
    pub demand: Demand,
    /// `NOT VALID`: rows that are there are not looked at.
    pub not_valid: bool,
    /// `NOT ENFORCED` (PostgreSQL 18): nothing is looked at.
    pub not_enforced: bool,
}

/// How a generated column gets its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Generated {
    /// From a sequence.
    Identity,
    /// From an expression, kept in the row.
    Stored,
    /// From an expression, computed when read (PostgreSQL 18).
    Virtual,
    /// From an expression, without saying which: stored before PostgreSQL 18, virtual since.
    Unsaid,
}

/// A column that a statement makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewColumn {
    /// Its name.
    pub name: String,
    /// Its type; `None` in the few forms that have none.
    pub type_name: Option<TypeName>,
    /// Its default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Expression>,
    /// `NOT NULL`, said or implied by a primary key.
    pub not_null: bool,
    /// Identity or generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated: Option<Generated>,
    /// Inline constraints other than `NOT NULL`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<NewConstraint>,
}

/// Kinds of objects that have no operation of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words of the manual")]
pub enum Kind {
    Table,
    ForeignTable,
    Index,
    View,
    MaterializedView,
    Sequence,
    Type,
    Domain,
    Function,
    Trigger,
    Rule,
    Policy,
    Schema,
    Extension,
    Database,
    Statistics,
    Publication,
    Role,
    Owned,
    Column,
    Constraint,
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::ForeignTable => "foreign table",
            Self::Index => "index",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
            Self::Sequence => "sequence",
            Self::Type => "type",
            Self::Domain => "domain",
            Self::Function => "function",
            Self::Trigger => "trigger",
            Self::Rule => "rule",
            Self::Policy => "policy",
            Self::Schema => "schema",
            Self::Extension => "extension",
            Self::Database => "database",
            Self::Statistics => "statistics",
            Self::Publication => "publication",
            Self::Role => "role",
            Self::Owned => "all that a role owns",
            Self::Column => "column",
            Self::Constraint => "constraint",
            Self::Other => "object",
        })
    }
}

/// Which rows a data change reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// All: no condition.
    All,
    /// Some: a condition whose size nobody knows.
    Some,
    /// Few: as many as the statement lists, or one by a comparison with a constant.
    Listed,
}

/// What REINDEX, CLUSTER and VACUUM work on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", content = "name", rename_all = "snake_case")]
pub enum Target {
    /// One table.
    Table(Name),
    /// One index.
    Index(Name),
    /// All tables of a schema.
    Schema(String),
    /// The whole database or its system catalogs.
    Database,
}

/// How a statement begins or ends a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionStep {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit,
    /// ROLLBACK, ABORT.
    Rollback,
    /// SAVEPOINT, RELEASE, ROLLBACK TO.
    Savepoint,
}

/// What a statement does. An ALTER TABLE with several actions does several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// CREATE TABLE, CREATE TABLE AS, SELECT INTO, CREATE FOREIGN TABLE.
    CreateTable {
        /// The table.
        table: Name,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
        /// Seen by this session only.
        temporary: bool,
        /// Its columns.
        columns: Vec<NewColumn>,
        /// Its table constraints.
        constraints: Vec<NewConstraint>,
        /// The partitioned table that it becomes a part of.
        partition_of: Option<Name>,
        /// It becomes the default partition.
        default_partition: bool,
        /// It is partitioned itself: strategy and columns as written, such as `RANGE (day)`.
        partitioned: Option<String>,
        /// The bound of a partition as written.
        bound: Option<String>,
        /// Not in the log.
        unlogged: bool,
        /// Tables it inherits from.
        inherits: Vec<Name>,
        /// Made from a query, with its rows.
        from_query: bool,
    },
    /// ALTER TABLE … ADD COLUMN.
    AddColumn {
        /// The table.
        table: Name,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
        /// The column.
        column: NewColumn,
    },
    /// ALTER TABLE … DROP COLUMN.
    DropColumn {
        /// The table.
        table: Name,
        /// The column.
        column: String,
        /// `IF EXISTS`.
        if_exists: bool,
        /// With what depends on it.
        cascade: bool,
    },
    /// ALTER TABLE … RENAME COLUMN.
    RenameColumn {
        /// The table or view.
        table: Name,
        /// The old name.
        from: String,
        /// The new one.
        to: String,
    },
    /// ALTER COLUMN … TYPE.
    AlterColumnType {
        /// The table.
        table: Name,
        /// The column.
        column: String,
        /// The new type.
        to: TypeName,
        /// How values are converted, when said.
        using: Option<Expression>,
        /// A collation is named.
        collate: bool,
    },
    /// ALTER COLUMN … SET NOT NULL.
    SetNotNull {
        /// The table.
        table: Name,
        /// The column.
        column: String,
    },
    /// ALTER COLUMN … DROP NOT NULL.
    DropNotNull {
        /// The table.
        table: Name,
        /// The column.
        column: String,
    },
    /// ALTER COLUMN … SET or DROP DEFAULT.
    SetDefault {
        /// The table.
        table: Name,
        /// The column.
        column: String,
        /// The default; `None` drops it.
        default: Option<Expression>,
    },
    /// ALTER COLUMN … ADD GENERATED AS IDENTITY, SET GENERATED, DROP IDENTITY.
    AlterIdentity {
        /// The table.
        table: Name,
        /// The column.
        column: String,
    },
    /// ALTER COLUMN … SET EXPRESSION: a stored one is computed anew for all rows.
    SetExpression {
        /// The table.
        table: Name,
        /// The column.
        column: String,
    },
    /// ALTER COLUMN … DROP EXPRESSION.
    DropExpression {
        /// The table.
        table: Name,
        /// The column.
        column: String,
    },
    /// ALTER COLUMN … SET STATISTICS, STORAGE, COMPRESSION or options: says how, not what.
    SetColumnOption {
        /// The table.
        table: Name,
        /// The column.
        column: String,
        /// Statistics and options take the weaker lock.
        planner_only: bool,
    },
    /// ALTER TABLE … ADD CONSTRAINT.
    AddConstraint {
        /// The table.
        table: Name,
        /// The constraint.
        constraint: NewConstraint,
    },
    /// ALTER TABLE … VALIDATE CONSTRAINT.
    ValidateConstraint {
        /// The table.
        table: Name,
        /// The constraint.
        constraint: String,
    },
    /// ALTER TABLE … DROP CONSTRAINT.
    DropConstraint {
        /// The table.
        table: Name,
        /// The constraint.
        constraint: String,
        /// `IF EXISTS`.
        if_exists: bool,
        /// With what depends on it.
        cascade: bool,
    },
    /// ALTER TABLE … ALTER CONSTRAINT: deferrability, enforcement or inheritance.
    AlterConstraint {
        /// The table.
        table: Name,
        /// The constraint.
        constraint: String,
        /// It becomes enforced, so all rows are looked at.
        enforce: bool,
    },
    /// ALTER TABLE … ATTACH PARTITION.
    AttachPartition {
        /// The partitioned table.
        table: Name,
        /// The table that becomes a part of it.
        partition: Name,
        /// As the default partition.
        default: bool,
        /// The bound as written.
        bound: String,
    },
    /// ALTER TABLE … DETACH PARTITION.
    DetachPartition {
        /// The partitioned table.
        table: Name,
        /// The part.
        partition: Name,
        /// `CONCURRENTLY`.
        concurrently: bool,
        /// `FINALIZE`.
        finalize: bool,
    },
    /// ALTER TABLE … INHERIT, NO INHERIT.
    SetInheritance {
        /// The child.
        table: Name,
        /// The parent.
        parent: Name,
    },
    /// ALTER TABLE … SET LOGGED, SET UNLOGGED.
    SetPersistence {
        /// The table.
        table: Name,
        /// Whether changes go to the log.
        logged: bool,
    },
    /// ALTER … SET TABLESPACE.
    SetTablespace {
        /// Table, index or materialized view.
        object: Target,
        /// The tablespace.
        tablespace: String,
    },
    /// ALTER TABLE … SET ACCESS METHOD.
    SetAccessMethod {
        /// The table.
        table: Name,
    },
    /// ALTER TABLE … SET (…), RESET (…).
    SetTableOptions {
        /// The table.
        table: Name,
        /// Names of the options, in lower case.
        options: Vec<String>,
    },
    /// ALTER TABLE … ENABLE, DISABLE TRIGGER or RULE.
    ToggleTrigger {
        /// The table.
        table: Name,
        /// A rule, not a trigger.
        rule: bool,
        /// It, or all of them, stop.
        disable: bool,
    },
    /// ALTER TABLE … ENABLE, DISABLE, FORCE ROW LEVEL SECURITY.
    SetRowSecurity {
        /// The table.
        table: Name,
        /// Rows become invisible to those without a policy.
        enable: bool,
    },
    /// ALTER TABLE … REPLICA IDENTITY.
    SetReplicaIdentity {
        /// The table.
        table: Name,
    },
    /// ALTER TABLE … CLUSTER ON, SET WITHOUT CLUSTER: remembers an index, moves nothing.
    SetClusterIndex {
        /// The table.
        table: Name,
    },
    /// CREATE INDEX.
    CreateIndex {
        /// Its name; `None` when the server makes one.
        index: Option<String>,
        /// The table.
        table: Name,
        /// `ON ONLY`: not on the partitions.
        only: bool,
        /// Refuses duplicates.
        unique: bool,
        /// `CONCURRENTLY`.
        concurrently: bool,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
        /// The method; `btree` unless said.
        method: String,
        /// Columns and expressions as written.
        columns: Vec<String>,
        /// `WHERE …` as written.
        predicate: Option<String>,
    },
    /// ALTER INDEX … ATTACH PARTITION.
    AttachIndex {
        /// The index of the partitioned table.
        index: Name,
        /// The index of a partition.
        partition: Name,
    },
    /// REINDEX.
    Reindex {
        /// What is built anew.
        target: Target,
        /// `CONCURRENTLY`.
        concurrently: bool,
    },
    /// DROP of anything. One operation for each object.
    Drop {
        /// What kind.
        kind: Kind,
        /// Which one.
        object: Name,
        /// `IF EXISTS`.
        if_exists: bool,
        /// With what depends on it.
        cascade: bool,
        /// `DROP INDEX CONCURRENTLY`.
        concurrently: bool,
        /// The table of a trigger, rule or policy.
        table: Option<Name>,
    },
    /// RENAME of anything but a column.
    Rename {
        /// What kind.
        kind: Kind,
        /// The old name; of a constraint, trigger, rule or policy without the table.
        object: Name,
        /// The new one.
        to: String,
        /// The table of a constraint, trigger, rule or policy.
        table: Option<Name>,
    },
    /// ALTER … SET SCHEMA.
    SetSchema {
        /// What kind.
        kind: Kind,
        /// Which one.
        object: Name,
        /// The new namespace.
        schema: String,
    },
    /// ALTER … OWNER TO.
    SetOwner {
        /// What kind.
        kind: Kind,
        /// Which one.
        object: Name,
        /// The new owner.
        owner: String,
    },
    /// CREATE VIEW.
    CreateView {
        /// The view.
        view: Name,
        /// `OR REPLACE`.
        replace: bool,
    },
    /// CREATE MATERIALIZED VIEW.
    CreateMaterializedView {
        /// The view.
        view: Name,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
        /// Filled at once.
        with_data: bool,
    },
    /// REFRESH MATERIALIZED VIEW.
    Refresh {
        /// The view.
        view: Name,
        /// `CONCURRENTLY`.
        concurrently: bool,
        /// Filled; else emptied.
        with_data: bool,
    },
    /// CLUSTER.
    Cluster {
        /// The table; `None` for all that were clustered before.
        table: Option<Name>,
    },
    /// VACUUM.
    Vacuum {
        /// Tables; empty for all.
        tables: Vec<Name>,
        /// `FULL`: writes the table anew.
        full: bool,
    },
    /// ANALYZE.
    Analyze {
        /// Tables; empty for all.
        tables: Vec<Name>,
    },
    /// TRUNCATE.
    Truncate {
        /// The tables.
        tables: Vec<Name>,
        /// With those that refer to them.
        cascade: bool,
    },
    /// INSERT, COPY … FROM.
    Insert {
        /// The table.
        table: Name,
        /// Rows that are listed, or as many as a query gives.
        reach: Reach,
        /// `ON CONFLICT DO UPDATE`.
        overwrites: bool,
    },
    /// UPDATE.
    Update {
        /// The table.
        table: Name,
        /// Which rows.
        reach: Reach,
        /// The columns that get new values.
        columns: Vec<String>,
        /// The condition as written.
        condition: Option<String>,
    },
    /// DELETE.
    Delete {
        /// The table.
        table: Name,
        /// Which rows.
        reach: Reach,
        /// The condition as written.
        condition: Option<String>,
    },
    /// MERGE.
    Merge {
        /// The table.
        table: Name,
    },
    /// SELECT, VALUES, TABLE, EXPLAIN, SHOW, COPY … TO.
    Query {
        /// Locks rows (`FOR UPDATE` and its like).
        locks_rows: bool,
    },
    /// LOCK TABLE.
    Lock {
        /// The tables.
        tables: Vec<Name>,
        /// The lock in the manual's words.
        mode: String,
    },
    /// ALTER TYPE … ADD VALUE.
    AddEnumValue {
        /// The type.
        type_name: Name,
        /// The value.
        value: String,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
    },
    /// ALTER TYPE … RENAME VALUE.
    RenameEnumValue {
        /// The type.
        type_name: Name,
        /// The old value.
        from: String,
        /// The new one.
        to: String,
    },
    /// ALTER TYPE … ADD, DROP, ALTER ATTRIBUTE, RENAME ATTRIBUTE.
    AlterTypeAttributes {
        /// The type.
        type_name: Name,
    },
    /// CREATE TYPE.
    CreateType {
        /// The type.
        type_name: Name,
        /// Its values, for an enum.
        values: Option<Vec<String>>,
    },
    /// CREATE DOMAIN.
    CreateDomain {
        /// The domain.
        domain: Name,
        /// It has constraints.
        constrained: bool,
    },
    /// ALTER DOMAIN … ADD CONSTRAINT, SET NOT NULL, VALIDATE.
    AlterDomain {
        /// The domain.
        domain: Name,
        /// All columns of the domain are looked at.
        checks_rows: bool,
    },
    /// CREATE SEQUENCE.
    CreateSequence {
        /// The sequence.
        sequence: Name,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
    },
    /// ALTER SEQUENCE.
    AlterSequence {
        /// The sequence.
        sequence: Name,
    },
    /// CREATE TRIGGER, CREATE RULE.
    CreateTrigger {
        /// Its name.
        trigger: String,
        /// The table.
        table: Name,
        /// A rule, not a trigger.
        rule: bool,
        /// The table of a constraint trigger's FROM.
        from: Option<Name>,
    },
    /// CREATE POLICY, ALTER POLICY.
    SetPolicy {
        /// The table.
        table: Name,
    },
    /// CREATE FUNCTION or PROCEDURE: nothing runs yet.
    CreateFunction {
        /// Its name.
        function: Name,
        /// `OR REPLACE`.
        replace: bool,
    },
    /// CREATE, ALTER EXTENSION.
    SetExtension {
        /// The extension.
        extension: String,
        /// It may be there already.
        if_not_exists: bool,
        /// CREATE, not ALTER.
        create: bool,
    },
    /// CREATE SCHEMA.
    CreateSchema {
        /// The schema.
        schema: String,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
    },
    /// CREATE STATISTICS.
    CreateStatistics {
        /// The table.
        table: Option<Name>,
    },
    /// GRANT, REVOKE, ALTER DEFAULT PRIVILEGES, and changes of roles.
    ChangeRights {
        /// Rights go away.
        revoke: bool,
        /// Tables that are named.
        tables: Vec<Name>,
    },
    /// COMMENT ON, SECURITY LABEL.
    Comment {
        /// What it is on.
        kind: Kind,
        /// The table of a table, column or constraint comment.
        table: Option<Name>,
    },
    /// CREATE, ALTER, DROP PUBLICATION or SUBSCRIPTION.
    Replication {
        /// Tables that are named.
        tables: Vec<Name>,
    },
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT.
    Transaction {
        /// Which.
        step: TransactionStep,
    },
    /// SET, RESET.
    Set {
        /// The setting, in lower case.
        setting: String,
        /// Its value as written; `None` for RESET.
        value: Option<String>,
    },
    /// DO, CALL, EXECUTE, LOAD: what it does stands elsewhere.
    Code {
        /// In words, such as `a DO block`.
        what: String,
    },
    /// The parser reads it; nobody taught the judge what it does.
    Unmodelled {
        /// The first words of the statement.
        what: String,
    },
    /// The parser cannot read it.
    Unknown {
        /// Why not.
        reason: String,
    },
}

/// A statement of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// Where it begins, from 1.
    pub line: usize,
    /// Its bytes in the file, without the semicolon.
    pub range: Range<usize>,
    /// Its text.
    #[serde(skip)]
    pub sql: String,
    /// What it does, in order.
    pub operations: Vec<Operation>,
    /// `ALTER … IF EXISTS`: nothing happens when the object is not there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub if_exists: bool,
    /// Relations that it reads from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<Name>,
    /// Last parts of the names of functions that it calls outside of definitions, in lower case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
}

impl Statement {
    /// A statement that begins at `start` of its file, before anybody says what it does.
    pub(super) fn unread(line: usize, start: usize, sql: String) -> Self {
        let range = start..start + sql.len();
        let (operations, reads, calls) = (Vec::new(), Vec::new(), Vec::new());
        Self { line, range, sql, operations, if_exists: false, reads, calls }
    }
}

/// A remark to the linter: `-- steward: allow RULE reason`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// Its line, from 1.
    pub line: usize,
    /// The rule, or `all`.
    pub rule: String,
    /// Why, in the author's words.
    pub reason: String,
}

/// A file as the linter reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Script {
    /// Statements of the way there, in order.
    pub statements: Vec<Statement>,
    /// All in one transaction; false after `-- steward: no-transaction`.
    pub transaction: bool,
    /// Allowances in order of their lines.
    pub allowances: Vec<Allowance>,
    /// Why the file cannot be split into statements, and where.
    pub broken: Option<(usize, String)>,
}
