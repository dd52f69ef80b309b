//! How an adapter gets a secret without knowing the vault.

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{Context, Error};

/// Gives the newest version of a secret by name; implemented by the door over the vault.
#[async_trait]
pub trait SecretSource: Send + Sync {
    /// The secret called `name` in the context's project.
    ///
    /// # Errors
    ///
    /// `NotFound`: no such secret; the hint names the command that stores it.
    async fn secret(&self, ctx: &Context, name: &str) -> Result<SecretString, Error>;
}
