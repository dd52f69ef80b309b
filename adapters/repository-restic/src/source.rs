//! Parts as the library reads them.
//!
//! A reader here is never short before its end and never fails half-way without ending the run: the library leaves out
//! what it cannot read, and one short read would make its cutter read byte by byte for the rest of the file.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use contract::{BackupLabel, MakeManifest, PartBody, PartRecord};
use jiff::{SignedDuration, Timestamp};
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustic_core::{ReadSource, ReadSourceEntry, RusticResult};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Receiver;

use crate::error::{Fault, FaultKind};
use crate::run::Run;
use crate::seal::{hex, name_of};

/// The last entry of a backup. It sorts behind all that a part may be called.
pub(crate) const MANIFEST: &str = "~manifest.json";

/// The entry before it: what the backup is, for who finds it without Steward.
///
/// The library works on an entry only once it has asked for the next. So this one lets it read the last part while the
/// manifest waits for that.
const LABEL: &str = "~label.json";

/// The least by which two times differ.
const NANOSECOND: SignedDuration = SignedDuration::from_nanos(1);

/// A share of the budget for parts in memory, which a part is given once another comes after it: the library keeps the
/// last one back until then, and would never give its share free.
pub(crate) type Room = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

/// What the writer sends.
pub(crate) enum Item {
    Part { path: String, bytes: u64, body: PartBody, room: Room },
    Manifest(MakeManifest),
}

/// What the backup before has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) bytes: u64,
    /// None where no manifest says it.
    pub(crate) sha256: Option<String>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) ctime: Option<Timestamp>,
}

/// The files of the backup before, by their paths. The library takes a file for unchanged by its length and times, so
/// those are given to parts with the same bytes and to no others.
pub(crate) type Before = HashMap<String, Known>;

/// The parts of one backup, as the library asks for them.
pub(crate) struct Source(Mutex<Option<Entries>>);

impl Source {
    /// Parts from `inbox`, below a folder that is called as the store.
    pub(crate) fn new(run: Arc<Run>, inbox: Receiver<Item>, label: &BackupLabel, before: Before) -> Self {
        let entries = Entries {
            run,
            before,
            inbox,
            label: label.clone(),
            open: Vec::new(),
            ready: VecDeque::new(),
            manifest: None,
            done: false,
        };
        Self(Mutex::new(Some(entries)))
    }
}

impl ReadSource for Source {
    type Open = Reader;
    type Iter = std::iter::Flatten<std::option::IntoIter<Entries>>;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Self::Iter {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().into_iter().flatten()
    }
}

/// The entries in the order in which the writer sent them, each folder before what is in it.
pub(crate) struct Entries {
    run: Arc<Run>,
    inbox: Receiver<Item>,
    label: BackupLabel,
    before: Before,
    /// The folders in which the last entry was.
    open: Vec<String>,
    ready: VecDeque<ReadSourceEntry<Reader>>,
    manifest: Option<MakeManifest>,
    done: bool,
}

impl Entries {
    fn entry(
        path: &Path,
        node_type: NodeType,
        bytes: u64,
        (mtime, ctime): (Option<Timestamp>, Option<Timestamp>),
        open: Option<Reader>,
    ) -> ReadSourceEntry<Reader> {
        // Go's form of a mode, in which the highest bit is the folder's.
        let mode = if node_type == NodeType::Dir { 0o700 | 1 << 31 } else { 0o600 };
        let meta = Metadata {
            mode: Some(mode),
            mtime,
            atime: mtime,
            ctime,
            uid: Some(rustix::process::getuid().as_raw()),
            gid: Some(rustix::process::getgid().as_raw()),
            size: bytes,
            links: 1,
            ..Metadata::default()
        };
        let name = path.file_name().expect("every path here ends with a name");
        ReadSourceEntry { path: path.to_owned(), node: Node::new_node(name, node_type, meta), open }
    }

    /// The folders on the way to `path` that the entry before it was not in.
    fn enter(&mut self, path: &str) {
        let mut folders: Vec<String> = vec![self.label.store.clone()];
        folders.extend(path.split('/').map(str::to_owned));
        folders.pop();
        let shared = folders.iter().zip(&self.open).take_while(|(new, old)| new == old).count();
        for depth in shared..folders.len() {
            let folder: PathBuf =
                std::iter::once("/").chain(folders[..=depth].iter().map(String::as_str)).collect();
            let at = Some(self.label.at);
            let entry = Self::entry(&folder, NodeType::Dir, 0, (at, at), None);
            self.ready.push_back(entry);
        }
        self.open = folders;
    }

    fn small_file(&mut self, what: What, content: Bytes) {
        let (name, bytes) = (what.name().to_owned(), content.len() as u64);
        let body = PartBody::Bytes(content);
        let reader = Reader::new(Arc::clone(&self.run), what, bytes, body, Room::default());
        let times = self.new_times(&name);
        self.file(&name, bytes, times, reader);
    }

    /// Times by which the library sees that a file is another than before.
    fn new_times(&self, path: &str) -> (Option<Timestamp>, Option<Timestamp>) {
        let at = self.label.at;
        let same_moment = self.before.get(path).is_some_and(|known| known.mtime == Some(at));
        let at = if same_moment { at.checked_sub(NANOSECOND).unwrap_or(Timestamp::UNIX_EPOCH) } else { at };
        (Some(at), Some(at))
    }

    fn part(&mut self, path: &str, bytes: u64, body: PartBody, room: Room) {
        let number = self.run.give();
        let what = What::Part { number, path: path.to_owned() };
        let known = self.before.get(path).filter(|known| known.bytes == bytes);
        let found = match (known.and_then(|known| known.sha256.as_ref()), &body) {
            (Some(_), PartBody::Bytes(content)) => Some(name_of(content)),
            // What is not in memory would be read twice.
            _ => None,
        };
        let same = known.filter(|known| found.is_some() && known.sha256 == found);
        let times = same.map_or_else(|| self.new_times(path), |known| (known.mtime, known.ctime));
        let is_same = same.is_some();
        let mut reader = Reader::new(Arc::clone(&self.run), what, bytes, body, room);
        reader.known_hash = found;
        if is_same {
            // The library need not read it; if it does, it must come to the end.
            reader.record();
        }
        self.file(path, bytes, times, reader);
    }

    fn file(
        &mut self,
        path: &str,
        bytes: u64,
        times: (Option<Timestamp>, Option<Timestamp>),
        reader: Reader,
    ) {
        self.enter(path);
        let full: PathBuf = ["/", &self.label.store, path].iter().collect();
        let entry = Self::entry(&full, NodeType::File, bytes, times, Some(reader));
        self.ready.push_back(entry);
    }
}

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<Reader>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.ready.pop_front() {
            return Some(Ok(entry));
        }
        // After a failure the library would read everything to the end only to throw it away.
        if self.done || self.run.fault().is_some() {
            self.inbox.close();
            return None;
        }
        if let Some(make) = self.manifest.take() {
            self.done = true;
            let parts = self.run.wait_for_parts()?;
            self.small_file(What::Manifest, make(&parts));
            return self.ready.pop_front().map(Ok);
        }
        match self.inbox.blocking_recv() {
            Some(Item::Part { path, bytes, body, room }) => self.part(&path, bytes, body, room),
            Some(Item::Manifest(make)) => {
                self.manifest = Some(make);
                let BackupLabel { id, project, store, plan, at, layout } = &self.label;
                let label = json!({
                    "id": id, "project": project, "store": store, "plan": plan, "at": at, "layout": layout,
                });
                self.small_file(What::Label, label.to_string().into());
            }
            None => {
                self.run.fail(Fault::new(FaultKind::Canceled, "the backup was given up"));
                return None;
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

enum What {
    Part { number: usize, path: String },
    Label,
    Manifest,
}

impl What {
    fn name(&self) -> &str {
        match self {
            Self::Part { path, .. } => path,
            Self::Label => LABEL,
            Self::Manifest => MANIFEST,
        }
    }
}

enum Body {
    Bytes(Bytes),
    Closed(PathBuf),
    Open(File),
}

/// The bytes of a part; counts and hashes them, and tells the run when it came to the end that was announced.
pub(crate) struct Reader {
    run: Arc<Run>,
    what: What,
    body: Body,
    bytes: u64,
    left: u64,
    hash: Sha256,
    /// Of all of it, where it was hashed before.
    known_hash: Option<String>,
    /// The run knows its length and hash.
    is_recorded: bool,
    is_begun: bool,
    is_read: bool,
    /// Given back when the library has cut and copied the bytes.
    _room: Room,
}

impl Reader {
    fn new(run: Arc<Run>, what: What, bytes: u64, body: PartBody, room: Room) -> Self {
        let body = match body {
            PartBody::Bytes(bytes) => Body::Bytes(bytes),
            PartBody::File { path, .. } => Body::Closed(path),
        };
        Self {
            run,
            what,
            body,
            bytes,
            left: bytes,
            hash: Sha256::new(),
            known_hash: None,
            is_recorded: false,
            is_begun: false,
            is_read: false,
            _room: room,
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Body::Closed(path) = &self.body {
            self.body = Body::Open(File::open(path)?);
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        match &mut self.body {
            Body::Bytes(bytes) => buffer[..wanted].copy_from_slice(&bytes.split_to(wanted)),
            Body::Open(file) => {
                file.read_exact(&mut buffer[..wanted])?;
                if wanted == 0 && self.left == 0 && file.read(&mut [0])? != 0 {
                    return Err(io::Error::other("it is longer than it was"));
                }
            }
            Body::Closed(_) => unreachable!("it was opened above"),
        }
        Ok(wanted)
    }

    fn record(&mut self) {
        if std::mem::replace(&mut self.is_recorded, true) {
            return;
        }
        let sha256 =
            self.known_hash.clone().unwrap_or_else(|| hex(&std::mem::take(&mut self.hash).finalize()));
        match &self.what {
            What::Part { number, path } => {
                self.run.finish(*number, PartRecord { path: path.clone(), bytes: self.bytes, sha256 });
            }
            What::Label => {}
            What::Manifest => self.run.finish_manifest(sha256),
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_read || buffer.is_empty() {
            return Ok(0);
        }
        self.is_begun = true;
        match self.fill(buffer) {
            Ok(0) => {
                self.is_read = true;
                self.record();
                Ok(0)
            }
            Ok(read) => {
                if self.known_hash.is_none() {
                    self.hash.update(&buffer[..read]);
                }
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) => {
                let fault = Fault::new(
                    FaultKind::Unavailable,
                    format!(
                        "cannot read the part `{}`: {}",
                        self.what.name(),
                        error.to_string().to_lowercase()
                    ),
                );
                self.run.fail(fault);
                Err(error)
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.is_recorded || self.is_begun && !self.is_read {
            let message = format!("the part `{}` was not read to its end", self.what.name());
            self.run.fail(Fault::new(FaultKind::Unavailable, message));
        }
    }
}

/// What is wrong with the path of a part, or with its place after `last`.
pub(crate) fn check_path(path: &str, last: Option<&str>) -> Result<(), Fault> {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let wrong = |why: String| Err(Fault::new(FaultKind::Invalid, why));
    if !path.split('/').all(plain) {
        return wrong(format!("the part `{path}` has other characters than `0-9A-Za-z._-` in its path"));
    }
    let Some(last) = last else { return Ok(()) };
    let (new, old): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), last.split('/').collect());
    if new <= old {
        return wrong(format!(
            "the part `{path}` comes after `{last}`: parts come in the order of their paths"
        ));
    }
    if new.starts_with(&old) {
        return wrong(format!("the part `{last}` cannot be the folder of `{path}` as well"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_plain_and_in_order() {
        for (path, last, fits) in [
            ("a", None, true),
            ("a/b.copy", None, true),
            ("a-b", Some("a/z"), true),
            ("b/x", Some("a"), true),
            ("b", Some("b"), false),
            ("a/z", Some("a-b"), false),
            ("b/x", Some("b"), false),
            ("", None, false),
            ("/a", None, false),
            ("a//b", None, false),
            ("a/../b", None, false),
            ("~manifest.json", None, false),
            ("ä", None, false),
            ("a b", None, false),
        ] {
            assert_eq!(check_path(path, last).is_ok(), fits, "{path} after {last:?}");
        }
    }
}
