//! Reference store for tests of rooms: answers with what it was told, under the same contract as a real one.

use std::collections::BTreeMap;
use std::time::Instant;

use async_trait::async_trait;
use contract::{
    Capabilities, Capability, Context, Error, ErrorKind, Explain, Login, Probe, Query, Relational, Rows,
    Store, Truncation,
};
use schema::{Dialect, Schema};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// The kind that it reports.
pub const KIND: &str = "memory";

/// A store that holds no more than the answers it was given.
pub struct MemoryStore {
    name: String,
    schema: Option<Schema>,
    answers: BTreeMap<String, Rows>,
    closed: CancellationToken,
}

impl MemoryStore {
    /// A store that can be probed and nothing else.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            schema: None,
            answers: BTreeMap::new(),
            closed: CancellationToken::new(),
        }
    }

    /// The same, which `inspect` finds to have this schema.
    #[must_use]
    pub fn with_schema(mut self, schema: Schema) -> Self {
        self.schema = Some(schema);
        self
    }

    /// The same, which answers this statement, whatever its values, with these columns and rows.
    #[must_use]
    pub fn with_answer(mut self, sql: &str, columns: &[&str], rows: Vec<Vec<Value>>) -> Self {
        let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        assert!(rows.iter().all(|row| row.len() == columns.len()), "every row has a value for each column");
        let types = vec![String::new(); columns.len()];
        self.answers.insert(sql.to_owned(), Rows { columns, types, rows, truncated: None, elapsed_ms: 0.0 });
        self
    }

    async fn call<T>(&self, ctx: &Context, answer: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        if self.closed.is_cancelled() {
            return Err(Error::new(ErrorKind::Canceled, "the store was closed").with("store", &self.name));
        }
        // Without anything to wait for, the timer would be asked too late.
        if ctx.remaining().is_some_and(|remaining| remaining.is_zero()) && !ctx.cancellation().is_cancelled()
        {
            return Err(Error::new(ErrorKind::TimedOut, "the deadline passed"));
        }
        ctx.run(async { answer() }).await
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let inspect = self.schema.is_some().then_some(Capability::Inspect);
        let query = (!self.answers.is_empty()).then_some(Capability::Query);
        inspect.into_iter().chain(query).collect()
    }

    async fn probe(&self, ctx: &Context) -> Result<Probe, Error> {
        let started = Instant::now();
        self.call(ctx, || {
            Ok(Probe {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                address: "this process".to_owned(),
                identity: format!("memory:{}", self.name),
                reader: Login { user: "test".to_owned(), superuser: false, owner: false, can_write: false },
                writer: None,
                read_only_by: "there is nothing to write to".to_owned(),
                encrypted: false,
                connect_ms: started.elapsed().as_secs_f64() * 1_000.0,
                pooler: None,
                standby: None,
            })
        })
        .await
    }

    fn relational(&self) -> Option<&dyn Relational> {
        Some(self)
    }

    async fn close(&self) {
        self.closed.cancel();
    }
}

#[async_trait]
impl Relational for MemoryStore {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn quote_identifier(&self, name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    async fn inspect(&self, ctx: &Context) -> Result<Schema, Error> {
        self.call(ctx, || {
            self.schema.clone().ok_or_else(|| {
                self.unsupported("inspect", "no schema was given", "give one with `MemoryStore::with_schema`")
            })
        })
        .await
    }

    async fn query(&self, ctx: &Context, query: &Query) -> Result<Rows, Error> {
        let answer = || {
            if self.answers.is_empty() {
                let instead = "give an answer with `MemoryStore::with_answer`";
                return Err(self.unsupported("query", "there is no SQL engine", instead));
            }
            let rows = self.answers.get(&query.sql).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "no answer was given for this statement")
                    .with("statement", &query.sql)
                    .hint("give one with `MemoryStore::with_answer`")
            })?;
            Ok(cut(rows.clone(), query))
        };
        self.call(ctx, answer).await
    }

    async fn explain(&self, ctx: &Context, _: &str) -> Result<Explain, Error> {
        let instead = "use `store-sqlite` on a temporary file";
        self.call(ctx, || Err(self.unsupported("explain", "there is no SQL engine", instead))).await
    }
}

fn cut(mut rows: Rows, query: &Query) -> Rows {
    let mut bytes = 0usize;
    let fits = rows.rows.iter().position(|row| {
        bytes += row.iter().map(|value| value.as_str().map_or(8, str::len)).sum::<usize>();
        bytes > query.limits.bytes_max
    });
    let (most, cut_by) = match fits {
        Some(at) if at < query.limits.rows_max => (at, Truncation::Bytes),
        _ => (query.limits.rows_max, Truncation::Rows),
    };
    if rows.rows.len() > most {
        rows.rows.truncate(most);
        rows.truncated = Some(cut_by);
    }
    rows
}
