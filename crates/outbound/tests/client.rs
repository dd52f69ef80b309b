//! The client against real local servers, well-behaved and not.
#![allow(clippy::unwrap_used)] // Also in the functions that the tests share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{any, get, post};
use contract::{Actor, Context, Error, ErrorKind, Retry};
use outbound::{Client, Options};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Made for these tests: an authority, and a certificate for localhost and 127.0.0.1 with its key.
const AUTHORITY: &[u8] = include_bytes!("data/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("data/localhost.pem");
const KEY: &[u8] = include_bytes!("data/localhost.key");

fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

fn client() -> Client {
    Client::new(Options { response_size_bytes_max: 1000, ..Options::default() }).unwrap()
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// A server that does with each connection what it is told.
async fn serve_raw<F, T>(each: F) -> SocketAddr
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}

/// Waits for the head of a request.
async fn request_head(stream: &mut (impl AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
}

async fn failure(url: &str) -> Error {
    client().get(&ctx(), url, &[]).await.expect_err(url)
}

#[tokio::test]
async fn json_and_headers_arrive() {
    let echo = |headers: HeaderMap, body: Bytes| async move {
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        assert_eq!(headers["x-steward-signature"], "abc");
        assert!(headers[header::USER_AGENT].to_str().unwrap().starts_with("steward/"));
        ([("x-seen", "yes")], body)
    };
    let url = serve(Router::new().route("/hook", post(echo))).await;
    let response = client()
        .post_json(&ctx(), &format!("{url}/hook"), &[("x-steward-signature", "abc")], b"{\"a\":1}".to_vec())
        .await
        .unwrap();
    assert_eq!((response.status(), response.header("x-seen")), (200, Some("yes")));
    assert_eq!(response.body(), b"{\"a\":1}");
    assert_eq!(format!("{response:?}"), "Response { status: 200, body_bytes: 7, .. }");
}

#[tokio::test]
async fn bytes_are_put() {
    let take = |body: Bytes| async move { (StatusCode::CREATED, body.len().to_string()) };
    let url = serve(Router::new().route("/bucket/head", axum::routing::put(take))).await;
    let response =
        client().put_bytes(&ctx(), &format!("{url}/bucket/head"), &[], vec![7; 70_000]).await.unwrap();
    assert_eq!((response.status(), response.body()), (201, &b"70000"[..]));
}

#[tokio::test]
async fn statuses_become_errors_with_the_servers_words() {
    let busy = || async { (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "17")], "slow\n\x07 down") };
    let broken = || async { (StatusCode::INTERNAL_SERVER_ERROR, "x".repeat(100_000)) };
    let url = serve(Router::new().route("/busy", get(busy)).route("/broken", get(broken))).await;

    let error = failure(&format!("{url}/busy")).await;
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(17)));
    assert!(error.to_string().contains("status: 429\n  answer: slow down\n"), "{error}");

    let error = failure(&format!("{url}/broken")).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Later));
    assert!(error.to_string().len() < 600, "{error}");

    let error = failure(&format!("{url}/nowhere")).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&format!("url: {url}/nowhere")), "{error}");
}

#[tokio::test]
async fn slow_server_times_out() {
    let slow = || async {
        // The server sleeps far beyond the client's patience.
        tokio::time::sleep(Duration::from_mins(1)).await;
    };
    let url = serve(Router::new().route("/", get(slow))).await;
    let impatient = ctx().with_timeout(Duration::from_millis(100));
    let error = client().get(&impatient, &url, &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::TimedOut, Retry::Later));
    let own = Client::new(Options { timeout: Duration::from_millis(100), ..Options::default() }).unwrap();
    assert_eq!(own.get(&ctx(), &url, &[]).await.unwrap_err().kind(), ErrorKind::TimedOut);
    let canceled = ctx();
    canceled.cancellation().cancel();
    assert_eq!(client().get(&canceled, &url, &[]).await.unwrap_err().kind(), ErrorKind::Canceled);
}

#[tokio::test]
async fn body_that_trickles_is_bounded_by_the_deadline() {
    let address = serve_raw(|mut stream| async move {
        request_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n").await.ok();
        while stream.write_all(b"x").await.is_ok() {
            // One byte now and then is what the test is about.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let impatient = ctx().with_timeout(Duration::from_millis(200));
    let error = client().get(&impatient, &format!("http://{address}/"), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn cut_connections_are_unavailable() {
    for (what, answer) in [
        ("before the answer", &b""[..]),
        ("in the head", b"HTTP/1.1 200 OK\r\ncontent-le"),
        ("in the body", b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nabc"),
        ("not HTTP", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ] {
        let address = serve_raw(move |mut stream| async move {
            request_head(&mut stream).await;
            stream.write_all(answer).await.ok();
        })
        .await;
        let error = failure(&format!("http://{address}/")).await;
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Later), "{what}: {error}");
    }
}

#[tokio::test]
async fn large_answers_are_refused_with_and_without_a_length() {
    let known = || async { "x".repeat(1001) };
    let streamed = || async {
        let chunk = || Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 100]));
        Body::from_stream(futures::stream::iter(std::iter::repeat_with(chunk).take(11)))
    };
    let fits = || async { "x".repeat(1000) };
    let router =
        Router::new().route("/known", get(known)).route("/streamed", get(streamed)).route("/fits", get(fits));
    let url = serve(router).await;
    for path in ["known", "streamed"] {
        let error = failure(&format!("{url}/{path}")).await;
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{path}");
    }
    assert_eq!(client().get(&ctx(), &format!("{url}/fits"), &[]).await.unwrap().body().len(), 1000);
}

#[tokio::test]
async fn refused_connection_is_unavailable() {
    // A port of the system's that nothing listens on; one that was free a moment ago may be somebody's by now.
    let error = failure("http://127.0.0.1:1/hook").await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Later));
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn redirects_leave_neither_the_server_nor_the_request() {
    let thief = serve(Router::new().fallback(any(|| async { "stolen" }))).await;
    let away = move || async move { Redirect::temporary(&format!("{thief}/x?token=hunter2")) };
    let router = Router::new()
        .route("/away", any(away))
        .route("/moved", any(|| async { Redirect::permanent("/here") }))
        .route("/see-other", any(|| async { Redirect::to("/here") }))
        .route("/circle", any(|| async { Redirect::temporary("/circle") }))
        .route("/here", post(|body: Bytes| async move { body }));
    let url = serve(router).await;
    let post =
        async |path: &str| client().post_json(&ctx(), &format!("{url}/{path}"), &[], b"7".to_vec()).await;
    assert_eq!(post("moved").await.unwrap().body(), b"7");
    for path in ["away", "see-other", "circle"] {
        let error = post(path).await.expect_err(path);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{path}");
        assert!(error.to_string().contains("points_to: http://127.0.0.1"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn secrets_in_urls_and_headers_are_never_shown() {
    let echo = |uri: Uri, headers: HeaderMap| async move {
        let authorization =
            headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        (StatusCode::BAD_REQUEST, format!("you sent {uri} with {authorization:?} {headers:?}"))
            .into_response()
    };
    let url = serve(Router::new().fallback(any(echo))).await;
    let host = url.strip_prefix("http://").unwrap();
    let token = "hunter2hunter2hunter2hunter2";
    let headers = [("authorization", "Bearer hunter2-header"), ("x-key", "hunter2-key")];
    for url in [
        format!("http://anna:hunter2pw@{host}/hook?token=hunter2query"),
        format!("http://{host}/services/{token}?hunter2name"),
        "http://anna:hunter2pw@127.0.0.1:1/hook?token=hunter2query".into(),
        "ftp://anna:hunter2pw@127.0.0.1/".into(),
        "hunter2://x".into(),
        "http://hunter2:pw@".into(),
    ] {
        let error = client().post_json(&ctx(), &url, &headers, b"{}".to_vec()).await.unwrap_err();
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
    let error = client().get(&ctx(), &url, &[("x-key", "hunter2\nx: y")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn certificate_is_trusted_only_when_its_authority_is_named() {
    let configuration =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                CertificateDer::pem_slice_iter(CERTIFICATE).collect::<Result<_, _>>().unwrap(),
                PrivateKeyDer::from_pem_slice(KEY).unwrap(),
            )
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(configuration));
    let address = serve_raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            request_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok();
            stream.flush().await.ok();
        }
    })
    .await;
    let url = format!("https://{address}/");
    let error = failure(&url).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");
    assert!(error.hint_text().unwrap().contains("authority"));

    let trusting =
        Client::new(Options { extra_roots_pem: Some(AUTHORITY.to_vec()), ..Options::default() }).unwrap();
    assert_eq!(trusting.get(&ctx(), &url, &[]).await.unwrap().body(), b"ok");
    let plain = failure(&format!("http://{address}/")).await;
    assert_eq!(plain.kind(), ErrorKind::Unavailable);
}

#[test]
fn extra_certificates_must_be_pem() {
    for pem in ["", "hunter2", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
        let options = Options { extra_roots_pem: Some(pem.into()), ..Options::default() };
        let Err(error) = Client::new(options) else { panic!("{pem}") };
        assert_eq!(error.kind(), ErrorKind::Invalid, "{pem}");
    }
}
