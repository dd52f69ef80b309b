//! The trace that a client began, on its way to the provider.

use fake_ai::{FakeAi, On, Reply};
use serde_json::json;

use crate::stage::{Stage, chat};

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn stage(fake: &FakeAi) -> Stage {
    let route = |provider: &str| json!({ "targets": [{ "provider": provider, "model": "model-1" }], "retry": { "base_ms": 1 } });
    Stage::new(json!({
        "providers": {
            "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] },
            "other": { "kind": "anthropic", "url": fake.url(), "keys": ["main"] },
            "silent": { "kind": "openai", "url": fake.url(), "keys": ["main"], "trace_context": false },
        },
        "routes": { "fast": route("up"), "converted": route("other"), "untold": route("silent") },
        "pass_through": {
            "language": { "prefix": "/language", "url": fake.url(), "keys": ["azure"] },
            "vision": { "prefix": "/vision", "url": fake.url(), "keys": ["azure"], "trace_context": false },
        },
    }))
    .await
}

/// What the provider was told: the parent's span in the client's trace.
fn told(header: Option<&str>) -> String {
    let header = header.expect("a parent is told");
    let parts: Vec<&str> = header.split('-').collect();
    assert_eq!((parts.len(), parts[0], parts[1], parts[3]), (4, "00", ID, "01"), "{header}");
    parts[2].to_owned()
}

#[tokio::test]
async fn each_attempt_is_a_span_of_its_own_between_client_and_provider() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake).await;
    fake.next(Reply::error(500, "server_error", "m"));
    fake.next(Reply::text("x"));
    let headers = [("content-type", "application/json"), ("traceparent", CLIENT), ("tracestate", "vendor=1")];
    let answer = stage.call("POST", "/v1/chat/completions", &headers, &chat(false).to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.header("steward-attempts")), (200, "2"));
    let trace = stage.records.settled(1).await.trace.unwrap();
    assert_eq!((format!("{:032x}", trace.id).as_str(), trace.parent), (ID, 0x00f0_67aa_0ba9_02b7));
    for number in 0..2 {
        let sent = fake.request(number).await;
        assert_eq!(told(sent.header("traceparent")), format!("{:016x}", trace.attempt(number)));
        assert_eq!(sent.header("tracestate"), Some("vendor=1"));
    }
}

#[tokio::test]
async fn a_trace_crosses_formats_and_reaches_declared_services() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake).await;
    let headers = [("content-type", "application/json"), ("traceparent", CLIENT)];
    fake.next(Reply::text("x"));
    let mut body = chat(false);
    body["model"] = json!("converted");
    stage.call("POST", "/v1/chat/completions", &headers, &body.to_string()).await;
    fake.always(On::any(), Reply::raw("application/json", "{}"));
    stage.call("POST", "/language/analyze", &headers, "{}").await;
    for number in 0..2 {
        let span = told(fake.request(number).await.header("traceparent"));
        let trace = stage.records.settled(number + 1).await.trace.unwrap();
        assert_eq!(span, format!("{:016x}", trace.attempt(0)));
    }
}

#[tokio::test]
async fn nothing_is_told_where_no_trace_was_begun_or_it_is_switched_off() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake).await;
    fake.always(On::any(), Reply::text("x"));
    let mut untold = chat(false);
    untold["model"] = json!("untold");
    let good = ("traceparent", CLIENT);
    let cases = [
        ("/v1/chat/completions", chat(false).to_string(), vec![]),
        (
            "/v1/chat/completions",
            chat(false).to_string(),
            vec![("traceparent", "00-xyz-1"), ("tracestate", "a=1")],
        ),
        ("/v1/chat/completions", untold.to_string(), vec![good, ("tracestate", "a=1")]),
        ("/vision/see", "{}".to_owned(), vec![good]),
    ];
    for (number, (path, body, headers)) in cases.into_iter().enumerate() {
        let headers: Vec<_> = [("content-type", "application/json")].into_iter().chain(headers).collect();
        stage.call("POST", path, &headers, &body).await;
        let sent = fake.request(number).await;
        assert_eq!((sent.header("traceparent"), sent.header("tracestate")), (None, None), "{headers:?}");
        let trace = stage.records.settled(number + 1).await.trace;
        assert_eq!(trace.is_some(), headers.contains(&good), "the record has what was well-formed");
    }
}
