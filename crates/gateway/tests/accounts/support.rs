//! A project with one route onto a provider that nobody calls, and the way a request goes through its accounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use contract::ai::{Call, Endpoint, Failure, FailureClass, Provider, Rejection};
use contract::{Actor, Context, Error, TestClock};
use gateway::price::PriceTable;
use gateway::{
    Accounts, AiConfig, Ask, Attempt, CacheDecision, Ending, Grant, Limits, Metering, Notices, Project,
    ProjectParts, Reach, Refusal, RequestId, Reservation, Rights, Route, Settlement, What,
};
use http::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use ledger::{Keys, Ledger, Options};
use secrecy::{SecretBox, SecretString};
use wire::{Format, Usage};

pub(crate) const PROJECT: &str = "shop";

pub(crate) struct Home {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) clock: Arc<TestClock>,
}

impl Home {
    pub(crate) fn new() -> Self {
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        Self { directory: tempfile::tempdir().unwrap(), clock: Arc::new(TestClock::at(now)) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("state.db")
    }

    pub(crate) async fn ledger(&self) -> Ledger {
        ledger_at(&self.path(), None).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        contract::Clock::now(&*self.clock)
    }

    pub(crate) fn ctx(&self) -> Context {
        Context::new(PROJECT, Actor::local()).with_clock(self.clock.clone())
    }

    /// Accounts on this state with these budgets, ready to let requests in.
    pub(crate) async fn shop(&self, yaml: &str) -> Shop {
        let ledger = self.ledger().await;
        let accounts = Accounts::open(ledger.clone(), self.clock.clone()).await.unwrap();
        Shop::over(ledger, accounts, yaml, self.clock.clone()).await
    }
}

pub(crate) async fn ledger_at(path: &Path, pages_max: Option<u32>) -> Ledger {
    let secret = |byte| SecretBox::new(Box::new([byte; 32]));
    let keys = Keys { seal: secret(7), sign: secret(8) };
    let options = Options { pages_max, ..Options::new(path.with_file_name("audit.head")) };
    Ledger::open(path, keys, options).await.unwrap()
}

/// What a request goes through.
pub(crate) struct Shop {
    pub(crate) ledger: Ledger,
    pub(crate) accounts: Accounts,
    pub(crate) config: AiConfig,
    pub(crate) grant: Arc<Grant>,
    pub(crate) clock: Arc<TestClock>,
}

/// Providers and a route; budgets and limits are put behind it.
const BASE: &str = "
providers:
  openai: { kind: openai, url: 'http://127.0.0.1:9' }
  past: { kind: openai, url: 'http://127.0.0.1:9', successors: true }
  cloud: { kind: azure_openai, url: 'http://127.0.0.1:9' }
  claude: { kind: anthropic, url: 'http://127.0.0.1:9' }
  google: { kind: gemini, url: 'http://127.0.0.1:9' }
routes:
  fast: { targets: [{ provider: openai, model: gpt-4o-mini }] }
  old: { targets: [{ provider: past, model: gpt-4o-2024-05-13 }] }
  mixed: { targets: [{ provider: openai, model: gpt-4o-mini }, { provider: past, model: gpt-4.1-nano }] }
  odd: { targets: [{ provider: openai, model: nobody-knows }] }
  both: { targets: [{ provider: openai, model: gpt-4.1 }, { provider: openai, model: gpt-4.1-mini }] }
  kept: { targets: [{ provider: openai, model: gpt-4o-mini }], cache: { ttl_s: 600, objective_hit_rate: 0.5 } }
pass_through:
  maps: { prefix: /maps, url: 'http://127.0.0.1:9', usd_per_call: '0.001' }
  free: { prefix: /free, url: 'http://127.0.0.1:9', usd_per_call: 0 }
  open: { prefix: /open, url: 'http://127.0.0.1:9' }
";

impl Shop {
    pub(crate) async fn over(ledger: Ledger, accounts: Accounts, yaml: &str, clock: Arc<TestClock>) -> Self {
        let config: AiConfig = serde_saphyr::from_str(&format!("{BASE}{yaml}")).unwrap();
        config.validate().unwrap();
        let adapters: BTreeMap<String, Arc<dyn Provider>> = ["openai", "past", "cloud", "claude", "google"]
            .map(|name| (name.to_owned(), Arc::new(Nobody) as Arc<dyn Provider>))
            .into();
        let parts = ProjectParts {
            name: PROJECT,
            config: &config,
            adapters,
            secrets: BTreeMap::new(),
            notices: Notices::default(),
            certificates: BTreeMap::new(),
            catalog: gateway::Catalog::new(
                Arc::new(gateway::price::PriceTable::built_in()),
                contract::Clock::now(&*clock),
            ),
            tuned: Vec::new(),
        };
        let project = Project::build(&parts, None).unwrap();
        let grant = Arc::new(Grant {
            id: "vk_1".into(),
            name: "website".into(),
            person: Some("anna".into()),
            project,
            reach: Reach::All,
            rights: Rights { call: true, fine_tune: true },
            expires: None,
            limits: Limits {
                requests_per_minute: config.limits.rpm,
                tokens_per_minute: config.limits.tpm,
                concurrent: config.limits.concurrent,
            },
        });
        let shop = Self { ledger, accounts, config, grant, clock };
        shop.prepare().await;
        shop
    }

    pub(crate) async fn prepare(&self) {
        let prices = Arc::new(PriceTable::built_in());
        self.accounts.prepare(PROJECT, &self.config, prices, None).await.unwrap();
    }

    pub(crate) fn now(&self) -> Timestamp {
        contract::Clock::now(&*self.clock)
    }

    pub(crate) fn route(&self, name: &str) -> Arc<Route> {
        self.grant.project.resolve(name).unwrap()
    }

    /// The same project, asked with another key.
    pub(crate) fn with_key(&self, id: &str, person: &str) -> Self {
        let Grant { name, project, rights, limits, .. } = &*self.grant;
        let grant = Grant {
            id: id.into(),
            name: name.clone(),
            person: Some(person.into()),
            project: Arc::clone(project),
            reach: Reach::All,
            rights: *rights,
            expires: None,
            limits: *limits,
        };
        Self {
            ledger: self.ledger.clone(),
            accounts: self.accounts.clone(),
            config: self.config.clone(),
            grant: Arc::new(grant),
            clock: Arc::clone(&self.clock),
        }
    }

    /// A request with a thousand tokens each way at most: 750,000 nano-dollars of gpt-4o-mini.
    pub(crate) fn ask(&self) -> Result<Asked, Box<Refusal>> {
        self.ask_for("fast", Some(1000))
    }

    pub(crate) fn ask_for(&self, route: &str, max_tokens: Option<u64>) -> Result<Asked, Box<Refusal>> {
        self.ask_what(What::Generate, self.route(route), max_tokens)
    }

    /// A call of a declared other service.
    pub(crate) fn call(&self, service: &str) -> Result<Asked, Box<Refusal>> {
        let forwarded = self.grant.project.pass_through_at(&format!("/{service}")).unwrap();
        self.ask_what(What::PassThrough, Arc::clone(&forwarded.route), Some(0))
    }

    pub(crate) fn ask_what(
        &self,
        what: What,
        route: Arc<Route>,
        max_tokens: Option<u64>,
    ) -> Result<Asked, Box<Refusal>> {
        // The provider's own choice may be the dearest, which would be set aside.
        self.ask_in(what, route, max_tokens, Some("default"), None)
    }

    /// A request in this tier, with something that is charged beyond its tokens.
    pub(crate) fn ask_in(
        &self,
        what: What,
        route: Arc<Route>,
        max_tokens: Option<u64>,
        service_tier: Option<&str>,
        charged: Option<&str>,
    ) -> Result<Asked, Box<Refusal>> {
        let request = RequestId::new(self.now());
        let ask = Ask {
            request,
            what,
            route: &route,
            input_tokens_bound: 1000,
            input_tokens_estimate: 250,
            max_tokens,
            choices: 1,
            service_tier,
            charged,
            now: self.now(),
        };
        let reservation = self.accounts.admit(&self.grant, &ask)?;
        Ok(Asked { request, what, route, reservation, at: self.now() })
    }

    /// Asks and uses all that the answer may have; what that cost, or nothing if it was not let in.
    pub(crate) fn use_all(&self) -> Option<i64> {
        let asked = match self.ask() {
            Ok(asked) => asked,
            Err(refusal) => {
                assert_eq!(refusal.code, "budget_exceeded");
                return None;
            }
        };
        let output = asked.reservation.max_tokens().unwrap_or(1000);
        asked.used(tokens(1000, output));
        Some(1000 * 150 + i64::try_from(output).unwrap() * 600)
    }

    /// Rows as JSON-like text columns, in the order of their ids.
    pub(crate) async fn column(&self, name: &str) -> Vec<String> {
        column(&self.ledger, name).await
    }

    pub(crate) async fn spent(&self) -> i64 {
        let rows = self
            .ledger
            .query("SELECT COALESCE(SUM(cost_usd_nanos), 0) AS spent FROM ai_usage", Vec::new())
            .await
            .unwrap();
        rows[0].get_i64("spent").unwrap()
    }
}

pub(crate) async fn column(ledger: &Ledger, name: &str) -> Vec<String> {
    let rows = ledger.query("SELECT * FROM ai_usage ORDER BY id", Vec::new()).await.unwrap();
    rows.iter()
        .map(|row| match row.get(name).unwrap() {
            ledger::Value::Integer(value) => value.to_string(),
            ledger::Value::Text(text) => text.clone(),
            other => format!("{other:?}"),
        })
        .collect()
}

/// A request that was let in.
pub(crate) struct Asked {
    pub(crate) request: RequestId,
    pub(crate) what: What,
    pub(crate) route: Arc<Route>,
    pub(crate) reservation: Reservation,
    pub(crate) at: Timestamp,
}

impl Asked {
    /// Ends it with these tokens.
    pub(crate) fn used(self, usage: Option<Usage>) -> RequestId {
        self.end(usage, Ending::Complete, 300)
    }

    pub(crate) fn end(self, usage: Option<Usage>, ending: Ending, delivered_bytes: u64) -> RequestId {
        let (request, attempts) = (self.request, vec![self.attempt(None)]);
        let mut settlement = self.settlement(attempts);
        settlement.usage = usage;
        settlement.ending = ending;
        settlement.delivered_bytes = delivered_bytes;
        self.reservation.settle(settlement);
        request
    }

    pub(crate) fn attempt(&self, failure: Option<FailureClass>) -> Attempt {
        Attempt {
            target: Arc::clone(&self.route.targets[0]),
            key: "openai/main".into(),
            status: failure.is_none().then_some(200),
            failure,
            may_cost: matches!(failure, None | Some(FailureClass::Timeout)),
            message: None,
            began: Duration::ZERO,
            took: Duration::from_millis(300),
        }
    }

    pub(crate) fn settlement(&self, attempts: Vec<Attempt>) -> Settlement {
        Settlement {
            request: self.request,
            what: self.what,
            started: self.at,
            attempts,
            route: Arc::clone(&self.route),
            asked_model: "fast".into(),
            streaming: false,
            usage: None,
            input_tokens_estimate: 250,
            delivered_bytes: 0,
            reported_model: Some("gpt-4o-mini-2024-07-18".into()),
            service_tier: None,
            ending: Ending::Complete,
            status: 200,
            cache: CacheDecision::Off,
            cache_note: None,
            first_byte: Some(Duration::from_millis(300)),
            duration: Duration::from_millis(400),
            waited: Duration::from_millis(299),
            clamped_max_tokens: self.reservation.max_tokens(),
            request_bytes: 1000,
            response_bytes: 500,
            trace: None,
            kept_there: Vec::new(),
        }
    }
}

/// Lets two spend from one budget for ten until no useful answer is left in it; what they spent.
pub(crate) async fn use_up(first: &Shop, second: &Shop, before: i64) -> i64 {
    const BUDGET: i64 = 7_500_000;
    // Each may keep a rest that is too little for a prompt and sixteen tokens.
    const RESTS: i64 = 2 * (1000 * 150 + 16 * 600);
    let mut spent = 0;
    for _ in 0..6_000 {
        for shop in [first, second] {
            spent += shop.use_all().unwrap_or(0);
        }
        assert!(before + spent <= BUDGET, "overspent: {spent}");
        if before + spent > BUDGET - RESTS {
            return spent;
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // Slices move by and by.
    }
    panic!("the money of one never comes to the other: {spent}");
}

#[allow(clippy::unnecessary_wraps, reason = "as settlements want it")]
pub(crate) fn tokens(input: u64, output: u64) -> Option<Usage> {
    Some(Usage { input, output, ..Usage::default() })
}

/// Waits for something that another task does, for as long as a slow machine may need.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    for _ in 0..6_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // Nothing tells when it is so.
    }
    panic!("never: {what}");
}

/// A provider that is only looked up.
struct Nobody;

impl Provider for Nobody {
    fn kind(&self) -> &'static str {
        "openai"
    }

    fn default_url(&self) -> Option<&'static str> {
        None
    }

    fn default_path(&self) -> &'static str {
        ""
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Chat]
    }

    fn embeds_as(&self) -> Option<Format> {
        None
    }

    fn endpoint(&self, _call: &Call<'_>) -> Result<Endpoint, Error> {
        Ok(Endpoint::post("/chat/completions"))
    }

    fn authorize(&self, _key: &SecretString) -> Result<(HeaderName, HeaderValue), Error> {
        Ok((http::header::AUTHORIZATION, HeaderValue::from_static("none")))
    }

    fn classify(&self, rejection: &Rejection<'_>) -> Failure {
        Failure::new(FailureClass::of_status(rejection.status.as_u16()), "failed")
    }
}
