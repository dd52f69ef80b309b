//! Waiting: between attempts, and so that uploads leave room for others.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Fault;

/// Where waiting is done, so that tests need not.
pub(crate) trait Nap: Send + Sync {
    /// Blocks for so long.
    fn nap(&self, how_long: Duration);
}

/// Waiting as it is.
pub(crate) struct RealNap;

impl Nap for RealNap {
    fn nap(&self, how_long: Duration) {
        std::thread::sleep(how_long);
    }
}

/// The first wait is below this, and each next one below twice as much.
const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer, unless the server asks for it.
const LONGEST: Duration = Duration::from_secs(10);
/// A server that asks for more is not believed.
const ASKED_MAX: Duration = Duration::from_mins(1);

/// How long to wait after the `failed`th failure, counted from 1: anything below a bound that doubles, so that many
/// clients do not come back at once.
///
/// Source: AWS Architecture Blog, "Exponential Backoff And Jitter", full jitter.
pub(crate) fn wait(failed: u32, asked: Option<Duration>) -> Result<Duration, Fault> {
    let bound =
        FIRST.saturating_mul(1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX)).min(LONGEST);
    let mut random = [0; 4];
    crate::seal::fill_random(&mut random)?;
    let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    Ok(bound.mul_f64(share).max(asked.unwrap_or_default().min(ASKED_MAX)))
}

/// So many bytes per second, over all uploads of a repository.
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When the line is free again.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(None) }
    }

    /// Takes the line for so many bytes: when the first may go, and how long all of them take.
    pub(crate) fn take(&self, bytes: usize, now: Instant) -> (Instant, Duration) {
        let lasts = self.lasts(bytes);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.unwrap_or(now).max(now);
        *free_at = Some(start + lasts);
        (start, lasts)
    }

    /// How long so many bytes take.
    pub(crate) fn lasts(&self, bytes: usize) -> Duration {
        #[allow(clippy::cast_precision_loss)] // Below a nanosecond.
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_have_a_bound() {
        for (failed, bound) in [(1, 100), (2, 200), (5, 1_600), (8, 10_000), (200, 10_000)] {
            for _ in 0..50 {
                assert!(wait(failed, None).unwrap() <= Duration::from_millis(bound), "{failed}");
            }
        }
        assert!((0..50).any(|_| wait(8, None).unwrap() > Duration::from_secs(2)), "waits are not spread");
        assert!(wait(1, Some(Duration::from_secs(7))).unwrap() >= Duration::from_secs(7));
        assert!(wait(1, Some(Duration::from_hours(7))).unwrap() <= Duration::from_mins(1));
    }

    #[test]
    fn uploads_share_the_line_one_after_the_other() {
        let (pace, now) = (Pace::new(1_000), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(pace.take(2_000, now), (now, 2 * second));
        assert_eq!(pace.take(500, now), (now + 2 * second, second / 2));
        // An idle line saves nothing up.
        assert_eq!(pace.take(1_000, now + 60 * second), (now + 60 * second, second));
        assert_eq!(pace.take(0, now + 60 * second), (now + 61 * second, Duration::ZERO));
    }
}
