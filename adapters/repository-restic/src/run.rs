//! One backup on its way: what was given, what was read to its end, and whether it may become a backup.
//!
//! The library swallows errors of its sources and goes on. So nothing that it says decides: the record that makes a
//! backup exist passes our own backend, which asks [`Run::may_commit`].

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::{Context, PartRecord};
use jiff::Timestamp;
use rustic_core::Id;
use tokio::sync::Semaphore;

use crate::error::{Fault, FaultKind};
use crate::lock::Held;

/// A run that is older must not record a backup: a prune that began after it may delete what it counted on 48 hours after
/// its beginning.
pub(crate) const AGE_MAX: Duration = Duration::from_hours(24);

/// Most bytes of parts in memory beside the newest: one of the longest, which counts as so many, or several that are read
/// side by side.
pub(crate) const BYTES_IN_FLIGHT_MAX: usize = contract::PART_BYTES_MAX / 2;

/// What a permit of the budget stands for.
pub(crate) const PERMIT_BYTES: usize = 1024;

#[derive(Default)]
struct State {
    given: usize,
    /// Finished parts by the number under which they were given.
    records: BTreeMap<usize, PartRecord>,
    /// SHA-256 of the manifest, once it was read to its end.
    manifest: Option<String>,
    fault: Option<Fault>,
    packs: Vec<Id>,
}

/// Shared by the writer, the library's threads and our backend.
pub(crate) struct Run {
    ctx: Context,
    held: Held,
    begun: Instant,
    begun_at: Timestamp,
    age_max: Duration,
    /// Permits for the bytes of parts in memory.
    pub(crate) budget: Arc<Semaphore>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Run {
    pub(crate) fn new(ctx: Context, held: Held, age_max: Duration) -> Self {
        Self {
            begun_at: ctx.now(),
            ctx,
            held,
            begun: Instant::now(),
            age_max,
            budget: Arc::new(Semaphore::new(BYTES_IN_FLIGHT_MAX / PERMIT_BYTES)),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the run: nothing more is taken, written or recorded. The first reason stays.
    pub(crate) fn fail(&self, fault: Fault) {
        self.state().fault.get_or_insert(fault);
        self.changed.notify_all();
        // Whoever waits for room learns that there will be none.
        self.budget.close();
    }

    /// Why the run has ended; a canceled call ends it too.
    pub(crate) fn fault(&self) -> Option<Fault> {
        if let Some(fault) = stopped(&self.ctx) {
            self.fail(fault);
        }
        self.state().fault.clone()
    }

    /// A part is on its way; gives its number.
    pub(crate) fn give(&self) -> usize {
        let mut state = self.state();
        state.given += 1;
        state.given - 1
    }

    /// A part was read to its end and has this length and hash.
    pub(crate) fn finish(&self, number: usize, record: PartRecord) {
        self.state().records.insert(number, record);
        self.changed.notify_all();
    }

    /// The manifest was read to its end and has this hash.
    pub(crate) fn finish_manifest(&self, sha256: String) {
        self.state().manifest = Some(sha256);
    }

    /// The parts with their lengths and hashes, in their order, and the hash of the manifest.
    pub(crate) fn given(&self) -> (Vec<PartRecord>, Option<String>) {
        let state = self.state();
        (state.records.values().cloned().collect(), state.manifest.clone())
    }

    /// A pack is durable.
    pub(crate) fn wrote_pack(&self, id: Id) {
        self.state().packs.push(id);
    }

    pub(crate) fn packs(&self) -> Vec<Id> {
        self.state().packs.clone()
    }

    /// Waits until all parts given were read to their ends; `None` once the run has failed.
    pub(crate) fn wait_for_parts(&self) -> Option<Vec<PartRecord>> {
        /// How soon a canceled call is noticed.
        const LOOK: Duration = Duration::from_millis(100);
        loop {
            self.fault().is_none().then_some(())?;
            let (state, _) = self
                .changed
                .wait_timeout_while(self.state(), LOOK, |state| {
                    state.fault.is_none() && state.records.len() < state.given
                })
                .unwrap_or_else(PoisonError::into_inner);
            if state.fault.is_none() && state.records.len() == state.given {
                return Some(state.records.values().cloned().collect());
            }
        }
    }

    /// Whether anything may be written.
    pub(crate) fn may_write(&self) -> Result<(), Fault> {
        self.fault().map_or(Ok(()), Err)?;
        self.held.check()
    }

    /// Whether an index may be written: it must not name packs that somebody pruned after he took our lock away.
    pub(crate) fn may_index(&self) -> Result<(), Fault> {
        self.may_write()?;
        self.held.check_there()
    }

    /// Whether the record may be written that makes the backup exist.
    pub(crate) fn may_commit(&self) -> Result<(), Fault> {
        self.may_write()?;
        {
            let state = self.state();
            if state.manifest.is_none() || state.records.len() != state.given {
                let (read, given) = (state.records.len(), state.given);
                return Err(Fault::new(
                    FaultKind::Unavailable,
                    format!("the backup is not complete: {read} of {given} parts were read to their end"),
                ));
            }
        }
        let by_clock = self.ctx.now().duration_since(self.begun_at).unsigned_abs();
        if self.begun.elapsed().max(by_clock) > self.age_max {
            return Err(Fault::new(
                FaultKind::TimedOut,
                "the backup took longer than 24 hours, so what it found in the repository may have been pruned",
            )
            .hint("make parts of it smaller: a backup for each database or schema"));
        }
        self.held.check_there()
    }

    /// Gives the lock back, which takes a moment.
    pub(crate) fn release(&self) {
        self.held.release();
    }
}

/// Why a call must not go on, if so.
pub(crate) fn stopped(ctx: &Context) -> Option<Fault> {
    if ctx.cancellation().is_cancelled() {
        return Some(Fault::new(FaultKind::Canceled, "canceled"));
    }
    (ctx.remaining() == Some(Duration::ZERO)).then(|| Fault::new(FaultKind::TimedOut, "the deadline passed"))
}
