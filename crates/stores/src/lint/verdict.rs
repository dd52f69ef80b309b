//! What is said of a statement, and what is gathered on the way there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use contract::Severity;
use serde::Serialize;

use super::lock::{Blocking, Lock};
use super::rules::rule_of;
use super::world::Weight;

/// Work that takes as long as the relation is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Reads it whole.
    Scan,
    /// Builds an index over it.
    IndexBuild,
    /// Writes it anew.
    Rewrite,
    /// Changes many of its rows.
    RowsChanged,
}

/// What the linter says of a statement beside its class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Code of the rule.
    pub rule: &'static str,
    /// How much it matters here.
    pub severity: Severity,
    /// What is the matter, with its numbers.
    pub message: String,
    /// What it is about.
    pub object: String,
    /// What to do instead: SQL or a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// Why the author allows it, when a remark in the file does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

/// A lock on a relation that was there before the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RelationLock {
    /// The relation.
    pub relation: String,
    /// Its strongest lock.
    pub lock: Lock,
}

/// What the linter says of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Where it begins, from 1.
    pub line: usize,
    /// Its bytes in the file.
    pub range: Range<usize>,
    /// Its first words.
    pub statement: String,
    /// What it does to others.
    pub blocking: Blocking,
    /// Strongest lock on each relation that was there before, sorted by name.
    pub locks: Vec<RelationLock>,
    /// Relations it reads or writes whole, and how.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub work: Vec<(String, Work)>,
    /// What is the matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Remark>,
    /// What was assumed because nobody could ask.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
}

/// What one statement does, gathered from its operations.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) locks: BTreeMap<String, Lock>,
    /// Strongest lock on indexes alone: readers plan with them.
    pub(super) index_lock: Option<Lock>,
    pub(super) work: Vec<(String, Work, Weight)>,
    pub(super) remarks: Vec<Remark>,
    pub(super) assumed: BTreeSet<String>,
    pub(super) fails: Option<String>,
    pub(super) unjudged: bool,
    /// SQL that does the same without keeping others waiting.
    pub(super) instead: Option<String>,
}

impl Effects {
    pub(super) fn lock(&mut self, relation: &str, lock: Lock) {
        let held = self.locks.entry(relation.to_owned()).or_insert(lock);
        *held = (*held).max(lock);
    }

    pub(super) fn index_lock(&mut self, lock: Lock) {
        self.index_lock = self.index_lock.max(Some(lock));
    }

    pub(super) fn work(&mut self, relation: &str, work: Work, weight: Weight) {
        match self.work.iter_mut().find(|(known, _, _)| known == relation) {
            Some(known) => known.1 = known.1.max(work),
            None => self.work.push((relation.to_owned(), work, weight)),
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.fails.get_or_insert(reason);
    }

    pub(super) fn instead(&mut self, sql: impl Into<String>) {
        self.instead.get_or_insert(sql.into());
    }

    pub(super) fn remark(
        &mut self,
        rule: &'static str,
        severity: Severity,
        object: &str,
        message: String,
    ) -> &mut Remark {
        self.remarks.push(Remark {
            rule,
            severity,
            message,
            object: object.to_owned(),
            instead: rule_of(rule).map(|rule| rule.instead.to_owned()),
            allowed: None,
        });
        self.remarks.last_mut().expect("one was pushed")
    }

    pub(super) fn breaks(&mut self, object: &str, message: String) {
        self.remark("old_code_breaks", Severity::Warning, object, message);
    }

    /// What breaks only those who write what no longer fits.
    pub(super) fn may_break(&mut self, object: &str, message: String) {
        self.remark("old_code_breaks", Severity::Info, object, message);
    }

    /// Nobody can say what it does.
    pub(super) fn unjudged(&mut self, rule: &'static str, object: &str, message: String) {
        self.unjudged = true;
        self.remark(rule, Severity::Critical, object, message);
    }

    pub(super) fn no_effect(&mut self, object: &str, message: String) {
        self.remark("no_effect", Severity::Info, object, message);
    }
}
