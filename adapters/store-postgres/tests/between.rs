//! What stands between Steward and a server that takes changes: a pooler that shares sessions, a standby that only reads.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

#[allow(dead_code, reason = "shared with the other suites")]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conformance::{NoSecrets, Secrets, change, permit_for};
use contract::{
    Actor, Context, EndHow, Error, ErrorKind, Execution, Operation, Plan, PlanStep, Query, Statement,
    StepMode, Store,
};
use serde_json::json;
use server::Database;
use store_postgres::{Config, LoginConfig, PostgresStore};
use tokio_postgres::{Client, NoTls};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_mins(1);

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

fn step(mode: StepMode, statements: &[&str]) -> PlanStep {
    PlanStep::new("one", "one", mode, statements.iter().map(|sql| Statement::new(*sql)).collect())
}

async fn begin<'a>(store: &'a PostgresStore, plan: &Plan) -> Result<Box<dyn Execution + 'a>, Error> {
    store.execute().unwrap().begin(&ctx(), &permit_for(&ctx(), plan), plan, Arc::new(NoSecrets)).await
}

/// Whether this run's server is the one behind the pooler.
fn is_pooled_version() -> bool {
    std::env::var("STEWARD_TEST_POSTGRES").is_ok_and(|version| version != "17")
}

async fn rows(store: &PostgresStore, sql: &str) -> Vec<Vec<serde_json::Value>> {
    store
        .relational()
        .unwrap()
        .query(&ctx(), &Query::new(sql))
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
        .rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_is_detected_reads_go_through_and_changes_ask_for_the_way_past_it() {
    if is_pooled_version() {
        return; // The pooler of the testbed stands in front of 17.
    }
    let database = Database::create(&conformance::namespace("pooler")).await;
    database.admin("CREATE TYPE mood AS ENUM ('calm', 'tense'); CREATE TABLE orders (id int PRIMARY KEY, at interval, is_it mood); \
                    INSERT INTO orders VALUES (1, '1 day 02:03', 'calm')").await;
    let pooler = conformance::server("STEWARD_TEST_PGBOUNCER_URL");
    let behind_it = |config: &mut Config| {
        config.url = format!("{}/{}", pooler.trim_end_matches('/'), database.name());
        config.admin = None;
    };
    let store = database.store_with(behind_it, &[]);
    let probe = store.probe(&ctx()).await.unwrap();
    assert!(probe.pooler.as_ref().unwrap().contains("unsupported startup parameter"), "{probe:?}");
    assert_eq!(probe.version.split('.').next(), Some("17"));

    // Reads work, in the same form as without, whichever sessions of the server they meet.
    let direct = database.store();
    let sql = "SELECT id, at, is_it, timestamptz '2026-03-04 05:06:07+01' AS t FROM orders";
    let expected = rows(&direct, sql).await;
    let many: Vec<_> = (0..12)
        .map(|_| {
            let store = database.store_with(behind_it, &[]);
            let expected = expected.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    assert_eq!(rows(&store, sql).await, expected);
                }
            })
        })
        .collect();
    for one in many {
        one.await.unwrap();
    }
    let schema = store.relational().unwrap().inspect(&ctx()).await.unwrap();
    assert_eq!(schema.structure(), direct.relational().unwrap().inspect(&ctx()).await.unwrap().structure());
    store.access().unwrap().access(&ctx()).await.unwrap();
    store.operate().unwrap().activity(&ctx()).await.unwrap();
    let error = store
        .relational()
        .unwrap()
        .query(&ctx(), &Query::new("WITH x AS (DELETE FROM orders RETURNING 1) SELECT 1"))
        .await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Denied, "still read-only");

    // A change is refused before any lock is taken, and nothing of ours is left in the server's sessions.
    let plan = change(
        &database.opened_without_guard(),
        vec![step(StepMode::Transaction, &["CREATE TABLE made (id int)"])],
    );
    let error = begin(&store, &plan).await.err().expect("a shared session cannot hold the lock");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.hint_text().unwrap().contains("direct_url"), "{error}");
    let locks = "SELECT count(*)::text FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                 WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    assert_eq!(database.text(locks).await, "0");

    // With the way past it, reads stay behind_it and changes happen.
    let both = database.store_with(
        |config| {
            behind_it(config);
            config.direct_url = Some(format!("postgres://{}", database.address()));
        },
        &[],
    );
    assert!(both.probe(&ctx()).await.unwrap().pooler.is_some());
    let mut execution = begin(&both, &plan).await.unwrap();
    assert_eq!(database.text(locks).await, "1", "one lock, of a session of its own");
    execution.run(&ctx(), &permit_for(&ctx(), &plan), &plan, 0).await.unwrap();
    execution.finish(&ctx()).await.unwrap();
    assert_eq!(database.text(locks).await, "0");
    assert_eq!(database.text("SELECT to_regclass('made')::text").await, "made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_was_lost_stops_the_step() {
    let database = Database::create(&conformance::namespace("lost_lock")).await;
    let store = database.store();
    for (mode, statements) in [
        (StepMode::Transaction, ["SELECT pg_advisory_unlock_all()", "CREATE TABLE made (id int)"]),
        (StepMode::Autocommit, ["SELECT pg_advisory_unlock_all()", "SELECT 1"]),
    ] {
        let mut second = step(StepMode::Autocommit, &["CREATE TABLE made (id int)"]);
        second.id = "two".into();
        let mut plan = change(&database.opened_without_guard(), vec![step(mode, &statements), second]);
        plan.arguments = json!(conformance::namespace("lost"));
        let mut execution = begin(&store, &plan).await.unwrap();
        let permit = permit_for(&ctx(), &plan);
        let first = execution.run(&ctx(), &permit, &plan, 0).await;
        let error = match first {
            Err(error) => error,
            Ok(_) => execution.run(&ctx(), &permit, &plan, 1).await.unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("lock is not held any more"), "{error}");
        assert_eq!(
            database.text("SELECT to_regclass('made')::text").await,
            "",
            "nothing was changed without it"
        );
    }
}

// --- standby ---------------------------------------------------------------------

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_read_its_lag_is_seen_and_changes_name_the_primary() {
    let url = conformance::server("STEWARD_TEST_POSTGRES17_STANDBY_URL");
    let standby = connect(&url).await;
    let port =
        text(&standby, "SELECT substring(current_setting('primary_conninfo') FROM 'port=''?([0-9]+)')").await;
    let primary = connect(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await;
    let name = conformance::namespace("standby");
    primary.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    primary.batch_execute(&format!("CREATE ROLE {name}_reader LOGIN PASSWORD 'reads'")).await.unwrap();
    let inside = connect(&format!("postgres://postgres@127.0.0.1:{port}/{name}")).await;
    inside
        .batch_execute(&format!("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1); GRANT SELECT ON orders TO {name}_reader"))
        .await
        .unwrap();
    // What was committed on the primary arrives.
    let began = tokio::time::Instant::now();
    let written = text(&primary, "SELECT pg_current_wal_lsn()::text").await;
    while text(&standby, &format!("SELECT (pg_last_wal_replay_lsn() >= '{written}')::text")).await != "true" {
        assert!(began.elapsed() < PATIENCE, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut address = url::Url::parse(&url).unwrap();
    address.set_username("").unwrap();
    address.set_path(&name);
    let superuser = || Some(LoginConfig { user: "postgres".into(), password_secret: None });
    let mut config = Config::new(
        address.as_str(),
        LoginConfig { user: format!("{name}_reader"), password_secret: Some("reader".into()) },
    );
    config.writer = superuser();
    config.admin = superuser();
    let secrets = Arc::new(Secrets::new(&[("reader", "reads")]));
    let store =
        store_postgres::open("orders", config.clone(), Path::new("/"), Arc::clone(&secrets) as _).unwrap();
    let at = format!("127.0.0.1:{port}");

    let probe = store.probe(&ctx()).await.unwrap();
    let seen = probe.standby.expect("it is a standby");
    assert_eq!((seen.primary.as_deref(), seen.streaming), (Some(at.as_str()), Some(true)), "{seen:?}");
    assert!(seen.lag_bytes.is_some() && seen.lag_ms.is_some(), "{seen:?}");
    assert_eq!(rows(&store, "SELECT id FROM orders").await, [[json!(1)]]);
    let schema = store.relational().unwrap().inspect(&ctx()).await.unwrap();
    assert!(schema.table("public.orders").or_else(|| schema.table("orders")).is_some(), "{schema:?}");
    store.access().unwrap().access(&ctx()).await.unwrap();
    store.operate().unwrap().activity(&ctx()).await.unwrap();

    // Lag that is made is seen.
    standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    inside.batch_execute("INSERT INTO orders SELECT generate_series(2, 5000)").await.unwrap();
    let began = tokio::time::Instant::now();
    let lag = loop {
        let seen = store.probe(&ctx()).await.unwrap().standby.unwrap();
        if seen.lag_bytes.is_some_and(|bytes| bytes > 0) {
            break seen;
        }
        assert!(began.elapsed() < PATIENCE, "the lag is not seen: {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(lag.lag_ms.unwrap() > 0.0, "{lag:?}");
    standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();

    // Changes are refused before anything is begun, and say where they could be made.
    let plan = Plan {
        request: "migration.apply".into(),
        arguments: json!({}),
        project: "shop".into(),
        target: "store:orders".into(),
        summary: "make a table".into(),
        steps: vec![step(StepMode::Transaction, &["CREATE TABLE made (id int)"])],
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    };
    let vacuum =
        Operation::Vacuum { tables: vec!["orders".into()], analyze: true, full: false, freeze: false };
    let refusals = [
        begin(&store, &plan).await.err().expect("it takes no changes"),
        store.operate().unwrap().prepare(&ctx(), &vacuum).await.unwrap_err(),
    ];
    for error in refusals {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(&at), "{error}");
    }
    // A session on the standby can still be ended: that changes nothing of the data. Without a login that sees the
    // source, the answer says what is missing.
    config.admin = None;
    config.writer = Some(LoginConfig { user: format!("{name}_reader2"), password_secret: None });
    let unseeing = store_postgres::open("orders", config, Path::new("/"), secrets).unwrap();
    let error = unseeing.operate().unwrap().prepare(&ctx(), &vacuum).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("pg_read_all_stats"), "{error}");
    let end =
        Operation::EndSession { pid: 1, backend_start: "x".into(), how: EndHow::Cancel, protected: false };
    assert!(
        store.operate().unwrap().prepare(&ctx(), &end).await.is_err(),
        "the record of steps cannot be kept here"
    );
    drop(inside);
    primary.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    primary.batch_execute(&format!("DROP ROLE {name}_reader")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_settings_are_changed_reloaded_and_taken_back() {
    let url = conformance::server("STEWARD_TEST_POSTGRES17_STANDBY_URL");
    let standby = connect(&url).await;
    let port =
        text(&standby, "SELECT substring(current_setting('primary_conninfo') FROM 'port=''?([0-9]+)')").await;
    let primary = connect(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await;
    let superuser = || LoginConfig { user: "postgres".into(), password_secret: None };
    let mut config = Config::new(&format!("postgres://127.0.0.1:{port}/postgres"), superuser());
    config.admin = Some(superuser());
    let store = store_postgres::open("orders", config, Path::new("/"), Arc::new(NoSecrets)).unwrap();
    let operate = store.operate().unwrap();
    for (name, value, restart) in [("deadlock_timeout", "1500ms", false), ("max_connections", "61", true)] {
        primary.batch_execute(&format!("ALTER SYSTEM RESET {name}")).await.unwrap();
        let operation = Operation::Configure {
            setting: name.into(),
            value: Some(value.into()),
            level: contract::SettingLevel::Server,
            role: None,
        };
        let prepared = operate.prepare(&ctx(), &operation).await.unwrap();
        assert_eq!(
            prepared.findings.iter().any(|finding| finding.code == "restart_needed"),
            restart,
            "{name}"
        );
        let plan = Plan {
            request: "store.configure".into(),
            arguments: json!(conformance::namespace("again")),
            project: "shop".into(),
            target: "store:orders".into(),
            summary: prepared.summary.clone(),
            steps: prepared.steps.clone(),
            pre_state: String::new(),
            predicted: json!({"login": prepared.login}),
            cost_usd_nanos: 0,
        };
        let mut execution = begin(&store, &plan).await.unwrap();
        execution.run(&ctx(), &permit_for(&ctx(), &plan), &plan, 0).await.unwrap();
        execution.finish(&ctx()).await.unwrap();
        let problems =
            operate.unfulfilled(&ctx(), &operation, &prepared.predicted, &json!(null)).await.unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert!(operate.prepare(&ctx(), &operation).await.unwrap().steps.is_empty(), "done is done");
        for statement in &prepared.steps[0].undo {
            primary.batch_execute(&statement.sql).await.unwrap();
        }
        let left = format!(
            "SELECT count(*)::text FROM pg_file_settings WHERE name = '{name}' AND sourcefile ~ 'auto.conf'"
        );
        assert_eq!(text(&primary, &left).await, "0");
    }
}

// --- sessions that matter -----------------------------------------------------------

/// The primary whose standby is cut off here, with its superuser as the only login.
fn behind() -> (String, PostgresStore) {
    let url = conformance::server("STEWARD_TEST_POSTGRES17_BEHIND_URL");
    let superuser = || LoginConfig { user: "postgres".into(), password_secret: None };
    let mut config = Config::new(&url.replace("postgres@", ""), superuser());
    config.admin = Some(superuser());
    let store = store_postgres::open("orders", config, Path::new("/"), Arc::new(NoSecrets)).unwrap();
    (url, store)
}

/// Number and begin of the one session that meets the condition, once there is one.
async fn session_that(client: &Client, condition: &str) -> (i32, String) {
    let sql = format!(
        "SELECT pid, to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
         FROM pg_stat_activity WHERE {condition}"
    );
    let began = tokio::time::Instant::now();
    loop {
        if let Some(row) = client.query_opt(&sql, &[]).await.unwrap() {
            return (row.get(0), row.get(1));
        }
        assert!(began.elapsed() < PATIENCE, "no session: {condition}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// It is refused with the reason; said twice, it is done.
async fn end_protected(store: &PostgresStore, pid: i32, backend_start: &str, why: &str) {
    let operate = store.operate().unwrap();
    let end = |protected| Operation::EndSession {
        pid,
        backend_start: backend_start.to_owned(),
        how: EndHow::Terminate,
        protected,
    };
    let error = operate.prepare(&ctx(), &end(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(why), "{error}");
    let operation = end(true);
    let prepared = operate.prepare(&ctx(), &operation).await.unwrap();
    let plan = Plan {
        request: "session.end".into(),
        arguments: json!(conformance::namespace("again")),
        project: "shop".into(),
        target: "store:orders".into(),
        summary: prepared.summary.clone(),
        steps: prepared.steps.clone(),
        pre_state: String::new(),
        predicted: json!({"login": prepared.login}),
        cost_usd_nanos: 0,
    };
    let mut execution = begin(store, &plan).await.unwrap();
    execution.run(&ctx(), &permit_for(&ctx(), &plan), &plan, 0).await.unwrap();
    execution.finish(&ctx()).await.unwrap();
    let problems = operate.unfulfilled(&ctx(), &operation, &prepared.predicted, &json!(null)).await.unwrap();
    assert_eq!(problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_cut_off_only_when_it_is_said_twice_and_comes_back() {
    if is_pooled_version() {
        return;
    }
    let (url, store) = behind();
    let client = connect(&url).await;
    let (pid, started) =
        session_that(&client, "backend_type = 'walsender' AND application_name ~ '^standby_'").await;
    end_protected(&store, pid, &started, "streams changes to a replica").await;
    let again = format!("backend_type = 'walsender' AND application_name ~ '^standby_' AND pid <> {pid}");
    session_that(&client, &again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vacuum_against_wraparound_is_ended_only_when_it_is_said_twice() {
    if is_pooled_version() {
        return;
    }
    let (url, _) = behind();
    let name = conformance::namespace("wraparound");
    connect(&url).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let mut inside = url::Url::parse(&url).unwrap();
    inside.set_path(&name);
    inside.set_username("").unwrap();
    let superuser = || LoginConfig { user: "postgres".into(), password_secret: None };
    let mut config = Config::new(inside.as_str(), superuser());
    config.admin = Some(superuser());
    let store = store_postgres::open("orders", config, Path::new("/"), Arc::new(NoSecrets)).unwrap();
    inside.set_username("postgres").unwrap();
    let client = connect(inside.as_str()).await;
    client
        .batch_execute(
            "CREATE TABLE old (id int) WITH (autovacuum_freeze_max_age = 100000); INSERT INTO old VALUES (1); \
             CREATE TABLE burnt (id int)",
        )
        .await
        .unwrap();
    // The server's vacuum waits for this lock, which one that is only about dead rows would not.
    let holder = connect(inside.as_str()).await;
    holder.batch_execute("BEGIN; LOCK TABLE old IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    // Each block that catches errors is a transaction of its own to the server: the table is too old at once.
    client
        .batch_execute(
            "DO $$ BEGIN FOR n IN 1..100100 LOOP BEGIN INSERT INTO burnt VALUES (n); \
             EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
        )
        .await
        .unwrap();
    let (pid, started) = session_that(
        &client,
        "backend_type = 'autovacuum worker' AND query LIKE '%public.old (to prevent wraparound)' AND wait_event_type = 'Lock'",
    )
    .await;
    end_protected(&store, pid, &started, "vacuums against wraparound").await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    drop((client, holder));
    store.close().await;
    connect(&url).await.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
}
