//! A repository between the room and the real one, which fails, acts or ends the process at a named moment.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    BackupLabel, BackupWriter, CheckDepth, Committed, Context, Error, ErrorKind, Kept, Listing, Logs,
    MakeManifest, Part, PartRecord, PartSink, PartSource, Pruned, Repository, RepositoryCheck, RepositoryKey,
};
use secrecy::SecretString;

#[derive(Clone)]
enum Then {
    Abort,
    Full,
    Act(Arc<dyn Fn() + Send + Sync>),
}

/// When something happens: at the nth moment of this name, counted from 0.
#[derive(Clone)]
pub(crate) struct Trip {
    point: Option<(String, usize)>,
    then: Then,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Trip {
    pub(crate) fn never() -> Self {
        Self { point: None, then: Then::Abort, seen: Arc::default() }
    }

    pub(crate) fn abort_at(point: &str) -> Self {
        let (name, nth) = point.split_once(':').unwrap();
        Self { point: Some((name.to_owned(), nth.parse().unwrap())), ..Self::never() }
    }

    pub(crate) fn full_at(point: &str) -> Self {
        Self { then: Then::Full, ..Self::abort_at(point) }
    }

    pub(crate) fn act_at(point: &str, act: impl Fn() + Send + Sync + 'static) -> Self {
        Self { then: Then::Act(Arc::new(act)), ..Self::abort_at(point) }
    }

    pub(crate) fn pass(&self, name: &str) -> Result<(), Error> {
        let Some((wanted, nth)) = &self.point else { return Ok(()) };
        if wanted != name {
            return Ok(());
        }
        let mut seen = self.seen.lock().unwrap();
        let count = seen.entry(name.to_owned()).or_default();
        *count += 1;
        if *count != nth + 1 {
            return Ok(());
        }
        drop(seen);
        match &self.then {
            Then::Abort => std::process::abort(),
            Then::Full => Err(Error::new(ErrorKind::LimitExceeded, format!("no space is left: {name}"))),
            Then::Act(act) => {
                act();
                Ok(())
            }
        }
    }
}

pub(crate) struct Tripping {
    pub(crate) inner: Arc<dyn Repository>,
    pub(crate) trip: Trip,
}

struct Writer {
    inner: Box<dyn BackupWriter>,
    trip: Trip,
}

#[async_trait]
impl PartSink for Writer {
    async fn put(&self, part: Part) -> Result<(), Error> {
        self.trip.pass("put")?;
        self.inner.put(part).await
    }
}

#[async_trait]
impl BackupWriter for Writer {
    async fn commit(self: Box<Self>, manifest: MakeManifest) -> Result<Committed, Error> {
        if let Err(error) = self.trip.pass("commit") {
            self.inner.abandon().await;
            return Err(error);
        }
        let committed = self.inner.commit(manifest).await?;
        self.trip.pass("committed")?;
        Ok(committed)
    }

    async fn abandon(self: Box<Self>) {
        self.inner.abandon().await;
    }
}

struct Source {
    inner: Box<dyn PartSource>,
    trip: Trip,
}

#[async_trait]
impl PartSource for Source {
    fn parts(&self) -> &[PartRecord] {
        self.inner.parts()
    }

    async fn read(&self, path: &str) -> Result<Bytes, Error> {
        self.trip.pass("read")?;
        self.inner.read(path).await
    }

    async fn read_into(&self, path: &str, file: &Path) -> Result<(), Error> {
        self.trip.pass("read")?;
        self.inner.read_into(path, file).await
    }
}

#[async_trait]
impl Repository for Tripping {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn address(&self) -> String {
        self.inner.address()
    }

    fn logs(&self) -> Option<&dyn Logs> {
        self.inner.logs()
    }

    async fn changeable(&self, ctx: &Context) -> Option<String> {
        self.inner.changeable(ctx).await
    }

    async fn create(&self, ctx: &Context) -> Result<(), Error> {
        self.inner.create(ctx).await
    }

    async fn begin(&self, ctx: &Context, label: &BackupLabel) -> Result<Box<dyn BackupWriter>, Error> {
        self.trip.pass("begin")?;
        let inner = self.inner.begin(ctx, label).await?;
        Ok(Box::new(Writer { inner, trip: self.trip.clone() }))
    }

    async fn list(&self, ctx: &Context) -> Result<Listing, Error> {
        self.inner.list(ctx).await
    }

    async fn manifest(&self, ctx: &Context, kept: &Kept) -> Result<Bytes, Error> {
        self.trip.pass("manifest")?;
        self.inner.manifest(ctx, kept).await
    }

    async fn open(
        &self,
        ctx: &Context,
        kept: &Kept,
        parts: Vec<PartRecord>,
    ) -> Result<Box<dyn PartSource>, Error> {
        self.trip.pass("open")?;
        let inner = self.inner.open(ctx, kept, parts).await?;
        Ok(Box::new(Source { inner, trip: self.trip.clone() }))
    }

    async fn check(&self, ctx: &Context, depth: CheckDepth) -> Result<RepositoryCheck, Error> {
        self.inner.check(ctx, depth).await
    }

    async fn forget(&self, ctx: &Context, kept: &[Kept]) -> Result<(), Error> {
        self.trip.pass("forget")?;
        self.inner.forget(ctx, kept).await?;
        self.trip.pass("forget")
    }

    async fn prune_plan(&self, ctx: &Context) -> Result<Pruned, Error> {
        self.inner.prune_plan(ctx).await
    }

    async fn prune(&self, ctx: &Context) -> Result<Pruned, Error> {
        self.trip.pass("prune")?;
        let pruned = self.inner.prune(ctx).await?;
        self.trip.pass("prune")?;
        Ok(pruned)
    }

    async fn clean(&self, ctx: &Context) -> Result<Vec<String>, Error> {
        self.inner.clean(ctx).await
    }

    async fn keys(&self, ctx: &Context) -> Result<Vec<RepositoryKey>, Error> {
        self.inner.keys(ctx).await
    }

    async fn add_key(
        &self,
        ctx: &Context,
        label: &str,
        passphrase: &SecretString,
    ) -> Result<RepositoryKey, Error> {
        self.trip.pass("key")?;
        let added = self.inner.add_key(ctx, label, passphrase).await?;
        self.trip.pass("key")?;
        Ok(added)
    }

    async fn opens_with(
        &self,
        ctx: &Context,
        passphrase: &SecretString,
    ) -> Result<Option<RepositoryKey>, Error> {
        self.inner.opens_with(ctx, passphrase).await
    }

    async fn remove_key(&self, ctx: &Context, id: &str) -> Result<(), Error> {
        self.trip.pass("key")?;
        self.inner.remove_key(ctx, id).await?;
        self.trip.pass("key")
    }
}
