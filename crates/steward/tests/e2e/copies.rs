//! Copies through the program: played, listed anew, with the log behind them, and read when the first place is gone.

use std::path::PathBuf;
use std::process::Command;

use conformance::Cluster;
use serde_json::{Value, json};

use crate::program::Project;

const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
     INSERT INTO orders SELECT i, 'order ' || i FROM n";

const TWO_PLACES: &str = "  repositories:\n    near: { url: near }\n    far: { url: far }\n";

fn set_up(project: &Project) {
    project.run(&["backup", "setup", "near"]).expect(0);
    project.run(&["backup", "setup", "far"]).expect(0);
}

fn app() -> Project {
    let yaml = format!(
        "project: shop\nbackup:\n{TWO_PLACES}  plans:\n    app: {{ stores: [app], repository: near, copies: [far] }}\n"
    );
    let project = Project::with_sqlite(&yaml, SHOP);
    set_up(&project);
    project
}

/// All files below a folder.
fn files(folder: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn flip(file: &PathBuf) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

fn drill(project: &Project, code: i32) -> Value {
    let played =
        project.run(&["backup", "drill", "app", "--lose", "repository", "--json"]).expect(code).json();
    played["value"]["drills"][0].clone()
}

#[test]
fn the_repository_is_lost_and_the_copy_gives_everything_back() {
    let project = app();
    project.run(&["backup", "run", "app"]).expect(0);
    let played = drill(&project, 0);
    assert_eq!((&played["result"], &played["rows"]), (&json!("passed"), &json!(2000)), "{played:#}");
    assert_eq!(played["steps"][0]["step"], "open the copy in far", "{played:#}");
    // It is no play: the first place is not looked at.
    std::fs::rename(project.file("near"), project.file("gone")).unwrap();
    let played = drill(&project, 0);
    assert_eq!((&played["result"], &played["rows"]), (&json!("passed"), &json!(2000)), "{played:#}");
    let restored = project.run(&["backup", "restore", "app"]).expect(0).stdout;
    assert!(restored.contains("read from the copy in far"), "{restored}");
    std::fs::rename(project.file("gone"), project.file("near")).unwrap();
    // A copy that is damaged recovers nothing, and is not said to.
    for file in files(project.file("far/pages/data")) {
        flip(&file);
    }
    let played = drill(&project, 5);
    assert_eq!(played["result"], "failed", "{played:#}");
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn copies_are_on_the_list_again_when_it_is_made_anew() {
    let project = app();
    project.run(&["backup", "run", "app"]).expect(0);
    let before = project.run(&["backup", "show", "app", "--json"]).expect(0).json();
    let id = before["value"]["backup"]["id"].as_str().unwrap().to_owned();
    let forget = || {
        project.state().execute_batch("DELETE FROM backups; DELETE FROM backup_copies").unwrap();
    };
    forget();
    let rebuilt = project.run(&["backup", "rebuild", "--json"]).expect(0).json();
    assert_eq!(rebuilt["value"]["taken_in"], json!([id]), "{rebuilt:#}");
    assert_eq!(rebuilt["value"]["copies"], json!([{ "backup": id, "repository": "far" }]), "{rebuilt:#}");
    let again = project.run(&["backup", "rebuild", "--json"]).expect(0).json();
    assert_eq!((&again["value"]["copies"], &again["value"]["known"]), (&json!([]), &json!(2)), "{again:#}");
    let after = project.run(&["backup", "show", "app", "--json"]).expect(0).json();
    let (made, copied) = (&after["value"]["backup"], &after["value"]["backup"]["copies"][0]);
    assert_eq!((&made["repository"], &copied["repository"]), (&json!("near"), &json!("far")), "{after:#}");
    assert_eq!(copied["snapshot"], before["value"]["backup"]["copies"][0]["snapshot"], "{after:#}");
    assert!(copied["verified_at"].is_null(), "nobody has read it: {after:#}");
    // It is read where the first place is gone, and counts once it was read back.
    std::fs::rename(project.file("near"), project.file("gone")).unwrap();
    let restored = project.run(&["backup", "restore", "app"]).expect(0).stdout;
    assert!(restored.contains("read from the copy in far"), "{restored}");
    std::fs::rename(project.file("gone"), project.file("near")).unwrap();
    project.run(&["backup", "verify", "app"]).expect(0);
    let copied = project.run(&["backup", "copy", "--all", "--json"]).expect(0).json();
    assert_eq!(copied["value"]["copies"][0]["bytes_added"], 0, "it is read back, not sent again: {copied:#}");
    let after = project.run(&["backup", "show", "app", "--json"]).expect(0).json();
    assert!(after["value"]["backup"]["copies"][0]["verified_at"].is_string(), "{after:#}");
    // Found in the copy alone, it is a backup of that place; found elsewhere later, that is the copy.
    forget();
    let rebuilt = project.run(&["backup", "rebuild", "far", "--json"]).expect(0).json();
    assert_eq!(rebuilt["value"]["taken_in"], json!([id]), "{rebuilt:#}");
    let rebuilt = project.run(&["backup", "rebuild", "--json"]).expect(0).json();
    assert_eq!(rebuilt["value"]["copies"], json!([{ "backup": id, "repository": "near" }]), "{rebuilt:#}");
    // One that somebody has taken away is missed.
    for file in files(project.file("near/pages/snapshots")) {
        std::fs::remove_file(file).unwrap();
    }
    let missed = project.run(&["backup", "rebuild", "--json"]).expect(5).json();
    assert_eq!(
        missed["value"]["missing_copies"],
        json!([{ "backup": id, "repository": "near" }]),
        "{missed:#}"
    );
    assert_eq!(missed["findings"][0]["code"], "backup_not_in_repository", "{missed:#}");
}

/// A server of the test's own with a followed log and a second place.
fn orders() -> (Cluster, Project) {
    let cluster =
        Cluster::new(&conformance::programs(17), &["--data-checksums"], &["max_slot_wal_keep_size=4GB"]);
    cluster.sql("postgres", "CREATE TABLE step (n int); INSERT INTO step VALUES (0)");
    let yaml = format!(
        "project: shop\nstores:\n  orders:\n    kind: postgres\n    url: postgres://127.0.0.1:{}/postgres\n    \
         reader: {{ user: postgres }}\n    bin_dir: {}\nbackup:\n{TWO_PLACES}  plans:\n    orders:\n      \
         stores: [orders]\n      repository: near\n      copies: [far]\n      method: physical\n      logs: continuous\n      \
         log_every_s: 1\n",
        cluster.port(),
        cluster.programs().display()
    );
    let project = Project::new(&yaml);
    set_up(&project);
    (cluster, project)
}

/// Restores, counts, and takes the copy away.
fn restored(cluster: &Cluster, project: &Project, args: &[&str]) -> (String, Value) {
    let args = [&["backup", "restore", "orders", "--json", "--until"], args].concat();
    let answer = project.run(&args).expect(0).json();
    let address = answer["value"]["address"].as_str().unwrap_or_else(|| panic!("{answer:#}"));
    let counted = Command::new(cluster.programs().join("psql"))
        .args(["-X", "-A", "-t", "-d", address, "-c", "SELECT max(n) FROM step"])
        .output()
        .unwrap();
    let end = answer["value"]["take_away"].as_str().unwrap();
    assert!(Command::new("sh").args(["-c", end]).status().unwrap().success(), "{end}");
    (String::from_utf8_lossy(&counted.stdout).trim().to_owned(), answer["value"].clone())
}

fn step(cluster: &Cluster, project: &Project, n: u32) {
    cluster.sql("postgres", &format!("INSERT INTO step VALUES ({n}); SELECT pg_switch_wal()"));
    project.run(&["backup", "follow", "orders", "--once"]).expect(0);
}

#[test]
fn a_copy_leads_to_any_moment_when_the_first_place_is_gone() {
    let (cluster, project) = orders();
    project.run(&["backup", "run", "orders"]).expect(0);
    step(&cluster, &project, 1);
    project.run(&["backup", "marker", "before-release"]).expect(0);
    step(&cluster, &project, 2);
    // The copy of the backup is there; of the log what came since is not.
    let planned = project.run(&["backup", "copy", "orders", "--dry-run"]).expect(0).stdout;
    assert!(planned.contains("of the log of orders from near to far"), "{planned}");
    let copied = project.run(&["backup", "copy", "orders", "--json"]).expect(0).json();
    let log = &copied["value"]["copies"][0];
    assert!(log["log_pieces"].as_u64().unwrap() > 1 && log["bytes_added"].is_null(), "{copied:#}");
    let nothing = project.run(&["backup", "copy", "--all"]).expect(0).stdout;
    assert!(nothing.contains("every copy is there"), "{nothing}");

    // A piece in the first place is damaged: the copy of the log has it.
    let pieces = files(project.file("near/pages/log/orders"));
    let piece = pieces.iter().rfind(|path| !path.display().to_string().contains("marker.")).unwrap();
    let whole = std::fs::read(piece).unwrap();
    flip(piece);
    let (n, value) = restored(&cluster, &project, &["marker:before-release"]);
    assert_eq!((n.as_str(), &value["log_from"]), ("1", &json!("far")), "{value:#}");
    assert!(value["passed_by"][0].as_str().unwrap().contains("its bytes have changed"), "{value:#}");
    // It is gone: the log of the first place ends before, that of the copy does not.
    std::fs::remove_file(piece).unwrap();
    let (n, value) = restored(&cluster, &project, &["marker:before-release"]);
    assert_eq!(n, "1", "{value:#}");

    std::fs::write(piece, whole).unwrap();

    // Everything there is gone.
    std::fs::rename(project.file("near"), project.file("gone")).unwrap();
    let logs = project.run(&["backup", "logs", "orders"]).expect(0).stdout;
    assert!(logs.contains("marker:before-release"), "{logs}");
    let (n, value) = restored(&cluster, &project, &["marker:before-release"]);
    assert_eq!(
        (n.as_str(), &value["from"], &value["log_from"]),
        ("1", &json!("far"), &json!("far")),
        "{value:#}"
    );
    assert_eq!(restored(&cluster, &project, &["end"]).0, "2");
    let refused = project.run(&["backup", "restore", "orders", "--until", "end", "--from", "near"]);
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    std::fs::rename(project.file("gone"), project.file("near")).unwrap();
    assert_eq!(restored(&cluster, &project, &["end", "--from", "far"]).1["log_from"], "far");

    // A backup later brings the log on its way, also behind the older copy.
    step(&cluster, &project, 3);
    let made = project.run(&["backup", "run", "orders", "--json"]).json();
    assert!(made["text"].as_str().unwrap().contains("of the log copied to far"), "{made:#}");
    let failed = |finding: &Value| finding["code"] == "backup_copy_failed";
    assert!(!made["findings"].as_array().unwrap().iter().any(failed), "{made:#}");

    // One manifest that cannot be read anywhere stops no pruning, and no log is deleted for it.
    let oldest = project.run(&["backup", "list", "--store", "orders", "--json"]).json();
    let oldest = oldest["value"]["backups"].as_array().unwrap().last().unwrap().clone();
    let id = oldest["id"].as_str().unwrap_or_else(|| panic!("{oldest:#}"));
    project
        .state()
        .execute_batch(&format!(
            "UPDATE backups SET snapshot = replace(snapshot, substr(snapshot, 1, 4), '0000') WHERE id = '{id}'; \
             UPDATE backup_copies SET snapshot = replace(snapshot, substr(snapshot, 1, 4), '0000') WHERE backup = '{id}'"
        ))
        .unwrap();
    let before = files(project.file("near/pages/log")).len();
    let pruned = project.run(&["backup", "prune"]).expect(5);
    assert!(pruned.stdout.contains(id) && pruned.stdout.contains("cannot be read"), "{}", pruned.stdout);
    assert_eq!(files(project.file("near/pages/log")).len(), before);
}
