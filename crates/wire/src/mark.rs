//! Signatures of reasoning, and how one provider's travel through another's format.
//!
//! Anthropic signs thinking blocks, OpenAI encrypts reasoning items, Gemini signs parts; each wants its own back unchanged and refuses
//! another's. In its own format a signature is written raw. In any other it travels as base64 of `steward:v1:<family>:<payload>` in
//! that format's place for signatures, so that it is known again when the client sends it back.

use crate::Format;
use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::borrow::Cow;

const PREFIX: &str = "steward:v1:";
/// How the prefix begins in base64, whatever follows.
const PREFIX_IN_BASE64: &str = "c3Rld2FyZDp2MTp";

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// Base64 as most write it.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
/// Base64 as Google's clients write bytes.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// A signature, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark<'a> {
    pub(crate) family: Format,
    /// Whether it is all there is: Anthropic's redacted thinking.
    pub(crate) redacted: bool,
    pub(crate) payload: Cow<'a, str>,
}

impl<'a> Mark<'a> {
    pub(crate) fn new(family: Format, payload: impl Into<Cow<'a, str>>) -> Self {
        Self { family, redacted: false, payload: payload.into() }
    }

    /// Reads what stands in `format`'s place for signatures.
    pub(crate) fn read(format: Format, text: Cow<'a, str>) -> Self {
        Self::carried(&text).unwrap_or(Self { family: format, redacted: false, payload: text })
    }

    fn carried(text: &str) -> Option<Mark<'a>> {
        if !text.starts_with(PREFIX_IN_BASE64) {
            return None;
        }
        let bytes = BASE64.decode(text).or_else(|_| BASE64_URL.decode(text)).ok()?;
        let plain = String::from_utf8(bytes).ok()?;
        let (family, payload) = plain.strip_prefix(PREFIX)?.split_once(':')?;
        let (family, redacted) = match family.strip_suffix("-redacted") {
            Some(family) => (family, true),
            None => (family, false),
        };
        let family = Format::ALL.into_iter().find(|format| format.name() == family)?;
        Some(Mark { family, redacted, payload: Cow::Owned(payload.to_owned()) })
    }

    /// As it stands in `format`: raw at home, wrapped elsewhere.
    pub(crate) fn written_in(&self, format: Format) -> String {
        if self.family == format {
            return self.payload.clone().into_owned();
        }
        let redacted = if self.redacted { "-redacted" } else { "" };
        BASE64.encode(format!("{PREFIX}{}{redacted}:{}", self.family, self.payload))
    }

    pub(crate) fn into_owned(self) -> Mark<'static> {
        Mark { family: self.family, redacted: self.redacted, payload: Cow::Owned(self.payload.into_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_comes_back_as_it_was() {
        for family in Format::ALL {
            for (payload, redacted) in [("", false), ("Er+/8=", false), ("rs_1\ngAAA:é", false), ("x", true)]
            {
                let mark = Mark { family, redacted, payload: payload.into() };
                for format in Format::ALL.into_iter().filter(|format| *format != family) {
                    let written = mark.written_in(format);
                    assert!(written.starts_with(PREFIX_IN_BASE64));
                    assert_eq!(Mark::read(format, written.clone().into()), mark);
                    // Google's clients decode bytes and encode them again in their own alphabet.
                    let again = BASE64_URL.encode(BASE64.decode(&written).unwrap());
                    assert_eq!(Mark::read(format, again.into()), mark);
                }
                assert_eq!(mark.written_in(family), payload);
            }
        }
        assert_eq!(Mark::read(Format::Messages, "abc".into()), Mark::new(Format::Messages, "abc"));
        assert_eq!(Mark::read(Format::Chat, "c3Rld2FyZDp2MTp4".into()).family, Format::Chat);
    }
}
