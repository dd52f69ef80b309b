//! What backups cost and how long it takes until the data is back, next to how others do it with the same database.
//!
//! `cargo build --release -p steward && cargo run --release -p benches --bin backup -- [MIB] [alone] [postgres | sqlite | rpo]
//! [physical] [steward=FILE] [bin=FOLDER]`
//!
//! Through the program itself, as a user would. Everything runs on this machine, so processor time and ratios are the
//! findings. After `testbed/testbed install backup-peers` those are measured too, unless `alone` is said.

mod data;
mod peers;
mod process;
mod rpo;
mod server;
mod sqlite;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use process::{Used, good, mib_in};
use serde_json::Value;
use server::Server;

/// What is in the database, in one line.
pub(crate) const CHECK: &str = "SELECT (SELECT count(*) || ' ' || sum(hashtext(body)::bigint) FROM documents) || ' ' || \
     (SELECT count(*) || ' ' || sum(hashtext(readings::text)::bigint) FROM readings) || ' ' || \
     (SELECT count(*) FROM pg_indexes WHERE schemaname = 'public')";
const BEFORE: &str = "CREATE TABLE documents (id bigint, kind text NOT NULL, created timestamptz NOT NULL, body text NOT NULL); \
     CREATE TABLE devices (id bigint PRIMARY KEY, name text NOT NULL UNIQUE); \
     CREATE TABLE readings (id bigint, device bigint NOT NULL, at timestamptz NOT NULL, value numeric NOT NULL)";
const AFTER: &str = "ALTER TABLE documents ADD PRIMARY KEY (id); CREATE INDEX documents_kind ON documents (kind, created); \
     ALTER TABLE readings ADD PRIMARY KEY (id); CREATE INDEX readings_device ON readings (device, at); \
     ALTER TABLE readings ADD FOREIGN KEY (device) REFERENCES devices; ANALYZE";

/// What is asked for.
pub(crate) struct Asked {
    pub(crate) mib: u64,
    pub(crate) alone: bool,
    pub(crate) physical: bool,
    pub(crate) steward: PathBuf,
    pub(crate) bin: PathBuf,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, source, target] = &arguments[..]
        && role == "role=sqlite-copy"
    {
        return sqlite::copy(Path::new(source), Path::new(target));
    }
    let said = |word: &str| arguments.iter().any(|argument| argument == word);
    let named = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
    let steward = named("steward=").unwrap_or("target/release/steward");
    let asked = Asked {
        mib: arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1_024),
        alone: said("alone"),
        physical: said("physical"),
        steward: Path::new(steward).canonicalize()?,
        bin: named("bin=").map_or_else(server::newest, |bin| Ok(PathBuf::from(bin)))?,
    };
    let mut report = Report { out: io::stdout(), missed: 0 };
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    report.say(&format!("{} MiB; load before: {}\n", asked.mib, load.join(" ")))?;
    let all = !["postgres", "sqlite", "rpo"].into_iter().any(said);
    if all || said("postgres") {
        postgres(&asked, &mut report)?;
    }
    if said("sqlite") || all && !asked.physical {
        sqlite::measure(&asked, &mut report)?;
    }
    if all || said("rpo") {
        rpo::measure(&asked, &mut report)?;
    }
    report.say(&format!("\n{} promises missed\n", report.missed))
}

/// Prints measured values beside what was promised.
pub(crate) struct Report {
    out: io::Stdout,
    missed: usize,
}

impl Report {
    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    pub(crate) fn promise(&mut self, name: &str, value: f64, at_most: f64) -> io::Result<()> {
        let kept = value <= at_most;
        self.missed += usize::from(!kept);
        let verdict = if kept { "kept" } else { "MISSED" };
        self.say(&format!("  {name:<62} {value:>8.2}   promised at most {at_most}: {verdict}\n"))
    }

    pub(crate) fn row(
        &mut self,
        who: &str,
        what: &str,
        used: Used,
        added_mib: Option<f64>,
    ) -> io::Result<()> {
        let added = added_mib.map_or_else(|| "         -".to_owned(), |mib| format!("{mib:>10.1}"));
        self.say(&format!(
            "  {who:<26} {what:<20} {:>8.2} {:>8.2} {:>8.2} {added} {:>7.0}\n",
            used.wall, used.cpu, used.cpu_server, used.memory_mib
        ))
    }
}

/// A project of this run alone, used as a person would.
pub(crate) struct Project<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) steward: &'a Path,
}

impl Project<'_> {
    /// A request; what it took and what it answered.
    pub(crate) fn ask(&self, arguments: &[&str], server: Option<u32>) -> io::Result<(Used, Value)> {
        let mut command = Command::new(self.steward);
        command.current_dir(self.folder).args(arguments).arg("--json");
        let (used, text) = good(&mut command, server)?;
        let value = serde_json::from_str(&text).map_err(io::Error::other)?;
        Ok((used, value))
    }

    /// Where the backups are.
    pub(crate) fn repository(&self) -> PathBuf {
        self.folder.join(".steward/backups")
    }

    /// A backup without its proof, which others do not have.
    pub(crate) fn back_up(&self, server: Option<u32>) -> io::Result<(Used, f64)> {
        let before = mib_in(&self.repository())?;
        let (used, _) = self.ask(&["backup", "run", "all", "--verify", "l0"], server)?;
        Ok((used, mib_in(&self.repository())? - before))
    }

    /// Restores the newest into scratch, compares and takes it away; and the seconds until the copy answered.
    pub(crate) fn prove(&self) -> io::Result<(Used, f64)> {
        let (used, answer) = self.ask(&["backup", "verify", "db", "--level", "l3"], None)?;
        let proof = &answer["value"]["proof"];
        if proof["level"] != "l3" || proof["problems"].as_array().is_none_or(|all| !all.is_empty()) {
            return Err(io::Error::other(format!("the restored copy is not proven: {answer:#}")));
        }
        Ok((used, proof["restore_ms"].as_f64().unwrap_or_default() / 1e3))
    }

    /// The median of three times until the copy answered: one restore says more of the machine's mood than of the next.
    pub(crate) fn prove_again(&self) -> io::Result<f64> {
        let mut times = [0.0; 3];
        for time in &mut times {
            *time = self.prove()?.1;
        }
        times.sort_by(f64::total_cmp);
        Ok(times[1])
    }

    /// How long a restore will take, as its plan says after one proof and two drills.
    pub(crate) fn forecast(&self) -> io::Result<f64> {
        for _ in 0..2 {
            self.ask(&["backup", "drill", "db", "--lose", "database"], None)?;
        }
        let (_, answer) = self.ask(&["backup", "restore", "db", "--dry-run"], None)?;
        find(&answer, "forecast_ms")
            .and_then(Value::as_f64)
            .map(|ms| ms / 1e3)
            .ok_or_else(|| io::Error::other(format!("the plan of a restore has no forecast: {answer:#}")))
    }
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|value| find(value, key))),
        Value::Array(all) => all.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

const HEAD: &str =
    "                                                      wall s    CPU s   server  MiB kept  memory\n";

/// Backups of one state after the other: the first, unchanged, 1 % changed in one place, 1 % all over.
struct Rounds {
    used: Vec<(Used, f64)>,
}

const ROUNDS: [(&str, &str); 4] = [
    ("first", ""),
    ("unchanged", ""),
    (
        "1 % in one place",
        "UPDATE documents SET body = reverse(body) WHERE id <= (SELECT max(id) / 100 FROM documents)",
    ),
    ("1 % all over", "UPDATE documents SET body = reverse(body) WHERE id % 100 = 7"),
];

fn postgres(asked: &Asked, report: &mut Report) -> io::Result<()> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in("/tmp")?;
    let of_peers = folder.path().join("peers");
    std::fs::create_dir(&of_peers)?;
    let archive = if asked.alone { None } else { peers::pgbackrest_settings(&of_peers) };
    let settings: Vec<String> = archive.unwrap_or_default();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let data = folder.path().join("source");
    // Filled without archiving, which is no part of a backup.
    let source = Server::make(&asked.bin, &data, &["fsync=off"])?;
    fill(&source, asked.mib)?;
    drop(source);
    let source = Server::start(&asked.bin, &data, &settings)?;
    let size = source.run("bench", "SELECT pg_database_size('bench') / 1048576")?;
    let version = source.run("bench", "SHOW server_version")?;
    report.say(&format!("\nPostgreSQL {version}, a database of {size} MiB\n{HEAD}"))?;

    let home = folder.path().join("project");
    std::fs::create_dir(&home)?;
    let yaml = format!(
        "project: bench\nstores:\n  db: {{ kind: postgres, url: \"postgres://127.0.0.1:{}/bench\", tls: disable, bin_dir: {}, \
         reader: {{ user: postgres }}, admin: {{ user: postgres }} }}\nbackup:\n  plans:\n    all: {{ stores: [db], method: {} }}\n",
        source.port,
        asked.bin.display(),
        if asked.physical { "physical" } else { "logical" },
    );
    std::fs::write(home.join("steward.yaml"), yaml)?;
    let project = Project { folder: &home, steward: &asked.steward };
    project.ask(&["backup", "setup"], None)?;
    let peers = if asked.alone { Vec::new() } else { peers::all(&of_peers, &source)? };
    let mut ours = Rounds { used: Vec::new() };
    let mut theirs: Vec<Rounds> = peers.iter().map(|_| Rounds { used: Vec::new() }).collect();
    for (round, change) in ROUNDS {
        if !change.is_empty() {
            source.run("bench", change)?;
            source.run("bench", "VACUUM")?;
        }
        source.run("bench", "CHECKPOINT")?;
        let (used, added) = project.back_up(Some(source.id()))?;
        report.row("steward", round, used, Some(added))?;
        ours.used.push((used, added));
        for (peer, rounds) in peers.iter().zip(&mut theirs) {
            let before = peer.kept_mib()?;
            let used = (peer.backup)(&source)?;
            let added = peer.kept_mib()? - before;
            report.row(peer.name, round, used, Some(added))?;
            rounds.used.push((used, added));
        }
    }
    let expected = source.run("bench", CHECK)?;
    let (proven, answers) = project.prove()?;
    report.row("steward", "restored", Used { wall: answers, ..Used::default() }, None)?;
    report.row("steward", "and compared, checked", proven, None)?;
    let forecast = project.forecast()?;
    let again = project.prove_again()?;
    let mut restored = Vec::new();
    for peer in &peers {
        let (used, said) = (peer.restore)(&source)?;
        if said != expected {
            return Err(io::Error::other(format!("{} restored `{said}` instead of `{expected}`", peer.name)));
        }
        report.row(peer.name, "restored", used, None)?;
        restored.push((peer.name, used.wall));
    }
    drop(source);

    report.say("\n")?;
    let of = |name: &str| peers.iter().position(|peer| peer.name == name);
    let whole = |used: Used| used.cpu + used.cpu_server;
    if let Some(restic) = of("pg_dump | restic") {
        for (at, (round, _)) in ROUNDS.iter().enumerate().take(2) {
            let ratio = whole(ours.used[at].0) / whole(theirs[restic].used[at].0);
            report.promise(
                &format!("CPU, {round}: steward / pg_dump | restic"),
                ratio,
                if at == 0 { 0.8 } else { 1.0 },
            )?;
        }
    }
    if let Some(age) = of("pg_dump -Z0 | zstd | age") {
        let ratio = ours.used[0].0.wall / theirs[age].used[0].0.wall;
        report.promise("wall, first: steward / pg_dump -Z0 | zstd | age", ratio, 1.3)?;
    }
    let first = ours.used[0];
    report.promise("kept after 1 % in one place, % of the first", ours.used[2].1 / first.1 * 100.0, 5.0)?;
    report.promise(
        "wall after 1 % in one place, % of the first",
        ours.used[2].0.wall / first.0.wall * 100.0,
        60.0,
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a number of MiB")]
    let most = 30.0 * asked.mib as f64 / 1024.0;
    report.promise("restored, compared and checked, s", proven.wall, most)?;
    if let Some((_, wall)) = restored.iter().find(|(name, _)| *name == "pgBackRest") {
        report.promise("restored until it answers: steward / pgBackRest", answers / wall, 1.2)?;
    }
    let memory = ours.used.iter().map(|(used, _)| used.memory_mib).fold(proven.memory_mib, f64::max);
    report.promise("memory of steward, MiB", memory, 256.0)?;
    report.promise(
        &format!("forecast of a restore ({forecast:.1} s) against the next, % off"),
        (forecast / again - 1.0).abs() * 100.0,
        25.0,
    )
}

fn fill(server: &Server, mib: u64) -> io::Result<()> {
    server.run("postgres", "CREATE DATABASE bench")?;
    server.run("bench", BEFORE)?;
    let (documents, readings) = data::counts(mib);
    let devices =
        format!("INSERT INTO devices SELECT i, 'device ' || i FROM generate_series(1, {}) i", data::DEVICES);
    server.run("bench", &devices)?;
    server.copy("bench", "documents", |mut into| data::write(&mut into, documents, data::document))?;
    server.copy("bench", "readings", |mut into| data::write(&mut into, readings, data::reading))?;
    server.run("bench", AFTER)?;
    // As autovacuum leaves them: else the first that reads the rows changes their pages.
    server.run("bench", "VACUUM")?;
    Ok(())
}
