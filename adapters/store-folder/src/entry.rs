//! What a folder holds, as the index of a backup lists it.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use contract::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A name or a link's target: text, or bytes where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Name {
    /// UTF-8.
    Text(String),
    /// Anything else, in hex.
    Hex(String),
}

impl Name {
    pub(crate) fn of(path: &OsStr) -> Self {
        path.to_str().map_or_else(|| Self::Hex(hex(path.as_bytes())), |text| Self::Text(text.to_owned()))
    }

    pub(crate) fn path(&self) -> Result<PathBuf, Error> {
        match self {
            Self::Text(text) => Ok(PathBuf::from(text)),
            Self::Hex(text) => unhex(text)
                .map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes)))
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a name in the index is no hex")),
        }
    }

    /// A path from the folder that leads nowhere else.
    pub(crate) fn inside(&self) -> Result<PathBuf, Error> {
        let path = self.path()?;
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if plain && !path.as_os_str().is_empty() && !path.as_os_str().as_bytes().contains(&0) {
            return Ok(path);
        }
        Err(Error::new(ErrorKind::Corrupt, "a path in the index leads out of the folder")
            .with("path", path.display()))
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a string does not fail");
        out
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2))
        .collect()
}

/// What kind of thing an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A folder, perhaps an empty one.
    Folder,
    /// A file, cut into these parts one after the other; an empty one has none.
    File {
        /// The first part's number and how many there are.
        parts: (u64, u64),
        /// Its length.
        bytes: u64,
        /// SHA-256 of its bytes, in hex.
        sha256: String,
    },
    /// Another name of a file that came before.
    HardLink {
        /// Its path.
        to: Name,
        /// SHA-256 of its bytes, in hex.
        sha256: String,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        to: Name,
    },
}

/// One thing in the folder. Folders come before what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// From the folder.
    pub(crate) path: Name,
    /// The lower twelve bits.
    pub(crate) mode: u32,
    /// User and group, which only the superuser can give back.
    pub(crate) owner: (u32, u32),
    /// When it was changed: seconds and nanoseconds since 1970.
    pub(crate) modified: (i64, i64),
    #[serde(flatten)]
    pub(crate) kind: Kind,
}

/// The name under which what is directly in the folder is counted and chosen, for a path below it.
pub(crate) fn top(path: &Path) -> String {
    let Some(Component::Normal(first)) = path.components().next() else { return String::new() };
    match first.to_str() {
        Some(text) => text.to_owned(),
        None => format!("\\x{}", hex(first.as_bytes())),
    }
}

impl Entry {
    /// What counts of it for its digest: where it is, what kind of thing, who may do what, and what it holds. Whether two
    /// names are of one file does not: of the two one alone can be restored. The mode of a link means nothing.
    pub(crate) fn row(&self) -> Vec<u8> {
        let (mode, kind, content) = match &self.kind {
            Kind::Folder => (self.mode, "folder", String::new()),
            Kind::File { sha256, .. } | Kind::HardLink { sha256, .. } => (self.mode, "file", sha256.clone()),
            Kind::Link { to } => (0, "link", json!(to).to_string()),
        };
        format!("{} {kind} {mode:04o} {content}", json!(self.path)).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_comes_back_and_none_leads_out() {
        for name in [&b"plain"[..], b"with space", "grün".as_bytes(), b"\xff\xfe\n", b"a\\b"] {
            let name = OsStr::from_bytes(name);
            let json = serde_json::to_string(&Name::of(name)).unwrap();
            let back: Name = serde_json::from_str(&json).unwrap();
            assert_eq!(back.inside().unwrap().as_os_str(), name);
        }
        for out in ["../x", "/etc/passwd", "a/../../b", "", "a\0b"] {
            assert_eq!(Name::Text(out.into()).inside().unwrap_err().kind(), ErrorKind::Corrupt, "{out}");
        }
        assert!(Name::Hex("2f2e2".into()).path().is_err() && Name::Hex("2e2e2f78".into()).inside().is_err());
    }
}
