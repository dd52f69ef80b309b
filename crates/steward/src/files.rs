//! Files of the project folder that requests read and write, and never one outside of it.

use std::path::{Component, Path, PathBuf};

use contract::{Effect, Error, ErrorKind, Outcome, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Largest file that is read or written, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Locked while a new file gets its number; it stays, empty.
const TURN_FILE: &str = ".steward/numbering.lock";

/// Writes a file of the project.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteFile {
    /// Path from the project folder, such as `pipelines/orders.yaml`.
    pub path: String,
    /// What the file shall hold.
    pub content: String,
}

impl Request for WriteFile {
    const NAME: &'static str = "file.write";
    const SUMMARY: &'static str = "Writes a file, if the mission gives Steward the authority over such files";
    const EXAMPLE: &'static str = "steward file write pipelines/orders.yaml --content \"$(cat draft.yaml)\"";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "file.write";
    const POSITIONAL: &'static [&'static str] = &["path"];
}

/// The path from the project folder in its plain form.
///
/// # Errors
///
/// `Invalid`: absolute, or leads out of the folder.
pub(crate) fn relative(path: &str) -> Result<PathBuf, Error> {
    if path.chars().any(char::is_control) {
        return Err(Error::new(ErrorKind::Invalid, "the path holds a control character")
            .with("path", path.escape_debug())
            .hint("give a path of visible characters"));
    }
    let mut out = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => out.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Error::new(ErrorKind::Invalid, "the path leads out of the project folder")
                    .with("path", path)
                    .hint("give a path from the folder of `steward.yaml`"));
            }
        }
    }
    if out.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the path is empty").with("path", path));
    }
    Ok(out)
}

/// Where the path lies, with links followed as far as it exists; refuses links that lead out of the folder.
fn inside(dir: &Path, path: &str) -> Result<PathBuf, Error> {
    let full = dir.join(relative(path)?);
    let existing = full.ancestors().find(|part| part.exists()).unwrap_or(dir);
    let real = existing.canonicalize().map_err(|cause| io_error("cannot read", path, cause))?;
    let dir = dir.canonicalize().map_err(|cause| io_error("cannot read", path, cause))?;
    if !real.starts_with(&dir) {
        return Err(Error::new(
            ErrorKind::Invalid,
            "the path leads out of the project folder through a link",
        )
        .with("path", path));
    }
    Ok(full)
}

/// The path from the project folder with links followed, by which the matrix judges.
///
/// # Errors
///
/// `Invalid`: the path leads out of the folder.
pub(crate) fn real_relative(dir: &Path, path: &str) -> Result<String, Error> {
    let full = inside(dir, path)?;
    let existing = full.ancestors().find(|part| part.exists()).unwrap_or(dir);
    let real = existing.canonicalize().map_err(|cause| io_error("cannot read", path, cause))?;
    let dir = dir.canonicalize().map_err(|cause| io_error("cannot read", path, cause))?;
    let rest = full.strip_prefix(existing).unwrap_or(Path::new(""));
    let real = if rest.as_os_str().is_empty() { real } else { real.join(rest) };
    Ok(real.strip_prefix(&dir).unwrap_or(&real).to_string_lossy().into_owned())
}

fn io_error(what: &str, path: impl std::fmt::Display, cause: std::io::Error) -> Error {
    let kind = match cause.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        std::io::ErrorKind::InvalidFilename
        | std::io::ErrorKind::InvalidInput
        | std::io::ErrorKind::IsADirectory
        | std::io::ErrorKind::NotADirectory => ErrorKind::Invalid,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
        _ => ErrorKind::Other,
    };
    Error::new(kind, format!("{what} `{path}`")).because(cause)
}

/// SHA-256 of what the file holds now, or `absent`: a plan's pre-state.
///
/// # Errors
///
/// `Invalid`, `Denied`.
pub(crate) fn fingerprint(dir: &Path, path: &str) -> Result<String, Error> {
    Ok(read(dir, path)?.map_or_else(|| "absent".into(), |bytes| contract::sha256_hex(&bytes)))
}

/// What a file of the project holds, or `None` when there is none.
///
/// # Errors
///
/// `Denied`; `Invalid`: the path leads out of the folder.
pub(crate) fn read(dir: &Path, path: &str) -> Result<Option<Vec<u8>>, Error> {
    use std::io::Read;
    let full = inside(dir, path)?;
    let refuse = |why: &str| Error::new(ErrorKind::Invalid, why).with("path", path);
    match std::fs::metadata(&full) {
        Ok(data) if data.is_dir() => return Err(refuse("this is a folder, not a file")),
        // Opening a pipe would wait for whoever writes into it.
        Ok(data) if !data.is_file() => return Err(refuse("this is no regular file")),
        Ok(_) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(io_error("cannot read", path, cause)),
    }
    let mut bytes = Vec::new();
    std::fs::File::open(&full)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|cause| io_error("cannot read", path, cause))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse("the file is too large").hint(format!("at most {FILE_BYTES_MAX} bytes are read")));
    }
    Ok(Some(bytes))
}

/// Holds the project's turn to number a new file, for as long as it lives; waits until whoever has it is done.
///
/// The operating system takes it back from a process that dies.
///
/// # Errors
///
/// `Denied`: the project's own folder cannot be written.
pub(crate) fn take_turn(dir: &Path) -> Result<std::fs::File, Error> {
    let path = dir.join(TURN_FILE);
    let fail = |cause| io_error("cannot lock", TURN_FILE, cause);
    std::fs::create_dir_all(path.parent().unwrap_or(dir)).map_err(fail)?;
    let file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(fail)?;
    file.lock().map_err(fail)?;
    Ok(file)
}

/// Writes the file: to a new place first, then renamed, so that it is whole or as before.
///
/// # Errors
///
/// `Denied`, `LimitExceeded` (disk full): the file is as before.
pub(crate) fn write(dir: &Path, request: &WriteFile) -> Result<Outcome, Error> {
    use std::io::Write;
    let full = inside(dir, &request.path)?;
    if request.content.len() as u64 > FILE_BYTES_MAX {
        return Err(
            Error::new(ErrorKind::LimitExceeded, "the content is too large").with("path", &request.path)
        );
    }
    let folder = full.parent().unwrap_or(dir);
    let fail = |cause| io_error("cannot write", &request.path, cause);
    std::fs::create_dir_all(folder).map_err(fail)?;
    let new = folder.join(format!(".{}.new", uuid::Uuid::now_v7().simple()));
    let written = std::fs::File::create(&new)
        .and_then(|mut file| file.write_all(request.content.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, &full))
        // The new name, too, must be there after a power cut: the outcome says that it is.
        .and_then(|()| std::fs::File::open(folder)?.sync_all());
    if let Err(cause) = written {
        // The write's error is the one to report.
        drop(std::fs::remove_file(&new));
        return Err(fail(cause));
    }
    let text = format!("wrote {} ({} bytes)\n", request.path, request.content.len());
    Ok(Outcome::new(json!({ "path": request.path, "bytes": request.content.len() }), text))
}

/// The files of a folder of the project with this ending, sorted by name; none when there is no such folder.
///
/// # Errors
///
/// `Denied`; `Invalid`: a file's name is not UTF-8, or it is too large.
pub(crate) fn read_folder(dir: &Path, folder: &str, ending: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let full = inside(dir, folder)?;
    let entries = match std::fs::read_dir(&full) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(io_error("cannot read", folder, cause)),
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| io_error("cannot read", folder, cause))?;
        let path = entry.path();
        let shown = format!("{folder}/{}", entry.file_name().display());
        if path.extension().is_none_or(|extension| extension != ending) || !path.is_file() {
            continue;
        }
        let name = entry.file_name().into_string().map_err(|name| {
            Error::new(ErrorKind::Invalid, "the file's name is not UTF-8")
                .with("file", name.display())
                .hint("rename it")
        })?;
        // A link leads to a file of the project, or nowhere.
        let path = inside(dir, &shown)?;
        let size = std::fs::metadata(&path).map_err(|cause| io_error("cannot read", &shown, cause))?.len();
        if size > FILE_BYTES_MAX {
            return Err(Error::new(ErrorKind::Invalid, "the file is too large").with("file", shown));
        }
        let bytes = std::fs::read(&path).map_err(|cause| io_error("cannot read", &shown, cause))?;
        out.push((name, bytes));
    }
    out.sort();
    Ok(out)
}

/// A file's text.
///
/// # Errors
///
/// `Invalid`: it is not UTF-8, with file and line.
pub(crate) fn utf8(file: &str, bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|cause| {
        let valid = &cause.as_bytes()[..cause.utf8_error().valid_up_to()];
        Error::new(ErrorKind::Invalid, "the file is not UTF-8")
            .with("file", file)
            .with("line", valid.split(|byte| *byte == b'\n').count())
            .hint("save it as UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status();
        assert!(made.is_ok_and(|status| status.success()));
        assert_eq!(read(dir.path(), "pipe").expect_err("a pipe").kind(), ErrorKind::Invalid);
        assert_eq!(read(dir.path(), ".").expect_err("no file").kind(), ErrorKind::Invalid);
        let large = std::fs::File::create(dir.path().join("large")).expect("a file");
        large.set_len(FILE_BYTES_MAX + 1).expect("a sparse file");
        assert_eq!(read(dir.path(), "large").expect_err("too large").kind(), ErrorKind::Invalid);
        assert_eq!(read(dir.path(), "absent").expect("nothing"), None);
    }

    #[test]
    fn a_folder_gives_no_files_from_outside() {
        let (dir, outside) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("another"));
        std::fs::create_dir(dir.path().join("migrations")).expect("a folder");
        std::fs::write(outside.path().join("x.sql"), "SELECT 'not ours'").expect("a file");
        std::os::unix::fs::symlink(outside.path().join("x.sql"), dir.path().join("migrations/0001_x.sql"))
            .expect("a link");
        let error = read_folder(dir.path(), "migrations", "sql").expect_err("a link that leads out");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn paths_stay_in_the_folder() {
        for path in ["../x", "/etc/passwd", "a/../../x", ""] {
            assert!(relative(path).is_err(), "{path}");
        }
        assert!(relative("a\0b").is_err() && relative("a\nb").is_err());
        assert_eq!(relative("./a/b.sql").expect("inside"), PathBuf::from("a/b.sql"));
        let dir = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("a link");
        assert!(inside(dir.path(), "out/passwd").is_err());
        assert!(inside(dir.path(), "new/file").is_ok());
        std::fs::create_dir(dir.path().join("src")).expect("a folder");
        std::os::unix::fs::symlink(dir.path().join("src"), dir.path().join("migrations")).expect("a link");
        assert_eq!(real_relative(dir.path(), "migrations/x.ts").expect("inside"), "src/x.ts");
        assert_eq!(real_relative(dir.path(), "pipelines/a/b.yaml").expect("inside"), "pipelines/a/b.yaml");
    }
}
