//! Who keeps limits and budgets for the hot path: [`Accounts`] lets requests in from memory, and one task beside it
//! writes what they used and takes slices of budgets ahead of use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use contract::{Clock, Error, Severity, SharedCounters, Trigger};
use http::StatusCode;
use jiff::Timestamp;
use ledger::Ledger;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::budget::{Books, Candidate, Need, Part, Rule, Short, Taken, Who, scope_word};
use crate::config::{AiConfig, BudgetScope, Enforce, ProviderKind};
use crate::cost::{cost, estimated_usage};
use crate::in_force;
use crate::keeper;
use crate::limit::Slots;
use crate::meter::{
    Ask, Attempt, CacheDecision, Hold, Metering, Refusal, RequestId, Reservation, Settlement, What,
};
use crate::metrics::Metrics;
use crate::price::{Model, PriceTable, Prices, Rates, Tier};
use crate::share::{self, Quota, Shares};
use crate::spans::Spans;
use crate::table::{Grant, Table, Target};
use crate::usage::{Billed, Done, Draw, Note, Outbox, Party, context};
use crate::usd::Usd;

/// Costs of a route's last requests, from which its usual cost is taken.
const USUAL_OF: usize = 256;
/// Requests after which a share of refusals means something.
const REFUSALS_OF_MIN: u64 = 100;
/// How long someone waits for a slice at most.
const REPLENISH_WAIT_MAX: Duration = Duration::from_secs(2);
/// Time between looks at accounts that want something.
const TICK: Duration = Duration::from_millis(200);
/// Short wait before a batch is written, so that more of them share a transaction.
const LINGER: Duration = Duration::from_millis(5);
/// Ticks between looks after accounts that had no more, and after processes that are gone.
const SLOW_TICKS: u32 = 5;
/// Ticks between renewals of the slices.
const RENEW_TICKS: u32 = 100;
/// Ticks between looks after responses that providers no longer keep: an hour.
const FORGET_TICKS: u32 = 18_000;
/// Rows that cannot be written for this long are told; a state file that is locked for a moment is not.
const UNWRITABLE: Duration = Duration::from_secs(5);
/// Alerts that wait to be fetched.
const ALARMS_MAX: usize = 1_000;

/// Something that the PM must hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The project that it is about.
    pub project: String,
    /// Why, in the mission's terms.
    pub trigger: Trigger,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence with its numbers.
    pub title: String,
    /// What else is known and what to do.
    pub detail: String,
    /// What it is about, such as `budget:month`.
    pub subject: String,
    /// Alerts with the same key are the same.
    pub dedup_key: String,
}

/// Limits, budgets and usage of all projects of a daemon.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

pub(crate) struct Inner {
    pub ledger: Ledger,
    pub clock: Arc<dyn Clock>,
    /// Who this process is in the state file.
    pub holder: String,
    pub purses: RwLock<HashMap<Arc<str>, Arc<Purse>>>,
    pub outbox: Arc<Outbox>,
    pub leased: Notify,
    /// Someone needs a slice now.
    slices: Notify,
    pub shares: Shares,
    /// Where slices come from when several daemons with states of their own share the budgets.
    pub shared: Option<Arc<dyn SharedCounters>>,
    metrics: Metrics,
    alerts: Mutex<Vec<Alarm>>,
    pub stop: CancellationToken,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

/// A project's limits and budgets.
pub(crate) struct Purse {
    pub project: Arc<str>,
    books: Mutex<Books>,
    usual: Mutex<HashMap<Arc<str>, Usual>>,
    prices: RwLock<Priced>,
    keys: RwLock<HashMap<Arc<str>, Arc<KeyUse>>>,
    counts: Counts,
    spans: ArcSwapOption<Spans>,
}

/// Rows of a provider's models; `None`: there is none.
type KnownModels = HashMap<Arc<str>, Option<Arc<Model>>>;

/// Prices by provider and model, looked up once for each.
struct Priced {
    table: Arc<PriceTable>,
    version: Arc<str>,
    known: HashMap<Arc<str>, KnownModels>,
    per_call: HashMap<Arc<str>, Arc<Prices>>,
}

/// What a key has used of its limits.
pub(crate) struct KeyUse {
    pub name: Arc<str>,
    rpm: Quota,
    tpm: Quota,
    slots: Slots,
}

impl KeyUse {
    /// Requests in a minute.
    pub(crate) fn requests(&self) -> &Quota {
        &self.rpm
    }

    /// Tokens in a minute.
    pub(crate) fn tokens(&self) -> &Quota {
        &self.tpm
    }
}

/// Requests and refusals by limits, since the last alert was considered.
#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    limited: AtomicU64,
}

/// What requests of a route cost lately.
struct Usual {
    last: Vec<i64>,
    next: usize,
    p95: i64,
}

/// How much a key has left of its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Requests in a minute.
    pub requests: Option<crate::limit::Left>,
    /// Tokens in a minute.
    pub tokens: Option<crate::limit::Left>,
}

/// How a budget stands, as this process sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The project.
    pub project: String,
    /// The budget.
    pub budget: String,
    /// What it is counted by.
    pub scope: &'static str,
    /// For which one.
    pub value: String,
    /// The amount.
    pub limit: Usd,
    /// Spent by all processes, as last read, and by this one since.
    pub spent: Usd,
    /// Set aside for requests under way.
    pub in_flight: Usd,
    /// Spent beyond what was set aside.
    pub overshoot: Usd,
    /// When it begins anew.
    pub resets: Option<Timestamp>,
}

impl Accounts {
    /// Accounts in this state file; nothing is limited before [`Accounts::prepare`]. Reservations of processes that are
    /// gone are taken as spent.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn open(ledger: Ledger, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_shared(ledger, clock, None).await
    }

    /// The same, with budgets and limits that several daemons share: their slices come from these counters.
    ///
    /// # Errors
    ///
    /// As the ledger's.
    pub async fn open_shared(
        ledger: Ledger,
        clock: Arc<dyn Clock>,
        shared: Option<Arc<dyn SharedCounters>>,
    ) -> Result<Self, Error> {
        let inner = Arc::new(Inner {
            ledger,
            clock,
            holder: keeper::holder(),
            purses: RwLock::default(),
            outbox: Arc::default(),
            leased: Notify::new(),
            slices: Notify::new(),
            shares: Shares::default(),
            shared,
            metrics: Metrics::default(),
            alerts: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        if let Err(error) = keeper::recover(&inner).await {
            // Shared counters that cannot be reached now are asked again later; the state file must be there.
            if inner.shared.is_none() {
                return Err(error);
            }
            tracing::warn!(%error, "what processes that are gone held is still held");
        }
        keeper::forget_responses(&inner).await?;
        let mut tasks = vec![tokio::spawn(run(Arc::clone(&inner)))];
        if let Some(counters) = &inner.shared {
            // On their own, so that a server that does not answer keeps no usage from the state file.
            tasks.push(tokio::spawn(keep_shared(Arc::clone(&inner))));
            tasks.push(tokio::spawn(share::run(Arc::clone(&inner), Arc::clone(counters))));
        }
        *lock(&inner.tasks) = tasks;
        Ok(Self(inner))
    }

    /// Takes over a project's budgets and prices, and money for the keys of the table, before the table is used.
    ///
    /// # Errors
    ///
    /// As the ledger's; what was known before stays.
    pub async fn prepare(
        &self,
        project: &str,
        config: &AiConfig,
        prices: Arc<PriceTable>,
        table: Option<&Table>,
    ) -> Result<(), Error> {
        let inner = &self.0;
        let budgets = in_force::in_force(&inner.ledger, project, config).await?;
        in_force::record(&context(project, &inner.clock), &inner.ledger, &budgets).await?;
        let rules: Vec<Rule> =
            budgets.iter().map(|(name, in_force)| Rule::new(name, &in_force.budget)).collect();
        let purse = inner.purse(project, &prices);
        let url = config.otlp_url.as_deref();
        if purse.spans.load().as_ref().map(|spans| spans.url()) != url {
            purse.spans.store(url.map(Spans::to).transpose()?.map(Arc::new));
        }
        {
            let mut known = purse.prices.write().unwrap_or_else(PoisonError::into_inner);
            let per_call = config.pass_through.iter().filter_map(|(name, service)| {
                Some((Arc::from(name.as_str()), Arc::new(per_call(service.usd_per_call?))))
            });
            *known = Priced {
                version: prices.version().into(),
                table: prices,
                known: HashMap::new(),
                per_call: per_call.collect(),
            };
        }
        {
            let now = inner.clock.now();
            let mut books = lock(&purse.books);
            let waiting = in_force::waiting(&budgets);
            // Once for each change, and not whenever a key is made.
            for sentence in waiting.iter().filter(|sentence| !books.waiting.contains(sentence)) {
                tracing::warn!(project, "{sentence}");
            }
            books.waiting = waiting;
            books.set_rules(rules);
            for rule in 0..books.rules.len() {
                let only = books.rules[rule].of.as_deref().map(str::to_owned);
                let known = values_of(books.rules[rule].scope, project, config, table);
                for value in known.into_iter().chain(only) {
                    books.account(rule, &value, now);
                }
            }
        }
        match keeper::lease(inner, &purse, false).await {
            // The daemon lives without its shared counters; what needs money waits for them.
            Err(error) if inner.shared.is_some() => {
                tracing::error!(%error, "slices of shared AI budgets cannot be taken now");
            }
            other => other?,
        }
        inner.leased.notify_waiters();
        Ok(())
    }

    /// How the budgets of a project stand.
    pub fn standings(&self, project: &str) -> Vec<Standing> {
        let Some(purse) = self.0.known_purse(project) else { return Vec::new() };
        let books = lock(&purse.books);
        let standing = |account: &crate::budget::Account| {
            let rule = books.rules.get(account.rule)?;
            Some(Standing {
                project: project.to_owned(),
                budget: rule.name.to_string(),
                scope: scope_word(rule.scope),
                value: account.value.to_string(),
                limit: rule.usd,
                spent: Usd::from_nanos(account.spent_in_all.max(account.spent)),
                in_flight: Usd::from_nanos(account.reserved.saturating_add(account.for_jobs)),
                overshoot: Usd::from_nanos(account.overshoot),
                resets: account.span.ends(),
            })
        };
        books.accounts.iter().filter_map(standing).collect()
    }

    /// What a key has left of its limits now, for the headers of an answer.
    pub fn remaining(&self, grant: &Grant) -> Remaining {
        let used = self.0.known_purse(&grant.project.name).and_then(|purse| purse.known_key(&grant.id));
        let now = clock_nanos(self.0.clock.now());
        Remaining {
            requests: used
                .as_ref()
                .filter(|_| grant.limits.requests_per_minute.is_some())
                .map(|used| used.rpm.look(now)),
            tokens: used
                .as_ref()
                .filter(|_| grant.limits.tokens_per_minute.is_some())
                .map(|used| used.tpm.look(now)),
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// What was measured of the requests that have ended.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What the PM must hear of since the last call.
    pub fn alerts(&self) -> Vec<Alarm> {
        std::mem::take(&mut *lock(&self.0.alerts))
    }

    /// Stops writing at once, as if the process were killed; for tests of what is left behind.
    #[doc(hidden)]
    pub fn abandon(&self) {
        for task in lock(&self.0.tasks).drain(..) {
            task.abort();
        }
    }

    /// Requests under way and rows not yet written.
    pub fn outstanding(&self) -> usize {
        self.0.outbox.outstanding()
    }

    /// Waits until what has ended so far is written.
    ///
    /// # Errors
    ///
    /// Why it cannot be written; it is kept.
    pub async fn flush(&self) -> Result<(), Error> {
        while !self.0.outbox.is_empty() {
            if let Some(error) = self.0.outbox.failing() {
                return Err(error);
            }
            self.0.outbox.wake.notify_one();
            tokio::time::sleep(Duration::from_millis(2)).await; // The task says nothing when it is through.
        }
        Ok(())
    }

    /// Writes what is left and gives the slices back.
    ///
    /// # Errors
    ///
    /// As the ledger's; what could not be written is lost and said in the log.
    pub async fn close(&self) -> Result<(), Error> {
        self.0.stop.cancel();
        for purse in self.0.purses.read().unwrap_or_else(PoisonError::into_inner).values() {
            // The last one out sends what is left, on a thread of its own.
            purse.spans.store(None);
        }
        let tasks = std::mem::take(&mut *lock(&self.0.tasks));
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "the task that writes usage or takes slices failed");
            }
        }
        loop {
            match self.0.outbox.write(&self.0.ledger, &self.0.holder, &self.0.clock).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(rows = self.0.outbox.outstanding(), %error, "usage of AI calls is lost");
                    return Err(error);
                }
            }
        }
        keeper::give_back(&self.0).await
    }
}

/// Values of a scope that are known before a request comes.
fn values_of(scope: BudgetScope, project: &str, config: &AiConfig, table: Option<&Table>) -> Vec<String> {
    let grants = || table.into_iter().flat_map(Table::grants).filter(|grant| &*grant.project.name == project);
    match scope {
        BudgetScope::Project => vec![project.to_owned()],
        BudgetScope::Key => grants().map(|grant| grant.id.to_string()).collect(),
        BudgetScope::Person => {
            grants().filter_map(|grant| grant.person.as_ref()).map(ToString::to_string).collect()
        }
        BudgetScope::Route => config.routes.keys().cloned().collect(),
        BudgetScope::Provider => config.providers.keys().cloned().collect(),
        BudgetScope::Model => {
            let targets = config.routes.values().flat_map(|route| &route.targets);
            targets.map(|target| target.model.clone()).collect()
        }
    }
}

fn per_call(usd: Usd) -> Prices {
    Prices {
        from: None,
        standard: Rates::default(),
        batch: None,
        flex: None,
        priority: None,
        training: None,
        usd_per_call: Some(usd),
    }
}

impl Inner {
    pub(crate) fn known_purse(&self, project: &str) -> Option<Arc<Purse>> {
        self.purses.read().unwrap_or_else(PoisonError::into_inner).get(project).cloned()
    }

    fn purse(&self, project: &str, prices: &Arc<PriceTable>) -> Arc<Purse> {
        let mut purses = self.purses.write().unwrap_or_else(PoisonError::into_inner);
        let purse = purses.entry(project.into()).or_insert_with(|| {
            Arc::new(Purse {
                project: project.into(),
                books: Mutex::default(),
                usual: Mutex::default(),
                prices: RwLock::new(Priced {
                    table: Arc::clone(prices),
                    version: prices.version().into(),
                    known: HashMap::new(),
                    per_call: HashMap::new(),
                }),
                keys: RwLock::default(),
                counts: Counts::default(),
                spans: ArcSwapOption::empty(),
            })
        });
        Arc::clone(purse)
    }

    pub(crate) fn all_purses(&self) -> Vec<Arc<Purse>> {
        self.purses.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn tell(&self, alert: Alarm) {
        let mut alerts = lock(&self.alerts);
        if alerts.len() < ALARMS_MAX {
            alerts.push(alert);
        }
    }

    fn tell_unwritable(&self, error: &Error) {
        for purse in self.all_purses() {
            self.tell(Alarm {
                project: purse.project.to_string(),
                trigger: Trigger::DataLossRisk,
                severity: Severity::Critical,
                title: format!("usage of AI calls cannot be written to the state file: {}", error.message()),
                detail: format!(
                    "{} rows wait in memory and are lost if the process ends before they are written; from {} on \
                     nothing that costs money is let in. Make room where the state lies, or end what has locked it",
                    self.outbox.outstanding(),
                    crate::usage::OUTSTANDING_WHILE_FAILING_MAX
                ),
                subject: format!("project:{}", purse.project),
                dedup_key: format!("ai-unwritable:{}", purse.project),
            });
        }
    }

    fn look_at_thresholds(&self) {
        for purse in self.all_purses() {
            let crossed = purse.books().crossed();
            for crossed in crossed {
                self.tell(alert_of(&purse.project, &crossed));
            }
            let asked = purse.counts.asked.load(Ordering::Relaxed);
            if asked < REFUSALS_OF_MIN {
                continue;
            }
            let limited = purse.counts.limited.swap(0, Ordering::Relaxed);
            purse.counts.asked.store(0, Ordering::Relaxed);
            // The mission's threshold is one in a hundred.
            if limited * 100 > asked {
                self.tell(Alarm {
                    project: purse.project.to_string(),
                    trigger: Trigger::AiApiFailure,
                    severity: Severity::Warning,
                    title: format!("{limited} of {asked} AI calls were refused by rate limits, above 1 %"),
                    detail: "`steward ai limits` shows which keys; raise their limits or spread the calls"
                        .into(),
                    subject: format!("project:{}", purse.project),
                    dedup_key: format!("ai-limits:{}", purse.project),
                });
            }
        }
    }
}

fn alert_of(project: &str, crossed: &crate::budget::Crossed) -> Alarm {
    let whose = whose(crossed.scope, &crossed.value);
    let until = crossed.resets.map_or(String::new(), |at| format!("; it begins anew at {at}"));
    let over = match crossed.overshoot.nanos() {
        0 => String::new(),
        _ => format!("; {} USD were spent beyond what was set aside", crossed.overshoot),
    };
    let (severity, title) = if crossed.hard {
        (Severity::Critical, format!("the AI budget `{}` of {whose} is used up", crossed.budget))
    } else {
        (Severity::Warning, format!("the AI budget `{}` of {whose} is nearly used up", crossed.budget))
    };
    Alarm {
        project: project.to_owned(),
        trigger: Trigger::CostOverrun,
        severity,
        title,
        detail: format!(
            "{} of {} USD are spent{until}{over}; `steward ai budget {} --usd …` asks the PM for more",
            crossed.spent, crossed.limit, crossed.budget
        ),
        subject: format!("budget:{}", crossed.budget),
        dedup_key: format!(
            "ai-budget:{project}:{}:{}:{}:{}",
            crossed.budget, crossed.value, crossed.period_us, crossed.hard
        ),
    }
}

fn whose(scope: BudgetScope, value: &str) -> String {
    match scope {
        BudgetScope::Project => format!("the project `{value}`"),
        other => format!("the {} `{value}`", scope_word(other)),
    }
}

impl Purse {
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    fn known_key(&self, id: &str) -> Option<Arc<KeyUse>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn key(&self, grant: &Grant) -> Arc<KeyUse> {
        if let Some(known) = self.known_key(&grant.id) {
            return known;
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let made = keys.entry(Arc::clone(&grant.id)).or_insert_with(|| {
            Arc::new(KeyUse {
                name: Arc::clone(&grant.name),
                rpm: Quota::new(),
                tpm: Quota::new(),
                slots: Slots::new(0),
            })
        });
        Arc::clone(made)
    }

    /// All keys that were used.
    pub(crate) fn used_keys(&self) -> Vec<Arc<KeyUse>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The row for a target, and which table it is of.
    fn price(&self, target: &Target) -> (Option<Arc<Model>>, Arc<str>) {
        {
            let priced = self.prices.read().unwrap_or_else(PoisonError::into_inner);
            let known = priced.known.get(&target.provider.name).and_then(|models| models.get(&target.model));
            if let Some(known) = known {
                return (known.clone(), Arc::clone(&priced.version));
            }
        }
        let mut priced = self.prices.write().unwrap_or_else(PoisonError::into_inner);
        let found = priced
            .table
            .find(&target.provider.name, &target.model)
            .or_else(|| priced.table.find(target.provider.kind.as_str(), &target.model));
        let models = priced.known.entry(Arc::clone(&target.provider.name)).or_default();
        models.insert(Arc::clone(&target.model), found.clone());
        (found, Arc::clone(&priced.version))
    }

    /// What a call of a declared service costs.
    fn per_call(&self, route: &str) -> Option<Arc<Prices>> {
        self.prices.read().unwrap_or_else(PoisonError::into_inner).per_call.get(route).cloned()
    }

    /// The table in force.
    pub(crate) fn table(&self) -> Arc<PriceTable> {
        Arc::clone(&self.prices.read().unwrap_or_else(PoisonError::into_inner).table)
    }

    fn version(&self) -> Arc<str> {
        Arc::clone(&self.prices.read().unwrap_or_else(PoisonError::into_inner).version)
    }

    fn usual(&self, route: &str) -> Option<i64> {
        lock(&self.usual).get(route).map(|usual| usual.p95)
    }

    fn learn(&self, route: &Arc<str>, cost: i64) {
        let mut usual = lock(&self.usual);
        let entry =
            usual.entry(Arc::clone(route)).or_insert_with(|| Usual { last: Vec::new(), next: 0, p95: cost });
        if entry.last.len() < USUAL_OF {
            entry.last.push(cost);
        } else {
            let at = entry.next % USUAL_OF;
            entry.last[at] = cost;
        }
        entry.next += 1;
        // Sorting is dear beside the rest; a few requests hardly move it.
        if entry.next.is_power_of_two() || entry.next.is_multiple_of(16) {
            let mut sorted = entry.last.clone();
            let at = (sorted.len() - 1) * 95 / 100;
            entry.p95 = *sorted.select_nth_unstable(at).1;
        }
    }
}

/// A time as the limits count it; the wall clock, since a limit must hold across suspensions too.
pub(crate) fn clock_nanos(now: Timestamp) -> u64 {
    u64::try_from(now.as_nanosecond()).unwrap_or_default()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A target with its prices at the time of the request.
struct Open {
    row: Option<Arc<Model>>,
    per_call: Option<Arc<Prices>>,
    now: Timestamp,
}

impl Open {
    fn prices(&self) -> Option<&Prices> {
        self.per_call.as_deref().or_else(|| self.row.as_ref().map(|row| row.prices_at(self.now)))
    }
}

#[async_trait]
impl Metering for Accounts {
    fn admit(&self, grant: &Arc<Grant>, ask: &Ask<'_>) -> Result<Reservation, Box<Refusal>> {
        let inner = &self.0;
        let Some(purse) = inner.known_purse(&grant.project.name) else {
            return Err(refuse(
                "the accounts of this project are not open yet",
                "accounts_unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                Some(Duration::from_secs(1)),
            ));
        };
        purse.counts.asked.fetch_add(1, Ordering::Relaxed);
        let shares = inner.shared.is_some().then_some(&inner.shares);
        let mut limited = Limited::enter(&purse, grant, ask, shares).inspect_err(|refusal| {
            purse.counts.limited.fetch_add(u64::from(!refusal.on_its_way), Ordering::Relaxed);
        })?;
        if let Err(failing) = inner.outbox.enter() {
            limited.leave(0, ask.now);
            return Err(unwritable(failing.as_ref()));
        }
        match set_aside(&purse, grant, ask) {
            Ok((taken, version)) => {
                let barred =
                    taken.barred.iter().filter_map(|at| ask.route.targets.get(*at)).cloned().collect();
                let max_tokens = taken.max_tokens;
                let held = Held::new(inner, purse, grant, ask, taken, version, limited);
                Ok(Reservation::new(Box::new(held), max_tokens).without(barred))
            }
            Err(refusal) => {
                inner.outbox.leave();
                limited.leave(0, ask.now);
                if refusal.on_its_way {
                    inner.outbox.wake.notify_one();
                    inner.slices.notify_one();
                }
                Err(refusal)
            }
        }
    }

    async fn replenished(&self) {
        let (leased, answered) = (self.0.leased.notified(), self.0.shares.answered.notified());
        if self.0.shares.hurry() {
            if tokio::time::timeout(REPLENISH_WAIT_MAX, answered).await.is_err() {
                self.0.shares.gave_up();
            }
            return;
        }
        self.0.outbox.wake.notify_one();
        self.0.slices.notify_one();
        // Whoever waited in vain is refused by the next look.
        drop(tokio::time::timeout(REPLENISH_WAIT_MAX, leased).await);
    }
}

#[allow(clippy::unnecessary_box_returns, reason = "it becomes the large error of a small answer")]
pub(crate) fn refuse(
    message: impl Into<String>,
    code: &'static str,
    status: StatusCode,
    retry_after: Option<Duration>,
) -> Box<Refusal> {
    Box::new(Refusal { message: message.into(), code, status, retry_after, on_its_way: false })
}

#[allow(clippy::unnecessary_box_returns, reason = "it becomes the large error of a small answer")]
pub(crate) fn unwritable(failing: Option<&Error>) -> Box<Refusal> {
    let why = match failing {
        Some(error) => format!("the state file cannot be written ({})", error.message()),
        None => "too many requests wait to be written to the state file".to_owned(),
    };
    refuse(
        format!("usage cannot be recorded, so nothing that costs money is let in: {why}"),
        "accounts_unavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        Some(Duration::from_secs(5)),
    )
}

#[allow(clippy::unnecessary_box_returns, reason = "it becomes the large error of a small answer")]
pub(crate) fn short_refusal(short: &Short, now: Timestamp) -> Box<Refusal> {
    let resets = short.resets.map_or_else(
        || "it does not begin anew; the PM can raise it".to_owned(),
        |at| format!("it begins anew at {at}, or the PM can raise it"),
    );
    let in_flight = match short.in_flight.nanos() {
        0 => String::new(),
        _ => format!(", {} USD are set aside for what is under way", short.in_flight),
    };
    let message = format!(
        "the budget `{}` of {} ({} USD) has {} USD left{in_flight}; this request could cost {} USD; {resets}",
        short.budget,
        whose(short.scope, &short.value),
        short.limit,
        short.free,
        short.needs
    );
    let until = short.resets.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    Box::new(Refusal {
        message,
        code: "budget_exceeded",
        status: StatusCode::PAYMENT_REQUIRED,
        retry_after: if short.on_its_way { Some(Duration::from_secs(1)) } else { until },
        on_its_way: short.on_its_way,
    })
}

/// Tiers that a provider of this kind may charge for what was asked, the dearest among them.
fn tiers(kind: ProviderKind, asked: Option<&str>) -> &'static [Tier] {
    const ANY: &[Tier] = &[Tier::Priority, Tier::Standard];
    match asked.map(Tier::parse) {
        // At these it means `auto`: what the project or the deployment is set to, which may be the dearest.
        // Source: OpenAI API reference, `service_tier`; Azure OpenAI, "Priority processing"; Anthropic, "Service tiers".
        None => match kind {
            ProviderKind::Openai | ProviderKind::AzureOpenai | ProviderKind::Anthropic => ANY,
            ProviderKind::Gemini => &[Tier::Standard],
        },
        Some(Some(Tier::Standard)) => &[Tier::Standard],
        // A provider without these serves the standard one.
        Some(Some(Tier::Flex)) => &[Tier::Flex, Tier::Standard],
        Some(Some(Tier::Batch)) => &[Tier::Batch, Tier::Standard],
        // `auto` and words that nobody knows may turn out as the dearest.
        Some(Some(Tier::Priority) | None) => ANY,
    }
}

/// Whether providers charge nothing for the call itself.
fn is_free(what: What) -> bool {
    matches!(what, What::CountTokens | What::Files | What::Batches | What::FineTuning | What::Responses)
}

/// Sets money aside for a request.
fn set_aside(purse: &Purse, grant: &Grant, ask: &Ask<'_>) -> Result<(Taken, Arc<str>), Box<Refusal>> {
    // What a job costs is held by itself.
    if is_free(ask.what) {
        return Ok((Taken::default(), purse.version()));
    }
    let mut version = None;
    let open: Vec<Open> = ask
        .route
        .targets
        .iter()
        .map(|target| {
            let per_call = if ask.what == What::PassThrough {
                Some(purse.per_call(&ask.route.name).unwrap_or_else(|| Arc::new(per_call(Usd::default()))))
            } else {
                None
            };
            let (row, table) = if per_call.is_some() { (None, purse.version()) } else { purse.price(target) };
            version = Some(table);
            Open { row, per_call, now: ask.now }
        })
        .collect();
    let version = version.unwrap_or_else(|| purse.version());
    let mut books = purse.books();
    let strict = books.rules.iter().any(|rule| rule.enforce == Enforce::Strict);
    if strict && ask.what == What::PassThrough && purse.per_call(&ask.route.name).is_none() {
        return Err(refuse(
            format!(
                "there is no price for a call of `{name}`, and a strict budget cannot hold without one; say it with \
                 `ai.pass_through.{name}.usd_per_call` (0 where calls are free)",
                name = ask.route.name
            ),
            "price_unknown",
            StatusCode::PAYMENT_REQUIRED,
            None,
        ));
    }
    if let Some(charged) = ask.charged
        && let Some(rule) = books.rules.iter().find(|rule| rule.enforce == Enforce::Strict)
    {
        return Err(refuse(
            format!(
                "`{charged}` in this request is charged beyond its tokens, by the call or with a surcharge, and the strict \
                 budget `{name}` cannot hold without a bound; ask without it, or set `ai.budgets.{name}.enforce: estimate`",
                name = rule.name
            ),
            "price_unknown",
            StatusCode::PAYMENT_REQUIRED,
            None,
        ));
    }
    let mut places = Vec::with_capacity(open.len());
    let mut candidates = Vec::with_capacity(open.len());
    let (mut unpriced, mut tuned) = (None, false);
    for (at, target) in ask.route.targets.iter().enumerate() {
        let Some(prices) = open[at].prices() else {
            unpriced = Some(target);
            tuned |= target.is_tuned;
            continue;
        };
        let output_tokens_max = open[at].row.as_ref().and_then(|row| row.output_tokens_max);
        candidates.push(Candidate {
            provider: &target.provider.name,
            model: &target.model,
            prices,
            output_tokens_max,
            tiers: tiers(target.provider.kind, ask.service_tier),
        });
        places.push(at);
    }
    if let (Some(target), true) = (unpriced, candidates.is_empty()) {
        if strict || tuned {
            let why = if tuned {
                "and what training made is not called for an unknown price"
            } else {
                "and a strict budget cannot hold without one"
            };
            return Err(refuse(
                format!(
                    "there is no price for `{}/{}`, {why}; add it to the project's file of prices (key `ai.prices`)",
                    target.provider.name, target.model
                ),
                "price_unknown",
                StatusCode::PAYMENT_REQUIRED,
                None,
            ));
        }
        return Ok((Taken::default(), version));
    }
    let generates = ask.what == What::Generate;
    let usual = purse.usual(&ask.route.name).unwrap_or_else(|| {
        let output = if generates { ask.max_tokens.unwrap_or(ask.route.config.max_tokens) } else { 0 };
        let of = |candidate: &Candidate<'_>| {
            crate::cost::bound(candidate.prices, ask.input_tokens_estimate, output, candidate.tiers).nanos()
        };
        candidates.iter().map(of).max().unwrap_or(0)
    });
    let need = Need {
        who: Who {
            key: &grant.id,
            person: grant.person.as_deref().unwrap_or_default(),
            project: &purse.project,
            route: &ask.route.name,
        },
        input_tokens_bound: ask.input_tokens_bound,
        max_tokens: ask.max_tokens,
        max_tokens_default: ask.route.config.max_tokens,
        choices: u64::from(ask.choices),
        generates,
        usual: Usd::from_nanos(usual),
        now: ask.now,
    };
    let mut taken = books.take(&need, &candidates).map_err(|short| short_refusal(&short, ask.now))?;
    let mut barred: Vec<usize> = taken.barred.iter().map(|at| places[*at]).collect();
    if strict || tuned {
        // Targets without a price are left out as long as there are others.
        barred.extend((0..open.len()).filter(|at| open[*at].prices().is_none()));
    }
    taken.barred = barred;
    Ok((taken, version))
}

/// What a request takes of its key's limits.
struct Limited {
    used: Arc<KeyUse>,
    slot: bool,
    tokens: Option<u64>,
}

impl Limited {
    fn enter(
        purse: &Purse,
        grant: &Grant,
        ask: &Ask<'_>,
        shares: Option<&Shares>,
    ) -> Result<Self, Box<Refusal>> {
        let used = purse.key(grant);
        let now = clock_nanos(ask.now);
        let mut entered = Self { used: Arc::clone(&used), slot: false, tokens: None };
        if let Some(most) = grant.limits.concurrent {
            used.slots.set(most);
            if !used.slots.take() {
                return Err(refuse(
                    format!("the key `{}` may have {most} requests under way, and has", grant.name),
                    "concurrency_exceeded",
                    StatusCode::TOO_MANY_REQUESTS,
                    Some(Duration::from_secs(1)),
                ));
            }
            entered.slot = true;
        }
        if let Some(limit) = grant.limits.requests_per_minute
            && let Err(short) = used.rpm.take(u64::from(limit), 1, 1, now, shares)
        {
            return Err(rate_refusal(&grant.name, "requests", 1, &short));
        }
        if let Some(limit) = grant.limits.tokens_per_minute
            && matches!(ask.what, What::Generate | What::Embed)
        {
            let answer = if ask.what == What::Generate {
                ask.max_tokens
                    .unwrap_or(ask.route.config.max_tokens)
                    .saturating_mul(u64::from(ask.choices.max(1)))
            } else {
                0
            };
            let tokens = ask.input_tokens_estimate.saturating_add(answer);
            let least = ask.input_tokens_estimate;
            match used.tpm.take(limit, tokens, least, now, shares) {
                Ok(taken) => entered.tokens = Some(taken),
                Err(short) => {
                    if grant.limits.requests_per_minute.is_some() {
                        used.rpm.correct(1, 0, now);
                    }
                    return Err(rate_refusal(&grant.name, "tokens", tokens, &short));
                }
            }
        }
        Ok(entered)
    }

    fn leave(&mut self, tokens_used: u64, now: Timestamp) {
        if let Some(taken) = self.tokens.take() {
            self.used.tpm.correct(taken, tokens_used, clock_nanos(now));
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if self.slot {
            self.used.slots.give_back();
        }
    }
}

#[allow(clippy::unnecessary_box_returns, reason = "it becomes the large error of a small answer")]
fn rate_refusal(key: &str, what: &str, needs: u64, short: &share::Short) -> Box<Refusal> {
    let exhausted = &short.exhausted;
    let when = match exhausted.retry_after {
        Some(after) => format!("there are enough in {:.1} s", after.as_secs_f64()),
        None => "that is more than a whole minute's".to_owned(),
    };
    let (limit, part) = match short.of {
        Some(limit) => (limit, format!(" of the {} that are this daemon's part", exhausted.limit)),
        None => (exhausted.limit, String::new()),
    };
    let mut refusal = refuse(
        format!(
            "the key `{key}` may use {limit} {what} in a minute and has {} left{part}; this request needs {needs}; {when}",
            exhausted.remaining
        ),
        "rate_limit_exceeded",
        StatusCode::TOO_MANY_REQUESTS,
        exhausted.retry_after,
    );
    refusal.on_its_way = short.on_its_way;
    refusal
}

/// What is held for one request.
struct Held {
    inner: Arc<Inner>,
    purse: Arc<Purse>,
    party: Party,
    request: RequestId,
    asked_tier: Tier,
    taken: Taken,
    times: i64,
    price_table: Arc<str>,
    limited: Limited,
    at: Timestamp,
}

impl Held {
    fn new(
        inner: &Arc<Inner>,
        purse: Arc<Purse>,
        grant: &Grant,
        ask: &Ask<'_>,
        taken: Taken,
        price_table: Arc<str>,
        limited: Limited,
    ) -> Self {
        let party = Party {
            project: Arc::clone(&purse.project),
            key_id: Arc::clone(&grant.id),
            key_name: Arc::clone(&grant.name),
            person: grant.person.clone().unwrap_or_else(|| Arc::from("")),
        };
        let asked_tier = ask.service_tier.and_then(Tier::parse).unwrap_or_default();
        // What holds no money leaves nothing behind when the process is killed.
        if !taken.parts.is_empty() {
            let first = ask.route.targets.first();
            let name = |of: fn(&Target) -> Arc<str>| first.map_or_else(|| Arc::from(""), |target| of(target));
            inner.outbox.push(Note::Opened {
                request: ask.request,
                party: party.clone(),
                at: ask.now,
                route: Arc::clone(&ask.route.name),
                provider: name(|target| Arc::clone(&target.provider.name)),
                model: name(|target| Arc::clone(&target.model)),
                what: ask.what,
                price_table: Arc::clone(&price_table),
                draws: draws(&purse, &taken.parts, |part, _, _| part.amount),
                bound: taken.bound,
            });
        }
        Self {
            inner: Arc::clone(inner),
            purse,
            party,
            request: ask.request,
            asked_tier,
            taken,
            times: 1,
            price_table,
            limited,
            at: ask.now,
        }
    }
}

/// What goes to each account, by the budget's scope and value.
fn draws(purse: &Purse, parts: &[Part], amount: impl Fn(&Part, BudgetScope, &str) -> i64) -> Vec<Draw> {
    let books = purse.books();
    let of = |part: &Part| {
        let account = &books.accounts[part.account];
        let rule = books.rules.get(account.rule)?;
        Some(Draw {
            account: Arc::clone(&account.id),
            period_us: part.period_us,
            usd_nanos: amount(part, rule.scope, &account.value),
        })
    };
    parts.iter().filter_map(of).collect()
}

impl Held {
    /// What each attempt cost. The last entry stands for the request itself.
    fn bill(&self, settlement: &Settlement) -> Vec<Billed> {
        let mut billed = Vec::new();
        let last = settlement.attempts.len().checked_sub(1);
        // Providers charge nothing for these; what a job costs has rows of its own.
        let free = is_free(settlement.what) || settlement.cache == CacheDecision::Hit;
        for (at, attempt) in settlement.attempts.iter().enumerate() {
            let serves = last == Some(at) && settlement.served_by().is_some();
            if serves {
                continue;
            }
            if attempt.may_cost && !free {
                let usage = estimated_usage(settlement.input_tokens_estimate, 0);
                billed.push(self.price(settlement, Some(at), attempt, usage, true));
            }
        }
        let nothing = Billed {
            attempt: last,
            usage: wire::Usage::default(),
            estimated: false,
            cost: crate::cost::Cost {
                usd: Usd::default(),
                tier: self.asked_tier,
                tier_unpriced: false,
                long: false,
            },
            price_row: String::new(),
        };
        let own = match (settlement.served_by(), last) {
            (Some(attempt), Some(at)) if !free => {
                let generates = matches!(settlement.what, What::Generate | What::Embed);
                let (usage, estimated) = match settlement.usage {
                    Some(usage) => (usage, false),
                    None if generates => {
                        (estimated_usage(settlement.input_tokens_estimate, settlement.delivered_bytes), true)
                    }
                    None => (wire::Usage::default(), false),
                };
                self.price(settlement, Some(at), attempt, usage, estimated)
            }
            _ => nothing,
        };
        billed.push(own);
        billed
    }

    fn price(
        &self,
        settlement: &Settlement,
        at: Option<usize>,
        attempt: &Attempt,
        usage: wire::Usage,
        estimated: bool,
    ) -> Billed {
        let reported = settlement.service_tier.as_deref().and_then(Tier::parse);
        let tier = reported.unwrap_or(self.asked_tier);
        let of = |prices: &Prices, row: String| Billed {
            attempt: at,
            usage,
            estimated,
            cost: cost(prices, &usage, tier),
            price_row: row,
        };
        if settlement.what == What::PassThrough {
            let name = &settlement.route.name;
            return match self.purse.per_call(name) {
                Some(prices) => of(&prices, format!("pass_through/{name}")),
                None => of(&per_call(Usd::default()), String::new()),
            };
        }
        match self.purse.price(&attempt.target).0 {
            Some(row) => {
                let prices = row.prices_at(self.at);
                of(prices, row.row(prices))
            }
            None => of(&per_call(Usd::default()), String::new()),
        }
    }
}

impl Hold for Held {
    fn again(&mut self) -> Result<(), Box<Refusal>> {
        self.purse
            .books()
            .take_again(&self.taken.parts)
            .map_err(|short| short_refusal(&short, self.inner.clock.now()))?;
        self.times += 1;
        Ok(())
    }

    fn settle(mut self: Box<Self>, settlement: Option<Settlement>) {
        let Some(settlement) = settlement else {
            self.purse.books().settle(&self.taken.parts, self.times, |_, _| 0);
            self.limited.leave(0, self.at);
            self.inner
                .outbox
                .push(Note::Dropped { request: self.request, project: Arc::clone(&self.purse.project) });
            return;
        };
        let billed = self.bill(&settlement);
        let spent_at = |scope: BudgetScope, value: &str| -> i64 {
            let counts = |billed: &&Billed| {
                let target = billed.attempt.and_then(|at| settlement.attempts.get(at)).map(|a| &a.target);
                match scope {
                    BudgetScope::Provider => target.is_some_and(|target| &*target.provider.name == value),
                    BudgetScope::Model => target.is_some_and(|target| &*target.model == value),
                    _ => true,
                }
            };
            let sum =
                billed.iter().filter(counts).map(|billed| i128::from(billed.cost.usd.nanos())).sum::<i128>();
            i64::try_from(sum).unwrap_or(i64::MAX)
        };
        let cost = Usd::from_nanos(spent_at(BudgetScope::Project, ""));
        self.inner.metrics.observe(&self.purse.project, &settlement, cost);
        if let Some(spans) = &*self.purse.spans.load() {
            spans.record(&self.purse.project, &settlement, cost);
        }
        let draws = draws(&self.purse, &self.taken.parts, |_, scope, value| spent_at(scope, value));
        self.purse.books().settle(&self.taken.parts, self.times, spent_at);
        let used = settlement
            .usage
            .unwrap_or_else(|| estimated_usage(settlement.input_tokens_estimate, settlement.delivered_bytes));
        let tokens = if settlement.cache == CacheDecision::Hit {
            0
        } else {
            used.prompt().saturating_add(used.completion())
        };
        let ended = settlement.started.checked_add(settlement.duration).unwrap_or(settlement.started);
        self.limited.leave(tokens, ended);
        if settlement.cache != CacheDecision::Hit && settlement.served_by().is_some() {
            self.purse.learn(&settlement.route.name, spent_at(BudgetScope::Project, ""));
        }
        if self.taken.bound > 0 {
            let spent = spent_at(BudgetScope::Project, "");
            if spent > self.taken.bound.saturating_mul(self.times) {
                tracing::warn!(
                    request = %settlement.request, bound_usd_nanos = self.taken.bound, spent_usd_nanos = spent,
                    "an AI call cost more than its bound"
                );
            }
        }
        self.inner.outbox.push(Note::Done(Box::new(Done {
            party: self.party.clone(),
            settlement,
            price_table: Arc::clone(&self.price_table),
            billed,
            draws,
            bound: self.taken.bound,
        })));
    }
}

/// Ticks by the clock, and not by what there is to write: a daemon with much to write would do what is due at one of them with
/// each batch, and never come to the next.
struct Ticks {
    interval: tokio::time::Interval,
    passed: u32,
}

impl Ticks {
    fn new() -> Self {
        let mut interval = tokio::time::interval_at(Instant::now() + TICK, TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { interval, passed: 0 }
    }

    async fn next(&mut self) -> u32 {
        self.interval.tick().await;
        self.passed = self.passed.wrapping_add(1);
        self.passed
    }
}

/// Writes what requests used and keeps slices at hand, until the accounts are closed.
async fn run(inner: Arc<Inner>) {
    let mut ticks = Ticks::new();
    // Since when nothing can be written, and whether that was told.
    let mut failing: Option<(Instant, bool)> = None;
    loop {
        let tick = tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.outbox.wake.notified() => {
                // What comes while a batch is written waits for more as well: many small ones cost more than a few.
                if !inner.outbox.has_a_batch() {
                    tokio::time::sleep(LINGER).await;
                }
                None
            }
            tick = ticks.next() => Some(tick),
        };
        let began = Instant::now();
        match inner.outbox.write(&inner.ledger, &inner.holder, &inner.clock).await {
            Ok(more) => {
                failing = None;
                if more {
                    inner.outbox.wake.notify_one();
                }
            }
            Err(error) => {
                let (since, told) = failing.get_or_insert((began, false));
                if !*told && since.elapsed() >= UNWRITABLE {
                    *told = true;
                    inner.tell_unwritable(&error);
                }
                // It has been said; the next attempt follows after a pause.
                tokio::time::sleep(TICK).await;
            }
        }
        if inner.shared.is_none() {
            if let Err(error) = keep(&inner, tick).await {
                tracing::warn!(%error, "slices of AI budgets cannot be taken now");
            }
            inner.leased.notify_waiters();
        }
        inner.look_at_thresholds();
        if tick.is_some_and(|tick| tick.is_multiple_of(FORGET_TICKS))
            && let Err(error) = keeper::forget_responses(&inner).await
        {
            tracing::warn!(%error, "responses that providers no longer keep are still remembered");
        }
    }
}

/// Keeps slices at hand that come from shared counters, until the accounts are closed.
async fn keep_shared(inner: Arc<Inner>) {
    let mut ticks = Ticks::new();
    loop {
        let tick = tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.slices.notified() => {
                tokio::time::sleep(LINGER).await;
                None
            }
            tick = ticks.next() => Some(tick),
        };
        if let Err(error) = keep(&inner, tick).await {
            tracing::warn!(%error, "slices of AI budgets cannot be taken now");
        }
        inner.leased.notify_waiters();
    }
}

/// Looks after the slices; between ticks only takes those that are wanted.
async fn keep(inner: &Inner, tick: Option<u32>) -> Result<(), Error> {
    let each = |ticks: u32| tick.is_some_and(|tick| tick.is_multiple_of(ticks));
    let slow = each(SLOW_TICKS);
    if slow {
        // Before more is taken, so that what somebody waits for is there when it is asked for again.
        keeper::share(inner).await?;
    }
    for purse in inner.all_purses() {
        keeper::lease(inner, &purse, slow).await?;
    }
    if each(RENEW_TICKS) {
        keeper::renew(inner).await?;
        keeper::recover(inner).await?;
    }
    Ok(())
}
