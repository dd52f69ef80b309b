//! What the gateway measures, for Prometheus.
//!
//! Names are those of the OpenTelemetry semantic conventions for generative AI where they have one (`gen_ai.*`, written
//! with underscores and units as Prometheus wants them), and so are the words for providers (`gcp.gemini`); the rest
//! begins with `steward_ai_`.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use tokio::time::Instant;

use crate::accounts::Accounts;
use crate::meter::{CacheDecision, Ending, Settlement};
use crate::semantic::Checks;
use crate::spans::provider_name;
use crate::table::{Route, Table};
use crate::transcript::Fates;
use crate::usage::UsageRow;
use crate::usd::Usd;

/// Bounds of the convention for durations, in seconds.
/// Source: OpenTelemetry semantic conventions, `gen_ai.client.operation.duration`.
const DURATION_BOUNDS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// Bounds of the convention for tokens.
/// Source: OpenTelemetry semantic conventions, `gen_ai.client.token.usage`.
const TOKEN_BOUNDS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// Bounds of the convention for the first token, in seconds.
/// Source: OpenTelemetry semantic conventions, `gen_ai.server.time_to_first_token`.
const FIRST_TOKEN_BOUNDS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Bounds of the convention for each further token, in seconds.
/// Source: OpenTelemetry semantic conventions, `gen_ai.server.time_per_output_token`.
const PER_TOKEN_BOUNDS: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// Bounds for the time that the gateway itself takes, in seconds.
const OVERHEAD_BOUNDS: [f64; 10] =
    [0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.02, 0.1];
/// Combinations of labels that are told apart; what comes after is counted under `other`.
const SERIES_MAX: usize = 2_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    steward_project: String,
    steward_route: String,
    gen_ai_operation_name: String,
    gen_ai_provider_name: String,
    gen_ai_request_model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    steward_project: String,
    steward_route: String,
    gen_ai_operation_name: String,
    gen_ai_provider_name: String,
    gen_ai_request_model: String,
    /// Empty where nothing failed, which Prometheus takes for absent.
    error_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    steward_project: String,
    steward_route: String,
    gen_ai_operation_name: String,
    gen_ai_provider_name: String,
    gen_ai_request_model: String,
    gen_ai_token_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    steward_project: String,
    steward_route: String,
    ending: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    steward_project: String,
    gen_ai_provider_name: String,
    gen_ai_request_model: String,
    error_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    steward_project: String,
    steward_route: String,
    decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    steward_project: String,
    steward_route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    steward_project: String,
    /// The provider's name in the project.
    steward_provider: String,
    key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    steward_project: String,
    budget: String,
    scope: &'static str,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabels {
    steward_project: String,
    steward_route: String,
    /// The provider's name in the project.
    steward_provider: String,
    gen_ai_request_model: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of a combination of labels, found with one look.
struct Series {
    duration: Histogram,
    first_chunk: Histogram,
    first_token: Histogram,
    per_token: Histogram,
    overhead: Histogram,
    input: Histogram,
    output: Histogram,
    cache_read: Counter,
    spent: Counter<f64, AtomicU64>,
}

/// The ending of a request that was refused before anybody was asked: it has no receipt, only this count.
pub(crate) const REFUSED: &str = "refused";

/// How requests ended; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Ends(Arc<EndsInner>);

#[derive(Default)]
struct EndsInner {
    hasher: RandomState,
    known: RwLock<HashMap<u64, Counter>>,
    requests: Family<EndLabels, Counter>,
}

impl Ends {
    /// Counts one.
    pub(crate) fn count(&self, project: &str, route: &str, ending: &'static str, status: u16) {
        let id = self.0.hasher.hash_one((project, route, ending, status));
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = known.get(&id) {
            counter.inc();
            return;
        }
        let full = known.len() >= SERIES_MAX;
        drop(known);
        let (project, route) = if full { ("other", "other") } else { (project, route) };
        let labels = EndLabels {
            steward_project: project.to_owned(),
            steward_route: route.to_owned(),
            ending,
            status,
        };
        let counter = self.0.requests.get_or_create(&labels).clone();
        counter.inc();
        if !full {
            self.0.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, counter);
        }
    }
}

/// All metrics of the gateway.
pub struct Metrics {
    registry: Registry,
    hasher: RandomState,
    series: RwLock<HashMap<u64, Arc<Series>>>,
    pub(crate) ends: Ends,
    /// Of the operation as the provider's client, and of the request as the client's server: one and the same here.
    duration: Histograms<DurationLabels>,
    first_chunk: Histograms<Labels>,
    first_token: Histograms<Labels>,
    per_token: Histograms<Labels>,
    overhead: Histograms<Labels>,
    tokens: Histograms<TokenLabels>,
    cache_read: Family<Labels, Counter>,
    /// In dollars, to be looked at; what is accounted for is counted in whole nano-dollars elsewhere.
    spent: Family<Labels, Counter<f64, AtomicU64>>,
    attempts: Family<AttemptLabels, Counter>,
    cache: Family<CacheLabels, Counter>,
    pub(crate) prompts: Fates,
    pub(crate) cache_checks: Checks,
    keys: Family<KeyLabels, Gauge>,
    breakers: Family<TargetLabels, Gauge>,
    hit_rates: Family<RouteLabels, Gauge<f64, AtomicU64>>,
    hit_rate_objectives: Family<RouteLabels, Gauge<f64, AtomicU64>>,
    budgets: Family<BudgetLabels, Gauge<f64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(DURATION_BOUNDS);
        let first_token: fn() -> Histogram = || Histogram::new(FIRST_TOKEN_BOUNDS);
        let per_token: fn() -> Histogram = || Histogram::new(PER_TOKEN_BOUNDS);
        let overhead: fn() -> Histogram = || Histogram::new(OVERHEAD_BOUNDS);
        let tokens: fn() -> Histogram = || Histogram::new(TOKEN_BOUNDS);
        let mut metrics = Self {
            registry: Registry::default(),
            hasher: RandomState::new(),
            series: RwLock::default(),
            ends: Ends::default(),
            duration: Family::new_with_constructor(seconds),
            first_chunk: Family::new_with_constructor(seconds),
            first_token: Family::new_with_constructor(first_token),
            per_token: Family::new_with_constructor(per_token),
            overhead: Family::new_with_constructor(overhead),
            tokens: Family::new_with_constructor(tokens),
            cache_read: Family::default(),
            spent: Family::default(),
            attempts: Family::default(),
            cache: Family::default(),
            prompts: Family::default(),
            cache_checks: Family::default(),
            keys: Family::default(),
            breakers: Family::default(),
            hit_rates: Family::default(),
            hit_rate_objectives: Family::default(),
            budgets: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register_with_unit(
            "gen_ai_client_operation_duration",
            "Time from a request until the end of its answer, or until it had failed",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register_with_unit(
            "gen_ai_server_request_duration",
            "The same as this gateway's clients see it",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register_with_unit(
            "gen_ai_client_operation_time_to_first_chunk",
            "Time from a request for a stream until the first byte of its answer",
            Unit::Seconds,
            self.first_chunk.clone(),
        );
        registry.register_with_unit(
            "gen_ai_server_time_to_first_token",
            "Time from a request for a stream until its first event was handed on",
            Unit::Seconds,
            self.first_token.clone(),
        );
        registry.register_with_unit(
            "gen_ai_server_time_per_output_token",
            "Time for each token of a stream after its first event, on average over the answer",
            Unit::Seconds,
            self.per_token.clone(),
        );
        registry.register("gen_ai_client_token_usage", "Tokens of a request", self.tokens.clone());
        registry.register_with_unit(
            "steward_ai_overhead",
            "Part of the time until the first byte that was not spent waiting for a provider",
            Unit::Seconds,
            self.overhead.clone(),
        );
        registry.register(
            "steward_ai_cache_read_tokens",
            "Tokens that providers read from their prompt caches",
            self.cache_read.clone(),
        );
        registry.register("steward_ai_spend_usd", "What requests cost, in US dollars", self.spent.clone());
        registry.register(
            "steward_ai_requests",
            "Requests by the status that the client got and how they ended; `refused`: nobody was asked",
            self.ends.0.requests.clone(),
        );
        registry.register(
            "steward_ai_failed_attempts",
            "Attempts at providers that failed, by what failed",
            self.attempts.clone(),
        );
        registry.register("steward_ai_cache", "What the cache decided", self.cache.clone());
        registry.register(
            "steward_ai_cache_checks",
            "Answers to a question in other words that were asked for once more, by whether both agree",
            self.cache_checks.clone(),
        );
        registry.register(
            "steward_ai_prompts",
            "Prompts of routes that store them: stored, dropped because too many waited, failed to be written",
            self.prompts.clone(),
        );
        registry.register(
            "steward_ai_cache_hit_rate",
            "Share of lookups that the cache of a route answered since the start",
            self.hit_rates.clone(),
        );
        registry.register(
            "steward_ai_cache_hit_rate_objective",
            "Share of lookups that the cache of a route is meant to answer",
            self.hit_rate_objectives.clone(),
        );
        registry.register(
            "steward_ai_key_ready",
            "1: the provider's key is in use; 0: it rests or was demoted",
            self.keys.clone(),
        );
        registry.register(
            "steward_ai_target_ready",
            "1: the target is asked; 0: its circuit breaker is open",
            self.breakers.clone(),
        );
        registry.register(
            "steward_ai_budget_remaining_usd",
            "What is left of a budget in its period, in US dollars",
            self.budgets.clone(),
        );
    }

    /// Counts a request that has ended, with what it cost.
    pub fn observe(&self, project: &str, settlement: &Settlement, cost: Usd) {
        let route: &str = &settlement.route.name;
        for attempt in &settlement.attempts {
            // Successes are counted with their request; failures are rare.
            if let Some(failure) = attempt.failure {
                self.attempts
                    .get_or_create(&AttemptLabels {
                        steward_project: project.to_owned(),
                        gen_ai_provider_name: provider_name(attempt.target.provider.kind.as_str()).to_owned(),
                        gen_ai_request_model: attempt.target.model.to_string(),
                        error_type: failure.as_str(),
                    })
                    .inc();
            }
        }
        self.ends.count(project, route, settlement.ending.as_str(), settlement.status);
        if settlement.cache != CacheDecision::Off {
            self.cache
                .get_or_create(&CacheLabels {
                    steward_project: project.to_owned(),
                    steward_route: route.to_owned(),
                    decision: settlement.cache.as_str(),
                })
                .inc();
        }
        // Who answered, or was asked last in vain; where nobody was asked there was no operation.
        let Some(attempt) = settlement.attempts.last() else { return };
        let served = settlement.served_by().is_some();
        let error = match (settlement.ending, attempt.failure) {
            (Ending::Complete, _) => "",
            (_, Some(failure)) => failure.as_str(),
            (ending, None) => ending.as_str(),
        };
        let labels = [
            project,
            route,
            settlement.what.as_str(),
            provider_name(attempt.target.provider.kind.as_str()),
            &attempt.target.model,
        ];
        let series = self.series(labels, error);
        series.duration.observe(settlement.duration.as_secs_f64());
        if !served {
            if cost != Usd::default() {
                series.spent.inc_by(dollars(cost)); // Attempts that were cut off.
            }
            return;
        }
        if let Some(first) = settlement.first_byte {
            if settlement.streaming {
                series.first_chunk.observe(first.as_secs_f64());
                series.first_token.observe(first.as_secs_f64());
                let tokens = settlement.usage.map_or(0, |usage| usage.completion());
                if tokens > 1 && error.is_empty() {
                    let rest = settlement.duration.saturating_sub(first).as_secs_f64();
                    series.per_token.observe(rest / whole(tokens - 1));
                }
            }
            series.overhead.observe(first.saturating_sub(settlement.waited).as_secs_f64());
        }
        series.spent.inc_by(dollars(cost));
        if let Some(usage) = settlement.usage {
            series.input.observe(whole(usage.prompt()));
            series.output.observe(whole(usage.completion()));
            if usage.cache_read > 0 {
                series.cache_read.inc_by(usage.cache_read);
            }
        }
    }

    /// Counts a part of a job that has ended: its tokens at once, and what it cost. `kind` is the provider's.
    pub(crate) fn observe_job(&self, row: &UsageRow, kind: &str) {
        let kind = provider_name(kind);
        let series = self.series([&row.project, &row.route, row.operation, kind, &row.model], "");
        series.spent.inc_by(dollars(row.cost));
        if row.estimated == 0 {
            series.input.observe(whole(row.usage.prompt()));
            series.output.observe(whole(row.usage.completion()));
            if row.usage.cache_read > 0 {
                series.cache_read.inc_by(row.usage.cache_read);
            }
        }
    }

    fn series(&self, labels: [&str; 5], error_type: &'static str) -> Arc<Series> {
        let id = self.hasher.hash_one((labels, error_type));
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&id) {
            return Arc::clone(series);
        }
        let full = known.len() >= SERIES_MAX;
        drop(known);
        let [project, route, operation, provider, model] = if full { ["other"; 5] } else { labels };
        let id = if full { self.hasher.hash_one((["other"; 5], error_type)) } else { id };
        let labels = Labels {
            steward_project: project.to_owned(),
            steward_route: route.to_owned(),
            gen_ai_operation_name: operation.to_owned(),
            gen_ai_provider_name: provider.to_owned(),
            gen_ai_request_model: model.to_owned(),
        };
        let tokens = |kind| {
            let labels = labels.clone();
            self.tokens
                .get_or_create(&TokenLabels {
                    steward_project: labels.steward_project,
                    steward_route: labels.steward_route,
                    gen_ai_operation_name: labels.gen_ai_operation_name,
                    gen_ai_provider_name: labels.gen_ai_provider_name,
                    gen_ai_request_model: labels.gen_ai_request_model,
                    gen_ai_token_type: kind,
                })
                .clone()
        };
        let timed = DurationLabels {
            steward_project: labels.steward_project.clone(),
            steward_route: labels.steward_route.clone(),
            gen_ai_operation_name: labels.gen_ai_operation_name.clone(),
            gen_ai_provider_name: labels.gen_ai_provider_name.clone(),
            gen_ai_request_model: labels.gen_ai_request_model.clone(),
            error_type,
        };
        let series = Arc::new(Series {
            duration: self.duration.get_or_create(&timed).clone(),
            first_chunk: self.first_chunk.get_or_create(&labels).clone(),
            first_token: self.first_token.get_or_create(&labels).clone(),
            per_token: self.per_token.get_or_create(&labels).clone(),
            overhead: self.overhead.get_or_create(&labels).clone(),
            input: tokens("input"),
            output: tokens("output"),
            cache_read: self.cache_read.get_or_create(&labels).clone(),
            spent: self.spent.get_or_create(&labels).clone(),
        });
        let mut known = self.series.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(id).or_insert(series))
    }

    /// Everything of one project as Prometheus reads it (OpenMetrics text), with the present state of keys, targets and
    /// budgets. Nothing of another project is in it.
    pub fn text(&self, project: &str, table: &Table, accounts: &Accounts, now: Instant) -> String {
        let all = self.all(table, accounts, now);
        let mut label = String::from("steward_project=\"");
        label.push_str(project); // A project's name needs no escape.
        label.push('"');
        all.split_inclusive('\n').filter(|line| line.starts_with('#') || line.contains(&label)).collect()
    }

    /// How often the cache of a route answered since the start, and how often it is meant to.
    fn hit_rate(&self, project: &str, route: &Route) {
        let Some(cache) = &route.config.cache else { return };
        let count = |decision: CacheDecision| {
            let labels = CacheLabels {
                steward_project: project.to_owned(),
                steward_route: route.name.to_string(),
                decision: decision.as_str(),
            };
            self.cache.get_or_create(&labels).get()
        };
        let labels =
            RouteLabels { steward_project: project.to_owned(), steward_route: route.name.to_string() };
        let found = count(CacheDecision::Hit) + count(CacheDecision::Semantic);
        let lookups = found + count(CacheDecision::Miss);
        if lookups > 0 {
            self.hit_rates.get_or_create(&labels).set(whole(found) / whole(lookups));
        }
        if let Some(objective) = cache.objective_hit_rate {
            self.hit_rate_objectives.get_or_create(&labels).set(objective);
        }
    }

    fn all(&self, table: &Table, accounts: &Accounts, now: Instant) -> String {
        self.keys.clear();
        self.breakers.clear();
        self.budgets.clear();
        self.hit_rates.clear();
        self.hit_rate_objectives.clear();
        for project in table.projects() {
            for provider in project.providers() {
                for key in provider.pool.keys() {
                    if key.name().is_empty() {
                        continue;
                    }
                    let labels = KeyLabels {
                        steward_project: project.name.to_string(),
                        steward_provider: provider.name.to_string(),
                        key: key.name().to_string(),
                    };
                    self.keys.get_or_create(&labels).set(i64::from(key.rests(now).is_none()));
                }
            }
            for standing in accounts.standings(&project.name) {
                let left =
                    i64::max(0, standing.limit.nanos() - standing.spent.nanos() - standing.in_flight.nanos());
                let labels = BudgetLabels {
                    steward_project: standing.project,
                    budget: standing.budget,
                    scope: standing.scope,
                    value: standing.value,
                };
                self.budgets.get_or_create(&labels).set(dollars(Usd::from_nanos(left)));
            }
            for route in project.routes() {
                self.hit_rate(&project.name, route);
                for target in &route.targets {
                    let labels = TargetLabels {
                        steward_project: project.name.to_string(),
                        steward_route: route.name.to_string(),
                        steward_provider: target.provider.name.to_string(),
                        gen_ai_request_model: target.model.to_string(),
                    };
                    self.breakers
                        .get_or_create(&labels)
                        .set(i64::from(target.breaker.open_until(now).is_none()));
                }
            }
        }
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("text is written to memory");
        out
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
fn dollars(amount: Usd) -> f64 {
    amount.nanos() as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "more than 2^52 tokens are no request")]
fn whole(tokens: u64) -> f64 {
    tokens as f64
}
