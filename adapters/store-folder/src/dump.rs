//! Taking a folder out: each file in parts cut at fixed places, and an index of everything as the last parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    BackupMethod, Context, Dump, DumpOptions, Dumped, Error, ErrorKind, Layout, Part, PartBody, PartSink,
    Preflight, RecoveryPoint, RowSum, Store, sha256_hex,
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::entry::{Entry, Kind, top};
use crate::store::{FolderStore, KIND};
use crate::walk::{Take, Walk, Watch, Watcher, entry, is_excluded, unreadable};

/// Parts on their way to the repository.
const PARTS_IN_FLIGHT_MAX: usize = 2;
/// Bytes of one part of the index.
const INDEX_BYTES: usize = 8 << 20;

/// What a walk came to.
struct Walked {
    sums: BTreeMap<String, RowSum>,
    index: Vec<Bytes>,
    /// SHA-256 of the paths and kinds, in order.
    shape: String,
    left_out: Vec<String>,
}

/// Sends parts away, and collects the index.
struct Sending<'a> {
    parts: &'a mpsc::Sender<Part>,
    stop: &'a dyn Fn() -> Option<Error>,
    next: u64,
    sums: BTreeMap<String, RowSum>,
    index: Vec<Bytes>,
    page: Vec<u8>,
    shape: Vec<u8>,
}

/// The path of a file's part.
pub(crate) fn part_path(number: u64) -> String {
    format!("files/{number:012}")
}

/// The path of a part of the index.
pub(crate) fn index_path(number: usize) -> String {
    format!("index/{number:06}")
}

impl Take for Sending<'_> {
    fn part(&mut self, bytes: Bytes) -> Result<u64, Error> {
        if let Some(error) = (self.stop)() {
            return Err(error);
        }
        let number = self.next;
        self.next += 1;
        let part = Part { path: part_path(number), body: PartBody::Bytes(bytes) };
        // Nobody takes it any more: the error of whoever did is the one to report.
        self.parts
            .blocking_send(part)
            .map_err(|_| Error::new(ErrorKind::Canceled, "nobody takes the parts"))?;
        Ok(number)
    }

    fn entry(&mut self, path: &Path, entry: Entry) -> Result<(), Error> {
        if let Some(error) = (self.stop)() {
            return Err(error);
        }
        let row = entry.row();
        self.sums.entry(top(path)).or_default().add([row.as_slice()]);
        self.shape.extend_from_slice(&sha2_of(&row));
        let line = serde_json::to_vec(&entry).expect("an entry is JSON");
        if !self.page.is_empty() && self.page.len() + line.len() > INDEX_BYTES {
            self.index.push(std::mem::take(&mut self.page).into());
        }
        self.page.extend_from_slice(&line);
        self.page.push(b'\n');
        Ok(())
    }
}

fn sha2_of(row: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(row).into()
}

impl FolderStore {
    /// Bytes of everything that would be taken.
    fn size(&self, root: &Path) -> Result<u64, Error> {
        let mut bytes = 0;
        let mut waiting = vec![PathBuf::new()];
        while let Some(folder) = waiting.pop() {
            let full = root.join(&folder);
            for listed in std::fs::read_dir(&full).map_err(|cause| unreadable(&full, cause))?.flatten() {
                let path = folder.join(listed.file_name());
                // What vanishes meanwhile does not count.
                let Ok(metadata) = listed.metadata() else { continue };
                if is_excluded(&self.exclude, &path) {
                    continue;
                }
                if metadata.is_dir() {
                    waiting.push(path);
                } else if metadata.is_file() {
                    bytes += metadata.len();
                }
            }
        }
        Ok(bytes)
    }

    /// As [`Dump::dump`], telling each moment at which others may write.
    pub(crate) async fn dump_watched(
        &self,
        ctx: &Context,
        sink: &dyn PartSink,
        watch: Watcher,
    ) -> Result<Dumped, Error> {
        let folder = self.folder()?;
        let at = ctx.now();
        let itself = folder.symlink_metadata().map_err(|cause| unreadable(&folder, cause))?;
        let itself = entry(Path::new("."), &itself, Kind::Folder);
        let (sender, mut parts) = mpsc::channel::<Part>(PARTS_IN_FLIGHT_MAX);
        let (root, exclude, canceled) = (folder.clone(), self.exclude.clone(), ctx.cancellation().clone());
        let reading = tokio::task::spawn_blocking(move || {
            let stop = || canceled.is_cancelled().then(|| Error::new(ErrorKind::Canceled, "canceled"));
            read(&root, &exclude, &sender, &stop, &*watch)
        });
        let taking = async {
            while let Some(part) = parts.recv().await {
                sink.put(part).await?;
            }
            Ok(())
        };
        let taken = ctx.run(taking).await;
        // Whoever still sends finds nobody.
        parts.close();
        let walked = reading.await.map_err(|cause| {
            Error::new(ErrorKind::Other, "reading the folder ended in the middle").because(cause)
        })?;
        taken?;
        let walked = walked.map_err(|error| error.with("store", &self.name))?;
        let pages = walked.index.len();
        for (number, bytes) in walked.index.into_iter().enumerate() {
            ctx.run(sink.put(Part { path: index_path(number), body: PartBody::Bytes(bytes) })).await?;
        }
        let address = folder.display().to_string();
        Ok(Dumped {
            kind: KIND.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: address.clone(),
            address,
            method: BackupMethod::Logical,
            layout: Layout::Stream,
            point: RecoveryPoint { at, server_at: None, position: None, timeline: None },
            tables: walked.sums.into_iter().map(|(name, sum)| sum.of_table(name)).collect(),
            schema_sha256: walked.shape,
            needs: Vec::new(),
            left_out: walked.left_out,
            tools: Vec::new(),
            detail: json!({ "index": pages, "folder": itself }),
        })
    }
}

fn read(
    root: &Path,
    exclude: &[glob::Pattern],
    parts: &mpsc::Sender<Part>,
    stop: &dyn Fn() -> Option<Error>,
    watch: Watch<'_>,
) -> Result<Walked, Error> {
    let mut sending = Sending {
        parts,
        stop,
        next: 0,
        sums: BTreeMap::new(),
        index: Vec::new(),
        page: Vec::new(),
        shape: Vec::new(),
    };
    let mut walk = Walk::new(root, exclude, watch);
    walk.run(&mut sending)?;
    if !sending.page.is_empty() {
        sending.index.push(std::mem::take(&mut sending.page).into());
    }
    Ok(Walked {
        sums: sending.sums,
        index: sending.index,
        shape: sha256_hex(&sending.shape),
        left_out: walk.left_out.sentences(),
    })
}

#[async_trait]
impl Dump for FolderStore {
    fn methods(&self) -> Vec<BackupMethod> {
        vec![BackupMethod::Logical]
    }

    async fn preflight(&self, _ctx: &Context, options: &DumpOptions) -> Result<Preflight, Error> {
        if options.method != BackupMethod::Logical {
            let refusal = "a folder is only read file by file: take the method `logical`".to_owned();
            return Ok(Preflight { refusals: vec![refusal], ..Preflight::default() });
        }
        let folder = self.folder()?;
        let mut preflight = Preflight { bytes_expected: Some(self.size(&folder)?), ..Preflight::default() };
        if options.scratch.starts_with(&folder) {
            preflight.warnings.push(format!(
                "Steward's own scratch copies lie in this folder: put `{}` under `exclude`",
                options.scratch.strip_prefix(&folder).unwrap_or(&options.scratch).display()
            ));
        }
        Ok(preflight)
    }

    async fn dump(&self, ctx: &Context, options: &DumpOptions, sink: &dyn PartSink) -> Result<Dumped, Error> {
        if options.method != BackupMethod::Logical {
            return Err(self.unsupported(
                "a physical backup",
                "a folder has no pages",
                "take the method `logical`",
            ));
        }
        self.dump_watched(ctx, sink, Arc::new(|_, _| ())).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::sync::Mutex;

    use contract::{Actor, TestClock};

    use super::*;
    use crate::config::Config;
    use crate::walk::Moment;

    /// Keeps what it is given.
    #[derive(Default)]
    struct Sink(Mutex<BTreeMap<String, Bytes>>);

    #[async_trait]
    impl PartSink for Sink {
        async fn put(&self, part: Part) -> Result<(), Error> {
            let PartBody::Bytes(bytes) = part.body else { panic!("a folder makes no files of its own") };
            let mut parts = self.0.lock().unwrap();
            assert!(
                parts.last_key_value().is_none_or(|(last, _)| *last < part.path),
                "{} is in order",
                part.path
            );
            parts.insert(part.path, bytes);
            Ok(())
        }
    }

    /// Dumps a folder in which `change` is made at these moments; gives what was left out and the names in the index.
    async fn dumped(
        folder: &Path,
        change: impl Fn(&Path, Moment) + Send + Sync + 'static,
    ) -> Result<(Vec<String>, Vec<String>), Error> {
        let store = crate::open("docs", &Config::new(folder.display().to_string()), Path::new("/"))?;
        let clock = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().unwrap()));
        let ctx = Context::new("shop", Actor::local()).with_clock(clock);
        let sink = Sink::default();
        let dumped = store.dump_watched(&ctx, &sink, Arc::new(change)).await?;
        let parts = sink.0.lock().unwrap();
        let index: Vec<Entry> = parts
            .iter()
            .filter(|(path, _)| path.starts_with("index/"))
            .flat_map(|(_, page)| page.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()))
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let names = index.iter().map(|entry| entry.path.path().unwrap().display().to_string()).collect();
        Ok((dumped.left_out, names))
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), file).unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn what_vanishes_or_never_stands_still_is_named() {
        let folder = folder(&["a", "b", "c", "d"]);
        let root = folder.path().to_owned();
        let (left_out, names) = dumped(folder.path(), move |path, moment| match (path.to_str(), moment) {
            (Some("a"), Moment::Listed) | (Some("b"), Moment::Read) => {
                // The second time it is gone already.
                drop(std::fs::remove_file(root.join(path)));
            }
            (Some("c"), Moment::Read) => {
                use std::io::Write as _;
                let mut file = OpenOptions::new().append(true).open(root.join(path)).unwrap();
                file.write_all(b"more").unwrap();
            }
            _ => {}
        })
        .await
        .unwrap();
        assert_eq!(names, ["d"]);
        assert_eq!(
            left_out,
            [
                "a: it was taken away while the folder was read",
                "b: it was taken away while it was read",
                "c: it changed each time while it was read",
            ]
        );
    }

    #[tokio::test]
    async fn what_changed_once_is_read_again() {
        let folder = folder(&["a"]);
        let (root, times) = (folder.path().to_owned(), Mutex::new(0));
        let (left_out, names) = dumped(folder.path(), move |path, moment| {
            let mut times = times.lock().unwrap();
            if moment == Moment::Read && *times == 0 {
                *times += 1;
                std::fs::write(root.join(path), "something else").unwrap();
            }
        })
        .await
        .unwrap();
        assert_eq!((left_out, names), (vec![], vec!["a".to_owned()]));
    }

    #[tokio::test]
    async fn what_cannot_be_read_ends_the_dump() {
        // A folder that has become a file by the time it is read; for root there is no file that may not be read.
        let folder = folder(&[]);
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("z"), "z").unwrap();
        let root = folder.path().to_owned();
        let error = dumped(folder.path(), move |path, moment| {
            if path == Path::new("z") && moment == Moment::Listed {
                std::fs::remove_dir(root.join("sub")).unwrap();
                std::fs::write(root.join("sub"), "no folder").unwrap();
            }
        })
        .await
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("sub"), "{error}");
    }
}
