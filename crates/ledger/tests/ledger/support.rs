//! A ledger in a directory of its own, and a way to its file behind its back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use contract::{Actor, Context};
use ledger::{EventFilter, Keys, Ledger, NewEvent, Options};
use secrecy::SecretBox;
use serde_json::json;
use tempfile::TempDir;

pub(crate) struct Home {
    pub(crate) directory: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("state").join("state.db")
    }

    pub(crate) fn head(&self) -> PathBuf {
        self.directory.path().join("state").join("audit.head")
    }

    pub(crate) async fn open(&self) -> Ledger {
        open(&self.path()).await.unwrap()
    }

    /// A ledger of `events` entries, closed, so that its file is complete without a log.
    pub(crate) async fn with_events(events: u64) -> Self {
        let home = Self::new();
        let ledger = home.open().await;
        let ctx = ctx();
        for i in 1..=events {
            ledger.append(&ctx, event(i)).await.unwrap();
        }
        ledger.close().await.unwrap();
        home
    }

    /// The same state in another directory.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        std::fs::create_dir(copy.path().parent().unwrap()).unwrap();
        std::fs::copy(self.path(), copy.path()).unwrap();
        if self.head().exists() {
            std::fs::copy(self.head(), copy.head()).unwrap();
        }
        copy
    }

    /// The file as someone opens it who wants to change history.
    pub(crate) fn raw(&self) -> rusqlite::Connection {
        let raw = rusqlite::Connection::open(self.path()).unwrap();
        for trigger in [
            "events_not_updated",
            "events_not_deleted",
            "bodies_not_updated",
            "bodies_deleted_only_after_erasure",
        ] {
            raw.execute_batch(&format!("DROP TRIGGER {trigger}")).unwrap();
        }
        raw
    }
}

pub(crate) fn keys(seed: u8) -> Keys {
    Keys { seal: SecretBox::new(Box::new([seed; 32])), sign: SecretBox::new(Box::new([seed + 1; 32])) }
}

pub(crate) fn options(path: &Path) -> Options {
    Options::new(path.with_file_name("audit.head"))
}

pub(crate) async fn open(path: &Path) -> Result<Ledger, contract::Error> {
    Ledger::open(path, keys(7), options(path)).await
}

pub(crate) async fn open_read_only(path: &Path) -> Result<Ledger, contract::Error> {
    Ledger::open(path, keys(7), Options { read_only: true, ..options(path) }).await
}

pub(crate) fn ctx() -> Context {
    Context::new("shop", Actor::local())
}

pub(crate) fn event(number: u64) -> NewEvent {
    NewEvent::new(format!("test.kind{}", number % 3), format!("thing:{number}"), json!({ "number": number }))
}

pub(crate) async fn all(ledger: &Ledger) -> Vec<ledger::Event> {
    ledger.events(EventFilter::default().limit(10_000)).await.unwrap()
}

/// Starts this test binary again, to run only the test `role`, which does nothing unless it is started so.
pub(crate) fn child(role: &str, state: &Path, name: &str) -> Child {
    command(&std::env::current_exe().unwrap(), role, state, name).spawn().unwrap()
}

pub(crate) fn command(binary: &Path, role: &str, state: &Path, name: &str) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["--exact", role, "--nocapture", "--test-threads=1"])
        .env("LEDGER_TEST_STATE", state)
        .env("LEDGER_TEST_NAME", name)
        .stdout(Stdio::piped());
    command
}

/// The state file and the name for a test that was started by [`child`].
pub(crate) fn role() -> Option<(PathBuf, String)> {
    Some((PathBuf::from(std::env::var_os("LEDGER_TEST_STATE")?), std::env::var("LEDGER_TEST_NAME").ok()?))
}
