//! A folder of this machine.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{Fault, FaultKind};
use crate::objects::{Found, Objects};

/// Where files are written before they get their names.
const UNFINISHED: &str = "tmp";

/// Folders that restic expects.
const FOLDERS: [&str; 6] = ["data", "index", "keys", "locks", "snapshots", UNFINISHED];

/// A repository's folder.
pub(crate) struct Local {
    root: PathBuf,
}

impl Local {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn full(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Writes the bytes into a file without a name of its own yet.
    fn write_unfinished(&self, content: &[Bytes]) -> Result<PathBuf, Fault> {
        let path = self.full(&format!("{UNFINISHED}/{}", random_name()?));
        let written = create_private(&path).and_then(|mut file| {
            write_all(&mut file, content)?;
            file.sync_all()
        });
        match written {
            Ok(()) => Ok(path),
            Err(error) => {
                fs::remove_file(&path).ok();
                Err(Fault::io("write", &path.display().to_string(), &error))
            }
        }
    }

    /// Whether a file has exactly these bytes.
    fn holds(&self, path: &str, content: &[Bytes]) -> io::Result<bool> {
        let mut file = File::open(self.full(path))?;
        let mut buffer = vec![0; 64 << 10];
        for piece in content {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let wanted = rest.len().min(buffer.len());
                match file.read_exact(&mut buffer[..wanted]) {
                    Ok(()) if buffer[..wanted] == rest[..wanted] => rest = &rest[wanted..],
                    Ok(()) => return Ok(false),
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
        }
        let same = file.read(&mut buffer[..1])? == 0;
        if same {
            // Whoever wrote it may have been interrupted before it was durable.
            file.sync_all()?;
        }
        Ok(same)
    }
}

/// A new file that only its owner may read.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn write_all(file: &mut File, content: &[Bytes]) -> io::Result<()> {
    // A pack is many small blobs: a call for each would cost more than the writing.
    const SLICES: usize = 256;
    for group in content.chunks(SLICES) {
        let mut slices: Vec<IoSlice<'_>> = group.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn random_name() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    crate::seal::fill_random(&mut bytes)?;
    Ok(crate::seal::hex(&bytes))
}

fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    // Each in its parent, or with the parent's own name everything in it is lost.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync_folder(parent)
}

impl Objects for Local {
    fn address(&self) -> String {
        self.root.display().to_string()
    }

    fn prepare(&self) -> Result<(), Fault> {
        for folder in FOLDERS {
            let path = self.full(folder);
            make_folder(&path)
                .map_err(|error| Fault::io("make the folder", &path.display().to_string(), &error))?;
        }
        Ok(())
    }

    fn list(&self, folder: &str) -> Result<Vec<Found>, Fault> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let failed = |error: &io::Error| Fault::io("list", &folder, error);
            let entries = match fs::read_dir(self.full(&folder)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| failed(&error))?;
                // Whatever has another name than UTF-8 is not ours.
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = format!("{folder}/{name}");
                let about = match entry.metadata() {
                    Ok(about) => about,
                    // Taken away since the folder was read, such as a lock that was renewed.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(Fault::io("look at", &path, &error)),
                };
                if about.is_dir() {
                    folders.push(path);
                } else if about.is_file() {
                    let modified = about.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
                    found.push(Found {
                        path,
                        bytes: about.len(),
                        modified: modified.unwrap_or(Timestamp::UNIX_EPOCH),
                    });
                }
            }
        }
        Ok(found)
    }

    fn read(&self, path: &str) -> Result<Bytes, Fault> {
        fs::read(self.full(path)).map(Bytes::from).map_err(|error| Fault::io("read", path, &error))
    }

    fn read_range(&self, path: &str, start: u64, length: u64) -> Result<Bytes, Fault> {
        let read = || {
            let mut file = File::open(self.full(path))?;
            if file.metadata()?.len() < start.saturating_add(length) {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            file.seek(SeekFrom::Start(start))?;
            let mut bytes =
                vec![0; usize::try_from(length).map_err(|_| io::Error::from(ErrorKind::UnexpectedEof))?];
            file.read_exact(&mut bytes)?;
            Ok(Bytes::from(bytes))
        };
        read().map_err(|error: io::Error| match error.kind() {
            ErrorKind::UnexpectedEof => Fault::damaged(path, "it is too short"),
            _ => Fault::io("read", path, &error),
        })
    }

    fn create(&self, path: &str, content: &[Bytes]) -> Result<(), Fault> {
        let unfinished = self.write_unfinished(content)?;
        let target = self.full(path);
        let folder = target.parent().unwrap_or(&self.root);
        let give_name = || {
            match rename_new(&unfinished, &target) {
                // restic makes the folders of packs when it first needs them.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    make_folder(folder)?;
                    rename_new(&unfinished, &target)
                }
                other => other,
            }
        };
        let named = give_name().or_else(|error| {
            fs::remove_file(&unfinished).ok();
            match error.kind() {
                ErrorKind::AlreadyExists if self.holds(path, content)? => Ok(()),
                _ => Err(error),
            }
        });
        named.and_then(|()| sync_folder(folder)).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Fault::new(FaultKind::Locked, format!("`{path}` is there already with other bytes"))
            }
            _ => Fault::io("write", path, &error),
        })
    }

    fn remove(&self, path: &str) -> Result<(), Fault> {
        let target = self.full(path);
        match fs::remove_file(&target) {
            Ok(()) => sync_folder(target.parent().unwrap_or(&self.root))
                .map_err(|error| Fault::io("remove", path, &error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Fault::io("remove", path, &error)),
        }
    }

    fn put_aside(&self, path: &str, to: &str) -> Result<(), Fault> {
        let (source, target) = (self.full(path), self.full(to));
        let folder = target.parent().unwrap_or(&self.root);
        make_folder(folder)
            .and_then(|()| rename_new(&source, &target))
            .and_then(|()| sync_folder(folder))
            .and_then(|()| sync_folder(source.parent().unwrap_or(&self.root)))
            .map_err(|error| Fault::io("put aside", path, &error))
    }

    fn unfinished(&self) -> Result<Vec<Found>, Fault> {
        self.list(UNFINISHED)
    }
}

/// Gives a file another name that nothing has yet.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Some file systems of the network know no such rename; a second name is as good and fails where the name is taken.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<Bytes> {
        text.split('|').map(|piece| Bytes::from(piece.to_owned())).collect()
    }

    #[test]
    fn files_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(folder.path().join("repository"));
        local.prepare().unwrap();
        local.prepare().unwrap();
        local.create("data/ab/abc", &bytes("first||second")).unwrap();
        local.create("data/ab/abc", &bytes("firstsecond")).unwrap();
        for other in ["firstsecon", "firstsecond.", "firstsecons", ""] {
            let fault = local.create("data/ab/abc", &bytes(other)).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Locked, "{other}");
        }
        assert_eq!(&local.read("data/ab/abc").unwrap()[..], b"firstsecond");
        assert_eq!(local.unfinished().unwrap(), []);
        assert_eq!(local.list("data").unwrap().len(), 1);
        assert_eq!(local.list("nothing").unwrap(), []);
        assert_eq!(&local.read_range("data/ab/abc", 5, 3).unwrap()[..], b"sec");
        for (start, length) in [(5, 7), (u64::MAX, 2), (12, 1)] {
            assert_eq!(local.read_range("data/ab/abc", start, length).unwrap_err().kind, FaultKind::Damaged);
        }
        local.put_aside("data/ab/abc", "aside/data-abc").unwrap();
        assert_eq!(local.read("data/ab/abc").unwrap_err().kind, FaultKind::Missing);
        local.remove("data/ab/abc").unwrap();
        assert_eq!(local.list("aside").unwrap()[0].bytes, 11);
    }

    #[test]
    fn many_pieces_are_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(folder.path().to_owned());
        local.prepare().unwrap();
        let pieces: Vec<Bytes> =
            (0..2000_u32).map(|n| Bytes::from(vec![u8::try_from(n % 251).unwrap(); n as usize])).collect();
        local.create("data/00/x", &pieces).unwrap();
        assert_eq!(local.read("data/00/x").unwrap(), pieces.concat());
    }
}
