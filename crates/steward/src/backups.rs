//! What the room for backups is given of a project: its stores, plans, repositories and their keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use contract::{Context, Error, ErrorKind, Permit, Plan, Repository, Store, StoreDirectory};
use ledger::Ledger;

use crate::config::Config;
use crate::door::Steward;
use crate::project::Project;
use crate::{holder, own_state};

/// The repository of a project that names none.
const LOCAL: &str = "local";

/// Names of the project's repositories, the first of which is used where a plan names none.
pub(crate) fn names(config: &Config) -> Vec<String> {
    if config.backup.repositories.is_empty() {
        return vec![LOCAL.to_owned()];
    }
    config.backup.repositories.keys().cloned().collect()
}

/// The room's view of one project.
pub(crate) struct Room<'a> {
    steward: &'a Steward,
    project: &'a Arc<Project>,
    offered: Offered,
}

/// The stores of the project, and Steward's own state.
struct Offered {
    project: Arc<Project>,
    state: PathBuf,
    ledger: Ledger,
    key: Arc<vault::KeySource>,
}

#[async_trait]
impl StoreDirectory for Offered {
    fn list(&self, ctx: &Context) -> Vec<(String, String)> {
        let mut stores = self.project.list(ctx);
        stores.push((own_state::NAME.to_owned(), own_state::KIND.to_owned()));
        stores
    }

    async fn open(&self, ctx: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        if name != own_state::NAME || ctx.project() != self.project.name() {
            return self.project.open(ctx, name).await;
        }
        let loaded = self.project.loaded();
        let own = own_state::Own {
            dir: loaded.dir.clone(),
            file: loaded.file.clone(),
            state: self.state.clone(),
            ledger: self.ledger.clone(),
            key: Arc::clone(&self.key),
            project: self.project.name().to_owned(),
        };
        Ok(Arc::new(own_state::OwnState::of(own)?))
    }
}

impl<'a> Room<'a> {
    /// A view of this project.
    pub(crate) fn new(steward: &'a Steward, project: &'a Arc<Project>) -> Self {
        let offered = Offered {
            project: Arc::clone(project),
            state: steward.state().to_owned(),
            ledger: steward.ledger().clone(),
            key: steward.key_source(),
        };
        Self { steward, project, offered }
    }

    /// The folder of the state file.
    fn beside_state(&self) -> &Path {
        self.steward.state().parent().unwrap_or(Path::new("."))
    }

    fn config(&self, name: &str) -> Result<repository_restic::Config, Error> {
        let declared = &self.project.loaded().config.backup.repositories;
        match declared.get(name) {
            Some(config) => Ok(config.clone()),
            None if declared.is_empty() && name == LOCAL => {
                // Several projects may share one state file.
                let folder = self.beside_state().join("backups").join(self.project.name());
                Ok(repository_restic::Config::new(&folder.display().to_string()))
            }
            None => Err(Error::new(ErrorKind::NotFound, format!("there is no backup repository `{name}`"))
                .with("file", self.project.loaded().file.display())
                .hint(format!("there are: {}", names(&self.project.loaded().config).join(", ")))),
        }
    }

    /// Makes the repository's master key, if there is none.
    ///
    /// # Errors
    ///
    /// As the vault's.
    pub(crate) async fn make_key(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        repository: &str,
    ) -> Result<(), Error> {
        let secret = self.config(repository)?.key_secret(repository);
        if !self.steward.vault().versions(ctx, &secret).await?.is_empty() {
            return Ok(());
        }
        let key = repository_restic::new_master_key()?;
        self.steward.vault().make_for(ctx, permit, plan, &secret, &key).await
    }
}

#[async_trait]
impl backup::Surroundings for Room<'_> {
    fn stores(&self) -> &dyn StoreDirectory {
        &self.offered
    }

    fn plans(&self) -> &BTreeMap<String, backup::PlanConfig> {
        &self.project.loaded().config.backup.plans
    }

    fn repositories(&self) -> Vec<String> {
        names(&self.project.loaded().config)
    }

    async fn repository(&self, ctx: &Context, name: &str) -> Result<Arc<dyn Repository>, Error> {
        let config = self.config(name)?;
        if self.steward.vault().versions(ctx, &config.key_secret(name)).await?.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the backup repository `{name}` is not set up"),
            )
            .hint(format!("steward backup setup {name}")));
        }
        let opened =
            repository_restic::open(name, &config, &self.project.loaded().dir, self.project.secrets())?;
        Ok(Arc::new(opened))
    }

    fn scratch(&self) -> PathBuf {
        self.beside_state().join("scratch")
    }

    fn holder(&self) -> &str {
        self.steward.holder()
    }

    fn is_gone(&self, process: &str) -> bool {
        holder::is_gone(process)
    }

    fn ledger(&self) -> &Ledger {
        self.steward.ledger()
    }
}
