//! The shared store suite against a store that was told nothing; below it, what it does once it was told something, and
//! the faults that wrap it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use conformance::{Admin, Fault, Faulty, Opened, Sql};
use contract::{Actor, Capability, Context, ErrorKind, Limits, Query, Relational, Store, Truncation};
use serde_json::json;
use store_memory::MemoryStore;

conformance::store_suite!(open);

struct Nothing;

#[async_trait]
impl Admin for Nothing {
    async fn run(&self, sql: &str) {
        panic!("a store without SQL is not set up with SQL: {sql}");
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new("memory"))
    }

    async fn steward_tables(&self) -> Vec<String> {
        Vec::new()
    }
}

async fn open(_: &str) -> Opened {
    let store = Nothing.reopen().await;
    Opened { store, admin: Box::new(Nothing), sql: Sql::common(), secrets: Vec::new(), guard: None }
}

const SQL: &str = "SELECT id, name FROM orders";

fn told() -> MemoryStore {
    let rows =
        vec![vec![json!(1), json!("one")], vec![json!(2), json!("two")], vec![json!(3), json!("three")]];
    MemoryStore::new("orders").with_answer(SQL, &["id", "name"], rows)
}

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

#[tokio::test]
async fn answer_comes_back_within_the_limits() {
    let store = told();
    assert_eq!(store.capabilities(), [Capability::Query].into());
    for (rows_max, bytes_max, rows_returned, truncated) in [
        (10, 1_000, 3, None),
        (3, 1_000, 3, None),
        (2, 1_000, 2, Some(Truncation::Rows)),
        (10, 25, 2, Some(Truncation::Bytes)),
        (10, 0, 0, Some(Truncation::Bytes)),
    ] {
        let limits = Limits { rows_max, bytes_max, ..Limits::default() };
        let rows = store.query(&ctx(), &Query { limits, ..Query::new(SQL) }).await.unwrap();
        assert_eq!((rows.rows.len(), rows.truncated), (rows_returned, truncated), "{rows_max} {bytes_max}");
    }
    let error = store.query(&ctx(), &Query::new("SELECT 1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn faults_come_in_the_order_of_the_script() {
    let script = [
        None,
        Some(Fault::Refuse(ErrorKind::Unavailable)),
        Some(Fault::Cut),
        Some(Fault::Lie),
        Some(Fault::Slow(Duration::from_secs(5))),
    ];
    let store = Faulty::new(told(), script);
    let relational = store.relational().unwrap();
    let first = async |ctx: Context| {
        relational
            .query(&ctx, &Query::new(SQL))
            .await
            .map(|rows| rows.rows[0][0].clone())
            .map_err(|e| e.kind())
    };
    assert_eq!(first(ctx()).await, Ok(json!(1)));
    assert_eq!(first(ctx()).await, Err(ErrorKind::Unavailable));
    assert_eq!(first(ctx()).await, Err(ErrorKind::Unavailable), "cut");
    assert_eq!(first(ctx()).await, Ok(json!(2)), "a lie");
    assert_eq!(store.faults_left(), 1);
    assert_eq!(first(ctx().with_timeout(Duration::from_secs(1))).await, Err(ErrorKind::TimedOut));
    assert_eq!(first(ctx()).await, Ok(json!(1)), "the script is used up");
    assert!(store.execute().is_none() && store.integrity().is_none(), "no role that the store does not have");
}
