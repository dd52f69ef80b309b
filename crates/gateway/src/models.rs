//! The list of models, in the words of each API.

use serde_json::{Value, json};
use wire::Format;

use crate::table::Grant;

/// What a model's record says about its origin, where a date is wanted: routes have none.
const NO_DATE: &str = "1970-01-01T00:00:00Z";

/// The models that the holder of a key may ask for, or the one that is named; `None`: not that one.
pub(crate) fn list(grant: &Grant, format: Format, one: Option<&str>) -> Option<Vec<u8>> {
    let names = grant.project.model_names();
    let mut allowed = names.iter().filter(|(name, _)| grant.reach.allows(name));
    if let Some(wanted) = one {
        // Google's clients say `models/x`.
        let wanted = wanted.strip_prefix("models/").unwrap_or(wanted);
        let (name, owner) = allowed.find(|(name, _)| name == wanted)?;
        return Some(model(format, name, owner).to_string().into_bytes());
    }
    let all: Vec<Value> = allowed.map(|(name, owner)| model(format, name, owner)).collect();
    let body = match format {
        Format::Chat | Format::Responses => json!({ "object": "list", "data": all }),
        Format::Messages => {
            let id = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
            json!({ "first_id": id(all.first()), "last_id": id(all.last()), "has_more": false, "data": all })
        }
        Format::Gemini => json!({ "models": all }),
    };
    Some(body.to_string().into_bytes())
}

fn model(format: Format, name: &str, owner: &str) -> Value {
    match format {
        Format::Chat | Format::Responses => {
            json!({ "id": name, "object": "model", "created": 0, "owned_by": owner })
        }
        Format::Messages => {
            json!({ "type": "model", "id": name, "display_name": name, "created_at": NO_DATE })
        }
        Format::Gemini => json!({
            "name": format!("models/{name}"), "version": "1", "displayName": name,
            "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens", "embedContent"],
        }),
    }
}
