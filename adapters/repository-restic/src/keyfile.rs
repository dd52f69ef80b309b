//! Keys that open a repository with a passphrase: files in which the master key lies encrypted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::backend::read_named;
use crate::error::{Fault, FaultKind};
use crate::lock::hostname;
use crate::objects::Objects;
use crate::seal::{KEY_BYTES, Key, fill_random, name_of};

/// Bits that a passphrase must have at least, by the most generous count.
const BITS_MIN: u32 = 50;
/// From so many on nobody tries them all, however cheap each try is.
const BITS_STRONG: u32 = 128;
/// Costs as powers of two; one try needs 1 KiB of memory times that.
const COST_STRONG: u8 = 15;
const COST_WEAK: u8 = 17;
/// restic demands this length.
const SALT_BYTES: usize = 64;
/// restic tries no more keys than this to open a repository.
pub(crate) const KEYS_MAX: usize = 20;

/// A key file as restic writes it.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeyFile {
    #[serde(default)]
    pub(crate) created: Option<Timestamp>,
    #[serde(default)]
    pub(crate) username: String,
    #[serde(default)]
    hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

impl KeyFile {
    /// A file that gives `master` to who knows the passphrase; with its name.
    pub(crate) fn made(
        master: &Key,
        label: &str,
        passphrase: &SecretString,
        now: Timestamp,
    ) -> Result<(String, Vec<u8>), Fault> {
        let cost = cost(passphrase)?;
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt)?;
        let params = scrypt::Params::new(cost, 8, 1).expect("both costs are within what scrypt allows");
        let data = derive(passphrase, &salt, &params)?.seal(&master.to_json())?;
        let file = Self {
            created: Some(now),
            username: label.to_owned(),
            hostname: hostname(),
            kdf: "scrypt".into(),
            n: 1 << cost,
            r: 8,
            p: 1,
            salt: STANDARD.encode(salt),
            data: STANDARD.encode(data),
        };
        let json = serde_json::to_vec(&file).expect("texts and numbers become JSON");
        Ok((name_of(&json), json))
    }

    /// The costs, if they are such that anybody writes.
    fn params(&self) -> Option<scrypt::Params> {
        /// Twice what anybody writes; a key file of others could ask for all memory.
        const N_MAX: u64 = 1 << 18;
        let fits = self.kdf == "scrypt"
            && self.n.is_power_of_two()
            && (2..=N_MAX).contains(&self.n)
            && (1..=64).contains(&self.r)
            && (1..=8).contains(&self.p);
        fits.then(|| scrypt::Params::new(u8::try_from(self.n.ilog2()).ok()?, self.r, self.p).ok())?
    }

    /// Whether it can be tried at all.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let decodes = |text: &String| STANDARD.decode(text).is_ok();
        if self.params().is_some() && decodes(&self.salt) && decodes(&self.data) {
            return Ok(());
        }
        Err(Fault::new(FaultKind::Damaged, "a key has costs or a form that restic never writes"))
    }

    /// The master key, if this is its passphrase.
    pub(crate) fn unlock(&self, passphrase: &SecretString) -> Result<Option<Key>, Fault> {
        let odd = || Fault::new(FaultKind::Damaged, "a key has costs or a form that restic never writes");
        let params = self.params().ok_or_else(odd)?;
        let salt = STANDARD.decode(&self.salt).map_err(|_| odd())?;
        let data = STANDARD.decode(&self.data).map_err(|_| odd())?;
        let Some(json) = derive(passphrase, &salt, &params)?.open(&data) else { return Ok(None) };
        Key::from_json(&json).map(Some).ok_or_else(odd)
    }
}

fn derive(passphrase: &SecretString, salt: &[u8], params: &scrypt::Params) -> Result<Key, Fault> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    scrypt::scrypt(passphrase.expose_secret().as_bytes(), salt, params, &mut bytes[..])
        .map_err(|error| Fault::new(FaultKind::Unavailable, format!("cannot derive a key: {error}")))?;
    Ok(Key::new(bytes))
}

/// What one try shall cost, by how many there can be.
fn cost(passphrase: &SecretString) -> Result<u8, Fault> {
    let bits = bits(passphrase.expose_secret());
    if bits < BITS_MIN {
        return Err(Fault::new(FaultKind::Invalid, "the passphrase is too weak: it can be found by trying").hint(
            "take at least five random words, or 12 random characters; `openssl rand -base64 24` gives a strong one",
        ));
    }
    Ok(if bits >= BITS_STRONG { COST_STRONG } else { COST_WEAK })
}

/// Bits of a passphrase if each character was chosen at random from those of its classes, where no more than twice as many
/// characters count as there are different ones.
fn bits(passphrase: &str) -> u32 {
    let mut different: Vec<char> = passphrase.chars().collect();
    let length = different.len();
    different.sort_unstable();
    different.dedup();
    let any = |test: fn(&char) -> bool| different.iter().any(test);
    let classes: [(bool, u32); 5] = [
        (any(char::is_ascii_lowercase), 26),
        (any(char::is_ascii_uppercase), 26),
        (any(char::is_ascii_digit), 10),
        (any(|c| c.is_ascii() && !c.is_ascii_alphanumeric()), 33),
        (any(|c| !c.is_ascii()), 64),
    ];
    let alphabet: u32 = classes.iter().filter(|(is_used, _)| *is_used).map(|(_, size)| size).sum();
    // Words have about a quarter of the bits of random letters; whoever uses digits or capitals may still write words.
    let counted = u32::try_from(length.min(different.len() * 2)).unwrap_or(u32::MAX);
    counted.saturating_mul(alphabet.max(1).ilog2())
}

/// The id of a key, and its file or why it cannot be read.
pub(crate) type NamedKeyFile = (String, Result<KeyFile, Fault>);

/// All keys, by id.
pub(crate) fn key_files(objects: &dyn Objects) -> Result<Vec<NamedKeyFile>, Fault> {
    let mut files = Vec::new();
    for found in objects.list("keys")? {
        let Some(id) = crate::backend::id_of(&found.path) else { continue };
        let file = read_named(objects, &found.path).and_then(|bytes| {
            serde_json::from_slice(&bytes)
                .map_err(|error| Fault::damaged(&found.path, &format!("it is no key file: {error}")))
        });
        files.push((id.to_hex().as_str().to_owned(), file));
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_with_its_passphrase_alone() {
        let master = Key::random().unwrap();
        let (right, wrong) = ("2zLqvX9fGh3kPw7RtY5bNm".into(), "2zLqvX9fGh3kPw7RtY5bNn".into());
        let (name, json) = KeyFile::made(&master, "recovery", &right, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(name, name_of(&json));
        let file: KeyFile = serde_json::from_slice(&json).unwrap();
        assert!(file.unlock(&right).unwrap().unwrap().is_same(&master));
        assert!(file.unlock(&wrong).unwrap().is_none());
    }

    #[test]
    fn costs_that_nobody_writes_are_refused() {
        let (_, json) = KeyFile::made(
            &Key::random().unwrap(),
            "x",
            &"2zLqvX9fGh3kPw7RtY5bNm".into(),
            Timestamp::UNIX_EPOCH,
        )
        .unwrap();
        for (field, value) in
            [("N", 0_u64), ("N", 1), ("N", 3), ("N", 1 << 30), ("r", 0), ("r", 4096), ("p", 0)]
        {
            let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            json[field] = value.into();
            let file: KeyFile = serde_json::from_value(json).unwrap();
            let fault = file.unlock(&"x".into()).err().unwrap_or_else(|| panic!("{field} {value}"));
            assert_eq!(fault.kind, FaultKind::Damaged);
        }
    }

    #[test]
    fn the_cost_follows_the_strength() {
        for (passphrase, expected) in [
            ("", None),
            ("password", None),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", None),
            ("12345678901234", None),
            ("correct horse battery", Some(COST_WEAK)),
            ("Tr0ub4dor&3x", Some(COST_WEAK)),
            ("2zLqvX9fGh3kPw7RtY5bNm8s", Some(COST_WEAK)),
            ("kJ8+dT2/xQv7LmN4pRs6WyZ0aBcDeFgH", Some(COST_STRONG)),
        ] {
            assert_eq!(cost(&passphrase.into()).ok(), expected, "{passphrase}: {} bits", bits(passphrase));
        }
    }
}
