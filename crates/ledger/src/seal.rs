//! Sealing of bodies and answers, and the key check.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use contract::{Error, ErrorKind};
use secrecy::{ExposeSecret, SecretBox};

/// The ledger's two keys, derived from the master key by whoever opens it.
pub struct Keys {
    /// Seals bodies and answers: AES-256-GCM.
    pub seal: SecretBox<[u8; 32]>,
    /// Signs the head: seed of an Ed25519 key.
    pub sign: SecretBox<[u8; 32]>,
}

const KEY_CHECK: &[u8] = b"steward key check";

/// Seals with a random nonce that goes before the ciphertext. What a sealed value belongs to is authenticated with
/// it, so that a value that was moved elsewhere does not open.
pub(crate) struct Sealer(LessSafeKey);

impl Sealer {
    pub(crate) fn new(key: &SecretBox<[u8; 32]>) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.expose_secret()).expect("AES-256-GCM takes 32 bytes");
        Self(LessSafeKey::new(key))
    }

    pub(crate) fn seal(&self, plain: &[u8], belongs_to: &[u8]) -> Vec<u8> {
        let nonce = random::<NONCE_LEN>();
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = self
            .0
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(belongs_to),
                &mut sealed[NONCE_LEN..],
            )
            .expect("a bounded body is within the limits of AES-GCM");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// The plain bytes, in `buffer`; `None` if the value was changed, moved or sealed with another key.
    pub(crate) fn open<'b>(
        &self,
        sealed: &[u8],
        belongs_to: &[u8],
        buffer: &'b mut Vec<u8>,
    ) -> Option<&'b [u8]> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        buffer.clear();
        buffer.extend_from_slice(ciphertext);
        self.0.open_in_place(nonce, Aad::from(belongs_to), buffer).ok().map(|plain| &*plain)
    }

    /// A value by which [`Sealer::check`] recognises the key.
    pub(crate) fn key_check(&self) -> String {
        hex(&self.seal(KEY_CHECK, KEY_CHECK))
    }

    /// Refuses another key than the one that made `key_check`.
    pub(crate) fn check(&self, key_check: &str) -> Result<(), Error> {
        let opened = unhex(key_check).and_then(|sealed| {
            self.open(&sealed, KEY_CHECK, &mut Vec::new()).map(|plain| plain == KEY_CHECK)
        });
        if opened == Some(true) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, "the master key does not open this state file"))
    }
}

/// What the body of event `seq` with this id is bound to.
pub(crate) fn body_belongs_to(seq: i64, id: &[u8], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(b"steward.body.1\0");
    buffer.extend_from_slice(&seq.to_be_bytes());
    buffer.extend_from_slice(id);
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the operating system has random bytes");
    bytes
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| hex_of(*byte)).map(char::from).collect()
}

/// The same for a hash, without an allocation.
pub(crate) fn hex_hash(hash: &[u8; 32]) -> [u8; 64] {
    let mut digits = [0; 64];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hash) {
        pair.copy_from_slice(&hex_of(*byte));
    }
    digits
}

fn hex_of(byte: u8) -> [u8; 2] {
    [HEX_DIGITS[usize::from(byte >> 4)], HEX_DIGITS[usize::from(byte & 15)]]
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_value_opens_only_unchanged_in_its_place_and_with_its_key() {
        let key = Sealer::new(&SecretBox::new(Box::new([1; 32])));
        let other = Sealer::new(&SecretBox::new(Box::new([2; 32])));
        let sealed = key.seal(b"hello", b"here");
        let mut buffer = Vec::new();
        assert_eq!(key.open(&sealed, b"here", &mut buffer), Some(&b"hello"[..]));
        assert_eq!(key.open(&sealed, b"there", &mut buffer), None);
        assert_eq!(other.open(&sealed, b"here", &mut buffer), None);
        assert_eq!(key.open(&sealed[..5], b"here", &mut buffer), None);
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert_eq!(key.open(&changed, b"here", &mut buffer), None, "byte {i}");
        }
        assert!(key.check(&key.key_check()).is_ok());
        assert_eq!(other.check(&key.key_check()).unwrap_err().kind(), ErrorKind::Denied);
        assert!(key.check("zz").is_err() && key.check("").is_err() && key.check("abc").is_err());
    }
}
