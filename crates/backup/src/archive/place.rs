//! Archives in a folder.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use contract::cold::ArchivePlace;
use contract::{Context, Error, ErrorKind};

/// A folder of this machine.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at this path, which is made when it is first needed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

pub(super) fn failed(path: &Path, error: &std::io::Error) -> Error {
    let (kind, message) = match error.kind() {
        std::io::ErrorKind::NotFound => (ErrorKind::NotFound, "there is no such file"),
        std::io::ErrorKind::AlreadyExists => (ErrorKind::Conflict, "the file is there already"),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            (ErrorKind::LimitExceeded, "the disk is full")
        }
        std::io::ErrorKind::PermissionDenied => (ErrorKind::Denied, "the file may not be opened"),
        _ => (ErrorKind::Unavailable, "the file cannot be read or written"),
    };
    let out = Error::new(kind, message).with("file", path.display()).because(error.to_string());
    if kind == ErrorKind::LimitExceeded {
        out.hint("make room; nothing was deleted from the store")
    } else {
        out
    }
}

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let mut source = File::open(from).map_err(|error| failed(from, &error))?;
    let mut target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|error| failed(to, &error))?;
    let mut piece = vec![0; PIECE];
    loop {
        let read = source.read(&mut piece).map_err(|error| failed(from, &error))?;
        if read == 0 {
            break;
        }
        target.write_all(&piece[..read]).map_err(|error| failed(to, &error))?;
    }
    target.sync_all().map_err(|error| failed(to, &error))
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(folder, &error))
}

/// What the name of a copy ends in that is not whole yet.
const PART: &str = ".part";

/// Whether a file is a copy that has no name yet.
fn is_part(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.strip_prefix('.').is_some_and(|rest| rest.strip_suffix(PART).is_some())
}

/// Copies beside, and gives the copy its name only when all of it is there.
fn put(root: &Path, name: &str, file: &Path) -> Result<(), Error> {
    let target = root.join(name);
    let folder = target.parent().unwrap_or(root).to_owned();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| failed(&folder, &error))?;
    let beside = folder.join(format!(".{}{PART}", uuid::Uuid::now_v7().simple()));
    // A hard link does not replace what has the name already, unlike a rename.
    let done = copy(file, &beside)
        .and_then(|()| std::fs::hard_link(&beside, &target).map_err(|error| failed(&target, &error)));
    let removed = std::fs::remove_file(&beside);
    done?;
    removed.map_err(|error| failed(&beside, &error))?;
    sync_folder(&folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

fn collect(root: &Path, folder: &Path, names: &mut Vec<String>) -> Result<(), Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(folder, &error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| failed(folder, &error))?.path();
        if path.is_dir() {
            collect(root, &path, names)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            names.push(name.display().to_string());
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    ctx: &Context,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    ctx.run(async { Ok(()) }).await?;
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Canceled, "the runtime is shutting down")))
}

#[async_trait]
impl ArchivePlace for Folder {
    fn address(&self) -> String {
        self.0.display().to_string()
    }

    async fn put(&self, ctx: &Context, name: &str, file: &Path) -> Result<(), Error> {
        let (root, name, file) = (self.0.clone(), name.to_owned(), file.to_owned());
        blocking(ctx, move || put(&root, &name, &file)).await
    }

    async fn get(&self, ctx: &Context, name: &str, file: &Path) -> Result<(), Error> {
        let (from, file) = (self.0.join(name), file.to_owned());
        blocking(ctx, move || copy(&from, &file)).await
    }

    async fn list(&self, ctx: &Context, prefix: &str) -> Result<Vec<String>, Error> {
        let (root, prefix) = (self.0.clone(), prefix.to_owned());
        blocking(ctx, move || {
            let mut names = Vec::new();
            let folder = prefix.rsplit_once('/').map_or(root.clone(), |(folder, _)| root.join(folder));
            collect(&root, &folder, &mut names)?;
            // Copies that were cut short have no name yet.
            names.retain(|name| name.starts_with(&prefix) && !is_part(name));
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn remove(&self, ctx: &Context, name: &str) -> Result<(), Error> {
        let path = self.0.join(name);
        blocking(ctx, move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&path, &error)),
            _ => {
                // The folder goes with its last file.
                if let Some(folder) = path.parent()
                    && std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
                {
                    std::fs::remove_dir(folder).map_err(|error| failed(folder, &error))?;
                }
                Ok(())
            }
        })
        .await
    }

    async fn clean(&self, ctx: &Context, prefix: &str) -> Result<(), Error> {
        let (root, prefix) = (self.0.clone(), prefix.to_owned());
        blocking(ctx, move || {
            let mut names = Vec::new();
            let folder = prefix.rsplit_once('/').map_or(root.clone(), |(folder, _)| root.join(folder));
            collect(&root, &folder, &mut names)?;
            for path in names.iter().filter(|name| is_part(name)).map(|name| root.join(name)) {
                std::fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use contract::Actor;

    use super::*;

    #[tokio::test]
    async fn what_is_there_is_never_replaced_and_what_was_cut_short_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Context::new("shop", Actor::local());
        let place = Folder::new(dir.path().join("cold"));
        assert_eq!(place.list(&ctx, "shop/").await.unwrap(), [""; 0]);
        let file = dir.path().join("one");
        std::fs::write(&file, "one").unwrap();
        place.put(&ctx, "shop/rule/a/rows", &file).await.unwrap();
        std::fs::write(&file, "two").unwrap();
        let error = place.put(&ctx, "shop/rule/a/rows", &file).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let cut = dir.path().join("cold/shop/rule/a/.x.part");
        std::fs::write(&cut, "cut").unwrap();
        assert_eq!(place.list(&ctx, "shop/rule/").await.unwrap(), ["shop/rule/a/rows"]);
        place.clean(&ctx, "shop/rule/").await.unwrap();
        assert!(!cut.exists());
        let copy = dir.path().join("copy");
        place.get(&ctx, "shop/rule/a/rows", &copy).await.unwrap();
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), "one");
        place.remove(&ctx, "shop/rule/a/rows").await.unwrap();
        place.remove(&ctx, "shop/rule/a/rows").await.unwrap();
        assert_eq!(
            place.get(&ctx, "shop/rule/a/rows", &dir.path().join("b")).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}
