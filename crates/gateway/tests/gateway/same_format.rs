//! The same format on both sides: the client's bytes arrive, and so do the provider's.

use fake_ai::{FakeAi, LineEnd, Reply};
use gateway::Ending;
use serde_json::json;

use crate::stage::{KEY, Stage, chat};

#[tokio::test]
async fn plain_answers_pass_unchanged_and_are_settled() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.next(
        Reply::text("four").unknown_fields().header("set-cookie", "a=b").header("openai-organization", "org"),
    );
    let body = r#"{"model":"fast", "seed": 9223372036854775809, "x_new": {"b":1,"a":[1e400]},"messages":[{"role":"user","content":"2+2","odd":1}]}"#;
    let headers = [
        ("cookie", "c=d"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-request-id", "mine"),
        ("x-vendor-flag", "on"),
    ];
    let answer = stage.call("POST", "/v1/chat/completions", &headers, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("\"big\":18446744073709551615"), "{}", answer.text());
    let sent = fake.request(0).await;
    assert_eq!(sent.text(), body.replace("\"fast\"", "\"model-1\""));
    assert_eq!(sent.key().unwrap(), "upstream-main-key-12345678");
    for name in ["cookie", "x-forwarded-for", "x-request-id"] {
        assert_eq!(sent.header(name), None, "{name}");
    }
    assert_eq!(sent.header("x-vendor-flag"), Some("on"));
    assert!(!sent.headers.iter().any(|(_, value)| value.contains(KEY)));
    assert_eq!(answer.header("x-request-id"), "mine");
    assert_eq!(answer.header("steward-target"), "up/model-1");
    assert_eq!(answer.header("steward-route"), "fast");
    assert_eq!(answer.header("steward-attempts"), "1");
    for name in ["set-cookie", "openai-organization"] {
        assert_eq!(answer.header(name), "", "{name}");
    }
    let settled = stage.records.settled(1).await;
    assert_eq!(answer.header("steward-receipt"), settled.request.to_string());
    assert_eq!((settled.ending, settled.status), (Ending::Complete, 200));
    assert!(settled.usage.unwrap().output > 0 && settled.attempts.len() == 1);
}

#[tokio::test]
async fn streams_pass_in_whatever_way_they_are_written() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let text = "größer als 2⁵³ 🙂 and more";
    for (number, reply) in [
        Reply::text(text),
        Reply::text(text).line_end(LineEnd::CrLf).comments().without_space(),
        Reply::text(text).line_end(LineEnd::Cr),
        Reply::text(text).byte_order_mark(),
        Reply::text(text).pieces(7),
        Reply::text(text).pieces(1).line_end(LineEnd::CrLf),
        Reply::text(text).empty_choices_first(),
    ]
    .into_iter()
    .enumerate()
    {
        fake.next(reply);
        let answer = stage.stream().await;
        assert_eq!(answer.status, 200);
        assert!(answer.whole, "{number}");
        assert!(answer.header("content-type").starts_with("text/event-stream"));
        assert!(answer.text().contains("[DONE]"), "{number}: {}", answer.text());
        let said: String = answer
            .text()
            .replace("\r\n", "\n")
            .replace('\r', "\n")
            .lines()
            .filter_map(|line| line.trim_start_matches('\u{feff}').strip_prefix("data:"))
            .filter_map(|data| serde_json::from_str::<serde_json::Value>(data.trim()).ok())
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(said, text, "{number}");
        let settled = stage.records.settled(number + 1).await;
        assert_eq!(settled.ending, Ending::Complete, "{number}");
        assert!(settled.usage.is_some() && settled.streaming, "{number}");
    }
}

#[tokio::test]
async fn usage_is_asked_for_and_hidden_from_who_did_not_ask() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let answer = stage.stream().await;
    assert_eq!(fake.request(0).await.json()["stream_options"]["include_usage"], true);
    assert!(!answer.text().contains("prompt_tokens"), "{}", answer.text());
    let mut body = chat(true);
    body["stream_options"] = json!({ "include_usage": true });
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert!(answer.text().contains("prompt_tokens"), "{}", answer.text());
    assert!(stage.records.settled(1).await.usage.is_some());
}

#[tokio::test]
async fn every_surface_reaches_its_provider() {
    let fake = FakeAi::start().await.unwrap();
    let anthropic =
        json!({ "model": "fast", "max_tokens": 50, "messages": [{ "role": "user", "content": "hello" }] });
    let responses = json!({ "model": "fast", "input": "hello" });
    let gemini = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hello" }] }] });
    let stream = |body: &serde_json::Value| {
        let mut body = body.clone();
        body["stream"] = json!(true);
        body
    };
    for (number, (kind, path, body, sent_to)) in [
        ("openai", "/v1/chat/completions", chat(false), "/v1/chat/completions"),
        ("openai", "/openai/v1/responses", responses.clone(), "/v1/responses"),
        ("openai", "/v1/responses", stream(&responses), "/v1/responses"),
        (
            "azure_openai",
            "/openai/deployments/fast/chat/completions?api-version=x",
            chat(true),
            "/openai/deployments/model-1/chat/completions",
        ),
        ("anthropic", "/v1/messages", anthropic.clone(), "/v1/messages"),
        ("anthropic", "/anthropic/v1/messages", stream(&anthropic), "/v1/messages"),
        (
            "gemini",
            "/v1beta/models/fast:generateContent",
            gemini.clone(),
            "/v1beta/models/model-1:generateContent",
        ),
        (
            "gemini",
            "/v1/models/fast:streamGenerateContent?alt=sse",
            gemini.clone(),
            "/v1beta/models/model-1:streamGenerateContent",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let stage = Stage::single(&fake, kind).await;
        let answer = stage.post(path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let sent = fake.request(number).await;
        assert_eq!(sent.path, sent_to, "{path}");
        assert_eq!(sent.key().as_deref(), Some("upstream-main-key-12345678"), "{path}");
        let settled = stage.records.settled(1).await;
        assert_eq!(settled.ending, Ending::Complete, "{path}");
        assert!(settled.usage.is_some_and(|usage| usage.output > 0), "{path}");
    }
}

#[tokio::test]
async fn gemini_without_events_gets_one_array() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "gemini").await;
    let body = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hello" }] }] });
    let answer = stage.post("/v1beta/models/fast:streamGenerateContent", &body).await;
    let parts = answer.json();
    assert!(
        parts.as_array().is_some_and(|parts| !parts.is_empty() && parts[0]["candidates"].is_array()),
        "{parts}"
    );
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn embeddings_and_token_counts_are_answered() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let answer = stage.post("/v1/embeddings", &json!({ "model": "fast", "input": ["a", "b"] })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(2));
    assert!(stage.records.settled(1).await.usage.is_some_and(|usage| usage.input > 0));
    // OpenAI counts for nobody, so the gateway estimates, and says so.
    let body = json!({ "model": "fast", "max_tokens": 1, "messages": [{ "role": "user", "content": "hello there" }] });
    let answer = stage.post("/v1/messages/count_tokens", &body).await;
    assert!(answer.json()["input_tokens"].as_u64().is_some_and(|count| count > 0));
    assert_eq!(answer.header("steward-estimated"), "true");
}

#[tokio::test]
async fn ten_megabytes_pass() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let mut body = chat(false);
    body["messages"][0]["content"] = json!("x".repeat(10 << 20));
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(fake.request(0).await.body.len() > 10 << 20);
}

#[tokio::test]
async fn budget_bounds_the_answer_and_the_client_is_told() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    *stage.records.clamp.lock().unwrap() = Some(7);
    let mut body = chat(false);
    body["max_tokens"] = json!(100);
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.header("steward-max-tokens"), "7");
    assert_eq!(fake.request(0).await.json()["max_tokens"], 7);
    body["max_tokens"] = json!(3);
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.header("steward-max-tokens"), "");
    assert_eq!(fake.request(1).await.json()["max_tokens"], 3);
    assert_eq!(stage.records.settled(1).await.clamped_max_tokens, Some(7));
}
