//! A backup in memory: takes parts as a repository does, and gives them back.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use contract::{
    Error, ErrorKind, PART_BYTES_MAX, Part, PartBody, PartRecord, PartSink, PartSource, sha256_hex,
};

/// The parts of one backup; refuses what a repository refuses.
#[derive(Default)]
pub struct Parts {
    taken: Mutex<BTreeMap<Vec<String>, Vec<u8>>>,
    /// Takes no part after so many.
    most: Option<usize>,
}

/// The parts that were taken, for a restore.
pub struct Given {
    records: Vec<PartRecord>,
    bytes: BTreeMap<String, Vec<u8>>,
    /// Each part that is asked for, in order.
    asked: Mutex<Vec<String>>,
}

impl Parts {
    /// A repository that is full after so many parts.
    pub fn full_after(most: usize) -> Self {
        Self { most: Some(most), ..Self::default() }
    }

    /// The paths that were taken, in order.
    pub fn paths(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.keys().map(|path| path.join("/")).collect()
    }

    /// The bytes of a part.
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken[&components(path)].clone()
    }

    /// As a source for a restore.
    pub fn given(&self) -> Given {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: BTreeMap<String, Vec<u8>> =
            taken.iter().map(|(path, bytes)| (path.join("/"), bytes.clone())).collect();
        let records = taken
            .iter()
            .map(|(path, bytes)| PartRecord {
                path: path.join("/"),
                bytes: bytes.len() as u64,
                sha256: sha256_hex(bytes),
            })
            .collect();
        Given { records, bytes, asked: Mutex::default() }
    }
}

fn components(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}

#[async_trait]
impl PartSink for Parts {
    async fn put(&self, part: Part) -> Result<(), Error> {
        let path = components(&part.path);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let sound =
            |name: &String| !name.is_empty() && name != "." && name != ".." && name.chars().all(allowed);
        let bytes = match part.body {
            PartBody::Bytes(bytes) => {
                assert!(bytes.len() <= PART_BYTES_MAX, "{}: {} bytes in memory", part.path, bytes.len());
                bytes.to_vec()
            }
            PartBody::File { path, bytes } => {
                let read = tokio::fs::read(&path).await.expect("the file of a part can be read");
                assert_eq!(read.len() as u64, bytes, "the length of {}", path.display());
                read
            }
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let in_order = taken.last_key_value().is_none_or(|(last, _)| *last < path);
        if !in_order || !path.iter().all(sound) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the part `{}` is not allowed here", part.path),
            ));
        }
        if self.most.is_some_and(|most| taken.len() >= most) {
            return Err(Error::new(ErrorKind::LimitExceeded, "the repository is full"));
        }
        taken.insert(path, bytes);
        Ok(())
    }
}

impl Given {
    /// The parts that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the bytes of a part; the manifest stays as it was.
    pub fn damage(&mut self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.bytes.get_mut(path).expect("the part is there"));
    }

    fn find(&self, path: &str) -> Result<&[u8], Error> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        let record = self.records.iter().find(|record| record.path == path);
        let (Some(record), Some(bytes)) = (record, self.bytes.get(path)) else {
            return Err(Error::new(ErrorKind::NotFound, "no such part").with("part", path));
        };
        if bytes.len() as u64 != record.bytes || sha256_hex(bytes) != record.sha256 {
            return Err(Error::new(ErrorKind::Corrupt, "the part is not what was written").with("part", path));
        }
        Ok(bytes)
    }
}

#[async_trait]
impl PartSource for Given {
    fn parts(&self) -> &[PartRecord] {
        &self.records
    }

    async fn read(&self, path: &str) -> Result<bytes::Bytes, Error> {
        let bytes = self.find(path)?;
        assert!(bytes.len() <= PART_BYTES_MAX, "{path} is too large to be held in memory");
        Ok(bytes::Bytes::copy_from_slice(bytes))
    }

    async fn read_into(&self, path: &str, file: &Path) -> Result<(), Error> {
        use std::io::Write;
        let bytes = self.find(path)?;
        let mut made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .map_err(|error| Error::new(ErrorKind::Conflict, "the file is there").because(error))?;
        made.write_all(bytes).expect("a test has room");
        Ok(())
    }
}
