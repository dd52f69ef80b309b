//! The room against real stores: reading, indexes, consistency, migrations, and what a kill at any point leaves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::similar_names, reason = "a request and its answer are nearly one word")]
#![allow(clippy::unused_self, reason = "what a world gives may one day depend on it")]

mod compare;
mod crash;
mod safe;
mod world;

use contract::{ErrorKind, Severity, Trigger};
use serde_json::{Value, json};
use stores::migration::MigrationFile;
use stores::{
    AdviseIndexes, ApplyMigrations, CheckConsistency, CheckHealth, CheckStore, CreateIndex, DiffStore,
    DropIndex, Earlier, InspectStore, ListSlowStatements, ListStores, MeasureStore, MigrationStatus, OwnTime,
    PlanMigrations, QueryStore, RollbackMigrations, SetupStore,
};
use world::{World, request};

/// The same tests on each kind of store.
macro_rules! on_every_store {
    ($($case:ident)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::World::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::World::postgres(stringify!($case)).await).await;
            })+
        }
    };
}

on_every_store! {
    reads_say_what_is_there
    snapshot_shows_drift
    orphans_are_counted_and_escalated
    missing_index_is_advised_built_measured_and_dropped
    index_that_is_there_is_not_built_again
    migrations_are_applied_and_taken_back
    migrations_say_what_they_risk
    migration_without_way_back_is_not_taken_back
    history_that_does_not_fit_the_files_is_refused
    plan_for_another_state_is_refused
    permit_for_another_plan_is_refused
    failed_migration_leaves_nothing
    statements_apart_are_resumed_by_a_new_plan
    odd_names_are_quoted_everywhere
    clean_store_keeps_all_its_promises
    health_tells_the_worst_first_with_its_evidence
}

async fn clean_store_keeps_all_its_promises(world: World) {
    world
        .run(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER NOT NULL CHECK (a > 0), b TEXT, price NUMERIC(10, 2), \
             CONSTRAINT named CHECK (b <> '' OR a IS NULL));\n\
             CREATE UNIQUE INDEX t_b ON t (lower(b)) WHERE a > 1;\n\
             INSERT INTO t VALUES (1, 1, 'x', 1.5), (2, 1, 'X', NULL), (3, 2, NULL, 3), (4, 2, 'y', 4)",
        )
        .await;
    if world.store.kind() == "postgres" {
        world.run_as_superuser("CREATE EXTENSION amcheck").await;
    }
    let found = stores::consistency(&world.ctx(), &world, &request(json!({"store": "shop"}))).await.unwrap();
    assert_eq!(found.value["consistent"], json!(true), "{}", found.text);
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    assert_eq!(found.value["integrity"]["checked"], json!(true));
}

fn codes(found: &contract::Outcome) -> Vec<String> {
    found.findings.iter().map(|finding| format!("{} {}", finding.code, finding.object)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_break_promises_of_sqlite_are_counted() {
    let world = World::sqlite();
    world
        .run(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER CHECK (a > 0), b TEXT NOT NULL, c REAL, d DECIMAL, e DATE);\n\
             CREATE TABLE s (id INTEGER PRIMARY KEY, a ANY) STRICT;\n\
             PRAGMA ignore_check_constraints = ON;\n\
             INSERT INTO t VALUES (1, -1, 'x', 1.0, 2, '2026-01-01'), (2, 'many', 'x', 'no', '12,5', 'never'), \
             (3, 2.5, x'00', 1, 1.5, NULL)",
        )
        .await;
    let found = stores::consistency(&world.ctx(), &world, &request(json!({"store": "shop"}))).await.unwrap();
    let rows = |name: &str, promise: &str| {
        let broken = found.value["broken"].as_array().unwrap();
        let one = broken.iter().find(|one| one["name"] == name && one["promise"] == promise);
        one.map_or(0, |one| one["rows"].as_u64().unwrap())
    };
    assert_eq!(rows("a > 0", "check"), 1, "{}", found.text);
    assert_eq!((rows("a", "type"), rows("b", "type"), rows("c", "type"), rows("d", "type")), (2, 1, 1, 1));
    assert_eq!(rows("e", "type"), 0, "a DATE may be anything");
    assert_eq!(found.value["consistent"], json!(false));
    let escalated: Vec<&str> = found
        .findings
        .iter()
        .filter(|finding| finding.escalate == Some(Trigger::DataCorruption))
        .map(|finding| &*finding.code)
        .collect();
    assert_eq!(escalated, ["check_violated"], "{:?}", codes(&found));
    assert!(found.findings.iter().all(|finding| !finding.evidence.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_break_promises_of_postgres_are_counted() {
    let world = World::postgres("promises").await;
    // A function that lies about being immutable breaks a check and a unique index that were sound before.
    world
        .run(
            "CREATE FUNCTION least_price() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';\n\
             CREATE FUNCTION code_of(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT v';\n\
             CREATE TABLE t (id int PRIMARY KEY, price int CHECK (price >= least_price()), v text NOT NULL);\n\
             CREATE UNIQUE INDEX t_code ON t (code_of(v)) WHERE id > 0;\n\
             INSERT INTO t SELECT n, n, 'v' || n FROM generate_series(1, 100) n;\n\
             ALTER TABLE t ADD CONSTRAINT late CHECK (id > 5) NOT VALID;\n\
             CREATE TABLE rooms (id int PRIMARY KEY, taken int4range, EXCLUDE USING gist (taken WITH &&));\n\
             CREATE OR REPLACE FUNCTION least_price() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 11';\n\
             CREATE OR REPLACE FUNCTION code_of(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT left(v, 2)'",
        )
        .await;
    let check = request(json!({"store": "shop"}));
    // Without amcheck nobody looks into the index, so its promise is asked of the rows.
    let found = stores::consistency(&world.ctx(), &world, &check).await.unwrap();
    let rows = |found: &contract::Outcome, name: &str| {
        let broken = found.value["broken"].as_array().unwrap();
        broken.iter().find(|one| one["name"] == name).map_or(0, |one| one["rows"].as_u64().unwrap())
    };
    assert_eq!(rows(&found, "t_price_check"), 10, "{}", found.text);
    assert_eq!(rows(&found, "late"), 5, "{}", found.text);
    assert_eq!(found.value["duplicates"][0]["keys"], json!(9), "{}", found.text);
    let of = |code: &str, object: &str| {
        found.findings.iter().find(|finding| finding.code == code && finding.object == object).unwrap()
    };
    assert_eq!(of("check_violated", "t.t_price_check").escalate, Some(Trigger::DataCorruption));
    // It was never promised that old rows keep it.
    assert_eq!(of("check_violated", "t.late").severity, Severity::Warning);
    assert_eq!(of("exclusion_not_checked", "rooms.rooms_taken_excl").severity, Severity::Info);
    assert!(
        of("integrity_not_checked", "").recommendation.as_ref().unwrap().contains("CREATE EXTENSION amcheck")
    );

    world.run_as_superuser("CREATE EXTENSION amcheck").await;
    let found = stores::consistency(&world.ctx(), &world, &check).await.unwrap();
    let corrupt: Vec<&contract::Finding> =
        found.findings.iter().filter(|finding| finding.code == "corruption").collect();
    assert!(corrupt.iter().any(|finding| finding.object.contains("t_code")), "{:?}", codes(&found));
    assert!(corrupt.iter().all(|finding| finding.escalate == Some(Trigger::DataCorruption)));
}

/// An index that is sound in itself and holds a key twice: amcheck compares keys only from PostgreSQL 17 on, so before it
/// the rows are asked although amcheck ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_occur_twice_in_a_sound_unique_index_are_found_on_every_version() {
    let version = std::env::var("STEWARD_TEST_POSTGRES").unwrap_or_else(|_| "17".into());
    for version in ["15", &version] {
        let world = World::postgres_of("twice", Some(version)).await;
        world
            .run(
                "CREATE TABLE t (id int PRIMARY KEY, v text);\n\
                 INSERT INTO t SELECT n, 'v' || n / 2 FROM generate_series(1, 100) n;\n\
                 CREATE INDEX t_v ON t (v);\n\
                 CREATE TABLE sound (id int PRIMARY KEY, n int, UNIQUE NULLS NOT DISTINCT (n));\n\
                 INSERT INTO sound VALUES (1, 1), (2, NULL);\n\
                 CREATE TABLE days (day int PRIMARY KEY) PARTITION BY RANGE (day);\n\
                 CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (1) TO (9);\n\
                 INSERT INTO days VALUES (1), (2)",
            )
            .await;
        world.run_as_superuser("CREATE EXTENSION amcheck").await;
        let check = request(json!({"store": "shop"}));
        let found = stores::consistency(&world.ctx(), &world, &check).await.unwrap();
        assert_eq!(found.value["consistent"], json!(true), "{version}: {}", found.text);
        let by_rows = found.value["unique_by_rows"].as_array().unwrap().len();
        assert_eq!(by_rows, if version < "17" { 5 } else { 0 }, "{version}: {:#}", found.value);

        world
            .run_as_superuser(
                "SET allow_system_table_mods = on;\n\
                 UPDATE pg_index SET indisunique = true WHERE indexrelid = 't_v'::regclass",
            )
            .await;
        let found = stores::consistency(&world.ctx(), &world, &check).await.unwrap();
        assert_eq!(found.value["consistent"], json!(false), "{version}: {}", found.text);
        let twice = found.findings.iter().find(|finding| finding.code == "duplicate_rows");
        let twice = twice.unwrap_or_else(|| panic!("{version}: {:?}", codes(&found)));
        assert_eq!((&*twice.object, twice.escalate), ("t.v", Some(Trigger::DataCorruption)), "{version}");
        assert_eq!(found.value["duplicates"][0]["keys"], json!(49), "{version}: {}", found.text);
    }
}

/// The parent's index still has a key whose row is gone: asked through the index, no row is an orphan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_found_though_the_parents_index_still_has_their_key() {
    let world = World::postgres("orphan_index").await;
    world
        .run(
            "CREATE TABLE parents (id int PRIMARY KEY);\n\
             INSERT INTO parents SELECT generate_series(1, 50000);\n\
             CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents);\n\
             INSERT INTO children VALUES (1, 7), (2, 8)",
        )
        .await;
    let index = |on: bool| {
        format!(
            "UPDATE pg_index SET indisready = {on}, indisvalid = {on} WHERE indexrelid = 'parents_pkey'::regclass"
        )
    };
    world
        .run_as_superuser(&format!(
            "SET allow_system_table_mods = on;\nSET session_replication_role = replica;\n{};\n\
             DELETE FROM parents WHERE id = 7",
            index(false)
        ))
        .await;
    // It clears the row away, and does not touch an index that is not in use.
    world.run_as_superuser("VACUUM (ANALYZE) parents").await;
    world.run_as_superuser(&format!("SET allow_system_table_mods = on;\n{}", index(true))).await;
    let found = stores::consistency(&world.ctx(), &world, &request(json!({"store": "shop"}))).await.unwrap();
    let orphans = found.findings.iter().find(|finding| finding.code == "orphan_rows");
    let orphans = orphans.unwrap_or_else(|| panic!("{}", found.text));
    assert!(orphans.title.ends_with("such as 7"), "{}", orphans.title);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_page_of_a_table_is_found_on_disk() {
    let sound = World::postgres("page_sound").await;
    sound
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, v text);\n\
             INSERT INTO t SELECT n, 'value ' || n FROM generate_series(1, 3000) n",
        )
        .await;
    // The file of the table gets other bytes in its third page; a copy of the database made file by file reads them from
    // the disk, not from the server's memory.
    let damaged = sound.copy_with_damaged_page("t").await;
    let found =
        stores::consistency(&damaged.ctx(), &damaged, &request(json!({"store": "shop", "tables": ["t"]})))
            .await;
    match found {
        Ok(found) => {
            let corrupt = found.findings.iter().find(|finding| finding.code == "corruption");
            let corrupt = corrupt.unwrap_or_else(|| panic!("{}", found.text));
            assert_eq!(corrupt.escalate, Some(Trigger::DataCorruption));
        }
        // With checksums the page cannot be read at all.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
    }
}

async fn reads_say_what_is_there(world: World) {
    world.seed().await;
    let ctx = world.ctx();
    let check = stores::check(&ctx, &world, &CheckStore { store: "shop".into() }).await.unwrap();
    assert_eq!(check.value["store"], "shop");
    assert!(check.findings.iter().all(|finding| finding.severity == Severity::Info), "{check:?}");

    let inspect: InspectStore = request(json!({"store": "shop", "table": "orders"}));
    let inspect = stores::inspect(&ctx, &world, &inspect).await.unwrap();
    assert_eq!(inspect.value["tables"][0]["rows"], 20_000, "{}", inspect.value);
    assert_eq!(inspect.evidence.len(), 1);
    let missing: InspectStore = request(json!({"store": "shop", "table": "nothing"}));
    assert_eq!(stores::inspect(&ctx, &world, &missing).await.unwrap_err().kind(), ErrorKind::NotFound);

    let query: QueryStore = request(json!({"store": "shop", "rows_max": 2,
        "sql": "SELECT id, name FROM customers WHERE id > 4 ORDER BY id"}));
    let rows = stores::query(&ctx, &world, &query).await.unwrap();
    insta::allow_duplicates! {
        insta::assert_snapshot!(rows.text, @r"
        id  name
        --  ----------
         5  customer 5
         6  customer 6
        (the first 2 rows; there are more: raise `rows_max`)
        ");
    }
    assert_eq!(rows.evidence[0].answer["rows"], rows.value["rows"]);
    let query: QueryStore = request(json!({"store": "shop", "sql": "DELETE FROM customers"}));
    assert_eq!(stores::query(&ctx, &world, &query).await.unwrap_err().kind(), ErrorKind::Denied);

    let measure: MeasureStore =
        request(json!({"store": "shop", "runs": 7, "query": "SELECT * FROM orders WHERE customer_id = 7"}));
    let measured = stores::measure(&ctx, &world, &measure).await.unwrap();
    assert_eq!(measured.evidence[0].answer["runs_ms"].as_array().unwrap().len(), 7);
    assert!(measured.value["p95_ms"].as_f64().unwrap() >= measured.value["p50_ms"].as_f64().unwrap());
    assert_eq!(measured.findings[0].code, "full_scan", "{}", measured.text);
    let listed = stores::list(&ctx, &world, &ListStores {}).await.unwrap();
    assert_eq!(listed.value["stores"][0]["name"], "shop");
}

async fn snapshot_shows_drift(world: World) {
    world.seed().await;
    let ctx = world.ctx();
    let inspect: InspectStore = request(json!({"store": "shop"}));
    let snapshot = stores::inspect(&ctx, &world, &inspect).await.unwrap().value;
    let diff = DiffStore { store: "shop".into(), against: None, snapshot: Some(snapshot.into_value()) };
    let same = stores::diff(&ctx, &world, &diff).await.unwrap();
    assert_eq!((&same.value["equal"], same.findings.len()), (&json!(true), 0), "{}", same.text);
    world.migrate(&[("0001_a.sql", "ALTER TABLE customers ADD COLUMN phone TEXT")]).await.unwrap();
    let drift = stores::diff(&ctx, &world, &diff).await.unwrap();
    assert_eq!(drift.value["equal"], json!(false));
    assert_eq!(drift.findings[0].object, "customers.phone", "{}", drift.text);
    let neither = DiffStore { store: "shop".into(), against: None, snapshot: None };
    assert_eq!(stores::diff(&ctx, &world, &neither).await.unwrap_err().kind(), ErrorKind::Invalid);
}

async fn orphans_are_counted_and_escalated(world: World) {
    world.seed().await;
    let ctx = world.ctx();
    let check: CheckConsistency = request(json!({"store": "shop"}));
    let found = stores::consistency(&ctx, &world, &check).await.unwrap();
    let orphans = found.value["orphans"].as_array().unwrap();
    assert_eq!(orphans.len(), 2, "{}", found.text);
    let of = |table: &str| orphans.iter().find(|orphans| orphans["table"] == table).unwrap();
    assert_eq!((&of("orders")["rows"], &of("orders")["declared"]), (&json!(3), &json!(true)));
    assert_eq!(of("orders")["sample_keys"], json!([[9001], [9002], [9003]]));
    assert_eq!((&of("notes")["rows"], &of("notes")["declared"]), (&json!(1), &json!(false)));
    let finding = found.findings.iter().find(|finding| finding.object == "orders.customer_id").unwrap();
    assert_eq!((finding.severity, finding.escalate), (Severity::Critical, Some(Trigger::DataCorruption)));
    for id in &finding.evidence {
        assert!(found.evidence.iter().any(|evidence| evidence.id == *id), "{id}");
    }
    assert_eq!(found.value["consistent"], json!(false));
}

const BY_CUSTOMER: &str = "SELECT id, total FROM orders AS o WHERE o.customer_id = 7 ORDER BY o.id";

async fn missing_index_is_advised_built_measured_and_dropped(world: World) {
    world.seed().await;
    let ctx = world.ctx();
    let per_customer = "SELECT c.name, (SELECT count(*) FROM orders AS o WHERE o.customer_id = c.id) AS n \
                        FROM customers AS c WHERE c.id < 3";
    let advise: AdviseIndexes =
        request(json!({"store": "shop", "queries": [BY_CUSTOMER, per_customer, "SELECT * FROM orders"]}));
    let advice = stores::advise(&ctx, &world, &advise).await.unwrap();
    let indexes = advice.value["indexes"].as_array().unwrap();
    assert_eq!(indexes.len(), 1, "{}", advice.text);
    assert_eq!((&indexes[0]["table"], &indexes[0]["columns"][0]), (&json!("orders"), &json!("customer_id")));
    assert!(indexes[0]["rows_read_then"].as_u64().unwrap() < 1_000, "{}", advice.text);
    assert_eq!(advice.findings[0].code, "missing_index");

    let columns = &indexes[0]["columns"];
    let create: CreateIndex =
        request(json!({"store": "shop", "table": "orders", "columns": columns, "query": BY_CUSTOMER}));
    let plan = stores::index::plan_create(&ctx, &world, &create).await.unwrap();
    assert!(plan.reversible() && !plan.destructive());
    assert_eq!(plan.digest(), stores::index::plan_create(&ctx, &world, &create).await.unwrap().digest());
    let created = world.execute(&plan).await.unwrap();
    let verdict = (&created.value["verified"], &created.value["index"]["used"]);
    assert_eq!(verdict, (&json!(true), &json!(true)), "{}", created.text);
    assert!(created.value["before"]["p95_ms"].is_f64() && created.value["after"]["p95_ms"].is_f64());
    let again = stores::advise(&ctx, &world, &advise).await.unwrap();
    assert_eq!(again.value["indexes"], json!([]), "{}", again.text);

    let drop: DropIndex = request(json!({"store": "shop", "table": "orders", "columns": columns}));
    let drop = stores::index::plan_drop(&ctx, &world, &drop).await.unwrap();
    assert_eq!(world.execute(&drop).await.unwrap().value["verified"], json!(true));
    // The same change once more is another plan, so that the record of the first does not stand for it.
    let second = stores::index::plan_create(&ctx, &world, &create).await.unwrap();
    assert_ne!(second.digest(), plan.digest());
    assert_eq!(world.execute(&second).await.unwrap().value["verified"], json!(true));
}

async fn index_that_is_there_is_not_built_again(world: World) {
    world.seed().await;
    let ctx = world.ctx();
    let plan = async |columns: Value, name: Value| {
        let create: CreateIndex =
            request(json!({"store": "shop", "table": "orders", "columns": columns, "name": name}));
        stores::index::plan_create(&ctx, &world, &create).await
    };
    world.execute(&plan(json!(["total"]), Value::Null).await.unwrap()).await.unwrap();
    let again = plan(json!(["total"]), json!("other")).await.unwrap();
    assert_eq!(again.steps, []);
    assert_eq!(world.execute(&again).await.unwrap().value["nothing_to_do"], json!(true));
    let taken = plan(json!(["customer_id"]), json!("orders_total_idx")).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let nothing = plan(json!(["nothing"]), Value::Null).await.unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound);
    world.execute(&plan(json!(["total", "id"]), Value::Null).await.unwrap()).await.unwrap();
    let advise: AdviseIndexes = request(json!({"store": "shop"}));
    let advice = stores::advise(&ctx, &world, &advise).await.unwrap();
    assert_eq!(advice.value["redundant"][0]["index"], "orders_total_idx", "{}", advice.text);
}

const CREATE: &str = "-- steward: up\nCREATE TABLE a (id INTEGER PRIMARY KEY, word TEXT NOT NULL);\n\
                      INSERT INTO a VALUES (1, 'semi;colon');\n-- steward: down\nDROP TABLE a;\n";
const EXTEND: &str = "ALTER TABLE a ADD COLUMN more INTEGER;\nCREATE INDEX a_word ON a (word);\n\
                      -- steward: down\nDROP INDEX a_word;\nALTER TABLE a DROP COLUMN more;\n";

async fn status(world: &World, files: &[MigrationFile]) -> (Vec<String>, Vec<String>) {
    let request = MigrationStatus { store: "shop".into() };
    let value = stores::migration::status(&world.ctx(), world, files, &request).await.unwrap().value;
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    (names(&value["applied"]), names(&value["pending"]))
}

async fn migrations_are_applied_and_taken_back(world: World) {
    let ctx = world.ctx();
    let files = world.files(&[("0001_create.sql", CREATE), ("0002_extend.sql", EXTEND)]);
    let (one, two) = ("0001_create".to_owned(), "0002_extend".to_owned());
    assert_eq!(status(&world, &files).await, (vec![], vec![one.clone(), two.clone()]));
    let apply: ApplyMigrations = request(json!({"store": "shop", "to": 1}));
    let plan = stores::migration::plan_apply(&ctx, &world, &files, &apply).await.unwrap();
    let outcome = world.execute(&plan).await.unwrap();
    let verdict = (&outcome.value["verified"], &outcome.value["resumed"]);
    assert_eq!(verdict, (&json!(true), &json!(false)), "{}", outcome.text);
    assert_eq!(status(&world, &files).await, (vec![one.clone()], vec![two.clone()]));
    let apply: ApplyMigrations = request(json!({"store": "shop", "to": "0002_extend"}));
    let plan = stores::migration::plan_apply(&ctx, &world, &files, &apply).await.unwrap();
    world.execute(&plan).await.unwrap();
    assert_eq!(status(&world, &files).await, (vec![one.clone(), two.clone()], vec![]));
    // The same plan again does nothing.
    assert_eq!(world.execute(&plan).await.unwrap().value["steps_run"], json!(0));
    let all: ApplyMigrations = request(json!({"store": "shop"}));
    assert_eq!(stores::migration::plan_apply(&ctx, &world, &files, &all).await.unwrap().steps, []);

    let back: RollbackMigrations = request(json!({"store": "shop"}));
    let back = stores::migration::plan_rollback(&ctx, &world, &files, &back).await.unwrap();
    assert!(back.destructive(), "dropping a column loses data");
    world.execute(&back).await.unwrap();
    assert_eq!(status(&world, &files).await, (vec![one.clone()], vec![two.clone()]));
    let forth = stores::migration::plan_apply(&ctx, &world, &files, &apply).await.unwrap();
    assert_eq!(world.execute(&forth).await.unwrap().value["steps_run"], json!(1));
    let everything: RollbackMigrations = request(json!({"store": "shop", "to": 0}));
    let everything = stores::migration::plan_rollback(&ctx, &world, &files, &everything).await.unwrap();
    assert_eq!(everything.steps.len(), 2);
    world.execute(&everything).await.unwrap();
    assert_eq!(status(&world, &files).await, (vec![], vec![one, two]));
}

async fn migrations_say_what_they_risk(world: World) {
    world.seed().await;
    let ctx = world.ctx();
    let files = world.files(&[
        ("0001_ok.sql", "CREATE TABLE b (id INTEGER);\n-- steward: down\nDROP TABLE b;"),
        (
            "0002_bad.sql",
            "-- steward: irreversible\nDELETE FROM orders\nWHERE customer_id > 9000;\n\nFROBNICATE orders;",
        ),
    ]);
    let preview: PlanMigrations = request(json!({"store": "shop"}));
    let preview = stores::migration::preview(&ctx, &world, &files, &preview).await.unwrap();
    assert_eq!((&preview.value["destructive"], &preview.value["reversible"]), (&json!(true), &json!(false)));
    let found: Vec<_> =
        preview.findings.iter().map(|finding| (finding.code.as_str(), finding.title.as_str())).collect();
    let (lost, unread) = match world.store.kind() {
        "sqlite" => ("deletes rows", "the statement cannot be read, so"),
        _ => (
            "some rows of `orders` are deleted",
            "the statement cannot be read (expected command, found IDENT), so",
        ),
    };
    let expected = [
        ("risky_migration", format!("`0002_bad`, line 2: {lost}")),
        ("risky_migration", format!("`0002_bad`, line 5: {unread} nobody can say what it does")),
    ];
    assert_eq!(found, expected.each_ref().map(|(code, title)| (*code, title.as_str())));
    let apply: ApplyMigrations = request(json!({"store": "shop", "to": 1}));
    let plan = stores::migration::plan_apply(&ctx, &world, &files, &apply).await.unwrap();
    assert!(!plan.destructive() && plan.reversible());
    for (sql, expected) in [
        (
            "SELECT 1;\nBEGIN",
            "a migration cannot control the transaction\n  file: migrations/shop/0001_x.sql\n  line: 2",
        ),
        (
            "VACUUM",
            "this statement cannot run inside a transaction\n  file: migrations/shop/0001_x.sql\n  line: 1",
        ),
        ("COPY b FROM PROGRAM 'id'", "a migration cannot run a program on the server"),
    ] {
        let files = world.files(&[("0001_x.sql", sql)]);
        let apply: ApplyMigrations = request(json!({"store": "shop"}));
        let error = stores::migration::plan_apply(&ctx, &world, &files, &apply).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().starts_with(expected), "{error}");
    }
}

async fn migration_without_way_back_is_not_taken_back(world: World) {
    let files = [("0001_x.sql", "CREATE TABLE c (id INTEGER)")];
    world.migrate(&files).await.unwrap();
    let back: RollbackMigrations = request(json!({"store": "shop"}));
    let error = stores::migration::plan_rollback(&world.ctx(), &world, &world.files(&files), &back)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

async fn history_that_does_not_fit_the_files_is_refused(world: World) {
    let ctx = world.ctx();
    world.migrate(&[("0001_create.sql", CREATE), ("0002_extend.sql", EXTEND)]).await.unwrap();
    for (files, expected) in [
        (
            world.files(&[("0001_create.sql", CREATE)]),
            "migration `0002_extend` was applied and its file is missing",
        ),
        (
            world.files(&[("0001_create.sql", &format!("{CREATE}-- edited")), ("0002_extend.sql", EXTEND)]),
            "migration `0001_create` was edited after it was applied\n  file: migrations/shop/0001_create.sql",
        ),
        (
            world.files(&[("0001_create.sql", CREATE), ("0002_renamed.sql", EXTEND)]),
            "migration `0002_extend` was renamed after it was applied",
        ),
    ] {
        let request = MigrationStatus { store: "shop".into() };
        let error = stores::migration::status(&ctx, &world, &files, &request).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Conflict && error.to_string().starts_with(expected), "{error}");
    }
}

async fn plan_for_another_state_is_refused(world: World) {
    world.seed().await;
    let ctx = world.ctx();
    let create: CreateIndex = request(json!({"store": "shop", "table": "orders", "columns": ["total"]}));
    let plan = stores::index::plan_create(&ctx, &world, &create).await.unwrap();
    let late = ("0001_x.sql", "ALTER TABLE orders ADD COLUMN late INTEGER");
    world.migrate(&[late]).await.unwrap();
    let error = world.execute(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(error.message(), "the store has changed since the plan was made");
    // Another table's change does not matter.
    let plan = stores::index::plan_create(&ctx, &world, &create).await.unwrap();
    world.migrate(&[late, ("0002_y.sql", "CREATE TABLE z (id INTEGER)")]).await.unwrap();
    world.execute(&plan).await.unwrap();
}

async fn permit_for_another_plan_is_refused(world: World) {
    let ctx = world.ctx();
    let files = world.files(&[("0001_create.sql", CREATE)]);
    let apply: ApplyMigrations = request(json!({"store": "shop"}));
    let plan = stores::migration::plan_apply(&ctx, &world, &files, &apply).await.unwrap();
    let mut other = plan.clone();
    other.steps[0].statements.push(contract::Statement::new("DROP TABLE a"));
    let permit = conformance::permit_for(&ctx, &plan);
    let secrets = std::sync::Arc::new(conformance::NoSecrets);
    let error = stores::execute(&ctx, &permit, &other, &world, secrets).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    let states = stores::progress(&ctx, &world, &plan).await.unwrap();
    assert!(states.iter().all(|state| *state == contract::StepState::Pending), "{states:?}");
}

async fn failed_migration_leaves_nothing(world: World) {
    let broken = "CREATE TABLE half (id INTEGER PRIMARY KEY);\nINSERT INTO half VALUES (1);\n\
                  INSERT INTO half VALUES (1);";
    let error = world.migrate(&[("0001_create.sql", CREATE), ("0002_broken.sql", broken)]).await.unwrap_err();
    assert!(error.to_string().contains("step: 3 of 3: apply `0002_broken`: 3 statements"), "{error}");
    let inspect: InspectStore = request(json!({"store": "shop"}));
    let tables = stores::inspect(&world.ctx(), &world, &inspect).await.unwrap().value["tables"].clone();
    assert_eq!((tables.as_array().unwrap().len(), &tables[0]["name"]), (1, &json!("a")));
    // Repaired, it goes on where it stopped.
    let repaired = broken.replace("VALUES (1);\nINSERT", "VALUES (2);\nINSERT");
    world.migrate(&[("0001_create.sql", CREATE), ("0002_broken.sql", &repaired)]).await.unwrap();
}

async fn statements_apart_are_resumed_by_a_new_plan(world: World) {
    let apart = "-- steward: no-transaction\nCREATE TABLE ran (name TEXT);\nINSERT INTO ran VALUES ('one');\n\
                 VACUUM;\nINSERT INTO missing VALUES (1);\nINSERT INTO ran VALUES ('two');";
    let files = [("0001_apart.sql", apart)];
    let error = world.migrate(&files).await.unwrap_err();
    assert!(error.to_string().contains("stay done and recorded"), "{error}");
    let request = MigrationStatus { store: "shop".into() };
    let status =
        stores::migration::status(&world.ctx(), &world, &world.files(&files), &request).await.unwrap();
    assert_eq!(status.findings[0].code, "migration_cut_short");
    assert_eq!(status.value["applied"][0]["statements_done"], json!(3));
    world.run("CREATE TABLE missing (id INTEGER)").await;
    world.migrate(&files).await.unwrap();
    assert_eq!(world.count("SELECT count(*) FROM ran").await, Some(2));
    assert_eq!(world.count("SELECT count(*) FROM missing").await, Some(1));
}

async fn odd_names_are_quoted_everywhere(world: World) {
    let odd = r#""we""ird; DROP ""#;
    let sql = format!(
        "CREATE TABLE {odd} (id INTEGER PRIMARY KEY, \"sp ace\"\"\" INTEGER);\nINSERT INTO {odd} SELECT n, n FROM \
         (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000) SELECT n FROM c) AS s;"
    );
    world.migrate(&[("0001_odd.sql", &sql)]).await.unwrap();
    let ctx = world.ctx();
    let name = r#"we"ird; DROP "#;
    let create: CreateIndex = request(json!({"store": "shop", "table": name, "columns": ["sp ace\""]}));
    let plan = stores::index::plan_create(&ctx, &world, &create).await.unwrap();
    assert_eq!(world.execute(&plan).await.unwrap().value["verified"], json!(true));
    let check: CheckConsistency = request(json!({"store": "shop"}));
    stores::consistency(&ctx, &world, &check).await.unwrap();
    let query = format!("SELECT * FROM {odd} WHERE \"sp ace\"\"\" = 7");
    let advise: AdviseIndexes = request(json!({"store": "shop", "queries": [query]}));
    stores::advise(&ctx, &world, &advise).await.unwrap();
    for format in ["text", "json", "mermaid"] {
        let inspect: InspectStore = request(json!({"store": "shop", "format": format}));
        stores::inspect(&ctx, &world, &inspect).await.unwrap();
    }
}

#[tokio::test]
async fn files_have_no_logins() {
    let world = World::sqlite();
    let setup: SetupStore = request(json!({"store": "shop"}));
    let error = stores::setup::plan(&world.ctx(), &world, &setup).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().unwrap().contains("file permissions"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setup_gives_each_login_what_it_needs_and_no_more() {
    let world = World::postgres("setup").await;
    let ctx = world.ctx();
    let check = CheckStore { store: "shop".into() };
    let check = stores::check(&ctx, &world, &check).await.unwrap();
    let reader = &check.value["reader"];
    assert_eq!(
        (&reader["superuser"], &reader["owner"], &reader["can_write"]),
        (&json!(false), &json!(false), &json!(false)),
        "{}",
        check.text
    );
    assert_eq!(check.value["writer"]["superuser"], json!(false));
    assert_eq!(check.findings, [], "{}", check.text);
    // What the writer makes later, the reader sees.
    world.migrate(&[("0001_create.sql", CREATE)]).await.unwrap();
    assert_eq!(world.count("SELECT count(*) FROM a").await, Some(1));
    // Again: nothing breaks, and the plan is another one, because it was done once.
    let setup: SetupStore = request(json!({"store": "shop",
        "reader": format!("{}_reader", world.address), "writer": format!("{}_writer", world.address)}));
    let plan = stores::setup::plan(&ctx, &world, &setup).await.unwrap();
    let secrets: Vec<&String> =
        plan.steps[0].statements.iter().flat_map(|one| one.secrets.values()).collect();
    assert_eq!(
        secrets,
        [&format!("shop/{}_reader", world.address), &format!("shop/{}_writer", world.address)]
    );
    let again = world.execute(&plan).await.unwrap();
    assert_eq!(again.value["steps_run"], json!(5));
    for evidence in &again.evidence {
        assert!(!format!("{evidence:?}").contains("pa55word"), "{evidence:?}");
    }
    assert!(stores::plan_text(&plan).contains("PASSWORD {{password_reader}}"));
    assert_eq!(world.count("SELECT count(*) FROM a").await, Some(1));
    let mut greedy = setup.clone();
    greedy.owner = Some("postgres".into());
    let plan = stores::setup::plan(&ctx, &world, &greedy).await.unwrap();
    let error = world.execute(&plan).await.unwrap_err();
    assert!(error.to_string().contains("the owner is a superuser"), "{error}");
    // A name is never more than a name.
    let hostile: SetupStore = request(json!({"store": "shop", "writer": setup.writer,
        "reader": format!("{}'; END IF; DROP TABLE a; IF true THEN RAISE NOTICE 'x", world.address)}));
    let plan = stores::setup::plan(&ctx, &world, &hostile).await.unwrap();
    drop(world.execute(&plan).await);
    assert_eq!(world.count("SELECT count(*) FROM a").await, Some(1));
    for key in ["reader", "writer", "owner"] {
        let mut arguments = json!({"store": "shop"});
        arguments[key] = json!("x$steward$; DROP TABLE a; --");
        let error = stores::setup::plan(&ctx, &world, &request::<SetupStore>(arguments)).await.unwrap_err();
        assert!(error.to_string().contains("holds `$steward$`"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_index_of_an_earlier_build_is_replaced() {
    let world = World::postgres("invalid").await;
    let ctx = world.ctx();
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass";
    world.run("CREATE TABLE t (id INTEGER, word TEXT);\nINSERT INTO t VALUES (1, 'a'), (1, 'b')").await;
    let create: CreateIndex =
        request(json!({"store": "shop", "table": "t", "columns": ["id"], "unique": true}));
    let plan = stores::index::plan_create(&ctx, &world, &create).await.unwrap();
    assert!(plan.steps[0].statements[1].sql.contains("CONCURRENTLY"));
    world.execute(&plan).await.unwrap_err();
    assert_eq!(world.count(indexes).await, Some(0), "a build that failed leaves nothing");
    // A build that was cut off leaves an index that nobody keeps.
    world.run("DELETE FROM t WHERE word = 'b'").await;
    let plan = stores::index::plan_create(&ctx, &world, &create).await.unwrap();
    world.execute(&plan).await.unwrap();
    world
        .run_as_superuser(
            "UPDATE pg_index SET indisvalid = false, indisready = false WHERE indrelid = 't'::regclass",
        )
        .await;
    world.run("INSERT INTO t VALUES (1, 'b')").await;
    let check: CheckConsistency = request(json!({"store": "shop"}));
    let found = stores::consistency(&ctx, &world, &check).await.unwrap();
    assert_eq!(found.value["duplicates"][0]["keys"], json!(1), "{}", found.text);
    world.run("DELETE FROM t WHERE word = 'b'").await;
    let plan = stores::index::plan_create(&ctx, &world, &create).await.unwrap();
    let built = world.execute(&plan).await.unwrap();
    assert_eq!(built.value["verified"], json!(true), "{}", built.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migration_past_its_statement_timeout_leaves_nothing() {
    let world = World::postgres("lock").await;
    let ctx = world.ctx();
    let files = [("0001_a.sql", "CREATE TABLE a (id INTEGER)"), ("0002_b.sql", "SELECT pg_sleep(600)")];
    let apply: ApplyMigrations = request(json!({"store": "shop", "statement_timeout_ms": 2_000}));
    let plan = stores::migration::plan_apply(&ctx, &world, &world.files(&files), &apply).await.unwrap();
    assert!(plan.destructive(), "a function can do anything");
    let error = world.execute(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let (applied, pending) = status(&world, &world.files(&files)).await;
    assert_eq!((applied.len(), pending.len()), (1, 1));
}

async fn health_tells_the_worst_first_with_its_evidence(world: World) {
    world.seed().await;
    world.run("CREATE TABLE heap (a INTEGER);\nCREATE INDEX one ON orders (total);\nCREATE INDEX two ON orders (total)").await;
    let ctx = world.ctx();
    let check: CheckHealth = request(json!({"store": "shop"}));
    let health = stores::health(&ctx, &world, &check).await.unwrap();
    let codes: Vec<&str> = health.findings.iter().map(|finding| finding.code.as_str()).collect();
    for code in ["index_duplicate", "no_primary_key"] {
        assert!(codes.contains(&code), "{codes:?}");
    }
    assert!(health.findings.is_sorted_by_key(|finding| std::cmp::Reverse(finding.severity)), "{codes:?}");
    assert_eq!(health.value["healthy"], json!(false));
    for finding in &health.findings {
        assert_eq!(finding.evidence.len(), 1, "{finding:?}");
        let of = health.evidence.iter().find(|evidence| evidence.id == finding.evidence[0]).unwrap();
        assert!(!of.statement.is_empty() && !of.answer["rows"].as_array().unwrap().is_empty(), "{of:?}");
    }
    let lines: Vec<&str> = health.text.lines().collect();
    assert!(lines[0].starts_with("shop ") && lines[0].contains("warning"), "{}", health.text);
    let first = if health.value["critical"] == json!(0) { "warning" } else { "CRITICAL" };
    assert!(lines[1].starts_with(first) && lines[2].trim_start().starts_with("fix: "), "{}", health.text);
    let listed = health.value["checks"].as_array().unwrap();
    assert!(
        listed.iter().any(|check| check["seen"] == "nothing" && check["because"].is_string()),
        "{listed:?}"
    );
    // Steward's own tables are nobody's business.
    assert!(!format!("{:?}", health.findings).contains("steward_"), "{:?}", health.findings);

    let check: CheckHealth = request(json!({"store": "shop", "areas": ["indexes"]}));
    let some = stores::health(&ctx, &world, &check).await.unwrap();
    let areas: Vec<&Value> =
        some.value["checks"].as_array().unwrap().iter().map(|check| &check["area"]).collect();
    assert!(!areas.is_empty() && areas.iter().all(|area| **area == "indexes"), "{areas:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_setup_made_see_what_health_needs() {
    let world = World::postgres("seeing").await;
    world.run("CREATE SEQUENCE tickets MAXVALUE 10;\nSELECT setval('tickets', 9)").await;
    let check: CheckHealth = request(json!({"store": "shop"}));
    let health = stores::health(&world.ctx(), &world, &check).await.unwrap();
    assert!(health.findings.iter().any(|finding| finding.code == "sequence_near_end"), "{}", health.text);
    for check in health.value["checks"].as_array().unwrap() {
        let because = check["because"].as_str().unwrap_or_default();
        assert!(!because.contains("the server answers"), "{check}");
        // Whoever sees this setting sees all, also a password in `primary_conninfo`.
        let kept_back = check["name"] == "encryption_in_transit" && because.contains("pg_read_all_settings");
        assert!(check["seen"] != "part" || kept_back, "{check}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_statements_are_told_without_constants_and_without_our_own() {
    let world = World::postgres("slow").await;
    let ctx = world.ctx();
    let asked: ListSlowStatements = request(json!({"store": "shop"}));
    let error = stores::slow(&ctx, &world, &Earlier::default(), 50.0, &asked).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().unwrap().contains("CREATE EXTENSION pg_stat_statements"), "{error}");

    world.administer("CREATE EXTENSION pg_stat_statements").await;
    world.run("CREATE TABLE unheard_of (id INTEGER)").await;
    world.administer("DO $$ BEGIN PERFORM pg_sleep(0.3); END $$").await;
    world.administer("SELECT count(*) FROM pg_sleep(0.3), (SELECT 'anna@example.org') AS who").await;
    world.count("SELECT count(*) AS our_own_question FROM unheard_of").await;
    let slow = stores::slow(&ctx, &world, &Earlier::default(), 50.0, &asked).await.unwrap();
    let statements = slow.value["statements"].as_array().unwrap();
    let texts: Vec<&str> = statements.iter().map(|one| one["text"].as_str().unwrap()).collect();
    let sleep = statements.iter().find(|one| one["text"].as_str().unwrap().contains("AS who"));
    let sleep = sleep.unwrap_or_else(|| panic!("{texts:?}"));
    assert_eq!((&sleep["above_objective"], &sleep["p95_is"]), (&json!(true), &json!("measured")), "{sleep}");
    assert!(sleep["p95_ms"].as_f64().unwrap() >= 300.0, "{sleep}");
    assert!(!texts.iter().any(|text| text.contains("unheard_of")), "{texts:?}");
    assert!(texts.contains(&"DO ?"), "{texts:?}");
    let everything = format!("{slow:?}");
    assert!(!everything.contains("anna@") && !everything.contains("PERFORM"), "{everything}");
    let finding =
        slow.findings.iter().find(|finding| finding.object == sleep["id"].as_str().unwrap()).unwrap();
    assert_eq!(
        (finding.code.as_str(), finding.escalate),
        ("slow_statement", Some(Trigger::PerformanceDegradation))
    );
    // Nobody waits for a `DO`, so it is no finding, however long it takes.
    assert!(slow.findings.iter().all(|finding| !finding.title.contains("DO ?")), "{:?}", slow.findings);

    // The next look tells what is new: one run of one statement, and nothing of those that have not run again.
    world.administer("SELECT count(*) FROM pg_sleep(0.2), (SELECT 'anna@example.org') AS who").await;
    let earlier = Earlier { last: slow.evidence.last().cloned(), ..Earlier::default() };
    let asked: ListSlowStatements = request(json!({"store": "shop", "since_last": true}));
    let newer = stores::slow(&ctx, &world, &earlier, 50.0, &asked).await.unwrap();
    let statements = newer.value["statements"].as_array().unwrap();
    let again = statements.iter().find(|one| one["id"] == sleep["id"]).unwrap();
    assert_eq!((&again["calls"], &again["above_objective"]), (&json!(1), &json!(true)), "{again}");
    assert!(again["mean_ms"].as_f64().unwrap() >= 200.0, "{again}");
    assert!(!statements.iter().any(|one| one["text"] == "DO ?"), "{}", newer.text);
    assert!(newer.text.contains("since the last look at"), "{}", newer.text);
}

#[tokio::test]
async fn files_are_judged_by_what_came_through_our_own_door() {
    let world = World::sqlite();
    world.seed().await;
    let time = |statement: &str, elapsed_ms| OwnTime {
        statement: statement.into(),
        elapsed_ms,
        evidence: "ev-1".into(),
    };
    let own =
        [time("SELECT * FROM orders WHERE id = 7", 80.0), time("SELECT * FROM orders WHERE id = 8", 60.0)];
    let earlier = Earlier { own: own.to_vec(), last: None };
    let asked: ListSlowStatements = request(json!({"store": "shop"}));
    let slow = stores::slow(&world.ctx(), &world, &earlier, 50.0, &asked).await.unwrap();
    assert_eq!(
        (&slow.value["source"], &slow.value["statements"][0]["p95_ms"]),
        (&json!("own"), &json!(80.0))
    );
    assert_eq!(slow.value["statements"][0]["text"], "SELECT * FROM orders WHERE id = ?");
    assert_eq!(slow.findings[0].code, "slow_statement");
    assert!(slow.text.contains("not of what the application runs"), "{}", slow.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_of_sqlite_are_linted_with_its_catalog_and_without() {
    let world = World::sqlite();
    world
        .run("CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT);\nINSERT INTO orders VALUES (1, 'x')")
        .await;
    let cases = [
        (
            "-- steward: allow data_loss nobody reads it\nALTER TABLE orders DROP COLUMN note",
            "brief",
            "data_loss",
        ),
        ("ALTER TABLE orders ADD COLUMN a INTEGER NOT NULL", "fails", "required_column"),
        ("CREATE TABLE fresh (id INTEGER)", "brief", ""),
        ("ALTER TABLE fresh RENAME COLUMN id TO key", "brief", ""),
        ("ALTER TABLE orders RENAME TO bills", "brief", "old_code_breaks"),
        ("VACUUM", "all", "rewrite"),
        ("REPLACE INTO orders (id) VALUES (1)", "brief", "data_loss"),
        ("CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM fresh; END", "brief", ""),
        ("PRAGMA writable_schema = ON", "unjudged", "unknown_statement"),
        ("INSERT INTO orders (id) VALUES (2)", "brief", ""),
    ];
    let text: Vec<&str> = cases.iter().map(|case| case.0).collect();
    let files = world.files(&[("0001_all.sql", &format!("{};", text.join(";\n")))]);
    for offline in [false, true] {
        let lint = request(json!({"store": "shop", "offline": offline}));
        let outcome = stores::lint::lint(&world.ctx(), &world, &files, &files, &lint).await.unwrap();
        let verdicts = outcome.value["files"][0]["verdicts"].as_array().unwrap();
        assert_eq!(verdicts.len(), cases.len(), "{}", outcome.text);
        for (verdict, (sql, blocking, rule)) in verdicts.iter().zip(cases) {
            assert_eq!(verdict["blocking"], blocking, "{sql}: {verdict}");
            assert_eq!(verdict["remarks"][0]["rule"].as_str().unwrap_or_default(), rule, "{sql}: {verdict}");
        }
        assert_eq!(verdicts[0]["remarks"][0]["allowed"], "nobody reads it");
        assert_eq!(outcome.value["connected"], json!(!offline));
        assert!(outcome.findings.iter().any(|finding| finding.escalate.is_some()), "what nobody can judge");
    }
}
