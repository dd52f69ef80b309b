//! Putting a folder back: into a new one, which may then take the place of the old.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use contract::{
    Context, Dumped, Error, ErrorKind, IntegrityReport, Load, LoadTarget, PartSource, Preflight, Restored,
    RowSum, Selection, Store, TableDigest,
};
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, renameat_with, utimensat};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::dump::{index_path, part_path};
use crate::entry::{Entry, Kind, Name, top};
use crate::error::io_error;
use crate::store::{FolderStore, KIND};
use crate::walk::{Take, Walk};

/// The folder in a scratch folder.
const SCRATCH: &str = "restored";
/// Differences that are named.
const SAID_MAX: usize = 10;
/// Disk that stays free beside a copy.
const DISK_KEPT_BYTES: u64 = 64 << 20;
/// What the name of a folder ends in that is being written.
const LOADING: &str = "steward-loading";

#[async_trait]
impl Load for FolderStore {
    async fn preflight(&self, _: &Context, dumped: &Dumped, target: &LoadTarget) -> Result<Preflight, Error> {
        let mut preflight = Preflight::default();
        if let Err(error) = pages_of(dumped) {
            preflight.refusals.push(error.message().to_owned());
            return Ok(preflight);
        }
        // Digests count rows of the index, so the bytes are not known before the index is read: files are at least as large.
        let path = self.path_of(target);
        if path.symlink_metadata().is_ok() {
            preflight.refusals.push(format!(
                "`{}` exists, and nothing is overwritten: name a folder that does not",
                path.display()
            ));
        }
        if matches!(target, LoadTarget::Beside { .. })
            && let Some(folder) = path.parent()
            && !folder.is_dir()
        {
            preflight.refusals.push(format!("there is no folder `{}`: make it first", folder.display()));
        }
        if !rustix::process::geteuid().is_root() {
            preflight
                .warnings
                .push("files will belong to whoever runs Steward: only root can give them away".into());
        }
        Ok(preflight)
    }

    async fn load(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error> {
        if let Selection::Schema(_) = selection {
            return Err(self.unsupported(
                "a restore of a schema",
                "a folder has none",
                "name what is directly in the folder: `--tables documents`",
            ));
        }
        let path = self.path_of(target);
        let exists = || {
            Error::new(ErrorKind::Conflict, "the target exists")
                .with("path", path.display())
                .hint("nothing is overwritten: name a folder that does not exist")
        };
        if path.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let entries = selected(index(ctx, dumped, parts).await?, selection)?;
        let bytes = entries
            .iter()
            .map(|(_, entry)| if let Kind::File { bytes, .. } = entry.kind { bytes } else { 0 });
        let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
        enough_disk(&parent, bytes.sum())?;
        remove_forsaken(&path);
        let root = loading_path(&path);
        let mut loading = Unfinished(Some(root.clone()));
        DirBuilder::new()
            .recursive(matches!(target, LoadTarget::Scratch { .. }))
            .mode(0o700)
            .create(&root)
            .map_err(|cause| io_error("the folder cannot be made", &root, cause))?;
        write(ctx, &root, &entries, parts).await?;
        finish(&root, &itself(dumped)?)?;
        match renameat_with(CWD, &root, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(exists()),
            Err(cause) => {
                return Err(io_error("the restored folder cannot be given its name", &path, cause.into()));
            }
        }
        loading.0 = None;
        Ok(Box::new(RestoredFolder { number: number(&path), path, kept: false }))
    }

    async fn swap(
        &self,
        ctx: &Context,
        restored: &dyn Restored,
        _end_sessions: bool,
    ) -> Result<String, Error> {
        let live = self.folder()?;
        let copy = PathBuf::from(restored.address());
        let stamp = ctx.now().strftime("%Y%m%dT%H%M%SZ");
        let mut before = live.clone().into_os_string();
        before.push(format!("-before-{stamp}"));
        exchange(&live, &copy, Path::new(&before), &mut |_| Ok(()))
            .map_err(|error| error.with("store", &self.name))
    }
}

/// Puts `copy` into the place of `live`, which is then `before`, in one moment: at no time is there no folder. `at` is told
/// before each step.
fn exchange(
    live: &Path,
    copy: &Path,
    before: &Path,
    at: &mut dyn FnMut(&str) -> Result<(), Error>,
) -> Result<String, Error> {
    let failed = |cause: rustix::io::Errno| {
        let error = io_error("the restored folder cannot be put in its place", live, cause.into());
        match cause {
            rustix::io::Errno::BUSY | rustix::io::Errno::XDEV | rustix::io::Errno::INVAL => error.hint(
                "a folder that is a mount point, or on a file system that cannot exchange two, is not swapped: restore beside \
                 and copy",
            ),
            _ => error,
        }
    };
    if before.symlink_metadata().is_ok() {
        return Err(Error::new(ErrorKind::Conflict, "the name for the folder as it was is taken")
            .with("path", before.display())
            .hint("try again in a second"));
    }
    at("exchange")?;
    renameat_with(CWD, live, CWD, copy, RenameFlags::EXCHANGE).map_err(failed)?;
    at("rename")?;
    // From here on it has happened: what was live lies under the copy's name if this fails.
    let kept = match renameat_with(CWD, copy, CWD, before, RenameFlags::NOREPLACE) {
        Ok(()) => before,
        Err(error) => {
            tracing::warn!(path = %copy.display(), %error, "the folder as it was keeps the name of the copy");
            copy
        }
    };
    if let Some(folder) = live.parent()
        && let Err(error) = std::fs::File::open(folder).and_then(|folder| folder.sync_all())
    {
        tracing::warn!(path = %folder.display(), %error, "the new names may not survive a power cut");
    }
    Ok(format!(
        "the folder as it was is `{}`, also with what `exclude` leaves out of backups; `mv` puts it back",
        kept.display()
    ))
}

impl FolderStore {
    fn path_of(&self, target: &LoadTarget) -> PathBuf {
        match target {
            LoadTarget::Scratch { folder } => folder.join(SCRATCH),
            LoadTarget::Beside { name } => {
                let live = self.folder().unwrap_or_else(|_| self.path.clone());
                live.parent().map_or_else(|| PathBuf::from(name), |parent| parent.join(name))
            }
        }
    }
}

/// How many parts the index has.
fn pages_of(dumped: &Dumped) -> Result<usize, Error> {
    if dumped.kind != KIND {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the backup is of a store of kind `{}`, not `{KIND}`", dumped.kind),
        ));
    }
    let pages = dumped.detail.get("index").and_then(serde_json::Value::as_u64);
    pages
        .and_then(|pages| usize::try_from(pages).ok())
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the manifest does not say where the index is"))
}

/// Mode, owner and time of the folder itself.
fn itself(dumped: &Dumped) -> Result<Entry, Error> {
    let folder = dumped.detail.get("folder").cloned().unwrap_or_default();
    serde_json::from_value(folder).map_err(|cause| {
        Error::new(ErrorKind::Corrupt, "the manifest does not describe the folder").because(cause)
    })
}

/// Every entry with its path, which leads out of no folder.
async fn index(
    ctx: &Context,
    dumped: &Dumped,
    parts: &dyn PartSource,
) -> Result<Vec<(PathBuf, Entry)>, Error> {
    let mut entries = Vec::new();
    for number in 0..pages_of(dumped)? {
        let page = ctx.run(parts.read(&index_path(number))).await?;
        for line in page.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let entry: Entry = serde_json::from_slice(line).map_err(|cause| {
                Error::new(ErrorKind::Corrupt, "the index of the backup cannot be read").because(cause)
            })?;
            entries.push((entry.path.inside()?, entry));
        }
    }
    Ok(entries)
}

/// What is chosen. A hard link whose first name is not chosen becomes the file itself.
fn selected(all: Vec<(PathBuf, Entry)>, selection: &Selection) -> Result<Vec<(PathBuf, Entry)>, Error> {
    let Selection::Tables(names) = selection else { return Ok(all) };
    let known: BTreeSet<String> = all.iter().map(|(path, _)| top(path)).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(*name)) {
        return Err(Error::new(ErrorKind::NotFound, format!("the backup holds nothing called `{unknown}`")));
    }
    let files: BTreeMap<Name, Kind> = all
        .iter()
        .filter(|(_, entry)| matches!(entry.kind, Kind::File { .. }))
        .map(|(_, entry)| (entry.path.clone(), entry.kind.clone()))
        .collect();
    let mut chosen: Vec<(PathBuf, Entry)> =
        all.into_iter().filter(|(path, _)| names.contains(&top(path))).collect();
    let there: HashSet<Name> = chosen.iter().map(|(_, entry)| entry.path.clone()).collect();
    for (_, entry) in &mut chosen {
        if let Kind::HardLink { to, .. } = &entry.kind
            && !there.contains(to)
            && let Some(file) = files.get(to)
        {
            entry.kind = file.clone();
        }
    }
    Ok(chosen)
}

fn enough_disk(folder: &Path, bytes: u64) -> Result<(), Error> {
    let Some(there) = folder.ancestors().find(|folder| folder.is_dir()) else { return Ok(()) };
    let disk = rustix::fs::statvfs(there)
        .map_err(|cause| io_error("the disk cannot be asked how much is free", there, cause.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = bytes.saturating_add(DISK_KEPT_BYTES);
    if free >= needed {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitExceeded, format!("{free} bytes are free and {needed} are needed"))
        .with("folder", there.display())
        .hint("make room, or restore to another disk"))
}

/// A name of this process beside the target.
fn loading_path(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(format!("-{}-{LOADING}", std::process::id()));
    PathBuf::from(name)
}

/// Takes away what a process that was killed in the middle of a load has left beside `path`.
fn remove_forsaken(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let process = other
            .to_str()
            .and_then(|other| {
                other
                    .strip_prefix(name)?
                    .strip_prefix('-')?
                    .strip_suffix(LOADING)?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            })
            .and_then(rustix::process::Pid::from_raw);
        if let Some(process) = process
            && rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH)
        {
            remove(&entry.path());
        }
    }
}

/// Removes a folder, also where folders in it may not be written.
fn remove(path: &Path) {
    let mut waiting = vec![path.to_owned()];
    while let Some(folder) = waiting.pop() {
        // What cannot be opened is said when it is not removed.
        drop(std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)));
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a restored folder");
        }
        _ => {}
    }
}

/// A folder that is being written, removed unless it has got its name by then.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// Writes everything below `root`: folders for us alone first, then files, then links, and what closes folders last.
///
/// Links come after the files, so that no file is ever written through one.
async fn write(
    ctx: &Context,
    root: &Path,
    entries: &[(PathBuf, Entry)],
    parts: &dyn PartSource,
) -> Result<(), Error> {
    for (path, entry) in entries {
        if entry.kind == Kind::Folder {
            let full = root.join(path);
            DirBuilder::new()
                .mode(0o700)
                .create(&full)
                .map_err(|cause| io_error("a folder cannot be made", &full, cause))?;
        }
    }
    for (path, entry) in entries {
        let Kind::File { parts: (first, count), bytes, sha256 } = &entry.kind else { continue };
        let full = root.join(path);
        let failed = |cause| io_error("a restored file cannot be written", &full, cause);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&full).map_err(failed)?;
        let (mut hash, mut written) = (Sha256::new(), 0);
        for number in *first..first.saturating_add(*count) {
            let part = ctx.run(parts.read(&part_path(number))).await?;
            hash.update(&part);
            written += part.len() as u64;
            file.write_all(&part).map_err(failed)?;
        }
        if written != *bytes || hex(&hash.finalize()) != *sha256 {
            return Err(Error::new(ErrorKind::Corrupt, "a file of the backup is not what was read")
                .with("path", path.display()));
        }
        file.sync_all().map_err(failed)?;
        finish(&full, entry)?;
    }
    for (path, entry) in entries {
        let full = root.join(path);
        match &entry.kind {
            Kind::HardLink { to, .. } => {
                let first = root.join(to.inside()?);
                std::fs::hard_link(&first, &full)
                    .map_err(|cause| io_error("a hard link cannot be made", &full, cause))?;
            }
            Kind::Link { to } => {
                std::os::unix::fs::symlink(to.path()?, &full)
                    .map_err(|cause| io_error("a link cannot be made", &full, cause))?;
                own(&full, entry)?;
                touch(&full, entry)?;
            }
            Kind::Folder | Kind::File { .. } => {}
        }
    }
    for (path, entry) in entries.iter().rev() {
        if entry.kind == Kind::Folder {
            finish(&root.join(path), entry)?;
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |out, byte| out + &format!("{byte:02x}"))
}

/// Owner, mode and time, in this order: a change of owner takes bits of the mode away.
fn finish(full: &Path, entry: &Entry) -> Result<(), Error> {
    own(full, entry)?;
    std::fs::set_permissions(full, std::fs::Permissions::from_mode(entry.mode))
        .map_err(|cause| io_error("the mode cannot be set", full, cause))?;
    touch(full, entry)
}

fn own(full: &Path, entry: &Entry) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (user, group) = entry.owner;
    std::os::unix::fs::lchown(full, Some(user), Some(group))
        .map_err(|cause| io_error("the owner cannot be set", full, cause))
}

fn touch(full: &Path, entry: &Entry) -> Result<(), Error> {
    let time = Timespec { tv_sec: entry.modified.0, tv_nsec: entry.modified.1 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, full, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|cause| io_error("the time cannot be set", full, cause.into()))
}

/// A folder that was restored.
struct RestoredFolder {
    path: PathBuf,
    /// Device and number: after a swap what was live lies under the path, and is never removed.
    number: Option<(u64, u64)>,
    kept: bool,
}

fn number(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    path.symlink_metadata().ok().map(|it| (it.dev(), it.ino()))
}

impl Drop for RestoredFolder {
    fn drop(&mut self) {
        if !self.kept && self.number.is_some() && number(&self.path) == self.number {
            remove(&self.path);
        }
    }
}

impl RestoredFolder {
    async fn read(&self, ctx: &Context) -> Result<Counted, Error> {
        let (path, canceled) = (self.path.clone(), ctx.cancellation().clone());
        let reading = tokio::task::spawn_blocking(move || {
            let mut counted = Counted { canceled, ..Counted::default() };
            let mut walk = Walk::new(&path, &[], &|_, _| ());
            walk.run(&mut counted)?;
            counted.left_out = walk.left_out.sentences();
            Ok(counted)
        });
        ctx.run(async {
            reading.await.map_err(|cause| {
                Error::new(ErrorKind::Other, "reading the folder ended in the middle").because(cause)
            })?
        })
        .await
    }
}

/// What a restored folder holds.
#[derive(Default)]
struct Counted {
    canceled: CancellationToken,
    sums: BTreeMap<String, RowSum>,
    rows: BTreeMap<Name, Vec<u8>>,
    left_out: Vec<String>,
    parts: u64,
}

impl Take for Counted {
    fn part(&mut self, _bytes: bytes::Bytes) -> Result<u64, Error> {
        if self.canceled.is_cancelled() {
            return Err(Error::new(ErrorKind::Canceled, "canceled"));
        }
        self.parts += 1;
        Ok(self.parts)
    }

    fn entry(&mut self, path: &Path, entry: Entry) -> Result<(), Error> {
        let row = entry.row();
        self.sums.entry(top(path)).or_default().add([row.as_slice()]);
        self.rows.insert(entry.path, row);
        Ok(())
    }
}

#[async_trait]
impl Restored for RestoredFolder {
    fn address(&self) -> String {
        self.path.display().to_string()
    }

    async fn fingerprint(&self, ctx: &Context, dumped: &Dumped) -> Result<Vec<TableDigest>, Error> {
        let counted = self.read(ctx).await?;
        let digest = |expected: &TableDigest| {
            counted.sums.get(&expected.table).copied().unwrap_or_default().of_table(expected.table.clone())
        };
        Ok(dumped.tables.iter().map(digest).collect())
    }

    async fn schema_differences(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
    ) -> Result<Vec<String>, Error> {
        let expected = selected(index(ctx, dumped, parts).await?, selection)?;
        let mut counted = self.read(ctx).await?;
        let mut differences = Vec::new();
        for (path, entry) in &expected {
            match counted.rows.remove(&entry.path) {
                None => differences.push(format!("{} is not there", path.display())),
                Some(row) if row != entry.row() => {
                    differences.push(format!("{} is another than was backed up", path.display()));
                }
                Some(_) => {}
            }
        }
        for name in counted.rows.keys() {
            differences.push(format!("{} was not backed up", name.path()?.display()));
        }
        differences.extend(counted.left_out);
        if differences.len() > SAID_MAX {
            let more = differences.len() - SAID_MAX;
            differences.truncate(SAID_MAX);
            differences.push(format!("and {more} more"));
        }
        Ok(differences)
    }

    async fn check(&self, ctx: &Context) -> Result<IntegrityReport, Error> {
        let counted = self.read(ctx).await?;
        Ok(IntegrityReport {
            statement: "every file was read to its end".to_owned(),
            checked: counted.rows.len() as u64,
            ..IntegrityReport::default()
        })
    }

    async fn probe(&self, _ctx: &Context, _sql: &str) -> Result<bool, Error> {
        Err(Error::new(ErrorKind::Invalid, "a folder answers no SQL")
            .hint("take the probe of this store out of the plan"))
    }

    fn keep(&mut self) -> String {
        self.kept = true;
        format!("rm -r '{}'", self.path.display().to_string().replace('\'', r"'\''"))
    }

    async fn remove(self: Box<Self>) -> Result<(), Error> {
        let (path, mine) = (self.path.clone(), self.number);
        drop(self);
        if mine.is_none() || number(&path) != mine {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, "the restored folder cannot be taken away")
            .with("path", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folder and a copy with other files.
    fn two() -> (tempfile::TempDir, PathBuf, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let (live, copy, before) = (path("live"), path("copy"), path("before"));
        for (folder, text) in [(&live, "live"), (&copy, "restored")] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("file"), text).unwrap();
        }
        (root, live, copy, before)
    }

    fn text(folder: &Path) -> String {
        std::fs::read_to_string(folder.join("file")).unwrap()
    }

    #[test]
    fn killed_at_any_point_of_a_swap_there_is_a_whole_folder_and_none_is_lost() {
        for (stop, is_live) in [("exchange", "live"), ("rename", "restored")] {
            let (_root, live, copy, before) = two();
            let restored = RestoredFolder { number: number(&copy), path: copy.clone(), kept: false };
            let stopped = exchange(&live, &copy, &before, &mut |point| {
                if point == stop { Err(Error::new(ErrorKind::Other, "killed")) } else { Ok(()) }
            });
            assert_eq!(stopped.unwrap_err().message(), "killed");
            assert_eq!(text(&live), is_live, "{stop}");
            assert!(!before.exists());
            // Whoever drops the handle takes the copy away, and never what was live.
            drop(restored);
            match stop {
                "exchange" => assert!(!copy.exists()),
                _ => assert_eq!(text(&copy), "live", "what was live is never removed"),
            }
        }
        let (_root, live, copy, before) = two();
        let undo = exchange(&live, &copy, &before, &mut |_| Ok(())).unwrap();
        assert_eq!((text(&live), text(&before), copy.exists()), ("restored".into(), "live".into(), false));
        assert!(undo.contains(&before.display().to_string()), "{undo}");
    }

    #[test]
    fn a_name_that_is_taken_stops_a_swap_before_it_begins() {
        let (_root, live, copy, before) = two();
        std::fs::create_dir(&before).unwrap();
        let error = exchange(&live, &copy, &before, &mut |_| Ok(())).unwrap_err();
        assert_eq!(
            (error.kind(), text(&live), text(&copy)),
            (ErrorKind::Conflict, "live".into(), "restored".into())
        );
    }
}
