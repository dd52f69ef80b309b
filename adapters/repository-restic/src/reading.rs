//! Reading a backup back.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{Context, Error, ErrorKind, Kept, PART_BYTES_MAX, PartRecord, PartSource};
use rustic_core::repofile::{Node, NodeType};
use rustic_core::{IndexedFullStatus, Repository, TreeId};
use sha2::{Digest, Sha256};

use crate::backend::{Access, Backend};
use crate::error::{Fault, FaultKind, OrFault};
use crate::local::{create_private, sync_folder};
use crate::lock::Held;
use crate::objects::Objects;
use crate::place::blocking;
use crate::seal::{Key, hex};
use crate::snapshot;
use crate::source::{Before, Known, MANIFEST};

/// Deeper folders than any part has.
const DEPTH_MAX: usize = 64;

/// Longest manifest that is read.
const MANIFEST_BYTES_MAX: usize = 1 << 30;

/// A repository whose indexes are in memory.
pub(crate) type Indexed = Repository<IndexedFullStatus>;

/// A backup with where each of its files lies.
pub(crate) struct Opened {
    pub(crate) repository: Indexed,
    backend: Arc<Backend>,
    /// By path below the store's folder.
    files: BTreeMap<String, Node>,
    /// Keeps others from pruning meanwhile; none where nothing can be written.
    _held: Option<Held>,
}

/// Opens the repository as well as it can be: where an index is damaged, from what the packs say of themselves.
pub(crate) fn indexed(
    ctx: &Context,
    objects: &Arc<dyn Objects>,
    key: &Key,
) -> Result<(Arc<Backend>, Indexed), Fault> {
    let backend = Backend::new(ctx, objects, Access::Read);
    let opened = backend.open(key).and_then(|repository| repository.to_indexed().or_fault("read the index"));
    match opened {
        Ok(repository) => Ok((backend, repository)),
        Err(fault) if backend.explain(fault.clone()).kind == FaultKind::Damaged => {
            salvaged(ctx, objects, key)
        }
        Err(fault) => Err(backend.explain(fault)),
    }
}

/// Opens what is left of a damaged repository.
pub(crate) fn salvaged(
    ctx: &Context,
    objects: &Arc<dyn Objects>,
    key: &Key,
) -> Result<(Arc<Backend>, Indexed), Fault> {
    let read = Backend::new(ctx, objects, Access::Read);
    let config = match read.open(key) {
        Ok(_) => None,
        // For reading any config does: it says how new data is cut. The polynomial is the one of restic's documentation.
        Err(_) => Some(
            key.seal(
                format!(r#"{{"version":2,"id":"{}","chunker_polynomial":"25b468838dcb75"}}"#, "0".repeat(64))
                    .as_bytes(),
            )?
            .into(),
        ),
    };
    let backend = Backend::new(ctx, objects, Access::Salvage { config, key: key.copy() });
    let opened = backend
        .open(key)
        .and_then(|repository| repository.to_indexed_checked().or_fault("read the index and the packs"));
    let repository = opened.map_err(|fault| backend.explain(fault))?;
    Ok((backend, repository))
}

/// The files below a folder of a backup, by their paths in it.
fn files_in(repository: &Indexed, root: TreeId, folder: &str) -> Result<BTreeMap<String, Node>, Fault> {
    let mut files = BTreeMap::new();
    let tree = repository.get_tree(&root).or_fault("read the backup's folder")?;
    let mut open: Vec<(String, TreeId, usize)> = tree
        .nodes
        .iter()
        .filter(|node| node.name == folder && node.node_type == NodeType::Dir)
        .filter_map(|node| Some((String::new(), node.subtree?, 0)))
        .collect();
    while let Some((prefix, id, depth)) = open.pop() {
        if depth > DEPTH_MAX {
            return Err(Fault::new(FaultKind::Damaged, "the backup's folders do not end"));
        }
        for node in repository.get_tree(&id).or_fault("read a folder of the backup")?.nodes {
            let path = format!("{prefix}{}", node.name);
            match (&node.node_type, node.subtree) {
                (NodeType::Dir, Some(subtree)) => open.push((format!("{path}/"), subtree, depth + 1)),
                (NodeType::File, _) => {
                    files.insert(path, node);
                }
                _ => {}
            }
        }
    }
    Ok(files)
}

/// Whether the index knows where all bytes of these files are.
fn all_known(repository: &Indexed, files: &BTreeMap<String, Node>) -> bool {
    files
        .values()
        .flat_map(|node| node.content.iter().flatten())
        .all(|id| repository.get_index_entry(id).is_ok())
}

/// Opens a backup as it should be; what is damaged is an error.
pub(crate) fn open_sound(
    ctx: &Context,
    objects: &Arc<dyn Objects>,
    key: &Key,
    kept: &Kept,
) -> Result<Opened, Fault> {
    let (tree, store) = found(objects, key, kept)?;
    let backend = Backend::new(ctx, objects, Access::Read);
    let opened = backend.open(key).and_then(|repository| {
        let repository = repository.to_indexed().or_fault("read the index")?;
        let files = files_in(&repository, tree, store)?;
        Ok((repository, files))
    });
    let (repository, files) = opened.map_err(|fault| backend.explain(fault))?;
    Ok(Opened { repository, backend, files, _held: None })
}

/// Opens a backup, if need be past what is damaged.
pub(crate) fn open(
    ctx: &Context,
    objects: &Arc<dyn Objects>,
    key: &Key,
    kept: &Kept,
    held: Option<Held>,
) -> Result<Opened, Fault> {
    let (tree, store) = found(objects, key, kept)?;
    match open_sound(ctx, objects, key, kept) {
        Ok(opened) if all_known(&opened.repository, &opened.files) => {
            return Ok(Opened { _held: held, ..opened });
        }
        Ok(_) => {}
        Err(fault) if fault.kind == FaultKind::Damaged => {}
        Err(fault) => return Err(fault),
    }
    let (backend, repository) = salvaged(ctx, objects, key)?;
    let files = files_in(&repository, tree, store).map_err(|fault| backend.explain(fault))?;
    Ok(Opened { repository, backend, files, _held: held })
}

/// The root of a backup and the folder in it that holds the parts.
fn found<'a>(objects: &Arc<dyn Objects>, key: &Key, kept: &'a Kept) -> Result<(TreeId, &'a str), Fault> {
    let missing = || Fault::new(FaultKind::Missing, format!("there is no backup `{}`", kept.snapshot));
    let path = snapshot::path_of(&kept.snapshot).ok_or_else(missing)?;
    let record = snapshot::read(&**objects, key, &path).map_err(|fault| match fault.kind {
        FaultKind::Missing => missing(),
        _ => fault,
    })?;
    match &kept.store {
        Some(store) => Ok((record.tree, store)),
        None => Err(Fault::new(
            FaultKind::Missing,
            "the backup was not written by Steward, so it has no manifest",
        )
        .hint(format!("`restic restore {}` gives its files", kept.snapshot))),
    }
}

/// Counts and hashes what passes.
struct Measured<W> {
    inner: W,
    bytes: u64,
    bytes_max: u64,
    hash: Sha256,
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.bytes + buffer.len() as u64 > self.bytes_max {
            return Err(io::Error::other("it is longer than it was"));
        }
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Keeps the error of the target, which the library would only repeat in its own words.
struct Noting<'a, W> {
    inner: W,
    error: &'a mut Option<io::Error>,
}

impl<W: Write> Write for Noting<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.inner.write(buffer).inspect_err(|error| {
            // The error itself goes on; what is kept is its kind and text.
            let copy = error.raw_os_error().map_or_else(
                || io::Error::new(error.kind(), error.to_string()),
                io::Error::from_raw_os_error,
            );
            *self.error = Some(copy);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Opened {
    /// The manifest.
    pub(crate) fn manifest(&self) -> Result<Bytes, Fault> {
        let Some(node) = self.files.get(MANIFEST) else {
            return Err(Fault::new(FaultKind::Missing, "the backup has no manifest, so it is none"));
        };
        let bytes_max = node.meta.size.min(MANIFEST_BYTES_MAX as u64);
        let mut bytes = Vec::new();
        let mut into = Measured { inner: &mut bytes, bytes: 0, bytes_max, hash: Sha256::new() };
        self.dump(node, &mut into)?;
        if into.bytes != node.meta.size {
            return Err(Fault::damaged(MANIFEST, "it has another length than was written"));
        }
        Ok(bytes.into())
    }

    /// Its files, as a backup after it compares them with its own; `parts` are those that the manifest lists.
    pub(crate) fn known(&self, parts: &[PartRecord]) -> Before {
        let listed: HashMap<&str, &PartRecord> =
            parts.iter().map(|part| (part.path.as_str(), part)).collect();
        let known = |(path, node): (&String, &Node)| {
            let listed = listed.get(path.as_str()).filter(|part| part.bytes == node.meta.size);
            let known = Known {
                bytes: node.meta.size,
                sha256: listed.filter(|_| self.is_whole(node)).map(|part| part.sha256.clone()),
                mtime: node.meta.mtime,
                ctime: node.meta.ctime,
            };
            (path.clone(), known)
        };
        self.files.iter().map(known).collect()
    }

    /// Whether the index knows where all its bytes are.
    fn is_whole(&self, node: &Node) -> bool {
        let lengths = node
            .content
            .iter()
            .flatten()
            .map(|id| self.repository.get_index_entry(id).map(|entry| u64::from(entry.data_length())));
        lengths.sum::<Result<u64, _>>().is_ok_and(|bytes| bytes == node.meta.size)
    }

    /// Whether each of these parts is there with its length, and the index knows where its bytes are.
    pub(crate) fn has_all(&self, parts: &[PartRecord]) -> Result<(), Fault> {
        for part in parts {
            let node = self.files.get(&part.path);
            if !node.is_some_and(|node| node.meta.size == part.bytes && self.is_whole(node)) {
                return Err(Fault::damaged(&part.path, "it cannot be found again in the backup"));
            }
        }
        Ok(())
    }

    fn dump(&self, node: &Node, into: &mut impl Write) -> Result<(), Fault> {
        self.repository
            .dump(node, into)
            .or_fault("read the backup")
            .map_err(|fault| self.backend.explain(fault))
    }

    /// The bytes of a part, compared with what the manifest says of it.
    fn part(&self, record: &PartRecord, into: impl Write) -> Result<(), Fault> {
        let Some(node) = self.files.get(&record.path) else {
            return Err(Fault::damaged(
                &record.path,
                "the manifest lists it, and the backup does not have it",
            ));
        };
        let mut failed = None;
        let mut measured = Measured {
            inner: Noting { inner: into, error: &mut failed },
            bytes: 0,
            bytes_max: record.bytes,
            hash: Sha256::new(),
        };
        let dumped = self.dump(node, &mut measured);
        let (bytes, sha256) = (measured.bytes, hex(&measured.hash.finalize()));
        if let Some(error) = failed {
            return Err(Fault::io("write the part", &record.path, &error));
        }
        dumped?;
        if (bytes, &sha256) != (record.bytes, &record.sha256) {
            return Err(Fault::damaged(&record.path, "its bytes are not those that were written"));
        }
        Ok(())
    }
}

/// The parts of one backup.
pub(crate) struct Parts {
    opened: Arc<Opened>,
    ctx: Context,
    records: Vec<PartRecord>,
}

impl Parts {
    /// Refuses a backup that does not have all of these parts.
    pub(crate) fn new(ctx: Context, opened: Opened, records: Vec<PartRecord>) -> Result<Self, Fault> {
        match records.iter().find(|record| !opened.files.contains_key(&record.path)) {
            Some(record) => {
                Err(Fault::damaged(&record.path, "the manifest lists it, and the backup does not have it"))
            }
            None => Ok(Self { opened: Arc::new(opened), ctx, records }),
        }
    }

    fn record(&self, path: &str) -> Result<PartRecord, Error> {
        self.records
            .iter()
            .find(|record| record.path == path)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("the backup has no part `{path}`")))
    }
}

#[async_trait]
impl PartSource for Parts {
    fn parts(&self) -> &[PartRecord] {
        &self.records
    }

    async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let record = self.record(path)?;
        if record.bytes > PART_BYTES_MAX as u64 {
            return Err(Error::new(ErrorKind::Invalid, format!("the part `{path}` is too long for memory"))
                .hint("read it into a file"));
        }
        let opened = Arc::clone(&self.opened);
        blocking(&self.ctx, move || {
            let mut bytes = Vec::with_capacity(usize::try_from(record.bytes).unwrap_or_default());
            opened.part(&record, &mut bytes)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    async fn read_into(&self, path: &str, file: &Path) -> Result<(), Error> {
        let record = self.record(path)?;
        let opened = Arc::clone(&self.opened);
        let target = file.to_owned();
        blocking(&self.ctx, move || write_file(&opened, &record, &target)).await
    }
}

fn write_file(opened: &Opened, record: &PartRecord, target: &Path) -> Result<(), Fault> {
    let shown = target.display().to_string();
    let file = create_private(target).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Fault::new(FaultKind::Locked, format!("the file `{shown}` is there already"))
        }
        _ => Fault::io("make", &shown, &error),
    })?;
    let sync = |file: File| {
        file.sync_all()?;
        target.parent().map_or(Ok(()), |folder| {
            sync_folder(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
        })
    };
    let written = opened
        .part(record, &file)
        .and_then(|()| sync(file).map_err(|error| Fault::io("write", &shown, &error)));
    if written.is_err() {
        // The first error is the one to report.
        fs::remove_file(target).ok();
    }
    written
}
