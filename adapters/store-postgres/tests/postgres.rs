//! The shared store suite against a real PostgreSQL; below it, what only PostgreSQL does, and the faults.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and may print"
)]

mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conformance::{NoSecrets, Opened, change, permit_for};
use contract::{
    Actor, Context, Error, ErrorKind, Execution, Limits, Plan, PlanStep, Query, Rows, Statement, StepMode,
    StepState, Store, Truncation,
};
use serde_json::{Value, json};
use server::{
    Database, LARGE_OBJECTS_REFUSED_SINCE, OldServer, READER_SECRET, Relay, port, superuser, version,
};
use store_postgres::{LoginConfig, PostgresStore, Tls};

conformance::store_suite!(open);

async fn open(namespace: &str) -> Opened {
    Database::create(namespace).await.opened()
}

async fn database(case: &str) -> Database {
    Database::create(&conformance::namespace(case)).await
}

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

async fn query(store: &PostgresStore, sql: &str) -> Result<Rows, Error> {
    store.relational().unwrap().query(&ctx(), &Query::new(sql)).await
}

async fn refused(store: &PostgresStore, sql: &str) -> Error {
    match query(store, sql).await {
        Err(error) => error,
        Ok(rows) => panic!("this was not refused: {sql}\n{rows:?}"),
    }
}

fn step(id: &str, mode: StepMode, statements: &[&str]) -> PlanStep {
    PlanStep::new(id, id, mode, statements.iter().map(|sql| Statement::new(*sql)).collect())
}

fn plan(database: &Database, steps: Vec<PlanStep>) -> Plan {
    change(&database.opened_without_guard(), steps)
}

async fn begin<'a>(store: &'a PostgresStore, plan: &Plan) -> Result<Box<dyn Execution + 'a>, Error> {
    store.execute().unwrap().begin(&ctx(), &permit_for(&ctx(), plan), plan, Arc::new(NoSecrets)).await
}

async fn run(execution: &mut dyn Execution, plan: &Plan, index: usize) -> Result<u64, Error> {
    execution.run(&ctx(), &permit_for(&ctx(), plan), plan, index).await
}

// --- who is let in ---------------------------------------------------------

#[tokio::test]
async fn wrong_password_names_the_login_and_the_secret() {
    let database = database("wrong_password").await;
    let store = database.store_with(|_| {}, &[(READER_SECRET, "not the password")]);
    let error = store.probe(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let text = error.to_string();
    for part in [database.reader(), READER_SECRET.to_owned(), database.address()] {
        assert!(text.contains(&part), "`{part}` is missing: {text}");
    }
    assert!(!text.contains("not the password"), "{text}");

    let store = database.store_with(|config| config.reader.password_secret = None, &[]);
    let error = store.probe(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint_text().unwrap().contains("password_secret"), "{error}");

    let store = database.store_with(|_| {}, &[("another", "secret")]);
    assert_eq!(store.probe(&ctx()).await.unwrap_err().kind(), ErrorKind::NotFound, "there is no such secret");
}

#[tokio::test]
async fn dead_server_is_unavailable_and_named() {
    let database = database("dead").await;
    // A port of the system's that nothing listens on; one that was free a moment ago may be somebody's by now.
    let address = "127.0.0.1:1";
    let store = database.store_with(|config| config.url = format!("postgres://{address}/orders"), &[]);
    let error = store.probe(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(address), "{error}");
    assert_eq!(error.retry(), contract::Retry::Later);
}

#[tokio::test]
async fn silent_server_is_unavailable_after_the_connect_timeout() {
    let database = database("silent").await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://{}/orders", listener.local_addr().unwrap());
    let store = database.store_with(
        |config| {
            config.url = url;
            config.connect_timeout_ms = 200;
        },
        &[],
    );
    let error = store.probe(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn missing_database_is_not_found() {
    let database = database("missing").await;
    let store = database.store_with(|config| config.url = config.url.replace("/ct_", "/no_such_ct_"), &[]);
    let error = store.probe(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn too_old_server_is_unsupported() {
    let old = OldServer::start("9.4.26").await;
    let database = database("too_old").await;
    let store = database.store_with(|config| config.url = format!("postgres://{}/orders", old.address), &[]);
    let error = store.probe(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("too old") && error.message().contains("9.4.26"), "{error}");
}

#[tokio::test]
async fn logins_that_can_do_more_than_read_are_refused_for_queries() {
    let database = database("powerful").await;
    database.admin("CREATE TABLE t (id int)").await;
    let expect_refused = async |store: &PostgresStore, word: &str| {
        for error in [
            refused(store, "SELECT 1").await,
            store.relational().unwrap().explain(&ctx(), "SELECT 1").await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(error.message().contains(word), "{error}");
            assert!(error.hint_text().unwrap().contains("steward store setup"), "{error}");
        }
        store.relational().unwrap().inspect(&ctx()).await.expect("looking at the schema is allowed");
        store.probe(&ctx()).await.expect("and so is the probe");
    };
    let super_reader = LoginConfig { user: superuser(), password_secret: None };
    expect_refused(&database.store_with(|config| config.reader = super_reader, &[]), "superuser").await;
    let store = database.store_with(
        |config| {
            config.reader = config.writer.take().unwrap();
        },
        &[],
    );
    expect_refused(&store, "owns").await;
    let reader = database.reader();
    database.superuser(&format!("GRANT pg_read_server_files TO {reader}")).await;
    expect_refused(&database.store(), "pg_read_server_files").await;
    database.superuser(&format!("REVOKE pg_read_server_files FROM {reader}")).await;
    database.superuser(&format!("GRANT {} TO {reader}", database.writer())).await;
    expect_refused(&database.store(), "owns").await;
}

#[tokio::test]
async fn probe_tells_the_rights_of_both_logins() {
    let database = database("rights").await;
    database.admin("CREATE TABLE t (id int)").await;
    let probe = database.store().probe(&ctx()).await.unwrap();
    let server = database.text("SHOW server_version").await;
    assert_eq!(Some(&*probe.version), server.split(' ').next(), "{probe:?}");
    assert_eq!(probe.address, database.address());
    assert_eq!(probe.reader.user, database.reader());
    assert!(!probe.reader.superuser && !probe.reader.owner && !probe.reader.can_write, "{probe:?}");
    let writer = probe.writer.unwrap();
    assert!(
        writer.user == database.writer() && writer.owner && writer.can_write && !writer.superuser,
        "{writer:?}"
    );
    assert!(probe.read_only_by.contains("no right to write"), "{}", probe.read_only_by);
    database.superuser(&format!("GRANT UPDATE ON t TO {}", database.reader())).await;
    let probe = database.store().probe(&ctx()).await.unwrap();
    assert!(probe.reader.can_write && !probe.reader.owner, "{probe:?}");
}

// --- encryption ------------------------------------------------------------

#[tokio::test]
async fn tls_modes_do_what_they_say() {
    let database = database("tls").await;
    let ca = PathBuf::from(database.text("SHOW ssl_cert_file").await).with_file_name("ca.crt");
    let with = |tls, ca: Option<&PathBuf>, host: &str| {
        database.store_with(
            |config| {
                config.tls = tls;
                config.tls_ca_file = ca.cloned();
                config.url = config.url.replace("127.0.0.1", host);
            },
            &[],
        )
    };
    for (tls, ca, encrypted) in [
        (Some(Tls::Disable), None, false),
        (None, None, true),
        (Some(Tls::Prefer), None, true),
        (Some(Tls::Require), None, true),
        (Some(Tls::Verify), Some(&ca), true),
    ] {
        let probe = with(tls, ca, "127.0.0.1").probe(&ctx()).await;
        let probe = probe.unwrap_or_else(|error| panic!("{tls:?}: {error}"));
        assert_eq!(probe.encrypted, encrypted, "{tls:?}");
    }
    // An authority that we do not know, and a name that the certificate does not have.
    for (ca, host) in [(None, "127.0.0.1"), (Some(&ca), "localhost")] {
        let error = with(Some(Tls::Verify), ca, host).probe(&ctx()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound), "{error}");
        assert!(error.hint_text().unwrap().contains("tls_ca_file"), "{error}");
    }
    let missing = PathBuf::from("/no/such/ca.crt");
    let error = with(Some(Tls::Verify), Some(&missing), "127.0.0.1").probe(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("/no/such/ca.crt"), "{error}");
    let plain = OldServer::start("17.0").await;
    let store = database.store_with(
        |config| {
            config.url = format!("postgres://{}/orders", plain.address);
            config.tls = Some(Tls::Require);
        },
        &[],
    );
    let error = store.probe(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
}

// --- read-only is the engine's ---------------------------------------------

/// Every grant that a careless administrator may give, and still nothing is written.
#[tokio::test]
async fn granted_writes_are_refused_by_the_transaction() {
    let database = database("escapes").await;
    let reader = database.reader();
    database
        .admin(
            "CREATE TABLE victim (id int PRIMARY KEY, name text); INSERT INTO victim VALUES (1, 'one'); \
             CREATE SEQUENCE s; CREATE MATERIALIZED VIEW m AS SELECT * FROM victim; \
             CREATE FUNCTION wipe() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM victim; RETURN 1; END'; \
             CREATE FUNCTION wipe_as_owner() RETURNS int LANGUAGE plpgsql SECURITY DEFINER \
               AS 'BEGIN DELETE FROM victim; RETURN 1; END'; \
             CREATE FUNCTION leave() RETURNS int LANGUAGE plpgsql AS \
               $$ BEGIN PERFORM set_config('transaction_read_only', 'off', true); DELETE FROM victim; RETURN 1; END $$; \
             CREATE PROCEDURE commit_and_wipe(INOUT x int) LANGUAGE plpgsql AS \
               $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; DELETE FROM victim; END $$;",
        )
        .await;
    database
        .superuser(&format!(
            "CREATE EXTENSION dblink; GRANT ALL ON ALL TABLES IN SCHEMA public TO {reader}; \
             GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {reader}; GRANT ALL ON SCHEMA public TO {reader}; \
             GRANT TEMP, CREATE ON DATABASE {} TO {reader}",
            database.name()
        ))
        .await;
    let store = database.store();
    let connection = format!("host=127.0.0.1 port={} dbname={} user=postgres", port(), database.name());
    let mut attacks: Vec<String> = [
        "DELETE FROM victim",
        "DELETE FROM victim RETURNING id",
        "WITH gone AS (DELETE FROM victim RETURNING id) SELECT * FROM gone",
        "MERGE INTO victim USING (SELECT 1 AS i) AS x ON id = i WHEN MATCHED THEN DELETE",
        "TRUNCATE victim",
        "EXPLAIN ANALYZE DELETE FROM victim",
        "SELECT wipe()",
        "SELECT wipe_as_owner()",
        "SELECT leave()",
        "CALL commit_and_wipe(1)",
        "DO $$ BEGIN COMMIT; DELETE FROM victim; END $$",
        "DO $$ BEGIN EXECUTE 'DELETE FROM victim'; END $$",
        "SELECT query_to_xml('DELETE FROM victim RETURNING id', true, false, '')",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT set_config('transaction_read_only', 'off', true), wipe()",
        "SET transaction_read_only = off",
        "SET TRANSACTION READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET default_transaction_read_only = off",
        "RESET ALL",
        "START TRANSACTION READ WRITE",
        "COMMIT AND CHAIN",
        "PREPARE TRANSACTION 'x'",
        "PREPARE x AS DELETE FROM victim",
        "EXECUTE x",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT nextval('s')",
        "SELECT setval('s', 100)",
        "SELECT * FROM victim FOR UPDATE",
        "SELECT * FROM victim FOR KEY SHARE",
        "LOCK TABLE victim",
        "SELECT * INTO another FROM victim",
        "CREATE TABLE another AS SELECT 1",
        "CREATE TEMP TABLE victim (id int)",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "REFRESH MATERIALIZED VIEW m",
        "GRANT ALL ON victim TO PUBLIC",
        "CREATE ROLE another SUPERUSER",
        "ALTER ROLE CURRENT_USER SET default_transaction_read_only = off",
        "ALTER SYSTEM SET fsync = on",
        "COPY victim FROM PROGRAM 'echo 2'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY victim TO '/tmp/steward_escape'",
        "COPY victim FROM STDIN",
        "COPY victim TO STDOUT",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_read_binary_file('PG_VERSION')",
        "SELECT pg_ls_dir('.')",
        "SELECT pg_stat_file('.')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_unlink(1)",
        "SELECT pg_reload_conf()",
        "SELECT pg_rotate_logfile()",
        "SELECT pg_switch_wal()",
        "SELECT pg_create_restore_point('x')",
        "SELECT pg_promote()",
        "SELECT pg_create_physical_replication_slot('x')",
        "SELECT pg_stat_reset()",
        "SELECT pg_export_snapshot(), wipe()",
        "NOTIFY x",
        "LISTEN x",
        "LOAD '/tmp/x.so'",
        "VACUUM victim",
        "CLUSTER victim USING victim_pkey",
        "REINDEX TABLE victim",
        "COMMENT ON TABLE victim IS 'x'",
        "SECURITY LABEL ON TABLE victim IS 'x'",
        "IMPORT FOREIGN SCHEMA x FROM SERVER y INTO public",
        "SELECT 1; DELETE FROM victim",
        "SELECT 1 \\; DELETE FROM victim",
        "SELECT 1\n;\nCOMMIT;\nDELETE FROM victim",
    ]
    .map(String::from)
    .to_vec();
    attacks.extend([
        format!("SELECT dblink_exec('{connection}', 'DELETE FROM victim')"),
        format!("SELECT * FROM dblink('{connection}', 'DELETE FROM victim RETURNING id') AS t (id int)"),
        format!("SELECT dblink_connect_u('{connection}')"),
    ]);
    for sql in ["SELECT lo_create(0)", "SELECT lo_from_bytea(0, '\\x00')"] {
        if version() >= LARGE_OBJECTS_REFUSED_SINCE {
            attacks.push(sql.into());
        } else {
            query(&store, sql).await.expect("refused only by later versions");
        }
    }
    for sql in &attacks {
        let error = refused(&store, sql).await;
        assert!(error.kind() != ErrorKind::Other, "{sql}: {error:?}");
        let left = query(&store, "SELECT count(*), max(name) FROM victim").await;
        assert_eq!(left.expect(sql).rows, [[json!(1), json!("one")]], "{sql}");
    }
    let own = "SELECT format('%s/%s', last_value, is_called) FROM s";
    assert_eq!(database.text(own).await, "1/f", "the sequence has not moved");
    let large = "SELECT count(*)::text FROM pg_largeobject_metadata";
    assert_eq!(database.text(large).await, "0", "no large object is left");
}

/// What a reader can still do: nothing of it lasts beyond its query.
#[tokio::test]
async fn nothing_of_a_query_lasts_in_its_session() {
    let database = database("lasting").await;
    let mut config_connections = 0;
    let store = database.store_with(
        |config| {
            config.connections_max = 1;
            config_connections = config.connections_max;
        },
        &[],
    );
    assert_eq!(config_connections, 1, "both queries use one session");
    query(&store, "SELECT pg_advisory_lock(42), pg_advisory_lock_shared(43)").await.unwrap();
    query(&store, "SELECT set_config('default_transaction_read_only', 'off', false)").await.unwrap();
    query(&store, "SELECT set_config('search_path', 'pg_temp', false)").await.unwrap();
    query(&store, "SELECT set_config('statement_timeout', '1', false)").await.unwrap();
    query(&store, "SELECT pg_notify('channel', 'text')").await.unwrap();
    let rows = query(
        &store,
        "SELECT count(*) FILTER (WHERE locktype = 'advisory'), current_setting('default_transaction_read_only'), \
                current_setting('search_path') LIKE '%public%', current_setting('transaction_read_only') \
         FROM pg_locks WHERE pid = pg_backend_pid()",
    )
    .await
    .unwrap();
    assert_eq!(rows.rows, [[json!(0), json!("on"), json!(true), json!("on")]]);
}

#[tokio::test]
async fn other_sessions_cannot_be_ended_from_a_query() {
    let database = database("terminate").await;
    let store = database.store();
    let victim = database.connect_as_superuser().await;
    let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    for function in ["pg_terminate_backend", "pg_cancel_backend"] {
        let error = refused(&store, &format!("SELECT {function}({pid})")).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    victim.query_one("SELECT 1", &[]).await.expect("it is still there");
}

#[tokio::test]
async fn stopped_queries_do_not_go_on_at_the_server() {
    let database = database("stopped").await;
    let store = database.store();
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000) AS g";
    let error = store
        .relational()
        .unwrap()
        .query(&ctx().with_timeout(Duration::from_millis(300)), &Query::new(endless))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let limits = Limits { rows_max: 5, ..Limits::default() };
    let many =
        Query { limits, ..Query::new("SELECT g, repeat('x', 1000) FROM generate_series(1, 100000000) AS g") };
    let rows = store.relational().unwrap().query(&ctx(), &many).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (5, Some(Truncation::Rows)));
    let reader = database.reader();
    let running = "state = 'active' AND query LIKE '%1000000000000%'";
    tokio::select! {
        answer = query(&store, endless) => panic!("it has no end: {answer:?}"),
        () = database.until_sessions(&reader, running, 1) => {} // And the query is dropped.
    }
    // A future that is dropped can only ask in the background.
    database.until_sessions(&reader, "state = 'active'", 0).await;
}

// --- values ----------------------------------------------------------------

#[tokio::test]
async fn types_of_the_server_become_json() {
    let database = database("types").await;
    database
        .admin(
            "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN small AS int CHECK (VALUE < 10); \
             CREATE TYPE pair AS (a int, b text);",
        )
        .await;
    let store = database.store();
    for (expression, kind, expected) in [
        ("1.50::numeric", "numeric", json!("1.50")),
        ("'NaN'::numeric", "numeric", json!("NaN")),
        ("9223372036854775807", "int8", json!("9223372036854775807")),
        ("0.1::real", "float4", json!(0.1)),
        ("'-infinity'::float8", "float8", json!("-Infinity")),
        ("true", "bool", json!(true)),
        ("'a  '::char(3)", "bpchar", json!("a  ")),
        (r"'\x00ff'::bytea", "bytea", json!(r"\x00ff")),
        ("'2026-03-04'::date", "date", json!("2026-03-04")),
        ("'2026-03-04 05:06+02'::timestamptz", "timestamptz", json!("2026-03-04T03:06:00Z")),
        ("'2026-03-04 05:06:07.000001'::timestamp", "timestamp", json!("2026-03-04T05:06:07.000001")),
        ("'1 day 2 hours'::interval", "interval", json!("P1DT2H")),
        ("'05:06'::time", "time", json!("05:06:00")),
        ("'{\"a\": [1, null]}'::jsonb", "jsonb", json!({"a": [1, null]})),
        ("ARRAY[1, NULL, 3]", "int4[]", json!([1, null, 3])),
        ("ARRAY['a,b', '\"', 'NULL']", "text[]", json!(["a,b", "\"", "NULL"])),
        (
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
            "uuid",
            json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ),
        ("'192.168.0.0/16'::inet", "inet", json!("192.168.0.0/16")),
        ("int4range(1, 3)", "int4range", json!("[1,3)")),
        ("'glad'::mood", "mood", json!("glad")),
        ("ARRAY['glad']::mood[]", "mood[]", json!(["glad"])),
        ("7::small", "int4", json!(7)),
        ("ROW(1, 'x')::pair", "pair", json!("(1,x)")),
        ("'(1,2)'::point", "point", json!("(1,2)")),
        ("to_tsvector('simple', 'b a')", "tsvector", json!("'a':2 'b':1")),
        ("B'101'", "bit", json!("101")),
        ("'1/2'::pg_lsn", "pg_lsn", json!("1/2")),
    ] {
        let rows = query(&store, &format!("SELECT {expression}")).await;
        let rows = rows.unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert_eq!((rows.types, rows.rows), (vec![kind.to_owned()], vec![vec![expected]]), "{expression}");
    }
    for (sql, value, expected) in [
        ("SELECT $1::timestamptz", json!("2026-03-04T05:06:07Z"), json!("2026-03-04T05:06:07Z")),
        ("SELECT $1::mood", json!("sad"), json!("sad")),
        ("SELECT $1::bool", json!(true), json!(true)),
        ("SELECT $1::int8 + 1", json!(41), json!(42)),
        ("SELECT $1::jsonb -> 'a'", json!("{\"a\": 1}"), json!(1)),
        ("SELECT $1::text", json!(r"a\'b"), json!(r"a\'b")),
    ] {
        let query = Query { parameters: vec![value], ..Query::new(sql) };
        let rows = store.relational().unwrap().query(&ctx(), &query).await;
        assert_eq!(rows.expect(sql).rows, [[expected]], "{sql}");
    }
    for (sql, value) in [("SELECT $1::int", json!("x")), ("SELECT $1::mood", json!("mad"))] {
        let query = Query { parameters: vec![value], ..Query::new(sql) };
        let error = store.relational().unwrap().query(&ctx(), &query).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {error}");
    }
    for sql in ["SHOW server_version", "EXPLAIN SELECT 1", "TABLE pg_am", "VALUES (1)", "(SELECT 1)"] {
        assert!(!query(&store, sql).await.expect(sql).rows.is_empty(), "{sql}");
    }
}

#[tokio::test]
async fn values_that_are_not_utf8_are_told_not_guessed() {
    let database = Database::create_with(
        &conformance::namespace("not_utf8"),
        "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    .await;
    database.admin(r"CREATE TABLE t (name text); INSERT INTO t VALUES (E'caf\xe9')").await;
    let store = database.store();
    let error = refused(&store, "SELECT name FROM t").await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.hint_text().unwrap().contains("convert_to"), "{error}");
    let rows = query(&store, "SELECT convert_to(name, 'SQL_ASCII') FROM t").await.unwrap();
    assert_eq!(rows.rows, [[json!(r"\x636166e9")]]);
}

// --- the catalog -----------------------------------------------------------

#[tokio::test]
async fn inspect_tells_what_only_postgres_has() {
    let database = database("catalog").await;
    database
        .admin(
            "CREATE SCHEMA sales; CREATE TYPE sales.mood AS ENUM ('sad', 'glad'); \
             CREATE DOMAIN sales.email AS text NOT NULL CHECK (VALUE LIKE '%@%'); \
             CREATE SEQUENCE sales.numbers START 7 CYCLE; \
             CREATE TABLE sales.events ( \
               id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT now(), how sales.mood, \
               amount numeric(10,2), doubled numeric(12,2) GENERATED ALWAYS AS (amount * 2) STORED, \
               PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
             CREATE TABLE sales.events_2026 PARTITION OF sales.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); \
             INSERT INTO sales.events (at, amount) SELECT '2026-05-05', g FROM generate_series(1, 10) AS g; \
             CREATE UNLOGGED TABLE rooms (room int, during tsrange, note text COLLATE \"C\", \
               EXCLUDE USING gist (during WITH &&)) WITH (fillfactor = 70); \
             CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE children (parent int, size int); \
             ALTER TABLE children ADD CONSTRAINT children_parent FOREIGN KEY (parent) REFERENCES parents \
               ON DELETE SET NULL DEFERRABLE NOT VALID; \
             ALTER TABLE children ADD CONSTRAINT positive CHECK (size > 0) NOT VALID; \
             CREATE INDEX children_size ON children USING brin (size); \
             CREATE INDEX children_cover ON children (parent DESC NULLS LAST) INCLUDE (size); \
             COMMENT ON TABLE children IS 'the small ones'; COMMENT ON COLUMN children.size IS 'in cm'; \
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER touched BEFORE UPDATE ON children FOR EACH ROW EXECUTE FUNCTION touch(); \
             CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM children; \
             ALTER TABLE parents ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY mine ON parents FOR SELECT USING (id > 0);",
        )
        .await;
    let relational = database.store();
    let schema = relational.relational().unwrap().inspect(&ctx()).await.unwrap();
    let names: Vec<String> = schema.tables.iter().map(|table| table.name.to_string()).collect();
    assert_eq!(names, ["children", "parents", "rooms", "sales.events", "sales.events_2026"]);

    let events = schema.table("sales.events").unwrap();
    let partition = events.partition.as_ref().unwrap();
    assert_eq!(partition.key.as_deref(), Some("RANGE (at)"));
    assert_eq!((events.rows, events.rows_estimated), (10, false), "the sum of its partitions");
    let columns: Vec<_> = events.columns.iter().map(|column| (&*column.name, &*column.native_type)).collect();
    assert_eq!(
        columns,
        [
            ("id", "bigint"),
            ("at", "timestamp with time zone"),
            ("how", "sales.mood"),
            ("amount", "numeric(10,2)"),
            ("doubled", "numeric(12,2)")
        ]
    );
    assert_eq!(events.columns[0].generated.as_deref(), Some("GENERATED ALWAYS AS IDENTITY"));
    assert_eq!(events.columns[1].default.as_deref(), Some("now()"));
    assert!(events.columns[4].generated.as_ref().unwrap().contains("amount * "), "{events:?}");
    let part = schema.table("sales.events_2026").unwrap().partition.clone().unwrap();
    assert_eq!(part.parent.unwrap().to_string(), "sales.events");
    assert!(part.bound.unwrap().starts_with("FOR VALUES FROM ('2026-01-01"));

    let rooms = schema.table("rooms").unwrap();
    assert_eq!(rooms.columns[2].native_type, "text COLLATE \"C\"");
    let options = rooms.options.join("; ");
    for part in ["UNLOGGED", "WITH (fillfactor=70)", "EXCLUDE USING gist (during WITH &&)"] {
        assert!(options.contains(part), "{part}: {options}");
    }
    let children = schema.table("children").unwrap();
    let key = &children.foreign_keys[0];
    assert_eq!((&*key.actions, key.validated), ("ON DELETE SET NULL DEFERRABLE", false));
    assert!(!children.checks[0].validated, "{children:?}");
    assert_eq!(children.comment.as_deref(), Some("the small ones"));
    assert_eq!(children.columns[1].comment.as_deref(), Some("in cm"));
    assert!(children.triggers[0].contains("touched"), "{children:?}");
    let cover = &children.indexes[0];
    assert!(
        cover.definition.contains("DESC NULLS LAST) INCLUDE (size)") && cover.columns == ["parent"],
        "{cover:?}"
    );
    assert_eq!(children.indexes[1].method, "brin");
    assert!(schema.views[0].materialized);
    assert!(schema.size_bytes.unwrap() > 1_000_000);
    assert!(schema.extensions.iter().any(|extension| extension.name == "amcheck"));
    let others: Vec<String> = schema.others.iter().map(|(kind, what)| format!("{kind} {what}")).collect();
    for part in [
        "enum sales.mood ('sad', 'glad')",
        "domain sales.email AS text NOT NULL CHECK",
        "sequence sales.numbers AS bigint START 7 INCREMENT 1",
        "schema sales",
        "function public.touch() RETURNS trigger LANGUAGE plpgsql sha256:",
        "policy mine ON public.parents FOR SELECT TO PUBLIC USING ((id > 0))",
    ] {
        assert!(others.iter().any(|other| other.starts_with(part)), "{part}: {others:#?}");
    }
    assert!(
        !others.iter().any(|other| other.contains("events_id_seq") || other.contains("amcheck")),
        "{others:#?}"
    );
}

#[tokio::test]
async fn checks_are_told_as_the_server_prints_them() {
    let database = database("checks").await;
    database
        .admin(
            "CREATE TABLE t (a int, b text, CONSTRAINT always CHECK (true), CONSTRAINT fixed CHECK (length('x') > 0) NO INHERIT,
               CONSTRAINT one CHECK (a > 0) NO INHERIT, CONSTRAINT two CHECK (a > 0 OR b = 'x'), CONSTRAINT whole CHECK (t IS NOT NULL));
             ALTER TABLE t ADD CONSTRAINT late CHECK (b <> 'é') NOT VALID;
             CREATE TABLE parted (a int CHECK (a < 9), at date) PARTITION BY RANGE (at);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        )
        .await;
    let schema = database.store().relational().unwrap().inspect(&ctx()).await.unwrap();
    let told: Vec<(String, String, bool)> = schema
        .tables
        .iter()
        .flat_map(|table| &table.checks)
        .map(|check| (check.name.clone(), check.expression.clone(), check.validated))
        .collect();
    let check = |name: &str, expression: &str, validated| (name.to_owned(), expression.to_owned(), validated);
    assert_eq!(
        told,
        [
            check("parted_a_check", "(a < 9)", true),
            check("parted_a_check", "(a < 9)", true),
            check("always", "true", true),
            check("fixed", "(length('x'::text) > 0) NO INHERIT", true),
            check("late", "(b <> 'é'::text)", false),
            check("one", "(a > 0) NO INHERIT", true),
            check("two", "((a > 0) OR (b = 'x'::text))", true),
            check("whole", "(t.* IS NOT NULL)", true),
        ]
    );
}

/// With more tables than are worth opening one by one, the server's record is told, and said to be an estimate.
#[tokio::test]
async fn thousand_tables_are_told_by_the_servers_record() {
    let database = database("thousand").await;
    database
        .admin(
            // In parts: the locks of one transaction come out of a table that all tests on the server share.
            "DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, a text, b int, \
             CHECK (b > 0)); INSERT INTO t%s VALUES (1, ''x'', 1)', i, i); \
             IF i % 50 = 0 THEN COMMIT; END IF; END LOOP; END $$",
        )
        .await;
    database.admin("ANALYZE").await;
    let schema = database.store().relational().unwrap().inspect(&ctx()).await.unwrap();
    assert_eq!(schema.tables.len(), 1000);
    let of_tables: u64 = schema.tables.iter().filter_map(|table| table.size_bytes).sum();
    assert!((of_tables..100 << 20).contains(&schema.size_bytes.unwrap()), "{:?}", schema.size_bytes);
    for table in &schema.tables {
        assert_eq!((table.rows, table.rows_estimated, table.indexes.len()), (1, true, 1), "{table:?}");
        // A page each of rows and of the index of the toast table, which is empty, and two of the key.
        assert_eq!(table.size_bytes, Some(32 << 10), "{table:?}");
    }
}

#[tokio::test]
async fn indexes_are_written_as_the_server_prints_them() {
    let database = database("printed").await;
    database
        .admin(
            r#"CREATE TABLE "Odd ""t""" ("select" int, "Ünï" text COLLATE "C", v varchar(9), n numeric, a int[], j jsonb, c char(3),
                 PRIMARY KEY ("select"), UNIQUE NULLS NOT DISTINCT (n));
               CREATE DOMAIN word AS text;
               CREATE TABLE plain (a int, b text, w word, k oid, UNIQUE (a, b));
               CREATE INDEX "My Index" ON "Odd ""t""" ("Ünï", "select");
               CREATE INDEX ON "Odd ""t""" (v, c);
               CREATE INDEX ON "Odd ""t""" ("Ünï" COLLATE "POSIX");
               CREATE INDEX ON "Odd ""t""" (v varchar_pattern_ops);
               CREATE INDEX ON "Odd ""t""" (n DESC NULLS LAST, "select");
               CREATE INDEX ON "Odd ""t""" (n) WHERE n > 0;
               CREATE INDEX ON "Odd ""t""" (lower(v), "select");
               CREATE INDEX ON "Odd ""t""" (n) INCLUDE (v);
               CREATE INDEX ON "Odd ""t""" (n) WITH (fillfactor = 70);
               CREATE INDEX ON "Odd ""t""" USING gin (a, j);
               CREATE INDEX ON "Odd ""t""" USING hash (n);
               CREATE INDEX ON "Odd ""t""" (a);
               CREATE UNIQUE INDEX ON plain (w, k, b);
               CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
               CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
               CREATE INDEX ON parted (id)"#,
        )
        .await;
    let schema = database.store().relational().unwrap().inspect(&ctx()).await.unwrap();
    let mut written: Vec<String> = schema
        .tables
        .iter()
        .flat_map(|table| &table.indexes)
        .map(|index| format!("{} | {}", index.definition, index.columns.join(", ")))
        .collect();
    written.sort();
    let printed = database
        .text(
            "SELECT string_agg(pg_get_indexdef(indexrelid) || ' | ' || (SELECT string_agg(pg_get_indexdef(indexrelid, k, true), \
             ', ' ORDER BY k) FROM generate_series(1, indnkeyatts::int) AS k), E'\n' ORDER BY 1) FROM pg_index i \
             JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace",
        )
        .await;
    let mut printed: Vec<&str> = printed.lines().collect();
    printed.sort_unstable();
    assert_eq!(written, printed);
    assert!(printed.len() >= 18, "{printed:?}");
}

#[tokio::test]
async fn locked_table_is_estimated_not_waited_for_forever() {
    let database = database("locked").await;
    database.admin("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await;
    let store = database.store_with(|config| config.lock_timeout_ms = 300, &[]);
    let holder = database.connect_as_superuser().await;
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let answer = store.relational().unwrap().inspect(&ctx()).await;
    if let Err(error) = answer {
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
}

#[tokio::test]
async fn explain_names_tables_indexes_and_expected_rows() {
    let database = database("explain").await;
    database
        .admin(
            "CREATE SCHEMA sales; CREATE TABLE sales.lines (id int PRIMARY KEY, sku text); \
             INSERT INTO sales.lines SELECT g, 'sku ' || g FROM generate_series(1, 20000) AS g; \
             CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 20000); ANALYZE",
        )
        .await;
    let store = database.store();
    let explain = async |sql: &str| store.relational().unwrap().explain(&ctx(), sql).await;
    let found = explain(
        "SELECT * FROM orders WHERE id = 7 AND EXISTS (SELECT FROM sales.lines WHERE sku = 'sku 7' OR sku = 'x')",
    )
    .await
    .unwrap();
    let scans: Vec<_> = found.full_scans.iter().map(|scan| (&*scan.table, scan.rows_expected)).collect();
    assert_eq!(scans, [("sales.lines", Some(20_000))], "{}", found.text);
    assert_eq!(found.indexes_used, ["orders_pkey"]);
    assert!(found.cost.unwrap() > 1.0 && found.text.contains("Seq Scan"), "{}", found.text);
    match explain("SELECT * FROM orders WHERE id = $1").await {
        Ok(found) => assert_eq!(found.indexes_used, ["orders_pkey"], "placeholders need no values"),
        Err(error) => {
            assert!(version() < 16 && error.kind() == ErrorKind::Unsupported, "{error}");
            assert!(error.hint_text().unwrap().contains("write values in their place"), "{error}");
        }
    }
    let error = explain("DELETE FROM orders RETURNING id").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn integrity_without_amcheck_says_what_to_do() {
    let database = database("integrity").await;
    let store = database.store();
    let contract::IntegrityReport { statement, problems, .. } =
        store.integrity().unwrap().check_integrity(&ctx(), std::time::Duration::from_mins(5)).await.unwrap();
    assert!(statement.contains("bt_index_check") && statement.contains("verify_heapam"), "{statement}");
    assert_eq!(problems, []);
    let weak = database.store_with(|config| config.admin = None, &[]);
    let error = weak
        .integrity()
        .unwrap()
        .check_integrity(&ctx(), std::time::Duration::from_mins(5))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    // The hint is a statement that works as it is: EXECUTE alone, and no right on any table.
    database.admin("CREATE TABLE hidden AS SELECT generate_series(1, 2000) AS id; CREATE INDEX hidden_id ON hidden (id)").await;
    database.admin(&format!("REVOKE ALL ON hidden FROM {}", database.reader())).await;
    let hint = error.hint_text().unwrap();
    let grant = hint.split('`').find(|part| part.starts_with("GRANT EXECUTE")).unwrap();
    database.superuser(grant).await;
    let weak = weak.integrity().unwrap();
    let report = weak.check_integrity(&ctx(), std::time::Duration::from_mins(5)).await.unwrap();
    assert!(report.checked >= 2 && report.unchecked.is_empty() && report.problems.is_empty(), "{report:?}");
    let refused = format!("SELECT has_table_privilege('{}', 'hidden', 'SELECT')::text", database.reader());
    assert_eq!(database.text(&refused).await, "false");
    database
        .superuser(
            "SET allow_system_table_mods = on; \
             UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'hidden_id'::regclass; \
             INSERT INTO hidden SELECT generate_series(3001, 4000); \
             UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'hidden_id'::regclass",
        )
        .await;
    let report = weak.check_integrity(&ctx(), std::time::Duration::from_mins(5)).await.unwrap();
    assert!(report.problems.iter().any(|problem| problem.object.contains("hidden_id")), "{report:?}");
    database.superuser("DROP EXTENSION amcheck").await;
    let error = store
        .integrity()
        .unwrap()
        .check_integrity(&ctx(), std::time::Duration::from_mins(5))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.hint_text().unwrap().contains("CREATE EXTENSION amcheck"), "{error}");
}

#[tokio::test]
async fn integrity_finds_a_broken_index() {
    let database = database("broken").await;
    database
        .admin("CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 2000); CREATE INDEX t_id ON t (id)")
        .await;
    // The index is told to be of a table with other rows: what it points to is not there.
    database
        .superuser(
            "SET allow_system_table_mods = on; \
             UPDATE pg_class SET relfilenode = 0 WHERE false; \
             ALTER TABLE t DISABLE TRIGGER ALL; \
             UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 't_id'::regclass; \
             INSERT INTO t SELECT generate_series(3001, 4000); \
             UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 't_id'::regclass",
        )
        .await;
    let contract::IntegrityReport { problems, .. } = database
        .store()
        .integrity()
        .unwrap()
        .check_integrity(&ctx(), std::time::Duration::from_mins(5))
        .await
        .unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].object, "public.t_id");
    assert!(problems[0].problem.contains("lacks matching index tuple"), "{problems:?}");
}

// --- servers that go away ----------------------------------------------------

/// A session in `pg_stat_activity` that is in the middle of `pg_sleep`.
const ASLEEP: &str = "wait_event = 'PgSleep'";

#[tokio::test]
async fn server_lost_in_mid_query_is_unavailable() {
    let database = database("lost").await;
    let relay = Relay::start(port()).await;
    let store = database.store_with(|config| config.url = config.url.replace(&port(), &relay.port()), &[]);
    query(&store, "SELECT 1").await.unwrap();
    let cut = async {
        database.until_sessions(&database.reader(), ASLEEP, 1).await;
        relay.cut();
    };
    let (answer, ()) = tokio::join!(query(&store, "SELECT pg_sleep(600)"), cut);
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    relay.mend();
    query(&store, "SELECT 1").await.expect("a new connection is made");

    // Cut while idle: found out before anything is asked.
    relay.cut();
    relay.mend();
    query(&store, "SELECT 1").await.expect("a stale session is not used");
}

#[tokio::test]
async fn session_ended_by_the_administrator_is_unavailable() {
    let database = database("ended").await;
    let store = database.store();
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE usename = '{}' AND {ASLEEP}",
        database.reader()
    );
    let end = async {
        database.until_sessions(&database.reader(), ASLEEP, 1).await;
        database.text(&sql).await
    };
    let (answer, ended) = tokio::join!(query(&store, "SELECT pg_sleep(600)"), end);
    assert_eq!(ended, "1");
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn step_cut_from_its_server_is_taken_up_again() {
    let database = database("cut_step").await;
    database.admin("CREATE TABLE victim (id int PRIMARY KEY)").await;
    let relay = Relay::start(port()).await;
    let store = database.store_with(|config| config.url = config.url.replace(&port(), &relay.port()), &[]);
    let plan = plan(
        &database,
        vec![
            step("1", StepMode::Transaction, &["INSERT INTO victim VALUES (1)"]),
            step("2", StepMode::Transaction, &["INSERT INTO victim VALUES (2)", "SELECT pg_sleep(2)"]),
        ],
    );
    let mut execution = begin(&store, &plan).await.unwrap();
    run(&mut *execution, &plan, 0).await.unwrap();
    let cut = async {
        database.until_sessions(&database.writer(), ASLEEP, 1).await;
        relay.cut();
    };
    let (answer, ()) = tokio::join!(run(&mut *execution, &plan, 1), cut);
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    for error in [
        run(&mut *execution, &plan, 1).await.unwrap_err(),
        execution.state(&ctx(), &plan, 0).await.unwrap_err(),
        execution.finish(&ctx()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    relay.mend();
    // A server does not notice that a client is gone before its statement ends.
    database.until_sessions(&database.writer(), "true", 0).await;
    let mut execution = begin(&store, &plan).await.expect("the server let go of the lock");
    assert_eq!(execution.state(&ctx(), &plan, 1).await.unwrap(), StepState::Pending);
    assert_eq!(run(&mut *execution, &plan, 0).await.unwrap(), 0, "done before");
    assert_eq!(run(&mut *execution, &plan, 1).await.unwrap(), 2);
    execution.finish(&ctx()).await.unwrap();
    assert_eq!(database.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM victim").await, "1,2");
}

// --- changes -----------------------------------------------------------------

#[tokio::test]
async fn waiting_for_a_lock_times_out_and_leaves_nothing() {
    let database = database("lock_timeout").await;
    database.admin("CREATE TABLE victim (id int); CREATE TABLE other (id int)").await;
    let store = database.store_with(
        |config| {
            config.lock_timeout_ms = 200;
            config.statement_timeout_ms = 2_000;
        },
        &[],
    );
    let plan = plan(
        &database,
        vec![
            step(
                "1",
                StepMode::Transaction,
                &["INSERT INTO other VALUES (1)", "ALTER TABLE victim ADD COLUMN x int"],
            ),
            step("2", StepMode::Transaction, &["INSERT INTO other VALUES (1)", "SELECT pg_sleep(600)"]),
        ],
    );
    let holder = database.connect_as_superuser().await;
    holder.batch_execute("BEGIN; SELECT * FROM victim").await.unwrap();
    let mut execution = begin(&store, &plan).await.unwrap();
    for index in 0..2 {
        let error = run(&mut *execution, &plan, index).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert_eq!(execution.state(&ctx(), &plan, index).await.unwrap(), StepState::Pending);
    }
    assert_eq!(database.text("SELECT count(*)::text FROM other").await, "0");
    holder.batch_execute("COMMIT").await.unwrap();
    execution.finish(&ctx()).await.unwrap();
    let patient = database.store();
    let mut execution = begin(&patient, &plan).await.unwrap();
    run(&mut *execution, &plan, 0).await.expect("the lock is free now");
    execution.finish(&ctx()).await.unwrap();
}

/// Many columns make a large catalog, which two sessions read that see the same; where only one may be had, that one does.
#[tokio::test]
async fn large_catalog_is_read_by_two_sessions_as_by_one() {
    let database = database("large_catalog").await;
    database
        .admin(
            "DO $$ DECLARE columns text := (SELECT string_agg(format('c%s int CHECK (c%s > 0)', i, i), ', ') FROM generate_series(1, 24) AS i);
             BEGIN
               FOR n IN 1..330 LOOP
                 EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, parent int REFERENCES t%s, %s)', n, n, columns);
               END LOOP;
             END $$",
        )
        .await;
    let sessions = "SELECT count(*)::text FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name = 'steward'";
    let alone = database.store_with(|config| config.connections_max = 1, &[]);
    let by_one = alone.relational().unwrap().inspect(&ctx()).await.unwrap();
    assert_eq!(database.text(sessions).await, "1");
    let store = database.store();
    let by_two = store.relational().unwrap().inspect(&ctx()).await.unwrap();
    assert_eq!(database.text(sessions).await, "3", "one of the first store, two of this one");
    assert_eq!(by_two.tables.len(), 330);
    assert_eq!(by_two.tables, by_one.tables);
    let table = by_two.table("t330").unwrap();
    assert_eq!((table.columns.len(), table.checks.len(), table.foreign_keys.len()), (26, 24, 1));
    assert_eq!(
        (by_two.views, by_two.others, by_two.extensions),
        (by_one.views, by_one.others, by_one.extensions)
    );
}

/// What the second session was asked is asked again of the first, when the second is ended in the middle.
#[tokio::test]
async fn second_session_that_is_lost_is_done_without() {
    let database = database("lost_helper").await;
    database
        .admin(
            "DO $$ DECLARE columns text := (SELECT string_agg(format('c%s int CHECK (c%s > 0)', i, i), ', ') FROM generate_series(1, 24) AS i);
             BEGIN
               FOR n IN 1..330 LOOP
                 EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, %s)', n, columns);
               END LOOP;
             END $$",
        )
        .await;
    // Tables that the server has never looked at would be opened by the first.
    database.admin("ANALYZE").await;
    let store = database.store();
    // To print a check the server opens its table, which waits for who has it locked. Both sessions print some.
    let holder = database.connect_as_superuser().await;
    holder
        .batch_execute(
            "BEGIN; DO $$ BEGIN FOR n IN 1..330 LOOP
               EXECUTE format('LOCK TABLE t%s IN ACCESS EXCLUSIVE MODE', n);
             END LOOP; END $$",
        )
        .await
        .unwrap();
    let ending = async {
        let waiting = "SELECT CASE WHEN count(*) = 2 THEN max(pid) FILTER (WHERE newest) ELSE 0 END::text FROM (
                         SELECT pid, backend_start = max(backend_start) OVER () AS newest FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = 'steward' AND wait_event_type = 'Lock'
                       ) AS waiting";
        let helper = loop {
            match database.text(waiting).await.as_str() {
                "0" => tokio::time::sleep(Duration::from_millis(5)).await,
                pid => break pid.to_owned(),
            }
        };
        let ended = database.text(&format!("SELECT pg_terminate_backend({helper}, 10000)::text")).await;
        assert_eq!(ended, "true");
        holder.batch_execute("ROLLBACK").await.unwrap();
    };
    let (schema, ()) = tokio::join!(async { store.relational().unwrap().inspect(&ctx()).await }, ending);
    let schema = schema.unwrap();
    assert_eq!(schema.tables.len(), 330);
    assert!(schema.tables.iter().all(|table| table.checks.len() == 24));
}

/// A build that fails because the index is there already takes nothing away.
#[tokio::test]
async fn index_that_was_there_outlives_a_failed_build() {
    let database = database("outlives").await;
    database.admin("CREATE TABLE t (id int, n int); CREATE INDEX t_id ON t (n)").await;
    let store = database.store();
    let mut build = step("1", StepMode::Autocommit, &["CREATE INDEX CONCURRENTLY t_id ON public.t (id)"]);
    build.is_done = Some(Statement::with_parameters(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid)",
        vec![json!("public.t_id")],
    ));
    build.clean_up = vec![Statement::new("DROP INDEX CONCURRENTLY IF EXISTS public.t_id")];
    let plan = plan(&database, vec![build]);
    let mut execution = begin(&store, &plan).await.unwrap();
    let error = run(&mut *execution, &plan, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let schema = store.relational().unwrap().inspect(&ctx()).await.unwrap();
    assert_eq!(schema.table("t").unwrap().indexes[0].columns, ["n"]);
}

#[tokio::test]
async fn failed_concurrent_build_is_cleaned_up_and_built_again() {
    let database = database("concurrently").await;
    database.admin("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)").await;
    let store = database.store();
    let mut build =
        step("1", StepMode::Autocommit, &["CREATE UNIQUE INDEX CONCURRENTLY t_id ON public.t (id)"]);
    build.is_done = Some(Statement::with_parameters(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid)",
        vec![json!("public.t_id")],
    ));
    build.clean_up = vec![Statement::new("DROP INDEX CONCURRENTLY IF EXISTS public.t_id")];
    let plan = plan(&database, vec![build]);
    let mut execution = begin(&store, &plan).await.unwrap();
    let error = run(&mut *execution, &plan, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let schema = store.relational().unwrap().inspect(&ctx()).await.unwrap();
    assert!(schema.table("t").unwrap().indexes.is_empty(), "the invalid index went at once");
    assert_eq!(execution.state(&ctx(), &plan, 0).await.unwrap(), StepState::Started);
    database.admin("DELETE FROM t WHERE ctid = '(0,1)'").await;
    run(&mut *execution, &plan, 0).await.unwrap();
    execution.finish(&ctx()).await.unwrap();
    let schema = store.relational().unwrap().inspect(&ctx()).await.unwrap();
    let indexes = &schema.table("t").unwrap().indexes;
    assert!(indexes.len() == 1 && indexes[0].valid, "{indexes:?}");
}

#[tokio::test]
async fn what_one_step_sets_is_gone_in_the_next() {
    let database = database("session_state").await;
    database.admin("CREATE SCHEMA other").await;
    let store = database.store();
    let plan = plan(
        &database,
        vec![
            step(
                "1",
                StepMode::Transaction,
                &["SET search_path = other", "CREATE TABLE a (id int)", "SET ROLE NONE"],
            ),
            step("2", StepMode::Transaction, &["CREATE TABLE b (id int)"]),
            step("3", StepMode::Autocommit, &["SET search_path = other", "CREATE TABLE c (id int)"]),
            step("4", StepMode::Transaction, &["CREATE TABLE d (id int)"]),
        ],
    );
    let mut execution = begin(&store, &plan).await.unwrap();
    for index in 0..4 {
        run(&mut *execution, &plan, index).await.unwrap();
    }
    execution.finish(&ctx()).await.unwrap();
    let schema = store.relational().unwrap().inspect(&ctx()).await.unwrap();
    let names: Vec<String> = schema.tables.iter().map(|table| table.name.to_string()).collect();
    assert_eq!(names, ["other.a", "other.c", "b", "d"]);
}

#[tokio::test]
async fn setup_makes_logins_whose_passwords_never_reach_the_server() {
    let database = database("setup").await;
    let fresh = format!("{}_fresh", database.name());
    let password = "it's a pass\\word {{reader}}";
    let store = database.store_with(
        |config| {
            config.writer = Some(LoginConfig { user: fresh.clone(), password_secret: Some("fresh".into()) });
        },
        &[("fresh", password)],
    );
    let mut create = step("1", StepMode::Transaction, &[]);
    create.statements = vec![
        Statement {
            secrets: [("fresh".to_owned(), "fresh".to_owned())].into(),
            ..Statement::new(format!("CREATE ROLE {fresh} LOGIN PASSWORD {{{{fresh}}}}"))
        },
        Statement::new(format!("GRANT ALL ON SCHEMA public TO {fresh}")),
    ];
    let mut plan = plan(&database, vec![create]);
    assert_eq!(
        store.execute().unwrap().records(&ctx(), &["1"]).await.unwrap(),
        0,
        "asked before the login exists"
    );
    let error = begin(&store, &plan).await.err().expect("there is no such login yet");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    plan.request = "store.setup".into();
    assert_eq!(store.execute().unwrap().progress(&ctx(), &plan).await.unwrap(), [StepState::Pending]);
    let secrets = Arc::new(conformance::Secrets::new(&[("fresh", password)]));
    let permit = permit_for(&ctx(), &plan);
    let mut execution = store.execute().unwrap().begin(&ctx(), &permit, &plan, secrets).await.unwrap();
    execution.run(&ctx(), &permit, &plan, 0).await.unwrap();
    execution.finish(&ctx()).await.unwrap();
    let stored = database.text(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{fresh}'")).await;
    assert!(stored.starts_with("SCRAM-SHA-256$4096:"), "{stored}");
    assert_eq!(store.execute().unwrap().records(&ctx(), &["1", "2"]).await.unwrap(), 1);

    // The new login can log in with the password, and keep the record.
    let mut change = plan.clone();
    change.request = "migration.apply".into();
    change.steps = vec![step("2", StepMode::Transaction, &["CREATE TABLE made (id int)"])];
    let mut execution = begin(&store, &change).await.unwrap();
    run(&mut *execution, &change, 0).await.unwrap();
    execution.finish(&ctx()).await.unwrap();
    assert_eq!(store.execute().unwrap().records(&ctx(), &["1", "2"]).await.unwrap(), 2);
    database.superuser(&format!("DROP OWNED BY {fresh}; DROP ROLE {fresh}")).await;
}

#[tokio::test]
async fn without_a_writing_login_nothing_changes() {
    let database = database("no_writer").await;
    let store = database.store_with(|config| config.writer = None, &[]);
    let plan = plan(&database, vec![step("1", StepMode::Transaction, &["CREATE TABLE t (id int)"])]);
    let error = begin(&store, &plan).await.err().expect("no login may write");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint_text().unwrap().contains("writer"), "{error}");
    assert!(store.probe(&ctx()).await.unwrap().writer.is_none());
}

#[tokio::test]
async fn steps_refuse_what_a_step_cannot_hold() {
    let database = database("refused_steps").await;
    let store = database.store();
    for (sql, kind) in [
        ("COPY t FROM STDIN", ErrorKind::Unsupported),
        ("PREPARE TRANSACTION 'x'", ErrorKind::Invalid),
        ("/* x */ COMMIT AND CHAIN", ErrorKind::Invalid),
        ("DO $$ BEGIN COMMIT; END $$", ErrorKind::Invalid),
        ("", ErrorKind::Invalid),
    ] {
        for mode in [StepMode::Transaction, StepMode::Autocommit] {
            if mode == StepMode::Autocommit && sql.starts_with("DO") {
                continue; // Outside a transaction it may end its own.
            }
            let plan = plan(&database, vec![step("1", mode, &[sql])]);
            let mut execution = begin(&store, &plan).await.unwrap();
            let error = run(&mut *execution, &plan, 0).await.expect_err(sql);
            assert_eq!(error.kind(), kind, "{sql}: {error}");
            execution.finish(&ctx()).await.unwrap();
        }
    }
}

// --- processes that are killed -------------------------------------------------

/// Names the database to the process that is killed.
const KILLED_DATABASE: &str = "STEWARD_TEST_KILLED_DATABASE";
/// The step before which that process stands still.
const KILLED_AT: &str = "STEWARD_TEST_KILLED_AT";

/// Steps in a transaction and concurrent index builds in turns, each long enough to be hit.
fn plan_to_be_killed(database: &Database) -> Plan {
    let steps = (0..8).map(|n| {
        if n % 2 == 0 {
            let insert = format!("INSERT INTO log VALUES ({n})");
            return step(&n.to_string(), StepMode::Transaction, &[&insert, "SELECT pg_sleep(0.02)", &insert]);
        }
        let build = format!("CREATE INDEX CONCURRENTLY log_{n} ON log (n)");
        let mut build = step(&n.to_string(), StepMode::Autocommit, &[&build, "SELECT pg_sleep(0.02)"]);
        build.is_done = Some(Statement::new(format!(
            "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('log_{n}') AND indisvalid)"
        )));
        build.clean_up = vec![Statement::new(format!("DROP INDEX CONCURRENTLY IF EXISTS log_{n}"))];
        build
    });
    plan(database, steps.collect())
}

/// Does nothing by itself: the next test starts it as a process of its own.
#[tokio::test]
async fn killed_process() {
    let Ok(name) = std::env::var(KILLED_DATABASE) else { return };
    let halt: Option<usize> = std::env::var(KILLED_AT).ok().map(|index| index.parse().unwrap());
    let database = Database::of_another_process(&name);
    let (store, plan) = (database.store(), plan_to_be_killed(&database));
    let mut execution = begin(&store, &plan).await.unwrap();
    for index in 0..plan.steps.len() {
        // The process that waits for this line chooses when to kill; one that must be killed here stands still.
        std::io::Write::write_all(&mut std::io::stdout(), format!("step {index}\n").as_bytes()).unwrap();
        if halt == Some(index) {
            std::future::pending::<()>().await;
        }
        run(&mut *execution, &plan, index).await.unwrap();
    }
    execution.finish(&ctx()).await.unwrap();
}

#[tokio::test]
async fn killed_process_is_resumed_and_nothing_is_run_twice() {
    let rounds = if std::env::var_os("STEWARD_TEST_FULL").is_some() { 40 } else { 2 };
    let mut kills = 0;
    for round in 0..rounds {
        let database = database("killed").await;
        database
            .admin("CREATE TABLE log (n int); INSERT INTO log SELECT 100 FROM generate_series(1, 1000)")
            .await;
        let steps = plan_to_be_killed(&database).steps.len();
        let mut attempts = 0;
        loop {
            attempts += 1;
            assert!(attempts < 200, "it never ends");
            let mut random = [0_u8; 4];
            getrandom::fill(&mut random).unwrap();
            let step = usize::from(random[0]) % steps;
            // The first process surely dies at a step's beginning; the others at some moment after one began.
            let halts = attempts == 1;
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "killed_process", "--nocapture"]).env(KILLED_DATABASE, database.name());
            if halts {
                command.env(KILLED_AT, step.to_string());
            }
            let mut child = command
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let begun = format!("step {step}");
            let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
            // Ends at the line, or when the process has ended by itself.
            lines.map_while(Result::ok).find(|line| line.ends_with(&begun));
            if !halts {
                let delay = u64::from(u16::from_le_bytes([random[1], random[2]]) % 20_000);
                tokio::time::sleep(Duration::from_micros(delay)).await;
            }
            child.kill().unwrap();
            let end = child.wait().unwrap();
            if end.success() {
                break;
            }
            // One that failed by itself found the lock still held for the one killed before.
            kills += u32::from(std::os::unix::process::ExitStatusExt::signal(&end).is_some());
            // Every process could be killed in its first step for ever; after some, one is let through.
            if attempts > 5 {
                let mut command = std::process::Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "killed_process"]).env(KILLED_DATABASE, database.name());
                if command
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .status()
                    .unwrap()
                    .success()
                {
                    break;
                }
            }
        }
        let plan = plan_to_be_killed(&database);
        let states = database.store().execute().unwrap().progress(&ctx(), &plan).await.unwrap();
        assert!(states.iter().all(|state| *state == StepState::Done), "{states:?}");
        let log = "SELECT string_agg(n || 'x' || c, ' ' ORDER BY n) FROM (SELECT n, count(*) AS c FROM log GROUP BY n) AS l";
        assert_eq!(database.text(log).await, "0x2 2x2 4x2 6x2 100x1000", "round {round}: each step once");
        let indexes = "SELECT count(*) FILTER (WHERE indisvalid) || '/' || count(*) FROM pg_index \
                       WHERE indrelid = 'log'::regclass";
        assert_eq!(database.text(indexes).await, "4/4", "round {round}: no broken index is left");
    }
    println!("{kills} kills in {rounds} rounds");
    assert!(kills >= rounds, "each round's first process is killed: {kills} in {rounds}");
}

// --- the documentation --------------------------------------------------------

#[test]
fn example_in_the_readme_is_a_valid_configuration() {
    let readme = include_str!("../README.md");
    let example =
        readme.split("```yaml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let file: Value = yaml(example);
    let mut config = file["stores"]["orders"].clone();
    assert_eq!(config.as_object_mut().unwrap().remove("kind"), Some(json!("postgres")));
    let config: store_postgres::Config = serde_json::from_value(config).unwrap();
    config.validate().unwrap();
    let full = serde_json::to_value(&config).unwrap();
    let schema = serde_json::to_value(schemars::schema_for!(store_postgres::Config)).unwrap();
    let keys: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    for key in keys {
        assert!(full.get(key).is_some() && example.contains(&format!("{key}:")), "the example lacks `{key}`");
    }
}

/// The subset of YAML that the example uses: maps by indentation, scalars, one map in braces.
fn yaml(text: &str) -> Value {
    let mut root = json!({});
    let mut path: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let Some((key, value)) = line.trim_start().split_once(':') else { continue };
        let indent = line.len() - line.trim_start().len();
        while path.last().is_some_and(|(outer, _)| *outer >= indent) {
            path.pop();
        }
        let pointer = path.iter().fold(String::new(), |pointer, (_, key)| pointer + "/" + key);
        let map = root.pointer_mut(&pointer).and_then(Value::as_object_mut).expect("a map");
        let value = value.trim();
        let value = match value.parse::<u64>() {
            Ok(number) => json!(number),
            Err(_) if value.is_empty() => json!({}),
            Err(_) => json!(value),
        };
        map.insert(key.to_owned(), value);
        path.push((indent, key.to_owned()));
    }
    root
}
