//! Reading archived rows where they lie, group by group; groups that cannot hold an answer are not read.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use contract::columnar::{Cell, Column, ColumnKind};
use contract::quantity::count;
use contract::{Context, Effect, Error, ErrorKind, Evidence, Outcome, Request};
use schema::Dialect;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};

use super::files;
use super::look::{archives_named, scratch};
use super::manifest::ArchiveManifest;
use super::rule::unknown_column;
use super::{ColdSurroundings, predicate};

/// Rows that are given, unless told otherwise.
const LIMIT: u32 = 100;
/// Most rows that are given.
const LIMIT_MAX: u32 = 10_000;
/// Most bytes that are given.
const BYTES_MAX: usize = 4 << 20;

/// Reads archived rows without putting them back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryArchive {
    /// The archive's id, or a rule, whose archives are all read.
    pub archive: String,
    /// Only these columns. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Only rows for which this is true: comparisons of columns with values, `IN`, `BETWEEN`, `LIKE`, `IS NULL`, `AND`, `OR`, `NOT`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// At most this many rows. Default: 100; at most 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl Request for QueryArchive {
    const NAME: &'static str = "archive.query";
    const SUMMARY: &'static str = "Read archived rows without putting them back";
    const EXAMPLE: &'static str = "steward archive query old_orders --where \"customer_id = 7\" --limit 20";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["archive"];
}

/// Which rows are wanted, as a tree over the places of columns.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    expression: Expr,
    columns: Vec<Column>,
}

/// A value of an expression: of a row, or written in the condition.
#[derive(Debug, Clone)]
enum Operand {
    Cell(Cell, ColumnKind),
    Number(String),
    Text(String),
    Bool(bool),
    Null,
}

impl Wanted {
    /// Reads a condition on these columns.
    ///
    /// # Errors
    ///
    /// `Invalid`: as for rules, and what only an engine can compute.
    pub(super) fn parse(text: &str, dialect: Dialect, columns: &[Column]) -> Result<Self, Error> {
        let expression = predicate::parsed(text, dialect, columns)?;
        let wanted = Self { expression, columns: columns.to_vec() };
        Self::supported(&wanted.expression)?;
        Ok(wanted)
    }

    fn supported(expression: &Expr) -> Result<(), Error> {
        use BinaryOperator as B;
        match expression {
            Expr::Nested(inner) | Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => {
                Self::supported(inner)
            }
            Expr::BinaryOp { left, op: B::And | B::Or, right } => {
                Self::supported(left)?;
                Self::supported(right)
            }
            Expr::BinaryOp { left, right, .. } => {
                Self::operand(left)?;
                Self::operand(right)
            }
            Expr::IsNull(inner) | Expr::IsNotNull(inner) => Self::operand(inner),
            Expr::InList { expr, list, .. } => {
                Self::operand(expr)?;
                list.iter().try_for_each(Self::operand)
            }
            Expr::Between { expr, low, high, .. } => {
                Self::operand(expr)?;
                Self::operand(low)?;
                Self::operand(high)
            }
            Expr::Like { expr, pattern, escape_char: None, .. } => {
                Self::operand(expr)?;
                Self::operand(pattern)
            }
            Expr::Identifier(_) | Expr::Value(_) => Self::operand(expression),
            other => Err(Self::beyond(other)),
        }
    }

    fn beyond(expression: &Expr) -> Error {
        Error::new(ErrorKind::Invalid, format!("`{expression}` is more than a look at files can compute"))
            .with("argument", "where")
            .hint("restore the archive into a table beside, or read the Parquet files with DuckDB")
    }

    fn operand(expression: &Expr) -> Result<(), Error> {
        match expression {
            Expr::Identifier(_) | Expr::Value(_) | Expr::TypedString(_) => Ok(()),
            Expr::Nested(inner) => Self::operand(inner),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } if matches!(**expr, Expr::Value(_)) => Ok(()),
            other => Err(Self::beyond(other)),
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn get(&self, expression: &Expr, row: &[Cell]) -> Operand {
        match expression {
            Expr::Identifier(name) => {
                self.place(&name.value).map_or(Operand::Null, |place| match &row[place] {
                    Cell::Null => Operand::Null,
                    cell => Operand::Cell(cell.clone(), self.columns[place].kind),
                })
            }
            Expr::Nested(inner) => self.get(inner, row),
            Expr::UnaryOp { expr, .. } => match self.get(expr, row) {
                Operand::Number(number) => Operand::Number(format!("-{number}")),
                other => other,
            },
            Expr::TypedString(typed) => literal(&typed.value.value),
            Expr::Value(value) => literal(&value.value),
            _ => Operand::Null,
        }
    }

    /// Whether the row is wanted: true, not unknown.
    pub(super) fn holds(&self, row: &[Cell]) -> bool {
        self.truth(&self.expression, row) == Some(true)
    }

    fn truth(&self, expression: &Expr, row: &[Cell]) -> Option<bool> {
        use BinaryOperator as B;
        match expression {
            Expr::Nested(inner) => self.truth(inner, row),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.truth(expr, row).map(|truth| !truth),
            Expr::BinaryOp { left, op: B::And, right } => {
                match (self.truth(left, row), self.truth(right, row)) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                }
            }
            Expr::BinaryOp { left, op: B::Or, right } => {
                match (self.truth(left, row), self.truth(right, row)) {
                    (Some(true), _) | (_, Some(true)) => Some(true),
                    (Some(false), Some(false)) => Some(false),
                    _ => None,
                }
            }
            Expr::BinaryOp { left, op, right } => {
                let order = compare(&self.get(left, row), &self.get(right, row))?;
                holds(op, order)
            }
            Expr::IsNull(inner) => Some(matches!(self.get(inner, row), Operand::Null)),
            Expr::IsNotNull(inner) => Some(!matches!(self.get(inner, row), Operand::Null)),
            Expr::InList { expr, list, negated } => {
                let value = self.get(expr, row);
                let mut found = Some(false);
                for one in list {
                    match compare(&value, &self.get(one, row)) {
                        Some(Ordering::Equal) => return Some(!negated),
                        None => found = None,
                        Some(_) => {}
                    }
                }
                found.map(|found| found != *negated)
            }
            Expr::Between { expr, low, high, negated } => {
                let value = self.get(expr, row);
                let low = compare(&value, &self.get(low, row)).map(|order| order != Ordering::Less);
                let high = compare(&value, &self.get(high, row)).map(|order| order != Ordering::Greater);
                let inside = match (low, high) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                };
                inside.map(|inside| inside != *negated)
            }
            Expr::Like { expr, pattern, negated, .. } => {
                let (text, pattern) = (text_of(&self.get(expr, row))?, text_of(&self.get(pattern, row))?);
                let (text, pattern): (Vec<char>, Vec<char>) =
                    (text.chars().collect(), pattern.chars().collect());
                Some(like(&text, &pattern) != *negated)
            }
            Expr::Identifier(_) | Expr::Value(_) => match self.get(expression, row) {
                Operand::Bool(value) | Operand::Cell(Cell::Bool(value), _) => Some(value),
                Operand::Cell(Cell::Int(value), _) => Some(value != 0),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a group of rows with these bounds can hold a wanted one. Only a comparison that every row must pass rules it out.
    pub(super) fn may_hold(&self, bounds: &dyn Fn(usize) -> Option<(Cell, Cell)>) -> bool {
        self.possible(&self.expression, bounds)
    }

    fn possible(&self, expression: &Expr, bounds: &dyn Fn(usize) -> Option<(Cell, Cell)>) -> bool {
        use BinaryOperator as B;
        match expression {
            Expr::Nested(inner) => self.possible(inner, bounds),
            Expr::BinaryOp { left, op: B::And, right } => {
                self.possible(left, bounds) && self.possible(right, bounds)
            }
            Expr::BinaryOp { left, op: B::Or, right } => {
                self.possible(left, bounds) || self.possible(right, bounds)
            }
            Expr::BinaryOp { left, op, right } => {
                let (column, value, op) = match (&**left, &**right) {
                    (Expr::Identifier(name), value) if !matches!(value, Expr::Identifier(_)) => {
                        (name, value, op.clone())
                    }
                    (value, Expr::Identifier(name)) if !matches!(value, Expr::Identifier(_)) => {
                        (name, value, turned(op))
                    }
                    _ => return true,
                };
                let Some(place) = self.place(&column.value) else { return true };
                let Some((least, greatest)) = bounds(place) else { return true };
                let value = self.get(value, &[]);
                let kind = self.columns[place].kind;
                let against = |cell: Cell| compare(&Operand::Cell(cell, kind), &value);
                // What cannot be compared with the bounds rules nothing out.
                let (Some(least), Some(greatest)) = (against(least), against(greatest)) else { return true };
                match op {
                    B::Eq => least != Ordering::Greater && greatest != Ordering::Less,
                    B::Lt => least == Ordering::Less,
                    B::LtEq => least != Ordering::Greater,
                    B::Gt => greatest == Ordering::Greater,
                    B::GtEq => greatest != Ordering::Less,
                    _ => true,
                }
            }
            _ => true,
        }
    }
}

/// The comparison with its sides exchanged.
fn turned(op: &BinaryOperator) -> BinaryOperator {
    use BinaryOperator as B;
    match op {
        B::Lt => B::Gt,
        B::LtEq => B::GtEq,
        B::Gt => B::Lt,
        B::GtEq => B::LtEq,
        other => other.clone(),
    }
}

fn holds(op: &BinaryOperator, order: Ordering) -> Option<bool> {
    use BinaryOperator as B;
    Some(match op {
        B::Eq => order == Ordering::Equal,
        B::NotEq => order != Ordering::Equal,
        B::Lt => order == Ordering::Less,
        B::LtEq => order != Ordering::Greater,
        B::Gt => order == Ordering::Greater,
        B::GtEq => order != Ordering::Less,
        _ => return None,
    })
}

fn literal(value: &Value) -> Operand {
    match value {
        Value::Number(number, _) => Operand::Number(number.clone()),
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Operand::Text(text.clone()),
        Value::Boolean(value) => Operand::Bool(*value),
        _ => Operand::Null,
    }
}

fn text_of(operand: &Operand) -> Option<String> {
    match operand {
        Operand::Cell(cell, kind) => cell.text(*kind),
        Operand::Text(text) | Operand::Number(text) => Some(text.clone()),
        Operand::Bool(value) => Some(value.to_string()),
        Operand::Null => None,
    }
}

/// A number as sign, digits before the point and digits behind it, without what does not count.
fn digits(text: &str) -> Option<(bool, String, String)> {
    let text = text.trim();
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let zero = whole.is_empty() && fraction.is_empty();
    Some((negative && !zero, whole.to_owned(), fraction.to_owned()))
}

/// Numbers by their digits, so that none is rounded; floats by their value.
fn compare_numbers(one: &str, other: &str) -> Option<Ordering> {
    if let (Some(one), Some(other)) = (digits(one), digits(other)) {
        let by_size = |one: &(bool, String, String), other: &(bool, String, String)| {
            one.1
                .len()
                .cmp(&other.1.len())
                .then_with(|| one.1.cmp(&other.1))
                .then_with(|| one.2.cmp(&other.2))
        };
        return Some(match (one.0, other.0) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => by_size(&one, &other),
            (true, true) => by_size(&other, &one),
        });
    }
    one.trim().parse::<f64>().ok()?.partial_cmp(&other.trim().parse::<f64>().ok()?)
}

/// A text of a date or a time in the form that cells have: `2024-01-02T03:04:05Z` as `2024-01-02 03:04:05`.
fn moment(text: &str, kind: ColumnKind) -> Option<i64> {
    match kind {
        ColumnKind::Date => {
            let day: jiff::civil::Date = text.get(..10)?.parse().ok()?;
            let since = day.since(jiff::civil::date(1970, 1, 1)).ok()?;
            Some(i64::from(since.get_days()))
        }
        ColumnKind::Time => {
            let time: jiff::civil::Time = text.parse().ok()?;
            let since = time.since(jiff::civil::Time::midnight()).ok()?;
            since.total(jiff::Unit::Microsecond).ok().map(|us| {
                #[allow(clippy::cast_possible_truncation, reason = "a day has fewer microseconds")]
                let us = us as i64;
                us
            })
        }
        ColumnKind::TimestampUtc | ColumnKind::Timestamp => {
            if kind == ColumnKind::TimestampUtc
                && let Ok(at) = text.parse::<jiff::Timestamp>()
            {
                return Some(at.as_microsecond());
            }
            let at: jiff::civil::DateTime = text
                .trim_end_matches('Z')
                .parse()
                .or_else(|_| text.parse::<jiff::civil::Date>().map(|day| day.at(0, 0, 0, 0)))
                .ok()?;
            Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
        }
        _ => None,
    }
}

/// How two values stand to each other; `None`: nothing can be said, as with NULL.
fn compare(one: &Operand, other: &Operand) -> Option<Ordering> {
    use Operand as O;
    match (one, other) {
        (O::Null, _) | (_, O::Null) => None,
        (O::Cell(Cell::Int(value), kind), O::Text(text)) if moment(text, *kind).is_some() => {
            Some(value.cmp(&moment(text, *kind)?))
        }
        (O::Text(_), O::Cell(Cell::Int(_), _)) => compare(other, one).map(Ordering::reverse),
        (O::Cell(Cell::Bool(value), _) | O::Bool(value), O::Bool(other) | O::Cell(Cell::Bool(other), _)) => {
            Some(value.cmp(other))
        }
        (O::Cell(Cell::Bytes(_), ColumnKind::Uuid), O::Text(text)) => {
            Some(text_of(one)?.cmp(&text.to_lowercase()))
        }
        (O::Cell(Cell::Bytes(one), _), O::Cell(Cell::Bytes(other), _)) => Some(one.cmp(other)),
        _ if is_number(one) && is_number(other) => compare_numbers(&text_of(one)?, &text_of(other)?),
        // A number against a text, as engines take a quoted number.
        _ if is_number(one) || is_number(other) => compare_numbers(&text_of(one)?, &text_of(other)?),
        _ => Some(text_of(one)?.cmp(&text_of(other)?)),
    }
}

fn is_number(operand: &Operand) -> bool {
    matches!(operand, Operand::Number(_) | Operand::Cell(Cell::Int(_) | Cell::Float(_) | Cell::Decimal(_), _))
}

/// `%` stands for any letters, `_` for one, `\` takes the next as it is.
fn like(text: &[char], pattern: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['%', rest @ ..] => (0..=text.len()).any(|from| like(&text[from..], rest)),
        ['_', rest @ ..] => !text.is_empty() && like(&text[1..], rest),
        ['\\', letter, rest @ ..] | [letter, rest @ ..] => {
            text.first() == Some(letter) && like(&text[1..], rest)
        }
    }
}

pub(super) fn dialect_of(manifest: &ArchiveManifest) -> Dialect {
    if manifest.kind == "sqlite" { Dialect::Sqlite } else { Dialect::Postgres }
}

/// Answers `archive.query`. `value`: `columns`, `rows`, `more`, `groups_read`, `groups`. Rows that stayed in the table are left out.
///
/// # Errors
///
/// `NotFound`: no such archive. `Invalid`: a column or a condition that cannot be. `Corrupt`: a file is not what was written.
pub async fn query_archive(
    ctx: &Context,
    around: &dyn ColdSurroundings,
    request: &QueryArchive,
) -> Result<Outcome, Error> {
    let scratch = scratch(around)?;
    let (place, found) = archives_named(ctx, around, &request.archive, scratch.path()).await?;
    let limit = request.limit.unwrap_or(LIMIT).min(LIMIT_MAX) as usize;
    let newest = &found.last().expect("an archive that was found").manifest;
    let columns: Vec<String> = if request.columns.is_empty() {
        newest.table.columns.iter().map(|column| column.name.clone()).collect()
    } else {
        request.columns.clone()
    };
    let started = std::time::Instant::now();
    let (mut rows, mut bytes, mut more) = (Vec::new(), 0, false);
    'archives: for one in &found {
        let manifest = &one.manifest;
        let table = &manifest.table;
        let places = columns
            .iter()
            .map(|name| table.columns.iter().position(|column| column.name == *name))
            .collect::<Vec<_>>();
        // A column that came later is NULL in archives from before; one that none has is a mistake.
        for (name, _) in columns.iter().zip(&places).filter(|(_, place)| place.is_none()) {
            if !newest.table.columns.iter().any(|column| column.name == *name) {
                return Err(unknown_column(name, &newest.table).with("argument", "columns"));
            }
        }
        let wanted = request
            .filter
            .as_ref()
            .map(|text| Wanted::parse(text, dialect_of(manifest), &table.columns))
            .transpose()?;
        for file in &manifest.files {
            let stayed: BTreeSet<u64> = one
                .ending
                .iter()
                .flat_map(|ending| &ending.stayed)
                .filter(|row| row.file == file.name)
                .map(|row| row.row)
                .collect();
            let fetched = files::fetch(ctx, &*place, &manifest.folder(), file, scratch.path()).await?;
            let mut groups = files::rows(&around.columnar(), &fetched, table, wanted.clone());
            while let Some(group) = groups.recv().await {
                let (first, group) = group?;
                for (number, row) in group.iter().enumerate() {
                    if stayed.contains(&(first + number as u64))
                        || wanted.as_ref().is_some_and(|wanted| !wanted.holds(row))
                    {
                        continue;
                    }
                    if rows.len() == limit || bytes > BYTES_MAX {
                        more = true;
                        break 'archives;
                    }
                    let values: Vec<serde_json::Value> = places
                        .iter()
                        .map(|place| {
                            place.map_or(serde_json::Value::Null, |place| {
                                row[place].json(table.columns[place].kind)
                            })
                        })
                        .collect();
                    bytes += row.iter().map(Cell::size).sum::<usize>();
                    rows.push(values);
                }
                ctx.run(async { Ok(()) }).await?;
            }
        }
    }
    let mut text = format!("{}\n", columns.join("\t"));
    for row in &rows {
        let shown: Vec<String> = row
            .iter()
            .map(|value| match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Null => "NULL".to_owned(),
                other => other.to_string(),
            })
            .collect();
        writeln!(text, "{}", shown.join("\t")).expect("writing to a string does not fail");
    }
    writeln!(text, "{}{}", count(rows.len() as u64, "row"), if more { ", and more" } else { "" })
        .expect("writing to a string does not fail");
    let value = json!({ "columns": columns, "rows": rows, "more": more });
    let evidence = Evidence::new(
        &format!("archive:{}", request.archive),
        &json!(request).to_string(),
        value.clone(),
        ctx.now(),
        started.elapsed().as_secs_f64() * 1e3,
    );
    Ok(Outcome { evidence: vec![evidence], ..Outcome::new(value, text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        [
            ("id", ColumnKind::Int64),
            ("total", ColumnKind::Decimal { precision: 38, scale: 2 }),
            ("note", ColumnKind::Text),
            ("at", ColumnKind::TimestampUtc),
            ("day", ColumnKind::Date),
            ("paid", ColumnKind::Boolean),
            ("weight", ColumnKind::Float64),
        ]
        .into_iter()
        .map(|(name, kind)| Column { name: name.into(), kind, native_type: String::new(), nullable: true })
        .collect()
    }

    fn row() -> Vec<Cell> {
        vec![
            Cell::Int(9_007_199_254_740_993),
            Cell::Decimal(-1_050),
            Cell::Text("it's 100 %".into()),
            // 2024-02-29T12:00:00Z
            Cell::Int(1_709_208_000_000_000),
            Cell::Int(19_782),
            Cell::Bool(true),
            Cell::Null,
        ]
    }

    #[test]
    fn conditions_are_true_false_or_unknown() {
        for (text, expected) in [
            ("id = 9007199254740993", Some(true)),
            ("id = 9007199254740992", Some(false)),
            ("total = -10.5", Some(true)),
            ("total < -10.49", Some(true)),
            ("total > -10.5", Some(false)),
            ("-10.51 < total", Some(true)),
            ("note LIKE 'it%100 \\%'", Some(true)),
            ("note LIKE '_t''s'", Some(false)),
            ("note NOT LIKE '%x%'", Some(true)),
            ("at > '2024-02-29'", Some(true)),
            ("at = '2024-02-29T12:00:00Z'", Some(true)),
            ("at < '2024-02-29 13:00:00+01:00'", Some(false)),
            ("day = '2024-02-29'", Some(true)),
            ("day BETWEEN '2024-01-01' AND '2024-02-28'", Some(false)),
            ("paid", Some(true)),
            ("NOT paid", Some(false)),
            ("weight > 1", None),
            ("weight IS NULL", Some(true)),
            ("weight > 1 OR paid", Some(true)),
            ("weight > 1 AND paid", None),
            ("weight > 1 AND NOT paid", Some(false)),
            ("id IN (1, 2)", Some(false)),
            ("id NOT IN (1, NULL)", None),
            ("id IN (1, 9007199254740993)", Some(true)),
        ] {
            let wanted = Wanted::parse(text, Dialect::Postgres, &columns()).unwrap();
            assert_eq!(wanted.truth(&wanted.expression, &row()), expected, "{text}");
        }
        for text in ["lower(note) = 'a'", "id + 1 = 2", "id::text = '1'", "colour = 1"] {
            assert_eq!(
                Wanted::parse(text, Dialect::Postgres, &columns()).unwrap_err().kind(),
                ErrorKind::Invalid
            );
        }
    }

    #[test]
    fn groups_are_ruled_out_only_when_no_row_can_pass() {
        let bounds = |place: usize| match place {
            0 => Some((Cell::Int(10), Cell::Int(20))),
            1 => Some((Cell::Decimal(100), Cell::Decimal(200))),
            2 => Some((Cell::Text("b".into()), Cell::Text("d".into()))),
            _ => None,
        };
        for (text, may) in [
            ("id = 10", true),
            ("id = 9", false),
            ("id > 20", false),
            ("id >= 20", true),
            ("20 < id", false),
            ("id <> 15", true),
            ("NOT id = 9", true),
            ("id = 9 OR total = 1.5", true),
            ("id = 9 AND total = 1.5", false),
            ("total > 2.00", false),
            ("total > 1.99", true),
            ("note = 'e'", false),
            ("note < 'b'", false),
            ("weight > 5", true),
            ("id = total", true),
            ("id IS NULL", true),
        ] {
            let wanted = Wanted::parse(text, Dialect::Postgres, &columns()).unwrap();
            assert_eq!(wanted.may_hold(&bounds), may, "{text}");
        }
    }
}
