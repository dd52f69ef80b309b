//! Secrets at rest: envelope keys, versions, rotation, and their removal from everything that is printed.
//!
//! Each version of a secret is sealed under a random data key of its own, and the data key under a key derived from
//! the master key. The master key itself lies outside the state: in a file, the environment or the OS keyring.

mod envelope;
mod master_key;
mod redactor;
mod request;
mod secret;

pub use master_key::{KeySource, MasterKey};
pub use redactor::{REDACTED, REDACTED_LENGTH_MIN, Redactor};
pub use request::{ListSecrets, PutSecret, RemoveSecret, RotateSecret};
pub use secret::{SECRET_SIZE_MAX, Vault};
