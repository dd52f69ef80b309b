//! Any surface to any provider: what was said arrives, and endings stay honest.

use fake_ai::{Ending as Cut, FakeAi, Reply};
use gateway::Ending;
use serde_json::{Value, json};

use crate::stage::{Stage, chat};

const KINDS: [&str; 4] = ["openai", "azure_openai", "anthropic", "gemini"];

/// Path and body of a request in each client's format.
fn surfaces(stream: bool) -> [(&'static str, Value); 4] {
    let verb = if stream {
        "/v1beta/models/fast:streamGenerateContent?alt=sse"
    } else {
        "/v1beta/models/fast:generateContent"
    };
    [
        ("/v1/chat/completions", chat(stream)),
        ("/v1/responses", json!({ "model": "fast", "input": "hello", "stream": stream })),
        (
            "/v1/messages",
            json!({ "model": "fast", "max_tokens": 50, "stream": stream, "messages": [{ "role": "user", "content": "hello" }] }),
        ),
        (verb, json!({ "contents": [{ "role": "user", "parts": [{ "text": "hello" }] }] })),
    ]
}

/// The text of a whole answer, where the client's format has it.
fn said(path: &str, answer: &Value) -> String {
    let texts = |parts: &Value| -> String {
        parts.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()).collect()
    };
    match path {
        "/v1/chat/completions" => {
            answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().into()
        }
        "/v1/responses" => texts(&answer["output"][0]["content"]),
        "/v1/messages" => texts(&answer["content"]),
        _ => texts(&answer["candidates"][0]["content"]["parts"]),
    }
}

/// The text of a stream's deltas, where the client's format has them.
fn said_in_events(path: &str, stream: &str) -> String {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| {
        let event: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
        let text = match path {
            "/v1/chat/completions" => &event["choices"][0]["delta"]["content"],
            "/v1/responses" if event["type"] == "response.output_text.delta" => &event["delta"],
            "/v1/messages" if event["type"] == "content_block_delta" => &event["delta"]["text"],
            "/v1/responses" | "/v1/messages" => &Value::Null,
            _ => return said(path, &event),
        };
        text.as_str().unwrap_or_default().to_owned()
    })
    .collect()
}

#[tokio::test]
async fn any_surface_reaches_any_provider() {
    let fake = FakeAi::start().await.unwrap();
    for kind in KINDS {
        let stage = Stage::single(&fake, kind).await;
        let mut count = 0;
        for stream in [false, true] {
            for (path, body) in surfaces(stream) {
                fake.next(Reply::text("unmistakable words"));
                let answer = stage.post(path, &body).await;
                let case = format!("{path} onto {kind}, stream {stream}: {}", answer.text());
                assert_eq!(answer.status, 200, "{case}");
                count += 1;
                let settled = stage.records.settled(count).await;
                assert_eq!(settled.ending, Ending::Complete, "{case}");
                assert!(settled.usage.is_some_and(|usage| usage.output > 0), "{case}");
                let said =
                    if stream { said_in_events(path, &answer.text()) } else { said(path, &answer.json()) };
                assert_eq!(said, "unmistakable words", "{case}");
                if stream {
                    assert!(answer.header("content-type").starts_with("text/event-stream"), "{case}");
                    // Proxies on the way hold nothing back.
                    assert_eq!(answer.header("x-accel-buffering"), "no", "{case}");
                    assert_eq!(answer.header("cache-control"), "no-cache", "{case}");
                } else {
                    assert!(answer.header("content-type").starts_with("application/json"), "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn truncation_is_told_across_formats() {
    let fake = FakeAi::start().await.unwrap();
    for kind in ["openai", "anthropic", "gemini"] {
        for (path, body) in surfaces(true) {
            let stage = Stage::single(&fake, kind).await;
            fake.next(Reply::text("one two three four five six seven eight").cut_after_events(5, Cut::Clean));
            let answer = stage.post(path, &body).await;
            let case = format!("{path} onto {kind}: {}", answer.text());
            for end in
                ["[DONE]", "message_stop", "response.completed", "\"finish_reason\":\"", "finishReason"]
            {
                assert!(!answer.text().contains(end), "{end} in {case}");
            }
            assert!(answer.text().contains("error"), "{case}");
            assert_eq!(stage.records.settled(1).await.ending, Ending::Truncated, "{case}");
        }
    }
}

#[tokio::test]
async fn errors_are_said_in_the_clients_words_without_keys() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "anthropic").await;
    fake.next(Reply::error(400, "invalid_request_error", "wrong: upstream-main-key-12345678"));
    let answer = stage.chat().await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.json()["error"]["message"].as_str().is_some_and(|said| said.contains("wrong: [redacted]")),
        "{}",
        answer.text()
    );
    fake.next(Reply::rate_limited("120"));
    let answer = stage.chat().await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "120"), "{}", answer.text());
    let stage = Stage::single(&fake, "anthropic").await;
    fake.next(Reply::text("one two three four").error_after_events(
        4,
        500,
        "bad upstream-main-key-12345678 here",
    ));
    let answer = stage.stream().await;
    assert!(
        answer.text().contains("[redacted]") && !answer.text().contains("upstream-main"),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("[DONE]"));
    assert_eq!(stage.records.settled(1).await.ending, Ending::Interrupted);
}

#[tokio::test]
async fn a_route_falls_back_from_one_format_to_another() {
    let (first, second) = (FakeAi::start().await.unwrap(), FakeAi::start().await.unwrap());
    let stage = Stage::new(json!({
        "providers": {
            "one": { "kind": "openai", "url": first.url(), "keys": ["main"] },
            "two": { "kind": "anthropic", "url": second.url(), "keys": ["main"] },
        },
        "routes": { "fast": { "targets": [
            { "provider": "one", "model": "a" }, { "provider": "two", "model": "b", "priority": 2 },
        ] } },
    }))
    .await;
    first.next(Reply::error(503, "overloaded", "m"));
    let mut body = chat(true);
    body["logprobs"] = json!(true);
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.header("steward-target"), "two/b", "{}", answer.text());
    assert!(answer.text().contains("[DONE]"));
    assert!(answer.header("steward-dropped").contains("logprobs"), "{:?}", answer.headers);
    assert!(second.request(0).await.json()["max_tokens"].as_u64().is_some_and(|max| max > 0));
}

#[tokio::test]
async fn embeddings_and_counts_cross_formats() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "gemini").await;
    let answer = stage.post("/v1/embeddings", &json!({ "model": "fast", "input": ["a", "b"] })).await;
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(2), "{}", answer.text());
    assert!(fake.request(0).await.path.ends_with("model-1:batchEmbedContents"));
    let body =
        json!({ "model": "fast", "max_tokens": 1, "messages": [{ "role": "user", "content": "hello" }] });
    let answer = stage.post("/v1/messages/count_tokens", &body).await;
    assert!(answer.json()["input_tokens"].as_u64().is_some_and(|count| count > 0), "{}", answer.text());
    let stage = Stage::single(&fake, "openai").await;
    let one = json!({ "content": { "parts": [{ "text": "a" }] } });
    let answer = stage.post("/v1beta/models/fast:embedContent", &one).await;
    assert!(answer.json()["embedding"]["values"].is_array(), "{}", answer.text());
    let stage = Stage::single(&fake, "anthropic").await;
    let answer = stage.post("/v1/embeddings", &json!({ "model": "fast", "input": "a" })).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
}
