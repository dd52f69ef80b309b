//! What is lost when the server is lost with its disk while its log is followed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backup::Level;
use jiff::Timestamp;

use crate::home::{Home, Place, STORE, server, until};
use crate::trip::Trip;

/// Between two rows whose moments are known.
const EVERY: Duration = Duration::from_millis(200);

/// Writes as much as it can.
fn load(url: String, psql: std::path::PathBuf, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            let sql = "INSERT INTO filler SELECT repeat(md5(i::text), 30) FROM generate_series(1, 2000) AS i";
            // It ends in the middle when the server does.
            drop(std::process::Command::new(&psql).args(["-X", "-q", "-d", &url, "-c", sql]).output());
        }
    })
}

/// One server lost with everything: until when its log was said to be kept, and the rows with their moments by its own clock.
async fn once(log_every_s: u32, rows_after: usize) -> f64 {
    let mut server = server(&[]);
    server.sql("postgres", "CREATE TABLE filler (body text)");
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut place = Place::new(folder.path(), &server);
    place.log_every_s = log_every_s;
    let home = Home::open(&place, Trip::never()).await;
    home.base(Level::L0).await.unwrap();
    let following = home.follow();
    let stop = Arc::new(AtomicBool::new(false));
    let loading = load(server.url("postgres"), server.programs().join("psql"), Arc::clone(&stop));
    let mut written: Vec<Timestamp> = Vec::new();
    let kept_until = async || -> Option<Timestamp> {
        home.logs().await["followed"]["until"].as_str().map(|at| at.parse().unwrap())
    };
    // A moment of the load is behind us, and some more rows.
    let mut more = rows_after;
    while more > 0 {
        let next = tokio::time::Instant::now() + EVERY;
        let sql = format!(
            "INSERT INTO step (n) VALUES ({}) RETURNING to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            written.len()
        );
        written.push(server.sql("postgres", &sql).parse().unwrap());
        if kept_until().await.is_some_and(|until| until > written[0]) {
            more -= 1;
        }
        // What is measured are these rows; how many there are is of no matter to what is asserted.
        tokio::time::sleep_until(next).await;
    }
    // At once, with its disk.
    server.stop("KILL");
    let kept = kept_until().await.unwrap();
    stop.store(true, Ordering::SeqCst);
    loading.join().unwrap();
    until("the disk is gone", || async {
        std::fs::remove_dir_all(server.data()).is_ok() || !server.data().exists()
    })
    .await;
    following.end().await;
    drop(home);

    // Another machine has the repository and its key, and nothing else.
    std::fs::copy(folder.path().join("key"), elsewhere.path().join("key")).unwrap();
    std::fs::rename(folder.path().join("backups"), elsewhere.path().join("backups")).unwrap();
    let home = Home::open(&Place::again(elsewhere.path(), place.port, &place.programs), Trip::never()).await;
    home.rebuild().await;
    let newest =
        home.restored(STORE, "end", None, "SELECT max(n) || ' ' || count(*) FROM step").await.unwrap();
    let (last, count) = newest.split_once(' ').unwrap();
    let last: usize = last.parse().unwrap();
    assert_eq!(count, (last + 1).to_string(), "none is missing in between");
    let promised = written.iter().rposition(|at| *at <= kept).unwrap();
    assert!(last >= promised, "{last} came back, and everything up to {promised} was said to be kept");
    written.last().unwrap().duration_since(written[last]).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_to_be_kept_comes_back_when_the_server_is_lost_with_its_disk() {
    if std::env::var_os("STEWARD_TEST_FULL").is_none() {
        once(1, 3).await;
        return;
    }
    for round in 0..4 {
        // With the setting that a plan has by itself, at another moment of the rhythm each time.
        let lost = once(5, 20 + 6 * round).await;
        eprintln!("{lost:.2} seconds of committed rows lost, under load");
    }
}
