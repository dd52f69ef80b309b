//! A project with one store, `shop`, and everything that a door would do around the room.

use std::sync::Arc;

use async_trait::async_trait;
use conformance::{NoSecrets, permit_for};
use contract::{
    Actor, ActorKind, Context, Error, ErrorKind, Outcome, Plan, Query, Role, Store, StoreDirectory,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stores::migration::MigrationFile;

/// A project with one store.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) path: String,
    _guard: tempfile::TempDir,
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

/// The SQLite store at this path.
pub(crate) fn open_sqlite(path: &str) -> Arc<dyn Store> {
    Arc::new(store_sqlite::open("shop", &store_sqlite::Config::new(path), "/".as_ref()).unwrap())
}

impl World {
    /// A new, empty SQLite file.
    pub(crate) fn sqlite() -> World {
        let guard = tempfile::tempdir().unwrap();
        let path = guard.path().join("shop.db").to_str().unwrap().to_owned();
        std::fs::write(&path, b"").unwrap();
        World { store: open_sqlite(&path), path, _guard: guard }
    }

    pub(crate) fn ctx(&self) -> Context {
        Context::new("shop", Actor::new(ActorKind::Person, "anna", [Role::Requester]))
    }

    pub(crate) fn files(&self, files: &[(&str, &str)]) -> Vec<MigrationFile> {
        files.iter().map(|(name, sql)| MigrationFile::new(format!("migrations/shop/{name}"), *sql)).collect()
    }

    pub(crate) async fn execute(&self, plan: &Plan) -> Result<Outcome, Error> {
        let ctx = self.ctx();
        stores::execute(&ctx, &permit_for(&ctx, plan), plan, self, Arc::new(NoSecrets)).await
    }

    /// Plans and executes all pending migrations of these files.
    pub(crate) async fn migrate(&self, files: &[(&str, &str)]) -> Result<Outcome, Error> {
        let apply: stores::ApplyMigrations = request(json!({"store": "shop"}));
        let plan = stores::migration::plan_apply(&self.ctx(), self, &self.files(files), &apply).await?;
        self.execute(&plan).await
    }

    /// Runs statements past the room's own requests.
    pub(crate) async fn run(&self, sql: &str) {
        let statements = sql.split(";\n").filter(|sql| !sql.trim().is_empty());
        let step = |(i, sql): (usize, &str)| contract::PlanStep {
            id: format!("run/{i}"),
            title: "prepare".into(),
            mode: contract::StepMode::Autocommit,
            statements: vec![contract::Statement::new(sql)],
            is_done: None,
            clean_up: Vec::new(),
            undo: Vec::new(),
            destructive: false,
            reversible: false,
            lock: None,
        };
        let plan = Plan {
            request: "test".into(),
            arguments: json!({"at": contract::sha256_hex(sql.as_bytes())}),
            project: "shop".into(),
            target: "store:shop".into(),
            summary: "prepare".into(),
            steps: statements.enumerate().map(step).collect(),
            pre_state: String::new(),
            predicted: json!({}),
            cost_usd_nanos: 0,
        };
        let ctx = self.ctx();
        let permit = permit_for(&ctx, &plan);
        let executor = self.store.execute().unwrap();
        let mut execution = executor.begin(&ctx, &permit, &plan, Arc::new(NoSecrets)).await.unwrap();
        for i in 0..plan.steps.len() {
            execution.run(&ctx, &permit, &plan, i).await.unwrap();
        }
        execution.finish(&ctx).await.unwrap();
    }

    /// The single number that a query answers; `None` when the store refuses it.
    pub(crate) async fn count(&self, sql: &str) -> Option<u64> {
        let rows = self.store.relational().unwrap().query(&self.ctx(), &Query::new(sql)).await.ok()?;
        rows.rows[0][0].as_u64()
    }

    /// 100 customers, 20,000 orders of which 3 refer to nobody by a declared key, and notes of which one does by name.
    pub(crate) async fn seed(&self) {
        let (unchecked, checked, key) = match self.store.kind() {
            "sqlite" => ("PRAGMA foreign_keys = OFF;\n", "", "REFERENCES customers (id)"),
            _ => (
                "",
                ";\nALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers (id) NOT VALID",
                "",
            ),
        };
        let numbers = |last: u32| {
            format!(
                "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {last}) SELECT n FROM c"
            )
        };
        self.run(&format!(
            "{unchecked}CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);\n\
             CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL {key}, total NUMERIC NOT NULL);\n\
             CREATE TABLE notes (id INTEGER PRIMARY KEY, customer_id INTEGER, body TEXT);\n\
             INSERT INTO customers SELECT n, 'customer ' || n FROM ({}) AS numbers;\n\
             INSERT INTO orders SELECT n, CASE WHEN n <= 3 THEN 9000 + n ELSE n % 100 + 1 END, n % 500 FROM ({}) AS numbers;\n\
             INSERT INTO notes VALUES (1, 1, 'fine'), (2, 777, 'nobody'), (3, NULL, 'none'){checked}",
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
