//! One run: what has happened to its home so far, and processes that work in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::disk::Disk;

pub(crate) const FOLDER: &str = "STEWARD_TEST_FAULTS_FOLDER";
pub(crate) const WORK: &str = "STEWARD_TEST_FAULTS_WORK";
pub(crate) const DAYS: &str = "STEWARD_TEST_FAULTS_DAYS";
/// A disk that is filled at the moment of [`WORK`], and how many bytes stay free.
pub(crate) const FILL: &str = "STEWARD_TEST_FAULTS_FILL";

/// Where it stops at the moment of [`WORK`] and does not die.
pub(crate) const STOP: &str = "STEWARD_TEST_FAULTS_STOP";

/// What a shell says of a process that was killed by SIGABRT.
const ABORTED: i32 = 128 + 6;

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// What a run has done so far, so that a failure can say it.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) folder: PathBuf,
    pub(crate) told: Vec<String>,
    /// All that anybody was told.
    pub(crate) said: String,
    /// Of which kind a file was damaged, such as `index`; with its folder.
    pub(crate) harmed: Option<(&'static str, &'static str)>,
    /// The name of that file.
    pub(crate) harmed_file: String,
    /// Something was done to the keys.
    pub(crate) tended: bool,
    /// It is one of the runs over the server.
    pub(crate) over_server: bool,
    pub(crate) days: i64,
}

impl Run {
    pub(crate) fn new(seed: u64, folder: &Path) -> Self {
        Self {
            seed,
            folder: folder.to_owned(),
            told: Vec::new(),
            said: String::new(),
            harmed: None,
            harmed_file: String::new(),
            tended: false,
            over_server: false,
            days: 0,
        }
    }

    pub(crate) fn case(&self) -> String {
        format!("STEWARD_TEST_SEED={}: {}", self.seed, self.told.join("; "))
    }

    pub(crate) fn tells(&self, word: &str) -> bool {
        self.told.iter().any(|told| told.contains(word))
    }

    /// Starts a process that does one thing and may die in the middle, such as `backup@put:2`.
    pub(crate) fn process(&self, work: &str, disk: Option<&Disk>) -> std::process::Child {
        self.process_with(work, disk, &[])
    }

    pub(crate) fn process_with(
        &self,
        work: &str,
        disk: Option<&Disk>,
        more: &[(&str, String)],
    ) -> std::process::Child {
        let myself = std::env::current_exe().unwrap();
        let mut command = match disk {
            Some(disk) => disk.command(&self.folder, &myself),
            None => Command::new(myself),
        };
        command
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(FOLDER, &self.folder)
            .envs(more.iter().map(|(name, value)| (name, value)))
            .env(WORK, work)
            .env(DAYS, self.days.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("`unshare` of util-linux is needed")
    }

    /// Waits for its end; whether it was the end that the moment had for it.
    pub(crate) fn ended(&mut self, child: std::process::Child) -> Result<bool, String> {
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        self.said.push_str(&stderr);
        let died = std::os::unix::process::ExitStatusExt::signal(&status).is_some()
            || status.code() == Some(ABORTED);
        let worked = status.success() && stdout.contains("1 passed");
        if died || worked { Ok(died) } else { Err(format!("a process failed: {stdout}{stderr}")) }
    }
}
