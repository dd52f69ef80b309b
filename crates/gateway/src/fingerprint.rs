//! How a virtual key is looked up without being kept.

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretBox};

/// HMAC-SHA-256 of a virtual key under a key of this installation. Equal fingerprints mean equal keys; whoever reads
/// one can neither use it nor test guesses without the installation's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// Makes fingerprints.
///
/// Looking one up in a map compares outputs of a keyed function, so the time that it takes tells nothing about the
/// key that was sent.
#[derive(Clone)]
pub struct Fingerprints(hmac::Key);

impl Fingerprints {
    /// Fingerprints under this key.
    pub fn new(key: &SecretBox<[u8; 32]>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret()))
    }

    /// The fingerprint of a virtual key.
    pub fn of(&self, key: &[u8]) -> Fingerprint {
        let tag = hmac::sign(&self.0, key);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        Fingerprint(bytes)
    }
}
