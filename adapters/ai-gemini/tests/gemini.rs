//! Errors as Google documents them, and where calls go.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::time::Duration;

use ai_gemini::Gemini;
use contract::ai::{Call, Failure, FailureClass, Operation, Provider, Rejection};
use http::{HeaderMap, StatusCode};
use wire::Format;

fn classify(status: u16, body: &str) -> Failure {
    Gemini.classify(&Rejection {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &HeaderMap::new(),
        body: body.as_bytes(),
        now: "2026-03-04T02:00:00Z".parse().unwrap(),
    })
}

#[test]
fn errors_have_classes() {
    use FailureClass::{BadRequest, ContextLength, Key, NotFound, Overloaded, Rate, Server, Timeout};
    for (status, word, message, class, key_fault) in [
        (400, "INVALID_ARGUMENT", "m", BadRequest, false),
        (
            400,
            "INVALID_ARGUMENT",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            ContextLength,
            false,
        ),
        (400, "FAILED_PRECONDITION", "m", Key, true),
        (403, "PERMISSION_DENIED", "m", Key, true),
        (404, "NOT_FOUND", "m", NotFound, false),
        (429, "RESOURCE_EXHAUSTED", "m", Rate, true),
        (500, "INTERNAL", "m", Server, false),
        (503, "UNAVAILABLE", "m", Overloaded, false),
        (504, "DEADLINE_EXCEEDED", "m", Timeout, false),
    ] {
        for body in [
            format!(r#"{{"error":{{"code":{status},"message":"{message}","status":"{word}"}}}}"#),
            format!(r#"[{{"error":{{"code":{status},"message":"{message}","status":"{word}"}}}}]"#),
        ] {
            let failure = classify(status, &body);
            assert_eq!((failure.class, failure.key_fault), (class, key_fault), "{status} {body}");
        }
    }
    let key = r#"{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#;
    assert_eq!(classify(400, key).class, Key);
}

#[test]
fn the_body_says_how_long_to_wait_and_which_quota() {
    let rate = |quota: &str| {
        format!(
            r#"{{"error":{{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[
            {{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaId":"{quota}"}}]}},
            {{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}}]}}}}"#
        )
    };
    for (quota, class) in [
        ("GenerateRequestsPerMinutePerProjectPerModel", FailureClass::Rate),
        ("GenerateRequestsPerDayPerProjectPerModel", FailureClass::Quota),
    ] {
        let failure = classify(429, &rate(quota));
        assert_eq!(
            (failure.class, failure.retry_after),
            (class, Some(Duration::from_millis(34_500))),
            "{quota}"
        );
    }
}

#[test]
fn calls_have_paths() {
    for (operation, model, path) in [
        (Operation::Generate { format: Format::Gemini, streaming: false }, "g", "/models/g:generateContent"),
        (
            Operation::Generate { format: Format::Gemini, streaming: true },
            "tunedModels/g",
            "/tunedModels/g:streamGenerateContent?alt=sse",
        ),
        (Operation::EmbedBatch, "e", "/models/e:batchEmbedContents"),
        (Operation::CountTokens(Format::Gemini), "g", "/models/g:countTokens"),
    ] {
        assert_eq!(Gemini.endpoint(&Call { operation, model }).unwrap().path, path);
    }
}
