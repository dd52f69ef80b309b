//! The AI gateway of this process: its table, made from the project files, the vault and the ledger, and what must happen
//! beside the hot path: keys that come back, rotations that go on, states that others read, what the PM must hear.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use contract::ai::Provider;
use contract::{Actor, Context, Error, ErrorKind, Finding, Outcome, Severity, SharedCounters, Trigger};
use gateway::{
    About, Accounts, AiConfig, Callable, Catalog, CountersConfig, CountersKind, Fingerprint, Gateway, Grant,
    Jobs, KeyState, KeyVersions, Limits, ListKeys, ListModels, ListRoutes, Names, Notice, Notices,
    ProjectCanary, ProjectParts, PromptStore, ProviderConfig, ProviderKind, Reach, Rights, Rotation, Stage,
    State, States, Table, TestTargets, Trouble, VirtualKey, Watch,
};
use jiff::Timestamp;
use jiff::civil::Date;
use ledger::NewEvent;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Environment;
use crate::door::Steward;
use crate::project::Project;
use crate::{daemon, holder};

/// How often changes made by other processes are looked for.
const POLL: Duration = Duration::from_millis(200);
/// How often states are written and rotations, canaries and troubles looked at.
const UPKEEP: Duration = Duration::from_secs(1);
/// Escalations, and notices of keys, that wait until the state file can be written.
const UNTOLD_MAX: usize = 1_000;
/// How often stored prompts are looked through for those whose time is over.
const SWEEP: Duration = Duration::from_hours(1);
/// Longest list of certificates that is read.
const CERTIFICATES_BYTES_MAX: u64 = 1 << 20;

/// The adapter for a provider's kind.
fn adapter(config: &ProviderConfig) -> Arc<dyn Provider> {
    match config.kind {
        ProviderKind::Openai => Arc::new(ai_openai::OpenAi),
        ProviderKind::AzureOpenai => Arc::new(ai_azure_openai::AzureOpenAi::new(
            config.api_version.clone(),
            config.deployments.clone(),
        )),
        ProviderKind::Anthropic => Arc::new(ai_anthropic::Anthropic),
        ProviderKind::Gemini => Arc::new(ai_gemini::Gemini),
    }
}

/// What kind of data the project holds, as the matrix calls it.
pub(crate) fn environment(project: &Project) -> authority::Environment {
    match project.loaded().config.environment {
        Environment::Development => authority::Environment::Development,
        Environment::Staging => authority::Environment::Staging,
        Environment::Production => authority::Environment::Production,
    }
}

/// The counters that the projects share with other daemons; one server for all of them.
async fn shared_counters(steward: &Steward) -> Result<Option<Arc<dyn SharedCounters>>, Error> {
    let mut found: Option<(CountersConfig, Arc<dyn SharedCounters>)> = None;
    for project in steward.projects() {
        let Some(wanted) = &config(&project).counters else { continue };
        match &found {
            Some((known, _)) if known == wanted => continue,
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "the projects of one daemon name different counters",
                )
                .with("key", "ai.counters")
                .with("project", project.name())
                .hint("name the same server in all of them"));
            }
            None => {}
        }
        let ctx = Context::new(project.name(), Actor::system());
        let password = match &wanted.password_secret {
            Some(name) => Some(project.secrets().secret(&ctx, name).await?),
            None => None,
        };
        let opened: Arc<dyn SharedCounters> = match wanted.kind {
            CountersKind::Redis => {
                let config =
                    counters_redis::RedisConfig { url: wanted.url.clone(), user: wanted.user.clone() };
                let opened = counters_redis::RedisCounters::new(&config, password);
                Arc::new(opened.map_err(|error| error.with("section", "ai.counters"))?)
            }
        };
        found = Some((wanted.clone(), opened));
    }
    Ok(found.map(|(_, opened)| opened))
}

fn config(project: &Project) -> &AiConfig {
    &project.loaded().config.ai
}

/// Whether the project file says anything about AI.
fn is_used(config: &AiConfig) -> bool {
    !config.providers.is_empty() || !config.pass_through.is_empty()
}

fn names<T>(map: &BTreeMap<String, T>) -> Vec<String> {
    map.keys().cloned().collect()
}

/// What scopes of virtual keys may name: routes, with pass-through routes, and providers.
pub(crate) fn scope_names(project: &Project) -> (Vec<String>, Vec<String>) {
    let config = config(project);
    let mut routes = names(&config.routes);
    routes.extend(config.pass_through.keys().cloned());
    (routes, names(&config.providers))
}

/// The secrets that hold a provider's keys.
///
/// # Errors
///
/// `NotFound`: there is no such provider.
pub(crate) fn keys_of(project: &Project, provider: &str) -> Result<Vec<String>, Error> {
    let config = config(project);
    if !config.providers.contains_key(provider)
        && config.pass_through.get(provider).is_some_and(|service| service.canary.is_none())
    {
        return Err(Error::new(ErrorKind::Invalid, "nothing shows whether a new key of this service works")
            .with("file", project.loaded().file.display())
            .with("key", format!("ai.pass_through.{provider}.canary"))
            .hint("name a small call that needs the key: `canary: { path: /health }`"));
    }
    let keys = config
        .providers
        .get(provider)
        .map(|provider| &provider.keys)
        .or_else(|| config.pass_through.get(provider).map(|forwarded| &forwarded.keys));
    keys.cloned().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no provider `{provider}`"))
            .with("file", project.loaded().file.display())
            .hint(format!("there are: {}", names(&config.providers).join(", ")))
    })
}

/// The versions of the project's provider keys that may serve, or why one cannot be used.
async fn secrets(
    steward: &Steward,
    ctx: &Context,
    config: &AiConfig,
) -> Result<BTreeMap<String, Result<KeyVersions, String>>, Error> {
    let named = config.providers.values().flat_map(|provider| &provider.keys);
    let named = named.chain(config.pass_through.values().flat_map(|forwarded| &forwarded.keys));
    let serving = steward.rotations().serving(ctx).await?;
    let mut secrets = BTreeMap::new();
    for name in named {
        let read = async {
            let versions = steward.vault().versions(ctx, name).await?;
            let (current, standby) = serving.of(name, &versions);
            let version = current.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "there is no such secret")
                    .hint(format!("store it with `steward secret put {name}`"))
            })?;
            let value = steward.vault().version(ctx, name, version).await?;
            let standby = match standby {
                Some(version) => Some((version, steward.vault().version(ctx, name, version).await?)),
                None => None,
            };
            Ok::<_, Error>(KeyVersions { version, value, standby })
        };
        let read = read.await.map_err(|error| match error.hint_text() {
            Some(hint) => format!("{}; {hint}", error.message()),
            None => error.message().to_owned(),
        });
        secrets.insert(name.clone(), read);
    }
    Ok(secrets)
}

fn certificates(project: &Project) -> Result<BTreeMap<PathBuf, Vec<u8>>, Error> {
    use std::io::Read;
    let config = config(project);
    let named = config.providers.values().filter_map(|provider| provider.certificates.as_ref());
    let named =
        named.chain(config.pass_through.values().filter_map(|forwarded| forwarded.certificates.as_ref()));
    let mut read = BTreeMap::new();
    for path in named {
        let mut bytes = Vec::new();
        std::fs::File::open(project.loaded().dir.join(path))
            .and_then(|file| file.take(CERTIFICATES_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(|cause| {
                Error::new(ErrorKind::Invalid, "cannot read the certificates")
                    .with("file", path.display())
                    .because(cause)
            })?;
        read.insert(path.clone(), bytes);
    }
    Ok(read)
}

/// Compiles a project for the gateway. A key that cannot be used is a state of its provider, no error.
///
/// # Errors
///
/// `Invalid`: a certificate or an address; otherwise as the ledger's.
pub(crate) async fn open(
    steward: &Steward,
    ctx: &Context,
    project: &Project,
    previous: Option<&gateway::Project>,
    notices: &Notices,
) -> Result<Arc<gateway::Project>, Error> {
    let config = config(project);
    let adapters =
        config.providers.iter().map(|(name, provider)| (name.clone(), adapter(provider))).collect();
    let parts = ProjectParts {
        name: project.name(),
        config,
        adapters,
        secrets: secrets(steward, ctx, config).await?,
        notices: notices.clone(),
        certificates: certificates(project)?,
        // A file of prices that cannot be read is told where the budgets are prepared.
        catalog: Catalog::new(
            Arc::new(prices(project).unwrap_or_else(|_| gateway::price::PriceTable::built_in())),
            ctx.now(),
        ),
        tuned: gateway::tuned(steward.ledger()).await?,
    };
    gateway::Project::build(&parts, previous)
}

/// What each virtual key may do, as compiled before; a key that has not changed is not decided about again.
#[derive(Default)]
struct Decided(HashMap<String, (VirtualKey, Reach, Rights)>);

/// The grants of a project's valid virtual keys.
async fn grants(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    opened: &Arc<gateway::Project>,
    decided: &mut Decided,
) -> Result<Vec<(Fingerprint, Grant)>, Error> {
    let now = ctx.now();
    let mut stored = steward.virtual_keys().stored(ctx).await?;
    stored.retain(|stored| stored.key.valid(now));
    let fresh: Vec<VirtualKey> = stored
        .iter()
        .filter(|stored| decided.0.get(&stored.key.id).is_none_or(|(known, ..)| *known != stored.key))
        .map(|stored| stored.key.clone())
        .collect();
    if !fresh.is_empty() {
        let (project, clock) = (Arc::clone(project), Arc::clone(steward.clock()));
        // A decision takes some ten microseconds, and each key needs one for each route.
        let compiled = tokio::task::spawn_blocking(move || {
            let config = config(&project);
            let (routes, providers, forwarded) =
                (names(&config.routes), names(&config.providers), names(&config.pass_through));
            let callable = Callable { routes: &routes, providers: &providers, pass_through: &forwarded };
            let compile = |key: VirtualKey| {
                let (reach, rights) =
                    gateway::compile(project.authority(), environment(&project), &clock, &key, callable);
                (key.id.clone(), (key, reach, rights))
            };
            fresh.into_iter().map(compile).collect::<Vec<_>>()
        })
        .await
        .map_err(|cause| Error::new(ErrorKind::Other, "the grants could not be compiled").because(cause))?;
        decided.0.extend(compiled);
    }
    decided.0.retain(|id, _| stored.iter().any(|stored| stored.key.id == *id));
    let usual = config(project).limits;
    let mut grants = Vec::new();
    for stored in stored {
        let key = stored.key;
        let (_, reach, rights) = &decided.0[&key.id];
        for (hash, until) in stored.hashes {
            let expires: Option<Timestamp> = [until, key.expires_at].into_iter().flatten().min();
            if expires.is_some_and(|expires| expires <= now) {
                continue;
            }
            let grant = Grant {
                id: key.id.as_str().into(),
                name: key.name.as_str().into(),
                person: key.person.as_deref().map(Into::into),
                project: Arc::clone(opened),
                reach: reach.clone(),
                rights: *rights,
                expires,
                limits: Limits {
                    requests_per_minute: key.rpm.or(usual.rpm),
                    tokens_per_minute: key.tpm.map(u64::from).or(usual.tpm),
                    concurrent: key.concurrent.or(usual.concurrent),
                },
            };
            grants.push((hash, grant));
        }
    }
    Ok(grants)
}

/// Generations of the gateway's records and of the secrets, the projects as they are open, and the day.
type Stamp = (i64, i64, Vec<usize>, Date);

/// What has to change for a project to be compiled again.
struct Known {
    project: Arc<Project>,
    decided: Decided,
    /// What went wrong when it was compiled last.
    error: Option<String>,
    written: BTreeMap<About, Value>,
    rotates: bool,
}

/// The gateway's table in a daemon, kept as the project files, the vault and the ledger are.
pub(crate) struct Ai {
    /// What the hot path reads.
    pub(crate) table: Arc<ArcSwap<Table>>,
    /// What the hot path tells of calls that ended.
    pub(crate) watch: Arc<Watch>,
    /// What the hot path tells of keys.
    pub(crate) notices: Notices,
    /// Limits, budgets and usage.
    pub(crate) accounts: Accounts,
    /// What routes that store prompts hand on.
    pub(crate) prompts: PromptStore,
    /// Batches and training.
    pub(crate) jobs: Jobs,
    steward: Arc<Steward>,
    known: tokio::sync::Mutex<BTreeMap<String, Known>>,
    busy: AtomicBool,
}

impl Ai {
    /// Makes the first table. A project that cannot be compiled has no routes until it can; the daemon lives.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub(crate) async fn start(steward: Arc<Steward>) -> Result<(Arc<Self>, mpsc::Receiver<Notice>), Error> {
        let (notices, inbox) = Notices::channel();
        let empty = Table::new(steward.fingerprints().clone(), Vec::new(), Vec::new());
        let shared = shared_counters(&steward).await?;
        let accounts =
            Accounts::open_shared(steward.ledger().clone(), Arc::clone(steward.clock()), shared).await?;
        let prompts = PromptStore::open(
            steward.ledger().clone(),
            steward.vault().as_ref().clone(),
            Arc::clone(steward.clock()),
            accounts.metrics(),
        );
        let jobs = Jobs::new(steward.ledger().clone(), accounts.clone(), Arc::clone(steward.clock()));
        let ai = Arc::new(Self {
            prompts,
            table: Arc::new(ArcSwap::from_pointee(empty)),
            watch: Arc::default(),
            notices,
            accounts,
            jobs,
            steward,
            known: tokio::sync::Mutex::default(),
            busy: AtomicBool::new(false),
        });
        ai.compile().await?;
        Ok((ai, inbox))
    }

    /// What was measured of a project's AI calls, for Prometheus.
    pub(crate) fn metrics(&self, project: &str) -> String {
        self.accounts.metrics().text(project, &self.table.load(), &self.accounts, Instant::now())
    }

    /// The hot path over this table.
    pub(crate) fn gateway(&self) -> Arc<Gateway> {
        let metering = Arc::new(self.accounts.clone());
        let gateway = Gateway::sharing(Arc::clone(&self.table), metering)
            .with_ledger(self.steward.ledger().clone())
            .storing(self.prompts.transcripts())
            .measured(self.accounts.metrics())
            .with_clock(Arc::clone(self.steward.clock()))
            .with_jobs(self.jobs.clone())
            .telling(Arc::clone(&self.watch), self.notices.clone());
        Arc::new(gateway)
    }

    fn context(&self, project: &str) -> Context {
        Context::new(project, Actor::system()).with_clock(Arc::clone(self.steward.clock()))
    }

    /// Compiles the table from what is there now, and puts it in the place of the old one.
    async fn compile(&self) -> Result<(), Error> {
        let mut known = self.known.lock().await;
        let before = self.table.load_full();
        let (mut projects, mut all) = (Vec::new(), Vec::new());
        let open_projects = self.steward.projects();
        known.retain(|name, _| open_projects.iter().any(|project| project.name() == name));
        for project in open_projects {
            if !is_used(config(&project)) {
                known.remove(project.name());
                continue;
            }
            let ctx = self.context(project.name());
            let entry = known.entry(project.name().to_owned()).or_insert_with(|| Known {
                project: Arc::clone(&project),
                decided: Decided::default(),
                error: None,
                written: BTreeMap::new(),
                rotates: false,
            });
            if !Arc::ptr_eq(&entry.project, &project) {
                entry.project = Arc::clone(&project);
                entry.decided = Decided::default();
            }
            let previous = before.project(project.name());
            let opened = open(&self.steward, &ctx, &project, previous.map(|it| &**it), &self.notices).await;
            let opened = match opened {
                Ok(opened) => {
                    entry.error = None;
                    opened
                }
                Err(error) => {
                    let text = self.steward.redact(&error.to_string());
                    tracing::error!(
                        project = project.name(),
                        error = text,
                        "the AI routes cannot be compiled"
                    );
                    entry.error = Some(text);
                    // Keys that were withdrawn are refused all the same.
                    match previous {
                        Some(previous) => Arc::clone(previous),
                        None => continue,
                    }
                }
            };
            all.extend(grants(&self.steward, &ctx, &project, &opened, &mut entry.decided).await?);
            entry.rotates = !self.steward.rotations().open(&ctx).await?.is_empty();
            projects.push(opened);
        }
        let count = all.len();
        let table = Table::new(self.steward.fingerprints().clone(), projects, all);
        // Budgets and prices come first: nobody is let in by a new table with old money.
        for entry in known.values_mut() {
            let project = &entry.project;
            let prepared = match prices(project) {
                Ok(prices) => {
                    let prices = Arc::new(prices);
                    self.accounts.prepare(project.name(), config(project), prices, Some(&table)).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = prepared {
                let text = self.steward.redact(&error.to_string());
                tracing::error!(project = project.name(), error = text, "the AI budgets cannot be prepared");
                entry.error.get_or_insert(text);
            }
        }
        self.table.store(Arc::new(table));
        tracing::debug!(grants = count, "the gateway's table was compiled");
        Ok(())
    }

    /// Follows changes and looks after keys until the daemon stops.
    pub(crate) async fn follow(
        self: Arc<Self>,
        mut inbox: mpsc::Receiver<Notice>,
        stop: CancellationToken,
        tracker: TaskTracker,
    ) {
        let mut seen = None;
        let mut due = Instant::now();
        let mut sweep = Instant::now();
        // What could not be recorded waits for the state file.
        let (mut unheard, mut untold) = (Vec::new(), Vec::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(notice) = inbox.recv() => {
                    if let Err(error) = self.heard(notice.clone()).await {
                        tracing::warn!(%error, "cannot record what was noticed of a key; it is tried again");
                        if unheard.len() < UNTOLD_MAX {
                            unheard.push(notice);
                        }
                    }
                    continue;
                }
                () = tokio::time::sleep(POLL) => {}
            }
            self.look(&mut seen).await;
            if Instant::now() >= due {
                due = Instant::now() + UPKEEP;
                for notice in std::mem::take(&mut unheard) {
                    if self.heard(notice.clone()).await.is_err() {
                        unheard.push(notice);
                    }
                }
                self.tell_troubles(&mut untold).await;
                self.write_states().await;
                self.look_after_keys(&tracker, &stop).await;
                self.look_after_jobs(&tracker, &stop);
            }
            if Instant::now() >= sweep {
                sweep = Instant::now() + SWEEP;
                self.sweep_prompts().await;
            }
        }
    }

    /// Puts a new table in place if anything has changed that it is made from.
    async fn look(&self, seen: &mut Option<Stamp>) {
        match self.stamp().await {
            Ok(stamp) if seen.as_ref() != Some(&stamp) => match self.compile().await {
                Ok(()) => *seen = Some(stamp),
                // Tried again at the next look: a withdrawn key must not stay in the table.
                Err(error) => tracing::error!(%error, "cannot compile the gateway's table"),
            },
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot read the generation"),
        }
    }

    /// Deletes stored prompts whose time is over, also of projects that store none any more.
    async fn sweep_prompts(&self) {
        for project in self.steward.projects() {
            let ctx = self.context(project.name());
            match gateway::prompts::sweep(&ctx, self.steward.ledger(), config(&project)).await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "stored prompts have had their time"),
                Err(error) => tracing::error!(%error, "stored prompts cannot be deleted now"),
            }
        }
    }

    /// Changes when anything does that the table is made from.
    async fn stamp(&self) -> Result<Stamp, Error> {
        let ledger = self.steward.ledger();
        let projects = self.steward.projects();
        Ok((
            ledger.generation(gateway::GENERATION).await?,
            ledger.generation("secrets").await?,
            projects.iter().map(|project| Arc::as_ptr(project) as usize).collect(),
            // Models are retired at midnight.
            self.steward.clock().now().to_zoned(jiff::tz::TimeZone::UTC).date(),
        ))
    }

    /// Records what the hot path told, and raises what the PM must hear of.
    async fn heard(&self, notice: Notice) -> Result<(), Error> {
        match notice {
            Notice::Key { key, state } => {
                // A rest is the provider's rhythm and no event; `ai_states` shows it.
                if matches!(state, KeyState::Resting { .. }) {
                    return Ok(());
                }
                let ctx = self.context(&key.project);
                let subject = format!("ai:provider/{}", key.provider);
                let body = json!({ "secret": key.secret, "version": key.version, "state": state });
                self.steward
                    .ledger()
                    .append(&ctx, NewEvent::new("ai.key.state", subject.clone(), body))
                    .await?;
                if let KeyState::Demoted { reason } = state {
                    let escalation = pm::NewEscalation {
                        trigger: Trigger::AiApiFailure,
                        severity: Severity::Warning,
                        title: format!(
                            "the key `{}` of `{}` is out of service: {reason}",
                            key.secret, key.provider
                        ),
                        detail: format!(
                            "other keys and targets serve where there are any; it is tried again by itself. \
                             A new key: `steward ai keys rotate {} --key {}`",
                            key.provider, key.secret
                        ),
                        subject,
                        evidence: Vec::new(),
                        dedup_key: format!("ai_key:{}:{}", key.provider, key.secret),
                    };
                    self.steward.raise(&ctx, escalation).await?;
                }
            }
            Notice::Exposed { project, key, route, receipt, in_reply, leak } => {
                let ctx = self.context(&project);
                let subject = format!("ai:key/{key}");
                let place = if in_reply { "reply" } else { "prompt" };
                let body = json!({ "route": route, "receipt": receipt, "kind": leak, "in": place });
                self.steward
                    .ledger()
                    .append(&ctx, NewEvent::new("ai.key.exposed", subject.clone(), body))
                    .await?;
                let escalation = pm::NewEscalation {
                    trigger: Trigger::AiApiMisuse,
                    severity: Severity::Critical,
                    title: format!("a {place} on `{route}` held {}", leak.about()),
                    detail: format!(
                        "the call was made with the virtual key `{key}`; its receipt is {receipt}. The provider has \
                         seen what was sent: give it a new value"
                    ),
                    subject,
                    evidence: Vec::new(),
                    dedup_key: format!("exposed:{key}:{leak}:{place}"),
                };
                self.steward.raise(&ctx, escalation).await?;
            }
        }
        Ok(())
    }

    /// Raises what has come up, also what could not be recorded before.
    async fn tell_troubles(&self, untold: &mut Vec<(String, pm::NewEscalation)>) {
        let mut all = std::mem::take(untold);
        let before = all.len();
        for trouble in self.watch.alerts(Instant::now()) {
            let (project, escalation) = match trouble {
                Trouble::Failing { project, provider, failures, for_s, class } => (
                    project,
                    pm::NewEscalation {
                        trigger: Trigger::AiApiFailure,
                        severity: Severity::Critical,
                        title: format!("nothing has come from `{provider}` for {for_s} s"),
                        detail: format!("{failures} calls in a row failed, the last one: {}", class.as_str()),
                        subject: format!("ai:provider/{provider}"),
                        evidence: Vec::new(),
                        dedup_key: format!("ai_failing:{provider}"),
                    },
                ),
                Trouble::RateLimited { project, provider, limited, calls } => (
                    project,
                    pm::NewEscalation {
                        trigger: Trigger::AiApiMisuse,
                        severity: Severity::Warning,
                        title: format!("`{provider}` refused {limited} of {calls} calls for their rate, more than 1 %"),
                        detail: "in the last ten minutes; lower the limits of virtual keys, add a key or a target, \
                                 or ask the provider for more"
                            .into(),
                        subject: format!("ai:provider/{provider}"),
                        evidence: Vec::new(),
                        dedup_key: format!("ai_rate:{provider}"),
                    },
                ),
            };
            all.push((project, escalation));
        }
        for alarm in self.accounts.alerts() {
            let escalation = pm::NewEscalation {
                trigger: alarm.trigger,
                severity: alarm.severity,
                title: alarm.title,
                detail: alarm.detail,
                subject: alarm.subject,
                evidence: Vec::new(),
                dedup_key: alarm.dedup_key,
            };
            all.push((alarm.project, escalation));
        }
        for (number, (project, escalation)) in all.into_iter().enumerate() {
            if let Err(error) = self.steward.raise(&self.context(&project), escalation.clone()).await {
                if number >= before {
                    tracing::warn!(%error, title = escalation.title, "cannot raise an escalation; it is tried again");
                }
                if untold.len() < UNTOLD_MAX {
                    untold.push((project, escalation));
                }
            }
        }
    }

    /// Writes what other processes shall see, where it has changed.
    async fn write_states(&self) {
        let table = self.table.load_full();
        let mut known = self.known.lock().await;
        let states = States::new(self.steward.ledger().clone());
        for (name, known) in known.iter_mut() {
            let ctx = self.context(name);
            let mut now = match table.project(name) {
                Some(project) => gateway::snapshot(project, Instant::now(), ctx.now()),
                None => BTreeMap::new(),
            };
            let about = About { kind: "table".into(), name: String::new() };
            let grants = table.grants().filter(|grant| *grant.project.name == **name).count();
            now.insert(about, json!({ "grants": grants, "error": known.error }));
            if now == known.written {
                continue;
            }
            match states.write(&ctx, self.steward.holder(), &now).await {
                Ok(()) => known.written = now,
                Err(error) => tracing::warn!(%error, "cannot write the states of the gateway"),
            }
        }
    }

    /// Brings keys back that work again, marks old versions as drained, and goes on with rotations.
    async fn look_after_keys(self: &Arc<Self>, tracker: &TaskTracker, stop: &CancellationToken) {
        let table = self.table.load_full();
        let rotating: Vec<String> = {
            let known = self.known.lock().await;
            known.iter().filter(|(_, known)| known.rotates).map(|(name, _)| name.clone()).collect()
        };
        let now = Instant::now();
        let due = table.projects().iter().any(|project| {
            let services = project.pass_through().iter().map(|service| service.pool());
            let mut pools = project.providers().map(|provider| &*provider.pool).chain(services);
            pools.any(|pool| pool.keys().iter().any(|key| key.probe_due(now)))
        });
        if rotating.is_empty() && !due {
            return;
        }
        // Calls outward take seconds: one round at a time, beside this loop.
        if self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let (this, stop) = (Arc::clone(self), stop.child_token());
        tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.one_round(&table, &rotating) => {}
            }
            this.busy.store(false, Ordering::Release);
        });
    }

    /// Asks providers how batches and training stand, beside this loop.
    fn look_after_jobs(self: &Arc<Self>, tracker: &TaskTracker, stop: &CancellationToken) {
        let (this, stop) = (Arc::clone(self), stop.child_token());
        tracker.spawn(async move {
            let table = this.table.load_full();
            tokio::select! {
                () = stop.cancelled() => {}
                looked = this.jobs.look(&table) => if let Err(error) = looked {
                    tracing::warn!(%error, "how AI jobs stand cannot be read");
                },
            }
        });
    }

    async fn one_round(&self, table: &Table, rotating: &[String]) {
        for project in table.projects() {
            let ctx = self.context(&project.name);
            let canary = ProjectCanary(Arc::clone(project));
            let providers = project.providers().map(|provider| (&provider.name, &*provider.pool, true));
            let services = project.pass_through().iter();
            let services = services.map(|service| (&service.name, service.pool(), service.canary.is_some()));
            for (name, pool, has_canary) in providers.chain(services) {
                for key in pool.keys().iter().filter(|key| key.probe_due(Instant::now())) {
                    let Some(value) = key.secret() else { continue };
                    if has_canary {
                        let answer = gateway::Canary::call(&canary, &ctx, name, value).await;
                        key.probed(Instant::now(), answer.is_ok());
                    } else {
                        key.try_again(Instant::now());
                    }
                }
            }
            if !rotating.iter().any(|name| **name == *project.name) {
                continue;
            }
            if let Err(error) = self.go_on_with_rotations(&ctx, project, &canary).await {
                tracing::warn!(
                    error = self.steward.redact(&error.to_string()),
                    "cannot go on with a rotation"
                );
            }
        }
    }

    async fn go_on_with_rotations(
        &self,
        ctx: &Context,
        project: &gateway::Project,
        canary: &ProjectCanary,
    ) -> Result<(), Error> {
        let rotations = self.steward.rotations();
        for rotation in rotations.open(ctx).await? {
            if rotation.state == Stage::Draining
                && rotation.drained_at.is_none()
                && drained(project, &rotation)
            {
                rotations.drained(ctx, &rotation).await?;
            }
        }
        for ended in rotations.advance_due(ctx, canary).await? {
            if let Some(finding) = ended.finding(Vec::new())
                && let Some(escalation) =
                    pm::NewEscalation::of_finding(&format!("ai:provider/{}", ended.provider), &finding)
            {
                self.steward.raise(ctx, escalation).await?;
            }
        }
        Ok(())
    }
}

/// Whether no call is under way on the old version, and none can begin.
fn drained(project: &gateway::Project, rotation: &Rotation) -> bool {
    let pools = project.providers().map(|provider| &provider.pool);
    let mut pools = pools.chain(project.pass_through().iter().map(|it| &it.route.targets[0].provider.pool));
    pools.all(|pool| {
        !pool.lends(&rotation.secret, rotation.old_version)
            && pool.in_flight(&rotation.secret, rotation.old_version) == 0
    })
}

/// What a daemon says of keys and targets; where none serves, what the vault says of the keys.
async fn states(
    steward: &Steward,
    ctx: &Context,
    project: &Project,
) -> Result<(BTreeMap<About, State>, Option<String>), Error> {
    let written = States::new(steward.ledger().clone()).read(ctx).await?;
    let serves = daemon::running(steward.state());
    let alive = written.values().next().is_some_and(|state| !holder::is_gone(&state.holder));
    if serves.is_some() && alive {
        return Ok((written, serves));
    }
    let config = config(project);
    let mut states = BTreeMap::new();
    let secrets = secrets(steward, ctx, config).await?;
    let of_providers = config.providers.iter().map(|(name, provider)| (name, &provider.keys));
    let of_others = config.pass_through.iter().map(|(name, forwarded)| (name, &forwarded.keys));
    for (provider, keys) in of_providers.chain(of_others) {
        for key in keys {
            let (suffix, state) = match &secrets[key] {
                Ok(versions) => (
                    format!("@{}", versions.version),
                    json!({ "state": "stored", "version": versions.version }),
                ),
                Err(reason) => (String::new(), json!({ "state": "missing", "reason": reason })),
            };
            let about = About { kind: "key".into(), name: format!("{provider}:{key}{suffix}") };
            states.insert(about, State { state, holder: steward.holder().to_owned(), at: ctx.now() });
        }
    }
    Ok((states, serves))
}

/// Virtual keys, provider keys and rotations.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn list_keys(
    steward: &Steward,
    ctx: &Context,
    project: &Project,
    request: &ListKeys,
) -> Result<Outcome, Error> {
    let mut outcome = steward.virtual_keys().list(ctx, request).await?;
    let (states, _) = states(steward, ctx, project).await?;
    let lines = gateway::key_lines(&states);
    if !lines.is_empty() {
        outcome.text = format!("virtual keys\n{}\n\n{}", outcome.text.trim_end(), lines.trim_end());
    }
    let mut rotations = steward.rotations().all(ctx).await?;
    rotations.retain(|rotation| request.all || !rotation.state.ended());
    for rotation in &rotations {
        outcome.text = format!("{}\nrotation of {}", outcome.text.trim_end(), rotation.text());
    }
    let provider_keys: Vec<Value> = states
        .iter()
        .filter(|(about, _)| about.kind == "key")
        .map(|(about, state)| json!({ "key": about.name, "state": state.state, "at": state.at }))
        .collect();
    outcome.value["provider_keys"] = json!(provider_keys);
    outcome.value["rotations"] = json!(rotations);
    Ok(outcome)
}

/// What can be asked for.
///
/// # Errors
///
/// `NotFound`: the provider, or no valid key of this name. `Invalid`: the file of prices.
pub(crate) async fn models(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &ListModels,
) -> Result<Outcome, Error> {
    let prices = prices(project)?;
    let key = match &request.key {
        None => None,
        Some(name) => {
            let keys = steward.virtual_keys().all(ctx).await?;
            let key =
                keys.into_iter().find(|key| key.name == *name && key.valid(ctx.now())).ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "there is no valid virtual key of this name")
                        .hint("`steward ai keys list --all` shows them")
                })?;
            let config = config(project);
            let (routes, providers, forwarded) =
                (names(&config.routes), names(&config.providers), names(&config.pass_through));
            let callable = Callable { routes: &routes, providers: &providers, pass_through: &forwarded };
            let (reach, _) =
                gateway::compile(project.authority(), environment(project), steward.clock(), &key, callable);
            Some((key, reach))
        }
    };
    let key = key.as_ref().map(|(key, reach)| (key, reach));
    gateway::models(config(project), request, key, &Arc::new(prices), ctx.now())
}

/// The prices that hold for the project.
///
/// # Errors
///
/// `Invalid`: the file of own prices.
pub(crate) fn prices(project: &Project) -> Result<gateway::price::PriceTable, Error> {
    let table = gateway::price::PriceTable::built_in();
    match &config(project).prices {
        None => Ok(table),
        Some(path) => {
            let shown = path.display().to_string();
            let bytes = crate::files::read(&project.loaded().dir, &shown)?.ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "there is no such file of prices").with("file", &shown)
            })?;
            table.with_overrides(&crate::files::utf8(&shown, bytes)?)
        }
    }
}

/// Routes, targets, breakers, keys.
///
/// # Errors
///
/// `NotFound`: the route.
pub(crate) async fn routes(
    steward: &Steward,
    ctx: &Context,
    project: &Project,
    request: &ListRoutes,
) -> Result<Outcome, Error> {
    let (states, serves) = states(steward, ctx, project).await?;
    let rates = gateway::report::hit_rates(ctx, steward.ledger(), config(project)).await?;
    gateway::routes(config(project), request, &states, serves.as_deref(), &rates)
}

/// A real call to each target.
///
/// # Errors
///
/// `NotFound`: the route or provider.
pub(crate) async fn test(
    steward: &Steward,
    ctx: &Context,
    project: &Project,
    request: &TestTargets,
) -> Result<Outcome, Error> {
    let opened = open(steward, ctx, project, None, &Notices::default()).await?;
    gateway::test(ctx, &opened, request).await
}

/// The canary for rotations, with the keys and targets as they are now.
///
/// # Errors
///
/// As for [`open`].
pub(crate) async fn canary(
    steward: &Steward,
    ctx: &Context,
    project: &Project,
) -> Result<ProjectCanary, Error> {
    open(steward, ctx, project, None, &Notices::default()).await.map(ProjectCanary)
}

/// Reads a LiteLLM configuration.
///
/// # Errors
///
/// `Invalid`, `NotFound`: the file.
pub(crate) fn import(
    ctx: &Context,
    project: &Project,
    request: &gateway::ImportConfig,
) -> Result<Outcome, Error> {
    use std::io::Read;
    /// Largest such file, in bytes.
    const FILE_BYTES_MAX: u64 = 4 << 20;
    let place = crate::exposure::place(ctx, project, Some(&request.path))?;
    let unreadable = |cause: std::io::Error| {
        Error::new(ErrorKind::Invalid, "cannot read the file").with("file", &request.path).because(cause)
    };
    let mut bytes = Vec::new();
    std::fs::File::open(&place)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::new(ErrorKind::Invalid, "the file is too large").with("file", &request.path));
    }
    let text = crate::files::utf8(&request.path, bytes)?;
    let config: Value = serde_saphyr::from_str(&text).map_err(|error| {
        // Only where: a snippet could show a key.
        let line = error.location().map(|location| location.line().to_string()).unwrap_or_default();
        Error::new(ErrorKind::Invalid, "this is no YAML").with("file", &request.path).with("line", line)
    })?;
    gateway::import(&config)
}

/// What is said to an agent, who never sees a key's value.
pub(crate) const NOT_FOR_AGENTS: &str =
    "its value is not shown to agents; a person gets one with `steward ai keys regenerate NAME`";

/// Names of routes and providers, borrowed.
pub(crate) fn borrowed(names: &(Vec<String>, Vec<String>)) -> Names<'_> {
    Names { routes: &names.0, providers: &names.1 }
}

/// A schedule that finds no staged key: someone has to get one.
pub(crate) fn nothing_staged(provider: &str) -> Finding {
    Finding {
        code: "no_staged_key".into(),
        severity: Severity::Warning,
        title: format!("a key of `{provider}` is due for rotation, and no new one is staged"),
        object: provider.to_owned(),
        recommendation: Some(format!(
            "get a new key from the provider, put it with `steward secret put NAME{}`, and run \
             `steward ai keys rotate {provider} --staged`",
            gateway::NEXT_SUFFIX
        )),
        evidence: Vec::new(),
        escalate: Some(Trigger::DecisionRequired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::{Options, Surroundings};
    use bytes::Bytes;
    use http_body_util::Full;
    use secrecy::{ExposeSecret, SecretString};

    const YAML: &str = "project: shop\nai:\n  providers:\n    openai: { kind: openai, url: 'http://127.0.0.1:9', keys: [main] }\n";
    /// Longer than any machine takes.
    const PATIENCE: Duration = Duration::from_mins(1);

    struct House {
        ai: Arc<Ai>,
        inbox: mpsc::Receiver<Notice>,
        key: SecretString,
        _dir: tempfile::TempDir,
    }

    impl House {
        /// A daemon's gateway that lets the key `checkout` in.
        async fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let file = dir.path().join(crate::config::FILE_NAME);
            std::fs::write(&file, YAML).expect("a file");
            let loaded = crate::config::load(&file).expect("a project");
            let surroundings = Surroundings::default();
            let steward = Steward::open(vec![loaded], &surroundings).await.expect("it opens");
            let reveal = Options { reveal: true, ..Options::default() };
            let ctx = Context::new("shop", Actor::local());
            let made = steward.submit_with(&ctx, "keys.create", json!({ "name": "checkout" }), reveal).await;
            let key = made.expect("a key").value["value"].as_str().expect("its value").to_owned();
            let (ai, inbox) = Ai::start(steward).await.expect("it starts");
            Self { ai, inbox, key: key.into(), _dir: dir }
        }

        /// As another process does it: nothing of this one is told.
        async fn revoke(&self) {
            let ctx = Context::new("shop", Actor::local());
            let done = self.ai.steward.submit_with(
                &ctx,
                "keys.revoke",
                json!({ "name": "checkout" }),
                Options::default(),
            );
            done.await.expect("it is revoked");
        }
    }

    async fn status(ai: &Ai, key: &SecretString) -> u16 {
        let request = http::Request::get("/v1/models")
            .header("authorization", format!("Bearer {}", key.expose_secret()))
            .body(Full::new(Bytes::new()))
            .expect("a request");
        ai.gateway().handle(request).await.status().as_u16()
    }

    #[tokio::test]
    async fn one_look_is_enough_to_refuse_a_revoked_key() {
        let house = House::new().await;
        let mut seen = None;
        house.ai.look(&mut seen).await;
        let table = house.ai.table.load_full();
        house.ai.look(&mut seen).await;
        assert!(Arc::ptr_eq(&table, &house.ai.table.load_full()), "nothing has changed");
        house.revoke().await;
        assert_eq!(status(&house.ai, &house.key).await, 200, "nobody has looked");
        house.ai.look(&mut seen).await;
        assert_eq!(status(&house.ai, &house.key).await, 401);
    }

    // The clock moves only where this test says so: it would jump when nothing is ready to run, and something always is.
    #[tokio::test(start_paused = true)]
    async fn a_daemon_looks_soon_enough_that_a_revoked_key_is_refused_within_a_second() {
        let never_idle = tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        let mut house = House::new().await;
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let inbox = std::mem::replace(&mut house.inbox, mpsc::channel(1).1);
        let following = tokio::spawn(Arc::clone(&house.ai).follow(inbox, stop.clone(), tracker));
        // It sleeps before its first look, without waiting for anything else.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        house.revoke().await;
        let revoked = Instant::now();
        assert_eq!(status(&house.ai, &house.key).await, 200);
        tokio::time::advance(POLL).await;
        let until = std::time::Instant::now() + PATIENCE;
        while status(&house.ai, &house.key).await != 401 {
            assert!(std::time::Instant::now() < until, "it does not look");
            tokio::task::yield_now().await;
        }
        assert_eq!(revoked.elapsed(), POLL, "the clock stood still meanwhile");
        // What is left of the second is for the disk.
        assert!(POLL * 4 < Duration::from_secs(1));
        stop.cancel();
        following.await.expect("it ends");
        never_idle.abort();
    }
}
