//! What is configured and how it does: models, routes, a real call to each target.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use contract::{Context, Effect, Error, ErrorKind, Evidence, Finding, Outcome, Request, Severity};
use futures::StreamExt as _;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::catalog::Catalog;
use crate::config::{AiConfig, ProviderConfig};
use crate::hit_rate::{self, HitRate};
use crate::key::VirtualKey;
use crate::pool::ProviderKey;
use crate::price::PriceTable;
use crate::probe::{Probe, probe};
use crate::rotate::CanaryAnswer;
use crate::states::{About, State};
use crate::table::{Project, Reach, Target};

/// Targets that are tested at the same time.
const TESTED_AT_ONCE: usize = 8;

/// Lists the models that can be asked for, with their providers and prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListModels {
    /// Only what this virtual key may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Only models of this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

impl Request for ListModels {
    const NAME: &'static str = "ai.models";
    const SUMMARY: &'static str = "List the models that can be asked for, with their prices";
    const EXAMPLE: &'static str = "steward ai models --key checkout";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Shows routes with their targets, and how their breakers and keys do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListRoutes {
    /// Only this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

impl Request for ListRoutes {
    const NAME: &'static str = "ai.routes";
    const SUMMARY: &'static str = "Show routes, their targets, and the states of breakers and keys";
    const EXAMPLE: &'static str = "steward ai routes";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &["route"];
}

/// Makes a small real call to each target and tells how long it took. It may cost a fraction of a cent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestTargets {
    /// Only targets of this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only targets of this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

impl Request for TestTargets {
    const NAME: &'static str = "ai.test";
    const SUMMARY: &'static str = "Call each target once, with every key, and tell how long it took";
    const EXAMPLE: &'static str = "steward ai test fast";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.call";
    const POSITIONAL: &'static [&'static str] = &["route"];
}

/// Finds keys and secrets in files that should not hold them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanPath {
    /// File or folder. Default: the project's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl Request for ScanPath {
    const NAME: &'static str = "ai.scan";
    const SUMMARY: &'static str = "Find exposed keys and secrets in files, logs and what Git keeps";
    const EXAMPLE: &'static str = "steward ai scan .";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "key.read";
    const POSITIONAL: &'static [&'static str] = &["path"];
}

/// What a provider's model costs: the row of the price table, and a line for people. Own prices name the provider, the
/// built-in ones its kind.
fn price(
    prices: &PriceTable,
    provider: &str,
    kind: &str,
    model: &str,
    at: Timestamp,
) -> Option<(Value, String)> {
    let found = prices.find(provider, model).or_else(|| prices.find(kind, model))?;
    let of_period = found.prices_at(at);
    let rates = &of_period.standard;
    let mut text = format!("${} in, ${} out per million tokens", rates.input, rates.output);
    if let Some(tokens) = found.context_tokens {
        write!(text, "; window {tokens}").expect("writing to a string");
    }
    if let Some(tokens) = found.output_tokens_max {
        write!(text, ", answer {tokens}").expect("writing to a string");
    }
    let value = json!({
        "row": found.row(of_period), "source": prices.source_of(&found), "usd_per_million_tokens": rates,
        "context_tokens": found.context_tokens, "output_tokens_max": found.output_tokens_max,
        "retires": found.retires, "successor": found.successor,
    });
    Some((value, text))
}

fn unknown(what: &str, name: &str, known: impl Iterator<Item = String>) -> Error {
    let known: Vec<String> = known.collect();
    let hint = if known.is_empty() {
        format!("the project file has no {what}s under `ai`")
    } else {
        format!("there are: {}", known.join(", "))
    };
    Error::new(ErrorKind::NotFound, format!("there is no {what} `{name}`")).hint(hint)
}

/// The models that are configured, with their prices now; with a key, those that it may call.
///
/// # Errors
///
/// `NotFound`: the provider.
pub fn models(
    config: &AiConfig,
    request: &ListModels,
    key: Option<(&VirtualKey, &Reach)>,
    prices: &Arc<PriceTable>,
    at: Timestamp,
) -> Result<Outcome, Error> {
    let catalog = Catalog::new(Arc::clone(prices), at);
    if let Some(provider) = &request.provider
        && !config.providers.contains_key(provider)
    {
        return Err(unknown("provider", provider, config.providers.keys().cloned()));
    }
    let wanted = |provider: &str| request.provider.as_deref().is_none_or(|wanted| wanted == provider);
    let allowed = |name: &str| key.is_none_or(|(_, reach)| reach.allows(name));
    let mut models: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    for (name, provider) in &config.providers {
        for model in provider.models.iter().flatten() {
            if wanted(name) && allowed(&format!("{name}/{model}")) {
                models.entry((name.clone(), model.clone())).or_default();
            }
        }
    }
    let mut routes = Vec::new();
    for (name, route) in &config.routes {
        let targets: Vec<_> = route.targets.iter().filter(|target| wanted(&target.provider)).collect();
        if !allowed(name) || targets.is_empty() {
            continue;
        }
        routes.push(name.clone());
        for target in targets {
            let model = (target.provider.clone(), target.model.clone());
            models.entry(model).or_default().insert(name);
        }
    }
    let mut text = String::new();
    let mut list = Vec::new();
    for ((provider, model), by) in &models {
        let kind = config.providers.get(provider).map_or("", |provider| provider.kind.as_str());
        let follows = config.providers.get(provider).is_some_and(ProviderConfig::follows_successors);
        let sent = catalog.find(provider, kind, follows, model);
        let (price, cost) = price(prices, provider, kind, &sent.model, at).unzip();
        let by: Vec<&str> = by.iter().copied().collect();
        let how = if by.is_empty() { "by itself".to_owned() } else { format!("by {}", by.join(", ")) };
        let mut cost = cost.unwrap_or_else(|| "no price is known".to_owned());
        if let Some(retired) = &sent.retired {
            cost = if sent.is_gone {
                format!("served no longer since {}, without a successor", retired.since)
            } else {
                format!("served no longer since {}; `{}` answers: {cost}", retired.since, sent.model)
            };
        }
        writeln!(text, "{:<40}  {how:<20}  {cost}", format!("{provider}/{model}"))
            .expect("writing to a string");
        list.push(json!({
            "provider": provider, "kind": kind, "model": model, "routes": by, "price": price,
            "retired": sent.retired.map(|retired| retired.since), "sent": (!sent.is_gone).then_some(&*sent.model),
            "direct": allowed(&format!("{provider}/{model}")),
        }));
    }
    // Providers that list nothing answer for any model that they have.
    for (name, provider) in config.providers.iter().filter(|(name, _)| wanted(name)) {
        if provider.models.is_none() && key.is_none_or(|(key, _)| key.names_provider(name)) {
            writeln!(text, "{:<40}  by itself", format!("{name}/…")).expect("writing to a string");
        }
    }
    if text.is_empty() {
        text.push_str(match key {
            Some(_) => "this key may call nothing",
            None => "no models; `ai.providers` and `ai.routes` in steward.yaml name them",
        });
    }
    Ok(Outcome::new(json!({ "models": list, "routes": routes }), text.trim_end()))
}

/// Routes with what is known of their targets: from a daemon, or, where none runs, from the vault.
///
/// # Errors
///
/// `NotFound`: the route.
pub fn routes(
    config: &AiConfig,
    request: &ListRoutes,
    states: &BTreeMap<About, State>,
    serves: Option<&str>,
    rates: &[HitRate],
) -> Result<Outcome, Error> {
    if let Some(route) = &request.route
        && !config.routes.contains_key(route)
    {
        return Err(unknown("route", route, config.routes.keys().cloned()));
    }
    let state = |kind: &str, name: &str| {
        states.get(&About { kind: kind.to_owned(), name: name.to_owned() }).map(|state| &state.state)
    };
    let mut text = String::new();
    let mut list = Vec::new();
    for (name, route) in &config.routes {
        if request.route.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        writeln!(text, "{name}").expect("writing to a string");
        let mut targets: Vec<_> = route.targets.iter().collect();
        targets.sort_by_key(|target| target.priority);
        let mut rows = Vec::new();
        for target in targets {
            let keys = keys_of(states, &target.provider);
            let breaker = state("target", &format!("{}/{}", target.provider, target.model));
            let shown =
                breaker.map_or("not in service", |state| state["breaker"].as_str().unwrap_or("unknown"));
            writeln!(
                text,
                "  {}. {:<36} weight {:<3} breaker {shown}",
                target.priority,
                format!("{}/{}", target.provider, target.model),
                target.weight
            )
            .expect("writing to a string");
            rows.push(json!({
                "provider": target.provider, "model": target.model, "weight": target.weight,
                "priority": target.priority, "state": breaker, "keys": keys,
            }));
        }
        let rate = rates.iter().find(|rate| rate.route == *name);
        if let Some(cache) = &route.cache {
            writeln!(text, "  replies are kept for {} s", cache.ttl_s).expect("writing to a string");
            for line in hit_rate::lines(rate.map(std::slice::from_ref).unwrap_or_default()).lines() {
                writeln!(text, "  this month, {line}").expect("writing to a string");
            }
        }
        if let Some(store) = route.store_prompts {
            writeln!(text, "  prompts are stored for {} days", store.retention_days)
                .expect("writing to a string");
        }
        list.push(json!({
            "route": name, "targets": rows, "attempts": route.retry.attempts, "cache": rate,
            "cache_ttl_s": route.cache.as_ref().map(|cache| cache.ttl_s),
            "store_prompts_days": route.store_prompts.map(|store| store.retention_days),
        }));
    }
    if list.is_empty() {
        text.push_str("no routes; `ai.routes` in steward.yaml names them\n");
    }
    text.push_str(&key_lines(states));
    if let Some(error) = state("table", "").and_then(|state| state["error"].as_str()) {
        writeln!(text, "the daemon goes on with what it knew before: {error}").expect("writing to a string");
    }
    match serves {
        Some(pid) => writeln!(text, "a daemon serves, pid {pid}"),
        None => writeln!(text, "no daemon serves; `steward up` starts one"),
    }
    .expect("writing to a string");
    let providers: BTreeMap<&String, Vec<Value>> =
        config.providers.keys().map(|provider| (provider, keys_of(states, provider))).collect();
    let mut outcome = Outcome::new(
        json!({ "routes": list, "providers": providers, "daemon": serves, "table": state("table", "") }),
        text.trim_end(),
    );
    outcome.findings = findings(states);
    outcome.findings.extend(hit_rate::findings(rates));
    Ok(outcome)
}

/// The keys of a provider with their states.
fn keys_of(states: &BTreeMap<About, State>, provider: &str) -> Vec<Value> {
    let mut keys = Vec::new();
    for (about, state) in states {
        if about.kind == "key"
            && let Some((of, secret)) = about.name.split_once(':')
            && of == provider
        {
            let mut value = state.state.clone();
            value["key"] = json!(secret.split('@').next());
            keys.push(value);
        }
    }
    keys
}

/// A line for each provider key.
pub fn key_lines(states: &BTreeMap<About, State>) -> String {
    let mut text = String::new();
    for (about, state) in states.iter().filter(|(about, _)| about.kind == "key") {
        let (provider, secret) = about.name.split_once(':').unwrap_or(("", &about.name));
        let mut line =
            format!("{provider:<16}  {secret:<28}  {}", state.state["state"].as_str().unwrap_or("unknown"));
        if let Some(until) = state.state["until"].as_str() {
            write!(line, " until {until}").expect("writing to a string");
        }
        if let Some(reason) = state.state["reason"].as_str() {
            write!(line, ": {reason}").expect("writing to a string");
        }
        text.push_str(&line);
        text.push('\n');
    }
    if text.is_empty() { text } else { format!("provider keys\n{text}") }
}

/// Keys that cannot serve, and targets that are not asked.
fn findings(states: &BTreeMap<About, State>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (about, state) in states {
        let said = |name: &str| state.state[name].as_str().unwrap_or_default();
        let (code, title) = match (about.kind.as_str(), said("state"), said("breaker")) {
            ("key", word @ ("demoted" | "missing"), _) => {
                ("provider_key", format!("the key {} is {word}: {}", about.name, said("reason")))
            }
            ("target", _, "open") => {
                ("target_down", format!("{} is not asked, since it failed again and again", about.name))
            }
            _ => continue,
        };
        findings.push(Finding {
            code: code.into(),
            severity: Severity::Warning,
            title,
            object: about.name.clone(),
            recommendation: None,
            evidence: Vec::new(),
            escalate: None,
        });
    }
    findings
}

/// Calls each target once with each key of its provider.
///
/// # Errors
///
/// `NotFound`: the route or provider. A target that fails is a finding.
pub async fn test(ctx: &Context, project: &Project, request: &TestTargets) -> Result<Outcome, Error> {
    if let Some(route) = &request.route
        && !project.routes().any(|known| *known.name == **route)
    {
        return Err(unknown("route", route, project.routes().map(|route| route.name.to_string())));
    }
    if let Some(provider) = &request.provider
        && project.provider(provider).is_none()
    {
        return Err(unknown("provider", provider, project.providers().map(|known| known.name.to_string())));
    }
    let mut targets = BTreeMap::new();
    for route in project.routes() {
        if request.route.as_ref().is_some_and(|wanted| *route.name != **wanted) {
            continue;
        }
        for target in &route.targets {
            if request.provider.as_ref().is_none_or(|wanted| *target.provider.name == **wanted) {
                targets
                    .insert((target.provider.name.to_string(), target.model.to_string()), Arc::clone(target));
            }
        }
    }
    let now = ctx.now();
    let mut calls = Vec::new();
    for target in targets.values() {
        let keys = target.provider.pool.keys();
        calls.extend(keys.iter().map(|key| call(Arc::clone(target), Some(Arc::clone(key)), now)));
        if keys.is_empty() {
            calls.push(call(Arc::clone(target), None, now));
        }
    }
    let began = Instant::now();
    let results = futures::stream::iter(calls).buffered(TESTED_AT_ONCE).collect::<Vec<_>>();
    let results = ctx.run(async { Ok(results.await) }).await?;
    let mut text = String::new();
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (name, key, answer) in results {
        let with = if key.is_empty() { "no key".to_owned() } else { key.clone() };
        let (line, row) = match &answer {
            Ok(answer) => {
                let ms = u64::try_from(answer.elapsed.as_millis()).unwrap_or(u64::MAX);
                (
                    format!("{} in {ms} ms ({})", answer.status, answer.what),
                    json!({ "target": name, "key": key, "status": answer.status, "elapsed_ms": ms, "called": answer.what }),
                )
            }
            Err(reason) => {
                failed.push((name.clone(), with.clone(), reason.clone()));
                (format!("failed: {reason}"), json!({ "target": name, "key": key, "error": reason }))
            }
        };
        writeln!(text, "{name:<40}  {with:<24}  {line}").expect("writing to a string");
        rows.push(row);
    }
    if rows.is_empty() {
        text.push_str("no targets to test\n");
    }
    let evidence = Evidence::new(
        "ai",
        "one small call to each target",
        json!({ "calls": rows }),
        ctx.now(),
        began.elapsed().as_secs_f64() * 1e3,
    );
    let mut outcome = Outcome::new(json!({ "calls": rows }), text.trim_end());
    outcome.findings = failed
        .into_iter()
        .map(|(target, key, reason)| Finding {
            code: "target_failed".into(),
            severity: Severity::Warning,
            title: format!("{target} with {key}: {reason}"),
            object: format!("{target} {key}"),
            recommendation: Some("`steward ai routes` shows the states of keys and breakers".into()),
            evidence: vec![evidence.id.clone()],
            escalate: None,
        })
        .collect();
    outcome.evidence.push(evidence);
    Ok(outcome)
}

/// One call: the target's name, the key's, and what came.
async fn call(
    target: Arc<Target>,
    key: Option<Arc<ProviderKey>>,
    now: Timestamp,
) -> (String, String, Result<CanaryAnswer, String>) {
    let name = format!("{}/{}", target.provider.name, target.model);
    let Some(key) = key else {
        return (name, String::new(), Err("none of the provider's keys can be read".to_owned()));
    };
    let call = Probe {
        provider: &target.provider,
        upstream: &target.upstream,
        model: Some(&target.model),
        key: key.secret(),
    };
    let answer =
        probe(&call, now).await.map_err(|failure| format!("{}: {}", failure.class.as_str(), failure.message));
    (name, key.name().to_string(), answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_listed_with_their_windows_and_with_who_took_their_place() {
        let config: AiConfig = serde_saphyr::from_str(
            "
providers: { openai: { kind: openai }, own: { kind: openai, url: 'http://127.0.0.1:1' } }
routes:
  fast: { targets: [{ provider: openai, model: gpt-4o-mini }, { provider: own, model: gpt-4-32k }] }
  old: { targets: [{ provider: openai, model: gpt-4-32k }, { provider: openai, model: text-davinci-003 }] }
",
        )
        .unwrap();
        let prices = Arc::new(PriceTable::built_in());
        let request = ListModels { key: None, provider: None };
        let at = "2026-11-23T10:00:00Z".parse().unwrap();
        let outcome = models(&config, &request, None, &prices, at).unwrap();
        let line = |start: &str| {
            let line = outcome.text.lines().find(|line| line.starts_with(start)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            line("openai/gpt-4o-mini "),
            "openai/gpt-4o-mini by fast $0.15 in, $0.60 out per million tokens; window 128000, answer 16384"
        );
        assert!(
            line("openai/gpt-4-32k ").contains("served no longer since 2025-06-06; `gpt-4.1` answers: $2")
        );
        assert!(
            line("openai/text-davinci-003 ")
                .ends_with("served no longer since 2024-01-04, without a successor")
        );
        assert_eq!(line("own/gpt-4-32k "), "own/gpt-4-32k by fast no price is known");
        let found = outcome.value["models"].as_array().unwrap();
        let mini = found.iter().find(|model| model["model"] == "gpt-4o-mini").unwrap();
        assert_eq!(mini["price"]["context_tokens"], 128_000);
        assert_eq!(mini["price"]["output_tokens_max"], 16_384);
        assert!(mini["price"]["source"].as_str().unwrap().contains("https://"));
    }
}
