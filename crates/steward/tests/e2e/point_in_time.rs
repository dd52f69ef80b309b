//! Physical backups and the log behind them through the program: a server of the test's own is brought back to a moment.

use std::path::{Path, PathBuf};
use std::process::Command;

use conformance::Cluster;
use serde_json::Value;

use crate::program::{Ended, Project, eventually};

/// A server as it is made without further thought, but for the limit of its log: it keeps no checksums of its pages (before 18),
/// which is told and ends nothing with 5. `plan`: more lines of the plan.
fn shop(settings: &[&str], plan: &str) -> (Cluster, Project, String) {
    let cluster = Cluster::new(&conformance::programs(17), &[], settings);
    cluster.sql("postgres", "CREATE TABLE step (n int); INSERT INTO step VALUES (0)");
    let yaml = format!(
        "project: shop\nstores:\n  orders:\n    kind: postgres\n    url: postgres://127.0.0.1:{}/postgres\n    \
         reader: {{ user: postgres }}\n    bin_dir: {}\nbackup:\n  plans:\n    orders:\n      stores: [orders]\n      \
         method: physical\n      logs: continuous\n      log_every_s: 1\n{plan}",
        cluster.port(),
        cluster.programs().display()
    );
    let project = Project::new(&yaml);
    let made = project.run(&["backup", "setup", "--json"]).expect(0).json();
    let key = made["value"]["value"].as_str().unwrap().to_owned();
    (cluster, project, key)
}

fn follow(project: &Project) {
    project.run(&["backup", "follow", "orders", "--once"]).expect(0);
}

/// Restores, counts, and takes the copy away.
fn restored(cluster: &Cluster, project: &Project, until: &str) -> String {
    let answer = project.run(&["backup", "restore", "orders", "--until", until, "--json"]).expect(0).json();
    let address = answer["value"]["address"].as_str().unwrap_or_else(|| panic!("{answer:#}"));
    let counted = Command::new(cluster.programs().join("psql"))
        .args(["-X", "-A", "-t", "-d", address, "-c", "SELECT max(n) FROM step"])
        .output()
        .unwrap();
    let end = answer["value"]["take_away"].as_str().unwrap();
    assert!(Command::new("sh").args(["-c", end]).status().unwrap().success(), "{end}");
    String::from_utf8_lossy(&counted.stdout).trim().to_owned()
}

fn refused(project: &Project, until: &str) -> String {
    let Ended { code, stderr, .. } = project.run(&["backup", "restore", "orders", "--until", until]);
    assert_ne!(code, 0, "{until}");
    stderr
}

fn pieces(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(pieces(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn now(cluster: &Cluster) -> String {
    let format = "YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"";
    cluster.sql("postgres", &format!("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', '{format}')"))
}

#[test]
fn a_server_is_brought_back_to_any_moment_and_gaps_are_named() {
    let (cluster, project, key) = shop(&[], "");
    let before = now(&cluster);
    let made = project.run(&["backup", "run", "orders"]).expect(0);
    for said in ["as the server's own list has them", "1 row in 1 table", "amcheck found nothing"] {
        assert!(made.stdout.contains(said), "{}", made.stdout);
    }
    follow(&project);
    cluster.sql("postgres", "INSERT INTO step VALUES (1)");
    let first = now(&cluster);
    project.run(&["backup", "marker", "before-release"]).expect(0);
    let twice = project.run(&["backup", "marker", "before-release"]);
    assert!(twice.code != 0 && twice.stderr.contains("there is a marker"), "{}", twice.stderr);
    cluster.sql("postgres", "INSERT INTO step VALUES (2); SELECT pg_switch_wal()");
    follow(&project);
    let second = cluster.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    cluster.sql("postgres", "INSERT INTO step VALUES (3); SELECT pg_switch_wal()");
    follow(&project);
    let listed: Value = project.run(&["backup", "list", "--store", "orders", "--json"]).expect(0).json();
    let store = &listed["value"]["stores"][0];
    assert!(store["log_until"].is_string() && store["log_gap"].is_null(), "{listed:#}");
    let logs = project.run(&["backup", "logs", "orders"]).expect(0).stdout;
    assert!(logs.contains("marker:before-release"), "{logs}");

    assert_eq!(restored(&cluster, &project, "marker:before-release"), "1");
    assert_eq!(restored(&cluster, &project, &first), "1");
    assert_eq!(restored(&cluster, &project, &format!("lsn:{second}")), "2");
    assert_eq!(restored(&cluster, &project, "end"), "3");
    let said = refused(&project, &before);
    assert!(said.contains("before the first backup") && said.contains("what can be restored"), "{said}");
    let said = refused(&project, "2999-01-01T00:00:00Z");
    assert!(said.contains("behind the end"), "{said}");
    let said = refused(&project, "xid:4000000000");
    assert!(said.contains("does not come to"), "{said}");

    // restic alone opens a piece: it lies where an index would.
    let repository = project.file(".steward/backups/shop/pages");
    let all = pieces(&repository.join("log/orders"));
    let segments: Vec<&PathBuf> =
        all.iter().filter(|path| !path.display().to_string().contains("marker.")).collect();
    let piece = segments.last().unwrap();
    let sha256 = piece.extension().unwrap().to_str().unwrap();
    let alone = project.file("alone");
    for folder in ["index", "data", "snapshots", "locks", "keys"] {
        std::fs::create_dir_all(alone.join(folder)).unwrap();
    }
    std::fs::copy(repository.join("config"), alone.join("config")).unwrap();
    for file in pieces(&repository.join("keys")) {
        std::fs::copy(&file, alone.join("keys").join(file.file_name().unwrap())).unwrap();
    }
    std::fs::copy(piece, alone.join("index").join(sha256)).unwrap();
    let opened = Command::new("restic")
        .args(["--no-cache", "--no-lock", "cat", "index", sha256])
        .env("RESTIC_REPOSITORY", &alone)
        .env("RESTIC_PASSWORD", &key)
        .output()
        .unwrap();
    assert!(opened.status.success(), "{opened:?}");
    let folder = project.file("wal");
    project.run(&["backup", "export-logs", "orders", "--folder", folder.to_str().unwrap()]).expect(0);
    let range = piece.file_name().unwrap().to_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let (start, end) = range.split_once('-').unwrap();
    let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
    let file =
        std::fs::read(folder.join(piece.file_name().unwrap().to_str().unwrap().split('.').next().unwrap()));
    let within = start % (16 << 20);
    assert_eq!(&opened.stdout[..end - start], &file.unwrap()[within..within + end - start]);

    // One piece is damaged, then gone.
    let victim = segments[segments.len() - 2];
    let whole = std::fs::read(victim).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    std::fs::write(victim, changed).unwrap();
    let said = refused(&project, "end");
    assert!(said.contains("its bytes have changed"), "{said}");
    std::fs::remove_file(victim).unwrap();
    let logs = project.run(&["backup", "logs", "orders"]).expect(5).stdout;
    assert!(logs.contains("then a gap up to"), "{logs}");
    let said =
        refused(&project, &format!("lsn:{}", cluster.sql("postgres", "SELECT pg_current_wal_flush_lsn()")));
    assert!(said.contains("a part of the log that leads there is missing"), "{said}");
    assert_eq!(restored(&cluster, &project, "marker:before-release"), "1");
    assert!(!project.escalations("data_loss_risk").is_empty());
}

/// The process that receives the log of this project.
fn receiver(project: &Project) -> Option<String> {
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes.find(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().unwrap_or_default().ends_with(b"pg_receivewal")
            && words.any(|word| word.starts_with(project.path().as_os_str().as_encoded_bytes()))
    });
    found.map(|entry| entry.file_name().into_string().unwrap())
}

/// What the followed log is known to hold.
fn kept(project: &Project) -> String {
    let logs = project.run(&["backup", "logs", "orders", "--json"]).json();
    logs["value"]["stores"][0]["followed"]["kept"].as_str().unwrap_or("0/0").to_owned()
}

fn is_kept(cluster: &Cluster, project: &Project, position: &str) -> bool {
    cluster.sql("postgres", &format!("SELECT '{}'::pg_lsn >= '{position}'", kept(project))) == "t"
}

fn backups(project: &Project) -> usize {
    let listed = project.run(&["backup", "list", "--store", "orders", "--json"]).json();
    let all = listed["value"]["backups"].as_array().unwrap().iter();
    all.filter(|backup| backup["state"] == "complete").count()
}

#[test]
fn the_daemon_follows_a_log_and_makes_a_base_backup_behind_a_gap() {
    let plan = "      verify: { level: l0 }\n";
    let (cluster, project, _) = shop(&["max_wal_size=32MB", "min_wal_size=32MB"], plan);
    project.run(&["backup", "run", "orders"]).expect(0);
    let daemon = project.daemon(&[]);
    cluster.sql("postgres", "INSERT INTO step VALUES (1)");
    let first = cluster.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    eventually("the log is followed", || is_kept(&cluster, &project, &first));
    let killed = receiver(&project).unwrap();
    assert!(Command::new("kill").args(["-9", &killed]).status().unwrap().success());
    cluster.sql("postgres", "INSERT INTO step VALUES (2)");
    let second = cluster.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    eventually("it is followed again", || is_kept(&cluster, &project, &second));
    assert_ne!(receiver(&project).unwrap(), killed);
    assert_eq!(project.escalations("data_loss_risk"), Vec::<Value>::new());
    assert_eq!(daemon.stop(), 0);
    eventually("nobody receives any more", || receiver(&project).is_none());

    // Nobody follows, somebody takes the slot away, the server forgets.
    eventually("the slot is gone", || {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
        cluster.sql("postgres", drop);
        cluster.sql("postgres", "SELECT count(*) FROM pg_replication_slots") == "0"
    });
    let file = cluster.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())");
    eventually("the server has forgotten", || {
        cluster.sql("postgres", "SELECT pg_logical_emit_message(true, 'a', 'b'); SELECT pg_switch_wal()");
        cluster.sql("postgres", "CHECKPOINT");
        !cluster.data().join("pg_wal").join(&file).exists()
    });
    let before = backups(&project);
    let daemon = project.daemon(&[]);
    eventually("the gap is told", || !project.escalations("data_loss_risk").is_empty());
    eventually("there is a new base backup", || backups(&project) > before);
    cluster.sql("postgres", "INSERT INTO step VALUES (3)");
    let third = cluster.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    eventually("the log goes on", || is_kept(&cluster, &project, &third));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(backups(&project), before + 1, "one is enough");
    project.run(&["backup", "logs", "orders"]).expect(0);
    assert_eq!(restored(&cluster, &project, "end"), "3");
}
