//! The one door, as rooms see it.

use std::sync::LazyLock;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Answer, Context, Error};

/// What a request does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Looks only.
    Read,
    /// Changes something: a plan is made and decided first.
    Change,
}

/// A request's arguments, defined once in the room that serves it. Their schema makes the command line, the HTTP
/// interface, the MCP tools and the reference.
///
/// Field names and docstrings are what users read: docstrings are one sentence, units in the name.
pub trait Request: Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// Noun and verb, such as `store.inspect`. One word each, verbs may have a hyphen.
    const NAME: &'static str;
    /// One line for lists.
    const SUMMARY: &'static str;
    /// A command line that works, such as `steward store inspect orders --format mermaid`.
    const EXAMPLE: &'static str;
    /// What it does to the world.
    const EFFECT: Effect;
    /// The action in the authority matrix, such as `store.read` or `schema.migrate`.
    const ACTION: &'static str;
    /// Fields that the command line takes by position, in order. All others are flags.
    const POSITIONAL: &'static [&'static str];
}

/// A request type as data.
#[derive(Debug)]
pub struct RequestSpec {
    /// Noun and verb.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// A command line that works.
    pub example: &'static str,
    /// What it does to the world.
    pub effect: Effect,
    /// The action in the authority matrix.
    pub action: &'static str,
    /// Fields taken by position on the command line.
    pub positional: &'static [&'static str],
    /// JSON Schema (2020-12) of the arguments: an object. Made when it is first looked at: a command needs few of them.
    pub schema: LazyLock<Value>,
}

impl RequestSpec {
    /// The data of request type `R`.
    pub fn of<R: Request>() -> Self {
        Self {
            name: R::NAME,
            summary: R::SUMMARY,
            example: R::EXAMPLE,
            effect: R::EFFECT,
            action: R::ACTION,
            positional: R::POSITIONAL,
            schema: LazyLock::new(|| {
                serde_json::to_value(schemars::schema_for!(R)).expect("a schema is JSON")
            }),
        }
    }
}

/// Where every request goes in, whoever asks; implemented by the binary, handed to `pm` and the scheduler.
#[async_trait]
pub trait Door: Send + Sync {
    /// All requests there are.
    fn requests(&self) -> &[RequestSpec];

    /// Decides, does, verifies and records the request `name` with these arguments. For a change, the argument
    /// `dry_run: true` beside its own only plans and decides it.
    ///
    /// # Errors
    ///
    /// `Invalid`: unknown request or wrong arguments. Otherwise what the room returns. A decision other than
    /// "permitted" is not an error but an [`Answer`] with its status.
    async fn submit(&self, ctx: &Context, name: &str, arguments: Value) -> Result<Answer, Error>;
}
