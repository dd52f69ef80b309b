//! How far something has come that takes long.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far one stage of a request has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// What is being done, such as `orders: dump`.
    pub stage: String,
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes that are expected, as far as anyone can tell; it may become more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
}

/// Whoever wants to know. It is told often, and must not wait.
pub trait Watch: Send + Sync {
    /// The newest state; earlier ones are of no interest any more.
    fn progress(&self, progress: Progress);
}
