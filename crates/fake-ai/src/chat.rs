//! OpenAI's chat completions, as OpenAI and Azure write them.

use serde_json::{Value, json};

use crate::answer::{argument_pieces, pieces};
use crate::reply::Shape;
use crate::{Answer, Event, Exchange, Finish, Part, ToolDeltas, Usage};

/// When everything that is made was made.
pub(crate) const CREATED: u64 = 1_750_000_000;

pub(crate) fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt(),
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt() + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": 0},
    })
}

fn finish(answer: &Answer) -> &'static str {
    match answer.finish {
        Finish::Length => "length",
        Finish::Filter => "content_filter",
        Finish::Stop if answer.calls_tools() => "tool_calls",
        Finish::Stop => "stop",
    }
}

fn call(id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

pub(crate) fn plain(exchange: &Exchange, answer: &Answer, shape: &Shape) -> Value {
    let mut message = json!({"role": "assistant", "content": answer.joined_text(), "refusal": null});
    let mut calls = Vec::new();
    for part in &answer.parts {
        match part {
            Part::Tool { id, name, arguments } => calls.push(call(id, name, arguments)),
            Part::Thinking { text, .. } => message["reasoning_content"] = json!(text),
            Part::Text(_) => {}
        }
    }
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish(answer)});
    let mut body = json!({
        "id": format!("chatcmpl-fake{}", exchange.number), "object": "chat.completion", "created": CREATED,
        "model": exchange.model(), "choices": [choice], "system_fingerprint": "fp_fake",
    });
    if !shape.without_usage {
        body["usage"] = usage(answer.usage);
    }
    if let Some(tier) = exchange.json()["service_tier"].as_str() {
        body["service_tier"] = json!(if tier == "auto" { "default" } else { tier });
    }
    shape.add_unknown(&mut body);
    if shape.unknown_fields {
        shape.add_unknown(&mut body["choices"][0]["message"]);
    }
    body
}

pub(crate) fn stream(exchange: &Exchange, answer: &Answer, shape: &Shape) -> Vec<Event> {
    let request = exchange.json();
    let head = json!({
        "id": format!("chatcmpl-fake{}", exchange.number), "object": "chat.completion.chunk", "created": CREATED,
        "model": exchange.model(), "system_fingerprint": "fp_fake",
    });
    let with_usage = request["stream_options"]["include_usage"] == true && !shape.without_usage;
    let chunk = |choices: Value| {
        let mut chunk = head.clone();
        chunk["choices"] = choices;
        if with_usage {
            chunk["usage"] = Value::Null;
        }
        shape.add_unknown(&mut chunk);
        if shape.unknown_fields {
            shape.add_unknown(&mut chunk["choices"][0]["delta"]);
        }
        chunk
    };
    let delta = |delta: Value| {
        Event::data(&chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}])))
    };
    let mut events = Vec::new();
    if shape.empty_choices_first {
        let mut first = head.clone();
        first["choices"] = json!([]);
        first["prompt_filter_results"] = json!([{"prompt_index": 0, "content_filter_results": {}}]);
        events.push(Event::data(&first));
    }
    let joined = answer.joined_text();
    let calls: Vec<(&str, &str, &str)> = answer
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Tool { id, name, arguments } => Some((id.as_str(), name.as_str(), arguments.as_str())),
            _ => None,
        })
        .collect();
    let with_text = shape.tool_deltas == ToolDeltas::WithText && !calls.is_empty();
    if !with_text {
        events.push(delta(json!({"role": "assistant", "content": if joined.is_some() { json!("") } else { Value::Null }, "refusal": null})));
    }
    for part in &answer.parts {
        if let Part::Thinking { text, .. } = part {
            events.extend(pieces(text).into_iter().map(|piece| delta(json!({"reasoning_content": piece}))));
        }
    }
    let mut texts = joined.as_deref().map(pieces).unwrap_or_default().into_iter();
    if with_text {
        let (id, name, _) = calls[0];
        let mut first = call(id, name, "");
        first["index"] = json!(0);
        events.push(delta(json!({"role": "assistant", "content": texts.next(), "tool_calls": [first]})));
        events.extend(texts.map(|piece| delta(json!({"content": piece, "tool_calls": []}))));
    } else {
        events.extend(texts.map(|piece| delta(json!({"content": piece}))));
    }
    let opening = |index: usize, arguments: &str| {
        let (id, name, _) = calls[index];
        let mut opening = call(id, name, arguments);
        opening["index"] = json!(index);
        delta(json!({"tool_calls": [opening]}))
    };
    let more = |index: usize, piece: String| {
        delta(json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
    };
    match shape.tool_deltas {
        ToolDeltas::Whole => {
            events
                .extend(calls.iter().enumerate().map(|(index, (_, _, arguments))| opening(index, arguments)));
        }
        ToolDeltas::Pieces | ToolDeltas::WithText => {
            for (index, (_, _, arguments)) in calls.iter().enumerate() {
                if !(with_text && index == 0) {
                    events.push(opening(index, ""));
                }
                events.extend(argument_pieces(arguments).into_iter().map(|piece| more(index, piece)));
            }
        }
        ToolDeltas::Interleaved => {
            events.extend((0..calls.len()).map(|index| opening(index, "")));
            let mut waiting: Vec<_> =
                calls.iter().map(|(_, _, arguments)| argument_pieces(arguments).into_iter()).collect();
            loop {
                let round: Vec<Event> = waiting
                    .iter_mut()
                    .enumerate()
                    .filter_map(|(index, pieces)| Some(more(index, pieces.next()?)))
                    .collect();
                if round.is_empty() {
                    break;
                }
                events.extend(round);
            }
        }
    }
    if !shape.without_finish {
        events.push(Event::data(&chunk(
            json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": finish(answer)}]),
        )));
    }
    if with_usage {
        let mut last = head.clone();
        last["choices"] = json!([]);
        last["usage"] = usage(answer.usage);
        if let Some(tier) = request["service_tier"].as_str() {
            last["service_tier"] = json!(if tier == "auto" { "default" } else { tier });
        }
        events.push(Event::data(&last));
    }
    if !shape.without_done && !shape.without_finish {
        events.push(Event::data("[DONE]"));
    }
    events
}

/// An error as OpenAI writes it.
pub(crate) fn error(status: u16, code: &str, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 | 400 | 413 | 422 => "invalid_request_error",
        429 if code == "insufficient_quota" => "insufficient_quota",
        429 => "rate_limit_error",
        _ => "server_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
