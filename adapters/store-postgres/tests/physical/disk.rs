//! Disks that are really full: a small file system in a mount namespace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use conformance::{Cluster, Parts};
use contract::{BackupMethod, DumpOptions, ErrorKind, RecoveryTarget, Selection, Store};

use crate::log::{fill, write_much};
use crate::world::{
    Following, LIMIT, Log, SHOP, Scratch, caught_up, ctx, dump, load, position, programs, recover, store,
    until,
};

const CASE: &str = "STEWARD_TEST_DISK_CASE";
const FOLDER: &str = "STEWARD_TEST_DISK_FOLDER";

/// Mounts a disk of so many MiB on a folder and runs a program that finds it there.
const ON_A_DISK: &str = r#"
mount -t tmpfs -o "size=$1m,mode=0700" none "$2"
shift 2
exec "$@"
"#;

/// Runs a case in a process of its own that has a small disk. `temporary`: everything that it makes is there.
fn on_a_disk(case: &str, mib: u32, temporary: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-ec", ON_A_DISK, "sh", &mib.to_string()])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk::child", "--ignored", "--nocapture"])
        .env(CASE, case)
        .env(FOLDER, folder.path());
    if temporary {
        command.env("TMPDIR", folder.path());
    }
    let ended = command.output().unwrap();
    assert!(
        ended.status.success(),
        "{case}: {}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

/// Makes the disk larger.
fn grow(folder: &Path, mib: u32) {
    let size = format!("remount,size={mib}m");
    assert!(Command::new("mount").args(["-o", &size]).arg(folder).status().unwrap().success());
}

/// The files on it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a part of the tests below, which start it"]
async fn child() {
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    match std::env::var(CASE).unwrap().as_str() {
        "received" => received(&folder).await,
        "server" => server_with_little_space().await,
        "logical" => logical(&folder).await,
        "physical" => physical(&folder).await,
        "recovered" => recovered(&folder).await,
        other => panic!("{other}"),
    }
}

#[test]
fn a_full_disk_of_ours_leaves_the_log_with_the_server() {
    on_a_disk("received", 24, false);
}

#[test]
fn a_servers_disk_with_little_space_left_makes_the_slot_give_way() {
    on_a_disk("server", 480, true);
}

#[test]
fn a_restore_that_fills_the_scratch_disk_says_what_it_needs_and_leaves_nothing() {
    on_a_disk("logical", 100, false);
    on_a_disk("physical", 30, false);
    on_a_disk("recovered", 110, false);
}

async fn received(folder: &Path) {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (dumped, parts) = dump(&store(&cluster)).await.unwrap();
    let log = Arc::new(Log::default());
    let following = Following::start(store(&cluster), &log, folder, LIMIT);
    caught_up(&cluster, &log, 1).await;
    // What is received and not taken stays, so the second file finds no room.
    log.is_away.store(true, Ordering::SeqCst);
    cluster.sql("postgres", &format!("{}; SELECT pg_switch_wal()", fill(1)));
    cluster.sql("postgres", &fill(2));
    until("it is told", || {
        let states = log.states.lock().unwrap();
        states
            .iter()
            .any(|state| state.problem.as_ref().is_some_and(|it| it.contains("No space left on device")))
    })
    .await;
    grow(folder, 200);
    log.is_away.store(false, Ordering::SeqCst);
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
    let scratch = Scratch::new();
    let (restored, rows) =
        recover(&store(&cluster), &dumped, &parts, &log, &scratch, (RecoveryTarget::End, 1)).await.unwrap();
    assert_eq!(rows, "postgres.public.step=4000");
    restored.remove().await.unwrap();
}

async fn server_with_little_space() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    let before = caught_up(&cluster, &log, 1).await;
    following.end().await;
    // Little is left all the time; what is kept for us is what makes it worse.
    assert_eq!(*log.gaps.lock().unwrap(), []);
    write_much(&cluster);
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    until("the gap is told", || !log.gaps.lock().unwrap().is_empty()).await;
    cluster.sql("postgres", "INSERT INTO step VALUES (2, '')");
    let after = caught_up(&cluster, &log, 1).await;
    following.end().await;
    let gaps = log.gaps.lock().unwrap().clone();
    let [gap] = &gaps[..] else { panic!("{gaps:#?}") };
    assert!(
        gap.why.contains("the server's disk has ") && gap.why.contains("the slot was given up"),
        "{gap:#?}"
    );
    assert!(gap.after.is_some_and(|it| it >= before) && gap.before.is_some_and(|it| it <= after), "{gap:#?}");
}

fn is_told(error: &contract::Error, folder: &Path) {
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    let said = error.to_string();
    for expected in ["the disk of the scratch folder is full", "needs about", "bytes_needed"] {
        assert!(said.contains(expected), "{said}");
    }
    // Of the last write some bytes may have found room.
    assert!(said.contains("No space left on device") || said.contains("wrote only"), "{said}");
    assert_eq!(files(folder), Vec::<PathBuf>::new());
}

async fn logical(folder: &Path) {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql(
        "postgres",
        "CREATE TABLE wide (n int PRIMARY KEY, body text);
         ALTER TABLE wide ALTER body SET STORAGE EXTERNAL;
         INSERT INTO wide SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 8000) AS i",
    );
    let store = store(&cluster);
    let (scratch, parts) = (Scratch::new(), Parts::default());
    let options = DumpOptions { method: BackupMethod::Logical, ..scratch.options() };
    let dumped = Store::dump(&store).unwrap().dump(&ctx(), &options, &parts).await.unwrap();
    let target = contract::LoadTarget::Scratch { folder: folder.join("copy") };
    let looked = Store::load(&store).unwrap().preflight(&ctx(), &dumped, &target).await.unwrap();
    assert!(looked.refusals.iter().any(|it| it.contains("bytes free and needs about")), "{looked:?}");
    let role = Store::load(&store).unwrap();
    let loaded = role.load(&ctx(), &dumped, &parts.given(), &Selection::Whole, &target).await;
    is_told(&loaded.err().unwrap(), folder);
}

async fn physical(folder: &Path) {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", SHOP);
    let (dumped, parts) = dump(&store(&cluster)).await.unwrap();
    let scratch = Scratch::in_folder(folder);
    is_told(&load(&store(&cluster), &dumped, &parts, &scratch).await.err().unwrap(), folder);
}

/// The files have room, the log that is read has not: it must not be taken for the end of the log.
async fn recovered(folder: &Path) {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (dumped, parts) = dump(&store(&cluster)).await.unwrap();
    let (log, kept) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&cluster), &log, kept.path(), LIMIT);
    cluster.sql("postgres", &fill(1));
    let moment = position(&cluster);
    caught_up(&cluster, &log, 1).await;
    // Rows that need more disk than there is, over several files.
    for n in 2..42 {
        cluster.sql("postgres", &fill(n));
    }
    let last = position(&cluster);
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    let logs = tempfile::tempdir().unwrap();
    log.write(logs.path());
    for target in [RecoveryTarget::End, RecoveryTarget::Position(last)] {
        let covered = matches!(target, RecoveryTarget::Position(_));
        let recovery = contract::Recovery {
            target,
            timeline: 1,
            logs: logs.path().to_owned(),
            target_is_covered: covered,
        };
        let store = store(&cluster);
        let to = contract::LoadTarget::Scratch { folder: folder.join("copy") };
        let recovered =
            Store::load(&store).unwrap().recover(&ctx(), &dumped, &parts.given(), &recovery, &to).await;
        is_told(&recovered.err().unwrap(), folder);
    }
    // There is room for the beginning of it.
    let scratch = Scratch::in_folder(folder);
    grow(folder, 400);
    let (restored, rows) =
        recover(&store(&cluster), &dumped, &parts, &log, &scratch, (RecoveryTarget::Position(moment), 1))
            .await
            .unwrap();
    assert_eq!(rows, "postgres.public.step=2000");
    restored.remove().await.unwrap();
}
