//! The client for forwarding against servers with TLS: versions, certificates, endings.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking; the server is shared")]

mod secure;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use outbound::{Incoming, Outgoing, SendError, Upstream, UpstreamOptions};
use secure::{AUTHORITY, End, Secure, Seen};

/// No test waits longer; a test that works waits for no time at all.
const PATIENCE: Duration = Duration::from_mins(1);

fn trusting() -> Upstream {
    let options = UpstreamOptions { extra_roots_pem: Some(AUTHORITY.to_vec()), ..UpstreamOptions::default() };
    Upstream::new(&options).unwrap()
}

async fn ask(client: &Upstream, url: &str) -> Result<Response<Incoming>, SendError> {
    let request = Request::post(url).body(Outgoing::whole(Bytes::from_static(b"{}"))).unwrap();
    tokio::time::timeout(PATIENCE, client.send(request)).await.expect("an answer in time")
}

/// The next piece of an answer; `None` at its end.
async fn piece(response: &mut Response<Incoming>) -> Option<Result<String, String>> {
    loop {
        let frame = tokio::time::timeout(PATIENCE, response.frame()).await.expect("a frame in time")?;
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Some(Ok(String::from_utf8_lossy(&data).into_owned())),
                Err(_) => {}
            },
            Err(error) => return Some(Err(error.to_string())),
        }
    }
}

/// What comes after the first piece, once the server may go on: text, and whether it ended as it should.
async fn rest(server: &Secure, response: &mut Response<Incoming>) -> (String, bool) {
    assert_eq!(piece(response).await, Some(Ok("one".to_owned())));
    server.gate.add_permits(1);
    let mut text = String::new();
    loop {
        match piece(response).await {
            Some(Ok(more)) => text.push_str(&more),
            Some(Err(_)) => return (text, false),
            None => return (text, true),
        }
    }
}

async fn until(server: &mut Secure, what: impl FnMut(&Seen) -> bool) -> Seen {
    tokio::time::timeout(PATIENCE, server.seen.wait_for(what)).await.expect("it is seen").unwrap().clone()
}

async fn server(offers: &[&str], end: End) -> Secure {
    Secure::start(offers, "text/plain", &["one", " two", " three"], end).await
}

#[tokio::test]
async fn the_server_chooses_the_version() {
    for (offers, version, number) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2, 2),
        (&["h2"], Version::HTTP_2, 2),
        (&["http/1.1"], Version::HTTP_11, 1),
        (&[], Version::HTTP_11, 1),
    ] {
        let mut server = server(offers, End::Whole).await;
        let mut response = ask(&trusting(), &server.url()).await.unwrap();
        assert_eq!(response.version(), version, "{offers:?}");
        assert_eq!(rest(&server, &mut response).await, (" two three".to_owned(), true), "{offers:?}");
        assert_eq!(until(&mut server, |_| true).await.versions, [number], "{offers:?}");
    }
}

#[tokio::test]
async fn requests_share_a_connection_of_http_2() {
    let mut server = server(&["h2"], End::Whole).await;
    let client = trusting();
    let mut first = ask(&client, &server.url()).await.unwrap();
    assert!(rest(&server, &mut first).await.1);
    // They all wait at the same time.
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(ask(&client, &server.url()).await.unwrap());
    }
    for response in &mut open {
        assert!(rest(&server, response).await.1);
    }
    let seen = until(&mut server, |seen| seen.versions.len() == 21).await;
    assert_eq!(seen.connections, 1);
}

#[tokio::test]
async fn who_is_not_vouched_for_is_refused_with_a_clear_word() {
    let mut server = server(&["h2", "http/1.1"], End::Whole).await;
    let stranger = Upstream::new(&UpstreamOptions::default()).unwrap();
    let error = ask(&stranger, &server.url()).await.unwrap_err();
    assert!(error.before_sending && !error.timed_out, "{error:?}");
    let said = error.to_string();
    assert!(said.contains("the server's certificate is not trusted") && said.contains("authority"), "{said}");
    // The authority is right, and the name is another's.
    let other = server.url().replace("127.0.0.1", "127.0.0.2");
    let error = ask(&trusting(), &other).await.unwrap_err();
    assert!(error.before_sending, "{error:?}");
    assert!(error.to_string().contains("the server's certificate is not trusted"), "{error}");
    // Nothing was sent to either.
    assert_eq!(until(&mut server, |_| true).await.versions, [0; 0]);
    // A server without TLS is no reason to do without.
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", plain.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    assert!(ask(&trusting(), &url).await.unwrap_err().before_sending);
}

#[tokio::test]
async fn what_breaks_in_the_middle_has_no_clean_end() {
    for (offers, end) in [("h2", End::Reset), ("h2", End::GoAway), ("h2", End::Gone), ("http/1.1", End::Gone)]
    {
        let server = server(&[offers], end).await;
        let client = trusting();
        let mut response = ask(&client, &server.url()).await.unwrap();
        let (text, whole) = rest(&server, &mut response).await;
        assert!(!whole && !text.contains("three"), "{offers} {end:?}: {text}");
        // The next request is not lost with it.
        let mut next = ask(&client, &server.url()).await.unwrap();
        assert_eq!(piece(&mut next).await, Some(Ok("one".to_owned())), "{offers} {end:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_connection_is_one_only_if_tls_says_so() {
    let server = server(&["http/1.1"], End::Closed).await;
    let mut response = ask(&trusting(), &server.url()).await.unwrap();
    assert_eq!(rest(&server, &mut response).await, (" two three".to_owned(), true));
}

#[tokio::test]
async fn a_server_that_takes_no_more_requests_ends_those_that_it_has() {
    let mut server = server(&["h2"], End::WholeAfterGoAway).await;
    let client = trusting();
    let mut response = ask(&client, &server.url()).await.unwrap();
    assert_eq!(rest(&server, &mut response).await, (" two three".to_owned(), true));
    let mut next = ask(&client, &server.url()).await.unwrap();
    assert!(rest(&server, &mut next).await.1);
    assert_eq!(until(&mut server, |seen| seen.versions.len() == 2).await.connections, 2);
}

#[tokio::test]
async fn an_answer_that_is_dropped_resets_its_stream_alone() {
    let mut server = server(&["h2"], End::Silent).await;
    let client = trusting();
    let mut stays = ask(&client, &server.url()).await.unwrap();
    assert_eq!(piece(&mut stays).await, Some(Ok("one".to_owned())));
    let mut leaves = ask(&client, &server.url()).await.unwrap();
    assert_eq!(piece(&mut leaves).await, Some(Ok("one".to_owned())));
    drop(leaves);
    let seen = until(&mut server, |seen| seen.left > 0).await;
    assert_eq!((seen.left, seen.connections), (1, 1));
    let mut next = ask(&client, &server.url()).await.unwrap();
    assert_eq!(piece(&mut next).await, Some(Ok("one".to_owned())));
    assert_eq!(until(&mut server, |seen| seen.versions.len() == 3).await.connections, 1);
}
