//! Which statements take the time, and which of them take longer than they should.

use std::collections::BTreeMap;

use contract::{
    Context, Effect, Error, ErrorKind, Evidence, Finding, Outcome, Request, Severity, SlowAnswer,
    StatementStatistics, StoreDirectory, Trigger, sha256_hex,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::Inquiry;
use crate::measure::percentile;
use crate::text;

/// Most statements of one answer.
const STATEMENTS_MAX: u32 = 1_000;
/// Statements whose counts the evidence keeps for the next look.
const SNAPSHOT_STATEMENTS_MAX: u32 = 200;
/// Share of the total time from which on a statement is worth a sentence of its own.
const SHARE_MIN: f64 = 0.01;
/// Distance of the 95th percentile of a normal distribution from its mean, in standard deviations.
const NORMAL_P95: f64 = 1.645;
/// The same at most, whatever the distribution: √19. Source: Cantelli's inequality, P(X ≥ μ + kσ) ≤ 1 / (1 + k²).
const CANTELLI_P95: f64 = 4.358_898_943_540_674;
/// The 95th percentile of values that are not negative is at most so many times their mean. Source: Markov's inequality.
const MARKOV_P95: f64 = 20.0;
/// With fewer runs, the 95th percentile by nearest rank is the longest run.
const RUNS_FOR_ESTIMATE: u64 = 20;

/// Arguments of `store.slow`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSlowStatements {
    /// The store's name in the project file.
    pub store: String,
    /// Most statements to list, those with the most time first.
    #[serde(default = "default_statements_max")]
    pub statements_max: u32,
    /// Only what ran since the last look at this store, instead of all that the engine has counted.
    #[serde(default)]
    pub since_last: bool,
}

fn default_statements_max() -> u32 {
    20
}

impl Request for ListSlowStatements {
    const NAME: &'static str = "store.slow";
    const SUMMARY: &'static str = "Say which statements take the time, against the objective for p95";
    const EXAMPLE: &'static str = "steward store slow orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "performance.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// How long one run of a statement took that came through Steward's own door.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnTime {
    /// The statement as it was run.
    pub statement: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: f64,
    /// Evidence that holds it.
    pub evidence: String,
}

/// What is known from before.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    /// Times of what came through Steward's own door; since the last look, where only that is asked for.
    pub own: Vec<OwnTime>,
    /// The evidence of the last look at this store.
    pub last: Option<Evidence>,
}

/// What the engine had counted at a look; its evidence keeps it for the next one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Snapshot {
    since: Option<String>,
    total_ms: f64,
    /// Nothing that had run is left out.
    complete: bool,
    /// Without their texts.
    statements: Vec<StatementStatistics>,
}

/// One statement as it is judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Slow {
    id: String,
    text: String,
    user: String,
    calls: u64,
    total_ms: f64,
    share: f64,
    mean_ms: f64,
    stddev_ms: f64,
    max_ms: f64,
    p95_ms: f64,
    p95_at_most_ms: f64,
    p95_is: Known,
    above_objective: bool,
    rows: u64,
    blocks_hit: u64,
    blocks_read: u64,
    blocks_temporary: u64,
}

/// What the 95th percentile rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Known {
    /// Each run was timed.
    Measured,
    /// Mean, deviation and maximum are known.
    Estimated,
}

/// Lists the statements with the most time: by the engine's own count where it counts (PostgreSQL with
/// `pg_stat_statements`), otherwise (SQLite) by the times of what came through Steward's own door, given as `own`.
///
/// Value: `store`, `source` (`engine` or `own`), `since`, `objective_ms`, `total_ms`, `above_objective`, `forgotten`,
/// `excluded_users[]`, `hidden`, `statements[] {id, text, user, calls, total_ms, share, mean_ms, stddev_ms, max_ms,
/// p95_ms, p95_at_most_ms, p95_is, above_objective, rows, blocks_hit, blocks_read, blocks_temporary}`. An engine that
/// keeps no percentiles gives mean, deviation and maximum: `p95_ms` is then `estimated` as of a normal distribution and
/// `p95_at_most_ms` holds for any; `store.measure` measures. Texts are without constants. Finding: `slow_statement` for a
/// query whose p95 is above the objective; it escalates where even the mean is. With `since_last`, the engine's counts at the
/// last look are taken off: `compared_with` is when that was, null when there was none or the engine has begun anew.
///
/// # Errors
///
/// `NotFound`: no such store. `Invalid`: `statements_max` is 0 or more than 1,000. `Unsupported`: the engine could count
/// and does not; the hint has the SQL that makes it. `Unavailable`, `Denied`, `TimedOut`.
pub async fn slow(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    earlier: &Earlier,
    objective_ms: f64,
    request: &ListSlowStatements,
) -> Result<Outcome, Error> {
    if !(1..=STATEMENTS_MAX).contains(&request.statements_max) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("`statements_max` must lie between 1 and {STATEMENTS_MAX}"),
        )
        .with("statements_max", request.statements_max));
    }
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let answer = match inquiry.store.slow_statements() {
        Some(engine) => {
            Some(engine.slow_statements(ctx, request.statements_max.max(SNAPSHOT_STATEMENTS_MAX)).await?)
        }
        None => None,
    };
    let mut snapshot = Value::Null;
    let (mut value, mut statements, asked, elapsed_ms) = if let Some(mut answer) = answer {
        let now = Snapshot::of(&answer);
        snapshot = json!(now);
        let last = earlier.last.as_ref().filter(|_| request.since_last);
        let compared_with = last.and_then(|last| now.take_off(last, &mut answer));
        let value = json!({
            "compared_with": compared_with,
            "source": "engine", "since": answer.since, "total_ms": answer.total_ms, "forgotten": answer.forgotten,
            "excluded_users": answer.excluded_users, "hidden": answer.hidden,
        });
        let total_ms = answer.total_ms;
        let statements = answer
            .statements
            .into_iter()
            .map(|known| estimated(known, total_ms, compared_with.is_none()))
            .collect();
        (value, statements, answer.statement, answer.elapsed_ms)
    } else {
        let (statements, total_ms) = measured(&earlier.own);
        let last = earlier.last.as_ref().filter(|_| request.since_last);
        let value = json!({
            "compared_with": last.map(|last| last.taken_at.to_string()), "source": "own", "since": null, "total_ms": total_ms, "forgotten": 0, "excluded_users": [],
            "hidden": "this engine counts nothing: these are the times of what came through Steward's own door, not \
                       of what the application runs",
        });
        (value, statements, "times of `store.query` and `store.measure` in the ledger".to_owned(), 0.0)
    };
    for slow in &mut statements {
        slow.above_objective = slow.p95_ms > objective_ms && is_query(&slow.text);
    }
    statements.truncate(request.statements_max as usize);
    value["store"] = json!(request.store);
    value["objective_ms"] = json!(objective_ms);
    value["above_objective"] = json!(statements.iter().filter(|slow| slow.above_objective).count());
    value["statements"] = json!(statements);
    let mut kept = value.clone();
    kept["snapshot"] = snapshot;
    let evidence = inquiry.note(&asked, kept, elapsed_ms);
    let findings = statements
        .iter()
        .filter(|slow| slow.above_objective && slow.share >= SHARE_MIN)
        .map(|slow| finding(&request.store, slow, objective_ms, &evidence))
        .collect();
    let mut outcome = Outcome::new(value.clone(), report(&value, &statements, objective_ms));
    outcome.findings = findings;
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

impl Snapshot {
    fn of(answer: &SlowAnswer) -> Self {
        let most = SNAPSHOT_STATEMENTS_MAX as usize;
        let statements: Vec<StatementStatistics> = answer
            .statements
            .iter()
            .take(most)
            .map(|known| StatementStatistics { text: String::new(), ..known.clone() })
            .collect();
        let complete = answer.statements.len() <= most && answer.forgotten == 0;
        Self { since: answer.since.clone(), total_ms: answer.total_ms, complete, statements }
    }

    /// Takes what had been counted at the last look off the answer, and says when that was; `None`, and the answer as it
    /// was, when the engine has begun anew since.
    fn take_off(&self, last: &Evidence, answer: &mut SlowAnswer) -> Option<String> {
        let then: Self = serde_json::from_value(last.answer["snapshot"].clone()).ok()?;
        if then.since != self.since || then.total_ms > self.total_ms {
            return None;
        }
        answer.total_ms -= then.total_ms;
        let before: BTreeMap<(&str, &str), &StatementStatistics> =
            then.statements.iter().map(|known| ((&*known.id, &*known.user), known)).collect();
        let difference = |known: StatementStatistics| match before.get(&(&*known.id, &*known.user)).copied() {
            Some(then) => ran_since(known, then),
            // With so many statements, it may have run before and have been too cheap to be kept.
            None => then.complete.then_some(known),
        };
        answer.statements =
            std::mem::take(&mut answer.statements).into_iter().filter_map(difference).collect();
        answer.statements.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms));
        Some(last.taken_at.to_string())
    }
}

/// What of a statement's counts is newer; `None` when it has not run.
///
/// Sums and sums of squares can be taken off each other. Of the longest run it is only known that it is no longer than the
/// longest of all, and than all newer ones together.
#[allow(clippy::cast_precision_loss, reason = "counts of calls")]
fn ran_since(now: StatementStatistics, then: &StatementStatistics) -> Option<StatementStatistics> {
    let Some(calls @ 1..) = now.calls.checked_sub(then.calls) else {
        return (now.calls < then.calls).then_some(now);
    };
    let squares = |of: &StatementStatistics| of.calls as f64 * (of.stddev_ms.powi(2) + of.mean_ms.powi(2));
    let total_ms = (now.total_ms - then.total_ms).max(0.0);
    let mean_ms = total_ms / calls as f64;
    let variance = (squares(&now) - squares(then)) / calls as f64 - mean_ms.powi(2);
    Some(StatementStatistics {
        calls,
        total_ms,
        mean_ms,
        stddev_ms: variance.max(0.0).sqrt(),
        max_ms: now.max_ms.min(total_ms),
        rows: now.rows.saturating_sub(then.rows),
        blocks_hit: now.blocks_hit.saturating_sub(then.blocks_hit),
        blocks_read: now.blocks_read.saturating_sub(then.blocks_read),
        blocks_temporary: now.blocks_temporary.saturating_sub(then.blocks_temporary),
        ..now
    })
}

fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

/// What mean, deviation and maximum say of the 95th percentile.
///
/// `max_is_exact`: the longest run is among those that are counted.
fn estimated(known: StatementStatistics, all_ms: f64, max_is_exact: bool) -> Slow {
    let StatementStatistics { mean_ms, stddev_ms, max_ms, .. } = known;
    let few = known.calls < RUNS_FOR_ESTIMATE && max_is_exact;
    let at_most = max_ms.min(CANTELLI_P95.mul_add(stddev_ms, mean_ms)).min(MARKOV_P95 * mean_ms);
    let p95_ms = if few { max_ms } else { NORMAL_P95.mul_add(stddev_ms, mean_ms).min(at_most) };
    Slow {
        share: if all_ms > 0.0 { known.total_ms / all_ms } else { 0.0 },
        id: known.id,
        text: without_constants(&known.text),
        user: known.user,
        calls: known.calls,
        total_ms: rounded(known.total_ms),
        mean_ms: rounded(mean_ms),
        stddev_ms: rounded(stddev_ms),
        max_ms: rounded(max_ms),
        p95_ms: rounded(p95_ms),
        p95_at_most_ms: rounded(if few { max_ms } else { at_most }),
        p95_is: if few { Known::Measured } else { Known::Estimated },
        above_objective: false,
        rows: known.rows,
        blocks_hit: known.blocks_hit,
        blocks_read: known.blocks_read,
        blocks_temporary: known.blocks_temporary,
    }
}

/// Steward's own times, put together by statement; those with the most time first.
#[allow(clippy::cast_precision_loss)] // Runs are few.
fn measured(own: &[OwnTime]) -> (Vec<Slow>, f64) {
    let mut by_text: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for time in own {
        by_text.entry(without_constants(&time.statement)).or_default().push(time.elapsed_ms);
    }
    let all_ms: f64 = own.iter().map(|time| time.elapsed_ms).sum();
    let mut statements: Vec<Slow> = by_text
        .into_iter()
        .map(|(text, mut times)| {
            times.sort_by(f64::total_cmp);
            let total_ms: f64 = times.iter().sum();
            let mean_ms = total_ms / times.len() as f64;
            let variance =
                times.iter().map(|time| (time - mean_ms).powi(2)).sum::<f64>() / times.len() as f64;
            let p95_ms = rounded(percentile(&times, 95));
            Slow {
                id: sha256_hex(text.as_bytes())[..12].to_owned(),
                user: String::new(),
                calls: times.len() as u64,
                total_ms: rounded(total_ms),
                share: if all_ms > 0.0 { total_ms / all_ms } else { 0.0 },
                mean_ms: rounded(mean_ms),
                stddev_ms: rounded(variance.sqrt()),
                max_ms: rounded(percentile(&times, 100)),
                p95_ms,
                p95_at_most_ms: p95_ms,
                p95_is: Known::Measured,
                above_objective: false,
                rows: 0,
                blocks_hit: 0,
                blocks_read: 0,
                blocks_temporary: 0,
                text,
            }
        })
        .collect();
    statements.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms));
    (statements, rounded(all_ms))
}

fn finding(store: &str, slow: &Slow, objective_ms: f64, evidence: &str) -> Finding {
    let how = match slow.p95_is {
        Known::Measured => "is",
        Known::Estimated => "is about",
    };
    Finding {
        code: "slow_statement".into(),
        severity: Severity::Warning,
        title: format!(
            "p95 {how} {} in {}, above the objective of {}; {} of all time: {}",
            text::millis(slow.p95_ms),
            text::count(slow.calls, "call"),
            text::millis(objective_ms),
            contract::quantity::percent(slow.share),
            text::plain(&slow.text, 80),
        ),
        object: slow.id.clone(),
        recommendation: Some(format!(
            "measure it with real values: `steward store measure {store} 'SELECT …'`; then ask `steward index advise`"
        )),
        evidence: vec![evidence.to_owned()],
        escalate: (slow.mean_ms > objective_ms).then_some(Trigger::PerformanceDegradation),
    }
}

/// Whether users wait for it, rather than an administrator.
fn is_query(text: &str) -> bool {
    let word: String = text.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    ["select", "with", "insert", "update", "delete", "merge", "values", "table", "call", "execute"]
        .contains(&word.to_ascii_lowercase().as_str())
        || text.trim_start().starts_with('(')
}

fn report(value: &Value, statements: &[Slow], objective_ms: f64) -> String {
    let source = match value["source"].as_str() {
        Some("engine") => "as the engine has counted".to_owned(),
        _ => "as Steward has timed what came through its own door".to_owned(),
    };
    let since = match (value["compared_with"].as_str(), value["since"].as_str()) {
        (Some(last), _) => format!(" since the last look at {last}"),
        (None, Some(since)) => format!(" since {since}"),
        (None, None) => String::new(),
    };
    let total = text::millis(value["total_ms"].as_f64().unwrap_or_default());
    let mut lines =
        vec![format!("{total} in all, {source}{since}; objective: p95 below {}", text::millis(objective_ms))];
    if statements.is_empty() {
        lines.push("no statements yet".to_owned());
    } else {
        let columns = ["share %", "calls", "mean ms", "p95 ms", "at most", "max ms", "", "statement"]
            .map(ToOwned::to_owned);
        let rows: Vec<Vec<Value>> = statements
            .iter()
            .map(|slow| {
                let mark = match (slow.above_objective, slow.p95_is) {
                    (true, Known::Estimated) => "SLOW, estimated",
                    (true, Known::Measured) => "SLOW, measured",
                    (false, Known::Estimated) => "estimated",
                    (false, Known::Measured) => "measured",
                };
                vec![
                    json!((slow.share * 1e3).round() / 10.0),
                    json!(slow.calls),
                    json!(slow.mean_ms),
                    json!(slow.p95_ms),
                    json!(slow.p95_at_most_ms),
                    json!(slow.max_ms),
                    json!(mark),
                    json!(slow.text),
                ]
            })
            .collect();
        lines.push(text::table(&columns, &rows));
    }
    if let Some(hidden) = value["hidden"].as_str() {
        lines.push(format!("note: {hidden}"));
    }
    lines.join("\n")
}

/// The statement on one line, with `?` for each string and number and without comments: what the engine leaves in the
/// texts of commands that it does not normalise may be a password or a person's data.
pub(crate) fn without_constants(sql: &str) -> String {
    let chars: Vec<char> = sql.chars().collect();
    let mut out = String::with_capacity(sql.len());
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let next = chars.get(i + 1).copied();
        let in_word =
            out.chars().last().is_some_and(|last| last.is_alphanumeric() || last == '_' || last == '$');
        match c {
            '\'' => {
                // A prefix such as E, B, X or U& belongs to the string; with E, a backslash hides the next character.
                let escapes = matches!(out.chars().last(), Some('E' | 'e'));
                let bare = out.trim_end_matches(['E', 'e', 'B', 'b', 'X', 'x', 'N', 'n']);
                if out.len() - bare.len() == 1 && !bare.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    out.truncate(bare.len());
                }
                i += 1;
                while i < chars.len() {
                    match (chars[i], chars.get(i + 1)) {
                        ('\\', Some(_)) if escapes => i += 2,
                        ('\'', Some('\'')) => i += 2,
                        ('\'', _) => break,
                        _ => i += 1,
                    }
                }
                i += 1;
                out.push('?');
            }
            '$' if !in_word && next.is_some_and(|c| c == '$' || c.is_alphabetic() || c == '_') => {
                let tag_end = (i + 1..chars.len())
                    .take_while(|&at| chars[at] == '$' || chars[at].is_alphanumeric() || chars[at] == '_')
                    .find(|&at| chars[at] == '$');
                let Some(tag_end) = tag_end else {
                    out.push(c);
                    i += 1;
                    continue;
                };
                let tag = &chars[i..=tag_end];
                let close = (tag_end + 1..chars.len()).find(|&at| chars[at..].starts_with(tag));
                i = close.map_or(chars.len(), |at| at + tag.len());
                out.push('?');
            }
            '$' if next.is_some_and(|c| c.is_ascii_digit()) => {
                out.push(c);
                i += 1;
                while i < chars.len() && chars[i].is_ascii_digit() {
                    out.push(chars[i]);
                    i += 1;
                }
            }
            '"' | '`' => {
                let close = (i + 1..chars.len()).find(|&at| chars[at] == c).unwrap_or(chars.len() - 1);
                out.extend(&chars[i..=close]);
                i = close + 1;
            }
            '-' if next == Some('-') => {
                while i < chars.len() && chars[i] != '\n' {
                    i += 1;
                }
            }
            '/' if next == Some('*') => {
                let mut depth = 0usize;
                while i < chars.len() {
                    match (chars[i], chars.get(i + 1)) {
                        ('/', Some('*')) => {
                            depth += 1;
                            i += 2;
                        }
                        ('*', Some('/')) => {
                            depth -= 1;
                            i += 2;
                        }
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ if c.is_ascii_digit() && !in_word => {
                while i < chars.len() && (chars[i].is_alphanumeric() || matches!(chars[i], '.' | '_')) {
                    i += 1;
                }
                out.push('?');
            }
            _ if c.is_whitespace() => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                }
                i += 1;
            }
            _ => {
                out.push(c);
                i += 1;
            }
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn constants_and_comments_leave_the_text() {
        for (sql, shown) in [
            ("SELECT * FROM t WHERE a = $1", "SELECT * FROM t WHERE a = $1"),
            ("ALTER ROLE app PASSWORD 'hunter2'", "ALTER ROLE app PASSWORD ?"),
            ("SELECT E'it\\'s', 'it''s', B'01' FROM t1", "SELECT ?, ?, ? FROM t1"),
            ("DO $x$ BEGIN RAISE 'secret'; END $x$", "DO ?"),
            ("DO $$ 'secret' $$ -- secret", "DO ?"),
            ("SELECT 12.5e3, col2 /* /* secret */ */ FROM \"a'b\"", "SELECT ?, col2 FROM \"a'b\""),
            ("INSERT INTO t\n  VALUES (1,\t'anna@example.org')", "INSERT INTO t VALUES (?, ?)"),
            ("SELECT 'unfinished secret", "SELECT ?"),
        ] {
            assert_eq!(without_constants(sql), shown, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_can_be_shown_and_no_string_stays(before in "[a-z ($,]{0,12}", secret in "[A-Z]{6,9}", after in ".{0,40}") {
            let shown = without_constants(&format!("{before} '{secret}' {after}"));
            prop_assert!(!shown.contains(&secret) || after.contains(&secret) || before.contains('$'), "{}", shown);
        }
    }

    #[test]
    fn the_estimate_never_says_more_than_is_known() {
        let known = |calls, mean_ms, stddev_ms, max_ms| StatementStatistics {
            id: String::new(),
            text: String::new(),
            user: String::new(),
            calls,
            total_ms: 1.0,
            mean_ms,
            stddev_ms,
            max_ms,
            rows: 0,
            blocks_hit: 0,
            blocks_read: 0,
            blocks_temporary: 0,
        };
        for (statistics, p95_ms, at_most, is) in [
            (known(1, 7.0, 0.0, 7.0), 7.0, 7.0, Known::Measured),
            (known(19, 7.0, 3.0, 30.0), 30.0, 30.0, Known::Measured),
            (known(1_000, 10.0, 0.0, 10.0), 10.0, 10.0, Known::Estimated),
            (known(1_000, 10.0, 10.0, 500.0), 26.45, 53.589, Known::Estimated),
            (known(1_000, 10.0, 10.0, 20.0), 20.0, 20.0, Known::Estimated),
            (known(1_000, 1.0, 100.0, 5_000.0), 20.0, 20.0, Known::Estimated),
        ] {
            let slow = estimated(statistics, 2.0, true);
            assert_eq!((slow.p95_ms, slow.p95_at_most_ms, slow.p95_is), (p95_ms, at_most, is));
            assert!((slow.share - 0.5).abs() < f64::EPSILON);
        }
    }

    proptest! {
        /// What is left after taking the first runs off is what the later runs alone would have given.
        #[test]
        fn newer_runs_are_told_apart(first in prop::collection::vec(0.1..900.0_f64, 1..40),
                                     later in prop::collection::vec(0.1..900.0_f64, 1..40)) {
            let counted = |runs: &[f64]| {
                let calls = f64::from(u32::try_from(runs.len()).unwrap());
                let mean_ms = runs.iter().sum::<f64>() / calls;
                let variance = runs.iter().map(|run| (run - mean_ms).powi(2)).sum::<f64>() / calls;
                StatementStatistics {
                    id: "7".into(), text: String::new(), user: String::new(), calls: runs.len() as u64,
                    total_ms: mean_ms * calls, mean_ms, stddev_ms: variance.sqrt(),
                    max_ms: runs.iter().copied().fold(0.0, f64::max), rows: 0, blocks_hit: 0, blocks_read: 0,
                    blocks_temporary: 0,
                }
            };
            let all = [first.clone(), later.clone()].concat();
            let (found, alone) = (ran_since(counted(&all), &counted(&first)).unwrap(), counted(&later));
            prop_assert_eq!(found.calls, alone.calls);
            prop_assert!((found.mean_ms - alone.mean_ms).abs() < 1e-6);
            prop_assert!((found.stddev_ms - alone.stddev_ms).abs() < 1e-3, "{} {}", found.stddev_ms, alone.stddev_ms);
            prop_assert!(found.max_ms >= alone.max_ms - 1e-6);
            prop_assert_eq!(ran_since(counted(&all), &counted(&all)), None);
        }
    }

    #[test]
    fn own_times_are_put_together_by_statement() {
        let time = |statement: &str, elapsed_ms| OwnTime {
            statement: statement.into(),
            elapsed_ms,
            evidence: String::new(),
        };
        let own = [time("SELECT 1", 1.0), time("SELECT 2", 3.0), time("SELECT a FROM t", 100.0)];
        let (statements, all_ms) = measured(&own);
        assert!((all_ms - 104.0).abs() < 1e-9);
        assert_eq!(statements[0].text, "SELECT a FROM t");
        assert_eq!(
            (statements[1].text.as_str(), statements[1].calls, statements[1].p95_ms),
            ("SELECT ?", 2, 3.0)
        );
    }
}
