//! Requests to a bucket: signed, with a bound in time, and sent again where that helps.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use contract::{Clock, Context, Error, SecretSource};
use http::{HeaderMap, Method, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Limited};
use outbound::{Outgoing, Upstream, UpstreamOptions, retry_after};
use secrecy::ExposeSecret as _;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use url::Url;

use crate::error::{Fault, FaultKind};
use crate::s3::answer::{Asked, Refusal};
use crate::s3::pace::{Nap, Pace, wait};
use crate::s3::sign::{Credentials, Signed, amz_date, authorization, escaped};
use crate::seal::hex;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// An upload or download that is slower than this counts as stuck.
const BYTES_PER_SECOND_MIN: u64 = 32 << 10;
/// Pieces in which a body is sent that must not fill the line.
const PIECE_BYTES: usize = 64 << 10;

/// Where the bucket is and how it is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Without a path.
    pub(crate) endpoint: Url,
    pub(crate) bucket: String,
    pub(crate) region: String,
    /// The bucket's name in the path, not in the host.
    pub(crate) path_style: bool,
    pub(crate) timeout: Duration,
    pub(crate) attempts_max: u32,
    /// Certificates in PEM that are trusted besides the system's.
    pub(crate) extra_roots_pem: Option<Vec<u8>>,
}

impl Settings {
    /// What lies below a prefix, as restic names it.
    pub(crate) fn address(&self, prefix: &str) -> String {
        format!("s3:{}{}/{prefix}", self.endpoint, self.bucket).trim_end_matches('/').to_owned()
    }
}

/// One request.
#[derive(Default, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// The object's key; empty for the bucket itself.
    pub(crate) key: &'a str,
    pub(crate) query: Vec<(&'a str, String)>,
    /// Names in lower case.
    pub(crate) headers: Vec<(&'a str, String)>,
    pub(crate) body: Bytes,
    /// What a person is told that could not be done, such as `read`.
    pub(crate) doing: &'a str,
}

/// An answer that the caller judges: a success, or a status that it asked for.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Who speaks to the bucket: credentials from the vault, fetched again when they have expired.
pub(crate) struct Identity {
    /// Name of the secret.
    pub(crate) secret: String,
    secrets: Arc<dyn SecretSource>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    ctx: Option<Context>,
    credentials: Option<Arc<Credentials>>,
}

impl Identity {
    pub(crate) fn new(secret: &str, secrets: Arc<dyn SecretSource>) -> Self {
        Self { secret: secret.to_owned(), secrets, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the credentials for the work of this context.
    pub(crate) async fn fetch(&self, ctx: &Context) -> Result<(), Error> {
        let text = self.secrets.secret(ctx, &self.secret).await?;
        let credentials = Credentials::parse(&text).ok_or_else(|| {
            Error::new(contract::ErrorKind::Invalid, "the secret holds no credentials of S3")
                .with("secret", &self.secret)
                .hint("write ACCESS_KEY:SECRET_KEY, and behind another `:` the session token if there is one")
        })?;
        let mut known = self.known();
        known.ctx = Some(ctx.clone());
        known.credentials = Some(Arc::new(credentials));
        Ok(())
    }

    fn credentials(&self) -> Result<Arc<Credentials>, Fault> {
        self.known().credentials.clone().ok_or_else(|| {
            Fault::new(
                FaultKind::Unavailable,
                format!("the credentials in `{}` were not fetched", self.secret),
            )
        })
    }

    /// Fetches them again; whether they are others than `old`.
    fn renew(self: &Arc<Self>, old: &Credentials) -> Result<bool, Fault> {
        let Some(ctx) = self.known().ctx.clone() else { return Ok(false) };
        let identity = Arc::clone(self);
        beside(async move { identity.fetch(&ctx).await })?.map_err(|error| {
            Fault::new(FaultKind::Denied, format!("the credentials have expired: {error}"))
        })?;
        Ok(!self.credentials()?.is_same(old))
    }
}

/// Runs a future to its end on threads of our own. Whoever calls may be on a thread of the caller's runtime, which must not
/// block on itself.
fn beside<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T, Fault> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("repository-s3").enable_all().build().ok()
    });
    let lost = || Fault::new(FaultKind::Unavailable, "the system gives no thread for requests");
    let (tell, told) = sync_channel(1);
    runtime.as_ref().ok_or_else(lost)?.spawn(async move {
        // Nobody listens when the process ends.
        drop(tell.send(future.await));
    });
    told.recv().map_err(|_| lost())
}

/// Speaks to one bucket; what differs between those who do is the [`Identity`].
pub(crate) struct Client {
    pub(crate) settings: Settings,
    upstream: OnceLock<Upstream>,
    pub(crate) pace: Option<Arc<Pace>>,
    pub(crate) nap: Arc<dyn Nap>,
    /// The clock that signatures are made with: the server compares it with its own.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Client {
    pub(crate) fn new(
        settings: Settings,
        pace: Option<Arc<Pace>>,
        nap: Arc<dyn Nap>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { settings, upstream: OnceLock::new(), pace, nap, clock }
    }

    fn upstream(&self) -> Result<&Upstream, Fault> {
        if let Some(upstream) = self.upstream.get() {
            return Ok(upstream);
        }
        let options = UpstreamOptions {
            extra_roots_pem: self.settings.extra_roots_pem.clone(),
            idle_per_host_max: 16,
            ..UpstreamOptions::default()
        };
        let made = Upstream::new(&options).map_err(|error| {
            Fault::new(FaultKind::Invalid, format!("`certificates`: {}", error.message()))
        })?;
        Ok(self.upstream.get_or_init(|| made))
    }

    /// Host, and path with escapes, of a key.
    fn place_of(&self, key: &str) -> (String, String) {
        let settings = &self.settings;
        let host = settings.endpoint.host_str().unwrap_or_default();
        let port = settings.endpoint.port().map_or_else(String::new, |port| format!(":{port}"));
        if settings.path_style {
            (format!("{host}{port}"), format!("/{}/{}", escaped(&settings.bucket, false), escaped(key, true)))
        } else {
            (format!("{}.{host}{port}", settings.bucket), format!("/{}", escaped(key, true)))
        }
    }

    fn fault(&self, who: &Identity, call: &Call<'_>, refusal: &Refusal) -> Fault {
        let endpoint = self.settings.endpoint.as_str().trim_end_matches('/');
        refusal.fault(&Asked {
            doing: call.doing,
            path: if call.key.is_empty() { &self.settings.bucket } else { call.key },
            bucket: &self.settings.bucket,
            region: &self.settings.region,
            endpoint,
            secret: &who.secret,
            now: &amz_date(self.clock.now()),
        })
    }

    /// Sends a request until it is answered with a success or with one of the statuses in `judged`, or cannot be.
    ///
    /// An object that is not there is `Missing`.
    pub(crate) fn call(&self, who: &Arc<Identity>, call: &Call<'_>, judged: &[u16]) -> Result<Answer, Fault> {
        let (mut failed, mut renewed) = (0, false);
        loop {
            let credentials = who.credentials()?;
            let (fault, asked) = match self.once(&credentials, call)? {
                Ok(answer) if (200..300).contains(&answer.status) || judged.contains(&answer.status) => {
                    return Ok(answer);
                }
                Ok(answer) => {
                    let refusal = Refusal::read(answer.status, &answer.headers, &answer.body);
                    if refusal.is_expired() && !renewed && who.renew(&credentials)? {
                        renewed = true;
                        tracing::info!(
                            secret = who.secret,
                            "the credentials had expired and were fetched again"
                        );
                        continue;
                    }
                    let no_object = matches!(refusal.code.as_str(), "NoSuchKey" | "NoSuchVersion" | "");
                    if answer.status == 404 && no_object && !call.key.is_empty() {
                        return Err(Fault::new(
                            FaultKind::Missing,
                            format!("cannot {} `{}`: it is not there", call.doing, call.key),
                        ));
                    }
                    let fault = self.fault(who, call, &refusal);
                    if !refusal.passes() {
                        return Err(fault);
                    }
                    (fault, retry_after(&answer.headers, self.clock.now()))
                }
                Err(fault) => (fault, None),
            };
            failed += 1;
            if failed >= self.settings.attempts_max {
                return Err(Fault::new(fault.kind, format!("{fault}; given up after {failed} attempts")));
            }
            let how_long = wait(failed, asked)?;
            tracing::debug!(%fault, attempt = failed, wait_ms = how_long.as_millis(), "a request is sent again");
            self.nap.nap(how_long);
        }
    }

    /// Sends it once. The inner error is one after which the same request may be answered.
    fn once(&self, credentials: &Credentials, call: &Call<'_>) -> Result<Result<Answer, Fault>, Fault> {
        let length = call.body.len();
        let request = self.request(credentials, call)?;
        let upstream = self.upstream()?.clone();
        let slow = Duration::from_secs(length as u64 / BYTES_PER_SECOND_MIN);
        let mut limit = self.settings.timeout + slow;
        let mut request = request.map(Outgoing::whole);
        if let Some(pace) = &self.pace
            && length > 0
        {
            let now = Instant::now();
            let (start, lasts) = pace.take(length, now);
            limit += start.saturating_duration_since(now) + lasts;
            request = request.map(|body| match body {
                Outgoing::Whole(Some(bytes)) => {
                    Outgoing::Forwarded(Paced::new(&bytes, start, lasts).boxed_unsync())
                }
                other => other,
            });
        }
        let patience = self.settings.timeout;
        let answered = beside(async move {
            let response = match tokio::time::timeout(limit, upstream.send(request)).await {
                Ok(response) => response.map_err(|error| error.to_string())?,
                Err(_) => return Err("no answer in time".to_owned()),
            };
            let (head, body) = response.into_parts();
            let announced = head.headers.get(http::header::CONTENT_LENGTH);
            let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
            let limit = patience + Duration::from_secs(announced / BYTES_PER_SECOND_MIN);
            let body = match tokio::time::timeout(limit, Limited::new(body, ANSWER_BYTES_MAX).collect()).await
            {
                Ok(body) => body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes(),
                Err(_) => return Err("the answer does not come to its end".to_owned()),
            };
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        })?;
        Ok(answered.map_err(|why| {
            let path = if call.key.is_empty() { &self.settings.bucket } else { call.key };
            Fault::new(
                FaultKind::Unavailable,
                format!(
                    "cannot {} `{path}` at {}: {why}",
                    call.doing,
                    self.settings.endpoint.host_str().unwrap_or_default()
                ),
            )
        }))
    }

    fn request(&self, credentials: &Credentials, call: &Call<'_>) -> Result<Request<Bytes>, Fault> {
        let now = self.clock.now();
        let (host, path) = self.place_of(call.key);
        let mut query: Vec<(String, String)> =
            call.query.iter().map(|(name, value)| (escaped(name, false), escaped(value, false))).collect();
        query.sort();
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let query = query.join("&");
        let payload_sha256 = hex(&Sha256::digest(&call.body));
        let mut headers: Vec<(String, String)> =
            call.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        headers.push(("host".into(), host.clone()));
        headers.push(("x-amz-content-sha256".into(), payload_sha256.clone()));
        headers.push(("x-amz-date".into(), amz_date(now)));
        if let Some(token) = &credentials.session_token {
            headers.push(("x-amz-security-token".into(), token.expose_secret().to_owned()));
        }
        headers.sort();
        let signed = Signed {
            method: call.method.as_str(),
            path: &path,
            query: &query,
            headers: &headers,
            payload_sha256: &payload_sha256,
        };
        let authorization = authorization(credentials, &self.settings.region, now, &signed);
        let scheme = self.settings.endpoint.scheme();
        let question = if query.is_empty() { String::new() } else { format!("?{query}") };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{scheme}://{host}{path}{question}"))
            .header("authorization", authorization)
            .header("user-agent", concat!("steward/", env!("CARGO_PKG_VERSION")));
        if !call.body.is_empty() || call.method == Method::PUT || call.method == Method::POST {
            request = request.header("content-length", call.body.len());
        }
        for (name, value) in &headers {
            if name != "host" {
                request = request.header(name, value);
            }
        }
        request.body(call.body.clone()).map_err(|error| {
            Fault::new(FaultKind::Invalid, format!("cannot {} `{}`: {error}", call.doing, call.key))
        })
    }
}

/// A body that takes its time.
struct Paced {
    pieces: VecDeque<Bytes>,
    start: tokio::time::Instant,
    each: Duration,
    sent: u32,
    pause: Pin<Box<tokio::time::Sleep>>,
}

impl Paced {
    fn new(bytes: &Bytes, start: Instant, lasts: Duration) -> Self {
        let pieces: VecDeque<Bytes> = (0..bytes.len())
            .step_by(PIECE_BYTES)
            .map(|at| bytes.slice(at..bytes.len().min(at + PIECE_BYTES)))
            .collect();
        let each = lasts / u32::try_from(pieces.len().max(1)).unwrap_or(u32::MAX);
        let start = tokio::time::Instant::from_std(start);
        Self { pieces, start, each, sent: 0, pause: Box::pin(tokio::time::sleep_until(start)) }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        task::ready!(self.pause.as_mut().poll(cx));
        self.sent += 1;
        let next = self.start + self.each * self.sent;
        self.pause.as_mut().reset(next);
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }
}
