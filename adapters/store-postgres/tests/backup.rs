//! Backups of real databases: taken while others write, put back by the same and by other hands, and compared.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

#[allow(dead_code, reason = "shared with the other suites")]
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conformance::Parts;
use contract::{
    Actor, BackupMethod, Context, DumpOptions, Dumped, Error, Layout, LoadTarget, Restored, Selection, Store,
};
use server::Database;
use store_postgres::PostgresStore;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_mins(2);

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

async fn database(case: &str) -> Database {
    Database::create(&conformance::namespace(case)).await
}

/// The folder of the programs of the server that is tested.
async fn programs(database: &Database) -> PathBuf {
    database.text("SELECT setting FROM pg_config WHERE name = 'BINDIR'").await.into()
}

async fn store(database: &Database) -> PostgresStore {
    let folder = programs(database).await;
    database.store_with(|config| config.bin_dir = Some(folder), &[])
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn options(&self) -> DumpOptions {
        DumpOptions { method: BackupMethod::Logical, scratch: self.0.path().to_owned(), parallel: 3 }
    }

    fn target(&self, name: &str) -> LoadTarget {
        LoadTarget::Scratch { folder: self.0.path().join(name) }
    }
}

async fn dump(store: &PostgresStore) -> (Dumped, Parts) {
    let (scratch, parts) = (Scratch::new(), Parts::default());
    let dumped = Store::dump(store).unwrap().dump(&ctx(), &scratch.options(), &parts).await.unwrap();
    (dumped, parts)
}

async fn restore(
    store: &PostgresStore,
    dumped: &Dumped,
    parts: &Parts,
    selection: &Selection,
    target: &LoadTarget,
) -> Result<Box<dyn Restored>, Error> {
    Store::load(store).unwrap().load(&ctx(), dumped, &parts.given(), selection, target).await
}

/// Nothing differs between what was dumped and what was restored.
async fn assert_same(dumped: &Dumped, parts: &Parts, restored: &dyn Restored) {
    assert_eq!(restored.fingerprint(&ctx(), dumped).await.unwrap(), dumped.tables);
    let differences =
        restored.schema_differences(&ctx(), dumped, &parts.given(), &Selection::Whole).await.unwrap();
    assert_eq!(differences, Vec::<String>::new());
    let report = restored.check(&ctx()).await.unwrap();
    assert_eq!((report.problems, report.unchecked), (vec![], vec![]));
    assert!(report.checked > 0);
}

const ACCOUNTS: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, filler text);
    CREATE TABLE moved (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount bigint NOT NULL);
    CREATE TABLE total (moves bigint NOT NULL);
    INSERT INTO total VALUES (0);
    INSERT INTO account SELECT i, 0, repeat(md5(i::text), 60) FROM generate_series(0, 19999) AS i;
    CREATE INDEX ON account (balance);";

/// Moves amounts between accounts and notes them, one transaction each, until it is told to end.
struct Writer {
    ends: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    async fn start(database: &Database) -> Self {
        let client = database.connect_as_superuser().await;
        let (ends, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, counted) = (Arc::clone(&ends), Arc::clone(&moved));
        let task = tokio::spawn(async move {
            let mut amount = 0;
            while !seen.load(Ordering::SeqCst) {
                amount += 1;
                let (from, to) = (amount * 7 % 10_000, 10_000 + amount * 11 % 10_000);
                client
                    .batch_execute(&format!(
                        "BEGIN; UPDATE account SET balance = balance - {amount} WHERE id = {from}; \
                         UPDATE account SET balance = balance + {amount} WHERE id = {to}; \
                         INSERT INTO moved (amount) VALUES ({amount}); UPDATE total SET moves = moves + 1; COMMIT"
                    ))
                    .await
                    .unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        let writer = Self { ends, moved, task };
        writer.wait_for_another().await;
        writer
    }

    async fn wait_for_another(&self) {
        let (before, begun) = (self.moved.load(Ordering::SeqCst), Instant::now());
        while self.moved.load(Ordering::SeqCst) <= before {
            assert!(begun.elapsed() < PATIENCE, "the writer stands still");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(self) {
        self.ends.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_one_state_while_others_write() {
    let database = database("backup_state").await;
    database.admin(ACCOUNTS).await;
    let store = store(&database).await;
    let writer = Writer::start(&database).await;
    let (dumped, parts) = dump(&store).await;
    writer.wait_for_another().await;
    writer.end().await;
    assert_eq!((dumped.layout, dumped.method), (Layout::Stream, BackupMethod::Logical));
    assert_eq!(dumped.point.timeline, Some(1));
    assert!(dumped.point.position.is_some() && dumped.point.server_at.is_some());
    // Several ranges of one table, each a part.
    let ranges = parts.paths().iter().filter(|path| path.contains("-public.account/")).count();
    assert!(ranges > 2, "{:?}", parts.paths());
    let scratch = Scratch::new();
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
    assert_same(&dumped, &parts, &*restored).await;
    for sql in [
        "SELECT sum(balance) = 0 FROM account",
        "SELECT (SELECT count(*) FROM moved) = (SELECT moves FROM total)",
        "SELECT (SELECT sum(amount) FROM moved) = (SELECT sum(balance) FROM account WHERE id >= 10000)",
        "SELECT (SELECT last_value FROM moved_id_seq) >= (SELECT max(id) FROM moved)",
    ] {
        assert!(restored.probe(&ctx(), sql).await.unwrap(), "{sql}");
    }
    restored.remove().await.unwrap();
    assert!(!scratch.0.path().join("a/server").exists());
}

/// What `pg_dump` does not print: what the server itself is told of the database, its large objects and materialised views.
const BESIDE_THE_DUMP: &str = "SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
    SELECT format('setting %s %s', s.setrole::regrole, s.setconfig) AS line FROM pg_db_role_setting s, pg_database d
      WHERE d.oid = s.setdatabase AND d.datname = current_database()
    UNION ALL SELECT format('database %s %s %s %s', pg_get_userbyid(datdba), ARRAY(SELECT a::text FROM unnest(datacl) AS a ORDER BY 1), pg_encoding_to_char(encoding), datcollate)
      FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT format('comment %s', shobj_description(oid, 'pg_database')) FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT format('object %s %s %s %s %s', m.oid, pg_get_userbyid(m.lomowner), ARRAY(SELECT a::text FROM unnest(m.lomacl) AS a ORDER BY 1), md5(lo_get(m.oid)), obj_description(m.oid, 'pg_largeobject'))
      FROM pg_largeobject_metadata m
    UNION ALL SELECT format('third %s', total) FROM a_third
    UNION ALL SELECT format('never %s', relispopulated) FROM pg_class WHERE relname = 'never'
    UNION ALL SELECT format('sequence %s %s %s', schemaname, sequencename, last_value) FROM pg_sequences
    UNION ALL SELECT format('role %s %s', r.rolname, ARRAY(SELECT b.rolname FROM pg_auth_members m JOIN pg_roles b ON b.oid = m.roleid WHERE m.member = r.oid))
      FROM pg_roles r WHERE starts_with(r.rolname, current_database() || '_')
    UNION ALL SELECT format('password %s %s', r.rolname, r.rolpassword) FROM pg_authid r WHERE starts_with(r.rolname, current_database() || '_')
  ) AS lines";

async fn text_of(address: &str, sql: &str) -> String {
    // libpq's form of the address, in the driver's.
    let url = url::Url::parse(address).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.dbname(url.path().trim_start_matches('/')).user(server::superuser());
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "host" => config.host_path(value.as_ref()),
            "port" => config.port(value.parse().unwrap()),
            _ => &mut config,
        };
    }
    if let Some(host) = url.host_str().filter(|host| !host.is_empty()) {
        config.host(host).port(url.port().unwrap());
    }
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

async fn zoo(case: &str) -> Database {
    let database = database(case).await;
    database.superuser(&include_str!("server/zoo.sql").replace("NAME", &database.name())).await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back() {
    let database = zoo("backup_zoo").await;
    let store = store(&database).await;
    let (dumped, parts) = dump(&store).await;
    assert!(dumped.needs.iter().any(|need| need.starts_with("extension citext ")), "{:?}", dumped.needs);
    assert!(dumped.needs.contains(&format!("role {}_guest", database.name())), "{:?}", dumped.needs);
    assert_eq!(dumped.left_out, ["rows of the foreign tables public.far_table: they are another server's"]);
    let rows = |table: &str| dumped.tables.iter().find(|known| known.table == table).unwrap().rows;
    assert_eq!((rows("public.no_columns"), rows("public.only_computed"), rows("public.parent")), (2, 1, 1));
    assert_eq!((rows("public.measure_2024_odd"), rows("pg_catalog.pg_largeobject")), (2, 6));
    assert!(!dumped.tables.iter().any(|known| known.table == "public.measure"), "rows are in the leaves");
    let expected = database.text(BESIDE_THE_DUMP).await;
    assert!(expected.contains("third 157") && expected.contains("never f"), "{expected}");

    let scratch = Scratch::new();
    let preflight =
        Store::load(&store).unwrap().preflight(&ctx(), &dumped, &scratch.target("a")).await.unwrap();
    assert_eq!((preflight.refusals, preflight.warnings), (vec![], vec![]));
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
    assert_same(&dumped, &parts, &*restored).await;
    assert_eq!(text_of(&restored.address(), BESIDE_THE_DUMP).await, expected);
    drop(restored);
    assert!(!scratch.0.path().join("a/server").exists(), "a dropped handle takes its server away");

    // Beside the live one, under another name.
    let name = format!("{}_copy", database.name());
    let target = LoadTarget::Beside { name: name.clone() };
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &target).await.unwrap();
    assert_same(&dumped, &parts, &*restored).await;
    assert_eq!(
        text_of(&restored.address(), BESIDE_THE_DUMP)
            .await
            .lines()
            .filter(|line| !line.starts_with("role ") && !line.starts_with("password "))
            .collect::<Vec<_>>(),
        expected
            .lines()
            .filter(|line| !line.starts_with("role ") && !line.starts_with("password "))
            .collect::<Vec<_>>()
    );
    restored.remove().await.unwrap();
    assert_eq!(
        database.text(&format!("SELECT count(*)::text FROM pg_database WHERE datname LIKE '{name}%'")).await,
        "0"
    );
}
