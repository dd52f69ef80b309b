//! Paths and headers.
//!
//! Source: Gemini API reference, "Generating content", "Embeddings", "Counting tokens", "Models".

use contract::ai::{Call, Endpoint, Failure, Operation, Provider, Rejection};
use contract::{Error, ErrorKind};
use http::Method;
use http::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use wire::Format;

/// Google's Gemini API.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gemini;

impl Provider for Gemini {
    fn kind(&self) -> &'static str {
        "gemini"
    }

    fn default_url(&self) -> Option<&'static str> {
        Some("https://generativelanguage.googleapis.com/v1beta")
    }

    fn default_path(&self) -> &'static str {
        "/v1beta"
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Gemini]
    }

    fn embeds_as(&self) -> Option<Format> {
        Some(Format::Gemini)
    }

    fn endpoint(&self, call: &Call<'_>) -> Result<Endpoint, Error> {
        let verb = match call.operation {
            Operation::Generate { format: Format::Gemini, streaming: false } => "generateContent",
            Operation::Generate { format: Format::Gemini, streaming: true } => {
                "streamGenerateContent?alt=sse"
            }
            Operation::Embed => "embedContent",
            Operation::EmbedBatch => "batchEmbedContents",
            Operation::CountTokens(Format::Gemini) => "countTokens",
            Operation::Models => return Ok(Endpoint { method: Method::GET, ..Endpoint::post("/models") }),
            Operation::Generate { .. }
            | Operation::CountTokens(_)
            | Operation::Files
            | Operation::Batches
            | Operation::FineTuning => {
                return Err(Error::new(ErrorKind::Unsupported, "Gemini has no such call"));
            }
        };
        let model = call.model;
        // Tuned models and others name their collection themselves.
        let collection = if model.contains('/') { "" } else { "models/" };
        Ok(Endpoint::post(format!("/{collection}{model}:{verb}")))
    }

    // Never `?key=` in the address, which lands in logs on the way.
    fn authorize(&self, key: &SecretString) -> Result<(HeaderName, HeaderValue), Error> {
        let mut value = HeaderValue::try_from(key.expose_secret()).map_err(|_| {
            Error::new(ErrorKind::Invalid, "the key holds characters that no header may have")
        })?;
        value.set_sensitive(true);
        Ok((HeaderName::from_static("x-goog-api-key"), value))
    }

    fn classify(&self, rejection: &Rejection<'_>) -> Failure {
        crate::error::classify(rejection)
    }
}
