//! A repository between the room and the real one that ends the process, or is full, at a named moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    BackupLabel, BackupWriter, CheckDepth, Committed, Context, Error, ErrorKind, Kept, Listing, LogListing,
    LogPiece, LogSpan, Logs, MakeManifest, Part, PartRecord, PartSink, PartSource, Pruned, Repository,
    RepositoryCheck, RepositoryKey,
};
use repository_restic::ResticRepository;
use secrecy::SecretString;

/// When the process ends or the repository is full: at the nth moment of a name, counted from 0, such as `put:20`.
#[derive(Clone)]
pub(crate) struct Trip {
    point: Option<(String, usize)>,
    aborts: bool,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Trip {
    pub(crate) fn never() -> Self {
        Self { point: None, aborts: true, seen: Arc::default() }
    }

    pub(crate) fn abort_at(point: &str) -> Self {
        let (name, nth) = point.split_once(':').unwrap();
        Self { point: Some((name.to_owned(), nth.parse().unwrap())), ..Self::never() }
    }

    pub(crate) fn full_at(point: &str) -> Self {
        Self { aborts: false, ..Self::abort_at(point) }
    }

    pub(crate) fn pass(&self, name: &str) -> Result<(), Error> {
        let Some((wanted, nth)) = &self.point else { return Ok(()) };
        let mut seen = self.seen.lock().unwrap();
        let count = seen.entry(name.to_owned()).or_default();
        *count += 1;
        if wanted != name || *count != nth + 1 {
            return Ok(());
        }
        if self.aborts {
            std::process::abort();
        }
        Err(Error::new(ErrorKind::LimitExceeded, format!("no space is left: {name}")))
    }
}

pub(crate) struct Tripping {
    pub(crate) inner: ResticRepository,
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

#[async_trait]
impl Logs for Tripping {
    async fn append(&self, ctx: &Context, span: &LogSpan, body: Bytes) -> Result<LogPiece, Error> {
        self.trip.pass("append")?;
        let piece = self.inner.logs().unwrap().append(ctx, span, body).await?;
        self.trip.pass("appended")?;
        Ok(piece)
    }

    async fn list(&self, ctx: &Context, store: &str) -> Result<LogListing, Error> {
        self.inner.logs().unwrap().list(ctx, store).await
    }

    async fn read(&self, ctx: &Context, piece: &LogPiece) -> Result<Bytes, Error> {
        self.inner.logs().unwrap().read(ctx, piece).await
    }

    async fn prune(&self, ctx: &Context, store: &str, unneeded: &[LogPiece]) -> Result<Pruned, Error> {
        self.inner.logs().unwrap().prune(ctx, store, unneeded).await
    }
}

/// What passes everything on.
macro_rules! on {
    ($self:ident.$method:ident($($argument:expr),*)) => { Repository::$method(&$self.inner, $($argument),*).await };
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
        Some(self)
    }

    async fn changeable(&self, ctx: &Context) -> Option<String> {
        on!(self.changeable(ctx))
    }

    async fn create(&self, ctx: &Context) -> Result<(), Error> {
        on!(self.create(ctx))
    }

    async fn begin(&self, ctx: &Context, label: &BackupLabel) -> Result<Box<dyn BackupWriter>, Error> {
        self.trip.pass("begin")?;
        let inner = on!(self.begin(ctx, label))?;
        Ok(Box::new(Writer { inner, trip: self.trip.clone() }))
    }

    async fn list(&self, ctx: &Context) -> Result<Listing, Error> {
        on!(self.list(ctx))
    }

    async fn manifest(&self, ctx: &Context, kept: &Kept) -> Result<Bytes, Error> {
        on!(self.manifest(ctx, kept))
    }

    async fn open(
        &self,
        ctx: &Context,
        kept: &Kept,
        parts: Vec<PartRecord>,
    ) -> Result<Box<dyn PartSource>, Error> {
        self.trip.pass("open")?;
        on!(self.open(ctx, kept, parts))
    }

    async fn check(&self, ctx: &Context, depth: CheckDepth) -> Result<RepositoryCheck, Error> {
        on!(self.check(ctx, depth))
    }

    async fn forget(&self, ctx: &Context, kept: &[Kept]) -> Result<(), Error> {
        on!(self.forget(ctx, kept))
    }

    async fn prune_plan(&self, ctx: &Context) -> Result<Pruned, Error> {
        on!(self.prune_plan(ctx))
    }

    async fn prune(&self, ctx: &Context) -> Result<Pruned, Error> {
        on!(self.prune(ctx))
    }

    async fn clean(&self, ctx: &Context) -> Result<Vec<String>, Error> {
        on!(self.clean(ctx))
    }

    async fn keys(&self, ctx: &Context) -> Result<Vec<RepositoryKey>, Error> {
        on!(self.keys(ctx))
    }

    async fn add_key(&self, ctx: &Context, label: &str, key: &SecretString) -> Result<RepositoryKey, Error> {
        on!(self.add_key(ctx, label, key))
    }

    async fn opens_with(&self, ctx: &Context, key: &SecretString) -> Result<Option<RepositoryKey>, Error> {
        on!(self.opens_with(ctx, key))
    }

    async fn remove_key(&self, ctx: &Context, id: &str) -> Result<(), Error> {
        on!(self.remove_key(ctx, id))
    }
}
