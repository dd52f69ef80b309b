//! The client for forwarding: streams in both directions, frame by frame, with warm connections.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use bytes::Bytes;
use contract::Error;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use tower_service::Service;

use crate::guard::Guarded;
use crate::{failure, tls};

type BoxError = Box<dyn StdError + Send + Sync>;

/// How an [`Upstream`] behaves.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// Longest time for a name, a connection and its TLS. Default: 5 s.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept. Default: 60 s.
    pub idle: Duration,
    /// Idle connections that are kept for a host. Default: 256.
    pub idle_per_host_max: usize,
    /// Certificates in PEM that are trusted besides the system's.
    pub extra_roots_pem: Option<Vec<u8>>,
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle: Duration::from_mins(1),
            idle_per_host_max: 256,
            extra_roots_pem: None,
        }
    }
}

/// What is sent: bytes that are there, or a body that is forwarded while it arrives.
pub enum Outgoing {
    /// Bytes; `None` once they are taken.
    Whole(Option<Bytes>),
    /// A body that arrives meanwhile; it cannot be sent twice.
    Forwarded(UnsyncBoxBody<Bytes, BoxError>),
}

impl Outgoing {
    /// These bytes.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Forwarded(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Forwarded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Forwarded(body) => body.size_hint(),
        }
    }
}

/// Why there was no answer.
#[derive(Debug)]
pub struct SendError {
    /// Whether a connection could not even be made; then nothing was sent.
    pub before_sending: bool,
    /// Whether it took too long to connect.
    pub timed_out: bool,
    message: String,
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for SendError {}

/// Forwards requests; cheap to clone, the clones share connections.
///
/// HTTP/1.1 and HTTP/2 by what the server offers, TLS by rustls with the system's roots and one's own, no proxy, no
/// redirects, no decompression, nothing sent twice. A request whose answer is dropped closes its connection (HTTP/1) or
/// resets its stream (HTTP/2).
#[derive(Clone)]
pub struct Upstream {
    client: Client<TimedConnector, Outgoing>,
}

impl Upstream {
    /// A client that has not connected anywhere yet. Reads the system's certificates, which takes milliseconds.
    ///
    /// # Errors
    ///
    /// `Invalid`: the extra certificates are not PEM.
    pub fn new(options: &UpstreamOptions) -> Result<Self, Error> {
        let roots =
            options.extra_roots_pem.as_deref().map(tls::certificates).transpose()?.unwrap_or_default();
        let mut connector = HttpConnector::new_with_resolver(Guarded::new());
        connector.enforce_http(false);
        // A small request must not wait for the acknowledgement of the one before.
        connector.set_nodelay(true);
        connector.set_keepalive(Some(Duration::from_secs(30)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::configuration(&roots)?)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        let connector = TimedConnector { inner: connector, timeout: options.connect_timeout };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(options.idle)
            .pool_max_idle_per_host(options.idle_per_host_max)
            // Only a request that a closing connection never took goes to another one.
            .retry_canceled_requests(true)
            .http2_adaptive_window(true)
            .build(connector);
        Ok(Self { client })
    }

    /// Sends a request and waits for the headers of its answer.
    ///
    /// # Errors
    ///
    /// There is no answer; says whether anything was sent.
    pub async fn send(&self, request: Request<Outgoing>) -> Result<Response<Incoming>, SendError> {
        self.client.request(request).await.map_err(|error| {
            let timed_out = causes(&error).any(<dyn StdError>::is::<ConnectTimedOut>);
            let message = if timed_out {
                "no connection in time".to_owned()
            } else {
                let deepest = causes(&error).last().map(ToString::to_string).unwrap_or_default();
                if failure::is_certificate(&error) {
                    format!("the server's certificate is not trusted: {deepest}; a private authority is named in `certificates`")
                } else if error.is_connect() {
                    format!("no connection: {deepest}")
                } else {
                    format!("the connection broke: {deepest}")
                }
            };
            SendError { before_sending: error.is_connect(), timed_out, message }
        })
    }
}

fn causes<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// How long a server asks to be left alone: `retry-after-ms`, or `retry-after` in seconds or as a date.
///
/// Source: RFC 9110, section 10.2.3; `retry-after-ms` is sent by Azure and read by OpenAI's own clients.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(milliseconds) = text("retry-after-ms").and_then(|text| text.trim().parse::<f64>().ok())
        && milliseconds.is_finite()
        && milliseconds >= 0.0
    {
        return Some(Duration::from_secs_f64((milliseconds / 1_000.0).min(86_400.0)));
    }
    let text = text("retry-after")?;
    if let Ok(seconds) = text.trim().parse::<f64>()
        && seconds.is_finite()
        && seconds >= 0.0
    {
        return Some(Duration::from_secs_f64(seconds.min(86_400.0)));
    }
    failure::retry_after(text, now)
}

/// A connector that does not wait longer than it should.
#[derive(Clone)]
struct TimedConnector {
    inner: HttpsConnector<HttpConnector<Guarded>>,
    timeout: Duration,
}

#[derive(Debug)]
struct ConnectTimedOut;

impl std::fmt::Display for ConnectTimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no connection in time")
    }
}

impl StdError for ConnectTimedOut {}

type Stream = <HttpsConnector<HttpConnector<Guarded>> as Service<Uri>>::Response;

impl Service<Uri> for TimedConnector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, timeout) = (self.inner.call(uri), self.timeout);
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(ConnectTimedOut.into()),
            }
        })
    }
}
