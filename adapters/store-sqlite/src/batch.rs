//! Batched steps: the range of the next batch, its statements, and the record of how far the step has come.

use std::sync::Arc;

use contract::{Batch, BatchPosition, BatchProgress, Batches, Error, ErrorKind};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use serde_json::{Value, json};

use crate::error::translate;
use crate::execute::{Ready, Record, allow_all, has_record_column, run_statement, stay_in_transaction};
use crate::session::Stop;
use crate::store::bind;

/// What one batch needs to know.
pub(crate) struct Work {
    pub(crate) record: Record,
    pub(crate) batches: Batches,
    pub(crate) statements: Vec<Ready>,
    pub(crate) finish: Vec<Ready>,
    pub(crate) rows_max: u64,
}

fn placeholder(n: usize) -> String {
    format!("?{n}")
}

/// A value of a key as it can be bound again.
fn key_value(value: ValueRef<'_>) -> Result<Value, Error> {
    let refuse = |what: &str, hint: &str| Err(Error::new(ErrorKind::Unsupported, what).hint(hint));
    match value {
        ValueRef::Integer(number) => Ok(json!(number)),
        ValueRef::Real(number) => Ok(json!(number)),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(json!(text)),
            Err(_) => {
                refuse("the key of a batched step holds text that is not UTF-8", "cut the step by `rowid`")
            }
        },
        ValueRef::Null => refuse(
            "the key of a batched step holds a NULL",
            "cut the step by a unique key whose columns are NOT NULL, or by `rowid`",
        ),
        ValueRef::Blob(_) => refuse("the key of a batched step holds a BLOB", "cut the step by `rowid`"),
    }
}

/// The first row of the answer.
fn row(
    connection: &Connection,
    sql: &str,
    values: &[Value],
    stop: &Stop,
) -> Result<Option<Vec<Value>>, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let mut prepared = connection.prepare(sql).map_err(failed)?;
    bind(&mut prepared, values, stop)?;
    let columns = prepared.column_count();
    let mut rows = prepared.raw_query();
    let Some(row) = rows.next().map_err(failed)? else { return Ok(None) };
    (0..columns).map(|i| key_value(row.get_ref(i).map_err(failed)?)).collect::<Result<_, _>>().map(Some)
}

/// Where the step begins: up to the last row that is there now.
fn beginning(connection: &Connection, batches: &Batches, stop: &Stop) -> Result<BatchPosition, Error> {
    let order: Vec<String> = batches.key.iter().map(|column| format!("{column} DESC")).collect();
    let last = format!(
        "SELECT {} FROM {} ORDER BY {} LIMIT 1",
        batches.key.join(", "),
        batches.table,
        order.join(", ")
    );
    let last = row(connection, &last, &[], stop)?;
    Ok(BatchPosition { last, ..BatchPosition::default() })
}

/// Key of the last row of the next batch, and how many rows it has.
fn next_range(
    connection: &Connection,
    batches: &Batches,
    position: &BatchPosition,
    rows_max: u64,
    stop: &Stop,
) -> Result<Option<(Vec<Value>, u64)>, Error> {
    let Some(last) = &position.last else { return Ok(None) };
    let (condition, values) = batches.range(position.after.as_deref(), Some(last), 1, placeholder);
    let keys: Vec<String> = batches
        .key
        .iter()
        .enumerate()
        .map(|(i, column)| format!("{column} AS \"steward key {i}\""))
        .collect();
    let names: Vec<String> = (0..keys.len()).map(|i| format!("\"steward key {i}\"")).collect();
    let order = batches.key.join(", ");
    let sql = format!(
        "SELECT {}, \"steward number\" FROM (SELECT {}, row_number() OVER (ORDER BY {order}) AS \"steward number\" FROM {} WHERE {condition} \
         ORDER BY {order} LIMIT {}) ORDER BY \"steward number\" DESC LIMIT 1",
        names.join(", "),
        keys.join(", "),
        batches.table,
        rows_max.max(1)
    );
    let Some(mut key) = row(connection, &sql, &values, stop)? else { return Ok(None) };
    let rows = key.pop().and_then(|number| number.as_u64()).unwrap_or(0);
    Ok(Some((key, rows)))
}

fn position_of(text: Option<String>) -> Result<BatchPosition, Error> {
    text.and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "the record of a batched step does not say how far it has come")
            .hint("the table `steward_steps` was changed by hand")
    })
}

/// Batched steps that have not come to their end.
pub(crate) fn begun(connection: &Connection, stop: &Stop) -> Result<Vec<BatchProgress>, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    if !has_record_column(connection, "position").map_err(failed)? {
        return Ok(Vec::new());
    }
    let mut prepared = connection.prepare(include_str!("sql/batches_begun.sql")).map_err(failed)?;
    let mut rows = prepared.raw_query();
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let position = position_of(row.get(2).map_err(failed)?)?;
        out.push(position.progress(
            row.get(0).map_err(failed)?,
            row.get(1).map_err(failed)?,
            row.get(3).map_err(failed)?,
        ));
    }
    Ok(out)
}

/// How far the step has come, and whether it has ended; takes an unfinished one of the same name over.
fn position(connection: &Connection, work: &Work, stop: &Stop) -> Result<(BatchPosition, bool), Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let record = &work.record;
    let found = connection
        .query_row(
            include_str!("sql/batch_find.sql"),
            (&record.digest, &record.step, &work.batches.resume),
            |row| {
                Ok((
                    row.get::<_, bool>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, bool>(3)?,
                    row.get::<_, Option<String>>(4)?,
                ))
            },
        )
        .optional()
        .map_err(failed)?;
    let Some((own, plan, id, done, text)) = found else {
        return Ok((beginning(connection, &work.batches, stop)?, false));
    };
    if done {
        return Ok((position_of(text).unwrap_or_default(), true));
    }
    let position = position_of(text)?;
    if !own {
        tracing::info!(step = record.step, from = plan, rows = position.rows_seen, "batched step taken over");
        let take_over = include_str!("sql/batch_take_over.sql");
        connection.execute(take_over, (&plan, &id, &record.digest, &record.step)).map_err(failed)?;
    }
    Ok((position, false))
}

/// Rows of the table, if the step is new: counted before the batch takes the write lock, for it may take a while.
fn rows_expected(connection: &Connection, work: &Work, stop: &Stop) -> Result<u64, Error> {
    let values = (&work.record.digest, &work.record.step, &work.batches.resume);
    let known = connection.query_row(include_str!("sql/batch_find.sql"), values, |_| Ok(())).optional();
    if known.map_err(|error| translate(&error, stop))?.is_some() {
        return Ok(0);
    }
    let count = row(connection, &format!("SELECT count(*) FROM {}", work.batches.table), &[], stop)?;
    Ok(count.and_then(|row| row[0].as_u64()).unwrap_or(0))
}

/// One batch with its record, all or nothing.
pub(crate) fn run(connection: &mut Connection, work: &Work, stop: &Arc<Stop>) -> Result<Batch, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let rows_expected = rows_expected(connection, work, stop)?;
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let (mut position, done) = position(connection, work, stop)?;
    position.rows_expected = position.rows_expected.max(rows_expected);
    let record = &work.record;
    let progress = |position: &BatchPosition| {
        position.progress(record.digest.clone(), record.step.clone(), String::new())
    };
    let mut batch = Batch { done, rows_affected: 0, sessions_waiting: 0, progress: progress(&position) };
    if done {
        connection.execute_batch("COMMIT").map_err(failed)?;
        return Ok(batch);
    }
    let next = next_range(connection, &work.batches, &position, work.rows_max, stop)?;
    connection.authorizer(Some(stay_in_transaction)).map_err(failed)?;
    let run = |statement: &Ready| -> Result<u64, Error> {
        let rows = run_statement(connection, statement, stop)?;
        if connection.is_autocommit() {
            return Err(Error::new(ErrorKind::Invalid, "the statement ended the batch's transaction"));
        }
        Ok(rows)
    };
    if let Some((upto, rows)) = next {
        for ready in &work.statements {
            let statement = contract::Statement::with_parameters(&ready.sql, ready.parameters.clone());
            let statement = work.batches.statement(&statement, position.after.as_deref(), &upto, placeholder);
            let ready = Ready { sql: statement.sql, parameters: statement.parameters };
            batch.rows_affected = batch.rows_affected.saturating_add(run(&ready)?);
        }
        position.batches += 1;
        position.rows_seen += rows;
        position.after = Some(upto);
        batch.done = rows < work.rows_max;
    } else {
        batch.done = true;
    }
    if batch.done {
        for statement in &work.finish {
            run(statement)?;
        }
    }
    allow_all(connection).map_err(failed)?;
    position.rows_affected += batch.rows_affected;
    position.updated_at.clone_from(&record.now);
    let state = if batch.done { "done" } else { "started" };
    let text = serde_json::to_string(&position).expect("a position holds only JSON values");
    let rows = i64::try_from(position.rows_affected).unwrap_or(i64::MAX);
    connection
        .execute(
            include_str!("sql/batch_done.sql"),
            (&record.digest, &record.step, state, &record.now, rows, &work.batches.resume, text),
        )
        .map_err(failed)?;
    connection.execute_batch("COMMIT").map_err(failed)?;
    batch.progress = progress(&position);
    Ok(batch)
}
