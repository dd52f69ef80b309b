//! A SQLite store, a folder for archives, and processes that die where they are told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backup::archive::{ColdRule, ColdSurroundings, Folder, LegalHold};
use backup::{PlanConfig, Surroundings};
use columnar_parquet::Parquet;
use contract::cold::{ArchivePlace, ColdCount, ColdPage, ColdRows, ColdSelection, ColdTable, Fate, Return};
use contract::columnar::{Columnar, Row};
use contract::{
    Actor, Capabilities, Context, Error, ErrorKind, Permit, Plan, Probe, RecoveryPoint, Relational,
    Repository, SecretSource, Store, StoreDirectory, TestClock,
};
use ledger::{Keys, Ledger, Options};
use repository_restic::BucketConfig;
use schema::TableName;
use secrecy::{SecretBox, SecretString};
use store_sqlite::SqliteStore;
use tokio::sync::mpsc;

/// What happens at the steps of a run: each call of the place, and each change of the store, before it and after it.
#[derive(Default)]
pub(crate) struct Steps {
    count: AtomicU64,
    /// The process dies at this step.
    pub(crate) die_at: Option<u64>,
    /// What the test does at a step of this name, before it.
    hooks: Mutex<BTreeMap<&'static str, Hook>>,
}

type Hook = Box<dyn FnOnce() + Send>;

impl Steps {
    fn at(&self, name: &'static str) {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        if self.die_at == Some(number) {
            std::process::abort();
        }
        let hook = self.hooks.lock().unwrap().remove(name);
        if let Some(hook) = hook {
            hook();
        }
    }
}

struct Watched {
    store: SqliteStore,
    steps: Arc<Steps>,
}

impl Watched {
    fn cold(&self) -> &dyn ColdRows {
        self.store.cold_rows().unwrap()
    }
}

#[async_trait]
impl Store for Watched {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }
    fn name(&self) -> &str {
        self.store.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
    async fn probe(&self, ctx: &Context) -> Result<Probe, Error> {
        self.store.probe(ctx).await
    }
    fn relational(&self) -> Option<&dyn Relational> {
        self.store.relational()
    }
    fn cold_rows(&self) -> Option<&dyn ColdRows> {
        Some(self)
    }
    async fn close(&self) {
        self.store.close().await;
    }
}

#[async_trait]
impl ColdRows for Watched {
    async fn cold_table(&self, ctx: &Context, table: &TableName) -> Result<ColdTable, Error> {
        self.cold().cold_table(ctx, table).await
    }
    async fn cold_count(&self, ctx: &Context, t: &ColdTable, s: &ColdSelection) -> Result<ColdCount, Error> {
        self.cold().cold_count(ctx, t, s).await
    }
    async fn cold_read(
        &self,
        ctx: &Context,
        table: &ColdTable,
        selection: &ColdSelection,
        page: &ColdPage,
        rows: mpsc::Sender<Vec<Row>>,
    ) -> Result<RecoveryPoint, Error> {
        self.steps.at("read");
        let read = self.cold().cold_read(ctx, table, selection, page, rows).await;
        self.steps.at("was read");
        read
    }
    async fn cold_delete(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        selection: &ColdSelection,
        rows: &[Row],
    ) -> Result<Vec<Fate>, Error> {
        self.steps.at("delete");
        let fates = self.cold().cold_delete(ctx, permit, plan, table, selection, rows).await;
        self.steps.at("was deleted");
        fates
    }
    async fn cold_create(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        target: &TableName,
    ) -> Result<(), Error> {
        self.cold().cold_create(ctx, permit, plan, table, target).await
    }
    async fn cold_insert(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        table: &ColdTable,
        target: &TableName,
        rows: &[Row],
    ) -> Result<Vec<Return>, Error> {
        self.cold().cold_insert(ctx, permit, plan, table, target, rows).await
    }
}

struct WatchedPlace {
    place: Arc<dyn ArchivePlace>,
    steps: Arc<Steps>,
    full: Arc<Mutex<Option<u32>>>,
}

#[async_trait]
impl ArchivePlace for WatchedPlace {
    fn address(&self) -> String {
        self.place.address()
    }
    async fn put(&self, ctx: &Context, name: &str, file: &Path) -> Result<(), Error> {
        self.steps.at("put");
        if let Some(left) = self.full.lock().unwrap().as_mut() {
            if *left == 0 {
                return Err(Error::new(ErrorKind::LimitExceeded, "the disk is full"));
            }
            *left -= 1;
        }
        self.place.put(ctx, name, file).await?;
        self.steps.at("was put");
        Ok(())
    }
    async fn get(&self, ctx: &Context, name: &str, file: &Path) -> Result<(), Error> {
        self.steps.at("get");
        self.place.get(ctx, name, file).await
    }
    async fn list(&self, ctx: &Context, prefix: &str) -> Result<Vec<String>, Error> {
        self.place.list(ctx, prefix).await
    }
    async fn remove(&self, ctx: &Context, name: &str) -> Result<(), Error> {
        self.steps.at("remove");
        self.place.remove(ctx, name).await
    }
    async fn clean(&self, ctx: &Context, prefix: &str) -> Result<(), Error> {
        self.place.clean(ctx, prefix).await
    }
}

/// Who speaks to buckets.
struct Secrets;

#[async_trait]
impl SecretSource for Secrets {
    async fn secret(&self, _: &Context, name: &str) -> Result<SecretString, Error> {
        let (_, user) = name.split_once('/').unwrap();
        Ok(format!("{user}:{user}secret").into())
    }
}

struct Directory(Arc<dyn Store>);

#[async_trait]
impl StoreDirectory for Directory {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        vec![("shop".into(), "sqlite".into())]
    }
    async fn open(&self, _: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        assert_eq!(name, "shop");
        Ok(Arc::clone(&self.0))
    }
}

pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) archive: BTreeMap<String, ColdRule>,
    pub(crate) retention: BTreeMap<String, ColdRule>,
    pub(crate) holds: BTreeMap<String, LegalHold>,
    pub(crate) steps: Arc<Steps>,
    /// Where archives go instead of a folder; `place.json` of the folder says it to a child.
    pub(crate) bucket: Option<BucketConfig>,
    holder: String,
    full: Arc<Mutex<Option<u32>>>,
    directory: Directory,
    ledger: Ledger,
    clock: Arc<TestClock>,
}

/// Orders 1 to 100 are from 2023, one a day; the others from 2026.
pub(crate) const SHOP: &str = "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL); \
     CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers (id), created_at TEXT NOT NULL, \
     total REAL, note TEXT, odd); \
     INSERT INTO customers VALUES (1, 'a'), (2, 'b'), (7, 'held'); \
     WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150) \
     INSERT INTO orders SELECT i, CASE WHEN i % 10 = 0 THEN 7 ELSE 1 + i % 2 END, \
       CASE WHEN i <= 100 THEN date('2023-01-01', i || ' days') || 'T10:00:00Z' ELSE '2026-03-01 08:00:00' END, \
       i / 3.0, CASE WHEN i % 4 = 0 THEN NULL ELSE 'note ' || i END, \
       CASE i % 5 WHEN 0 THEN i WHEN 1 THEN 'text' WHEN 2 THEN x'00ff' WHEN 3 THEN 1.5 END FROM n";

pub(crate) fn rule(json: serde_json::Value) -> ColdRule {
    serde_json::from_value(json).unwrap()
}

impl World {
    pub(crate) async fn at(dir: &Path, die_at: Option<u64>) -> Self {
        let holder = format!("pid-{}", std::process::id());
        let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
        let clock = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().unwrap()));
        let options = Options {
            clock: Arc::clone(&clock) as Arc<dyn contract::Clock>,
            ..Options::new(dir.join("audit.head"))
        };
        let ledger = Ledger::open(&dir.join("state.db"), keys, options).await.unwrap();
        let steps = Arc::new(Steps { die_at, ..Steps::default() });
        let config: store_sqlite::Config =
            serde_json::from_value(serde_json::json!({ "path": "shop.db" })).unwrap();
        let store = store_sqlite::open("shop", &config, dir).unwrap();
        let old = rule(serde_json::json!({
            "store": "shop", "table": "orders", "older_than": "2 years", "by": "created_at", "to": "cold",
            "rows_per_batch": 15, "rows_per_file": 40
        }));
        let gone = ColdRule { to: None, ..old.clone() };
        Self {
            dir: dir.to_owned(),
            archive: BTreeMap::from([("old".to_owned(), old)]),
            retention: BTreeMap::from([("gone".to_owned(), gone)]),
            holds: BTreeMap::new(),
            directory: Directory(Arc::new(Watched { store, steps: Arc::clone(&steps) })),
            steps,
            bucket: std::fs::read(dir.join("place.json"))
                .ok()
                .map(|json| serde_json::from_slice(&json).unwrap()),
            holder,
            full: Arc::default(),
            ledger,
            clock,
        }
    }

    pub(crate) async fn new(dir: &Path) -> Self {
        sql(dir, SHOP);
        Self::at(dir, None).await
    }

    /// Where the rule's archives go.
    pub(crate) fn place(&self) -> Arc<dyn ArchivePlace> {
        self.archive_place("cold").unwrap()
    }

    pub(crate) fn ctx(&self) -> Context {
        Context::new("p", Actor::local()).with_clock(Arc::clone(&self.clock) as Arc<dyn contract::Clock>)
    }

    pub(crate) fn permit(&self, action: &str, plan: &Plan) -> Permit {
        Permit::mint(&self.ctx(), action, &plan.target, plan.digest(), None, Duration::from_mins(1))
    }

    pub(crate) fn advance_days(&self, days: i64) {
        self.clock.advance_us(days * 86_400_000_000);
    }

    /// Does this at the next step of this name.
    pub(crate) fn when(&self, step: &'static str, hook: impl FnOnce() + Send + 'static) {
        self.steps.hooks.lock().unwrap().insert(step, Box::new(hook));
    }

    /// The place takes so many more files.
    pub(crate) fn fill_after(&self, files: Option<u32>) {
        *self.full.lock().unwrap() = files;
    }

    pub(crate) fn hold(&mut self, filter: &str) {
        let hold = serde_json::json!({ "store": "shop", "table": "orders", "where": filter });
        self.holds.insert("case".into(), serde_json::from_value(hold).unwrap());
    }

    /// Every file below the place, without its records.
    pub(crate) fn parquet(&self) -> Vec<PathBuf> {
        let mut found = files(&self.dir.join("cold"));
        found.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        found
    }

    pub(crate) fn scratch_left(&self) -> Vec<PathBuf> {
        files(&self.dir.join("scratch"))
    }
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub(crate) fn sql(dir: &Path, sql: &str) {
    rusqlite::Connection::open(dir.join("shop.db")).unwrap().execute_batch(sql).unwrap();
}

/// One number.
pub(crate) fn number(dir: &Path, sql: &str) -> i64 {
    rusqlite::Connection::open(dir.join("shop.db")).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// A table as text: every value with its class.
pub(crate) fn dump(dir: &Path, table: &str) -> Vec<String> {
    let connection = rusqlite::Connection::open(dir.join("shop.db")).unwrap();
    let mut rows = connection.prepare(&format!("SELECT * FROM {table} ORDER BY id")).unwrap();
    let columns = rows.column_count();
    let read = rows.query_map([], |row| {
        Ok((0..columns)
            .map(|place| format!("{:?}", row.get_ref(place).unwrap()))
            .collect::<Vec<_>>()
            .join("|"))
    });
    read.unwrap().map(Result::unwrap).collect()
}

#[async_trait]
impl Surroundings for World {
    fn stores(&self) -> &dyn StoreDirectory {
        &self.directory
    }
    fn plans(&self) -> &BTreeMap<String, PlanConfig> {
        static NONE: BTreeMap<String, PlanConfig> = BTreeMap::new();
        &NONE
    }
    fn repositories(&self) -> Vec<String> {
        Vec::new()
    }
    async fn repository(&self, _: &Context, name: &str) -> Result<Arc<dyn Repository>, Error> {
        Err(Error::new(ErrorKind::NotFound, format!("no repository {name}")))
    }
    fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }
    fn holder(&self) -> &str {
        &self.holder
    }
    fn is_gone(&self, holder: &str) -> bool {
        holder != self.holder
    }
    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl ColdSurroundings for World {
    fn archive_rules(&self) -> &BTreeMap<String, ColdRule> {
        &self.archive
    }
    fn retention_rules(&self) -> &BTreeMap<String, ColdRule> {
        &self.retention
    }
    fn legal_holds(&self) -> &BTreeMap<String, LegalHold> {
        &self.holds
    }
    fn archive_place(&self, to: &str) -> Result<Arc<dyn ArchivePlace>, Error> {
        let place: Arc<dyn ArchivePlace> = match &self.bucket {
            None => Arc::new(Folder::new(self.dir.join(to))),
            Some(bucket) => {
                let secrets: Arc<dyn SecretSource> = Arc::new(Secrets);
                Arc::new(repository_restic::open_place(to, bucket, &self.dir, &secrets)?)
            }
        };
        Ok(Arc::new(WatchedPlace { place, steps: Arc::clone(&self.steps), full: Arc::clone(&self.full) }))
    }
    fn columnar(&self) -> Arc<dyn Columnar> {
        Arc::new(Parquet)
    }
}
