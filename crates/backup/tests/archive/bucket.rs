//! Archives in a bucket: of a real server, and of one that fails when it is told to.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backup::archive::{ListArchives, VerifyArchive};
use contract::{Error, ErrorKind};
use repository_restic::{BucketConfig, LockMode, ObjectLock};
use serde_json::json;

use crate::fake_s3::{Asked, Do, FakeS3};
use crate::world::{World, dump};
use crate::{archive, die_everywhere, query, restore, rows};

fn server() -> String {
    std::env::var("STEWARD_TEST_VERSITYGW_URL").expect(
        "this test needs an S3 server: export STEWARD_TEST_VERSITYGW_URL=$(testbed/testbed up versitygw && testbed/testbed url versitygw)",
    )
}

/// A request of the server's owner.
fn root(args: &[&str]) -> String {
    let output = Command::new("curl")
        .args([
            "-H",
            "x-amz-content-sha256: UNSIGNED-PAYLOAD",
            "--silent",
            "--show-error",
            "--fail-with-body",
        ])
        .args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "root:rootsecret"])
        .args(args)
        .output()
        .expect("curl is installed");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A place in a new bucket with object lock, under the policy that the guide gives.
fn real(lock: bool) -> BucketConfig {
    let bucket = format!("test-{}", uuid::Uuid::new_v4().simple());
    let url = format!("{}/{bucket}", server());
    root(&["-X", "PUT", "-H", &format!("x-amz-bucket-object-lock-enabled: {lock}"), &url]);
    let guide = include_str!("../../../../docs/guides/backups-elsewhere.md");
    let json = guide.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let policy = json.replace("arn:aws:iam::111122223333:user/", "").replace("shop-backups", &bucket);
    root(&["-X", "PUT", "--data-binary", &policy, &format!("{url}?policy=")]);
    BucketConfig {
        endpoint: Some(server()),
        prune_credentials: Some("far/pruner".into()),
        object_lock: lock.then_some(ObjectLock { mode: LockMode::Compliance, days: 1 }),
        ..BucketConfig::new(&format!("s3://{bucket}/steward/cold"), "far/writer")
    }
}

fn faulty(fake: &FakeS3) -> BucketConfig {
    BucketConfig {
        endpoint: Some(fake.url.clone()),
        attempts_max: Some(2),
        ..BucketConfig::new("s3://bucket/cold", "far/writer")
    }
}

async fn world(dir: &Path, bucket: &BucketConfig) -> World {
    std::fs::write(dir.join("place.json"), serde_json::to_vec(bucket).unwrap()).unwrap();
    World::new(dir).await
}

/// Archives. A process that another test starts at this moment holds the store's lock until it is another program.
async fn archive_when_free(world: &World) -> Result<contract::Outcome, Error> {
    let mut tries = 0;
    loop {
        match archive(world).await {
            Err(error) if error.message().contains("another execution") && tries < 500 => {
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

async fn sound(world: &World) -> bool {
    let request = VerifyArchive { archive: "old".into() };
    let verified = backup::archive::verify_archive(&world.ctx(), world, &request).await.unwrap();
    verified.findings.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_archives_that_are_listed_verified_read_and_restored() {
    for lock in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let place = real(lock);
        let world = world(dir.path(), &place).await;
        let before = dump(dir.path(), "orders");
        let done = archive_when_free(&world).await.unwrap();
        assert!(done.findings.is_empty(), "{}", done.text);
        assert!(done.text.contains(&format!("{}/archives/p/old/", &place.url[5..])), "{}", done.text);
        let value = &done.value["archives"][0];
        assert_eq!((&value["deleted"], &value["digest"]), (&json!(100), &value["deleted_digest"]));
        assert_eq!(rows(dir.path()), 50);
        let listed =
            backup::archive::list_archives(&world.ctx(), &world, &ListArchives::default()).await.unwrap();
        assert_eq!((listed.findings.len(), listed.value["archives"].as_array().unwrap().len()), (0, 1));
        assert!(sound(&world).await);
        assert_eq!(query(&world, Some("id BETWEEN 39 AND 42")).await.unwrap().len(), 4);
        restore(&world, Some("orders_2023"), None).await.unwrap();
        assert_eq!(dump(dir.path(), "orders_2023"), before[..100]);
        restore(&world, None, None).await.unwrap();
        assert_eq!(dump(dir.path(), "orders"), before);
        // What the writer wrote it cannot take away, and with the lock what is written over it is passed by.
        let names = world.place().list(&world.ctx(), "p/old/").await.unwrap();
        let file = names.iter().find(|name| name.ends_with("rows-00002.parquet")).unwrap();
        let object = format!("{}/{}/archives/{file}", server(), &place.url[5..]);
        root(&["-X", "PUT", "--data-binary", "others", &object]);
        assert_eq!(sound(&world).await, lock, "written over, with the lock: {lock}");
        let error = BucketConfig { prune_credentials: None, ..place.clone() };
        std::fs::write(dir.path().join("place.json"), serde_json::to_vec(&error).unwrap()).unwrap();
        let writer = World::at(dir.path(), None).await;
        let error = writer.place().remove(&writer.ctx(), file).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.hint_text().unwrap().contains("prune_credentials"), "{error}");
        if !lock {
            root(&["-X", "DELETE", &object]);
            let request = VerifyArchive { archive: "old".into() };
            let found = backup::archive::verify_archive(&world.ctx(), &world, &request).await.unwrap();
            assert!(found.text.contains("missing"), "{}", found.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bucket_refuses_to_delete_is_told_and_is_no_archive() {
    let dir = tempfile::tempdir().unwrap();
    let place = BucketConfig { prune_credentials: None, ..real(true) };
    let world = world(dir.path(), &place).await;
    // A run that was cut short: files without a manifest.
    let cut = "p/old/20260101T000000Z-aaaaaa/rows-00001.parquet";
    let file = dir.path().join("cut");
    std::fs::write(&file, "rows").unwrap();
    world.place().put(&world.ctx(), cut, &file).await.unwrap();
    let done = archive_when_free(&world).await.unwrap();
    assert_eq!(done.findings[0].code, "archive_leftovers", "{}", done.text);
    assert!(done.findings[0].title.contains(cut), "{}", done.text);
    assert_eq!((rows(dir.path()), query(&world, None).await.unwrap().len()), (50, 100));
    let listed =
        backup::archive::list_archives(&world.ctx(), &world, &ListArchives::default()).await.unwrap();
    assert_eq!(listed.value["archives"].as_array().unwrap().len(), 1);
    // Whoever may, takes it away.
    let place = BucketConfig { prune_credentials: Some("far/pruner".into()), ..place };
    std::fs::write(dir.path().join("place.json"), serde_json::to_vec(&place).unwrap()).unwrap();
    let world = World::at(dir.path(), None).await;
    crate::sql(dir.path(), "UPDATE orders SET created_at = '2023-01-01' WHERE id = 101");
    let done = archive_when_free(&world).await.unwrap();
    assert!(done.findings.is_empty(), "{}", done.text);
    let names = world.place().list(&world.ctx(), "p/old/").await.unwrap();
    assert!(!names.contains(&cut.to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_process_dies_over_a_bucket_nothing_is_lost() {
    let full = std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1");
    let (first, apart) = if full { (0, 1) } else { (5, 9) };
    let died = die_everywhere(first, apart, |dir| {
        std::fs::write(dir.join("place.json"), serde_json::to_vec(&real(false)).unwrap()).unwrap();
    })
    .await;
    assert!(died * apart > 20, "only {died} places to die were found");
}

/// What a server does to a request: once, or to this one and all that follow.
const FAULTS: [(Do, bool); 8] = [
    (Do::LoseAnswer, false),
    (Do::LoseAnswer, true),
    (Do::Reset, true),
    (Do::Truncate, true),
    (Do::Change, true),
    (Do::Forget, false),
    (Do::Refuse(403, "AccessDenied"), true),
    (Do::Refuse(507, "InsufficientStorage"), true),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_request_loses_no_row_and_the_next_run_ends_it() {
    let full = std::env::var("STEWARD_TEST_FULL").is_ok_and(|full| full == "1");
    let apart = if full { 1 } else { 6 };
    let (mut runs, mut failed) = (0, 0);
    for (number, (what, goes_on)) in FAULTS.into_iter().enumerate() {
        // Each fault at other requests, so that a short run comes by all kinds of them.
        for nth in (number % apart..).step_by(apart) {
            let fake = FakeS3::start();
            let dir = tempfile::tempdir().unwrap();
            let world = world(dir.path(), &faulty(&fake)).await;
            let seen = Arc::new(AtomicUsize::new(0));
            let (counter, act) = (Arc::clone(&seen), what.clone());
            fake.judge(move |_: &Asked| {
                let at = counter.fetch_add(1, Ordering::SeqCst);
                if at == nth || (goes_on && at > nth) { act.clone() } else { Do::Serve }
            });
            let case = format!("{what:?} at {nth}, going on: {goes_on}");
            let done: Result<_, Error> = archive(&world).await;
            if seen.load(Ordering::SeqCst) <= nth {
                break;
            }
            runs += 1;
            fake.calm();
            if done.is_err() {
                failed += 1;
                let listed = backup::archive::list_archives(&world.ctx(), &world, &ListArchives::default())
                    .await
                    .unwrap();
                let unfinished = listed.findings.iter().any(|finding| finding.code == "archive_unfinished");
                let archived = query(&world, None).await.map_or(0, |rows| rows.len());
                let now = rows(dir.path()) + i64::try_from(archived).unwrap();
                assert!(now == 150 || (unfinished && now > 150), "{case}: {now} rows, {:?}", done.err());
            }
            // The lock of a run that could not give it back is that of a process that is gone.
            let place = world.place();
            place.remove(&world.ctx(), ".locks/p/old.json").await.unwrap();
            archive_when_free(&world).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            let archived = query(&world, None).await.unwrap();
            assert_eq!((rows(dir.path()), archived.len()), (50, 100), "{case}");
            assert!(sound(&world).await, "{case}");
            assert!(world.scratch_left().is_empty(), "{case}");
        }
    }
    eprintln!("{runs} runs, {failed} of them ended in an error");
    assert!(runs > 15 && failed > 5, "{runs} runs, {failed} failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_taken_and_is_not_there_deletes_no_row() {
    let fake = FakeS3::start();
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), &faulty(&fake)).await;
    fake.judge(|asked| {
        if asked.method == "PUT" && asked.key.ends_with("/manifest.json") { Do::Forget } else { Do::Serve }
    });
    let error = archive(&world).await.unwrap_err();
    assert_eq!((error.kind(), rows(dir.path())), (ErrorKind::Corrupt, 150), "{error}");
    fake.calm();
    archive_when_free(&world).await.unwrap();
    assert_eq!((rows(dir.path()), query(&world, None).await.unwrap().len()), (50, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_a_listing_hides_in_part_is_not_taken_for_a_leftover() {
    let fake = FakeS3::start();
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), &faulty(&fake)).await;
    archive_when_free(&world).await.unwrap();
    crate::sql(dir.path(), "UPDATE orders SET created_at = '2023-01-01' WHERE id = 101");
    fake.judge(|asked| if asked.key.is_empty() { Do::Hide("manifest.json") } else { Do::Serve });
    let done = archive_when_free(&world).await.unwrap();
    assert_eq!(done.value["archives"][0]["rows"], 1, "{}", done.text);
    fake.calm();
    assert_eq!((rows(dir.path()), query(&world, None).await.unwrap().len()), (49, 101));
    assert!(sound(&world).await);
}
