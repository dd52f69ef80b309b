//! Comparing tables across stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use contract::{Context, Error, ErrorKind, Outcome, Store, StoreDirectory};
use serde_json::{Value, json};
use stores::{CompareStores, Comparison};

use crate::world::{World, request};

/// Two stores of one project.
struct Pair {
    left: World,
    right: World,
}

#[async_trait]
impl StoreDirectory for Pair {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        vec![("left".into(), self.left.store.kind().into()), ("right".into(), self.right.store.kind().into())]
    }

    async fn open(&self, _: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        match name {
            "left" => Ok(Arc::clone(&self.left.store)),
            "right" => Ok(Arc::clone(&self.right.store)),
            _ => Err(Error::new(ErrorKind::NotFound, format!("no store `{name}`"))),
        }
    }
}

impl Pair {
    async fn compare(&self, arguments: Value) -> Result<Outcome, Error> {
        let compare: CompareStores = request(arguments);
        stores::compare(&self.left.ctx(), self, &BTreeMap::new(), &compare).await
    }

    /// The single comparison of `t` on both sides.
    async fn of_t(&self) -> Comparison {
        let outcome =
            self.compare(json!({"left": "left.t", "right": "right.t", "list_max": 1000})).await.unwrap();
        serde_json::from_value(outcome.value["comparisons"][0].clone()).unwrap()
    }

    /// Rows of `t` with an integer key, equal on both sides.
    async fn fill(&self, rows: u32) {
        for world in [&self.left, &self.right] {
            let (at, ok) = match world.store.kind() {
                "sqlite" => ("strftime('%Y-%m-%d %H:%M:%S', 1700000000 + n, 'unixepoch')", "n % 3 = 0"),
                _ => ("to_timestamp(1700000000 + n)", "n % 3 = 0"),
            };
            world
                .run(&format!(
                    "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, total NUMERIC(12, 2), ratio DOUBLE PRECISION, \
                     at TIMESTAMP WITH TIME ZONE, ok BOOLEAN);\n\
                     INSERT INTO t SELECT n, 'name ' || n, n / 4.0, n / 8.0, {at}, {ok} FROM (WITH RECURSIVE c(n) AS \
                     (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) SELECT n FROM c) AS numbers{}",
                    if world.store.kind() == "sqlite" { "" } else { ";\nANALYZE t" }
                ))
                .await;
        }
    }
}

fn keys(found: &Comparison, kind: &str) -> Vec<u32> {
    let mut keys: Vec<u32> =
        found.differences.iter().filter(|d| d.kind == kind).map(|d| d.key[0].parse().unwrap()).collect();
    keys.sort_unstable();
    keys
}

async fn hundred_differences(pair: Pair) {
    let rows: u32 = 200_000;
    pair.fill(rows).await;
    let equal = pair.of_t().await;
    assert!(equal.equal && equal.exact, "{equal:?}");
    assert_eq!((equal.rows_left, equal.rows_right), (u64::from(rows), u64::from(rows)));
    assert_eq!(equal.moved_left.rows + equal.moved_right.rows, 0, "equal ranges are not moved: {equal:?}");

    // Scattered by a step that has no factor in common with the ranges.
    let deleted: Vec<u32> = (0..33).map(|i| 17 + i * 5_993).collect();
    let changed: Vec<u32> = (0..34).map(|i| 1_018 + i * 5_801).collect();
    let list = |keys: &[u32]| keys.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let inserted: Vec<u32> = (0..33).map(|i| rows + 10 + i * 7).collect();
    pair.right
        .run(&format!(
            "DELETE FROM t WHERE id IN ({});\nUPDATE t SET name = name || '!' WHERE id IN ({});\n\
             INSERT INTO t (id, name) VALUES {}",
            list(&deleted),
            list(&changed),
            inserted.iter().map(|id| format!("({id}, 'new')")).collect::<Vec<_>>().join(", ")
        ))
        .await;
    let found = pair.of_t().await;
    assert!(!found.equal && found.exact, "{found:?}");
    assert_eq!((found.only_left, found.only_right, found.changed), (33, 33, 34));
    assert_eq!(keys(&found, "only_left"), deleted);
    assert_eq!(keys(&found, "only_right"), inserted);
    assert_eq!(keys(&found, "changed"), changed);
    assert_eq!(found.changed_by_column, BTreeMap::from([("name".to_owned(), 34)]));
    let moved = found.moved_left.rows + found.moved_right.rows;
    // One hundredth of all rows, of both sides.
    assert!(moved * 100 < found.rows_left + found.rows_right, "moved {moved}: {found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_differences_between_sqlite_and_postgres() {
    hundred_differences(Pair { left: World::sqlite(), right: World::postgres("compare_sq").await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_differences_between_postgres_and_sqlite() {
    hundred_differences(Pair { left: World::postgres("compare_pg").await, right: World::sqlite() }).await;
}
