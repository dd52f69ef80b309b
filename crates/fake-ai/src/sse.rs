//! Server-sent events, written in every way that the standard permits.

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `event:` line, where the format has one.
    pub name: Option<String>,
    /// The `data:` line or lines.
    pub data: String,
}

impl Event {
    /// An event without a name.
    pub fn data(data: &(impl ToString + ?Sized)) -> Self {
        Self { name: None, data: data.to_string() }
    }

    /// An event with a name.
    pub fn named(name: &str, data: &(impl ToString + ?Sized)) -> Self {
        Self { name: Some(name.to_owned()), data: data.to_string() }
    }
}

/// What ends a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LineEnd {
    /// `\n`
    #[default]
    Lf,
    /// `\r\n`
    CrLf,
    /// `\r`
    Cr,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    pub(crate) line_end: LineEnd,
    /// Comment lines before every event.
    pub(crate) comments: bool,
    /// `data:x` in place of `data: x`.
    pub(crate) without_space: bool,
    /// A byte order mark before the first event.
    pub(crate) mark: bool,
}

impl Style {
    pub(crate) fn write(self, event: &Event, first: bool) -> Vec<u8> {
        let end = match self.line_end {
            LineEnd::Lf => "\n",
            LineEnd::CrLf => "\r\n",
            LineEnd::Cr => "\r",
        };
        let space = if self.without_space { "" } else { " " };
        let mut text = String::with_capacity(event.data.len() + 64);
        if first && self.mark {
            text.push('\u{feff}');
        }
        if self.comments {
            text.push_str(": keep-alive");
            text.push_str(end);
            text.push_str(end);
            text.push(':');
            text.push_str(end);
        }
        if let Some(name) = &event.name {
            text.push_str("event:");
            text.push_str(space);
            text.push_str(name);
            text.push_str(end);
        }
        for line in event.data.split('\n') {
            text.push_str("data:");
            text.push_str(space);
            text.push_str(line);
            text.push_str(end);
        }
        text.push_str(end);
        text.into_bytes()
    }
}
