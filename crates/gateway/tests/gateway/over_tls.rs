//! Providers over TLS and HTTP/2: their own authority, and endings that are none.

use std::time::Duration;

use contract::ai::FailureClass;
use gateway::Ending;
use http_body_util::BodyExt;
use serde_json::json;

use crate::secure::{AUTHORITY, End, Secure};
use crate::stage::{PATIENCE, Stage, chat};

const EVENTS: [&str; 3] = [
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"},\"finish_reason\":null}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"two\"},\"finish_reason\":null}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
];

/// The gateway in front of this server, whose authority it knows if it is told to.
async fn stage(server: &Secure, trusts: bool) -> (Stage, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("authority.pem");
    std::fs::write(&authority, AUTHORITY).unwrap();
    let mut provider = json!({ "kind": "openai", "url": format!("{}/v1", server.url()), "keys": ["main"] });
    if trusts {
        provider["certificates"] = json!(authority);
    }
    let stage = Stage::new(json!({
        "providers": { "up": provider },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }], "retry": { "attempts": 1 } } },
    }))
    .await;
    (stage, dir)
}

/// What the client reads of a stream, which goes on once it has read the first event; and whether the body was whole.
async fn streamed(stage: &Stage, server: &Secure) -> (String, bool) {
    let mut response = stage.open("POST", "/v1/chat/completions", &[], &chat(true).to_string()).await;
    let mut text = String::new();
    loop {
        let Some(frame) = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap() else {
            return (text, true);
        };
        let Ok(frame) = frame else { return (text, false) };
        let before = text.contains("one");
        text.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
        if !before && text.contains("one") {
            server.gate.add_permits(1);
        }
    }
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_where_it_is_named() {
    for offers in [&["h2", "http/1.1"][..], &["http/1.1"]] {
        let server = Secure::start(offers, "text/event-stream", &EVENTS, End::Whole).await;
        let (known, _dir) = stage(&server, true).await;
        let (text, whole) = streamed(&known, &server).await;
        assert!(whole && text.contains("two") && text.ends_with("data: [DONE]\n\n"), "{text}");
        assert_eq!(known.records.settled(1).await.ending, Ending::Complete);
        let (stranger, _dir) = stage(&server, false).await;
        let answer = stranger.chat().await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(answer.text().contains("certificate is not trusted"), "{}", answer.text());
        let settled = stranger.records.settled(1).await;
        assert_eq!(
            (settled.ending, settled.attempts[0].failure),
            (Ending::Failed, Some(FailureClass::Network))
        );
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_truncated() {
    for (offers, end) in [("h2", End::Reset), ("h2", End::GoAway), ("h2", End::Gone), ("http/1.1", End::Gone)]
    {
        let server = Secure::start(&[offers], "text/event-stream", &EVENTS, end).await;
        let (stage, _dir) = stage(&server, true).await;
        let (text, _) = streamed(&stage, &server).await;
        assert!(text.contains("one") && text.contains("\"error\""), "{offers} {end:?}: {text}");
        assert!(!text.contains("[DONE]") && !text.contains("\"stop\""), "{offers} {end:?}: {text}");
        let settled = stage.records.settled(1).await;
        assert_eq!(settled.ending, Ending::Truncated, "{offers} {end:?}");
        assert_eq!(settled.attempts[0].failure, Some(FailureClass::Truncated), "{offers} {end:?}");
    }
}

#[tokio::test]
async fn half_a_plain_answer_is_none() {
    let pieces = ["{\"choices\":[{\"message\":{\"content\":\"one\"}", ",\"finish_reason\":\"stop\"}]}"];
    for (offers, end) in [("h2", End::Reset), ("h2", End::Gone), ("http/1.1", End::Gone)] {
        let server = Secure::start(&[offers], "application/json", &pieces, end).await;
        server.gate.add_permits(1);
        let (stage, _dir) = stage(&server, true).await;
        let answer = stage.chat().await;
        assert_eq!(answer.status, 502, "{offers} {end:?}: {}", answer.text());
        assert!(!answer.text().contains("one"), "{offers} {end:?}: {}", answer.text());
        assert_eq!(stage.records.settled(1).await.ending, Ending::Failed, "{offers} {end:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_stream_of_http_2() {
    let mut server = Secure::start(&["h2"], "text/event-stream", &EVENTS, End::Silent).await;
    let (stage, _dir) = stage(&server, true).await;
    let mut response = stage.open("POST", "/v1/chat/completions", &[], &chat(true).to_string()).await;
    assert!(tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().is_ok());
    drop(response);
    let left = server.seen.wait_for(|seen| seen.left == 1);
    tokio::time::timeout(Duration::from_secs(20), left).await.expect("the provider hears of it").unwrap();
    assert_eq!(stage.records.settled(1).await.ending, Ending::Disconnected);
}
