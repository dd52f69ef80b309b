//! Reading a folder while others write in it.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use contract::{Error, ErrorKind};
use glob::{MatchOptions, Pattern};
use sha2::{Digest, Sha256};

use crate::entry::{Entry, Kind, Name};
use crate::error::io_error;

/// Where files are cut; fixed, so that a change in one place of a large file leaves the other parts as they are.
pub(crate) const CUT_BYTES: usize = 16 << 20;
/// How often a file that changes while it is read is read again.
const READ_AGAIN_MAX: u32 = 3;
/// Things that were left out and are named one by one.
const NAMED_MAX: usize = 100;

/// A moment at which a test may change the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It was listed and not opened yet.
    Listed,
    /// It was read and not looked at again yet.
    Read,
}

/// What is told of each moment.
pub(crate) type Watch<'a> = &'a (dyn Fn(&Path, Moment) + Send + Sync);

/// The same, shared with the thread that reads.
pub(crate) type Watcher = std::sync::Arc<dyn Fn(&Path, Moment) + Send + Sync>;

/// What is left out of a backup, and why.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    named: Vec<String>,
    more: u64,
}

impl LeftOut {
    fn add(&mut self, path: &Path, why: &str) {
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("{}: {why}", path.display()));
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn sentences(mut self) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("and {} more", self.more));
        }
        self.named
    }
}

/// Where a walk puts what it finds.
pub(crate) trait Take {
    /// The bytes of the next part of a file; gives its number.
    fn part(&mut self, bytes: Bytes) -> Result<u64, Error>;

    /// The next entry.
    fn entry(&mut self, path: &Path, entry: Entry) -> Result<(), Error>;
}

/// Everything below a folder, folders before what is in them, in the order of names.
pub(crate) struct Walk<'a> {
    root: &'a Path,
    exclude: &'a [Pattern],
    watch: Watch<'a>,
    /// First paths of files with several names and what they hold, by device and number.
    linked: HashMap<(u64, u64), (PathBuf, String)>,
    pub(crate) left_out: LeftOut,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(root: &'a Path, exclude: &'a [Pattern], watch: Watch<'a>) -> Self {
        Self { root, exclude, watch, linked: HashMap::new(), left_out: LeftOut::default() }
    }

    /// Goes through all of it.
    ///
    /// # Errors
    ///
    /// `NotFound`: there is no folder. `Denied`, `Unavailable`: something in it cannot be read; it is not left out, for nobody
    /// would miss it before it is needed. As `take`'s.
    pub(crate) fn run(&mut self, take: &mut dyn Take) -> Result<(), Error> {
        let mut waiting = vec![PathBuf::new()];
        while let Some(folder) = waiting.pop() {
            let full = self.root.join(&folder);
            let mut names = Vec::new();
            let listed = match std::fs::read_dir(&full) {
                Ok(listed) => listed,
                Err(cause)
                    if cause.kind() == std::io::ErrorKind::NotFound && !folder.as_os_str().is_empty() =>
                {
                    self.left_out.add(&folder, "it was taken away while the folder was read");
                    continue;
                }
                Err(cause) => return Err(unreadable(&full, cause)),
            };
            for entry in listed {
                names.push(entry.map_err(|cause| unreadable(&full, cause))?.file_name());
            }
            names.sort();
            let mut below = Vec::new();
            for name in names {
                let path = folder.join(name);
                if !is_excluded(self.exclude, &path) && self.one(&path, take)? {
                    below.push(path);
                }
            }
            // The last is taken first.
            waiting.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// Takes one thing; says whether it is a folder.
    fn one(&mut self, path: &Path, take: &mut dyn Take) -> Result<bool, Error> {
        let full = self.root.join(path);
        (self.watch)(path, Moment::Listed);
        let metadata = match full.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                self.left_out.add(path, "it was taken away while the folder was read");
                return Ok(false);
            }
            Err(cause) => return Err(unreadable(&full, cause)),
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            take.entry(path, entry(path, &metadata, Kind::Folder))?;
            return Ok(true);
        }
        if kind.is_symlink() {
            let to = std::fs::read_link(&full).map_err(|cause| unreadable(&full, cause))?;
            take.entry(path, entry(path, &metadata, Kind::Link { to: Name::of(to.as_os_str()) }))?;
            return Ok(false);
        }
        if !kind.is_file() {
            let what = match () {
                () if kind.is_socket() => "a socket",
                () if kind.is_fifo() => "a pipe",
                () => "a device",
            };
            self.left_out.add(path, &format!("it is {what}, which holds nothing"));
            return Ok(false);
        }
        if metadata.nlink() > 1
            && let Some((first, sha256)) = self.linked.get(&(metadata.dev(), metadata.ino()))
        {
            let kind = Kind::HardLink { to: Name::of(first.as_os_str()), sha256: sha256.clone() };
            take.entry(path, entry(path, &metadata, kind))?;
            return Ok(false);
        }
        for _ in 0..READ_AGAIN_MAX {
            match self.file(path, &full, take)? {
                Reading::Same(metadata, kind) => {
                    if let (2.., Kind::File { sha256, .. }) = (metadata.nlink(), &kind) {
                        let first = (path.to_owned(), sha256.clone());
                        self.linked.insert((metadata.dev(), metadata.ino()), first);
                    }
                    take.entry(path, entry(path, &metadata, kind))?;
                    return Ok(false);
                }
                Reading::Changed => {}
                Reading::Gone => {
                    self.left_out.add(path, "it was taken away while it was read");
                    return Ok(false);
                }
            }
        }
        self.left_out.add(path, "it changed each time while it was read");
        Ok(false)
    }

    fn file(&self, path: &Path, full: &Path, take: &mut dyn Take) -> Result<Reading, Error> {
        use rustix::fs::OFlags;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
        let flags = i32::try_from(flags).expect("flags of open are small");
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(full);
        let mut file = match opened {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Reading::Gone),
            Err(cause) => return Err(unreadable(full, cause)),
        };
        let before = file.metadata().map_err(|cause| unreadable(full, cause))?;
        if !before.is_file() {
            return Ok(Reading::Changed);
        }
        let mut hash = Sha256::new();
        let (mut first, mut count, mut bytes) = (0, 0, 0);
        loop {
            let part = read_part(&mut file).map_err(|cause| unreadable(full, cause))?;
            if part.is_empty() {
                break;
            }
            hash.update(&part);
            bytes += part.len() as u64;
            if bytes > before.len() {
                break; // It grows faster than it is read.
            }
            let number = take.part(part.into())?;
            if count == 0 {
                first = number;
            }
            count += 1;
        }
        (self.watch)(path, Moment::Read);
        let after = match full.symlink_metadata() {
            Ok(after) => after,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Reading::Gone),
            Err(cause) => return Err(unreadable(full, cause)),
        };
        if state(&before) != state(&after) || bytes != before.len() {
            return Ok(Reading::Changed);
        }
        let sha256 = hash.finalize().iter().fold(String::new(), |out, byte| out + &format!("{byte:02x}"));
        Ok(Reading::Same(Box::new(after), Kind::File { parts: (first, count), bytes, sha256 }))
    }
}

/// Whether one of the patterns fits the path from the folder.
pub(crate) fn is_excluded(patterns: &[Pattern], path: &Path) -> bool {
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
    patterns.iter().any(|pattern| pattern.matches_path_with(path, options))
}

/// How reading a file ended.
enum Reading {
    Same(Box<Metadata>, Kind),
    Changed,
    Gone,
}

/// What changes with a file's bytes: a copy of other bytes at the same time has another time of its own change.
fn state(metadata: &Metadata) -> [i64; 6] {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    [
        number(metadata.ino()),
        number(metadata.len()),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ]
}

/// At most [`CUT_BYTES`]; fewer only at the end.
fn read_part(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut part = Vec::new();
    file.take(CUT_BYTES as u64).read_to_end(&mut part)?;
    Ok(part)
}

pub(crate) fn entry(path: &Path, metadata: &Metadata, kind: Kind) -> Entry {
    Entry {
        path: Name::of(path.as_os_str()),
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        kind,
    }
}

pub(crate) fn unreadable(path: &Path, cause: std::io::Error) -> Error {
    let error = io_error("something in the folder cannot be read", path, cause);
    match error.kind() {
        ErrorKind::Denied => error.hint("let Steward read it, or name it under `exclude`"),
        _ => error,
    }
}
