//! What a migration does on a real server: locks from `pg_locks`, work from counters and files, failure from the error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use stores::lint::{Blocking, Lock, read};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Rows from which work counts as long; the large tables of the world have 12,000.
const ROWS_LONG: i64 = 10_000;
/// Bytes from which a file that was written anew counts as long: fewer than 12,000 rows take, more than an empty one.
const BYTES_LONG: i64 = 200_000;
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Cases as the file writes them: `--- case NAME`, then the migration.
pub(crate) fn cases(text: &str) -> Vec<Case> {
    text.split("--- case ")
        .skip(1)
        .map(|part| {
            let (name, text) = part.split_once('\n').unwrap();
            Case { name: name.trim().to_owned(), text: text.trim().to_owned() + "\n" }
        })
        .collect()
}

/// What a server did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) class: Blocking,
    /// Strongest lock on a relation that was there before, indexes left out.
    pub(crate) lock: Option<Lock>,
    /// SQLSTATE of the failure.
    pub(crate) error: String,
    /// Places of the application's statements that fail afterwards.
    pub(crate) broken: Vec<usize>,
}

impl Truth {
    pub(crate) fn line(&self, name: &str) -> String {
        let class = serde_json::to_value(self.class).unwrap();
        let lock = self.lock.map_or("-", Lock::name);
        let error = if self.error.is_empty() { "-" } else { &self.error };
        let broken: Vec<String> = self.broken.iter().map(usize::to_string).collect();
        let broken = if broken.is_empty() { "-".to_owned() } else { broken.join(",") };
        format!("{name}\t{}\t{lock}\t{error}\t{broken}", class.as_str().unwrap())
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Relation {
    kind: String,
    file: String,
    read: i64,
    changed: i64,
}

/// Relations by oid. `counters`: `xact_` for those of the open transaction.
async fn relations(client: &Client, counters: &str) -> BTreeMap<String, Relation> {
    let sql = format!(
        "SELECT c.oid, c.relkind, c.relfilenode, pg_stat_get_{counters}tuples_returned(c.oid), \
         pg_stat_get_{counters}tuples_updated(c.oid) + pg_stat_get_{counters}tuples_deleted(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
    );
    rows(client, &sql)
        .await
        .into_iter()
        .map(|row| {
            let relation = Relation {
                kind: row[1].clone(),
                file: row[2].clone(),
                read: row[3].parse().unwrap_or(0),
                changed: row[4].parse().unwrap_or(0),
            };
            (row[0].clone(), relation)
        })
        .collect()
}

/// Locks of a backend by oid, also those that it waits for.
async fn locks(client: &Client, pid: &str) -> Vec<(String, Lock, bool)> {
    let sql = format!(
        "SELECT l.relation, l.mode, l.granted FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
         WHERE l.pid = {pid} AND l.locktype = 'relation' AND d.datname = current_database()"
    );
    rows(client, &sql)
        .await
        .into_iter()
        .filter_map(|row| Some((row[0].clone(), Lock::named(&row[1])?, row[2] == "t")))
        .collect()
}

/// What one migration has done so far.
struct Course {
    before: BTreeMap<String, Relation>,
    class: Blocking,
    lock: Option<Lock>,
}

impl Course {
    /// Takes in what a statement did: the locks that are held and the work since `from`.
    async fn take(
        &mut self,
        client: &Client,
        held: &[(String, Lock, bool)],
        from: &BTreeMap<String, Relation>,
        to: &BTreeMap<String, Relation>,
    ) {
        let mut any: Option<Lock> = None;
        for (oid, lock, _) in held {
            let Some(relation) = self.before.get(oid) else { continue };
            any = any.max(Some(*lock));
            if !matches!(relation.kind.as_str(), "i" | "I") {
                self.lock = self.lock.max(Some(*lock));
            }
        }
        let (mut works, mut changes) = (false, false);
        for (oid, after) in to {
            let Some(before) = from.get(oid) else { continue };
            works |= after.read - before.read >= ROWS_LONG && self.before.contains_key(oid);
            changes |= after.changed - before.changed >= ROWS_LONG && self.before.contains_key(oid);
            if after.file != before.file && after.file != "0" && self.before.contains_key(oid) {
                let size = rows(client, &format!("SELECT pg_relation_size({oid}::regclass)")).await;
                works |= size[0][0].parse::<i64>().unwrap() >= BYTES_LONG;
            }
        }
        let blocks = any.map_or(Blocking::None, Lock::blocks);
        let class = if (works || changes) && blocks > Blocking::None {
            blocks
        } else if changes {
            Blocking::Writes
        } else if blocks > Blocking::None {
            Blocking::Brief
        } else {
            Blocking::None
        };
        self.class = self.class.max(class);
    }
}

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| panic!("{error:?}"), |code| code.code().to_owned())
}

/// Runs a migration and says what it did. What a transaction does is rolled back; what runs outside of one stays.
pub(crate) async fn measure(url: &str, case: &Case, application: &[String]) -> Truth {
    let client = connect(url).await;
    let quiet = "SET max_parallel_workers_per_gather = 0; SET max_parallel_maintenance_workers = 0; \
                 SET client_min_messages = error; SET timezone = 'UTC'";
    client.batch_execute(quiet).await.unwrap();
    let script = read(&case.text);
    let before = relations(&client, "").await;
    let mut course = Course { before, class: Blocking::None, lock: None };
    let failed = |course: &Course, error: String| Truth {
        class: Blocking::Fails,
        lock: course.lock,
        error,
        broken: Vec::new(),
    };
    let pid = rows(&client, "SELECT pg_backend_pid()").await[0][0].clone();
    if script.transaction {
        client.batch_execute("BEGIN").await.unwrap();
    }
    for statement in &script.statements {
        if !script.transaction {
            client.batch_execute("BEGIN").await.unwrap();
        }
        let from = relations(&client, "xact_").await;
        match client.batch_execute(&statement.sql).await {
            Ok(()) => {
                let held = locks(&client, &pid).await;
                let to = relations(&client, "xact_").await;
                course.take(&client, &held, &from, &to).await;
                if !script.transaction {
                    client.batch_execute("COMMIT").await.unwrap();
                }
            }
            Err(error) if !script.transaction && code(&error) == "25001" => {
                client.batch_execute("ROLLBACK").await.unwrap();
                if let Err(error) = alone(url, &client, &pid, &statement.sql, &mut course).await {
                    return failed(&course, error);
                }
            }
            Err(error) => {
                let failed = failed(&course, code(&error));
                client.batch_execute("ROLLBACK").await.unwrap();
                return failed;
            }
        }
    }
    if !script.transaction {
        client.batch_execute("BEGIN").await.unwrap();
    }
    let mut broken = Vec::new();
    for (at, sql) in application.iter().enumerate() {
        client.batch_execute("SAVEPOINT old").await.unwrap();
        if client.batch_execute(sql).await.is_err() {
            broken.push(at + 1);
        }
        client.batch_execute("ROLLBACK TO old").await.unwrap();
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    Truth { class: course.class, lock: course.lock, error: String::new(), broken }
}

/// Runs a statement that refuses transactions. Another session holds a lock on every table that it must wait for, so
/// that the lock it asks for stands in `pg_locks`; then it is let through.
async fn alone(url: &str, client: &Client, pid: &str, sql: &str, course: &mut Course) -> Result<(), String> {
    let (blocker, observer) = (connect(url).await, connect(url).await);
    let tables = rows(
        &observer,
        "SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ') FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') \
         AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'",
    )
    .await[0][0]
        .clone();
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    let from = relations(&observer, "").await;
    let blocking = format!("BEGIN; LOCK TABLE {tables} IN SHARE UPDATE EXCLUSIVE MODE");
    blocker.batch_execute(&blocking).await.unwrap();
    let mut held = Vec::new();
    let watch = async {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "`{sql}` neither waits nor ends");
            held = locks(&observer, pid).await;
            // The backend is through with this statement, not still with the one before.
            let ended = format!(
                "SELECT state = 'idle' AND query = $sql${sql}$sql$ FROM pg_stat_activity WHERE pid = {pid}"
            );
            let ended = rows(&observer, &ended).await[0][0] == "t";
            if ended || held.iter().any(|(_, _, granted)| !granted) {
                break;
            }
            // Only keeps the observer from spinning; what ends the loop is a state, not a time.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        blocker.batch_execute("ROLLBACK").await.unwrap();
    };
    let (done, ()) = tokio::join!(client.batch_execute(sql), watch);
    if let Err(error) = done {
        return Err(code(&error));
    }
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    let to = relations(&observer, "").await;
    course.take(&observer, &held, &from, &to).await;
    Ok(())
}

/// Names that appear twice.
pub(crate) fn doubled(cases: &[Case]) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    cases.iter().map(|case| case.name.as_str()).filter(|name| !seen.insert(*name)).collect()
}
