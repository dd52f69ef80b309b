//! Events read back: rows to events, filters to statements, all of them to JSON lines.

use std::sync::Arc;

use contract::{Error, ErrorKind};
use jiff::Timestamp;

use crate::event::SALT_BYTES;
use crate::seal::{Sealer, body_belongs_to};
use crate::sqlite::RawRow;
use crate::{Event, EventFilter, Ledger, Value};

impl Ledger {
    /// Hands over every event that the filter matches as one line of JSON without its line end, and returns how many
    /// there were. Memory does not grow with their number; all of them are of one state of the chain.
    ///
    /// # Errors
    ///
    /// What `line` returns. `Corrupt`: a body does not open; the lines before it were handed over.
    pub async fn export(
        &self,
        filter: EventFilter,
        mut line: impl FnMut(&str) -> Result<(), Error> + Send + 'static,
    ) -> Result<u64, Error> {
        self.settle().await;
        let sealer = Arc::clone(&self.0.sealer);
        self.read(move |connection| {
            let (sql, parameters) = select(&filter, filter.limit);
            let mut events = 0;
            let mut buffer = Vec::new();
            connection.stream(&sql, &parameters, |row| {
                let event = decode(row, &sealer, &mut buffer)?;
                line(&serde_json::to_string(&event).expect("an event is JSON"))?;
                events += 1;
                Ok(true)
            })?;
            Ok(events)
        })
        .await
    }
}

/// The statement that reads what the filter matches, in the column order of [`decode`].
pub(crate) fn select(filter: &EventFilter, limit: Option<usize>) -> (String, Vec<Value>) {
    let mut sql = String::from(
        "SELECT e.seq, e.id, e.project, e.at_us, e.kind, e.actor, e.subject, e.task, e.body_hash, e.prev_hash, e.hash, \
         b.body FROM events e LEFT JOIN bodies b ON b.seq = e.seq WHERE e.seq > ?",
    );
    let mut parameters = vec![filter.after_seq.into()];
    let mut and = |condition: &str, value: Value| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        parameters.push(value);
    };
    if let Some(project) = &filter.project {
        and("e.project = ?", project.into());
    }
    if let Some(prefix) = filter.kind_prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        // A range instead of LIKE: it uses the index, and `_` in a kind is only itself.
        and("e.kind >= ?", prefix.into());
        and("e.kind < ?", format!("{prefix}\u{10ffff}").into());
    }
    if let Some(subject) = &filter.subject {
        and("e.subject = ?", subject.into());
    }
    if let Some(task) = &filter.task {
        and("e.task = ?", task.into());
        if !task.is_empty() {
            sql.push_str(" AND e.task <> ''"); // Shows the planner that the partial index will do.
        }
    }
    if let Some(since) = filter.since {
        sql.push_str(" AND e.at_us >= ?");
        parameters.push(since.into());
    }
    if let Some(until) = filter.until {
        sql.push_str(" AND e.at_us < ?");
        parameters.push(until.into());
    }
    sql.push_str(if filter.newest_first { " ORDER BY e.seq DESC" } else { " ORDER BY e.seq" });
    if let Some(limit) = limit {
        sql.push_str(" LIMIT ?");
        parameters.push((limit as u64).into());
    }
    (sql, parameters)
}

/// The event of a row of [`select`].
pub(crate) fn decode(row: &RawRow<'_>, sealer: &Sealer, buffer: &mut Vec<u8>) -> Result<Event, Error> {
    let seq = row.integer(0).ok_or_else(|| damaged(0, "its place is not a number"))?;
    let text = |column: usize| {
        row.text(column)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .map(str::to_owned)
            .ok_or_else(|| damaged(seq, "a header field is not text"))
    };
    let at = row
        .integer(3)
        .and_then(|us| Timestamp::from_microsecond(us).ok())
        .ok_or_else(|| damaged(seq, "its time does not exist"))?;
    let id = text(1)?;
    let body = match row.blob(11) {
        None => None,
        Some(bytes) => {
            let mut belongs_to = Vec::with_capacity(96);
            body_belongs_to(seq, id.as_bytes(), &mut belongs_to);
            let salted = sealer
                .open(bytes, &belongs_to, buffer)
                .ok_or_else(|| damaged(seq, "its body was changed"))?;
            let json = salted.get(SALT_BYTES..).unwrap_or_default();
            Some(serde_json::from_slice(json).map_err(|_| damaged(seq, "its body is not JSON"))?)
        }
    };
    Ok(Event {
        seq: seq.unsigned_abs(),
        id,
        project: text(2)?,
        at,
        kind: text(4)?,
        actor: text(5)?,
        subject: text(6)?,
        task: text(7)?,
        body,
        body_hash: text(8)?,
        prev_hash: text(9)?,
        hash: text(10)?,
    })
}

fn damaged(seq: i64, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("entry {seq} of the audit chain is damaged: {why}"))
        .hint("see the whole extent with `steward audit verify`")
}
