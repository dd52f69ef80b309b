//! The shared store suite against real SQLite files; below it, what only SQLite does.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use conformance::{Admin, Opened, Sql};
use contract::Store;
use rusqlite::Connection;
use serde_json::json;
use store_sqlite::Config;

conformance::store_suite!(open);

struct File(PathBuf);

#[async_trait]
impl Admin for File {
    async fn run(&self, sql: &str) {
        let (path, sql) = (self.0.clone(), sql.to_owned());
        let run = move || {
            Connection::open(path).unwrap().execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
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
            "SELECT writefile('/tmp/steward-way-out', 'x')",
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
