//! Acceptance checks: what must be true in the end, written so that it can be computed.

use std::fmt;

use contract::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::words;

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

impl Comparison {
    fn as_str(self) -> &'static str {
        match self {
            Comparison::Less => "<",
            Comparison::AtMost => "<=",
            Comparison::More => ">",
            Comparison::AtLeast => ">=",
            Comparison::Equal => "==",
            Comparison::NotEqual => "!=",
        }
    }

    /// Whether `observed` compares so with `expected`.
    pub fn holds(self, observed: f64, expected: f64) -> bool {
        match self {
            Comparison::Less => observed < expected,
            Comparison::AtMost => observed <= expected,
            Comparison::More => observed > expected,
            Comparison::AtLeast => observed >= expected,
            Comparison::Equal => (observed - expected).abs() < f64::EPSILON,
            Comparison::NotEqual => (observed - expected).abs() >= f64::EPSILON,
        }
    }
}

/// What is measured or looked up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Subject {
    /// `p50_ms(q)`, `p95_ms(q)`, `max_ms(q)`: a query by its name in the task, or its SQL in quotes.
    Latency {
        /// `p50_ms`, `p95_ms` or `max_ms`.
        measure: String,
        /// Name or SQL.
        query: String,
    },
    /// `rows(t)` or `t.rows`: rows of a table.
    Rows(String),
    /// `orphans(t.c)`, `orphans(t)` or `orphans`: rows that refer to nothing; empty for the whole store.
    Orphans(String),
    /// `table.exists(t)`.
    TableExists(String),
    /// `column.exists(t, c)`.
    ColumnExists(String, String),
    /// `index.exists(t, c, …)`: an index whose first columns are these.
    IndexExists(String, Vec<String>),
    /// `migration.applied("0003_x")` or `migration.applied`: empty for all.
    MigrationApplied(String),
    /// `integrity.ok`: the engine's own corruption check finds nothing.
    IntegrityOk,
    /// `health.critical(bloat, …)` or `health.problems(bloat, …)`: findings about the store's health in these areas, the
    /// critical ones or also the warnings; all areas without any.
    Health {
        /// Only critical ones.
        critical: bool,
        /// The areas.
        areas: Vec<String>,
    },
    /// `blocked_sessions`: sessions that wait for a lock.
    BlockedSessions,
    /// `idle_transactions`: sessions that have a transaction open and do nothing.
    IdleTransactions,
    /// `connections_percent`: connections in use, of those that may be.
    ConnectionsPercent,
}

impl Subject {
    pub(crate) fn is_number(&self) -> bool {
        match self {
            Subject::Latency { .. }
            | Subject::Rows(_)
            | Subject::Orphans(_)
            | Subject::Health { .. }
            | Subject::BlockedSessions
            | Subject::IdleTransactions
            | Subject::ConnectionsPercent => true,
            Subject::TableExists(_)
            | Subject::ColumnExists(..)
            | Subject::IndexExists(..)
            | Subject::MigrationApplied(_)
            | Subject::IntegrityOk => false,
        }
    }
}

/// One check: subject, comparison, expected value, and the store it is about when the task has several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is looked at.
    pub subject: Subject,
    /// How it is compared.
    pub comparison: Comparison,
    /// The expected number; 1 for true and 0 for false.
    pub expected: f64,
    /// The store named after `on`, if any.
    pub store: Option<String>,
}

const FUNCTIONS: [&str; 15] = [
    "p95_ms",
    "p50_ms",
    "max_ms",
    "rows",
    "orphans",
    "table.exists",
    "column.exists",
    "index.exists",
    "migration.applied",
    "integrity.ok",
    "health.critical",
    "health.problems",
    "blocked_sessions",
    "idle_transactions",
    "connections_percent",
];

impl Check {
    /// Reads a check such as `p95_ms(orders_by_customer) < 50` or `migration.applied("0003_add_status") on shop`.
    ///
    /// # Errors
    ///
    /// `Invalid`: says at which character, what was expected there, and an example.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Parser::new(text).and_then(Parser::check)
    }

    /// Whether the observed number is as expected.
    pub fn passes(&self, observed: f64) -> bool {
        self.comparison.holds(observed, self.expected)
    }

    /// The same check is about the same thing, whatever it expects.
    pub(crate) fn same_subject(&self, other: &Check) -> bool {
        self.subject == other.subject
            && (self.store == other.store || self.store.is_none() || other.store.is_none())
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Latency { measure, query } => write!(f, "{measure}({})", argument(query))?,
            Subject::Rows(table) => write!(f, "rows({})", argument(table))?,
            Subject::Orphans(of) if of.is_empty() => f.write_str("orphans")?,
            Subject::Orphans(of) => write!(f, "orphans({})", argument(of))?,
            Subject::TableExists(table) => write!(f, "table.exists({})", argument(table))?,
            Subject::ColumnExists(table, column) => {
                write!(f, "column.exists({}, {})", argument(table), argument(column))?;
            }
            Subject::IndexExists(table, columns) => {
                write!(f, "index.exists({}", argument(table))?;
                for column in columns {
                    write!(f, ", {}", argument(column))?;
                }
                f.write_str(")")?;
            }
            Subject::MigrationApplied(name) if name.is_empty() => f.write_str("migration.applied")?,
            Subject::IntegrityOk => f.write_str("integrity.ok")?,
            Subject::MigrationApplied(name) => write!(f, "migration.applied({})", argument(name))?,
            Subject::Health { critical, areas } => {
                f.write_str(if *critical { "health.critical" } else { "health.problems" })?;
                if !areas.is_empty() {
                    let areas: Vec<String> = areas.iter().map(|area| argument(area)).collect();
                    write!(f, "({})", areas.join(", "))?;
                }
            }
            Subject::BlockedSessions => f.write_str("blocked_sessions")?,
            Subject::IdleTransactions => f.write_str("idle_transactions")?,
            Subject::ConnectionsPercent => f.write_str("connections_percent")?,
        }
        if self.subject.is_number() {
            write!(f, " {} {}", self.comparison.as_str(), self.expected)?;
        } else if !self.passes(1.0) {
            f.write_str(" == false")?;
        }
        if let Some(store) = &self.store {
            write!(f, " on {}", argument(store))?;
        }
        Ok(())
    }
}

/// The argument as it can be read again: plain where it is a name, otherwise in quotes.
fn argument(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.split('.').all(|part| !part.is_empty() && part.chars().all(is_name_char));
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Debug, Clone, PartialEq)]
enum Symbol {
    /// A name, with the dots in it.
    Name(String),
    Quoted(String),
    Number(f64),
    Operator(Comparison),
    Open,
    Close,
    Comma,
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Symbol::Name(text) | Symbol::Quoted(text) => f.write_str(text),
            Symbol::Number(number) => write!(f, "{number}"),
            Symbol::Operator(comparison) => f.write_str(comparison.as_str()),
            Symbol::Open => f.write_str("("),
            Symbol::Close => f.write_str(")"),
            Symbol::Comma => f.write_str(","),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Symbols with the character they start at, counted from 1.
    symbols: Vec<(usize, Symbol)>,
    next: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, Error> {
        let mut parser = Self { text, symbols: Vec::new(), next: 0 };
        let chars: Vec<char> = text.chars().collect();
        let mut i = 0;
        while i < chars.len() {
            let at = i + 1;
            let c = chars[i];
            let symbol = match c {
                _ if c.is_whitespace() => {
                    i += 1;
                    continue;
                }
                '(' => Symbol::Open,
                ')' => Symbol::Close,
                ',' => Symbol::Comma,
                '<' | '>' | '=' | '!' | '≤' | '≥' => {
                    let wide = chars.get(i + 1) == Some(&'=') && !matches!(c, '≤' | '≥');
                    i += usize::from(wide);
                    Symbol::Operator(match (c, wide) {
                        ('<', false) => Comparison::Less,
                        ('<', true) | ('≤', _) => Comparison::AtMost,
                        ('>', false) => Comparison::More,
                        ('>', true) | ('≥', _) => Comparison::AtLeast,
                        ('=', _) => Comparison::Equal,
                        ('!', true) => Comparison::NotEqual,
                        _ => return Err(parser.wrong(at, "a comparison such as `!=`")),
                    })
                }
                '"' | '\'' => {
                    let mut quoted = String::new();
                    i += 1;
                    loop {
                        match chars.get(i) {
                            None => return Err(parser.wrong(at, "the quote that ends this text")),
                            Some(&end) if end == c => break,
                            Some('\\') if chars.get(i + 1).is_some_and(|n| *n == c || *n == '\\') => {
                                quoted.push(chars[i + 1]);
                                i += 1;
                            }
                            Some(&other) => quoted.push(other),
                        }
                        i += 1;
                    }
                    Symbol::Quoted(quoted)
                }
                _ if c.is_ascii_digit()
                    || (c == '-' && chars.get(i + 1).is_some_and(char::is_ascii_digit)) =>
                {
                    let mut digits = c.to_string();
                    while let Some(&d) =
                        chars.get(i + 1).filter(|d| d.is_ascii_digit() || matches!(d, '.' | '_' | 'e'))
                    {
                        digits.push(d);
                        i += 1;
                    }
                    // A migration's name may begin with digits, such as 0003_add_status.
                    if chars.get(i + 1).is_some_and(|d| is_name_char(*d)) && digits.contains('_') {
                        while let Some(&d) = chars.get(i + 1).filter(|d| is_name_char(**d)) {
                            digits.push(d);
                            i += 1;
                        }
                        Symbol::Name(digits)
                    } else {
                        match digits.replace('_', "").parse::<f64>() {
                            Ok(number) if number.is_finite() => Symbol::Number(number),
                            _ => return Err(parser.wrong(at, "a number")),
                        }
                    }
                }
                _ if is_name_char(c) => {
                    let mut name = c.to_string();
                    while let Some(&n) = chars.get(i + 1).filter(|n| is_name_char(**n) || **n == '.') {
                        name.push(n);
                        i += 1;
                    }
                    Symbol::Name(name)
                }
                _ => return Err(parser.wrong(at, "a name, a number, a quote or a comparison")),
            };
            parser.symbols.push((at, symbol));
            i += 1;
        }
        Ok(parser)
    }

    fn wrong(&self, at: usize, expected: &str) -> Error {
        let shown: String = self.text.chars().take(120).collect();
        Error::new(ErrorKind::Invalid, format!("`{shown}` is not an acceptance check"))
            .with("character", at)
            .with("expected", expected)
            .hint(
                "write for example `p95_ms(query) < 50`, `rows(orders) >= 10`, `orphans(orders.customer_id) == 0`, \
                 `index.exists(orders, customer_id)` or `migration.applied(\"0003_x\")`",
            )
    }

    fn here(&self) -> usize {
        self.symbols.get(self.next).map_or(self.text.chars().count() + 1, |(at, _)| *at)
    }

    fn peek(&self) -> Option<&Symbol> {
        self.symbols.get(self.next).map(|(_, symbol)| symbol)
    }

    fn take(&mut self) -> Option<Symbol> {
        let symbol = self.peek().cloned();
        self.next += 1;
        symbol
    }

    fn check(mut self) -> Result<Check, Error> {
        let negated = self.peek() == Some(&Symbol::Name("not".into()));
        self.next += usize::from(negated);
        let at = self.here();
        let Some(Symbol::Name(name)) = self.take() else {
            return Err(self.wrong(at, "what to look at, such as `p95_ms(query)`"));
        };
        let arguments = if self.peek() == Some(&Symbol::Open) { self.arguments()? } else { Vec::new() };
        let subject = self.subject(at, &name, arguments)?;
        let (comparison, expected) = if subject.is_number() {
            if negated {
                return Err(self.wrong(1, "a comparison instead of `not`"));
            }
            self.number(&subject)?
        } else {
            (Comparison::Equal, f64::from(u8::from(self.truth()? != negated)))
        };
        let mut store = None;
        if self.peek() == Some(&Symbol::Name("on".into())) {
            self.next += 1;
            let at = self.here();
            match self.take() {
                Some(Symbol::Name(name) | Symbol::Quoted(name)) => store = Some(name),
                _ => return Err(self.wrong(at, "the name of a store")),
            }
        }
        if self.peek().is_some() {
            return Err(self.wrong(self.here(), "the end of the check; write one check per line"));
        }
        Ok(Check { subject, comparison, expected, store })
    }

    fn arguments(&mut self) -> Result<Vec<String>, Error> {
        self.next += 1;
        let mut arguments = Vec::new();
        if self.peek() == Some(&Symbol::Close) {
            self.next += 1;
            return Ok(arguments);
        }
        loop {
            let at = self.here();
            match self.take() {
                Some(Symbol::Name(text) | Symbol::Quoted(text)) => arguments.push(text),
                Some(Symbol::Operator(_)) | None => {
                    return Err(self.wrong(at, "a name or a text in quotes, then `)`"));
                }
                Some(_) => return Err(self.wrong(at, "a name or a text in quotes")),
            }
            let at = self.here();
            match self.take() {
                Some(Symbol::Comma) => {}
                Some(Symbol::Close) => return Ok(arguments),
                // Unquoted SQL ends here.
                _ => return Err(self.wrong(at, "`,` or `)`; SQL stands in quotes")),
            }
        }
    }

    fn subject(&self, at: usize, name: &str, arguments: Vec<String>) -> Result<Subject, Error> {
        let lower = name.to_lowercase();
        let mut arguments = arguments.into_iter();
        let mut one =
            |what: &str| arguments.next().ok_or_else(|| self.wrong(at + name.chars().count(), what));
        let subject = match lower.as_str() {
            "p50_ms" | "p95_ms" | "max_ms" => {
                Subject::Latency { measure: lower, query: one("the query in parentheses: `p95_ms(query)`")? }
            }
            "rows" => Subject::Rows(one("the table in parentheses: `rows(orders)`")?),
            "orphans" => Subject::Orphans(one("").unwrap_or_default()),
            "table.exists" => Subject::TableExists(one("the table in parentheses: `table.exists(orders)`")?),
            "column.exists" => {
                let table = one("table and column: `column.exists(orders, status)`")?;
                match arguments.next() {
                    Some(column) => Subject::ColumnExists(table, column),
                    None => match table.rsplit_once('.') {
                        Some((table, column)) => Subject::ColumnExists(table.to_owned(), column.to_owned()),
                        None => {
                            return Err(self.wrong(at, "table and column: `column.exists(orders, status)`"));
                        }
                    },
                }
            }
            "index.exists" => {
                let table = one("table and columns: `index.exists(orders, customer_id)`")?;
                let columns: Vec<String> = arguments.by_ref().collect();
                if columns.is_empty() {
                    match table.rsplit_once('.') {
                        Some((table, column)) => {
                            Subject::IndexExists(table.to_owned(), vec![column.to_owned()])
                        }
                        None => {
                            return Err(
                                self.wrong(at, "table and columns: `index.exists(orders, customer_id)`")
                            );
                        }
                    }
                } else {
                    Subject::IndexExists(table, columns)
                }
            }
            "migration.applied" => Subject::MigrationApplied(one("").unwrap_or_default()),
            "integrity.ok" => Subject::IntegrityOk,
            "blocked_sessions" => Subject::BlockedSessions,
            "idle_transactions" => Subject::IdleTransactions,
            "connections_percent" => Subject::ConnectionsPercent,
            "health.critical" | "health.problems" => {
                let areas: Vec<String> = arguments.by_ref().collect();
                Subject::Health { critical: lower == "health.critical", areas }
            }
            _ => match name.strip_suffix(".rows") {
                Some(table) if !table.is_empty() => Subject::Rows(table.to_owned()),
                _ => {
                    let expected = match words::nearest(name, FUNCTIONS) {
                        Some(near) => format!("`{near}` instead of `{name}`"),
                        None => format!("one of {}", FUNCTIONS.join(", ")),
                    };
                    return Err(self.wrong(at, &expected));
                }
            },
        };
        if arguments.next().is_some() {
            return Err(self.wrong(at, &format!("fewer arguments for `{name}`")));
        }
        Ok(subject)
    }

    fn number(&mut self, subject: &Subject) -> Result<(Comparison, f64), Error> {
        let at = self.here();
        let Some(Symbol::Operator(comparison)) = self.take() else {
            return Err(self.wrong(at, "a comparison such as `< 50`"));
        };
        let at = self.here();
        let Some(Symbol::Number(expected)) = self.take() else {
            return Err(self.wrong(at, "a number"));
        };
        // The unit is in the name already; repeating it does no harm, another one would.
        if matches!(subject, Subject::Latency { .. }) && self.peek() == Some(&Symbol::Name("ms".into())) {
            self.next += 1;
        }
        Ok((comparison, expected))
    }

    fn truth(&mut self) -> Result<bool, Error> {
        let comparison = match self.peek() {
            Some(Symbol::Operator(comparison @ (Comparison::Equal | Comparison::NotEqual))) => *comparison,
            Some(Symbol::Operator(_)) => return Err(self.wrong(self.here(), "`== true` or `== false`")),
            _ => return Ok(true),
        };
        self.next += 1;
        let at = self.here();
        match self.take() {
            Some(Symbol::Name(word)) if word == "true" || word == "false" => {
                Ok((word == "true") == (comparison == Comparison::Equal))
            }
            _ => Err(self.wrong(at, "`true` or `false`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn checks_are_read_and_written_back() {
        for (text, canonical) in [
            ("p95_ms(query) < 50", "p95_ms(query) < 50"),
            ("P95_MS( orders_by_customer )<=12.5 ms", "p95_ms(orders_by_customer) <= 12.5"),
            (
                "p95_ms(\"SELECT * FROM t WHERE a = 'x'\") < 50",
                "p95_ms(\"SELECT * FROM t WHERE a = 'x'\") < 50",
            ),
            ("orders.rows >= 1_000", "rows(orders) >= 1000"),
            ("rows(public.orders) ≥ 10", "rows(public.orders) >= 10"),
            ("migration.applied", "migration.applied"),
            ("migration.applied(\"0003_x\")", "migration.applied(\"0003_x\")"),
            ("migration.applied(0003_add_status) on shop", "migration.applied(\"0003_add_status\") on shop"),
            ("orphans(orders.customer_id) == 0", "orphans(orders.customer_id) == 0"),
            ("orphans = 0", "orphans == 0"),
            ("integrity.ok on shop", "integrity.ok on shop"),
            (
                "index.exists(orders, customer_id, created_at)",
                "index.exists(orders, customer_id, created_at)",
            ),
            ("index.exists(orders.customer_id)", "index.exists(orders, customer_id)"),
            ("not column.exists(orders.legacy)", "column.exists(orders, legacy) == false"),
            ("column.exists(orders, legacy) != true", "column.exists(orders, legacy) == false"),
            ("table.exists(\"odd table\")", "table.exists(\"odd table\")"),
            ("health.critical( bloat,indexes ) = 0", "health.critical(bloat, indexes) == 0"),
            ("health.problems == 0 on shop", "health.problems == 0 on shop"),
            ("blocked_sessions() == 0", "blocked_sessions == 0"),
            ("idle_transactions < 1", "idle_transactions < 1"),
            ("connections_percent <= 80", "connections_percent <= 80"),
        ] {
            let check = Check::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(check.to_string(), canonical, "{text}");
            assert_eq!(Check::parse(canonical).unwrap(), check, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, at, expected) in [
            ("", "1", "what to look at, such as `p95_ms(query)`"),
            ("p95_ms(query)", "14", "a comparison such as `< 50`"),
            ("p95_ms() < 50", "7", "the query in parentheses: `p95_ms(query)`"),
            ("p95_ms(SELECT 1) < 50", "15", "`,` or `)`; SQL stands in quotes"),
            ("p59_ms(query) < 50", "1", "`p95_ms` instead of `p59_ms`"),
            ("rows(orders) >= many", "17", "a number"),
            (
                "rows(orders) >= 10 and rows(customers) >= 1",
                "20",
                "the end of the check; write one check per line",
            ),
            ("index.exists(orders)", "1", "table and columns: `index.exists(orders, customer_id)`"),
            ("migration.applied < 3", "19", "`== true` or `== false`"),
            ("rows(\"orders) > 1", "6", "the quote that ends this text"),
            ("rows(orders) > 1; DROP TABLE orders", "17", "a name, a number, a quote or a comparison"),
        ] {
            let error = Check::parse(text).expect_err(text);
            let context = error.context();
            assert_eq!((context[0].1.as_str(), context[1].1.as_str()), (at, expected), "{text}");
        }
    }

    fn any_check() -> impl Strategy<Value = Check> {
        let text = "[ -~äé]{1,12}";
        let number = (0u32..1_000_000).prop_map(|n| f64::from(n) / 8.0);
        let comparison = prop_oneof![
            Just(Comparison::Less),
            Just(Comparison::AtMost),
            Just(Comparison::More),
            Just(Comparison::AtLeast),
            Just(Comparison::Equal),
            Just(Comparison::NotEqual),
        ];
        let subject = prop_oneof![
            ("p50_ms|p95_ms|max_ms", text).prop_map(|(measure, query)| Subject::Latency { measure, query }),
            text.prop_map(Subject::Rows),
            text.prop_map(Subject::Orphans),
            text.prop_map(Subject::TableExists),
            (text, text).prop_map(|(table, column)| Subject::ColumnExists(table, column)),
            (text, prop::collection::vec(text, 1..3))
                .prop_map(|(table, columns)| Subject::IndexExists(table, columns)),
            text.prop_map(Subject::MigrationApplied),
            Just(Subject::IntegrityOk),
            (any::<bool>(), prop::collection::vec(text, 0..3))
                .prop_map(|(critical, areas)| Subject::Health { critical, areas }),
            Just(Subject::BlockedSessions),
            Just(Subject::IdleTransactions),
            Just(Subject::ConnectionsPercent),
        ];
        (subject, comparison, number, any::<bool>(), prop::option::of(text)).prop_map(
            |(subject, comparison, number, truth, store)| {
                if subject.is_number() {
                    Check { subject, comparison, expected: number, store }
                } else {
                    Check {
                        subject,
                        comparison: Comparison::Equal,
                        expected: f64::from(u8::from(truth)),
                        store,
                    }
                }
            },
        )
    }

    proptest! {
        #[test]
        fn every_check_is_read_as_it_was_written(check in any_check()) {
            prop_assert_eq!(Check::parse(&check.to_string()).unwrap(), check);
        }

        #[test]
        fn any_text_is_a_check_or_an_error_with_a_place(text in "\\PC{0,40}") {
            if let Err(error) = Check::parse(&text) {
                prop_assert_eq!(error.kind(), ErrorKind::Invalid);
                prop_assert_eq!(error.context()[0].0, "character");
            }
        }
    }
}
