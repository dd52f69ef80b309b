//! An answer that passes by without being understood: files, batches, declared other services.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use contract::ai::FailureClass;
use http_body::{Body, SizeHint};
use outbound::Incoming;
use tokio::time::{Instant, Sleep};

use crate::answer::BodyError;
use crate::balance::Load;
use crate::flight::Flight;
use crate::lookout::Lookout;
use crate::meter::Ending;
use crate::pool::Lent;
use crate::scrub::Concealer;

/// Forwards frame by frame; a break of the provider's connection breaks the client's.
pub(crate) struct RawRelay {
    upstream: Incoming,
    flight: Option<Box<Flight>>,
    idle: Duration,
    heard: Instant,
    alarm: Pin<Box<Sleep>>,
    lookout: Option<Lookout>,
    /// Takes our key out, where the service may echo it.
    concealer: Option<Concealer>,
    lent: Lent,
    _load: Load,
}

impl RawRelay {
    pub(crate) fn new(
        upstream: Incoming,
        flight: Box<Flight>,
        idle: Duration,
        lookout: Option<Lookout>,
        lent: Lent,
        load: Load,
    ) -> Self {
        let heard = Instant::now();
        let alarm = Box::pin(tokio::time::sleep_until(heard + idle));
        let mut relay = Self {
            upstream,
            flight: Some(flight),
            idle,
            heard,
            alarm,
            lookout,
            concealer: None,
            lent,
            _load: load,
        };
        if relay.upstream.is_end_stream() {
            relay.end(Ending::Complete, None);
        }
        relay
    }

    /// The same, taking the key that was sent out of what comes back.
    pub(crate) fn concealing(mut self) -> Self {
        self.concealer = Concealer::new(self.lent.secret());
        self
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.upstream.is_end_stream() && self.concealer.as_ref().is_none_or(Concealer::is_empty)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.upstream.size_hint()
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match Pin::new(&mut self.upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.heard = Instant::now();
                    if let Some(lookout) = &mut self.lookout {
                        lookout.piece(&bytes);
                    }
                    if let Some(flight) = &mut self.flight {
                        flight.record().response_bytes += bytes.len() as u64;
                    }
                    let is_last = self.upstream.is_end_stream();
                    let bytes = self.concealed(bytes, is_last);
                    // With a length told, nobody asks again after the last byte.
                    if is_last {
                        self.end(Ending::Complete, None);
                    } else if bytes.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end(Ending::Truncated, Some((FailureClass::Network, "the answer broke off")));
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => {
                    self.end(Ending::Complete, None);
                    let rest = self.concealer.as_mut().map(Concealer::rest).unwrap_or_default();
                    return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
                }
                Poll::Pending => {}
            }
            if self.alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let until = self.heard + self.idle;
            if until > Instant::now() {
                self.alarm.as_mut().reset(until);
                continue;
            }
            self.end(Ending::Truncated, Some((FailureClass::Timeout, "the answer stopped")));
            return Poll::Ready(Some(Err("the answer stopped".into())));
        }
    }

    /// What of a piece may be passed on now.
    fn concealed(&mut self, piece: Bytes, is_last: bool) -> Bytes {
        let Some(concealer) = &mut self.concealer else { return piece };
        let passed = concealer.pass(piece);
        if !is_last {
            return passed;
        }
        let rest = concealer.rest();
        if rest.is_empty() { passed } else { [passed, rest].concat().into() }
    }

    fn end(&mut self, ending: Ending, failure: Option<(FailureClass, &str)>) {
        let Some(mut flight) = self.flight.take() else { return };
        if let Some((class, message)) = failure {
            flight.failed_later(class, message);
        }
        flight.end(ending);
    }
}
