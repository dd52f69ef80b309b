//! A backup that must not be recorded is not.

use std::time::Duration;

use bytes::Bytes;
use contract::{BackupWriter, Clock, ErrorKind, Layout, Part, PartBody, Repository};
use tokio_util::sync::CancellationToken;

use super::home::{Answer, Home, contents, manifest, noise};
use crate::error::FaultKind;
use crate::lock::{Record, Sharing, Timing};
use crate::seal::name_of;

fn part(path: &str, bytes: Bytes) -> Part {
    Part { path: path.into(), body: PartBody::Bytes(bytes) }
}

async fn begun(home: &Home) -> Box<dyn BackupWriter> {
    let repository = home.created().await;
    repository.begin(&home.ctx(), &home.label("1")).await.unwrap()
}

/// Nothing is listed, and nobody is kept out.
async fn nothing_is_left(home: &Home) {
    let repository = home.repository();
    assert_eq!(home.kept(&repository).await, []);
    assert_eq!(home.files("locks"), Vec::<std::path::PathBuf>::new());
    home.write(&repository, 9).await.unwrap();
    home.restores(&repository, &home.kept(&repository).await[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_whole_is_no_backup() {
    for (name, announced, there) in [
        ("missing", 10, None),
        ("short", 3_000_000, Some(2_999_999)),
        ("long", 10, Some(11)),
        ("grown", 0, Some(1)),
    ] {
        let home = Home::new();
        let writer = begun(&home).await;
        let path = home.root.join("source");
        if let Some(there) = there {
            std::fs::write(&path, noise(there, 1)).unwrap();
        }
        // It may have failed already when a later part comes.
        writer.put(part("a", noise(100_000, 1))).await.unwrap();
        writer.put(Part { path: "b".into(), body: PartBody::File { path, bytes: announced } }).await.unwrap();
        writer.put(part("c", noise(100_000, 2))).await.ok();
        let error = writer.commit(Box::new(manifest)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}: {error}");
        assert!(error.message().contains("the part `b`"), "{name}: {error}");
        nothing_is_left(&home).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_given_up_was_never_one() {
    let home = Home::new();
    let writer = begun(&home).await;
    writer.put(part("a", noise(3_000_000, 1))).await.unwrap();
    writer.abandon().await;
    nothing_is_left(&home).await;

    let home = Home::new();
    let writer = begun(&home).await;
    writer.put(part("a", noise(3_000_000, 1))).await.unwrap();
    drop(writer);
    // Its thread ends by itself and gives the lock back.
    for _ in 0..6_000 {
        if home.files("locks").is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_backup_was_never_one() {
    let home = Home::new();
    let repository = home.created().await;
    let token = CancellationToken::new();
    let ctx = home.ctx().with_cancellation(token.clone());
    let writer = repository.begin(&ctx, &home.label("1")).await.unwrap();
    writer.put(part("a", noise(3_000_000, 1))).await.unwrap();
    token.cancel();
    assert_eq!(writer.put(part("b", noise(1, 1))).await.unwrap_err().kind(), ErrorKind::Canceled);
    assert_eq!(writer.commit(Box::new(manifest)).await.unwrap_err().kind(), ErrorKind::Canceled);
    nothing_is_left(&home).await;

    // Also in the last moment: when the manifest is made.
    let token = CancellationToken::new();
    let home = Home::new();
    let repository = home.created().await;
    let ctx = home.ctx().with_cancellation(token.clone());
    let writer = repository.begin(&ctx, &home.label("1")).await.unwrap();
    writer.put(part("a", noise(3_000_000, 1))).await.unwrap();
    let error = writer
        .commit(Box::new(move |parts| {
            token.cancel();
            manifest(parts)
        }))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Canceled, "{error}");
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_refused_ends_the_backup() {
    let home = Home::new();
    let writer = begun(&home).await;
    writer.put(part("b", noise(10, 1))).await.unwrap();
    assert_eq!(writer.put(part("a", noise(10, 1))).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(writer.put(part("c", noise(10, 1))).await.is_err());
    assert!(writer.commit(Box::new(manifest)).await.is_err());
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_more_than_a_day_is_not_recorded() {
    let mut home = Home::new();
    // Of the two reasons that a long pause gives, this one alone.
    home.limits.timing.lost = Duration::from_hours(1000);
    let writer = begun(&home).await;
    writer.put(part("a", noise(10, 1))).await.unwrap();
    home.clock.advance_us(25 * 3_600 * 1_000_000);
    let error = writer.commit(Box::new(manifest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_not_renewed_protects_nothing() {
    let home = Home::new();
    let writer = begun(&home).await;
    writer.put(part("a", noise(10, 1))).await.unwrap();
    home.clock.advance_us(21 * 60 * 1_000_000);
    let error = writer.commit(Box::new(manifest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.message().contains("could not be renewed"), "{error}");
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_others_took_away_protects_nothing() {
    let home = Home::new();
    let writer = begun(&home).await;
    writer.put(part("a", noise(10, 1))).await.unwrap();
    let locks = home.files("locks");
    assert_eq!(locks.len(), 1);
    std::fs::remove_file(&locks[0]).unwrap();
    let error = writer.commit(Box::new(manifest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.message().contains("somebody removed it"), "{error}");
    nothing_is_left(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_renewed_under_a_new_name() {
    let mut home = Home::new();
    home.limits.timing = Timing { renew: Duration::from_millis(20), ..home.limits.timing };
    let writer = begun(&home).await;
    let first = home.files("locks");
    for _ in 0..6_000 {
        if !home.files("locks").iter().any(|lock| first.contains(lock)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!home.files("locks").iter().any(|lock| first.contains(lock)), "it was never renewed");
    writer.put(part("a", noise(10, 1))).await.unwrap();
    writer.commit(Box::new(manifest)).await.unwrap();
    assert_eq!(home.files("locks"), Vec::<std::path::PathBuf>::new());
}

/// Leaves a lock in the repository for rows.
fn leave_lock(home: &Home, hostname: &str, exclusive: bool, age_minutes: i64, compressed: bool) {
    let record = Record {
        time: home.clock.now() - jiff::SignedDuration::from_mins(age_minutes),
        exclusive,
        hostname: hostname.into(),
        username: "root".into(),
        pid: 1,
        uid: 0,
        gid: 0,
    };
    let mut plain = serde_json::to_vec(&record).unwrap();
    if compressed {
        plain = [vec![2], zstd::encode_all(&plain[..], 3).unwrap()].concat();
    }
    let sealed = home.key.seal(&plain).unwrap();
    home.objects(Layout::Stream).create(&format!("locks/{}", name_of(&sealed)), &[sealed.into()]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_others_keep_us_out_as_far_as_they_must() {
    let here = format!("steward@{}", crate::lock::hostname());
    // Whose, exclusive, minutes old: may a backup begin, may a prune, may one restore?
    for (host, exclusive, age, backs_up, prunes, restores) in [
        ("elsewhere", false, 1, true, false, true),
        ("elsewhere", true, 1, false, false, false),
        ("elsewhere", true, 31, false, false, true),
        ("elsewhere", false, 31, true, false, true),
        (here.as_str(), true, 29, false, false, true),
        (here.as_str(), true, 31, true, true, true),
        (here.as_str(), false, 31, true, true, true),
    ] {
        for compressed in [false, true] {
            let case = format!("{host} {exclusive} {age} {compressed}");
            let home = Home::new();
            let repository = home.created().await;
            home.write(&repository, 1).await.unwrap();
            let kept = home.kept(&repository).await.remove(0);
            leave_lock(&home, host, exclusive, age, compressed);
            let restored = home.restores(&repository, &kept).await;
            assert_eq!(restored.is_ok(), restores, "{case}: {restored:?}");
            let written = home.write(&repository, 2).await;
            assert_eq!(written.is_ok(), backs_up, "{case}: {written:?}");
            let pruned = repository.prune(&home.ctx()).await;
            assert_eq!(pruned.is_ok(), prunes, "{case}: {pruned:?}");
            for error in [restored.err(), written.err(), pruned.err()].into_iter().flatten() {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{case}: {error}");
                assert!(error.message().contains(host) && error.hint_text().is_some(), "{case}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_comes_at_the_same_moment_is_seen() {
    let home = Home::new();
    home.created().await;
    // Somebody else writes an exclusive lock between our look and our own.
    let objects = home.objects(Layout::Stream);
    let mut listed = 0;
    let (key, clock) = (std::sync::Arc::clone(&home.key), std::sync::Arc::clone(&home.clock));
    let root = home.root.join("stream");
    home.judge(move |call| {
        if call.what == "create" && call.folder == "locks" {
            listed += 1;
            if listed == 1 {
                let record = Record {
                    time: clock.now(),
                    exclusive: true,
                    hostname: "elsewhere".into(),
                    username: "root".into(),
                    pid: 1,
                    uid: 0,
                    gid: 0,
                };
                let sealed = key.seal(&serde_json::to_vec(&record).unwrap()).unwrap();
                std::fs::write(root.join("locks").join(name_of(&sealed)), sealed).unwrap();
            }
        }
        Answer::Do
    });
    let clock: std::sync::Arc<dyn Clock> = home.clock.clone();
    let taken = crate::lock::Held::take(&objects, &home.key, &clock, Sharing::Shared, home.limits.timing);
    assert_eq!(taken.err().map(|fault| fault.kind), Some(FaultKind::Locked));
    assert_eq!(home.files("locks").len(), 1, "our own was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_wait_for_room_and_pass_through_little_of_it() {
    let home = Home::new();
    let writer = begun(&home).await;
    // More bytes than may be in memory at once, also such that fill the room alone.
    let long = noise(contract::PART_BYTES_MAX, 7);
    for n in 0..4 {
        writer.put(part(&format!("long-{n}"), long.clone())).await.unwrap();
    }
    for n in 100..400 {
        writer.put(part(&format!("many-{n}"), long.slice(n * 1000..n * 1000 + 500_000))).await.unwrap();
    }
    let too_long = Bytes::from(vec![0; contract::PART_BYTES_MAX + 1]);
    let committed = writer.commit(Box::new(manifest)).await.unwrap();
    assert_eq!(committed.bytes, 4 * (64 << 20) + 300 * 500_000);
    let repository = home.repository();
    let writer = repository.begin(&home.ctx(), &home.label("2")).await.unwrap();
    assert_eq!(writer.put(part("a", too_long)).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_back_is_no_backup() {
    for (folder, name) in [("data", "a pack"), ("index", "the index")] {
        let home = Home::new();
        let repository = home.created().await;
        let root = home.root.join("stream");
        let mut recorded = false;
        let folder = folder.to_owned();
        home.judge(move |call| {
            // The record is durable, and then the disk shows that it lied.
            if call.what == "create" && call.folder == "snapshots" {
                recorded = true;
            } else if recorded && call.what == "list" && call.folder == "index" {
                recorded = false;
                for found in
                    crate::objects::Objects::list(&crate::local::Local::new(root.clone()), &folder).unwrap()
                {
                    let path = root.join(found.path);
                    let mut bytes = std::fs::read(&path).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                }
            }
            Answer::Do
        });
        let error = home.write(&repository, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        home.calm();
        assert_eq!(home.kept(&repository).await, [], "{name}");
        assert_eq!(contents(1).len(), 5);
    }
}
