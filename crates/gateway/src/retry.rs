//! How often and how late the same target is asked again.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::random;

/// What one retry takes.
const RETRY: u64 = 1_000;
/// What may be saved up, so that a burst after a quiet time is covered: 20 retries.
const SAVED_MAX: u64 = 20 * RETRY;
/// What a request adds: retries are at most a tenth of the requests.
const PER_REQUEST: u64 = RETRY / 10;
/// What two milliseconds add: a retry in two seconds, so that rare requests are retried too.
const PER_TWO_MILLISECONDS: u64 = 1;

/// Keeps the retries of a provider below a tenth of its requests: when much fails, asking everything again is what
/// keeps a provider down. Another target or another key costs nothing here.
pub struct RetryBudget(Mutex<Saved>);

struct Saved {
    units: u64,
    at: Instant,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(Mutex::new(Saved { units: SAVED_MAX, at: Instant::now() }))
    }
}

impl RetryBudget {
    /// A first attempt was made.
    pub fn earn(&self) {
        let mut saved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        saved.units = (saved.units + PER_REQUEST).min(SAVED_MAX);
    }

    /// Takes one retry, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let mut saved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(saved.at).as_millis() / 2;
        saved.at = saved.at.max(now);
        let earned = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(PER_TWO_MILLISECONDS);
        saved.units = saved.units.saturating_add(earned).min(SAVED_MAX);
        if saved.units < RETRY {
            return false;
        }
        saved.units -= RETRY;
        true
    }
}

/// How long to wait before attempt `number` (the first retry is 1): anything from nothing to `base` doubled each time, at
/// most `cap`. Spread over the whole range, so that clients that failed together do not come back together.
/// Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015, "full jitter".
pub(crate) fn backoff(number: u32, base: Duration, cap: Duration) -> Duration {
    let most = base.saturating_mul(1_u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX)).min(cap);
    Duration::from_micros(random::below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_tenth_of_the_requests() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        let saved = (0..100).filter(|_| budget.take(now)).count();
        assert_eq!(saved, 20);
        let mut retries = 0;
        for _ in 0..1_000 {
            budget.earn();
            retries += usize::from(budget.take(now));
        }
        assert!((99..=100).contains(&retries), "{retries}");
        while budget.take(now) {}
        assert!(budget.take(now + Duration::from_secs(2)));
        assert!(!budget.take(now + Duration::from_secs(2)));
    }

    #[test]
    fn waits_are_spread_and_bounded() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(2));
        for (number, most) in [(1, 100), (2, 200), (3, 400), (6, 2_000), (90, 2_000)] {
            let waits: Vec<_> = (0..200).map(|_| backoff(number, base, cap)).collect();
            let most = Duration::from_millis(most);
            assert!(waits.iter().all(|wait| *wait <= most), "{number}");
            assert!(waits.iter().any(|wait| *wait < most / 4), "{number}");
            assert!(waits.iter().any(|wait| *wait > most * 3 / 4), "{number}");
        }
    }
}
