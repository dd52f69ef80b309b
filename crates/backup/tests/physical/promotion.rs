//! A failover: the project's address leads to the promoted standby, the log and the backups go on.

use backup::Level;
use conformance::Cluster;

use crate::home::{Home, Place, STORE, insert, server};
use crate::trip::Trip;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_the_log_goes_on_and_both_histories_are_restored() {
    let mut primary = server(&[]);
    let standby = Cluster::standby_of(&primary, &[]);
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &primary);
    let home = Home::open(&place, Trip::never()).await;
    home.base(Level::L0).await.unwrap();
    insert(&primary, 1);
    home.follow_once().await;
    drop(home);
    // In good order, so that the standby has everything.
    primary.stop("INT");
    standby.promote();
    let place = Place::again(folder.path(), standby.port(), standby.programs());
    let home = Home::open(&place, Trip::never()).await;
    insert(&standby, 2);
    home.follow_once().await;
    let logs = home.logs().await;
    assert_eq!(logs["chains"][0]["reach"]["timeline"], 2, "{logs:#}");
    assert!(logs["chains"][0]["reach"]["gap"].is_null(), "{logs:#}");
    let count = "SELECT count(*) FROM step";
    assert_eq!(home.restored(STORE, "end", None, count).await.unwrap(), "2");
    assert_eq!(home.restored(STORE, "end", Some(1), count).await.unwrap(), "1");
    home.base(Level::L3).await.unwrap();
    insert(&standby, 3);
    home.follow_once().await;
    let logs = home.logs().await;
    assert_eq!(logs["chains"][0]["start"]["timeline"], 2, "{logs:#}");
    let first = logs["chains"][1]["backup"].as_str().unwrap();
    for backup in [STORE, first] {
        assert_eq!(home.restored(backup, "end", None, count).await.unwrap(), "3", "{backup}");
    }
}
