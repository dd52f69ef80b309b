//! Replaces known secrets in anything that is about to be printed, logged or sent.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::Zeroizing;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Secrets shorter than this many bytes are not replaced: they occur in words and numbers everywhere, and a text with
/// all of them replaced would both be useless and show which they are. Storing one gives a finding.
pub const REDACTED_LENGTH_MIN: usize = 6;

/// Knows the values of secrets and replaces them by `[redacted]`. Clones share what they know.
///
/// A value is found as it is, and as it looks in JSON, in a URL, in SQL quotes and in base64; of a value of several
/// lines, such as a private key, also each line. What was redacted is not redacted again: a secret that is part of
/// the word `[redacted]` shows through it.
#[derive(Clone, Default)]
pub struct Redactor(Arc<RwLock<Needles>>);

/// Texts to look for, by their first byte, so that most positions of a text cost one look.
struct Needles {
    by_first_byte: [Vec<Zeroizing<Vec<u8>>>; 256],
    count: usize,
}

impl Default for Needles {
    fn default() -> Self {
        Self { by_first_byte: [const { Vec::new() }; 256], count: 0 }
    }
}

impl Redactor {
    /// Adds a value to look for. One shorter than [`REDACTED_LENGTH_MIN`] is not added.
    pub fn add(&self, secret: &SecretString) {
        let value = secret.expose_secret();
        if value.len() < REDACTED_LENGTH_MIN {
            return;
        }
        let mut needles = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for form in forms(value) {
            needles.add(form);
        }
    }

    /// The text with every known secret replaced; the same text when there is none.
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let found = {
            let needles = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if needles.count == 0 { Vec::new() } else { needles.find(text.as_bytes()) }
        };
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut redacted = String::with_capacity(text.len());
        let mut end = 0;
        for range in found {
            // A secret is whole text, so its ends are borders of characters.
            redacted.push_str(&text[end..range.start]);
            redacted.push_str(REDACTED);
            end = range.end;
        }
        redacted.push_str(&text[end..]);
        Cow::Owned(redacted)
    }

    /// Whether this JSON text holds no known secret in any of its texts, keys and numbers, so that
    /// [`Redactor::redact_json`] would leave its value as it is.
    pub fn is_clean_json(&self, json: &str) -> bool {
        let needles = self.0.read().unwrap_or_else(PoisonError::into_inner);
        needles.count == 0 || needles.find(json.as_bytes()).is_empty()
    }

    /// Replaces known secrets in all texts of a JSON value, keys included. A number that contains one becomes text.
    pub fn redact_json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(redacted) = self.redact(text) {
                    *text = redacted;
                }
            }
            Value::Number(number) => {
                if let Cow::Owned(redacted) = self.redact(&number.to_string()) {
                    *value = Value::String(redacted);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact_json(item)),
            Value::Object(map) => {
                for value in map.values_mut() {
                    self.redact_json(value);
                }
                if map.keys().any(|key| matches!(self.redact(key), Cow::Owned(_))) {
                    *map = std::mem::take(map)
                        .into_iter()
                        .map(|(key, value)| (self.redact(&key).into_owned(), value))
                        .collect();
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

impl Needles {
    fn add(&mut self, needle: Zeroizing<Vec<u8>>) {
        let Some(&first) = needle.first() else { return };
        let bucket = &mut self.by_first_byte[usize::from(first)];
        if needle.len() >= REDACTED_LENGTH_MIN && !bucket.contains(&needle) {
            bucket.push(needle);
            self.count += 1;
        }
    }

    /// Every stretch covered by secrets, in order, apart from each other. Secrets that overlap make one stretch, so
    /// that no half of one is left.
    fn find(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        for (start, &first) in text.iter().enumerate() {
            let longest = self.by_first_byte[usize::from(first)]
                .iter()
                .filter(|needle| text[start..].starts_with(needle))
                .map(|needle| needle.len())
                .max();
            let Some(length) = longest else { continue };
            let end = start + length;
            match found.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => found.push(start..end),
            }
        }
        found
    }
}

/// The ways in which a value is written in the places where it could turn up, each also as JSON writes it.
fn forms(value: &str) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = Vec::new();
    let mut add = |form: String| {
        let mut json = Value::from(form.as_str()).to_string();
        json.pop();
        forms.push(Zeroizing::new(json.split_off(1).into_bytes()));
        forms.push(Zeroizing::new(form.into_bytes()));
    };
    add(value.to_owned());
    add(STANDARD_NO_PAD.encode(value));
    add(value.replace('\'', "''"));
    add(percent_encoded(value, |_| false));
    // As the `url` crate leaves them in a user's name, password or query.
    add(percent_encoded(value, |character| "!$&'()*+,~".contains(character)));
    let mut lines = value.lines().map(str::trim).filter(|line| !line.is_empty());
    if lines.clone().nth(1).is_some() {
        // The frame of a PEM file is no secret.
        lines.by_ref().filter(|line| !line.starts_with("-----")).for_each(|line| add(line.to_owned()));
    }
    forms
}

fn percent_encoded(value: &str, kept: impl Fn(char) -> bool) -> String {
    let mut encoded = String::with_capacity(value.len() * 3);
    for character in value.chars() {
        if character.is_ascii_alphanumeric() || "-._~".contains(character) || kept(character) {
            encoded.push(character);
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                write!(encoded, "%{byte:02X}").expect("writing to a string does not fail");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        let redactor = Redactor::default();
        for secret in secrets {
            redactor.add(&SecretString::from(*secret));
        }
        redactor
    }

    #[test]
    fn secrets_are_replaced() {
        for (secrets, text, redacted) in [
            (&["hunter2"][..], "password hunter2 is wrong", "password [redacted] is wrong"),
            (&["hunter2"], "hunter2hunter2", "[redacted]"),
            (&["hunter2"], "hunter", "hunter"),
            (&["hunter2"], "", ""),
            (&["abcdef", "defghi"], "xabcdefghix", "x[redacted]x"),
            (&["abcdef", "abcdefgh"], "abcdefgh abcdef", "[redacted] [redacted]"),
            (&["aaaaaa"], "aaaaaaaaab", "[redacted]b"),
            (&["12345"], "12345", "12345"),
            (&["pass\"w\\rd"], r#"{"p":"pass\"w\\rd"}"#, r#"{"p":"[redacted]"}"#),
            (&["it's a key"], "PASSWORD 'it''s a key'", "PASSWORD '[redacted]'"),
            (&["p@ss word/1"], "postgres://u:p%40ss%20word%2F1@host/db", "postgres://u:[redacted]@host/db"),
            (&["p@ss!word"], "https://u:p%40ss!word@host/", "https://u:[redacted]@host/"),
            (&["hunter2hunter2"], "Basic aHVudGVyMmh1bnRlcjI=", "Basic [redacted]="),
            (&["grüße-тест"], "«grüße-тест»", "«[redacted]»"),
            (
                &["-----BEGIN PRIVATE KEY-----\nMIIBVAIBADANBg\nkqhkiG9w0BAQEF\n-----END PRIVATE KEY-----\n"],
                "  MIIBVAIBADANBg\n  kqhkiG9w0BAQEF\n-----END PRIVATE KEY-----",
                "  [redacted]\n  [redacted]\n-----END PRIVATE KEY-----",
            ),
        ] {
            assert_eq!(redactor(secrets).redact(text), redacted, "{secrets:?} in {text}");
        }
    }

    #[test]
    fn json_is_redacted_in_texts_keys_and_numbers() {
        let mut value =
            json!({"a": ["hunter2", 123_456_789, true, null], "x-hunter2": {"b": "say hunter2!"}});
        redactor(&["hunter2", "345678"]).redact_json(&mut value);
        assert_eq!(
            value,
            json!({"a": ["[redacted]", "12[redacted]9", true, null], "x-[redacted]": {"b": "say [redacted]!"}})
        );
    }

    #[test]
    fn clones_share_what_they_know() {
        let first = Redactor::default();
        let second = first.clone();
        first.add(&SecretString::from("hunter2"));
        assert_eq!(second.redact("hunter2"), REDACTED);
    }

    #[test]
    fn a_megabyte_with_fifty_secrets_takes_well_under_a_second() {
        let secrets: Vec<String> = (0..50).map(|i| contract::sha256_hex(&[i])).collect();
        let redactor = redactor(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
        let text = contract::sha256_hex(b"not known").repeat(16_384);
        assert_eq!(redactor.redact(&text), text);
        // Milliseconds in a release build; the bound only notices quadratic work.
    }

    proptest! {
        #[test]
        fn no_secret_is_left_and_all_else_stays(
            // Without the letters of the marker, so that what is left can be told from it.
            secrets in proptest::collection::vec("[0-9XYZ@'\"é]{6,12}", 1..6),
            parts in proptest::collection::vec((any::<prop::sample::Index>(), "[0-9XYZ@ é]{0,8}"), 0..8),
        ) {
            let known: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let text: String =
                parts.iter().flat_map(|(which, other)| [other, which.get(&secrets)]).map(String::as_str).collect();
            let redacted = redactor(&known).redact(&text).into_owned();
            for secret in &secrets {
                prop_assert!(!redacted.contains(secret.as_str()), "{} in {}", secret, redacted);
            }
            // What is left is the text with stretches taken out, in order.
            let mut rest = text.as_str();
            for piece in redacted.split(REDACTED) {
                let at = rest.find(piece);
                prop_assert!(at.is_some(), "{} not in {}", piece, rest);
                rest = &rest[at.unwrap_or_default() + piece.len()..];
            }
        }

        #[test]
        fn text_without_secrets_is_untouched(text in "[a-f ]{0,60}") {
            let redactor = redactor(&["hunter2", "correct horse"]);
            prop_assert!(matches!(redactor.redact(&text), Cow::Borrowed(same) if same == text));
        }

        #[test]
        fn json_without_secrets_is_told_from_json_with(
            secret in "\\PC{6,12}", before in "\\PC{0,6}", quoted in any::<bool>(), known in any::<bool>(),
        ) {
            let redactor = redactor(&[&secret]);
            let inside = if quoted { secret.replace('\'', "''") } else { secret };
            let text = if known { format!("{before}{inside}") } else { before };
            for value in [json!({ "value": text }), json!({ text.as_str(): 1 })] {
                let mut redacted = value.clone();
                redactor.redact_json(&mut redacted);
                if redactor.is_clean_json(&value.to_string()) {
                    prop_assert_eq!(redacted, value);
                } else {
                    prop_assert!(known || redacted == value);
                }
            }
        }

        #[test]
        fn values_are_found_as_json_writes_them(secret in "\\PC{6,20}") {
            let written = json!({ "value": secret }).to_string();
            let redacted = redactor(&[&secret]).redact(&written).into_owned();
            prop_assert!(redacted.contains(REDACTED), "{}", redacted);
        }
    }
}
