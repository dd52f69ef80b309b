//! Seeded runs of the real room over a real repository and real stores, in which processes die, disks fill, clocks jump, files
//! are damaged, keys change and a server cuts its sessions off; after each of them everything that was promised must still hold.
//!
//! `STEWARD_TEST_SEED=17` repeats one run, `STEWARD_TEST_SEED=17..40` some, `STEWARD_TEST_FULL=1` makes all of them.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and may print")]

mod crowd;
mod dice;
mod disk;
mod event;
mod holds;
mod home;
mod lie;
mod rows;
mod run;
mod trip;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use dice::{Dice, Harm};
use home::Home;
use lie::Lie;
use rows::Rows;
use run::{DAYS, FILL, FOLDER, Run, STOP, WORK, copy, files};
use trip::Trip;

/// Runs of the short form and of all.
const RUNS: u64 = 10;
const RUNS_FULL: u64 = 2_000;
/// One run of so many is over the server.
const RUNS_PER_SERVER: u64 = 20;
/// Runs that are under way at once: most of the time each waits, for a lock to settle or for another process.
const AT_ONCE: usize = 8;

/// A process of its own, which does one thing and may die in the middle: `backup@put:2`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a part of the runs, which start it"]
async fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let work = variable(WORK);
    let (work, point) = work.split_once('@').unwrap();
    let trip = match std::env::var(FILL) {
        Ok(fill) => {
            let (folder, leave) = fill.rsplit_once(':').unwrap();
            let (folder, leave) = (Path::new(folder).to_owned(), leave.parse().unwrap());
            Trip::act_at(point, move || disk::fill(&folder, leave))
        }
        Err(_) if std::env::var_os(STOP).is_some() => Trip::act_at(point, crowd::stop_here),
        Err(_) => Trip::abort_at(point),
    };
    let answer = match Home::open(Path::new(&variable(FOLDER)), trip, variable(DAYS).parse().unwrap()).await {
        Ok(home) => home.work(work).await,
        Err(error) => Err(error),
    };
    if let Err(error) = answer {
        eprintln!("said: {error:?} {error}");
    }
}

fn seeds() -> Vec<u64> {
    let full = std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1");
    match std::env::var("STEWARD_TEST_SEED") {
        Ok(seeds) => match seeds.split_once("..") {
            Some((from, to)) => (from.parse().unwrap()..to.parse().unwrap()).collect(),
            None => vec![seeds.parse().unwrap()],
        },
        Err(_) => (0..if full { RUNS_FULL } else { RUNS }).collect(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn whatever_happens_what_was_kept_comes_back() {
    let template = tempfile::tempdir().unwrap();
    let rows = runtime().block_on(async {
        let rows = Rows::make().await;
        Home::make(template.path(), &rows).await;
        rows
    });
    let (left, server) = (Mutex::new(seeds().into_iter()), Mutex::new(()));
    let (counted, failed) = (Mutex::new(BTreeMap::<String, u32>::new()), Mutex::new(Vec::<String>::new()));
    let lane = || {
        let next = || left.lock().unwrap().next();
        while let Some(seed) = next() {
            let begun = Instant::now();
            let folder = tempfile::tempdir().unwrap();
            copy(template.path(), folder.path());
            let mut run = Run::new(seed, folder.path());
            run.over_server = seed % RUNS_PER_SERVER == 3;
            // They share one database.
            let _alone = run.over_server.then(|| server.lock().unwrap());
            let answer = catch_unwind(AssertUnwindSafe(|| runtime().block_on(one(&mut run, &rows.0))));
            let answer = answer.unwrap_or_else(|_| Err("it panicked".to_owned()));
            let case = run.case();
            let mut counted = counted.lock().unwrap();
            for told in &run.told {
                *counted.entry(told.split([' ', ':']).next().unwrap().to_owned()).or_default() += 1;
            }
            eprintln!("{:.1} s  {case}", begun.elapsed().as_secs_f64());
            if let Err(why) = answer {
                eprintln!("FAILED: {why}");
                failed.lock().unwrap().push(format!("{case}: {why}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(lane);
        }
    });
    eprintln!("{:?}", counted.lock().unwrap());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} runs failed:\n{}", failed.len(), failed.join("\n"));
}

async fn one(run: &mut Run, database: &str) -> Result<(), String> {
    let mut dice = Dice::new(run.seed);
    if run.over_server {
        rows::reset(database).await;
        event::source(run, &mut dice).await?;
    }
    for _ in 0..=dice.below(2) {
        event::something(run, &mut dice).await?;
    }
    holds::look(run, &mut dice).await
}

/// The runs are worth what they notice.
#[test]
fn a_repository_that_lies_is_found_out() {
    let template = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let rows = runtime.block_on(async {
        let rows = Rows::make().await;
        Home::make(template.path(), &rows).await;
        rows
    });
    let left = Mutex::new(std::iter::once(None).chain(Lie::ALL.into_iter().map(Some)));
    let lane = || {
        let next = || left.lock().unwrap().next();
        while let Some(lie) = next() {
            let folder = tempfile::tempdir().unwrap();
            copy(template.path(), folder.path());
            match (lie, runtime.block_on(lied_to(folder.path(), lie))) {
                (None, answer) => assert_eq!(answer, Ok(()), "nobody lied"),
                (Some(lie), answer) => {
                    let (_, expected, _) = lie.case();
                    let why = answer.expect_err(&format!("{lie:?} is believed"));
                    assert!(why.contains(expected), "{lie:?}: {why}");
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(lane);
        }
    });
    drop(rows);
}

async fn lied_to(folder: &Path, lie: Option<Lie>) -> Result<(), String> {
    let (mut run, mut dice) = (Run::new(0, folder), Dice::new(0));
    let (work, _, harmed) = lie.map_or(("backup", "", false), Lie::case);
    if harmed {
        Harm::Cut.apply(&files(&folder.join("backups/pages/data"))[0], &mut dice);
        run.harmed = Some(("pages", "data"));
    }
    run.tended = true;
    let open = |days| Home::open(folder, Trip::never(), days);
    let text = |error: contract::Error| error.to_string();
    let mut home = open(0).await.map_err(text)?;
    if let Some(lie) = lie {
        home = home.lied_to(lie);
    }
    home.change();
    if !work.is_empty() {
        run.told.push(work.to_owned());
        if let Err(error) = home.work(work).await {
            run.said = format!("{error:?} {error}");
        }
    }
    holds::holds(&run, &mut dice, &home).await?;
    drop(home);
    holds::goes_on(&run, &open(3).await.map_err(text)?).await
}

#[test]
fn what_was_begun_and_not_ended_is_ended_by_the_next() {
    let template = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let rows = runtime.block_on(async {
        let rows = Rows::make().await;
        Home::make(template.path(), &rows).await;
        rows
    });
    let of_copy = |case: &str, work: &dyn Fn(&Path, &mut Run)| {
        let folder = tempfile::tempdir().unwrap();
        copy(template.path(), folder.path());
        let mut run = Run::new(0, folder.path());
        work(folder.path(), &mut run);
        let lists = runtime.block_on(async {
            let home = Home::open(folder.path(), Trip::never(), 0).await.unwrap();
            lists(&home).await
        });
        assert_eq!(lists.0, lists.1, "{case}: what is on one list is not on the other");
        lists.0.len()
    };
    let whole = of_copy("nothing", &|_, _| {});
    for point in ["forget:0", "forget:1", "prune:0"] {
        let left = of_copy(point, &|folder, run| {
            let child = run.process(&format!("prune@{point}"), None);
            assert_eq!(run.ended(child), Ok(true), "{point}");
            runtime.block_on(async {
                let home = Home::open(folder, Trip::never(), 0).await.unwrap();
                let (recorded, listed) = lists(&home).await;
                assert!(recorded.is_subset(&listed), "{point}: {recorded:?} and {listed:?}");
                drop(home);
                // The lock of the dead one is nobody's by then.
                let home = Home::open(folder, Trip::never(), 1).await.unwrap();
                home.work("prune").await.unwrap();
            });
        });
        assert!(left < whole, "{point}: {left} of {whole} stay");
    }
    let left = of_copy("locked", &|folder, _| {
        runtime.block_on(async {
            let home = Home::open(folder, Trip::never(), 0).await.unwrap();
            let label = contract::BackupLabel {
                id: "x".into(),
                project: "p".into(),
                store: "app".into(),
                plan: "app".into(),
                at: home.ctx().now(),
                layout: contract::Layout::Pages,
            };
            let writer = home.seen().begin(&home.ctx(), &label).await.unwrap();
            let error = home.work("prune").await.unwrap_err();
            assert_eq!(error.kind(), contract::ErrorKind::Conflict, "{error}");
            writer.abandon().await;
        });
    });
    assert!(left > 3 && left < whole, "those of the other repository went: {left} of {whole}");
    of_copy("scratch", &|folder, run| {
        let child = run.process("backup@read:0", None);
        assert_eq!(run.ended(child), Ok(true));
        assert!(!files(&folder.join("scratch")).is_empty(), "it died with a copy in scratch");
        runtime.block_on(async {
            let home = Home::open(folder, Trip::never(), 0).await.unwrap();
            home.work("backup").await.unwrap();
        });
        assert_eq!(std::fs::read_dir(folder.join("scratch")).unwrap().count(), 0);
    });
    drop(rows);
}

#[test]
fn a_crowd_at_one_repository_loses_nothing() {
    let template = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let rows = runtime.block_on(async {
        let rows = Rows::make().await;
        Home::make(template.path(), &rows).await;
        rows
    });
    let rounds = if std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1") { 10 } else { 1 };
    for round in 0..rounds {
        for impatient in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            copy(template.path(), folder.path());
            let answer = runtime.block_on(crowd::crowd(folder.path(), impatient));
            assert_eq!(answer, Ok(()), "round {round}, impatient: {impatient}");
        }
    }
    drop(rows);
}

/// The backups that the catalog counts, and those that the repository lists.
async fn lists(home: &Home) -> (BTreeSet<String>, BTreeSet<String>) {
    let recorded = home.recorded().await.into_iter().filter(|it| it.state == backup::State::Complete);
    let listed = home.seen().list(&home.ctx()).await.unwrap().kept.into_iter();
    (recorded.map(|it| it.snapshot).collect(), listed.map(|it| it.snapshot).collect())
}
