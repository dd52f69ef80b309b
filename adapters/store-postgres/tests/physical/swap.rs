//! Restores in place whose process is killed in the middle of the swap: the database is the one or the other, open.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use conformance::{Cluster, NoSecrets, Parts};
use contract::{BackupMethod, DumpOptions, Dumped, LoadTarget, Restored, Selection, Store, SwapLeft};
use jiff::Timestamp;
use store_postgres::{Config, LoginConfig, PostgresStore};

use crate::world::{Scratch, ctx, programs, until};

const PORT: &str = "STEWARD_TEST_SWAP_PORT";
const END_SESSIONS: &str = "STEWARD_TEST_SWAP_END_SESSIONS";
const COPY: &str = "restored_0123456789ab";

fn store(port: u16, bin_dir: std::path::PathBuf) -> PostgresStore {
    let login = || LoginConfig { user: "postgres".into(), password_secret: None };
    let mut config = Config::new(&format!("postgres://127.0.0.1:{port}/shop"), login());
    config.admin = Some(login());
    config.bin_dir = Some(bin_dir);
    // Far above what anything here takes.
    config.lock_timeout_ms = 120_000;
    store_postgres::open("orders", config, std::path::Path::new("/"), Arc::new(NoSecrets)).unwrap()
}

async fn loaded(store: &PostgresStore, dumped: &Dumped, parts: &Parts) -> Box<dyn Restored> {
    let target = LoadTarget::Beside { name: COPY.into() };
    let load = Store::load(store).unwrap();
    load.load(&ctx(), dumped, &parts.given(), &Selection::Whole, &target).await.unwrap()
}

/// What the room has when it swaps, for a process that begins there.
struct Copy(String);

#[async_trait::async_trait]
impl Restored for Copy {
    fn address(&self) -> String {
        self.0.clone()
    }

    async fn fingerprint(
        &self,
        _: &contract::Context,
        _: &Dumped,
    ) -> Result<Vec<contract::TableDigest>, contract::Error> {
        Ok(Vec::new())
    }

    async fn schema_differences(
        &self,
        _: &contract::Context,
        _: &Dumped,
        _: &dyn contract::PartSource,
        _: &Selection,
    ) -> Result<Vec<String>, contract::Error> {
        Ok(Vec::new())
    }

    async fn check(&self, _: &contract::Context) -> Result<contract::IntegrityReport, contract::Error> {
        Ok(contract::IntegrityReport::default())
    }

    async fn probe(&self, _: &contract::Context, _: &str) -> Result<bool, contract::Error> {
        Ok(true)
    }

    fn keep(&mut self) -> String {
        String::new()
    }

    async fn remove(self: Box<Self>) -> Result<(), contract::Error> {
        Ok(())
    }
}

/// A process of its own, which swaps and is killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a part of the tests below, which start it"]
async fn child() {
    let port = std::env::var(PORT).unwrap().parse().unwrap();
    let end_sessions = std::env::var(END_SESSIONS).unwrap() == "true";
    let copy = Copy(format!("postgres://127.0.0.1:{port}/{COPY}"));
    let store = store(port, programs());
    Store::load(&store).unwrap().swap(&ctx(), &copy, end_sessions).await.unwrap();
}

fn swapping(cluster: &Cluster) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "swap::child", "--ignored", "--nocapture"])
        .env(PORT, cluster.port().to_string())
        .env(END_SESSIONS, "false")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills it and waits for that.
fn killed(mut child: Child) {
    assert!(child.try_wait().unwrap().is_none(), "it came to its end");
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn connected(cluster: &Cluster, database: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&cluster.url(database), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A session of ours that waits for a lock, in the middle of this statement.
fn waits(cluster: &Cluster, statement: &str) -> bool {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid) \
         WHERE application_name = 'steward' AND NOT l.granted AND l.relation = 'pg_database'::regclass \
           AND query LIKE '%{statement}%'"
    );
    cluster.sql("postgres", &sql) == "1"
}

fn is_closed(cluster: &Cluster) -> bool {
    cluster.sql("postgres", "SELECT datallowconn FROM pg_database WHERE datname = 'shop'") == "f"
}

/// Where the process is killed, and what becomes of what it had sent to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// Before anything; the copy is whole.
    Loaded,
    /// With the statement that closes the database on its way, which the server then still runs, or not.
    Closing { runs: bool },
    /// With the database closed, while it waits for the sessions of others.
    Closed,
    /// With the exchange of the names on its way, which the server then still runs, or not.
    Renaming { runs: bool },
    /// Behind it.
    Renamed,
}

impl Point {
    const ALL: [Self; 7] = [
        Self::Loaded,
        Self::Closing { runs: true },
        Self::Closing { runs: false },
        Self::Closed,
        Self::Renaming { runs: true },
        Self::Renaming { runs: false },
        Self::Renamed,
    ];

    /// Lets a process swap, and kills it there.
    async fn cause(self, cluster: &Cluster) {
        let lock = "BEGIN; LOCK TABLE pg_database IN SHARE MODE";
        match self {
            Self::Loaded => {}
            Self::Closing { runs } => {
                let holder = connected(cluster, "postgres").await;
                holder.batch_execute(lock).await.unwrap();
                let child = swapping(cluster);
                until("it closes", || waits(cluster, "ALLOW_CONNECTIONS false")).await;
                killed(child);
                end(cluster, &holder, runs).await;
                assert_eq!(is_closed(cluster), runs);
            }
            Self::Closed => {
                let other = connected(cluster, "shop").await;
                let child = swapping(cluster);
                until("it is closed", || is_closed(cluster)).await;
                killed(child);
                drop(other);
            }
            Self::Renaming { runs } => {
                let other = connected(cluster, "shop").await;
                let child = swapping(cluster);
                until("it is closed", || is_closed(cluster)).await;
                let holder = connected(cluster, "postgres").await;
                holder.batch_execute(lock).await.unwrap();
                drop(other);
                until("it renames", || waits(cluster, "RENAME TO")).await;
                killed(child);
                end(cluster, &holder, runs).await;
            }
            Self::Renamed => {
                let mut child = swapping(cluster);
                assert!(child.wait().unwrap().success());
            }
        }
    }

    fn is_in_place(self) -> bool {
        matches!(self, Self::Renaming { runs: true } | Self::Renamed)
    }
}

/// Lets what the dead process had sent run, or ends its session before; until no session of it is left.
async fn end(cluster: &Cluster, holder: &tokio_postgres::Client, runs: bool) {
    if !runs {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'steward'";
        cluster.sql("postgres", end);
    }
    if runs {
        holder.batch_execute("ROLLBACK").await.unwrap();
    }
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'steward'";
    until("its sessions have ended", || cluster.sql("postgres", left) == "0").await;
    if !runs {
        holder.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_in_a_swap_leaves_the_one_or_the_other_database_open() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE DATABASE shop");
    cluster.sql("shop", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let store = store(cluster.port(), programs());
    let (scratch, parts) = (Scratch::new(), Parts::default());
    let options = DumpOptions { method: BackupMethod::Logical, ..scratch.options() };
    let dumped = Store::dump(&store).unwrap().dump(&ctx(), &options, &parts).await.unwrap();
    for (round, point) in (10..).zip(Point::ALL) {
        // Each round has a state of its own, so that what is there says whose it is.
        cluster.sql("shop", &format!("UPDATE t SET a = {round}"));
        let since = Timestamp::now();
        let mut copy = loaded(&store, &dumped, &parts).await;
        copy.keep();
        point.cause(&cluster).await;
        let left = Store::load(&store).unwrap().settle_swap(&ctx(), COPY, since).await.unwrap();
        let rows = cluster.sql("shop", "SELECT a FROM t");
        let databases = cluster.sql("postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'restored%' OR datname LIKE '%loading'");
        assert_eq!(databases, "", "{point:?}");
        let closed =
            "SELECT count(*) FROM pg_database WHERE datname LIKE 'shop_before_%' AND NOT datallowconn";
        match left {
            SwapLeft::InPlace(said) => {
                assert!(point.is_in_place(), "{point:?}: {said}");
                assert_eq!(rows, "1", "{point:?}");
                assert_eq!(cluster.sql("postgres", closed), "1", "{point:?}");
                // What undoes it is true.
                let back = said.split_once("back: ").unwrap().1;
                for statement in back.split("; ") {
                    cluster.sql("postgres", statement);
                }
                assert_eq!(cluster.sql("shop", "SELECT a FROM t"), round.to_string(), "{point:?}");
                cluster.sql("postgres", "DROP DATABASE wrong");
            }
            SwapLeft::AsBefore(said) => {
                assert!(!point.is_in_place(), "{point:?}: {said}");
                assert_eq!(rows, round.to_string(), "{point:?}");
                assert_eq!(cluster.sql("postgres", closed), "0", "{point:?}");
                let expected = match point {
                    Point::Loaded | Point::Closing { runs: false } => "`shop` is as it was before",
                    _ => "is open again",
                };
                assert!(said.contains(expected) && said.contains("was taken away"), "{point:?}: {said}");
            }
            SwapLeft::Unknown => panic!("{point:?}"),
        }
        let signs = "SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text LIKE '%steward.swap%'";
        assert_eq!(cluster.sql("postgres", signs), "0", "{point:?}");
        // To ask once more changes nothing.
        let again = Store::load(&store).unwrap().settle_swap(&ctx(), COPY, since).await.unwrap();
        assert_eq!(again, SwapLeft::AsBefore("`shop` is as it was before".into()), "{point:?}");
    }
    // What somebody else has closed stays closed.
    cluster.sql("postgres", "ALTER DATABASE shop WITH ALLOW_CONNECTIONS false");
    Store::load(&store).unwrap().settle_swap(&ctx(), COPY, Timestamp::now()).await.unwrap();
    assert!(is_closed(&cluster));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_lasts_too_long_leaves_the_database_open_and_a_later_one_is_not_taken_for_it() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE DATABASE shop");
    cluster.sql("shop", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let store = store(cluster.port(), programs());
    let load = Store::load(&store).unwrap();
    cluster.sql("postgres", &format!("CREATE DATABASE {COPY} TEMPLATE shop"));
    let copy = Copy(format!("postgres://127.0.0.1:{}/{COPY}", cluster.port()));
    // Whoever asked for it does not wait any longer, in the middle of it.
    let stop = tokio_util::sync::CancellationToken::new();
    let other = connected(&cluster, "shop").await;
    let context = ctx().with_cancellation(stop.clone());
    let swap = load.swap(&context, &copy, false);
    let cancel = async {
        until("it is closed", || is_closed(&cluster)).await;
        stop.cancel();
    };
    let (swapped, ()) = tokio::join!(swap, cancel);
    assert_eq!(swapped.unwrap_err().kind(), contract::ErrorKind::Canceled);
    assert!(!is_closed(&cluster));
    drop(other);
    load.swap(&ctx(), &copy, true).await.unwrap();
    // An interrupted restore of the same backup that is younger has not come so far.
    let later = Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let left = load.settle_swap(&ctx(), COPY, later).await.unwrap();
    assert!(matches!(&left, SwapLeft::AsBefore(_)), "{left:?}");
    let left = load.settle_swap(&ctx(), COPY, Timestamp::UNIX_EPOCH).await.unwrap();
    assert!(matches!(&left, SwapLeft::InPlace(said) if said.contains("shop_before_")), "{left:?}");
}
