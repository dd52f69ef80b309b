//! What is forwarded without being understood.

use std::convert::Infallible;

use bytes::Bytes;
use fake_ai::{FakeAi, On, Reply};
use gateway::{Ending, What};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use outbound::Outgoing;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{KEY, PATIENCE, Stage};

/// Reads from a connection until these words have come.
async fn read_until(connection: &mut TcpStream, words: &str) -> String {
    let mut read = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = tokio::time::timeout(PATIENCE, connection.read(&mut piece)).await.expect(words).unwrap();
        assert!(count > 0, "{words}: the connection was closed");
        read.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&read);
        if text.contains(words) {
            return text.into_owned();
        }
    }
}

// Each part is sent only when the provider has the one before: whoever holds an upload until it is whole waits for ever.
#[tokio::test]
async fn an_upload_reaches_the_provider_while_it_is_still_sent() {
    let provider = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", provider.local_addr().unwrap());
    let stage = Stage::new(json!({
        "providers": { "up": { "kind": "openai", "url": url, "keys": ["main"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "m" }] } },
    }))
    .await;
    let (parts, arriving) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let arriving = futures::stream::unfold(arriving, |mut it| async move { Some((it.recv().await?, it)) });
    let body = StreamBody::new(arriving).map_err(|never| match never {}).boxed_unsync();
    let request = http::Request::post(stage.url("/v1/files"))
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "multipart/form-data; boundary=b")
        .body(Outgoing::Forwarded(body))
        .unwrap();
    let client = stage.client.clone();
    let asking = tokio::spawn(async move { client.send(request).await.unwrap() });
    let send = async |text: &'static str| {
        parts.send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).await.unwrap();
    };
    send("--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n").await;
    let (mut connection, _) = tokio::time::timeout(PATIENCE, provider.accept()).await.unwrap().unwrap();
    let head = read_until(&mut connection, "fine-tune\r\n").await;
    assert!(head.starts_with("POST /v1/files ") && head.contains("upstream-main-key-12345678"), "{head}");
    send("--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{\"first\":1}\n")
        .await;
    read_until(&mut connection, "{\"first\":1}\n").await;
    send("{\"last\":1}\n\r\n--b--\r\n").await;
    drop(parts);
    // The chunk that ends the body.
    read_until(&mut connection, "0\r\n\r\n").await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{\"id\":\"file-one\"}";
    connection.write_all(answer.as_bytes()).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, asking).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), r#"{"id":"file-one"}"#);
    assert_eq!(stage.records.settled(1).await.ending, Ending::Complete);
}

#[tokio::test]
async fn files_go_to_the_provider_that_has_them() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    let form = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{}\n\r\n--b--\r\n";
    let kind = [("content-type", "multipart/form-data; boundary=b")];
    let answer = stage.call("POST", "/v1/files?x=1", &kind, form).await;
    let sent = fake.request(0).await;
    assert_eq!((sent.path.as_str(), sent.query.as_str()), ("/v1/files", "x=1"));
    assert_eq!(sent.text(), form);
    assert_eq!(sent.header("content-type"), Some(kind[0].1));
    assert_eq!(sent.header("content-length"), Some(form.len().to_string().as_str()));
    assert_eq!(sent.key().unwrap(), "upstream-main-key-12345678");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let settled = stage.records.settled(1).await;
    assert_eq!((settled.what, settled.ending), (What::Files, Ending::Complete));
}

#[tokio::test]
async fn a_failed_upload_is_not_sent_again() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::single(&fake, "openai").await;
    fake.always(On::any(), Reply::error(500, "server_error", "no upstream-main-key-12345678"));
    let answer = stage.call("POST", "/v1/batches", &[], "{}").await;
    assert_eq!(answer.status, 500);
    assert!(!answer.text().contains("upstream-main"), "{}", answer.text());
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn declared_services_are_reached_under_their_prefix() {
    let fake = FakeAi::start().await.unwrap();
    let stage = Stage::new(json!({
        "pass_through": { "language": {
            "prefix": "/language", "url": format!("{}/text", fake.url()), "keys": ["azure"],
            "key_header": "ocp-apim-subscription-key", "usd_per_call": "0.001",
        } },
    }))
    .await;
    fake.always(On::any(), Reply::raw("application/json", r#"{"documents":[]}"#).header("set-cookie", "a=b"));
    let answer = stage
        .call("POST", "/language/analyze?v=3", &[("content-type", "application/json")], r#"{"a":1}"#)
        .await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, r#"{"documents":[]}"#));
    assert_eq!((answer.header("set-cookie"), answer.header("x-accel-buffering")), ("", ""));
    let sent = fake.request(0).await;
    assert_eq!((sent.path.as_str(), sent.query.as_str()), ("/text/analyze", "v=3"));
    assert_eq!(sent.header("ocp-apim-subscription-key"), Some("upstream-azure-key-12345678"));
    assert_eq!(sent.header("authorization"), None);
    assert!(!sent.headers.iter().any(|(_, value)| value.contains(KEY)));
    assert_eq!(stage.records.settled(1).await.what, What::PassThrough);
    let events = "data: {\"a\":1}\n\n";
    fake.next_on(On::any(), Reply::raw("text/event-stream; charset=utf-8", events));
    let answer = stage.call("POST", "/language/stream", &[], "{}").await;
    assert_eq!((answer.text().as_str(), answer.header("x-accel-buffering")), (events, "no"));
    assert_eq!(stage.call("GET", "/language/../secret", &[], "").await.status, 400);
    assert_eq!(stage.call("GET", "/languages", &[], "").await.status, 404);
    assert_eq!(fake.requests().len(), 2);
}

#[tokio::test]
async fn a_service_that_echoes_its_key_does_not_hand_it_on() {
    const SECRET: &str = "upstream-azure-key-12345678";
    let body = format!(
        "{{\"headers\":{{\"api\":\"{SECRET}\"}},\"again\":\"{SECRET}\",\"text\":\"{}\"}}",
        "x".repeat(40)
    );
    let expected = body.replace(SECRET, &"*".repeat(SECRET.len()));
    for piece_bytes in [1, 7, 10_000] {
        let fake = FakeAi::start().await.unwrap();
        let stage = Stage::new(json!({
            "pass_through": { "echo": { "prefix": "/echo", "url": fake.url(), "keys": ["azure"] } },
        }))
        .await;
        let reply = || {
            Reply::raw("application/json", body.clone())
                .header("x-echo", "Bearer {key}")
                .header("x-again", SECRET)
                .header("x-other", "stays")
                .pieces(piece_bytes)
        };
        for reply in [reply(), reply().cut_after_bytes(body.len(), fake_ai::Ending::Clean)] {
            fake.next_on(On::any(), reply);
            let answer = stage.call("GET", "/echo/headers", &[], "").await;
            assert_eq!((answer.status.as_u16(), answer.whole), (200, true), "{piece_bytes}");
            assert_eq!(answer.text(), expected, "{piece_bytes}");
            let headers = ["x-echo", "x-again", "x-other"].map(|name| answer.header(name));
            assert_eq!(headers, ["", "", "stays"]);
        }
        let settled = stage.records.settled(2).await;
        assert_eq!((settled.ending, settled.response_bytes), (Ending::Complete, body.len() as u64));
    }
}
