//! Replies that were given before to the very same question: exact, and never across projects.
//!
//! Two requests are the same when their canonical form is: object keys sorted, numbers as written, strings compared by
//! what they mean, and without the members that do not change the answer (who asks, whether it is streamed). What is
//! kept is the whole reply, so that it can be replayed streamed or plain, whichever way it was asked for first.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderMap;
use quick_cache::Weighter;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use wire::{Format, Usage};

use crate::semantic::{Place, Saying, Sayings};
use crate::shelf::Shelf;

/// Parts of a cache in memory, each with a lock of its own.
const PARTS: usize = 8;
/// Entries of a cache in memory for which room is made at once; it takes more.
const ITEMS_EXPECTED: usize = 1_024;
/// Bytes of replies that are held in memory.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// Largest reply that is kept, in bytes.
pub(crate) const REPLY_BYTES_MAX: usize = 1 << 20;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 256;

/// Which question it is: SHA-256 over the tenant, the route and the canonical request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whose question it is. Nothing is ever found under another tenant, because it is part of the key.
#[derive(Clone, Copy)]
pub(crate) struct Tenant<'a> {
    /// The project.
    pub(crate) project: &'a str,
    /// The virtual key or the person, when their replies are their own.
    pub(crate) owner: Option<&'a str>,
    /// The route or model that was asked for.
    pub(crate) route: &'a str,
    /// What stands behind the route: changes when its targets do.
    pub(crate) targets: &'a [u8],
    /// Headers that change the answer, as [`variant`] writes them.
    pub(crate) variant: &'a [u8],
}

/// The client's headers that change what a provider answers, in one order: which version of its API is meant, and which
/// features on trial (`anthropic-version`, `anthropic-beta`, `openai-beta`). Empty where there are none.
pub(crate) fn variant(headers: &HeaderMap) -> Vec<u8> {
    let changes = |name: &str| {
        (name.ends_with("-beta") || name.ends_with("-version")) && !name.starts_with("x-stainless-")
    };
    let mut found: Vec<(&str, &[u8])> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| changes(name))
        .collect();
    // Values of one name keep their order.
    found.sort_by_key(|(name, _)| *name);
    let mut text = Vec::new();
    for (name, value) in found {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    text
}

/// Why a request is not looked up, and its reply not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bypass {
    /// The answer is drawn at random, and the route does not say that any draw will do.
    #[cfg(test)]
    Sampled,
    /// The provider keeps the conversation: the request is not the whole question.
    Stateful,
    /// The request has a shape that is not compared: a repeated member, or nested too deep.
    Shape,
}

/// The key of a request, or why it has none.
///
/// `any_draw`: the route accepts an earlier answer although the request samples (temperature above 0).
///
/// # Errors
///
/// Why the request is not looked up.
#[cfg(test)]
pub(crate) fn key(tenant: Tenant<'_>, format: Format, body: &[u8], any_draw: bool) -> Result<Key, Bypass> {
    let (key, greedy) = asked(tenant, format, body)?;
    if greedy || any_draw { Ok(key) } else { Err(Bypass::Sampled) }
}

/// The key of a request, and whether the likeliest answer is wanted and no other.
///
/// # Errors
///
/// Why it has none.
pub(crate) fn asked(tenant: Tenant<'_>, format: Format, body: &[u8]) -> Result<(Key, bool), Bypass> {
    let question = wire::question(format, body).ok_or(Bypass::Shape)?;
    if question.stateful {
        return Err(Bypass::Stateful);
    }
    let mut hash = Sha256::new();
    let [project, owner, route, name] =
        [tenant.project, tenant.owner.unwrap_or_default(), tenant.route, format.name()].map(str::as_bytes);
    for part in [project, owner, route, tenant.targets, tenant.variant, name] {
        // With its length in front, so that parts do not run into each other.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(&question.canonical);
    Ok((Key(hash.finalize().into()), question.greedy))
}

/// Where a question is remembered by what it means: `embeddings` says who compares, `frame` and `sense` what is asked.
pub(crate) fn place(
    tenant: Tenant<'_>,
    format: Format,
    embeddings: &str,
    frame: &[u8],
    sense: &str,
) -> Place {
    let mut hash = Sha256::new();
    let name = format.name().as_bytes();
    let [project, owner, route] =
        [tenant.project, tenant.owner.unwrap_or_default(), tenant.route].map(str::as_bytes);
    let (embeddings, sense) = (embeddings.as_bytes(), sense.as_bytes());
    for part in [project, owner, route, tenant.targets, tenant.variant, name, embeddings, frame, sense] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A reply that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The format of `body`: the client's.
    pub(crate) format: Format,
    /// The whole reply as one JSON document.
    pub(crate) body: Bytes,
    /// What it cost in tokens when it was made.
    pub(crate) usage: Usage,
    /// The provider and model that made it.
    pub(crate) made_by: String,
    /// Until when it may be given.
    pub(crate) until: SystemTime,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Arc<Kept>> for Weight {
    fn weight(&self, _: &Key, kept: &Arc<Kept>) -> u64 {
        kept.body.len() as u64 + ENTRY_BYTES
    }
}

/// How often something was found; since the process started.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Answered from here.
    pub(crate) hits: AtomicU64,
    /// Asked upstream.
    pub(crate) misses: AtomicU64,
}

/// A reply on its way that will be kept if it turns out whole. Dropped before, whoever waits for it asks anew.
pub(crate) struct Keeping {
    pub(crate) cache: Arc<Cache>,
    pub(crate) shelf: Option<Arc<Shelf>>,
    pub(crate) project: Arc<str>,
    pub(crate) now: SystemTime,
    pub(crate) asking: Asking,
    pub(crate) format: Format,
    /// The name of the model that the client is shown.
    pub(crate) model: String,
    /// When the request came, in seconds since 1970.
    pub(crate) created_s: u64,
    pub(crate) seed: u64,
    pub(crate) until: SystemTime,
    /// Replies that call tools are kept too.
    pub(crate) tool_calls: bool,
    /// What has been streamed so far; `None` once it is too much.
    pub(crate) streamed: Option<Vec<u8>>,
    /// Where the question is remembered by what it means.
    pub(crate) saying: Option<(Arc<Sayings>, Place, Saying)>,
}

impl Keeping {
    /// The client was given this part of a stream.
    pub(crate) fn saw(&mut self, bytes: &[u8]) {
        if let Some(streamed) = &mut self.streamed {
            if streamed.len() + bytes.len() > 4 * REPLY_BYTES_MAX {
                self.streamed = None;
            } else {
                streamed.extend_from_slice(bytes);
            }
        }
    }

    /// The stream was whole: what it amounts to is kept.
    pub(crate) fn keep_stream(mut self, usage: Usage, made_by: String) {
        let Some(streamed) = self.streamed.take() else { return };
        let shown = wire::Shown { model: &self.model, created_s: self.created_s, seed: self.seed };
        if let Ok(body) = wire::events_as_reply(self.format, streamed.into(), &shown, Some(usage)) {
            self.keep(body.into(), usage, made_by);
        }
    }

    /// Keeps a whole reply, unless it is one that must not be given to another request.
    pub(crate) fn keep(self, body: Bytes, usage: Usage, made_by: String) {
        let fit = wire::reply_nature(self.format, &body).is_ok_and(|nature| {
            nature.finished && !nature.refused && (self.tool_calls || !nature.calls_tools)
        });
        if fit {
            let kept = Kept { format: self.format, body, usage, made_by, until: self.until };
            if let Some(shelf) = self.shelf.filter(|_| kept.body.len() <= REPLY_BYTES_MAX) {
                shelf.put(&self.project, self.asking.key(), &kept, self.now);
            }
            if self.cache.keep(self.asking, kept)
                && let Some((sayings, place, saying)) = self.saying
            {
                sayings.add(place, saying);
            }
        }
    }
}

/// The replies in memory, and who is just asking for one.
pub(crate) struct Cache {
    memory: quick_cache::sync::Cache<Key, Arc<Kept>, Weight>,
    asking: Arc<Mutex<HashMap<Key, Arc<Notify>>>>,
    /// How it goes.
    pub(crate) counts: Counts,
}

/// What a look found.
pub(crate) enum Found {
    /// This was answered before.
    Kept(Arc<Kept>),
    /// Nobody knows: whoever holds this asks, and the others wait for them.
    Unknown(Asking),
}

/// The right to ask upstream for a reply that others wait for. Dropped without a reply, the next one asks.
pub(crate) struct Asking {
    key: Key,
    asking: Arc<Mutex<HashMap<Key, Arc<Notify>>>>,
}

impl Asking {
    /// The question.
    pub(crate) fn key(&self) -> Key {
        self.key
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let waiting = self.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        if let Some(waiting) = waiting {
            waiting.notify_waiters();
        }
    }
}

/// A cache that holds so many bytes as `weight` counts them. In few parts, whatever the machine, so that each has room for
/// several large entries: what is larger than its part is not kept.
pub(crate) fn in_memory<K, V, W>(bytes_max: u64, weight: W) -> quick_cache::sync::Cache<K, V, W>
where
    K: Eq + std::hash::Hash,
    V: Clone,
    W: quick_cache::Weighter<K, V> + Clone,
{
    let options = quick_cache::OptionsBuilder::new()
        .shards(PARTS)
        .estimated_items_capacity(ITEMS_EXPECTED)
        .weight_capacity(bytes_max)
        .build()
        .expect("both capacities are given");
    quick_cache::sync::Cache::with_options(
        options,
        weight,
        quick_cache::DefaultHashBuilder::default(),
        quick_cache::sync::DefaultLifecycle::default(),
    )
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            memory: in_memory(MEMORY_BYTES_MAX, Weight),
            asking: Arc::default(),
            counts: Counts::default(),
        }
    }
}

impl Cache {
    /// Looks in memory; while another request asks the same, waits for its reply, at most `patience`.
    ///
    /// `None`: the other did not answer in time; ask without keeping the reply.
    pub(crate) async fn look(&self, key: Key, now: SystemTime, patience: Duration) -> Option<Found> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if let Some(kept) = self.memory.get(&key) {
                if kept.until > now {
                    self.counts.hits.fetch_add(1, Ordering::Relaxed);
                    return Some(Found::Kept(kept));
                }
                self.memory.remove(&key);
            }
            let other = {
                let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(other) = asking.get(&key) {
                    // Made while the lock is held, so that no wake-up is missed.
                    Arc::clone(other).notified_owned()
                } else {
                    // It may have been answered between the look and the lock.
                    if self.memory.peek(&key).is_some_and(|kept| kept.until > now) {
                        continue;
                    }
                    asking.insert(key, Arc::new(Notify::new()));
                    self.counts.misses.fetch_add(1, Ordering::Relaxed);
                    return Some(Found::Unknown(Asking { key, asking: Arc::clone(&self.asking) }));
                }
            };
            tokio::time::timeout_at(deadline, other).await.ok()?;
        }
    }

    /// The reply, if it is in memory and still good; nobody waits for one.
    pub(crate) fn peek(&self, key: Key, now: SystemTime) -> Option<Arc<Kept>> {
        self.memory.get(&key).filter(|kept| kept.until > now)
    }

    /// Keeps a reply, unless it is too large; those who wait for it find it.
    pub(crate) fn keep(&self, asking: Asking, kept: Kept) -> bool {
        let fits = kept.body.len() <= REPLY_BYTES_MAX;
        if fits {
            self.memory.insert(asking.key, Arc::new(kept));
        }
        drop(asking);
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: Tenant<'static> =
        Tenant { project: "shop", owner: None, route: "fast", targets: b"openai/gpt-5-mini", variant: b"" };

    fn chat(body: &str) -> Result<Key, Bypass> {
        key(TENANT, Format::Chat, body.as_bytes(), false)
    }

    fn kept(body: &'static str, until: SystemTime) -> Kept {
        let body = Bytes::from_static(body.as_bytes());
        Kept {
            format: Format::Chat,
            body,
            usage: Usage::default(),
            made_by: "openai/gpt-5-mini".into(),
            until,
        }
    }

    #[test]
    fn other_tenants_have_other_keys() {
        let body = r#"{"temperature":0,"messages":[{"role":"user","content":"hi"}],"seed":1}"#;
        let one = chat(body).unwrap();
        assert!(chat(body).unwrap() == one);
        assert!(chat(r#"{"temperature":0,"messages":[],"seed":1}"#).unwrap() != one);
        for tenant in [
            Tenant { project: "bank", ..TENANT },
            Tenant { owner: Some("key/vk_1"), ..TENANT },
            Tenant { variant: b"anthropic-beta:a\n", ..TENANT },
            Tenant { route: "smart", ..TENANT },
            Tenant { targets: b"openai/gpt-5", ..TENANT },
            // Parts do not run into each other.
            Tenant { project: "shopfast", route: "", ..TENANT },
        ] {
            assert!(key(tenant, Format::Chat, body.as_bytes(), false).unwrap() != one);
        }
        assert!(key(TENANT, Format::Responses, body.as_bytes(), false).unwrap() != one);
    }

    #[test]
    fn headers_that_change_the_answer_count_in_any_order() {
        let map = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, http::HeaderValue::from_static(value));
            }
            variant(&headers)
        };
        let one = map(&[("anthropic-version", "1"), ("anthropic-beta", "a"), ("user-agent", "x")]);
        assert_eq!(
            one,
            map(&[("anthropic-beta", "a"), ("x-stainless-package-version", "9"), ("anthropic-version", "1")])
        );
        assert_eq!(one, b"anthropic-beta:a\nanthropic-version:1\n");
        assert_ne!(one, map(&[("anthropic-version", "1"), ("anthropic-beta", "b")]));
        assert_eq!(map(&[("accept", "x"), ("authorization", "y")]), b"");
    }

    #[test]
    fn what_is_not_compared() {
        let asked = |format, body: &str| key(TENANT, format, body.as_bytes(), false).err();
        assert_eq!(asked(Format::Chat, r#"{"messages":[]}"#), Some(Bypass::Sampled));
        let stateful = r#"{"input":"x","temperature":0,"previous_response_id":"resp_1"}"#;
        assert_eq!(asked(Format::Responses, stateful), Some(Bypass::Stateful));
        assert_eq!(asked(Format::Chat, r#"{"temperature":0,"a":1,"a":2}"#), Some(Bypass::Shape));
        let sampled = r#"{"messages":[],"temperature":0.7}"#;
        assert!(key(TENANT, Format::Chat, sampled.as_bytes(), true).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_and_the_others_wait() {
        let cache = Arc::new(Cache::default());
        let question = chat(r#"{"temperature":0}"#).unwrap();
        let now = SystemTime::UNIX_EPOCH;
        let patience = Duration::from_mins(1);
        let wait_for_it = || {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                matches!(cache.look(question, now, patience).await, Some(Found::Kept(kept)) if kept.body == "hello")
            })
        };
        let Some(Found::Unknown(first)) = cache.look(question, now, patience).await else { panic!() };
        let others: Vec<_> = (0..50).map(|_| wait_for_it()).collect();
        tokio::task::yield_now().await;
        // The first one fails, and so does each that asks in its place: none waits for ever.
        drop(first);
        for other in others {
            assert!(!other.await.unwrap());
        }
        let Some(Found::Unknown(asking)) = cache.look(question, now, patience).await else { panic!() };
        let waiting: Vec<_> = (0..50).map(|_| wait_for_it()).collect();
        tokio::task::yield_now().await;
        assert!(cache.keep(asking, kept("hello", now + Duration::from_secs(10))));
        for other in waiting {
            assert!(other.await.unwrap());
        }
        // It is forgotten when its time is over.
        let later = now + Duration::from_secs(10);
        assert!(matches!(cache.look(question, later, patience).await, Some(Found::Unknown(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_asked() {
        let cache = Cache::default();
        let question = chat(r#"{"temperature":0}"#).unwrap();
        let now = SystemTime::UNIX_EPOCH;
        let first = cache.look(question, now, Duration::ZERO).await;
        assert!(cache.look(question, now, Duration::from_secs(5)).await.is_none());
        drop(first);
        assert!(cache.look(question, now, Duration::ZERO).await.is_some());
    }

    #[tokio::test]
    async fn a_large_reply_is_not_kept() {
        let cache = Cache::default();
        let question = chat(r#"{"temperature":0}"#).unwrap();
        let now = SystemTime::UNIX_EPOCH;
        let Some(Found::Unknown(asking)) = cache.look(question, now, Duration::ZERO).await else { panic!() };
        let large =
            Kept { body: vec![b' '; REPLY_BYTES_MAX + 1].into(), ..kept("", now + Duration::from_secs(9)) };
        assert!(!cache.keep(asking, large));
        assert!(matches!(cache.look(question, now, Duration::ZERO).await, Some(Found::Unknown(_))));
    }
}
