//! The providers' streams, event by event, into stretches of text, reasoning and calls.

use crate::error::{ProviderError, error_in};
use crate::json::{self, Object, Value};
use crate::mark::Mark;
use crate::neutral::{Body, Finish, Shown, Source, minted};
use crate::sse::Event;
use crate::stream::{Opening, Writer};
use crate::usage::{self, Counted};
use crate::{ErrorClass, Format, Usage, chat, gemini, messages, responses};
use bytes::BytesMut;

/// Why a stream cannot go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The provider says so.
    Provider(ProviderError),
    /// An event is no JSON.
    NoJson,
    /// An event makes no sense.
    Bad(&'static str),
}

impl Trouble {
    pub(crate) fn into_error(self) -> ProviderError {
        let message = match self {
            Trouble::Provider(error) => return error,
            Trouble::NoJson => "the provider sent an event that is not valid JSON",
            Trouble::Bad(message) => message,
        };
        ProviderError { class: ErrorClass::Server, message: message.to_owned(), code: None }
    }
}

/// Stretches that a format does not number itself.
const TEXT: u64 = 0;
const THINKING: u64 = 1;
const REFUSAL: u64 = 2;
/// Numbers of the format begin here.
const NUMBERED: u64 = 16;

/// Reads one format's stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    format: Format,
    seed: u64,
    /// The reason to finish, once told.
    pub(crate) finish: Option<Finish>,
    /// Whether the format's own end has come.
    pub(crate) is_done: bool,
    counted: Option<Counted>,
    thinking_is_open: bool,
    /// Chat's details of the reasoning in progress.
    details: Vec<Value<'static>>,
    calls: Vec<Call>,
    calls_made: u64,
    /// Stretches that have had text, for formats that repeat it whole at the end.
    written: Vec<u64>,
    blocks: Vec<Block>,
}

/// A call of chat, whose parts may come in any order.
#[derive(Debug)]
struct Call {
    index: u64,
    key: u64,
    id: String,
    name: String,
    early: String,
    mark: Option<Mark<'static>>,
    is_open: bool,
}

/// A block of Anthropic's.
#[derive(Debug, Default)]
struct Block {
    index: u64,
    is_thinking: bool,
    signature: String,
    /// Input that came whole at the start; servers that do so send no deltas.
    whole_input: String,
    has_delta: bool,
    /// Other formats have no word for it.
    is_unsayable: bool,
}

impl Decoder {
    pub(crate) fn new(format: Format, seed: u64) -> Self {
        Self {
            format,
            seed,
            finish: None,
            is_done: false,
            counted: None,
            thinking_is_open: false,
            details: Vec::new(),
            calls: Vec::new(),
            calls_made: 0,
            written: Vec::new(),
            blocks: Vec::new(),
        }
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        self.counted?.usage(self.format)
    }

    fn count(&mut self, value: Option<&Value<'_>>) {
        let Some(counted) = usage::counted_in(self.format, value) else { return };
        match &mut self.counted {
            Some(before) if self.format == Format::Messages => before.merge(counted),
            before => *before = Some(counted),
        }
    }

    pub(crate) fn event(
        &mut self,
        event: &Event,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        if event.is_done() {
            if self.format == Format::Chat {
                self.close_calls(writer, out)?;
                self.is_done = true;
            }
            return Ok(());
        }
        let value = json::parse(&event.data).map_err(|_| Trouble::NoJson)?;
        let Value::Object(body) = value else {
            return Err(Trouble::Bad("the provider sent an event that is no object"));
        };
        match self.format {
            Format::Chat => self.chat(body, writer, out),
            Format::Messages => self.messages(body, writer, out),
            Format::Gemini => self.gemini(body, writer, out),
            Format::Responses => self.responses(body, writer, out),
        }
    }

    fn provider_error(&self, body: &Object<'_>) -> Result<(), Trouble> {
        if body.get("error").is_none() && body.text("type") != Some("error") {
            return Ok(());
        }
        match error_in(self.format, &Value::Object(body.clone()), None) {
            Some(error) => Err(Trouble::Provider(error)),
            None => Ok(()),
        }
    }

    fn chat(&mut self, mut body: Object<'_>, writer: &mut Writer, out: &mut BytesMut) -> Result<(), Trouble> {
        self.provider_error(&body)?;
        self.count(body.get("usage"));
        let Some(Value::Array(choices)) = body.take("choices") else { return Ok(()) };
        for choice in choices {
            let Value::Object(mut choice) = choice else { continue };
            if choice.get("index").and_then(Value::as_u64).unwrap_or(0) != 0 {
                continue;
            }
            writer.start(body.text("id").filter(|id| !id.is_empty()), out);
            if let Some(Value::Object(delta)) = choice.take("delta").or_else(|| choice.take("message")) {
                self.chat_delta(delta, writer, out)?;
            }
            if let Some(reason) = choice.text("finish_reason") {
                self.end_chat_thinking(writer, out);
                self.finish = Some(chat::read_finish(reason));
            }
        }
        Ok(())
    }

    fn chat_delta(
        &mut self,
        mut delta: Object<'_>,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        if let Some(Value::Array(details)) = delta.take("reasoning_details") {
            self.thinking_is_open |= !details.is_empty();
            self.details.extend(details.into_iter().map(Value::into_owned));
        }
        if let Some(text) = delta.take_text("reasoning_content").or_else(|| delta.take_text("reasoning"))
            && !text.is_empty()
        {
            self.thinking_is_open = true;
            writer.append(THINKING, &Opening::Thinking, &text, out)?;
        }
        match delta.take("content") {
            Some(Value::String(text)) if !text.is_empty() => {
                self.end_chat_thinking(writer, out);
                writer.append(TEXT, &Opening::Text, &text, out)?;
            }
            Some(Value::Array(parts)) => {
                for part in parts {
                    if let Value::Object(mut part) = part
                        && let Some(text) = part.take_text("text")
                    {
                        self.end_chat_thinking(writer, out);
                        writer.append(TEXT, &Opening::Text, &text, out)?;
                    }
                }
            }
            _ => {}
        }
        if let Some(refusal) = delta.take_text("refusal")
            && !refusal.is_empty()
        {
            self.end_chat_thinking(writer, out);
            writer.append(REFUSAL, &Opening::Refusal, &refusal, out)?;
        }
        if let Some(Value::Array(calls)) = delta.take("tool_calls") {
            for call in calls {
                if let Value::Object(call) = call {
                    self.end_chat_thinking(writer, out);
                    self.chat_call(call, writer, out)?;
                }
            }
        }
        Ok(())
    }

    fn end_chat_thinking(&mut self, writer: &mut Writer, out: &mut BytesMut) {
        if !std::mem::take(&mut self.thinking_is_open) {
            return;
        }
        let details = std::mem::take(&mut self.details);
        let payload = if details.is_empty() { String::new() } else { Value::Array(details).to_json() };
        writer.close(THINKING, Some(Mark::new(Format::Chat, payload)), out);
    }

    fn chat_call(
        &mut self,
        mut call: Object<'_>,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        let id = call.take_text("id").filter(|id| !id.is_empty());
        let index = call.take("index").and_then(|index| index.as_u64());
        let mark = match call.take("extra_content") {
            Some(extra) => extra
                .get("google")
                .and_then(|google| google.get("thought_signature"))
                .and_then(Value::as_str)
                .map(|signature| Mark::new(Format::Gemini, signature.to_owned())),
            None => None,
        };
        let (mut name, mut arguments) = (None, None);
        if let Some(Value::Object(mut function)) = call.take("function") {
            name = function.take_text("name").filter(|name| !name.is_empty());
            arguments = match function.take("arguments") {
                Some(Value::String(text)) => Some(text),
                Some(value @ Value::Object(_)) => Some(value.to_json().into()),
                _ => None,
            };
        }
        // Some servers give every call the same index, or none: then a new id is a new call.
        let index = index.unwrap_or_else(|| self.calls.last().map_or(0, |call| call.index));
        let known = self.calls.iter().rposition(|call| call.index == index).filter(|&position| {
            id.as_ref().is_none_or(|id| self.calls[position].id.is_empty() || self.calls[position].id == **id)
        });
        let position = known.unwrap_or_else(|| {
            let key = NUMBERED + self.calls.len() as u64;
            let (id, name, early) = (String::new(), String::new(), String::new());
            self.calls.push(Call { index, key, id, name, early, mark: None, is_open: false });
            self.calls.len() - 1
        });
        let seed = self.seed;
        let call = &mut self.calls[position];
        if let Some(id) = id {
            call.id = id.into_owned();
        }
        call.mark = call.mark.take().or(mark);
        if !call.is_open {
            if let Some(name) = name {
                call.name = name.into_owned();
            }
            // The name may come after the id, or after the first arguments.
            if call.name.is_empty() {
                call.early.push_str(arguments.as_deref().unwrap_or_default());
                return Ok(());
            }
            call.open(seed, writer, out)?;
        }
        writer.append_arguments(call.key, arguments.as_deref().unwrap_or_default(), out)
    }

    /// Opens what never got a name, so that its arguments are not lost.
    fn close_calls(&mut self, writer: &mut Writer, out: &mut BytesMut) -> Result<(), Trouble> {
        let seed = self.seed;
        for call in self.calls.iter_mut().filter(|call| !call.is_open) {
            call.open(seed, writer, out)?;
        }
        Ok(())
    }

    fn messages(
        &mut self,
        mut body: Object<'_>,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        self.provider_error(&body)?;
        let index = number(&body, "index");
        let key = NUMBERED + index;
        match body.take_text("type").as_deref() {
            Some("message_start") => {
                let Some(Value::Object(message)) = body.take("message") else { return Ok(()) };
                self.count(message.get("usage"));
                writer.usage_at_start(self.usage());
                writer.start(message.text("id"), out);
            }
            Some("content_block_start") => {
                let Some(Value::Object(block)) = body.take("content_block") else { return Ok(()) };
                self.messages_block(block, index, writer, out)?;
            }
            Some("content_block_delta") => {
                let Some(Value::Object(mut delta)) = body.take("delta") else { return Ok(()) };
                if let Some(text) = delta.take_text("text") {
                    writer.append(key, &Opening::Text, &text, out)?;
                } else if let Some(text) = delta.take_text("thinking") {
                    writer.append(key, &Opening::Thinking, &text, out)?;
                } else if let Some(text) = delta.take_text("partial_json") {
                    let block = self.blocks.iter_mut().find(|block| block.index == index);
                    if let Some(block) = block {
                        block.has_delta |= !text.is_empty();
                        if block.is_unsayable {
                            return Ok(());
                        }
                    }
                    writer.append_arguments(key, &text, out)?;
                } else if let Some(signature) = delta.take_text("signature")
                    && let Some(block) = self.blocks.iter_mut().find(|block| block.index == index)
                {
                    block.signature.push_str(&signature);
                }
            }
            Some("content_block_stop") => {
                let position = self.blocks.iter().position(|block| block.index == index);
                let Some(block) = position.map(|position| self.blocks.remove(position)) else {
                    return Ok(());
                };
                if !block.has_delta {
                    writer.append_arguments(key, &block.whole_input, out)?;
                }
                let mark = block.is_thinking.then(|| Mark::new(Format::Messages, block.signature));
                writer.close(key, mark, out);
            }
            Some("message_delta") => {
                self.count(body.get("usage"));
                if let Some(Value::Object(delta)) = body.take("delta")
                    && let Some(reason) = delta.text("stop_reason")
                {
                    self.finish = Some(messages::read_finish(reason, delta.text("stop_sequence")));
                }
            }
            Some("message_stop") => self.is_done = true,
            // What keeps the connection alive here keeps it alive there.
            Some("ping") => writer.keep_alive(out),
            _ => {}
        }
        Ok(())
    }

    fn messages_block(
        &mut self,
        mut block: Object<'_>,
        index: u64,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        let key = NUMBERED + index;
        let mut state = Block { index, ..Block::default() };
        match block.take_text("type").as_deref() {
            Some("text") => {
                writer.append(key, &Opening::Text, &block.take_text("text").unwrap_or_default(), out)?;
            }
            Some("thinking") => {
                state.is_thinking = true;
                state.signature = block.take_text("signature").unwrap_or_default().into_owned();
                writer.append(
                    key,
                    &Opening::Thinking,
                    &block.take_text("thinking").unwrap_or_default(),
                    out,
                )?;
            }
            Some("redacted_thinking") => {
                let data = block.take_text("data").unwrap_or_default().into_owned();
                writer.seal(key, Mark { redacted: true, ..Mark::new(Format::Messages, data) }, out);
            }
            Some("tool_use") => {
                if let Some(Value::Object(input)) = block.take("input")
                    && !input.0.is_empty()
                {
                    state.whole_input = Value::Object(input).to_json();
                }
                let id = block.take_text("id").filter(|id| !id.is_empty());
                let opening = Opening::Tool {
                    id: id.map_or_else(|| minted("toolu_", self.seed, index), std::borrow::Cow::into_owned),
                    name: block.take_text("name").unwrap_or_default().into_owned(),
                    mark: None,
                };
                writer.open(key, opening, out);
            }
            // Calls of tools that the provider runs, and their results.
            _ => state.is_unsayable = true,
        }
        self.blocks.push(state);
        Ok(())
    }

    fn gemini(
        &mut self,
        mut body: Object<'_>,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        self.provider_error(&body)?;
        self.count(body.get("usageMetadata"));
        if body.get("promptFeedback").and_then(|feedback| feedback.get("blockReason")).is_some() {
            self.finish = Some(Finish::Refused);
        }
        writer.start(body.text("responseId").filter(|id| !id.is_empty()), out);
        let Some(Value::Array(candidates)) = body.take("candidates") else { return Ok(()) };
        for candidate in candidates {
            let Value::Object(mut candidate) = candidate else { continue };
            if candidate.get("index").and_then(Value::as_u64).unwrap_or(0) != 0 {
                continue;
            }
            if let Some(Value::Object(mut content)) = candidate.take("content")
                && let Some(Value::Array(parts)) = content.take("parts")
            {
                for part in parts {
                    if let Value::Object(part) = part {
                        self.gemini_part(part, writer, out)?;
                    }
                }
            }
            if let Some(finish) = candidate.text("finishReason").and_then(gemini::read_finish) {
                self.end_gemini_thinking(None, writer, out);
                self.finish = Some(finish);
            }
        }
        Ok(())
    }

    fn end_gemini_thinking(&mut self, mark: Option<Mark<'static>>, writer: &mut Writer, out: &mut BytesMut) {
        if std::mem::take(&mut self.thinking_is_open) {
            writer.close(THINKING, Some(mark.unwrap_or_else(|| Mark::new(Format::Gemini, ""))), out);
        }
    }

    fn gemini_part(
        &mut self,
        mut part: Object<'_>,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        let mark = part
            .take_text("thoughtSignature")
            .map(|signature| Mark::new(Format::Gemini, signature.into_owned()));
        let is_thought = part.take("thought").and_then(|value| value.as_bool()).unwrap_or(false);
        if let Some(text) = part.take_text("text") {
            if is_thought {
                if !text.is_empty() {
                    self.thinking_is_open = true;
                    writer.append(THINKING, &Opening::Thinking, &text, out)?;
                }
                if mark.is_some() {
                    self.end_gemini_thinking(mark, writer, out);
                }
                return Ok(());
            }
            self.end_gemini_thinking(None, writer, out);
            if let Some(mark) = mark {
                writer.close(TEXT, None, out);
                writer.seal(THINKING, mark, out);
            }
            return writer.append(TEXT, &Opening::Text, &text, out);
        }
        if let Some(Value::Object(mut call)) = part.take("functionCall") {
            self.end_gemini_thinking(None, writer, out);
            let number = self.calls_made;
            self.calls_made += 1;
            if let Body::ToolCall { id, name, arguments, .. } =
                gemini::read_call(&mut call, None, self.seed, number)
            {
                let key = NUMBERED + number;
                let opening = Opening::Tool { id: id.into_owned(), name: name.into_owned(), mark };
                writer.open(key, opening, out);
                writer.append_arguments(key, &arguments, out)?;
                writer.close(key, None, out);
            }
            return Ok(());
        }
        if let Some(Value::Object(mut blob)) = part.take("inlineData") {
            self.end_gemini_thinking(None, writer, out);
            let media_type = blob.take_text("mimeType").unwrap_or_default();
            return writer.image(&media_type, &blob.take_text("data").unwrap_or_default(), out);
        }
        if let Some(mark) = mark {
            self.end_gemini_thinking(None, writer, out);
            writer.seal(THINKING, mark, out);
        }
        Ok(())
    }

    fn responses(
        &mut self,
        mut body: Object<'_>,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        self.provider_error(&body)?;
        let sort = body.take_text("type").unwrap_or_default();
        let base = NUMBERED + number(&body, "output_index") * 4;
        let (text_key, thinking_key, refusal_key, call_key) = (base, base + 1, base + 2, base + 3);
        match sort.as_ref() {
            "response.created" => {
                writer.start(
                    body.get("response").and_then(|response| response.get("id")).and_then(Value::as_str),
                    out,
                );
            }
            "response.output_text.delta" => {
                self.add(text_key, &Opening::Text, body.text("delta").unwrap_or_default(), writer, out)?;
            }
            "response.refusal.delta" => {
                self.add(
                    refusal_key,
                    &Opening::Refusal,
                    body.text("delta").unwrap_or_default(),
                    writer,
                    out,
                )?;
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.add(
                    thinking_key,
                    &Opening::Thinking,
                    body.text("delta").unwrap_or_default(),
                    writer,
                    out,
                )?;
            }
            "response.reasoning_summary_part.added" if self.written.contains(&thinking_key) => {
                writer.append(thinking_key, &Opening::Thinking, "\n\n", out)?;
            }
            "response.function_call_arguments.delta" => {
                let delta = body.text("delta").unwrap_or_default();
                self.note(call_key, delta);
                writer.append_arguments(call_key, delta, out)?;
            }
            // Some servers send the whole alone.
            "response.function_call_arguments.done" => {
                let whole = body.text("arguments").unwrap_or_default();
                self.add_arguments_once(call_key, whole, writer, out)?;
            }
            "response.output_text.done" if !self.written.contains(&text_key) => {
                self.add(text_key, &Opening::Text, body.text("text").unwrap_or_default(), writer, out)?;
            }
            "response.output_item.added" => {
                if let Some(Value::Object(mut item)) = body.take("item")
                    && item.text("type") == Some("function_call")
                {
                    self.open_item(call_key, &mut item, writer, out);
                }
            }
            "response.output_item.done" => {
                if let Some(Value::Object(item)) = body.take("item") {
                    self.item_done(item, [text_key, thinking_key, refusal_key, call_key], writer, out)?;
                }
            }
            "response.completed" | "response.incomplete" => {
                let Some(Value::Object(response)) = body.take("response") else {
                    return Err(Trouble::Bad("the provider's last event holds no response"));
                };
                self.count(response.get("usage"));
                self.finish = Some(responses::read_finish(&response).unwrap_or(Finish::Stop));
                writer.start(response.text("id"), out);
                if writer.is_untouched() {
                    self.whole_response(response, writer, out)?;
                }
                self.is_done = true;
            }
            "response.failed" | "response.cancelled" => {
                let error = error_in(Format::Responses, &Value::Object(body), None);
                return Err(
                    error.map_or(Trouble::Bad("the provider gave the response up"), Trouble::Provider)
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, key: u64, text: &str) {
        if !text.is_empty() && !self.written.contains(&key) {
            self.written.push(key);
        }
    }

    fn add(
        &mut self,
        key: u64,
        opening: &Opening,
        text: &str,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        self.note(key, text);
        writer.append(key, opening, text, out)
    }

    fn add_arguments_once(
        &mut self,
        key: u64,
        text: &str,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        if self.written.contains(&key) {
            return Ok(());
        }
        self.note(key, text);
        writer.append_arguments(key, text, out)
    }

    fn open_item(&mut self, key: u64, item: &mut Object<'_>, writer: &mut Writer, out: &mut BytesMut) {
        self.calls_made += 1;
        let id = item.take_text("call_id").filter(|id| !id.is_empty());
        let opening = Opening::Tool {
            id: id.map_or_else(|| minted("call_", self.seed, key), std::borrow::Cow::into_owned),
            name: item.take_text("name").unwrap_or_default().into_owned(),
            mark: None,
        };
        self.blocks.push(Block { index: key, ..Block::default() });
        writer.open(key, opening, out);
    }

    fn item_done(
        &mut self,
        mut item: Object<'_>,
        [text_key, thinking_key, refusal_key, call_key]: [u64; 4],
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        match item.text("type") {
            Some("function_call") => {
                if !self.blocks.iter().any(|block| block.index == call_key) {
                    self.open_item(call_key, &mut item, writer, out);
                }
                let arguments = item.take_text("arguments").unwrap_or_default();
                self.add_arguments_once(call_key, &arguments, writer, out)?;
                writer.close(call_key, None, out);
            }
            Some("reasoning") => {
                if let Body::Thinking { text, mark } = responses::read_reasoning(&mut item) {
                    if !self.written.contains(&thinking_key) {
                        self.add(thinking_key, &Opening::Thinking, &text, writer, out)?;
                    }
                    let has_text = self.written.contains(&thinking_key);
                    let mark = mark
                        .map(Mark::into_owned)
                        .or_else(|| has_text.then(|| Mark::new(Format::Responses, "\n")));
                    writer.close(thinking_key, mark, out);
                }
            }
            Some("message") => {
                if let Some(Value::Array(elements)) = item.take("content") {
                    for element in &elements {
                        let text = element.get("text").and_then(Value::as_str).unwrap_or_default();
                        let refusal = element.get("refusal").and_then(Value::as_str).unwrap_or_default();
                        if !self.written.contains(&text_key) {
                            writer.append(text_key, &Opening::Text, text, out)?;
                        }
                        if !self.written.contains(&refusal_key) {
                            writer.append(refusal_key, &Opening::Refusal, refusal, out)?;
                        }
                    }
                }
                writer.close(text_key, None, out);
                writer.close(refusal_key, None, out);
            }
            Some("image_generation_call") => {
                if let Some(data) = item.take_text("result") {
                    writer.image("image/png", &data, out)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A response of which nothing was streamed: all of it at once.
    fn whole_response(
        &mut self,
        response: Object<'_>,
        writer: &mut Writer,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        let shown = Shown { seed: self.seed, ..Shown::default() };
        let Ok(reply) = responses::read_reply(Value::Object(response), &shown) else { return Ok(()) };
        for (number, part) in reply.parts.into_iter().enumerate() {
            let key = NUMBERED + number as u64;
            match part {
                Body::Text(text) => writer.append(key, &Opening::Text, &text, out)?,
                Body::Refusal(text) => writer.append(key, &Opening::Refusal, &text, out)?,
                Body::Thinking { text, mark } => {
                    writer.append(key, &Opening::Thinking, &text, out)?;
                    writer.close(key, mark.map(Mark::into_owned), out);
                }
                Body::ToolCall { id, name, arguments, .. } => {
                    let opening = Opening::Tool { id: id.into_owned(), name: name.into_owned(), mark: None };
                    writer.open(key, opening, out);
                    writer.append_arguments(key, &arguments, out)?;
                    writer.close(key, None, out);
                }
                Body::Image { source: Source::Base64 { media_type, data }, .. } => {
                    writer.image(&media_type, &data, out)?;
                }
                Body::Image { .. } | Body::File { .. } | Body::Audio { .. } | Body::ToolResult { .. } => {}
            }
        }
        Ok(())
    }
}

/// A place in a list; what is no sensible one counts as the last sensible one.
fn number(body: &Object<'_>, key: &str) -> u64 {
    body.get(key).and_then(Value::as_u64).unwrap_or(0).min(u64::from(u32::MAX))
}

impl Call {
    fn open(&mut self, seed: u64, writer: &mut Writer, out: &mut BytesMut) -> Result<(), Trouble> {
        self.is_open = true;
        if self.id.is_empty() {
            self.id = minted("call_", seed, self.key - NUMBERED);
        }
        let opening = Opening::Tool { id: self.id.clone(), name: self.name.clone(), mark: self.mark.take() };
        writer.open(self.key, opening, out);
        writer.append_arguments(self.key, &std::mem::take(&mut self.early), out)
    }
}
