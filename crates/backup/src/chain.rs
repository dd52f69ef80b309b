//! Physical backups with the log behind them: how far it leads, from which of them a moment can be restored, what is missing, and what
//! nothing needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use contract::{
    BackupMethod, Context, Error, ErrorKind, LogGap, LogListing, LogPiece, LogPosition, LogStart,
    RecoveryTarget, Repository,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::Surroundings;
use crate::catalog::{self, Recorded, State};
use crate::logs::{LOOKED_AT_MAX, MARKER, followed, logs_of};
use crate::manifest::Manifest;
use crate::places::{is_the_place, places};
use crate::run::read_manifest;

/// Most timelines on one path.
const TIMELINES_MAX: usize = 1_000;

/// How far a log leads from a backup.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Reach {
    pub(crate) timeline: u32,
    /// The last position that can be restored.
    pub(crate) end: LogPosition,
    /// What was acknowledged before this moment of the server's clock can be restored.
    pub(crate) until: Option<Timestamp>,
    /// What follows is missing, though something behind it is there.
    pub(crate) gap: Option<LogGap>,
    /// The pieces that lead there, with the histories of their timelines.
    #[serde(skip)]
    pub(crate) pieces: Vec<LogPiece>,
}

impl Reach {
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// Bytes of the files in the clear.
    pub(crate) fn clear_bytes(&self) -> u64 {
        let files: BTreeMap<&str, u64> =
            self.pieces.iter().map(|piece| (piece.span.file.as_str(), piece.span.file_bytes)).collect();
        files.values().sum()
    }
}

/// Which timelines lead from the backup to `wanted`, or to the newest that it leads to: each with where it is left.
fn path(
    start: &LogStart,
    pieces: &[LogPiece],
    wanted: Option<u32>,
) -> Result<Vec<(u32, LogPosition)>, Error> {
    let of_source = pieces.iter().filter(|piece| piece.span.source == start.source);
    let branches: BTreeMap<u32, (u32, LogPosition)> = of_source
        .filter_map(|piece| Some((piece.span.timeline, (piece.span.parent?, piece.span.start))))
        .collect();
    let chain = |last: u32| {
        let mut chain = vec![(last, LogPosition(u64::MAX))];
        let mut at = last;
        while at != start.timeline {
            let (parent, left_at) = *branches.get(&at)?;
            chain.push((parent, left_at));
            at = parent;
            if chain.len() > TIMELINES_MAX {
                return None;
            }
        }
        chain.reverse();
        // A timeline that was left before the backup's state does not hold it.
        (chain[0].1 >= start.position).then_some(chain)
    };
    let known: BTreeSet<u32> = branches.keys().copied().chain([start.timeline]).collect();
    match wanted {
        Some(wanted) => chain(wanted).ok_or_else(|| {
            let known: Vec<String> =
                known.iter().filter(|it| chain(**it).is_some()).map(ToString::to_string).collect();
            Error::new(ErrorKind::NotFound, format!("the backup does not lead to the timeline {wanted}"))
                .hint(format!("it leads to: {}", known.join(", ")))
        }),
        None => Ok(known.iter().rev().find_map(|last| chain(*last)).unwrap_or_default()),
    }
}

/// How far the log leads from a backup, without a gap.
pub(crate) fn reach(start: &LogStart, pieces: &[LogPiece], wanted: Option<u32>) -> Result<Reach, Error> {
    let path = path(start, pieces, wanted)?;
    let timeline = path.last().map_or(start.timeline, |(timeline, _)| *timeline);
    let left_at = |timeline: u32| path.iter().find(|(it, _)| *it == timeline).map(|(_, at)| *at);
    let on_path = || {
        pieces.iter().filter(|piece| piece.span.source == start.source).filter_map(|piece| {
            // What a timeline wrote after it was left belongs to another history.
            let limit = left_at(piece.span.timeline)?;
            Some((piece, piece.span.start, piece.span.end.min(limit)))
        })
    };
    let mut cursor = start.needs_from;
    loop {
        let further =
            on_path().filter(|(_, from, to)| *from <= cursor && *to > cursor).map(|(_, _, to)| to).max();
        let Some(further) = further else { break };
        cursor = further;
    }
    let end = cursor.max(start.position);
    let beyond = on_path().filter(|(_, from, to)| *from > cursor && to > from).map(|(_, from, _)| from).min();
    // The backup's last file may reach behind its state; nothing of the log is needed before.
    let has_any = cursor > start.needs_from;
    let gap = beyond.map(|before| LogGap {
        after: Some(if has_any { end } else { start.position }),
        before: Some(before),
        why: "a part of the log is missing".to_owned(),
    });
    let end = if has_any { end } else { start.position };
    let used = on_path()
        .filter(|(piece, from, to)| {
            let is_history = piece.span.parent.is_some();
            is_history || to > from && *to > start.needs_from && *from < cursor
        })
        .map(|(piece, _, _)| piece.clone());
    let until = on_path()
        .filter(|(piece, _, to)| *to <= end && piece.span.end == *to && piece.span.parent.is_none())
        .filter_map(|(piece, _, _)| piece.span.until)
        .max();
    Ok(Reach { timeline, end, until, gap, pieces: used.collect() })
}

/// A physical backup with the log behind it.
pub(crate) struct Chain {
    pub(crate) backup: Recorded,
    pub(crate) manifest: Manifest,
    pub(crate) repository: Arc<dyn Repository>,
    pub(crate) start: LogStart,
    pub(crate) reach: Reach,
    /// The moment of its state by the server's clock.
    pub(crate) from: Timestamp,
    /// All markers of its server, by name.
    pub(crate) markers: BTreeMap<String, (u32, LogPosition)>,
}

impl Chain {
    /// Whether this moment can be restored from it.
    pub(crate) fn leads_to(&self, target: &RecoveryTarget) -> bool {
        self.fits(target).is_ok()
    }
}

/// Why a moment cannot be restored from a backup.
enum Missed {
    Before,
    Beyond,
}

impl Chain {
    fn fits(&self, target: &RecoveryTarget) -> Result<(), Missed> {
        let between = |is_before: bool, is_beyond: bool| match (is_before, is_beyond) {
            (true, _) => Err(Missed::Before),
            (_, true) => Err(Missed::Beyond),
            _ => Ok(()),
        };
        let position = |at: LogPosition| between(at < self.start.position, at > self.reach.end);
        match target {
            RecoveryTarget::End | RecoveryTarget::Transaction(_) => Ok(()),
            RecoveryTarget::Position(at) => position(*at),
            RecoveryTarget::Time(at) => {
                between(*at < self.from, self.reach.until.is_none_or(|until| *at > until))
            }
            RecoveryTarget::Marker(name) => self.markers.get(name).map_or(Ok(()), |(_, at)| position(*at)),
        }
    }

    pub(crate) fn knows_marker(&self, name: &str) -> bool {
        self.markers.contains_key(name)
    }

    /// From when to when, in words.
    pub(crate) fn said(&self) -> String {
        let until = match (self.reach.until, self.reach.end > self.start.position) {
            (Some(until), true) => format!("to {} ({})", moment(until), self.reach.end),
            _ => "alone: no log is kept behind it".to_owned(),
        };
        let gap =
            self.reach.gap.as_ref().map_or_else(String::new, |gap| {
                format!(", then a gap up to {}", gap.before.unwrap_or_default())
            });
        format!("from {} ({}) {until}{gap}", moment(self.from), self.start.position)
    }
}

pub(crate) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.fZ").to_string()
}

/// The physical backups of a store that are sound, the newest first, each with the log behind it; at most `most`.
pub(crate) async fn chains(
    ctx: &Context,
    around: &dyn Surroundings,
    store: &str,
    timeline: Option<u32>,
    most: usize,
) -> Result<Vec<Chain>, Error> {
    let known = catalog::list(ctx, around.ledger(), Some(store), LOOKED_AT_MAX).await?;
    let mut chains = Vec::new();
    for backup in known {
        if chains.len() == most {
            break;
        }
        if backup.state == State::Complete
            && backup.method == BackupMethod::Physical
            && backup.problem.is_none()
            && let Some(chain) = chain(ctx, around, backup, timeline).await?
        {
            chains.push(chain);
        }
    }
    Ok(chains)
}

/// The newest physical backup that was restored and compared, with the log behind it.
pub(crate) async fn newest_proven_chain(
    ctx: &Context,
    around: &dyn Surroundings,
    store: &str,
) -> Result<Option<Chain>, Error> {
    let known = catalog::list(ctx, around.ledger(), Some(store), LOOKED_AT_MAX).await?;
    let newest = known.into_iter().find(|backup| {
        backup.state == State::Complete
            && backup.method == BackupMethod::Physical
            && backup.level.is_proven()
            && backup.problem.is_none()
            && !backup.is_ahead(ctx.now())
    });
    match newest {
        Some(backup) => chain(ctx, around, backup, None).await,
        None => Ok(None),
    }
}

/// The log behind a backup, where it was made or, if that is gone or damaged, where a copy lies; none for one that no log can be applied to.
///
/// # Errors
///
/// Of the first place, where there is none to read it from.
pub(crate) async fn chain(
    ctx: &Context,
    around: &dyn Surroundings,
    backup: Recorded,
    timeline: Option<u32>,
) -> Result<Option<Chain>, Error> {
    let mut first: Option<Error> = None;
    for place in places(&backup, None)? {
        match chain_at(ctx, around, &backup, &place, timeline).await {
            Err(error) if is_the_place(&error) => drop(first.get_or_insert(error)),
            other => return other,
        }
    }
    Err(first.unwrap_or_else(|| Error::new(ErrorKind::NotFound, "the backup lies nowhere")))
}

/// The log behind a backup as it lies in one of its places.
///
/// # Errors
///
/// As the repository's and the store's.
pub(crate) async fn chain_at(
    ctx: &Context,
    around: &dyn Surroundings,
    backup: &Recorded,
    place: &Recorded,
    timeline: Option<u32>,
) -> Result<Option<Chain>, Error> {
    let repository = around.repository(ctx, &place.repository).await?;
    let manifest = read_manifest(ctx, &repository, place).await?;
    let opened = around.stores().open(ctx, &backup.store).await?;
    let Some(start) = opened.load().and_then(|load| load.log_start(&manifest.dumped)) else {
        return Ok(None);
    };
    let listing = match repository.logs() {
        Some(logs) => logs.list(ctx, &backup.store).await?,
        None => LogListing::default(),
    };
    let mut reach = reach(&start, &listing.pieces, timeline)?;
    // Where the server has written nothing more, the last look says until when that holds.
    if let Some(state) = followed(ctx, around, &backup.store).await?
        && state.source == start.source
        && state.timeline == reach.timeline
        && state.kept <= reach.end
        && reach.gap.is_none()
    {
        reach.until = reach.until.max(state.until);
    }
    let point = &manifest.dumped.point;
    let from = point.server_at.unwrap_or(point.at);
    let markers = listing
        .pieces
        .iter()
        .filter(|piece| piece.span.source == start.source)
        .filter_map(|piece| {
            let name = piece.span.file.strip_prefix(MARKER)?.to_owned();
            Some((name, (piece.span.timeline, piece.span.start)))
        })
        .collect();
    Ok(Some(Chain { backup: backup.clone(), manifest, repository, start, reach, from, markers }))
}

/// The newest backup from which this moment can be restored.
///
/// # Errors
///
/// `NotFound`: there is none; the hint says what can be restored.
pub(crate) async fn chain_for(
    ctx: &Context,
    around: &dyn Surroundings,
    name: &str,
    target: &RecoveryTarget,
    timeline: Option<u32>,
    from: Option<&str>,
) -> Result<Chain, Error> {
    let is_store = around.stores().list(ctx).iter().any(|(store, _)| store == name);
    let found = if is_store {
        chains(ctx, around, name, timeline, usize::MAX).await?
    } else {
        let backup = crate::verify::backup_named(ctx, around, name).await?;
        chain(ctx, around, backup, timeline).await?.into_iter().collect()
    };
    if found.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("`{name}` has no physical backup to begin from"),
        )
        .hint(format!("make one: a plan with `method: physical`, then steward backup run {name}")));
    }
    let missed: Vec<Missed> = found.iter().filter_map(|chain| chain.fits(target).err()).collect();
    let said: Vec<String> = found.iter().map(Chain::said).collect();
    let asked = |chain: &Chain| from.is_none_or(|from| chain.repository.name() == from);
    if let Some(at) = found.iter().position(|chain| asked(chain) && chain.fits(target).is_ok()) {
        return Ok(found.into_iter().nth(at).expect("it was found at this position"));
    }
    // Where a copy lies the log may reach further, or it is what is asked for.
    for chain in &found {
        let mut nowhere = true;
        for place in places(&chain.backup, None)? {
            if from.is_some_and(|from| place.repository != from) {
                continue;
            }
            nowhere = false;
            if place.repository == chain.repository.name() {
                continue;
            }
            match chain_at(ctx, around, &chain.backup, &place, timeline).await {
                Ok(Some(other)) if other.fits(target).is_ok() => return Ok(other),
                Err(error) if from.is_some() || !is_the_place(&error) => return Err(error),
                _ => {}
            }
        }
        if nowhere && !is_store {
            // Says where it is.
            places(&chain.backup, from)?;
        }
    }
    let why = if missed.iter().all(|missed| matches!(missed, Missed::Before)) {
        "it is before the first backup"
    } else if found.iter().any(|chain| chain.reach.gap.is_some()) {
        "a part of the log that leads there is missing"
    } else {
        "it is behind the end of what is kept"
    };
    Err(Error::new(ErrorKind::NotFound, format!("`{target}` cannot be restored: {why}"))
        .with("backup", name)
        .hint(format!("what can be restored: {}", said.join("; "))))
}

/// Writes the log of a chain into a new folder that only we can open, under the server's own names.
pub(crate) async fn fetch(ctx: &Context, chain: &Chain, folder: &Path) -> Result<u64, Error> {
    let logs = logs_of(&chain.repository)?;
    let failed = |cause: std::io::Error| {
        let kind = match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
            std::io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, "the log cannot be written into a folder")
            .with("folder", folder.display())
            .because(cause)
    };
    std::fs::DirBuilder::new().mode(0o700).create(folder).map_err(failed)?;
    let mut files = BTreeSet::new();
    for piece in &chain.reach.pieces {
        let body = logs.read(ctx, piece).await?;
        let span = &piece.span;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(&span.file))
            .map_err(failed)?;
        if files.insert(span.file.clone()) {
            file.set_len(span.file_bytes).map_err(failed)?;
        }
        let offset = if span.file_bytes == 0 { 0 } else { span.start.0 % span.file_bytes };
        file.write_all_at(&body, offset).map_err(failed)?;
    }
    Ok(files.len() as u64)
}

/// Pieces that no backup that stays needs: all before the oldest of them, server by server. Of a server without a backup
/// everything stays, as its first one may be on its way.
pub(crate) fn unneeded(starts: &[LogStart], pieces: &[LogPiece]) -> Vec<LogPiece> {
    let needed_from = |source: &str| {
        starts.iter().filter(|start| start.source == source).map(|start| start.needs_from).min()
    };
    pieces
        .iter()
        .filter(|piece| {
            let is_history = piece.span.parent.is_some();
            !is_history && needed_from(&piece.span.source).is_some_and(|from| piece.span.end <= from)
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use contract::LogSpan;

    use super::*;

    const FILE: u64 = 16 << 20;

    fn piece(timeline: u32, start: u64, end: u64, second: i64) -> LogPiece {
        LogPiece {
            span: LogSpan {
                store: "orders".into(),
                source: "7".into(),
                timeline,
                file: format!("{timeline:08X}{:016X}", start / FILE),
                file_bytes: FILE,
                start: LogPosition(start),
                end: LogPosition(end),
                until: (second > 0).then(|| Timestamp::from_second(second).unwrap()),
                parent: None,
            },
            bytes: 100,
            sha256: String::new(),
        }
    }

    fn branch(timeline: u32, parent: u32, at: u64) -> LogPiece {
        let mut piece = piece(timeline, at, at, 0);
        piece.span.parent = Some(parent);
        piece.span.file = format!("{timeline:08X}.history");
        piece
    }

    fn start() -> LogStart {
        LogStart {
            source: "7".into(),
            timeline: 1,
            position: LogPosition(2 * FILE + 100),
            needs_from: LogPosition(3 * FILE),
        }
    }

    #[test]
    fn a_log_reaches_as_far_as_it_has_no_gap() {
        let whole = [
            piece(1, 2 * FILE, 3 * FILE, 1),
            piece(1, 3 * FILE, 3 * FILE + 50, 2),
            piece(1, 3 * FILE + 50, 4 * FILE, 3),
            piece(1, 4 * FILE, 4 * FILE + 9, 4),
        ];
        let all = reach(&start(), &whole, None).unwrap();
        assert_eq!((all.end, all.gap.clone(), all.pieces.len()), (LogPosition(4 * FILE + 9), None, 3));
        assert_eq!(all.until, Some(Timestamp::from_second(4).unwrap()));
        assert_eq!(all.clear_bytes(), 2 * FILE);
        let mut with_gap = whole.to_vec();
        with_gap.remove(2);
        let cut = reach(&start(), &with_gap, None).unwrap();
        assert_eq!(cut.end, LogPosition(3 * FILE + 50));
        assert_eq!(cut.until, Some(Timestamp::from_second(2).unwrap()));
        assert_eq!(cut.gap.unwrap().before, Some(LogPosition(4 * FILE)));
        // The gap is right behind the backup.
        let first = reach(&start(), &whole[2..], None).unwrap();
        assert_eq!((first.end, first.pieces.len()), (start().position, 0));
        assert_eq!(first.gap.unwrap().after, Some(start().position));
        let nothing = reach(&start(), &[], None).unwrap();
        assert_eq!((nothing.end, nothing.gap, nothing.until), (start().position, None, None));
        let other = LogStart { source: "8".into(), ..start() };
        assert_eq!(reach(&other, &whole, None).unwrap().end, start().position);
    }

    #[test]
    fn a_timeline_is_followed_from_where_it_left_the_other() {
        let at = 4 * FILE + 500;
        let log = [
            piece(1, 3 * FILE, 4 * FILE, 1),
            // The old primary wrote on after the other was promoted.
            piece(1, 4 * FILE, 5 * FILE, 9),
            branch(2, 1, at),
            piece(2, 4 * FILE, 4 * FILE + 700, 3),
        ];
        let newest = reach(&start(), &log, None).unwrap();
        assert_eq!((newest.timeline, newest.end, newest.gap.clone()), (2, LogPosition(4 * FILE + 700), None));
        assert_eq!(newest.until, Some(Timestamp::from_second(3).unwrap()));
        let old = reach(&start(), &log, Some(1)).unwrap();
        assert_eq!((old.timeline, old.end), (1, LogPosition(5 * FILE)));
        assert_eq!(reach(&start(), &log, Some(3)).unwrap_err().kind(), ErrorKind::NotFound);
        // A backup of what the old timeline wrote later does not lead to the new one.
        let late = LogStart { position: LogPosition(at + 1), needs_from: LogPosition(5 * FILE), ..start() };
        assert_eq!(reach(&late, &log, None).unwrap().timeline, 1);
        assert!(reach(&late, &log, Some(2)).is_err());
    }

    #[test]
    fn only_what_is_before_the_oldest_backup_that_stays_is_pruned() {
        let log = [piece(1, 2 * FILE, 3 * FILE, 1), piece(1, 3 * FILE, 4 * FILE, 2), branch(2, 1, FILE)];
        assert_eq!(unneeded(&[start()], &log), log[..1]);
        let later = LogStart { needs_from: LogPosition(9 * FILE), ..start() };
        assert_eq!(unneeded(&[later.clone(), start()], &log), log[..1]);
        assert_eq!(unneeded(&[later], &log), log[..2]);
        assert_eq!(unneeded(&[], &log), []);
    }
}
