//! Errors as OpenAI documents them, and where calls go.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::time::Duration;

use ai_openai::OpenAi;
use contract::ai::{Call, FailureClass, Operation, Provider, Rejection};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use secrecy::SecretString;
use wire::Format;

fn classify(status: u16, headers: &[(&str, &str)], body: &str) -> contract::ai::Failure {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
        .collect();
    OpenAi.classify(&Rejection {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &headers,
        body: body.as_bytes(),
        now: "2026-03-04T02:00:00Z".parse().unwrap(),
    })
}

#[test]
fn errors_have_classes() {
    use FailureClass::{
        BadRequest, ContextLength, Key, NotFound, Overloaded, Quota, Rate, Refused, Server, Timeout,
    };
    let error = |kind: &str, code: &str| {
        format!(r#"{{"error":{{"message":"m","type":"{kind}","param":null,"code":"{code}"}}}}"#)
    };
    for (status, body, class, key_fault) in [
        (401, error("invalid_request_error", "invalid_api_key"), Key, true),
        (403, error("invalid_request_error", "unsupported_country_region_territory"), Key, true),
        (402, String::from("{}"), Quota, true),
        (429, error("insufficient_quota", "insufficient_quota"), Quota, true),
        (429, error("requests", "rate_limit_exceeded"), Rate, true),
        (429, String::from("<html>"), Rate, true),
        (400, error("invalid_request_error", "context_length_exceeded"), ContextLength, false),
        (400, error("invalid_request_error", "content_policy_violation"), Refused, false),
        (400, error("invalid_request_error", "unsupported_parameter"), BadRequest, false),
        (404, error("invalid_request_error", "model_not_found"), NotFound, false),
        (408, String::new(), Timeout, false),
        (409, String::new(), Server, false),
        (500, error("server_error", "x"), Server, false),
        (502, String::from("bad gateway"), Server, false),
        (503, String::from(r#"{"error":{"message":"m","type":"x"}}"#), Overloaded, false),
        (529, String::new(), Overloaded, false),
        // Inside a stream.
        (200, error("server_error", "rate_limit_exceeded"), Rate, true),
        (200, error("server_error", "server_error"), Server, false),
    ] {
        let failure = classify(status, &[], &body);
        assert_eq!((failure.class, failure.key_fault), (class, key_fault), "{status} {body}");
    }
}

#[test]
fn waits_are_found_wherever_they_stand() {
    let rate = r#"{"error":{"message":"Limit reached, please try again in 1.5s.","type":"tokens","code":"rate_limit_exceeded"}}"#;
    for (headers, milliseconds) in [
        (&[("retry-after-ms", "250"), ("retry-after", "9")][..], 250),
        (&[("retry-after", "9")], 9_000),
        (&[("retry-after", "Wed, 04 Mar 2026 02:00:30 GMT")], 30_000),
        (
            &[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-reset-tokens", "1ms"),
            ],
            360_000,
        ),
        (&[("x-ratelimit-remaining-requests", "5"), ("x-ratelimit-reset-requests", "6m0s")], 1_500),
        (&[], 1_500),
    ] {
        let failure = classify(429, headers, rate);
        assert_eq!(failure.retry_after, Some(Duration::from_millis(milliseconds)), "{headers:?}");
    }
    assert_eq!(classify(500, &[], "{}").retry_after, None);
}

#[test]
fn calls_have_paths_and_keys_are_sensitive() {
    let path = |operation| OpenAi.endpoint(&Call { operation, model: "m" }).unwrap().path;
    assert_eq!(path(Operation::Generate { format: Format::Chat, streaming: true }), "/chat/completions");
    assert_eq!(path(Operation::Generate { format: Format::Responses, streaming: false }), "/responses");
    let (name, value) = OpenAi.authorize(&SecretString::from("sk-secret".to_owned())).unwrap();
    assert_eq!((name.as_str(), value.to_str().unwrap()), ("authorization", "Bearer sk-secret"));
    assert!(value.is_sensitive() && !format!("{value:?}").contains("secret"));
    let error = OpenAi.authorize(&SecretString::from("sk-se\ncret".to_owned())).unwrap_err();
    assert!(!error.to_string().contains("cret"));
}
