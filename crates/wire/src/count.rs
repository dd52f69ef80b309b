//! Counting the tokens of a prompt before it is sent.
//!
//! Source: Anthropic API reference "Count tokens in a message", Gemini API reference "Counting tokens", OpenAI API reference "Get input token counts".

use crate::convert::{Converted, convert_request};
use crate::json::{self, Object, Value};
use crate::neutral::{Target, no_equivalent};
use crate::{BadRequest, Format};

/// What may stand in a request that only counts.
const COUNTED_BY_ANTHROPIC: [&str; 6] = ["model", "messages", "system", "tools", "tool_choice", "thinking"];
const COUNTED_BY_OPENAI: [&str; 8] =
    ["model", "input", "instructions", "tools", "tool_choice", "text", "reasoning", "parallel_tool_calls"];

/// What says how an answer is made, and no part of what is counted: not every format can say it.
const ABOUT_THE_ANSWER: [&str; 23] = [
    "max_tokens",
    "metadata",
    "service_tier",
    "stop_sequences",
    "stream",
    "temperature",
    "top_k",
    "top_p",
    "safetySettings",
    "labels",
    // In Gemini's `generationConfig`.
    "stopSequences",
    "topP",
    "topK",
    "maxOutputTokens",
    "candidateCount",
    "seed",
    "presencePenalty",
    "frequencyPenalty",
    "responseLogprobs",
    "logprobs",
    "max_output_tokens",
    "candidate_count",
    "safety_settings",
];

/// Says a request to count tokens in another format. Chat has no such request: estimate there.
///
/// # Errors
///
/// As [`convert_request`]; to chat always.
pub fn convert_count_request(
    from: Format,
    to: Format,
    body: &[u8],
    target: &Target<'_>,
) -> Result<Converted, BadRequest> {
    if to == Format::Chat {
        return Err(no_equivalent("count_tokens"));
    }
    let Value::Object(mut asked) = json::parse(body)? else {
        return Err(BadRequest::new("the body is not a JSON object"));
    };
    // Gemini's may hold the whole request one level deeper.
    let inner = (from == Format::Gemini).then(|| asked.take("generateContentRequest")).flatten();
    if from == to && inner.is_none() {
        return convert_request(from, to, body, target);
    }
    if let Some(Value::Object(inner)) = inner {
        asked = inner;
    }
    for config in ["generationConfig", "generation_config"] {
        if let Some(Value::Object(mut config_of)) = asked.take(config) {
            about_the_prompt(&mut config_of);
            asked = asked.with(config, config_of);
        }
    }
    about_the_prompt(&mut asked);
    let body = asked.into_bytes();
    let mut converted = convert_request(from, to, &body, target)?;
    let Value::Object(mut object) = json::parse(&converted.body)? else {
        return Err(BadRequest::new("the body is not a JSON object"));
    };
    let keep =
        |names: &[&str], object: &mut Object<'_>| object.0.retain(|(name, _)| names.contains(&name.as_ref()));
    let body = match to {
        Format::Messages => {
            keep(&COUNTED_BY_ANTHROPIC, &mut object);
            object
        }
        Format::Responses => {
            keep(&COUNTED_BY_OPENAI, &mut object);
            object
        }
        Format::Gemini | Format::Chat => {
            object.take("model");
            let named = format!("models/{}", target.model.strip_prefix("models/").unwrap_or(target.model));
            object.0.insert(0, ("model".into(), named.into()));
            Object::default().with("generateContentRequest", object)
        }
    }
    .into_bytes();
    converted.body = body;
    // The default limit is no part of what is counted.
    converted.changed.retain(|field| !field.starts_with("max_tokens"));
    Ok(converted)
}

/// Leaves out what is no part of what is counted.
fn about_the_prompt(object: &mut Object<'_>) {
    object.0.retain(|(name, _)| !ABOUT_THE_ANSWER.contains(&name.as_ref()));
}

/// The answer to a client who asked for a count.
pub fn count_tokens_reply(format: Format, tokens: u64) -> Vec<u8> {
    match format {
        Format::Messages => Object::default().with("input_tokens", tokens),
        Format::Gemini => Object::default().with("totalTokens", tokens),
        Format::Chat | Format::Responses => {
            Object::default().with("object", "response.input_tokens").with("input_tokens", tokens)
        }
    }
    .into_bytes()
}

/// The count in a provider's answer.
pub fn read_count_tokens(format: Format, body: &[u8]) -> Option<u64> {
    let key = if format == Format::Gemini { "totalTokens" } else { "input_tokens" };
    json::parse(body).ok()?.get(key)?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_asked_and_answered_in_each_format() {
        let ask = r#"{"model":"smart","system":"Be brief.","messages":[{"role":"user","content":"Hello."}]}"#;
        for (to, expected) in [
            (
                Format::Gemini,
                r#"{"generateContentRequest":{"model":"models/m","contents":[{"role":"user","parts":[{"text":"Hello."}]}],"systemInstruction":{"parts":[{"text":"Be brief."}]}}}"#,
            ),
            (
                Format::Responses,
                r#"{"model":"m","instructions":"Be brief.","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"Hello."}]}]}"#,
            ),
            (
                Format::Messages,
                r#"{"model":"m","system":"Be brief.","messages":[{"role":"user","content":"Hello."}]}"#,
            ),
        ] {
            let converted =
                convert_count_request(Format::Messages, to, ask.as_bytes(), &Target::new("m")).unwrap();
            assert_eq!(String::from_utf8(converted.body).unwrap(), expected);
            assert_eq!(converted.changed, Vec::<String>::new());
        }
        for ask in [
            r#"{"contents":[{"parts":[{"text":"Hello."}]}]}"#,
            r#"{"generateContentRequest":{"model":"models/x","contents":[{"parts":[{"text":"Hello."}]}]}}"#,
        ] {
            let converted =
                convert_count_request(Format::Gemini, Format::Messages, ask.as_bytes(), &Target::new("m"))
                    .unwrap();
            let expected = r#"{"model":"m","messages":[{"role":"user","content":"Hello."}]}"#;
            assert_eq!(String::from_utf8(converted.body).unwrap(), expected, "{ask}");
        }
        assert!(
            convert_count_request(Format::Messages, Format::Chat, ask.as_bytes(), &Target::new("m")).is_err()
        );
        for format in [Format::Responses, Format::Messages, Format::Gemini] {
            assert_eq!(read_count_tokens(format, &count_tokens_reply(format, 42)), Some(42), "{format}");
        }
        assert_eq!(read_count_tokens(Format::Messages, b"{\"input_tokens\":null}"), None);
    }
}
