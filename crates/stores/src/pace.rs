//! How fast a change of many rows may go, and how long to try for a lock.

use std::time::Duration;

use contract::{Batches, ReplicaLag};

/// Longest wait between two attempts at a lock.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Wait before the second attempt; it doubles with each one.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// Wait before a replica that is behind is looked at again.
pub(crate) const LAG_LOOK: Duration = Duration::from_millis(250);
/// Pause after each batch when there are replicas whose lag our login may not see.
const PAUSE_BLIND: Duration = Duration::from_millis(200);

/// Decides the size of the next batch and the pause before it.
#[derive(Debug)]
pub(crate) struct Pacer<'a> {
    batches: &'a Batches,
    rows: u64,
}

/// What the replicas say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Replicas<'a> {
    /// There are none, or all keep up.
    KeepUp,
    /// There are some, and their lag is hidden from our login.
    Hidden,
    /// This one is behind by more than it may.
    Behind(&'a ReplicaLag),
}

impl<'a> Pacer<'a> {
    pub(crate) fn new(batches: &'a Batches) -> Self {
        let mut pacer = Self { batches, rows: batches.rows_start };
        pacer.bound();
        pacer
    }

    /// Rows that the next batch may have.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// A batch took this long, and so many sessions waited for it. Gives the pause before the next one.
    ///
    /// The size moves towards the wanted time, at most by half or twice at once; when somebody had to wait it shrinks, and
    /// the others get as much time as we had.
    pub(crate) fn took(&mut self, time: Duration, sessions_waiting: u64) -> Duration {
        let pause = Duration::from_millis(self.batches.pause_ms);
        let target = Duration::from_millis(self.batches.target_ms.max(1));
        if sessions_waiting > 0 {
            self.rows /= 2;
            self.bound();
            return pause.max(time);
        }
        let scaled = u128::from(self.rows) * target.as_micros() / time.as_micros().max(1);
        let scaled = u64::try_from(scaled).unwrap_or(u64::MAX);
        self.rows = scaled.clamp(self.rows / 2, self.rows.saturating_mul(2));
        self.bound();
        pause
    }

    /// A batch did not get its locks: the next one asks for fewer.
    pub(crate) fn failed(&mut self) {
        self.rows /= 2;
        self.bound();
    }

    /// What the replicas' lag means for us.
    pub(crate) fn replicas<'l>(&self, lags: &'l [ReplicaLag]) -> Replicas<'l> {
        let behind = |lag: &&ReplicaLag| {
            lag.bytes.is_some_and(|bytes| bytes > self.batches.lag_bytes_max)
                || lag.ms.is_some_and(|ms| ms > self.batches.lag_ms_max)
        };
        if let Some(lag) = lags.iter().filter(behind).max_by_key(|lag| (lag.bytes, lag.ms)) {
            return Replicas::Behind(lag);
        }
        if lags.iter().any(|lag| lag.bytes.is_none()) { Replicas::Hidden } else { Replicas::KeepUp }
    }

    /// The pause when nobody can say how far the replicas are.
    pub(crate) fn blind(pause: Duration) -> Duration {
        pause.max(PAUSE_BLIND)
    }

    fn bound(&mut self) {
        let min = self.batches.rows_min.max(1);
        self.rows = self.rows.clamp(min, self.batches.rows_max.max(min));
    }
}

/// The wait before attempt `attempt` (from 2) at a lock: it doubles, and half of it is left to chance, so that two who
/// wait for each other do not meet again.
pub(crate) fn backoff(attempt: u32, chance: u64) -> Duration {
    let whole = BACKOFF_FIRST.saturating_mul(1 << attempt.saturating_sub(2).min(16)).min(BACKOFF_MAX);
    let half = whole / 2;
    let part = u32::try_from(chance % 1_000).unwrap_or(0);
    half + half * part / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(replica: &str, bytes: Option<u64>, ms: Option<u64>) -> ReplicaLag {
        ReplicaLag { replica: replica.into(), bytes, ms }
    }

    #[test]
    fn size_moves_towards_the_wanted_time_within_its_bounds() {
        let batches = Batches::new("t", vec!["id".into()]);
        let mut pacer = Pacer::new(&batches);
        let ms = Duration::from_millis;
        for (took, waiting, rows, pause) in [
            (ms(500), 0, 1_000, ms(10)),
            (ms(1), 0, 2_000, ms(10)),
            (ms(400), 0, 2_500, ms(10)),
            (ms(5_000), 0, 1_250, ms(10)),
            (ms(300), 2, 625, ms(300)),
            (ms(1), 1, 312, ms(10)),
            (ms(60_000), 0, 156, ms(10)),
            (ms(60_000), 0, 100, ms(10)),
            (ms(60_000), 0, 100, ms(10)),
        ] {
            assert_eq!((pacer.took(took, waiting), pacer.rows()), (pause, rows), "{took:?}, {waiting}");
        }
        for _ in 0..20 {
            pacer.took(ms(0), 0);
        }
        assert_eq!(pacer.rows(), 50_000);
        pacer.failed();
        assert_eq!(pacer.rows(), 25_000);
    }

    #[test]
    fn the_replica_that_is_furthest_behind_decides() {
        let batches = Batches::new("t", vec!["id".into()]);
        let pacer = Pacer::new(&batches);
        assert_eq!(pacer.replicas(&[]), Replicas::KeepUp);
        let sound = lag("a", Some(0), None);
        assert_eq!(pacer.replicas(std::slice::from_ref(&sound)), Replicas::KeepUp);
        let hidden = [sound.clone(), lag("pid 7", None, None)];
        assert_eq!(pacer.replicas(&hidden), Replicas::Hidden);
        let behind = [sound, lag("b", Some(65 << 20), None), lag("c", Some(1 << 30), Some(1))];
        assert_eq!(pacer.replicas(&behind), Replicas::Behind(&behind[2]));
        let late = [lag("d", Some(5), Some(10_001))];
        assert_eq!(pacer.replicas(&late), Replicas::Behind(&late[0]));
    }

    #[test]
    fn waits_for_a_lock_double_and_differ() {
        let ms = Duration::from_millis;
        assert_eq!((backoff(2, 0), backoff(2, 999)), (ms(100), Duration::from_micros(199_900)));
        assert_eq!((backoff(3, 0), backoff(3, 500)), (ms(200), ms(300)));
        assert_eq!(backoff(40, 0), ms(5_000));
    }
}
