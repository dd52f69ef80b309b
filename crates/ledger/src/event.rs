//! An entry of the chain.

use aws_lc_rs::digest;
use contract::{Context, Error, ErrorKind, canonical_json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::seal::{hex, random};

/// Largest body of an event, as JSON.
pub(crate) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Random bytes before each body, so that an erased body cannot be guessed from its hash.
pub(crate) const SALT_BYTES: usize = 16;
/// `prev_hash` of the first entry.
pub(crate) const FIRST_PREV_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Most events that one call of `Ledger::events` returns.
pub(crate) const EVENTS_MAX: usize = 10_000;
/// The event kind that permits a missing body; its subject is `event:<seq>`.
pub(crate) const ERASURE: &str = "audit.erasure";

/// Something that happened, before it has its place in the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Such as `index.create.intent`.
    pub kind: String,
    /// What it is about, such as `store:orders`; empty for nothing in particular.
    pub subject: String,
    /// The rest, sealed and erasable; holds no secret.
    pub body: serde_json::Value,
}

impl NewEvent {
    /// An event of this kind about this subject.
    pub fn new(kind: impl Into<String>, subject: impl Into<String>, body: serde_json::Value) -> Self {
        Self { kind: kind.into(), subject: subject.into(), body }
    }
}

/// An entry of the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Place in the chain: 1, 2, 3 … without gaps.
    pub seq: u64,
    /// `event-` and a UUIDv7.
    pub id: String,
    /// The project that it belongs to.
    pub project: String,
    /// When, UTC; never earlier than the entry before, even when the clock jumps back.
    pub at: Timestamp,
    /// Such as `index.create.intent`.
    pub kind: String,
    /// Who asked, such as `person:anna`.
    pub actor: String,
    /// What it is about, such as `store:orders`; empty for nothing in particular.
    pub subject: String,
    /// On behalf of which task; empty for none.
    pub task: String,
    /// The rest; `None` once it has been erased.
    pub body: Option<serde_json::Value>,
    /// SHA-256 over salt and body, hex.
    pub body_hash: String,
    /// Hash of the entry before; 64 zeros for the first.
    pub prev_hash: String,
    /// SHA-256 over the header, hex.
    pub hash: String,
}

/// Which events to read; the default is: all projects, oldest first, at most 1000.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Of this project only.
    pub project: Option<String>,
    /// Of kinds that begin so, such as `index.`.
    pub kind_prefix: Option<String>,
    /// About this subject only.
    pub subject: Option<String>,
    /// On behalf of this task only.
    pub task: Option<String>,
    /// After this place in the chain.
    pub after_seq: u64,
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// The newest first instead of the oldest.
    pub newest_first: bool,
    /// Most events returned; never more than 10 000. `Ledger::export` takes `None` as all.
    pub limit: Option<usize>,
}

impl EventFilter {
    /// All events of one project.
    pub fn project(project: &str) -> Self {
        Self { project: Some(project.to_owned()), ..Self::default() }
    }

    /// The same, of kinds that begin with `prefix`.
    #[must_use]
    pub fn kind(mut self, prefix: &str) -> Self {
        self.kind_prefix = Some(prefix.to_owned());
        self
    }

    /// The same, on behalf of `task`.
    #[must_use]
    pub fn task(mut self, task: &str) -> Self {
        self.task = Some(task.to_owned());
        self
    }

    /// The same, at most `limit`.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The same, the newest first.
    #[must_use]
    pub fn newest(mut self) -> Self {
        self.newest_first = true;
        self
    }
}

/// A new event with everything but its place in the chain.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) at_us: i64,
    pub(crate) kind: String,
    pub(crate) actor: String,
    pub(crate) subject: String,
    pub(crate) task: String,
    pub(crate) body: serde_json::Value,
    pub(crate) salted: Vec<u8>,
    pub(crate) body_hash: String,
}

impl Draft {
    pub(crate) fn new(ctx: &Context, event: NewEvent) -> Result<Self, Error> {
        if event.kind.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "an event needs a kind"));
        }
        let json = canonical_json(&event.body);
        if json.len() > BODY_BYTES_MAX {
            return Err(Error::new(ErrorKind::LimitExceeded, "the body of the event is too large")
                .with("kind", &event.kind)
                .with("bytes", json.len())
                .with("bytes_max", BODY_BYTES_MAX));
        }
        let mut salted = Vec::with_capacity(SALT_BYTES + json.len());
        salted.extend_from_slice(&random::<SALT_BYTES>());
        salted.extend_from_slice(json.as_bytes());
        Ok(Self {
            id: format!("event-{}", uuid::Uuid::now_v7().simple()),
            project: ctx.project().to_owned(),
            at_us: ctx.now().as_microsecond(),
            kind: event.kind,
            actor: ctx.actor().to_string(),
            subject: event.subject,
            task: ctx.task().unwrap_or_default().to_owned(),
            body: event.body,
            body_hash: hex(digest::digest(&digest::SHA256, &salted).as_ref()),
            salted,
        })
    }
}

/// What the hash of an entry covers, as stored.
pub(crate) struct Header<'a> {
    pub(crate) seq: i64,
    pub(crate) id: &'a [u8],
    pub(crate) project: &'a [u8],
    pub(crate) at_us: i64,
    pub(crate) kind: &'a [u8],
    pub(crate) actor: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) task: &'a [u8],
    pub(crate) body_hash: &'a [u8],
    pub(crate) prev_hash: &'a [u8],
}

impl Header<'_> {
    /// SHA-256 over a version tag, then every field: numbers as 8 bytes, texts after their length as 8 bytes, all
    /// big-endian, so that no two headers have the same encoding. `buffer` is scratch space.
    pub(crate) fn hash(&self, buffer: &mut Vec<u8>) -> [u8; 32] {
        buffer.clear();
        buffer.extend_from_slice(b"steward.event.1\0");
        buffer.extend_from_slice(&self.seq.to_be_bytes());
        buffer.extend_from_slice(&self.at_us.to_be_bytes());
        for text in [
            self.id,
            self.project,
            self.kind,
            self.actor,
            self.subject,
            self.task,
            self.body_hash,
            self.prev_hash,
        ] {
            buffer.extend_from_slice(&(text.len() as u64).to_be_bytes());
            buffer.extend_from_slice(text);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, buffer).as_ref());
        hash
    }
}
