//! Statements and events that become visible together or not at all.

use crate::{Event, NewEvent, Value};

/// One transaction: statements in their order, then events in theirs.
#[derive(Debug, Clone, Default)]
pub struct Write {
    pub(crate) statements: Vec<Statement>,
    pub(crate) events: Vec<NewEvent>,
    pub(crate) erase: Option<u64>,
    pub(crate) unsynced: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) sql: &'static str,
    pub(crate) parameters: Vec<Value>,
    pub(crate) rows_expected: Option<u64>,
}

/// What a [`Write`] did.
#[derive(Debug, Clone)]
pub struct Written {
    /// The events as they stand in the chain, in the order of the write.
    pub events: Vec<Event>,
    /// Rows that each statement changed, in the order of the write.
    pub rows_changed: Vec<u64>,
}

impl Write {
    /// A write that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a statement in the common dialect with `?` placeholders.
    #[must_use]
    pub fn exec(mut self, sql: &'static str, parameters: Vec<Value>) -> Self {
        self.statements.push(Statement { sql, parameters, rows_expected: None });
        self
    }

    /// Adds a statement that must change exactly `rows_expected` rows; otherwise nothing of this write happens and
    /// it fails with `Conflict`.
    #[must_use]
    pub fn exec_expecting(mut self, sql: &'static str, parameters: Vec<Value>, rows_expected: u64) -> Self {
        self.statements.push(Statement { sql, parameters, rows_expected: Some(rows_expected) });
        self
    }

    /// Adds an event; project, actor, task and time come from the context of the write.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Raises the generation `name`, so that other processes read again what it stands for.
    #[must_use]
    pub fn bump(self, name: &str) -> Self {
        self.exec(
            "INSERT INTO generations (name, value) VALUES (?, 1) \
             ON CONFLICT (name) DO UPDATE SET value = generations.value + 1",
            vec![name.into()],
        )
    }

    /// Deletes the body of entry `seq`, after the events of this write, one of which says why.
    pub(crate) fn erase_body(mut self, seq: u64) -> Self {
        self.erase = Some(seq);
        self
    }

    /// Returns after the commit without waiting for fsync: for rows that a power failure may take, such as leases.
    /// A killed process loses nothing.
    #[must_use]
    pub fn unsynced(mut self) -> Self {
        self.unsynced = true;
        self
    }
}
