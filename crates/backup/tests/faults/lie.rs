//! Repositories that do not do what they say. The runs are worth nothing unless they notice.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    BackupLabel, BackupWriter, CheckDepth, Committed, Context, Error, ErrorKind, Kept, Listing, Logs,
    MakeManifest, Part, PartBody, PartRecord, PartSink, PartSource, Pruned, Repository, RepositoryCheck,
    RepositoryKey, sha256_hex,
};
use repository_restic::ResticRepository;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;

use crate::run::files;

/// What a repository says that is not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Takes a part, lists it in the manifest, and keeps nothing of it.
    LosesAPart,
    /// Writes the manifest before the parts, and then fails.
    ManifestFirst,
    /// Gives other bytes than were written, without a word.
    OtherBytes,
    /// Gives another state of the same store, whole and with a manifest that fits.
    OlderState,
    /// Looks for no damage, and finds none.
    BlindCheck,
    /// Says that a backup is written, and takes its record away.
    NothingKept,
    /// Hides a backup from the list.
    HidesABackup,
    /// Takes one more backup off the list than it is told to.
    ForgetsMore,
    /// Deletes what backups still need.
    DeletesTheNeeded,
    /// Leaves its lock behind.
    LeavesItsLock,
    /// Writes the key into an error.
    TellsTheKey,
    /// Says that every passphrase opens it.
    OpensWithAny,
}

impl Lie {
    pub(crate) const ALL: [Self; 12] = [
        Self::LosesAPart,
        Self::ManifestFirst,
        Self::OtherBytes,
        Self::OlderState,
        Self::BlindCheck,
        Self::NothingKept,
        Self::HidesABackup,
        Self::ForgetsMore,
        Self::DeletesTheNeeded,
        Self::LeavesItsLock,
        Self::TellsTheKey,
        Self::OpensWithAny,
    ];

    /// What is done over it, what is said of it, and whether a file was damaged before.
    pub(crate) fn case(self) -> (&'static str, &'static str, bool) {
        match self {
            Self::LosesAPart | Self::ManifestFirst => ("backup", "does not come back", false),
            Self::OtherBytes => ("", "other bytes", false),
            Self::OlderState => ("", "another state", false),
            Self::BlindCheck => ("", "the damage is not found", true),
            Self::NothingKept => ("backup", "are not in the repository", false),
            Self::HidesABackup => ("", "are not in the repository", false),
            Self::ForgetsMore => ("prune", "are not in the repository", false),
            Self::DeletesTheNeeded => ("prune", "is found in what nobody harmed", false),
            Self::LeavesItsLock => ("backup", "locks are left", false),
            Self::TellsTheKey => ("backup", "a secret was said", false),
            Self::OpensWithAny => ("", "opens with a passphrase that is none", false),
        }
    }
}

pub(crate) struct Liar {
    pub(crate) inner: ResticRepository,
    pub(crate) lie: Lie,
    pub(crate) folder: PathBuf,
}

struct Writer {
    inner: Box<dyn BackupWriter>,
    lie: Lie,
    folder: PathBuf,
    lost: Mutex<Vec<PartRecord>>,
}

#[async_trait]
impl PartSink for Writer {
    async fn put(&self, part: Part) -> Result<(), Error> {
        if !matches!(self.lie, Lie::LosesAPart | Lie::ManifestFirst) {
            return self.inner.put(part).await;
        }
        let bytes = match part.body {
            PartBody::Bytes(bytes) => bytes.to_vec(),
            PartBody::File { path, .. } => std::fs::read(path).unwrap(),
        };
        let record = PartRecord { path: part.path, bytes: bytes.len() as u64, sha256: sha256_hex(&bytes) };
        self.lost.lock().await.push(record);
        Ok(())
    }
}

#[async_trait]
impl BackupWriter for Writer {
    async fn commit(self: Box<Self>, manifest: MakeManifest) -> Result<Committed, Error> {
        let lost = self.lost.into_inner();
        let committed = self.inner.commit(Box::new(move |parts| manifest(&[parts, &lost].concat()))).await?;
        match self.lie {
            Lie::ManifestFirst => Err(Error::new(ErrorKind::Unavailable, "the parts could not be written")),
            Lie::NothingKept => {
                std::fs::remove_file(self.folder.join("backups/pages/snapshots").join(&committed.snapshot))
                    .unwrap();
                Ok(committed)
            }
            Lie::LeavesItsLock => {
                let name = sha256_hex(b"a lock");
                std::fs::write(self.folder.join("backups/pages/locks").join(name), "").unwrap();
                Ok(committed)
            }
            _ => Ok(committed),
        }
    }

    async fn abandon(self: Box<Self>) {
        self.inner.abandon().await;
    }
}

struct Source {
    inner: Box<dyn PartSource>,
    lie: Lie,
}

#[async_trait]
impl PartSource for Source {
    fn parts(&self) -> &[PartRecord] {
        self.inner.parts()
    }

    async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let mut bytes = self.inner.read(path).await?.to_vec();
        if let (Lie::OtherBytes, Some(last)) = (self.lie, bytes.last_mut()) {
            *last ^= 1;
        }
        Ok(bytes.into())
    }

    async fn read_into(&self, path: &str, file: &Path) -> Result<(), Error> {
        self.inner.read_into(path, file).await?;
        if self.lie == Lie::OtherBytes {
            let mut bytes = std::fs::read(file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(file, bytes).unwrap();
        }
        Ok(())
    }
}

#[async_trait]
impl Repository for Liar {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn address(&self) -> String {
        self.inner.address()
    }

    fn logs(&self) -> Option<&dyn Logs> {
        self.inner.logs()
    }

    async fn changeable(&self, ctx: &Context) -> Option<String> {
        self.inner.changeable(ctx).await
    }

    async fn create(&self, ctx: &Context) -> Result<(), Error> {
        self.inner.create(ctx).await
    }

    async fn begin(&self, ctx: &Context, label: &BackupLabel) -> Result<Box<dyn BackupWriter>, Error> {
        if self.lie == Lie::TellsTheKey {
            let key = std::fs::read_to_string(self.folder.join("key")).unwrap();
            return Err(Error::new(ErrorKind::Unavailable, "the key is not taken").because(key));
        }
        let inner = self.inner.begin(ctx, label).await?;
        Ok(Box::new(Writer { inner, lie: self.lie, folder: self.folder.clone(), lost: Mutex::default() }))
    }

    async fn list(&self, ctx: &Context) -> Result<Listing, Error> {
        let mut listing = Repository::list(&self.inner, ctx).await?;
        if self.lie == Lie::HidesABackup {
            listing.kept.pop();
        }
        Ok(listing)
    }

    async fn manifest(&self, ctx: &Context, kept: &Kept) -> Result<Bytes, Error> {
        if self.lie == Lie::OlderState {
            // As one would find it who had put another file there and signed for it.
            let manifest = self.inner.manifest(ctx, kept).await?;
            let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
            let path = self.folder.join("other.db");
            if manifest["store"] == "app" {
                other_state(&self.folder.join("app.db"), &path);
                let bytes = std::fs::read(&path).unwrap();
                manifest["parts"][0]["bytes"] = bytes.len().into();
                manifest["parts"][0]["sha256"] = sha256_hex(&bytes).into();
            }
            return Ok(serde_json::to_vec(&manifest).unwrap().into());
        }
        self.inner.manifest(ctx, kept).await
    }

    async fn open(
        &self,
        ctx: &Context,
        kept: &Kept,
        parts: Vec<PartRecord>,
    ) -> Result<Box<dyn PartSource>, Error> {
        if self.lie == Lie::OlderState && kept.store.as_deref() == Some("app") {
            return Ok(Box::new(Other { parts, file: self.folder.join("other.db") }));
        }
        let inner = self.inner.open(ctx, kept, parts).await?;
        Ok(Box::new(Source { inner, lie: self.lie }))
    }

    async fn check(&self, ctx: &Context, depth: CheckDepth) -> Result<RepositoryCheck, Error> {
        if self.lie == Lie::BlindCheck {
            return Ok(RepositoryCheck::default());
        }
        self.inner.check(ctx, depth).await
    }

    async fn forget(&self, ctx: &Context, kept: &[Kept]) -> Result<(), Error> {
        let mut all = kept.to_vec();
        if self.lie == Lie::ForgetsMore {
            let listing = Repository::list(&self.inner, ctx).await?;
            all.extend(listing.kept.into_iter().rev().find(|one| !kept.contains(one)));
        }
        self.inner.forget(ctx, &all).await
    }

    async fn prune_plan(&self, ctx: &Context) -> Result<Pruned, Error> {
        self.inner.prune_plan(ctx).await
    }

    async fn prune(&self, ctx: &Context) -> Result<Pruned, Error> {
        let pruned = Repository::prune(&self.inner, ctx).await?;
        if self.lie == Lie::DeletesTheNeeded {
            std::fs::remove_file(&files(&self.folder.join("backups/stream/data"))[0]).unwrap();
        }
        Ok(pruned)
    }

    async fn clean(&self, ctx: &Context) -> Result<Vec<String>, Error> {
        self.inner.clean(ctx).await
    }

    async fn keys(&self, ctx: &Context) -> Result<Vec<RepositoryKey>, Error> {
        self.inner.keys(ctx).await
    }

    async fn add_key(
        &self,
        ctx: &Context,
        label: &str,
        passphrase: &SecretString,
    ) -> Result<RepositoryKey, Error> {
        self.inner.add_key(ctx, label, passphrase).await
    }

    async fn opens_with(
        &self,
        ctx: &Context,
        passphrase: &SecretString,
    ) -> Result<Option<RepositoryKey>, Error> {
        if self.lie == Lie::OpensWithAny {
            let length = passphrase.expose_secret().len();
            return Ok(Some(RepositoryKey {
                id: format!("{length:064}"),
                label: String::new(),
                created: None,
            }));
        }
        self.inner.opens_with(ctx, passphrase).await
    }

    async fn remove_key(&self, ctx: &Context, id: &str) -> Result<(), Error> {
        self.inner.remove_key(ctx, id).await
    }
}

/// A state that the store never had.
fn other_state(database: &Path, path: &Path) {
    std::fs::copy(database, path).unwrap();
    let other = rusqlite::Connection::open(path).unwrap();
    other.execute("UPDATE orders SET note = 'never' WHERE id = 7", []).unwrap();
}

/// A file in the place of every part.
struct Other {
    parts: Vec<PartRecord>,
    file: PathBuf,
}

#[async_trait]
impl PartSource for Other {
    fn parts(&self) -> &[PartRecord] {
        &self.parts
    }

    async fn read(&self, _path: &str) -> Result<Bytes, Error> {
        Ok(std::fs::read(&self.file).unwrap().into())
    }

    async fn read_into(&self, _path: &str, file: &Path) -> Result<(), Error> {
        std::fs::copy(&self.file, file)
            .map(|_| ())
            .map_err(|error| Error::new(ErrorKind::Unavailable, "it cannot be copied").because(error))
    }
}
