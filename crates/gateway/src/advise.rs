//! Where AI calls could cost less, from what was measured: no advice without traffic behind it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use contract::{Context, Effect, Error, Evidence, Finding, Outcome, Request, Severity};
use ledger::Ledger;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wire::Usage;

use crate::config::AiConfig;
use crate::cost::cost;
use crate::hit_rate;
use crate::price::{Model, PriceTable, Tier};
use crate::repeats::{KEPT_S, Repeats};
use crate::report::{Between, columns, each_row, plus};
use crate::usage::UsageRow;
use crate::usd::Usd;

/// A model that answered fewer requests of a route says little about how well it does there.
const REQUESTS_MIN: u64 = 20;
/// A cheaper model may succeed at most this much less often, in thousandths.
const SUCCESS_DROP_MAX: u64 = 10;
/// Times that are kept for a percentile, for each route and model.
const TIMES_MAX: usize = 10_000;
/// Prompts from this size on can be cached by the providers.
/// Source: OpenAI and Anthropic, prompt caching: 1024 tokens for most models.
const CACHEABLE_TOKENS: u64 = 1024;

/// Looks for calls that could cost less: cheaper models, repeated prompts, prompt caches, batches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdviseCost {
    /// Only this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// First day, UTC, such as `2026-11-01`; default: the first of this month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// First day that no longer counts, UTC; default: until now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Request for AdviseCost {
    const NAME: &'static str = "ai.advise";
    const SUMMARY: &'static str = "Where AI calls could cost less, from measured traffic";
    const EXAMPLE: &'static str = "steward ai advise --route fast";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// What one model did on one route.
#[derive(Debug, Clone, Default)]
struct Measured {
    requests: u64,
    complete: u64,
    plain: u64,
    cost: i64,
    /// What the plain ones cost, and would have in a batch.
    plain_cost: i64,
    batch_cost: i64,
    batchable: bool,
    tokens: Usage,
    long_prompts: u64,
    took_us: Vec<i64>,
}

impl Measured {
    fn success_thousandths(&self) -> u64 {
        self.complete * 1000 / self.requests.max(1)
    }

    fn percentile(&self, percent: usize) -> Option<i64> {
        let mut sorted = self.took_us.clone();
        let at = sorted.len().checked_sub(1)? * percent / 100;
        Some(*sorted.select_nth_unstable(at).1 / 1000)
    }
}

#[derive(Debug, Default)]
struct RouteUse {
    models: BTreeMap<(String, String), Measured>,
    requests: u64,
    hits: u64,
    repeats: Repeats,
}

/// Answers `ai.advise`.
///
/// # Errors
///
/// `Invalid`: the days. As the ledger's.
pub async fn advise(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    prices: &PriceTable,
    request: &AdviseCost,
) -> Result<Outcome, Error> {
    let between = Between::read(request.since.as_deref(), request.until.as_deref(), ctx.now())?;
    let mut routes: BTreeMap<String, RouteUse> = BTreeMap::new();
    each_row(ctx, ledger, between, |row| {
        if request.route.as_deref().is_none_or(|route| route == &*row.route)
            && matches!(row.operation, "chat" | "embeddings")
        {
            see(routes.entry(row.route.to_string()).or_default(), config, prices, &row);
        }
    })
    .await?;
    let rates = hit_rate::hit_rates(ctx, ledger, config, between).await?;
    let mut findings = Vec::new();
    let mut text = String::new();
    let mut value = Vec::new();
    for (name, route) in &routes {
        let mut table = vec![
            ["model", "requests", "complete", "p50 ms", "p95 ms", "from cache", "USD", "USD per 1000"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let mut models = Vec::new();
        for ((provider, model), measured) in &route.models {
            let shown =
                |milliseconds: Option<i64>| milliseconds.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
            let cached = share(measured.tokens.cache_read, measured.tokens.prompt());
            let each = i64::try_from(i128::from(measured.cost) * 1000 / i128::from(measured.requests.max(1)));
            table.push(vec![
                format!("{provider}/{model}"),
                measured.requests.to_string(),
                percent(measured.success_thousandths()),
                shown(measured.percentile(50)),
                shown(measured.percentile(95)),
                percent(cached),
                Usd::from_nanos(measured.cost).to_string(),
                Usd::from_nanos(each.unwrap_or(i64::MAX)).to_string(),
            ]);
            models.push(json!({
                "provider": provider, "model": model, "requests": measured.requests, "complete": measured.complete,
                "p50_ms": measured.percentile(50), "p95_ms": measured.percentile(95), "tokens": measured.tokens,
                "cost_usd_nanos": measured.cost, "not_streamed": measured.plain,
                "not_streamed_cost_usd_nanos": measured.plain_cost, "as_batch_cost_usd_nanos": measured.batch_cost,
            }));
        }
        writeln!(text, "route `{name}`: {} requests, {} answered from the cache", route.requests, route.hits)
            .expect("writing to a string does not fail");
        text.push_str(&columns(&table));
        text.push_str(&repeated_text(route));
        let own: Vec<_> = rates.iter().filter(|rate| rate.route == *name).cloned().collect();
        text.push_str(&hit_rate::lines(&own));
        let before = findings.len();
        cheaper(name, route, config, prices, ctx, &mut findings);
        repeated(name, route, config, &mut findings);
        kept_longer(name, route, config, &mut findings);
        findings.extend(hit_rate::findings(&rates).into_iter().filter(|finding| finding.object == *name));
        prompt_cache(name, route, &mut findings);
        batches(name, route, &mut findings);
        for finding in &findings[before..] {
            writeln!(text, "- {}", finding.title).expect("writing to a string does not fail");
            if let Some(recommendation) = &finding.recommendation {
                writeln!(text, "  {recommendation}").expect("writing to a string does not fail");
            }
        }
        if findings.len() == before {
            text.push_str("- nothing found\n");
        }
        value.push(json!({
            "route": name, "requests": route.requests, "cache_hits": route.hits, "models": models,
            "repeats": route.repeats.value(route.requests),
            "cache": rates.iter().find(|rate| rate.route == *name),
        }));
    }
    if routes.is_empty() {
        text = format!("no AI calls {between}: nothing is measured yet\n");
    }
    let value = json!({ "since": between.since, "until": between.until, "routes": value });
    let proof =
        Evidence::new(&format!("project:{}", ctx.project()), "ai.advise", value.clone(), ctx.now(), 0.0);
    for finding in &mut findings {
        finding.evidence.push(proof.id.clone());
    }
    let mut outcome = Outcome::new(value, text);
    outcome.findings = findings;
    outcome.evidence.push(proof);
    Ok(outcome)
}

/// Which share came again, by time.
fn repeated_text(route: &RouteUse) -> String {
    let repeats = &route.repeats;
    if repeats.seen < REQUESTS_MIN {
        return String::new();
    }
    let shares = KEPT_S
        .iter()
        .zip(repeats.answered)
        .map(|(seconds, answered)| format!("{} within {seconds} s", percent(share(answered, repeats.seen))));
    format!("came again: {} (of {} looked at)\n", shares.collect::<Vec<_>>().join(", "), repeats.seen)
}

fn see(route: &mut RouteUse, config: &AiConfig, prices: &PriceTable, row: &UsageRow) {
    if row.id.contains('#') {
        // A failed attempt of a request that another model answered.
        let key = (row.provider.to_string(), row.model.to_string());
        let measured = route.models.entry(key).or_default();
        measured.requests += 1;
        measured.cost = measured.cost.saturating_add(row.cost.nanos());
        return;
    }
    route.requests += 1;
    route.repeats.see(row);
    if matches!(row.cache, "hit" | "semantic") {
        route.hits += 1;
        return;
    }
    if row.provider.is_empty() {
        return;
    }
    let measured = route.models.entry((row.provider.to_string(), row.model.to_string())).or_default();
    measured.requests += 1;
    measured.complete += u64::from(row.ending == "complete");
    measured.cost = measured.cost.saturating_add(row.cost.nanos());
    measured.tokens = plus(measured.tokens, row.usage);
    measured.long_prompts += u64::from(row.usage.prompt() >= CACHEABLE_TOKENS);
    if measured.took_us.len() < TIMES_MAX {
        measured.took_us.push(row.took_us);
    }
    let model = model_of(config, prices, &row.provider, &row.model);
    if let (false, Tier::Standard, Some(model)) = (row.streaming, row.tier, model)
        && model.prices_at(row.at).batch.is_some()
    {
        measured.batchable = true;
        measured.plain += 1;
        measured.plain_cost = measured.plain_cost.saturating_add(row.cost.nanos());
        let batch = cost(model.prices_at(row.at), &row.usage, Tier::Batch).usd.nanos();
        measured.batch_cost = measured.batch_cost.saturating_add(batch);
    }
}

fn model_of(
    config: &AiConfig,
    prices: &PriceTable,
    provider: &str,
    model: &str,
) -> Option<std::sync::Arc<Model>> {
    let kind = config.providers.get(provider).map(|provider| provider.kind.as_str());
    prices.find(provider, model).or_else(|| kind.and_then(|kind| prices.find(kind, model)))
}

/// A share in thousandths.
fn share(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 1000 / u128::from(whole.max(1))).unwrap_or(1000)
}

fn percent(thousandths: u64) -> String {
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

fn finding(code: &str, route: &str, title: String, recommendation: String) -> Finding {
    Finding {
        code: code.to_owned(),
        severity: Severity::Info,
        title,
        object: route.to_owned(),
        recommendation: Some(recommendation),
        evidence: Vec::new(),
        escalate: None,
    }
}

/// The tokens of the dearest model at the prices of others that serve the same route, with how they did there.
fn cheaper(
    name: &str,
    route: &RouteUse,
    config: &AiConfig,
    prices: &PriceTable,
    ctx: &Context,
    findings: &mut Vec<Finding>,
) {
    for ((provider, model), used) in &route.models {
        if used.requests < REQUESTS_MIN || used.cost == 0 {
            continue;
        }
        let mut best: Option<(i64, &(String, String), &Measured)> = None;
        for (other, measured) in &route.models {
            let does_as_well =
                measured.success_thousandths() + SUCCESS_DROP_MAX >= used.success_thousandths();
            if other == &(provider.clone(), model.clone())
                || measured.requests < REQUESTS_MIN
                || !does_as_well
            {
                continue;
            }
            let Some(row) = model_of(config, prices, &other.0, &other.1) else { continue };
            let would = cost(row.prices_at(ctx.now()), &used.tokens, Tier::Standard).usd.nanos();
            if would < used.cost && best.is_none_or(|(known, ..)| would < known) {
                best = Some((would, other, measured));
            }
        }
        if let Some((would, (to_provider, to_model), measured)) = best {
            let ms = |measured: &Measured| measured.percentile(95).unwrap_or_default();
            findings.push(finding(
                "cheaper_model",
                name,
                format!(
                    "the {} requests that `{provider}/{model}` answered for {} USD would have cost about {} USD with \
                     `{to_provider}/{to_model}`",
                    used.requests,
                    Usd::from_nanos(used.cost),
                    Usd::from_nanos(would)
                ),
                format!(
                    "on this route it completed {} of its {} requests (now {}), p95 {} ms (now {} ms); give it more \
                     weight, and compare the answers before you give it all: tokens are counted by each model's own rule",
                    percent(measured.success_thousandths()),
                    measured.requests,
                    percent(used.success_thousandths()),
                    ms(measured),
                    ms(used)
                ),
            ));
        }
    }
}

/// What a cache would have answered of what was asked.
fn repeated(name: &str, route: &RouteUse, config: &AiConfig, findings: &mut Vec<Finding>) {
    let repeats = &route.repeats;
    let best = repeats.best();
    let (answered, ttl_s) = (repeats.answered[best], KEPT_S[best]);
    let cached = config.routes.get(name).is_some_and(|route| route.cache.is_some());
    if answered == 0 || repeats.seen < REQUESTS_MIN || cached {
        return;
    }
    let sampled = match repeats.samples {
        0 => "",
        // Whoever asks for a random answer gets one, unless the route says that any will do.
        _ => ", sampled: true",
    };
    findings.push(finding(
        "repeated_requests",
        name,
        format!(
            "{} of the requests ask what was asked less than {ttl_s} s before ({answered} of {} that were looked at): about \
             {} USD",
            percent(share(answered, repeats.seen)),
            repeats.seen,
            Usd::from_nanos(repeats.scaled(repeats.saved[best], route.requests))
        ),
        format!("a cache would have answered them: `ai.routes.{name}.cache: {{ ttl_s: {ttl_s}{sampled} }}`"),
    ));
}

/// What a longer time would add to a cache that there is.
fn kept_longer(name: &str, route: &RouteUse, config: &AiConfig, findings: &mut Vec<Finding>) {
    let Some(cache) = config.routes.get(name).and_then(|route| route.cache.as_ref()) else { return };
    let repeats = &route.repeats;
    let best = repeats.best();
    let has = KEPT_S
        .iter()
        .rposition(|seconds| u64::try_from(*seconds).is_ok_and(|seconds| seconds <= cache.ttl_s));
    let now = has.map_or(0, |at| repeats.answered[at]);
    let more = repeats.answered[best].saturating_sub(now);
    if repeats.seen < REQUESTS_MIN
        || u64::try_from(KEPT_S[best]).unwrap_or(0) <= cache.ttl_s
        || more * 50 < repeats.seen
    {
        return;
    }
    findings.push(finding(
        "kept_too_short",
        name,
        format!(
            "{} more of its requests repeat within {} s than within the {} s for which replies are kept",
            percent(share(more, repeats.seen)),
            KEPT_S[best],
            cache.ttl_s
        ),
        format!("if answers stay right for so long: `ai.routes.{name}.cache.ttl_s: {}`", KEPT_S[best]),
    ));
}

fn prompt_cache(name: &str, route: &RouteUse, findings: &mut Vec<Finding>) {
    for ((provider, model), measured) in &route.models {
        let read = share(measured.tokens.cache_read, measured.tokens.prompt());
        if measured.requests < REQUESTS_MIN || measured.long_prompts * 2 < measured.requests || read >= 100 {
            continue;
        }
        findings.push(finding(
            "prompt_cache_unused",
            name,
            format!(
                "{} of {} prompts to `{provider}/{model}` are long enough for its prompt cache, which gave {} of their \
                 tokens",
                measured.long_prompts,
                measured.requests,
                percent(read)
            ),
            "put what stays the same first in the prompt, and mark it with `cache_control` for Anthropic".into(),
        ));
    }
}

fn batches(name: &str, route: &RouteUse, findings: &mut Vec<Finding>) {
    for ((provider, model), measured) in &route.models {
        let saved = measured.plain_cost - measured.batch_cost;
        if !measured.batchable || measured.plain < REQUESTS_MIN || saved <= 0 {
            continue;
        }
        findings.push(finding(
            "batchable",
            name,
            format!(
                "{} of {} requests to `{provider}/{model}` were not streamed; through batches they would have cost {} \
                 instead of {} USD",
                measured.plain,
                measured.requests,
                Usd::from_nanos(measured.batch_cost),
                Usd::from_nanos(measured.plain_cost)
            ),
            "this is the most that batches can save: send those through `/v1/batches` that nobody waits for".into(),
        ));
    }
}
