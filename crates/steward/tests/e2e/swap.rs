//! A restore in place that is killed while the database is closed for it: the next one opens it, and says so.

use std::process::{Child, Command, Stdio};

use conformance::Cluster;

use crate::program::{Project, eventually};

fn closed(cluster: &Cluster) -> bool {
    cluster.sql("postgres", "SELECT datallowconn FROM pg_database WHERE datname = 'shop'") == "f"
}

/// Somebody who is connected and stays.
fn other(cluster: &Cluster) -> Child {
    let child = Command::new(cluster.programs().join("psql"))
        .args(["-X", "-d", &cluster.url("shop"), "-c", "SELECT pg_sleep(3600)"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let there = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()";
    eventually("somebody is connected", || cluster.sql("postgres", there) == "1");
    child
}

#[test]
fn a_restore_that_dies_while_the_database_is_closed_is_put_in_order_by_the_next_one() {
    let cluster = Cluster::new(&conformance::programs(17), &[], &[]);
    cluster.sql("postgres", "CREATE DATABASE shop");
    cluster.sql("shop", "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let project = Project::new(&format!(
        "project: shop\nstores:\n  orders:\n    kind: postgres\n    url: postgres://127.0.0.1:{}/shop\n    \
         reader: {{ user: postgres }}\n    admin: {{ user: postgres }}\n    bin_dir: {}\n    lock_timeout_ms: 600000\n",
        cluster.port(),
        cluster.programs().display()
    ));
    project.run(&["backup", "setup"]).expect(0);
    project.add_person("maria", "a long enough passphrase", &["pm"]);
    let made = project.run(&["backup", "run", "orders", "--json"]).expect(0).json();
    // By its id, as the newest of the store will be the safety backup of the restore that dies.
    let backup = made["value"]["backups"][0]["backup"]["id"].as_str().unwrap_or_else(|| panic!("{made:#}"));
    cluster.sql("shop", "UPDATE t SET a = 2");
    let restore = ["backup", "restore", backup, "--to", "in_place"];
    let grant = || {
        let asked = project.run(&restore).expect(3);
        let approval = asked.stderr.split_whitespace().find(|word| word.starts_with("approval-")).unwrap();
        let granted = project.run_on_terminal(
            &["approval", "grant", approval, "--person", "maria"],
            &["a long enough passphrase"],
        );
        assert_eq!(granted.code, 0, "{}", granted.stdout);
    };
    grant();
    let mut other = other(&cluster);
    let mut dies = project
        .command(&restore)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the database is closed", || closed(&cluster));
    dies.kill().unwrap();
    dies.wait().unwrap();
    cluster.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shop'");
    other.wait().unwrap();
    assert!(closed(&cluster), "nobody can reach it");

    // Asked again, what was begun comes first.
    grant();
    assert_eq!(cluster.sql("shop", "SELECT a FROM t"), "2", "as it was, and open");
    let outcome = "SELECT count(*) FROM intents WHERE request = 'backup.restore' AND outcome = 'undone'";
    assert_eq!(project.state().query_row(outcome, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    let trail = project.run(&["audit", "export"]);
    assert!(trail.stdout.contains("is open again as it was before"), "{}{}", trail.stdout, trail.stderr);
    // And the restore that was wanted is made, with nothing of the dead one in its way.
    project.run(&restore).expect(0);
    assert_eq!(cluster.sql("shop", "SELECT a FROM t"), "1");
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'restored%'";
    assert_eq!(cluster.sql("postgres", left), "0");
}
