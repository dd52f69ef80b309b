//! What goes wrong is told: truncation, errors inside streams, clients that leave.

use std::time::Duration;

use bytes::Bytes;
use fake_ai::{Ended, Ending as Cut, FakeAi, Gate, Reply};
use gateway::{Ending, Peer};
use http_body_util::BodyExt;
use serde_json::json;

use crate::stage::{KEY, PATIENCE, Stage, chat};

fn last_event(text: &str) -> serde_json::Value {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap_or_default();
    serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn truncation_is_told_in_each_protocol_and_never_completed() {
    let fake = FakeAi::start().await.unwrap();
    let anthropic = json!({ "model": "fast", "max_tokens": 50, "stream": true, "messages": [{ "role": "user", "content": "hello" }] });
    let responses = json!({ "model": "fast", "input": "hello", "stream": true });
    let gemini = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hello" }] }] });
    for (kind, path, body) in [
        ("openai", "/v1/chat/completions", chat(true)),
        ("openai", "/v1/responses", responses),
        ("anthropic", "/v1/messages", anthropic),
        ("gemini", "/v1beta/models/fast:streamGenerateContent?alt=sse", gemini),
    ] {
        for how in [Cut::Clean, Cut::Reset, Cut::Close] {
            let stage = Stage::single(&fake, kind).await;
            // Late enough that something has been said, early enough that the end is missing.
            fake.next(Reply::text("one two three four five six seven eight").cut_after_events(6, how));
            let answer = stage.post(path, &body).await;
            let case = format!("{path} {how:?}: {}", answer.text());
            assert_eq!(answer.status, 200, "{case}");
            for end in
                ["[DONE]", "message_stop", "response.completed", "\"finish_reason\":\"", "finishReason"]
            {
                assert!(!answer.text().contains(end), "{end} in {case}");
            }
            let told = last_event(&answer.text());
            assert!(told.get("error").is_some() || told["type"] == "error", "{case}");
            let settled = stage.records.settled(1).await;
            assert_eq!(settled.ending, Ending::Truncated, "{case}");
            assert!(settled.delivered_bytes > 0, "{case}");
        }
    }
}

#[tokio::test]
async fn an_error_inside_the_stream_reaches_the_client_without_the_key() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.next(Reply::text("one two three four").error_after_events(
        4,
        500,
        "bad upstream-main-key-12345678 here",
    ));
    let answer = stage.stream().await;
    assert!(answer.text().contains("bad [redacted] here"), "{}", answer.text());
    assert!(!answer.text().contains("upstream-main-key"));
    let settled = stage.records.settled(1).await;
    assert_eq!(settled.ending, Ending::Interrupted);
}

#[tokio::test]
async fn key_in_an_error_is_scrubbed_and_status_kept() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.next(Reply::error(
        401,
        "invalid_api_key",
        "Incorrect key upstream-main-key-12345678 or upst****5678",
    ));
    let answer = stage.chat().await;
    assert_eq!(answer.status, 401);
    assert!(!answer.text().contains("upst") && answer.text().contains("[redacted]"), "{}", answer.text());
    let settled = stage.records.settled(1).await;
    assert!(!settled.attempts[0].message.as_deref().unwrap().contains("upst"));
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_provider_and_pays_for_what_it_got() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let gate = Gate::new();
    fake.next(Reply::text("one two three four five six").gate_after_events(4, &gate));
    let mut response = stage.open("POST", "/v1/chat/completions", &[], &chat(true).to_string()).await;
    let first = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap();
    assert!(first.unwrap().is_ok());
    gate.reached(1).await;
    drop(response);
    let settled = stage.records.settled(1).await;
    assert_eq!(settled.ending, Ending::Disconnected);
    assert!(settled.delivered_bytes > 0);
    // The provider is silent at its gate, so only the closed connection can end this.
    let ended = tokio::time::timeout(Duration::from_secs(20), fake.request(0).await.ended()).await;
    assert_eq!(ended.unwrap(), Ended::ClientGone);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_headers_closes_the_provider_too() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let gate = Gate::new();
    fake.next(Reply::text("late").gate(&gate));
    let asking = {
        let (client, url) = (stage.client.clone(), stage.url("/v1/chat/completions"));
        let body = outbound::Outgoing::whole(chat(false).to_string().into());
        let request = http::Request::post(url)
            .header("authorization", format!("Bearer {}", crate::stage::KEY))
            .body(body)
            .unwrap();
        tokio::spawn(async move { client.send(request).await.map(drop) })
    };
    gate.reached(1).await;
    asking.abort();
    let settled = stage.records.settled(1).await;
    assert_eq!((settled.ending, settled.status), (Ending::Disconnected, 499));
    assert_eq!(settled.attempts.len(), 1);
    let ended = tokio::time::timeout(Duration::from_secs(20), fake.request(0).await.ended()).await;
    assert_eq!(ended.unwrap(), Ended::ClientGone);
}

#[tokio::test]
async fn a_stream_that_stops_is_given_up_and_told() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::new(json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }], "timeouts": { "idle_ms": 50, "first_token_ms": 60_000 } } },
    }))
    .await;
    let gate = Gate::new();
    fake.next(Reply::text("one two three four five six").gate_after_events(4, &gate));
    let answer = stage.stream().await;
    assert_eq!(last_event(&answer.text())["error"]["code"], "timeout", "{}", answer.text());
    let settled = stage.records.settled(1).await;
    assert_eq!(settled.ending, Ending::Interrupted);
    let ended = tokio::time::timeout(PATIENCE, fake.request(0).await.ended()).await;
    assert_eq!(ended.unwrap(), Ended::ClientGone);
}

#[tokio::test]
async fn answers_without_usage_are_settled_without() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.next(Reply::text("one two").without_usage());
    let answer = stage.stream().await;
    assert!(answer.text().contains("[DONE]"));
    let settled = stage.records.settled(1).await;
    assert_eq!((settled.ending, settled.usage), (Ending::Complete, None));
    assert!(settled.delivered_bytes > 0 && settled.input_tokens_estimate > 0);
}

#[tokio::test]
async fn an_event_that_is_no_json_ends_the_stream_with_an_error() {
    let fake = FakeAi::start().await.unwrap();
    let delta = |text: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let end =
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let garbled = "data: {\"choices\":[{\"index\":0,\"delta\":{\"conte\n\n";
    let messages = json!({ "model": "fast", "max_tokens": 50, "stream": true,
        "messages": [{ "role": "user", "content": "hello" }] });
    for (path, body) in [("/v1/chat/completions", chat(true)), ("/v1/messages", messages)] {
        for pieces in [7, 100_000] {
            let stage = Stage::single(&fake, "openai").await;
            let whole = [&delta("one"), garbled, &delta("two"), end].concat();
            fake.next(Reply::raw("text/event-stream", whole).pieces(pieces));
            let answer = stage.post(path, &body).await;
            let text = answer.text();
            assert!(text.contains("one") && !text.contains("two") && !text.contains("\"conte\n"), "{text}");
            assert!(text.contains("\"error\""), "{text}");
            for end in ["[DONE]", "message_stop", "\"finish_reason\":\"stop\""] {
                assert!(!text.contains(end), "{end} in {text}");
            }
            assert!(matches!(stage.records.settled(1).await.ending, Ending::Interrupted | Ending::Truncated));
            // Before the first text another attempt is made.
            fake.next(Reply::raw("text/event-stream", [garbled, end].concat()).pieces(pieces));
            fake.next(Reply::text("better"));
            let answer = stage.post(path, &body).await;
            assert!(
                answer.text().contains("better") && !answer.text().contains("error"),
                "{}",
                answer.text()
            );
            // After the end nothing is lost.
            let whole = [&delta("one"), end, garbled].concat();
            fake.next(Reply::raw("text/event-stream", whole).pieces(pieces));
            assert!(!stage.post(path, &body).await.text().contains("error"));
            assert_eq!(stage.records.settled(3).await.ending, Ending::Complete);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_after_the_last_event_has_all() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let gate = Gate::new();
    // Everything is sent, and the connection says nothing about its end.
    fake.next(Reply::text("one two").gate_after_events(6, &gate));
    let mut response = stage.open("POST", "/v1/chat/completions", &[], &chat(true).to_string()).await;
    let mut text = String::new();
    while !text.contains("\"finish_reason\":\"stop\"") {
        let frame = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
    }
    drop(response);
    assert_eq!(stage.records.settled(1).await.ending, Ending::Complete, "{text}");
    gate.open();
}

/// The next piece of a body, as text.
async fn piece<B>(body: &mut B) -> String
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let frame = body.frame().await.expect("it goes on").unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

/// Reads until the provider waits at its gate: everything before it has arrived.
async fn up_to<B>(body: &mut B, word: &str)
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut said = String::new();
    while !said.contains(word) {
        said.push_str(&piece(body).await);
    }
}

// The clock stands still from the first silence on, and jumps to what waits next; real connections answer meanwhile.
#[tokio::test]
async fn a_client_hears_a_comment_every_fifteen_seconds_while_the_model_is_silent() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let gate = Gate::new();
    fake.next(Reply::text("one two three").gate_after_events(3, &gate));
    let headers = [("content-type", "application/json")];
    let answer = stage.open("POST", "/v1/chat/completions", &headers, &chat(true).to_string()).await;
    let mut body = answer.into_body();
    up_to(&mut body, "two").await;
    gate.reached(1).await;
    tokio::time::pause();
    let silent_since = tokio::time::Instant::now();
    for times in 1..=4_u64 {
        let said = piece(&mut body).await;
        assert!(said.starts_with(':') && said.trim_end().lines().count() == 1, "a comment: {said:?}");
        let seconds = silent_since.elapsed().as_secs();
        assert!((15 * times - 1..=15 * times + 1).contains(&seconds), "after {seconds} s");
    }
    tokio::time::resume();
    gate.open();
    let mut rest = String::new();
    while let Some(frame) = body.frame().await {
        rest.push_str(&String::from_utf8_lossy(&frame.unwrap().into_data().unwrap()));
    }
    assert!(rest.contains("[DONE]"), "{rest}");
    assert_eq!(stage.records.settled(1).await.ending, Ending::Complete);
}

// As above. What a client sends back is all that tells one that has shut its sending side from one that is gone.
#[tokio::test]
async fn a_client_that_may_be_gone_hears_something_twice_a_second() {
    let fake = FakeAi::start().await.unwrap();
    let openai = Stage::single(&fake, "openai").await;
    let gemini = Stage::single(&fake, "gemini").await;
    let contents = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hello" }] }] });
    for (stage, path, call) in [
        (&openai, "/v1/chat/completions", chat(true)),
        (&gemini, "/v1beta/models/fast:streamGenerateContent?alt=sse", contents.clone()),
        (&gemini, "/v1beta/models/fast:streamGenerateContent", contents),
    ] {
        let gate = Gate::new();
        fake.next(Reply::text("one two three four").gate_after_events(3, &gate));
        let peer = Peer::default();
        let request = http::Request::post(path)
            .header("authorization", format!("Bearer {KEY}"))
            .extension(peer.clone())
            .body(http_body_util::Full::new(Bytes::from(call.to_string())));
        let mut body = stage.gateway.handle(request.unwrap()).await.into_body();
        up_to(&mut body, "two").await;
        gate.reached(1).await;
        tokio::time::pause();
        peer.close_half();
        // Google's clients read no comments, but empty lines.
        let is_gemini = path.contains("models");
        for _ in 0..4 {
            let before = tokio::time::Instant::now();
            let said = piece(&mut body).await;
            assert!(if is_gemini { said == "\n" } else { said.starts_with(':') }, "{path}: {said:?}");
            assert!(before.elapsed() <= Duration::from_millis(500), "{path}: {:?}", before.elapsed());
        }
        tokio::time::resume();
        gate.open();
        up_to(&mut body, "four").await;
    }
}

#[tokio::test]
async fn the_upstream_is_closed_within_two_seconds_of_the_client_leaving() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let headers = [("content-type", "application/json")];
    let gate = Gate::new();
    fake.next(Reply::text("one two three").gate_after_events(3, &gate));
    let answer = stage.open("POST", "/v1/chat/completions", &headers, &chat(true).to_string()).await;
    let mut body = answer.into_body();
    up_to(&mut body, "two").await;
    gate.reached(1).await;
    tokio::time::pause();
    let left = tokio::time::Instant::now();
    drop(body);
    // Were it noticed only by writing, the next comment would be fifteen seconds away.
    assert_eq!(fake.request(0).await.ended().await, Ended::ClientGone);
    assert!(left.elapsed() <= Duration::from_secs(2), "{:?}", left.elapsed());
    tokio::time::resume();
    assert_eq!(stage.records.settled(1).await.ending, Ending::Disconnected);
}
