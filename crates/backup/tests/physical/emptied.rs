//! Rows that vanished from a server whose files are copied.

use backup::{Level, ListBackups};
use contract::Trigger;

use crate::home::{Home, Place, server};
use crate::trip::Trip;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_emptied_is_missed_in_the_restored_copy() {
    let cluster = server(&[]);
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(&Place::new(folder.path(), &cluster), Trip::never()).await;
    cluster.sql("postgres", "INSERT INTO step (n) SELECT i FROM generate_series(1, 5000) AS i");
    let first = home.base(Level::L3).await.unwrap();
    assert!(first.findings.iter().all(|it| it.code != "backup_suspicious"), "{}", first.text);
    cluster.sql("postgres", "TRUNCATE step");
    // Not by one night: what is as empty as the one before is compared with the last that was not.
    for night in 0..2 {
        let odd = home.base(Level::L3).await.unwrap();
        let found: Vec<_> = odd.findings.iter().filter(|it| it.code == "backup_suspicious").collect();
        assert_eq!(found.len(), 1, "night {night}: {}", odd.text);
        assert_eq!(found[0].escalate, Some(Trigger::DataLossRisk));
        assert!(
            found[0].title.contains("empty now: postgres.public.step (had 5,000 rows)"),
            "{}",
            found[0].title
        );
    }
    let listed = backup::list(&home.ctx(), &*home, &ListBackups::default()).await.unwrap();
    assert_eq!(listed.text.matches("; SUSPICIOUS").count(), 2, "{}", listed.text);
}
