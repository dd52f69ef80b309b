//! Whether a manifest was written by this project: whoever has the repository's key can write one, but not sign it.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use contract::{Context, Error, ErrorKind, canonical_json};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::Surroundings;
use crate::catalog::{Origin, Recorded};
use crate::manifest::Manifest;

/// Before what is signed, so that the key's signatures of other things are none of manifests.
const SIGNED: &[u8] = b"steward.backup.manifest.1\n";
const SEED_BYTES: usize = 32;

/// A manifest's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Signature {
    /// Ed25519 public key, base64.
    pub key: String,
    /// Ed25519 signature over the canonical JSON of the manifest without this field, base64.
    pub signature: String,
}

/// What a manifest's signature says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Signed {
    /// By the project's key.
    Signed,
    /// By a key that the project has put out of force.
    Retired,
    /// By a key that is none of the project's.
    Foreign,
    /// Not at all: by an older Steward, or by someone else.
    #[default]
    Unsigned,
    /// The manifest is not what was signed.
    Broken,
}

impl Signed {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Signed::Signed => "signed",
            Signed::Retired => "retired",
            Signed::Foreign => "foreign",
            Signed::Unsigned => "unsigned",
            Signed::Broken => "broken",
        }
    }

    /// In a sentence about a manifest.
    pub(crate) fn means(self) -> &'static str {
        match self {
            Signed::Signed => "it is signed by this project",
            Signed::Retired => "it is signed by a key of this project that was put out of force",
            Signed::Foreign => "it is signed by a key that is none of this project's",
            Signed::Unsigned => "it is not signed",
            Signed::Broken => "it is not what was signed",
        }
    }
}

/// A new random key, as the vault keeps it.
///
/// # Errors
///
/// `Unavailable`: the system gives no random bytes.
pub fn new_signing_key() -> Result<SecretString, Error> {
    let mut seed = Zeroizing::new([0_u8; SEED_BYTES]);
    getrandom::fill(&mut seed[..])
        .map_err(|cause| Error::new(ErrorKind::Unavailable, "no randomness").because(cause.to_string()))?;
    Ok(SecretString::from(BASE64.encode(&seed[..])))
}

fn pair(key: &SecretString) -> Result<Ed25519KeyPair, Error> {
    let odd = || {
        Error::new(ErrorKind::Invalid, "the key that signs backups is not 32 bytes in base64")
            .hint("steward backup setup --new-signing-key")
    };
    let seed = Zeroizing::new(BASE64.decode(key.expose_secret().trim()).map_err(|_| odd())?);
    Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| odd())
}

/// What is printed of a key, and may be known to all.
///
/// # Errors
///
/// `Invalid`: it is no key.
pub fn public_key(key: &SecretString) -> Result<String, Error> {
    Ok(BASE64.encode(pair(key)?.public_key().as_ref()))
}

/// What is signed: everything but the signature, also fields that this version does not know.
fn text(mut manifest: Value) -> Vec<u8> {
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove("signature");
    }
    [SIGNED, canonical_json(&manifest).as_bytes()].concat()
}

/// Signs a manifest whose every other field is set.
pub(crate) fn sign(manifest: &Manifest, key: &SecretString) -> Result<Signature, Error> {
    let pair = pair(key)?;
    let value = serde_json::to_value(manifest).expect("a manifest is JSON");
    Ok(Signature {
        key: BASE64.encode(pair.public_key().as_ref()),
        signature: BASE64.encode(pair.sign(&text(value)).as_ref()),
    })
}

/// What the signature in a manifest's bytes says, by the project's public keys, the newest first.
pub(crate) fn judge(bytes: &[u8], keys: &[String]) -> Signed {
    let Ok(manifest) = serde_json::from_slice::<Value>(bytes) else { return Signed::Broken };
    let Some(signature) = manifest.get("signature").filter(|it| !it.is_null()).cloned() else {
        return Signed::Unsigned;
    };
    let Ok(Signature { key, signature }) = serde_json::from_value(signature) else { return Signed::Broken };
    let is_true = BASE64.decode(&key).is_ok_and(|public| {
        BASE64.decode(&signature).is_ok_and(|signature| {
            UnparsedPublicKey::new(&ED25519, &public).verify(&text(manifest), &signature).is_ok()
        })
    });
    match keys.iter().position(|known| *known == key) {
        _ if !is_true => Signed::Broken,
        Some(0) => Signed::Signed,
        Some(_) => Signed::Retired,
        None => Signed::Foreign,
    }
}

/// The project's public keys, the newest first; none where nothing was ever signed.
pub(crate) async fn known(ctx: &Context, around: &dyn Surroundings) -> Result<Vec<String>, Error> {
    around.signing_keys(ctx).await?.iter().map(public_key).collect()
}

/// Refuses a manifest that is not this project's.
///
/// A backup that was made here is known by the snapshot's name, which is the hash of its record: that of an older Steward need not
/// be signed. One that was found in the repository is known by its signature alone.
///
/// # Errors
///
/// `Corrupt`: the manifest is not what was signed, or someone else's; `accepted` takes the latter.
pub(crate) async fn check(
    ctx: &Context,
    around: &dyn Surroundings,
    manifest: &Manifest,
    backup: &Recorded,
    accepted: bool,
) -> Result<Signed, Error> {
    let keys = known(ctx, around).await?;
    let signed = manifest.signed_by(&keys);
    // Where nothing was ever signed, nothing is told by that.
    let accepted = accepted || (keys.is_empty() && signed == Signed::Unsigned);
    demand(signed, backup.origin, accepted, &backup.id)?;
    Ok(signed)
}

fn demand(signed: Signed, origin: Origin, accepted: bool, id: &str) -> Result<(), Error> {
    let is_known = match signed {
        Signed::Signed => true,
        Signed::Retired | Signed::Unsigned => origin == Origin::Made || accepted,
        Signed::Foreign => accepted,
        Signed::Broken => false,
    };
    if is_known {
        return Ok(());
    }
    let error =
        Error::new(ErrorKind::Corrupt, format!("the manifest is not to be trusted: {}", signed.means()))
            .with("backup", id);
    Err(match signed {
        Signed::Broken => error.hint("someone has changed it; take another backup: steward backup list"),
        _ => error.hint(format!(
            "whoever has the repository's key can write such a one; if you know that it is yours: steward backup restore {id} \
             --accept-unsigned"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(signed_by: Option<&SecretString>) -> Vec<u8> {
        let mut manifest: Manifest = serde_json::from_value(serde_json::json!({
            "version": 1, "id": "b", "project": "shop", "plan": "p", "store": "app",
            "begun_at": "2026-03-04T05:06:07Z", "ended_at": "2026-03-04T05:06:08Z", "written_by": "steward 0",
            "dumped": {
                "kind": "fake", "version": "1", "identity": "i", "address": "a", "method": "logical", "layout": "stream",
                "point": { "at": "2026-03-04T05:06:07Z" }, "tables": [], "schema_sha256": "", "needs": [], "left_out": [],
                "tools": [], "detail": { "ratio": 0.1, "text": "grün", "large": 1e300 },
            },
            "parts": [{ "path": "a", "bytes": 1, "sha256": "x" }],
        }))
        .unwrap();
        manifest.signature = signed_by.map(|key| sign(&manifest, key).unwrap());
        manifest.bytes()
    }

    #[test]
    fn a_signature_is_of_every_byte_that_means_something() {
        let (ours, old, other) =
            (new_signing_key().unwrap(), new_signing_key().unwrap(), new_signing_key().unwrap());
        let keys: Vec<String> = [&ours, &old].into_iter().map(|key| public_key(key).unwrap()).collect();
        for (key, expected) in [
            (Some(&ours), Signed::Signed),
            (Some(&old), Signed::Retired),
            (Some(&other), Signed::Foreign),
            (None, Signed::Unsigned),
        ] {
            assert_eq!(judge(&bytes(key), &keys), expected);
        }
        let text = String::from_utf8(bytes(Some(&ours))).unwrap();
        for (from, to) in [
            ("\"sha256\": \"x\"", "\"sha256\": \"y\""),
            ("\"bytes\": 1", "\"bytes\": 2"),
            ("\"project\": \"shop\"", "\"project\": \"shop2\""),
            ("\"version\": 1,", "\"version\": 1, \"more\": 1,"),
            ("\"key\": \"", "\"key\": \"A"),
            ("\"signature\": \"", "\"signature\": \"A"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert_eq!(judge(changed.as_bytes(), &keys), Signed::Broken, "{from}");
        }
        // White space and the order of fields mean nothing.
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(judge(value.to_string().as_bytes(), &keys), Signed::Signed);
        assert_eq!(judge(b"no manifest", &keys), Signed::Broken);
    }

    #[test]
    fn what_was_found_is_trusted_by_its_signature_alone() {
        for (signed, made, found, accepted) in [
            (Signed::Signed, true, true, true),
            (Signed::Retired, true, false, true),
            (Signed::Unsigned, true, false, true),
            (Signed::Foreign, false, false, true),
            (Signed::Broken, false, false, false),
        ] {
            assert_eq!(demand(signed, Origin::Made, false, "b").is_ok(), made, "{signed:?} made");
            assert_eq!(demand(signed, Origin::Found, false, "b").is_ok(), found, "{signed:?} found");
            assert_eq!(demand(signed, Origin::Found, true, "b").is_ok(), accepted, "{signed:?} accepted");
        }
    }
}
