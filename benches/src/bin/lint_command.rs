//! How long `steward migration lint` takes for a folder of a thousand files, the command itself from start to end, beside
//! the process of `squawk-cli` from PyPI. Both get the paths of the same files and write JSON.
//!
//! `cargo build --release && cargo run --release -p benches --bin lint_command [PATH-OF-STEWARD]`
//!
//! Steward judges each file by what all files before it in the folder have made; twice and four times the files show
//! how the time grows. It does with the files of a folder that has run. A file that the server would refuse costs a copy of
//! all that is known: the other folder repeats the measured cases, of which most are refused the second time.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CASES: [&str; 2] = [
    include_str!("../../../crates/stores/tests/lint/cases.sql"),
    include_str!("../../../crates/stores/tests/lint/held_out.sql"),
];
const WORLD: &str = include_str!("../../../crates/stores/tests/lint/world.sql");
/// The version that the figures were taken with.
const SQUAWK: &str = "squawk-cli==2.70.0";
/// Files of the folder.
const FILES: [usize; 3] = [1_000, 2_000, 4_000];
const ROUNDS: usize = 5;
/// Files a second that are promised.
const PROMISED: f64 = 1_000.0;

fn main() {
    let steward =
        std::env::args().nth(1).map_or_else(|| PathBuf::from("target/release/steward"), PathBuf::from);
    let steward = steward.canonicalize().expect("the program is built, or its path is given");
    let squawk = install();
    println!("{}; median of {ROUNDS} rounds, start to end, JSON of all findings", version(&squawk));
    println!(
        "{:>6}  {:<8}  {:>10}  {:>9}  {:>10}  {:>9}  ratio",
        "files", "of", "steward", "files/s", "squawk", "files/s"
    );
    for (count, of) in [Of::Changes, Of::Refused].into_iter().flat_map(|of| FILES.map(|count| (count, of))) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("steward.yaml"), "project: bench\n").expect("a project");
        let files = write(folder.path(), count, of);
        let (mut own, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let lint = ["migration", "lint", "--server-version", "17", "--format", "json"];
            own.push(run(&steward, folder.path(), &lint, &files, 5));
            let squawk_args = ["--reporter", "Json", "--pg-version", "17", "--assume-in-transaction"];
            theirs.push(run(&squawk, folder.path(), &squawk_args, &files, 1));
        }
        let (own, theirs) = (median(own), median(theirs));
        println!(
            "{count:>6}  {:<8}  {own:>10.2?}  {:>9.0}  {theirs:>10.2?}  {:>9.0}  {:.2}{}",
            of.name(),
            rate(count, own),
            rate(count, theirs),
            own.as_secs_f64() / theirs.as_secs_f64(),
            if rate(count, own) < PROMISED { "  PROMISE MISSED" } else { "" }
        );
    }
}

/// What a folder has beside new tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Changes of tables that earlier files made.
    Changes,
    /// The measured cases, again and again.
    Refused,
}

impl Of {
    fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Refused => "refused",
        }
    }
}

/// A folder as it grows over the years: tables, and migrations of them.
fn write(project: &Path, count: usize, of: Of) -> Vec<String> {
    let dir = project.join("migrations/shop");
    std::fs::create_dir_all(&dir).expect("a folder");
    let cases: Vec<&str> = CASES
        .iter()
        .flat_map(|text| text.split("--- case ").skip(1))
        .map(|part| part.split_once('\n').expect("a case has a name").1)
        .collect();
    (0..count)
        .map(|at| {
            let path = format!("migrations/shop/{:05}_change.sql", at + 1);
            // Every third file makes a table of its own, so that what is known grows with the folder.
            let text = match at {
                0 => WORLD.to_owned(),
                _ if at % 3 == 0 => {
                    format!("CREATE TABLE t{at} (id bigint PRIMARY KEY, note text);\nCREATE INDEX i{at} ON t{at} (note);\n")
                }
                _ if of == Of::Refused => cases[at % cases.len()].to_owned(),
                // Of the table of the third before.
                _ if at > 3 => format!(
                    "ALTER TABLE t{table} ADD COLUMN c{at} int;\nCREATE INDEX j{at} ON t{table} (c{at});\n",
                    table = at / 3 * 3
                ),
                _ => format!("CREATE INDEX orders_{at} ON orders (price);\n"),
            };
            std::fs::write(project.join(&path), text).expect("a file");
            path
        })
        .collect()
}

/// How long the process takes; it must end with this code, and its answer must be JSON that names the last file's work.
fn run(program: &Path, project: &Path, args: &[&str], files: &[String], code: i32) -> Duration {
    let started = Instant::now();
    let output = Command::new(program)
        .current_dir(project)
        .args(args)
        .args(files)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    let took = started.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{}: {said}", program.display());
    let _: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the answer is JSON");
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn rate(files: usize, time: Duration) -> f64 {
    f64::from(u32::try_from(files).expect("a small number")) / time.as_secs_f64()
}

/// Installs squawk from PyPI once.
fn install() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let venv = target.join("squawk-venv");
    let squawk = venv.join("bin/squawk");
    if !squawk.exists() {
        let ok = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        assert!(ok(Command::new("python3").args(["-m", "venv"]).arg(&venv)), "python3 makes an environment");
        let install = ok(Command::new(venv.join("bin/pip")).args(["install", "--quiet", SQUAWK]));
        assert!(install, "pip installs {SQUAWK}");
    }
    squawk
}

fn version(squawk: &Path) -> String {
    let output = Command::new(squawk).arg("--version").output().expect("squawk runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
