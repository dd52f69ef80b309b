//! Expressions in rules: one condition on one row that means the same tomorrow, and that cannot write.
//!
//! What is run is written anew from what was understood, with every name quoted; a text that is not understood is not run.

use contract::columnar::Column;
use contract::{Error, ErrorKind};
use schema::Dialect;
use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    UnaryOperator, Value,
};
use sqlparser::dialect::{PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

/// Functions that give the same for the same values, on both engines.
const FUNCTIONS: [&str; 8] = ["abs", "coalesce", "length", "lower", "ltrim", "nullif", "rtrim", "upper"];

/// Texts that PostgreSQL reads as the time at which it looks.
///
/// Source: PostgreSQL manual, 8.5.1.4 "Special Values".
const MOVING: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

fn refused(text: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("`{text}` cannot be used: {why}"))
        .with("key", "where")
        .hint("write one condition on the table's own columns, such as `status = 'closed' AND total < 100`")
}

/// The expression as it is run.
///
/// # Errors
///
/// `Invalid`: it is no single condition, names an unknown column, or does more than to look at one row.
pub(super) fn checked(text: &str, dialect: Dialect, columns: &[Column]) -> Result<String, Error> {
    parsed(text, dialect, columns).map(|expression| expression.to_string())
}

/// The same, as a tree.
pub(super) fn parsed(text: &str, dialect: Dialect, columns: &[Column]) -> Result<Expr, Error> {
    let broken = |cause: String| refused(text, cause);
    let (sqlite, postgres) = (SQLiteDialect {}, PostgreSqlDialect {});
    let parser = match dialect {
        Dialect::Sqlite => Parser::new(&sqlite),
        Dialect::Postgres => Parser::new(&postgres),
    };
    let mut parser = parser.try_with_sql(text).map_err(|cause| broken(cause.to_string()))?;
    let mut expression = parser.parse_expr().map_err(|cause| broken(cause.to_string()))?;
    let rest = parser.peek_token().token;
    if rest != Token::EOF {
        return Err(refused(text, format!("it goes on after the condition: `{rest}`")));
    }
    Look { text, dialect, columns }.at(&mut expression)?;
    if !is_condition(&expression) {
        return Err(refused(text, "it is a value and no condition"));
    }
    Ok(expression)
}

/// Whether it can only be true, false or unknown.
fn is_condition(expression: &Expr) -> bool {
    use BinaryOperator as B;
    match expression {
        Expr::Nested(inner) => is_condition(inner),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => is_condition(expr),
        Expr::BinaryOp { op: B::And | B::Or, left, right } => is_condition(left) && is_condition(right),
        Expr::BinaryOp { op, .. } => {
            matches!(op, B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq)
        }
        Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::InList { .. }
        | Expr::Between { .. }
        | Expr::Like { .. }
        | Expr::ILike { .. }
        // A column of booleans; the engine refuses another.
        | Expr::Identifier(_) => true,
        Expr::Value(value) => matches!(value.value, Value::Boolean(_)),
        _ => false,
    }
}

struct Look<'a> {
    text: &'a str,
    dialect: Dialect,
    columns: &'a [Column],
}

impl Look<'_> {
    fn refuse<T>(&self, why: impl std::fmt::Display) -> Result<T, Error> {
        Err(refused(self.text, why))
    }

    fn name(&self, name: &mut Ident) -> Result<(), Error> {
        let is_it = |column: &&Column| match (self.dialect, name.quote_style) {
            (Dialect::Sqlite, _) => column.name.eq_ignore_ascii_case(&name.value),
            (_, None) => column.name == name.value.to_lowercase(),
            (_, Some(_)) => column.name == name.value,
        };
        let Some(column) = self.columns.iter().find(is_it) else {
            let known: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            return Err(refused(self.text, format!("there is no column `{}`", name.value))
                .hint(format!("there are: {}", known.join(", "))));
        };
        *name = Ident::with_quote('"', column.name.clone());
        Ok(())
    }

    fn all(&self, expressions: &mut [Expr]) -> Result<(), Error> {
        expressions.iter_mut().try_for_each(|expression| self.at(expression))
    }

    fn value(&self, value: &Value) -> Result<(), Error> {
        match value {
            Value::Number(..)
            | Value::Boolean(_)
            | Value::Null
            | Value::HexStringLiteral(_)
            | Value::EscapedStringLiteral(_) => Ok(()),
            Value::SingleQuotedString(text) => {
                if self.dialect != Dialect::Sqlite && MOVING.contains(&text.trim().to_lowercase().as_str()) {
                    return self.refuse(format!("`'{text}'` can mean another time with each look"));
                }
                Ok(())
            }
            other => self.refuse(format!("`{other}` is not a plain value")),
        }
    }

    /// Types whose text does not depend on what else is in the database.
    fn data_type(&self, data_type: &DataType) -> Result<(), Error> {
        use DataType as T;
        match data_type {
            T::Text
            | T::Varchar(_)
            | T::Character(_)
            | T::Char(_)
            | T::SmallInt(_)
            | T::Int(_)
            | T::Integer(_)
            | T::BigInt(_)
            | T::Real
            | T::Double(_)
            | T::DoublePrecision
            | T::Numeric(_)
            | T::Decimal(_)
            | T::Boolean
            | T::Bool
            | T::Date
            | T::Timestamp(..)
            | T::Uuid => Ok(()),
            other => self.refuse(format!("a cast to `{other}` is not allowed")),
        }
    }

    fn at(&self, expression: &mut Expr) -> Result<(), Error> {
        use BinaryOperator as B;
        match expression {
            Expr::Identifier(name) => self.name(name),
            Expr::Value(value) => self.value(&value.value),
            Expr::TypedString(typed) => {
                self.data_type(&typed.data_type)?;
                self.value(&typed.value.value)
            }
            Expr::Nested(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner) => self.at(inner),
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                self.at(left)?;
                self.at(right)
            }
            Expr::InList { expr, list, .. } => {
                self.at(expr)?;
                self.all(list)
            }
            Expr::Between { expr, low, high, .. } => {
                self.at(expr)?;
                self.at(low)?;
                self.at(high)
            }
            Expr::Like { expr, pattern, any: false, .. } | Expr::ILike { expr, pattern, any: false, .. } => {
                self.at(expr)?;
                self.at(pattern)
            }
            Expr::UnaryOp { op: UnaryOperator::Not | UnaryOperator::Minus | UnaryOperator::Plus, expr } => {
                self.at(expr)
            }
            Expr::BinaryOp { left, op, right } => {
                let known = matches!(
                    op,
                    B::Plus
                        | B::Minus
                        | B::Multiply
                        | B::Divide
                        | B::Modulo
                        | B::StringConcat
                        | B::Gt
                        | B::Lt
                        | B::GtEq
                        | B::LtEq
                        | B::Eq
                        | B::NotEq
                        | B::And
                        | B::Or
                );
                if !known {
                    return self.refuse(format!("the operator `{op}` is not allowed"));
                }
                self.at(left)?;
                self.at(right)
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
                ..
            } => {
                self.data_type(data_type)?;
                self.at(expr)
            }
            Expr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                if !FUNCTIONS.contains(&name.as_str()) {
                    return self.refuse(format!("the function `{name}` is not allowed"));
                }
                let plain = function.over.is_none()
                    && function.filter.is_none()
                    && function.within_group.is_empty()
                    && function.null_treatment.is_none()
                    && matches!(function.parameters, FunctionArguments::None);
                let FunctionArguments::List(arguments) = &mut function.args else {
                    return self.refuse(format!("`{name}` is not called with values"));
                };
                if !plain || arguments.duplicate_treatment.is_some() || !arguments.clauses.is_empty() {
                    return self.refuse(format!("`{name}` is not a plain call"));
                }
                for argument in &mut arguments.args {
                    match argument {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => self.at(expression)?,
                        _ => return self.refuse(format!("`{name}` is not a plain call")),
                    }
                }
                Ok(())
            }
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                self.refuse("it asks other rows; a rule looks at one row alone")
            }
            other => self.refuse(format!("`{other}` is not allowed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::columnar::ColumnKind;

    use super::*;

    fn columns() -> Vec<Column> {
        let column = |name: &str| Column {
            name: name.into(),
            kind: ColumnKind::Text,
            native_type: "text".into(),
            nullable: true,
        };
        ["id", "status", "total", "Order No", "user"].map(column).to_vec()
    }

    #[test]
    fn conditions_are_written_anew() {
        for (text, expected) in [
            ("status = 'closed'", r#""status" = 'closed'"#),
            (
                "STATUS IN ('a', 'it''s') AND NOT total > 5.50",
                r#""status" IN ('a', 'it''s') AND NOT "total" > 5.50"#,
            ),
            // Without quotes `user` is PostgreSQL's name for whoever is connected.
            (r#""Order No" IS NULL OR "user" = 'x'"#, r#""Order No" IS NULL OR "user" = 'x'"#),
            ("lower(status) LIKE 'c%' -- all", r#"lower("status") LIKE 'c%'"#),
            ("(total + 1) * 2 BETWEEN 3 AND 4", r#"("total" + 1) * 2 BETWEEN 3 AND 4"#),
        ] {
            for dialect in [Dialect::Sqlite, Dialect::Postgres] {
                assert_eq!(checked(text, dialect, &columns()).unwrap(), expected, "{dialect:?}");
            }
        }
    }

    #[test]
    fn what_is_no_condition_on_one_row_is_refused() {
        for text in [
            "",
            "status",
            "total + 1",
            "'closed'",
            "status = 'a'; DELETE FROM orders",
            "status = 'a') OR (1 = 1",
            "status = 'a' ORDER BY total",
            "DELETE FROM orders",
            "id IN (SELECT id FROM other)",
            "EXISTS (SELECT 1)",
            "total = (SELECT 1)",
            "colour = 'red'",
            "orders.status = 'a'",
            "random() < 5",
            "now() > total",
            "current_timestamp > total",
            "total > 'now'",
            "total > DATE 'Today'",
            "total > 'yesterday'::date",
            "pg_sleep(5) = 1",
            "nextval('s') > 0",
            "id = $1",
            "id = ?",
            "id = ANY (ARRAY[1])",
            "status ~ 'a'",
            "count(*) > 1",
            "sum(total) OVER () > 1",
            "id::regclass = 'orders'",
            "CASE WHEN true THEN true END",
        ] {
            if text == "status" {
                // A column may hold booleans; the engine knows.
                assert!(checked(text, Dialect::Postgres, &columns()).is_ok());
                continue;
            }
            let answer = checked(text, Dialect::Postgres, &columns());
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
    }
}
