//! Following the server's log: its own program receives it into a folder, from where it is handed over piece by piece.
//!
//! The server keeps what we have not received in a slot; what we have received and not handed over lies in the folder. So
//! nothing is lost whichever of the three is away, and the folder is never emptied of what was not handed over.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Context, Error, ErrorKind, FollowLog, FollowOptions, LogGap, LogPiece, LogPosition, LogSink, LogSpan,
    LogState, Preflight, RecoveryPoint, Store, check_marker,
};
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::base::{Source, free_bytes, identify};
use crate::backup::Libpq;
use crate::backup::programs::{PATH, Programs};
use crate::error::translate;
use crate::session::Session;
use crate::store::PostgresStore;

/// The program.
const PROGRAM: &str = "pg_receivewal";
/// Since this version a slot says where it stands, which is where the program begins.
const VERSION_MIN: i32 = 150_000;
/// Most bytes of one piece.
const PIECE_BYTES_MAX: u64 = 16 << 20;
/// Waits between two tries grow from the first to the last.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Below so many free bytes on the server's disk, where that is ours to see, the slot gives way.
const SERVER_FREE_MIN: u64 = 512 << 20;
/// Lines of the program's that are kept for an error.
const LINES_MAX: usize = 20;
/// What stays of a moment until the log has come to it.
const SAMPLES_MAX: usize = 4_096;
/// What the server says of a log that it has no more.
const REMOVED: &str = "has already been removed";

/// Runs a program that ends with the pipe, however we end.
const WATCH: &str = r#"
exec 3<&0
"$@" </dev/null &
child=$!
{ read -r word <&3; kill -TERM "$child"; } 2>/dev/null &
watcher=$!
wait "$child"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"#;

fn cannot(what: &str) -> impl Fn(std::io::Error) -> Error {
    move |error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("the received log cannot be handled: {what}")).because(error)
    }
}

/// What the server says at one moment.
struct Look {
    server_at: Timestamp,
    written: LogPosition,
    there: bool,
    active: bool,
    kept: Option<LogPosition>,
    lost: bool,
    kept_max: Option<String>,
}

async fn look(session: &Session, slot: &str) -> Result<Look, Error> {
    let row = session.client.query_one(include_str!("../sql/log_state.sql"), &[&slot]).await;
    let row = row.map_err(|error| translate(&error))?;
    let position = |column: &str| row.get::<_, Option<&str>>(column).and_then(|text| text.parse().ok());
    let server_at: &str = row.get("server_at");
    Ok(Look {
        server_at: server_at.parse().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the server's clock is not understood").because(error)
        })?,
        written: position("written").unwrap_or_default(),
        there: row.get("there"),
        active: row.get::<_, Option<bool>>("active").unwrap_or(false),
        kept: position("kept"),
        lost: row.get::<_, Option<bool>>("lost").unwrap_or(false),
        kept_max: row.get("kept_max"),
    })
}

/// What was handed over, and what is known of when.
struct Handed {
    source: String,
    file_bytes: u64,
    /// Behind the last byte that was handed over, by the name of its file.
    ends: BTreeMap<String, LogPosition>,
    /// Moments of the server's clock with the position before which everything acknowledged until then lies.
    samples: VecDeque<(Timestamp, LogPosition)>,
    until: Option<Timestamp>,
    histories: BTreeMap<u32, (u32, LogPosition)>,
}

/// A file of the log by its name: timeline and number.
fn segment_of(name: &str, file_bytes: u64) -> Option<(u32, u64)> {
    let hex = |range: std::ops::Range<usize>| u32::from_str_radix(name.get(range)?, 16).ok();
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let per_id = (1_u64 << 32) / file_bytes;
    Some((hex(0..8)?, u64::from(hex(8..16)?) * per_id + u64::from(hex(16..24)?)))
}

fn segment_name(timeline: u32, number: u64, file_bytes: u64) -> String {
    let per_id = (1_u64 << 32) / file_bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)
}

/// Which timeline a history file's one left, and where.
fn branch_of(history: &str) -> Option<(u32, LogPosition)> {
    let last = history.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with('#'))?;
    let mut fields = last.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

impl Handed {
    fn new(source: &str, file_bytes: u64, kept: &[LogPiece]) -> Self {
        let mut handed = Self {
            source: source.to_owned(),
            file_bytes,
            ends: BTreeMap::new(),
            samples: VecDeque::new(),
            until: None,
            histories: BTreeMap::new(),
        };
        for piece in kept.iter().filter(|piece| piece.span.source == source) {
            let span = &piece.span;
            match span.parent {
                Some(parent) => {
                    handed.histories.insert(span.timeline, (parent, span.start));
                }
                None if span.file_bytes == file_bytes => handed.note(&span.file, span.end),
                None => {}
            }
        }
        handed
    }

    fn note(&mut self, file: &str, end: LogPosition) {
        let known = self.ends.entry(file.to_owned()).or_insert(end);
        *known = (*known).max(end);
    }

    /// The newest position of the newest timeline.
    fn end(&self) -> Option<LogPosition> {
        self.newest().map(|(_, _, end)| end)
    }

    fn newest(&self) -> Option<(u32, u64, LogPosition)> {
        let all = self.ends.iter().filter_map(|(file, end)| {
            let (timeline, number) = segment_of(file, self.file_bytes)?;
            Some((timeline, number, *end))
        });
        all.max()
    }

    fn sample(&mut self, at: Timestamp, written: LogPosition) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_back();
        }
        self.samples.push_back((at, written));
    }

    /// Until when everything acknowledged lies before this position.
    fn until(&mut self, end: LogPosition) -> Option<Timestamp> {
        while let Some((at, written)) = self.samples.front().copied()
            && written <= end
        {
            self.until = Some(at);
            self.samples.pop_front();
        }
        self.until
    }
}

/// The program while it runs.
struct Receiver {
    child: Child,
    /// The program ends with it. Not the child's own field, which a wait for the child closes.
    pipe: Option<ChildStdin>,
    said: Arc<Mutex<VecDeque<String>>>,
}

impl Receiver {
    fn start(programs: &Programs, libpq: &Libpq, folder: &Path, slot: &str) -> Result<Self, Error> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCH, "steward-log"]).arg(programs.path(PROGRAM)).arg("-D").arg(folder);
        command.args(["-S", slot, "--synchronous", "--no-loop", "--no-password", "--status-interval=1"]);
        command.env_clear().env("LC_ALL", "C").env("PATH", PATH);
        command.envs(libpq.0.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot("the program cannot be run"))?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            let said = Arc::clone(&said);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut kept = said.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == LINES_MAX {
                        kept.pop_front();
                    }
                    kept.push_back(line);
                }
            });
        }
        let pipe = child.stdin.take();
        Ok(Self { child, pipe, said })
    }

    fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().cloned().collect::<Vec<_>>().join("; ")
    }

    async fn stop(mut self) {
        drop(self.pipe.take());
        drop(self.child.wait().await);
    }
}

#[async_trait]
impl FollowLog for PostgresStore {
    async fn preflight(&self, ctx: &Context, options: &FollowOptions) -> Result<Preflight, Error> {
        let session = self.dumping_session(ctx).await?;
        let source = self.within(ctx, Source::ask(&session.client)).await?;
        let seen = self.within(ctx, look(&session, &options.slot)).await?;
        let mut preflight =
            Preflight { refusals: source.refusals(&session.rights.login.user), ..Preflight::default() };
        if session.rights.version_num < VERSION_MIN {
            preflight.refusals.push("the log is followed from PostgreSQL 15 on".to_owned());
        }
        if !seen.there && !source.has_room_for_a_slot() {
            preflight.refusals.push(
                "all of the server's `max_replication_slots` are in use: raise it and restart the server"
                    .to_owned(),
            );
        }
        match self.streaming_programs(&session, PROGRAM).await {
            Ok(programs) => preflight.tools.push(programs.tool(PROGRAM, &[])),
            Err(error) => {
                let hint = error.hint_text().map(|hint| format!(": {hint}")).unwrap_or_default();
                preflight.refusals.push(format!("{}{hint}", error.message()));
            }
        }
        if seen.kept_max.as_deref() == Some("-1") {
            preflight.warnings.push(
                "the server itself keeps its log for a slot without limit while nobody follows it: set `max_slot_wal_keep_size`, such as to 8GB".to_owned(),
            );
        }
        Ok(preflight)
    }

    async fn follow(&self, ctx: &Context, options: &FollowOptions, sink: &dyn LogSink) -> Result<(), Error> {
        let folder = options.folder.join("received");
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(&folder)
            .map_err(cannot("its folder"))?;
        let mut handed: Option<Handed> = None;
        let mut wait = WAIT_MIN;
        loop {
            let error = match self
                .within(ctx, Box::pin(self.follow_once(ctx, options, &folder, sink, &mut handed, &mut wait)))
                .await
            {
                Ok(()) => continue,
                Err(error) => error,
            };
            let is_over = matches!(error.kind(), ErrorKind::Canceled)
                || error.kind() == ErrorKind::TimedOut && ctx.remaining() == Some(Duration::ZERO);
            if is_over
                || matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported | ErrorKind::Invalid)
            {
                return Err(error);
            }
            tracing::warn!(store = self.name(), %error, "the log is not followed at the moment");
            if let Some(handed) = &handed {
                let (timeline, _, kept) = handed.newest().unwrap_or_default();
                sink.state(LogState {
                    source: handed.source.clone(),
                    timeline,
                    written: kept,
                    kept,
                    until: handed.until,
                    retained_bytes: 0,
                    problem: Some(error.to_string()),
                })
                .await;
            }
            ctx.run(async {
                tokio::time::sleep(wait).await;
                Ok(())
            })
            .await?;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    async fn marker(&self, ctx: &Context, name: &str) -> Result<RecoveryPoint, Error> {
        check_marker(name)?;
        let session = self.dumping_session(ctx).await?;
        if session.rights.standby {
            return Err(Error::new(ErrorKind::Conflict, "the server is a copy that only reads")
                .with("store", self.name())
                .hint("set the marker on its primary"));
        }
        self.within(ctx, async {
            let failed = |error: tokio_postgres::Error| translate(&error);
            session.client.batch_execute("SET default_transaction_read_only = off").await.map_err(failed)?;
            let make = "SELECT pg_catalog.pg_create_restore_point($1)::text, \
                to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int";
            let row = session.client.query_one(make, &[&name]).await.map_err(|error| {
                let error = translate(&error);
                if error.kind() != ErrorKind::Denied {
                    return error;
                }
                let user = crate::statement::quote_identifier(&session.rights.login.user);
                error.hint(format!(
                    "configure `admin` for this store, or let an administrator run `GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO {user}`"
                ))
            })?;
            // A commit of its own: the marker alone would wait in memory for the next one.
            let flush = "SELECT pg_catalog.pg_logical_emit_message(true, 'steward', 'marker')";
            session.client.query_one(flush, &[]).await.map_err(failed)?;
            let server_at: String = row.get(1);
            Ok(RecoveryPoint {
                at: ctx.now(),
                server_at: server_at.parse().ok(),
                position: row.get(0),
                timeline: u32::try_from(row.get::<_, i32>(2)).ok(),
            })
        })
        .await
    }

    async fn unfollow(&self, ctx: &Context, slot: &str) -> Result<(), Error> {
        let session = self.dumping_session(ctx).await?;
        let seen = self.within(ctx, look(&session, slot)).await?;
        if seen.active {
            return Err(
                Error::new(ErrorKind::Conflict, "somebody follows the log right now").with("slot", slot)
            );
        }
        if seen.there { self.within(ctx, drop_slot(&session, slot)).await } else { Ok(()) }
    }
}

async fn make_slot(session: &Session, slot: &str) -> Result<(), Error> {
    let statement = "SELECT pg_catalog.pg_create_physical_replication_slot($1::text::name, true, false)";
    session.client.execute(statement, &[&slot]).await.map(|_| ()).map_err(|error| translate(&error))
}

async fn drop_slot(session: &Session, slot: &str) -> Result<(), Error> {
    let statement = "SELECT pg_catalog.pg_drop_replication_slot($1::text::name)";
    session.client.execute(statement, &[&slot]).await.map(|_| ()).map_err(|error| translate(&error))
}

impl PostgresStore {
    /// Follows until something ends it; without an error where it is to begin anew at once.
    async fn follow_once(
        &self,
        ctx: &Context,
        options: &FollowOptions,
        folder: &Path,
        sink: &dyn LogSink,
        handed: &mut Option<Handed>,
        wait: &mut Duration,
    ) -> Result<(), Error> {
        let session = self.dumping_session(ctx).await?;
        let source = Source::ask(&session.client).await?;
        let programs = self.streaming_programs(&session, PROGRAM).await?;
        let libpq = self.opener.libpq(ctx, self.dumping(), programs.major).await?;
        let system = identify(ctx, &programs, &libpq).await?;
        if handed.as_ref().is_none_or(|handed| handed.source != system.id) {
            *handed = Some(Handed::new(&system.id, source.wal_file_bytes, &options.kept));
            adopt(folder, &system.id)?;
        }
        let Some(handed) = handed.as_mut() else { return Ok(()) };
        handed.samples.clear();
        let mut seen = look(&session, &options.slot).await?;
        if seen.lost {
            drop_slot(&session, &options.slot).await?;
            let why = "the server gave up the slot, because it would have kept more than its `max_slot_wal_keep_size`";
            sink.gap(LogGap { after: handed.end(), before: None, why: why.to_owned() }).await?;
            seen.there = false;
        }
        if seen.active {
            return Err(Error::new(
                ErrorKind::Conflict,
                "another process follows this server's log under our name",
            )
            .with("slot", &options.slot));
        }
        if seen.there
            && let Some(kept) = seen.kept
        {
            // What the program had received when it last ran.
            hand_over(handed, folder, kept, sink, self.name()).await?;
        } else if !seen.there {
            make_slot(&session, &options.slot).await?;
        }
        plant(handed, folder)?;
        let mut receiver = Receiver::start(&programs, &libpq, folder, &options.slot)?;
        let ended = self.supervise(options, folder, sink, handed, &session, &mut receiver, wait).await;
        let said = receiver.said();
        receiver.stop().await;
        match ended? {
            Ended::Itself => {}
            Ended::GaveUp(why) => {
                drop_slot(&session, &options.slot).await?;
                sink.gap(LogGap { after: handed.end(), before: None, why }).await?;
                forget(folder)?;
                return Ok(());
            }
        }
        if said.contains(REMOVED) {
            let why = format!("the server has no more of its log than what follows it: {said}");
            sink.gap(LogGap { after: handed.end(), before: None, why }).await?;
            forget(folder)?;
            handed.ends.clear();
            return Ok(());
        }
        let kind =
            if said.contains("No space left") { ErrorKind::LimitExceeded } else { ErrorKind::Unavailable };
        Err(Error::new(kind, format!("`{PROGRAM}` has ended")).because(said))
    }

    #[allow(clippy::too_many_arguments, reason = "what a run works with, each of its own kind")]
    async fn supervise(
        &self,
        options: &FollowOptions,
        folder: &Path,
        sink: &dyn LogSink,
        handed: &mut Handed,
        session: &Session,
        receiver: &mut Receiver,
        wait: &mut Duration,
    ) -> Result<Ended, Error> {
        let disk = if self.opener.address_for(self.dumping()).is_loopback() {
            data_directory(session).await
        } else {
            None
        };
        loop {
            let seen = look(session, &options.slot).await?;
            handed.sample(seen.server_at, seen.written);
            let kept = seen.kept.unwrap_or_default();
            let retained_bytes = seen.written.0.saturating_sub(kept.0);
            let given = hand_over(handed, folder, kept, sink, self.name()).await;
            if given.is_ok() {
                *wait = WAIT_MIN;
            }
            let (timeline, _, end) = handed.newest().unwrap_or_default();
            // Where nothing was written there is nothing to hand over, and nothing would be lost.
            let until = handed.until(end.max(if given.is_ok() { kept } else { end }));
            sink.state(LogState {
                source: handed.source.clone(),
                timeline,
                written: seen.written,
                kept: end,
                until,
                retained_bytes,
                problem: given.as_ref().err().map(ToString::to_string),
            })
            .await;
            let free = disk.as_deref().and_then(free_bytes);
            if seen.lost || !seen.there {
                return Ok(Ended::Itself);
            }
            if retained_bytes > options.retained_bytes_max {
                return Ok(Ended::GaveUp(format!(
                    "the server kept {retained_bytes} bytes for us, over the limit of {}; the slot was given up so that its disk does not fill",
                    options.retained_bytes_max
                )));
            }
            if let Some(free) = free.filter(|free| *free < SERVER_FREE_MIN)
                && retained_bytes > handed.file_bytes
            {
                return Ok(Ended::GaveUp(format!(
                    "the server's disk has {free} bytes left and it kept {retained_bytes} for us; the slot was given up"
                )));
            }
            if let Err(error) = given {
                // The server keeps what we do not take; our own disk must not be what fills.
                if received_bytes(folder)? > options.retained_bytes_max {
                    return Err(error);
                }
                tracing::warn!(store = self.name(), %error, "the log cannot be handed over at the moment");
            }
            tokio::select! {
                _ = receiver.child.wait() => return Ok(Ended::Itself),
                () = tokio::time::sleep(options.every) => {}
            }
        }
    }
}

/// Why the program no longer runs.
enum Ended {
    Itself,
    /// We stopped it, and the slot is to go.
    GaveUp(String),
}

async fn data_directory(session: &Session) -> Option<PathBuf> {
    let asked = "SELECT pg_catalog.current_setting('data_directory', true)";
    let row = session.client.query_one(asked, &[]).await.ok()?;
    let path = PathBuf::from(row.get::<_, Option<String>>(0)?);
    path.is_dir().then_some(path)
}

fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot("its folder"))? {
        names.extend(entry.map_err(cannot("its folder"))?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn received_bytes(folder: &Path) -> Result<u64, Error> {
    let mut sum = 0;
    for name in names(folder)? {
        sum += std::fs::metadata(folder.join(name)).map_or(0, |about| about.len());
    }
    Ok(sum)
}

fn remove(folder: &Path, name: &str) -> Result<(), Error> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot(name)(error)),
        _ => Ok(()),
    }
}

/// Empties the folder of what another server had given us.
fn adopt(folder: &Path, source: &str) -> Result<(), Error> {
    let file = folder.with_extension("source");
    if std::fs::read_to_string(&file).is_ok_and(|known| known != source) {
        forget(folder)?;
    }
    std::fs::write(&file, source).map_err(cannot("its folder"))
}

fn forget(folder: &Path) -> Result<(), Error> {
    for name in names(folder)? {
        remove(folder, &name)?;
    }
    Ok(())
}

/// Tells the program where to go on where its folder says nothing: it begins behind the newest whole file that it finds.
/// That it holds nothing but zeros is of no matter, as nobody reads it.
fn plant(handed: &mut Handed, folder: &Path) -> Result<(), Error> {
    let is_known = names(folder)?.iter().any(|name| segment_of(name, handed.file_bytes).is_some());
    let Some((timeline, number, end)) = handed.newest() else { return Ok(()) };
    if is_known {
        return Ok(());
    }
    // A file that was handed over whole counts as there; of one that was not, the one before it does.
    let whole = end.0 >= (number + 1) * handed.file_bytes;
    let Some(before) = (if whole { Some(number) } else { number.checked_sub(1) }) else { return Ok(()) };
    let name = segment_name(timeline, before, handed.file_bytes);
    handed.note(&name, LogPosition((before + 1) * handed.file_bytes));
    let path = folder.join(name);
    let file = std::fs::File::create(&path).map_err(cannot("its folder"))?;
    file.set_len(handed.file_bytes).map_err(cannot("its folder"))
}

/// Hands over everything that was received up to `kept` and not yet handed over.
async fn hand_over(
    handed: &mut Handed,
    folder: &Path,
    kept: LogPosition,
    sink: &dyn LogSink,
    store: &str,
) -> Result<(), Error> {
    let names = names(folder)?;
    for name in names.iter().filter(|name| name.ends_with(".history")) {
        let timeline = name.strip_suffix(".history").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let Some(timeline) = timeline.filter(|timeline| !handed.histories.contains_key(timeline)) else {
            continue;
        };
        let text = std::fs::read_to_string(folder.join(name)).map_err(cannot(name))?;
        let Some((parent, at)) = branch_of(&text) else { continue };
        let span = LogSpan {
            store: store.to_owned(),
            source: handed.source.clone(),
            timeline,
            file: name.clone(),
            file_bytes: 0,
            start: at,
            end: at,
            until: None,
            parent: Some(parent),
        };
        sink.put(span, text.into()).await?;
        handed.histories.insert(timeline, (parent, at));
    }
    let newest_whole = names.iter().rfind(|name| segment_of(name, handed.file_bytes).is_some()).cloned();
    for name in &names {
        let (file, is_partial) = match name.strip_suffix(".partial") {
            Some(file) => (file.to_owned(), true),
            None => (name.clone(), false),
        };
        let Some((timeline, number)) = segment_of(&file, handed.file_bytes) else { continue };
        let start = LogPosition(number * handed.file_bytes);
        let whole = LogPosition(start.0 + handed.file_bytes);
        // Of a timeline that ended, up to where the next one left it.
        let left_at =
            handed.histories.values().filter(|(parent, _)| *parent == timeline).map(|(_, at)| *at).max();
        let end = match (is_partial, left_at) {
            (false, _) => whole,
            (true, Some(at)) if kept > at => at.min(whole),
            (true, _) => kept.min(whole),
        };
        let mut from = handed.ends.get(&file).copied().unwrap_or(start).max(start);
        while from < end {
            let to = LogPosition(end.0.min(from.0 + PIECE_BYTES_MAX));
            let body = read(&folder.join(name), from.0 - start.0, to.0 - from.0)?;
            let span = LogSpan {
                store: store.to_owned(),
                source: handed.source.clone(),
                timeline,
                file: file.clone(),
                file_bytes: handed.file_bytes,
                start: from,
                end: to,
                until: handed.until(to),
                parent: None,
            };
            sink.put(span, body.into()).await?;
            handed.note(&file, to);
            from = to;
        }
        let is_over = match (is_partial, left_at) {
            (true, Some(at)) => kept > at,
            (true, None) => false,
            // The newest one tells the program where to go on.
            (false, _) => Some(name) != newest_whole.as_ref(),
        };
        if is_over {
            remove(folder, name)?;
        }
    }
    Ok(())
}

fn read(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
    let run = || {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    run().map_err(cannot("a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        let size = 16 << 20;
        for (name, expected) in [
            ("000000010000000000000002", Some((1, 2))),
            ("0000000A00000001000000FF", Some((10, 256 + 255))),
            ("00000002.history", None),
            ("000000010000000000000002.partial", None),
        ] {
            assert_eq!(segment_of(name, size), expected, "{name}");
            if let Some((timeline, number)) = expected {
                assert_eq!(segment_name(timeline, number, size), name);
            }
        }
        let history = "1\t0/3000000\tno recovery target specified\n\n2\t0/50000A0\tbefore 2026\n";
        assert_eq!(branch_of(history), Some((2, LogPosition(0x0500_00a0))));
        assert_eq!(branch_of("\n"), None);
    }

    #[test]
    fn a_moment_counts_once_the_log_has_come_to_it() {
        let mut handed = Handed::new("1", 16 << 20, &[]);
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        handed.sample(at(1), LogPosition(100));
        handed.sample(at(2), LogPosition(200));
        handed.sample(at(3), LogPosition(200));
        assert_eq!(handed.until(LogPosition(99)), None);
        assert_eq!(handed.until(LogPosition(150)), Some(at(1)));
        assert_eq!(handed.until(LogPosition(200)), Some(at(3)));
        assert_eq!(handed.until(LogPosition(150)), Some(at(3)), "what was handed over stays so");
    }
}
