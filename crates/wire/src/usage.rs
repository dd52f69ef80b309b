//! Tokens by class, as each provider counts them.

use crate::json::{Bad, Kind, Scanner};
use crate::{Format, json};
use serde::{Deserialize, Serialize};

/// Tokens in classes that do not overlap, except `reasoning`, which is a part of `output`.
///
/// OpenAI and Gemini count cached tokens inside the prompt, Anthropic beside it; Gemini counts thoughts beside the answer, OpenAI and
/// Anthropic inside. Here every token of the prompt is in exactly one of the five classes, and every token of the answer
/// in `output` or in `audio_output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Prompt tokens that were neither read from nor written to a cache, and are no audio.
    pub input: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: u64,
    /// Prompt tokens written to the provider's cache for the shorter time: five minutes at Anthropic, half an hour at OpenAI.
    pub cache_write_5m: u64,
    /// Prompt tokens written to the provider's cache for the longer time: an hour at Anthropic, twelve hours at OpenAI.
    pub cache_write_1h: u64,
    /// Audio in the prompt.
    pub audio_input: u64,
    /// Tokens of the answer, with reasoning, without audio.
    pub output: u64,
    /// The part of `output` that was spent on reasoning.
    pub reasoning: u64,
    /// Audio in the answer.
    pub audio_output: u64,
}

impl Usage {
    /// All tokens of the prompt.
    pub const fn prompt(&self) -> u64 {
        self.input
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write_5m)
            .saturating_add(self.cache_write_1h)
            .saturating_add(self.audio_input)
    }

    /// All tokens of the answer.
    pub const fn completion(&self) -> u64 {
        self.output.saturating_add(self.audio_output)
    }
}

/// Figures as a provider writes them; `None` for what it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    prompt: Option<u64>,
    prompt_cached: Option<u64>,
    prompt_audio: Option<u64>,
    prompt_beside: Option<u64>,
    cached_audio: Option<u64>,
    cache_written: Option<u64>,
    written_5m: Option<u64>,
    written_1h: Option<u64>,
    answer: Option<u64>,
    reasoning: Option<u64>,
    answer_audio: Option<u64>,
    total: Option<u64>,
}

impl Counted {
    /// Takes over what `later` says. Counts of a stream are cumulative, so that of two the larger is the newer:
    /// some servers repeat the fields of the start as zeros at the end.
    pub(crate) fn merge(&mut self, later: Counted) {
        let larger = |mine: &mut Option<u64>, theirs: Option<u64>| *mine = (*mine).max(theirs);
        larger(&mut self.prompt, later.prompt);
        larger(&mut self.prompt_cached, later.prompt_cached);
        larger(&mut self.prompt_audio, later.prompt_audio);
        larger(&mut self.prompt_beside, later.prompt_beside);
        larger(&mut self.cached_audio, later.cached_audio);
        larger(&mut self.cache_written, later.cache_written);
        larger(&mut self.written_5m, later.written_5m);
        larger(&mut self.written_1h, later.written_1h);
        larger(&mut self.answer, later.answer);
        larger(&mut self.reasoning, later.reasoning);
        larger(&mut self.answer_audio, later.answer_audio);
        larger(&mut self.total, later.total);
    }

    /// `None` when nothing was said of prompt or answer.
    pub(crate) fn usage(self, format: Format) -> Option<Usage> {
        if self.prompt.is_none() && self.answer.is_none() {
            return None;
        }
        let or_zero = |count: Option<u64>| count.unwrap_or(0);
        let prompt = or_zero(self.prompt).saturating_add(or_zero(self.prompt_beside));
        let cache_read = or_zero(self.prompt_cached);
        let audio_input = or_zero(self.prompt_audio).saturating_sub(or_zero(self.cached_audio));
        let one_hour = or_zero(self.written_1h);
        let five_minutes = or_zero(self.cache_written).saturating_sub(one_hour).max(or_zero(self.written_5m));
        let reasoning = or_zero(self.reasoning);
        let answer = or_zero(self.answer);
        let input = match format {
            Format::Messages => prompt,
            _ => [cache_read, five_minutes, one_hour, audio_input]
                .into_iter()
                .fold(prompt, u64::saturating_sub),
        };
        let beside = match format {
            // Gemini counts thoughts beside the answer, unless its total says otherwise.
            Format::Gemini => self.total.is_none_or(|total| total != prompt.saturating_add(answer)),
            // Some compatible servers do so too, and their total tells.
            Format::Chat => self.total == Some(prompt.saturating_add(answer).saturating_add(reasoning)),
            _ => false,
        };
        let answer = if beside { answer.saturating_add(reasoning) } else { answer };
        let audio_output = or_zero(self.answer_audio).min(answer);
        let output = answer - audio_output;
        Some(Usage {
            input,
            cache_read,
            cache_write_5m: five_minutes,
            cache_write_1h: one_hour,
            audio_input,
            output,
            reasoning: reasoning.min(output),
            audio_output,
        })
    }
}

/// Reads a usage object; anything else is passed over.
#[expect(clippy::match_same_arms, reason = "one line for each name, by format")]
pub(crate) fn read(format: Format, scanner: &mut Scanner<'_>) -> Result<Option<Counted>, Bad> {
    if scanner.kind()? != Kind::Object {
        scanner.skip()?;
        return Ok(None);
    }
    let mut counted = Counted::default();
    scanner.object(|key, scanner| {
        match (format, key.raw) {
            (Format::Chat, b"prompt_tokens") | (Format::Responses | Format::Messages, b"input_tokens") => {
                counted.prompt = scanner.count()?;
            }
            (Format::Chat, b"completion_tokens")
            | (Format::Responses | Format::Messages, b"output_tokens") => {
                counted.answer = scanner.count()?;
            }
            (Format::Chat | Format::Responses, b"total_tokens") => counted.total = scanner.count()?,
            (Format::Chat, b"prompt_tokens_details") | (Format::Responses, b"input_tokens_details") => {
                details(scanner, |key, count| match key {
                    b"cached_tokens" => counted.prompt_cached = count,
                    b"audio_tokens" => counted.prompt_audio = count,
                    b"cache_write_tokens" | b"cache_creation_tokens" => counted.cache_written = count,
                    // OpenAI keeps for half an hour or for twelve hours: the shorter and the longer of the two classes.
                    b"ttl_12h_tokens" => counted.written_1h = count,
                    _ => {}
                })?;
            }
            (Format::Chat, b"completion_tokens_details")
            | (Format::Responses | Format::Messages, b"output_tokens_details") => {
                details(scanner, |key, count| match key {
                    b"reasoning_tokens" | b"thinking_tokens" => counted.reasoning = count,
                    b"audio_tokens" => counted.answer_audio = count,
                    _ => {}
                })?;
            }
            // DeepSeek's name for what OpenAI writes in the details.
            (Format::Chat, b"prompt_cache_hit_tokens") => counted.prompt_cached = scanner.count()?,
            (Format::Messages, b"cache_read_input_tokens") => counted.prompt_cached = scanner.count()?,
            (Format::Messages, b"cache_creation_input_tokens") => counted.cache_written = scanner.count()?,
            (Format::Messages, b"cache_creation") => {
                details(scanner, |key, count| match key {
                    b"ephemeral_5m_input_tokens" => counted.written_5m = count,
                    b"ephemeral_1h_input_tokens" => counted.written_1h = count,
                    _ => {}
                })?;
            }
            (Format::Gemini, b"promptTokenCount") => counted.prompt = scanner.count()?,
            (Format::Gemini, b"toolUsePromptTokenCount") => counted.prompt_beside = scanner.count()?,
            (Format::Gemini, b"cachedContentTokenCount") => counted.prompt_cached = scanner.count()?,
            (Format::Gemini, b"candidatesTokenCount") => counted.answer = scanner.count()?,
            (Format::Gemini, b"thoughtsTokenCount") => counted.reasoning = scanner.count()?,
            (Format::Gemini, b"totalTokenCount") => counted.total = scanner.count()?,
            (Format::Gemini, b"promptTokensDetails") => counted.prompt_audio = audio(scanner)?,
            (Format::Gemini, b"cacheTokensDetails") => counted.cached_audio = audio(scanner)?,
            (Format::Gemini, b"candidatesTokensDetails") => counted.answer_audio = audio(scanner)?,
            _ => {
                scanner.skip()?;
            }
        }
        Ok(())
    })?;
    Ok(Some(counted))
}

fn details(scanner: &mut Scanner<'_>, mut each: impl FnMut(&[u8], Option<u64>)) -> Result<(), Bad> {
    if scanner.kind()? != Kind::Object {
        scanner.skip()?;
        return Ok(());
    }
    scanner.object(|key, scanner| {
        // Details may have details of their own.
        if scanner.kind()? == Kind::Object {
            return scanner.object(|key, scanner| {
                each(key.raw, scanner.count()?);
                Ok(())
            });
        }
        each(key.raw, scanner.count()?);
        Ok(())
    })
}

/// Tokens of modality `AUDIO` in Gemini's list of counts by modality.
fn audio(scanner: &mut Scanner<'_>) -> Result<Option<u64>, Bad> {
    if scanner.kind()? != Kind::Array {
        scanner.skip()?;
        return Ok(None);
    }
    let mut audio = None;
    scanner.array(|scanner| {
        let (mut is_audio, mut count) = (false, None);
        if scanner.kind()? != Kind::Object {
            scanner.skip()?;
            return Ok(());
        }
        scanner.object(|key, scanner| {
            match key.raw {
                b"modality" => is_audio = scanner.text_or_skip()?.is_some_and(|text| text.raw == b"AUDIO"),
                b"tokenCount" => count = scanner.count()?,
                _ => {
                    scanner.skip()?;
                }
            }
            Ok(())
        })?;
        if is_audio {
            audio = count;
        }
        Ok(())
    })?;
    Ok(audio)
}

/// Reads a usage object that has been parsed already.
pub(crate) fn in_value(format: Format, value: Option<&json::Value<'_>>) -> Option<Usage> {
    counted_in(format, value)?.usage(format)
}

pub(crate) fn counted_in(format: Format, value: Option<&json::Value<'_>>) -> Option<Counted> {
    let text = value?.to_json();
    read(format, &mut Scanner::new(text.as_bytes())).ok().flatten()
}

/// The usage object as the format writes it.
pub(crate) fn write(format: Format, usage: &Usage) -> json::Object<'static> {
    let object = json::Object::default;
    let total = usage.prompt().saturating_add(usage.completion());
    let written = usage.cache_write_5m.saturating_add(usage.cache_write_1h);
    match format {
        Format::Chat => {
            let mut details =
                object().with("cached_tokens", usage.cache_read).with("audio_tokens", usage.audio_input);
            if written > 0 {
                details.put("cache_write_tokens", written);
            }
            object()
                .with("prompt_tokens", usage.prompt())
                .with("completion_tokens", usage.completion())
                .with("total_tokens", total)
                .with("prompt_tokens_details", details)
                .with(
                    "completion_tokens_details",
                    object()
                        .with("reasoning_tokens", usage.reasoning)
                        .with("audio_tokens", usage.audio_output),
                )
        }
        Format::Responses => object()
            .with("input_tokens", usage.prompt())
            .with(
                "input_tokens_details",
                object().with("cached_tokens", usage.cache_read).with("cache_write_tokens", written),
            )
            .with("output_tokens", usage.completion())
            .with("output_tokens_details", object().with("reasoning_tokens", usage.reasoning))
            .with("total_tokens", total),
        Format::Messages => object()
            .with("input_tokens", usage.input.saturating_add(usage.audio_input))
            .with("cache_creation_input_tokens", written)
            .with("cache_read_input_tokens", usage.cache_read)
            .with(
                "cache_creation",
                object()
                    .with("ephemeral_5m_input_tokens", usage.cache_write_5m)
                    .with("ephemeral_1h_input_tokens", usage.cache_write_1h),
            )
            .with("output_tokens", usage.completion())
            .with("output_tokens_details", object().with("thinking_tokens", usage.reasoning)),
        Format::Gemini => {
            let mut whole = object()
                .with("promptTokenCount", usage.prompt())
                .with("candidatesTokenCount", usage.completion().saturating_sub(usage.reasoning))
                .with("totalTokenCount", total);
            if usage.cache_read > 0 {
                whole.put("cachedContentTokenCount", usage.cache_read);
            }
            if usage.reasoning > 0 {
                whole.put("thoughtsTokenCount", usage.reasoning);
            }
            whole
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(format: Format, text: &str) -> Option<Usage> {
        read(format, &mut Scanner::new(text.as_bytes())).unwrap().and_then(|counted| counted.usage(format))
    }

    #[test]
    fn the_classes_do_not_overlap() {
        for (format, text, expected) in [
            (
                Format::Chat,
                r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":60,"audio_tokens":10},"completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":5}}"#,
                Usage {
                    input: 30,
                    cache_read: 60,
                    audio_input: 10,
                    output: 45,
                    reasoning: 30,
                    audio_output: 5,
                    ..Usage::default()
                },
            ),
            (
                Format::Responses,
                r#"{"input_tokens":75,"input_tokens_details":{"cached_tokens":25,"cache_write_tokens":30,"cache_write_tokens_details":{"ttl_12h_tokens":20,"ttl_30m_tokens":10}},"output_tokens":4}"#,
                Usage {
                    input: 20,
                    cache_read: 25,
                    cache_write_5m: 10,
                    cache_write_1h: 20,
                    output: 4,
                    ..Usage::default()
                },
            ),
            // Reasoning beside the answer: the total tells.
            (
                Format::Chat,
                r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,"completion_tokens_details":{"reasoning_tokens":7}}"#,
                Usage { input: 10, output: 12, reasoning: 7, ..Usage::default() },
            ),
            (
                Format::Responses,
                r#"{"input_tokens":75,"input_tokens_details":{"cached_tokens":25},"output_tokens":40,"output_tokens_details":{"reasoning_tokens":16},"total_tokens":115}"#,
                Usage { input: 50, cache_read: 25, output: 40, reasoning: 16, ..Usage::default() },
            ),
            (
                Format::Messages,
                r#"{"input_tokens":20,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":9}"#,
                Usage {
                    input: 20,
                    cache_read: 4000,
                    cache_write_5m: 100,
                    cache_write_1h: 200,
                    output: 9,
                    ..Usage::default()
                },
            ),
            (
                Format::Messages,
                r#"{"input_tokens":20,"cache_creation_input_tokens":300,"output_tokens":9}"#,
                Usage { input: 20, cache_write_5m: 300, output: 9, ..Usage::default() },
            ),
            (
                Format::Gemini,
                r#"{"promptTokenCount":100,"cachedContentTokenCount":40,"candidatesTokenCount":10,"thoughtsTokenCount":25,"toolUsePromptTokenCount":5,"totalTokenCount":140,"promptTokensDetails":[{"modality":"TEXT","tokenCount":70},{"modality":"AUDIO","tokenCount":30}],"cacheTokensDetails":[{"modality":"AUDIO","tokenCount":10}]}"#,
                Usage {
                    input: 45,
                    cache_read: 40,
                    audio_input: 20,
                    output: 35,
                    reasoning: 25,
                    ..Usage::default()
                },
            ),
            (
                Format::Gemini,
                r#"{"promptTokenCount":100,"candidatesTokenCount":35,"thoughtsTokenCount":25,"totalTokenCount":135}"#,
                Usage { input: 100, output: 35, reasoning: 25, ..Usage::default() },
            ),
        ] {
            assert_eq!(usage(format, text), Some(expected), "{format} {text}");
        }
        for text in ["null", "{}", "7", r#"{"prompt_tokens":null,"completion_tokens":"x"}"#] {
            assert_eq!(usage(Format::Chat, text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let whole = Usage { input: 50, cache_read: 25, output: 40, reasoning: 16, ..Usage::default() };
        for format in Format::ALL {
            let text = String::from_utf8(write(format, &whole).into_bytes()).unwrap();
            assert_eq!(usage(format, &text), Some(whole), "{text}");
        }
    }

    #[test]
    fn counts_of_a_stream_are_not_added_up() {
        let read = |text: &str| read(Format::Messages, &mut Scanner::new(text.as_bytes())).unwrap().unwrap();
        let mut counted = read(r#"{"input_tokens":25,"cache_read_input_tokens":7,"output_tokens":1}"#);
        counted.merge(read(r#"{"input_tokens":0,"output_tokens":15}"#));
        let expected = Usage { input: 25, cache_read: 7, output: 15, ..Usage::default() };
        assert_eq!(counted.usage(Format::Messages), Some(expected));
        let mut counted = read(r#"{"input_tokens":0,"output_tokens":0}"#);
        counted.merge(read(r#"{"input_tokens":25,"cache_read_input_tokens":7,"output_tokens":15}"#));
        assert_eq!(counted.usage(Format::Messages), Some(expected));
    }
}
