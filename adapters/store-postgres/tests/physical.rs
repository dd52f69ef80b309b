//! Physical backups of servers of the tests' own: taken, compared with the server's own list, started, damaged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::Arc;

use conformance::{Cluster, NoSecrets, Parts};
use contract::{
    Actor, BackupMethod, Context, DumpOptions, Dumped, Error, ErrorKind, FollowOptions, LoadTarget, LogGap,
    LogPiece, LogPosition, LogSink, LogSpan, LogState, Recovery, RecoveryTarget, Restored, Selection, Store,
};
use store_postgres::{Config, LoginConfig, PostgresStore};

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

/// 17 without its own variable.
fn version() -> u32 {
    std::env::var("STEWARD_TEST_POSTGRES").map_or(17, |version| version.parse().unwrap())
}

fn programs() -> PathBuf {
    conformance::programs(version())
}

fn store_as(cluster: &Cluster, user: &str) -> PostgresStore {
    let url = format!("postgres://127.0.0.1:{}/postgres", cluster.port());
    let login = LoginConfig { user: user.to_owned(), password_secret: None };
    let mut config = Config::new(&url, login);
    config.bin_dir = Some(cluster.programs().to_owned());
    store_postgres::open("orders", config, std::path::Path::new("/"), Arc::new(NoSecrets)).unwrap()
}

fn store(cluster: &Cluster) -> PostgresStore {
    store_as(cluster, "postgres")
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn options(&self) -> DumpOptions {
        DumpOptions { method: BackupMethod::Physical, scratch: self.0.path().to_owned(), parallel: 2 }
    }

    fn target(&self, name: &str) -> LoadTarget {
        LoadTarget::Scratch { folder: self.0.path().join(name) }
    }
}

async fn dump(store: &PostgresStore) -> Result<(Dumped, Parts), Error> {
    let (scratch, parts) = (Scratch::new(), Parts::default());
    let dumped = Store::dump(store).unwrap().dump(&ctx(), &scratch.options(), &parts).await?;
    Ok((dumped, parts))
}

async fn load(
    store: &PostgresStore,
    dumped: &Dumped,
    parts: &Parts,
    scratch: &Scratch,
) -> Result<Box<dyn Restored>, Error> {
    let target = scratch.target("copy");
    Store::load(store).unwrap().load(&ctx(), dumped, &parts.given(), &Selection::Whole, &target).await
}

const SHOP: &str = "CREATE TABLE orders (id int PRIMARY KEY, note text NOT NULL);
    INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1, 5000) AS i;
    CREATE INDEX ON orders (note)";

#[tokio::test]
async fn a_whole_server_comes_back_with_its_tablespaces_and_other_databases() {
    let cluster = Cluster::new(&programs(), &["--data-checksums"], &[]);
    cluster.sql("postgres", SHOP);
    let space = cluster.folder().join("fast");
    std::fs::create_dir(&space).unwrap();
    cluster.sql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    cluster.sql("postgres", "CREATE DATABASE other");
    cluster.sql(
        "other",
        "CREATE TABLE there (n int) TABLESPACE fast; INSERT INTO there SELECT generate_series(1, 70)",
    );
    cluster.sql("postgres", "ALTER SYSTEM SET archive_command = '/bin/false'");
    let store = store(&cluster);
    let looked = Store::dump(&store).unwrap().preflight(&ctx(), &Scratch::new().options()).await.unwrap();
    assert_eq!(looked.refusals, Vec::<String>::new());
    assert!(looked.scratch_bytes > 0, "with tablespaces it is copied first: {looked:?}");
    let (dumped, parts) = dump(&store).await.unwrap();
    assert_eq!(dumped.point.timeline, Some(1));
    assert!(dumped.tables.is_empty());
    let scratch = Scratch::new();
    let restored = load(&store, &dumped, &parts, &scratch).await.unwrap();
    let counted = restored.fingerprint(&ctx(), &dumped).await.unwrap();
    let rows: Vec<(&str, u64)> = counted.iter().map(|table| (table.table.as_str(), table.rows)).collect();
    assert_eq!(rows, [("other.public.there", 70), ("postgres.public.orders", 5_000)]);
    let report = restored.check(&ctx()).await.unwrap();
    assert_eq!((report.problems, report.unchecked), (vec![], vec![]));
    assert!(
        restored.probe(&ctx(), "SELECT count(*) = 5000 FROM orders").await.unwrap(),
        "after the pages too"
    );
    let proof = restored.proven_by().join("\n");
    for expected in [
        "as the server's own list has them",
        "was consistent",
        "5,070 rows in 2 tables",
        "amcheck",
        "checksums of",
    ] {
        assert!(proof.contains(expected), "{proof}");
    }
    restored.remove().await.unwrap();
    assert!(!scratch.0.path().join("copy/server").exists());
}

#[tokio::test]
async fn the_same_comes_back_by_a_shell_alone() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", SHOP);
    let (_, parts) = dump(&store(&cluster)).await.unwrap();
    let folder = Scratch::new();
    for path in parts.paths() {
        let file = folder.0.path().join(&path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, parts.bytes(&path)).unwrap();
    }
    let data = folder.0.path().join("data");
    let ran =
        std::process::Command::new("sh").arg(folder.0.path().join("restore.sh")).arg(&data).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let verified = cluster.program("pg_verifybackup", &["--no-parse-wal", data.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test]
async fn whatever_is_not_as_the_server_listed_it_is_found() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", SHOP);
    let store = store(&cluster);
    let (dumped, parts) = dump(&store).await.unwrap();
    let mut other = dumped.clone();
    // The mapping leads to other files: lengths and hashes of parts are right, those of files are not.
    let entries = other.detail["entries"].as_array_mut().unwrap();
    let of =
        |entries: &[serde_json::Value], path: &str| entries.iter().position(|it| it["path"] == path).unwrap();
    let (a, b) = (of(entries, "PG_VERSION"), of(entries, "base/1/PG_VERSION"));
    entries[a]["path"] = "base/1/PG_VERSION2".into();
    entries.swap(a, b);
    let error = load(&store, &other, &parts, &Scratch::new()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let scratch = Scratch::new();
    let whole = load(&store, &dumped, &parts, &scratch).await.unwrap();
    whole.remove().await.unwrap();
}

#[tokio::test]
async fn what_stands_in_the_way_is_said_before() {
    let cluster = Cluster::new(&programs(), &[], &["wal_level=minimal", "max_wal_senders=0"]);
    cluster.sql("postgres", "CREATE ROLE plain LOGIN; CREATE ROLE streams LOGIN REPLICATION");
    let refusals = async |user: &str| {
        let store = store_as(&cluster, user);
        let looked = Store::dump(&store).unwrap().preflight(&ctx(), &Scratch::new().options()).await.unwrap();
        looked.refusals.join("\n")
    };
    let said = refusals("plain").await;
    for expected in ["`plain` may not stream", "`wal_level` is `minimal`", "`max_wal_senders`"] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!refusals("streams").await.contains("may not stream"));
    let error = dump(&store_as(&cluster, "plain")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");

    let closed = Cluster::new(&programs(), &[], &[]);
    let rules = std::fs::read_to_string(closed.data().join("pg_hba.conf")).unwrap();
    let open: Vec<&str> = rules.lines().filter(|line| !line.contains("replication")).collect();
    std::fs::write(closed.data().join("pg_hba.conf"), open.join("\n")).unwrap();
    closed.sql("postgres", "SELECT pg_reload_conf()");
    let store = store(&closed);
    let mut said = String::new();
    // The server reads its rules again when it gets round to it.
    for _ in 0..600 {
        let looked = Store::dump(&store).unwrap().preflight(&ctx(), &Scratch::new().options()).await.unwrap();
        said = looked.refusals.join("\n");
        if !said.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(said.contains("pg_hba.conf"), "{said}");
}

#[tokio::test]
async fn a_program_older_than_the_server_and_none_at_all_are_refused() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    let folder = tempfile::tempdir().unwrap();
    let refusals = async || {
        let url = format!("postgres://127.0.0.1:{}/postgres", cluster.port());
        let mut config = Config::new(&url, LoginConfig { user: "postgres".into(), password_secret: None });
        config.bin_dir = Some(folder.path().to_owned());
        let store =
            store_postgres::open("orders", config, std::path::Path::new("/"), Arc::new(NoSecrets)).unwrap();
        let looked = Store::dump(&store).unwrap().preflight(&ctx(), &Scratch::new().options()).await.unwrap();
        looked.refusals.join("\n")
    };
    assert!(refusals().await.contains("there is no `pg_basebackup`"));
    let old = folder.path().join("pg_basebackup");
    std::fs::write(&old, "#!/bin/sh\necho 'pg_basebackup (PostgreSQL) 12.1'\n").unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = refusals().await;
    assert!(said.contains("`pg_basebackup` 12.1 is older than the server"), "{said}");
}

#[tokio::test]
async fn a_source_that_dies_in_the_middle_gives_no_backup() {
    let mut cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", SHOP);
    let store = store(&cluster);
    let (scratch, parts) = (Scratch::new(), Dying::default());
    let run = tokio::spawn(async move {
        let (context, options) = (ctx(), scratch.options());
        let taken = Store::dump(&store).unwrap().dump(&context, &options, &*parts.0).await;
        taken.err().map(|error| error.kind())
    });
    // It waits in the middle until the server is gone.
    let gate = DYING.get().unwrap();
    gate.reached.notified().await;
    cluster.stop("QUIT");
    gate.gone.notify_one();
    assert_eq!(run.await.unwrap(), Some(ErrorKind::Unavailable));
}

/// A sink that stands still at its hundredth part until it is told to go on.
#[derive(Default)]
struct Dying(Arc<DyingSink>);

static DYING: std::sync::OnceLock<Gate> = std::sync::OnceLock::new();

#[derive(Default)]
struct Gate {
    reached: tokio::sync::Notify,
    gone: tokio::sync::Notify,
}

struct DyingSink(std::sync::atomic::AtomicUsize);

impl Default for DyingSink {
    fn default() -> Self {
        DYING.get_or_init(Gate::default);
        Self(std::sync::atomic::AtomicUsize::new(0))
    }
}

#[async_trait::async_trait]
impl contract::PartSink for DyingSink {
    async fn put(&self, _: contract::Part) -> Result<(), Error> {
        if self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 100 {
            let gate = DYING.get().unwrap();
            gate.reached.notify_one();
            gate.gone.notified().await;
        }
        Ok(())
    }
}

/// A log as it was handed over.
#[derive(Default)]
struct Log {
    pieces: std::sync::Mutex<Vec<(LogSpan, Vec<u8>)>>,
    gaps: std::sync::Mutex<Vec<LogGap>>,
    states: std::sync::Mutex<Vec<LogState>>,
    /// Takes nothing while it is set.
    is_away: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl LogSink for Log {
    async fn put(&self, span: LogSpan, body: bytes::Bytes) -> Result<(), Error> {
        if self.is_away.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the repository is away"));
        }
        self.pieces.lock().unwrap().push((span, body.to_vec()));
        Ok(())
    }

    async fn gap(&self, gap: LogGap) -> Result<(), Error> {
        self.gaps.lock().unwrap().push(gap);
        Ok(())
    }

    async fn state(&self, state: LogState) {
        self.states.lock().unwrap().push(state);
    }
}

impl Log {
    fn kept(&self) -> Vec<LogPiece> {
        let pieces = self.pieces.lock().unwrap();
        pieces
            .iter()
            .map(|(span, body)| LogPiece {
                span: span.clone(),
                bytes: body.len() as u64,
                sha256: String::new(),
            })
            .collect()
    }

    fn end(&self, timeline: u32) -> LogPosition {
        let pieces = self.pieces.lock().unwrap();
        let of = pieces.iter().filter(|(span, _)| span.timeline == timeline && span.parent.is_none());
        of.map(|(span, _)| span.end).max().unwrap_or_default()
    }

    /// The files in the clear, as a restore finds them.
    fn write(&self, folder: &std::path::Path) {
        std::fs::create_dir_all(folder).unwrap();
        for (span, body) in self.pieces.lock().unwrap().iter() {
            let path = folder.join(&span.file);
            if span.file_bytes == 0 {
                std::fs::write(path, body).unwrap();
                continue;
            }
            let file = std::fs::File::options().create(true).write(true).truncate(false).open(path).unwrap();
            file.set_len(span.file_bytes).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, body, span.start.0 % span.file_bytes).unwrap();
        }
    }
}

/// Follows until it is told to end.
struct Following {
    stop: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<ErrorKind>,
}

impl Following {
    fn start(
        store: PostgresStore,
        log: &Arc<Log>,
        folder: &std::path::Path,
        retained_bytes_max: u64,
    ) -> Self {
        let options = FollowOptions {
            slot: "steward_shop_orders".into(),
            folder: folder.to_owned(),
            every: std::time::Duration::from_millis(100),
            retained_bytes_max,
            kept: log.kept(),
        };
        let (stop, log) = (tokio_util::sync::CancellationToken::new(), Arc::clone(log));
        let context = ctx().with_cancellation(stop.clone());
        let task = tokio::spawn(async move {
            let followed = Store::follow_log(&store).unwrap().follow(&context, &options, &*log).await;
            followed.unwrap_err().kind()
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        assert_eq!(self.task.await.unwrap(), ErrorKind::Canceled);
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_400 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it never came: {what}");
}

fn position(cluster: &Cluster) -> LogPosition {
    cluster.sql("postgres", "SELECT pg_current_wal_flush_lsn()").parse().unwrap()
}

async fn caught_up(cluster: &Cluster, log: &Log, timeline: u32) -> LogPosition {
    let now = position(cluster);
    until("the log is handed over", || log.end(timeline) >= now).await;
    now
}

const LIMIT: u64 = 1 << 30;

async fn recover(
    store: &PostgresStore,
    dumped: &Dumped,
    parts: &Parts,
    log: &Log,
    scratch: &Scratch,
    (target, timeline): (RecoveryTarget, u32),
) -> Result<(Box<dyn Restored>, String), Error> {
    let logs = scratch.0.path().join("logs");
    log.write(&logs);
    let covered = matches!(target, RecoveryTarget::Time(_) | RecoveryTarget::Position(_));
    let recovery = Recovery { target, timeline, logs, target_is_covered: covered };
    let loader = Store::load(store).unwrap();
    let restored = loader.recover(&ctx(), dumped, &parts.given(), &recovery, &scratch.target("copy")).await?;
    let counted = restored.fingerprint(&ctx(), dumped).await?;
    let rows: Vec<String> = counted.iter().map(|table| format!("{}={}", table.table, table.rows)).collect();
    Ok((restored, rows.join(" ")))
}

#[tokio::test]
async fn every_row_comes_back_exactly_at_its_commit() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int)");
    let (store_, folder) = (store(&cluster), tempfile::tempdir().unwrap());
    let (dumped, parts) = dump(&store_).await.unwrap();
    let log = Arc::new(Log::default());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    // Each row with what was true right after its commit.
    let mut steps = Vec::new();
    for n in 1..=4 {
        let said = cluster.sql(
            "postgres",
            &format!(
                "WITH one AS (INSERT INTO step VALUES ({n}) RETURNING 1) SELECT pg_current_xact_id() FROM one"
            ),
        );
        let (time, at) = {
            let both = cluster.sql("postgres", "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || ' ' || pg_current_wal_flush_lsn()");
            let (time, at) = both.split_once(' ').unwrap();
            (time.parse().unwrap(), at.parse().unwrap())
        };
        let point = Store::follow_log(&store_).unwrap().marker(&ctx(), &format!("after-{n}")).await.unwrap();
        assert!(point.position.is_some() && point.timeline == Some(1), "{point:?}");
        steps.push((said.parse::<u64>().unwrap(), time, at));
        if n == 2 {
            cluster.sql("postgres", "SELECT pg_switch_wal()");
        }
    }
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
    for (n, (xid, time, at)) in (1..).zip(&steps) {
        let targets = [
            RecoveryTarget::Transaction(*xid),
            RecoveryTarget::Time(*time),
            RecoveryTarget::Position(*at),
            RecoveryTarget::Marker(format!("after-{n}")),
        ];
        // Each kind of target, and each boundary, without trying all sixteen.
        let target = targets[(n - 1) % 4].clone();
        let scratch = Scratch::new();
        let (restored, rows) =
            recover(&store_, &dumped, &parts, &log, &scratch, (target.clone(), 1)).await.unwrap();
        assert_eq!(rows, format!("postgres.public.step={n}"), "{target}");
        assert!(restored.reached().unwrap().position.is_some());
        restored.remove().await.unwrap();
    }
    let last = steps.last().unwrap();
    for target in [RecoveryTarget::Time(last.1), RecoveryTarget::Position(last.2), RecoveryTarget::End] {
        let scratch = Scratch::new();
        let (restored, rows) =
            recover(&store_, &dumped, &parts, &log, &scratch, (target.clone(), 1)).await.unwrap();
        assert_eq!(rows, "postgres.public.step=4", "{target}");
        restored.remove().await.unwrap();
    }
    for target in [RecoveryTarget::Marker("never-set".into()), RecoveryTarget::Transaction(last.0 + 1_000)] {
        let scratch = Scratch::new();
        let error =
            recover(&store_, &dumped, &parts, &log, &scratch, (target.clone(), 1)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{target}: {error}");
    }
}

#[tokio::test]
async fn a_promoted_standby_is_followed_onto_its_timeline() {
    let mut primary = Cluster::new(&programs(), &[], &[]);
    primary.sql("postgres", "CREATE TABLE step (n int)");
    let standby = Cluster::standby_of(&primary, &[]);
    let (dumped, parts) = dump(&store(&primary)).await.unwrap();
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    // The standby is followed all the time, as an address that moves with the primary would be.
    let following = Following::start(store(&standby), &log, folder.path(), LIMIT);
    primary.sql("postgres", "INSERT INTO step VALUES (1)");
    let before = caught_up(&primary, &log, 1).await;
    primary.stop("INT");
    standby.promote();
    standby.sql("postgres", "INSERT INTO step VALUES (2)");
    caught_up(&standby, &log, 2).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
    let pieces = log.kept();
    let branch = pieces.iter().find(|piece| piece.span.parent == Some(1)).unwrap();
    assert_eq!((branch.span.timeline, branch.span.file.as_str()), (2, "00000002.history"));
    assert!(branch.span.start >= before);
    let store = store(&standby);
    for (target, timeline, rows) in [
        (RecoveryTarget::End, 2, "postgres.public.step=2"),
        (RecoveryTarget::Position(branch.span.start), 2, "postgres.public.step=1"),
        (RecoveryTarget::End, 1, "postgres.public.step=1"),
    ] {
        let scratch = Scratch::new();
        let (restored, found) =
            recover(&store, &dumped, &parts, &log, &scratch, (target.clone(), timeline)).await.unwrap();
        assert_eq!(found, rows, "{target} on {timeline}");
        restored.remove().await.unwrap();
    }
}

#[tokio::test]
async fn interruptions_lose_nothing_and_repeat_nothing() {
    let mut cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (dumped, parts) = dump(&store(&cluster)).await.unwrap();
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let fill = |n: u32| cluster_fill(n);
    for round in 0..3 {
        let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
        cluster.sql("postgres", &fill(round));
        caught_up(&cluster, &log, 1).await;
        // What was not handed over before the end is in the folder or in the slot.
        log.is_away.store(true, std::sync::atomic::Ordering::SeqCst);
        cluster.sql("postgres", &fill(round + 10));
        following.end().await;
        log.is_away.store(false, std::sync::atomic::Ordering::SeqCst);
        match round {
            0 => {
                cluster.stop("QUIT");
                cluster.start();
            }
            // Another machine: nothing but the repository is known.
            1 => std::fs::remove_dir_all(folder.path().join("received")).unwrap(),
            _ => {}
        }
    }
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    cluster.stop("QUIT");
    cluster.start();
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
    let pieces = log.kept();
    for pair in pieces.windows(2) {
        assert_eq!(pair[0].span.end, pair[1].span.start, "{pair:#?}");
    }
    let scratch = Scratch::new();
    let (restored, rows) =
        recover(&store(&cluster), &dumped, &parts, &log, &scratch, (RecoveryTarget::End, 1)).await.unwrap();
    assert_eq!(rows, "postgres.public.step=12000");
    restored.remove().await.unwrap();
}

fn cluster_fill(n: u32) -> String {
    format!("INSERT INTO step SELECT {n}, repeat('x', 500) FROM generate_series(1, 2000)")
}

#[tokio::test]
async fn the_slot_gives_way_before_the_servers_disk_fills() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    let slots = || {
        cluster.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'steward%'")
    };
    assert_eq!(slots(), "1");
    // Nobody follows, and the server writes more than it may keep for us.
    cluster.sql("postgres", "INSERT INTO step SELECT 1, repeat('x', 1000) FROM generate_series(1, 4000)");
    let following = Following::start(store(&cluster), &log, folder.path(), 1 << 20);
    until("the gap is told", || !log.gaps.lock().unwrap().is_empty()).await;
    let why = log.gaps.lock().unwrap()[0].why.clone();
    assert!(why.contains("over the limit of 1048576"), "{why}");
    if std::env::var_os("STEWARD_TEST_FULL").is_none() {
        following.end().await;
        return;
    }
    // It goes on behind the gap with a slot of its own.
    until("it is followed again", || {
        log.states
            .lock()
            .unwrap()
            .last()
            .is_some_and(|state| state.problem.is_none() && state.retained_bytes < 1 << 20)
    })
    .await;
    following.end().await;
    assert_eq!(slots(), "1");
    let store = store(&cluster);
    until("the slot is free", || {
        cluster.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE active") == "0"
    })
    .await;
    Store::follow_log(&store).unwrap().unfollow(&ctx(), "steward_shop_orders").await.unwrap();
    assert_eq!(slots(), "0");
}

#[tokio::test]
async fn a_full_disk_of_ours_leaves_the_log_with_the_server() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    // The program answers as it does on a full disk, until there is room.
    let programs = tempfile::tempdir().unwrap();
    for name in ["pg_receivewal", "psql"] {
        let real = cluster.programs().join(name);
        let full = programs.path().join("full");
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" != --version ] && [ {name} = pg_receivewal ] && [ -e '{full}' ]; then echo 'could not write: No space left on device' >&2; exit 1; fi\nexec '{real}' \"$@\"\n",
            full = full.display(),
            real = real.display()
        );
        std::fs::write(programs.path().join(name), script).unwrap();
        std::fs::set_permissions(
            programs.path().join(name),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
    }
    std::fs::write(programs.path().join("full"), "").unwrap();
    let url = format!("postgres://127.0.0.1:{}/postgres", cluster.port());
    let mut config = Config::new(&url, LoginConfig { user: "postgres".into(), password_secret: None });
    config.bin_dir = Some(programs.path().to_owned());
    let store =
        store_postgres::open("orders", config, std::path::Path::new("/"), Arc::new(NoSecrets)).unwrap();
    let following = Following::start(store, &log, folder.path(), LIMIT);
    until("it is told", || {
        let states = log.states.lock().unwrap();
        states.iter().any(|state| state.problem.as_ref().is_some_and(|it| it.contains("No space left")))
    })
    .await;
    cluster.sql("postgres", &cluster_fill(1));
    std::fs::remove_file(programs.path().join("full")).unwrap();
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
}
