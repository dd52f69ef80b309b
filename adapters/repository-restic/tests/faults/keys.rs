//! Keys that are half there, damaged, wrong or on their way out, and logs that are damaged.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use contract::{CheckDepth, ErrorKind, Layout, LogPosition, LogSpan, Logs, Repository};
use secrecy::SecretString;

use super::home::{Answer, Home};
use crate::error::FaultKind;
use crate::lock::{Held, Sharing, Timing};
use crate::seal::Key;

fn strong() -> SecretString {
    "kJ8+dT2/xQv7LmN4pRs6WyZ0aBcDeFgH".into()
}

fn key_file(home: &Home, folder: &str) -> PathBuf {
    let entries = std::fs::read_dir(home.root.join(folder).join("keys")).unwrap();
    entries.map(|entry| entry.unwrap().path()).next().unwrap()
}

fn key_files(home: &Home) -> [usize; 2] {
    ["stream", "pages"].map(|folder| std::fs::read_dir(home.root.join(folder).join("keys")).unwrap().count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_one_place_has_lost_is_made_whole() {
    for folder in ["stream", "pages"] {
        for harm in ["gone", "empty", "cut", "other"] {
            let case = format!("{harm} in {folder}");
            let home = Home::new();
            let repository = home.created().await;
            home.write(&repository, 1).await.unwrap();
            repository.add_key(&home.ctx(), "recovery", &strong()).await.unwrap();
            let file = key_file(&home, folder);
            let whole = std::fs::read(&file).unwrap();
            std::fs::remove_file(&file).unwrap();
            match harm {
                "gone" => {}
                "empty" => std::fs::write(&file, "").unwrap(),
                "cut" => std::fs::write(&file, &whole[..40]).unwrap(),
                _ => std::fs::write(&file, b"{}").unwrap(),
            }
            let check = repository.check(&home.ctx(), CheckDepth::Structure).await.unwrap();
            assert!(check.problems.iter().any(|problem| problem.contains("keys/")), "{case}: {check:?}");
            assert_eq!(repository.opens_with(&home.ctx(), &strong()).await.unwrap(), None, "{case}");
            let done = repository.clean(&home.ctx()).await.unwrap();
            assert!(done.iter().any(|line| line.contains("again")), "{case}: {done:?}");
            assert_eq!(std::fs::read(&file).unwrap(), whole, "{case}");
            assert!(repository.opens_with(&home.ctx(), &strong()).await.unwrap().is_some(), "{case}");
            let check = repository.check(&home.ctx(), CheckDepth::Structure).await.unwrap();
            assert_eq!(check.problems, Vec::<String>::new(), "{case}");
            assert_eq!(repository.clean(&home.ctx()).await.unwrap(), Vec::<String>::new(), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_being_taken_away_is_not_made_whole() {
    let home = Home::new();
    let repository = home.created().await;
    repository.add_key(&home.ctx(), "passphrase", &strong()).await.unwrap();
    std::fs::remove_file(key_file(&home, "stream")).unwrap();
    let (objects, clock) = (home.objects(Layout::Stream), home.ctx().clock());
    let timing = Timing { settle: std::time::Duration::ZERO, ..Timing::default() };
    let held = Held::take(&objects, &home.key, &clock, Sharing::Reading, timing).unwrap();
    assert_eq!(repository.clean(&home.ctx()).await.unwrap(), Vec::<String>::new());
    assert_eq!(key_files(&home), [0, 1]);
    held.release();
    // Whoever began that has died: it was not said to be gone, and opens again.
    assert_eq!(repository.clean(&home.ctx()).await.unwrap().len(), 1);
    assert_eq!(key_files(&home), [1, 1]);

    // The other way round: while it is made whole, somebody begins to take it away.
    std::fs::remove_file(key_file(&home, "stream")).unwrap();
    let (key, plain) = (Arc::clone(&home.key), home.root.join("stream"));
    let mut taken = None;
    home.judge(move |call| {
        if taken.is_none() && (call.what, call.folder.as_str()) == ("create", "keys") {
            let objects: Arc<dyn crate::objects::Objects> = Arc::new(crate::local::Local::new(plain.clone()));
            taken = Some(Held::take(&objects, &key, &clock, Sharing::Reading, timing).unwrap());
        }
        Answer::Do
    });
    repository.clean(&home.ctx()).await.unwrap();
    assert_eq!(key_files(&home), [0, 1]);
    home.calm();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_added_whole_is_not_added() {
    let home = Home::new();
    let repository = home.created().await;
    for nth in [1, 2] {
        let mut seen = 0;
        home.judge(move |call| {
            seen += u32::from((call.what, call.folder.as_str()) == ("create", "keys"));
            if seen == nth && call.what == "create" { Answer::Fail(FaultKind::Full) } else { Answer::Do }
        });
        let error = repository.add_key(&home.ctx(), "recovery", &strong()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{nth}: {error}");
        assert_eq!(key_files(&home), [0, 0], "{nth}");
    }
    home.calm();
    repository.add_key(&home.ctx(), "recovery", &strong()).await.unwrap();
    assert_eq!(key_files(&home), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_master_key_changes_nothing_and_says_that_it_is_the_key() {
    for config in ["sound", "gone", "damaged"] {
        let home = Home::new();
        let repository = home.created().await;
        home.write(&repository, 1).await.unwrap();
        let id = repository.add_key(&home.ctx(), "recovery", &strong()).await.unwrap().id;
        let file = home.root.join("stream/config");
        match config {
            "gone" => std::fs::remove_file(&file).unwrap(),
            "damaged" => std::fs::write(&file, "x").unwrap(),
            _ => {}
        }
        let other = Home::at(&home.root, Key::random().unwrap());
        let stranger = other.repository();
        let ctx = &home.ctx();
        for (what, error) in [
            ("list", Repository::list(&stranger, ctx).await.err()),
            ("clean", stranger.clean(ctx).await.err()),
            ("keys", stranger.keys(ctx).await.err()),
            ("opens_with", stranger.opens_with(ctx, &strong()).await.err()),
            ("add_key", stranger.add_key(ctx, "x", &strong()).await.err()),
            ("remove_key", stranger.remove_key(ctx, &id).await.err()),
        ] {
            let error = error.unwrap_or_else(|| panic!("{what} with the config {config}"));
            assert_eq!(error.kind(), ErrorKind::Denied, "{what} with the config {config}: {error}");
            assert!(error.message().contains("the key does not open"), "{what}: {error}");
        }
        assert_eq!(file.exists(), config != "gone");
        assert_eq!(key_files(&home), [1, 1], "{config}");
        repository.clean(ctx).await.unwrap();
        home.restores(&repository, &home.kept(&repository).await[0]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_of_a_log_is_found_by_the_check() {
    let home = Home::new();
    let repository = home.created().await;
    let span = |start: u64| LogSpan {
        store: "orders".into(),
        source: "7461234567890".into(),
        timeline: 1,
        file: "000000010000000000000001".into(),
        file_bytes: 16 << 20,
        start: LogPosition(start),
        end: LogPosition(start + 4096),
        until: None,
        parent: None,
    };
    for start in [0, 4096] {
        repository.append(&home.ctx(), &span(start), Bytes::from(vec![7; 4096])).await.unwrap();
    }
    let all = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
    assert_eq!(all.problems, Vec::<String>::new());
    let mut shares = 0;
    for nth in 1..=4 {
        let depth = CheckDepth::Share { nth, of: 4 };
        shares += repository.check(&home.ctx(), depth).await.unwrap().bytes_read;
    }
    assert!(all.bytes_read > 0 && shares == all.bytes_read, "{shares} of {}", all.bytes_read);
    let piece = &Logs::list(&repository, &home.ctx(), "orders").await.unwrap().pieces[1];
    let folder = home.root.join("pages/log/orders/7461234567890/00000001");
    let named = |entry: &std::fs::DirEntry| entry.file_name().to_str().unwrap().ends_with(&piece.sha256);
    let file = std::fs::read_dir(folder).unwrap().map(Result::unwrap).find(named).unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    for (depth, bytes, found) in [
        (CheckDepth::Everything, whole[..20].to_vec(), 1),
        (CheckDepth::Everything, [&whole[..20], &[whole[20] ^ 1], &whole[21..]].concat(), 1),
        (CheckDepth::Everything, Vec::new(), 1),
        (CheckDepth::Structure, Vec::new(), 1),
        (CheckDepth::Everything, whole.clone(), 0),
    ] {
        std::fs::write(&file, &bytes).unwrap();
        let check = repository.check(&home.ctx(), depth).await.unwrap();
        assert_eq!(check.problems.len(), found, "{} bytes, {depth:?}: {check:?}", bytes.len());
        assert_eq!(check.damaged, Vec::<String>::new());
    }
    std::fs::write(file.with_file_name("stray"), "x").unwrap();
    let check = repository.check(&home.ctx(), CheckDepth::Structure).await.unwrap();
    assert!(check.problems[0].contains("stray"), "{check:?}");
}
