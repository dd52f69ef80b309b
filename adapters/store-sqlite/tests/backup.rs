//! Backups of real files: taken while others write, put back, compared, put into the place of the live file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conformance::Parts;
use contract::{
    Actor, BackupMethod, Context, DumpOptions, Dumped, Error, ErrorKind, Layout, Load, LoadTarget, Restored,
    Selection, Store,
};
use rusqlite::Connection;
use store_sqlite::{Config, SqliteStore};

struct Shop {
    dir: tempfile::TempDir,
    store: SqliteStore,
}

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

fn shop(sql: &str) -> Shop {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop ?#%.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    Shop { store: open(&path), dir }
}

fn open(path: &Path) -> SqliteStore {
    open_waiting(path, 60_000)
}

fn open_waiting(path: &Path, lock_timeout_ms: u64) -> SqliteStore {
    let config = Config { lock_timeout_ms, ..Config::new(path.to_str().unwrap()) };
    store_sqlite::open("shop/1", &config, Path::new("/")).unwrap()
}

impl Shop {
    fn path(&self) -> PathBuf {
        self.dir.path().join("shop ?#%.db")
    }

    fn admin(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_mins(1)).unwrap();
        connection
    }

    fn options(&self) -> DumpOptions {
        let scratch = self.dir.path().join("scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        DumpOptions { method: BackupMethod::Physical, scratch, parallel: 2 }
    }

    async fn dump(&self) -> (Dumped, Parts) {
        let parts = Parts::default();
        let dumped = self.store.dump().unwrap().dump(&ctx(), &self.options(), &parts).await.unwrap();
        std::fs::remove_dir_all(self.options().scratch).unwrap();
        (dumped, parts)
    }

    fn load(&self) -> &dyn Load {
        Store::load(&self.store).unwrap()
    }

    async fn restore(&self, dumped: &Dumped, parts: &Parts, name: &str) -> Box<dyn Restored> {
        let target = LoadTarget::Beside { name: name.into() };
        self.load().load(&ctx(), dumped, &parts.given(), &Selection::Whole, &target).await.unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Nothing differs between what was dumped and what was restored.
async fn assert_same(dumped: &Dumped, parts: &Parts, restored: &dyn Restored) {
    assert_eq!(restored.fingerprint(&ctx(), dumped).await.unwrap(), dumped.tables);
    let differences =
        restored.schema_differences(&ctx(), dumped, &parts.given(), &Selection::Whole).await.unwrap();
    assert_eq!(differences, Vec::<String>::new());
    let report = restored.check(&ctx()).await.unwrap();
    assert_eq!(report.problems, Vec::new());
}

/// Writes as fast as it can: moves an amount between two accounts and notes it, all in one transaction.
struct Writer {
    ends: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(mut connection: Connection) -> Self {
        let (ends, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, counted) = (Arc::clone(&ends), Arc::clone(&moved));
        let thread = std::thread::spawn(move || {
            let mut amount = 0;
            while !seen.load(Ordering::SeqCst) {
                amount += 1;
                let transaction =
                    connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
                for (sql, account) in [("balance - ?1", amount % 50), ("balance + ?1", 50 + amount % 50)] {
                    let sql = format!("UPDATE account SET balance = {sql} WHERE id = ?2");
                    transaction.execute(&sql, [amount, account]).unwrap();
                }
                transaction.execute("INSERT INTO moved (amount) VALUES (?1)", [amount]).unwrap();
                transaction.execute("UPDATE total SET moves = moves + 1", []).unwrap();
                transaction.commit().unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                // SQLite's locks know no queue: who never rests keeps everyone else out.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { ends, moved, thread: Some(thread) }
    }

    fn wait_for_another(&self) {
        let (before, begun) = (self.moved.load(Ordering::SeqCst), Instant::now());
        while self.moved.load(Ordering::SeqCst) <= before {
            assert!(begun.elapsed() < Duration::from_mins(1), "the writer stands still");
            std::thread::yield_now();
        }
    }

    fn end(mut self) {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

const ACCOUNTS: &str = "
    CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, filler BLOB);
    CREATE TABLE moved (amount INTEGER NOT NULL);
    CREATE TABLE total (moves INTEGER NOT NULL);
    INSERT INTO total VALUES (0);
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)
    INSERT INTO account SELECT i, 0, randomblob(20000) FROM n;";

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_one_state_while_others_write() {
    for journal in ["WAL", "DELETE"] {
        let shop = shop(&format!("PRAGMA journal_mode = {journal}; {ACCOUNTS}"));
        let writer = Writer::start(shop.admin());
        for _ in 0..3 {
            writer.wait_for_another();
            let (dumped, parts) = shop.dump().await;
            let restored = shop.restore(&dumped, &parts, "restored.db").await;
            assert_same(&dumped, &parts, &*restored).await;
            for sql in [
                "SELECT sum(balance) = 0 FROM account",
                "SELECT (SELECT count(*) FROM moved) = (SELECT moves FROM total)",
                "SELECT (SELECT sum(amount) FROM moved) = (SELECT sum(balance) FROM account WHERE id >= 50)",
            ] {
                assert!(restored.probe(&ctx(), sql).await.unwrap(), "{journal}: {sql}");
            }
            restored.remove().await.unwrap();
        }
        // It goes on afterwards: nothing was locked for good.
        writer.wait_for_another();
        writer.end();
        assert!(!shop.files().iter().any(|name| name.starts_with("restored")), "{:?}", shop.files());
    }
}

/// Tables of every kind that SQLite has.
const ZOO: &str = "
    PRAGMA user_version = 7; PRAGMA application_id = 99;
    CREATE TABLE plain (a, b, c);
    INSERT INTO plain VALUES (NULL, 1, 1.0), (9223372036854775807, -0.0, 1e999), ('', x'', 'ä'),
        (CAST(x'61ff' AS TEXT), x'00ff', 'a' || char(0) || 'b');
    CREATE TABLE hidden (rowid TEXT, _rowid_ TEXT, oid TEXT);
    INSERT INTO hidden VALUES ('a', 'b', 'c');
    CREATE TABLE half (rowid TEXT, x);
    INSERT INTO half (_rowid_, rowid, x) VALUES (77, 'a', 'b');
    CREATE TABLE keyed (a TEXT COLLATE NOCASE, b INTEGER, PRIMARY KEY (b DESC, a)) WITHOUT ROWID;
    INSERT INTO keyed VALUES ('x', 1), ('y', 2);
    CREATE TABLE strict (id INTEGER PRIMARY KEY AUTOINCREMENT, t TEXT NOT NULL, a ANY) STRICT;
    INSERT INTO strict (t, a) VALUES ('a', 1), ('b', '1');
    DELETE FROM strict WHERE id = 2;
    CREATE TABLE computed (a INTEGER, later INTEGER AS (a * 2), kept INTEGER AS (a * 3) STORED);
    INSERT INTO computed (a) VALUES (1), (2);
    CREATE TABLE \"odd \"\"name\" (\"select\" INTEGER CHECK (\"select\" > 0));
    INSERT INTO \"odd \"\"name\" VALUES (1);
    CREATE VIRTUAL TABLE words USING fts5(body);
    INSERT INTO words VALUES ('the quick brown fox'), ('the lazy dog');
    CREATE VIRTUAL TABLE places USING rtree(id, x0, x1);
    INSERT INTO places VALUES (1, 0, 10);
    CREATE TABLE parent (id INTEGER PRIMARY KEY);
    CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent);
    INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1);
    CREATE INDEX child_parent ON child (parent) WHERE parent IS NOT NULL;
    CREATE VIEW families AS SELECT * FROM parent JOIN child ON child.parent = parent.id;
    CREATE TRIGGER child_added AFTER INSERT ON child BEGIN UPDATE parent SET id = id; END;
    ANALYZE;";

#[tokio::test]
async fn every_kind_of_table_comes_back() {
    for encoding in ["UTF-8", "UTF-16le"] {
        let shop = shop(&format!("PRAGMA encoding = '{encoding}'; PRAGMA auto_vacuum = FULL; {ZOO}"));
        let (dumped, parts) = shop.dump().await;
        assert_eq!(parts.paths(), ["shop_1.db"]);
        assert_eq!((dumped.layout, dumped.method), (Layout::Pages, BackupMethod::Physical));
        assert_eq!(dumped.needs, ["module fts5", "module rtree"]);
        assert_eq!(dumped.detail["user_version"], 7);
        assert_eq!(dumped.detail["encoding"], encoding);
        let named: Vec<(&str, u64)> =
            dumped.tables.iter().map(|table| (table.table.as_str(), table.rows)).collect();
        for expected in [
            ("\"plain\"", 4),
            ("\"keyed\"", 2),
            ("\"strict\"", 1),
            ("\"odd \"\"name\"", 1),
            ("\"words_content\"", 2),
            ("\"sqlite_sequence\"", 1),
            ("\"hidden\"", 1),
        ] {
            assert!(named.contains(&expected), "{expected:?} in {named:?}");
        }
        // Another folder and a handle of its own; the folder is made.
        let folder = shop.dir.path().join("one/of its own");
        let target = LoadTarget::Scratch { folder: folder.clone() };
        let preflight = shop.load().preflight(&ctx(), &dumped, &target).await.unwrap();
        assert_eq!((preflight.refusals, preflight.warnings), (vec![], vec![]));
        let mut restored =
            shop.load().load(&ctx(), &dumped, &parts.given(), &Selection::Whole, &target).await.unwrap();
        assert_same(&dumped, &parts, &*restored).await;
        assert!(restored.probe(&ctx(), "SELECT count(*) = 1 FROM words('fox')").await.unwrap());
        assert!(
            restored.probe(&ctx(), "SELECT later = 2 AND kept = 3 FROM computed WHERE a = 1").await.unwrap()
        );
        let path = PathBuf::from(restored.address());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(restored.keep(), format!("rm '{}'", path.display()));
        drop(restored);
        assert!(path.exists(), "kept");
    }
}

/// Rows that break a promise of their table are the source's; a copy of them is a faithful one, and may be put in place.
#[tokio::test]
async fn rows_that_break_promises_are_no_damage_of_the_copy() {
    let shop = shop(
        "CREATE TABLE team (id INTEGER PRIMARY KEY, name TEXT);
         CREATE TABLE member (id INTEGER PRIMARY KEY, team INTEGER REFERENCES team, age INTEGER CHECK (age > 0));
         INSERT INTO team VALUES (1, NULL);
         PRAGMA foreign_keys = OFF;
         PRAGMA ignore_check_constraints = ON;
         INSERT INTO member VALUES (1, 7, -3);
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE TABLE team (id INTEGER PRIMARY KEY, name TEXT NOT NULL)' WHERE name = 'team'",
    );
    let (dumped, parts) = shop.dump().await;
    let restored = shop.restore(&dumped, &parts, "copy.db").await;
    let broken: i64 = Connection::open(restored.address())
        .unwrap()
        .query_row("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(broken, 2, "NOT NULL and CHECK are broken");
    assert_same(&dumped, &parts, &*restored).await;
    shop.load().swap(&ctx(), &*restored, false).await.unwrap();
}

#[tokio::test]
async fn the_smallest_change_is_another_digest() {
    let shop = shop(ZOO);
    let (before, parts) = shop.dump().await;
    let digests = |dumped: &Dumped| -> Vec<(String, String)> {
        dumped.tables.iter().map(|table| (table.table.clone(), table.digest.clone())).collect()
    };
    let restored = shop.restore(&before, &parts, "other.db").await;
    let other = Connection::open(restored.address()).unwrap();
    for (table, sql) in [
        ("\"plain\"", "UPDATE plain SET c = 1 WHERE c = 1.0 AND typeof(c) = 'real'"),
        ("\"plain\"", "UPDATE plain SET b = '' WHERE b = x'' AND typeof(b) = 'blob'"),
        ("\"plain\"", "UPDATE plain SET rowid = 99 WHERE rowid = 1"),
        ("\"half\"", "UPDATE half SET _rowid_ = 78"),
        ("\"keyed\"", "UPDATE keyed SET a = 'X' WHERE a = 'x'"),
        ("\"strict\"", "UPDATE strict SET a = '1' WHERE id = 1"),
        ("\"sqlite_sequence\"", "UPDATE sqlite_sequence SET seq = seq + 1"),
        ("\"words_content\"", "UPDATE words SET body = 'the quick brown fux' WHERE rowid = 1"),
    ] {
        other.execute_batch(&format!("SAVEPOINT one; {sql}; RELEASE one")).unwrap();
        let now = restored.fingerprint(&ctx(), &before).await.unwrap();
        let known = before.tables.iter().find(|known| known.table == table).unwrap();
        assert_ne!(now.iter().find(|now| now.table == table).unwrap().digest, known.digest, "{sql}");
    }
    other
        .execute_batch(
            "PRAGMA foreign_keys = OFF; DROP INDEX child_parent; CREATE VIEW more AS SELECT 1; DROP VIEW families;
        CREATE VIEW families AS SELECT 2; INSERT INTO child VALUES (9, 999); DROP TABLE half",
        )
        .unwrap();
    let differences =
        restored.schema_differences(&ctx(), &before, &parts.given(), &Selection::Whole).await.unwrap();
    assert_eq!(
        differences,
        [
            "index child_parent: missing",
            "table half: missing",
            "view families: another definition",
            "view more: was not in the backup"
        ]
    );
    // The source was not touched.
    assert_eq!(digests(&shop.dump().await.0), digests(&before));
    assert_eq!(shop.dump().await.0.schema_sha256, before.schema_sha256);
    shop.admin().execute_batch("DROP INDEX child_parent").unwrap();
    assert_ne!(shop.dump().await.0.schema_sha256, before.schema_sha256);
}

#[tokio::test]
async fn single_tables_come_back_without_the_others() {
    let shop = shop(ZOO);
    let (dumped, parts) = shop.dump().await;
    let selection = Selection::Tables(vec!["\"child\"".into(), "words".into(), "\"plain\"".into()]);
    let target = LoadTarget::Beside { name: "some.db".into() };
    let restored = shop.load().load(&ctx(), &dumped, &parts.given(), &selection, &target).await.unwrap();
    assert_eq!(
        restored.schema_differences(&ctx(), &dumped, &parts.given(), &selection).await.unwrap(),
        Vec::<String>::new()
    );
    let whole =
        restored.schema_differences(&ctx(), &dumped, &parts.given(), &Selection::Whole).await.unwrap();
    assert!(whole.contains(&"table parent: missing".to_owned()), "{whole:?}");
    let now = restored.fingerprint(&ctx(), &dumped).await.unwrap();
    for table in ["\"child\"", "\"plain\"", "\"words_content\""] {
        let find = |tables: &[contract::TableDigest]| tables.iter().find(|t| t.table == table).cloned();
        assert_eq!(find(&now), find(&dumped.tables), "{table}");
    }
    let left = std::fs::read(restored.address()).unwrap();
    assert!(!left.windows(4).any(|window| window == b"odd "), "what was taken away is not in free pages");
    for (selection, kind) in [
        (Selection::Tables(vec!["nothing".into()]), ErrorKind::NotFound),
        (Selection::Tables(vec!["words_content".into()]), ErrorKind::NotFound),
        (Selection::Schema("other".into()), ErrorKind::NotFound),
    ] {
        let target = LoadTarget::Beside { name: "none.db".into() };
        let error = shop.load().load(&ctx(), &dumped, &parts.given(), &selection, &target).await;
        assert_eq!(error.err().unwrap().kind(), kind, "{selection:?}");
    }
    assert!(!shop.files().iter().any(|name| name.starts_with("none")), "{:?}", shop.files());
}

/// Loads that must fail leave the folder as it was.
#[tokio::test]
async fn a_load_that_fails_leaves_nothing() {
    let shop = shop(ZOO);
    let (dumped, parts) = shop.dump().await;
    let before = shop.files();
    let load = async |dumped: &Dumped, given: &conformance::Given, name: &str| -> Error {
        let target = LoadTarget::Beside { name: name.into() };
        shop.load().load(&ctx(), dumped, given, &Selection::Whole, &target).await.err().unwrap()
    };
    let mut damaged = parts.given();
    damaged.damage("shop_1.db", |bytes| bytes[100] ^= 1);
    assert_eq!(load(&dumped, &damaged, "new.db").await.kind(), ErrorKind::Corrupt);
    let mut cut = parts.given();
    cut.damage("shop_1.db", |bytes| bytes.truncate(4096));
    assert_eq!(load(&dumped, &cut, "new.db").await.kind(), ErrorKind::Corrupt);
    let other = Dumped { kind: "postgres".into(), ..dumped.clone() };
    assert_eq!(load(&other, &parts.given(), "new.db").await.kind(), ErrorKind::Unsupported);
    let other = Dumped { detail: serde_json::Value::Null, ..dumped.clone() };
    assert_eq!(load(&other, &parts.given(), "new.db").await.kind(), ErrorKind::Corrupt);
    // The live file, and one of which only the log is there.
    assert_eq!(load(&dumped, &parts.given(), "shop ?#%.db").await.kind(), ErrorKind::Conflict);
    assert_eq!(shop.files(), before);
    std::fs::write(shop.dir.path().join("new.db-wal"), "someone's log").unwrap();
    assert_eq!(load(&dumped, &parts.given(), "new.db").await.kind(), ErrorKind::Conflict);
    let target = LoadTarget::Beside { name: "new.db".into() };
    let preflight = shop.load().preflight(&ctx(), &dumped, &target).await.unwrap();
    assert!(preflight.refusals[0].contains("nothing is overwritten"), "{preflight:?}");
    std::fs::remove_file(shop.dir.path().join("new.db-wal")).unwrap();
    // What a killed process left is taken away by the next load, what a living one writes is not.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let pid = ended.id();
    ended.wait().unwrap();
    for owner in [pid, 1] {
        std::fs::write(shop.dir.path().join(format!("new.db-{owner}-steward-loading")), "half").unwrap();
    }
    drop(shop.restore(&dumped, &parts, "new.db").await);
    let mut expected = before.clone();
    expected.insert(0, "new.db-1-steward-loading".into());
    assert_eq!(shop.files(), expected, "a dropped handle takes the file away, too");
}

#[tokio::test]
async fn preflight_finds_what_stands_in_the_way() {
    let shop = shop(ZOO);
    let (mut dumped, _) = shop.dump().await;
    let logical = DumpOptions { method: BackupMethod::Logical, ..shop.options() };
    let preflight = shop.store.dump().unwrap().preflight(&ctx(), &logical).await.unwrap();
    assert_eq!(preflight.refusals.len(), 1);
    let preflight = shop.store.dump().unwrap().preflight(&ctx(), &shop.options()).await.unwrap();
    assert_eq!(preflight.refusals, Vec::<String>::new());
    assert_eq!(preflight.bytes_expected, Some(shop.path().metadata().unwrap().len()));
    dumped.detail["page_count"] = (1u64 << 50).into();
    dumped.needs.push("module spellfix1".into());
    dumped.version = "4.0.0".into();
    let target = LoadTarget::Beside { name: "new.db".into() };
    let preflight = shop.load().preflight(&ctx(), &dumped, &target).await.unwrap();
    assert!(preflight.refusals[0].contains("bytes free and needs"), "{preflight:?}");
    assert_eq!(preflight.warnings.len(), 2, "{preflight:?}");
    let target = LoadTarget::Beside { name: "no/such/new.db".into() };
    let preflight = shop.load().preflight(&ctx(), &dumped, &target).await.unwrap();
    assert!(preflight.refusals[0].contains("there is no folder"), "{preflight:?}");
}

#[tokio::test]
async fn a_dump_that_fails_leaves_no_copy() {
    let shop = shop(ZOO);
    let dump = async |ctx: &Context, parts: &Parts| {
        shop.store.dump().unwrap().dump(ctx, &shop.options(), parts).await.err().unwrap()
    };
    let canceled = ctx();
    canceled.cancellation().cancel();
    assert_eq!(dump(&canceled, &Parts::default()).await.kind(), ErrorKind::Canceled);
    assert_eq!(dump(&ctx(), &Parts::full_after(0)).await.kind(), ErrorKind::LimitExceeded);
    // The copy itself is there then, until the caller takes the folder away.
    assert_eq!(dump(&ctx(), &Parts::default()).await.kind(), ErrorKind::Conflict);
    std::fs::remove_dir_all(shop.options().scratch).unwrap();
    // A page of a table that is damaged is found, not copied in silence.
    let rows = shop.admin();
    rows.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
        INSERT INTO plain SELECT i, i, hex(randomblob(50)) FROM n",
    )
    .unwrap();
    let page: i64 = rows
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'plain'", [], |row| row.get(0))
        .unwrap();
    drop(rows);
    let mut bytes = std::fs::read(shop.path()).unwrap();
    let at = usize::try_from(page - 1).unwrap() * 4096;
    bytes[at..at + 4096].fill(0xEE);
    std::fs::write(shop.path(), bytes).unwrap();
    assert_eq!(dump(&ctx(), &Parts::default()).await.kind(), ErrorKind::Corrupt);
}

/// A process died in the middle of a write: its journal lies beside the file, and the file is half written.
#[tokio::test]
async fn an_interrupted_write_is_rolled_back_first() {
    let shop = shop(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT); PRAGMA journal_mode = DELETE;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
        INSERT INTO t SELECT i, printf('%0200d', i) FROM n;",
    );
    let (before, _) = shop.dump().await;
    let writer = shop.admin();
    writer.execute_batch("PRAGMA cache_size = 5; BEGIN; UPDATE t SET x = printf('%0200d', -id)").unwrap();
    let other = tempfile::tempdir().unwrap();
    let copy = other.path().join("shop.db");
    std::fs::copy(shop.path(), &copy).unwrap();
    let journal = format!("{}-journal", shop.path().display());
    std::fs::copy(&journal, format!("{}-journal", copy.display())).unwrap();
    drop(writer);
    assert_ne!(std::fs::read(&copy).unwrap(), std::fs::read(shop.path()).unwrap(), "half written");
    let crashed = Shop { store: open(&copy), dir: other };
    let parts = Parts::default();
    let dumped = crashed.store.dump().unwrap().dump(&ctx(), &crashed.options(), &parts).await.unwrap();
    assert_eq!(dumped.tables, before.tables);
}

/// What readers see of the live file while it is exchanged: the one or the other, never a mixture, never an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_happens_in_one_moment() {
    for journal in ["WAL", "DELETE"] {
        let shop =
            shop(&format!("PRAGMA journal_mode = {journal}; {ACCOUNTS} UPDATE account SET balance = 1;"));
        let (dumped, parts) = shop.dump().await;
        shop.admin()
            .execute_batch("UPDATE account SET balance = 2; CREATE TABLE later (a); DROP TABLE moved")
            .unwrap();
        let restored = shop.restore(&dumped, &parts, "restored.db").await;
        let (ends, looked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, counted, connection) = (Arc::clone(&ends), Arc::clone(&looked), shop.admin());
        let reader = std::thread::spawn(move || {
            let mut states = Vec::new();
            while !seen.load(Ordering::SeqCst) {
                let state: (i64, i64, i64) = connection
                    .query_row(
                        "SELECT min(balance), max(balance), (SELECT count(*) FROM sqlite_schema WHERE name = 'later') \
                         FROM account",
                        [],
                        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                    )
                    .unwrap();
                if states.last() != Some(&state) {
                    states.push(state);
                }
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            }
            states
        });
        let wait = |more: u64| {
            let (before, begun) = (looked.load(Ordering::SeqCst), Instant::now());
            while looked.load(Ordering::SeqCst) < before + more {
                assert!(begun.elapsed() < Duration::from_mins(1), "the reader stands still");
                std::thread::yield_now();
            }
        };
        wait(2);
        let undo = shop.load().swap(&ctx(), &*restored, false).await.unwrap();
        wait(2);
        ends.store(true, Ordering::SeqCst);
        assert_eq!(reader.join().unwrap(), [(2, 2, 1), (1, 1, 0)], "{journal}");
        restored.remove().await.unwrap();
        let kept = shop.files().into_iter().find(|name| name.contains("-before-")).unwrap();
        assert!(undo.contains(&kept), "{undo}");
        // The way back, as the words say it.
        let kept = shop.dir.path().join(kept);
        assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let old: i64 = Connection::open(&kept)
            .unwrap()
            .query_row("SELECT min(balance) + (SELECT count(*) FROM later) FROM account", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(old, 2, "{journal}");
        // The live file is used as before, by others too.
        shop.admin().execute_batch("INSERT INTO moved VALUES (1)").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_cannot_be_done_changes_nothing() {
    for (journal, hold) in [("DELETE", "BEGIN; SELECT * FROM total"), ("WAL", "BEGIN IMMEDIATE")] {
        let shop = shop(&format!("PRAGMA journal_mode = {journal}; {ACCOUNTS}"));
        let (dumped, parts) = shop.dump().await;
        shop.admin().execute_batch("UPDATE account SET balance = 2").unwrap();
        let restored = shop.restore(&dumped, &parts, "restored.db").await;
        let holder = shop.admin();
        holder.execute_batch(hold).unwrap();
        let hasty = open_waiting(&shop.path(), 50);
        let error = hasty.swap(&ctx(), &*restored, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{journal}: {error}");
        holder.execute_batch("COMMIT").unwrap();
        let balance: i64 =
            shop.admin().query_row("SELECT min(balance) FROM account", [], |row| row.get(0)).unwrap();
        assert_eq!(balance, 2, "{journal}");
        assert!(!shop.files().iter().any(|name| name.contains("-before-")), "{:?}", shop.files());
        // And then it can.
        shop.load().swap(&ctx(), &*restored, false).await.unwrap();
    }
}

#[tokio::test]
async fn a_question_must_be_one_that_reads() {
    let shop = shop(ZOO);
    let (dumped, parts) = shop.dump().await;
    let restored = shop.restore(&dumped, &parts, "restored.db").await;
    for (sql, expected) in [
        ("SELECT 1", Ok(true)),
        ("SELECT 0", Ok(false)),
        ("SELECT NULL", Ok(false)),
        ("SELECT 'true'", Ok(false)),
        ("SELECT 1 WHERE 0", Err(ErrorKind::Invalid)),
        ("SELECT 1 UNION SELECT 2", Err(ErrorKind::Invalid)),
        ("SELECT 1; SELECT 1", Err(ErrorKind::Invalid)),
        ("DELETE FROM plain", Err(ErrorKind::Denied)),
    ] {
        assert_eq!(restored.probe(&ctx(), sql).await.map_err(|error| error.kind()), expected, "{sql}");
    }
}

/// The page at 1 GiB holds the bytes that locks are taken on, and no data.
///
/// Source: sqlite.org, "Database File Format", 1.5 "The Lock-Byte Page".
#[tokio::test]
async fn a_file_beyond_the_lock_page_comes_back() {
    if std::env::var_os("STEWARD_TEST_FULL").is_none() {
        return;
    }
    let shop = shop(
        "PRAGMA page_size = 65536; CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100)
        INSERT INTO t SELECT i, randomblob(1000000) FROM n;",
    );
    let scratch = shop.dir.path().join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let (dumped, parts) = shop.dump().await;
    assert!(shop.path().metadata().unwrap().len() > 1 << 30);
    let restored = shop.restore(&dumped, &parts, "restored.db").await;
    drop(parts);
    assert_eq!(restored.fingerprint(&ctx(), &dumped).await.unwrap(), dumped.tables);
    assert_eq!(restored.check(&ctx()).await.unwrap().problems, Vec::new());
}
