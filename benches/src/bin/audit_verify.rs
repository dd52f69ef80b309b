//! How long `audit verify` takes for a million events, next to what the machine needs at least for the same bytes.
//!
//! `cargo run --release -p benches --bin audit_verify [EVENTS]`

use std::io::Write as _;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use contract::{Actor, Context, Error, ErrorKind};
use ledger::{Keys, Ledger, NewEvent, Options, Write};
use secrecy::SecretBox;
use serde_json::json;

const EVENTS: u64 = 1_000_000;
const EVENTS_PER_WRITE: u64 = 1000;
/// The promise for a million events.
const SECONDS_MAX: f64 = 10.0;

fn main() -> Result<(), Error> {
    let events = match std::env::args().nth(1) {
        None => EVENTS,
        Some(text) => text.parse().map_err(|_| Error::new(ErrorKind::Invalid, "EVENTS is not a number"))?,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(other)?;
    runtime.block_on(run(events))
}

async fn run(events: u64) -> Result<(), Error> {
    let mut out = std::io::stdout();
    let directory = tempfile::tempdir().map_err(other)?;
    let path = directory.path().join("state.db");
    let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
    let ledger = Ledger::open(&path, keys, Options::new(directory.path().join("audit.head"))).await?;
    let ctx = Context::new("bench", Actor::local()).with_task("task-0192d3a4b5c6");

    let started = Instant::now();
    let mut number = 0;
    while number < events {
        let mut write = Write::new();
        for _ in 0..EVENTS_PER_WRITE.min(events - number) {
            number += 1;
            write = write.event(event(number));
        }
        // The last one is durable, so that the head covers all of them.
        let write = if number < events { write.unsynced() } else { write };
        ledger.write(&ctx, write).await?;
    }
    let bytes = std::fs::metadata(&path).map_err(other)?.len();
    line(&mut out, "write", events, started.elapsed());

    let (selected, hashed_bytes) = select_all(&path)?;
    let hashed = hash(hashed_bytes);
    let started = Instant::now();
    let verified = ledger.verify().await?;
    let verify = started.elapsed();
    if !verified.is_whole() || verified.events != events {
        return Err(Error::new(ErrorKind::Corrupt, format!("the chain is not whole: {verified:?}")));
    }

    line(&mut out, "plain SELECT of the same rows", events, selected);
    line(&mut out, "plain SHA-256 of the same bytes", events, hashed);
    line(&mut out, "verify", events, verify);
    let limit = (selected + hashed).as_secs_f64();
    let per_million = verify.as_secs_f64() * 1e6 / to_f64(events);
    say(&mut out, &format!("file {:.1} MiB, hashed {:.1} MiB", mib(bytes), mib(hashed_bytes)));
    say(&mut out, &format!("verify / (SELECT + SHA-256) = {:.2}", verify.as_secs_f64() / limit));
    say(&mut out, &format!("verify of 1 M events: {per_million:.2} s (promised: at most {SECONDS_MAX} s)"));
    if per_million > SECONDS_MAX {
        return Err(Error::new(ErrorKind::LimitExceeded, "slower than promised"));
    }
    Ok(())
}

fn event(number: u64) -> NewEvent {
    let body = json!({
        "request": "store.query",
        "statement": "SELECT count(*) FROM orders WHERE customer_id = $1",
        "rows": number % 1000,
        "elapsed_ms": 12.5,
        "decided": { "decision": "permitted", "policies": ["read-any-store"] },
    });
    NewEvent::new("store.query.outcome", "store:orders", body)
}

/// Reads every column of every row without looking at it; also how many bytes `verify` hashes of them.
fn select_all(path: &std::path::Path) -> Result<(Duration, u64), Error> {
    let connection = rusqlite::Connection::open(path).map_err(other)?;
    let started = Instant::now();
    let mut bytes = 0;
    for sql in ["SELECT * FROM events ORDER BY seq", "SELECT * FROM bodies ORDER BY seq"] {
        let mut statement = connection.prepare(sql).map_err(other)?;
        let columns = statement.column_count();
        let mut rows = statement.query([]).map_err(other)?;
        while let Some(row) = rows.next().map_err(other)? {
            for column in 0..columns {
                bytes += match row.get_ref(column).map_err(other)? {
                    rusqlite::types::ValueRef::Text(value) => 8 + value.len() as u64,
                    rusqlite::types::ValueRef::Blob(value) => value.len() as u64,
                    _ => 8,
                };
            }
        }
    }
    Ok((started.elapsed(), bytes))
}

fn hash(bytes: u64) -> Duration {
    let chunk = vec![0x5a; 1 << 20];
    let started = Instant::now();
    let mut context = digest::Context::new(&digest::SHA256);
    for _ in 0..bytes >> 20 {
        context.update(&chunk);
    }
    std::hint::black_box(context.finish());
    started.elapsed()
}

fn line(out: &mut std::io::Stdout, what: &str, events: u64, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    say(out, &format!("{what:<33}{seconds:8.2} s {:10.0} events/s", to_f64(events) / seconds));
}

fn say(out: &mut std::io::Stdout, text: &str) {
    writeln!(out, "{text}").expect("stdout is open");
}

fn mib(bytes: u64) -> f64 {
    to_f64(bytes) / 1_048_576.0
}

#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

fn other(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Other, "the benchmark failed").because(cause)
}
