//! What an adapter hands to the suite.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Actor, ActorKind, Capability, Context, Error, ErrorKind, Permit, Plan, PlanStep, Query, Relational, Role,
    Rows, SecretSource, Statement, StepMode, Store,
};
use serde_json::{Value, json};

/// The way past the adapter: setup and looking behind its back.
#[async_trait]
pub trait Admin: Send + Sync {
    /// Runs setup SQL, one or more statements, with all rights. Objects become visible to the store's logins.
    ///
    /// Panics when the server refuses: setup that fails is a broken test.
    async fn run(&self, sql: &str);

    /// A second, independent store on the same namespace, as another process would open it.
    async fn reopen(&self) -> Arc<dyn Store>;

    /// Names of Steward's own tables in the store.
    async fn steward_tables(&self) -> Vec<String>;
}

/// An empty store of its own for one case.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The way past it.
    pub admin: Box<dyn Admin>,
    /// Its SQL, where that differs from engine to engine.
    pub sql: Sql,
    /// Strings that no error may show, such as the passwords in use.
    pub secrets: Vec<String>,
    /// Whatever must live as long as the case: a temporary folder, a guard that drops the database.
    pub guard: Option<Box<dyn std::any::Any + Send + Sync>>,
}

/// Where the SQL of engines differs.
#[derive(Debug, Clone)]
pub struct Sql {
    /// The placeholder of parameter `n`, counted from 1.
    pub placeholder: fn(usize) -> String,
    /// Expressions of each basic type and the JSON they must become.
    pub values: Vec<(String, Value)>,
    /// Single statements that must be refused by `query`: every way to write, to leave read-only or to reach beyond
    /// the store that this engine knows. `victim (id, name)` with the row (1, 'one') exists.
    pub writes: Vec<String>,
    /// A SELECT that gives one row with one text of so many bytes.
    pub wide: fn(usize) -> String,
    /// A SELECT that works for minutes and gives one row.
    pub slow: String,
    /// An INSERT into `victim (id, name)` that works for minutes.
    pub slow_write: String,
    /// A SELECT of a single true or false: does the index with this name exist?
    pub index_exists: fn(&str) -> String,
    /// Statements that would end or leave the transaction of a step.
    pub leave_transaction: Vec<String>,
}

impl Sql {
    /// What SQLite and PostgreSQL understand alike; adapters replace and add.
    pub fn common() -> Self {
        Self {
            placeholder: |n| format!("?{n}"),
            values: vec![
                ("NULL".into(), Value::Null),
                ("1".into(), json!(1)),
                ("-9007199254740991".into(), json!(-9_007_199_254_740_991_i64)),
                ("9007199254740993".into(), json!("9007199254740993")),
                ("'it''s'".into(), json!("it's")),
                ("''".into(), json!("")),
                ("'žluťoučký 🦔'".into(), json!("žluťoučký 🦔")),
            ],
            writes: [
                "INSERT INTO victim VALUES (2, 'two')",
                "UPDATE victim SET name = 'changed'",
                "DELETE FROM victim",
                "INSERT INTO victim VALUES (2, 'two') RETURNING id",
                "WITH x AS (SELECT 2 AS id) INSERT INTO victim SELECT id, 'two' FROM x",
                "CREATE TABLE another (id INTEGER)",
                "CREATE TEMP TABLE another (id INTEGER)",
                "CREATE INDEX victim_name ON victim (name)",
                "CREATE VIEW another AS SELECT 1 AS one",
                "ALTER TABLE victim ADD COLUMN extra TEXT",
                "ALTER TABLE victim RENAME TO another",
                "DROP TABLE victim",
                "ANALYZE",
                "VACUUM",
                "BEGIN",
                "COMMIT",
                "ROLLBACK",
                "SAVEPOINT way_out",
            ]
            .map(String::from)
            .to_vec(),
            wide: |bytes| {
                format!("SELECT replace('{}', 'x', '{}')", "x".repeat(bytes / 1_000), "y".repeat(1_000))
            },
            slow: format!("{COUNTING} SELECT count(*) FROM n"),
            slow_write: format!("{COUNTING} INSERT INTO victim SELECT i + 1000, 'slow' FROM n"),
            index_exists: |name| format!("SELECT count(*) > 0 FROM sqlite_schema WHERE name = '{name}'"),
            leave_transaction: ["COMMIT", "ROLLBACK", "BEGIN"].map(String::from).to_vec(),
        }
    }
}

/// Counts for minutes on any machine.
const COUNTING: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000)";

/// Longest that a canceled or timed-out call may take to come back.
const COMES_BACK_WITHIN: Duration = Duration::from_mins(1);

impl Opened {
    /// A context of the project `shop` and the requester `anna`, without deadline.
    pub fn ctx(&self) -> Context {
        Context::new("shop", Actor::new(ActorKind::Person, "anna", [Role::Requester]))
    }

    /// What plans name as their target, such as `store:orders`.
    pub fn target(&self) -> String {
        format!("store:{}", self.store.name())
    }

    pub(super) fn declares(&self, capability: Capability) -> bool {
        self.store.capabilities().contains(&capability)
    }

    /// The SQL family if `capability` is declared; otherwise asserts that the store refuses it and gives `None`.
    pub(super) async fn relational(&self, capability: Capability) -> Option<&dyn Relational> {
        let ctx = self.ctx();
        match (self.declares(capability), self.store.relational()) {
            (true, Some(relational)) => Some(relational),
            (true, None) => panic!("`{capability:?}` is declared, but there is no `relational()`"),
            (false, None) => None,
            (false, Some(relational)) => {
                let refused = match capability {
                    Capability::Inspect => relational.inspect(&ctx).await.err(),
                    Capability::Query => relational.query(&ctx, &Query::new("SELECT 1")).await.err(),
                    Capability::Explain => relational.explain(&ctx, "SELECT 1").await.err(),
                    _ => panic!("`{capability:?}` does not belong to `relational()`"),
                };
                let refused =
                    refused.unwrap_or_else(|| panic!("`{capability:?}` works, but is not declared"));
                self.expect_kind(&refused, &[ErrorKind::Unsupported]);
                assert!(refused.hint_text().is_some(), "says what to do instead: {refused}");
                None
            }
        }
    }

    /// The role that executes plans if it is declared; otherwise asserts that there is none.
    pub(super) fn execute(&self) -> Option<&dyn contract::Execute> {
        let declared = self.declares(Capability::Execute);
        let role = self.store.execute();
        assert_eq!(declared, role.is_some(), "`Execute` is declared exactly when `execute()` gives a role");
        role
    }

    /// Asserts the kind, and that no secret is shown.
    pub(super) fn expect_kind(&self, error: &Error, kinds: &[ErrorKind]) {
        assert!(kinds.contains(&error.kind()), "expected one of {kinds:?}, but got {error:?}");
        for secret in &self.secrets {
            for text in [error.to_string(), format!("{error:?}"), error.causes().join("\n")] {
                assert!(!text.contains(secret), "an error shows the secret: {text}");
            }
        }
    }

    pub(super) async fn make_victim(&self) {
        self.admin
            .run(
                "CREATE TABLE victim (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO victim VALUES (1, 'one');",
            )
            .await;
    }

    /// Reads through the store itself.
    pub(super) async fn rows(&self, sql: &str) -> Rows {
        let relational = self.store.relational().expect("a store that executes can also be read");
        match relational.query(&self.ctx(), &Query::new(sql)).await {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// The victim's rows as `id:name`, in order.
    pub(super) async fn victim(&self) -> Vec<String> {
        let rows = self.rows("SELECT id, name FROM victim ORDER BY id").await;
        rows.rows.iter().map(|row| format!("{}:{}", row[0], row[1].as_str().unwrap_or("NULL"))).collect()
    }

    /// Runs `call` and asserts that it came back soon.
    pub(super) async fn soon<T>(&self, call: impl Future<Output = T>) -> T {
        tokio::time::timeout(COMES_BACK_WITHIN, call).await.expect("a stopped call comes back soon")
    }

    pub(super) async fn canceled_after<T>(
        &self,
        milliseconds: u64,
        call: impl AsyncFnOnce(Context) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let ctx = self.ctx();
        let token = ctx.cancellation().clone();
        // The call has to be under way when it is canceled, so this waits for real.
        let cancel = async move {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            token.cancel();
        };
        self.soon(async { tokio::join!(call(ctx), cancel).0 }).await
    }
}

/// A plan of these steps for the store, as a room would make it.
pub fn change(opened: &Opened, steps: Vec<PlanStep>) -> Plan {
    Plan {
        request: "migration.apply".into(),
        arguments: json!({}),
        project: "shop".into(),
        target: opened.target(),
        summary: "a change made by the suite".into(),
        steps,
        pre_state: "unchecked".into(),
        predicted: json!({}),
        cost_usd_nanos: 0,
    }
}

/// A permit for exactly this plan, as the authority would give it.
pub fn permit_for(ctx: &Context, plan: &Plan) -> Permit {
    Permit::mint(ctx, "schema.migrate", &plan.target, plan.digest(), None, Duration::from_mins(10))
}

pub(super) fn step(id: &str, mode: StepMode, statements: &[&str]) -> PlanStep {
    PlanStep::new(id, format!("step {id}"), mode, statements.iter().map(|sql| Statement::new(*sql)).collect())
}

/// Secrets from a map.
#[derive(Default)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// These names and values.
    pub fn new(secrets: &[(&str, &str)]) -> Self {
        Self(secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

#[async_trait]
impl SecretSource for Secrets {
    async fn secret(&self, _: &Context, name: &str) -> Result<secrecy::SecretString, Error> {
        self.0.get(name).map(|value| secrecy::SecretString::from(value.clone())).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no secret `{name}`"))
                .hint(format!("store it with `steward secret put {name}`"))
        })
    }
}

/// No secrets at all.
pub struct NoSecrets;

#[async_trait]
impl SecretSource for NoSecrets {
    async fn secret(&self, ctx: &Context, name: &str) -> Result<secrecy::SecretString, Error> {
        Secrets::default().secret(ctx, name).await
    }
}
