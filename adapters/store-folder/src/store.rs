//! A folder as a store: it can be looked at, backed up and restored.

use std::path::{Path, PathBuf};
use std::time::Instant;

use async_trait::async_trait;
use contract::{Capabilities, Context, Dump, Error, ErrorKind, Load, Login, Probe, Store};
use glob::Pattern;

use crate::config::Config;
use crate::error::io_error;

/// The kind in configuration.
pub const KIND: &str = "folder";

/// A folder of files.
pub struct FolderStore {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) exclude: Vec<Pattern>,
}

/// The folder `config` names, below `project_dir` if it is relative. Nothing is read yet.
///
/// # Errors
///
/// `Invalid`: a pattern that is none.
pub fn open(name: &str, config: &Config, project_dir: &Path) -> Result<FolderStore, Error> {
    config.validate().map_err(|error| error.with("store", name))?;
    let path = project_dir.join(&config.path);
    Ok(FolderStore { name: name.to_owned(), path, exclude: config.patterns()? })
}

impl FolderStore {
    /// The folder itself, with links to it followed.
    pub(crate) fn folder(&self) -> Result<PathBuf, Error> {
        let path = self.path.canonicalize().map_err(|cause| {
            io_error("there is no folder", &self.path, cause)
                .with("store", &self.name)
                .hint("make it, or correct `path`")
        })?;
        if path.is_dir() {
            return Ok(path);
        }
        Err(Error::new(ErrorKind::Invalid, "`path` names no folder")
            .with("store", &self.name)
            .with("path", path.display())
            .hint("name the folder that the files are in"))
    }
}

#[async_trait]
impl Store for FolderStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn probe(&self, _ctx: &Context) -> Result<Probe, Error> {
        let started = Instant::now();
        let path = self.folder()?;
        std::fs::read_dir(&path)
            .map_err(|cause| io_error("the folder cannot be read", &path, cause).with("store", &self.name))?;
        let can_write = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).is_ok();
        let address = path.display().to_string();
        Ok(Probe {
            version: "of files".into(),
            identity: address.clone(),
            address,
            reader: Login {
                user: format!("uid {}", rustix::process::geteuid().as_raw()),
                superuser: false,
                owner: false,
                can_write,
            },
            writer: None,
            read_only_by:
                "nothing: a folder is only read, and written where a restore puts a new one in its place"
                    .into(),
            encrypted: false,
            pooler: None,
            standby: None,
            connect_ms: started.elapsed().as_secs_f64() * 1e3,
        })
    }

    fn dump(&self) -> Option<&dyn Dump> {
        Some(self)
    }

    fn load(&self) -> Option<&dyn Load> {
        Some(self)
    }

    async fn close(&self) {}
}
