//! OpenAI's responses.

use serde_json::{Value, json};

use crate::answer::{argument_pieces, pieces};
use crate::chat::CREATED;
use crate::reply::Shape;
use crate::{Answer, Event, Exchange, Finish, Part, Usage};

fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt(),
        "input_tokens_details": {"cached_tokens": usage.cache_read},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt() + usage.output,
    })
}

fn item(exchange: &Exchange, index: usize, part: &Part, done: bool) -> Value {
    let status = if done { "completed" } else { "in_progress" };
    let number = exchange.number;
    match part {
        Part::Text(text) => {
            let content = if done { json!([text_part(text)]) } else { json!([]) };
            json!({"id": format!("msg_fake{number}_{index}"), "type": "message", "status": status,
                "role": "assistant", "content": content})
        }
        Part::Tool { id, name, arguments } => {
            json!({"id": format!("fc_fake{number}_{index}"), "type": "function_call", "status": status,
                "call_id": id, "name": name, "arguments": if done { arguments.as_str() } else { "" }})
        }
        Part::Thinking { text, signature } => {
            let summary = if done { json!([{"type": "summary_text", "text": text}]) } else { json!([]) };
            json!({"id": format!("rs_fake{number}_{index}"), "type": "reasoning", "summary": summary,
                "encrypted_content": signature})
        }
    }
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn response(exchange: &Exchange, answer: &Answer, shape: &Shape, done: bool) -> Value {
    let request = exchange.json();
    let output: Vec<Value> = if done {
        answer.parts.iter().enumerate().map(|(index, part)| item(exchange, index, part, true)).collect()
    } else {
        Vec::new()
    };
    let (status, details) = match (done, answer.finish) {
        (false, _) => ("in_progress", Value::Null),
        (true, Finish::Stop) => ("completed", Value::Null),
        (true, Finish::Length) => ("incomplete", json!({"reason": "max_output_tokens"})),
        (true, Finish::Filter) => ("incomplete", json!({"reason": "content_filter"})),
    };
    let mut body = json!({
        "id": format!("resp_fake{}", exchange.number), "object": "response", "created_at": CREATED,
        "status": status, "error": null, "incomplete_details": details, "instructions": request["instructions"],
        "max_output_tokens": request["max_output_tokens"], "model": exchange.model(), "output": output,
        "parallel_tool_calls": true, "previous_response_id": null, "reasoning": {"effort": null, "summary": null},
        "store": true, "temperature": 1.0, "text": {"format": {"type": "text"}},
        "tool_choice": "auto", "tools": request["tools"].as_array().cloned().unwrap_or_default(), "top_p": 1.0,
        "truncation": "disabled", "usage": null, "user": null, "metadata": {},
    });
    if done && !shape.without_usage {
        body["usage"] = usage(answer.usage);
    }
    shape.add_unknown(&mut body);
    body
}

pub(crate) fn plain(exchange: &Exchange, answer: &Answer, shape: &Shape) -> Value {
    response(exchange, answer, shape, true)
}

pub(crate) fn stream(exchange: &Exchange, answer: &Answer, shape: &Shape) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut send = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(events.len());
        shape.add_unknown(&mut data);
        events.push(Event::named(kind, &data));
    };
    send("response.created", json!({"response": response(exchange, answer, shape, false)}));
    send("response.in_progress", json!({"response": response(exchange, answer, shape, false)}));
    for (index, part) in answer.parts.iter().enumerate() {
        let whole = item(exchange, index, part, true);
        let id = whole["id"].clone();
        send(
            "response.output_item.added",
            json!({"output_index": index, "item": item(exchange, index, part, false)}),
        );
        match part {
            Part::Text(text) => {
                let at = json!({"item_id": id, "output_index": index, "content_index": 0});
                let with = |name: &str, value: Value| {
                    let mut fields = at.clone();
                    fields[name] = value;
                    fields
                };
                send("response.content_part.added", with("part", text_part("")));
                for piece in pieces(text) {
                    let mut fields = with("delta", json!(piece));
                    fields["logprobs"] = json!([]);
                    send("response.output_text.delta", fields);
                }
                let mut fields = with("text", json!(text));
                fields["logprobs"] = json!([]);
                send("response.output_text.done", fields);
                send("response.content_part.done", with("part", text_part(text)));
            }
            Part::Tool { name, arguments, .. } => {
                for piece in argument_pieces(arguments) {
                    send(
                        "response.function_call_arguments.delta",
                        json!({"item_id": id, "output_index": index, "delta": piece}),
                    );
                }
                send(
                    "response.function_call_arguments.done",
                    json!({"item_id": id, "output_index": index, "name": name, "arguments": arguments}),
                );
            }
            Part::Thinking { text, .. } => {
                let at = json!({"item_id": id, "output_index": index, "summary_index": 0});
                let with = |name: &str, value: Value| {
                    let mut fields = at.clone();
                    fields[name] = value;
                    fields
                };
                let summary = |text: &str| json!({"type": "summary_text", "text": text});
                send("response.reasoning_summary_part.added", with("part", summary("")));
                for piece in pieces(text) {
                    send("response.reasoning_summary_text.delta", with("delta", json!(piece)));
                }
                send("response.reasoning_summary_text.done", with("text", json!(text)));
                send("response.reasoning_summary_part.done", with("part", summary(text)));
            }
        }
        send("response.output_item.done", json!({"output_index": index, "item": whole}));
    }
    if !shape.without_finish {
        let kind = if answer.finish == Finish::Stop { "response.completed" } else { "response.incomplete" };
        send(kind, json!({"response": response(exchange, answer, shape, true)}));
    }
    events
}
