//! Google's `generateContent` and its relatives.

use serde_json::{Value, json};

use crate::answer::{pieces, words_within};
use crate::reply::Shape;
use crate::{Answer, Event, Exchange, Finish, Part, Usage};

fn usage(usage: Usage) -> Value {
    json!({
        "promptTokenCount": usage.prompt(),
        "candidatesTokenCount": usage.output - usage.reasoning.min(usage.output),
        "thoughtsTokenCount": usage.reasoning,
        "cachedContentTokenCount": usage.cache_read,
        "totalTokenCount": usage.prompt() + usage.output,
    })
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({"text": text}),
        // No id, as Google's own interface; the arguments are an object and come whole.
        Part::Tool { name, arguments, .. } => {
            let args: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
            json!({"functionCall": {"name": name, "args": args}})
        }
        Part::Thinking { text, signature } => {
            json!({"text": text, "thought": true, "thoughtSignature": signature})
        }
    }
}

fn finish(answer: &Answer) -> &'static str {
    match answer.finish {
        Finish::Stop => "STOP",
        Finish::Length => "MAX_TOKENS",
        Finish::Filter => "SAFETY",
    }
}

fn body(exchange: &Exchange, parts: &[Value], finish: Option<&str>, usage: Option<Value>) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(finish);
    }
    let mut body = json!({
        "candidates": [candidate], "modelVersion": exchange.model(), "responseId": format!("fake{}", exchange.number),
    });
    if let Some(usage) = usage {
        body["usageMetadata"] = usage;
    }
    body
}

pub(crate) fn plain(exchange: &Exchange, answer: &Answer, shape: &Shape) -> Value {
    let parts: Vec<Value> = answer.parts.iter().map(part).collect();
    let usage = (!shape.without_usage).then(|| usage(answer.usage));
    let mut body = body(exchange, &parts, Some(finish(answer)), usage);
    shape.add_unknown(&mut body);
    if shape.unknown_fields {
        shape.add_unknown(&mut body["candidates"][0]);
    }
    body
}

pub(crate) fn stream(exchange: &Exchange, answer: &Answer, shape: &Shape) -> Vec<Event> {
    let mut sent: Vec<Value> = Vec::new();
    for one in &answer.parts {
        match one {
            Part::Text(text) => sent.extend(pieces(text).into_iter().map(|piece| json!({"text": piece}))),
            other => sent.push(part(other)),
        }
    }
    let last = sent.len().saturating_sub(1);
    sent.iter()
        .enumerate()
        .map(|(at, part)| {
            let ends = at == last && !shape.without_finish;
            // Every event carries the usage so far; the last one counts.
            let mut so_far = answer.usage;
            if at != last {
                so_far.output = (at as u64 + 1).min(answer.usage.output);
            }
            let usage = (!shape.without_usage).then(|| usage(so_far));
            let mut body = body(exchange, std::slice::from_ref(part), ends.then(|| finish(answer)), usage);
            shape.add_unknown(&mut body);
            Event::data(&body)
        })
        .collect()
}

/// `countTokens`, `embedContent` and `batchEmbedContents`.
pub(crate) fn other(exchange: &Exchange, method: &str) -> Option<Value> {
    let request = exchange.json();
    match method {
        "countTokens" => {
            let within = if request["generateContentRequest"].is_object() {
                &request["generateContentRequest"]
            } else {
                &request
            };
            Some(json!({"totalTokens": words_within(within)}))
        }
        "embedContent" => Some(json!({"embedding": {"values": vector(&request)}})),
        "batchEmbedContents" => {
            let requests = request["requests"].as_array().cloned().unwrap_or_default();
            let embeddings: Vec<Value> =
                requests.iter().map(|request| json!({"values": vector(request)})).collect();
            Some(json!({ "embeddings": embeddings }))
        }
        _ => None,
    }
}

fn vector(request: &Value) -> Vec<f32> {
    let size = request["outputDimensionality"]
        .as_u64()
        .or_else(|| request["embedContentConfig"]["outputDimensionality"].as_u64());
    crate::embeddings::vector(&request["content"].to_string(), size)
}

/// An error as Google writes it, with the time to wait where there is one.
pub(crate) fn error(status: u16, message: &str, retry_after_s: Option<u64>) -> Value {
    let name = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    };
    let mut error = json!({"code": status, "message": message, "status": name});
    if let Some(seconds) = retry_after_s {
        error["details"] = json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{seconds}s")}]);
    }
    json!({ "error": error })
}
