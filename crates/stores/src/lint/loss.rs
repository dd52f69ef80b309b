//! What a statement of PostgreSQL loses for good: the one place that says so, for the linter's remarks and for the plan
//! that decides whose approval is asked for.

use super::operation::{Kind, Name, Operation, Reach, Statement, TypeName};
use super::types::{every_value_fits, is_volatile};

/// What must be known of the database to say what is lost.
pub(crate) trait Known {
    /// Nothing is lost with this table, or with this column of it: it is not there, or was made just before.
    fn spared(&self, table: &Name, column: Option<&str>) -> bool;
    /// The column's type as it is now, where it is known.
    fn column_type(&self, table: &Name, column: &str) -> Option<TypeName>;
    /// The first of these functions that somebody wrote for this database.
    fn written_function(&self, calls: &[String]) -> Option<String>;
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    /// Some rows get other values; whoever kept the old ones can bring them back.
    Overwritten,
    /// Rows, values or objects are gone.
    Gone,
    /// Nobody can say what it does.
    Unknown,
}

/// Something that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) grade: Grade,
    pub(crate) object: String,
    pub(crate) message: String,
}

/// Functions that a statement may call without being taken for the worst, beside those whose volatility is known.
const HARMLESS: [&str; 11] = [
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "string_agg",
    "array_agg",
    "generate_series",
    "row_number",
    "unnest",
    "pg_get_serial_sequence",
];

/// Beginnings of functions that reach beyond the rows: other servers, large objects, files, processes.
const REACHING: [&str; 3] = ["dblink", "lo_", "pg_"];

/// A function of which nobody can say what it does when the statement runs: one that somebody wrote, one that reaches
/// beyond the rows, and in a query, which is run for what its functions do, also one that is not known.
pub(crate) fn unjudged_call(statement: &Statement, known: &dyn Known) -> Option<String> {
    let is_query = |operation: &Operation| matches!(operation, Operation::Query { .. });
    let queries = statement.operations.iter().any(is_query);
    let runs = statement.operations.iter().any(|operation| is_query(operation) || changes_rows(operation));
    if !runs {
        return None;
    }
    known.written_function(&statement.calls).or_else(|| {
        let odd = |call: &&String| {
            let reaches = REACHING.iter().any(|prefix| call.starts_with(prefix));
            !HARMLESS.contains(&call.as_str()) && (reaches || queries && is_volatile(call).is_none())
        };
        statement.calls.iter().find(odd).cloned()
    })
}

fn changes_rows(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Insert { .. }
            | Operation::Update { .. }
            | Operation::Delete { .. }
            | Operation::Merge { .. }
    )
}

/// Everything that the statement loses.
pub(crate) fn losses(statement: &Statement, known: &dyn Known) -> Vec<Loss> {
    let mut out: Vec<Loss> =
        statement.operations.iter().flat_map(|operation| of_operation(operation, known)).collect();
    if let Some(function) = unjudged_call(statement, known) {
        out.push(Loss {
            grade: Grade::Unknown,
            message: format!("it calls `{function}`, and a function can do anything"),
            object: function,
        });
    }
    out
}

fn of_operation(operation: &Operation, known: &dyn Known) -> Vec<Loss> {
    let loss = |grade, object: &dyn ToString, message: String| {
        vec![Loss { grade, object: object.to_string(), message }]
    };
    let of_table = |table: &Name, grade, message: String| {
        if known.spared(table, None) { Vec::new() } else { loss(grade, table, message) }
    };
    let unknown = |message: String| loss(Grade::Unknown, &"", message);
    match operation {
        Operation::DropColumn { table, column, .. } => {
            if known.spared(table, Some(column)) {
                return Vec::new();
            }
            let object = format!("{table}.{column}");
            let message = format!("the values of `{object}` are gone");
            loss(Grade::Gone, &object, message)
        }
        Operation::AlterColumnType { table, column, to, using, .. } => {
            let object = format!("{table}.{column}");
            match known.column_type(table, column) {
                _ if known.spared(table, None) => Vec::new(),
                None => loss(Grade::Unknown, &object, format!("nobody knows what `{object}` holds now")),
                Some(from) if using.is_none() && every_value_fits(&from, to) => Vec::new(),
                Some(_) => loss(
                    Grade::Gone,
                    &object,
                    format!("the new type of `{object}` may not hold what is there"),
                ),
            }
        }
        Operation::SetPersistence { table, logged: false } => {
            of_table(table, Grade::Gone, format!("a crash empties `{table}` from now on"))
        }
        Operation::Drop { kind, object, cascade, .. } => dropped(*kind, object, *cascade, known),
        Operation::Truncate { tables, cascade } => tables
            .iter()
            .flat_map(|table| {
                let others = if *cascade { " and of all that refer to it" } else { "" };
                of_table(table, Grade::Gone, format!("all rows of `{table}`{others} are gone"))
            })
            .collect(),
        Operation::Delete { table, reach, .. } => {
            of_table(table, Grade::Gone, format!("{} of `{table}` are deleted", rows(*reach)))
        }
        Operation::Merge { table } => {
            of_table(table, Grade::Gone, format!("rows of `{table}` may be overwritten or deleted"))
        }
        Operation::Update { table, reach, .. } => {
            let grade = if *reach == Reach::All { Grade::Gone } else { Grade::Overwritten };
            of_table(table, grade, format!("values in {} of `{table}` are overwritten", rows(*reach)))
        }
        Operation::Insert { table, overwrites: true, .. } => of_table(
            table,
            Grade::Overwritten,
            format!("rows of `{table}` that are there may be overwritten"),
        ),
        Operation::SetExtension { extension, create: false, .. } => {
            unknown(format!("the update script of `{extension}` can do anything"))
        }
        Operation::AlterTypeAttributes { type_name } => {
            unknown(format!("nobody knows which values of `{type_name}` remain"))
        }
        Operation::Replication { .. } => unknown("whoever receives changes may lose them".into()),
        Operation::Transaction { .. } => unknown("it takes the transaction out of Steward's hands".into()),
        Operation::Code { what } => unknown(format!("what {what} does cannot be judged")),
        Operation::Unmodelled { what } => {
            unknown(format!("`{what}` is not known here, so it is taken for the worst"))
        }
        Operation::Unknown { reason } => {
            unknown(format!("the statement cannot be read ({reason}), so nobody can say what it does"))
        }
        _ => Vec::new(),
    }
}

fn rows(reach: Reach) -> &'static str {
    if reach == Reach::All { "all rows" } else { "some rows" }
}

/// Definitions that stand in the migrations can be made again; data, and what goes with a CASCADE, cannot.
fn dropped(kind: Kind, object: &Name, cascade: bool, known: &dyn Known) -> Vec<Loss> {
    let holds_rows =
        matches!(kind, Kind::Table | Kind::ForeignTable | Kind::MaterializedView | Kind::Sequence);
    let gone = match kind {
        _ if holds_rows && known.spared(object, None) => false,
        Kind::View
        | Kind::Index
        | Kind::Trigger
        | Kind::Rule
        | Kind::Policy
        | Kind::Statistics
        | Kind::Constraint
        // The server refuses to drop these while something is in them or of them.
        | Kind::Schema
        | Kind::Type
        | Kind::Domain => cascade,
        _ => true,
    };
    if !gone {
        return Vec::new();
    }
    let with = if cascade { " and everything that needs it" } else { "" };
    let message = match kind {
        Kind::Owned => "all that the role owns is gone".to_owned(),
        Kind::Schema => format!("everything in `{object}` is gone"),
        _ => format!("{kind} `{object}`{with} is gone"),
    };
    vec![Loss { grade: Grade::Gone, object: object.to_string(), message }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::read_statement;

    /// A table `orders`, a table `fresh` that was made just before, and a function `audit`.
    struct Shop;

    impl Known for Shop {
        fn spared(&self, table: &Name, _: Option<&str>) -> bool {
            table.name == "fresh"
        }
        fn column_type(&self, table: &Name, column: &str) -> Option<TypeName> {
            let native = match column {
                "id" => "integer",
                "note" => "character varying(20)",
                "total" => "numeric(10,2)",
                "at" => "timestamp without time zone",
                _ => return None,
            };
            (table.name == "orders").then(|| TypeName::read(native))
        }
        fn written_function(&self, calls: &[String]) -> Option<String> {
            calls.iter().find(|call| *call == "audit").cloned()
        }
    }

    #[test]
    fn losses_are_told_apart() {
        let (kept, overwritten, gone, unknown) =
            (None, Some(Grade::Overwritten), Some(Grade::Gone), Some(Grade::Unknown));
        let cases = [
            (kept, "CREATE TABLE a (id int)"),
            (kept, "CREATE INDEX i ON orders (note)"),
            (kept, "ALTER TABLE orders ADD COLUMN a int NOT NULL DEFAULT 0"),
            (gone, "ALTER TABLE orders DROP COLUMN note"),
            (kept, "ALTER TABLE fresh DROP COLUMN note"),
            (kept, "ALTER TABLE orders RENAME COLUMN note TO remark"),
            (kept, "ALTER TABLE orders DROP CONSTRAINT c"),
            (kept, "ALTER TABLE orders SET SCHEMA archive"),
            (gone, "ALTER TABLE orders SET UNLOGGED"),
            (kept, "ALTER TABLE orders ALTER COLUMN note TYPE text"),
            (kept, "ALTER TABLE orders ALTER COLUMN note TYPE varchar(40)"),
            (gone, "ALTER TABLE orders ALTER COLUMN note TYPE varchar(10)"),
            (kept, "ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,3)"),
            (gone, "ALTER TABLE orders ALTER COLUMN total TYPE numeric(10,3)"),
            (gone, "ALTER TABLE orders ALTER COLUMN total TYPE integer"),
            (kept, "ALTER TABLE orders ALTER COLUMN id TYPE bigint"),
            (kept, "ALTER TABLE orders ALTER COLUMN id TYPE numeric"),
            (kept, "ALTER TABLE orders ALTER COLUMN id TYPE text"),
            (gone, "ALTER TABLE orders ALTER COLUMN id TYPE smallint"),
            (gone, "ALTER TABLE orders ALTER COLUMN id TYPE bigint USING id / 2"),
            (kept, "ALTER TABLE orders ALTER COLUMN at TYPE timestamptz"),
            (unknown, "ALTER TABLE orders ALTER COLUMN elsewhere TYPE bigint"),
            (gone, "DROP TABLE orders"),
            (kept, "DROP TABLE fresh"),
            (gone, "DROP MATERIALIZED VIEW orders_of_today"),
            (gone, "DROP SEQUENCE numbers"),
            (kept, "DROP SCHEMA s"),
            (gone, "DROP SCHEMA s CASCADE"),
            (kept, "DROP VIEW v"),
            (gone, "DROP VIEW v CASCADE"),
            (kept, "DROP INDEX CONCURRENTLY i"),
            (kept, "DROP TRIGGER t ON orders"),
            (gone, "DROP FUNCTION audit(integer)"),
            (gone, "DROP EXTENSION hstore"),
            (gone, "DROP OWNED BY app"),
            (gone, "TRUNCATE orders"),
            (gone, "DELETE FROM orders WHERE id = 1"),
            (gone, "UPDATE orders SET note = ''"),
            (overwritten, "UPDATE orders SET note = '' WHERE note IS NULL"),
            (kept, "UPDATE fresh SET note = ''"),
            (gone, "MERGE INTO orders USING fresh ON orders.id = fresh.id WHEN MATCHED THEN DELETE"),
            (gone, "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone"),
            (kept, "INSERT INTO orders VALUES (1)"),
            (kept, "INSERT INTO orders SELECT lower('A')"),
            (overwritten, "INSERT INTO orders VALUES (1) ON CONFLICT (id) DO UPDATE SET note = ''"),
            (unknown, "INSERT INTO orders SELECT audit(1)"),
            (unknown, "INSERT INTO orders SELECT pg_terminate_backend(1)"),
            (kept, "SELECT setval('s', 1)"),
            (kept, "SELECT setval(pg_get_serial_sequence('orders', 'id'), 1)"),
            (unknown, "SELECT drop_everything()"),
            (unknown, "DO $$ BEGIN DROP TABLE orders; END $$"),
            (unknown, "ALTER EXTENSION hstore UPDATE"),
            (unknown, "THIS IS NOT SQL"),
            (kept, "GRANT SELECT ON orders TO public"),
            (kept, "CREATE OR REPLACE FUNCTION audit(x int) RETURNS int LANGUAGE sql AS 'SELECT 1'"),
        ];
        let mut wrong = Vec::new();
        for (expected, sql) in cases {
            let found = losses(&read_statement(1, 0, sql.to_owned()), &Shop);
            let worst = found.iter().map(|loss| loss.grade).max();
            if worst != expected {
                wrong.push(format!("{sql}: {found:?}"));
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
    }
}
