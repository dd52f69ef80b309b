//! The log: followed without a gap, repeated in no byte, given up where the server's disk is in danger.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use conformance::Cluster;
use contract::{ErrorKind, LogPosition, LogSpan, RecoveryTarget, Store};

use crate::world::{
    Following, LIMIT, Log, Scratch, caught_up, ctx, dump, position, programs, recover, store, store_abroad,
    until,
};
use store_postgres::PostgresStore;

#[tokio::test]
async fn every_row_comes_back_exactly_at_its_commit() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int)");
    let (store_, folder) = (store(&cluster), tempfile::tempdir().unwrap());
    let (dumped, parts) = dump(&store_).await.unwrap();
    let log = Arc::new(Log::default());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    // Each row with what was true right after its commit.
    let mut steps = Vec::new();
    for n in 1..=4 {
        let said = cluster.sql(
            "postgres",
            &format!(
                "WITH one AS (INSERT INTO step VALUES ({n}) RETURNING 1) SELECT pg_current_xact_id() FROM one"
            ),
        );
        let (time, at) = {
            let both = cluster.sql("postgres", "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || ' ' || pg_current_wal_flush_lsn()");
            let (time, at) = both.split_once(' ').unwrap();
            (time.parse().unwrap(), at.parse().unwrap())
        };
        let point = Store::follow_log(&store_).unwrap().marker(&ctx(), &format!("after-{n}")).await.unwrap();
        assert!(point.position.is_some() && point.timeline == Some(1), "{point:?}");
        steps.push((said.parse::<u64>().unwrap(), time, at));
        if n == 2 {
            cluster.sql("postgres", "SELECT pg_switch_wal()");
        }
    }
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
    for (n, (xid, time, at)) in (1..).zip(&steps) {
        let targets = [
            RecoveryTarget::Transaction(*xid),
            RecoveryTarget::Time(*time),
            RecoveryTarget::Position(*at),
            RecoveryTarget::Marker(format!("after-{n}")),
        ];
        // Each kind of target, and each boundary, without trying all sixteen.
        let target = targets[(n - 1) % 4].clone();
        let scratch = Scratch::new();
        let (restored, rows) =
            recover(&store_, &dumped, &parts, &log, &scratch, (target.clone(), 1)).await.unwrap();
        assert_eq!(rows, format!("postgres.public.step={n}"), "{target}");
        assert!(restored.reached().unwrap().position.is_some());
        restored.remove().await.unwrap();
    }
    let last = steps.last().unwrap();
    for target in [RecoveryTarget::Time(last.1), RecoveryTarget::Position(last.2), RecoveryTarget::End] {
        let scratch = Scratch::new();
        let (restored, rows) =
            recover(&store_, &dumped, &parts, &log, &scratch, (target.clone(), 1)).await.unwrap();
        assert_eq!(rows, "postgres.public.step=4", "{target}");
        restored.remove().await.unwrap();
    }
    for target in [RecoveryTarget::Marker("never-set".into()), RecoveryTarget::Transaction(last.0 + 1_000)] {
        let scratch = Scratch::new();
        let error =
            recover(&store_, &dumped, &parts, &log, &scratch, (target.clone(), 1)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{target}: {error}");
    }
}

#[tokio::test]
async fn interruptions_lose_nothing_and_repeat_nothing() {
    let mut cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (dumped, parts) = dump(&store(&cluster)).await.unwrap();
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    for round in 0..3 {
        let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
        cluster.sql("postgres", &fill(round));
        caught_up(&cluster, &log, 1).await;
        // What was not handed over before the end is in the folder or in the slot.
        log.is_away.store(true, Ordering::SeqCst);
        cluster.sql("postgres", &fill(round + 10));
        following.end().await;
        log.is_away.store(false, Ordering::SeqCst);
        match round {
            0 => {
                cluster.stop("QUIT");
                cluster.start();
            }
            // Another machine: nothing but the repository is known.
            1 => std::fs::remove_dir_all(folder.path().join("received")).unwrap(),
            _ => {}
        }
    }
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    cluster.stop("QUIT");
    cluster.start();
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
    let pieces = log.kept();
    for pair in pieces.windows(2) {
        assert_eq!(pair[0].span.end, pair[1].span.start, "{pair:#?}");
    }
    let scratch = Scratch::new();
    let (restored, rows) =
        recover(&store(&cluster), &dumped, &parts, &log, &scratch, (RecoveryTarget::End, 1)).await.unwrap();
    assert_eq!(rows, "postgres.public.step=12000");
    restored.remove().await.unwrap();
}

/// 2,000 rows, of somewhat more than a million bytes of log.
pub(crate) fn fill(n: u32) -> String {
    format!("INSERT INTO step SELECT {n}, repeat('x', 500) FROM generate_series(1, 2000)")
}

fn slots(cluster: &Cluster) -> String {
    cluster.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'steward%'")
}

/// Writes two files of the log that the server needs no more for itself.
pub(crate) fn write_much(cluster: &Cluster) {
    for n in 0..2 {
        cluster.sql("postgres", &format!("INSERT INTO step VALUES (1, '{n}'); SELECT pg_switch_wal()"));
    }
    cluster.sql("postgres", "CHECKPOINT");
}

#[tokio::test]
async fn the_slot_gives_way_before_the_servers_disk_fills() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    let before = caught_up(&cluster, &log, 1).await;
    following.end().await;
    assert_eq!(slots(&cluster), "1");
    // Nobody follows, and the server writes more than it may keep for us.
    write_much(&cluster);
    let following = Following::start(store(&cluster), &log, folder.path(), 1 << 20);
    until("the gap is told", || !log.gaps.lock().unwrap().is_empty()).await;
    // It goes on behind the gap with a slot of its own, once and for all.
    cluster.sql("postgres", "INSERT INTO step VALUES (2, '')");
    let after = caught_up(&cluster, &log, 1).await;
    following.end().await;
    let gaps = log.gaps.lock().unwrap().clone();
    let [gap] = &gaps[..] else { panic!("{gaps:#?}") };
    assert!(gap.why.contains("over the limit of 1048576"), "{gap:#?}");
    assert!(gap.after.is_some_and(|it| it >= before) && gap.before.is_some_and(|it| it <= after), "{gap:#?}");
    // Also when it begins anew with nothing but the repository: what it had before the gap is not asked for again.
    let following = Following::start(store(&cluster), &log, folder.path(), 1 << 20);
    cluster.sql("postgres", "INSERT INTO step VALUES (3, '')");
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    assert_eq!(log.gaps.lock().unwrap().len(), 1);
    assert_eq!(slots(&cluster), "1");
    Store::follow_log(&store(&cluster)).unwrap().unfollow(&ctx(), "steward_shop_orders").await.unwrap();
    assert_eq!(slots(&cluster), "0");
}

#[tokio::test]
async fn what_was_received_before_a_gap_is_handed_over_after_it() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    caught_up(&cluster, &log, 1).await;
    log.is_away.store(true, Ordering::SeqCst);
    cluster.sql("postgres", "INSERT INTO step VALUES (1, '')");
    let received = position(&cluster);
    until("it is received", || {
        let noted = std::fs::read_to_string(folder.path().join("received.flushed")).unwrap_or_default();
        noted.parse::<LogPosition>().is_ok_and(|noted| noted >= received)
    })
    .await;
    following.end().await;
    assert!(log.end(1) < received);
    // The repository is still away, the folder may take no more, and the server must not keep everything for us.
    write_much(&cluster);
    let following = Following::start(store(&cluster), &log, folder.path(), 1 << 20);
    until("the gap is told", || !log.gaps.lock().unwrap().is_empty()).await;
    log.is_away.store(false, Ordering::SeqCst);
    cluster.sql("postgres", "INSERT INTO step VALUES (2, '')");
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    let before = log.gaps.lock().unwrap()[0].before.unwrap();
    let spans: Vec<LogSpan> = log.kept().into_iter().map(|piece| piece.span).collect();
    let reached = spans.iter().filter(|span| span.start < before).map(|span| span.end).max().unwrap();
    assert!(reached >= received, "{spans:#?}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_str().unwrap().starts_with("aside")), "{left:?}");
}

#[tokio::test]
async fn a_log_that_the_server_has_no_more_is_a_gap_that_is_told_once() {
    no_more(store).await;
}

#[tokio::test]
async fn a_log_that_the_server_has_no_more_is_a_gap_in_every_language() {
    let programs = tempfile::tempdir().unwrap();
    let gap = no_more(|cluster| store_abroad(cluster, programs.path())).await;
    assert!(gap.contains("wurde schon entfernt"), "{gap}");
}

/// What is told of the gap.
async fn no_more(store: impl Fn(&Cluster) -> PostgresStore) -> String {
    let cluster = Cluster::new(&programs(), &[], &["max_wal_size=32MB", "min_wal_size=32MB"]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    // Somebody takes the slot away, and the server forgets.
    until("the slot is gone", || {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
        cluster.sql("postgres", drop);
        cluster.sql("postgres", "SELECT count(*) FROM pg_replication_slots") == "0"
    })
    .await;
    let first = cluster.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())");
    until("the server has forgotten", || {
        cluster.sql("postgres", "INSERT INTO step VALUES (1, ''); SELECT pg_switch_wal()");
        cluster.sql("postgres", "CHECKPOINT");
        !cluster.data().join("pg_wal").join(&first).exists()
    })
    .await;
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    until("the gap is told", || !log.gaps.lock().unwrap().is_empty()).await;
    following.end().await;
    // Whoever hears of it ends it and follows again, as the daemon does.
    for _ in 0..2 {
        let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
        cluster.sql("postgres", "INSERT INTO step VALUES (2, '')");
        caught_up(&cluster, &log, 1).await;
        following.end().await;
    }
    let gaps = log.gaps.lock().unwrap().clone();
    assert!(gaps.len() == 1 && gaps[0].why.contains("has no more of its log"), "{gaps:#?}");
    gaps[0].why.clone()
}

#[tokio::test]
async fn nothing_is_handed_over_that_was_not_received() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int)");
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    for round in 0..3 {
        let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
        cluster.sql("postgres", &format!("INSERT INTO step VALUES ({round})"));
        caught_up(&cluster, &log, 1).await;
        following.end().await;
        if round == 0 {
            // The program is then told by an empty file where to go on, which nobody may take for a part of the log.
            std::fs::remove_dir_all(folder.path().join("received")).unwrap();
        }
    }
    let pieces = log.pieces.lock().unwrap();
    for (span, body) in pieces.iter() {
        assert!(span.start.0 >= 16 << 20 || span.file.ends_with('1'), "{span:?}");
        assert!(body.iter().any(|byte| *byte != 0), "{span:?}");
    }
    for pair in pieces.windows(2) {
        assert_eq!(pair[0].0.end, pair[1].0.start, "{pair:?}");
    }
}

#[tokio::test]
async fn a_program_that_is_killed_is_started_again() {
    let cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int)");
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    caught_up(&cluster, &log, 1).await;
    let killed = receiver(folder.path()).unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &killed]).status().unwrap().success());
    cluster.sql("postgres", "INSERT INTO step VALUES (1)");
    caught_up(&cluster, &log, 1).await;
    until("another one is at work", || receiver(folder.path()).is_some_and(|now| now != killed)).await;
    following.end().await;
    until("none is left", || receiver(folder.path()).is_none()).await;
    assert_eq!(*log.gaps.lock().unwrap(), []);
}

/// The number of the process that receives into this folder.
fn receiver(folder: &std::path::Path) -> Option<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        program.ends_with(b"pg_receivewal")
            && words.any(|word| word.starts_with(folder.as_os_str().as_encoded_bytes()))
    });
    found.next().map(|entry| entry.file_name().into_string().unwrap())
}

#[tokio::test]
async fn a_slot_that_could_fill_the_disk_is_not_made() {
    let cluster = Cluster::new(&programs(), &[], &["max_slot_wal_keep_size=-1"]);
    let store = store(&cluster);
    let folder = tempfile::tempdir().unwrap();
    let looked = async |unlimited| {
        let options = contract::FollowOptions {
            slot: "steward_shop_orders".into(),
            folder: folder.path().to_owned(),
            every: std::time::Duration::from_secs(1),
            retained_bytes_max: LIMIT,
            unlimited,
            kept: Vec::new(),
        };
        let looked = Store::follow_log(&store).unwrap().preflight(&ctx(), &options).await.unwrap();
        [looked.refusals, looked.warnings, looked.notes].map(|said| said.join("\n"))
    };
    let line = "ALTER SYSTEM SET max_slot_wal_keep_size = '8GB'";
    let [refusals, warnings, notes] = looked(false).await;
    assert!(refusals.contains(line) && refusals.contains("log_unlimited"), "{refusals}");
    assert_eq!((warnings.as_str(), notes.as_str()), ("", ""));
    let [refusals, warnings, notes] = looked(true).await;
    assert!(
        refusals.is_empty() && warnings.is_empty() && notes.contains(line),
        "{refusals} {warnings} {notes}"
    );
    // A slot that is there is followed, or it would fill the disk sooner.
    cluster.sql("postgres", "SELECT pg_create_physical_replication_slot('steward_shop_orders', true)");
    let [refusals, warnings, notes] = looked(false).await;
    assert!(
        refusals.is_empty() && warnings.contains(line) && notes.is_empty(),
        "{refusals} {warnings} {notes}"
    );
    // The line is one that the server takes.
    cluster.sql("postgres", line);
}

#[tokio::test]
async fn a_restored_server_takes_the_place_of_its_source_by_the_lines_that_are_printed() {
    let mut cluster = Cluster::new(&programs(), &[], &[]);
    cluster.sql("postgres", "CREATE TABLE step (n int, filler text)");
    cluster.sql("postgres", "ALTER SYSTEM SET work_mem = '7MB'");
    let (dumped, parts) = dump(&store(&cluster)).await.unwrap();
    let (log, folder) = (Arc::new(Log::default()), tempfile::tempdir().unwrap());
    let following = Following::start(store(&cluster), &log, folder.path(), LIMIT);
    cluster.sql("postgres", &fill(1));
    let moment = position(&cluster);
    cluster.sql("postgres", &fill(2));
    caught_up(&cluster, &log, 1).await;
    following.end().await;
    let (scratch, store) = (Scratch::new(), store(&cluster));
    let (mut restored, _) =
        recover(&store, &dumped, &parts, &log, &scratch, (RecoveryTarget::Position(moment), 1))
            .await
            .unwrap();
    let (lines, take_away) = (restored.take_over(), restored.keep());
    drop(restored);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    cluster.stop("INT");
    for line in &lines {
        let ran = std::process::Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(ran.status.success(), "{line}: {ran:?}");
    }
    // With its own configuration and settings, in the place of the one that was stopped.
    let data = scratch.0.path().join("copy/server/data");
    let (data, port) = (data.to_str().unwrap(), cluster.port());
    let options = format!("-p {port} -h 127.0.0.1 -c unix_socket_directories=");
    let log_file = scratch.0.path().join("log");
    let log_file = log_file.to_str().unwrap();
    let started = cluster.program("pg_ctl", &["-D", data, "-w", "-l", log_file, "-o", &options, "start"]);
    assert!(started.status.success(), "{}", std::fs::read_to_string(log_file).unwrap_or_default());
    let said = cluster.sql(
        "postgres",
        "SELECT count(*) || ' ' || current_setting('work_mem') || ' ' || current_setting('fsync') FROM step",
    );
    cluster.sql("postgres", "INSERT INTO step VALUES (3, '')");
    let ended = cluster.program("pg_ctl", &["-D", data, "-m", "fast", "-w", "stop"]);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(said, "2000 7MB on");
    assert!(take_away.contains(data.strip_suffix("/data").unwrap()), "{take_away}");
}
