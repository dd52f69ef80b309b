//! A gateway that listens, with scripted providers behind it and a record of what was settled.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use contract::TestClock;
use contract::ai::Provider;
use fake_ai::FakeAi;
use gateway::{
    Accounts, AiConfig, Ask, Fingerprints, Gateway, Grant, Hold, Limits, Metering, Project, ProjectParts,
    Reach, Refusal, Reservation, Rights, Settlement, Table,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ledger::{Keys, Ledger, Options};
use outbound::{Incoming, Outgoing, Upstream, UpstreamOptions};
use secrecy::{SecretBox, SecretString};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// No test waits longer; a test that works waits for no time at all.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The virtual key of the tests.
pub const KEY: &str = "sk-steward-test-0123456789abcdef";

pub const NOW: &str = "2026-03-04T02:00:00Z";

/// Keeps settlements; may bound the tokens of answers or refuse.
#[derive(Default)]
pub struct Records {
    settled: watch::Sender<Vec<Arc<Settlement>>>,
    pub clamp: Mutex<Option<u64>>,
    pub refuse: Mutex<Option<Refusal>>,
    dropped: watch::Sender<usize>,
}

struct Held(Arc<Records>);

impl Hold for Held {
    fn settle(self: Box<Self>, settlement: Option<Settlement>) {
        match settlement {
            Some(settlement) => self.0.settled.send_modify(|all| all.push(Arc::new(settlement))),
            None => self.0.dropped.send_modify(|count| *count += 1),
        }
    }
}

pub struct Meter(pub Arc<Records>);

impl Metering for Meter {
    fn admit(&self, _grant: &Arc<Grant>, _ask: &Ask<'_>) -> Result<Reservation, Box<Refusal>> {
        if let Some(refusal) = self.0.refuse.lock().unwrap().clone() {
            return Err(Box::new(refusal));
        }
        Ok(Reservation::new(Box::new(Held(Arc::clone(&self.0))), *self.0.clamp.lock().unwrap()))
    }
}

impl Records {
    /// Waits until so many requests are settled, and gives the last of them.
    pub async fn settled(&self, count: usize) -> Arc<Settlement> {
        let mut settled = self.settled.subscribe();
        let all = tokio::time::timeout(PATIENCE, settled.wait_for(|all| all.len() >= count)).await;
        Arc::clone(&all.expect("it is settled").unwrap()[count - 1])
    }

    pub fn count(&self) -> usize {
        self.settled.borrow().len()
    }
}

pub struct Stage {
    pub gateway: Arc<Gateway>,
    pub records: Arc<Records>,
    pub clock: Arc<TestClock>,
    pub address: SocketAddr,
    pub client: Upstream,
    pub fingerprints: Fingerprints,
}

/// An answer that was read to its end.
pub struct Read {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether the body ended as it should.
    pub whole: bool,
}

impl Read {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub fn adapter(kind: &str) -> Arc<dyn Provider> {
    match kind {
        "openai" => Arc::new(ai_openai::OpenAi),
        "azure_openai" => {
            Arc::new(ai_azure_openai::AzureOpenAi::new(Some("2024-10-21".into()), BTreeMap::new()))
        }
        "anthropic" => Arc::new(ai_anthropic::Anthropic),
        "gemini" => Arc::new(ai_gemini::Gemini),
        kind => panic!("{kind}"),
    }
}

pub fn project(config: &AiConfig, previous: Option<&Project>) -> Arc<Project> {
    config.validate().unwrap();
    let adapters = config
        .providers
        .iter()
        .map(|(name, provider)| (name.clone(), adapter(provider.kind.as_str())))
        .collect();
    let named = config.providers.values().flat_map(|provider| &provider.keys);
    let named = named.chain(config.pass_through.values().flat_map(|forwarded| &forwarded.keys));
    let secrets = named
        .map(|name| (name.clone(), Ok(SecretString::from(format!("upstream-{name}-key-12345678")).into())))
        .collect();
    let certificates = config.providers.values().filter_map(|provider| provider.certificates.clone());
    let certificates = certificates.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    let parts = ProjectParts {
        name: "shop",
        config,
        adapters,
        secrets,
        notices: gateway::Notices::default(),
        certificates,
        catalog: gateway::Catalog::new(
            Arc::new(gateway::price::PriceTable::built_in()),
            NOW.parse().unwrap(),
        ),
        tuned: Vec::new(),
    };
    Project::build(&parts, previous).unwrap()
}

pub fn grant(project: &Arc<Project>) -> Grant {
    Grant {
        id: "vk_test".into(),
        name: "test".into(),
        person: None,
        project: Arc::clone(project),
        reach: Reach::All,
        rights: Rights { call: true, fine_tune: true },
        expires: None,
        limits: Limits::default(),
    }
}

impl Stage {
    /// A gateway with this configuration (YAML is a superset of JSON, so JSON) and one key that may do everything.
    pub async fn new(config: serde_json::Value) -> Self {
        Self::with(config, |_| {}).await
    }

    pub async fn with(config: serde_json::Value, change: impl FnOnce(&mut Grant)) -> Self {
        Self::shaped(config, change, |gateway| gateway).await
    }

    /// The same, with more behind the gateway.
    pub async fn shaped(
        config: serde_json::Value,
        change: impl FnOnce(&mut Grant),
        shape: impl FnOnce(Gateway) -> Gateway,
    ) -> Self {
        let config: AiConfig = serde_json::from_value(config).unwrap();
        let records = Arc::new(Records::default());
        let meter = Arc::new(Meter(Arc::clone(&records)));
        Self::over(&config, meter, records, change, shape).await
    }

    /// The same with who keeps the accounts, and what else the gateway has.
    pub async fn over(
        config: &AiConfig,
        meter: Arc<dyn Metering>,
        records: Arc<Records>,
        change: impl FnOnce(&mut Grant),
        finish: impl FnOnce(Gateway) -> Gateway,
    ) -> Self {
        let project = project(config, None);
        let mut grant = grant(&project);
        change(&mut grant);
        let fingerprints = Fingerprints::new(&SecretBox::new(Box::new([7; 32])));
        let table =
            Table::new(fingerprints.clone(), vec![project], [(fingerprints.of(KEY.as_bytes()), grant)]);
        let clock = Arc::new(TestClock::at(NOW.parse().unwrap()));
        let gateway = Arc::new(finish(Gateway::new(table, meter).with_clock(clock.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::clone(&gateway)));
        let client = Upstream::new(&UpstreamOptions::default()).unwrap();
        Self { gateway, records, clock, address, client, fingerprints }
    }

    /// One provider of this kind that is the fake, behind the route `fast`.
    pub async fn single(fake: &FakeAi, kind: &str) -> Self {
        Self::new(serde_json::json!({
            "providers": { "up": { "kind": kind, "url": fake.url(), "keys": ["main"],
                "formats": if kind == "openai" { serde_json::json!(["chat", "responses"]) } else { serde_json::Value::Null } } },
            "routes": { "fast": { "targets": [{ "provider": "up", "model": "model-1" }], "retry": { "base_ms": 1 } } },
        }))
        .await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request and gives the answer with its body still to come.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(self.url(path));
        if !headers
            .iter()
            .any(|(name, _)| ["authorization", "x-api-key", "x-goog-api-key", "api-key"].contains(name))
        {
            request = request.header("authorization", format!("Bearer {KEY}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Outgoing::whole(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        tokio::time::timeout(PATIENCE, self.client.send(request)).await.expect("an answer in time").unwrap()
    }

    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Read {
        let (parts, mut incoming) = self.open(method, path, headers, body).await.into_parts();
        let mut body = Vec::new();
        let mut whole = true;
        while let Some(frame) =
            tokio::time::timeout(PATIENCE, incoming.frame()).await.expect("a frame in time")
        {
            let Ok(frame) = frame else {
                whole = false;
                break;
            };
            body.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        Read { status: parts.status, headers: parts.headers, body: body.into(), whole }
    }

    pub async fn post(&self, path: &str, body: &serde_json::Value) -> Read {
        self.call("POST", path, &[("content-type", "application/json")], &body.to_string()).await
    }

    pub async fn chat(&self) -> Read {
        self.post("/v1/chat/completions", &chat(false)).await
    }

    pub async fn stream(&self) -> Read {
        self.post("/v1/chat/completions", &chat(true)).await
    }
}

/// Real accounts on a state in this folder.
pub async fn books(folder: &std::path::Path, clock: &Arc<TestClock>) -> (Ledger, Accounts) {
    let secret = |byte| SecretBox::new(Box::new([byte; 32]));
    let keys = Keys { seal: secret(7), sign: secret(8) };
    let options = Options::new(folder.join("audit.head"));
    let ledger = Ledger::open(&folder.join("state.db"), keys, options).await.unwrap();
    let accounts = Accounts::open(ledger.clone(), clock.clone()).await.unwrap();
    (ledger, accounts)
}

pub fn chat(stream: bool) -> serde_json::Value {
    serde_json::json!({ "model": "fast", "stream": stream, "messages": [{ "role": "user", "content": "hello" }] })
}

async fn serve(listener: TcpListener, gateway: Arc<Gateway>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let gateway = Arc::clone(&gateway);
                async move { Ok::<_, Infallible>(gateway.handle(request).await) }
            });
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            drop(serving.await);
        });
    }
}
