//! Our rows against what a provider says it counted: usage exports as CSV or JSON, compared by day and model.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use contract::{Context, Effect, Error, ErrorKind, Evidence, Finding, Outcome, Request, Severity};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use ledger::Ledger;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::AiConfig;
use crate::price::PriceTable;
use crate::report::{Between, columns, each_row};
use crate::usd::Usd;

/// Largest export that is read.
pub const EXPORT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Differences that are shown.
const SHOWN_MAX: usize = 50;

/// Compares our count with a provider's usage export, by day and model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconcileUsage {
    /// The provider's name in the project file.
    pub provider: String,
    /// The export, a file in the project: CSV with a header, or the JSON of the provider's usage or cost API.
    pub file: String,
    /// First day, UTC; default: the first in the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// First day that no longer counts, UTC; default: after the last in the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Request for ReconcileUsage {
    const NAME: &'static str = "ai.reconcile";
    const SUMMARY: &'static str = "Compare our count of AI calls with a provider's usage export";
    const EXAMPLE: &'static str = "steward ai reconcile openai usage-november.csv";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &["provider", "file"];
}

/// What one side counted for a model on a day; `None`: it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counted {
    /// Requests.
    pub requests: Option<u64>,
    /// All tokens of prompts, cached or not.
    pub prompt_tokens: Option<u64>,
    /// Of these, read from the cache.
    pub cached_tokens: Option<u64>,
    /// All tokens of answers.
    pub output_tokens: Option<u64>,
    /// What it cost, in nano-dollars.
    pub cost_usd_nanos: Option<i64>,
}

impl Counted {
    fn add(&mut self, other: &Self) {
        fn sum<T: std::ops::Add<Output = T>>(a: Option<T>, b: Option<T>) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            }
        }
        self.requests = sum(self.requests, other.requests);
        self.prompt_tokens = sum(self.prompt_tokens, other.prompt_tokens);
        self.cached_tokens = sum(self.cached_tokens, other.cached_tokens);
        self.output_tokens = sum(self.output_tokens, other.output_tokens);
        self.cost_usd_nanos = sum(self.cost_usd_nanos, other.cost_usd_nanos);
    }
}

/// Counts by day and model; the model is empty where an export sums over all.
type ByDay = BTreeMap<(Date, String), Counted>;

/// Reads an export: the JSON of OpenAI's or Anthropic's usage and cost APIs, or CSV with a header.
///
/// # Errors
///
/// `Invalid`: what cannot be read and where.
pub fn read(text: &str) -> Result<ByDay, Error> {
    if text.len() > EXPORT_BYTES_MAX {
        return Err(
            Error::new(ErrorKind::Invalid, "the export is too large").with("bytes_max", EXPORT_BYTES_MAX)
        );
    }
    let text = text.trim_start_matches('\u{feff}');
    let found = if text.trim_start().starts_with(['{', '[']) { from_json(text)? } else { from_csv(text)? };
    if found.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the export holds no usage")
            .hint("export the usage or the costs by model and day"));
    }
    Ok(found)
}

/// The columns of an export by the names that providers give them.
///
/// Source: OpenAI, usage and cost exports; Anthropic, usage and cost reports; Azure, cost analysis export.
const COLUMNS: &[(&str, &[&str])] = &[
    (
        "day",
        &[
            "date",
            "day",
            "start_time_iso",
            "start_time",
            "starting_at",
            "usage_date_utc",
            "usagedate",
            "timestamp",
            "bucket_start",
        ],
    ),
    ("model", &["model", "model_version", "snapshot_id", "line_item", "meter", "model_name"]),
    ("requests", &["num_model_requests", "requests", "n_requests", "num_requests", "request_count"]),
    ("input", &["input_tokens", "prompt_tokens", "n_context_tokens_total", "total_input_tokens"]),
    ("uncached", &["uncached_input_tokens", "usage_input_tokens_no_cache", "input_uncached_tokens"]),
    (
        "cached",
        &[
            "input_cached_tokens",
            "cached_input_tokens",
            "cache_read_input_tokens",
            "usage_input_tokens_cache_read",
            "n_cached_context_tokens_total",
        ],
    ),
    (
        "write_5m",
        &["ephemeral_5m_input_tokens", "cache_creation_input_tokens", "usage_input_tokens_cache_write_5m"],
    ),
    ("write_1h", &["ephemeral_1h_input_tokens", "usage_input_tokens_cache_write_1h"]),
    ("output", &["output_tokens", "completion_tokens", "n_generated_tokens_total", "usage_output_tokens"]),
    ("cost", &["cost_usd", "amount_value", "cost", "amount", "costusd", "pretaxcost", "cost_in_usd"]),
];

fn column(header: &str) -> Option<&'static str> {
    let name = header.trim().trim_matches('"').to_ascii_lowercase().replace([' ', '-'], "_");
    COLUMNS.iter().find(|(_, names)| names.contains(&name.as_str())).map(|(column, _)| *column)
}

fn from_csv(text: &str) -> Result<ByDay, Error> {
    let mut records = csv_records(text);
    let header = records.next().unwrap_or_default();
    let known: Vec<Option<&str>> = header.iter().map(|name| column(name)).collect();
    if !known.contains(&Some("day"))
        || !known.iter().any(|name| matches!(name, Some("cost" | "input" | "uncached")))
    {
        return Err(Error::new(
            ErrorKind::Invalid,
            "the header of the CSV names no day, or neither tokens nor cost",
        )
        .with("header", header.join(","))
        .hint(
            "columns such as `date,model,requests,input_tokens,cached_input_tokens,output_tokens,cost_usd`",
        ));
    }
    let mut found = ByDay::new();
    for (number, record) in records.enumerate() {
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        let mut fields: BTreeMap<&str, String> = BTreeMap::new();
        for (name, cell) in known.iter().zip(&record) {
            if let Some(name) = name
                && !cell.trim().is_empty()
            {
                fields.entry(name).or_insert_with(|| cell.trim().to_owned());
            }
        }
        entry(&mut found, &fields).map_err(|error| error.with("line", number + 2))?;
    }
    Ok(found)
}

fn entry(found: &mut ByDay, fields: &BTreeMap<&str, String>) -> Result<(), Error> {
    let day = day(fields.get("day").map(String::as_str).unwrap_or_default())?;
    let model = fields.get("model").cloned().unwrap_or_default();
    let count = |name: &str| -> Result<Option<u64>, Error> {
        let Some(text) = fields.get(name) else { return Ok(None) };
        let whole = text.strip_suffix(".0").unwrap_or(text).replace([',', '_'], "");
        whole
            .parse()
            .map(Some)
            .map_err(|_| Error::new(ErrorKind::Invalid, format!("`{text}` is no count")).with("column", name))
    };
    let cost = match fields.get("cost") {
        None => None,
        Some(text) => Some(money(text).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("`{text}` is no amount")).with("column", "cost")
        })?),
    };
    let (read, writes) = (count("cached")?, [count("write_5m")?, count("write_1h")?]);
    let prompt = match (count("input")?, count("uncached")?) {
        // OpenAI's counts hold the cached ones already, Anthropic's do not.
        (Some(all), _) => Some(all),
        (None, Some(plain)) => Some(plain + read.unwrap_or(0) + writes.into_iter().flatten().sum::<u64>()),
        (None, None) => None,
    };
    let counted = Counted {
        requests: count("requests")?,
        prompt_tokens: prompt,
        cached_tokens: read,
        output_tokens: count("output")?,
        cost_usd_nanos: cost,
    };
    found.entry((day, model)).or_default().add(&counted);
    Ok(())
}

/// Dollars as nano-dollars, with more digits than nine cut and not rounded up: exports have been summed as floats.
fn money(text: &str) -> Option<i64> {
    let text = text.trim().trim_start_matches('$').replace(',', "");
    if let Some((mantissa, exponent)) = text.split_once(['e', 'E']) {
        // `1.5e-05` is what many programs write for small amounts.
        let exponent: i32 = exponent.parse().ok()?;
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{part}");
        let point = i32::try_from(whole.len()).ok()? + exponent;
        let plain = if point <= 0 {
            format!("0.{}{digits}", "0".repeat(usize::try_from(-point).ok()?.min(30)))
        } else {
            let point = usize::try_from(point).ok()?.min(30);
            let padded = format!("{digits:0<point$}");
            format!("{}.{}", &padded[..point], &padded[point..])
        };
        return money(&plain);
    }
    let cut = match text.split_once('.') {
        Some((whole, part)) => format!("{whole}.{}", part.get(..part.len().min(9))?),
        None => text,
    };
    cut.parse::<Usd>().ok().map(Usd::nanos)
}

/// A day as providers write it: `2026-11-01`, a time, or seconds since 1970.
fn day(text: &str) -> Result<Date, Error> {
    if let Ok(seconds) = text.parse::<i64>()
        && let Ok(at) = Timestamp::from_second(seconds)
    {
        return Ok(at.to_zoned(TimeZone::UTC).date());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.to_zoned(TimeZone::UTC).date());
    }
    text.get(..10)
        .unwrap_or(text)
        .parse()
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("`{text}` is no day")).with("column", "day"))
}

/// Records of CSV by RFC 4180; a quote inside a quoted cell is doubled.
fn csv_records(text: &str) -> impl Iterator<Item = Vec<String>> + '_ {
    let mut rest = text.chars().peekable();
    std::iter::from_fn(move || {
        rest.peek()?;
        let (mut record, mut cell, mut quoted) = (Vec::new(), String::new(), false);
        while let Some(next) = rest.next() {
            match next {
                '"' if quoted && rest.peek() == Some(&'"') => {
                    rest.next();
                    cell.push('"');
                }
                '"' => quoted = !quoted,
                ',' if !quoted => record.push(std::mem::take(&mut cell)),
                '\r' if !quoted && rest.peek() == Some(&'\n') => {}
                '\n' if !quoted => break,
                other => cell.push(other),
            }
        }
        record.push(cell);
        Some(record)
    })
}

fn from_json(text: &str) -> Result<ByDay, Error> {
    let value: Value = serde_json::from_str(text)
        .map_err(|cause| Error::new(ErrorKind::Invalid, "the export is no JSON").because(cause))?;
    let mut found = ByDay::new();
    walk(&value, None, &mut found)?;
    Ok(found)
}

/// Buckets of time hold results; plain lists of records are read as CSV's lines are.
fn walk(value: &Value, day_of: Option<&str>, found: &mut ByDay) -> Result<(), Error> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| walk(item, day_of, found)),
        Value::Object(map) => {
            let own = map.iter().find(|(name, _)| column(name) == Some("day")).map(|(_, day)| plain(day));
            let day_here = own.as_deref().or(day_of);
            let inner: Vec<&Value> =
                ["data", "results", "buckets"].into_iter().filter_map(|name| map.get(name)).collect();
            if !inner.is_empty() {
                return inner.into_iter().try_for_each(|inner| walk(inner, day_here, found));
            }
            let Some(day) = day_here else { return Ok(()) };
            let mut fields: BTreeMap<&str, String> = BTreeMap::from([("day", day.to_owned())]);
            flat(map, &mut fields);
            // Anthropic's cost report counts in cents, as text.
            if let (Some(Value::String(cents)), Some(Value::String(currency))) =
                (map.get("amount"), map.get("currency"))
                && currency == "USD"
                && let Some(nanos) = money(cents)
            {
                fields.insert("cost", Usd::from_nanos(nanos / 100).to_string());
            }
            entry(found, &fields)
        }
        _ => Ok(()),
    }
}

fn flat(map: &serde_json::Map<String, Value>, fields: &mut BTreeMap<&str, String>) {
    for (name, value) in map {
        match value {
            // OpenAI: `amount: { value, currency }`; Anthropic: `cache_creation: { ephemeral_… }`.
            Value::Object(inner) if name == "amount" => {
                if let Some(value) = inner.get("value") {
                    fields.insert("cost", plain(value));
                }
            }
            Value::Object(inner) => flat(inner, fields),
            Value::Null | Value::Array(_) => {}
            scalar => {
                if let Some(column) = column(name)
                    && column != "day"
                {
                    fields.entry(column).or_insert_with(|| plain(scalar));
                }
            }
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Answers `ai.reconcile`; `export` is the file's text.
///
/// # Errors
///
/// `Invalid`: the export or the days. `NotFound`: no such provider. As the ledger's.
pub async fn reconcile(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    prices: &PriceTable,
    export: &str,
    request: &ReconcileUsage,
) -> Result<Outcome, Error> {
    let kind = config.providers.get(&request.provider).map(|provider| provider.kind.as_str());
    let Some(kind) = kind else {
        return Err(Error::new(ErrorKind::NotFound, "the project file has no provider of this name")
            .with("provider", &request.provider));
    };
    // Names with dates, aliases and the like are the same model.
    let canonical = |name: &str| {
        let row = prices.find(&request.provider, name).or_else(|| prices.find(kind, name));
        row.map_or_else(|| name.to_owned(), |row| row.model.clone())
    };
    let mut theirs = ByDay::new();
    for ((day, model), counted) in read(export)? {
        let model = if model.is_empty() { model } else { canonical(&model) };
        theirs.entry((day, model)).or_default().add(&counted);
    }
    let (first, last) = match (theirs.keys().next(), theirs.keys().next_back()) {
        (Some((first, _)), Some((last, _))) => (*first, *last),
        _ => return Err(Error::new(ErrorKind::Invalid, "the export holds no usage")),
    };
    let after = last.tomorrow().unwrap_or(last).to_string();
    let since = request.since.clone().unwrap_or_else(|| first.to_string());
    let between = Between::read(Some(&since), Some(request.until.as_deref().unwrap_or(&after)), ctx.now())?;
    let by_model = theirs.keys().any(|(_, model)| !model.is_empty());
    let mut ours = ByDay::new();
    let mut guessed: BTreeMap<(Date, String), u64> = BTreeMap::new();
    each_row(ctx, ledger, between, |row| {
        if *row.provider != *request.provider || row.cache == "hit" {
            return;
        }
        let day = row.at.to_zoned(TimeZone::UTC).date();
        let key = (day, if by_model { canonical(&row.model) } else { String::new() });
        if row.estimated != 0 {
            *guessed.entry(key.clone()).or_default() += 1;
        }
        // A request that failed before it was worked on is in no provider's count.
        let worked_on = row.usage.prompt() > 0 || row.cost.nanos() > 0;
        ours.entry(key).or_default().add(&Counted {
            requests: Some(u64::from(worked_on)),
            prompt_tokens: Some(row.usage.prompt()),
            cached_tokens: Some(row.usage.cache_read),
            output_tokens: Some(row.usage.completion()),
            cost_usd_nanos: Some(row.cost.nanos()),
        });
    })
    .await?;
    theirs.retain(|(day, _), _| {
        day.to_zoned(TimeZone::UTC)
            .is_ok_and(|at| at.timestamp() >= between.since && at.timestamp() < between.until)
    });
    Ok(compare(ctx, request, &ours, &theirs, &guessed))
}

fn compare(
    ctx: &Context,
    request: &ReconcileUsage,
    ours: &ByDay,
    theirs: &ByDay,
    guessed: &BTreeMap<(Date, String), u64>,
) -> Outcome {
    let keys: std::collections::BTreeSet<&(Date, String)> = ours.keys().chain(theirs.keys()).collect();
    let mut table =
        vec![["day", "model", "what", "ours", "theirs", "why, perhaps"].map(str::to_owned).to_vec()];
    let (mut differences, mut equal) = (Vec::new(), 0);
    let (mut our_cost, mut their_cost) = (0i64, 0i64);
    for key in keys {
        let (our, their) = (ours.get(key).copied(), theirs.get(key).copied());
        our_cost += our.and_then(|it| it.cost_usd_nanos).unwrap_or(0);
        their_cost += their.and_then(|it| it.cost_usd_nanos).unwrap_or(0);
        let estimated = guessed.get(key).copied().unwrap_or(0);
        let why = match (our, their) {
            (Some(_), None) => "the export lacks it: another project or key of the provider, or too early",
            (None, Some(_)) => "calls that did not pass through here",
            _ if estimated > 0 => "some of our rows are estimated",
            _ => "calls that did not pass through here, or another price",
        };
        let (our, their) = (our.unwrap_or_default(), their.unwrap_or_default());
        let mut same = true;
        let mut differ = |what: &str, a: Option<i64>, b: Option<i64>, money: bool| {
            // What one side does not count cannot differ.
            let Some(b) = b else { return };
            let a = a.unwrap_or(0);
            // A nano-dollar for each of our rows may be rounding: we round up, others do not.
            let slack = if money {
                our.requests.and_then(|count| i64::try_from(count).ok()).unwrap_or(0) + 1
            } else {
                0
            };
            if (a - b).abs() <= slack {
                return;
            }
            same = false;
            let shown = |value: i64| {
                if money { format!("{} USD", Usd::from_nanos(value)) } else { value.to_string() }
            };
            table.push(vec![
                key.0.to_string(),
                key.1.clone(),
                what.to_owned(),
                shown(a),
                shown(b),
                why.to_owned(),
            ]);
            differences.push(json!({
                "day": key.0.to_string(), "model": key.1, "what": what, "ours": a, "theirs": b,
                "estimated_rows": estimated, "perhaps": why,
            }));
        };
        let signed = |count: Option<u64>| count.and_then(|count| i64::try_from(count).ok());
        differ("requests", signed(our.requests), signed(their.requests), false);
        differ("prompt tokens", signed(our.prompt_tokens), signed(their.prompt_tokens), false);
        differ("cached tokens", signed(our.cached_tokens), signed(their.cached_tokens), false);
        differ("output tokens", signed(our.output_tokens), signed(their.output_tokens), false);
        differ("cost", our.cost_usd_nanos, their.cost_usd_nanos, true);
        equal += u64::from(same);
    }
    let value = json!({
        "provider": request.provider, "equal": equal, "differences": differences,
        "our_cost_usd_nanos": our_cost, "their_cost_usd_nanos": their_cost,
    });
    let mut text = String::new();
    if differences.is_empty() {
        writeln!(text, "{equal} days and models compared, all equal; {} USD", Usd::from_nanos(our_cost))
            .expect("writing to a string does not fail");
    } else {
        let more = table.len().saturating_sub(SHOWN_MAX + 1);
        table.truncate(SHOWN_MAX + 1);
        text.push_str(&columns(&table));
        if more > 0 {
            writeln!(text, "… and {more} more; --json has all").expect("writing to a string does not fail");
        }
        writeln!(
            text,
            "{equal} days and models are equal; ours {} USD, theirs {} USD",
            Usd::from_nanos(our_cost),
            Usd::from_nanos(their_cost)
        )
        .expect("writing to a string does not fail");
    }
    let mut outcome = Outcome::new(value.clone(), text);
    let proof = Evidence::new(
        &format!("project:{}", ctx.project()),
        &format!("ai.reconcile {} {}", request.provider, request.file),
        value,
        ctx.now(),
        0.0,
    );
    if !differences.is_empty() {
        outcome.findings.push(Finding {
            code: "usage_differs".into(),
            severity: Severity::Warning,
            title: format!(
                "{} counts of `{}` differ from ours: {} USD against our {} USD",
                differences.len(),
                request.provider,
                Usd::from_nanos(their_cost),
                Usd::from_nanos(our_cost)
            ),
            object: request.provider.clone(),
            recommendation: Some("look for clients that still use a provider's key directly".into()),
            evidence: vec![proof.id.clone()],
            escalate: None,
        });
    }
    outcome.evidence.push(proof);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> ((Date, String), Counted) {
        let found = read(text).expect(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn exports_of_each_shape_are_read() {
        for (text, model, prompt, cached, output, requests, cost) in [
            (
                "date,model,requests,input_tokens,cached_input_tokens,output_tokens,cost_usd\n2026-11-01,gpt-5-mini,3,1000,400,200,0.00056\n",
                "gpt-5-mini",
                Some(1000),
                Some(400),
                Some(200),
                Some(3),
                Some(560_000),
            ),
            (
                "\u{feff}\"Date\",\"Model\",\"Cost\"\r\n\"2026-11-01T00:00:00Z\",\"a, \"\"b\"\"\",\"1,234.5\"\r\n",
                "a, \"b\"",
                None,
                None,
                None,
                None,
                Some(1_234_500_000_000),
            ),
            (
                r#"{"object":"page","data":[{"object":"bucket","start_time":1793491200,"end_time":1793577600,"results":[
                    {"object":"organization.usage.completions.result","input_tokens":1000,"output_tokens":200,
                     "input_cached_tokens":400,"num_model_requests":3,"model":"gpt-5-mini","project_id":null}]}],"has_more":false}"#,
                "gpt-5-mini",
                Some(1000),
                Some(400),
                Some(200),
                Some(3),
                None,
            ),
            (
                r#"{"data":[{"start_time":1793491200,"results":[{"amount":{"value":0.06,"currency":"usd"},"line_item":"gpt-5-mini"}]}]}"#,
                "gpt-5-mini",
                None,
                None,
                None,
                None,
                Some(60_000_000),
            ),
            (
                r#"{"data":[{"starting_at":"2026-11-01T00:00:00Z","ending_at":"2026-11-02T00:00:00Z","results":[
                    {"uncached_input_tokens":100,"cache_creation":{"ephemeral_1h_input_tokens":10,"ephemeral_5m_input_tokens":20},
                     "cache_read_input_tokens":30,"output_tokens":50,"model":"claude-haiku-4-5-20251001"}]}]}"#,
                "claude-haiku-4-5-20251001",
                Some(160),
                Some(30),
                Some(50),
                None,
                None,
            ),
            (
                r#"[{"date":"2026-11-01","model":"m","cost_usd":1.5e-05}]"#,
                "m",
                None,
                None,
                None,
                None,
                Some(15_000),
            ),
        ] {
            let ((day, found), counted) = only(text);
            assert_eq!((day.to_string().as_str(), found.as_str()), ("2026-11-01", model), "{text}");
            let expected = Counted {
                requests,
                prompt_tokens: prompt,
                cached_tokens: cached,
                output_tokens: output,
                cost_usd_nanos: cost,
            };
            assert_eq!(counted, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_export_is_refused_with_the_place() {
        for (text, says) in [
            ("", "header"),
            ("a,b\n1,2\n", "header"),
            ("date,model\n2026-11-01,m\n", "header"),
            ("date,cost_usd\nyesterday,1\n", "line: 2"),
            ("date,cost_usd\n2026-11-01,much\n", "`much` is no amount"),
            ("date,input_tokens\n2026-11-01,-5\n", "`-5` is no count"),
            ("{", "no JSON"),
            ("{}", "holds no usage"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn amounts_keep_their_digits() {
        for (text, nanos) in [
            ("0.1", 100_000_000),
            ("$1,000.00", 1_000_000_000_000),
            ("0.00000000099", 0),
            ("1e3", 1_000_000_000_000),
            ("12.5E-9", 12),
            ("0.30000000000000004", 300_000_000),
        ] {
            assert_eq!(money(text), Some(nanos), "{text}");
        }
        for text in ["", "x", "1.2.3", "1e", "--1"] {
            assert_eq!(money(text), None, "{text}");
        }
    }
}
