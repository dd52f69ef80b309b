//! How many migration files a second are judged without a store, and how often rightly, beside `squawk-cli` from PyPI.
//!
//! The cases are those of `crates/stores/tests/lint`, whose truth was measured on PostgreSQL 17. Both tools see the same
//! files. squawk is installed into a virtual environment under the target folder; `--no-squawk` leaves it out.
//! A file counts as flagged by squawk when one of its rules about locks or failure names it; rules of taste do not count.
//! With a superuser's address in `STEWARD_TEST_POSTGRES17_URL` the same cases are judged with the live catalog too, in a
//! database that is made for it and dropped.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use contract::{Actor, Context, Error, ErrorKind, SecretSource, Store, StoreDirectory};
use secrecy::SecretString;
use serde_json::Value;
use store_postgres::LoginConfig;
use stores::lint::{Catalog, Lock, lint_text};

/// What was measured of a case: whether it blocks for long or fails, and its strongest lock where it does not fail.
struct Truth {
    hurts: bool,
    fails: bool,
    lock: Option<Lock>,
}

const SETS: [&str; 2] = ["cases", "held_out, since taught"];
const CASES: [&str; 2] = [
    include_str!("../../../crates/stores/tests/lint/cases.sql"),
    include_str!("../../../crates/stores/tests/lint/held_out.sql"),
];
const TRUTHS: [&str; 2] = [
    include_str!("../../../crates/stores/tests/lint/cases-17.tsv"),
    include_str!("../../../crates/stores/tests/lint/held_out-17.tsv"),
];
const WORLD: &str = include_str!("../../../crates/stores/tests/lint/world.sql");
/// The version that the figures were taken with.
const SQUAWK: &str = "squawk-cli==2.70.0";
const DATABASE: &str = "steward_bench_lint";
const READER: &str = "steward_bench_lint_reader";
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
    let truths: [BTreeMap<&str, Truth>; 2] = TRUTHS.map(truths);
    let truth_of =
        |name: &str| truths.iter().find_map(|truths| truths.get(name)).expect("each case was measured");
    let said = |text: &str, before: &[&str]| {
        lint_text(text, Some(17), before).iter().any(|verdict| verdict.blocking.hurts())
    };
    let (mut alone, mut after) = (Score::default(), Score::default());
    for (name, text) in &cases {
        alone.take(truth_of(name).hurts, said(text, &[]));
        after.take(truth_of(name).hurts, said(text, &[WORLD]));
    }
    println!("{} cases, PostgreSQL 17, \"blocks for long or fails\"", cases.len());
    println!("{}", alone.line("steward, the text alone"));
    println!("{}", after.line("steward, with the files before"));
    match std::env::var("STEWARD_TEST_POSTGRES17_URL") {
        Ok(server) => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            for line in runtime.block_on(connected(&server, &cases, &truths)).expect("the server answers") {
                println!("{line}");
            }
        }
        Err(_) => println!("with the live catalog: not measured, `STEWARD_TEST_POSTGRES17_URL` is not set"),
    }

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
        score.take(truth_of(name).hurts, found.iter().any(|rule| BLOCKING.contains(&rule.as_str())));
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

/// The record of a set of cases by their names.
fn truths(text: &str) -> BTreeMap<&str, Truth> {
    let truth = |line| {
        let mut cells = str::split(line, '\t');
        let (name, class, lock) = (cells.next()?, cells.next()?, cells.next()?);
        let fails = class == "fails";
        Some((
            name,
            Truth { hurts: fails || matches!(class, "writes" | "all"), fails, lock: Lock::named(lock) },
        ))
    };
    text.lines().filter_map(truth).collect()
}

/// Judges each set with the catalog of a database that holds the world of the cases.
async fn connected(
    server: &str,
    cases: &[(String, String)],
    truths: &[BTreeMap<&str, Truth>; 2],
) -> Result<Vec<String>, Error> {
    let mut address: url::Url = server.parse().map_err(other)?;
    let admin = connect(&address).await?;
    let drop_it =
        [format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"), format!("DROP ROLE IF EXISTS {READER}")];
    let make_it = [
        format!("CREATE DATABASE {DATABASE} TEMPLATE template0"),
        format!("CREATE ROLE {READER} LOGIN PASSWORD 'bench' IN ROLE pg_read_all_data, pg_read_all_stats"),
    ];
    for sql in drop_it.iter().chain(&make_it) {
        admin.batch_execute(sql).await.map_err(other)?;
    }
    address.set_path(DATABASE);
    connect(&address).await?.batch_execute(WORLD).await.map_err(other)?;
    address.set_username("").map_err(|()| Error::new(ErrorKind::Invalid, "the address has no user"))?;
    let reader = LoginConfig { user: READER.into(), password_secret: Some("bench".into()) };
    let config = store_postgres::Config::new(address.as_str(), reader);
    let shop = Only(Arc::new(store_postgres::open("shop", config, Path::new("/"), Arc::new(Password))?));
    let ctx = Context::new("bench", Actor::local());
    let texts: Vec<&str> = cases.iter().map(|(_, text)| text.as_str()).collect();
    let catalog = Catalog::read(&ctx, &shop, "shop", &texts).await;
    shop.0.close().await;
    for sql in &drop_it {
        admin.batch_execute(sql).await.map_err(other)?;
    }
    let catalog = catalog?;
    let lines = SETS.iter().zip(truths).map(|(set, truths)| {
        let (mut score, mut exact, mut locks) = (Score::default(), 0_u32, 0_u32);
        for (name, text) in cases {
            let Some(truth) = truths.get(name.as_str()) else { continue };
            let verdicts = catalog.lint(text);
            score.take(truth.hurts, verdicts.iter().any(|verdict| verdict.blocking.hurts()));
            if !truth.fails {
                let lock = verdicts.iter().flat_map(|verdict| &verdict.locks).map(|held| held.lock).max();
                locks += 1;
                exact += u32::from(lock == truth.lock);
            }
        }
        let line = score.line(&format!("steward, with the live catalog ({set})"));
        format!("{line}; strongest lock right in {exact} of {locks}")
    });
    Ok(lines.collect())
}

async fn connect(address: &url::Url) -> Result<tokio_postgres::Client, Error> {
    let (client, connection) =
        tokio_postgres::connect(address.as_str(), tokio_postgres::NoTls).await.map_err(other)?;
    tokio::spawn(connection);
    Ok(client)
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Other, "the benchmark failed").because(error)
}

struct Password;

#[async_trait]
impl SecretSource for Password {
    async fn secret(&self, _: &Context, _: &str) -> Result<SecretString, Error> {
        Ok(SecretString::from("bench"))
    }
}

/// A project with one store.
struct Only(Arc<dyn Store>);

#[async_trait]
impl StoreDirectory for Only {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        vec![("shop".to_owned(), self.0.kind().to_owned())]
    }

    async fn open(&self, _: &Context, _: &str) -> Result<Arc<dyn Store>, Error> {
        Ok(Arc::clone(&self.0))
    }
}

/// Installs this version of squawk from PyPI once.
fn install() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let venv = target.join(SQUAWK.replace("==", "-"));
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
