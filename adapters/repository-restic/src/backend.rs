//! Our files, as the library wants to see them, and what each kind of work may do with them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use contract::Context;
use rustic_core::{
    BytesList, FileType, Id, ReadBackend, RepositoryBackends, RepositoryOptions, RusticResult, WriteBackend,
};

use crate::error::{Fault, FaultKind, OrFault};
use crate::lock::Held;
use crate::objects::{Found, Objects};
use crate::run::{Run, stopped};
use crate::seal::{Key, name_of};

/// Fewer bytes than any pack has: a sealed header of one entry and its length.
const PACK_BYTES_MIN: u64 = 73;

/// What this work may do.
pub(crate) enum Access {
    /// Nothing but read.
    Read,
    /// The same where files are damaged: what cannot be read is passed over, and what can be had otherwise is made up.
    Salvage {
        /// A config for a repository whose own cannot be read.
        config: Option<Bytes>,
        /// Tells packs that say what is in them from those that do not.
        key: Key,
    },
    /// Make the repository.
    Create,
    /// Add a backup, as long as its run says so.
    Backup(Arc<Run>),
    /// Write and remove indexes and packs under an exclusive lock.
    Prune(Arc<Held>),
    /// Write and remove indexes, beside others.
    RepairIndex(Arc<Held>, Key),
}

/// One piece of work on a repository.
pub(crate) struct Backend {
    ctx: Context,
    objects: Arc<dyn Objects>,
    access: Access,
    /// The first failure: what the library reports may be a consequence of it.
    first: Mutex<Option<Fault>>,
}

/// Where a file lies.
pub(crate) fn path_of(tpe: FileType, id: &Id) -> String {
    // The short form of an id is its `Display`; names need all of it.
    let hex = id.to_hex();
    match tpe {
        FileType::Config => "config".to_owned(),
        FileType::Pack => format!("data/{}/{}", &hex[..2], hex.as_str()),
        other => format!("{}/{}", other.dirname(), hex.as_str()),
    }
}

/// The id in a file's name, if it has one.
pub(crate) fn id_of(path: &str) -> Option<Id> {
    let name = path.rsplit('/').next()?;
    let plain = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| name.parse().ok())?
}

/// The library asks for packs and indexes that another file names: such a one that is not there is damage.
fn named_elsewhere(tpe: FileType, fault: Fault) -> Fault {
    match (tpe, fault.kind) {
        (FileType::Pack | FileType::Index, FaultKind::Missing) => {
            Fault::new(FaultKind::Damaged, format!("a file of the repository is missing: {fault}"))
        }
        _ => fault,
    }
}

/// A file whose name is the hash of its bytes.
pub(crate) fn read_named(objects: &dyn Objects, path: &str) -> Result<Bytes, Fault> {
    let bytes = objects.read(path)?;
    if bytes.is_empty() {
        return Err(Fault::damaged(path, "it is empty"));
    }
    if path.rsplit('/').next() != Some(&name_of(&bytes)) {
        return Err(Fault::damaged(path, "its name is not the hash of its bytes"));
    }
    Ok(bytes)
}

impl Backend {
    pub(crate) fn new(ctx: &Context, objects: &Arc<dyn Objects>, access: Access) -> Arc<Self> {
        Arc::new(Self { ctx: ctx.clone(), objects: Arc::clone(objects), access, first: Mutex::new(None) })
    }

    /// The library's repository over it.
    pub(crate) fn repository(self: &Arc<Self>) -> Result<rustic_core::Repository<()>, Fault> {
        let backend: Arc<dyn WriteBackend> = Arc::clone(self) as Arc<dyn WriteBackend>;
        // Its cache would answer with what was never written, and fill the home folder.
        let options = RepositoryOptions::default().no_cache(true);
        rustic_core::Repository::new(&options, &RepositoryBackends::new(backend, None))
            .or_fault("open the repository")
    }

    /// The same, opened.
    pub(crate) fn open(
        self: &Arc<Self>,
        key: &Key,
    ) -> Result<rustic_core::Repository<rustic_core::OpenStatus>, Fault> {
        self.repository()?.open(&key.credentials()).or_fault("open the repository")
    }

    /// What went wrong first here, else what the library says.
    pub(crate) fn explain(&self, fault: Fault) -> Fault {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or(fault)
    }

    fn noted<T>(&self, answer: Result<T, Fault>) -> RusticResult<T> {
        answer.map_err(|fault| {
            if let Access::Backup(run) = &self.access {
                run.fail(fault.clone());
            }
            self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| fault.clone());
            fault.into()
        })
    }

    fn go_on(&self) -> Result<(), Fault> {
        stopped(&self.ctx).map_or(Ok(()), Err)
    }

    fn listed(&self, tpe: FileType) -> Result<Vec<(Id, u32)>, Fault> {
        self.go_on()?;
        let salvages = matches!(self.access, Access::Salvage { .. });
        if tpe == FileType::Config {
            if let Access::Salvage { config: Some(config), .. } = &self.access {
                return Ok(vec![(Id::default(), u32::try_from(config.len()).unwrap_or(u32::MAX))]);
            }
            return match self.objects.read("config") {
                Ok(config) => Ok(vec![(Id::default(), u32::try_from(config.len()).unwrap_or(u32::MAX))]),
                Err(fault) if fault.kind == FaultKind::Missing => Ok(Vec::new()),
                Err(fault) => Err(fault),
            };
        }
        let mut listed = Vec::new();
        for found in self.objects.list(tpe.dirname())? {
            let Some(id) = id_of(&found.path) else { continue };
            // One such pack would end the whole reading, by an error or a panic of the library.
            let leave_out = match (&self.access, tpe) {
                (Access::Salvage { .. }, FileType::Index) => read_named(&*self.objects, &found.path)
                    .is_err_and(|fault| fault.kind == FaultKind::Damaged),
                (Access::Salvage { key, .. } | Access::RepairIndex(_, key), FileType::Pack) => {
                    !self.has_header(key, &found)?
                }
                _ => false,
            };
            if leave_out {
                continue;
            }
            let bytes = match u32::try_from(found.bytes) {
                Ok(bytes) => bytes,
                Err(_) if salvages => continue,
                Err(_) => return Err(Fault::damaged(&found.path, "no file of a repository is that long")),
            };
            listed.push((id, bytes));
        }
        Ok(listed)
    }

    /// Whether a pack ends with a list of what is in it: sealed, and its length behind it.
    fn has_header(&self, key: &Key, pack: &Found) -> Result<bool, Fault> {
        const LENGTH_BYTES: u64 = 4;
        if pack.bytes < PACK_BYTES_MIN {
            return Ok(false);
        }
        let end = pack.bytes - LENGTH_BYTES;
        let read = || {
            let length = self.objects.read_range(&pack.path, end, LENGTH_BYTES)?;
            let length = u64::from(u32::from_le_bytes([length[0], length[1], length[2], length[3]]));
            match end.checked_sub(length) {
                Some(start) => self
                    .objects
                    .read_range(&pack.path, start, length)
                    .map(|sealed| key.open(&sealed).is_some()),
                None => Ok(false),
            }
        };
        match read() {
            Err(fault) if matches!(fault.kind, FaultKind::Damaged | FaultKind::Missing) => Ok(false),
            other => other,
        }
    }

    fn read(&self, tpe: FileType, id: &Id) -> Result<Bytes, Fault> {
        self.go_on()?;
        let path = path_of(tpe, id);
        match (tpe, &self.access) {
            (FileType::Config, Access::Salvage { config: Some(config), .. }) => Ok(config.clone()),
            (FileType::Config | FileType::Pack, _) => self.objects.read(&path),
            _ => read_named(&*self.objects, &path),
        }
        .map_err(|fault| named_elsewhere(tpe, fault))
    }

    fn write(&self, tpe: FileType, id: &Id, content: BytesList) -> Result<(), Fault> {
        self.go_on()?;
        let path = path_of(tpe, id);
        let may = match (&self.access, tpe) {
            (Access::Create, FileType::Config) => true,
            (Access::Backup(run), FileType::Pack) => {
                run.may_write()?;
                true
            }
            (Access::Backup(run), FileType::Index) => {
                run.may_index()?;
                true
            }
            (Access::Backup(run), FileType::Snapshot) => {
                run.may_commit()?;
                true
            }
            (Access::Prune(held), FileType::Pack | FileType::Index)
            | (Access::RepairIndex(held, _), FileType::Index) => {
                held.check()?;
                true
            }
            _ => false,
        };
        if !may {
            return Err(Fault::new(FaultKind::Denied, format!("this work may not write `{path}`")));
        }
        self.objects.create(&path, &content.into_vec())?;
        if let (Access::Backup(run), FileType::Pack) = (&self.access, tpe) {
            run.wrote_pack(*id);
        }
        Ok(())
    }

    fn take_away(&self, tpe: FileType, id: &Id) -> Result<(), Fault> {
        self.go_on()?;
        let path = path_of(tpe, id);
        match (&self.access, tpe) {
            (Access::Prune(held), FileType::Pack | FileType::Index)
            | (Access::RepairIndex(held, _), FileType::Index) => held.check()?,
            _ => return Err(Fault::new(FaultKind::Denied, format!("this work may not remove `{path}`"))),
        }
        self.objects.remove(&path)
    }
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.objects.address()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.noted(self.listed(tpe))
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        self.noted(self.read(tpe, id))
    }

    fn read_partial(
        &self,
        tpe: FileType,
        id: &Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        let read = self
            .go_on()
            .and_then(|()| self.objects.read_range(&path_of(tpe, id), u64::from(offset), u64::from(length)))
            .map_err(|fault| named_elsewhere(tpe, fault));
        self.noted(read)
    }

    fn warmup_path(&self, tpe: FileType, id: &Id) -> String {
        path_of(tpe, id)
    }
}

impl WriteBackend for Backend {
    fn create(&self) -> RusticResult<()> {
        self.noted(self.objects.prepare())
    }

    fn write_bytes(&self, tpe: FileType, id: &Id, _cacheable: bool, content: BytesList) -> RusticResult<()> {
        self.noted(self.write(tpe, id, content))
    }

    fn remove(&self, tpe: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        self.noted(self.take_away(tpe, id))
    }
}
