//! Taking backups off the lists, so that whatever dies in between leaves none that is said to be there and is not.

use std::collections::BTreeSet;
use std::sync::Arc;

use contract::{Context, Error, Kept, Repository};

use crate::Surroundings;
use crate::catalog::{self, Recorded, State};
use crate::run::kept;

/// Takes backups off the catalog's list, then off the repository's. After an error those that are still there are on both.
///
/// # Errors
///
/// As the repository's and the ledger's.
pub(crate) async fn take_off(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
    backups: &[&Recorded],
) -> Result<(), Error> {
    let ids: Vec<&str> = backups.iter().map(|backup| backup.id.as_str()).collect();
    catalog::forget(ctx, around.ledger(), &ids).await?;
    let entries: Vec<Kept> = backups.iter().map(|backup| kept(backup)).collect();
    let Err(error) = repository.forget(ctx, &entries).await else { return Ok(()) };
    // Also of a canceled run it is recorded what it came to.
    let recording = Context::new(ctx.project(), ctx.actor().clone()).with_clock(ctx.clock());
    match repository.list(&recording).await {
        Ok(listing) => {
            let there: BTreeSet<&str> = listing.kept.iter().map(|kept| kept.snapshot.as_str()).collect();
            let stay = backups.iter().filter(|backup| there.contains(backup.snapshot.as_str()));
            let stay: Vec<&str> = stay.map(|backup| backup.id.as_str()).collect();
            catalog::remember(&recording, around.ledger(), &stay).await?;
        }
        Err(cause) => {
            tracing::warn!(error = %cause, "which backups were forgotten is not known until the next pruning");
        }
    }
    Err(error)
}

/// Ends what an interrupted pruning has begun: takes off the repositories' lists what is forgotten in the catalog. A repository
/// that does not let it is asked again next time.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn finish(ctx: &Context, around: &dyn Surroundings) -> Result<(), Error> {
    let all = catalog::list(ctx, around.ledger(), None, u32::MAX).await?;
    for name in around.repositories() {
        let forgotten: BTreeSet<&str> = all
            .iter()
            .filter(|backup| backup.state == State::Forgotten && backup.repository == name)
            .map(|backup| backup.snapshot.as_str())
            .collect();
        if forgotten.is_empty() {
            continue;
        }
        let finished = async {
            let repository = around.repository(ctx, &name).await?;
            let listed = repository.list(ctx).await?.kept;
            let left: Vec<Kept> =
                listed.into_iter().filter(|kept| forgotten.contains(kept.snapshot.as_str())).collect();
            if left.is_empty() { Ok(()) } else { repository.forget(ctx, &left).await }
        };
        if let Err(error) = finished.await {
            tracing::warn!(repository = name, %error, "forgotten backups stay on the repository's list");
        }
    }
    Ok(())
}
