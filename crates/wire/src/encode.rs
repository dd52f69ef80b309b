//! Stretches of text, reasoning and calls as the events of each client's format.

use crate::decode::Trouble;
use crate::error::{ErrorDetail, error_event};
use crate::json::{Object, Value, write_text};
use crate::mark::Mark;
use crate::neutral::{Body, Finish, Source, minted};
use crate::stream::{Opening, StreamOptions};
use crate::{ErrorClass, Format, Usage, chat, gemini, messages, responses, sse, usage};
use bytes::BytesMut;
use std::borrow::Cow;

/// Writes one format's stream.
#[derive(Debug)]
pub(crate) struct Encoder {
    from: Format,
    to: Format,
    options: StreamOptions,
    id: String,
    is_started: bool,
    /// What the provider said of the prompt before anything else.
    pub(crate) usage_at_start: Option<Usage>,
    /// The stretch in progress.
    open: Option<Open>,
    /// Blocks, items or details so far.
    count: u64,
    calls: u64,
    /// Responses number their events.
    sequence: u64,
    /// Responses repeat all items at the end.
    items: Vec<Value<'static>>,
    scratch: Vec<u8>,
    /// What was said, where it is kept instead of written.
    parts: Option<Vec<Body<'static>>>,
}

#[derive(Debug)]
struct Open {
    opening: Opening,
    /// What has been written of it, for formats that repeat it.
    text: String,
    item: String,
}

impl Open {
    /// What was said, when it is over.
    fn said(self, mark: Option<&Mark<'_>>) -> Body<'static> {
        let text = Cow::Owned(self.text);
        match self.opening {
            Opening::Text => Body::Text(text),
            Opening::Refusal => Body::Refusal(text),
            Opening::Thinking => Body::Thinking { text, mark: mark.cloned().map(Mark::into_owned) },
            Opening::Sealed(mark) => Body::Thinking { text, mark: Some(mark) },
            Opening::Tool { id, name, mark } => {
                Body::ToolCall { id: id.into(), name: name.into(), arguments: text, mark }
            }
        }
    }
}

impl Encoder {
    /// The client's format.
    pub(crate) fn to(&self) -> Format {
        self.to
    }

    pub(crate) fn new(from: Format, to: Format, options: StreamOptions) -> Self {
        Self {
            from,
            to,
            options,
            id: String::new(),
            is_started: false,
            usage_at_start: None,
            open: None,
            count: 0,
            calls: 0,
            sequence: 0,
            items: Vec::new(),
            scratch: Vec::with_capacity(256),
            parts: None,
        }
    }

    /// Keeps what is said and writes nothing.
    pub(crate) fn gathering(format: Format) -> Self {
        Self { parts: Some(Vec::new()), ..Self::new(format, format, StreamOptions::default()) }
    }

    /// The id and what was said.
    pub(crate) fn gathered(self) -> (Option<String>, Vec<Body<'static>>) {
        (Some(self.id).filter(|id| !id.is_empty()), self.parts.unwrap_or_default())
    }

    fn event(&mut self, name: &str, data: &Object<'_>, out: &mut BytesMut) {
        self.scratch.clear();
        data.write(&mut self.scratch);
        sse::write_event(name, &self.scratch, out);
    }

    pub(crate) fn start(&mut self, id: Option<&str>, out: &mut BytesMut) {
        if self.is_started {
            return;
        }
        self.is_started = true;
        if self.parts.is_some() {
            id.unwrap_or_default().clone_into(&mut self.id);
            return;
        }
        let prefix = match self.to {
            Format::Chat => "chatcmpl-",
            Format::Responses => "resp_",
            Format::Messages => "msg_",
            Format::Gemini => "",
        };
        self.id = id.map_or_else(|| minted(prefix, self.options.seed, u64::MAX), str::to_owned);
        match self.to {
            Format::Chat => self.chunk(br#"{"role":"assistant","content":""}"#, None, out),
            Format::Messages => {
                let model = self.options.model.clone();
                let mut counts = messages::usage_or_null(self.usage_at_start);
                if self.usage_at_start.is_none() {
                    // Clients add up from here; the last event says what it was.
                    counts = Object::default().with("input_tokens", 0u64).with("output_tokens", 0u64);
                }
                let message = Object::default()
                    .with("id", self.id.clone())
                    .with("type", "message")
                    .with("role", "assistant")
                    .with("model", model)
                    .with("content", Vec::new())
                    .with("stop_reason", Value::Null)
                    .with("stop_sequence", Value::Null)
                    .with("usage", counts);
                self.event(
                    "message_start",
                    &Object::default().with("type", "message_start").with("message", message),
                    out,
                );
            }
            Format::Responses => {
                for name in ["response.created", "response.in_progress"] {
                    let model = self.options.model.clone();
                    let response = responses::envelope(
                        self.id.clone().into(),
                        self.options.created_s,
                        &model,
                        "in_progress",
                        Value::Null,
                        Vec::new(),
                        None,
                    )
                    .into_owned();
                    self.numbered(name, Object::default().with("response", response), out);
                }
            }
            Format::Gemini => {}
        }
    }

    /// An event of responses, with its type and number.
    fn numbered(&mut self, name: &'static str, members: Object<'_>, out: &mut BytesMut) {
        let mut data = Object::default().with("type", name);
        data.0.extend(members.0);
        data.put("sequence_number", self.sequence);
        self.sequence += 1;
        self.event(name, &data, out);
    }

    /// A chunk of chat around a delta that is JSON already.
    fn chunk(&mut self, delta: &[u8], finish: Option<&'static str>, out: &mut BytesMut) {
        let data = &mut self.scratch;
        data.clear();
        data.extend_from_slice(br#"{"id":"#);
        write_text(&self.id, data);
        data.extend_from_slice(br#","object":"chat.completion.chunk","created":"#);
        data.extend_from_slice(self.options.created_s.to_string().as_bytes());
        data.extend_from_slice(br#","model":"#);
        write_text(&self.options.model, data);
        data.extend_from_slice(br#","choices":[{"index":0,"delta":"#);
        data.extend_from_slice(delta);
        data.extend_from_slice(br#","logprobs":null,"finish_reason":"#);
        match finish {
            Some(reason) => write_text(reason, data),
            None => data.extend_from_slice(b"null"),
        }
        data.extend_from_slice(b"}]");
        if self.options.include_usage {
            data.extend_from_slice(br#","usage":null"#);
        }
        data.push(b'}');
        sse::write_event("", &self.scratch, out);
    }

    fn gemini_chunk(
        &mut self,
        parts: Vec<Value<'_>>,
        finish: Option<&Finish>,
        usage: Option<Usage>,
        out: &mut BytesMut,
    ) {
        let (model, id) = (self.options.model.clone(), self.id.clone());
        let parts = parts.into_iter().map(Value::into_owned).collect();
        let data = gemini::envelope(parts, finish, usage, &model, Cow::Owned(id));
        self.scratch.clear();
        data.write(&mut self.scratch);
        sse::write_event("", &self.scratch, out);
    }

    pub(crate) fn open(&mut self, opening: Opening, out: &mut BytesMut) {
        self.start(None, out);
        let mut item = String::new();
        match self.to {
            _ if self.parts.is_some() => {}
            Format::Chat => {
                if let Opening::Tool { id, name, mark } = &opening {
                    let function = Object::default().with("name", name.as_str()).with("arguments", "");
                    let mut call = Object::default().with("index", self.calls);
                    call.0.extend(chat::call_object(id.as_str().into(), function, mark.as_ref()).0);
                    let delta = Object::default().with("tool_calls", vec![call.into()]).into_bytes();
                    self.calls += 1;
                    self.chunk(&delta, None, out);
                }
            }
            Format::Messages => self.open_block(&opening, out),
            Format::Responses => item = self.open_item(&opening, out),
            Format::Gemini => {}
        }
        self.open = Some(Open { opening, text: String::new(), item });
    }

    fn open_block(&mut self, opening: &Opening, out: &mut BytesMut) {
        let block = match opening {
            Opening::Text | Opening::Refusal => Object::default().with("type", "text").with("text", ""),
            Opening::Thinking => {
                Object::default().with("type", "thinking").with("thinking", "").with("signature", "")
            }
            Opening::Sealed(mark) => messages::thinking_block(Cow::Borrowed(""), Some(mark)),
            Opening::Tool { id, name, mark } => {
                if let Some(mark) = mark {
                    // A signed call of Gemini: its mark goes before it in a block of its own.
                    self.open_block(&Opening::Sealed(mark.clone()), out);
                    self.close_block(out);
                }
                Object::default()
                    .with("type", "tool_use")
                    .with("id", messages::safe_id(id.clone().into()))
                    .with("name", name.clone())
                    .with("input", Object::default())
            }
        };
        let data = Object::default()
            .with("type", "content_block_start")
            .with("index", self.count)
            .with("content_block", block);
        self.event("content_block_start", &data, out);
    }

    fn close_block(&mut self, out: &mut BytesMut) {
        let data = Object::default().with("type", "content_block_stop").with("index", self.count);
        self.count += 1;
        self.event("content_block_stop", &data, out);
    }

    fn open_item(&mut self, opening: &Opening, out: &mut BytesMut) -> String {
        let seed = self.options.seed;
        let item_id = |prefix: &str, count: u64| responses::item_id(prefix, seed, count);
        let (id, item, part) = match opening {
            Opening::Text | Opening::Refusal => {
                let id = item_id("msg_", self.count);
                let item = Object::default()
                    .with("id", id.clone())
                    .with("type", "message")
                    .with("status", "in_progress")
                    .with("role", "assistant")
                    .with("content", Vec::new());
                let element = match opening {
                    Opening::Refusal => responses::refusal_element("".into()),
                    _ => responses::output_text("".into()),
                };
                (id, item, Some(("response.content_part.added", "content_index", element)))
            }
            Opening::Thinking => {
                let id = item_id("rs_", self.count);
                let item = responses::shown_reasoning(id.clone(), Cow::Borrowed(""), None);
                let element = Object::default().with("type", "summary_text").with("text", "");
                (id, item, Some(("response.reasoning_summary_part.added", "summary_index", element)))
            }
            Opening::Sealed(mark) => {
                let id = item_id("rs_", self.count);
                (id.clone(), responses::shown_reasoning(id, Cow::Borrowed(""), Some(mark)), None)
            }
            Opening::Tool { id: call, name, mark } => {
                if let Some(mark) = mark {
                    let sealed = Opening::Sealed(mark.clone());
                    let item = self.open_item(&sealed, out);
                    self.close_item(&Open { opening: sealed, text: String::new(), item }, None, out);
                }
                let id = item_id("fc_", self.count);
                let item = responses::shown_call(
                    id.clone(),
                    call.as_str().into(),
                    name.as_str().into(),
                    Cow::Borrowed(""),
                    "in_progress",
                );
                (id, item, None)
            }
        };
        let added = Object::default().with("output_index", self.count).with("item", item);
        self.numbered("response.output_item.added", added, out);
        if let Some((name, index, element)) = part {
            let members = Object::default()
                .with("item_id", id.clone())
                .with("output_index", self.count)
                .with(index, 0u64)
                .with("part", element);
            self.numbered(name, members, out);
        }
        id
    }

    pub(crate) fn delta(&mut self, text: &str, out: &mut BytesMut) {
        let Some(mut open) = self.open.take() else { return };
        if self.parts.is_some() {
            open.text.push_str(text);
            self.open = Some(open);
            return;
        }
        match self.to {
            Format::Chat => {
                let mut delta = Vec::with_capacity(text.len() + 64);
                let (before, after): (&[u8], &[u8]) = match &open.opening {
                    Opening::Text => (br#"{"content":"#, b"}"),
                    Opening::Refusal => (br#"{"refusal":"#, b"}"),
                    Opening::Thinking | Opening::Sealed(_) => (br#"{"reasoning_content":"#, b"}"),
                    Opening::Tool { .. } => {
                        delta.extend_from_slice(br#"{"tool_calls":[{"index":"#);
                        delta.extend_from_slice((self.calls - 1).to_string().as_bytes());
                        (br#","function":{"arguments":"#, b"}}]}")
                    }
                };
                delta.extend_from_slice(before);
                write_text(text, &mut delta);
                delta.extend_from_slice(after);
                if open.opening == Opening::Thinking {
                    open.text.push_str(text);
                }
                self.chunk(&delta, None, out);
            }
            Format::Messages => {
                let (sort, member) = match &open.opening {
                    Opening::Text | Opening::Refusal => ("text_delta", "text"),
                    Opening::Thinking | Opening::Sealed(_) => ("thinking_delta", "thinking"),
                    Opening::Tool { .. } => ("input_json_delta", "partial_json"),
                };
                self.block_delta(sort, member, text, out);
            }
            Format::Responses => {
                open.text.push_str(text);
                let (name, index) = match &open.opening {
                    Opening::Text => ("response.output_text.delta", Some("content_index")),
                    Opening::Refusal => ("response.refusal.delta", Some("content_index")),
                    Opening::Thinking | Opening::Sealed(_) => {
                        ("response.reasoning_summary_text.delta", Some("summary_index"))
                    }
                    Opening::Tool { .. } => ("response.function_call_arguments.delta", None),
                };
                let mut members =
                    Object::default().with("item_id", open.item.as_str()).with("output_index", self.count);
                members.put_some(index.unwrap_or_default(), index.map(|_| 0u64));
                members.put("delta", text);
                if open.opening == Opening::Text {
                    members.put("logprobs", Vec::new());
                }
                self.numbered(name, members, out);
            }
            Format::Gemini => match &open.opening {
                Opening::Text | Opening::Refusal => {
                    let part = Object::default().with("text", text);
                    self.gemini_chunk(vec![part.into()], None, None, out);
                }
                Opening::Thinking | Opening::Sealed(_) => {
                    let part = gemini::thought_part(text.into(), None);
                    self.gemini_chunk(vec![part.into()], None, None, out);
                }
                // Calls are whole here.
                Opening::Tool { .. } => open.text.push_str(text),
            },
        }
        self.open = Some(open);
    }

    fn block_delta(&mut self, sort: &str, member: &str, text: &str, out: &mut BytesMut) {
        let data = Object::default()
            .with("type", "content_block_delta")
            .with("index", self.count)
            .with("delta", Object::default().with("type", sort).with(member, text));
        self.event("content_block_delta", &data, out);
    }

    /// Ends the stretch in progress. Reasoning is signed here, in the name of its provider even if it signs nothing.
    pub(crate) fn stop(&mut self, mark: Option<&Mark<'_>>, out: &mut BytesMut) {
        let Some(open) = self.open.take() else { return };
        if let Some(parts) = &mut self.parts {
            parts.push(open.said(mark));
            return;
        }
        let unsigned = Mark::new(self.from, if self.from == Format::Responses { "\n" } else { "" });
        let mark = if open.opening == Opening::Thinking { Some(mark.unwrap_or(&unsigned)) } else { mark };
        match self.to {
            Format::Chat => {
                let sealed = match &open.opening {
                    Opening::Sealed(mark) => Some(mark),
                    _ => None,
                };
                if open.opening == Opening::Thinking || sealed.is_some() {
                    let detail = chat::detail(open.text.into(), sealed.or(mark), self.count);
                    self.count += 1;
                    let delta = Object::default().with("reasoning_details", vec![detail]).into_bytes();
                    self.chunk(&delta, None, out);
                }
            }
            Format::Messages => {
                if open.opening == Opening::Thinking {
                    let signature = mark.map(|mark| mark.written_in(Format::Messages)).unwrap_or_default();
                    self.block_delta("signature_delta", "signature", &signature, out);
                }
                self.close_block(out);
            }
            Format::Responses => self.close_item(&open, mark, out),
            Format::Gemini => match open.opening {
                Opening::Tool { id, name, .. } => {
                    let part = gemini::call_part(id.into(), name.into(), &open.text);
                    self.gemini_chunk(vec![part.into()], None, None, out);
                }
                Opening::Thinking => {
                    let part = gemini::thought_part(Cow::Borrowed(""), mark);
                    self.gemini_chunk(vec![part.into()], None, None, out);
                }
                Opening::Sealed(mark) => {
                    let part = gemini::thought_part(Cow::Borrowed(""), Some(&mark));
                    self.gemini_chunk(vec![part.into()], None, None, out);
                }
                Opening::Text | Opening::Refusal => {}
            },
        }
    }

    fn close_item(&mut self, open: &Open, mark: Option<&Mark<'_>>, out: &mut BytesMut) {
        let place = |index: Option<&'static str>, count: u64| {
            let mut members =
                Object::default().with("item_id", open.item.clone()).with("output_index", count);
            members.put_some(index.unwrap_or_default(), index.map(|_| 0u64));
            members
        };
        let text = open.text.as_str();
        let item = match &open.opening {
            Opening::Text => {
                let done =
                    place(Some("content_index"), self.count).with("text", text).with("logprobs", Vec::new());
                self.numbered("response.output_text.done", done, out);
                let done = place(Some("content_index"), self.count)
                    .with("part", responses::output_text(text.into()));
                self.numbered("response.content_part.done", done, out);
                responses::shown_message(open.item.clone(), responses::output_text(text.into()), "completed")
            }
            Opening::Refusal => {
                let done = place(Some("content_index"), self.count).with("refusal", text);
                self.numbered("response.refusal.done", done, out);
                let done = place(Some("content_index"), self.count)
                    .with("part", responses::refusal_element(text.into()));
                self.numbered("response.content_part.done", done, out);
                responses::shown_message(
                    open.item.clone(),
                    responses::refusal_element(text.into()),
                    "completed",
                )
            }
            Opening::Thinking => {
                let done = place(Some("summary_index"), self.count).with("text", text);
                self.numbered("response.reasoning_summary_text.done", done, out);
                let element = Object::default().with("type", "summary_text").with("text", text);
                let done = place(Some("summary_index"), self.count).with("part", element);
                self.numbered("response.reasoning_summary_part.done", done, out);
                responses::shown_reasoning(open.item.clone(), text.into(), mark)
            }
            Opening::Sealed(mark) => {
                responses::shown_reasoning(open.item.clone(), Cow::Borrowed(""), Some(mark))
            }
            Opening::Tool { id, name, .. } => {
                let done = place(None, self.count).with("name", name.as_str()).with("arguments", text);
                self.numbered("response.function_call_arguments.done", done, out);
                responses::shown_call(
                    open.item.clone(),
                    id.as_str().into(),
                    name.as_str().into(),
                    text.into(),
                    "completed",
                )
            }
        };
        let item = Value::Object(item).into_owned();
        let done = Object::default().with("output_index", self.count).with("item", item.clone());
        self.numbered("response.output_item.done", done, out);
        self.items.push(item);
        self.count += 1;
    }

    pub(crate) fn image(&mut self, media_type: &str, data: &str, out: &mut BytesMut) -> Result<(), Trouble> {
        self.start(None, out);
        if let Some(parts) = &mut self.parts {
            let source =
                Source::Base64 { media_type: media_type.to_owned().into(), data: data.to_owned().into() };
            parts.push(Body::Image { source, detail: None });
            return Ok(());
        }
        match self.to {
            Format::Chat => {
                let url = format!("data:{media_type};base64,{data}");
                let image = Object::default()
                    .with("type", "image_url")
                    .with("image_url", Object::default().with("url", url));
                let delta = Object::default().with("images", vec![image.into()]).into_bytes();
                self.chunk(&delta, None, out);
            }
            Format::Messages => {
                return Err(Trouble::Bad("the reply holds an image, which the messages format cannot say"));
            }
            Format::Responses => {
                let item = Object::default()
                    .with("id", responses::item_id("ig_", self.options.seed, self.count))
                    .with("type", "image_generation_call")
                    .with("status", "completed")
                    .with("result", data.to_owned());
                for name in ["response.output_item.added", "response.output_item.done"] {
                    let members =
                        Object::default().with("output_index", self.count).with("item", item.clone());
                    self.numbered(name, members, out);
                }
                self.items.push(item.into());
                self.count += 1;
            }
            Format::Gemini => {
                let blob = Object::default().with("mimeType", media_type).with("data", data);
                let part = Object::default().with("inlineData", blob);
                self.gemini_chunk(vec![part.into()], None, None, out);
            }
        }
        Ok(())
    }

    /// Ends the answer as the format does. `finish` is `None` when the provider named no reason.
    pub(crate) fn finish(&mut self, finish: Option<&Finish>, usage: Option<Usage>, out: &mut BytesMut) {
        match self.to {
            Format::Chat => {
                if let Some(finish) = finish {
                    self.chunk(b"{}", Some(chat::write_finish(finish)), out);
                }
                if let Some(usage) = usage.filter(|_| self.options.include_usage) {
                    let data = Object::default()
                        .with("id", self.id.clone())
                        .with("object", "chat.completion.chunk")
                        .with("created", self.options.created_s)
                        .with("model", self.options.model.clone())
                        .with("choices", Vec::new())
                        .with("usage", usage::write(Format::Chat, &usage));
                    self.event("", &data, out);
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            Format::Messages => {
                let (reason, sequence) = messages::write_finish(finish);
                let delta = Object::default().with("stop_reason", reason).with("stop_sequence", sequence);
                let data = Object::default()
                    .with("type", "message_delta")
                    .with("delta", delta)
                    .with("usage", messages::usage_or_null(usage));
                self.event("message_delta", &data, out);
                self.event("message_stop", &Object::default().with("type", "message_stop"), out);
            }
            Format::Responses => {
                let (status, incomplete) = responses::write_finish(finish);
                let name = if status == "completed" { "response.completed" } else { "response.incomplete" };
                let (id, model) = (self.id.clone(), self.options.model.clone());
                let items = std::mem::take(&mut self.items);
                let response = responses::envelope(
                    id.into(),
                    self.options.created_s,
                    &model,
                    status,
                    incomplete,
                    items,
                    usage,
                );
                let response = Value::Object(response).into_owned();
                self.numbered(name, Object::default().with("response", response), out);
            }
            Format::Gemini => self.gemini_chunk(Vec::new(), finish, usage, out),
        }
    }

    pub(crate) fn error(
        &mut self,
        class: ErrorClass,
        message: &str,
        detail: ErrorDetail<'_>,
        out: &mut BytesMut,
    ) {
        error_event(self.to, class, message, detail, self.sequence, out);
    }
}
