//! Runs the built program in a project folder of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for another process; far above what is promised, because the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(2);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The answer of a run with `--json`.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// A project folder that is removed at the end.
pub(crate) struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    /// A folder with this `steward.yaml`.
    pub(crate) fn new(yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("steward.yaml"), yaml).unwrap();
        Self { dir }
    }

    /// A folder with nothing in it.
    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A folder with one SQLite store `app` made by these statements.
    pub(crate) fn with_sqlite(yaml: &str, sql: &str) -> Self {
        let project = Self::new(&format!("{yaml}\nstores:\n  app:\n    kind: sqlite\n    path: app.db\n"));
        project.database().execute_batch(sql).unwrap();
        project
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let file = self.file(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    /// The store's file, opened past Steward.
    pub(crate) fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.file("app.db")).unwrap()
    }

    /// The state file, opened past Steward.
    pub(crate) fn state(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.file(".steward/state.db")).unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steward"));
        command
            .current_dir(self.path())
            .args(args)
            .env_remove("STEWARD_PROJECT_FILE")
            .env_remove("STEWARD_LOG");
        command
    }

    /// Runs with nothing on standard input.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.run_with_input(args, "")
    }

    /// Runs with this text piped in.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Ended {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read its input may be gone already.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs with `--json` and gives the answer.
    pub(crate) fn answer(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        self.run(&args).json()
    }

    /// Writes migration files of the store `app`.
    pub(crate) fn migrations(&self, files: &[(&str, &str)]) {
        for (name, sql) in files {
            self.write(&format!("migrations/app/{name}"), sql);
        }
    }

    /// The first column of the answer, from the store `app` past Steward.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.database().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// A bearer token with this role.
    pub(crate) fn token(&self, name: &str, role: &str) -> String {
        let made = self.run(&["token", "create", name, "--role", role]).expect(0);
        made.stdout.split_whitespace().find(|word| word.starts_with("stw_")).unwrap().to_owned()
    }

    /// Open escalations whose trigger is this one.
    pub(crate) fn escalations(&self, trigger: &str) -> Vec<Value> {
        let inbox = self.answer(&["inbox", "list"]);
        let all = inbox["value"]["escalations"].as_array().or_else(|| inbox["value"].as_array());
        all.unwrap_or_else(|| panic!("{inbox}"))
            .iter()
            .filter(|one| one["trigger"] == trigger)
            .cloned()
            .collect()
    }

    /// Runs on a pseudo-terminal and types these lines, each when the program asks (its output ends without a line break).
    pub(crate) fn run_on_terminal(&self, args: &[&str], lines: &[&str]) -> Ended {
        let (master, slave) = pseudo_terminal();
        let slave = File::from(slave);
        // `setsid --ctty` makes it the controlling terminal, as a login does.
        let mut child = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_steward")])
            .args(args)
            .current_dir(self.path())
            .env_remove("STEWARD_PROJECT_FILE")
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::from(slave.try_clone().unwrap()))
            .stderr(Stdio::from(slave))
            .spawn()
            .unwrap();
        let mut terminal = File::from(master);
        let mut out = Vec::new();
        let mut lines = lines.iter();
        let mut buffer = [0; 4096];
        // A read fails once the last process has closed the terminal.
        while let Ok(count @ 1..) = terminal.read(&mut buffer) {
            out.extend_from_slice(&buffer[..count]);
            if out.ends_with(b": ") || out.ends_with(b"[y/N] ") {
                if out.ends_with(b": ") && !asks_in_silence(&terminal, &mut child) {
                    continue; // Only the beginning of a line.
                }
                // Ctrl-D once all lines are typed, so that a question nobody expected ends the run.
                let line = lines.next().map_or("\x04".to_owned(), |line| format!("{line}\n"));
                terminal.write_all(line.as_bytes()).unwrap();
            }
        }
        let code = child.wait().unwrap().code().unwrap_or(-1);
        Ended { code, stdout: String::from_utf8_lossy(&out).into_owned(), stderr: String::new() }
    }

    /// Makes a person with this passphrase and these roles; the first one needs nobody to vouch.
    pub(crate) fn add_person(&self, name: &str, passphrase: &str, roles: &[&str]) {
        let mut args = vec!["person", "add", name];
        for role in roles {
            args.extend(["--role", role]);
        }
        self.run_on_terminal(&args, &[passphrase, passphrase]).expect(0);
    }

    /// Starts the daemon and waits until it listens.
    pub(crate) fn daemon(&self, args: &[&str]) -> Daemon {
        let yaml = std::fs::read_to_string(self.file("steward.yaml")).unwrap();
        if !yaml.contains("listen:") {
            self.write("steward.yaml", format!("{yaml}\nhttp:\n  listen: 127.0.0.1:0\n"));
        }
        let log = File::create(self.file("daemon.log")).unwrap();
        let mut all = vec!["up"];
        all.extend(args);
        let child =
            self.command(&all).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Daemon::listening(child, &self.file("daemon.log"))
    }
}

/// A running daemon, ended at the end.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Daemon {
    /// Waits until a daemon that was started says in its log that it listens.
    pub(crate) fn listening(child: Child, log: &Path) -> Self {
        let mut daemon = Daemon { child, url: String::new() };
        let until = Instant::now() + PATIENCE;
        while daemon.url.is_empty() {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            if let Some((_, rest)) = said.split_once("listens on ") {
                rest.split_whitespace().next().unwrap().clone_into(&mut daemon.url);
            }
            assert!(
                Instant::now() < until && daemon.child.try_wait().unwrap().is_none(),
                "no daemon: {said}"
            );
            // There is no event to wait for: the daemon is another process.
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) -> i32 {
        self.terminate();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// POST of a JSON body; status and answer.
    pub(crate) fn post(&self, token: &str, path: &str, body: &Value) -> (u16, Value) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let response = client().post(self.api(path)).bearer_auth(token).json(body).send().await.unwrap();
            (response.status().as_u16(), response.json().await.unwrap_or(Value::Null))
        })
    }

    /// The address of a request such as `store/inspect`.
    pub(crate) fn api(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.url)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An HTTP client that takes the tests' own certificates.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap()
}

/// Waits for something that another process does. There is no event to wait for, so this looks again and again; the
/// limit is far above what is promised, because the machine may be busy.
#[track_caller]
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until what is typed is not shown: a question for a passphrase appears a moment before that. False when the
/// program goes on writing, or ends: then it was no question.
fn asks_in_silence(terminal: &File, program: &mut Child) -> bool {
    use rustix::io::ioctl_fionread;
    use rustix::termios::{LocalModes, tcgetattr};
    let until = Instant::now() + PATIENCE;
    while tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO) {
        if ioctl_fionread(terminal).unwrap() > 0 || program.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < until, "it neither asks in silence nor goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave =
        open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (master, slave)
}
