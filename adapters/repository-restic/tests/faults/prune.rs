//! Pruning takes what nobody needs, late, and never from a backup that is being written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use contract::{CheckDepth, ErrorKind, Layout, Part, PartBody, Repository};

use super::home::{Answer, Dice, Home, cases, contents, manifest};
use crate::error::FaultKind;

async fn is_sound(home: &Home, ids: &[&str], case: &str) {
    let repository = home.repository();
    let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
    assert_eq!(check.problems, Vec::<String>::new(), "{case}");
    let kept = home.kept(&repository).await;
    assert_eq!(kept.iter().filter_map(|kept| kept.id.as_deref()).collect::<Vec<_>>(), ids, "{case}");
    for one in &kept {
        home.restores(&repository, one).await.unwrap_or_else(|error| panic!("{case}: {error}"));
    }
}

async fn three(home: &Home) {
    let repository = home.created().await;
    for seed in 1..=3 {
        home.clock.advance_us(1000);
        home.write(&repository, seed).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_marks_first_and_deletes_later() {
    let mut home = Home::new();
    three(&home).await;
    let repository = home.repository();
    let kept = home.kept(&repository).await;
    repository.forget(&home.ctx(), &kept[..2]).await.unwrap();
    is_sound(&home, &["3"], "forgotten").await;
    let planned = repository.prune_plan(&home.ctx()).await.unwrap();
    assert!(planned.bytes_marked > 1_000_000 && planned.bytes_deleted == 0, "{planned:?}");
    let before = home.files("data").len();
    assert_eq!(repository.prune(&home.ctx()).await.unwrap(), planned);
    assert!(home.files("data").len() >= before);
    is_sound(&home, &["3"], "marked").await;
    // Within 48 hours nothing that was marked is deleted.
    assert_eq!(repository.prune(&home.ctx()).await.unwrap().bytes_deleted, 0);
    is_sound(&home, &["3"], "marked twice").await;
    home.limits.keep_marked_hours = 0;
    let repository = home.repository();
    let pruned = repository.prune(&home.ctx()).await.unwrap();
    assert!(pruned.bytes_deleted > 1_000_000, "{pruned:?}");
    assert!(home.files("data").len() < before);
    is_sound(&home, &["3"], "deleted").await;
    assert_eq!(home.files("locks").len(), 0);
}

/// Writes the indexes anew as if what is marked had been marked so many hours earlier; gives how many packs that are.
fn age_marks(home: &Home, hours: i64) -> usize {
    let objects = home.objects(Layout::Stream);
    let mut marked = 0;
    for found in objects.list("index").unwrap() {
        let plain = home.key.open_record(&objects.read(&found.path).unwrap()).unwrap();
        let mut index: serde_json::Value = serde_json::from_slice(&plain).unwrap();
        let Some(packs) = index["packs_to_delete"].as_array_mut() else { continue };
        for pack in packs.iter_mut() {
            let at: jiff::Timestamp = pack["time"].as_str().unwrap().parse().unwrap();
            let earlier = at - jiff::SignedDuration::from_hours(hours);
            pack["time"] = serde_json::json!(earlier.to_string());
            marked += 1;
        }
        let sealed = home.key.seal(&serde_json::to_vec(&index).unwrap()).unwrap();
        objects.create(&format!("index/{}", crate::seal::name_of(&sealed)), &[sealed.into()]).unwrap();
        objects.remove(&found.path).unwrap();
    }
    marked
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_marked_goes_after_48_hours_and_not_one_earlier() {
    let home = Home::new();
    three(&home).await;
    let repository = home.repository();
    let kept = home.kept(&repository).await;
    repository.forget(&home.ctx(), &kept[..2]).await.unwrap();
    repository.prune(&home.ctx()).await.unwrap();
    let before = home.files("data").len();
    let marked = age_marks(&home, 47);
    assert!(marked > 0);
    assert_eq!(repository.prune(&home.ctx()).await.unwrap().bytes_deleted, 0);
    assert!(home.files("data").len() >= before);
    is_sound(&home, &["3"], "47 hours").await;
    // What a backup needs again by then stays, however old its mark.
    home.write(&repository, 1).await.unwrap();
    assert_eq!(age_marks(&home, 2), marked);
    let pruned = repository.prune(&home.ctx()).await.unwrap();
    assert!(pruned.bytes_deleted > 1_000_000, "{pruned:?}");
    assert!(home.files("data").len() < before);
    is_sound(&home, &["3", "1"], "49 hours").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_and_backups_keep_away_from_each_other() {
    let mut home = Home::new();
    home.limits.keep_marked_hours = 0;
    three(&home).await;
    let repository = home.repository();
    let writer = repository.begin(&home.ctx(), &home.label("4")).await.unwrap();
    let mut parts = contents(4).into_iter();
    let mut put = async |count: usize| {
        for (path, bytes) in parts.by_ref().take(count) {
            writer.put(Part { path, body: PartBody::Bytes(bytes) }).await.unwrap();
        }
    };
    put(2).await;
    let kept = home.kept(&repository).await;
    for error in [
        repository.prune(&home.ctx()).await.unwrap_err(),
        repository.forget(&home.ctx(), &kept[..1]).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains("steward@"), "{error}");
    }
    put(3).await;
    writer.commit(Box::new(manifest)).await.unwrap();
    is_sound(&home, &["1", "2", "3", "4"], "beside").await;

    // And the other way round: while it prunes, nobody begins.
    let (tell, told) = tokio::sync::oneshot::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let mut tell = Some(tell);
    home.judge(move |call| {
        if call.what == "list" && call.folder == "data" && tell.is_some() {
            tell.take().unwrap().send(()).unwrap();
            gone.recv().unwrap();
        }
        Answer::Do
    });
    let pruning = {
        let (repository, ctx) = (home.repository(), home.ctx());
        tokio::spawn(async move { repository.prune(&ctx).await })
    };
    told.await.unwrap();
    // The place that waits is this test's; the other one asks the same files without being judged.
    let other = Home::at(&home.root, crate::seal::Key::from_text(&home.key.to_text()).unwrap());
    let error = other.write(&other.repository(), 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    go.send(()).unwrap();
    pruning.await.unwrap().unwrap();
    home.calm();
    is_sound(&home, &["1", "2", "3", "4"], "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_breaks_off_loses_nothing() {
    let mut runs = 0;
    for seed in 0..cases(12, 400) {
        let mut home = Home::new();
        home.limits.keep_marked_hours = 0;
        three(&home).await;
        let repository = home.repository();
        let kept = home.kept(&repository).await;
        repository.forget(&home.ctx(), &kept[..1]).await.unwrap();
        repository.prune(&home.ctx()).await.unwrap();
        let mut dice = Dice::new(seed);
        let nth = dice.below(4);
        let what = ["create", "remove"][dice.below(2)];
        let after = dice.below(2) == 0;
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        home.judge(move |call| {
            let fits = call.what == what && call.folder != "locks";
            if !fits || counter.fetch_add(1, Ordering::SeqCst) < nth {
                return Answer::Do;
            }
            // From here on the disk is gone.
            if after {
                Answer::DoAndFail(FaultKind::Unavailable)
            } else {
                Answer::Fail(FaultKind::Unavailable)
            }
        });
        let pruned = repository.prune(&home.ctx()).await;
        let met = seen.load(Ordering::SeqCst) > nth;
        home.calm();
        let case = format!("seed {seed}: {what} {nth} {after}: {pruned:?}");
        assert_eq!(pruned.is_err(), met, "{case}");
        is_sound(&home, &["2", "3"], &case).await;
        repository.prune(&home.ctx()).await.unwrap();
        is_sound(&home, &["2", "3"], &case).await;
        runs += usize::from(met);
    }
    eprintln!("{runs} prunes broken off");
    assert!(runs > 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_listing_deletes_nothing() {
    let mut home = Home::new();
    home.limits.keep_marked_hours = 0;
    three(&home).await;
    let repository = home.repository();
    for folder in ["snapshots", "index", "data"] {
        home.judge(move |call| {
            if call.what == "list" && call.folder == folder {
                Answer::Fail(FaultKind::Unavailable)
            } else {
                Answer::Do
            }
        });
        assert_eq!(
            repository.prune(&home.ctx()).await.unwrap_err().kind(),
            ErrorKind::Unavailable,
            "{folder}"
        );
        home.calm();
    }
    // Nor does a record that cannot be read: what it needs is not known.
    let record = home.files("snapshots").remove(0);
    let bytes = std::fs::read(&record).unwrap();
    std::fs::write(&record, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(repository.prune(&home.ctx()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(repository.prune_plan(&home.ctx()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::write(&record, bytes).unwrap();
    is_sound(&home, &["1", "2", "3"], "restored").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_went_back_does_not_prune() {
    let home = Home::new();
    three(&home).await;
    home.clock.advance_us(-2 * 3_600 * 1_000_000);
    let repository = home.repository();
    let error = repository.prune(&home.ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.message().contains("the clock"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cleaning_takes_what_is_old_and_puts_aside_what_is_empty() {
    let home = Home::new();
    three(&home).await;
    let stream = home.root.join("stream");
    let yesterday = SystemTime::now() - std::time::Duration::from_hours(25);
    for (name, old) in [("old", true), ("new", false)] {
        let file = std::fs::File::create(stream.join("tmp").join(name)).unwrap();
        if old {
            file.set_modified(yesterday).unwrap();
        }
    }
    let empty = format!("snapshots/{}", "ab".repeat(32));
    std::fs::write(stream.join(&empty), "").unwrap();
    let repository = home.repository();
    assert_eq!(repository.list(&home.ctx()).await.unwrap().unreadable.len(), 1);
    let done = repository.clean(&home.ctx()).await.unwrap();
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(
        done.iter().any(|line| line.contains("tmp/old")) && done.iter().any(|line| line.contains(&empty))
    );
    assert!(stream.join("tmp/new").exists() && !stream.join("tmp/old").exists());
    assert_eq!(home.files("aside").len(), 1);
    is_sound(&home, &["1", "2", "3"], "cleaned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passphrases_open_and_are_taken_away() {
    let home = Home::new();
    let repository = home.created().await;
    let ctx = home.ctx();
    let (strong, other) =
        ("kJ8+dT2/xQv7LmN4pRs6WyZ0aBcDeFgH".into(), "kJ8+dT2/xQv7LmN4pRs6WyZ0aBcDeFgI".into());
    assert_eq!(
        repository.add_key(&ctx, "x", &"hunter2".into()).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(repository.keys(&ctx).await.unwrap(), []);
    let key = repository.add_key(&ctx, "recovery", &strong).await.unwrap();
    assert_eq!(key.label, "recovery");
    assert_eq!(repository.keys(&ctx).await.unwrap(), std::slice::from_ref(&key));
    assert_eq!(repository.opens_with(&ctx, &strong).await.unwrap(), Some(key.clone()));
    assert_eq!(repository.opens_with(&ctx, &other).await.unwrap(), None);
    // A key in one of the two opens half.
    let path = home.root.join("pages/keys").join(&key.id);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(repository.opens_with(&ctx, &strong).await.unwrap(), None);
    assert_eq!(repository.check(&ctx, CheckDepth::Structure).await.unwrap().problems.len(), 1);
    std::fs::write(&path, bytes).unwrap();
    repository.remove_key(&ctx, &key.id).await.unwrap();
    assert_eq!(repository.opens_with(&ctx, &strong).await.unwrap(), None);
    for id in [key.id.as_str(), "../config", "", "x/../../stream/config"] {
        assert_eq!(repository.remove_key(&ctx, id).await.unwrap_err().kind(), ErrorKind::NotFound, "{id}");
    }
    assert!(home.root.join("stream/config").exists());
}
