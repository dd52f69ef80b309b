//! Processes that are killed while they take a base backup or hand the log over.

use std::path::Path;
use std::process::Command;

use backup::{Level, Manifest};
use contract::{CheckDepth, Repository};
use serde_json::Value;

use crate::home::{Home, Place, STORE, insert, server, with_every_case};
use crate::trip::Trip;

const FOLDER: &str = "STEWARD_TEST_PHYSICAL_FOLDER";
const PORT: &str = "STEWARD_TEST_PHYSICAL_PORT";
const PROGRAMS: &str = "STEWARD_TEST_PHYSICAL_PROGRAMS";
const WORK: &str = "STEWARD_TEST_PHYSICAL_WORK";

/// What dies where, in the short form and in the long one.
const POINTS: [&str; 6] = [
    "base@put:100",
    "follow@append:0",
    "base@commit:0",
    "follow@appended:0",
    "base@committed:0",
    "follow@ledger:0",
];
const POINTS_FULL: [&str; 9] = [
    "base@begin:0",
    "base@put:0",
    "base@put:600",
    "base@ledger:1",
    "base@ledger:3",
    "base@open:0",
    "follow@append:1",
    "follow@appended:1",
    "follow@ledger:1",
];

/// A process of its own, which does one thing and dies in the middle.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a part of the test below, which starts it"]
async fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let work = variable(WORK);
    let (work, point) = work.split_once('@').unwrap();
    let (folder, programs) = (variable(FOLDER), variable(PROGRAMS));
    let place = Place::again(Path::new(&folder), variable(PORT).parse().unwrap(), Path::new(&programs));
    let home = Home::open(&place, Trip::abort_at(point)).await;
    match work {
        "base" => drop(home.base(Level::L3).await),
        _ => drop(home.follow_once().await),
    }
}

fn dies(place: &Place, work: &str) {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--ignored", "--nocapture"])
        .env(FOLDER, &place.folder)
        .env(PORT, place.port.to_string())
        .env(PROGRAMS, &place.programs)
        .env(WORK, work)
        .output()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&ended.status);
    assert!(signal.is_some(), "{work}: it came to its end: {ended:?}");
}

/// What the list says is there.
fn complete(listed: &Value) -> Vec<String> {
    let all = listed["backups"].as_array().unwrap().iter();
    all.filter(|one| one["state"] == "complete").map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_no_backup_and_no_log_is_lost() {
    if !with_every_case() {
        return;
    }
    let server = server(&[]);
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &server);
    let home = Home::open(&place, Trip::never()).await;
    home.base(Level::L0).await.unwrap();
    home.follow_once().await;
    drop(home);
    let full = std::env::var_os("STEWARD_TEST_FULL").is_some();
    let points = POINTS.iter().chain(POINTS_FULL.iter().filter(|_| full));
    let mut known = 1;
    for (n, point) in (1..).zip(points) {
        insert(&server, n);
        // Files of the log that are whole, and one that is not.
        server.sql("postgres", "SELECT pg_switch_wal()");
        insert(&server, 1_000 + n);
        dies(&place, point);
        let home = Home::open(&place, Trip::never()).await;
        let repository = home.plain();
        let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
        assert_eq!(check.problems, Vec::<String>::new(), "{point}");
        // What is listed has its manifest, and all its bytes, as the check has read.
        let listing = repository.list(&home.ctx()).await.unwrap();
        assert_eq!(listing.unreadable, Vec::<String>::new(), "{point}");
        let mut ids = Vec::new();
        for kept in &listing.kept {
            let manifest = repository.manifest(&home.ctx(), kept).await.unwrap();
            ids.push(Manifest::read(&manifest).unwrap().id);
        }
        let listed = backup::list(&home.ctx(), &*home, &backup::ListBackups::default()).await.unwrap().value;
        let complete = complete(&listed);
        assert!(complete.len() >= known, "{point}: {listed:#}");
        known = complete.len();
        for id in &complete {
            assert!(ids.contains(id), "{point}: {id} counts and is not in the repository");
        }
        home.follow_once().await;
        let logs = home.logs().await;
        for chain in logs["chains"].as_array().unwrap() {
            assert!(chain["reach"]["gap"].is_null(), "{point}: {logs:#}");
        }
    }
    // What died and left a whole backup behind counts once it was found.
    let home = Home::open(&place, Trip::never()).await;
    home.rebuild().await;
    home.base(Level::L0).await.unwrap();
    home.follow_once().await;
    let rows = server.sql("postgres", "SELECT count(*), sum(n) FROM step");
    let listed = backup::list(&home.ctx(), &*home, &backup::ListBackups::default()).await.unwrap().value;
    let all = complete(&listed);
    let chosen: Vec<&String> = if full { all.iter().collect() } else { vec![all.last().unwrap(), &all[1]] };
    for id in chosen {
        let restored = home.restored(id, "end", None, "SELECT count(*), sum(n) FROM step").await.unwrap();
        assert_eq!(restored, rows, "{id}");
    }
    // Nothing in the clear is left of what died; the folders of restored copies are empty once those were taken away.
    for entry in std::fs::read_dir(folder.path().join("scratch")).into_iter().flatten().flatten() {
        let left: Vec<_> = std::fs::read_dir(entry.path()).unwrap().flatten().collect();
        let is_of_copy = entry.file_name().to_str().unwrap().starts_with("restore-");
        assert!(is_of_copy && left.is_empty(), "{entry:?}: {left:?}");
    }
    assert_eq!(home.logs().await["store"], STORE);
}
