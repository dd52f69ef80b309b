//! The last entry of every backup: what it holds, so that it can be restored and compared by whoever has the key.

use bytes::Bytes;
use contract::{Dumped, Error, ErrorKind, PartRecord};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::signature::{self, Signature, Signed};

/// Version of the manifest's form that this program writes.
pub const MANIFEST_VERSION: u32 = 1;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub version: u32,
    /// Steward's id of the backup.
    pub id: String,
    /// The project.
    pub project: String,
    /// The plan.
    pub plan: String,
    /// The store.
    pub store: String,
    /// The name that it shares with the backups of other stores that were taken together with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<String>,
    /// When the backup was begun, by Steward's clock.
    pub begun_at: Timestamp,
    /// When its last part was read, by Steward's clock.
    pub ended_at: Timestamp,
    /// `steward` and its version.
    pub written_by: String,
    /// What was dumped.
    pub dumped: Dumped,
    /// Every part with its length and SHA-256.
    pub parts: Vec<PartRecord>,
    /// Who wrote it; absent where an older Steward did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// The bytes that it was read from, which the signature is judged by.
    #[serde(skip)]
    pub raw: Bytes,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// `Corrupt`: it is none. `Unsupported`: a newer program wrote it.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let corrupt = |cause: serde_json::Error| {
            Error::new(ErrorKind::Corrupt, "the manifest of the backup cannot be read").because(cause)
        };
        let Versioned { version } = serde_json::from_slice(bytes).map_err(corrupt)?;
        if version > MANIFEST_VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "the backup was written by a newer Steward")
                .with("manifest_version", version)
                .with("known_version", MANIFEST_VERSION)
                .hint("restore it with that version or a later one"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(corrupt)?;
        Ok(Self { raw: Bytes::copy_from_slice(bytes), ..manifest })
    }

    /// What its signature says, by the project's public keys, the newest first; asked of what was read.
    pub fn signed_by(&self, keys: &[String]) -> Signed {
        signature::judge(&self.raw, keys)
    }

    /// The bytes as they are kept.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest is JSON")
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.dumped.tables.iter().map(|table| table.rows).sum()
    }
}
