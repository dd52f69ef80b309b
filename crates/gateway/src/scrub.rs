//! Takes provider keys out of what providers say.

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};

/// What stands in the place of a key.
const REDACTED: &[u8] = b"[redacted]";
/// Letters of a masked key that must agree with the key's begin or end.
const SHOWN_MIN: usize = 2;

/// The bytes without the key, neither as it is nor masked (`sk-ab****yz`, `sk-ab...yz`): whoever reads errors must not
/// learn even which key it was.
pub(crate) fn scrub(bytes: Bytes, key: Option<&SecretString>) -> Bytes {
    let Some(key) = key else { return bytes };
    let key = key.expose_secret().as_bytes();
    if key.len() < LENGTH_MIN {
        return bytes;
    }
    let mut out: Option<Vec<u8>> = None;
    let mut kept = 0;
    let mut at = 0;
    while at < bytes.len() {
        let length = if bytes[at..].starts_with(key) { key.len() } else { masked(&bytes, at, key) };
        if length == 0 {
            at += 1;
            continue;
        }
        let out = out.get_or_insert_with(|| Vec::with_capacity(bytes.len()));
        out.extend_from_slice(&bytes[kept..at]);
        out.extend_from_slice(REDACTED);
        at += length;
        kept = at;
    }
    match out {
        None => bytes,
        Some(mut out) => {
            out.extend_from_slice(&bytes[kept..]);
            out.into()
        }
    }
}

/// Keys shorter than this are not looked for: they occur by chance.
const LENGTH_MIN: usize = 4;

/// Removes headers that hold the key: whoever echoes what it was sent must not hand it on.
pub(crate) fn conceal(headers: &mut HeaderMap, key: Option<&SecretString>) {
    let Some(key) = key.map(|key| key.expose_secret().as_bytes()).filter(|key| key.len() >= LENGTH_MIN)
    else {
        return;
    };
    // Few values are as long as a key, so this hardly ever searches; and a key seldom begins as they do.
    let holds = |value: &http::HeaderValue| {
        let value = value.as_bytes();
        let mut starts = memchr::memchr_iter(key[0], value);
        starts.any(|at| value[at..].starts_with(key))
    };
    if !headers.values().any(|value| value.len() >= key.len() && holds(value)) {
        return;
    }
    let names: Vec<http::HeaderName> =
        headers.iter().filter(|(_, value)| holds(value)).map(|(name, _)| name.clone()).collect();
    for name in names {
        headers.remove(name);
    }
}

/// Takes a key out of a body that passes by in pieces, also where it lies across them. As many stars take its place as it
/// has bytes, so that a length that was told stays true.
pub(crate) struct Concealer {
    key: SecretString,
    /// The end of what has passed, if a key may begin in it.
    held: BytesMut,
}

impl Concealer {
    /// `None`: there is no key to look for.
    pub(crate) fn new(key: Option<&SecretString>) -> Option<Self> {
        let key = key.filter(|key| key.expose_secret().len() >= LENGTH_MIN)?;
        Some(Self { key: key.clone(), held: BytesMut::new() })
    }

    /// What may be passed on of this piece and those before; an end that a key may begin with is held back.
    pub(crate) fn pass(&mut self, piece: Bytes) -> Bytes {
        let key = self.key.expose_secret().as_bytes();
        if self.held.is_empty() && memmem::find(&piece, key).is_none() && begun(&piece, key) == 0 {
            return piece;
        }
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(&piece);
        let mut from = 0;
        while let Some(at) = memmem::find(&bytes[from..], key) {
            bytes[from + at..from + at + key.len()].fill(b'*');
            from += at + key.len();
        }
        self.held = bytes.split_off(bytes.len() - begun(&bytes, key));
        bytes.freeze()
    }

    /// Whether nothing is held back.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What was held back, when no more is to come.
    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).freeze()
    }
}

/// How many bytes at the end could be the beginning of the key.
fn begun(bytes: &[u8], key: &[u8]) -> usize {
    let longest = bytes.len().min(key.len() - 1);
    (1..=longest).rev().find(|length| bytes.ends_with(&key[..*length])).unwrap_or(0)
}

/// The length of a masked key that begins at `at`; 0 if none does.
fn masked(bytes: &[u8], at: usize, key: &[u8]) -> usize {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !is_word(bytes[at]) && bytes[at] != b'*' || at > 0 && is_word(bytes[at - 1]) {
        return 0;
    }
    let rest = &bytes[at..];
    let begin = rest.iter().take_while(|byte| is_word(**byte)).count();
    let mask = mask_length(&rest[begin..]);
    if mask == 0 {
        return 0;
    }
    let end = rest[begin + mask..].iter().take_while(|byte| is_word(**byte)).count();
    let (shown_begin, shown_end) = (&rest[..begin], &rest[begin + mask..begin + mask + end]);
    let agrees = key.starts_with(shown_begin) && key.ends_with(shown_end);
    let shows = shown_begin.len() >= SHOWN_MIN || shown_end.len() >= SHOWN_MIN;
    if agrees && shows { begin + mask + end } else { 0 }
}

/// Stars, dots, `…` or bullets in a row.
fn mask_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    loop {
        let rest = &bytes[length..];
        length += match rest {
            [b'*' | b'.', ..] => 1,
            _ if rest.starts_with("…".as_bytes()) || rest.starts_with("•".as_bytes()) => 3,
            _ => break,
        };
    }
    // One full stop is the end of a sentence.
    if length >= 3 { length } else { 0 }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_key_in_pieces_is_taken_out_wherever_it_is_cut() {
        let key = SecretString::from("sk-sk-proj-1234".to_owned());
        let text = "a sk-sk-sk-proj-1234 b sk-sk-proj-123 c sk-sk-proj-1234sk-sk-proj-1234 sk-sk";
        let expected = "a sk-*************** b sk-sk-proj-123 c ****************************** sk-sk";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut concealer = Concealer::new(Some(&key)).unwrap();
                let mut out = Vec::new();
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    out.extend(concealer.pass(Bytes::copy_from_slice(piece.as_bytes())));
                    assert!(!String::from_utf8_lossy(&out).contains("sk-sk-proj-1234"));
                }
                out.extend(concealer.rest());
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{first} {second}");
            }
        }
        // What has no key passes as it is, without a copy.
        let piece = Bytes::from_static(b"nothing here");
        let mut concealer = Concealer::new(Some(&key)).unwrap();
        assert_eq!(concealer.pass(piece.clone()).as_ptr(), piece.as_ptr());
        assert!(Concealer::new(None).is_none());
    }

    #[test]
    fn headers_that_hold_a_key_are_removed() {
        let key = SecretString::from("sk-proj-1234".to_owned());
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("a", "Bearer sk-proj-1234"), ("b", "sk-proj-1234"), ("c", "sk-proj-123"), ("d", "x")]
        {
            headers.append(name, HeaderValue::from_static(value));
        }
        conceal(&mut headers, None);
        assert_eq!(headers.len(), 4);
        conceal(&mut headers, Some(&key));
        let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["c", "d"]);
    }

    #[test]
    fn keys_are_taken_out_whole_and_masked() {
        let key = SecretString::from("sk-proj-abcdefghijklmnop".to_owned());
        for (text, expected) in [
            ("bad key: sk-proj-abcdefghijklmnop.", "bad key: [redacted]."),
            ("sk-proj-abcdefghijklmnop sk-proj-abcdefghijklmnop", "[redacted] [redacted]"),
            ("Incorrect: sk-proj-********mnop.", "Incorrect: [redacted]."),
            ("Incorrect: sk-pr...mnop", "Incorrect: [redacted]"),
            ("Incorrect: sk-pr…op", "Incorrect: [redacted]"),
            ("ends with ****mnop", "ends with [redacted]"),
            ("other sk-live-****wxyz", "other sk-live-****wxyz"),
            ("a sentence... goes on", "a sentence... goes on"),
            ("***", "***"),
            ("", ""),
        ] {
            let scrubbed = scrub(Bytes::copy_from_slice(text.as_bytes()), Some(&key));
            assert_eq!(String::from_utf8_lossy(&scrubbed), expected);
        }
    }
}
