//! Backups of real databases: taken while others write, put back by the same and by other hands, and compared.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

#[allow(dead_code, reason = "shared with the other suites")]
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conformance::Parts;
use contract::{
    Actor, BackupMethod, Context, DumpOptions, Dumped, Error, ErrorKind, Layout, Load, LoadTarget, Part,
    PartBody, PartSink, Restored, Selection, Store,
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

/// Whether this is the run with the version that all cases are run with; the others are asked what depends on the version.
fn with_every_case() -> bool {
    server::version() == 17
}

/// The folder of the programs of the server that is tested.
async fn programs(database: &Database) -> PathBuf {
    database.text("SELECT setting FROM pg_config WHERE name = 'BINDIR'").await.into()
}

async fn store(database: &Database) -> PostgresStore {
    let folder = programs(database).await;
    database.store_with(|config| config.bin_dir = Some(folder), &[])
}

fn is_of_rows(path: &str) -> bool {
    path.starts_with("5-rows/") && path != "5-rows/index.tsv"
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
    let name = database.name();
    assert_eq!(
        dumped.left_out,
        [
            "rows of the foreign tables public.far_table: they are another server's".to_owned(),
            format!(
                "that the subscriptions {name}_bare, {name}_feed run: they come back switched off, so that no copy takes \
                 from a publisher"
            ),
        ]
    );
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

/// Takes parts, and does something once when a part of this beginning comes.
struct Meanwhile<F> {
    parts: Parts,
    at: &'static str,
    action: tokio::sync::Mutex<Option<F>>,
}

impl<F> Meanwhile<F> {
    fn new(at: &'static str, action: F) -> Self {
        Self { parts: Parts::default(), at, action: tokio::sync::Mutex::new(Some(action)) }
    }
}

#[async_trait::async_trait]
impl<F, T> PartSink for Meanwhile<F>
where
    F: FnOnce() -> T + Send,
    T: Future<Output = ()> + Send,
{
    async fn put(&self, part: Part) -> Result<(), Error> {
        if part.path.starts_with(self.at)
            && let Some(action) = self.action.lock().await.take()
        {
            action().await;
        }
        self.parts.put(part).await
    }
}

async fn dump_into(store: &PostgresStore, sink: &dyn PartSink) -> Result<Dumped, Error> {
    let scratch = Scratch::new();
    Store::dump(store).unwrap().dump(&ctx(), &scratch.options(), sink).await
}

/// The server ends our sessions, or the line is cut, in the middle of the rows: there is no manifest.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_goes_away_is_an_error() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_gone").await;
    database.admin(ACCOUNTS).await;
    let client = database.connect_as_superuser().await;
    let end_all = async || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = 'steward' AND pid <> pg_backend_pid()";
        assert!(!client.query(end, &[]).await.unwrap().is_empty());
    };
    let whole_store = store(&database).await;
    for at in ["4-", "5-rows/00000-public.account/000001", "5-rows/index.tsv", "restore.sh"] {
        let error = dump_into(&whole_store, &Meanwhile::new(at, &end_all)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{at}: {error}");
    }
    let relay = server::Relay::start(server::port()).await;
    let (folder, port) = (programs(&database).await, relay.port());
    let through = database.store_with(
        |config| {
            config.bin_dir = Some(folder);
            config.url = config.url.replace(&format!(":{}/", server::port()), &format!(":{port}/"));
        },
        &[],
    );
    let error = dump_into(&through, &Meanwhile::new("5-rows", || async { relay.cut() })).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    relay.mend();
    // A repository that is full is the repository's error, and the next attempt is whole.
    let error = dump_into(&through, &Parts::full_after(6)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    assert_eq!(dump(&through).await.0.tables, dump(&whole_store).await.0.tables);
    // Nothing of ours goes on at the server.
    database.until_sessions(&server::superuser(), "application_name = 'steward'", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_does_not_come_names_its_holder() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_lock").await;
    database.admin("CREATE TABLE free (a int); CREATE TABLE held (a int)").await;
    let folder = programs(&database).await;
    let store = database.store_with(
        |config| {
            config.bin_dir = Some(folder);
            config.lock_timeout_ms = 200;
        },
        &[],
    );
    let holder = database.connect_as_superuser().await;
    holder.batch_execute("SET application_name = 'the migration'; BEGIN; LOCK TABLE held").await.unwrap();
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let error = dump_into(&store, &Parts::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let expected = format!(
        "session {pid} of `{}` (the migration) holds ACCESS EXCLUSIVE on public.held",
        server::superuser()
    );
    assert!(error.to_string().contains(&expected), "{error}");
    holder.batch_execute("COMMIT").await.unwrap();
    dump(&store).await;
}

/// A table is changed between the dump's snapshot and its lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_schema_in_the_middle_loses_no_row() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_ddl").await;
    let store = store(&database).await;
    for (change, tables) in [
        ("ALTER TABLE changed ALTER a TYPE bigint", vec![("public.changed", 1000), ("public.other", 1)]),
        (
            "CREATE TABLE copied AS SELECT * FROM changed; DROP TABLE changed",
            vec![("public.copied", 1000), ("public.other", 1)],
        ),
        (
            "DELETE FROM changed WHERE a > 10; TRUNCATE other; INSERT INTO other VALUES (2), (3)",
            vec![("public.changed", 10), ("public.other", 2)],
        ),
        ("ALTER TABLE changed ADD c int DEFAULT 5", vec![("public.changed", 1000), ("public.other", 1)]),
        ("ALTER TABLE changed RENAME TO renamed", vec![("public.other", 1), ("public.renamed", 1000)]),
    ] {
        database
            .admin(
                "DROP TABLE IF EXISTS changed, copied, renamed, other; CREATE TABLE changed (a int, b text); \
                 INSERT INTO changed SELECT i, 'x' FROM generate_series(1, 1000) AS i; \
                 CREATE TABLE other (a int); INSERT INTO other VALUES (1)",
            )
            .await;
        let other = database.connect_as_superuser().await;
        other.batch_execute(&format!("BEGIN; LOCK TABLE changed, other; {change}")).await.unwrap();
        let parts = Parts::default();
        let commit = async {
            database
                .until_sessions(
                    &server::superuser(),
                    "application_name = 'steward' AND wait_event_type = 'Lock'",
                    1,
                )
                .await;
            other.batch_execute("COMMIT").await.unwrap();
        };
        let (dumped, ()) = tokio::join!(dump_into(&store, &parts), commit);
        let dumped = dumped.unwrap_or_else(|error| panic!("{change}: {error}"));
        let rows: Vec<(&str, u64)> =
            dumped.tables.iter().map(|table| (table.table.as_str(), table.rows)).collect();
        assert_eq!(rows, tables, "{change}");
        if !change.contains("ADD c") {
            continue;
        }
        let scratch = Scratch::new();
        let restored =
            restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
        assert_same(&dumped, &parts, &*restored).await;
    }
}

/// A change of the schema that waits for the dump does not make the dump wait behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_change_of_the_schema_waits_for_the_end() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_waits").await;
    database.admin(ACCOUNTS).await;
    let folder = programs(&database).await;
    let store = database.store_with(
        |config| {
            config.bin_dir = Some(folder);
            config.lock_timeout_ms = 2_000;
        },
        &[],
    );
    let other = Arc::new(database.connect_as_superuser().await);
    let (change, waiting) = (Arc::new(tokio::sync::Mutex::new(None)), database.clone());
    let begin = {
        let (other, change) = (Arc::clone(&other), Arc::clone(&change));
        || async move {
            let alter = "SET application_name = 'the migration'; ALTER TABLE account ADD c int";
            *change.lock().await = Some(tokio::spawn(async move { other.batch_execute(alter).await }));
            let condition = "application_name = 'the migration' AND wait_event_type = 'Lock'";
            waiting.until_sessions(&server::superuser(), condition, 1).await;
        }
    };
    let dumped = dump_into(&store, &Meanwhile::new("0-readme", begin)).await.unwrap();
    assert_eq!(dumped.tables[0].rows, 20_000);
    change.lock().await.take().unwrap().await.unwrap().unwrap();
}

/// Of tables that belong to an extension, those rows that it says are the user's.
#[tokio::test(flavor = "multi_thread")]
async fn what_users_configure_in_extensions_is_taken() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_config").await;
    database
        .superuser(
            "CREATE EXTENSION hstore; CREATE TABLE configured (a int); CREATE TABLE its_own (a int); \
             INSERT INTO configured VALUES (1), (2), (3); INSERT INTO its_own VALUES (1); \
             ALTER EXTENSION hstore ADD TABLE configured; ALTER EXTENSION hstore ADD TABLE its_own; \
             UPDATE pg_extension SET extconfig = ARRAY['configured'::regclass::oid], extcondition = ARRAY['WHERE a > 1'] \
             WHERE extname = 'hstore'",
        )
        .await;
    let (dumped, parts) = dump(&store(&database).await).await;
    let tables: Vec<(&str, u64)> =
        dumped.tables.iter().map(|table| (table.table.as_str(), table.rows)).collect();
    assert_eq!(tables, [("public.configured", 2)]);
    assert_eq!(parts.bytes("5-rows/00000-public.configured/000000-0000.copy"), b"2\n3\n");
}

/// Programs that print what they are told to, under the names of PostgreSQL's.
fn fake_programs(version: &str, prints: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    for name in ["pg_dump", "pg_dumpall", "psql", "initdb", "postgres"] {
        let path = folder.path().join(name);
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{name} (PostgreSQL) {version}'; exit; fi\n{prints}\n"
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_do_not_fit_are_refused() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_tools").await;
    let with = |folder: &std::path::Path| {
        let folder = folder.to_owned();
        database.store_with(|config| config.bin_dir = Some(folder), &[])
    };
    let major = server::version();
    let scratch = Scratch::new();
    let nothing = tempfile::tempdir().unwrap();
    let old = fake_programs("12.22 (Debian 12.22-1)", "exit 0");
    for (folder, expected) in [
        (nothing.path(), "there is no `pg_dump` for the server".to_owned()),
        (old.path(), format!("`pg_dump` 12.22 is older than the server, PostgreSQL {major}.")),
    ] {
        let store = with(folder);
        let preflight = Store::dump(&store).unwrap().preflight(&ctx(), &scratch.options()).await.unwrap();
        assert!(preflight.refusals[0].contains(&expected), "{preflight:?}");
        assert!(preflight.refusals[0].contains(&format!("postgresql-client-{major}")), "{preflight:?}");
        let error = dump_into(&store, &Parts::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains(&expected), "{error}");
    }
    // What ends in the middle of its text, or well without a text, is no dump.
    for (prints, kind, expected) in [
        (
            "echo '-- PostgreSQL database dump'; echo 'CREATE TABLE'; exit 0",
            ErrorKind::Unavailable,
            "stopped before its end",
        ),
        ("exit 0", ErrorKind::Unavailable, "stopped before its end"),
        (
            "echo '-- PostgreSQL database dump complete'; echo 'out of memory' >&2; exit 1",
            ErrorKind::Unavailable,
            "out of memory",
        ),
        (
            "echo 'pg_dump: error: permission denied for table t' >&2; exit 1",
            ErrorKind::Denied,
            "permission denied",
        ),
        ("kill -KILL $$", ErrorKind::Unavailable, "signal: 9"),
    ] {
        let folder = fake_programs("99.1", prints);
        let error = dump_into(&with(folder.path()), &Parts::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{prints}: {error}");
        assert!(error.to_string().contains(expected), "{prints}: {error}");
    }
    // The password is not in the command.
    let seen = fake_programs("99.1", "echo \"$@ $PGPASSWORD\" >&2; exit 1");
    let reading = database.store_with(
        |config| {
            config.bin_dir = Some(seen.path().to_owned());
            config.admin = None;
        },
        &[],
    );
    let error = dump_into(&reading, &Parts::default()).await.unwrap_err().to_string();
    let (command, password) = error.split_once("because: ").unwrap().1.trim().rsplit_once(' ').unwrap();
    assert!(password.contains("pa55word") && !command.contains("pa55word"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_names_what_the_login_may_not_read() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_rights").await;
    database
        .superuser(&format!(
            "CREATE TABLE open (a int); CREATE TABLE closed (a int); CREATE TABLE secret (a int); CREATE SEQUENCE counter; \
             SELECT lo_create(0); ALTER TABLE secret ENABLE ROW LEVEL SECURITY; GRANT SELECT ON open, secret TO {}",
            database.reader()
        ))
        .await;
    let folder = programs(&database).await;
    let store = database.store_with(
        |config| {
            config.bin_dir = Some(folder);
            config.admin = None;
        },
        &[],
    );
    let scratch = Scratch::new();
    let preflight = Store::dump(&store).unwrap().preflight(&ctx(), &scratch.options()).await.unwrap();
    let all = preflight.refusals.join("\n");
    for expected in [
        "may not read public.closed, public.counter:",
        "row security hides rows of public.secret",
        "may not read 1 large objects",
    ] {
        assert!(all.contains(expected), "{all}");
    }
    assert!(preflight.notes[0].contains("passwords of roles"), "{:?}", preflight.notes);
    assert!(
        dump_into(&store, &Parts::default()).await.is_err(),
        "and it fails rather than leaving something out"
    );
    // With rights to read everything it works, and says what is missing.
    database
        .superuser(&format!(
            "SELECT lo_unlink(oid) FROM pg_largeobject_metadata; GRANT pg_read_all_data TO {0}; ALTER ROLE {0} BYPASSRLS; INSERT INTO secret VALUES (1)",
            database.reader()
        ))
        .await;
    let preflight = Store::dump(&store).unwrap().preflight(&ctx(), &scratch.options()).await.unwrap();
    assert_eq!(preflight.refusals, Vec::<String>::new());
    let (dumped, parts) = dump(&store).await;
    assert_eq!(dumped.left_out.len(), 1);
    assert!(!String::from_utf8(parts.bytes("1-roles.sql")).unwrap().contains("SCRAM-SHA-256"));
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
    assert_same(&dumped, &parts, &*restored).await;
}

/// Loads that must fail leave neither a database nor a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_leaves_nothing() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_fails").await;
    database.superuser("CREATE EXTENSION citext; CREATE TABLE t (a citext UNIQUE); INSERT INTO t SELECT generate_series(1, 50)").await;
    database
        .superuser(&format!("CREATE ROLE {0}_other; GRANT SELECT ON t TO {0}_other", database.name()))
        .await;
    let store = store(&database).await;
    let (dumped, parts) = dump(&store).await;
    let name = format!("{}_new", database.name());
    let beside = LoadTarget::Beside { name: name.clone() };
    let scratch = Scratch::new();
    let databases = format!("SELECT count(*)::text FROM pg_database WHERE datname LIKE '{name}%'");
    let load = Store::load(&store).unwrap();
    let rows = parts.paths().into_iter().find(|path| is_of_rows(path)).unwrap();
    // A part that is not what was written, and one that is and does not fit.
    let mut damaged = parts.given();
    damaged.damage(&rows, |bytes| bytes[0] ^= 1);
    let twice = Parts::default();
    for path in parts.paths() {
        let mut bytes = parts.bytes(&path);
        if path == rows {
            bytes.extend_from_slice(b"1\n");
        }
        twice.put(Part { path, body: PartBody::Bytes(bytes.into()) }).await.unwrap();
    }
    for target in [&beside, &scratch.target("a")] {
        let error = load.load(&ctx(), &dumped, &damaged, &Selection::Whole, target).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let error =
            load.load(&ctx(), &dumped, &twice.given(), &Selection::Whole, target).await.err().unwrap();
        assert!(error.to_string().contains("could not create unique index"), "{error}");
        assert!(error.to_string().contains("8-after-rows.sql"), "{error}");
        assert!(error.to_string().contains("ADD CONSTRAINT \"t_a_key\" UNIQUE"), "the statement: {error}");
        assert_eq!(database.text(&databases).await, "0");
        assert!(!scratch.0.path().join("a/server").exists());
    }
    // Too little, too old, too new, another's.
    let mut other = dumped.clone();
    other.needs.push("extension postgis 3.5.2".into());
    let mut newer = dumped.clone();
    newer.detail["version_num"] = 990_001.into();
    newer.version = "99.1".into();
    let mut foreign = dumped.clone();
    foreign.kind = "sqlite".into();
    let mut roleless = dumped.clone();
    roleless.needs.push("role nobody_of_this_name".into());
    for (dumped, target, expected) in [
        (&other, &beside, "the extension `postgis` is not installed"),
        (&other, &scratch.target("a"), "the extension `postgis` is not installed"),
        (&newer, &scratch.target("a"), "is older than the server, PostgreSQL 99.1"),
        (&foreign, &beside, "of kind `sqlite`"),
        (&roleless, &beside, "the role `nobody_of_this_name` is missing"),
    ] {
        let preflight = load.preflight(&ctx(), dumped, target).await.unwrap();
        assert!(
            preflight.refusals.iter().any(|refusal| refusal.contains(expected)),
            "{expected}: {preflight:?}"
        );
        let error = load.load(&ctx(), dumped, &parts.given(), &Selection::Whole, target).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains(expected), "{expected}: {error}");
    }
    // What is there is not touched.
    let there = LoadTarget::Beside { name: database.name() };
    let preflight = load.preflight(&ctx(), &dumped, &there).await.unwrap();
    assert!(preflight.refusals[0].contains("nothing is overwritten"), "{preflight:?}");
    let error = load.load(&ctx(), &dumped, &parts.given(), &Selection::Whole, &there).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(database.text("SELECT count(*)::text FROM t").await, "50");
    // What a killed process left is in nobody's way.
    database.superuser(&format!("CREATE DATABASE {name}_steward_loading")).await;
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &beside).await.unwrap();
    assert_eq!(restored.fingerprint(&ctx(), &dumped).await.unwrap(), dumped.tables);
    restored.remove().await.unwrap();
    assert_eq!(database.text(&databases).await, "0");
}

/// Gives so many parts and then nothing more, as one whose process is killed sees it.
struct Halting {
    given: conformance::Given,
    left: AtomicUsize,
    reached: tokio::sync::Notify,
}

#[async_trait::async_trait]
impl contract::PartSource for Halting {
    fn parts(&self) -> &[contract::PartRecord] {
        self.given.parts()
    }

    async fn read(&self, path: &str) -> Result<bytes::Bytes, Error> {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
        self.given.read(path).await
    }

    async fn read_into(&self, path: &str, file: &Path) -> Result<(), Error> {
        self.given.read_into(path, file).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_killed_is_gone_on_with() {
    let database = zoo("backup_resume").await;
    let store = store(&database).await;
    let (dumped, parts) = dump(&store).await;
    let target = LoadTarget::Beside { name: format!("{}_copy", database.name()) };
    let rows = parts.paths().iter().filter(|path| is_of_rows(path)).count();
    assert!(rows > 6, "{rows}");
    // Among the rows, and after the last of them.
    for kept in [4, rows + 2] {
        let halting = Arc::new(Halting {
            given: parts.given(),
            left: AtomicUsize::new(kept),
            reached: tokio::sync::Notify::new(),
        });
        let other = (self::store(&database).await, dumped.clone(), target.clone(), Arc::clone(&halting));
        // A runtime of its own, which ends as a process does: nothing is taken away behind it.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.spawn(async move {
            let (store, dumped, target, halting) = other;
            drop(
                Store::load(&store)
                    .unwrap()
                    .load(&ctx(), &dumped, &*halting, &Selection::Whole, &target)
                    .await,
            );
        });
        tokio::time::timeout(PATIENCE, halting.reached.notified()).await.unwrap();
        runtime.shutdown_background();
        let given = parts.given();
        let load = Store::load(&store).unwrap();
        let restored = load.load(&ctx(), &dumped, &given, &Selection::Whole, &target).await.unwrap();
        assert_same(&dumped, &parts, &*restored).await;
        let again = given.asked().iter().filter(|path| is_of_rows(path)).count();
        assert!(again < rows, "{kept}: {again} of {rows} parts were read again");
        restored.remove().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_tables_and_schemas_come_back_alone() {
    if !with_every_case() {
        return;
    }
    let database = zoo("backup_some").await;
    let store = store(&database).await;
    let (dumped, parts) = dump(&store).await;
    let scratch = Scratch::new();
    let none: Vec<String> = Vec::new();
    for (number, (selection, tables, probe)) in [
        (
            Selection::Tables(
                ["public.booking", "public.measure", "public.every_type"].map(String::from).to_vec(),
            ),
            vec![
                "\"Odd Schema\".measure_2025",
                "public.booking",
                "public.every_type",
                "public.measure_2024_odd",
                "public.measure_2024_rest",
            ],
            "SELECT count(*) = 13 AND (SELECT last_value = 20 FROM every_type_id_seq) FROM measure",
        ),
        (
            Selection::Schema("Odd Schema".into()),
            vec!["\"Odd Schema\".\"Tab\tle \"\"x\"\" /..\"", "\"Odd Schema\".measure_2025"],
            "SELECT last_value = 77 AND to_regclass('public.customer') IS NULL FROM \"Odd Schema\".\"it's\"",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let target = scratch.target(&number.to_string());
        let restored = restore(&store, &dumped, &parts, &selection, &target).await.unwrap();
        let now = restored.fingerprint(&ctx(), &dumped).await.unwrap();
        let names: Vec<&str> = now.iter().map(|table| table.table.as_str()).collect();
        assert_eq!(names, tables, "{selection:?}");
        for table in &now {
            assert!(dumped.tables.contains(table), "{selection:?}: {table:?}");
        }
        let differences =
            restored.schema_differences(&ctx(), &dumped, &parts.given(), &selection).await.unwrap();
        assert_eq!(differences, none, "{selection:?}");
        assert!(restored.probe(&ctx(), probe).await.unwrap(), "{probe}");
        assert_eq!(restored.check(&ctx()).await.unwrap().problems, vec![]);
    }
    let wrong = Selection::Tables(vec!["public.nothing".into()]);
    let error = restore(&store, &dumped, &parts, &wrong, &scratch.target("9")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_exchanges_two_names() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_swap").await;
    database.admin("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let folder = programs(&database).await;
    let store = database.store_with(
        |config| {
            config.bin_dir = Some(folder);
            config.lock_timeout_ms = 1_500;
        },
        &[],
    );
    let (dumped, parts) = dump(&store).await;
    database.admin("UPDATE t SET a = 2").await;
    let name = format!("{}_copy", database.name());
    let target = LoadTarget::Beside { name };
    let mut restored = restore(&store, &dumped, &parts, &Selection::Whole, &target).await.unwrap();
    // Somebody is connected: nothing happens, and nobody is locked out.
    let other = database.connect_as_superuser().await;
    other.batch_execute("SET application_name = 'the shop'").await.unwrap();
    let error = store.swap(&ctx(), &*restored, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("(the shop)"), "{error}");
    assert_eq!(database.text("SELECT a::text FROM t").await, "2");
    drop(other);
    database.until_sessions(&server::superuser(), "pid <> pg_backend_pid()", 0).await;
    let undo = store.swap(&ctx(), &*restored, false).await.unwrap();
    restored.keep();
    assert_eq!(database.text("SELECT a::text FROM t").await, "1");
    // The old one is closed until it is brought back, as the words say.
    let old = database
        .text(&format!(
            "SELECT datname::text FROM pg_database WHERE datname LIKE '{}_before_%' AND NOT datallowconn",
            database.name()
        ))
        .await;
    assert!(undo.contains(&old), "{undo}");
    let outside = server::connect("postgres").await;
    database.until_sessions(&server::superuser(), "pid <> pg_backend_pid()", 0).await;
    let back =
        undo.split_once("back: ").unwrap().1.replace("\"wrong\"", &format!("\"{}_wrong\"", database.name()));
    for statement in back.split("; ") {
        // The last look at it may still be ending.
        outside.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    assert_eq!(database.text("SELECT a::text FROM t").await, "2");
    outside.batch_execute(&format!("DROP DATABASE {}_wrong", database.name())).await.unwrap();
    // Whoever does not end is ended, where that was asked for, and what it had not committed is undone.
    let target = LoadTarget::Beside { name: format!("{}_again", database.name()) };
    let mut restored = restore(&store, &dumped, &parts, &Selection::Whole, &target).await.unwrap();
    let other = database.connect_as_superuser().await;
    other.batch_execute("BEGIN; UPDATE t SET a = 3").await.unwrap();
    store.swap(&ctx(), &*restored, true).await.unwrap();
    restored.keep();
    assert!(other.batch_execute("COMMIT").await.is_err());
    assert_eq!(database.text("SELECT a::text FROM t").await, "1");
    let old = format!(
        "SELECT datname::text FROM pg_database WHERE datname LIKE '{}_before_%' AND NOT datallowconn",
        database.name()
    );
    let old = database.text(&old).await;
    outside.batch_execute(&format!("ALTER DATABASE \"{old}\" WITH ALLOW_CONNECTIONS true")).await.unwrap();
    outside.batch_execute(&format!("DROP DATABASE \"{old}\" WITH (FORCE)")).await.unwrap();
    // A scratch server is not swapped.
    let scratch = Scratch::new();
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
    assert_eq!(store.swap(&ctx(), &*restored, false).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

/// With `psql` and the script in the backup alone, as somebody who has only `restic` would.
#[tokio::test(flavor = "multi_thread")]
async fn people_can_restore_without_us() {
    let database = zoo("backup_hand").await;
    let store = store(&database).await;
    let (dumped, parts) = dump(&store).await;
    let folder = tempfile::tempdir().unwrap();
    for path in parts.paths() {
        let file = folder.path().join(&path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, parts.bytes(&path)).unwrap();
    }
    let name = format!("{}_by_hand", database.name());
    let path = std::env::join_paths(
        std::iter::once(programs(&database).await)
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let ran = tokio::process::Command::new("sh")
        .arg(folder.path().join("restore.sh"))
        .arg(&name)
        .env("PATH", path.unwrap())
        .envs([("PGHOST", "127.0.0.1"), ("PGPORT", &server::port()), ("PGUSER", &server::superuser())])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    let outside = server::connect("postgres").await;
    let bin_dir = programs(&database).await;
    let by_hand = database.store_with(
        |config| {
            config.url = format!("{}{name}", config.url.trim_end_matches(&database.name()));
            config.bin_dir = Some(bin_dir);
        },
        &[],
    );
    let again = dump_into(&by_hand, &Parts::default()).await;
    server::without_subscriptions(&server::connect(&name).await).await;
    outside.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    assert!(ran.status.success(), "{said}");
    let again = again.unwrap();
    let (tables, schema) = (again.tables, again.schema_sha256);
    assert_eq!(tables, dumped.tables);
    assert_eq!(schema, dumped.schema_sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_other_encodings_come_back() {
    for (encoding, text) in
        [("LATIN1", "'ä' || chr(255)"), ("SQL_ASCII", "convert_from('\\xfffe61'::bytea, 'SQL_ASCII')")]
    {
        let name = conformance::namespace("backup_encoding");
        let options = format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        let database = Database::create_with(&name, &options).await;
        database.superuser(&format!("CREATE TABLE t (a text); INSERT INTO t SELECT {text}")).await;
        let store = store(&database).await;
        let (dumped, parts) = dump(&store).await;
        let scratch = Scratch::new();
        let restored =
            restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
        assert_same(&dumped, &parts, &*restored).await;
        let bytes = "SELECT encode(a::bytea, 'hex') || getdatabaseencoding() FROM t";
        assert_eq!(text_of(&restored.address(), bytes).await, database.text(bytes).await, "{encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_a_backup_too() {
    let database = database("backup_empty").await;
    let store = store(&database).await;
    let (dumped, parts) = dump(&store).await;
    assert_eq!(dumped.tables, vec![]);
    let scratch = Scratch::new();
    let mut restored =
        restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
    let differences =
        restored.schema_differences(&ctx(), &dumped, &parts.given(), &Selection::Whole).await.unwrap();
    assert_eq!(differences, Vec::<String>::new());
    for (sql, expected) in [
        ("SELECT true", Ok(true)),
        ("SELECT 1 = 2", Ok(false)),
        ("SELECT NULL::boolean", Ok(false)),
        ("SELECT 't'", Ok(false)),
        ("SELECT true WHERE false", Err(ErrorKind::Invalid)),
        ("SELECT true FROM generate_series(1, 2)", Err(ErrorKind::Invalid)),
        ("SELECT true; SELECT true", Err(ErrorKind::Invalid)),
        ("CREATE TABLE x (a int)", Err(ErrorKind::Invalid)),
        ("SELECT lo_create(0) > 0", Err(ErrorKind::Denied)),
    ] {
        if sql.contains("lo_create") && server::version() < server::LARGE_OBJECTS_REFUSED_SINCE {
            continue;
        }
        assert_eq!(restored.probe(&ctx(), sql).await.map_err(|error| error.kind()), expected, "{sql}");
    }
    // Kept, it goes on without us, and ends by the command.
    let command = restored.keep();
    let address = restored.address();
    drop(restored);
    assert_eq!(text_of(&address, "SELECT 'here'").await, "here");
    let ended = std::process::Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(ended.success(), "{command}");
    assert!(!scratch.0.path().join("a/server").exists());
}

/// Set for the process that is killed: the database and the folder of its scratch server.
const KILLED: &str = "STEWARD_TEST_KILLED";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_no_server() {
    if !with_every_case() {
        return;
    }
    if let Ok(of_parent) = std::env::var(KILLED) {
        let (name, folder) = of_parent.split_once(':').unwrap();
        let store = store(&Database::of_another_process(name)).await;
        let (dumped, parts) = dump(&store).await;
        let target = LoadTarget::Scratch { folder: folder.into() };
        let restored = restore(&store, &dumped, &parts, &Selection::Whole, &target).await.unwrap();
        std::fs::write(PathBuf::from(folder).join("address"), restored.address()).unwrap();
        std::future::pending::<()>().await;
    }
    let database = database("backup_killed").await;
    database.admin("CREATE TABLE t (a int)").await;
    let folder = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_leaves_no_server"])
        .env(KILLED, format!("{}:{}", database.name(), folder.path().display()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let address = loop {
        match std::fs::read_to_string(folder.path().join("address")) {
            Ok(address) if !address.is_empty() => break address,
            _ => {
                assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE, "no server");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    assert_eq!(text_of(&address, "SELECT 'here'").await, "here");
    let number: i32 =
        std::fs::read_to_string(folder.path().join("server/number")).unwrap().trim().parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let gone =
        || !folder.path().join("server").exists() && !PathBuf::from(format!("/proc/{number}")).exists();
    while !gone() {
        assert!(begun.elapsed() < PATIENCE, "the server goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the source's server loads at its start, its copy's does, where it is installed.
#[tokio::test(flavor = "multi_thread")]
async fn libraries_that_are_loaded_at_the_start_are_loaded_by_the_copy() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_preload").await;
    database.superuser("CREATE EXTENSION pg_stat_statements; CREATE TABLE t (a int)").await;
    let store = store(&database).await;
    let (mut dumped, parts) = dump(&store).await;
    assert_eq!(dumped.detail["preload"], serde_json::json!(["pg_stat_statements"]));
    let scratch = Scratch::new();
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
    // An error of the extension where its library was not loaded at the start.
    assert!(restored.probe(&ctx(), "SELECT count(*) >= 0 FROM pg_stat_statements").await.unwrap());
    assert_same(&dumped, &parts, &*restored).await;
    restored.remove().await.unwrap();
    let load = Store::load(&store).unwrap();
    dumped.detail["preload"] = serde_json::json!(["pg_stat_statements", "pg_cron", "../../tmp/evil"]);
    let preflight = load.preflight(&ctx(), &dumped, &scratch.target("b")).await.unwrap();
    let said = preflight.warnings.join("; ");
    assert!(preflight.refusals.is_empty(), "{preflight:?}");
    assert!(
        said.contains("`pg_cron`") && said.contains("postgresql-17-cron") && said.contains("evil"),
        "{said}"
    );
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("b")).await.unwrap();
    assert_same(&dumped, &parts, &*restored).await;
    restored.remove().await.unwrap();
    // What the database itself needs is not restored without.
    dumped.needs.push("extension pg_cron 1.6".into());
    let preflight = load.preflight(&ctx(), &dumped, &scratch.target("c")).await.unwrap();
    assert!(preflight.refusals.iter().any(|refusal| refusal.contains("pg_cron")), "{preflight:?}");
}

/// The programs verify the server as the session does.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_certificate_is_verified_is_dumped() {
    if !with_every_case() {
        return;
    }
    let database = database("backup_tls").await;
    database.admin("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let folder = programs(&database).await;
    let ca = PathBuf::from(database.text("SHOW ssl_cert_file").await).with_file_name("ca.crt");
    let with = |ca: Option<PathBuf>| {
        database.store_with(
            |config| {
                config.bin_dir = Some(folder.clone());
                config.tls = Some(store_postgres::Tls::Verify);
                config.tls_ca_file = ca;
            },
            &[],
        )
    };
    let store = with(Some(ca));
    let (dumped, parts) = dump(&store).await;
    let scratch = Scratch::new();
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
    assert_same(&dumped, &parts, &*restored).await;
    let unknown = dump_into(&with(None), &Parts::default()).await.unwrap_err();
    assert!(matches!(unknown.kind(), ErrorKind::Unavailable | ErrorKind::NotFound), "{unknown}");
}

/// Rows that no part can hold in memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_larger_than_a_part_comes_back() {
    if std::env::var_os("STEWARD_TEST_FULL").is_none() {
        return;
    }
    let database = database("backup_large").await;
    database
        .admin(
            "CREATE TABLE t (id int, a text); INSERT INTO t SELECT i, repeat(md5(i::text), 2300000) FROM generate_series(1, 3) AS i; \
             INSERT INTO t SELECT i, repeat(md5(i::text), 300000) FROM generate_series(4, 30) AS i",
        )
        .await;
    let store = store(&database).await;
    let (dumped, parts) = dump(&store).await;
    let lengths: Vec<usize> =
        parts.paths().iter().filter(|path| is_of_rows(path)).map(|path| parts.bytes(path).len()).collect();
    assert!(
        lengths.iter().filter(|length| **length > 64 << 20).count() == 3 && lengths.len() > 6,
        "{lengths:?}"
    );
    let scratch = Scratch::new();
    let restored = restore(&store, &dumped, &parts, &Selection::Whole, &scratch.target("a")).await.unwrap();
    assert_same(&dumped, &parts, &*restored).await;
}
