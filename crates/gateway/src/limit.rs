//! Requests and tokens in a minute, and requests at the same time: counted in memory, without waiting.
//!
//! Rates are kept by the generic cell rate algorithm: one number per limit says when the bucket would be full again. A
//! bucket holds one minute's worth, so a key that was quiet may use its whole minute at once, and never more than twice
//! its limit falls into any minute.
//!
//! Source: ITU-T I.371, the virtual scheduling form of the generic cell rate algorithm.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What a rate is for.
const MINUTE: u64 = 60_000_000_000;

/// Something that may be used so often in a minute.
#[derive(Debug)]
pub struct Rate {
    per_minute: AtomicU64,
    /// When the bucket is full again, in nanoseconds of the meter's clock; in the past: it is full.
    full_at: AtomicU64,
}

/// What is left of a rate after a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The limit, in a minute.
    pub limit: u64,
    /// What may be used at once now.
    pub remaining: u64,
    /// When the bucket is full again.
    pub full_in: Duration,
}

/// A rate has not enough left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// The limit, in a minute.
    pub limit: u64,
    /// What may be used at once now.
    pub remaining: u64,
    /// When as much as was asked for can be had; `None`: never, it is more than a minute's worth.
    pub retry_after: Option<Duration>,
}

impl Rate {
    /// A full bucket.
    pub fn new(per_minute: u64) -> Self {
        Self { per_minute: AtomicU64::new(per_minute.max(1)), full_at: AtomicU64::new(0) }
    }

    /// The limit, in a minute.
    pub fn limit(&self) -> u64 {
        self.per_minute.load(Ordering::Relaxed)
    }

    /// Changes the limit; what was used stays used.
    pub fn set(&self, per_minute: u64) {
        let before = self.per_minute.swap(per_minute.max(1), Ordering::Relaxed);
        if before != per_minute.max(1) {
            tracing::debug!(before, per_minute, "a rate limit has changed");
        }
    }

    /// Changes the limit and keeps what is left as it is, up to the new limit: what another holder has let go of comes
    /// back with time and not at once. `more` is added to it.
    pub fn share(&self, per_minute: u64, more: u64, now: u64) {
        let per_minute = per_minute.max(1);
        let before = self.per_minute.load(Ordering::Relaxed);
        if before == per_minute && more == 0 {
            return;
        }
        let before = i128::from(before);
        let (minute, after) = (i128::from(MINUTE), i128::from(per_minute));
        let shared = |full_at: u64| {
            // What is left, in parts of a minute of one: below 0 when more was used than there was.
            let left = (minute - i128::from(full_at.saturating_sub(now))) * before;
            let left = (left + i128::from(more) * minute).min(after * minute);
            let missing = (after * minute - left + after - 1) / after;
            now.saturating_add(u64::try_from(missing).unwrap_or(u64::MAX))
        };
        let mut at = self.full_at.load(Ordering::Acquire);
        while let Err(other) =
            self.full_at.compare_exchange_weak(at, shared(at), Ordering::AcqRel, Ordering::Acquire)
        {
            at = other;
        }
        self.per_minute.store(per_minute, Ordering::Release);
    }

    /// The time that `count` of them take to come back, rounded up, so that nothing is free.
    fn takes(&self, count: u64) -> u64 {
        let limit = u128::from(self.per_minute.load(Ordering::Relaxed));
        u64::try_from((u128::from(count) * u128::from(MINUTE)).div_ceil(limit)).unwrap_or(u64::MAX)
    }

    /// Takes `count` at `now`, in nanoseconds of the meter's clock, or none.
    ///
    /// # Errors
    ///
    /// What is left and when there is enough.
    pub fn take(&self, count: u64, now: u64) -> Result<Left, Exhausted> {
        let takes = self.takes(count);
        let mut full_at = self.full_at.load(Ordering::Acquire);
        loop {
            let next = full_at.max(now).saturating_add(takes);
            if next - now > MINUTE {
                let limit = self.per_minute.load(Ordering::Relaxed);
                let retry_after = (count <= limit).then(|| Duration::from_nanos(next - now - MINUTE));
                return Err(Exhausted { limit, remaining: self.remaining(full_at, now), retry_after });
            }
            match self.full_at.compare_exchange_weak(full_at, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(self.left(next, now)),
                Err(other) => full_at = other,
            }
        }
    }

    /// Corrects what was taken: `used` in place of `taken`. More than there is makes the next one wait.
    pub fn correct(&self, taken: u64, used: u64, now: u64) {
        if taken == used {
            return;
        }
        let (taken, used) = (self.takes(taken), self.takes(used));
        let corrected = |full_at: u64| full_at.max(now).saturating_add(used).saturating_sub(taken);
        let mut at = self.full_at.load(Ordering::Acquire);
        while let Err(other) =
            self.full_at.compare_exchange_weak(at, corrected(at), Ordering::AcqRel, Ordering::Acquire)
        {
            at = other;
        }
    }

    /// What is left now.
    pub fn look(&self, now: u64) -> Left {
        self.left(self.full_at.load(Ordering::Acquire), now)
    }

    fn left(&self, full_at: u64, now: u64) -> Left {
        Left {
            limit: self.per_minute.load(Ordering::Relaxed),
            remaining: self.remaining(full_at, now),
            full_in: Duration::from_nanos(full_at.saturating_sub(now)),
        }
    }

    fn remaining(&self, full_at: u64, now: u64) -> u64 {
        let limit = u128::from(self.per_minute.load(Ordering::Relaxed));
        let room = u128::from(MINUTE.saturating_sub(full_at.saturating_sub(now)));
        u64::try_from(room * limit / u128::from(MINUTE)).unwrap_or(u64::MAX)
    }
}

/// How many at the same time.
#[derive(Debug)]
pub struct Slots {
    most: AtomicU32,
    used: AtomicU32,
}

impl Slots {
    /// So many free ones.
    pub fn new(most: u32) -> Self {
        Self { most: AtomicU32::new(most), used: AtomicU32::new(0) }
    }

    /// Changes the limit; who is in stays in.
    pub fn set(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Takes one, or answers false.
    pub fn take(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| (used < most).then_some(used + 1))
            .is_ok()
    }

    /// Gives one back.
    pub fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many are in use.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Acquire)
    }

    /// How many there are.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_minute_may_be_used_at_once_and_comes_back_evenly() {
        let rate = Rate::new(60);
        for left in (0..60).rev() {
            assert_eq!(rate.take(1, 0).unwrap().remaining, left);
        }
        let refused = rate.take(1, 0).unwrap_err();
        assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
        assert_eq!((refused.limit, refused.remaining), (60, 0));
        assert!(rate.take(1, SECOND - 1).is_err());
        assert!(rate.take(1, SECOND).is_ok());
        assert!(rate.take(1, SECOND).is_err());
        assert_eq!(rate.look(31 * SECOND).remaining, 30);
        assert_eq!(rate.look(1_000 * SECOND).remaining, 60);
        assert_eq!(rate.look(1_000 * SECOND).full_in, Duration::ZERO);
    }

    #[test]
    fn more_than_a_minutes_worth_is_never_let_through() {
        let rate = Rate::new(1000);
        let refused = rate.take(1001, 0).unwrap_err();
        assert_eq!(refused.retry_after, None);
        assert!(rate.take(1000, 0).is_ok());
    }

    #[test]
    fn tokens_are_corrected_afterwards_both_ways() {
        let rate = Rate::new(1000);
        assert_eq!(rate.take(600, 0).unwrap().remaining, 400);
        rate.correct(600, 100, 0);
        assert_eq!(rate.look(0).remaining, 900);
        rate.take(100, 0).unwrap();
        // Twice as much as there is: the next waits until the debt is paid.
        rate.correct(100, 2000, 0);
        let refused = rate.take(1, 0).unwrap_err();
        assert_eq!(refused.remaining, 0);
        assert!(refused.retry_after.unwrap() > Duration::from_mins(1));
    }

    #[test]
    fn a_share_that_changes_makes_nothing_out_of_nothing() {
        let rate = Rate::new(60);
        rate.take(50, 0).unwrap();
        // Twice the limit: the ten that were left, and from now on two in a second.
        rate.share(120, 0, 0);
        assert_eq!(rate.look(0).remaining, 10);
        assert_eq!(rate.look(SECOND).remaining, 12);
        // Less of it: no more than a minute's worth of what remains.
        rate.share(5, 0, SECOND);
        assert_eq!(rate.look(SECOND).remaining, 5);
        rate.share(60, 0, SECOND);
        assert_eq!(rate.look(SECOND).remaining, 5);
        rate.share(60, 30, SECOND);
        assert_eq!(rate.look(SECOND).remaining, 35);
        // What was overdrawn stays so.
        rate.correct(0, 65, SECOND);
        rate.share(30, 0, SECOND);
        assert_eq!(rate.take(1, SECOND).unwrap_err().retry_after, Some(Duration::from_secs(62)));
    }

    #[test]
    fn a_clock_that_jumps_back_lets_nobody_through_twice() {
        let rate = Rate::new(2);
        assert!(rate.take(2, 100 * SECOND).is_ok());
        assert!(rate.take(1, 50 * SECOND).is_err());
        assert!(rate.take(1, 130 * SECOND).is_ok());
    }

    #[test]
    fn threads_together_get_what_is_there_and_not_one_more() {
        let (rate, slots) = (Rate::new(500), Slots::new(7));
        let let_in = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let_in.fetch_add(u64::from(rate.take(1, 0).is_ok()), Ordering::Relaxed);
                        if slots.take() {
                            assert!(slots.used() <= 7);
                            slots.give_back();
                        }
                    }
                });
            }
        });
        assert_eq!(let_in.into_inner(), 500);
        assert_eq!(slots.used(), 0);
        assert!((0..7).all(|_| slots.take()) && !slots.take());
    }

    proptest! {
        // Over any pattern of arrivals, no window of a minute sees more than twice the limit, and the long-run rate holds.
        #[test]
        fn no_pattern_gets_more_than_the_rate(
            limit in 1u64..200, steps in prop::collection::vec((0u64..5_000_000_000, 1u64..10), 1..300),
        ) {
            let rate = Rate::new(limit);
            let (mut now, mut taken) = (0u64, Vec::new());
            for (wait, count) in steps {
                now += wait;
                if rate.take(count, now).is_ok() {
                    taken.push((now, count));
                }
            }
            let all: u64 = taken.iter().map(|(_, count)| count).sum();
            let most = u128::from(limit) * (u128::from(MINUTE) + u128::from(now)) / u128::from(MINUTE);
            prop_assert!(u128::from(all) <= most, "{all} > {most}");
        }
    }
}
