//! The list of files that the server makes of its base backup.
//!
//! Source: PostgreSQL manual, "Backup Manifest Format".

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use contract::{Error, ErrorKind, LogPosition};
use serde::Deserialize;

/// What the server says of its base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerManifest {
    /// By path.
    pub(crate) files: BTreeMap<String, ListedFile>,
    /// The log that is needed to reach consistency.
    pub(crate) wal: Vec<WalRange>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedFile {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WalRange {
    pub(crate) timeline: u32,
    #[serde(rename = "Start-LSN")]
    pub(crate) start: LogPosition,
    #[serde(rename = "End-LSN")]
    pub(crate) end: LogPosition,
}

#[derive(Deserialize)]
struct Written {
    #[serde(rename = "Files")]
    files: Vec<WrittenFile>,
    #[serde(rename = "WAL-Ranges")]
    wal: Vec<WalRange>,
}

#[derive(Deserialize)]
struct WrittenFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct Sum {
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

/// Hex digits as they are written everywhere here.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        use std::fmt::Write as _;
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

fn unhex(text: &str) -> Option<String> {
    let pairs = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> =
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    String::from_utf8(bytes?).ok()
}

impl ServerManifest {
    /// Reads it, and checks its own checksum.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let corrupt = |why: &str| {
            Error::new(ErrorKind::Corrupt, format!("the server's list of files cannot be relied on: {why}"))
        };
        let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let last = body.iter().rposition(|byte| *byte == b'\n').ok_or_else(|| corrupt("it is too short"))?;
        let whole: Sum =
            serde_json::from_slice(bytes).map_err(|error| corrupt("it is not JSON").because(error))?;
        if hex(digest(&SHA256, &bytes[..=last]).as_ref()) != whole.checksum.to_lowercase() {
            return Err(corrupt("its checksum is wrong"));
        }
        let written: Written =
            serde_json::from_slice(bytes).map_err(|error| corrupt("it has another form").because(error))?;
        let mut files = BTreeMap::new();
        for file in written.files {
            let path = match (file.path, file.encoded_path) {
                (Some(path), None) => path,
                (None, Some(encoded)) => unhex(&encoded).ok_or_else(|| corrupt("a name is not UTF-8"))?,
                _ => return Err(corrupt("a file has no name")),
            };
            match (file.algorithm.as_deref(), file.checksum) {
                (Some("SHA256"), Some(sum)) => {
                    files.insert(path, ListedFile { bytes: file.size, sha256: sum.to_lowercase() });
                }
                _ => return Err(corrupt("a file has no SHA-256").with("file", path)),
            }
        }
        Ok(Self { files, wal: written.wal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(body: &str) -> Vec<u8> {
        let sum = hex(digest(&SHA256, body.as_bytes()).as_ref());
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    #[test]
    fn the_servers_list_is_read_and_its_checksum_kept_to() {
        let sum = "ab".repeat(32);
        let body = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
             {{ \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"x\", \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{sum}\" }},\n\
             {{ \"Encoded-Path\": \"c3a4\", \"Size\": 0, \"Last-Modified\": \"x\", \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{sum}\" }}\n],\n\
             \"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n"
        );
        let read = ServerManifest::read(&signed(&body)).unwrap();
        assert_eq!(read.files["PG_VERSION"].bytes, 3);
        assert!(read.files.contains_key("ä"));
        assert_eq!(read.wal[0].end, "0/2000100".parse().unwrap());
        let mut changed = signed(&body);
        changed[80] ^= 1;
        assert!(ServerManifest::read(&changed).is_err());
        assert!(ServerManifest::read(&signed(&body.replace("SHA256", "CRC32C"))).is_err());
        assert!(ServerManifest::read(b"").is_err());
    }
}
