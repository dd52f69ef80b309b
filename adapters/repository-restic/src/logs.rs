//! Logs behind the backups: files that are written once, beside restic's own and in the form of restic's own.
//!
//! A file here is what restic calls an unpacked file: encrypted with the master key, packed by zstd behind a byte 2, and its
//! name ends in its SHA-256. So restic itself opens one that is copied to where its indexes lie (`restic cat index`), and
//! nobody needs Steward to read a log.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Context, Error, ErrorKind, LogListing, LogPiece, LogPosition, LogSpan, Logs, Pruned, Repository,
};
use jiff::{SignedDuration, Timestamp};

use crate::check::Share;
use crate::error::{Fault, FaultKind};
use crate::objects::{Found, Objects};
use crate::place::blocking;
use crate::repository::ResticRepository;
use crate::seal::{Key, name_of};

/// Where logs lie in the repository for pages.
pub(crate) const FOLDER: &str = "log";
/// Where it says what may be deleted, and since when.
const MARKS: &str = "log-marks";
/// zstd's level.
const COMPRESSION: i32 = 3;
/// What stands before packed bytes.
const PACKED: u8 = 2;

fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn folder_of(store: &str) -> String {
    format!("{FOLDER}/{store}")
}

/// The path of a piece; it carries all that is known of it.
fn path_of(span: &LogSpan, sha256: &str) -> String {
    let until = span.until.map_or_else(|| "-".to_owned(), |until| until.as_microsecond().to_string());
    let parent = span.parent.map_or_else(|| "-".to_owned(), |parent| format!("{parent:08X}"));
    format!(
        "{}/{}/{:08X}/{}.{:016X}-{:016X}.{until}.{:X}.{parent}.{sha256}",
        folder_of(&span.store),
        span.source,
        span.timeline,
        span.file,
        span.start.0,
        span.end.0,
        span.file_bytes,
    )
}

/// The inverse of `path_of`.
fn parse(store: &str, path: &str, bytes: u64) -> Option<LogPiece> {
    let rest = path.strip_prefix(&folder_of(store))?.strip_prefix('/')?;
    let [source, timeline, name] = rest.split('/').collect::<Vec<_>>().try_into().ok()?;
    let mut fields = name.rsplitn(6, '.');
    let mut field = || fields.next();
    let (sha256, parent, file_bytes, until, range, file) =
        (field()?, field()?, field()?, field()?, field()?, field()?);
    let (start, end) = range.split_once('-')?;
    let position = |text: &str| u64::from_str_radix(text, 16).ok().map(LogPosition);
    let optional = |text: &str| (text != "-").then(|| text.to_owned());
    let until = match optional(until) {
        None => None,
        Some(text) => Some(Timestamp::from_microsecond(text.parse().ok()?).ok()?),
    };
    let parent = match optional(parent) {
        None => None,
        Some(text) => Some(u32::from_str_radix(&text, 16).ok()?),
    };
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    let span = LogSpan {
        store: store.to_owned(),
        source: source.to_owned(),
        timeline: u32::from_str_radix(timeline, 16).ok()?,
        file: file.to_owned(),
        file_bytes: u64::from_str_radix(file_bytes, 16).ok()?,
        start: position(start)?,
        end: position(end)?,
        until,
        parent,
    };
    (is_hash && span.start <= span.end).then(|| LogPiece { span, bytes, sha256: sha256.to_owned() })
}

fn append(objects: &dyn Objects, key: &Key, span: &LogSpan, body: &[u8]) -> Result<LogPiece, Fault> {
    for name in [&span.store, &span.source, &span.file] {
        if !is_plain(name) {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("`{name}` has other characters than `0-9A-Za-z._-`"),
            ));
        }
    }
    let mut packed = vec![PACKED];
    zstd::stream::copy_encode(body, &mut packed, COMPRESSION)
        .map_err(|error| Fault::io("pack", &span.file, &error))?;
    let sealed = key.seal(&packed)?;
    // What cannot be opened again must not be said to be kept.
    if key.open_record(&sealed).is_none_or(|opened| opened != body) {
        return Err(Fault::new(FaultKind::Unavailable, "what was encrypted does not open again"));
    }
    let sha256 = name_of(&sealed);
    let bytes = sealed.len() as u64;
    objects.create(&path_of(span, &sha256), &[sealed.into()])?;
    Ok(LogPiece { span: span.clone(), bytes, sha256 })
}

fn list(objects: &dyn Objects, store: &str) -> Result<LogListing, Fault> {
    let mut listing = LogListing::default();
    for found in objects.list(&folder_of(store))? {
        match parse(store, &found.path, found.bytes) {
            Some(_) if found.bytes == 0 => listing.unreadable.push(format!("`{}` is empty", found.path)),
            Some(piece) => listing.pieces.push(piece),
            None => listing.unreadable.push(format!("`{}` is no piece of a log", found.path)),
        }
    }
    listing.pieces.sort_by(|a, b| {
        let order = |piece: &LogPiece| {
            let span = &piece.span;
            (span.source.clone(), span.timeline, span.start, span.end, piece.sha256.clone())
        };
        order(a).cmp(&order(b))
    });
    listing.unreadable.sort();
    Ok(listing)
}

fn read(objects: &dyn Objects, key: &Key, piece: &LogPiece) -> Result<Bytes, Fault> {
    let path = path_of(&piece.span, &piece.sha256);
    let sealed = objects.read(&path)?;
    if name_of(&sealed) != piece.sha256 {
        return Err(Fault::damaged(&path, "its bytes have changed"));
    }
    let body = key.open_record(&sealed).ok_or_else(|| Fault::damaged(&path, "it does not open"))?;
    if piece.span.parent.is_none() && body.len() as u64 != piece.span.end.0 - piece.span.start.0 {
        return Err(Fault::damaged(&path, "it holds another stretch than its name says"));
    }
    Ok(body.into())
}

/// Looks whether a file among the logs is a sound piece of one; where it is read, gives how many bytes.
pub(crate) fn look(objects: &dyn Objects, key: &Key, found: &Found, share: Share) -> Result<u64, Fault> {
    let store = found.path.split('/').nth(1).unwrap_or_default();
    let piece = parse(store, &found.path, found.bytes)
        .ok_or_else(|| Fault::damaged(&found.path, "it is no piece of a log"))?;
    if found.bytes == 0 {
        return Err(Fault::damaged(&found.path, "it is empty"));
    }
    let number = u32::from_str_radix(&piece.sha256[..8], 16).unwrap_or_default();
    if !share.has(number) {
        return Ok(0);
    }
    read(objects, key, &piece).map(|_| found.bytes)
}

/// When each file was marked, by path.
fn marks(objects: &dyn Objects, store: &str) -> Result<Vec<(String, Timestamp, BTreeSet<String>)>, Fault> {
    let mut all = Vec::new();
    for found in objects.list(&format!("{MARKS}/{store}"))? {
        let micros = found.path.rsplit('/').next().and_then(|name| name.parse().ok());
        let Some(at) = micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()) else { continue };
        // One that cannot be read marks nothing: what it named is marked anew.
        let paths = serde_json::from_slice(&objects.read(&found.path)?).unwrap_or_default();
        all.push((found.path, at, paths));
    }
    Ok(all)
}

fn prune(
    objects: &dyn Objects,
    now: Timestamp,
    hours: i64,
    store: &str,
    unneeded: &[LogPiece],
) -> Result<Pruned, Fault> {
    let mut pruned = Pruned::default();
    let listed = list(objects, store)?;
    let marked = marks(objects, store)?;
    let mut since: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for (_, at, paths) in &marked {
        for path in paths {
            let first = since.entry(path).or_insert(*at);
            *first = (*first).min(*at);
        }
    }
    let mut anew = BTreeSet::new();
    let mut gone = BTreeSet::new();
    let grace = SignedDuration::from_hours(hours);
    for piece in &listed.pieces {
        let path = path_of(&piece.span, &piece.sha256);
        if !unneeded.contains(piece) {
            pruned.bytes_kept += piece.bytes;
            continue;
        }
        match since.get(path.as_str()) {
            Some(at) if now.duration_since(*at) >= grace => {
                objects.remove(&path)?;
                pruned.bytes_deleted += piece.bytes;
                gone.insert(path);
            }
            Some(_) => pruned.bytes_marked += piece.bytes,
            None => {
                pruned.bytes_marked += piece.bytes;
                anew.insert(path);
            }
        }
    }
    if !anew.is_empty() {
        let json = serde_json::to_vec(&anew).map_err(|error| {
            Fault::new(FaultKind::Unavailable, format!("a mark cannot be written: {error}"))
        })?;
        objects.create(&format!("{MARKS}/{store}/{}", now.as_microsecond()), &[json.into()])?;
    }
    let there: BTreeSet<String> =
        listed.pieces.iter().map(|piece| path_of(&piece.span, &piece.sha256)).collect();
    for (mark, _, paths) in &marked {
        if paths.iter().all(|path| gone.contains(path) || !there.contains(path)) {
            objects.remove(mark)?;
        }
    }
    Ok(pruned)
}

#[async_trait]
impl Logs for ResticRepository {
    async fn append(&self, ctx: &Context, span: &LogSpan, body: Bytes) -> Result<LogPiece, Error> {
        let (objects, key) = self.for_logs(ctx).await?;
        let span = span.clone();
        let answer = blocking(ctx, move || append(&*objects, &key, &span, &body)).await;
        answer.map_err(|error| error.with("repository", self.name()))
    }

    async fn list(&self, ctx: &Context, store: &str) -> Result<LogListing, Error> {
        if !is_plain(store) {
            return Err(Error::new(ErrorKind::Invalid, format!("`{store}` cannot be part of a path")));
        }
        let (objects, _) = self.for_logs(ctx).await?;
        let store = store.to_owned();
        let answer = blocking(ctx, move || list(&*objects, &store)).await;
        answer.map_err(|error| error.with("repository", self.name()))
    }

    async fn read(&self, ctx: &Context, piece: &LogPiece) -> Result<Bytes, Error> {
        let (objects, key) = self.for_logs(ctx).await?;
        let piece = piece.clone();
        let answer = blocking(ctx, move || read(&*objects, &key, &piece)).await;
        answer.map_err(|error| error.with("repository", self.name()))
    }

    async fn prune(&self, ctx: &Context, store: &str, unneeded: &[LogPiece]) -> Result<Pruned, Error> {
        let objects = self.for_pruning_logs(ctx).await?;
        let (now, hours) = (ctx.now(), self.keep_marked_hours());
        let (store, unneeded) = (store.to_owned(), unneeded.to_vec());
        let answer = blocking(ctx, move || prune(&*objects, now, hours, &store, &unneeded)).await;
        answer.map_err(|error| error.with("repository", self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Local;

    fn span(start: u64, end: u64) -> LogSpan {
        LogSpan {
            store: "orders".into(),
            source: "7461234567890".into(),
            timeline: 1,
            file: format!("0000000100000000{:08X}", start >> 24),
            file_bytes: 16 << 20,
            start: LogPosition(start),
            end: LogPosition(end),
            until: Some("2026-03-04T05:06:07.000008Z".parse().unwrap()),
            parent: None,
        }
    }

    fn history() -> LogSpan {
        LogSpan {
            timeline: 2,
            file: "00000002.history".into(),
            file_bytes: 0,
            until: None,
            parent: Some(1),
            ..span(0x0300_0000, 0x0300_0000)
        }
    }

    fn place() -> (tempfile::TempDir, Local, Key) {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(folder.path().to_owned());
        local.prepare().unwrap();
        (folder, local, Key::random().unwrap())
    }

    #[test]
    fn pieces_are_listed_and_read_as_they_were_written() {
        let (folder, local, key) = place();
        let body = vec![7_u8; 0x2000];
        let second = append(&local, &key, &span(0x0200_2000, 0x0200_4000), &body).unwrap();
        let first = append(&local, &key, &span(0x0200_0000, 0x0200_2000), &body).unwrap();
        let branch = append(&local, &key, &history(), b"1\t0/3000000\tno recovery target\n").unwrap();
        assert!(first.bytes < 200, "packed: {first:?}");
        let stray = folder.path().join("log/orders/stray");
        std::fs::write(&stray, "x").unwrap();
        let listing = list(&local, "orders").unwrap();
        assert_eq!(listing.pieces, [first.clone(), second, branch.clone()]);
        assert_eq!(listing.unreadable, ["`log/orders/stray` is no piece of a log"]);
        assert_eq!(&read(&local, &key, &first).unwrap()[..], &body[..]);
        assert!(read(&local, &key, &branch).unwrap().starts_with(b"1\t"));
        assert_eq!(list(&local, "other").unwrap(), LogListing::default());
        let other = Key::random().unwrap();
        assert_eq!(read(&local, &other, &first).unwrap_err().kind, FaultKind::Damaged);
        for wrong in ["", "..", "a/b"] {
            let wrong = LogSpan { store: wrong.into(), ..span(0, 1) };
            assert_eq!(append(&local, &key, &wrong, b"x").unwrap_err().kind, FaultKind::Invalid);
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let (folder, local, key) = place();
        let body: Vec<u8> = (0..64_u8).collect();
        let piece = append(&local, &key, &span(0, 64), &body).unwrap();
        let file = folder.path().join(path_of(&piece.span, &piece.sha256));
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&file, &changed).unwrap();
            assert_eq!(read(&local, &key, &piece).unwrap_err().kind, FaultKind::Damaged, "byte {at}");
            std::fs::write(&file, &whole[..at]).unwrap();
            assert_eq!(read(&local, &key, &piece).unwrap_err().kind, FaultKind::Damaged, "{at} bytes");
        }
        // The same bytes under a name that says another stretch.
        std::fs::write(&file, &whole).unwrap();
        let moved = LogPiece { span: span(64, 127), ..piece.clone() };
        local.create(&path_of(&moved.span, &moved.sha256), &[whole.into()]).unwrap();
        assert_eq!(read(&local, &key, &moved).unwrap_err().kind, FaultKind::Damaged);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read(&local, &key, &piece).unwrap_err().kind, FaultKind::Missing);
    }

    #[test]
    fn what_nothing_needs_is_marked_and_deleted_two_days_later() {
        let (_folder, local, key) = place();
        let pieces: Vec<LogPiece> =
            (0..3).map(|n| append(&local, &key, &span(n * 64, n * 64 + 64), &[0; 64]).unwrap()).collect();
        let now: Timestamp = "2026-03-04T00:00:00Z".parse().unwrap();
        let at = |hours| now + SignedDuration::from_hours(hours);
        let prune = |hours, unneeded| super::prune(&local, at(hours), 48, "orders", unneeded).unwrap();
        let there = || list(&local, "orders").unwrap().pieces.len();
        let first = prune(0, &pieces[..1]);
        assert_eq!((first.bytes_marked, first.bytes_deleted, there()), (pieces[0].bytes, 0, 3));
        let second = prune(47, &pieces[..2]);
        assert_eq!((second.bytes_deleted, there()), (0, 3));
        let third = prune(48, &pieces[..2]);
        assert_eq!((third.bytes_deleted, third.bytes_marked, there()), (pieces[0].bytes, pieces[1].bytes, 2));
        // What is needed again stays, however long it was marked.
        assert_eq!((prune(1_000, &[]).bytes_deleted, there()), (0, 2));
        assert_eq!((prune(1_001, &pieces[1..2]).bytes_deleted, there()), (pieces[1].bytes, 1));
        assert_eq!(local.list(MARKS).unwrap(), []);
    }
}
