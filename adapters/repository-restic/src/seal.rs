//! How restic encrypts single files: AES-256 in counter mode with Poly1305-AES.
//!
//! Source: restic's design document, "Keys, Encryption and MAC".

use aes256ctr_poly1305aes::aead::{Aead, AeadInPlace};
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustic_core::Credentials;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{Fault, FaultKind};

const NONCE_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// Length of a key: 32 bytes for AES, 16 each for the two halves of the MAC's key.
pub(crate) const KEY_BYTES: usize = 64;

/// Most bytes that a compressed record may unpack to: an index of 50,000 blobs has 10 MB.
const RECORD_BYTES_MAX: u64 = 256 << 20;

/// A key that encrypts files: the master key, or one made from a passphrase.
pub(crate) struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    pub(crate) fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self(bytes)
    }

    /// The same once more, for work that outlives the caller's.
    pub(crate) fn copy(&self) -> Self {
        Self(self.0.clone())
    }

    /// A new random one.
    pub(crate) fn random() -> Result<Self, Fault> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        fill_random(&mut bytes[..])?;
        Ok(Self(bytes))
    }

    /// Reads what `to_text` wrote.
    pub(crate) fn from_text(text: &SecretString) -> Option<Self> {
        let decoded = Zeroizing::new(STANDARD.decode(text.expose_secret().trim()).ok()?);
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        (decoded.len() == KEY_BYTES).then(|| bytes.copy_from_slice(&decoded))?;
        Some(Self(bytes))
    }

    pub(crate) fn to_text(&self) -> SecretString {
        STANDARD.encode(&self.0[..]).into()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        // In constant time, so that a guess learns nothing from how long it took.
        self.0.iter().zip(other.0.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }

    /// The form in which restic keeps a master key in its key files.
    pub(crate) fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let text = |range: std::ops::Range<usize>| Zeroizing::new(STANDARD.encode(&self.0[range]));
        let (encrypt, k, r) = (text(0..32), text(32..48), text(48..64));
        Zeroizing::new(
            format!(
                r#"{{"mac":{{"k":"{}","r":"{}"}},"encrypt":"{}"}}"#,
                k.as_str(),
                r.as_str(),
                encrypt.as_str()
            )
            .into_bytes(),
        )
    }

    /// The inverse of `to_json`.
    pub(crate) fn from_json(json: &[u8]) -> Option<Self> {
        #[derive(serde::Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
        struct Mac {
            k: String,
            r: String,
        }
        #[derive(serde::Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
        struct Master {
            mac: Mac,
            encrypt: String,
        }
        let master: Master = serde_json::from_slice(json).ok()?;
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        for (text, range) in [(&master.encrypt, 0..32), (&master.mac.k, 32..48), (&master.mac.r, 48..64)] {
            let part = Zeroizing::new(STANDARD.decode(text.as_bytes()).ok()?);
            (part.len() == range.len()).then(|| bytes[range].copy_from_slice(&part))?;
        }
        Some(Self(bytes))
    }

    /// What the library opens a repository with. The library does not wipe it from memory.
    pub(crate) fn credentials(&self) -> Credentials {
        let master = serde_json::from_value(json!({
            "mac": {"k": STANDARD.encode(&self.0[32..48]), "r": STANDARD.encode(&self.0[48..])},
            "encrypt": STANDARD.encode(&self.0[..32]),
        }));
        Credentials::Masterkey(master.expect("the three fields have the lengths that a master key has"))
    }

    fn cipher(&self) -> Aes256CtrPoly1305Aes {
        let mut key = aes256ctr_poly1305aes::Key::default();
        key.copy_from_slice(&self.0[..]);
        Aes256CtrPoly1305Aes::new(&key)
    }

    /// Encrypts a record.
    pub(crate) fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut sealed = vec![0; NONCE_BYTES];
        fill_random(&mut sealed)?;
        sealed.extend_from_slice(plain);
        let nonce = *Nonce::from_slice(&sealed[..NONCE_BYTES]);
        let tag = self
            .cipher()
            .encrypt_in_place_detached(&nonce, b"", &mut sealed[NONCE_BYTES..])
            .map_err(|_| Fault::new(FaultKind::Unavailable, "cannot encrypt"))?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// Decrypts a record; `None` where this key did not make it, or its bytes have changed.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if sealed.len() < NONCE_BYTES + TAG_BYTES {
            return None;
        }
        let (nonce, rest) = sealed.split_at(NONCE_BYTES);
        self.cipher().decrypt(Nonce::from_slice(nonce), rest).ok().map(Zeroizing::new)
    }

    /// Decrypts a record and unpacks it, as version 2 of the format has it: raw JSON, or a 2 before what zstd has packed.
    pub(crate) fn open_record(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let plain = self.open(sealed)?;
        match plain.first()? {
            b'{' | b'[' => Some(plain.to_vec()),
            2 => {
                let mut unpacked = Vec::new();
                let packed = zstd::stream::Decoder::new(&plain[1..]).ok()?;
                let read = std::io::Read::take(packed, RECORD_BYTES_MAX + 1);
                std::io::copy(&mut { read }, &mut unpacked).ok()?;
                (unpacked.len() as u64 <= RECORD_BYTES_MAX).then_some(unpacked)
            }
            _ => None,
        }
    }
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), Fault> {
    getrandom::fill(bytes).map_err(|error| {
        Fault::new(FaultKind::Unavailable, format!("the system gives no random bytes: {error}"))
    })
}

/// The name that a file with these bytes has.
pub(crate) fn name_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_alone() {
        let (key, other) = (Key::random().unwrap(), Key::random().unwrap());
        for plain in [&b""[..], b"x", b"{\"a\":1}"] {
            let sealed = key.seal(plain).unwrap();
            assert_eq!(key.open(&sealed).unwrap().as_slice(), plain);
            assert!(other.open(&sealed).is_none());
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert!(key.open(&changed).is_none(), "byte {at}");
                assert!(key.open(&sealed[..at]).is_none(), "{at} bytes");
            }
        }
    }

    #[test]
    fn keys_survive_their_text() {
        let key = Key::random().unwrap();
        assert!(Key::from_text(&key.to_text()).unwrap().is_same(&key));
        assert!(Key::from_json(&key.to_json()).unwrap().is_same(&key));
        assert!(!Key::random().unwrap().is_same(&key));
        for wrong in ["", "AAAA", "not base64!"] {
            assert!(Key::from_text(&wrong.into()).is_none(), "{wrong}");
            assert!(Key::from_json(wrong.as_bytes()).is_none(), "{wrong}");
        }
        let short = r#"{"mac":{"k":"AAAA","r":"AAAA"},"encrypt":"AAAA"}"#;
        assert!(Key::from_json(short.as_bytes()).is_none());
    }

    #[test]
    fn records_are_read_packed_and_plain() {
        let key = Key::random().unwrap();
        let plain = br#"{"time":"now"}"#;
        let mut packed = vec![2];
        packed.extend(zstd::encode_all(&plain[..], 3).unwrap());
        for form in [plain.to_vec(), packed] {
            assert_eq!(key.open_record(&key.seal(&form).unwrap()).unwrap(), plain);
        }
        assert!(key.open_record(&key.seal(b"").unwrap()).is_none());
        assert!(key.open_record(&key.seal(b"\x03x").unwrap()).is_none());
    }
}
