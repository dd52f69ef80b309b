//! From a file of PostgreSQL to normalised operations, through a parser of the whole grammar.
//!
//! The parser tolerates errors; this does not: a statement with one is `Unknown`, and one that is read but that nobody
//! taught the judge is `Unmodelled`. Neither is ever taken for harmless.

use schema::Dialect;
use squawk_syntax::ast::{self, AstNode, normalize_name_node};
use squawk_syntax::{SourceFile, SyntaxKind as K, SyntaxNode};

use super::operation::{
    Allowance, Demand, Expression, Generated, Kind, Name, NewColumn, NewConstraint, Operation, Reach, Script,
    Statement, Target, TransactionStep, TypeName,
};
use crate::migration::split::{Piece, split};

/// Statements longer than this are not parsed: a dump's data, not a migration.
const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// Reads a file: the statements of its way there, whether they share a transaction, and what its author allows.
///
/// The way back (`-- steward: down`) is left out.
pub fn read(text: &str) -> Script {
    read_as(text, Dialect::Postgres)
}

/// The same in either engine's language; what statements of SQLite do is not read here.
pub(super) fn read_as(text: &str, dialect: Dialect) -> Script {
    let mut script = Script { transaction: true, ..Script::default() };
    let pieces = match split(text, dialect) {
        Ok(pieces) => pieces,
        Err(error) => {
            script.broken = Some((error.line, error.message.to_owned()));
            return script;
        }
    };
    let mut down = false;
    for piece in pieces {
        match piece {
            Piece::Directive { line, text } => {
                let mut words = text.split(' ');
                match words.next() {
                    Some("up") => down = false,
                    Some("down") => down = true,
                    Some("no-transaction") => script.transaction = false,
                    Some("allow") => {
                        let rule = words.next().unwrap_or_default().to_owned();
                        let reason = words.collect::<Vec<_>>().join(" ");
                        script.allowances.push(Allowance { line, rule, reason });
                    }
                    _ => {}
                }
            }
            Piece::Statement { line, start, text } if !down => {
                script.statements.push(match dialect {
                    Dialect::Postgres => read_statement(line, start, text),
                    Dialect::Sqlite => Statement::unread(line, start, text),
                });
            }
            Piece::Statement { .. } => {}
        }
    }
    script
}

/// Reads one statement that begins at `start` of its file, on `line`.
pub fn read_statement(line: usize, start: usize, sql: String) -> Statement {
    let mut statement = Statement::unread(line, start, sql);
    let unknown = |reason: String| vec![Operation::Unknown { reason }];
    if statement.sql.len() > STATEMENT_BYTES_MAX {
        statement.operations = unknown("the statement is longer than 1 MiB".into());
        return statement;
    }
    let parse = SourceFile::parse(&statement.sql);
    if let Some(error) = parse.errors().first() {
        statement.operations = unknown(error.message().to_owned());
        return statement;
    }
    let root = parse.syntax_node();
    let mut nodes = root.children().filter(|node| node.kind() != K::EMPTY_STMT);
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => {
            statement.operations = operations(&node);
            statement.if_exists = if_exists(&node);
            let defines = matches!(
                node.kind(),
                K::CREATE_FUNCTION
                    | K::CREATE_PROCEDURE
                    | K::CREATE_TRIGGER
                    | K::CREATE_VIEW
                    | K::CREATE_RULE
            );
            if !defines {
                statement.calls = calls(&node);
            }
            statement.reads = reads(&node);
        }
        _ => statement.operations = unknown("it is not exactly one statement".into()),
    }
    statement
}

fn child(node: &SyntaxNode, kind: K) -> Option<SyntaxNode> {
    node.children().find(|child| child.kind() == kind)
}

fn children(node: &SyntaxNode, kind: K) -> impl Iterator<Item = SyntaxNode> {
    node.children().filter(move |child| child.kind() == kind)
}

fn descendant(node: &SyntaxNode, kind: K) -> Option<SyntaxNode> {
    node.descendants().find(|found| found.kind() == kind)
}

/// Whether the node has this keyword itself, not in a part of it.
fn has(node: &SyntaxNode, token: K) -> bool {
    node.children_with_tokens()
        .filter_map(squawk_syntax::SyntaxElement::into_token)
        .any(|found| found.kind() == token)
}

fn node_of<T: AstNode>(node: &SyntaxNode) -> Option<T> {
    node.children().find_map(T::cast)
}

fn text(node: &SyntaxNode) -> String {
    node.text().to_string().trim().to_owned()
}

/// The name that this node is or begins with.
fn name(node: &SyntaxNode) -> Name {
    let mut parts: Vec<String> = node
        .descendants()
        .filter(|found| matches!(found.kind(), K::PATH_SEGMENT | K::PATH_SEGMENT_REF))
        .map(|segment| normalize_name_node(&segment))
        .collect();
    match (parts.pop(), parts.pop()) {
        (Some(name), namespace) => Name { namespace, name },
        (None, _) => Name::bare(normalize_name_node(node)),
    }
}

/// The name in the first part of this kind.
fn named(node: &SyntaxNode, kind: K) -> Name {
    descendant(node, kind).map_or_else(|| Name::bare(""), |found| name(&found))
}

/// All names in direct parts of this kind.
fn all_named(node: &SyntaxNode, kind: K) -> Vec<Name> {
    children(node, kind).map(|found| name(&found)).collect()
}

fn word(node: &SyntaxNode, kind: K) -> String {
    named(node, kind).name
}

fn calls(node: &SyntaxNode) -> Vec<String> {
    let mut out: Vec<String> = node
        .descendants()
        .filter(|found| found.kind() == K::CALL_EXPR)
        .filter_map(|call| call.children().next())
        .map(|callee| {
            let text = callee.text().to_string();
            text.rsplit('.').next().unwrap_or_default().trim().trim_matches('"').to_lowercase()
        })
        .map(|callee| callee.split('(').next().unwrap_or_default().trim().to_owned())
        .collect();
    out.sort();
    out.dedup();
    out
}

fn reads(node: &SyntaxNode) -> Vec<Name> {
    let common: Vec<String> = node
        .descendants()
        .filter(|found| found.kind() == K::WITH_TABLE)
        .filter_map(|table| child(&table, K::CTE_NAME))
        .map(|cte| normalize_name_node(&cte))
        .collect();
    let mut out: Vec<Name> = node
        .descendants()
        .filter(|found| found.kind() == K::RELATION_FROM_ITEM)
        .map(|item| named(&item, K::RELATION_NAME_REF))
        .filter(|name| name.namespace.is_some() || !common.contains(&name.name))
        .collect();
    match node.kind() {
        K::COPY if child(node, K::COPY_FROM).is_none() => {
            out.extend(child(node, K::COPY_TABLE).map(|table| named(&table, K::TABLE_NAME_REF)));
        }
        K::CREATE_TABLE => out.extend(
            node.descendants()
                .filter(|found| found.kind() == K::LIKE_CLAUSE)
                .map(|like| named(&like, K::RELATION_NAME_REF)),
        ),
        K::TABLE => out.extend(
            node.descendants()
                .filter(|found| matches!(found.kind(), K::RELATION_NAME_REF | K::TABLE_NAME_REF))
                .map(|found| name(&found)),
        ),
        _ => {}
    }
    out.sort();
    out.dedup();
    out
}

fn expression(node: &SyntaxNode) -> Expression {
    Expression { sql: text(node), calls: calls(node) }
}

fn expr_in(node: &SyntaxNode) -> Option<Expression> {
    node_of::<ast::Expr>(node).map(|expr| expression(expr.syntax()))
}

fn type_in(node: &SyntaxNode) -> Option<TypeName> {
    node_of::<ast::Type>(node).map(|found| TypeName::read(&text(found.syntax())))
}

fn cascades(node: &SyntaxNode) -> bool {
    child(node, K::CASCADE).is_some()
}

fn if_exists(node: &SyntaxNode) -> bool {
    child(node, K::IF_EXISTS).is_some()
}

fn if_not_exists(node: &SyntaxNode) -> bool {
    child(node, K::IF_NOT_EXISTS).is_some()
}

fn replaces(node: &SyntaxNode) -> bool {
    child(node, K::OR_REPLACE).is_some()
}

/// The column names inside a list of them.
fn column_names(node: &SyntaxNode) -> Vec<String> {
    node.descendants()
        .filter(|found| matches!(found.kind(), K::COLUMN_NAME_REF | K::COLUMN_NAME))
        .map(|found| normalize_name_node(&found))
        .collect()
}

/// A constraint; inline ones take the column that they stand at.
fn constraint(node: &SyntaxNode, column: Option<&str>) -> Option<NewConstraint> {
    let inline = || column.map(|column| vec![column.to_owned()]).unwrap_or_default();
    let listed = || child(node, K::INDEX_PARAMETERS).map(|list| column_names(&list)).unwrap_or_default();
    let key_columns = || if column.is_some() { inline() } else { listed() };
    let using_index = || child(node, K::USING_INDEX_NAME).map(|using| named(&using, K::INDEX_REF).name);
    let demand = match node.kind() {
        K::PRIMARY_KEY_CONSTRAINT => {
            Demand::PrimaryKey { columns: key_columns(), using_index: using_index() }
        }
        K::UNIQUE_CONSTRAINT => Demand::Unique { columns: key_columns(), using_index: using_index() },
        K::CHECK_CONSTRAINT => Demand::Check { expression: expr_in(node)? },
        K::NOT_NULL_CONSTRAINT => {
            Demand::NotNull { column: column.map_or_else(|| word(node, K::COLUMN_NAME_REF), str::to_owned) }
        }
        K::REFERENCES_CONSTRAINT => Demand::ForeignKey {
            columns: inline(),
            parent: named(node, K::TABLE_NAME_REF),
            parent_columns: children(node, K::COLUMN_NAME_REF).map(|it| normalize_name_node(&it)).collect(),
        },
        K::FOREIGN_KEY_CONSTRAINT => {
            let mut lists = children(node, K::FOREIGN_KEY_COLUMN_LIST).map(|list| column_names(&list));
            Demand::ForeignKey {
                columns: lists.next().unwrap_or_default(),
                parent: named(node, K::TABLE_NAME_REF),
                parent_columns: lists.next().unwrap_or_default(),
            }
        }
        K::EXCLUDE_CONSTRAINT => Demand::Exclude,
        _ => return None,
    };
    Some(NewConstraint {
        name: child(node, K::CONSTRAINT_NAME_CLAUSE).map(|clause| word(&clause, K::CONSTRAINT_NAME)),
        demand,
        not_valid: child(node, K::NOT_VALID).is_some(),
        not_enforced: child(node, K::NOT_ENFORCED).is_some(),
    })
}

/// A column definition: name, type and the constraints behind them.
fn new_column(node: &SyntaxNode) -> NewColumn {
    let name = word(node, K::COLUMN_NAME);
    let mut column = NewColumn {
        type_name: type_in(node),
        default: None,
        not_null: false,
        generated: None,
        constraints: Vec::new(),
        name,
    };
    for part in node.children() {
        match part.kind() {
            K::DEFAULT_CONSTRAINT => column.default = expr_in(&part),
            K::NOT_NULL_CONSTRAINT => column.not_null = true,
            K::GENERATED_CONSTRAINT => {
                column.generated = Some(if descendant(&part, K::GENERATED_IDENTITY).is_some() {
                    Generated::Identity
                } else if descendant(&part, K::VIRTUAL).is_some() {
                    Generated::Virtual
                } else if descendant(&part, K::STORED).is_some() {
                    Generated::Stored
                } else {
                    Generated::Unsaid
                });
            }
            _ => {
                if let Some(found) = constraint(&part, Some(&column.name)) {
                    column.not_null |= matches!(found.demand, Demand::PrimaryKey { .. });
                    column.constraints.push(found);
                }
            }
        }
    }
    column
}

fn create_table(node: &SyntaxNode) -> Operation {
    let persistence = child(node, K::TEMP).is_some();
    let arguments = child(node, K::TABLE_ARG_LIST);
    let parts = || arguments.iter().flat_map(SyntaxNode::children);
    Operation::CreateTable {
        table: named(node, K::TABLE_NAME),
        if_not_exists: if_not_exists(node),
        temporary: persistence,
        columns: parts().filter(|part| part.kind() == K::COLUMN).map(|part| new_column(&part)).collect(),
        constraints: parts().filter_map(|part| constraint(&part, None)).collect(),
        partition_of: child(node, K::PARTITION_OF).map(|of| named(&of, K::TABLE_NAME_REF)),
        default_partition: child(node, K::PARTITION_DEFAULT).is_some(),
        partitioned: child(node, K::PARTITION_BY)
            .map(|by| text(&by).split_once("BY").map_or_else(|| text(&by), |(_, key)| key.trim().to_owned())),
        bound: child(node, K::PARTITION_OF)
            .and_then(|of| of.next_sibling())
            .filter(|bound| text(bound).to_ascii_uppercase().starts_with("FOR VALUES"))
            .map(|bound| text(&bound)),
        unlogged: child(node, K::UNLOGGED).is_some(),
        inherits: child(node, K::INHERITS)
            .map(|list| all_named(&list, K::TABLE_NAME_REF))
            .unwrap_or_default(),
        from_query: node.kind() != K::CREATE_TABLE && node.kind() != K::CREATE_FOREIGN_TABLE,
    }
}

/// A data change's reach by its condition: a comparison for equality with a constant names few rows.
fn reach(condition: Option<&SyntaxNode>) -> Reach {
    let Some(condition) = condition else { return Reach::All };
    let comparison = match node_of::<ast::Expr>(condition) {
        Some(ast::Expr::BinExpr(comparison)) => comparison,
        // As where the range of a batch will stand.
        Some(ast::Expr::Literal(literal)) if has(literal.syntax(), K::TRUE_KW) => return Reach::All,
        _ => return Reach::Some,
    };
    let sides = (comparison.lhs(), comparison.rhs());
    let equal = has(comparison.syntax(), K::EQ);
    match sides {
        (Some(ast::Expr::NameRef(_)), Some(ast::Expr::Literal(_))) if equal => Reach::Listed,
        _ => Reach::Some,
    }
}

/// Data changes of the statement, also those inside `WITH`.
fn data_changes(node: &SyntaxNode) -> Vec<Operation> {
    let mut out = Vec::new();
    for found in node.descendants() {
        match found.kind() {
            K::UPDATE => {
                let condition = child(&found, K::WHERE_CLAUSE);
                let columns = child(&found, K::SET_CLAUSE)
                    .map(|set| {
                        set.descendants()
                            .filter(|part| part.kind() == K::COLUMN_TARGET)
                            .map(|target| {
                                let text = target.text().to_string();
                                text.trim().trim_matches('"').to_owned()
                            })
                            .collect()
                    })
                    .unwrap_or_default();
                out.push(Operation::Update {
                    table: named(&found, K::RELATION_NAME_REF),
                    reach: reach(condition.as_ref()),
                    columns,
                    condition: condition.as_ref().and_then(expr_in).map(|expression| expression.sql),
                });
            }
            K::DELETE => out.push(Operation::Delete {
                table: named(&found, K::RELATION_NAME_REF),
                reach: reach(child(&found, K::WHERE_CLAUSE).as_ref()),
                condition: child(&found, K::WHERE_CLAUSE).as_ref().and_then(expr_in).map(|it| it.sql),
            }),
            K::INSERT => {
                let listed = child(&found, K::VALUES).is_some() || child(&found, K::DEFAULT_VALUES).is_some();
                let lone = child(&found, K::SELECT).is_some_and(|select| {
                    child(&select, K::FROM_CLAUSE).is_none() && calls(&select).is_empty()
                });
                out.push(Operation::Insert {
                    table: named(&found, K::RELATION_NAME_REF),
                    reach: if listed || lone { Reach::Listed } else { Reach::Some },
                    overwrites: descendant(&found, K::CONFLICT_DO_UPDATE_SET).is_some(),
                });
            }
            K::MERGE => {
                let target = child(&found, K::TABLE_RELATION_NAME);
                out.push(Operation::Merge {
                    table: target.map_or_else(|| Name::bare(""), |target| named(&target, K::TABLE_NAME_REF)),
                });
            }
            _ => {}
        }
    }
    out
}

fn query(node: &SyntaxNode) -> Vec<Operation> {
    let mut out = data_changes(node);
    if let Some(into) = descendant(node, K::INTO_CLAUSE) {
        out.push(Operation::CreateTable {
            table: named(&into, K::TABLE_NAME),
            if_not_exists: false,
            temporary: child(&into, K::TEMP).is_some(),
            columns: Vec::new(),
            constraints: Vec::new(),
            partition_of: None,
            default_partition: false,
            partitioned: None,
            bound: None,
            unlogged: false,
            inherits: Vec::new(),
            from_query: true,
        });
    }
    if out.is_empty() {
        out.push(Operation::Query { locks_rows: descendant(node, K::LOCKING_CLAUSE).is_some() });
    }
    out
}

fn drop_each(node: &SyntaxNode, kind: Kind, reference: K) -> Vec<Operation> {
    let on = [K::ON_RELATION, K::ON_TABLE]
        .into_iter()
        .find_map(|on| child(node, on))
        .map(|on| on.children().next().map_or_else(|| Name::bare(""), |table| name(&table)));
    let mut objects: Vec<Name> = if reference == K::FUNCTION_NAME_REF
        || reference == K::PROCEDURE_NAME_REF
        || reference == K::ROUTINE_NAME_REF
    {
        node.descendants().filter(|found| found.kind() == reference).map(|found| name(&found)).collect()
    } else {
        all_named(node, reference)
    };
    if objects.is_empty() {
        objects.push(Name::bare(""));
    }
    objects
        .into_iter()
        .map(|object| Operation::Drop {
            kind,
            object,
            if_exists: if_exists(node),
            cascade: cascades(node),
            concurrently: has(node, K::CONCURRENTLY_KW),
            table: on.clone(),
        })
        .collect()
}

/// RENAME TO, SET SCHEMA and OWNER TO, which all objects share.
fn common_change(action: &SyntaxNode, kind: Kind, object: &Name, table: Option<&Name>) -> Option<Operation> {
    let object = object.clone();
    Some(match action.kind() {
        K::SET_SCHEMA => Operation::SetSchema { kind, object, schema: word(action, K::SCHEMA_REF) },
        K::OWNER_TO => Operation::SetOwner {
            kind,
            object,
            owner: child(action, K::ROLE_REF).map(|role| text(&role)).unwrap_or_default(),
        },
        K::TABLE_RENAME_TO
        | K::INDEX_RENAME_TO
        | K::VIEW_RENAME_TO
        | K::TYPE_RENAME_TO
        | K::DOMAIN_RENAME_TO
        | K::SEQUENCE_RENAME_TO
        | K::SCHEMA_RENAME_TO
        | K::TRIGGER_RENAME_TO
        | K::RULE_RENAME_TO
        | K::POLICY_RENAME_TO
        | K::STATISTICS_RENAME_TO
        | K::FUNCTION_RENAME_TO => {
            let to = action.children().next().map(|to| name(&to).name).unwrap_or_default();
            Operation::Rename { kind, object, to, table: table.cloned() }
        }
        _ => return None,
    })
}

fn option_names(node: &SyntaxNode) -> Vec<String> {
    node.descendants()
        .filter(|found| found.kind() == K::ATTRIBUTE_NAME)
        .map(|found| normalize_name_node(&found))
        .collect()
}

fn alter_column(node: &SyntaxNode, table: Name) -> Operation {
    let column = word(node, K::COLUMN_NAME_REF);
    let unmodelled = || Operation::Unmodelled { what: first_words(node) };
    let Some(action) = node.children().find(|part| part.kind() != K::COLUMN_NAME_REF) else {
        return unmodelled();
    };
    match action.kind() {
        K::SET_TYPE => match type_in(&action) {
            Some(to) => Operation::AlterColumnType {
                table,
                column,
                to,
                using: child(&action, K::USING_EXPR).and_then(|using| expr_in(&using)),
                collate: child(&action, K::COLLATE).is_some(),
            },
            None => unmodelled(),
        },
        K::SET_NOT_NULL => Operation::SetNotNull { table, column },
        K::DROP_NOT_NULL => Operation::DropNotNull { table, column },
        K::SET_DEFAULT => Operation::SetDefault { table, column, default: expr_in(&action) },
        K::DROP_DEFAULT => Operation::SetDefault { table, column, default: None },
        K::ADD_GENERATED
        | K::DROP_IDENTITY
        | K::SET_GENERATED
        | K::SET_GENERATED_OPTIONS
        | K::SET_SEQUENCE_OPTION
        | K::RESTART => Operation::AlterIdentity { table, column },
        K::SET_EXPRESSION => Operation::SetExpression { table, column },
        K::DROP_EXPRESSION => Operation::DropExpression { table, column },
        K::SET_STATISTICS | K::SET_OPTIONS | K::RESET_OPTIONS => {
            Operation::SetColumnOption { table, column, planner_only: true }
        }
        K::SET_STORAGE | K::SET_COMPRESSION => {
            Operation::SetColumnOption { table, column, planner_only: false }
        }
        _ => unmodelled(),
    }
}

fn alter_table(action: &SyntaxNode, table: &Name, kind: Kind) -> Operation {
    if let Some(common) = common_change(action, kind, table, None) {
        return common;
    }
    let table = table.clone();
    match action.kind() {
        K::ADD_COLUMN => {
            Operation::AddColumn { table, if_not_exists: if_not_exists(action), column: new_column(action) }
        }
        K::DROP_COLUMN => Operation::DropColumn {
            table,
            column: word(action, K::COLUMN_NAME_REF),
            if_exists: if_exists(action),
            cascade: cascades(action),
        },
        K::RENAME_COLUMN => Operation::RenameColumn {
            table,
            from: word(action, K::COLUMN_NAME_REF),
            to: word(action, K::COLUMN_NAME),
        },
        K::ALTER_COLUMN => alter_column(action, table),
        K::ADD_CONSTRAINT => match action.children().find_map(|part| constraint(&part, None)) {
            Some(constraint) => Operation::AddConstraint { table, constraint },
            None => Operation::Unmodelled { what: first_words(action) },
        },
        K::VALIDATE_CONSTRAINT => {
            Operation::ValidateConstraint { table, constraint: word(action, K::CONSTRAINT_NAME_REF) }
        }
        K::DROP_CONSTRAINT => Operation::DropConstraint {
            table,
            constraint: word(action, K::CONSTRAINT_NAME_REF),
            if_exists: if_exists(action),
            cascade: cascades(action),
        },
        K::RENAME_CONSTRAINT => Operation::Rename {
            kind: Kind::Constraint,
            object: named(action, K::CONSTRAINT_NAME_REF),
            to: word(action, K::CONSTRAINT_NAME),
            table: Some(table),
        },
        K::ALTER_CONSTRAINT => Operation::AlterConstraint {
            table,
            constraint: word(action, K::CONSTRAINT_NAME_REF),
            enforce: child(action, K::ENFORCED).is_some(),
        },
        K::ATTACH_PARTITION => Operation::AttachPartition {
            table,
            partition: named(action, K::TABLE_NAME_REF),
            default: child(action, K::PARTITION_DEFAULT).is_some(),
            bound: action
                .children()
                .find(|part| part.kind() != K::TABLE_NAME_REF)
                .map(|bound| text(&bound))
                .unwrap_or_default(),
        },
        K::DETACH_PARTITION => Operation::DetachPartition {
            table,
            partition: named(action, K::TABLE_NAME_REF),
            concurrently: child(action, K::DETACH_CONCURRENTLY).is_some(),
            finalize: child(action, K::DETACH_FINALIZE).is_some(),
        },
        K::INHERIT_TABLE | K::NO_INHERIT_TABLE => {
            Operation::SetInheritance { table, parent: named(action, K::TABLE_NAME_REF) }
        }
        K::SET_LOGGED | K::SET_UNLOGGED => {
            Operation::SetPersistence { table, logged: action.kind() == K::SET_LOGGED }
        }
        K::SET_TABLESPACE => Operation::SetTablespace {
            object: Target::Table(table),
            tablespace: word(action, K::TABLESPACE_REF),
        },
        K::SET_ACCESS_METHOD => Operation::SetAccessMethod { table },
        K::SET_OPTIONS | K::RESET_OPTIONS => {
            Operation::SetTableOptions { table, options: option_names(action) }
        }
        K::ENABLE_TRIGGER | K::ENABLE_ALWAYS_TRIGGER | K::ENABLE_REPLICA_TRIGGER => {
            Operation::ToggleTrigger { table, rule: false, disable: false }
        }
        K::DISABLE_TRIGGER => Operation::ToggleTrigger { table, rule: false, disable: true },
        K::ENABLE_RULE | K::ENABLE_ALWAYS_RULE | K::ENABLE_REPLICA_RULE => {
            Operation::ToggleTrigger { table, rule: true, disable: false }
        }
        K::DISABLE_RULE => Operation::ToggleTrigger { table, rule: true, disable: true },
        K::ENABLE_RLS | K::FORCE_RLS => Operation::SetRowSecurity { table, enable: true },
        K::DISABLE_RLS | K::NO_FORCE_RLS => Operation::SetRowSecurity { table, enable: false },
        K::REPLICA_IDENTITY => Operation::SetReplicaIdentity { table },
        K::CLUSTER_ON | K::SET_WITHOUT_CLUSTER => Operation::SetClusterIndex { table },
        _ => Operation::Unmodelled { what: first_words(action) },
    }
}

fn first_words(node: &SyntaxNode) -> String {
    let text = text(node);
    let words: Vec<&str> = text.split_whitespace().take(4).collect();
    words.join(" ").chars().take(80).collect()
}

/// The action of `ALTER kind name action`.
fn alter_object(node: &SyntaxNode, kind: Kind, reference: K) -> Vec<Operation> {
    let object = named(node, reference);
    let table = [K::ON_RELATION, K::ON_TABLE]
        .into_iter()
        .find_map(|on| child(node, on))
        .and_then(|on| on.children().next())
        .map(|table| name(&table));
    let out: Vec<Operation> =
        node.children().filter_map(|action| common_change(&action, kind, &object, table.as_ref())).collect();
    if out.is_empty() { vec![Operation::Unmodelled { what: first_words(node) }] } else { out }
}

fn operations(node: &SyntaxNode) -> Vec<Operation> {
    let code = |what: &str| vec![Operation::Code { what: what.to_owned() }];
    let unmodelled = || vec![Operation::Unmodelled { what: first_words(node) }];
    let transaction = |step| vec![Operation::Transaction { step }];
    let replication = || {
        let tables = node
            .descendants()
            .filter(|found| matches!(found.kind(), K::TABLE_NAME_REF | K::RELATION_NAME_REF))
            .map(|found| name(&found))
            .collect();
        vec![Operation::Replication { tables }]
    };
    match node.kind() {
        K::CREATE_TABLE | K::CREATE_FOREIGN_TABLE | K::CREATE_TABLE_AS => vec![create_table(node)],
        K::ALTER_TABLE | K::ALTER_FOREIGN_TABLE => {
            let Some(table) = child(node, K::TABLE_RELATION_NAME) else { return unmodelled() };
            let table = named(&table, K::TABLE_NAME_REF);
            let actions: Vec<Operation> = node
                .children()
                .filter(|part| !matches!(part.kind(), K::TABLE_RELATION_NAME | K::IF_EXISTS))
                .map(|action| alter_table(&action, &table, Kind::Table))
                .collect();
            if actions.is_empty() { unmodelled() } else { actions }
        }
        K::CREATE_INDEX => vec![Operation::CreateIndex {
            index: child(node, K::INDEX).map(|index| name(&index).name),
            table: named(node, K::TABLE_NAME_REF),
            only: child(node, K::TABLE_RELATION_NAME).is_some_and(|table| has(&table, K::ONLY_KW)),
            unique: has(node, K::UNIQUE_KW),
            concurrently: has(node, K::CONCURRENTLY_KW),
            if_not_exists: if_not_exists(node),
            method: child(node, K::USING_METHOD)
                .map_or_else(|| "btree".into(), |using| word(&using, K::ACCESS_METHOD_REF)),
            columns: child(node, K::PARTITION_ITEM_LIST)
                .map(|list| children(&list, K::PARTITION_ITEM).map(|item| text(&item)).collect())
                .unwrap_or_default(),
            predicate: child(node, K::WHERE_CLAUSE)
                .and_then(|condition| expr_in(&condition))
                .map(|it| it.sql),
        }],
        K::ALTER_INDEX => {
            let index = named(node, K::INDEX_REF);
            let Some(action) =
                node.children().find(|part| !matches!(part.kind(), K::INDEX_REF | K::IF_EXISTS))
            else {
                return unmodelled();
            };
            vec![match action.kind() {
                K::ATTACH_INDEX_PARTITION => {
                    Operation::AttachIndex { index, partition: named(&action, K::INDEX_REF) }
                }
                K::SET_TABLESPACE => Operation::SetTablespace {
                    object: Target::Index(index),
                    tablespace: word(&action, K::TABLESPACE_REF),
                },
                _ => match common_change(&action, Kind::Index, &index, None) {
                    Some(change) => change,
                    None => return unmodelled(),
                },
            }]
        }
        K::REINDEX => {
            let Some(reindex) = ast::Reindex::cast(node.clone()) else { return unmodelled() };
            let target = node.children().find_map(|part| match part.kind() {
                K::REINDEX_TARGET_TABLE => Some(Target::Table(named(&part, K::TABLE_NAME_REF))),
                K::REINDEX_TARGET_INDEX => Some(Target::Index(named(&part, K::INDEX_REF))),
                K::REINDEX_TARGET_SCHEMA => Some(Target::Schema(word(&part, K::SCHEMA_REF))),
                K::REINDEX_TARGET_DATABASE | K::REINDEX_TARGET_SYSTEM => Some(Target::Database),
                _ => None,
            });
            match target {
                Some(target) => {
                    vec![Operation::Reindex { target, concurrently: reindex.is_concurrently() }]
                }
                None => unmodelled(),
            }
        }
        K::DROP_TABLE => drop_each(node, Kind::Table, K::TABLE_NAME_REF),
        K::DROP_FOREIGN_TABLE => drop_each(node, Kind::ForeignTable, K::TABLE_NAME_REF),
        K::DROP_INDEX => drop_each(node, Kind::Index, K::INDEX_REF),
        K::DROP_VIEW => drop_each(node, Kind::View, K::VIEW_REF),
        K::DROP_MATERIALIZED_VIEW => drop_each(node, Kind::MaterializedView, K::VIEW_REF),
        K::DROP_SEQUENCE => drop_each(node, Kind::Sequence, K::SEQUENCE_REF),
        K::DROP_TYPE => drop_each(node, Kind::Type, K::TYPE_NAME_REF),
        K::DROP_DOMAIN => drop_each(node, Kind::Domain, K::DOMAIN_REF),
        K::DROP_FUNCTION => drop_each(node, Kind::Function, K::FUNCTION_NAME_REF),
        K::DROP_PROCEDURE => drop_each(node, Kind::Function, K::PROCEDURE_NAME_REF),
        K::DROP_ROUTINE => drop_each(node, Kind::Function, K::ROUTINE_NAME_REF),
        K::DROP_AGGREGATE => drop_each(node, Kind::Function, K::AGGREGATE),
        K::DROP_TRIGGER => drop_each(node, Kind::Trigger, K::TRIGGER_REF),
        K::DROP_RULE => drop_each(node, Kind::Rule, K::RULE_REF),
        K::DROP_POLICY => drop_each(node, Kind::Policy, K::POLICY_REF),
        K::DROP_SCHEMA => drop_each(node, Kind::Schema, K::SCHEMA_REF),
        K::DROP_EXTENSION => drop_each(node, Kind::Extension, K::EXTENSION_REF),
        K::DROP_DATABASE => drop_each(node, Kind::Database, K::DATABASE_REF),
        K::DROP_STATISTICS => drop_each(node, Kind::Statistics, K::STATISTICS_REF),
        K::DROP_OWNED => drop_each(node, Kind::Owned, K::ROLE_REF),
        K::DROP_ROLE | K::DROP_USER | K::DROP_GROUP => drop_each(node, Kind::Role, K::ROLE_REF),
        K::ALTER_VIEW => {
            let view = named(node, K::VIEW_REF);
            node.children()
                .filter(|part| !matches!(part.kind(), K::VIEW_REF | K::IF_EXISTS))
                .map(|action| match action.kind() {
                    K::RENAME_COLUMN => alter_table(&action, &view, Kind::View),
                    K::ALTER_VIEW_COLUMN | K::SET_OPTIONS | K::RESET_OPTIONS => {
                        Operation::CreateView { view: view.clone(), replace: true }
                    }
                    _ => common_change(&action, Kind::View, &view, None)
                        .unwrap_or_else(|| Operation::Unmodelled { what: first_words(node) }),
                })
                .collect()
        }
        K::ALTER_MATERIALIZED_VIEW => {
            let view = named(node, K::VIEW_REF);
            node.children()
                .filter(|part| !matches!(part.kind(), K::VIEW_REF | K::IF_EXISTS))
                .map(|action| alter_table(&action, &view, Kind::MaterializedView))
                .collect()
        }
        K::ALTER_SEQUENCE => {
            let sequence = named(node, K::SEQUENCE_REF);
            let actions: Vec<Operation> = node
                .children()
                .filter_map(|action| common_change(&action, Kind::Sequence, &sequence, None))
                .collect();
            if actions.is_empty() { vec![Operation::AlterSequence { sequence }] } else { actions }
        }
        K::ALTER_TYPE => {
            let type_name = named(node, K::TYPE_NAME_REF);
            let Some(action) = node.children().find(|part| part.kind() != K::TYPE_NAME_REF) else {
                return unmodelled();
            };
            let literals: Vec<String> = action
                .descendants()
                .filter_map(ast::Literal::cast)
                .filter_map(|it| it.string_value())
                .collect();
            vec![match action.kind() {
                K::ADD_VALUE => Operation::AddEnumValue {
                    type_name,
                    value: literals.first().cloned().unwrap_or_default(),
                    if_not_exists: if_not_exists(&action),
                },
                K::RENAME_VALUE => Operation::RenameEnumValue {
                    type_name,
                    from: literals.first().cloned().unwrap_or_default(),
                    to: literals.get(1).cloned().unwrap_or_default(),
                },
                K::ALTER_TYPE_ATTRIBUTE_ACTION_LIST | K::RENAME_ATTRIBUTE => {
                    Operation::AlterTypeAttributes { type_name }
                }
                _ => match common_change(&action, Kind::Type, &type_name, None) {
                    Some(change) => change,
                    None => return unmodelled(),
                },
            }]
        }
        K::ALTER_DOMAIN => {
            let domain = named(node, K::DOMAIN_REF);
            let Some(action) = node.children().find(|part| part.kind() != K::DOMAIN_REF) else {
                return unmodelled();
            };
            vec![match action.kind() {
                K::ADD_CONSTRAINT => Operation::AlterDomain {
                    domain,
                    checks_rows: action
                        .children()
                        .find_map(|part| constraint(&part, None))
                        .is_none_or(|constraint| !constraint.not_valid),
                },
                K::SET_NOT_NULL | K::VALIDATE_CONSTRAINT => {
                    Operation::AlterDomain { domain, checks_rows: true }
                }
                K::DROP_NOT_NULL | K::DROP_CONSTRAINT | K::SET_DEFAULT | K::DROP_DEFAULT => {
                    Operation::AlterDomain { domain, checks_rows: false }
                }
                K::RENAME_CONSTRAINT => Operation::AlterDomain { domain, checks_rows: false },
                _ => match common_change(&action, Kind::Domain, &domain, None) {
                    Some(change) => change,
                    None => return unmodelled(),
                },
            }]
        }
        K::ALTER_SCHEMA => alter_object(node, Kind::Schema, K::SCHEMA_REF),
        K::ALTER_FUNCTION => alter_object(node, Kind::Function, K::FUNCTION_NAME_REF),
        K::ALTER_PROCEDURE => alter_object(node, Kind::Function, K::PROCEDURE_NAME_REF),
        K::ALTER_TRIGGER => alter_object(node, Kind::Trigger, K::TRIGGER_REF),
        K::ALTER_RULE => alter_object(node, Kind::Rule, K::RULE_REF),
        K::ALTER_STATISTICS => alter_object(node, Kind::Statistics, K::STATISTICS_REF),
        K::ALTER_POLICY | K::CREATE_POLICY => vec![Operation::SetPolicy {
            table: child(node, K::ON_TABLE)
                .map_or_else(|| Name::bare(""), |on| named(&on, K::TABLE_NAME_REF)),
        }],
        K::CREATE_VIEW => vec![Operation::CreateView { view: named(node, K::VIEW), replace: replaces(node) }],
        K::CREATE_MATERIALIZED_VIEW => vec![Operation::CreateMaterializedView {
            view: named(node, K::VIEW),
            if_not_exists: if_not_exists(node),
            with_data: child(node, K::WITH_NO_DATA).is_none(),
        }],
        K::REFRESH => vec![Operation::Refresh {
            view: named(node, K::VIEW_REF),
            concurrently: has(node, K::CONCURRENTLY_KW),
            with_data: child(node, K::WITH_NO_DATA).is_none(),
        }],
        K::CLUSTER => {
            vec![Operation::Cluster { table: descendant(node, K::TABLE_NAME_REF).map(|table| name(&table)) }]
        }
        K::VACUUM => {
            let Some(vacuum) = ast::Vacuum::cast(node.clone()) else { return unmodelled() };
            vec![Operation::Vacuum { tables: tables_listed(node), full: vacuum.is_full() }]
        }
        K::ANALYZE => vec![Operation::Analyze { tables: tables_listed(node) }],
        K::TRUNCATE => vec![Operation::Truncate { tables: tables_listed(node), cascade: cascades(node) }],
        K::INSERT
        | K::UPDATE
        | K::DELETE
        | K::MERGE
        | K::SELECT
        | K::SELECT_INTO
        | K::COMPOUND_SELECT
        | K::PAREN_SELECT
        | K::VALUES
        | K::TABLE => query(node),
        K::EXPLAIN => {
            // EXPLAIN ANALYZE runs the statement, EXPLAIN only plans it.
            let runs = text(node).to_ascii_lowercase();
            if runs.contains("analy") { query(node) } else { vec![Operation::Query { locks_rows: false }] }
        }
        K::COPY => match (child(node, K::COPY_TABLE), child(node, K::COPY_FROM)) {
            _ if descendant(node, K::COPY_PROGRAM).is_some_and(|from| has(&from, K::PROGRAM_KW)) => {
                code("a program run by COPY")
            }
            (Some(table), Some(_)) => vec![Operation::Insert {
                table: named(&table, K::TABLE_NAME_REF),
                reach: Reach::Some,
                overwrites: false,
            }],
            _ => query(node),
        },
        K::LOCK => vec![Operation::Lock {
            tables: node
                .descendants()
                .filter(|found| found.kind() == K::RELATION_NAME_REF)
                .map(|found| name(&found))
                .collect(),
            mode: child(node, K::LOCK_MODE_CLAUSE).map_or_else(
                || "ACCESS EXCLUSIVE".into(),
                |clause| {
                    let words = text(&clause).to_ascii_uppercase();
                    let words: Vec<&str> = words.split_whitespace().collect();
                    words[1..words.len().max(2) - 1].join(" ")
                },
            ),
        }],
        K::CREATE_TYPE => vec![Operation::CreateType {
            type_name: named(node, K::TYPE_NAME),
            values: child(node, K::ENUM_TYPE).map(|values| {
                values
                    .descendants()
                    .filter_map(ast::Literal::cast)
                    .filter_map(|it| it.string_value())
                    .collect()
            }),
        }],
        K::CREATE_DOMAIN => vec![Operation::CreateDomain {
            domain: named(node, K::DOMAIN),
            constrained: node
                .children()
                .any(|part| matches!(part.kind(), K::NOT_NULL_CONSTRAINT | K::CHECK_CONSTRAINT)),
        }],
        K::CREATE_SEQUENCE => vec![Operation::CreateSequence {
            sequence: named(node, K::SEQUENCE),
            if_not_exists: if_not_exists(node),
        }],
        K::CREATE_TRIGGER => vec![Operation::CreateTrigger {
            trigger: word(node, K::TRIGGER),
            table: child(node, K::ON_RELATION)
                .map_or_else(|| Name::bare(""), |on| named(&on, K::RELATION_NAME_REF)),
            rule: false,
            from: child(node, K::FROM_TABLE).and_then(|from| from.children().next()).map(|from| name(&from)),
        }],
        K::CREATE_RULE => vec![Operation::CreateTrigger {
            trigger: word(node, K::RULE),
            table: child(node, K::RULE_ON)
                .map_or_else(|| Name::bare(""), |on| named(&on, K::RELATION_NAME_REF)),
            rule: true,
            from: None,
        }],
        K::CREATE_FUNCTION => vec![Operation::CreateFunction {
            function: named(node, K::FUNCTION_NAME),
            replace: replaces(node),
        }],
        K::CREATE_PROCEDURE => vec![Operation::CreateFunction {
            function: named(node, K::PROCEDURE_NAME),
            replace: replaces(node),
        }],
        K::CREATE_EXTENSION => vec![Operation::SetExtension {
            extension: word(node, K::EXTENSION),
            if_not_exists: if_not_exists(node),
            create: true,
        }],
        K::ALTER_EXTENSION => vec![Operation::SetExtension {
            extension: word(node, K::EXTENSION_REF),
            if_not_exists: false,
            create: false,
        }],
        K::CREATE_SCHEMA if node.children().all(|part| !is_schema_element(part.kind())) => {
            vec![Operation::CreateSchema {
                schema: descendant(node, K::SCHEMA).map(|it| normalize_name_node(&it)).unwrap_or_default(),
                if_not_exists: if_not_exists(node),
            }]
        }
        K::CREATE_STATISTICS => vec![Operation::CreateStatistics {
            table: child(node, K::FROM_TABLE).and_then(|from| from.children().next()).map(|from| name(&from)),
        }],
        K::GRANT | K::REVOKE => vec![Operation::ChangeRights {
            revoke: node.kind() == K::REVOKE,
            tables: descendant(node, K::PRIVILEGE_TABLE)
                .or_else(|| descendant(node, K::PRIVILEGE_DEFAULT))
                .map(|list| all_named(&list, K::RELATION_NAME_REF))
                .unwrap_or_default(),
        }],
        K::ALTER_DEFAULT_PRIVILEGES
        | K::CREATE_ROLE
        | K::CREATE_USER
        | K::CREATE_GROUP
        | K::ALTER_ROLE
        | K::ALTER_USER
        | K::ALTER_GROUP => vec![Operation::ChangeRights { revoke: false, tables: Vec::new() }],
        K::COMMENT_ON => {
            let target = node.children().next();
            let kind = match target.as_ref().map(SyntaxNode::kind) {
                Some(K::OBJECT_TABLE) => Kind::Table,
                Some(K::OBJECT_COLUMN) => Kind::Column,
                Some(K::OBJECT_CONSTRAINT) => Kind::Constraint,
                _ => Kind::Other,
            };
            let table = target.and_then(|target| match kind {
                Kind::Table | Kind::Constraint => {
                    descendant(&target, K::TABLE_NAME_REF).map(|table| name(&table))
                }
                Kind::Column => {
                    let column = target.children().next()?;
                    let mut parts: Vec<String> = column
                        .descendants()
                        .filter(|part| matches!(part.kind(), K::PATH_SEGMENT | K::PATH_SEGMENT_REF))
                        .map(|part| normalize_name_node(&part))
                        .collect();
                    parts.pop();
                    let name = parts.pop()?;
                    Some(Name { namespace: parts.pop(), name })
                }
                _ => None,
            });
            vec![Operation::Comment { kind, table }]
        }
        K::CREATE_PUBLICATION
        | K::ALTER_PUBLICATION
        | K::DROP_PUBLICATION
        | K::CREATE_SUBSCRIPTION
        | K::ALTER_SUBSCRIPTION
        | K::DROP_SUBSCRIPTION => replication(),
        K::BEGIN => transaction(TransactionStep::Begin),
        K::COMMIT_TRANSACTION => transaction(TransactionStep::Commit),
        K::ROLLBACK_TRANSACTION => transaction(TransactionStep::Rollback),
        K::SAVEPOINT_CREATE | K::RELEASE_SAVEPOINT | K::ROLLBACK_TO_SAVEPOINT => {
            transaction(TransactionStep::Savepoint)
        }
        K::SET | K::RESET => {
            let setting = descendant(node, K::CONFIG_PARAMETER_REF).map(|it| name(&it));
            let setting = setting.map_or_else(String::new, |name| match name.namespace {
                Some(namespace) => format!("{namespace}.{}", name.name),
                None => name.name,
            });
            let value = child(node, K::SET_CONFIG)
                .and_then(|config| child(&config, K::TO_CONFIG_VALUE))
                .map(|value| text(&value))
                .map(|value| {
                    let value = value.trim_start_matches('=').trim();
                    value.strip_prefix("TO ").or(value.strip_prefix("to ")).unwrap_or(value).trim().to_owned()
                });
            vec![Operation::Set { setting, value }]
        }
        K::SET_ROLE | K::RESET_ROLE | K::SET_SESSION_AUTH | K::RESET_SESSION_AUTH => {
            vec![Operation::ChangeRights { revoke: false, tables: Vec::new() }]
        }
        K::SET_CONSTRAINTS | K::SET_TRANSACTION => {
            vec![Operation::Set { setting: String::new(), value: None }]
        }
        K::DO => code("a DO block"),
        K::CALL => code("a procedure that is called"),
        K::EXECUTE => code("a prepared statement"),
        K::LOAD => code("a library that is loaded"),
        // PREPARE runs nothing; what EXECUTE runs is judged as code.
        K::SHOW | K::PREPARE | K::NOTIFY | K::LISTEN | K::UNLISTEN | K::DEALLOCATE | K::DISCARD => {
            vec![Operation::Query { locks_rows: false }]
        }
        _ => unmodelled(),
    }
}

/// What can stand inside CREATE SCHEMA and makes objects of its own.
fn is_schema_element(kind: K) -> bool {
    matches!(
        kind,
        K::CREATE_TABLE
            | K::CREATE_VIEW
            | K::CREATE_INDEX
            | K::CREATE_SEQUENCE
            | K::CREATE_TRIGGER
            | K::GRANT
    )
}

fn tables_listed(node: &SyntaxNode) -> Vec<Name> {
    node.descendants().filter(|found| found.kind() == K::TABLE_NAME_REF).map(|found| name(&found)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations_of(sql: &str) -> Vec<Operation> {
        read_statement(1, 0, sql.to_owned()).operations
    }

    /// The operations as JSON without what is false, empty or absent.
    fn brief(sql: &str) -> String {
        fn prune(value: serde_json::Value) -> Option<serde_json::Value> {
            use serde_json::Value as V;
            match value {
                V::Null | V::Bool(false) => None,
                V::Object(map) => {
                    let mut map: serde_json::Map<_, _> =
                        map.into_iter().filter_map(|(key, value)| Some((key, prune(value)?))).collect();
                    match (map.len(), map.remove("name")) {
                        (1, Some(name)) => Some(name),
                        (_, name) => {
                            map.extend(name.map(|name| ("name".to_owned(), name)));
                            Some(V::Object(map))
                        }
                    }
                }
                V::Array(list) => {
                    let list: Vec<_> = list.into_iter().filter_map(prune).collect();
                    (!list.is_empty()).then_some(V::Array(list))
                }
                other => Some(other),
            }
        }
        let operations = operations_of(sql);
        let parts: Vec<String> = operations
            .iter()
            .filter_map(|operation| prune(serde_json::to_value(operation).unwrap()))
            .map(|value| contract::canonical_json(&value).replace('"', ""))
            .collect();
        parts.join(" + ")
    }

    #[test]
    fn statements_become_operations() {
        for (sql, expected) in [
            (
                "ALTER TABLE ONLY s.\"T\" ADD COLUMN IF NOT EXISTS a numeric(10) NOT NULL DEFAULT f(1), DROP b CASCADE",
                "{column:{default:{calls:[f],sql:f(1)},name:a,not_null:true,type_name:{base:numeric,parameters:[10,0]}},if_not_exists:true,operation:add_column,table:{name:T,namespace:s}} + {cascade:true,column:b,operation:drop_column,table:{name:T,namespace:s}}",
            ),
            (
                "CREATE UNIQUE INDEX CONCURRENTLY i ON ONLY orders USING gin (a, lower(b)) WHERE a > 1",
                "{columns:[a,lower(b)],concurrently:true,index:i,method:gin,only:true,operation:create_index,predicate:a > 1,table:orders,unique:true}",
            ),
            (
                "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES s.p (b) NOT VALID",
                "{constraint:{demand:{columns:[a],kind:foreign_key,parent:{name:p,namespace:s},parent_columns:[b]},name:c,not_valid:true},operation:add_constraint,table:t}",
            ),
            (
                "ALTER TABLE t ALTER a TYPE int8 USING a::int8",
                "{column:a,operation:alter_column_type,table:t,to:{base:bigint},using:{sql:a::int8}}",
            ),
            ("ALTER TABLE t RENAME a TO b", "{from:a,operation:rename_column,table:t,to:b}"),
            ("ALTER TABLE t RENAME TO u", "{kind:table,object:t,operation:rename,to:u}"),
            ("VACUUM (FULL) t", "{full:true,operation:vacuum,tables:[t]}"),
            ("VACUUM (FULL off) t", "{operation:vacuum,tables:[t]}"),
            ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "{operation:delete,reach:all,table:t}"),
            (
                "UPDATE t SET a = 1 WHERE id = 5",
                "{columns:[a],condition:id = 5,operation:update,reach:listed,table:t}",
            ),
            ("LOCK t IN SHARE ROW EXCLUSIVE MODE", "{mode:SHARE ROW EXCLUSIVE,operation:lock,tables:[t]}"),
            ("DO $$ BEGIN END $$", "{operation:code,what:a DO block}"),
            ("ALTER SYSTEM SET work_mem = 1", "{operation:unmodelled,what:ALTER SYSTEM SET work_mem}"),
            ("ALTER TABEL t ADD a int", "{operation:unknown,reason:expected command, found ALTER_KW}"),
        ] {
            assert_eq!(brief(sql), expected, "{sql}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_never_nothing() {
        for sql in
            ["SELEC 1", "ALTER TABLE", "CREATE INDEX ON", "SELECT 1 FROM (", "\\connect x", "1", "€", "GRANT"]
        {
            assert!(matches!(operations_of(sql)[..], [Operation::Unknown { .. }]), "{sql}");
        }
        let long = format!("INSERT INTO t VALUES ('{}')", "x".repeat(STATEMENT_BYTES_MAX));
        assert!(matches!(operations_of(&long)[..], [Operation::Unknown { .. }]));
    }

    #[test]
    fn places_and_remarks_are_kept() {
        let text = "-- steward: no-transaction\nSELECT 1;\n\n  -- steward: allow rewrite empty until launch\nSELECT\n 2;\n-- steward: down\nSELECT 3";
        let script = read(text);
        assert!(!script.transaction);
        let found: Vec<_> =
            script.statements.iter().map(|it| (it.line, &text[it.range.clone()], it.sql.as_str())).collect();
        assert_eq!(found, [(2, "SELECT 1", "SELECT 1"), (5, "SELECT\n 2", "SELECT\n 2")]);
        assert_eq!(
            script.allowances,
            [Allowance { line: 4, rule: "rewrite".into(), reason: "empty until launch".into() }]
        );
        assert_eq!(read("SELECT 'x").broken, Some((1, "a string does not end".to_owned())));
    }

    #[test]
    fn types_are_named_as_the_catalog_names_them() {
        for (written, catalog) in [
            ("int", "integer"),
            ("VARCHAR(20)", "character varying(20)"),
            ("char", "character(1)"),
            ("decimal(8)", "numeric(8,0)"),
            ("timestamptz", "timestamp with time zone"),
            ("timestamp(3) with time zone", "timestamp(3) with time zone"),
            ("text[]", "text[]"),
            ("pg_catalog.int8", "bigint"),
            ("\"Mood\"", "\"Mood\""),
            ("float(10)", "real"),
            ("integer ARRAY", "integer[]"),
        ] {
            assert_eq!(TypeName::read(written).to_string(), catalog, "{written}");
            assert_eq!(TypeName::read(catalog), TypeName::read(written), "{written}");
        }
    }
}
