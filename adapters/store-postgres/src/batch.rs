//! Batched steps: the range of the next batch, its statements, and the record of how far the step has come.

use contract::{Batch, BatchPosition, BatchProgress, Batches, Context, Error, ErrorKind, PlanStep};
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::error::translate;
use crate::execute::PostgresExecution;
use crate::statement::TextValue;

fn placeholder(n: usize) -> String {
    format!("${n}")
}

/// The columns as the server's texts, which it reads back as the same values. They get no name of a column: ORDER BY
/// would sort by the text.
fn texts(key: &[String]) -> String {
    let text = |(i, column)| format!("{column}::text AS \"steward text {i}\"");
    key.iter().enumerate().map(text).collect::<Vec<_>>().join(", ")
}

/// One row of texts, without its last column if `counted`.
async fn key_row(
    client: &Client,
    sql: &str,
    values: &[Value],
    columns: usize,
) -> Result<Option<(Vec<Value>, i64)>, Error> {
    let values = values.iter().map(TextValue::new).collect::<Result<Vec<_>, _>>()?;
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
    let row = client.query_opt(sql, &values).await.map_err(|error| translate(&error))?;
    let Some(row) = row else { return Ok(None) };
    let mut key = Vec::with_capacity(columns);
    for i in 0..columns {
        let text = row.get::<_, Option<String>>(i).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "the key of a batched step holds a NULL")
                .hint("cut the step by a unique key whose columns are NOT NULL")
        })?;
        key.push(json!(text));
    }
    let count = if row.len() > columns { row.get::<_, i64>(columns) } else { 0 };
    Ok(Some((key, count)))
}

/// Where the step begins: up to the last row that is there now.
async fn beginning(client: &Client, batches: &Batches) -> Result<BatchPosition, Error> {
    let order: Vec<String> = batches.key.iter().map(|column| format!("{column} DESC")).collect();
    let last = format!(
        "SELECT {} FROM {} ORDER BY {} LIMIT 1",
        texts(&batches.key),
        batches.table,
        order.join(", ")
    );
    let last = key_row(client, &last, &[], batches.key.len()).await?.map(|(key, _)| key);
    // An alias may follow the name, which servers before 16 refuse to read as one; then there is no estimate.
    let named = Some(&batches.table).filter(|table| !table.contains(char::is_whitespace));
    let expected = "SELECT coalesce((SELECT reltuples::bigint FROM pg_catalog.pg_class WHERE oid = \
                    pg_catalog.to_regclass($1)), 0)";
    let expected = match client.query_one(expected, &[&named]).await {
        Ok(row) => row.get::<_, i64>(0),
        Err(error) => return Err(translate(&error)),
    };
    Ok(BatchPosition {
        last,
        rows_expected: u64::try_from(expected).unwrap_or(0),
        ..BatchPosition::default()
    })
}

/// Key of the last row of the next batch, and how many rows it has.
async fn next_range(
    client: &Client,
    batches: &Batches,
    position: &BatchPosition,
    rows_max: u64,
) -> Result<Option<(Vec<Value>, u64)>, Error> {
    let Some(last) = &position.last else { return Ok(None) };
    let (condition, values) = batches.range(position.after.as_deref(), Some(last), 1, placeholder);
    let (key, names): (Vec<String>, Vec<String>) = batches
        .key
        .iter()
        .enumerate()
        .map(|(i, column)| (format!("{column} AS \"steward key {i}\""), format!("\"steward key {i}\"")))
        .unzip();
    let order = batches.key.join(", ");
    // The numbers come out of the same index scan that the limit stops.
    let sql = format!(
        "SELECT {}, \"steward number\" FROM (SELECT {}, row_number() OVER (ORDER BY {order}) AS \"steward number\" FROM {} WHERE {condition} \
         ORDER BY {order} LIMIT {}) AS batch ORDER BY \"steward number\" DESC LIMIT 1",
        texts(&names),
        key.join(", "),
        batches.table,
        rows_max.max(1)
    );
    let row = key_row(client, &sql, &values, batches.key.len()).await?;
    Ok(row.map(|(key, rows)| (key, u64::try_from(rows).unwrap_or(0))))
}

fn position_of(text: Option<String>) -> Result<BatchPosition, Error> {
    text.and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "the record of a batched step does not say how far it has come")
            .hint("the table `steward.steward_steps` was changed by hand")
    })
}

/// Batched steps that have not come to their end.
pub(crate) async fn begun(client: &Client) -> Result<Vec<BatchProgress>, Error> {
    let rows = client.query(include_str!("sql/batches_begun.sql"), &[]).await;
    let rows = rows.map_err(|error| translate(&error))?;
    rows.iter()
        .map(|row| {
            let position = position_of(row.get("position"))?;
            Ok(position.progress(row.get("plan"), row.get("step"), row.get("started_at")))
        })
        .collect()
}

impl PostgresExecution<'_> {
    /// One batch with its record, all or nothing.
    pub(crate) async fn run_one_batch(
        &self,
        ctx: &Context,
        step: &PlanStep,
        batches: &Batches,
        rows_max: u64,
    ) -> Result<Batch, Error> {
        let batch = self
            .store
            .within(ctx, async {
                let secrets = self.secrets_of(ctx, step.statements.iter().chain(&batches.finish)).await?;
                self.begin(ctx).await?;
                self.holds_lock().await?;
                let client = &self.session.client;
                let (mut position, done) = self.position(step, batches).await?;
                let mut batch = Batch {
                    done,
                    rows_affected: 0,
                    sessions_waiting: 0,
                    progress: self.progress(step, &position),
                };
                if done {
                    return Ok(batch);
                }
                let next = next_range(client, batches, &position, rows_max).await?;
                if let Some((upto, rows)) = next {
                    for statement in &step.statements {
                        let after = position.after.as_deref();
                        let statement = batches.statement(statement, after, &upto, placeholder);
                        batch.rows_affected += self.execute(&statement, &secrets).await?;
                    }
                    position.batches += 1;
                    position.rows_seen += rows;
                    position.after = Some(upto);
                    batch.done = rows < rows_max;
                } else {
                    batch.done = true;
                }
                position.rows_affected += batch.rows_affected;
                position.updated_at = ctx.now().to_string();
                if batch.done {
                    for statement in &batches.finish {
                        self.execute(statement, &secrets).await?;
                    }
                }
                // What the statements may have set must not touch the record.
                self.batch("RESET SESSION AUTHORIZATION; RESET ROLE").await?;
                self.record_batch(step, batches, &position, batch.done).await?;
                let waiting = client.query_one(include_str!("sql/waiting_for_us.sql"), &[]).await;
                let waiting = waiting.map_err(|error| translate(&error))?.get::<_, i64>(0);
                batch.sessions_waiting = u64::try_from(waiting).unwrap_or(0);
                batch.progress = self.progress(step, &position);
                Ok(batch)
            })
            .await?;
        self.commit().await?;
        Ok(batch)
    }

    /// How far the step has come, and whether it has ended; takes an unfinished one of the same name over.
    async fn position(&self, step: &PlanStep, batches: &Batches) -> Result<(BatchPosition, bool), Error> {
        let client = &self.session.client;
        let find = include_str!("sql/batch_find.sql");
        let found = client.query_opt(find, &[&self.plan.0, &step.id, &batches.resume]).await;
        let Some(row) = found.map_err(|error| translate(&error))? else {
            return Ok((beginning(client, batches).await?, false));
        };
        let done: bool = row.get("done");
        if done {
            return Ok((position_of(row.get("position")).unwrap_or_default(), true));
        }
        let position = position_of(row.get("position"))?;
        if !row.get::<_, bool>("own") {
            let (plan, id): (String, String) = (row.get("plan"), row.get("step"));
            tracing::info!(step = step.id, from = plan, rows = position.rows_seen, "batched step taken over");
            let take_over = include_str!("sql/batch_take_over.sql");
            let taken = client.execute(take_over, &[&plan, &id, &self.plan.0, &step.id]).await;
            taken.map_err(|error| translate(&error))?;
        }
        Ok((position, false))
    }

    async fn record_batch(
        &self,
        step: &PlanStep,
        batches: &Batches,
        position: &BatchPosition,
        done: bool,
    ) -> Result<(), Error> {
        let state = if done { "done" } else { "started" };
        let rows = i64::try_from(position.rows_affected).unwrap_or(i64::MAX);
        let text = serde_json::to_string(position).expect("a position holds only JSON values");
        let record = include_str!("sql/batch_done.sql");
        let values: [&(dyn ToSql + Sync); 6] =
            [&self.plan.0, &step.id, &state, &rows, &batches.resume, &text];
        let recorded = self.session.client.execute(record, &values).await;
        recorded.map(drop).map_err(|error| translate(&error))
    }

    fn progress(&self, step: &PlanStep, position: &BatchPosition) -> BatchProgress {
        position.progress(self.plan.0.clone(), step.id.clone(), String::new())
    }
}
