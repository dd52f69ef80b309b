//! Password verifiers, so that a new password never travels to the server and never reaches its log.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use contract::{Error, ErrorKind};

/// The server's own default.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("4096 is not 0");

/// What `PASSWORD` takes in place of the password, with a fresh salt.
///
/// # Errors
///
/// `Invalid`: the password is empty or has characters beyond printable ASCII, which the server would normalise before
/// it compares.
///
/// Source: RFC 5803, "SCRAM secrets"; PostgreSQL manual, CREATE ROLE, "PASSWORD".
pub(crate) fn verifier(password: &str) -> Result<String, Error> {
    let mut salt = [0_u8; 16];
    getrandom::fill(&mut salt)
        .map_err(|error| Error::new(ErrorKind::Other, "the machine gives no random bytes").because(error))?;
    verifier_with(password, &salt)
}

fn verifier_with(password: &str, salt: &[u8]) -> Result<String, Error> {
    if password.is_empty() || !password.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Error::new(ErrorKind::Invalid, "a password must be made of printable ASCII characters"));
    }
    let mut salted = [0_u8; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    Ok(format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        BASE64.encode(salt),
        BASE64.encode(stored_key),
        BASE64.encode(server_key)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3: the verifier must lead to the server's signature there.
    #[test]
    fn verifier_agrees_with_the_rfc() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = verifier_with("pencil", &salt).unwrap();
        let server_key = BASE64.decode(verifier.rsplit(':').next().unwrap()).unwrap();
        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &server_key), auth_message.as_bytes());
        assert_eq!(BASE64.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn passwords_that_would_be_normalised_are_refused() {
        for password in ["", "naïve", "tab\t"] {
            assert_eq!(verifier(password).unwrap_err().kind(), ErrorKind::Invalid, "{password:?}");
        }
        assert_ne!(verifier("same").unwrap(), verifier("same").unwrap(), "the salt is fresh");
    }
}
