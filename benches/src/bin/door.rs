//! What the door adds to a change beyond the two durable writes that it must make, and how fast reads are that make none.
//!
//! The door's own part is measured in two ways.
//!
//! *By itself*: within each change, the time that it stood in one of its own ledger writes (span `ledger.write`: from
//! handing the write over until its answer) or in the work that was asked for (span `perform`: here the durable file)
//! is taken from its total. What is left is everything else: planning, deciding, the look for interrupted changes,
//! recording, the hops between tasks. One and the same run is looked at, so a slow disk does not move the number; that
//! the caller is woken late after a write counts as waiting, because the two writes alone pay the same.
//!
//! *Paired*: the total, minus the same two writes and the same file done without the door just after it. This also
//! counts what the door's rows cost more than the bare ones, but it is the difference of three fsyncs each: where they
//! scatter by more than the door takes, it mostly shows the disk, and where it would be negative it counts as 0.
//!
//! Neither counts the reading of arguments and the sending of answers, which belong to the way in.
//!
//! `cargo run --release -p benches --bin door [ROUNDS]`

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use contract::{Actor, Context, Error, ErrorKind};
use ledger::{Ledger, NewEvent, Write};
use serde_json::json;
use steward::{Options, Steward, Surroundings};

const ROUNDS: usize = 1_000;
/// The promise, at the 99th percentile.
const OVERHEAD_MS_MAX: f64 = 0.5;

/// Where the door waits for others.
const WAITS: [&str; 2] = ["ledger.write", "perform"];

/// Adds up how long the spans of [`WAITS`] were open, of all that have ended.
struct Stopwatch {
    began: Instant,
    /// Nanoseconds after `began`, by span, 0 when it is free. There are never more at once.
    opened: [AtomicU64; 8],
}

static WAITED_NS: AtomicU64 = AtomicU64::new(0);

impl Stopwatch {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl tracing::Subscriber for Stopwatch {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && WAITS.contains(&metadata.name())
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let now = self.now();
        let free = self
            .opened
            .iter()
            .position(|slot| slot.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok());
        let index = free.expect("one change at a time has few spans");
        tracing::span::Id::from_u64(index as u64 + 1)
    }

    fn try_close(&self, id: tracing::span::Id) -> bool {
        let index = usize::try_from(id.into_u64() - 1).unwrap_or_default();
        let opened = self.opened[index].swap(0, Ordering::Relaxed);
        WAITED_NS.fetch_add(self.now().saturating_sub(opened), Ordering::Relaxed);
        true
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn main() -> Result<(), Error> {
    let stopwatch = Stopwatch { began: Instant::now(), opened: Default::default() };
    tracing::subscriber::set_global_default(stopwatch).map_err(other)?;
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let runtime = tokio::runtime::Runtime::new().map_err(other)?;
    // On a worker, as the program and the daemon do.
    runtime.block_on(runtime.spawn(run(rounds))).map_err(other)?
}

async fn run(rounds: usize) -> Result<(), Error> {
    let dir = tempfile::tempdir().map_err(other)?;
    std::fs::write(dir.path().join("steward.yaml"), "project: bench\n").map_err(other)?;
    let steward =
        Steward::open(vec![steward::load(&dir.path().join("steward.yaml"))?], &Surroundings::default())
            .await?;
    let ctx = Context::new("bench", Actor::local());
    let content = "select 1;\n";

    let (mut door, mut own, mut writes, mut files, mut overheads, mut reads) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        // The same work three ways, in turn, so that a busy disk hits all of them.
        let path = format!("migrations/bench/{round:06}_x.sql");
        let arguments = json!({ "path": path, "content": content });
        WAITED_NS.store(0, Ordering::Relaxed);
        let whole = time(steward.submit_with(&ctx, "file.write", arguments, Options::default())).await?;
        own.push(whole.saturating_sub(Duration::from_nanos(WAITED_NS.load(Ordering::Relaxed))));
        let two = time(two_writes(&ctx, steward.ledger(), round)).await?;
        let file = time(async {
            durable_file(&dir.path().join(format!("migrations/bench/{round:06}_y.sql")), content)
        })
        .await?;
        let ask = json!({ "action": "store.read" });
        let read = time(steward.submit_with(&ctx, "policy.check", ask, Options::default())).await?;
        door.push(whole);
        writes.push(two);
        files.push(file);
        overheads.push(whole.saturating_sub(two + file));
        reads.push(read);
    }
    let mut out = std::io::stdout();
    writeln!(out, "{rounds} rounds; milliseconds at the 50th and 99th percentile").map_err(other)?;
    for (name, times) in [
        ("change through the door (file.write)", &mut door),
        ("  the two durable writes alone", &mut writes),
        ("  the durable file alone", &mut files),
        ("  the door's own part, by itself", &mut own),
        ("  the door's own part, paired", &mut overheads),
        ("read through the door (policy.check)", &mut reads),
    ] {
        writeln!(out, "{name:<42} {:>8.3} {:>8.3}", percentile(times, 50), percentile(times, 99))
            .map_err(other)?;
    }
    let ratio = percentile(&mut door, 50) / (percentile(&mut writes, 50) + percentile(&mut files, 50));
    let p99 = percentile(&mut own, 99);
    writeln!(
        out,
        "door / (writes + file), median: {ratio:.2}; own part p99 {p99:.3} ms, promise {OVERHEAD_MS_MAX} ms"
    )
    .map_err(other)?;
    steward.close().await
}

/// The two durable writes that every change makes, with the rows that they hold: plan, intent and entry before, the
/// intent's end and entry after.
async fn two_writes(ctx: &Context, ledger: &Ledger, round: usize) -> Result<(), Error> {
    let (id, digest) = (format!("bench-{round}"), contract::sha256_hex(&round.to_le_bytes()));
    let path = format!("migrations/bench/{round:06}_x.sql");
    let plan = json!({
        "request": "file.write", "arguments": { "path": path, "content": "select 1;\n" }, "project": "bench",
        "target": format!("path:{path}"), "summary": format!("write {path}"), "pre_state": "absent", "predicted": {},
        "steps": [{ "id": "file.write", "title": format!("write {path}"), "mode": "transaction", "statements": [] }],
        "cost_usd_nanos": 0,
    });
    let text = |text: &str| text.to_owned().into();
    let before = json!({ "intent": id, "plan": digest, "summary": plan["summary"], "arguments": plan["arguments"], "steps": 1 });
    let intent = Write::new()
        .exec(
            "INSERT INTO plans (digest, project, request, body, made_us) VALUES (?, ?, ?, ?, ?)",
            vec![text(&digest), text("bench"), text("file.write"), text(&plan.to_string()), 1_i64.into()],
        )
        .exec(
            "INSERT INTO intents (id, project, request, subject, plan_digest, actor, task, holder, begun_us) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            vec![
                text(&id),
                text("bench"),
                text("file.write"),
                text(&path),
                text(&digest),
                text("{\"kind\":\"local\",\"name\":\"local\",\"roles\":[]}"),
                text(""),
                text("gone"),
                1_i64.into(),
            ],
        )
        .event(NewEvent::new("file.write.intent", path.clone(), before));
    ledger.write(ctx, intent).await?;
    let after = json!({ "intent": id, "outcome": "done", "answer": { "path": path, "bytes": 10 } });
    let outcome = Write::new()
        .exec(
            "UPDATE intents SET finished_us = ?, outcome = 'done' WHERE id = ?",
            vec![2_i64.into(), text(&id)],
        )
        .event(NewEvent::new("file.write.outcome", path, after));
    ledger.write(ctx, outcome).await.map(|_| ())
}

fn durable_file(path: &Path, content: &str) -> Result<(), Error> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new).map_err(other)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(other)?;
    std::fs::rename(new, path).map_err(other)?;
    // The name is durable only with its folder.
    std::fs::File::open(path.parent().unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .map_err(other)
}

async fn time<T>(work: impl Future<Output = Result<T, Error>>) -> Result<Duration, Error> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed())
}

/// By nearest rank, in milliseconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).map_or(0.0, Duration::as_secs_f64) * 1e3
}

fn other(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Other, "the benchmark failed").because(cause)
}
