//! Taking a base backup: the server's own program writes an archive, which becomes parts while it comes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use contract::{
    BackupMethod, Context, DumpOptions, Dumped, Error, ErrorKind, Layout, LogPosition, Part, PartBody,
    PartSink, Preflight, RecoveryPoint, Store, Tool, sha256_hex,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_postgres::Client;

use super::detail::{Detail, Entry, Tablespace, part_path};
use super::manifest::ServerManifest;
use super::tar::{Archive, Kind};
use super::{BACKUP_LABEL, BACKUP_MANIFEST, INDEX, README, RESTORE, SERVER_MANIFEST, TABLESPACE_MAP};
use crate::backup::{Libpq, Programs, programs};
use crate::error::translate;
use crate::session::Session;
use crate::store::{KIND, PostgresStore};

/// Bytes of a part: a whole number of the chunks into which a repository cuts pages, and few enough that some may wait.
const PIECE_BYTES: usize = 32 << 20;
/// The program.
pub(super) const PROGRAM: &str = "pg_basebackup";
/// The oldest server that lists the files of its backups.
const VERSION_MIN: i32 = 130_000;
/// Most of what the program says that is kept for an error.
const SAID_BYTES_MAX: u64 = 16 << 10;
/// Longest label of the server's that is read back, far above what it writes.
const LABEL_BYTES_MAX: u64 = 64 << 10;
/// Longest list of files.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;
/// What of the server's data directory no backup holds, in words.
const NEVER_THERE: &str = "the rows of unlogged tables";

/// What the server says of itself before a backup.
pub(super) struct Source {
    may_stream: bool,
    wal_level: String,
    senders: (i32, i64),
    slots: (i32, i64),
    pub(super) wal_file_bytes: u64,
    page_checksums: bool,
    full_page_writes: bool,
    pub(super) standby: bool,
    superuser: Option<String>,
    database: String,
    settings: Vec<(String, String)>,
    tablespaces: Vec<u32>,
    outside: Vec<String>,
    slot_names: Vec<String>,
}

impl Source {
    pub(super) async fn ask(client: &Client) -> Result<Self, Error> {
        let row = client.query_one(include_str!("../sql/physical_source.sql"), &[]).await;
        let row = row.map_err(|error| translate(&error))?;
        let texts = |column: &str| row.get::<_, Vec<String>>(column);
        Ok(Self {
            may_stream: row.get("may_stream"),
            wal_level: row.get("wal_level"),
            senders: (row.get("senders_max"), row.get("senders")),
            slots: (row.get("slots_max"), row.get("slots")),
            wal_file_bytes: u64::try_from(row.get::<_, i64>("wal_file_bytes")).unwrap_or(16 << 20),
            page_checksums: row.get("page_checksums"),
            full_page_writes: row.get("full_page_writes"),
            standby: row.get("standby"),
            superuser: row.get("superuser"),
            database: row.get("database"),
            settings: texts("settings")
                .iter()
                .filter_map(|setting| setting.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            tablespaces: texts("tablespaces").iter().filter_map(|oid| oid.parse().ok()).collect(),
            outside: texts("outside"),
            slot_names: texts("slot_names"),
        })
    }

    /// What stands in the way of streaming anything from it.
    pub(super) fn refusals(&self, user: &str) -> Vec<String> {
        let mut refusals = Vec::new();
        if !self.may_stream {
            refusals.push(format!(
                "the login `{user}` may not stream: configure `admin` for this store, or let an administrator run `ALTER ROLE … REPLICATION`"
            ));
        }
        if self.wal_level == "minimal" {
            refusals.push(
                "the server's `wal_level` is `minimal`: set it to `replica` and restart the server"
                    .to_owned(),
            );
        }
        let (most, now) = self.senders;
        if i64::from(most) <= now {
            refusals.push(format!(
                "all {most} of the server's `max_wal_senders` are in use: raise it and restart the server"
            ));
        }
        refusals
    }

    pub(super) fn has_room_for_a_slot(&self) -> bool {
        self.slots.1 < i64::from(self.slots.0)
    }

    fn left_out(&self) -> Vec<String> {
        let mut left_out = vec![NEVER_THERE.to_owned()];
        left_out.extend(
            self.outside
                .iter()
                .map(|file| format!("`{file}`, which lies outside of the server's data directory")),
        );
        if !self.slot_names.is_empty() {
            left_out.push(format!(
                "the replication slots {}: who follows this server has to begin again",
                self.slot_names.join(", ")
            ));
        }
        left_out
    }
}

/// What the server answers to the first question of everyone who streams.
pub(super) struct System {
    pub(super) id: String,
    pub(super) timeline: u32,
}

/// Asks the server who it is, over a connection of the kind that streams. Finds out whether it lets us.
pub(super) async fn identify(ctx: &Context, programs: &Programs, libpq: &Libpq) -> Result<System, Error> {
    let arguments = ["-X", "-A", "-t", "-w", "-c", "IDENTIFY_SYSTEM", "-d", "replication=true"];
    let ran = ctx.run(programs::run(programs, "psql", &arguments, libpq, None)).await?;
    if !ran.succeeded {
        let kind = if ran.said.contains("pg_hba.conf") || ran.said.contains("ermission denied") {
            ErrorKind::Denied
        } else {
            ErrorKind::Unavailable
        };
        let error = ran.error(kind, "psql");
        return Err(if kind == ErrorKind::Denied {
            Error::new(kind, "the server does not let this login stream").because(error).hint(
                "add a line `host replication USER ADDRESS scram-sha-256` to its pg_hba.conf and reload it",
            )
        } else {
            error
        });
    }
    let printed = String::from_utf8_lossy(&ran.printed).into_owned();
    let mut fields = printed.trim().split('|');
    let (id, timeline) = (fields.next().unwrap_or_default(), fields.next().and_then(|it| it.parse().ok()));
    match timeline {
        Some(timeline) if !id.is_empty() => Ok(System { id: id.to_owned(), timeline }),
        _ => {
            Err(Error::new(ErrorKind::Unavailable, "the server does not say who it is").with("said", printed))
        }
    }
}

/// The history of a timeline, as the server has it.
pub(super) async fn history(
    ctx: &Context,
    programs: &Programs,
    libpq: &Libpq,
    timeline: u32,
) -> Result<String, Error> {
    let ask = format!("TIMELINE_HISTORY {timeline}");
    let arguments = ["-X", "-A", "-t", "-w", "-c", &ask, "-d", "replication=true"];
    let ran = ctx.run(programs::run(programs, "psql", &arguments, libpq, None)).await?;
    if !ran.succeeded {
        return Err(ran.error(ErrorKind::Unavailable, "psql"));
    }
    // The name of the file is before it.
    let printed = String::from_utf8_lossy(&ran.printed).into_owned();
    Ok(printed.split_once('|').map(|(_, history)| history.to_owned()).unwrap_or_default())
}

fn hinted(error: &Error) -> String {
    let mut text = error.message().to_owned();
    for cause in error.causes() {
        write!(text, " ({cause})").expect("writing to a string does not fail");
    }
    match error.hint_text() {
        Some(hint) => format!("{text}: {hint}"),
        None => text,
    }
}

impl PostgresStore {
    /// The programs to stream from this server with.
    pub(super) async fn streaming_programs(
        &self,
        session: &Session,
        program: &str,
    ) -> Result<Programs, Error> {
        let major = u32::try_from(session.rights.version_num / 10_000).unwrap_or(0);
        let bin_dir = self.opener.config.bin_dir.as_deref();
        programs::to_stream(bin_dir, program, major, &session.rights.version).await
    }

    pub(crate) async fn physical_preflight(
        &self,
        ctx: &Context,
        options: &DumpOptions,
    ) -> Result<Preflight, Error> {
        let session = self.dumping_session(ctx).await?;
        let mut preflight = Preflight::default();
        let source = self.within(ctx, Source::ask(&session.client)).await?;
        preflight.refusals = source.refusals(&session.rights.login.user);
        if session.rights.version_num < VERSION_MIN {
            preflight
                .refusals
                .push("the server is older than PostgreSQL 13: take the method `logical`".into());
        }
        match self.streaming_programs(&session, PROGRAM).await {
            Ok(programs) => {
                preflight.tools.push(programs.tool(PROGRAM, &[]));
                if preflight.refusals.is_empty() {
                    let libpq = self.opener.libpq(ctx, self.dumping(), programs.major).await?;
                    if let Err(error) = identify(ctx, &programs, &libpq).await {
                        if error.kind() != ErrorKind::Denied {
                            return Err(error.with("store", self.name()));
                        }
                        preflight.refusals.push(hinted(&error));
                    }
                }
            }
            Err(error) => preflight.refusals.push(hinted(&error)),
        }
        if source.standby && !source.full_page_writes {
            preflight.refusals.push(
                "a standby gives no base backup with `full_page_writes` off: switch it on at its primary"
                    .into(),
            );
        }
        preflight.bytes_expected = self.cluster_bytes(ctx, &session).await;
        if !source.tablespaces.is_empty() {
            // The program gives several archives only as files.
            preflight.scratch_bytes = preflight.bytes_expected.unwrap_or(0) / 10 * 11;
            if let Some(free) = free_bytes(&options.scratch)
                && free < preflight.scratch_bytes
            {
                preflight.refusals.push(format!(
                    "a server with tablespaces is copied to `{}` first, which has {free} bytes free and needs about {}",
                    options.scratch.display(),
                    preflight.scratch_bytes
                ));
            }
        }
        preflight.notes =
            source.left_out().into_iter().skip(1).map(|it| format!("not in the backup: {it}")).collect();
        if !source.page_checksums {
            preflight.notes.push(
                "the server's pages carry no checksums, so damage on its disk is backed up unseen: `pg_checksums --enable` adds them while it is stopped".into(),
            );
        }
        Ok(preflight)
    }

    /// Bytes of all databases, if the login may know.
    async fn cluster_bytes(&self, ctx: &Context, session: &Session) -> Option<u64> {
        let size = "SELECT sum(pg_catalog.pg_tablespace_size(oid))::bigint FROM pg_catalog.pg_tablespace";
        let asked = self.within(ctx, async {
            session.client.query_one(size, &[]).await.map_err(|error| translate(&error))
        });
        u64::try_from(asked.await.ok()?.get::<_, i64>(0)).ok()
    }

    pub(crate) async fn physical_dump(
        &self,
        ctx: &Context,
        options: &DumpOptions,
        sink: &dyn PartSink,
    ) -> Result<Dumped, Error> {
        let session = self.dumping_session(ctx).await?;
        let programs = self
            .streaming_programs(&session, PROGRAM)
            .await
            .map_err(|error| error.with("store", self.name()))?;
        let source = self.within(ctx, Source::ask(&session.client)).await?;
        if let Some(refusal) = source.refusals(&session.rights.login.user).into_iter().next() {
            return Err(Error::new(ErrorKind::Denied, refusal).with("store", self.name()));
        }
        let libpq = self.opener.libpq(ctx, self.dumping(), programs.major).await?;
        let before =
            identify(ctx, &programs, &libpq).await.map_err(|error| error.with("store", self.name()))?;
        // Keeps the log that the backup will want at its end; gone with the session, however that ends.
        let slot = format!("steward_base_{}", uuid::Uuid::new_v4().simple());
        if source.has_room_for_a_slot() {
            let statement =
                "SELECT pg_catalog.pg_create_physical_replication_slot($1::text::name, true, true)";
            let made = self.within(ctx, async {
                session.client.execute(statement, &[&slot]).await.map_err(|error| translate(&error))
            });
            if let Err(error) = made.await {
                tracing::warn!(store = self.name(), %error, "the backup runs without a slot that keeps the log");
            }
        }
        let identity = self.within(ctx, crate::store::identity(&session)).await?;
        let run = Box::pin(self.base(options, sink, &programs, &libpq, &source));
        let taken = self.within(ctx, run).await?;
        let after =
            identify(ctx, &programs, &libpq).await.map_err(|error| error.with("store", self.name()))?;
        if before.id != after.id || before.timeline != after.timeline || taken.timeline != after.timeline {
            return Err(Error::new(ErrorKind::Unavailable, "the source became another during the backup")
                .with("address", self.opener.address_for(self.dumping()))
                .with("timeline", format!("{} before, {} after", before.timeline, after.timeline)));
        }
        let at = self.within(ctx, async {
            let now = "SELECT to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
            session.client.query_one(now, &[]).await.map_err(|error| translate(&error))
        });
        let server_at: String = at.await?.get(0);
        let detail = Detail {
            system_id: before.id,
            version_num: session.rights.version_num,
            timeline: taken.timeline,
            start: taken.start,
            stop: taken.stop,
            wal_file_bytes: source.wal_file_bytes,
            standby: source.standby,
            page_checksums: source.page_checksums,
            superuser: source.superuser.clone().unwrap_or_else(|| "postgres".to_owned()),
            database: source.database.clone(),
            settings: source.settings.clone(),
            tablespaces: taken.tablespaces,
            disk_bytes: taken.entries.iter().filter_map(|entry| entry.bytes).sum(),
            entries: taken.entries,
        };
        Ok(Dumped {
            kind: KIND.to_owned(),
            version: session.rights.version.clone(),
            identity,
            address: self.opener.address_for(self.dumping()).to_string(),
            method: BackupMethod::Physical,
            layout: Layout::Pages,
            point: RecoveryPoint {
                at: ctx.now(),
                server_at: server_at.parse().ok(),
                position: Some(taken.stop.to_string()),
                timeline: Some(taken.timeline),
            },
            tables: Vec::new(),
            schema_sha256: sha256_hex(b""),
            needs: vec![format!("a PostgreSQL {} server on the same kind of processor", detail.major())],
            left_out: source.left_out(),
            tools: taken.tools,
            detail: serde_json::to_value(detail).map_err(|error| {
                Error::new(ErrorKind::Other, "the manifest cannot be written").because(error)
            })?,
        })
    }

    async fn base(
        &self,
        options: &DumpOptions,
        sink: &dyn PartSink,
        programs: &Programs,
        libpq: &Libpq,
        source: &Source,
    ) -> Result<Taken, Error> {
        let piped = source.tablespaces.is_empty();
        let folder = options.scratch.join("base");
        let target = if piped { "-".to_owned() } else { folder.display().to_string() };
        let arguments = [
            "-D",
            &target,
            "--format=tar",
            "--wal-method=fetch",
            "--checkpoint=fast",
            "--manifest-checksums=SHA256",
            "--label=steward",
            "--no-password",
            "--no-sync",
        ];
        let mut command = programs.command(PROGRAM, libpq);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("`{PROGRAM}` cannot be run")).because(error)
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(Error::new(ErrorKind::Other, "a program was started without its pipes"));
        };
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            let mut stderr = stderr;
            let mut head = (&mut stderr).take(SAID_BYTES_MAX);
            head.read_to_end(&mut said).await.ok();
            // What is beyond is read all the same: a program whose pipe is full stands still.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.ok();
            String::from_utf8_lossy(&said).trim().to_owned()
        });
        let mut writing = Writing {
            sink,
            entries: Vec::new(),
            parts: 0,
            label: None,
            manifest: None,
            map: BTreeMap::new(),
            members: BTreeMap::new(),
        };
        writing.put(README, readme(source).into_bytes()).await?;
        let read = if piped {
            writing.archive("", stdout).await
        } else {
            let mut nothing = stdout;
            tokio::io::copy(&mut nothing, &mut tokio::io::sink()).await.map(|_| ()).map_err(|error| {
                Error::new(ErrorKind::Unavailable, format!("`{PROGRAM}` cannot be waited for")).because(error)
            })
        };
        // One that cannot go on because we take nothing more would wait for ever.
        if read.is_err() {
            child.start_kill().ok();
        }
        let status = child.wait().await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("`{PROGRAM}` cannot be waited for")).because(error)
        })?;
        let said = said.await.unwrap_or_default();
        match read {
            // That the archive is cut short is the consequence; the program says why.
            Err(error) if error.kind() == ErrorKind::Unavailable && !said.is_empty() => {
                return Err(refused(&said, &status.to_string()));
            }
            Err(error) => return Err(error),
            Ok(()) if !status.success() => return Err(refused(&said, &status.to_string())),
            Ok(()) => {}
        }
        if !piped {
            writing.folder(&folder).await?;
        }
        let tools = vec![programs.tool(PROGRAM, &arguments)];
        writing.finish(tools).await
    }
}

fn refused(said: &str, status: &str) -> Error {
    let kind = if said.contains("pg_hba.conf")
        || said.contains("ermission denied")
        || said.contains("must be superuser")
    {
        ErrorKind::Denied
    } else if said.contains("No space left") {
        ErrorKind::LimitExceeded
    } else if said.contains("checksum error") || said.contains("checksum verification failed") {
        ErrorKind::Corrupt
    } else {
        ErrorKind::Unavailable
    };
    let error =
        Error::new(kind, format!("`{PROGRAM}` failed")).with("status", status).because(said.to_owned());
    match kind {
        ErrorKind::Corrupt => error.hint(
            "pages on the server's own disk are damaged: `steward store consistency` says where; restore an older backup",
        ),
        _ => error,
    }
}

/// Bytes that are free where this folder is or will be.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

struct Taken {
    entries: Vec<Entry>,
    tablespaces: Vec<Tablespace>,
    start: LogPosition,
    stop: LogPosition,
    timeline: u32,
    tools: Vec<Tool>,
}

/// The parts as they are made.
struct Writing<'a> {
    sink: &'a dyn PartSink,
    entries: Vec<Entry>,
    parts: u64,
    label: Option<String>,
    manifest: Option<Vec<u8>>,
    /// Where the tablespaces were, by their numbers.
    map: BTreeMap<String, String>,
    /// Lengths of the files by their paths.
    members: BTreeMap<String, u64>,
}

impl Writing<'_> {
    async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let mut pieces = bytes;
        if pieces.len() <= PIECE_BYTES {
            return self.sink.put(Part { path: path.to_owned(), body: PartBody::Bytes(pieces.into()) }).await;
        }
        // Only lists of very many files are as long.
        let mut number = 0;
        while !pieces.is_empty() {
            let rest = pieces.split_off(pieces.len().min(PIECE_BYTES));
            let body = PartBody::Bytes(std::mem::replace(&mut pieces, rest).into());
            self.sink.put(Part { path: format!("{path}.{number:03}"), body }).await?;
            number += 1;
        }
        Ok(())
    }

    /// The archives of a server with tablespaces.
    async fn folder(&mut self, folder: &Path) -> Result<(), Error> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "the copied archives cannot be read").because(error)
        };
        let mut names: Vec<String> = Vec::new();
        let mut listed = tokio::fs::read_dir(folder).await.map_err(failed)?;
        while let Some(entry) = listed.next_entry().await.map_err(failed)? {
            names.extend(entry.file_name().into_string());
        }
        // The base first: it has the links below which the others belong.
        names.sort_by_key(|name| (name != "base.tar", name.clone()));
        for name in &names {
            let below = match name.strip_suffix(".tar") {
                Some("base") => String::new(),
                Some(oid) => format!("pg_tblspc/{oid}/"),
                None => continue,
            };
            let file = tokio::fs::File::open(folder.join(name)).await.map_err(failed)?;
            if let Some(link) = below.strip_suffix('/') {
                // Since PostgreSQL 15 the base has a folder there, and only the map says where it leads.
                self.entries.retain(|entry| entry.path != link);
                let location = link.rsplit('/').next().and_then(|oid| self.map.get(oid)).cloned();
                self.entries.push(Entry::link(link.to_owned(), location.unwrap_or_default()));
            }
            self.archive(&below, tokio::io::BufReader::with_capacity(1 << 20, file)).await?;
            // Room for whoever else needs it.
            tokio::fs::remove_file(folder.join(name)).await.map_err(failed)?;
        }
        if names.iter().any(|name| name == BACKUP_MANIFEST) {
            self.manifest = Some(tokio::fs::read(folder.join(BACKUP_MANIFEST)).await.map_err(failed)?);
        }
        Ok(())
    }

    async fn archive(&mut self, below: &str, input: impl AsyncRead + Unpin) -> Result<(), Error> {
        let mut archive = Archive::new(input);
        while let Some(member) = archive.next().await? {
            if member.path.is_empty() {
                continue;
            }
            let path = format!("{below}{}", member.path);
            match member.kind {
                Kind::Folder => self.entries.push(Entry::folder(path, member.mode)),
                Kind::Link(target) => self.entries.push(Entry::link(path, target)),
                Kind::File if path == BACKUP_MANIFEST => {
                    self.manifest = Some(whole(&mut archive, member.bytes, MANIFEST_BYTES_MAX).await?);
                }
                Kind::File => {
                    let mut parts = 0;
                    loop {
                        let bytes = archive.read(PIECE_BYTES).await?;
                        if bytes.is_empty() {
                            break;
                        }
                        if member.bytes < LABEL_BYTES_MAX {
                            let text = || String::from_utf8_lossy(&bytes).into_owned();
                            match path.as_str() {
                                BACKUP_LABEL => self.label = Some(text()),
                                TABLESPACE_MAP => {
                                    self.map = text()
                                        .lines()
                                        .filter_map(|line| line.split_once(' '))
                                        .map(|(oid, location)| (oid.to_owned(), location.to_owned()))
                                        .collect();
                                }
                                _ => {}
                            }
                        }
                        let part = Part { path: part_path(self.parts), body: PartBody::Bytes(bytes.into()) };
                        self.sink.put(part).await?;
                        self.parts += 1;
                        parts += 1;
                    }
                    self.members.insert(path.clone(), member.bytes);
                    self.entries.push(Entry::file(path, member.mode, member.bytes, parts));
                }
            }
        }
        Ok(())
    }

    /// Compares what came with the server's own list, and writes what follows the files.
    async fn finish(self, tools: Vec<Tool>) -> Result<Taken, Error> {
        let missing = |what: &str| {
            Error::new(ErrorKind::Unavailable, format!("the base backup has no {what}"))
                .hint("the server may be too old for this method; take `logical`")
        };
        let manifest = self.manifest.as_deref().ok_or_else(|| missing("list of its files"))?;
        let listed = ServerManifest::read(manifest)?;
        for (path, file) in &listed.files {
            if self.members.get(path) != Some(&file.bytes) {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "a file of the base backup did not come as the server lists it",
                )
                .with("file", path)
                .with("bytes", self.members.get(path).copied().unwrap_or_default())
                .with("listed", file.bytes));
            }
        }
        let label = self.label.as_deref().ok_or_else(|| missing("label"))?;
        let said = |key: &str| label.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let start = said("START WAL LOCATION:").and_then(|text| text.split_whitespace().next()?.parse().ok());
        let start: LogPosition = start.ok_or_else(|| missing("position at which it begins"))?;
        let range = listed
            .wal
            .iter()
            .max_by_key(|range| (range.timeline, range.end))
            .ok_or_else(|| missing("log"))?;
        let tablespaces = self.entries.iter().filter_map(|entry| {
            let oid = entry.path.strip_prefix("pg_tblspc/")?.parse().ok()?;
            Some(Tablespace { oid, location: entry.link.clone()? })
        });
        let taken = Taken {
            tablespaces: tablespaces.collect(),
            start,
            stop: range.end,
            timeline: range.timeline,
            tools,
            entries: Vec::new(),
        };
        self.put(INDEX, index(&self.entries).into_bytes()).await?;
        self.put(SERVER_MANIFEST, manifest.to_vec()).await?;
        self.put(RESTORE, include_bytes!("restore.sh").to_vec()).await?;
        Ok(Taken { entries: self.entries, ..taken })
    }
}

async fn whole<R: AsyncRead + Unpin>(
    archive: &mut Archive<R>,
    bytes: u64,
    most: u64,
) -> Result<Vec<u8>, Error> {
    if bytes > most {
        return Err(Error::new(ErrorKind::Unavailable, "the server's list of files is longer than expected")
            .with("bytes", bytes));
    }
    let mut all = Vec::new();
    loop {
        let mut more = archive.read(PIECE_BYTES).await?;
        if more.is_empty() {
            return Ok(all);
        }
        all.append(&mut more);
    }
}

/// For `restore.sh`: what each entry is, its mode, its path, and its first part and how many, or where it leads.
fn index(entries: &[Entry]) -> String {
    let (mut text, mut part) = (String::new(), 0);
    for entry in entries {
        let line = match (&entry.link, entry.bytes) {
            (Some(target), _) => writeln!(text, "l\t777\t{}\t{target}\t0", entry.path),
            (None, None) => writeln!(text, "d\t{:o}\t{}\t0\t0", entry.mode.unwrap_or(0o700), entry.path),
            (None, Some(_)) => {
                writeln!(text, "f\t{:o}\t{}\t{part}\t{}", entry.file_mode(), entry.path, entry.parts)
            }
        };
        line.expect("writing to a string does not fail");
        part += entry.parts;
    }
    text
}

fn readme(source: &Source) -> String {
    format!(
        "The files of a whole PostgreSQL server, with which the database `{}` was backed up.\n\n\
         restic restore SNAPSHOT --target FOLDER brings all of this back. Then, with nothing but a shell:\n\n    \
         sh restore.sh NEW_DATA_DIRECTORY\n\n\
         puts the files together: `{INDEX}` says which parts are which file. `{SERVER_MANIFEST}` is the server's own list\n\
         with the SHA-256 of each file; restore.sh leaves it in the data directory, where `pg_verifybackup` looks for it.\n\
         The server that starts on the data directory must be of the same major version.\n",
        source.database
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_counts_parts() {
        let entries = [
            Entry::folder("base".into(), 0o700),
            Entry::file("base/1".into(), 0o600, 5, 1),
            Entry::file("base/empty".into(), 0o600, 0, 0),
            Entry::file("base/large".into(), 0o640, 70 << 20, 3),
            Entry::link("pg_tblspc/16384".into(), "/mnt/fast".into()),
            Entry::file("last".into(), 0o600, 1, 1),
        ];
        let expected = "d\t700\tbase\t0\t0\nf\t600\tbase/1\t0\t1\nf\t600\tbase/empty\t1\t0\nf\t640\tbase/large\t1\t3\n\
                        l\t777\tpg_tblspc/16384\t/mnt/fast\t0\nf\t600\tlast\t4\t1\n";
        assert_eq!(index(&entries), expected);
    }
}
