//! Requests with an `Idempotency-Key`: done once, answered as often as they are sent.

use fake_ai::{Ending, FakeAi, Gate, On, Reply};
use futures::future::join_all;
use serde_json::json;

use crate::stage::{Read, Stage, chat};

const KEY: [(&str, &str); 2] = [("content-type", "application/json"), ("idempotency-key", "order-7")];

async fn ask(stage: &Stage, body: &serde_json::Value) -> Read {
    stage.call("POST", "/v1/chat/completions", &KEY, &body.to_string()).await
}

#[tokio::test]
async fn twenty_at_once_are_one_request_to_the_provider_and_one_that_is_paid_for() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let gate = Gate::new();
    fake.next(Reply::text("once").gate(&gate));
    let body = chat(false);
    let all = join_all((0..20).map(|_| ask(&stage, &body)));
    let opening = async {
        gate.reached(1).await;
        gate.open();
    };
    let (all, ()) = tokio::join!(all, opening);
    let first = all.iter().find(|read| read.header("idempotency-replayed").is_empty()).unwrap();
    assert_eq!(all.iter().filter(|read| read.header("idempotency-replayed") == "true").count(), 19);
    for read in &all {
        assert_eq!((read.status.as_u16(), &read.body), (200, &first.body));
        assert_eq!(read.header("steward-receipt"), first.header("steward-receipt"));
        assert_eq!(read.header("content-type"), "application/json");
    }
    assert_eq!((fake.requests().len(), stage.records.count()), (1, 1));
}

#[tokio::test]
async fn a_reply_is_given_again_for_a_day() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let body = chat(false);
    let first = ask(&stage, &body).await;
    let again = ask(&stage, &body).await;
    assert_eq!((again.header("idempotency-replayed"), &again.body), ("true", &first.body));
    // Without the header nothing is kept and nothing looked up.
    stage.post("/v1/chat/completions", &body).await;
    assert_eq!(fake.requests().len(), 2);
    stage.clock.advance_us(24 * 3_600_000_000);
    assert_eq!(ask(&stage, &body).await.header("idempotency-replayed"), "");
    assert_eq!(fake.requests().len(), 3);
}

#[tokio::test]
async fn the_same_key_with_another_request_is_refused_in_each_protocol() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    ask(&stage, &chat(false)).await;
    let other = json!({ "model": "fast", "messages": [{ "role": "user", "content": "other" }] });
    let refused = ask(&stage, &other).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.json()["error"]["code"], "idempotency_key_reused");
    let message =
        json!({ "model": "fast", "max_tokens": 9, "messages": [{ "role": "user", "content": "x" }] });
    let refused = stage.call("POST", "/v1/messages", &KEY, &message.to_string()).await;
    assert_eq!((refused.status.as_u16(), refused.json()["type"].as_str()), (422, Some("error")));
    let gemini = json!({ "contents": [{ "parts": [{ "text": "x" }] }] }).to_string();
    let refused = stage.call("POST", "/v1beta/models/fast:generateContent", &KEY, &gemini).await;
    assert_eq!((refused.status.as_u16(), refused.json()["error"]["code"].as_u64()), (422, Some(422)));
    let empty = [("content-type", "application/json"), ("idempotency-key", "")];
    let refused = stage.call("POST", "/v1/chat/completions", &empty, &other.to_string()).await;
    assert_eq!(refused.status, 400);
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn errors_are_not_kept() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.next(Reply::error(400, "invalid_request_error", "wrong"));
    assert_eq!(ask(&stage, &chat(false)).await.status, 400);
    let second = ask(&stage, &chat(false)).await;
    assert_eq!((second.status.as_u16(), second.header("idempotency-replayed")), (200, ""));
}

#[tokio::test]
async fn a_whole_stream_is_given_again_and_a_cut_one_is_not() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.next(Reply::text("one two three four").cut_after_events(5, Ending::Clean));
    let cut = ask(&stage, &chat(true)).await;
    assert!(!cut.text().contains("[DONE]"), "{}", cut.text());
    let whole = ask(&stage, &chat(true)).await;
    assert!(whole.text().contains("[DONE]") && whole.header("idempotency-replayed").is_empty());
    let again = ask(&stage, &chat(true)).await;
    assert_eq!((again.header("idempotency-replayed"), &again.body), ("true", &whole.body));
    assert_eq!(again.header("content-type"), whole.header("content-type"));
    assert_eq!((fake.requests().len(), stage.records.count()), (2, 2));
    // The same for a stream in another format.
    let body = json!({ "model": "fast", "max_tokens": 9, "stream": true,
        "messages": [{ "role": "user", "content": "x" }] })
    .to_string();
    let key = [("content-type", "application/json"), ("idempotency-key", "order-8")];
    let whole = stage.call("POST", "/v1/messages", &key, &body).await;
    let again = stage.call("POST", "/v1/messages", &key, &body).await;
    assert!(whole.text().contains("message_stop") && again.body == whole.body, "{}", whole.text());
    assert_eq!(again.header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn a_provider_is_shown_our_own_key_the_same_for_each_attempt() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.next_on(On::generation(), Reply::error(500, "server_error", "again"));
    let read = ask(&stage, &chat(false)).await;
    assert_eq!(read.status, 200);
    let shown: Vec<_> =
        fake.requests().iter().map(|sent| sent.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(shown.len(), 2);
    assert!(shown[0] == shown[1] && shown[0].starts_with("steward-"), "{shown:?}");
    // No header, none is made up.
    stage.chat().await;
    assert_eq!(fake.request(2).await.header("idempotency-key"), None);
}

#[tokio::test]
async fn when_the_first_client_leaves_the_next_one_is_served() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let gate = Gate::new();
    fake.next(Reply::text("never").gate(&gate));
    let body = chat(false);
    {
        let leaving = ask(&stage, &body);
        tokio::pin!(leaving);
        tokio::select! {
            _ = &mut leaving => panic!("the gate is closed"),
            () = gate.reached(1) => {}
        }
    }
    let served = ask(&stage, &body).await;
    assert_eq!((served.status.as_u16(), served.header("idempotency-replayed")), (200, ""));
    assert_eq!(fake.requests().len(), 2);
}
