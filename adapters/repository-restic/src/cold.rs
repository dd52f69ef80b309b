//! Archives of rows in a bucket: plain files under `archives/`, written and read by the client that repositories use.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use contract::cold::ArchivePlace;
use contract::{Context, Error, ErrorKind, SecretSource};

use crate::config::{BucketConfig, Location};
use crate::error::Fault;
use crate::objects::Objects as _;
use crate::place::blocking;
use crate::repository::{InBucket, in_bucket};
use crate::s3::{ARCHIVES, Bucket, Identity, LOCKS};

/// How names begin that are taken away by whoever wrote them.
const TAKEN_AWAY: &str = ".locks/";

/// A place for archives in a bucket.
pub struct ColdBucket {
    name: String,
    writer: Arc<Bucket>,
    /// Whoever may delete; the writer, where nobody else is named.
    deleter: Arc<Bucket>,
    identities: Vec<Arc<Identity>>,
    prepared: Arc<OnceLock<()>>,
}

/// A bucket that is looked at when it is first used.
///
/// # Errors
///
/// `Invalid`: the configuration does not hold together.
pub fn open_place(
    name: &str,
    config: &BucketConfig,
    project_dir: &Path,
    secrets: &Arc<dyn SecretSource>,
) -> Result<ColdBucket, Error> {
    let named = |error: Error| error.with("place", name);
    config.validate().map_err(named)?;
    let repository = config.as_repository();
    let Location::Bucket { bucket, prefix } = repository.location(project_dir).map_err(named)? else {
        return Err(named(Error::new(ErrorKind::Invalid, "`url` is no bucket").with("key", "url")));
    };
    in_bucket(&repository, bucket, prefix, project_dir, secrets)
        .map(|inside| ColdBucket::new(name, &inside))
        .map_err(named)
}

/// Where the file of this name lies.
fn path_of(name: &str) -> String {
    match name.strip_prefix(TAKEN_AWAY) {
        Some(lock) => format!("{LOCKS}{lock}"),
        None => format!("{ARCHIVES}{name}"),
    }
}

impl ColdBucket {
    pub(crate) fn new(name: &str, inside: &InBucket) -> Self {
        let objects = |who: &Arc<Identity>| {
            Arc::new(Bucket::new(Arc::clone(&inside.client), Arc::clone(who), &inside.prefix, inside.lock))
        };
        let writer = objects(&inside.writer);
        Self {
            name: name.to_owned(),
            deleter: inside.pruner.as_ref().map_or_else(|| Arc::clone(&writer), objects),
            writer,
            identities: [Some(&inside.writer), inside.pruner.as_ref()]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
            prepared: Arc::default(),
        }
    }

    /// The same with other parts.
    #[cfg(test)]
    pub(crate) fn with(writer: Bucket, deleter: Bucket, identities: Vec<Arc<Identity>>) -> Self {
        Self {
            name: "cold".into(),
            writer: Arc::new(writer),
            deleter: Arc::new(deleter),
            identities,
            prepared: Arc::default(),
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        ctx: &Context,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let named = |error: Error| error.with("place", &self.name);
        for identity in &self.identities {
            identity.fetch(ctx).await.map_err(named)?;
        }
        blocking(ctx, work).await.map_err(named)
    }
}

#[async_trait]
impl ArchivePlace for ColdBucket {
    fn address(&self) -> String {
        format!("{}/{}", self.writer.address(), ARCHIVES.trim_end_matches('/'))
    }

    async fn put(&self, ctx: &Context, name: &str, file: &Path) -> Result<(), Error> {
        let (bucket, path, file) = (Arc::clone(&self.writer), path_of(name), file.to_owned());
        let prepared = Arc::clone(&self.prepared);
        self.call(ctx, move || {
            if prepared.get().is_none() {
                bucket.prepare()?;
                prepared.get_or_init(|| ());
            }
            bucket.put_file(&path, &file)
        })
        .await
    }

    async fn get(&self, ctx: &Context, name: &str, file: &Path) -> Result<(), Error> {
        let (bucket, path, file) = (Arc::clone(&self.writer), path_of(name), file.to_owned());
        self.call(ctx, move || bucket.fetch_file(&path, &file)).await
    }

    async fn list(&self, ctx: &Context, prefix: &str) -> Result<Vec<String>, Error> {
        let (bucket, prefix) = (Arc::clone(&self.writer), path_of(prefix));
        self.call(ctx, move || {
            let found = bucket.list(prefix.trim_end_matches('/'))?;
            let names =
                found.into_iter().filter_map(|found| Some(found.path.strip_prefix(ARCHIVES)?.to_owned()));
            let mut names: Vec<String> = names.collect();
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn remove(&self, ctx: &Context, name: &str) -> Result<(), Error> {
        let path = path_of(name);
        let is_lock = path.starts_with(LOCKS);
        let bucket = Arc::clone(if is_lock { &self.writer } else { &self.deleter });
        self.call(ctx, move || bucket.remove(&path)).await.map_err(|error| {
            if error.kind() != ErrorKind::Denied {
                return error;
            }
            error.hint(if is_lock {
                "let `credentials` delete below `locks/`, as the policy in the guide on backups elsewhere does"
            } else {
                "name `prune_credentials` of the place that may delete there, or remove it by hand"
            })
        })
    }

    async fn clean(&self, ctx: &Context, prefix: &str) -> Result<(), Error> {
        let (bucket, prefix) = (Arc::clone(&self.deleter), path_of(prefix));
        self.call(ctx, move || {
            for upload in bucket.unfinished()? {
                // Before its path stand a word and its id.
                if upload.path.splitn(3, '/').nth(2).is_some_and(|path| path.starts_with(&prefix)) {
                    bucket.remove(&upload.path)?;
                }
            }
            bucket.sweep_below(&prefix).map(|_| ())
        })
        .await
    }
}
