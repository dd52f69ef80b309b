//! Seeded faults, each found by its own code; and nothing found where nothing is wrong.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

use std::path::{Path, PathBuf};

use contract::{Actor, Context, HealthArea, HealthCheck, HealthScope, Seen, Severity, Store, Trigger};
use rusqlite::Connection;
use store_sqlite::{Config, SqliteStore};

/// What a careful team would make.
const WELL_MADE: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE) STRICT;
    CREATE TABLE orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT, customer_id INTEGER NOT NULL REFERENCES customers (id),
        state TEXT NOT NULL CHECK (state IN ('open', 'paid')), price REAL NOT NULL
    );
    CREATE INDEX orders_customer ON orders (customer_id, state);
    CREATE INDEX orders_open ON orders (id) WHERE state = 'open';
    CREATE VIEW open_orders AS SELECT * FROM orders WHERE state = 'open';
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000)
    INSERT INTO customers SELECT n, 'customer ' || n, n || '@example.org' FROM n;
    INSERT INTO orders (customer_id, state, price) SELECT id, 'paid', 9.5 FROM customers;
    ANALYZE;
    PRAGMA wal_checkpoint(TRUNCATE);
";

/// Rows to fill tables with.
const NUMBERS: &str = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)";

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let file = Self { dir };
        file.run(WELL_MADE);
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("shop.db")
    }

    fn run(&self, sql: &str) {
        let connection = Connection::open(self.path()).unwrap();
        connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn health(&self) -> Vec<HealthCheck> {
        health_of(&self.path(), &HealthScope::default()).await
    }
}

fn store(path: &Path) -> SqliteStore {
    store_sqlite::open("shop", &Config::new(path.to_str().unwrap()), "/".as_ref()).unwrap()
}

async fn health_of(path: &Path, scope: &HealthScope) -> Vec<HealthCheck> {
    let ctx = Context::new("shop", Actor::local());
    store(path).health().unwrap().check_health(&ctx, scope).await.unwrap()
}

fn found(checks: &[HealthCheck]) -> Vec<(String, String)> {
    let findings = checks.iter().flat_map(|check| &check.findings);
    findings.map(|finding| (finding.code.clone(), finding.object.clone())).collect()
}

/// Code, part of the object's name, statements that make the fault.
const FAULTS: &[(&str, &str, &str)] = &[
    (
        "foreign_key_violations",
        "orders",
        "PRAGMA foreign_keys = OFF; INSERT INTO orders (customer_id, state, price) VALUES (999999, 'open', 1)",
    ),
    (
        "free_pages",
        "",
        "CREATE TABLE gone (id INTEGER PRIMARY KEY, note); NUMBERS INSERT INTO gone SELECT n, hex(zeroblob(200)) FROM n; \
         DROP TABLE gone",
    ),
    (
        "pages_half_empty",
        "thin",
        "CREATE TABLE thin (id INTEGER PRIMARY KEY, note); NUMBERS INSERT INTO thin SELECT n, hex(zeroblob(200)) FROM n; \
         DELETE FROM thin WHERE id % 9 < 5; ANALYZE",
    ),
    (
        "fragmented",
        "left",
        "CREATE TABLE left_ (id INTEGER PRIMARY KEY, note); CREATE TABLE \"left\" (id INTEGER PRIMARY KEY, note); \
         CREATE TRIGGER both AFTER INSERT ON left_ BEGIN INSERT INTO \"left\" VALUES (new.id, new.note); END; \
         NUMBERS INSERT INTO left_ SELECT n, hex(zeroblob(600)) FROM n WHERE n < 4000",
    ),
    (
        "never_analyzed",
        "fresh",
        "CREATE TABLE fresh (id INTEGER PRIMARY KEY, a); CREATE INDEX fresh_a ON fresh (a); \
         NUMBERS INSERT INTO fresh SELECT n, n FROM n",
    ),
    (
        "statistics_stale",
        "customers",
        "NUMBERS INSERT INTO customers (name) SELECT 'x' FROM n, (SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3)",
    ),
    ("index_not_selective", "orders_state", "CREATE INDEX orders_state ON orders (state); ANALYZE"),
    ("index_duplicate", "twice", "CREATE INDEX twice ON orders (customer_id, state)"),
    ("index_redundant", "prefix", "CREATE INDEX prefix ON orders (customer_id)"),
    (
        "foreign_key_without_index",
        "notes.order_id",
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders (id))",
    ),
    ("no_primary_key", "heap", "CREATE TABLE heap (a INTEGER, b TEXT)"),
    ("view_broken", "lost", "CREATE TABLE t (a); CREATE VIEW lost AS SELECT a FROM t; DROP TABLE t"),
    (
        "double_quoted_literal",
        "odd",
        "CREATE TABLE odd (id INTEGER PRIMARY KEY, state TEXT); CREATE INDEX odd_open ON odd (id) WHERE state = \"open\"",
    ),
    ("values_of_other_type", "orders.price", "UPDATE orders SET price = 'a lot' WHERE id = 7"),
    (
        "autoincrement_near_end",
        "orders",
        "UPDATE sqlite_sequence SET seq = 9000000000000000000 WHERE name = 'orders'",
    ),
    ("journal_not_wal", "", "PRAGMA journal_mode = DELETE"),
    (
        "page_size_small",
        "",
        "PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM; PRAGMA journal_mode = WAL",
    ),
];

#[tokio::test]
async fn every_seeded_fault_is_found_by_its_own_code() {
    for (code, object, seed) in FAULTS {
        let file = File::new();
        let before = found(&file.health().await);
        assert!(!before.iter().any(|(found, _)| found == code), "{code} before it was there");
        file.run(&seed.replace("NUMBERS", NUMBERS));
        let checks = file.health().await;
        let after = found(&checks);
        // A fix is part of it, and the statement that shows it.
        assert!(
            after.iter().any(|(found, of)| found == code && of.contains(object)),
            "{code} is not found: {after:?}"
        );
        assert!(checks.iter().flat_map(|check| &check.findings).all(|finding| !finding.fix.is_empty()));
    }
    eprintln!("{} faults seeded and found, besides those of the file itself", FAULTS.len());
}

#[tokio::test]
async fn nothing_is_found_in_a_well_made_file() {
    let file = File::new();
    let checks = file.health().await;
    let alarms: Vec<_> = checks
        .iter()
        .flat_map(|check| &check.findings)
        .filter(|finding| finding.severity > Severity::Info)
        .collect();
    assert!(alarms.is_empty(), "{alarms:#?}");
    for name in ["connection_settings", "encryption_at_rest"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert!(matches!(check.seen, Seen::Nothing { .. }), "{check:?}");
    }
    let scope = HealthScope { areas: vec![HealthArea::Indexes], ..HealthScope::default() };
    let some = health_of(&file.path(), &scope).await;
    assert!(!some.is_empty() && some.iter().all(|check| check.area == HealthArea::Indexes), "{some:?}");
}

#[tokio::test]
async fn damage_is_found_and_escalated() {
    let file = File::new();
    // The end of the file: pages of the tables.
    let mut bytes = std::fs::read(file.path()).unwrap();
    let at = bytes.len() - 3 * 4096;
    bytes[at..at + 200].fill(0xff);
    std::fs::write(file.path(), bytes).unwrap();
    let scope = HealthScope { areas: vec![HealthArea::Integrity], ..HealthScope::default() };
    let checks = health_of(&file.path(), &scope).await;
    let corruption =
        checks.iter().flat_map(|check| &check.findings).find(|finding| finding.code == "corruption");
    assert_eq!(corruption.unwrap().escalate, Some(Trigger::DataCorruption));
}

#[tokio::test]
async fn a_journal_that_a_dead_process_left_is_reported() {
    let file = File::new();
    file.run("PRAGMA journal_mode = DELETE");
    let writer = Connection::open(file.path()).unwrap();
    // So few pages in memory that the transaction reaches the file before it ends.
    writer
        .execute_batch("PRAGMA cache_size = 2; BEGIN; UPDATE customers SET name = name || ' (changed)'")
        .unwrap();
    let dead = file.dir.path().join("dead.db");
    std::fs::copy(file.path(), &dead).unwrap();
    std::fs::copy(file.dir.path().join("shop.db-journal"), file.dir.path().join("dead.db-journal")).unwrap();
    writer.execute_batch("ROLLBACK").unwrap();
    drop(writer);
    let scope = HealthScope { areas: vec![HealthArea::Integrity], ..HealthScope::default() };
    let checks = health_of(&dead, &scope).await;
    assert!(found(&checks).iter().any(|(code, _)| code == "hot_journal"), "{checks:?}");
    assert!(found(&health_of(&dead, &scope).await).is_empty(), "it is gone now");
}

#[tokio::test]
async fn a_log_that_nobody_empties_is_reported() {
    let file = File::new();
    let connection = Connection::open(file.path()).unwrap();
    connection
        .execute_batch(
            "PRAGMA wal_autocheckpoint = 0; CREATE TABLE big (id INTEGER PRIMARY KEY, blob BLOB); \
             INSERT INTO big VALUES (1, zeroblob(20000000))",
        )
        .unwrap();
    let checks = file.health().await;
    assert!(found(&checks).iter().any(|(code, _)| code == "wal_not_checkpointed"), "{checks:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn files_that_everyone_may_read_or_write_are_reported() {
    use std::os::unix::fs::PermissionsExt;

    let file = File::new();
    let set = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let scope = HealthScope { areas: vec![HealthArea::Logins], ..HealthScope::default() };
    for (folder, mode, codes) in [
        (0o700, 0o666, vec![]),
        (0o755, 0o640, vec![]),
        (0o755, 0o644, vec!["file_readable_by_all"]),
        (0o755, 0o646, vec!["file_writable_by_all"]),
        (0o777, 0o640, vec!["folder_writable_by_all"]),
        (0o1777, 0o640, vec![]),
    ] {
        set(file.dir.path(), folder);
        set(&file.path(), mode);
        for beside in ["shop.db-wal", "shop.db-shm"] {
            std::fs::remove_file(file.dir.path().join(beside)).ok();
        }
        let path = file.path();
        let checks = health_of(&path, &scope).await;
        let own: Vec<String> = found(&checks)
            .into_iter()
            .filter(|(_, object)| !object.ends_with("-wal") && !object.ends_with("-shm"))
            .map(|(code, _)| code)
            .collect();
        assert_eq!(own, codes, "{folder:o} {mode:o}");
    }
    set(file.dir.path(), 0o700);
}
