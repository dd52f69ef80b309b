//! Putting a server's files back, and starting it on them apart from everything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context as Hash, SHA256};
use bytes::Bytes;
use contract::{
    Context, Dumped, Error, ErrorKind, LoadTarget, LogStart, PartSource, Preflight, Recovery, RecoveryPoint,
    RecoveryTarget, Restored, Selection, Store,
};
use futures::{StreamExt as _, TryStreamExt as _};

use super::detail::{Detail, Entry, part_path};
use super::manifest::{ListedFile, ServerManifest, hex};
use super::restored::RestoredServer;
use super::{BACKUP_MANIFEST, SERVER_MANIFEST, TABLESPACE_MAP};
use crate::backup::load::SERVER_BYTES;
use crate::backup::programs::{self, Programs};
use crate::backup::{ScratchServer, on_this_disk};
use crate::store::PostgresStore;

/// Files that are put together at once.
const FILES_AT_ONCE: usize = 4;
/// A server that replays its log writes new log and copies of pages.
const DISK_PERCENT: u64 = 110;
/// What the server says when the log that it was given ends too early.
const NOT_REACHED: &str = "recovery ended before configured recovery target was reached";
/// The server's own settings from before, out of the way.
pub(super) const SET_ASIDE: &str = "postgresql.auto.conf.source";

/// Settings of a server that must reach nobody, be reached by nobody, and run nothing that its source ran.
const CONFIGURATION: &str = "listen_addresses = ''
unix_socket_permissions = 0700
shared_preload_libraries = ''
archive_mode = off
max_wal_senders = 0
hot_standby = off
max_logical_replication_workers = 0
fsync = off
full_page_writes = off
synchronous_commit = off
max_wal_size = '2GB'
checkpoint_timeout = '1h'
shared_buffers = '64MB'
maintenance_work_mem = '128MB'
autovacuum = off
lc_messages = 'C'
logging_collector = off
log_destination = 'stderr'
dynamic_shared_memory_type = mmap
huge_pages = off
ssl = off
jit = off
";

/// From where on the server's log can be applied to a backup.
pub(crate) fn log_start(dumped: &Dumped) -> Option<LogStart> {
    let detail = Detail::of(dumped).ok()?;
    Some(LogStart {
        timeline: detail.timeline,
        position: detail.stop,
        needs_from: detail.log_goes_on_at(),
        source: detail.system_id,
    })
}

fn cannot(what: &str) -> impl Fn(std::io::Error) -> Error {
    move |error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("the server's files cannot be put back: {what}")).because(error)
    }
}

impl PostgresStore {
    pub(crate) async fn physical_load_preflight(
        &self,
        dumped: &Dumped,
        target: &LoadTarget,
    ) -> Result<Preflight, Error> {
        let mut preflight = Preflight::default();
        let detail = match Detail::of(dumped) {
            Ok(detail) => detail,
            Err(error) => {
                preflight.refusals.push(error.message().to_owned());
                return Ok(preflight);
            }
        };
        preflight.bytes_expected = Some(detail.disk_bytes);
        let LoadTarget::Scratch { folder } = target else {
            preflight.refusals.push(
                "a physical backup is a whole server and cannot be put into one that runs: restore it to scratch, and copy from there or let it take the server's place".into(),
            );
            return Ok(preflight);
        };
        preflight.scratch_bytes = scratch_bytes(&detail);
        match programs::to_serve(self.opener.config.bin_dir.as_deref(), detail.major()).await {
            Ok(programs) => preflight.tools.push(programs.tool("postgres", &[])),
            Err(error) => {
                let hint = error.hint_text().map(|hint| format!(": {hint}")).unwrap_or_default();
                preflight.refusals.push(format!("{}{hint}", error.message()));
            }
        }
        if let Some(free) = super::base::free_bytes(folder)
            && free < preflight.scratch_bytes
        {
            preflight.refusals.push(format!(
                "`{}` has {free} bytes free and needs about {}: make room, or name another scratch folder",
                folder.display(),
                preflight.scratch_bytes
            ));
        }
        Ok(preflight)
    }

    pub(crate) async fn physical_load(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error> {
        if *selection != Selection::Whole {
            return Err(Error::new(ErrorKind::Unsupported, "a physical backup is restored whole")
                .with("store", self.name())
                .hint("restore it to scratch, and take the tables from there with pg_dump"));
        }
        Box::pin(self.put_back(ctx, dumped, parts, None, target)).await
    }

    pub(crate) async fn physical_recover(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        recovery: &Recovery,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error> {
        Box::pin(self.put_back(ctx, dumped, parts, Some(recovery), target)).await
    }

    async fn put_back(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        recovery: Option<&Recovery>,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error> {
        let detail = Detail::of(dumped)?;
        let LoadTarget::Scratch { folder } = target else {
            return Err(Error::new(ErrorKind::Unsupported, "a physical backup is restored to scratch")
                .with("store", self.name()));
        };
        let programs = programs::to_serve(self.opener.config.bin_dir.as_deref(), detail.major())
            .await
            .map_err(|error| error.with("store", self.name()))?;
        let mut server = ScratchServer::prepare(folder, &detail.superuser)?;
        let put = async {
            let files = write_files(&detail, parts, &server).await?;
            let reached = start(ctx, &mut server, &programs, &detail, recovery).await?;
            Ok((files, reached))
        };
        let put = self.within(ctx, Box::pin(put)).await;
        let (files, reached) = put.map_err(|error| {
            let needed = scratch_bytes(&detail) + recovery.map_or(0, |recovery| folder_bytes(&recovery.logs));
            on_this_disk(error, folder, needed, &server.log())
        })?;
        Ok(Box::new(RestoredServer::new(server, programs, detail, files, reached)))
    }
}

fn scratch_bytes(detail: &Detail) -> u64 {
    detail.disk_bytes / 100 * DISK_PERCENT + SERVER_BYTES
}

fn folder_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum()
}

/// Puts all files together; gives how many the server itself had listed, all of which are as it says.
async fn write_files(
    detail: &Detail,
    parts: &dyn PartSource,
    server: &ScratchServer,
) -> Result<usize, Error> {
    let data = server.data();
    let spaces = server.folder().join("tablespaces");
    let manifest = read_all(parts, SERVER_MANIFEST).await?;
    let listed = ServerManifest::read(&manifest)?;
    let mut work: Vec<(Entry, u64)> = Vec::new();
    let mut part = 0;
    let mut map = String::new();
    for entry in &detail.entries {
        let path = data.join(&entry.path);
        match (&entry.link, entry.bytes) {
            (Some(_), _) => {
                let name = path
                    .file_name()
                    .ok_or_else(|| cannot("a link has no name")(std::io::Error::other("empty")))?;
                let space = spaces.join(name);
                make_folder(&space, 0o700)?;
                std::os::unix::fs::symlink(&space, &path).map_err(cannot("a link to a tablespace"))?;
                writeln!(map, "{} {}", name.display(), space.display())
                    .expect("writing to a string does not fail");
            }
            (None, None) => make_folder(&path, entry.mode.unwrap_or(0o700))?,
            (None, Some(_)) => {
                work.push((entry.clone(), part));
                part += entry.parts;
            }
        }
    }
    let written: Vec<(String, ListedFile)> = futures::stream::iter(work)
        .map(|(entry, first)| {
            let path = data.join(&entry.path);
            async move {
                let file = write_file(parts, &entry, first, path).await?;
                Ok::<_, Error>((entry.path, file))
            }
        })
        .buffer_unordered(FILES_AT_ONCE)
        .try_collect()
        .await?;
    compare(&listed, &written.into_iter().collect())?;
    std::fs::write(data.join(BACKUP_MANIFEST), &manifest).map_err(cannot(BACKUP_MANIFEST))?;
    if !map.is_empty() {
        std::fs::write(data.join(TABLESPACE_MAP), map).map_err(cannot(TABLESPACE_MAP))?;
    }
    Ok(listed.files.len())
}

/// Whether what was written is what the server lists, file by file.
fn compare(listed: &ServerManifest, written: &BTreeMap<String, ListedFile>) -> Result<(), Error> {
    let corrupt = |what: &str, file: &str| {
        Err(Error::new(ErrorKind::Corrupt, format!("the copy is not what the server has listed: {what}"))
            .with("file", file))
    };
    for (path, expected) in &listed.files {
        match written.get(path) {
            None => return corrupt("a file is missing", path),
            Some(found) if found.bytes != expected.bytes => {
                return corrupt("a file has another length", path);
            }
            Some(found) if found.sha256 != expected.sha256 => return corrupt("a file has other bytes", path),
            Some(_) => {}
        }
    }
    // The log is not listed file by file; replaying it is its check.
    match written.keys().find(|path| !listed.files.contains_key(*path) && !path.starts_with("pg_wal/")) {
        Some(path) => corrupt("there is a file that it does not list", path),
        None => Ok(()),
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o750)))
        .map_err(cannot("a folder"))
}

async fn write_file(
    parts: &dyn PartSource,
    entry: &Entry,
    first: u64,
    path: PathBuf,
) -> Result<ListedFile, Error> {
    if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
        make_folder(folder, 0o700)?;
    }
    let options =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(entry.file_mode() & 0o640).clone();
    let file = options.open(&path).map_err(cannot(&entry.path))?;
    let mut state = (file, Hash::new(&SHA256), 0_u64);
    for number in first..first + entry.parts {
        let bytes: Bytes = parts.read(&part_path(number)).await?;
        let name = entry.path.clone();
        state = tokio::task::spawn_blocking(move || {
            let (mut file, mut hash, before) = state;
            file.write_all(&bytes).map_err(cannot(&name))?;
            hash.update(&bytes);
            Ok::<_, Error>((file, hash, before + bytes.len() as u64))
        })
        .await
        .map_err(|_| Error::new(ErrorKind::Canceled, "the runtime is shutting down"))??;
    }
    let (_, hash, bytes) = state;
    Ok(ListedFile { bytes, sha256: hex(hash.finish().as_ref()) })
}

/// A text that may have been cut.
async fn read_all(parts: &dyn PartSource, path: &str) -> Result<Vec<u8>, Error> {
    let pieces: Vec<String> = parts
        .parts()
        .iter()
        .map(|part| part.path.clone())
        .filter(|name| name == path || name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
        .collect();
    if pieces.is_empty() {
        return Err(Error::new(ErrorKind::Corrupt, "the backup lacks a part").with("part", path));
    }
    let mut all = Vec::new();
    for piece in pieces {
        all.extend_from_slice(&parts.read(&piece).await?);
    }
    Ok(all)
}

/// Starts the server; gives where in its history it then stands.
async fn start(
    ctx: &Context,
    server: &mut ScratchServer,
    programs: &Programs,
    detail: &Detail,
    recovery: Option<&Recovery>,
) -> Result<Option<RecoveryPoint>, Error> {
    let data = server.data();
    let own = data.join("postgresql.auto.conf");
    if own.exists() {
        std::fs::rename(&own, data.join(SET_ASIDE)).map_err(cannot("its own settings"))?;
    }
    for signal in ["standby.signal", "recovery.signal"] {
        match std::fs::remove_file(data.join(signal)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(signal)(error)),
            _ => {}
        }
    }
    let mut configuration = CONFIGURATION.to_owned();
    for (name, value) in &detail.settings {
        // The others are wanted only by a copy that answers while it reads the log.
        if ["max_prepared_transactions", "max_locks_per_transaction"].contains(&name.as_str()) {
            writeln!(configuration, "{name} = {value}").expect("writing to a string does not fail");
        }
    }
    let Some(recovery) = recovery else {
        server.launch(ctx, programs, &configuration, &[]).await?;
        return Ok(None);
    };
    std::fs::write(data.join("recovery.signal"), "").map_err(cannot("recovery.signal"))?;
    let logs = std::path::absolute(&recovery.logs).map_err(cannot("the folder of the log"))?;
    let quoted = logs.display().to_string().replace('\'', r"'\''").replace('%', "%%");
    // A file that is there and cannot be copied is no end of the log: above 125 the server gives up.
    let command =
        format!("test -e '{quoted}'/%f || exit 1; cp '{quoted}'/%f \"%p\" || exit 255").replace('\'', "''");
    writeln!(
        configuration,
        "restore_command = '{command}'\nrecovery_target_timeline = '{}'",
        recovery.timeline
    )
    .expect("writing to a string does not fail");
    let whole = configuration.clone();
    configuration.push_str(&target_settings(&recovery.target));
    let mut launched = server.launch(ctx, programs, &configuration, std::slice::from_ref(&logs)).await;
    if let Err(error) = &launched
        && server.log().contains(NOT_REACHED)
    {
        if !recovery.target_is_covered {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the log does not come to `{}`", recovery.target),
            )
            .because(error.to_string()));
        }
        // Nothing in the log is behind the target, so all of it is what was asked for.
        server.pause(ctx).await?;
        server.configure(&whole)?;
        launched = server.again(ctx).await;
    }
    launched?;
    let client = server.connect(ctx, "template1").await?;
    let row = ctx
        .run(async {
            let reached = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text, \
                to_char(pg_catalog.pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
            client.query_one(reached, &[]).await.map_err(|error| crate::error::translate(&error))
        })
        .await?;
    let last: Option<String> = row.get(1);
    let server_at = last.and_then(|text| text.parse().ok());
    Ok(Some(RecoveryPoint {
        at: server_at.unwrap_or_else(|| ctx.now()),
        server_at,
        position: row.get(0),
        timeline: Some(recovery.timeline),
    }))
}

fn target_settings(target: &RecoveryTarget) -> String {
    let setting = match target {
        RecoveryTarget::End => return String::new(),
        RecoveryTarget::Time(time) => {
            format!("recovery_target_time = '{}'\n", time.strftime("%Y-%m-%d %H:%M:%S%.6f+00"))
        }
        // What is behind the position is not wanted, and a record that begins at it is behind it.
        RecoveryTarget::Position(position) => {
            format!("recovery_target_lsn = '{position}'\nrecovery_target_inclusive = off\n")
        }
        RecoveryTarget::Transaction(id) => format!("recovery_target_xid = '{id}'\n"),
        RecoveryTarget::Marker(name) => format!("recovery_target_name = '{name}'\n"),
    };
    format!("{setting}recovery_target_action = promote\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(bytes: u64, sum: &str) -> ListedFile {
        ListedFile { bytes, sha256: sum.to_owned() }
    }

    #[test]
    fn whatever_differs_from_the_servers_list_is_found() {
        let manifest = ServerManifest {
            files: [("base/1".to_owned(), listed(3, "aa")), ("PG_VERSION".to_owned(), listed(3, "bb"))]
                .into(),
            wal: Vec::new(),
        };
        let sound: BTreeMap<String, ListedFile> = [
            ("base/1".to_owned(), listed(3, "aa")),
            ("PG_VERSION".to_owned(), listed(3, "bb")),
            ("pg_wal/000000010000000000000002".to_owned(), listed(16 << 20, "cc")),
        ]
        .into();
        assert!(compare(&manifest, &sound).is_ok());
        let changes: [fn(&mut BTreeMap<String, ListedFile>); 4] = [
            |files| drop(files.remove("base/1")),
            |files| files.get_mut("base/1").unwrap().bytes = 4,
            |files| files.get_mut("base/1").unwrap().sha256 = "ab".into(),
            |files| drop(files.insert("base/2".into(), listed(0, ""))),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut files = sound.clone();
            change(&mut files);
            assert_eq!(compare(&manifest, &files).unwrap_err().kind(), ErrorKind::Corrupt, "{number}");
        }
    }
}
