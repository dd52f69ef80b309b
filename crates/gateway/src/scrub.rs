//! Takes provider keys out of what providers say.

use bytes::Bytes;
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
    if key.len() < 4 {
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
    use super::*;

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
