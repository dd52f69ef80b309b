//! What can be learned from a reply that passes by: usage, ending, errors, first content.
//!
//! A frame is walked once from left to right and nothing of it is kept, so a delta costs a few hundred nanoseconds and no allocation.

use crate::error::{ProviderError, read_error};
use crate::json::{Bad, DEPTH_MAX, Kind, Scanner};
use crate::sse::Event;
use crate::usage::{self, Counted};
use crate::{Format, Usage};
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// How a delta of the first choice begins when it holds text alone.
const CHAT_DELTA: &[u8] = br#""choices":[{"index":0,"delta":{"content":""#;
static DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(CHAT_DELTA));
static UNFINISHED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""finish_reason":null"#));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""usage""#));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""error""#));

/// What has been seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The newest usage; `None` when none was told.
    pub usage: Option<Usage>,
    /// Whether the answer came to its end: a reason to finish, `[DONE]` or `message_stop`. A stream that stops without it was cut.
    pub finished: bool,
    /// An error inside the answer.
    pub error: Option<ProviderError>,
    /// Whether an event before the answer's end was no JSON: what it would have said is lost.
    pub is_garbled: bool,
    /// Whether something for the reader has come: text, reasoning or a tool call. Roles, pings and annotations before it are not that.
    pub first_content: bool,
    /// Whether the answer calls tools.
    pub has_tool_calls: bool,
    /// Whether the answer was withheld because of what it or the prompt holds.
    pub is_refused: bool,
    /// Whether the answer was cut at its limit of tokens.
    pub is_cut_at_limit: bool,
    /// The model as the provider names it.
    pub model: Option<String>,
    /// The tier that the provider served.
    pub service_tier: Option<String>,
    /// The provider's id of the answer.
    pub id: Option<String>,
    /// Bytes of text, reasoning and arguments that have passed; an estimate stands on it when usage is missing.
    pub output_bytes: u64,
}

/// Looks at a reply that passes by unchanged.
#[derive(Debug)]
pub struct Tap {
    format: Format,
    streaming: bool,
    observed: Observed,
    counted: Option<Counted>,
    /// Choices met and choices finished, one bit each.
    choices: u64,
    choices_finished: u64,
}

impl Tap {
    /// `streaming`: whether [`Self::see`] is going to be called with events, or [`Self::see_body`] once with the whole.
    pub fn new(format: Format, streaming: bool) -> Self {
        Self {
            format,
            streaming,
            observed: Observed::default(),
            counted: None,
            choices: 0,
            choices_finished: 0,
        }
    }

    /// What has been seen so far.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// What has been seen, when no more is to come.
    pub fn into_observed(self) -> Observed {
        self.observed
    }

    /// Looks at one whole event of a stream.
    pub fn see(&mut self, event: &Event) {
        if event.data.is_empty() {
            return;
        }
        if event.data.first() != Some(&b'{') && event.is_done() {
            self.observed.finished = true;
            return;
        }
        if self.walk(&event.name, &event.data).is_err() && !self.observed.finished {
            self.observed.is_garbled |= Scanner::new(&event.data).skip().is_err();
        }
    }

    /// Looks at the whole body of a plain reply. `false`: it could not be read; it may not even be JSON.
    pub fn see_body(&mut self, body: &[u8]) -> bool {
        let mut scanner = Scanner::new(body);
        // Gemini without server-sent events streams one array.
        if scanner.kind() == Ok(Kind::Array) {
            let elements = scanner.array(|scanner| {
                let range = scanner.span()?;
                self.walk(b"", &body[range])
            });
            return elements.is_ok();
        }
        self.walk(b"", body).is_ok()
    }

    /// The usual delta of chat, exactly as OpenAI writes it, which needs no walk: only text, no reason to finish, no usage.
    fn usual_delta(&mut self, data: &[u8]) -> bool {
        if !(self.streaming && self.observed.first_content) {
            return false;
        }
        let Some(start) = DELTA.find(data) else { return false };
        let mut scanner = Scanner::new(&data[start + CHAT_DELTA.len() - 1..]);
        let Ok(text) = scanner.text() else { return false };
        let rest = &data[start + CHAT_DELTA.len() - 1 + scanner.at()..];
        // Inside a text the quotes are escaped, so that these names are found as names alone.
        let is_usual = rest.first() == Some(&b'}')
            && UNFINISHED.find(rest).is_some()
            && ERROR.find(data).is_none()
            && USAGE.find(data).is_none_or(|usage| data[usage..].starts_with(br#""usage":null"#));
        if is_usual {
            self.content(text.decoded_len());
        }
        is_usual
    }

    fn walk(&mut self, name: &[u8], data: &[u8]) -> Result<(), Bad> {
        let mut scanner = Scanner::new(data);
        match self.format {
            Format::Chat => {
                if self.usual_delta(data) {
                    return Ok(());
                }
                self.chat(&mut scanner, data)
            }
            Format::Messages => self.messages(&mut scanner, data),
            Format::Gemini => self.gemini(&mut scanner, data),
            Format::Responses if !self.streaming => self.response(&mut scanner, data),
            Format::Responses => {
                if name.is_empty() {
                    let mut sort = Vec::new();
                    Scanner::new(data).object(|key, scanner| {
                        match key.raw {
                            b"type" => {
                                sort =
                                    scanner.text_or_skip()?.map(|text| text.raw.to_vec()).unwrap_or_default();
                            }
                            _ => scanner.skip()?,
                        }
                        Ok(())
                    })?;
                    self.responses_event(&sort, &mut scanner, data)
                } else {
                    self.responses_event(name, &mut scanner, data)
                }
            }
        }
    }

    fn count(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        let Some(counted) = usage::read(self.format, scanner)? else { return Ok(()) };
        match &mut self.counted {
            // Chat repeats the whole; Anthropic's start and end say different fields.
            Some(before) if self.format == Format::Messages => before.merge(counted),
            before => *before = Some(counted),
        }
        self.observed.usage = self.counted.and_then(|counted| counted.usage(self.format));
        Ok(())
    }

    fn content(&mut self, bytes: u64) {
        self.observed.output_bytes += bytes;
        self.observed.first_content |= bytes > 0;
    }

    fn tool_call(&mut self) {
        self.observed.has_tool_calls = true;
        self.observed.first_content = true;
    }

    fn error(&mut self, scanner: &mut Scanner<'_>, data: &[u8]) -> Result<(), Bad> {
        let is_error = scanner.kind()? != Kind::Null;
        scanner.skip()?;
        if is_error && self.observed.error.is_none() {
            self.observed.error = read_error(self.format, data, None);
        }
        Ok(())
    }

    fn once(slot: &mut Option<String>, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        match scanner.text_or_skip()? {
            Some(text) if slot.is_none() && !text.is_empty() => *slot = Some(text.decode().into_owned()),
            _ => {}
        }
        Ok(())
    }

    fn chat(&mut self, scanner: &mut Scanner<'_>, data: &[u8]) -> Result<(), Bad> {
        scanner.object(|key, scanner| match key.raw {
            b"choices" if scanner.kind()? == Kind::Array => scanner.array(|scanner| self.choice(scanner)),
            b"usage" => self.count(scanner),
            b"model" => Self::once(&mut self.observed.model, scanner),
            b"id" => Self::once(&mut self.observed.id, scanner),
            b"service_tier" => Self::once(&mut self.observed.service_tier, scanner),
            b"error" => self.error(scanner, data),
            _ => scanner.skip(),
        })
    }

    fn choice(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        if scanner.kind()? != Kind::Object {
            return scanner.skip();
        }
        let (mut index, mut is_finished) = (0, false);
        scanner.object(|key, scanner| match key.raw {
            b"index" => {
                index = scanner.count()?.unwrap_or(0);
                Ok(())
            }
            b"finish_reason" => {
                if let Some(reason) = scanner.text_or_skip()? {
                    is_finished = true;
                    match reason.raw {
                        b"length" => self.observed.is_cut_at_limit = true,
                        b"content_filter" => self.observed.is_refused = true,
                        _ => {}
                    }
                }
                Ok(())
            }
            b"delta" | b"message" if scanner.kind()? == Kind::Object => scanner.object(|key, scanner| {
                match key.raw {
                    b"content" | b"reasoning_content" | b"reasoning" => self.content(text_bytes(scanner, 0)?),
                    b"refusal" => {
                        let bytes = text_bytes(scanner, 0)?;
                        self.observed.is_refused |= bytes > 0;
                        self.content(bytes);
                    }
                    b"tool_calls" | b"function_call" => {
                        let kind = scanner.kind()?;
                        let bytes = text_bytes(scanner, 0)?;
                        if kind != Kind::Null && bytes > 0 {
                            self.tool_call();
                        }
                        self.content(bytes);
                    }
                    b"audio" => {
                        self.observed.first_content |= scanner.kind()? != Kind::Null;
                        scanner.skip()?;
                    }
                    _ => scanner.skip()?,
                }
                Ok(())
            }),
            // Text completions, the older sister.
            b"text" => {
                let bytes = text_bytes(scanner, 0)?;
                self.content(bytes);
                Ok(())
            }
            _ => scanner.skip(),
        })?;
        let bit = 1u64 << index.min(63);
        self.choices |= bit;
        if is_finished {
            self.choices_finished |= bit;
            self.observed.finished = self.choices_finished == self.choices;
        } else if self.choices_finished & bit == 0 && self.observed.finished {
            self.observed.finished = false;
        }
        Ok(())
    }

    fn messages(&mut self, scanner: &mut Scanner<'_>, data: &[u8]) -> Result<(), Bad> {
        let streaming = self.streaming;
        scanner.object(|key, scanner| match key.raw {
            b"type" => {
                if scanner.text_or_skip()?.is_some_and(|sort| sort.raw == b"message_stop") {
                    self.observed.finished = true;
                }
                Ok(())
            }
            b"delta" | b"content_block" if scanner.kind()? == Kind::Object => self.block(scanner),
            b"message" if streaming && scanner.kind()? == Kind::Object => self.message(scanner),
            b"usage" => self.anthropic_usage(scanner),
            b"content" if !streaming && scanner.kind()? == Kind::Array => scanner.array(|scanner| {
                if scanner.kind()? == Kind::Object { self.block(scanner) } else { scanner.skip() }
            }),
            b"stop_reason" => self.stop_reason(scanner),
            b"model" => Self::once(&mut self.observed.model, scanner),
            b"id" => Self::once(&mut self.observed.id, scanner),
            b"error" => self.error(scanner, data),
            _ => scanner.skip(),
        })
    }

    fn message(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        scanner.object(|key, scanner| match key.raw {
            b"id" => Self::once(&mut self.observed.id, scanner),
            b"model" => Self::once(&mut self.observed.model, scanner),
            b"usage" => self.anthropic_usage(scanner),
            b"stop_reason" => self.stop_reason(scanner),
            _ => scanner.skip(),
        })
    }

    /// Anthropic tells the tier inside the usage.
    fn anthropic_usage(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        if self.observed.service_tier.is_none() && scanner.kind()? == Kind::Object {
            let mut ahead = scanner.look_ahead();
            ahead.object(|key, scanner| match key.raw {
                b"service_tier" => Self::once(&mut self.observed.service_tier, scanner),
                _ => scanner.skip(),
            })?;
        }
        self.count(scanner)
    }

    fn stop_reason(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        if let Some(reason) = scanner.text_or_skip()? {
            self.observed.finished = true;
            match reason.raw {
                b"max_tokens" | b"model_context_window_exceeded" => self.observed.is_cut_at_limit = true,
                b"refusal" => self.observed.is_refused = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn block(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        scanner.object(|key, scanner| {
            match key.raw {
                b"text" | b"thinking" | b"partial_json" => {
                    let bytes = text_bytes(scanner, 0)?;
                    self.content(bytes);
                }
                b"input" => {
                    let range = scanner.span()?;
                    // `{}` opens a block of a stream and says nothing.
                    if range.len() > 2 {
                        self.content(range.len() as u64);
                    }
                }
                b"type" => {
                    if let Some(sort) = scanner.text_or_skip()? {
                        match sort.raw {
                            b"tool_use" => self.tool_call(),
                            b"server_tool_use" | b"redacted_thinking" => self.observed.first_content = true,
                            _ => {}
                        }
                    }
                }
                b"stop_reason" => self.stop_reason(scanner)?,
                _ => scanner.skip()?,
            }
            Ok(())
        })
    }

    fn gemini(&mut self, scanner: &mut Scanner<'_>, data: &[u8]) -> Result<(), Bad> {
        scanner.object(|key, scanner| match key.raw {
            b"candidates" if scanner.kind()? == Kind::Array => {
                scanner.array(|scanner| self.candidate(scanner))
            }
            b"usageMetadata" => self.count(scanner),
            b"modelVersion" => Self::once(&mut self.observed.model, scanner),
            b"responseId" => Self::once(&mut self.observed.id, scanner),
            b"promptFeedback" if scanner.kind()? == Kind::Object => scanner.object(|key, scanner| {
                if key.raw == b"blockReason" && scanner.kind()? == Kind::String {
                    self.observed.is_refused = true;
                    self.observed.finished = true;
                }
                scanner.skip()
            }),
            b"error" => self.error(scanner, data),
            _ => scanner.skip(),
        })
    }

    fn candidate(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        if scanner.kind()? != Kind::Object {
            return scanner.skip();
        }
        let (mut index, mut is_finished) = (0, false);
        scanner.object(|key, scanner| match key.raw {
            b"index" => {
                index = scanner.count()?.unwrap_or(0);
                Ok(())
            }
            b"finishReason" => {
                if let Some(reason) = scanner.text_or_skip()? {
                    is_finished = reason.raw != b"FINISH_REASON_UNSPECIFIED";
                    match reason.raw {
                        b"MAX_TOKENS" => self.observed.is_cut_at_limit = true,
                        b"STOP" | b"FINISH_REASON_UNSPECIFIED" | b"OTHER" => {}
                        reason if reason.ends_with(b"_CALL") || reason.ends_with(b"_CALLS") => {}
                        _ => self.observed.is_refused = true,
                    }
                }
                Ok(())
            }
            b"content" if scanner.kind()? == Kind::Object => scanner.object(|key, scanner| match key.raw {
                b"parts" if scanner.kind()? == Kind::Array => scanner.array(|scanner| self.part(scanner)),
                _ => scanner.skip(),
            }),
            _ => scanner.skip(),
        })?;
        let bit = 1u64 << index.min(63);
        self.choices |= bit;
        if is_finished {
            self.choices_finished |= bit;
        }
        self.observed.finished = self.choices_finished == self.choices;
        Ok(())
    }

    fn part(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        if scanner.kind()? != Kind::Object {
            return scanner.skip();
        }
        scanner.object(|key, scanner| {
            match key.raw {
                b"text" => {
                    let bytes = text_bytes(scanner, 0)?;
                    self.content(bytes);
                }
                b"functionCall" => {
                    self.tool_call();
                    let bytes = scanner.span()?.len() as u64;
                    self.content(bytes);
                }
                b"inlineData" | b"executableCode" => {
                    self.observed.first_content = true;
                    scanner.skip()?;
                }
                _ => scanner.skip()?,
            }
            Ok(())
        })
    }

    fn responses_event(&mut self, sort: &[u8], scanner: &mut Scanner<'_>, data: &[u8]) -> Result<(), Bad> {
        if sort.ends_with(b".delta") {
            return scanner.object(|key, scanner| {
                if key.raw == b"delta" {
                    let bytes = text_bytes(scanner, 0)?;
                    self.content(bytes);
                    if sort == b"response.refusal.delta" {
                        self.observed.is_refused = true;
                    }
                    return Ok(());
                }
                scanner.skip()
            });
        }
        match sort {
            b"response.created"
            | b"response.completed"
            | b"response.incomplete"
            | b"response.failed"
            | b"response.cancelled" => scanner.object(|key, scanner| match key.raw {
                b"response" if scanner.kind()? == Kind::Object => self.response(scanner, data),
                _ => scanner.skip(),
            }),
            b"response.output_item.added" => scanner.object(|key, scanner| match key.raw {
                b"item" if scanner.kind()? == Kind::Object => scanner.object(|key, scanner| {
                    if key.raw == b"type"
                        && scanner.kind()? == Kind::String
                        && scanner.text()?.raw.ends_with(b"_call")
                    {
                        self.tool_call();
                        return Ok(());
                    }
                    if key.raw == b"type" { Ok(()) } else { scanner.skip() }
                }),
                _ => scanner.skip(),
            }),
            b"error" => {
                if self.observed.error.is_none() {
                    self.observed.error = read_error(Format::Responses, data, None);
                }
                Ok(())
            }
            _ => scanner.skip(),
        }
    }

    /// A response, alone or inside an event.
    fn response(&mut self, scanner: &mut Scanner<'_>, data: &[u8]) -> Result<(), Bad> {
        let streaming = self.streaming;
        scanner.object(|key, scanner| match key.raw {
            b"id" => Self::once(&mut self.observed.id, scanner),
            b"model" => Self::once(&mut self.observed.model, scanner),
            b"service_tier" => {
                // The request's `auto` stands in the first events; the last one names what was served.
                if let Some(tier) = scanner.text_or_skip()? {
                    self.observed.service_tier = Some(tier.decode().into_owned());
                }
                Ok(())
            }
            b"usage" => self.count(scanner),
            b"status" => {
                if let Some(status) = scanner.text_or_skip()? {
                    self.observed.finished |= matches!(status.raw, b"completed" | b"incomplete");
                }
                Ok(())
            }
            b"incomplete_details" if scanner.kind()? == Kind::Object => scanner.object(|key, scanner| {
                match (key.raw, scanner.text_or_skip()?) {
                    (b"reason", Some(reason)) if reason.raw == b"max_output_tokens" => {
                        self.observed.is_cut_at_limit = true;
                    }
                    (b"reason", Some(reason)) if reason.raw == b"content_filter" => {
                        self.observed.is_refused = true;
                    }
                    _ => {}
                }
                Ok(())
            }),
            b"error" => self.error(scanner, data),
            b"output" if !streaming && scanner.kind()? == Kind::Array => {
                scanner.array(|scanner| self.output_item(scanner))
            }
            _ => scanner.skip(),
        })
    }

    fn output_item(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        if scanner.kind()? != Kind::Object {
            return scanner.skip();
        }
        scanner.object(|key, scanner| {
            match key.raw {
                b"type" => {
                    if scanner.text_or_skip()?.is_some_and(|sort| sort.raw.ends_with(b"_call")) {
                        self.tool_call();
                    }
                }
                b"content" | b"summary" | b"arguments" | b"input" => {
                    let bytes = text_bytes(scanner, 0)?;
                    self.content(bytes);
                }
                _ => scanner.skip()?,
            }
            Ok(())
        })
    }
}

/// Bytes of all texts in a value, without those that only name things.
fn text_bytes(scanner: &mut Scanner<'_>, depth: usize) -> Result<u64, Bad> {
    let mut bytes = 0;
    match scanner.kind()? {
        Kind::String => bytes = scanner.text()?.decoded_len(),
        Kind::Array if depth < DEPTH_MAX => scanner.array(|scanner| {
            bytes += text_bytes(scanner, depth + 1)?;
            Ok(())
        })?,
        Kind::Object if depth < DEPTH_MAX => scanner.object(|key, scanner| {
            match key.raw {
                b"id" | b"type" | b"annotations" | b"logprobs" => scanner.skip()?,
                _ => bytes += text_bytes(scanner, depth + 1)?,
            }
            Ok(())
        })?,
        _ => scanner.skip()?,
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use crate::sse::Splitter;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn see(format: Format, stream: &str) -> Observed {
        let mut splitter = Splitter::new();
        let mut tap = Tap::new(format, true);
        splitter.push(Bytes::copy_from_slice(stream.as_bytes()));
        while let Some(event) = splitter.next().or_else(|| splitter.finish()) {
            tap.see(&event);
        }
        tap.into_observed()
    }

    const CHAT: &str = concat!(
        "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"model\":\"m-1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\\u00e9llo\"},\"finish_reason\":null}],\"usage\":null}\n\n",
        "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
        "data: {\"id\":\"c1\",\"service_tier\":\"default\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn a_chat_stream_is_read() {
        let seen = see(Format::Chat, CHAT);
        assert_eq!(seen.usage, Some(Usage { input: 9, output: 3, ..Usage::default() }));
        assert!(seen.finished && seen.first_content && seen.has_tool_calls && !seen.is_refused);
        assert_eq!(
            (seen.model.as_deref(), seen.service_tier.as_deref(), seen.id.as_deref()),
            (Some("m-1"), Some("default"), Some("c1"))
        );
        assert_eq!(seen.output_bytes, 6 + 3);
        // The role alone is no content; nothing before the reason is an end.
        let mut first = see(Format::Chat, &CHAT[..CHAT.find("data: {\"id\":\"c1\",\"choices\"").unwrap()]);
        assert!(!first.first_content && !first.finished);
        first = see(Format::Chat, &CHAT[..CHAT.find("\"tool_calls\"}]").unwrap()]);
        assert!(first.first_content && !first.finished);
        // Every choice has to finish.
        let two = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}},{\"index\":1,\"delta\":{\"content\":\"b\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        assert!(!see(Format::Chat, two).finished);
        let both = format!(
            "{two}data: {{\"choices\":[{{\"index\":1,\"delta\":{{}},\"finish_reason\":\"length\"}}]}}\n\n"
        );
        assert!(see(Format::Chat, &both).finished && see(Format::Chat, &both).is_cut_at_limit);
        assert!(see(Format::Chat, "data: [DONE]").finished);
    }

    #[test]
    fn the_usual_delta_is_read_as_any_other() {
        let first =
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
        for (delta, bytes, finished, usage, error) in [
            (
                r#"{"choices":[{"index":0,"delta":{"content":"b\n\u00e9"},"finish_reason":null}],"usage":null}"#,
                4,
                false,
                false,
                false,
            ),
            (
                r#"{"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}]}"#,
                1,
                true,
                false,
                false,
            ),
            (
                r#"{"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":null}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
                1,
                false,
                true,
                false,
            ),
            (
                r#"{"usage":{"prompt_tokens":1,"completion_tokens":1},"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":null}]}"#,
                1,
                false,
                true,
                false,
            ),
            (
                r#"{"choices":[{"index":0,"delta":{"content":"\"usage\":{\"finish_reason\":\"stop\"}"},"finish_reason":null}]}"#,
                32,
                false,
                false,
                false,
            ),
            (
                r#"{"choices":[{"index":0,"delta":{"content":"b","tool_calls":[]},"finish_reason":"stop"}]}"#,
                1,
                true,
                false,
                false,
            ),
            (
                r#"{"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":null}],"error":{"message":"m"}}"#,
                1,
                false,
                false,
                true,
            ),
        ] {
            let seen = see(Format::Chat, &format!("{first}data: {delta}\n\n"));
            assert_eq!(seen.output_bytes, 1 + bytes, "{delta}");
            assert_eq!(
                (seen.finished, seen.usage.is_some(), seen.error.is_some()),
                (finished, usage, error),
                "{delta}"
            );
        }
    }

    #[test]
    fn an_error_inside_a_stream_is_read() {
        for (format, stream, class) in [
            (
                Format::Chat,
                "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"code\":null}}\n\n",
                ErrorClass::Server,
            ),
            (
                Format::Messages,
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n",
                ErrorClass::Overloaded,
            ),
            (
                Format::Gemini,
                "data: {\"error\":{\"code\":429,\"message\":\"m\",\"status\":\"RESOURCE_EXHAUSTED\"}}\n\n",
                ErrorClass::Rate,
            ),
            (
                Format::Responses,
                "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"m\"}\n\n",
                ErrorClass::Server,
            ),
            (
                Format::Responses,
                "data: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}}\n\n",
                ErrorClass::Rate,
            ),
        ] {
            let seen = see(format, stream);
            assert_eq!(seen.error.map(|error| error.class), Some(class), "{stream}");
            assert!(!seen.finished && !seen.first_content, "{stream}");
        }
    }

    #[test]
    fn a_messages_stream_is_read() {
        let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"c-1\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":4,\"output_tokens\":1,\"service_tier\":\"standard\"}}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
        let text = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n";
        let tool = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}}\n\n";
        let end = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":15}}\n\n";
        let seen = see(Format::Messages, start);
        assert!(!seen.first_content && !seen.finished && !seen.has_tool_calls);
        let seen = see(Format::Messages, &[start, text].concat());
        assert!(seen.first_content && !seen.finished && seen.output_bytes == 2);
        let seen = see(Format::Messages, &[start, text, tool, end].concat());
        assert!(seen.finished && seen.has_tool_calls);
        assert_eq!(seen.usage, Some(Usage { input: 25, cache_read: 4, output: 15, ..Usage::default() }));
        assert_eq!(
            (seen.model.as_deref(), seen.service_tier.as_deref(), seen.id.as_deref()),
            (Some("c-1"), Some("standard"), Some("msg_1"))
        );
        assert!(see(Format::Messages, "data: {\"type\":\"message_stop\"}\n\n").finished);
    }

    #[test]
    fn a_gemini_stream_is_read() {
        let first = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"ab\"}],\"role\":\"model\"},\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":8},\"modelVersion\":\"g-1\",\"responseId\":\"r\"}\r\n\r\n";
        let last = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"name\":\"f\",\"args\":{}}}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":8,\"candidatesTokenCount\":4,\"thoughtsTokenCount\":2,\"totalTokenCount\":14}}\r\n\r\n";
        let seen = see(Format::Gemini, first);
        assert!(seen.first_content && !seen.finished && seen.model.as_deref() == Some("g-1"));
        let seen = see(Format::Gemini, &[first, last].concat());
        assert!(seen.finished && seen.has_tool_calls);
        assert_eq!(seen.usage, Some(Usage { input: 8, output: 6, reasoning: 2, ..Usage::default() }));
        let blocked = see(Format::Gemini, "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n");
        assert!(blocked.finished && blocked.is_refused && !blocked.first_content);
    }

    #[test]
    fn a_responses_stream_is_read() {
        let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"status\":\"in_progress\",\"model\":\"m\",\"service_tier\":\"auto\",\"usage\":null,\"error\":null}}\n\n";
        let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"i\",\"delta\":\"abc\"}\n\n";
        let item = "data: {\"type\":\"response.output_item.added\",\"item\":{\"id\":\"f\",\"type\":\"function_call\"}}\n\n";
        let end = "event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"response\":{\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"max_output_tokens\"},\"service_tier\":\"default\",\"usage\":{\"input_tokens\":5,\"output_tokens\":2}}}\n\n";
        let seen = see(Format::Responses, created);
        assert!(!seen.first_content && !seen.finished && seen.error.is_none());
        let seen = see(Format::Responses, &[created, delta, item, end].concat());
        assert!(seen.finished && seen.is_cut_at_limit && seen.has_tool_calls && seen.output_bytes == 3);
        assert_eq!(seen.service_tier.as_deref(), Some("default"));
        assert_eq!(seen.usage, Some(Usage { input: 5, output: 2, ..Usage::default() }));
    }

    #[test]
    fn plain_replies_are_read() {
        for (format, body) in [
            (
                Format::Chat,
                r#"{"id":"i","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"abcd","tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
            ),
            (
                Format::Messages,
                r#"{"id":"i","model":"m","content":[{"type":"text","text":"abcd"},{"type":"tool_use","id":"x","name":"f","input":{}}],"stop_reason":"tool_use","usage":{"input_tokens":5,"output_tokens":2}}"#,
            ),
            (
                Format::Gemini,
                r#"{"candidates":[{"content":{"parts":[{"text":"abcd"},{"functionCall":{"name":"f"}}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":2},"modelVersion":"m","responseId":"i"}"#,
            ),
            (
                Format::Gemini,
                r#"[{"candidates":[{"content":{"parts":[{"text":"abcd"}]}}]},{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f"}}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":2},"modelVersion":"m","responseId":"i"}]"#,
            ),
            (
                Format::Responses,
                r#"{"id":"i","model":"m","status":"completed","error":null,"output":[{"type":"message","content":[{"type":"output_text","text":"abcd"}]},{"type":"function_call","arguments":"{}"}],"usage":{"input_tokens":5,"output_tokens":2}}"#,
            ),
        ] {
            let mut tap = Tap::new(format, false);
            tap.see_body(body.as_bytes());
            let seen = tap.into_observed();
            assert_eq!(seen.usage, Some(Usage { input: 5, output: 2, ..Usage::default() }), "{body}");
            assert!(
                seen.finished && seen.first_content && seen.has_tool_calls && seen.error.is_none(),
                "{body}"
            );
            assert_eq!((seen.model.as_deref(), seen.id.as_deref()), (Some("m"), Some("i")), "{body}");
            assert!(seen.output_bytes >= 4, "{body}");
        }
    }

    /// Prints what an event costs: `cargo test --release -p wire -- --ignored --nocapture costs`.
    #[test]
    #[ignore = "a measurement, it asserts nothing"]
    fn what_an_event_costs() {
        let mut splitter = Splitter::new();
        splitter.push(Bytes::from(CHAT));
        let events: Vec<Event> = std::iter::from_fn(|| splitter.next()).collect();
        let start = std::time::Instant::now();
        for _ in 0..100_000 {
            let mut tap = Tap::new(Format::Chat, true);
            for event in &events {
                tap.see(event);
            }
            std::hint::black_box(tap.observed());
        }
        println!("tap: {} ns an event", start.elapsed().as_nanos() / 100_000 / events.len() as u128);
        let piece = Bytes::from(CHAT);
        let start = std::time::Instant::now();
        for _ in 0..100_000 {
            let mut splitter = Splitter::new();
            splitter.push(piece.clone());
            while let Some(event) = splitter.next() {
                std::hint::black_box(&event);
            }
        }
        println!("splitter: {} ns an event", start.elapsed().as_nanos() / 100_000 / events.len() as u128);
        let body = format!(
            r#"{{"model":"fast","messages":[{{"role":"user","content":"{}"}}],"stream":true,"max_tokens":100}}"#,
            "word and \\n word ".repeat(55)
        );
        let start = std::time::Instant::now();
        for _ in 0..100_000 {
            std::hint::black_box(crate::scan(Format::Chat, body.as_bytes()).unwrap());
        }
        println!("scan of {} bytes: {} ns", body.len(), start.elapsed().as_nanos() / 100_000);
    }

    proptest! {
        #[test]
        fn nothing_that_passes_makes_it_panic(text in "[{}\\[\\]\":,a-z0-9\\\\ ]{0,64}", bytes in prop::collection::vec(any::<u8>(), 0..48)) {
            for format in Format::ALL {
                for data in [text.as_bytes(), &bytes] {
                    let mut tap = Tap::new(format, true);
                    tap.see(&Event { data: Bytes::copy_from_slice(data), ..Event::default() });
                    tap.see_body(data);
                }
            }
        }
    }
}
