//! Runs one step of a plan: again when a lock did not come, and in batches when it has many rows to change.

use std::time::{Duration, Instant};

use contract::{
    Batches, Context, Error, ErrorKind, Execution, LockHolder, Permit, Plan, Retry, StepMode, Store,
};

use crate::locks::end_of_holder;
use crate::pace::{LAG_LOOK, Pacer, Replicas, backoff};
use crate::prestate::Scope;

/// Sessions that an error names.
const HOLDERS_SHOWN_MAX: usize = 3;
/// Progress of a batched step is logged this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What running a step took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) rows_affected: u64,
    /// Attempts that did not get a lock.
    pub(crate) lock_waits: u64,
    /// Batches that were committed now.
    pub(crate) batches: u64,
    /// Time spent waiting for replicas, in milliseconds.
    pub(crate) replica_wait_ms: u64,
}

/// A plan that is being carried out.
pub(crate) struct Run<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) store: &'a dyn Store,
    pub(crate) permit: &'a Permit,
    pub(crate) plan: &'a Plan,
    /// Attempts at a lock, from the plan's arguments.
    pub(crate) attempts_max: u32,
}

impl<'a> Run<'a> {
    pub(crate) fn new(ctx: &'a Context, store: &'a dyn Store, permit: &'a Permit, plan: &'a Plan) -> Self {
        let attempts = plan.arguments["lock_attempts"].as_u64().unwrap_or(1);
        let attempts_max = u32::try_from(attempts).unwrap_or(u32::MAX).max(1);
        Self { ctx, store, permit, plan, attempts_max }
    }

    /// Runs step `index` to its end.
    ///
    /// # Errors
    ///
    /// As [`Execution::run`]; `TimedOut` also when a lock did not come in all attempts, with who holds it, or when a replica
    /// stayed behind for too long. What was committed stays and is recorded.
    pub(crate) async fn step(&self, execution: &mut dyn Execution, index: usize) -> Result<Ran, Error> {
        let mut ran = Ran::default();
        match &self.plan.steps[index].mode {
            StepMode::Batched(batches) => self.batched(execution, index, batches, &mut ran).await?,
            StepMode::Transaction | StepMode::Autocommit => loop {
                match execution.run(self.ctx, self.permit, self.plan, index).await {
                    Ok(rows) => {
                        ran.rows_affected = rows;
                        break;
                    }
                    Err(error) => self.again(error, &mut ran).await?,
                }
            },
        }
        Ok(ran)
    }

    async fn batched(
        &self,
        execution: &mut dyn Execution,
        index: usize,
        batches: &Batches,
        ran: &mut Ran,
    ) -> Result<(), Error> {
        let mut pacer = Pacer::new(batches);
        let mut told = Instant::now();
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let batch = execution.run_batch(self.ctx, self.permit, self.plan, index, pacer.rows()).await;
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    pacer.failed();
                    // The attempts count from the last batch that went through.
                    let mut since = Ran { lock_waits: failures, ..Ran::default() };
                    self.again(error, &mut since).await?;
                    failures = since.lock_waits;
                    ran.lock_waits += 1;
                    continue;
                }
            };
            failures = 0;
            ran.rows_affected += batch.rows_affected;
            ran.batches += 1;
            if batch.done {
                return Ok(());
            }
            let pause = pacer.took(started.elapsed(), batch.sessions_waiting);
            if told.elapsed() > PROGRESS_EVERY {
                told = Instant::now();
                let (rows, percent) = (batch.progress.rows_seen, batch.progress.percent());
                tracing::info!(
                    step = batch.progress.step,
                    rows,
                    percent,
                    batch_rows = pacer.rows(),
                    "step goes on"
                );
            }
            self.let_replicas_catch_up(execution, &pacer, batches, pause, ran).await?;
        }
    }

    /// Waits between two batches: the pause, and until no replica is too far behind.
    async fn let_replicas_catch_up(
        &self,
        execution: &mut dyn Execution,
        pacer: &Pacer<'_>,
        batches: &Batches,
        mut pause: Duration,
        ran: &mut Ran,
    ) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let lags = execution.replication(self.ctx).await?;
            match pacer.replicas(&lags) {
                Replicas::KeepUp => return self.wait(pause).await,
                Replicas::Hidden => return self.wait(Pacer::blind(pause)).await,
                Replicas::Behind(lag)
                    if started.elapsed() < Duration::from_millis(batches.lag_wait_ms_max) =>
                {
                    tracing::debug!(
                        replica = lag.replica,
                        bytes = lag.bytes,
                        ms = lag.ms,
                        "a replica is behind"
                    );
                    self.wait(LAG_LOOK).await?;
                    pause = Duration::ZERO;
                    ran.replica_wait_ms += u64::try_from(LAG_LOOK.as_millis()).unwrap_or(0);
                }
                Replicas::Behind(lag) => {
                    let error = Error::new(
                        ErrorKind::TimedOut,
                        format!("replica `{}` does not keep up", lag.replica),
                    );
                    let error =
                        lag.bytes.iter().fold(error, |error, bytes| error.with("bytes_behind", bytes));
                    return Err(error
                        .with("lag_wait_ms_max", batches.lag_wait_ms_max)
                        .hint("the batches so far stay done; look after the replica, then ask again: the rest follows"));
                }
            }
        }
    }

    async fn wait(&self, time: Duration) -> Result<(), Error> {
        if time.is_zero() {
            return Ok(());
        }
        self.ctx
            .run(async {
                tokio::time::sleep(time).await;
                Ok(())
            })
            .await
    }

    /// Waits before another attempt, if there is to be one; otherwise gives the error back, with who is in the way.
    async fn again(&self, error: Error, ran: &mut Ran) -> Result<(), Error> {
        let worth_it = error.retry() != Retry::Never
            && matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Conflict);
        if !worth_it {
            return Err(error);
        }
        ran.lock_waits += 1;
        let attempt = u32::try_from(ran.lock_waits).unwrap_or(u32::MAX);
        if attempt >= self.attempts_max {
            return Err(self.with_holders(error, attempt).await);
        }
        // Where the wait ends need not be a good random number, only another one in each process and at each time.
        let chance = self.ctx.now().as_nanosecond().unsigned_abs() / 1_000 + u128::from(std::process::id());
        let pause = backoff(attempt + 1, u64::try_from(chance % 1_000).unwrap_or(0));
        tracing::warn!(attempt, error = %error, "a lock did not come; trying again");
        self.wait(pause).await.map_err(|_| error)
    }

    async fn with_holders(&self, error: Error, attempts: u32) -> Error {
        let error = error.with("attempts", attempts);
        let holders = holders(self.ctx, self.store, self.plan).await;
        // Whoever has just asked is no longer in the way.
        let holding: Vec<&LockHolder> = holders.iter().filter(|holder| !holder.waiting).collect();
        let shown =
            holding.iter().take(HOLDERS_SHOWN_MAX).fold(error, |error, holder| error.with("lock", holder));
        match holding.first() {
            None => shown,
            Some(first) => shown.hint(format!(
                "nothing of this step remains; wait for pid {} to end, or end it: {}; then ask again",
                first.pid,
                end_of_holder(self.store.name(), first)
            )),
        }
    }
}

/// Sessions with locks on the tables that a plan touches; nobody when that cannot be found out.
pub(crate) async fn holders(ctx: &Context, store: &dyn Store, plan: &Plan) -> Vec<LockHolder> {
    let (Some(tables), Some(execute)) = (Scope::of(plan).tables, store.execute()) else { return Vec::new() };
    if tables.is_empty() {
        return Vec::new();
    }
    execute.lock_holders(ctx, &tables).await.unwrap_or_else(|error| {
        // It only adds to another answer.
        tracing::debug!(error = %error, "nobody can say who holds locks");
        Vec::new()
    })
}
