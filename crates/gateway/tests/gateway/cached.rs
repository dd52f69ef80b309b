//! Answers that are given again: to the same question only, whole ones only, streamed or not.

use fake_ai::{Ending as Cut, FakeAi, Gate, Reply};
use gateway::{CacheDecision, Ending, Table};
use serde_json::{Value, json};

use crate::stage::{Read, Stage, grant};

/// The stage with a route whose answers are kept for ten minutes.
async fn stage(fake: &FakeAi, kind: &str) -> Stage {
    Stage::new(json!({
        "providers": { "up": { "kind": kind, "url": fake.url(), "keys": ["main"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "model-1" }],
            "retry": { "attempts": 1 }, "cache": { "ttl_s": 600 } } },
    }))
    .await
}

fn question(content: &str, stream: bool) -> Value {
    json!({ "model": "fast", "temperature": 0, "stream": stream,
        "messages": [{ "role": "user", "content": content }] })
}

async fn ask(stage: &Stage, content: &str, stream: bool) -> Read {
    stage.post("/v1/chat/completions", &question(content, stream)).await
}

/// The text of a chat's stream.
fn streamed(answer: &Read) -> String {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.filter_map(|data| {
        let chunk: Value = serde_json::from_str(data).unwrap();
        chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
    })
    .collect()
}

#[tokio::test]
async fn the_same_question_is_asked_once() {
    let fake = FakeAi::start().await.unwrap();
    for kind in ["openai", "anthropic", "gemini"] {
        let stage = stage(&fake, kind).await;
        fake.next(Reply::text("first answer"));
        fake.next(Reply::text("second answer"));
        let first = ask(&stage, "hello", false).await;
        assert_eq!((first.status.as_u16(), first.header("steward-cache")), (200, "miss"), "{kind}");
        let again = ask(&stage, "hello", false).await;
        assert_eq!(again.header("steward-cache"), "hit");
        assert_eq!(again.json()["choices"][0]["message"]["content"], "first answer");
        let settled = stage.records.settled(2).await;
        assert_eq!((settled.cache, settled.attempts.len()), (CacheDecision::Hit, 0));
        let other = ask(&stage, "hello?", false).await;
        assert_eq!(other.header("steward-cache"), "miss");
        assert_eq!(other.json()["choices"][0]["message"]["content"], "second answer");
    }
}

#[tokio::test]
async fn a_stream_and_a_whole_answer_replay_each_other() {
    let fake = FakeAi::start().await.unwrap();
    for kind in ["openai", "anthropic", "gemini"] {
        let stage = stage(&fake, kind).await;
        fake.next(Reply::text("streamed at first"));
        let first = ask(&stage, "one", true).await;
        assert_eq!(streamed(&first), "streamed at first", "{kind}");
        stage.records.settled(1).await;
        let whole = ask(&stage, "one", false).await;
        assert_eq!(whole.header("steward-cache"), "hit", "{kind}: {}", whole.text());
        assert_eq!(whole.json()["choices"][0]["message"]["content"], "streamed at first");
        assert!(whole.json()["usage"]["completion_tokens"].as_u64() > Some(0), "{}", whole.text());

        fake.next(Reply::text("whole at first"));
        ask(&stage, "two", false).await;
        let stream = ask(&stage, "two", true).await;
        assert_eq!(stream.header("steward-cache"), "hit");
        assert_eq!(stream.header("x-accel-buffering"), "no");
        assert_eq!(streamed(&stream), "whole at first");
        assert!(stream.text().trim_end().ends_with("data: [DONE]"));
    }
}

#[tokio::test]
async fn errors_and_truncations_are_not_kept() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, "openai").await;
    fake.next(Reply::error(500, "server_error", "broken"));
    assert_eq!(ask(&stage, "a", false).await.status, 500);
    fake.next(Reply::text("one two three four five six").cut_after_events(4, Cut::Clean));
    ask(&stage, "a", true).await;
    assert_eq!(stage.records.settled(2).await.ending, Ending::Truncated);
    fake.next(Reply::text("well"));
    let answer = ask(&stage, "a", false).await;
    assert_eq!(answer.header("steward-cache"), "miss");
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "well");
}

#[tokio::test]
async fn who_wants_a_fresh_or_a_random_answer_gets_it() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, "openai").await;
    ask(&stage, "a", false).await;
    let body = question("a", false).to_string();
    let headers = [("content-type", "application/json"), ("cache-control", "no-cache")];
    let fresh = stage.call("POST", "/v1/chat/completions", &headers, &body).await;
    assert_eq!(fresh.header("steward-cache"), "bypass");
    let mut random = question("a", false);
    random["temperature"] = json!(0.7);
    assert_eq!(stage.post("/v1/chat/completions", &random).await.header("steward-cache"), "bypass");
    assert_eq!(ask(&stage, "a", false).await.header("steward-cache"), "hit");
}

#[tokio::test]
async fn many_who_ask_the_same_wait_for_one() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, "openai").await;
    let gate = Gate::new();
    fake.next(Reply::text("for all").gate(&gate));
    let asking = (0..20).map(|_| ask(&stage, "same", false));
    let all = futures::future::join_all(asking);
    let opened = async {
        // The others can only be answered by the one that was let through, whenever they come.
        tokio::task::yield_now().await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(all, opened);
    for answer in &answers {
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "for all");
    }
    assert_eq!(answers.iter().filter(|answer| answer.header("steward-cache") == "miss").count(), 1);
}

#[tokio::test]
async fn the_same_question_is_recognised_without_being_kept() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, "openai").await;
    ask(&stage, "hello", false).await;
    let first = stage.records.settled(1).await.cache_note.clone().unwrap();
    // Written otherwise, and answered from the cache.
    let body =
        r#"{"messages":[{"content":"hello","role":"user"}],"model":"fast", "temperature":0, "user":"u1"}"#;
    let headers = [("content-type", "application/json")];
    assert_eq!(
        stage.call("POST", "/v1/chat/completions", &headers, body).await.header("steward-cache"),
        "hit"
    );
    assert_eq!(stage.records.settled(2).await.cache_note, Some(first.clone()));
    let mut random = question("hello", false);
    random["temperature"] = json!(1);
    stage.post("/v1/chat/completions", &random).await;
    let third = stage.records.settled(3).await.cache_note.clone().unwrap();
    assert!(third.samples && !first.samples && third.question != first.question);

    // Without a cache it is one question in sixteen, and then each time that it comes.
    let stage = Stage::single(&fake, "openai").await;
    let mut noted = Vec::new();
    for number in 0..64 {
        let content = format!("question {}", number % 32);
        ask(&stage, &content, false).await;
        noted.push(stage.records.settled(number + 1).await.cache_note.clone());
    }
    let (once, again) = noted.split_at(32);
    assert_eq!(once, again);
    let count = once.iter().flatten().count();
    assert!((1..16).contains(&count), "{count} of 32");
}

#[tokio::test]
async fn answers_are_shared_as_far_as_the_route_says() {
    let fake = FakeAi::start().await.unwrap();
    let keys = [
        ("sk-steward-one", "anna"),
        ("sk-steward-two", "anna"),
        ("sk-steward-three", ""),
        ("sk-steward-four", ""),
    ];
    for (per, decisions) in [
        (None, ["miss", "hit", "hit", "hit"]),
        (Some("project"), ["miss", "hit", "hit", "hit"]),
        (Some("person"), ["miss", "hit", "miss", "miss"]),
        (Some("key"), ["miss", "miss", "miss", "miss"]),
    ] {
        let mut cache = json!({ "ttl_s": 600 });
        if let Some(per) = per {
            cache["per"] = json!(per);
        }
        let stage = Stage::new(json!({
            "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
            "routes": { "fast": { "targets": [{ "provider": "up", "model": "model-1" }], "cache": cache } },
        }))
        .await;
        let projects = stage.gateway.table().projects().to_vec();
        let grants = keys.map(|(key, person)| {
            let mut grant = grant(&projects[0]);
            grant.id = key.into();
            grant.person = (!person.is_empty()).then(|| person.into());
            (stage.fingerprints.of(key.as_bytes()), grant)
        });
        stage.gateway.replace(Table::new(stage.fingerprints.clone(), projects.clone(), grants));
        for ((key, _), decision) in keys.iter().zip(decisions) {
            let body = question("hello", false).to_string();
            for decision in [decision, "hit"] {
                let answer = stage.call("POST", "/v1/chat/completions", &[("x-api-key", key)], &body).await;
                assert_eq!(answer.header("steward-cache"), decision, "{per:?} {key}: {}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn headers_that_change_the_answer_are_part_of_the_question() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, "anthropic").await;
    let body = json!({ "model": "fast", "temperature": 0, "max_tokens": 9,
        "messages": [{ "role": "user", "content": "hello" }] });
    let body = body.to_string();
    let version = ("anthropic-version", "2023-06-01");
    for (headers, decision) in [
        (vec![version], "miss"),
        (vec![("x-stainless-retry-count", "1"), ("x-stainless-runtime-version", "3"), version], "hit"),
        (vec![version, ("anthropic-beta", "one")], "miss"),
        (vec![("anthropic-beta", "one"), version], "hit"),
        (vec![version, ("anthropic-beta", "two")], "miss"),
        (vec![("anthropic-version", "2024-01-01")], "miss"),
    ] {
        let answer = stage.call("POST", "/v1/messages", &headers, &body).await;
        assert_eq!(answer.header("steward-cache"), decision, "{headers:?}: {}", answer.text());
    }
}
