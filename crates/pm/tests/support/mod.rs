//! A door with scripted answers over a small world, and a ledger to go with it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test binary uses its part.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};

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
    /// The statement statistics name a slow query.
    pub counts: bool,
    /// Sessions that hold others up.
    pub blockers: Vec<i32>,
    /// Sessions that have forgotten a transaction.
    pub idle: Vec<i32>,
    /// Connections in use, of 100.
    pub connections: u64,
    /// What is not well: area, code, object, and whether vacuum, a rebuild or a setting mends it.
    pub ailments: Vec<(&'static str, &'static str, &'static str, bool)>,
    /// A superfluous index.
    pub double_index: bool,
    /// Nothing watches the store.
    pub unwatched: bool,
    /// The logins are not there yet.
    pub no_logins: bool,
    /// Requests that the store knows nothing of.
    pub unsupported: Vec<&'static str>,
    /// The advice names a second index that the first one makes superfluous.
    pub advises_two: bool,
    /// How far a backup is proven.
    pub level: &'static str,
    /// A drill does not bring everything back.
    pub lossy: bool,
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
            counts: false,
            blockers: Vec::new(),
            idle: Vec::new(),
            connections: 12,
            ailments: Vec::new(),
            double_index: false,
            unwatched: false,
            no_logins: false,
            unsupported: Vec::new(),
            advises_two: false,
            level: "l3",
            lossy: false,
        };
        let no_timeouts = ("settings", "no_timeouts", "idle_in_transaction_session_timeout", true);
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
            "counting" => Self { counts: true, ..clean },
            "stuck" => Self { blockers: vec![4711], needs_approval: vec!["session.end"], ..clean },
            "stormy" => Self {
                idle: vec![81, 82],
                connections: 40,
                ailments: vec![no_timeouts],
                needs_approval: vec!["session.end"],
                ..clean
            },
            "crowded" => Self { connections: 97, ..clean },
            "bloated" => Self {
                ailments: vec![
                    ("vacuum", "dead_rows", "public.orders", true),
                    ("bloat", "index_bloat", "public.orders_pkey", true),
                ],
                ..clean
            },
            "swollen" => Self { ailments: vec![("bloat", "table_bloat", "public.orders", false)], ..clean },
            "full" => Self {
                ailments: vec![("replication", "slot_retains_wal", "old_copy", false)],
                double_index: true,
                ..clean
            },
            "unfit" => Self {
                ailments: vec![no_timeouts, ("vacuum", "never_analyzed", "public.orders", true)],
                unwatched: true,
                no_logins: true,
                pending: Vec::new(),
                ..clean
            },
            "fit" => Self { pending: Vec::new(), ..clean },
            "file" => Self {
                pending: Vec::new(),
                unsupported: vec![
                    "store.health",
                    "access.review",
                    "store.locks",
                    "store.vacuum",
                    "session.end",
                ],
                ..clean
            },
            "unprovable" => Self { level: "l2", ..clean },
            "lossy" => Self { lossy: true, ..clean },
            "vanishing" => Self { index_vanishes: true, ..clean },
            other => panic!("no world `{other}`"),
        }
    }
}

#[derive(Default)]
struct Happened {
    index: bool,
    ended: Vec<i64>,
    /// Objects that were vacuumed, rebuilt, configured or dropped.
    mended: Vec<String>,
    logins: bool,
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
    let schema: LazyLock<Value> = LazyLock::new(|| json!({}));
    RequestSpec { name, summary: "", example: "", effect, action: "", positional: &[], schema }
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
            "store.check",
            "store.health",
            "store.slow",
            "store.locks",
            "access.review",
            "schedule.advise",
            "backup.plan",
            "backup.list",
            "backup.export-runbook",
        ];
        let mut specs: Vec<RequestSpec> = reads.into_iter().map(|name| spec(name, Effect::Read)).collect();
        let changes = [
            "index.create",
            "index.drop",
            "index.rebuild",
            "migration.apply",
            "store.setup",
            "store.vacuum",
            "store.configure",
            "session.end",
            "docs.schema",
            "backup.run",
            "backup.drill",
        ];
        specs.extend(changes.map(|name| spec(name, Effect::Change)));
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
        let mut indexes = Vec::new();
        if happened.index && !self.world.index_vanishes {
            indexes.push(json!({ "name": "orders_customer_id", "columns": ["customer_id"] }));
        }
        if self.world.double_index && !happened.mended.iter().any(|one| one == "orders_twice") {
            indexes.push(json!({ "name": "orders_twice", "columns": ["id"] }));
        }
        let referring = if happened.mended.iter().any(|one| one == "order_items") {
            json!([{ "name": "order_items_order_id", "columns": ["order_id"] }])
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
              "columns": [{"name": "id"}, {"name": "order_id"}], "indexes": referring,
              "primary_key": {"name": "pk", "columns": ["id"]}, "foreign_keys": [{"columns": ["order_id"]}] },
        ]})
    }
}

/// As a migration is summed up.
fn summary() -> Value {
    json!({ "type": "schema", "tables": [{ "table": "orders", "rows": 48211, "size_bytes": 8_388_608 }], "rows": 48211,
            "size_bytes": 8_388_608, "downtime": "brief", "downtime_why": ["1 step asks for a strong lock"],
            "rollback": "the down section", "rollback_complete": true, "validation": ["the history shows it"],
            "impact": ["none known"] })
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
        let named = ["store", "subject", "plan"].iter().find_map(|key| arguments[*key].as_str());
        // The declared plan backs up the store `shop`.
        let store = if named == Some("nightly") { "shop" } else { named.unwrap_or_default() }.to_owned();
        let of_project = ["store.list", "backup.plan"].contains(&name);
        if !of_project && !self.world.stores.contains(&store.as_str()) {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no store `{store}`")));
        }
        if self.world.unsupported.contains(&name) {
            return Err(Error::new(ErrorKind::Unsupported, format!("`{name}` is not what a file can do")));
        }
        if self.world.no_logins && !happened.logins && name == "store.check" {
            return Err(Error::new(ErrorKind::Denied, "the server knows no such login").with("store", store));
        }
        if self.world.unavailable.contains(&name) {
            return Err(Error::new(ErrorKind::Unavailable, "cannot connect").with("store", store));
        }
        let id = format!("ev-{:04}", happened.evidence.len() + 1);
        let mut findings = Vec::new();
        let changes = self.specs.iter().any(|spec| spec.name == name && spec.effect == Effect::Change);
        let subject = match name {
            "index.create" | "session.end" => name.to_owned(),
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
                let missing = !happened.index && arguments["queries"].is_array();
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
                let dropped = happened.mended.iter().any(|one| one == "orders_twice");
                let redundant = if self.world.double_index && !dropped {
                    json!([{ "table": "orders", "index": "orders_twice", "covered_by": "pk", "reason": "has the same columns" },
                           { "table": "orders", "index": "orders_short", "covered_by": "pk", "reason": "begins with its columns" }])
                } else {
                    json!([])
                };
                json!({ "store": store, "indexes": indexes, "redundant": redundant, "rows_read": 48211 })
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
                json!({ "store": store, "plan": { "steps": 1 }, "name": "0004_drop_legacy", "summary": summary() })
            }
            "index.create" if status == AnswerStatus::Done && arguments["table"] == "order_items" => {
                happened.mended.push("order_items".into());
                json!({})
            }
            "index.create" if status == AnswerStatus::Done => {
                assert!(!happened.index, "the index is created twice");
                happened.index = true;
                json!({ "before": { "p95_ms": 83.4 }, "after": { "p95_ms": 1.9, "query": arguments["query"] } })
            }
            "migration.apply" if status == AnswerStatus::Done => {
                assert!(!happened.applied.contains(&subject), "{subject} is applied twice");
                happened.applied.push(subject.clone());
                json!({ "applied": [subject], "summary": summary() })
            }
            "store.check" => json!({ "store": store, "reader": { "user": "r", "can_write": false } }),
            "store.slow" => {
                let statements = json!([
                    { "text": "UPDATE orders SET total = $1", "calls": 7, "total_ms": 900.5, "mean_ms": 128.6, "share": 0.21, "above_objective": true },
                    { "text": QUERY, "calls": 40, "total_ms": 3336.0, "mean_ms": 83.4, "share": 0.77, "above_objective": true },
                    { "text": "SELECT 1 FROM customers", "calls": 9000, "total_ms": 90.0, "mean_ms": 0.01, "share": 0.02, "above_objective": false },
                ]);
                json!({ "store": store, "statements": if self.world.counts { statements } else { json!([]) } })
            }
            "store.locks" => {
                let gone = |pid: &&i32| !happened.ended.contains(&i64::from(**pid));
                let blockers: Vec<&i32> = self.world.blockers.iter().filter(gone).collect();
                let idle: Vec<&i32> = self.world.idle.iter().filter(gone).collect();
                let held = |pid: i32, state: &str, behind: &[i32]| {
                    json!({ "pid": pid, "backend_start": format!("2026-03-04T05:06:07.{pid:06}Z"), "state": state,
                            "state_ms": 90_000.0, "user": "app", "blocked_by": behind })
                };
                let mut sessions: Vec<Value> = Vec::new();
                for pid in &blockers {
                    sessions.push(held(**pid, "idle in transaction", &[]));
                    sessions.push(held(**pid + 1, "active", &[**pid]));
                    findings.push(finding(
                        "blocking_session",
                        format!("session {pid} holds up 1 session"),
                        &format!("session {pid}"),
                        &id,
                        Severity::Warning,
                    ));
                }
                for pid in &idle {
                    sessions.push(held(**pid, "idle in transaction", &[]));
                    findings.push(finding(
                        "idle_in_transaction",
                        format!("session {pid} forgot its transaction"),
                        &format!("session {pid}"),
                        &id,
                        Severity::Warning,
                    ));
                }
                let connections = self.world.connections - happened.ended.len() as u64;
                if connections >= 80 {
                    findings.push(finding(
                        "connections_nearly_used_up",
                        format!("{connections} of 100 connections are used"),
                        "",
                        &id,
                        Severity::Critical,
                    ));
                }
                let tree: Vec<Value> =
                    blockers.iter().map(|pid| json!({ "pid": pid, "sessions_behind": 1 })).collect();
                json!({ "store": store, "connections_max": 100, "connections_reserved": 0, "connections": connections,
                        "sessions": sessions, "tree": tree, "idle_in_transaction": idle })
            }
            "store.health" => {
                let areas: Vec<&str> =
                    arguments["areas"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let mut problems = 0;
                for (area, code, object, mends) in &self.world.ailments {
                    let mended = *mends && happened.mended.iter().any(|one| one == object);
                    if mended || !(areas.is_empty() || areas.contains(area)) {
                        continue;
                    }
                    let severity = if *code == "no_timeouts" { Severity::Info } else { Severity::Warning };
                    problems += u32::from(severity == Severity::Warning);
                    findings.push(finding(code, format!("`{object}` is not well"), object, &id, severity));
                }
                json!({ "store": store, "problems": problems })
            }
            "backup.plan" => json!({ "plans": [
                { "plan": "weekly", "declared": true, "stores": [{ "store": "billing" }] },
                { "plan": "shop", "declared": false, "stores": [{ "store": "shop" }] },
                { "plan": "nightly", "declared": true, "stores": [{ "store": "books" }, { "store": "shop" }] },
            ]}),
            "backup.run" if status == AnswerStatus::Done => {
                assert_eq!(arguments["plan"], if store == "shop" { "nightly" } else { &store });
                json!({ "backups": [
                    { "backup": { "id": "bk-1", "store": "books", "level": "l4" } },
                    { "backup": { "id": "bk-2", "store": store, "level": self.world.level } },
                ]})
            }
            "backup.drill" if status == AnswerStatus::Done => {
                if self.world.lossy {
                    let title = "what came back is not what was dumped".to_owned();
                    findings.push(finding("drill_failed", title, &store, &id, Severity::Critical));
                }
                json!({ "drills": [{ "subject": store, "lose": arguments["lose"], "recovery_ms": 900 }] })
            }
            "backup.list" => json!({ "stores": [{ "store": store, "rpo_s": 3, "forecast_ms": 900 }] }),
            "backup.export-runbook" => json!({ "markdown": "# Recovery runbook" }),
            "access.review" => json!({ "store": store, "problems": [] }),
            "schedule.advise" => {
                if self.world.unwatched {
                    let title = "nothing asks for store.health by itself".to_owned();
                    findings.push(finding("not_watched", title, &store, &id, Severity::Warning));
                }
                json!({ "store": store, "missing": [] })
            }
            "session.end" if status == AnswerStatus::Done => {
                let pid = arguments["pid"].as_i64().unwrap();
                assert!(!happened.ended.contains(&pid), "{pid} is ended twice");
                happened.ended.push(pid);
                json!({})
            }
            "store.setup" if status == AnswerStatus::Done => {
                happened.logins = true;
                json!({})
            }
            "store.vacuum" | "index.rebuild" | "store.configure" | "index.drop"
                if status == AnswerStatus::Done =>
            {
                let tables = arguments["tables"].as_array().cloned().unwrap_or_default();
                let named = ["index", "setting"].iter().filter_map(|key| arguments[*key].as_str());
                happened
                    .mended
                    .extend(tables.iter().filter_map(Value::as_str).chain(named).map(ToOwned::to_owned));
                json!({})
            }
            "store.query" => json!({ "columns": ["rows"], "rows": [[48211]] }),
            _ => json!({}),
        };
        happened.evidence.insert(id.clone(), value.clone());
        Ok(Answer {
            request: name.into(),
            status,
            value: value.into(),
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
