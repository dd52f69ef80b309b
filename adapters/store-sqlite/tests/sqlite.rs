//! The shared store suite against real SQLite files; below it, what only SQLite does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use conformance::{Admin, NoSecrets, Opened, Sql, permit_for};
use contract::{
    Actor, Capability, Context, Error, ErrorKind, Plan, PlanStep, Query, Statement, StepMode, StepState,
    Store,
};
use rusqlite::Connection;
use serde_json::json;
use store_sqlite::{Config, SqliteStore};

conformance::store_suite!(open);

struct File(PathBuf);

#[async_trait]
impl Admin for File {
    async fn run(&self, sql: &str) {
        let (path, sql) = (self.0.clone(), sql.to_owned());
        let run = move || {
            Connection::open(path).unwrap().execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        };
        tokio::task::spawn_blocking(run).await.unwrap();
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(store_sqlite::open("shop", &Config::new(self.0.to_str().unwrap()), "/".as_ref()).unwrap())
    }

    async fn steward_tables(&self) -> Vec<String> {
        let connection = Connection::open(&self.0).unwrap();
        let mut names =
            connection.prepare("SELECT name FROM sqlite_schema WHERE name LIKE 'steward%'").unwrap();
        names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

fn sql() -> Sql {
    let mut sql = Sql::common();
    sql.values.extend(
        [
            ("1.5", json!(1.5)),
            ("1e999", json!("Infinity")),
            ("x'00ff'", json!("\\x00ff")),
            ("true", json!(1)),
            ("9223372036854775807", json!("9223372036854775807")),
            ("CAST(x'61ff' AS TEXT)", json!("\\x61ff")),
            ("NULL || 'x'", json!(null)),
        ]
        .map(|(expression, value)| (expression.to_owned(), value)),
    );
    sql.writes.extend(
        [
            "REPLACE INTO victim VALUES (1, 'changed')",
            "INSERT INTO victim VALUES (1, 'x') ON CONFLICT DO UPDATE SET name = 'changed'",
            "ATTACH DATABASE '/tmp/steward-way-out.db' AS other",
            "ATTACH DATABASE ':memory:' AS other",
            "DETACH DATABASE main",
            "VACUUM INTO '/tmp/steward-way-out.db'",
            "REINDEX",
            "END",
            "RELEASE way_out",
            "ROLLBACK TO way_out",
            "BEGIN IMMEDIATE",
            "PRAGMA user_version = 7",
            "PRAGMA query_only = OFF",
            "PRAGMA query_only",
            "PRAGMA journal_mode = WAL",
            "PRAGMA writable_schema = ON",
            "PRAGMA wal_checkpoint",
            "PRAGMA optimize",
            "PRAGMA incremental_vacuum",
            "PRAGMA trusted_schema = ON",
            "PRAGMA temp_store_directory = '/tmp'",
            "PRAGMA locking_mode = EXCLUSIVE",
            "PRAGMA cache_size = 1",
            "CREATE VIRTUAL TABLE another USING fts5(text)",
            "CREATE TEMP VIEW another AS SELECT 1",
            "CREATE TRIGGER another AFTER INSERT ON victim BEGIN DELETE FROM victim; END",
            "UPDATE sqlite_schema SET sql = ''",
            "DELETE FROM sqlite_schema",
            "SELECT load_extension('/tmp/way-out.so')",
            "SELECT fts3_tokenizer('simple', x'0000000000000000')",
            "EXPLAIN DELETE FROM victim",
            "EXPLAIN QUERY PLAN DELETE FROM victim",
        ]
        .map(String::from),
    );
    sql.leave_transaction.extend(
        ["END", "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s", "VACUUM", "ATTACH DATABASE ':memory:' AS other"]
            .map(String::from),
    );
    sql
}

async fn open(namespace: &str) -> Opened {
    let dir = tempfile::Builder::new().prefix(namespace).tempdir().unwrap();
    let path = dir.path().join("shop.db");
    Connection::open(&path).unwrap().execute_batch("VACUUM").unwrap();
    let admin = File(path);
    Opened {
        store: admin.reopen().await,
        admin: Box::new(admin),
        sql: sql(),
        secrets: Vec::new(),
        guard: Some(Box::new(dir)),
    }
}

// What only SQLite does.

/// A database of its own for one test.
struct Shop {
    dir: tempfile::TempDir,
    store: SqliteStore,
}

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

fn config(path: &Path) -> Config {
    Config { lock_timeout_ms: 200, ..Config::new(path.to_str().unwrap()) }
}

fn store(path: &Path) -> SqliteStore {
    store_sqlite::open("shop", &config(path), Path::new("/")).unwrap()
}

fn shop(sql: &str) -> Shop {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    Shop { store: store(&path), dir }
}

impl Shop {
    fn path(&self) -> PathBuf {
        self.dir.path().join("shop.db")
    }

    fn admin(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    async fn query(&self, sql: &str) -> Result<contract::Rows, Error> {
        self.store.relational().unwrap().query(&ctx(), &Query::new(sql)).await
    }

    async fn inspect(&self) -> schema::Schema {
        self.store.relational().unwrap().inspect(&ctx()).await.unwrap()
    }

    async fn run(&self, mode: StepMode, statements: &[&str]) -> Result<u64, Error> {
        run(&self.store, &plan(mode, statements)).await
    }
}

/// What the file's header says of its journal.
///
/// Source: sqlite.org, "Database File Format", file format version numbers.
fn is_wal(path: &Path) -> bool {
    std::fs::read(path).unwrap()[18] == 2
}

fn plan(mode: StepMode, statements: &[&str]) -> Plan {
    let step =
        PlanStep::new("1", "one step", mode, statements.iter().map(|sql| Statement::new(*sql)).collect());
    plan_of(vec![step])
}

fn plan_of(steps: Vec<PlanStep>) -> Plan {
    Plan {
        request: "migration.apply".into(),
        arguments: json!({}),
        project: "shop".into(),
        target: "store:shop".into(),
        summary: "a change".into(),
        steps,
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    }
}

async fn run(store: &SqliteStore, plan: &Plan) -> Result<u64, Error> {
    let (ctx, role) = (ctx(), store.execute().unwrap());
    let permit = permit_for(&ctx, plan);
    let mut execution = role.begin(&ctx, &permit, plan, Arc::new(NoSecrets)).await?;
    let rows = execution.run(&ctx, &permit, plan, 0).await;
    execution.finish(&ctx).await?;
    rows
}

/// Every kind of call.
async fn all_calls(store: &SqliteStore) -> Vec<(&'static str, Error)> {
    let (ctx, relational) = (ctx(), store.relational().unwrap());
    let plan = plan_of(Vec::new());
    let begun = match store.execute() {
        Some(role) => role.begin(&ctx, &permit_for(&ctx, &plan), &plan, Arc::new(NoSecrets)).await.err(),
        None => None,
    };
    let progress = match store.execute() {
        Some(role) => role.progress(&ctx, &plan).await.err(),
        None => None,
    };
    let calls = [
        ("probe", store.probe(&ctx).await.err()),
        ("inspect", relational.inspect(&ctx).await.err()),
        ("query", relational.query(&ctx, &Query::new("SELECT 1")).await.err()),
        ("explain", relational.explain(&ctx, "SELECT 1").await.err()),
        ("progress", progress),
        ("begin", begun),
    ];
    calls.into_iter().filter_map(|(call, error)| error.map(|error| (call, error))).collect()
}

#[tokio::test]
async fn missing_file_is_not_found_and_never_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nowhere.db");
    let errors = all_calls(&store(&path)).await;
    assert_eq!(errors.len(), 6);
    for (call, error) in errors {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{call}: {error}");
        assert!(error.hint_text().unwrap().contains("`path`"), "{call}: {error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was created");
}

#[tokio::test]
async fn what_is_no_database_is_corrupt_and_a_folder_is_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "these are notes, and no database at all\n".repeat(200)).unwrap();
    for (call, error) in all_calls(&store(&path)).await {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{call}: {error}");
        assert!(error.to_string().contains("notes.txt"), "{call}: {error}");
    }
    for (call, error) in all_calls(&store(dir.path())).await {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{call}: {error}");
    }
    // An empty file is an empty database.
    let empty = dir.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    assert!(store(&empty).relational().unwrap().inspect(&ctx()).await.unwrap().tables.is_empty());
}

#[tokio::test]
async fn damage_is_found_and_named() {
    let shop = shop(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT); CREATE INDEX t_name ON t (name);
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         SELECT i, 'name ' || i FROM n;",
    );
    // An index that lost an entry: the table is fine, the index lies.
    shop.admin()
        .execute_batch(
            "PRAGMA writable_schema = ON;
             CREATE TABLE other (id INTEGER PRIMARY KEY, name TEXT); CREATE INDEX other_name ON other (name);
             UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'other_name')
             WHERE name = 't_name';",
        )
        .unwrap();
    let integrity = shop.store.integrity().unwrap();
    let contract::IntegrityReport { statement, problems, .. } =
        integrity.check_integrity(&ctx(), std::time::Duration::from_mins(5)).await.unwrap();
    assert!(statement.starts_with("PRAGMA integrity_check"));
    assert!(problems.iter().any(|problem| problem.object == "t_name"), "{problems:?}");

    // Pages overwritten in the middle of the file.
    let mut bytes = std::fs::read(shop.path()).unwrap();
    for page in 2..6 {
        bytes[page * 4096..page * 4096 + 512].fill(0xa5);
    }
    std::fs::write(shop.path(), bytes).unwrap();
    let contract::IntegrityReport { problems, .. } =
        integrity.check_integrity(&ctx(), std::time::Duration::from_mins(5)).await.unwrap();
    assert!(!problems.is_empty());
    let error = shop.query("SELECT count(name), max(name || 'x') FROM t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.hint_text().unwrap().contains("backup"), "{error}");
}

#[tokio::test]
async fn locked_file_times_out_and_says_so() {
    let shop = shop("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1);");
    let other = shop.admin();
    other.execute_batch("BEGIN EXCLUSIVE; INSERT INTO t VALUES (2)").unwrap();
    let error = shop.query("SELECT * FROM t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("another connection holds the lock"), "{error}");
    // The deadline of the call comes first when it is nearer.
    let short = ctx().with_timeout(Duration::from_millis(50));
    let error = shop.store.relational().unwrap().inspect(&short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    other.execute_batch("ROLLBACK").unwrap();

    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(shop.query("SELECT * FROM t").await.unwrap().rows, [[json!(1)]], "readers go on");
    let error = shop.run(StepMode::Transaction, &["INSERT INTO t VALUES (3)"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    other.execute_batch("COMMIT").unwrap();
    shop.run(StepMode::Transaction, &["INSERT INTO t VALUES (3)"]).await.unwrap();
    assert_eq!(shop.query("SELECT count(*) FROM t").await.unwrap().rows, [[json!(3)]]);
}

#[tokio::test]
async fn wal_files_are_read_and_changed_while_others_write() {
    let shop =
        shop("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1);");
    let other = shop.admin();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(shop.query("SELECT count(*) FROM t").await.unwrap().rows, [[json!(1)]]);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(shop.query("SELECT count(*) FROM t").await.unwrap().rows, [[json!(2)]]);
    shop.run(StepMode::Transaction, &["INSERT INTO t VALUES (3)"]).await.unwrap();
    drop(other);
    assert_eq!(shop.query("SELECT count(*) FROM t").await.unwrap().rows, [[json!(3)]]);
    assert!(is_wal(&shop.path()));
}

#[tokio::test]
async fn write_that_died_is_rolled_back_by_the_next_read() {
    let shop = shop("CREATE TABLE t (id INTEGER PRIMARY KEY, pad TEXT);");
    let writer = shop.admin();
    writer
        .execute_batch(
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             SELECT i, hex(zeroblob(200)) FROM n;
             PRAGMA cache_size = 5; BEGIN; UPDATE t SET pad = 'half done' || id;",
        )
        .unwrap();
    // The files as a crash at this moment would leave them.
    let dead = shop.dir.path().join("dead.db");
    std::fs::copy(shop.path(), &dead).unwrap();
    std::fs::copy(shop.dir.path().join("shop.db-journal"), shop.dir.path().join("dead.db-journal")).unwrap();
    writer.execute_batch("ROLLBACK").unwrap();

    let cautious = Config { read_only: true, ..config(&dead) };
    let cautious = store_sqlite::open("shop", &cautious, Path::new("/")).unwrap();
    let query = Query::new("SELECT count(*) FROM t WHERE pad LIKE 'half%'");
    let error = cautious.relational().unwrap().query(&ctx(), &query).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    let rows = store(&dead).relational().unwrap().query(&ctx(), &query).await.unwrap();
    assert_eq!(rows.rows, [[json!(0)]]);
    let contract::IntegrityReport { problems, .. } = store(&dead)
        .integrity()
        .unwrap()
        .check_integrity(&ctx(), std::time::Duration::from_mins(5))
        .await
        .unwrap();
    assert_eq!(problems, []);
}

#[tokio::test]
async fn inspect_reads_what_only_sqlite_has() {
    let shop = shop(
        r#"
        CREATE TABLE parent (a INTEGER, b TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID, STRICT;
        CREATE TABLE "odd ""table""" (
          id INTEGER PRIMARY KEY AUTOINCREMENT, -- a comment, with ( and ' in it
          code TEXT COLLATE NOCASE CONSTRAINT code_known CHECK (code IN ('a,b', 'c)d')),
          price NUMERIC(10, 2) DEFAULT (1 + 2) NOT NULL /* CHECK (never) */,
          twice AS (price * 2),
          kept TEXT GENERATED ALWAYS AS (upper(code)) STORED,
          b TEXT, a INTEGER,
          constraint to_parent FOREIGN KEY (b, a) REFERENCES parent ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED
          CONSTRAINT one_code UNIQUE (code, price) CHECK (price < 100)
        );
        CREATE INDEX "odd index" ON "odd ""table""" (lower(code) DESC, price COLLATE BINARY ASC) WHERE price > 5 AND code <> 'on (';
        CREATE VIEW simple AS SELECT 1 AS one;
        CREATE VIEW named (x, "y z") AS SELECT 1, 2;
        CREATE TRIGGER into_view INSTEAD OF INSERT ON simple BEGIN SELECT 1; END;
        CREATE TRIGGER on_table AFTER INSERT ON "odd ""table""" BEGIN SELECT 1; END;
        CREATE VIRTUAL TABLE docs USING fts5(title, body);
        CREATE TABLE self (id INTEGER PRIMARY KEY, up INTEGER REFERENCES self);
        INSERT INTO docs VALUES ('one', 'text');
        CREATE TABLE steward_notes (id INTEGER);
        ANALYZE;
        "#,
    );
    let schema = shop.inspect().await;
    let names: Vec<_> = schema.tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(
        names,
        ["docs", "odd \"table\"", "parent", "self"],
        "no shadow tables, none of Steward's or SQLite's"
    );

    let parent = schema.table("parent").unwrap();
    assert_eq!(parent.options, ["STRICT", "WITHOUT ROWID"]);
    assert_eq!(parent.primary_key.as_ref().unwrap().columns, ["b", "a"], "in the key's order");
    assert!(parent.columns.iter().all(|column| !column.nullable));

    let odd = schema.table("odd \"table\"").unwrap();
    assert_eq!(odd.options, ["AUTOINCREMENT"]);
    let column = |name: &str| odd.columns.iter().find(|column| column.name == name).unwrap();
    assert!(!column("id").nullable);
    assert_eq!(column("code").native_type, "TEXT COLLATE NOCASE");
    assert_eq!(column("price").default.as_deref(), Some("1 + 2"));
    assert_eq!(column("twice").generated.as_deref(), Some("AS (price * 2) VIRTUAL"));
    assert_eq!(column("kept").generated.as_deref(), Some("AS (upper(code)) STORED"));
    let checks: Vec<_> = odd.checks.iter().map(|c| (c.name.as_str(), c.expression.as_str())).collect();
    assert_eq!(checks, [("", "price < 100"), ("code_known", "code IN ('a,b', 'c)d')")]);
    let [unique] = &odd.unique_keys[..] else { panic!("{odd:?}") };
    assert_eq!(
        (unique.name.as_str(), &unique.columns[..]),
        ("one_code", &["code".to_owned(), "price".into()][..])
    );
    let [key] = &odd.foreign_keys[..] else { panic!("{odd:?}") };
    assert_eq!((key.name.as_str(), &key.columns[..]), ("to_parent", &["b".to_owned(), "a".into()][..]));
    assert_eq!(key.parent_columns, ["b", "a"], "the parent's primary key");
    assert_eq!(key.actions, "ON DELETE SET NULL ON UPDATE NO ACTION DEFERRABLE INITIALLY DEFERRED");
    assert!(!key.validated);
    let index = odd.indexes.iter().find(|index| index.name == "odd index").unwrap();
    assert_eq!(index.columns, ["lower(code)", "price"]);
    assert_eq!(index.predicate.as_deref(), Some("price > 5 AND code <> 'on ('"));
    assert!(index.definition.starts_with("CREATE INDEX \"odd index\" ON"), "{}", index.definition);
    assert_eq!(odd.triggers.len(), 1);
    assert!(odd.size_bytes.unwrap() > 0 && index.size_bytes.unwrap() > 0);

    let docs = schema.table("docs").unwrap();
    assert_eq!(docs.options, ["VIRTUAL USING fts5(title, body)"]);
    assert_eq!(docs.columns.len(), 2);
    assert_eq!(schema.table("self").unwrap().foreign_keys[0].parent_columns, ["id"]);

    let views: Vec<_> = schema.views.iter().map(|v| (v.name.name.as_str(), v.definition.as_str())).collect();
    assert_eq!(views, [("named", "(x, \"y z\") AS SELECT 1, 2"), ("simple", "SELECT 1 AS one")]);
    assert_eq!(schema.others.len(), 1);
    assert_eq!(schema.size_bytes, Some(std::fs::metadata(shop.path()).unwrap().len()));
}

#[tokio::test]
async fn large_tables_are_estimated() {
    let shop = shop(
        "CREATE TABLE t (rowid TEXT, name TEXT);
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         SELECT i, 'x' FROM n; CREATE TABLE exactly (id INTEGER); INSERT INTO exactly SELECT _rowid_ FROM t LIMIT 100;",
    );
    let few = Config { rows_counted_max: 100, ..config(&shop.path()) };
    let few = store_sqlite::open("shop", &few, Path::new("/")).unwrap();
    let count = async || {
        let schema = few.relational().unwrap().inspect(&ctx()).await.unwrap();
        let table = |name: &str| schema.table(name).map(|t| (t.rows, t.rows_estimated)).unwrap();
        (table("exactly"), table("t"))
    };
    assert_eq!(count().await, ((100, false), (1_000, true)), "the highest rowid");
    shop.admin()
        .execute_batch("CREATE INDEX t_name ON t (name); ANALYZE; DELETE FROM t WHERE _rowid_ < 300")
        .unwrap();
    assert_eq!(count().await, ((100, false), (1_000, true)), "as the last ANALYZE saw it");
}

#[tokio::test]
async fn explain_names_tables_behind_their_aliases() {
    let shop = shop(
        r#"
        CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, day TEXT);
        CREATE TABLE "order lines" (order_id INTEGER, sku TEXT);
        CREATE INDEX "by day (new)" ON orders (day);
        CREATE VIRTUAL TABLE docs USING fts5(body);
        INSERT INTO orders VALUES (1, 1, 'a'); INSERT INTO "order lines" VALUES (1, 'x');
        "#,
    );
    for (sql, scans, indexes) in [
        ("SELECT * FROM orders", &["orders"][..], &[][..]),
        ("SELECT * FROM orders AS o WHERE o.customer_id = 1", &["orders"], &[]),
        ("SELECT * FROM main.orders o WHERE customer_id = 1", &["orders"], &[]),
        (r#"SELECT * FROM "order lines" l WHERE sku = 'x'"#, &["order lines"], &[]),
        ("SELECT * FROM orders WHERE id = 1", &[], &[]),
        ("SELECT * FROM orders WHERE day = 'a'", &[], &["by day (new)"]),
        ("SELECT * FROM orders WHERE day = 'a' OR id = 3", &[], &["by day (new)"]),
        ("SELECT count(*) FROM orders x, orders y WHERE x.customer_id = y.customer_id", &["orders"], &[]),
        // The index that SQLite makes for one statement costs a scan.
        (
            r#"SELECT * FROM orders o LEFT JOIN "order lines" l ON l.order_id = o.id"#,
            &["orders", "order lines"],
            &[],
        ),
        ("SELECT 1", &[], &[]),
        ("VALUES (1), (2)", &[], &[]),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT * FROM n",
            &[],
            &[],
        ),
        (
            "SELECT * FROM (SELECT customer_id, count(*) c FROM orders GROUP BY 1) AS orders2 WHERE c > 1",
            &["orders"],
            &[],
        ),
        ("SELECT * FROM docs WHERE docs MATCH 'x'", &[], &[]),
        ("SELECT * FROM json_each('[1]')", &[], &[]),
    ] {
        let explain = shop.store.relational().unwrap().explain(&ctx(), sql).await.expect(sql);
        let scanned: Vec<_> = explain.full_scans.iter().map(|scan| scan.table.as_str()).collect();
        assert_eq!(
            (&scanned[..], &explain.indexes_used[..]),
            (scans, &indexes.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
            "{sql}\n{}",
            explain.text
        );
    }
}

#[tokio::test]
async fn rebuilding_a_table_keeps_its_children() {
    let sql = "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
         CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent ON DELETE CASCADE);
         INSERT INTO parent VALUES (1, 'one'); INSERT INTO child VALUES (1, 1), (2, 99);";
    let shop = shop(&format!("PRAGMA foreign_keys = OFF; {sql}"));
    let rebuild = [
        "PRAGMA foreign_keys=off;",
        "CREATE TABLE parent_new (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
        "INSERT INTO parent_new SELECT id, name FROM parent",
        "DROP TABLE parent",
        "ALTER TABLE parent_new RENAME TO parent",
        "PRAGMA foreign_keys = ON",
    ];
    assert_eq!(shop.run(StepMode::Transaction, &rebuild).await.unwrap(), 1);
    let children = shop.query("SELECT id FROM child ORDER BY id").await.unwrap();
    assert_eq!(children.rows, [[json!(1)], [json!(2)]], "the orphan that was there before is no obstacle");
    assert!(!shop.inspect().await.table("parent").unwrap().columns[1].nullable);

    let lossy = ["PRAGMA foreign_keys = OFF", "DELETE FROM parent"];
    let error = shop.run(StepMode::Transaction, &lossy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("refer to nothing"), "{error}");
    assert_eq!(shop.query("SELECT count(*) FROM parent").await.unwrap().rows, [[json!(1)]]);

    let error = shop.run(StepMode::Transaction, &["INSERT INTO child VALUES (3, 77)"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "foreign keys are enforced otherwise: {error}");
    let late = ["DELETE FROM child", "PRAGMA foreign_keys = OFF"];
    let error = shop.run(StepMode::Transaction, &late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "it would be ignored silently: {error}");
    assert!(error.to_string().contains("may not be part of a step"), "{error}");
}

#[tokio::test]
async fn autocommit_steps_do_what_transactions_cannot() {
    let shop = shop(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, pad BLOB); INSERT INTO t VALUES (1, zeroblob(500000)); DELETE FROM t;",
    );
    let before = std::fs::metadata(shop.path()).unwrap().len();
    shop.run(StepMode::Autocommit, &["VACUUM", "PRAGMA journal_mode = WAL"]).await.unwrap();
    assert!(std::fs::metadata(shop.path()).unwrap().len() < before);
    assert!(is_wal(&shop.path()));
    let error = shop.run(StepMode::Autocommit, &["BEGIN"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let elsewhere = shop.dir.path().join("elsewhere.db");
    for sql in ["VACUUM INTO '{}'", "ATTACH DATABASE '{}' AS other"] {
        let sql = sql.replace("{}", elsewhere.to_str().unwrap());
        for mode in [StepMode::Autocommit, StepMode::Transaction] {
            let error = shop.run(mode, &[&sql]).await.expect_err(&sql);
            assert!([ErrorKind::Denied, ErrorKind::Invalid].contains(&error.kind()), "{sql}: {error}");
        }
    }
    assert!(!elsewhere.exists());
}

#[tokio::test]
async fn steps_may_use_all_of_the_ddl() {
    let shop = shop(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, old TEXT, extra TEXT); INSERT INTO t VALUES (1, 'a', 'b');",
    );
    let ddl = [
        "ALTER TABLE t RENAME COLUMN old TO name",
        "ALTER TABLE t DROP COLUMN extra",
        "ALTER TABLE t ADD COLUMN seen TEXT NOT NULL DEFAULT 'no' CHECK (seen <> '')",
        "ALTER TABLE t RENAME TO things",
        "CREATE UNIQUE INDEX things_name ON things (lower(name)) WHERE name IS NOT NULL",
        "CREATE VIEW named AS SELECT name FROM things",
        "CREATE TABLE log (what TEXT)",
        "CREATE TRIGGER logged AFTER INSERT ON things BEGIN INSERT INTO log VALUES (new.name); DELETE FROM log WHERE what = ''; END",
        "CREATE VIRTUAL TABLE docs USING fts5(body)",
        "INSERT INTO docs VALUES ('some words')",
        "INSERT INTO things (name) VALUES ('b'), ('c')",
        "REINDEX",
        "ANALYZE",
        "PRAGMA user_version = 7",
    ];
    assert_eq!(
        shop.run(StepMode::Transaction, &ddl).await.unwrap(),
        3,
        "rows of statements, not of triggers"
    );
    let schema = shop.inspect().await;
    let things = schema.table("things").unwrap();
    let columns: Vec<_> = things.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(columns, ["id", "name", "seen"]);
    assert_eq!((things.rows, things.triggers.len(), things.checks.len()), (3, 1, 1));
    assert_eq!(shop.query("SELECT count(*) FROM log").await.unwrap().rows, [[json!(2)]]);
    assert_eq!(shop.query("SELECT body FROM docs WHERE docs MATCH 'words'").await.unwrap().rows.len(), 1);
    assert_eq!(shop.query("PRAGMA user_version").await.unwrap().rows, [[json!(7)]]);
    for hostile in
        ["PRAGMA writable_schema = ON", "UPDATE sqlite_schema SET sql = ''", "DELETE FROM docs_data"]
    {
        let outcome = shop.run(StepMode::Transaction, &[hostile, "UPDATE sqlite_schema SET sql = 'x'"]).await;
        assert!(outcome.is_err(), "{hostile}");
    }
    let contract::IntegrityReport { problems, .. } = shop
        .store
        .integrity()
        .unwrap()
        .check_integrity(&ctx(), std::time::Duration::from_mins(5))
        .await
        .unwrap();
    assert_eq!(problems, []);
}

#[tokio::test]
async fn full_disk_leaves_nothing() {
    let shop = shop("CREATE TABLE t (id INTEGER PRIMARY KEY, pad BLOB); INSERT INTO t VALUES (1, x'00');");
    let grow = [
        "PRAGMA max_page_count = 20",
        "INSERT INTO t VALUES (2, x'01')",
        "INSERT INTO t VALUES (3, zeroblob(1000000))",
    ];
    let error = shop.run(StepMode::Transaction, &grow).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    assert!(error.to_string().contains("disk is full"), "{error}");
    assert_eq!(shop.query("SELECT id FROM t").await.unwrap().rows, [[json!(1)]]);
    let states =
        shop.store.execute().unwrap().progress(&ctx(), &plan(StepMode::Transaction, &grow)).await.unwrap();
    assert_eq!(states, [StepState::Pending]);
}

#[tokio::test]
async fn read_only_store_has_no_way_to_write() {
    let shop = shop("CREATE TABLE t (id INTEGER)");
    let config = Config { read_only: true, ..config(&shop.path()) };
    let store = store_sqlite::open("shop", &config, Path::new("/")).unwrap();
    assert!(!store.capabilities().contains(&Capability::Execute));
    assert!(store.execute().is_none());
    let probe = store.probe(&ctx()).await.unwrap();
    assert_eq!(probe.writer, None);
    let probe = shop.store.probe(&ctx()).await.unwrap();
    assert!(probe.writer.unwrap().can_write && !probe.reader.can_write);
    assert_eq!(probe.version, "3.54.1", "the version that README.md names");
}

#[tokio::test]
async fn lock_is_one_for_all_names_of_a_file() {
    let shop = shop("CREATE TABLE t (id INTEGER)");
    let link = shop.dir.path().join("link.db");
    std::os::unix::fs::symlink(shop.path(), &link).unwrap();
    let (plan, ctx) = (plan(StepMode::Transaction, &["DELETE FROM t"]), ctx());
    let role = shop.store.execute().unwrap();
    let held = role.begin(&ctx, &permit_for(&ctx, &plan), &plan, Arc::new(NoSecrets)).await.unwrap();
    let error = run(&store(&link), &plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains(&format!("pid: {}", std::process::id())), "{error}");
    held.finish(&ctx).await.unwrap();
    run(&store(&link), &plan).await.unwrap();
}

#[tokio::test]
async fn name_that_is_not_utf8_is_shown() {
    let shop = shop(
        "CREATE TABLE good (id INTEGER); CREATE TABLE abc (id INTEGER); PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET name = CAST(x'6162ff' AS TEXT), tbl_name = CAST(x'6162ff' AS TEXT),
         sql = CAST(x'435245415445205441424c45206162ff20286964' || x'20494e544547455229' AS TEXT) WHERE name = 'abc';",
    );
    let schema = shop.inspect().await;
    let names: Vec<_> = schema.tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(names, ["ab\u{FFFD}", "good"]);
    let rows = shop.query("SELECT name FROM sqlite_schema ORDER BY name").await.unwrap();
    assert_eq!(rows.rows, [[json!("\\x6162ff")], [json!("good")]], "as bytes, since it is no text");
}

#[test]
fn attempts_to_leave_left_nothing_behind() {
    assert!(!Path::new("/tmp/steward-way-out.db").exists());
}

/// Runs one of the ignored tests below in a process of its own.
fn child(test: &str, database: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env("STEWARD_TEST_CHILD_DB", database);
    command
}

fn database_of_child() -> PathBuf {
    PathBuf::from(std::env::var("STEWARD_TEST_CHILD_DB").unwrap())
}

/// Begins a step that takes minutes, to be killed by the test below.
#[tokio::test]
#[ignore = "run by killed_process_leaves_nothing_and_no_lock"]
async fn child_in_a_transaction_step() {
    run(&store(&database_of_child()), &slow_plan(StepMode::Transaction)).await.unwrap();
}

/// The same outside a transaction.
#[tokio::test]
#[ignore = "run by killed_process_leaves_nothing_and_no_lock"]
async fn child_in_an_autocommit_step() {
    run(&store(&database_of_child()), &slow_plan(StepMode::Autocommit)).await.unwrap();
}

fn slow_plan(mode: StepMode) -> Plan {
    let slow = [
        "INSERT INTO t VALUES (2, 'before')",
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < (SELECT rows FROM work))
         SELECT i, hex(zeroblob(100)) FROM n",
    ];
    let mut plan = plan(mode, &slow);
    plan.steps[0].is_done = Some(Statement::new("SELECT count(*) > 2 FROM t"));
    plan.steps[0].clean_up = vec![Statement::new("DELETE FROM t WHERE id > 1")];
    plan
}

#[tokio::test]
async fn killed_process_leaves_nothing_and_no_lock() {
    for (journal, mode, milliseconds) in [
        ("DELETE", StepMode::Transaction, 0),
        ("DELETE", StepMode::Transaction, 40),
        ("DELETE", StepMode::Transaction, 400),
        ("WAL", StepMode::Transaction, 40),
        ("WAL", StepMode::Transaction, 400),
        ("DELETE", StepMode::Autocommit, 40),
        ("DELETE", StepMode::Autocommit, 400),
        ("WAL", StepMode::Autocommit, 200),
    ] {
        let plan = slow_plan(mode.clone());
        let label = format!("{journal}, {mode:?}, killed after {milliseconds} ms");
        let shop = shop(&format!(
            "PRAGMA journal_mode = {journal}; CREATE TABLE t (id INTEGER PRIMARY KEY, pad TEXT);
             INSERT INTO t VALUES (1, 'one'); CREATE TABLE work (rows); INSERT INTO work VALUES (100000000);"
        ));
        let test = match mode {
            StepMode::Transaction => "child_in_a_transaction_step",
            StepMode::Autocommit | StepMode::Batched(_) => "child_in_an_autocommit_step",
        };
        let mut child =
            child(test, &shop.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let lock = shop.dir.path().join("shop.db-steward-lock");
        let waited = Instant::now();
        while !lock.exists() {
            assert!(waited.elapsed() < Duration::from_mins(2), "{label}: the child has not begun");
            std::thread::sleep(Duration::from_millis(2));
        }
        // To meet different moments of the write, this waits for real.
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();

        let role = shop.store.execute().unwrap();
        let state = role.progress(&ctx(), &plan).await.expect(&label)[0];
        let ids = shop.query("SELECT id FROM t ORDER BY id").await.expect(&label).rows;
        match mode {
            StepMode::Transaction => {
                assert_eq!((state, ids), (StepState::Pending, vec![vec![json!(1)]]), "{label}");
            }
            // The first statement may or may not have been run; the second never was to its end.
            StepMode::Autocommit | StepMode::Batched(_) => {
                assert!(state != StepState::Done && ids.len() <= 2, "{label}: {state:?} {ids:?}");
            }
        }
        // The next start runs it to its end, once.
        shop.admin().execute_batch("UPDATE work SET rows = 12").unwrap();
        let rows = run(&shop.store, &plan).await.expect(&label);
        assert_eq!(rows, 4, "{label}");
        assert_eq!(run(&shop.store, &plan).await.expect(&label), 0, "{label}");
        assert_eq!(shop.query("SELECT count(*) FROM t").await.expect(&label).rows, [[json!(5)]], "{label}");
        let contract::IntegrityReport { problems, .. } = shop
            .store
            .integrity()
            .unwrap()
            .check_integrity(&ctx(), std::time::Duration::from_mins(5))
            .await
            .unwrap();
        assert_eq!(problems, [], "{label}");
    }
}

/// Reads and does not write where nothing may be written; run as a user who is bound by permissions.
#[tokio::test]
#[ignore = "run by file_that_cannot_be_written_is_read_and_refused"]
async fn child_without_permissions() {
    let folder = database_of_child();
    let query = Query::new("SELECT count(*) FROM t");
    let sound = store(&folder.join("shop.db"));
    let relational = sound.relational().unwrap();
    assert_eq!(relational.query(&ctx(), &query).await.unwrap().rows, [[json!(1)]]);
    relational.inspect(&ctx()).await.unwrap();
    assert_eq!(sound.probe(&ctx()).await.unwrap().writer, None);
    let error = run(&sound, &plan(StepMode::Transaction, &["DELETE FROM t"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint_text().is_some(), "{error}");

    let error = store(&folder.join("wal.db")).relational().unwrap().query(&ctx(), &query).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.message().contains("WAL mode"), "{error}");

    for (call, error) in all_calls(&store(&folder.join("closed.db"))).await {
        assert!([ErrorKind::Denied, ErrorKind::Unavailable].contains(&error.kind()), "{call}: {error}");
    }
}

#[test]
fn file_that_cannot_be_written_is_read_and_refused() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;

    let dir = tempfile::tempdir().unwrap();
    let sql = "CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1);";
    for (name, journal, mode) in
        [("shop.db", "DELETE", 0o444), ("wal.db", "WAL", 0o444), ("closed.db", "DELETE", 0o000)]
    {
        let path = dir.path().join(name);
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!("PRAGMA journal_mode = {journal}; {sql}"))
            .unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    // Someone else must be able to start the program.
    let program = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o555)).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o555)).unwrap();

    let mut command = Command::new(&program);
    command
        .args(["--exact", "child_without_permissions", "--ignored", "--nocapture"])
        .env("STEWARD_TEST_CHILD_DB", dir.path())
        .current_dir("/");
    // Permissions do not bind root.
    if std::fs::metadata(dir.path()).unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn example_in_the_readme_is_valid() {
    let readme = include_str!("../README.md");
    let example = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let fields: String =
        example.lines().filter(|line| !line.starts_with("kind:")).flat_map(|l| [l, "\n"]).collect();
    assert!(example.contains(&format!("kind: {}", store_sqlite::KIND)));
    let config: Config = serde_saphyr::from_str(&fields).unwrap();
    config.validate().unwrap();
    assert_eq!(config, Config::new("data/shop.db"), "the README shows the defaults");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]

    /// Whatever the name, SQLite gives it back, and nothing else happens.
    #[test]
    fn quoted_identifier_is_one_name(name in "[^\0]{1,40}") {
        let connection = Connection::open_in_memory().unwrap();
        let dir = std::env::temp_dir();
        let store = store_sqlite::open("shop", &Config::new("unused.db"), &dir).unwrap();
        let quoted = store.relational().unwrap().quote_identifier(&name);
        connection.execute_batch(&format!("CREATE TABLE t ({quoted} INTEGER)")).unwrap();
        let found: String = connection.query_row("SELECT name FROM pragma_table_info('t')", [], |row| row.get(0)).unwrap();
        proptest::prop_assert_eq!(found, name);
    }
}

#[tokio::test]
async fn null_that_a_declaration_forbids_is_seen_by_its_storage_class() {
    let shop =
        shop("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (1, 'x'), (2, NULL)");
    // What `.recover` of a damaged file or a program that edits the schema leaves behind.
    shop.admin()
        .execute_batch(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'a TEXT', 'a TEXT NOT NULL')",
        )
        .unwrap();
    let table = shop.store.relational().unwrap().inspect(&ctx()).await.unwrap().tables.remove(0);
    let tests = shop.store.integrity().unwrap().row_tests(&table);
    let not_null =
        tests.iter().find(|test| test.promise == contract::RowPromise::NotNull && test.name == "a").unwrap();
    let rows = shop
        .query(&format!("SELECT sum(CASE WHEN {} THEN 1 ELSE 0 END) FROM t", not_null.broken))
        .await
        .unwrap();
    assert_eq!(rows.rows[0][0], 1);
    // The engine itself would say that there is none.
    let rows = shop.query("SELECT count(*) FROM t WHERE a IS NULL").await.unwrap();
    assert_eq!(rows.rows[0][0], 0);
}
