//! Comparing tables across stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use contract::{Context, Error, ErrorKind, Outcome, Store, StoreDirectory};
use serde_json::{Value, json};
use stores::{CompareStores, Comparison, RowCheck};

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

/// `full`: rows of each side in `./test full`.
async fn hundred_differences(pair: Pair, full: u32) {
    let rows = if std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1") { full } else { 200_000 };
    pair.fill(rows).await;
    let equal = pair.of_t().await;
    assert!(equal.equal && equal.exact, "{equal:?}");
    assert_eq!((equal.rows_left, equal.rows_right), (u64::from(rows), u64::from(rows)));
    assert_eq!(equal.moved_left.rows + equal.moved_right.rows, 0, "equal ranges are not moved: {equal:?}");

    // Scattered over the whole table, by steps that have no factor in common with the ranges.
    let (deleted_every, changed_every) = match rows {
        10_000_000.. => (299_993, 290_011),
        2_000_000.. => (59_999, 58_013),
        _ => (5_993, 5_801),
    };
    let deleted: Vec<u32> = (0..33).map(|i| 17 + i * deleted_every).collect();
    let changed: Vec<u32> = (0..34).map(|i| 1_018 + i * changed_every).collect();
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
    hundred_differences(
        Pair { left: World::sqlite(), right: World::postgres("compare_sq").await },
        10_000_000,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_differences_between_postgres_and_sqlite() {
    hundred_differences(
        Pair { left: World::postgres("compare_pg").await, right: World::sqlite() },
        2_000_000,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_differences_between_two_versions_of_postgres() {
    let left = World::postgres_of("compare_15", Some("15")).await;
    let right = World::postgres_of("compare_18", Some("18")).await;
    hundred_differences(Pair { left, right }, 2_000_000).await;
}

/// Six texts of a case.
type Six = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

/// Column, type and value in PostgreSQL, type and value in SQLite that is the same, and one that is not.
const PAIRS: &[Six] = &[
    ("b", "boolean", "true", "BOOLEAN", "1", "0"),
    ("b_text", "boolean", "false", "TEXT", "'false'", "'true'"),
    ("i", "smallint", "-7", "INTEGER", "-7", "-8"),
    ("i8", "bigint", "9223372036854775807", "BIGINT", "9223372036854775807", "9223372036854775806"),
    ("i_real", "int", "5", "REAL", "5", "5.5"),
    (
        "n",
        "numeric",
        "12345678901234567890.1200",
        "TEXT",
        "'12345678901234567890.12'",
        "'12345678901234567890.13'",
    ),
    ("n_one", "numeric(10, 2)", "1.00", "DECIMAL(10, 2)", "1", "1.01"),
    ("n_real", "numeric(10, 2)", "12.34", "NUMERIC", "12.34", "12.35"),
    ("n_small", "numeric", "0.00000015", "REAL", "1.5e-7", "1.6e-7"),
    ("f4", "real", "0.1", "REAL", "0.1", "0.2"),
    ("f8", "double precision", "0.1", "DOUBLE", "0.1", "0.10000000000000002"),
    ("f8_zero", "double precision", "'-0'", "REAL", "0.0", "1e-300"),
    ("f8_whole", "double precision", "1e20", "FLOAT", "100000000000000000000", "1e21"),
    ("t", "text", "E'žluťoučký; \\n🦔'", "TEXT", "'žluťoučký; ' || char(10) || '🦔'", "'zlutoucky'"),
    ("t_case", "text COLLATE \"C\"", "'Anna'", "TEXT COLLATE NOCASE", "'Anna'", "'anna'"),
    ("t_empty", "varchar(10)", "''", "VARCHAR(10)", "''", "NULL"),
    ("t_null", "text", "NULL", "TEXT", "NULL", "''"),
    ("c", "char(5)", "'ab'", "CHAR(5)", "'ab'", "'ab '"),
    ("raw", "bytea", "'\\x00ff7f'", "BLOB", "x'00ff7f'", "x'00ff7e'"),
    ("raw_empty", "bytea", "''", "BLOB", "x''", "NULL"),
    (
        "u",
        "uuid",
        "'0188f0c2-0000-7000-8000-00000000000a'",
        "TEXT",
        "'0188F0C2-0000-7000-8000-00000000000A'",
        "NULL",
    ),
    (
        "u_raw",
        "uuid",
        "'0188f0c2-0000-7000-8000-00000000000a'",
        "BLOB",
        "x'0188f0c2000070008000 00000000000a'",
        "x'00'",
    ),
    (
        "ts",
        "timestamp",
        "'2026-03-04 05:06:07.890'",
        "TEXT",
        "'2026-03-04T05:06:07.89'",
        "'2026-03-04 05:06:07.891'",
    ),
    ("ts_unix", "timestamp", "'2026-03-04 05:06:07'", "INTEGER", "1772600767", "1772600768"),
    ("ts_julian", "timestamp", "'1970-01-01 00:00'", "REAL", "2440587.5", "2440587.6"),
    (
        "tz",
        "timestamptz",
        "'2026-03-04 06:06:07.123456+01'",
        "DATETIME",
        "'2026-03-04T05:06:07.123456Z'",
        "'2026-03-04'",
    ),
    ("d", "date", "'2024-02-29'", "DATE", "'2024-02-29'", "'2024-03-01'"),
    ("tm", "time", "'05:06'", "TIME", "'05:06:00.000'", "'05:06:01'"),
    (
        "j",
        "jsonb",
        "'{\"b\": [1, 2.50], \"a\": null}'",
        "JSON",
        "'{\"a\":null,\"b\":[1,2.50]}'",
        "'{\"a\":null,\"b\":[1,2.51]}'",
    ),
    ("js", "json", "'{ \"a\" : \"\\u00e9\" }'", "TEXT", "'{\"a\":\"é\"}'", "'{}'"),
    ("ip", "inet", "'10.0.0.1/8'", "TEXT", "'10.0.0.1/8'", "'10.0.0.2/8'"),
    ("many", "int[]", "'{1,2}'", "TEXT", "'{1,2}'", "'{1}'"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_values_of_each_pair_of_types_are_equal_and_others_are_not() {
    let pair = Pair { left: World::postgres("compare_types").await, right: World::sqlite() };
    let list = |each: &dyn Fn(&Six) -> String| PAIRS.iter().map(each).collect::<Vec<_>>().join(", ");
    let strip = |value: &str| if value.starts_with("x'") { value.replace(' ', "") } else { value.to_owned() };
    pair.left
        .run(&format!(
            "CREATE TABLE t (k int PRIMARY KEY, {});\nINSERT INTO t VALUES (1, {}), (2, {}), (3, {})",
            list(&|p| format!("{} {}", p.0, p.1)),
            list(&|p| p.2.to_owned()),
            list(&|_| "NULL".to_owned()),
            list(&|p| p.2.to_owned()),
        ))
        .await;
    pair.right
        .run(&format!(
            "CREATE TABLE t (k INTEGER PRIMARY KEY, {});\nINSERT INTO t VALUES (1, {}), (2, {}), (3, {})",
            list(&|p| format!("{} {}", p.0, p.3)),
            list(&|p| strip(p.4)),
            list(&|_| "NULL".to_owned()),
            list(&|p| strip(p.4)),
        ))
        .await;
    for hash in ["fast", "md5"] {
        let outcome =
            pair.compare(json!({"left": "left.t", "right": "right.t", "hash": hash})).await.unwrap();
        assert_eq!(outcome.value["equal"], json!(true), "{hash}: {}", outcome.text);
        assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    }
    // All at once: each column must be named, and no other.
    pair.right
        .run(&format!("UPDATE t SET {} WHERE k = 3", list(&|p| format!("{} = {}", p.0, strip(p.5)))))
        .await;
    let found = pair.of_t().await;
    assert_eq!((found.only_left, found.only_right, found.changed), (0, 0, 1), "{found:?}");
    for (column, ..) in PAIRS {
        assert!(found.changed_by_column.contains_key(*column), "{column} was not seen: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_without_a_common_form_are_refused_with_the_reason() {
    let pair = Pair { left: World::postgres("compare_refused").await, right: World::sqlite() };
    pair.left.run("CREATE TABLE t (id int PRIMARY KEY, a int, b bytea, c date)").await;
    pair.right.run("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT, c INTEGER)").await;
    let error = pair.compare(json!({"left": "left.t", "right": "right.t"})).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    for reason in [
        "`a`: integer and TEXT of SQLite have no common form",
        "`b`: bytes and TEXT",
        "`c`: date and INTEGER",
    ] {
        assert!(text.contains(reason), "{reason} is missing: {text}");
    }
    assert!(text.contains("--ignore"), "{text}");
    pair.compare(json!({"left": "left.t", "right": "right.t", "ignore": ["a", "b", "c"]})).await.unwrap();
    for (arguments, hint) in [
        (json!({"left": "left.t", "right": "right.t", "key": ["nothing"]}), "it has: id, a, b, c"),
        (json!({"left": "left.nothing", "right": "right.t"}), "store inspect"),
        (json!({"left": "left", "right": "right.t"}), "store.table"),
        (json!({"left": "left.t"}), "name two tables"),
        (json!({"checks": ["nothing"]}), "declare it"),
    ] {
        let error = pair.compare(arguments.clone()).await.unwrap_err();
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{arguments}: {error}");
    }
}

/// Types of the key on both sides, and expressions for its value from a number `n`.
const KEYS: &[Six] = &[
    (
        "text",
        "id text COLLATE \"und-x-icu\"",
        "chr(65 + n % 50) || n",
        "id TEXT",
        "char(65 + n % 50) || n",
        "id",
    ),
    (
        "nocase",
        "id text COLLATE \"C\"",
        "chr(65 + n % 50) || n",
        "id TEXT COLLATE NOCASE",
        "char(65 + n % 50) || n",
        "id",
    ),
    (
        "uuid",
        "id uuid",
        "lpad(to_hex(n * 7919::bigint % 1000003), 32, '0')::uuid",
        "id TEXT",
        "upper(printf('%08x-%04x-%04x-%04x-%012x', 0, 0, 0, 0, n * 7919 % 1000003))",
        "id",
    ),
    (
        "time",
        "id timestamptz",
        "to_timestamp(1700000000 + n * 37)",
        "id TEXT",
        "strftime('%Y-%m-%dT%H:%M:%SZ', 1700000000 + n * 37, 'unixepoch')",
        "id",
    ),
    ("bytes", "id bytea", "int4send(n)", "id BLOB", "unhex(printf('%08x', n))", "id"),
    (
        "composite",
        "tenant text, id int",
        "'tenant ' || (n % 7), n",
        "tenant TEXT, id INTEGER",
        "'tenant ' || (n % 7), n",
        "tenant, id",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_each_type_cut_both_sides_at_the_same_places() {
    let pair = Pair { left: World::postgres("compare_keys").await, right: World::sqlite() };
    let numbers =
        "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 4000) SELECT n FROM c)";
    for (name, of_left, value_left, of_right, value_right, key) in KEYS {
        for (world, columns, value) in
            [(&pair.left, of_left, value_left), (&pair.right, of_right, value_right)]
        {
            world
                .run(&format!(
                    "CREATE TABLE {name} ({columns}, v int, PRIMARY KEY ({key}));\n\
                     INSERT INTO {name} SELECT {value}, n FROM {numbers} AS numbers"
                ))
                .await;
        }
        let at = json!({"left": format!("left.{name}"), "right": format!("right.{name}"), "list_max": 100});
        let outcome = pair.compare(at.clone()).await.unwrap();
        assert_eq!(outcome.value["equal"], json!(true), "{name}: {}", outcome.text);
        assert_eq!(outcome.value["comparisons"][0]["moved_left"]["rows"], json!(0), "{name}");
        pair.right
            .run(&format!(
                "DELETE FROM {name} WHERE v IN (1, 1999);\nUPDATE {name} SET v = -v WHERE v IN (77, 3999)"
            ))
            .await;
        pair.left.run(&format!("DELETE FROM {name} WHERE v = 2500")).await;
        let outcome = pair.compare(at).await.unwrap();
        let found: Comparison = serde_json::from_value(outcome.value["comparisons"][0].clone()).unwrap();
        assert_eq!((found.only_left, found.only_right, found.changed), (2, 1, 2), "{name}: {}", outcome.text);
        let values: Vec<_> = found.differences.iter().flat_map(|d| &d.columns).collect();
        assert!(values.iter().any(|v| v.left.as_deref() == Some("77") && v.right.as_deref() == Some("-77")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_a_key_and_other_names_and_conditions_are_told() {
    let pair = Pair { left: World::sqlite(), right: World::sqlite() };
    pair.left.run("CREATE TABLE t (id TEXT PRIMARY KEY, name, left_alone);\nINSERT INTO t VALUES ('a', 1, 1), (NULL, 2, 2), ('old', 3, 3)").await;
    pair.right
        .run("CREATE TABLE other (code TEXT, title);\nINSERT INTO other VALUES ('a', 1.0), ('a', 7)")
        .await;
    let arguments = json!({"left": "left.t", "right": "right.other", "rename": ["id=code", "name=title"],
                           "where_left": "id IS NULL OR id <> 'old'"});
    let outcome = pair.compare(arguments).await.unwrap();
    let found: Comparison = serde_json::from_value(outcome.value["comparisons"][0].clone()).unwrap();
    // The key is none on the right: its two rows together are not the left one.
    assert_eq!((found.rows_left, found.rows_right, found.changed), (1, 2, 1), "{}", outcome.text);
    assert_eq!((found.keyless_left, found.keyless_right), (1, 0));
    let codes: Vec<&str> = outcome.findings.iter().map(|finding| &*finding.code).collect();
    assert_eq!(codes, ["rows_changed", "rows_without_key", "columns_not_compared"]);
    assert!(outcome.findings.iter().all(|finding| finding.escalate.is_none() && finding.evidence.len() == 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_checks_run_and_escalate() {
    let pair = Pair { left: World::sqlite(), right: World::sqlite() };
    for world in [&pair.left, &pair.right] {
        world.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);\nINSERT INTO t VALUES (1, 'one'), (2, 'two')").await;
    }
    pair.right.run("UPDATE t SET v = 'TWO' WHERE id = 2").await;
    let check = |condition: &str| -> RowCheck {
        request(json!({"left": "left.t", "right": "right.t", "where": condition}))
    };
    let declared = BTreeMap::from([("all".to_owned(), check("true")), ("first".to_owned(), check("id = 1"))]);
    let ctx = pair.left.ctx();
    let outcome = stores::compare(&ctx, &pair, &declared, &request(json!({}))).await.unwrap();
    let equal: Vec<bool> = outcome.value["comparisons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|comparison| comparison["equal"].as_bool().unwrap())
        .collect();
    assert_eq!(equal, [false, true]);
    assert_eq!(outcome.findings.len(), 1);
    assert_eq!(outcome.findings[0].escalate, Some(contract::Trigger::DataCorruption));
    let only: CompareStores = request(json!({"checks": ["first"]}));
    let outcome = stores::compare(&ctx, &pair, &declared, &only).await.unwrap();
    assert_eq!(outcome.value["equal"], json!(true));

    let mut consistency = stores::consistency(&ctx, &pair, &request(json!({"store": "left"}))).await.unwrap();
    assert_eq!(consistency.value["consistent"], json!(true), "{}", consistency.text);
    stores::compare_declared(&ctx, &pair, &declared, "left", &mut consistency).await;
    assert_eq!(consistency.value["consistent"], json!(false));
    assert_eq!(consistency.value["checks_across_stores"][0]["check"], "all");
}

/// A store whose data changes between the first and the second snapshot.
struct Written {
    world: World,
    opened: std::sync::atomic::AtomicUsize,
    then: &'static str,
}

#[async_trait]
impl Store for Written {
    fn kind(&self) -> &'static str {
        self.world.store.kind()
    }
    fn name(&self) -> &str {
        self.world.store.name()
    }
    fn capabilities(&self) -> contract::Capabilities {
        self.world.store.capabilities()
    }
    async fn probe(&self, ctx: &Context) -> Result<contract::Probe, Error> {
        self.world.store.probe(ctx).await
    }
    fn row_sets(&self) -> Option<&dyn contract::RowSets> {
        Some(self)
    }
    async fn close(&self) {}
}

#[async_trait]
impl contract::RowSets for Written {
    async fn describe(&self, ctx: &Context, table: &str) -> Result<contract::RowSetTable, Error> {
        self.world.store.row_sets().unwrap().describe(ctx, table).await
    }

    async fn open_rows<'a>(
        &'a self,
        ctx: &Context,
        spec: &contract::RowSetSpec,
    ) -> Result<Box<dyn contract::RowSet + 'a>, Error> {
        if self.opened.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            self.world.run(self.then).await;
        }
        self.world.store.row_sets().unwrap().open_rows(ctx, spec).await
    }
}

struct Stores(BTreeMap<&'static str, Arc<dyn Store>>);

#[async_trait]
impl StoreDirectory for Stores {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        Vec::new()
    }
    async fn open(&self, _: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        Ok(Arc::clone(&self.0[name]))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_settle_while_comparing_are_not_reported_as_different() {
    let (left, right) = (World::sqlite(), World::sqlite());
    for world in [&left, &right] {
        world.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);\nINSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')").await;
    }
    right.run("UPDATE t SET v = 'late' WHERE id IN (1, 3);\nDELETE FROM t WHERE id = 2").await;
    let ctx = left.ctx();
    let then = "UPDATE t SET v = 'a' WHERE id = 1;\nINSERT INTO t VALUES (2, 'b')";
    let written = Written { world: right, opened: std::sync::atomic::AtomicUsize::new(0), then };
    let stores = Stores(BTreeMap::from([
        ("left", Arc::clone(&left.store)),
        ("right", Arc::new(written) as Arc<dyn Store>),
    ]));
    let compare: CompareStores = request(json!({"left": "left.t", "right": "right.t"}));
    let outcome = stores::compare(&ctx, &stores, &BTreeMap::new(), &compare).await.unwrap();
    let found: Comparison = serde_json::from_value(outcome.value["comparisons"][0].clone()).unwrap();
    assert_eq!((found.only_left, found.only_right, found.changed, found.settled), (0, 0, 1, 2));
    assert_eq!(found.differences[0].key, ["3"]);
    assert!(outcome.findings.iter().any(|finding| finding.code == "changed_while_comparing"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_have_nothing_in_common_are_counted() {
    let pair = Pair { left: World::sqlite(), right: World::sqlite() };
    let rows = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5000) SELECT";
    pair.left
        .run(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, v);\nINSERT INTO t {rows} n, 'x' FROM c"))
        .await;
    pair.right
        .run(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v);\nINSERT INTO t {rows} n + 2500, 'y' FROM c"
        ))
        .await;
    let found = pair.of_t().await;
    assert_eq!((found.only_left, found.only_right, found.changed), (2_500, 2_500, 2_500), "{found:?}");
    assert!(found.exact && found.differences.len() == 1_000);
}
