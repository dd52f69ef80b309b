//! How many migration files a second are judged without a store, and how often rightly, beside `squawk-cli` from PyPI.
//!
//! The cases are those of `crates/stores/tests/lint`, whose truth was measured on PostgreSQL 17. Both tools see the same
//! files. squawk is installed into a virtual environment under the target folder; `--no-squawk` leaves it out.
//! A file counts as flagged by squawk when one of its rules about locks or failure names it; rules of taste do not count.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use stores::lint::lint_text;

const CASES: [&str; 2] = [
    include_str!("../../../crates/stores/tests/lint/cases.sql"),
    include_str!("../../../crates/stores/tests/lint/held_out.sql"),
];
const TRUTHS: [&str; 2] = [
    include_str!("../../../crates/stores/tests/lint/cases-17.tsv"),
    include_str!("../../../crates/stores/tests/lint/held_out-17.tsv"),
];
const WORLD: &str = include_str!("../../../crates/stores/tests/lint/world.sql");
const SQUAWK: &str = "squawk-cli";
/// Files that are judged for speed: the cases, again and again.
const FILES: usize = 5_000;
const ROUNDS: usize = 5;

/// squawk's rules that speak of blocking or failing.
const BLOCKING: [&str; 18] = [
    "adding-field-with-default",
    "adding-foreign-key-constraint",
    "adding-not-nullable-field",
    "adding-required-field",
    "adding-serial-primary-key-field",
    "adding-primary-key-constraint",
    "ban-alter-domain-with-add-constraint",
    "ban-concurrent-index-creation-in-transaction",
    "ban-truncate-cascade",
    "changing-column-type",
    "constraint-missing-not-valid",
    "disallowed-unique-constraint",
    "prefer-repack",
    "require-concurrent-index-creation",
    "require-concurrent-partition-detach",
    "require-concurrent-reindex",
    "syntax-error",
    "transaction-nesting",
];

#[derive(Default)]
struct Score {
    hit: u32,
    false_alarm: u32,
    miss: u32,
}

impl Score {
    fn take(&mut self, truth: bool, said: bool) {
        match (truth, said) {
            (true, true) => self.hit += 1,
            (false, true) => self.false_alarm += 1,
            (true, false) => self.miss += 1,
            (false, false) => {}
        }
    }

    fn line(&self, who: &str) -> String {
        let share = |part: u32, rest: u32| f64::from(part) / f64::from((part + rest).max(1));
        let (precision, recall) = (share(self.hit, self.false_alarm), share(self.hit, self.miss));
        format!("{who:<44} precision {precision:.3}  recall {recall:.3}")
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let mut cases: Vec<(String, String)> = Vec::new();
    for text in CASES {
        for part in text.split("--- case ").skip(1) {
            let (name, text) = part.split_once('\n').expect("a case has a name");
            cases.push((name.trim().to_owned(), text.trim().to_owned() + "\n"));
        }
    }
    let hurts: BTreeMap<&str, bool> = TRUTHS
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let mut cells = line.split('\t');
            Some((cells.next()?, matches!(cells.next()?, "writes" | "all" | "fails")))
        })
        .collect();
    let said = |text: &str, before: &[&str]| {
        lint_text(text, Some(17), before).iter().any(|verdict| verdict.blocking.hurts())
    };
    let (mut alone, mut after) = (Score::default(), Score::default());
    for (name, text) in &cases {
        alone.take(hurts[name.as_str()], said(text, &[]));
        after.take(hurts[name.as_str()], said(text, &[WORLD]));
    }
    println!("{} cases, PostgreSQL 17, \"blocks for long or fails\"", cases.len());
    println!("{}", alone.line("steward, the text alone"));
    println!("{}", after.line("steward, with the files before"));

    let folder = tempfile::tempdir().expect("a folder");
    let files: Vec<PathBuf> = (0..FILES)
        .map(|at| {
            let path = folder.path().join(format!("{at:05}.sql"));
            std::fs::write(&path, &cases[at % cases.len()].1).expect("a file");
            path
        })
        .collect();
    let own = median(
        (0..ROUNDS)
            .map(|_| {
                let started = Instant::now();
                for path in &files {
                    let text = std::fs::read_to_string(path).expect("the file is there");
                    std::hint::black_box(lint_text(&text, Some(17), &[]));
                }
                started.elapsed()
            })
            .collect(),
    );
    println!("steward: {FILES} files in {own:.2?}, {:.0} files/s, one thread", rate(own));
    if std::env::args().any(|argument| argument == "--no-squawk") {
        return;
    }
    let squawk = install();
    println!("{}", version(&squawk));
    let mut score = Score::default();
    for (name, text) in &cases {
        let path = folder.path().join("case.sql");
        std::fs::write(&path, text).expect("a file");
        let found = run(&squawk, &[path], !text.contains("no-transaction"));
        score.take(hurts[name.as_str()], found.iter().any(|rule| BLOCKING.contains(&rule.as_str())));
    }
    println!("{}", score.line("squawk"));
    let theirs = median(
        (0..ROUNDS)
            .map(|_| {
                let started = Instant::now();
                run(&squawk, &files, true);
                started.elapsed()
            })
            .collect(),
    );
    println!(
        "squawk: {FILES} files in {theirs:.2?}, {:.0} files/s; steward takes {:.2} of its time",
        rate(theirs),
        own.as_secs_f64() / theirs.as_secs_f64()
    );
}

fn rate(time: Duration) -> f64 {
    f64::from(u32::try_from(FILES).expect("a small number")) / time.as_secs_f64()
}

/// Installs squawk from PyPI once.
fn install() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let venv = target.join("squawk-venv");
    let squawk = venv.join("bin/squawk");
    if !squawk.exists() {
        let ok = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        assert!(ok(Command::new("python3").args(["-m", "venv"]).arg(&venv)), "python3 makes an environment");
        assert!(
            ok(Command::new(venv.join("bin/pip")).args(["install", "--quiet", SQUAWK])),
            "pip installs {SQUAWK}"
        );
    }
    squawk
}

fn version(squawk: &Path) -> String {
    let output = Command::new(squawk).arg("--version").output().expect("squawk runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The rules that squawk names for these files.
fn run(squawk: &Path, files: &[PathBuf], in_transaction: bool) -> BTreeSet<String> {
    let mut command = Command::new(squawk);
    command.args(["--reporter", "Json", "--pg-version", "17"]).args(files);
    if in_transaction {
        command.arg("--assume-in-transaction");
    }
    let output = command.output().expect("squawk runs");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("squawk answers JSON: {error}: {}", String::from_utf8_lossy(&output.stderr))
    });
    let found = found.as_array().cloned().unwrap_or_default();
    found.iter().filter_map(|one| one["rule_name"].as_str().map(str::to_owned)).collect()
}
