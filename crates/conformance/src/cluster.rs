//! A PostgreSQL server of one test's own, which may be stopped, killed, promoted and filled up.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a server to start or stop; far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// The server ends with the pipe, however the test ends.
const WATCH: &str = r#"
number=$1; shift
"$@" </dev/null &
echo $! >"$number"
read -r word
kill "-${word:-QUIT}" $! 2>/dev/null
wait $!
"#;

/// A server with its data directory; both are gone with the handle.
pub struct Cluster {
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    settings: Vec<String>,
    watcher: Option<Child>,
}

/// The folder of the programs of the server at this URL, as `testbed` installs them: those that the shared servers run from.
///
/// # Panics
///
/// There are none of this version.
pub fn programs(version: u32) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache =
        std::env::var_os("TESTBED_HOME").map_or_else(|| home.join(".cache/steward-testbed"), PathBuf::from);
    let installed = cache.join(format!("deb/postgres{version}/usr/lib/postgresql/{version}/bin"));
    let own = PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
    let found = [installed, own].into_iter().find(|folder| folder.join("initdb").is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no programs of PostgreSQL {version}: install them with `testbed/testbed up postgres{version}`"
        )
    })
}

/// The words that make a command run as somebody who is not root.
fn as_somebody() -> Vec<String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let words = if is_root { "unshare --user --map-user=1000 --map-group=1000" } else { "env" };
    words.split(' ').map(str::to_owned).collect()
}

impl Cluster {
    /// A new server; `settings` such as `wal_level=minimal` are added to what is fast.
    ///
    /// # Panics
    ///
    /// It cannot be made.
    pub fn new(programs: &Path, options: &[&str], settings: &[&str]) -> Self {
        let mut cluster = Self::empty(programs, settings);
        let data = cluster.data();
        let mut arguments = vec!["-D", data.to_str().expect("a path of ours"), "-U", "postgres"];
        arguments.extend(["-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]);
        arguments.extend(options);
        let made = cluster.program("initdb", &arguments);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        cluster.start();
        cluster
    }

    /// A copy of another that follows it until it is promoted.
    ///
    /// # Panics
    ///
    /// It cannot be made.
    pub fn standby_of(other: &Self, settings: &[&str]) -> Self {
        let mut cluster = Self::empty(&other.programs, settings);
        let (data, port) = (cluster.data(), other.port.to_string());
        let data = data.to_str().expect("a path of ours");
        let arguments =
            ["-D", data, "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-R", "-c", "fast", "--no-sync"];
        let made = cluster.program("pg_basebackup", &arguments);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        cluster.start();
        cluster
    }

    fn empty(programs: &Path, settings: &[&str]) -> Self {
        // Nobody else is given this port soon: the system hands them out in turn.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("it is bound").port();
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            programs: programs.to_owned(),
            port,
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            watcher: None,
        }
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder beside the data directory that the server can use.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of its programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs a program of the server's as who runs the server.
    ///
    /// # Panics
    ///
    /// It cannot be run.
    pub fn program(&self, name: &str, arguments: &[&str]) -> Output {
        let words = as_somebody();
        Command::new(&words[0])
            .args(&words[1..])
            .arg(self.programs.join(name))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// What `psql` prints without decoration; fails the test on an error.
    ///
    /// # Panics
    ///
    /// The statement fails.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let url = self.url(database);
        let ran = self
            .program("psql", &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", statement]);
        assert!(ran.status.success(), "{statement}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn start(&mut self) {
        assert!(self.watcher.is_none(), "it runs");
        let words = as_somebody();
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("a log");
        let mut watch = Command::new("/bin/sh");
        watch.args(["-c", WATCH, "steward-cluster"]).arg(self.folder.path().join("number")).args(&words);
        watch.arg(self.programs.join("postgres")).arg("-D").arg(self.data());
        watch.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-c", "unix_socket_directories="]);
        let fast = ["fsync=off", "shared_buffers=16MB", "max_connections=30", "autovacuum=off"];
        // A log is followed where a forgotten slot cannot fill the disk.
        for setting in fast.into_iter().chain(["max_slot_wal_keep_size=4GB"]) {
            watch.args(["-c", setting]);
        }
        for setting in &self.settings {
            watch.args(["-c", setting]);
        }
        watch.stdin(Stdio::piped()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.watcher = Some(watch.spawn().expect("a shell"));
        let until = Instant::now() + PATIENCE;
        let port = self.port.to_string();
        loop {
            let ready = self.program("pg_isready", &["-q", "-h", "127.0.0.1", "-p", &port]);
            if ready.status.success() {
                return;
            }
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "the server does not start: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it by this signal: `INT` in good order, `QUIT` at once.
    pub fn stop(&mut self, signal: &str) {
        let Some(mut watcher) = self.watcher.take() else { return };
        if let Some(mut pipe) = watcher.stdin.take() {
            writeln!(pipe, "{signal}").ok();
        }
        watcher.wait().ok();
    }

    /// Makes a standby a primary on a timeline of its own.
    ///
    /// # Panics
    ///
    /// It is none.
    pub fn promote(&self) {
        self.sql("postgres", "SELECT pg_promote(true)");
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop("QUIT");
    }
}
