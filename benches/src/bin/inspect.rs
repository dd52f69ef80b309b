//! Inspection of a large schema: the whole of `steward store inspect --json`, against `pg_dump --schema-only` of the same database,
//! turn by turn in the same run.
//!
//! `cargo build --release && cargo run --release -p benches --bin inspect -- PG_DUMP [PATH-OF-STEWARD]`, with a superuser's
//! address in `STEWARD_TEST_POSTGRES17_URL`. Makes a database of its own and drops it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use contract::{Error, ErrorKind};

const TABLES: usize = 1_000;
/// Columns of each table.
const COLUMNS: usize = 10;
const ROUNDS: usize = 9;
const DATABASE: &str = "steward_bench_inspect";
const READER: &str = "steward_bench_inspect_reader";
const PASSWORD: &str = "bench";

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let pg_dump =
        args.next().ok_or_else(|| Error::new(ErrorKind::Invalid, "the path of pg_dump is missing"))?;
    let steward = args.next().map_or_else(|| PathBuf::from("target/release/steward"), PathBuf::from);
    let steward = steward.canonicalize().map_err(other)?;
    let url = std::env::var("STEWARD_TEST_POSTGRES17_URL").map_err(other)?;
    let psql = Path::new(&pg_dump).with_file_name("psql");
    let server = |database: &str| -> String {
        url.rsplit_once('/').map_or_else(|| url.clone(), |(server, _)| format!("{server}/{database}"))
    };

    let drop_all =
        format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE);\nDROP ROLE IF EXISTS {READER};\n");
    sql(&psql, &server("postgres"), &drop_all)?;
    let make = format!("CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}';\nCREATE DATABASE {DATABASE};\n");
    sql(&psql, &server("postgres"), &make)?;
    let measured = sql(&psql, &server(DATABASE), &schema())
        .and_then(|()| measure(&steward, Path::new(&pg_dump), &server(DATABASE)));
    sql(&psql, &server("postgres"), &drop_all)?;
    measured
}

/// Tables with a key, an index and, every second one, a reference to the table before.
fn schema() -> String {
    let mut script = String::from("BEGIN;\n");
    for table in 0..TABLES {
        let columns: Vec<String> = (1..COLUMNS)
            .map(|n| format!("c{n} {}", TYPES[n % TYPES.len()].replace('?', &format!("c{n}"))))
            .collect();
        writeln!(script, "CREATE TABLE t{table} (id bigint PRIMARY KEY, {});", columns.join(", "))
            .expect("writing to a string does not fail");
        writeln!(script, "CREATE INDEX ON t{table} (c1, c2);").expect("writing to a string does not fail");
        if table % 2 == 1 {
            writeln!(script, "ALTER TABLE t{table} ADD FOREIGN KEY (c4) REFERENCES t{} (id);", table - 1)
                .expect("writing to a string does not fail");
        }
    }
    writeln!(script, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER};\nCOMMIT;\nANALYZE;")
        .expect("writing to a string does not fail");
    script
}

/// With `?` for the column's name.
const TYPES: [&str; 4] =
    ["bigint", "text NOT NULL DEFAULT ''", "timestamptz", "numeric(12,2) CHECK (? >= 0)"];

fn measure(steward: &Path, pg_dump: &Path, url: &str) -> Result<(), Error> {
    let dir = tempfile::tempdir().map_err(other)?;
    let address = url.replacen("postgres@", "", 1);
    let config = format!(
        "project: bench\nstores:\n  big:\n    kind: postgres\n    url: {address}\n    reader: {{ user: {READER}, password_secret: reader }}\n"
    );
    std::fs::write(dir.path().join("steward.yaml"), config).map_err(other)?;
    let mut put = command(steward, dir.path(), &["secret", "put", "reader"])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(other)?;
    put.stdin.take().expect("it was piped").write_all(PASSWORD.as_bytes()).map_err(other)?;
    expect(put.wait().map_err(other)?.success(), "steward secret put")?;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let inspect = command(steward, dir.path(), &["store", "inspect", "big", "--json"]).status();
        ours.push(started.elapsed());
        expect(inspect.map_err(other)?.success(), "steward store inspect")?;
        let started = Instant::now();
        let dump = command(pg_dump, dir.path(), &["--schema-only", "--dbname", url]).status();
        theirs.push(started.elapsed());
        expect(dump.map_err(other)?.success(), "pg_dump")?;
    }
    ours.sort_unstable();
    theirs.sort_unstable();
    let middle = |times: &[std::time::Duration]| times[times.len() / 2].as_secs_f64();
    let (ours, theirs) = (middle(&ours), middle(&theirs));
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{TABLES} tables, {} columns; seconds of a whole process, median of {ROUNDS}",
        TABLES * COLUMNS
    )
    .map_err(other)?;
    writeln!(out, "pg_dump --schema-only         {theirs:>7.3}").map_err(other)?;
    writeln!(out, "steward store inspect --json  {ours:>7.3}   {:.2} x pg_dump; promise 0.5 x", ours / theirs)
        .map_err(other)
}

fn sql(psql: &Path, url: &str, script: &str) -> Result<(), Error> {
    let mut child = Command::new(psql)
        .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(other)?;
    child.stdin.take().expect("it was piped").write_all(script.as_bytes()).map_err(other)?;
    expect(child.wait().map_err(other)?.success(), "psql")
}

fn command(program: &Path, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn expect(succeeded: bool, what: &str) -> Result<(), Error> {
    if succeeded { Ok(()) } else { Err(Error::new(ErrorKind::Other, format!("{what} failed"))) }
}

fn other(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Other, "the benchmark failed").because(cause)
}
