//! The rows of tables as text, in ranges of pages, and what they come to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use contract::{Error, ErrorKind, PART_BYTES_MAX, RowSum};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::error::translate;

/// Bytes of a table's pages that one range holds.
const RANGE_BYTES: u64 = 8 << 20;
/// Large objects are counted and written in pieces of this length.
pub(crate) const PIECE_BYTES: i64 = 256 << 10;

/// Settings under which the same values are the same text on every server; and row security, which would leave rows
/// out, is an error.
pub(crate) const SETTINGS: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; \
     SET extra_float_digits = 3; SET bytea_output = 'hex'; SET xmloption = 'content'; SET row_security = off; \
     SET standard_conforming_strings = on; SET synchronize_seqscans = off; SET statement_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET search_path = ''";

/// A table whose rows are in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// Quoted, with its namespace.
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Where its parts are, below the folder of all rows.
    pub(crate) folder: String,
    /// Quoted; without generated ones.
    pub(crate) columns: Vec<String>,
    /// Which rows alone, of a table that an extension fills itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) condition: String,
    /// Tables that it is a partition or child of, also of theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parents: Vec<String>,
    /// Pages when it was dumped; 0 where it is not read by pages.
    #[serde(default)]
    pub(crate) pages: u64,
}

impl Table {
    /// `COPY` takes this after the table's name.
    pub(crate) fn column_list(&self) -> String {
        if self.columns.is_empty() { String::new() } else { format!("({})", self.columns.join(", ")) }
    }
}

/// Rows of one table whose pages are next to each other.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    /// Index of the table.
    pub(crate) table: usize,
    /// Counted per table.
    pub(crate) number: usize,
    pub(crate) sql: String,
}

/// Cuts tables into ranges. The last one is open: a table that has grown since is read to its end.
pub(crate) fn ranges(tables: &[Table], page_bytes: u64) -> Vec<Range> {
    let step = (RANGE_BYTES / page_bytes.max(1)).max(1);
    let mut ranges = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let count = if table.condition.is_empty() { table.pages.div_ceil(step).max(1) } else { 1 };
        for number in 0..count {
            let mut conditions = Vec::new();
            if number > 0 {
                conditions.push(format!("ctid >= '({},0)'::pg_catalog.tid", number * step));
            }
            if number + 1 < count {
                conditions.push(format!("ctid < '({},0)'::pg_catalog.tid", (number + 1) * step));
            }
            let condition = match (table.condition.as_str(), conditions.is_empty()) {
                ("", true) => String::new(),
                ("", false) => format!(" WHERE {}", conditions.join(" AND ")),
                // The extension's words, which begin with WHERE.
                (words, _) => format!(" {words}"),
            };
            let sql = format!(
                "COPY (SELECT {} FROM ONLY {}{condition}) TO STDOUT",
                table.columns.join(", "),
                table.name
            );
            ranges.push(Range { table: index, number: usize::try_from(number).unwrap_or(usize::MAX), sql });
        }
    }
    ranges
}

/// A piece of a range's text: whole rows, at most [`PART_BYTES_MAX`], or one row that is longer.
pub(crate) enum Piece {
    Rows(Bytes),
    /// The range came to its end; without this it did not.
    End,
}

/// Reads ranges over several sessions at once.
pub(crate) struct Reading {
    pieces: Vec<mpsc::Receiver<Piece>>,
    workers: JoinSet<Result<Vec<(usize, RowSum)>, Error>>,
}

impl Reading {
    /// Begins to read; each client reads one range after the other. What nobody takes is not read on.
    pub(crate) fn begin(clients: Vec<Client>, ranges: &Arc<Vec<Range>>) -> Self {
        let (mut senders, mut pieces) = (Vec::new(), Vec::new());
        for _ in 0..ranges.len() {
            let (sender, receiver) = mpsc::channel(1);
            senders.push(std::sync::Mutex::new(Some(sender)));
            pieces.push(receiver);
        }
        let (senders, next) = (Arc::new(senders), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for client in clients {
            let (ranges, senders, next) = (Arc::clone(ranges), Arc::clone(&senders), Arc::clone(&next));
            workers.spawn(async move {
                let mut counted = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(range) = ranges.get(index) else { return Ok(counted) };
                    let sender = senders[index].lock().ok().and_then(|mut sender| sender.take());
                    let Some(sender) = sender else { return Ok(counted) };
                    match read(&client, &range.sql, &sender).await {
                        Ok(Some(sum)) => counted.push((range.table, sum)),
                        // Nobody listens any more.
                        Ok(None) => return Ok(counted),
                        Err(error) => return Err(error),
                    }
                }
            });
        }
        Self { pieces, workers }
    }

    /// The next piece of a range, `None` at its end. Ranges are asked for in their order.
    pub(crate) async fn next(&mut self, range: usize) -> Result<Option<Bytes>, Error> {
        match self.pieces[range].recv().await {
            Some(Piece::Rows(rows)) => Ok(Some(rows)),
            Some(Piece::End) => Ok(None),
            None => Err(self.why().await),
        }
    }

    /// What each table came to; all ranges must have been taken.
    pub(crate) async fn end(mut self) -> Result<Vec<(usize, RowSum)>, Error> {
        let mut counted = Vec::new();
        while let Some(ended) = self.workers.join_next().await {
            counted.extend(ended.unwrap_or_else(|_| Err(stopped()))?);
        }
        Ok(counted)
    }

    /// Why a range broke off.
    async fn why(&mut self) -> Error {
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended.unwrap_or_else(|_| Err(stopped())) {
                return error;
            }
        }
        stopped()
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Canceled, "reading was stopped")
}

/// Reads one range; `None` when nobody takes its pieces.
async fn read(client: &Client, sql: &str, pieces: &mpsc::Sender<Piece>) -> Result<Option<RowSum>, Error> {
    let mut sum = RowSum::default();
    let mut rows = std::pin::pin!(client.copy_out(sql).await.map_err(|error| translate(&error))?);
    let mut gathered = BytesMut::new();
    loop {
        let message = rows.next().await.transpose().map_err(|error| translate(&error))?;
        let full = message.as_ref().is_none_or(|message| gathered.len() + message.len() > PART_BYTES_MAX);
        // A cut is at the end of a row.
        if full && gathered.last().is_none_or(|last| *last == b'\n') && !gathered.is_empty() {
            let Ok(place) = pieces.reserve().await else { return Ok(None) };
            let text = std::mem::take(&mut gathered).freeze();
            sum.merge(count_lines(text.clone()).await?);
            place.send(Piece::Rows(text));
        }
        match message {
            Some(message) => gathered.extend_from_slice(&message),
            None => break,
        }
    }
    if !gathered.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable, "the server broke off in the middle of a row"));
    }
    if pieces.send(Piece::End).await.is_err() {
        return Ok(None);
    }
    Ok(Some(sum))
}

/// Counts rows of `COPY`'s text: a line each, with its end.
pub(crate) async fn count_lines(text: Bytes) -> Result<RowSum, Error> {
    let counted = tokio::task::spawn_blocking(move || {
        let mut sum = RowSum::default();
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', &text) {
            sum.add([&text[from..=end]]);
            from = end + 1;
        }
        sum
    });
    counted.await.map_err(|_| stopped())
}

/// Counts every table by reading it again; in the order of `tables`.
pub(crate) async fn count_tables(
    clients: Vec<Client>,
    tables: &[Table],
    page_bytes: u64,
) -> Result<Vec<RowSum>, Error> {
    let ranges = Arc::new(ranges(tables, page_bytes));
    let mut reading = Reading::begin(clients, &ranges);
    for range in 0..ranges.len() {
        while reading.next(range).await?.is_some() {}
    }
    let mut sums = vec![RowSum::default(); tables.len()];
    for (table, sum) in reading.end().await? {
        sums[table].merge(sum);
    }
    Ok(sums)
}

/// The values of sequences, as statements that set them; in the order of the names.
pub(crate) async fn sequences(client: &Client, names: &[String]) -> Result<Vec<String>, Error> {
    let mut statements = Vec::with_capacity(names.len());
    for some in names.chunks(100) {
        let questions: Vec<String> = some
            .iter()
            .map(|name| {
                format!(
                    "SELECT pg_catalog.format('SELECT pg_catalog.setval(%L, %s, %L);', {}, last_value, is_called) FROM {name}",
                    crate::statement::quote_literal(name)
                )
            })
            .collect();
        for row in
            client.query(&questions.join(" UNION ALL "), &[]).await.map_err(|error| translate(&error))?
        {
            statements.push(row.get(0));
        }
    }
    Ok(statements)
}

/// What sequences come to.
pub(crate) fn count_sequences(statements: &[String]) -> RowSum {
    let mut sum = RowSum::default();
    for statement in statements {
        sum.add([statement.as_bytes()]);
    }
    sum
}

/// One piece of a large object; empty behind its end.
pub(crate) async fn large_object_piece(client: &Client, oid: u32, from: i64) -> Result<Vec<u8>, Error> {
    let length = i32::try_from(PIECE_BYTES).expect("a piece is short");
    let row = client.query_one("SELECT pg_catalog.lo_get($1, $2, $3)", &[&oid, &from, &length]).await;
    Ok(row.map_err(|error| translate(&error))?.get(0))
}

/// Counts a piece of a large object.
pub(crate) fn count_piece(sum: &mut RowSum, oid: u32, from: i64, piece: &[u8]) {
    sum.add([&oid.to_be_bytes()[..], &from.to_be_bytes()[..], piece]);
}

/// Counts all large objects.
pub(crate) async fn count_large_objects(client: &Client) -> Result<RowSum, Error> {
    let mut sum = RowSum::default();
    let oids = client.query("SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid", &[]).await;
    for row in oids.map_err(|error| translate(&error))? {
        let (oid, mut from) = (row.get::<_, u32>(0), 0);
        loop {
            let piece = large_object_piece(client, oid, from).await?;
            count_piece(&mut sum, oid, from, &piece);
            if piece.len() < usize::try_from(PIECE_BYTES).expect("a piece is short") {
                break;
            }
            from += PIECE_BYTES;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pages: u64, condition: &str) -> Table {
        Table {
            name: "public.orders".into(),
            namespace: "public".into(),
            folder: "00000-public.orders".into(),
            columns: vec!["id".into(), "\"select\"".into()],
            condition: condition.into(),
            parents: Vec::new(),
            pages,
        }
    }

    #[test]
    fn ranges_cover_every_page_once() {
        let sql = |pages, condition: &str| -> Vec<String> {
            ranges(&[table(pages, condition)], 8192).into_iter().map(|range| range.sql).collect()
        };
        let all = "COPY (SELECT id, \"select\" FROM ONLY public.orders) TO STDOUT";
        assert_eq!(sql(0, ""), [all]);
        assert_eq!(sql(1024, ""), [all]);
        assert_eq!(
            sql(2049, ""),
            [
                "COPY (SELECT id, \"select\" FROM ONLY public.orders WHERE ctid < '(1024,0)'::pg_catalog.tid) TO STDOUT",
                "COPY (SELECT id, \"select\" FROM ONLY public.orders WHERE ctid >= '(1024,0)'::pg_catalog.tid AND ctid < '(2048,0)'::pg_catalog.tid) TO STDOUT",
                "COPY (SELECT id, \"select\" FROM ONLY public.orders WHERE ctid >= '(2048,0)'::pg_catalog.tid) TO STDOUT",
            ]
        );
        assert_eq!(sql(2049, "WHERE mine").len(), 1);
    }
}
