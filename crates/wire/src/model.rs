//! Lists of models in the three shapes.
//!
//! Source: OpenAI API reference "Models", Anthropic API reference "Models", Gemini API reference "Models".

use crate::json::{self, Object, Value};
use crate::{BadReply, Format};

/// A model as clients are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Model<'a> {
    /// The name that requests use.
    pub id: &'a str,
    /// A name for people; the id when there is none.
    pub display_name: Option<&'a str>,
    /// When it appeared, in seconds since 1970.
    pub created_s: u64,
    /// Who offers it.
    pub owned_by: &'a str,
    /// Most tokens of the prompt.
    pub input_tokens_max: Option<u64>,
    /// Most tokens of the answer.
    pub output_tokens_max: Option<u64>,
    /// Whether it makes embeddings in place of text.
    pub embeds: bool,
}

/// The list of models. Anthropic's and Gemini's lists are one page.
pub fn models_list(format: Format, models: &[Model<'_>]) -> Vec<u8> {
    let entries: Vec<Value<'_>> = models.iter().map(|model| entry(format, model).into()).collect();
    match format {
        Format::Chat | Format::Responses => Object::default().with("object", "list").with("data", entries),
        Format::Messages => {
            let id =
                |model: Option<&Model<'_>>| model.map_or(Value::Null, |model| model.id.to_owned().into());
            Object::default()
                .with("data", entries)
                .with("has_more", false)
                .with("first_id", id(models.first()))
                .with("last_id", id(models.last()))
        }
        Format::Gemini => Object::default().with("models", entries),
    }
    .into_bytes()
}

/// One model.
pub fn model_entry(format: Format, model: &Model<'_>) -> Vec<u8> {
    entry(format, model).into_bytes()
}

fn entry<'a>(format: Format, model: &Model<'a>) -> Object<'a> {
    let display_name = model.display_name.unwrap_or(model.id);
    match format {
        Format::Chat | Format::Responses => Object::default()
            .with("id", model.id)
            .with("object", "model")
            .with("created", model.created_s)
            .with("owned_by", model.owned_by),
        Format::Messages => {
            let mut entry = Object::default()
                .with("type", "model")
                .with("id", model.id)
                .with("display_name", display_name)
                .with("created_at", date_time(model.created_s));
            entry.put_some("max_input_tokens", model.input_tokens_max);
            entry.put_some("max_tokens", model.output_tokens_max);
            entry
        }
        Format::Gemini => {
            let methods: &[&str] = if model.embeds {
                &["embedContent", "batchEmbedContents"]
            } else {
                &["generateContent", "countTokens"]
            };
            let mut entry = Object::default()
                .with("name", format!("models/{}", model.id))
                .with("version", "1")
                .with("displayName", display_name);
            entry.put_some("inputTokenLimit", model.input_tokens_max);
            entry.put_some("outputTokenLimit", model.output_tokens_max);
            entry.with(
                "supportedGenerationMethods",
                methods.iter().map(|method| Value::from(*method)).collect::<Vec<_>>(),
            )
        }
    }
}

/// Ids out of a provider's list, without Gemini's `models/`.
///
/// # Errors
///
/// The body is no list of models.
pub fn read_models(format: Format, body: &[u8]) -> Result<Vec<String>, BadReply> {
    let (list, key) = if format == Format::Gemini { ("models", "name") } else { ("data", "id") };
    let body = json::parse(body)?;
    let entries = body.get(list).and_then(Value::as_array);
    let entries = entries.ok_or_else(|| BadReply::new(format!("the reply has no `{list}`")))?;
    let ids = entries.iter().filter_map(|entry| entry.get(key)?.as_str());
    Ok(ids.map(|id| id.strip_prefix("models/").unwrap_or(id).to_owned()).collect())
}

/// Seconds since 1970 as `2026-11-23T00:00:00Z`.
fn date_time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Gregorian eras of 400 years that begin in March, so that the leap day is the last of a year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let day = day - (153 * shifted + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_written_and_read_in_each_shape() {
        let models = [
            Model {
                id: "fast",
                created_s: 1_760_000_000,
                owned_by: "steward",
                input_tokens_max: Some(9),
                ..Model::default()
            },
            Model {
                id: "vectors",
                display_name: Some("Vectors"),
                owned_by: "steward",
                embeds: true,
                ..Model::default()
            },
        ];
        for (format, expected) in [
            (
                Format::Chat,
                r#"{"object":"list","data":[{"id":"fast","object":"model","created":1760000000,"owned_by":"steward"},{"id":"vectors","object":"model","created":0,"owned_by":"steward"}]}"#,
            ),
            (
                Format::Messages,
                r#"{"data":[{"type":"model","id":"fast","display_name":"fast","created_at":"2025-10-09T08:53:20Z","max_input_tokens":9},{"type":"model","id":"vectors","display_name":"Vectors","created_at":"1970-01-01T00:00:00Z"}],"has_more":false,"first_id":"fast","last_id":"vectors"}"#,
            ),
            (
                Format::Gemini,
                r#"{"models":[{"name":"models/fast","version":"1","displayName":"fast","inputTokenLimit":9,"supportedGenerationMethods":["generateContent","countTokens"]},{"name":"models/vectors","version":"1","displayName":"Vectors","supportedGenerationMethods":["embedContent","batchEmbedContents"]}]}"#,
            ),
        ] {
            let list = models_list(format, &models);
            assert_eq!(String::from_utf8(list.clone()).unwrap(), expected);
            assert_eq!(read_models(format, &list).unwrap(), ["fast", "vectors"]);
        }
        assert!(read_models(Format::Chat, b"{}").is_err());
        for (seconds, expected) in [
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date_time(seconds), expected);
        }
    }
}
