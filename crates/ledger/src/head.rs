//! The signed head: which entry was the last one, kept outside of the state file.
//!
//! The head is written after every durable commit, before `append` returns: to a temporary file, then renamed over
//! the old one under a lock that all processes share. It is not fsynced: a power failure may leave an older head,
//! which is still true of the chain, since a head is only ever written for entries that fsync has made durable.
//! Entries that only `append_later` wrote are covered by the head of the next durable commit; only
//! the very first batch is always made durable, so that every chain has a head.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use contract::{Error, ErrorKind};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Serialize};

/// The last entry of the chain at some time, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Place of the last entry.
    pub seq: u64,
    /// Hash of the last entry, hex.
    pub hash: String,
    /// When it was signed, UTC.
    pub at: Timestamp,
    /// Ed25519 public key, base64.
    pub public_key: String,
    /// Ed25519 signature over `seq`, `hash` and `at`, base64.
    pub signature: String,
}

impl Head {
    /// Reads a head from a file, such as `audit.head` or a copy of it that was kept elsewhere.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such file. `Denied`: not readable. `Corrupt`: not a head.
    pub fn read(path: &Path) -> Result<Head, Error> {
        let text = std::fs::read(path).map_err(|cause| {
            let kind = match cause.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Denied,
            };
            Error::new(kind, "cannot read the head of the audit chain")
                .with("file", path.display())
                .because(cause)
        })?;
        serde_json::from_slice(&text).map_err(|cause| {
            Error::new(ErrorKind::Corrupt, "this file is not the head of an audit chain")
                .with("file", path.display())
                .because(cause)
        })
    }

    fn signed_text(seq: u64, hash: &str, at: Timestamp) -> String {
        format!("steward.audit.head.1\n{seq}\n{hash}\n{}\n", at.as_nanosecond())
    }
}

/// Signs heads and knows its own signature.
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    public_key: String,
}

impl Signer {
    pub(crate) fn new(seed: &SecretBox<[u8; 32]>) -> Self {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed.expose_secret()).expect("any 32 bytes are a seed");
        let public_key = BASE64.encode(pair.public_key().as_ref());
        Self { pair, public_key }
    }

    pub(crate) fn public_key(&self) -> &str {
        &self.public_key
    }

    pub(crate) fn sign(&self, seq: u64, hash: &str, at: Timestamp) -> Head {
        let signature = self.pair.sign(Head::signed_text(seq, hash, at).as_bytes());
        Head {
            seq,
            hash: hash.to_owned(),
            at,
            public_key: self.public_key.clone(),
            signature: BASE64.encode(signature.as_ref()),
        }
    }

    /// Whether this key signed exactly this head.
    pub(crate) fn signed(&self, head: &Head) -> bool {
        let Ok(signature) = BASE64.decode(&head.signature) else { return false };
        head.public_key == self.public_key
            && UnparsedPublicKey::new(&ED25519, self.pair.public_key().as_ref())
                .verify(Head::signed_text(head.seq, &head.hash, head.at).as_bytes(), &signature)
                .is_ok()
    }
}

/// The file that holds the head.
pub(crate) struct HeadFile {
    path: PathBuf,
    lock: File,
    written: Vec<u8>,
}

impl HeadFile {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let lock_path = beside(path, ".lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|cause| cannot_write(&lock_path, cause))?;
        Ok(Self { path: path.to_owned(), lock, written: Vec::new() })
    }

    /// Whether there is a head.
    pub(crate) fn exists(&self) -> bool {
        !self.written.is_empty() || self.path.exists()
    }

    /// Replaces the head unless another process has already written a later one.
    ///
    /// `hash_at` says which hash the chain has at a place. A head that is not true of the chain is evidence of
    /// tampering or of an old copy of the state file: it is left as it is.
    pub(crate) fn write(
        &mut self,
        signer: &Signer,
        head: &Head,
        hash_at: impl Fn(u64) -> Result<Option<String>, Error>,
    ) -> Result<(), Error> {
        self.lock()?;
        let result = self.write_locked(signer, head, hash_at);
        self.lock.unlock().map_err(|cause| cannot_write(&self.path, cause))?;
        result
    }

    /// Waits for other processes, which hold the lock for microseconds; not for ever, as one may have been stopped.
    fn lock(&self) -> Result<(), Error> {
        let mut attempts_left = 1000;
        loop {
            match self.lock.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if attempts_left > 0 => {
                    attempts_left -= 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(cause) => return Err(cannot_write(&self.path, cause.into())),
            }
        }
    }

    fn write_locked(
        &mut self,
        signer: &Signer,
        head: &Head,
        hash_at: impl Fn(u64) -> Result<Option<String>, Error>,
    ) -> Result<(), Error> {
        use std::os::unix::fs::OpenOptionsExt;
        match std::fs::read(&self.path) {
            // Empty is what some file systems leave of a renamed file after a power failure.
            Ok(found) if found == self.written || found.is_empty() => {}
            Ok(found) => {
                let known: Option<Head> = serde_json::from_slice(&found).ok();
                let Some(known) = known.filter(|known| signer.signed(known)) else {
                    return Err(foreign(&self.path, "it is not signed with this key"));
                };
                if hash_at(known.seq)?.as_deref() != Some(&known.hash) {
                    return Err(foreign(&self.path, "the chain has no such entry"));
                }
                if known.seq >= head.seq {
                    return Ok(());
                }
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cannot_write(&self.path, cause)),
        }
        let mut text = serde_json::to_vec_pretty(head).expect("a head is JSON");
        text.push(b'\n');
        let new = beside(&self.path, ".new");
        let write = || {
            let mut options = File::options();
            options.create(true).truncate(true).write(true).mode(0o600);
            options.open(&new)?.write_all(&text)?;
            std::fs::rename(&new, &self.path)
        };
        write().map_err(|cause| cannot_write(&self.path, cause))?;
        self.written = text;
        Ok(())
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn cannot_write(path: &Path, cause: std::io::Error) -> Error {
    let kind = match cause.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
        _ => ErrorKind::Denied,
    };
    Error::new(kind, "cannot write the head of the audit chain")
        .with("file", path.display())
        .because(cause)
        .hint("make the directory writable for the user that runs Steward, on a file system with free space")
}

fn foreign(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the head of the audit chain is not of this state file: {why}"))
        .with("file", path.display())
        .hint("find out why with `steward audit verify`; keep the file as evidence and move it away to go on")
}
