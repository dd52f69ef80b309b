//! A repository in a folder of its own, over a place that can be told to fail.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Actor, BackupLabel, Committed, Context, Error, Kept, Layout, Part, PartBody, PartRecord, Repository,
    SecretSource, TestClock,
};
use jiff::Timestamp;
use secrecy::SecretString;
use tempfile::TempDir;

use crate::error::{Fault, FaultKind};
use crate::local::Local;
use crate::lock::Timing;
use crate::objects::{Found, Objects};
use crate::repository::{Limits, ResticRepository};
use crate::seal::Key;

/// What a place is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// Such as `create`.
    pub(super) what: &'static str,
    /// Such as `data`.
    pub(super) folder: String,
}

/// Says whether a call fails: before it was done, or after.
pub(super) enum Answer {
    Do,
    Fail(FaultKind),
    DoAndFail(FaultKind),
}

type Judge = Box<dyn FnMut(&Call) -> Answer + Send>;

/// A place that asks before each call.
pub(super) struct Faulty {
    inner: Local,
    pub(super) judge: Arc<Mutex<Judge>>,
}

impl Faulty {
    fn ask<T>(
        &self,
        what: &'static str,
        path: &str,
        call: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let folder = path.split('/').next().unwrap_or_default().to_owned();
        let answer = (self.judge.lock().unwrap())(&Call { what, folder });
        let fault = |kind| Fault::new(kind, format!("cannot {what} `{path}`: told to fail"));
        match answer {
            Answer::Do => call(),
            Answer::Fail(kind) => Err(fault(kind)),
            Answer::DoAndFail(kind) => call().and(Err(fault(kind))),
        }
    }
}

impl Objects for Faulty {
    fn address(&self) -> String {
        self.inner.address()
    }

    fn prepare(&self) -> Result<(), Fault> {
        self.ask("prepare", "", || self.inner.prepare())
    }

    fn list(&self, folder: &str) -> Result<Vec<Found>, Fault> {
        self.ask("list", folder, || self.inner.list(folder))
    }

    fn read(&self, path: &str) -> Result<Bytes, Fault> {
        self.ask("read", path, || self.inner.read(path))
    }

    fn read_range(&self, path: &str, start: u64, length: u64) -> Result<Bytes, Fault> {
        self.ask("read", path, || self.inner.read_range(path, start, length))
    }

    fn create(&self, path: &str, content: &[Bytes]) -> Result<(), Fault> {
        self.ask("create", path, || self.inner.create(path, content))
    }

    fn remove(&self, path: &str) -> Result<(), Fault> {
        self.ask("remove", path, || self.inner.remove(path))
    }

    fn put_aside(&self, path: &str, to: &str) -> Result<(), Fault> {
        self.ask("put_aside", path, || self.inner.put_aside(path, to))
    }

    fn unfinished(&self) -> Result<Vec<Found>, Fault> {
        self.inner.unfinished()
    }
}

struct Vault(SecretString);

#[async_trait]
impl SecretSource for Vault {
    async fn secret(&self, _ctx: &Context, _name: &str) -> Result<SecretString, Error> {
        Ok(self.0.clone())
    }
}

/// A folder with a repository.
pub(super) struct Home {
    pub(super) root: PathBuf,
    pub(super) key: Arc<Key>,
    pub(super) limits: Limits,
    pub(super) judge: Arc<Mutex<Judge>>,
    pub(super) clock: Arc<TestClock>,
    _folder: Option<TempDir>,
}

impl Home {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Self::at(folder.path(), Key::random().unwrap());
        Self { _folder: Some(folder), ..home }
    }

    pub(super) fn at(root: &Path, key: Key) -> Self {
        let timing = Timing { settle: Duration::ZERO, ..Timing::default() };
        Self {
            root: root.to_owned(),
            key: Arc::new(key),
            limits: Limits { timing, ..Limits::default() },
            judge: Arc::new(Mutex::new(Box::new(|_| Answer::Do))),
            clock: Arc::new(TestClock::at(Timestamp::now())),
            _folder: None,
        }
    }

    pub(super) fn ctx(&self) -> Context {
        Context::new("shop", Actor::local()).with_clock(self.clock.clone())
    }

    pub(super) fn objects(&self, layout: Layout) -> Arc<dyn Objects> {
        let inner = Local::new(self.root.join(crate::place::folder_of(layout)));
        Arc::new(Faulty { inner, judge: Arc::clone(&self.judge) })
    }

    pub(super) fn repository(&self) -> ResticRepository {
        let vault = Arc::new(Vault(self.key.to_text()));
        let objects = [self.objects(Layout::Stream), self.objects(Layout::Pages)];
        ResticRepository::over("nightly", "here", "repository/nightly", vault, objects, self.limits)
    }

    /// The same, made.
    pub(super) async fn created(&self) -> ResticRepository {
        let repository = self.repository();
        repository.create(&self.ctx()).await.unwrap();
        repository
    }

    /// From now on every call is judged so.
    pub(super) fn judge(&self, judge: impl FnMut(&Call) -> Answer + Send + 'static) {
        *self.judge.lock().unwrap() = Box::new(judge);
    }

    pub(super) fn calm(&self) {
        self.judge(|_| Answer::Do);
    }

    /// The files below a folder of the repository for rows.
    pub(super) fn files(&self, folder: &str) -> Vec<PathBuf> {
        let local = Local::new(self.root.join("stream"));
        let mut files: Vec<PathBuf> = local
            .list(folder)
            .unwrap()
            .into_iter()
            .map(|found| self.root.join("stream").join(found.path))
            .collect();
        files.sort();
        files
    }

    pub(super) fn label(&self, id: &str) -> BackupLabel {
        // No two backups begin at the same moment.
        self.clock.advance_us(1000);
        BackupLabel {
            id: id.into(),
            project: "shop".into(),
            store: "orders".into(),
            plan: "nightly".into(),
            at: contract::Clock::now(&*self.clock),
            layout: Layout::Stream,
        }
    }

    /// Writes the backup with the contents of `seed`.
    pub(super) async fn write(&self, repository: &ResticRepository, seed: u64) -> Result<Committed, Error> {
        let writer = repository.begin(&self.ctx(), &self.label(&seed.to_string())).await?;
        for (path, bytes) in contents(seed) {
            writer.put(Part { path, body: PartBody::Bytes(bytes) }).await?;
        }
        writer.commit(Box::new(manifest)).await
    }

    /// All backups that are listed, each with whether it is whole.
    pub(super) async fn kept(&self, repository: &ResticRepository) -> Vec<Kept> {
        repository.list(&self.ctx()).await.unwrap().kept
    }

    /// Reads a backup back and compares it with what its id says was written.
    pub(super) async fn restores(&self, repository: &ResticRepository, kept: &Kept) -> Result<(), Error> {
        let seed = kept.id.as_ref().unwrap().parse().unwrap();
        let manifest = repository.manifest(&self.ctx(), kept).await?;
        let records = listed(&manifest);
        let source = repository.open(&self.ctx(), kept, records.clone()).await?;
        let contents = contents(seed);
        assert_eq!(records.len(), contents.len());
        for (path, bytes) in contents {
            assert!(source.read(&path).await? == bytes, "{path} came back otherwise");
        }
        Ok(())
    }
}

/// Parts that depend on `seed`, with one that all have.
pub(super) fn contents(seed: u64) -> Vec<(String, Bytes)> {
    vec![
        ("a/empty".into(), Bytes::new()),
        ("a/one".into(), noise(1, seed)),
        ("b/common".into(), noise(700_000, 0)),
        ("b/own".into(), noise(1_500_000, seed)),
        ("c".into(), Bytes::from(format!("rows of {seed}\n").repeat(1000))),
    ]
}

pub(super) fn manifest(parts: &[PartRecord]) -> Bytes {
    serde_json::to_vec(&serde_json::json!({ "parts": parts })).unwrap().into()
}

/// The parts that a manifest lists.
pub(super) fn listed(manifest: &[u8]) -> Vec<PartRecord> {
    let mut manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    serde_json::from_value(manifest["parts"].take()).unwrap()
}

/// Numbers that follow from a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }
}

pub(super) fn noise(length: usize, seed: u64) -> Bytes {
    let mut dice = Dice::new(seed);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| dice.next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes.into()
}

/// How many cases a loop runs.
pub(super) fn cases(short: u64, full: u64) -> u64 {
    if std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1") { full } else { short }
}
