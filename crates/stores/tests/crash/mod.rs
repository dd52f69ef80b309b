//! A process that applies migrations is killed with SIGKILL, at every step boundary and at random points; the next
//! start resumes, and every statement has run exactly once. `STEWARD_TEST_FULL=1` makes it 1,000 random points.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use conformance::permit_for;
use contract::{
    Access, Capabilities, Context, Error, Execute, Execution, Integrity, Operate, Permit, Plan, Probe,
    Relational, SecretSource, StepState, Store, StoreDirectory,
};
use serde_json::json;
use stores::InspectStore;
use stores::migration::MigrationFile;

use crate::world::{World, open, request, secrets};

/// Which store the child works on, by which plan, and where it stops: `before 3`, `after 3`, `never`.
const STORE: &str = "STEWARD_TEST_CRASH_STORE";
const PLAN: &str = "STEWARD_TEST_CRASH_PLAN";
const HALT: &str = "STEWARD_TEST_CRASH_HALT";

/// What the child prints when it stands at the boundary and waits to be killed.
const HALTED: &str = "halted at the boundary";

const CREATE: &str = "CREATE TABLE ran (name TEXT NOT NULL);\n\
                      CREATE TABLE big (id INTEGER PRIMARY KEY, word TEXT);\nINSERT INTO ran VALUES ('1');";

/// Each statement in a step of its own; `{alone}` cannot run in a transaction.
const APART: &str = "-- steward: no-transaction\n\
    INSERT INTO big SELECT n, 'word ' || n FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5000) SELECT n FROM c) AS s;\n\
    INSERT INTO ran VALUES ('2');\n{alone};\nINSERT INTO ran VALUES ('3');\nCREATE INDEX big_id ON big (id);";

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
        Ok(Box::new(HaltingExecution { inner, halt: &self.halt }))
    }
}

struct HaltingExecution<'a> {
    inner: Box<dyn Execution + 'a>,
    halt: &'a str,
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
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(plan).unwrap()).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::crash_child", "--nocapture"])
        .env(STORE, &world.address)
        .env(PLAN, file.path())
        .env(HALT, halt)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, file)
}

async fn plan(world: &World) -> Plan {
    let apply: stores::ApplyMigrations = request(json!({"store": "shop"}));
    stores::migration::plan_apply(&world.ctx(), world, &migrations(world), &apply).await.unwrap()
}

/// What the store is like in the end: its structure, and how often each mark was left.
async fn end(world: &World) -> (serde_json::Value, Option<u64>, Option<u64>, Option<u64>) {
    let inspect: InspectStore = request(json!({"store": "shop"}));
    let schema = stores::inspect(&world.ctx(), world, &inspect).await.unwrap().value;
    let schema: schema::Schema = serde_json::from_value(schema).unwrap();
    (
        json!(schema.structure()),
        world.count("SELECT count(*) FROM ran").await,
        world.count("SELECT count(DISTINCT name) FROM ran").await,
        world.count("SELECT sum(size) FROM big").await,
    )
}

/// The next start: resumes the plan that was recorded, or plans anew from what the store remembers.
async fn next_start(world: &World, interrupted: &Plan, anew: bool) {
    if anew {
        world.execute(&plan(world).await).await.unwrap();
    } else {
        world.execute(interrupted).await.unwrap();
        assert_eq!(plan(world).await.steps, [], "nothing is left to do");
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
async fn sqlite_killed_at_random_points_is_resumed_by_the_next_start() {
    at_random_points(Kind::Sqlite, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_at_every_boundary_is_resumed_by_the_next_start() {
    at_every_boundary(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_at_random_points_is_resumed_by_the_next_start() {
    at_random_points(Kind::Postgres, 10).await;
}

async fn at_every_boundary(kind: Kind) {
    let whole = kind.world().await;
    let steps = plan(&whole).await.steps.len();
    whole.execute(&plan(&whole).await).await.unwrap();
    let expected = end(&whole).await;
    assert_eq!((expected.1, expected.2), (Some(5), Some(5)));
    assert!(steps >= 6, "{steps}");
    for index in 0..steps {
        for (anew, place) in [(false, "before"), (true, "after"), (true, "before"), (false, "after")] {
            if matches!(kind, Kind::Postgres) && anew == (index % 2 == 0) {
                continue; // Databases are slow to make: half of the cases there, each boundary from both sides.
            }
            let world = kind.world().await;
            let halt = format!("{place} {index}");
            let interrupted = plan(&world).await;
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
}

async fn at_random_points(kind: Kind, points_short: u32) {
    let full = std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1");
    let points = if full { 1_000 } else { points_short };
    let whole = kind.world().await;
    let started = std::time::Instant::now();
    let uninterrupted = plan(&whole).await;
    let (mut child_whole, _plan) = child(&whole, &uninterrupted, "never");
    child_whole.wait().unwrap();
    let duration = started.elapsed();
    let expected = end(&whole).await;
    assert_eq!((expected.1, expected.2), (Some(5), Some(5)));
    let (mut cut_short, mut seed) = (0, 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id()));
    for point in 0..points {
        let world = kind.world().await;
        let interrupted = plan(&world).await;
        let (mut child, _plan) = child(&world, &interrupted, "never");
        // Xorshift: where it is killed need not be a good random number, only another one each time.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // The kill has to hit a process at work, so this waits for real.
        let wait = duration * u32::try_from(seed % 1_000).unwrap() / 1_000;
        tokio::time::sleep(wait.min(Duration::from_secs(5))).await;
        child.kill().unwrap();
        cut_short += u32::from(!child.wait().unwrap().success());
        next_start(&world, &interrupted, point % 2 == 0).await;
        assert_eq!(end(&world).await, expected, "killed after {wait:?}");
    }
    assert!(cut_short > points / 4, "only {cut_short} of {points} were killed before they ended");
}
