//! Sealing with AES-256-GCM: a data key for each value, the data key under the vault's key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::{ExposeSecret, SecretBox};
use zeroize::Zeroizing;

/// First byte of everything sealed, so that another algorithm can follow.
const FORMAT: u8 = 1;
/// AES-GCM's tag.
const TAG_LEN: usize = 16;

/// Sealed bytes could not be opened: another key, another place, or altered. AES-GCM cannot tell which.
#[derive(Debug)]
pub(crate) struct NotOpened;

/// Where a sealed value belongs. It is authenticated, so a row moved to another project, name or version does not
/// open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) project: &'a str,
    pub(crate) name: &'a str,
    pub(crate) version: i64,
}

impl Place<'_> {
    /// The authenticated bytes: each part with its length in front, so that no two places share them.
    fn bytes(self, part: &str) -> Vec<u8> {
        let mut bytes = b"steward vault 1".to_vec();
        for text in [part, self.project, self.name] {
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(self.version.to_be_bytes());
        bytes
    }
}

/// A value with its data key, both sealed.
pub(crate) struct Sealed {
    pub(crate) data_key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Seals `value` under a new random data key, and that under `key`.
pub(crate) fn seal(key: &SecretBox<[u8; 32]>, place: Place<'_>, value: &[u8]) -> Sealed {
    let data_key = random_key();
    Sealed {
        data_key: seal_bytes(key.expose_secret(), &place.bytes("data key"), &*data_key),
        value: seal_bytes(&data_key, &place.bytes("value"), value),
    }
}

/// Opens what [`seal`] made for the same place.
pub(crate) fn open(
    key: &SecretBox<[u8; 32]>,
    place: Place<'_>,
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let data_key = open_data_key(key, place, &sealed.data_key)?;
    open_bytes(&data_key, &place.bytes("value"), &sealed.value)
}

/// Opens the data key alone, which shows whether `key` is the right one.
pub(crate) fn open_data_key(
    key: &SecretBox<[u8; 32]>,
    place: Place<'_>,
    sealed: &[u8],
) -> Result<Zeroizing<[u8; 32]>, NotOpened> {
    let bytes = open_bytes(key.expose_secret(), &place.bytes("data key"), sealed)?;
    let mut data_key = Zeroizing::new([0; 32]);
    if bytes.len() != data_key.len() {
        return Err(NotOpened);
    }
    data_key.copy_from_slice(&bytes);
    Ok(data_key)
}

/// 32 bytes from the operating system.
pub(crate) fn random_key() -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).expect("the operating system gives random bytes");
    key
}

/// Format byte, nonce, ciphertext, tag.
pub(crate) fn seal_bytes(key: &[u8; 32], place: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
    // Room for all from the start: a buffer that grows would leave plain bytes behind.
    let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len() + TAG_LEN);
    sealed.push(FORMAT);
    sealed.extend(nonce);
    sealed.extend(plain);
    let tag = cipher(key)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place),
            &mut sealed[1 + NONCE_LEN..],
        )
        .expect("a secret is far shorter than AES-GCM's limit");
    sealed.extend(tag.as_ref());
    sealed
}

/// Opens what [`seal_bytes`] made; the returned buffer is wiped when dropped.
pub(crate) fn open_bytes(
    key: &[u8; 32],
    place: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let (&format, rest) = sealed.split_first().ok_or(NotOpened)?;
    if format != FORMAT {
        return Err(NotOpened);
    }
    let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or(NotOpened)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| NotOpened)?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let plain_len =
        cipher(key).open_in_place(nonce, Aad::from(place), &mut buffer).map_err(|_| NotOpened)?.len();
    buffer.truncate(plain_len);
    Ok(buffer)
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place<'static> = Place { project: "shop", name: "orders/password", version: 1 };

    fn key(byte: u8) -> SecretBox<[u8; 32]> {
        SecretBox::new(Box::new([byte; 32]))
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_at_its_place_and_nowhere_else(
            project in "[a-z]{1,6}", name in "[a-z/]{1,6}", version in 1_i64..9,
            other_project in "[a-z]{1,6}", other_name in "[a-z/]{1,6}", other_version in 1_i64..9,
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let place = Place { project: &project, name: &name, version };
            let sealed = seal(&key(7), place, &value);
            let opened = open(&key(7), place, &sealed).unwrap();
            prop_assert_eq!(&*opened, &value);
            prop_assert!(open(&key(8), place, &sealed).is_err());
            let other = Place { project: &other_project, name: &other_name, version: other_version };
            let same = (&project, &name, version) == (&other_project, &other_name, other_version);
            prop_assert_eq!(open(&key(7), other, &sealed).is_ok(), same);
        }

        #[test]
        fn any_changed_byte_is_noticed(value in "[ -~]{1,40}", at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut sealed = seal(&key(7), PLACE, value.as_bytes());
            let length = sealed.data_key.len() + sealed.value.len();
            let at = at.index(length);
            match at.checked_sub(sealed.data_key.len()) {
                None => sealed.data_key[at] ^= 1_u8 << bit,
                Some(at) => sealed.value[at] ^= 1_u8 << bit,
            }
            prop_assert!(open(&key(7), PLACE, &sealed).is_err());
        }
    }

    #[test]
    fn parts_of_a_place_do_not_run_together() {
        let left = Place { project: "ab", name: "c", version: 1 };
        let right = Place { project: "a", name: "bc", version: 1 };
        assert!(open(&key(7), right, &seal(&key(7), left, b"value")).is_err());
    }

    #[test]
    fn data_key_and_value_are_not_interchangeable() {
        let sealed = seal_bytes(&[7; 32], &PLACE.bytes("value"), &[1; 32]);
        assert!(open_data_key(&key(7), PLACE, &sealed).is_err());
    }

    #[test]
    fn cut_bytes_are_not_opened() {
        let sealed = seal_bytes(&[7; 32], b"here", b"value");
        for length in 0..sealed.len() {
            assert!(open_bytes(&[7; 32], b"here", &sealed[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn sealing_twice_gives_different_bytes() {
        assert_ne!(seal_bytes(&[7; 32], b"here", b"value"), seal_bytes(&[7; 32], b"here", b"value"));
    }
}
