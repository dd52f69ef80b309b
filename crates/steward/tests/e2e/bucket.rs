//! Backups in a bucket of a real S3 server: made, proven, copied, restored when the first place is gone, pruned by rights of their own.

use std::process::Command;

use serde_json::{Value, json};

use crate::program::Project;

const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
     INSERT INTO orders SELECT i, 'order ' || i FROM n";

fn server() -> String {
    std::env::var("STEWARD_TEST_VERSITYGW_URL").expect(
        "this test needs an S3 server: export STEWARD_TEST_VERSITYGW_URL=$(testbed/testbed up versitygw && testbed/testbed url versitygw)",
    )
}

/// A request of the server's owner.
fn root(args: &[&str]) {
    let output = Command::new("curl")
        .args([
            "-H",
            "x-amz-content-sha256: UNSIGNED-PAYLOAD",
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "--user",
            "root:rootsecret",
        ])
        .args(args)
        .output()
        .expect("curl is installed");
    assert!(output.status.success(), "{args:?}: {output:?}");
}

/// A new bucket with object lock, under the policy that the guide gives.
fn bucket() -> String {
    let bucket = format!("test-{}", uuid::Uuid::new_v4().simple());
    let url = format!("{}/{bucket}", server());
    root(&["-X", "PUT", "-H", "x-amz-bucket-object-lock-enabled: true", &url]);
    let guide = include_str!("../../../../docs/guides/backups-elsewhere.md");
    let json = guide.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let policy = json.replace("arn:aws:iam::111122223333:user/", "").replace("shop-backups", &bucket);
    root(&["-X", "PUT", "--data-binary", &policy, &format!("{url}?policy=")]);
    bucket
}

fn far(bucket: &str) -> String {
    format!(
        "    far:\n      url: s3://{bucket}/steward\n      endpoint: {}\n      credentials: far/writer\n      prune_credentials: far/pruner\n      \
         object_lock: {{ mode: compliance, days: 2 }}\n",
        server()
    )
}

fn shop(yaml: &str) -> Project {
    let project = Project::with_sqlite(&format!("project: shop\nbackup:\n  repositories:\n{yaml}"), SHOP);
    project.run_with_input(&["secret", "put", "far/writer"], "writer:writersecret").expect(0);
    project.run_with_input(&["secret", "put", "far/pruner"], "pruner:prunersecret").expect(0);
    project
}

/// The lamps that are on.
fn lamps(project: &Project) -> Vec<bool> {
    let shown = project.run(&["backup", "plan", "--json"]).json();
    let plans = shown["value"]["plans"].as_array().unwrap();
    let store =
        plans.iter().flat_map(|plan| plan["stores"].as_array().unwrap()).find(|it| it["store"] == "app");
    let lamps = store.unwrap_or_else(|| panic!("{shown:#}"))["lamps"].as_array().unwrap();
    lamps.iter().map(|lamp| lamp["on"].as_bool().unwrap()).collect()
}

#[test]
fn a_bucket_keeps_backups_that_are_proven_and_restored() {
    let project = shop(&far(&bucket()));
    project.run(&["backup", "setup", "far"]).expect(0);
    let made = project.run(&["backup", "run", "app"]).expect(0);
    assert!(made.stdout.contains("5,000 rows in 1 table: all as dumped"), "{}", made.stdout);
    let again = project.run(&["backup", "run", "app", "--json"]).expect(0).json();
    let backup = &again["value"]["backups"][0]["backup"];
    assert!(backup["bytes_added"].as_u64() < backup["bytes"].as_u64().map(|bytes| bytes / 4), "{backup:#}");
    project.run(&["backup", "verify", "app"]).expect(0);
    let restored =
        project.run(&["backup", "restore", "app", "--to", "beside", "--name", "copy.db"]).expect(0);
    let rows: i64 = rusqlite::Connection::open(project.file("copy.db"))
        .unwrap()
        .query_row("SELECT count(*) FROM orders", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 5_000, "{}", restored.stdout);
    // The server is on this machine, so nothing is elsewhere; the lock is asked of it.
    assert_eq!(lamps(&project), [false, true, false, true, true]);
    let runbook = project.run(&["backup", "export-runbook"]).expect(0).stdout;
    assert!(runbook.contains("export RESTIC_REPOSITORY=") && runbook.contains("s3:http://"), "{runbook}");
    project.run_with_input(&["secret", "rotate", "far/writer"], "writer:wrong").expect(0);
    let refused = project.run(&["backup", "run", "app"]);
    assert!(refused.code == 4 || refused.code == 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("secret key in `far/writer`")
            && refused.stderr.contains("steward secret rotate far/writer"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("writersecret"), "{}", refused.stderr);
}

#[test]
fn a_copy_is_made_after_each_backup_and_read_when_the_first_place_is_gone() {
    let near = "    near: { url: near }\n".to_owned();
    let plan = "  plans:\n    nightly: { stores: [app], repository: near, copies: [far] }\n";
    let project = shop(&(near + &far(&bucket()) + plan));
    project.run(&["backup", "setup", "near"]).expect(0);
    // Where the copy cannot be made, the backup is kept and the answer says so.
    let alone = project.run(&["backup", "run", "nightly"]).expect(5);
    assert!(
        alone.stdout.contains("NOT COPIED to far") && alone.stdout.contains("is not set up"),
        "{}",
        alone.stdout
    );
    project.run(&["backup", "setup", "far"]).expect(0);
    let copied = project.run(&["backup", "copy", "--all"]).expect(0);
    assert!(copied.stdout.contains("copied to far"), "{}", copied.stdout);
    assert_eq!(lamps(&project), [true, true, false, true, true]);
    let made = project.run(&["backup", "run", "nightly", "--json"]).expect(0).json();
    let backup: Value = made["value"]["backups"][0]["backup"].clone();
    assert_eq!(backup["copies"][0]["repository"], json!("far"), "{backup:#}");
    let added = backup["copies"][0]["bytes_added"].as_u64().unwrap();
    assert!(added < backup["bytes"].as_u64().unwrap() / 4, "unchanged data is not sent again: {backup:#}");
    std::fs::rename(project.file("near"), project.file("lost")).unwrap();
    let restored = project.run(&["backup", "restore", "app", "--json"]).expect(0).json();
    assert_eq!(restored["value"]["from"], json!("far"), "{restored:#}");
    let verified = project.run(&["backup", "verify", "app"]).expect(5);
    assert!(verified.stdout.contains("(the copy in far): restored"), "{}", verified.stdout);
    let named = project.run(&["backup", "verify", "app", "--from", "far"]).expect(0);
    assert!(named.stdout.contains("all as dumped"), "{}", named.stdout);
}
