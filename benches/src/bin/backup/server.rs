//! A PostgreSQL server of this run alone, with the settings that a server is run with.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Names the server in programs' arguments.
pub(crate) struct Server {
    pub(crate) bin: PathBuf,
    pub(crate) port: u16,
    pub(crate) data: PathBuf,
    process: std::process::Child,
}

/// The programs of the newest version that is installed.
pub(crate) fn newest() -> io::Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions.pop().map(|(_, bin)| bin).ok_or_else(|| io::Error::other("no PostgreSQL server is installed"))
}

/// A command of somebody who is not root, as whom the server refuses to run.
pub(crate) fn as_somebody(program: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-user=1000", "--map-group=1000"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

impl Server {
    /// Makes a new one in `data` and starts it.
    pub(crate) fn make(bin: &Path, data: &Path, settings: &[&str]) -> io::Result<Self> {
        let mut made = as_somebody(&bin.join("initdb"));
        made.arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        crate::process::good(&mut made, None)?;
        Self::start(bin, data, settings)
    }

    /// Starts one whose files are there, and waits until it answers.
    pub(crate) fn start(bin: &Path, data: &Path, settings: &[&str]) -> io::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = as_somebody(&bin.join("postgres"));
        command.arg("-D").arg(data).args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        command.arg("-k").arg(data);
        for setting in ["shared_buffers=256MB", "max_wal_size=4GB"].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let log = std::fs::File::create(data.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut server = Self { bin: bin.to_owned(), port, data: data.to_owned(), process: command.spawn()? };
        loop {
            if let Some(status) = server.process.try_wait()? {
                let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("the server ended with {status}: {log}")));
            }
            let ready = server.program("psql").args(["-d", "postgres", "-c", "SELECT 1"]).output()?;
            if ready.status.success() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A client program that reaches it.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Runs statements.
    pub(crate) fn run(&self, database: &str, sql: &str) -> io::Result<String> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        Ok(crate::process::good(&mut psql, None)?.1.trim().to_owned())
    }

    /// Loses it with its disk, in the middle of what it does.
    pub(crate) fn lose(&self) -> io::Result<()> {
        let sessions = crate::process::children(self.id())?;
        for id in [self.id()].into_iter().chain(sessions).filter_map(crate::process::process_id) {
            // It may have ended by itself.
            rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap_or_default();
        }
        std::fs::remove_dir_all(&self.data)
    }

    /// Fills a table.
    pub(crate) fn copy(
        &self,
        database: &str,
        table: &str,
        rows: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c"]);
        let mut psql = psql.arg(format!("COPY {table} FROM STDIN")).stdin(Stdio::piped()).spawn()?;
        if let Some(stdin) = psql.stdin.take() {
            let mut stdin = io::BufWriter::with_capacity(1 << 20, stdin);
            rows(&mut stdin)?;
            stdin.flush()?;
        }
        if psql.wait()?.success() { Ok(()) } else { Err(io::Error::other("COPY failed")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(id) = crate::process::process_id(self.id()) {
            // Fast: open sessions end.
            rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap_or_default();
        }
        drop(self.process.wait());
    }
}
