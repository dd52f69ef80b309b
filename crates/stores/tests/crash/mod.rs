//! A process that applies migrations is killed, at every step boundary and at points spread evenly over its work; the
//! next start resumes, and every statement has run exactly once. `STEWARD_TEST_FULL=1` makes it 1,000 points each.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use conformance::permit_for;
use contract::{
    Access, Batch, BatchProgress, Capabilities, Context, Error, Execute, Execution, Integrity, LockHolder,
    Operate, Permit, Plan, Probe, Relational, ReplicaLag, RowSets, SecretSource, StepState, Store,
    StoreDirectory,
};
use serde_json::json;
use stores::InspectStore;
use stores::migration::MigrationFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_postgres::{Client, NoTls};

use crate::world::{LINE, PATIENCE, World, open, patiently, request, secrets};

/// Which store the child works on, by which plan, and where it stops: `before 3`, `after 3`, `never`.
const STORE: &str = "STEWARD_TEST_CRASH_STORE";
const PLAN: &str = "STEWARD_TEST_CRASH_PLAN";
const HALT: &str = "STEWARD_TEST_CRASH_HALT";

/// What the child prints when it stands at the boundary and waits to be killed.
const HALTED: &str = "halted at the boundary";

const CREATE: &str = "CREATE TABLE ran (name TEXT NOT NULL);\n\
                      CREATE TABLE big (id INTEGER PRIMARY KEY, word TEXT);\nINSERT INTO ran VALUES ('1');";

/// Each statement in a step of its own; `{alone}` cannot run in a transaction, and a row that a batch reached twice would
/// be longer than it should.
const APART: &str = "-- steward: no-transaction\n\
    INSERT INTO big SELECT n, 'word ' || n FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5000) SELECT n FROM c) AS s;\n\
    INSERT INTO ran VALUES ('2');\n\
    -- steward: batched big by id\nUPDATE big SET word = word || '!' WHERE {{batch}};\n{alone};\nINSERT INTO ran VALUES ('3');\nCREATE INDEX big_id ON big (id);";

const CHANGE: &str = "ALTER TABLE big ADD COLUMN size INTEGER;\nUPDATE big SET size = length(word) WHERE id > 0;\n\
                      INSERT INTO ran VALUES ('4');";

const VIEW: &str =
    "CREATE VIEW long_words AS SELECT word FROM big WHERE size > 8;\nINSERT INTO ran VALUES ('5');";

/// Migrations of all kinds; each statement that can leaves a mark in `ran`.
fn migrations(world: &World) -> Vec<MigrationFile> {
    let alone = match world.store.kind() {
        "sqlite" => "VACUUM",
        _ => "CREATE INDEX CONCURRENTLY big_word ON big (word)",
    };
    let apart = APART.replace("{alone}", alone);
    world.files(&[
        ("0001_create.sql", CREATE),
        ("0002_apart.sql", &apart),
        ("0003_change.sql", CHANGE),
        ("0004_view.sql", VIEW),
    ])
}

/// A store that stands still at a step boundary until the process is killed.
struct Halting {
    inner: Arc<dyn Store>,
    halt: String,
}

#[async_trait]
impl Store for Halting {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn probe(&self, ctx: &Context) -> Result<Probe, Error> {
        self.inner.probe(ctx).await
    }
    fn relational(&self) -> Option<&dyn Relational> {
        self.inner.relational()
    }
    fn execute(&self) -> Option<&dyn Execute> {
        Some(self)
    }
    fn integrity(&self) -> Option<&dyn Integrity> {
        self.inner.integrity()
    }
    fn access(&self) -> Option<&dyn Access> {
        self.inner.access()
    }
    fn operate(&self) -> Option<&dyn Operate> {
        self.inner.operate()
    }

    fn health(&self) -> Option<&dyn contract::Health> {
        self.inner.health()
    }
    fn slow_statements(&self) -> Option<&dyn contract::SlowStatements> {
        self.inner.slow_statements()
    }

    fn row_sets(&self) -> Option<&dyn RowSets> {
        self.inner.row_sets()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Execute for Halting {
    async fn progress(&self, ctx: &Context, plan: &Plan) -> Result<Vec<StepState>, Error> {
        self.inner.execute().unwrap().progress(ctx, plan).await
    }
    async fn records(&self, ctx: &Context, step_ids: &[&str]) -> Result<u64, Error> {
        self.inner.execute().unwrap().records(ctx, step_ids).await
    }
    async fn begin<'a>(
        &'a self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        secrets: Arc<dyn SecretSource>,
    ) -> Result<Box<dyn Execution + 'a>, Error> {
        let inner = self.inner.execute().unwrap().begin(ctx, permit, plan, secrets).await?;
        Ok(Box::new(HaltingExecution { inner, halt: &self.halt, looks: 0 }))
    }
    async fn batches_begun(&self, ctx: &Context) -> Result<Vec<BatchProgress>, Error> {
        self.inner.execute().unwrap().batches_begun(ctx).await
    }
    async fn lock_holders(&self, ctx: &Context, tables: &[String]) -> Result<Vec<LockHolder>, Error> {
        self.inner.execute().unwrap().lock_holders(ctx, tables).await
    }
}

struct HaltingExecution<'a> {
    inner: Box<dyn Execution + 'a>,
    halt: &'a str,
    /// How often somebody has looked after the replicas.
    looks: u32,
}

#[async_trait]
impl Execution for HaltingExecution<'_> {
    async fn state(&mut self, ctx: &Context, plan: &Plan, index: usize) -> Result<StepState, Error> {
        self.inner.state(ctx, plan, index).await
    }
    async fn run(&mut self, ctx: &Context, permit: &Permit, plan: &Plan, index: usize) -> Result<u64, Error> {
        if self.halt == format!("before {index}") {
            halt().await;
        }
        let rows = self.inner.run(ctx, permit, plan, index).await?;
        if self.halt == format!("after {index}") {
            halt().await;
        }
        Ok(rows)
    }
    async fn run_batch(
        &mut self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        index: usize,
        rows_max: u64,
    ) -> Result<Batch, Error> {
        if self.halt == format!("before {index}") {
            halt().await;
        }
        let batch = self.inner.run_batch(ctx, permit, plan, index, rows_max).await?;
        if self.halt == format!("batch {} of {index}", batch.progress.batches)
            || (batch.done && self.halt == format!("after {index}"))
        {
            halt().await;
        }
        Ok(batch)
    }
    async fn replication(&mut self, ctx: &Context) -> Result<Vec<ReplicaLag>, Error> {
        self.looks += 1;
        let behind = match self.halt {
            "replica is behind twice" => self.looks <= 2,
            "replica is behind" => true,
            _ => return self.inner.replication(ctx).await,
        };
        let bytes = if behind { 1 << 40 } else { 0 };
        Ok(vec![ReplicaLag { replica: "standby1".into(), bytes: Some(bytes), ms: None }])
    }
    async fn finish(self: Box<Self>, ctx: &Context) -> Result<(), Error> {
        self.inner.finish(ctx).await
    }
}

async fn halt() {
    let mut out = std::io::stdout();
    writeln!(out, "\n{HALTED}").unwrap();
    out.flush().unwrap();
    std::future::pending::<()>().await;
}

struct Alone(Arc<dyn Store>);

#[async_trait]
impl StoreDirectory for Alone {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        Vec::new()
    }
    async fn open(&self, _: &Context, _: &str) -> Result<Arc<dyn Store>, Error> {
        Ok(Arc::clone(&self.0))
    }
}

/// The process that is killed; without its variables it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_child() {
    let (Ok(address), Ok(plan), Ok(halt)) = (std::env::var(STORE), std::env::var(PLAN), std::env::var(HALT))
    else {
        return;
    };
    let plan: Plan = serde_json::from_slice(&std::fs::read(plan).unwrap()).unwrap();
    let directory = Alone(Arc::new(Halting { inner: open(&address), halt }));
    let ctx = Context::new("shop", contract::Actor::system());
    let permit = permit_for(&ctx, &plan);
    stores::execute(&ctx, &permit, &plan, &directory, Arc::new(secrets(&address))).await.unwrap();
}

/// The child process, and the file that holds its plan.
fn child(world: &World, plan: &Plan, halt: &str) -> (Child, tempfile::NamedTempFile) {
    let (mut command, file) = command(world, plan, halt);
    (command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap(), file)
}

fn command(world: &World, plan: &Plan, halt: &str) -> (Command, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(plan).unwrap()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "crash::crash_child", "--nocapture"])
        .env(STORE, &world.address)
        .env(PLAN, file.path())
        .env(HALT, halt);
    (command, file)
}

async fn plan(world: &World) -> Plan {
    try_plan(world).await.unwrap()
}

/// The same, asking again where the connection is lost.
async fn planned(world: &World) -> Plan {
    patiently(async || try_plan(world).await).await.unwrap()
}

async fn try_plan(world: &World) -> Result<Plan, contract::Error> {
    let apply: stores::ApplyMigrations = request(json!({"store": "shop"}));
    stores::migration::plan_apply(&world.ctx(), world, &migrations(world), &apply).await
}

/// What the store is like in the end: its structure, and how often each mark was left.
async fn end(world: &World) -> (serde_json::Value, Option<u64>, Option<u64>, Option<u64>) {
    let inspect: InspectStore = request(json!({"store": "shop"}));
    let schema =
        patiently(async || stores::inspect(&world.ctx(), world, &inspect).await).await.unwrap().value;
    let schema: schema::Schema = serde_json::from_value(schema.into_value()).unwrap();
    (
        json!(schema.structure()),
        world.count("SELECT count(*) FROM ran").await,
        world.count("SELECT count(DISTINCT name) FROM ran").await,
        world.count("SELECT sum(size) FROM big").await,
    )
}

/// The next start: resumes the plan that was recorded, or plans anew from what the store remembers.
async fn next_start(world: &World, interrupted: &Plan, anew: bool) {
    // The server may still be busy with what the killed process asked for last, and holds the lock for it.
    if anew {
        // What to plan depends on what that will have done.
        patiently(async || world.execute(&try_plan(world).await?).await).await.unwrap();
    } else {
        patiently(async || world.execute(interrupted).await).await.unwrap();
        assert_eq!(planned(world).await.steps, [], "nothing is left to do");
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    async fn world(self) -> World {
        match self {
            Kind::Sqlite => World::sqlite(),
            Kind::Postgres => World::postgres("crash").await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_killed_at_every_boundary_is_resumed_by_the_next_start() {
    at_every_boundary(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_killed_at_points_of_its_writing_is_resumed_by_the_next_start() {
    sqlite_at_points(30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_at_every_boundary_is_resumed_by_the_next_start() {
    at_every_boundary(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_at_points_of_its_talk_is_resumed_by_the_next_start() {
    postgres_at_points(24).await;
}

/// The step that runs in batches.
fn batched_step(plan: &Plan) -> usize {
    plan.steps.iter().position(|step| matches!(step.mode, contract::StepMode::Batched(_))).unwrap()
}

async fn at_every_boundary(kind: Kind) {
    let mut world = kind.world().await;
    let first = plan(&world).await;
    let (steps, batched) = (first.steps.len(), batched_step(&first));
    world.execute(&plan(&world).await).await.unwrap();
    let expected = end(&world).await;
    assert_eq!((expected.1, expected.2), (Some(5), Some(5)));
    assert!(steps >= 6, "{steps}");
    let mut halts = Vec::new();
    for index in 0..steps {
        for (anew, place) in [(false, "before"), (true, "after"), (true, "before"), (false, "after")] {
            if matches!(kind, Kind::Postgres) && anew == (index % 2 == 0) {
                continue; // Connections are slow to make: half of the cases there, each boundary from both sides.
            }
            halts.push((anew, format!("{place} {index}")));
        }
    }
    for (anew, batch) in [(false, 1), (true, 1), (true, 2)] {
        halts.push((anew, format!("batch {batch} of {batched}")));
    }
    for (anew, halt) in halts {
        if let Kind::Sqlite = kind {
            world = kind.world().await;
        } else {
            world.clear().await; // Much faster than another database.
        }
        let interrupted = plan(&world).await;
        assert_eq!(interrupted.steps.len(), steps, "the database is as new");
        let (mut child, _plan) = child(&world, &interrupted, &halt);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let halted = lines.map_while(Result::ok).any(|line| line.contains(HALTED));
        assert!(halted, "the child did not reach `{halt}`");
        child.kill().unwrap();
        child.wait().unwrap();
        next_start(&world, &interrupted, anew).await;
        assert_eq!(end(&world).await, expected, "{halt}, {}", if anew { "anew" } else { "resumed" });
    }
}

/// Databases in which points are tried side by side.
const LANES: usize = 4;

fn points(short: usize) -> usize {
    if std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1") { 1_000 } else { short }
}

/// Killed when it has written a file up to some size: by the limit of the process, which the kernel enforces in the
/// middle of a write. The sizes are spread evenly up to that of the finished file, so none depends on the clock.
async fn sqlite_at_points(short: usize) {
    let whole = World::sqlite();
    let uninterrupted = plan(&whole).await;
    let (mut child_whole, _plan) = child(&whole, &uninterrupted, "never");
    assert!(child_whole.wait().unwrap().success());
    let expected = end(&whole).await;
    assert_eq!((expected.1, expected.2), (Some(5), Some(5)));
    let size = usize::try_from(std::fs::metadata(&whole.address).unwrap().len()).unwrap();
    let points = points(short);
    for point in 0..points {
        let world = World::sqlite();
        let interrupted = plan(&world).await;
        let (command, _plan) = command(&world, &interrupted, "never");
        let limit = size * (2 * point + 1) / (2 * points);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--fsize={limit}")).arg("--core=0").arg(command.get_program());
        limited.args(command.get_args());
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ended = limited.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(ended.signal().is_some(), "{limit} of {size} bytes, and not killed: {ended}");
        next_start(&world, &interrupted, point % 2 == 0).await;
        assert_eq!(end(&world).await, expected, "killed after {limit} of {size} bytes");
    }
}

/// Killed when so many bytes have passed between it and the server, in both directions: before a request, in it, while
/// the server works, in the answer. The points are spread evenly over the whole talk, so none depends on the clock.
async fn postgres_at_points(short: usize) {
    let whole = World::postgres("crash").await;
    let uninterrupted = plan(&whole).await;
    let line = Line::start(u64::MAX).await;
    let (mut command, _plan) = command(&whole, &uninterrupted, "never");
    assert!(command.env(LINE, line.port.to_string()).status().unwrap().success());
    let talk = line.passed();
    let expected = end(&whole).await;
    assert_eq!((expected.1, expected.2), (Some(5), Some(5)));
    let points = points(short);
    let next = Arc::new(AtomicUsize::new(0));
    let lanes = (0..LANES.min(points)).map(|_| {
        let (next, expected, steps) = (Arc::clone(&next), expected.clone(), uninterrupted.steps.len());
        tokio::task::spawn_local(async move {
            let (world, mut killed) = (World::postgres("crash").await, 0);
            loop {
                let point = next.fetch_add(1, Ordering::Relaxed);
                if point >= points {
                    return killed;
                }
                // A connection that the server closes before it says a word (once in some thousand under load) is not
                // what this test is about.
                let interrupted = planned(&world).await;
                assert_eq!(interrupted.steps.len(), steps, "the database is as new");
                let limit = talk * (2 * point as u64 + 1) / (2 * points as u64);
                let line = Line::start(limit).await;
                let (mut command, _plan) = self::command(&world, &interrupted, "never");
                command.env(LINE, line.port.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
                let mut child = command.spawn().unwrap();
                let mut out = child.stdout.take().unwrap();
                let ended =
                    tokio::task::spawn_blocking(move || std::io::copy(&mut out, &mut std::io::sink()));
                tokio::select! {
                    () = line.used_up() => {}
                    _ = ended => {}
                }
                child.kill().unwrap();
                killed += usize::from(child.wait().unwrap().signal().is_some());
                drop(line);
                next_start(&world, &interrupted, point % 2 == 0).await;
                assert_eq!(end(&world).await, expected, "killed after {limit} of {talk} bytes");
                world.clear().await;
            }
        })
    });
    let here = tokio::task::LocalSet::new();
    let killed = here.run_until(async {
        let mut killed = 0;
        for lane in lanes.collect::<Vec<_>>() {
            killed += lane.await.unwrap();
        }
        killed
    });
    let killed = killed.await;
    // A talk can be a little shorter than the first one, never by much.
    assert!(killed * 10 >= points * 9, "only {killed} of {points} were killed before they ended");
}

/// A line to the server that goes dead, in both directions, when so many bytes have passed.
struct Line {
    port: u16,
    meter: Arc<Meter>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Meter {
    limit: u64,
    passed: std::sync::Mutex<u64>,
    used_up: Notify,
}

impl Meter {
    /// How many of so many bytes may still pass.
    fn take(&self, wanted: usize) -> usize {
        let mut passed = self.passed.lock().unwrap();
        let taken = (self.limit - *passed).min(wanted as u64);
        *passed += taken;
        if *passed == self.limit {
            self.used_up.notify_one();
        }
        usize::try_from(taken).unwrap()
    }
}

impl Line {
    async fn start(limit: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let meter = Arc::new(Meter { limit, passed: std::sync::Mutex::default(), used_up: Notify::new() });
        let counting = Arc::clone(&meter);
        let server = conformance::postgres();
        let server = url::Url::parse(&server).unwrap();
        let server = format!("{}:{}", server.host_str().unwrap(), server.port().unwrap_or(5432));
        let accepting = tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new(); // Dropped with the listener: the server sees the end.
            while let Ok((near, _)) = listener.accept().await {
                let (meter, server) = (Arc::clone(&counting), server.clone());
                lines.spawn(async move {
                    let far = TcpStream::connect(server).await.unwrap();
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
                        (near.into_split(), far.into_split());
                    tokio::join!(
                        pass(&meter, &mut near_read, &mut far_write),
                        pass(&meter, &mut far_read, &mut near_write),
                    );
                });
            }
        });
        Self { port, meter, accepting }
    }

    fn passed(&self) -> u64 {
        *self.meter.passed.lock().unwrap()
    }

    async fn used_up(&self) {
        self.meter.used_up.notified().await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(meter: &Meter, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let allowed = meter.take(count);
        if to.write_all(&buffer[..allowed]).await.is_err() {
            break;
        }
        if allowed < count {
            std::future::pending::<()>().await;
        }
    }
    drop(to.shutdown().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_wait_for_a_replica_that_is_behind() {
    for (halt, wait_ms_max) in [("replica is behind twice", 600_000), ("replica is behind", 0)] {
        let world = World::sqlite();
        let mut plan = plan(&world).await;
        let batched = batched_step(&plan);
        if let contract::StepMode::Batched(batches) = &mut plan.steps[batched].mode {
            batches.lag_wait_ms_max = wait_ms_max;
        }
        let directory = Alone(Arc::new(Halting { inner: open(&world.address), halt: halt.into() }));
        let ctx = world.ctx();
        let secrets = Arc::new(secrets(&world.address));
        let outcome = stores::execute(&ctx, &permit_for(&ctx, &plan), &plan, &directory, secrets).await;
        if wait_ms_max > 0 {
            // Two looks at it, a quarter of a second each.
            assert_eq!(outcome.unwrap().value["steps"][batched]["replica_wait_ms"], 500);
        } else {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), contract::ErrorKind::TimedOut);
            assert!(error.to_string().starts_with("replica `standby1` does not keep up"), "{error}");
            assert_eq!(world.count("SELECT count(*) FROM big WHERE word LIKE '%!'").await, Some(1_000));
            world.execute(&plan).await.unwrap();
        }
        assert_eq!(world.count("SELECT count(*) FROM big WHERE word LIKE '%!'").await, Some(5_000));
        assert_eq!(world.count("SELECT count(*) FROM big WHERE word LIKE '%!!'").await, Some(0));
    }
}

/// A client of the superuser.
async fn superuser(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Looks until the query says `true`.
async fn until(client: &Client, condition: &str) {
    let looks = async {
        while !client.query_one(condition, &[]).await.unwrap().get::<_, Option<bool>>(0).unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looks).await.unwrap_or_else(|_| panic!("never so: {condition}"));
}

/// With the logins that `store setup` makes, of which the writing one may not see how far a replica is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_wait_for_a_standby_that_is_really_behind() {
    const LAG_MAX: u64 = 100_000;
    if std::env::var("STEWARD_TEST_POSTGRES").is_ok_and(|version| version != "17") {
        return; // The standby of the testbed is a 17.
    }
    let url = conformance::server("STEWARD_TEST_POSTGRES17_BEHIND_URL");
    let primary = superuser(&url).await;
    let replica: String = primary
        .query_one("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'", &[])
        .await
        .unwrap()
        .get(0);
    let mut address = url::Url::parse(&url).unwrap();
    address.set_port(replica.rsplit_once('_').unwrap().1.parse().ok()).unwrap();
    let standby = superuser(address.as_str()).await;
    standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    let world = World::postgres_of("behind", Some("17_BEHIND")).await;
    let behind = format!(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > {LAG_MAX} FROM pg_stat_replication \
         WHERE application_name = '{replica}'"
    );
    let kept_up = behind.replace('>', "<");
    let marked = "SELECT count(*) FROM big WHERE word LIKE '%!'";

    for lag_wait_ms_max in [0, 600_000] {
        world.clear().await;
        let mut paced = plan(&world).await;
        let batched = batched_step(&paced);
        if let contract::StepMode::Batched(batches) = &mut paced.steps[batched].mode {
            (batches.lag_bytes_max, batches.lag_wait_ms_max) = (LAG_MAX, lag_wait_ms_max);
        }
        until(&primary, &kept_up).await;
        standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
        let outcome = async {
            let secrets = Arc::new(secrets(&world.address));
            stores::execute(&world.ctx(), &permit_for(&world.ctx(), &paced), &paced, &world, secrets).await
        };
        if lag_wait_ms_max == 0 {
            let error = outcome.await.unwrap_err();
            assert_eq!(error.kind(), contract::ErrorKind::TimedOut, "{error}");
            assert!(
                error.to_string().starts_with(&format!("replica `{replica}` does not keep up")),
                "{error}"
            );
            let done = world.count(marked).await.unwrap();
            assert!(done > 0 && done < 5_000, "{done} rows");
            standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
            until(&primary, &kept_up).await;
            world.execute(&plan(&world).await).await.unwrap();
        } else {
            let watched = async {
                until(&primary, &behind).await;
                // What was under way is done when it looks at the replica for the first time after that; from then on
                // nothing moves, however often it looks again.
                let look = "SELECT max(query_start)::text FROM pg_stat_activity \
                            WHERE query LIKE '%pg_stat_replication%' AND usename LIKE '%behind%writer'";
                let (mut looks, mut counts) = (BTreeSet::new(), BTreeSet::new());
                while looks.len() < 4 {
                    looks.extend(primary.query_one(look, &[]).await.unwrap().get::<_, Option<String>>(0));
                    if looks.len() > 1 {
                        counts.insert(world.count(marked).await.unwrap());
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                assert!(counts.len() == 1 && counts.iter().all(|rows| *rows < 5_000), "{counts:?}");
                standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
            };
            let watched = tokio::time::timeout(PATIENCE, watched);
            let (outcome, watched) = tokio::join!(outcome, watched);
            watched.expect("it waits and looks again");
            let waited = &outcome.unwrap().value["steps"][batched]["replica_wait_ms"];
            assert!(waited.as_u64().unwrap() >= 500, "{waited}");
        }
        assert_eq!(world.count(marked).await, Some(5_000));
        assert_eq!(world.count("SELECT count(*) FROM big WHERE word LIKE '%!!'").await, Some(0));
    }
}
