//! Which indexes queries miss, and which indexes nobody needs.
//!
//! For each query whose plan reads a table from end to end, the columns that it compares, bounds or sorts by make a
//! candidate: equality first, then one range or the order. What it would bring is not guessed but counted in the store.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use contract::{Context, Error, ErrorKind, Explain, Finding, Outcome, Severity, StoreDirectory};
use schema::{Dialect, Index, Schema, Table};
use serde::Serialize;
use serde_json::json;
use sqlparser::ast::{
    BinaryOperator, Expr, Ident, JoinConstraint, JoinOperator, OrderByExpr, OrderByKind, Query, Select,
    SetExpr, TableFactor, Visit, Visitor, visit_expressions,
};

use crate::index::default_name;
use crate::inquiry::Inquiry;
use crate::migration::risk::{name_parts, parse, resolve, walked};
use crate::request::AdviseIndexes;
use crate::text;

/// Most columns of an advised index.
const COLUMNS_MAX: usize = 3;

/// An index must leave at most one row in this many to be read.
const SELECTIVITY_MIN: u64 = 4;

/// Longest time that counting for one candidate may take.
const COUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// Queries looked at in one request.
const QUERIES_MAX: usize = 200;

/// An index that is missing.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Advice {
    table: String,
    columns: Vec<String>,
    name: String,
    /// What `index.create` runs, in short.
    sql: String,
    reason: String,
    query: String,
    rows_read_now: u64,
    rows_read_then: u64,
    evidence: Vec<String>,
}

/// Explains each query and finds the indexes that would spare it reading whole tables; then looks for indexes that
/// another one makes superfluous.
///
/// Value: `store`, `indexes[] {table, columns, name, sql, reason, query, rows_read_now, rows_read_then, evidence}`,
/// `redundant[] {table, index, covered_by, reason}`, `queries[] {query, full_scans, indexes_used, cost, note}`.
/// Findings: `missing_index`, `redundant_index`, `invalid_index`.
///
/// # Errors
///
/// `Invalid`: a query that the store does not understand, or more than 200 of them. `Denied`: one that writes.
pub async fn advise(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &AdviseIndexes,
) -> Result<Outcome, Error> {
    if request.queries.len() > QUERIES_MAX {
        return Err(Error::new(ErrorKind::Invalid, format!("at most {QUERIES_MAX} queries at once")));
    }
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let (schema, inspected) = inquiry.schema().await?;
    let mut advice: Vec<Advice> = Vec::new();
    let mut queries = Vec::new();
    for query in &request.queries {
        // Advice is about the statement as it was given, also where it was explained with values.
        let with_values = inquiry.with_values(query).await?;
        let explained_as = with_values.as_deref().unwrap_or(query);
        let (explain, explained) = inquiry.explain(explained_as).await?;
        let (found, note) =
            inquiry.candidates(&schema, explained_as, &explain, &explained, request.rows_min).await?;
        advice.extend(found.into_iter().map(|advice| Advice { query: query.clone(), ..advice }));
        queries.push(
            json!({"query": query, "full_scans": explain.full_scans, "indexes_used": explain.indexes_used,
                            "cost": explain.cost, "note": note}),
        );
    }
    let advice = without_prefixes(advice);
    let redundant = redundant(&schema);
    let mut findings: Vec<Finding> = advice
        .iter()
        .map(|advice| Finding {
            code: "missing_index".into(),
            severity: Severity::Warning,
            title: format!(
                "an index on `{}` ({}) is missing: a query reads all {}, with it about {}",
                advice.table,
                advice.columns.join(", "),
                text::count(advice.rows_read_now, "row"),
                text::thousands(advice.rows_read_then)
            ),
            object: format!("{}.{}", advice.table, advice.columns.join(",")),
            recommendation: Some(advice.sql.clone()),
            evidence: advice.evidence.clone(),
            escalate: None,
        })
        .collect();
    findings.extend(redundant.iter().map(|(table, index, by, reason)| Finding {
        code: if *reason == INVALID { "invalid_index" } else { "redundant_index" }.into(),
        severity: if *reason == INVALID { Severity::Warning } else { Severity::Info },
        title: match *reason {
            INVALID => format!("index `{index}` of `{table}` is not usable: a build of it was cut short"),
            reason => format!("index `{index}` of `{table}` is superfluous: `{by}` {reason}"),
        },
        object: format!("{table}.{index}"),
        recommendation: Some(format!("steward index drop {} {index}", request.store)),
        evidence: vec![inspected.clone()],
        escalate: None,
    }));
    let value = json!({
        "store": request.store,
        "indexes": advice,
        "redundant": redundant
            .iter()
            .map(|(table, index, by, reason)| json!({"table": table, "index": index, "covered_by": by, "reason": reason}))
            .collect::<Vec<_>>(),
        "queries": queries,
    });
    let mut outcome =
        Outcome::new(value, advice_text(&request.store, request.queries.len(), &advice, &findings));
    outcome.findings = findings;
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

fn advice_text(store: &str, queries: usize, advice: &[Advice], findings: &[Finding]) -> String {
    let mut lines = vec![format!(
        "{store}: {} looked at, {} missing",
        text::count(queries as u64, "query"),
        text::count(advice.len() as u64, "index")
    )];
    for advice in advice {
        lines.push(format!("  {};", advice.sql));
        lines.push(format!("    {}", advice.reason));
    }
    lines.extend(
        findings
            .iter()
            .filter(|finding| finding.code != "missing_index")
            .map(|finding| format!("  {}", finding.title)),
    );
    lines.join("\n")
}

/// Advice whose columns no other advice begins with.
fn without_prefixes(mut advice: Vec<Advice>) -> Vec<Advice> {
    let mut kept: Vec<Advice> = Vec::new();
    advice.sort_by(|a, b| {
        (b.columns.len(), b.rows_read_now)
            .cmp(&(a.columns.len(), a.rows_read_now))
            .then_with(|| a.columns.cmp(&b.columns))
    });
    for one in advice {
        if !kept.iter().any(|other| other.table == one.table && other.columns.starts_with(&one.columns)) {
            kept.push(one);
        }
    }
    kept
}

const INVALID: &str = "is invalid";

/// Indexes that another one makes superfluous: table, index, the other one, why.
fn redundant(schema: &Schema) -> Vec<(String, String, String, &'static str)> {
    let mut found = Vec::new();
    for table in &schema.tables {
        let plain = |index: &&Index| {
            index.valid && index.predicate.is_none() && matches!(index.method.as_str(), "" | "btree")
                // Orders and operator classes are only in the definition.
                && index.columns.iter().all(|name| table.columns.iter().any(|column| column.name == *name))
                && !index.definition.to_ascii_uppercase().contains(" DESC")
                && !index.definition.to_ascii_uppercase().contains(" INCLUDE ")
        };
        for index in &table.indexes {
            let own = (table.name.to_string(), index.name.clone());
            if !index.valid {
                found.push((own.0, own.1, String::new(), INVALID));
                continue;
            }
            if index.unique || index.backs_constraint || !plain(&index) {
                continue;
            }
            let key = table
                .primary_key
                .as_ref()
                .filter(|key| key.columns.starts_with(&index.columns))
                .map(|_| ("the primary key".to_owned(), "begins with its columns"));
            let other = table.indexes.iter().filter(plain).find_map(|other| {
                if other.name == index.name || !other.columns.starts_with(&index.columns) {
                    return None;
                }
                if other.columns.len() > index.columns.len() {
                    return Some((other.name.clone(), "begins with its columns"));
                }
                // Of two alike, the one that guards something stays, else the one that comes first by name.
                (other.unique || other.backs_constraint || other.name < index.name)
                    .then(|| (other.name.clone(), "has the same columns"))
            });
            if let Some((by, reason)) = key.or(other) {
                found.push((own.0, own.1, by, reason));
            }
        }
    }
    found
}

/// A table in the FROM of one SELECT, and what the SELECT does with its columns.
struct Source<'a> {
    scope: usize,
    /// The alias or name by which columns refer to it.
    alias: String,
    table: &'a Table,
    /// Compared for equality with something that is known before the table is read.
    equal: Vec<String>,
    /// Compared for equality with another table of the same SELECT.
    joined: Vec<String>,
    ranges: Vec<String>,
    order: Vec<String>,
    /// Conditions on it alone, as text, and whether they are all of `equal` and `ranges`.
    conditions: Vec<String>,
    conditions_complete: bool,
}

/// Collects the sources of all SELECTs of a query.
struct Reader<'a> {
    schema: &'a Schema,
    sources: Vec<Source<'a>>,
    /// Scopes from outer to inner.
    open: Vec<usize>,
    scopes: usize,
    order: Option<Vec<OrderByExpr>>,
}

impl Visitor for Reader<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.order = match (&*query.body, query.order_by.as_ref().map(|order| &order.kind)) {
            (SetExpr::Select(_), Some(OrderByKind::Expressions(expressions))) => Some(expressions.clone()),
            _ => None,
        };
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.scopes += 1;
        let scope = self.scopes;
        self.open.push(scope);
        let mut conditions = Vec::new();
        for from in &select.from {
            self.add_source(scope, &from.relation);
            for join in &from.joins {
                self.add_source(scope, &join.relation);
                if let Some(JoinConstraint::On(condition)) = constraint(&join.join_operator) {
                    conjuncts(condition, &mut conditions);
                }
            }
        }
        if let Some(condition) = &select.selection {
            conjuncts(condition, &mut conditions);
        }
        for condition in conditions {
            self.read_condition(scope, condition);
        }
        if let Some(order) = self.order.take() {
            self.read_order(scope, &order);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &Select) -> ControlFlow<()> {
        self.open.pop();
        ControlFlow::Continue(())
    }
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::CrossJoin(constraint) => Some(constraint),
        _ => None,
    }
}

/// The parts of a condition that must all hold.
fn conjuncts<'e>(condition: &'e Expr, out: &mut Vec<&'e Expr>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(left, out);
            conjuncts(right, out);
        }
        Expr::Nested(inner) => conjuncts(inner, out),
        other => out.push(other),
    }
}

impl Reader<'_> {
    fn add_source(&mut self, scope: usize, factor: &TableFactor) {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return };
        let parts = name_parts(name, self.schema.dialect);
        let Some(table) = resolve(self.schema, &parts) else { return };
        let alias = match alias {
            Some(alias) => fold(&alias.name, self.schema.dialect),
            None => parts.last().cloned().unwrap_or_default(),
        };
        self.sources.push(Source {
            scope,
            alias,
            table,
            equal: Vec::new(),
            joined: Vec::new(),
            ranges: Vec::new(),
            order: Vec::new(),
            conditions: Vec::new(),
            conditions_complete: true,
        });
    }

    /// The source that a column belongs to, the innermost SELECT first, and the column's own name.
    fn column(&self, expression: &Expr) -> Option<(usize, String)> {
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let (alias, name) = match expression {
            Expr::Identifier(name) => (None, name),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., alias, name] => (Some(fold(alias, self.schema.dialect)), name),
                _ => return None,
            },
            Expr::Nested(inner) => return self.column(inner),
            _ => return None,
        };
        let name = fold(name, self.schema.dialect);
        for scope in self.open.iter().rev() {
            let mut found = self.sources.iter().enumerate().filter_map(|(at, source)| {
                if source.scope != *scope || alias.as_ref().is_some_and(|alias| !same(alias, &source.alias)) {
                    return None;
                }
                let column = source.table.columns.iter().find(|column| same(&column.name, &name))?;
                Some((at, column.name.clone()))
            });
            match (found.next(), found.next()) {
                (Some(one), None) => return Some(one),
                (Some(_), Some(_)) => return None,
                (None, _) => {}
            }
        }
        None
    }

    /// Sources of this scope that an expression refers to, and whether it can be evaluated on its own.
    fn refers(&self, scope: usize, expression: &Expr) -> (BTreeSet<usize>, bool) {
        let mut here = BTreeSet::new();
        let mut alone = true;
        walked(visit_expressions(expression, |inner| {
            match inner {
                Expr::Identifier(_) | Expr::CompoundIdentifier(_) => match self.column(inner) {
                    Some((at, _)) if self.sources[at].scope == scope => {
                        here.insert(at);
                    }
                    // An outer SELECT's column, or something unknown.
                    _ => alone = false,
                },
                Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => alone = false,
                Expr::Value(value) if matches!(value.value, sqlparser::ast::Value::Placeholder(_)) => {
                    alone = false;
                }
                _ => {}
            }
            ControlFlow::<()>::Continue(())
        }));
        (here, alone)
    }

    fn read_condition(&mut self, scope: usize, condition: &Expr) {
        let (here, alone) = self.refers(scope, condition);
        if let (Some(at), 1, true) = (here.first(), here.len(), alone) {
            self.sources[*at].conditions.push(condition.to_string());
        }
        let mut found = Vec::new();
        match condition {
            Expr::BinaryOp { left, op, right } => {
                let kind = match op {
                    BinaryOperator::Eq => Kind::Equal,
                    BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq => {
                        Kind::Range
                    }
                    _ => return,
                };
                for (side, other) in [(left, right), (right, left)] {
                    let Some((at, column)) =
                        self.column(side).filter(|(at, _)| self.sources[*at].scope == scope)
                    else {
                        continue;
                    };
                    let others = self.refers(scope, other).0;
                    if others.contains(&at) {
                        continue;
                    }
                    match (others.is_empty(), kind) {
                        (true, kind) => found.push((at, column, kind)),
                        (false, Kind::Equal) => found.push((at, column, Kind::Joined)),
                        (false, _) => {}
                    }
                }
            }
            Expr::Between { expr, negated: false, .. } => {
                found.extend(self.column(expr).map(|(at, column)| (at, column, Kind::Range)));
            }
            Expr::InList { expr, negated: false, .. }
            | Expr::InSubquery { expr, negated: false, .. }
            | Expr::IsNull(expr) => {
                found.extend(self.column(expr).map(|(at, column)| (at, column, Kind::Equal)));
            }
            _ => {}
        }
        for (at, column, kind) in found {
            let source = &mut self.sources[at];
            if source.scope != scope {
                continue;
            }
            source.conditions_complete &= alone || kind == Kind::Joined;
            let list = match kind {
                Kind::Equal => &mut source.equal,
                Kind::Joined => &mut source.joined,
                Kind::Range => &mut source.ranges,
            };
            if !list.contains(&column) {
                list.push(column);
            }
        }
    }

    /// The order counts when it is all of one table and in one direction.
    fn read_order(&mut self, scope: usize, order: &[OrderByExpr]) {
        let columns: Vec<Option<(usize, String)>> = order
            .iter()
            .map(|order| self.column(&order.expr).filter(|(at, _)| self.sources[*at].scope == scope))
            .collect();
        let one_direction = order
            .windows(2)
            .all(|pair| pair[0].options.asc.unwrap_or(true) == pair[1].options.asc.unwrap_or(true));
        let Some(Some((at, _))) = columns.first().cloned() else { return };
        if one_direction
            && columns.iter().all(|column| column.as_ref().is_some_and(|(other, _)| *other == at))
        {
            self.sources[at].order = columns.into_iter().flatten().map(|(_, name)| name).collect();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Equal,
    Joined,
    Range,
}

fn fold(name: &Ident, dialect: Dialect) -> String {
    match (dialect, name.quote_style) {
        (Dialect::Postgres, None) => name.value.to_lowercase(),
        _ => name.value.clone(),
    }
}

impl Inquiry<'_> {
    /// The indexes that one query misses, or a note why none can be told.
    async fn candidates(
        &mut self,
        schema: &Schema,
        query: &str,
        explain: &Explain,
        explained: &str,
        rows_min: u64,
    ) -> Result<(Vec<Advice>, String), Error> {
        if explain.full_scans.is_empty() {
            return Ok((Vec::new(), "no table is read from end to end".into()));
        }
        let Some(statement) = parse(query, schema.dialect) else {
            return Ok((Vec::new(), "the query could not be read, so no columns are known".into()));
        };
        let mut reader = Reader { schema, sources: Vec::new(), open: Vec::new(), scopes: 0, order: None };
        walked(statement.visit(&mut reader));
        let sources = reader.sources;
        let scanned = |source: &Source<'_>| {
            explain.full_scans.iter().any(|scan| {
                let name = scan.table.rsplit('.').next().unwrap_or(&scan.table);
                scan.table == source.table.name.to_string()
                    || name.eq_ignore_ascii_case(&source.table.name.name)
                    || name.eq_ignore_ascii_case(&source.alias)
            })
        };
        let mut advice = Vec::new();
        let mut notes = Vec::new();
        for source in sources.iter().filter(|source| scanned(source)) {
            let table = source.table.name.to_string();
            if source.table.rows < rows_min {
                notes.push(format!("`{table}` has only {}", text::count(source.table.rows, "row")));
                continue;
            }
            let Some((columns, how)) = self.best(source, &sources).await? else {
                notes.push(format!(
                    "reading all of `{table}` is what the query asks for, or no index would spare much"
                ));
                continue;
            };
            if let Some(index) = covering(source.table, &columns) {
                notes.push(format!("`{table}` has {index} on these columns, and the store does not use it"));
                continue;
            }
            let name = default_name(&source.table.name.name, &columns);
            let concurrently = if schema.dialect == Dialect::Postgres { " CONCURRENTLY" } else { "" };
            advice.push(Advice {
                sql: format!(
                    "CREATE INDEX{concurrently} {} ON {} ({})",
                    self.quoted(&name)?,
                    match schema.dialect {
                        Dialect::Postgres => self.quoted_table(&source.table.name)?,
                        Dialect::Sqlite => self.quoted(&source.table.name.name)?,
                    },
                    self.quoted_list(&columns)?
                ),
                reason: format!(
                    "the query {} ({}) and reads all {}; with the index about {}",
                    how.why,
                    columns.join(", "),
                    text::count(source.table.rows, "row"),
                    text::thousands(how.rows)
                ),
                table,
                columns,
                name,
                query: query.to_owned(),
                rows_read_now: source.table.rows,
                rows_read_then: how.rows,
                evidence: [vec![explained.to_owned()], how.evidence].concat(),
            });
        }
        notes.dedup();
        Ok((advice, notes.join("; ")))
    }

    /// The columns that would help this source most, with what was counted.
    async fn best(
        &mut self,
        source: &Source<'_>,
        sources: &[Source<'_>],
    ) -> Result<Option<(Vec<String>, Counted)>, Error> {
        let rows = source.table.rows;
        let good = |counted: &Counted| counted.rows <= rows / SELECTIVITY_MIN;
        let mut equal = source.equal.clone();
        if !equal.is_empty() || !source.ranges.is_empty() {
            equal.truncate(COLUMNS_MAX);
            let mut columns = equal.clone();
            let more = if source.ranges.is_empty() { &source.order[..] } else { &source.ranges[..1] };
            for column in more {
                if columns.len() < COLUMNS_MAX && !columns.contains(column) {
                    columns.push(column.clone());
                }
            }
            let counted = if source.conditions_complete && !source.conditions.is_empty() {
                self.count_matching(source).await?
            } else if equal.is_empty() {
                Counted::assumed(source)
            } else {
                self.count_per_key(source, &equal, "looks up").await?
            };
            if good(&counted) {
                return Ok(Some((columns, counted)));
            }
        }
        let others: Vec<&Source<'_>> = sources
            .iter()
            .filter(|other| other.scope == source.scope && !std::ptr::eq(*other, source))
            .collect();
        let driven = others.iter().any(|other| {
            !other.equal.is_empty() || !other.ranges.is_empty() || other.table.rows <= rows / 10
        });
        if !source.joined.is_empty() && driven {
            let mut columns = source.joined.clone();
            columns.extend(source.equal.iter().filter(|column| !source.joined.contains(column)).cloned());
            columns.truncate(COLUMNS_MAX);
            let keys = columns.clone();
            let counted = self.count_per_key(source, &keys, "joins by").await?;
            if good(&counted) {
                return Ok(Some((columns, counted)));
            }
        }
        Ok(None)
    }

    /// The number, or nothing when counting takes too long or the condition means something only in its query.
    async fn counted(&mut self, sql: String) -> Result<Option<(u64, String)>, Error> {
        match self.number(sql, COUNT_TIMEOUT).await {
            Ok(counted) => Ok(Some(counted)),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Invalid) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Rows that the query's own conditions on this table leave.
    async fn count_matching(&mut self, source: &Source<'_>) -> Result<Counted, Error> {
        let sql = format!(
            "SELECT count(*) FROM {} AS {} WHERE {}",
            self.quoted_table(&source.table.name)?,
            self.quoted(&source.alias)?,
            source.conditions.join(" AND ")
        );
        let Some((rows, evidence)) = self.counted(sql).await? else { return Ok(Counted::assumed(source)) };
        let why = if source.equal.is_empty() { "bounds" } else { "looks up" };
        Ok(Counted { rows, why, evidence: vec![evidence] })
    }

    /// Rows per value of these columns, on average.
    async fn count_per_key(
        &mut self,
        source: &Source<'_>,
        columns: &[String],
        why: &'static str,
    ) -> Result<Counted, Error> {
        let sql = format!(
            "SELECT count(*) FROM (SELECT DISTINCT {} FROM {}) AS keys",
            self.quoted_list(columns)?,
            self.quoted_table(&source.table.name)?
        );
        let Some((keys, evidence)) = self.counted(sql).await? else { return Ok(Counted::assumed(source)) };
        Ok(Counted { rows: source.table.rows.div_ceil(keys.max(1)), why, evidence: vec![evidence] })
    }
}

/// What a candidate would leave to read, and how that is known.
struct Counted {
    rows: u64,
    why: &'static str,
    evidence: Vec<String>,
}

impl Counted {
    /// Nobody could count: the usual assumption.
    fn assumed(source: &Source<'_>) -> Self {
        Self { rows: source.table.rows / SELECTIVITY_MIN, why: "bounds or looks up", evidence: Vec::new() }
    }
}

/// The index or key of the table that begins with these columns, or is unique within them.
fn covering(table: &Table, columns: &[String]) -> Option<String> {
    let index = table.indexes.iter().filter(|index| index.valid && index.predicate.is_none()).find(|index| {
        index.columns.starts_with(columns) || (index.unique && columns.starts_with(&index.columns))
    });
    let key = table.primary_key.iter().chain(&table.unique_keys).find(|key| {
        key.columns.starts_with(columns) || (!key.columns.is_empty() && columns.starts_with(&key.columns))
    });
    index.map(|index| format!("index `{}`", index.name)).or_else(|| key.map(|_| "a key".to_owned()))
}
