//! What a model is said to have answered, before it is written in a provider's format.

use serde_json::{Map, Value, json};

use crate::{Exchange, Surface};

/// What the answer costs, in tokens of classes that do not overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input that no cache held.
    pub input: u64,
    /// Input read from the provider's prompt cache.
    pub cache_read: u64,
    /// Input written to the prompt cache for five minutes.
    pub cache_write_5m: u64,
    /// Input written to the prompt cache for an hour.
    pub cache_write_1h: u64,
    /// Output, with its reasoning.
    pub output: u64,
    /// The part of the output that was reasoning.
    pub reasoning: u64,
}

impl Usage {
    pub(crate) fn prompt(&self) -> u64 {
        self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h
    }
}

/// A part of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
    /// A call of a tool.
    Tool {
        /// The call's id; Gemini has none.
        id: String,
        /// The tool's name.
        name: String,
        /// JSON, or empty as some servers write it.
        arguments: String,
    },
    /// Thoughts with the signature that must come back unchanged.
    Thinking {
        /// What was thought.
        text: String,
        /// The provider's signature over it.
        signature: String,
    },
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Finish {
    /// It was done, or it calls tools.
    #[default]
    Stop,
    /// It had no tokens left.
    Length,
    /// The provider's filter stopped it.
    Filter,
}

/// How calls of tools are cut into the deltas of a chat stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ToolDeltas {
    /// Id, name and empty arguments first, then the arguments in pieces; one call after the other.
    #[default]
    Pieces,
    /// Everything in the first delta.
    Whole,
    /// The pieces of parallel calls in turn.
    Interleaved,
    /// The first delta has both text and the first call; later deltas have `tool_calls: []` beside text.
    WithText,
}

/// A whole answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What it consists of, in order.
    pub parts: Vec<Part>,
    /// Why it ended.
    pub finish: Finish,
    /// What it cost.
    pub usage: Usage,
}

impl Answer {
    /// An answer of text alone, with usage counted in words.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        let usage = Usage { input: 10, output: words(&text), ..Usage::default() };
        Self { parts: vec![Part::Text(text)], finish: Finish::Stop, usage }
    }

    /// The same answer with one part more.
    #[must_use]
    pub fn and(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// The same answer with this call of a tool.
    #[must_use]
    pub fn tool(self, id: &str, name: &str, arguments: &str) -> Self {
        self.and(Part::Tool { id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_owned() })
    }

    /// The same answer with this usage.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// The same answer that ended so.
    #[must_use]
    pub fn finish(mut self, finish: Finish) -> Self {
        self.finish = finish;
        self
    }

    pub(crate) fn calls_tools(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Tool { .. }))
    }

    pub(crate) fn joined_text(&self) -> Option<String> {
        let texts: Vec<&str> = self
            .parts
            .iter()
            .filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
            .collect();
        (!texts.is_empty()).then(|| texts.concat())
    }

    /// What is answered when no script says otherwise, always the same for the same request: every tool whose name
    /// the last user's text has is called; a wanted JSON schema gets an example; else the text is repeated.
    /// Tokens are words.
    pub(crate) fn to(exchange: &Exchange) -> Self {
        let body = exchange.json();
        let (asked, after_tools) = last_text(&body, &exchange.surface);
        let mut answer = Self::default();
        for (name, schema) in tools(&body) {
            if !after_tools && asked.contains(&name) && body["tool_choice"] != "none" {
                let id = match exchange.surface {
                    Surface::Messages => format!("toolu_fake_{}_{}", exchange.number, answer.parts.len()),
                    _ => format!("call_fake_{}_{}", exchange.number, answer.parts.len()),
                };
                answer.parts.push(Part::Tool { id, name, arguments: example(&schema).to_string() });
            }
        }
        if answer.parts.is_empty() {
            let text = match schema_wanted(&body) {
                Some(schema) => example(&schema).to_string(),
                None if after_tools => format!("The tool said: {asked}"),
                None => format!("You said: {asked}"),
            };
            answer.parts.push(Part::Text(text));
        }
        answer.usage.input = words_within(&body);
        if let (Some(limit), [Part::Text(text)]) = (output_limit(&body), answer.parts.as_mut_slice())
            && words(text) > limit
        {
            *text = pieces(text).into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
            answer.finish = Finish::Length;
        }
        answer.usage.output = answer
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(text) | Part::Thinking { text, .. } => words(text),
                Part::Tool { arguments, .. } => 1 + words(arguments),
            })
            .sum();
        answer
    }
}

/// Words, each with the space before it: what a stream sends one by one.
pub(crate) fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for character in text.chars() {
        match pieces.last_mut() {
            Some(piece) if character != ' ' => piece.push(character),
            _ => pieces.push(character.to_string()),
        }
    }
    pieces
}

/// Arguments in pieces of a few characters.
pub(crate) fn argument_pieces(arguments: &str) -> Vec<String> {
    let characters: Vec<char> = arguments.chars().collect();
    characters.chunks(8).map(|chunk| chunk.iter().collect()).collect()
}

fn words(text: &str) -> u64 {
    u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX)
}

/// The words of all texts in a request that a model would read.
pub(crate) fn words_within(body: &Value) -> u64 {
    fn within(value: &Value) -> u64 {
        match value {
            Value::String(text) => words(text),
            Value::Array(list) => list.iter().map(within).sum(),
            Value::Object(fields) => fields
                .iter()
                .filter(|(name, _)| {
                    !["role", "type", "id", "data", "url", "image_url"].contains(&name.as_str())
                })
                .map(|(_, value)| within(value))
                .sum(),
            _ => 0,
        }
    }
    let read = ["messages", "system", "input", "instructions", "contents", "systemInstruction", "tools"];
    read.into_iter().map(|name| within(&body[name])).sum::<u64>().max(1)
}

fn output_limit(body: &Value) -> Option<u64> {
    ["max_completion_tokens", "max_tokens", "max_output_tokens"]
        .into_iter()
        .find_map(|name| body[name].as_u64())
        .or_else(|| body["generationConfig"]["maxOutputTokens"].as_u64())
}

fn schema_wanted(body: &Value) -> Option<Value> {
    [
        &body["response_format"]["json_schema"]["schema"],
        &body["text"]["format"]["schema"],
        &body["output_config"]["format"]["schema"],
        &body["output_format"]["schema"],
        &body["generationConfig"]["responseJsonSchema"],
        &body["generationConfig"]["responseSchema"],
    ]
    .into_iter()
    .find(|schema| schema.is_object())
    .cloned()
}

/// Names and schemas of the tools on offer, in any of the formats.
fn tools(body: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for tool in body["tools"].as_array().into_iter().flatten() {
        let declared = tool["functionDeclarations"]
            .as_array()
            .or_else(|| tool["function_declarations"].as_array())
            .cloned()
            .unwrap_or_else(|| {
                vec![if tool["function"].is_object() { tool["function"].clone() } else { tool.clone() }]
            });
        for tool in declared {
            let schema = ["parameters", "input_schema", "parametersJsonSchema"]
                .into_iter()
                .map(|name| &tool[name])
                .find(|schema| schema.is_object());
            if let Some(name) = tool["name"].as_str() {
                found.push((name.to_owned(), schema.cloned().unwrap_or_default()));
            }
        }
    }
    found
}

/// The text of the last turn, and whether that turn holds results of tools.
fn last_text(body: &Value, surface: &Surface) -> (String, bool) {
    let turns = match surface {
        Surface::Responses => &body["input"],
        Surface::Gemini { .. } => &body["contents"],
        _ => &body["messages"],
    };
    if let Some(text) = turns.as_str() {
        return (text.to_owned(), false);
    }
    let Some(last) = turns.as_array().and_then(|turns| turns.last()) else { return (String::new(), false) };
    if last["type"] == "function_call_output" {
        return (text_of(&last["output"]), true);
    }
    let content = if last["parts"].is_array() { &last["parts"] } else { &last["content"] };
    let result = content.as_array().into_iter().flatten().find_map(|block| match block["type"].as_str() {
        Some("tool_result") => Some(text_of(&block["content"])),
        _ => block["functionResponse"].is_object().then(|| block["functionResponse"]["response"].to_string()),
    });
    match result {
        Some(result) => (result, true),
        None => (text_of(content), last["role"] == "tool"),
    }
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
            texts.join(" ")
        }
        Value::Object(_) => text_of(&content["text"]),
        _ => String::new(),
    }
}

/// A value that fits a JSON schema; every property is present.
fn example(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    let kind = schema["type"].as_str().unwrap_or("object").to_ascii_lowercase();
    match kind.as_str() {
        "string" => json!("example"),
        "integer" => json!(1),
        "number" => json!(1.5),
        "boolean" => json!(true),
        "array" => json!([example(&schema["items"])]),
        "null" => Value::Null,
        _ => {
            let properties = schema["properties"].as_object();
            let fields: Map<String, Value> = properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| {
                    let value =
                        if schema["type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("string"))
                            && !schema["enum"].is_array()
                        {
                            json!(name)
                        } else {
                            example(schema)
                        };
                    (name.clone(), value)
                })
                .collect();
            Value::Object(fields)
        }
    }
}
