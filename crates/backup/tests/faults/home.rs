//! A project in a folder: a SQLite store, a repository, the ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup::{
    Level, ListBackups, PlanConfig, PruneBackups, Recorded, RestoreBackup, Retention, RunBackup, Surroundings,
};
use contract::{
    Actor, Clock, Context, Error, ErrorKind, Outcome, Permit, Plan, Repository, SecretSource, Store,
    StoreDirectory, TestClock,
};
use ledger::{Keys, Ledger, Options};
use repository_restic::ResticRepository;
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use store_sqlite::SqliteStore;

use crate::trip::{Trip, Tripping};

const STORE: &str = "app";
/// The moment of the first backup; a home's clock runs on from here by the days that it is told.
const BEGIN: i64 = 1_800_000_000;

struct Vault(SecretString);

#[async_trait]
impl SecretSource for Vault {
    async fn secret(&self, _ctx: &Context, _name: &str) -> Result<SecretString, Error> {
        Ok(self.0.clone())
    }
}

struct Directory(Arc<SqliteStore>);

#[async_trait]
impl StoreDirectory for Directory {
    fn list(&self, _ctx: &Context) -> Vec<(String, String)> {
        vec![(STORE.to_owned(), "sqlite".to_owned())]
    }

    async fn open(&self, _ctx: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        if name == STORE {
            return Ok(Arc::clone(&self.0) as Arc<dyn Store>);
        }
        Err(Error::new(ErrorKind::NotFound, "there is no such store"))
    }
}

pub(crate) struct Home {
    folder: PathBuf,
    key: SecretString,
    directory: Directory,
    plans: BTreeMap<String, PlanConfig>,
    ledger: Ledger,
    clock: Arc<TestClock>,
    holder: String,
    trip: Trip,
}

impl Home {
    /// Makes the files of a new one.
    pub(crate) fn make(folder: &Path) {
        let key = repository_restic::new_master_key().unwrap();
        std::fs::write(folder.join("key"), key.expose_secret()).unwrap();
        let database = rusqlite::Connection::open(folder.join("app.db")).unwrap();
        database
            .execute_batch(
                "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); \
                 CREATE INDEX orders_note ON orders (note); \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
                 INSERT INTO orders SELECT i, hex(randomblob(60)) FROM n",
            )
            .unwrap();
    }

    pub(crate) async fn open(folder: &Path, trip: Trip, days: i64) -> Self {
        // Backups of one home follow one another: each that is there is an hour.
        let made = std::fs::read_dir(folder.join("backups/pages/snapshots")).map_or(0, Iterator::count);
        let at = BEGIN + i64::try_from(made).unwrap() * 3_600 + days * 86_400;
        let clock = Arc::new(TestClock::at(jiff::Timestamp::from_second(at).unwrap()));
        let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
        let options = Options {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ..Options::new(folder.join("audit.head"))
        };
        let ledger = Ledger::open(&folder.join("state.db"), keys, options).await.unwrap();
        let config = store_sqlite::Config::new("app.db");
        let store = store_sqlite::open(STORE, &config, folder).unwrap();
        let mut plan = PlanConfig::of_store(STORE);
        plan.verify.level = Level::L3;
        plan.keep = Retention {
            within_hours: 2,
            hourly: 1,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            verified_min: 1,
            ..plan.keep
        };
        let home = Self {
            folder: folder.to_owned(),
            key: std::fs::read_to_string(folder.join("key")).unwrap().into(),
            directory: Directory(Arc::new(store)),
            plans: [(STORE.to_owned(), plan)].into(),
            ledger,
            clock,
            holder: std::process::id().to_string(),
            trip,
        };
        home.plain().create(&home.ctx()).await.unwrap_or_else(|error| {
            // A damaged one is there and cannot be made.
            assert!(made > 0 || error.kind() == ErrorKind::Corrupt, "{error}");
        });
        home
    }

    pub(crate) fn ctx(&self) -> Context {
        Context::new("p", Actor::local()).with_clock(Arc::clone(&self.clock) as Arc<dyn Clock>)
    }

    /// The repository that does what it is asked to.
    pub(crate) fn plain(&self) -> ResticRepository {
        let config = repository_restic::Config::new("backups");
        repository_restic::open("local", &config, &self.folder, Arc::new(Vault(self.key.clone()))).unwrap()
    }

    pub(crate) fn store(&self) -> Arc<SqliteStore> {
        Arc::clone(&self.directory.0)
    }

    pub(crate) fn secret(&self) -> String {
        self.key.expose_secret().to_owned()
    }

    /// Other rows than before.
    pub(crate) fn change(&self, round: i64) {
        let database = rusqlite::Connection::open(self.folder.join("app.db")).unwrap();
        database
            .execute("UPDATE orders SET note = hex(randomblob(60)) WHERE id % 10 = ?1 % 10", [round])
            .unwrap();
    }

    pub(crate) async fn recorded(&self) -> Vec<Recorded> {
        let listed = backup::list(&self.ctx(), self, &ListBackups::default()).await.unwrap();
        serde_json::from_value(listed.value["backups"].clone()).unwrap()
    }

    /// Ids of the backups that were there at the beginning.
    pub(crate) fn first_ids(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join("ids")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn permit(&self, action: &str, plan: &Plan) -> Permit {
        Permit::mint(&self.ctx(), action, &plan.target, plan.digest(), None, Duration::from_mins(1))
    }

    /// Does one thing as the door does it.
    pub(crate) async fn work(&self, what: &str) -> Result<Outcome, Error> {
        let ctx = self.ctx();
        match what {
            "backup" => {
                let request = RunBackup { plan: STORE.into(), verify: None };
                let (plan, _) = backup::plan_run(&ctx, self, &request).await?;
                let made =
                    backup::run(&ctx, self, &self.permit("backup.run", &plan), &plan, &request).await?;
                if let Some(id) = made.value["backups"][0]["backup"]["id"].as_str() {
                    let ids = self.first_ids();
                    if ids.len() < 3 {
                        std::fs::write(
                            self.folder.join("ids"),
                            [ids, vec![id.to_owned()]].concat().join("\n"),
                        )
                        .unwrap();
                    }
                }
                Ok(made)
            }
            "prune" => {
                let request = PruneBackups::default();
                let plan = backup::plan_prune(&ctx, self, &request).await?;
                backup::prune(&ctx, self, &self.permit("backup.prune", &plan), &plan, &request).await
            }
            "restore" => {
                let request: RestoreBackup =
                    serde_json::from_value(serde_json::json!({ "backup": STORE, "to": "scratch" })).unwrap();
                let plan = backup::plan_restore(&ctx, self, &request).await?;
                backup::restore(&ctx, self, &self.permit("backup.restore", &plan), &plan, &request).await
            }
            other => panic!("{other}"),
        }
    }
}

#[async_trait]
impl Surroundings for Home {
    fn stores(&self) -> &dyn StoreDirectory {
        &self.directory
    }

    fn plans(&self) -> &BTreeMap<String, PlanConfig> {
        &self.plans
    }

    fn repositories(&self) -> Vec<String> {
        vec!["local".into()]
    }

    async fn repository(&self, _ctx: &Context, _name: &str) -> Result<Arc<dyn Repository>, Error> {
        Ok(Arc::new(Tripping { inner: self.plain(), trip: self.trip.clone() }))
    }

    fn scratch(&self) -> PathBuf {
        self.folder.join("scratch")
    }

    fn holder(&self) -> &str {
        &self.holder
    }

    fn is_gone(&self, holder: &str) -> bool {
        !Path::new("/proc").join(holder).exists()
    }

    fn ledger(&self) -> &Ledger {
        // Asked for before each record of the catalog.
        self.trip.pass("ledger").unwrap();
        &self.ledger
    }
}
