//! A project with one store, `shop`, and everything that a door would do around the room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use conformance::{Secrets, permit_for};
use contract::{
    Actor, ActorKind, Context, Error, ErrorKind, Outcome, Plan, PlanStep, Query, Role, Statement, StepMode,
    Store, StoreDirectory,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store_postgres::{LoginConfig, Tls};
use stores::migration::MigrationFile;
use stores::{ApplyMigrations, SetupStore};

/// The password of every login made here.
const PASSWORD: &str = "pa55word-of-the-test";

/// Longest wait for a change lock; far above what it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The port through which a process that is to be killed reaches the server.
pub(crate) const LINE: &str = "STEWARD_TEST_CRASH_LINE";

/// Databases are made and dropped under one lock of the server: these tests queue for it here.
static ADMINISTERING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A project with one store.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    /// How another process opens the store: a path, or the name of a PostgreSQL database.
    pub(crate) address: String,
    _guard: Guard,
}

/// What goes with the store.
enum Guard {
    // Held only to be dropped: that removes the folder.
    Folder(#[allow(dead_code)] tempfile::TempDir),
    Database(String),
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Guard::Database(name) = self else { return };
        let name = name.clone();
        // A runtime may be running on this thread, so the clean-up gets a thread of its own.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (database, version) = parts(&name);
                for sql in [
                    format!("DROP DATABASE {database} WITH (FORCE)"),
                    format!("DROP ROLE IF EXISTS {database}_reader"),
                    format!("DROP ROLE IF EXISTS {database}_writer"),
                ] {
                    administer(version, &sql).await;
                }
            });
        });
        cleaned.join().ok();
    }
}

#[async_trait]
impl StoreDirectory for World {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        vec![("shop".into(), self.store.kind().into())]
    }

    async fn open(&self, _: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        if name == "shop" {
            Ok(Arc::clone(&self.store))
        } else {
            Err(Error::new(ErrorKind::NotFound, format!("no store `{name}`")))
        }
    }
}

/// The store at an address of [`World`], as another process opens it.
pub(crate) fn open(address: &str) -> Arc<dyn Store> {
    open_as(address, parts(address).0)
}

/// The same with the logins of another database.
fn open_as(address: &str, owner: &str) -> Arc<dyn Store> {
    if address.starts_with('/') {
        return Arc::new(
            store_sqlite::open("shop", &store_sqlite::Config::new(address), "/".as_ref()).unwrap(),
        );
    }
    let (database, version) = parts(address);
    let login = |role: &str| LoginConfig {
        user: format!("{owner}_{role}"),
        password_secret: Some(format!("shop/{owner}_{role}")),
    };
    let mut config = store_postgres::Config::new(&server(version, database), login("reader"));
    config.writer = Some(login("writer"));
    config.admin = Some(superuser());
    config.tls = Some(Tls::Disable); // The adapter's own tests are about that; here it only costs time.
    Arc::new(store_postgres::open("shop", config, "/".as_ref(), Arc::new(secrets(owner))).unwrap())
}

/// A database's name and, behind an `@`, the version of its server if it is not the run's.
fn parts(address: &str) -> (&str, Option<&str>) {
    address.split_once('@').map_or((address, None), |(database, version)| (database, Some(version)))
}

pub(crate) fn secrets(address: &str) -> Secrets {
    let (database, _) = parts(address);
    Secrets::new(&[
        (&format!("shop/{database}_reader"), PASSWORD),
        (&format!("shop/{database}_writer"), PASSWORD),
    ])
}

fn server(version: Option<&str>, database: &str) -> String {
    let of_version = |version: &str| conformance::server(&format!("STEWARD_TEST_POSTGRES{version}_URL"));
    let mut url = url::Url::parse(&version.map_or_else(conformance::postgres, of_version)).unwrap();
    url.set_username("").unwrap();
    url.set_path(database);
    if let Ok(line) = std::env::var(LINE) {
        url.set_port(Some(line.parse().unwrap())).unwrap();
    }
    url.to_string()
}

fn superuser() -> LoginConfig {
    let url = url::Url::parse(&conformance::postgres()).unwrap();
    LoginConfig { user: url.username().to_owned(), password_secret: None }
}

/// Runs one statement as the superuser, in the server's own database.
async fn administer(version: Option<&str>, sql: &str) {
    let mut config = store_postgres::Config::new(&server(version, "postgres"), superuser());
    config.admin = Some(superuser());
    config.tls = Some(Tls::Disable);
    let store = store_postgres::open("shop", config, "/".as_ref(), Arc::new(secrets(""))).unwrap();
    let _one_at_a_time = ADMINISTERING.lock().await;
    let done = patiently(async || change(&store, "store.setup", &[sql.to_owned()], secrets("")).await).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Tries again while somebody else holds the change lock: another test, or the server for a process that was killed;
/// and when a connection is lost, as whoever runs Steward would.
pub(crate) async fn patiently<T>(attempt: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(error)
                if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unavailable)
                    && Instant::now() < until =>
            {
                // Each attempt waits at the server; this only keeps a store that answers at once from spinning.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer,
        }
    }
}

/// Runs statements past the room's own requests, in one step, so that all run on one connection.
async fn change(
    store: &dyn Store,
    request: &str,
    statements: &[String],
    secrets: Secrets,
) -> Result<(), Error> {
    let step = PlanStep::new(
        "prepare",
        "prepare",
        StepMode::Autocommit,
        statements.iter().map(Statement::new).collect(),
    );
    let plan = Plan {
        request: request.into(),
        arguments: json!(conformance::namespace("prepare")),
        project: "shop".into(),
        target: "store:shop".into(),
        summary: "prepare".into(),
        steps: vec![step],
        pre_state: String::new(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    };
    let ctx = Context::new("shop", Actor::system());
    let permit = permit_for(&ctx, &plan);
    let mut execution = store.execute().unwrap().begin(&ctx, &permit, &plan, Arc::new(secrets)).await?;
    execution.run(&ctx, &permit, &plan, 0).await?;
    execution.finish(&ctx).await
}

impl World {
    /// A new, empty SQLite file.
    pub(crate) fn sqlite() -> World {
        let guard = tempfile::tempdir().unwrap();
        let address = guard.path().join("shop.db").to_str().unwrap().to_owned();
        std::fs::write(&address, b"").unwrap();
        World { store: open(&address), address, _guard: Guard::Folder(guard) }
    }

    /// A new, empty PostgreSQL database whose logins `store.setup` made.
    pub(crate) async fn postgres(case: &str) -> World {
        Self::postgres_of(case, None).await
    }

    /// The same on the server of a certain version.
    pub(crate) async fn postgres_of(case: &str, version: Option<&str>) -> World {
        let name = conformance::namespace(case);
        administer(version, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        let address = version.map_or_else(|| name.clone(), |version| format!("{name}@{version}"));
        let world =
            World { store: open(&address), address: address.clone(), _guard: Guard::Database(address) };
        let setup: SetupStore = request(json!({
            "store": "shop", "reader": format!("{name}_reader"), "writer": format!("{name}_writer")}));
        let plan = stores::setup::plan(&world.ctx(), &world, &setup).await.unwrap();
        world.execute(&plan).await.unwrap();
        world
    }

    /// Removes everything that migrations made here, which is much faster than another database.
    pub(crate) async fn clear(&self) {
        const DROP: &str = "DO $$ DECLARE one record; BEGIN \
            FOR one IN SELECT schemaname, tablename FROM pg_tables \
              WHERE schemaname = 'public' OR schemaname = 'steward' AND tablename <> 'steward_steps' LOOP \
              EXECUTE format('DROP TABLE %I.%I CASCADE', one.schemaname, one.tablename); END LOOP; END $$";
        let statements = [DROP.to_owned(), "DELETE FROM steward.steward_steps".to_owned()];
        let cleared = patiently(async || {
            change(&*self.store, "store.setup", &statements, secrets(&self.address)).await
        });
        cleared.await.unwrap();
    }

    pub(crate) fn ctx(&self) -> Context {
        Context::new("shop", Actor::new(ActorKind::Person, "anna", [Role::Requester]))
    }

    pub(crate) fn files(&self, files: &[(&str, &str)]) -> Vec<MigrationFile> {
        files.iter().map(|(name, sql)| MigrationFile::new(format!("migrations/shop/{name}"), *sql)).collect()
    }

    pub(crate) async fn execute(&self, plan: &Plan) -> Result<Outcome, Error> {
        let ctx = self.ctx();
        stores::execute(&ctx, &permit_for(&ctx, plan), plan, self, Arc::new(secrets(&self.address))).await
    }

    /// Plans and executes all pending migrations of these files.
    pub(crate) async fn migrate(&self, files: &[(&str, &str)]) -> Result<Outcome, Error> {
        let apply: ApplyMigrations = request(json!({"store": "shop"}));
        let plan = stores::migration::plan_apply(&self.ctx(), self, &self.files(files), &apply).await?;
        self.execute(&plan).await
    }

    /// Runs a statement with the login that administers the store.
    pub(crate) async fn administer(&self, sql: &str) {
        change(&*self.store, "store.setup", &[sql.to_owned()], secrets(&self.address)).await.unwrap();
    }

    /// Runs statements past the room's own requests.
    pub(crate) async fn run(&self, sql: &str) {
        let statements: Vec<String> = sql.split(";\n").map(ToOwned::to_owned).collect();
        change(&*self.store, "test", &statements, secrets(&self.address)).await.unwrap();
    }

    /// Runs statements in this database as the superuser.
    pub(crate) async fn run_as_superuser(&self, sql: &str) {
        let (database, version) = parts(&self.address);
        let mut config = store_postgres::Config::new(&server(version, database), superuser());
        config.writer = Some(LoginConfig { user: "nobody".into(), password_secret: None });
        config.admin = Some(superuser());
        let store = store_postgres::open("shop", config, "/".as_ref(), Arc::new(secrets(""))).unwrap();
        let statements: Vec<String> = sql.split(";\n").map(ToOwned::to_owned).collect();
        change(&store, "store.setup", &statements, secrets("")).await.unwrap();
    }

    /// A copy of the database whose table has a page of garbage on disk. Both live on the run's own server.
    pub(crate) async fn copy_with_damaged_page(&self, table: &str) -> World {
        let (database, version) = parts(&self.address);
        self.store.close().await;
        // Nothing is left to be written into the pages: a worker that looked at the rows would write the sound page back.
        self.run_as_superuser(&format!("ALTER TABLE {table} SET (autovacuum_enabled = false)")).await;
        self.run_as_superuser(&format!("VACUUM (FREEZE) {table}")).await;
        // The large object holds the file as it is on disk, with the third page overwritten, and is written over it.
        self.run_as_superuser(&format!(
            "CREATE TABLE damage AS SELECT pg_relation_filepath('{table}') AS path, 0::oid AS object;\n\
             CHECKPOINT;\n\
             UPDATE damage SET object = lo_from_bytea(0, overlay(pg_read_binary_file(path) PLACING \
             decode(repeat('a5', 4000), 'hex') FROM 2 * 8192 + 2000));\n\
             SELECT lo_export(object, current_setting('data_directory') || '/' || path) FROM damage;\n\
             DROP TABLE damage;\n\
             CREATE EXTENSION amcheck"
        ))
        .await;
        let copy = format!("{database}_d");
        administer(version, &format!("CREATE DATABASE {copy} TEMPLATE {database} STRATEGY FILE_COPY")).await;
        let address = version.map_or_else(|| copy.clone(), |version| format!("{copy}@{version}"));
        let store = open_as(&address, database);
        World { store, address: address.clone(), _guard: Guard::Database(address) }
    }

    /// The single number that a query answers; `None` when the store refuses it.
    pub(crate) async fn count(&self, sql: &str) -> Option<u64> {
        let rows = self.store.relational().unwrap().query(&self.ctx(), &Query::new(sql)).await.ok()?;
        rows.rows[0][0].as_u64()
    }

    /// 100 customers, 20,000 orders of which 3 refer to nobody by a declared key, and notes of which one does by name.
    pub(crate) async fn seed(&self) {
        let (first, key, last) = match self.store.kind() {
            "sqlite" => ("PRAGMA foreign_keys = OFF;\n", "REFERENCES customers (id)", ""),
            _ => (
                "",
                "",
                ";\nALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers (id) NOT VALID;\nANALYZE",
            ),
        };
        let numbers = |last: u32| {
            format!(
                "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {last}) SELECT n FROM c"
            )
        };
        self.run(&format!(
            "{first}CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);\n\
             CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL {key}, total NUMERIC NOT NULL);\n\
             CREATE TABLE notes (id INTEGER PRIMARY KEY, customer_id INTEGER, body TEXT);\n\
             INSERT INTO customers SELECT n, 'customer ' || n FROM ({}) AS numbers;\n\
             INSERT INTO orders SELECT n, CASE WHEN n <= 3 THEN 9000 + n ELSE n % 100 + 1 END, n % 500 FROM ({}) AS numbers;\n\
             INSERT INTO notes VALUES (1, 1, 'fine'), (2, 777, 'nobody'), (3, NULL, 'none'){last}",
            numbers(100),
            numbers(20_000)
        ))
        .await;
    }
}

/// A request from JSON, as the door reads it.
pub(crate) fn request<R: DeserializeOwned>(arguments: Value) -> R {
    serde_json::from_value(arguments).unwrap()
}
