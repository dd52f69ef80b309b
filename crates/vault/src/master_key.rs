//! The master key: where it lies, and the keys that are derived from it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contract::{Error, ErrorKind};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use zeroize::Zeroizing;

use crate::envelope::random_key;

/// More than any key file holds; a longer file is something else.
const FILE_SIZE_MAX: u64 = 4096;

/// Where the master key lies.
pub enum KeySource {
    /// A file that only its owner may read, such as `.steward/master.key`.
    File(PathBuf),
    /// The text of the key, which the door has read from the environment.
    Environment {
        /// 32 bytes as base64.
        value: SecretString,
    },
    /// The operating system's keyring. On Linux this is the kernel's: it forgets its entries after a restart or
    /// some days without use, so the key also has to be kept elsewhere.
    Keyring {
        /// Name of the program, such as `steward`.
        service: String,
        /// Name of the entry, such as the project's.
        user: String,
    },
}

impl KeySource {
    /// Whether a key lies there, right or wrong.
    ///
    /// # Errors
    ///
    /// `Denied`, `Unavailable`: the place cannot be asked.
    pub fn holds_key(&self) -> Result<bool, Error> {
        match self {
            KeySource::File(path) => path.try_exists().map_err(|error| {
                Error::new(ErrorKind::Denied, "cannot look for the master key file")
                    .with("file", path.display())
                    .because(error)
            }),
            KeySource::Environment { .. } => Ok(true),
            KeySource::Keyring { service, user } => match keyring_entry(service, user)?.get_password() {
                Ok(text) => {
                    drop(Zeroizing::new(text));
                    Ok(true)
                }
                Err(keyring::Error::NoEntry) => Ok(false),
                Err(error) => Err(keyring_error(service, user, error)),
            },
        }
    }
}

/// The key that everything sealed in the state goes back to: 32 random bytes.
///
/// As text it is base64, one line. Neither printable nor serializable.
pub struct MasterKey(SecretBox<[u8; 32]>);

impl MasterKey {
    /// Reads the key.
    ///
    /// # Errors
    ///
    /// `Denied`: the key is missing, the file may be read by others, or the keyring refused; the hint says what to
    /// do. `Invalid`: there is something, but not a key. `Unavailable`: there is no keyring.
    pub fn load(source: &KeySource) -> Result<Self, Error> {
        match source {
            KeySource::File(path) => load_file(path),
            KeySource::Environment { value } => Self::parse(value.expose_secret()).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "the master key in the environment is not 32 bytes in base64")
                    .hint("make one with `head -c 32 /dev/urandom | base64`; a pass phrase is not enough")
            }),
            KeySource::Keyring { service, user } => {
                let text = keyring_entry(service, user)?
                    .get_password()
                    .map_err(|error| keyring_error(service, user, error))?;
                let text = Zeroizing::new(text);
                Self::parse(&text).ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, "the keyring's entry is not a master key")
                        .with("service", service)
                        .with("user", user)
                        .hint("restore the entry from your copy of the key")
                })
            }
        }
    }

    /// Makes a random key and keeps it there, unless a key is there already.
    ///
    /// A file appears whole, with mode 0600 and on disk, or not at all.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`: nothing was changed. `Denied`: the place cannot be written. `Unsupported`: a process
    /// cannot set its caller's environment.
    pub fn create(source: &KeySource) -> Result<Self, Error> {
        let key = Self(SecretBox::new(Box::new(*random_key())));
        key.keep(source)?;
        Ok(key)
    }

    /// Keeps this key at another place, such as a copy of a file's key in the keyring, unless a key is there
    /// already.
    ///
    /// # Errors
    ///
    /// As for [`MasterKey::create`].
    pub fn keep(&self, source: &KeySource) -> Result<(), Error> {
        match source {
            KeySource::File(path) => create_file(path, &self.text()),
            KeySource::Environment { .. } => {
                Err(Error::new(ErrorKind::Unsupported, "cannot keep a master key in the environment")
                    .hint("set the variable to the output of `head -c 32 /dev/urandom | base64`"))
            }
            KeySource::Keyring { service, user } => {
                if source.holds_key()? {
                    return Err(Error::new(ErrorKind::AlreadyExists, "the keyring has a master key already")
                        .with("service", service)
                        .with("user", user));
                }
                keyring_entry(service, user)?
                    .set_password(self.text().expose_secret())
                    .map_err(|error| keyring_error(service, user, error))
            }
        }
    }

    /// The key as text, for a copy at a safe place.
    pub fn text(&self) -> SecretString {
        SecretString::from(STANDARD.encode(self.0.expose_secret()))
    }

    /// The key for one purpose, such as `ledger/seal`: HKDF-SHA256 with the label as info. Knowing one says nothing
    /// about another, or about the master key.
    pub fn derive(&self, label: &str) -> SecretBox<[u8; 32]> {
        SecretBox::init_with_mut(|derived: &mut [u8; 32]| {
            Salt::new(HKDF_SHA256, b"steward master key 1")
                .extract(self.0.expose_secret())
                .expand(&[label.as_bytes()], HKDF_SHA256)
                .and_then(|material| material.fill(derived))
                .expect("one hash of output is within HKDF's limit");
        })
    }

    /// Reads base64 of exactly 32 bytes, white space around it allowed.
    fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).ok()?);
        let key = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
        Some(Self(SecretBox::new(Box::new(*key))))
    }
}

fn load_file(path: &Path) -> Result<MasterKey, Error> {
    let denied = |message: &str| Error::new(ErrorKind::Denied, message).with("file", path.display());
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => denied("the master key file is missing").hint(
            "put your copy of the key back; without it the secrets and the bodies of events cannot be read",
        ),
        _ => denied("cannot read the master key file").because(error),
    })?;
    // Asked of the open file, so that nobody can exchange it in between.
    let metadata =
        file.metadata().map_err(|error| denied("cannot read the master key file").because(error))?;
    if !metadata.is_file() {
        return Err(denied("the master key file is not a file"));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(denied("others may read or write the master key file")
            .with("mode", format_args!("{mode:04o}"))
            .hint(format!("close it with `chmod 600 {}`", path.display())));
    }
    let mut text = Zeroizing::new(String::with_capacity(256));
    file.take(FILE_SIZE_MAX)
        .read_to_string(&mut text)
        .map_err(|error| denied("cannot read the master key file").because(error))?;
    MasterKey::parse(&text).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "the master key file does not hold 32 bytes in base64")
            .with("file", path.display())
            .hint("put your copy of the key back")
    })
}

fn create_file(path: &Path, text: &SecretString) -> Result<(), Error> {
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                return Error::new(ErrorKind::AlreadyExists, "there is a master key file already")
                    .with("file", path.display())
                    .hint(
                        "without that key nothing sealed with it can be read: move it away, do not delete it",
                    );
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
            _ => ErrorKind::Denied,
        };
        Error::new(kind, "cannot create the master key file").with("file", path.display()).because(error)
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    // Written beside its place and linked there when whole: a link never replaces a file, and a crash leaves none
    // that is empty.
    let new = parent.join(format!(".master-key-{}", std::process::id()));
    let result = write_new(&new, text).and_then(|()| std::fs::hard_link(&new, path));
    if new.exists() {
        std::fs::remove_file(&new).map_err(failed)?;
    }
    result.map_err(failed)?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
}

fn write_new(path: &Path, text: &SecretString) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.expose_secret().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn keyring_entry(service: &str, user: &str) -> Result<keyring::Entry, Error> {
    keyring::Entry::new(service, user).map_err(|error| keyring_error(service, user, error))
}

/// The keyring's errors are not passed on as causes: one of them carries the entry's bytes.
fn keyring_error(service: &str, user: &str, error: keyring::Error) -> Error {
    let error = match error {
        keyring::Error::NoEntry => Error::new(ErrorKind::Denied, "the master key is not in the keyring")
            .hint("put your copy of the key back, or use a key file: `.steward/master.key`"),
        keyring::Error::NoStorageAccess(cause) => {
            Error::new(ErrorKind::Denied, "the keyring cannot be opened")
                .because(cause)
                .hint("unlock it, or use a key file: `.steward/master.key`")
        }
        keyring::Error::PlatformFailure(cause) => {
            Error::new(ErrorKind::Unavailable, "this machine offers no keyring")
                .because(cause)
                .with_retry(contract::Retry::Never)
                .hint("use a key file: `.steward/master.key`")
        }
        _ => Error::new(ErrorKind::Invalid, "the keyring does not take or hold such an entry")
            .hint("use a key file: `.steward/master.key`"),
    };
    error.with("service", service).with("user", user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_source() -> (tempfile::TempDir, PathBuf, KeySource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".steward/master.key");
        (folder, path.clone(), KeySource::File(path))
    }

    fn denied(source: &KeySource) -> Error {
        match MasterKey::load(source) {
            Ok(_) => panic!("the key was loaded"),
            Err(error) => error,
        }
    }

    #[test]
    fn created_file_is_private_and_loads_again() {
        let (_folder, path, source) = file_source();
        assert!(!source.holds_key().unwrap());
        let created = MasterKey::create(&source).unwrap();
        assert!(source.holds_key().unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1, "nothing is left beside it");
        let loaded = MasterKey::load(&source).unwrap();
        assert_eq!(created.text().expose_secret(), loaded.text().expose_secret());
    }

    #[test]
    fn existing_file_is_never_replaced() {
        let (_folder, path, source) = file_source();
        MasterKey::create(&source).unwrap();
        let before = std::fs::read(&path).unwrap();
        let Err(error) = MasterKey::create(&source) else { panic!("created twice") };
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn file_that_others_may_read_is_refused_with_the_command_that_closes_it() {
        for mode in [0o644, 0o640, 0o604, 0o620, 0o610, 0o666] {
            let (_folder, path, source) = file_source();
            MasterKey::create(&source).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = denied(&source);
            assert_eq!(error.kind(), ErrorKind::Denied, "{mode:o}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
            assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
        }
    }

    #[test]
    fn missing_file_is_denied_and_not_made() {
        let (folder, path, source) = file_source();
        let error = denied(&source);
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(error.hint_text().unwrap().contains("your copy"));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn wrong_contents_are_refused_without_showing_them() {
        for text in ["", "\n", "hunter2hunter2", "aHVudGVyMg==", &"A".repeat(9000), "\u{0}\u{1}"] {
            let (_folder, path, source) = file_source();
            MasterKey::create(&source).unwrap();
            std::fs::write(&path, text).unwrap();
            let error = denied(&source);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(text.trim().is_empty() || !error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn environment_holds_the_same_text_as_the_file() {
        let (_folder, _, source) = file_source();
        let key = MasterKey::create(&source).unwrap();
        let environment = KeySource::Environment { value: key.text() };
        let loaded = MasterKey::load(&environment).unwrap();
        assert_eq!(loaded.derive("x").expose_secret(), key.derive("x").expose_secret());
        let Err(error) = MasterKey::create(&environment) else { panic!("created") };
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let error = denied(&KeySource::Environment { value: "correct horse battery staple".into() });
        assert!(!error.to_string().contains("horse"), "{error}");
    }

    #[test]
    fn derived_keys_follow_rfc_5869() {
        // Computed apart, with HMAC-SHA256 as RFC 5869 says, for a key of 32 bytes 0x07.
        let key = MasterKey(SecretBox::new(Box::new([7; 32])));
        assert_ne!(key.derive("a").expose_secret(), key.derive("b").expose_secret());
        assert_eq!(key.derive("a").expose_secret(), key.derive("a").expose_secret());
        assert_eq!(
            contract::sha256_hex(key.derive("ledger/seal").expose_secret()),
            "734778e7a85af35645e08be4f5bcb9717ce881be4046f0356fd7d9e443c9d2b4"
        );
    }

    #[test]
    fn keyring_keeps_a_key_or_says_that_there_is_none() {
        let source = KeySource::Keyring {
            service: "steward-test".into(),
            user: format!("vault-{}", std::process::id()),
        };
        let key = match MasterKey::create(&source) {
            Ok(key) => key,
            // Containers often have no kernel keyring; then the error must name the way out.
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied), "{error}");
                assert!(error.hint_text().unwrap().contains("key file"), "{error}");
                return;
            }
        };
        let loaded = MasterKey::load(&source).unwrap();
        assert_eq!(loaded.text().expose_secret(), key.text().expose_secret());
        let Err(error) = MasterKey::create(&source) else { panic!("created twice") };
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let KeySource::Keyring { service, user } = &source else { unreachable!("made above") };
        keyring_entry(service, user).unwrap().delete_credential().unwrap();
        assert_eq!(denied(&source).kind(), ErrorKind::Denied);
    }
}
