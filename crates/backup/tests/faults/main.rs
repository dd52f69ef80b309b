//! Seeded runs of the real room over a real repository and a real store, in which processes die, disks fill, clocks jump
//! and files are damaged; after each of them everything that was promised must still hold.
//!
//! `STEWARD_TEST_SEED=17` repeats one run, `STEWARD_TEST_SEED=17..40` some, `STEWARD_TEST_FULL=1` makes all of them.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

mod dice;
mod home;
mod trip;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup::{Level, Manifest, Recorded, State};
use contract::{CheckDepth, Kept, LoadTarget, Repository, Selection};
use dice::{Dice, Harm};
use home::Home;
use trip::Trip;

/// Runs of the short form and of all.
const RUNS: u64 = 10;
const RUNS_FULL: u64 = 2_000;

const FOLDER: &str = "STEWARD_TEST_FAULTS_FOLDER";
const WORK: &str = "STEWARD_TEST_FAULTS_WORK";
const DAYS: &str = "STEWARD_TEST_FAULTS_DAYS";

/// A process of its own, which does one thing and may die in the middle: `backup@put:2`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a part of the runs, which start it"]
async fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let work = variable(WORK);
    let (work, point) = work.split_once('@').unwrap();
    let days: i64 = variable(DAYS).parse().unwrap();
    let home = Home::open(Path::new(&variable(FOLDER)), Trip::abort_at(point), days).await;
    let answer = home.work(work).await;
    if let Err(error) = answer {
        eprintln!("said: {error:?} {error}");
    }
}

/// Starts a process and waits for its end; what it printed.
fn process(folder: &Path, work: &str, point: &str, days: i64) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(WORK, format!("{work}@{point}"))
        .env(DAYS, days.to_string())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// A home with three backups, made once and copied for each run.
async fn template() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Home::make(folder.path());
    for round in 0..3 {
        let home = Home::open(folder.path(), Trip::never(), 0).await;
        home.change(round);
        home.work("backup").await.unwrap();
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// What a run has done so far, so that a failure can say it.
struct Run {
    seed: u64,
    told: Vec<String>,
    /// All that anybody was told.
    said: String,
    harmed: bool,
    days: i64,
}

impl Run {
    fn case(&self) -> String {
        format!("STEWARD_TEST_SEED={}: {}", self.seed, self.told.join("; "))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_what_was_kept_comes_back() {
    let full = std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1");
    let seeds: Vec<u64> = match std::env::var("STEWARD_TEST_SEED") {
        Ok(seeds) => match seeds.split_once("..") {
            Some((from, to)) => (from.parse().unwrap()..to.parse().unwrap()).collect(),
            None => vec![seeds.parse().unwrap()],
        },
        Err(_) => (0..if full { RUNS_FULL } else { RUNS }).collect(),
    };
    let template = template().await;
    let mut counted = std::collections::BTreeMap::<String, u32>::new();
    for seed in seeds {
        let told = Box::pin(one(template.path(), seed)).await;
        for told in told {
            *counted.entry(told.split([' ', ':']).next().unwrap().to_owned()).or_default() += 1;
        }
    }
    eprintln!("{counted:?}");
}

async fn one(template: &Path, seed: u64) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    copy(template, folder.path());
    let mut dice = Dice::new(seed);
    let mut run = Run { seed, told: Vec::new(), said: String::new(), harmed: false, days: 0 };
    for _ in 0..=dice.below(2) {
        match dice.below(7) {
            0..=2 => crash(&mut run, &mut dice, folder.path()),
            3 => full(&mut run, &mut dice, folder.path()).await,
            4 => at_once(&mut run, &mut dice, folder.path()),
            5 => {
                run.days = [-2, 2][dice.below(2)];
                run.told.push(format!("clock: {} days", run.days));
            }
            _ if !run.harmed => harm(&mut run, &mut dice, folder.path()),
            _ => {}
        }
    }
    holds(&mut run, &mut dice, folder.path()).await;
    run.told
}

fn crash(run: &mut Run, dice: &mut Dice, folder: &Path) {
    let work = ["backup", "prune", "restore"][dice.below(3)];
    let points =
        ["begin", "put", "commit", "committed", "ledger", "manifest", "open", "read", "forget", "prune"];
    let point = format!("{}:{}", points[dice.below(points.len())], dice.below(5));
    let ended = process(folder, work, &point, run.days).wait_with_output().unwrap();
    let died = std::os::unix::process::ExitStatusExt::signal(&ended.status).is_some();
    run.told.push(format!("crash: {work} at {point}, {}", if died { "died" } else { "came to its end" }));
    run.said.push_str(&String::from_utf8_lossy(&ended.stderr));
    assert!(died || ended.status.success(), "{}: {}", run.case(), String::from_utf8_lossy(&ended.stderr));
}

async fn full(run: &mut Run, dice: &mut Dice, folder: &Path) {
    let point = format!("{}:{}", ["begin", "put", "commit", "forget", "prune"][dice.below(5)], dice.below(4));
    let work = ["backup", "prune"][dice.below(2)];
    run.told.push(format!("full: {work} at {point}"));
    let home = Home::open(folder, Trip::full_at(&point), run.days).await;
    if let Err(error) = home.work(work).await {
        write!(run.said, "{error:?} {error}").unwrap();
    }
}

fn at_once(run: &mut Run, dice: &mut Dice, folder: &Path) {
    let other = ["backup", "prune", "restore"][dice.below(3)];
    run.told.push(format!("two at once: backup and {other}"));
    let both = [process(folder, "backup", "never:0", run.days), process(folder, other, "never:0", run.days)];
    for one in both {
        let ended = one.wait_with_output().unwrap();
        run.said.push_str(&String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success(), "{}: {}", run.case(), String::from_utf8_lossy(&ended.stderr));
    }
}

/// Damages one file of the repository.
fn harm(run: &mut Run, dice: &mut Dice, folder: &Path) {
    let repository = folder.join("backups/pages");
    let kinds = ["data", "data", "index", "snapshots", "config"];
    let kind = kinds[dice.below(kinds.len())];
    let at = repository.join(kind);
    let all = if at.is_dir() { files(&at) } else { vec![at] };
    let Some(file) = all.get(dice.below(all.len().max(1))) else { return };
    let harm = Harm::any(dice);
    harm.apply(file, dice);
    run.told.push(format!("harm: {harm:?} to one of {kind}"));
    run.harmed = true;
}

async fn holds(run: &mut Run, dice: &mut Dice, folder: &Path) {
    let home = Home::open(folder, Trip::never(), run.days).await;
    let repository = home.plain();
    let listing = repository.list(&home.ctx()).await.unwrap();
    let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
    let case = run.case();
    let known = home.recorded().await;
    // A record that is gone is missed by who knows that it was there.
    let complete = || known.iter().filter(|backup| backup.state == State::Complete);
    let missed =
        complete().filter(|backup| !listing.kept.iter().any(|kept| kept.snapshot == backup.snapshot)).count();
    if run.harmed {
        let noticed = !check.problems.is_empty() || !listing.unreadable.is_empty() || missed > 0;
        assert!(noticed, "{case}: the damage is not found: {check:?}");
    } else {
        assert_eq!((&check.problems, &listing.unreadable), (&vec![], &vec![]), "{case}");
    }
    // One record at most was harmed; where that was the only one left, it is named.
    let named = run.harmed && (!listing.unreadable.is_empty() || missed > 0);
    assert!(!listing.kept.is_empty() || named, "{case}: nothing is listed");
    let mut whole = 0;
    for kept in &listing.kept {
        let damaged = check.damaged.contains(&kept.snapshot);
        match comes_back(&home, &repository, kept, dice.below(4) == 0).await {
            Ok(()) => whole += 1,
            Err(why) => {
                assert!(damaged, "{case}: {:?} is not damaged and does not come back: {why}", kept.id);
            }
        }
    }
    assert!(whole > 0 || run.harmed, "{case}: nothing comes back");
    assert!(missed == 0 || run.harmed, "{case}: {missed} count and are not in the repository");
    let forgotten = |id: &str| known.iter().any(|backup| backup.id == id && backup.state == State::Forgotten);
    if !run.harmed {
        for id in home.first_ids() {
            let there = listing.kept.iter().any(|kept| kept.id.as_ref() == Some(&id));
            assert!(
                there || forgotten(&id) || run.told.iter().any(|told| told.contains("prune")),
                "{case}: {id} is lost"
            );
        }
    }
    let secret = home.secret();
    assert!(!run.said.contains(&secret), "{case}: the key was said");
    drop(home);
    goes_on(run, folder).await;
}

/// Two days later everything that was left is cleaned away, and backups are made again.
async fn goes_on(run: &Run, folder: &Path) {
    let case = run.case();
    let home = Home::open(folder, Trip::never(), run.days + 3).await;
    let repository = home.plain();
    repository.clean(&home.ctx()).await.unwrap_or_else(|error| panic!("{case}: clean: {error}"));
    for file in files(&folder.join("backups")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let expected = name == "config" || name.len() == 64 || run.harmed;
        assert!(expected, "{case}: {} is left after cleaning", file.display());
    }
    let locks =
        files(&folder.join("backups/pages/locks")).len() + files(&folder.join("backups/stream/locks")).len();
    assert_eq!(locks, 0, "{case}: locks are left after cleaning");
    if run.harmed {
        return;
    }
    home.change(9);
    home.work("backup").await.unwrap_or_else(|error| panic!("{case}: a new backup: {error:?}"));
    let newest: Recorded =
        home.recorded().await.into_iter().find(|one| one.state == State::Complete).unwrap();
    assert!(newest.level >= Level::L3 || run.days < 0, "{case}: {newest:?}");
    let left: Vec<_> = std::fs::read_dir(folder.join("scratch")).into_iter().flatten().flatten().collect();
    let kept = run.told.iter().filter(|told| told.contains("restore")).count();
    assert!(left.len() <= kept, "{case}: {left:?} is left in the scratch folder");
}

/// Reads a backup to its last byte, or restores it, and compares it with what was dumped.
async fn comes_back(
    home: &Home,
    repository: &dyn Repository,
    kept: &Kept,
    restore: bool,
) -> Result<(), String> {
    let said = |error: contract::Error| error.to_string();
    // Nothing without a manifest is listed.
    let manifest = repository.manifest(&home.ctx(), kept).await.map_err(said)?;
    let manifest = Manifest::read(&manifest).map_err(said)?;
    if Some(&manifest.id) != kept.id.as_ref() {
        return Err(format!("the manifest is that of {}", manifest.id));
    }
    let source = repository.open(&home.ctx(), kept, manifest.parts.clone()).await.map_err(said)?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    if !restore {
        for (number, part) in manifest.parts.iter().enumerate() {
            let file = folder.path().join(number.to_string());
            source.read_into(&part.path, &file).await.map_err(said)?;
        }
        return Ok(());
    }
    let store = home.store();
    let load = contract::Store::load(&*store).unwrap();
    let target = LoadTarget::Scratch { folder: folder.path().join("scratch") };
    std::fs::create_dir(folder.path().join("scratch")).map_err(|error| error.to_string())?;
    let restored =
        load.load(&home.ctx(), &manifest.dumped, &*source, &Selection::Whole, &target).await.map_err(said)?;
    let counted = restored.fingerprint(&home.ctx(), &manifest.dumped).await.map_err(said)?;
    restored.remove().await.map_err(said)?;
    if counted == manifest.dumped.tables { Ok(()) } else { Err("other rows came back".to_owned()) }
}
