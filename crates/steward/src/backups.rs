//! What the room for backups is given of a project: its stores, plans, repositories and their keys.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use backup::archive::{ColdRule, Folder, LegalHold};
use backup::{DrillStep, RecoveredMachine, StoreBack};
use contract::cold::ArchivePlace;
use contract::columnar::Columnar;
use contract::{AnswerStatus, Context, Error, ErrorKind, Permit, Plan, Repository, Store, StoreDirectory};
use ledger::Ledger;
use secrecy::SecretString;
use serde_json::json;

use crate::config::Config;
use crate::door::{Options, Steward, Surroundings as Environment};
use crate::project::Project;
use crate::recover::StatePlace;
use crate::request::Request;
use crate::{holder, own_state, recover};

/// The secret that signs the manifests of a project's backups.
const SIGNING_KEY: &str = "backup/signing-key";

/// The repository of a project that names none.
const LOCAL: &str = "local";

/// Names of the project's repositories, the first of which is used where a plan names none.
pub(crate) fn names(config: &Config) -> Vec<String> {
    if config.backup.repositories.is_empty() {
        return vec![LOCAL.to_owned()];
    }
    config.backup.repositories.keys().cloned().collect()
}

/// What is measured of each store's backups: name, unit, help, and the value where there is one.
type Measure = (&'static str, &'static str, &'static str, fn(&backup::Indicators) -> Option<f64>);

#[allow(clippy::cast_precision_loss)] // 52 bits are plenty for seconds and their parts.
const MEASURES: [Measure; 9] = [
    (
        "steward_backup_proven_point_timestamp_seconds",
        "seconds",
        "Moment that the newest restored and compared backup of a store holds.",
        |it| it.proven_point.map(|point| point.as_second() as f64),
    ),
    (
        "steward_backup_recovery_point_timestamp_seconds",
        "seconds",
        "Newest moment of a store that can be restored, with the log that is kept.",
        |it| it.recovery_point.map(|point| point.as_second() as f64),
    ),
    ("steward_backup_rpo_objective_seconds", "seconds", "Most work of a store that may be lost.", |it| {
        Some(it.rpo_objective_s as f64)
    }),
    ("steward_backup_restore_seconds", "seconds", "How long the last restore of that backup took.", |it| {
        it.restore_ms.map(|ms| ms as f64 / 1e3)
    }),
    (
        "steward_backup_restore_forecast_seconds",
        "seconds",
        "How long its next restore is expected to take.",
        |it| it.forecast_ms.map(|ms| ms as f64 / 1e3),
    ),
    (
        "steward_backup_rto_objective_seconds",
        "seconds",
        "Longest that a restore of a store should take.",
        |it| Some(it.rto_objective_s as f64),
    ),
    (
        "steward_backup_verified_timestamp_seconds",
        "seconds",
        "When that backup was last restored and compared.",
        |it| it.verified_at.map(|at| at.as_second() as f64),
    ),
    (
        "steward_backup_success_ratio",
        "ratio",
        "Share of a store's backups of 30 days that came to their end, were restored and compared, and have no fault.",
        |it| it.success_rate_30d,
    ),
    ("steward_backup_success_objective_ratio", "ratio", "The share that should be.", |it| {
        Some(it.success_objective)
    }),
];

/// How the backups of a project stand, as OpenMetrics, without its last line. Stores that were never backed up are left out.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn metrics(steward: &Steward, project: &str) -> Result<String, Error> {
    let Some(project) = steward.projects().into_iter().find(|open| open.name() == project) else {
        return Ok(String::new());
    };
    let ctx = Context::new(project.name(), contract::Actor::system()).with_clock(Arc::clone(steward.clock()));
    let plans = &project.loaded().config.backup.plans;
    let mut all = Vec::new();
    for (store, _) in project.list(&ctx) {
        let plan = plans.values().find(|plan| plan.stores.contains(&store));
        let objectives = plan.map_or_else(backup::Objectives::default, |plan| plan.objectives);
        let indicators = backup::Indicators::of(&ctx, steward.ledger(), &store, objectives).await?;
        if plan.is_some() || indicators.runs_30d > 0 || indicators.proven.is_some() {
            all.push((store, indicators));
        }
    }
    let mut text = String::new();
    for (name, unit, help, value) in MEASURES {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n# UNIT {name} {unit}")
            .expect("writing to a string does not fail");
        for (store, indicators) in &all {
            let Some(value) = value(indicators) else { continue };
            // Names of projects and stores need no escape.
            writeln!(text, "{name}{{steward_project=\"{}\",store=\"{store}\"}} {value}", project.name())
                .expect("writing to a string does not fail");
        }
    }
    Ok(text)
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

fn step(what: &str, since: Instant) -> DrillStep {
    DrillStep { step: what.to_owned(), ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX) }
}

/// The store that a request is about that names something else: a rule, an archive, or what is restored.
pub(crate) fn store_of(project: &Project, request: &Request) -> Option<String> {
    let config = &project.loaded().config;
    let (archive, retention) = (&config.archive.rules, &config.retention.rules);
    let rule = match request {
        // Of a backup by its id, what is known is in the ledger alone.
        Request::BackupRestore(request) if config.stores.contains_key(&request.backup) => {
            return Some(format!("store:{}", request.backup));
        }
        Request::BackupArchive(request) => archive.get(&request.rule),
        Request::RetentionApply(request) => retention.get(&request.rule),
        Request::ArchiveQuery(request) => archive.get(&request.archive),
        Request::ArchiveRestore(request) => archive.get(&request.archive),
        _ => None,
    }?;
    Some(format!("store:{}", rule.store))
}

impl backup::archive::ColdSurroundings for Room<'_> {
    fn archive_rules(&self) -> &BTreeMap<String, ColdRule> {
        &self.project.loaded().config.archive.rules
    }

    fn retention_rules(&self) -> &BTreeMap<String, ColdRule> {
        &self.project.loaded().config.retention.rules
    }

    fn legal_holds(&self) -> &BTreeMap<String, LegalHold> {
        &self.project.loaded().config.legal_holds
    }

    fn archive_place(&self, to: &str) -> Result<Arc<dyn ArchivePlace>, Error> {
        let loaded = self.project.loaded();
        if let Some(bucket) = loaded.config.archive.places.get(to) {
            let place = repository_restic::open_place(to, bucket, &loaded.dir, &self.project.secrets())?;
            return Ok(Arc::new(place));
        }
        Ok(Arc::new(Folder::new(loaded.dir.join(to))))
    }

    fn columnar(&self) -> Arc<dyn Columnar> {
        Arc::new(columnar_parquet::Parquet)
    }
}

impl Room<'_> {
    /// Makes the key that signs manifests, if there is none or another is wanted.
    ///
    /// # Errors
    ///
    /// As the vault's.
    pub(crate) async fn make_signing_key(
        &self,
        ctx: &Context,
        permit: &Permit,
        plan: &Plan,
        another: bool,
    ) -> Result<(), Error> {
        let vault = self.steward.vault();
        let versions = vault.versions(ctx, SIGNING_KEY).await?;
        match versions.last() {
            None => vault.make_for(ctx, permit, plan, SIGNING_KEY, &backup::new_signing_key()?).await,
            Some(newest) if another => {
                let key = backup::new_signing_key()?;
                vault.add_for(ctx, permit, plan, SIGNING_KEY, *newest, &key).await.map(|_| ())
            }
            Some(_) => Ok(()),
        }
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

    fn uptime(&self) -> Option<backup::Uptime> {
        backup::Uptime::of_machine()
    }

    async fn signing_keys(&self, ctx: &Context) -> Result<Vec<SecretString>, Error> {
        let vault = self.steward.vault();
        let mut keys = Vec::new();
        for version in vault.versions(ctx, SIGNING_KEY).await?.into_iter().rev() {
            keys.push(vault.version(ctx, SIGNING_KEY, version).await?);
        }
        Ok(keys)
    }

    async fn unlock(
        &self,
        ctx: &Context,
        name: &str,
        key: &SecretString,
    ) -> Result<Arc<dyn Repository>, Error> {
        let config = self.config(name)?;
        let dir = &self.project.loaded().dir;
        Ok(Arc::new(recover::unlock(ctx, &config, dir, &self.project.secrets(), key).await?))
    }

    async fn recover_into(
        &self,
        ctx: &Context,
        repository: &str,
        key: Option<&SecretString>,
        folder: &Path,
        stores: &[String],
    ) -> Result<RecoveredMachine, Error> {
        let since = Instant::now();
        let opened = match key {
            Some(key) => self.unlock(ctx, repository, key).await?,
            None => self.repository(ctx, repository).await?,
        };
        let mut steps = vec![step("open the repository", since)];
        let recovery = recover::Recovery {
            dir: folder.to_owned(),
            project: Some(self.project.name().to_owned()),
            backup: None,
            signed_by: None,
            endpoint: None,
            region: None,
        };
        let recovered = recover::recover(ctx, &*opened, &recovery, StatePlace::Inside).await?;
        steps
            .extend(recovered.steps.iter().map(|(what, ms)| DrillStep { step: (*what).to_owned(), ms: *ms }));
        let since = Instant::now();
        let (there, notes) = recover::settle(&recovered, &Environment::default()).await?;
        steps.push(step("start Steward and make the list of backups whole", since));
        let there_ctx = Context::new(self.project.name(), ctx.actor().clone()).with_clock(ctx.clock());
        let mut back = Vec::new();
        for store in stores {
            let since = Instant::now();
            let arguments = json!({ "backup": store, "level": "l3" });
            let verified =
                ctx.run(there.submit_with(&there_ctx, "backup.verify", arguments, Options::default())).await;
            let mut one = StoreBack { store: store.clone(), ..StoreBack::default() };
            match verified {
                Err(error) if matches!(error.kind(), ErrorKind::Canceled | ErrorKind::TimedOut) => {
                    return Err(error);
                }
                Err(error) => one.problem = Some(error.to_string()),
                Ok(answer) => {
                    let (backup, proof) = (&answer.value["backup"], &answer.value["proof"]);
                    one.bytes = backup["bytes"].as_u64().unwrap_or_default();
                    one.rows = proof["rows"].as_u64().unwrap_or_default();
                    let problem = answer.findings.first().map(|finding| finding.title.clone());
                    let is_back = answer.status == AnswerStatus::Done && problem.is_none();
                    one.problem = (!is_back).then(|| problem.unwrap_or_else(|| answer.text.clone()));
                }
            }
            one.ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            back.push(one);
        }
        there.close().await?;
        // What leads the scratch copy to the repository is no concern of whoever reads of the drill.
        let notes = notes.into_iter().filter(|note| !note.contains("a link there leads to")).collect();
        Ok(RecoveredMachine {
            steps,
            backup: recovered.backup,
            bytes: recovered.bytes,
            rows: recovered.rows,
            stores: back,
            notes,
        })
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
