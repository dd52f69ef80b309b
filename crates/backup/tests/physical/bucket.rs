//! A repository in a bucket of a real S3 server: the log goes there, and a moment comes back from there.

use std::process::Command;

use backup::Level;

use crate::home::{Home, Place, STORE, insert, server, with_every_case};
use crate::trip::Trip;

/// A request of the server's owner.
fn root(args: &[&str]) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail-with-body", "--aws-sigv4", "aws:amz:us-east-1:s3"])
        .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--user", "root:rootsecret"])
        .args(args)
        .output()
        .expect("curl is installed");
    assert!(output.status.success(), "{args:?}: {output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_a_bucket_leads_to_a_moment() {
    if !with_every_case() {
        return;
    }
    let endpoint = std::env::var("STEWARD_TEST_VERSITYGW_URL").expect(
        "this test needs an S3 server: export STEWARD_TEST_VERSITYGW_URL=$(testbed/testbed up versitygw && testbed/testbed url versitygw)",
    );
    let bucket = format!("test-{:x}", jiff::Timestamp::now().as_nanosecond());
    let url = format!("{endpoint}/{bucket}");
    root(&["-X", "PUT", &url]);
    let guide = include_str!("../../../../docs/guides/backups-elsewhere.md");
    let json = guide.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let policy = json.replace("arn:aws:iam::111122223333:user/", "").replace("shop-backups", &bucket);
    root(&["-X", "PUT", "--data-binary", &policy, &format!("{url}?policy=")]);

    let server = server(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::new(folder.path(), &server);
    place.repository = repository_restic::Config {
        endpoint: Some(endpoint),
        credentials: Some("far/writer".into()),
        ..repository_restic::Config::new(&format!("s3://{bucket}/steward"))
    };
    let home = Home::open(&place, Trip::never()).await;
    home.base(Level::L0).await.unwrap();
    insert(&server, 1);
    home.follow_once().await;
    insert(&server, 2);
    let moment = server.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    server.sql("postgres", "SELECT pg_switch_wal()");
    insert(&server, 3);
    home.follow_once().await;
    assert!(!folder.path().join("backups").exists());
    let count = "SELECT count(*) FROM step";
    assert_eq!(home.restored(STORE, &format!("lsn:{moment}"), None, count).await.unwrap(), "2");
    assert_eq!(home.restored(STORE, "end", None, count).await.unwrap(), "3");
}
