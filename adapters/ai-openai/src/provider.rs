//! Paths and headers.
//!
//! Source: OpenAI API reference, sections Chat Completions, Responses, Embeddings, Models, Files, Batch, Fine-tuning.

use contract::ai::{Call, Endpoint, Failure, Operation, Provider, Rejection};
use contract::{Error, ErrorKind};
use http::Method;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use wire::Format;

/// OpenAI's API.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenAi;

impl Provider for OpenAi {
    fn kind(&self) -> &'static str {
        "openai"
    }

    fn default_url(&self) -> Option<&'static str> {
        Some("https://api.openai.com/v1")
    }

    fn default_path(&self) -> &'static str {
        "/v1"
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Chat, Format::Responses]
    }

    fn embeds_as(&self) -> Option<Format> {
        Some(Format::Chat)
    }

    fn endpoint(&self, call: &Call<'_>) -> Result<Endpoint, Error> {
        Ok(match call.operation {
            Operation::Generate { format: Format::Chat, .. } => Endpoint::post("/chat/completions"),
            Operation::Generate { format: Format::Responses, .. } => Endpoint::post("/responses"),
            Operation::Embed => Endpoint::post("/embeddings"),
            Operation::Models => Endpoint { method: Method::GET, ..Endpoint::post("/models") },
            Operation::Files => Endpoint::post("/files"),
            Operation::Batches => Endpoint::post("/batches"),
            Operation::FineTuning => Endpoint::post("/fine_tuning/jobs"),
            Operation::Generate { .. } | Operation::EmbedBatch | Operation::CountTokens(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "OpenAI has no such call"));
            }
        })
    }

    fn authorize(&self, key: &SecretString) -> Result<(HeaderName, HeaderValue), Error> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret())).map_err(|_| {
            Error::new(ErrorKind::Invalid, "the key holds characters that no header may have")
        })?;
        value.set_sensitive(true);
        Ok((AUTHORIZATION, value))
    }

    fn classify(&self, rejection: &Rejection<'_>) -> Failure {
        crate::classify(rejection)
    }
}
