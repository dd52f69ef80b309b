//! A PostgreSQL server of its own for one restore, reached through a socket that only we can open.
//!
//! It never outlives this process, however that ends: a shell that holds the other end of a pipe stops the server and
//! removes its folder as soon as the pipe closes, which the operating system sees to also when we are killed.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use contract::quantity::size;
use contract::{Context, Error, ErrorKind};
use tokio_postgres::{Client, NoTls};

use super::programs::{Libpq, PATH, Programs};
use crate::error::translate;

/// Longest path of a socket, below the operating system's 107 bytes.
const SOCKET_PATH_MAX: usize = 100;
/// Longest that the server may take to start.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// Who runs the server when we are root, which it refuses to run as: `nobody`.
const NOBODY: u32 = 65_534;
/// The port is only the socket's name.
const PORT: u16 = 5_432;

/// Arguments: the folder, the socket's folder, the file for the server's number, the command. What is written to the pipe
/// besides its end is `keep`, `stop` and `start`.
const WATCH: &str = r#"
folder=$1 sockets=$2 number=$3; shift 3
run() {
  "$@" </dev/null >"$folder/log" 2>&1 &
  server=$!
  echo "$server" >"$number"
}
run "$@"
while read -r word; do
  case $word in
  keep) exit 0 ;;
  stop) kill -INT "$server" 2>/dev/null; wait "$server"; echo "$?" >"$folder/stopped" ;;
  start) rm -f "$folder/stopped"; run "$@"; : >"$folder/started" ;;
  esac
done
kill -QUIT "$server" 2>/dev/null
wait "$server"
rm -rf -- "$folder" "$sockets"
"#;

/// Settings for a server whose contents can be made again at any time and that must not take the machine's memory.
const SETTINGS: [&str; 22] = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=2GB",
    "checkpoint_timeout=1h",
    "shared_buffers=64MB",
    "maintenance_work_mem=128MB",
    "max_connections=40",
    "max_locks_per_transaction=1024",
    "max_parallel_maintenance_workers=1",
    "autovacuum=off",
    "archive_mode=off",
    "max_logical_replication_workers=0",
    "lc_messages=C",
    "logging_collector=off",
    "log_destination=stderr",
    "unix_socket_permissions=0700",
    "dynamic_shared_memory_type=mmap",
    "huge_pages=off",
];

/// Libraries that start no processes of their own.
const WITHOUT_WORKERS: [&str; 6] =
    ["pg_stat_statements", "auto_explain", "pgaudit", "pg_hint_plan", "pg_stat_kcache", "passwordcheck"];

/// A running server.
pub(crate) struct ScratchServer {
    watcher: Option<Child>,
    folder: PathBuf,
    sockets: PathBuf,
    user: String,
    number: String,
}

/// The words before a command that make it run as somebody who is not root.
pub(crate) fn as_somebody() -> Result<(Vec<String>, Option<u32>), Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok((Vec::new(), None));
    }
    let split = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let works = |words: &[String]| {
        let ran = Command::new(&words[0])
            .args(&words[1..])
            .arg("true")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        ran.is_ok_and(|status| status.success())
    };
    // The same user under another number: all files stay where they can be read.
    let other_number = split("unshare --user --map-user=1000 --map-group=1000");
    if works(&other_number) {
        return Ok((other_number, None));
    }
    let nobody = split(&format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"));
    if works(&nobody) {
        return Ok((nobody, Some(NOBODY)));
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "a PostgreSQL server does not run as root, and nobody else can be found to run it",
    )
    .hint("run Steward as an ordinary user, or install `util-linux` with `setpriv`"))
}

fn cannot(what: &str) -> impl Fn(std::io::Error) -> Error {
    move |error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
            std::io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("the scratch server cannot be made: {what}")).because(error)
    }
}

/// What failed because a disk was full, as the operating system says it in the locale `C`, in which all of it runs; and what
/// the server hints at where a write was cut short.
const FULL: [&str; 3] = ["No space left on device", "Disk quota exceeded", "Check free disk space"];

/// The error of whatever was done below the folder: where its disk is full, that, and what it needs.
pub(crate) fn on_this_disk(error: Error, folder: &Path, bytes_needed: u64, log: &str) -> Error {
    let said = error.to_string();
    if !FULL.iter().any(|words| said.contains(words) || log.contains(words)) {
        return error;
    }
    // The operating system's own words, where there are some; otherwise the message.
    let why = said.lines().chain(log.lines()).find(|line| FULL[..2].iter().any(|words| line.contains(words)));
    let why = why.or_else(|| said.lines().next()).unwrap_or_default().trim_start();
    let why = why.strip_prefix("because: ").unwrap_or(why).to_owned();
    Error::new(ErrorKind::LimitExceeded, "the disk of the scratch folder is full")
        .with("folder", folder.display())
        .with("bytes_needed", bytes_needed)
        .because(why)
        .hint(format!(
            "the restore needs about {}: make room, or name another scratch folder",
            size(bytes_needed)
        ))
}

/// A command that is given nothing of our environment.
fn plain_command(somebody: &[String], program: &Path) -> Command {
    let mut words: Vec<std::ffi::OsString> = somebody.iter().map(Into::into).collect();
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.env_clear().env("LC_ALL", "C").env("PATH", PATH);
    command.current_dir("/");
    command
}

fn make_folder(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(cannot("its folder"))
}

impl ScratchServer {
    /// Makes a server below `folder`, which is ours alone, and waits until it answers; `preload` are libraries that it loads
    /// at its start. After an error nothing of it is left.
    pub(crate) async fn start(
        ctx: &Context,
        programs: &Programs,
        folder: &Path,
        user: &str,
        preload: &[String],
    ) -> Result<Self, Error> {
        let programs = programs.clone();
        let folder = std::path::absolute(folder).map_err(cannot("its folder"))?.join("server");
        let (user, preload) = (user.to_owned(), preload.to_vec());
        let made = tokio::task::spawn_blocking(move || Self::make(&programs, &folder, &user, &preload));
        let server =
            made.await.map_err(|_| Error::new(ErrorKind::Canceled, "the runtime is shutting down"))??;
        server.wait(ctx, Some(START_TIMEOUT)).await?;
        Ok(server)
    }

    /// Makes the folder of a server whose data directory somebody else fills, below `folder`, which is ours alone.
    /// `launch` starts it.
    pub(crate) fn prepare(folder: &Path, user: &str) -> Result<Self, Error> {
        let folder = std::path::absolute(folder).map_err(cannot("its folder"))?.join("server");
        let server = Self::claim(&folder, user)?;
        make_folder(&server.folder)?;
        make_folder(&server.sockets)?;
        make_folder(&server.data())?;
        Ok(server)
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its folder, which is removed with it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it on its data directory with a configuration file of its own, and waits until it answers. `others` are
    /// folders beside its own that it reads.
    pub(crate) async fn launch(
        &mut self,
        ctx: &Context,
        programs: &Programs,
        configuration: &str,
        others: &[PathBuf],
    ) -> Result<(), Error> {
        let (somebody, owner) = as_somebody()?;
        let (file, rules) = (self.folder.join("scratch.conf"), self.folder.join("scratch_hba.conf"));
        std::fs::write(&rules, "local all all trust\n").map_err(cannot("its rules"))?;
        self.configure(configuration)?;
        if let Some(owner) = owner {
            for path in [&self.folder, &self.sockets].into_iter().chain(others) {
                let all = Command::new("chown").arg("-R").arg(format!("{owner}:{owner}")).arg(path).status();
                if !all.map_err(cannot("its owner"))?.success() {
                    return Err(Error::new(
                        ErrorKind::Denied,
                        "the scratch server's files cannot be given to who runs it",
                    ));
                }
            }
            let above = self.folder.parent().unwrap_or(&self.folder);
            std::os::unix::fs::chown(above, Some(owner), Some(owner)).map_err(cannot("its owner"))?;
        }
        let mut watch = plain_command(&somebody, Path::new("/bin/sh"));
        watch
            .args(["-c", WATCH, "steward-scratch"])
            .arg(&self.folder)
            .arg(&self.sockets)
            .arg(self.folder.join("number"));
        watch.arg(programs.path("postgres")).arg("-D").arg(self.data());
        watch.arg("-c").arg(format!("config_file={}", file.display()));
        watch.arg("-c").arg(format!("hba_file={}", rules.display()));
        watch.arg("-c").arg(format!("unix_socket_directories={}", self.sockets.display()));
        watch.arg("-p").arg(PORT.to_string());
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        self.watcher = Some(watch.spawn().map_err(cannot("it cannot be started"))?);
        self.wait(ctx, None).await
    }

    /// What its configuration file says from its next start on.
    pub(crate) fn configure(&self, configuration: &str) -> Result<(), Error> {
        std::fs::write(self.folder.join("scratch.conf"), configuration).map_err(cannot("its configuration"))
    }

    /// Stops it in good order; it goes on with `again`.
    pub(crate) async fn pause(&mut self, ctx: &Context) -> Result<(), Error> {
        self.tell("stop\n")?;
        self.until(ctx, "stopped").await
    }

    /// Starts it anew after `pause`.
    pub(crate) async fn again(&mut self, ctx: &Context) -> Result<(), Error> {
        self.tell("start\n")?;
        // Before that, the log is still that of the server that was stopped.
        self.until(ctx, "started").await?;
        self.wait(ctx, None).await
    }

    fn tell(&mut self, word: &str) -> Result<(), Error> {
        let pipe = self.watcher.as_mut().and_then(|watcher| watcher.stdin.as_mut());
        let pipe = pipe.ok_or_else(|| Error::new(ErrorKind::Other, "nobody watches the scratch server"))?;
        pipe.write_all(word.as_bytes()).and_then(|()| pipe.flush()).map_err(cannot("its watcher is gone"))
    }

    async fn until(&self, ctx: &Context, name: &str) -> Result<(), Error> {
        let file = self.folder.join(name);
        ctx.run(async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        })
        .await?;
        std::fs::remove_file(&file).map_err(cannot("its folder"))
    }

    /// Runs one of the server's programs as who runs the server, in our folder.
    pub(crate) fn run(
        programs: &Programs,
        program: &str,
        arguments: &[&str],
    ) -> Result<std::process::Output, Error> {
        let (somebody, _) = as_somebody()?;
        plain_command(&somebody, &programs.path(program))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(cannot("a program cannot be run"))
    }

    /// What the server wrote down since its last start.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// A handle that removes everything if we come no further.
    fn claim(folder: &Path, user: &str) -> Result<Self, Error> {
        if folder.exists() {
            return Err(Error::new(ErrorKind::Conflict, "there is a server in the folder already")
                .with("folder", folder.display()));
        }
        let inside = folder.join("sockets");
        let sockets = if inside.as_os_str().len() + "/.s.PGSQL.5432".len() > SOCKET_PATH_MAX {
            std::env::temp_dir().join(format!("steward-{}", uuid::Uuid::new_v4()))
        } else {
            inside
        };
        Ok(Self {
            watcher: None,
            folder: folder.to_owned(),
            sockets,
            user: user.to_owned(),
            number: String::new(),
        })
    }

    fn make(programs: &Programs, folder: &Path, user: &str, preload: &[String]) -> Result<Self, Error> {
        let (somebody, owner) = as_somebody()?;
        let mut server = Self::claim(folder, user)?;
        let sockets = server.sockets.clone();
        make_folder(folder)?;
        make_folder(&sockets)?;
        if owner.is_some() {
            // Also the one above, which is ours alone: the server has to pass through it.
            for path in [folder.parent().unwrap_or(folder), folder, &sockets] {
                std::os::unix::fs::chown(path, owner, owner).map_err(cannot("its owner"))?;
            }
        }
        let data = folder.join("data");
        let command = |program: &Path| plain_command(&somebody, program);
        let made = command(&programs.path("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", user, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"])
            .stdin(Stdio::null())
            .output()
            .map_err(cannot("`initdb` cannot be run"))?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            return Err(Error::new(ErrorKind::Unavailable, "`initdb` failed")
                .with("folder", folder.display())
                .because(said)
                .hint("the folder must be one that the user who runs the server can reach"));
        }
        let number = folder.join("number");
        let mut watch = command(Path::new("/bin/sh"));
        watch.args(["-c", WATCH, "steward-scratch"]).args([folder, &sockets, &number]);
        watch.arg(programs.path("postgres")).arg("-D").arg(&data);
        for setting in SETTINGS {
            watch.args(["-c", setting]);
        }
        watch.arg("-c").arg(format!("shared_preload_libraries={}", preload.join(",")));
        if !preload.iter().all(|library| WITHOUT_WORKERS.contains(&library.as_str())) {
            // Nothing of what a library does by itself, such as jobs at their hours, is done by a copy.
            watch.args(["-c", "max_worker_processes=0"]);
        }
        watch.arg("-c").arg(format!("unix_socket_directories={}", sockets.display()));
        watch.arg("-p").arg(PORT.to_string());
        // A group of its own: what the terminal sends to us does not end the server before we have ended.
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        server.watcher = Some(watch.spawn().map_err(cannot("it cannot be started"))?);
        Ok(server)
    }

    /// Waits until it answers; for as long as the caller has time where a log is to be read first.
    async fn wait(&self, ctx: &Context, limit: Option<Duration>) -> Result<(), Error> {
        let until = limit.map(|limit| tokio::time::Instant::now() + limit);
        loop {
            let Err(error) = self.connect(ctx, "template1").await else { return Ok(()) };
            if matches!(error.kind(), ErrorKind::Canceled) || ctx.remaining() == Some(Duration::ZERO) {
                return Err(error);
            }
            let log = self.log();
            let ended = |line: &&str| {
                (line.contains("FATAL:") || line.contains("PANIC:"))
                    && !line.contains("starting up")
                    && !line.contains("accepting connections")
                    // Of a session that was open when the server was stopped and started again.
                    && !line.contains("terminating connection")
            };
            if let Some(fatal) = log.lines().find(ended) {
                return Err(Error::new(ErrorKind::Unavailable, "the scratch server does not start")
                    .because(fatal.to_owned()));
            }
            if until.is_some_and(|until| tokio::time::Instant::now() >= until) {
                return Err(
                    Error::new(ErrorKind::TimedOut, "the scratch server does not start").because(error)
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A session of the superuser.
    pub(crate) async fn connect(&self, ctx: &Context, database: &str) -> Result<Client, Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.sockets)
            .port(PORT)
            .user(&self.user)
            .dbname(database)
            .application_name("steward");
        let connected = ctx.run(async { config.connect(NoTls).await.map_err(|error| translate(&error)) });
        let (client, connection) = connected.await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %translate(&error), "connection ended");
            }
        });
        Ok(client)
    }

    pub(crate) fn libpq(&self, database: &str) -> Libpq {
        Libpq(vec![
            ("PGHOST", self.sockets.display().to_string()),
            ("PGPORT", PORT.to_string()),
            ("PGDATABASE", database.to_owned()),
            ("PGUSER", self.user.clone()),
            ("PGAPPNAME", "steward".to_owned()),
        ])
    }

    /// How to reach a database in it.
    pub(crate) fn address(&self, database: &str) -> String {
        let encoded = |text: &str| -> String {
            text.bytes()
                .map(|byte| match byte {
                    b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                        char::from(byte).to_string()
                    }
                    other => format!("%{other:02X}"),
                })
                .collect()
        };
        format!(
            "postgres:///{}?host={}&port={PORT}&user={}",
            encoded(database),
            encoded(&self.sockets.display().to_string()),
            encoded(&self.user)
        )
    }

    /// Lets it run on after us; the command that ends it.
    pub(crate) fn keep(&mut self) -> String {
        let number = std::fs::read_to_string(self.folder.join("number")).unwrap_or_default();
        number.trim().clone_into(&mut self.number);
        if let Some(mut watcher) = self.watcher.take() {
            if let Some(mut pipe) = watcher.stdin.take() {
                drop(pipe.write_all(b"keep\n"));
            }
            drop(watcher.wait());
        }
        let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
        let number = &self.number;
        format!(
            "kill -INT {number}; while kill -0 {number} 2>/dev/null; do sleep 1; done; rm -rf {} {}",
            quoted(&self.folder),
            quoted(&self.sockets)
        )
    }

    /// Whether somebody else takes care of its end.
    pub(crate) fn is_kept(&self) -> bool {
        !self.number.is_empty()
    }

    /// Stops it and removes its folder.
    pub(crate) fn stop(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            drop(watcher.stdin.take());
            drop(watcher.wait());
        } else if let Some(server) = self.number.parse().ok().and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself.
            rustix::process::kill_process(server, rustix::process::Signal::QUIT).unwrap_or_default();
            while rustix::process::test_kill_process(server).is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        for path in [&self.folder, &self.sockets] {
            if path.exists()
                && let Err(error) = std::fs::remove_dir_all(path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove the scratch server's folder");
            }
        }
    }
}

impl Drop for ScratchServer {
    fn drop(&mut self) {
        if !self.is_kept() {
            self.stop();
        }
    }
}
