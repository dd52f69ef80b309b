//! Base backups.

use std::sync::Arc;

use conformance::{Cluster, NoSecrets};
use contract::{BackupMethod, ErrorKind, Store};
use store_postgres::{Config, LoginConfig};

use crate::world::{Gate, SHOP, Scratch, ctx, dump, load, programs, store, store_as};

#[tokio::test]
async fn a_whole_server_comes_back_with_its_tablespaces_and_other_databases() {
    let cluster = Cluster::new(&programs(), &["--data-checksums"], &[]);
    cluster.sql("postgres", SHOP);
    let space = cluster.folder().join("fast");
    std::fs::create_dir(&space).unwrap();
    cluster.sql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    cluster.sql("postgres", "CREATE DATABASE other");
    cluster.sql(
        "other",
        "CREATE TABLE there (n int) TABLESPACE fast; INSERT INTO there SELECT generate_series(1, 70)",
    );
    cluster.sql("postgres", "ALTER SYSTEM SET archive_command = '/bin/false'");
    let store = store(&cluster);
    let looked = Store::dump(&store).unwrap().preflight(&ctx(), &Scratch::new().options()).await.unwrap();
    assert_eq!(looked.refusals, Vec::<String>::new());
    assert!(looked.scratch_bytes > 0, "with tablespaces it is copied first: {looked:?}");
    let (dumped, parts) = dump(&store).await.unwrap();
    assert_eq!(dumped.point.timeline, Some(1));
    assert!(dumped.tables.is_empty());
    let scratch = Scratch::new();
    let restored = load(&store, &dumped, &parts, &scratch).await.unwrap();
    let counted = restored.fingerprint(&ctx(), &dumped).await.unwrap();
    let rows: Vec<(&str, u64)> = counted.iter().map(|table| (table.table.as_str(), table.rows)).collect();
    assert_eq!(rows, [("other.public.there", 70), ("postgres.public.orders", 5_000)]);
    let report = restored.check(&ctx()).await.unwrap();
    assert_eq!((report.problems, report.unchecked), (vec![], vec![]));
    assert!(
        restored.probe(&ctx(), "SELECT count(*) = 5000 FROM orders").await.unwrap(),
        "after the pages too"
    );
    let proof = restored.proven_by().join("\n");
    for expected in [
        "as the server's own list has them",
        "was consistent",
        "5,070 rows in 2 tables",
        "amcheck",
        "checksums of",
    ] {
        assert!(proof.contains(expected), "{proof}");
    }
    restored.remove().await.unwrap();
    assert!(!scratch.0.path().join("copy/server").exists());
}

#[tokio::test]
async fn the_same_comes_back_by_a_shell_alone() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", SHOP);
    let (_, parts) = dump(&store(&cluster)).await.unwrap();
    let folder = Scratch::new();
    for path in parts.paths() {
        let file = folder.0.path().join(&path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, parts.bytes(&path)).unwrap();
    }
    let data = folder.0.path().join("data");
    let ran =
        std::process::Command::new("sh").arg(folder.0.path().join("restore.sh")).arg(&data).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let verified = cluster.program("pg_verifybackup", &["--no-parse-wal", data.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test]
async fn whatever_is_not_as_the_server_listed_it_is_found() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", SHOP);
    let store = store(&cluster);
    let (dumped, parts) = dump(&store).await.unwrap();
    let mut other = dumped.clone();
    // The mapping leads to other files: lengths and hashes of parts are right, those of files are not.
    let entries = other.detail["entries"].as_array_mut().unwrap();
    let of =
        |entries: &[serde_json::Value], path: &str| entries.iter().position(|it| it["path"] == path).unwrap();
    let (a, b) = (of(entries, "PG_VERSION"), of(entries, "base/1/PG_VERSION"));
    entries[a]["path"] = "base/1/PG_VERSION2".into();
    entries.swap(a, b);
    let error = load(&store, &other, &parts, &Scratch::new()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let scratch = Scratch::new();
    let whole = load(&store, &dumped, &parts, &scratch).await.unwrap();
    whole.remove().await.unwrap();
}

#[tokio::test]
async fn what_stands_in_the_way_is_said_before() {
    let cluster = Cluster::new(&programs(), &[], &["wal_level=minimal", "max_wal_senders=0"]);
    cluster.sql("postgres", "CREATE ROLE plain LOGIN; CREATE ROLE streams LOGIN REPLICATION");
    let refusals = async |user: &str| {
        let store = store_as(&cluster, user);
        let looked = Store::dump(&store).unwrap().preflight(&ctx(), &Scratch::new().options()).await.unwrap();
        looked.refusals.join("\n")
    };
    let said = refusals("plain").await;
    for expected in ["`plain` may not stream", "`wal_level` is `minimal`", "`max_wal_senders`"] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!refusals("streams").await.contains("may not stream"));
    let error = dump(&store_as(&cluster, "plain")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");

    let closed = Cluster::new(&programs(), &[], &[]);
    let rules = std::fs::read_to_string(closed.data().join("pg_hba.conf")).unwrap();
    let open: Vec<&str> = rules.lines().filter(|line| !line.contains("replication")).collect();
    std::fs::write(closed.data().join("pg_hba.conf"), open.join("\n")).unwrap();
    closed.sql("postgres", "SELECT pg_reload_conf()");
    let store = store(&closed);
    let mut said = String::new();
    // The server reads its rules again when it gets round to it.
    for _ in 0..600 {
        let looked = Store::dump(&store).unwrap().preflight(&ctx(), &Scratch::new().options()).await.unwrap();
        said = looked.refusals.join("\n");
        if !said.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(said.contains("pg_hba.conf"), "{said}");
}

#[tokio::test]
async fn a_program_older_than_the_server_and_none_at_all_are_refused() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    let folder = tempfile::tempdir().unwrap();
    let refusals = async || {
        let url = format!("postgres://127.0.0.1:{}/postgres", cluster.port());
        let mut config = Config::new(&url, LoginConfig { user: "postgres".into(), password_secret: None });
        config.bin_dir = Some(folder.path().to_owned());
        let store =
            store_postgres::open("orders", config, std::path::Path::new("/"), Arc::new(NoSecrets)).unwrap();
        let looked = Store::dump(&store).unwrap().preflight(&ctx(), &Scratch::new().options()).await.unwrap();
        looked.refusals.join("\n")
    };
    assert!(refusals().await.contains("there is no `pg_basebackup`"));
    let old = folder.path().join("pg_basebackup");
    std::fs::write(&old, "#!/bin/sh\necho 'pg_basebackup (PostgreSQL) 12.1'\n").unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = refusals().await;
    assert!(said.contains("`pg_basebackup` 12.1 is older than the server"), "{said}");
}

#[tokio::test]
async fn a_source_that_dies_in_the_middle_gives_no_backup() {
    let mut cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", SHOP);
    let gate = Gate::at(100);
    let run = gate.dump(store(&cluster), BackupMethod::Physical);
    // It waits in the middle until the server is gone.
    gate.reached.notified().await;
    cluster.stop("QUIT");
    gate.go_on.notify_one();
    assert_eq!(run.await.unwrap().unwrap().kind(), ErrorKind::Unavailable);
}
