//! A store that fails on command, for tests of rooms.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Access, Batch, BatchProgress, Capabilities, Context, Error, ErrorKind, Execute, Execution, Explain,
    Health, HealthCheck, HealthScope, Integrity, IntegrityReport, LockHolder, Operate, Permit, Plan, Probe,
    Query, Relational, ReplicaLag, RowSets, RowTest, Rows, SecretSource, SlowAnswer, SlowStatements,
    StepState, Store,
};
use schema::{Dialect, Schema, Table};
use serde_json::Value;

/// What goes wrong in the next call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The call fails before it reaches the store.
    Refuse(ErrorKind),
    /// The call reaches the store and takes effect, but the connection is cut before the answer arrives.
    Cut,
    /// The answer comes only after this time; deadline and cancellation hold.
    Slow(Duration),
    /// Every number in the answer's rows is one too high.
    Lie,
}

/// Wraps a store; each call takes the next fault from the script, and works once the script is used up.
pub struct Faulty<S> {
    inner: S,
    script: Arc<Mutex<Vec<Option<Fault>>>>,
}

impl<S: Store> Faulty<S> {
    /// A store whose first call meets the first entry, and so on; `None` lets a call pass.
    pub fn new(inner: S, script: impl IntoIterator<Item = Option<Fault>>) -> Self {
        let mut script: Vec<_> = script.into_iter().collect();
        script.reverse();
        Self { inner, script: Arc::new(Mutex::new(script)) }
    }

    /// Faults and passes that no call has met yet.
    pub fn faults_left(&self) -> usize {
        self.script.lock().expect("no test panics with the script in hand").len()
    }

    async fn call<T>(&self, ctx: &Context, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let (result, _) = meet(&self.script, ctx, call).await;
        result
    }
}

fn next(script: &Mutex<Vec<Option<Fault>>>) -> Option<Fault> {
    script.lock().expect("no test panics with the script in hand").pop().flatten()
}

/// Runs `call` with the next fault; says whether the answer is to be falsified.
async fn meet<T>(
    script: &Mutex<Vec<Option<Fault>>>,
    ctx: &Context,
    call: impl Future<Output = Result<T, Error>>,
) -> (Result<T, Error>, bool) {
    let fault = next(script);
    let lie = matches!(fault, Some(Fault::Lie));
    let result = match fault {
        Some(Fault::Refuse(kind)) => Err(Error::new(kind, "the script refuses this call")),
        Some(Fault::Cut) => match call.await {
            Ok(_) => Err(Error::new(ErrorKind::Unavailable, "the connection was cut before the answer came")),
            Err(error) => Err(error),
        },
        Some(Fault::Slow(delay)) => {
            ctx.run(async {
                tokio::time::sleep(delay).await;
                call.await
            })
            .await
        }
        Some(Fault::Lie) | None => call.await,
    };
    (result, lie)
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self, ctx: &Context) -> Result<Probe, Error> {
        self.call(ctx, self.inner.probe(ctx)).await
    }

    fn relational(&self) -> Option<&dyn Relational> {
        self.inner.relational().map(|_| self as &dyn Relational)
    }

    fn execute(&self) -> Option<&dyn Execute> {
        self.inner.execute().map(|_| self as &dyn Execute)
    }

    fn integrity(&self) -> Option<&dyn Integrity> {
        self.inner.integrity().map(|_| self as &dyn Integrity)
    }

    fn access(&self) -> Option<&dyn Access> {
        self.inner.access()
    }

    fn operate(&self) -> Option<&dyn Operate> {
        self.inner.operate()
    }

    fn health(&self) -> Option<&dyn Health> {
        self.inner.health().map(|_| self as &dyn Health)
    }

    fn slow_statements(&self) -> Option<&dyn SlowStatements> {
        self.inner.slow_statements().map(|_| self as &dyn SlowStatements)
    }

    fn row_sets(&self) -> Option<&dyn RowSets> {
        self.inner.row_sets()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

impl<S: Store> Faulty<S> {
    fn inner_relational(&self) -> &dyn Relational {
        self.inner.relational().expect("the wrapper has the roles of what it wraps")
    }

    fn inner_execute(&self) -> &dyn Execute {
        self.inner.execute().expect("the wrapper has the roles of what it wraps")
    }
}

#[async_trait]
impl<S: Store> Relational for Faulty<S> {
    fn dialect(&self) -> Dialect {
        self.inner_relational().dialect()
    }

    fn quote_identifier(&self, name: &str) -> String {
        self.inner_relational().quote_identifier(name)
    }

    async fn inspect(&self, ctx: &Context) -> Result<Schema, Error> {
        self.call(ctx, self.inner_relational().inspect(ctx)).await
    }

    async fn query(&self, ctx: &Context, query: &Query) -> Result<Rows, Error> {
        let (rows, lie) = meet(&self.script, ctx, self.inner_relational().query(ctx, query)).await;
        let mut rows = rows?;
        if lie {
            for value in rows.rows.iter_mut().flatten() {
                if let Some(number) = value.as_i64() {
                    *value = Value::from(number + 1);
                }
            }
        }
        Ok(rows)
    }

    async fn explain(&self, ctx: &Context, sql: &str) -> Result<Explain, Error> {
        self.call(ctx, self.inner_relational().explain(ctx, sql)).await
    }
}

#[async_trait]
impl<S: Store> Health for Faulty<S> {
    async fn check_health(&self, ctx: &Context, scope: &HealthScope) -> Result<Vec<HealthCheck>, Error> {
        let inner = self.inner.health().expect("the wrapper has the roles of what it wraps");
        self.call(ctx, inner.check_health(ctx, scope)).await
    }
}

#[async_trait]
impl<S: Store> SlowStatements for Faulty<S> {
    async fn slow_statements(&self, ctx: &Context, statements_max: u32) -> Result<SlowAnswer, Error> {
        let inner = self.inner.slow_statements().expect("the wrapper has the roles of what it wraps");
        self.call(ctx, inner.slow_statements(ctx, statements_max)).await
    }
}

#[async_trait]
impl<S: Store> Integrity for Faulty<S> {
    async fn check_integrity(&self, ctx: &Context, limit: Duration) -> Result<IntegrityReport, Error> {
        let inner = self.inner.integrity().expect("the wrapper has the roles of what it wraps");
        self.call(ctx, inner.check_integrity(ctx, limit)).await
    }

    fn row_tests(&self, table: &Table) -> Vec<RowTest> {
        self.inner.integrity().map(|inner| inner.row_tests(table)).unwrap_or_default()
    }

    fn unindexed(&self, table: &str) -> String {
        self.inner.integrity().map_or_else(|| table.to_owned(), |inner| inner.unindexed(table))
    }
}

#[async_trait]
impl<S: Store> Execute for Faulty<S> {
    async fn progress(&self, ctx: &Context, plan: &Plan) -> Result<Vec<StepState>, Error> {
        self.call(ctx, self.inner_execute().progress(ctx, plan)).await
    }

    async fn records(&self, ctx: &Context, step_ids: &[&str]) -> Result<u64, Error> {
        self.call(ctx, self.inner_execute().records(ctx, step_ids)).await
    }

    async fn begin<'a>(
        &'a self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        secrets: Arc<dyn SecretSource>,
    ) -> Result<Box<dyn Execution + 'a>, Error> {
        let inner = self.call(ctx, self.inner_execute().begin(ctx, permit, plan, secrets)).await?;
        Ok(Box::new(FaultyExecution { inner, script: Arc::clone(&self.script) }))
    }

    async fn batches_begun(&self, ctx: &Context) -> Result<Vec<BatchProgress>, Error> {
        self.call(ctx, self.inner_execute().batches_begun(ctx)).await
    }

    async fn lock_holders(&self, ctx: &Context, tables: &[String]) -> Result<Vec<LockHolder>, Error> {
        self.call(ctx, self.inner_execute().lock_holders(ctx, tables)).await
    }
}

struct FaultyExecution<'a> {
    inner: Box<dyn Execution + 'a>,
    script: Arc<Mutex<Vec<Option<Fault>>>>,
}

#[async_trait]
impl Execution for FaultyExecution<'_> {
    async fn state(&mut self, ctx: &Context, plan: &Plan, index: usize) -> Result<StepState, Error> {
        let script = Arc::clone(&self.script);
        meet(&script, ctx, self.inner.state(ctx, plan, index)).await.0
    }

    async fn run(&mut self, ctx: &Context, permit: &Permit, plan: &Plan, index: usize) -> Result<u64, Error> {
        let script = Arc::clone(&self.script);
        meet(&script, ctx, self.inner.run(ctx, permit, plan, index)).await.0
    }

    async fn run_batch(
        &mut self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        index: usize,
        rows_max: u64,
    ) -> Result<Batch, Error> {
        let script = Arc::clone(&self.script);
        meet(&script, ctx, self.inner.run_batch(ctx, permit, plan, index, rows_max)).await.0
    }

    async fn replication(&mut self, ctx: &Context) -> Result<Vec<ReplicaLag>, Error> {
        let script = Arc::clone(&self.script);
        meet(&script, ctx, self.inner.replication(ctx)).await.0
    }

    async fn finish(self: Box<Self>, ctx: &Context) -> Result<(), Error> {
        let script = Arc::clone(&self.script);
        meet(&script, ctx, self.inner.finish(ctx)).await.0
    }
}
