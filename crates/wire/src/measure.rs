//! How many tokens a request may cost: an estimate, and a bound that holds.

use crate::Format;
use crate::json::{Bad, DEPTH_MAX, Kind, Scanner};

/// Bytes of text to a token, on average over languages and code.
const BYTES_PER_TOKEN: u64 = 4;
/// What an image is taken for in an estimate.
const IMAGE_TOKENS_ESTIMATE: u64 = 1_000;
/// More than any model counts for one image: gpt-4o-mini counts 2,833 and 5,667 for each of at most eight tiles.
const IMAGE_TOKENS_MAX: u64 = 50_000;
/// A file, a stored conversation or a cached prompt, of which only the name is sent: the longest context that is offered.
const REFERENCE_TOKENS_MAX: u64 = 2_000_000;
/// What providers add that nobody sent: the frame of each message, and Anthropic's instructions for tools (at most 530 tokens).
const HIDDEN_TOKENS_MAX: u64 = 1_000;

/// How many tokens a prompt may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputTokens {
    /// What it is likely to cost: a quarter of the bytes of its texts, and a fixed amount for each image.
    pub estimate: u64,
    /// What it cannot exceed: no tokenizer makes more tokens than bytes. Images count as the dearest known; whatever is only named
    /// (files, stored conversations, cached prompts, pages that a provider's own tool would fetch) counts as two million tokens,
    /// which the caller may lower to the model's context.
    pub bound: u64,
    /// Whether files, responses or conversations that the provider keeps are named: [`crate::names`] says which.
    pub has_names: bool,
}

/// Both figures in one pass. A body that is no JSON is taken as text.
pub fn input_tokens(format: Format, body: &[u8]) -> InputTokens {
    let bytes = body.len() as u64;
    let Ok(weight) = weigh(format, body) else {
        return InputTokens {
            estimate: bytes / BYTES_PER_TOKEN,
            bound: bytes.saturating_add(REFERENCE_TOKENS_MAX),
            has_names: true,
        };
    };
    InputTokens {
        estimate: (weight.text_bytes.div_ceil(BYTES_PER_TOKEN))
            .saturating_add(weight.messages.saturating_mul(4))
            .saturating_add(weight.images.saturating_mul(IMAGE_TOKENS_ESTIMATE)),
        bound: bytes
            .saturating_add(HIDDEN_TOKENS_MAX)
            .saturating_add(weight.messages.saturating_mul(8))
            .saturating_add(weight.images.saturating_mul(IMAGE_TOKENS_MAX))
            .saturating_add(weight.references.saturating_mul(REFERENCE_TOKENS_MAX)),
        has_names: weight.has_names,
    }
}

/// [`InputTokens::estimate`] alone.
pub fn estimate_input_tokens(format: Format, body: &[u8]) -> u64 {
    input_tokens(format, body).estimate
}

/// [`InputTokens::bound`] alone.
pub fn input_tokens_bound(format: Format, body: &[u8]) -> u64 {
    input_tokens(format, body).bound
}

#[derive(Default)]
struct Weight {
    text_bytes: u64,
    messages: u64,
    images: u64,
    references: u64,
    has_names: bool,
}

fn weigh(format: Format, body: &[u8]) -> Result<Weight, Bad> {
    let mut weight = Weight::default();
    let mut scanner = Scanner::new(body);
    weight.value(format, &mut scanner, 0)?;
    scanner.end()?;
    Ok(weight)
}

impl Weight {
    fn value(&mut self, format: Format, scanner: &mut Scanner<'_>, depth: usize) -> Result<(), Bad> {
        match scanner.kind()? {
            Kind::String => self.text_bytes += scanner.text()?.decoded_len(),
            Kind::Array if depth < DEPTH_MAX => {
                scanner.array(|scanner| self.value(format, scanner, depth + 1))?;
            }
            Kind::Object if depth < DEPTH_MAX => {
                scanner.object(|key, scanner| {
                    // Names of properties are read by the model too.
                    self.text_bytes += if depth > 2 { key.raw.len() as u64 } else { 0 };
                    // What is written with escapes means the same.
                    let decoded;
                    let name: &[u8] = if key.escaped {
                        decoded = key.decode();
                        decoded.as_bytes()
                    } else {
                        key.raw
                    };
                    self.member(format, name, scanner, depth)
                })?;
            }
            _ => scanner.skip()?,
        }
        Ok(())
    }

    fn member(
        &mut self,
        format: Format,
        key: &[u8],
        scanner: &mut Scanner<'_>,
        depth: usize,
    ) -> Result<(), Bad> {
        let kind = scanner.kind()?;
        match key {
            b"role" => {
                self.messages += 1;
                scanner.skip()?;
            }
            b"model" if depth == 0 => scanner.skip()?,
            b"previous_response_id"
            | b"conversation"
            | b"prompt"
            | b"cachedContent"
            | b"cached_content"
            | b"container"
            | b"mcp_servers"
                if depth == 0 =>
            {
                self.references += u64::from(kind != Kind::Null);
                self.has_names |=
                    kind != Kind::Null && matches!(key, b"previous_response_id" | b"conversation");
                scanner.skip()?;
            }
            // Chat and responses: `image_url`; Anthropic: `source`; Gemini: `inlineData` and `fileData`.
            b"image_url" => {
                self.images += 1;
                scanner.skip()?;
            }
            b"input_audio" | b"inlineData" | b"inline_data" | b"source" | b"file_data"
                if kind != Kind::Null =>
            {
                self.inline(scanner)?;
            }
            b"file_id" | b"file_ids" | b"file_url" | b"fileData" | b"file_data_uri" | b"file_uri"
                if kind != Kind::Null =>
            {
                self.references += 1;
                self.has_names |= matches!(key, b"file_id" | b"file_ids");
                scanner.skip()?;
            }
            b"type" => {
                // A tool that the provider runs brings pages and files into the prompt.
                let sort = scanner.text_or_skip()?;
                let hosted = sort.map(crate::json::Text::decode).is_some_and(|sort| {
                    [
                        b"web_search".as_slice(),
                        b"web_fetch",
                        b"file_search",
                        b"code_interpreter",
                        b"code_execution",
                        b"computer",
                        b"mcp",
                        b"item_reference",
                    ]
                    .iter()
                    .any(|name| sort.as_bytes().starts_with(name))
                });
                self.references += u64::from(hosted);
            }
            b"googleSearch" | b"google_search" | b"urlContext" | b"url_context" | b"codeExecution"
            | b"code_execution" => {
                self.references += 1;
                scanner.skip()?;
            }
            _ => self.value(format, scanner, depth + 1)?,
        }
        Ok(())
    }

    /// Data in base64, or a place where it lies.
    fn inline(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        if scanner.kind()? != Kind::Object {
            self.images += 1;
            return scanner.skip();
        }
        let (mut is_image, mut is_pdf, mut is_url, mut is_file, mut is_text) =
            (false, false, false, false, false);
        scanner.object(|key, scanner| {
            if matches!(key.raw, b"media_type" | b"mimeType" | b"mime_type" | b"type") {
                if let Some(text) = scanner.text_or_skip()? {
                    is_image |= text.raw.starts_with(b"image") || text.raw == b"base64";
                    is_pdf |= text.raw.ends_with(b"pdf");
                    is_url |= text.raw == b"url";
                    is_file |= text.raw == b"file";
                    is_text |= text.raw == b"text" || text.raw == b"content";
                }
                return Ok(());
            }
            if matches!(key.raw, b"data" | b"content") && is_text {
                return self.value(Format::Messages, scanner, 4);
            }
            scanner.skip()
        })?;
        // A PDF is read as an image of each page, and how many there are its bytes do not bound well.
        self.references += u64::from(is_pdf || is_file);
        self.has_names |= is_file;
        self.images += u64::from(is_image || is_url);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_images_and_references_are_weighed() {
        let image = "A".repeat(10_000);
        for (format, body, estimate, bound_beyond_bytes) in [
            (
                Format::Chat,
                r#"{"model":"m","messages":[{"role":"user","content":"12345678"}]}"#.to_owned(),
                6,
                1_008,
            ),
            (
                Format::Chat,
                format!(
                    r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#
                ),
                1_008,
                51_008,
            ),
            (
                Format::Messages,
                format!(
                    r#"{{"messages":[{{"role":"user","content":[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{image}"}}}}]}}]}}"#
                ),
                1_007,
                51_008,
            ),
            (
                Format::Responses,
                r#"{"input":"1234","previous_response_id":"resp_1"}"#.to_owned(),
                1,
                2_001_000,
            ),
            // However it is written.
            (
                Format::Responses,
                r#"{"input":"1234","previous_response_\u0069d":"resp_1","tools":[{"type":"web\u005fsearch"}]}"#.to_owned(),
                1,
                4_001_000,
            ),
        ] {
            assert_eq!(estimate_input_tokens(format, body.as_bytes()), estimate, "{format}");
            assert_eq!(
                input_tokens_bound(format, body.as_bytes()) - body.len() as u64,
                bound_beyond_bytes,
                "{format}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_estimate_is_never_above_the_bound(text in any::<String>(), other in "[{}\\[\\]\":,a-z0-9\\\\ ]{0,64}") {
            let body = serde_json::json!({"messages": [{"role": "user", "content": text}]}).to_string();
            for format in Format::ALL {
                prop_assert!(estimate_input_tokens(format, body.as_bytes()) <= input_tokens_bound(format, body.as_bytes()));
                prop_assert!(estimate_input_tokens(format, other.as_bytes()) <= input_tokens_bound(format, other.as_bytes()));
            }
        }
    }
}
