//! Runbooks end to end: trouble is made in a real database, a PM's words go in, and the report's status is what it must be.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::program::{Ended, Project};

/// Longest wait for something that surely comes; far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// Of every login made here but the administrator, who needs none.
const PASSWORD: &str = "pa55word-of-the-test";

/// A database of its own with an application's role, and a project that has it as the store `shop`.
pub(crate) struct Shop {
    pub(crate) project: Project,
    server: String,
    pub(crate) database: String,
    app: String,
}

impl Shop {
    pub(crate) async fn new(case: &str) -> Self {
        Self::on(conformance::postgres(), case).await
    }

    async fn on(server: String, case: &str) -> Self {
        let database = conformance::namespace(case);
        let app = format!("{database}_app");
        let admin = connect(&server, "postgres", "postgres").await.unwrap();
        for sql in [
            format!("CREATE ROLE {app} LOGIN PASSWORD '{PASSWORD}'"),
            format!("CREATE DATABASE {database} OWNER {app}"),
        ] {
            admin.batch_execute(&sql).await.unwrap();
        }
        // Whoever uses the application, and the login by which Steward looks; it works as the owner here.
        for (role, rights) in [("client", ""), ("looker", "IN ROLE pg_monitor, pg_read_all_data")] {
            let sql = format!("CREATE ROLE {database}_{role} LOGIN PASSWORD '{PASSWORD}' {rights}");
            admin.batch_execute(&sql).await.unwrap();
        }
        let project = Project::new(&format!(
            "project: shop\nobjectives:\n  query_p95_ms: 60000\nstores:\n  shop:\n    kind: postgres\n    url: {}\n    \
             reader: {{ user: {database}_looker, password_secret: shop/looker }}\n    writer: {{ user: {app}, password_secret: shop/app }}\n    \
             admin: {{ user: postgres }}\n",
            address(&server, &database)
        ));
        tokio::task::block_in_place(|| {
            for secret in ["shop/app", "shop/looker"] {
                project.run_with_input(&["secret", "put", secret], PASSWORD).expect(0);
            }
        });
        Self { project, server, database, app }
    }

    pub(crate) async fn as_app(&self) -> Client {
        self.try_as_app().await.unwrap()
    }

    /// The same, where there may be no place for one more.
    async fn try_as_app(&self) -> Result<Client, tokio_postgres::Error> {
        connect(&self.server, &self.app, &self.database).await
    }

    /// Someone who uses the application.
    async fn as_client(&self) -> Client {
        connect(&self.server, &format!("{}_client", self.database), &self.database).await.unwrap()
    }

    pub(crate) async fn as_admin(&self) -> Client {
        self.connect_to(&self.database).await
    }

    /// Another database of the server, as its administrator.
    pub(crate) async fn connect_to(&self, database: &str) -> Client {
        connect(&self.server, "postgres", database).await.unwrap()
    }

    /// Runs the task and gives its report; the exit code must be this one.
    fn task(&self, text: &str, code: i32) -> Value {
        self.project.write("task.yaml", text);
        report(
            &tokio::task::block_in_place(|| self.project.run(&["task", "run", "task.yaml", "--json"])),
            code,
        )
    }

    pub(crate) async fn drop(self) {
        let admin = connect(&self.server, "postgres", "postgres").await.unwrap();
        admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.database)).await.unwrap();
        for role in
            [self.app.clone(), format!("{}_reader", self.database), format!("{}_writer", self.database)]
        {
            admin.batch_execute(&format!("DROP ROLE IF EXISTS {role}")).await.unwrap();
        }
    }
}

fn address(server: &str, database: &str) -> String {
    let server = server.rsplit_once('/').map_or(server, |(server, _)| server);
    let host = server.rsplit_once('@').map_or(server, |(_, host)| host).trim_start_matches("postgres://");
    format!("postgres://{host}/{database}")
}

async fn connect(server: &str, user: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
    let url = address(server, database).replace("postgres://", &format!("postgres://{user}:{PASSWORD}@"));
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    // Its end is seen by the client.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Waits until the query answers true.
async fn until(client: &Client, sql: &str) {
    let began = Instant::now();
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < PATIENCE, "never true: {sql}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn report(ended: &Ended, code: i32) -> Value {
    let report = ended.json()["value"].clone();
    assert_eq!(ended.code, code, "{}{}", ended.stderr, serde_json::to_string_pretty(&report).unwrap());
    report
}

/// The states of the step's actions.
fn states<'a>(report: &'a Value, step: &str) -> Vec<&'a str> {
    let actions = report["actions"].as_array().unwrap().iter();
    actions.filter(|action| action["step"] == step).map(|action| action["status"].as_str().unwrap()).collect()
}

/// Whether the finding is resolved; `None` when it is not there.
fn resolved(report: &Value, code: &str, object: &str) -> Option<bool> {
    let findings = report["findings"].as_array().unwrap().iter();
    let mut of_code = findings.filter(|finding| finding["code"] == code && finding["object"] == object);
    of_code.next().map(|finding| finding["resolved"] == true)
}

/// Whether the acceptance check that begins so has passed.
fn passed(report: &Value, check: &str) -> bool {
    let checks = report["acceptance"].as_array().unwrap().iter();
    let mut meant = checks.filter(|one| one["check"].as_str().unwrap().starts_with(check));
    meant.next().unwrap_or_else(|| panic!("no check {check}: {report}"))["pass"] == true
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_pile_up_is_over_and_the_report_says_what_it_cost() {
    let shop = Shop::new("rb_locks").await;
    let blocker = shop.as_app().await;
    blocker
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY, total int); INSERT INTO orders VALUES (1, 0)",
        )
        .await
        .unwrap();
    blocker.batch_execute("BEGIN; LOCK TABLE orders IN SHARE MODE").await.unwrap();
    let mut held_up = Vec::new();
    for _ in 0..2 {
        let client = shop.as_app().await;
        held_up.push(tokio::spawn(async move {
            client.batch_execute("UPDATE orders SET total = total + 10 WHERE id = 1").await
        }));
    }
    let admin = shop.as_admin().await;
    let two_wait = "SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = current_database() \
                   AND cardinality(pg_blocking_pids(pid)) > 0";
    until(&admin, two_wait).await;
    let task =
        "Context:\n  - store: shop\nTask:\n  - Sessions hang. Find the blocker and get rid of the lock.\n";
    let report = shop.task(task, 0);
    assert_eq!(report["status"], "done", "{report}");
    assert_eq!((states(&report, "end"), states(&report, "after")), (vec!["done"], vec!["done"]), "{report}");
    assert!(passed(&report, "blocked_sessions"), "{report}");
    for session in held_up {
        session.await.unwrap().unwrap();
    }
    let total: i32 = admin.query_one("SELECT total FROM orders", &[]).await.unwrap().get(0);
    assert_eq!(total, 20);

    // A blocker whose work would be lost is nobody's to end but the PM's.
    let blocker = shop.as_app().await;
    blocker.batch_execute("BEGIN; UPDATE orders SET total = total + 1 WHERE id = 1").await.unwrap();
    let held_up = shop.as_app().await;
    let held_up = tokio::spawn(async move {
        held_up.batch_execute("UPDATE orders SET total = total + 10 WHERE id = 1").await
    });
    until(&admin, &two_wait.replace("= 2", "= 1")).await;
    let report = shop.task(task, 3);
    assert_eq!(states(&report, "end"), ["waiting"], "{report}");
    blocker.batch_execute("COMMIT").await.unwrap();
    held_up.await.unwrap().unwrap();
    let total: i32 = admin.query_one("SELECT total FROM orders", &[]).await.unwrap().get(0);
    assert_eq!(total, 31, "nothing was lost");
    drop((admin, blocker));
    shop.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_storm_ends_forgotten_sessions_and_limits_new_ones() {
    let shop = Shop::new("rb_storm").await;
    let mut forgotten = Vec::new();
    for _ in 0..2 {
        let client = shop.as_app().await;
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
        forgotten.push(client);
    }
    let mut idle = Vec::new();
    for _ in 0..6 {
        idle.push(shop.as_app().await);
    }
    let admin = shop.as_admin().await;
    let task = "Context:\n  - store: shop\n  - idle_ms: 0\nTask:\n  - Too many connections. Find out who uses them and \
                end sessions that are idle in transaction.\n";
    let report = shop.task(task, 0);
    assert_eq!(report["status"], "done", "{report}");
    assert_eq!(states(&report, "end"), ["done", "done"], "{report}");
    assert_eq!(states(&report, "timeout"), ["done"], "{report}");
    let fresh = shop.as_app().await;
    let limit: String =
        fresh.query_one("SHOW idle_in_transaction_session_timeout", &[]).await.unwrap().get(0);
    assert_eq!(limit, "5min");
    let left = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() \
                AND state LIKE 'idle in transaction%'";
    until(&admin, left).await;
    for client in &idle {
        client.simple_query("SELECT 1").await.expect("a session that only waits is left alone");
    }
    drop((admin, fresh, forgotten, idle));
    shop.drop().await;
}

/// On a server with 24 places, 21 of them for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn connection_storm_that_leaves_no_place_is_seen_and_solved() {
    let shop = Shop::on(conformance::server("STEWARD_TEST_POSTGRES17ODD_URL"), "rb_full").await;
    let mut forgotten = Vec::new();
    for _ in 0..12 {
        let client = shop.as_app().await;
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
        forgotten.push(client);
    }
    let mut idle = Vec::new();
    let full = loop {
        match shop.try_as_app().await {
            Ok(client) => idle.push(client),
            Err(error) => break error,
        }
    };
    assert_eq!(full.code().map(tokio_postgres::error::SqlState::code), Some("53300"), "{full:?}");
    let ask = |args: &[&str]| tokio::task::block_in_place(|| shop.project.run(args));
    // An ordinary login is told why it is refused; who is there and what is near its limit is seen all the same.
    let refused = ask(&["store", "query", "shop", "SELECT 1"]).expect(1);
    assert!(refused.stderr.contains("53300"), "{refused:?}");
    let locks = ask(&["store", "locks", "shop", "--json"]).expect(5).json();
    assert_eq!(
        (&locks["value"]["seen_as"], severity(&locks, "connections_nearly_used_up")),
        (&json!("postgres"), "critical")
    );
    let health = ask(&["store", "health", "shop", "--areas", "connections", "--json"]).expect(5).json();
    assert_eq!(severity(&health, "connections_near_limit"), "critical", "{health}");
    assert_eq!(tokio::task::block_in_place(|| shop.project.escalations("performance_degradation")).len(), 2);

    let task = "Context:\n  - store: shop\n  - idle_ms: 0\nTask:\n  - Too many connections. Find out who uses them and \
                end sessions that are idle in transaction.\n";
    let report = shop.task(task, 0);
    assert_eq!((&report["status"], states(&report, "end")), (&json!("done"), vec!["done"; 12]), "{report}");
    assert_eq!(states(&report, "timeout"), ["done"], "{report}");
    for code in ["connections_nearly_used_up", "connections_near_limit"] {
        let findings = report["findings"].as_array().unwrap().iter();
        let resolved: Vec<&Value> =
            findings.filter(|finding| finding["code"] == code).map(|finding| &finding["resolved"]).collect();
        assert_eq!(resolved, [&json!(true)], "{code}: {report}");
    }
    assert!(passed(&report, "connections_percent"), "{report}");
    ask(&["store", "query", "shop", "SELECT 1"]).expect(0);
    for client in &idle {
        client.simple_query("SELECT 1").await.expect("a session that only waits is left alone");
    }
    drop((forgotten, idle));
    shop.drop().await;
}

/// The severity of the finding with this code.
fn severity<'a>(answer: &'a Value, code: &str) -> &'a str {
    let findings = answer["findings"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let found = findings.iter().find(|finding| finding["code"] == code);
    found.unwrap_or_else(|| panic!("no {code}: {answer}"))["severity"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bloat_is_cleared_away_and_what_needs_a_lock_is_left_to_people() {
    let shop = Shop::new("rb_bloat").await;
    let app = shop.as_app().await;
    app.batch_execute(
        "CREATE TABLE events (id int PRIMARY KEY, note text) WITH (autovacuum_enabled = off);
         CREATE INDEX events_note ON events (note);
         INSERT INTO events SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 60000) i;
         DELETE FROM events WHERE id % 10 <> 0;",
    )
    .await
    .unwrap();
    app.batch_execute("VACUUM (ANALYZE) events").await.unwrap();
    app.batch_execute(
        "CREATE TABLE orders (id int PRIMARY KEY, total int) WITH (autovacuum_enabled = off);
         INSERT INTO orders SELECT i, i FROM generate_series(1, 60000) i;
         DELETE FROM orders WHERE id > 10000;",
    )
    .await
    .unwrap();
    // Counts are told to the server at the latest when a session ends.
    drop(app);
    let admin = shop.as_admin().await;
    until(&admin, "SELECT n_dead_tup >= 50000 FROM pg_stat_user_tables WHERE relname = 'orders'").await;
    let pages = "SELECT pg_relation_size('events_note')";
    let before: i64 = admin.query_one(pages, &[]).await.unwrap().get(0);
    let task = "Context:\n  - store: shop\nTask:\n  - The tables are bloated with dead rows; vacuum, and reindex what \
                needs it\n";
    let report = shop.task(task, 5);
    assert_eq!(report["status"], "findings", "{report}");
    assert_eq!(resolved(&report, "dead_rows", "public.orders"), Some(true), "{report}");
    assert_eq!(resolved(&report, "index_bloat", "public.events_note"), Some(true), "{report}");
    assert_eq!(resolved(&report, "table_bloat", "public.events"), Some(false), "{report}");
    let after: i64 = admin.query_one(pages, &[]).await.unwrap().get(0);
    assert!(after * 2 < before, "{before} to {after}");
    assert!(!passed(&report, "health.problems"), "{report}");
    drop(admin);
    shop.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn complaint_that_the_app_is_slow_finds_the_query_and_the_index() {
    let shop = Shop::new("rb_slow").await;
    let admin = shop.as_admin().await;
    admin.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    shop.as_app()
        .await
        .batch_execute(&format!(
            "CREATE TABLE orders (id int PRIMARY KEY, customer_id int NOT NULL, note text);
             INSERT INTO orders SELECT i, i % 5000, repeat('x', 100) FROM generate_series(1, 50000) i;
             ANALYZE orders; GRANT SELECT ON orders TO {}_client",
            shop.database
        ))
        .await
        .unwrap();
    let client = shop.as_client().await;
    for customer in 0..40 {
        client
            .simple_query(&format!("SELECT * FROM orders WHERE customer_id = {customer} ORDER BY id LIMIT 5"))
            .await
            .unwrap();
    }
    let task = "Context:\n  - store: shop\nTask:\n  - The app is slow since Monday, please find out why\n\
                acceptance:\n  - p95_ms(slow_1) < 60000\n  - index.exists(orders, customer_id)\n";
    let report = shop.task(task, 0);
    assert_eq!(report["status"], "done", "{report}");
    assert_eq!(states(&report, "slowest"), ["done"], "{report}");
    assert_eq!(states(&report, "create"), ["done"], "{report}");
    assert!(passed(&report, "index.exists"), "{report}");
    let create = &report["actions"].as_array().unwrap().iter().find(|one| one["step"] == "create").unwrap();
    assert!(create["before"]["p95_ms"].is_number() && create["after"]["p95_ms"].is_number(), "{create}");
    drop((admin, client));
    shop.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_pressure_drops_what_is_there_twice_and_names_the_rest() {
    let shop = Shop::new("rb_disk").await;
    let admin = shop.as_admin().await;
    shop.as_app()
        .await
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, total int);
             INSERT INTO orders SELECT i, i, i FROM generate_series(1, 20000) i;
             CREATE INDEX orders_customer ON orders (customer_id);
             CREATE INDEX orders_customer_again ON orders (customer_id);
             CREATE INDEX orders_total ON orders (total);
             ALTER TABLE orders SET (autovacuum_enabled = off); ANALYZE orders",
        )
        .await
        .unwrap();
    let task = "Context:\n  - store: shop\nTask:\n  - The disk is almost full. Find out what takes up the space and free \
                what you can.\n";
    let report = shop.task(task, 5);
    assert_eq!(report["status"], "findings", "{report}");
    assert_eq!(states(&report, "drop"), ["done"], "{report}");
    assert_eq!(resolved(&report, "index_duplicate", "public.orders_customer_again"), Some(true), "{report}");
    assert_eq!(resolved(&report, "index_unused", "public.orders_total"), Some(false), "{report}");
    assert_eq!(resolved(&report, "autovacuum_off_for_table", "public.orders"), Some(false), "{report}");
    let names: Vec<String> = admin
        .query("SELECT indexname::text FROM pg_indexes WHERE tablename = 'orders' ORDER BY 1", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(names, ["orders_customer", "orders_pkey", "orders_total"]);
    drop(admin);
    shop.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_pressure_names_the_slot_that_keeps_the_log() {
    let shop = Shop::on(conformance::server("STEWARD_TEST_POSTGRES17_BEHIND_URL"), "rb_slot").await;
    let admin = shop.as_admin().await;
    let slot = shop.database.clone();
    admin
        .batch_execute(&format!("SELECT pg_create_physical_replication_slot('{slot}', true)"))
        .await
        .unwrap();
    // Each switch ends a segment of 16 MiB: 80 MiB, where the server means to keep 32.
    for _ in 0..5 {
        for sql in ["SELECT pg_logical_emit_message(true, 'disk', 'x')", "SELECT pg_switch_wal()"] {
            admin.batch_execute(sql).await.unwrap();
        }
    }
    let task = "Context:\n  - store: shop\nTask:\n  - The disk is almost full. Find out what takes up the space and free \
                what you can.\n";
    let report = shop.task(task, 5);
    assert_eq!(report["status"], "findings", "{report}");
    // A copy may still come back for it, so that is for people to decide; how is said.
    let keeps = report["findings"].as_array().unwrap().iter();
    let mut keeps =
        keeps.filter(|finding| finding["code"] == "slot_retains_wal" && finding["object"] == slot.as_str());
    let keeps = keeps.next().unwrap_or_else(|| panic!("no slot: {report}"));
    assert_eq!(keeps["resolved"], false, "{report}");
    let drop_it = format!("SELECT pg_drop_replication_slot('{slot}')");
    assert!(keeps["recommendation"].as_str().unwrap().contains(&drop_it), "{keeps}");
    assert_eq!(resolved(&report, "slot_inactive", &slot), Some(false), "{report}");
    // What it recommends frees the space.
    admin.batch_execute(&drop_it).await.unwrap();
    let report = shop.task(task, 5);
    assert_eq!(resolved(&report, "slot_retains_wal", &slot), None, "{report}");
    drop(admin);
    shop.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn production_shape_makes_logins_limits_indexes_statistics_and_documents() {
    let shop = Shop::new("rb_production").await;
    let app = shop.as_app().await;
    app.batch_execute(
        "CREATE TABLE customers (id int PRIMARY KEY, name text);
         CREATE TABLE orders (id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customers, total int);
         ALTER TABLE orders SET (autovacuum_enabled = off);
         INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 100) i;
         INSERT INTO orders SELECT i, 1 + i % 100, i FROM generate_series(1, 20000) i;",
    )
    .await
    .unwrap();
    drop(app);
    let admin = shop.as_admin().await;
    until(&admin, "SELECT n_live_tup >= 20000 FROM pg_stat_user_tables WHERE relname = 'orders'").await;
    let login =
        |what: &str| format!("{{ user: {0}_{what}, password_secret: shop/{0}_{what} }}", shop.database);
    shop.project.write(
        "steward.yaml",
        format!(
            "project: shop\nstores:\n  shop:\n    kind: postgres\n    url: {}\n    reader: {}\n    writer: {}\n    admin: \
             {{ user: postgres }}\n",
            address(&shop.server, &shop.database),
            login("reader"),
            login("writer")
        ),
    );
    let task = format!(
        "Context:\n  - store: shop\n  - owner: {}\nTask:\n  - Bring the database to production shape\n  - schema, logins, \
         settings, indexes\n  - monitoring and documentation\n",
        shop.app
    );
    // The servers of the tests are set up for speed and not for safety, so there is always something to look at.
    let report = shop.task(&task, 5);
    assert_eq!(report["status"], "findings", "{report}");
    for step in ["logins", "settings", "indexes", "statistics", "consistency", "documents", "health_after"] {
        let states = states(&report, step);
        assert!(!states.is_empty() && states.iter().all(|state| *state == "done"), "{step}: {report}");
    }
    for check in ["orphans", "migration.applied"] {
        assert!(passed(&report, check), "{report}");
    }
    assert_eq!(resolved(&report, "not_watched", "shop"), Some(false), "{report}");
    assert_eq!(resolved(&report, "never_analyzed", "public.orders"), Some(true), "{report}");
    let index = "SELECT count(*) = 1 FROM pg_indexes WHERE indexdef LIKE '%(customer_id)'";
    assert!(admin.query_one(index, &[]).await.unwrap().get::<_, bool>(0));
    let document = std::fs::read_to_string(shop.project.file("docs/data/shop.md")).unwrap();
    for part in ["## Table orders", "erDiagram", "refers to customers"] {
        assert!(document.contains(part), "{part}\n{document}");
    }
    // Nothing is done twice.
    let report = shop.task(&task, 5);
    for step in ["logins", "settings", "indexes", "statistics", "health_after"] {
        assert_eq!(states(&report, step), ["skipped"], "{step}: {report}");
    }
    assert_eq!(std::fs::read_to_string(shop.project.file("docs/data/shop.md")).unwrap(), document);
    drop(admin);
    shop.drop().await;
}

const ORDERS: &str = "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id), note TEXT);
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
      INSERT INTO customers SELECT i, 'c' FROM n WHERE i <= 1000;
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
      INSERT INTO orders SELECT i, 1 + i % 1000, 'x' FROM n;";

#[test]
fn production_shape_of_a_file_says_what_a_file_cannot() {
    let project = Project::with_sqlite("project: shop", &format!("{ORDERS} ANALYZE;"));
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(project.file("app.db"), private).unwrap();
    let task = "Context:\n  - store: app\nTask:\n  - Bring the database to production shape: indexes, monitoring, documentation\n";
    project.write("task.yaml", task);
    let first = report(&project.run(&["task", "run", "task.yaml", "--json"]), 5);
    assert_eq!(states(&first, "indexes"), ["done"], "{first}");
    assert_eq!(states(&first, "documents"), ["done"], "{first}");
    assert_eq!(states(&first, "access"), ["skipped"], "{first}");
    let notes = first["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().contains("a file has no roles")), "{first}");
    // The finding says what to add; once it is added, the same task is done.
    let advised = project.answer(&["schedule", "advise", "app"]);
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project.write("steward.yaml", format!("{yaml}\n{}", advised["value"]["yaml"].as_str().unwrap()));
    let second = report(&project.run(&["task", "run", "task.yaml", "--json"]), 0);
    assert_eq!(second["status"], "done", "{second}");
    assert_eq!(states(&second, "indexes"), ["skipped"], "{second}");
}

#[test]
fn slow_file_is_found_by_what_came_through_the_door() {
    let project = Project::with_sqlite("project: shop\nobjectives:\n  query_p95_ms: 60000", ORDERS);
    let query = "SELECT * FROM orders WHERE customer_id = 7 AND note = 'x'";
    for _ in 0..3 {
        project.run(&["store", "query", "app", query]).expect(0);
    }
    project.write(
        "task.yaml",
        "Context:\n  - store: app\nTask:\n  - The app is slow, please find out why\nacceptance:\n  - \
         p95_ms(slow_1) < 60000\n",
    );
    let report = report(&project.run(&["task", "run", "task.yaml", "--json"]), 0);
    assert_eq!(states(&report, "create"), ["done"], "{report}");
    assert_eq!(project.number("SELECT count(*) FROM sqlite_master WHERE type = 'index'"), 1);
}

#[test]
fn trouble_that_only_a_server_has_fails_on_a_file_with_the_reason() {
    let project = Project::with_sqlite("project: shop", ORDERS);
    for words in ["Sessions hang, find the blocker", "Too many connections are open"] {
        project.write("task.yaml", format!("Context:\n  - store: app\nTask:\n  - {words}\n"));
        let report = report(&project.run(&["task", "run", "task.yaml", "--json"]), 1);
        assert_eq!(report["status"], "failed", "{report}");
        assert!(report["issues"].to_string().contains("not supported"), "{report}");
    }
}

#[test]
fn document_of_a_store_is_written_once_and_never_over_someone_elses() {
    let project = Project::with_sqlite("project: shop", ORDERS);
    project.run(&["docs", "schema", "app"]).expect(0);
    let document = std::fs::read(project.file("docs/data/app.md")).unwrap();
    let again = project.run(&["docs", "schema", "app"]).expect(0);
    assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);
    project.database().execute_batch("ALTER TABLE orders ADD COLUMN status TEXT").unwrap();
    project.run(&["docs", "schema", "app"]).expect(0);
    assert_ne!(std::fs::read(project.file("docs/data/app.md")).unwrap(), document);
    project.write("docs/data/app.md", "# Written by hand\n");
    let refused = project.run(&["docs", "schema", "app"]).expect(1);
    assert!(refused.stderr.contains("another document"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(project.file("docs/data/app.md")).unwrap(), "# Written by hand\n");
}

/// A migration as people write it; what is run is the form that keeps nobody waiting.
#[tokio::test(flavor = "multi_thread")]
async fn schema_change_is_applied_in_its_safe_form() {
    let shop = Shop::new("rb_schema").await;
    let app = shop.as_app().await;
    app.batch_execute(
        "CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL);
         INSERT INTO orders SELECT i, i % 100 FROM generate_series(1, 20000) i; ANALYZE orders;",
    )
    .await
    .unwrap();
    shop.project.write(
        "migrations/shop/0001_by_customer.sql",
        "CREATE INDEX orders_customer ON orders (customer);\n-- steward: down\nDROP INDEX orders_customer;\n",
    );
    let report = shop.task("Context:\n  - store: shop\nTask:\n  - Apply migration 0001_by_customer.\n", 0);
    assert_eq!(report["status"], "done", "{report}");
    assert_eq!(states(&report, "apply"), ["done"], "{report}");
    let admin = shop.as_admin().await;
    let form: String = admin
        .query_one("SELECT form FROM steward.steward_migrations WHERE name = '0001_by_customer'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(form.contains("CREATE INDEX CONCURRENTLY orders_customer ON orders"), "{form}");
    until(&admin, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_customer'::regclass").await;
    let summary = &report["migrations"][0]["summary"];
    assert_eq!(summary["downtime"], "none", "{report}");
    // The file is the one migration that was asked for: nothing is left to do, in either form.
    let done = tokio::task::block_in_place(|| shop.project.run(&["migration", "apply", "shop"])).expect(0);
    assert!(done.stdout.contains("nothing to apply"), "{}", done.stdout);
    drop((app, admin));
    shop.drop().await;
}
