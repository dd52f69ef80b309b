//! Spans as a collector receives them over OTLP, decoded: their names, kinds and attributes are those of the
//! OpenTelemetry semantic conventions for generative AI.

use std::collections::BTreeMap;
use std::convert::Infallible;

use fake_ai::{Ending as Cut, FakeAi, Reply};
use gateway::{Spans, Usd};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::stage::{PATIENCE, Stage, chat};

/// A collector: what it is sent, decoded.
async fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (sender, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let sender = sender.clone();
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    sender.send(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
                    Ok::<_, Infallible>(http::Response::new(String::new()))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (url, received)
}

fn attributes(all: &[KeyValue]) -> BTreeMap<&str, String> {
    all.iter()
        .map(|one| {
            let value = match one.value.as_ref().and_then(|value| value.value.as_ref()).unwrap() {
                Value::StringValue(text) => text.clone(),
                Value::IntValue(number) => number.to_string(),
                other => panic!("{other:?}"),
            };
            (one.key.as_str(), value)
        })
        .collect()
}

/// The spans of one request as the collector got them: of the whole, and of each attempt.
async fn collected(stage: &Stage, count: usize) -> (Span, Vec<Span>) {
    let settled = stage.records.settled(count).await;
    let (url, mut received) = collector().await;
    let spans = Spans::to(&url).unwrap();
    spans.record("shop", &settled, Usd::from_nanos(1_234_567));
    // What has not been sent yet is sent now.
    drop(spans);
    let mut all = Vec::new();
    while all.len() < settled.attempts.len() + 1 {
        let batch = tokio::time::timeout(PATIENCE, received.recv()).await.expect("spans come").unwrap();
        for resource in batch.resource_spans {
            let service = attributes(&resource.resource.as_ref().unwrap().attributes)["service.name"].clone();
            assert_eq!(service, "steward");
            all.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let (mut whole, mut attempts): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|span| !span.name.starts_with("attempt "));
    assert_eq!(whole.len(), 1);
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    for attempt in &attempts {
        assert_eq!((&attempt.trace_id, &attempt.parent_span_id), (&whole[0].trace_id, &whole[0].span_id));
        assert!(attempt.end_time_unix_nano <= whole[0].end_time_unix_nano);
    }
    (whole.remove(0), attempts)
}

/// `SPAN_KIND_CLIENT` and `STATUS_CODE_ERROR` of the protocol.
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_and_its_attempts_are_spans_of_the_conventions() {
    let (first, second) = (FakeAi::start().await.unwrap(), FakeAi::start().await.unwrap());
    let stage = Stage::new(json!({
        "providers": {
            "one": { "kind": "openai", "url": first.url(), "keys": ["main"] },
            "two": { "kind": "gemini", "url": second.url(), "keys": ["main"] },
        },
        "routes": { "fast": { "targets": [
            { "provider": "one", "model": "a" }, { "provider": "two", "model": "b", "priority": 2 },
        ], "retry": { "base_ms": 1 } } },
    }))
    .await;
    first.next(Reply::error(503, "overloaded", "marmalade"));
    second.next(Reply::text("one two three"));
    assert_eq!(stage.chat().await.status, 200);
    let usage = stage.records.settled(1).await.usage.unwrap();
    let (whole, attempts) = collected(&stage, 1).await;
    assert_eq!((whole.name.as_str(), whole.kind), ("chat b", CLIENT));
    let seen = attributes(&whole.attributes);
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "gcp.gemini"),
        ("gen_ai.request.model", "b"),
        ("http.response.status_code", "200"),
        ("steward.project", "shop"),
        ("steward.route", "fast"),
        ("steward.ending", "complete"),
        ("steward.cost_usd_nanos", "1234567"),
        ("gen_ai.usage.input_tokens", &usage.prompt().to_string()),
        ("gen_ai.usage.output_tokens", &usage.completion().to_string()),
    ] {
        assert_eq!(seen.get(name).map(String::as_str), Some(value), "{name} in {seen:#?}");
    }
    assert!(seen.contains_key("gen_ai.response.model") && !seen.contains_key("error.type"), "{seen:#?}");
    assert_eq!(whole.status.clone().unwrap_or_default().code, 0);
    let names: Vec<&str> = attempts.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["attempt 1", "attempt 2"]);
    let failed = attributes(&attempts[0].attributes);
    assert_eq!(
        (failed["gen_ai.provider.name"].as_str(), failed["http.response.status_code"].as_str()),
        ("openai", "503")
    );
    assert_eq!(failed["error.type"], "overloaded");
    assert_eq!(attempts[0].status.clone().unwrap_or_default().code, ERROR);
    assert!(!format!("{whole:?}{attempts:?}").contains("marmalade"), "what was said is in no span");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_or_is_no_chat_is_named_so() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "anthropic").await;
    fake.next(Reply::text("one two three four five six").cut_after_events(5, Cut::Clean));
    stage.stream().await;
    let (whole, _) = collected(&stage, 1).await;
    let seen = attributes(&whole.attributes);
    assert_eq!(
        (seen["gen_ai.provider.name"].as_str(), seen["steward.ending"].as_str()),
        ("anthropic", "truncated")
    );
    assert_eq!(seen["error.type"], "truncated");
    assert_eq!(whole.status.clone().unwrap_or_default().code, ERROR);
    assert!(whole.events.iter().any(|event| event.name == "first byte"));

    let stage = Stage::single(&fake, "openai").await;
    let body = json!({ "model": "fast", "input": "a" });
    assert_eq!(stage.post("/v1/embeddings", &body).await.status, 200);
    let (whole, _) = collected(&stage, 1).await;
    assert_eq!(whole.name, "embeddings model-1");
    assert_eq!(attributes(&whole.attributes)["gen_ai.operation.name"], "embeddings");

    let stage = Stage::single(&fake, "azure_openai").await;
    fake.next(Reply::error(400, "invalid_request_error", "wrong"));
    let body = chat(false);
    assert_eq!(stage.post("/v1/chat/completions", &body).await.status, 400);
    let (whole, attempts) = collected(&stage, 1).await;
    assert_eq!(attributes(&whole.attributes)["error.type"], "bad_request");
    assert_eq!(attributes(&attempts[0].attributes)["gen_ai.provider.name"], "azure.ai.openai");
}
