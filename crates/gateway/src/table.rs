//! What the hot path knows: compiled once from configuration, keys and grants, read without locks, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};

use contract::ai::{Call, Operation, Provider};
use contract::{Error, ErrorKind};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use jiff::Timestamp;
use outbound::{Upstream, UpstreamOptions};
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use wire::Format;

use crate::breaker::Breaker;
use crate::catalog::{Catalog, Found, Retired};
use crate::config::{
    AiConfig, Balance, PassThroughConfig, ProviderConfig, ProviderKind, RouteConfig, ServiceCanary,
    TargetConfig,
};
use crate::fingerprint::{Fingerprint, Fingerprints};
use crate::notice::Notices;
use crate::pool::{KeyId, Pool, ProviderKey};
use crate::retry::RetryBudget;
use crate::usd::Usd;

/// Routes made for single models that are kept; further ones are made anew for each request.
const DIRECT_ROUTES_MAX: usize = 1_024;

/// Everything that a request needs to know, for all projects of the daemon.
pub struct Table {
    fingerprints: Fingerprints,
    grants: HashMap<Fingerprint, Arc<Grant>>,
    projects: Vec<Arc<Project>>,
}

impl Table {
    /// A table of these projects and grants.
    pub fn new(
        fingerprints: Fingerprints,
        projects: Vec<Arc<Project>>,
        grants: impl IntoIterator<Item = (Fingerprint, Grant)>,
    ) -> Self {
        let grants = grants.into_iter().map(|(key, grant)| (key, Arc::new(grant))).collect();
        Self { fingerprints, grants, projects }
    }

    /// What the holder of this virtual key may do.
    pub fn grant(&self, key: &[u8]) -> Option<&Arc<Grant>> {
        self.grants.get(&self.fingerprints.of(key))
    }

    /// A keyed hash of this installation, cut to 128 bits: to recognise something by, not to read it.
    pub(crate) fn mark(&self, bytes: &[u8]) -> u128 {
        let mark = self.fingerprints.of(bytes).0;
        u128::from_be_bytes(std::array::from_fn(|at| mark[at]))
    }

    /// All grants.
    pub fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.grants.values()
    }

    /// The projects.
    pub fn projects(&self) -> &[Arc<Project>] {
        &self.projects
    }

    /// The project of this name.
    pub fn project(&self, name: &str) -> Option<&Arc<Project>> {
        self.projects.iter().find(|project| &*project.name == name)
    }

    /// Whether a path belongs to a declared pass-through route of any project.
    pub fn passes_through(&self, path: &str) -> bool {
        self.projects.iter().any(|project| project.pass_through_at(path).is_some())
    }
}

/// What the holder of a virtual key may do; compiled from the authority matrix.
pub struct Grant {
    /// The key's id, such as `vk_…`; never its value.
    pub id: Arc<str>,
    /// The key's name.
    pub name: Arc<str>,
    /// The person it belongs to.
    pub person: Option<Arc<str>>,
    /// Its project.
    pub project: Arc<Project>,
    /// Which routes and models it may ask for.
    pub reach: Reach,
    /// What it may do with them.
    pub rights: Rights,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// How much it may do.
    pub limits: Limits,
}

/// What a virtual key may do, whatever the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// Generate, embed, count tokens, and call pass-through routes.
    pub call: bool,
    /// Files, batches and training.
    pub fine_tune: bool,
}

/// How much a virtual key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests at the same time.
    pub concurrent: Option<u32>,
}

/// Which routes, models and pass-through routes a virtual key may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// All of its project.
    All,
    /// These: a route's name, `provider/model`, `provider/*`, or a pass-through route's name.
    Named(BTreeSet<Box<str>>),
}

impl Reach {
    /// Whether the name is within reach.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => {
                names.contains(name)
                    || name.split_once('/').is_some_and(|(provider, _)| {
                        names.iter().any(|known| known.strip_suffix("/*") == Some(provider))
                    })
            }
        }
    }
}

/// A project's providers and routes.
pub struct Project {
    /// Its name.
    pub name: Arc<str>,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    routes: BTreeMap<Box<str>, Arc<Route>>,
    providers: BTreeMap<Box<str>, Arc<OpenProvider>>,
    pass_through: Vec<Arc<PassThrough>>,
    /// Routes for single models, made when first asked for.
    direct: Mutex<HashMap<Box<str>, Arc<Route>>>,
    upstreams: BTreeMap<UpstreamKey, Upstream>,
    catalog: Catalog,
    health: Mutex<BTreeMap<ModelKey, Health>>,
    /// Models that training made for this project, and those that it made for others.
    tuned: BTreeSet<ModelKey>,
    of_others: BTreeSet<Box<str>>,
}

/// Provider and model.
type ModelKey = (Box<str>, Box<str>);
/// Milliseconds to connect, and certificates.
type UpstreamKey = (u64, Option<Vec<u8>>);

/// What is known about a target from experience; survives a new table.
#[derive(Clone, Default)]
struct Health {
    breaker: Arc<Breaker>,
    in_flight: Arc<AtomicU32>,
}

/// What a project is compiled from.
pub struct ProjectParts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its configuration, checked.
    pub config: &'a AiConfig,
    /// The adapter of each provider, by the provider's name.
    pub adapters: BTreeMap<String, Arc<dyn Provider>>,
    /// Values of the secrets that the configuration names, or why one cannot be used. A provider goes without those.
    pub secrets: BTreeMap<String, Result<KeyVersions, String>>,
    /// Who hears of changes in the states of keys.
    pub notices: Notices,
    /// Contents of the certificate files that the configuration names.
    pub certificates: BTreeMap<std::path::PathBuf, Vec<u8>>,
    /// What is known of models.
    pub catalog: Catalog,
    /// What training has made, in all projects of the state.
    pub tuned: Vec<Tuned>,
}

/// A model that training made through the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuned {
    /// The project that it belongs to; no other one may call it.
    pub project: String,
    /// The provider's name there.
    pub provider: String,
    /// The provider's name for the model.
    pub model: String,
    /// What was trained.
    pub base: String,
}

/// The versions of a secret that may serve as a key.
pub struct KeyVersions {
    /// The version that serves.
    pub version: i64,
    /// Its value.
    pub value: SecretString,
    /// The version that stands by while a rotation overlaps, with its value.
    pub standby: Option<(i64, SecretString)>,
}

impl From<SecretString> for KeyVersions {
    fn from(value: SecretString) -> Self {
        Self { version: 1, value, standby: None }
    }
}

/// A provider with its keys.
pub struct OpenProvider {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: ProviderKind,
    /// Knows its paths, headers and errors.
    pub adapter: Arc<dyn Provider>,
    /// Its keys.
    pub pool: Arc<Pool>,
    /// Its retries.
    pub retries: Arc<RetryBudget>,
    /// Formats that it understands, best first.
    pub formats: Vec<Format>,
    /// Where it is, without a slash at the end.
    pub url: Box<str>,
    /// Whether it takes Anthropic's marks for its cache in chat completions.
    pub(crate) cache_control: bool,
    models: Option<BTreeSet<String>>,
    certificates: Option<Vec<u8>>,
    /// Whether retired names are asked for by their successors.
    follows: bool,
    /// Whether it is told the trace that a client began.
    pub(crate) hears_traces: bool,
}

/// A name that clients use as `model`, with its targets.
pub struct Route {
    /// The name.
    pub name: Arc<str>,
    /// Who may answer, by priority.
    pub targets: Vec<Arc<Target>>,
    /// Everything else that the configuration says about it.
    pub config: RouteConfig,
}

/// A model of a provider.
pub struct Target {
    /// The provider.
    pub provider: Arc<OpenProvider>,
    /// The provider's name for the model.
    pub model: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// Lower is asked first.
    pub priority: u32,
    /// The retired name in whose place the model is asked; where [`Target::is_gone`], the name that nobody took.
    pub retired: Option<Retired>,
    /// The provider serves it no longer, and nothing has taken its place: it is not asked.
    pub is_gone: bool,
    /// Tokens that it takes, if known.
    pub context_tokens: Option<u64>,
    /// Tokens that its answer may have, if known.
    pub output_tokens_max: Option<u64>,
    /// Whether it is asked at all.
    pub breaker: Arc<Breaker>,
    /// Requests that it is working on.
    pub in_flight: Arc<AtomicU32>,
    /// The way there.
    pub upstream: Upstream,
    /// Training made the model: nobody's table of models knows it.
    pub is_tuned: bool,
    /// `provider/model`, as a header's value.
    shown: HeaderValue,
    lanes: Vec<Lane>,
    embed: Option<(Format, Ready, Option<Ready>)>,
    count: Vec<(Format, Ready)>,
}

/// Where a model generates in one format.
pub struct Lane {
    /// The format of the request and its answer.
    pub format: Format,
    /// Where a whole answer comes from.
    pub plain: Ready,
    /// Where a stream comes from.
    pub streaming: Ready,
}

/// A call that only needs its body and its key.
pub struct Ready {
    /// The method.
    pub method: Method,
    /// The whole address.
    pub uri: Uri,
    /// Headers that the provider wants.
    pub headers: HeaderMap,
}

// By hand: below them are providers with their keys.
impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("name", &self.name)
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider.name, self.model)
    }
}

impl Target {
    /// Where a request in this format goes: unchanged if the provider understands it, else in the provider's own.
    pub fn lane(&self, format: Format) -> &Lane {
        self.lanes.iter().find(|lane| lane.format == format).unwrap_or(&self.lanes[0])
    }

    /// Whether a client that asks for this name means it: the model's own, or the retired one in whose place it is asked.
    fn is_known_as(&self, asked: &str) -> bool {
        *self.model == *asked || self.retired.as_ref().is_some_and(|retired| *retired.model == *asked)
    }

    /// `provider/model`, as a header's value.
    pub(crate) fn shown(&self) -> &HeaderValue {
        &self.shown
    }

    /// Where embeddings come from, in whose words; the second address takes several texts where one does not.
    pub fn embed(&self) -> Option<&(Format, Ready, Option<Ready>)> {
        self.embed.as_ref()
    }

    /// Where tokens are counted, in whichever format.
    pub(crate) fn counts(&self) -> Option<(Format, &Ready)> {
        self.count.first().map(|(format, ready)| (*format, ready))
    }

    /// Where tokens of a request in this format are counted.
    pub fn count(&self, format: Format) -> Option<&Ready> {
        self.count.iter().find(|(known, _)| *known == format).map(|(_, ready)| ready)
    }
}

/// Another service that is forwarded as it is.
pub struct PassThrough {
    /// Its name.
    pub name: Arc<str>,
    /// The path under which clients find it.
    pub prefix: Box<str>,
    /// Where it is, without a slash at the end.
    pub url: Box<str>,
    /// What a call costs.
    pub price: Option<Usd>,
    /// As a route with one target, for accounts and receipts.
    pub route: Arc<Route>,
    /// A call that shows whether a key works.
    pub canary: Option<ServiceCanary>,
}

impl PassThrough {
    /// Its keys.
    pub fn pool(&self) -> &Pool {
        &self.route.targets[0].provider.pool
    }
}

impl Project {
    /// Compiles a project. Connections, breakers and the states of keys that did not change are taken over from
    /// `previous`.
    ///
    /// # Errors
    ///
    /// `Invalid`: an address, a key or a certificate cannot be used; with the context `key`.
    pub fn build(parts: &ProjectParts<'_>, previous: Option<&Self>) -> Result<Arc<Self>, Error> {
        let mut project = Self {
            name: parts.name.into(),
            body_bytes_max: parts.config.body_bytes_max,
            routes: BTreeMap::new(),
            providers: BTreeMap::new(),
            pass_through: Vec::new(),
            direct: Mutex::default(),
            upstreams: BTreeMap::new(),
            catalog: parts.catalog.clone(),
            health: Mutex::default(),
            tuned: BTreeSet::new(),
            of_others: BTreeSet::new(),
        };
        for tuned in &parts.tuned {
            if tuned.project == parts.name {
                project.tuned.insert((tuned.provider.as_str().into(), tuned.model.as_str().into()));
            } else {
                project.of_others.insert(tuned.model.as_str().into());
            }
        }
        let own: Vec<_> = project.tuned.iter().map(|(_, model)| model.clone()).collect();
        project.of_others.retain(|model| !own.contains(model));
        if let Some(previous) = previous {
            let health = previous.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
            project.health = Mutex::new(health);
        }
        for (name, config) in &parts.config.providers {
            let adapter = parts.adapters.get(name).ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, "there is no adapter for this provider")
                    .with("key", format!("ai.providers.{name}.kind"))
            })?;
            let known = previous.and_then(|previous| previous.providers.get(name.as_str()));
            let provider = OpenProvider::open(name, config, adapter, parts, known)
                .map_err(|error| error.with("key", format!("ai.providers.{name}")))?;
            project.providers.insert(name.as_str().into(), Arc::new(provider));
        }
        for (name, config) in &parts.config.routes {
            let route = project
                .route(name, config, previous)
                .map_err(|error| error.with("key", format!("ai.routes.{name}")))?;
            project.routes.insert(name.as_str().into(), Arc::new(route));
        }
        for (name, config) in &parts.config.pass_through {
            let forwarded = project
                .open_pass_through(name, config, parts, previous)
                .map_err(|error| error.with("key", format!("ai.pass_through.{name}")))?;
            project.pass_through.push(Arc::new(forwarded));
        }
        // Direct routes need a client too; the one with the default times serves them.
        let certificates: BTreeSet<_> =
            project.providers.values().map(|provider| provider.certificates.clone()).collect();
        for pem in certificates {
            project.upstream(direct_config().timeouts.connect_ms, pem, previous)?;
        }
        Ok(Arc::new(project))
    }

    /// The routes by name.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// The providers by name.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<OpenProvider>> {
        self.providers.values()
    }

    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Arc<OpenProvider>> {
        self.providers.get(name)
    }

    /// The way to a provider for calls that belong to no route.
    pub fn upstream_of(&self, provider: &OpenProvider) -> Option<&Upstream> {
        self.upstreams.get(&(direct_config().timeouts.connect_ms, provider.certificates.clone()))
    }

    /// The declared pass-through routes.
    pub fn pass_through(&self) -> &[Arc<PassThrough>] {
        &self.pass_through
    }

    /// The pass-through route that this path belongs to.
    pub fn pass_through_at(&self, path: &str) -> Option<&Arc<PassThrough>> {
        self.pass_through.iter().find(|forwarded| crate::config::within(&forwarded.prefix, path))
    }

    /// The route for what a client sent as `model`: a route's name, `provider/model`, or a model that a provider lists
    /// or a route leads to.
    pub fn resolve(&self, asked: &str) -> Option<Arc<Route>> {
        if let Some(route) = self.routes.get(asked) {
            return Some(Arc::clone(route));
        }
        if self.is_of_others(asked) {
            return None;
        }
        if let Some((provider, model)) = asked.split_once('/')
            && let Some(provider) = self.providers.get(provider)
            && !model.is_empty()
        {
            let lists = |model: &str| provider.models.as_ref().is_none_or(|models| models.contains(model));
            let listed = lists(model)
                || lists(&self.sent_for(provider, model).model)
                || self.is_tuned(&provider.name, model);
            return if listed { self.direct(provider, model) } else { None };
        }
        let lists =
            |provider: &OpenProvider| provider.models.as_ref().is_some_and(|models| models.contains(asked));
        if let Some(provider) = self.providers.values().find(|provider| lists(provider)) {
            return self.direct(provider, asked);
        }
        if let Some((provider, _)) = self.tuned.iter().find(|(_, model)| **model == *asked)
            && let Some(provider) = self.providers.get(provider)
        {
            return self.direct(provider, asked);
        }
        let led_to = || self.routes.values().flat_map(|route| &route.targets);
        if let Some(target) = led_to().find(|target| target.is_known_as(asked)) {
            return self.direct(&target.provider, asked);
        }
        // A retired name stands for its successor where that could be asked for.
        for provider in self.providers.values() {
            let found = self.sent_for(provider, asked);
            if found.retired.is_some()
                && !found.is_gone
                && (provider.models.as_ref().is_some_and(|models| models.contains(&*found.model))
                    || led_to().any(|target| {
                        Arc::ptr_eq(&target.provider, provider) && *target.model == *found.model
                    }))
            {
                return self.direct(provider, asked);
            }
        }
        None
    }

    /// What a provider is asked for when a client asks for this model.
    fn sent_for(&self, provider: &OpenProvider, model: &str) -> Found {
        self.catalog.find(&provider.name, provider.kind.as_str(), provider.follows, model)
    }

    /// Why a name leads nowhere, where it is that of a model that was retired.
    pub(crate) fn farewell(&self, asked: &str) -> Option<String> {
        let (named, model) = match asked.split_once('/') {
            Some((provider, model)) => (Some(provider), model),
            None => (None, asked),
        };
        let of = |provider: &OpenProvider| self.catalog.farewell(provider.kind.as_str(), model);
        match named {
            Some(name) => of(self.providers.get(name)?),
            None => self.providers.values().find_map(|provider| of(provider)),
        }
    }

    /// Names that clients may use as `model`: routes, then what providers list.
    pub fn model_names(&self) -> Vec<(String, &'static str)> {
        let routes = self.routes.keys().map(|name| (name.to_string(), "steward"));
        let listed = self.providers.iter().flat_map(|(name, provider)| {
            provider
                .models
                .iter()
                .flatten()
                .map(move |model| (format!("{name}/{model}"), provider.kind.as_str()))
        });
        let tuned = self.tuned.iter().filter_map(|(name, model)| {
            let provider = self.providers.get(name)?;
            let listed = provider.models.as_ref().is_some_and(|models| models.contains(&**model));
            (!listed).then(|| (format!("{name}/{model}"), provider.kind.as_str()))
        });
        routes.chain(listed).chain(tuned).collect()
    }

    /// Whether training made this model for this project.
    fn is_tuned(&self, provider: &str, model: &str) -> bool {
        self.tuned.contains(&(Box::from(provider), Box::from(model)))
    }

    /// Whether this is a model that training made for another project; with its provider in front or not.
    pub(crate) fn is_of_others(&self, asked: &str) -> bool {
        // Checkpoints of a model have its name with more behind it.
        let is = |asked: &str| {
            self.of_others.iter().any(|theirs| {
                asked.strip_prefix(&**theirs).is_some_and(|more| more.is_empty() || more.starts_with(':'))
            })
        };
        !self.of_others.is_empty() && (is(asked) || asked.split_once('/').is_some_and(|(_, model)| is(model)))
    }

    pub(crate) fn direct(&self, provider: &Arc<OpenProvider>, model: &str) -> Option<Arc<Route>> {
        let asked = format!("{}/{model}", provider.name);
        let mut direct = self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = direct.get(asked.as_str()) {
            return Some(Arc::clone(route));
        }
        let config = direct_config();
        let target = TargetConfig {
            provider: provider.name.to_string(),
            model: model.to_owned(),
            weight: 1,
            priority: 1,
            context_tokens: None,
        };
        let key = (config.timeouts.connect_ms, provider.certificates.clone());
        let upstream = self.upstreams.get(&key)?.clone();
        let found = self.sent_for(provider, model);
        let health = self.health(provider, &found.model);
        let name = format!("{}/{}", provider.name, found.model);
        let target = Target::build(provider, &target, upstream, health, found).ok()?;
        let route = Arc::new(Route { name: name.into(), targets: vec![Arc::new(target)], config });
        if direct.len() < DIRECT_ROUTES_MAX {
            direct.insert(asked.into(), Arc::clone(&route));
        }
        Some(route)
    }

    fn route(&mut self, name: &str, config: &RouteConfig, previous: Option<&Self>) -> Result<Route, Error> {
        let mut targets = Vec::new();
        for target in &config.targets {
            let provider = self.providers.get(target.provider.as_str()).cloned().ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("there is no provider `{}`", target.provider))
            })?;
            let upstream =
                self.upstream(config.timeouts.connect_ms, provider.certificates.clone(), previous)?;
            let found = self.sent_for(&provider, &target.model);
            if let Some(retired) = &found.retired {
                tracing::warn!(
                    route = name,
                    provider = &*provider.name,
                    model = &*retired.model,
                    since = %retired.since,
                    successor = if found.is_gone { "none" } else { &*found.model },
                    "a target's model is served no longer"
                );
            }
            let health = self.health(&provider, &found.model);
            targets.push(Arc::new(Target::build(&provider, target, upstream, health, found)?));
        }
        targets.sort_by_key(|target| target.priority);
        Ok(Route { name: name.into(), targets, config: config.clone() })
    }

    fn open_pass_through(
        &mut self,
        name: &str,
        config: &PassThroughConfig,
        parts: &ProjectParts<'_>,
        previous: Option<&Self>,
    ) -> Result<PassThrough, Error> {
        let url = plain_url(&config.url)?;
        let header = match &config.key_header {
            Some(header) => HeaderName::try_from(header.as_str())
                .map_err(|cause| Error::new(ErrorKind::Invalid, "this is no header's name").because(cause))?,
            None => http::header::AUTHORIZATION,
        };
        let adapter = Arc::new(Opaque { header, bearer: config.key_header.is_none() });
        let authorize = |key: &SecretString| adapter.authorize(key);
        let known = previous
            .and_then(|previous| previous.pass_through.iter().find(|known| &*known.name == name))
            .map(|known| &known.route.targets[0].provider);
        let pool = open_pool(name, &config.keys, parts, known.map(|known| &*known.pool), &authorize);
        let certificates = pem(config.certificates.as_ref(), parts);
        let provider = Arc::new(OpenProvider {
            name: name.into(),
            kind: ProviderKind::Openai,
            adapter: adapter.clone(),
            pool: Arc::new(pool),
            retries: Arc::default(),
            formats: Vec::new(),
            url: url.as_str().into(),
            cache_control: false,
            models: None,
            certificates: certificates.clone(),
            follows: false,
            hears_traces: config.trace_context,
        });
        let upstream = self.upstream(config.timeouts.connect_ms, certificates, previous)?;
        let health = self.health(&provider, "");
        let target = Target {
            provider,
            model: "".into(),
            weight: 1,
            priority: 1,
            retired: None,
            is_gone: false,
            context_tokens: None,
            output_tokens_max: None,
            breaker: health.breaker,
            in_flight: health.in_flight,
            upstream,
            is_tuned: false,
            shown: shown(name, ""),
            lanes: Vec::new(),
            embed: None,
            count: Vec::new(),
        };
        let mut route = direct_config();
        route.timeouts = config.timeouts;
        Ok(PassThrough {
            name: name.into(),
            prefix: config.prefix.as_str().into(),
            url: url.into(),
            price: config.usd_per_call,
            canary: config.canary.clone(),
            route: Arc::new(Route { name: name.into(), targets: vec![Arc::new(target)], config: route }),
        })
    }

    fn health(&self, provider: &OpenProvider, model: &str) -> Health {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(&*provider.name), Box::from(model));
        if health.len() >= 4 * DIRECT_ROUTES_MAX && !health.contains_key(&key) {
            return Health::default();
        }
        health.entry(key).or_default().clone()
    }

    fn upstream(
        &mut self,
        connect_ms: u64,
        certificates: Option<Vec<u8>>,
        previous: Option<&Self>,
    ) -> Result<Upstream, Error> {
        let key = (connect_ms, certificates);
        if let Some(upstream) = self.upstreams.get(&key) {
            return Ok(upstream.clone());
        }
        let upstream = match previous.and_then(|previous| previous.upstreams.get(&key)) {
            Some(upstream) => upstream.clone(),
            None => Upstream::new(&UpstreamOptions {
                connect_timeout: std::time::Duration::from_millis(connect_ms),
                extra_roots_pem: key.1.clone(),
                ..UpstreamOptions::default()
            })?,
        };
        self.upstreams.insert(key, upstream.clone());
        Ok(upstream)
    }
}

/// Settings of a route that nobody wrote.
fn direct_config() -> RouteConfig {
    RouteConfig {
        targets: Vec::new(),
        balance: Balance::default(),
        retry: crate::config::RetryConfig::default(),
        timeouts: crate::config::TimeoutsConfig::default(),
        cache: None,
        store_prompts: None,
        max_tokens: 4_096,
    }
}

fn pem(path: Option<&std::path::PathBuf>, parts: &ProjectParts<'_>) -> Option<Vec<u8>> {
    path.and_then(|path| parts.certificates.get(path)).cloned()
}

/// The URL without a slash at its end.
fn plain_url(text: &str) -> Result<String, Error> {
    let url =
        Url::parse(text).map_err(|cause| Error::new(ErrorKind::Invalid, "this is no URL").because(cause))?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The same, with `path` when the URL has none.
fn based(text: &str, path: &str) -> Result<String, Error> {
    let url = plain_url(text)?;
    let has_path = url.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    Ok(if has_path { url } else { url + path })
}

type Authorize<'a> = dyn Fn(&SecretString) -> Result<(HeaderName, HeaderValue), Error> + 'a;

/// The keys that are there; one whose value did not change keeps its state. One that cannot be used is told with why.
fn open_pool(
    provider: &str,
    names: &[String],
    parts: &ProjectParts<'_>,
    known: Option<&Pool>,
    authorize: &Authorize<'_>,
) -> Pool {
    if names.is_empty() {
        return match known {
            Some(known)
                if known.keys().iter().all(|key| key.secret().is_none()) && !known.keys().is_empty() =>
            {
                Pool::new(known.keys().to_vec())
            }
            _ => Pool::new(Vec::new()),
        };
    }
    let open = |name: &str, version: i64, value: &SecretString| {
        let id =
            KeyId { project: parts.name.into(), provider: provider.into(), secret: name.into(), version };
        let unchanged = known.and_then(|known| {
            known.keys().iter().find(|key| {
                key.id() == Some(&id)
                    && key.secret().is_some_and(|known| known.expose_secret() == value.expose_secret())
            })
        });
        match unchanged {
            Some(key) => Ok(Arc::clone(key)),
            None => authorize(value)
                .map(|header| Arc::new(ProviderKey::new(id, header, value.clone(), parts.notices.clone())))
                .map_err(|error| error.message().to_owned()),
        }
    };
    let (mut serving, mut standby, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let versions = match parts.secrets.get(name) {
            Some(Ok(versions)) => versions,
            Some(Err(why)) => {
                missing.push((name.as_str().into(), why.clone()));
                continue;
            }
            None => {
                missing.push((name.as_str().into(), "the secret was not read".to_owned()));
                continue;
            }
        };
        match open(name, versions.version, &versions.value) {
            Ok(key) => serving.push(key),
            Err(why) => missing.push((name.as_str().into(), why)),
        }
        if let Some((version, value)) = &versions.standby {
            standby.extend(open(name, *version, value).ok());
        }
    }
    Pool::assemble(serving, standby, missing, known)
}

impl OpenProvider {
    fn open(
        name: &str,
        config: &ProviderConfig,
        adapter: &Arc<dyn Provider>,
        parts: &ProjectParts<'_>,
        known: Option<&Arc<Self>>,
    ) -> Result<Self, Error> {
        let url =
            config.url.as_deref().or(adapter.default_url()).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "the provider has no address").hint("set `url`")
            })?;
        let authorize = |key: &SecretString| adapter.authorize(key);
        let pool = open_pool(name, &config.keys, parts, known.map(|known| &*known.pool), &authorize);
        let formats = adapter.formats().iter().copied();
        let formats: Vec<Format> = match &config.formats {
            Some(some) => formats.filter(|format| some.contains(format)).collect(),
            // Most servers that are compatible with OpenAI know chat completions and nothing else.
            None if config.kind == ProviderKind::Openai && config.url.is_some() => formats.take(1).collect(),
            None => formats.collect(),
        };
        if formats.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the provider's kind has none of these formats"));
        }
        Ok(Self {
            name: name.into(),
            kind: config.kind,
            adapter: Arc::clone(adapter),
            pool: Arc::new(pool),
            retries: known.map(|known| Arc::clone(&known.retries)).unwrap_or_default(),
            formats,
            url: based(url, adapter.default_path())?.into(),
            cache_control: config.cache_control,
            models: config.models.clone(),
            certificates: pem(config.certificates.as_ref(), parts),
            follows: config.follows_successors(),
            hears_traces: config.trace_context,
        })
    }

    /// Where a call goes.
    ///
    /// # Errors
    ///
    /// As [`Provider::endpoint`].
    pub fn ready(&self, call: &Call<'_>) -> Result<Ready, Error> {
        let endpoint = self.adapter.endpoint(call)?;
        let uri = format!("{}{}", self.url, endpoint.path);
        let uri = Uri::try_from(uri).map_err(|cause| {
            Error::new(ErrorKind::Invalid, "the model's name makes no address").because(cause)
        })?;
        Ok(Ready { method: endpoint.method, uri, headers: endpoint.headers.into_iter().collect() })
    }

    /// Models that may be asked for without a route; `None`: any.
    pub fn models(&self) -> Option<&BTreeSet<String>> {
        self.models.as_ref()
    }
}

impl Target {
    fn build(
        provider: &Arc<OpenProvider>,
        config: &TargetConfig,
        upstream: Upstream,
        health: Health,
        found: Found,
    ) -> Result<Self, Error> {
        let model = &*found.model;
        let ready = |operation| provider.ready(&Call { operation, model });
        let mut lanes = Vec::new();
        for &format in &provider.formats {
            lanes.push(Lane {
                format,
                plain: ready(Operation::Generate { format, streaming: false })?,
                streaming: ready(Operation::Generate { format, streaming: true })?,
            });
        }
        let embed = match provider.adapter.embeds_as() {
            Some(format) => {
                ready(Operation::Embed).ok().map(|one| (format, one, ready(Operation::EmbedBatch).ok()))
            }
            None => None,
        };
        let count = provider
            .formats
            .iter()
            .filter_map(|&format| Some((format, ready(Operation::CountTokens(format)).ok()?)))
            .collect();
        Ok(Self {
            provider: Arc::clone(provider),
            model: Arc::clone(&found.model),
            weight: config.weight,
            priority: config.priority,
            retired: found.retired,
            is_gone: found.is_gone,
            context_tokens: config.context_tokens.or(found.context_tokens),
            output_tokens_max: found.output_tokens_max,
            breaker: health.breaker,
            in_flight: health.in_flight,
            upstream,
            is_tuned: model.starts_with("ft:") || model.contains(".ft-"),
            shown: shown(&provider.name, model),
            lanes,
            embed,
            count,
        })
    }
}

fn shown(provider: &str, model: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{provider}/{model}")).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

/// A service of which only the address is known, and where it wants its key.
struct Opaque {
    header: HeaderName,
    bearer: bool,
}

impl Provider for Opaque {
    fn kind(&self) -> &'static str {
        "pass_through"
    }

    fn default_url(&self) -> Option<&'static str> {
        None
    }

    fn default_path(&self) -> &'static str {
        ""
    }

    fn formats(&self) -> &'static [Format] {
        &[]
    }

    fn embeds_as(&self) -> Option<Format> {
        None
    }

    fn endpoint(&self, _call: &Call<'_>) -> Result<contract::ai::Endpoint, Error> {
        Err(Error::new(ErrorKind::Unsupported, "this service is only forwarded"))
    }

    fn authorize(&self, key: &SecretString) -> Result<(HeaderName, HeaderValue), Error> {
        let bearer = if self.bearer { "Bearer " } else { "" };
        let value = HeaderValue::try_from(format!("{bearer}{}", key.expose_secret()));
        let mut value = value.map_err(|_| {
            Error::new(ErrorKind::Invalid, "the key holds characters that no header may have")
        })?;
        value.set_sensitive(true);
        Ok((self.header.clone(), value))
    }

    fn classify(&self, rejection: &contract::ai::Rejection<'_>) -> contract::ai::Failure {
        use contract::ai::{Failure, FailureClass};
        let class = FailureClass::of_status(rejection.status.as_u16());
        Failure::new(class, &String::from_utf8_lossy(&rejection.body[..rejection.body.len().min(300)]))
            .after(outbound::retry_after(rejection.headers, rejection.now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_is_a_name_or_a_provider() {
        let named = Reach::Named(["fast", "openai/gpt-5-mini", "anthropic/*"].map(Box::from).into());
        for (name, allowed) in [
            ("fast", true),
            ("smart", false),
            ("openai/gpt-5-mini", true),
            ("openai/gpt-5", false),
            ("anthropic/claude-haiku-4-5", true),
            ("anthropic", false),
            ("", false),
        ] {
            assert_eq!(named.allows(name), allowed, "{name}");
            assert!(Reach::All.allows(name));
        }
    }
}
