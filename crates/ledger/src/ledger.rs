//! The ledger as rooms see it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use contract::{Clock, Context, Error, ErrorKind, SystemClock};
use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument;

use crate::event::{Draft, ERASURE, EVENTS_MAX};
use crate::export::decode;
use crate::head::{HeadFile, Signer};
use crate::seal::Sealer;
use crate::sqlite::Connection;
use crate::state::{self, Locks};
use crate::writer::{Job, Order, Writer};
use crate::{Event, EventFilter, Head, Keys, NewEvent, Row, Value, Write, Written};

/// Events returned when the filter does not say how many.
const EVENTS_DEFAULT: usize = 1000;

/// How to open a ledger. Fields may be added: start from [`Options::new`].
#[derive(Clone)]
pub struct Options {
    /// Where the signed head goes, usually `audit.head` beside the state file.
    pub head_file: PathBuf,
    /// Connections that read at the same time. Default: 4.
    pub read_connections_max: usize,
    /// The clock for signing heads. Events and leases use the clock of their context.
    pub clock: Arc<dyn Clock>,
    /// Refuse every write; the file must exist. Default: false.
    pub read_only: bool,
    /// What to tell someone whose master key is not that of the state file: where the key is expected.
    pub key_hint: String,
    /// Largest size of the state file in pages of 4 KiB, as if the disk were full then. Default: no limit.
    pub pages_max: Option<u32>,
}

impl Options {
    /// The defaults, with the head in this file.
    pub fn new(head_file: impl Into<PathBuf>) -> Self {
        Self {
            head_file: head_file.into(),
            read_connections_max: 4,
            clock: Arc::new(SystemClock),
            read_only: false,
            key_hint: "the state file needs the master key with which it was made: put that key back to where the \
                       project file expects it (by default `.steward/master.key`), or restore it from its backup"
                .to_owned(),
            pages_max: None,
        }
    }
}

/// Steward's own state. Cheap to clone; when the last clone is dropped, everything queued is written first.
///
/// Nothing here ends early because a context is canceled or late: what happened is recorded also then.
#[derive(Clone)]
pub struct Ledger(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) signer: Arc<Signer>,
    pub(crate) head_file: PathBuf,
    readers: Arc<Readers>,
    writer: Option<Writer>,
    path: PathBuf,
}

impl Ledger {
    /// Opens the state file; makes it (mode 0600, its directory 0700) and migrates it as needed.
    ///
    /// # Errors
    ///
    /// `Denied`: the file cannot be read or written, or belongs to another master key; nothing was written.
    /// `Corrupt`: the file is damaged. `Unsupported`: it is of a newer version. `Invalid`: it is a database of
    /// another program. `NotFound`: `read_only`, and there is no file.
    pub async fn open(path: &Path, keys: Keys, options: Options) -> Result<Ledger, Error> {
        let path = path.to_owned();
        blocking(move || {
            let sealer = Arc::new(Sealer::new(&keys.seal));
            let signer = Arc::new(Signer::new(&keys.sign));
            let locks = Locks { sealer: &sealer, signer: &signer, key_hint: &options.key_hint };
            let mut idle = Vec::new();
            let writer = if options.read_only {
                if !path.exists() {
                    return Err(Error::new(ErrorKind::NotFound, "there is no state file")
                        .with("file", path.display()));
                }
                let connection = Connection::open_reader(&path)?;
                state::check(&connection, &path, &locks)?;
                idle.push(connection);
                None
            } else {
                let connection = state::open(&path, &locks, options.pages_max)?;
                let head_file = HeadFile::open(&options.head_file)?;
                let (sealer, signer) = (Arc::clone(&sealer), Arc::clone(&signer));
                Some(Writer::start(connection, sealer, signer, head_file, options.clock)?)
            };
            let readers = Arc::new(Readers {
                path: path.clone(),
                permits: Arc::new(Semaphore::new(options.read_connections_max.max(1))),
                idle: Mutex::new(idle),
            });
            Ok(Ledger(Arc::new(Inner {
                sealer,
                signer,
                head_file: options.head_file,
                readers,
                writer,
                path,
            })))
        })
        .await
    }

    /// Adds an event to the chain. It is fsynced, and covered by the head file, when this returns.
    ///
    /// # Errors
    ///
    /// `LimitExceeded`: body too large, disk full. `Denied`: read-only. `Unavailable`, `Conflict`: the disk, other
    /// processes. Nothing was written.
    pub async fn append(&self, ctx: &Context, event: NewEvent) -> Result<Event, Error> {
        let mut written = self.write(ctx, Write::new().event(event)).await?;
        Ok(written.events.pop().expect("a write of one event returns one"))
    }

    /// Queues an event whose writing nobody waits for, such as that something was read.
    ///
    /// It is not fsynced by itself: a killed process loses only what is still queued, a power failure perhaps the
    /// last seconds. While the state file cannot be written the event is kept and tried again; [`Ledger::flush`]
    /// tells. When the queue is full, this blocks the thread until the writer has made room.
    pub fn append_later(&self, ctx: &Context, event: NewEvent) {
        let kind = event.kind.clone();
        let queued = Draft::new(ctx, event).and_then(|draft| {
            let job =
                Job { statements: Vec::new(), drafts: vec![draft], erase: None, synced: false, reply: None };
            let queue = self.writer()?.queue();
            let mut order = Order::Write(job);
            loop {
                match queue.try_send(order) {
                    Ok(()) => return Ok(()),
                    Err(tokio::sync::mpsc::error::TrySendError::Full(back)) => {
                        order = back;
                        std::thread::sleep(Duration::from_millis(1)); // The writer never waits for us.
                    }
                    Err(tokio::sync::mpsc::error::TrySendError::Closed(_)) => return Err(stopped()),
                }
            }
        });
        if let Err(error) = queued {
            tracing::error!(kind, %error, "cannot record an event");
        }
    }

    /// Waits until everything queued so far is written.
    ///
    /// # Errors
    ///
    /// Why queued events cannot be written; they are kept and tried again. `AlreadyExists`: evidence of a known id.
    pub async fn flush(&self) -> Result<(), Error> {
        let Some(writer) = &self.0.writer else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        writer.queue().send(Order::Flush(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Writes what is queued and closes the file, if this is the last clone.
    ///
    /// # Errors
    ///
    /// As [`Ledger::flush`]; what could not be written is lost.
    pub async fn close(self) -> Result<(), Error> {
        let flushed = self.flush().await;
        blocking(move || {
            drop(self);
            Ok(())
        })
        .await?;
        flushed
    }

    /// Runs statements and adds events in one transaction; durable when this returns, unless it is `unsynced`.
    ///
    /// # Errors
    ///
    /// `Conflict`: a statement changed another number of rows than expected. `AlreadyExists`: a key exists. As
    /// [`Ledger::append`] otherwise. Nothing of this write happened then.
    pub async fn write(&self, ctx: &Context, write: Write) -> Result<Written, Error> {
        let drafts =
            write.events.into_iter().map(|event| Draft::new(ctx, event)).collect::<Result<Vec<_>, _>>()?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            statements: write.statements,
            drafts,
            erase: write.erase,
            synced: !write.unsynced,
            reply: Some(reply),
        };
        let waited = tracing::debug_span!("ledger.write");
        let done = async {
            self.writer()?.queue().send(Order::Write(job)).await.map_err(|_| stopped())?;
            let (written, _) = answer.await.map_err(|_| stopped())?;
            written
        };
        done.instrument(waited).await
    }

    /// Queues a write whose result nobody waits for.
    pub(crate) async fn write_later(&self, ctx: &Context, write: Write) -> Result<(), Error> {
        let drafts =
            write.events.into_iter().map(|event| Draft::new(ctx, event)).collect::<Result<Vec<_>, _>>()?;
        let job = Job { statements: write.statements, drafts, erase: None, synced: false, reply: None };
        self.writer()?.queue().send(Order::Write(job)).await.map_err(|_| stopped())
    }

    /// Runs a query in the common dialect with `?` placeholders on a connection that cannot write. It sees all that
    /// was written before it began, by any process; not what is still queued.
    ///
    /// # Errors
    ///
    /// `LimitExceeded`: more than 100 000 rows. `Corrupt`, `Unavailable`: the file.
    pub async fn query(&self, sql: &'static str, parameters: Vec<Value>) -> Result<Vec<Row>, Error> {
        self.read(move |connection| connection.query(sql, &parameters)).await
    }

    /// The same on the calling thread, for a look at a few rows through an index: to hand that to another thread and
    /// to be woken by it takes longer than the look.
    ///
    /// # Errors
    ///
    /// As [`Ledger::query`].
    pub async fn glance(&self, sql: &'static str, parameters: Vec<Value>) -> Result<Vec<Row>, Error> {
        let readers = &self.0.readers;
        let _permit = readers.permits.acquire().await.expect("the pool is never closed");
        let connection = readers.take()?;
        let rows = connection.query(sql, &parameters);
        readers.put_back(connection);
        rows
    }

    /// Events with their bodies, after everything queued has been written.
    ///
    /// # Errors
    ///
    /// `Corrupt`: a body does not open; `verify` says more.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, Error> {
        self.settle().await;
        let sealer = Arc::clone(&self.0.sealer);
        self.read(move |connection| {
            let limit = filter.limit.unwrap_or(EVENTS_DEFAULT).min(EVENTS_MAX);
            let (sql, parameters) = crate::export::select(&filter, Some(limit));
            let mut events = Vec::new();
            let mut buffer = Vec::new();
            connection.stream(&sql, &parameters, |row| {
                events.push(decode(row, &sealer, &mut buffer)?);
                Ok(true)
            })?;
            Ok(events)
        })
        .await
    }

    /// How often the generation `name` was bumped; 0 if never.
    ///
    /// # Errors
    ///
    /// As [`Ledger::query`].
    pub async fn generation(&self, name: &str) -> Result<i64, Error> {
        let rows = self.query("SELECT value FROM generations WHERE name = ?", vec![name.into()]).await?;
        rows.first().map_or(Ok(0), |row| row.get_i64("value"))
    }

    /// Erases the body of an event of this project for good; the chain stays whole. An event `audit.erasure` says
    /// which, why and who, in the same transaction.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such event in this project, or its body is erased already.
    pub async fn erase_body(&self, ctx: &Context, seq: u64, reason: &str) -> Result<(), Error> {
        let known = self
            .query(
                "SELECT 1 AS known FROM events JOIN bodies ON bodies.seq = events.seq \
                 WHERE events.seq = ? AND events.project = ?",
                vec![seq.into(), ctx.project().into()],
            )
            .await?;
        if known.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "this project has no such event with a body")
                .with("seq", seq)
                .with("project", ctx.project()));
        }
        let body = serde_json::json!({ "seq": seq, "reason": reason });
        let event = NewEvent::new(ERASURE, format!("event:{seq}"), body);
        self.write(ctx, Write::new().event(event).erase_body(seq)).await.map(drop)
    }

    /// The signed head as it lies in the head file, to be sent elsewhere; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// `Denied`, `Corrupt`: the file.
    pub async fn head(&self) -> Result<Option<Head>, Error> {
        let path = self.0.head_file.clone();
        blocking(move || match Head::read(&path) {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// Runs `read` on a connection of the pool.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let readers = Arc::clone(&self.0.readers);
        let permit = Arc::clone(&readers.permits).acquire_owned().await.expect("the pool is never closed");
        blocking(move || {
            let _permit = permit; // Held as long as the connection, also when nobody waits for the answer any more.
            let connection = readers.take()?;
            let result = read(&connection);
            readers.put_back(connection);
            result
        })
        .await
    }

    /// Waits for what is queued; whoever reads next cannot mend what stands in the way.
    pub(crate) async fn settle(&self) {
        if let Err(error) = self.flush().await {
            tracing::warn!(%error, "events wait to be written");
        }
    }

    fn writer(&self) -> Result<&Writer, Error> {
        self.0.writer.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Denied, "the state file was opened for reading only")
                .with("file", self.0.path.display())
        })
    }
}

/// Connections that only read, opened when first needed.
struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    fn take(&self) -> Result<Connection, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| Connection::open_reader(&self.path), Ok)
    }

    fn put_back(&self, connection: Connection) {
        connection.rollback(); // A reading that failed half-way leaves no transaction behind.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(cause) => Err(Error::new(ErrorKind::Other, "the ledger failed").because(cause)),
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the ledger has stopped")
}
