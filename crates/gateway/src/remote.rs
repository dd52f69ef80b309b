//! Calls of our own to a provider's files and jobs.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use contract::Error;
use contract::ai::{Call, Failure, FailureClass, Operation};
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use jiff::Timestamp;
use outbound::{Incoming, Outgoing};
use tokio::time::Instant;
use wire::Format;

use crate::attempt::{read, refusal, send};
use crate::config::ProviderKind;
use crate::meter::What;
use crate::pool::Lent;
use crate::table::{OpenProvider, Project};

/// Largest description of a file or a job, and longest list of them.
pub(crate) const OBJECT_BYTES_MAX: usize = 16 << 20;
/// Longest line of a file.
const LINE_BYTES_MAX: usize = 32 << 20;
/// Longest silence while a file arrives.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Path and query at the provider, and headers that such calls want.
///
/// # Errors
///
/// `Unsupported`: the provider has no such calls.
pub(crate) fn address(
    provider: &OpenProvider,
    what: What,
    format: Format,
    path: &str,
    query: &str,
) -> Result<(String, Vec<(HeaderName, HeaderValue)>), Error> {
    let operation = match what {
        What::Files | What::Responses => Operation::Files,
        What::Batches => Operation::Batches,
        _ => Operation::FineTuning,
    };
    // What the provider puts before the path (`/openai/v1`) and after it (`?api-version=…`).
    let around = provider.adapter.endpoint(&Call { operation, model: "" })?;
    let (known_path, version) = around.path.split_once('?').unwrap_or((&around.path, ""));
    let known = match what {
        What::Files | What::Responses => "/files",
        What::Batches if format == Format::Messages => "/messages/batches",
        What::Batches => "/batches",
        _ => "/fine_tuning/jobs",
    };
    let base = known_path.strip_suffix(known).unwrap_or_default();
    // The client's `api-version` names Azure's interface as the client sees it; the provider's own goes before it.
    let known_version = !version.is_empty() || provider.kind != ProviderKind::AzureOpenai;
    let own = query.split('&').filter(|part| !(known_version && part.starts_with("api-version=")));
    let query: Vec<&str> = std::iter::once(version).chain(own).filter(|part| !part.is_empty()).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    Ok((format!("{}{base}{path}{mark}{}", provider.url, query.join("&")), around.headers))
}

/// A call.
pub(crate) struct Remote<'a> {
    pub project: &'a Project,
    pub provider: &'a std::sync::Arc<OpenProvider>,
    pub what: What,
    pub format: Format,
    pub now: Timestamp,
}

/// Why there is no useful answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub failure: Failure,
    /// What the provider answered, scrubbed.
    pub answer: Option<(StatusCode, HeaderMap, Bytes)>,
    /// The provider may have done what was asked.
    pub may_be_done: bool,
}

impl Failed {
    pub(crate) fn silent(class: FailureClass, message: &str, may_be_done: bool) -> Box<Self> {
        Box::new(Self { failure: Failure::new(class, message), answer: None, may_be_done })
    }

    /// The same call fails again, whenever it is made and whatever is done about keys and limits.
    pub(crate) fn is_for_good(&self) -> bool {
        match &self.answer {
            Some((status, ..)) => {
                status.is_client_error()
                    && !matches!(status.as_u16(), 401 | 402 | 403 | 407 | 408 | 425 | 429)
            }
            None => self.failure.class == FailureClass::BadRequest,
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let status = self.answer.as_ref().map(|(status, ..)| format!(" ({})", status.as_u16()));
        format!("{}{}: {}", self.failure.class.as_str(), status.unwrap_or_default(), self.failure.message)
    }
}

impl Remote<'_> {
    /// Sends a call and waits for the beginning of its answer, which is a success.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        query: &str,
        mut headers: HeaderMap,
        body: Bytes,
        within: Duration,
    ) -> Result<(http::response::Parts, Incoming, Lent), Box<Failed>> {
        let silent = |class, message: &str| Failed::silent(class, message, false);
        let (address, fixed) = address(self.provider, self.what, self.format, path, query)
            .map_err(|error| silent(FailureClass::NotFound, error.message()))?;
        let uri = Uri::try_from(address)
            .map_err(|_| silent(FailureClass::BadRequest, "the path makes no address"))?;
        let route = self
            .project
            .direct(self.provider, "")
            .ok_or_else(|| silent(FailureClass::Network, "the provider cannot be reached"))?;
        let lent = self
            .provider
            .pool
            .pick(Instant::now())
            .ok_or_else(|| silent(FailureClass::Key, "none of the provider's keys can be used now"))?;
        for (name, value) in fixed {
            headers.entry(name).or_insert(value);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut request = Request::new(Outgoing::whole(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let response = send(&route.targets[0], &lent, request, Instant::now() + within)
            .await
            .map_err(|(class, message, sent)| Failed::silent(class, &message, sent))?;
        let (parts, mut body) = response.into_parts();
        if parts.status.is_success() {
            lent.worked();
            return Ok((parts, body, lent));
        }
        let (bytes, failure) = refusal(self.provider, &lent, &parts, &mut body, self.now).await;
        lent.failed(Instant::now(), &failure);
        // Who is overloaded has not begun.
        let may_be_done = parts.status.is_server_error() && failure.class != FailureClass::Overloaded;
        Err(Box::new(Failed { failure, answer: Some((parts.status, parts.headers, bytes)), may_be_done }))
    }

    /// A description as the provider gives it.
    pub(crate) async fn object(
        &self,
        path: &str,
        within: Duration,
    ) -> Result<serde_json::Value, Box<Failed>> {
        let call = self.call(Method::GET, path, "", HeaderMap::new(), Bytes::new(), within);
        let (_, mut body, _lent) = call.await?;
        let bytes = match tokio::time::timeout(within, read(&mut body, OBJECT_BYTES_MAX)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err((cause, _))) => return Err(Failed::silent(FailureClass::Network, &cause, false)),
            Err(_) => return Err(Failed::silent(FailureClass::Timeout, "the answer stopped", false)),
        };
        serde_json::from_slice(&bytes)
            .map_err(|_| Failed::silent(FailureClass::Server, "the answer is no JSON", false))
    }

    /// Gives each line of a file to `each`, which may end it; answers the file's bytes. The file is never held whole.
    pub(crate) async fn lines<E: From<Box<Failed>>>(
        &self,
        path: &str,
        bytes_max: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let within = Duration::from_mins(2);
        let call = self.call(Method::GET, path, "", HeaderMap::new(), Bytes::new(), within);
        let (_, mut body, _lent) = call.await.map_err(E::from)?;
        let broken = |class, message: &str| E::from(Failed::silent(class, message, false));
        let mut rest = BytesMut::new();
        // So many bytes of `rest` are known to hold no end of a line.
        let mut searched = 0;
        let mut total = 0_u64;
        loop {
            let frame = match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(broken(FailureClass::Network, "the file broke off")),
                Ok(None) => break,
                Err(_) => return Err(broken(FailureClass::Timeout, "the file stopped arriving")),
            };
            let Ok(data) = frame.into_data() else { continue };
            total += data.len() as u64;
            if total > bytes_max {
                return Err(broken(FailureClass::BadRequest, "the file is larger than any that is counted"));
            }
            rest.extend_from_slice(&data);
            while let Some(end) = memchr::memchr(b'\n', &rest[searched..]) {
                let line = rest.split_to(searched + end + 1);
                searched = 0;
                if !line.trim_ascii().is_empty() {
                    each(line.trim_ascii())?;
                }
            }
            searched = rest.len();
            if searched > LINE_BYTES_MAX {
                return Err(broken(FailureClass::BadRequest, "a line of the file is too long"));
            }
        }
        if !rest.trim_ascii().is_empty() {
            each(rest.trim_ascii())?;
        }
        Ok(total)
    }
}
