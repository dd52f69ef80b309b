//! A stream on its way to the client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use contract::ai::FailureClass;
use http_body::Body;
use outbound::Incoming;
use tokio::time::{Instant, Sleep};
use wire::sse::{Event, Splitter};
use wire::{End, ErrorDetail, Format, StreamConverter, Tap};

use crate::answer::told_as;
use crate::attempt::{GARBLED, Opened, deepest};
use crate::balance::Load;
use crate::config::TimeoutsConfig;
use crate::flight::Flight;
use crate::meter::Ending;
use crate::peer::Peer;
use crate::pool::Lent;
use crate::scrub::scrub;

/// As much is gathered before the client gets it, if it is there already.
const GATHER_BYTES_MAX: usize = 64 << 10;
/// How often the task looks once more whether the connection has brought something, before it writes.
const LOOKS_MAX: u32 = 1;
/// A client that has heard nothing for this long gets a comment, so that nobody between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A client that has shut its sending side hears something this often: only by what comes back is it known whether it is
/// still there.
const KEEP_ALIVE_HALF_CLOSED: Duration = Duration::from_millis(400);

/// Hands events on, looks at them, and tells how the stream ended.
///
/// Polled by the server's connection: no task of its own. Dropped when the client leaves, which drops the
/// provider's connection with it.
pub(crate) struct Relay {
    upstream: Incoming,
    splitter: Splitter,
    tap: Tap,
    waiting: std::vec::IntoIter<Event>,
    ended: Option<Result<(), String>>,
    shape: Shape,
    flight: Option<Box<Flight>>,
    first_token: Duration,
    idle: Duration,
    heard: Instant,
    told: Instant,
    peer: Peer,
    keep_alive: Duration,
    alarm: Pin<Box<Sleep>>,
    out: Out,
    looks: u32,
    events_sent: u64,
    elements: u64,
    is_over: bool,
    lent: Lent,
    target: std::sync::Arc<crate::table::Target>,
    _load: Load,
}

/// How events look to the client.
pub(crate) struct Shape {
    /// The format of both sides.
    pub(crate) format: Format,
    /// The client did not ask for usage, so the event that only holds it is left out.
    pub(crate) hide_usage: bool,
    /// One JSON array and not events.
    pub(crate) array: bool,
    /// From the provider's format, where it is another one.
    pub(crate) converter: Option<StreamConverter>,
}

/// What is to be written next; one event alone is not copied.
#[derive(Default)]
struct Out {
    one: Bytes,
    more: BytesMut,
}

impl Out {
    fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if self.is_empty() {
            self.one = bytes;
            return;
        }
        self.buffer().extend_from_slice(&bytes);
    }

    /// Where to write.
    fn buffer(&mut self) -> &mut BytesMut {
        if !self.one.is_empty() {
            self.more.reserve(1_024.max(2 * self.one.len()));
            self.more.extend_from_slice(&std::mem::take(&mut self.one));
        }
        &mut self.more
    }

    fn is_empty(&self) -> bool {
        self.one.is_empty() && self.more.is_empty()
    }

    fn len(&self) -> usize {
        self.one.len() + self.more.len()
    }

    fn take(&mut self) -> Bytes {
        if self.more.is_empty() { std::mem::take(&mut self.one) } else { self.more.split().freeze() }
    }
}

impl Relay {
    pub(crate) fn new(
        target: std::sync::Arc<crate::table::Target>,
        opened: Opened,
        shape: Shape,
        flight: Box<Flight>,
        timeouts: &TimeoutsConfig,
        peer: Peer,
    ) -> Self {
        let now = Instant::now();
        let (first_token, idle) =
            (Duration::from_millis(timeouts.first_token_ms), Duration::from_millis(timeouts.idle_ms));
        Self {
            upstream: opened.upstream,
            splitter: opened.splitter,
            tap: opened.tap,
            waiting: opened.seen.into_iter(),
            ended: opened.ended,
            shape,
            flight: Some(flight),
            first_token,
            idle,
            heard: opened.heard,
            told: now,
            peer,
            keep_alive: KEEP_ALIVE,
            alarm: Box::pin(tokio::time::sleep(KEEP_ALIVE.min(first_token).min(idle))),
            out: Out::default(),
            looks: 0,
            events_sent: 0,
            elements: 0,
            is_over: false,
            lent: opened.lent,
            target,
            _load: opened.load,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while let Some(event) = self.waiting.next() {
            self.hand_on(event);
        }
        loop {
            if self.is_over {
                if !self.out.is_empty() {
                    let bytes = self.out.take();
                    self.keep(&bytes);
                    return Poll::Ready(Some(bytes));
                }
                // Here and not earlier: a client that leaves before the last byte was taken has left.
                self.settle();
                return Poll::Ready(None);
            }
            if let Some(ended) = self.ended.take() {
                self.conclude(ended);
                continue;
            }
            if self.out.len() >= GATHER_BYTES_MAX {
                return Poll::Ready(Some(self.write()));
            }
            match Pin::new(&mut self.upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.heard = Instant::now();
                    self.looks = 0;
                    self.splitter.push(bytes);
                    while let Some(event) = self.splitter.next() {
                        self.tap.see(&event);
                        if self.tap.observed().is_garbled {
                            // The client could not read it either, nor the error after it.
                            self.interrupt(FailureClass::Server, GARBLED);
                            break;
                        }
                        self.hand_on(event);
                    }
                    if self.is_over {
                        continue;
                    }
                    if self.shape.converter.as_ref().is_some_and(|converter| converter.ending().is_some()) {
                        self.convert_end(End::Complete);
                    } else if self.splitter.is_too_long() {
                        self.interrupt(FailureClass::Server, "an event of the stream is too long");
                    }
                }
                Poll::Ready(Some(Err(error))) => self.ended = Some(Err(deepest(&error))),
                Poll::Ready(None) => self.ended = Some(Ok(())),
                Poll::Pending if !self.out.is_empty() => {
                    // The task that reads the provider's connection gives its frames one by one. Letting it run once
                    // more costs less than a write for each of them; this never waits for what is not there.
                    if self.looks < LOOKS_MAX {
                        self.looks += 1;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    return Poll::Ready(Some(self.write()));
                }
                Poll::Pending => {
                    if self.keep_alive == KEEP_ALIVE && self.peer.is_half_closed() {
                        self.keep_alive = KEEP_ALIVE_HALF_CLOSED;
                        self.alarm.as_mut().reset(self.told + KEEP_ALIVE_HALF_CLOSED);
                    }
                    if self.alarm.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.rang();
                }
            }
        }
    }

    fn write(&mut self) -> Bytes {
        self.looks = 0;
        self.told = Instant::now();
        let bytes = self.out.take();
        if let Some(flight) = &mut self.flight {
            flight.record().response_bytes += bytes.len() as u64;
        }
        self.keep(&bytes);
        bytes
    }

    fn keep(&mut self, bytes: &[u8]) {
        let Some(flight) = &mut self.flight else { return };
        if let Some(keeping) = &mut flight.keeping {
            keeping.saw(bytes);
        }
        if let Some(transcript) = &mut flight.transcript {
            transcript.saw(bytes);
        }
    }

    /// The alarm rang: something is late, or it was only set too early.
    fn rang(&mut self) {
        let now = Instant::now();
        let patience = if self.tap.observed().first_content { self.idle } else { self.first_token };
        if self.heard + patience <= now {
            self.interrupt(FailureClass::Timeout, "the provider's stream stopped");
            return;
        }
        if self.told + self.keep_alive <= now {
            self.told = now;
            let comment = if self.shape.array { b"\n" } else { wire::keep_alive(self.shape.format) };
            self.out.push(Bytes::from_static(comment));
        }
        // Not later than `idle` from now: the first content may come meanwhile.
        let next = (self.heard + patience).min(self.told + self.keep_alive).min(now + self.idle);
        self.alarm.as_mut().reset(next);
    }

    /// Gives an event to the client as it came.
    fn hand_on(&mut self, event: Event) {
        if let Some(lookout) = self.flight.as_mut().and_then(|flight| flight.lookout.as_mut()) {
            lookout.event(&event.data);
        }
        if self.shape.converter.is_some() {
            self.convert(|converter, out| converter.push(&event, out));
            return;
        }
        if self.shape.hide_usage && is_only_usage(&event) {
            return;
        }
        self.events_sent += 1;
        if self.shape.array {
            self.add_element(&event);
            return;
        }
        let raw = event.raw;
        // Errors are rare and may repeat what was sent.
        let raw = if self.tap.observed().error.is_some() { scrub(raw, self.lent.secret()) } else { raw };
        self.out.push(raw);
    }

    /// Gives the client what the converter makes of something.
    fn convert(&mut self, with: impl FnOnce(&mut StreamConverter, &mut BytesMut)) {
        let Some(converter) = &mut self.shape.converter else { return };
        if converter.ending().is_some() {
            return;
        }
        let buffer = self.out.buffer();
        if self.shape.array {
            let mut scratch = BytesMut::new();
            with(converter, &mut scratch);
            let mut splitter = Splitter::new();
            splitter.push(scrub(scratch.freeze(), self.lent.secret()));
            while let Some(event) = splitter.next() {
                self.add_element(&event);
            }
        } else {
            let start = buffer.len();
            with(converter, buffer);
            if converter.error().is_some() {
                let told = buffer.split_off(start).freeze();
                buffer.extend_from_slice(&scrub(told, self.lent.secret()));
            }
        }
        self.events_sent += 1;
    }

    /// An event as an element of an array.
    fn add_element(&mut self, event: &Event) {
        if event.is_comment() || event.is_done() {
            return;
        }
        let lead: &[u8] = if self.elements == 0 { b"[" } else { b",\n" };
        self.elements += 1;
        let data = match self.tap.observed().error {
            Some(_) => scrub(event.data.clone(), self.lent.secret()),
            None => event.data.clone(),
        };
        let buffer = self.out.buffer();
        buffer.extend_from_slice(lead);
        buffer.extend_from_slice(&data);
    }

    /// The provider's connection has ended.
    fn conclude(&mut self, ended: Result<(), String>) {
        while let Some(event) = self.splitter.finish() {
            if !event.complete || self.tap.observed().is_garbled {
                break; // A client ignores it, and so it is not sent; what it was part of is truncated.
            }
            self.tap.see(&event);
            if self.tap.observed().is_garbled {
                self.interrupt(FailureClass::Server, GARBLED);
                return;
            }
            self.hand_on(event);
        }
        if self.shape.converter.is_some() {
            self.convert_end(if ended.is_ok() { End::Complete } else { End::Truncated });
            return;
        }
        let observed = self.tap.observed();
        if observed.error.is_some() {
            let message = observed.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
            let message = scrub(Bytes::from(message), self.lent.secret());
            let message = String::from_utf8_lossy(&message);
            let class = observed.error.as_ref().map_or(FailureClass::Server, |error| error.class.into());
            self.over(Ending::Interrupted, Some((class, &message)));
            return;
        }
        if observed.finished {
            if self.shape.array {
                let end: &[u8] = if self.elements == 0 { b"[]" } else { b"]" };
                self.out.buffer().extend_from_slice(end);
            }
            self.over(Ending::Complete, None);
            return;
        }
        let message = match ended {
            Ok(()) => "the provider ended the stream before the answer was complete".to_owned(),
            Err(cause) => format!("the provider's connection broke before the answer was complete: {cause}"),
        };
        self.interrupt(FailureClass::Truncated, &message);
    }

    /// Ends a converted stream: as an answer ends if the provider said that it was whole, else with an error.
    fn convert_end(&mut self, end: End) {
        self.convert(|converter, out| {
            converter.finish(end, out);
        });
        let error = self.shape.converter.as_ref().and_then(StreamConverter::error).cloned();
        if self.shape.array && self.elements > 0 {
            self.out.buffer().extend_from_slice(b"]");
        }
        let Some(error) = error else {
            self.over(Ending::Complete, None);
            return;
        };
        let class: FailureClass = error.class.into();
        let ending = if class == FailureClass::Truncated { Ending::Truncated } else { Ending::Interrupted };
        if ending == Ending::Truncated {
            self.target.breaker.failed_later(Instant::now());
        }
        let message = scrub(Bytes::from(error.message), self.lent.secret());
        self.over(ending, Some((class, &String::from_utf8_lossy(&message))));
    }

    /// Ends the stream with an error in the client's protocol; nothing that looks like a proper end follows.
    fn interrupt(&mut self, class: FailureClass, message: &str) {
        let told = told_as(class);
        if self.shape.converter.is_some() {
            self.convert_end(End::Failed { class: told, message: message.to_owned() });
            return;
        }
        if self.shape.array {
            let lead: &[u8] = if self.elements == 0 { b"[" } else { b",\n" };
            let body =
                wire::error_body(self.shape.format, told.status(), told, message, ErrorDetail::default());
            let buffer = self.out.buffer();
            buffer.extend_from_slice(lead);
            buffer.extend_from_slice(&body);
            buffer.extend_from_slice(b"]");
        } else {
            let detail = ErrorDetail::default();
            let sequence = self.events_sent;
            wire::error_event(self.shape.format, told, message, detail, sequence, self.out.buffer());
        }
        self.target.breaker.failed_later(Instant::now());
        let ending = if class == FailureClass::Truncated { Ending::Truncated } else { Ending::Interrupted };
        self.over(ending, Some((class, message)));
    }

    fn over(&mut self, ending: Ending, failure: Option<(FailureClass, &str)>) {
        self.is_over = true;
        if let Some(flight) = &mut self.flight {
            flight.record().ending = ending;
            flight.record().response_bytes += self.out.len() as u64;
            if let Some((class, message)) = failure {
                flight.failed_later(class, message);
            }
        }
    }

    fn settle(&mut self) {
        if let Some(mut flight) = self.flight.take() {
            flight.observed(self.tap.observed());
            let ending = flight.record().ending;
            if let (Some(keeping), Ending::Complete, Some(usage)) =
                (flight.keeping.take(), ending, flight.record().usage)
            {
                keeping.keep_stream(usage, self.target.shown().to_str().unwrap_or_default().to_owned());
            }
            flight.end(ending);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(flight) = &mut self.flight {
            // The client left: what it got is what was seen. Some do as soon as they have read the last event, before the
            // connection says that it was the last.
            let has_all = self.tap.observed().finished
                && self.out.is_empty()
                && self.waiting.as_slice().is_empty()
                && self.shape.converter.is_none();
            if !self.is_over {
                flight.record().ending = if has_all { Ending::Complete } else { Ending::Disconnected };
            }
        }
        self.settle();
    }
}

/// Whether this is chat's last event, which holds usage and no choices.
fn is_only_usage(event: &Event) -> bool {
    let compact = |needle: &[u8]| memchr::memmem::find(&event.data, needle).is_some();
    compact(b"\"usage\"")
        && (compact(b"\"choices\":[]") || compact(b"\"choices\": []"))
        && !compact(b"\"usage\":null")
        && !compact(b"\"usage\": null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_event_with_usage_alone_is_hidden() {
        for (data, hidden) in [
            (r#"{"choices":[],"usage":{"prompt_tokens":1}}"#, true),
            (r#"{"id":"x","choices": [],"usage": {"prompt_tokens":1}}"#, true),
            (r#"{"choices":[],"prompt_filter_results":[]}"#, false),
            (r#"{"choices":[],"usage":null,"prompt_filter_results":[]}"#, false),
            (r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#, false),
            ("[DONE]", false),
        ] {
            let event = Event { data: Bytes::from_static(data.as_bytes()), ..Event::default() };
            assert_eq!(is_only_usage(&event), hidden, "{data}");
        }
    }

    #[test]
    fn one_piece_is_not_copied_and_several_are_joined() {
        let mut out = Out::default();
        let one = Bytes::from_static(b"one");
        out.push(one.clone());
        assert_eq!(out.take().as_ptr(), one.as_ptr());
        out.push(one);
        out.push(Bytes::from_static(b"two"));
        out.buffer().extend_from_slice(b"three");
        assert_eq!(out.len(), 11);
        assert_eq!(&out.take()[..], b"onetwothree");
        assert!(out.is_empty());
    }
}
