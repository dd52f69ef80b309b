//! A place that fails at any moment: the backup is whole or was never one, and those before it stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use contract::{BackupLabel, CheckDepth, Committed, ErrorKind, Layout, Part, PartBody, Repository};
use jiff::Timestamp;

use super::home::{Answer, Call, Home, cases, listed, manifest, noise};
use crate::error::FaultKind;
use crate::repository::ResticRepository;

/// Fails the `nth` call that fits, counted from 0; gives how many fitted.
fn fail_nth(
    home: &Home,
    nth: usize,
    fits: impl Fn(&Call) -> bool + Send + 'static,
    after: bool,
) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    home.judge(move |call| {
        if !fits(call) || counter.fetch_add(1, Ordering::SeqCst) != nth {
            return Answer::Do;
        }
        if after { Answer::DoAndFail(FaultKind::Full) } else { Answer::Fail(FaultKind::Full) }
    });
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_call_leaves_all_or_nothing() {
    let mut runs = 0;
    let each_max = usize::try_from(cases(3, 1000)).unwrap();
    for what in ["create", "list", "read", "remove"] {
        for folder in ["data", "index", "snapshots", "locks", "config"] {
            for after in [false, true] {
                for nth in 0..each_max {
                    let home = Home::new();
                    let repository = home.created().await;
                    home.write(&repository, 1).await.unwrap();
                    let fits = move |call: &Call| call.what == what && call.folder == folder;
                    let seen = fail_nth(&home, nth, fits, after);
                    let written = home.write(&repository, 2).await;
                    let reached = seen.load(Ordering::SeqCst) > nth;
                    home.calm();
                    runs += 1;
                    let case = format!("{what} {folder} {nth}, done before it failed: {after}");
                    let kept = home.kept(&repository).await;
                    let ids: Vec<_> = kept.iter().filter_map(|kept| kept.id.as_deref()).collect();
                    match &written {
                        Ok(_) => assert_eq!(ids, ["1", "2"], "{case}"),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{case}: {error}");
                            // The record may be there although its writer was told that it is not.
                            let unsure = after && what == "create" && folder == "snapshots";
                            assert!(ids == ["1"] || unsure, "{case}: {ids:?}");
                        }
                    }
                    for one in &kept {
                        home.restores(&repository, one)
                            .await
                            .unwrap_or_else(|error| panic!("{case}: {error}"));
                    }
                    let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
                    assert_eq!(check.problems, Vec::<String>::new(), "{case}");
                    home.write(&repository, 3).await.unwrap_or_else(|error| panic!("{case}: {error}"));
                    if !reached {
                        break;
                    }
                }
            }
        }
    }
    eprintln!("{runs} backups with a failing call");
    assert!(runs > 60, "only {runs} runs: the calls were not met");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_after_a_failed_write() {
    let home = Home::new();
    let repository = home.created().await;
    let created = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&created);
    home.judge(move |call| {
        if call.what != "create" || call.folder == "locks" {
            return Answer::Do;
        }
        if counter.fetch_add(1, Ordering::SeqCst) == 0 { Answer::Fail(FaultKind::Full) } else { Answer::Do }
    });
    let writer = repository.begin(&home.ctx(), &home.label("1")).await.unwrap();
    let bytes = super::home::noise(60 << 20, 3);
    let mut refused = None;
    for n in 10..40 {
        let body = contract::PartBody::Bytes(bytes.slice(n..));
        if let Err(error) = writer.put(contract::Part { path: format!("part-{n}"), body }).await {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused.expect("a part is refused at last").kind(), ErrorKind::LimitExceeded);
    let error = writer.commit(Box::new(super::home::manifest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    assert_eq!(created.load(Ordering::SeqCst), 1, "writing went on");
}

async fn write_parts(
    home: &Home,
    repository: &ResticRepository,
    at: i64,
    parts: &[(&str, Bytes)],
) -> Committed {
    let label = BackupLabel { at: Timestamp::from_second(at).unwrap(), ..home.label("1") };
    let writer = repository.begin(&home.ctx(), &label).await.unwrap();
    for (path, bytes) in parts {
        writer.put(Part { path: (*path).into(), body: PartBody::Bytes(bytes.clone()) }).await.unwrap();
    }
    writer.commit(Box::new(manifest)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_same_is_not_cut_again_and_everything_else_is_read() {
    let home = Home::new();
    let repository = home.created().await;
    let (a, b, c) = (noise(900_000, 1), noise(900_000, 2), noise(900_000, 3));
    let empty = Bytes::new();
    let mut rounds = Vec::new();
    let mut at = 0;
    // Moved, exchanged, taken back, new, gone, longer; all else stays.
    for parts in [
        vec![("x/1", a.clone()), ("x/2", b.clone()), ("x/empty", empty.clone())],
        vec![("x/1", a.clone()), ("x/2", b.clone()), ("x/empty", empty.clone())],
        vec![("x/1", b.clone()), ("x/2", a.clone()), ("x/empty", empty.clone())],
        vec![("x/1", a.clone()), ("x/2", a.clone()), ("x/3", c.clone()), ("x/empty", empty)],
        vec![("x/1", c.clone()), ("x/3", c.clone()), ("y/1", a.clone())],
        vec![("x/1", [c.clone(), b.clone()].concat().into()), ("x/3", c.clone()), ("y/1", c.clone())],
    ] {
        at += 1;
        let committed = write_parts(&home, &repository, at, &parts).await;
        rounds.push((committed.snapshot, parts));
    }
    // Of the same length and at the moment of what is there: times say nothing.
    let other = vec![("x/1", [a, c].concat().into()), ("x/3", b), ("y/1", noise(900_000, 4))];
    let committed = write_parts(&home, &repository, at, &other).await;
    rounds.push((committed.snapshot, other));
    let objects = home.objects(Layout::Stream);
    let same: Vec<u64> = rounds
        .iter()
        .map(|(snapshot, _)| {
            let path = crate::snapshot::path_of(snapshot).unwrap();
            crate::snapshot::read(&*objects, &home.key, &path).unwrap().summary.unwrap().files_unmodified
        })
        .collect();
    assert_eq!(same, [0, 3, 1, 2, 1, 1, 0]);
    let kept = home.kept(&repository).await;
    for (snapshot, parts) in rounds {
        let kept = kept.iter().find(|kept| kept.snapshot == snapshot).unwrap();
        let records = listed(&repository.manifest(&home.ctx(), kept).await.unwrap());
        let source = repository.open(&home.ctx(), kept, records).await.unwrap();
        assert_eq!(source.parts().len(), parts.len());
        for (path, bytes) in parts {
            assert!(source.read(path).await.unwrap() == bytes, "{path}");
        }
    }
    let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
    assert_eq!((check.problems, check.remarks), (vec![], vec![]));
}

/// What an older backup has lost is written again, although the part is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_whose_bytes_are_gone_is_read_again() {
    let home = Home::new();
    let repository = home.created().await;
    let parts = [("x/1", noise(900_000, 1)), ("x/2", noise(10, 2))];
    write_parts(&home, &repository, 1, &parts).await;
    // Without its packs and indexes the backup before is of no use to anybody.
    for file in ["data", "index"].into_iter().flat_map(|folder| home.files(folder)) {
        std::fs::remove_file(file).unwrap();
    }
    let second = write_parts(&home, &repository, 2, &parts).await;
    let kept = home.kept(&repository).await;
    let kept = kept.iter().find(|kept| kept.snapshot == second.snapshot).unwrap();
    let records = listed(&repository.manifest(&home.ctx(), kept).await.unwrap());
    let source = repository.open(&home.ctx(), kept, records).await.unwrap();
    for (path, bytes) in parts {
        assert!(source.read(path).await.unwrap() == bytes, "{path}");
    }
}
