//! The same questions asked of the server itself, through a pooler that shares its sessions, and of a standby: the
//! answers are the same, and where they cannot be, they say so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::live::{Live, connect};

/// Longest wait for something that surely comes; far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Areas of health that are about the whole server or the moment: other tests are at work there too.
const NOT_OF_THE_DATABASE: &[&str] = &["connections", "sessions", "cache", "logins", "replication"];

/// What consistency, compare and health must find in a database that is otherwise in order.
const TROUBLE: &str = "
    CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, total numeric(12, 2));
    CREATE TABLE orders_copy (LIKE orders INCLUDING ALL);
    CREATE TABLE keyless (note text);
    CREATE TYPE mood AS ENUM ('calm', 'tense');
    CREATE TABLE moods (id int PRIMARY KEY, mood mood); INSERT INTO moods VALUES (1, 'calm');
    CREATE INDEX orders_total ON orders (total);
    CREATE INDEX orders_total_again ON orders (total);
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 2000) AS n;
    INSERT INTO orders SELECT n, 1 + n % 2003, n / 7.0 FROM generate_series(1, 20000) AS n;
    INSERT INTO orders_copy SELECT * FROM orders WHERE id <> 4711;
    UPDATE orders_copy SET total = total + 1 WHERE id = 17;
    ALTER TABLE orders ADD CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES customers NOT VALID;
    ALTER TABLE orders SET (autovacuum_enabled = off);
    CREATE SEQUENCE tickets MAXVALUE 1000; SELECT setval('tickets', 950);";

impl Live {
    /// The trouble, and the extensions that the questions go to.
    async fn with_trouble(server: String, case: &str) -> Self {
        let live = Self::new(server, case).await;
        let owner = live.application().await;
        // What was changed is counted before the planner looks, so that it does not count as changed since.
        for sql in [TROUBLE, "SELECT pg_stat_force_next_flush()", "ANALYZE"] {
            owner.batch_execute(sql).await.unwrap();
        }
        let name = &live.name;
        live.session()
            .await
            .batch_execute(&format!(
                "CREATE EXTENSION pg_stat_statements; CREATE EXTENSION amcheck; GRANT SELECT ON SEQUENCE tickets TO \
                 {name}_reader; ALTER DATABASE {name} SET work_mem = '1000GB'"
            ))
            .await
            .unwrap();
        live
    }

    /// Adds the store `other`: the same database and logins at another address. `more`: further logins.
    fn add_other(&self, address: &str, more: &str) {
        let yaml = std::fs::read_to_string(self.project.file("steward.yaml")).unwrap();
        self.project.write(
            "steward.yaml",
            format!(
                "{yaml}  other:\n    kind: postgres\n    url: postgres://{address}/{name}\n    reader: {{ user: \
                 {name}_reader, password_secret: app/reader }}\n    writer: {{ user: {name}_writer, password_secret: \
                 app/writer }}\n{more}",
                name = self.name
            ),
        );
    }

    /// The answer about a store.
    async fn ask(&self, request: &str, store: &str) -> Value {
        let table = format!("{store}.orders");
        let args = match request {
            "compare" => vec!["store", request, &table, "app.orders_copy", "--json"],
            _ => vec!["store", request, store, "--json"],
        };
        let answer = self.run(&args).await;
        assert!([0, 5].contains(&answer.code), "{args:?}: {answer:?}");
        answer.json()
    }

    /// Both answers to each of these requests, as [`comparable`] makes them, must be one.
    async fn same(&self, requests: &[&str]) {
        for request in requests {
            let (direct, other) = (self.ask(request, "app").await, self.ask(request, "other").await);
            let (of_direct, of_other) = (comparable(request, &direct), comparable(request, &other));
            assert_eq!(of_direct, of_other, "{request}\n{direct:#}\n{other:#}");
        }
    }
}

/// `code`, `object` and `severity` of each finding that is about the database itself.
fn findings(answer: &Value) -> Vec<String> {
    let mut areas: BTreeMap<&str, &str> = BTreeMap::new();
    for check in answer["value"]["checks"].as_array().into_iter().flatten() {
        for code in check["findings"].as_array().into_iter().flatten() {
            areas.insert(code.as_str().unwrap(), check["area"].as_str().unwrap());
        }
    }
    let found = answer["findings"].as_array().into_iter().flatten();
    let mut found: Vec<String> = found
        .filter(|finding| {
            let code = finding["code"].as_str().unwrap();
            // What a server was told and waits for its restart is its own.
            let of_the_server = areas.get(code).is_some_and(|area| NOT_OF_THE_DATABASE.contains(area));
            !of_the_server && code != "restart_pending"
        })
        .map(|finding| format!("{} {} {}", finding["code"], finding["object"], finding["severity"]))
        .collect();
    found.sort();
    found
}

/// Name of each check of health, and why it was not made, or not whole.
fn seen(answer: &Value) -> BTreeMap<&str, &str> {
    let checks = answer["value"]["checks"].as_array().unwrap_or_else(|| panic!("{answer}"));
    checks
        .iter()
        .map(|check| (check["name"].as_str().unwrap(), check["because"].as_str().unwrap_or_default()))
        .collect()
}

/// What of an answer does not depend on the way to the server and on the moment.
fn comparable(request: &str, answer: &Value) -> Value {
    let mut value = answer["value"].clone();
    match request {
        "health" => json!({"findings": findings(answer), "seen": seen(answer)}),
        "slow" => {
            let statements = value["statements"].as_array().unwrap_or_else(|| panic!("{answer}"));
            // What Steward's administering login and the pooler's question for passwords ran is counted too, and grows.
            let of_clients =
                statements.iter().filter(|one| one["text"].as_str().unwrap().contains("FROM customers"));
            let counted: BTreeMap<&str, &Value> =
                of_clients.map(|one| (one["text"].as_str().unwrap(), &one["calls"])).collect();
            json!(counted)
        }
        "compare" => {
            let comparison = &mut value["comparisons"][0];
            for key in ["left", "elapsed_ms", "evidence", "traffic_left", "traffic_right"] {
                comparison.as_object_mut().unwrap_or_else(|| panic!("{answer}")).remove(key);
            }
            comparison.clone()
        }
        "consistency" => {
            // Who counts the keys of unique indexes depends on whether the engine's own check could be made.
            for key in ["store", "integrity", "unique_by_rows"] {
                value.as_object_mut().unwrap().remove(key);
            }
            for orphans in value["orphans"].as_array_mut().unwrap() {
                orphans.as_object_mut().unwrap().remove("evidence");
            }
            let mut found = findings(answer);
            found.retain(|finding| !finding.contains("integrity_not_checked"));
            json!([value, found])
        }
        _ => {
            let sessions = value["sessions"].as_array().unwrap().iter();
            let sessions: Vec<Value> = sessions
                .map(|session| {
                    json!([session["pid"], session["statement"], session["blocked_by"], session["waits_for"]])
                })
                .collect();
            json!([value["tree"], sessions, findings(answer)])
        }
    }
}

/// Waits until somebody stands in the queue for a lock on the table.
async fn until_someone_waits(watcher: &Client, table: &str) {
    let waits =
        format!("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass");
    until(watcher, &waits).await;
}

async fn until(client: &Client, sql: &str) {
    let began = Instant::now();
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < PATIENCE, "never true: {sql}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn codes(answer: &Value) -> String {
    findings(answer).join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_through_a_pooler_are_those_of_the_server() {
    let live = Live::with_trouble(conformance::server("STEWARD_TEST_POSTGRES17_URL"), "between").await;
    let superuser = live.session().await;
    for n in 0..30 {
        superuser.simple_query(&format!("SELECT count(*) FROM customers WHERE name > '{n}'")).await.unwrap();
    }
    let pooler = conformance::server("STEWARD_TEST_PGBOUNCER_URL");
    let pooler = pooler.trim_start_matches("postgres://").trim_end_matches('/');
    live.add_other(pooler, "");
    for request in ["health", "slow", "consistency", "compare", "locks"] {
        // A value of a type that the driver does not know leaves statements behind in the session that is shared; they are
        // in nobody's way.
        live.run(&["store", "query", "other", "SELECT mood FROM moods"]).await.expect(0);
        live.same(&[request]).await;
    }

    // The trouble was found at all, and what cannot be had this way says what to do.
    let health = live.ask("health", "other").await;
    for code in [
        "no_primary_key",
        "index_duplicate",
        "sequence_near_end",
        "work_mem_exceeds_memory",
        "constraint_not_validated",
    ] {
        assert!(codes(&health).contains(code), "{code}: {health:#}");
    }
    let slow = comparable("slow", &live.ask("slow", "other").await);
    assert_eq!(slow, json!({"SELECT count(*) FROM customers WHERE name > $1": 30}));
    let consistency = live.ask("consistency", "other").await;
    assert_eq!(consistency["value"]["orphans"][0]["rows"], 27, "{consistency:#}");
    let unchecked =
        consistency["findings"].as_array().unwrap().iter().find(|one| one["code"] == "integrity_not_checked");
    assert!(unchecked.unwrap()["recommendation"].as_str().unwrap().contains("direct_url"), "{consistency:#}");
    assert_eq!(live.ask("consistency", "app").await["value"]["integrity"]["checked"], true);

    // While everybody waits for a lock, neither way hangs, and both name the same session.
    let holder = live.session().await;
    holder.batch_execute("BEGIN; LOCK TABLE keyless").await.unwrap();
    let waiting = live.session().await;
    let waiting = tokio::spawn(async move { waiting.batch_execute("SELECT count(*) FROM keyless").await });
    until_someone_waits(&superuser, "keyless").await;
    live.same(&["health", "locks"]).await;
    let locks = live.ask("locks", "other").await;
    assert_eq!(locks["value"]["tree"][0]["sessions_behind"], 1, "{locks:#}");
    assert!(codes(&locks).contains("blocking_session"), "{locks:#}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_a_standby_are_those_of_its_primary() {
    let url = conformance::server("STEWARD_TEST_POSTGRES17_STANDBY_URL");
    let port: String = connect(&url, "postgres")
        .await
        .query_one("SELECT substring(current_setting('primary_conninfo') FROM 'port=''?([0-9]+)')", &[])
        .await
        .unwrap()
        .get(0);
    let live = Live::with_trouble(format!("postgres://postgres@127.0.0.1:{port}/postgres"), "standby").await;
    let superuser = live.session().await;
    let arrived = async |client: &Client| {
        let written: String =
            superuser.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
        until(client, &format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")).await;
    };
    arrived(&connect(&url, "postgres").await).await;
    let standby = connect(&url, &live.name).await;
    let address = url.rsplit_once('@').unwrap().1.split('/').next().unwrap();
    live.add_other(address, "    admin: { user: postgres }\n");

    live.same(&["consistency", "compare", "locks"]).await;
    let consistency = live.ask("consistency", "other").await;
    assert_eq!(
        (&consistency["value"]["integrity"]["checked"], &consistency["value"]["orphans"][0]["rows"]),
        (&json!(true), &json!(27))
    );

    // Health with the reading login: the same trouble, and what only the primary knows is asked for there.
    let (of_primary, of_standby) = (live.ask("health", "app").await, live.ask("health", "other").await);
    assert_eq!(findings(&of_standby), findings(&of_primary), "{of_primary:#}\n{of_standby:#}");
    let (primary, standby_seen) = (seen(&of_primary), seen(&of_standby));
    for (name, because) in &standby_seen {
        let counted = ["replication_slots", "replicas", "archiver", "dead_rows", "statistics"].contains(name);
        let expected = if counted {
            "this server is a standby: ask the primary"
        } else {
            primary.get(name).unwrap_or(&"")
        };
        assert_eq!(*because, expected, "{name}");
    }
    for because in standby_seen.values().chain(primary.values()) {
        assert!(!because.contains("the server answers"), "{because}");
    }
    assert!(standby_seen.contains_key("standby") && !primary.contains_key("standby"));

    // Each server counts its own statements.
    for n in 0..7 {
        standby.simple_query(&format!("SELECT count(*) FROM customers WHERE name > '{n}'")).await.unwrap();
    }
    let slow = comparable("slow", &live.ask("slow", "other").await);
    assert_eq!(slow["SELECT count(*) FROM customers WHERE name > $1"], 7, "{slow:#}");
    assert!(
        comparable("slow", &live.ask("slow", "app").await)["SELECT count(*) FROM customers WHERE name > $1"]
            .is_null()
    );

    // A table whose rows are not copied is named and keeps nobody from the others.
    live.application()
        .await
        .batch_execute(
            "CREATE UNLOGGED TABLE hasty (id int PRIMARY KEY, customer_id bigint, label text NOT NULL UNIQUE); \
             INSERT INTO hasty VALUES (1, 1, 'x')",
        )
        .await
        .unwrap();
    arrived(&standby).await;
    let of_standby = live.ask("consistency", "other").await;
    assert_eq!(of_standby["value"]["not_checked"], json!(["hasty"]), "{of_standby:#}");
    assert_eq!(of_standby["value"]["orphans"][0]["rows"], 27, "{of_standby:#}");
    assert_eq!(live.ask("consistency", "app").await["value"]["not_checked"], json!([]));
    live.ask("health", "other").await;

    // A lock of the primary holds up readers of the standby: the server's own process is in front, and is left alone.
    let holder = live.session().await;
    holder.batch_execute("BEGIN; LOCK TABLE keyless").await.unwrap();
    superuser.batch_execute("CREATE TABLE flushed ()").await.unwrap();
    arrived(&standby).await;
    let reader = connect(&url, &live.name).await;
    let reader = tokio::spawn(async move { reader.batch_execute("SELECT count(*) FROM keyless").await });
    until_someone_waits(&standby, "keyless").await;
    let locks = live.ask("locks", "other").await;
    let blocking = &locks["findings"][0];
    assert_eq!(
        (&blocking["code"], &locks["value"]["tree"][0]["sessions_behind"]),
        (&json!("blocking_session"), &json!(1)),
        "{locks:#}"
    );
    assert!(
        blocking["recommendation"].as_str().unwrap().contains("works for the server itself"),
        "{locks:#}"
    );
    let health = live.ask("health", "other").await;
    assert!(codes(&health).contains("no_primary_key"), "{health:#}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    reader.await.unwrap().unwrap();
}
