//! Marks for the providers' own prompt caches: passed on as they came, said in the other format, or left out and told.

use fake_ai::FakeAi;
use serde_json::{Value, json};

use crate::stage::Stage;

async fn stage(fake: &FakeAi, provider: Value) -> Stage {
    let mut provider = provider;
    provider["url"] = json!(fake.url());
    provider["keys"] = json!(["main"]);
    Stage::new(json!({
        "providers": { "up": provider },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "model-1" }], "retry": { "attempts": 1 } } },
    }))
    .await
}

fn chat(more: &Value) -> Value {
    with(json!({ "model": "fast", "messages": [{ "role": "user", "content": "hi" }] }), more)
}

fn responses(more: &Value) -> Value {
    with(json!({ "model": "fast", "input": "hi" }), more)
}

fn marked_messages() -> Value {
    let mark = json!({ "type": "ephemeral", "ttl": "1h" });
    json!({ "model": "fast", "max_tokens": 50,
        "system": [{ "type": "text", "text": "Long instructions.", "cache_control": mark }],
        "tools": [{ "name": "f", "input_schema": { "type": "object", "properties": {} }, "cache_control": mark }],
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hi", "cache_control": { "type": "ephemeral" } }] }] })
}

fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn in_the_same_format_every_mark_arrives_as_it_was_sent() {
    let keys = json!({ "prompt_cache_key": "tenant-7", "prompt_cache_retention": "24h" });
    let gemini = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hi" }] }], "cachedContent": "cachedContents/abc" });
    for (kind, path, body, at) in [
        ("anthropic", "/v1/messages", marked_messages(), "anthropic"),
        ("openai", "/v1/chat/completions", chat(&keys), "openai"),
        ("openai", "/v1/responses", responses(&keys), "openai"),
        ("gemini", "/v1beta/models/fast:generateContent", gemini, "gemini"),
    ] {
        let fake = FakeAi::start().await.unwrap();
        let formats = if kind == "openai" { json!(["chat", "responses"]) } else { Value::Null };
        let stage = stage(&fake, json!({ "kind": kind, "formats": formats })).await;
        let answer = stage.post(path, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("steward-dropped")),
            (200, ""),
            "{at}: {}",
            answer.text()
        );
        let mut expected = body.clone();
        if kind != "gemini" {
            expected["model"] = json!("model-1");
        }
        assert_eq!(fake.request(0).await.json(), expected, "{at} {path}");
    }
}

#[tokio::test]
async fn marks_of_anthropic_reach_whoever_understands_them() {
    let fake = FakeAi::start().await.unwrap();
    // A client of chat completions marks what Anthropic shall keep.
    let stage = stage(&fake, json!({ "kind": "anthropic" })).await;
    let part =
        json!([{ "type": "text", "text": "long", "cache_control": { "type": "ephemeral", "ttl": "1h" } }]);
    let body = chat(
        &json!({ "messages": [{ "role": "system", "content": part }, { "role": "user", "content": "hi" }] }),
    );
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert!(!answer.header("steward-dropped").contains("cache_control"), "{:?}", answer.headers);
    let sent = fake.request(0).await.json();
    assert_eq!(sent["system"][0]["cache_control"], json!({ "type": "ephemeral", "ttl": "1h" }), "{sent}");

    // A client of Anthropic's, to a server that takes the marks, and to one that does not.
    for (takes, number) in [(true, 1), (false, 2)] {
        let stage = self::stage(&fake, json!({ "kind": "openai", "cache_control": takes })).await;
        let answer = stage.post("/v1/messages", &marked_messages()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sent = fake.request(number).await.json().to_string();
        assert_eq!(sent.matches("cache_control").count(), if takes { 3 } else { 0 }, "{sent}");
        assert_eq!(
            answer.header("steward-dropped").contains("cache_control"),
            !takes,
            "{:?}",
            answer.headers
        );
    }
    let stage = self::stage(&fake, json!({ "kind": "gemini" })).await;
    let answer = stage.post("/v1/messages", &marked_messages()).await;
    assert!(answer.header("steward-dropped").contains("cache_control"), "{:?}", answer.headers);
}

#[tokio::test]
async fn keys_of_openai_s_cache_go_on_to_openai_and_are_told_elsewhere() {
    let fake = FakeAi::start().await.unwrap();
    let keys = json!({ "prompt_cache_key": "tenant-7" });
    let openai = stage(&fake, json!({ "kind": "openai", "formats": ["responses"] })).await;
    let answer = openai.post("/v1/chat/completions", &chat(&keys)).await;
    assert_eq!(answer.header("steward-dropped"), "", "{}", answer.text());
    assert_eq!(fake.request(0).await.json()["prompt_cache_key"], "tenant-7");
    for kind in ["anthropic", "gemini"] {
        let other = stage(&fake, json!({ "kind": kind })).await;
        let answer = other.post("/v1/chat/completions", &chat(&keys)).await;
        assert_eq!(answer.status, 200);
        assert!(
            answer.header("steward-dropped").contains("prompt_cache_key"),
            "{kind}: {:?}",
            answer.headers
        );
    }
}

#[tokio::test]
async fn a_cached_content_of_gemini_is_no_prompt_for_anybody_else() {
    let fake = FakeAi::start().await.unwrap();
    let body =
        json!({ "contents": [{ "parts": [{ "text": "hi" }] }], "cachedContent": "cachedContents/abc" });
    for kind in ["openai", "anthropic"] {
        let stage = stage(&fake, json!({ "kind": kind })).await;
        let answer = stage.post("/v1beta/models/fast:generateContent", &body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains("cachedContent"), "{}", answer.text());
    }
    assert!(fake.requests().is_empty());
}
