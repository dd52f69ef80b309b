//! Two tables compared by digests of key ranges, against reading both whole and comparing them here, in the same run.
//!
//! `cargo run --release -p benches --bin compare [ROWS]`, with superusers' addresses in `STEWARD_TEST_POSTGRES17_URL` and
//! `STEWARD_TEST_POSTGRES18_URL`. Makes databases of its own and drops them. 100 rows differ: 33 deleted, 33 inserted,
//! 34 changed on the right.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use contract::{Actor, Context, Error, ErrorKind, SecretSource, Store, StoreDirectory};
use futures::StreamExt;
use secrecy::SecretString;
use store_postgres::LoginConfig;
use stores::{CompareStores, Comparison};
use tokio_postgres::{Client, NoTls};

const ROWS: u64 = 10_000_000;
const ROUNDS: usize = 3;
const DATABASE: &str = "steward_bench_compare";
const READER: &str = "steward_bench_compare_reader";
/// Share of the rows that may be moved.
const MOVED_MAX: f64 = 0.01;

fn main() -> Result<(), Error> {
    let rows = match std::env::args().nth(1) {
        None => ROWS,
        Some(text) => text.parse().map_err(|_| Error::new(ErrorKind::Invalid, "ROWS is not a number"))?,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(other)?;
    runtime.block_on(run(rows))
}

async fn run(rows: u64) -> Result<(), Error> {
    let mut out = std::io::stdout();
    let dir = tempfile::tempdir().map_err(other)?;
    let file = dir.path().join("left.db");
    let started = Instant::now();
    fill_sqlite(&file, rows)?;
    let servers = [server("STEWARD_TEST_POSTGRES17_URL")?, server("STEWARD_TEST_POSTGRES18_URL")?];
    for server in &servers {
        fill_postgres(server, rows).await?;
    }
    spoil(&connect(&servers[0], DATABASE).await?, rows).await?;
    writeln!(out, "{rows} rows on each side, 100 differ; made in {:.0} s", started.elapsed().as_secs_f64())
        .map_err(other)?;

    let sqlite =
        store_sqlite::open("sqlite", &store_sqlite::Config::new(file.display().to_string()), Path::new("/"))?;
    let stores = Stores(BTreeMap::from([
        ("sqlite", Arc::new(sqlite) as Arc<dyn Store>),
        ("postgres17", postgres("postgres17", &servers[0])?),
        ("postgres18", postgres("postgres18", &servers[1])?),
    ]));
    let mut answer = Ok(());
    for (left, right) in [("sqlite", "postgres17"), ("postgres18", "postgres17")] {
        let of_left = match left {
            "sqlite" => Source::Sqlite(file.clone()),
            _ => Source::Postgres(servers[1].clone()),
        };
        let result = case(&mut out, &stores, (left, right), of_left, &servers[0]).await;
        if answer.is_ok() {
            answer = result;
        }
    }
    for server in &servers {
        let client = connect(server, "postgres").await?;
        for sql in [format!("DROP DATABASE {DATABASE} WITH (FORCE)"), format!("DROP ROLE {READER}")] {
            client.batch_execute(&sql).await.map_err(other)?;
        }
    }
    answer
}

/// One pair, turn by turn both ways.
async fn case(
    out: &mut impl std::io::Write,
    stores: &Stores,
    (left, right): (&str, &str),
    of_left: Source,
    of_right: &url::Url,
) -> Result<(), Error> {
    let ctx = Context::new("bench", Actor::local());
    let request = CompareStores {
        left: Some(format!("{left}.t")),
        right: Some(format!("{right}.t")),
        list_max: 200,
        timeout_ms: 3_600_000,
        ..CompareStores::default()
    };
    let (mut ours, mut whole) = (Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..ROUNDS {
        let measured = Measured::begin()?;
        let outcome = stores::compare(&ctx, stores, &BTreeMap::new(), &request).await?;
        ours.push(measured.end()?);
        let comparison: Comparison =
            serde_json::from_value(outcome.value["comparisons"][0].clone()).map_err(other)?;
        let found = (comparison.only_left, comparison.only_right, comparison.changed);
        if found != (33, 33, 34) {
            return Err(Error::new(ErrorKind::Corrupt, format!("found {found:?} instead of (33, 33, 34)")));
        }
        last = Some(comparison);
        let measured = Measured::begin()?;
        let found = read_whole(&of_left, of_right).await?;
        whole.push(measured.end()?);
        if found != (33, 33, 34) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("reading whole found {found:?} instead of (33, 33, 34)"),
            ));
        }
    }
    let comparison = last.expect("there is at least one round");
    let (ours, whole) = (median(ours), median(whole));
    let moved = comparison.moved_left.rows + comparison.moved_right.rows;
    #[allow(clippy::cast_precision_loss, reason = "a share for people")]
    let share = moved as f64 / (comparison.rows_left + comparison.rows_right) as f64;
    let bytes = comparison.moved_left.bytes + comparison.moved_right.bytes;
    let lines = [
        format!("{left} and {right}, medians of {ROUNDS} rounds"),
        format!("  compare     {ours}"),
        format!("  read whole  {whole}"),
        format!("  ratio       {:.2} of the time", ours.seconds / whole.seconds),
        format!(
            "  moved       {moved} rows ({:.4} %), {bytes} bytes, {} ranges; all 100 differences found",
            share * 100.0,
            comparison.ranges
        ),
    ];
    for line in lines {
        writeln!(out, "{line}").map_err(other)?;
    }
    if share > MOVED_MAX {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("moved {:.2} % of the rows", share * 100.0),
        ));
    }
    Ok(())
}

/// Time and processor time, of this process and of the whole machine.
struct Measured {
    started: Instant,
    own: f64,
    machine: f64,
}

#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    own: f64,
    machine: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:8.2} s; processor {:.2} s here, {:.2} s on the machine",
            self.seconds, self.own, self.machine
        )
    }
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    costs[costs.len() / 2]
}

impl Measured {
    fn begin() -> Result<Self, Error> {
        Ok(Self { started: Instant::now(), own: own_seconds()?, machine: machine_seconds()? })
    }

    fn end(self) -> Result<Cost, Error> {
        Ok(Cost {
            seconds: self.started.elapsed().as_secs_f64(),
            own: own_seconds()? - self.own,
            machine: machine_seconds()? - self.machine,
        })
    }
}

/// Ticks of Linux are hundredths of a second on every machine that this runs on.
fn ticks(text: &str, fields: impl IntoIterator<Item = usize>) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    fields.into_iter().filter_map(|field| words.get(field)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn own_seconds() -> Result<f64, Error> {
    let text = std::fs::read_to_string("/proc/self/stat").map_err(other)?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(ticks(after_name, [11, 12]))
}

fn machine_seconds() -> Result<f64, Error> {
    let text = std::fs::read_to_string("/proc/stat").map_err(other)?;
    // User, nice, system, and what interrupts took; not idle, not waiting.
    Ok(ticks(text.lines().next().unwrap_or_default(), [1, 2, 3, 6, 7]))
}

/// Where the rows of the left side are read from.
#[derive(Clone)]
enum Source {
    Sqlite(std::path::PathBuf),
    Postgres(url::Url),
}

type Line = (i64, Vec<u8>);
type Lines = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Line, Error>> + Send>>;

/// Both tables, row by row in the order of the key, as texts: the fastest way that each engine has.
async fn read_whole(left: &Source, right: &url::Url) -> Result<(u64, u64, u64), Error> {
    let mut left = match left {
        Source::Sqlite(file) => lines_of_sqlite(file.clone()),
        Source::Postgres(url) => lines_of_postgres(url).await?,
    };
    let mut right = lines_of_postgres(right).await?;
    let (mut only_left, mut only_right, mut changed) = (0, 0, 0);
    let (mut a, mut b) = (left.next().await.transpose()?, right.next().await.transpose()?);
    loop {
        match (&a, &b) {
            (None, None) => return Ok((only_left, only_right, changed)),
            (Some(of_left), Some(of_right)) if of_left.0 == of_right.0 => {
                changed += u64::from(of_left.1 != of_right.1);
                a = left.next().await.transpose()?;
                b = right.next().await.transpose()?;
            }
            (Some(of_left), of_right) if of_right.as_ref().is_none_or(|right| of_left.0 < right.0) => {
                only_left += 1;
                a = left.next().await.transpose()?;
            }
            _ => {
                only_right += 1;
                b = right.next().await.transpose()?;
            }
        }
    }
}

async fn lines_of_postgres(url: &url::Url) -> Result<Lines, Error> {
    let client = connect(url, DATABASE).await?;
    client.batch_execute("SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'").await.map_err(other)?;
    let copied = client
        .copy_out(
            "COPY (SELECT id, customer, status, total, ratio, at, note, ok FROM t ORDER BY id) TO STDOUT",
        )
        .await
        .map_err(other)?;
    let lines = copied.map(move |line| {
        // Held as long as its rows come.
        let _client = &client;
        let line = line.map_err(other)?;
        let id = line.split(|byte| *byte == b'\t').next().unwrap_or_default();
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a row without an id"))?;
        Ok((id, line[..line.len() - 1].to_vec()))
    });
    Ok(Box::pin(lines))
}

/// On a thread of its own, as the text of PostgreSQL.
fn lines_of_sqlite(file: std::path::PathBuf) -> Lines {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<Line>, Error>>(8);
    tokio::task::spawn_blocking(move || {
        let read = || -> Result<(), Error> {
            let connection = rusqlite::Connection::open(&file).map_err(other)?;
            let mut statement = connection
                .prepare("SELECT id, customer, status, total, ratio, at, note, ok FROM t ORDER BY id")
                .map_err(other)?;
            let mut rows = statement.query([]).map_err(other)?;
            let mut batch = Vec::with_capacity(1_000);
            while let Some(row) = rows.next().map_err(other)? {
                let id: i64 = row.get(0).map_err(other)?;
                let mut line = Vec::with_capacity(128);
                let text = |at: usize| row.get_ref(at).and_then(|value| Ok(value.as_str()?)).map_err(other);
                write!(
                    line,
                    "{id}\t{}\t{}\t{:.2}\t{}\t{}+00\t{}\t{}",
                    row.get::<_, i64>(1).map_err(other)?,
                    text(2)?,
                    row.get::<_, f64>(3).map_err(other)?,
                    row.get::<_, f64>(4).map_err(other)?,
                    text(5)?,
                    text(6)?,
                    if row.get::<_, bool>(7).map_err(other)? { 't' } else { 'f' }
                )
                .map_err(other)?;
                batch.push((id, line));
                if batch.len() == 1_000 && sender.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                    return Ok(());
                }
            }
            sender.blocking_send(Ok(batch)).ok();
            Ok(())
        };
        if let Err(error) = read() {
            sender.blocking_send(Err(error)).ok();
        }
    });
    let batches = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    Box::pin(batches.flat_map(|batch| {
        futures::stream::iter(match batch {
            Ok(lines) => lines.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }))
}

fn fill_sqlite(file: &Path, rows: u64) -> Result<(), Error> {
    let connection = rusqlite::Connection::open(file).map_err(other)?;
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; \
             CREATE TABLE t (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL, status TEXT NOT NULL, \
               total DECIMAL(12, 2) NOT NULL, ratio REAL NOT NULL, at TEXT NOT NULL, note TEXT NOT NULL, ok BOOLEAN NOT NULL); \
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) \
             INSERT INTO t SELECT n, n % 10007, 'state ' || (n % 5), n % 100000 / 100.0, n / 8.0, \
               strftime('%Y-%m-%d %H:%M:%S', 1700000000 + n, 'unixepoch'), 'a note about the row ' || (n * 7919 % 1000003), n % 2 FROM c"
        ))
        .map_err(other)
}

async fn fill_postgres(server: &url::Url, rows: u64) -> Result<(), Error> {
    let client = connect(server, "postgres").await?;
    for sql in [
        format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"),
        format!("DROP ROLE IF EXISTS {READER}"),
        format!("CREATE ROLE {READER} LOGIN PASSWORD 'bench'"),
        format!("CREATE DATABASE {DATABASE}"),
    ] {
        client.batch_execute(&sql).await.map_err(other)?;
    }
    let client = connect(server, DATABASE).await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id bigint PRIMARY KEY, customer int NOT NULL, status text NOT NULL, \
               total numeric(12, 2) NOT NULL, ratio float8 NOT NULL, at timestamptz NOT NULL, note text NOT NULL, ok bool NOT NULL); \
             INSERT INTO t SELECT n, n % 10007, 'state ' || n % 5, n % 100000 / 100.0, n / 8.0::float8, \
               to_timestamp(1700000000 + n), 'a note about the row ' || n * 7919 % 1000003, n % 2 = 1 \
             FROM generate_series(1, {rows}::bigint) n; \
             GRANT SELECT ON t TO {READER}"
        ))
        .await
        .map_err(other)?;
    client.batch_execute("VACUUM ANALYZE t").await.map_err(other)
}

/// 33 deleted, 34 changed, 33 inserted, all over the table.
async fn spoil(client: &Client, rows: u64) -> Result<(), Error> {
    let step = rows / 34;
    client
        .batch_execute(&format!(
            "DELETE FROM t WHERE id IN (SELECT 1 + i * {step} FROM generate_series(0, 32) i); \
             UPDATE t SET note = note || '!' WHERE id IN (SELECT 1 + {step} / 2 + i * {step} FROM generate_series(0, 33) i); \
             INSERT INTO t SELECT {rows} + 1 + i * 11, 1, 'new', 1, 1, now(), 'new', true FROM generate_series(0, 32) i"
        ))
        .await
        .map_err(other)
}

fn server(variable: &str) -> Result<url::Url, Error> {
    let text = std::env::var(variable)
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("`{variable}` is not set")))?;
    text.parse().map_err(other)
}

async fn connect(server: &url::Url, database: &str) -> Result<Client, Error> {
    let mut address = server.clone();
    address.set_path(database);
    let (client, connection) = tokio_postgres::connect(address.as_str(), NoTls).await.map_err(other)?;
    tokio::spawn(connection);
    Ok(client)
}

fn postgres(name: &str, server: &url::Url) -> Result<Arc<dyn Store>, Error> {
    let mut address = server.clone();
    address.set_path(DATABASE);
    address.set_username("").map_err(|()| Error::new(ErrorKind::Invalid, "the address has no user"))?;
    let reader = LoginConfig { user: READER.into(), password_secret: Some("bench".into()) };
    let config = store_postgres::Config::new(address.as_str(), reader);
    Ok(Arc::new(store_postgres::open(name, config, Path::new("/"), Arc::new(Password))?))
}

struct Password;

#[async_trait]
impl SecretSource for Password {
    async fn secret(&self, _: &Context, _: &str) -> Result<SecretString, Error> {
        Ok(SecretString::from("bench"))
    }
}

struct Stores(BTreeMap<&'static str, Arc<dyn Store>>);

#[async_trait]
impl StoreDirectory for Stores {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        self.0.iter().map(|(name, store)| ((*name).to_owned(), store.kind().to_owned())).collect()
    }

    async fn open(&self, _: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        self.0
            .get(name)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no store `{name}`")))
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Other, "the benchmark failed").because(error)
}
