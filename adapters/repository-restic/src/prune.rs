//! Forgetting backups, and taking away the bytes that none needs any more.

use std::sync::Arc;

use contract::{Context, Kept, Pruned};
use jiff::{SignedDuration, Span};
use rustic_core::{PruneOptions, PrunePlan};

use crate::backend::{Access, Backend};
use crate::error::{Fault, FaultKind, OrFault};
use crate::lock::{Held, Sharing};
use crate::place::Place;
use crate::seal::Key;
use crate::snapshot;

/// How long a pack lies marked before it is deleted, in hours. A backup that began before the mark has ended by then.
pub(crate) const KEEP_MARKED_HOURS: i64 = 48;

/// How far a record may lie in the future before the clock is not believed.
const CLOCK_AHEAD_MAX: SignedDuration = SignedDuration::from_hours(1);

fn options(keep_marked_hours: i64) -> PruneOptions {
    // Hours, not days: days follow the changes of a time zone.
    PruneOptions::default().keep_delete(Span::new().hours(keep_marked_hours))
}

fn pruned(plan: &PrunePlan) -> Pruned {
    let (size, marked) = (plan.stats.size_sum(), plan.stats.size_to_delete);
    Pruned {
        bytes_marked: size.remove + size.repackrm + plan.stats.size_unref,
        bytes_deleted: marked.remove,
        bytes_rewritten: size.repack.saturating_sub(size.repackrm),
        bytes_kept: size.total_after_prune(),
    }
}

/// What pruning would do now.
pub(crate) fn plan(ctx: &Context, place: &Place, key: &Key, keep_marked_hours: i64) -> Result<Pruned, Fault> {
    place.look(key)?;
    let backend = Backend::new(ctx, &place.objects, Access::Read);
    let made = backend.open(key).and_then(|repository| {
        repository.prune_plan(&options(keep_marked_hours)).or_fault("plan the pruning")
    });
    made.map(|plan| pruned(&plan)).map_err(|fault| backend.explain(fault))
}

/// Marks and deletes.
pub(crate) fn prune(
    ctx: &Context,
    place: &Place,
    key: &Arc<Key>,
    keep_marked_hours: i64,
) -> Result<Pruned, Fault> {
    place.look(key)?;
    let held = Arc::new(place.lock(key, &ctx.clock(), Sharing::Exclusive)?);
    check_clock(ctx, place, key)?;
    let backend = Backend::new(ctx, &place.objects, Access::Prune(Arc::clone(&held)));
    let work = || {
        // Planned under the lock that holds until the end.
        let repository = backend.open(key)?;
        let options = options(keep_marked_hours);
        let plan = repository.prune_plan(&options).or_fault("plan the pruning")?;
        let told = pruned(&plan);
        repository.prune(&options, plan).or_fault("prune")?;
        Ok(told)
    };
    let done = work().map_err(|fault| backend.explain(fault)).and_then(|told| {
        // Where the storage keeps what is removed until its protection ends, it goes now.
        let swept = place.objects.sweep()?;
        Ok(Pruned { bytes_deleted: told.bytes_deleted + swept, ..told })
    });
    held.release();
    done
}

/// Refuses where the clock runs behind what the repository has seen: what was marked would be deleted too early later.
fn check_clock(ctx: &Context, place: &Place, key: &Key) -> Result<(), Fault> {
    let records = snapshot::read_all(&*place.objects, key)?;
    let Some(newest) = records.readable.iter().map(|record| record.time.timestamp()).max() else {
        return Ok(());
    };
    if newest.duration_since(ctx.now()) > CLOCK_AHEAD_MAX {
        return Err(Fault::new(
            FaultKind::Locked,
            format!("the clock says {} and a backup is from {newest}: one of both is wrong", ctx.now()),
        )
        .hint("set the clock right; nothing is deleted by a wrong one"));
    }
    Ok(())
}

/// Takes records of backups away.
pub(crate) fn forget(ctx: &Context, place: &Place, key: &Arc<Key>, kept: &[Kept]) -> Result<(), Fault> {
    place.look(key)?;
    let held: Held = place.lock(key, &ctx.clock(), Sharing::Exclusive)?;
    for one in kept {
        let path = snapshot::path_of(&one.snapshot).ok_or_else(|| {
            Fault::new(FaultKind::Invalid, format!("`{}` is no id of a backup", one.snapshot))
        })?;
        held.check()?;
        place.objects.remove(&path)?;
    }
    Ok(())
}
