//! The one thread that writes: takes what waits, writes it in one transaction, answers all at once.

use std::sync::Arc;
use std::thread::JoinHandle;

use contract::{Clock, Error, ErrorKind};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::event::{Draft, FIRST_PREV_HASH, Header};
use crate::head::{HeadFile, Signer};
use crate::seal::{Sealer, body_belongs_to, hex};
use crate::sqlite::Connection;
use crate::write::Statement;
use crate::{Event, Value, Written};

/// Jobs that wait for the writer; whoever comes then, waits too.
pub(crate) const QUEUE_JOBS_MAX: usize = 1024;
/// Jobs in one transaction.
const BATCH_JOBS_MAX: usize = 512;
/// Bytes of queued events that are kept for another attempt while the state file cannot be written.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a small row takes in memory, about.
const ROW_BYTES: usize = 512;

pub(crate) struct Job {
    pub(crate) statements: Vec<Statement>,
    pub(crate) drafts: Vec<Draft>,
    /// The entry whose body goes once the drafts are in.
    pub(crate) erase: Option<u64>,
    pub(crate) synced: bool,
    /// `None`: nobody waits, and a failed job is tried again with the next batch.
    pub(crate) reply: Option<oneshot::Sender<Answer>>,
}

/// How a job ended, with its statements: to free thousands of values of another thread's, the writer would wait for its memory and keep
/// it waiting.
pub(crate) type Answer = (Result<Written, Error>, Vec<Statement>);

impl Job {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let rows = self.drafts.len() + self.statements.len();
        let bodies: usize = self.drafts.iter().map(|draft| draft.salted.len()).sum();
        let values: usize = self
            .statements
            .iter()
            .flat_map(|statement| &statement.parameters)
            .map(|value| match value {
                Value::Text(text) => text.len(),
                Value::Shared(text) => text.len(),
                Value::Blob(bytes) => bytes.len(),
                _ => 8,
            })
            .sum();
        rows * ROW_BYTES + bodies + values
    }
}

pub(crate) enum Order {
    Write(Job),
    /// Answers once everything before it has been written.
    Flush(oneshot::Sender<Result<(), Error>>),
}

/// The writer's thread; dropping it waits until the queue is written.
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(
        connection: Connection,
        sealer: Arc<Sealer>,
        signer: Arc<Signer>,
        head_file: HeadFile,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let (queue, inbox) = mpsc::channel(QUEUE_JOBS_MAX);
        let state = State {
            connection,
            sealer,
            signer,
            head_file,
            clock,
            kept: Vec::new(),
            kept_because: None,
            lost_because: None,
            head_failed: false,
            wrote_synced: false,
        };
        let thread =
            std::thread::Builder::new().name("ledger".into()).spawn(move || state.run(inbox)).map_err(
                |cause| Error::new(ErrorKind::Other, "cannot start the ledger's thread").because(cause),
            )?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(crate) fn queue(&self) -> &mpsc::Sender<Order> {
        self.queue.as_ref().expect("the queue is open until the writer is dropped")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ledger's thread panicked");
        }
    }
}

/// The end of the chain inside of a transaction.
#[derive(Clone)]
struct Tail {
    seq: i64,
    hash: String,
    at_us: i64,
}

/// Where a draft found its place.
struct Place {
    seq: i64,
    at_us: i64,
    prev_hash: String,
    hash: String,
}

struct Done {
    places: Vec<Place>,
    rows_changed: Vec<u64>,
}

struct State {
    connection: Connection,
    sealer: Arc<Sealer>,
    signer: Arc<Signer>,
    head_file: HeadFile,
    clock: Arc<dyn Clock>,
    kept: Vec<Job>,
    kept_because: Option<Error>,
    /// Why something was given up since the last flush, which tells it.
    lost_because: Option<Error>,
    head_failed: bool,
    /// Whether any commit has waited for fsync.
    wrote_synced: bool,
}

impl State {
    fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        while let Some(first) = inbox.blocking_recv() {
            let mut jobs = std::mem::take(&mut self.kept);
            let mut flushes = Vec::new();
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Write(job) => jobs.push(job),
                    Order::Flush(reply) => flushes.push(reply),
                }
                next = if jobs.len() < BATCH_JOBS_MAX { inbox.try_recv().ok() } else { None };
            }
            self.write_all(jobs);
            for reply in flushes {
                // Whoever has gone does not want to know.
                let failed = self.lost_because.take().or_else(|| self.kept_because.clone());
                drop(reply.send(failed.map_or(Ok(()), Err)));
            }
            self.connection.shorten_log();
        }
        let kept = std::mem::take(&mut self.kept);
        self.write_all(kept);
        if let Some(error) = &self.kept_because {
            tracing::error!(events = self.kept.len(), %error, "events were lost at the end");
        }
        // A command that only read shall not wait for fsync at its end.
        if !self.wrote_synced {
            self.connection.keep_log();
        }
    }

    fn write_all(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        self.kept_because = None;
        match self.write_batch(&jobs) {
            Ok(results) => {
                for (job, result) in jobs.into_iter().zip(results) {
                    self.answer(job, result);
                }
            }
            // One large job may be all that does not fit: each gets its own attempt.
            Err(error) if jobs.len() > 1 && error.kind() != ErrorKind::Conflict => {
                for job in jobs {
                    let result = self.write_batch(std::slice::from_ref(&job));
                    let result =
                        result.and_then(|mut results| results.pop().expect("one job has one result"));
                    self.answer(job, result);
                }
            }
            Err(error) => {
                for job in jobs {
                    self.answer(job, Err(error.clone()));
                }
            }
        }
    }

    fn answer(&mut self, mut job: Job, result: Result<Done, Error>) {
        match (job.reply.take(), result) {
            (Some(reply), result) => {
                let written = result.map(|done| written(job.drafts, done));
                drop(reply.send((written, job.statements))); // Whoever has gone does not want to know.
            }
            (None, Ok(_)) => {}
            (None, Err(error)) => {
                let kept_bytes: usize = self.kept.iter().map(Job::bytes).sum();
                if !can_pass(&error) || kept_bytes + job.bytes() > KEPT_BYTES_MAX {
                    tracing::error!(%error, "an event was lost");
                    self.lost_because = Some(error);
                } else {
                    if self.kept.is_empty() {
                        tracing::warn!(%error, "cannot write an event yet; it is kept");
                    }
                    self.kept.push(job);
                    self.kept_because = Some(error);
                }
            }
        }
    }

    /// Writes the jobs in one transaction. The outer error is of the transaction, the inner ones of single jobs,
    /// which left no trace while the others were written.
    fn write_batch(&mut self, jobs: &[Job]) -> Result<Vec<Result<Done, Error>>, Error> {
        let synced = jobs.iter().any(|job| job.synced || !job.drafts.is_empty() && !self.head_file.exists());
        self.connection.set_synced(synced)?;
        self.connection.begin_write()?;
        let result = self.write_jobs(jobs).and_then(|(results, tail)| {
            self.connection.commit()?;
            Ok((results, tail))
        });
        match result {
            Ok((results, tail)) => {
                self.wrote_synced |= synced;
                if synced && tail.seq > 0 {
                    self.write_head(&tail);
                }
                if jobs.iter().any(|job| job.erase.is_some()) {
                    self.connection.empty_log();
                }
                Ok(results)
            }
            Err(error) => {
                self.connection.rollback();
                Err(error)
            }
        }
    }

    fn write_jobs(&self, jobs: &[Job]) -> Result<(Vec<Result<Done, Error>>, Tail), Error> {
        let mut tail = self.tail()?;
        let mut results = Vec::with_capacity(jobs.len());
        for job in jobs {
            if job.statements.is_empty() && job.erase.is_none() {
                let places = self.insert(&job.drafts, &mut tail)?;
                results.push(Ok(Done { places, rows_changed: Vec::new() }));
                continue;
            }
            // Alone, it shares its fate with the transaction, and SQLite need not keep what the pages were before.
            if jobs.len() == 1 {
                results.push(Ok(self.write_job(job, &mut tail)?));
                continue;
            }
            self.connection.execute("SAVEPOINT job", &[])?;
            let before = tail.clone();
            match self.write_job(job, &mut tail) {
                Ok(done) => results.push(Ok(done)),
                // SQLite has rolled all of it back.
                Err(error) if !self.connection.in_transaction() => return Err(error),
                Err(error) => {
                    self.connection.execute("ROLLBACK TO job", &[])?;
                    tail = before;
                    results.push(Err(error));
                }
            }
            self.connection.execute("RELEASE job", &[])?;
        }
        Ok((results, tail))
    }

    fn write_job(&self, job: &Job, tail: &mut Tail) -> Result<Done, Error> {
        let rows_changed = self.run_statements(job)?;
        let places = self.insert(&job.drafts, tail)?;
        if let Some(seq) = job.erase
            && self.connection.execute("DELETE FROM bodies WHERE seq = ?", &[seq.into()])? != 1
        {
            return Err(
                Error::new(ErrorKind::Conflict, "the body was erased in the meantime").with("seq", seq)
            );
        }
        Ok(Done { places, rows_changed })
    }

    fn run_statements(&self, job: &Job) -> Result<Vec<u64>, Error> {
        let run = |statement: &Statement| {
            let rows = self.connection.execute(statement.sql, &statement.parameters)?;
            match statement.rows_expected {
                Some(expected) if expected != rows => {
                    Err(Error::new(ErrorKind::Conflict, "the state has changed in the meantime")
                        .with("statement", statement.sql)
                        .with("rows_expected", expected)
                        .with("rows_changed", rows))
                }
                _ => Ok(rows),
            }
        };
        job.statements.iter().map(run).collect()
    }

    fn tail(&self) -> Result<Tail, Error> {
        let rows =
            self.connection.query("SELECT seq, hash, at_us FROM events ORDER BY seq DESC LIMIT 1", &[])?;
        match rows.first() {
            None => Ok(Tail { seq: 0, hash: FIRST_PREV_HASH.to_owned(), at_us: i64::MIN }),
            Some(row) => Ok(Tail {
                seq: row.get_i64("seq")?,
                hash: row.get_text("hash")?.to_owned(),
                at_us: row.get_i64("at_us")?,
            }),
        }
    }

    fn insert(&self, drafts: &[Draft], tail: &mut Tail) -> Result<Vec<Place>, Error> {
        let mut buffer = Vec::new();
        let mut places = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let seq = tail.seq + 1;
            let at_us = draft.at_us.max(tail.at_us);
            let header = Header {
                seq,
                id: draft.id.as_bytes(),
                project: draft.project.as_bytes(),
                at_us,
                kind: draft.kind.as_bytes(),
                actor: draft.actor.as_bytes(),
                subject: draft.subject.as_bytes(),
                task: draft.task.as_bytes(),
                body_hash: draft.body_hash.as_bytes(),
                prev_hash: tail.hash.as_bytes(),
            };
            let hash = hex(&header.hash(&mut buffer));
            self.connection.execute(
                "INSERT INTO events (seq, id, project, at_us, kind, actor, subject, task, body_hash, prev_hash, hash) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                &[
                    seq.into(),
                    (&draft.id).into(),
                    (&draft.project).into(),
                    at_us.into(),
                    (&draft.kind).into(),
                    (&draft.actor).into(),
                    (&draft.subject).into(),
                    (&draft.task).into(),
                    (&draft.body_hash).into(),
                    (&tail.hash).into(),
                    (&hash).into(),
                ],
            )?;
            body_belongs_to(seq, draft.id.as_bytes(), &mut buffer);
            let sealed = self.sealer.seal(&draft.salted, &buffer);
            self.connection
                .execute("INSERT INTO bodies (seq, body) VALUES (?, ?)", &[seq.into(), sealed.into()])?;
            let prev_hash = std::mem::replace(&mut tail.hash, hash.clone());
            tail.seq = seq;
            tail.at_us = at_us;
            places.push(Place { seq, at_us, prev_hash, hash });
        }
        Ok(places)
    }

    /// The entries are durable by now, so a head that cannot be written fails no one's append; `verify` tells.
    fn write_head(&mut self, tail: &Tail) {
        let head = self.signer.sign(tail.seq.unsigned_abs(), &tail.hash, self.clock.now());
        let hash_at = |seq: u64| {
            let rows = self.connection.query("SELECT hash FROM events WHERE seq = ?", &[seq.into()])?;
            rows.first().map(|row| row.get_text("hash").map(str::to_owned)).transpose()
        };
        match self.head_file.write(&self.signer, &head, hash_at) {
            Ok(()) => self.head_failed = false,
            Err(error) if !self.head_failed => {
                self.head_failed = true;
                tracing::error!(%error, "cannot write the head of the audit chain");
            }
            Err(_) => {}
        }
    }
}

/// Whether another attempt may succeed once the disk or another process gives way.
fn can_pass(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::LimitExceeded | ErrorKind::Denied | ErrorKind::Unavailable | ErrorKind::Conflict
    )
}

fn written(drafts: Vec<Draft>, done: Done) -> Written {
    let events = drafts.into_iter().zip(done.places).map(|(draft, place)| Event {
        seq: place.seq.unsigned_abs(),
        id: draft.id,
        project: draft.project,
        at: Timestamp::from_microsecond(place.at_us).unwrap_or(Timestamp::MAX),
        kind: draft.kind,
        actor: draft.actor,
        subject: draft.subject,
        task: draft.task,
        body: Some(draft.body),
        body_hash: draft.body_hash,
        prev_hash: place.prev_hash,
        hash: place.hash,
    });
    Written { events: events.collect(), rows_changed: done.rows_changed }
}
