//! Following the server's log: its own program receives it into a folder, from where it is handed over piece by piece.
//!
//! The server keeps what we have not received in a slot; what we have received and not handed over lies in the folder. So
//! nothing is lost whichever of the three is away, and the folder is never emptied of what was not handed over.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use contract::{
    Context, Error, ErrorKind, FollowLog, FollowOptions, LogGap, LogPosition, LogSink, LogState, Preflight,
    RecoveryPoint, Store, check_marker,
};
use jiff::Timestamp;

use super::base::{Source, System, free_bytes, history, identify};
use super::received::{Handed, Received, left_at, segment_of};
use super::receiver::{PROGRAM, Receiver};
use crate::backup::{Libpq, Programs};
use crate::error::translate;
use crate::session::Session;
use crate::store::PostgresStore;

/// Since this version a slot says where it stands, which is where the program begins.
const VERSION_MIN: i32 = 150_000;
/// Waits between two tries grow from the first to the last.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Below so many free bytes on the server's disk, where that is ours to see, the slot gives way.
const SERVER_FREE_MIN: u64 = 512 << 20;
/// What the server says of a log that it has no more, in English. What its files are called says it in every language, to
/// whom it lets see them.
const REMOVED: &str = "has already been removed";
/// What an administrator does about a server that keeps its log for a slot without limit.
const LIMIT_IT: &str = "run `ALTER SYSTEM SET max_slot_wal_keep_size = '8GB'` and `SELECT pg_reload_conf()` as its superuser \
     (about what its disk has to spare), or set `log_unlimited: true` in the plan";
/// How often, and how long between, it is looked whether the server has noticed that a program is gone.
const SETTLE_TRIES: u32 = 100;
const SETTLE: Duration = Duration::from_millis(50);

/// What the server says at one moment.
struct Look {
    server_at: Timestamp,
    written: LogPosition,
    there: bool,
    active: bool,
    /// From where on the slot keeps the log.
    kept: Option<LogPosition>,
    /// Up to where the program that is at work says that it has the log on disk.
    flushed: Option<LogPosition>,
    /// From where on the server keeps its log for itself.
    redo: LogPosition,
    file_bytes: u64,
    lost: bool,
    kept_max: Option<String>,
}

impl Look {
    /// Bytes that the server keeps for nobody but us: whole files, as it keeps no less. A program that begins anew in the
    /// middle of a file sets the slot back to its beginning, which costs nothing.
    fn retained_bytes(&self) -> u64 {
        let file = |at: LogPosition| at.0 / self.file_bytes;
        self.kept
            .map_or(0, |kept| file(self.written.min(self.redo)).saturating_sub(file(kept)) * self.file_bytes)
    }
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
        flushed: position("flushed"),
        redo: position("redo").unwrap_or(LogPosition(u64::MAX)),
        file_bytes: u64::try_from(row.get::<_, i64>("file_bytes")).unwrap_or(0).max(1),
        lost: row.get::<_, Option<bool>>("lost").unwrap_or(false),
        kept_max: row.get("kept_max"),
    })
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
            let why = format!(
                "while no Steward runs, the server keeps its log for the slot without limit, until its disk is full: {LIMIT_IT}"
            );
            match (seen.there, options.unlimited) {
                // Without a follower the slot that is there would hold back ever more.
                (true, false) => preflight.warnings.push(why),
                (false, false) => preflight.refusals.push(why),
                (_, true) => preflight.notes.push(why),
            }
        }
        Ok(preflight)
    }

    async fn follow(&self, ctx: &Context, options: &FollowOptions, sink: &dyn LogSink) -> Result<(), Error> {
        let received = Received::open(&options.folder)?;
        let mut handed: Option<Handed> = None;
        let mut wait = WAIT_MIN;
        loop {
            let error = match self
                .within(
                    ctx,
                    Box::pin(self.follow_once(ctx, options, &received, sink, &mut handed, &mut wait)),
                )
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
        let seen = self.within(ctx, settled(&session, slot)).await?;
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

/// Looks until nobody is on the slot: the server notices a moment later that a program is gone.
async fn settled(session: &Session, slot: &str) -> Result<Look, Error> {
    let mut seen = look(session, slot).await?;
    for _ in 0..SETTLE_TRIES {
        if !seen.active {
            break;
        }
        tokio::time::sleep(SETTLE).await;
        seen = look(session, slot).await?;
    }
    Ok(seen)
}

/// Where the server's own history left the timeline that we had received further: it was promoted before it had all of that.
async fn forked_at(
    ctx: &Context,
    (programs, libpq): (&Programs, &Libpq),
    system: &System,
    (timeline, begins): (u32, LogPosition),
) -> Result<Option<LogPosition>, Error> {
    if timeline >= system.timeline {
        return Ok(None);
    }
    let history = history(ctx, programs, libpq, system.timeline).await?;
    Ok(left_at(&history, timeline).filter(|fork| *fork < begins))
}

/// Whether the server has no more of its log what is in the file of this number. It had it, or the program would wait for it.
async fn is_removed(session: &Session, number: u64, handed: &Handed, seen: &Look) -> bool {
    // Who may not see the files is told by the state of the slot, or by words.
    let files = "SELECT name FROM pg_catalog.pg_ls_waldir()";
    let Ok(rows) = session.client.query(files, &[]).await else { return false };
    let mut there = rows.iter().filter_map(|row| segment_of(row.get(0), handed.file_bytes));
    number * handed.file_bytes < seen.written.0 && !there.any(|(_, one)| one == number)
}

/// What becomes of the slot where the log has a gap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// It keeps what is still there.
    Stays,
    /// It keeps too much, or nothing any more.
    Anew,
}

/// Goes on behind a gap: the slot first, so that nothing more is lost while the gap is told and a new backup is made.
async fn behind_a_gap(
    session: &Session,
    options: &FollowOptions,
    received: &Received,
    sink: &dyn LogSink,
    (handed, slot): (&Handed, Slot),
    why: String,
) -> Result<(), Error> {
    let before = settled(session, &options.slot).await?;
    if before.there && slot == Slot::Anew {
        drop_slot(session, &options.slot).await?;
    }
    if slot == Slot::Anew || !before.there {
        make_slot(session, &options.slot).await?;
    }
    let seen = look(session, &options.slot).await?;
    sink.gap(LogGap { after: handed.end(), before: seen.kept, why }).await?;
    // Whoever hears of the gap may end this at any time: nothing is waited for from here on.
    received.set_aside(handed.furthest().max(seen.kept.unwrap_or(seen.written)))
}

/// Goes on where the server's own history does. The end of the other timeline stays kept, for whoever wants it.
async fn onto_another_timeline(
    session: &Session,
    options: &FollowOptions,
    received: &Received,
    sink: &dyn LogSink,
    handed: &Handed,
    fork: LogPosition,
) -> Result<(), Error> {
    let kept = settled(session, &options.slot).await?.kept.unwrap_or_default();
    if kept.0 - kept.0 % handed.file_bytes > fork.0 {
        let why = format!("the server was promoted at {fork} and has its log only from {kept} on");
        return behind_a_gap(session, options, received, sink, (handed, Slot::Stays), why).await;
    }
    received.set_aside(handed.furthest().max(kept))
}

impl PostgresStore {
    /// Follows until something ends it; without an error where it is to begin anew at once.
    async fn follow_once(
        &self,
        ctx: &Context,
        options: &FollowOptions,
        received: &Received,
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
            received.adopt(&system.id)?;
            *handed = Some(Handed::new(&system.id, source.wal_file_bytes, &options.kept));
        }
        let Some(handed) = handed.as_mut() else { return Ok(()) };
        handed.samples.clear();
        let seen = settled(&session, &options.slot).await?;
        if seen.active {
            return Err(Error::new(
                ErrorKind::Conflict,
                "another process follows this server's log under our name",
            )
            .with("slot", &options.slot));
        }
        if seen.lost {
            let why = "the server gave up the slot, because it would have kept more than its `max_slot_wal_keep_size`";
            let of = (&*handed, Slot::Anew);
            return behind_a_gap(&session, options, received, sink, of, why.to_owned()).await;
        }
        let disk = if self.opener.address_for(self.dumping()).is_loopback() {
            data_directory(&session).await
        } else {
            None
        };
        // What the program had received when it last ran.
        if let Err(error) = received.hand_over(handed, sink, self.name()).await
            && received.bytes()? > options.retained_bytes_max
        {
            // Nothing more is received until the repository takes it again. The server's disk must not fill meanwhile.
            if let Some(why) = too_much(&seen, options, handed, disk.as_deref()) {
                behind_a_gap(&session, options, received, sink, (&*handed, Slot::Anew), why).await?;
            }
            return Err(error);
        }
        if !seen.there {
            make_slot(&session, &options.slot).await?;
        }
        received.mend(handed.file_bytes)?;
        received.plant(handed)?;
        let mut program = Receiver::start(&programs, &libpq, &received.folder(), &options.slot)?;
        let following = Following { options, received, sink, session: &session, disk: disk.as_deref() };
        let ended = self.supervise(&following, handed, &mut program, wait).await;
        let said = program.stop().await;
        let ended = ended?;
        let begins = received.begins_with(handed.file_bytes)?;
        if let Some((timeline, number)) = begins {
            let begins = (timeline, LogPosition(number * handed.file_bytes));
            if let Some(fork) = forked_at(ctx, (&programs, &libpq), &system, begins).await? {
                return onto_another_timeline(&session, options, received, sink, handed, fork).await;
            }
        }
        let seen = settled(&session, &options.slot).await?;
        let removed = match begins {
            Some((_, number)) => is_removed(&session, number, handed, &seen).await,
            None => false,
        };
        let gap = match ended {
            Ended::Itself if removed || said.contains(REMOVED) => {
                // Anew, as the program has set the slot back to where there is no log any more. What the server still has
                // from before its last checkpoint is of use to no backup that comes.
                Some((Slot::Anew, format!("the server has no more of its log than what follows it: {said}")))
            }
            Ended::Itself => None,
            Ended::GaveUp(why) => Some((Slot::Anew, why)),
        };
        if let Some((slot, why)) = gap {
            return behind_a_gap(&session, options, received, sink, (&*handed, slot), why).await;
        }
        let kind =
            if said.contains("No space left") { ErrorKind::LimitExceeded } else { ErrorKind::Unavailable };
        Err(Error::new(kind, format!("`{PROGRAM}` has ended")).because(said))
    }

    async fn supervise(
        &self,
        following: &Following<'_>,
        handed: &mut Handed,
        program: &mut Receiver,
        wait: &mut Duration,
    ) -> Result<Ended, Error> {
        let Following { options, received, sink, session, disk } = *following;
        loop {
            let begun = Instant::now();
            let seen = look(session, &options.slot).await?;
            handed.sample(seen.server_at, seen.written);
            // Until the program at work has said anything, what it had before is all that is known to be on disk.
            if let Some(flushed) = seen.flushed {
                received.note_flushed(flushed)?;
            }
            let given = received.hand_over(handed, sink, self.name()).await;
            if given.is_ok() {
                *wait = WAIT_MIN;
            }
            let (timeline, _, end) = handed.newest().unwrap_or_default();
            // Where nothing was written there is nothing to hand over, and nothing would be lost.
            let until = match seen.flushed {
                Some(flushed) if given.is_ok() => handed.until(end.max(flushed)),
                _ => handed.until(end),
            };
            sink.state(LogState {
                source: handed.source.clone(),
                timeline,
                written: seen.written,
                kept: end,
                until,
                retained_bytes: seen.retained_bytes(),
                problem: given.as_ref().err().map(ToString::to_string),
            })
            .await;
            if seen.lost || !seen.there {
                return Ok(Ended::Itself);
            }
            if let Some(why) = too_much(&seen, options, handed, disk) {
                return Ok(Ended::GaveUp(why));
            }
            if let Err(error) = given {
                // The server keeps what we do not take; our own disk must not be what fills.
                if received.bytes()? > options.retained_bytes_max {
                    return Err(error);
                }
                tracing::warn!(store = self.name(), %error, "the log cannot be handed over at the moment");
            }
            // What is written while a large part is handed over shall not wait for longer.
            let rest = options.every.saturating_sub(begun.elapsed());
            tokio::select! {
                _ = program.child.wait() => return Ok(Ended::Itself),
                () = tokio::time::sleep(rest) => {}
            }
        }
    }
}

/// What a log is followed with.
#[derive(Clone, Copy)]
struct Following<'a> {
    options: &'a FollowOptions,
    received: &'a Received,
    sink: &'a dyn LogSink,
    session: &'a Session,
    disk: Option<&'a Path>,
}

/// Why the program no longer runs.
enum Ended {
    Itself,
    /// We stopped it, and the slot is to go.
    GaveUp(String),
}

/// Why the slot has to go, if it has.
fn too_much(seen: &Look, options: &FollowOptions, handed: &Handed, disk: Option<&Path>) -> Option<String> {
    let retained_bytes = seen.retained_bytes();
    if retained_bytes > options.retained_bytes_max {
        return Some(format!(
            "the server kept {retained_bytes} bytes for us, over the limit of {}; the slot was given up so that its disk does not fill",
            options.retained_bytes_max
        ));
    }
    let free = disk.and_then(free_bytes).filter(|free| *free < SERVER_FREE_MIN)?;
    (retained_bytes > handed.file_bytes).then(|| {
        format!("the server's disk has {free} bytes left and it kept {retained_bytes} for us; the slot was given up")
    })
}

async fn data_directory(session: &Session) -> Option<PathBuf> {
    let asked = "SELECT pg_catalog.current_setting('data_directory', true)";
    let row = session.client.query_one(asked, &[]).await.ok()?;
    let path = PathBuf::from(row.get::<_, Option<String>>(0)?);
    path.is_dir().then_some(path)
}
