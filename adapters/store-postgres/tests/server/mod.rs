//! A database and logins for one case, and servers that behave badly.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use conformance::{Admin, Opened, Secrets, Sql};
use contract::Store;
use serde_json::json;
use store_postgres::{Config, LoginConfig, PostgresStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, NoTls};

/// Where the server is: as `testbed url postgres17` prints it.
fn url() -> url::Url {
    url::Url::parse(&conformance::postgres()).unwrap()
}

/// Since this version a read-only transaction refuses to make large objects. Before, they are gone with its rollback.
pub(crate) const LARGE_OBJECTS_REFUSED_SINCE: u32 = 16;

/// The server's version: 17 without its own variable.
pub(crate) fn version() -> u32 {
    std::env::var("STEWARD_TEST_POSTGRES").map_or(17, |version| version.parse().unwrap())
}

/// The role that needs no password.
pub(crate) fn superuser() -> String {
    url().username().to_owned()
}

/// The password of both logins, recognisable in anything it must not appear in.
const PASSWORD: &str = "pa55word-that-nobody-may-see";

/// Longest wait for something at the server; far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// The name of the reading login's secret.
pub(crate) const READER_SECRET: &str = "orders/reader";

/// The server's port.
pub(crate) fn port() -> String {
    url().port().unwrap_or(5432).to_string()
}

/// A database of its own with a reading and a writing login; dropped with the last handle.
#[derive(Clone)]
pub(crate) struct Database {
    name: String,
    guard: Option<Arc<Dropped>>,
}

struct Dropped(String);

impl Drop for Dropped {
    fn drop(&mut self) {
        let name = self.0.clone();
        // A runtime may be running on this thread, so the clean-up gets a thread of its own.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                without_subscriptions(&connect(&name).await).await;
                let client = connect("postgres").await;
                // A case may have made roles of its own; their names begin as the database's does.
                let roles = client
                    .query(
                        "SELECT format('%I', rolname) FROM pg_roles WHERE starts_with(rolname, $1 || '_')",
                        &[&name],
                    )
                    .await
                    .unwrap();
                let drop_all = [format!("DROP DATABASE {name} WITH (FORCE)")]
                    .into_iter()
                    .chain(roles.iter().map(|row| format!("DROP ROLE {}", row.get::<_, String>(0))));
                for sql in drop_all {
                    if let Err(error) = client.batch_execute(&sql).await {
                        eprintln!("{sql}: {error:?}");
                    }
                }
            });
        });
        cleaned.join().ok();
    }
}

/// A database with subscriptions cannot be dropped.
pub(crate) async fn without_subscriptions(client: &Client) {
    let names = "SELECT quote_ident(s.subname) FROM pg_subscription AS s \
         JOIN pg_database AS d ON d.oid = s.subdbid WHERE d.datname = current_database()";
    for row in client.query(names, &[]).await.unwrap() {
        let name: String = row.get(0);
        let drop = format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name}");
        client.batch_execute(&drop).await.unwrap();
    }
}

pub(crate) async fn connect(database: &str) -> Client {
    let mut address = url();
    address.set_path(database);
    let (client, connection) = tokio_postgres::connect(address.as_str(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Database {
    /// One that another process made and drops.
    pub(crate) fn of_another_process(name: &str) -> Self {
        Self { name: name.to_owned(), guard: None }
    }

    pub(crate) async fn create(name: &str) -> Self {
        Self::create_with(name, "").await
    }

    pub(crate) async fn create_with(name: &str, options: &str) -> Self {
        let server = connect("postgres").await;
        let logins = format!(
            "CREATE ROLE {name}_reader LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE {name}_writer LOGIN PASSWORD '{PASSWORD}'"
        );
        server.batch_execute(&logins).await.unwrap();
        server.batch_execute(&format!("CREATE DATABASE {name} OWNER {name}_writer {options}")).await.unwrap();
        let database = Self { name: name.to_owned(), guard: Some(Arc::new(Dropped(name.to_owned()))) };
        database
            .superuser(&format!(
                "CREATE EXTENSION amcheck; \
                 ALTER DEFAULT PRIVILEGES FOR ROLE {name}_writer GRANT SELECT ON TABLES TO {name}_reader; \
                 ALTER DEFAULT PRIVILEGES FOR ROLE {name}_writer GRANT USAGE ON SCHEMAS TO {name}_reader"
            ))
            .await;
        database
    }

    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    pub(crate) fn reader(&self) -> String {
        format!("{}_reader", self.name)
    }

    pub(crate) fn writer(&self) -> String {
        format!("{}_writer", self.name)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}/{}", port(), self.name)
    }

    /// As the owner of everything.
    pub(crate) async fn admin(&self, sql: &str) {
        self.run(&format!("SET ROLE {}", self.writer()), sql).await;
    }

    /// As the superuser.
    pub(crate) async fn superuser(&self, sql: &str) {
        self.run("", sql).await;
    }

    async fn run(&self, first: &str, sql: &str) {
        let client = connect(&self.name).await;
        client.batch_execute(first).await.unwrap();
        if let Err(error) = client.batch_execute(sql).await {
            panic!("{sql}: {error:?}");
        }
    }

    pub(crate) async fn connect_as_superuser(&self) -> Client {
        connect(&self.name).await
    }

    /// The single text that a query of the superuser gives.
    pub(crate) async fn text(&self, sql: &str) -> String {
        let client = connect(&self.name).await;
        let row = client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// Waits until so many sessions of `user` in this database meet the condition on `pg_stat_activity`.
    pub(crate) async fn until_sessions(&self, user: &str, condition: &str, count: i64) {
        let client = connect(&self.name).await;
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND usename = '{user}' AND {condition}"
        );
        let until = Instant::now() + PATIENCE;
        loop {
            let found: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
            if found == count {
                return;
            }
            assert!(Instant::now() < until, "{found} sessions of {user}, not {count}: {condition}");
            // The server tells nobody when a session's state changes.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn store(&self) -> PostgresStore {
        self.store_with(|_| {}, &[])
    }

    /// A store with another configuration and, if any are given, other secrets.
    pub(crate) fn store_with(
        &self,
        adjust: impl FnOnce(&mut Config),
        secrets: &[(&str, &str)],
    ) -> PostgresStore {
        let login = |user: String, secret: &str| LoginConfig { user, password_secret: Some(secret.into()) };
        let mut config =
            Config::new(&format!("postgres://{}", self.address()), login(self.reader(), READER_SECRET));
        config.writer = Some(login(self.writer(), "orders/writer"));
        config.admin = Some(LoginConfig { user: superuser(), password_secret: None });
        adjust(&mut config);
        let known = [(READER_SECRET, PASSWORD), ("orders/writer", PASSWORD)];
        let secrets = match secrets {
            [] => Secrets::new(&known),
            [(name, _), ..] if *name == "fresh" => Secrets::new(&[known[0], known[1], secrets[0]]),
            _ => Secrets::new(secrets),
        };
        store_postgres::open("orders", config, Path::new(env!("CARGO_MANIFEST_DIR")), Arc::new(secrets))
            .unwrap()
    }

    pub(crate) fn opened(&self) -> Opened {
        Opened {
            store: Arc::new(self.store()),
            admin: Box::new(self.clone()),
            sql: sql(),
            secrets: vec![PASSWORD.into()],
            guard: Some(Box::new(self.guard.clone())),
        }
    }

    /// For what only needs names; the database lives as long as `self`.
    pub(crate) fn opened_without_guard(&self) -> Opened {
        Opened { guard: None, ..self.opened() }
    }
}

#[async_trait]
impl Admin for Database {
    async fn run(&self, sql: &str) {
        self.admin(sql).await;
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(self.store())
    }

    async fn steward_tables(&self) -> Vec<String> {
        let client = connect(&self.name).await;
        let rows =
            client.query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'steward'", &[]).await;
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

fn sql() -> Sql {
    let mut sql = Sql::common();
    sql.placeholder = |n| format!("${n}");
    sql.index_exists = |name| format!("SELECT count(*) > 0 FROM pg_indexes WHERE indexname = '{name}'");
    sql.values.extend([
        ("1.5::float8".into(), json!(1.5)),
        ("true".into(), json!(true)),
        ("'12345678901234567890.50'::numeric".into(), json!("12345678901234567890.50")),
        ("'\\x00ff'::bytea".into(), json!("\\x00ff")),
        ("'2026-03-04 05:06:07+00'::timestamptz".into(), json!("2026-03-04T05:06:07Z")),
        ("'{\"a\": [1, 2]}'::jsonb".into(), json!({"a": [1, 2]})),
        ("ARRAY[1, 2, NULL]".into(), json!([1, 2, null])),
    ]);
    sql.writes.extend(
        [
            "SELECT set_config('transaction_read_only', 'off', false)",
            "SET TRANSACTION READ WRITE",
            "SET default_transaction_read_only = off",
            "WITH gone AS (DELETE FROM victim RETURNING id) SELECT * FROM gone",
            "DO $$ BEGIN DELETE FROM victim; END $$",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "SELECT * FROM victim FOR UPDATE",
            "SELECT pg_read_file('/etc/passwd')",
            "START TRANSACTION READ WRITE",
            "COMMIT AND CHAIN",
        ]
        .map(String::from),
    );
    if version() >= LARGE_OBJECTS_REFUSED_SINCE {
        sql.writes.push("SELECT lo_create(0)".into());
    }
    sql.leave_transaction.extend(
        [
            "END",
            "ABORT",
            "START TRANSACTION",
            "SAVEPOINT x",
            "PREPARE TRANSACTION 'x'",
            "/* ; */ COMMIT AND CHAIN",
        ]
        .map(String::from),
    );
    sql
}

/// A line to the server that can be cut.
pub(crate) struct Relay {
    address: SocketAddr,
    open: Arc<AtomicBool>,
    lines: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Relay {
    pub(crate) async fn start(port: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicBool::new(true));
        let lines: Arc<Mutex<Vec<tokio::task::AbortHandle>>> = Arc::default();
        let (accepting, kept) = (Arc::clone(&open), Arc::clone(&lines));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !accepting.load(Ordering::SeqCst) {
                    continue;
                }
                let port = port.clone();
                let line = tokio::spawn(async move {
                    let mut far = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                });
                kept.lock().unwrap().push(line.abort_handle());
            }
        });
        Self { address, open, lines }
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Ends all connections; new ones are dropped.
    pub(crate) fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.lines.lock().unwrap().drain(..).for_each(|line| line.abort());
    }

    /// Lets new connections through.
    pub(crate) fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

/// Speaks just enough of the protocol to say its version; has no TLS and answers no query.
pub(crate) struct OldServer {
    pub(crate) address: SocketAddr,
}

impl OldServer {
    pub(crate) async fn start(version: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::greet(stream, version));
            }
        });
        Self { address }
    }

    async fn greet(mut stream: TcpStream, version: &str) -> Option<()> {
        const SSL_REQUEST: u32 = 80_877_103;
        loop {
            let length = stream.read_u32().await.ok()?;
            let code = stream.read_u32().await.ok()?;
            let mut rest = vec![0; usize::try_from(length).ok()? - 8];
            stream.read_exact(&mut rest).await.ok()?;
            if code != SSL_REQUEST {
                break;
            }
            stream.write_all(b"N").await.ok()?;
        }
        let mut answer = vec![b'R', 0, 0, 0, 8, 0, 0, 0, 0];
        let setting = format!("server_version\0{version}\0");
        answer.push(b'S');
        answer.extend(u32::try_from(setting.len() + 4).ok()?.to_be_bytes());
        answer.extend(setting.as_bytes());
        answer.extend([b'K', 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 1]);
        answer.extend([b'Z', 0, 0, 0, 5, b'I']);
        stream.write_all(&answer).await.ok()?;
        // Stays until the other side hangs up.
        stream.read_to_end(&mut Vec::new()).await.ok()?;
        Some(())
    }
}
