//! PostgreSQL's own programs: finding those that fit, running them, and believing them only when they say that they are done.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use contract::{Context, Error, ErrorKind, Tool};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where Debian puts the programs of each major version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Debian's script in PATH that starts one of several versions; those are looked at themselves.
const DEBIAN_WRAPPER: &str = "pg_wrapper";
/// Where programs find others. They are given nothing of our environment, which may hold keys.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most of what a program says that goes into an error.
const SAID_BYTES_MAX: usize = 2_000;

/// The programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    pub(crate) folder: PathBuf,
    pub(crate) major: u32,
    pub(crate) version: String,
}

/// How a program of the server's reaches it: libpq's variables. Passwords are never part of a command.
#[derive(Clone, Default)]
pub(crate) struct Libpq(pub(crate) Vec<(&'static str, String)>);

impl Programs {
    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// A program that is given nothing of our environment, and is killed with its handle.
    pub(crate) fn command(&self, program: &str, libpq: &Libpq) -> Command {
        let mut command = Command::new(self.path(program));
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", PATH)
            .envs(libpq.0.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true);
        command
    }

    /// For the manifest: the command as one could type it.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> Tool {
        Tool {
            name: program.to_owned(),
            version: self.version.clone(),
            command: [&[program], arguments].concat().join(" "),
        }
    }
}

/// Every version whose folder has `program`, the newest first.
pub(crate) async fn all(bin_dir: Option<&Path>, program: &str) -> Vec<Programs> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(folder) = bin_dir {
        folders.push(folder.to_owned());
    } else {
        folders.extend(in_path(program).await);
        if let Ok(versions) = std::fs::read_dir(DEBIAN) {
            folders.extend(versions.flatten().map(|version| version.path().join("bin")));
        }
    }
    let mut found: Vec<Programs> = Vec::new();
    for folder in folders {
        let Ok(real) = folder.join(program).canonicalize() else { continue };
        if real.ends_with(DEBIAN_WRAPPER) {
            continue;
        }
        let Some((major, version)) = version_of(&folder.join(program)).await else { continue };
        let programs = Programs { folder, major, version };
        if !found.iter().any(|known| known.version == programs.version) {
            found.push(programs);
        }
    }
    found.sort_by_key(|programs| std::cmp::Reverse((programs.major, minor(&programs.version))));
    found
}

/// The folders of PATH that have the program.
async fn in_path(program: &str) -> Vec<PathBuf> {
    const LIST: &str =
        r#"IFS=:; for folder in $PATH; do [ ! -x "$folder/$1" ] || printf '%s\n' "$folder"; done"#;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", LIST, "sh", program]).stdin(Stdio::null()).kill_on_drop(true);
    let listed = command.output().await.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&listed).lines().map(PathBuf::from).collect()
}

fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// What `pg_dump (PostgreSQL) 17.11 (Debian …)` says.
async fn version_of(program: &Path) -> Option<(u32, String)> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(30), output).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split("(PostgreSQL) ").nth(1)?.split_whitespace().next()?.to_owned();
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, version))
}

/// The programs to dump a server with: of its own version where they are there, otherwise the newest that knows it.
///
/// A program that is older than the server does not understand its catalog.
pub(crate) async fn to_dump(bin_dir: Option<&Path>, server: u32, version: &str) -> Result<Programs, Error> {
    to_stream(bin_dir, "pg_dump", server, version).await
}

/// The same for any of the programs that ask a server.
pub(crate) async fn to_stream(
    bin_dir: Option<&Path>,
    program: &str,
    server: u32,
    version: &str,
) -> Result<Programs, Error> {
    let all = all(bin_dir, program).await;
    let fitting = all.iter().find(|programs| programs.major == server);
    let fitting = fitting.or_else(|| all.first().filter(|programs| programs.major > server));
    if let Some(programs) = fitting {
        return Ok(programs.clone());
    }
    let what = match all.first() {
        Some(old) => format!("`{program}` {} is older than the server, PostgreSQL {version}", old.version),
        None => format!("there is no `{program}` for the server, PostgreSQL {version}"),
    };
    Err(not_there(what, bin_dir, &format!("postgresql-client-{server}")))
}

/// The programs of exactly this major version, to run a server.
pub(crate) async fn to_serve(bin_dir: Option<&Path>, major: u32) -> Result<Programs, Error> {
    let all = all(bin_dir, "initdb").await;
    let fitting = all.iter().find(|programs| programs.major == major && programs.path("postgres").is_file());
    if let Some(programs) = fitting {
        return Ok(programs.clone());
    }
    let there: Vec<&str> = all.iter().map(|programs| programs.version.as_str()).collect();
    let what = if there.is_empty() {
        format!("there are no programs of a PostgreSQL {major} server")
    } else {
        format!("there are no programs of a PostgreSQL {major} server, only of {}", there.join(", "))
    };
    Err(not_there(what, bin_dir, &format!("postgresql-{major}")))
}

fn not_there(what: String, bin_dir: Option<&Path>, package: &str) -> Error {
    let error = Error::new(ErrorKind::Unsupported, what);
    match bin_dir {
        Some(folder) => error.with("bin_dir", folder.display()),
        None => error,
    }
    .hint(format!(
        "install it, on Debian and Ubuntu `sudo apt-get install {package}`, or set `bin_dir` of this store to the folder of its programs"
    ))
}

/// Runs a program to its end and gives what it printed. It is killed when the future is dropped.
pub(crate) async fn run(
    programs: &Programs,
    program: &str,
    arguments: &[&str],
    libpq: &Libpq,
    input: Option<&[u8]>,
) -> Result<Ran, Error> {
    let mut command = programs.command(program, libpq);
    command
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Unavailable, format!("`{program}` cannot be run"))
            .with("program", programs.path(program).display())
            .because(error)
    };
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take();
    let write = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A program that ends before it has read everything says why itself.
            drop(stdin.write_all(input).await);
            drop(stdin.shutdown().await);
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    let output = output.map_err(failed)?;
    Ok(Ran {
        succeeded: output.status.success(),
        status: output.status.to_string(),
        printed: output.stdout,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// What a program left behind.
pub(crate) struct Ran {
    pub(crate) succeeded: bool,
    pub(crate) status: String,
    pub(crate) printed: Vec<u8>,
    /// What it said of errors.
    pub(crate) said: String,
}

impl Ran {
    /// The error of a program that failed.
    pub(crate) fn error(&self, kind: ErrorKind, program: &str) -> Error {
        let mut said = self.said.trim().to_owned();
        if said.len() > SAID_BYTES_MAX {
            let cut = (0..=SAID_BYTES_MAX).rev().find(|at| said.is_char_boundary(*at)).unwrap_or(0);
            said.truncate(cut);
        }
        Error::new(kind, format!("`{program}` failed")).with("status", &self.status).because(said)
    }
}

/// Runs a dump program. What it printed counts only when it ended well and its last words are there.
pub(crate) async fn dump_text(
    ctx: &Context,
    programs: &Programs,
    program: &str,
    arguments: &[&str],
    libpq: &Libpq,
) -> Result<Vec<u8>, Error> {
    const ENDS: [&str; 2] =
        ["-- PostgreSQL database dump complete", "-- PostgreSQL database cluster dump complete"];
    let ran = ctx.run(run(programs, program, arguments, libpq, None)).await?;
    if !ran.succeeded {
        let kind = if ran.said.contains("permission denied") {
            ErrorKind::Denied
        } else if ran.said.contains("lock timeout") {
            ErrorKind::TimedOut
        } else {
            ErrorKind::Unavailable
        };
        return Err(ran.error(kind, program));
    }
    let tail = ran.printed.len().saturating_sub(400);
    let tail = String::from_utf8_lossy(&ran.printed[tail..]);
    if !ENDS.iter().any(|end| tail.contains(end)) {
        return Err(Error::new(ErrorKind::Unavailable, format!("`{program}` stopped before its end"))
            .with("bytes", ran.printed.len()));
    }
    Ok(ran.printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn path_is_searched() {
        let found = in_path("sh").await;
        assert!(!found.is_empty() && found.iter().all(|folder| folder.join("sh").exists()), "{found:?}");
        assert_eq!(in_path("no-program-of-this-name").await, Vec::<PathBuf>::new());
    }
}
