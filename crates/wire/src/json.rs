//! JSON that keeps members in order and numbers as they were written.
//!
//! `serde_json` would need `arbitrary_precision` and `preserve_order` for that, which change every crate of the house at once.

use std::borrow::Cow;

/// Deepest nesting that is read; deeper input is refused rather than recursed into.
pub(crate) const DEPTH_MAX: usize = 128;

/// Where and why a text is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

/// Reads JSON forward without keeping it: the caller takes or skips each value.
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What the next value is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// What stands between the quotes, escapes not yet read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    pub(crate) raw: &'a [u8],
    pub(crate) escaped: bool,
}

impl<'a> Text<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.raw.is_empty()
    }

    /// Length in bytes once escapes are read; halves of a surrogate pair count as two bytes each.
    pub(crate) fn decoded_len(self) -> u64 {
        if !self.escaped {
            return self.raw.len() as u64;
        }
        let (mut at, mut length) = (0, 0);
        while at < self.raw.len() {
            let (taken, gives) = match self.raw[at] {
                b'\\' if self.raw.get(at + 1) == Some(&b'u') => match self.raw.get(at + 2..at + 6) {
                    Some([b'0', b'0', b'0'..=b'7', _]) => (6, 1),
                    Some(
                        [b'0', b'0'..=b'7', ..] | [b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..],
                    ) => (6, 2),
                    _ => (6, 3),
                },
                b'\\' => (2, 1),
                _ => (1, 1),
            };
            at += taken;
            length += gives;
        }
        length
    }

    /// The text; a lone half of a surrogate pair becomes U+FFFD.
    pub(crate) fn decode(self) -> Cow<'a, str> {
        let text = std::str::from_utf8(self.raw).unwrap_or_default();
        if !self.escaped {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            out.push_str(&rest[..at]);
            let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
            rest = rest.get(at + 2..).unwrap_or_default();
            match escape {
                b'n' => out.push('\n'),
                b't' => out.push('\t'),
                b'r' => out.push('\r'),
                b'b' => out.push('\u{8}'),
                b'f' => out.push('\u{c}'),
                b'u' => {
                    let (character, taken) = unicode_escape(rest);
                    out.push(character);
                    rest = rest.get(taken..).unwrap_or_default();
                }
                other => out.push(char::from(other)),
            }
        }
        out.push_str(rest);
        Cow::Owned(out)
    }
}

/// The character whose `\u` has just been read, and how many bytes after it belong to it.
fn unicode_escape(rest: &str) -> (char, usize) {
    let unit = |at: usize| rest.get(at..at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let first = unit(0).unwrap_or(0xFFFD);
    if (0xD800..0xDC00).contains(&first)
        && rest.as_bytes().get(4..6) == Some(b"\\u")
        && let Some(second @ 0xDC00..0xE000) = unit(6)
        && let Some(character) = char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00))
    {
        return (character, 10);
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 4)
}

impl<'a> Scanner<'a> {
    /// The bytes must be UTF-8 where their text is to be read.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Another scanner at the same place.
    pub(crate) fn look_ahead(&self) -> Scanner<'a> {
        Scanner { bytes: self.bytes, at: self.at }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    fn bad<T>(&self, what: &'static str) -> Result<T, Bad> {
        Err(Bad { at: self.at, what })
    }

    #[inline]
    pub(crate) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// What comes next; stands on its first byte afterwards.
    #[inline]
    pub(crate) fn kind(&mut self) -> Result<Kind, Bad> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b'"') => Ok(Kind::String),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(_) => self.bad("expected a value"),
            None => self.bad("ends where a value is expected"),
        }
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Bad> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { self.bad("expected the end") }
    }

    /// Calls `member` with every key; it must take or skip the value.
    #[inline]
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(Text<'a>, &mut Self) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        self.space();
        if self.bytes.get(self.at) != Some(&b'{') {
            return self.bad("expected `{`");
        }
        self.at += 1;
        self.space();
        if self.bytes.get(self.at) == Some(&b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let key = self.text()?;
            self.space();
            if self.bytes.get(self.at) != Some(&b':') {
                return self.bad("expected `:`");
            }
            self.at += 1;
            self.space();
            member(key, self)?;
            self.space();
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.bad("expected `,` or `}`"),
            }
        }
    }

    /// Calls `element` once for each; it must take or skip it.
    #[inline]
    pub(crate) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), Bad>) -> Result<(), Bad> {
        self.space();
        if self.bytes.get(self.at) != Some(&b'[') {
            return self.bad("expected `[`");
        }
        self.at += 1;
        self.space();
        if self.bytes.get(self.at) == Some(&b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            element(self)?;
            self.space();
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.bad("expected `,` or `]`"),
            }
        }
    }

    /// Takes a text.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<Text<'a>, Bad> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return self.bad("expected a text in quotes");
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_prefix(&self.bytes[self.at..]);
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let raw = &self.bytes[start..self.at];
                    self.at += 1;
                    return Ok(Text { raw, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.bad("control character in a text"),
                None => return self.bad("text without its closing quote"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Bad> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return self.bad("bad escape in a text");
                }
                self.at += 6;
            }
            _ => return self.bad("bad escape in a text"),
        }
        Ok(())
    }

    /// Takes a number, as written.
    pub(crate) fn number(&mut self) -> Result<&'a str, Bad> {
        let start = self.at;
        let digits = |this: &mut Self| {
            let from = this.at;
            while this.bytes.get(this.at).is_some_and(u8::is_ascii_digit) {
                this.at += 1;
            }
            this.at > from
        };
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else if !digits(self) {
            return self.bad("bad number");
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !digits(self) {
                return self.bad("bad number");
            }
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            if !digits(self) {
                return self.bad("bad number");
            }
        }
        std::str::from_utf8(&self.bytes[start..self.at]).map_err(|_| Bad { at: start, what: "bad number" })
    }

    /// Takes `null`, `true` or `false`.
    #[inline]
    fn word(&mut self) -> Result<&'a str, Bad> {
        for word in ["null", "true", "false"] {
            if self.bytes[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(word);
            }
        }
        self.bad("expected a value")
    }

    /// Takes a whole number that fits, or `None` for any other value, which is skipped.
    pub(crate) fn count(&mut self) -> Result<Option<u64>, Bad> {
        if self.kind()? == Kind::Number {
            return Ok(self.number()?.parse().ok());
        }
        self.skip()?;
        Ok(None)
    }

    /// Takes a text, or `None` for any other value, which is skipped.
    pub(crate) fn text_or_skip(&mut self) -> Result<Option<Text<'a>>, Bad> {
        if self.kind()? == Kind::String {
            return self.text().map(Some);
        }
        self.skip()?;
        Ok(None)
    }

    /// Passes over one value and checks it.
    pub(crate) fn skip(&mut self) -> Result<(), Bad> {
        self.span().map(drop)
    }

    /// Passes over one value and checks it; returns where it stands.
    pub(crate) fn span(&mut self) -> Result<std::ops::Range<usize>, Bad> {
        // One bit per level: set for an object, clear for an array.
        let mut objects: u128 = 0;
        let mut depth = 0usize;
        self.space();
        let start = self.at;
        'value: loop {
            match self.kind()? {
                Kind::String => {
                    self.text()?;
                }
                Kind::Number => {
                    self.number()?;
                }
                Kind::Null | Kind::Bool => {
                    self.word()?;
                }
                kind @ (Kind::Object | Kind::Array) => {
                    let is_object = kind == Kind::Object;
                    self.at += 1;
                    self.space();
                    let closing = if is_object { b'}' } else { b']' };
                    if self.bytes.get(self.at) == Some(&closing) {
                        self.at += 1;
                    } else {
                        if depth == DEPTH_MAX {
                            return self.bad("nested too deep");
                        }
                        objects = (objects << 1) | u128::from(is_object);
                        depth += 1;
                        if is_object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                }
            }
            loop {
                if depth == 0 {
                    return Ok(start..self.at);
                }
                self.space();
                match (self.bytes.get(self.at), objects & 1 == 1) {
                    (Some(b','), is_object) => {
                        self.at += 1;
                        self.space();
                        if is_object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        objects >>= 1;
                        depth -= 1;
                    }
                    _ => return self.bad("expected `,` or the closing bracket"),
                }
            }
        }
    }

    #[inline]
    fn key(&mut self) -> Result<(), Bad> {
        self.text()?;
        self.space();
        if self.bytes.get(self.at) != Some(&b':') {
            return self.bad("expected `:`");
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Bad> {
        Ok(match self.kind()? {
            Kind::String => Value::String(self.text()?.decode()),
            Kind::Number => Value::Number(Cow::Borrowed(self.number()?)),
            Kind::Null | Kind::Bool => match self.word()? {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            },
            Kind::Array => {
                if depth == DEPTH_MAX {
                    return self.bad("nested too deep");
                }
                let mut elements = Vec::new();
                self.array(|this| {
                    elements.push(this.value(depth + 1)?);
                    Ok(())
                })?;
                Value::Array(elements)
            }
            Kind::Object => {
                if depth == DEPTH_MAX {
                    return self.bad("nested too deep");
                }
                let mut object = Object::default();
                self.object(|key, this| {
                    let value = this.value(depth + 1)?;
                    object.0.push((key.decode(), value));
                    Ok(())
                })?;
                Value::Object(object)
            }
        })
    }
}

/// How many bytes from the start need no look: no quote, no backslash, no control character. Eight at a time.
#[inline]
fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    while let Some(eight) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        let zero_where = |pattern: u8| {
            let differs = word ^ (ONES * u64::from(pattern));
            differs.wrapping_sub(ONES) & !differs
        };
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (zero_where(b'"') | zero_where(b'\\') | below_space) & HIGHS;
        if found != 0 {
            // The lowest hit is exact; borrows only disturb the bytes above it.
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// A value with its members in order and its numbers as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Object<'a>),
}

/// Members in the order in which they were written. Of two with one key the last counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Object<'a>(pub(crate) Vec<(Cow<'a, str>, Value<'a>)>);

/// Reads one whole text.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value<'_>, Bad> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(Bad { at: error.valid_up_to(), what: "not UTF-8" });
    }
    let mut scanner = Scanner::new(bytes);
    let value = scanner.value(0)?;
    scanner.end()?;
    Ok(value)
}

impl<'a> Value<'a> {
    pub(crate) fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    /// A whole number; also one in quotes, as protocol buffers write 64-bit integers.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Number(text) | Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Number(text) | Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&[Value<'a>]> {
        if let Value::Array(elements) = self { Some(elements) } else { None }
    }

    pub(crate) fn as_object(&self) -> Option<&Object<'a>> {
        if let Value::Object(object) = self { Some(object) } else { None }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Member of an object; `None` for `null` and for anything that is no object.
    pub(crate) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.as_object()?.get(key)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Number(text) => out.extend_from_slice(text.as_bytes()),
            Value::String(text) => write_text(text, out),
            Value::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    element.write(out);
                }
                out.push(b']');
            }
            Value::Object(object) => object.write(out),
        }
    }

    pub(crate) fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write(&mut out);
        String::from_utf8(out).expect("texts and numbers are UTF-8")
    }

    pub(crate) fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Number(text) => Value::Number(Cow::Owned(text.into_owned())),
            Value::String(text) => Value::String(Cow::Owned(text.into_owned())),
            Value::Array(elements) => Value::Array(elements.into_iter().map(Value::into_owned).collect()),
            Value::Object(object) => Value::Object(object.into_owned()),
        }
    }
}

impl<'a> Object<'a> {
    /// The member's value; `None` when absent or `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value<'a>> {
        let (_, value) = self.0.iter().rev().find(|(name, _)| name == key)?;
        (!value.is_null()).then_some(value)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Removes the member, all of its repetitions; `None` when absent or `null`.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value<'a>> {
        let mut taken = None;
        while let Some(index) = self.0.iter().position(|(name, _)| name == key) {
            taken = Some(self.0.remove(index).1);
        }
        taken.filter(|value| !value.is_null())
    }

    pub(crate) fn take_text(&mut self, key: &str) -> Option<Cow<'a, str>> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn put(&mut self, key: &'a str, value: impl Into<Value<'a>>) {
        self.0.push((Cow::Borrowed(key), value.into()));
    }

    /// Puts the member when there is a value.
    pub(crate) fn put_some(&mut self, key: &'a str, value: Option<impl Into<Value<'a>>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    pub(crate) fn with(mut self, key: &'a str, value: impl Into<Value<'a>>) -> Self {
        self.put(key, value);
        self
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_text(key, out);
            out.push(b':');
            value.write(out);
        }
        out.push(b'}');
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write(&mut out);
        out
    }

    pub(crate) fn into_owned(self) -> Object<'static> {
        Object(
            self.0
                .into_iter()
                .map(|(key, value)| (Cow::Owned(key.into_owned()), value.into_owned()))
                .collect(),
        )
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::String(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::String(Cow::Owned(text))
    }
}

impl<'a> From<Cow<'a, str>> for Value<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Value::String(text)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Value::Number(Cow::Owned(number.to_string()))
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Value::Number(Cow::Owned(number.to_string()))
    }
}

impl<'a> From<Vec<Value<'a>>> for Value<'a> {
    fn from(elements: Vec<Value<'a>>) -> Self {
        Value::Array(elements)
    }
}

impl<'a> From<Object<'a>> for Value<'a> {
    fn from(object: Object<'a>) -> Self {
        Value::Object(object)
    }
}

/// Writes a text with quotes and escapes.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let plain = plain_prefix(rest);
        out.extend_from_slice(&rest[..plain]);
        let Some(&byte) = rest.get(plain) else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
        rest = &rest[plain + 1..];
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(text: &str) -> String {
        parse(text.as_bytes()).map_or_else(|bad| bad.to_string(), |value| value.to_json())
    }

    #[test]
    fn numbers_and_order_stay_as_written() {
        for text in [
            r#"{"b":9007199254740993,"a":1.10,"c":[1e400,-0,18446744073709551616]}"#,
            r#"{"a":{"z":1,"a":2},"b":[]}"#,
            "\"\"",
        ] {
            assert_eq!(round_trip(text), text);
        }
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for (text, problem) in [
            ("", "ends where a value is expected at byte 0"),
            ("{\"a\":1,}", "expected a text in quotes at byte 7"),
            ("[1 2]", "expected `,` or `]` at byte 3"),
            ("[01]", "expected `,` or `]` at byte 2"),
            ("\"a\nb\"", "control character in a text at byte 2"),
            ("\"\\x\"", "bad escape in a text at byte 1"),
            ("{} {}", "expected the end at byte 3"),
            ("nul", "expected a value at byte 0"),
            ("-", "bad number at byte 1"),
        ] {
            assert_eq!(round_trip(text), problem, "{text}");
            if problem.contains("the end") {
                continue;
            }
            assert!(Scanner::new(text.as_bytes()).skip().is_err() || text == "[01]", "{text}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(round_trip(&deep).starts_with("nested too deep"));
        assert!(Scanner::new(deep.as_bytes()).skip().is_err());
    }

    #[test]
    fn texts_are_decoded() {
        for (text, decoded) in [
            (r#""\u00e9\n\"\\\/""#, "é\n\"\\/"),
            (r#""\ud83d\ude00""#, "😀"),
            (r#""\ud83d x""#, "\u{fffd} x"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().as_str(), Some(decoded), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_and_agrees_with_another_parser(text in any::<String>()) {
            let mut out = Vec::new();
            write_text(&text, &mut out);
            let value = parse(&out).unwrap();
            prop_assert_eq!(value.as_str(), Some(text.as_str()));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text.as_str());
            let mut scanner = Scanner::new(&out);
            prop_assert_eq!(scanner.text().unwrap().decoded_len(), text.len() as u64);
        }

        #[test]
        fn the_same_texts_are_json_for_another_parser(text in "[\\[\\]{},:\"\\\\ 0-9a-fnrtul.eE+-]{0,24}") {
            let other = serde_json::from_str::<serde_json::Value>(&text);
            // The other parser also refuses numbers beyond f64 and lone halves of pairs.
            if other.is_ok() {
                prop_assert!(parse(text.as_bytes()).is_ok());
                prop_assert!(Scanner::new(text.as_bytes()).skip().is_ok());
            } else if parse(text.as_bytes()).is_ok() {
                let problem = other.unwrap_err().to_string();
                prop_assert!(problem.contains("out of range") || problem.contains("surrogate") || problem.contains("hex escape"), "{}", problem);
            }
        }
    }
}
