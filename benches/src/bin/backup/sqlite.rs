//! The same of a SQLite file.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::process::{Used, good, mib_in};
use crate::{Asked, Project, Report, data, peers};

/// Appends one row of a table.
type MakeRow = fn(&mut data::Seed, u64, &mut Vec<u8>);

fn failed(error: rusqlite::Error) -> io::Error {
    io::Error::other(error)
}

/// A copy by SQLite's own backup, in a process of its own.
pub(crate) fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let source = rusqlite::Connection::open(source).map_err(failed)?;
    let mut target = rusqlite::Connection::open(target).map_err(failed)?;
    let backup = rusqlite::backup::Backup::new(&source, &mut target).map_err(failed)?;
    backup.run_to_completion(1 << 20, std::time::Duration::ZERO, None).map_err(failed)
}

fn fill(file: &Path, mib: u64) -> io::Result<()> {
    let mut database = rusqlite::Connection::open(file).map_err(failed)?;
    database
        .execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = off; \
             CREATE TABLE documents (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, created TEXT NOT NULL, body TEXT NOT NULL); \
             CREATE TABLE readings (id INTEGER PRIMARY KEY, device INTEGER NOT NULL, at TEXT NOT NULL, value TEXT NOT NULL)",
        )
        .map_err(failed)?;
    let (documents, readings) = data::counts(mib);
    let rows: [(&str, u64, MakeRow); 2] =
        [("documents", documents, data::document), ("readings", readings, data::reading)];
    for (table, count, row) in rows {
        let transaction = database.transaction().map_err(failed)?;
        let mut insert =
            transaction.prepare(&format!("INSERT INTO {table} VALUES (?, ?, ?, ?)")).map_err(failed)?;
        let (mut seed, mut line) = (data::Seed::new(count), Vec::new());
        for id in 1..=count {
            row(&mut seed, id, &mut line);
            let text = String::from_utf8_lossy(&line);
            let fields: Vec<&str> = text.trim_end().split('\t').collect();
            insert.execute(rusqlite::params_from_iter(fields)).map_err(failed)?;
        }
        drop(insert);
        transaction.commit().map_err(failed)?;
    }
    database
        .execute_batch(
            "CREATE INDEX documents_kind ON documents (kind, created); CREATE INDEX readings_device ON readings (device, at)",
        )
        .map_err(failed)?;
    database.execute_batch("PRAGMA wal_checkpoint(truncate)").map_err(failed)
}

const ROUNDS: [(&str, &str); 4] = [
    ("first", ""),
    ("unchanged", ""),
    (
        "1 % in one place",
        "UPDATE documents SET body = substr(body, 600) || substr(body, 1, 599) WHERE id <= (SELECT max(id) / 100 FROM documents)",
    ),
    (
        "1 % all over",
        "UPDATE documents SET body = substr(body, 600) || substr(body, 1, 599) WHERE id % 100 = 7",
    ),
];

/// A copy of the file by one of SQLite's own ways, and restic behind it.
struct Way<'a> {
    name: &'static str,
    restic: &'a Path,
    folder: std::path::PathBuf,
}

impl Way<'_> {
    fn restic(&self, arguments: &[&str]) -> io::Result<Used> {
        let mut command = Command::new(self.restic);
        command.args(["--no-cache", "-q", "-r"]).arg(self.folder.join("kept")).args(arguments);
        Ok(good(command.env("RESTIC_PASSWORD", "bench"), None)?.0)
    }

    fn backup(&self, source: &Path) -> io::Result<Used> {
        let copy = self.folder.join("copy.db");
        let mut command = if self.name.starts_with("VACUUM") {
            let mut command = Command::new("sqlite3");
            command.arg(source).arg(format!("VACUUM INTO '{}'", copy.display()));
            command
        } else {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("role=sqlite-copy").arg(source).arg(&copy);
            command
        };
        let made = good(&mut command, None)?.0;
        let kept = self.restic(&["backup", "--force", &copy.display().to_string()])?;
        std::fs::remove_file(&copy)?;
        Ok(Used {
            wall: made.wall + kept.wall,
            cpu: made.cpu + kept.cpu,
            cpu_server: 0.0,
            memory_mib: made.memory_mib.max(kept.memory_mib),
        })
    }
}

pub(crate) fn measure(asked: &Asked, report: &mut Report) -> io::Result<()> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in("/tmp")?;
    let file = folder.path().join("app.db");
    fill(&file, asked.mib)?;
    report.say(&format!("\nSQLite, a file of {:.0} MiB\n{}", mib_in(&file)?, crate::HEAD))?;
    let yaml = "project: bench\nstores:\n  db: { kind: sqlite, path: app.db }\nbackup:\n  plans:\n    all: { stores: [db] }\n";
    std::fs::write(folder.path().join("steward.yaml"), yaml)?;
    let project = Project { folder: folder.path(), steward: &asked.steward };
    project.ask(&["backup", "setup"], None)?;
    let restic = if asked.alone { None } else { peers::installed("restic") };
    let mut ways = Vec::new();
    if let Some(restic) = &restic {
        for (name, at) in [("backup API, restic", "api"), ("VACUUM INTO, restic", "vacuum")] {
            if at == "vacuum" && peers::installed("sqlite3").is_none() {
                continue;
            }
            let folder = folder.path().join(at);
            std::fs::create_dir(&folder)?;
            let way = Way { name, restic, folder };
            way.restic(&["init"])?;
            ways.push(way);
        }
    }
    let mut ours = Vec::new();
    let mut theirs: Vec<Used> = Vec::new();
    for (round, change) in ROUNDS {
        if !change.is_empty() {
            rusqlite::Connection::open(&file).and_then(|it| it.execute_batch(change)).map_err(failed)?;
        }
        let (used, added) = project.back_up(None)?;
        report.row("steward", round, used, Some(added))?;
        ours.push((used, added));
        for way in &ways {
            let kept = way.folder.join("kept");
            let before = mib_in(&kept)?;
            let used = way.backup(&file)?;
            report.row(way.name, round, used, Some(mib_in(&kept)? - before))?;
            if round == "first" {
                theirs.push(used);
            }
        }
    }
    let (proven, answers) = project.prove()?;
    report.row("steward", "restored", Used { wall: answers, ..Used::default() }, None)?;
    report.row("steward", "and compared, checked", proven, None)?;
    let forecast = project.forecast()?;
    let again = project.prove_again()?;
    report.say("\n")?;
    for (way, used) in ways.iter().zip(&theirs) {
        report.promise(&format!("CPU, first: steward / {}", way.name), ours[0].0.cpu / used.cpu, 0.8)?;
    }
    report.promise("kept after 1 % in one place, % of the first", ours[2].1 / ours[0].1 * 100.0, 5.0)?;
    report.promise(
        "wall after 1 % in one place, % of the first",
        ours[2].0.wall / ours[0].0.wall * 100.0,
        60.0,
    )?;
    let memory = ours.iter().map(|(used, _)| used.memory_mib).fold(proven.memory_mib, f64::max);
    report.promise("memory of steward, MiB", memory, 256.0)?;
    report.promise(
        &format!("forecast of a restore ({forecast:.1} s) against the next, % off"),
        (forecast / again - 1.0).abs() * 100.0,
        25.0,
    )
}
