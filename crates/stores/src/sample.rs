//! Statements whose constants are gone, as an engine's statistics have them, made runnable with values that are there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use contract::{Error, ErrorKind, Query};
use schema::{Dialect, Schema, Table};
use serde_json::Value;
use sqlparser::ast::{Expr, Ident, TableFactor, Visit, Visitor};

use crate::inquiry::{Inquiry, quoted_literal};
use crate::migration::risk::{name_parts, parse, resolve, walked};

/// Rows that a `LIMIT` without its number is taken to ask for.
const LIMIT_ROWS: &str = "100";

/// A placeholder outside of quotes, in bytes.
#[derive(Debug, PartialEq)]
struct Place {
    from: usize,
    to: usize,
    /// `LIMIT` or `OFFSET` stands before it.
    bound: Option<&'static str>,
}

/// The placeholders of the statement, in their order.
fn places(sql: &str, dialect: Dialect) -> Vec<Place> {
    let bytes = sql.as_bytes();
    let mut found = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'\'' | b'"' | b'`') => {
                i += 1;
                while i < bytes.len() && bytes[i] != quote {
                    i += 1;
                }
            }
            b'$' if dialect == Dialect::Postgres => {
                let digits = bytes[i + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                if digits > 0 {
                    found.push(Place { from: i, to: i + 1 + digits, bound: bound(&sql[..i]) });
                    i += digits;
                }
            }
            b'?' if dialect == Dialect::Sqlite => {
                let digits = bytes[i + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                found.push(Place { from: i, to: i + 1 + digits, bound: bound(&sql[..i]) });
                i += digits;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

fn bound(before: &str) -> Option<&'static str> {
    let word = before.trim_end().rsplit(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    ["LIMIT", "OFFSET"].into_iter().find(|known| word.eq_ignore_ascii_case(known))
}

/// Which column each placeholder is compared with.
struct Reader<'a> {
    schema: &'a Schema,
    /// Alias or name, and table.
    tables: Vec<(String, &'a Table)>,
    /// By order of the placeholder in the statement.
    columns: Vec<(String, Option<(&'a Table, String)>)>,
}

impl Visitor for Reader<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, .. } = factor {
            let parts = name_parts(name, self.schema.dialect);
            if let Some(table) = resolve(self.schema, &parts) {
                let own = parts.last().cloned().unwrap_or_default();
                let alias = alias.as_ref().map_or(own, |alias| alias.name.value.clone());
                self.tables.push((alias, table));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::BinaryOp { left, right, .. } => {
                self.pair(left, right);
                self.pair(right, left);
            }
            Expr::Between { expr, low, high, .. } => {
                self.pair(expr, low);
                self.pair(expr, high);
            }
            Expr::InList { expr, list, .. } => list.iter().for_each(|item| self.pair(expr, item)),
            Expr::Like { expr, pattern, .. } | Expr::ILike { expr, pattern, .. } => self.pair(expr, pattern),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl<'a> Reader<'a> {
    fn pair(&mut self, column: &Expr, other: &Expr) {
        let Some(name) = placeholder(other) else { return };
        let column = self.column(column);
        self.columns.push((name, column));
    }

    /// The one table and column that an expression names.
    fn column(&self, expression: &Expr) -> Option<(&'a Table, String)> {
        let (alias, name): (Option<&Ident>, &Ident) = match expression {
            Expr::Identifier(name) => (None, name),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., alias, name] => (Some(alias), name),
                _ => return None,
            },
            Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => return self.column(inner),
            _ => return None,
        };
        let mut found = self.tables.iter().filter_map(|(own, table)| {
            if alias.is_some_and(|alias| !alias.value.eq_ignore_ascii_case(own)) {
                return None;
            }
            let column = table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(&name.value))?;
            Some((*table, column.name.clone()))
        });
        let first = found.next()?;
        // The same table may be there twice.
        found.all(|other| other.0.name == first.0.name).then_some(first)
    }
}

fn placeholder(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Value(value) => match &value.value {
            sqlparser::ast::Value::Placeholder(name) => Some(name.clone()),
            _ => None,
        },
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => placeholder(inner),
        _ => None,
    }
}

impl Inquiry<'_> {
    /// The statement with a value of the column for each placeholder that is compared with one; `None` for a statement
    /// without placeholders.
    ///
    /// # Errors
    ///
    /// `Invalid`: nothing says which value a placeholder could have.
    pub(crate) async fn with_values(&mut self, sql: &str) -> Result<Option<String>, Error> {
        let dialect = self.dialect()?;
        let places = places(sql, dialect);
        if places.is_empty() {
            return Ok(None);
        }
        let cannot = |why: &str| {
            Error::new(
                ErrorKind::Invalid,
                "the statement has placeholders, and nothing says what could stand there",
            )
            .with("statement", sql)
            .with("reason", why)
            .hint("give the statement with values, as the application runs it")
        };
        let statement = parse(sql, dialect).ok_or_else(|| cannot("it could not be read"))?;
        let (schema, _) = self.schema().await?;
        let mut reader = Reader { schema: &schema, tables: Vec::new(), columns: Vec::new() };
        // Tables first: a column may be named before its table.
        walked(statement.visit(&mut reader));
        reader.columns.clear();
        walked(statement.visit(&mut reader));
        let unnumbered =
            places.iter().filter(|place| place.bound.is_none() && place.to - place.from == 1).count();
        if unnumbered > 0 && unnumbered != reader.columns.len() {
            return Err(cannot("it is compared with no column of a table"));
        }
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        let mut out = String::with_capacity(sql.len() + 32);
        let mut written = 0;
        let mut next = reader.columns.iter();
        for place in &places {
            out.push_str(&sql[written..place.from]);
            written = place.to;
            let name = &sql[place.from..place.to];
            match place.bound {
                Some("LIMIT") => {
                    out.push_str(LIMIT_ROWS);
                    continue;
                }
                Some(_) => {
                    out.push('0');
                    continue;
                }
                None => {}
            }
            let numbered = name.len() > 1;
            if let Some(value) = values.get(name).filter(|_| numbered) {
                out.push_str(value);
                continue;
            }
            let column = if numbered {
                reader.columns.iter().find(|(own, _)| own == name).and_then(|(_, column)| column.clone())
            } else {
                next.next().and_then(|(_, column)| column.clone())
            };
            let (table, column) = column.ok_or_else(|| cannot("it is compared with no column of a table"))?;
            let value =
                self.a_value(table, &column).await?.ok_or_else(|| cannot("the table holds no value"))?;
            out.push_str(&value);
            values.insert(name.to_owned(), value);
        }
        out.push_str(&sql[written..]);
        Ok(Some(out))
    }

    /// A value that stands in the column, as a literal.
    async fn a_value(&mut self, table: &Table, column: &str) -> Result<Option<String>, Error> {
        let (table, column) = (self.quoted_table(&table.name)?, self.quoted(column)?);
        let query = Query::new(format!("SELECT {column} FROM {table} WHERE {column} IS NOT NULL LIMIT 1"));
        let (rows, _) = self.rows(&query).await?;
        Ok(match rows.rows.first().and_then(|row| row.first()) {
            None | Some(Value::Null) => None,
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(Value::Bool(truth)) => Some(if *truth { "TRUE" } else { "FALSE" }.to_owned()),
            Some(Value::String(text)) => Some(quoted_literal(text)?),
            Some(other) => Some(quoted_literal(&other.to_string())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_outside_of_quotes() {
        for (sql, dialect, found) in [
            ("SELECT * FROM t WHERE a = $1 AND b = $12", Dialect::Postgres, "$1|$12"),
            ("SELECT '$1', \"$2\" FROM t LIMIT $3", Dialect::Postgres, "$3 LIMIT"),
            ("SELECT a ? 'b' FROM t OFFSET $1", Dialect::Postgres, "$1 OFFSET"),
            ("SELECT * FROM t WHERE a = ? AND b = ?2 limit ?", Dialect::Sqlite, "?|?2|? LIMIT"),
            ("SELECT 1", Dialect::Sqlite, ""),
        ] {
            let list: Vec<String> = places(sql, dialect)
                .iter()
                .map(|place| {
                    let bound = place.bound.map_or_else(String::new, |bound| format!(" {bound}"));
                    format!("{}{bound}", &sql[place.from..place.to])
                })
                .collect();
            assert_eq!(list.join("|"), found, "{sql}");
        }
    }
}
