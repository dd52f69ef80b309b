//! A real S3 server: what it keeps, whom it refuses, and what restic says of it.

use std::process::{Command, Output};
use std::sync::Arc;

use bytes::Bytes;
use contract::{CheckDepth, ErrorKind, Repository};
use http::Method;
use secrecy::SecretString;

use super::bucket::{PREFIX, Place, blocking, paths, real, server, settings};
use crate::config::{LockMode, ObjectLock};
use crate::error::FaultKind;
use crate::objects::Objects;
use crate::s3::{Bucket, Call, Client, Identity, Settings};

const LOCK: ObjectLock = ObjectLock { mode: LockMode::Compliance, days: 3 };
const PASSPHRASE: &str = "kJ8+dT2/xQv7LmN4pRs6WyZ0aBcDeFgH";

fn restic(place: &Place, arguments: &[&str]) -> Output {
    let Settings { endpoint, bucket, .. } = &place.inside.client.settings;
    Command::new("restic")
        .args(["--no-cache", "-o", "s3.bucket-lookup=path", "--repo"])
        .arg(format!("s3:{endpoint}{bucket}/{PREFIX}/stream"))
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSPHRASE)
        .env("AWS_ACCESS_KEY_ID", "writer")
        .env("AWS_SECRET_ACCESS_KEY", "writersecret")
        .output()
        .expect("this test needs `restic`, 0.14 or later: sudo apt-get install -y restic")
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_kept_checked_and_restored_also_by_restic() {
    let place = real(None).await;
    let repository = place.created().await;
    repository.add_key(&place.home.ctx(), "passphrase", &SecretString::from(PASSPHRASE)).await.unwrap();
    place.home.write(&repository, 1).await.unwrap();
    let second = place.home.write(&repository, 1).await.unwrap();
    assert!(second.bytes_added < 20_000, "unchanged data is not sent again: {second:?}");
    let kept = place.home.kept(&repository).await;
    assert_eq!(kept.len(), 2);
    for one in &kept {
        place.home.restores(&repository, one).await.unwrap();
    }
    let check = repository.check(&place.home.ctx(), CheckDepth::Everything).await.unwrap();
    assert_eq!(check.problems, Vec::<String>::new());
    assert_eq!(paths(place.objects("far/writer").await, "locks").await, Vec::<String>::new());
    // Made again it is left as it is, and another key does not open it.
    repository.create(&place.home.ctx()).await.unwrap();
    for arguments in [&["check", "--read-data"][..], &["snapshots"]] {
        let output = restic(&place, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let target = tempfile::tempdir().unwrap();
    let output = restic(&place, &["restore", &kept[1].snapshot, "--target", target.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    for (path, bytes) in super::home::contents(1) {
        let restored = std::fs::read(target.path().join("orders").join(&path)).unwrap();
        assert!(restored == bytes, "{path} came back otherwise");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_can_neither_delete_nor_hide_what_was_written() {
    let place = real(Some(LOCK)).await;
    let repository = place.created().await;
    place.home.write(&repository, 1).await.unwrap();
    let writer = Arc::new(place.objects("far/writer").await);
    for folder in ["data", "index", "snapshots"] {
        for path in paths(place.objects("far/writer").await, folder).await {
            let objects = Arc::clone(&writer);
            let gone = path.clone();
            let fault = blocking(move || objects.remove(&gone)).await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Denied, "{path}: {fault}");
            let objects = Arc::clone(&writer);
            let over = path.clone();
            let fault =
                blocking(move || objects.create(&over, &[Bytes::from_static(b"x")])).await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Locked, "{path}: {fault}");
            // Without the condition the server takes it as a new version; the first one is read all the same.
            let key: &'static str = format!("{PREFIX}/stream/{path}").leak();
            let call = Call {
                method: Method::PUT,
                key,
                body: Bytes::from_static(b"x"),
                doing: "write",
                ..Call::default()
            };
            assert_eq!(place.ask("far/writer", call).await.unwrap(), 200, "{path}");
        }
    }
    let key: &'static str = format!("{PREFIX}/stream/config").leak();
    let call =
        Call { method: Method::PUT, key, body: Bytes::from_static(b"x"), doing: "write", ..Call::default() };
    assert_eq!(place.ask("far/writer", call).await.unwrap(), 200);
    let repository = place.repository();
    let kept = place.home.kept(&repository).await;
    assert_eq!(kept.len(), 1);
    place.home.restores(&repository, &kept[0]).await.unwrap();
    let check = repository.check(&place.home.ctx(), CheckDepth::Everything).await.unwrap();
    assert_eq!(check.problems, Vec::<String>::new());
    place.home.write(&repository, 2).await.unwrap();
    // Nobody, with any rights, deletes what is locked.
    for who in ["far/pruner", "far/root"] {
        let objects = place.objects(who).await;
        let left = blocking(move || {
            let path = objects.list("data").unwrap()[0].path.clone();
            let versions = objects.versions_of(&path).unwrap();
            versions.iter().filter(|id| objects.delete_version(&path, id).is_err()).count()
        })
        .await;
        assert!(left >= 1, "{who} deleted all versions");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_rights_reads_nothing() {
    let place = real(None).await;
    place.created().await;
    let mut other = Place::at(place.inside.client.settings.clone(), None);
    other.inside.writer = other.who("far/other").await;
    let error = other.repository().create(&place.home.ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.message().contains("refuses to read"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_settings_is_said_in_words() {
    let place = real(None).await;
    let right = place.inside.client.settings.clone();
    let cases: [(&str, Settings, &str, &str); 5] = [
        (
            "bucket",
            Settings { bucket: "not-there-at-all".into(), ..right.clone() },
            "writer:writersecret",
            "there is no bucket `not-there-at-all`",
        ),
        (
            "region",
            Settings { region: "eu-west-1".into(), ..right.clone() },
            "writer:writersecret",
            "is in the region `us-east-1`, not in `eu-west-1`",
        ),
        ("access key", right.clone(), "nobody:writersecret", "does not know the access key in `far/writer`"),
        (
            "secret key",
            right.clone(),
            "writer:wrong",
            "the secret key in `far/writer` is not the access key's",
        ),
        ("secret", right.clone(), "writer", "the secret holds no credentials of S3"),
    ];
    for (what, settings, credentials, message) in cases {
        let wrong = Place::at(settings, None);
        wrong.secrets.0.lock().unwrap().insert("far/writer".into(), credentials.into());
        let error = wrong.repository().create(&wrong.home.ctx()).await.expect_err(what);
        assert!(error.message().contains(message), "{what}: {error}");
        assert!(error.hint_text().is_some(), "{what}: {error}");
        assert!(!error.to_string().contains("writersecret"), "{error}");
    }
    // Two hours off: the server's own words come with both times.
    let clock = contract::TestClock::at(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(2));
    let skewed = Place::with_clock(right.clone(), None, Arc::new(clock));
    let error = skewed.repository().create(&skewed.home.ctx()).await.unwrap_err();
    assert!(error.message().contains("the clocks differ too much"), "{error}");
    // A bucket that cannot lock.
    let unlocked = Place::at(right, Some(LOCK));
    let error = unlocked.repository().create(&unlocked.home.ctx()).await.unwrap_err();
    assert!(error.message().contains("has no object lock"), "{error}");
    let nowhere = Place::at(Settings { attempts_max: 2, ..settings("http://127.0.0.1:9", "bucket") }, None);
    let error = nowhere.repository().create(&nowhere.home.ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_is_asked_whether_anybody_can_change_it() {
    let open = real(None).await;
    let said = open.created().await.changeable(&open.home.ctx()).await.unwrap();
    assert!(said.contains("may delete nothing but locks"), "{said}");
    let mut careless = Place::at(open.inside.client.settings.clone(), None);
    careless.inside.writer = careless.who("far/root").await;
    let said = careless.repository().changeable(&open.home.ctx()).await.unwrap();
    assert!(said.contains("our own credentials may delete"), "{said}");
    let asked = Place::at(open.inside.client.settings.clone(), Some(LOCK));
    let said = asked.repository().changeable(&open.home.ctx()).await.unwrap();
    assert!(said.contains("has no object lock"), "{said}");

    let locked = real(Some(LOCK)).await;
    let repository = locked.created().await;
    locked.home.write(&repository, 1).await.unwrap();
    assert_eq!(locked.repository().changeable(&locked.home.ctx()).await, None);
    // Seen from after its retention it protects nothing any more.
    let later = contract::TestClock::at(jiff::Timestamp::now() + jiff::SignedDuration::from_mins(10));
    let ahead =
        Client::new(locked.inside.client.settings.clone(), None, locked.naps.clone(), Arc::new(later));
    let ahead =
        Bucket::new(Arc::new(ahead), locked.who("far/writer").await, &format!("{PREFIX}/stream"), Some(LOCK));
    assert_eq!(blocking(move || ahead.changeable()).await.unwrap(), None);
    // Written before the lock was set.
    let earlier = locked.who("far/writer").await;
    let bare = Bucket::new(Arc::clone(&locked.inside.client), earlier, &format!("{PREFIX}/stream"), None);
    blocking(move || bare.create(&format!("data/00/{}", "a".repeat(64)), &[Bytes::from_static(b"bare")]))
        .await
        .unwrap();
    let governed = ObjectLock { mode: LockMode::Governance, days: 3 };
    let mut weak = Place::at(locked.inside.client.settings.clone(), Some(governed));
    weak.inside.writer = weak.who("far/root").await;
    let said = weak.repository().changeable(&locked.home.ctx()).await.unwrap();
    assert!(said.contains("governance mode"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_has_credentials_of_its_own_and_waits_for_the_lock() {
    let mut place = real(Some(LOCK)).await;
    place.home.limits.keep_marked_hours = 0;
    let repository = place.created().await;
    place.home.write(&repository, 1).await.unwrap();
    place.home.write(&repository, 2).await.unwrap();
    let kept = place.home.kept(&repository).await;
    let pruner = place.inside.pruner.take();
    let error = place.repository().forget(&place.home.ctx(), &kept[1..]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.message().contains("prune_credentials"), "{error}");
    place.inside.pruner = Some(place.who("far/other").await);
    let error = place.repository().forget(&place.home.ctx(), &kept[1..]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    place.inside.pruner = pruner;
    let repository = place.repository();
    repository.forget(&place.home.ctx(), &kept[1..]).await.unwrap();
    let marked = repository.prune(&place.home.ctx()).await.unwrap();
    assert!(marked.bytes_marked > 1_000_000, "{marked:?}");
    let before = paths(place.objects("far/writer").await, "data").await;
    place.home.clock.advance_us(49 * 3_600 * 1_000_000);
    let repository = place.repository();
    repository.prune(&place.home.ctx()).await.unwrap();
    let after = paths(place.objects("far/writer").await, "data").await;
    assert!(after.len() < before.len(), "nothing was deleted after 48 hours");
    // Removed for readers; the bytes stay until their retention ends.
    let objects = place.objects("far/root").await;
    let gone = before.iter().find(|path| !after.contains(path)).unwrap().clone();
    let versions = blocking(move || objects.versions_of(&gone)).await.unwrap();
    assert!(!versions.is_empty(), "a locked object was deleted for good");
    let repository = place.repository();
    let left = place.home.kept(&repository).await;
    assert_eq!(left.len(), 1);
    place.home.restores(&repository, &left[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_and_large_objects_are_whole() {
    let place = real(None).await;
    let objects = Arc::new(place.objects("far/writer").await.with_part_bytes(5 << 20));
    let large = super::home::noise(12 << 20, 1);
    let inner = (Arc::clone(&objects), large.clone());
    blocking(move || {
        let (objects, large) = inner;
        let path = format!("data/00/{}", crate::seal::name_of(&large));
        objects.create(&path, &[large.slice(..100), large.slice(100..)]).unwrap();
        objects.create(&path, std::slice::from_ref(&large)).unwrap();
        assert!(objects.read(&path).unwrap() == large);
        assert_eq!(objects.read_range(&path, 11 << 20, 7).unwrap(), large.slice(11 << 20..(11 << 20) + 7));
        let fault = objects.create(&path, &[large.slice(1..)]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Locked);
        for (start, length) in [((12 << 20) - 3, 4), (12 << 20, 1), (u64::MAX, 2)] {
            assert_eq!(objects.read_range(&path, start, length).unwrap_err().kind, FaultKind::Damaged);
        }
        assert_eq!(objects.read("data/00/none").unwrap_err().kind, FaultKind::Missing);
        assert_eq!(objects.list("nothing").unwrap(), []);
        objects.remove("data/00/none").unwrap_err();
        objects.remove("locks/none").unwrap();
    })
    .await;
    // The same from a file of this machine, and into one.
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let inner = (place.objects("far/writer").await.with_part_bytes(5 << 20), from.clone(), to.clone());
    blocking(move || {
        let (objects, from, to) = inner;
        for length in [0, 100, 10 << 20, (10 << 20) + 1] {
            std::fs::write(&from, &large[..length]).unwrap();
            let path = format!("archives/shop/old/{length}");
            objects.put_file(&path, &from).unwrap();
            objects.put_file(&path, &from).unwrap();
            objects.fetch_file(&path, &to).unwrap();
            assert!(std::fs::read(&to).unwrap() == large[..length], "{length}");
            assert_eq!(objects.fetch_file(&path, &to).unwrap_err().kind, FaultKind::Locked);
            std::fs::remove_file(&to).unwrap();
            for other in [&large[1..=length.max(1)], &large[..=length]] {
                std::fs::write(&from, other).unwrap();
                assert_eq!(objects.put_file(&path, &from).unwrap_err().kind, FaultKind::Locked, "{length}");
            }
        }
        assert_eq!(objects.fetch_file("archives/none", &to).unwrap_err().kind, FaultKind::Missing);
        assert!(!to.exists());
    })
    .await;
    let who = place.who("far/writer").await;
    let client = Arc::clone(&place.inside.client);
    let listed = blocking(move || {
        let many = Bucket::new(client, who, &format!("{PREFIX}/many"), None);
        for n in 0..1_050 {
            many.create(&format!("x/{n}"), &[Bytes::from_static(b"x")]).unwrap();
        }
        many.list("x").unwrap().len()
    })
    .await;
    assert_eq!(listed, 1_050);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_interrupted_is_given_up_by_cleaning() {
    let place = real(None).await;
    let repository = place.created().await;
    let key: &'static str = format!("{PREFIX}/stream/data/00/{}", "b".repeat(64)).leak();
    let begin = Call {
        method: Method::POST,
        key,
        query: vec![("uploads", String::new())],
        doing: "begin",
        ..Call::default()
    };
    place.ask("far/writer", begin).await.unwrap();
    let objects = Arc::new(place.objects("far/writer").await);
    let one = Arc::clone(&objects);
    assert_eq!(blocking(move || one.unfinished()).await.unwrap().len(), 1);
    assert_eq!(
        repository.clean(&place.home.ctx()).await.unwrap(),
        Vec::<String>::new(),
        "it may still be written"
    );
    place.home.clock.advance_us(25 * 3_600 * 1_000_000);
    let done = repository.clean(&place.home.ctx()).await.unwrap();
    assert!(done.len() == 1 && done[0].contains("never finished"), "{done:?}");
    assert_eq!(blocking(move || objects.unfinished()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_run_side_by_side_and_a_prune_keeps_away() {
    let place = real(None).await;
    let repository = place.created().await;
    place.home.write(&repository, 1).await.unwrap();
    let (one, other) = (place.repository(), place.repository());
    let (a, b) = tokio::join!(place.home.write(&one, 2), place.home.write(&other, 3));
    a.unwrap();
    b.unwrap();
    let writer = repository.begin(&place.home.ctx(), &place.home.label("4")).await.unwrap();
    let error = place.repository().prune(&place.home.ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    writer.abandon().await;
    place.repository().prune(&place.home.ctx()).await.unwrap();
    let kept = place.home.kept(&repository).await;
    assert_eq!(kept.len(), 3);
    for one in &kept {
        place.home.restores(&repository, one).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_checks_what_is_signed() {
    let place = real(None).await;
    let stolen = Arc::new(Identity::new("far/writer", place.secrets.clone()));
    place.secrets.0.lock().unwrap().insert("far/writer".into(), "writer:rootsecret".into());
    stolen.fetch(&place.home.ctx()).await.unwrap();
    let client = Arc::clone(&place.inside.client);
    let fault = blocking(move || Bucket::new(client, stolen, PREFIX, None).list("data")).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Denied, "{fault}: {}", server());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_needed_is_locked_again_before_its_time_is_over() {
    let place = real(Some(LOCK)).await;
    let repository = place.created().await;
    place.home.write(&repository, 1).await.unwrap();
    let settings = &place.inside.client.settings;
    // Two of three days later, as a backup then would see it.
    let later = |hours| {
        let clock = contract::TestClock::at(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours));
        Arc::new(Client::new(settings.clone(), None, place.naps.clone(), Arc::new(clock)))
    };
    // The server takes no request that was signed so far from its own time, so what is asked for is looked at.
    let who = place.who("far/writer").await;
    let ahead = Bucket::new(later(48), Arc::clone(&who), &format!("{PREFIX}/stream"), Some(LOCK));
    let fault = blocking(move || ahead.prolong()).await.unwrap_err();
    assert!(fault.to_string().contains("the clocks differ"), "{fault}");
    // A lock of a hundred days over objects that are locked for three: half of it is missing at once.
    let long = ObjectLock { days: 100, ..LOCK };
    let objects = Bucket::new(
        Arc::clone(&place.inside.client),
        Arc::clone(&who),
        &format!("{PREFIX}/stream"),
        Some(long),
    );
    let prolonged = blocking(move || objects.prolong_older_than(jiff::SignedDuration::ZERO)).await.unwrap();
    assert!(prolonged >= 4, "{prolonged} objects");
    let objects = Bucket::new(Arc::clone(&place.inside.client), who, &format!("{PREFIX}/stream"), Some(long));
    let again = blocking(move || {
        for found in objects.list("data").unwrap() {
            let until = objects.retained(&found.path).unwrap().unwrap();
            assert!(until > jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 90), "{until}");
        }
        objects.prolong_older_than(jiff::SignedDuration::ZERO).unwrap()
    })
    .await;
    assert_eq!(again, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_goes_for_good_once_nothing_locks_it() {
    let place = real(Some(LOCK)).await;
    let who = place.who("far/pruner").await;
    let root = format!("{PREFIX}/stream");
    let at = |lock| Bucket::new(Arc::clone(&place.inside.client), Arc::clone(&who), &root, lock);
    let (bare, firm) = (at(None), at(Some(LOCK)));
    blocking(move || {
        let paths = ["a", "b"].map(|letter| format!("data/00/{}", letter.repeat(64)));
        bare.create(&paths[0], &[Bytes::from_static(b"bare")]).unwrap();
        firm.create(&paths[1], &[Bytes::from_static(b"locked")]).unwrap();
        assert_eq!(firm.sweep().unwrap(), 0, "what is still there was taken away");
        for path in &paths {
            firm.remove(path).unwrap();
        }
        assert_eq!(firm.list("data").unwrap(), []);
        assert_eq!(firm.sweep().unwrap(), 4);
        let left = paths.map(|path| firm.versions_of(&path).unwrap().len());
        assert_eq!(left, [0, 1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_takes_its_time_arrives_whole() {
    let place = real(None).await;
    let limit = Arc::new(crate::s3::Pace::new(64 << 20));
    let clock = Arc::new(contract::SystemClock);
    let client = Client::new(place.inside.client.settings.clone(), Some(limit), place.naps.clone(), clock);
    let slow =
        Bucket::new(Arc::new(client), place.who("far/writer").await, &format!("{PREFIX}/stream"), None);
    blocking(move || {
        for length in [1, 65_536, 1_000_001] {
            let bytes = super::home::noise(length, 7);
            let path = format!("data/00/{}", crate::seal::name_of(&bytes));
            slow.create(&path, std::slice::from_ref(&bytes)).unwrap();
            assert!(slow.read(&path).unwrap() == bytes, "{length}");
        }
    })
    .await;
}
