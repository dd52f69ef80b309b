//! Paths and headers.
//!
//! Source: Anthropic API reference, "Messages", "Count message tokens", "Versions".

use contract::ai::{Call, Endpoint, Failure, Operation, Provider, Rejection};
use contract::{Error, ErrorKind};
use http::Method;
use http::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use wire::Format;

/// The version of the API whose shapes `wire` knows.
const VERSION: &str = "2023-06-01";

/// Anthropic's API.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anthropic;

impl Provider for Anthropic {
    fn kind(&self) -> &'static str {
        "anthropic"
    }

    fn default_url(&self) -> Option<&'static str> {
        Some("https://api.anthropic.com/v1")
    }

    fn default_path(&self) -> &'static str {
        "/v1"
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Messages]
    }

    fn embeds_as(&self) -> Option<Format> {
        None
    }

    fn endpoint(&self, call: &Call<'_>) -> Result<Endpoint, Error> {
        let mut endpoint = match call.operation {
            Operation::Generate { format: Format::Messages, .. } => Endpoint::post("/messages"),
            Operation::CountTokens(Format::Messages) => Endpoint::post("/messages/count_tokens"),
            Operation::Models => Endpoint { method: Method::GET, ..Endpoint::post("/models") },
            Operation::Batches => Endpoint::post("/messages/batches"),
            Operation::Embed | Operation::EmbedBatch => {
                return Err(Error::new(ErrorKind::Unsupported, "Anthropic has no embeddings")
                    .hint("send embeddings to a route with an OpenAI or Gemini model"));
            }
            Operation::Generate { .. }
            | Operation::CountTokens(_)
            | Operation::Files
            | Operation::FineTuning => {
                return Err(Error::new(ErrorKind::Unsupported, "Anthropic has no such call"));
            }
        };
        endpoint
            .headers
            .push((HeaderName::from_static("anthropic-version"), HeaderValue::from_static(VERSION)));
        Ok(endpoint)
    }

    fn authorize(&self, key: &SecretString) -> Result<(HeaderName, HeaderValue), Error> {
        let mut value = HeaderValue::try_from(key.expose_secret()).map_err(|_| {
            Error::new(ErrorKind::Invalid, "the key holds characters that no header may have")
        })?;
        value.set_sensitive(true);
        Ok((HeaderName::from_static("x-api-key"), value))
    }

    fn classify(&self, rejection: &Rejection<'_>) -> Failure {
        crate::error::classify(rejection)
    }
}
