//! `steward recover`: Steward on an empty machine, from a repository and its recovery key alone.
//!
//! The newest backup of Steward's own state is loaded and compared in a folder inside the target, and only then moved to its
//! place, the project file last: with it the folder is a project. What is killed before can be done again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use backup::{Manifest, Signed};
use contract::quantity::count;
use contract::{
    Actor, AnswerStatus, Context, Error, ErrorKind, Kept, LoadTarget, Repository, Restored, SecretSource,
    Selection,
};
use repository_restic::ResticRepository;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use vault::{KeySource, MasterKey};

use crate::backups;
use crate::config::{self, FILE_NAME, Loaded, MasterKeyConfig};
use crate::door::{Options, Steward, Surroundings};
use crate::own_state::{self, Copy, OwnState, write_new};

/// The folder in the target in which everything is made ready; while it is there, the recovery is not at its end.
const STAGING: &str = ".steward-recovering";
/// The repository's name, where no project file gives it one.
const NAME: &str = "recovery";
/// In it: what is ready to be moved, one name for each line.
const PLACING: &str = "placing";
/// In it: the files of the project as they will lie.
const TREE: &str = "tree";
/// In it: the state and the key, until they are moved.
const STATE: &str = "state.db";
/// In it, and beside the state: the master key.
const KEY: &str = "master.key";

/// What is recovered, and where to.
#[derive(Debug, Clone)]
pub(crate) struct Recovery {
    /// The folder that becomes the project's.
    pub(crate) dir: PathBuf,
    /// The project, where the repository holds several.
    pub(crate) project: Option<String>,
    /// Another backup of the state than the newest, by its id.
    pub(crate) backup: Option<String>,
    /// The key that must have signed it, where somebody has written that down.
    pub(crate) signed_by: Option<String>,
    /// Of a bucket: where its server is.
    pub(crate) endpoint: Option<String>,
    /// Of a bucket: its region.
    pub(crate) region: Option<String>,
}

/// Where the state is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatePlace {
    /// Where the project file says.
    AsWritten,
    /// Below the folder whatever the project file says: for a drill, which touches nothing else.
    Inside,
}

/// What came back.
pub(crate) struct Recovered {
    pub(crate) project: String,
    pub(crate) backup: String,
    pub(crate) point: jiff::Timestamp,
    pub(crate) address: String,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    /// What was done, with the time that each took, in milliseconds.
    pub(crate) steps: Vec<(&'static str, u64)>,
    /// The project file as it is to be opened.
    pub(crate) loaded: Loaded,
    /// The master key, if it was read; it is where the project file says otherwise.
    key: Option<SecretString>,
    /// The key that signed it.
    pub(crate) signed_by: Option<String>,
    /// What the person must know.
    pub(crate) notes: Vec<String>,
}

/// The secrets of a repository with another master key than the vault's.
struct WithKey {
    name: String,
    key: SecretString,
    others: Arc<dyn SecretSource>,
}

#[async_trait]
impl SecretSource for WithKey {
    async fn secret(&self, ctx: &Context, name: &str) -> Result<SecretString, Error> {
        if name == self.name { Ok(self.key.clone()) } else { self.others.secret(ctx, name).await }
    }
}

/// What opens a bucket before there is a vault: the variables that every program for such storage reads.
struct OfEnvironment(BTreeMap<String, String>);

#[async_trait]
impl SecretSource for OfEnvironment {
    async fn secret(&self, _ctx: &Context, _name: &str) -> Result<SecretString, Error> {
        let variable = |name: &str| self.0.get(name).filter(|value| !value.is_empty());
        let (Some(access), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
        else {
            return Err(Error::new(ErrorKind::Denied, "the bucket's credentials are not known")
                .hint("set the environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
        };
        let token = variable("AWS_SESSION_TOKEN").map_or_else(String::new, |token| format!(":{token}"));
        Ok(SecretString::from(format!("{access}:{secret}{token}")))
    }
}

/// Opens a repository with its recovery key, or another key that restic would take.
///
/// # Errors
///
/// `NotFound`: no repository is there. `Denied`: the key does not open it. `Invalid`: the address.
pub(crate) async fn unlock(
    ctx: &Context,
    config: &repository_restic::Config,
    base: &Path,
    others: &Arc<dyn SecretSource>,
    key: &SecretString,
) -> Result<ResticRepository, Error> {
    let open = |key: SecretString| {
        let name = config.key_secret(NAME);
        let secrets = WithKey { name, key, others: Arc::clone(others) };
        repository_restic::open(NAME, config, base, Arc::new(secrets))
    };
    let locked = open(SecretString::from(String::new()))?;
    let master = locked.unlock(ctx, key).await?;
    open(master)
}

/// Recovers from an open repository into the folder. Steward is not started yet.
///
/// # Errors
///
/// `AlreadyExists`: the folder holds something. `NotFound`: no backup of Steward's own state is in the repository. `Corrupt`: what
/// came back is not what was backed up. After an error the folder is as it was.
pub(crate) async fn recover(
    ctx: &Context,
    repository: &dyn Repository,
    recovery: &Recovery,
    place: StatePlace,
) -> Result<Recovered, Error> {
    let dir = make_dir(&recovery.dir)?;
    let finished = begin_again(&dir)?;
    let mut steps = Vec::new();
    let mut step = |name: &'static str, since: Instant| {
        steps.push((name, u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)));
    };
    let since = Instant::now();
    let (kept, manifest, mut notes) = newest(ctx, repository, recovery).await?;
    step("find the backup of Steward's own state", since);
    let staging = dir.join(STAGING);
    let made = async {
        let since = Instant::now();
        if finished {
            let loaded = config::load(&dir.join(FILE_NAME))?;
            return Ok((std::fs::read_to_string(key_file(&loaded)).map(SecretString::from).ok(), loaded));
        }
        let copy = stage(ctx, repository, &kept, &manifest, &staging).await?;
        step("load and compare it", since);
        let since = Instant::now();
        let loaded = ready(&dir, &staging, &copy, place)?;
        put_in_place(&dir, &staging, &loaded, place, &mut |_| Ok(()))?;
        step("put it in place", since);
        Ok((Some(copy.key().clone()), loaded))
    };
    let (key, loaded) = match made.await {
        Ok(made) => made,
        Err(error) => {
            if let Err(left) = begin_again(&dir) {
                tracing::warn!(error = %left, "what was begun cannot be taken away");
            }
            return Err(error);
        }
    };
    if place == StatePlace::AsWritten {
        notes.extend(moved_key(&loaded));
    }
    Ok(Recovered {
        project: manifest.project.clone(),
        backup: manifest.id.clone(),
        point: manifest.dumped.point.at,
        address: repository.address(),
        files: own_state::Detail::of(&manifest.dumped)?.files.len(),
        bytes: manifest.parts.iter().map(|part| part.bytes).sum(),
        rows: manifest.rows(),
        steps,
        loaded,
        key,
        signed_by: manifest.signature.map(|signature| signature.key),
        notes,
    })
}

/// What to do with the key where the project file wants it elsewhere than in a file.
fn moved_key(loaded: &Loaded) -> Option<String> {
    let (place, there) = match &loaded.config.master_key {
        MasterKeyConfig::Environment(name) => (format!("the environment variable `{name}`"), "set it to"),
        MasterKeyConfig::Keyring(service) => (format!("the keyring, service `{service}`"), "put there"),
        MasterKeyConfig::Default | MasterKeyConfig::File(_) => return None,
    };
    let file = key_file(loaded);
    Some(format!(
        "the project file takes the master key from {place}: {there} what is in {}, then delete that file",
        file.display()
    ))
}

/// The folder, made if it is not there.
fn make_dir(dir: &Path) -> Result<PathBuf, Error> {
    let failed = |cause: std::io::Error| {
        Error::new(ErrorKind::Denied, "the folder cannot be made")
            .with("folder", dir.display())
            .because(cause)
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    dir.canonicalize().map_err(failed)
}

/// Takes away what an interrupted recovery has left; says whether it had come to its end but for the last tidying.
///
/// Nothing is removed but the staging folder and the names that it lists.
///
/// # Errors
///
/// `AlreadyExists`: something else is in the folder.
fn begin_again(dir: &Path) -> Result<bool, Error> {
    let failed = |cause: std::io::Error| {
        Error::new(ErrorKind::Denied, "the folder cannot be read")
            .with("folder", dir.display())
            .because(cause)
    };
    let staging = dir.join(STAGING);
    let placing = std::fs::read_to_string(staging.join(PLACING)).unwrap_or_default();
    let ours: BTreeSet<&str> = placing.lines().chain([STAGING]).collect();
    let finished = staging.is_dir() && ours.contains(FILE_NAME) && dir.join(FILE_NAME).exists();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    if let Some(other) = names.iter().find(|name| name.to_str().is_none_or(|name| !ours.contains(name))) {
        return Err(Error::new(ErrorKind::AlreadyExists, "the folder is not empty")
            .with("folder", dir.display())
            .with("holds", other.display())
            .hint("recover into an empty one, and copy over what you need: `--dir NEW_FOLDER`"));
    }
    if finished {
        return Ok(true);
    }
    for name in names {
        let path = dir.join(name);
        let removed = if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.map_err(failed)?;
    }
    Ok(false)
}

/// Refuses a manifest that is not what was signed, or not signed by the key that was named. By whom it is signed can be told
/// only by who knows the key: it is in the very state that is to be recovered.
fn trusted(manifest: &Manifest, signed_by: Option<&str>) -> Result<(), Error> {
    let claimed = manifest.signature.as_ref().map(|signature| signature.key.clone());
    let keys: Vec<String> = signed_by.map(str::to_owned).or(claimed).into_iter().collect();
    match (manifest.signed_by(&keys), signed_by) {
        (Signed::Signed, _) | (Signed::Unsigned, None) => Ok(()),
        (Signed::Broken, _) => Err(Error::new(ErrorKind::Corrupt, "it is not what was signed")),
        (signed, _) => Err(Error::new(ErrorKind::Corrupt, "it is not signed by the key that was named")
            .with("signature", signed.as_str())),
    }
}

/// The backup of the state that is meant, with what was passed over on the way to it.
async fn newest(
    ctx: &Context,
    repository: &dyn Repository,
    recovery: &Recovery,
) -> Result<(Kept, Manifest, Vec<String>), Error> {
    let listing = repository.list(ctx).await?;
    let mut notes: Vec<String> =
        listing.unreadable.iter().map(|line| format!("not readable in the repository: {line}")).collect();
    let mut own: Vec<Kept> =
        listing.kept.into_iter().filter(|kept| kept.store.as_deref() == Some(own_state::NAME)).collect();
    own.reverse();
    let projects: BTreeSet<String> = own.iter().filter_map(|kept| kept.project.clone()).collect();
    if let Some(project) = &recovery.project {
        own.retain(|kept| kept.project.as_ref() == Some(project));
    } else if projects.len() > 1 && recovery.backup.is_none() {
        let projects: Vec<String> = projects.into_iter().collect();
        return Err(Error::new(ErrorKind::Invalid, "the repository holds backups of several projects")
            .with("projects", projects.join(", "))
            .hint(format!("name one: `--project {}`", projects[0])));
    }
    if let Some(id) = &recovery.backup {
        own.retain(|kept| kept.id.as_ref() == Some(id));
    }
    if own.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the repository holds no such backup of Steward's own state")
            .with("repository", repository.address())
            .hint(
                "`steward backup run steward` makes one while Steward lives; without it the data itself still comes back: \
                 set Steward up anew, or use restic, as the recovery runbook says",
            ));
    }
    let mut last = None;
    for kept in own {
        let read = async {
            let manifest = Manifest::read(&repository.manifest(ctx, &kept).await?)?;
            trusted(&manifest, recovery.signed_by.as_deref())?;
            own_state::Detail::of(&manifest.dumped)?;
            Ok::<_, Error>(manifest)
        };
        match read.await {
            Ok(manifest) => return Ok((kept, manifest, notes)),
            Err(error) => {
                notes.push(format!(
                    "the backup {} cannot be read, the one before it is taken: {}",
                    kept.id.as_deref().unwrap_or(&kept.snapshot),
                    error.message()
                ));
                last = Some(error);
            }
        }
    }
    Err(last.expect("there was at least one").with("repository", repository.address()))
}

/// Loads the backup into the staging folder and compares it with what was dumped.
async fn stage(
    ctx: &Context,
    repository: &dyn Repository,
    kept: &Kept,
    manifest: &Manifest,
    staging: &Path,
) -> Result<Copy, Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(staging).map_err(|cause| {
        Error::new(ErrorKind::Denied, "the folder cannot be written")
            .with("folder", staging.display())
            .because(cause)
    })?;
    let parts = repository.open(ctx, kept, manifest.parts.clone()).await?;
    let target = LoadTarget::Scratch { folder: staging.to_owned() };
    let reader = OwnState::reader()?;
    let copy = reader.load_copy(ctx, &manifest.dumped, &*parts, &Selection::Whole, &target).await?;
    let found = copy.fingerprint(ctx, &manifest.dumped).await?;
    let different = manifest
        .dumped
        .tables
        .iter()
        .find(|expected| found.iter().find(|now| now.table == expected.table) != Some(*expected));
    let mut problems: Vec<String> =
        different.map(|table| format!("{} is another", table.table)).into_iter().collect();
    problems.extend(copy.schema_differences(ctx, &manifest.dumped, &*parts, &Selection::Whole).await?);
    problems.extend(
        copy.check(ctx).await?.problems.into_iter().map(|it| format!("{}: {}", it.object, it.problem)),
    );
    match problems.first() {
        None => Ok(copy),
        Some(problem) => Err(Error::new(
            ErrorKind::Corrupt,
            format!("what came back is not what was backed up: {problem}"),
        )
        .with("backup", &manifest.id)
        .hint("try an older one: `--backup ID`; restic lists them: `restic snapshots --tag store=steward`")),
    }
}

/// The project as it is written, with the state below its folder.
fn inside(mut loaded: Loaded) -> Loaded {
    loaded.config.state = PathBuf::from(".steward").join(STATE);
    loaded.config.webhooks.clear();
    loaded.config.audit = config::AuditConfig::default();
    loaded
}

/// Where the key is put: where the project file says if it names a file, beside the state otherwise.
fn key_file(loaded: &Loaded) -> PathBuf {
    match &loaded.config.master_key {
        MasterKeyConfig::File(path) => loaded.dir.join(path),
        _ => loaded.state_path().with_file_name(KEY),
    }
}

/// Makes the tree that is moved, and the list of what is.
fn ready(dir: &Path, staging: &Path, copy: &Copy, place: StatePlace) -> Result<Loaded, Error> {
    let failed = |cause: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "the staging folder cannot be written")
            .with("folder", staging.display())
            .because(cause)
    };
    std::fs::rename(copy.files(), staging.join(TREE)).map_err(failed)?;
    std::fs::rename(copy.state_file(), staging.join(STATE)).map_err(failed)?;
    let loaded = config::load(&staging.join(TREE).join(FILE_NAME))?;
    let loaded = Loaded { dir: dir.to_owned(), file: dir.join(FILE_NAME), ..loaded };
    let loaded = if place == StatePlace::Inside { inside(loaded) } else { loaded };
    let mut names = BTreeSet::new();
    let mut paths = vec![loaded.state_path()];
    if place == StatePlace::AsWritten {
        paths.push(key_file(&loaded));
    }
    for path in paths {
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::AlreadyExists, "there is a state of Steward already")
                .with("file", path.display())
                .hint("the project file puts the state there; move what is there away, if nobody needs it"));
        }
        if let Ok(relative) = path.strip_prefix(dir)
            && let Some(Component::Normal(first)) = relative.components().next()
        {
            names.insert(first.to_string_lossy().into_owned());
        }
    }
    for entry in std::fs::read_dir(staging.join(TREE)).map_err(failed)? {
        names.insert(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    let list: String = names.iter().fold(String::new(), |list, name| list + name + "\n");
    write_new(&staging.join(PLACING), list.as_bytes())?;
    if place == StatePlace::AsWritten {
        let master = MasterKey::load(&KeySource::Environment { value: copy.key().clone() })?;
        write_new(&staging.join(KEY), format!("{}\n", master.text().expose_secret()).as_bytes())?;
    }
    Ok(loaded)
}

/// Moves everything to its place, the project file last. `at` is told before each move; an error of it is passed on with
/// nothing tidied, as if the process had been killed there.
fn put_in_place(
    dir: &Path,
    staging: &Path,
    loaded: &Loaded,
    place: StatePlace,
    at: &mut dyn FnMut(&str) -> Result<(), Error>,
) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |path: &Path, cause: std::io::Error| {
        let kind = match cause.kind() {
            std::io::ErrorKind::StorageFull => ErrorKind::LimitExceeded,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, "what came back cannot be put in its place")
            .with("file", path.display())
            .because(cause)
    };
    let sync = |folder: &Path| {
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|cause| failed(folder, cause))
    };
    let mut first = vec![(STATE, loaded.state_path())];
    if place == StatePlace::AsWritten {
        first.push((KEY, key_file(loaded)));
    }
    for (name, to) in first {
        at(name)?;
        let folder = to.parent().unwrap_or(dir).to_owned();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|cause| failed(&folder, cause))?;
        let from = staging.join(name);
        // The state may lie on another file system: then it is copied, and not there before it is whole.
        match std::fs::rename(&from, &to) {
            Err(cause) if cause.kind() == std::io::ErrorKind::CrossesDevices => {
                let near = to.with_extension("recovering");
                std::fs::copy(&from, &near)
                    .and_then(|_| std::fs::File::open(&near)?.sync_all())
                    .and_then(|()| std::fs::rename(&near, &to))
                    .map_err(|cause| failed(&to, cause))?;
            }
            moved => moved.map_err(|cause| failed(&to, cause))?,
        }
        sync(&folder)?;
    }
    let tree = staging.join(TREE);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&tree).map_err(|cause| failed(&tree, cause))? {
        names.push(entry.map_err(|cause| failed(&tree, cause))?.file_name());
    }
    names.sort_by_key(|name| name == FILE_NAME);
    for name in names {
        at(&name.to_string_lossy())?;
        std::fs::rename(tree.join(&name), dir.join(&name))
            .map_err(|cause| failed(&dir.join(&name), cause))?;
    }
    sync(dir)?;
    at("end")
}

/// Opens what was recovered, leads its repositories to where they are now and makes the list of backups whole. Gives Steward
/// and what a person must still do.
///
/// # Errors
///
/// As [`Steward::open`]'s.
pub(crate) async fn settle(
    recovered: &Recovered,
    surroundings: &Surroundings,
) -> Result<(Arc<Steward>, Vec<String>), Error> {
    let (mut loaded, mut surroundings) = (recovered.loaded.clone(), surroundings.clone());
    if let Some(key) = &recovered.key {
        // For this once it is taken from memory, wherever the project file says that it lies.
        loaded.config.master_key = MasterKeyConfig::Environment(KEY.to_owned());
        surroundings.variables.insert(KEY.to_owned(), key.expose_secret().to_owned());
    }
    let steward = Steward::open(vec![loaded], &surroundings).await?;
    let ctx = Context::new(&recovered.project, Actor::local()).with_clock(Arc::clone(steward.clock()));
    // Whoever worked on the original does not work on this copy, also where it is on the same machine and lives.
    let gone = ledger::Write::new()
        .exec("UPDATE backups SET holder = 'gone' WHERE state = 'running'", Vec::new())
        .exec("UPDATE intents SET holder = 'gone' WHERE finished_us IS NULL", Vec::new())
        .event(ledger::NewEvent::new(
            "steward.recovered",
            format!("project:{}", recovered.project),
            json!({ "backup": recovered.backup, "as_of": recovered.point, "repository": recovered.address }),
        ));
    steward.ledger().write(&ctx, gone).await?;
    let mut notes = lead(&steward, &ctx, recovered).await?;
    let answer = steward.submit_with(&ctx, "backup.rebuild", json!({}), Options::default()).await;
    match answer {
        Ok(answer) if answer.status == AnswerStatus::Done => {
            notes.extend(answer.findings.into_iter().map(|finding| finding.title));
        }
        Ok(answer) => notes.push(format!("the list of backups was not made anew: {}", answer.text.trim())),
        Err(error) => notes.push(format!("the list of backups was not made anew: {error}")),
    }
    Ok((steward, notes))
}

/// A repository that the project file expects in a folder which is not there is led to where it was found, by a link.
async fn lead(steward: &Steward, ctx: &Context, recovered: &Recovered) -> Result<Vec<String>, Error> {
    use backup::Surroundings as _;
    let project = steward.project(&recovered.project)?;
    let room = backups::Room::new(steward, &project);
    let sql = "SELECT repository FROM backups WHERE project = ? AND id = ?";
    let rows = steward
        .ledger()
        .query(sql, vec![recovered.project.as_str().into(), recovered.backup.as_str().into()])
        .await?;
    let name = match rows.first() {
        Some(row) => row.get_text("repository")?.to_owned(),
        None => room.repositories().first().cloned().unwrap_or_default(),
    };
    let expected = room.repository(ctx, &name).await?.address();
    let (there, here) = (Path::new(&expected), Path::new(&recovered.address));
    let same = expected == recovered.address
        || there.canonicalize().is_ok_and(|there| here.canonicalize().is_ok_and(|here| here == there));
    if same {
        return Ok(Vec::new());
    }
    let change = format!(
        "the project file has the repository `{name}` at {expected}, this one is at {}: set `backup.repositories.{name}.url`",
        recovered.address
    );
    if !there.is_absolute() || !here.is_absolute() || there.symlink_metadata().is_ok() {
        return Ok(vec![change]);
    }
    let linked = here.canonicalize().and_then(|here| {
        std::fs::create_dir_all(there.parent().unwrap_or(there))?;
        std::os::unix::fs::symlink(here, there)
    });
    Ok(vec![match linked {
        Ok(()) => {
            format!("the repository `{name}` is expected at {expected}: a link there leads to where it is")
        }
        Err(_) => change,
    }])
}

/// Takes the staging folder away: the recovery is at its end.
pub(crate) fn end(dir: &Path) -> Result<(), Error> {
    let staging = dir.join(STAGING);
    std::fs::remove_dir_all(&staging).map_err(|cause| {
        Error::new(ErrorKind::Denied, "the staging folder cannot be taken away")
            .with("folder", staging.display())
            .because(cause)
    })
}

/// Does all of it; gives the answer for a program and the one for a person.
///
/// # Errors
///
/// As [`recover`] and [`settle`].
pub(crate) async fn run(
    url: &str,
    recovery: &Recovery,
    key: &SecretString,
    surroundings: &Surroundings,
) -> Result<(Value, String), Error> {
    let started = Instant::now();
    let ctx = Context::new("recovery", Actor::local());
    let here = std::env::current_dir()
        .map_err(|cause| Error::new(ErrorKind::Other, "cannot find the current folder").because(cause))?;
    let mut config = repository_restic::Config::new(url);
    if url.starts_with("s3://") {
        config.endpoint.clone_from(&recovery.endpoint);
        config.region.clone_from(&recovery.region);
        config.credentials = Some(format!("{NAME}/credentials"));
    }
    let others: Arc<dyn SecretSource> = Arc::new(OfEnvironment(surroundings.variables.clone()));
    let repository = unlock(&ctx, &config, &here, &others, key).await?;
    let recovered = recover(&ctx, &repository, recovery, StatePlace::AsWritten).await?;
    let (steward, more) = settle(&recovered, surroundings).await?;
    let known = known(&steward, &recovered.project).await?;
    steward.close().await?;
    end(&recovered.loaded.dir)?;
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let notes: Vec<String> = recovered.notes.iter().cloned().chain(more).collect();
    let mut text = format!(
        "Steward is back in {}: project {}, its state as of {} ({})\n{} with {} in it, all as they were backed up; the secrets \
         open ({took_ms} ms)\n",
        recovered.loaded.dir.display(),
        recovered.project,
        recovered.point.strftime("%Y-%m-%d %H:%M:%SZ"),
        recovered.backup,
        count(recovered.files as u64 + 1, "file"),
        count(recovered.rows, "row"),
    );
    match &recovered.signed_by {
        Some(key) => {
            writeln!(text, "it is signed by {key}: compare that with what lies beside the recovery key")
        }
        None => writeln!(
            text,
            "it is not signed: an older Steward made it, or someone who had the repository's key"
        ),
    }
    .expect("writing to a string does not fail");
    for note in &notes {
        writeln!(text, "note: {note}").expect("writing to a string does not fail");
    }
    text.push_str("\nnext:\n");
    writeln!(text, "  cd {}", recovered.loaded.dir.display()).expect("writing to a string does not fail");
    text.push_str("  steward backup list\n");
    for store in known.keys().filter(|store| *store != own_state::NAME) {
        writeln!(text, "  steward backup restore {store}").expect("writing to a string does not fail");
    }
    let steps: Vec<Value> =
        recovered.steps.iter().map(|(step, ms)| json!({ "step": step, "ms": ms })).collect();
    let value = json!({
        "signed_by": recovered.signed_by, "project": recovered.project, "dir": recovered.loaded.dir, "backup": recovered.backup,
        "as_of": recovered.point, "repository": recovered.address, "files": recovered.files, "rows": recovered.rows,
        "bytes": recovered.bytes, "backups": known, "notes": notes, "steps": steps, "took_ms": took_ms,
    });
    Ok((value, text))
}

/// How many backups there are of each store.
pub(crate) async fn known(steward: &Steward, project: &str) -> Result<BTreeMap<String, i64>, Error> {
    let sql = "SELECT store, count(*) AS backups FROM backups WHERE project = ? AND state = 'complete' GROUP BY store";
    let rows = steward.ledger().query(sql, vec![project.into()]).await?;
    rows.iter().map(|row| Ok((row.get_text("store")?.to_owned(), row.get_i64("backups")?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A staging folder as `ready` leaves it, with a state outside of the target where `outside` says so.
    fn staged(outside: Option<&Path>) -> (tempfile::TempDir, PathBuf, Loaded) {
        let root = tempfile::tempdir().expect("a folder");
        let dir = make_dir(root.path()).expect("a folder");
        let staging = dir.join(STAGING);
        let state = outside.map_or(String::new(), |state| format!("state: {}\n", state.display()));
        let yaml = format!("project: shop\n{state}");
        write_new(&staging.join(TREE).join(FILE_NAME), yaml.as_bytes()).expect("a file");
        write_new(&staging.join(TREE).join("policies/own.cedar"), b"").expect("a file");
        write_new(&staging.join(STATE), b"state").expect("a file");
        write_new(&staging.join(KEY), b"key").expect("a file");
        let top = if outside.is_some() { "" } else { ".steward\n" };
        write_new(&staging.join(PLACING), format!("{top}policies\n{FILE_NAME}\n").as_bytes())
            .expect("a file");
        let loaded = config::load(&staging.join(TREE).join(FILE_NAME)).expect("a project file");
        let loaded = Loaded { file: dir.join(FILE_NAME), dir: dir.clone(), ..loaded };
        (root, dir, loaded)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = dir.read_dir().expect("a folder").flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn killed_at_any_point_it_can_be_done_again_and_removes_nothing_of_others() {
        const POINTS: [&str; 5] = [STATE, KEY, "policies", FILE_NAME, "end"];
        for stop in POINTS {
            let (_root, dir, loaded) = staged(None);
            let mut passed = Vec::new();
            let stopped =
                put_in_place(&dir, &dir.join(STAGING), &loaded, StatePlace::AsWritten, &mut |point| {
                    passed.push(point.to_owned());
                    if point == stop { Err(Error::new(ErrorKind::Other, "killed")) } else { Ok(()) }
                });
            assert_eq!(stopped.expect_err("killed").message(), "killed");
            assert_eq!(passed, POINTS[..passed.len()], "the project file comes last");
            // What a person has put there meanwhile stops everything, and is left.
            std::fs::write(dir.join("precious"), "x").expect("a file");
            let before = names(&dir);
            assert_eq!(begin_again(&dir).expect_err("foreign").kind(), ErrorKind::AlreadyExists, "{stop}");
            assert_eq!(names(&dir), before, "{stop}");
            std::fs::remove_file(dir.join("precious")).expect("a file");
            let finished = begin_again(&dir).expect("ours alone");
            assert_eq!(finished, stop == "end", "{stop}");
            if finished {
                assert_eq!(names(&dir), [".steward", STAGING, "policies", FILE_NAME]);
                end(&dir).expect("tidied");
                assert_eq!(begin_again(&dir).expect_err("a project").kind(), ErrorKind::AlreadyExists);
            } else {
                assert_eq!(names(&dir), Vec::<String>::new(), "{stop}");
            }
        }
    }

    #[test]
    fn a_state_that_is_elsewhere_is_never_overwritten() {
        let elsewhere = tempfile::tempdir().expect("a folder");
        let state = elsewhere.path().join("deep/state.db");
        let (_root, dir, loaded) = staged(Some(&state));
        put_in_place(&dir, &dir.join(STAGING), &loaded, StatePlace::AsWritten, &mut |_| Ok(()))
            .expect("placed");
        assert_eq!(std::fs::read(&state).expect("there"), b"state");
        assert_eq!(names(state.parent().expect("a folder")), [KEY, STATE]);
        // For a drill the same project file leads to no other place.
        let inside = inside(loaded);
        assert!(inside.state_path().starts_with(&dir), "{}", inside.state_path().display());
    }
}
