//! Which target is asked next, and when nobody is.

use std::time::Duration;

use contract::ai::FailureClass;
use fake_ai::{Ending as Cut, FakeAi, On, Reply, refused_address};
use gateway::Ending;
use serde_json::json;

use crate::stage::{Stage, chat};

async fn two(first: &FakeAi, second: &FakeAi) -> Stage {
    Stage::new(json!({
        "providers": {
            "one": { "kind": "openai", "url": first.url(), "keys": ["main"] },
            "two": { "kind": "openai", "url": second.url(), "keys": ["main"] },
        },
        "routes": { "fast": {
            "targets": [
                { "provider": "two", "model": "second", "priority": 2, "context_tokens": 1000 },
                { "provider": "one", "model": "first", "context_tokens": 100 },
            ],
            "retry": { "base_ms": 1, "attempts": 3 },
        } },
    }))
    .await
}

#[tokio::test]
async fn failures_before_the_first_byte_go_to_the_next_target() {
    for (name, stream, reply, class, may_cost) in [
        ("500", false, Reply::error(500, "server_error", "m"), FailureClass::Server, false),
        ("529", false, Reply::error(529, "overloaded", "m"), FailureClass::Overloaded, false),
        ("404", false, Reply::error(404, "model_not_found", "m"), FailureClass::NotFound, false),
        ("401", false, Reply::error(401, "invalid_api_key", "m"), FailureClass::Key, false),
        ("quota", false, Reply::error(429, "insufficient_quota", "m"), FailureClass::Quota, false),
        ("rate", false, Reply::rate_limited("3600"), FailureClass::Rate, false),
        (
            "too long",
            false,
            Reply::error(400, "context_length_exceeded", "m"),
            FailureClass::ContextLength,
            false,
        ),
        ("reset", false, Reply::reset(), FailureClass::Network, true),
        ("close", false, Reply::close(), FailureClass::Network, true),
        (
            "half a plain answer",
            false,
            Reply::text("x").cut_after_bytes(20, Cut::Close),
            FailureClass::Network,
            true,
        ),
        (
            "error first in the stream",
            true,
            Reply::text("x").error_after_events(0, 500, "m"),
            FailureClass::Server,
            true,
        ),
        (
            "error after the role",
            true,
            Reply::text("x").error_after_events(1, 429, "m"),
            FailureClass::Rate,
            true,
        ),
        ("no JSON with 200", false, Reply::raw("application/json", "<html>"), FailureClass::Server, true),
        (
            "stream cut before content",
            true,
            Reply::text("x").cut_after_events(1, Cut::Clean),
            FailureClass::Truncated,
            true,
        ),
    ] {
        let (first, second) = (FakeAi::start().await.unwrap(), FakeAi::start().await.unwrap());
        let stage = two(&first, &second).await;
        first.next(reply);
        second.next(Reply::text("from the second"));
        let answer = if stream { stage.stream().await } else { stage.chat().await };
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(answer.header("steward-target"), "two/second", "{name}");
        assert_eq!(answer.header("steward-attempts"), "2", "{name}");
        let settled = stage.records.settled(1).await;
        assert_eq!(settled.attempts[0].failure, Some(class), "{name}");
        assert_eq!(settled.attempts[0].may_cost, may_cost, "{name}");
        assert_eq!(settled.attempts[1].failure, None, "{name}");
        assert_eq!(settled.ending, Ending::Complete, "{name}");
    }
}

#[tokio::test]
async fn what_is_wrong_everywhere_is_not_tried_elsewhere() {
    for (status, code) in [(400, "unsupported_parameter"), (400, "content_policy_violation"), (422, "x")] {
        let (first, second) = (FakeAi::start().await.unwrap(), FakeAi::start().await.unwrap());
        let stage = two(&first, &second).await;
        first.next(Reply::error(status, code, "the reason"));
        let answer = stage.chat().await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(answer.text().contains("the reason"));
        assert!(second.requests().is_empty());
    }
}

#[tokio::test]
async fn after_the_first_byte_nothing_is_switched() {
    let (first, second) = (FakeAi::start().await.unwrap(), FakeAi::start().await.unwrap());
    let stage = two(&first, &second).await;
    first.next(Reply::text("one two three four five").cut_after_events(4, Cut::Reset));
    let answer = stage.stream().await;
    assert_eq!(answer.header("steward-target"), "one/first");
    assert!(answer.text().contains("upstream_truncated"), "{}", answer.text());
    assert!(second.requests().is_empty());
}

#[tokio::test]
async fn rate_limits_keep_status_and_wait_when_nobody_else_is_there() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.always(On::any(), Reply::rate_limited("120"));
    let answer = stage.chat().await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "120"));
    assert_eq!(fake.requests().len(), 1, "a wait of minutes is the client's to decide");
    // The key rests now: the next request is not even sent, and hears the rest of the wait.
    let answer = stage.chat().await;
    assert_eq!(answer.status, 429);
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=121).contains(&wait), "{wait}");
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn while_the_only_key_rests_every_surface_hears_429_and_the_rest_of_the_wait() {
    for (code, says) in [("rate_limit_exceeded", "rate limit"), ("insufficient_quota", "quota")] {
        let fake = FakeAi::start().await.unwrap();
        let stage = Stage::new(json!({
            "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
            "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }], "retry": { "base_ms": 1 } } },
            "pass_through": { "language": { "prefix": "/language", "url": fake.url(), "keys": ["azure"] } },
        }))
        .await;
        fake.always(On::any(), Reply::error(429, code, "no more").header("retry-after", "40"));
        let messages = json!([{ "role": "user", "content": "hello" }]);
        assert_eq!(stage.chat().await.status, 429, "the provider's own");
        assert_eq!(stage.post("/language/x", &json!({})).await.status, 429, "the service's own");
        for (path, body) in [
            ("/v1/chat/completions", chat(false)),
            ("/v1/chat/completions", chat(true)),
            ("/v1/responses", json!({ "model": "fast", "input": "hello" })),
            ("/v1/messages", json!({ "model": "fast", "max_tokens": 5, "messages": messages })),
            (
                "/v1beta/models/fast:generateContent",
                json!({ "contents": [{ "parts": [{ "text": "hello" }] }] }),
            ),
            ("/v1/embeddings", json!({ "model": "fast", "input": "hello" })),
            ("/language/x", json!({})),
        ] {
            let answer = stage.post(path, &body).await;
            let case = format!("{code} {path}: {}", answer.text());
            assert_eq!(answer.status, 429, "{case}");
            let wait: u64 = answer.header("retry-after").parse().unwrap_or_else(|_| panic!("{case}"));
            assert!((1..=41).contains(&wait), "{wait} {case}");
            // What a declared service says is not understood beyond its status.
            let says = if path == "/language/x" { "rate limit" } else { says };
            assert!(answer.text().contains(says), "{case}");
            let error = &answer.json()["error"];
            match path {
                "/v1/messages" => assert_eq!(error["type"], "rate_limit_error", "{case}"),
                path if path.starts_with("/v1beta") => {
                    assert_eq!(
                        (&error["code"], &error["status"]),
                        (&json!(429), &json!("RESOURCE_EXHAUSTED")),
                        "{case}"
                    );
                }
                _ => assert!(error["message"].is_string(), "{case}"),
            }
        }
        assert_eq!(fake.requests().len(), 2, "a key that rests is not asked");
    }
}

#[tokio::test]
async fn a_short_wait_is_honoured() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.next(Reply::rate_limited("0.2"));
    let answer = stage.chat().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.requests().len(), 2);
    // The record says that the second attempt was not made before the provider allowed it.
    let attempts = &stage.records.settled(1).await.attempts;
    assert!(
        attempts[1].began.saturating_sub(attempts[0].began) >= Duration::from_millis(200),
        "{attempts:?}"
    );
}

#[tokio::test]
async fn another_key_is_used_at_once() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::new(json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["a", "b", "c", "d"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }], "retry": { "attempts": 1 } } },
    }))
    .await;
    fake.accept_keys(["upstream-d-key-12345678"]);
    for _ in 0..3 {
        assert_eq!(stage.chat().await.status, 200);
    }
    // Three keys were refused once each, and then left alone.
    assert!(fake.requests().len() <= 3 + 3, "{}", fake.requests().len());
    let last = stage.records.settled(3).await;
    assert_eq!(&*last.served_by().unwrap().key, "d");
}

#[tokio::test]
async fn the_breaker_opens_and_the_client_is_told_when_to_come_back() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.always(On::any(), Reply::error(500, "server_error", "m"));
    for _ in 0..2 {
        assert_eq!(stage.chat().await.status, 500);
    }
    let sent = fake.requests().len();
    let answer = stage.chat().await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(fake.requests().len(), sent);
}

#[tokio::test]
async fn nobody_there_is_a_bad_gateway() {
    let address = refused_address().unwrap();
    let stage = Stage::new(json!({
        "providers": { "up": { "kind": "openai", "url": format!("http://{address}/v1"), "keys": ["a"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }], "retry": { "base_ms": 1 } } },
    }))
    .await;
    let answer = stage.chat().await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "server_error");
    let settled = stage.records.settled(1).await;
    assert_eq!(settled.attempts.len(), 3);
    assert!(settled.attempts.iter().all(|attempt| attempt.failure == Some(FailureClass::Network)));
}

#[tokio::test]
async fn weights_share_and_single_models_need_no_route() {
    let (first, second) = (FakeAi::start().await.unwrap(), FakeAi::start().await.unwrap());
    let stage = Stage::new(json!({
        "providers": {
            "one": { "kind": "openai", "url": first.url(), "keys": ["main"] },
            "two": { "kind": "openai", "url": second.url(), "keys": ["main"], "models": ["listed"] },
        },
        "routes": { "fast": { "targets": [
            { "provider": "one", "model": "first", "weight": 3 }, { "provider": "two", "model": "second" },
        ] } },
    }))
    .await;
    for _ in 0..80 {
        assert_eq!(stage.chat().await.status, 200);
    }
    // 60 and 20 are expected; the bounds are beyond six standard deviations.
    assert!((36..=78).contains(&first.requests().len()), "{}", first.requests().len());
    for (model, status) in [
        ("two/listed", 200),
        ("listed", 200),
        ("two/other", 404),
        ("one/anything", 200),
        ("first", 200),
        ("none", 404),
    ] {
        let mut body = chat(false);
        body["model"] = json!(model);
        let answer = stage.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status.as_u16(), status, "{model}: {}", answer.text());
    }
}
