//! What the ledger knows of backups: a cache of what the repositories hold, with what became of each.

use std::collections::BTreeMap;

use contract::quantity::{size, span};
use contract::{BackupMethod, Context, Error, ErrorKind};
use jiff::Timestamp;
use ledger::{Ledger, NewEvent, Row, Write};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::copies::{self, Copied};
use crate::signature::Signed;

/// How far a backup is proven.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Not at all: it failed, or nobody has looked.
    #[default]
    None,
    /// The dump came to its end and says so.
    L0,
    /// The repository's records are whole and every file has its length.
    L1,
    /// Its bytes were read back.
    L2,
    /// It was restored, and every table has the rows that were dumped.
    L3,
    /// And the restored copy answered the user's own questions.
    L4,
}

impl Level {
    /// The word in the ledger and in the project file.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::L0 => "l0",
            Level::L1 => "l1",
            Level::L2 => "l2",
            Level::L3 => "l3",
            Level::L4 => "l4",
        }
    }

    /// What it means, in a few words.
    pub fn means(self) -> &'static str {
        match self {
            Level::None => "unproven",
            Level::L0 => "dumped to its end",
            Level::L1 => "the repository's records are whole",
            Level::L2 => "its bytes were read back; restorable: unproven",
            Level::L3 => "restored and compared",
            Level::L4 => "restored, compared and probed",
        }
    }

    /// Whether it was restored and compared: only then is it a backup.
    pub fn is_proven(self) -> bool {
        self >= Level::L3
    }
}

/// What became of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is being made.
    Running,
    /// It is kept in its repository.
    Complete,
    /// It did not come to its end; nothing of it can be restored.
    Failed,
    /// It was taken off the repository's list.
    Forgotten,
}

impl State {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Complete => "complete",
            State::Failed => "failed",
            State::Forgotten => "forgotten",
        }
    }
}

/// Where the record of a backup comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was made under this record.
    #[default]
    Made,
    /// It was found in its repository.
    Found,
}

/// A backup as the ledger has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recorded {
    /// Steward's id.
    pub id: String,
    /// The plan.
    pub plan: String,
    /// The store.
    pub store: String,
    /// Where it is kept.
    pub repository: String,
    /// The repository's id; empty until it is written.
    pub snapshot: String,
    /// How it was taken.
    pub method: BackupMethod,
    /// What became of it.
    pub state: State,
    /// The process that makes it.
    #[serde(skip)]
    pub holder: String,
    /// When it was begun.
    #[schemars(with = "String")]
    pub begun_at: Timestamp,
    /// The moment whose state it holds.
    #[schemars(with = "Option<String>")]
    pub point_at: Option<Timestamp>,
    /// When it came to its end.
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<Timestamp>,
    /// Bytes of its parts.
    pub bytes: Option<u64>,
    /// Bytes that its repository had not yet.
    pub bytes_added: Option<u64>,
    /// Rows of all tables.
    pub rows: Option<u64>,
    /// How far it is proven.
    pub level: Level,
    /// When it was last proven.
    #[schemars(with = "Option<String>")]
    pub verified_at: Option<Timestamp>,
    /// How long a restore took until the copy answered, in milliseconds.
    pub restore_ms: Option<u64>,
    /// Why it failed, or what is wrong with it.
    pub problem: Option<String>,
    /// What is odd about it beside the newest one about which nothing was.
    pub suspicions: Vec<String>,
    /// When a person accepted what is odd about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub accepted_at: Option<Timestamp>,
    /// Where else it lies.
    #[serde(default)]
    pub copies: Vec<Copied>,
    /// The name that it shares with those that were taken together with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<String>,
    /// Where this record comes from.
    pub origin: Origin,
    /// What its manifest's signature said when it was recorded.
    pub signed: Signed,
}

const INSERT: &str = "INSERT INTO backups (project, id, plan, store, repository, snapshot, method, state, holder, begun_us, \
     together, level, suspicions) VALUES (?, ?, ?, ?, ?, '', ?, 'running', ?, ?, ?, 'none', '[]')";
const COMPLETE: &str = "UPDATE backups SET state = 'complete', snapshot = ?, point_us = ?, finished_us = ?, bytes = ?, \
     bytes_added = ?, rows = ?, level = 'l0', suspicions = ?, signed = ? WHERE project = ? AND id = ? AND state = 'running'";
const FAIL: &str = "UPDATE backups SET state = 'failed', finished_us = ?, problem = ? WHERE project = ? AND id = ? \
     AND state = 'running'";
const PROVE: &str = "UPDATE backups SET level = ?, verified_us = ?, restore_ms = COALESCE(?, restore_ms), problem = ? \
     WHERE project = ? AND id = ? AND state = 'complete'";
const FORGET: &str =
    "UPDATE backups SET state = 'forgotten' WHERE project = ? AND id = ? AND state = 'complete'";
const REMEMBER: &str =
    "UPDATE backups SET state = 'complete' WHERE project = ? AND id = ? AND state = 'forgotten'";
const TAKE_IN: &str = "INSERT INTO backups (project, id, plan, store, repository, snapshot, method, state, holder, begun_us, \
     point_us, finished_us, bytes, rows, together, level, suspicions, signed, origin) \
     VALUES (?, ?, ?, ?, ?, ?, ?, 'complete', 'gone', ?, ?, ?, ?, ?, ?, 'l0', '[]', ?, 'found') \
     ON CONFLICT (project, id) DO UPDATE SET snapshot = excluded.snapshot, state = 'complete', level = 'l0', \
     repository = excluded.repository, point_us = excluded.point_us, finished_us = excluded.finished_us, \
     bytes = excluded.bytes, rows = excluded.rows, signed = excluded.signed, problem = NULL \
     WHERE backups.state IN ('running', 'failed')";
const DOUBT: &str = "UPDATE backups SET problem = ? WHERE project = ? AND id = ? AND state = 'complete'";
const LIST: &str = "SELECT * FROM backups WHERE project = ? AND (? = '' OR store = ?) ORDER BY begun_us DESC, id DESC LIMIT ?";
const SHOW: &str = "SELECT * FROM backups WHERE project = ? AND id = ?";
const TOGETHER: &str =
    "SELECT * FROM backups WHERE project = ? AND together = ? AND state = 'complete' ORDER BY store";
const BASELINE: &str = "SELECT * FROM backups WHERE project = ? AND store = ? AND repository = ? AND method = ? AND id <> ? \
     AND begun_us < ? AND state = 'complete' AND (suspicions = '[]' OR accepted_us IS NOT NULL) \
     ORDER BY problem IS NOT NULL, COALESCE(point_us, begun_us) DESC, id DESC LIMIT 20";
const COUNTED: &str = "SELECT counted FROM backups WHERE project = ? AND id = ? AND counted IS NOT NULL";
const COUNT: &str = "UPDATE backups SET counted = ? WHERE project = ? AND id = ? AND state = 'complete'";
const SUSPECT: &str = "UPDATE backups SET suspicions = ? WHERE project = ? AND id = ? AND state = 'complete' AND accepted_us IS NULL";
const SUSPICIOUS: &str = "SELECT * FROM backups WHERE project = ? AND (? = '' OR store = ?) AND state = 'complete' \
     AND suspicions <> '[]' AND accepted_us IS NULL ORDER BY begun_us, id";
const ACCEPT: &str = "UPDATE backups SET accepted_us = ? WHERE project = ? AND id = ? AND state = 'complete' \
     AND suspicions <> '[]' AND accepted_us IS NULL";
const RUNNING: &str = "SELECT * FROM backups WHERE project = ? AND state = 'running'";
const NEWEST_PROVEN: &str = "SELECT * FROM backups WHERE project = ? AND store = ? AND state = 'complete' \
     AND level IN ('l3', 'l4') AND problem IS NULL AND point_us <= ? ORDER BY point_us DESC, id DESC LIMIT 1";
const MADE: &str = "SELECT subject FROM events WHERE project = ? AND kind = 'backup.made' ORDER BY seq DESC";

/// Clocks of machines that are right may lie so far apart, in seconds.
const CLOCKS_APART_S: i64 = 60;

/// The last moment that can have been, by this clock.
pub(crate) fn latest(now: Timestamp) -> Timestamp {
    now.checked_add(jiff::SignedDuration::from_secs(CLOCKS_APART_S)).unwrap_or(Timestamp::MAX)
}

/// Whether a moment can only come from a clock that ran ahead: how long ago it was cannot be told.
pub(crate) fn is_ahead(now: Timestamp, at: Timestamp) -> bool {
    at > latest(now)
}

impl Recorded {
    fn read(row: &Row) -> Result<Self, Error> {
        let word = |name: &str| -> Result<serde_json::Value, Error> { Ok(json!(row.get_text(name)?)) };
        let odd = |name: &'static str| move |cause: serde_json::Error| odd_row(name, cause);
        let number = |name: &str| -> Result<Option<u64>, Error> {
            Ok(row.get_opt_i64(name)?.and_then(|number| u64::try_from(number).ok()))
        };
        Ok(Self {
            id: row.get_text("id")?.to_owned(),
            plan: row.get_text("plan")?.to_owned(),
            store: row.get_text("store")?.to_owned(),
            repository: row.get_text("repository")?.to_owned(),
            snapshot: row.get_text("snapshot")?.to_owned(),
            method: serde_json::from_value(word("method")?).map_err(odd("method"))?,
            state: serde_json::from_value(word("state")?).map_err(odd("state"))?,
            holder: row.get_text("holder")?.to_owned(),
            begun_at: row.get_time("begun_us")?,
            point_at: row.get_opt_time("point_us")?,
            finished_at: row.get_opt_time("finished_us")?,
            bytes: number("bytes")?,
            bytes_added: number("bytes_added")?,
            rows: number("rows")?,
            level: serde_json::from_value(word("level")?).map_err(odd("level"))?,
            verified_at: row.get_opt_time("verified_us")?,
            restore_ms: number("restore_ms")?,
            problem: row.get_opt_text("problem")?.map(str::to_owned),
            suspicions: row.get_json("suspicions")?,
            accepted_at: row.get_opt_time("accepted_us")?,
            copies: Vec::new(),
            together: Some(row.get_text("together")?.to_owned()).filter(|name| !name.is_empty()),
            origin: serde_json::from_value(word("origin")?).map_err(odd("origin"))?,
            signed: serde_json::from_value(word("signed")?).map_err(odd("signed"))?,
        })
    }

    /// Whether something is odd about it that nobody has accepted.
    pub fn is_suspicious(&self) -> bool {
        !self.suspicions.is_empty() && self.accepted_at.is_none()
    }

    /// Whether a clock that ran ahead has dated it.
    pub(crate) fn is_ahead(&self, now: Timestamp) -> bool {
        is_ahead(now, self.begun_at) || self.point_at.is_some_and(|point| is_ahead(now, point))
    }

    /// In a list for people.
    pub(crate) fn line(&self, now: Timestamp) -> String {
        let at = self.point_at.unwrap_or(self.begun_at);
        let state = match (self.state, &self.problem) {
            (State::Complete, None) => self.level.means().to_owned(),
            (State::Complete, Some(problem)) => format!("DAMAGED: {problem}"),
            (State::Running, _) => "running".to_owned(),
            (State::Failed, problem) => format!("failed: {}", problem.as_deref().unwrap_or("interrupted")),
            (State::Forgotten, _) => "forgotten".to_owned(),
        };
        let suspicious = match (self.is_suspicious(), self.accepted_at) {
            (true, _) => "; SUSPICIOUS",
            (false, Some(_)) => "; accepted as it is",
            (false, None) => "",
        };
        let whole: Vec<&str> = self
            .copies
            .iter()
            .filter(|copied| copied.problem.is_none())
            .map(|copied| copied.repository.as_str())
            .collect();
        let copies = if whole.is_empty() { String::new() } else { format!("; also in {}", whole.join(", ")) };
        format!(
            "{}  {}  {}  {:>9}  {} ago  {state}{copies}{suspicious}",
            self.id,
            self.store,
            at.strftime("%Y-%m-%d %H:%M:%SZ"),
            self.bytes.map_or_else(|| "-".to_owned(), size),
            span(age_s(now, at)),
        )
    }
}

/// Seconds between two moments; 0 when the later one comes first.
pub(crate) fn age_s(now: Timestamp, then: Timestamp) -> u64 {
    u64::try_from(now.as_second() - then.as_second()).unwrap_or(0)
}

fn odd_row(column: &'static str, cause: serde_json::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "a record of a backup cannot be read")
        .with("column", column)
        .because(cause)
}

/// A backup that is about to be made.
pub(crate) struct Begun<'a> {
    pub(crate) id: &'a str,
    pub(crate) plan: &'a str,
    pub(crate) store: &'a str,
    pub(crate) repository: &'a str,
    pub(crate) method: BackupMethod,
    pub(crate) holder: &'a str,
    /// Empty: alone.
    pub(crate) together: &'a str,
}

pub(crate) async fn begin(ctx: &Context, ledger: &Ledger, begun: &Begun<'_>) -> Result<(), Error> {
    let write = Write::new().exec(
        INSERT,
        vec![
            ctx.project().into(),
            begun.id.into(),
            begun.plan.into(),
            begun.store.into(),
            begun.repository.into(),
            method(begun.method).into(),
            begun.holder.into(),
            ctx.now().as_microsecond().into(),
            begun.together.into(),
        ],
    );
    ledger.write(ctx, write).await.map(|_| ())
}

/// What a backup came to.
pub(crate) struct Completed<'a> {
    pub(crate) id: &'a str,
    pub(crate) store: &'a str,
    pub(crate) snapshot: &'a str,
    pub(crate) point_at: Timestamp,
    pub(crate) bytes: u64,
    pub(crate) bytes_added: u64,
    pub(crate) rows: u64,
    pub(crate) suspicions: &'a [String],
    pub(crate) signed: Signed,
}

pub(crate) async fn complete(ctx: &Context, ledger: &Ledger, completed: &Completed<'_>) -> Result<(), Error> {
    let suspicions = serde_json::to_string(completed.suspicions).expect("texts are JSON");
    let write = Write::new()
        .exec_expecting(
            COMPLETE,
            vec![
                completed.snapshot.into(),
                completed.point_at.as_microsecond().into(),
                ctx.now().as_microsecond().into(),
                completed.bytes.into(),
                completed.bytes_added.into(),
                completed.rows.into(),
                suspicions.into(),
                completed.signed.as_str().into(),
                ctx.project().into(),
                completed.id.into(),
            ],
            1,
        )
        .event(NewEvent::new(
            "backup.made",
            format!("backup:{}", completed.id),
            json!({
                "store": completed.store, "snapshot": completed.snapshot, "bytes": completed.bytes,
                "bytes_added": completed.bytes_added, "rows": completed.rows, "suspicions": completed.suspicions,
            }),
        ));
    ledger.write(ctx, write).await.map(|_| ())
}

pub(crate) async fn fail(ctx: &Context, ledger: &Ledger, id: &str, problem: &str) -> Result<(), Error> {
    let write = Write::new()
        .exec(FAIL, vec![ctx.now().as_microsecond().into(), problem.into(), ctx.project().into(), id.into()])
        .event(NewEvent::new("backup.failed", format!("backup:{id}"), json!({ "problem": problem })));
    ledger.write(ctx, write).await.map(|_| ())
}

/// What a look at a backup found.
pub(crate) async fn prove(
    ctx: &Context,
    ledger: &Ledger,
    id: &str,
    level: Level,
    restore_ms: Option<u64>,
    problem: Option<&str>,
) -> Result<(), Error> {
    let write = Write::new()
        .exec_expecting(
            PROVE,
            vec![
                level.as_str().into(),
                ctx.now().as_microsecond().into(),
                restore_ms.into(),
                problem.map(str::to_owned).into(),
                ctx.project().into(),
                id.into(),
            ],
            1,
        )
        .event(NewEvent::new(
            "backup.verified",
            format!("backup:{id}"),
            json!({ "level": level, "restore_ms": restore_ms, "problem": problem }),
        ));
    ledger.write(ctx, write).await.map(|_| ())
}

/// Rows by table.
pub(crate) type Counted = BTreeMap<String, u64>;

/// Records what the tables of the restored copy of a backup held.
pub(crate) async fn count(ctx: &Context, ledger: &Ledger, id: &str, counted: &Counted) -> Result<(), Error> {
    let counted = serde_json::to_string(counted).expect("names and numbers are JSON");
    let write = Write::new().exec(COUNT, vec![counted.into(), ctx.project().into(), id.into()]);
    ledger.write(ctx, write).await.map(|_| ())
}

/// What the tables of the restored copy of a backup held, if it was restored and the dump had seen no rows.
pub(crate) async fn counted(ctx: &Context, ledger: &Ledger, id: &str) -> Result<Option<Counted>, Error> {
    let rows = ledger.query(COUNTED, vec![ctx.project().into(), id.into()]).await?;
    rows.first().map(|row| row.get_json("counted")).transpose()
}

/// What a backup may be compared with: complete ones of its series that were begun before the moment, about which nothing is odd or
/// was accepted. Sound ones come first, of these the newest.
pub(crate) async fn baselines(
    ctx: &Context,
    ledger: &Ledger,
    of: &Recorded,
    begun_before: Option<Timestamp>,
) -> Result<Vec<Recorded>, Error> {
    let parameters = vec![
        ctx.project().into(),
        of.store.as_str().into(),
        of.repository.as_str().into(),
        method(of.method).into(),
        of.id.as_str().into(),
        begun_before.map_or(i64::MAX, Timestamp::as_microsecond).into(),
    ];
    ledger.query(BASELINE, parameters).await?.iter().map(Recorded::read).collect()
}

/// Records what is odd about a backup. What was accepted stays so.
pub(crate) async fn suspect(
    ctx: &Context,
    ledger: &Ledger,
    id: &str,
    suspicions: &[String],
) -> Result<(), Error> {
    let told = serde_json::to_string(suspicions).expect("texts are JSON");
    let write = Write::new().exec(SUSPECT, vec![told.into(), ctx.project().into(), id.into()]).event(
        NewEvent::new("backup.suspected", format!("backup:{id}"), json!({ "suspicions": suspicions })),
    );
    ledger.write(ctx, write).await.map(|_| ())
}

/// The backups about which something is odd that nobody has accepted, the oldest first.
pub(crate) async fn suspicious(
    ctx: &Context,
    ledger: &Ledger,
    store: Option<&str>,
) -> Result<Vec<Recorded>, Error> {
    let store = store.unwrap_or_default();
    let parameters = vec![ctx.project().into(), store.into(), store.into()];
    ledger.query(SUSPICIOUS, parameters).await?.iter().map(Recorded::read).collect()
}

/// Records that somebody has looked at what is odd about these backups, and that it is as it should be.
pub(crate) async fn accept(ctx: &Context, ledger: &Ledger, backups: &[Recorded]) -> Result<(), Error> {
    let mut write = Write::new();
    for backup in backups {
        let now = ctx.now().as_microsecond();
        let parameters = vec![now.into(), ctx.project().into(), backup.id.as_str().into()];
        write = write.exec_expecting(ACCEPT, parameters, 1).event(NewEvent::new(
            "backup.accepted",
            format!("backup:{}", backup.id),
            json!({ "store": backup.store, "suspicions": backup.suspicions }),
        ));
    }
    ledger.write(ctx, write).await.map(|_| ())
}

/// Records that backups are taken off their repository's list.
pub(crate) async fn forget(ctx: &Context, ledger: &Ledger, ids: &[&str]) -> Result<(), Error> {
    let mut write = Write::new();
    for id in ids {
        write = write.exec(FORGET, vec![ctx.project().into(), (*id).into()]).event(NewEvent::new(
            "backup.forgotten",
            format!("backup:{id}"),
            json!({}),
        ));
    }
    ledger.write(ctx, write).await.map(|_| ())
}

/// Records that backups are still on their repository's list, though they were about to be taken off it.
pub(crate) async fn remember(ctx: &Context, ledger: &Ledger, ids: &[&str]) -> Result<(), Error> {
    let mut write = Write::new();
    for id in ids {
        write = write.exec(REMEMBER, vec![ctx.project().into(), (*id).into()]).event(NewEvent::new(
            "backup.not_forgotten",
            format!("backup:{id}"),
            json!({}),
        ));
    }
    ledger.write(ctx, write).await.map(|_| ())
}

/// The newest first, at most `limit`.
pub(crate) async fn list(
    ctx: &Context,
    ledger: &Ledger,
    store: Option<&str>,
    limit: u32,
) -> Result<Vec<Recorded>, Error> {
    let store = store.unwrap_or_default();
    let parameters = vec![ctx.project().into(), store.into(), store.into(), i64::from(limit).into()];
    let rows = ledger.query(LIST, parameters).await?;
    let mut backups = rows.iter().map(Recorded::read).collect::<Result<Vec<_>, _>>()?;
    copies::fill(ctx, ledger, &mut backups).await?;
    Ok(backups)
}

/// The same backups, the one that was made last first, also where a clock that ran ahead has dated some of them: then the trail
/// says in which order they were made. What was found in a repository comes behind what was made here, as its dates say.
pub(crate) async fn made_last_first(
    ctx: &Context,
    ledger: &Ledger,
    mut backups: Vec<Recorded>,
) -> Result<Vec<Recorded>, Error> {
    let now = ctx.now();
    if backups.iter().all(|backup| !backup.is_ahead(now)) {
        return Ok(backups);
    }
    let rows = ledger.query(MADE, vec![ctx.project().into()]).await?;
    let made = rows.iter().map(|row| row.get_text("subject")).collect::<Result<Vec<_>, _>>()?;
    let place = |backup: &Recorded| {
        let subject = format!("backup:{}", backup.id);
        made.iter().position(|made| **made == subject).unwrap_or(usize::MAX)
    };
    backups.sort_by_cached_key(|backup| (place(backup), backup.is_ahead(now)));
    Ok(backups)
}

async fn with_copies(ctx: &Context, ledger: &Ledger, row: Option<&Row>) -> Result<Option<Recorded>, Error> {
    let Some(row) = row else { return Ok(None) };
    let mut one = [Recorded::read(row)?];
    copies::fill(ctx, ledger, &mut one).await?;
    let [one] = one;
    Ok(Some(one))
}

/// One backup by its id.
pub(crate) async fn show(ctx: &Context, ledger: &Ledger, id: &str) -> Result<Option<Recorded>, Error> {
    let rows = ledger.query(SHOW, vec![ctx.project().into(), id.into()]).await?;
    with_copies(ctx, ledger, rows.first()).await
}

/// The newest backup of a store that was restored and compared. One that is dated in the future is none: its age is not known.
///
/// # Errors
///
/// As the ledger's.
pub async fn newest_proven(ctx: &Context, ledger: &Ledger, store: &str) -> Result<Option<Recorded>, Error> {
    let latest = latest(ctx.now()).as_microsecond();
    let rows = ledger.query(NEWEST_PROVEN, vec![ctx.project().into(), store.into(), latest.into()]).await?;
    with_copies(ctx, ledger, rows.first()).await
}

/// A backup as its repository has it, for a ledger that does not know it.
pub(crate) struct Found<'a> {
    pub(crate) id: &'a str,
    pub(crate) plan: &'a str,
    pub(crate) store: &'a str,
    pub(crate) repository: &'a str,
    pub(crate) snapshot: &'a str,
    pub(crate) method: BackupMethod,
    pub(crate) begun_at: Timestamp,
    pub(crate) point_at: Timestamp,
    pub(crate) ended_at: Timestamp,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    /// Empty: alone.
    pub(crate) together: &'a str,
    pub(crate) signed: Signed,
}

/// Takes a backup in, or completes the record of one whose run never said that it came to its end.
pub(crate) async fn take_in(ctx: &Context, ledger: &Ledger, found: &Found<'_>) -> Result<(), Error> {
    let write = Write::new()
        .exec(
            TAKE_IN,
            vec![
                ctx.project().into(),
                found.id.into(),
                found.plan.into(),
                found.store.into(),
                found.repository.into(),
                found.snapshot.into(),
                method(found.method).into(),
                found.begun_at.as_microsecond().into(),
                found.point_at.as_microsecond().into(),
                found.ended_at.as_microsecond().into(),
                found.bytes.into(),
                found.rows.into(),
                found.together.into(),
                found.signed.as_str().into(),
            ],
        )
        .event(NewEvent::new(
            "backup.found",
            format!("backup:{}", found.id),
            json!({ "store": found.store, "repository": found.repository, "snapshot": found.snapshot }),
        ));
    ledger.write(ctx, write).await.map(|_| ())
}

/// Records what is wrong with a backup without having looked at its bytes.
pub(crate) async fn doubt(ctx: &Context, ledger: &Ledger, id: &str, problem: &str) -> Result<(), Error> {
    let write = Write::new()
        .exec(DOUBT, vec![problem.into(), ctx.project().into(), id.into()])
        .event(NewEvent::new("backup.doubted", format!("backup:{id}"), json!({ "problem": problem })));
    ledger.write(ctx, write).await.map(|_| ())
}

/// The complete backups that were taken together under this name.
pub(crate) async fn together(ctx: &Context, ledger: &Ledger, name: &str) -> Result<Vec<Recorded>, Error> {
    let arguments = vec![ctx.project().into(), name.into()];
    ledger.query(TOGETHER, arguments).await?.iter().map(Recorded::read).collect()
}

/// Backups that are being made, also by processes that are gone.
pub(crate) async fn running(ctx: &Context, ledger: &Ledger) -> Result<Vec<Recorded>, Error> {
    ledger.query(RUNNING, vec![ctx.project().into()]).await?.iter().map(Recorded::read).collect()
}

fn method(method: BackupMethod) -> &'static str {
    match method {
        BackupMethod::Logical => "logical",
        BackupMethod::Physical => "physical",
    }
}
