//! Errors: our own about bodies, and those of the protocols in the words of each.
//!
//! Sources: OpenAI API reference "Error codes" and "Streaming events: error"; Anthropic API reference "Errors";
//! Google AIP-193 and the Gemini API guide "Troubleshooting".

use crate::json::{self, Object, Value};
use crate::{Format, sse};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The request cannot be understood, or cannot be said in the other format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRequest {
    /// What is wrong, in words for the caller.
    pub message: String,
    /// The field, as a path such as `messages[2].content`.
    pub field: Option<String>,
}

impl BadRequest {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), field: None }
    }

    pub(crate) fn field(field: impl Into<String>, message: impl fmt::Display) -> Self {
        let field = field.into();
        Self { message: format!("`{field}` {message}"), field: Some(field) }
    }
}

impl From<json::Bad> for BadRequest {
    fn from(bad: json::Bad) -> Self {
        Self::new(format!("the body is not valid JSON: {bad}"))
    }
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BadRequest {}

/// The provider's answer is not what its format promises, or it is an error after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadReply {
    /// What is wrong.
    pub message: String,
    /// The provider's error, when the body holds one.
    pub error: Option<ProviderError>,
}

impl BadReply {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), error: None }
    }
}

impl From<json::Bad> for BadReply {
    fn from(bad: json::Bad) -> Self {
        Self::new(format!("the provider's reply is not valid JSON: {bad}"))
    }
}

impl From<ProviderError> for BadReply {
    fn from(error: ProviderError) -> Self {
        Self {
            message: format!("the provider answered with an error: {}", error.message),
            error: Some(error),
        }
    }
}

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BadReply {}

/// What kind of failure an error speaks of; each protocol has its own words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The request is wrong.
    BadRequest,
    /// The key is missing or unknown.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// The model or the path does not exist.
    NotFound,
    /// The body is too large.
    TooLarge,
    /// Too many requests or tokens for now.
    Rate,
    /// The money or the quota is used up.
    Quota,
    /// The prompt is longer than the model's context.
    ContextLength,
    /// The provider has too much to do.
    Overloaded,
    /// Refused because of what the prompt or the answer holds.
    Refused,
    /// The server failed.
    Server,
    /// Nothing could be reached that could answer.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The stream stopped before its end.
    Truncated,
}

impl ErrorClass {
    /// The status that goes with it when nothing better is known.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::ContextLength | Self::Refused => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::TooLarge => 413,
            Self::Rate | Self::Quota => 429,
            Self::Overloaded | Self::Unavailable => 503,
            Self::Server => 500,
            Self::Truncated => 502,
            Self::Timeout => 504,
        }
    }

    /// `type` and `code` of OpenAI's errors.
    const fn openai(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::BadRequest => ("invalid_request_error", None),
            Self::Unauthorized => ("invalid_request_error", Some("invalid_api_key")),
            Self::Forbidden => ("invalid_request_error", Some("permission_denied")),
            Self::NotFound => ("invalid_request_error", Some("model_not_found")),
            Self::TooLarge => ("invalid_request_error", Some("request_too_large")),
            Self::Rate => ("rate_limit_error", Some("rate_limit_exceeded")),
            Self::Quota => ("insufficient_quota", Some("insufficient_quota")),
            Self::ContextLength => ("invalid_request_error", Some("context_length_exceeded")),
            Self::Overloaded => ("server_error", Some("overloaded")),
            Self::Refused => ("invalid_request_error", Some("content_filter")),
            Self::Server => ("server_error", Some("server_error")),
            Self::Unavailable => ("server_error", Some("service_unavailable")),
            Self::Timeout => ("server_error", Some("timeout")),
            Self::Truncated => ("upstream_truncated", Some("upstream_truncated")),
        }
    }

    const fn anthropic(self) -> &'static str {
        match self {
            Self::BadRequest | Self::ContextLength | Self::Refused => "invalid_request_error",
            Self::Unauthorized => "authentication_error",
            Self::Forbidden => "permission_error",
            Self::NotFound => "not_found_error",
            Self::TooLarge => "request_too_large",
            Self::Rate => "rate_limit_error",
            Self::Quota => "billing_error",
            Self::Overloaded | Self::Unavailable => "overloaded_error",
            Self::Timeout => "timeout_error",
            Self::Server | Self::Truncated => "api_error",
        }
    }

    const fn google(self) -> &'static str {
        match self {
            Self::BadRequest | Self::ContextLength | Self::Refused | Self::TooLarge => "INVALID_ARGUMENT",
            Self::Unauthorized => "UNAUTHENTICATED",
            Self::Forbidden => "PERMISSION_DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::Rate | Self::Quota => "RESOURCE_EXHAUSTED",
            Self::Overloaded | Self::Unavailable => "UNAVAILABLE",
            Self::Timeout => "DEADLINE_EXCEEDED",
            Self::Server => "INTERNAL",
            Self::Truncated => "DATA_LOSS",
        }
    }

    /// The class that a provider's own words name; the status decides where they say nothing.
    fn from_words(words: &[&str], message: &str, status: Option<u16>) -> Self {
        let message = message.to_ascii_lowercase();
        for word in words {
            let class = match *word {
                "context_length_exceeded" | "string_above_max_length" => Self::ContextLength,
                "insufficient_quota"
                | "billing_error"
                | "billing_hard_limit_reached"
                | "credit_balance_too_low" => Self::Quota,
                "RESOURCE_EXHAUSTED"
                    if message.contains("exceeded your current quota") && message.contains("billing") =>
                {
                    Self::Quota
                }
                "RESOURCE_EXHAUSTED" | "rate_limit_exceeded" | "rate_limit_error" | "requests" | "tokens" => {
                    Self::Rate
                }
                "invalid_api_key" | "authentication_error" | "UNAUTHENTICATED" | "API_KEY_INVALID" => {
                    Self::Unauthorized
                }
                "permission_error" | "PERMISSION_DENIED" => Self::Forbidden,
                "model_not_found" | "not_found_error" | "NOT_FOUND" => Self::NotFound,
                "request_too_large" => Self::TooLarge,
                "overloaded_error" | "overloaded" | "UNAVAILABLE" | "slow_down" | "engine_overloaded" => {
                    Self::Overloaded
                }
                "content_filter"
                | "content_policy_violation"
                | "ResponsibleAIPolicyViolation"
                | "invalid_prompt" => Self::Refused,
                "timeout_error" | "timeout" | "DEADLINE_EXCEEDED" => Self::Timeout,
                "upstream_truncated" | "DATA_LOSS" => Self::Truncated,
                "server_error" | "api_error" | "INTERNAL" | "vector_store_timeout" => Self::Server,
                _ => continue,
            };
            return class;
        }
        let too_long = [
            "prompt is too long",
            "maximum context length",
            "context window",
            "input token count",
            "context limit",
        ];
        if too_long.iter().any(|words| message.contains(words)) && status.is_none_or(|status| status < 500) {
            return Self::ContextLength;
        }
        match status {
            Some(401) => Self::Unauthorized,
            Some(402) => Self::Quota,
            Some(403) => Self::Forbidden,
            Some(404) => Self::NotFound,
            Some(408 | 504) => Self::Timeout,
            Some(413) => Self::TooLarge,
            Some(429) => Self::Rate,
            Some(503 | 529) => Self::Overloaded,
            Some(status @ 400..500) => {
                debug_assert!(status < 500);
                Self::BadRequest
            }
            None if words.iter().any(|word| {
                matches!(*word, "invalid_request_error" | "INVALID_ARGUMENT" | "FAILED_PRECONDITION")
            }) =>
            {
                Self::BadRequest
            }
            _ => Self::Server,
        }
    }
}

/// An error that a provider told, in a body or in the middle of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderError {
    /// What it is about.
    pub class: ErrorClass,
    /// The provider's words. They may hold what was sent to it: scrub keys before showing them.
    pub message: String,
    /// The provider's `code`, `type` or `status`, as it writes it.
    pub code: Option<String>,
}

/// Reads a provider's error out of a body or an event's data; `None` when it holds none. `status` is that of the answer, if it was one.
pub fn read_error(format: Format, body: &[u8], status: Option<u16>) -> Option<ProviderError> {
    let value = json::parse(body).ok()?;
    error_in(format, &value, status)
}

pub(crate) fn error_in(format: Format, value: &Value<'_>, status: Option<u16>) -> Option<ProviderError> {
    // Gemini answers a stream without `alt=sse` with an array, also when it fails.
    let value = value.as_array().map_or(Some(value), <[_]>::first)?;
    let object = value.as_object()?;
    // A failed response of OpenAI holds its error beside everything else; in a stream it lies inside `response`.
    let error = object
        .get("error")
        .or_else(|| object.get("response").and_then(|response| response.get("error")))
        .or_else(|| (format == Format::Responses && object.text("type") == Some("error")).then_some(value))?;
    let message = match error {
        Value::String(message) => message.to_string(),
        error => error.get("message").and_then(Value::as_str).unwrap_or("no message").to_owned(),
    };
    let word = |key: &str| error.get(key).and_then(Value::as_str).filter(|word| *word != "error");
    let number = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let reasons: Vec<&str> = error
        .get("details")
        .and_then(Value::as_array)
        .unwrap_or_default()
        .iter()
        .filter_map(|detail| detail.get("reason").and_then(Value::as_str))
        .collect();
    let words: Vec<&str> = reasons
        .into_iter()
        .chain([word("code"), word("type"), word("status")].into_iter().flatten())
        .collect();
    let class = ErrorClass::from_words(&words, &message, status.or(number));
    let code = word("code").or(word("status")).or(word("type")).map(str::to_owned);
    Some(ProviderError { class, message, code: code.or_else(|| number.map(|number| number.to_string())) })
}

/// More about an error than class and message.
#[derive(Debug, Clone, Copy, Default)]
pub struct ErrorDetail<'a> {
    /// The field that is wrong.
    pub field: Option<&'a str>,
    /// Id of the request, for those formats that have a place for it.
    pub request_id: Option<&'a str>,
    /// A code of our own in place of the class's, where the format has a place for it.
    pub code: Option<&'a str>,
    /// Seconds until it is worth to try again; Gemini's clients read it from the body.
    pub retry_after_s: Option<u64>,
}

fn error_object<'a>(
    format: Format,
    status: u16,
    class: ErrorClass,
    message: &'a str,
    detail: ErrorDetail<'a>,
) -> Object<'a> {
    let nullable = |text: Option<&'a str>| text.map_or(Value::Null, Value::from);
    match format {
        Format::Chat | Format::Responses => {
            let (sort, code) = class.openai();
            Object::default()
                .with("message", message)
                .with("type", sort)
                .with("param", nullable(detail.field))
                .with("code", nullable(detail.code.or(code)))
        }
        Format::Messages => Object::default().with("type", class.anthropic()).with("message", message),
        Format::Gemini => {
            let mut error = Object::default()
                .with("code", u64::from(status))
                .with("message", message)
                .with("status", class.google());
            let mut details = Vec::new();
            if let Some(code) = detail.code {
                details.push(Value::from(
                    Object::default()
                        .with("@type", "type.googleapis.com/google.rpc.ErrorInfo")
                        .with("reason", code),
                ));
            }
            if let Some(seconds) = detail.retry_after_s {
                details.push(Value::from(
                    Object::default()
                        .with("@type", "type.googleapis.com/google.rpc.RetryInfo")
                        .with("retryDelay", format!("{seconds}s")),
                ));
            }
            if !details.is_empty() {
                error.put("details", details);
            }
            error
        }
    }
}

/// The body of an error answer in the client's own protocol.
pub fn error_body(
    format: Format,
    status: u16,
    class: ErrorClass,
    message: &str,
    detail: ErrorDetail<'_>,
) -> Vec<u8> {
    let error = error_object(format, status, class, message, detail);
    let mut body = Object::default();
    if format == Format::Messages {
        body.put("type", "error");
    }
    body.put("error", error);
    if format == Format::Messages {
        body.put_some("request_id", detail.request_id);
    }
    body.into_bytes()
}

/// Appends the event that ends a stream with an error in the client's own protocol. Nothing may follow it, least of all `[DONE]`.
///
/// `sequence` is the number of the event, which only responses count.
pub fn error_event(
    format: Format,
    class: ErrorClass,
    message: &str,
    detail: ErrorDetail<'_>,
    sequence: u64,
    out: &mut BytesMut,
) {
    match format {
        Format::Chat | Format::Gemini => {
            sse::write_event("", &error_body(format, class.status(), class, message, detail), out);
        }
        Format::Messages => {
            sse::write_event("error", &error_body(format, class.status(), class, message, detail), out);
        }
        Format::Responses => {
            let (sort, code) = class.openai();
            // The reference has the members side by side; OpenAI's own clients raise an error only for those inside `error`.
            let data = Object::default()
                .with("type", "error")
                .with("code", detail.code.or(code).unwrap_or(sort))
                .with("message", message)
                .with("param", detail.field.map_or(Value::Null, Value::from))
                .with("error", error_object(format, class.status(), class, message, detail))
                .with("sequence_number", sequence);
            sse::write_event("error", &data.into_bytes(), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_written_in_the_words_of_each_protocol() {
        let detail = ErrorDetail {
            field: Some("model"),
            request_id: Some("req_1"),
            code: None,
            retry_after_s: Some(7),
        };
        for (format, expected) in [
            (
                Format::Chat,
                r#"{"error":{"message":"slow \"down\"","type":"rate_limit_error","param":"model","code":"rate_limit_exceeded"}}"#,
            ),
            (
                Format::Responses,
                r#"{"error":{"message":"slow \"down\"","type":"rate_limit_error","param":"model","code":"rate_limit_exceeded"}}"#,
            ),
            (
                Format::Messages,
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow \"down\""},"request_id":"req_1"}"#,
            ),
            (
                Format::Gemini,
                r#"{"error":{"code":429,"message":"slow \"down\"","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"7s"}]}}"#,
            ),
        ] {
            let body = error_body(format, 429, ErrorClass::Rate, "slow \"down\"", detail);
            assert_eq!(String::from_utf8(body).unwrap(), expected, "{format}");
        }
        for (format, expected) in [
            (
                Format::Chat,
                "data: {\"error\":{\"message\":\"cut\",\"type\":\"upstream_truncated\",\"param\":null,\"code\":\"upstream_truncated\"}}\n\n",
            ),
            (
                Format::Responses,
                "event: error\ndata: {\"type\":\"error\",\"code\":\"upstream_truncated\",\"message\":\"cut\",\"param\":null,\"error\":{\"message\":\"cut\",\"type\":\"upstream_truncated\",\"param\":null,\"code\":\"upstream_truncated\"},\"sequence_number\":9}\n\n",
            ),
            (
                Format::Messages,
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"cut\"}}\n\n",
            ),
            (
                Format::Gemini,
                "data: {\"error\":{\"code\":502,\"message\":\"cut\",\"status\":\"DATA_LOSS\"}}\n\n",
            ),
        ] {
            let mut out = BytesMut::new();
            error_event(format, ErrorClass::Truncated, "cut", ErrorDetail::default(), 9, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{format}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same_class() {
        use ErrorClass::{BadRequest, NotFound, Overloaded, Quota, Rate, Server, Timeout, Unauthorized};
        for class in [BadRequest, NotFound, Overloaded, Quota, Rate, Server, Timeout, Unauthorized] {
            for format in Format::ALL {
                // Google has one word for both.
                let expected = if class == Quota && format == Format::Gemini { Rate } else { class };
                let body = error_body(format, class.status(), class, "m", ErrorDetail::default());
                assert_eq!(
                    read_error(format, &body, Some(class.status())).unwrap().class,
                    expected,
                    "{format}"
                );
                let mut out = BytesMut::new();
                error_event(format, class, "m", ErrorDetail::default(), 0, &mut out);
                let mut splitter = sse::Splitter::new();
                splitter.push(out.freeze());
                let event = splitter.next().unwrap();
                let read = read_error(format, &event.data, None).unwrap();
                let expected =
                    if class == BadRequest && format == Format::Responses { BadRequest } else { expected };
                assert_eq!(read.class, expected, "{format} {class:?}");
            }
        }
    }

    #[test]
    fn errors_of_providers_are_understood() {
        for (format, status, body, class, code) in [
            (
                Format::Chat,
                Some(400),
                r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
                ErrorClass::ContextLength,
                "context_length_exceeded",
            ),
            (
                Format::Chat,
                Some(429),
                r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
                ErrorClass::Quota,
                "insufficient_quota",
            ),
            (
                Format::Chat,
                Some(429),
                r#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
                ErrorClass::Rate,
                "rate_limit_exceeded",
            ),
            (Format::Chat, Some(500), r#"{"error":"it broke"}"#, ErrorClass::Server, ""),
            (
                Format::Messages,
                Some(529),
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                ErrorClass::Overloaded,
                "overloaded_error",
            ),
            (
                Format::Messages,
                Some(400),
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 300 tokens > 200 maximum"}}"#,
                ErrorClass::ContextLength,
                "invalid_request_error",
            ),
            (
                Format::Gemini,
                Some(400),
                r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#,
                ErrorClass::Unauthorized,
                "INVALID_ARGUMENT",
            ),
            (
                Format::Gemini,
                None,
                r#"[{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}]"#,
                ErrorClass::Overloaded,
                "UNAVAILABLE",
            ),
            (
                Format::Responses,
                None,
                r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"m"}}}"#,
                ErrorClass::Server,
                "server_error",
            ),
            (
                Format::Responses,
                None,
                r#"{"type":"error","code":"rate_limit_exceeded","message":"m","param":null}"#,
                ErrorClass::Rate,
                "rate_limit_exceeded",
            ),
        ] {
            let error = read_error(format, body.as_bytes(), status).unwrap();
            assert_eq!((error.class, error.code.as_deref().unwrap_or("")), (class, code), "{body}");
        }
        for body in ["{}", "[]", "7", "{\"error\":null}", "not json"] {
            assert_eq!(read_error(Format::Responses, body.as_bytes(), None), None, "{body}");
        }
    }
}
