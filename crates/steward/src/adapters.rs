//! The adapters there are: an explicit list, one line each.

use std::path::Path;
use std::sync::Arc;

use contract::{Error, SecretSource, Store};

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
        StoreConfig::Postgres(config) => {
            Arc::new(store_postgres::open(name, config.clone(), project_dir, secrets)?)
        }
    })
}
