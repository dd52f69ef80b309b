//! Writing a backup.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use contract::{
    BackupLabel, BackupWriter, Committed, Context, Error, ErrorKind, MakeManifest, PART_BYTES_MAX, Part,
    PartBody, PartRecord, PartSink,
};
use rustic_core::repofile::SnapshotFile;
use rustic_core::{BackupOptions, FileType, Id, IndexedIdsStatus, Repository};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::backend::{Access, Backend, path_of, read_named};
use crate::error::{Fault, FaultKind, OrFault};
use crate::lock::Sharing;
use crate::place::{Place, panicked};
use crate::run::{BYTES_IN_FLIGHT_MAX, PERMIT_BYTES, Run};
use crate::seal::{Key, name_of};
use crate::source::{Before, Item, Room, Source, check_path};
use crate::{reading, snapshot};

/// Parts that wait for the library, in number; their bytes have a budget of their own.
const PARTS_WAITING_MAX: usize = 8;

/// One of so many new packs is read back.
const PACKS_PER_SAMPLE: usize = 100;

/// A backup that is being written.
pub(crate) struct Writer {
    ctx: Context,
    run: Arc<Run>,
    order: Mutex<Order>,
    ended: Option<oneshot::Receiver<Result<Committed, Fault>>>,
}

struct Order {
    /// None once the backup was given up.
    outbox: Option<mpsc::Sender<Item>>,
    last: Option<String>,
    /// The last part's share of the budget, which it does not have yet.
    newest: Option<(u32, Room)>,
}

/// What the thread of a backup works with.
struct Work {
    ctx: Context,
    place: Place,
    key: Arc<Key>,
    label: BackupLabel,
    /// The backup whose parts need not be cut again where they are the same; empty where there is none.
    parent: String,
    run: Arc<Run>,
    backend: Arc<Backend>,
    repository: Repository<IndexedIdsStatus>,
}

/// Locks the repository and starts the thread that writes.
pub(crate) fn begin(
    ctx: &Context,
    place: Place,
    key: Arc<Key>,
    label: BackupLabel,
    age_max: Duration,
) -> Result<Writer, Fault> {
    place.look(&key)?;
    let held = place.lock(&key, &ctx.clock(), Sharing::Shared)?;
    // The index is read anew for each backup, after the lock: what was pruned before is not in it.
    let run = Arc::new(Run::new(ctx.clone(), held, age_max));
    let backend = Backend::new(ctx, &place.objects, Access::Backup(Arc::clone(&run)));
    let repository = backend
        .open(&key)
        .and_then(|repository| repository.to_indexed_ids().or_fault("read the index"))
        .inspect_err(|_| run.release())
        .map_err(|fault| match backend.explain(fault) {
            fault if fault.kind == FaultKind::Damaged => {
                fault.hint("clean the repository: that makes a damaged index anew from what the packs say")
            }
            fault => fault,
        })?;
    // Without it all is read: nothing of an older backup may stand in the way of a new one.
    let (parent, before) = before(ctx, &place, &key, &label)
        .unwrap_or_else(|fault| {
            tracing::warn!(error = %fault, "the backup before cannot be compared with");
            None
        })
        .unwrap_or_default();
    let (outbox, inbox) = mpsc::channel(PARTS_WAITING_MAX);
    let (tell, ended) = oneshot::channel();
    let source = Source::new(Arc::clone(&run), inbox, &label, before);
    let work =
        Work { ctx: ctx.clone(), place, key, label, parent, run: Arc::clone(&run), backend, repository };
    std::thread::Builder::new()
        .name("repository-write".into())
        .spawn(move || {
            let run = Arc::clone(&work.run);
            // The library panics where a reader or the backend does.
            let answer = catch_unwind(AssertUnwindSafe(|| work.write(&source))).unwrap_or_else(|_| {
                Err(Fault::new(FaultKind::Unavailable, "writing the backup ended in a panic"))
            });
            if let Err(fault) = &answer {
                run.fail(fault.clone());
            }
            drop(source);
            run.release();
            // Nobody listens to a backup that was dropped.
            tell.send(answer).ok();
        })
        .map_err(|error| Fault::io("start a thread for", "the backup", &error))?;
    Ok(Writer {
        ctx: ctx.clone(),
        run,
        order: Mutex::new(Order { outbox: Some(outbox), last: None, newest: None }),
        ended: Some(ended),
    })
}

/// The newest backup of the same store, and what its files are.
fn before(
    ctx: &Context,
    place: &Place,
    key: &Key,
    label: &BackupLabel,
) -> Result<Option<(String, Before)>, Fault> {
    /// What is read of a manifest, which is the caller's; one that does not list its parts says nothing.
    #[derive(Default, serde::Deserialize)]
    struct Listed {
        #[serde(default)]
        parts: Vec<PartRecord>,
    }
    let records = snapshot::read_all(&*place.objects, key)?.readable;
    let of_store = |record: &SnapshotFile| {
        let kept = snapshot::kept(record, record.id.to_hex().as_str(), place.layout);
        let same = kept.store.as_ref() == Some(&label.store) && kept.project.as_ref() == Some(&label.project);
        same.then_some(kept)
    };
    let Some(kept) = records.iter().rev().find_map(of_store) else { return Ok(None) };
    let opened = reading::open_sound(ctx, &place.objects, key, &kept)?;
    let listed: Listed = serde_json::from_slice(&opened.manifest()?).unwrap_or_default();
    Ok(Some((kept.snapshot, opened.known(&listed.parts))))
}

impl Work {
    fn write(self, source: &Source) -> Result<Committed, Fault> {
        let mut options = BackupOptions::default();
        if self.parent.is_empty() {
            // Otherwise the library would choose one itself.
            options.parent_opts.force = true;
        } else {
            options.parent_opts.parents = vec![self.parent.clone()];
        }
        options.no_scan = true;
        let root = [PathBuf::from(format!("/{}", self.label.store))];
        let record = self
            .repository
            .archive(&options, source, snapshot::record(&self.label), &root)
            .or_fault("write the backup")
            .map_err(|fault| self.run.fault().unwrap_or_else(|| self.backend.explain(fault)))?;
        let Self { ctx, place, key, label, run, .. } = self;
        drop(self.repository);
        let snapshot = record.id.to_hex().as_str().to_owned();
        let read_back =
            catch_unwind(AssertUnwindSafe(|| read_back(&ctx, &place, &key, &label, &run, &record)))
                .unwrap_or_else(|_| {
                    Err(Fault::new(FaultKind::Damaged, "reading the new backup ended in a panic"))
                });
        if let Err(fault) = read_back {
            // It exists already, and must not.
            let path = path_of(FileType::Snapshot, &record.id);
            return Err(match place.objects.remove(&path) {
                Ok(()) => fault,
                Err(removing) => Fault::new(
                    fault.kind,
                    format!(
                        "the backup `{snapshot}` was written and is not good, and stays on the list ({removing}): {fault}"
                    ),
                ),
            });
        }
        // What was written long ago and is still needed must stay protected as long as what is new.
        match place.objects.prolong() {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "the storage's locks were prolonged"),
            Err(fault) => tracing::warn!(error = %fault, "the storage's locks could not be prolonged"),
        }
        let (parts, _) = run.given();
        Ok(Committed {
            snapshot,
            bytes: parts.iter().map(|part| part.bytes).sum(),
            bytes_added: record.summary.as_ref().map_or(0, |summary| summary.data_added_packed),
        })
    }
}

/// Proves that what was written can be read: the manifest, where each part lies, and some of the new packs.
fn read_back(
    ctx: &Context,
    place: &Place,
    key: &Key,
    label: &BackupLabel,
    run: &Run,
    record: &SnapshotFile,
) -> Result<(), Fault> {
    let (parts, manifest) = run.given();
    let bad = |why: String| Err(Fault::new(FaultKind::Damaged, why));
    if let Some(summary) = &record.summary {
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        // Beside the parts there are the label and the manifest.
        let files = parts.len() as u64 + 2;
        if summary.total_files_processed != files || summary.total_bytes_processed < bytes {
            return bad(format!(
                "of {files} files with {bytes} bytes, {} with {} were written",
                summary.total_files_processed, summary.total_bytes_processed
            ));
        }
    }
    let kept = snapshot::kept(record, record.id.to_hex().as_str(), label.layout);
    let opened = reading::open_sound(ctx, &place.objects, key, &kept)?;
    let read = opened.manifest()?;
    if manifest.as_deref() != Some(&name_of(&read)) {
        return bad("the manifest was read back with other bytes than were written".into());
    }
    opened.has_all(&parts)?;
    for id in sample(&run.packs()) {
        read_named(&*place.objects, &path_of(FileType::Pack, &id))?;
    }
    Ok(())
}

/// One pack of a hundred, at least one. Ids are hashes, so the smallest are as random as any.
fn sample(packs: &[Id]) -> Vec<Id> {
    let mut sorted = packs.to_vec();
    sorted.sort_unstable();
    sorted.truncate(packs.len().div_ceil(PACKS_PER_SAMPLE));
    sorted
}

impl Writer {
    /// Why nothing more is taken.
    fn fault(&self) -> Error {
        self.run.fault().unwrap_or_else(|| Fault::new(FaultKind::Unavailable, "the backup has ended")).into()
    }

    async fn take(&self, part: Part) -> Result<(), Error> {
        if self.run.fault().is_some() {
            return Err(self.fault());
        }
        let mut order = self.order.lock().await;
        check_path(&part.path, order.last.as_deref())?;
        let (bytes, in_memory) = match &part.body {
            PartBody::Bytes(bytes) if bytes.len() > PART_BYTES_MAX => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("the part `{}` has {} bytes in memory", part.path, bytes.len()),
                ));
            }
            PartBody::Bytes(bytes) => (bytes.len() as u64, bytes.len()),
            PartBody::File { bytes, .. } => (*bytes, 0),
        };
        // Room for the one before, which the library takes up when it gets this one.
        if let Some((permits, room)) = &order.newest
            && *permits > 0
        {
            let taken = Arc::clone(&self.run.budget).acquire_many_owned(*permits).await;
            let permit = taken.map_err(|_| self.fault())?;
            room.lock().unwrap_or_else(PoisonError::into_inner).replace(permit);
        }
        let permits = in_memory.div_ceil(PERMIT_BYTES).min(BYTES_IN_FLIGHT_MAX / PERMIT_BYTES);
        let room = Room::default();
        order.newest = Some((u32::try_from(permits).unwrap_or(u32::MAX), Arc::clone(&room)));
        let item = Item::Part { path: part.path.clone(), bytes, body: part.body, room };
        let Some(outbox) = &order.outbox else { return Err(self.fault()) };
        outbox.send(item).await.map_err(|_| self.fault())?;
        order.last = Some(part.path);
        Ok(())
    }

    /// Waits for the thread's answer.
    async fn answer(&mut self) -> Result<Committed, Error> {
        let Some(ended) = self.ended.take() else { return Err(self.fault()) };
        match ended.await {
            Ok(answer) => answer.map_err(Error::from),
            Err(_) => Err(panicked()),
        }
    }
}

#[async_trait]
impl PartSink for Writer {
    async fn put(&self, part: Part) -> Result<(), Error> {
        let taken = self.ctx.run(self.take(part)).await;
        if let Err(error) = &taken {
            // A backup without this part must not become one; the first reason stays.
            self.run.fail(Fault::new(
                FaultKind::Canceled,
                format!("a part could not be taken: {}", error.message()),
            ));
        }
        taken
    }
}

#[async_trait]
impl BackupWriter for Writer {
    async fn commit(mut self: Box<Self>, manifest: MakeManifest) -> Result<Committed, Error> {
        let outbox = self.order.get_mut().outbox.take();
        if let Some(outbox) = outbox {
            let send = async { outbox.send(Item::Manifest(manifest)).await.map_err(|_| self.fault()) };
            if let Err(error) = self.ctx.run(send).await {
                self.run.fail(Fault::new(FaultKind::Canceled, "the backup was given up"));
                drop(outbox);
                // What ended it first is the better answer.
                return Err(self.answer().await.err().unwrap_or(error));
            }
        }
        self.answer().await
    }

    async fn abandon(mut self: Box<Self>) {
        self.run.fail(Fault::new(FaultKind::Canceled, "the backup was given up"));
        self.order.get_mut().outbox = None;
        // Its answer is that it was given up.
        self.answer().await.ok();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.ended.is_some() {
            self.run.fail(Fault::new(FaultKind::Canceled, "the backup was given up"));
        }
    }
}
