//! A project that is open: its file, its policies, its connected stores.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use authority::Authority;
use contract::{Context, Error, ErrorKind, SecretSource, Store, StoreDirectory, Trigger};
use stores::migration::MigrationFile;
use tokio::sync::Mutex;

use crate::config::{Loaded, StoreConfig, WebhookConfig};
use crate::{adapters, files};

/// Folder of the migrations, with one folder for each store.
pub(crate) const MIGRATIONS_DIR: &str = "migrations";

/// Folder of the team's own policies.
pub(crate) const POLICIES_DIR: &str = "policies";

/// A project that is open.
pub struct Project {
    loaded: Loaded,
    authority: Authority,
    secrets: Arc<dyn SecretSource>,
    open: Mutex<HashMap<String, Arc<dyn Store>>>,
}

impl Project {
    /// Checks the project's policies; no store is connected yet.
    ///
    /// # Errors
    ///
    /// `Invalid`: a policy file, with file and line.
    pub fn open(loaded: Loaded, secrets: Arc<dyn SecretSource>) -> Result<Self, Error> {
        let mut authority = Authority::built_in()?;
        let own = files::read_folder(&loaded.dir, POLICIES_DIR, "cedar")?;
        if !own.is_empty() {
            let own = own.into_iter().map(|(name, bytes)| {
                let path = PathBuf::from(POLICIES_DIR).join(name);
                files::utf8(&path.display().to_string(), bytes).map(|text| (path, text))
            });
            authority = authority.with_user_policies(own.collect::<Result<_, _>>()?)?;
        }
        Ok(Self { loaded, authority, secrets, open: Mutex::new(HashMap::new()) })
    }

    /// The project's name.
    pub fn name(&self) -> &str {
        &self.loaded.config.project
    }

    /// The project file.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The matrix with the team's own policies.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The project's secrets.
    pub fn secrets(&self) -> Arc<dyn SecretSource> {
        Arc::clone(&self.secrets)
    }

    /// Names of the webhooks that hear of this trigger.
    pub fn webhooks_for(&self, trigger: Trigger) -> Vec<String> {
        let hears = |webhook: &WebhookConfig| {
            webhook.triggers.as_ref().is_none_or(|triggers| triggers.contains(&trigger))
        };
        self.loaded
            .config
            .webhooks
            .iter()
            .filter(|(_, webhook)| hears(webhook))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What tasks may leave unsaid.
    pub fn defaults(&self) -> pm::Defaults {
        pm::Defaults { store: None, queries: self.loaded.config.queries.clone() }
    }

    /// The migration files of a store, `migrations/<store>/*.sql`.
    ///
    /// # Errors
    ///
    /// `Denied`, `Invalid`.
    pub fn migrations(&self, store: &str) -> Result<Vec<MigrationFile>, Error> {
        let folder = format!("{MIGRATIONS_DIR}/{store}");
        let files = files::read_folder(&self.loaded.dir, &folder, "sql")?;
        Ok(files
            .into_iter()
            .map(|(name, bytes)| MigrationFile::new(format!("{folder}/{name}"), bytes))
            .collect())
    }

    /// Forgets all connections, so that changed secrets are used from now on.
    pub async fn reconnect(&self) {
        let stores: BTreeMap<String, Arc<dyn Store>> = self.open.lock().await.drain().collect();
        for store in stores.into_values() {
            // Calls in flight hold their own reference and end by themselves.
            if Arc::strong_count(&store) == 1 {
                store.close().await;
            }
        }
    }

    fn not_found(&self, name: &str) -> Error {
        let names: Vec<&str> = self.loaded.config.stores.keys().map(String::as_str).collect();
        let hint = match names.as_slice() {
            [] => "this project has no stores; add one under `stores` in `steward.yaml`".to_owned(),
            names => format!("this project has: {}", names.join(", ")),
        };
        Error::new(ErrorKind::NotFound, format!("there is no store `{name}`"))
            .with("project", self.name())
            .with("file", self.loaded.file.display())
            .hint(hint)
    }
}

#[async_trait]
impl StoreDirectory for Project {
    fn list(&self, _ctx: &Context) -> Vec<(String, String)> {
        self.loaded
            .config
            .stores
            .iter()
            .map(|(name, store)| (name.clone(), store.kind().to_owned()))
            .collect()
    }

    async fn open(&self, ctx: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        if ctx.project() != self.name() {
            return Err(self.not_found(name));
        }
        let config: &StoreConfig = self.loaded.config.stores.get(name).ok_or_else(|| self.not_found(name))?;
        let mut open = self.open.lock().await;
        if let Some(store) = open.get(name) {
            return Ok(Arc::clone(store));
        }
        let store = adapters::open(name, config, &self.loaded.dir, self.secrets())?;
        open.insert(name.to_owned(), Arc::clone(&store));
        Ok(store)
    }
}
