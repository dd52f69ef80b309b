//! A store's log: what an engine writes down of every change, kept piece by piece behind its physical backups, so that a
//! backup can be brought forward to any moment after it.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Context, Error, ErrorKind, Preflight, Pruned, RecoveryPoint};

/// A byte of a log, counted from the log's beginning. Written as PostgreSQL writes it: two halves in hex with a `/` between.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct LogPosition(pub u64);

impl std::fmt::Display for LogPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for LogPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let half = |part: &str| {
            let is_hex = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?))))
            .ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("`{text}` is no position in a log"))
                    .hint("it looks like 0/16B3748")
            })
    }
}

impl TryFrom<String> for LogPosition {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<LogPosition> for String {
    fn from(position: LogPosition) -> Self {
        position.to_string()
    }
}

/// To which moment a backup is brought forward. Written `end`, a time such as `2026-03-04T14:03:05Z`, `lsn:0/16B3748`,
/// `xid:735` or `marker:before_release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum RecoveryTarget {
    /// As far as the log goes.
    End,
    /// With everything that was committed up to and at this moment by the server's clock.
    Time(Timestamp),
    /// With everything that the log holds before this position.
    Position(LogPosition),
    /// Up to and with the commit of this transaction.
    Transaction(u64),
    /// Up to a point that was given this name.
    Marker(String),
}

impl std::fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::End => f.write_str("end"),
            Self::Time(time) => write!(f, "{time}"),
            Self::Position(position) => write!(f, "lsn:{position}"),
            Self::Transaction(id) => write!(f, "xid:{id}"),
            Self::Marker(name) => write!(f, "marker:{name}"),
        }
    }
}

impl FromStr for RecoveryTarget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::new(ErrorKind::Invalid, format!("`{text}` is no moment to restore to")).hint(
                "write `end`, a time with its zone such as 2026-03-04T14:03:05Z, lsn:0/16B3748, xid:735 or marker:NAME",
            )
        };
        match text.split_once(':') {
            _ if text == "end" => Ok(Self::End),
            Some(("lsn", position)) => position.parse().map(Self::Position),
            Some(("xid", id)) => id.parse().map(Self::Transaction).map_err(|_| invalid()),
            Some(("marker", name)) => check_marker(name).map(|()| Self::Marker(name.to_owned())),
            // People write a blank between date and time.
            _ => text.replacen(' ', "T", 1).parse().map(Self::Time).map_err(|_| invalid()),
        }
    }
}

impl TryFrom<String> for RecoveryTarget {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<RecoveryTarget> for String {
    fn from(target: RecoveryTarget) -> Self {
        target.to_string()
    }
}

/// Refuses names of markers that an engine or a command line could misunderstand.
///
/// # Errors
///
/// `Invalid`: it is not 1 to 63 of `0-9A-Za-z._-`.
pub fn check_marker(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..64).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("`{name}` cannot be the name of a marker"))
        .hint("1 to 63 characters of 0-9 A-Z a-z . _ -"))
}

/// A stretch of a log: bytes of one of the engine's log files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogSpan {
    /// The store's name.
    pub store: String,
    /// What identifies the server whose log it is; another after it was made anew.
    pub source: String,
    /// Which of the histories of this server.
    pub timeline: u32,
    /// The engine's name of the file that it belongs to.
    pub file: String,
    /// Length of that file when it is whole; 0 where it is as long as its bytes.
    pub file_bytes: u64,
    /// The first byte.
    pub start: LogPosition,
    /// Behind the last byte.
    pub end: LogPosition,
    /// What was acknowledged before this moment of the server's clock lies before `end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
    /// It holds no records, but says that this timeline left another one, which, at `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
}

/// A stretch of a log as a repository keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogPiece {
    /// What it holds.
    pub span: LogSpan,
    /// Bytes as they are kept: compressed and encrypted.
    pub bytes: u64,
    /// SHA-256 of those bytes, in hex.
    pub sha256: String,
}

/// All pieces of a store's log, as far as their names can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogListing {
    /// In the order of source, timeline and position.
    pub pieces: Vec<LogPiece>,
    /// Files that are no pieces, each with the reason.
    pub unreadable: Vec<String>,
}

/// Keeps logs, encrypted with the key of the backups, in files that are written once.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Keeps a stretch; durable once this returns. The same stretch a second time may be kept twice.
    ///
    /// # Errors
    ///
    /// `Invalid`: a name that cannot be part of a path. `Denied`, `Unavailable`, `LimitExceeded`.
    async fn append(&self, ctx: &Context, span: &LogSpan, body: Bytes) -> Result<LogPiece, Error>;

    /// What there is of a store's log.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`.
    async fn list(&self, ctx: &Context, store: &str) -> Result<LogListing, Error>;

    /// The bytes of a piece.
    ///
    /// # Errors
    ///
    /// `NotFound`: it is gone. `Corrupt`: other bytes than were written. `Unavailable`, `Denied`.
    async fn read(&self, ctx: &Context, piece: &LogPiece) -> Result<Bytes, Error>;

    /// Marks pieces that nothing needs any more, and deletes those that were marked 48 hours ago or longer and are
    /// still among them.
    ///
    /// # Errors
    ///
    /// `Denied`, `Unavailable`.
    async fn prune(&self, ctx: &Context, store: &str, unneeded: &[LogPiece]) -> Result<Pruned, Error>;
}

/// From where on a log can be applied to a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogStart {
    /// As in [`LogSpan`].
    pub source: String,
    /// The timeline that the backup was taken on.
    pub timeline: u32,
    /// The backup alone holds everything before this position.
    pub position: LogPosition,
    /// The first position that is needed from the log: the beginning of the file in which it goes on.
    pub needs_from: LogPosition,
}

/// What a backup is brought forward with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// How far.
    pub target: RecoveryTarget,
    /// Which timeline is followed.
    pub timeline: u32,
    /// A folder with the log's files in the clear, under the engine's names.
    pub logs: PathBuf,
    /// The log in that folder reaches the target, though its last record may be older: what time or position says that all
    /// of it is wanted.
    pub target_is_covered: bool,
}

/// How a log is followed.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// The name under which the server keeps the log for us.
    pub slot: String,
    /// A folder of this store alone that stays between runs; what is in it is in the clear.
    pub folder: PathBuf,
    /// Longest time for which changes stay here before they are handed over.
    pub every: Duration,
    /// Most bytes that the server may keep for us; beyond, the slot is given up and a gap is told.
    pub retained_bytes_max: u64,
    /// Also of a server that keeps its log for us without a limit of its own while nobody follows it.
    pub unlimited: bool,
    /// What the repository has already.
    pub kept: Vec<LogPiece>,
}

/// Why a log is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogGap {
    /// The last position before it that is kept.
    pub after: Option<LogPosition>,
    /// Where the log goes on.
    pub before: Option<LogPosition>,
    /// Why, in a sentence.
    pub why: String,
}

/// How far a log was followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogState {
    /// As in [`LogSpan`].
    pub source: String,
    /// The timeline that the server is on.
    pub timeline: u32,
    /// How far the server has written.
    pub written: LogPosition,
    /// How far it was handed over.
    pub kept: LogPosition,
    /// What was acknowledged before this moment of the server's clock was handed over.
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
    /// Bytes that the server keeps for us.
    pub retained_bytes: u64,
    /// What goes wrong at the moment, if something does.
    pub problem: Option<String>,
}

/// Where a followed log goes.
#[async_trait]
pub trait LogSink: Send + Sync {
    /// Takes the next stretch; it is durable once this returns.
    ///
    /// # Errors
    ///
    /// As the repository's; the stretch is given again later.
    async fn put(&self, span: LogSpan, body: Bytes) -> Result<(), Error>;

    /// A part of the log will never come.
    ///
    /// # Errors
    ///
    /// `Unavailable`: it could not be recorded.
    async fn gap(&self, gap: LogGap) -> Result<(), Error>;

    /// How far it is, after each look; errors are the receiver's business.
    async fn state(&self, state: LogState);
}

/// Follows a store's log.
#[async_trait]
pub trait FollowLog: Send + Sync {
    /// Looks for what stands in the way; changes nothing.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Denied`, `TimedOut`: the store cannot be asked at all.
    async fn preflight(&self, ctx: &Context, options: &FollowOptions) -> Result<Preflight, Error>;

    /// Follows the log until `ctx` ends, over interruptions of the server and of `sink`. What was handed over last stays the
    /// beginning of the next run.
    ///
    /// # Errors
    ///
    /// `Canceled`, `TimedOut`: `ctx` has ended, which is the usual end. `Denied`, `Unsupported`: it will never work so.
    async fn follow(&self, ctx: &Context, options: &FollowOptions, sink: &dyn LogSink) -> Result<(), Error>;

    /// Gives the present moment a name, and says where it is.
    ///
    /// # Errors
    ///
    /// `Denied`: the login may not. `Conflict`: the server is a copy that only reads. `Invalid`, `Unavailable`.
    async fn marker(&self, ctx: &Context, name: &str) -> Result<RecoveryPoint, Error>;

    /// Tells the server that nobody follows any more, so that it keeps nothing; no error where it did not.
    ///
    /// # Errors
    ///
    /// `Conflict`: somebody follows right now. `Denied`, `Unavailable`.
    async fn unfollow(&self, ctx: &Context, slot: &str) -> Result<(), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_targets_survive_their_text() {
        for text in ["0/0", "0/16B3748", "A/FFFFFFFF", "FFFFFFFF/1"] {
            let position: LogPosition = text.parse().unwrap();
            assert_eq!(position.to_string(), text);
        }
        assert!(LogPosition(0x2_0000_0000) > "1/FFFFFFFF".parse().unwrap());
        for wrong in ["", "0", "/", "0/", "0/+1", "0/100000000", "x/1", "0/1/2"] {
            assert!(wrong.parse::<LogPosition>().is_err(), "{wrong}");
        }
        for text in ["end", "2026-03-04T14:03:05.000001Z", "lsn:0/16B3748", "xid:735", "marker:a-b.c_D1"] {
            let target: RecoveryTarget = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
        assert_eq!(
            "2026-03-04 15:03:05+01".parse::<RecoveryTarget>().unwrap(),
            RecoveryTarget::Time("2026-03-04T14:03:05Z".parse().unwrap())
        );
        for wrong in ["", "now", "2026-03-04T14:03:05", "lsn:5", "xid:-1", "xid:", "marker:", "marker:a b"] {
            assert!(wrong.parse::<RecoveryTarget>().is_err(), "{wrong}");
        }
    }
}
