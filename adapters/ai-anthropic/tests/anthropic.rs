//! Errors as Anthropic documents them, and where calls go.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::time::Duration;

use ai_anthropic::Anthropic;
use contract::ai::{Call, Failure, FailureClass, Operation, Provider, Rejection};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use wire::Format;

fn classify(status: u16, headers: &[(&str, &str)], body: &str) -> Failure {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
        .collect();
    Anthropic.classify(&Rejection {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &headers,
        body: body.as_bytes(),
        now: "2026-03-04T02:00:00Z".parse().unwrap(),
    })
}

#[test]
fn errors_have_classes() {
    use FailureClass::{BadRequest, ContextLength, Key, NotFound, Overloaded, Quota, Rate, Server, Timeout};
    for (status, kind, message, class, key_fault) in [
        (400, "invalid_request_error", "m", BadRequest, false),
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", ContextLength, false),
        (400, "invalid_request_error", "Your credit balance is too low", Quota, true),
        (401, "authentication_error", "m", Key, true),
        (402, "billing_error", "m", Quota, true),
        (403, "permission_error", "m", Key, true),
        (404, "not_found_error", "m", NotFound, false),
        (413, "request_too_large", "m", BadRequest, false),
        (429, "rate_limit_error", "m", Rate, true),
        (500, "api_error", "m", Server, false),
        (504, "timeout_error", "m", Timeout, false),
        (529, "overloaded_error", "m", Overloaded, false),
        // Inside a stream.
        (200, "overloaded_error", "m", Overloaded, false),
    ] {
        let body = format!(
            r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}},"request_id":"r"}}"#
        );
        let failure = classify(status, &[], &body);
        assert_eq!((failure.class, failure.key_fault), (class, key_fault), "{status} {body}");
    }
}

#[test]
fn waits_are_found_wherever_they_stand() {
    let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"m"}}"#;
    for (headers, seconds) in [
        (&[("retry-after", "7")][..], Some(7)),
        (
            &[
                ("anthropic-ratelimit-input-tokens-remaining", "0"),
                ("anthropic-ratelimit-input-tokens-reset", "2026-03-04T02:00:40Z"),
            ],
            Some(40),
        ),
        (
            &[
                ("anthropic-ratelimit-requests-remaining", "3"),
                ("anthropic-ratelimit-requests-reset", "2026-03-04T02:00:40Z"),
            ],
            None,
        ),
    ] {
        assert_eq!(classify(429, headers, body).retry_after, seconds.map(Duration::from_secs), "{headers:?}");
    }
}

#[test]
fn calls_carry_the_version() {
    let operation = Operation::Generate { format: Format::Messages, streaming: true };
    let endpoint = Anthropic.endpoint(&Call { operation, model: "m" }).unwrap();
    assert_eq!(endpoint.path, "/messages");
    assert_eq!(endpoint.headers[0].0, "anthropic-version");
    assert!(Anthropic.endpoint(&Call { operation: Operation::Embed, model: "m" }).is_err());
}
