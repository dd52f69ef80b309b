//! A store and a repository that fail as they are told, around a real ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backup::{PlanConfig, Surroundings, Uptime};
use bytes::Bytes;
use contract::{
    Actor, BackupLabel, BackupMethod, BackupWriter, Capabilities, CheckDepth, Committed, Context, Dump,
    DumpOptions, Dumped, Error, ErrorKind, IntegrityReport, Kept, Layout, Listing, Load, LoadTarget, Login,
    Medium, Part, PartBody, PartRecord, PartSink, PartSource, Permit, Plan, Preflight, Probe, Pruned,
    RecoveryPoint, Repository, RepositoryCheck, RepositoryKey, Restored, Selection, Store, StoreDirectory,
    TableDigest, TestClock, Whereabouts, sha256_hex,
};
use ledger::{Keys, Ledger, Options};
use secrecy::{SecretBox, SecretString};

/// Where something is told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The dump ends with an error after its first table.
    Dump,
    /// The repository takes no second part.
    Put,
    /// The repository cannot write the record that makes the backup exist.
    Commit,
    /// Bytes of a part are others than were written.
    Part,
    /// The manifest is that of another backup.
    Manifest,
    /// The restored copy loses a row.
    Row,
    /// The restored copy has another row than was dumped.
    Value,
    /// The restored copy lacks an index.
    Schema,
    /// The copy cannot be loaded.
    Load,
    /// No program to restore with.
    NoTool,
    /// The copy cannot be put in place.
    Swap,
    /// The repository `local` cannot be opened.
    Gone,
    /// The repository `far` takes no second part.
    FarPut,
    /// The repository `far` cannot write the record that makes a backup exist.
    FarCommit,
    /// Bytes that come from `far` are others than were written.
    FarPart,
    /// The dump sees files, and no rows.
    Blind,
    /// Bytes that no restore needs have become others.
    Rot,
}

/// Rows by table.
pub(crate) type Tables = BTreeMap<String, Vec<String>>;

#[derive(Default)]
struct Shared {
    tables: Mutex<Tables>,
    beside: Mutex<BTreeMap<String, Tables>>,
    kept: Mutex<BTreeMap<String, Snapshot>>,
    far: Mutex<BTreeMap<String, Snapshot>>,
    /// Whether what lies in `far` can be changed.
    firm: Mutex<bool>,
    faults: Mutex<BTreeSet<Fault>>,
    abandoned: Mutex<u32>,
    identity: Mutex<String>,
}

impl Shared {
    fn fails(&self, fault: Fault) -> bool {
        self.faults.lock().unwrap().contains(&fault)
    }

    /// What lies in a repository.
    fn of(&self, repository: &str) -> &Mutex<BTreeMap<String, Snapshot>> {
        if repository == "far" { &self.far } else { &self.kept }
    }
}

#[derive(Clone)]
struct Snapshot {
    label: BackupLabel,
    parts: BTreeMap<String, Bytes>,
    manifest: Bytes,
}

fn told(fault: Fault) -> Error {
    Error::new(ErrorKind::Unavailable, format!("told to fail: {fault:?}"))
}

fn digest(rows: &[String]) -> String {
    let mut hashes: Vec<String> = rows.iter().map(|row| sha256_hex(row.as_bytes())).collect();
    hashes.sort();
    sha256_hex(hashes.concat().as_bytes())[..32].to_owned()
}

fn digests(tables: &Tables) -> Vec<TableDigest> {
    let of = |(table, rows): (&String, &Vec<String>)| TableDigest {
        table: table.clone(),
        rows: rows.len() as u64,
        bytes: rows.iter().map(|row| row.len() as u64).sum(),
        digest: digest(rows),
    };
    tables.iter().map(of).collect()
}

/// Rows of tables, and nothing else.
pub(crate) struct FakeStore(Arc<Shared>);

#[async_trait]
impl Store for FakeStore {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn name(&self) -> &'static str {
        "shop"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn probe(&self, _ctx: &Context) -> Result<Probe, Error> {
        Ok(Probe {
            version: "1".into(),
            address: "fake:shop".into(),
            identity: self.0.identity.lock().unwrap().clone(),
            reader: Login { user: "r".into(), superuser: false, owner: false, can_write: false },
            writer: None,
            read_only_by: "nothing".into(),
            encrypted: false,
            pooler: None,
            standby: None,
            connect_ms: 0.0,
        })
    }

    fn dump(&self) -> Option<&dyn Dump> {
        Some(self)
    }

    fn load(&self) -> Option<&dyn Load> {
        Some(self)
    }

    async fn close(&self) {}
}

#[async_trait]
impl Dump for FakeStore {
    fn methods(&self) -> Vec<BackupMethod> {
        vec![BackupMethod::Logical]
    }

    async fn preflight(&self, _ctx: &Context, _options: &DumpOptions) -> Result<Preflight, Error> {
        Ok(Preflight::default())
    }

    async fn dump(&self, ctx: &Context, options: &DumpOptions, sink: &dyn PartSink) -> Result<Dumped, Error> {
        assert!(options.scratch.is_dir());
        let tables = self.0.tables.lock().unwrap().clone();
        for (number, (table, rows)) in tables.iter().enumerate() {
            if number == 1 && self.0.fails(Fault::Dump) {
                return Err(told(Fault::Dump));
            }
            let body = PartBody::Bytes(Bytes::from(rows.join("\n")));
            sink.put(Part { path: format!("rows/{table}"), body }).await?;
        }
        Ok(Dumped {
            kind: "fake".into(),
            version: "1".into(),
            identity: self.0.identity.lock().unwrap().clone(),
            address: "fake:shop".into(),
            method: BackupMethod::Logical,
            layout: Layout::Stream,
            point: RecoveryPoint { at: ctx.now(), server_at: None, position: None, timeline: None },
            tables: if self.0.fails(Fault::Blind) { Vec::new() } else { digests(&tables) },
            schema_sha256: String::new(),
            needs: Vec::new(),
            left_out: Vec::new(),
            tools: Vec::new(),
            detail: serde_json::Value::Null,
        })
    }
}

#[async_trait]
impl Load for FakeStore {
    async fn preflight(
        &self,
        _ctx: &Context,
        _dumped: &Dumped,
        target: &LoadTarget,
    ) -> Result<Preflight, Error> {
        let mut preflight = Preflight::default();
        if self.0.fails(Fault::NoTool) && matches!(target, LoadTarget::Scratch { .. }) {
            preflight.refusals.push("no server program is there".into());
        }
        Ok(preflight)
    }

    async fn load(
        &self,
        _ctx: &Context,
        _dumped: &Dumped,
        parts: &dyn PartSource,
        _selection: &Selection,
        target: &LoadTarget,
    ) -> Result<Box<dyn Restored>, Error> {
        let mut tables = Tables::new();
        for part in parts.parts() {
            let bytes = parts.read(&part.path).await?;
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            let rows = text.lines().map(str::to_owned).collect();
            tables.insert(part.path["rows/".len()..].to_owned(), rows);
        }
        if self.0.fails(Fault::Load) {
            return Err(told(Fault::Load));
        }
        if self.0.fails(Fault::Row) {
            tables.values_mut().next().unwrap().pop();
        }
        if self.0.fails(Fault::Value) {
            tables.values_mut().next().unwrap()[0].push('!');
        }
        let name = match target {
            LoadTarget::Scratch { folder } => {
                std::fs::write(folder.join("copy"), "rows").unwrap();
                folder.display().to_string()
            }
            LoadTarget::Beside { name } => name.clone(),
        };
        self.0.beside.lock().unwrap().insert(name.clone(), tables);
        Ok(Box::new(FakeCopy { shared: Arc::clone(&self.0), name, kept: false }))
    }

    async fn swap(
        &self,
        _ctx: &Context,
        restored: &dyn Restored,
        _end_sessions: bool,
    ) -> Result<String, Error> {
        if self.0.fails(Fault::Swap) {
            return Err(told(Fault::Swap));
        }
        let copy = self.0.beside.lock().unwrap().remove(&restored.address()).unwrap();
        *self.0.tables.lock().unwrap() = copy;
        Ok("what was there is kept as shop_before".into())
    }
}

struct FakeCopy {
    shared: Arc<Shared>,
    name: String,
    kept: bool,
}

impl Drop for FakeCopy {
    fn drop(&mut self) {
        if !self.kept {
            self.shared.beside.lock().unwrap().remove(&self.name);
        }
    }
}

#[async_trait]
impl Restored for FakeCopy {
    fn address(&self) -> String {
        self.name.clone()
    }

    async fn fingerprint(&self, _ctx: &Context, _dumped: &Dumped) -> Result<Vec<TableDigest>, Error> {
        Ok(digests(&self.shared.beside.lock().unwrap()[&self.name]))
    }

    async fn schema_differences(
        &self,
        _ctx: &Context,
        _dumped: &Dumped,
        _parts: &dyn PartSource,
        _selection: &Selection,
    ) -> Result<Vec<String>, Error> {
        Ok(self
            .shared
            .fails(Fault::Schema)
            .then(|| "the index orders_by_day is not there".to_owned())
            .into_iter()
            .collect())
    }

    async fn check(&self, _ctx: &Context) -> Result<IntegrityReport, Error> {
        Ok(IntegrityReport::default())
    }

    async fn probe(&self, _ctx: &Context, sql: &str) -> Result<bool, Error> {
        Ok(self.shared.beside.lock().unwrap()[&self.name].contains_key(sql))
    }

    fn keep(&mut self) -> String {
        self.kept = true;
        format!("rm {}", self.name)
    }

    async fn remove(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

struct FakeRepository(Arc<Shared>, &'static str);

struct FakeWriter {
    shared: Arc<Shared>,
    repository: &'static str,
    label: BackupLabel,
    parts: Mutex<BTreeMap<String, Bytes>>,
}

#[async_trait]
impl PartSink for FakeWriter {
    async fn put(&self, part: Part) -> Result<(), Error> {
        let mut parts = self.parts.lock().unwrap();
        let fault = if self.repository == "far" { Fault::FarPut } else { Fault::Put };
        if parts.len() == 1 && self.shared.fails(fault) {
            return Err(told(fault));
        }
        let PartBody::Bytes(bytes) = part.body else { panic!("only bytes here") };
        parts.insert(part.path, bytes);
        Ok(())
    }
}

fn records(parts: &BTreeMap<String, Bytes>) -> Vec<PartRecord> {
    let record = |(path, bytes): (&String, &Bytes)| PartRecord {
        path: path.clone(),
        bytes: bytes.len() as u64,
        sha256: sha256_hex(bytes),
    };
    parts.iter().map(record).collect()
}

#[async_trait]
impl BackupWriter for FakeWriter {
    async fn commit(self: Box<Self>, manifest: contract::MakeManifest) -> Result<Committed, Error> {
        let parts = self.parts.lock().unwrap().clone();
        let manifest = manifest(&records(&parts));
        let fault = if self.repository == "far" { Fault::FarCommit } else { Fault::Commit };
        if self.shared.fails(fault) {
            return Err(told(fault));
        }
        let bytes = parts.values().map(|bytes| bytes.len() as u64).sum();
        let snapshot = Snapshot { label: self.label.clone(), parts, manifest };
        let id = format!("snap-{}", self.label.id);
        self.shared.of(self.repository).lock().unwrap().insert(id.clone(), snapshot);
        Ok(Committed { snapshot: id, bytes, bytes_added: bytes })
    }

    async fn abandon(self: Box<Self>) {
        *self.shared.abandoned.lock().unwrap() += 1;
    }
}

struct FakeSource {
    shared: Arc<Shared>,
    repository: &'static str,
    parts: Vec<PartRecord>,
    bytes: BTreeMap<String, Bytes>,
}

#[async_trait]
impl PartSource for FakeSource {
    fn parts(&self) -> &[PartRecord] {
        &self.parts
    }

    async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let fault = if self.repository == "far" { Fault::FarPart } else { Fault::Part };
        if self.shared.fails(fault) {
            return Err(Error::new(ErrorKind::Corrupt, "other bytes than were written").with("part", path));
        }
        Ok(self.bytes[path].clone())
    }

    async fn read_into(&self, _path: &str, _file: &Path) -> Result<(), Error> {
        unreachable!("no part is that large")
    }
}

#[async_trait]
impl Repository for FakeRepository {
    fn name(&self) -> &'static str {
        self.1
    }

    fn address(&self) -> String {
        "memory".into()
    }

    fn whereabouts(&self) -> Whereabouts {
        match self.1 {
            "far" => Whereabouts::on(Medium::ObjectStorage, "s3.example.net"),
            _ => Whereabouts::default(),
        }
    }

    async fn changeable(&self, _ctx: &Context) -> Option<String> {
        let firm = self.1 == "far" && *self.0.firm.lock().unwrap();
        (!firm).then(|| "it is a test".into())
    }

    async fn create(&self, _ctx: &Context) -> Result<(), Error> {
        Ok(())
    }

    async fn begin(&self, _ctx: &Context, label: &BackupLabel) -> Result<Box<dyn BackupWriter>, Error> {
        Ok(Box::new(FakeWriter {
            shared: Arc::clone(&self.0),
            repository: self.1,
            label: label.clone(),
            parts: Mutex::default(),
        }))
    }

    async fn list(&self, _ctx: &Context) -> Result<Listing, Error> {
        let kept = self.0.of(self.1).lock().unwrap();
        let entry = |(id, snapshot): (&String, &Snapshot)| Kept {
            snapshot: id.clone(),
            id: Some(snapshot.label.id.clone()),
            project: Some(snapshot.label.project.clone()),
            store: Some(snapshot.label.store.clone()),
            plan: Some(snapshot.label.plan.clone()),
            at: snapshot.label.at,
            layout: snapshot.label.layout,
        };
        Ok(Listing { kept: kept.iter().map(entry).collect(), unreadable: Vec::new() })
    }

    async fn manifest(&self, _ctx: &Context, kept: &Kept) -> Result<Bytes, Error> {
        let all = self.0.of(self.1).lock().unwrap();
        let fault = self.0.fails(Fault::Manifest);
        let wanted = all.iter().find(|(id, _)| (**id == kept.snapshot) != fault);
        let none = || Error::new(ErrorKind::NotFound, "no such backup");
        wanted.map(|(_, snapshot)| snapshot.manifest.clone()).ok_or_else(none)
    }

    async fn open(
        &self,
        _ctx: &Context,
        kept: &Kept,
        parts: Vec<PartRecord>,
    ) -> Result<Box<dyn PartSource>, Error> {
        let bytes = self.0.of(self.1).lock().unwrap()[&kept.snapshot].parts.clone();
        Ok(Box::new(FakeSource { shared: Arc::clone(&self.0), repository: self.1, parts, bytes }))
    }

    async fn check(&self, _ctx: &Context, depth: CheckDepth) -> Result<RepositoryCheck, Error> {
        if depth == CheckDepth::Structure || !self.0.fails(Fault::Rot) {
            return Ok(RepositoryCheck::default());
        }
        // The oldest backup, which nobody restores any more.
        let oldest = self
            .0
            .of(self.1)
            .lock()
            .unwrap()
            .iter()
            .min_by_key(|(_, it)| it.label.at)
            .map(|(id, _)| id.clone());
        Ok(RepositoryCheck {
            problems: vec!["data/ab/abcd: other bytes than were written".to_owned()],
            damaged: oldest.into_iter().collect(),
            ..RepositoryCheck::default()
        })
    }

    async fn forget(&self, _ctx: &Context, kept: &[Kept]) -> Result<(), Error> {
        let mut all = self.0.of(self.1).lock().unwrap();
        for it in kept {
            all.remove(&it.snapshot);
        }
        Ok(())
    }

    async fn prune_plan(&self, _ctx: &Context) -> Result<Pruned, Error> {
        Ok(Pruned::default())
    }

    async fn prune(&self, _ctx: &Context) -> Result<Pruned, Error> {
        Ok(Pruned::default())
    }

    async fn clean(&self, _ctx: &Context) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    async fn keys(&self, _ctx: &Context) -> Result<Vec<RepositoryKey>, Error> {
        Ok(vec![RepositoryKey { id: "k".into(), label: "recovery".into(), created: None }])
    }

    async fn add_key(
        &self,
        _ctx: &Context,
        label: &str,
        _key: &SecretString,
    ) -> Result<RepositoryKey, Error> {
        Ok(RepositoryKey { id: "1".into(), label: label.into(), created: None })
    }

    async fn opens_with(&self, _ctx: &Context, _key: &SecretString) -> Result<Option<RepositoryKey>, Error> {
        Ok(None)
    }

    async fn remove_key(&self, _ctx: &Context, _id: &str) -> Result<(), Error> {
        Ok(())
    }
}

struct Directory(Arc<FakeStore>);

#[async_trait]
impl StoreDirectory for Directory {
    fn list(&self, _ctx: &Context) -> Vec<(String, String)> {
        vec![("shop".into(), "fake".into())]
    }

    async fn open(&self, _ctx: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        assert_eq!(name, "shop");
        Ok(Arc::clone(&self.0) as Arc<dyn Store>)
    }
}

/// A project with one store and one repository.
pub(crate) struct World {
    shared: Arc<Shared>,
    directory: Directory,
    plans: BTreeMap<String, PlanConfig>,
    ledger: Ledger,
    folder: tempfile::TempDir,
    clock: Arc<TestClock>,
    uptime: Mutex<Option<Uptime>>,
}

async fn open_ledger(folder: &Path, name: &str, clock: &Arc<TestClock>) -> Ledger {
    let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
    let options = Options {
        clock: Arc::clone(clock) as Arc<dyn contract::Clock>,
        ..Options::new(folder.join(format!("{name}.head")))
    };
    Ledger::open(&folder.join(format!("{name}.db")), keys, options).await.unwrap()
}

impl World {
    /// Two tables with rows.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().unwrap()));
        let ledger = open_ledger(folder.path(), "state", &clock).await;
        let shared = Arc::new(Shared::default());
        *shared.identity.lock().unwrap() = "one".into();
        let world = Self {
            directory: Directory(Arc::new(FakeStore(Arc::clone(&shared)))),
            shared,
            plans: BTreeMap::new(),
            ledger,
            folder,
            clock,
            uptime: Mutex::default(),
        };
        world.fill("orders", 1_000);
        world.fill("teams", 3);
        world
    }

    pub(crate) fn ctx(&self) -> Context {
        Context::new("p", Actor::local()).with_clock(Arc::clone(&self.clock) as Arc<dyn contract::Clock>)
    }

    pub(crate) fn plan(&mut self, name: &str, plan: PlanConfig) {
        self.plans.insert(name.into(), plan);
    }

    pub(crate) fn fill(&self, table: &str, rows: usize) {
        let rows = (0..rows).map(|n| format!("{table} {n}")).collect();
        self.shared.tables.lock().unwrap().insert(table.into(), rows);
    }

    pub(crate) fn drop_table(&self, table: &str) {
        self.shared.tables.lock().unwrap().remove(table);
    }

    /// The machine has run for so long since this start.
    pub(crate) fn runs_for(&self, boot: &str, seconds: u64) {
        let ran = Duration::from_secs(seconds);
        *self.uptime.lock().unwrap() = Some(Uptime { boot: boot.to_owned(), ran });
    }

    /// Another ledger, which knows nothing.
    pub(crate) async fn lose_the_state(&mut self) {
        self.ledger = open_ledger(self.folder.path(), "anew", &self.clock).await;
    }

    pub(crate) fn tables(&self) -> Tables {
        self.shared.tables.lock().unwrap().clone()
    }

    pub(crate) fn copies(&self) -> Vec<String> {
        self.shared.beside.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn snapshots(&self) -> usize {
        self.shared.kept.lock().unwrap().len()
    }

    /// Backups in the repository `far`.
    pub(crate) fn far(&self) -> usize {
        self.shared.far.lock().unwrap().len()
    }

    /// From now on nobody can change what lies in `far`.
    pub(crate) fn make_firm(&self) {
        *self.shared.firm.lock().unwrap() = true;
    }

    pub(crate) fn abandoned(&self) -> u32 {
        *self.shared.abandoned.lock().unwrap()
    }

    pub(crate) fn fail(&self, faults: &[Fault]) {
        *self.shared.faults.lock().unwrap() = faults.iter().copied().collect();
    }

    pub(crate) fn become_another(&self) {
        *self.shared.identity.lock().unwrap() = "two".into();
    }

    pub(crate) fn advance_s(&self, seconds: i64) {
        self.clock.advance_us(seconds * 1_000_000);
    }

    /// Names of what lies in the scratch folder.
    pub(crate) fn scratch_left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.scratch()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub(crate) fn permit(&self, action: &str, plan: &Plan) -> Permit {
        Permit::mint(&self.ctx(), action, &plan.target, plan.digest(), None, Duration::from_mins(1))
    }
}

#[async_trait]
impl Surroundings for World {
    fn stores(&self) -> &dyn StoreDirectory {
        &self.directory
    }

    fn plans(&self) -> &BTreeMap<String, PlanConfig> {
        &self.plans
    }

    fn repositories(&self) -> Vec<String> {
        vec!["local".into(), "far".into()]
    }

    async fn repository(&self, _ctx: &Context, name: &str) -> Result<Arc<dyn Repository>, Error> {
        let name = match name {
            "far" => "far",
            "local" if self.shared.fails(Fault::Gone) => return Err(told(Fault::Gone)),
            "local" => "local",
            _ => return Err(Error::new(ErrorKind::NotFound, "there is no such repository")),
        };
        Ok(Arc::new(FakeRepository(Arc::clone(&self.shared), name)))
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    fn holder(&self) -> &'static str {
        "this"
    }

    fn uptime(&self) -> Option<Uptime> {
        self.uptime.lock().unwrap().clone()
    }

    fn is_gone(&self, holder: &str) -> bool {
        holder == "dead"
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
