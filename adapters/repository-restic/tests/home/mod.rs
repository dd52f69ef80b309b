//! A repository in a folder of its own, as a project has it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Actor, BackupLabel, Committed, Context, Error, Kept, Layout, Part, PartBody, PartRecord, Repository,
    SecretSource,
};
use repository_restic::{Config, ResticRepository};
use secrecy::SecretString;
use tempfile::TempDir;

struct Vault(SecretString);

#[async_trait]
impl SecretSource for Vault {
    async fn secret(&self, _ctx: &Context, name: &str) -> Result<SecretString, Error> {
        assert_eq!(name, "repository/nightly");
        Ok(self.0.clone())
    }
}

pub(crate) fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

pub(crate) struct Home {
    pub(crate) folder: TempDir,
    pub(crate) key: SecretString,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), key: repository_restic::new_master_key().unwrap() }
    }

    pub(crate) fn open_with(&self, key: &SecretString) -> ResticRepository {
        let vault = Arc::new(Vault(key.clone()));
        repository_restic::open("nightly", &Config::new("backups"), self.folder.path(), vault).unwrap()
    }

    pub(crate) async fn repository(&self) -> ResticRepository {
        let repository = self.open_with(&self.key);
        repository.create(&ctx()).await.unwrap();
        repository
    }
}

pub(crate) fn label(id: &str, layout: Layout) -> BackupLabel {
    BackupLabel {
        id: id.into(),
        project: "shop".into(),
        store: "orders".into(),
        plan: "nightly".into(),
        at: jiff::Timestamp::now(),
        layout,
    }
}

/// Bytes that zstd does not make shorter.
pub(crate) fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

pub(crate) fn manifest(parts: &[PartRecord]) -> Bytes {
    serde_json::to_vec(&serde_json::json!({ "parts": parts })).unwrap().into()
}

/// The parts that a manifest lists.
pub(crate) fn listed(manifest: &[u8]) -> Vec<PartRecord> {
    let mut manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    serde_json::from_value(manifest["parts"].take()).unwrap()
}

pub(crate) async fn write(repository: &ResticRepository, label: &BackupLabel, parts: Vec<Part>) -> Committed {
    let writer = repository.begin(&ctx(), label).await.unwrap();
    for part in parts {
        writer.put(part).await.unwrap();
    }
    writer.commit(Box::new(manifest)).await.unwrap()
}

pub(crate) fn part(path: &str, bytes: Bytes) -> Part {
    Part { path: path.into(), body: PartBody::Bytes(bytes) }
}

pub(crate) async fn only(repository: &ResticRepository) -> Kept {
    let listing = repository.list(&ctx()).await.unwrap();
    assert_eq!(listing.unreadable, Vec::<String>::new());
    assert_eq!(listing.kept.len(), 1, "{listing:?}");
    listing.kept.into_iter().next().unwrap()
}
