//! Opening a repository whose master key nobody has any more, with a passphrase or the recovery key.

use contract::{Context, Error, ErrorKind};
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Fault, FaultKind};
use crate::keyfile::key_files;
use crate::place::blocking;
use crate::repository::ResticRepository;

impl ResticRepository {
    /// The master key that this passphrase or recovery key gives, as the vault keeps it. The master key that the secrets name
    /// is not asked for.
    ///
    /// # Errors
    ///
    /// `NotFound`: no repository is there. `Denied`: none of its keys opens with this one. `Corrupt`: its keys cannot be read.
    /// `Unavailable`.
    pub async fn unlock(&self, ctx: &Context, passphrase: &SecretString) -> Result<SecretString, Error> {
        self.fetch_credentials(ctx).await?;
        let objects = self.objects();
        let passphrase = passphrase.clone();
        let address = contract::Repository::address(self);
        let answer = blocking(ctx, move || {
            let mut unreadable = None;
            let mut keys = 0;
            for place in &objects {
                for (id, file) in key_files(&**place)? {
                    keys += 1;
                    for spelling in spellings(&passphrase) {
                        match file.as_ref().map_err(Clone::clone).and_then(|file| file.unlock(&spelling)) {
                            Ok(Some(key)) => return Ok(key.to_text()),
                            Ok(None) => {}
                            Err(fault) => {
                                unreadable = Some((id.clone(), fault));
                                break;
                            }
                        }
                    }
                }
            }
            Err(match unreadable {
                Some((id, fault)) => Fault::damaged(
                    &format!("keys/{id}"),
                    &format!("{fault}; none of the others opens with this key"),
                ),
                None if keys == 0 => {
                    Fault::new(FaultKind::Missing, format!("no repository is at `{address}`"))
                        .hint("name the folder that holds `stream` and `pages`")
                }
                None => Fault::new(FaultKind::Denied, "this key does not open the repository").hint(
                    "it is the newest recovery key, eight groups of four; an older one was put out of force",
                ),
            })
        });
        answer.await.map_err(|error: Error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::Denied => error,
            _ => error.with("repository", contract::Repository::address(self)),
        })
    }
}

/// As it was typed, and as a printed key is meant: in capitals, `O` for nought, `I` and `L` for one.
pub(crate) fn spellings(passphrase: &SecretString) -> Vec<SecretString> {
    let typed = passphrase.expose_secret();
    let meant: String = typed
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        })
        .collect();
    let mut out = vec![passphrase.clone()];
    if meant.len() == 32 && meant.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let groups: Vec<&str> = (0..8).map(|group| &meant[group * 4..group * 4 + 4]).collect();
        let meant = groups.join("-");
        if meant != typed {
            out.push(meant.into());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_key_may_be_typed_in_small_letters_and_without_its_groups() {
        let key = "0A1B-2C3D-4E5F-6G7H-8J9K-MNPQ-RSTV-WXYZ";
        for typed in [
            "0a1b-2c3d-4e5f-6g7h-8j9k-mnpq-rstv-wxyz",
            "OA1B2C3D4E5F6G7H8J9KMNPQRSTVWXYZ",
            " 0AlB 2C3D 4E5F 6G7H 8J9K MNPQ RSTV WXYZ",
        ] {
            let spellings = spellings(&typed.into());
            assert_eq!(spellings.last().map(ExposeSecret::expose_secret), Some(key), "{typed}");
        }
        assert_eq!(spellings(&key.into()).len(), 1);
        assert_eq!(spellings(&"five words that nobody would guess".into()).len(), 1);
    }
}
