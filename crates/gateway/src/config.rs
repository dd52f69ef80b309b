//! The key `ai` of `steward.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use contract::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use url::Url;
use wire::Format;

use crate::Usd;

/// Providers, routes, budgets and limits of the AI gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AiConfig {
    /// Services that answer, by name.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Names that clients use as `model`, each with its targets.
    pub routes: BTreeMap<String, RouteConfig>,
    /// Other AI services that are forwarded as they are, by name.
    pub pass_through: BTreeMap<String, PassThroughConfig>,
    /// What may be spent, by name.
    pub budgets: BTreeMap<String, BudgetConfig>,
    /// Limits of a virtual key that sets none of its own.
    pub limits: LimitsConfig,
    /// File with own prices, relative to the project file; they come before the built-in ones.
    pub prices: Option<PathBuf>,
    /// Counters that several daemons share, so that budgets and limits of a minute hold for all of them together.
    /// Default: none.
    pub counters: Option<CountersConfig>,
    /// Largest request body, in bytes. Default: 32 MiB.
    pub body_bytes_max: usize,
    /// Where spans are sent: a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`. Default:
    /// nowhere.
    pub otlp_url: Option<String>,
}

impl Default for AiConfig {
    fn default() -> Self {
        Self {
            providers: BTreeMap::new(),
            routes: BTreeMap::new(),
            pass_through: BTreeMap::new(),
            budgets: BTreeMap::new(),
            limits: LimitsConfig::default(),
            prices: None,
            counters: None,
            body_bytes_max: 32 << 20,
            otlp_url: None,
        }
    }
}

/// Counters that several daemons share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountersConfig {
    /// What kind of server it is.
    pub kind: CountersKind,
    /// Where it is, without credentials: `redis://host:6379/0`.
    pub url: String,
    /// The user, where the server has several.
    #[serde(default)]
    pub user: Option<String>,
    /// Name of the secret that holds the password.
    #[serde(default)]
    pub password_secret: Option<String>,
}

/// A kind of server for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountersKind {
    /// Redis, or what speaks as it does.
    Redis,
}

/// What kind of service a provider is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// OpenAI, or any server that speaks its API.
    Openai,
    /// Azure OpenAI.
    AzureOpenai,
    /// Anthropic.
    Anthropic,
    /// Google Gemini.
    Gemini,
}

impl ProviderKind {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::AzureOpenai => "azure_openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }
}

/// A service that answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// What kind of service it is.
    pub kind: ProviderKind,
    /// Where it is, such as `https://api.openai.com/v1`; without a path it gets that of the kind, such as `/v1`. Default:
    /// where the kind's own service is.
    #[serde(default)]
    pub url: Option<String>,
    /// Names of the secrets with its keys; several share the load. None for a server that asks for no key.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Azure: the version of the API, such as `2024-10-21`. Default: the one without dates.
    #[serde(default)]
    pub api_version: Option<String>,
    /// Azure: the deployment of each model, where it is not named as the model.
    #[serde(default)]
    pub deployments: BTreeMap<String, String>,
    /// Models that clients may also ask for without a route; they are listed. Default: any model, as `provider/model`.
    #[serde(default)]
    pub models: Option<BTreeSet<String>>,
    /// Ask the successor where the built-in price table says that a model was retired. Default: yes for the kind's own
    /// service, no for a `url` of one's own, which may serve what it likes.
    #[serde(default)]
    pub successors: Option<bool>,
    /// Tell the provider the trace that a client began (`traceparent`, `tracestate`). Default: yes.
    #[serde(default = "yes")]
    pub trace_context: bool,
    /// Formats that the server understands: `chat`, `responses`, `messages`, `gemini`. Default: all of its kind; for
    /// `openai` with its own `url` only `chat`, which every compatible server knows.
    #[serde(default)]
    pub formats: Option<Vec<Format>>,
    /// Certificate authorities besides the system's: a PEM file, relative to the project file.
    #[serde(default)]
    pub certificates: Option<PathBuf>,
    /// Send keys over `http` to another machine. Default: no.
    #[serde(default)]
    pub allow_http: bool,
    /// `openai` with its own `url`: the server takes Anthropic's `cache_control` in chat completions, so that the marks of
    /// Anthropic's clients are passed on. Default: no; OpenAI's own refuses them.
    #[serde(default)]
    pub cache_control: bool,
}

impl ProviderConfig {
    /// Whether a model that was retired is asked for by the name of its successor.
    pub fn follows_successors(&self) -> bool {
        self.successors.unwrap_or(self.url.is_none())
    }
}

/// A name that clients use as `model`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Who may answer.
    pub targets: Vec<TargetConfig>,
    /// How targets of the same priority share the requests. Default: by weight.
    #[serde(default)]
    pub balance: Balance,
    /// How often it is tried.
    #[serde(default)]
    pub retry: RetryConfig,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    /// Answers are kept and given again. Default: they are not.
    #[serde(default)]
    pub cache: Option<CacheConfig>,
    /// Prompts and replies are stored, sealed and without keys. Default: they are not.
    #[serde(default)]
    pub store_prompts: Option<StorePromptsConfig>,
    /// Tokens that an answer may have when the request says nothing and the provider wants a number. Default: 4096.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u64,
}

fn default_max_tokens() -> u64 {
    4_096
}

/// How targets of the same priority share the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// By weight, whatever they have to do.
    #[default]
    Weighted,
    /// The one with the fewest requests in flight for its weight.
    LeastLoaded,
}

/// Who may answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// Name of the provider.
    pub provider: String,
    /// The provider's name for the model.
    pub model: String,
    /// Its share among the targets of the same priority. Default: 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// Targets with a higher number are asked when those with a lower one failed. Default: 1.
    #[serde(default = "one")]
    pub priority: u32,
    /// Tokens that the model takes. Default: what the price table says.
    #[serde(default)]
    pub context_tokens: Option<u64>,
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

/// How often a request is tried.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Attempts in all, on all targets together. Default: 3.
    pub attempts: u32,
    /// The first wait is at most this, in milliseconds; doubled each time. Default: 250.
    pub base_ms: u64,
    /// The longest wait, in milliseconds; a provider that asks for a longer one is not waited for. Default: 10,000.
    pub wait_max_ms: u64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 3, base_ms: 250, wait_max_ms: 10_000 }
    }
}

/// How long a request may take. Each is a bound of its own; none of them cuts a stream that goes on.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// To connect, in milliseconds. Default: 5,000.
    pub connect_ms: u64,
    /// Until the provider's headers, in milliseconds. A plain answer is computed before its headers. Default: 600,000.
    pub headers_ms: u64,
    /// Until the first event of a stream after its headers, in milliseconds. Default: 120,000.
    pub first_token_ms: u64,
    /// Between two events of a stream, in milliseconds. Default: 120,000.
    pub idle_ms: u64,
    /// All attempts together until the first byte for the client, in milliseconds. Default: 600,000.
    pub total_ms: u64,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect_ms: 5_000,
            headers_ms: 600_000,
            first_token_ms: 120_000,
            idle_ms: 120_000,
            total_ms: 600_000,
        }
    }
}

/// Answers are kept and given again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// How long an answer is good, in seconds.
    pub ttl_s: u64,
    /// Keep answers that were sampled with a temperature above 0. Default: no.
    #[serde(default)]
    pub sampled: bool,
    /// Keep answers that call tools. Default: no.
    #[serde(default)]
    pub tool_calls: bool,
    /// Whose answers are given to whom. Default: `project`, everybody's to everybody.
    #[serde(default)]
    pub per: CachePer,
    /// The share of lookups that it is meant to answer, such as 0.3; missing it is a finding. Default: none is set.
    #[serde(default)]
    pub objective_hit_rate: Option<f64>,
    /// Also give the reply to the same question in other words. Default: no.
    #[serde(default)]
    pub semantic: Option<SemanticConfig>,
}

/// Among whom answers are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachePer {
    /// All keys of the project.
    #[default]
    Project,
    /// The keys of one person; a key that belongs to nobody has its own.
    Person,
    /// Each key has its own.
    Key,
}

/// The reply to the same question in other words is given again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SemanticConfig {
    /// The route, or `provider/model`, that embeds questions; calls are made in the name of the client's key.
    pub embeddings: String,
    /// How alike two questions must be, from 0.5 to 1: the cosine of their embeddings. Default: 0.97.
    #[serde(default = "default_threshold")]
    pub threshold: f32,
    /// The share of its answers that are asked for once more, to see whether both agree. Default: 0.05.
    #[serde(default = "default_check")]
    pub check: f64,
    /// Longest question that is compared, in bytes. Default: 2,000.
    #[serde(default = "default_question_bytes_max")]
    pub question_bytes_max: usize,
    /// How long an embedding is waited for, in milliseconds; without it the request goes on. Default: 2,000.
    #[serde(default = "default_embedding_ms")]
    pub timeout_ms: u64,
}

fn default_threshold() -> f32 {
    0.97
}

fn default_check() -> f64 {
    0.05
}

fn default_question_bytes_max() -> usize {
    2_000
}

fn default_embedding_ms() -> u64 {
    2_000
}

/// Prompts and replies are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorePromptsConfig {
    /// Days until they are deleted.
    pub retention_days: u32,
}

/// Longest time that prompts are stored, in days.
const RETENTION_DAYS_MAX: u32 = 3_650;

/// An AI service that is forwarded as it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassThroughConfig {
    /// Path under which clients find it, such as `/azure-language`.
    pub prefix: String,
    /// Where it is.
    pub url: String,
    /// Names of the secrets with its keys.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Header that carries the key, such as `ocp-apim-subscription-key`. Default: `authorization`, as a bearer token.
    #[serde(default)]
    pub key_header: Option<String>,
    /// A small call that needs the key: it proves a new key before it serves, and brings back one that was refused. Default:
    /// none; then keys are not rotated, and one that was refused is tried again by a client's call after a while.
    #[serde(default)]
    pub canary: Option<ServiceCanary>,
    /// Tell the service the trace that a client began (`traceparent`, `tracestate`). Default: yes.
    #[serde(default = "yes")]
    pub trace_context: bool,
    /// What a call costs; 0: nothing. Without it calls are reported as unpriced, and refused in a project with a strict
    /// budget, which could not hold.
    #[serde(default)]
    pub usd_per_call: Option<Usd>,
    /// Certificate authorities besides the system's: a PEM file, relative to the project file.
    #[serde(default)]
    pub certificates: Option<PathBuf>,
    /// Send keys over `http` to another machine. Default: no.
    #[serde(default)]
    pub allow_http: bool,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
}

/// A call of a service that shows whether a key works: any answer with a status of 2xx.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceCanary {
    /// What comes after the service's `url`, such as `/health?api-version=1`.
    pub path: String,
    /// A JSON body; with it the call is a POST, without it a GET.
    #[serde(default)]
    pub body: Option<serde_json::Value>,
}

/// What may be spent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// The amount.
    pub usd: Usd,
    /// The time for which it is meant; days and months are those of UTC.
    pub per: Period,
    /// What it is counted by.
    pub scope: BudgetScope,
    /// Only for this one, such as the route `fast`. Default: for each one separately.
    #[serde(default)]
    pub of: Option<String>,
    /// What happens when it could be overspent. Default: strict.
    #[serde(default)]
    pub enforce: Enforce,
    /// The share at which an alert goes out. Default: 0.8.
    #[serde(default = "default_soft")]
    pub soft: f64,
}

pub(crate) fn default_soft() -> f64 {
    0.8
}

/// The time for which a budget is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A day, UTC.
    Day,
    /// A calendar month, UTC.
    Month,
    /// For ever.
    Total,
}

/// What a budget is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// Each virtual key.
    Key,
    /// Each person, over all of their keys.
    Person,
    /// The project.
    Project,
    /// Each route.
    Route,
    /// Each provider.
    Provider,
    /// Each model.
    Model,
}

/// What happens when a budget could be overspent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforce {
    /// The most that a request can cost is set aside before it is sent; never overspent.
    #[default]
    Strict,
    /// What such requests usually cost is set aside; overspent by at most what is in flight.
    Estimate,
}

/// Limits of a virtual key; none where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests in a minute.
    pub rpm: Option<u32>,
    /// Tokens in a minute, of prompts and answers.
    pub tpm: Option<u64>,
    /// Requests at the same time.
    pub concurrent: Option<u32>,
}

impl AiConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// `Invalid`: with the context `key`, such as `routes.fast.targets.0.provider`, under the key `ai`.
    pub fn validate(&self) -> Result<(), Error> {
        for (name, provider) in &self.providers {
            name_is_fit(&["providers", name], name)?;
            provider.validate(&format!("providers.{name}"))?;
        }
        if let Some(url) = &self.otlp_url
            && !Url::parse(url)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.password().is_none())
        {
            return wrong(
                "otlp_url",
                "this is no address of a collector",
                "such as `http://127.0.0.1:4318/v1/traces`, without a password",
            );
        }
        for (name, route) in &self.routes {
            name_is_fit(&["routes", name], name)?;
            self.validate_route(name, route)?;
        }
        for (name, forwarded) in &self.pass_through {
            name_is_fit(&["pass_through", name], name)?;
            self.validate_pass_through(name, forwarded)?;
        }
        for (name, budget) in &self.budgets {
            name_is_fit(&["budgets", name], name)?;
            if budget.usd.nanos() <= 0 {
                return wrong(
                    &format!("budgets.{name}.usd"),
                    "a budget must be above 0",
                    "leave it out for none",
                );
            }
            if !(budget.soft > 0.0 && budget.soft <= 1.0) {
                return wrong(
                    &format!("budgets.{name}.soft"),
                    "this is no share",
                    "use a number up to 1, such as 0.8",
                );
            }
            let known = match (budget.scope, budget.of.as_deref()) {
                (BudgetScope::Route, Some(of)) => self.routes.contains_key(of) || of.contains('/'),
                (BudgetScope::Provider, Some(of)) => self.providers.contains_key(of),
                _ => true,
            };
            if !known {
                return wrong(
                    &format!("budgets.{name}.of"),
                    "there is nothing of this name",
                    "name one that is configured above",
                );
            }
        }
        let limits = [
            ("rpm", self.limits.rpm.map(u64::from)),
            ("tpm", self.limits.tpm),
            ("concurrent", self.limits.concurrent.map(u64::from)),
        ];
        for (key, limit) in limits {
            if limit == Some(0) {
                return wrong(
                    &format!("limits.{key}"),
                    "with this limit nothing is let through",
                    "leave it out for none",
                );
            }
        }
        if self.body_bytes_max < 1_024 {
            return wrong("body_bytes_max", "no request is that small", "use at least 1024");
        }
        Ok(())
    }

    fn validate_route(&self, name: &str, route: &RouteConfig) -> Result<(), Error> {
        let at = |key: &str| format!("routes.{name}.{key}");
        if route.targets.is_empty() {
            return wrong(&at("targets"), "a route needs a target", "add `{ provider: …, model: … }`");
        }
        if route.targets.len() > crate::balance::TARGETS_MAX {
            return wrong(&at("targets"), "a route has at most 32 targets", "make two routes of it");
        }
        for (index, target) in route.targets.iter().enumerate() {
            let at = |key: &str| format!("routes.{name}.targets.{index}.{key}");
            if !self.providers.contains_key(&target.provider) {
                return wrong(
                    &at("provider"),
                    &format!("there is no provider `{}`", target.provider),
                    "name one of `ai.providers`",
                );
            }
            if target.model.is_empty() {
                return wrong(&at("model"), "the model has no name", "use the provider's name for it");
            }
            if target.weight == 0 {
                return wrong(
                    &at("weight"),
                    "with this weight it is never asked",
                    "use at least 1, or remove the target",
                );
            }
        }
        if !(1..=10).contains(&route.retry.attempts) {
            return wrong(
                &at("retry.attempts"),
                "this is no number of attempts",
                "use 1 to 10; 1 tries once",
            );
        }
        if route.max_tokens == 0 {
            return wrong(&at("max_tokens"), "an answer needs tokens", "use at least 1");
        }
        let cache = route.cache.as_ref();
        if cache
            .and_then(|cache| cache.objective_hit_rate)
            .is_some_and(|share| !(share > 0.0 && share <= 1.0))
        {
            return wrong(
                &at("cache.objective_hit_rate"),
                "this is no share",
                "use a number up to 1, such as 0.3",
            );
        }
        if let Some(semantic) = cache.and_then(|cache| cache.semantic.as_ref()) {
            self.validate_semantic(&at("cache.semantic"), semantic)?;
        }
        if cache.is_some_and(|cache| cache.ttl_s == 0) {
            return wrong(
                &at("cache.ttl_s"),
                "nothing is kept that long",
                "remove `cache`, or use seconds above 0",
            );
        }
        if route.store_prompts.is_some_and(|store| !(1..=RETENTION_DAYS_MAX).contains(&store.retention_days))
        {
            return wrong(
                &at("store_prompts.retention_days"),
                "this is no time to keep them for",
                "use days, from 1 to 3650; without `store_prompts` nothing is stored",
            );
        }
        validate_timeouts(&at("timeouts"), &route.timeouts)
    }

    fn validate_semantic(&self, at: &str, semantic: &SemanticConfig) -> Result<(), Error> {
        let named = &semantic.embeddings;
        let is_model = named
            .split_once('/')
            .is_some_and(|(provider, model)| self.providers.contains_key(provider) && !model.is_empty());
        if !self.routes.contains_key(named) && !is_model {
            return wrong(
                &format!("{at}.embeddings"),
                "there is no such route or model",
                "name a route, or `provider/model`, that embeds",
            );
        }
        if !(0.5..=1.0).contains(&semantic.threshold) {
            return wrong(&format!("{at}.threshold"), "this is no similarity", "use 0.5 to 1, such as 0.97");
        }
        if !(0.0..=1.0).contains(&semantic.check) {
            return wrong(&format!("{at}.check"), "this is no share", "use 0 to 1, such as 0.05");
        }
        if !(1..=16_000).contains(&semantic.question_bytes_max) {
            return wrong(
                &format!("{at}.question_bytes_max"),
                "no question has this length",
                "use 1 to 16000",
            );
        }
        if !(1..=60_000).contains(&semantic.timeout_ms) {
            return wrong(
                &format!("{at}.timeout_ms"),
                "this is no time",
                "use milliseconds, from 1 to 60000",
            );
        }
        Ok(())
    }

    fn validate_pass_through(&self, name: &str, forwarded: &PassThroughConfig) -> Result<(), Error> {
        let at = |key: &str| format!("pass_through.{name}.{key}");
        let prefix = &forwarded.prefix;
        let fit = prefix.len() > 1
            && prefix.starts_with('/')
            && !prefix.ends_with('/')
            && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte))
            && !prefix.split('/').any(|part| part == "." || part == "..");
        if !fit {
            return wrong(&at("prefix"), "this is no path", "write it as `/language`");
        }
        let first = prefix.split('/').nth(1).unwrap_or_default();
        if ["v1", "v1beta", "openai", "anthropic", "gemini", "api", "mcp", "healthz", "metrics"]
            .contains(&first)
        {
            return wrong(&at("prefix"), "this path has a meaning already", "choose another first part");
        }
        let twice =
            self.pass_through.iter().any(|(other, config)| other != name && within(&config.prefix, prefix));
        if twice {
            return wrong(&at("prefix"), "this path lies in another route's", "choose another first part");
        }
        if let Some(header) = &forwarded.key_header
            && http::HeaderName::try_from(header.as_str()).is_err()
        {
            return wrong(&at("key_header"), "this is no header's name", "write it as `api-key`");
        }
        if let Some(canary) = &forwarded.canary
            && (!canary.path.starts_with('/')
                || format!("http://h{}", canary.path).parse::<http::Uri>().is_err())
        {
            return wrong(&at("canary.path"), "this is no path", "write it as `/health`");
        }
        validate_url(&at("url"), &forwarded.url, forwarded.allow_http || forwarded.keys.is_empty())?;
        validate_timeouts(&at("timeouts"), &forwarded.timeouts)
    }
}

/// Whether `path` is `prefix` or lies in it.
pub(crate) fn within(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl ProviderConfig {
    fn validate(&self, at: &str) -> Result<(), Error> {
        match (&self.url, self.kind) {
            (Some(url), _) => {
                validate_url(&format!("{at}.url"), url, self.allow_http || self.keys.is_empty())?;
            }
            (None, ProviderKind::AzureOpenai) => {
                return wrong(
                    &format!("{at}.url"),
                    "an Azure resource has its own address",
                    "write it as `https://my-resource.openai.azure.com`",
                );
            }
            (None, _) => {}
        }
        if self.keys.is_empty() && self.url.is_none() {
            return wrong(
                &format!("{at}.keys"),
                "the provider asks for a key",
                "store one with `steward secret put`, and name it here",
            );
        }
        let mut seen = BTreeSet::new();
        for (index, key) in self.keys.iter().enumerate() {
            if key.is_empty() || !seen.insert(key) {
                return wrong(
                    &format!("{at}.keys.{index}"),
                    "this names no other secret",
                    "name each key once",
                );
            }
        }
        if self.cache_control && (self.kind != ProviderKind::Openai || self.url.is_none()) {
            return wrong(
                &format!("{at}.cache_control"),
                "only a server of your own may take `cache_control` in chat completions",
                "remove it; Anthropic gets the marks as they are",
            );
        }
        if self.kind != ProviderKind::AzureOpenai {
            if self.api_version.is_some() {
                return wrong(&format!("{at}.api_version"), "only `azure_openai` has versions", "remove it");
            }
            if !self.deployments.is_empty() {
                return wrong(
                    &format!("{at}.deployments"),
                    "only `azure_openai` has deployments",
                    "remove it",
                );
            }
        }
        if let Some(version) = &self.api_version
            && !version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return wrong(&format!("{at}.api_version"), "this is no version", "write it as `2024-10-21`");
        }
        if let Some(formats) = &self.formats
            && formats.is_empty()
        {
            return wrong(
                &format!("{at}.formats"),
                "the server must understand something",
                "leave it out for all of its kind",
            );
        }
        Ok(())
    }
}

fn validate_timeouts(at: &str, timeouts: &TimeoutsConfig) -> Result<(), Error> {
    for (key, value) in [
        ("connect_ms", timeouts.connect_ms),
        ("headers_ms", timeouts.headers_ms),
        ("first_token_ms", timeouts.first_token_ms),
        ("idle_ms", timeouts.idle_ms),
        ("total_ms", timeouts.total_ms),
    ] {
        if value == 0 || value > 86_400_000 {
            return wrong(&format!("{at}.{key}"), "this is no time", "use milliseconds, from 1 to 86400000");
        }
    }
    Ok(())
}

fn validate_url(at: &str, text: &str, http_is_fine: bool) -> Result<(), Error> {
    let Ok(url) = Url::parse(text) else {
        return wrong(at, "this is no URL", "write it as `https://host/path`");
    };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return wrong(at, "this is no URL of the web", "write it as `https://host/path`");
    }
    if url.password().is_some() || !url.username().is_empty() {
        return wrong(at, "the URL contains a login", "name the key under `keys`; remove the login");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong(at, "the URL goes on after its path", "remove what begins with `?` or `#`");
    }
    let metadata = match url.host() {
        Some(url::Host::Domain(name)) => outbound::is_metadata_name(name),
        Some(url::Host::Ipv4(address)) => outbound::is_metadata_address(address.into()),
        Some(url::Host::Ipv6(address)) => outbound::is_metadata_address(address.into()),
        None => false,
    };
    if metadata {
        return wrong(
            at,
            "this address belongs to a cloud's metadata, or to nobody",
            "write the address of the service itself",
        );
    }
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "http" && !loopback && !http_is_fine {
        return wrong(
            at,
            "keys would travel unencrypted",
            "use `https`, or set `allow_http: true` for a network that you trust",
        );
    }
    Ok(())
}

fn name_is_fit(path: &[&str], name: &str) -> Result<(), Error> {
    let fit = !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
    if fit {
        return Ok(());
    }
    wrong(&path.join("."), "this is no name", "use 1 to 63 lower-case letters, digits, `-`, `_` and `.`")
}

fn wrong(key: &str, message: &str, hint: &str) -> Result<(), Error> {
    Err(Error::new(ErrorKind::Invalid, message).with("key", key).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> AiConfig {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn errors_name_the_key() {
        for (json, key, message) in [
            (r#"{"providers":{"Open AI":{"kind":"openai","keys":["k"]}}}"#, "providers.Open AI", "no name"),
            (r#"{"providers":{"p":{"kind":"openai"}}}"#, "providers.p.keys", "asks for a key"),
            (r#"{"providers":{"p":{"kind":"azure_openai","keys":["k"]}}}"#, "providers.p.url", "own address"),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k","k"]}}}"#,
                "providers.p.keys.1",
                "no other secret",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"],"url":"http://10.0.0.5/v1"}}}"#,
                "providers.p.url",
                "unencrypted",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","url":"http://169.254.169.254/latest"}}}"#,
                "providers.p.url",
                "metadata",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"],"url":"https://[::ffff:a9fe:a9fe]/v1"}}}"#,
                "providers.p.url",
                "metadata",
            ),
            (
                r#"{"pass_through":{"x":{"prefix":"/x","url":"http://metadata.google.internal/"}}}"#,
                "pass_through.x.url",
                "metadata",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"],"url":"https://u:hunter2@h/"}}}"#,
                "providers.p.url",
                "login",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"],"url":"ftp://h/"}}}"#,
                "providers.p.url",
                "of the web",
            ),
            (
                r#"{"providers":{"p":{"kind":"gemini","keys":["k"],"api_version":"1"}}}"#,
                "providers.p.api_version",
                "only `azure_openai`",
            ),
            (r#"{"routes":{"r":{"targets":[]}}}"#, "routes.r.targets", "needs a target"),
            (
                r#"{"routes":{"r":{"targets":[{"provider":"x","model":"m"}]}}}"#,
                "routes.r.targets.0.provider",
                "no provider `x`",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"]}},"routes":{"r":{"targets":[{"provider":"p","model":"m","weight":0}]}}}"#,
                "routes.r.targets.0.weight",
                "never asked",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"]}},"routes":{"r":{"targets":[{"provider":"p","model":"m"}],"retry":{"attempts":0}}}}"#,
                "routes.r.retry.attempts",
                "attempts",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"]}},"routes":{"r":{"targets":[{"provider":"p","model":"m"}],"timeouts":{"idle_ms":0}}}}"#,
                "routes.r.timeouts.idle_ms",
                "no time",
            ),
            (
                r#"{"pass_through":{"x":{"prefix":"/v1/x","url":"https://h"}}}"#,
                "pass_through.x.prefix",
                "meaning already",
            ),
            (
                r#"{"pass_through":{"x":{"prefix":"/x","url":"https://h","canary":{"path":"health"}}}}"#,
                "pass_through.x.canary.path",
                "this is no path",
            ),
            (
                r#"{"pass_through":{"x":{"prefix":"/a/../b","url":"https://h"}}}"#,
                "pass_through.x.prefix",
                "no path",
            ),
            (
                r#"{"pass_through":{"x":{"prefix":"/a/b","url":"https://h"},"y":{"prefix":"/a","url":"https://h"}}}"#,
                "pass_through.x.prefix",
                "another route",
            ),
            (r#"{"budgets":{"b":{"usd":0,"per":"day","scope":"key"}}}"#, "budgets.b.usd", "above 0"),
            (
                r#"{"budgets":{"b":{"usd":1,"per":"day","scope":"provider","of":"x"}}}"#,
                "budgets.b.of",
                "nothing of this name",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"]}},"routes":{"r":{"targets":[{"provider":"p","model":"m"}],"store_prompts":{"retention_days":0}}}}"#,
                "routes.r.store_prompts.retention_days",
                "no time",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"]}},"routes":{"r":{"targets":[{"provider":"p","model":"m"}],"cache":{"ttl_s":5,"objective_hit_rate":30}}}}"#,
                "routes.r.cache.objective_hit_rate",
                "no share",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"]}},"routes":{"r":{"targets":[{"provider":"p","model":"m"}],"cache":{"ttl_s":5,"semantic":{"embeddings":"nowhere"}}}}}"#,
                "routes.r.cache.semantic.embeddings",
                "no such route",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"]}},"routes":{"r":{"targets":[{"provider":"p","model":"m"}],"cache":{"ttl_s":5,"semantic":{"embeddings":"p/e","threshold":97}}}}}"#,
                "routes.r.cache.semantic.threshold",
                "no similarity",
            ),
            (
                r#"{"providers":{"p":{"kind":"openai","keys":["k"],"cache_control":true}}}"#,
                "providers.p.cache_control",
                "a server of your own",
            ),
            (r#"{"limits":{"rpm":0}}"#, "limits.rpm", "nothing is let through"),
        ] {
            let error = parse(json).validate().expect_err(json);
            let printed = error.to_string();
            assert!(printed.contains(&format!("key: {key}\n")), "{json}\n→ {printed}");
            assert!(printed.contains(message), "{json}\n→ {printed}");
            assert!(printed.contains("hint: ") && !printed.contains("hunter2"), "{printed}");
        }
        for json in [
            "{}",
            r#"{"providers":{"p":{"kind":"openai","url":"http://127.0.0.1:1/v1"}}}"#,
            r#"{"providers":{"p":{"kind":"openai","keys":["k"],"url":"http://[::1]:1/v1"}}}"#,
            r#"{"budgets":{"b":{"usd":"0.10","per":"month","scope":"project"}}}"#,
        ] {
            parse(json).validate().unwrap_or_else(|error| panic!("{json}: {error}"));
        }
        assert!(serde_json::from_str::<AiConfig>(r#"{"route":{}}"#).is_err());
    }
}
