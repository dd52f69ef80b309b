//! What the tests share: a store of a server, a sink for its parts, a sink for its log.

use std::path::PathBuf;
use std::sync::Arc;

use conformance::{Cluster, NoSecrets, Parts};
use contract::{
    Actor, BackupMethod, Context, DumpOptions, Dumped, Error, ErrorKind, FollowOptions, LoadTarget, LogGap,
    LogPiece, LogPosition, LogSink, LogSpan, LogState, Recovery, RecoveryTarget, Restored, Selection, Store,
};
use store_postgres::{Config, LoginConfig, PostgresStore};

pub(crate) fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

/// 17 without its own variable.
pub(crate) fn version() -> u32 {
    std::env::var("STEWARD_TEST_POSTGRES").map_or(17, |version| version.parse().unwrap())
}

pub(crate) fn programs() -> PathBuf {
    conformance::programs(version())
}

pub(crate) fn store_as(cluster: &Cluster, user: &str) -> PostgresStore {
    let url = format!("postgres://127.0.0.1:{}/postgres", cluster.port());
    let login = LoginConfig { user: user.to_owned(), password_secret: None };
    let mut config = Config::new(&url, login);
    config.bin_dir = Some(cluster.programs().to_owned());
    store_postgres::open("orders", config, std::path::Path::new("/"), Arc::new(NoSecrets)).unwrap()
}

/// The same with programs that say in another language what the server says.
pub(crate) fn store_abroad(cluster: &Cluster, programs: &std::path::Path) -> PostgresStore {
    for name in ["pg_receivewal", "psql"] {
        let words = "s/has already been removed/wurde schon entfernt/; s/is not in this server.s history/ist nicht in der History dieses Servers/; \
             s/history forked from timeline/History zweigte ab von Zeitleiste/";
        let real = cluster.programs().join(name);
        let script =
            format!("#!/bin/bash\nexec '{}' \"$@\" 2> >(exec sed -u \"{words}\" >&2)\n", real.display());
        std::fs::write(programs.join(name), script).unwrap();
        std::fs::set_permissions(programs.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    let url = format!("postgres://127.0.0.1:{}/postgres", cluster.port());
    let mut config = Config::new(&url, LoginConfig { user: "postgres".into(), password_secret: None });
    config.bin_dir = Some(programs.to_owned());
    store_postgres::open("orders", config, std::path::Path::new("/"), Arc::new(NoSecrets)).unwrap()
}

pub(crate) fn store(cluster: &Cluster) -> PostgresStore {
    store_as(cluster, "postgres")
}

pub(crate) struct Scratch(pub(crate) tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_folder(folder: &std::path::Path) -> Self {
        Self(tempfile::tempdir_in(folder).unwrap())
    }

    pub(crate) fn options(&self) -> DumpOptions {
        DumpOptions { method: BackupMethod::Physical, scratch: self.0.path().to_owned(), parallel: 2 }
    }

    pub(crate) fn target(&self, name: &str) -> LoadTarget {
        LoadTarget::Scratch { folder: self.0.path().join(name) }
    }
}

pub(crate) async fn dump(store: &PostgresStore) -> Result<(Dumped, Parts), Error> {
    let (scratch, parts) = (Scratch::new(), Parts::default());
    let dumped = Store::dump(store).unwrap().dump(&ctx(), &scratch.options(), &parts).await?;
    Ok((dumped, parts))
}

pub(crate) async fn load(
    store: &PostgresStore,
    dumped: &Dumped,
    parts: &Parts,
    scratch: &Scratch,
) -> Result<Box<dyn Restored>, Error> {
    let target = scratch.target("copy");
    Store::load(store).unwrap().load(&ctx(), dumped, &parts.given(), &Selection::Whole, &target).await
}

pub(crate) const SHOP: &str = "CREATE TABLE orders (id int PRIMARY KEY, note text NOT NULL);
    INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1, 5000) AS i;
    CREATE INDEX ON orders (note)";

/// A log as it was handed over.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) pieces: std::sync::Mutex<Vec<(LogSpan, Vec<u8>)>>,
    pub(crate) gaps: std::sync::Mutex<Vec<LogGap>>,
    pub(crate) states: std::sync::Mutex<Vec<LogState>>,
    /// Takes nothing while it is set.
    pub(crate) is_away: std::sync::atomic::AtomicBool,
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
        if let Some(problem) = &state.problem {
            eprintln!("{problem}");
        }
        self.states.lock().unwrap().push(state);
    }
}

impl Log {
    pub(crate) fn kept(&self) -> Vec<LogPiece> {
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

    pub(crate) fn end(&self, timeline: u32) -> LogPosition {
        let pieces = self.pieces.lock().unwrap();
        let of = pieces.iter().filter(|(span, _)| span.timeline == timeline && span.parent.is_none());
        of.map(|(span, _)| span.end).max().unwrap_or_default()
    }

    /// The files in the clear, as a restore finds them.
    pub(crate) fn write(&self, folder: &std::path::Path) {
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
pub(crate) struct Following {
    stop: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<ErrorKind>,
}

impl Following {
    pub(crate) fn start(
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
            unlimited: false,
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

    pub(crate) async fn end(self) {
        self.stop.cancel();
        assert_eq!(self.task.await.unwrap(), ErrorKind::Canceled);
    }
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_400 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it never came: {what}");
}

pub(crate) fn position(cluster: &Cluster) -> LogPosition {
    cluster.sql("postgres", "SELECT pg_current_wal_flush_lsn()").parse().unwrap()
}

pub(crate) async fn caught_up(cluster: &Cluster, log: &Log, timeline: u32) -> LogPosition {
    let now = position(cluster);
    until("the log is handed over", || log.end(timeline) >= now).await;
    now
}

pub(crate) const LIMIT: u64 = 1 << 30;

pub(crate) async fn recover(
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

/// A sink that stands still at one part until it is told to go on.
pub(crate) struct Gate {
    at: usize,
    seen: std::sync::atomic::AtomicUsize,
    pub(crate) reached: tokio::sync::Notify,
    pub(crate) go_on: tokio::sync::Notify,
}

impl Gate {
    pub(crate) fn at(part: usize) -> Arc<Self> {
        Arc::new(Self {
            at: part,
            seen: std::sync::atomic::AtomicUsize::new(0),
            reached: tokio::sync::Notify::new(),
            go_on: tokio::sync::Notify::new(),
        })
    }

    /// A dump into it, which runs on its own; how it failed.
    pub(crate) fn dump(
        self: &Arc<Self>,
        store: PostgresStore,
        method: BackupMethod,
    ) -> tokio::task::JoinHandle<Option<Error>> {
        let gate = Arc::clone(self);
        tokio::spawn(async move {
            let scratch = Scratch::new();
            let options = DumpOptions { method, ..scratch.options() };
            Store::dump(&store).unwrap().dump(&ctx(), &options, &*gate).await.err()
        })
    }
}

#[async_trait::async_trait]
impl contract::PartSink for Gate {
    async fn put(&self, _: contract::Part) -> Result<(), Error> {
        if self.seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == self.at {
            self.reached.notify_one();
            self.go_on.notified().await;
        }
        Ok(())
    }
}
