//! Requests that a client sends again with the same `Idempotency-Key` are done once: who comes while the first is under
//! way waits for its reply, and who comes later is given it again.
//!
//! Only whole replies without an error are kept, in memory, for a day at most. A request without the header never comes
//! here.
//!
//! Source: IETF draft-ietf-httpapi-idempotency-key-header-07.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;
use jiff::Timestamp;
use quick_cache::Weighter;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::sse::Splitter;
use wire::{ErrorClass, Format, Tap};

use crate::answer::{Answer, BodyError, Problem};
use crate::handle::Visit;
use crate::meter::RequestId;
use crate::{cache, header};

/// The header by which a client says that two requests are one.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that a reply was given before.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// How long a reply is kept, in microseconds.
const KEPT_US: i64 = 24 * 3_600_000_000;
/// Bytes of replies that are kept.
const MEMORY_BYTES_MAX: u64 = 32 << 20;
/// Largest reply that is kept.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 512;
/// Longest key of a client.
const KEY_BYTES_MAX: usize = 255;
/// How long one waits for the other.
const PATIENCE: Duration = Duration::from_mins(10);

type Hash = [u8; 32];

fn hash(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        // With its length in front, so that parts do not run into each other.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The key that a provider is shown in the place of the client's: two clients of ours that share an account there must
/// not meet under one key, nor two bodies that we made of one request.
pub(crate) fn for_provider(grant: &str, key: &HeaderValue, more: &[&[u8]]) -> HeaderValue {
    let mut parts: Vec<&[u8]> = vec![grant.as_bytes(), key.as_bytes()];
    parts.extend(more);
    let text = contract::sha256_hex(&hash(&parts));
    HeaderValue::try_from(format!("steward-{}", &text[..32]))
        .unwrap_or_else(|_| HeaderValue::from_static("steward"))
}

/// A reply that was given.
struct Kept {
    asked: Hash,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    until_us: i64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Hash, Arc<Kept>> for Weight {
    fn weight(&self, _: &Hash, kept: &Arc<Kept>) -> u64 {
        kept.body.len() as u64 + ENTRY_BYTES
    }
}

/// A request that is under way, by what it asks.
type UnderWay = Arc<Mutex<HashMap<Hash, (Hash, Arc<Notify>)>>>;

/// What was done, and what is being done; cheap to clone.
#[derive(Clone)]
pub(crate) struct Once {
    kept: Arc<quick_cache::sync::Cache<Hash, Arc<Kept>, Weight>>,
    under_way: UnderWay,
}

impl Default for Once {
    fn default() -> Self {
        Self { kept: Arc::new(cache::in_memory(MEMORY_BYTES_MAX, Weight)), under_way: Arc::default() }
    }
}

/// The right to do a request that others wait for. Dropped without a reply, the next one does it.
pub(crate) struct Turn {
    key: Hash,
    asked: Hash,
    kept: Arc<quick_cache::sync::Cache<Hash, Arc<Kept>, Weight>>,
    under_way: UnderWay,
    until_us: i64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let waiting = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        if let Some((_, waiting)) = waiting {
            waiting.notify_waiters();
        }
    }
}

impl Turn {
    /// Keeps a reply once it is whole.
    pub(crate) fn record(
        self,
        format: Format,
        response: Response<Answer>,
        request: RequestId,
    ) -> Response<Answer> {
        if !response.status().is_success() {
            return response;
        }
        let (head, answer) = response.into_parts();
        let mut headers = head.headers.clone();
        // Who is given it again learns which request was paid for.
        headers.insert(header::RECEIPT, header::id_value(request));
        let answer = match answer.ready() {
            Ok(body) => {
                if !is_error(&body) {
                    self.keep(head.status, headers, body.clone());
                }
                Answer::whole(body)
            }
            Err(answer) => {
                headers.remove(http::header::CONTENT_LENGTH);
                let recording = Recording {
                    answer,
                    turn: Some((self, head.status, headers)),
                    format,
                    so_far: Vec::new(),
                };
                Answer::recorded(recording)
            }
        };
        Response::from_parts(head, answer)
    }

    fn keep(self, status: StatusCode, headers: HeaderMap, body: Bytes) {
        if body.len() <= REPLY_BYTES_MAX {
            let kept = Kept { asked: self.asked, status, headers, body, until_us: self.until_us };
            self.kept.insert(self.key, Arc::new(kept));
        }
    }
}

enum Found {
    First(Turn),
    Again(Arc<Kept>),
    Other,
    Busy,
}

impl Once {
    async fn enter(&self, key: Hash, asked: Hash, now: Timestamp) -> Found {
        let deadline = Instant::now() + PATIENCE;
        let now_us = now.as_microsecond();
        let known = |kept: Arc<Kept>| if kept.asked == asked { Found::Again(kept) } else { Found::Other };
        loop {
            if let Some(kept) = self.kept.get(&key).filter(|kept| kept.until_us > now_us) {
                return known(kept);
            }
            let other = {
                let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((theirs, waiting)) = under_way.get(&key) {
                    if *theirs != asked {
                        return Found::Other;
                    }
                    // Made while the lock is held, so that no wake-up is missed.
                    Arc::clone(waiting).notified_owned()
                } else {
                    // It may have ended between the look and the lock.
                    if self.kept.peek(&key).is_some_and(|kept| kept.until_us > now_us) {
                        continue;
                    }
                    under_way.insert(key, (asked, Arc::new(Notify::new())));
                    return Found::First(Turn {
                        key,
                        asked,
                        kept: Arc::clone(&self.kept),
                        under_way: Arc::clone(&self.under_way),
                        until_us: now_us.saturating_add(KEPT_US),
                    });
                }
            };
            if tokio::time::timeout_at(deadline, other).await.is_err() {
                return Found::Busy;
            }
        }
    }

    /// Answers with `make`, unless the same client has asked the same with the same key: then with what it was answered.
    pub(crate) async fn answer(
        &self,
        visit: &Visit,
        grant: &str,
        format: Format,
        asked: (&http::Uri, &HeaderValue),
        body: &Bytes,
        make: impl Future<Output = Response<Answer>>,
    ) -> Response<Answer> {
        match self.turn(visit, grant, format, asked, body).await {
            Ok(turn) => turn.record(format, make.await, visit.id),
            Err(response) => *response,
        }
    }

    /// The right to do a request; where it was done before, what it was answered.
    pub(crate) async fn turn(
        &self,
        visit: &Visit,
        grant: &str,
        format: Format,
        (path, key): (&http::Uri, &HeaderValue),
        body: &Bytes,
    ) -> Result<Turn, Box<Response<Answer>>> {
        let refuse = |status, code, message: &str| {
            let mut problem = Problem::new(ErrorClass::BadRequest, message);
            problem.status = status;
            problem.code = Some(code);
            problem.answer(format, &visit.request_id)
        };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let message = format!("`Idempotency-Key` must have 1 to {KEY_BYTES_MAX} bytes");
            return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "idempotency_key_invalid", &message)));
        }
        let place = path.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        let named = hash(&[grant.as_bytes(), key.as_bytes()]);
        let asked = hash(&[place.as_bytes(), body]);
        let response = match self.enter(named, asked, visit.now).await {
            Found::First(turn) => return Ok(turn),
            Found::Again(kept) => {
                let mut response = Response::new(Answer::whole(kept.body.clone()));
                *response.status_mut() = kept.status;
                *response.headers_mut() = kept.headers.clone();
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                response
            }
            Found::Other => refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "this `Idempotency-Key` was used with another request: send a new key, or the same request",
            ),
            Found::Busy => refuse(
                StatusCode::CONFLICT,
                "idempotency_key_in_use",
                "a request with this `Idempotency-Key` has been under way for ten minutes; ask again later",
            ),
        };
        Err(Box::new(response))
    }
}

/// Whether a reply is nothing but an error, in spite of its status. A job that tells of one has an id beside it.
fn is_error(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Told {
        id: Option<serde::de::IgnoredAny>,
        error: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Told>(body).is_ok_and(|told| told.error.is_some() && told.id.is_none())
}

/// A stream that is kept when it has come to its end.
pub(crate) struct Recording {
    answer: Answer,
    turn: Option<(Turn, StatusCode, HeaderMap)>,
    format: Format,
    so_far: Vec<u8>,
}

impl Recording {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = Pin::new(&mut self.answer).poll_frame(cx);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.turn = None;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.into_data().unwrap_or_default();
                if self.turn.is_some() {
                    if self.so_far.len() + data.len() > REPLY_BYTES_MAX {
                        // Too much to keep: whoever waits asks by itself.
                        self.turn = None;
                        self.so_far = Vec::new();
                    } else {
                        self.so_far.extend_from_slice(&data);
                    }
                }
                Poll::Ready(Some(Ok(data)))
            }
        }
    }

    /// Keeps what was streamed, unless it tells an error or has no end of its own.
    fn end(&mut self) {
        let Some((turn, status, headers)) = self.turn.take() else { return };
        let body = Bytes::from(std::mem::take(&mut self.so_far));
        let mut tap = Tap::new(self.format, true);
        if body.trim_ascii_start().first() == Some(&b'[') {
            tap = Tap::new(self.format, false);
            tap.see_body(&body);
        } else {
            let mut splitter = Splitter::new();
            splitter.push(body.clone());
            while let Some(event) = splitter.next() {
                tap.see(&event);
            }
            while let Some(event) = splitter.finish() {
                tap.see(&event);
            }
        }
        if tap.observed().finished && tap.observed().error.is_none() {
            turn.keep(status, headers, body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_does_it_and_the_others_wait() {
        let once = Arc::new(Once::default());
        let (key, asked, now) = ([1; 32], [2; 32], at("2026-11-23T10:00:00Z"));
        let Found::First(turn) = once.enter(key, asked, now).await else { panic!() };
        assert!(matches!(once.enter(key, [3; 32], now).await, Found::Other), "also while it is under way");
        assert!(matches!(once.enter([9; 32], asked, now).await, Found::First(_)), "another client's key");
        let waits = || {
            let once = Arc::clone(&once);
            tokio::spawn(async move { once.enter(key, asked, now).await })
        };
        let others: Vec<_> = (0..20).map(|_| waits()).collect();
        tokio::task::yield_now().await;
        turn.keep(StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"hello"));
        for other in others {
            assert!(matches!(other.await.unwrap(), Found::Again(kept) if kept.body == "hello"));
        }
        assert!(matches!(once.enter(key, [3; 32], now).await, Found::Other));
        // A day later it is forgotten.
        let later = at("2026-11-24T10:00:00Z");
        assert!(matches!(once.enter(key, [3; 32], later).await, Found::First(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_reply_the_next_one_does_it_and_nobody_waits_for_ever() {
        let once = Once::default();
        let (key, asked, now) = ([1; 32], [2; 32], at("2026-11-23T10:00:00Z"));
        let first = once.enter(key, asked, now).await;
        assert!(matches!(once.enter(key, asked, now).await, Found::Busy));
        drop(first);
        let Found::First(turn) = once.enter(key, asked, now).await else { panic!() };
        turn.keep(StatusCode::OK, HeaderMap::new(), vec![b' '; REPLY_BYTES_MAX + 1].into());
        assert!(matches!(once.enter(key, asked, now).await, Found::First(_)), "too large to keep");
    }

    #[test]
    fn an_error_is_seen_in_spite_of_its_status() {
        assert!(is_error(br#"{"error":{"message":"overloaded"}}"#));
        for reply in
            [r#"{"id":"resp_1","error":null}"#, r#"{"id":"ftjob-1","error":{"code":null}}"#, "[]", ""]
        {
            assert!(!is_error(reply.as_bytes()), "{reply}");
        }
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let once = Once::default();
        let now = at("2026-11-23T10:00:00Z");
        for number in 0..200_u8 {
            let Found::First(turn) = once.enter([number; 32], [0; 32], now).await else { panic!() };
            turn.keep(StatusCode::OK, HeaderMap::new(), vec![b' '; REPLY_BYTES_MAX].into());
        }
        assert!(once.kept.weight() <= MEMORY_BYTES_MAX);
        assert!(once.under_way.lock().unwrap().is_empty());
    }

    #[test]
    fn a_provider_is_shown_a_key_of_our_own() {
        let key = HeaderValue::from_static("order-7");
        let shown = for_provider("vk_1", &key, &[b"openai/gpt-5"]);
        assert_eq!(shown, for_provider("vk_1", &key, &[b"openai/gpt-5"]), "the same again for a retry");
        for other in
            [for_provider("vk_2", &key, &[b"openai/gpt-5"]), for_provider("vk_1", &key, &[b"openai/gpt-4"])]
        {
            assert_ne!(shown, other);
        }
        assert!(shown.to_str().unwrap().starts_with("steward-") && shown.len() == 40);
    }
}
