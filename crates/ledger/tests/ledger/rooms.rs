//! What rooms use: writes, queries, generations, leases, evidence, events.

use std::sync::Arc;
use std::time::Duration;

use contract::{Actor, Context, ErrorKind, Evidence, TestClock};
use jiff::Timestamp;
use ledger::{EventFilter, NewEvent, Value, Write};
use serde_json::json;

use crate::support::{Home, all, ctx, event, open_read_only};

const ADD_JOB: &str = "INSERT INTO jobs (project, name, request, arguments) VALUES (?, ?, ?, ?)";

fn job(name: &str) -> Vec<Value> {
    vec!["shop".into(), name.into(), "store.check".into(), "{}".into()]
}

#[tokio::test]
async fn write_happens_as_a_whole_or_not_at_all() {
    let home = Home::new();
    let ledger = home.open().await;
    let write = Write::new().exec(ADD_JOB, job("a")).event(event(1)).event(event(2)).bump("jobs");
    let written = ledger.write(&ctx(), write).await.unwrap();
    assert_eq!(written.rows_changed, [1, 1]);
    assert_eq!(written.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(written.events, all(&ledger).await);

    let update = "UPDATE jobs SET last_status = ? WHERE name = ?";
    let cases = [
        (Write::new().exec(ADD_JOB, job("a")), ErrorKind::AlreadyExists),
        (Write::new().exec_expecting(update, vec!["done".into(), "none".into()], 1), ErrorKind::Conflict),
        (Write::new().exec("INSERT INTO jobs (project) VALUES (?)", vec![Value::Null]), ErrorKind::Conflict),
        (Write::new().exec("INSERT INTO nothing VALUES (1)", vec![]), ErrorKind::Other),
        (Write::new().exec("UPDATE events SET kind = 'x'", vec![]), ErrorKind::Conflict),
        (Write::new().exec("DELETE FROM bodies", vec![]), ErrorKind::Conflict),
    ];
    for (write, kind) in cases {
        let write = write.exec(ADD_JOB, job("half")).bump("jobs").event(event(3));
        assert_eq!(ledger.write(&ctx(), write).await.unwrap_err().kind(), kind);
    }
    let rows =
        ledger.query("SELECT name, last_us FROM jobs WHERE project = ?", vec!["shop".into()]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get_text("name").unwrap(), "a");
    assert_eq!(rows[0].get_opt_i64("last_us").unwrap(), None);
    assert_eq!(rows[0].get_i64("name").unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(rows[0].get_text("nome").unwrap_err().kind(), ErrorKind::Other);
    assert_eq!(ledger.generation("jobs").await.unwrap(), 1);
    assert_eq!(ledger.generation("people").await.unwrap(), 0);
    assert_eq!(all(&ledger).await.len(), 2);
    assert!(ledger.verify().await.unwrap().is_whole());
}

/// A failing write that shares its transaction with others takes none of them along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_write_leaves_its_neighbours_alone() {
    let home = Home::new();
    let ledger = home.open().await;
    let tasks: Vec<_> = (0..200u64)
        .map(|i| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let write = Write::new().event(event(i));
                let write =
                    if i % 3 == 0 { write.exec_expecting("DELETE FROM jobs", vec![], 1) } else { write };
                ledger.write(&ctx(), write).await.is_ok()
            })
        })
        .collect();
    let mut written = 0;
    for (i, task) in tasks.into_iter().enumerate() {
        let ok = task.await.unwrap();
        assert_eq!(ok, i % 3 != 0, "{i}");
        written += u64::from(ok);
    }
    let verified = ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!(verified.events, written);
}

#[tokio::test]
async fn queries_cannot_write() {
    let home = Home::new();
    let ledger = home.open().await;
    let error = ledger.query("DELETE FROM meta RETURNING name", vec![]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(ledger.query("SELECT name FROM meta", vec![]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn events_are_filtered() {
    let home = Home::new();
    let ledger = home.open().await;
    let other = Context::new("other", Actor::local()).with_task("t1");
    for (ctx, kind) in
        [(&ctx(), "index.create"), (&other, "index.drop"), (&other, "store.read"), (&ctx(), "index_x")]
    {
        ledger.append(ctx, NewEvent::new(kind, "store:a", json!({}))).await.unwrap();
    }
    let cases = [
        (EventFilter::default(), vec![1, 2, 3, 4]),
        (EventFilter::project("shop"), vec![1, 4]),
        (EventFilter::default().kind("index."), vec![1, 2]),
        (EventFilter::default().kind("index"), vec![1, 2, 4]),
        (EventFilter::project("other").kind("store.read"), vec![3]),
        (EventFilter::default().task("t1"), vec![2, 3]),
        (EventFilter::default().newest().limit(2), vec![4, 3]),
        (EventFilter { after_seq: 2, ..EventFilter::default() }, vec![3, 4]),
        (EventFilter { subject: Some("store:b".into()), ..EventFilter::default() }, vec![]),
        (EventFilter { since: Some(Timestamp::MAX), ..EventFilter::default() }, vec![]),
        (EventFilter { until: Some(Timestamp::MAX), ..EventFilter::default() }, vec![1, 2, 3, 4]),
    ];
    for (filter, expected) in cases {
        let found = ledger.events(filter.clone()).await.unwrap();
        assert_eq!(found.iter().map(|event| event.seq).collect::<Vec<_>>(), expected, "{filter:?}");
        let (lines, mut inbox) = tokio::sync::mpsc::unbounded_channel();
        let exported = ledger
            .export(filter, move |line| {
                lines.send(line.to_owned()).unwrap();
                Ok(())
            })
            .await
            .unwrap();
        let mut read = Vec::new();
        while let Some(line) = inbox.recv().await {
            read.push(serde_json::from_str::<ledger::Event>(&line).unwrap());
        }
        assert_eq!((exported, read), (found.len() as u64, found));
    }
}

#[tokio::test]
async fn one_holder_has_a_lease_until_it_expires() {
    let home = Home::new();
    let (a, b) = (home.open().await, home.open().await);
    let clock = Arc::new(TestClock::at("2026-03-01T00:00:00Z".parse().unwrap()));
    let ctx = ctx().with_clock(clock.clone());
    let minute = Duration::from_mins(1);

    let first = a.acquire_lease(&ctx, "scheduler", minute).await.unwrap().unwrap();
    assert_eq!(b.acquire_lease(&ctx, "scheduler", minute).await.unwrap(), None);
    assert_eq!(a.acquire_lease(&ctx, "scheduler", minute).await.unwrap(), None);
    let elsewhere = Context::new("other", Actor::local()).with_clock(clock.clone());
    assert!(b.acquire_lease(&elsewhere, "scheduler", minute).await.unwrap().is_some());

    clock.advance_us(50_000_000);
    let first = a.renew_lease(&ctx, &first, minute).await.unwrap();
    clock.advance_us(50_000_000);
    assert_eq!(b.lease(&ctx, "scheduler").await.unwrap().as_ref(), Some(&first));
    clock.advance_us(10_000_000);
    assert_eq!(b.lease(&ctx, "scheduler").await.unwrap(), None);
    let second = b.acquire_lease(&ctx, "scheduler", minute).await.unwrap().unwrap();
    assert_eq!(a.renew_lease(&ctx, &first, minute).await.unwrap_err().kind(), ErrorKind::Conflict);
    a.release_lease(&ctx, &first).await.unwrap();
    assert_eq!(a.lease(&ctx, "scheduler").await.unwrap().as_ref(), Some(&second));
    b.release_lease(&ctx, &second).await.unwrap();
    assert!(a.acquire_lease(&ctx, "scheduler", minute).await.unwrap().is_some());
}

#[tokio::test]
async fn evidence_with_any_float_is_read_again() {
    let home = Home::new();
    let ledger = home.open().await;
    // Measured times have all their digits, and not each of these is read back to its last bit.
    let floats: Vec<f64> = (1..2_000).map(|n| f64::from(n).sqrt() * f64::from(n).ln()).collect();
    let kept: Vec<Evidence> = floats
        .iter()
        .map(|float| {
            Evidence::new(
                "store:orders",
                "EXPLAIN",
                json!({ "p95_ms": float }),
                Timestamp::UNIX_EPOCH,
                *float,
            )
        })
        .collect();
    ledger.add_evidence(&ctx(), "store.measure", &kept).await.unwrap();
    for (kept, float) in kept.iter().zip(floats) {
        let read = ledger.evidence("shop", &kept.id).await.unwrap().unwrap();
        let p95_ms = read.answer["p95_ms"].as_f64().unwrap();
        assert!((p95_ms - float).abs() <= float * f64::EPSILON, "{float} was read as {p95_ms}");
    }
}

#[tokio::test]
async fn evidence_is_kept_sealed_and_its_digest_chained() {
    let home = Home::new();
    let ledger = home.open().await;
    let answer = json!([{ "email": "anna@example.org", "share": 0.25 }]);
    let taken = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
    let kept = Evidence::new("store:orders", "SELECT email FROM customers", answer, taken, 1.75);
    ledger.add_evidence(&ctx(), "store.query", std::slice::from_ref(&kept)).await.unwrap();
    assert_eq!(ledger.evidence("shop", &kept.id).await.unwrap(), Some(kept.clone()));
    assert_eq!(ledger.evidence("other", &kept.id).await.unwrap(), None);
    ledger.add_evidence(&ctx(), "store.query", std::slice::from_ref(&kept)).await.unwrap();
    assert_eq!(ledger.flush().await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    ledger.flush().await.unwrap();
    let events = all(&ledger).await;
    assert_eq!((events.len(), events[0].kind.as_str()), (1, "evidence.recorded"));
    assert_eq!(events[0].body.as_ref().unwrap()["evidence"][0]["id"], json!(kept.id));
    assert!(ledger.verify().await.unwrap().is_whole());
    ledger.close().await.unwrap();
    let file = std::fs::read(home.path()).unwrap();
    assert!(!file.windows(4).any(|bytes| bytes == b"anna"), "the answer lies open in the file");

    for (column, value) in
        [("statement", "'SELECT 1'"), ("elapsed_us", "1"), ("answer", "x'00'"), ("source", "'store:x'")]
    {
        let copy = home.copy();
        copy.raw().execute_batch(&format!("UPDATE evidence SET {column} = {value}")).unwrap();
        let error = copy.open().await.evidence("shop", &kept.id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{column}");
    }
}

#[tokio::test]
async fn read_only_ledger_reads_and_refuses_to_write() {
    let home = Home::with_events(3).await;
    let ledger = open_read_only(&home.path()).await.unwrap();
    assert_eq!(all(&ledger).await.len(), 3);
    assert!(ledger.verify().await.unwrap().is_whole());
    assert_eq!(ledger.append(&ctx(), event(4)).await.unwrap_err().kind(), ErrorKind::Denied);
    let nowhere = Home::new();
    assert_eq!(open_read_only(&nowhere.path()).await.err().unwrap().kind(), ErrorKind::NotFound);
    assert!(!nowhere.path().exists());
}

#[tokio::test]
async fn only_the_owner_may_look_at_the_state() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let ledger = home.open().await;
    ledger.append(&ctx(), event(1)).await.unwrap();
    let directory = home.path().parent().unwrap().to_owned();
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for file in std::fs::read_dir(directory).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
    }
}
