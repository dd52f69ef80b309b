//! The adapters there are: an explicit list, one line each.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use contract::{Capabilities, Context, Error, ErrorKind, SecretSource, Store};
use secrecy::SecretString;

use crate::config::StoreConfig;

/// Opens the store `name` as configured; nothing is connected yet.
///
/// # Errors
///
/// `Invalid`: the configuration cannot work, such as a certificate file that is not there.
pub(crate) fn open(
    name: &str,
    config: &StoreConfig,
    project_dir: &Path,
    secrets: Arc<dyn SecretSource>,
) -> Result<Arc<dyn Store>, Error> {
    Ok(match config {
        StoreConfig::Sqlite(config) => Arc::new(store_sqlite::open(name, config, project_dir)?),
        StoreConfig::Folder(config) => Arc::new(store_folder::open(name, config, project_dir)?),
        StoreConfig::Postgres(config) => {
            Arc::new(store_postgres::open(name, (**config).clone(), project_dir, secrets)?)
        }
    })
}

/// What is known of a kind of store without connecting to one.
pub(crate) struct Known {
    /// The kind as in configuration.
    pub(crate) kind: &'static str,
    /// What the conformance suite runs against.
    pub(crate) verified_against: &'static str,
    /// What it declares, and so passes the suite's cases of.
    pub(crate) capabilities: Capabilities,
}

/// All kinds, for the capability matrix.
///
/// # Errors
///
/// `Invalid`: never in a build that passes its tests.
pub(crate) fn known() -> Result<Vec<Known>, Error> {
    let sqlite = store_sqlite::Config::new("none.db");
    let postgres =
        serde_json::json!({ "url": "postgres://127.0.0.1:5432/none", "reader": { "user": "none" } });
    let postgres: store_postgres::Config = serde_json::from_value(postgres)
        .map_err(|cause| Error::new(ErrorKind::Invalid, "the adapter refuses an example").because(cause))?;
    let none = Path::new("/");
    Ok(vec![
        Known {
            kind: store_sqlite::KIND,
            verified_against: "SQLite 3.54 (real, built in)",
            capabilities: store_sqlite::open("none", &sqlite, none)?.capabilities(),
        },
        Known {
            kind: store_postgres::KIND,
            verified_against: "PostgreSQL 15, 17, 18 (real); 16: not run; backups of security labels (they need a provider) and of \
                               types of extensions that do not come with it, such as pgvector: not run",
            capabilities: store_postgres::open("none", postgres, none, Arc::new(NoSecrets))?.capabilities(),
        },
        Known {
            kind: store_folder::KIND,
            verified_against: "Linux file systems (real): backup and restore only",
            capabilities: store_folder::open("none", &store_folder::Config::new("none"), none)?
                .capabilities(),
        },
    ])
}

/// For stores that are never connected.
struct NoSecrets;

#[async_trait]
impl SecretSource for NoSecrets {
    async fn secret(&self, _ctx: &Context, name: &str) -> Result<SecretString, Error> {
        Err(Error::new(ErrorKind::NotFound, format!("there is no secret `{name}`")))
    }
}
