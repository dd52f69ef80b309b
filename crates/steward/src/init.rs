//! A new project folder.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use contract::{Error, ErrorKind};

use crate::config::FILE_NAME;

/// The commented project file; `{project}` is replaced.
const TEMPLATE: &str = include_str!("../templates/steward.yaml");

/// Writes `steward.yaml` into `dir`, and keeps the state out of version control.
///
/// # Errors
///
/// `AlreadyExists`: there is one; it is left as it is. `Invalid`: no project name can be made of the folder's.
pub(crate) fn write(dir: &Path, project: Option<&str>) -> Result<String, Error> {
    let file = dir.join(FILE_NAME);
    let name = match project {
        Some(name) => name.to_owned(),
        None => name_of(dir),
    };
    let text = TEMPLATE.replace("{project}", &name);
    crate::config::parse(&text).map_err(|error| error.hint("choose another with `--project NAME`"))?;
    let fail = |cause: std::io::Error| {
        if cause.kind() == std::io::ErrorKind::AlreadyExists {
            return Error::new(ErrorKind::AlreadyExists, format!("there is a `{FILE_NAME}` here already"))
                .with("file", file.display())
                .hint("edit it, or start in another folder");
        }
        Error::new(ErrorKind::Denied, format!("cannot write `{FILE_NAME}`"))
            .with("file", file.display())
            .because(cause)
    };
    let mut out = std::fs::File::create_new(&file).map_err(fail)?;
    std::io::Write::write_all(&mut out, text.as_bytes()).map_err(fail)?;
    let ignored = ignore_state(dir).map_err(fail)?;
    let more = if ignored { "added `.steward/` to .gitignore\n" } else { "" };
    Ok(format!(
        "wrote {FILE_NAME} for the project `{name}`\n{more}\nnext:\n  1. add your databases under `stores`\n  \
         2. steward store check NAME\n  3. steward status\n"
    ))
}

/// Makes the folder of the state, for its owner alone.
///
/// # Errors
///
/// `Denied`: a read-only or full file system, or missing rights.
pub(crate) fn make_state_dir(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|cause| {
        let kind = match cause.kind() {
            std::io::ErrorKind::StorageFull => ErrorKind::LimitExceeded,
            _ => ErrorKind::Denied,
        };
        Error::new(kind, "cannot make the folder of the state")
            .with("folder", dir.display())
            .because(cause)
            .hint("make it writable, or set `state` in `steward.yaml` to another place")
    })
}

fn name_of(dir: &Path) -> String {
    let name = dir.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
        .collect();
    if name.is_empty() { "project".into() } else { name.chars().take(63).collect() }
}

/// Adds the state's folder to `.gitignore` if this is a git work tree and does not ignore it yet.
fn ignore_state(dir: &Path) -> std::io::Result<bool> {
    use std::io::Write;
    let file = dir.join(".gitignore");
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    if !dir.join(".git").exists() || known.lines().any(|line| line.trim_end_matches('/') == ".steward") {
        return Ok(false);
    }
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(&file)?;
    if !known.is_empty() && !known.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.write_all(b".steward/\n")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_file_is_valid_and_never_overwritten() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), Some("shop")).expect("an empty folder");
        let loaded = crate::config::load(&dir.path().join(FILE_NAME)).expect("what we wrote");
        assert_eq!(loaded.config.project, "shop");
        assert_eq!(write(dir.path(), Some("other")).expect_err("exists").kind(), ErrorKind::AlreadyExists);
        assert_eq!(
            crate::config::load(&dir.path().join(FILE_NAME)).expect("as before").config.project,
            "shop"
        );
    }
}
