//! Locks and what they keep others from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A table lock, from weak to strong.
///
/// Source: PostgreSQL manual, "Explicit Locking", table-level lock modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the manual's names")]
pub enum Lock {
    AccessShare,
    RowShare,
    RowExclusive,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    Exclusive,
    AccessExclusive,
}

impl Lock {
    const NAMES: [(Lock, &'static str); 8] = [
        (Self::AccessShare, "ACCESS SHARE"),
        (Self::RowShare, "ROW SHARE"),
        (Self::RowExclusive, "ROW EXCLUSIVE"),
        (Self::ShareUpdateExclusive, "SHARE UPDATE EXCLUSIVE"),
        (Self::Share, "SHARE"),
        (Self::ShareRowExclusive, "SHARE ROW EXCLUSIVE"),
        (Self::Exclusive, "EXCLUSIVE"),
        (Self::AccessExclusive, "ACCESS EXCLUSIVE"),
    ];

    /// The manual's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    /// The lock of this name, as the manual or `pg_locks` (`AccessShareLock`) writes it.
    pub fn named(name: &str) -> Option<Self> {
        let plain = |text: &str| text.trim_end_matches("Lock").replace([' ', '_'], "").to_ascii_lowercase();
        Self::NAMES.iter().find(|(_, known)| plain(known) == plain(name)).map(|(lock, _)| *lock)
    }

    /// Who waits while it is held.
    pub fn blocks(self) -> Blocking {
        match self {
            Self::AccessExclusive => Blocking::All,
            Self::Exclusive | Self::ShareRowExclusive | Self::Share => Blocking::Writes,
            _ => Blocking::None,
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a statement does to those who work at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocking {
    /// Nobody waits.
    None,
    /// Others wait for a moment, once the lock is there.
    Brief,
    /// Writers wait while a whole table is read or written.
    Writes,
    /// Readers and writers wait while a whole table is read or written.
    All,
    /// The server refuses it.
    Fails,
    /// Nobody can say: it may block.
    Unjudged,
}

impl Blocking {
    /// Whether somebody should look before it runs.
    pub fn hurts(self) -> bool {
        self >= Self::Writes
    }
}

impl fmt::Display for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "blocks nobody",
            Self::Brief => "blocks for a moment",
            Self::Writes => "blocks writes for long",
            Self::All => "blocks reads and writes for long",
            Self::Fails => "fails",
            Self::Unjudged => "may block; cannot be judged",
        })
    }
}
