//! A gap in the log: told to whoever must hear of it, followed by a base backup, and by a log without a gap.

use std::sync::Arc;

use backup::{Level, base_wanted};
use conformance::Cluster;
use contract::{Clock, Severity, TestClock, Trigger};

use crate::home::{Home, Place, STORE, insert, server, until};
use crate::trip::Trip;

/// Takes the slot away and lets the server forget its log.
async fn forget(server: &Cluster) {
    until("the slot is gone", || async {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
        server.sql("postgres", drop);
        server.sql("postgres", "SELECT count(*) FROM pg_replication_slots") == "0"
    })
    .await;
    let first = server.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())");
    let file = server.data().join("pg_wal").join(first);
    until("the server has forgotten", || async {
        server.sql("postgres", "SELECT pg_logical_emit_message(true, 'a', 'b'); SELECT pg_switch_wal()");
        server.sql("postgres", "CHECKPOINT");
        !file.exists()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told_and_a_base_backup_is_wanted_behind_it() {
    let server = server(&["max_wal_size=32MB", "min_wal_size=32MB"]);
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(&Place::new(folder.path(), &server), Trip::never()).await;
    home.base(Level::L0).await.unwrap();
    insert(&server, 1);
    home.follow_once().await;
    assert_eq!(base_wanted(&home.ctx(), &*home, STORE).await.unwrap(), None);
    forget(&server).await;

    let ended = home.follow().task.await.unwrap().unwrap();
    let [finding] = &ended.findings[..] else { panic!("{:#?}", ended.findings) };
    assert_eq!((finding.code.as_str(), finding.severity), ("backup_log_gap", Severity::Critical));
    assert_eq!(finding.escalate, Some(Trigger::DataLossRisk));
    let why = base_wanted(&home.ctx(), &*home, STORE).await.unwrap().unwrap();
    assert!(why.contains("orders: ") && why.contains("no more of its log"), "{why}");
    // The log goes on meanwhile, and tells of no gap again.
    insert(&server, 2);
    home.follow_once().await;
    assert!(base_wanted(&home.ctx(), &*home, STORE).await.unwrap().is_some());

    // One that fails is made again after a while that grows.
    let failing =
        Home::open(&Place::again(folder.path(), server.port(), server.programs()), Trip::full_at("put:0"))
            .await;
    failing.base(Level::L0).await.unwrap_err();
    let later = |seconds: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        home.ctx().with_clock(Arc::new(TestClock::at(at)) as Arc<dyn Clock>)
    };
    assert_eq!(base_wanted(&home.ctx(), &*home, STORE).await.unwrap(), None);
    assert!(base_wanted(&later(31), &*home, STORE).await.unwrap().is_some());
    let failing =
        Home::open(&Place::again(folder.path(), server.port(), server.programs()), Trip::full_at("put:0"))
            .await;
    failing.base(Level::L0).await.unwrap_err();
    assert_eq!(base_wanted(&later(31), &*home, STORE).await.unwrap(), None);
    assert!(base_wanted(&later(100), &*home, STORE).await.unwrap().is_some());

    home.base(Level::L0).await.unwrap();
    assert_eq!(base_wanted(&later(100), &*home, STORE).await.unwrap(), None);
    insert(&server, 3);
    home.follow_once().await;
    let logs = home.logs().await;
    let chains = logs["chains"].as_array().unwrap();
    assert!(chains[0]["reach"]["gap"].is_null() && chains[1]["reach"]["gap"].is_object(), "{logs:#}");
    let count = "SELECT count(*) FROM step";
    assert_eq!(home.restored(STORE, "end", None, count).await.unwrap(), "3");
    let first = chains[1]["backup"].as_str().unwrap();
    assert_eq!(home.restored(first, "end", None, count).await.unwrap(), "1", "up to the gap");
}
