//! Many writers, some of them killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::process::Child;

use ledger::NewEvent;
use serde_json::json;

use crate::support::{Home, all, child, ctx, event, open, role};

/// Seven writers; each one's events must be there, once, in its order.
fn assert_complete(events: &[ledger::Event], expected: &BTreeMap<String, u64>) {
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event.seq, place as u64 + 1);
    }
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for event in events {
        let body = event.body.as_ref().unwrap();
        let next = found.entry(body["writer"].as_str().unwrap().to_owned()).or_default();
        assert_eq!(body["number"].as_u64().unwrap(), *next, "{body}");
        *next += 1;
    }
    assert_eq!(&found, expected);
}

fn numbered(writer: &str, number: u64) -> NewEvent {
    NewEvent::new("test.numbered", "", json!({ "writer": writer, "number": number }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ledgers_on_one_file_append_at_once_without_loss() {
    let home = Home::new();
    let mut tasks = Vec::new();
    let mut expected = BTreeMap::new();
    for l in 0..3 {
        let ledger = home.open().await;
        for t in 0..3 {
            let name = format!("{l}-{t}");
            expected.insert(name.clone(), 40);
            let ledger = ledger.clone();
            tasks.push(tokio::spawn(async move {
                for number in 0..40 {
                    // Waiting or not, the order of one caller is kept.
                    if (number + t) % 3 == 0 {
                        ledger.append_later(&ctx(), numbered(&name, number));
                    } else {
                        ledger.append(&ctx(), numbered(&name, number)).await.unwrap();
                    }
                }
                ledger.flush().await.unwrap();
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let ledger = home.open().await;
    assert_complete(&all(&ledger).await, &expected);
    let verified = ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!((verified.events, verified.bodies), (360, 360));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ledgers_opened_at_once_make_one_file() {
    for _ in 0..5 {
        let home = Home::new();
        let opened: Vec<_> = (0..6)
            .map(|_| {
                let path = home.path();
                tokio::spawn(
                    async move { open(&path).await.unwrap().append(&ctx(), event(1)).await.unwrap().seq },
                )
            })
            .collect();
        let mut places = Vec::new();
        for ledger in opened {
            places.push(ledger.await.unwrap());
        }
        places.sort_unstable();
        assert_eq!(places, [1, 2, 3, 4, 5, 6]);
    }
}

/// Started by the tests below: appends, says after each what was promised to be durable.
#[test]
fn appending_process() {
    let Some((path, name)) = role() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let ledger = open(&path).await.unwrap();
        let limit = if name.starts_with("endless") { u64::MAX } else { 60 };
        for number in 0..limit {
            ledger.append(&ctx(), numbered(&name, number)).await.unwrap();
            println!("\ndone {number}");
            std::io::stdout().flush().unwrap();
        }
        ledger.close().await.unwrap();
    });
}

fn numbers_done(child: &mut Child) -> impl Iterator<Item = u64> + use<> {
    BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("done ").and_then(|number| number.parse().ok()))
}

#[tokio::test]
async fn processes_append_at_once_without_loss() {
    let home = Home::new();
    let names = ["a", "b", "c"];
    let mut children: Vec<Child> =
        names.iter().map(|name| child("concurrency::appending_process", &home.path(), name)).collect();
    for child in &mut children {
        assert_eq!(numbers_done(child).count(), 60);
        assert!(child.wait().unwrap().success());
    }
    let ledger = home.open().await;
    assert_complete(&all(&ledger).await, &names.iter().map(|name| ((*name).to_owned(), 60)).collect());
    let verified = ledger.verify().await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!(verified.head_seq, Some(180));
}

#[tokio::test]
async fn killed_process_leaves_a_whole_chain_with_every_acknowledged_event() {
    let home = Home::new();
    for round in 0..4 {
        let name = format!("endless{round}");
        let mut child = child("concurrency::appending_process", &home.path(), &name);
        let mut done = numbers_done(&mut child);
        assert_eq!(done.nth(10 + round * 7), Some(10 + round as u64 * 7));
        child.kill().unwrap(); // SIGKILL
        let last = done.last();
        child.wait().unwrap();

        let ledger = home.open().await;
        let verified = ledger.verify().await.unwrap();
        assert!(verified.is_whole(), "round {round}: {verified:?}");
        let there: Vec<u64> = all(&ledger)
            .await
            .iter()
            .filter_map(|event| event.body.clone())
            .filter(|body| body["writer"] == json!(name))
            .map(|body| body["number"].as_u64().unwrap())
            .collect();
        assert_eq!(there, (0..there.len() as u64).collect::<Vec<_>>());
        assert!(
            last.is_none_or(|last| there.len() as u64 > last),
            "round {round}: {last:?} of {}",
            there.len()
        );
    }
}

#[tokio::test]
async fn dropped_ledger_writes_what_is_queued() {
    let home = Home::new();
    let ledger = home.open().await;
    for number in 0..2500 {
        ledger.append_later(&ctx(), numbered("later", number)); // More than the queue holds.
    }
    drop(ledger);
    let ledger = home.open().await;
    assert_complete(&all(&ledger).await, &BTreeMap::from([("later".to_owned(), 2500)]));
    assert!(ledger.verify().await.unwrap().is_whole());
}

/// No fsync at its end either: the log stays where it is.
#[tokio::test]
async fn command_that_only_read_leaves_its_events_in_the_log() {
    let home = Home::with_events(1).await;
    let log = home.path().with_file_name("state.db-wal");
    assert!(!log.exists());
    let head = std::fs::read(home.head()).unwrap();
    for number in 2..=4 {
        let ledger = home.open().await;
        ledger.append_later(&ctx(), event(number));
        ledger.close().await.unwrap();
        assert!(log.metadata().unwrap().len() > 0);
    }
    assert_eq!(std::fs::read(home.head()).unwrap(), head, "the head names only what is durable");
    let ledger = home.open().await;
    assert_eq!(all(&ledger).await.len(), 4);
    assert!(ledger.verify().await.unwrap().is_whole());
}
