//! A project in a folder: a SQLite store, a database of PostgreSQL's, a repository with the backups of both, the ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup::{
    Level, ListBackups, PlanConfig, PruneBackups, Recorded, RestoreBackup, Retention, RunBackup,
    SetupRepository, Surroundings, VerifyBackup,
};
use bytes::Bytes;
use contract::{
    Actor, Clock, Context, Error, ErrorKind, Layout, LogPiece, LogPosition, LogSpan, Logs as _, Outcome,
    Permit, Plan, Repository, SecretSource, Store, StoreDirectory, TestClock, sha256_hex,
};
use ledger::{Keys, Ledger, Options};
use repository_restic::ResticRepository;
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use store_postgres::{LoginConfig, PostgresStore};
use store_sqlite::SqliteStore;

use crate::lie::{Liar, Lie};
use crate::rows::{self, Rows};
use crate::trip::{Trip, Tripping};

const STORE: &str = "app";
/// The store that is a database of PostgreSQL's.
pub(crate) const ROWS: &str = "rows";
/// The moment of the first backup; a home's clock runs on from here by the days that it is told.
const BEGIN: i64 = 1_800_000_000;
/// Pieces of the log that lies in the repository.
const LOG_PIECES: u64 = 4;
const LOG_PIECE_BYTES: u64 = 20_000;

struct Vault(SecretString);

#[async_trait]
impl SecretSource for Vault {
    async fn secret(&self, _ctx: &Context, _name: &str) -> Result<SecretString, Error> {
        Ok(self.0.clone())
    }
}

struct Directory {
    app: Arc<SqliteStore>,
    rows: Arc<PostgresStore>,
}

#[async_trait]
impl StoreDirectory for Directory {
    fn list(&self, _ctx: &Context) -> Vec<(String, String)> {
        vec![(STORE.to_owned(), "sqlite".to_owned()), (ROWS.to_owned(), "postgres".to_owned())]
    }

    async fn open(&self, _ctx: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        match name {
            STORE => Ok(Arc::clone(&self.app) as Arc<dyn Store>),
            ROWS => Ok(Arc::clone(&self.rows) as Arc<dyn Store>),
            _ => Err(Error::new(ErrorKind::NotFound, "there is no such store")),
        }
    }
}

/// What a passphrase is by now; each is a folder with a file for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Opens,
    OpensNothing,
    /// A process died while it was added or removed.
    Unknown,
}

impl Standing {
    fn folder(self, home: &Path) -> PathBuf {
        let name = match self {
            Self::Opens => "opens",
            Self::OpensNothing => "opens-nothing",
            Self::Unknown => "unknown",
        };
        home.join("passphrases").join(name)
    }
}

pub(crate) struct Home {
    pub(crate) folder: PathBuf,
    key: SecretString,
    directory: Directory,
    plans: BTreeMap<String, PlanConfig>,
    ledger: Ledger,
    clock: Arc<TestClock>,
    holder: String,
    trip: Trip,
    lie: Option<Lie>,
}

fn open_rows(folder: &Path) -> PostgresStore {
    let url = rows::url(&std::fs::read_to_string(folder.join(ROWS)).unwrap());
    let login = || LoginConfig { user: url.username().to_owned(), password_secret: None };
    let address = format!("postgres://127.0.0.1:{}{}", url.port().unwrap_or(5432), url.path());
    let mut config = store_postgres::Config::new(&address, login());
    config.admin = Some(login());
    config.lock_timeout_ms = 300;
    let version = std::env::var("STEWARD_TEST_POSTGRES").map_or(17, |version| version.parse().unwrap());
    config.bin_dir = Some(conformance::programs(version));
    store_postgres::open(ROWS, config, folder, Arc::new(Vault(String::new().into()))).unwrap()
}

/// What a file holds, row by row.
pub(crate) fn digest_of(database: &Path) -> Result<String, rusqlite::Error> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = rusqlite::Connection::open_with_flags(database, flags)?;
    let mut statement = database.prepare("SELECT id, note FROM orders ORDER BY id")?;
    let rows = statement
        .query_map([], |row| Ok(format!("{} {}\n", row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    Ok(sha256_hex(rows.collect::<Result<String, _>>()?.as_bytes()))
}

/// The bytes of a piece of the log.
fn log_body(number: u64) -> Bytes {
    (0..LOG_PIECE_BYTES)
        .map(|at| u8::try_from((at * (number + 3)) % 251).unwrap())
        .collect::<Vec<u8>>()
        .into()
}

impl Home {
    /// Makes one with three backups of the file, two of the database, a log and a recovery key.
    pub(crate) async fn make(folder: &Path, rows: &Rows) {
        std::fs::write(folder.join("key"), repository_restic::new_master_key().unwrap().expose_secret())
            .unwrap();
        std::fs::write(folder.join(ROWS), &rows.0).unwrap();
        for one in ["state", "scratch"] {
            std::fs::create_dir(folder.join(one)).unwrap();
        }
        for one in [Standing::Opens, Standing::OpensNothing, Standing::Unknown] {
            std::fs::create_dir_all(one.folder(folder)).unwrap();
        }
        let database = rusqlite::Connection::open(folder.join("app.db")).unwrap();
        database
            .execute_batch(
                "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); \
                 CREATE INDEX orders_note ON orders (note); \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
                 INSERT INTO orders SELECT i, hex(randomblob(60)) FROM n",
            )
            .unwrap();
        drop(database);
        for work in ["backup", "backup-rows", "backup", "backup-rows", "backup"] {
            let home = Self::open(folder, Trip::never(), 0).await.unwrap();
            home.change();
            home.work(work).await.unwrap();
        }
        let home = Self::open(folder, Trip::never(), 0).await.unwrap();
        home.work("key-new").await.unwrap();
        let mut pieces = Vec::new();
        for number in 0..LOG_PIECES {
            let span = LogSpan {
                store: ROWS.into(),
                source: "7461234567890".into(),
                timeline: 1,
                file: "000000010000000000000001".into(),
                file_bytes: 16 << 20,
                start: LogPosition(0x0100_0000 + number * LOG_PIECE_BYTES),
                end: LogPosition(0x0100_0000 + (number + 1) * LOG_PIECE_BYTES),
                until: None,
                parent: None,
            };
            pieces.push(home.plain().append(&home.ctx(), &span, log_body(number)).await.unwrap());
        }
        std::fs::write(folder.join("log.json"), serde_json::to_vec(&pieces).unwrap()).unwrap();
        let ids: Vec<String> = home.recorded().await.into_iter().map(|backup| backup.id).collect();
        std::fs::write(folder.join("ids"), ids.join("\n")).unwrap();
    }

    pub(crate) async fn open(folder: &Path, trip: Trip, days: i64) -> Result<Self, Error> {
        // Backups of one home follow one another: each that is there is an hour.
        let count = |kind| {
            std::fs::read_dir(folder.join("backups").join(kind).join("snapshots")).map_or(0, Iterator::count)
        };
        let made = count("pages") + count("stream");
        // Unless the clock was stopped, for processes that work at once.
        let hours =
            std::fs::read_to_string(folder.join("hours")).map_or(made, |hours| hours.parse().unwrap());
        let at = BEGIN + i64::try_from(hours).unwrap() * 3_600 + days * 86_400;
        let clock = Arc::new(TestClock::at(jiff::Timestamp::from_second(at).unwrap()));
        let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
        let state = folder.join("state");
        let options =
            Options { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Options::new(state.join("audit.head")) };
        let ledger = Ledger::open(&state.join("state.db"), keys, options).await?;
        let config = store_sqlite::Config::new("app.db");
        let app = store_sqlite::open(STORE, &config, folder)?;
        let plan = |store, level| {
            let mut plan = PlanConfig::of_store(store);
            plan.verify.level = level;
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
            (store.to_owned(), plan)
        };
        let home = Self {
            folder: folder.to_owned(),
            key: std::fs::read_to_string(folder.join("key")).unwrap().into(),
            directory: Directory { app: Arc::new(app), rows: Arc::new(open_rows(folder)) },
            // A server of its own for each backup of the database would take most of the time of a run.
            plans: [plan(STORE, Level::L3), plan(ROWS, Level::L1)].into(),
            ledger,
            clock,
            holder: std::process::id().to_string(),
            trip,
            lie: None,
        };
        match home.plain().create(&home.ctx()).await {
            // A damaged one is there and cannot be made.
            Err(error) if made > 0 || error.kind() == ErrorKind::Corrupt => drop(error),
            other => other?,
        }
        Ok(home)
    }

    /// The same over a repository that does not do what it says.
    pub(crate) fn lied_to(self, lie: Lie) -> Self {
        Self { lie: Some(lie), ..self }
    }

    pub(crate) fn ctx(&self) -> Context {
        Context::new("p", Actor::local()).with_clock(Arc::clone(&self.clock) as Arc<dyn Clock>)
    }

    /// The repository that does what it is asked to.
    pub(crate) fn plain(&self) -> ResticRepository {
        self.with_key(&self.key)
    }

    /// The same as somebody has it whose vault holds this master key.
    pub(crate) fn with_key(&self, key: &SecretString) -> ResticRepository {
        let config = repository_restic::Config::new("backups");
        repository_restic::open("local", &config, &self.folder, Arc::new(Vault(key.clone()))).unwrap()
    }

    /// The repository as the room sees it, without what happens at a moment.
    pub(crate) fn seen(&self) -> Arc<dyn Repository> {
        match self.lie {
            Some(lie) => Arc::new(Liar { inner: self.plain(), lie, folder: self.folder.clone() }),
            None => Arc::new(self.plain()),
        }
    }

    pub(crate) fn key(&self) -> &SecretString {
        &self.key
    }

    pub(crate) fn store(&self, name: &str) -> Arc<dyn Store> {
        match name {
            ROWS => Arc::clone(&self.directory.rows) as Arc<dyn Store>,
            _ => Arc::clone(&self.directory.app) as Arc<dyn Store>,
        }
    }

    /// Everything that nobody may be told.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![self.key.expose_secret().to_owned()];
        for standing in [Standing::Opens, Standing::OpensNothing, Standing::Unknown] {
            secrets.extend(self.passphrases(standing).into_iter().map(|(_, passphrase)| passphrase));
        }
        secrets
    }

    /// Other rows than before.
    pub(crate) fn change(&self) {
        let path = self.folder.join("app.db");
        let database = rusqlite::Connection::open(&path).unwrap();
        let notes = "UPDATE orders SET note = hex(randomblob(60)) WHERE id % 10 = abs(random()) % 10";
        database.execute(notes, []).unwrap();
        drop(database);
        let known = self.contents() + &digest_of(&path).unwrap() + "\n";
        std::fs::write(self.folder.join("contents"), known).unwrap();
    }

    /// The digests of all that the file ever held.
    pub(crate) fn contents(&self) -> String {
        std::fs::read_to_string(self.folder.join("contents")).unwrap_or_default()
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

    /// The log that was put there at the beginning, with its bytes.
    pub(crate) fn log(&self) -> Vec<(LogPiece, Bytes)> {
        let pieces: Vec<LogPiece> =
            serde_json::from_slice(&std::fs::read(self.folder.join("log.json")).unwrap()).unwrap();
        pieces.into_iter().zip((0..LOG_PIECES).map(log_body)).collect()
    }

    /// The passphrases of this standing, by the ids of their keys.
    pub(crate) fn passphrases(&self, standing: Standing) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(standing.folder(&self.folder)).unwrap();
        let mut all: Vec<(String, String)> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let id = entry.file_name().into_string().unwrap();
                (id, std::fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    fn note(&self, standing: Standing, id: &str, passphrase: &str) {
        for one in [Standing::Opens, Standing::OpensNothing, Standing::Unknown] {
            let file = one.folder(&self.folder).join(id);
            if one == standing {
                std::fs::write(file, passphrase).unwrap();
            } else {
                std::fs::remove_file(file).ok();
            }
        }
    }

    fn permit(&self, action: &str, plan: &Plan) -> Permit {
        Permit::mint(&self.ctx(), action, &plan.target, plan.digest(), None, Duration::from_mins(1))
    }

    /// Does one thing as the door does it.
    pub(crate) async fn work(&self, what: &str) -> Result<Outcome, Error> {
        let ctx = self.ctx();
        match what {
            "backup" | "backup-rows" => {
                let name = if what == "backup" { STORE } else { ROWS };
                let request = RunBackup { plan: name.into(), verify: None };
                let (plan, _) = backup::plan_run(&ctx, self, &request).await?;
                backup::run(&ctx, self, &self.permit("backup.run", &plan), &plan, &request).await
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
            "verify" | "verify-rows" => {
                let name = if what == "verify" { STORE } else { ROWS };
                let request = VerifyBackup { backup: name.into(), from: None, level: Some(Level::L3) };
                let plan = backup::plan_verify(&ctx, self, &request).await?;
                backup::verify(&ctx, self, &self.permit("backup.verify", &plan), &plan, &request).await
            }
            "key-add" | "key-remove" | "key-new" => self.tend(what).await,
            other => panic!("{other}"),
        }
    }

    async fn set_up(
        &self,
        request: &SetupRepository,
        given: Option<&SecretString>,
    ) -> Result<(Outcome, Option<SecretString>), Error> {
        let ctx = self.ctx();
        let plan = backup::plan_setup(&ctx, self, request)?;
        let permit = self.permit("backup.configure", &plan);
        backup::setup(&ctx, self, &permit, &plan, request, given).await
    }

    /// Adds a passphrase, takes one away, or makes another recovery key.
    async fn tend(&self, what: &str) -> Result<Outcome, Error> {
        let ids = || async {
            let keys = self.plain().keys(&self.ctx()).await?;
            Ok::<_, Error>(keys.into_iter().map(|key| (key.id, key.label)).collect::<Vec<_>>())
        };
        let before = ids().await?;
        let newest = |now: Vec<(String, String)>| {
            now.into_iter().map(|(id, _)| id).find(|id| before.iter().all(|(known, _)| known != id)).unwrap()
        };
        if what == "key-remove" {
            // The newest passphrase; there is none in a home where none was added.
            let Some((id, _)) = before.iter().rev().find(|(_, label)| label == "passphrase") else {
                return Ok(Outcome::new(serde_json::Value::Null, String::new()));
            };
            let known = self.passphrases(Standing::Opens);
            let passphrase = known.iter().find(|(known, _)| known == id).map(|(_, text)| text.clone());
            if let Some(passphrase) = &passphrase {
                self.note(Standing::Unknown, id, passphrase);
            }
            let request = SetupRepository { remove_key: Some(id.clone()), ..SetupRepository::default() };
            let done = self.set_up(&request, None).await?;
            if let Some(passphrase) = &passphrase {
                self.note(Standing::OpensNothing, id, passphrase);
            }
            return Ok(done.0);
        }
        if what == "key-add" {
            let passphrase = repository_restic::new_master_key().unwrap();
            let request = SetupRepository { add_passphrase: true, ..SetupRepository::default() };
            // Whether it was added is not known where the process dies.
            let unknown = Standing::Unknown.folder(&self.folder).join("added");
            std::fs::write(&unknown, passphrase.expose_secret()).unwrap();
            let done = self.set_up(&request, Some(&passphrase)).await?;
            std::fs::remove_file(unknown).unwrap();
            self.note(Standing::Opens, &newest(ids().await?), passphrase.expose_secret());
            return Ok(done.0);
        }
        let of_recovery: Vec<(String, String)> = self
            .passphrases(Standing::Opens)
            .into_iter()
            .filter(|(id, _)| before.iter().any(|(known, label)| known == id && label == "recovery"))
            .collect();
        let request = SetupRepository { new_recovery_key: true, ..SetupRepository::default() };
        let made = self.set_up(&request, None).await?.1.unwrap();
        // Until its holder has tried it, the one before is in force.
        self.note(Standing::Opens, &newest(ids().await?), made.expose_secret());
        for (id, passphrase) in &of_recovery {
            self.note(Standing::Unknown, id, passphrase);
        }
        let request = SetupRepository { test_recovery_key: true, ..SetupRepository::default() };
        let (done, _) = self.set_up(&request, Some(&made)).await?;
        for (id, passphrase) in &of_recovery {
            self.note(Standing::OpensNothing, id, passphrase);
        }
        Ok(done)
    }
}

/// The folder of a layout's repository.
pub(crate) fn folder_of(layout: Layout) -> &'static str {
    match layout {
        Layout::Stream => "stream",
        Layout::Pages => "pages",
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
        Ok(Arc::new(Tripping { inner: self.seen(), trip: self.trip.clone() }))
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
