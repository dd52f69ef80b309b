//! A stream of one format into a stream of another: one event in, its events out, nothing held that need not be.

use crate::decode::{Decoder, Trouble};
use crate::encode::Encoder;
use crate::error::{ErrorDetail, ProviderError};
use crate::mark::Mark;
use crate::neutral::{Body, Finish};
use crate::sse::Event;
use crate::{ErrorClass, Format};
use bytes::BytesMut;
use std::collections::VecDeque;

/// What the client is shown, and what it asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// The name of the model.
    pub model: String,
    /// When the answer began, in seconds since 1970.
    pub created_s: u64,
    /// Any number that is not the same for two requests: ids are made of it where the provider gives none.
    pub seed: u64,
    /// Whether a chat client asked for usage at the end.
    pub include_usage: bool,
}

/// How the provider's stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The connection was closed in order. It is the stream that says whether the answer is whole.
    Complete,
    /// The connection broke.
    Truncated,
    /// It was given up for this reason.
    Failed {
        /// What kind of failure.
        class: ErrorClass,
        /// What the client is told.
        message: String,
    },
}

/// How the client's stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As its protocol ends an answer.
    Whole,
    /// With an error event, after which nothing comes.
    Error,
}

/// Turns the provider's events into the client's.
#[derive(Debug)]
pub struct StreamConverter {
    decoder: Decoder,
    writer: Writer,
    ending: Option<Ending>,
    error: Option<ProviderError>,
}

impl StreamConverter {
    /// From the provider's format to the client's.
    pub fn new(from: Format, to: Format, options: StreamOptions) -> Self {
        Self {
            decoder: Decoder::new(from, options.seed),
            writer: Writer::new(from, to, options),
            ending: None,
            error: None,
        }
    }

    /// How it ended, once it has.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// The error that ended it.
    pub fn error(&self) -> Option<&ProviderError> {
        self.error.as_ref()
    }

    /// Takes one event and appends what the client is to see of it. After the end nothing is appended.
    ///
    /// When [`Self::ending`] is an error afterwards, what was appended holds the provider's words: look for keys in it before it is sent.
    pub fn push(&mut self, event: &Event, out: &mut BytesMut) {
        if self.ending.is_some() {
            return;
        }
        if event.is_comment() {
            // Keeps the client's connection alive as it kept ours.
            self.writer.keep_alive(out);
            return;
        }
        match self.decoder.event(event, &mut self.writer, out) {
            Ok(()) if self.decoder.is_done => self.conclude(out),
            Ok(()) => {}
            // What broke off inside an event is told as a cut by `finish`.
            Err(Trouble::NoJson) if !event.complete => {}
            Err(trouble) => self.fail(trouble.into_error(), out),
        }
    }

    /// Ends the client's stream: as an answer ends when the provider said that it was whole, and otherwise with an error event.
    pub fn finish(&mut self, end: End, out: &mut BytesMut) -> Ending {
        if let Some(ending) = self.ending {
            return ending;
        }
        if self.decoder.finish.is_some() {
            self.conclude(out);
        } else {
            let (class, message) = match end {
                End::Complete | End::Truncated => {
                    (ErrorClass::Truncated, "the provider's stream stopped before its end".to_owned())
                }
                End::Failed { class, message } => (class, message),
            };
            self.fail(ProviderError { class, message, code: None }, out);
        }
        self.ending.unwrap_or(Ending::Error)
    }

    fn conclude(&mut self, out: &mut BytesMut) {
        let usage = self.decoder.usage();
        let mut finish = self.decoder.finish.take();
        if let Some(Finish::Failed(reason)) = &finish {
            let message = format!("the model's answer cannot be used: {reason}");
            self.fail(ProviderError { class: ErrorClass::Server, message, code: Some(reason.clone()) }, out);
            return;
        }
        self.writer.start(None, out);
        if self.writer.has_calls && finish == Some(Finish::Stop) {
            finish = Some(Finish::ToolCalls);
        }
        self.writer.end(finish.as_ref(), usage, out);
        self.ending = Some(Ending::Whole);
    }

    fn fail(&mut self, error: ProviderError, out: &mut BytesMut) {
        self.writer.encoder.error(error.class, &error.message, ErrorDetail::default(), out);
        self.error = Some(error);
        self.ending = Some(Ending::Error);
    }
}

/// What a stretch of the answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opening {
    Text,
    Refusal,
    Thinking,
    /// Reasoning that only its provider can read.
    Sealed(Mark<'static>),
    Tool {
        id: String,
        name: String,
        mark: Option<Mark<'static>>,
    },
}

/// Where decoders write to: puts stretches that come interleaved one after the other.
#[derive(Debug)]
pub(crate) struct Writer {
    lanes: Lanes,
    encoder: Encoder,
    has_calls: bool,
}

/// What keeps a client's connection alive and means nothing.
///
/// Google's own clients read every line that is not empty as data (seen with PyPI google-genai 3.4.0), so theirs is an
/// empty line; others get a comment, which also those see that wait for bytes.
pub const fn keep_alive(format: Format) -> &'static [u8] {
    match format {
        Format::Gemini => b"\n",
        Format::Chat | Format::Responses | Format::Messages => b": keep-alive\n\n",
    }
}

impl Writer {
    /// Appends what keeps the connection alive.
    pub(crate) fn keep_alive(&self, out: &mut BytesMut) {
        out.extend_from_slice(keep_alive(self.encoder.to()));
    }

    /// Writes events of the client's format.
    pub(crate) fn new(from: Format, to: Format, options: StreamOptions) -> Self {
        Self { lanes: Lanes::default(), encoder: Encoder::new(from, to, options), has_calls: false }
    }

    /// Writes nothing and keeps what was said.
    pub(crate) fn gathering(format: Format) -> Self {
        let encoder = Encoder::gathering(format);
        Self { lanes: Lanes::default(), encoder, has_calls: false }
    }

    /// The id and what was said, of a writer that gathers.
    pub(crate) fn gathered(mut self) -> (Option<String>, Vec<Body<'static>>) {
        self.lanes.flush(&mut self.encoder, &mut BytesMut::new());
        self.encoder.gathered()
    }

    /// Writes what waits, and the end as the format has it.
    pub(crate) fn end(&mut self, finish: Option<&Finish>, usage: Option<crate::Usage>, out: &mut BytesMut) {
        self.lanes.flush(&mut self.encoder, out);
        self.encoder.finish(finish, usage, out);
    }

    pub(crate) fn start(&mut self, id: Option<&str>, out: &mut BytesMut) {
        self.encoder.start(id, out);
    }

    pub(crate) fn usage_at_start(&mut self, usage: Option<crate::Usage>) {
        self.encoder.usage_at_start = usage;
    }

    pub(crate) fn is_untouched(&self) -> bool {
        self.lanes.opened == 0
    }

    /// Adds text to the stretch with that key, which begins when it is not there yet.
    pub(crate) fn append(
        &mut self,
        key: u64,
        opening: &Opening,
        text: &str,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        if text.is_empty() {
            return Ok(());
        }
        if !self.lanes.has(key) {
            self.open(key, opening.clone(), out);
        }
        self.lanes.append(key, text, &mut self.encoder, out)
    }

    /// Adds to the arguments of a call that has been opened.
    pub(crate) fn append_arguments(
        &mut self,
        key: u64,
        text: &str,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        if text.is_empty() {
            return Ok(());
        }
        self.lanes.append(key, text, &mut self.encoder, out)
    }

    pub(crate) fn open(&mut self, key: u64, opening: Opening, out: &mut BytesMut) {
        self.has_calls |= matches!(opening, Opening::Tool { .. });
        self.lanes.open(key, opening, &mut self.encoder, out);
    }

    /// Ends a stretch. Reasoning that never had text is there by its mark alone.
    pub(crate) fn close(&mut self, key: u64, mark: Option<Mark<'static>>, out: &mut BytesMut) {
        if self.lanes.has(key) {
            self.lanes.close(key, mark, &mut self.encoder, out);
        } else if let Some(mark) = mark.filter(|mark| !mark.payload.is_empty()) {
            self.seal(key, mark, out);
        }
    }

    pub(crate) fn seal(&mut self, key: u64, mark: Mark<'static>, out: &mut BytesMut) {
        self.lanes.open(key, Opening::Sealed(mark), &mut self.encoder, out);
        self.lanes.close(key, None, &mut self.encoder, out);
    }

    pub(crate) fn image(&mut self, media_type: &str, data: &str, out: &mut BytesMut) -> Result<(), Trouble> {
        self.lanes.flush(&mut self.encoder, out);
        self.lanes.opened += 1;
        self.encoder.image(media_type, data, out)
    }
}

/// How far a JSON text has come.
#[derive(Debug, Default)]
struct Progress {
    depth: u32,
    in_text: bool,
    escaped: bool,
    begun: bool,
    complete: bool,
}

impl Progress {
    /// `false` when something follows a text that was complete.
    fn feed(&mut self, text: &str) -> bool {
        for byte in text.bytes() {
            if self.in_text {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
            } else if byte.is_ascii_whitespace() {
                continue;
            } else if self.complete {
                return false;
            } else {
                self.begun = true;
                match byte {
                    b'"' => self.in_text = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
            self.complete = self.begun && self.depth == 0 && !self.in_text && matches!(byte, b'}' | b']');
        }
        true
    }
}

/// Stretches in order: one is being written, the others wait for it.
#[derive(Debug, Default)]
struct Lanes {
    live: Option<Live>,
    waiting: VecDeque<Waiting>,
    opened: u64,
}

#[derive(Debug)]
struct Live {
    key: u64,
    is_tool: bool,
    progress: Progress,
}

#[derive(Debug)]
struct Waiting {
    key: u64,
    opening: Opening,
    text: String,
    is_closed: bool,
    mark: Option<Mark<'static>>,
}

impl Lanes {
    fn has(&self, key: u64) -> bool {
        self.live.as_ref().is_some_and(|live| live.key == key)
            || self.waiting.iter().any(|waiting| waiting.key == key && !waiting.is_closed)
    }

    fn open(&mut self, key: u64, opening: Opening, encoder: &mut Encoder, out: &mut BytesMut) {
        self.opened += 1;
        self.waiting.push_back(Waiting { key, opening, text: String::new(), is_closed: false, mark: None });
        self.advance(encoder, out);
    }

    fn append(
        &mut self,
        key: u64,
        text: &str,
        encoder: &mut Encoder,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        if let Some(live) = self.live.as_mut().filter(|live| live.key == key) {
            if live.is_tool && !live.progress.feed(text) {
                return Err(Trouble::Bad("the provider added to the arguments of a call that were complete"));
            }
            encoder.delta(text, out);
            return Ok(());
        }
        match self.waiting.iter_mut().rev().find(|waiting| waiting.key == key) {
            Some(waiting) => {
                waiting.text.push_str(text);
                Ok(())
            }
            None if text.trim().is_empty() => Ok(()),
            None => Err(Trouble::Bad("the provider added to the arguments of a call that was over")),
        }
    }

    fn close(&mut self, key: u64, mark: Option<Mark<'static>>, encoder: &mut Encoder, out: &mut BytesMut) {
        if self.live.as_ref().is_some_and(|live| live.key == key) {
            self.stop(mark.as_ref(), encoder, out);
            self.advance(encoder, out);
        } else if let Some(waiting) = self.waiting.iter_mut().rev().find(|waiting| waiting.key == key) {
            waiting.is_closed = true;
            waiting.mark = mark;
        }
    }

    fn stop(&mut self, mark: Option<&Mark<'_>>, encoder: &mut Encoder, out: &mut BytesMut) {
        if let Some(live) = self.live.take() {
            if live.is_tool && !live.progress.begun {
                encoder.delta("{}", out);
            }
            encoder.stop(mark, out);
        }
    }

    /// Begins the next stretch when the one before is over: texts and thoughts whenever another begins, calls when their arguments are complete.
    fn advance(&mut self, encoder: &mut Encoder, out: &mut BytesMut) {
        while let Some(next) = self.waiting.pop_front() {
            match &self.live {
                Some(live) if live.is_tool && !live.progress.complete => {
                    self.waiting.push_front(next);
                    return;
                }
                Some(_) => self.stop(None, encoder, out),
                None => {}
            }
            let is_tool = matches!(next.opening, Opening::Tool { .. });
            encoder.open(next.opening, out);
            let mut progress = Progress::default();
            if !next.text.is_empty() {
                progress.feed(&next.text);
                encoder.delta(&next.text, out);
            }
            self.live = Some(Live { key: next.key, is_tool, progress });
            if next.is_closed {
                self.stop(next.mark.as_ref(), encoder, out);
            }
        }
    }

    /// Writes everything that waits; nothing more is to come.
    fn flush(&mut self, encoder: &mut Encoder, out: &mut BytesMut) {
        loop {
            self.stop(None, encoder, out);
            if self.waiting.is_empty() {
                return;
            }
            self.advance(encoder, out);
        }
    }
}
