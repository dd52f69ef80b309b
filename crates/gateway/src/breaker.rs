//! Whether a target is asked at all after it failed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker.
const IN_A_ROW: u32 = 5;
/// Outcomes that are remembered, and how many of them are needed before their share counts.
const REMEMBERED: usize = 20;
/// Failures among the remembered that open it.
const FAILED_OF_REMEMBERED: usize = 10;
/// How long it stays open the first time; doubled each time the probe fails.
const OPEN_FIRST: Duration = Duration::from_secs(5);
const OPEN_LONGEST: Duration = Duration::from_mins(1);

/// Stops asking a target that fails, and tries it again with one request at a time.
///
/// Closed: every request passes. Open: none until a time. Then half-open: one request is let through; its success
/// closes the breaker, its failure opens it for longer. An outcome that says nothing about the target's health, such
/// as a rate limit of one key, counts neither way and frees the place.
pub struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    in_a_row: u32,
    /// The last outcomes, `true` for a failure.
    outcomes: VecDeque<bool>,
    open_until: Option<Instant>,
    opened_times: u32,
    probing: bool,
}

impl Default for Breaker {
    fn default() -> Self {
        Self(Mutex::new(State::default()))
    }
}

/// A request's way through the breaker. Dropped without an outcome it counts as none.
#[must_use]
pub struct Pass {
    breaker: Arc<Breaker>,
    is_probe: bool,
    told: bool,
}

impl Breaker {
    /// Whether [`Breaker::enter`] would let a request through.
    pub fn admits(&self, now: Instant) -> bool {
        self.state().admits(now)
    }

    /// Until when no request passes; `None`: one would pass.
    pub fn open_until(&self, now: Instant) -> Option<Instant> {
        self.state().open_until.filter(|until| *until > now)
    }

    /// Lets a request through, or not.
    pub fn enter(self: &Arc<Self>, now: Instant) -> Option<Pass> {
        let mut state = self.state();
        if !state.admits(now) {
            return None;
        }
        let is_probe = state.open_until.is_some();
        state.probing |= is_probe;
        Some(Pass { breaker: Arc::clone(self), is_probe, told: false })
    }

    /// A request that had passed failed after all.
    pub fn failed_later(&self, now: Instant) {
        let mut state = self.state();
        state.in_a_row += 1;
        state.remember(true);
        state.open_if_due(now, None, false);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admits(&self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) => now >= until && !self.probing,
        }
    }

    fn remember(&mut self, failed: bool) {
        if self.outcomes.len() == REMEMBERED {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(failed);
    }

    fn open_if_due(&mut self, now: Instant, wait: Option<Duration>, was_probe: bool) {
        let failed = self.outcomes.iter().filter(|failed| **failed).count();
        let many = self.outcomes.len() == REMEMBERED && failed >= FAILED_OF_REMEMBERED;
        if was_probe || self.in_a_row >= IN_A_ROW || many {
            let longer = OPEN_FIRST.saturating_mul(1 << self.opened_times.min(8)).min(OPEN_LONGEST);
            self.open_until = Some(now + longer.max(wait.unwrap_or_default().min(OPEN_LONGEST)));
            self.opened_times += 1;
            self.probing = false;
            self.in_a_row = 0;
            self.outcomes.clear();
        }
    }
}

impl Pass {
    /// The target answered.
    pub fn succeeded(mut self) {
        self.told = true;
        let mut state = self.breaker.state();
        if self.is_probe {
            *state = State::default();
            return;
        }
        state.in_a_row = 0;
        state.remember(false);
    }

    /// The target failed; it may have said how long to leave it alone.
    pub fn failed(mut self, now: Instant, wait: Option<Duration>) {
        self.told = true;
        let mut state = self.breaker.state();
        state.in_a_row += 1;
        state.remember(true);
        state.open_if_due(now, wait, self.is_probe);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_probe && !self.told {
            self.breaker.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (Arc<Breaker>, Instant) {
        let breaker = Arc::new(Breaker::default());
        let now = Instant::now();
        for _ in 0..IN_A_ROW {
            breaker.enter(now).unwrap().failed(now, None);
        }
        (breaker, now)
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_row_open_it_and_one_probe_closes_it() {
        let (breaker, now) = open();
        assert!(breaker.enter(now).is_none());
        assert_eq!(breaker.open_until(now), Some(now + OPEN_FIRST));
        let later = now + OPEN_FIRST;
        let probe = breaker.enter(later).unwrap();
        assert!(breaker.enter(later).is_none(), "one probe at a time");
        probe.succeeded();
        assert!(breaker.enter(later).is_some() && breaker.enter(later).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_probe_opens_for_longer() {
        let (breaker, now) = open();
        let later = now + OPEN_FIRST;
        breaker.enter(later).unwrap().failed(later, None);
        assert!(!breaker.admits(later + OPEN_FIRST));
        assert!(breaker.admits(later + OPEN_FIRST * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn probe_without_outcome_frees_its_place() {
        let (breaker, now) = open();
        let later = now + OPEN_FIRST;
        for _ in 0..100 {
            drop(breaker.enter(later).expect("the place is free"));
        }
        breaker.enter(later).unwrap().succeeded();
        assert!(breaker.admits(now));
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_twenty_open_it() {
        let breaker = Arc::new(Breaker::default());
        let now = Instant::now();
        for at in 0..REMEMBERED {
            let pass = breaker.enter(now).expect("closed");
            if at % 2 == 1 { pass.failed(now, None) } else { pass.succeeded() }
        }
        assert!(!breaker.admits(now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_believed_up_to_a_minute() {
        let breaker = Arc::new(Breaker::default());
        let now = Instant::now();
        for _ in 0..IN_A_ROW {
            breaker.enter(now).unwrap().failed(now, Some(Duration::from_hours(5)));
        }
        assert_eq!(breaker.open_until(now), Some(now + OPEN_LONGEST));
    }
}
