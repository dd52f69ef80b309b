//! Requests with a deadline and answers with a bound.

use std::fmt;
use std::time::Duration;

use contract::{Context, Error, ErrorKind};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, redirect};
use rustls::pki_types::CertificateDer;
use tokio::sync::OnceCell;
use url::Url;

use crate::address::{secret_parts, shown};
use crate::{failure, tls};

/// Redirects followed within one server before it is taken to run in circles.
const REDIRECTS_MAX: usize = 5;
/// As much of an error's body is read, and of that so many characters are shown.
const ERROR_BODY_READ_MAX: usize = 4096;
const ERROR_BODY_SHOWN_MAX: usize = 300;
/// A shorter header or query value is not looked for in an error's body: it would be found in words.
const ECHO_LENGTH_MIN: usize = 6;

/// How a [`Client`] behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Longest wait for a connection. Default: 5 s.
    pub connect_timeout: Duration,
    /// Longest time for a request with its answer; the context's deadline may be sooner. Default: 30 s.
    pub timeout: Duration,
    /// Largest answer that is read. Default: 1 MiB.
    pub response_size_bytes_max: usize,
    /// Certificates in PEM that are trusted besides the system's.
    pub extra_roots_pem: Option<Vec<u8>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            response_size_bytes_max: 1024 * 1024,
            extra_roots_pem: None,
        }
    }
}

/// An answer with a status of success.
pub struct Response {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Response {
    /// The status, 200 to 299.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A header's value, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as it came.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Shows status and size: headers and body may hold secrets.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Sends requests; keeps connections open between them.
///
/// Trusts the system's roots and those of the options. No proxy, no cookies. A redirect is followed only within the
/// same scheme, host and port and only when it keeps method and body (307, 308); any other is an error, so that
/// neither a secret nor a body goes where nobody configured it to go. Nothing is sent twice by itself.
pub struct Client {
    options: Options,
    extra_roots: Vec<CertificateDer<'static>>,
    /// Made at the first request: reading the system's roots takes longer than a short command should.
    http: OnceCell<reqwest::Client>,
}

impl Client {
    /// A client that has not connected anywhere yet.
    ///
    /// # Errors
    ///
    /// `Invalid`: the extra certificates are not PEM.
    pub fn new(options: Options) -> Result<Self, Error> {
        let extra_roots =
            options.extra_roots_pem.as_deref().map(tls::certificates).transpose()?.unwrap_or_default();
        Ok(Self { options, extra_roots, http: OnceCell::new() })
    }

    /// Asks for `url`.
    ///
    /// # Errors
    ///
    /// `Invalid`: the URL or a header; or the server did not accept the request. `Unavailable`, `TimedOut`,
    /// `Canceled`: no answer, or one of 500 and more. `Denied`: 401, 403, or an untrusted certificate. `NotFound`,
    /// `Conflict`, `LimitExceeded`: by status; the last also for an answer larger than the bound.
    /// [`Error::retry`] says whether and when another attempt makes sense, with the server's `Retry-After`.
    pub async fn get(&self, ctx: &Context, url: &str, headers: &[(&str, &str)]) -> Result<Response, Error> {
        self.send(ctx, Method::GET, url, headers, Vec::new()).await
    }

    /// Sends JSON. A header's value may be a secret: none is ever shown.
    ///
    /// # Errors
    ///
    /// As for [`Client::get`].
    pub async fn post_json(
        &self,
        ctx: &Context,
        url: &str,
        headers: &[(&str, &str)],
        json: Vec<u8>,
    ) -> Result<Response, Error> {
        let mut with_type = vec![(CONTENT_TYPE.as_str(), "application/json")];
        with_type.extend(headers);
        self.send(ctx, Method::POST, url, &with_type, json).await
    }

    /// Puts bytes at `url`, such as an object in a bucket.
    ///
    /// # Errors
    ///
    /// As for [`Client::get`].
    pub async fn put_bytes(
        &self,
        ctx: &Context,
        url: &str,
        headers: &[(&str, &str)],
        bytes: Vec<u8>,
    ) -> Result<Response, Error> {
        self.send(ctx, Method::PUT, url, headers, bytes).await
    }

    async fn send(
        &self,
        ctx: &Context,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Response, Error> {
        let url = checked_url(url)?;
        let header_map = checked_headers(headers)?;
        let ctx = &ctx.clone().with_timeout(self.options.timeout);
        let answered = ctx.run(async {
            let http = self.http.get_or_try_init(|| self.connect()).await?;
            let request = http.request(method, url.clone()).headers(header_map).body(body);
            let response = request.send().await.map_err(failure::of_connection)?;
            if response.status().is_success() {
                self.read(response).await
            } else {
                Err(refused(ctx, &url, headers, response).await)
            }
        });
        answered.await.map_err(|error| error.with("url", shown(&url)))
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Response, Error> {
        let max = self.options.response_size_bytes_max;
        let too_large = || {
            Error::new(ErrorKind::LimitExceeded, "the answer is larger than allowed")
                .with("size_bytes_max", max)
        };
        if response.content_length().is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failure::of_connection)? {
            if body.len() + chunk.len() > max {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status().as_u16();
        Ok(Response { status, headers: std::mem::take(response.headers_mut()), body })
    }

    async fn connect(&self) -> Result<reqwest::Client, Error> {
        let extra_roots = self.extra_roots.clone();
        let tls = tokio::task::spawn_blocking(move || tls::configuration(&extra_roots))
            .await
            .expect("reading certificates does not panic")?;
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // The environment is read by the binary alone.
            .no_proxy()
            .connect_timeout(self.options.connect_timeout)
            .redirect(redirect::Policy::custom(follow))
            .referer(false)
            .user_agent(concat!("steward/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(failure::of_connection)
    }
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let keeps_the_request = matches!(attempt.status().as_u16(), 307 | 308);
    let same_server =
        attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    if keeps_the_request && same_server && attempt.previous().len() <= REDIRECTS_MAX {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// The error of an answer without success, with the beginning of what the server says.
async fn refused(
    ctx: &Context,
    url: &Url,
    headers: &[(&str, &str)],
    mut response: reqwest::Response,
) -> Error {
    let header = |name: HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok().map(str::to_owned))
    };
    let wait = header(RETRY_AFTER).and_then(|value| failure::retry_after(&value, ctx.now()));
    let mut error = failure::of_status(response.status().as_u16(), wait);
    let target = header(reqwest::header::LOCATION).and_then(|location| url.join(&location).ok());
    if let Some(target) = target.filter(|_| response.status().is_redirection()) {
        error = error.with("points_to", shown(&target));
    }
    let mut body = Vec::new();
    // A body that breaks off still has a beginning.
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(ERROR_BODY_READ_MAX - body.len())]);
        if body.len() == ERROR_BODY_READ_MAX {
            break;
        }
    }
    let said = excerpt(&body, url, headers);
    if said.is_empty() { error } else { error.with("answer", said) }
}

/// The beginning of a body in one line, without the request's secrets that it may repeat.
fn excerpt(body: &[u8], url: &Url, headers: &[(&str, &str)]) -> String {
    let mut text = String::from_utf8_lossy(body).into_owned();
    let mut secrets = secret_parts(url);
    for (_, value) in headers {
        secrets.extend(value.split_whitespace().map(str::to_owned));
        secrets.push((*value).to_owned());
    }
    secrets.retain(|secret| secret.len() >= ECHO_LENGTH_MIN && secret != "application/json");
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in secrets {
        text = text.replace(&secret, "[redacted]");
    }
    let words = text.split(|character: char| character.is_whitespace() || character.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    line.chars().take(ERROR_BODY_SHOWN_MAX).collect()
}

fn checked_url(text: &str) -> Result<Url, Error> {
    let invalid = |why| {
        Error::new(ErrorKind::Invalid, why).hint("write `https://` or `http://`, the host, and the path")
    };
    // The parser's error is not passed on: it is short, but the next version's might repeat the text.
    let url = Url::parse(text).map_err(|_| invalid("this is not a URL"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(invalid("only http and https are spoken here")),
    }
}

fn checked_headers(headers: &[(&str, &str)]) -> Result<HeaderMap, Error> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let invalid = || Error::new(ErrorKind::Invalid, "a header cannot be sent").with("header", *name);
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}
