//! What is lost with a server whose log is followed: rows with their moments are written under load, then the server, its
//! disk and the program that follows are gone at once, and the newest row that comes back is looked for.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Beside, good};
use crate::server::Server;
use crate::{Asked, Project, Report};

/// Between two rows whose moments are known.
const EVERY: Duration = Duration::from_millis(100);
/// How long rows are written before the end, each time at another moment of the rhythm in which the log is handed over.
const ROUNDS: [Duration; 4] = [
    Duration::from_secs(20),
    Duration::from_millis(21_300),
    Duration::from_millis(22_700),
    Duration::from_millis(24_100),
];

pub(crate) fn measure(asked: &Asked, report: &mut Report) -> io::Result<()> {
    report.say("\nThe server, its disk and the follower are lost at once, under load\n")?;
    let mut most: f64 = 0.0;
    for lasting in ROUNDS {
        let (lost, rows) = once(asked, lasting)?;
        report.say(&format!(
            "  after {:>5.1} s: {rows} rows committed, the last {lost:.2} s lost\n",
            lasting.as_secs_f64()
        ))?;
        most = most.max(lost);
    }
    report.promise("seconds of committed rows lost, the most of all rounds", most, 10.0)
}

fn once(asked: &Asked, lasting: Duration) -> io::Result<(f64, usize)> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in("/tmp")?;
    let server = Server::make(&asked.bin, &folder.path().join("source"), &["max_slot_wal_keep_size=4GB"])?;
    server.run("postgres", "CREATE TABLE step (n int); CREATE TABLE filler (body text)")?;
    let home = folder.path().join("project");
    std::fs::create_dir(&home)?;
    let yaml = format!(
        "project: bench\nstores:\n  db: {{ kind: postgres, url: \"postgres://127.0.0.1:{}/postgres\", tls: disable, bin_dir: {}, \
         reader: {{ user: postgres }} }}\nbackup:\n  plans:\n    all: {{ stores: [db], method: physical, logs: continuous }}\n",
        server.port,
        asked.bin.display(),
    );
    std::fs::write(home.join("steward.yaml"), yaml)?;
    let project = Project { folder: &home, steward: &asked.steward };
    project.ask(&["backup", "setup"], None)?;
    project.ask(&["backup", "run", "all", "--verify", "l0"], None)?;
    let mut follow = Command::new(&asked.steward);
    let follower = Beside::start(follow.current_dir(&home).args(["backup", "follow", "all"]))?;
    let load = load(&server)?;
    let mut rows = Rows::on(&server)?;
    let begun = Instant::now();
    while begun.elapsed() < lasting {
        let next = Instant::now() + EVERY;
        rows.write()?;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    server.lose()?;
    drop(follower);
    drop(load);

    let (_, answer) = project.ask(&["backup", "restore", "db", "--until", "end"], None)?;
    let said = |key: &str| {
        answer["value"][key]
            .as_str()
            .ok_or_else(|| io::Error::other(format!("a restore without `{key}`: {answer:#}")))
    };
    let mut psql = Command::new(asked.bin.join("psql"));
    psql.args(["-X", "-A", "-t", "-d", said("address")?, "-c", "SELECT max(n) || ' ' || count(*) FROM step"]);
    let (_, counted) = good(&mut psql, None)?;
    good(Command::new("sh").args(["-c", said("take_away")?]), None)?;
    let (last, count) = counted
        .trim()
        .split_once(' ')
        .and_then(|(last, count)| Some((last.parse::<usize>().ok()?, count.parse::<usize>().ok()?)))
        .ok_or_else(|| io::Error::other(format!("the copy counts `{counted}`")))?;
    if count != last + 1 {
        return Err(io::Error::other(format!("{count} rows came back, the last of which is {last}")));
    }
    Ok((rows.since(last), rows.written.len()))
}

/// Rows through one session, each committed by itself.
struct Rows {
    psql: Child,
    answers: BufReader<std::process::ChildStdout>,
    written: Vec<Instant>,
}

impl Rows {
    fn on(server: &Server) -> io::Result<Self> {
        let mut psql = server.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let answers = psql.stdout.take().ok_or_else(|| io::Error::other("psql has no output"))?;
        Ok(Self { psql, answers: BufReader::new(answers), written: Vec::new() })
    }

    fn write(&mut self) -> io::Result<()> {
        let stdin = self.psql.stdin.as_mut().ok_or_else(|| io::Error::other("psql has no input"))?;
        writeln!(stdin, "INSERT INTO step VALUES ({}) RETURNING n;", self.written.len())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.trim() != self.written.len().to_string() {
            return Err(io::Error::other(format!("a row was answered with `{answer}`")));
        }
        self.written.push(Instant::now());
        Ok(())
    }

    /// Seconds from the commit of a row to that of the last.
    fn since(&self, row: usize) -> f64 {
        match (self.written.last(), self.written.get(row)) {
            (Some(last), Some(row)) => last.duration_since(*row).as_secs_f64(),
            _ => f64::INFINITY,
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        drop(self.psql.kill());
        drop(self.psql.wait());
    }
}

/// Writes as much as one session can.
fn load(server: &Server) -> io::Result<Beside> {
    let mut psql = server.program("psql");
    let sql = "DO $$ BEGIN LOOP INSERT INTO filler SELECT repeat(md5(i::text), 30) FROM generate_series(1, 500) AS i; COMMIT; \
               END LOOP; END $$";
    psql.args(["-X", "-q", "-d", "postgres", "-c", sql]);
    Beside::start(&mut psql)
}
