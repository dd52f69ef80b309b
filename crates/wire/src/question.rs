//! What a request asks, apart from how it is written: two requests with the same question may get the same answer.

use crate::Format;
use crate::json::{self, Object, Value};

/// Members of a request that do not change what is answered, in any format.
const UNIMPORTANT: [&str; 9] = [
    "model",
    "user",
    "metadata",
    "stream",
    "stream_options",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
];

/// A request in its canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Keys sorted, no spaces, texts with one way to write each character, numbers as they were written (`1` and `1.0`
    /// may mean different things, and no digit may be lost). Without the model, without who asks and without whether it
    /// is streamed.
    pub canonical: Vec<u8>,
    /// The likeliest answer is wanted and no other: the temperature is 0.
    pub greedy: bool,
    /// The provider keeps what was said before, or keeps this for later: the request is not the whole question.
    pub stateful: bool,
}

/// The question of a request; `None` where it is no JSON object, or names a member twice, which parsers read differently.
pub fn question(format: Format, body: &[u8]) -> Option<Question> {
    let Ok(Value::Object(mut request)) = json::parse(body) else { return None };
    let zero = |value: Option<&Value<'_>>| matches!(value, Some(Value::Number(text)) if text.parse::<f64>().is_ok_and(|number| number == 0.0));
    let greedy = match format {
        Format::Gemini => {
            let config = request.get("generationConfig").or_else(|| request.get("generation_config"));
            zero(config.and_then(|config| config.get("temperature")))
        }
        Format::Chat | Format::Responses | Format::Messages => zero(request.get("temperature")),
    };
    let yes = |name: &str| request.get(name).and_then(Value::as_bool) == Some(true);
    let stateful = request.get("previous_response_id").is_some()
        || request.get("conversation").is_some()
        || request.get("container").is_some()
        || yes("background")
        || format == Format::Chat && yes("store");
    request.0.retain(|(name, _)| !UNIMPORTANT.contains(&name.as_ref()));
    sort(&mut request)?;
    Some(Question { canonical: request.into_bytes(), greedy, stateful })
}

fn sort(object: &mut Object<'_>) -> Option<()> {
    object.0.sort_by(|(one, _), (other, _)| one.cmp(other));
    if object.0.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    object.0.iter_mut().try_for_each(|(_, value)| sort_within(value))
}

fn sort_within(value: &mut Value<'_>) -> Option<()> {
    match value {
        Value::Object(object) => sort(object),
        Value::Array(elements) => elements.iter_mut().try_for_each(sort_within),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(()),
    }
}

/// A request that is one question in words: apart from the text, everything that it says is its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single {
    /// The request in its canonical form, without the question's text: instructions, parameters, the form of the answer.
    pub frame: Vec<u8>,
    /// What is asked.
    pub text: String,
}

/// The question of a request that asks one thing in one text: after instructions there is one turn, of the user, with text
/// alone; no tools, no images, nothing said before, nothing that the provider keeps.
///
/// `None`: it is more than that.
pub fn single(format: Format, body: &[u8]) -> Option<Single> {
    let Ok(Value::Object(mut request)) = json::parse(body) else { return None };
    let is_empty =
        |value: &Value<'_>| value.is_null() || value.as_array().is_some_and(<[Value<'_>]>::is_empty);
    let refers = [
        "tools",
        "functions",
        "audio",
        "prediction",
        "cachedContent",
        "cached_content",
        "prompt",
        "mcp_servers",
    ];
    if refers.iter().any(|name| request.get(name).is_some_and(|value| !is_empty(value))) {
        return None;
    }
    let turns = match format {
        Format::Chat | Format::Messages => member(&mut request, "messages")?,
        Format::Responses => member(&mut request, "input")?,
        Format::Gemini => member(&mut request, "contents")?,
    };
    let text = match turns {
        Value::String(_) if format == Format::Responses => taken(turns)?,
        Value::Array(turns) => {
            let (last, before) = turns.split_last_mut()?;
            let role = |turn: &Value<'_>| turn.get("role").and_then(Value::as_str).map(str::to_owned);
            if !before.iter().all(|turn| matches!(role(turn).as_deref(), Some("system" | "developer"))) {
                return None;
            }
            let by_user = match role(last).as_deref() {
                Some("user") => true,
                None => format == Format::Gemini,
                Some(_) => false,
            };
            if !by_user {
                return None;
            }
            let Value::Object(last) = last else { return None };
            let content = member(last, if format == Format::Gemini { "parts" } else { "content" })?;
            match content {
                Value::String(_) if format != Format::Gemini => taken(content)?,
                Value::Array(parts) => {
                    let [Value::Object(part)] = parts.as_mut_slice() else { return None };
                    let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
                    let known = |name: &str| matches!(name, "type" | "text");
                    if !matches!(kind, "text" | "input_text") || !part.0.iter().all(|(name, _)| known(name)) {
                        return None;
                    }
                    taken(member(part, "text")?)?
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    request.0.retain(|(name, _)| !UNIMPORTANT.contains(&name.as_ref()));
    sort(&mut request)?;
    Some(Single { frame: request.into_bytes(), text })
}

fn member<'v, 'a>(object: &'v mut Object<'a>, name: &str) -> Option<&'v mut Value<'a>> {
    object.0.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// Takes a text out, so that its place is what is left.
fn taken(value: &mut Value<'_>) -> Option<String> {
    match std::mem::replace(value, Value::Null) {
        Value::String(text) => Some(text.into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: &str) -> Option<Question> {
        question(Format::Chat, body.as_bytes())
    }

    #[test]
    fn the_same_however_it_is_written() {
        let one = chat(
            r#"{"model":"a","temperature":0,"messages":[{"role":"user","content":"h\u00e9"}],"seed":9007199254740993}"#,
        );
        let other = chat(
            r#" { "seed": 9007199254740993, "stream": true, "messages": [ {"content":"hé", "role":"user"} ],
                  "user": "u1", "metadata": {"a": 1}, "model": "b", "temperature": 0 } "#,
        );
        assert!(one.is_some());
        assert_eq!(one, other);
    }

    #[test]
    fn other_questions_differ() {
        let bodies = [
            r#"{"messages":[{"role":"user","content":"hi"}],"seed":1}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"seed":1.0}"#,
            r#"{"messages":[{"role":"user","content":"hi "}],"seed":1}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"seed":1,"tools":[]}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"seed":"1"}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"seed":9007199254740993}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"seed":9007199254740992}"#,
        ];
        let mut questions: Vec<_> = bodies.iter().map(|body| chat(body).unwrap().canonical).collect();
        questions.sort();
        questions.dedup();
        assert_eq!(questions.len(), bodies.len());
    }

    #[test]
    fn what_has_no_question() {
        assert_eq!(chat("[1]"), None);
        assert_eq!(chat(r#"{"a":1,"a":2}"#), None);
        assert_eq!(chat(r#"{"a":[{"b":1,"b":1}]}"#), None);
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(chat(&deep), None);
    }

    #[test]
    fn greedy_and_stateful() {
        let asked = |format, body: &str| question(format, body.as_bytes()).map(|q| (q.greedy, q.stateful));
        assert_eq!(asked(Format::Chat, r#"{"messages":[]}"#), Some((false, false)));
        assert_eq!(asked(Format::Chat, r#"{"temperature":0.7}"#), Some((false, false)));
        assert_eq!(asked(Format::Messages, r#"{"temperature":0.0}"#), Some((true, false)));
        assert_eq!(asked(Format::Gemini, r#"{"generationConfig":{"temperature":0}}"#), Some((true, false)));
        assert_eq!(asked(Format::Gemini, r#"{"temperature":0}"#), Some((false, false)));
        let state = r#"{"temperature":0,"previous_response_id":"resp_1"}"#;
        assert_eq!(asked(Format::Responses, state), Some((true, true)));
        assert_eq!(asked(Format::Chat, r#"{"store":true}"#), Some((false, true)));
        assert_eq!(asked(Format::Responses, r#"{"store":true}"#), Some((false, false)));
    }

    #[test]
    fn one_question_in_words_and_its_frame() {
        let frame = |format, body: &str| {
            single(format, body.as_bytes()).map(|it| (String::from_utf8(it.frame).unwrap(), it.text))
        };
        let (one, text) = frame(
            Format::Chat,
            r#"{"model":"a","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why?"}],"temperature":0}"#,
        )
        .unwrap();
        assert_eq!(text, "Why?");
        assert_eq!(
            one,
            r#"{"messages":[{"content":"Be brief.","role":"system"},{"content":null,"role":"user"}],"temperature":0}"#
        );
        // Other instructions and other parameters are another frame.
        let other = r#"{"messages":[{"role":"system","content":"Be long."},{"role":"user","content":"Why?"}],"temperature":0}"#;
        assert_ne!(frame(Format::Chat, other).unwrap().0, one);
        for (format, body) in [
            (Format::Chat, r#"{"messages":[{"role":"user","content":[{"type":"text","text":"Why?"}]}]}"#),
            (
                Format::Messages,
                r#"{"system":"s","messages":[{"role":"user","content":"Why?"}],"max_tokens":5}"#,
            ),
            (Format::Responses, r#"{"input":"Why?"}"#),
            (
                Format::Responses,
                r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"Why?"}]}]}"#,
            ),
            (Format::Gemini, r#"{"contents":[{"parts":[{"text":"Why?"}]}]}"#),
        ] {
            assert_eq!(frame(format, body).map(|it| it.1).as_deref(), Some("Why?"), "{body}");
        }
        for (format, body) in [
            (
                Format::Chat,
                r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#,
            ),
            (Format::Chat, r#"{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function"}]}"#),
            (
                Format::Chat,
                r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
            ),
            (
                Format::Chat,
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#,
            ),
            (Format::Chat, r#"{"messages":[{"role":"system","content":"a"}]}"#),
            (Format::Chat, r#"{"messages":[]}"#),
            (Format::Gemini, r#"{"contents":[{"parts":[{"text":"a"}]}],"cachedContent":"cachedContents/x"}"#),
            (Format::Gemini, r#"{"contents":[{"parts":[{"inlineData":{}}]}]}"#),
            (
                Format::Messages,
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}]}"#,
            ),
            (Format::Chat, r#"{"messages":[{"role":"user","content":"a"}],"a":1,"a":2}"#),
        ] {
            assert_eq!(single(format, body.as_bytes()), None, "{body}");
        }
    }
}
