//! What comes back: values, findings and the evidence behind every number.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{Content, PlanDigest, Trigger};

/// A statement that was run and the answer that came, kept so that a number can be traced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// `ev-` and a UUIDv7: findings refer to it before it is stored.
    pub id: String,
    /// Where it was asked, such as `store:orders`.
    pub source: String,
    /// The statement or request, as it can be run again.
    pub statement: String,
    /// What came back.
    pub answer: Value,
    /// When, UTC.
    #[schemars(with = "String")]
    pub taken_at: Timestamp,
    /// How long it took, in milliseconds.
    pub elapsed_ms: f64,
}

impl Evidence {
    /// New evidence with an id of its own.
    pub fn new(source: &str, statement: &str, answer: Value, taken_at: Timestamp, elapsed_ms: f64) -> Self {
        let id = format!("ev-{}", Uuid::now_v7().simple());
        Self { id, source: source.to_owned(), statement: statement.to_owned(), answer, taken_at, elapsed_ms }
    }
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Should be looked at.
    Warning,
    /// Someone must act.
    Critical,
}

/// Something that was found out, with the evidence for every number in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Stable name, such as `orphan_rows` or `missing_index`.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence with its numbers.
    pub title: String,
    /// What it is about, such as `orders.customer_id`; empty for the store as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// What to do about it, if we know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<String>,
    /// Ids of the evidence that the numbers come from.
    pub evidence: Vec<String>,
    /// Set when the mission demands that the PM hears of it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate: Option<Trigger>,
}

/// What a room function gives back to the door.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The answer for programs; field names stay.
    pub value: Content,
    /// The answer for people; the door prints `value` when it is empty.
    pub text: String,
    /// What was found out.
    pub findings: Vec<Finding>,
    /// What the numbers rest on.
    pub evidence: Vec<Evidence>,
}

impl Outcome {
    /// An answer of `value`, shown to people as `text`.
    pub fn new(value: impl Serialize, text: impl Into<String>) -> Self {
        let value = serde_json::to_value(value).expect("answers hold only JSON values");
        Self::of(value, text)
    }

    /// The same of what is no tree of values yet.
    pub fn of(content: impl Into<Content>, text: impl Into<String>) -> Self {
        Self { value: content.into(), text: text.into(), findings: Vec::new(), evidence: Vec::new() }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerStatus {
    /// Done, or answered.
    Done,
    /// Waits for an approval or an answer; nothing has changed.
    Waiting,
    /// Refused by the matrix; nothing has changed.
    Forbidden,
    /// Handed to someone else; nothing has changed.
    Escalated,
    /// Only planned, because `dry_run` was asked for; nothing has changed.
    Planned,
}

/// What the authority matrix said, in short.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Decided {
    /// `permitted`, `approval`, `escalate` or `forbidden`.
    pub decision: String,
    /// Policies that decided, by id.
    pub policies: Vec<String>,
    /// Roles that could approve, when an approval is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What a request gives back through any way in.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The request's name, such as `store.inspect`.
    pub request: String,
    /// How it ended.
    pub status: AnswerStatus,
    /// The answer for programs.
    #[schemars(with = "Value")]
    pub value: Content,
    /// The answer for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// What was found out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// Ids of the evidence that was stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What the matrix said.
    pub decided: Decided,
    /// The plan's digest, for changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanDigest>,
    /// The approval that is waited for, or that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// The escalation that was opened, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<String>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: f64,
}
