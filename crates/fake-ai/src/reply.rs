//! What a script says about one reply.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::reason;
use crate::sse::Style;
use crate::{Answer, Event, Exchange, Gate, LineEnd, Surface, ToolDeltas, chat, gemini, messages, responses};

/// Which requests a script is for.
#[derive(Clone)]
pub struct On(Arc<dyn Fn(&Exchange) -> bool + Send + Sync>);

impl std::fmt::Debug for On {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("On(…)")
    }
}

impl On {
    /// Requests of which this is true.
    pub fn when(test: impl Fn(&Exchange) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(test))
    }

    /// Every request.
    pub fn any() -> Self {
        Self::when(|_| true)
    }

    /// Requests that a model answers: chat, responses, messages, `generateContent`.
    pub fn generation() -> Self {
        Self::when(|exchange| exchange.surface.is_generation())
    }

    /// Requests for this model.
    pub fn model(model: &str) -> Self {
        let model = model.to_owned();
        Self::when(move |exchange| exchange.model().as_deref() == Some(&model))
    }

    /// Requests that come with this provider key.
    pub fn key(key: &str) -> Self {
        let key = key.to_owned();
        Self::when(move |exchange| exchange.key().as_deref() == Some(&key))
    }

    /// Requests whose path ends so.
    pub fn path(end: &str) -> Self {
        let end = end.to_owned();
        Self::when(move |exchange| exchange.path.ends_with(&end))
    }

    /// Requests whose body has this text.
    pub fn body(text: &str) -> Self {
        let text = text.to_owned();
        Self::when(move |exchange| exchange.text().contains(&text))
    }

    pub(crate) fn matches(&self, exchange: &Exchange) -> bool {
        (self.0)(exchange)
    }
}

/// How a cut reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The connection is reset.
    Reset,
    /// The connection is closed before the HTTP body is complete.
    Close,
    /// The HTTP body ends properly; only what it says is incomplete.
    Clean,
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    Bytes(usize),
    Events(usize),
}

#[derive(Debug, Clone)]
enum Body {
    /// What the surface answers by itself.
    Own,
    Answer(Answer),
    Raw {
        kind: String,
        bytes: Vec<u8>,
    },
    Events(Vec<Event>),
    Error {
        code: String,
        message: String,
    },
    Silent,
    Reset,
    Close,
}

/// How an answer is put into a provider's format.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    pub(crate) tool_deltas: ToolDeltas,
    pub(crate) empty_choices_first: bool,
    pub(crate) without_usage: bool,
    pub(crate) without_finish: bool,
    pub(crate) without_done: bool,
    pub(crate) unknown_fields: bool,
}

impl Shape {
    pub(crate) fn add_unknown(&self, value: &mut Value) {
        if self.unknown_fields && value.is_object() {
            value["x_unknown"] = json!({"kept": true, "big": u64::MAX});
        }
    }
}

/// One reply: what is said, and what goes wrong.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    shape: Shape,
    style: Style,
    piece_bytes: Option<usize>,
    cut: Option<(Cut, Ending)>,
    error_after: Option<(usize, u16, String)>,
    retry_info_s: Option<u64>,
    head_gate: Option<Gate>,
    gates: Vec<(usize, Gate)>,
}

impl Reply {
    fn new(status: u16, body: Body) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            shape: Shape::default(),
            style: Style::default(),
            piece_bytes: None,
            cut: None,
            error_after: None,
            retry_info_s: None,
            head_gate: None,
            gates: Vec::new(),
        }
    }

    /// What would be answered without a script.
    pub fn own() -> Self {
        Self::new(200, Body::Own)
    }

    /// This text, plain or as a stream, in the format of the request.
    pub fn text(text: impl Into<String>) -> Self {
        Self::answer(Answer::text(text))
    }

    /// This answer, plain or as a stream, in the format of the request.
    pub fn answer(answer: Answer) -> Self {
        Self::new(200, Body::Answer(answer))
    }

    /// These bytes.
    pub fn raw(kind: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(200, Body::Raw { kind: kind.to_owned(), bytes: bytes.into() })
    }

    /// These events.
    pub fn events(events: Vec<Event>) -> Self {
        Self::new(200, Body::Events(events))
    }

    /// An error in the format of the request. `{key}` in the message becomes the key that came with it.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, Body::Error { code: code.to_owned(), message: message.to_owned() })
    }

    /// 429 with this value of `Retry-After`.
    pub fn rate_limited(retry_after: &str) -> Self {
        Self::error(429, "rate_limit_exceeded", "rate limit reached").header("retry-after", retry_after)
    }

    /// Takes the request and answers nothing until the client closes.
    pub fn silent() -> Self {
        Self::new(200, Body::Silent)
    }

    /// Takes the request and resets the connection.
    pub fn reset() -> Self {
        Self::new(200, Body::Reset)
    }

    /// Takes the request and closes the connection.
    pub fn close() -> Self {
        Self::new(200, Body::Close)
    }

    /// With this status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With this header. `{key}` in it becomes the key that came with the request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With Google's `RetryInfo` in an error.
    #[must_use]
    pub fn retry_info(mut self, seconds: u64) -> Self {
        self.retry_info_s = Some(seconds);
        self
    }

    /// The body is written this many bytes at a time, each in a packet of its own, through the middle of characters.
    #[must_use]
    pub fn pieces(mut self, bytes: usize) -> Self {
        self.piece_bytes = Some(bytes.max(1));
        self
    }

    /// Lines of the stream end so.
    #[must_use]
    pub fn line_end(mut self, line_end: LineEnd) -> Self {
        self.style.line_end = line_end;
        self
    }

    /// Comments and empty lines stand before every event.
    #[must_use]
    pub fn comments(mut self) -> Self {
        self.style.comments = true;
        self
    }

    /// `data:x` in place of `data: x`.
    #[must_use]
    pub fn without_space(mut self) -> Self {
        self.style.without_space = true;
        self
    }

    /// The stream begins with a byte order mark.
    #[must_use]
    pub fn byte_order_mark(mut self) -> Self {
        self.style.mark = true;
        self
    }

    /// The body ends after so many bytes.
    #[must_use]
    pub fn cut_after_bytes(mut self, bytes: usize, ending: Ending) -> Self {
        self.cut = Some((Cut::Bytes(bytes), ending));
        self
    }

    /// The stream ends after so many events.
    #[must_use]
    pub fn cut_after_events(mut self, events: usize, ending: Ending) -> Self {
        self.cut = Some((Cut::Events(events), ending));
        self
    }

    /// After so many events comes an error event in the format of the request, and nothing more.
    #[must_use]
    pub fn error_after_events(mut self, events: usize, status: u16, message: &str) -> Self {
        self.error_after = Some((events, status, message.to_owned()));
        self
    }

    /// Without a reason to stop and what comes after it.
    #[must_use]
    pub fn without_finish(mut self) -> Self {
        self.shape.without_finish = true;
        self
    }

    /// Without `[DONE]`, or Anthropic's `message_stop`.
    #[must_use]
    pub fn without_done(mut self) -> Self {
        self.shape.without_done = true;
        self
    }

    /// Without usage.
    #[must_use]
    pub fn without_usage(mut self) -> Self {
        self.shape.without_usage = true;
        self
    }

    /// With fields that no specification has, at the top and nested, among them 2^64 - 1.
    #[must_use]
    pub fn unknown_fields(mut self) -> Self {
        self.shape.unknown_fields = true;
        self
    }

    /// A chat stream begins with `choices: []`, as Azure's does.
    #[must_use]
    pub fn empty_choices_first(mut self) -> Self {
        self.shape.empty_choices_first = true;
        self
    }

    /// How a chat stream cuts calls of tools.
    #[must_use]
    pub fn tool_deltas(mut self, deltas: ToolDeltas) -> Self {
        self.shape.tool_deltas = deltas;
        self
    }

    /// Nothing is written before the gate is open.
    #[must_use]
    pub fn gate(mut self, gate: &Gate) -> Self {
        self.head_gate = Some(gate.clone());
        self
    }

    /// The head and the first events go out; what follows waits at the gate. For a plain reply only 0 has a meaning:
    /// head first, body after the gate.
    #[must_use]
    pub fn gate_after_events(mut self, events: usize, gate: &Gate) -> Self {
        self.gates.push((events, gate.clone()));
        self
    }

    /// Everything that is to be written for this exchange.
    pub(crate) fn acts(&self, exchange: &Exchange, own: impl FnOnce() -> Own) -> Vec<Act> {
        if !self.headers.iter().any(|(_, value)| value.contains("{key}")) {
            return self.acts_as_said(exchange, own);
        }
        let key = exchange.key().unwrap_or_default();
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), value.replace("{key}", &key)));
        let filled = Self { headers: headers.collect(), ..self.clone() };
        filled.acts_as_said(exchange, own)
    }

    fn acts_as_said(&self, exchange: &Exchange, own: impl FnOnce() -> Own) -> Vec<Act> {
        let mut acts: Vec<Act> = self.head_gate.iter().cloned().map(Act::Pass).collect();
        match &self.body {
            Body::Own => match own() {
                Own::Answer(answer) => self.write_answer(exchange, &answer, &mut acts),
                Own::Content { status, kind, bytes } => {
                    self.write_plain(status, kind, vec![bytes], &mut acts);
                }
            },
            Body::Answer(answer) => self.write_answer(exchange, answer, &mut acts),
            Body::Raw { kind, bytes } => self.write_plain(self.status, kind, vec![bytes.clone()], &mut acts),
            Body::Events(events) => self.write_events(exchange, events.clone(), &mut acts),
            Body::Error { code, message } => {
                let message = message.replace("{key}", &exchange.key().unwrap_or_default());
                let body = error(&exchange.surface, self.status, code, &message, self.retry_info_s);
                self.write_plain(
                    self.status,
                    "application/json",
                    vec![body.to_string().into_bytes()],
                    &mut acts,
                );
            }
            Body::Silent => acts.push(Act::Hold),
            Body::Reset => acts.push(Act::Reset),
            Body::Close => acts.push(Act::Close),
        }
        acts
    }

    fn write_answer(&self, exchange: &Exchange, answer: &Answer, acts: &mut Vec<Act>) {
        let mut shape = self.shape.clone();
        // Azure's own way.
        shape.empty_choices_first |= matches!(exchange.surface, Surface::Chat { deployment: Some(_) });
        if exchange.is_stream() {
            let events = match &exchange.surface {
                Surface::Responses => responses::stream(exchange, answer, &shape),
                Surface::Messages => messages::stream(exchange, answer, &shape),
                Surface::Gemini { .. } => gemini::stream(exchange, answer, &shape),
                _ => chat::stream(exchange, answer, &shape),
            };
            // Without `alt=sse` Google answers one JSON array.
            if matches!(exchange.surface, Surface::Gemini { .. }) && !exchange.query.contains("alt=sse") {
                let all: Vec<&str> = events.iter().map(|event| event.data.as_str()).collect();
                let body = format!("[{}]", all.join(",\n"));
                return self.write_plain(self.status, "application/json", vec![body.into_bytes()], acts);
            }
            return self.write_events(exchange, events, acts);
        }
        let body = match &exchange.surface {
            Surface::Responses => responses::plain(exchange, answer, &shape),
            Surface::Messages => messages::plain(exchange, answer, &shape),
            Surface::Gemini { .. } => gemini::plain(exchange, answer, &shape),
            _ => chat::plain(exchange, answer, &shape),
        };
        self.write_plain(self.status, "application/json", vec![body.to_string().into_bytes()], acts);
    }

    fn write_events(&self, exchange: &Exchange, mut events: Vec<Event>, acts: &mut Vec<Act>) {
        let mut ending = None;
        if let Some((Cut::Events(count), how)) = self.cut {
            events.truncate(count);
            ending = Some(how);
        }
        if let Some((count, status, message)) = &self.error_after {
            events.truncate(*count);
            let code = reason(*status).to_lowercase().replace(' ', "_");
            let body = error(&exchange.surface, *status, &code, message, None);
            events.push(match exchange.surface {
                Surface::Messages => Event::named("error", &body),
                Surface::Responses => Event::named(
                    "error",
                    &json!({"type": "error", "code": code, "message": message, "param": null, "sequence_number": count}),
                ),
                _ => Event::data(&body),
            });
        }
        let parts: Vec<Vec<u8>> =
            events.iter().enumerate().map(|(at, event)| self.style.write(event, at == 0)).collect();
        self.write_body(self.status, "text/event-stream", parts, true, ending, acts);
    }

    fn write_plain(&self, status: u16, kind: &str, parts: Vec<Vec<u8>>, acts: &mut Vec<Act>) {
        self.write_body(status, kind, parts, false, None, acts);
    }

    fn write_body(
        &self,
        status: u16,
        kind: &str,
        mut parts: Vec<Vec<u8>>,
        stream: bool,
        mut ending: Option<Ending>,
        acts: &mut Vec<Act>,
    ) {
        let length: usize = parts.iter().map(Vec::len).sum();
        if let Some((Cut::Bytes(mut left), how)) = self.cut {
            for part in &mut parts {
                part.truncate(left);
                left -= part.len();
            }
            ending = Some(how);
        }
        let chunked = stream || ending == Some(Ending::Clean);
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            head.extend(["content-type: ", kind, "\r\n"]);
        }
        if chunked {
            head.push_str("transfer-encoding: chunked\r\n\r\n");
        } else {
            head.extend(["content-length: ", &length.to_string(), "\r\n\r\n"]);
        }
        let mut head = head.into_bytes();
        if !stream && self.gates.is_empty() {
            // One write for head and body, as servers do.
            if let Some(first) = parts.first_mut().filter(|_| self.piece_bytes.is_none() && !chunked) {
                head.append(first);
            }
        }
        acts.push(Act::Send(head));
        let count = parts.len();
        for (at, part) in parts.into_iter().enumerate() {
            acts.extend(self.gates_at(at));
            let pieces: Vec<&[u8]> = match self.piece_bytes {
                Some(size) => part.chunks(size).collect(),
                None if part.is_empty() => Vec::new(),
                None => vec![&part],
            };
            for piece in pieces {
                if chunked {
                    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                    chunk.extend_from_slice(piece);
                    chunk.extend_from_slice(b"\r\n");
                    acts.push(Act::Send(chunk));
                } else {
                    acts.push(Act::Send(piece.to_vec()));
                }
            }
        }
        acts.extend(self.gates_at(count));
        match ending {
            Some(Ending::Reset) => acts.push(Act::Reset),
            Some(Ending::Close) => acts.push(Act::Close),
            Some(Ending::Clean) | None if chunked => acts.push(Act::Send(b"0\r\n\r\n".to_vec())),
            Some(Ending::Clean) | None => {}
        }
    }

    fn gates_at(&self, at: usize) -> impl Iterator<Item = Act> + '_ {
        self.gates.iter().filter(move |(after, _)| *after == at).map(|(_, gate)| Act::Pass(gate.clone()))
    }
}

/// What a surface answers without a script.
pub(crate) enum Own {
    Answer(Answer),
    Content { status: u16, kind: &'static str, bytes: Vec<u8> },
}

#[derive(Debug)]
pub(crate) enum Act {
    Send(Vec<u8>),
    Pass(Gate),
    Hold,
    Reset,
    Close,
}

/// An error in the surface's format.
pub(crate) fn error(
    surface: &Surface,
    status: u16,
    code: &str,
    message: &str,
    retry_after_s: Option<u64>,
) -> Value {
    match surface {
        Surface::Messages | Surface::CountTokens => messages::error(status, message),
        Surface::Gemini { .. } | Surface::GeminiOther { .. } => gemini::error(status, message, retry_after_s),
        _ => chat::error(status, code, message),
    }
}
