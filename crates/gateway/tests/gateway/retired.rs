//! Models that were retired, and how many tokens fit: what the price table says of models.

use fake_ai::{FakeAi, Reply};
use gateway::Ending;
use http::StatusCode;
use serde_json::{Value, json};

use crate::stage::{Stage, chat};

/// Fakes for the services of three kinds, which follow the table's retirements as the real ones would.
async fn stage(fake: &FakeAi) -> Stage {
    let provider = |kind: &str, formats: Value| json!({ "kind": kind, "url": fake.url(), "keys": ["main"], "successors": true, "formats": formats });
    let only = |provider: &str, model: &str| json!({ "targets": [{ "provider": provider, "model": model }], "retry": { "base_ms": 1 } });
    Stage::new(json!({
        "providers": {
            "openai": provider("openai", json!(["chat", "responses"])),
            "anthropic": provider("anthropic", Value::Null),
            "google": provider("gemini", Value::Null),
            "basement": { "kind": "openai", "url": fake.url(), "keys": ["main"] },
        },
        "routes": {
            "fast": only("openai", "gpt-4-32k"),
            "claude": only("anthropic", "claude-2.1"),
            "flash": only("google", "gemini-2.5-flash"),
            "vectors": only("google", "embedding-001"),
            "old": only("openai", "text-davinci-003"),
            "own": only("basement", "gpt-4-32k"),
            "two": { "targets": [
                { "provider": "openai", "model": "text-davinci-003" },
                { "provider": "openai", "model": "gpt-5.2", "priority": 2 },
            ] },
        },
    }))
    .await
}

/// Path and body of a request for this model in each client's format.
fn surfaces(model: &str, stream: bool) -> Vec<(String, Value)> {
    let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let mut surfaces = vec![
        (
            "/v1/chat/completions".to_owned(),
            json!({ "model": model, "stream": stream, "messages": messages }),
        ),
        ("/v1/responses".to_owned(), json!({ "model": model, "input": "hello", "stream": stream })),
        (
            "/v1/messages".to_owned(),
            json!({ "model": model, "max_tokens": 50, "stream": stream, "messages": messages }),
        ),
    ];
    if !model.contains('/') {
        let contents = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hello" }] }] });
        surfaces.push((format!("/v1beta/models/{model}:{verb}"), contents));
        surfaces.push((
            format!("/openai/deployments/{model}/chat/completions?api-version=2024-10-21"),
            json!({ "stream": stream, "messages": messages }),
        ));
    }
    surfaces
}

#[tokio::test]
async fn a_retired_name_reaches_its_successor_on_every_surface_and_the_answer_says_so() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake).await;
    let mut count = 0;
    for (asked, model, target) in [
        // As a route's target, by itself, and as a provider's model.
        ("fast", "gpt-4.1", "openai/gpt-4.1"),
        ("gpt-4-32k", "gpt-4.1", "openai/gpt-4.1"),
        ("openai/gpt-4o-2024-05-13", "gpt-4o", "openai/gpt-4o"),
        ("claude", "claude-opus-4-8", "anthropic/claude-opus-4-8"),
        ("claude-2.1", "claude-opus-4-8", "anthropic/claude-opus-4-8"),
        // PaLM and Bard: no route names them, one leads to their successor.
        ("text-bison-001", "gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("bard", "gemini-2.5-flash", "google/gemini-2.5-flash"),
    ] {
        for stream in [false, true] {
            for (path, body) in surfaces(asked, stream) {
                fake.next(Reply::text("from the successor"));
                let answer = stage.post(&path, &body).await;
                let case = format!("{asked} at {path}, stream {stream}: {}", answer.text());
                assert_eq!(answer.status, 200, "{case}");
                assert_eq!(answer.header("steward-target"), target, "{case}");
                let instead = answer.header("steward-instead-of");
                assert!(instead.contains("; retired=20"), "{instead:?} {case}");
                assert_eq!(fake.request(count).await.model().unwrap(), model, "{case}");
                count += 1;
                let settled = stage.records.settled(count).await;
                assert_eq!(settled.ending, Ending::Complete, "{case}");
                assert_eq!(&*settled.asked_model, asked, "{case}");
                assert!(settled.attempts[0].target.retired.is_some(), "{case}");
            }
        }
    }
    let embed = json!({ "model": "vectors", "input": "hello" });
    let answer = stage.post("/v1/embeddings", &embed).await;
    assert_eq!(answer.header("steward-target"), "google/gemini-embedding-001", "{}", answer.text());
    assert_eq!(answer.header("steward-instead-of"), "embedding-001; retired=2025-08-14");
}

#[tokio::test]
async fn a_name_without_a_successor_is_refused_on_every_surface_with_the_day() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake).await;
    for asked in ["old", "text-davinci-003", "openai/text-davinci-003"] {
        for (path, body) in surfaces(asked, false) {
            let answer = stage.post(&path, &body).await;
            let case = format!("{asked} at {path}: {}", answer.text());
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{case}");
            let says = ["`text-davinci-003`", "openai", "2024-01-04", "no successor"];
            assert!(says.iter().all(|says| answer.text().contains(says)), "{case}");
        }
    }
    // One of two targets is gone: the other one answers, and nothing is sent to the first.
    fake.next(Reply::text("x"));
    let mut body = chat(false);
    body["model"] = json!("two");
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert_eq!((answer.header("steward-target"), answer.header("steward-attempts")), ("openai/gpt-5.2", "1"));
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_name_whose_successor_cannot_be_asked_for_is_told_the_successor() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake).await;
    for (path, body) in surfaces("claude-3-opus-20240229", false) {
        let answer = stage.post(&path, &body).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        let text = answer.text();
        assert!(text.contains("2026-01-05") && text.contains("`claude-opus-5`"), "{path}: {text}");
    }
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn a_server_of_ones_own_serves_what_it_likes() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake).await;
    fake.next(Reply::text("x"));
    let mut body = chat(false);
    body["model"] = json!("own");
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert_eq!(
        (answer.header("steward-target"), answer.header("steward-instead-of")),
        ("basement/gpt-4-32k", "")
    );
    assert_eq!(fake.request(0).await.model().unwrap(), "gpt-4-32k");
}

#[tokio::test]
async fn a_prompt_that_was_too_long_goes_to_the_larger_window_of_the_price_table() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::new(json!({
        "providers": { "openai": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
        "routes": { "fast": {
            "targets": [
                { "provider": "openai", "model": "gpt-4o-mini" },
                // 8,192 tokens, nobody knows how many, and a million.
                { "provider": "openai", "model": "gpt-4", "priority": 2 },
                { "provider": "openai", "model": "nobody-knows", "priority": 3 },
                { "provider": "openai", "model": "gpt-4.1", "priority": 4 },
            ],
            "retry": { "base_ms": 1, "attempts": 4 },
        } },
    }))
    .await;
    fake.next(Reply::error(400, "context_length_exceeded", "too long"));
    fake.next(Reply::text("it fits"));
    let answer = stage.chat().await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("steward-target")),
        (200, "openai/gpt-4.1"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("steward-attempts"), "2", "smaller and unknown windows are not tried");
}

#[tokio::test]
async fn an_answer_is_not_asked_to_be_longer_than_the_model_can_say() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::new(json!({
        "providers": { "anthropic": { "kind": "anthropic", "url": fake.url(), "keys": ["main"] } },
        "routes": {
            "long": { "targets": [{ "provider": "anthropic", "model": "claude-haiku-4-5" }], "max_tokens": 200_000 },
            "short": { "targets": [{ "provider": "anthropic", "model": "claude-haiku-4-5" }], "max_tokens": 100 },
        },
    }))
    .await;
    for (route, tokens) in [("long", 64_000), ("short", 100)] {
        fake.next(Reply::text("x"));
        let mut body = chat(false);
        body["model"] = json!(route);
        let answer = stage.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(fake.requests().last().unwrap().json()["max_tokens"], tokens, "{route}");
    }
}
