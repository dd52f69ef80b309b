//! Two projects on one state file, with a provider that plays batches and training.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::ai::Provider;
use contract::{Actor, Context, TestClock};
use fake_ai::FakeAi;
use gateway::price::PriceTable;
use gateway::{
    Accounts, AiConfig, Fingerprints, Gateway, Grant, Jobs, Limits, Notices, Project, ProjectParts, Reach,
    Rights, Standing, Table,
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use ledger::{Keys, Ledger, Options, Row};
use secrecy::{SecretBox, SecretString};
use serde_json::{Value, json};

pub(crate) const SHOP: &str = "sk-steward-shop-0123456789abcdef";
pub(crate) const BANK: &str = "sk-steward-bank-0123456789abcdef";
/// The version that the provider is asked in; clients of Azure name another one.
pub(crate) const AZURE_VERSION: &str = "2024-10-21";
/// What training costs at Azure differs by region and contract, so it stands in the project's own file.
const AZURE_PRICES: &str = r#"{ "models": [ { "provider": "cloud", "model": "ft:gpt-4o-mini", "output_tokens_max": 16384,
  "prices": [ { "standard": { "input": "0.3", "output": "1.2" }, "training": "3" } ] } ] }"#;
pub(crate) const MODEL: &str = "gpt-4o-mini-2024-07-18";

/// What outlives a process.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) fake: FakeAi,
    is_azure: bool,
}

impl Home {
    pub(crate) async fn new() -> Self {
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock: Arc::new(TestClock::at(now)),
            fake: FakeAi::start().await.unwrap(),
            is_azure: false,
        }
    }

    /// Clients and provider speak as Azure OpenAI does: other paths, a version in the query, another header for the key.
    pub(crate) async fn at_azure() -> Self {
        Self { is_azure: true, ..Self::new().await }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state.db")
    }

    /// A process on this state; `yaml` says budgets and routes.
    pub(crate) async fn open(&self, yaml: &str) -> World {
        self.open_shared(yaml, None).await
    }

    /// The same, with counters that several daemons share.
    pub(crate) async fn open_shared(
        &self,
        yaml: &str,
        shared: Option<Arc<dyn contract::SharedCounters>>,
    ) -> World {
        let secret = |byte| SecretBox::new(Box::new([byte; 32]));
        let keys = Keys { seal: secret(7), sign: secret(8) };
        let path = self.path();
        let options = Options::new(path.with_file_name("audit.head"));
        let ledger = Ledger::open(&path, keys, options).await.unwrap();
        let accounts = Accounts::open_shared(ledger.clone(), self.clock.clone(), shared).await.unwrap();
        World::over(self, ledger, accounts, yaml).await
    }

    pub(crate) fn hours(&self, hours: i64) {
        self.clock.advance_us(hours * 3_600_000_000);
    }
}

pub(crate) struct World {
    pub(crate) ledger: Ledger,
    pub(crate) accounts: Accounts,
    pub(crate) jobs: Jobs,
    pub(crate) config: AiConfig,
    gateway: Gateway,
    fingerprints: Fingerprints,
    clock: Arc<TestClock>,
    is_azure: bool,
    prices: Arc<PriceTable>,
}

pub(crate) struct Read {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Read {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn id(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn receipt(&self) -> String {
        self.headers["steward-receipt"].to_str().unwrap().to_owned()
    }

    pub(crate) fn error(&self) -> String {
        let error = &self.json()["error"];
        format!("{} {}", error["code"].as_str().unwrap_or_default(), error["message"].as_str().unwrap())
    }
}

impl World {
    pub(crate) async fn over(home: &Home, ledger: Ledger, accounts: Accounts, yaml: &str) -> Self {
        let url = home.fake.url();
        let of_openai = if home.is_azure {
            format!(
                "cloud: {{ kind: azure_openai, url: '{url}', api_version: {AZURE_VERSION}, keys: [main] }}"
            )
        } else {
            format!("openai: {{ kind: openai, url: '{url}/v1', keys: [main], formats: [chat, responses] }}")
        };
        let base = format!(
            "
providers:
  {of_openai}
  anthropic: {{ kind: anthropic, url: '{url}/v1', keys: [main] }}
{yaml}"
        );
        let config: AiConfig = serde_saphyr::from_str(&base).unwrap();
        config.validate().unwrap();
        let fingerprints = Fingerprints::new(&SecretBox::new(Box::new([7; 32])));
        let jobs = Jobs::new(ledger.clone(), accounts.clone(), home.clock.clone());
        let empty = Table::new(fingerprints.clone(), Vec::new(), Vec::new());
        let gateway = Gateway::new(empty, Arc::new(accounts.clone()))
            .with_clock(home.clock.clone())
            .with_jobs(jobs.clone());
        let own = if home.is_azure { AZURE_PRICES } else { r#"{ "models": [] }"# };
        let prices = Arc::new(PriceTable::built_in().with_overrides(own).unwrap());
        let world = Self {
            prices,
            ledger,
            accounts,
            jobs,
            config,
            gateway,
            fingerprints,
            clock: home.clock.clone(),
            is_azure: home.is_azure,
        };
        world.compile(|_| {}).await;
        world
    }

    /// Puts the table in place as the daemon does when something has changed.
    pub(crate) async fn compile(&self, change: impl Fn(&mut Grant)) {
        let tuned = gateway::tuned(&self.ledger).await.unwrap();
        let (mut projects, mut grants) = (Vec::new(), Vec::new());
        for (name, key) in [("shop", SHOP), ("bank", BANK)] {
            let adapter = |kind: &str| -> Arc<dyn Provider> {
                match kind {
                    "anthropic" => Arc::new(ai_anthropic::Anthropic),
                    "azure_openai" => Arc::new(ai_azure_openai::AzureOpenAi::new(
                        Some(AZURE_VERSION.into()),
                        BTreeMap::new(),
                    )),
                    _ => Arc::new(ai_openai::OpenAi),
                }
            };
            let adapters = self.config.providers.iter();
            let adapters =
                adapters.map(|(name, provider)| (name.clone(), adapter(provider.kind.as_str()))).collect();
            let secret = SecretString::from("upstream-main-key-12345678");
            let parts = ProjectParts {
                name,
                config: &self.config,
                adapters,
                secrets: BTreeMap::from([("main".to_owned(), Ok(secret.into()))]),
                notices: Notices::default(),
                certificates: BTreeMap::new(),
                catalog: gateway::Catalog::new(Arc::clone(&self.prices), contract::Clock::now(&*self.clock)),
                tuned: tuned.clone(),
            };
            let project = Project::build(&parts, None).unwrap();
            let mut grant = Grant {
                id: format!("vk_{name}").into(),
                name: "website".into(),
                person: Some("anna".into()),
                project: Arc::clone(&project),
                reach: Reach::All,
                rights: Rights { call: true, fine_tune: true },
                expires: None,
                limits: Limits::default(),
            };
            change(&mut grant);
            projects.push(project);
            grants.push((self.fingerprints.of(key.as_bytes()), grant));
        }
        let table = Table::new(self.fingerprints.clone(), projects, grants);
        for name in ["shop", "bank"] {
            let prices = Arc::clone(&self.prices);
            self.accounts.prepare(name, &self.config, prices, Some(&table)).await.unwrap();
        }
        self.gateway.replace(table);
    }

    pub(crate) async fn send(
        &self,
        key: &str,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Read {
        self.send_with(key, method, path, &[("content-type", kind)], body).await
    }

    pub(crate) async fn send_with(
        &self,
        key: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Read {
        let at_azure = |rest| format!("/openai{rest}?api-version=2025-04-01-preview");
        let path =
            path.strip_prefix("/v1").filter(|_| self.is_azure).map_or_else(|| path.to_owned(), at_azure);
        let (name, value) = if self.is_azure {
            ("api-key", key.to_owned())
        } else {
            ("authorization", format!("Bearer {key}"))
        };
        let mut request = Request::builder().method(method).uri(path).header(name, value);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let (parts, body) = self.gateway.handle(request).await.into_parts();
        let body = tokio::time::timeout(Duration::from_mins(1), body.collect()).await.unwrap();
        Read { status: parts.status, headers: parts.headers, body: body.unwrap().to_bytes() }
    }

    pub(crate) async fn get(&self, key: &str, path: &str) -> Read {
        self.send(key, "GET", path, "", "").await
    }

    pub(crate) async fn post(&self, key: &str, path: &str, body: &Value) -> Read {
        self.send(key, "POST", path, "application/json", body.to_string()).await
    }

    pub(crate) async fn upload(&self, key: &str, content: &str) -> String {
        let form = format!(
            "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: form-data; \
             name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{content}\r\n--b--\r\n"
        );
        self.send(key, "POST", "/v1/files", "multipart/form-data; boundary=b", form).await.id()
    }

    /// A batch of so many requests with at most a thousand tokens of answer each, made by the shop.
    pub(crate) async fn batch(&self, requests: usize) -> Read {
        let mut lines = requests_file(requests);
        if self.is_azure {
            lines = lines.replace("/v1/chat", "/chat");
        }
        let file = self.upload(SHOP, &lines).await;
        self.make_batch(SHOP, &file).await
    }

    /// The name of the provider that has the files.
    pub(crate) fn provider(&self) -> &'static str {
        if self.is_azure { "cloud" } else { "openai" }
    }

    pub(crate) async fn make_batch(&self, key: &str, file: &str) -> Read {
        let endpoint = if self.is_azure { "/chat/completions" } else { "/v1/chat/completions" };
        let body = json!({ "input_file_id": file, "endpoint": endpoint, "completion_window": "24h" });
        self.post(key, "/v1/batches", &body).await
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.gateway.table()
    }

    pub(crate) async fn look(&self) -> usize {
        self.jobs.look(&self.gateway.table()).await.unwrap()
    }

    pub(crate) fn ctx(&self) -> Context {
        Context::new("shop", Actor::local()).with_clock(self.clock.clone())
    }

    pub(crate) async fn rows(&self, sql: &'static str) -> Vec<Row> {
        self.ledger.query(sql, Vec::new()).await.unwrap()
    }

    /// The rows of jobs that were settled: model, ending, cost.
    pub(crate) async fn settled(&self) -> Vec<(String, String, i64)> {
        let rows = self
            .rows(
                "SELECT model, ending, cost_usd_nanos FROM ai_usage \
                 WHERE operation IN ('batches', 'fine_tuning') AND model <> '' ORDER BY at_us, id",
            )
            .await;
        let text = |row: &Row, name: &str| row.get_text(name).unwrap().to_owned();
        rows.iter()
            .map(|row| (text(row, "model"), text(row, "ending"), row.get_i64("cost_usd_nanos").unwrap()))
            .collect()
    }

    /// What jobs hold.
    pub(crate) async fn held(&self) -> i64 {
        let rows = self
            .rows(
                "SELECT COALESCE(SUM(amount_usd_nanos), 0) AS held FROM ai_slices WHERE holder LIKE 'job/%'",
            )
            .await;
        rows[0].get_i64("held").unwrap()
    }

    pub(crate) async fn spent(&self) -> i64 {
        let rows = self
            .rows("SELECT COALESCE(SUM(spent_usd_nanos), 0) AS spent FROM ai_accounts WHERE project = 'shop'")
            .await;
        rows[0].get_i64("spent").unwrap()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.accounts.standings("shop")[0].clone()
    }
}

pub(crate) fn requests_file(requests: usize) -> String {
    let line = |number: usize| {
        json!({
            "custom_id": number.to_string(), "method": "POST", "url": "/v1/chat/completions",
            "body": { "model": MODEL, "max_tokens": 1000, "messages": [{ "role": "user", "content": "hi" }] },
        })
        .to_string()
    };
    (0..requests).map(line).collect::<Vec<_>>().join("\n")
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
