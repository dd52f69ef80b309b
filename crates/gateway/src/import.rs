//! From a LiteLLM configuration to the `ai` section of a project file. What cannot be carried over is told, each with
//! its key; a key's value is never repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use contract::{Effect, Error, ErrorKind, Finding, Outcome, Request, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::AiConfig;

/// An address that leads nowhere (RFC 2606), where the configuration names a variable instead of one.
const FILL_IN: &str = "https://fill-in.invalid";

/// Turns a LiteLLM configuration into the `ai` section of `steward.yaml`, and says what it could not carry over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// The LiteLLM configuration, a YAML file.
    pub path: String,
}

impl Request for ImportConfig {
    const NAME: &'static str = "ai.import";
    const SUMMARY: &'static str = "Print the `ai` section that does what a LiteLLM configuration does";
    const EXAMPLE: &'static str = "steward ai import litellm.yaml >> steward.yaml";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &["path"];
}

/// Services that speak OpenAI's protocol, by LiteLLM's name for them, with their addresses.
const OPENAI_LIKE: &[(&str, &str)] = &[
    ("groq", "https://api.groq.com/openai/v1"),
    ("mistral", "https://api.mistral.ai/v1"),
    ("deepseek", "https://api.deepseek.com/v1"),
    ("together_ai", "https://api.together.xyz/v1"),
    ("fireworks_ai", "https://api.fireworks.ai/inference/v1"),
    ("openrouter", "https://openrouter.ai/api/v1"),
    ("xai", "https://api.x.ai/v1"),
    ("perplexity", "https://api.perplexity.ai"),
    ("ollama", "http://localhost:11434/v1"),
    ("ollama_chat", "http://localhost:11434/v1"),
    ("hosted_vllm", ""),
    ("lm_studio", ""),
    ("litellm_proxy", ""),
    ("openai_like", ""),
    ("custom_openai", ""),
    ("llamafile", ""),
];

/// A provider as it will be written.
#[derive(Debug, Default)]
struct Provider {
    kind: &'static str,
    url: Option<String>,
    api_version: Option<String>,
    /// Secret names.
    keys: Vec<String>,
    deployments: BTreeMap<String, String>,
    allow_http: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    provider: String,
    model: String,
    weight: u64,
    priority: u64,
}

#[derive(Debug, Default)]
struct Route {
    targets: Vec<Target>,
    total_ms: Option<u64>,
    first_token_ms: Option<u64>,
    attempts: Option<u64>,
}

/// What was made of a configuration.
#[derive(Debug, Default)]
struct Import {
    providers: BTreeMap<String, Provider>,
    /// Kind, address and version, to the provider's name.
    known: BTreeMap<(String, String, String), String>,
    routes: BTreeMap<String, Route>,
    /// LiteLLM's name of a model group, to the route's name.
    names: BTreeMap<String, String>,
    budget: Option<(String, &'static str)>,
    cache_ttl_s: Option<u64>,
    /// Key and what was not carried over.
    notes: Vec<(String, String)>,
    /// Secret, and where its value is now.
    secrets: BTreeMap<String, String>,
}

/// Turns a LiteLLM configuration, already read as YAML, into text.
///
/// # Errors
///
/// `Invalid`: it is no LiteLLM configuration.
pub fn import(config: &Value) -> Result<Outcome, Error> {
    let wrong = |what: &str| {
        Error::new(ErrorKind::Invalid, what.to_owned())
            .hint("name a LiteLLM configuration, which has `model_list`")
    };
    let Value::Object(config) = config else { return Err(wrong("this is no mapping")) };
    let mut config = config.clone();
    let Some(Value::Array(models)) = config.remove("model_list") else {
        return Err(wrong("the file has no `model_list`"));
    };
    let mut import = Import::default();
    for (index, model) in models.into_iter().enumerate() {
        import.model(&format!("model_list.{index}"), model);
    }
    let mut settings = take(&mut config, "litellm_settings");
    let mut router = take(&mut config, "router_settings");
    let mut general = take(&mut config, "general_settings");
    import.aliases(&mut router);
    import.fallbacks(&mut settings, "litellm_settings");
    import.fallbacks(&mut router, "router_settings");
    import.times(&mut settings, "litellm_settings", "request_timeout");
    import.times(&mut router, "router_settings", "timeout");
    import.cache(&mut settings);
    import.budget(&mut settings);
    import.strategy(&mut router);
    for (key, what) in [
        ("master_key", "clients get keys of their own: `steward ai keys create NAME`"),
        ("database_url", "keys, usage and budgets are in Steward's own state"),
        ("alerting", "escalations go to `webhooks`"),
    ] {
        if general.remove(key).is_some() {
            import.note(&format!("general_settings.{key}"), what);
        }
    }
    import.rest("litellm_settings", settings);
    import.rest("router_settings", router);
    import.rest("general_settings", general);
    if let Some(Value::Object(variables)) = config.remove("environment_variables") {
        for name in variables.keys() {
            import.note(
                &format!("environment_variables.{name}"),
                "put what is secret into the vault: `steward secret put NAME`",
            );
        }
    }
    import.rest("", config);
    import.outcome()
}

fn take(config: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match config.remove(key) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// `os.environ/NAME`.
fn variable(value: &Value) -> Option<&str> {
    value.as_str()?.strip_prefix("os.environ/")
}

fn number(value: &Value) -> Option<f64> {
    value
        .as_f64()
        .or_else(|| value.as_str()?.parse().ok())
        .filter(|number| number.is_finite() && *number >= 0.0)
}

/// Seconds, as milliseconds that a timeout may have.
fn millis(value: &Value) -> Option<u64> {
    let seconds = number(value)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 1 and a day")]
    (seconds > 0.0).then(|| (seconds * 1e3).clamp(1.0, 86_400_000.0) as u64)
}

/// A name as the project file allows it.
fn plain(name: &str) -> String {
    let fit = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }
    };
    let name: String = name.chars().map(fit).take(63).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "route".into() } else { name.to_owned() }
}

impl Import {
    fn note(&mut self, key: &str, what: impl Into<String>) {
        self.notes.push((key.to_owned(), what.into()));
    }

    /// Everything that nobody asked for.
    fn rest(&mut self, path: &str, map: Map<String, Value>) {
        for (key, _) in map {
            let key = if path.is_empty() { key } else { format!("{path}.{key}") };
            self.note(&key, "has no counterpart here");
        }
    }

    fn model(&mut self, path: &str, entry: Value) {
        let Value::Object(mut entry) = entry else {
            return self.note(path, "is no mapping");
        };
        let name = entry.remove("model_name").and_then(|name| name.as_str().map(str::to_owned));
        let mut params = take(&mut entry, "litellm_params");
        let mut info = take(&mut entry, "model_info");
        let Some(name) = name else { return self.note(path, "has no `model_name`") };
        let Some(model) = params.remove("model").and_then(|model| model.as_str().map(str::to_owned)) else {
            return self.note(path, format!("`{name}` has no `litellm_params.model`"));
        };
        let custom = params.remove("custom_llm_provider").and_then(|name| name.as_str().map(str::to_owned));
        let (service, model) = match (custom, model.split_once('/')) {
            (Some(custom), _) => {
                let model = model.strip_prefix(&format!("{custom}/")).unwrap_or(&model).to_owned();
                (custom, model)
            }
            (None, Some((service, model))) => (service.to_owned(), model.to_owned()),
            (None, None) => (by_name(&model).to_owned(), model),
        };
        let base = ["api_base", "base_url"].iter().find_map(|key| params.remove(*key));
        let version = params.remove("api_version");
        let Some(provider) = self.provider(path, &service, base.as_ref(), version.as_ref()) else {
            return self.note(path, format!("`{name}`: the service `{service}` cannot be called from here"));
        };
        self.key(path, &provider, params.remove("api_key").as_ref());
        let mut model = model;
        let base_model = info.remove("base_model").and_then(|base| base.as_str().map(str::to_owned));
        let opened = self.providers.get_mut(&provider).expect("it was opened above");
        if opened.kind == "azure_openai" {
            if let Some(base) = base_model {
                let base = base.rsplit('/').next().unwrap_or_default().to_owned();
                if base != model {
                    opened.deployments.insert(base.clone(), std::mem::replace(&mut model, base));
                }
            } else {
                self.note(
                    path,
                    format!(
                        "`{model}` is taken for the model's name as well; if it is another, see `deployments`"
                    ),
                );
            }
        }
        let weight = params.remove("weight").as_ref().and_then(Value::as_u64).unwrap_or(1).max(1);
        let priority = params.remove("order").as_ref().and_then(Value::as_u64).unwrap_or(1).max(1);
        let total_ms = params.remove("timeout").as_ref().and_then(millis);
        let first_token_ms = params.remove("stream_timeout").as_ref().and_then(millis);
        let attempts = params.remove("max_retries").as_ref().and_then(Value::as_u64).map(attempts);
        for key in ["rpm", "tpm"] {
            if params.remove(key).is_some() {
                self.note(
                    &format!("{path}.litellm_params.{key}"),
                    "a target has no limit of its own; the provider's answers are honoured, and keys have limits",
                );
            }
        }
        for key in ["input_cost_per_token", "output_cost_per_token"] {
            if params.remove(key).is_some() | info.remove(key).is_some() {
                self.note(&format!("{path}.{key}"), "put own prices into the file of `ai.prices`");
            }
        }
        info.remove("id");
        info.remove("mode");
        self.rest(&format!("{path}.litellm_params"), params);
        self.rest(&format!("{path}.model_info"), info);
        self.rest(path, entry);
        if name.contains('*') || model.contains('*') {
            return self.note(
                path,
                format!("`{name}` needs no route: a key made with `--models {provider}/*` may call every model of `{provider}`"),
            );
        }
        let route = self.route(path, &name);
        let route = self.routes.entry(route).or_default();
        route.targets.push(Target { provider, model, weight, priority });
        route.total_ms = route.total_ms.max(total_ms);
        route.first_token_ms = route.first_token_ms.max(first_token_ms);
        route.attempts = route.attempts.max(attempts);
    }

    /// The route's name for a model group.
    fn route(&mut self, path: &str, name: &str) -> String {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let mut route = plain(name);
        while self.names.values().any(|taken| *taken == route) {
            route.push('-');
        }
        if route != name {
            self.note(
                path,
                format!("the route for `{name}` is called `{route}`; clients must send that as `model`"),
            );
        }
        self.names.insert(name.to_owned(), route.clone());
        route
    }

    /// The provider for a service and an address; opened when it is new.
    fn provider(
        &mut self,
        path: &str,
        service: &str,
        base: Option<&Value>,
        version: Option<&Value>,
    ) -> Option<String> {
        let like = OPENAI_LIKE.iter().find(|(name, _)| *name == service);
        let kind = match service {
            "openai" | "text-completion-openai" => "openai",
            "azure" | "azure_text" => "azure_openai",
            "anthropic" => "anthropic",
            "gemini" => "gemini",
            _ if like.is_some() => "openai",
            _ => return None,
        };
        let url = match base {
            Some(value) => match (variable(value), value.as_str()) {
                (Some(variable), _) => {
                    self.note(
                        &format!("{path}.litellm_params.api_base"),
                        format!("write the value of `{variable}` in the place of `{FILL_IN}`"),
                    );
                    Some(FILL_IN.to_owned())
                }
                (None, Some(url)) => Some(url.trim_end_matches('/').to_owned()),
                (None, None) => None,
            },
            None => like.map(|(_, url)| (*url).to_owned()).filter(|url| !url.is_empty()),
        };
        let url = match url {
            None if kind == "azure_openai" || like.is_some_and(|(_, url)| url.is_empty()) => {
                self.note(
                    &format!("{path}.litellm_params.api_base"),
                    format!("is missing; write the address in the place of `{FILL_IN}`"),
                );
                Some(FILL_IN.to_owned())
            }
            other => other,
        };
        let api_version =
            version.filter(|_| kind == "azure_openai").and_then(Value::as_str).and_then(|text| {
                if variable(&json!(text)).is_some() {
                    self.note(
                        &format!("{path}.litellm_params.api_version"),
                        "is a variable; the version without dates is used",
                    );
                    return None;
                }
                Some(text.to_owned())
            });
        let identity = (
            kind.to_owned() + service,
            url.clone().unwrap_or_default(),
            api_version.clone().unwrap_or_default(),
        );
        if let Some(name) = self.known.get(&identity) {
            return Some(name.clone());
        }
        let (mut name, mut count) = (plain(service), 1);
        while self.providers.contains_key(&name) {
            count += 1;
            name = format!("{}-{count}", plain(service));
        }
        let allow_http = url.as_deref().is_some_and(|url| url.starts_with("http://") && !loopback(url));
        if allow_http {
            self.note(
                &format!("{path}.litellm_params.api_base"),
                "keys travel unencrypted; `allow_http: true` is set",
            );
        }
        self.providers
            .insert(name.clone(), Provider { kind, url, api_version, allow_http, ..Provider::default() });
        self.known.insert(identity, name.clone());
        Some(name)
    }

    /// Adds a key to a provider, by name.
    fn key(&mut self, path: &str, provider: &str, key: Option<&Value>) {
        let usual = match self.providers[provider].kind {
            "openai" if provider == "openai" => "OPENAI_API_KEY",
            "azure_openai" => "AZURE_API_KEY",
            "anthropic" => "ANTHROPIC_API_KEY",
            "gemini" => "GEMINI_API_KEY",
            _ => "",
        };
        let (secret, from) = match key {
            None if usual.is_empty() => {
                if self.providers[provider].url.as_deref().is_none_or(|url| !loopback(url)) {
                    self.note(
                        path,
                        format!("no key is named for `{provider}`; if it asks for one, put it under `keys`"),
                    );
                }
                return;
            }
            None => (format!("{provider}/{}", secret_name(usual)), format!("the variable `{usual}`")),
            Some(value) => {
                if let Some(name) = variable(value) {
                    (format!("{provider}/{}", secret_name(name)), format!("the variable `{name}`"))
                } else {
                    let number = self.providers[provider].keys.len() + 1;
                    let key = format!("{path}.litellm_params.api_key");
                    self.note(&key, "stands in the file in clear: rotate it after it is in the vault");
                    (format!("{provider}/key-{number}"), format!("`{key}`"))
                }
            }
        };
        let provider_keys = &mut self.providers.get_mut(provider).expect("it was opened before").keys;
        if provider_keys.contains(&secret) {
            return;
        }
        provider_keys.push(secret.clone());
        let many = provider_keys.len() > 1;
        self.secrets.insert(secret, from);
        if many {
            self.note(path, format!("`{provider}` has several keys; each serves all of its models"));
        }
    }

    fn aliases(&mut self, router: &mut Map<String, Value>) {
        for (alias, group) in take(router, "model_group_alias") {
            let path = format!("router_settings.model_group_alias.{alias}");
            let group =
                group.as_str().map(str::to_owned).or_else(|| group["model"].as_str().map(str::to_owned));
            let targets = group.and_then(|group| self.targets(&group));
            let Some(targets) = targets else {
                self.note(&path, "names no model group");
                continue;
            };
            let route = self.route(&path, &alias);
            self.routes.entry(route).or_default().targets = targets;
        }
    }

    fn targets(&self, group: &str) -> Option<Vec<Target>> {
        Some(self.routes.get(self.names.get(group)?)?.targets.clone())
    }

    /// What is asked when a group fails, as targets of later priority.
    fn fallbacks(&mut self, settings: &mut Map<String, Value>, path: &str) {
        let before: BTreeMap<String, Vec<Target>> = self
            .names
            .iter()
            .map(|(group, route)| (group.clone(), self.routes[route].targets.clone()))
            .collect();
        if let Some(Value::Array(groups)) = settings.remove("default_fallbacks") {
            let path = format!("{path}.default_fallbacks");
            for group in before.keys().cloned().collect::<Vec<_>>() {
                self.fall_back(&path, &group, &groups, &before);
            }
        }
        for key in ["fallbacks", "context_window_fallbacks", "content_policy_fallbacks"] {
            let path = format!("{path}.{key}");
            let Some(Value::Array(entries)) = settings.remove(key) else { continue };
            if key == "content_policy_fallbacks" && !entries.is_empty() {
                self.note(&path, "a refusal by a content policy is passed on, not tried elsewhere");
                continue;
            }
            for entry in entries {
                let Value::Object(entry) = entry else { continue };
                for (group, others) in entry {
                    match others {
                        Value::Array(others) if before.contains_key(&group) => {
                            self.fall_back(&path, &group, &others, &before);
                        }
                        _ => self.note(&format!("{path}.{group}"), "names no model group"),
                    }
                }
            }
        }
    }

    fn fall_back(
        &mut self,
        path: &str,
        group: &str,
        others: &[Value],
        before: &BTreeMap<String, Vec<Target>>,
    ) {
        for other in others {
            let Some(targets) = other.as_str().and_then(|other| before.get(other)) else {
                self.note(&format!("{path}.{group}"), "falls back to what is no model group");
                continue;
            };
            let route = self.routes.get_mut(&self.names[group]).expect("a group has a route");
            let last = route.targets.iter().map(|target| target.priority).max().unwrap_or(0);
            for target in targets {
                let known = |has: &Target| has.provider == target.provider && has.model == target.model;
                if !route.targets.iter().any(known) {
                    route.targets.push(Target { priority: last + target.priority, ..target.clone() });
                }
            }
        }
    }

    fn times(&mut self, settings: &mut Map<String, Value>, path: &str, timeout: &str) {
        let total_ms = settings.remove(timeout).as_ref().and_then(millis);
        let tries = settings.remove("num_retries").as_ref().and_then(Value::as_u64).map(attempts);
        for route in self.routes.values_mut() {
            route.total_ms = route.total_ms.or(total_ms);
            route.attempts = route.attempts.or(tries);
        }
        for key in ["allowed_fails", "cooldown_time", "retry_after", "retry_policy", "enable_pre_call_checks"]
        {
            if settings.remove(key).is_some() {
                self.note(&format!("{path}.{key}"), "breakers, rests and waits have rules of their own here");
            }
        }
    }

    fn cache(&mut self, settings: &mut Map<String, Value>) {
        let on = settings.remove("cache") == Some(Value::Bool(true));
        let mut params = take(settings, "cache_params");
        let ttl = params.remove("ttl").as_ref().and_then(Value::as_u64);
        if let Some(kind) = params.remove("type").as_ref().and_then(Value::as_str) {
            if kind.contains("semantic") {
                self.note(
                    "litellm_settings.cache_params.type",
                    "only exact matches are answered from the cache",
                );
            } else if kind != "local" {
                self.note(
                    "litellm_settings.cache_params.type",
                    "the cache is in memory and in Steward's own state",
                );
            }
        }
        match (on, ttl) {
            (true, Some(ttl)) if ttl > 0 => self.cache_ttl_s = Some(ttl),
            (true, _) => self.note(
                "litellm_settings.cache",
                "names no time; add `cache: { ttl_s: … }` to the routes that may answer from it",
            ),
            (false, _) => {}
        }
        self.rest("litellm_settings.cache_params", params);
    }

    fn budget(&mut self, settings: &mut Map<String, Value>) {
        let Some(amount) = settings.remove("max_budget") else { return };
        let duration = settings.remove("budget_duration");
        let per = match duration.as_ref().and_then(Value::as_str) {
            None => Some("total"),
            Some("1d" | "24h" | "86400s") => Some("day"),
            Some("30d" | "1mo" | "31d") => Some("month"),
            Some(_) => None,
        };
        // As it is written: amounts are never numbers with rounding.
        let amount = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
        match per {
            Some(per) if amount.parse::<f64>().is_ok_and(|usd| usd > 0.0) => {
                self.budget = Some((amount, per));
            }
            _ => self.note(
                "litellm_settings.max_budget",
                "is for a time that budgets here do not have: day, month or total",
            ),
        }
    }

    fn strategy(&mut self, router: &mut Map<String, Value>) {
        let Some(strategy) = router.remove("routing_strategy") else { return };
        match strategy.as_str() {
            Some("simple-shuffle") => {}
            Some("least-busy") => self.note(
                "router_settings.routing_strategy",
                "set `balance: least_loaded` on the routes that shall use it",
            ),
            _ => self.note(
                "router_settings.routing_strategy",
                "targets share the load by weight, or `balance: least_loaded`",
            ),
        }
    }

    fn outcome(self) -> Result<Outcome, Error> {
        let yaml = self.yaml();
        // What is printed must be what the project file takes.
        let parsed: Value = serde_saphyr::from_str(&yaml).map_err(|cause| broken(&cause.to_string()))?;
        let config: AiConfig =
            serde_json::from_value(parsed["ai"].clone()).map_err(|cause| broken(&cause.to_string()))?;
        config.validate().map_err(|error| {
            let error = error.hint("mend this in the LiteLLM configuration, and import it again");
            Error::new(ErrorKind::Invalid, "what the configuration asks for cannot be written here")
                .because(error)
        })?;
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            text.write_fmt(args).expect("writing to a string");
            text.push('\n');
        };
        line(format_args!("# Made by `steward ai import` from a LiteLLM configuration."));
        if !self.secrets.is_empty() {
            line(format_args!("# Put the keys into the vault:"));
            for (secret, from) in &self.secrets {
                line(format_args!("#   steward secret put {secret}   (from {from})"));
            }
        }
        if !self.notes.is_empty() {
            line(format_args!("# Not carried over as it was:"));
            for (key, what) in &self.notes {
                line(format_args!("#   {key}: {what}"));
            }
        }
        text.push_str(&yaml);
        let notes: Vec<Value> =
            self.notes.iter().map(|(key, what)| json!({ "key": key, "note": what })).collect();
        let mut outcome = Outcome::new(
            json!({
                "yaml": yaml, "not_carried_over": notes, "secrets": self.secrets.keys().collect::<BTreeSet<_>>(),
                "providers": self.providers.len(), "routes": self.routes.len(),
            }),
            text,
        );
        outcome.findings = self
            .notes
            .into_iter()
            .map(|(key, what)| Finding {
                code: "not_carried_over".into(),
                severity: Severity::Info,
                title: format!("{key}: {what}"),
                object: key,
                recommendation: None,
                evidence: Vec::new(),
                escalate: None,
            })
            .collect();
        Ok(outcome)
    }

    fn yaml(&self) -> String {
        let mut text = String::from("ai:\n");
        let mut line = |indent: usize, args: std::fmt::Arguments<'_>| {
            text.push_str(&" ".repeat(indent));
            text.write_fmt(args).expect("writing to a string");
            text.push('\n');
        };
        if !self.providers.is_empty() {
            line(2, format_args!("providers:"));
        }
        for (name, provider) in &self.providers {
            line(4, format_args!("{}:", scalar(name)));
            line(6, format_args!("kind: {}", provider.kind));
            if let Some(url) = &provider.url {
                line(6, format_args!("url: {}", scalar(url)));
            }
            if let Some(version) = &provider.api_version {
                line(6, format_args!("api_version: {}", scalar(version)));
            }
            if !provider.keys.is_empty() {
                let keys: Vec<String> = provider.keys.iter().map(|key| scalar(key)).collect();
                line(6, format_args!("keys: [{}]", keys.join(", ")));
            }
            if provider.allow_http {
                line(6, format_args!("allow_http: true"));
            }
            if !provider.deployments.is_empty() {
                line(6, format_args!("deployments:"));
                for (model, deployment) in &provider.deployments {
                    line(8, format_args!("{}: {}", scalar(model), scalar(deployment)));
                }
            }
        }
        if !self.routes.is_empty() {
            line(2, format_args!("routes:"));
        }
        for (name, route) in &self.routes {
            line(4, format_args!("{}:", scalar(name)));
            line(6, format_args!("targets:"));
            for target in &route.targets {
                let mut more = String::new();
                if target.weight != 1 {
                    write!(more, ", weight: {}", target.weight).expect("writing to a string");
                }
                if target.priority != 1 {
                    write!(more, ", priority: {}", target.priority).expect("writing to a string");
                }
                line(
                    8,
                    format_args!(
                        "- {{ provider: {}, model: {}{more} }}",
                        scalar(&target.provider),
                        scalar(&target.model)
                    ),
                );
            }
            if let Some(attempts) = route.attempts {
                line(6, format_args!("retry: {{ attempts: {attempts} }}"));
            }
            let mut times = Vec::new();
            times.extend(route.first_token_ms.map(|ms| format!("first_token_ms: {ms}")));
            times.extend(route.total_ms.map(|ms| format!("total_ms: {ms}")));
            if !times.is_empty() {
                line(6, format_args!("timeouts: {{ {} }}", times.join(", ")));
            }
            if let Some(ttl) = self.cache_ttl_s {
                line(6, format_args!("cache: {{ ttl_s: {ttl} }}"));
            }
        }
        if let Some((usd, per)) = &self.budget {
            line(2, format_args!("budgets:"));
            line(4, format_args!("imported: {{ usd: {}, per: {per}, scope: project }}", scalar(usd)));
        }
        if self.providers.is_empty() && self.routes.is_empty() && self.budget.is_none() {
            return "ai: {}\n".to_owned();
        }
        text
    }
}

fn broken(cause: &str) -> Error {
    Error::new(ErrorKind::Other, "the section that was made cannot be read again")
        .because(cause.to_owned())
        .hint("please report this with the configuration, without its keys")
}

fn attempts(retries: u64) -> u64 {
    (retries + 1).min(10)
}

/// Whose model this is when no service is named.
fn by_name(model: &str) -> &'static str {
    if model.starts_with("claude") {
        "anthropic"
    } else if model.starts_with("gemini") {
        "gemini"
    } else {
        "openai"
    }
}

fn secret_name(variable: &str) -> String {
    plain(variable).replace('_', "-")
}

fn loopback(url: &str) -> bool {
    ["http://localhost", "http://127.0.0.1", "http://[::1]"].iter().any(|start| {
        url.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    })
}

/// A YAML scalar: plain where that is certainly a text, otherwise quoted as JSON, which YAML understands.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    let url = text.starts_with("http") && !text.contains([' ', '#', '{', '}', '[', ']', ',', '"', '\'']);
    if plain || url { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(yaml: &str) -> Outcome {
        let config: Value = serde_saphyr::from_str(yaml).expect("YAML");
        import(&config).unwrap_or_else(|error| panic!("{yaml}: {error}"))
    }

    const EXAMPLE: &str = r#"
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt4o-eu
      api_base: https://eu.openai.azure.com/
      api_key: os.environ/AZURE_EU_KEY
      api_version: "2024-10-21"
      rpm: 6
      weight: 3
    model_info: { base_model: azure/gpt-4o, id: "1" }
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: sk-hunter2hunter2hunter2
      order: 2
      temperature: 0.1
  - model_name: Claude Haiku
    litellm_params: { model: claude-haiku-4-5, timeout: 30 }
  - model_name: local
    litellm_params: { model: ollama_chat/llama3, stream_timeout: 2.5 }
  - model_name: nova
    litellm_params: { model: bedrock/amazon.nova-lite-v1 }
  - model_name: "anthropic/*"
    litellm_params: { model: "anthropic/*" }
litellm_settings:
  num_retries: 2
  request_timeout: 600
  drop_params: true
  fallbacks: [{ gpt-4o: [Claude Haiku] }]
  cache: true
  cache_params: { type: redis, ttl: 600, host: cache }
  max_budget: 100.50
  budget_duration: 30d
router_settings: { routing_strategy: usage-based-routing, model_group_alias: { fast: Claude Haiku } }
general_settings: { master_key: sk-master, database_url: "postgres://u:hunter3@h/db", store_model_in_db: true }
new_thing: 1
"#;

    #[test]
    fn a_configuration_becomes_a_section_that_the_project_file_takes() {
        let outcome = imported(EXAMPLE);
        let expected = r#"ai:
  providers:
    anthropic:
      kind: anthropic
      keys: [anthropic/anthropic-api-key]
    azure:
      kind: azure_openai
      url: https://eu.openai.azure.com
      api_version: "2024-10-21"
      keys: [azure/azure-eu-key]
      deployments:
        gpt-4o: gpt4o-eu
    ollama_chat:
      kind: openai
      url: http://localhost:11434/v1
    openai:
      kind: openai
      keys: [openai/key-1]
  routes:
    claude-haiku:
      targets:
        - { provider: anthropic, model: claude-haiku-4-5 }
      retry: { attempts: 3 }
      timeouts: { total_ms: 30000 }
      cache: { ttl_s: 600 }
    fast:
      targets:
        - { provider: anthropic, model: claude-haiku-4-5 }
      retry: { attempts: 3 }
      timeouts: { total_ms: 600000 }
      cache: { ttl_s: 600 }
    gpt-4o:
      targets:
        - { provider: azure, model: gpt-4o, weight: 3 }
        - { provider: openai, model: gpt-4o, priority: 2 }
        - { provider: anthropic, model: claude-haiku-4-5, priority: 3 }
      retry: { attempts: 3 }
      timeouts: { total_ms: 600000 }
      cache: { ttl_s: 600 }
    local:
      targets:
        - { provider: ollama_chat, model: llama3 }
      retry: { attempts: 3 }
      timeouts: { first_token_ms: 2500, total_ms: 600000 }
      cache: { ttl_s: 600 }
  budgets:
    imported: { usd: "100.5", per: month, scope: project }
"#;
        assert_eq!(outcome.value["yaml"].as_str().expect("text"), expected);
    }

    #[test]
    fn nothing_is_left_out_silently_and_no_secret_is_repeated() {
        let outcome = imported(EXAMPLE);
        for key in [
            "model_list.0.litellm_params.rpm",
            "model_list.1.litellm_params.api_key",
            "model_list.1.litellm_params.temperature",
            "model_list.2",
            "model_list.4",
            "model_list.5",
            "litellm_settings.drop_params",
            "litellm_settings.cache_params.type",
            "litellm_settings.cache_params.host",
            "router_settings.routing_strategy",
            "general_settings.master_key",
            "general_settings.database_url",
            "general_settings.store_model_in_db",
            "new_thing",
        ] {
            assert!(outcome.findings.iter().any(|finding| finding.object == key), "{key}: {}", outcome.text);
        }
        let all = format!("{} {} {:?}", outcome.text, outcome.value, outcome.findings);
        assert!(!all.contains("hunter") && !all.contains("sk-master"), "{all}");
    }

    #[test]
    fn what_is_no_such_configuration_is_refused() {
        for yaml in ["[1, 2]", "a: 1", "model_list: {}"] {
            let config: Value = serde_saphyr::from_str(yaml).expect("YAML");
            assert_eq!(import(&config).expect_err(yaml).kind(), ErrorKind::Invalid, "{yaml}");
        }
        assert_eq!(imported("model_list: []").value["yaml"], "ai: {}\n");
        let odd = imported("model_list: [1, {model_name: x}, {model_name: y, litellm_params: {model: a/b}}]");
        assert_eq!(odd.findings.len(), 3, "{}", odd.text);
    }

    #[test]
    fn variables_in_addresses_are_told() {
        let outcome = imported(
            "model_list: [{model_name: m, litellm_params: {model: azure/d, api_base: os.environ/BASE, api_key: os.environ/K}}]",
        );
        assert!(outcome.text.contains("`BASE`") && outcome.text.contains(FILL_IN), "{}", outcome.text);
    }
}
