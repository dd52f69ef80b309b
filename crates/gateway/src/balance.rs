//! Which target is asked next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::Instant;

use crate::config::Balance;
use crate::random;
use crate::table::{Route, Target};

/// Most targets of a route.
pub(crate) const TARGETS_MAX: usize = 32;

/// A target at work; given back when dropped.
pub(crate) struct Load(Arc<AtomicU32>);

impl Load {
    pub(crate) fn on(target: &Target) -> Self {
        target.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&target.in_flight))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request knows about the targets of its route.
#[derive(Default)]
pub(crate) struct Tried {
    /// Failures of each target in this request.
    times: [u8; TARGETS_MAX],
    /// Targets that cannot answer this request, one bit each.
    excluded: u32,
}

impl Tried {
    pub(crate) fn failed(&mut self, target: usize) {
        if let Some(times) = self.times.get_mut(target) {
            *times = times.saturating_add(1);
        }
    }

    pub(crate) fn times(&self, target: usize) -> u8 {
        self.times.get(target).copied().unwrap_or(0)
    }

    pub(crate) fn exclude(&mut self, target: usize) {
        self.excluded |= 1_u32.checked_shl(u32::try_from(target).unwrap_or(u32::MAX)).unwrap_or(0);
    }

    pub(crate) fn is_excluded(&self, target: usize) -> bool {
        1_u32
            .checked_shl(u32::try_from(target).unwrap_or(u32::MAX))
            .is_none_or(|bit| self.excluded & bit != 0)
    }
}

/// The next target: of those that can be asked now the one that failed least often in this request, then the one of
/// the first priority, then by weight or load.
pub(crate) fn choose(route: &Route, tried: &Tried, now: Instant) -> Option<usize> {
    let can_be_asked = |index: usize| {
        let target = &route.targets[index];
        !tried.is_excluded(index) && target.breaker.admits(now) && target.provider.pool.is_ready(now)
    };
    if let [_] = &route.targets[..] {
        return can_be_asked(0).then_some(0);
    }
    let count = route.targets.len().min(TARGETS_MAX);
    let rank = |index: usize| (tried.times(index), route.targets[index].priority);
    let best = (0..count).filter(|&index| can_be_asked(index)).map(rank).min()?;
    let mut equals = [0_usize; TARGETS_MAX];
    let mut length = 0;
    for index in (0..count).filter(|&index| rank(index) == best && can_be_asked(index)) {
        equals[length] = index;
        length += 1;
    }
    let equals = &equals[..length];
    let weight = |index: usize| u64::from(route.targets[index].weight);
    match route.config.balance {
        Balance::Weighted => {
            let mut place = random::below(equals.iter().map(|&index| weight(index)).sum());
            for &index in equals {
                match place.checked_sub(weight(index)) {
                    Some(rest) => place = rest,
                    None => return Some(index),
                }
            }
            equals.first().copied()
        }
        Balance::LeastLoaded => {
            let start = usize::try_from(random::below(length as u64)).unwrap_or(0);
            let (before, from) = equals.split_at(start);
            // Compared as fractions: (in flight + 1) / weight, scaled.
            let load = |index: usize| {
                let in_flight = route.targets[index].in_flight.load(Ordering::Relaxed);
                ((u64::from(in_flight) + 1) << 20) / weight(index).max(1)
            };
            from.iter().chain(before).copied().min_by_key(|&index| load(index))
        }
    }
}

/// When a target that rests for a rate limit is back; `None`: none comes back soon.
pub(crate) fn back_at(route: &Route, tried: &Tried, now: Instant) -> Option<Instant> {
    route
        .targets
        .iter()
        .enumerate()
        .filter(|(index, _)| !tried.is_excluded(*index))
        .filter_map(|(_, target)| target.provider.pool.back_at(now))
        .min()
}
