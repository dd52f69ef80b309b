//! One try: a request to one target with one key, up to the point where the client could be answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use contract::ai::{Failure, FailureClass, Rejection};
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use jiff::Timestamp;
use outbound::{Incoming, Outgoing};
use tokio::time::Instant;
use wire::sse::{Event, Splitter};
use wire::{Format, Observed, Tap};

use crate::balance::Load;
use crate::breaker::Pass;
use crate::config::TimeoutsConfig;
use crate::flight::Flight;
use crate::header;
use crate::pool::Lent;
use crate::scrub::{conceal, scrub};
use crate::table::{OpenProvider, Ready, Target};

/// Largest plain answer that is held until it is whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// As much of an error's body is read.
const ERROR_BYTES_MAX: usize = 256 << 10;
/// How long the body of an error may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a stream is looked at before the client is answered: until the first content, and at most this.
const LOOK_EVENTS_MAX: usize = 64;
const LOOK_BYTES_MAX: usize = 256 << 10;
/// And for at most this long, so that a client of a model that thinks for minutes hears that the stream has begun.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);

/// What is sent.
pub(crate) struct Outbound<'a> {
    pub(crate) ready: &'a Ready,
    /// The client's headers as the provider may see them, without those of `ready`.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The format of the answer.
    pub(crate) format: Format,
    pub(crate) streaming: bool,
    pub(crate) timeouts: &'a TimeoutsConfig,
    /// When the client must have been answered.
    pub(crate) deadline: Instant,
    pub(crate) now: Timestamp,
}

/// An attempt that failed before the client got anything.
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    /// The provider's answer, if there was one, scrubbed.
    pub(crate) answer: Option<(StatusCode, HeaderMap, Bytes)>,
    /// The format of that answer.
    pub(crate) format: Format,
    /// Whether the provider may have worked, and want money for it.
    pub(crate) may_cost: bool,
}

/// An attempt that the client can be answered with.
pub(crate) struct Won {
    pub(crate) target: Arc<Target>,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) format: Format,
    pub(crate) what: WonBody,
}

pub(crate) enum WonBody {
    /// The whole answer.
    Whole(Bytes, Box<Observed>),
    /// A stream that has begun.
    Stream(Box<Opened>),
}

/// A stream that has begun.
pub(crate) struct Opened {
    pub(crate) upstream: Incoming,
    pub(crate) splitter: Splitter,
    pub(crate) tap: Tap,
    /// Events that were looked at and are still to be sent.
    pub(crate) seen: Vec<Event>,
    /// Whether the provider has ended the stream already, and how.
    pub(crate) ended: Option<Result<(), String>>,
    pub(crate) heard: Instant,
    pub(crate) lent: Lent,
    pub(crate) load: Load,
}

/// Asks a target. Everything that the provider says about the failure is told to key, breaker and record.
pub(crate) async fn attempt(
    target: &Arc<Target>,
    pass: Pass,
    lent: Lent,
    out: Outbound<'_>,
    flight: &mut Flight,
) -> Result<Won, Box<Failed>> {
    let load = Load::on(target);
    flight.begin(target, lent.name(), Instant::now());
    let format = out.format;
    let outcome = ask(target, lent, load, out, flight).await;
    let now = Instant::now();
    match outcome {
        Ok(won) => {
            pass.succeeded();
            Ok(won)
        }
        Err(problem) => {
            let Trouble { failure, answer, may_cost, lent } = *problem;
            if let Some(lent) = lent {
                lent.failed(now, &failure);
            }
            match failure.class {
                FailureClass::Overloaded
                | FailureClass::Server
                | FailureClass::Network
                | FailureClass::Timeout
                | FailureClass::Truncated => pass.failed(now, failure.retry_after),
                // What is wrong with a key or a request says that the target is well; what says nothing frees the place.
                FailureClass::BadRequest | FailureClass::ContextLength | FailureClass::Refused => {
                    pass.succeeded();
                }
                FailureClass::Rate | FailureClass::Quota | FailureClass::Key | FailureClass::NotFound => {
                    drop(pass);
                }
            }
            let status = answer.as_ref().map(|(status, ..)| status.as_u16());
            flight.answered(status, Some((failure.class, &failure.message)), may_cost, now);
            tracing::debug!(
                provider = &*target.provider.name,
                model = &*target.model,
                class = failure.class.as_str(),
                status,
                "an attempt failed"
            );
            Err(Box::new(Failed { failure, answer, format, may_cost }))
        }
    }
}

struct Trouble {
    failure: Failure,
    answer: Option<(StatusCode, HeaderMap, Bytes)>,
    may_cost: bool,
    lent: Option<Lent>,
}

impl Trouble {
    fn silent(class: FailureClass, message: &str, may_cost: bool) -> Box<Self> {
        Box::new(Self { failure: Failure::new(class, message), answer: None, may_cost, lent: None })
    }
}

/// Sends a request with its key and waits for the headers.
pub(crate) async fn send(
    target: &Target,
    lent: &Lent,
    mut request: Request<Outgoing>,
    within: Instant,
) -> Result<Response<Incoming>, (FailureClass, String, bool)> {
    if let Some((name, value)) = lent.header() {
        request.headers_mut().insert(name, value.clone());
    }
    match tokio::time::timeout_at(within, target.upstream.send(request)).await {
        Ok(Ok(mut response)) => {
            conceal(response.headers_mut(), lent.secret());
            Ok(response)
        }
        Ok(Err(error)) if error.timed_out => Err((FailureClass::Timeout, error.to_string(), false)),
        Ok(Err(error)) => Err((FailureClass::Network, error.to_string(), !error.before_sending)),
        Err(_) => Err((FailureClass::Timeout, "no answer in time".to_owned(), true)),
    }
}

async fn ask(
    target: &Arc<Target>,
    lent: Lent,
    load: Load,
    out: Outbound<'_>,
    flight: &mut Flight,
) -> Result<Won, Box<Trouble>> {
    let mut headers = out.headers;
    for (name, value) in &out.ready.headers {
        if !headers.contains_key(name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // What is compressed cannot be looked at.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut request = Request::new(Outgoing::whole(out.body));
    *request.method_mut() = out.ready.method.clone();
    *request.uri_mut() = out.ready.uri.clone();
    *request.headers_mut() = headers;
    let within = out.deadline.min(Instant::now() + Duration::from_millis(out.timeouts.headers_ms));
    let response = match send(target, &lent, request, within).await {
        Ok(response) => response,
        Err((class, message, may_cost)) => return Err(Trouble::silent(class, &message, may_cost)),
    };
    let (parts, mut body) = response.into_parts();
    let status = parts.status;
    if !status.is_success() {
        let (bytes, failure) = refusal(&target.provider, &lent, &parts, &mut body, out.now).await;
        let answer = Some((status, parts.headers, bytes));
        return Err(Box::new(Trouble { failure, answer, may_cost: false, lent: Some(lent) }));
    }
    flight.answered(Some(status.as_u16()), None, true, Instant::now());
    if !(out.streaming && header::is_stream(&parts.headers)) {
        let reading = read(&mut body, ANSWER_BYTES_MAX);
        let bytes = match tokio::time::timeout_at(within, reading).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err((cause, _))) => return Err(Trouble::silent(FailureClass::Network, &cause, true)),
            Err(_) => return Err(Trouble::silent(FailureClass::Timeout, "the answer stopped", true)),
        };
        if out.streaming {
            // Some servers answer a stream's error with a plain body and status 200.
            let rejection = Rejection { status, headers: &parts.headers, body: &bytes, now: out.now };
            if wire::read_error(out.format, &bytes, None).is_some() {
                let scrubbed = scrub(bytes.clone(), lent.secret());
                let failure = target.provider.adapter.classify(&Rejection { body: &scrubbed, ..rejection });
                return Err(Box::new(Trouble { failure, answer: None, may_cost: false, lent: Some(lent) }));
            }
        }
        let observed = match observed(out.format, &bytes) {
            Ok(observed) => observed,
            Err((class, message)) => return Err(Trouble::silent(class, message, true)),
        };
        lent.worked();
        let what = WonBody::Whole(bytes, Box::new(observed));
        let won =
            Won { target: Arc::clone(target), status, headers: parts.headers, format: out.format, what };
        return Ok(won);
    }
    let first_token = Duration::from_millis(out.timeouts.first_token_ms);
    let opened = look(body, &out.format, first_token, out.deadline).await;
    match opened {
        Looked::Begun(begun) => {
            lent.worked();
            let Begun { upstream, splitter, tap, seen, ended, heard } = *begun;
            let what =
                WonBody::Stream(Box::new(Opened { upstream, splitter, tap, seen, ended, heard, lent, load }));
            let won =
                Won { target: Arc::clone(target), status, headers: parts.headers, format: out.format, what };
            Ok(won)
        }
        Looked::Error(data) => {
            let data = scrub(data, lent.secret());
            let rejection =
                Rejection { status: StatusCode::OK, headers: &parts.headers, body: &data, now: out.now };
            let failure = target.provider.adapter.classify(&rejection);
            Err(Box::new(Trouble { failure, answer: None, may_cost: true, lent: Some(lent) }))
        }
        Looked::Failed(class, message) => {
            let mut trouble = Trouble::silent(class, &message, true);
            trouble.lent = Some(lent);
            Err(trouble)
        }
    }
}

/// Why a stream cannot be handed on.
pub(crate) const GARBLED: &str = "an event of the provider's stream is not valid JSON";

/// What is seen in a whole answer; an error if it is none.
fn observed(format: Format, body: &Bytes) -> Result<Observed, (FailureClass, &'static str)> {
    let mut tap = Tap::new(format, false);
    if tap.see_body(body) || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        return Ok(tap.into_observed());
    }
    // Some servers do not say that what they send are events.
    let mut tap = Tap::new(format, true);
    let mut splitter = Splitter::new();
    splitter.push(body.clone());
    while let Some(event) = splitter.next() {
        tap.see(&event);
    }
    let observed = tap.into_observed();
    if observed.finished {
        Ok(observed)
    } else if observed.first_content {
        Err((FailureClass::Truncated, "the provider ended the stream before the answer was complete"))
    } else {
        Err((FailureClass::Server, "the provider's reply is not valid JSON"))
    }
}

enum Looked {
    Begun(Box<Begun>),
    /// An error before any content.
    Error(Bytes),
    Failed(FailureClass, String),
}

struct Begun {
    upstream: Incoming,
    splitter: Splitter,
    tap: Tap,
    seen: Vec<Event>,
    ended: Option<Result<(), String>>,
    heard: Instant,
}

/// Looks at the beginning of a stream: as long as nothing has been sent, another target can still answer.
async fn look(mut upstream: Incoming, format: &Format, first_token: Duration, deadline: Instant) -> Looked {
    let mut splitter = Splitter::new();
    let mut tap = Tap::new(*format, true);
    let mut seen = Vec::new();
    let mut bytes = 0;
    let begun = Instant::now();
    let patience = (begun + first_token).min(deadline);
    let commit_at = begun + LOOK_TIME_MAX;
    let mut ended = None;
    while ended.is_none() {
        let frame = tokio::select! {
            biased;
            frame = upstream.frame() => frame,
            () = tokio::time::sleep_until(patience.min(commit_at)) => {
                if patience <= commit_at {
                    return Looked::Failed(FailureClass::Timeout, "no first event in time".into());
                }
                break;
            }
        };
        match frame {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                bytes += data.len();
                splitter.push(data);
            }
            Some(Err(error)) => ended = Some(Err(deepest(&error))),
            None => ended = Some(Ok(())),
        }
        loop {
            let event = match &ended {
                None => splitter.next(),
                Some(_) => splitter.finish().filter(|event| event.complete),
            };
            let Some(event) = event else { break };
            tap.see(&event);
            if tap.observed().error.is_some() && !tap.observed().first_content {
                return Looked::Error(event.data);
            }
            if tap.observed().is_garbled {
                if !tap.observed().first_content {
                    return Looked::Failed(FailureClass::Server, GARBLED.into());
                }
                ended = Some(Err(GARBLED.to_owned()));
                break;
            }
            seen.push(event);
        }
        let observed = tap.observed();
        if observed.first_content
            || observed.finished
            || seen.len() >= LOOK_EVENTS_MAX
            || bytes >= LOOK_BYTES_MAX
        {
            break;
        }
    }
    let observed = tap.observed();
    if !observed.first_content && !observed.finished {
        match ended {
            Some(Err(cause)) => return Looked::Failed(FailureClass::Network, cause),
            Some(Ok(())) => {
                return Looked::Failed(
                    FailureClass::Truncated,
                    "the stream ended before its first content".into(),
                );
            }
            None => {}
        }
    }
    Looked::Begun(Box::new(Begun { upstream, splitter, tap, seen, ended, heard: Instant::now() }))
}

/// What a provider says instead of an answer, without our key, and what it means.
pub(crate) async fn refusal(
    provider: &OpenProvider,
    lent: &Lent,
    head: &http::response::Parts,
    body: &mut Incoming,
    now: Timestamp,
) -> (Bytes, Failure) {
    let bytes = match tokio::time::timeout(ERROR_TIMEOUT, read(body, ERROR_BYTES_MAX)).await {
        Ok(Ok(bytes) | Err((_, bytes))) => bytes,
        Err(_) => Bytes::new(),
    };
    let bytes = scrub(bytes, lent.secret());
    let rejection = Rejection { status: head.status, headers: &head.headers, body: &bytes, now };
    let failure = provider.adapter.classify(&rejection);
    (bytes, failure)
}

/// The whole body; on a break or above `max` the beginning that is there.
pub(crate) async fn read<B>(body: &mut B, max: usize) -> Result<Bytes, (String, Bytes)>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let so_far = first.len() + rest.len();
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) if so_far + data.len() > max => {
                return Err((format!("the answer has more than {max} bytes"), joined(first, rest)));
            }
            Ok(Ok(data)) if so_far == 0 => first = data,
            Ok(Ok(data)) => {
                if rest.is_empty() {
                    rest.reserve((first.len() + data.len()).next_power_of_two());
                    rest.extend_from_slice(&std::mem::take(&mut first));
                }
                rest.extend_from_slice(&data);
            }
            Ok(Err(_)) => {}
            Err(error) => return Err((format!("the answer broke off: {error}"), joined(first, rest))),
        }
    }
    Ok(joined(first, rest))
}

fn joined(first: Bytes, rest: BytesMut) -> Bytes {
    if rest.is_empty() { first } else { rest.freeze() }
}

/// The innermost cause of an error.
pub(crate) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |&error| error.source())
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        let seen = |body: &'static str| observed(Format::Chat, &Bytes::from_static(body.as_bytes()));
        let class = |body| seen(body).map_err(|(class, _)| class).expect_err("no answer");
        let delta = r#"data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
        let end = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        let events =
            |all: &[&str]| -> &'static str { Box::leak((all.join("\n\n") + "\n\n").into_boxed_str()) };
        assert!(seen(r#"{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}"#).is_ok());
        assert!(seen(r#"{"unknown":[1,{"a":"b"}]}"#).is_ok());
        assert_eq!(class(r#"{"choices":[{"message":{"content":"a"#), FailureClass::Server);
        assert_eq!(class("{malformed json: <<<"), FailureClass::Server);
        assert_eq!(class("<html><body>Bad gateway</body></html>"), FailureClass::Server);
        assert_eq!(class(""), FailureClass::Server);
        // Events without their content type.
        assert!(seen(events(&[delta, end, "data: [DONE]"])).is_ok_and(|observed| observed.finished));
        assert_eq!(class(events(&[delta])), FailureClass::Truncated);
    }
}
