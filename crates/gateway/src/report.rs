//! What was used and what it cost: by any dimension, under another price table, and what it will come to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use contract::{Context, Effect, Error, ErrorKind, Evidence, Finding, Outcome, Request, Severity};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use ledger::{Ledger, Row, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wire::Usage;

use crate::accounts::Standing;
use crate::budget::Span;
use crate::config::{AiConfig, Period};
use crate::cost::{cost, cost_in_all, training_cost};
use crate::hit_rate::{self, HitRate};
use crate::meter::What;
use crate::price::PriceTable;
use crate::usage::UsageRow;
use crate::usd::Usd;

const BY: &str = include_str!("sql/usage_by.sql");
const PAGE: &str = include_str!("sql/usage_page.sql");
/// Rows that are read at once.
const PAGE_ROWS: i64 = 10_000;
/// Days that a forecast looks back at.
const FORECAST_DAYS: i64 = 14;
/// A budget that does not begin anew is told so many days before it is used up.
const RUNS_OUT_DAYS: i64 = 31;

/// What sums are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// The provider's model.
    #[default]
    Model,
    /// The provider.
    Provider,
    /// The route.
    Route,
    /// The virtual key.
    Key,
    /// The person that the key belongs to.
    Person,
    /// The day, UTC.
    Day,
    /// The month, UTC.
    Month,
    /// The service tier.
    Tier,
    /// What was asked for.
    Operation,
    /// How it ended.
    Ending,
    /// What the cache did.
    Cache,
    /// The project as a whole.
    Project,
}

impl Dimension {
    fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Route => "route",
            Self::Key => "key",
            Self::Person => "person",
            Self::Day => "day",
            Self::Month => "month",
            Self::Tier => "tier",
            Self::Operation => "operation",
            Self::Ending => "ending",
            Self::Cache => "cache",
            Self::Project => "project",
        }
    }
}

/// Sums requests and tokens of AI calls by one of their dimensions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowUsage {
    /// What sums are made by; default: the model.
    #[serde(default)]
    pub by: Dimension,
    /// First day, UTC, such as `2026-11-01`; default: the first of this month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// First day that no longer counts, UTC; default: until now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Only this virtual key, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Only this person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// Only this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Only this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Request for ShowUsage {
    const NAME: &'static str = "ai.usage";
    const SUMMARY: &'static str = "Requests and tokens of AI calls, by model, key, person, route, day …";
    const EXAMPLE: &'static str = "steward ai usage --by key --since 2026-11-01";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Sums what AI calls cost by one of their dimensions, or what they would have cost under other prices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowCost {
    /// What sums are made by; default: the model.
    #[serde(default)]
    pub by: Dimension,
    /// First day, UTC, such as `2026-11-01`; default: the first of this month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// First day that no longer counts, UTC; default: until now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Only this virtual key, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Only this person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// Only this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Only this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// File of the project with other prices, or `built-in`: also says what the same calls would have cost under them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Also says what the same calls would have cost at the prices of this day, UTC: those of `table`, or else of the table
    /// that holds now. Default: with `table` those of the day of each call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices_of: Option<String>,
}

impl Request for ShowCost {
    const NAME: &'static str = "ai.cost";
    const SUMMARY: &'static str =
        "What AI calls cost, by any dimension; with --table also under other prices";
    const EXAMPLE: &'static str = "steward ai cost --by route --since 2026-10-01 --until 2026-11-01";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Says what AI calls will come to at the end of the month, and when budgets run out; also by a dimension.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForecastCost {
    /// Also for each of these, such as `route`; not by `day` or `month`. The parts add up to the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Dimension>,
    /// Only this virtual key, by name or id. Budgets are looked at when nothing is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Only this person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// Only this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Only this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Request for ForecastCost {
    const NAME: &'static str = "ai.forecast";
    const SUMMARY: &'static str = "What AI calls will cost by the end of the month, and when budgets run out";
    const EXAMPLE: &'static str = "steward ai forecast --by route";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// A time from its first day up to and without its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Between {
    pub since: Timestamp,
    pub until: Timestamp,
}

impl Between {
    pub(crate) fn read(since: Option<&str>, until: Option<&str>, now: Timestamp) -> Result<Self, Error> {
        let first = Span::of(Period::Month, now).start_us;
        let since = match since {
            Some(text) => day(text, "since")?,
            None => Timestamp::from_microsecond(first).unwrap_or(Timestamp::MIN),
        };
        let until = match until {
            Some(text) => day(text, "until")?,
            // What came in during this very microsecond counts.
            None => now.saturating_add(1.second()).unwrap_or(now),
        };
        if until <= since {
            return Err(Error::new(ErrorKind::Invalid, "the time ends before it begins")
                .with("since", since)
                .with("until", until));
        }
        Ok(Self { since, until })
    }
}

fn day(text: &str, argument: &'static str) -> Result<Timestamp, Error> {
    let wrong = || {
        Error::new(ErrorKind::Invalid, format!("`{text}` is no day"))
            .with("argument", argument)
            .hint("write it as `2026-11-01`")
    };
    let day: Date = text.parse().map_err(|_| wrong())?;
    day.to_zoned(TimeZone::UTC).map(|at| at.timestamp()).map_err(|_| wrong())
}

/// `from 2026-11-01 00:00 to 2026-11-23 10:00 UTC`.
impl std::fmt::Display for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let minute = "%Y-%m-%d %H:%M";
        write!(f, "from {} to {} UTC", self.since.strftime(minute), self.until.strftime(minute))
    }
}

/// Only these rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Only<'a> {
    key: Option<&'a str>,
    person: Option<&'a str>,
    route: Option<&'a str>,
    provider: Option<&'a str>,
    model: Option<&'a str>,
}

impl Only<'_> {
    fn allows(&self, row: &UsageRow) -> bool {
        let fits = |wanted: Option<&str>, is: &str| wanted.is_none_or(|wanted| wanted == is);
        self.key.is_none_or(|key| key == &*row.key_name || key == &*row.key_id)
            && fits(self.person, &row.person)
            && fits(self.route, &row.route)
            && fits(self.provider, &row.provider)
            && fits(self.model, &row.model)
    }
}

/// A sum over rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// What it is the sum of.
    pub name: String,
    /// Requests.
    pub requests: u64,
    /// Requests with a whole answer.
    pub complete: u64,
    /// Rows whose tokens nobody counted.
    pub estimated: u64,
    /// Rows of models without a price.
    pub unpriced: u64,
    /// Requests that the cache answered.
    pub cache_hits: u64,
    /// Tokens by class.
    pub tokens: Usage,
    /// What it cost, in nano-dollars.
    pub cost_usd_nanos: i64,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.complete += other.complete;
        self.estimated += other.estimated;
        self.unpriced += other.unpriced;
        self.cache_hits += other.cache_hits;
        self.tokens = plus(self.tokens, other.tokens);
        self.cost_usd_nanos = self.cost_usd_nanos.saturating_add(other.cost_usd_nanos);
    }
}

pub(crate) fn plus(a: Usage, b: Usage) -> Usage {
    Usage {
        input: a.input.saturating_add(b.input),
        cache_read: a.cache_read.saturating_add(b.cache_read),
        cache_write_5m: a.cache_write_5m.saturating_add(b.cache_write_5m),
        cache_write_1h: a.cache_write_1h.saturating_add(b.cache_write_1h),
        audio_input: a.audio_input.saturating_add(b.audio_input),
        output: a.output.saturating_add(b.output),
        reasoning: a.reasoning.saturating_add(b.reasoning),
        audio_output: a.audio_output.saturating_add(b.audio_output),
    }
}

async fn by_name_and_day(
    ctx: &Context,
    ledger: &Ledger,
    between: Between,
    by: Dimension,
    only: Only<'_>,
) -> Result<Vec<Row>, Error> {
    let text = |value: Option<&str>| Value::from(value.unwrap_or_default());
    let mut parameters =
        vec![by.word().into(), ctx.project().into(), between.since.into(), between.until.into()];
    parameters.extend([text(only.key), text(only.key), text(only.key)]);
    for value in [only.person, only.route, only.provider, only.model] {
        parameters.extend([text(value), text(value)]);
    }
    ledger.query(BY, parameters).await
}

async fn sums(
    ctx: &Context,
    ledger: &Ledger,
    between: Between,
    by: Dimension,
    only: Only<'_>,
) -> Result<Vec<Sum>, Error> {
    let rows = by_name_and_day(ctx, ledger, between, by, only).await?;
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for row in &rows {
        let day = row.get_i64("day")?;
        let name = match by {
            Dimension::Day => date_of(day).to_string(),
            Dimension::Month => date_of(day).strftime("%Y-%m").to_string(),
            _ => row.get_text("name")?.to_owned(),
        };
        let name = if name.is_empty() { "(none)".to_owned() } else { name };
        let sum = sum_of(row, &name)?;
        sums.entry(name.clone()).or_insert_with(|| Sum { name, ..Sum::default() }).add(&sum);
    }
    let mut sums: Vec<Sum> = sums.into_values().collect();
    if !matches!(by, Dimension::Day | Dimension::Month) {
        sums.sort_by(|a, b| b.cost_usd_nanos.cmp(&a.cost_usd_nanos).then(b.requests.cmp(&a.requests)));
    }
    Ok(sums)
}

fn sum_of(row: &Row, name: &str) -> Result<Sum, Error> {
    let count = |column: &str| row.get_i64(column).map(|value| u64::try_from(value).unwrap_or(0));
    Ok(Sum {
        name: name.to_owned(),
        requests: count("requests")?,
        complete: count("complete")?,
        estimated: count("estimated")?,
        unpriced: count("unpriced")?,
        cache_hits: count("hits")?,
        tokens: Usage {
            input: count("input")?,
            cache_read: count("cache_read")?,
            cache_write_5m: count("cache_write_5m")?,
            cache_write_1h: count("cache_write_1h")?,
            audio_input: count("audio_input")?,
            output: count("output")?,
            reasoning: count("reasoning")?,
            audio_output: count("audio_output")?,
        },
        cost_usd_nanos: row.get_i64("cost_usd_nanos")?,
    })
}

fn date_of(days: i64) -> Date {
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.checked_add(days.days()).unwrap_or(Date::MAX)
}

/// Hands over each row of a time, page by page.
pub(crate) async fn each_row(
    ctx: &Context,
    ledger: &Ledger,
    between: Between,
    mut each: impl FnMut(UsageRow),
) -> Result<u64, Error> {
    let (mut at, mut id, mut count) = (i64::MIN, String::new(), 0);
    loop {
        let parameters = vec![
            ctx.project().into(),
            between.since.into(),
            between.until.into(),
            at.into(),
            at.into(),
            (&id).into(),
            PAGE_ROWS.into(),
        ];
        let page = ledger.query(PAGE, parameters).await?;
        let more = i64::try_from(page.len()).is_ok_and(|rows| rows == PAGE_ROWS);
        for row in &page {
            let (row, ..) = UsageRow::read(row)?;
            at = row.at.as_microsecond();
            id.clone_from(&row.id);
            count += 1;
            each(row);
        }
        if !more {
            return Ok(count);
        }
    }
}

fn total(sums: &[Sum]) -> Sum {
    let mut all = Sum { name: "total".into(), ..Sum::default() };
    for sum in sums {
        all.add(sum);
    }
    all
}

fn evidence(ctx: &Context, request: &str, answer: serde_json::Value) -> Evidence {
    Evidence::new(&format!("project:{}", ctx.project()), request, answer, ctx.now(), 0.0)
}

/// How often caches answered this month.
///
/// # Errors
///
/// As the ledger's.
pub async fn hit_rates(ctx: &Context, ledger: &Ledger, config: &AiConfig) -> Result<Vec<HitRate>, Error> {
    hit_rate::hit_rates(ctx, ledger, config, Between::read(None, None, ctx.now())?).await
}

/// Answers `ai.usage`.
///
/// # Errors
///
/// `Invalid`: the days. As the ledger's.
pub async fn usage(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    request: &ShowUsage,
) -> Result<Outcome, Error> {
    let between = Between::read(request.since.as_deref(), request.until.as_deref(), ctx.now())?;
    let only = Only {
        key: request.key.as_deref(),
        person: request.person.as_deref(),
        route: request.route.as_deref(),
        provider: request.provider.as_deref(),
        model: request.model.as_deref(),
    };
    let sums = sums(ctx, ledger, between, request.by, only).await?;
    let all = total(&sums);
    let mut text = String::new();
    if sums.is_empty() {
        text = format!("no AI calls {between}\n");
    } else {
        let mut rows = vec![
            [
                request.by.word(),
                "requests",
                "complete",
                "input",
                "from cache",
                "to cache",
                "output",
                "reasoning",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for sum in sums.iter().chain((sums.len() > 1).then_some(&all)) {
            let tokens = &sum.tokens;
            rows.push(vec![
                sum.name.clone(),
                sum.requests.to_string(),
                sum.complete.to_string(),
                (tokens.input + tokens.audio_input).to_string(),
                tokens.cache_read.to_string(),
                (tokens.cache_write_5m + tokens.cache_write_1h).to_string(),
                tokens.completion().to_string(),
                tokens.reasoning.to_string(),
            ]);
        }
        text.push_str(&columns(&rows));
        notes(&mut text, &all);
    }
    let mut rates = hit_rate::hit_rates(ctx, ledger, config, between).await?;
    rates.retain(|rate| request.route.as_ref().is_none_or(|route| *route == rate.route));
    text.push_str(&hit_rate::lines(&rates));
    let value = json!({
        "since": between.since, "until": between.until, "by": request.by, "rows": sums, "total": all, "caches": rates,
    });
    let mut outcome = Outcome::new(value.clone(), text);
    outcome.findings = hit_rate::findings(&rates);
    let evidence = evidence(ctx, "ai.usage", value);
    for finding in &mut outcome.findings {
        finding.evidence.push(evidence.id.clone());
    }
    outcome.evidence.push(evidence);
    Ok(outcome)
}

fn notes(text: &mut String, all: &Sum) {
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            writeln!(text, "{count} {what}").expect("writing to a string does not fail");
        }
    };
    note(all.estimated, "of these rows are estimated: the provider did not count them");
    note(all.unpriced, "of these rows are of models without a price; add them to the file under `ai.prices`");
    note(all.cache_hits, "of these requests were answered from the cache");
}

/// Text in columns: the first one to the left, the others to the right.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let padded = if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            line.push_str(&padded);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Answers `ai.cost`; `other` is the table that `request.table` names, already read, or the one that holds, where only
/// `request.prices_of` is given.
///
/// # Errors
///
/// `Invalid`: the days. As the ledger's.
pub async fn show_cost(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    other: Option<&PriceTable>,
    request: &ShowCost,
) -> Result<Outcome, Error> {
    let between = Between::read(request.since.as_deref(), request.until.as_deref(), ctx.now())?;
    let of = request.prices_of.as_deref().map(|text| day(text, "prices_of")).transpose()?;
    let only = Only {
        key: request.key.as_deref(),
        person: request.person.as_deref(),
        route: request.route.as_deref(),
        provider: request.provider.as_deref(),
        model: request.model.as_deref(),
    };
    let sums = sums(ctx, ledger, between, request.by, only).await?;
    let all = total(&sums);
    let mut value = json!({
        "since": between.since, "until": between.until, "by": request.by, "rows": sums, "total": all,
    });
    let mut text = String::new();
    if sums.is_empty() {
        text = format!("no AI calls {between}\n");
    }
    let replay = match other {
        None => None,
        Some(table) => {
            Some((table, replay(ctx, ledger, config, between, request.by, only, table, of).await?))
        }
    };
    if !sums.is_empty() {
        let mut head = vec![request.by.word().to_owned(), "requests".into(), "tokens".into(), "USD".into()];
        if let Some((table, _)) = &replay {
            head.push(format!("USD by {}", table.version()));
        }
        let mut rows = vec![head];
        for sum in sums.iter().chain((sums.len() > 1).then_some(&all)) {
            let tokens = sum.tokens.prompt().saturating_add(sum.tokens.completion());
            let mut row = vec![
                sum.name.clone(),
                sum.requests.to_string(),
                tokens.to_string(),
                Usd::from_nanos(sum.cost_usd_nanos).to_string(),
            ];
            if let Some((_, replayed)) = &replay {
                let cost = if sum.name == "total" {
                    replayed.total
                } else {
                    replayed.by.get(&sum.name).copied().unwrap_or(0)
                };
                row.push(Usd::from_nanos(cost).to_string());
            }
            rows.push(row);
        }
        text.push_str(&columns(&rows));
        notes(&mut text, &all);
    }
    if let Some((table, replayed)) = replay {
        if replayed.unpriced > 0 {
            writeln!(
                text,
                "{} rows are of models that {} does not know; they count with what they cost",
                replayed.unpriced,
                table.version()
            )
            .expect("writing to a string does not fail");
        }
        value["replay"] = json!({
            "table": table.version(), "prices_of": request.prices_of, "cost_usd_nanos": replayed.total,
            "by": replayed.by, "unpriced_rows": replayed.unpriced,
        });
    }
    let mut outcome = Outcome::new(value.clone(), text);
    outcome.evidence.push(evidence(ctx, "ai.cost", value));
    Ok(outcome)
}

struct Replayed {
    total: i64,
    by: BTreeMap<String, i64>,
    unpriced: u64,
}

/// The same calls under another table: each row is reckoned anew, since prices depend on its size and day.
#[allow(clippy::too_many_arguments, reason = "one caller, and each is another fact of the question")]
async fn replay(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    between: Between,
    by: Dimension,
    only: Only<'_>,
    table: &PriceTable,
    of: Option<Timestamp>,
) -> Result<Replayed, Error> {
    let mut replayed = Replayed { total: 0, by: BTreeMap::new(), unpriced: 0 };
    each_row(ctx, ledger, between, |row| {
        if !only.allows(&row) {
            return;
        }
        let nanos = if let Some(cost) = replay_row(config, table, &row, of) {
            cost.nanos()
        } else {
            replayed.unpriced += u64::from(row.cost.nanos() > 0);
            row.cost.nanos()
        };
        replayed.total = replayed.total.saturating_add(nanos);
        let name = name_of(by, &row, ctx.project());
        let sum = replayed.by.entry(name).or_default();
        *sum = sum.saturating_add(nanos);
    })
    .await?;
    Ok(replayed)
}

/// What a row would cost under a table; `None`: the table does not know its model, or nothing was counted.
pub(crate) fn replay_row(
    config: &AiConfig,
    table: &PriceTable,
    row: &UsageRow,
    of: Option<Timestamp>,
) -> Option<Usd> {
    if row.usage == Usage::default() || row.operation == "pass_through" {
        return None;
    }
    let kind = config.providers.get(&*row.provider).map(|provider| provider.kind.as_str());
    let at = of.unwrap_or(row.at);
    if row.operation == What::FineTuning.as_str() {
        let model = table
            .training(&row.provider, &row.model)
            .or_else(|| kind.and_then(|kind| table.training(kind, &row.model)))?;
        return training_cost(model.prices_at(at), row.usage.input);
    }
    let model = table
        .find(&row.provider, &row.model)
        .or_else(|| kind.and_then(|kind| table.find(kind, &row.model)))?;
    let prices = model.prices_at(at);
    if row.operation == What::Batches.as_str() {
        // The row is the sum of many requests.
        let long = row.details()["long"].as_bool().unwrap_or(false);
        return Some(cost_in_all(prices, &row.usage, row.tier, long));
    }
    Some(cost(prices, &row.usage, row.tier).usd)
}

fn name_of(by: Dimension, row: &UsageRow, project: &str) -> String {
    let name = match by {
        Dimension::Model => format!("{}/{}", row.provider, row.model),
        Dimension::Provider => row.provider.to_string(),
        Dimension::Route => row.route.to_string(),
        Dimension::Key => row.key_name.to_string(),
        Dimension::Person => row.person.to_string(),
        Dimension::Day => row.at.to_zoned(TimeZone::UTC).date().to_string(),
        Dimension::Month => row.at.to_zoned(TimeZone::UTC).date().strftime("%Y-%m").to_string(),
        Dimension::Tier => row.tier.as_str().to_owned(),
        Dimension::Operation => row.operation.to_owned(),
        Dimension::Ending => row.ending.to_owned(),
        Dimension::Cache => row.cache.to_owned(),
        Dimension::Project => project.to_owned(),
    };
    if name.is_empty() { "(none)".to_owned() } else { name }
}

/// What was spent on each day with calls.
type Days = BTreeMap<Date, i64>;

/// What each name spent on each day since a forecast looks back.
async fn spent_daily(
    ctx: &Context,
    ledger: &Ledger,
    by: Dimension,
    only: Only<'_>,
) -> Result<BTreeMap<String, Days>, Error> {
    let now = ctx.now();
    let month = at(Span::of(Period::Month, now).start_us);
    let back = at(Span::of(Period::Day, now).start_us)
        .saturating_sub((FORECAST_DAYS * 24).hours())
        .unwrap_or(Timestamp::MIN);
    let between = Between { since: back.min(month), until: now.saturating_add(1.second()).unwrap_or(now) };
    let mut names: BTreeMap<String, Days> = BTreeMap::new();
    for row in &by_name_and_day(ctx, ledger, between, by, only).await? {
        let name = row.get_text("name")?;
        let name = if name.is_empty() { "(none)" } else { name };
        let spent =
            names.entry(name.to_owned()).or_default().entry(date_of(row.get_i64("day")?)).or_default();
        *spent = spent.saturating_add(row.get_i64("cost_usd_nanos")?);
    }
    Ok(names)
}

fn at(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap_or(Timestamp::MAX)
}

fn date(us: i64) -> Date {
    at(us).to_zoned(TimeZone::UTC).date()
}

/// Where a month is going.
struct Course {
    /// Spent in it so far.
    spent: i64,
    /// Whole days that the mean is of.
    days: usize,
    per_day: Option<i64>,
    /// By the last whole week alone.
    per_day_lately: Option<i64>,
    /// At the end of the month, and between what and what by each of the last two weeks.
    end: Option<(i64, i64, i64)>,
}

impl Course {
    /// Of what was spent daily, by whole days since `first`, at most the last two weeks: days without calls count as well.
    fn of(spent: &Days, first: Option<Date>, now: Timestamp) -> Self {
        let month = Span::of(Period::Month, now);
        let (begins, today) = (date(month.start_us), date(Span::of(Period::Day, now).start_us));
        let mut whole: Vec<i64> = Vec::new();
        for ago in 1..=FORECAST_DAYS {
            let Ok(day) = today.checked_sub(ago.days()) else { break };
            if first.is_none_or(|first| day < first) {
                break;
            }
            whole.push(spent.get(&day).copied().unwrap_or(0));
        }
        let mean = |days: &[i64]| -> Option<i64> {
            let sum: i128 = days.iter().map(|cost| i128::from(*cost)).sum();
            i64::try_from(sum / i128::try_from(days.len()).ok().filter(|count| *count > 0)?).ok()
        };
        let left_us = month.end_us - now.as_microsecond();
        let rest = |per_day: i64| -> i64 {
            i64::try_from(i128::from(per_day) * i128::from(left_us) / 86_400_000_000).unwrap_or(i64::MAX)
        };
        let so_far = spent.range(begins..).map(|(_, cost)| *cost).fold(0, i64::saturating_add);
        let per_day = mean(&whole);
        let (low, high) = (mean(&whole[..whole.len().min(7)]), mean(whole.get(7..).unwrap_or_default()));
        let end = per_day.map(|per_day| {
            let end = so_far.saturating_add(rest(per_day));
            let (mut least, mut most) = (end, end);
            for week in [low, high].into_iter().flatten() {
                let end = so_far.saturating_add(rest(week));
                least = least.min(end);
                most = most.max(end);
            }
            (end, least, most)
        });
        Self { spent: so_far, days: whole.len(), per_day, per_day_lately: low, end }
    }

    fn value(&self) -> serde_json::Value {
        let mut value = json!({
            "spent_usd_nanos": self.spent, "days_looked_at": self.days, "per_day_usd_nanos": self.per_day,
        });
        if let Some((end, least, most)) = self.end {
            value["end_of_month_usd_nanos"] = json!(end);
            value["end_of_month_low_usd_nanos"] = json!(least);
            value["end_of_month_high_usd_nanos"] = json!(most);
        }
        value
    }

    fn text(&self) -> String {
        let spent = format!("spent this month  {} USD\n", Usd::from_nanos(self.spent));
        let (Some(per_day), Some((end, least, most))) = (self.per_day, self.end) else {
            return spent + "no forecast yet: it needs at least one whole day with AI calls\n";
        };
        format!(
            "{spent}a day             {} USD (mean of the last {} whole days)\nend of the month  {} USD ({} to {} by the \
             last two weeks)\n",
            Usd::from_nanos(per_day),
            self.days,
            Usd::from_nanos(end),
            Usd::from_nanos(least),
            Usd::from_nanos(most),
        )
    }
}

/// The parts of a forecast, the dearest first, as people read them.
fn parts_text(by: Dimension, parts: &[(String, Course)]) -> String {
    let mut table =
        vec![[by.word(), "spent USD", "a day", "end of the month", "from", "to"].map(str::to_owned).to_vec()];
    for (name, course) in parts {
        let usd =
            |nanos: Option<i64>| nanos.map_or_else(|| "-".into(), |nanos| Usd::from_nanos(nanos).to_string());
        table.push(vec![
            name.clone(),
            usd(Some(course.spent)),
            usd(course.per_day),
            usd(course.end.map(|(end, ..)| end)),
            usd(course.end.map(|(_, least, _)| least)),
            usd(course.end.map(|(.., most)| most)),
        ]);
    }
    columns(&table)
}

/// Answers `ai.forecast`.
///
/// # Errors
///
/// `Invalid`: by a dimension of time. As the ledger's.
pub async fn forecast(
    ctx: &Context,
    ledger: &Ledger,
    standings: &[Standing],
    request: &ForecastCost,
) -> Result<Outcome, Error> {
    if let Some(by @ (Dimension::Day | Dimension::Month)) = request.by {
        return Err(Error::new(ErrorKind::Invalid, format!("there is no forecast by {}", by.word()))
            .with("argument", "by")
            .hint("`steward ai cost --by day` shows what was spent on each day"));
    }
    let now = ctx.now();
    let only = Only {
        key: request.key.as_deref(),
        person: request.person.as_deref(),
        route: request.route.as_deref(),
        provider: request.provider.as_deref(),
        model: request.model.as_deref(),
    };
    let names = spent_daily(ctx, ledger, request.by.unwrap_or(Dimension::Project), only).await?;
    let mut days = Days::new();
    for (day, spent) in names.values().flatten() {
        let sum = days.entry(*day).or_default();
        *sum = sum.saturating_add(*spent);
    }
    let first = days.keys().next().copied();
    let whole = Course::of(&days, first, now);
    let mut text = whole.text();
    let mut value = whole.value();
    value["month"] = json!(date(Span::of(Period::Month, now).start_us).strftime("%Y-%m").to_string());
    if let Some(by) = request.by {
        // By the same days for all, so that the parts add up to the whole.
        let mut parts: Vec<(String, Course)> =
            names.iter().map(|(name, days)| (name.clone(), Course::of(days, first, now))).collect();
        parts.sort_by_key(|(_, course)| std::cmp::Reverse((course.end, course.spent)));
        if !parts.is_empty() {
            text.push('\n');
            text.push_str(&parts_text(by, &parts));
        }
        let row = |(name, course): &(String, Course)| {
            let mut value = course.value();
            value["name"] = json!(name);
            value
        };
        value["by"] = json!(by);
        value["rows"] = parts.iter().map(row).collect();
    }
    // What is left out does not slow a budget down.
    let standings = if only == Only::default() { standings } else { &[] };
    let mut findings = Vec::new();
    let mut budgets = Vec::new();
    for standing in standings {
        let share = pace(ctx, ledger, standing).await?;
        let left = standing.limit.nanos() - standing.spent.nanos();
        let runs_out = share.filter(|per_day| *per_day > 0).and_then(|per_day| {
            let us = i64::try_from(i128::from(left.max(0)) * 86_400_000_000 / i128::from(per_day)).ok()?;
            now.checked_add(us.microseconds()).ok()
        });
        let early = runs_out.filter(|at| standing.resets.is_none_or(|resets| *at < resets));
        budgets.push(json!({
            "budget": standing.budget, "scope": standing.scope, "value": standing.value,
            "limit_usd_nanos": standing.limit.nanos(), "spent_usd_nanos": standing.spent.nanos(),
            "per_day_usd_nanos": share, "runs_out": early, "resets": standing.resets,
        }));
        // One that never begins anew is used up some day.
        let soon = now.checked_add((RUNS_OUT_DAYS * 24).hours()).unwrap_or(Timestamp::MAX);
        if let Some(at) = early.filter(|at| standing.resets.is_some() || *at < soon) {
            writeln!(
                text,
                "budget `{}` of {} `{}`: used up on {} at this pace",
                standing.budget,
                standing.scope,
                standing.value,
                at.to_zoned(TimeZone::UTC).date()
            )
            .expect("writing to a string does not fail");
            findings.push(Finding {
                code: "budget_runs_out".into(),
                severity: Severity::Warning,
                title: format!(
                    "the budget `{}` will be used up on {}",
                    standing.budget,
                    at.to_zoned(TimeZone::UTC).date()
                ),
                object: format!("{}/{}", standing.budget, standing.value),
                recommendation: Some("`steward ai advise` shows where to save".into()),
                evidence: Vec::new(),
                escalate: None,
            });
        }
    }
    value["budgets"] = json!(budgets);
    let mut outcome = Outcome::new(value.clone(), text);
    let proof = evidence(ctx, "ai.forecast", json!({ "days": days, "answer": value }));
    for finding in &mut findings {
        finding.evidence.push(proof.id.clone());
    }
    outcome.findings = findings;
    outcome.evidence.push(proof);
    Ok(outcome)
}

/// What a budget's value spends in a day, by the last whole week, or since its first call if that was later.
async fn pace(ctx: &Context, ledger: &Ledger, standing: &Standing) -> Result<Option<i64>, Error> {
    let value = Some(standing.value.as_str());
    let only = match standing.scope {
        "key" => Only { key: value, ..Only::default() },
        "person" => Only { person: value, ..Only::default() },
        "route" => Only { route: value, ..Only::default() },
        "provider" => Only { provider: value, ..Only::default() },
        "model" => Only { model: value, ..Only::default() },
        _ => Only::default(),
    };
    let names = spent_daily(ctx, ledger, Dimension::Project, only).await?;
    let days = names.into_values().next().unwrap_or_default();
    Ok(Course::of(&days, days.keys().next().copied(), ctx.now()).per_day_lately)
}
