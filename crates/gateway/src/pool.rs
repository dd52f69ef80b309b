//! The keys of a provider: which one is used next, which rest, and which are out of service and why.
//!
//! A call picks a key without a lock. What an answer says about the key changes its state at once; whoever must hear of
//! it (other processes, the trail, the PM) is told through a bounded channel, never by waiting.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use contract::ai::{Failure, FailureClass};
use http::header::{HeaderName, HeaderValue};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::notice::{Notice, Notices};
use crate::random;

/// First rest after a rate limit without a time; doubled while it goes on.
const RATE_REST: Duration = Duration::from_secs(2);
/// Longest such rest.
const RATE_REST_MAX: Duration = Duration::from_mins(1);
/// Longest rest that a provider may ask for: limits per day end within one.
const ASKED_REST_MAX: Duration = Duration::from_hours(24);
/// First wait before a key that is out of service is tried again by a canary call; doubled each time it fails.
const PROBE_FIRST: Duration = Duration::from_secs(30);
/// Longest such wait.
const PROBE_WAIT_MAX: Duration = Duration::from_hours(1);

/// The mark of a key that is out of service until a canary call succeeds.
const OUT: u64 = u64::MAX;

/// What a key does at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum KeyState {
    /// Serves.
    Active,
    /// Serves when the others cannot: the old version during a rotation.
    Standby,
    /// Is left alone for a while, because the provider asked for it.
    Resting {
        /// For how long from now, in milliseconds.
        for_ms: u64,
        /// Why.
        reason: String,
    },
    /// Is out of service until a canary call succeeds.
    Demoted {
        /// Why.
        reason: String,
    },
    /// Cannot serve, since its secret cannot be used.
    Missing {
        /// Why.
        reason: String,
    },
}

impl KeyState {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Resting { .. } => "resting",
            Self::Demoted { .. } => "demoted",
            Self::Missing { .. } => "missing",
        }
    }

    /// Why it is not simply active.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Active | Self::Standby => None,
            Self::Resting { reason, .. } | Self::Demoted { reason } | Self::Missing { reason } => {
                Some(reason)
            }
        }
    }
}

/// Which key, never its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId {
    /// The project.
    pub project: Arc<str>,
    /// The provider, as the project file names it.
    pub provider: Arc<str>,
    /// Name of the secret.
    pub secret: Arc<str>,
    /// Version of the secret.
    pub version: i64,
}

/// A key of a provider.
pub struct ProviderKey {
    /// `None`: the server asks for no key.
    sent: Option<Sent>,
    id: Option<KeyId>,
    name: Arc<str>,
    born: Instant,
    /// Milliseconds after `born` until which it rests; 0 when it does not, [`OUT`] when it is out of service.
    until_ms: AtomicU64,
    in_flight: AtomicU32,
    detail: Mutex<Detail>,
    notices: Notices,
}

struct Sent {
    header: (HeaderName, HeaderValue),
    secret: SecretString,
}

#[derive(Default)]
struct Detail {
    because: Option<FailureClass>,
    /// Rests or failed canary calls in a row.
    in_a_row: u32,
    probe_at: Option<Instant>,
    /// Serves again without a canary call, until it has worked or failed once more.
    on_trial: bool,
}

impl ProviderKey {
    /// A version of a secret, with the header that carries it. Its changes of state are told to `notices`.
    pub fn new(id: KeyId, header: (HeaderName, HeaderValue), secret: SecretString, notices: Notices) -> Self {
        Self {
            sent: Some(Sent { header, secret }),
            name: Arc::clone(&id.secret),
            id: Some(id),
            notices,
            ..Self::none()
        }
    }

    /// No key, for a server that asks for none.
    pub fn none() -> Self {
        Self {
            sent: None,
            id: None,
            name: "".into(),
            born: Instant::now(),
            until_ms: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            detail: Mutex::default(),
            notices: Notices::default(),
        }
    }

    /// Name of its secret; empty without one.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Which version of which secret it is; `None` without one.
    pub fn id(&self) -> Option<&KeyId> {
        self.id.as_ref()
    }

    /// The header that carries it.
    pub fn header(&self) -> Option<&(HeaderName, HeaderValue)> {
        self.sent.as_ref().map(|sent| &sent.header)
    }

    /// Its value, to find it where it must not be.
    pub fn secret(&self) -> Option<&SecretString> {
        self.sent.as_ref().map(|sent| &sent.secret)
    }

    /// Requests that it is used for at this moment.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Until when it rests, and why. One that is out of service rests until a canary call brings it back.
    pub fn rests(&self, now: Instant) -> Option<(Instant, FailureClass)> {
        let left = self.left(now)?;
        let detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        let until = if left == Duration::MAX { detail.probe_at.unwrap_or(now).max(now) } else { now + left };
        Some((until, detail.because.unwrap_or(FailureClass::Key)))
    }

    /// How long it still rests; `None` when it serves, [`Duration::MAX`] when it is out of service.
    fn left(&self, now: Instant) -> Option<Duration> {
        match self.until_ms.load(Ordering::Acquire) {
            0 => None,
            OUT => Some(Duration::MAX),
            until => until.checked_sub(self.at_ms(now)).filter(|left| *left > 0).map(Duration::from_millis),
        }
    }

    fn at_ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_millis())
            .map_or(OUT - 1, |ms| ms.min(OUT - 1))
    }

    /// What it does at the moment.
    pub fn state(&self, now: Instant) -> KeyState {
        let why = || {
            let because = self.detail.lock().unwrap_or_else(PoisonError::into_inner).because;
            match because {
                Some(FailureClass::Rate) => "the provider's rate limit is reached",
                Some(FailureClass::Quota) => "the provider's quota or credit is used up",
                _ => "the provider refuses the key",
            }
            .to_owned()
        };
        match self.left(now) {
            None => KeyState::Active,
            Some(Duration::MAX) => KeyState::Demoted { reason: why() },
            Some(left) => {
                KeyState::Resting { for_ms: u64::try_from(left.as_millis()).unwrap_or(OUT), reason: why() }
            }
        }
    }

    fn tell(&self, now: Instant) {
        if let Some(id) = &self.id {
            self.notices.send(Notice::Key { key: id.clone(), state: self.state(now) });
        }
    }

    /// The key worked.
    pub fn worked(&self) {
        // One that is out of service, or rests, is not brought back by an answer that was under way before.
        if self.until_ms.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        let over = self.left(Instant::now()).is_none();
        if over && detail.in_a_row > 0 {
            *detail = Detail::default();
            self.until_ms.store(0, Ordering::Release);
        }
    }

    /// A request with this key failed. A failure that is not the key's fault changes nothing.
    pub fn failed(&self, now: Instant, failure: &Failure) {
        if !failure.key_fault {
            return;
        }
        let changed = {
            let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
            let until = self.until_ms.load(Ordering::Acquire);
            if until == OUT {
                false // Requests that were under way together hear the same.
            } else if failure.class == FailureClass::Rate {
                let rested = self.left(now).is_some();
                let times = detail.in_a_row.saturating_sub(u32::from(rested)).min(9);
                let doubled = RATE_REST.saturating_mul(1 << times).min(RATE_REST_MAX);
                let rest = failure.retry_after.map_or(doubled, |asked| asked.min(ASKED_REST_MAX));
                detail.in_a_row += u32::from(!rested);
                detail.because = Some(failure.class);
                // At least a moment: 0 would mean that it does not rest. Of several ends the last one counts.
                let end = self.at_ms(now + rest).saturating_add(1);
                self.until_ms.store(end.max(until), Ordering::Release);
                !rested
            } else {
                // One that was let out on trial has failed again; otherwise this is the first time.
                let again = detail.on_trial && until != 0;
                detail.in_a_row = if again { detail.in_a_row } else { 0 };
                detail.on_trial = false;
                detail.because = Some(failure.class);
                let wait = PROBE_FIRST.saturating_mul(1 << detail.in_a_row.min(9));
                detail.probe_at =
                    Some(now + failure.retry_after.unwrap_or(wait).clamp(PROBE_FIRST, PROBE_WAIT_MAX));
                self.until_ms.store(OUT, Ordering::Release);
                true
            }
        };
        if changed {
            self.tell(now);
        }
    }

    /// Whether a canary call is due that could bring it back.
    pub fn probe_due(&self, now: Instant) -> bool {
        self.until_ms.load(Ordering::Acquire) == OUT
            && self.detail.lock().unwrap_or_else(PoisonError::into_inner).probe_at.is_some_and(|at| at <= now)
    }

    /// It serves again, since there is no canary call to make: the next client's call shows whether it works. Refused
    /// again, it is out of service for twice as long.
    pub fn try_again(&self, now: Instant) {
        {
            let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
            if self.until_ms.load(Ordering::Acquire) != OUT {
                return;
            }
            detail.in_a_row += 1;
            detail.on_trial = true;
            // A rest that is just over, so that its first success is noticed.
            self.until_ms.store(self.at_ms(now).max(1), Ordering::Release);
        }
        self.tell(now);
    }

    /// A canary call with it came to this: it serves again, or the next canary call waits twice as long.
    pub fn probed(&self, now: Instant, answered: bool) {
        {
            let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
            if self.until_ms.load(Ordering::Acquire) != OUT {
                return;
            }
            if answered {
                *detail = Detail::default();
                self.until_ms.store(0, Ordering::Release);
            } else {
                detail.in_a_row += 1;
                let wait = PROBE_FIRST.saturating_mul(1 << detail.in_a_row.min(9)).min(PROBE_WAIT_MAX);
                detail.probe_at = Some(now + wait);
            }
        }
        if answered {
            self.tell(now);
        }
    }
}

/// The keys of a provider.
pub struct Pool {
    /// Those that serve, then those that stand by.
    keys: Box<[Arc<ProviderKey>]>,
    serving: usize,
    /// Secrets that cannot be used, with why.
    missing: Box<[(Arc<str>, String)]>,
    /// Keys of the table before that may still be in use.
    retired: Box<[Arc<ProviderKey>]>,
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
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    /// A pool of these keys; of none, requests go without a key.
    pub fn new(keys: Vec<Arc<ProviderKey>>) -> Self {
        let keys = if keys.is_empty() { vec![Arc::new(ProviderKey::none())] } else { keys };
        Self::assemble(keys, Vec::new(), Vec::new(), None)
    }

    /// A pool of keys that serve, keys that serve when those cannot, and secrets that cannot be used, with why. It may
    /// have no key at all: then nothing is lent. Keys of the pool before that are in use are remembered until they are
    /// not.
    pub fn assemble(
        serving: Vec<Arc<ProviderKey>>,
        standby: Vec<Arc<ProviderKey>>,
        missing: Vec<(Arc<str>, String)>,
        previous: Option<&Self>,
    ) -> Self {
        let count = serving.len();
        let keys: Box<[_]> = serving.into_iter().chain(standby).collect();
        let retired = previous
            .into_iter()
            .flat_map(|pool| pool.keys.iter().chain(&pool.retired))
            .filter(|old| old.in_flight() > 0 && !keys.iter().any(|key| Arc::ptr_eq(key, old)))
            .cloned()
            .collect();
        Self { keys, serving: count, missing: missing.into(), retired }
    }

    /// The keys: those that serve, then those that stand by.
    pub fn keys(&self) -> &[Arc<ProviderKey>] {
        &self.keys
    }

    /// The key with the fewest requests in flight that does not rest; among equals by chance. One that stands by only
    /// when no other can serve.
    pub fn pick(&self, now: Instant) -> Option<Lent> {
        let (serving, standby) = self.keys.split_at(self.serving);
        let key = Self::least(serving, now).or_else(|| Self::least(standby, now))?;
        key.in_flight.fetch_add(1, Ordering::AcqRel);
        Some(Lent(Arc::clone(key)))
    }

    fn least(keys: &[Arc<ProviderKey>], now: Instant) -> Option<&Arc<ProviderKey>> {
        let start =
            if keys.len() > 1 { usize::try_from(random::below(keys.len() as u64)).unwrap_or(0) } else { 0 };
        let (before, from) = keys.split_at(start);
        from.iter()
            .chain(before)
            .filter(|key| key.left(now).is_none())
            .min_by_key(|key| key.in_flight.load(Ordering::Relaxed))
    }

    /// When the first key that rests for a rate limit is back; `None`: one is there, or none comes back soon.
    pub fn back_at(&self, now: Instant) -> Option<Instant> {
        let rests: Option<Vec<_>> = self.keys.iter().map(|key| key.rests(now)).collect();
        rests?.into_iter().filter(|(_, why)| *why == FailureClass::Rate).map(|(until, _)| until).min()
    }

    /// Until when no key can be used, and why: a rate limit if one of them only waits for that, else a quota that is used
    /// up, which is asked for again at that time. `None`: one can be used, or none comes back by waiting.
    pub fn waits(&self, now: Instant) -> Option<(Instant, FailureClass)> {
        let rests: Option<Vec<_>> = self.keys.iter().map(|key| key.rests(now)).collect();
        let rests = rests?;
        [FailureClass::Rate, FailureClass::Quota].into_iter().find_map(|class| {
            let ends = rests.iter().filter(|(_, why)| *why == class).map(|(until, _)| *until);
            Some((ends.min()?, class))
        })
    }

    /// Whether a key can be used now.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.keys.iter().any(|key| key.left(now).is_none())
    }

    /// Why no key can be had, for whoever asked.
    pub fn why_none(&self, now: Instant) -> &'static str {
        if self.keys.is_empty() {
            "none of the provider's keys can be read"
        } else {
            match self.waits(now) {
                Some((_, FailureClass::Rate)) => {
                    "all keys of the provider rest, since its rate limit is reached"
                }
                Some(_) => "the quota or the credit of the provider's keys is used up",
                None => "all keys of the provider are out of service",
            }
        }
    }

    /// Each key with the version of its secret and its state.
    pub fn states(&self, now: Instant) -> Vec<(Arc<str>, Option<i64>, KeyState)> {
        let keys = self.keys.iter().enumerate().filter_map(|(index, key)| {
            let id = key.id.as_ref()?;
            let state = match key.state(now) {
                KeyState::Active if index >= self.serving => KeyState::Standby,
                state => state,
            };
            Some((Arc::clone(&id.secret), Some(id.version), state))
        });
        let missing = self
            .missing
            .iter()
            .map(|(secret, reason)| (Arc::clone(secret), None, KeyState::Missing { reason: reason.clone() }));
        keys.chain(missing).collect()
    }

    /// Requests in flight with this version of a secret, also from before the table changed.
    pub fn in_flight(&self, secret: &str, version: i64) -> u32 {
        let is_it = |key: &&Arc<ProviderKey>| {
            key.id.as_ref().is_some_and(|id| &*id.secret == secret && id.version == version)
        };
        self.keys.iter().chain(&self.retired).filter(is_it).map(|key| key.in_flight()).sum()
    }

    /// Whether new requests may get this version of a secret.
    pub fn lends(&self, secret: &str, version: i64) -> bool {
        self.keys
            .iter()
            .any(|key| key.id.as_ref().is_some_and(|id| &*id.secret == secret && id.version == version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(secret: &str, version: i64) -> KeyId {
        KeyId { project: "shop".into(), provider: "p".into(), secret: secret.into(), version }
    }

    fn key_of(secret: &str, version: i64, notices: &Notices) -> Arc<ProviderKey> {
        let header = (http::header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        Arc::new(ProviderKey::new(id(secret, version), header, SecretString::from("x"), notices.clone()))
    }

    fn key(name: &str) -> Arc<ProviderKey> {
        key_of(name, 1, &Notices::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_without_a_canary_is_tried_by_clients_ever_more_rarely() {
        let refused = Failure::new(FailureClass::Key, "");
        let key = key("a");
        let mut waits = Vec::new();
        for _ in 0..9 {
            let now = Instant::now();
            key.failed(now, &refused);
            assert!(matches!(key.state(now), KeyState::Demoted { .. }));
            let (until, _) = key.rests(now).unwrap();
            waits.push((until - now).as_secs());
            tokio::time::advance(until - now).await;
            assert!(key.probe_due(Instant::now()));
            key.try_again(Instant::now());
            assert_eq!(key.state(Instant::now()), KeyState::Active);
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        // Once it has worked, it is as good as any.
        key.worked();
        key.failed(Instant::now(), &refused);
        assert_eq!(key.rests(Instant::now()).unwrap().0 - Instant::now(), Duration::from_secs(30));
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
        let back = pool.back_at(now).unwrap();
        assert!(
            (Duration::from_secs(9)..Duration::from_secs(10)).contains(&(back - now)),
            "{:?}",
            back - now
        );
        assert_eq!(pool.pick(back).unwrap().name(), first.name());
    }

    #[tokio::test(start_paused = true)]
    async fn every_class_of_refusal_has_its_consequence() {
        use FailureClass as F;
        for (class, state) in [
            (F::Rate, "resting"),
            (F::Quota, "demoted"),
            (F::Key, "demoted"),
            (F::ContextLength, "active"),
            (F::Overloaded, "active"),
            (F::BadRequest, "active"),
            (F::NotFound, "active"),
            (F::Refused, "active"),
            (F::Server, "active"),
            (F::Network, "active"),
            (F::Timeout, "active"),
            (F::Truncated, "active"),
        ] {
            let key = key("a");
            key.failed(Instant::now(), &Failure::new(class, ""));
            assert_eq!(key.state(Instant::now()).as_str(), state, "{class:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_canary_brings_a_refused_key_back_and_each_change_is_told_once() {
        let (notices, mut told) = Notices::channel();
        let key = key_of("a", 3, &notices);
        let mut now = Instant::now();
        for _ in 0..5 {
            key.failed(now, &Failure::new(FailureClass::Key, ""));
        }
        key.worked();
        assert_eq!(key.state(now).as_str(), "demoted");
        assert!(!key.probe_due(now));
        let mut wait = PROBE_FIRST;
        for _ in 0..10 {
            now += wait;
            assert!(key.probe_due(now), "{wait:?}");
            key.probed(now, false);
            wait = (wait * 2).min(PROBE_WAIT_MAX);
            assert!(!key.probe_due(now + wait - Duration::from_millis(1)), "{wait:?}");
        }
        key.probed(now, true);
        assert_eq!(key.state(now), KeyState::Active);
        let mut states = Vec::new();
        while let Ok(Notice::Key { key, state }) = told.try_recv() {
            assert_eq!(key, id("a", 3));
            states.push(state.as_str());
        }
        assert_eq!(states, ["demoted", "active"]);
    }

    #[tokio::test(start_paused = true)]
    async fn rests_without_a_time_double_and_end_with_a_success() {
        let key = key("a");
        let mut rests = Vec::new();
        for _ in 0..8 {
            let now = Instant::now();
            key.failed(now, &Failure::new(FailureClass::Rate, ""));
            // What was under way at the same time does not make it longer.
            key.failed(now, &Failure::new(FailureClass::Rate, ""));
            let left = key.left(now).unwrap();
            rests.push(left.as_secs());
            tokio::time::advance(left).await;
            assert_eq!(key.state(Instant::now()), KeyState::Active);
        }
        assert_eq!(rests, [2, 4, 8, 16, 32, 60, 60, 60]);
        key.worked();
        key.failed(Instant::now(), &Failure::new(FailureClass::Rate, ""));
        assert_eq!(key.left(Instant::now()).unwrap().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_version_stands_by_and_what_is_in_flight_is_seen_after_the_table_changed() {
        let (old, new) = (key_of("a", 1, &Notices::default()), key_of("a", 2, &Notices::default()));
        let now = Instant::now();
        let before = Pool::new(vec![Arc::clone(&old)]);
        let under_way = before.pick(now).unwrap();
        let overlap =
            Pool::assemble(vec![Arc::clone(&new)], vec![Arc::clone(&old)], Vec::new(), Some(&before));
        assert_eq!(overlap.pick(now).unwrap().id(), Some(&id("a", 2)));
        new.failed(now, &Failure::new(FailureClass::Key, ""));
        assert_eq!(overlap.pick(now).unwrap().id(), Some(&id("a", 1)));
        let states: Vec<_> = overlap.states(now).into_iter().map(|(.., state)| state.as_str()).collect();
        assert_eq!(states, ["demoted", "standby"]);
        let draining = Pool::assemble(vec![new], Vec::new(), Vec::new(), Some(&overlap));
        assert!(!draining.lends("a", 1));
        assert_eq!(draining.in_flight("a", 1), 1);
        drop(under_way);
        assert_eq!(draining.in_flight("a", 1), 0);
    }
}
