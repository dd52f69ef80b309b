//! The receipt of one request: what was tried, what it used and cost, and where that stands in the chain.

use std::fmt::Write as _;

use contract::{Context, Effect, Error, ErrorKind, Evidence, Outcome, Request};
use jiff::ToSpan;
use ledger::{EventFilter, Ledger, Row};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::usage::{UsageRow, root};
use crate::usd::Usd;

/// Events that are looked through for a batch.
const EVENTS_MAX: usize = 10_000;

/// Shows the receipt of an AI call: attempts, tokens by class, price, times and its place in the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowReceipt {
    /// Id of the request, as in the header `steward-receipt` of its answer.
    pub id: String,
}

impl Request for ShowReceipt {
    const NAME: &'static str = "ai.receipt";
    const SUMMARY: &'static str = "The receipt of an AI call: attempts, tokens, price, times, proof";
    const EXAMPLE: &'static str = "steward ai receipt req_01jd6w2x8h0000000000000000";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &["id"];
}

/// Answers `ai.receipt`.
///
/// # Errors
///
/// `NotFound`: this project has no such request.
pub async fn receipt(ctx: &Context, ledger: &Ledger, request: &ShowReceipt) -> Result<Outcome, Error> {
    let rows = ledger
        .query(
            "SELECT * FROM ai_usage WHERE project = ? AND id >= ? AND id < ? ORDER BY id",
            // `#2` and the like follow directly; `$` is the letter after `#`.
            vec![ctx.project().into(), (&request.id).into(), format!("{}$", request.id).into()],
        )
        .await?;
    if rows.is_empty() {
        return under_way(ctx, ledger, request).await;
    }
    let mut billed = Vec::new();
    let mut own = None;
    let mut total: i64 = 0;
    for row in &rows {
        let (row, batch, hash) = UsageRow::read(row)?;
        if row.id != request.id && !row.id.starts_with(&format!("{}#", request.id)) {
            continue;
        }
        total = total.saturating_add(row.cost.nanos());
        let proof = proof(ctx, ledger, &row, &batch, &hash).await?;
        billed.push(line(&row, &proof));
        if row.id == request.id {
            own = Some((row, proof));
        }
    }
    let Some((row, proof)) = own else { return under_way(ctx, ledger, request).await };
    let stored = crate::prompts::kept_until(ctx, ledger, &row.id).await?;
    let value = json!({
        "prompt_stored_until": stored, "id": row.id, "at": row.at, "key": &*row.key_name, "key_id": &*row.key_id, "person": &*row.person,
        "route": &*row.route, "operation": row.operation, "streaming": row.streaming, "ending": row.ending,
        "status": row.status, "cache": row.cache, "first_byte_us": row.first_byte_us, "took_us": row.took_us,
        "cost_usd": Usd::from_nanos(total).to_string(), "cost_usd_nanos": total, "billed": billed, "details": row.details(),
    });
    let mut text = text(&row, &proof, total, &billed);
    if let Some(until) = stored {
        writeln!(text, "prompt   stored until {until}: `steward ai prompts show {}`", row.id)
            .expect("writing to a string does not fail");
    }
    let mut outcome = Outcome::new(value.clone(), text);
    outcome.evidence.push(Evidence::new(
        &format!("project:{}", ctx.project()),
        &format!("ai.receipt {}", request.id),
        value,
        ctx.now(),
        0.0,
    ));
    Ok(outcome)
}

fn line(row: &UsageRow, proof: &Proof) -> Value {
    json!({
        "id": row.id, "provider": &*row.provider, "model": &*row.model, "tier": row.tier, "tokens": row.usage,
        "counted_by": match row.estimated { 0 => "provider", 1 => "estimate", _ => "set aside" },
        "cost_usd_nanos": row.cost.nanos(), "price_row": row.price_row, "price_table": &*row.price_table,
        "proof": proof,
    })
}

/// Where a row stands in the chain.
#[derive(Debug, Clone, Serialize)]
struct Proof {
    hash: String,
    /// The row has the hash that was recorded with it.
    row_unchanged: bool,
    batch: String,
    /// Entry of the audit trail with the root over the batch.
    entry: Option<u64>,
    /// The root over the batch's rows is the one in the entry.
    batch_unchanged: bool,
}

async fn proof(
    ctx: &Context,
    ledger: &Ledger,
    row: &UsageRow,
    batch: &str,
    hash: &str,
) -> Result<Proof, Error> {
    let rows = ledger
        .query(
            "SELECT hash FROM ai_usage WHERE project = ? AND batch = ? AND at_us > ? AND at_us < ?",
            // A batch holds what ended together; what took longest began first.
            vec![
                ctx.project().into(),
                batch.into(),
                row.at.saturating_sub(48.hours()).unwrap_or(row.at).into(),
                row.at.saturating_add(48.hours()).unwrap_or(row.at).into(),
            ],
        )
        .await?;
    let hashes = rows.iter().map(|row| row.get_text("hash")).collect::<Result<Vec<_>, _>>()?;
    let root = root(hashes.into_iter());
    // A job is recorded when it ends.
    let took =
        jiff::SignedDuration::from_micros(if row.details().get("job").is_some() { row.took_us } else { 0 });
    let filter = EventFilter {
        since: Some(row.at.checked_add(took).unwrap_or(row.at)),
        limit: Some(EVENTS_MAX),
        ..EventFilter::project(ctx.project()).kind("ai.usage")
    };
    let events = ledger.events(filter).await?;
    let entry = events
        .iter()
        .find(|event| event.body.as_ref().is_some_and(|body| body["batch"].as_str() == Some(batch)));
    let batch_unchanged =
        entry.and_then(|event| event.body.as_ref()).is_some_and(|body| body["root"].as_str() == Some(&root));
    Ok(Proof {
        row_unchanged: row.hash(&mut Vec::new()) == hash,
        hash: hash.to_owned(),
        batch: batch.to_owned(),
        entry: entry.map(|event| event.seq),
        batch_unchanged,
    })
}

fn text(row: &UsageRow, proof: &Proof, total: i64, billed: &[Value]) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    let stream = if row.streaming { ", streamed" } else { "" };
    say(format!("{}  {}{stream}, {} ({})", row.id, row.operation, row.ending, row.status));
    let person = if row.person.is_empty() { String::new() } else { format!(" of {}", row.person) };
    say(format!("at       {}  by key `{}`{person}, route `{}`", row.at, row.key_name, row.route));
    let details = row.details();
    for attempt in details["attempts"].as_array().into_iter().flatten() {
        let word = |name: &str| attempt[name].as_str().unwrap_or_default().to_owned();
        let how = match (attempt["failure"].as_str(), attempt["status"].as_u64()) {
            (None, _) => "answered".to_owned(),
            (Some(failure), Some(status)) => format!("{failure} ({status})"),
            (Some(failure), None) => failure.to_owned(),
        };
        let key = match word("key") {
            key if key.is_empty() => "without a key".to_owned(),
            key => format!("with key `{key}`"),
        };
        let said = match word("message") {
            message if message.is_empty() => message,
            message => format!(": {message}"),
        };
        let (provider, model, took) = (word("provider"), word("model"), &attempt["took_ms"]);
        if let (Some(name), Some(since)) =
            (attempt["instead_of"]["model"].as_str(), attempt["instead_of"]["retired"].as_str())
        {
            say(format!("retired  `{name}` is served no longer since {since}; `{model}` takes its place"));
        }
        say(format!("tried    {provider}/{model} {key}: {how} after {took} ms{said}"));
    }
    if let Some(job) = details.get("job") {
        let count = |name: &str| job[name].as_u64().map_or_else(|| "?".to_owned(), |count| count.to_string());
        let word = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
        let done = if word("kind") == "fine_tuning" {
            format!("{} examples, {} epochs", count("requests"), count("epochs"))
        } else {
            format!("{} of {} requests answered", count("completed"), count("requests"))
        };
        let set_aside = Usd::from_nanos(details["set_aside_usd_nanos"].as_i64().unwrap_or(0));
        say(format!(
            "job      {} {}: {}, {done}; {set_aside} USD were set aside",
            word("kind"),
            word("remote_id"),
            word("status")
        ));
        if let Some(model) = job["tuned_model"].as_str() {
            say(format!("model    {model}"));
        }
    }
    if row.cache != "off" {
        let like = &details["like"];
        let more = match (like["request"].as_str(), like["similarity_ten_thousandths"].as_u64()) {
            (Some(of), Some(similarity)) => {
                format!(": the answer of {of}, asked in other words, similarity 0.{similarity:04}")
                    .replace("0.10000", "1.0000")
            }
            _ if details["embedding_failed"] == true => {
                ": it could not be compared with what was asked before, the embedding failed".to_owned()
            }
            _ => String::new(),
        };
        say(format!("cache    {}{more}", row.cache));
    }
    if let Some(of) = details["checks"].as_str() {
        say(format!("checks   whether the answer of {of} from the cache was right"));
    }
    let counted = match row.estimated {
        0 => "counted by the provider",
        1 => "estimated, the provider did not count",
        _ => "not known, the process ended; what was set aside is taken",
    };
    let usage = &row.usage;
    say(format!(
        "tokens   {} in ({} from cache, {} to cache, {} audio), {} out ({} reasoning, {} audio); {counted}",
        usage.prompt(),
        usage.cache_read,
        usage.cache_write_5m + usage.cache_write_1h,
        usage.audio_input,
        usage.completion(),
        usage.reasoning,
        usage.audio_output,
    ));
    let by = if row.price_row.is_empty() {
        "no price is known".to_owned()
    } else {
        format!("{} of table {}, {} tier", row.price_row, row.price_table, row.tier.as_str())
    };
    let attempts =
        if billed.len() > 1 { format!("; {} attempts were billed", billed.len()) } else { String::new() };
    say(format!("cost     {} USD by {by}{attempts}", Usd::from_nanos(total)));
    let first = row.first_byte_us.map_or(String::new(), |us| format!("first byte after {} ms, ", us / 1000));
    say(format!("time     {first}end after {} ms", row.took_us / 1000));
    let trace = &details["trace"];
    if let (Some(id), Some(span)) = (trace["id"].as_str(), trace["span"].as_str()) {
        say(format!("trace    {id}, span {span}"));
    }
    let whole = match (proof.entry, proof.row_unchanged && proof.batch_unchanged) {
        (Some(entry), true) => format!("entry {entry} of the audit trail covers it, unchanged"),
        (Some(entry), false) => format!("CHANGED since entry {entry} of the audit trail was written"),
        (None, _) => "no entry of the audit trail covers it".to_owned(),
    };
    say(format!("proof    {whole}"));
    text
}

/// A batch or a training that has not ended yet.
fn job_under_way(request: &ShowReceipt, job: &Row) -> Result<Outcome, Error> {
    let set_aside = job.get_i64("set_aside_usd_nanos")?;
    let (kind, remote_id, status) =
        (job.get_text("kind")?, job.get_text("remote_id")?, job.get_text("status")?);
    let value = json!({
        "id": request.id, "at": job.get_time("made_us")?, "ending": "under_way", "set_aside_usd_nanos": set_aside,
        "job": { "kind": kind, "remote_id": remote_id, "status": status },
    });
    let text = format!(
        "{} is under way: {kind} {remote_id}, {status}; {} USD are set aside for it\n",
        request.id,
        Usd::from_nanos(set_aside)
    );
    Ok(Outcome::new(value, text))
}

/// A request that has not ended yet, or that nobody knows.
async fn under_way(ctx: &Context, ledger: &Ledger, request: &ShowReceipt) -> Result<Outcome, Error> {
    let rows = ledger
        .query(
            "SELECT at_us, usd_nanos, body FROM ai_reservations WHERE project = ? AND id = ?",
            vec![ctx.project().into(), (&request.id).into()],
        )
        .await?;
    let Some(row) = rows.first() else {
        let jobs = ledger
            .query(
                "SELECT made_us, set_aside_usd_nanos, kind, remote_id, status FROM ai_jobs \
                 WHERE project = ? AND id = ? AND state IN ('creating', 'open')",
                vec![ctx.project().into(), (&request.id).into()],
            )
            .await?;
        if let Some(job) = jobs.first() {
            return job_under_way(request, job);
        }
        return Err(Error::new(ErrorKind::NotFound, "this project has no receipt of this request")
            .with("id", &request.id)
            .hint("the id is in the header `steward-receipt` of the answer, which what was refused does not have; rows follow their request within a second"));
    };
    let set_aside = row.get_i64("usd_nanos")?;
    let body: Value = row.get_json("body")?;
    let value = json!({
        "id": request.id, "at": row.get_time("at_us")?, "ending": "under_way", "set_aside_usd_nanos": set_aside,
        "key": body["key_name"], "route": body["route"],
    });
    let mut text = String::new();
    writeln!(text, "{} is under way; {} USD are set aside for it", request.id, Usd::from_nanos(set_aside))
        .expect("writing to a string does not fail");
    Ok(Outcome::new(value, text))
}
