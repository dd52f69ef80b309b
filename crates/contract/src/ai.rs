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

    /// The path that belongs after a URL without one, such as `/v1`; empty if none does.
    fn default_path(&self) -> &'static str;

    /// What the body calls the model, where that is not the model's own name.
    fn name_sent<'a>(&'a self, model: &'a str) -> &'a str {
        model
    }

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

/// As much of what a provider says is kept.
const MESSAGE_BYTES_MAX: usize = 300;

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
    /// A failure of this class without a wait, the key being blameless unless the class says otherwise. The message
    /// becomes one line of bounded length.
    pub fn new(class: FailureClass, message: &str) -> Self {
        let key_fault = matches!(class, FailureClass::Key | FailureClass::Quota | FailureClass::Rate);
        let mut line = String::new();
        for word in message.split_whitespace() {
            if line.len() + word.len() > MESSAGE_BYTES_MAX {
                line.push('…');
                break;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        Self { class, retry_after: None, key_fault, message: line }
    }

    /// What an error says in the words that `format` has for errors; the status decides where it says nothing.
    pub fn read(format: Format, rejection: &Rejection<'_>) -> Self {
        let status = (!rejection.status.is_success()).then_some(rejection.status.as_u16());
        match wire::read_error(format, rejection.body, status) {
            Some(error) => Self::new(error.class.into(), &error.message),
            None => Self::new(status.map_or(FailureClass::Server, FailureClass::of_status), ""),
        }
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

impl From<wire::ErrorClass> for FailureClass {
    fn from(class: wire::ErrorClass) -> Self {
        use wire::ErrorClass as Class;
        match class {
            Class::BadRequest | Class::TooLarge => Self::BadRequest,
            Class::Unauthorized | Class::Forbidden => Self::Key,
            Class::NotFound => Self::NotFound,
            Class::Rate => Self::Rate,
            Class::Quota => Self::Quota,
            Class::ContextLength => Self::ContextLength,
            Class::Overloaded | Class::Unavailable => Self::Overloaded,
            Class::Refused => Self::Refused,
            Class::Server => Self::Server,
            Class::Timeout => Self::Timeout,
            Class::Truncated => Self::Truncated,
        }
    }
}

impl FailureClass {
    /// What a status says by itself.
    ///
    /// Source: RFC 9110, section 15; RFC 6585, section 4; 529 is Anthropic's and Cloudflare's.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 | 403 | 407 => Self::Key,
            402 => Self::Quota,
            404 | 410 => Self::NotFound,
            408 | 504 | 524 => Self::Timeout,
            429 => Self::Rate,
            503 | 529 => Self::Overloaded,
            // A conflict or a redirect says nothing about the request itself.
            300..=399 | 409 | 425 | 500.. => Self::Server,
            _ => Self::BadRequest,
        }
    }

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
