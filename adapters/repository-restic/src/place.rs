//! One of the two repositories under a root: what it is cut for, where it lies, and whether it is there.

use std::sync::Arc;

use contract::{Clock, Context, Error, ErrorKind, Layout};
use rustic_core::repofile::{Chunker, ConfigFile};
use rustic_core::{ConfigOptions, KeyOptions};

use crate::backend::{Access, Backend, read_named};
use crate::error::{Fault, FaultKind, OrFault};
use crate::lock::{Held, Sharing, Timing};
use crate::objects::Objects;
use crate::seal::Key;
use crate::snapshot;

/// One repository.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) layout: Layout,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) timing: Timing,
}

/// The folder of a layout's repository.
pub(crate) fn folder_of(layout: Layout) -> &'static str {
    match layout {
        Layout::Stream => "stream",
        Layout::Pages => "pages",
    }
}

/// Runs what blocks beside the runtime. It looks at `ctx` itself, in each call to the repository's files.
pub(crate) async fn blocking<T: Send + 'static>(
    ctx: &Context,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Error> {
    if let Some(fault) = crate::run::stopped(ctx) {
        return Err(fault.into());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer.map_err(Error::from),
        Err(error) => Err(panicked().because(error)),
    }
}

/// The library panics on some damage that it should report.
pub(crate) fn panicked() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "reading the repository ended in a panic, as it does on some kinds of damage",
    )
    .hint("check the repository")
}

impl Place {
    pub(crate) fn folder(&self) -> &'static str {
        folder_of(self.layout)
    }

    pub(crate) fn lock(
        &self,
        key: &Arc<Key>,
        clock: &Arc<dyn Clock>,
        sharing: Sharing,
    ) -> Result<Held, Fault> {
        Held::take(&self.objects, key, clock, sharing, self.timing)
    }

    /// How new data is cut and packed.
    fn options(&self) -> Result<ConfigOptions, Fault> {
        let bytes = |text: &str| {
            text.parse().map_err(|error| {
                Fault::new(FaultKind::Unavailable, format!("a size is not understood: {error}"))
            })
        };
        let mut options = ConfigOptions::default();
        options.set_version = Some(2);
        options.set_compression = Some(COMPRESSION);
        // Each new blob is decrypted and unpacked again before it is written.
        options.set_extra_verify = Some(true);
        // Packs that grow with the repository would let the memory of a backup grow with it.
        options.set_datapack_size = Some(bytes("16MiB")?);
        options.set_datapack_growfactor = Some(0);
        options.set_treepack_size = Some(bytes("4MiB")?);
        options.set_treepack_growfactor = Some(0);
        match self.layout {
            Layout::Stream => options.set_chunker = Some(Chunker::Rabin),
            Layout::Pages => {
                options.set_chunker = Some(Chunker::FixedSize);
                options.set_chunk_size = Some(bytes("128KiB")?);
            }
        }
        Ok(options)
    }

    /// Whether there is a repository that this key opens, and that cuts data as it should.
    pub(crate) fn look(&self, key: &Key) -> Result<ConfigFile, Fault> {
        let at = format!("{}/{}", self.folder(), "config");
        let sealed = match self.objects.read("config") {
            Ok(sealed) => sealed,
            Err(fault) if fault.kind == FaultKind::Missing => {
                return Err(if self.objects.list("snapshots")?.is_empty() {
                    Fault::new(
                        FaultKind::Missing,
                        format!("no repository is at `{}`", self.objects.address()),
                    )
                } else if self.is_foreign(key)? {
                    self.foreign()
                } else {
                    Fault::damaged(&at, "it is missing").hint("clean the repository: that writes a new one")
                });
            }
            Err(fault) => return Err(fault),
        };
        let Some(json) = key.open_record(&sealed) else {
            return Err(if self.opened(key)?.contains(&true) {
                Fault::damaged(&at, "it does not open with the key that opens the rest")
                    .hint("clean the repository: that writes a new one")
            } else {
                self.foreign()
            });
        };
        let config: ConfigFile = serde_json::from_slice(&json)
            .map_err(|error| Fault::damaged(&at, &format!("it is no config: {error}")))?;
        let expected = match self.layout {
            Layout::Stream => Chunker::Rabin,
            Layout::Pages => Chunker::FixedSize,
        };
        if config.version != 2 || config.chunker() != expected {
            return Err(Fault::damaged(
                &at,
                "another program has rewritten it, and data would be cut otherwise",
            )
            .hint("clean the repository: that writes a new one"));
        }
        Ok(config)
    }

    fn foreign(&self) -> Fault {
        Fault::new(
            FaultKind::Foreign,
            format!("the key does not open the repository at `{}`", self.objects.address()),
        )
        .hint("was it made with another master key?")
    }

    /// Of some of the sound files that lie there, whether the key opens each.
    fn opened(&self, key: &Key) -> Result<Vec<bool>, Fault> {
        /// One that opens is proof; several are tried because one may be damaged.
        const TRIED: usize = 16;
        let mut opened = Vec::new();
        for folder in ["snapshots", "index"] {
            for found in self.objects.list(folder)?.iter().take(TRIED) {
                match read_named(&*self.objects, &found.path) {
                    Ok(sealed) => opened.push(key.open(&sealed).is_some()),
                    Err(fault) if matches!(fault.kind, FaultKind::Missing | FaultKind::Damaged) => {}
                    Err(fault) => return Err(fault),
                }
            }
        }
        Ok(opened)
    }

    /// Whether there are sound files, and the key opens none of them.
    fn is_foreign(&self, key: &Key) -> Result<bool, Fault> {
        let opened = self.opened(key)?;
        Ok(!opened.is_empty() && !opened.contains(&true))
    }

    /// Refuses a key that opens nothing of what is there; what is damaged or missing is somebody else's concern.
    pub(crate) fn refuse_foreign(&self, key: &Key) -> Result<(), Fault> {
        match self.look(key) {
            Err(fault) if !matches!(fault.kind, FaultKind::Damaged | FaultKind::Missing) => Err(fault),
            _ => Ok(()),
        }
    }

    /// Makes the repository, if there is none.
    pub(crate) fn create(&self, ctx: &Context, key: &Key) -> Result<(), Fault> {
        match self.look(key) {
            Ok(_) => return Ok(()),
            Err(fault) if fault.kind == FaultKind::Missing => {}
            Err(fault) if fault.kind == FaultKind::Foreign => {
                return Err(Fault::new(
                    FaultKind::Locked,
                    format!("another repository is at `{}`", self.objects.address()),
                )
                .hint("give another folder, or put the key of that repository into the vault"));
            }
            Err(fault) => return Err(fault),
        }
        self.write_config(ctx, key)
    }

    /// Writes a config where none is.
    pub(crate) fn write_config(&self, ctx: &Context, key: &Key) -> Result<(), Fault> {
        let backend = Backend::new(ctx, &self.objects, Access::Create);
        backend
            .repository()?
            .init(&key.credentials(), &KeyOptions::default(), &self.options()?)
            .or_fault("make the repository")
            .map(|_| ())
            .map_err(|fault| backend.explain(fault))
    }

    /// What lies there, as records of backups; refuses where the key opens nothing.
    pub(crate) fn records(&self, key: &Key) -> Result<(snapshot::Records, Option<Fault>), Fault> {
        let config = match self.look(key) {
            Ok(_) => None,
            Err(fault) if fault.kind == FaultKind::Damaged => Some(fault),
            Err(fault) => return Err(fault),
        };
        Ok((snapshot::read_all(&*self.objects, key)?, config))
    }
}

/// zstd's level.
const COMPRESSION: i32 = 1;
