//! A real database of a PostgreSQL server: made for the runs, changed and cut off in the middle of a dump.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

/// What the database holds at the beginning of a run. Whatever happens, as many moves are counted as there are.
const CONTENTS: &str = "
    DROP SCHEMA public CASCADE; CREATE SCHEMA public;
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, filler text NOT NULL);
    CREATE TABLE moved (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount bigint NOT NULL);
    CREATE TABLE total (moves bigint NOT NULL);
    CREATE TABLE spare (id int);
    CREATE VIEW sums AS SELECT sum(amount) AS amount FROM moved;
    INSERT INTO account SELECT i, 0, repeat(md5(i::text), 8) FROM generate_series(1, 400) AS i;
    INSERT INTO moved (amount) SELECT i FROM generate_series(1, 300) AS i;
    INSERT INTO total VALUES (300);";

/// What is true of each state of the database.
pub(crate) const TRUE_ALWAYS: [&str; 3] = [
    "SELECT (SELECT count(*) FROM moved) = (SELECT moves FROM total)",
    "SELECT (SELECT count(*) FROM account) = 400",
    "SELECT (SELECT sum(balance) FROM account) = 0",
];

/// One more move, in one transaction.
const MOVE: &str = "BEGIN; INSERT INTO moved (amount) VALUES (7); UPDATE total SET moves = moves + 1;
    UPDATE account SET balance = balance + 7 WHERE id = 1; UPDATE account SET balance = balance - 7 WHERE id = 2; COMMIT";

/// Changes of the schema. Most wait for the dump's locks, and give up.
const CHANGES: [&str; 8] = [
    "ALTER TABLE account ADD COLUMN note text DEFAULT 'x'",
    "DROP TABLE spare",
    "CREATE TABLE extra AS SELECT * FROM moved",
    "CREATE INDEX ON moved (amount)",
    "CREATE OR REPLACE VIEW sums AS SELECT max(amount)::numeric AS amount FROM moved",
    "ALTER TABLE spare RENAME TO spare_again",
    "CLUSTER moved USING moved_pkey",
    "SELECT nextval('moved_id_seq')",
];
pub(crate) const CHANGES_COUNT: usize = CHANGES.len();

/// Where the database of this name is.
pub(crate) fn url(database: &str) -> url::Url {
    let mut url = url::Url::parse(&conformance::postgres()).unwrap();
    url.set_path(database);
    url
}

pub(crate) async fn connect(database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url(database).as_str(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Does it on a thread of its own, whatever runs here.
fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let work = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    });
    work.join().unwrap()
}

/// A database that is dropped with its handle.
pub(crate) struct Rows(pub(crate) String);

impl Rows {
    pub(crate) async fn make() -> Self {
        let name = conformance::namespace("faults");
        connect("postgres").await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let made = Self(name);
        reset(&made.0).await;
        made
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        let name = self.0.clone();
        apart(async move {
            let drop = format!("DROP DATABASE {name} WITH (FORCE)");
            connect("postgres").await.batch_execute(&drop).await.ok();
        });
    }
}

/// As at the beginning.
pub(crate) async fn reset(database: &str) {
    connect(database).await.batch_execute(CONTENTS).await.unwrap();
}

/// Ends every other session of the database.
pub(crate) fn end_sessions(database: &str) {
    let database = database.to_owned();
    apart(async move {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        connect(&database).await.execute(sql, &[]).await.unwrap();
    });
}

/// Writes rows, and changes the schema if its locks come.
pub(crate) fn change(database: &str, number: usize) {
    let database = database.to_owned();
    apart(async move {
        let client = connect(&database).await;
        client.batch_execute("SET lock_timeout = 50").await.unwrap();
        client.batch_execute(MOVE).await.unwrap();
        // Refused where the dump has locked the table: then it has not happened.
        client.batch_execute(CHANGES[number]).await.ok();
        client.batch_execute(MOVE).await.unwrap();
    });
}

/// Ends the first session that `pg_dump` opens while this lives.
pub(crate) struct Hunter {
    ends: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<bool>,
}

impl Hunter {
    pub(crate) fn start(database: &str) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (database, seen) = (database.to_owned(), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            apart(async move {
                let client = connect(&database).await;
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE datname = current_database() AND starts_with(application_name, 'pg_dump')";
                while !seen.load(Ordering::SeqCst) {
                    if client.execute(sql, &[]).await.unwrap() > 0 {
                        return true;
                    }
                    // The server tells nobody that a session has begun.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                false
            })
        });
        Self { ends, thread }
    }

    /// Whether there was one.
    pub(crate) fn end(self) -> bool {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}
