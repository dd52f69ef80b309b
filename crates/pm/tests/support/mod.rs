//! A door with scripted answers over a small world, and a ledger to go with it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test binary uses its part.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use contract::{
    Actor, Answer, AnswerStatus, Context, Decided, Door, Effect, Error, ErrorKind, Finding, PlanDigest,
    RequestSpec, Severity,
};
use ledger::{Keys, Ledger, Options};
use secrecy::SecretBox;
use serde_json::{Value, json};

pub const QUERY: &str = "SELECT * FROM orders WHERE customer_id = 42";

/// What is true in the world that the door answers from.
#[derive(Debug, Clone)]
pub struct World {
    pub stores: Vec<&'static str>,
    pub orphans: u64,
    pub pending: Vec<&'static str>,
    /// Migrations and `index.create` that wait for an approval.
    pub needs_approval: Vec<&'static str>,
    pub forbidden: Vec<&'static str>,
    /// Requests that fail because the server is gone.
    pub unavailable: Vec<&'static str>,
    /// Indexes that the engine says were made, and that are not there.
    pub index_vanishes: bool,
    /// The advice names a second index that the first one makes superfluous.
    pub advises_two: bool,
}

impl World {
    pub fn named(name: &str) -> Self {
        let clean = Self {
            stores: vec!["shop"],
            orphans: 0,
            pending: vec!["0003_add_status"],
            needs_approval: Vec::new(),
            forbidden: Vec::new(),
            unavailable: Vec::new(),
            index_vanishes: false,
            advises_two: false,
        };
        match name {
            "clean" => clean,
            "orphans" => Self { orphans: 12, ..clean },
            "two" => Self { stores: vec!["shop", "billing"], ..clean },
            "risky" => Self {
                pending: vec!["0003_add_status", "0004_drop_legacy"],
                needs_approval: vec!["0004_drop_legacy"],
                ..clean
            },
            "guarded" => Self { needs_approval: vec!["index.create"], ..clean },
            "refused" => Self { forbidden: vec!["0003_add_status"], ..clean },
            "down" => Self { unavailable: vec!["store.inspect", "store.consistency"], ..clean },
            "eager" => Self { advises_two: true, ..clean },
            "vanishing" => Self { index_vanishes: true, ..clean },
            other => panic!("no world `{other}`"),
        }
    }
}

#[derive(Default)]
struct Happened {
    index: bool,
    applied: Vec<String>,
    log: Vec<(String, Value)>,
    evidence: BTreeMap<String, Value>,
    approved: Vec<String>,
    /// Submits that are still answered; then the process "dies".
    left: Option<usize>,
}

/// The scripted door.
pub struct FakeDoor {
    pub world: World,
    specs: Vec<RequestSpec>,
    happened: Mutex<Happened>,
}

fn spec(name: &'static str, effect: Effect) -> RequestSpec {
    RequestSpec { name, summary: "", example: "", effect, action: "", positional: &[], schema: json!({}) }
}

impl FakeDoor {
    pub fn new(world: World) -> Self {
        let reads = [
            "store.list",
            "store.inspect",
            "store.query",
            "store.measure",
            "store.consistency",
            "index.advise",
            "migration.status",
            "migration.plan",
        ];
        let mut specs: Vec<RequestSpec> = reads.into_iter().map(|name| spec(name, Effect::Read)).collect();
        specs
            .extend(["index.create", "index.drop", "migration.apply"].map(|name| spec(name, Effect::Change)));
        Self { world, specs, happened: Mutex::default() }
    }

    /// What was asked, in order.
    pub fn log(&self) -> Vec<(String, Value)> {
        self.happened.lock().unwrap().log.clone()
    }

    pub fn count(&self, request: &str) -> usize {
        self.log().iter().filter(|(name, _)| name == request).count()
    }

    pub fn evidence(&self, id: &str) -> Option<Value> {
        self.happened.lock().unwrap().evidence.get(id).cloned()
    }

    /// From now on, `what` is approved.
    pub fn approve(&self, what: &str) {
        self.happened.lock().unwrap().approved.push(what.into());
    }

    /// After this many more requests, every one is canceled, as if the process had been killed.
    pub fn die_after(&self, requests: Option<usize>) {
        self.happened.lock().unwrap().left = requests;
    }

    fn schema(&self, store: &str, happened: &Happened) -> Value {
        if store == "billing" {
            return json!({ "tables": [{ "namespace": "main", "name": "invoices", "rows": 310, "rows_estimated": false,
                "columns": [{"name": "id"}], "indexes": [], "primary_key": {"name": "pk", "columns": ["id"]}, "foreign_keys": [] }] });
        }
        let indexes = if happened.index && !self.world.index_vanishes {
            json!([{ "name": "orders_customer_id", "columns": ["customer_id"] }])
        } else {
            json!([])
        };
        let mut columns = vec![json!({"name": "id"}), json!({"name": "customer_id"})];
        if happened.applied.iter().any(|name| name == "0003_add_status") {
            columns.push(json!({"name": "status"}));
        }
        json!({ "tables": [
            { "namespace": "main", "name": "customers", "rows": 1200, "rows_estimated": false, "columns": [{"name": "id"}],
              "indexes": [], "primary_key": {"name": "pk", "columns": ["id"]}, "foreign_keys": [] },
            { "namespace": "main", "name": "orders", "rows": 48211, "rows_estimated": false, "columns": columns,
              "indexes": indexes, "primary_key": {"name": "pk", "columns": ["id"]}, "foreign_keys": [] },
            { "namespace": "main", "name": "order_items", "rows": 97003, "rows_estimated": false,
              "columns": [{"name": "id"}, {"name": "order_id"}], "indexes": [],
              "primary_key": {"name": "pk", "columns": ["id"]}, "foreign_keys": [{"columns": ["order_id"]}] },
        ]})
    }
}

fn finding(code: &str, title: String, object: &str, evidence: &str, severity: Severity) -> Finding {
    Finding {
        code: code.into(),
        severity,
        title,
        object: object.into(),
        recommendation: Some(format!("look at {object}")),
        evidence: vec![evidence.into()],
        escalate: None,
    }
}

#[async_trait]
impl Door for FakeDoor {
    fn requests(&self) -> &[RequestSpec] {
        &self.specs
    }

    async fn submit(&self, _: &Context, name: &str, arguments: Value) -> Result<Answer, Error> {
        let mut happened = self.happened.lock().unwrap();
        if let Some(left) = &mut happened.left {
            if *left == 0 {
                return Err(Error::new(ErrorKind::Canceled, "killed"));
            }
            *left -= 1;
        }
        happened.log.push((name.to_owned(), arguments.clone()));
        let store = arguments["store"].as_str().unwrap_or_default().to_owned();
        if name != "store.list" && !self.world.stores.contains(&store.as_str()) {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no store `{store}`")));
        }
        if self.world.unavailable.contains(&name) {
            return Err(Error::new(ErrorKind::Unavailable, "cannot connect").with("store", store));
        }
        let id = format!("ev-{:04}", happened.evidence.len() + 1);
        let mut findings = Vec::new();
        let changes = self.specs.iter().any(|spec| spec.name == name && spec.effect == Effect::Change);
        let subject = match name {
            "index.create" => "index.create".to_owned(),
            _ => arguments["to"].as_str().unwrap_or_default().to_owned(),
        };
        let mut status = AnswerStatus::Done;
        let mut decided =
            Decided { decision: "permitted".into(), policies: vec!["own".into()], ..Decided::default() };
        let mut approval = None;
        if changes {
            if arguments["dry_run"] == json!(true) {
                status = AnswerStatus::Planned;
            } else if self.world.forbidden.contains(&subject.as_str()) {
                status = AnswerStatus::Forbidden;
                decided = Decided {
                    decision: "forbidden".into(),
                    policies: vec!["guard".into()],
                    reason: "no verified backup".into(),
                    ..Decided::default()
                };
            } else if self.world.needs_approval.contains(&subject.as_str())
                && !happened.approved.contains(&subject)
            {
                status = AnswerStatus::Waiting;
                approval = Some("ap-1".to_owned());
                decided = Decided {
                    decision: "approval".into(),
                    policies: vec!["guard".into()],
                    approvers: vec!["pm".into()],
                    reason: "it loses data".into(),
                };
            }
        }
        let value = match name {
            "store.list" => {
                json!({ "stores": self.world.stores.iter().map(|s| json!({"name": s, "kind": "memory"})).collect::<Vec<_>>() })
            }
            "store.inspect" => self.schema(&store, &happened),
            "store.measure" => {
                let indexed = happened.index && !self.world.index_vanishes;
                if !indexed {
                    findings.push(finding(
                        "full_scan",
                        "the query reads all 48211 rows of `orders`".into(),
                        "orders",
                        &id,
                        Severity::Warning,
                    ));
                }
                let p95 = if indexed { 1.9 } else { 83.4 };
                json!({ "query": arguments["query"], "runs": 20, "p50_ms": p95 - 0.5, "p95_ms": p95, "max_ms": p95 + 2.0,
                        "explain": { "full_scans": [{"table": "orders", "rows_expected": 48211}] } })
            }
            "index.advise" => {
                let missing = !happened.index;
                if missing {
                    findings.push(finding(
                        "missing_index",
                        "an index on `orders` (customer_id) is missing: 48211 rows are read".into(),
                        "orders.customer_id",
                        &id,
                        Severity::Warning,
                    ));
                }
                let indexes = if missing {
                    json!([{ "table": "orders", "columns": ["customer_id"], "sql": "CREATE INDEX …", "query": arguments["queries"][0], "reason": "equality" }])
                } else {
                    json!([])
                };
                let mut indexes = indexes;
                if self.world.advises_two {
                    findings.push(finding(
                        "missing_index",
                        "an index on `orders` (created_at) is missing".into(),
                        "orders.created_at",
                        &id,
                        Severity::Warning,
                    ));
                    let second = json!({ "table": "orders", "columns": ["created_at"], "query": arguments["queries"][0] });
                    indexes.as_array_mut().unwrap().push(second);
                }
                json!({ "store": store, "indexes": indexes, "rows_read": 48211 })
            }
            "store.consistency" => {
                let rows = if store == "shop" { self.world.orphans } else { 0 };
                let mut orphans = Vec::new();
                if rows > 0 {
                    findings.push(finding(
                        "orphan_rows",
                        format!("{rows} rows of `order_items` refer to an order that does not exist"),
                        "order_items.order_id",
                        &id,
                        Severity::Critical,
                    ));
                    orphans.push(json!({ "table": "order_items", "columns": ["order_id"], "parent": "orders", "rows": rows, "evidence": [id] }));
                }
                json!({ "store": store, "orphans": orphans,
                        "references": [{ "table": "order_items", "columns": ["order_id"], "parent": "orders" }],
                        "integrity": { "checked": true, "problems": [] } })
            }
            "migration.status" => {
                let pending: Vec<Value> = self
                    .world
                    .pending
                    .iter()
                    .filter(|name| !happened.applied.iter().any(|a| a == *name))
                    .map(|name| json!({"name": name}))
                    .collect();
                let mut applied = vec![json!({"name": "0001_create"}), json!({"name": "0002_items"})];
                applied.extend(happened.applied.iter().map(|name| json!({"name": name})));
                json!({ "store": store, "applied": applied, "pending": pending })
            }
            "migration.plan" => {
                if self.world.pending.contains(&"0004_drop_legacy")
                    && !happened.applied.iter().any(|a| a == "0004_drop_legacy")
                {
                    findings.push(finding(
                        "risky_migration",
                        "`0004_drop_legacy` drops a column".into(),
                        "0004_drop_legacy",
                        &id,
                        Severity::Critical,
                    ));
                }
                json!({ "store": store, "plan": { "steps": 1 }, "name": "0004_drop_legacy" })
            }
            "index.create" if status == AnswerStatus::Done => {
                assert!(!happened.index, "the index is created twice");
                happened.index = true;
                json!({ "before": { "p95_ms": 83.4 }, "after": { "p95_ms": 1.9, "query": arguments["query"] } })
            }
            "migration.apply" if status == AnswerStatus::Done => {
                assert!(!happened.applied.contains(&subject), "{subject} is applied twice");
                happened.applied.push(subject.clone());
                json!({ "applied": [subject] })
            }
            "store.query" => json!({ "columns": ["rows"], "rows": [[48211]] }),
            _ => json!({}),
        };
        happened.evidence.insert(id.clone(), value.clone());
        Ok(Answer {
            request: name.into(),
            status,
            value,
            text: String::new(),
            findings,
            evidence: vec![id],
            decided,
            plan: changes.then(|| PlanDigest("5a".repeat(32))),
            approval,
            escalation: None,
            elapsed_ms: 1.0,
        })
    }
}

/// A ledger in a folder of its own; the folder must outlive it.
pub async fn ledger(dir: &std::path::Path) -> Ledger {
    let keys = Keys { seal: SecretBox::new(Box::new([7; 32])), sign: SecretBox::new(Box::new([9; 32])) };
    Ledger::open(&dir.join("state.db"), keys, Options::new(dir.join("audit.head")))
        .await
        .expect("the ledger opens")
}

pub fn ctx() -> Context {
    Context::new("demo", Actor::local())
}
