//! The least that a gateway can do with hyper: look up the client's key, look up the model, put the provider's key in
//! its place, read the usage from the bytes that pass. No limits, no budgets, no ledger, no fallback, no receipts.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::net::TcpListener;

struct Bare {
    client: Client<HttpConnector, Full<Bytes>>,
    keys: HashMap<[u8; 32], u32>,
    models: HashMap<String, (Uri, HeaderValue)>,
    tokens: AtomicU64,
}

/// The fields that are looked at; what they refer to stays in the body.
#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    model: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct Answered {
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Usage {
    total_tokens: u64,
}

/// Serves for ever in front of the upstream at `port`.
pub(crate) async fn serve(
    port: u16,
    client_key: &str,
    model: &str,
    ready: impl FnOnce(u16) -> io::Result<()>,
) -> io::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let uri = format!("http://127.0.0.1:{port}/v1/chat/completions").parse().map_err(io::Error::other)?;
    let bare = Arc::new(Bare {
        client: Client::builder(TokioExecutor::new()).build(connector),
        keys: [(digest(client_key.as_bytes()), 1)].into(),
        models: [(model.to_owned(), (uri, HeaderValue::from_static("Bearer sk-provider")))].into(),
        tokens: AtomicU64::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(listener.local_addr()?.port())?;
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        let bare = Arc::clone(&bare);
        tokio::spawn(async move {
            let service = service_fn(move |request| Arc::clone(&bare).handle(request));
            // A client that goes away is no fault here.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service)
                    .await,
            );
        });
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key).as_ref());
    bytes
}

impl Bare {
    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Passing>, hyper::Error> {
        let known = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .is_some_and(|key| self.keys.contains_key(&digest(key)));
        if !known {
            return Ok(refused(StatusCode::UNAUTHORIZED));
        }
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let target =
            serde_json::from_slice::<Asked>(&body).ok().and_then(|asked| self.models.get(&*asked.model));
        let Some((uri, key)) = target else { return Ok(refused(StatusCode::NOT_FOUND)) };
        parts.uri = uri.clone();
        parts.headers.remove(HOST);
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(AUTHORIZATION, key.clone());
        let Ok(answer) = self.client.request(Request::from_parts(parts, Full::new(body))).await else {
            return Ok(refused(StatusCode::BAD_GATEWAY));
        };
        let (parts, body) = answer.into_parts();
        let is_stream = parts
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        Ok(Response::from_parts(parts, Passing { body: Some(body), bare: Some(self), is_stream }))
    }

    fn see(&self, bytes: &[u8], is_stream: bool) {
        // Only bytes that can hold usage are parsed.
        if memchr::memmem::find(bytes, b"\"usage\":{").is_none() {
            return;
        }
        let json =
            if is_stream { bytes.strip_prefix(b"data: ").unwrap_or(bytes).trim_ascii_end() } else { bytes };
        if let Ok(Answered { usage: Some(usage) }) = serde_json::from_slice(json) {
            self.tokens.fetch_add(usage.total_tokens, Ordering::Relaxed);
        }
    }
}

fn refused(status: StatusCode) -> Response<Passing> {
    let mut response = Response::new(Passing { body: None, bare: None, is_stream: false });
    *response.status_mut() = status;
    response
}

/// The answer's bytes, looked at while they pass.
struct Passing {
    body: Option<Incoming>,
    bare: Option<Arc<Bare>>,
    is_stream: bool,
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(bare)) = (&polled, &self.bare)
            && let Some(bytes) = frame.data_ref()
        {
            bare.see(bytes, self.is_stream);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
