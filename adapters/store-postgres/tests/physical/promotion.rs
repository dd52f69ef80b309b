//! Standbys that are promoted: under a dump, under a base backup, and under whoever follows their log.

use std::sync::Arc;

use conformance::Cluster;
use contract::{BackupMethod, ErrorKind, RecoveryTarget};

use crate::world::{Following, Gate, LIMIT, Log, SHOP, Scratch, caught_up, dump, programs, recover, store};

#[tokio::test]
async fn a_standby_that_is_promoted_in_the_middle_gives_no_backup() {
    for (method, part) in [(BackupMethod::Physical, 100), (BackupMethod::Logical, 1)] {
        let primary = Cluster::new(&programs(), &[], &[]);
        primary.sql("postgres", SHOP);
        let standby = Cluster::standby_of(&primary, &[]);
        let gate = Gate::at(part);
        let run = gate.dump(store(&standby), method);
        gate.reached.notified().await;
        standby.promote();
        standby.sql(
            "postgres",
            "INSERT INTO orders SELECT i, 'of the other' FROM generate_series(10000, 10100) AS i",
        );
        gate.go_on.notify_one();
        let error = run.await.unwrap().unwrap_or_else(|| panic!("{method:?}: there is a backup"));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{method:?}: {error:?}");
        assert!(error.to_string().contains("promoted"), "{method:?}: {error:?}");
        // What it is then is backed up as such.
        if method == BackupMethod::Physical {
            let (dumped, _) = dump(&store(&standby)).await.unwrap();
            assert_eq!(dumped.point.timeline, Some(2));
        }
    }
}

#[tokio::test]
async fn a_promoted_standby_is_followed_onto_its_timeline() {
    let mut primary = Cluster::new(&programs(), &[], &[]);
    primary.sql("postgres", "CREATE TABLE step (n int)");
    let standby = Cluster::standby_of(&primary, &[]);
    let (dumped, parts) = dump(&store(&primary)).await.unwrap();
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    // The standby is followed all the time, as an address that moves with the primary would be.
    let following = Following::start(store(&standby), &log, folder.path(), LIMIT);
    primary.sql("postgres", "INSERT INTO step VALUES (1)");
    let before = caught_up(&primary, &log, 1).await;
    primary.stop("INT");
    standby.promote();
    standby.sql("postgres", "INSERT INTO step VALUES (2)");
    caught_up(&standby, &log, 2).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
    let pieces = log.kept();
    let branch = pieces.iter().find(|piece| piece.span.parent == Some(1)).unwrap();
    assert_eq!((branch.span.timeline, branch.span.file.as_str()), (2, "00000002.history"));
    assert!(branch.span.start >= before);
    let store = store(&standby);
    for (target, timeline, rows) in [
        (RecoveryTarget::End, 2, "postgres.public.step=2"),
        (RecoveryTarget::Position(branch.span.start), 2, "postgres.public.step=1"),
        (RecoveryTarget::End, 1, "postgres.public.step=1"),
    ] {
        let scratch = Scratch::new();
        let (restored, found) =
            recover(&store, &dumped, &parts, &log, &scratch, (target.clone(), timeline)).await.unwrap();
        assert_eq!(found, rows, "{target} on {timeline}");
        restored.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_standby_that_had_not_everything_leads_onto_its_timeline_all_the_same() {
    let mut primary = Cluster::new(&programs(), &[], &[]);
    primary.sql("postgres", "CREATE TABLE step (n int)");
    let mut standby = Cluster::standby_of(&primary, &[]);
    let (dumped, parts) = dump(&store(&primary)).await.unwrap();
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&primary), &log, folder.path(), LIMIT);
    primary.sql("postgres", "INSERT INTO step VALUES (1)");
    standby.stop("INT");
    // Several files of the log more, which only the primary had, and the repository.
    for n in 2..=4 {
        primary.sql("postgres", &format!("INSERT INTO step VALUES ({n}); SELECT pg_switch_wal()"));
    }
    let before = caught_up(&primary, &log, 1).await;
    primary.stop("QUIT");
    following.end().await;
    standby.start();
    standby.promote();
    let following = Following::start(store(&standby), &log, folder.path(), LIMIT);
    standby.sql("postgres", "INSERT INTO step VALUES (5)");
    caught_up(&standby, &log, 2).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
    let pieces = log.kept();
    let branch = pieces.iter().find(|piece| piece.span.parent == Some(1)).unwrap();
    assert!(branch.span.start < before);
    let store = store(&standby);
    // The first row may have been too late for the standby that was stopped right behind it.
    let of_standby = standby.sql("postgres", "SELECT count(*) FROM step");
    for (timeline, rows) in [(2, of_standby), (1, "4".to_owned())] {
        let scratch = Scratch::new();
        let (restored, found) =
            recover(&store, &dumped, &parts, &log, &scratch, (RecoveryTarget::End, timeline)).await.unwrap();
        assert_eq!(found, format!("postgres.public.step={rows}"), "on {timeline}");
        restored.remove().await.unwrap();
    }
}
