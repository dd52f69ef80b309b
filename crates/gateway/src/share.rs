//! Limits of a minute that several daemons keep together: each counts with its own share, which it takes ahead of use.
//!
//! A share is a part of the rate and not of what is left, so nothing has to be asked for when a minute is over, and a
//! share that grows or shrinks lets nobody through twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use contract::{Error, SharedCounters, TakeShare};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::accounts::{Inner, KeyUse, clock_nanos, lock};
use crate::limit::{Exhausted, Left, Rate};
use crate::usage::context;

/// Time between two looks at the shares.
const LOOK: Duration = Duration::from_secs(1);
/// A daemon that says nothing for this long is gone, and its shares are free.
const KEEP_FOR: Duration = Duration::from_secs(10);
/// A key that was not used for this long gives its share back.
const IDLE: Duration = Duration::from_mins(10);
/// This part of a limit may be used by a daemon that has no share yet.
const FIRST_PART: u64 = 10;
/// Shares that are taken in one call.
const SHARES_MAX: usize = 100;
/// What a key wants is its use in the time before, in which the last moments count most.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Limits above this are as good as none; counters hold no larger numbers exactly.
const LIMIT_MAX: u64 = (1 << 53) - 1;

/// Whether shares are there to be had.
#[derive(Default)]
pub(crate) struct Shares {
    /// The counters did not answer when they were asked last.
    silent: AtomicBool,
    /// Somebody waits for a first share.
    wanted: AtomicBool,
    /// Asks for a look now.
    pub wake: Notify,
    /// The counters answered, or failed to.
    pub answered: Notify,
}

impl Shares {
    /// Whether someone who was refused for want of a first share should wait for it.
    pub(crate) fn are_on_their_way(&self) -> bool {
        !self.silent.load(Ordering::Acquire)
    }

    /// Whether somebody waits for a first share; asks for it.
    pub(crate) fn hurry(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Acquire);
        if wanted {
            self.wake.notify_one();
        }
        wanted
    }

    /// Nobody was heard in time: the next ones do not wait.
    pub(crate) fn gave_up(&self) {
        self.silent.store(true, Ordering::Release);
    }
}

/// A limit of a key.
pub(crate) struct Quota {
    rate: Rate,
    /// What all daemons may have together; 0 until it is first used.
    limit: AtomicU64,
    /// Asked for since the last look, also in vain.
    asked: AtomicU64,
    /// Whether the counters have given a share.
    shared: AtomicBool,
    demand: Mutex<Demand>,
}

/// What the keeper of the shares knows of a limit.
struct Demand {
    /// In a minute.
    wants: f64,
    used_at: Instant,
    /// The limit was used since the share was given back.
    holds: bool,
}

/// A share that is not enough.
pub(crate) struct Short {
    pub exhausted: Exhausted,
    /// The whole limit, where only a part is this daemon's.
    pub of: Option<u64>,
    /// The first share is on its way.
    pub on_its_way: bool,
}

impl Quota {
    pub(crate) fn new() -> Self {
        Self {
            rate: Rate::new(1),
            limit: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            shared: AtomicBool::new(false),
            demand: Mutex::new(Demand { wants: 0.0, used_at: Instant::now(), holds: false }),
        }
    }

    /// Takes `count` of a limit at `now`, in nanoseconds of the meter's clock, and says how many were taken.
    ///
    /// One that asks for more than a whole minute's worth here, and needs `least`, which is less, should not starve: it
    /// takes a minute's worth.
    pub(crate) fn take(
        &self,
        limit: u64,
        count: u64,
        least: u64,
        now: u64,
        shares: Option<&Shares>,
    ) -> Result<u64, Short> {
        let fitted = |most: u64| if least <= most { count.min(most) } else { count };
        let Some(shares) = shares else {
            self.rate.set(limit);
            let count = fitted(limit);
            let taken = self.rate.take(count, now).map(|_| count);
            return taken.map_err(|exhausted| Short { exhausted, of: None, on_its_way: false });
        };
        let before = self.limit.load(Ordering::Relaxed);
        if before == 0 {
            self.rate.set(limit.div_ceil(FIRST_PART));
        }
        if before != limit {
            self.limit.store(limit, Ordering::Relaxed);
            shares.wake.notify_one();
        }
        let count = fitted(limit);
        self.asked.fetch_add(count, Ordering::Relaxed);
        let count = fitted(self.rate.limit()).min(count);
        self.rate.take(count, now).map(|_| count).map_err(|mut exhausted| {
            let on_its_way =
                !self.shared.load(Ordering::Acquire) && shares.are_on_their_way() && count <= limit;
            if on_its_way {
                shares.wanted.store(true, Ordering::Release);
            }
            // More than the share and less than the limit: it may be had once the others want less.
            if exhausted.retry_after.is_none() && count <= limit {
                exhausted.retry_after = Some(LOOK);
            }
            Short { of: Some(limit).filter(|limit| *limit != exhausted.limit), exhausted, on_its_way }
        })
    }

    /// Corrects what was taken.
    pub(crate) fn correct(&self, taken: u64, used: u64, now: u64) {
        self.rate.correct(taken, used, now);
    }

    /// What is left of this daemon's share.
    pub(crate) fn look(&self, now: u64) -> Left {
        self.rate.look(now)
    }

    /// What to ask of the counters; `None`: it is not in use. The second number is what is wanted, 0 to give it back.
    fn ask(&self, at: Instant, since: Duration, now: u64) -> Option<(u64, u64)> {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return None;
        }
        let asked = self.asked.swap(0, Ordering::Relaxed);
        let mut demand = lock(&self.demand);
        #[allow(clippy::cast_precision_loss, reason = "a measure of use, not an amount")]
        let (asked_for, since) = (asked as f64, since.as_secs_f64().max(0.01));
        let weight = (since / REMEMBERED.as_secs_f64()).min(1.0);
        demand.wants += (asked_for * 60.0 / since - demand.wants) * weight;
        if asked > 0 {
            demand.used_at = at;
            demand.holds = true;
        }
        if !demand.holds {
            return None;
        }
        if at.duration_since(demand.used_at) > IDLE && self.rate.look(now).full_in.is_zero() {
            demand.holds = false;
            self.shared.store(false, Ordering::Release);
            self.limit.store(0, Ordering::Relaxed); // The next use begins anew.
            return Some((limit, 0));
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at least 1 and at most the limit"
        )]
        let wants = (demand.wants.ceil() as u64).clamp(1, limit);
        Some((limit, wants))
    }

    /// Counts with this share from now on.
    fn give(&self, limit: u64, share: u64, others: u32, now: u64) {
        let first = !self.shared.load(Ordering::Acquire);
        if first && share == 0 {
            return; // The others hold all of it and have yet to let go.
        }
        // Who is alone begins with a whole minute; others with what they have not used of their first part.
        let more = if first && others == 0 { share.saturating_sub(limit.div_ceil(FIRST_PART)) } else { 0 };
        self.rate.share(share, more, now);
        self.shared.store(true, Ordering::Release);
    }
}

/// Takes shares until the accounts are closed, then gives them back.
pub(crate) async fn run(inner: Arc<Inner>, counters: Arc<dyn SharedCounters>) {
    let shares = &inner.shares;
    let mut last = Instant::now();
    loop {
        let stopped = tokio::select! {
            () = inner.stop.cancelled() => true,
            () = shares.wake.notified() => false,
            () = tokio::time::sleep(LOOK) => false,
        };
        let now = Instant::now();
        let result = look(&inner, &*counters, now, now - last, stopped).await;
        last = now;
        shares.wanted.store(false, Ordering::Release);
        let was_silent = shares.silent.swap(result.is_err(), Ordering::AcqRel);
        match result {
            Err(error) if !was_silent => {
                tracing::warn!(%error, "shares of limits cannot be taken now; what is held goes on");
            }
            Ok(()) if was_silent => tracing::info!("shares of limits can be taken again"),
            _ => {}
        }
        shares.answered.notify_waiters();
        if stopped {
            return;
        }
    }
}

/// A share that is asked for.
struct Wanted {
    used: Arc<KeyUse>,
    of: fn(&KeyUse) -> &Quota,
    limit: u64,
    wants: u64,
}

async fn look(
    inner: &Inner,
    counters: &dyn SharedCounters,
    at: Instant,
    since: Duration,
    stopped: bool,
) -> Result<(), Error> {
    let now = clock_nanos(inner.clock.now());
    for purse in inner.all_purses() {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for used in purse.used_keys() {
            for (what, of) in
                [("requests", KeyUse::requests as fn(&KeyUse) -> &Quota), ("tokens", KeyUse::tokens)]
            {
                let Some((limit, wants)) = of(&used).ask(at, since, now) else { continue };
                let wants = if stopped { 0 } else { wants };
                let name = format!("{}/rate/{}/{what}", purse.project, used.name);
                // A name that was given again after its key was revoked belongs to the one in use.
                if wanted.get(&name).is_none_or(|other| other.wants < wants) {
                    wanted.insert(name, Wanted { used: Arc::clone(&used), of, limit, wants });
                }
            }
        }
        let ctx = context(&purse.project, &inner.clock);
        let wanted: Vec<(String, Wanted)> = wanted.into_iter().collect();
        for wanted in wanted.chunks(SHARES_MAX) {
            let amount = |count: u64| i64::try_from(count.min(LIMIT_MAX)).unwrap_or(i64::MAX);
            let asks: Vec<TakeShare<'_>> = wanted
                .iter()
                .map(|(counter, wanted)| TakeShare {
                    counter,
                    limit: amount(wanted.limit),
                    wants: amount(wanted.wants),
                    keep_for: KEEP_FOR,
                })
                .collect();
            let given = counters.share(&ctx, &inner.holder, &asks).await?;
            for ((_, wanted), share) in wanted.iter().zip(given) {
                if wanted.wants > 0 {
                    let amount = u64::try_from(share.amount).unwrap_or(0);
                    (wanted.of)(&wanted.used).give(wanted.limit, amount, share.others, now);
                }
            }
        }
    }
    Ok(())
}
