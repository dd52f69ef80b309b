//! A person's private key, sealed with their passphrase: argon2id makes the key, AES-256-GCM seals.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contract::{Error, ErrorKind};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};

/// Fewest characters of a passphrase.
pub const PASSPHRASE_CHARACTERS_MIN: usize = 12;
/// Fewest different characters of a passphrase.
const PASSPHRASE_DIFFERENT_MIN: usize = 5;
/// Memory that one guess costs: 64 MiB, above the 19 MiB that OWASP asks of argon2id.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// An edited envelope must not make us allocate without bound.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 10;

/// What is stored: base64 JSON in `people.sealed_key`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    kdf: String,
    memory_kib: u32,
    passes: u32,
    salt: String,
    nonce: String,
    sealed: String,
}

/// Why a sealed key did not open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// Another passphrase, or the sealed bytes or what they belong to were altered; the cipher cannot tell which.
    WrongPassphrase,
    /// It is not an envelope at all.
    Damaged,
}

/// A new key pair; the private half sealed.
pub(crate) struct NewKey {
    pub(crate) public: String,
    pub(crate) sealed: String,
}

/// Refuses passphrases that are guessed quickly.
pub(crate) fn validate_passphrase(passphrase: &SecretString, name: &str) -> Result<(), Error> {
    let text = passphrase.expose_secret();
    let mut different: Vec<char> = text.to_lowercase().chars().collect();
    different.sort_unstable();
    different.dedup();
    let weak = |why: String| {
        Err(Error::new(ErrorKind::Invalid, format!("the passphrase {why}"))
            .hint("four or five unrelated words make a good one"))
    };
    if text.chars().count() < PASSPHRASE_CHARACTERS_MIN {
        return weak(format!("has fewer than {PASSPHRASE_CHARACTERS_MIN} characters"));
    }
    if different.len() < PASSPHRASE_DIFFERENT_MIN {
        return weak(format!("has fewer than {PASSPHRASE_DIFFERENT_MIN} different characters"));
    }
    if text.to_lowercase().replace(&name.to_lowercase(), "").chars().count() < PASSPHRASE_CHARACTERS_MIN / 2 {
        return weak("is little more than the name".to_owned());
    }
    Ok(())
}

/// Makes a key pair and seals its private half. Takes a fraction of a second and 64 MiB: run it on a blocking thread.
pub(crate) fn create(passphrase: &SecretString, belongs_to: &str) -> NewKey {
    let mut seed = SecretBox::new(Box::new([0_u8; 32]));
    fill(seed.expose_secret_mut());
    let public = public_of(&seed);
    let (mut salt, mut nonce) = ([0; 16], [0; NONCE_LEN]);
    fill(&mut salt);
    fill(&mut nonce);
    let key =
        derive(passphrase, &salt, MEMORY_KIB, PASSES).expect("our own parameters are within argon2's bounds");
    // Room for the tag from the start: a buffer that grows would leave the plain key behind.
    let mut sealed = Vec::with_capacity(seed.expose_secret().len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(seed.expose_secret());
    cipher(&key)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place(belongs_to, &public)),
            &mut sealed,
        )
        .expect("32 bytes are within the limits of AES-GCM");
    let envelope = Envelope {
        kdf: "argon2id".into(),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        salt: STANDARD.encode(salt),
        nonce: STANDARD.encode(nonce),
        sealed: STANDARD.encode(sealed),
    };
    let json = serde_json::to_vec(&envelope).expect("an envelope is JSON");
    NewKey { public, sealed: STANDARD.encode(json) }
}

/// Opens what [`create`] made for the same person and public key. As costly as making it.
pub(crate) fn open(
    passphrase: &SecretString,
    belongs_to: &str,
    public: &str,
    sealed: &str,
) -> Result<Ed25519KeyPair, NotOpened> {
    let damaged = |_| NotOpened::Damaged;
    let json = STANDARD.decode(sealed).map_err(damaged)?;
    let envelope: Envelope = serde_json::from_slice(&json).map_err(|_| NotOpened::Damaged)?;
    let salt = STANDARD.decode(&envelope.salt).map_err(damaged)?;
    let nonce = STANDARD.decode(&envelope.nonce).map_err(damaged)?;
    let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| NotOpened::Damaged)?;
    let bounded =
        envelope.kdf == "argon2id" && envelope.memory_kib <= MEMORY_KIB_MAX && envelope.passes <= PASSES_MAX;
    if !bounded {
        return Err(NotOpened::Damaged);
    }
    let key = derive(passphrase, &salt, envelope.memory_kib, envelope.passes).ok_or(NotOpened::Damaged)?;
    let mut bytes: SecretSlice<u8> = STANDARD.decode(&envelope.sealed).map_err(damaged)?.into();
    let seed = cipher(&key)
        .open_in_place(nonce, Aad::from(place(belongs_to, public)), bytes.expose_secret_mut())
        .map_err(|_| NotOpened::WrongPassphrase)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NotOpened::Damaged)?;
    if STANDARD.encode(pair.public_key()) == public { Ok(pair) } else { Err(NotOpened::Damaged) }
}

/// Base64 signature over the record.
pub(crate) fn sign(pair: &Ed25519KeyPair, record: &str) -> String {
    STANDARD.encode(pair.sign(&signed_bytes(record)))
}

/// Whether `signature` over `record` was made by the private half of `public`.
pub(crate) fn verify(public: &str, record: &str, signature: &str) -> bool {
    let (Ok(public), Ok(signature)) = (STANDARD.decode(public), STANDARD.decode(signature)) else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, public).verify(&signed_bytes(record), &signature).is_ok()
}

/// The record after a tag, so that a signature for something else is never one for an approval.
fn signed_bytes(record: &str) -> Vec<u8> {
    [b"steward.approval.1\0", record.as_bytes()].concat()
}

fn place(belongs_to: &str, public: &str) -> Vec<u8> {
    format!("steward.person.1\0{}\0{belongs_to}\0{public}", belongs_to.len()).into_bytes()
}

fn public_of(seed: &SecretBox<[u8; 32]>) -> String {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret()).expect("32 bytes are a seed");
    STANDARD.encode(pair.public_key())
}

fn derive(
    passphrase: &SecretString,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
) -> Option<SecretBox<[u8; 32]>> {
    let parameters = Params::new(memory_kib, passes, 1, Some(32)).ok()?;
    let mut key = SecretBox::new(Box::new([0_u8; 32]));
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into(passphrase.expose_secret().as_bytes(), salt, key.expose_secret_mut())
        .ok()?;
    Some(key)
}

fn cipher(key: &SecretBox<[u8; 32]>) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose_secret()).expect("AES-256 takes 32 bytes"))
}

pub(crate) fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_opens_for_its_person_and_passphrase_alone() {
        let passphrase = SecretString::from("correct horse battery");
        let key = create(&passphrase, "shop/anna");
        let pair = open(&passphrase, "shop/anna", &key.public, &key.sealed).unwrap();
        let signature = sign(&pair, "record");
        assert!(verify(&key.public, "record", &signature));
        assert!(!verify(&key.public, "another", &signature));
        for (passphrase, person, sealed, why) in [
            ("correct horse batterx", "shop/anna", key.sealed.as_str(), NotOpened::WrongPassphrase),
            ("correct horse battery", "shop/bert", key.sealed.as_str(), NotOpened::WrongPassphrase),
            ("correct horse battery", "shop/anna", "nonsense", NotOpened::Damaged),
        ] {
            let opened = open(&SecretString::from(passphrase), person, &key.public, sealed);
            assert_eq!(opened.unwrap_err(), why, "{passphrase} {person}");
        }
    }

    #[test]
    fn weak_passphrases_are_refused() {
        for (passphrase, message) in [
            ("short", "the passphrase has fewer than 12 characters"),
            ("aaaaaaaaaaaaaaaa", "the passphrase has fewer than 5 different characters"),
            ("AnnabelleAnnabelle", "the passphrase is little more than the name"),
        ] {
            let error = validate_passphrase(&SecretString::from(passphrase), "annabelle").unwrap_err();
            assert_eq!(error.message(), message);
        }
        assert!(validate_passphrase(&SecretString::from("four unrelated words here"), "anna").is_ok());
    }
}
