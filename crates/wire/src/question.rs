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
}
