//! The keys of a provider: which one is used next, and which rest.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use contract::ai::{Failure, FailureClass};
use http::header::{HeaderName, HeaderValue};
use secrecy::SecretString;
use tokio::time::Instant;

use crate::random;

/// How long a key rests after a rate limit without a time; doubled while it goes on.
const RATE_REST: Duration = Duration::from_secs(2);
/// How long a key rests whose money is used up, and one that was refused.
const QUOTA_REST: Duration = Duration::from_mins(10);
const REFUSED_REST: Duration = Duration::from_mins(10);
/// The longest rest.
const REST_MAX: Duration = Duration::from_hours(1);

/// A key of a provider.
pub struct ProviderKey {
    name: Arc<str>,
    /// `None`: the server asks for no key.
    header: Option<(HeaderName, HeaderValue)>,
    secret: Option<SecretString>,
    in_flight: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rests_until: Option<Instant>,
    because: Option<FailureClass>,
    in_a_row: u32,
}

impl ProviderKey {
    /// A key by the name of its secret, with the header that carries it.
    pub fn new(name: &str, header: (HeaderName, HeaderValue), secret: SecretString) -> Self {
        Self {
            name: name.into(),
            header: Some(header),
            secret: Some(secret),
            in_flight: AtomicU32::new(0),
            state: Mutex::default(),
        }
    }

    /// No key, for a server that asks for none.
    pub fn none() -> Self {
        Self {
            name: "".into(),
            header: None,
            secret: None,
            in_flight: AtomicU32::new(0),
            state: Mutex::default(),
        }
    }

    /// Name of its secret; empty without one.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The header that carries it.
    pub fn header(&self) -> Option<&(HeaderName, HeaderValue)> {
        self.header.as_ref()
    }

    /// Its value, to find it where it must not be.
    pub fn secret(&self) -> Option<&SecretString> {
        self.secret.as_ref()
    }

    /// Until when it rests, and why.
    pub fn rests(&self, now: Instant) -> Option<(Instant, FailureClass)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rests_until.filter(|until| *until > now).zip(state.because)
    }

    /// The key worked.
    pub fn worked(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.in_a_row > 0 {
            *state = State::default();
        }
    }

    /// A request with this key failed. A failure that is not the key's fault changes nothing.
    pub fn failed(&self, now: Instant, failure: &Failure) {
        if !failure.key_fault {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let doubled = |rest: Duration, times: u32| rest.saturating_mul(1 << times.min(9)).min(REST_MAX);
        let rest = match failure.class {
            FailureClass::Rate => failure.retry_after.unwrap_or_else(|| doubled(RATE_REST, state.in_a_row)),
            FailureClass::Quota => failure.retry_after.unwrap_or(QUOTA_REST),
            _ => REFUSED_REST,
        };
        state.in_a_row += 1;
        state.because = Some(failure.class);
        let until = now + rest.min(REST_MAX);
        state.rests_until = Some(state.rests_until.map_or(until, |known| known.max(until)));
    }
}

/// The keys of a provider.
pub struct Pool {
    keys: Box<[Arc<ProviderKey>]>,
}

/// A key in use; given back when dropped.
pub struct Lent(Arc<ProviderKey>);

impl std::ops::Deref for Lent {
    type Target = ProviderKey;

    fn deref(&self) -> &ProviderKey {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool of these keys; of none, requests go without a key.
    pub fn new(keys: Vec<Arc<ProviderKey>>) -> Self {
        let keys = if keys.is_empty() { vec![Arc::new(ProviderKey::none())] } else { keys };
        Self { keys: keys.into() }
    }

    /// The keys.
    pub fn keys(&self) -> &[Arc<ProviderKey>] {
        &self.keys
    }

    /// The key with the fewest requests in flight that does not rest; among equals by chance.
    pub fn pick(&self, now: Instant) -> Option<Lent> {
        let start = if self.keys.len() > 1 {
            usize::try_from(random::below(self.keys.len() as u64)).unwrap_or(0)
        } else {
            0
        };
        let (before, from) = self.keys.split_at(start);
        let key = from
            .iter()
            .chain(before)
            .filter(|key| key.rests(now).is_none())
            .min_by_key(|key| key.in_flight.load(Ordering::Relaxed))?;
        key.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Lent(Arc::clone(key)))
    }

    /// When the first key that rests for a rate limit is back; `None`: one is there, or none comes back soon.
    pub fn back_at(&self, now: Instant) -> Option<Instant> {
        let rests: Option<Vec<_>> = self.keys.iter().map(|key| key.rests(now)).collect();
        rests?.into_iter().filter(|(_, why)| *why == FailureClass::Rate).map(|(until, _)| until).min()
    }

    /// Whether a key can be used now.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.keys.iter().any(|key| key.rests(now).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Arc<ProviderKey> {
        let header = (http::header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        Arc::new(ProviderKey::new(name, header, SecretString::from("x".to_owned())))
    }

    #[tokio::test(start_paused = true)]
    async fn keys_share_the_load_and_rest_when_refused() {
        let pool = Pool::new(vec![key("a"), key("b")]);
        let now = Instant::now();
        let (first, second) = (pool.pick(now).unwrap(), pool.pick(now).unwrap());
        assert_ne!(first.name(), second.name());
        first.failed(now, &Failure::new(FailureClass::Rate, "").after(Some(Duration::from_secs(9))));
        second.failed(now, &Failure::new(FailureClass::Server, ""));
        assert_eq!(pool.pick(now).unwrap().name(), second.name());
        assert_eq!(pool.back_at(now), None);
        second.failed(now, &Failure::new(FailureClass::Key, ""));
        assert!(pool.pick(now).is_none() && !pool.is_ready(now));
        assert_eq!(pool.back_at(now), Some(now + Duration::from_secs(9)));
        let later = now + Duration::from_secs(9);
        assert_eq!(pool.pick(later).unwrap().name(), first.name());
    }
}
