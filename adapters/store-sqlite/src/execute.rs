//! Plans: the lock, the record of steps, and how a step is run.

use std::fs::TryLockError;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Batch, BatchProgress, Context, Error, ErrorKind, Execute, Execution, Permit, Plan, PlanStep,
    SecretSource, Statement, StepMode, StepState,
};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::batch;
use crate::catalog::count_at;
use crate::error::{more_than_one_statement, translate};
use crate::session::{Stop, beside, on_thread, watch};
use crate::store::{SqliteStore, bind};
use crate::text::{quote_text, words};

/// Ends the name of the file whose lock says that an execution runs; it stays, empty of meaning, when none does.
pub(crate) const LOCK_SUFFIX: &str = "-steward-lock";

/// The writing connection and the lock, given up together.
struct Session {
    connection: Connection,
    lock_timeout: Duration,
    _lock: std::fs::File,
}

struct Running<'a> {
    store: &'a SqliteStore,
    /// Shared with the thread that runs a step, so that dropping this in the middle of a step leaves the lock taken
    /// until the thread has rolled back.
    session: Arc<Mutex<Session>>,
    secrets: Arc<dyn SecretSource>,
    /// Digest of the plan that it was begun for.
    plan: String,
    /// The batched step that a valid permit took up.
    taken_up: Option<usize>,
}

/// A statement with its secrets filled in; has no `Debug` for that reason.
pub(crate) struct Ready {
    pub(crate) sql: String,
    pub(crate) parameters: Vec<Value>,
}

impl SqliteStore {
    /// Refuses a permit for anything but this plan, and a plan for another store.
    pub(crate) fn covers(&self, ctx: &Context, permit: &Permit, plan: &Plan) -> Result<(), Error> {
        permit.covers(ctx, plan)?;
        let own = format!("store:{}", self.name);
        if plan.target != own {
            return Err(Error::new(ErrorKind::Forbidden, "the plan is for another store")
                .with("target", &plan.target)
                .with("store", &own));
        }
        Ok(())
    }
}

#[async_trait]
impl Execute for SqliteStore {
    async fn progress(&self, ctx: &Context, plan: &Plan) -> Result<Vec<StepState>, Error> {
        let digest = plan.digest().0;
        let steps: Vec<String> = plan.steps.iter().map(|step| step.id.clone()).collect();
        self.read(ctx, None, move |connection, stop| {
            steps
                .iter()
                .map(|step| state(connection, &digest, step).map_err(|error| translate(&error, stop)))
                .collect()
        })
        .await
    }

    async fn records(&self, ctx: &Context, step_ids: &[&str]) -> Result<u64, Error> {
        let ids: Vec<String> = step_ids.iter().map(|id| (*id).to_owned()).collect();
        self.read(ctx, None, move |connection, stop| {
            records(connection, &ids).map_err(|error| translate(&error, stop))
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
        self.covers(ctx, permit, plan)?;
        if self.file.read_only {
            return Err(Error::new(ErrorKind::Denied, "the store is configured as read-only")
                .with("store", &self.name)
                .hint("remove `read_only` from the store's configuration"));
        }
        let file = self.file.clone();
        let session = on_thread(ctx, &self.closed, None, move |stop| {
            let lock = lock(&beside(&file.canonical()?, LOCK_SUFFIX))?;
            let connection = file.writer(stop)?;
            if connection.is_readonly(rusqlite::MAIN_DB).map_err(|error| file.explain(&error, stop))? {
                return Err(Error::new(ErrorKind::Denied, "the database file cannot be written")
                    .with("path", file.path.display())
                    .hint("check the permissions of the file and its folder"));
            }
            let prepare = "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";
            connection
                .execute_batch(prepare)
                .and_then(|()| connection.execute_batch(include_str!("sql/steps.sql")))
                .and_then(|()| complete_record(&connection))
                .map_err(|error| file.explain(&error, stop))?;
            Ok(Session { connection, lock_timeout: file.lock_timeout, _lock: lock })
        });
        let session = session.await.map_err(|error| error.with("store", &self.name))?;
        let session = Arc::new(Mutex::new(session));
        Ok(Box::new(Running { store: self, session, secrets, plan: plan.digest().0, taken_up: None }))
    }

    async fn batches_begun(&self, ctx: &Context) -> Result<Vec<BatchProgress>, Error> {
        self.read(ctx, None, |connection, stop| batch::begun(connection, stop)).await
    }
}

/// Takes the lock or says who has it. The operating system gives it back when its holder dies, however that happens.
pub(crate) fn lock(path: &Path) -> Result<std::fs::File, Error> {
    let denied = |error: std::io::Error| {
        Error::new(ErrorKind::Denied, "cannot take the store's change lock")
            .with("file", path.display())
            .because(error)
            .hint("the folder of the database must be writable")
    };
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(denied)?;
    match file.try_lock() {
        Ok(()) => {
            let written = file.set_len(0).and_then(|()| file.rewind());
            written.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(denied)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the message; the holder may be writing it at this moment.
            let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
            let error = Error::new(ErrorKind::Conflict, "another execution is changing this store");
            let error = if known { error.with("pid", holder.trim()) } else { error };
            Err(error.with("file", path.display()).hint("wait until it has ended"))
        }
        Err(TryLockError::Error(error)) => Err(denied(error)),
    }
}

impl Running<'_> {
    async fn on_session<T: Send + 'static>(
        &self,
        ctx: &Context,
        work: impl FnOnce(&mut Connection, &Arc<Stop>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let session = Arc::clone(&self.session);
        let answer = on_thread(ctx, &self.store.closed, Some(self.store.statement_timeout), move |stop| {
            // A thread that panicked has rolled back by unwinding, or SQLite does so before the next BEGIN fails.
            let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
            let lock_timeout = session.lock_timeout;
            watch(&mut session.connection, stop, lock_timeout).map_err(|error| translate(&error, stop))?;
            work(&mut session.connection, stop)
        });
        answer.await.map_err(|error| error.with("store", &self.store.name))
    }

    /// Fills secrets in. The result lives only until the statement has run.
    async fn ready(&self, ctx: &Context, statements: &[Statement]) -> Result<Vec<Ready>, Error> {
        let mut out = Vec::with_capacity(statements.len());
        for statement in statements {
            let mut values = Vec::with_capacity(statement.secrets.len());
            for (placeholder, name) in &statement.secrets {
                let secret = self.secrets.secret(ctx, name).await?;
                if secret.expose_secret().contains('\0') {
                    return Err(Error::new(ErrorKind::Invalid, "the secret contains a NUL character")
                        .with("secret", name));
                }
                values.push((format!("{{{{{placeholder}}}}}"), quote_text(secret.expose_secret())));
            }
            out.push(Ready { sql: fill(&statement.sql, &values), parameters: statement.parameters.clone() });
        }
        Ok(out)
    }
}

/// Replaces each placeholder by its value, once: what a value contains is never replaced again.
fn fill(sql: &str, values: &[(String, String)]) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    loop {
        let next = values
            .iter()
            .filter_map(|(placeholder, value)| rest.find(placeholder).map(|at| (at, placeholder, value)))
            .min_by_key(|(at, ..)| *at);
        let Some((at, placeholder, value)) = next else {
            out.push_str(rest);
            return out;
        };
        out.push_str(&rest[..at]);
        out.push_str(value);
        rest = &rest[at + placeholder.len()..];
    }
}

fn step(plan: &Plan, index: usize) -> Result<&PlanStep, Error> {
    plan.steps.get(index).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("the plan has {} steps, not {}", plan.steps.len(), index + 1))
    })
}

#[async_trait]
impl Execution for Running<'_> {
    async fn state(&mut self, ctx: &Context, plan: &Plan, index: usize) -> Result<StepState, Error> {
        let (digest, id) = (plan.digest().0, step(plan, index)?.id.clone());
        self.on_session(ctx, move |connection, stop| {
            state(connection, &digest, &id).map_err(|error| translate(&error, stop))
        })
        .await
    }

    async fn run(&mut self, ctx: &Context, permit: &Permit, plan: &Plan, index: usize) -> Result<u64, Error> {
        self.store.covers(ctx, permit, plan)?;
        let step = step(plan, index)?;
        let found = self.state(ctx, plan, index).await?;
        if found == StepState::Done {
            return Ok(0);
        }
        let record = Record { digest: plan.digest().0, step: step.id.clone(), now: ctx.now().to_string() };
        let statements = self.ready(ctx, &step.statements).await?;
        let rows_affected = match step.mode {
            StepMode::Transaction => {
                let run = move |connection: &mut Connection, stop: &Arc<Stop>| {
                    let done = run_in_transaction(connection, &record, &statements, stop);
                    restore(connection);
                    done
                };
                self.on_session(ctx, run).await
            }
            StepMode::Autocommit => {
                let is_done = match &step.is_done {
                    Some(question) => self.ready(ctx, std::slice::from_ref(question)).await?.pop(),
                    None => None,
                };
                let clean_up = self.ready(ctx, &step.clean_up).await?;
                let run = move |connection: &mut Connection, stop: &Arc<Stop>| {
                    let half = Half { found, is_done, clean_up };
                    let done = run_in_autocommit(connection, &record, &statements, &half, stop);
                    restore(connection);
                    done
                };
                self.on_session(ctx, run).await
            }
            StepMode::Batched(_) => {
                Err(Error::new(ErrorKind::Invalid, "the step runs in batches, one call each"))
            }
        };
        let rows_affected = rows_affected.map_err(|error| error.with("step", &step.id))?;
        tracing::info!(store = self.store.name, step = step.id, rows = rows_affected, "step done");
        Ok(rows_affected)
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
            self.store.covers(ctx, permit, plan)?;
        }
        let digest = plan.digest().0;
        if digest != self.plan {
            return Err(Error::new(ErrorKind::Forbidden, "this execution was begun for another plan"));
        }
        let step = step(plan, index)?;
        let StepMode::Batched(batches) = &step.mode else {
            return Err(
                Error::new(ErrorKind::Invalid, "the step does not run in batches").with("step", &step.id)
            );
        };
        let work = batch::Work {
            record: Record { digest, step: step.id.clone(), now: ctx.now().to_string() },
            batches: (**batches).clone(),
            statements: self.ready(ctx, &step.statements).await?,
            finish: self.ready(ctx, &batches.finish).await?,
            rows_max,
        };
        let run = move |connection: &mut Connection, stop: &Arc<Stop>| {
            let done = batch::run(connection, &work, stop);
            restore(connection);
            done
        };
        let batch = self.on_session(ctx, run).await.map_err(|error| error.with("step", &step.id))?;
        self.taken_up = Some(index);
        Ok(batch)
    }

    async fn finish(self: Box<Self>, _: &Context) -> Result<(), Error> {
        let session = Arc::clone(&self.session);
        drop(self);
        // Waits for a thread whose future was dropped, then closes the connection and gives the lock back.
        let closed = tokio::task::spawn_blocking(move || {
            drop(session.lock().unwrap_or_else(PoisonError::into_inner));
            drop(session);
        });
        closed.await.map_err(|_| Error::new(ErrorKind::Unavailable, "the runtime is shutting down"))
    }
}

fn state(connection: &Connection, digest: &str, step: &str) -> rusqlite::Result<StepState> {
    if !has_record_table(connection)? {
        return Ok(StepState::Pending);
    }
    let state: Option<String> = connection
        .query_row(include_str!("sql/step_state.sql"), [digest, step], |row| row.get(0))
        .optional()?;
    Ok(match state.as_deref() {
        None => StepState::Pending,
        Some("done") => StepState::Done,
        Some(_) => StepState::Started,
    })
}

fn has_record_table(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT count(*) > 0 FROM main.sqlite_schema WHERE type = 'table' AND name = 'steward_steps'",
        [],
        |row| row.get(0),
    )
}

/// Whether the record is there and has this column: one that an earlier version made may lack it.
pub(crate) fn has_record_column(connection: &Connection, column: &str) -> rusqlite::Result<bool> {
    connection.query_row(include_str!("sql/has_column.sql"), ["steward_steps", column], |row| row.get(0))
}

fn complete_record(connection: &Connection) -> rusqlite::Result<()> {
    for column in ["resume", "position"] {
        if !has_record_column(connection, column)? {
            connection.execute_batch(&format!("ALTER TABLE main.steward_steps ADD COLUMN {column} TEXT"))?;
        }
    }
    Ok(())
}

fn records(connection: &Connection, step_ids: &[String]) -> rusqlite::Result<u64> {
    if !has_record_table(connection)? {
        return Ok(0);
    }
    let mut count = connection.prepare("SELECT count(*) FROM main.steward_steps WHERE step = ?1")?;
    let ids: std::collections::BTreeSet<&String> = step_ids.iter().collect();
    ids.into_iter().map(|id| count.query_row([id], |row| count_at(row, 0))).sum()
}

pub(crate) struct Record {
    pub(crate) digest: String,
    pub(crate) step: String,
    pub(crate) now: String,
}

impl Record {
    fn started(&self, connection: &Connection) -> rusqlite::Result<()> {
        let values = (&self.digest, &self.step, &self.now);
        connection.execute(include_str!("sql/step_started.sql"), values).map(|_| ())
    }

    fn done(&self, connection: &Connection, rows_affected: Option<u64>) -> rusqlite::Result<()> {
        let rows_affected = rows_affected.map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
        let values = (&self.digest, &self.step, &self.now, rows_affected);
        connection.execute(include_str!("sql/step_done.sql"), values).map(|_| ())
    }
}

/// The statements and the record: all or nothing.
fn run_in_transaction(
    connection: &mut Connection,
    record: &Record,
    statements: &[Ready],
    stop: &Arc<Stop>,
) -> Result<u64, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let (statements, foreign_keys_off) = without_foreign_keys(statements);
    if foreign_keys_off {
        connection.execute_batch("PRAGMA foreign_keys = OFF").map_err(failed)?;
    }
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let violations = |connection: &Connection| -> Result<u64, Error> {
        if !foreign_keys_off {
            return Ok(0);
        }
        connection
            .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| count_at(row, 0))
            .map_err(failed)
    };
    let violations_before = violations(connection)?;
    connection.authorizer(Some(stay_in_transaction)).map_err(failed)?;
    let mut rows_affected = 0u64;
    for statement in statements {
        rows_affected = rows_affected.saturating_add(run_statement(connection, statement, stop)?);
        if connection.is_autocommit() {
            return Err(Error::new(ErrorKind::Invalid, "the statement ended the step's transaction"));
        }
    }
    allow_all(connection).map_err(failed)?;
    let violations_after = violations(connection)?;
    if violations_after > violations_before {
        return Err(Error::new(ErrorKind::Invalid, "the step would leave rows that refer to nothing")
            .with("violations_before", violations_before)
            .with("violations_after", violations_after)
            .hint("`PRAGMA foreign_key_check` lists them"));
    }
    record.done(connection, Some(rows_affected)).map_err(failed)?;
    connection.execute_batch("COMMIT").map_err(failed)?;
    Ok(rows_affected)
}

/// What is known of a step that may be half done.
struct Half {
    found: StepState,
    is_done: Option<Ready>,
    clean_up: Vec<Ready>,
}

/// Each statement on its own, with a record before and after.
fn run_in_autocommit(
    connection: &mut Connection,
    record: &Record,
    statements: &[Ready],
    half: &Half,
    stop: &Arc<Stop>,
) -> Result<u64, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    connection.authorizer(Some(stay_in_file)).map_err(failed)?;
    if half.found == StepState::Started {
        if let Some(question) = &half.is_done
            && is_true(connection, question, stop)?
        {
            record.done(connection, None).map_err(failed)?;
            return Ok(0);
        }
        for statement in &half.clean_up {
            run_alone(connection, statement, stop)?;
        }
    }
    record.started(connection).map_err(failed)?;
    let mut rows_affected = 0u64;
    for statement in statements {
        rows_affected = rows_affected.saturating_add(run_alone(connection, statement, stop)?);
    }
    record.done(connection, Some(rows_affected)).map_err(failed)?;
    Ok(rows_affected)
}

fn run_alone(connection: &mut Connection, statement: &Ready, stop: &Stop) -> Result<u64, Error> {
    let rows_affected = run_statement(connection, statement, stop)?;
    if connection.is_autocommit() {
        return Ok(rows_affected);
    }
    Err(Error::new(ErrorKind::Invalid, "the statement opened a transaction and left it open")
        .hint("use a transaction step"))
}

/// Translates for a statement of a step, where a refusal by the authorizer means something else than in a query.
fn of_step(error: &rusqlite::Error, stop: &Stop) -> Error {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::AuthorizationForStatementDenied) {
        return Error::new(ErrorKind::Denied, "the statement may not be part of a step").hint(
            "a step cannot control its transaction, attach other files, or set `foreign_keys` but at its very beginning",
        );
    }
    translate(error, stop)
}

/// Runs one statement to its end and gives the rows that it changed itself, without those of triggers.
pub(crate) fn run_statement(connection: &Connection, statement: &Ready, stop: &Stop) -> Result<u64, Error> {
    let failed = |error: rusqlite::Error| of_step(&error, stop);
    if statement.sql.contains('\0') {
        return Err(Error::new(ErrorKind::Invalid, "the statement contains a NUL character"));
    }
    let before = connection.total_changes();
    let mut prepared = match connection.prepare(&statement.sql) {
        // What follows the first statement may fail to be understood only because the first has not run yet.
        Err(rusqlite::Error::MultipleStatement) => return Err(more_than_one_statement()),
        other => other.map_err(failed)?,
    };
    bind(&mut prepared, &statement.parameters, stop)?;
    let mut rows = prepared.raw_query();
    while rows.next().map_err(failed)?.is_some() {}
    drop(rows);
    drop(prepared);
    // `changes` speaks of the last statement that changed rows; after another kind it would be an old answer. Making a
    // virtual table changes rows too, but only its module's own.
    let changes_rows = words(&statement.sql).first().is_some_and(|first| {
        ["INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"].iter().any(|keyword| first.is(keyword))
    });
    Ok(if changes_rows && connection.total_changes() > before { connection.changes() } else { 0 })
}

fn is_true(connection: &Connection, question: &Ready, stop: &Stop) -> Result<bool, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let mut prepared = connection.prepare(&question.sql).map_err(failed)?;
    if !prepared.readonly() {
        return Err(Error::new(ErrorKind::Invalid, "`is_done` must only read"));
    }
    bind(&mut prepared, &question.parameters, stop)?;
    let mut rows = prepared.raw_query();
    let answer = match rows.next().map_err(failed)? {
        Some(row) => matches!(row.get_ref(0).map_err(failed)?, ValueRef::Integer(number) if number != 0),
        None => false,
    };
    Ok(answer)
}

/// Rolls an open transaction back and takes back whatever the step set on the connection.
fn restore(connection: &mut Connection) {
    let restored = connection.progress_handler(0, None::<fn() -> bool>).and_then(|()| {
        allow_all(connection)?;
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        connection.execute_batch("PRAGMA foreign_keys = ON")
    });
    if let Err(error) = restored {
        // The step's own result is the one to report; a connection in this state fails at its next BEGIN.
        tracing::warn!(error = %error, "connection could not be restored after a step");
    }
}

pub(crate) fn allow_all(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)
}

/// A step's statements stay in its transaction and in its file.
pub(crate) fn stay_in_transaction(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => Authorization::Deny,
        // Within a transaction this does nothing and says nothing.
        AuthAction::Pragma { pragma_name, pragma_value: Some(_) }
            if pragma_name.eq_ignore_ascii_case("foreign_keys") =>
        {
            Authorization::Deny
        }
        _ => stay_in_file(context),
    }
}

/// No other file is read or written. `VACUUM` attaches a temporary one, which has no name.
fn stay_in_file(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Attach { filename } if !filename.is_empty() => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

/// Takes `PRAGMA foreign_keys = OFF` from the head of a step and `… = ON` from its end: rebuilding a table needs them,
/// and within a transaction SQLite ignores them silently.
///
/// Source: sqlite.org, "ALTER TABLE", "Making Other Kinds Of Table Schema Changes".
fn without_foreign_keys(statements: &[Ready]) -> (&[Ready], bool) {
    let sets = |statement: &Ready, values: &[&str]| {
        let words = words(&statement.sql);
        let words: Vec<String> =
            words.iter().filter(|word| !word.is_symbol(";")).map(|word| word.text.to_lowercase()).collect();
        words.len() == 4
            && words[..3] == ["pragma", "foreign_keys", "="]
            && values.contains(&words[3].as_str())
    };
    match statements {
        [first, rest @ ..] if sets(first, &["off", "0", "false", "no"]) => match rest {
            [middle @ .., last] if sets(last, &["on", "1", "true", "yes"]) => (middle, true),
            _ => (rest, true),
        },
        _ => (statements, false),
    }
}
