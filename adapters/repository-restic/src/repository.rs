//! The repository: two of restic's, behind the contract.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    BackupLabel, BackupWriter, CheckDepth, Context, Error, ErrorKind, Kept, Layout, Listing, Logs, Medium,
    PartRecord, PartSource, Pruned, Repository, RepositoryCheck, RepositoryKey, SecretSource, SystemClock,
    Whereabouts,
};
use secrecy::SecretString;

use crate::backend::id_of;
use crate::config::{Config, Location, ObjectLock};
use crate::error::{Fault, FaultKind};
use crate::keyfile::{KEYS_MAX, KeyFile, key_files};
use crate::local::Local;
use crate::lock::{Held, Sharing, Timing};
use crate::objects::Objects;
use crate::place::{Place, blocking, folder_of};
use crate::s3::{Bucket, Client, Identity, Pace, RealNap, Settings};
use crate::seal::Key;
use crate::{check, clean, prune, reading, run, snapshot, writer};

/// Repositories in restic's format: one for rows and text, one for pages, with the same keys.
pub struct ResticRepository {
    name: String,
    address: String,
    key_secret: String,
    secrets: Arc<dyn SecretSource>,
    /// Whose credentials are fetched before the work; none for a folder.
    identities: Vec<Arc<Identity>>,
    /// That for rows first.
    places: [Place; 2],
    /// The same for whoever deletes; in a folder those who write do.
    prunes: Prunes,
    whereabouts: Whereabouts,
    limits: Limits,
}

/// With which rights backups are deleted.
enum Prunes {
    /// Those who write.
    AsWriter,
    /// Others, if there are any.
    Apart(Option<[Place; 2]>),
}

/// What tests shorten.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) timing: Timing,
    pub(crate) run_age_max: Duration,
    pub(crate) keep_marked_hours: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            run_age_max: run::AGE_MAX,
            keep_marked_hours: prune::KEEP_MARKED_HOURS,
        }
    }
}

/// A repository that is looked at when it is first used; a relative `url` is below `project_dir`.
///
/// # Errors
///
/// `Invalid`: the configuration does not hold together.
pub fn open(
    name: &str,
    config: &Config,
    project_dir: &Path,
    secrets: Arc<dyn SecretSource>,
) -> Result<ResticRepository, Error> {
    let named = |error: Error| error.with("repository", name);
    config.validate().map_err(named)?;
    let key_secret = config.key_secret(name);
    let (bucket, prefix) = match config.location(project_dir).map_err(named)? {
        Location::Folder(root) => {
            let local = |layout| -> Arc<dyn Objects> { Arc::new(Local::new(root.join(folder_of(layout)))) };
            let objects = [local(Layout::Stream), local(Layout::Pages)];
            let address = root.display().to_string();
            return Ok(ResticRepository::over(
                name,
                &address,
                &key_secret,
                secrets,
                objects,
                Limits::default(),
            ));
        }
        Location::Bucket { bucket, prefix } => (bucket, prefix),
    };
    let inside = in_bucket(config, bucket, prefix, project_dir, &secrets).map_err(named)?;
    Ok(ResticRepository::in_bucket(name, &key_secret, Arc::clone(&secrets), &inside, Limits::default()))
}

/// A place in a bucket, with those who speak to it.
///
/// # Errors
///
/// `Invalid`: the configuration does not hold together.
pub(crate) fn in_bucket(
    config: &Config,
    bucket: String,
    prefix: String,
    project_dir: &Path,
    secrets: &Arc<dyn SecretSource>,
) -> Result<InBucket, Error> {
    let endpoint = config.endpoint()?;
    let certificates = config.certificates.as_ref().map(|file| {
        std::fs::read(project_dir.join(file)).map_err(|cause| {
            Error::new(ErrorKind::Invalid, "`certificates` cannot be read")
                .with("key", "certificates")
                .because(cause)
        })
    });
    let settings = Settings {
        path_style: config.path_style.unwrap_or(config.endpoint.is_some()),
        endpoint,
        bucket,
        region: config.region().to_owned(),
        timeout: Duration::from_secs(u64::from(config.timeout_s.unwrap_or(TIMEOUT_S))),
        attempts_max: config.attempts_max.unwrap_or(ATTEMPTS_MAX),
        extra_roots_pem: certificates.transpose()?,
    };
    let pace = config.upload_bytes_per_second.map(|bytes| Arc::new(Pace::new(bytes)));
    let client = Arc::new(Client::new(settings, pace, Arc::new(RealNap), Arc::new(SystemClock)));
    let identity = |secret: &String| Arc::new(Identity::new(secret, Arc::clone(secrets)));
    let writer = identity(config.credentials.as_ref().expect("`validate` asks for them"));
    let pruner = config.prune_credentials.as_ref().map(identity);
    Ok(InBucket { client, writer, pruner, prefix, lock: config.object_lock })
}

/// Longest time without an answer, in seconds.
const TIMEOUT_S: u32 = 60;
/// How often a request is tried.
const ATTEMPTS_MAX: u32 = 8;

/// A repository's place in a bucket, and who does what there.
pub(crate) struct InBucket {
    pub(crate) client: Arc<Client>,
    pub(crate) writer: Arc<Identity>,
    pub(crate) pruner: Option<Arc<Identity>>,
    pub(crate) prefix: String,
    pub(crate) lock: Option<ObjectLock>,
}

impl InBucket {
    /// The objects of a folder, for one of both.
    fn objects(&self, folder: &str, who: &Arc<Identity>) -> Arc<dyn Objects> {
        let root = format!("{}/{folder}", self.prefix);
        Arc::new(Bucket::new(Arc::clone(&self.client), Arc::clone(who), &root, self.lock))
    }
}

/// A new random master key, in the form in which the vault keeps it.
///
/// # Errors
///
/// `Unavailable`: the system gives no random bytes.
pub fn new_master_key() -> Result<SecretString, Error> {
    Ok(Key::random()?.to_text())
}

impl ResticRepository {
    pub(crate) fn over(
        name: &str,
        address: &str,
        key_secret: &str,
        secrets: Arc<dyn SecretSource>,
        objects: [Arc<dyn Objects>; 2],
        limits: Limits,
    ) -> Self {
        Self {
            name: name.to_owned(),
            address: address.to_owned(),
            key_secret: key_secret.to_owned(),
            secrets,
            identities: Vec::new(),
            places: places(objects, limits),
            prunes: Prunes::AsWriter,
            whereabouts: Whereabouts::default(),
            limits,
        }
    }

    pub(crate) fn in_bucket(
        name: &str,
        key_secret: &str,
        secrets: Arc<dyn SecretSource>,
        place: &InBucket,
        limits: Limits,
    ) -> Self {
        let both = |who: &Arc<Identity>| {
            [Layout::Stream, Layout::Pages].map(|layout| place.objects(folder_of(layout), who))
        };
        let settings = &place.client.settings;
        let host = settings.endpoint.host_str().unwrap_or_default();
        let address = settings.address(&place.prefix);
        let whereabouts = Whereabouts::on(Medium::ObjectStorage, host);
        let identities = [Some(&place.writer), place.pruner.as_ref()];
        Self {
            identities: identities.into_iter().flatten().cloned().collect(),
            whereabouts,
            prunes: Prunes::Apart(place.pruner.as_ref().map(|who| self::places(both(who), limits))),
            ..Self::over(name, &address, key_secret, secrets, both(&place.writer), limits)
        }
    }

    /// The same with the rights to delete.
    ///
    /// # Errors
    ///
    /// `Denied`: nobody was given any.
    fn pruning(&self) -> Result<[Place; 2], Error> {
        match &self.prunes {
            Prunes::AsWriter => Ok(self.places.clone()),
            Prunes::Apart(Some(places)) => Ok(places.clone()),
            Prunes::Apart(None) => Err(self.named(
                Error::new(
                    ErrorKind::Denied,
                    "the repository has no `prune_credentials`, and who writes deletes nothing",
                )
                .hint("store credentials that may delete, and name the secret in `prune_credentials`"),
            )),
        }
    }

    /// The same with the rights to delete, if anybody was given them.
    fn tidying(&self) -> [Place; 2] {
        self.pruning().unwrap_or_else(|_| self.places.clone())
    }

    fn place(&self, layout: Layout) -> Place {
        let [stream, pages] = &self.places;
        match layout {
            Layout::Stream => stream.clone(),
            Layout::Pages => pages.clone(),
        }
    }

    /// Where the files of both lie.
    pub(crate) fn objects(&self) -> [Arc<dyn Objects>; 2] {
        let [stream, pages] = &self.places;
        [Arc::clone(&stream.objects), Arc::clone(&pages.objects)]
    }

    fn named(&self, error: Error) -> Error {
        error.with("repository", &self.name)
    }

    async fn key(&self, ctx: &Context) -> Result<Arc<Key>, Error> {
        self.fetch_credentials(ctx).await?;
        let text = self.secrets.secret(ctx, &self.key_secret).await?;
        Key::from_text(&text).map(Arc::new).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "the master key is not 64 bytes in base64")
                .with("secret", &self.key_secret)
        })
    }

    /// What keeps logs: the files of the repository for pages, and the key.
    pub(crate) async fn for_logs(&self, ctx: &Context) -> Result<(Arc<dyn Objects>, Arc<Key>), Error> {
        let key = self.key(ctx).await?;
        Ok((self.place(Layout::Pages).objects, key))
    }

    /// The same with the rights to delete.
    pub(crate) async fn for_pruning_logs(&self, ctx: &Context) -> Result<Arc<dyn Objects>, Error> {
        self.key(ctx).await?;
        let [_, pages] = self.pruning()?;
        Ok(pages.objects)
    }

    /// Fetches the credentials of the storage, where it has any.
    pub(crate) async fn fetch_credentials(&self, ctx: &Context) -> Result<(), Error> {
        for identity in &self.identities {
            identity.fetch(ctx).await.map_err(|error| self.named(error))?;
        }
        Ok(())
    }

    pub(crate) fn keep_marked_hours(&self) -> i64 {
        self.limits.keep_marked_hours
    }

    /// Does the same in both repositories, one after the other.
    async fn both<T: Send + 'static>(
        &self,
        ctx: &Context,
        work: impl Fn(&Context, &Place, &Arc<Key>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<[T; 2], Error> {
        self.each(ctx, self.places.clone(), work).await
    }

    async fn each<T: Send + 'static>(
        &self,
        ctx: &Context,
        [stream, pages]: [Place; 2],
        work: impl Fn(&Context, &Place, &Arc<Key>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<[T; 2], Error> {
        let key = self.key(ctx).await?;
        let inner = ctx.clone();
        let answer = blocking(ctx, move || Ok([work(&inner, &stream, &key)?, work(&inner, &pages, &key)?]));
        answer.await.map_err(|error| self.named(error))
    }

    async fn opened(&self, ctx: &Context, kept: &Kept) -> Result<reading::Opened, Error> {
        let key = self.key(ctx).await?;
        let place = self.place(kept.layout);
        let (kept, inner, both) = (kept.clone(), ctx.clone(), self.places.clone());
        let answer = blocking(ctx, move || {
            match place.look(&key) {
                // Nothing is told of its backups by a disk that is not mounted.
                Err(fault) if fault.kind == FaultKind::Missing && is_away(&both)? => {
                    return Err(Fault::new(FaultKind::Unavailable, fault.to_string())
                        .hint("is its disk mounted, and its address right?"));
                }
                Err(fault) if fault.kind != FaultKind::Damaged => return Err(fault),
                _ => {}
            }
            let held = reading_lock(&place, &key, &inner)?;
            reading::open(&inner, &place.objects, &key, &kept, held)
        });
        answer.await.map_err(|error| self.named(error))
    }
}

/// Whether nothing at all is where both repositories should be.
fn is_away(places: &[Place; 2]) -> Result<bool, Fault> {
    for place in places {
        for folder in ["keys", "snapshots", "index", "data"] {
            match place.objects.list(folder) {
                Ok(found) if found.is_empty() => {}
                Err(fault) if fault.kind == FaultKind::Missing => {}
                Ok(_) => return Ok(false),
                Err(fault) => return Err(fault),
            }
        }
    }
    Ok(true)
}

/// A lock against restic's prune; none where the repository can only be read.
fn reading_lock(place: &Place, key: &Arc<Key>, ctx: &Context) -> Result<Option<Held>, Fault> {
    match place.lock(key, &ctx.clock(), Sharing::Reading) {
        Ok(held) => Ok(Some(held)),
        Err(fault) if matches!(fault.kind, FaultKind::Denied | FaultKind::Full) => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn places([stream, pages]: [Arc<dyn Objects>; 2], limits: Limits) -> [Place; 2] {
    let place = |layout, objects| Place { layout, objects, timing: limits.timing };
    [place(Layout::Stream, stream), place(Layout::Pages, pages)]
}

fn key_of(id: &str, file: &KeyFile) -> RepositoryKey {
    RepositoryKey { id: id.to_owned(), label: file.username.clone(), created: file.created }
}

#[async_trait]
impl Repository for ResticRepository {
    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn whereabouts(&self) -> Whereabouts {
        self.whereabouts.clone()
    }

    async fn changeable(&self, ctx: &Context) -> Option<String> {
        let both = self.both(ctx, |_, place, _| place.objects.changeable()).await;
        match both {
            Ok([stream, pages]) => stream.or(pages),
            Err(error) => Some(format!("whether anybody can change it is not known: {error}")),
        }
    }

    async fn create(&self, ctx: &Context) -> Result<(), Error> {
        self.both(ctx, |ctx, place, key| {
            place.objects.prepare()?;
            place.create(ctx, key)
        })
        .await
        .map(|_| ())
    }

    async fn begin(&self, ctx: &Context, label: &BackupLabel) -> Result<Box<dyn BackupWriter>, Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if label.store.is_empty() || label.store.starts_with('.') || !label.store.bytes().all(plain) {
            return Err(self.named(Error::new(
                ErrorKind::Invalid,
                format!("the store `{}` has other characters than `0-9A-Za-z._-` in its name", label.store),
            )));
        }
        let key = self.key(ctx).await?;
        let place = self.place(label.layout);
        let (inner, label, age_max) = (ctx.clone(), label.clone(), self.limits.run_age_max);
        let writer = blocking(ctx, move || writer::begin(&inner, place, key, label, age_max))
            .await
            .map_err(|error| self.named(error))?;
        Ok(Box::new(writer))
    }

    async fn list(&self, ctx: &Context) -> Result<Listing, Error> {
        let both = self
            .both(ctx, |_, place, key| {
                // One that is gone must not hide the other.
                let (records, config) = match place.records(key) {
                    Err(fault) if fault.kind == FaultKind::Missing => return Ok((None, Listing::default())),
                    other => other?,
                };
                let folder = place.folder();
                let mut listing = Listing::default();
                listing.unreadable.extend(config.iter().map(ToString::to_string));
                for record in &records.readable {
                    listing.kept.push(snapshot::kept(record, record.id.to_hex().as_str(), place.layout));
                }
                for (_, fault) in &records.unreadable {
                    listing.unreadable.push(format!("{folder}: {fault}"));
                }
                Ok((Some(()), listing))
            })
            .await?;
        if both.iter().all(|(there, _)| there.is_none()) {
            return Err(self
                .named(Error::new(ErrorKind::NotFound, format!("no repository is at `{}`", self.address))));
        }
        let mut whole = Listing::default();
        for (place, (there, listing)) in self.places.iter().zip(both) {
            if there.is_none() {
                whole.unreadable.push(format!("{}: the repository is missing", place.folder()));
            }
            whole.kept.extend(listing.kept);
            whole.unreadable.extend(listing.unreadable);
        }
        whole.kept.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.snapshot.cmp(&b.snapshot)));
        Ok(whole)
    }

    fn logs(&self) -> Option<&dyn Logs> {
        Some(self)
    }

    async fn manifest(&self, ctx: &Context, kept: &Kept) -> Result<Bytes, Error> {
        let opened = self.opened(ctx, kept).await?;
        // Dropping gives a lock back, which writes: beside the runtime too.
        blocking(ctx, move || opened.manifest()).await.map_err(|error| self.named(error))
    }

    async fn open(
        &self,
        ctx: &Context,
        kept: &Kept,
        parts: Vec<PartRecord>,
    ) -> Result<Box<dyn PartSource>, Error> {
        let opened = self.opened(ctx, kept).await?;
        let inner = ctx.clone();
        let parts = blocking(ctx, move || reading::Parts::new(inner, opened, parts)).await;
        Ok(Box::new(parts.map_err(|error| self.named(error))?))
    }

    async fn check(&self, ctx: &Context, depth: CheckDepth) -> Result<RepositoryCheck, Error> {
        let places = self.places.clone();
        let both = self
            .both(ctx, move |ctx, place, key| match check::check(ctx, place, key, depth) {
                Err(fault) if fault.kind == FaultKind::Missing && is_away(&places)? => {
                    Err(Fault::new(FaultKind::Unavailable, fault.to_string())
                        .hint("is its disk mounted, and its address right?"))
                }
                Err(fault) if fault.kind == FaultKind::Missing => {
                    let problem = format!("{}: {fault}", place.folder());
                    Ok(RepositoryCheck { problems: vec![problem], ..RepositoryCheck::default() })
                }
                other => other,
            })
            .await?;
        let mut whole = RepositoryCheck::default();
        // A passphrase that opens half of the backups is found out when the other half is needed.
        let [stream, pages] = self
            .both(ctx, |_, place, _| {
                let ids = place.objects.list("keys")?.into_iter().map(|found| found.path);
                Ok(ids.filter(|path| id_of(path).is_some()).collect::<BTreeSet<_>>())
            })
            .await?;
        for key in stream.symmetric_difference(&pages) {
            let folder = if stream.contains(key) { Layout::Pages } else { Layout::Stream };
            whole.problems.push(format!("{}: `{key}` is missing", folder_of(folder)));
        }
        for one in both {
            whole.problems.extend(one.problems);
            whole.remarks.extend(one.remarks);
            whole.damaged.extend(one.damaged);
            whole.bytes_read += one.bytes_read;
        }
        Ok(whole)
    }

    async fn forget(&self, ctx: &Context, kept: &[Kept]) -> Result<(), Error> {
        let kept = kept.to_vec();
        self.each(ctx, self.pruning()?, move |ctx, place, key| {
            let here: Vec<Kept> = kept.iter().filter(|one| one.layout == place.layout).cloned().collect();
            if here.is_empty() { Ok(()) } else { prune::forget(ctx, place, key, &here) }
        })
        .await
        .map(|_| ())
    }

    async fn prune_plan(&self, ctx: &Context) -> Result<Pruned, Error> {
        let hours = self.limits.keep_marked_hours;
        self.both(ctx, move |ctx, place, key| prune::plan(ctx, place, key, hours)).await.map(sum)
    }

    async fn prune(&self, ctx: &Context) -> Result<Pruned, Error> {
        let hours = self.limits.keep_marked_hours;
        self.each(ctx, self.pruning()?, move |ctx, place, key| prune::prune(ctx, place, key, hours))
            .await
            .map(sum)
    }

    async fn clean(&self, ctx: &Context) -> Result<Vec<String>, Error> {
        let [stream, pages] = self.each(ctx, self.tidying(), clean::clean).await?;
        let key = self.key(ctx).await?;
        let (places, inner) = (self.tidying(), ctx.clone());
        let keys = blocking(ctx, move || clean::keys(&inner, &places, &key)).await;
        Ok([stream, pages, keys.map_err(|error| self.named(error))?].concat())
    }

    async fn keys(&self, ctx: &Context) -> Result<Vec<RepositoryKey>, Error> {
        // Both have the same; what one alone has opens but half.
        let [stream, pages] = self
            .both(ctx, |_, place, key| {
                place.refuse_foreign(key)?;
                readable_keys(place)
            })
            .await?;
        Ok(stream
            .into_iter()
            .filter(|(id, _)| pages.iter().any(|(other, _)| other == id))
            .map(|(id, file)| key_of(&id, &file))
            .collect())
    }

    async fn add_key(
        &self,
        ctx: &Context,
        label: &str,
        passphrase: &SecretString,
    ) -> Result<RepositoryKey, Error> {
        let key = self.key(ctx).await?;
        let [stream, pages] = self.places.clone();
        let tidying = self.tidying();
        let (now, label, passphrase) = (ctx.now(), label.to_owned(), passphrase.clone());
        let answer = blocking(ctx, move || {
            for place in [&stream, &pages] {
                place.look(&key)?;
                if readable_keys(place)?.len() >= KEYS_MAX {
                    return Err(Fault::new(
                        FaultKind::Full,
                        format!("the repository has {KEYS_MAX} keys, and restic tries no more"),
                    )
                    .hint("remove one that is no longer needed"));
                }
            }
            let (id, json) = KeyFile::made(&key, &label, &passphrase, now)?;
            let path = format!("keys/{id}");
            let write = || {
                for place in [&stream, &pages] {
                    place.objects.create(&path, &[json.clone().into()])?;
                }
                // Believed when it was read back and opens.
                for place in [&stream, &pages] {
                    let bytes = crate::backend::read_named(&*place.objects, &path)?;
                    let file: KeyFile = serde_json::from_slice(&bytes)
                        .map_err(|error| Fault::damaged(&path, &format!("it is no key file: {error}")))?;
                    if !file.unlock(&passphrase)?.is_some_and(|found| found.is_same(&key)) {
                        return Err(Fault::damaged(&path, "it does not open"));
                    }
                }
                Ok(())
            };
            write().inspect_err(|_| {
                // Half of a key opens half of the backups.
                for place in &tidying {
                    if let Err(fault) = place.objects.remove(&path) {
                        tracing::warn!(key = path, error = %fault, "a key that could not be added whole stays");
                    }
                }
            })?;
            Ok(RepositoryKey { id, label, created: Some(now) })
        });
        answer.await.map_err(|error| self.named(error))
    }

    async fn opens_with(
        &self,
        ctx: &Context,
        passphrase: &SecretString,
    ) -> Result<Option<RepositoryKey>, Error> {
        let key = self.key(ctx).await?;
        let [stream, pages] = self.places.clone();
        let spellings = crate::unlock::spellings(passphrase);
        let answer = blocking(ctx, move || {
            for place in [&stream, &pages] {
                place.refuse_foreign(&key)?;
            }
            let others = readable_keys(&pages)?;
            for (id, file) in readable_keys(&stream)? {
                let in_both = others.iter().any(|(other, _)| *other == id);
                // A key that opens something else would restore nothing.
                let opens = |passphrase: &SecretString| {
                    file.unlock(passphrase).is_ok_and(|found| found.is_some_and(|found| found.is_same(&key)))
                };
                if in_both && spellings.iter().any(opens) {
                    return Ok(Some(key_of(&id, &file)));
                }
            }
            Ok(None)
        });
        answer.await.map_err(|error| self.named(error))
    }

    async fn remove_key(&self, ctx: &Context, id: &str) -> Result<(), Error> {
        let path = format!("keys/{id}");
        let there = id_of(&path).is_some() && !id.contains('/');
        let removed = if there {
            let path = path.clone();
            let key = self.key(ctx).await?;
            let (places, inner) = (self.tidying(), ctx.clone());
            let answer = blocking(ctx, move || {
                for place in &places {
                    place.refuse_foreign(&key)?;
                }
                // Keeps others from making it whole again meanwhile.
                let _held = reading_lock(&places[0], &key, &inner)?;
                let mut removed = [false; 2];
                for (place, removed) in places.iter().zip(&mut removed) {
                    *removed = place.objects.list("keys")?.iter().any(|found| found.path == path);
                    place.objects.remove(&path)?;
                }
                Ok(removed)
            });
            answer.await.map_err(|error| self.named(error))?
        } else {
            [false; 2]
        };
        if removed.contains(&true) {
            return Ok(());
        }
        Err(self.named(Error::new(ErrorKind::NotFound, format!("the repository has no key `{id}`"))))
    }
}

fn readable_keys(place: &Place) -> Result<Vec<(String, KeyFile)>, Fault> {
    Ok(key_files(&*place.objects)?.into_iter().filter_map(|(id, file)| Some((id, file.ok()?))).collect())
}

fn sum([a, b]: [Pruned; 2]) -> Pruned {
    Pruned {
        bytes_marked: a.bytes_marked + b.bytes_marked,
        bytes_deleted: a.bytes_deleted + b.bytes_deleted,
        bytes_rewritten: a.bytes_rewritten + b.bytes_rewritten,
        bytes_kept: a.bytes_kept + b.bytes_kept,
    }
}
