//! Deployments, versions, and errors of the content filter.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::collections::BTreeMap;
use std::time::Duration;

use ai_azure_openai::AzureOpenAi;
use contract::ai::{Call, FailureClass, Operation, Provider, Rejection};
use http::{HeaderMap, HeaderValue, StatusCode};
use wire::Format;

#[test]
fn calls_go_to_deployments() {
    let deployments: BTreeMap<String, String> = [("gpt-5-mini".to_owned(), "mine".to_owned())].into();
    let dated = AzureOpenAi::new(Some("2024-10-21".into()), deployments.clone());
    let undated = AzureOpenAi::new(None, deployments);
    let chat = Operation::Generate { format: Format::Chat, streaming: false };
    let responses = Operation::Generate { format: Format::Responses, streaming: true };
    for (provider, operation, model, path) in [
        (&dated, chat, "gpt-5-mini", "/openai/deployments/mine/chat/completions?api-version=2024-10-21"),
        (&dated, chat, "other", "/openai/deployments/other/chat/completions?api-version=2024-10-21"),
        (&dated, responses, "gpt-5-mini", "/openai/responses?api-version=2024-10-21"),
        (&dated, Operation::Embed, "e", "/openai/deployments/e/embeddings?api-version=2024-10-21"),
        (&undated, chat, "gpt-5-mini", "/openai/v1/chat/completions"),
        (&undated, Operation::Files, "", "/openai/v1/files"),
    ] {
        assert_eq!(provider.endpoint(&Call { operation, model }).unwrap().path, path);
    }
    assert_eq!(dated.name_sent("gpt-5-mini"), "mine");
}

#[test]
fn filter_and_waits_are_understood() {
    let provider = AzureOpenAi::default();
    let classify = |status: u16, headers: &HeaderMap, body: &str| {
        provider.classify(&Rejection {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.as_bytes(),
            now: "2026-03-04T02:00:00Z".parse().unwrap(),
        })
    };
    let none = HeaderMap::new();
    for body in [
        r#"{"error":{"message":"m","code":"content_filter","status":400}}"#,
        r#"{"error":{"message":"m","code":null,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
    ] {
        assert_eq!(classify(400, &none, body).class, FailureClass::Refused, "{body}");
    }
    assert_eq!(
        classify(404, &none, r#"{"error":{"code":"DeploymentNotFound","message":"m"}}"#).class,
        FailureClass::NotFound
    );
    let mut headers = HeaderMap::new();
    headers.insert("retry-after-ms", HeaderValue::from_static("1250"));
    headers.insert("retry-after", HeaderValue::from_static("2"));
    let rate = classify(429, &headers, r#"{"error":{"code":"429","message":"m"}}"#);
    assert_eq!((rate.class, rate.retry_after), (FailureClass::Rate, Some(Duration::from_millis(1_250))));
}
