//! What must hold for any body and any stream.

#![allow(clippy::unwrap_used, reason = "functions beside the tests are tests too")]

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::{Value, json};
use wire::sse::{Event, Splitter};
use wire::{End, Ending, Format, Shown, StreamConverter, StreamOptions, Tap, Target};

/// A part of an answer.
#[derive(Debug, Clone)]
enum Part {
    Thinking(String),
    Text(String),
    Call { name: String, arguments: Value },
}

#[derive(Debug, Clone)]
struct Answer {
    parts: Vec<Part>,
    finish: Finish,
    prompt: u64,
    cached: u64,
    completion: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Finish {
    Stop,
    Length,
}

fn answers() -> impl Strategy<Value = Answer> {
    let text = "[a-z \"\\\\\n\u{e9}\u{1F600}]{1,12}";
    let value = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        text.prop_map(Value::from),
        Just(json!([1, {"x": null}])),
    ];
    let arguments = prop::collection::btree_map("[a-c]{1,2}", value, 0..3)
        .prop_map(|members| Value::Object(members.into_iter().collect()));
    // Thinking first, then text, then calls: the one order that all four formats can say, chat having one place for each.
    let thinking = prop::option::of(text.prop_map(Part::Thinking));
    let said = prop::option::of(text.prop_map(Part::Text));
    let calls = prop::collection::vec(
        ("[a-z]{1,6}", arguments).prop_map(|(name, arguments)| Part::Call { name, arguments }),
        0..4,
    );
    (thinking, said, calls, any::<bool>(), 0u64..1000, 0u64..1000, 1u64..1000).prop_map(
        |(thinking, said, calls, cut, cached, fresh, completion)| Answer {
            parts: thinking.into_iter().chain(said).chain(calls).collect(),
            finish: if cut { Finish::Length } else { Finish::Stop },
            prompt: cached + fresh,
            cached,
            completion,
        },
    )
}

/// A text in pieces, cut at characters.
fn pieces(text: &str, size: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(size).map(|piece| piece.iter().collect()).collect()
}

impl Answer {
    fn calls(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Call { .. }))
    }

    fn usage(&self, format: Format) -> Value {
        let (prompt, cached, completion) = (self.prompt, self.cached, self.completion);
        match format {
            Format::Chat => {
                json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "prompt_tokens_details": {"cached_tokens": cached}})
            }
            Format::Responses => {
                json!({"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion, "input_tokens_details": {"cached_tokens": cached}})
            }
            Format::Messages => {
                json!({"input_tokens": prompt - cached, "cache_read_input_tokens": cached, "output_tokens": completion})
            }
            Format::Gemini => {
                json!({"promptTokenCount": prompt, "candidatesTokenCount": completion, "totalTokenCount": prompt + completion, "cachedContentTokenCount": cached})
            }
        }
    }

    fn chat_finish(&self) -> &'static str {
        match self.finish {
            Finish::Length => "length",
            Finish::Stop if self.calls() => "tool_calls",
            Finish::Stop => "stop",
        }
    }

    fn stop_reason(&self) -> &'static str {
        match self.finish {
            Finish::Length => "max_tokens",
            Finish::Stop if self.calls() => "tool_use",
            Finish::Stop => "end_turn",
        }
    }

    fn response(&self) -> Value {
        let output: Vec<Value> = self
            .parts
            .iter()
            .enumerate()
            .map(|(index, part)| match part {
                Part::Thinking(text) => json!({"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": text}], "encrypted_content": "sealed"}),
                Part::Text(text) => json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}),
                Part::Call { name, arguments } => json!({"type": "function_call", "call_id": format!("call_{index}"), "name": name, "arguments": arguments.to_string()}),
            })
            .collect();
        let status = if self.finish == Finish::Stop { "completed" } else { "incomplete" };
        let details =
            if self.finish == Finish::Stop { Value::Null } else { json!({"reason": "max_output_tokens"}) };
        json!({"id": "x", "status": status, "incomplete_details": details, "output": output, "usage": self.usage(Format::Responses)})
    }

    fn reply(&self, format: Format) -> Value {
        match format {
            Format::Chat => {
                let mut message = json!({"role": "assistant", "content": null});
                for (index, part) in self.parts.iter().enumerate() {
                    match part {
                        Part::Thinking(text) => message["reasoning_content"] = text.clone().into(),
                        Part::Text(text) => message["content"] = text.clone().into(),
                        Part::Call { name, arguments } => {
                            if message["tool_calls"].is_null() {
                                message["tool_calls"] = json!([]);
                            }
                            message["tool_calls"].as_array_mut().unwrap().push(json!({"id": format!("call_{index}"), "type": "function", "function": {"name": name, "arguments": arguments.to_string()}}));
                        }
                    }
                }
                json!({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": self.chat_finish()}], "usage": self.usage(format)})
            }
            Format::Responses => self.response(),
            Format::Messages => {
                let content: Vec<Value> = self
                    .parts
                    .iter()
                    .enumerate()
                    .map(|(index, part)| match part {
                        Part::Thinking(text) => json!({"type": "thinking", "thinking": text, "signature": "signed"}),
                        Part::Text(text) => json!({"type": "text", "text": text}),
                        Part::Call { name, arguments } => json!({"type": "tool_use", "id": format!("call_{index}"), "name": name, "input": arguments}),
                    })
                    .collect();
                json!({"id": "x", "type": "message", "content": content, "stop_reason": self.stop_reason(), "usage": self.usage(format)})
            }
            Format::Gemini => {
                json!({"responseId": "x", "candidates": [{"content": {"parts": self.gemini_parts()}, "finishReason": if self.finish == Finish::Stop { "STOP" } else { "MAX_TOKENS" }}], "usageMetadata": self.usage(format)})
            }
        }
    }

    fn gemini_parts(&self) -> Vec<Value> {
        self.parts
            .iter()
            .enumerate()
            .map(|(index, part)| match part {
                Part::Thinking(text) => json!({"text": text, "thought": true}),
                Part::Text(text) => json!({"text": text}),
                Part::Call { name, arguments } => {
                    json!({"functionCall": {"id": format!("call_{index}"), "name": name, "args": arguments}})
                }
            })
            .collect()
    }

    /// The same answer as a stream, its texts in pieces of `size` characters.
    fn stream(&self, format: Format, size: usize) -> String {
        let mut events: Vec<Value> = Vec::new();
        match format {
            Format::Chat => {
                let chunk = |delta: Value| json!({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
                events.push(chunk(json!({"role": "assistant", "content": ""})));
                let mut calls = Vec::new();
                for (index, part) in self.parts.iter().enumerate() {
                    match part {
                        Part::Thinking(text) => events.extend(
                            pieces(text, size)
                                .into_iter()
                                .map(|piece| chunk(json!({"reasoning_content": piece}))),
                        ),
                        Part::Text(text) => events.extend(
                            pieces(text, size).into_iter().map(|piece| chunk(json!({"content": piece}))),
                        ),
                        Part::Call { name, arguments } => {
                            let place = calls.len();
                            events.push(chunk(json!({"tool_calls": [{"index": place, "id": format!("call_{index}"), "type": "function", "function": {"name": name, "arguments": ""}}]})));
                            calls.push(pieces(&arguments.to_string(), size).into_iter());
                        }
                    }
                }
                // The arguments of all calls interleaved.
                loop {
                    let mut any = false;
                    for (place, call) in calls.iter_mut().enumerate() {
                        if let Some(piece) = call.next() {
                            any = true;
                            events.push(chunk(
                                json!({"tool_calls": [{"index": place, "function": {"arguments": piece}}]}),
                            ));
                        }
                    }
                    if !any {
                        break;
                    }
                }
                events.push(json!({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": self.chat_finish()}]}));
                events.push(json!({"id": "x", "choices": [], "usage": self.usage(format)}));
                let mut stream: Vec<String> =
                    events.iter().map(|event| format!("data: {event}\n\n")).collect();
                stream.push("data: [DONE]\n\n".into());
                return stream.concat();
            }
            Format::Messages => {
                let mut start = self.usage(format);
                start["output_tokens"] = 1.into();
                events.push(json!({"type": "message_start", "message": {"id": "x", "usage": start}}));
                for (index, part) in self.parts.iter().enumerate() {
                    let (block, kind, member, text, signature) = match part {
                        Part::Thinking(text) => (
                            json!({"type": "thinking", "thinking": "", "signature": ""}),
                            "thinking_delta",
                            "thinking",
                            text.clone(),
                            true,
                        ),
                        Part::Text(text) => {
                            (json!({"type": "text", "text": ""}), "text_delta", "text", text.clone(), false)
                        }
                        Part::Call { name, arguments } => (
                            json!({"type": "tool_use", "id": format!("call_{index}"), "name": name, "input": {}}),
                            "input_json_delta",
                            "partial_json",
                            arguments.to_string(),
                            false,
                        ),
                    };
                    events
                        .push(json!({"type": "content_block_start", "index": index, "content_block": block}));
                    for piece in pieces(&text, size) {
                        events.push(json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, member: piece}}));
                    }
                    if signature {
                        events.push(json!({"type": "content_block_delta", "index": index, "delta": {"type": "signature_delta", "signature": "signed"}}));
                    }
                    events.push(json!({"type": "content_block_stop", "index": index}));
                }
                events.push(json!({"type": "message_delta", "delta": {"stop_reason": self.stop_reason()}, "usage": {"output_tokens": self.completion}}));
                events.push(json!({"type": "message_stop"}));
            }
            Format::Gemini => {
                for part in self.gemini_parts() {
                    match part["text"].as_str() {
                        Some(text) => {
                            for piece in pieces(text, size) {
                                let mut part = part.clone();
                                part["text"] = piece.into();
                                events.push(json!({"responseId": "x", "candidates": [{"content": {"parts": [part]}}]}));
                            }
                        }
                        None => events
                            .push(json!({"responseId": "x", "candidates": [{"content": {"parts": [part]}}]})),
                    }
                }
                let mut last = self.reply(format);
                last["candidates"][0]["content"]["parts"] = json!([]);
                events.push(last);
            }
            Format::Responses => {
                events.push(json!({"type": "response.created", "response": {"id": "x"}}));
                for (index, item) in self.response()["output"].as_array().unwrap().iter().enumerate() {
                    let mut empty = item.clone();
                    let (kind, text) = match &self.parts[index] {
                        Part::Thinking(text) => {
                            empty["summary"] = json!([]);
                            ("response.reasoning_summary_text.delta", text.clone())
                        }
                        Part::Text(text) => {
                            empty["content"] = json!([]);
                            ("response.output_text.delta", text.clone())
                        }
                        Part::Call { arguments, .. } => {
                            empty["arguments"] = "".into();
                            ("response.function_call_arguments.delta", arguments.to_string())
                        }
                    };
                    events.push(
                        json!({"type": "response.output_item.added", "output_index": index, "item": empty}),
                    );
                    for piece in pieces(&text, size) {
                        events.push(json!({"type": kind, "output_index": index, "delta": piece}));
                    }
                    events.push(
                        json!({"type": "response.output_item.done", "output_index": index, "item": item}),
                    );
                }
                let kind =
                    if self.finish == Finish::Stop { "response.completed" } else { "response.incomplete" };
                events.push(json!({"type": kind, "response": self.response()}));
            }
        }
        let events: Vec<String> = events
            .iter()
            .map(|event| match event["type"].as_str() {
                Some(name) => format!("event: {name}\ndata: {event}\n\n"),
                None => format!("data: {event}\n\n"),
            })
            .collect();
        events.concat()
    }
}

/// What a client understands of an answer, however it came.
#[derive(Debug, Clone, PartialEq, Default)]
struct Understood {
    thinking: String,
    signatures: Vec<String>,
    text: String,
    calls: Vec<(String, String, Value)>,
    finish: String,
    prompt: u64,
    completion: u64,
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn from_reply(format: Format, reply: &Value) -> Understood {
    let mut seen = Understood::default();
    match format {
        Format::Chat => {
            let message = &reply["choices"][0]["message"];
            seen.thinking = string(&message["reasoning_content"]);
            seen.text = string(&message["content"]);
            for detail in message["reasoning_details"].as_array().into_iter().flatten() {
                seen.signatures.push(string(&detail["signature"]));
            }
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                let arguments =
                    serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
                seen.calls.push((string(&call["id"]), string(&call["function"]["name"]), arguments));
            }
            seen.finish = string(&reply["choices"][0]["finish_reason"]);
            seen.prompt = reply["usage"]["prompt_tokens"].as_u64().unwrap();
            seen.completion = reply["usage"]["completion_tokens"].as_u64().unwrap();
        }
        Format::Messages => {
            for block in reply["content"].as_array().unwrap() {
                seen.block(block);
            }
            seen.finish = string(&reply["stop_reason"]);
            seen.anthropic_usage(&reply["usage"]);
        }
        Format::Gemini => {
            for part in reply["candidates"][0]["content"]["parts"].as_array().unwrap() {
                seen.part(part);
            }
            seen.finish = string(&reply["candidates"][0]["finishReason"]);
            seen.prompt = reply["usageMetadata"]["promptTokenCount"].as_u64().unwrap();
            seen.completion = reply["usageMetadata"]["candidatesTokenCount"].as_u64().unwrap();
        }
        Format::Responses => {
            for item in reply["output"].as_array().unwrap() {
                match item["type"].as_str().unwrap() {
                    "reasoning" => {
                        seen.thinking.push_str(item["summary"][0]["text"].as_str().unwrap_or_default());
                        seen.signatures.push(string(&item["encrypted_content"]));
                    }
                    "message" => seen.text.push_str(item["content"][0]["text"].as_str().unwrap()),
                    _ => seen.calls.push((
                        string(&item["call_id"]),
                        string(&item["name"]),
                        serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap(),
                    )),
                }
            }
            seen.finish = string(&reply["status"]);
            seen.prompt = reply["usage"]["input_tokens"].as_u64().unwrap();
            seen.completion = reply["usage"]["output_tokens"].as_u64().unwrap();
        }
    }
    seen
}

impl Understood {
    fn block(&mut self, block: &Value) {
        match block["type"].as_str().unwrap() {
            "thinking" => {
                self.thinking.push_str(block["thinking"].as_str().unwrap());
                self.signatures.push(string(&block["signature"]));
            }
            "text" => self.text.push_str(block["text"].as_str().unwrap()),
            _ => self.calls.push((string(&block["id"]), string(&block["name"]), block["input"].clone())),
        }
    }

    fn part(&mut self, part: &Value) {
        if let Some(call) = part.get("functionCall") {
            self.calls.push((string(&call["id"]), string(&call["name"]), call["args"].clone()));
        } else if part["thought"] == true {
            self.thinking.push_str(part["text"].as_str().unwrap());
            self.signatures.extend(part.get("thoughtSignature").map(string));
        } else {
            self.text.push_str(part["text"].as_str().unwrap());
        }
    }

    fn anthropic_usage(&mut self, usage: &Value) {
        self.prompt =
            usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
        self.completion = usage["output_tokens"].as_u64().unwrap();
    }
}

/// Puts a stream together as the official clients do, and checks its order as they rely on it.
fn from_stream(format: Format, stream: &[u8]) -> Understood {
    let mut splitter = Splitter::new();
    splitter.push(Bytes::copy_from_slice(stream));
    let events: Vec<Event> = std::iter::from_fn(|| splitter.next()).collect();
    let mut seen = Understood::default();
    let mut blocks: Vec<Value> = Vec::new();
    let mut open = false;
    let mut arguments: Vec<String> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        if event.is_done() {
            assert!(format == Format::Chat && number == events.len() - 1);
            continue;
        }
        let data: Value = serde_json::from_slice(&event.data).unwrap();
        match format {
            Format::Chat => {
                let choice = &data["choices"][0];
                let delta = &choice["delta"];
                seen.thinking.push_str(&string(&delta["reasoning_content"]));
                seen.text.push_str(&string(&delta["content"]));
                for detail in delta["reasoning_details"].as_array().into_iter().flatten() {
                    seen.signatures.push(string(&detail["signature"]));
                }
                for call in delta["tool_calls"].as_array().into_iter().flatten() {
                    let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                    if index == seen.calls.len() {
                        seen.calls.push((
                            string(&call["id"]),
                            string(&call["function"]["name"]),
                            Value::Null,
                        ));
                        arguments.push(String::new());
                    }
                    arguments[index].push_str(call["function"]["arguments"].as_str().unwrap());
                }
                if let Some(reason) = choice["finish_reason"].as_str() {
                    reason.clone_into(&mut seen.finish);
                }
                if let Some(prompt) = data["usage"]["prompt_tokens"].as_u64() {
                    seen.prompt = prompt;
                    seen.completion = data["usage"]["completion_tokens"].as_u64().unwrap();
                }
            }
            Format::Messages => match data["type"].as_str().unwrap() {
                "content_block_start" => {
                    assert!(!open && data["index"].as_u64() == Some(blocks.len() as u64));
                    open = true;
                    blocks.push(data["content_block"].clone());
                    arguments.push(String::new());
                }
                "content_block_delta" => {
                    assert!(open && data["index"].as_u64() == Some(blocks.len() as u64 - 1));
                    let block = blocks.last_mut().unwrap();
                    for member in ["text", "thinking", "signature"] {
                        if let Some(piece) = data["delta"][member].as_str() {
                            block[member] = format!("{}{piece}", block[member].as_str().unwrap()).into();
                        }
                    }
                    arguments.last_mut().unwrap().push_str(&string(&data["delta"]["partial_json"]));
                }
                "content_block_stop" => {
                    assert!(open);
                    open = false;
                    let block = blocks.last_mut().unwrap();
                    if block["type"] == "tool_use" {
                        block["input"] = serde_json::from_str(arguments.last().unwrap()).unwrap();
                    }
                    seen.block(block);
                }
                "message_delta" => {
                    assert!(!open);
                    seen.finish = string(&data["delta"]["stop_reason"]);
                    seen.anthropic_usage(&data["usage"]);
                }
                _ => {}
            },
            Format::Gemini => {
                for part in data["candidates"][0]["content"]["parts"].as_array().unwrap() {
                    seen.part(part);
                }
                if let Some(reason) = data["candidates"][0]["finishReason"].as_str() {
                    reason.clone_into(&mut seen.finish);
                    seen.prompt = data["usageMetadata"]["promptTokenCount"].as_u64().unwrap();
                    seen.completion = data["usageMetadata"]["candidatesTokenCount"].as_u64().unwrap();
                }
            }
            Format::Responses => {
                assert_eq!(data["sequence_number"].as_u64(), Some(number as u64));
                match data["type"].as_str().unwrap() {
                    "response.output_item.done" => blocks.push(data["item"].clone()),
                    "response.output_text.delta" => seen.text.push_str(data["delta"].as_str().unwrap()),
                    "response.completed" | "response.incomplete" => {
                        assert_eq!(data["response"]["output"].as_array(), Some(&blocks));
                        let whole = from_reply(format, &data["response"]);
                        assert_eq!(whole.text, seen.text);
                        seen = whole;
                    }
                    _ => {}
                }
            }
        }
    }
    if format == Format::Chat {
        for (call, arguments) in seen.calls.iter_mut().zip(arguments) {
            call.2 = serde_json::from_str(&arguments).unwrap();
        }
    }
    seen
}

fn options() -> StreamOptions {
    StreamOptions { model: "fast".into(), created_s: 1, seed: 3, include_usage: true }
}

fn convert(from: Format, to: Format, stream: &[u8], end: End) -> (BytesMut, Ending) {
    let mut converter = StreamConverter::new(from, to, options());
    let (mut splitter, mut out) = (Splitter::new(), BytesMut::new());
    splitter.push(Bytes::copy_from_slice(stream));
    while let Some(event) = splitter.next().or_else(|| splitter.finish()) {
        converter.push(&event, &mut out);
    }
    let ending = converter.finish(end, &mut out);
    (out, ending)
}

/// All golden inputs of one kind.
fn golden(kind: &str) -> Vec<(Format, String)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind);
    let mut found: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| !path.to_string_lossy().contains(".to-"));
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let stem = path.file_name().unwrap().to_string_lossy().into_owned();
            let format = Format::ALL.into_iter().find(|format| stem.starts_with(format.name())).unwrap();
            (format, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Replaces the value at the place that `path` leads to.
fn mutate(value: &mut Value, path: &[usize], with: &Value) {
    let Some((&step, rest)) = path.split_first() else {
        *value = with.clone();
        return;
    };
    match value {
        Value::Object(members) if !members.is_empty() => {
            let length = members.len();
            mutate(members.values_mut().nth(step % length).unwrap(), rest, with);
        }
        Value::Array(elements) if !elements.is_empty() => {
            let length = elements.len();
            mutate(&mut elements[step % length], rest, with);
        }
        _ => *value = with.clone(),
    }
}

fn odd_values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!(true)),
        Just(json!(-1)),
        Just(json!(1.5)),
        Just(json!("")),
        Just(json!("\u{0}é")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null])),
        Just(json!([[{}]])),
        Just(json!({"type": "text"})),
        Just(json!("tool_use")),
        Just(json!("data:;base64,")),
        Just(json!("c3Rld2FyZDp2MTp")),
        any::<u64>().prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("STEWARD_TEST_FULL").is_some() { 600 } else { 64 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_stream_says_the_same_as_the_whole_reply(answer in answers(), size in 1usize..6) {
        let shown = Shown { model: "fast", created_s: 1, seed: 3 };
        for from in Format::ALL {
            let reply = answer.reply(from).to_string();
            let stream = answer.stream(from, size);
            let mut tap = Tap::new(from, true);
            let mut splitter = Splitter::new();
            splitter.push(Bytes::from(stream.clone()));
            while let Some(event) = splitter.next() {
                tap.see(&event);
            }
            let streamed = tap.into_observed();
            let mut tap = Tap::new(from, false);
            tap.see_body(reply.as_bytes());
            prop_assert_eq!(streamed.usage, tap.observed().usage);
            prop_assert!(streamed.finished && tap.observed().finished);
            prop_assert_eq!(streamed.has_tool_calls, answer.calls());
            prop_assert_eq!(streamed.first_content, !answer.parts.is_empty());
            for to in Format::ALL.into_iter().filter(|to| *to != from) {
                let whole = wire::convert_reply(from, to, reply.as_bytes(), &shown).unwrap();
                let whole = from_reply(to, &serde_json::from_slice(&whole).unwrap());
                let (out, ending) = convert(from, to, stream.as_bytes(), End::Complete);
                prop_assert_eq!(ending, Ending::Whole);
                let streamed = from_stream(to, &out);
                prop_assert_eq!(&streamed, &whole, "{} to {}", from, to);
                prop_assert_eq!(whole.prompt, answer.prompt);
                prop_assert_eq!(whole.completion, answer.completion);
                let calls: Vec<Value> = whole.calls.iter().map(|(_, _, arguments)| arguments.clone()).collect();
                let meant: Vec<Value> = answer.parts.iter().filter_map(|part| if let Part::Call { arguments, .. } = part { Some(arguments.clone()) } else { None }).collect();
                prop_assert_eq!(calls, meant);
            }
        }
    }

    #[test]
    fn reasoning_and_calls_come_back_to_their_provider(answer in answers()) {
        let shown = Shown { model: "fast", created_s: 1, seed: 3 };
        for provider in Format::ALL {
            for client in Format::ALL.into_iter().filter(|client| *client != provider) {
                let mut reply = answer.reply(provider);
                if provider == Format::Gemini {
                    for part in reply["candidates"][0]["content"]["parts"].as_array_mut().unwrap() {
                        if part.get("functionCall").is_some() {
                            part["thoughtSignature"] = "c2lnbg==".into();
                            break;
                        }
                    }
                }
                let told = wire::convert_reply(provider, client, reply.to_string().as_bytes(), &shown).unwrap();
                let told: Value = serde_json::from_slice(&told).unwrap();
                // The client sends the answer back as its next request's history.
                let history = match client {
                    Format::Chat => json!({"messages": [{"role": "user", "content": "a"}, told["choices"][0]["message"]]}),
                    Format::Messages => json!({"max_tokens": 9, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": told["content"]}]}),
                    Format::Gemini => json!({"contents": [{"role": "user", "parts": [{"text": "a"}]}, told["candidates"][0]["content"]]}),
                    Format::Responses => {
                        let mut items = vec![json!({"role": "user", "content": "a"})];
                        items.extend(told["output"].as_array().unwrap().iter().cloned());
                        json!({"input": items})
                    }
                };
                let asked = wire::convert_request(client, provider, history.to_string().as_bytes(), &Target::new("m")).unwrap();
                let asked = String::from_utf8(asked.body).unwrap();
                let has_thinking = answer.parts.iter().any(|part| matches!(part, Part::Thinking(_)));
                let marks: &[&str] = match provider {
                    Format::Messages => &[r#""signature":"signed""#],
                    Format::Responses => &[r#""encrypted_content":"sealed""#, r#""id":"rs""#],
                    Format::Gemini => &[r#""thought":true"#],
                    Format::Chat => &[r#""reasoning_content":"#],
                };
                for mark in marks {
                    prop_assert_eq!(asked.contains(mark), has_thinking, "{} through {}: {}", provider, client, asked);
                }
                if provider == Format::Gemini {
                    prop_assert_eq!(asked.contains(r#""thoughtSignature":"c2lnbg==""#), answer.calls(), "through {}: {}", client, asked);
                }
            }
        }
    }

    #[test]
    fn any_change_to_a_body_is_converted_or_refused(
        which in any::<prop::sample::Index>(),
        path in prop::collection::vec(0usize..12, 0..8),
        with in odd_values(),
    ) {
        let shown = Shown { model: "fast", created_s: 1, seed: 3 };
        for kind in ["requests", "replies"] {
            let all = golden(kind);
            let (from, body) = &all[which.index(all.len())];
            let mut body: Value = serde_json::from_str(body).unwrap();
            mutate(&mut body, &path, &with);
            let body = body.to_string();
            drop(wire::scan(*from, body.as_bytes()));
            for to in Format::ALL {
                let converted = if kind == "requests" {
                    wire::convert_request(*from, to, body.as_bytes(), &Target::new("gemini-3")).ok().map(|converted| converted.body)
                } else {
                    wire::convert_reply(*from, to, body.as_bytes(), &shown).ok()
                };
                if let Some(converted) = converted {
                    prop_assert!(serde_json::from_slice::<Value>(&converted).is_ok());
                }
            }
        }
    }

    #[test]
    fn any_change_to_a_stream_ends_it_as_whole_or_with_an_error(
        which in any::<prop::sample::Index>(),
        event in any::<prop::sample::Index>(),
        path in prop::collection::vec(0usize..12, 0..8),
        with in odd_values(),
        drops in any::<bool>(),
    ) {
        let all = golden("streams");
        let (from, stream) = &all[which.index(all.len())];
        let mut events: Vec<String> = stream.replace("\r\n", "\n").split_inclusive("\n\n").map(str::to_owned).collect();
        let place = event.index(events.len());
        if drops {
            events.remove(place);
        } else if let Some((name, data)) = events[place].clone().split_once("data: ")
            && let Ok(mut data) = serde_json::from_str::<Value>(data.trim())
        {
            mutate(&mut data, &path, &with);
            events[place] = format!("{name}data: {data}\n\n");
        }
        let stream = events.concat();
        for to in Format::ALL.into_iter().filter(|to| to != from) {
            let (out, ending) = convert(*from, to, stream.as_bytes(), End::Truncated);
            let mut splitter = Splitter::new();
            splitter.push(out.freeze());
            let mut last = Value::Null;
            while let Some(event) = splitter.next() {
                if !event.is_comment() && !event.is_done() {
                    last = serde_json::from_slice(&event.data).unwrap();
                }
            }
            prop_assert!(splitter.is_empty());
            let is_error = last.get("error").is_some_and(|error| !error.is_null()) || last["type"] == "error";
            prop_assert_eq!(ending == Ending::Error, is_error, "{} to {}: {}", from, to, last);
        }
    }

    #[test]
    fn no_bytes_make_a_conversion_panic(text in "[{}\\[\\]\":,a-z0-9\\\\ ]{0,64}", bytes in prop::collection::vec(any::<u8>(), 0..48)) {
        for data in [text.as_bytes(), &bytes] {
            for from in Format::ALL {
                for to in Format::ALL {
                    drop(wire::convert_request(from, to, data, &Target::new("m")));
                    drop(wire::convert_reply(from, to, data, &Shown::default()));
                    drop(wire::convert_count_request(from, to, data, &Target::new("m")));
                    let mut converter = StreamConverter::new(from, to, options());
                    let mut out = BytesMut::new();
                    converter.push(&Event { data: Bytes::copy_from_slice(data), complete: true, ..Event::default() }, &mut out);
                    converter.finish(End::Truncated, &mut out);
                }
            }
        }
    }
}
