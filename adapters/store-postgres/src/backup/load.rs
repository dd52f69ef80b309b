//! Putting a database back: definitions by `psql`, rows by `COPY` over several sessions.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    BackupMethod, Context, Dumped, Error, ErrorKind, Load, LoadTarget, LogStart, PART_BYTES_MAX, PartRecord,
    PartSource, Preflight, Recovery, Restored, Selection, Store, SwapLeft,
};
use futures::SinkExt;
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio_postgres::Client;

use super::after_rows::AfterRows;
use super::contents::Table;
use super::dump::Detail;
use super::place::Place;
use super::programs::{self, Libpq, Programs};
use super::progress::{self, Progress};
use super::restored::RestoredDatabase;
use super::scratch_server::{ScratchServer, on_this_disk};
use super::{AFTER_ROWS, BEFORE_ROWS, LARGE_OBJECTS, ROLES, ROWS, SEQUENCES, schema_text};
use crate::error::translate;
use crate::session::Purpose;
use crate::statement::{quote_identifier, quote_literal};
use crate::store::PostgresStore;

/// Most sessions that load at once.
const SESSIONS_MAX: usize = 4;
/// A table of fewer bytes is not worth a new file.
const WHOLE_BYTES_MIN: u64 = 1 << 20;
/// Bytes of rows that are sent at once.
const SENT_BYTES: usize = 128 << 10;
/// A restored database needs about as much disk as its source, and room to build indexes.
const DISK_PERCENT: u64 = 130;
/// So long the server may take to notice that the process of another restore is gone, and how often it is asked.
const LET_GO: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Disk that a server needs for itself.
pub(crate) const SERVER_BYTES: u64 = 256 << 20;
/// Settings of `psql` and of sessions that load.
const LOADING_SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET xmloption = 'content'; SET row_security = off; \
     SET check_function_bodies = off; SET standard_conforming_strings = on; SET search_path = ''; SET synchronous_commit = off";
/// `SET` of this setting, which programs since 17 print, is an error to older servers.
const TRANSACTION_TIMEOUT: &str = "SET transaction_timeout = 0;\n";

/// The Debian package of an extension that does not come with the server, behind `postgresql-17-`.
const PACKAGES: [(&str, &str); 8] = [
    ("postgis", "postgis-3"),
    ("vector", "pgvector"),
    ("pg_cron", "cron"),
    ("pg_partman", "partman"),
    ("hypopg", "hypopg"),
    ("pg_repack", "repack"),
    ("pgaudit", "pgaudit"),
    ("rum", "rum"),
];

#[async_trait]
impl Load for PostgresStore {
    async fn preflight(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        target: &LoadTarget,
    ) -> Result<Preflight, Error> {
        if dumped.method == BackupMethod::Physical {
            return self.physical_load_preflight(dumped, target).await;
        }
        let mut preflight = Preflight::default();
        let detail = match Detail::of(dumped) {
            Ok(detail) => detail,
            Err(error) => {
                preflight.refusals.push(error.message().to_owned());
                return Ok(preflight);
            }
        };
        preflight.bytes_expected = Some(dumped.tables.iter().map(|table| table.bytes).sum());
        let bin_dir = self.opener.config.bin_dir.as_deref();
        let mut refuse = |error: &Error| {
            let hint = error.hint_text().map(|hint| format!(": {hint}")).unwrap_or_default();
            preflight.refusals.push(format!("{}{hint}", error.message()));
        };
        match target {
            LoadTarget::Scratch { folder } => {
                let needed = scratch_bytes(&detail);
                preflight.scratch_bytes = needed;
                match programs::to_serve(bin_dir, detail.major()).await {
                    Err(error) => refuse(&error),
                    Ok(programs) => {
                        for (name, package) in missing_extensions(ctx, &programs, dumped).await {
                            preflight.refusals.push(format!(
                                "the extension `{name}` is not installed here: install {package}"
                            ));
                        }
                        for library in preload(ctx, &programs, &detail).await.1 {
                            let package = package_of(&library, detail.major());
                            let what = format!(
                                "the source loads the library `{library}` at its start, which is not installed here: install {package}"
                            );
                            // What the database itself needs cannot be loaded without it.
                            let needed = |need: &String| extension_of(need) == Some(library.as_str());
                            if dumped.needs.iter().any(needed) {
                                preflight.refusals.push(what);
                            } else {
                                preflight.warnings.push(what);
                            }
                        }
                        preflight.tools.push(programs.tool("postgres", &[]));
                    }
                }
                let there = folder.ancestors().find(|folder| folder.is_dir());
                if let Some(there) = there {
                    let disk = rustix::fs::statvfs(there).map_err(|error| {
                        Error::new(ErrorKind::Unavailable, "the disk cannot be asked how much is free")
                            .because(error)
                    })?;
                    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
                    if free < needed {
                        preflight.refusals.push(format!(
                            "`{}` has {free} bytes free and needs about {needed}: make room, or name another scratch folder",
                            there.display()
                        ));
                    }
                }
            }
            LoadTarget::Beside { name } => match self.beside_preflight(ctx, dumped, &detail, name).await {
                Ok(more) => preflight.refusals.extend(more),
                Err(error) if error.kind() == ErrorKind::Denied => refuse(&error),
                Err(error) => return Err(error),
            },
        }
        match programs::to_dump(bin_dir, detail.major(), &dumped.version).await {
            Ok(programs) => preflight.tools.push(programs.tool("psql", &[])),
            Err(error) => preflight.refusals.push(error.message().to_owned()),
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
        if dumped.method == BackupMethod::Physical {
            return Box::pin(self.physical_load(ctx, dumped, parts, selection, target)).await;
        }
        let detail = Detail::of(dumped)?;
        let selected = select(&detail, selection)?;
        let bin_dir = self.opener.config.bin_dir.as_deref();
        let about = |error: Error| error.with("store", self.name());
        let client_programs =
            programs::to_dump(bin_dir, detail.major(), &dumped.version).await.map_err(about)?;
        let (place, name) = match target {
            LoadTarget::Scratch { folder } => {
                let programs = programs::to_serve(bin_dir, detail.major()).await.map_err(about)?;
                if let Some((name, package)) =
                    missing_extensions(ctx, &programs, dumped).await.into_iter().next()
                {
                    return Err(missing_extension(&name, &package));
                }
                let (preload, _) = preload(ctx, &programs, &detail).await;
                let server = ScratchServer::start(ctx, &programs, folder, &detail.bootstrap, &preload)
                    .await
                    .map_err(|error| about(on_this_disk(error, folder, scratch_bytes(&detail), "")))?;
                (Place::scratch(server, &detail.database), detail.database.clone())
            }
            LoadTarget::Beside { name } => {
                if let Some(why) = self.beside_preflight(ctx, dumped, &detail, name).await?.into_iter().next()
                {
                    let kind =
                        if why.contains("exists") { ErrorKind::Conflict } else { ErrorKind::Unsupported };
                    return Err(about(Error::new(kind, why)));
                }
                (
                    Place::beside(
                        self.opener.of_database(&self.opener.address_for(Purpose::Administer).database),
                        name,
                    ),
                    name.clone(),
                )
            }
        };
        let run = Run {
            ctx,
            detail: &detail,
            parts,
            selection,
            selected: &selected,
            needs: &dumped.needs,
            programs: &client_programs,
            place: &place,
        };
        let loaded = self.within(ctx, Box::pin(run.all())).await;
        let mut place = place;
        let finished = match loaded {
            Ok(()) => self.within(ctx, place.finish(ctx, &name)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = finished {
            let error = place.on_its_disk(error, scratch_bytes(&detail));
            if let Err(left) = place.remove().await {
                tracing::warn!(error = %left, "a database that was not loaded to its end could not be removed");
            }
            return Err(error);
        }
        let selected = selected.into_iter().cloned().collect();
        Ok(Box::new(RestoredDatabase::new(place, detail, selection.clone(), selected, client_programs)))
    }

    fn log_start(&self, dumped: &Dumped) -> Option<LogStart> {
        crate::physical::log_start(dumped)
    }

    async fn recover(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        recovery: &Recovery,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error> {
        Box::pin(self.physical_recover(ctx, dumped, parts, recovery, target)).await
    }

    fn can_end_sessions(&self) -> bool {
        true
    }

    async fn swap(
        &self,
        ctx: &Context,
        restored: &dyn Restored,
        end_sessions: bool,
    ) -> Result<String, Error> {
        let address = restored.address();
        let url = url::Url::parse(&address)
            .map_err(|error| Error::new(ErrorKind::Invalid, "the copy has no address").because(error))?;
        let beside = crate::config::Config::new(&address, self.opener.config.reader.clone()).address();
        let live = self.opener.address_for(Purpose::Administer).clone();
        let Some(copy) = beside
            .ok()
            .filter(|beside| url.query().is_none() && beside.host == live.host && beside.port == live.port)
        else {
            return Err(self.unsupported(
                "a swap",
                "the copy is in a server of its own",
                "restore beside the store's own database, then swap",
            ));
        };
        self.exchange(ctx, &live.database, &copy.database, end_sessions).await
    }

    async fn settle_swap(&self, ctx: &Context, copy: &str, since: Timestamp) -> Result<SwapLeft, Error> {
        self.settle(ctx, copy, since).await
    }
}

impl PostgresStore {
    /// What stands in the way of a database of this name beside the store's own.
    async fn beside_preflight(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        detail: &Detail,
        name: &str,
    ) -> Result<Vec<String>, Error> {
        let session = self.within(ctx, self.opener.open(ctx, Purpose::Administer)).await?;
        self.refuse_shared(&session)?;
        self.within(ctx, async {
            let failed = |error: tokio_postgres::Error| translate(&error);
            let mut refusals = Vec::new();
            if name.is_empty() || name.len() > 63 || name.contains(['\0', '/']) {
                refusals.push(format!("`{name}` cannot be the name of a database: give 1 to 63 bytes without a slash"));
            }
            let row = session
                .client
                .query_one(
                    "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1), \
                       (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), \
                       ARRAY(SELECT name::text FROM pg_catalog.pg_available_extensions), \
                       ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles)",
                    &[&name],
                )
                .await
                .map_err(failed)?;
            if row.get(0) {
                refusals.push(format!("the database `{name}` exists, and nothing is overwritten: give a name that is free"));
            }
            if !row.get::<_, bool>(1) {
                refusals.push(format!(
                    "the login `{}` is no superuser and cannot make what belongs to others: configure `admin` for this store",
                    session.rights.login.user
                ));
            }
            let server = u32::try_from(session.rights.version_num / 10_000).unwrap_or(0);
            if server < detail.major() {
                refusals.push(format!(
                    "the server is PostgreSQL {server} and the backup of {}: restore into a newer server",
                    detail.major()
                ));
            }
            let (available, roles): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
            for need in &dumped.needs {
                if let Some(role) = need.strip_prefix("role ")
                    && !roles.iter().any(|known| known == role)
                {
                    refusals.push(format!("the role `{role}` is missing: the part `{ROLES}` of the backup makes it"));
                }
                if let Some(extension) = extension_of(need)
                    && !available.iter().any(|known| known == extension)
                {
                    refusals.push(format!(
                        "the extension `{extension}` is not installed on the server: install {}",
                        package_of(extension, server)
                    ));
                }
            }
            Ok(refusals)
        })
        .await
    }
}

/// Bytes of disk that a scratch server with the backup needs.
fn scratch_bytes(detail: &Detail) -> u64 {
    detail.disk_bytes / 100 * DISK_PERCENT + SERVER_BYTES
}

/// `extension citext 1.6` is about `citext`.
fn extension_of(need: &str) -> Option<&str> {
    need.strip_prefix("extension ").map(|rest| rest.rsplit_once(' ').map_or(rest, |(name, _)| name))
}

fn package_of(extension: &str, major: u32) -> String {
    PACKAGES.iter().find(|(name, _)| *name == extension).map_or_else(
        || "the package that has it".to_owned(),
        |(_, package)| format!("`postgresql-{major}-{package}`"),
    )
}

fn missing_extension(name: &str, package: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the extension `{name}` is not installed here"))
        .with("extension", name)
        .hint(format!("install {package}, or restore on a machine that has it"))
}

/// Extensions that the backup needs and these programs do not have, each with its package.
async fn missing_extensions(ctx: &Context, programs: &Programs, dumped: &Dumped) -> Vec<(String, String)> {
    let needed: Vec<&str> = dumped.needs.iter().filter_map(|need| extension_of(need)).collect();
    if needed.is_empty() {
        return Vec::new();
    }
    let nowhere = Libpq::default();
    let asked = programs::run(programs, "pg_config", &["--sharedir"], &nowhere, None);
    let folder = match ctx.run(asked).await {
        Ok(ran) if ran.succeeded => PathBuf::from(String::from_utf8_lossy(&ran.printed).trim()),
        // Without it the server itself says so later.
        _ => return Vec::new(),
    };
    let missing =
        needed.into_iter().filter(|name| !folder.join("extension").join(format!("{name}.control")).is_file());
    missing.map(|name| (name.to_owned(), package_of(name, programs.major))).collect()
}

/// Of the libraries that the source loads at its start those that are here, and those that are not.
async fn preload(ctx: &Context, programs: &Programs, detail: &Detail) -> (Vec<String>, Vec<String>) {
    let nowhere = Libpq::default();
    let asked = ctx.run(programs::run(programs, "pg_config", &["--pkglibdir"], &nowhere, None));
    let folder = match asked.await {
        Ok(ran) if ran.succeeded => PathBuf::from(String::from_utf8_lossy(&ran.printed).trim()),
        _ => return (Vec::new(), detail.preload.clone()),
    };
    let plain = |name: &String| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
            && !name.starts_with('.')
    };
    detail
        .preload
        .iter()
        .cloned()
        .partition(|name| plain(name) && folder.join(format!("{name}.so")).is_file())
}

/// The tables that were asked for.
fn select<'a>(detail: &'a Detail, selection: &Selection) -> Result<Vec<&'a Table>, Error> {
    let tables = detail.tables.iter();
    let selected: Vec<&Table> = match selection {
        Selection::Whole => return Ok(tables.collect()),
        Selection::Schema(schema) => tables.filter(|table| table.namespace == *schema).collect(),
        Selection::Tables(names) => {
            let is = |table: &Table, name: &String| table.name == *name || table.parents.contains(name);
            if let Some(missing) =
                names.iter().find(|name| !detail.tables.iter().any(|table| is(table, name)))
            {
                return Err(Error::new(ErrorKind::NotFound, format!("the backup has no table `{missing}`"))
                    .hint("name it with its schema, such as `public.orders`"));
            }
            tables.filter(|table| names.iter().any(|name| is(table, name))).collect()
        }
    };
    if let (true, Selection::Schema(schema)) = (selected.is_empty(), selection) {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("the backup has no tables in the schema `{schema}`"),
        ));
    }
    Ok(selected)
}

/// Whether roles are as they must be in spite of this error: the superuser that the server was made with is there already; and
/// a role that the database has nothing to do with was dropped while the roles were listed, which no snapshot covers.
fn is_harmless(error: &str, bootstrap: &str, needs: &[String]) -> bool {
    if error == format!("role \"{bootstrap}\" already exists") {
        return true;
    }
    let gone = error.strip_prefix("role \"").and_then(|rest| rest.strip_suffix("\" does not exist"));
    gone.is_some_and(|role| !needs.contains(&format!("role {role}")))
}

/// One load on its way.
struct Run<'a> {
    ctx: &'a Context,
    detail: &'a Detail,
    parts: &'a dyn PartSource,
    selection: &'a Selection,
    selected: &'a [&'a Table],
    needs: &'a [String],
    programs: &'a Programs,
    place: &'a Place,
}

impl Run<'_> {
    async fn all(&self) -> Result<(), Error> {
        if self.place.is_scratch() {
            self.roles().await?;
        }
        let whole = *self.selection == Selection::Whole;
        let backup = progress::backup_of(self.detail, self.parts.parts())?;
        // Kept until the end: who loads the same has to wait for it.
        let (outside, left) = self.make_database(&backup).await?;
        let mut clock = Timed::new();
        let progress = if let Some(left) = left {
            tracing::info!(database = self.place.database, "a load that broke off is gone on with");
            left
        } else {
            self.psql(BEFORE_ROWS, false).await?;
            // A copy in a server of its own is gone with whoever made it.
            if whole && !self.place.is_scratch() {
                Progress::begin(&self.place.connect(self.ctx).await?, &backup).await?
            } else {
                Progress::default()
            }
        };
        clock.done("definitions before the rows");
        self.rows(&progress).await?;
        clock.done("rows");
        if whole {
            for part in self.parts.parts() {
                if part.path.starts_with(LARGE_OBJECTS) && !progress.is_done(&part.path) {
                    self.large_objects(&part.path, &progress).await?;
                }
            }
        } else {
            self.drop_the_others().await?;
        }
        self.sequences().await?;
        clock.done("large objects and sequences");
        if whole {
            self.after_rows(&progress).await?;
        } else {
            self.psql(AFTER_ROWS, true).await?;
        }
        clock.done("definitions after the rows");
        let client = self.place.connect(self.ctx).await?;
        progress.end(&client).await?;
        client
            .batch_execute("SET statement_timeout = 0; ANALYZE")
            .await
            .map_err(|error| translate(&error))?;
        drop(client);
        clock.done("statistics");
        // Last, as they may close the database to us.
        for (before, after) in self.detail.statements.iter().skip(1) {
            let statement = format!("{before}{}{after}", quote_identifier(&self.place.database));
            outside
                .batch_execute(&statement)
                .await
                .map_err(|error| translate(&error).with("statement", statement))?;
        }
        Ok(())
    }

    async fn text(&self, part: &str) -> Result<Bytes, Error> {
        let record = self.parts.parts().iter().find(|record| record.path == part);
        match record {
            Some(record) if record.bytes > PART_BYTES_MAX as u64 => {
                let file = Spool::new();
                self.ctx.run(self.parts.read_into(part, &file.0)).await?;
                let read = tokio::fs::read(&file.0).await;
                read.map(Bytes::from).map_err(|error| {
                    Error::new(ErrorKind::Unavailable, "a part cannot be read")
                        .with("part", part)
                        .because(error)
                })
            }
            _ => self.ctx.run(self.parts.read(part)).await,
        }
    }

    /// Roles, as the server had them. The one that exists already is the superuser that the server was made with.
    async fn roles(&self) -> Result<(), Error> {
        let text = self.text(ROLES).await?;
        let mut libpq = self.place.libpq(self.ctx, self.programs).await?;
        for (name, value) in &mut libpq.0 {
            if *name == "PGDATABASE" {
                "template1".clone_into(value);
            }
        }
        let arguments = ["-X", "-q", "-o", "/dev/null", "-f", "-"];
        let ran = self.ctx.run(programs::run(self.programs, "psql", &arguments, &libpq, Some(&text))).await?;
        let unexpected = ran
            .said
            .lines()
            .filter_map(|line| line.split_once("ERROR:  "))
            .any(|(_, error)| !is_harmless(error, &self.detail.bootstrap, self.needs));
        if !ran.succeeded || unexpected {
            return Err(ran.error(ErrorKind::Other, "psql").with("part", ROLES));
        }
        let client = self.place.outside(self.ctx).await?;
        let failed = |error: tokio_postgres::Error| translate(&error);
        // Whatever the source made of it: we need it.
        let ours = quote_identifier(&self.detail.bootstrap);
        let able = format!(
            "ALTER ROLE {ours} WITH SUPERUSER LOGIN CONNECTION LIMIT -1; ALTER ROLE {ours} RESET ALL"
        );
        client.batch_execute(&able).await.map_err(failed)?;
        for tablespace in &self.detail.tablespaces {
            // Below the server's own folder: that of the source may belong to the source.
            client.batch_execute("SET allow_in_place_tablespaces = true").await.map_err(failed)?;
            let make = format!("CREATE TABLESPACE {} LOCATION ''", quote_identifier(tablespace));
            client.batch_execute(&make).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Makes the database, unless one is there in which this very backup was being loaded: then with how far that came.
    async fn make_database(&self, backup: &str) -> Result<(Client, Option<Progress>), Error> {
        let client = self.place.outside(self.ctx).await?;
        let failed = |error: tokio_postgres::Error| translate(&error);
        let name = &self.place.database;
        let quoted = quote_identifier(name);
        client
            .batch_execute(&format!("{LOADING_SETTINGS}; SET client_encoding = 'UTF8'"))
            .await
            .map_err(failed)?;
        if self.place.is_scratch() {
            if name == "template1" || name == "template0" {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("`{name}` is every server's own and is not restored"),
                ));
            }
            client.batch_execute(&format!("DROP DATABASE IF EXISTS {quoted}")).await.map_err(failed)?;
        } else {
            let key = quote_literal(&format!("steward load {name}"));
            let lock =
                format!("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended({key}, 0))");
            let begun = Instant::now();
            while !client.query_one(&lock, &[]).await.map_err(failed)?.get::<_, bool>(0) {
                if begun.elapsed() >= LET_GO {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "another restore makes a database of this name",
                    )
                    .with("database", name)
                    .hint("wait for it; if its process was killed, the server ends its session with the statement that runs in it"));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            // What a process that was killed has left.
            if let Some(left) = self.left(&client, backup).await? {
                return Ok((client, Some(left)));
            }
            self.place.clear().await?;
        }
        let make = format!("CREATE DATABASE {quoted}{}", self.detail.create);
        client.batch_execute(&make).await.map_err(|error| {
            let error = translate(&error);
            if error.message().contains("locale") {
                return Error::new(ErrorKind::Unsupported, "the operating system does not know the database's locale")
                    .because(error.message().to_owned())
                    .hint("install it, on Debian and Ubuntu `sudo apt-get install locales` and `sudo dpkg-reconfigure locales`");
            }
            error
        })?;
        if let Some((before, after)) = self.detail.statements.first() {
            client.batch_execute(&format!("{before}{quoted}{after}")).await.map_err(failed)?;
        }
        Ok((client, None))
    }

    async fn left(&self, outside: &Client, backup: &str) -> Result<Option<Progress>, Error> {
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)";
        let there = outside.query_one(there, &[&self.place.database]).await;
        if *self.selection != Selection::Whole || !there.map_err(|error| translate(&error))?.get::<_, bool>(0)
        {
            return Ok(None);
        }
        // One that cannot be looked into is made anew.
        let Ok(client) = self.place.connect(self.ctx).await else { return Ok(None) };
        Progress::left(&client, backup).await
    }

    /// All of a part or nothing of it.
    async fn large_objects(&self, part: &str, progress: &Progress) -> Result<(), Error> {
        let text = self.text(part).await?;
        let mark = progress.mark(part);
        if mark.is_empty() {
            return self.psql_text(part, &text, false).await;
        }
        let whole = [b"BEGIN;\n", &text[..], mark.as_bytes(), b";\nCOMMIT;\n"].concat();
        self.psql_text(part, &whole, false).await
    }

    /// Runs a part with `psql`. Of a selection, statements may name what was not selected; nothing else may fail.
    async fn psql(&self, part: &str, selective: bool) -> Result<(), Error> {
        let text = self.text(part).await?;
        self.psql_text(part, &text, selective).await
    }

    async fn psql_text(&self, part: &str, text: &[u8], selective: bool) -> Result<(), Error> {
        // Without this line, which the server may not know.
        let known = memchr::memmem::find(text, TRANSACTION_TIMEOUT.as_bytes())
            .filter(|_| self.detail.version_num < 170_000);
        let without: Vec<u8>;
        let text = match known {
            Some(at) => {
                without = [&text[..at], &text[at + TRANSACTION_TIMEOUT.len()..]].concat();
                &without
            }
            None => text,
        };
        let libpq = self.place.libpq(self.ctx, self.programs).await?;
        let stop = if selective { "ON_ERROR_STOP=0" } else { "ON_ERROR_STOP=1" };
        let arguments = ["-X", "-q", "-o", "/dev/null", "-v", stop, "-v", "VERBOSITY=verbose", "-f", "-"];
        let ran = self.ctx.run(programs::run(self.programs, "psql", &arguments, &libpq, Some(text))).await?;
        let failed = |line: &str| line.split_once("ERROR:  ").map(|(_, said)| said.to_owned());
        let first = ran.said.lines().filter_map(failed).find(|said| {
            // Undefined table, undefined object.
            !(selective && (said.starts_with("42P01:") || said.starts_with("42704:")))
        });
        match first {
            None if ran.succeeded => Ok(()),
            None => Err(ran.error(ErrorKind::Unavailable, "psql").with("part", part)),
            Some(said) => {
                let (code, message) = said.split_once(": ").unwrap_or(("", &said));
                if code == "0A000" && message.contains("is not available") {
                    let name = message.split('"').nth(1).unwrap_or_default();
                    return Err(missing_extension(name, &package_of(name, self.detail.major())));
                }
                Err(Error::new(crate::error::kind(code), message.to_owned())
                    .with("code", code)
                    .with("part", part))
            }
        }
    }

    /// Indexes, constraints and whatever else comes after the rows; side by side where the text can be taken apart.
    async fn after_rows(&self, progress: &Progress) -> Result<(), Error> {
        let bytes = self.text(AFTER_ROWS).await?;
        let read = match std::str::from_utf8(&bytes) {
            // The driver speaks nothing else.
            Ok(text) if self.detail.encoding == "UTF8" => {
                let known = self.detail.version_num >= 170_000;
                let without = if known { text.into() } else { text.replacen(TRANSACTION_TIMEOUT, "", 1) };
                AfterRows::read(&without)
            }
            _ => None,
        };
        let Some(read) = read else {
            // Nobody knows how far `psql` comes: after it begins nothing is gone on with.
            progress.end(&self.place.connect(self.ctx).await?).await?;
            return self.psql_text(AFTER_ROWS, &bytes, false).await;
        };
        let mut clients = Vec::new();
        for _ in 0..sessions() {
            let client = self.place.connect(self.ctx).await?;
            client.batch_execute(LOADING_SETTINGS).await.map_err(|error| translate(&error))?;
            clients.push(client);
        }
        let of_table = |table: &Table| (schema_text::unquoted(&table.name), table.pages);
        let pages: HashMap<String, u64> = self.detail.tables.iter().map(of_table).collect();
        read.run(self.ctx, &clients, &pages, progress)
            .await
            .map_err(|error| self.explained(error.with("part", AFTER_ROWS)))
    }

    /// An extension that is not there is named with its package.
    fn explained(&self, error: Error) -> Error {
        let unsupported = error.context().iter().any(|(name, code)| *name == "code" && code == "0A000");
        if unsupported && error.message().contains("is not available") {
            let name = error.message().split('"').nth(1).unwrap_or_default();
            return missing_extension(name, &package_of(name, self.detail.major()));
        }
        error
    }

    async fn rows(&self, progress: &Progress) -> Result<(), Error> {
        let tables: HashMap<&str, &Table> =
            self.detail.tables.iter().map(|table| (table.folder.as_str(), table)).collect();
        let mut by_table: Vec<(&Table, Vec<&PartRecord>)> = Vec::new();
        for record in self.parts.parts() {
            let Some(rest) = record.path.strip_prefix(ROWS).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            let Some((folder, _)) = rest.split_once('/') else { continue };
            let Some(table) = tables.get(folder) else {
                return Err(
                    Error::new(ErrorKind::Corrupt, "a part belongs to no table").with("part", &record.path)
                );
            };
            if progress.is_done(&record.path)
                || !self.selected.iter().any(|selected| selected.name == table.name)
            {
                continue;
            }
            match by_table.last_mut() {
                // Parts come in the order of their paths.
                Some((last, parts)) if last.folder == table.folder => parts.push(record),
                _ => by_table.push((table, vec![record])),
            }
        }
        let jobs = copies(by_table, sessions());
        let sessions = sessions().min(jobs.len());
        let jobs = Mutex::new(VecDeque::from(jobs));
        let next = || jobs.lock().ok().and_then(|mut jobs| jobs.pop_front());
        let workers = (0..sessions).map(|_| async {
            let client = self.place.connect(self.ctx).await?;
            let settings = format!("{LOADING_SETTINGS}; SET client_encoding = '{}'", self.detail.encoding);
            client.batch_execute(&settings).await.map_err(|error| translate(&error))?;
            while let Some(job) = next() {
                self.copy_all(&client, &job, progress)
                    .await
                    .map_err(|error| error.with("table", &job.table.name))?;
            }
            Ok::<(), Error>(())
        });
        futures::future::try_join_all(workers).await?;
        Ok(())
    }

    /// Loads some parts of a table. All of a table that is loaded by one session go into one transaction that has made its
    /// file: such rows are written once, without a log where the server keeps none, and as they will stay.
    async fn copy_all(&self, client: &Client, job: &Copies<'_>, progress: &Progress) -> Result<(), Error> {
        let failed = |error: tokio_postgres::Error| translate(&error);
        let mut options = "";
        let marks: String = job.parts.iter().map(|record| progress.mark(&record.path)).collect();
        let is_one = job.is_whole || !marks.is_empty();
        if is_one {
            client.batch_execute("BEGIN").await.map_err(failed)?;
        }
        if job.is_whole {
            let has_rows = format!("SELECT EXISTS (SELECT FROM ONLY {})", job.table.name);
            // An extension may have filled it.
            if !client.query_one(&has_rows, &[]).await.map_err(failed)?.get::<_, bool>(0) {
                let empty = format!("TRUNCATE ONLY {}", job.table.name);
                client.batch_execute(&empty).await.map_err(failed)?;
                options = " WITH (FREEZE)";
            }
        }
        for record in &job.parts {
            self.copy(client, record, job.table, options)
                .await
                .map_err(|error| error.with("part", &record.path))?;
        }
        if is_one {
            client.batch_execute(&format!("{marks}; COMMIT")).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn copy(
        &self,
        client: &Client,
        record: &PartRecord,
        table: &Table,
        options: &str,
    ) -> Result<(), Error> {
        let failed = |error: tokio_postgres::Error| translate(&error);
        let sql = format!("COPY {} {} FROM STDIN{options}", table.name, table.column_list());
        if record.bytes > PART_BYTES_MAX as u64 {
            let file = Spool::new();
            self.ctx.run(self.parts.read_into(&record.path, &file.0)).await?;
            let unreadable = |error: std::io::Error| {
                Error::new(ErrorKind::Unavailable, "a part cannot be read").because(error)
            };
            let mut rows = tokio::fs::File::open(&file.0).await.map_err(unreadable)?;
            let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>(&sql).await.map_err(failed)?);
            let mut buffer = vec![0; SENT_BYTES];
            loop {
                let read = rows.read(&mut buffer).await.map_err(unreadable)?;
                if read == 0 {
                    break;
                }
                sink.send(Bytes::copy_from_slice(&buffer[..read])).await.map_err(failed)?;
            }
            sink.as_mut().finish().await.map_err(failed)?;
            return Ok(());
        }
        let mut rows = self.ctx.run(self.parts.read(&record.path)).await?;
        let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>(&sql).await.map_err(failed)?);
        while !rows.is_empty() {
            let some = rows.split_to(SENT_BYTES.min(rows.len()));
            sink.send(some).await.map_err(failed)?;
        }
        sink.as_mut().finish().await.map_err(failed)?;
        Ok(())
    }

    /// Takes away the tables that were not asked for; of what asked-for tables are partitions of, the definition stays.
    async fn drop_the_others(&self) -> Result<(), Error> {
        let client = self.place.connect(self.ctx).await?;
        let failed = |error: tokio_postgres::Error| translate(&error);
        let stay: Vec<&String> =
            self.selected.iter().flat_map(|table| table.parents.iter().chain([&table.name])).collect();
        let all = client
            .query(
                "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind = 'f' FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p', 'f') AND c.oid >= 16384 AND c.relpersistence <> 't' \
                   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
                     AND d.objid = c.oid AND d.deptype = 'e')",
                &[],
            )
            .await
            .map_err(failed)?;
        for row in all {
            let name: String = row.get(0);
            if !stay.iter().any(|known| **known == name) {
                let kind = if row.get(1) { "FOREIGN TABLE" } else { "TABLE" };
                let drop =
                    format!("SET client_min_messages = 'warning'; DROP {kind} IF EXISTS {name} CASCADE");
                client.batch_execute(&drop).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn sequences(&self) -> Result<(), Error> {
        if *self.selection == Selection::Whole {
            return self.psql(SEQUENCES, false).await;
        }
        let wanted: Vec<&str> = self
            .detail
            .sequences
            .iter()
            .filter(|sequence| match (&sequence.owner, self.selection) {
                (Some(owner), _) => {
                    self.selected.iter().any(|table| table.name == *owner || table.parents.contains(owner))
                }
                (None, Selection::Schema(schema)) => sequence.namespace == *schema,
                (None, _) => false,
            })
            .map(|sequence| sequence.name.as_str())
            .collect();
        let text = self.text(SEQUENCES).await?;
        let text = String::from_utf8_lossy(&text);
        let of_wanted = |line: &&str| {
            wanted
                .iter()
                .any(|name| line.starts_with(&format!("SELECT pg_catalog.setval({}, ", quote_literal(name))))
        };
        let lines: Vec<&str> = text.lines().filter(of_wanted).collect();
        self.psql_text(SEQUENCES, lines.join("\n").as_bytes(), false).await
    }
}

/// Sessions that load side by side.
fn sessions() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(SESSIONS_MAX)
}

/// Parts of one table that one session loads, one after the other.
struct Copies<'a> {
    table: &'a Table,
    parts: Vec<&'a PartRecord>,
    /// These are all of it.
    is_whole: bool,
}

/// Shares tables out, the largest first; one that would keep a session busy alone goes part by part.
fn copies<'a>(by_table: Vec<(&'a Table, Vec<&'a PartRecord>)>, sessions: usize) -> Vec<Copies<'a>> {
    let bytes = |parts: &[&PartRecord]| parts.iter().map(|part| part.bytes).sum::<u64>();
    let all: u64 = by_table.iter().map(|(_, parts)| bytes(parts)).sum();
    let fair = all / sessions.max(1) as u64;
    let mut jobs = Vec::new();
    for (table, parts) in by_table {
        let mine = bytes(&parts);
        if parts.len() > 1 && mine > fair && sessions > 1 {
            jobs.extend(parts.into_iter().map(|part| Copies { table, parts: vec![part], is_whole: false }));
        } else {
            jobs.push(Copies { table, parts, is_whole: mine >= WHOLE_BYTES_MIN });
        }
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(bytes(&job.parts)));
    jobs
}

/// Says how long each step took, to whom looks for time.
struct Timed(std::time::Instant);

impl Timed {
    fn new() -> Self {
        Self(std::time::Instant::now())
    }

    fn done(&mut self, step: &str) {
        let elapsed = std::mem::replace(&mut self.0, std::time::Instant::now()).elapsed();
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(step, elapsed_ms, "step of the restore done");
    }
}

/// A file for a part that is too large to be held; it goes with this.
pub(crate) struct Spool(pub(crate) PathBuf);

impl Spool {
    pub(crate) fn new() -> Self {
        Self(std::env::temp_dir().join(format!("steward-part-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.0.display(), %error, "cannot remove a part");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_change_nothing_are_passed_over() {
        let needs = ["role shop".to_owned()];
        for (error, harmless) in [
            ("role \"postgres\" already exists", true),
            ("role \"shop\" already exists", false),
            ("role \"other\" does not exist", true),
            ("role \"shop\" does not exist", false),
            ("syntax error at or near \"x\"", false),
        ] {
            assert_eq!(is_harmless(error, "postgres", &needs), harmless, "{error}");
        }
    }

    #[test]
    fn tables_are_shared_out() {
        let table = |name: &str| Table {
            name: name.to_owned(),
            namespace: "public".into(),
            folder: name.to_owned(),
            columns: Vec::new(),
            condition: String::new(),
            parents: Vec::new(),
            pages: 1,
        };
        let (large, middle, small) = (table("large"), table("middle"), table("small"));
        let part = |bytes: u64| PartRecord { path: String::new(), bytes, sha256: String::new() };
        let (a, b, c, d) = (part(40 << 20), part(41 << 20), part(20 << 20), part(10));
        let given = || vec![(&small, vec![&d]), (&large, vec![&a, &b]), (&middle, vec![&c, &c])];
        let told = |sessions| -> Vec<(String, usize, bool)> {
            let jobs = copies(given(), sessions);
            jobs.iter().map(|job| (job.table.name.clone(), job.parts.len(), job.is_whole)).collect()
        };
        let one = |name: &str, parts, whole| (name.to_owned(), parts, whole);
        assert_eq!(told(1), [one("large", 2, true), one("middle", 2, true), one("small", 1, false)]);
        assert_eq!(
            told(2),
            [one("large", 1, false), one("large", 1, false), one("middle", 2, true), one("small", 1, false)]
        );
    }

    #[test]
    fn needs_are_read() {
        assert_eq!(extension_of("extension uuid-ossp 1.1"), Some("uuid-ossp"));
        assert_eq!(extension_of("role shop"), None);
        assert_eq!(package_of("vector", 17), "`postgresql-17-pgvector`");
    }
}
