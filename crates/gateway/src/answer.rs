//! The body of an answer, and answers that are ours.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use contract::ai::FailureClass;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use wire::{ErrorClass, ErrorDetail, Format};

use crate::header;
use crate::once::Recording;
use crate::raw::RawRelay;
use crate::relay::Relay;

/// Why a body broke off; the connection is then closed without its proper end, so that the client notices.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub struct Answer(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Stream(Box<Relay>),
    Raw(Box<RawRelay>),
    Recorded(Box<Recording>),
}

impl Answer {
    /// Bytes that are there.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Kind::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    pub(crate) fn stream(relay: Relay) -> Self {
        Self(Kind::Stream(Box::new(relay)))
    }

    pub(crate) fn recorded(recording: Recording) -> Self {
        Self(Kind::Recorded(Box::new(recording)))
    }

    /// The bytes, if they are all there; else the answer itself.
    pub(crate) fn ready(self) -> Result<Bytes, Self> {
        match self.0 {
            Kind::Whole(bytes) => Ok(bytes.unwrap_or_default()),
            kind => Err(Self(kind)),
        }
    }

    pub(crate) fn raw(relay: RawRelay) -> Self {
        Self(Kind::Raw(Box::new(relay)))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream(relay) => relay.poll(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Raw(relay) => relay.poll(cx).map(|frame| frame.map(|bytes| bytes.map(Frame::data))),
            Kind::Recorded(recording) => {
                recording.poll(cx).map(|frame| frame.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Stream(_) | Kind::Recorded(_) => false,
            Kind::Raw(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Stream(_) | Kind::Recorded(_) => SizeHint::default(),
            Kind::Raw(relay) => relay.size_hint(),
        }
    }
}

/// An error of our own, in the client's protocol.
pub(crate) struct Problem<'a> {
    pub(crate) status: StatusCode,
    pub(crate) class: ErrorClass,
    pub(crate) message: &'a str,
    /// A word of our own in place of the class's.
    pub(crate) code: Option<&'a str>,
    /// The field that is wrong.
    pub(crate) field: Option<&'a str>,
    pub(crate) retry_after: Option<std::time::Duration>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(class: ErrorClass, message: &'a str) -> Self {
        let status = StatusCode::from_u16(class.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, class, message, code: None, field: None, retry_after: None }
    }

    pub(crate) fn answer(&self, format: Format, id: &HeaderValue) -> Response<Answer> {
        let seconds = self.retry_after.map(whole_seconds);
        let detail = ErrorDetail {
            field: self.field,
            request_id: id.to_str().ok(),
            code: self.code,
            retry_after_s: seconds,
        };
        let body = wire::error_body(format, self.status.as_u16(), self.class, self.message, detail);
        let mut response = Response::new(Answer::whole(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = seconds {
            headers.insert(RETRY_AFTER, header::number(seconds));
        }
        response
    }
}

/// Rounded up: a client that comes a moment too early is refused again.
pub(crate) fn whole_seconds(wait: std::time::Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The words that clients' protocols have for a provider's failure.
pub(crate) fn told_as(class: FailureClass) -> ErrorClass {
    match class {
        FailureClass::Rate => ErrorClass::Rate,
        // What is wrong is the account of the gateway, which the client can do nothing about.
        FailureClass::Quota | FailureClass::Key => ErrorClass::Unavailable,
        FailureClass::ContextLength => ErrorClass::ContextLength,
        FailureClass::Overloaded => ErrorClass::Overloaded,
        FailureClass::BadRequest => ErrorClass::BadRequest,
        FailureClass::NotFound => ErrorClass::NotFound,
        FailureClass::Refused => ErrorClass::Refused,
        FailureClass::Server | FailureClass::Network => ErrorClass::Server,
        FailureClass::Timeout => ErrorClass::Timeout,
        FailureClass::Truncated => ErrorClass::Truncated,
    }
}

/// The status for a failure without an answer that could be passed on.
pub(crate) fn status_for(class: FailureClass) -> StatusCode {
    match class {
        FailureClass::Network | FailureClass::Server | FailureClass::Truncated => StatusCode::BAD_GATEWAY,
        FailureClass::Timeout => StatusCode::GATEWAY_TIMEOUT,
        class => StatusCode::from_u16(told_as(class).status()).unwrap_or(StatusCode::BAD_GATEWAY),
    }
}
