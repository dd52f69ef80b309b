//! Wrong keys, damaged files, full disks, clocks that jump.

use std::path::Path;
use std::sync::Arc;

use contract::{ErrorKind, TestClock};
use ledger::{EventFilter, Ledger, NewEvent, Options};
use proptest::prelude::*;
use serde_json::json;

use crate::support::{Home, all, command, ctx, event, keys, open, open_read_only, options, role};

fn contents(home: &Home) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(home.path().parent().unwrap())
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name(), std::fs::read(file.path()).unwrap()))
        .collect();
    files.sort();
    files
}

async fn refused(path: &Path, options: Options) -> contract::Error {
    Ledger::open(path, keys(7), options).await.err().expect("it is refused")
}

#[tokio::test]
async fn wrong_key_is_refused_and_damages_nothing() {
    let home = Home::with_events(3).await;
    let before = contents(&home);
    let half = ledger::Keys { sign: keys(9).sign, ..keys(7) };
    for wrong in [keys(9), half] {
        let options = Options { key_hint: "the key is expected in `x.key`".into(), ..options(&home.path()) };
        let error = Ledger::open(&home.path(), wrong, options).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.message().contains("master key"), "{error}");
        assert_eq!(error.hint_text(), Some("the key is expected in `x.key`"));
        assert!(contents(&home) == before, "the files have changed");
    }
    let ledger = home.open().await;
    ledger.append(&ctx(), event(4)).await.unwrap();
    assert!(ledger.verify().await.unwrap().is_whole());
}

#[tokio::test]
async fn file_of_another_kind_or_version_is_refused() {
    let home = Home::with_events(1).await;
    let newer = home.copy();
    newer.raw().execute_batch("UPDATE meta SET value = '999' WHERE name = 'schema_version'").unwrap();
    let error = refused(&newer.path(), options(&newer.path())).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("newer version"), "{error}");

    let foreign = Home::new();
    std::fs::create_dir(foreign.path().parent().unwrap()).unwrap();
    let raw = rusqlite::Connection::open(foreign.path()).unwrap();
    raw.execute_batch("CREATE TABLE photos (id INTEGER PRIMARY KEY)").unwrap();
    let error = refused(&foreign.path(), options(&foreign.path())).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("not a state file"), "{error}");

    let directory = Home::new();
    std::fs::create_dir_all(directory.path()).unwrap();
    let error = refused(&directory.path(), options(&directory.path())).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn damaged_file_is_reported_with_its_path() {
    let home = Home::with_events(40).await;
    let whole = std::fs::read(home.path()).unwrap();
    let noise: Vec<u8> = (0..whole.len()).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
    for bytes in [&noise[..], &whole[..whole.len() / 2], &whole[..100], &whole[..4096], b"hello"] {
        let copy = home.copy();
        std::fs::write(copy.path(), bytes).unwrap();
        for options in [options(&copy.path()), Options { read_only: true, ..options(&copy.path()) }] {
            let error = refused(&copy.path(), options).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{} bytes: {error}", bytes.len());
            assert!(error.to_string().contains(&copy.path().display().to_string()), "{error}");
            assert!(error.hint_text().unwrap().contains("backup"), "{error}");
        }
        assert_eq!(std::fs::read(copy.path()).unwrap(), bytes, "the evidence of the damage is kept");
    }
}

/// Some bytes are replaced, anywhere: an error or a problem, never a panic, never a chain of other events.
#[test]
fn no_damage_goes_unnoticed_or_panics() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let home = runtime.block_on(Home::with_events(40));
    let whole = std::fs::read(home.path()).unwrap();
    let original = runtime.block_on(async { all(&home.open().await).await });
    let config = ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(at in 0..whole.len(), damage in proptest::collection::vec(any::<u8>(), 1..400))| {
        let copy = home.copy();
        let mut bytes = whole.clone();
        for (byte, new) in bytes[at..].iter_mut().zip(&damage) {
            *byte = *new;
        }
        std::fs::write(copy.path(), &bytes).unwrap();
        runtime.block_on(async {
            for read_only in [true, false] {
                let options = Options { read_only, ..options(&copy.path()) };
                let Ok(ledger) = Ledger::open(&copy.path(), keys(7), options).await else { continue };
                let Ok(verified) = ledger.verify().await else { continue };
                if verified.is_whole() {
                    assert_eq!(ledger.events(EventFilter::default()).await.unwrap(), original, "at {at}");
                } else {
                    drop(ledger.events(EventFilter::default()).await);
                }
                drop(ledger.append(&ctx(), event(41)).await.map_err(|error| error.to_string()));
            }
        });
    });
}

#[tokio::test]
async fn clock_that_jumps_back_does_not_break_the_chain() {
    let home = Home::new();
    let ledger = home.open().await;
    let clock = Arc::new(TestClock::at("2026-03-01T12:00:00Z".parse().unwrap()));
    let ctx = ctx().with_clock(clock.clone());
    let first = ledger.append(&ctx, event(1)).await.unwrap();
    clock.advance_us(-3_600_000_000);
    let second = ledger.append(&ctx, event(2)).await.unwrap();
    assert_eq!(second.at, first.at);
    clock.advance_us(7_200_000_000);
    let third = ledger.append(&ctx, event(3)).await.unwrap();
    assert_eq!(third.at, ctx.now());
    assert!(ledger.verify().await.unwrap().is_whole());
}

fn large(number: u64) -> NewEvent {
    NewEvent::new("test.large", "", json!({ "number": number, "text": "x".repeat(3000) }))
}

#[tokio::test]
async fn full_disk_refuses_and_keeps_what_was_acknowledged() {
    let home = Home::new();
    let full = Options { pages_max: Some(120), ..options(&home.path()) };
    let ledger = Ledger::open(&home.path(), keys(7), full).await.unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match ledger.append(&ctx(), large(acknowledged)).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "the limit is never reached");
    };
    assert!(acknowledged > 3);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.to_string().contains("disk is full") && error.hint_text().is_some(), "{error}");
    // Nothing half-written: the chain is whole, reading goes on, and the next attempt is refused the same way.
    let verified = ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!(verified.events, acknowledged);
    assert_eq!(ledger.append(&ctx(), large(0)).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    // What nobody waits for is kept, and flush tells that it is not written.
    ledger.append_later(&ctx(), large(acknowledged));
    assert_eq!(ledger.flush().await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    // A small write beside a large one is not refused for the large one's sake.
    let small = NewEvent::new("t", "", json!(1));
    let ctx = ctx();
    let (large, small) = tokio::join!(ledger.append(&ctx, large(0)), ledger.append(&ctx, small));
    assert!(large.is_err());
    acknowledged += u64::from(small.is_ok());
    drop(ledger);

    let ledger = home.open().await;
    ledger.append(&ctx, event(1)).await.unwrap();
    assert_eq!(all(&ledger).await.len() as u64, acknowledged + 1);
    assert!(ledger.verify().await.unwrap().is_whole());
}

#[tokio::test]
async fn body_beyond_the_limit_is_refused() {
    let home = Home::new();
    let ledger = home.open().await;
    let huge = || NewEvent::new("test.huge", "", json!("x".repeat(5 * 1024 * 1024)));
    assert_eq!(ledger.append(&ctx(), huge()).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    ledger.append_later(&ctx(), huge());
    ledger.flush().await.unwrap();
    assert!(all(&ledger).await.is_empty());
}

/// Started by the test below as a user that may not write there.
#[test]
fn powerless_process() {
    let Some((directory, _)) = role() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let state = directory.join("state.db");
        let error = open(&state).await.err().expect("an existing file in a read-only directory");
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.message().contains("read-only"), "{error}");
        assert!(error.hint_text().unwrap().contains("writable"), "{error}");
        for new in [directory.join("new.db"), directory.join("below").join("new.db")] {
            let error = open(&new).await.err().expect("a new file in a read-only directory");
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(!new.exists());
        }
        let ledger = open_read_only(&state).await.unwrap();
        assert_eq!(all(&ledger).await.len(), 3);
        assert!(ledger.verify().await.unwrap().is_whole());
    });
    println!("\nall refused");
}

#[tokio::test]
async fn read_only_directory_is_refused_for_writing_and_readable() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let home = Home::with_events(3).await;
    let directory = home.path().parent().unwrap().to_owned();
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let binary = home.directory.path().join("test-binary");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    for file in std::fs::read_dir(&directory).unwrap() {
        mode(&file.unwrap().path(), 0o444);
    }
    mode(home.directory.path(), 0o755);
    mode(&binary, 0o755);
    mode(&directory, 0o555);
    let mut command = command(&binary, "faults::powerless_process", &directory, "");
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534); // Root may write anywhere.
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("all refused"), "{text}");
    mode(&directory, 0o755);
}
