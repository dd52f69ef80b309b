//! What was received of a log, where it lies until it is handed over, and what was handed over.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use contract::{Error, ErrorKind, LogPiece, LogPosition, LogSink, LogSpan};
use jiff::Timestamp;

/// Most bytes of one piece.
const PIECE_BYTES_MAX: u64 = 16 << 20;
/// What stays of a moment until the log has come to it.
const SAMPLES_MAX: usize = 4_096;
/// What the names of folders begin with whose log was received before a slot was given up.
const ASIDE: &str = "aside-";

pub(super) fn cannot(what: &str) -> impl Fn(std::io::Error) -> Error {
    move |error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("the received log cannot be handled: {what}")).because(error)
    }
}

/// What was handed over, and what is known of when.
pub(super) struct Handed {
    pub(super) source: String,
    pub(super) file_bytes: u64,
    /// Behind the last byte that was handed over, by the name of its file.
    ends: BTreeMap<String, LogPosition>,
    /// Moments of the server's clock with the position before which everything acknowledged until then lies.
    pub(super) samples: VecDeque<(Timestamp, LogPosition)>,
    pub(super) until: Option<Timestamp>,
    histories: BTreeMap<u32, (u32, LogPosition)>,
}

/// A file of the log by its name: timeline and number.
pub(super) fn segment_of(name: &str, file_bytes: u64) -> Option<(u32, u64)> {
    let hex = |range: std::ops::Range<usize>| u32::from_str_radix(name.get(range)?, 16).ok();
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let per_id = (1_u64 << 32) / file_bytes;
    Some((hex(0..8)?, u64::from(hex(8..16)?) * per_id + u64::from(hex(16..24)?)))
}

fn segment_name(timeline: u32, number: u64, file_bytes: u64) -> String {
    let per_id = (1_u64 << 32) / file_bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)
}

/// Which timeline a history file's one left, and where.
fn branch_of(history: &str) -> Option<(u32, LogPosition)> {
    let last = history.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with('#'))?;
    let mut fields = last.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Where a timeline was left by the one whose history this is, or by one before that.
pub(super) fn left_at(history: &str, timeline: u32) -> Option<LogPosition> {
    history.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()?.parse() == Ok(timeline)).then(|| fields.next()?.parse().ok())?
    })
}

impl Handed {
    pub(super) fn new(source: &str, file_bytes: u64, kept: &[LogPiece]) -> Self {
        let mut handed = Self {
            source: source.to_owned(),
            file_bytes,
            ends: BTreeMap::new(),
            samples: VecDeque::new(),
            until: None,
            histories: BTreeMap::new(),
        };
        for piece in kept.iter().filter(|piece| piece.span.source == source) {
            let span = &piece.span;
            match span.parent {
                Some(parent) => {
                    handed.histories.insert(span.timeline, (parent, span.start));
                }
                None if span.file_bytes == file_bytes => handed.note(&span.file, span.end),
                None => {}
            }
        }
        handed
    }

    fn note(&mut self, file: &str, end: LogPosition) {
        let known = self.ends.entry(file.to_owned()).or_insert(end);
        *known = (*known).max(end);
    }

    /// The newest position of the newest timeline.
    pub(super) fn end(&self) -> Option<LogPosition> {
        self.newest().map(|(_, _, end)| end)
    }

    /// The highest position of any timeline.
    pub(super) fn furthest(&self) -> LogPosition {
        self.ends.values().max().copied().unwrap_or_default()
    }

    pub(super) fn newest(&self) -> Option<(u32, u64, LogPosition)> {
        let all = self.ends.iter().filter_map(|(file, end)| {
            let (timeline, number) = segment_of(file, self.file_bytes)?;
            Some((timeline, number, *end))
        });
        all.max()
    }

    pub(super) fn sample(&mut self, at: Timestamp, written: LogPosition) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_back();
        }
        self.samples.push_back((at, written));
    }

    /// Until when everything acknowledged lies before this position.
    pub(super) fn until(&mut self, end: LogPosition) -> Option<Timestamp> {
        while let Some((at, written)) = self.samples.front().copied()
            && written <= end
        {
            self.until = Some(at);
            self.samples.pop_front();
        }
        self.until
    }
}

/// The folder of a log on its way. Beside what the program writes it holds some notes, each a file with one word:
/// whose log it is, how far the program had it on disk, and where the log goes on behind a gap that was told.
pub(super) struct Received {
    root: PathBuf,
}

impl Received {
    /// Makes the folder if need be.
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let received = Self { root: root.to_owned() };
        received.make()?;
        Ok(received)
    }

    fn make(&self) -> Result<(), Error> {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(self.folder())
            .map_err(cannot("its folder"))
    }

    /// Where the program writes.
    pub(super) fn folder(&self) -> PathBuf {
        self.root.join("received")
    }

    fn noted(&self, what: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(format!("received.{what}"))).ok()
    }

    fn note(&self, what: &str, word: &str) -> Result<(), Error> {
        std::fs::write(self.root.join(format!("received.{what}")), word).map_err(cannot("a note"))
    }

    fn noted_position(&self, what: &str) -> Option<LogPosition> {
        self.noted(what)?.parse().ok()
    }

    /// Takes the folder for the log of this server; what another one had given is emptied out.
    pub(super) fn adopt(&self, source: &str) -> Result<(), Error> {
        if self.noted("source").is_some_and(|known| known != source) {
            for folder in self.asides()? {
                std::fs::remove_dir_all(folder.0).map_err(cannot("its folder"))?;
            }
            for name in names(&self.folder())? {
                remove(&self.folder(), &name)?;
            }
            for what in ["flushed", "behind", "planted"] {
                remove(&self.root, &format!("received.{what}"))?;
            }
        }
        self.note("source", source)
    }

    /// Notes how far the program has the log on disk, as it told the server itself. What the server knows of the slot is no
    /// such word: the slot may be older or newer than what lies here.
    pub(super) fn note_flushed(&self, at: LogPosition) -> Result<(), Error> {
        if self.noted_position("flushed") == Some(at) {
            Ok(())
        } else {
            self.note("flushed", &at.to_string())
        }
    }

    /// All bytes that lie here.
    pub(super) fn bytes(&self) -> Result<u64, Error> {
        let mut sum = bytes(&self.folder())?;
        for (folder, _) in self.asides()? {
            sum += bytes(&folder)?;
        }
        Ok(sum)
    }

    /// Moves what was received out of the program's way, so that it begins where its slot does. What of it was not handed
    /// over still is. `behind`: where the log goes on.
    pub(super) fn set_aside(&self, behind: LogPosition) -> Result<(), Error> {
        // First, so that whoever comes upon half of this does not begin where it was.
        self.note("behind", &behind.to_string())?;
        if let Some(planted) = self.noted("planted") {
            remove(&self.folder(), &planted)?;
        }
        let flushed = self.noted_position("flushed").unwrap_or_default();
        let taken = self.asides()?.len();
        let free = (taken..).map(|number| self.root.join(format!("{ASIDE}{:016X}-{number}", flushed.0)));
        if let Some(aside) = free.into_iter().find(|folder| !folder.exists()) {
            std::fs::rename(self.folder(), aside).map_err(cannot("its folder"))?;
        }
        remove(&self.root, "received.flushed")?;
        self.make()
    }

    /// What was set aside, each with how far the program had it on disk.
    fn asides(&self) -> Result<Vec<(PathBuf, LogPosition)>, Error> {
        let mut asides = Vec::new();
        for name in names(&self.root)? {
            let at = name.strip_prefix(ASIDE).and_then(|rest| rest.split('-').next());
            if let Some(at) = at.and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
                asides.push((self.root.join(&name), LogPosition(at)));
            }
        }
        Ok(asides)
    }

    /// Tells the program where to go on where its folder says nothing: it begins behind the newest whole file that it finds.
    /// That it holds nothing but zeros is of no matter: it is noted, and nobody reads it.
    pub(super) fn plant(&self, handed: &Handed) -> Result<(), Error> {
        let folder = self.folder();
        let Some((timeline, number, end)) = handed.newest() else { return Ok(()) };
        // Behind a gap the slot says it; what was handed over before lies on the other side.
        if self.noted_position("behind").is_some_and(|behind| end <= behind) {
            return Ok(());
        }
        // A file that was handed over whole counts as there; of one that was not, the one before it does.
        let whole = end.0 >= (number + 1) * handed.file_bytes;
        let Some(before) = (if whole { Some(number) } else { number.checked_sub(1) }) else { return Ok(()) };
        // Older files may be from before another machine had followed for a while.
        let is_known = names(&folder)?.iter().any(|name| {
            segment_of(plain(name), handed.file_bytes).is_some_and(|(_, number)| number >= before)
        });
        if is_known {
            return Ok(());
        }
        let name = segment_name(timeline, before, handed.file_bytes);
        self.note("planted", &name)?;
        let file = std::fs::File::create(folder.join(name)).map_err(cannot("its folder"))?;
        file.set_len(handed.file_bytes).map_err(cannot("its folder"))
    }

    /// Empties a file that the program had begun to make and that found no room: it has nothing in it yet, and the program does
    /// not go on with one of such a length.
    pub(super) fn mend(&self, file_bytes: u64) -> Result<(), Error> {
        for name in names(&self.folder())?.iter().filter(|name| name.ends_with(PARTIAL)) {
            let path = self.folder().join(name);
            let length = std::fs::metadata(&path).map_err(cannot(name))?.len();
            if length != 0 && length < file_bytes {
                std::fs::File::options().write(true).truncate(true).open(&path).map_err(cannot(name))?;
            }
        }
        Ok(())
    }

    /// The timeline and the number of the file with which the program begins: the newest one, where that is not whole, or the
    /// one behind it. `None` where its folder does not say.
    pub(super) fn begins_with(&self, file_bytes: u64) -> Result<Option<(u32, u64)>, Error> {
        let names = names(&self.folder())?;
        let newest = names.iter().filter_map(|name| {
            let (timeline, number) = segment_of(plain(name), file_bytes)?;
            Some((number, timeline, !name.ends_with(PARTIAL)))
        });
        Ok(newest.max().map(|(number, timeline, is_whole)| (timeline, number + u64::from(is_whole))))
    }

    /// Hands over everything that is on disk and was not handed over before.
    pub(super) async fn hand_over(
        &self,
        handed: &mut Handed,
        sink: &dyn LogSink,
        store: &str,
    ) -> Result<(), Error> {
        for (folder, flushed) in self.asides()? {
            let giving = Giving { folder: &folder, flushed, planted: None, goes_on: false, store };
            giving.give(handed, sink).await?;
            std::fs::remove_dir_all(&folder).map_err(cannot("its folder"))?;
        }
        let giving = Giving {
            folder: &self.folder(),
            flushed: self.noted_position("flushed").unwrap_or_default(),
            planted: self.noted("planted"),
            goes_on: true,
            store,
        };
        giving.give(handed, sink).await
    }
}

/// A folder whose log is handed over.
struct Giving<'a> {
    folder: &'a Path,
    /// The file that is not whole is good up to here.
    flushed: LogPosition,
    planted: Option<String>,
    /// Whether the program goes on in it.
    goes_on: bool,
    store: &'a str,
}

impl Giving<'_> {
    async fn give(&self, handed: &mut Handed, sink: &dyn LogSink) -> Result<(), Error> {
        let names = names(self.folder)?;
        for name in names.iter().filter(|name| name.ends_with(".history")) {
            let timeline = name.strip_suffix(".history").and_then(|hex| u32::from_str_radix(hex, 16).ok());
            let Some(timeline) = timeline.filter(|timeline| !handed.histories.contains_key(timeline)) else {
                continue;
            };
            let text = std::fs::read_to_string(self.folder.join(name)).map_err(cannot(name))?;
            let Some((parent, at)) = branch_of(&text) else { continue };
            let span = LogSpan {
                store: self.store.to_owned(),
                source: handed.source.clone(),
                timeline,
                file: name.clone(),
                file_bytes: 0,
                start: at,
                end: at,
                until: None,
                parent: Some(parent),
            };
            sink.put(span, text.into()).await?;
            handed.histories.insert(timeline, (parent, at));
        }
        let newest_whole = names.iter().rfind(|name| segment_of(name, handed.file_bytes).is_some());
        for name in names.iter().filter(|name| self.planted.as_ref() != Some(*name)) {
            let (file, is_partial) = (plain(name), name.ends_with(PARTIAL));
            let Some((timeline, number)) = segment_of(file, handed.file_bytes) else { continue };
            let start = LogPosition(number * handed.file_bytes);
            let whole = LogPosition(start.0 + handed.file_bytes);
            // Of a timeline that ended, up to where the next one left it.
            let left_at =
                handed.histories.values().filter(|(parent, _)| *parent == timeline).map(|(_, at)| *at).max();
            let end = match (is_partial, left_at) {
                (false, _) => whole,
                (true, Some(at)) if self.flushed > at => at.min(whole),
                (true, _) => self.flushed.min(whole),
            };
            let mut from = handed.ends.get(file).copied().unwrap_or(start).max(start);
            while from < end {
                let to = LogPosition(end.0.min(from.0 + PIECE_BYTES_MAX));
                let body = read(&self.folder.join(name), from.0 - start.0, to.0 - from.0)?;
                let span = LogSpan {
                    store: self.store.to_owned(),
                    source: handed.source.clone(),
                    timeline,
                    file: file.to_owned(),
                    file_bytes: handed.file_bytes,
                    start: from,
                    end: to,
                    until: handed.until(to),
                    parent: None,
                };
                sink.put(span, body.into()).await?;
                handed.note(file, to);
                from = to;
            }
            let is_over = match (is_partial, left_at) {
                _ if !self.goes_on => true,
                (true, Some(at)) => self.flushed > at,
                (true, None) => false,
                // The newest one tells the program where to go on.
                (false, _) => Some(name) != newest_whole,
            };
            if is_over {
                remove(self.folder, name)?;
            }
        }
        match &self.planted {
            Some(planted) if newest_whole.is_some_and(|newest| newest != planted) => {
                remove(self.folder, planted)
            }
            _ => Ok(()),
        }
    }
}

/// What the name of a file ends in that the program has not received to its end.
const PARTIAL: &str = ".partial";

/// The name that a file will have when it is whole.
fn plain(name: &str) -> &str {
    name.strip_suffix(PARTIAL).unwrap_or(name)
}

fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot("its folder"))? {
        names.extend(entry.map_err(cannot("its folder"))?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn bytes(folder: &Path) -> Result<u64, Error> {
    let mut sum = 0;
    for name in names(folder)? {
        sum += std::fs::metadata(folder.join(name)).map_or(0, |about| about.len());
    }
    Ok(sum)
}

fn remove(folder: &Path, name: &str) -> Result<(), Error> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot(name)(error)),
        _ => Ok(()),
    }
}

fn read(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
    let run = || {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    run().map_err(cannot("a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        let size = 16 << 20;
        for (name, expected) in [
            ("000000010000000000000002", Some((1, 2))),
            ("0000000A00000001000000FF", Some((10, 256 + 255))),
            ("00000002.history", None),
            ("000000010000000000000002.partial", None),
        ] {
            assert_eq!(segment_of(name, size), expected, "{name}");
            if let Some((timeline, number)) = expected {
                assert_eq!(segment_name(timeline, number, size), name);
            }
        }
        let history = "1\t0/3000000\tno recovery target specified\n\n2\t0/50000A0\tbefore 2026\n";
        assert_eq!(branch_of(history), Some((2, LogPosition(0x0500_00a0))));
        assert_eq!(branch_of("\n"), None);
        assert_eq!(left_at(history, 1), Some(LogPosition(0x0300_0000)));
        assert_eq!(left_at(history, 2), Some(LogPosition(0x0500_00a0)));
        assert_eq!(left_at(history, 3), None);
    }

    #[test]
    fn a_moment_counts_once_the_log_has_come_to_it() {
        let mut handed = Handed::new("1", 16 << 20, &[]);
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        handed.sample(at(1), LogPosition(100));
        handed.sample(at(2), LogPosition(200));
        handed.sample(at(3), LogPosition(200));
        assert_eq!(handed.until(LogPosition(99)), None);
        assert_eq!(handed.until(LogPosition(150)), Some(at(1)));
        assert_eq!(handed.until(LogPosition(200)), Some(at(3)));
        assert_eq!(handed.until(LogPosition(150)), Some(at(3)), "what was handed over stays so");
    }
}
