//! Lists of models in three shapes.

use serde_json::{Value, json};

use crate::Exchange;
use crate::chat::CREATED;

const OPENAI: [&str; 4] = ["gpt-5", "gpt-5-mini", "gpt-4o-mini", "text-embedding-3-small"];
const ANTHROPIC: [&str; 2] = ["claude-sonnet-4-5", "claude-haiku-4-5"];
const GEMINI: [&str; 2] = ["gemini-2.5-flash", "gemini-embedding-001"];

/// A list, or the one model that the path names; `None` for a model that is not there.
pub(crate) fn answer(exchange: &Exchange) -> Option<Value> {
    let name = exchange.path.rsplit('/').next().filter(|name| *name != "models");
    if exchange.header("anthropic-version").is_some() {
        let one = |id: &str| json!({"type": "model", "id": id, "display_name": id, "created_at": "2025-06-15T15:06:40Z"});
        return match name {
            Some(name) => ANTHROPIC.contains(&name).then(|| one(name)),
            None => Some(json!({
                "data": ANTHROPIC.map(one), "has_more": false,
                "first_id": ANTHROPIC.first(), "last_id": ANTHROPIC.last(),
            })),
        };
    }
    if exchange.header("x-goog-api-key").is_some() || exchange.path.starts_with("/v1beta") {
        let one = |name: &str| {
            json!({"name": format!("models/{name}"), "version": "fake", "displayName": name,
                "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536,
                "supportedGenerationMethods": ["generateContent", "countTokens"]})
        };
        return match name {
            Some(name) => GEMINI.contains(&name).then(|| one(name)),
            None => Some(json!({"models": GEMINI.map(one)})),
        };
    }
    let one = |id: &str| json!({"id": id, "object": "model", "created": CREATED, "owned_by": "fake"});
    match name {
        Some(name) => OPENAI.contains(&name).then(|| one(name)),
        None => Some(json!({"object": "list", "data": OPENAI.map(one)})),
    }
}
