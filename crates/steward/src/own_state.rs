//! Steward's own state as a source of backups: the state file in one consistent copy, the key that opens what is sealed in
//! it, the project file, policies and migrations.
//!
//! The master key is a part of the backup like any other, and so encrypted under the repository's key alone: whoever has
//! the recovery key has the secrets. It is never written to a scratch folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    BackupMethod, Capabilities, Context, Dump, DumpOptions, Dumped, Error, ErrorKind, IntegrityProblem,
    IntegrityReport, Layout, Load, LoadTarget, Login, Part, PartBody, PartSink, PartSource, Preflight, Probe,
    Restored, RowSum, Selection, Store, TableDigest, sha256_hex,
};
use ledger::Ledger;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use vault::{KeySource, MasterKey, Vault};
use zeroize::Zeroizing;

use crate::config::FILE_NAME;
use crate::files;
use crate::project::{MIGRATIONS_DIR, POLICIES_DIR};

/// The name under which it is backed up; no store of a project may have it.
pub(crate) const NAME: &str = "steward";
/// The kind in manifests.
pub(crate) const KIND: &str = "steward";

/// The part that holds the master key.
const KEY_PART: &str = "master.key";
/// What the files count as, beside the tables of the state.
const FILES: &str = "files";
/// The folder of the files in a scratch copy.
const FILES_DIR: &str = "files";
/// Folders of the project that are taken along whole.
const FOLDERS: [&str; 2] = [POLICIES_DIR, MIGRATIONS_DIR];
/// Largest file of the project that is taken along, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Most files that are taken along; the numbers in their parts' names have five digits.
const FILES_MAX: usize = 100_000;

/// A file of the project in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakenFile {
    /// From the project's folder.
    pub(crate) path: String,
    /// The part that holds it.
    part: String,
}

/// What only this adapter understands of a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Detail {
    /// What SQLite says of the state file.
    state: Dumped,
    /// The files beside it.
    pub(crate) files: Vec<TakenFile>,
}

impl Detail {
    /// # Errors
    ///
    /// `Unsupported`: it is the backup of something else. `Corrupt`.
    pub(crate) fn of(dumped: &Dumped) -> Result<Self, Error> {
        if dumped.kind != KIND {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the backup is of a store of kind `{}`, not of Steward's own state", dumped.kind),
            ));
        }
        let detail: Self = serde_json::from_value(dumped.detail.clone()).map_err(|cause| {
            Error::new(ErrorKind::Corrupt, "the manifest does not say where the state lies").because(cause)
        })?;
        // It is data from elsewhere: no path of it may lead out of the folder.
        for file in &detail.files {
            files::relative(&file.path)?;
        }
        Ok(detail)
    }
}

/// Where the state of this process lies.
pub(crate) struct Own {
    /// The project's folder.
    pub(crate) dir: PathBuf,
    /// The project file.
    pub(crate) file: PathBuf,
    /// The state file.
    pub(crate) state: PathBuf,
    /// The ledger in it.
    pub(crate) ledger: Ledger,
    /// Where the master key is.
    pub(crate) key: Arc<KeySource>,
    /// The project.
    pub(crate) project: String,
}

/// Steward's own state; without `own` only backups of it can be read.
pub(crate) struct OwnState {
    own: Option<Own>,
    state: Arc<dyn Store>,
}

impl OwnState {
    /// That of this process.
    ///
    /// # Errors
    ///
    /// `Invalid`: never, as the path is that of an open state.
    pub(crate) fn of(own: Own) -> Result<Self, Error> {
        let config = store_sqlite::Config::new(own.state.display().to_string());
        let state = Arc::new(store_sqlite::open("state", &config, &own.dir)?);
        Ok(Self { own: Some(own), state })
    }

    /// For reading a backup where there is no Steward yet.
    ///
    /// # Errors
    ///
    /// As `of`.
    pub(crate) fn reader() -> Result<Self, Error> {
        let state = store_sqlite::open("state", &store_sqlite::Config::new("state.db"), Path::new("/"))?;
        Ok(Self { own: None, state: Arc::new(state) })
    }

    fn own(&self) -> Result<&Own, Error> {
        self.own.as_ref().ok_or_else(|| Error::new(ErrorKind::Unsupported, "there is no state here"))
    }

    fn sqlite_dump(&self) -> Result<&dyn Dump, Error> {
        self.state.dump().ok_or_else(|| Error::new(ErrorKind::Unsupported, "the state cannot be copied"))
    }

    fn sqlite_load(&self) -> Result<&dyn Load, Error> {
        self.state.load().ok_or_else(|| Error::new(ErrorKind::Unsupported, "the state cannot be loaded"))
    }
}

/// Other projects in the same state file, whose secrets are in the backup too.
async fn others(own: &Own) -> Result<Vec<String>, Error> {
    let sql = "SELECT DISTINCT project FROM secrets WHERE project <> ? ORDER BY project";
    let rows = own.ledger.query(sql, vec![own.project.as_str().into()]).await?;
    rows.iter().map(|row| row.get_text("project").map(str::to_owned)).collect()
}

/// The path of a file from the project's folder, and its bytes.
type Read = (String, Vec<u8>);

/// The project's files; and what is left out, with the reason.
fn project_files(own: &Own) -> Result<(Vec<Read>, Vec<String>), Error> {
    let unreadable = |path: &Path, cause: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "a file of the project cannot be read")
            .with("file", path.display())
            .because(cause)
    };
    let file = std::fs::read(&own.file).map_err(|cause| unreadable(&own.file, cause))?;
    let (mut taken, mut left_out) = (vec![(FILE_NAME.to_owned(), file)], Vec::new());
    let mut folders: Vec<String> = FOLDERS.iter().rev().map(|folder| (*folder).to_owned()).collect();
    while let Some(folder) = folders.pop() {
        let full = own.dir.join(&folder);
        let entries = match std::fs::read_dir(&full) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(unreadable(&full, cause)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|cause| unreadable(&full, cause))?;
            let kind = entry.file_type().map_err(|cause| unreadable(&entry.path(), cause))?;
            names.push((entry.file_name(), kind));
        }
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, kind) in names {
            let shown = format!("{folder}/{}", name.display());
            let Some(name) = name.to_str() else {
                left_out.push(format!("{shown}: its name is not UTF-8"));
                continue;
            };
            let path = format!("{folder}/{name}");
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let full = full.join(name);
            let size = full.symlink_metadata().map_err(|cause| unreadable(&full, cause))?.len();
            if !kind.is_file() || files::relative(&path).is_err() {
                left_out.push(format!("{shown}: it is no regular file"));
            } else if size > FILE_BYTES_MAX || taken.len() >= FILES_MAX {
                left_out.push(format!("{shown}: files of more than {FILE_BYTES_MAX} bytes are not taken"));
            } else {
                taken.push((path, std::fs::read(&full).map_err(|cause| unreadable(&full, cause))?));
            }
        }
    }
    Ok((taken, left_out))
}

/// Counts the files, in any order.
fn count_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> TableDigest {
    let mut sum = RowSum::default();
    for (path, bytes) in files {
        sum.add([path.as_bytes(), b"\0", bytes]);
    }
    sum.of_table(FILES)
}

#[async_trait]
impl Store for OwnState {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn probe(&self, ctx: &Context) -> Result<Probe, Error> {
        let own = self.own()?;
        let probe = self.state.probe(ctx).await?;
        let user = own.state.display().to_string();
        Ok(Probe {
            identity: identity(&MasterKey::load(&own.key)?),
            reader: Login { user, superuser: false, owner: true, can_write: true },
            ..probe
        })
    }

    fn dump(&self) -> Option<&dyn Dump> {
        Some(self)
    }

    fn load(&self) -> Option<&dyn Load> {
        Some(self)
    }

    async fn close(&self) {
        self.state.close().await;
    }
}

/// The same on every machine to which it was recovered.
fn identity(master: &MasterKey) -> String {
    sha256_hex(master.derive("steward/identity").expose_secret())[..32].to_owned()
}

#[async_trait]
impl Dump for OwnState {
    fn methods(&self) -> Vec<BackupMethod> {
        vec![BackupMethod::Physical]
    }

    async fn preflight(&self, ctx: &Context, options: &DumpOptions) -> Result<Preflight, Error> {
        let own = self.own()?;
        let mut preflight = self.sqlite_dump()?.preflight(ctx, options).await?;
        let others = others(own).await?;
        if !others.is_empty() {
            preflight.notes.push(format!(
                "the state file is shared with {}: whoever has this repository's recovery key can read their secrets too",
                others.join(", ")
            ));
        }
        Ok(preflight)
    }

    async fn dump(&self, ctx: &Context, options: &DumpOptions, sink: &dyn PartSink) -> Result<Dumped, Error> {
        let own = self.own()?;
        let master = MasterKey::load(&own.key)?;
        let (taken, mut left_out) = project_files(own)?;
        left_out.extend(
            others(own)
                .await?
                .into_iter()
                .map(|project| format!("the project file of {project}, which shares the state file")),
        );
        let counted = count_files(taken.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
        let mut files = Vec::new();
        for (number, (path, bytes)) in taken.into_iter().enumerate() {
            let part = format!("files/{number:05}");
            ctx.run(sink.put(Part { path: part.clone(), body: PartBody::Bytes(bytes.into()) })).await?;
            files.push(TakenFile { path, part });
        }
        let key = Zeroizing::new(master.text().expose_secret().as_bytes().to_vec());
        ctx.run(sink.put(Part { path: KEY_PART.into(), body: PartBody::Bytes(Bytes::from_owner(key)) }))
            .await?;
        // Its part is called `state.db`, the last in order.
        let state = self.sqlite_dump()?.dump(ctx, options, sink).await?;
        let mut tables = state.tables.clone();
        tables.push(counted);
        Ok(Dumped {
            kind: KIND.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: identity(&master),
            address: own.dir.display().to_string(),
            method: BackupMethod::Physical,
            layout: Layout::Pages,
            point: state.point.clone(),
            tables,
            schema_sha256: state.schema_sha256.clone(),
            needs: Vec::new(),
            left_out,
            tools: state.tools.clone(),
            detail: json!(Detail { state, files }),
        })
    }
}

#[async_trait]
impl Load for OwnState {
    async fn preflight(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        target: &LoadTarget,
    ) -> Result<Preflight, Error> {
        let detail = Detail::of(dumped)?;
        if !matches!(target, LoadTarget::Scratch { .. }) {
            let refusal =
                "Steward's own state comes back into an empty folder: `steward recover --repository …`";
            return Ok(Preflight { refusals: vec![refusal.to_owned()], ..Preflight::default() });
        }
        self.sqlite_load()?.preflight(ctx, &detail.state, target).await
    }

    async fn load(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error> {
        let copy = self.load_copy(ctx, dumped, parts, selection, target).await?;
        Ok(Box::new(copy))
    }

    async fn swap(
        &self,
        _ctx: &Context,
        _restored: &dyn Restored,
        _end_sessions: bool,
    ) -> Result<String, Error> {
        Err(self.unsupported(
            "a restore in place",
            "the state is in use by the one who would replace it",
            "recover it into an empty folder: `steward recover --repository …`",
        ))
    }
}

impl OwnState {
    /// Loads a backup, which can then be used otherwise than another store's: its key is at hand.
    ///
    /// # Errors
    ///
    /// As [`Load::load`].
    pub(crate) async fn load_copy(
        &self,
        ctx: &Context,
        dumped: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
        target: &LoadTarget,
    ) -> Result<Copy, Error> {
        let detail = Detail::of(dumped)?;
        let LoadTarget::Scratch { folder } = target else {
            return Err(self.unsupported(
                "a restore beside",
                "it comes back into an empty folder",
                "steward recover --repository …",
            ));
        };
        if *selection != Selection::Whole {
            return Err(self.unsupported(
                "a restore of some tables",
                "the state is of one piece",
                "restore it whole, into scratch",
            ));
        }
        let key = ctx.run(parts.read(KEY_PART)).await?;
        let key = std::str::from_utf8(&key).map(SecretString::from).map_err(|cause| {
            Error::new(ErrorKind::Corrupt, "the master key in the backup is not text").because(cause)
        })?;
        let state = self.sqlite_load()?.load(ctx, &detail.state, parts, &Selection::Whole, target).await?;
        let copy = Copy { folder: folder.clone(), state, key, detail };
        let written = async {
            for file in &copy.detail.files {
                let bytes = ctx.run(parts.read(&file.part)).await?;
                write_new(&copy.files().join(&file.path), &bytes)?;
            }
            Ok(())
        };
        match written.await {
            Ok(()) => Ok(copy),
            Err(error) => {
                drop(Box::new(copy).remove().await);
                Err(error)
            }
        }
    }
}

/// A file that was not there, for its owner alone, on the disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let failed = |cause: std::io::Error| {
        let kind = match cause.kind() {
            std::io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::Denied
            }
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, "a restored file cannot be written").with("file", path.display()).because(cause)
    };
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

/// A backup of the state that was loaded; the key is held, and not written.
pub(crate) struct Copy {
    folder: PathBuf,
    state: Box<dyn Restored>,
    key: SecretString,
    detail: Detail,
}

impl Copy {
    /// The folder with the files of the project.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.join(FILES_DIR)
    }

    /// The state file.
    pub(crate) fn state_file(&self) -> PathBuf {
        PathBuf::from(self.state.address())
    }

    /// The master key.
    pub(crate) fn key(&self) -> &SecretString {
        &self.key
    }

    /// Opens the state with the key and every secret in it; gives what is wrong.
    async fn opens(&self, ctx: &Context) -> Result<(), Error> {
        let master = MasterKey::load(&KeySource::Environment { value: self.key.clone() })?;
        let keys = ledger::Keys { seal: master.derive("ledger/seal"), sign: master.derive("ledger/sign") };
        let head = crate::door::head_file(&self.state_file());
        let options = ledger::Options { read_only: true, ..ledger::Options::new(head) };
        let ledger = Ledger::open(&self.state_file(), keys, options).await?;
        let vault = Vault::new(ledger.clone(), &master);
        vault.check(ctx).await?;
        let rows = ledger.query("SELECT DISTINCT project FROM secrets", Vec::new()).await?;
        for row in &rows {
            let of_project = Context::new(row.get_text("project")?, ctx.actor().clone());
            vault.visit(&of_project, |_, _, _| {}).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Restored for Copy {
    fn address(&self) -> String {
        self.folder.display().to_string()
    }

    async fn fingerprint(&self, ctx: &Context, _dumped: &Dumped) -> Result<Vec<TableDigest>, Error> {
        let mut tables = self.state.fingerprint(ctx, &self.detail.state).await?;
        let mut files = Vec::new();
        for file in &self.detail.files {
            let full = self.files().join(&file.path);
            let bytes = std::fs::read(&full).map_err(|cause| {
                Error::new(ErrorKind::Unavailable, "a restored file cannot be read")
                    .with("file", full.display())
                    .because(cause)
            })?;
            files.push((file.path.as_str(), bytes));
        }
        tables.push(count_files(files.iter().map(|(path, bytes)| (*path, bytes.as_slice()))));
        Ok(tables)
    }

    async fn schema_differences(
        &self,
        ctx: &Context,
        _dumped: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
    ) -> Result<Vec<String>, Error> {
        self.state.schema_differences(ctx, &self.detail.state, parts, selection).await
    }

    async fn check(&self, ctx: &Context) -> Result<IntegrityReport, Error> {
        let mut report = self.state.check(ctx).await?;
        match self.opens(ctx).await {
            Ok(()) => report.checked += 1,
            Err(error)
                if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Corrupt | ErrorKind::Invalid) =>
            {
                report.problems.push(IntegrityProblem {
                    object: "the secrets".to_owned(),
                    problem: format!("they do not open with the key of the backup: {}", error.message()),
                });
            }
            Err(error) => return Err(error),
        }
        Ok(report)
    }

    async fn probe(&self, ctx: &Context, sql: &str) -> Result<bool, Error> {
        self.state.probe(ctx, sql).await
    }

    fn keep(&mut self) -> String {
        // What ends a scratch copy of SQLite alone would leave the files.
        drop(self.state.keep());
        format!("rm -r {}", self.folder.display())
    }

    async fn remove(self: Box<Self>) -> Result<(), Error> {
        let files = self.files();
        match std::fs::remove_dir_all(&files) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::Denied, "a scratch copy cannot be taken away")
                    .with("folder", files.display())
                    .because(cause));
            }
            _ => {}
        }
        self.state.remove().await
    }
}
