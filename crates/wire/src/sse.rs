//! Server-sent events out of bytes, however these were cut.
//!
//! Source: WHATWG HTML Living Standard, "Server-sent events", "Parsing an event stream".

use bytes::{Bytes, BytesMut};
use memchr::{memchr2, memrchr};

/// Longest event that is put together when nothing else is said: 64 MiB, since images travel inside events.
pub const EVENT_BYTES_MAX: usize = 64 << 20;

/// One event, or what stands between two of them, such as a comment that keeps the connection alive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// What `event:` says; empty when it is not said.
    pub name: Bytes,
    /// The lines of `data:`, joined by line feeds. Empty for comments and for events without data, which a client does not see.
    pub data: Bytes,
    /// All bytes, with comments before and the blank line after. The `raw` of all events, one after the other, are the stream.
    pub raw: Bytes,
    /// Whether the blank line that ends it was there. Without it a client ignores the event.
    pub complete: bool,
}

impl Event {
    /// Whether a client sees nothing of it: a comment, or fields without data. It is forwarded, not read.
    pub fn is_comment(&self) -> bool {
        self.data.is_empty()
    }

    /// Whether this is OpenAI's mark after the last event.
    pub fn is_done(&self) -> bool {
        self.data.trim_ascii() == b"[DONE]"
    }
}

/// Splits a stream into events: CR, LF and CRLF, a byte order mark, comments, data over several lines, cuts anywhere.
///
/// An event that arrived in one piece is a slice of that piece; only events that were cut are copied.
#[derive(Debug)]
pub struct Splitter {
    /// Bytes not yet given out, from the start of an event.
    pending: Pending,
    /// Where the line that is being looked for begins.
    line_start: usize,
    /// Up to where that line has been searched.
    searched: usize,
    /// What the lines so far say.
    fields: Fields,
    /// How the line before ended: a CR alone means that the next CR is a blank line by itself.
    after_lone_cr: bool,
    at_stream_start: bool,
    event_bytes_max: usize,
}

#[derive(Debug, Default)]
enum Pending {
    #[default]
    Nothing,
    Whole(Bytes),
    Joined(BytesMut),
}

impl Pending {
    fn bytes(&self) -> &[u8] {
        match self {
            Pending::Nothing => &[],
            Pending::Whole(bytes) => bytes,
            Pending::Joined(bytes) => bytes,
        }
    }

    fn split_to(&mut self, at: usize) -> Bytes {
        match self {
            Pending::Nothing => Bytes::new(),
            Pending::Whole(bytes) => bytes.split_to(at),
            Pending::Joined(bytes) => bytes.split_to(at).freeze(),
        }
    }
}

/// Where in the pending bytes an event's fields stand.
#[derive(Debug, Default)]
struct Fields {
    name: std::ops::Range<usize>,
    data: Data,
    any_line: bool,
}

#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    One(std::ops::Range<usize>),
    Several(BytesMut),
}

enum LineEnd {
    /// Where the line ends, and where the next begins.
    At(usize, usize),
    /// A CR that is the last byte: whether a LF belongs to it is not known yet.
    CrAtEnd(usize),
    None,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new()
    }
}

impl Splitter {
    /// Events of at most [`EVENT_BYTES_MAX`].
    pub fn new() -> Self {
        Self::with_limit(EVENT_BYTES_MAX)
    }

    /// Events of at most that many bytes.
    pub fn with_limit(event_bytes_max: usize) -> Self {
        Self {
            pending: Pending::Nothing,
            line_start: 0,
            searched: 0,
            fields: Fields::default(),
            after_lone_cr: false,
            at_stream_start: true,
            event_bytes_max,
        }
    }

    /// Whether bytes wait for the rest of their event.
    pub fn is_empty(&self) -> bool {
        self.pending.bytes().is_empty()
    }

    /// Whether the event that is being put together has become longer than the limit. The stream should be given up.
    pub fn is_too_long(&self) -> bool {
        self.pending.bytes().len() > self.event_bytes_max
    }

    /// Takes what has arrived. Call [`Self::next`] until it gives nothing before the next piece.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.pending = match std::mem::take(&mut self.pending) {
            Pending::Nothing => Pending::Whole(piece),
            Pending::Whole(bytes) if bytes.is_empty() => Pending::Whole(piece),
            Pending::Joined(bytes) if bytes.is_empty() => Pending::Whole(piece),
            Pending::Whole(bytes) => {
                let mut joined = BytesMut::with_capacity((bytes.len() + piece.len()).next_power_of_two());
                joined.extend_from_slice(&bytes);
                joined.extend_from_slice(&piece);
                Pending::Joined(joined)
            }
            Pending::Joined(mut bytes) => {
                bytes.extend_from_slice(&piece);
                Pending::Joined(bytes)
            }
        };
    }

    /// The next whole event; `None` until more arrives.
    #[expect(clippy::should_implement_trait, reason = "more may come after None, so it is no iterator")]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let (end, next) = match self.line_end() {
                LineEnd::At(end, next) => (end, next),
                // In a stream of lone CRs the blank line is over with its CR. Otherwise a LF may follow, and waiting for it
                // is what makes the events the same however the stream was cut.
                LineEnd::CrAtEnd(end) if self.after_lone_cr && end == self.line_start => (end, end + 1),
                LineEnd::CrAtEnd(_) | LineEnd::None => return None,
            };
            if let Some(event) = self.line(end, next) {
                return Some(event);
            }
        }
    }

    /// What is left when the stream has ended: an event whose blank line never came, with `complete` false.
    pub fn finish(&mut self) -> Option<Event> {
        if let Some(event) = self.next() {
            return Some(event);
        }
        let length = self.pending.bytes().len();
        if length == 0 {
            return None;
        }
        if self.line_start < length {
            let blank_by_lone_cr = &self.pending.bytes()[self.line_start..] == b"\r";
            let end = if self.pending.bytes().ends_with(b"\r") { length - 1 } else { length };
            if blank_by_lone_cr && self.fields.any_line {
                return self.line(end, length);
            }
            self.field(self.line_start, end);
        }
        Some(self.dispatch(length, false))
    }

    fn line_end(&mut self) -> LineEnd {
        let bytes = self.pending.bytes();
        let Some(found) = memchr2(b'\n', b'\r', &bytes[self.searched..]) else {
            self.searched = bytes.len();
            return LineEnd::None;
        };
        let end = self.searched + found;
        self.searched = end;
        if bytes[end] == b'\n' {
            return LineEnd::At(end, end + 1);
        }
        match bytes.get(end + 1) {
            Some(b'\n') => {
                // After `CR CR` the event is already over, with or without a LF behind it.
                let next = if self.after_lone_cr && end == self.line_start { end + 1 } else { end + 2 };
                LineEnd::At(end, next)
            }
            Some(_) => LineEnd::At(end, end + 1),
            None => LineEnd::CrAtEnd(end),
        }
    }

    /// Takes the line up to `end`; an event when that line is blank and something came before it.
    fn line(&mut self, end: usize, next: usize) -> Option<Event> {
        let bytes = self.pending.bytes();
        let blank = end == self.line_start;
        self.after_lone_cr = next == end + 1 && bytes[end] == b'\r';
        if blank {
            self.line_start = next;
            self.searched = next;
            // Blank lines by themselves say nothing; they go with the event that follows.
            return self.fields.any_line.then(|| self.dispatch(next, true));
        }
        self.field(self.line_start, end);
        self.line_start = next;
        self.searched = next;
        None
    }

    fn field(&mut self, start: usize, end: usize) {
        let bytes = self.pending.bytes();
        let mut start = start;
        if self.at_stream_start {
            self.at_stream_start = false;
            if bytes[start..end].starts_with(b"\xEF\xBB\xBF") {
                start += 3;
            }
        }
        self.fields.any_line = true;
        let line = &bytes[start..end];
        let (name, value_start) = match memchr::memchr(b':', line) {
            Some(colon) => {
                let space = usize::from(line.get(colon + 1) == Some(&b' '));
                (&line[..colon], start + colon + 1 + space)
            }
            None => (line, end),
        };
        match name {
            b"data" => {
                self.fields.data = match std::mem::take(&mut self.fields.data) {
                    Data::None => Data::One(value_start..end),
                    Data::One(first) => {
                        let mut all = BytesMut::from(&bytes[first]);
                        all.extend_from_slice(b"\n");
                        all.extend_from_slice(&bytes[value_start..end]);
                        Data::Several(all)
                    }
                    Data::Several(mut all) => {
                        all.extend_from_slice(b"\n");
                        all.extend_from_slice(&bytes[value_start..end]);
                        Data::Several(all)
                    }
                };
            }
            b"event" => self.fields.name = value_start..end,
            _ => {}
        }
    }

    fn dispatch(&mut self, length: usize, complete: bool) -> Event {
        let raw = self.pending.split_to(length);
        let fields = std::mem::take(&mut self.fields);
        self.line_start = 0;
        self.searched = 0;
        let data = match fields.data {
            Data::None => Bytes::new(),
            Data::One(range) => raw.slice(range),
            Data::Several(all) => all.freeze(),
        };
        Event { name: raw.slice(fields.name), data, raw, complete }
    }
}

/// Writes one event: `event:` when it has a name, `data:` once a line.
pub fn write_event(name: &str, data: &[u8], out: &mut BytesMut) {
    if !name.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\n");
    }
    if memrchr(b'\n', data).is_none() {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\n\n");
        return;
    }
    for line in data.split(|&byte| byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"\n");
}

/// The stream that Gemini sends without `alt=sse`: the data of all events as one JSON array.
#[derive(Debug, Default)]
pub struct Array {
    is_begun: bool,
}

impl Array {
    /// Appends one event's data as the next element; comments are left out.
    pub fn push(&mut self, event: &Event, out: &mut BytesMut) {
        if event.is_comment() {
            return;
        }
        out.extend_from_slice(if self.is_begun { b",\r\n" } else { b"[" });
        self.is_begun = true;
        out.extend_from_slice(&event.data);
    }

    /// Closes the array. An answer that failed has its error as the last element.
    pub fn finish(self, out: &mut BytesMut) {
        out.extend_from_slice(if self.is_begun { b"]" } else { b"[]" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]]) -> Vec<Event> {
        let mut splitter = Splitter::new();
        let mut events = Vec::new();
        for piece in pieces {
            splitter.push(Bytes::copy_from_slice(piece));
            while let Some(event) = splitter.next() {
                events.push(event);
            }
        }
        while let Some(event) = splitter.finish() {
            events.push(event);
        }
        assert!(splitter.is_empty());
        events
    }

    fn shown(stream: &[u8]) -> Vec<(String, String, bool)> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        split(&[stream]).iter().map(|event| (text(&event.name), text(&event.data), event.complete)).collect()
    }

    #[test]
    fn every_way_to_write_an_event_is_read() {
        for (stream, expected) in [
            ("data: a\n\n", vec![("", "a", true)]),
            ("data: a\r\n\r\ndata:b\r\n\r\n", vec![("", "a", true), ("", "b", true)]),
            ("data: a\r\rdata: b\r\r", vec![("", "a", true), ("", "b", true)]),
            ("\u{feff}data: a\n\n", vec![("", "a", true)]),
            ("data:a\ndata:  b\ndata\n\n", vec![("", "a\n b\n", true)]),
            ("event: ping\ndata: {}\n\n", vec![("ping", "{}", true)]),
            ("data: {}\nevent: later\nid: 7\nretry: 5\n\n", vec![("later", "{}", true)]),
            (": keep-alive\n\ndata: a\n\n", vec![("", "", true), ("", "a", true)]),
            (": ping\ndata: a\n\n", vec![("", "a", true)]),
            ("\n\n\ndata: a\n\n\n", vec![("", "a", true), ("", "", false)]),
            ("data: a", vec![("", "a", false)]),
            ("data: a\n", vec![("", "a", false)]),
            ("data: a\r", vec![("", "a", false)]),
            ("data: a\n\r", vec![("", "a", true)]),
            ("data: [DONE]", vec![("", "[DONE]", false)]),
            ("nonsense\ndatum: x\ndata: é\n\n", vec![("", "é", true)]),
            ("", vec![]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(name, data, whole)| (name.into(), data.into(), whole)).collect();
            assert_eq!(shown(stream.as_bytes()), expected, "{stream:?}");
        }
    }

    #[test]
    fn an_event_in_one_piece_is_not_copied() {
        let piece = Bytes::from_static(b"data: {\"a\":1}\n\ndata: b\n\n");
        let mut splitter = Splitter::new();
        splitter.push(piece.clone());
        let event = splitter.next().unwrap();
        assert_eq!(event.raw.as_ptr(), piece.as_ptr());
        assert_eq!(event.data.as_ptr(), piece[6..].as_ptr());
    }

    #[test]
    fn an_event_beyond_the_limit_is_told() {
        let mut splitter = Splitter::with_limit(10);
        splitter.push(Bytes::from_static(b"data: 0123"));
        assert!(splitter.next().is_none() && !splitter.is_too_long());
        splitter.push(Bytes::from_static(b"4"));
        assert!(splitter.next().is_none() && splitter.is_too_long());
    }

    #[test]
    fn events_become_one_array() {
        for (stream, array) in [
            ("", "[]"),
            ("data: {}\n\n", "[{}]"),
            (": x\n\ndata: {\"a\":1}\n\ndata: 2\n\n", "[{\"a\":1},\r\n2]"),
        ] {
            let (mut whole, mut out) = (Array::default(), BytesMut::new());
            for event in split(&[stream.as_bytes()]) {
                whole.push(&event, &mut out);
            }
            whole.finish(&mut out);
            assert_eq!(out, array);
        }
    }

    #[test]
    fn events_are_written_as_they_are_read() {
        let mut out = BytesMut::new();
        write_event("ping", b"{}", &mut out);
        write_event("", b"a\nb", &mut out);
        assert_eq!(shown(&out), [("ping".into(), "{}".into(), true), (String::new(), "a\nb".into(), true)]);
    }

    proptest! {
        #[test]
        fn the_events_are_the_same_for_any_cut(
            lines in prop::collection::vec(("(data: ?|event: |: |id:|)[a-zé:\u{feff} ]{0,6}", "\n|\r|\r\n"), 0..12),
            cuts in prop::collection::vec(0usize..200, 0..12),
        ) {
            let stream: Vec<u8> = lines.iter().flat_map(|(line, end)| [line.as_bytes(), end.as_bytes()].concat()).collect();
            let whole = split(&[&stream]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.sort_unstable();
            cuts.insert(0, 0);
            cuts.push(stream.len());
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(&split(&pieces), &whole);
            let single: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(&split(&single), &whole);
            let raw: Vec<u8> = whole.iter().flat_map(|event| event.raw.to_vec()).collect();
            prop_assert_eq!(raw, stream);
        }
    }
}
