//! What will be changed, exactly, before anything is changed.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Batches, canonical_json, sha256_hex};

/// SHA-256 over a plan's canonical JSON, 64 hex digits. Approvals and permits are bound to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PlanDigest(pub String);

impl PlanDigest {
    /// The first twelve digits, for people to compare.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }
}

impl fmt::Display for PlanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One statement with its bound values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Statement {
    /// The exact text. `{{secret}}` names in `secrets` are replaced by the quoted secret at the last moment.
    pub sql: String,
    /// Values bound in order; empty for statements that take none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Value>,
    /// Placeholder to secret name, such as `password` → `orders/steward_reader` for `PASSWORD {{password}}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
}

impl Statement {
    /// A statement without values.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new(), secrets: BTreeMap::new() }
    }

    /// A statement with bound values.
    pub fn with_parameters(sql: impl Into<String>, parameters: Vec<Value>) -> Self {
        Self { sql: sql.into(), parameters, secrets: BTreeMap::new() }
    }
}

/// How a step's statements are run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepMode {
    /// All statements and the step's record in one transaction: it happened or it did not.
    Transaction,
    /// Each statement on its own, as `CREATE INDEX CONCURRENTLY` demands. The record says `started` before and
    /// `done` after; `is_done` and `clean_up` decide what a half-done step is.
    Autocommit,
    /// The statements once per range of a table's key, each range in a transaction of its own together with the record
    /// of how far the step has come: every row exactly once, whatever dies in between.
    Batched(Box<Batches>),
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanStep {
    /// Unique in the plan, such as `0003_add_status/2`.
    pub id: String,
    /// What it does, for people.
    pub title: String,
    /// How the statements are run.
    pub mode: StepMode,
    /// What is run.
    pub statements: Vec<Statement>,
    /// Autocommit only: a query whose single value is true when the step has already taken effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_done: Option<Statement>,
    /// Autocommit only: run before the step is tried again, such as dropping an invalid index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clean_up: Vec<Statement>,
    /// What takes the step back; empty when nothing can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<Statement>,
    /// Data or objects are lost by it.
    pub destructive: bool,
    /// `undo` brings everything back.
    pub reversible: bool,
    /// Strongest lock taken, in the engine's words, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
}

impl PlanStep {
    /// A step that loses nothing and has no way back yet.
    pub fn new(
        id: impl Into<String>,
        title: impl Into<String>,
        mode: StepMode,
        statements: Vec<Statement>,
    ) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            mode,
            statements,
            is_done: None,
            clean_up: Vec::new(),
            undo: Vec::new(),
            destructive: false,
            reversible: false,
            lock: None,
        }
    }
}

/// A change that has been thought through: what, where, on which pre-state, with which effect and way back.
///
/// Two plans that would do the same on the same pre-state have the same digest, in every process: a plan holds no
/// time, no random id and no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The request it answers, such as `migration.apply`.
    pub request: String,
    /// The request's arguments.
    pub arguments: Value,
    /// The project.
    pub project: String,
    /// What is changed, such as `store:orders`.
    pub target: String,
    /// What will be different, in one sentence.
    pub summary: String,
    /// The steps, in order.
    pub steps: Vec<PlanStep>,
    /// Fingerprint of the state that the plan was made for; the executor refuses another.
    pub pre_state: String,
    /// What is expected of the effect: rows, bytes, time, locks; numbers with their units in the key. What changes by
    /// itself, such as the rows of a table in use, only by its order of magnitude: whoever approves is shown nothing that
    /// the digest does not cover, and an approval does not expire with the next row.
    pub predicted: Value,
    /// Money it costs, in thousand-millionths of a US dollar; 0 for work on own servers.
    pub cost_usd_nanos: u64,
}

impl Plan {
    /// The digest that approvals and permits are bound to.
    pub fn digest(&self) -> PlanDigest {
        let value = serde_json::to_value(self).expect("a plan holds only JSON values");
        PlanDigest(sha256_hex(canonical_json(&value).as_bytes()))
    }

    /// Whether any step loses data or objects.
    pub fn destructive(&self) -> bool {
        self.steps.iter().any(|step| step.destructive)
    }

    /// Whether every step can be taken back.
    pub fn reversible(&self) -> bool {
        self.steps.iter().all(|step| step.reversible)
    }
}
