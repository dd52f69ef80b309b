//! Tokens by class, as each provider counts them.

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
    /// Prompt tokens written to the provider's cache for five minutes.
    pub cache_write_5m: u64,
    /// Prompt tokens written to the provider's cache for an hour.
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
