//! Changes by plans: the lock, the record of steps, and steps inside and outside a transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Batch, BatchProgress, Context, Error, ErrorKind, Execute, Execution, LockHolder, Permit, Plan,
    PlanDigest, PlanStep, ReplicaLag, SecretSource, Statement, StepMode, StepState, Store,
};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::activity::protected;
use crate::batch;
use crate::error::{is_from_server, translate};
use crate::session::{Purpose, Session};
use crate::statement::{self, TextValue, quote_identifier};
use crate::store::{PostgresStore, milliseconds};

/// The key of the advisory lock, the same in every database: the bytes of `steward` as a number.
const LOCK_KEY: i64 = 0x0073_7465_7761_7264;
/// Longest wait for the lock. A server needs up to a second to see that the process which held it has died.
const LOCK_WAIT: Duration = Duration::from_millis(1_500);
/// Longest wait for the answer to COMMIT, which no deadline may cut: it would leave open whether it happened.
const COMMIT_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest wait for ROLLBACK; after that the session is given up, which rolls back too.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts at it.
const ROLLBACKS_MAX: usize = 3;
/// The request whose plans are always carried out by the administering login.
const SETUP: &str = "store.setup";
/// Requests whose plans say which login carries them out: the writing one where it may, else the administering one.
const BY_EITHER: &[&str] =
    &["access.grant", "access.revoke", "index.rebuild", "session.end", "store.configure", "store.vacuum"];

/// The login that carries the plan out.
fn purpose_of(plan: &Plan) -> Purpose {
    let by_admin = BY_EITHER.contains(&plan.request.as_str()) && plan.predicted["login"] == "admin";
    if plan.request == SETUP || by_admin { Purpose::Administer } else { Purpose::Write }
}

type Secrets = BTreeMap<String, SecretString>;

#[async_trait]
impl Execute for PostgresStore {
    async fn progress(&self, ctx: &Context, plan: &Plan) -> Result<Vec<StepState>, Error> {
        let states = self
            .within(ctx, async {
                let session = self.open_for_record(ctx, purpose_of(plan) == Purpose::Administer).await?;
                states(&session.client, &plan.digest()).await
            })
            .await?;
        Ok(plan
            .steps
            .iter()
            .map(|step| states.get(&step.id).copied().unwrap_or(StepState::Pending))
            .collect())
    }

    async fn records(&self, ctx: &Context, step_ids: &[&str]) -> Result<u64, Error> {
        self.within(ctx, async {
            let session = self.open_for_record(ctx, false).await?;
            if !record_exists(&session.client).await? {
                return Ok(0);
            }
            let count = session
                .client
                .query_one("SELECT count(*) FROM steward.steward_steps WHERE step = ANY ($1)", &[&step_ids])
                .await
                .map_err(|error| translate(&error))?;
            Ok(u64::try_from(count.get::<_, i64>(0)).unwrap_or(0))
        })
        .await
    }

    async fn begin<'a>(
        &'a self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        secrets: Arc<dyn SecretSource>,
    ) -> Result<Box<dyn Execution + 'a>, Error> {
        self.check(ctx, permit, plan)?;
        let purpose = purpose_of(plan);
        let session = self
            .within(ctx, async {
                let session = self.opener.open(ctx, purpose).await?;
                self.refuse_shared(&session)?;
                self.refuse_unchangeable(ctx, &session).await?;
                lock(&session.client).await?;
                if !record_is_current(&session.client).await? {
                    let sql = self.record_for(&session, plan).await?;
                    session.client.batch_execute(&sql).await.map_err(|error| {
                        translate(&error).hint(format!(
                            "the record of steps needs a schema `steward`: `steward store setup {}` makes it",
                            self.name()
                        ))
                    })?;
                }
                Ok(session)
            })
            .await?;
        Ok(Box::new(PostgresExecution {
            store: self,
            session,
            purpose,
            secrets,
            plan: plan.digest(),
            busy: false,
            lost: false,
            taken_up: None,
            blind: false,
        }))
    }

    async fn batches_begun(&self, ctx: &Context) -> Result<Vec<BatchProgress>, Error> {
        self.within(ctx, async {
            let session = self.open_for_record(ctx, false).await?;
            if record_is_current(&session.client).await? {
                batch::begun(&session.client).await
            } else {
                Ok(Vec::new())
            }
        })
        .await
    }

    async fn lock_holders(&self, ctx: &Context, tables: &[String]) -> Result<Vec<LockHolder>, Error> {
        // The writing login that `store setup` makes does not see what other logins do.
        let (session, _) = self.open_to_watch(ctx).await?;
        self.within(ctx, lock_holders(&session.client, tables, &self.own_logins())).await
    }
}

impl PostgresStore {
    pub(crate) fn check(&self, ctx: &Context, permit: &Permit, plan: &Plan) -> Result<(), Error> {
        permit.covers(ctx, plan)?;
        let here = format!("store:{}", self.name());
        if plan.target == here {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Forbidden, "the plan is for another resource")
            .with("target", &plan.target)
            .with("store", self.name())
            .hint(format!("ask for a plan whose target is `{here}`")))
    }

    /// The statements that make the record. It belongs to the writing login, once there is one: what an administering
    /// login does first must not keep that one from its own records later.
    async fn record_for(&self, session: &Session, plan: &Plan) -> Result<String, Error> {
        let make = include_str!("sql/steps.sql");
        let writer = self.opener.login(Purpose::Write).map(|writer| writer.user.as_str());
        let (true, Some(writer)) = (session.rights.login.superuser && plan.request != SETUP, writer) else {
            return Ok(make.to_owned());
        };
        if !role_exists(&session.client, writer).await? {
            return Ok(make.to_owned());
        }
        let writer = quote_identifier(writer);
        Ok(format!(
            "CREATE SCHEMA IF NOT EXISTS steward AUTHORIZATION {writer};\n{make}\n; \
             ALTER TABLE steward.steward_steps OWNER TO {writer}"
        ))
    }

    /// A session that may read the record: of the first login that is let in, as the writing one may not exist yet.
    async fn open_for_record(&self, ctx: &Context, setup: bool) -> Result<Session, Error> {
        let order = if setup {
            [Purpose::Administer, Purpose::Write, Purpose::Read]
        } else {
            [Purpose::Write, Purpose::Administer, Purpose::Read]
        };
        let mut refused = None;
        for purpose in order {
            if self.opener.login(purpose).is_none() {
                continue;
            }
            match self.open_to_look(ctx, purpose).await {
                Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::NotFound) => {
                    refused.get_or_insert(error);
                }
                answer => return answer,
            }
        }
        Err(refused.expect("a reading login is always configured"))
    }
}

pub(crate) async fn lock(client: &Client) -> Result<(), Error> {
    let wait = format!("SET lock_timeout = {}", milliseconds(LOCK_WAIT));
    client.batch_execute(&wait).await.map_err(|error| translate(&error))?;
    match client.execute("SELECT pg_catalog.pg_advisory_lock($1)", &[&LOCK_KEY]).await {
        Ok(_) => client.batch_execute("RESET lock_timeout").await.map_err(|error| translate(&error)),
        Err(error) => Err(match translate(&error) {
            error if error.kind() == ErrorKind::TimedOut => {
                Error::new(ErrorKind::Conflict, "another execution is changing this store")
                    .hint("wait until it has ended; `steward status` shows it")
            }
            error => error,
        }),
    }
}

async fn record_exists(client: &Client) -> Result<bool, Error> {
    let row = client.query_one(include_str!("sql/steps_exist.sql"), &[]).await;
    Ok(row.map_err(|error| translate(&error))?.get(0))
}

/// The record with all its columns: one that an earlier version made may lack some.
async fn role_exists(client: &Client, name: &str) -> Result<bool, Error> {
    let row = client.query_opt("SELECT FROM pg_catalog.pg_roles WHERE rolname = $1", &[&name]).await;
    Ok(row.map_err(|error| translate(&error))?.is_some())
}

async fn record_is_current(client: &Client) -> Result<bool, Error> {
    let row = client.query_one(include_str!("sql/steps_current.sql"), &[]).await;
    Ok(row.map_err(|error| translate(&error))?.get(0))
}

async fn lock_holders(
    client: &Client,
    tables: &[String],
    own_logins: &[String],
) -> Result<Vec<LockHolder>, Error> {
    let rows = client.query(include_str!("sql/lock_holders.sql"), &[&tables]).await;
    let rows = rows.map_err(|error| translate(&error))?;
    let holder = |row: &tokio_postgres::Row| LockHolder {
        pid: i64::from(row.get::<_, i32>("pid")),
        user: row.get("user"),
        application: row.get("application"),
        state: row.get("state"),
        transaction_age_ms: row.get::<_, Option<i64>>("transaction_age_ms").map(count),
        table: row.get("table"),
        lock: row.get("lock"),
        waiting: row.get("waiting"),
        started: row.get("started"),
        protected: protected(row.get("kind"), row.get("user"), row.get("application"), "", own_logins),
    };
    Ok(rows.iter().map(holder).collect())
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

async fn states(client: &Client, plan: &PlanDigest) -> Result<HashMap<String, StepState>, Error> {
    if !record_exists(client).await? {
        return Ok(HashMap::new());
    }
    let rows = client
        .query("SELECT step, state = 'done' FROM steward.steward_steps WHERE plan = $1", &[&plan.0])
        .await
        .map_err(|error| translate(&error))?;
    let state = |done| if done { StepState::Done } else { StepState::Started };
    Ok(rows.iter().map(|row| (row.get(0), state(row.get(1)))).collect())
}

pub(crate) struct PostgresExecution<'a> {
    pub(crate) store: &'a PostgresStore,
    pub(crate) session: Session,
    purpose: Purpose,
    secrets: Arc<dyn SecretSource>,
    pub(crate) plan: PlanDigest,
    /// A step is running; true in `drop` when its future was dropped.
    busy: bool,
    /// The session is gone, and the lock with it.
    lost: bool,
    /// The batched step that a valid permit took up.
    taken_up: Option<usize>,
    /// No login may see how far replicas are.
    blind: bool,
}

impl Drop for PostgresExecution<'_> {
    fn drop(&mut self) {
        if self.busy {
            self.session.stopper().stop_later();
        }
    }
}

#[async_trait]
impl Execution for PostgresExecution<'_> {
    async fn state(&mut self, ctx: &Context, plan: &Plan, index: usize) -> Result<StepState, Error> {
        self.check_alive()?;
        let step = step(plan, index)?;
        let client = &self.session.client;
        let states = self.store.within(ctx, states(client, &plan.digest())).await?;
        Ok(states.get(&step.id).copied().unwrap_or(StepState::Pending))
    }

    async fn run(&mut self, ctx: &Context, permit: &Permit, plan: &Plan, index: usize) -> Result<u64, Error> {
        self.store.check(ctx, permit, plan)?;
        if plan.digest() != self.plan {
            return Err(Error::new(ErrorKind::Forbidden, "this execution was begun for another plan"));
        }
        self.check_alive()?;
        let step = step(plan, index)?;
        self.busy = true;
        let answer = match step.mode {
            StepMode::Transaction => self.run_in_transaction(ctx, step).await,
            StepMode::Autocommit => self.store.within(ctx, self.run_in_autocommit(ctx, step)).await,
            StepMode::Batched(_) => {
                Err(Error::new(ErrorKind::Invalid, "the step runs in batches, one call each"))
            }
        };
        if let Err(error) = &answer {
            self.settle(error).await;
        }
        self.busy = false;
        answer.map_err(|error| error.with("step", &step.id))
    }

    async fn run_batch(
        &mut self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        index: usize,
        rows_max: u64,
    ) -> Result<Batch, Error> {
        if self.taken_up != Some(index) {
            self.store.check(ctx, permit, plan)?;
        }
        if plan.digest() != self.plan {
            return Err(Error::new(ErrorKind::Forbidden, "this execution was begun for another plan"));
        }
        self.check_alive()?;
        let step = step(plan, index)?;
        let StepMode::Batched(batches) = &step.mode else {
            return Err(
                Error::new(ErrorKind::Invalid, "the step does not run in batches").with("step", &step.id)
            );
        };
        self.busy = true;
        let answer = self.run_one_batch(ctx, step, batches, rows_max).await;
        match &answer {
            Ok(_) => self.taken_up = Some(index),
            Err(error) => self.settle(error).await,
        }
        self.busy = false;
        answer.map_err(|error| error.with("step", &step.id))
    }

    async fn replication(&mut self, ctx: &Context) -> Result<Vec<ReplicaLag>, Error> {
        self.check_alive()?;
        let lags = self.store.within(ctx, replication(&self.session.client)).await?;
        if lags.iter().all(|lag| lag.bytes.is_some()) {
            return Ok(lags);
        }
        // The writing login that `store setup` makes sees that there are replicas and nothing else of them. A session for
        // each look: one that stayed would keep a transaction open for as long as the change takes.
        if self.blind {
            return Ok(lags);
        }
        let (watch, sees_all) = self.store.open_to_watch(ctx).await?;
        self.blind = !sees_all;
        self.store.within(ctx, replication(&watch.client)).await
    }

    async fn finish(self: Box<Self>, ctx: &Context) -> Result<(), Error> {
        self.check_alive()?;
        let client = &self.session.client;
        let unlock = client.execute("SELECT pg_catalog.pg_advisory_unlock($1)", &[&LOCK_KEY]);
        self.store.within(ctx, async { unlock.await.map(drop).map_err(|error| translate(&error)) }).await
    }
}

pub(crate) async fn replication(client: &Client) -> Result<Vec<ReplicaLag>, Error> {
    let rows =
        client.query(include_str!("sql/replication.sql"), &[]).await.map_err(|error| translate(&error))?;
    let lag = |row: &tokio_postgres::Row| ReplicaLag {
        replica: row.get("replica"),
        bytes: row.get::<_, Option<i64>>("bytes").map(count),
        ms: row.get::<_, Option<i64>>("ms").map(count),
    };
    Ok(rows.iter().map(lag).collect())
}

fn step(plan: &Plan, index: usize) -> Result<&PlanStep, Error> {
    plan.steps.get(index).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("the plan has no step {index}; it has {}", plan.steps.len()))
    })
}

impl PostgresExecution<'_> {
    fn check_alive(&self) -> Result<(), Error> {
        if self.lost || self.session.client.is_closed() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the connection of this execution is gone, and its lock with it",
            )
            .with("store", self.store.name())
            .hint("begin again; what is done stays done"));
        }
        Ok(())
    }

    /// After a failure: nothing runs and no transaction is open.
    ///
    /// A session whose statement had to be stopped is given up: the cancellation may arrive late, and would then hit
    /// another statement.
    async fn settle(&mut self, error: &Error) {
        self.lost = !is_from_server(error)
            && matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Canceled | ErrorKind::Unavailable);
        if self.lost {
            self.session.stopper().stop().await;
        }
        for _ in 0..ROLLBACKS_MAX {
            let rollback = self.session.client.batch_execute("ROLLBACK");
            match tokio::time::timeout(ROLLBACK_TIMEOUT, rollback).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) if error.as_db_error().is_some() => {} // Canceled in its turn.
                _ => break,
            }
        }
        self.lost = true;
    }

    async fn run_in_transaction(&mut self, ctx: &Context, step: &PlanStep) -> Result<u64, Error> {
        let rows = self
            .store
            .within(ctx, async {
                if self.recorded(step).await? == StepState::Done {
                    return Ok(None);
                }
                let secrets = self.secrets_of(ctx, &step.statements).await?;
                self.begin(ctx).await?;
                let mut rows = 0;
                for statement in &step.statements {
                    rows += self.execute(statement, &secrets).await?;
                }
                // What the statements may have set must not touch the record.
                self.batch("RESET SESSION AUTHORIZATION; RESET ROLE").await?;
                self.share_record().await?;
                self.record_done(step, rows).await?;
                self.holds_lock().await?;
                Ok(Some(rows))
            })
            .await?;
        let Some(rows) = rows else { return Ok(0) };
        self.commit().await?;
        Ok(rows)
    }

    pub(crate) async fn begin(&self, ctx: &Context) -> Result<(), Error> {
        let timeout = Duration::from_millis(self.store.opener.config.statement_timeout_ms);
        let timeout = ctx.remaining().map_or(timeout, |remaining| timeout.min(remaining));
        self.refresh().await?;
        self.batch(&format!("BEGIN; SET LOCAL statement_timeout = {}", milliseconds(timeout))).await
    }

    pub(crate) async fn commit(&self) -> Result<(), Error> {
        let commit = self.batch("COMMIT");
        match tokio::time::timeout(COMMIT_TIMEOUT, commit).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == ErrorKind::Unavailable => Err(error
                .hint("the connection was lost in COMMIT: begin again, the record says whether it happened")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the server does not answer to COMMIT")
                .hint("begin again, the record says whether it happened")),
        }
    }

    async fn run_in_autocommit(&self, ctx: &Context, step: &PlanStep) -> Result<u64, Error> {
        let state = self.recorded(step).await?;
        if state == StepState::Done {
            return Ok(0);
        }
        let all = step.statements.iter().chain(&step.clean_up).chain(&step.is_done);
        let secrets = self.secrets_of(ctx, all).await?;
        self.refresh().await?;
        if state == StepState::Started {
            if let Some(is_done) = &step.is_done
                && self.holds(is_done, &secrets).await?
            {
                self.record_done(step, 0).await?;
                return Ok(0);
            }
            for statement in &step.clean_up {
                self.execute(statement, &secrets).await?;
            }
        }
        self.holds_lock().await?;
        let sql = include_str!("sql/step_started.sql");
        let started = self.session.client.execute(sql, &[&self.plan.0, &step.id]).await;
        started.map_err(|error| translate(&error))?;
        let mut rows = 0;
        for statement in &step.statements {
            match self.execute(statement, &secrets).await {
                Ok(affected) => rows += affected,
                Err(error) => return Err(self.clean_up_after(error, step, &secrets).await),
            }
        }
        self.refresh().await?;
        self.share_record().await?;
        self.record_done(step, rows).await?;
        Ok(rows)
    }

    /// Refuses when the change lock is not this session's any more: something may be changing the store beside us.
    pub(crate) async fn holds_lock(&self) -> Result<(), Error> {
        let row = self.session.client.query_one(include_str!("sql/holds_lock.sql"), &[&LOCK_KEY]).await;
        if row.map_err(|error| translate(&error))?.get(0) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "the change lock is not held any more")
            .with_retry(contract::Retry::Never)
            .hint(
                "a statement of the plan gave it back, or something in between exchanged the session: set `direct_url` \
                 to the server itself",
            ))
    }

    /// What a statement that failed has left behind goes at once, such as the invalid index of a build that ran out of
    /// disk; unless the effect is there all the same, as when the index that is to be built exists. Where the question
    /// or the clean-up fails too, the next attempt does it: the record says `started`.
    async fn clean_up_after(
        &self,
        error: Error,
        step: &PlanStep,
        secrets: &HashMap<String, SecretString>,
    ) -> Error {
        if !is_from_server(&error) {
            return error;
        }
        let Some(is_done) = &step.is_done else { return error };
        if !matches!(self.holds(is_done, secrets).await, Ok(false)) {
            return error;
        }
        for statement in &step.clean_up {
            if let Err(also) = self.execute(statement, secrets).await {
                tracing::warn!(step = step.id, error = %also, "what a failed step left behind is still there");
                return error.with("left_behind", &statement.sql);
            }
        }
        error
    }

    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.session.client.batch_execute(sql).await.map_err(|error| translate(&error))
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.batch(include_str!("sql/fresh_session.sql")).await
    }

    async fn recorded(&self, step: &PlanStep) -> Result<StepState, Error> {
        let states = states(&self.session.client, &self.plan).await?;
        Ok(states.get(&step.id).copied().unwrap_or(StepState::Pending))
    }

    async fn record_done(&self, step: &PlanStep, rows: u64) -> Result<(), Error> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let done = self
            .session
            .client
            .execute(include_str!("sql/step_done.sql"), &[&self.plan.0, &step.id, &rows])
            .await;
        done.map(drop).map_err(|error| translate(&error))
    }

    /// After the administrator's work, the writing login may keep the record too, once it exists.
    async fn share_record(&self) -> Result<(), Error> {
        let (Purpose::Administer, Some(writer)) = (self.purpose, self.store.opener.login(Purpose::Write))
        else {
            return Ok(());
        };
        if !role_exists(&self.session.client, &writer.user).await? {
            return Ok(());
        }
        let writer = quote_identifier(&writer.user);
        self.batch(&format!(
            "GRANT USAGE ON SCHEMA steward TO {writer}; \
             GRANT SELECT, INSERT, UPDATE ON steward.steward_steps TO {writer}"
        ))
        .await
    }

    /// The secrets that the statements name, before anything is run. Placeholders of one step share their names.
    pub(crate) async fn secrets_of(
        &self,
        ctx: &Context,
        statements: impl IntoIterator<Item = &Statement> + Send,
    ) -> Result<HashMap<String, SecretString>, Error> {
        let mut secrets = HashMap::new();
        let names: Vec<&String> =
            statements.into_iter().flat_map(|statement| statement.secrets.values()).collect();
        for name in names {
            if !secrets.contains_key(name) {
                secrets.insert(name.clone(), self.secrets.secret(ctx, name).await?);
            }
        }
        Ok(secrets)
    }

    pub(crate) async fn execute(
        &self,
        statement: &Statement,
        secrets: &HashMap<String, SecretString>,
    ) -> Result<u64, Error> {
        let prepared = Prepared::new(&self.session.client, statement, secrets).await?;
        let rows = self.session.client.execute_raw(&prepared.statement, prepared.values()).await;
        rows.map_err(|error| prepared.failed(&error))
    }

    /// Whether the single value of the query is true.
    async fn holds(&self, query: &Statement, secrets: &HashMap<String, SecretString>) -> Result<bool, Error> {
        let prepared = Prepared::new(&self.session.client, query, secrets).await?;
        let values: Vec<&(dyn ToSql + Sync)> = prepared.values.iter().map(|value| value as _).collect();
        let row = self
            .session
            .client
            .query_opt(&prepared.statement, &values)
            .await
            .map_err(|error| prepared.failed(&error))?;
        let Some(row) = row else { return Ok(false) };
        let kinds: Vec<&Type> = row.columns().iter().map(tokio_postgres::Column::type_).collect();
        let holds = match kinds[..] {
            [&Type::BOOL] => row.get::<_, Option<bool>>(0),
            [&Type::INT4] => row.get::<_, Option<i32>>(0).map(|number| number != 0),
            [&Type::INT8] => row.get::<_, Option<i64>>(0).map(|number| number != 0),
            _ => {
                return Err(Error::new(ErrorKind::Invalid, "`is_done` must give one true or false")
                    .hint("write it as `SELECT EXISTS (…)`"));
            }
        };
        Ok(holds == Some(true))
    }
}

/// One statement of a step, parsed by the server.
struct Prepared {
    statement: tokio_postgres::Statement,
    values: Vec<TextValue>,
    hidden: Vec<SecretString>,
}

impl Prepared {
    async fn new(
        client: &Client,
        statement: &Statement,
        secrets: &HashMap<String, SecretString>,
    ) -> Result<Self, Error> {
        statement::check_text(&statement.sql)?;
        if statement::controls_transaction(&statement.sql) {
            return Err(Error::new(ErrorKind::Invalid, "a step must not begin or end a transaction")
                .with("statement", statement::first_word(&statement.sql))
                .hint("remove the statement; the step's mode says how it is run"));
        }
        if statement::copies_through_client(&statement.sql) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "COPY from or to the client is not supported in a step",
            )
            .hint("write the rows as INSERT statements"));
        }
        let by_placeholder: Secrets = statement
            .secrets
            .iter()
            .filter_map(|(placeholder, name)| Some((placeholder.clone(), secrets.get(name)?.clone())))
            .collect();
        let (sql, hidden) = statement::with_secrets(&statement.sql, &by_placeholder)?;
        // Taken as one statement or refused: the extended protocol knows no second.
        let prepared = client
            .prepare(sql.expose_secret())
            .await
            .map_err(|error| statement::redact(translate(&error), &hidden))?;
        statement::check_count(prepared.params().len(), statement.parameters.len())?;
        let values = statement.parameters.iter().map(TextValue::new).collect::<Result<_, _>>()?;
        Ok(Self { statement: prepared, values, hidden })
    }

    fn values(&self) -> impl ExactSizeIterator<Item = &TextValue> {
        self.values.iter()
    }

    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        statement::redact(translate(error), &self.hidden)
    }
}
