//! What the PM must hear of providers: one that keeps failing, and rate limits that are run into too often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use contract::ai::FailureClass;
use tokio::time::Instant;

use crate::meter::Attempt;

/// A provider fails persistently when nothing has succeeded for this long …
const FAILING: Duration = Duration::from_mins(1);
/// … and at least so many calls failed meanwhile.
const FAILURES_MIN: u32 = 5;

/// Rate limits are counted over this many slots of this length.
const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_mins(1);
/// Calls in that time below which a share says nothing.
const CALLS_MIN: u64 = 100;
/// The mission's bound: fewer than one call in a hundred runs into a rate limit.
const RATE_LIMITED_PER_CALLS: u64 = 100;

/// Something that the PM must hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing has succeeded for a while.
    Failing {
        /// The project.
        project: String,
        /// The provider.
        provider: String,
        /// Failures in a row.
        failures: u32,
        /// For how long.
        for_s: u64,
        /// What the last failure was.
        class: FailureClass,
    },
    /// More than one call in a hundred was refused for its rate.
    RateLimited {
        /// The project.
        project: String,
        /// The provider.
        provider: String,
        /// Calls that were refused.
        limited: u64,
        /// Calls in all.
        calls: u64,
    },
}

#[derive(Default)]
struct Counts {
    /// Since when nothing succeeds, how often in a row, and what the last failure was.
    failing: Option<(Instant, u32, FailureClass)>,
    failing_told: bool,
    /// Slot number, calls and refusals.
    slots: [(u64, u64, u64); SLOTS],
    limited_told: bool,
}

/// Project and provider.
type Whose = (Box<str>, Box<str>);

/// Counts how calls of providers end. A few additions for each call.
pub struct Watch {
    began: Instant,
    providers: Mutex<HashMap<Whose, Counts>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { began: Instant::now(), providers: Mutex::default() }
    }
}

impl Watch {
    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / SLOT.as_secs()
    }

    /// Sees the attempts of a request that has ended.
    pub fn see(&self, project: &str, attempts: &[Attempt], now: Instant) {
        for attempt in attempts {
            self.see_one(project, &attempt.target.provider.name, attempt.failure, now);
        }
    }

    /// Sees one call.
    pub fn see_one(&self, project: &str, provider: &str, failure: Option<FailureClass>, now: Instant) {
        use FailureClass as Class;
        let slot = self.slot(now);
        let mut providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = providers.entry((project.into(), provider.into())).or_default();
        let at = &mut counts.slots[usize::try_from(slot).unwrap_or(0) % SLOTS];
        if at.0 != slot {
            *at = (slot, 0, 0);
        }
        at.1 += 1;
        at.2 += u64::from(failure == Some(Class::Rate));
        match failure {
            // A wrong request says nothing about the provider.
            Some(
                Class::BadRequest | Class::NotFound | Class::Refused | Class::ContextLength | Class::Rate,
            ) => {}
            Some(class) => {
                let (since, times, _) = counts.failing.unwrap_or((now, 0, class));
                counts.failing = Some((since, times.saturating_add(1), class));
            }
            None => {
                counts.failing = None;
                counts.failing_told = false;
            }
        }
    }

    /// What has come up since the last look; each thing once, until it is over and comes again.
    pub fn alerts(&self, now: Instant) -> Vec<Trouble> {
        let newest = self.slot(now);
        let mut alerts = Vec::new();
        let mut providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        for ((project, provider), counts) in providers.iter_mut() {
            if let Some((since, failures, class)) = counts.failing {
                let long = now.saturating_duration_since(since);
                if long >= FAILING && failures >= FAILURES_MIN && !counts.failing_told {
                    counts.failing_told = true;
                    alerts.push(Trouble::Failing {
                        project: project.to_string(),
                        provider: provider.to_string(),
                        failures,
                        for_s: long.as_secs(),
                        class,
                    });
                }
            }
            let recent = counts.slots.iter().filter(|(slot, ..)| newest - slot.min(&newest) < SLOTS as u64);
            let (calls, limited) =
                recent.fold((0, 0), |(calls, limited), slot| (calls + slot.1, limited + slot.2));
            let above = calls >= CALLS_MIN && limited * RATE_LIMITED_PER_CALLS > calls;
            if above && !counts.limited_told {
                alerts.push(Trouble::RateLimited {
                    project: project.to_string(),
                    provider: provider.to_string(),
                    limited,
                    calls,
                });
            }
            counts.limited_told = above;
        }
        alerts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_keeps_failing_is_told_once_until_it_recovers() {
        let watch = Watch::default();
        let fail = |class| watch.see_one("shop", "openai", Some(class), Instant::now());
        for _ in 0..20 {
            fail(FailureClass::Server);
        }
        assert_eq!(watch.alerts(Instant::now()), [], "a burst is no persistent failure");
        tokio::time::advance(FAILING).await;
        let alerts = watch.alerts(Instant::now());
        assert!(matches!(&alerts[..], [Trouble::Failing { failures: 20, for_s: 60, .. }]), "{alerts:?}");
        fail(FailureClass::Network);
        assert_eq!(watch.alerts(Instant::now()), [], "once");
        watch.see_one("shop", "openai", None, Instant::now());
        for _ in 0..5 {
            fail(FailureClass::BadRequest);
            fail(FailureClass::Timeout);
            tokio::time::advance(FAILING).await;
        }
        assert!(matches!(&watch.alerts(Instant::now())[..], [Trouble::Failing { failures: 5, .. }]));
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_one_rate_limit_in_a_hundred_calls_is_told() {
        for (calls, limited, told) in
            [(99, 99, false), (100, 1, false), (100, 2, true), (1000, 10, false), (1000, 11, true)]
        {
            let watch = Watch::default();
            for number in 0..calls {
                let failure = (number < limited).then_some(FailureClass::Rate);
                watch.see_one("shop", "openai", failure, Instant::now());
            }
            let alerts = watch.alerts(Instant::now());
            assert_eq!(!alerts.is_empty(), told, "{limited} of {calls}");
            assert!(watch.alerts(Instant::now()).is_empty(), "once");
            // Ten minutes later it is forgotten.
            tokio::time::advance(SLOT * 11).await;
            watch.see_one("shop", "openai", Some(FailureClass::Rate), Instant::now());
            assert!(watch.alerts(Instant::now()).is_empty());
        }
    }
}
