//! What the hot path and the accounts say to each other: an ask, a reservation, a settlement.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use contract::ai::FailureClass;
use jiff::Timestamp;
use wire::Usage;

use crate::table::{Grant, Route, Target};
use crate::trace::Trace;

/// Identifies a request and its receipt; sorts by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u128);

/// Letters of Crockford's base 32.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl RequestId {
    /// A new one. Its lower bits count on from a random start, so that ids of several daemons differ.
    pub fn new(now: Timestamp) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let mut count = COUNTER.fetch_add(1, Ordering::Relaxed);
        if count == 0 {
            let start = crate::random::number() >> 1;
            count = start;
            COUNTER.fetch_add(start, Ordering::Relaxed);
        }
        let milliseconds = u128::try_from(now.as_millisecond()).unwrap_or_default();
        Self((milliseconds << 80) | u128::from(count))
    }

    /// The number behind it.
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"req_00000000000000000000000000";
        let mut rest = self.0;
        for place in text[4..].iter_mut().rev() {
            *place = LETTERS[usize::try_from(rest & 31).unwrap_or(0)];
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// Text.
    Generate,
    /// Vectors.
    Embed,
    /// The number of tokens of a prompt.
    CountTokens,
    /// Files of a provider.
    Files,
    /// Work for later.
    Batches,
    /// Training of a model.
    FineTuning,
    /// Answers that a provider keeps.
    Responses,
    /// A call of a declared other service.
    PassThrough,
}

impl What {
    /// The word in reports and metrics; those of OpenTelemetry where it has one.
    /// Source: OpenTelemetry semantic conventions for generative AI, `gen_ai.operation.name`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "chat",
            Self::Embed => "embeddings",
            Self::CountTokens => "count_tokens",
            Self::Files => "files",
            Self::Batches => "batches",
            Self::FineTuning => "fine_tuning",
            Self::Responses => "responses",
            Self::PassThrough => "pass_through",
        }
    }
}

/// What a request could cost, before it is sent.
pub struct Ask<'a> {
    /// The request.
    pub request: RequestId,
    /// What is asked for.
    pub what: What,
    /// Its route, with every target that may answer.
    pub route: &'a Arc<Route>,
    /// The prompt has at most so many tokens.
    pub input_tokens_bound: u64,
    /// The prompt has about so many tokens.
    pub input_tokens_estimate: u64,
    /// The answer may have so many tokens, as the request says.
    pub max_tokens: Option<u64>,
    /// Answers that were asked for at once (`n`).
    pub choices: u32,
    /// The service tier that was asked for, such as `priority`.
    pub service_tier: Option<&'a str>,
    /// What the provider would charge for beyond the tokens, such as `web_search`; see [`wire::Scanned::charged`].
    pub charged: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

/// Who keeps limits and budgets: from memory, without waiting.
#[async_trait]
pub trait Metering: Send + Sync {
    /// Lets a request in and sets aside what it may cost, or says why not.
    ///
    /// # Errors
    ///
    /// The limit or the budget that is used up, and when it is free again.
    fn admit(&self, grant: &Arc<Grant>, ask: &Ask<'_>) -> Result<Reservation, Box<Refusal>>;

    /// Waits a moment for money that is on its way, after a refusal that says [`Refusal::on_its_way`]; the same request
    /// may be let in then.
    async fn replenished(&self) {}
}

/// What was set aside for a request; settled once, at the latest when it is dropped.
pub struct Reservation {
    hold: Option<Box<dyn Hold>>,
    max_tokens: Option<u64>,
    barred: Vec<Arc<Target>>,
}

/// The other side of a reservation.
pub trait Hold: Send + Sync {
    /// Sets the same aside once more, before another attempt after one that may have cost money.
    ///
    /// # Errors
    ///
    /// The budget that has no more.
    fn again(&mut self) -> Result<(), Box<Refusal>> {
        Ok(())
    }

    /// Takes what was really used and gives the rest back. `None`: the request was dropped before anything was known;
    /// nothing was sent to a provider.
    fn settle(self: Box<Self>, settlement: Option<Settlement>);
}

impl Reservation {
    /// A reservation with the tokens that the answer may have, where the budget bounds them.
    pub fn new(hold: Box<dyn Hold>, max_tokens: Option<u64>) -> Self {
        Self { hold: Some(hold), max_tokens, barred: Vec::new() }
    }

    /// The same, without these targets: their own budgets are used up.
    #[must_use]
    pub fn without(mut self, barred: Vec<Arc<Target>>) -> Self {
        self.barred = barred;
        self
    }

    /// Whether this target may be asked.
    pub fn allows(&self, target: &Arc<Target>) -> bool {
        !self.barred.iter().any(|barred| Arc::ptr_eq(barred, target))
    }

    /// Sets the same aside once more, before another attempt after one that may have cost money: one that timed out or
    /// broke off.
    ///
    /// # Errors
    ///
    /// The budget that has no more; the attempt must not be made.
    pub fn again(&mut self) -> Result<(), Box<Refusal>> {
        self.hold.as_mut().map_or(Ok(()), |hold| hold.again())
    }

    /// Tokens that the answer may have by the budget; `None`: as many as asked for.
    pub fn max_tokens(&self) -> Option<u64> {
        self.max_tokens
    }

    /// Ends the reservation.
    pub fn settle(mut self, settlement: Settlement) {
        if let Some(hold) = self.hold.take() {
            hold.settle(Some(settlement));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            hold.settle(None);
        }
    }
}

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The sentence for the caller; names the limit or the budget.
    pub message: String,
    /// A word for programs, such as `rate_limit_exceeded`, `budget_exceeded`, `price_unknown`.
    pub code: &'static str,
    /// The answer's status: 429 for a limit, 402 for a budget.
    pub status: http::StatusCode,
    /// When the same request could be let in.
    pub retry_after: Option<Duration>,
    /// Money for it may be on its way: [`Metering::replenished`] waits for it.
    pub on_its_way: bool,
}

/// What a request came to.
#[derive(Debug)]
pub struct Settlement {
    /// The request.
    pub request: RequestId,
    /// What was asked for.
    pub what: What,
    /// When it came in.
    pub started: Timestamp,
    /// Every attempt, in order. Failed ones may have cost money too.
    pub attempts: Vec<Attempt>,
    /// The route.
    pub route: Arc<Route>,
    /// The model name that the client sent.
    pub asked_model: Box<str>,
    /// Whether it was a stream.
    pub streaming: bool,
    /// Tokens as the provider counted them; `None`: it did not say.
    pub usage: Option<Usage>,
    /// The prompt's tokens, estimated.
    pub input_tokens_estimate: u64,
    /// Bytes of generated text that were seen on their way to the client.
    pub delivered_bytes: u64,
    /// The model that the provider says it used.
    pub reported_model: Option<Box<str>>,
    /// The service tier that the provider says it used.
    pub service_tier: Option<Box<str>>,
    /// How it ended.
    pub ending: Ending,
    /// The status that the client got; 499 when it left before it got one.
    pub status: u16,
    /// What the cache did.
    pub cache: CacheDecision,
    /// What the cache found out besides; absent where it did not look.
    pub cache_note: Option<Box<CacheNote>>,
    /// From the request until the first byte of the answer was ready for the client.
    pub first_byte: Option<Duration>,
    /// From the request until its end.
    pub duration: Duration,
    /// Time that passed waiting for providers; the rest of the time until the first byte is our own.
    pub waited: Duration,
    /// Tokens that the answer was bounded to by the budget, where fewer than asked for.
    pub clamped_max_tokens: Option<u64>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Its place in the trace that the client began, if it did.
    pub trace: Option<Trace>,
    /// What the provider keeps of it: kind (`response`, `conversation`) and the provider's id.
    pub kept_there: Vec<(&'static str, Box<str>)>,
}

/// What the cache found out about a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheNote {
    /// A keyed hash of what is asked, to recognise the same question by; nothing can be read from it.
    pub question: Option<u128>,
    /// The answer is drawn at random.
    pub samples: bool,
    /// Whose answer was given, where it was not asked in the same words.
    pub like: Option<Likeness>,
    /// The questions could not be embedded, and so not compared.
    pub embedding_failed: bool,
    /// The request whose answer this one checks.
    pub checks: Option<RequestId>,
}

/// How alike two questions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Likeness {
    /// The request whose answer was given.
    pub of: RequestId,
    /// The cosine of their embeddings, in ten-thousandths.
    pub similarity: u16,
}

impl Settlement {
    /// The attempt that answered the client.
    pub fn served_by(&self) -> Option<&Attempt> {
        // A client that left after a failure waited for another attempt; one that failed later was told so in its answer.
        let unserved = matches!(self.ending, Ending::Failed | Ending::Disconnected);
        self.attempts.last().filter(|attempt| attempt.failure.is_none() || !unserved)
    }
}

/// One try.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Who was asked.
    pub target: Arc<Target>,
    /// Name of the provider's key that was used; empty without one.
    pub key: Arc<str>,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// Why it failed; `None`: it did not.
    pub failure: Option<FailureClass>,
    /// Whether the provider may want money for it: it was sent, and no answer said that nothing was done.
    pub may_cost: bool,
    /// What the provider said about it, scrubbed of keys and cut short.
    pub message: Option<Box<str>>,
    /// When it began, counted from the request.
    pub began: Duration,
    /// How long it took until its headers or its failure.
    pub took: Duration,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// With a whole answer.
    Complete,
    /// The answer broke off, and the client was told.
    Truncated,
    /// The provider reported an error inside its answer, and the client was told.
    Interrupted,
    /// The client left first.
    Disconnected,
    /// No attempt succeeded.
    Failed,
}

impl Ending {
    /// The word in reports and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Truncated => "truncated",
            Self::Interrupted => "interrupted",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
        }
    }
}

/// What the cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheDecision {
    /// The route has none.
    Off,
    /// This request may not be answered from it.
    Bypass,
    /// It had no answer.
    Miss,
    /// It answered.
    Hit,
    /// It answered with the reply to the same question in other words.
    Semantic,
}

impl CacheDecision {
    /// The word in headers, reports and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Bypass => "bypass",
            Self::Miss => "miss",
            Self::Hit => "hit",
            Self::Semantic => "semantic",
        }
    }
}

/// Lets everything in and forgets it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unmetered;

impl Metering for Unmetered {
    fn admit(&self, _grant: &Arc<Grant>, _ask: &Ask<'_>) -> Result<Reservation, Box<Refusal>> {
        Ok(Reservation { hold: None, max_tokens: None, barred: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_sort_by_time() {
        let at = |text: &str| RequestId::new(text.parse().unwrap());
        let (first, second) = (at("2026-03-04T02:00:00Z"), at("2026-03-04T02:00:00Z"));
        let later = at("2026-03-04T02:00:01Z");
        assert_ne!(first, second);
        assert!(first < later && first.to_string() < later.to_string());
        assert_eq!(first.to_string().len(), 30);
        assert!(first.to_string().starts_with("req_0"));
    }
}
