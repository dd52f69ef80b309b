//! Who is not let in, and what they hear.

use std::sync::Arc;

use bytes::Bytes;
use contract::TestClock;
use fake_ai::{FakeAi, Reply};
use gateway::{AiConfig, Gateway, Reach, Refusal, Rights, Table};
use http::StatusCode;
use outbound::Outgoing;
use serde_json::json;

use crate::stage::{KEY, NOW, Stage, books, chat};

#[tokio::test]
async fn keys_come_in_four_headers() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let body = chat(false).to_string();
    let bearer = format!("bearer {KEY}");
    for (header, value, status) in [
        ("authorization", bearer.as_str(), 200),
        ("x-api-key", KEY, 200),
        ("x-goog-api-key", KEY, 200),
        ("api-key", KEY, 200),
        ("authorization", KEY, 401),
        ("x-api-key", "sk-steward-other", 401),
        ("x-api-key", "", 401),
    ] {
        let answer = stage.call("POST", "/v1/chat/completions", &[(header, value)], &body).await;
        assert_eq!(answer.status.as_u16(), status, "{header} {value}: {}", answer.text());
        assert!(!answer.text().contains("sk-steward"), "{}", answer.text());
    }
    assert_eq!(stage.records.count(), 4, "what is refused costs nothing");
}

#[tokio::test]
async fn errors_are_told_in_the_protocol_of_the_path() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    for (path, place) in [
        ("/v1/chat/completions", "/error/code"),
        ("/v1/messages", "/error/type"),
        ("/v1beta/models/a:generateContent", "/error/status"),
    ] {
        let answer = stage.call("POST", path, &[("x-api-key", "no")], "{}").await;
        assert_eq!(answer.status, 401);
        assert!(answer.json().pointer(place).is_some_and(serde_json::Value::is_string), "{}", answer.text());
    }
}

#[tokio::test]
async fn bad_requests_are_told_with_their_field() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    for (path, body, status, said) in [
        ("/v1/chat/completions", "{\"model\":", 400, "JSON"),
        ("/v1/chat/completions", "[]", 400, "object"),
        ("/v1/chat/completions", "{\"model\":7}", 400, "`model`"),
        ("/v1/chat/completions", "{}", 400, "`model`"),
        ("/v1/chat/completions", "{\"model\":\"none\"}", 404, "`none`"),
        ("/v1/messages", "{\"model\":\"fast\"}", 400, "`max_tokens`"),
        // It would cost after its reply was settled.
        ("/v1/responses", "{\"model\":\"fast\",\"input\":\"a\",\"background\":true}", 400, "`background`"),
        (
            "/v1/responses",
            "{\"model\":\"fast\",\"input\":\"a\",\"backgr\\u006fund\":true,\"stream\":true}",
            400,
            "`background`",
        ),
        ("/v1/nothing", "{}", 404, "nothing"),
        // Known, and not offered.
        ("/v1beta/files", "{}", 404, "send the data inline"),
        ("/v1/conversations", "{}", 404, "`ai.pass_through`"),
    ] {
        let answer = stage.call("POST", path, &[], body).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {body}: {}", answer.text());
        assert!(answer.text().contains(said), "{path} {body}: {}", answer.text());
    }
    assert!(fake.requests().is_empty());
    let body = json!({ "model": "fast", "input": "a", "background": false });
    assert_eq!(stage.post("/v1/responses", &body).await.status, 200);
}

#[tokio::test]
async fn what_gemini_has_and_the_gateway_not_is_told_in_its_words() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    for (method, path, said) in [
        ("GET", "/v1beta/files", "send the data inline"),
        ("POST", "/v1beta/files", "send the data inline"),
        ("GET", "/v1beta/files/abc", "send the data inline"),
        ("POST", "/upload/v1beta/files", "send the data inline"),
        ("POST", "/v1beta/cachedContents", "send the data inline"),
        ("GET", "/gemini/v1beta/batches", "send the data inline"),
        ("GET", "/v1beta/tunedModels/a", "send the data inline"),
        // OpenAI's and Anthropic's words are not Google's.
        ("POST", "/v1beta/chat/completions", "nothing at this path"),
        ("POST", "/v1beta/messages", "nothing at this path"),
        ("GET", "/v1beta/fine_tuning/jobs", "nothing at this path"),
        ("POST", "/v1beta/models/fast:sing", "nothing at this path"),
        ("POST", "/v1beta/models/fast", "nothing at this path"),
        ("GET", "/v1beta/operations/1", "nothing at this path"),
        ("GET", "/v1beta/", "nothing at this path"),
    ] {
        let answer = stage.call(method, path, &[], &chat(false).to_string()).await;
        let error = &answer.json()["error"];
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
        assert_eq!((&error["code"], &error["status"]), (&json!(404), &json!("NOT_FOUND")), "{method} {path}");
        assert!(error["message"].as_str().unwrap().contains(said), "{method} {path}: {error}");
    }
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn expired_and_revoked_keys_are_refused() {
    let fake = FakeAi::start().await.unwrap();
    let expiring = json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }] } },
    });
    let stage =
        Stage::with(expiring, |grant| grant.expires = Some("2026-03-04T02:00:01Z".parse().unwrap())).await;
    assert_eq!(stage.chat().await.status, 200);
    stage.clock.advance_us(1_000_000);
    let answer = stage.chat().await;
    assert_eq!(answer.status, 401);
    assert!(answer.text().contains("expired"), "{}", answer.text());
    stage.clock.advance_us(-1_000_000);
    let projects = stage.gateway.table().projects().to_vec();
    stage.gateway.replace(Table::new(stage.fingerprints.clone(), projects, []));
    let answer = stage.chat().await;
    assert_eq!(answer.status, 401);
    assert!(answer.text().contains("not known"), "{}", answer.text());
}

#[tokio::test]
async fn too_large_bodies_are_refused_before_they_are_read() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::new(json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }] } },
        "body_bytes_max": 2000,
    }))
    .await;
    let mut body = chat(false);
    body["messages"][0]["content"] = json!("x".repeat(3_000));
    let answer = stage.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.text());
    // Told but never sent: an answer can only come if nothing was waited for.
    let address = stage.address;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 99999999\r\n\r\n"
    );
    let answer = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.write_all(head.as_bytes()).unwrap();
        let mut begin = [0; 12];
        socket.read_exact(&mut begin).unwrap();
        String::from_utf8_lossy(&begin).into_owned()
    });
    assert_eq!(answer.await.unwrap(), "HTTP/1.1 413");
    // Nothing told, sent in chunks.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    drop(receiver);
    drop(sender);
    let request = http::Request::post(stage.url("/v1/chat/completions"))
        .header("authorization", format!("Bearer {KEY}"))
        .body(Outgoing::Forwarded(http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(
            http_body_util::StreamBody::new(futures::stream::iter((0..10).map(|_| {
                Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(vec![b'x'; 500])))
            }))),
            Into::into,
        ))))
        .unwrap();
    assert_eq!(stage.client.send(request).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn reach_and_rights_bound_a_key_and_its_list_of_models() {
    let fake = FakeAi::start().await.unwrap();
    let config = json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"], "models": ["a", "b"] } },
        "routes": {
            "fast": { "targets": [{ "provider": "up", "model": "m" }] },
            "smart": { "targets": [{ "provider": "up", "model": "n" }] },
        },
    });
    let stage = Stage::with(config.clone(), |grant| {
        grant.reach = Reach::Named(["fast", "up/a"].map(Box::from).into());
        grant.rights = Rights { call: true, fine_tune: false };
    })
    .await;
    for (model, status) in
        [("fast", 200), ("smart", 404), ("up/a", 200), ("a", 200), ("up/b", 404), ("m", 404)]
    {
        let mut body = chat(false);
        body["model"] = json!(model);
        let answer = stage.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status.as_u16(), status, "{model}: {}", answer.text());
    }
    let list = stage.call("GET", "/v1/models", &[], "").await.json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!(ids, ["fast", "up/a"]);
    let list = stage.call("GET", "/v1/models", &[("anthropic-version", "2023-06-01")], "").await.json();
    assert_eq!((&list["data"][0]["type"], &list["has_more"]), (&json!("model"), &json!(false)));
    let list = stage.call("GET", "/v1beta/models", &[], "").await.json();
    assert_eq!(list["models"][0]["name"], "models/fast");
    assert_eq!(stage.call("GET", "/v1/models/smart", &[], "").await.status, 404);
    assert_eq!(stage.call("GET", "/v1/models/up/a", &[], "").await.json()["id"], "up/a");
    assert_eq!(stage.call("GET", "/v1/files", &[], "").await.status, 403);
    let none = Stage::with(config, |grant| grant.rights = Rights::default()).await;
    assert_eq!(none.chat().await.status, 403);
}

#[tokio::test]
async fn a_refusal_names_the_budget_and_when_it_resets() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    *stage.records.refuse.lock().unwrap() = Some(Refusal {
        message: "the budget `month` has 0.00 of 10.00 dollars left; it resets on 2026-04-01".into(),
        code: "budget_exceeded",
        status: StatusCode::PAYMENT_REQUIRED,
        retry_after: Some(std::time::Duration::from_secs(2_000_000)),
        on_its_way: false,
    });
    let answer = stage.chat().await;
    assert_eq!(answer.status, 402);
    assert_eq!(answer.json()["error"]["code"], "budget_exceeded");
    assert!(answer.text().contains("`month`"));
    assert_eq!((answer.header("retry-after"), answer.header("x-should-retry")), ("2000000", "false"));
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn a_target_whose_budget_is_gone_is_not_asked_and_the_next_one_is() {
    let fake = FakeAi::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::at(NOW.parse().unwrap()));
    let (_ledger, accounts) = books(folder.path(), &clock).await;
    let config = json!({
        "providers": {
            "near": { "kind": "openai", "url": fake.url(), "keys": ["main"] },
            "far": { "kind": "openai", "url": fake.url(), "keys": ["main"] },
        },
        "routes": { "fast": { "targets": [
            { "provider": "near", "model": "gpt-5-mini" },
            { "provider": "far", "model": "gpt-5-nano", "priority": 2 },
        ] } },
        "budgets": { "near": { "usd": "0.01", "per": "day", "scope": "provider", "of": "near" } },
    });
    let config: AiConfig = serde_json::from_value(config).unwrap();
    let prices = Arc::new(gateway::price::PriceTable::built_in());
    accounts.prepare("shop", &config, prices, None).await.unwrap();
    let shape = |gateway: Gateway| gateway.with_clock(clock.clone());
    let stage = Stage::over(&config, Arc::new(accounts.clone()), Arc::default(), |_| {}, shape).await;
    let usage = fake_ai::Usage { input: 7500, output: 4000, ..fake_ai::Usage::default() };
    fake.next(Reply::answer(fake_ai::Answer::text("dear").usage(usage)));
    let mut call = chat(false);
    call["max_tokens"] = json!(4000);
    // What it cost was more than was left of the budget for a second one like it.
    for target in ["near/gpt-5-mini", "far/gpt-5-nano", "far/gpt-5-nano"] {
        let answer = stage.post("/v1/chat/completions", &call).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("steward-target")),
            (200, target),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("steward-attempts"), "1");
    }
    accounts.close().await.unwrap();
}

#[tokio::test]
async fn only_what_has_a_receipt_names_one_and_what_was_refused_is_counted() {
    let fake = FakeAi::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::at(NOW.parse().unwrap()));
    let (ledger, accounts) = books(folder.path(), &clock).await;
    let config = json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "gpt-5-mini" }], "retry": { "attempts": 1 } } },
    });
    let config: AiConfig = serde_json::from_value(config).unwrap();
    let prices = Arc::new(gateway::price::PriceTable::built_in());
    accounts.prepare("shop", &config, prices, None).await.unwrap();
    let limit = |grant: &mut gateway::Grant| grant.limits.requests_per_minute = Some(3);
    let measured = |gateway: Gateway| gateway.measured(accounts.metrics()).with_clock(clock.clone());
    let stage = Stage::over(&config, Arc::new(accounts.clone()), Arc::default(), limit, measured).await;

    let count = json!({ "model": "fast", "messages": [{ "role": "user", "content": "hello" }] });
    let embedded = json!({ "model": "up/other", "input": "x", "n": "x" });
    let mut with = Vec::new();
    // A provider that fails was asked, and a count that we make is a request like others.
    fake.next(Reply::error(500, "server_error", "m"));
    for (answer, status) in [
        (stage.chat().await, 500),
        (stage.chat().await, 200),
        (stage.post("/v1/messages/count_tokens", &count).await, 200),
    ] {
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        with.push(answer.header("steward-receipt").to_owned());
    }
    for (answer, status) in [
        (stage.post("/v1/messages/count_tokens", &count).await, 429),
        (stage.chat().await, 429),
        (stage.post("/v1/embeddings", &embedded).await, 400),
        (stage.post("/v1/chat/completions", &json!({})).await, 400),
        (stage.call("POST", "/v1/chat/completions", &[("x-api-key", "no")], "{}").await, 401),
        (stage.call("GET", "/v1/models/none", &[], "").await, 404),
        (stage.call("GET", "/v1/models", &[], "").await, 200),
    ] {
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        assert_eq!(answer.header("steward-receipt"), "", "{status}");
        assert_ne!(answer.header("x-request-id"), "", "{status}");
    }
    accounts.flush().await.unwrap();
    let rows = ledger.query("SELECT id FROM ai_usage ORDER BY id", Vec::new()).await.unwrap();
    let ids: Vec<_> = rows.iter().map(|row| row.get_text("id").unwrap().to_owned()).collect();
    assert_eq!(ids, with);
    let table = stage.gateway.table();
    let text = accounts.metrics().text("shop", &table, &accounts, tokio::time::Instant::now());
    for (route, ending, status, count) in [
        ("fast", "refused", 429, 2),
        ("", "refused", 400, 2),
        ("", "refused", 401, 1),
        ("", "refused", 404, 1),
        ("fast", "failed", 500, 1),
        ("fast", "complete", 200, 2),
    ] {
        let line = format!(
            "steward_ai_requests_total{{steward_project=\"shop\",steward_route=\"{route}\",ending=\"{ending}\",status=\"{status}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line}{text}");
    }
    accounts.close().await.unwrap();
}
