//! Taking the contents out: one copy of all pages, made through SQLite's online backup within one snapshot.

use std::fmt::Write;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use contract::{
    BackupMethod, Context, Dump, DumpOptions, Dumped, Error, ErrorKind, Layout, Part, PartBody, PartSink,
    Preflight, RecoveryPoint, Store, Tool,
};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::contents::{self, Counted, Object};
use crate::error::translate;
use crate::session::{File, Stop, on_thread, watch};
use crate::store::{KIND, SqliteStore};

/// Pages that are copied between two looks at whether to stop.
const PAGES_AT_ONCE: i32 = 1_024;
/// Disk that stays free beside a copy.
const DISK_KEPT_BYTES: u64 = 64 << 20;

/// A copy and what the file itself says of it.
struct Staged {
    path: PathBuf,
    bytes: u64,
    page_size: u64,
    page_count: u64,
    encoding: String,
    user_version: i64,
    application_id: i64,
}

#[async_trait]
impl Dump for SqliteStore {
    fn methods(&self) -> Vec<BackupMethod> {
        vec![BackupMethod::Physical]
    }

    async fn preflight(&self, ctx: &Context, options: &DumpOptions) -> Result<Preflight, Error> {
        let scratch = options.scratch.clone();
        let method = options.method;
        self.read(ctx, None, move |connection, stop| {
            let mut preflight = Preflight { tools: vec![library()], ..Preflight::default() };
            if method != BackupMethod::Physical {
                preflight
                    .refusals
                    .push("a SQLite file is only copied page by page: take the method `physical`".to_owned());
            }
            let bytes = size(connection).map_err(|error| translate(&error, stop))?;
            preflight.bytes_expected = Some(bytes);
            preflight.scratch_bytes = bytes;
            preflight.refusals.extend(too_little_disk(&scratch, bytes)?);
            Ok(preflight)
        })
        .await
    }

    async fn dump(&self, ctx: &Context, options: &DumpOptions, sink: &dyn PartSink) -> Result<Dumped, Error> {
        if options.method != BackupMethod::Physical {
            return Err(self.unsupported(
                "a logical backup",
                "a SQLite file is only copied page by page",
                "take the method `physical`",
            ));
        }
        let part = format!("{}.db", component(&self.name));
        let (file, path) = (self.file.clone(), options.scratch.join(&part));
        let address = self.file.canonical()?.display().to_string();
        let clock = ctx.clock();
        let (staged, at) = on_thread(ctx, &self.closed, None, move |stop| {
            // Whatever was committed before is in the reader's snapshot.
            let at = clock.now();
            let source = file.reader(stop)?;
            Ok((stage(&file, &source, &path, stop)?, at))
        })
        .await
        .map_err(|error| error.with("store", &self.name))?;
        let path = staged.path.clone();
        // Nobody changes the copy any more, so it is counted and given away at once.
        let count = on_thread(ctx, &self.closed, None, move |stop| examine(&path, stop));
        let body = PartBody::File { path: staged.path.clone(), bytes: staged.bytes };
        let put = ctx.run(sink.put(Part { path: part.clone(), body }));
        let ((counted, objects, modules), ()) = tokio::try_join!(count, put)?;
        let definitions: serde_json::Map<String, serde_json::Value> = objects
            .iter()
            .map(|object| (object.title.clone(), json!({"table": object.table, "sha256": object.definition})))
            .collect();
        Ok(Dumped {
            kind: KIND.to_owned(),
            version: rusqlite::version().to_owned(),
            identity: address.clone(),
            address,
            method: BackupMethod::Physical,
            layout: Layout::Pages,
            point: RecoveryPoint { at, server_at: None, position: None, timeline: None },
            tables: counted.tables,
            schema_sha256: contents::schema_sha256(&objects),
            needs: modules.into_iter().map(|module| format!("module {module}")).collect(),
            left_out: Vec::new(),
            tools: vec![library()],
            detail: json!({
                "part": part,
                "page_size": staged.page_size,
                "page_count": staged.page_count,
                "encoding": staged.encoding,
                "user_version": staged.user_version,
                "application_id": staged.application_id,
                "rows_not_counted": counted.unread,
                "objects": definitions,
            }),
        })
    }
}

/// The library that is built in.
fn library() -> Tool {
    Tool {
        name: "sqlite".to_owned(),
        version: rusqlite::version().to_owned(),
        command: "sqlite3_backup_step".to_owned(),
    }
}

/// The name as a component of a part's path.
fn component(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    name.chars().take(80).map(plain).collect()
}

/// Bytes of all pages in the connection's snapshot.
fn size(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let bytes = number("page_count")?.saturating_mul(number("page_size")?);
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Why there is not enough disk at `folder` (or where it will be) for so many bytes.
pub(crate) fn too_little_disk(folder: &Path, bytes: u64) -> Result<Option<String>, Error> {
    let Some(there) = folder.ancestors().find(|folder| folder.is_dir()) else { return Ok(None) };
    let disk = rustix::fs::statvfs(there).map_err(|error| {
        Error::new(ErrorKind::Unavailable, "the disk cannot be asked how much is free")
            .with("folder", there.display())
            .because(error)
    })?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = bytes.saturating_add(DISK_KEPT_BYTES);
    Ok((free < needed).then(|| {
        format!(
            "`{}` has {free} bytes free and needs {needed}: make room, or name another scratch folder",
            there.display()
        )
    }))
}

/// Makes a new file that only its owner may read.
pub(crate) fn new_file(path: &Path) -> Result<std::fs::File, Error> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, "the copy cannot be made").with("path", path.display()).because(error)
    })
}

/// Copies the snapshot of `source` into a new file, to the disk itself; after an error there is no file.
fn stage(file: &File, source: &Connection, path: &Path, stop: &Arc<Stop>) -> Result<Staged, Error> {
    if let Some(why) = too_little_disk(path, size(source).map_err(|error| file.explain(&error, stop))?)? {
        return Err(
            Error::new(ErrorKind::LimitExceeded, "there is too little disk for the copy").because(why)
        );
    }
    let made = new_file(path)?;
    let staged = copy_into(source, path, stop).and_then(|staged| {
        made.sync_all().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the copy cannot be written to the disk")
                .with("path", path.display())
                .because(error)
        })?;
        Ok(staged)
    });
    if staged.is_err()
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::debug!(%error, "the unfinished copy stays until its folder is removed");
    }
    staged
}

fn copy_into(source: &Connection, path: &Path, stop: &Arc<Stop>) -> Result<Staged, Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop).with("path", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(path, flags).map_err(failed)?;
    // Until it is whole nobody uses it; then it is synced as one.
    copy.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE",
    )
    .map_err(failed)?;
    copy_pages(source, &mut copy, stop).map_err(|error| error.with("path", path.display()))?;
    drop(copy);
    let copy = frozen(path).map_err(failed)?;
    let number = |pragma| copy.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(failed);
    let count = |pragma| number(pragma).map(|number| u64::try_from(number).unwrap_or(0));
    Ok(Staged {
        path: path.to_owned(),
        bytes: std::fs::metadata(path)
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, "the copy is gone")
                    .with("path", path.display())
                    .because(error)
            })?
            .len(),
        page_size: count("page_size")?,
        page_count: count("page_count")?,
        encoding: copy.pragma_query_value(None, "encoding", |row| row.get(0)).map_err(failed)?,
        user_version: number("user_version")?,
        application_id: number("application_id")?,
    })
}

/// Copies all pages; the target is changed when this returns, or not at all.
pub(crate) fn copy_pages(source: &Connection, target: &mut Connection, stop: &Stop) -> Result<(), Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop);
    let copy = Backup::new(source, target).map_err(failed)?;
    finish(&copy, stop)
}

/// Runs a copy that was begun to its end.
pub(crate) fn finish(copy: &Backup<'_, '_>, stop: &Stop) -> Result<(), Error> {
    loop {
        if stop.requested() {
            return Err(stop.error());
        }
        match copy.step(PAGES_AT_ONCE).map_err(|error| translate(&error, stop))? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => {
                return Err(Error::new(ErrorKind::Conflict, "another connection holds the lock")
                    .hint("try again when fewer use the file, or raise `lock_timeout_ms` of this store"));
            }
        }
    }
}

/// A connection to a file that nobody changes: it takes no locks and makes no files beside it.
fn frozen(path: &Path) -> rusqlite::Result<Connection> {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/.-_".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            write!(uri, "%{byte:02x}").expect("writing to a string does not fail");
        }
    }
    uri.push_str("?immutable=1");
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags)
}

/// What the copy holds: its rows, its schema, the modules that it needs.
fn examine(path: &Path, stop: &Arc<Stop>) -> Result<(Counted, Vec<Object>, Vec<String>), Error> {
    let read = || {
        let mut copy = frozen(path)?;
        watch(&mut copy, stop, std::time::Duration::ZERO)?;
        Ok((contents::count(&copy)?, contents::objects(&copy)?, contents::modules(&copy)?))
    };
    read().map_err(|error: rusqlite::Error| translate(&error, stop).with("path", path.display()))
}
