//! What a change of a column's type costs.
//!
//! Sources: PostgreSQL manual, "ALTER TABLE" (Notes); the rest was measured, see `tests/lint`.

use super::operation::TypeName;

/// What `ALTER COLUMN … TYPE` does to the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TypeChange {
    /// It is that type already.
    Same,
    /// Only the catalog changes.
    Catalog,
    /// The catalog changes, and indexes on the column are built anew.
    Indexes,
    /// Every row is written anew.
    Rewrite,
    /// There is no cast that the server would use by itself.
    NoCast,
}

/// What goes from `from` to `to`, without `USING`. `utc`: the session's time zone is UTC.
pub(crate) fn type_change(from: &TypeName, to: &TypeName, utc: bool) -> TypeChange {
    if from == to {
        return TypeChange::Same;
    }
    if from.array != to.array {
        return TypeChange::NoCast;
    }
    let longer = |from: Option<&i64>, to: Option<&i64>| match (from, to) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(from), Some(to)) => to >= from,
    };
    let (a, b) = (from.base.as_str(), to.base.as_str());
    let catalog = |free: bool| if free { TypeChange::Catalog } else { TypeChange::Rewrite };
    // An array's length coercion runs over every row, whatever the lengths.
    let first = |kind: &TypeName| kind.parameters.first().copied();
    match (a, b) {
        ("character varying", "text") => TypeChange::Catalog,
        ("text", "character varying") => catalog(to.parameters.is_empty()),
        ("character varying", "character varying") | ("bit varying", "bit varying") => {
            catalog(longer(first(from).as_ref(), first(to).as_ref()))
        }
        ("numeric", "numeric") => match (from.parameters.as_slice(), to.parameters.as_slice()) {
            (_, []) => TypeChange::Catalog,
            ([digits, scale], [to_digits, to_scale]) => catalog(to_digits >= digits && to_scale == scale),
            _ => TypeChange::Rewrite,
        },
        // Six digits are all there are.
        (a, b) if a == b && is_time(a) => catalog(first(to).unwrap_or(6) >= first(from).unwrap_or(6)),
        ("timestamp without time zone", "timestamp with time zone")
        | ("timestamp with time zone", "timestamp without time zone")
            if utc && first(to).unwrap_or(6) >= first(from).unwrap_or(6) =>
        {
            TypeChange::Indexes
        }
        ("cidr", "inet") => TypeChange::Catalog,
        (a, b) if is_text(a) && !is_text(b) => TypeChange::NoCast,
        ("boolean", b) | (b, "boolean") if is_number(b) => TypeChange::NoCast,
        ("uuid" | "json" | "jsonb" | "boolean" | "bytea", b) if !is_text(b) && !is_json(b) => {
            TypeChange::NoCast
        }
        (a, b) if is_number(a) && !is_number(b) && !is_text(b) && b != "money" => TypeChange::NoCast,
        _ => TypeChange::Rewrite,
    }
}

/// Whether a value of the old type always has one of the new type that means the same, without `USING`.
pub(crate) fn every_value_fits(from: &TypeName, to: &TypeName) -> bool {
    match type_change(from, to, true) {
        TypeChange::Same | TypeChange::Catalog => return true,
        TypeChange::NoCast => return false,
        TypeChange::Indexes | TypeChange::Rewrite => {}
    }
    let whole = |base: &str| ["smallint", "integer", "bigint"].iter().position(|known| *known == base);
    match (from.base.as_str(), to.base.as_str()) {
        (_, "text") => true,
        ("numeric", "numeric") => match (from.parameters.as_slice(), to.parameters.as_slice()) {
            ([digits, scale], [to_digits, to_scale]) => {
                to_scale >= scale && to_digits - to_scale >= digits - scale
            }
            _ => false,
        },
        (a, "numeric") => whole(a).is_some() && to.parameters.is_empty(),
        ("real", "double precision")
        | ("timestamp without time zone" | "date", "timestamp with time zone")
        | ("date", "timestamp without time zone") => to.parameters.is_empty(),
        (a, b) => matches!((whole(a), whole(b)), (Some(a), Some(b)) if b >= a),
    }
}

fn is_time(base: &str) -> bool {
    base.starts_with("timestamp") || base.starts_with("time ") || base == "interval"
}

fn is_text(base: &str) -> bool {
    matches!(base, "text" | "character varying" | "character" | "name" | "citext")
}

fn is_json(base: &str) -> bool {
    matches!(base, "json" | "jsonb")
}

fn is_number(base: &str) -> bool {
    matches!(base, "smallint" | "integer" | "bigint" | "numeric" | "real" | "double precision")
}

/// Functions that answer differently within one statement. Source: PostgreSQL manual, "Function Volatility Categories",
/// and the volatility in the server's catalog.
const VOLATILE: [&str; 16] = [
    "random",
    "random_normal",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "clock_timestamp",
    "timeofday",
    "nextval",
    "setval",
    "currval",
    "lastval",
    "pg_sleep",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "set_config",
];

/// Functions of the server that a default may well call, and that do not make it differ from row to row.
const STEADY: [&str; 58] = [
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "lower",
    "upper",
    "initcap",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "concat",
    "concat_ws",
    "length",
    "char_length",
    "octet_length",
    "trim",
    "btrim",
    "ltrim",
    "rtrim",
    "lpad",
    "rpad",
    "substr",
    "substring",
    "replace",
    "repeat",
    "reverse",
    "md5",
    "sha256",
    "abs",
    "round",
    "ceil",
    "floor",
    "trunc",
    "mod",
    "power",
    "sqrt",
    "date_trunc",
    "date_part",
    "extract",
    "age",
    "make_date",
    "make_interval",
    "make_time",
    "make_timestamp",
    "make_timestamptz",
    "to_char",
    "to_date",
    "to_number",
    "to_timestamp",
    "timezone",
    "array_append",
    "array_length",
    "cardinality",
    "jsonb_build_object",
    "jsonb_build_array",
    "json_build_object",
    "to_jsonb",
    "int4range",
];

/// Whether a function of the server gives another value for each row; `None` for one that is not known.
pub(crate) fn is_volatile(function: &str) -> Option<bool> {
    if VOLATILE.contains(&function) {
        Some(true)
    } else if STEADY.contains(&function) {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_changes_are_told_apart() {
        use TypeChange::{Catalog, Indexes, NoCast, Rewrite, Same};
        for (from, to, expected) in [
            ("integer", "int4", Same),
            ("integer", "bigint", Rewrite),
            ("varchar(10)", "varchar(20)", Catalog),
            ("varchar(20)", "varchar(10)", Rewrite),
            ("varchar(20)", "varchar", Catalog),
            ("text", "varchar(20)", Rewrite),
            ("varchar(20)", "text", Catalog),
            ("char(3)", "text", Rewrite),
            ("numeric(10,2)", "numeric(12,2)", Catalog),
            ("numeric(10,2)", "numeric(12,3)", Rewrite),
            ("numeric(10,2)", "numeric", Catalog),
            ("numeric", "numeric(10,2)", Rewrite),
            ("timestamp(3)", "timestamp", Catalog),
            ("timestamp", "timestamp(3)", Rewrite),
            ("timestamp", "timestamptz", Indexes),
            ("text", "integer", NoCast),
            ("boolean", "integer", NoCast),
            ("integer", "text", Rewrite),
            ("integer", "text[]", NoCast),
            ("json", "jsonb", Rewrite),
        ] {
            assert_eq!(
                type_change(&TypeName::read(from), &TypeName::read(to), true),
                expected,
                "{from} to {to}"
            );
        }
        let (stamp, zoned) = (TypeName::read("timestamp"), TypeName::read("timestamptz"));
        assert_eq!(type_change(&stamp, &zoned, false), Rewrite);
    }
}
