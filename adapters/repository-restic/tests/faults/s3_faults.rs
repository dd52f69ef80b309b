//! Faults of an S3 server: each is got over, or ends in an error that leaves all backups as they were.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use contract::cold::ArchivePlace as _;
use contract::{CheckDepth, ErrorKind, Repository};

use super::bucket::{Place, blocking, settings};
use super::fake_s3::{Asked, Do, FakeS3};
use super::home::{cases, noise};
use crate::cold::ColdBucket;
use crate::error::FaultKind;
use crate::objects::Objects;
use crate::s3::Settings;

const ATTEMPTS_MAX: u32 = 4;

fn place(fake: &FakeS3) -> Place {
    Place::at(Settings { attempts_max: ATTEMPTS_MAX, ..settings(&fake.url, "bucket") }, None)
}

/// Does `what` to the `times` requests that fit from the `nth` on, counted from 0; gives how many fitted.
fn fail(
    fake: &FakeS3,
    what: &Do,
    nth: usize,
    times: usize,
    fits: impl Fn(&Asked) -> bool + Send + 'static,
) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let (counter, what) = (Arc::clone(&seen), what.clone());
    fake.judge(move |asked| {
        if !fits(asked) {
            return Do::Serve;
        }
        let at = counter.fetch_add(1, Ordering::SeqCst);
        if (nth..nth.saturating_add(times)).contains(&at) { what.clone() } else { Do::Serve }
    });
    seen
}

/// What a server can do to a request, and whether another attempt gets over it.
const FAULTS: [(Do, bool); 10] = [
    (Do::Refuse(500, "InternalError"), true),
    (Do::Refuse(503, "SlowDown"), true),
    (Do::Refuse(503, "ServiceUnavailable"), true),
    (Do::Refuse(400, "RequestTimeout"), true),
    (Do::Refuse(409, "ConditionalRequestConflict"), true),
    (Do::Reset, true),
    (Do::LoseAnswer, true),
    (Do::Truncate, true),
    (Do::Refuse(403, "AccessDenied"), false),
    (Do::Refuse(507, "InsufficientStorage"), false),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_request_is_got_over_or_leaves_all_as_it_was() {
    let each_max = usize::try_from(cases(1, 50)).unwrap();
    // One of so many combinations; the full run takes all.
    let each = cases(4, 1);
    let (mut runs, mut number) = (0, 0);
    for (what, passes) in FAULTS {
        for method in ["PUT", "GET", "DELETE"] {
            for folder in ["data", "index", "snapshots", "locks", "config"] {
                // Once, and until every attempt has failed.
                for times in [1, usize::MAX] {
                    number += 1;
                    if number % each != 0 {
                        continue;
                    }
                    for nth in 0..each_max {
                        let case = format!("{what:?} {method} {folder} {nth}, {times} times");
                        let fake = FakeS3::start();
                        let place = place(&fake);
                        let repository = place.created().await;
                        place.home.write(&repository, 1).await.unwrap();
                        let seen = fail(&fake, &what, nth, times, move |asked| {
                            asked.method == method && asked.folder() == folder
                        });
                        let written = place.home.write(&repository, 2).await;
                        let reached = seen.load(Ordering::SeqCst) > nth;
                        fake.calm();
                        if !reached {
                            break;
                        }
                        runs += 1;
                        if passes && times == 1 {
                            written.as_ref().unwrap_or_else(|error| panic!("{case}: {error}"));
                        }
                        let kept = place.home.kept(&repository).await;
                        let ids: Vec<_> = kept.iter().filter_map(|kept| kept.id.as_deref()).collect();
                        match &written {
                            Ok(_) => assert_eq!(ids, ["1", "2"], "{case}"),
                            // The record may be there although nobody could be told.
                            Err(_) if what == Do::LoseAnswer || what == Do::Truncate => {
                                assert!(ids.contains(&"1"), "{case}: {ids:?}");
                            }
                            Err(error) => {
                                assert!(ids == ["1"] || method != "PUT", "{case}: {ids:?} {error}");
                            }
                        }
                        for one in &kept {
                            place
                                .home
                                .restores(&repository, one)
                                .await
                                .unwrap_or_else(|error| panic!("{case}: {error}"));
                        }
                        place
                            .home
                            .write(&repository, 3)
                            .await
                            .unwrap_or_else(|error| panic!("{case}: {error}"));
                    }
                }
            }
        }
    }
    eprintln!("{runs} backups with a faulty server");
    assert!(runs > 30, "only {runs} runs: the requests were not met");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_waited_out_with_jitter_and_not_for_ever() {
    let fake = FakeS3::start();
    let place = place(&fake);
    let repository = place.created().await;
    fail(&fake, &Do::Refuse(503, "SlowDown"), 0, 3, |asked| asked.folder() == "data");
    place.home.write(&repository, 1).await.unwrap();
    assert_eq!(place.naps.0.lock().unwrap().len(), 3);
    let seen = fail(&fake, &Do::Refuse(503, "SlowDown"), 0, usize::MAX, |asked| asked.folder() == "config");
    let error = repository.list(&place.home.ctx()).await.unwrap_err();
    assert_eq!((error.kind(), seen.load(Ordering::SeqCst)), (ErrorKind::Unavailable, ATTEMPTS_MAX as usize));
    assert!(
        error.message().contains("`SlowDown`") && error.message().contains("after 4 attempts"),
        "{error}"
    );
    assert!(place.naps.0.lock().unwrap().iter().all(|nap| *nap < Duration::from_secs(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_counts_once_and_other_bytes_do_not() {
    let fake = FakeS3::start();
    let place = place(&fake);
    let objects = place.objects("far/writer").await;
    let seen = fail(&fake, &Do::LoseAnswer, 0, 1, |asked| asked.method == "PUT");
    let bytes = noise(1_000, 1);
    let same = bytes.clone();
    let objects = blocking(move || {
        objects.create("data/00/x", &[same]).unwrap();
        objects
    })
    .await;
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    // Somebody else wrote other bytes there while our answers were lost.
    fail(&fake, &Do::LoseAnswer, 0, usize::MAX, |asked| asked.method == "PUT");
    blocking(move || {
        let fault = objects.create("data/00/x", &[noise(999, 2)]).unwrap_err();
        assert_ne!(fault.kind, FaultKind::Missing, "{fault}");
        assert_eq!(objects.read("data/00/x").unwrap(), bytes);
        // Every answer was lost, and the object is there.
        objects.create("data/00/y", &[noise(10, 3)]).unwrap();
        assert_eq!(objects.read("data/00/y").unwrap(), noise(10, 3));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_changed_on_their_way_are_read_again_or_found_out() {
    let fake = FakeS3::start();
    let place = place(&fake);
    let repository = place.created().await;
    place.home.write(&repository, 1).await.unwrap();
    let kept = place.home.kept(&repository).await;
    let is_record = |asked: &Asked| asked.method == "GET" && asked.key.contains("/snapshots/");
    fail(&fake, &Do::Change, 0, 1, is_record);
    assert_eq!(place.home.kept(&repository).await.len(), 1, "one changed answer is asked for again");
    for folder in ["data", "index", "snapshots"] {
        let wanted = format!("/{folder}/");
        fail(&fake, &Do::Change, 0, usize::MAX, move |asked| {
            asked.method == "GET" && asked.key.contains(&wanted)
        });
        let read = place.home.restores(&repository, &kept[0]).await;
        // What an index says is in the packs too.
        if folder != "index" {
            let error = read.expect_err(folder);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{folder}: {error}");
        }
    }
    fake.calm();
    place.home.restores(&repository, &kept[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_expire_are_fetched_again() {
    let fake = FakeS3::start();
    let place = place(&fake);
    let repository = place.created().await;
    let secrets = Arc::clone(&place.secrets);
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    place.secrets.0.lock().unwrap().insert("far/writer".into(), "writer:writersecret:first".into());
    // After five requests the first token has expired, and the vault has another.
    fake.judge(move |asked| match asked.token.as_deref() {
        Some("first") if counter.fetch_add(1, Ordering::SeqCst) < 5 => Do::Serve,
        Some("first") => {
            secrets.0.lock().unwrap().insert("far/writer".into(), "writer:writersecret:second".into());
            Do::Refuse(403, "ExpiredToken")
        }
        Some("second") => Do::Serve,
        _ => Do::Refuse(403, "AccessDenied"),
    });
    place.home.write(&repository, 1).await.unwrap();
    assert!(accepted.load(Ordering::SeqCst) > 5, "the token did not expire");
    fake.judge(|_| Do::Refuse(403, "ExpiredToken"));
    let error = place.home.write(&repository, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.message().contains("the credentials in `far/writer` have expired"), "{error}");
    fake.calm();
    assert_eq!(place.home.kept(&repository).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_old_or_cut_into_pages_harm_nothing() {
    let fake = FakeS3::start();
    fake.pages_of(1);
    let place = place(&fake);
    let repository = place.created().await;
    place.home.write(&repository, 1).await.unwrap();
    fake.judge(|asked| if asked.query.contains("list-type") { Do::Stale } else { Do::Serve });
    let written = place.home.write(&repository, 2).await;
    let pruned = repository.prune(&place.home.ctx()).await;
    eprintln!("over old lists: {written:?}, {pruned:?}");
    fake.calm();
    let kept = place.home.kept(&repository).await;
    assert_eq!(kept.len(), 1 + usize::from(written.is_ok()));
    for one in &kept {
        place.home.restores(&repository, one).await.unwrap();
    }
    place.home.clock.advance_us(49 * 3_600 * 1_000_000);
    repository.prune(&place.home.ctx()).await.unwrap();
    for one in &kept {
        place.home.restores(&repository, one).await.unwrap();
    }
    let check = repository.check(&place.home.ctx(), CheckDepth::Everything).await.unwrap();
    assert_eq!(check.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_leaves_nothing_when_it_fails() {
    for (method, what, passes) in [
        ("PUT", Do::Refuse(500, "InternalError"), true),
        ("POST", Do::LoseAnswer, true),
        ("PUT", Do::Refuse(403, "AccessDenied"), false),
    ] {
        for nth in 0..4 {
            let fake = FakeS3::start();
            let place = place(&fake);
            let objects = place.objects("far/writer").await.with_part_bytes(1_000);
            let times = if passes { 1 } else { usize::MAX };
            fail(&fake, &what, nth, times, move |asked| asked.method == method);
            let path = format!("data/00/{method}-{nth}-{passes}");
            let inner = path.clone();
            let written = blocking(move || objects.create(&inner, &[noise(4_500, 1)])).await;
            fake.calm();
            let objects = place.objects("far/writer").await;
            let there = blocking(move || objects.read(&path)).await;
            match &written {
                Ok(()) => assert_eq!(there.unwrap(), noise(4_500, 1), "{method} {nth} {what:?}"),
                Err(fault) => {
                    assert!(!passes, "{method} {nth}: {fault}");
                    assert_eq!(there.unwrap_err().kind, FaultKind::Missing);
                    assert_eq!(fake.uploads(), 0, "{method} {nth} {what:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_written_in_parts_or_not_at_all_and_what_is_left_is_cleaned() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, noise(4_500, 1)).unwrap();
    for (method, what, times) in [
        ("PUT", Do::Refuse(500, "InternalError"), 1),
        ("POST", Do::LoseAnswer, 1),
        ("PUT", Do::Reset, usize::MAX),
        ("POST", Do::Refuse(507, "InsufficientStorage"), usize::MAX),
    ] {
        for nth in 0..3 {
            let case = format!("{what:?} {method} {nth}");
            let fake = FakeS3::start();
            let place = place(&fake);
            let bucket = |bytes| {
                let place = &place;
                async move { place.bucket("far/writer").await.with_part_bytes(bytes) }
            };
            let who = vec![place.who("far/writer").await];
            let cold = ColdBucket::with(bucket(1_000).await, bucket(1_000).await, who);
            // Whatever is sent to give up an upload is refused too.
            let refused = what.clone();
            let at = Arc::new(AtomicUsize::new(0));
            fake.judge(move |asked| {
                let fits = asked.method == method || (times > 1 && asked.method == "DELETE");
                let number = if fits { at.fetch_add(1, Ordering::SeqCst) } else { 0 };
                let acts = fits && number >= nth && number - nth < times;
                if acts { refused.clone() } else { Do::Serve }
            });
            let ctx = place.home.ctx();
            let put = cold.put(&ctx, "shop/old/a/rows", &file).await;
            fake.calm();
            let copy = folder.path().join("copy");
            let got = cold.get(&ctx, "shop/old/a/rows", &copy).await;
            match put {
                Ok(()) => {
                    got.unwrap();
                    assert!(std::fs::read(&copy).unwrap() == noise(4_500, 1), "{case}");
                    std::fs::remove_file(&copy).unwrap();
                }
                Err(error) => {
                    assert!(times > 1, "{case}: {error}");
                    assert_eq!(got.unwrap_err().kind(), ErrorKind::NotFound, "{case}");
                    assert!(!copy.exists(), "{case}");
                }
            }
            // Only what lies below the prefix is given up.
            let before = fake.uploads();
            cold.clean(&ctx, "shop/other/").await.unwrap();
            assert_eq!(fake.uploads(), before, "{case}");
            cold.clean(&ctx, "shop/old/").await.unwrap();
            assert_eq!(fake.uploads(), 0, "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_file_is_there_is_known_by_getting_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "rows").unwrap();
    let fake = FakeS3::start();
    let place = place(&fake);
    let cold = ColdBucket::new("cold", &place.inside);
    let ctx = place.home.ctx();
    fake.judge(|asked| if asked.method == "PUT" { Do::Forget } else { Do::Serve });
    cold.put(&ctx, "shop/old/a/lost", &file).await.unwrap();
    fake.judge(|asked| if asked.key.is_empty() { Do::Hide("hidden") } else { Do::Serve });
    cold.put(&ctx, "shop/old/a/hidden", &file).await.unwrap();
    assert_eq!(cold.list(&ctx, "shop/old/").await.unwrap(), [""; 0]);
    cold.get(&ctx, "shop/old/a/hidden", &folder.path().join("hidden")).await.unwrap();
    let lost = cold.get(&ctx, "shop/old/a/lost", &folder.path().join("lost")).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::NotFound, "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_given_up() {
    let fake = FakeS3::start();
    let quick =
        Settings { attempts_max: 2, timeout: Duration::from_millis(300), ..settings(&fake.url, "bucket") };
    let place = Place::at(quick, None);
    fake.judge(|_| Do::Hang);
    let error = place.repository().list(&place.home.ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("no answer in time"), "{error}");
}
