//! What an adapter for an AI provider promises: it describes requests and judges answers; it sends nothing.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use wire::Format;

use crate::Error;

/// A kind of AI provider, such as OpenAI, with its settings.
///
/// Pure: the gateway sends, retries, limits and meters; the adapter knows paths, headers and the meaning of errors.
/// Everything here may be called for every request, so nothing blocks.
pub trait Provider: Send + Sync {
    /// The kind as written in the configuration, such as `azure_openai`.
    fn kind(&self) -> &'static str;

    /// Where the provider is when the configuration names no URL.
    fn default_url(&self) -> Option<&'static str>;

    /// Formats in which the provider generates, the one with the fewest losses first.
    fn formats(&self) -> &'static [Format];

    /// In whose words the provider embeds: `Chat` stands for OpenAI's, `Gemini` for Google's; `None`: it does not.
    fn embeds_as(&self) -> Option<Format>;

    /// Method, path and fixed headers of a call.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the provider has no such call; says what to do instead. `NotFound`: the model has no
    /// deployment.
    fn endpoint(&self, call: &Call<'_>) -> Result<Endpoint, Error>;

    /// The header that proves who asks. Its value is marked sensitive.
    ///
    /// # Errors
    ///
    /// `Invalid`: the key holds characters that no header may have; the message does not show it.
    fn authorize(&self, key: &SecretString) -> Result<(HeaderName, HeaderValue), Error>;

    /// What an error means, from the codes that the provider documents.
    ///
    /// Also for an error inside a stream that began with status 200.
    fn classify(&self, rejection: &Rejection<'_>) -> Failure;
}

/// What is asked of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// The provider's name for the model; empty where the call names none.
    pub model: &'a str,
}

/// What a provider can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Generates text, with the body in this format.
    Generate {
        /// One of [`Provider::formats`].
        format: Format,
        /// Answers event by event.
        streaming: bool,
    },
    /// Embeds; the body is in the words of [`Provider::embeds_as`].
    Embed,
    /// Embeds several texts at once where that is another path.
    EmbedBatch,
    /// Counts the tokens of a body in this format.
    CountTokens(Format),
    /// Lists the models.
    Models,
    /// Uploads and reads files.
    Files,
    /// Work that is done later for less.
    Batches,
    /// Trains a model on own data.
    FineTuning,
}

/// Where a call goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// Path and query, to be put after the provider's URL; begins with `/`.
    pub path: String,
    /// Headers that the call needs, without the key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Endpoint {
    /// A POST without further headers.
    pub fn post(path: impl Into<String>) -> Self {
        Self { method: Method::POST, path: path.into(), headers: Vec::new() }
    }
}

/// An answer that is no success, as the provider gave it; the keys that were sent are already taken out of the body.
#[derive(Debug, Clone, Copy)]
pub struct Rejection<'a> {
    /// The status; 200 for an error inside a stream.
    pub status: StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body, or the data of the error's event.
    pub body: &'a [u8],
    /// Now, to which dates in headers are compared.
    pub now: Timestamp,
}

/// Why a call failed and what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it is.
    pub class: FailureClass,
    /// The provider asks to wait this long.
    pub retry_after: Option<Duration>,
    /// Another key of the same provider may work.
    pub key_fault: bool,
    /// What the provider said, in one line.
    pub message: String,
}

impl Failure {
    /// A failure of this class without a wait, the key being blameless unless the class says otherwise.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        let key_fault = matches!(class, FailureClass::Key | FailureClass::Quota | FailureClass::Rate);
        Self { class, retry_after: None, key_fault, message: message.into() }
    }

    /// The same with the wait that the provider asks for.
    #[must_use]
    pub fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }
}

/// What kind of failure it is; the gateway chooses the next target by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Too many requests or tokens for now; the same key works again after a while.
    Rate,
    /// The key's money or contingent is used up; waiting does not help soon.
    Quota,
    /// The key is wrong, revoked or lacks a right.
    Key,
    /// The prompt is longer than the model takes; one with a larger window may take it.
    ContextLength,
    /// The provider has too much to do, whoever asks.
    Overloaded,
    /// The request is wrong and will be wrong everywhere.
    BadRequest,
    /// The model or the path does not exist here.
    NotFound,
    /// The provider's content policy refused.
    Refused,
    /// The provider failed.
    Server,
    /// No connection, or it broke.
    Network,
    /// The provider took too long.
    Timeout,
    /// The answer broke off before its end.
    Truncated,
}

impl FailureClass {
    /// The word used in reports, metrics and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Quota => "quota",
            Self::Key => "key",
            Self::ContextLength => "context_length",
            Self::Overloaded => "overloaded",
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Server => "server",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Truncated => "truncated",
        }
    }
}
