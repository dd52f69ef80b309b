//! How others do it, where they are installed: `testbed/testbed install backup-peers`, and `apt-get install restic`.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, Used, mib_in};
use crate::server::{Server, as_somebody};

/// Does something with the server, and gives what it took.
type Act<T> = Box<dyn Fn(&Server) -> io::Result<T>>;

/// One way to back a database up.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Backs up into its folder, again and again.
    pub(crate) backup: Act<Used>,
    /// Restores the newest into a server that then answers; seconds of wall time, and the answer to [`crate::CHECK`].
    pub(crate) restore: Act<(Used, String)>,
    pub(crate) folder: PathBuf,
}

impl Peer {
    pub(crate) fn kept_mib(&self) -> io::Result<f64> {
        if self.folder.exists() { mib_in(&self.folder) } else { Ok(0.0) }
    }
}

/// A program in PATH, or where the test bed has put it.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let testbed = std::env::var_os("TESTBED_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/steward-testbed")));
    let mut folders: Vec<PathBuf> = vec!["/usr/bin".into(), "/usr/local/bin".into()];
    folders.extend(testbed.map(|home| home.join("deb/backup-peers/usr/bin")));
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn sh(server: &Server, script: &str, arguments: &[&Path]) -> Command {
    let mut command = Command::new("/bin/bash");
    command.args(["-c", &format!("set -euo pipefail; {script}"), "bash"]).args(arguments);
    let port = server.port.to_string();
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port)
        .env("PGUSER", "postgres")
        .env("RESTIC_PASSWORD", "bench");
    command
}

/// A new database that a dump is put into, and what is in it then.
fn loaded(server: &Server, script: &str, arguments: &[&Path]) -> io::Result<(Used, String)> {
    server.run("postgres", "DROP DATABASE IF EXISTS again WITH (FORCE)")?;
    server.run("postgres", "CREATE DATABASE again")?;
    let (used, _) = process::good(&mut sh(server, script, arguments), Some(server.id()))?;
    let said = server.run("again", crate::CHECK)?;
    server.run("postgres", "DROP DATABASE again")?;
    Ok((used, said))
}

/// Starts a server in files that were put back; when it answers.
fn started(server: &Server, data: &Path, used: Used) -> io::Result<(Used, String)> {
    let begun = std::time::Instant::now();
    let again = Server::start(&server.bin, data, &["archive_mode=off"])?;
    let wall = used.wall + begun.elapsed().as_secs_f64();
    let said = again.run("bench", crate::CHECK)?;
    drop(again);
    std::fs::remove_dir_all(data)?;
    Ok((Used { wall, ..used }, said))
}

/// Those that are installed; `folder` is for what they keep.
pub(crate) fn all(folder: &Path, server: &Server) -> io::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    let bin = server.bin.clone();
    if let (Some(zstd), Some(age), Some(keygen)) =
        (installed("zstd"), installed("age"), installed("age-keygen"))
    {
        let kept = folder.join("age");
        std::fs::create_dir_all(&kept)?;
        let key = folder.join("age.key");
        process::good(Command::new(keygen).arg("-o").arg(&key), None)?;
        let file = kept.join("dump");
        let of_backup = [bin.join("pg_dump"), zstd.clone(), age.clone(), key.clone(), file.clone()];
        let of_restore = [age, key, file, zstd, bin.join("psql")];
        peers.push(Peer {
            name: "pg_dump -Z0 | zstd | age",
            backup: Box::new(move |server| {
                let script = "\"$1\" -Z0 bench | \"$2\" -q | \"$3\" -e -i \"$4\" -o \"$5\"";
                let arguments = of_backup.each_ref().map(PathBuf::as_path);
                Ok(process::good(&mut sh(server, script, &arguments), Some(server.id()))?.0)
            }),
            restore: Box::new(move |server| {
                let script = "\"$1\" -d -i \"$2\" \"$3\" | \"$4\" -q -d | \"$5\" -X -q -o /dev/null -v ON_ERROR_STOP=1 -d again";
                loaded(server, script, &of_restore.each_ref().map(PathBuf::as_path))
            }),
            folder: kept,
        });
    }
    if let Some(restic) = installed("restic") {
        let kept = folder.join("restic");
        let script = "\"$1\" --no-cache -q -r \"$2\" init";
        process::good(&mut sh(server, script, &[&restic, &kept]), None)?;
        let of_backup = [bin.join("pg_dump"), restic.clone(), kept.clone()];
        let of_restore = [restic, kept.clone(), bin.join("psql")];
        peers.push(Peer {
            name: "pg_dump | restic",
            backup: Box::new(move |server| {
                let script =
                    "\"$1\" -Z0 bench | \"$2\" --no-cache -q -r \"$3\" backup --stdin --stdin-filename dump";
                let arguments = of_backup.each_ref().map(PathBuf::as_path);
                Ok(process::good(&mut sh(server, script, &arguments), Some(server.id()))?.0)
            }),
            restore: Box::new(move |server| {
                let script = "\"$1\" --no-cache -q -r \"$2\" dump latest /dump | \"$3\" -X -q -o /dev/null -v ON_ERROR_STOP=1 -d again";
                loaded(server, script, &of_restore.each_ref().map(PathBuf::as_path))
            }),
            folder: kept,
        });
    }
    peers.push(base_backup(folder, &bin));
    if let Some(program) = installed("pgbackrest") {
        peers.push(pgbackrest(folder, server, &program)?);
    }
    Ok(peers)
}

fn base_backup(folder: &Path, bin: &Path) -> Peer {
    let kept = folder.join("base");
    let (program, target) = (bin.join("pg_basebackup"), kept.clone());
    let source = kept.clone();
    let again = folder.join("base-again");
    Peer {
        name: "pg_basebackup",
        backup: Box::new(move |server| {
            if target.exists() {
                std::fs::remove_dir_all(&target)?;
            }
            let script = "\"$1\" -D \"$2\" -c fast";
            Ok(process::good(&mut sh(server, script, &[&program, &target]), Some(server.id()))?.0)
        }),
        restore: Box::new(move |server| {
            let mut copy = Command::new("cp");
            let (used, _) = process::good(copy.arg("-a").arg(&source).arg(&again), None)?;
            started(server, &again, used)
        }),
        folder: kept,
    }
}

/// The options of a server that pgBackRest archives for.
pub(crate) fn pgbackrest_settings(folder: &Path) -> Option<Vec<String>> {
    let program = installed("pgbackrest")?;
    Some(vec![
        "archive_mode=on".to_owned(),
        format!(
            "archive_command={} --config={} --stanza=bench archive-push %p",
            program.display(),
            folder.join("pgbackrest.conf").display()
        ),
    ])
}

fn pgbackrest(folder: &Path, server: &Server, program: &Path) -> io::Result<Peer> {
    let kept = folder.join("pgbackrest");
    let again = folder.join("pgbackrest-again");
    let config = folder.join("pgbackrest.conf");
    let text = format!(
        "[global]\nrepo1-path={kept}\nlog-path={log}\nlock-path={log}\nspool-path={log}\nlog-level-console=warn\nlog-level-file=off\n\
         repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=bench\ncompress-type=zst\nprocess-max=2\nstart-fast=y\nrepo1-retention-full=9\n\
         [bench]\npg1-path={data}\npg1-port={port}\npg1-socket-path={data}\npg1-user=postgres\n",
        kept = kept.display(),
        log = folder.display(),
        data = server.data.display(),
        port = server.port,
    );
    std::fs::write(&config, text)?;
    let command = {
        let (program, config) = (program.to_owned(), config.clone());
        move |arguments: &[&str]| {
            let mut command = as_somebody(&program);
            command.arg(format!("--config={}", config.display())).arg("--stanza=bench").args(arguments);
            command
        }
    };
    process::good(&mut command(&["stanza-create"]), None)?;
    let (for_backup, first) = (command.clone(), std::cell::Cell::new(true));
    Ok(Peer {
        name: "pgBackRest",
        backup: Box::new(move |server| {
            let kind = if first.replace(false) { "--type=full" } else { "--type=incr" };
            Ok(process::good(&mut for_backup(&[kind, "backup"]), Some(server.id()))?.0)
        }),
        restore: Box::new(move |server| {
            let path = format!("--pg1-path={}", again.display());
            std::fs::DirBuilder::new().mode(0o700).create(&again)?;
            let (used, _) = process::good(&mut command(&[&path, "restore"]), None)?;
            started(server, &again, used)
        }),
        folder: kept,
    })
}
