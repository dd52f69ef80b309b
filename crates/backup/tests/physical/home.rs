//! A project in a folder that backs a server up: a repository, the ledger, a plan with the server's log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup::{
    FollowLogs, Level, LogMode, PlanConfig, RebuildCatalog, RestoreBackup, RunBackup, ShowLogs, Surroundings,
};
use conformance::{Cluster, NoSecrets};
use contract::{
    Actor, BackupMethod, Context, Error, ErrorKind, Outcome, Permit, Plan, Repository, SecretSource, Store,
    StoreDirectory,
};
use ledger::{Keys, Ledger, Options};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use serde_json::{Value, json};
use store_postgres::{LoginConfig, PostgresStore};
use tokio_util::sync::CancellationToken;

use crate::trip::{Trip, Tripping};

pub(crate) const STORE: &str = "orders";

/// Programs of the version that the tests are asked for, 17 else.
pub(crate) fn programs() -> PathBuf {
    let version = std::env::var("STEWARD_TEST_POSTGRES").map_or(17, |version| version.parse().unwrap());
    conformance::programs(version)
}

/// Whether this is the run with the version that all cases are run with; the others are asked what depends on the version.
pub(crate) fn with_every_case() -> bool {
    std::env::var("STEWARD_TEST_POSTGRES").map_or(true, |version| version == "17")
}

/// A server with an empty table.
pub(crate) fn server(settings: &[&str]) -> Cluster {
    let cluster = Cluster::new(&programs(), &[], settings);
    cluster.sql(
        "postgres",
        "CREATE TABLE step (n bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), filler text)",
    );
    cluster
}

pub(crate) fn insert(cluster: &Cluster, n: u64) {
    cluster.sql("postgres", &format!("INSERT INTO step (n, filler) VALUES ({n}, repeat('x', 2000))"));
}

/// Keys of the repository, and of the bucket that it is in.
struct Vault(SecretString);

#[async_trait]
impl SecretSource for Vault {
    async fn secret(&self, _ctx: &Context, name: &str) -> Result<SecretString, Error> {
        Ok(match name {
            "far/writer" => "writer:writersecret".into(),
            _ => self.0.clone(),
        })
    }
}

struct Directory(Arc<PostgresStore>);

#[async_trait]
impl StoreDirectory for Directory {
    fn list(&self, _ctx: &Context) -> Vec<(String, String)> {
        vec![(STORE.to_owned(), "postgres".to_owned())]
    }

    async fn open(&self, _ctx: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        if name == STORE {
            return Ok(Arc::clone(&self.0) as Arc<dyn Store>);
        }
        Err(Error::new(ErrorKind::NotFound, "there is no such store"))
    }
}

/// Where everything is, so that another process finds it too.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) repository: repository_restic::Config,
    pub(crate) port: u16,
    pub(crate) programs: PathBuf,
    pub(crate) log_every_s: u32,
}

impl Place {
    /// A new one with a repository in its folder.
    pub(crate) fn new(folder: &Path, server: &Cluster) -> Self {
        let key = repository_restic::new_master_key().unwrap();
        std::fs::write(folder.join("key"), key.expose_secret()).unwrap();
        Self::again(folder, server.port(), server.programs())
    }

    pub(crate) fn again(folder: &Path, port: u16, programs: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            repository: repository_restic::Config::new(folder.join("backups").to_str().unwrap()),
            port,
            programs: programs.to_owned(),
            log_every_s: 1,
        }
    }
}

pub(crate) struct Home {
    place: Place,
    key: SecretString,
    directory: Directory,
    plans: BTreeMap<String, PlanConfig>,
    ledger: Ledger,
    holder: String,
    trip: Trip,
    ctx: Context,
}

impl Home {
    pub(crate) async fn open(place: &Place, trip: Trip) -> Arc<Self> {
        let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
        let options = Options::new(place.folder.join("audit.head"));
        let ledger = Ledger::open(&place.folder.join("state.db"), keys, options).await.unwrap();
        let url = format!("postgres://127.0.0.1:{}/postgres", place.port);
        let login = LoginConfig { user: "postgres".into(), password_secret: None };
        let mut config = store_postgres::Config::new(&url, login);
        config.bin_dir = Some(place.programs.clone());
        let store = store_postgres::open(STORE, config, &place.folder, Arc::new(NoSecrets)).unwrap();
        let plan = PlanConfig {
            method: Some(BackupMethod::Physical),
            logs: Some(LogMode::Continuous),
            log_every_s: place.log_every_s,
            ..PlanConfig::of_store(STORE)
        };
        let home = Self {
            place: place.clone(),
            key: std::fs::read_to_string(place.folder.join("key")).unwrap().into(),
            directory: Directory(Arc::new(store)),
            plans: [(STORE.to_owned(), plan)].into(),
            ledger,
            holder: std::process::id().to_string(),
            trip,
            ctx: Context::new("shop", Actor::local()),
        };
        home.plain().create(&home.ctx()).await.unwrap();
        Arc::new(home)
    }

    pub(crate) fn ctx(&self) -> Context {
        self.ctx.clone()
    }

    /// The repository that does what it is asked to.
    pub(crate) fn plain(&self) -> repository_restic::ResticRepository {
        let vault = Arc::new(Vault(self.key.clone()));
        repository_restic::open("local", &self.place.repository, &self.place.folder, vault).unwrap()
    }

    fn permit(&self, action: &str, plan: &Plan) -> Permit {
        Permit::mint(&self.ctx(), action, &plan.target, plan.digest(), None, Duration::from_mins(1))
    }

    /// A base backup, proven so far.
    pub(crate) async fn base(&self, level: Level) -> Result<Outcome, Error> {
        let (ctx, request) = (self.ctx(), RunBackup { plan: STORE.into(), verify: Some(level) });
        let (plan, _) = backup::plan_run(&ctx, self, &request).await?;
        backup::run(&ctx, self, &self.permit("backup.run", &plan), &plan, &request).await
    }

    async fn follow_as(&self, ctx: Context, once: bool) -> Result<Outcome, Error> {
        let request = FollowLogs { plan: STORE.into(), once };
        let (plan, _) = backup::plan_follow(&ctx, self, &request).await?;
        backup::follow(&ctx, self, &self.permit("backup.run", &plan), &plan, &request).await
    }

    /// Follows until everything is kept that is there now.
    pub(crate) async fn follow_once(&self) -> Outcome {
        let outcome = self.follow_as(self.ctx(), true).await.unwrap();
        assert_eq!(outcome.findings, []);
        outcome
    }

    /// Follows until it is told to end, or until a gap.
    pub(crate) fn follow(self: &Arc<Self>) -> Following {
        let (stop, home) = (CancellationToken::new(), Arc::clone(self));
        let ctx = self.ctx().with_cancellation(stop.clone());
        Following { stop, task: tokio::spawn(async move { home.follow_as(ctx, false).await }) }
    }

    /// What `backup.logs` says of the store.
    pub(crate) async fn logs(&self) -> Value {
        let shown = backup::show_logs(&self.ctx(), self, &ShowLogs::default()).await.unwrap();
        shown.value["stores"][0].clone()
    }

    /// Takes in what is in the repository and not in the list.
    pub(crate) async fn rebuild(&self) {
        let (ctx, request) = (self.ctx(), RebuildCatalog::default());
        let plan = backup::plan_rebuild(&ctx, self, &request).unwrap();
        let permit = self.permit("backup.configure", &plan);
        backup::rebuild(&ctx, self, &permit, &plan, &request).await.unwrap();
    }

    /// Restores a backup, or the newest before the moment, asks the copy and takes it away.
    pub(crate) async fn restored(
        &self,
        backup: &str,
        until: &str,
        timeline: Option<u32>,
        sql: &str,
    ) -> Result<String, Error> {
        let asked =
            json!({ "backup": backup, "until": until, "timeline": timeline, "accept_unsigned": true });
        let (ctx, request): (_, RestoreBackup) = (self.ctx(), serde_json::from_value(asked).unwrap());
        let plan = backup::plan_restore(&ctx, self, &request).await?;
        let permit = self.permit("backup.restore", &plan);
        let restored = backup::restore(&ctx, self, &permit, &plan, &request).await?.value;
        let address = restored["address"].as_str().unwrap_or_else(|| panic!("{restored:#}"));
        let asked = Command::new(self.place.programs.join("psql"))
            .args(["-X", "-A", "-t", "-d", address, "-c", sql])
            .output()
            .unwrap();
        let end = restored["take_away"].as_str().unwrap();
        assert!(Command::new("sh").args(["-c", end]).status().unwrap().success(), "{end}");
        assert!(asked.status.success(), "{asked:?}");
        Ok(String::from_utf8_lossy(&asked.stdout).trim().to_owned())
    }
}

/// A log that is followed.
pub(crate) struct Following {
    stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<Result<Outcome, Error>>,
}

impl Following {
    pub(crate) async fn end(self) {
        self.stop.cancel();
        assert_eq!(self.task.await.unwrap().unwrap_err().kind(), ErrorKind::Canceled);
    }
}

/// Looks again and again; the limit is far above what it takes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..1_200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came: {what}");
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
        self.place.folder.join("scratch")
    }

    fn holder(&self) -> &str {
        &self.holder
    }

    fn is_gone(&self, holder: &str) -> bool {
        !Path::new("/proc").join(holder).exists()
    }

    fn ledger(&self) -> &Ledger {
        // Asked for before each record.
        self.trip.pass("ledger").unwrap();
        &self.ledger
    }
}
