//! The store: reading sessions, probe, query.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use contract::{
    Access, Capabilities, Capability, Context, Dump, Error, ErrorKind, Execute, Explain, Health, Integrity,
    Load, Login, Operate, Probe, Query, Relational, RowSets, Rows, SecretSource, SlowStatements, Standby,
    Store, Truncation,
};
use futures::StreamExt;
use schema::{Dialect, Schema};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::{Kind, Type};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{is_from_server, translate};
use crate::session::{Opener, Purpose, Session};
use crate::{catalog, explain, statement, value};

/// The kind in configuration.
pub const KIND: &str = "postgres";

/// An idle reading session is not used again after this: it may have been cut by something in between.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// Longest that putting a session back in order may take.
const TIDY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for the questions that Steward itself asks the catalog.
pub(crate) const CATALOG_TIMEOUT: Duration = Duration::from_mins(2);

/// A PostgreSQL database.
pub struct PostgresStore {
    name: String,
    pub(crate) opener: Opener,
    idle: Mutex<Vec<Session>>,
    slots: Arc<Semaphore>,
    closed: CancellationToken,
    /// The last look found no place for ordinary logins.
    pub(crate) is_full: AtomicBool,
}

/// A store that connects when it is first used; `tls_ca_file` and `bin_dir` are relative to `project_dir`.
///
/// # Errors
///
/// `Invalid`: the configuration does not hold together.
pub fn open(
    name: &str,
    mut config: Config,
    project_dir: &Path,
    secrets: Arc<dyn SecretSource>,
) -> Result<PostgresStore, Error> {
    config.bin_dir = config.bin_dir.map(|folder| project_dir.join(folder));
    config.tls_ca_file = config.tls_ca_file.map(|file| project_dir.join(file));
    let slots = usize::try_from(config.connections_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    Ok(PostgresStore {
        name: name.to_owned(),
        opener: Opener::new(config, secrets).map_err(|error| error.with("store", name))?,
        idle: Mutex::new(Vec::new()),
        slots: Arc::new(Semaphore::new(slots)),
        closed: CancellationToken::new(),
        is_full: AtomicBool::new(false),
    })
}

/// A session in a read-only transaction. Dropping it stops what it runs and closes it.
pub(crate) struct Reading {
    session: Option<Session>,
    _slot: OwnedSemaphorePermit,
}

impl Reading {
    pub(crate) fn session(&self) -> &Session {
        self.session.as_ref().expect("taken only when the reading ends")
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.stopper().stop_later();
        }
    }
}

/// The statements that begin a reading transaction.
fn begin(ctx: &Context, timeout: Duration, view: View) -> String {
    let timeout = ctx.remaining().map_or(timeout, |remaining| timeout.min(remaining));
    let level = match view {
        View::Newest => "",
        View::Frozen => " ISOLATION LEVEL REPEATABLE READ,",
    };
    format!("BEGIN{level} READ ONLY; SET LOCAL statement_timeout = {}", milliseconds(timeout))
}

/// How a reading transaction sees the data.
#[derive(Clone, Copy)]
pub(crate) enum View {
    /// Each statement the newest.
    Newest,
    /// All statements the same.
    Frozen,
}

/// What becomes of a session after its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Keep,
    Stop,
}

impl Next {
    pub(crate) fn after<T>(answer: &Result<T, Error>) -> Self {
        match answer {
            Err(error)
                if !is_from_server(error)
                    && matches!(
                        error.kind(),
                        ErrorKind::TimedOut | ErrorKind::Canceled | ErrorKind::Unavailable
                    ) =>
            {
                Self::Stop
            }
            _ => Self::Keep,
        }
    }
}

impl PostgresStore {
    /// Runs `future` inside the context and until the store is closed.
    pub(crate) async fn within<T>(
        &self,
        ctx: &Context,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let answer = tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Error::new(ErrorKind::Canceled, "the store was closed")),
            answer = ctx.run(future) => answer,
        };
        answer.map_err(|error| error.with("store", &self.name))
    }

    pub(crate) async fn begin_reading(
        &self,
        ctx: &Context,
        timeout: Duration,
        view: View,
    ) -> Result<Reading, Error> {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| Error::new(ErrorKind::Canceled, "the store was closed"))?;
        self.begin_in_slot(ctx, slot, timeout, view).await
    }

    async fn begin_in_slot(
        &self,
        ctx: &Context,
        slot: OwnedSemaphorePermit,
        timeout: Duration,
        view: View,
    ) -> Result<Reading, Error> {
        let begin = begin(ctx, timeout, view);
        let mut reading = Reading { session: None, _slot: slot };
        while let Some(session) = self.take_idle() {
            // A session that was cut while it was idle says so here, before it was asked anything.
            if session.client.batch_execute(&begin).await.is_ok() {
                reading.session = Some(session);
                return Ok(reading);
            }
        }
        let session = self.opener.open(ctx, Purpose::Read).await?;
        let session = reading.session.insert(session);
        let begin = format!("{begin}{}", session.prelude);
        session.client.batch_execute(&begin).await.map_err(|error| translate(&error))?;
        Ok(reading)
    }

    /// Another reading that sees what `exporter` sees by its `snapshot`, if one can be had without waiting for others.
    async fn begin_alongside(&self, ctx: &Context, exporter: &Session, snapshot: &str) -> Option<Reading> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let joined = async {
            let session = match self.take_idle() {
                Some(session) => session,
                None => self.opener.open_beside(ctx, &exporter.rights).await?,
            };
            let reading = Reading { session: Some(session), _slot: slot };
            let client = &reading.session().client;
            let join = format!(
                "{}; SET TRANSACTION SNAPSHOT '{snapshot}'; {}",
                begin(ctx, CATALOG_TIMEOUT, View::Frozen),
                catalog::SETTINGS
            );
            // Sent together; the first outlives the transaction.
            tokio::try_join!(
                client.batch_execute(include_str!("sql/watch_client.sql")),
                client.batch_execute(&join)
            )
            .map_err(|error| translate(&error))?;
            Ok::<_, Error>(reading)
        };
        match joined.await {
            Ok(reading) => Some(reading),
            // Such as no connection left for this login: one session does it all then.
            Err(error) => {
                tracing::debug!(%error, "no second session");
                None
            }
        }
    }

    /// The schema as the session sees it. A large catalog is read by two sessions; the second comes back to be ended.
    async fn inspect_in(&self, ctx: &Context, session: &Session) -> Result<(Schema, Option<Reading>), Error> {
        let snapshot = catalog::begin(&session.client).await?;
        let second = async {
            match snapshot {
                // Behind a pooler the snapshot would have to outlive the transaction that holds it.
                Some(snapshot) if session.pooler.is_none() => {
                    self.begin_alongside(ctx, session, &snapshot).await
                }
                _ => None,
            }
        };
        catalog::inspect(&session.client, second).await
    }

    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|session| session.idle_since.elapsed() < IDLE_MAX && !session.client.is_closed());
        idle.pop()
    }

    /// Closes the sessions that wait to be used again.
    pub(crate) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Ends the transaction and keeps the session, unless it was stopped in the middle of something.
    pub(crate) async fn end_reading(&self, mut reading: Reading, next: Next) {
        if next == Next::Stop {
            // Told now, so that when the caller hears of it nothing goes on at the server. The session is not used
            // again: a cancellation may arrive late, and would then hit the next statement.
            if let Some(session) = reading.session.take() {
                session.stopper().stop().await;
            }
            return;
        }
        // The statement may have taken locks that outlive its transaction.
        let tidy =
            reading.session().client.batch_execute("ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()");
        let tidy = matches!(tokio::time::timeout(TIDY_TIMEOUT, tidy).await, Ok(Ok(())));
        // Behind a pooler the next transaction would run in another session, which does not know what this one prepared.
        if let Some(mut session) = reading.session.take()
            && tidy
            && session.pooler.is_none()
            && !self.closed.is_cancelled()
        {
            session.idle_since = Instant::now();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }

    /// How the copy follows its source; with the administering login where the reading one may not see the source.
    pub(crate) async fn look_at_standby(&self, ctx: &Context, session: &Session) -> Result<Standby, Error> {
        let mut standby = standby(session).await?;
        if standby.primary.is_none()
            && self.opener.login(Purpose::Administer).is_some()
            && let Ok(admin) = self.open_to_look(ctx, Purpose::Administer).await
        {
            standby = self::standby(&admin).await?;
        }
        Ok(standby)
    }

    pub(crate) fn refuse_powerful_login(&self, session: &Session) -> Result<(), Error> {
        let rights = &session.rights;
        let user = &rights.login.user;
        let why = if rights.login.superuser {
            format!("the login `{user}` is a superuser")
        } else if rights.login.owner {
            format!("the login `{user}` owns tables or the database")
        } else if let Some(role) = rights.reaching_roles.first() {
            format!("the login `{user}` is a member of `{role}`")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Denied, format!("queries are refused: {why}"))
            .hint(format!("make a login that can only read: `steward store setup {}`", self.name)))
    }
}

/// At least one: 0 would mean no limit.
pub(crate) fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX).max(1)
}

#[async_trait]
impl Store for PostgresStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::from([
            Capability::Inspect,
            Capability::Query,
            Capability::Explain,
            Capability::Execute,
            Capability::TransactionalDdl,
            Capability::ConcurrentIndex,
            Capability::Integrity,
            Capability::Logins,
        ])
    }

    async fn probe(&self, ctx: &Context) -> Result<Probe, Error> {
        self.within(ctx, async {
            let reader = self.open_to_look(ctx, Purpose::Read).await?;
            let read_only = read_only_by_default(&reader).await?;
            let standby =
                if reader.rights.standby { Some(self.look_at_standby(ctx, &reader).await?) } else { None };
            // Last, as it may end the transaction.
            let identity = identity(&reader).await?;
            let writer = match self.opener.login(Purpose::Write) {
                None => None,
                // It may not exist yet, or not may connect; that is what `None` says.
                Some(_) => self.opener.open(ctx, Purpose::Write).await.ok(),
            };
            Ok(Probe {
                version: reader.rights.version.clone(),
                address: self.opener.address.to_string(),
                identity,
                pooler: reader.pooler.clone(),
                standby,
                read_only_by: read_only_by(read_only, &reader.rights.login),
                encrypted: reader.rights.encrypted,
                connect_ms: reader.connect_ms,
                reader: reader.rights.login,
                writer: writer.map(|session| session.rights.login),
            })
        })
        .await
    }

    fn relational(&self) -> Option<&dyn Relational> {
        Some(self)
    }

    fn follow_log(&self) -> Option<&dyn contract::FollowLog> {
        Some(self)
    }

    fn execute(&self) -> Option<&dyn Execute> {
        Some(self)
    }

    fn integrity(&self) -> Option<&dyn Integrity> {
        Some(self)
    }

    fn access(&self) -> Option<&dyn Access> {
        Some(self)
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    fn health(&self) -> Option<&dyn Health> {
        Some(self)
    }

    fn slow_statements(&self) -> Option<&dyn SlowStatements> {
        Some(self)
    }

    fn row_sets(&self) -> Option<&dyn RowSets> {
        Some(self)
    }

    fn dump(&self) -> Option<&dyn Dump> {
        Some(self)
    }

    fn load(&self) -> Option<&dyn Load> {
        Some(self)
    }

    fn cold_rows(&self) -> Option<&dyn contract::cold::ColdRows> {
        Some(self)
    }

    async fn close(&self) {
        self.closed.cancel();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn read_only_by(session: bool, login: &Login) -> String {
    let session = if session { "read-only transactions of the session" } else { "read-only transactions" };
    if login.superuser || login.owner || login.can_write {
        format!("{session}; the login itself may write")
    } else {
        format!("{session}, and the login has no right to write")
    }
}

async fn standby(session: &Session) -> Result<Standby, Error> {
    let row = session.client.query_one(include_str!("sql/standby.sql"), &[]).await;
    let row = row.map_err(|error| translate(&error))?;
    Ok(Standby {
        primary: row.get("primary"),
        lag_bytes: row.get::<_, Option<i64>>("lag_bytes").and_then(|bytes| u64::try_from(bytes).ok()),
        lag_ms: row.get("lag_ms"),
        streaming: row.get("streaming"),
    })
}

/// Whether a transaction of the session reads only without saying so.
async fn read_only_by_default(session: &Session) -> Result<bool, Error> {
    let row = session
        .client
        .query_one("SELECT pg_catalog.current_setting('default_transaction_read_only') = 'on'", &[])
        .await
        .map_err(|error| translate(&error))?;
    Ok(row.get(0))
}

/// The cluster's own identifier and the database's number in it; where the server hides the identifier, the time at
/// which it was started.
pub(crate) async fn identity(session: &Session) -> Result<String, Error> {
    let identity = session.client.query_one(include_str!("sql/identity.sql"), &[]).await;
    match identity {
        Ok(row) => Ok(row.get(0)),
        Err(error) if translate(&error).kind() == ErrorKind::Denied => {
            let again = format!("ROLLBACK; BEGIN READ ONLY{}", session.prelude);
            session.client.batch_execute(&again).await.map_err(|error| translate(&error))?;
            let row = session.client.query_one(include_str!("sql/identity_without_control.sql"), &[]).await;
            Ok(row.map_err(|error| translate(&error))?.get(0))
        }
        Err(error) => Err(translate(&error)),
    }
}

#[async_trait]
impl Relational for PostgresStore {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn quote_identifier(&self, name: &str) -> String {
        statement::quote_identifier(name)
    }

    async fn inspect(&self, ctx: &Context) -> Result<Schema, Error> {
        let reading = self.within(ctx, self.begin_reading(ctx, CATALOG_TIMEOUT, View::Frozen)).await?;
        let inspected = self.within(ctx, Box::pin(self.inspect_in(ctx, reading.session()))).await;
        let next = Next::after(&inspected);
        let (schema, second) = match inspected {
            Ok((schema, second)) => (Ok(schema), second),
            Err(error) => (Err(error), None),
        };
        let end_second = async {
            if let Some(second) = second {
                self.end_reading(second, Next::Keep).await;
            }
        };
        tokio::join!(self.end_reading(reading, next), end_second);
        schema
    }

    async fn query(&self, ctx: &Context, query: &Query) -> Result<Rows, Error> {
        let timeout = query.limits.statement_timeout;
        let reading = self.within(ctx, self.begin_reading(ctx, timeout, View::Newest)).await?;
        let rows = self
            .within(ctx, async {
                self.refuse_powerful_login(reading.session())?;
                rows(reading.session(), query).await
            })
            .await;
        let cut = rows.as_ref().is_ok_and(|rows| rows.truncated.is_some());
        self.end_reading(reading, if cut { Next::Stop } else { Next::after(&rows) }).await;
        rows
    }

    async fn explain(&self, ctx: &Context, sql: &str) -> Result<Explain, Error> {
        let reading = self.within(ctx, self.begin_reading(ctx, CATALOG_TIMEOUT, View::Newest)).await?;
        let explained = self
            .within(ctx, async {
                self.refuse_powerful_login(reading.session())?;
                explain::explain(reading.session(), sql).await
            })
            .await;
        self.end_reading(reading, Next::after(&explained)).await;
        explained
    }
}

/// Runs one statement in the session's read-only transaction.
///
/// The statement is first prepared by the extended protocol, which takes exactly one and tells the types; then the same
/// text is run by the simple protocol, which answers every type, also of extensions, in the server's own text form.
pub(crate) async fn rows(session: &Session, query: &Query) -> Result<Rows, Error> {
    statement::check_text(&query.sql)?;
    let failed = |error: tokio_postgres::Error| translate(&error);
    let prepared = session.client.prepare(&query.sql).await.map_err(failed)?;
    statement::check_count(prepared.params().len(), query.parameters.len())?;
    if prepared.columns().is_empty() {
        return Err(Error::new(ErrorKind::Denied, "the statement gives no rows, so it is not run")
            .with("statement", statement::first_word(&query.sql))
            .hint("a query reads; changes go through `steward migration`"));
    }
    let text = if query.parameters.is_empty() {
        query.sql.clone()
    } else {
        // Prepared once more under a name of ours: EXECUTE takes the values as literals and gives them the types of
        // the placeholders. Sent by the extended protocol, so that it too is exactly one statement.
        let named = format!("PREPARE steward_query AS {}", query.sql);
        session.client.execute("DEALLOCATE ALL", &[]).await.map_err(failed)?;
        session.client.execute(&named, &[]).await.map_err(failed)?;
        format!("EXECUTE steward_query({})", statement::literals(&query.parameters)?)
    };
    let mut out = Rows {
        columns: prepared.columns().iter().map(|column| column.name().to_owned()).collect(),
        types: prepared.columns().iter().map(|column| type_name(column.type_())).collect(),
        rows: Vec::new(),
        truncated: None,
        elapsed_ms: 0.0,
    };
    let mut bytes_left = query.limits.bytes_max;
    let started = Instant::now();
    let mut answers = Box::pin(session.client.simple_query_raw(&text).await.map_err(failed)?);
    while let Some(answer) = answers.next().await {
        let SimpleQueryMessage::Row(row) = answer.map_err(failed)? else { continue };
        if out.rows.len() == query.limits.rows_max {
            out.truncated = Some(Truncation::Rows);
            break;
        }
        let mut size = 0;
        let mut values = Vec::with_capacity(out.columns.len());
        for (index, column) in prepared.columns().iter().enumerate() {
            let text = row.try_get(index).map_err(|_| not_utf8(column.name()))?;
            size += text.map_or(0, str::len);
            values.push(text.map_or(Value::Null, |text| value::json(column.type_(), text)));
        }
        let Some(left) = bytes_left.checked_sub(size) else {
            out.truncated = Some(Truncation::Bytes);
            break;
        };
        bytes_left = left;
        out.rows.push(values);
    }
    out.elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    Ok(out)
}

fn not_utf8(column: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "a value is not UTF-8")
        .with("column", column)
        .hint("read it as binary, such as `convert_to(name, 'SQL_ASCII')`")
}

fn type_name(kind: &Type) -> String {
    match kind.kind() {
        Kind::Array(element) if kind.name().starts_with('_') => format!("{}[]", element.name()),
        _ => kind.name().to_owned(),
    }
}
