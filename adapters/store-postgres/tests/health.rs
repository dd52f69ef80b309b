//! Seeded faults, each found by its own code; and nothing found where nothing is wrong.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

#[allow(dead_code, reason = "the other suite uses the rest")]
mod server;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use contract::{
    Actor, Context, ErrorKind, HealthArea, HealthCheck, HealthScope, Seen, Severity, Store, Trigger,
};
use server::Database;
use store_postgres::{LoginConfig, PostgresStore};
use tokio_postgres::{Client, NoTls};

/// Longest wait for statistics to arrive; on an idle machine it is under a second.
const PATIENCE: Duration = Duration::from_secs(90);

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

async fn health(store: &PostgresStore, scope: &HealthScope) -> Vec<HealthCheck> {
    store.health().unwrap().check_health(&ctx(), scope).await.unwrap()
}

/// A transaction is too old at once, so that no test has to wait for one.
fn impatient() -> HealthScope {
    HealthScope { transaction_max: Duration::ZERO, ..HealthScope::default() }
}

fn found(checks: &[HealthCheck]) -> Vec<(String, String)> {
    let findings = checks.iter().flat_map(|check| &check.findings);
    findings.map(|finding| (finding.code.clone(), finding.object.clone())).collect()
}

fn has(checks: &[HealthCheck], fault: &Fault, database: &str) -> bool {
    let of = fault.object.replace("{db}", database);
    found(checks).iter().any(|(code, object)| code == fault.code && object.contains(&of))
}

/// A fault, how it is made, and the code that must find it.
struct Fault {
    code: &'static str,
    /// Part of the object's name.
    object: &'static str,
    /// Statements of the superuser in the database; `{db}` is its name.
    seed: &'static [&'static str],
    from: i32,
}

const fn fault(code: &'static str, object: &'static str, seed: &'static [&'static str]) -> Fault {
    Fault { code, object, seed, from: 0 }
}

/// Everything that can be wrong in one database.
const IN_THE_DATABASE: &[Fault] = &[
    fault(
        "dead_rows",
        "public.dead",
        &[
            "CREATE TABLE dead (id int PRIMARY KEY) WITH (autovacuum_enabled = off)",
            "INSERT INTO dead SELECT generate_series(1, 30000)",
            "ANALYZE dead",
            "DELETE FROM dead WHERE id > 5000",
        ],
    ),
    fault("autovacuum_off_for_table", "public.dead", &[]),
    fault(
        "never_analyzed",
        "public.unknown",
        &[
            "CREATE TABLE unknown (id int PRIMARY KEY) WITH (autovacuum_enabled = off)",
            "INSERT INTO unknown SELECT generate_series(1, 3000)",
        ],
    ),
    fault(
        "statistics_stale",
        "public.stale",
        &[
            "CREATE TABLE stale (id int PRIMARY KEY) WITH (autovacuum_enabled = off)",
            "INSERT INTO stale SELECT generate_series(1, 1000)",
            "ANALYZE stale",
            "INSERT INTO stale SELECT generate_series(1001, 15000)",
        ],
    ),
    fault(
        "never_vacuumed",
        "public.raw",
        &[
            "CREATE TABLE raw (id int PRIMARY KEY) WITH (autovacuum_enabled = off)",
            "INSERT INTO raw SELECT generate_series(1, 110000)",
            "ANALYZE raw",
        ],
    ),
    fault(
        "table_bloat",
        "public.swollen",
        &[
            "CREATE TABLE swollen (id int PRIMARY KEY, note text) WITH (autovacuum_enabled = off)",
            "INSERT INTO swollen SELECT n, md5(n::text) || md5(n::text) || md5(n::text) FROM generate_series(1, 150000) n",
            "CREATE INDEX swollen_note ON swollen (note)",
            "DELETE FROM swollen WHERE id % 10 <> 0",
            "VACUUM (ANALYZE) swollen",
        ],
    ),
    fault("index_bloat", "swollen_note", &[]),
    fault(
        "table_bloat_measured",
        "public.swollen",
        &["CREATE EXTENSION pgstattuple", "GRANT pg_stat_scan_tables TO {db}_reader"],
    ),
    fault("extension_update_available", "hstore", &["CREATE EXTENSION hstore VERSION '1.4'"]),
    fault(
        "index_duplicate",
        "public.twice_b",
        &[
            "CREATE TABLE indexed (id int PRIMARY KEY, a int, b int, c text)",
            "CREATE INDEX twice_a ON indexed (a, b)",
            "CREATE INDEX twice_b ON indexed (a, b)",
            "INSERT INTO indexed SELECT n, n, n, repeat('x', 60) || n FROM generate_series(1, 20000) n",
            "ANALYZE indexed",
        ],
    ),
    fault("index_redundant", "public.prefix", &["CREATE INDEX prefix ON indexed (a)"]),
    fault("index_unused", "public.never", &["CREATE INDEX never ON indexed (c)", "ANALYZE indexed"]),
    fault(
        "foreign_key_without_index",
        "public.child.child_parent_fkey",
        &[
            "CREATE TABLE parent (id bigint PRIMARY KEY)",
            "INSERT INTO parent SELECT generate_series(1, 2000)",
            "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)",
            "INSERT INTO child SELECT n, n FROM generate_series(1, 2000) n",
            "ANALYZE child",
        ],
    ),
    fault("foreign_key_type_differs", "public.child.parent", &[]),
    fault("no_primary_key", "public.keyless", &["CREATE TABLE keyless (id int)"]),
    fault(
        "published_table_without_identity",
        "public.keyless",
        &["CREATE PUBLICATION everything FOR TABLE keyless"],
    ),
    fault(
        "constraint_not_validated",
        "public.parent.positive",
        &["ALTER TABLE parent ADD CONSTRAINT positive CHECK (id > 0) NOT VALID"],
    ),
    Fault {
        code: "constraint_not_enforced",
        object: "public.parent.small",
        seed: &["ALTER TABLE parent ADD CONSTRAINT small CHECK (id < 1000000) NOT ENFORCED"],
        from: 180_000,
    },
    fault(
        "foreign_key_switched_off",
        "public.loose.loose_parent_fkey",
        &[
            "CREATE TABLE loose (id int PRIMARY KEY, parent bigint REFERENCES parent)",
            "CREATE INDEX loose_parent ON loose (parent)",
            "ALTER TABLE loose DISABLE TRIGGER ALL",
        ],
    ),
    fault(
        "trigger_disabled",
        "public.watched.note_it",
        &[
            "CREATE TABLE watched (id int PRIMARY KEY)",
            "CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER note_it BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION note_it()",
            "ALTER TABLE watched DISABLE TRIGGER note_it",
        ],
    ),
    fault("table_unlogged", "public.hasty", &["CREATE UNLOGGED TABLE hasty (id int PRIMARY KEY)"]),
    fault(
        "sequence_near_end",
        "public.tickets",
        &["CREATE SEQUENCE tickets MAXVALUE 1000", "SELECT setval('tickets', 950)"],
    ),
    fault(
        "integer_key_near_end",
        "numbered.id",
        &[
            "CREATE TABLE numbered (id int PRIMARY KEY)",
            "CREATE SEQUENCE numbers OWNED BY numbered.id",
            "SELECT setval('numbers', 1800000000)",
            "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {db}_reader",
        ],
    ),
    fault(
        "collation_version_changed",
        "german",
        &[
            "CREATE COLLATION german (provider = icu, locale = 'de')",
            "CREATE TABLE words (word text COLLATE german PRIMARY KEY)",
            "UPDATE pg_collation SET collversion = '1.0' WHERE collname = 'german'",
        ],
    ),
    fault("public_may_create", "public", &["GRANT CREATE ON SCHEMA public TO PUBLIC"]),
    fault("public_may_read", "public.parent", &["GRANT SELECT ON parent TO PUBLIC"]),
    fault("public_may_write", "public.child", &["GRANT SELECT, UPDATE ON child TO PUBLIC"]),
    fault(
        "security_definer_without_search_path",
        "become",
        &["CREATE FUNCTION become() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'"],
    ),
    fault("row_security_off", "public.watched", &["CREATE POLICY own ON watched USING (id = 1)"]),
    fault("superuser_login", "{db}_boss", &["CREATE ROLE {db}_boss LOGIN SUPERUSER"]),
    fault("role_creates_roles", "{db}_maker", &["CREATE ROLE {db}_maker LOGIN CREATEROLE"]),
    fault("role_bypasses_row_security", "{db}_seer", &["CREATE ROLE {db}_seer LOGIN BYPASSRLS"]),
    fault("role_replicates", "{db}_copier", &["CREATE ROLE {db}_copier LOGIN REPLICATION"]),
    fault(
        "role_reaches_server_files",
        "{db}_reacher",
        &["CREATE ROLE {db}_reacher LOGIN", "GRANT pg_read_server_files TO {db}_reacher"],
    ),
    fault("login_expired", "{db}_gone", &["CREATE ROLE {db}_gone LOGIN VALID UNTIL '2020-01-01'"]),
    fault(
        "temporary_files",
        "",
        &["SET work_mem = '64kB'; SET max_parallel_workers_per_gather = 0; \
             SELECT count(*) FROM (SELECT md5(n::text) AS word FROM generate_series(1, 1000000) n ORDER BY 1 OFFSET 1) x; \
             SELECT count(*) FROM (SELECT md5(n::text) AS word FROM generate_series(1, 1000000) n ORDER BY 1 OFFSET 1) x"],
    ),
    // What follows changes what new sessions do, so it comes last.
    fault("synchronous_commit_off", "", &["ALTER DATABASE {db} SET synchronous_commit = off"]),
    fault("password_encryption_md5", "", &["ALTER DATABASE {db} SET password_encryption = 'md5'"]),
    fault("statements_logged", "", &["ALTER DATABASE {db} SET log_statement = 'all'"]),
    fault("planner_switched_off", "enable_indexscan", &["ALTER DATABASE {db} SET enable_indexscan = off"]),
    fault("damaged_pages_zeroed", "", &["ALTER DATABASE {db} SET zero_damaged_pages = on"]),
    fault("checksum_failures_ignored", "", &["ALTER DATABASE {db} SET ignore_checksum_failure = on"]),
    fault("constraints_bypassed", "", &["ALTER DATABASE {db} SET session_replication_role = replica"]),
    fault("work_mem_exceeds_memory", "", &["ALTER DATABASE {db} SET work_mem = '1000GB'"]),
    fault("effective_cache_size_small", "", &["ALTER DATABASE {db} SET effective_cache_size = '8MB'"]),
    fault(
        "constraints_bypassed",
        "{db}_maker",
        &["ALTER ROLE {db}_maker IN DATABASE {db} SET session_replication_role = replica"],
    ),
    fault("activity_hidden", "", &["ALTER DATABASE {db} SET track_activities = off"]),
    fault("statistics_off", "", &["ALTER DATABASE {db} SET track_counts = off"]),
];

/// What sessions do to each other, and what a superuser sees.
const BY_SESSIONS: &[&str] = &[
    "index_invalid",
    "idle_in_transaction",
    "long_transaction",
    "lock_wait",
    "deadlocks",
    "superuser_at_work",
    "role_connections_near_limit",
    "database_connections_near_limit",
];

async fn version(database: &Database) -> i32 {
    database.text("SELECT current_setting('server_version_num')").await.parse().unwrap()
}

async fn database(case: &str) -> Database {
    let database = Database::create(&conformance::namespace(case)).await;
    database
        .superuser(&format!(
            "GRANT pg_read_all_stats TO {reader}; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {reader}",
            reader = database.reader()
        ))
        .await;
    database
}

/// Two sessions that lock two rows in different order.
async fn deadlock(database: &Database) {
    database.superuser("CREATE TABLE pair (id int PRIMARY KEY); INSERT INTO pair VALUES (1), (2)").await;
    let (a, b) = (database.connect_as_superuser().await, database.connect_as_superuser().await);
    for (client, id) in [(&a, 1), (&b, 2)] {
        client
            .batch_execute(&format!(
                "SET deadlock_timeout = '20ms'; BEGIN; UPDATE pair SET id = id WHERE id = {id}"
            ))
            .await
            .unwrap();
    }
    let (first, second) = tokio::join!(
        a.batch_execute("UPDATE pair SET id = id WHERE id = 2; COMMIT"),
        b.batch_execute("UPDATE pair SET id = id WHERE id = 1; COMMIT")
    );
    assert!(first.is_err() != second.is_err(), "one of them has to give way: {first:?} {second:?}");
}

/// The wait is there before this returns.
async fn wait_for_lock(database: &Database, waiters: i64) {
    let client = database.connect_as_superuser().await;
    let started = Instant::now();
    loop {
        let sql = "SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
                   WHERE NOT l.granted AND a.datname = current_database()";
        let row = client.query_one(sql, &[]).await.unwrap();
        if row.get::<_, i64>(0) >= waiters {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "nobody waits for a lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn login(database: &Database, user: &str, password: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(server::port().parse().unwrap()).dbname(database.name());
    let (client, connection) = config.user(user).password(password).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_seeded_fault_of_a_database_is_found_by_its_own_code() {
    let database = database("faults").await;
    let store = database.store();
    let name = database.name();
    let version = version(&database).await;
    let faults: Vec<&Fault> = IN_THE_DATABASE.iter().filter(|fault| version >= fault.from).collect();

    let before = health(&store, &impatient()).await;
    for fault in &faults {
        assert!(!has(&before, fault, &name) || fault.object.is_empty(), "{} before it was there", fault.code);
    }
    for fault in &faults {
        for sql in fault.seed {
            database.superuser(&sql.replace("{db}", &name)).await;
        }
    }
    let started = Instant::now();
    let checks = loop {
        // Sessions report what they did when they end, or a second later.
        let checks = health(&store, &impatient()).await;
        let missing: Vec<_> =
            faults.iter().filter(|fault| !has(&checks, fault, &name)).map(|f| f.code).collect();
        if missing.is_empty() {
            break checks;
        }
        assert!(started.elapsed() < PATIENCE, "not found: {missing:?}\nfound: {:#?}", found(&checks));
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    for check in &checks {
        assert!(!check.statement.contains("{tables}"), "{}", check.statement);
        for finding in &check.findings {
            assert!(!finding.fix.is_empty() && !finding.title.is_empty(), "{finding:?}");
        }
    }
    eprintln!("{} faults of a database seeded and found on {version}", faults.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sessions_do_to_each_other_is_found() {
    let database = database("sessions").await;
    let (store, name) = (database.store(), database.name());
    let started = Instant::now();
    loop {
        let before: BTreeSet<String> =
            found(&health(&store, &impatient()).await).into_iter().map(|f| f.0).collect();
        // The session that made the database may still be counted by the server.
        let there: Vec<_> = BY_SESSIONS.iter().filter(|code| before.contains(**code)).collect();
        if there.is_empty() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{there:?} before they were there");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    database
        .superuser(&format!(
            "CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'x'), (2, 'x'); \
             CREATE ROLE {name}_app LOGIN PASSWORD 'for-the-test' CONNECTION LIMIT 1"
        ))
        .await;
    let client = database.connect_as_superuser().await;
    client.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON orders (note)").await.unwrap_err();
    deadlock(&database).await;
    let app = login(&database, &format!("{name}_app"), "for-the-test").await;
    app.batch_execute("SELECT 1").await.unwrap();

    let idle = database.connect_as_superuser().await;
    idle.batch_execute("BEGIN; LOCK TABLE orders").await.unwrap();
    let waiting = database.connect_as_superuser().await;
    let wait = tokio::spawn(async move { waiting.batch_execute("SELECT count(*) FROM orders").await });
    wait_for_lock(&database, 1).await;
    database.superuser(&format!("ALTER DATABASE {name} CONNECTION LIMIT 5")).await;

    let started = Instant::now();
    let checks = loop {
        // A session that has just been closed may still be counted by the server, and no place be left for this one.
        let checks = match store.health().unwrap().check_health(&ctx(), &impatient()).await {
            Err(error) if error.kind() == ErrorKind::Unavailable && started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            checks => checks.unwrap(),
        };
        let codes: BTreeSet<String> = found(&checks).into_iter().map(|f| f.0).collect();
        let missing: Vec<_> = BY_SESSIONS.iter().filter(|code| !codes.contains(**code)).collect();
        if missing.is_empty() {
            break checks;
        }
        assert!(started.elapsed() < PATIENCE, "not found: {missing:?}\nfound: {codes:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    // The size of a table that somebody has locked is not waited for.
    assert!(checks.iter().all(|check| check.name != "disk" || check.seen == Seen::All), "{checks:?}");
    // With five minutes of patience there is nothing to say yet.
    database.superuser(&format!("ALTER DATABASE {name} CONNECTION LIMIT -1")).await;
    let patient: Vec<String> =
        found(&health(&store, &HealthScope::default()).await).into_iter().map(|f| f.0).collect();
    assert!(
        !patient.iter().any(|code| code == "idle_in_transaction" || code == "long_transaction"),
        "{patient:?}"
    );

    // A queue of five is a pile-up, and the PM hears of it.
    let mut queue = Vec::new();
    for _ in 0..4 {
        let client = database.connect_as_superuser().await;
        queue.push(tokio::spawn(async move { client.batch_execute("SELECT count(*) FROM orders").await }));
    }
    wait_for_lock(&database, 5).await;
    let checks = health(&store, &HealthScope::default()).await;
    let pile_up =
        checks.iter().flat_map(|check| &check.findings).find(|finding| finding.code == "lock_queue");
    let pile_up = pile_up.unwrap_or_else(|| panic!("{checks:#?}"));
    assert_eq!(pile_up.escalate, Some(Trigger::PerformanceDegradation));
    assert!(pile_up.title.contains("keeps 5 sessions waiting"), "{}", pile_up.title);
    idle.batch_execute("ROLLBACK").await.unwrap();
    wait.await.unwrap().unwrap();
    for client in queue {
        client.await.unwrap().unwrap();
    }
    drop(app);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_and_rules_are_for_superusers_and_everyone_else_is_told() {
    let database = database("passwords").await;
    let name = database.name();
    database
        .superuser(&format!(
            "SET password_encryption = 'md5'; CREATE ROLE {name}_old LOGIN PASSWORD 'for-the-test'"
        ))
        .await;
    let scope =
        HealthScope { areas: vec![HealthArea::Logins, HealthArea::Encryption], ..HealthScope::default() };
    let checks = health(&database.store(), &scope).await;
    for name in ["passwords", "authentication_rules", "encryption_at_rest"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert!(matches!(check.seen, Seen::Nothing { .. }) && check.answer.is_none(), "{check:?}");
    }
    assert!(checks.iter().all(|check| scope.areas.contains(&check.area)), "only what was asked for");
    let superuser = LoginConfig { user: server::superuser(), password_secret: None };
    let store = database.store_with(|config| config.reader = superuser, &[]);
    let checks = health(&store, &scope).await;
    let found = found(&checks);
    assert!(found.contains(&("password_md5".into(), format!("{name}_old"))), "{found:?}");
    assert!(found.iter().any(|(code, _)| code == "authentication_trust"), "{found:?}");
    let text = format!("{checks:?}");
    assert!(!text.contains("SCRAM-SHA-256$") && !text.contains("md5") || !text.contains("for-the-test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_without_rights_is_told_what_it_cannot_see() {
    let database = Database::create(&conformance::namespace("blind")).await;
    database.admin("CREATE SEQUENCE hidden").await;
    let checks = health(&database.store(), &HealthScope::default()).await;
    for (name, hint) in [
        ("connections", "GRANT pg_read_all_stats"),
        ("transactions", "GRANT pg_read_all_stats"),
        ("lock_waits", "GRANT pg_read_all_stats"),
        ("replicas", "GRANT pg_read_all_stats"),
        ("sequences", "GRANT SELECT ON ALL SEQUENCES"),
        ("table_bloat_measured", "CREATE EXTENSION pgstattuple"),
        ("wal_directory", "GRANT pg_monitor"),
        ("passwords", "superuser"),
    ] {
        let check =
            checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check {name}"));
        let (Seen::Part { because } | Seen::Nothing { because }) = &check.seen else {
            panic!("{name} says that it sees everything");
        };
        assert!(because.contains(hint), "{name}: {because}");
    }
}

/// Codes that are about the server as a whole, which the tests share and which is fast rather than safe.
const OF_THE_SERVER: &[&str] = &[
    "fsync_off",
    "full_page_writes_off",
    "data_checksums_off",
    "checkpoints_requested",
    "superuser_login",
    "role_creates_roles",
    "role_bypasses_row_security",
    "role_reaches_server_files",
    "connections_near_limit",
    "shared_buffers_small",
];

/// What a careful team would make.
const WELL_MADE: &str = "
    CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, email text UNIQUE);
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer_id bigint NOT NULL REFERENCES customers,
        state text NOT NULL CHECK (state IN ('open', 'paid')),
        made_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX orders_customer ON orders (customer_id, made_at);
    CREATE INDEX orders_open ON orders (made_at) WHERE state = 'open';
    CREATE TABLE lines (
        order_id bigint NOT NULL REFERENCES orders, position int NOT NULL, price numeric(10, 2) NOT NULL,
        PRIMARY KEY (order_id, position)
    );
    CREATE TABLE events (id bigint NOT NULL, day date NOT NULL, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE VIEW open_orders WITH (security_invoker = true) AS SELECT * FROM orders WHERE state = 'open';
    INSERT INTO customers (name, email) SELECT 'customer ' || n, n || '@example.org' FROM generate_series(1, 5000) n;
    INSERT INTO orders (customer_id, state) SELECT 1 + n % 5000, 'paid' FROM generate_series(1, 50000) n;
    INSERT INTO lines SELECT n, p, 9.5 FROM generate_series(1, 50000) n, generate_series(1, 2) p;
    INSERT INTO events SELECT n, '2026-05-01' FROM generate_series(1, 5000) n;
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO READER;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_in_a_well_made_database() {
    let database = database("clean").await;
    database.admin(&WELL_MADE.replace("READER", &database.reader())).await;
    database.admin("VACUUM (ANALYZE)").await;
    let checks = health(&database.store(), &HealthScope::default()).await;
    let alarms: Vec<_> = checks
        .iter()
        .flat_map(|check| &check.findings)
        .filter(|finding| {
            finding.severity > Severity::Info && !OF_THE_SERVER.contains(&finding.code.as_str())
        })
        .collect();
    assert!(alarms.is_empty(), "{alarms:#?}");
}

/// Whether this run is about the version that the two servers below have; other runs have nothing to add.
fn about_17() -> bool {
    std::env::var("STEWARD_TEST_POSTGRES").is_ok_and(|version| version != "17")
}

/// A client of a server that is not shared, as its superuser.
async fn superuser_of(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The store whose reading login is the superuser, so that every check is made.
fn store_of(url: &str) -> PostgresStore {
    let mut url = url::Url::parse(url).unwrap();
    let user = url.username().to_owned();
    url.set_username("").unwrap();
    let config = store_postgres::Config::new(url.as_str(), LoginConfig { user, password_secret: None });
    store_postgres::open("orders", config, "/".as_ref(), std::sync::Arc::new(conformance::Secrets::new(&[])))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_a_well_made_server() {
    if about_17() {
        return;
    }
    let url = conformance::server("STEWARD_TEST_POSTGRES17SOUND_URL");
    let store = store_of(&url);
    let started = Instant::now();
    loop {
        let checks = health(&store, &HealthScope::default()).await;
        let alarms: Vec<_> = checks
            .iter()
            .flat_map(|check| &check.findings)
            // The test itself comes in as the superuser without a password.
            .filter(|finding| finding.severity > Severity::Info && finding.code != "authentication_trust")
            .collect();
        // A test of other requests may just be at work here.
        if alarms.is_empty() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{alarms:#?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Settings and states of a whole server, most of them wrong from its start.
const OF_A_SERVER: &[&str] = &[
    "data_checksums_off",
    "connections_near_limit",
    "prepared_transaction_forgotten",
    "slot_inactive",
    "slot_retains_wal",
    "synchronous_standby_missing",
    "archive_failing",
    "log_incomplete",
    "cache_hits_low",
    "checkpoints_requested",
    "wal_directory_large",
    "fsync_off",
    "full_page_writes_off",
    "autovacuum_off",
    "autovacuum_too_late",
    "freeze_too_late",
    "restart_pending",
    "tls_version_old",
    "authentication_trust",
    "password_in_the_clear",
    "encryption_not_demanded",
    "authentication_md5",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_a_server_is_found_by_its_own_code() {
    if about_17() {
        return;
    }
    let url = conformance::server("STEWARD_TEST_POSTGRES17ODD_URL");
    let client = superuser_of(&url).await;
    // A run that failed has left its transaction, which holds a lock.
    for row in client.query("SELECT gid FROM pg_prepared_xacts", &[]).await.unwrap() {
        client.batch_execute(&format!("ROLLBACK PREPARED '{}'", row.get::<_, String>(0))).await.unwrap();
    }
    for sql in [
        // What else an earlier run has left.
        "ALTER SYSTEM RESET max_slot_wal_keep_size",
        "ALTER SYSTEM RESET archive_command",
        "SELECT pg_reload_conf()",
        "DROP TABLE IF EXISTS wide, prepared",
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
        "SELECT pg_create_physical_replication_slot('forgotten', true)",
        "CREATE TABLE wide AS SELECT n AS id, repeat('x', 900) AS note FROM generate_series(1, 60000) n",
        "CREATE TABLE prepared (id int PRIMARY KEY)",
        "ALTER SYSTEM SET max_worker_processes = 11",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let store = store_of(&url);
    until_found(&store, HealthArea::Replication, "archive_without_command").await;
    for sql in ["ALTER SYSTEM SET archive_command = 'false'", "SELECT pg_reload_conf()"] {
        client.batch_execute(sql).await.unwrap();
    }
    let gid = conformance::namespace("prepared");
    client.batch_execute(&format!("BEGIN; LOCK TABLE prepared; PREPARE TRANSACTION '{gid}'")).await.unwrap();
    for _ in 0..12 {
        client
            .batch_execute("SELECT pg_logical_emit_message(true, 'health', repeat('x', 8000000)); CHECKPOINT")
            .await
            .unwrap();
        client.batch_execute("SET enable_indexscan = off; SELECT count(note) FROM wide").await.unwrap();
    }
    let mut many = Vec::new();
    for _ in 0..16 {
        many.push(superuser_of(&url).await);
    }
    let started = Instant::now();
    let checks = loop {
        let checks = health(&store, &impatient()).await;
        let codes: BTreeSet<String> = found(&checks).into_iter().map(|finding| finding.0).collect();
        let missing: Vec<_> = OF_A_SERVER.iter().filter(|code| !codes.contains(**code)).collect();
        if missing.is_empty() {
            break checks;
        }
        assert!(started.elapsed() < PATIENCE, "not found: {missing:?}\nfound: {codes:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    for (code, trigger) in [
        ("fsync_off", Trigger::DataLossRisk),
        ("full_page_writes_off", Trigger::DataLossRisk),
        ("archive_failing", Trigger::BackupFailure),
        ("synchronous_standby_missing", Trigger::PerformanceDegradation),
        ("authentication_trust", Trigger::SecurityViolation),
    ] {
        let escalated = checks
            .iter()
            .flat_map(|check| &check.findings)
            .any(|finding| finding.code == code && finding.escalate == Some(trigger));
        assert!(escalated, "{code}");
    }
    let rollback = format!("ROLLBACK PREPARED '{gid}'");
    client.batch_execute(&rollback).await.unwrap();
    // With a limit the server gives the log up, and with it whoever comes back for it.
    for sql in ["ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()"] {
        client.batch_execute(sql).await.unwrap();
    }
    let scope = HealthScope { areas: vec![HealthArea::Replication], ..HealthScope::default() };
    let lost = loop {
        // Which process reads the setting when is the server's affair; a checkpoint after that gives the log up.
        client.batch_execute("CHECKPOINT").await.unwrap();
        let checks = health(&store, &scope).await;
        let lost =
            checks.iter().flat_map(|check| &check.findings).find(|finding| finding.code == "slot_lost");
        if let Some(lost) = lost {
            break lost.clone();
        }
        assert!(started.elapsed() < PATIENCE, "no slot is lost: {:#?}", found(&checks));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((lost.object.as_str(), lost.severity), ("forgotten", Severity::Critical), "{lost:?}");
    for sql in [
        "SELECT pg_drop_replication_slot('forgotten')",
        "ALTER SYSTEM RESET max_slot_wal_keep_size",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
}

/// What years, and whoever set the server up, have done to it.
const OF_AN_AGED_SERVER: &[(&str, &str, Severity)] = &[
    // The database, and the one table that is as old.
    ("transaction_ids_run_out", "postgres", Severity::Critical),
    ("transaction_ids_run_out", "public.old", Severity::Critical),
    ("multixact_ids_run_out", "postgres", Severity::Critical),
    ("multixact_ids_run_out", "public.old", Severity::Critical),
    ("vacuum_held_back", "forgotten", Severity::Warning),
    ("archive_off", "", Severity::Info),
    ("wal_level_minimal", "wal_level", Severity::Warning),
    ("max_connections_high", "max_connections", Severity::Warning),
    ("log_incomplete", "", Severity::Info),
    ("no_timeouts", "statement_timeout, idle_in_transaction_session_timeout, lock_timeout", Severity::Info),
    ("freeze_too_late", "autovacuum_freeze_max_age", Severity::Warning),
    ("tls_off", "ssl", Severity::Info),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_ids_a_minimal_log_and_no_encryption_are_found_with_any_login() {
    if about_17() {
        return;
    }
    let url = conformance::server("STEWARD_TEST_POSTGRES17AGED_URL");
    let client = superuser_of(&url).await;
    let reader = conformance::namespace("aged");
    client
        .batch_execute(&format!(
            "CREATE ROLE {reader} LOGIN PASSWORD 'for-the-test' IN ROLE pg_read_all_stats"
        ))
        .await
        .unwrap();
    let mut address = url::Url::parse(&url).unwrap();
    address.set_username("").unwrap();
    let secret = Some("reader".to_owned());
    let config = store_postgres::Config::new(
        address.as_str(),
        LoginConfig { user: reader.clone(), password_secret: secret },
    );
    let secrets = std::sync::Arc::new(conformance::Secrets::new(&[("reader", "for-the-test")]));
    let as_reader = store_postgres::open("orders", config, "/".as_ref(), secrets).unwrap();
    for store in [store_of(&url), as_reader] {
        let checks = health(&store, &HealthScope::default()).await;
        let findings: Vec<_> = checks.iter().flat_map(|check| &check.findings).collect();
        for (code, object, severity) in OF_AN_AGED_SERVER {
            let finding = findings.iter().find(|found| found.code == *code && found.object == *object);
            let finding = finding.unwrap_or_else(|| panic!("no {code} of `{object}`: {findings:#?}"));
            assert_eq!(finding.severity, *severity, "{finding:?}");
            let escalates = *severity == Severity::Critical;
            assert_eq!(finding.escalate, escalates.then_some(Trigger::DataLossRisk), "{finding:?}");
        }
    }
    client.batch_execute(&format!("DROP ROLE {reader}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_without_its_primary_is_found_and_the_primarys_checks_say_why_they_are_not_made() {
    if about_17() {
        return;
    }
    let url = conformance::server("STEWARD_TEST_POSTGRES17ORPHAN_URL");
    let client = superuser_of(&url).await;
    client.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    let store = store_of(&url);
    let scope = HealthScope { areas: vec![HealthArea::Replication], ..HealthScope::default() };
    let codes = |checks: &[HealthCheck]| found(checks).into_iter().map(|f| f.0).collect::<BTreeSet<_>>();
    let checks = health(&store, &scope).await;
    assert!(
        codes(&checks).contains("standby_disconnected") && !codes(&checks).contains("replay_paused"),
        "{checks:?}"
    );
    for name in ["replication_slots", "replicas", "archiver"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        let Seen::Nothing { because } = &check.seen else { panic!("{check:?}") };
        assert!(because.contains("ask the primary"), "{because}");
    }
    client.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let checks = health(&store, &scope).await;
    assert!(codes(&checks).contains("replay_paused"), "{checks:?}");
    client.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    // Every other check works here too, or says why not.
    for check in health(&store, &HealthScope::default()).await {
        if let Seen::Nothing { because } = &check.seen {
            assert!(!because.contains("the server answers"), "{}: {because}", check.name);
        }
    }
}

/// The primary of the server that tests may damage, and a client of its standby.
async fn primary_and_standby() -> (String, Client, Client) {
    let url = conformance::server("STEWARD_TEST_POSTGRES17_BEHIND_URL");
    let primary = superuser_of(&url).await;
    let name: String =
        primary.query_one("SELECT application_name FROM pg_stat_replication", &[]).await.unwrap().get(0);
    let standby = superuser_of(&url_of_standby(&url, &name)).await;
    (url, primary, standby)
}

/// The address of a standby that calls itself `standby_PORT`.
fn url_of_standby(primary: &str, name: &str) -> String {
    let mut url = url::Url::parse(primary).unwrap();
    url.set_port(name.rsplit_once('_').unwrap().1.parse().ok()).unwrap();
    url.to_string()
}

async fn until_found(store: &PostgresStore, area: HealthArea, code: &str) -> contract::HealthFinding {
    let scope = HealthScope { areas: vec![area], ..HealthScope::default() };
    let started = Instant::now();
    loop {
        let checks = health(store, &scope).await;
        if let Some(finding) =
            checks.iter().flat_map(|check| &check.findings).find(|finding| finding.code == code)
        {
            return finding.clone();
        }
        assert!(started.elapsed() < PATIENCE, "no {code}: {:#?}", found(&checks));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_behind_and_a_slot_that_fills_the_disk_are_found() {
    if about_17() {
        return;
    }
    let (url, primary, standby) = primary_and_standby().await;
    let slot = conformance::namespace("slot");
    standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    primary
        .batch_execute(&format!("SELECT pg_create_physical_replication_slot('{slot}', true)"))
        .await
        .unwrap();
    // Each switch ends a segment of 16 MiB: 272 MiB, more than eight times max_wal_size.
    for _ in 0..17 {
        for sql in ["SELECT pg_logical_emit_message(true, 'health', 'x')", "SELECT pg_switch_wal()"] {
            primary.batch_execute(sql).await.unwrap();
        }
    }
    let store = store_of(&url);
    let retains = until_found(&store, HealthArea::Replication, "slot_retains_wal").await;
    assert_eq!((retains.object.as_str(), retains.escalate), (slot.as_str(), Some(Trigger::DataLossRisk)));
    let behind = until_found(&store, HealthArea::Replication, "replica_behind").await;
    assert!(behind.object.starts_with("standby_"), "{behind:?}");
    // The copy itself has the log and does not work it off.
    let copy = url_of_standby(&url, &behind.object);
    until_found(&store_of(&copy), HealthArea::Replication, "standby_behind").await;
    standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    primary.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_idle_connections_and_a_broken_rule_are_found() {
    if about_17() {
        return;
    }
    let (url, primary, _) = primary_and_standby().await;
    let name = conformance::namespace("damaged");
    primary.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let mut inside = url::Url::parse(&url).unwrap();
    inside.set_path(&name);
    let client = superuser_of(inside.as_str()).await;
    // The table's file gets other bytes in its third page, while none of it is in the server's memory: it was never read
    // in this database, which is made of the files of the first.
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT n AS id, 'value ' || n AS note FROM generate_series(1, 3000) n; \
             CREATE TABLE damage AS SELECT pg_relation_filepath('t') AS path, 0::oid AS object",
        )
        .await
        .unwrap();
    for sql in [
        "CHECKPOINT",
        "UPDATE damage SET object = lo_from_bytea(0, overlay(pg_read_binary_file(path) PLACING \
         decode(repeat('a5', 4000), 'hex') FROM 2 * 8192 + 2000))",
        "SELECT lo_export(object, current_setting('data_directory') || '/' || path) FROM damage",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    drop(client);
    let copy = format!("{name}_copy");
    let started = Instant::now();
    // The session that has just gone may still be seen.
    while let Err(error) =
        primary.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE {name} STRATEGY FILE_COPY")).await
    {
        assert!(started.elapsed() < PATIENCE, "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    inside.set_path(&copy);
    let client = superuser_of(inside.as_str()).await;
    let error = client.batch_execute("SELECT count(note) FROM t").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "XX001", "{error:?}");
    drop(client);

    let store = store_of(&url);
    let damaged = until_found(&store, HealthArea::Integrity, "checksum_failures").await;
    assert_eq!(damaged.escalate, Some(Trigger::DataCorruption), "{damaged:?}");

    let mut idle = Vec::new();
    for _ in 0..56 {
        idle.push(superuser_of(&url).await);
    }
    until_found(&store, HealthArea::Connections, "idle_connections").await;
    drop(idle);

    // A line that says nothing, in the file only: the server goes on with the rules that it has read.
    let rules: String =
        primary.query_one("SELECT pg_read_file(current_setting('hba_file'))", &[]).await.unwrap().get(0);
    let write = |text: &str| {
        format!(
            "DO $do$ BEGIN EXECUTE format('COPY (SELECT unnest(string_to_array(%L, chr(10)))) TO %L', $text${text}$text$, \
             current_setting('hba_file')); END $do$"
        )
    };
    primary.batch_execute(&write(&format!("{rules}host all all 127.0.0.1/99 trust"))).await.unwrap();
    until_found(&store, HealthArea::Logins, "authentication_rule_broken").await;
    primary.batch_execute(&write(rules.trim_end())).await.unwrap();
    for database in [&copy, &name] {
        primary.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await.unwrap();
    }
}
