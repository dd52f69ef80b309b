//! Anthropic's messages.

use serde_json::{Value, json};

use crate::answer::{argument_pieces, pieces};
use crate::reply::Shape;
use crate::{Answer, Event, Exchange, Finish, Part, Usage};

fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m, "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output,
        "service_tier": "standard",
    })
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.finish {
        Finish::Length => "max_tokens",
        Finish::Filter => "refusal",
        Finish::Stop if answer.calls_tools() => "tool_use",
        Finish::Stop => "end_turn",
    }
}

fn arguments_object(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({}))
}

fn message(exchange: &Exchange, content: &[Value], stop: Option<&str>, usage: &Value) -> Value {
    json!({
        "id": format!("msg_fake{}", exchange.number), "type": "message", "role": "assistant",
        "model": exchange.model(), "content": content, "stop_reason": stop, "stop_sequence": null, "usage": usage,
    })
}

pub(crate) fn plain(exchange: &Exchange, answer: &Answer, shape: &Shape) -> Value {
    let content: Vec<Value> = answer
        .parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => json!({"type": "text", "text": text}),
            Part::Tool { id, name, arguments } => {
                json!({"type": "tool_use", "id": id, "name": name, "input": arguments_object(arguments)})
            }
            Part::Thinking { text, signature } => {
                json!({"type": "thinking", "thinking": text, "signature": signature})
            }
        })
        .collect();
    let mut body = message(exchange, &content, Some(stop_reason(answer)), &usage(answer.usage));
    if shape.without_usage
        && let Some(fields) = body.as_object_mut()
    {
        fields.remove("usage");
    }
    shape.add_unknown(&mut body);
    if shape.unknown_fields {
        shape.add_unknown(&mut body["content"][0]);
    }
    body
}

pub(crate) fn stream(exchange: &Exchange, answer: &Answer, shape: &Shape) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut send = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        shape.add_unknown(&mut data);
        events.push(Event::named(kind, &data));
    };
    let mut begun = usage(answer.usage);
    begun["output_tokens"] = json!(1);
    send("message_start", json!({"message": message(exchange, &[], None, &begun)}));
    send("ping", json!({}));
    for (index, part) in answer.parts.iter().enumerate() {
        let (block, deltas): (Value, Vec<Value>) = match part {
            Part::Text(text) => (
                json!({"type": "text", "text": ""}),
                pieces(text).into_iter().map(|piece| json!({"type": "text_delta", "text": piece})).collect(),
            ),
            Part::Tool { id, name, arguments } => (
                json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                // The real server begins with an empty piece.
                std::iter::once(String::new())
                    .chain(argument_pieces(arguments))
                    .map(|piece| json!({"type": "input_json_delta", "partial_json": piece}))
                    .collect(),
            ),
            Part::Thinking { text, signature } => (
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                pieces(text)
                    .into_iter()
                    .map(|piece| json!({"type": "thinking_delta", "thinking": piece}))
                    .chain([json!({"type": "signature_delta", "signature": signature})])
                    .collect(),
            ),
        };
        send("content_block_start", json!({"index": index, "content_block": block}));
        for delta in deltas {
            send("content_block_delta", json!({"index": index, "delta": delta}));
        }
        send("content_block_stop", json!({"index": index}));
    }
    if !shape.without_finish {
        let mut end = json!({"delta": {"stop_reason": stop_reason(answer), "stop_sequence": null}});
        // Cumulative: the last word on the output alone.
        end["usage"] = json!({"output_tokens": answer.usage.output});
        send("message_delta", end);
        if !shape.without_done {
            send("message_stop", json!({}));
        }
    }
    events
}

pub(crate) fn count(exchange: &Exchange) -> Value {
    json!({"input_tokens": crate::answer::words_within(&exchange.json())})
}

/// An error as Anthropic writes it.
pub(crate) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        400 | 422 => "invalid_request_error",
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"})
}
