//! Logs in further repositories: a copy of a physical backup leads as far as the first place did.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use contract::{
    BackupMethod, Context, Error, ErrorKind, LogPiece, LogPosition, LogStart, RecoveryTarget, Repository,
};

use crate::Surroundings;
use crate::catalog::{self, Recorded, State};
use crate::chain::{self, Chain};
use crate::places::{is_the_place, places};

/// Backups that are looked at.
const LOOKED_AT_MAX: u32 = 100_000;

/// A stretch of a store's log that a repository lacks.
pub(crate) struct Lacking {
    from: Arc<dyn Repository>,
    to: Arc<dyn Repository>,
    starts: Vec<LogStart>,
    pub(crate) pieces: Vec<LogPiece>,
}

impl Lacking {
    pub(crate) fn from(&self) -> &str {
        self.from.name()
    }
}

/// What two pieces with the same bytes have alike; their hashes differ, as each is encrypted anew.
fn stretch(piece: &LogPiece) -> (String, u32, String, LogPosition, LogPosition) {
    let span = &piece.span;
    (span.source.clone(), span.timeline, span.file.clone(), span.start, span.end)
}

/// What a repository lacks of the log behind those physical backups of a store whose copies lie there.
///
/// # Errors
///
/// `Canceled`, `TimedOut`; as the ledger's. As the repositories': whichever of them cannot be asked.
pub(crate) async fn lacking(
    ctx: &Context,
    around: &dyn Surroundings,
    store: &str,
    to: &str,
) -> Result<Option<Lacking>, Error> {
    let mut by_place: BTreeMap<String, (Arc<dyn Repository>, Vec<LogStart>)> = BTreeMap::new();
    let mut first: Option<Error> = None;
    let mut without_log = BTreeSet::new();
    for backup in catalog::list(ctx, around.ledger(), Some(store), LOOKED_AT_MAX).await? {
        let is_copied = backup.copies.iter().any(|copy| copy.repository == to && copy.problem.is_none());
        if backup.state != State::Complete || backup.method != BackupMethod::Physical || !is_copied {
            continue;
        }
        // Of most stores no log is kept, and no manifest need be read to know it.
        if without_log.contains(&backup.repository) {
            continue;
        }
        if !by_place.contains_key(&backup.repository)
            && is_without_log(ctx, around, store, &backup.repository).await?
        {
            without_log.insert(backup.repository.clone());
            continue;
        }
        match chain::chain(ctx, around, backup, None).await {
            Ok(Some(chain)) if chain.repository.name() != to => {
                let name = chain.repository.name().to_owned();
                let here = || (Arc::clone(&chain.repository), Vec::new());
                by_place.entry(name).or_insert_with(here).1.push(chain.start);
            }
            // It lies there alone by now, or no log can be applied to it.
            Ok(_) => {}
            Err(error) if is_the_place(&error) => drop(first.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    for (from, starts) in by_place.into_values() {
        let Some(source) = from.logs() else { continue };
        let listed = source.list(ctx, store).await?.pieces;
        let unneeded: BTreeSet<_> = chain::unneeded(&starts, &listed).iter().map(stretch).collect();
        let ours = |piece: &LogPiece| starts.iter().any(|start| start.source == piece.span.source);
        let mut pieces: Vec<LogPiece> =
            listed.into_iter().filter(|piece| ours(piece) && !unneeded.contains(&stretch(piece))).collect();
        if pieces.is_empty() {
            continue;
        }
        let to = around.repository(ctx, to).await?;
        let Some(target) = to.logs() else {
            return Err(Error::new(ErrorKind::Unsupported, "this kind of repository keeps no logs")
                .with("repository", to.name()));
        };
        let there: BTreeSet<_> = target.list(ctx, store).await?.pieces.iter().map(stretch).collect();
        // A stretch may be there twice, from a follower that was cut off before it knew that it was kept.
        let mut taken = BTreeSet::new();
        pieces.retain(|piece| !there.contains(&stretch(piece)) && taken.insert(stretch(piece)));
        if !pieces.is_empty() {
            return Ok(Some(Lacking { from, to, starts, pieces }));
        }
    }
    first.map_or(Ok(None), Err)
}

/// Whether a repository keeps no log of a store; one that cannot be asked may.
async fn is_without_log(
    ctx: &Context,
    around: &dyn Surroundings,
    store: &str,
    repository: &str,
) -> Result<bool, Error> {
    let asked = async {
        let repository = around.repository(ctx, repository).await?;
        match repository.logs() {
            None => Ok(true),
            Some(logs) => logs.list(ctx, store).await.map(|listing| listing.pieces.is_empty()),
        }
    };
    match asked.await {
        Err(error) if is_the_place(&error) => Ok(false),
        other => other,
    }
}

/// Copies what is lacking, each piece read back. Gives the bytes that were added.
///
/// # Errors
///
/// `Corrupt`: a piece cannot be read, or came back otherwise; what was copied before stays and is not sent again. As the repositories'.
pub(crate) async fn fill(ctx: &Context, store: &str, lacking: &Lacking) -> Result<u64, Error> {
    let (Some(source), Some(target)) = (lacking.from.logs(), lacking.to.logs()) else {
        return Ok(0);
    };
    let mut added = 0;
    for piece in &lacking.pieces {
        let body = source.read(ctx, piece).await?;
        let made = target.append(ctx, &piece.span, body.clone()).await?;
        if target.read(ctx, &made).await? != body {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "a piece of the log came back otherwise than it was copied",
            )
            .with("repository", lacking.to.name())
            .with("file", &piece.span.file));
        }
        added += made.bytes;
    }
    // What leads somewhere here must lead there too, or a restore from the copy ends early.
    let (here, there) = (source.list(ctx, store).await?.pieces, target.list(ctx, store).await?.pieces);
    for start in &lacking.starts {
        let copied: Vec<LogPiece> =
            here.iter().filter(|piece| piece.span.source == start.source).cloned().collect();
        let reached = chain::reach(start, &there, None)?;
        // The follower goes on meanwhile; only what was there when we looked is asked for.
        let wanted = lacking.pieces.iter().map(|piece| piece.span.end).max().unwrap_or_default();
        let whole = chain::reach(start, &copied, Some(reached.timeline))?;
        if reached.end < whole.end.min(wanted) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the copied log does not lead as far as the log does",
            )
            .with("repository", lacking.to.name())
            .with("reaches", reached.end)
            .with("wanted", whole.end.min(wanted)));
        }
    }
    Ok(added)
}

/// Writes the log of a chain into a new folder; where a piece cannot be read, from another place of the backup whose log leads as far.
/// Gives the chain that it was read from, and what is said of those that were passed by.
///
/// # Errors
///
/// Of the first place, where no other has it. As the folder's.
pub(crate) async fn fetch(
    ctx: &Context,
    around: &dyn Surroundings,
    chain: Chain,
    target: &RecoveryTarget,
    from: Option<&str>,
    folder: &Path,
) -> Result<(Chain, Vec<String>), Error> {
    let first = match chain::fetch(ctx, &chain, folder).await {
        Ok(_) => return Ok((chain, Vec::new())),
        Err(error) if is_the_place(&error) => error,
        Err(error) => return Err(error),
    };
    let mut passed = vec![format!("the log is not from {}: {}", chain.repository.name(), first.message())];
    let elsewhere = |place: &Recorded| {
        place.repository != chain.repository.name() && from.is_none_or(|from| from == place.repository)
    };
    for place in places(&chain.backup, None)?.iter().filter(|place| elsewhere(place)) {
        let tried = async {
            let other =
                chain::chain_at(ctx, around, &chain.backup, place, Some(chain.reach.timeline)).await?;
            let Some(other) = other.filter(|other| other.leads_to(target)) else {
                return Err(Error::new(ErrorKind::NotFound, "its log does not lead there"));
            };
            if folder.exists() {
                std::fs::remove_dir_all(folder).map_err(|cause| {
                    Error::new(ErrorKind::Other, "a folder of a log cannot be removed").because(cause)
                })?;
            }
            chain::fetch(ctx, &other, folder).await?;
            Ok(other)
        };
        match tried.await {
            Ok(other) => return Ok((other, passed)),
            Err(error) if is_the_place(&error) => {
                passed.push(format!("the log is not from {}: {}", place.repository, error.message()));
            }
            Err(error) => return Err(error),
        }
    }
    Err(first)
}
