//! The bounds of a request's time, who is asked next, and how much is asked again. Of several times each test sets one
//! near and the others far, so that only that one can end the request.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use contract::ai::FailureClass;
use fake_ai::{FakeAi, Gate, On, Reply};
use gateway::{Attempt, Ending};
use http_body_util::BodyExt;
use outbound::Outgoing;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::stage::{KEY, PATIENCE, Stage, chat};

/// Longer than any test waits.
const FAR: u64 = 600_000;
/// Over at once, however fast the machine: who is asked says nothing.
const NEAR: u64 = 50;

/// All times far away, but for these.
fn timeouts(near: &Value) -> Value {
    let mut all = json!({ "connect_ms": FAR, "headers_ms": FAR, "first_token_ms": FAR, "idle_ms": FAR, "total_ms": FAR });
    all.as_object_mut().unwrap().extend(near.as_object().unwrap().clone());
    all
}

/// The model `first` and, when that fails, the model `second`.
async fn two(first: &str, fake: &FakeAi, near: Value) -> Stage {
    Stage::new(json!({
        "providers": {
            "one": { "kind": "openai", "url": first, "keys": ["main"] },
            "two": { "kind": "openai", "url": fake.url(), "keys": ["main"] },
        },
        "routes": { "fast": {
            "targets": [
                { "provider": "one", "model": "first", "priority": 1 },
                { "provider": "two", "model": "second", "priority": 2 },
            ],
            "timeouts": timeouts(&near), "retry": { "base_ms": 1 },
        } },
    }))
    .await
}

/// What the first attempt came to, of a request that the second model answered.
async fn first_attempt(stage: &Stage, requests: usize, streaming: bool) -> Attempt {
    let answer = if streaming { stage.stream().await } else { stage.chat().await };
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("steward-target").contains("second"), "{}", answer.header("steward-target"));
    let settled = stage.records.settled(requests).await;
    assert_eq!((settled.attempts.len(), settled.ending), (2, Ending::Complete));
    settled.attempts[0].clone()
}

fn timed_out(attempt: &Attempt) -> (Option<FailureClass>, Option<u16>, &str) {
    (attempt.failure, attempt.status, attempt.message.as_deref().unwrap_or_default())
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_left_after_connect_ms() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(mute.accept().await.unwrap());
        }
    });
    let fake = FakeAi::start().await.unwrap();
    let stage = two(&format!("https://{address}/v1"), &fake, json!({ "connect_ms": NEAR })).await;
    for (number, streaming) in [(1, false), (2, true)] {
        let attempt = first_attempt(&stage, number, streaming).await;
        assert_eq!(timed_out(&attempt), (Some(FailureClass::Timeout), None, "no connection in time"));
    }
    accepting.abort();
}

#[tokio::test]
async fn a_server_that_takes_the_request_and_says_nothing_is_left_after_headers_ms() {
    let fake = FakeAi::start().await.unwrap();
    fake.always(On::model("first"), Reply::silent());
    let stage = two(&fake.url(), &fake, json!({ "headers_ms": NEAR })).await;
    for (number, streaming) in [(1, false), (2, true)] {
        let attempt = first_attempt(&stage, number, streaming).await;
        assert_eq!(timed_out(&attempt), (Some(FailureClass::Timeout), None, "no answer in time"));
    }
    // A plain answer is whole by then, too.
    let gate = Gate::new();
    fake.always(On::model("first"), Reply::text("late").gate_after_events(0, &gate));
    let attempt = first_attempt(&stage, 3, false).await;
    assert_eq!(timed_out(&attempt), (Some(FailureClass::Timeout), Some(200), "the answer stopped"));
}

#[tokio::test]
async fn a_stream_that_does_not_begin_is_left_after_first_token_ms() {
    let fake = FakeAi::start().await.unwrap();
    let gate = Gate::new();
    fake.always(On::model("first"), Reply::text("late").gate_after_events(0, &gate));
    let stage = two(&fake.url(), &fake, json!({ "first_token_ms": NEAR })).await;
    let attempt = first_attempt(&stage, 1, true).await;
    assert_eq!(timed_out(&attempt), (Some(FailureClass::Timeout), Some(200), "no first event in time"));
    // The headers of a plain answer have their own time.
    let slow = Gate::new();
    fake.always(On::model("first"), Reply::text("computed").gate(&slow));
    let asked = async { stage.chat().await };
    let opened = async {
        tokio::time::timeout(PATIENCE, slow.reached(1)).await.unwrap();
        // The bound would have passed by now.
        tokio::time::sleep(Duration::from_millis(2 * NEAR)).await;
        slow.open();
    };
    let (answer, ()) = tokio::join!(asked, opened);
    assert!(answer.header("steward-target").contains("first"), "{}", answer.text());
}

#[tokio::test]
async fn all_attempts_together_end_after_total_ms() {
    let fake = FakeAi::start().await.unwrap();
    fake.always(On::any(), Reply::silent());
    let stage = two(&fake.url(), &fake, json!({ "total_ms": NEAR })).await;
    for (number, streaming) in [(1, false), (2, true)] {
        let answer = if streaming { stage.stream().await } else { stage.chat().await };
        assert_eq!(answer.status, 504, "{}", answer.text());
        let settled = stage.records.settled(number).await;
        assert_eq!((settled.attempts.len(), settled.ending), (1, Ending::Failed), "nobody is asked after it");
    }
}

// The clock stands still once the first target has been asked, and jumps to what waits next; real connections answer
// meanwhile. No other timer of this test lies before thirty seconds.
#[tokio::test]
async fn attempts_within_their_own_bounds_are_bounded_together() {
    let fake = FakeAi::start().await.unwrap();
    let gate = Gate::new();
    fake.always(On::any(), Reply::text("late").gate(&gate));
    let stage = two(&fake.url(), &fake, json!({ "headers_ms": 20_000, "total_ms": 30_000 })).await;
    let asking = {
        let (client, url) = (stage.client.clone(), stage.url("/v1/chat/completions"));
        let request = http::Request::post(url)
            .header("authorization", format!("Bearer {KEY}"))
            .body(Outgoing::whole(chat(false).to_string().into()))
            .unwrap();
        tokio::spawn(async move { client.send(request).await.unwrap().status() })
    };
    tokio::time::timeout(PATIENCE, gate.reached(1)).await.unwrap();
    tokio::time::pause();
    let status = asking.await.unwrap();
    tokio::time::resume();
    assert_eq!(status, 504);
    let settled = stage.records.settled(1).await;
    assert_eq!(settled.attempts.len(), 2);
    // Twenty seconds for the first, and what is left of thirty for the second.
    let (first, whole) = (settled.attempts[0].took.as_secs(), settled.duration.as_secs());
    assert!((20..25).contains(&first) && (30..35).contains(&whole), "{first} s of {whole} s");
}

#[tokio::test]
async fn a_stream_that_goes_on_outlives_all_bounds_but_the_idle_one() {
    let fake = FakeAi::start().await.unwrap();
    let gate = Gate::new();
    fake.next(Reply::text("one two three").gate_after_events(3, &gate));
    // Each of them is over after a second; a minute passes between two events.
    let bounds =
        json!({ "connect_ms": 10_000, "headers_ms": 10_000, "first_token_ms": 10_000, "total_ms": 10_000 });
    let stage = two(&fake.url(), &fake, bounds).await;
    let headers = [("content-type", "application/json")];
    let answer = stage.open("POST", "/v1/chat/completions", &headers, &chat(true).to_string()).await;
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let mut said = String::new();
    while !said.contains("two") {
        let frame = body.frame().await.unwrap().unwrap();
        said.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap()));
    }
    tokio::time::timeout(PATIENCE, gate.reached(1)).await.unwrap();
    tokio::time::pause();
    let silent_since = tokio::time::Instant::now();
    // Only the comments that keep the connection alive are heard, every fifteen seconds.
    for _ in 0..4 {
        let comment = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(comment.starts_with(b":"), "{comment:?}");
    }
    assert!(silent_since.elapsed() >= Duration::from_secs(55), "{:?}", silent_since.elapsed());
    tokio::time::resume();
    gate.open();
    let mut rest = String::new();
    while let Some(frame) = body.frame().await {
        rest.push_str(&String::from_utf8_lossy(&frame.unwrap().into_data().unwrap()));
    }
    assert!(rest.contains("three") && rest.contains("[DONE]"), "{rest}");
    let settled = stage.records.settled(1).await;
    assert_eq!((settled.ending, settled.attempts.len()), (Ending::Complete, 1));
}

/// A route with two models that share the requests by how much they have to do.
async fn sharing(fake: &FakeAi, weights: [u32; 2]) -> Arc<Stage> {
    let target = |model: &str, weight: u32| json!({ "provider": "up", "model": model, "weight": weight });
    let stage = Stage::new(json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
        "routes": { "fast": { "balance": "least_loaded",
            "targets": [target("left", weights[0]), target("right", weights[1])] } },
    }));
    Arc::new(stage.await)
}

fn asked(fake: &FakeAi, model: &str) -> usize {
    fake.requests().iter().filter(|call| call.model().as_deref() == Some(model)).count()
}

#[tokio::test]
async fn the_target_with_the_least_to_do_for_its_weight_is_asked_next() {
    for (weights, expected) in [([1, 1], [6, 6]), ([3, 1], [9, 3]), ([1, 2], [4, 8])] {
        let fake = FakeAi::start().await.unwrap();
        let gate = Gate::new();
        fake.always(On::any(), Reply::text("done").gate(&gate));
        let stage = sharing(&fake, weights).await;
        let mut asking = Vec::new();
        for count in 1..=12 {
            let stage = Arc::clone(&stage);
            asking.push(tokio::spawn(async move { stage.chat().await.status }));
            tokio::time::timeout(PATIENCE, gate.reached(count)).await.unwrap();
        }
        assert_eq!([asked(&fake, "left"), asked(&fake, "right")], expected, "{weights:?}");
        gate.open();
        for one in asking {
            assert_eq!(one.await.unwrap(), 200);
        }
    }
}

#[tokio::test]
async fn who_has_answered_has_nothing_to_do() {
    let fake = FakeAi::start().await.unwrap();
    let held = Gate::new();
    fake.next(Reply::text("done").gate(&held));
    let stage = sharing(&fake, [1, 1]).await;
    let holding = {
        let stage = Arc::clone(&stage);
        tokio::spawn(async move { stage.chat().await.status })
    };
    tokio::time::timeout(PATIENCE, held.reached(1)).await.unwrap();
    let (busy, free) = if asked(&fake, "left") == 1 { ("left", "right") } else { ("right", "left") };
    // By chance it would be so once in four billion times.
    for count in 1..=32 {
        let answer = if count % 2 == 0 { stage.chat().await } else { stage.stream().await };
        assert_eq!(answer.status, 200);
        stage.records.settled(count).await;
    }
    assert_eq!((asked(&fake, busy), asked(&fake, free)), (1, 32));
    held.open();
    assert_eq!(holding.await.unwrap(), 200);
}

#[tokio::test]
async fn what_is_asked_again_is_a_tenth_of_what_is_asked_also_when_more_fails() {
    const REQUESTS: usize = 400;
    let fake = FakeAi::start().await.unwrap();
    // Every third question fails when it is asked for the first time, and would be answered the second time.
    let seen = Mutex::new(HashSet::new());
    let fails = On::when(move |call| {
        let question = call.text();
        question.contains("third") && seen.lock().unwrap().insert(question)
    });
    fake.always(fails, Reply::error(500, "server_error", "out of order"));
    let stage = Stage::single(&fake, "openai").await;
    let began = Instant::now();
    let mut failed = 0;
    for number in 0..REQUESTS {
        let which = if number % 3 == 2 { "third" } else { "other" };
        let body = json!({ "model": "fast", "messages": [{ "role": "user", "content": format!("{which} {number}") }] });
        let answer = stage.post("/v1/chat/completions", &body).await;
        failed += usize::from(answer.status != 200);
    }
    let extra = fake.requests().len() - REQUESTS;
    // Twenty are saved up at the start, and one comes every two seconds besides, so that rare requests are asked again.
    let most = 20 + REQUESTS / 10 + usize::try_from(began.elapsed().as_secs()).unwrap() / 2 + 1;
    assert!((20 + REQUESTS / 10 - 1..=most).contains(&extra), "{extra} more for {REQUESTS}, at most {most}");
    assert_eq!(failed + extra, REQUESTS / 3, "what is not asked again is an error");
}

#[tokio::test]
async fn what_says_nothing_of_a_targets_health_leaves_its_breaker_closed() {
    // Seven in a row, each with another key; five failures in a row would open it, and the eighth would not be asked.
    for (reply, class) in [
        (Reply::rate_limited("3600"), FailureClass::Rate),
        (Reply::error(429, "insufficient_quota", "m"), FailureClass::Quota),
        (Reply::error(401, "invalid_api_key", "m"), FailureClass::Key),
    ] {
        let fake = FakeAi::start().await.unwrap();
        let stage = Stage::new(json!({
            "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["a", "b", "c", "d", "e", "f", "g", "h"] } },
            "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }], "retry": { "base_ms": 1 } } },
        }))
        .await;
        fake.times(7, On::any(), reply);
        let answer = stage.chat().await;
        assert_eq!(answer.status, 200, "{class:?}: {}", answer.text());
        let settled = stage.records.settled(1).await;
        let failed: Vec<_> = settled.attempts.iter().filter_map(|attempt| attempt.failure).collect();
        assert_eq!(failed, [class; 7]);
    }
}

/// A stream's event that holds no content, with so many bytes more.
fn quiet(bytes: usize) -> fake_ai::Event {
    let pad = "x".repeat(bytes);
    fake_ai::Event::data(&json!({ "object": "chat.completion.chunk", "model": "first", "pad": pad,
        "choices": [{ "index": 0, "delta": { "role": "assistant" }, "finish_reason": null }] }))
}

// Sixty-four events or 256 KiB without content are looked at; after that the client is answered, and nobody else is
// asked any more. The gate stands where the bound is: what comes behind it is an error.
#[tokio::test]
async fn a_stream_is_looked_at_up_to_a_number_of_events_and_of_bytes() {
    for (events, bytes, is_committed) in
        [(63, 0, false), (64, 0, true), (3, 85 << 10, false), (3, 86 << 10, true), (1, 257 << 10, true)]
    {
        let case = format!("{events} events with {bytes} bytes more");
        let fake = FakeAi::start().await.unwrap();
        let gate = Gate::new();
        let reply = Reply::events(vec![quiet(bytes); events])
            .gate_after_events(events, &gate)
            .error_after_events(events, 500, "out of order");
        fake.always(On::model("first"), reply);
        fake.always(On::model("second"), Reply::text("from the second"));
        let stage = two(&fake.url(), &fake, json!({})).await;
        let headers = [("content-type", "application/json")];
        let body = chat(true).to_string();
        let asking = stage.open("POST", "/v1/chat/completions", &headers, &body);
        let answer = if is_committed {
            let answer = asking.await; // The gate is closed.
            gate.open();
            answer
        } else {
            let opened = async {
                tokio::time::timeout(PATIENCE, gate.reached(1)).await.unwrap();
                gate.open();
            };
            tokio::join!(asking, opened).0
        };
        let target = answer.headers()["steward-target"].to_str().unwrap().to_owned();
        let mut said = Vec::new();
        let mut body = answer.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            said.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        let said = String::from_utf8_lossy(&said);
        let settled = stage.records.settled(1).await;
        if is_committed {
            assert_eq!((target.as_str(), settled.attempts.len()), ("one/first", 1), "{case}");
            assert_eq!(settled.ending, Ending::Interrupted, "{case}");
            assert!(said.contains("out of order") && !said.contains("[DONE]"), "{case}: {said}");
        } else {
            assert_eq!((target.as_str(), settled.ending), ("two/second", Ending::Complete), "{case}");
            assert_eq!(settled.attempts[0].failure, Some(FailureClass::Server), "{case}");
            assert!(said.contains("second") && !said.contains("out of order"), "{case}: {said}");
        }
    }
}

// The clock stands still while the first target thinks, and jumps to what waits next.
#[tokio::test]
async fn a_stream_without_content_is_looked_at_for_ten_seconds() {
    let fake = FakeAi::start().await.unwrap();
    let gate = Gate::new();
    fake.always(On::model("first"), Reply::text("one two").gate_after_events(1, &gate));
    let stage = two(&fake.url(), &fake, json!({})).await;
    let (client, url) = (stage.client.clone(), stage.url("/v1/chat/completions"));
    let request = http::Request::post(url)
        .header("authorization", format!("Bearer {KEY}"))
        .body(Outgoing::whole(chat(true).to_string().into()))
        .unwrap();
    let asking = tokio::spawn(async move { client.send(request).await.unwrap() });
    tokio::time::timeout(PATIENCE, gate.reached(1)).await.unwrap();
    tokio::time::pause();
    let since = tokio::time::Instant::now();
    let answer = asking.await.unwrap();
    // What passed before the clock stood still counts too.
    let waited = since.elapsed();
    assert!(waited <= Duration::from_secs(11) && waited >= Duration::from_secs(5), "{waited:?}");
    tokio::time::resume();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["steward-target"]),
        (200, &"one/first".parse().unwrap())
    );
    gate.open();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("[DONE]"));
    let settled = stage.records.settled(1).await;
    assert_eq!((settled.ending, settled.attempts.len()), (Ending::Complete, 1));
}
