//! Putting a copy back: into a file of its own, and from there into the live file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Context, Dumped, Error, ErrorKind, IntegrityProblem, IntegrityReport, KeysCompared, Load, LoadTarget,
    PartSource, Preflight, Restored, Selection, Store, TableDigest,
};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tokio_util::sync::CancellationToken;

use crate::contents::{self, Object};
use crate::dump::{copy_pages, finish, new_file, too_little_disk};
use crate::error::translate;
use crate::session::{File, Stop, beside, on_thread, only_reads, watch};
use crate::store::{KIND, SqliteStore, one_reading};
use crate::text::quote_identifier;

/// Files that SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-journal", "-wal", "-shm"];
/// The name of the file in a scratch folder.
const SCRATCH_FILE: &str = "restored.db";
/// What the name of a file ends in that is being written, after the process that writes it.
const LOADING: &str = "-steward-loading";
/// Most damages that one check lists.
const PROBLEMS_MAX: usize = 100;

#[async_trait]
impl Load for SqliteStore {
    async fn preflight(&self, _: &Context, dumped: &Dumped, target: &LoadTarget) -> Result<Preflight, Error> {
        let mut preflight = Preflight::default();
        if let Err(error) = part_of(dumped) {
            preflight.refusals.push(error.message().to_owned());
            return Ok(preflight);
        }
        let pages = |key| dumped.detail.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let bytes = pages("page_size").saturating_mul(pages("page_count"));
        preflight.bytes_expected = Some(bytes);
        preflight.scratch_bytes = bytes;
        let path = self.path_of(target);
        if occupied(&path) {
            preflight.refusals.push(format!(
                "`{}` exists, and nothing is overwritten: name a file that does not",
                path.display()
            ));
        }
        if let Some(folder) = path.parent() {
            if matches!(target, LoadTarget::Beside { .. }) && !folder.is_dir() {
                preflight.refusals.push(format!("there is no folder `{}`: make it first", folder.display()));
            }
            preflight.refusals.extend(too_little_disk(folder, bytes)?);
        }
        if version(&dumped.version) > version(rusqlite::version()) {
            preflight.warnings.push(format!(
                "the backup was made by SQLite {}, here is {}: what only the newer one knows cannot be read",
                dumped.version,
                rusqlite::version()
            ));
        }
        preflight.warnings.extend(missing_modules(dumped)?.into_iter().map(|module| {
            format!("the module `{module}` is not built in: its virtual tables are restored and cannot be read here")
        }));
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
        let part = part_of(dumped)?;
        if let Selection::Schema(schema) = selection
            && !schema.eq_ignore_ascii_case("main")
        {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no schema `{schema}` in a SQLite file"),
            )
            .hint("a file has one schema, `main`; name tables instead"));
        }
        let path = self.path_of(target);
        let exists = || {
            Error::new(ErrorKind::Conflict, "the target exists")
                .with("path", path.display())
                .hint("nothing is overwritten: name a file that does not exist")
        };
        if occupied(&path) {
            return Err(exists());
        }
        if let LoadTarget::Scratch { folder } = target {
            make_folder(folder)?;
        }
        remove_forsaken(&path);
        let loading = Whole(beside(&path, &format!("-{}{LOADING}", std::process::id())));
        ctx.run(parts.read_into(part, &loading.0)).await?;
        if let Selection::Tables(tables) = selection {
            let (tables, of_thread) = (tables.clone(), loading.0.clone());
            on_thread(ctx, &self.closed, None, move |stop| keep_tables(&of_thread, &tables, stop)).await?;
        }
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, &loading.0, rustix::fs::CWD, &path, flags) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(exists()),
            Err(error) => {
                return Err(Error::new(ErrorKind::Unavailable, "the restored file cannot be given its name")
                    .with("path", path.display())
                    .because(error));
            }
        }
        Ok(Box::new(RestoredFile {
            file: File { path, lock_timeout: self.file.lock_timeout, read_only: false },
            closed: self.closed.clone(),
            kept: false,
        }))
    }

    async fn swap(
        &self,
        ctx: &Context,
        restored: &dyn Restored,
        _end_sessions: bool,
    ) -> Result<String, Error> {
        if self.file.read_only {
            return Err(self.unsupported(
                "a swap",
                "the store is `read_only`",
                "take `read_only` out of the project file first",
            ));
        }
        let copy = File {
            path: PathBuf::from(restored.address()),
            lock_timeout: self.file.lock_timeout,
            read_only: false,
        };
        let live = File { path: self.file.canonical()?, ..self.file.clone() };
        let stamp = ctx.now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let before = beside(&live.path, &format!("-before-{stamp}"));
        on_thread(ctx, &self.closed, None, move |stop| {
            exchange(&live, &copy, &before, stop)?;
            Ok(format!(
                "the database as it was is `{before}`; `sqlite3 '{live}' \".restore '{before}'\"` puts it back",
                before = before.display(),
                live = live.path.display()
            ))
        })
        .await
        .map_err(|error| error.with("store", &self.name))
    }
}

impl SqliteStore {
    /// Where a target lies; a relative name stands beside the store's own file.
    fn path_of(&self, target: &LoadTarget) -> PathBuf {
        match target {
            LoadTarget::Scratch { folder } => folder.join(SCRATCH_FILE),
            LoadTarget::Beside { name } => {
                self.file.path.parent().map_or_else(|| PathBuf::from(name), |folder| folder.join(name))
            }
        }
    }
}

/// The one part of a backup of this kind.
fn part_of(dumped: &Dumped) -> Result<&str, Error> {
    if dumped.kind != KIND {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the backup is of a store of kind `{}`, not `{KIND}`", dumped.kind),
        ));
    }
    dumped
        .detail
        .get("part")
        .and_then(serde_json::Value::as_str)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the manifest does not say which part is the database"))
}

/// Such as 3.54 of `3.54.1`.
fn version(text: &str) -> Vec<u32> {
    text.split('.').take(2).map(|number| number.parse().unwrap_or(0)).collect()
}

fn missing_modules(dumped: &Dumped) -> Result<Vec<String>, Error> {
    let built_in = || -> rusqlite::Result<BTreeSet<String>> {
        let connection = Connection::open_in_memory()?;
        let mut listed = connection.prepare("SELECT lower(name) FROM pragma_module_list")?;
        listed.query_map([], |row| row.get(0))?.collect()
    };
    let built_in = built_in().map_err(|error| translate(&error, &Stop::new(None)))?;
    let needed = dumped.needs.iter().filter_map(|need| need.strip_prefix("module "));
    Ok(needed.filter(|module| !built_in.contains(*module)).map(str::to_owned).collect())
}

/// Whether a database, or what SQLite would take for a part of one, is there.
fn occupied(path: &Path) -> bool {
    let there = |path: &Path| path.symlink_metadata().is_ok();
    there(path) || COMPANIONS.iter().any(|suffix| there(&beside(path, suffix)))
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Error::new(ErrorKind::Denied, "the folder cannot be made")
            .with("folder", folder.display())
            .because(error)
    })
}

/// Takes away what a process that was killed in the middle of a load has left beside `path`.
fn remove_forsaken(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let other = entry.file_name();
        let process = other
            .to_str()
            .and_then(|other| {
                other.strip_prefix(name)?.strip_prefix('-')?.strip_suffix(LOADING)?.parse().ok()
            })
            .and_then(rustix::process::Pid::from_raw);
        if let Some(process) = process
            && rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH)
        {
            remove_files(&entry.path());
        }
    }
}

/// Removes a database with what SQLite keeps beside it.
fn remove_files(path: &Path) {
    for path in [path.to_owned()].into_iter().chain(COMPANIONS.iter().map(|suffix| beside(path, suffix))) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a restored file");
            }
            _ => {}
        }
    }
}

/// A file that is removed with everything beside it, unless it has got another name by then.
struct Whole(PathBuf);

impl Drop for Whole {
    fn drop(&mut self) {
        remove_files(&self.0);
    }
}

/// Takes every other table away, and what shows more than one table: views. Row numbers stay as they are, so the file
/// is not made smaller; the pages of what is taken away are overwritten with zeros.
fn keep_tables(path: &Path, tables: &[String], stop: &Arc<Stop>) -> Result<(), Error> {
    let run = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        watch(&mut connection, stop, Duration::ZERO)?;
        connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA secure_delete = ON")?;
        let listed: Vec<(String, String)> = connection
            .prepare(
                "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type <> 'shadow' \
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let wanted =
            |name: &str| tables.iter().any(|table| *table == quote_identifier(name) || table == name);
        let missing = tables.iter().find(|table| {
            !listed
                .iter()
                .any(|(name, kind)| kind != "view" && (quote_identifier(name) == **table || name == *table))
        });
        if let Some(missing) = missing {
            return Ok(Err(Error::new(ErrorKind::NotFound, format!("the backup has no table `{missing}`"))
                .hint("a table of a module, such as FTS5, is named itself, not its shadow tables")));
        }
        let transaction = connection.transaction()?;
        for view in listed.iter().filter(|(_, kind)| kind == "view") {
            transaction.execute_batch(&format!("DROP VIEW main.{}", quote_identifier(&view.0)))?;
        }
        for (table, _) in listed.iter().filter(|(name, kind)| kind != "view" && !wanted(name)) {
            transaction.execute_batch(&format!("DROP TABLE main.{}", quote_identifier(table)))?;
        }
        transaction.commit()?;
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
        Ok(Ok(()))
    };
    run().map_err(|error: rusqlite::Error| translate(&error, stop).with("path", path.display()))?
}

/// Keeps what is live in `before`, then puts the pages of `copy` into its place: for other connections in one moment, and
/// without one of their changes between the two.
fn exchange(live: &File, copy: &File, before: &Path, stop: &Arc<Stop>) -> Result<(), Error> {
    let failed = |error: rusqlite::Error| match translate(&error, stop) {
        error if error.kind() == ErrorKind::TimedOut && !stop.requested() => in_use(),
        error => error,
    };
    let source = copy.reader(stop)?;
    let mut target = live.writer(stop)?;
    let pragma = |connection: &Connection, pragma: &str| -> rusqlite::Result<String> {
        connection.query_row(&format!("PRAGMA main.{pragma}"), [], |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Integer(number) => number.to_string(),
                value => value.as_str().unwrap_or_default().to_owned(),
            })
        })
    };
    let in_wal = pragma(&target, "journal_mode").map_err(failed)? == "wal";
    if in_wal {
        let sizes =
            (pragma(&target, "page_size").map_err(failed)?, pragma(&source, "page_size").map_err(failed)?);
        if sizes.0 != sizes.1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the live file has pages of {} bytes, the backup of {}", sizes.0, sizes.1),
            )
            .hint("a file in WAL mode keeps its page size: run `PRAGMA journal_mode = DELETE` on it first"));
        }
    }
    new_file(before)?;
    let exchanged = (|| {
        if in_wal {
            // The lock that lets others read and not write; then what they read is kept.
            let pages = Backup::new(&source, &mut target).map_err(failed)?;
            if !matches!(pages.step(0).map_err(failed)?, StepResult::More | StepResult::Done) {
                return Err(in_use());
            }
            keep(&live.reader(stop)?, before, stop)?;
            finish(&pages, stop)
        } else {
            // One lock over both: only the connection that has it can read then.
            target.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(failed)?;
            target.execute_batch("BEGIN EXCLUSIVE; COMMIT").map_err(failed)?;
            keep(&target, before, stop)?;
            copy_pages(&source, &mut target, stop)
        }
    })();
    if exchanged.is_err() {
        remove_files(before);
        return exchanged;
    }
    // Lets go of the lock. From here on nobody may stop us: it has happened.
    drop(target);
    let stop = &Arc::new(Stop::new(None));
    let now = live.reader(stop)?;
    let broken = now
        .prepare("PRAGMA quick_check")
        .and_then(|mut check| {
            let lines = check.query_map([], |row| row.get::<_, String>(0))?;
            lines.collect::<rusqlite::Result<Vec<String>>>()
        })
        .map_err(|error| live.explain(&error, stop))?
        .into_iter()
        .find(|line| line != "ok" && !is_of_rows(line));
    let as_restored = contents::objects(&now).map_err(|error| live.explain(&error, stop))?
        == contents::objects(&source).map_err(|error| copy.explain(&error, stop))?;
    if broken.is_none() && as_restored {
        return Ok(());
    }
    // Only a disk or another program that writes past SQLite's locks can do this; the copy of before is the way out.
    let error = Error::new(ErrorKind::Corrupt, "the live file is not what was put into it")
        .because(broken.unwrap_or_else(|| "its schema is another one".to_owned()));
    Err(error
        .with("path", live.path.display())
        .hint(format!("the database as it was is `{}`", before.display())))
}

fn in_use() -> Error {
    Error::new(ErrorKind::Conflict, "other connections use the file and do not let go of it")
        .hint("end the programs that have it open (`fuser -v FILE` names them), or raise `lock_timeout_ms`")
}

/// Copies what `live` sees into the new file `before`, to the disk itself.
fn keep(live: &Connection, before: &Path, stop: &Stop) -> Result<(), Error> {
    let failed = |error: rusqlite::Error| translate(&error, stop).with("path", before.display());
    let mut copy = Connection::open_with_flags(before, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = FULL").map_err(failed)?;
    copy_pages(live, &mut copy, stop).map_err(|error| error.with("path", before.display()))
}

/// Whether a line of `PRAGMA integrity_check` is about a row that breaks a promise of its table. Such rows are in the source as
/// well, and a copy without them would be the wrong one; `store consistency` tells of them.
///
/// Source: the texts of `PRAGMA integrity_check` in `pragma.c` of SQLite 3.54.
fn is_of_rows(line: &str) -> bool {
    ["NULL value in ", "CHECK constraint failed in ", "NUMERIC value in ", "TEXT value in ", "non-"]
        .iter()
        .any(|beginning| line.starts_with(beginning))
}

/// A restored file.
struct RestoredFile {
    file: File,
    closed: CancellationToken,
    kept: bool,
}

impl RestoredFile {
    async fn read<T: Send + 'static>(
        &self,
        ctx: &Context,
        work: impl FnOnce(&mut Connection, &Arc<Stop>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let file = self.file.clone();
        on_thread(ctx, &self.closed, None, move |stop| work(&mut file.reader(stop)?, stop)).await
    }
}

#[async_trait]
impl Restored for RestoredFile {
    fn address(&self) -> String {
        self.file.path.display().to_string()
    }

    async fn fingerprint(&self, ctx: &Context, dumped: &Dumped) -> Result<Vec<TableDigest>, Error> {
        let counted = self.read(ctx, |connection, stop| {
            contents::count(connection).map_err(|error| translate(&error, stop))
        });
        let counted = counted.await?.tables;
        let found = dumped
            .tables
            .iter()
            .filter_map(|known| counted.iter().find(|counted| counted.table == known.table).cloned());
        Ok(found.collect())
    }

    async fn schema_differences(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        _: &dyn PartSource,
        selection: &Selection,
    ) -> Result<Vec<String>, Error> {
        let listed =
            dumped.detail.get("objects").and_then(serde_json::Value::as_object).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "the manifest does not list what the schema holds")
            })?;
        let text = |value: &serde_json::Value, key: &str| {
            value.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
        };
        let expected: Vec<Object> = listed
            .iter()
            .map(|(title, value)| Object {
                title: title.clone(),
                table: text(value, "table"),
                definition: text(value, "sha256"),
            })
            .filter(|object| match selection {
                Selection::Tables(tables) => {
                    let is_wanted =
                        |name: &String| *name == object.table || *name == quote_identifier(&object.table);
                    !object.title.starts_with("view ") && tables.iter().any(is_wanted)
                }
                _ => true,
            })
            .collect();
        let selective = matches!(selection, Selection::Tables(_));
        let found = self
            .read(ctx, |connection, stop| {
                contents::objects(connection).map_err(|error| translate(&error, stop))
            })
            .await?;
        let mut lines = Vec::new();
        for object in &expected {
            match found.iter().find(|found| found.title == object.title) {
                None => lines.push(format!("{}: missing", object.title)),
                Some(found) if found.definition != object.definition => {
                    lines.push(format!("{}: another definition", object.title));
                }
                Some(_) => {}
            }
        }
        for object in &found {
            let own = object.table.starts_with("sqlite_") && selective;
            if !own && !expected.iter().any(|expected| expected.title == object.title) {
                lines.push(format!("{}: was not in the backup", object.title));
            }
        }
        Ok(lines)
    }

    async fn check(&self, ctx: &Context) -> Result<IntegrityReport, Error> {
        self.read(ctx, |connection, stop| {
            let integrity = format!("PRAGMA integrity_check({PROBLEMS_MAX})");
            let run = || -> rusqlite::Result<Vec<IntegrityProblem>> {
                let mut problems = Vec::new();
                let mut check = connection.prepare(&integrity)?;
                for problem in check.query_map([], |row| row.get::<_, String>(0))? {
                    let problem = problem?;
                    if problem != "ok" && !is_of_rows(&problem) {
                        problems.push(IntegrityProblem { object: "database".into(), problem });
                    }
                }
                Ok(problems)
            };
            let problems = match run().map_err(|error| translate(&error, stop)) {
                // Too damaged even to be checked: that is the answer.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    vec![IntegrityProblem { object: "database".into(), problem: error.to_string() }]
                }
                other => other?,
            };
            Ok(IntegrityReport {
                statement: integrity,
                checked: 1,
                problems,
                unchecked: Vec::new(),
                checksum_failures: None,
                keys_compared: KeysCompared::All,
            })
        })
        .await
    }

    async fn probe(&self, ctx: &Context, sql: &str) -> Result<bool, Error> {
        let sql = sql.to_owned();
        self.read(ctx, move |connection, stop| {
            only_reads(connection).map_err(|error| translate(&error, stop))?;
            let mut statement = one_reading(connection, &sql, stop)?;
            let mut rows = statement.raw_query();
            let mut answer = None;
            while let Some(row) = rows.next().map_err(|error| translate(&error, stop))? {
                if answer.is_some() {
                    return Err(Error::new(ErrorKind::Invalid, "the question gives more than one row"));
                }
                answer = Some(match row.get_ref(0).map_err(|error| translate(&error, stop))? {
                    ValueRef::Integer(number) => number != 0,
                    ValueRef::Real(number) => number != 0.0,
                    _ => false,
                });
            }
            answer.ok_or_else(|| Error::new(ErrorKind::Invalid, "the question gives no row"))
        })
        .await
    }

    fn keep(&mut self) -> String {
        self.kept = true;
        format!("rm '{}'", self.file.path.display())
    }

    async fn remove(mut self: Box<Self>) -> Result<(), Error> {
        self.kept = true;
        remove_files(&self.file.path);
        if self.file.path.symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::Denied, "the restored file cannot be removed")
                .with("path", self.file.path.display()));
        }
        Ok(())
    }
}

impl Drop for RestoredFile {
    fn drop(&mut self) {
        if !self.kept {
            remove_files(&self.file.path);
        }
    }
}
