//! What a repository keeps, and gives back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod home;

use bytes::Bytes;
use contract::{CheckDepth, ErrorKind, Layout, Part, PartBody, Repository, sha256_hex};
use home::{Home, ctx, label, noise, only, part, write};
use secrecy::ExposeSecret;

#[tokio::test(flavor = "multi_thread")]
async fn parts_come_back_as_they_were() {
    for layout in [Layout::Stream, Layout::Pages] {
        let home = Home::new();
        let repository = home.repository().await;
        let file = home.folder.path().join("large");
        let large = noise(70 << 20, 5);
        std::fs::write(&file, &large).unwrap();
        let contents = [
            ("dump.sql", noise(1, 1)),
            ("tables/public.empty/00000.copy", Bytes::new()),
            ("tables/public.orders/00000.copy", Bytes::from_static(b"1\tone\n2\ttwo\n")),
            ("tables/public.orders/00001.copy", noise(contract::PART_BYTES_MAX, 2)),
            ("tables/public.orders/00002.copy", Bytes::from(vec![0; 3 << 20])),
            ("tables-more/x", noise(131_072, 3)),
            ("tables-more/y", noise(131_073, 4)),
        ];
        let mut parts: Vec<Part> = contents.iter().map(|(path, bytes)| part(path, bytes.clone())).collect();
        parts.push(Part {
            path: "zzz".into(),
            body: PartBody::File { path: file.clone(), bytes: large.len() as u64 },
        });
        let label = label("b1", layout);
        let committed = write(&repository, &label, parts).await;
        let total: usize = contents.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + large.len();
        assert_eq!(committed.bytes, total as u64);

        let kept = only(&repository).await;
        assert_eq!(kept.snapshot, committed.snapshot);
        assert_eq!(
            (kept.id.as_deref(), kept.project.as_deref(), kept.store.as_deref(), kept.plan.as_deref()),
            (Some("b1"), Some("shop"), Some("orders"), Some("nightly"))
        );
        assert_eq!((kept.at, kept.layout), (label.at, layout));

        let manifest = repository.manifest(&ctx(), &kept).await.unwrap();
        let records = home::listed(&manifest);
        assert_eq!(records.len(), contents.len() + 1);
        let source = repository.open(&ctx(), &kept, records.clone()).await.unwrap();
        assert_eq!(source.parts(), records);
        for ((path, bytes), record) in contents.iter().zip(&records) {
            assert_eq!((record.path.as_str(), record.bytes), (*path, bytes.len() as u64));
            assert_eq!(record.sha256, sha256_hex(bytes));
            assert!(source.read(path).await.unwrap() == bytes, "{path} came back otherwise");
        }
        let target = home.folder.path().join("restored");
        source.read_into("zzz", &target).await.unwrap();
        assert!(std::fs::read(&target).unwrap() == large, "the file came back otherwise");
        assert_eq!(source.read("zzz").await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(source.read("zz").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(source.read_into("zzz", &target).await.unwrap_err().kind(), ErrorKind::Conflict);
        drop(source);

        // What is there already is not kept twice.
        let again = vec![part("dump", large.slice(..60 << 20))];
        let again = write(&repository, &self::label("b2", layout), again).await;
        assert!(again.bytes_added < 9 << 20, "{again:?}");
        let check = repository.check(&ctx(), CheckDepth::Everything).await.unwrap();
        assert_eq!((check.problems, check.damaged), (vec![], vec![]));
        assert!(check.bytes_read > 130 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_opens_nothing() {
    let home = Home::new();
    let repository = home.repository().await;
    write(&repository, &label("b1", Layout::Stream), vec![part("a", noise(10, 1))]).await;
    let kept = only(&repository).await;
    let other = home.open_with(&repository_restic::new_master_key().unwrap());
    let ctx = ctx();
    assert_eq!(other.create(&ctx).await.unwrap_err().kind(), ErrorKind::Conflict);
    for error in [
        other.list(&ctx).await.unwrap_err(),
        other.manifest(&ctx, &kept).await.unwrap_err(),
        other.check(&ctx, CheckDepth::Structure).await.unwrap_err(),
        other.prune(&ctx).await.unwrap_err(),
        other.clean(&ctx).await.unwrap_err(),
        other.begin(&ctx, &label("b2", Layout::Stream)).await.err().unwrap(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(!error.to_string().contains(home.key.expose_secret()), "{error}");
    }
    let broken = home.open_with(&"AAAA".into());
    assert_eq!(broken.list(&ctx).await.unwrap_err().kind(), ErrorKind::Invalid);
    only(&repository).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_away_as_a_whole_says_nothing_of_its_backups() {
    let home = Home::new();
    let repository = home.repository().await;
    write(&repository, &label("b1", Layout::Stream), vec![part("a", noise(10, 1))]).await;
    let kept = only(&repository).await;
    let (there, away) = (home.folder.path().join("backups"), home.folder.path().join("away"));
    let kinds = async || {
        let manifest = repository.manifest(&ctx(), &kept).await.err().map(|error| error.kind());
        let check = repository.check(&ctx(), CheckDepth::Structure).await.err().map(|error| error.kind());
        (manifest, check)
    };
    let unavailable = Some(ErrorKind::Unavailable);
    std::fs::rename(&there, &away).unwrap();
    assert_eq!(kinds().await, (unavailable, unavailable), "the folder is gone");
    // As a disk leaves it that is not mounted.
    std::fs::create_dir(&there).unwrap();
    assert_eq!(kinds().await, (unavailable, unavailable), "the folder is empty");
    std::fs::remove_dir(&there).unwrap();
    std::fs::rename(&away, &there).unwrap();
    assert_eq!(kinds().await, (None, None));
    // What is there without the record is a verdict, and so is half of it.
    let record = there.join("stream/snapshots").join(&kept.snapshot);
    std::fs::rename(&record, home.folder.path().join("record")).unwrap();
    assert_eq!(kinds().await.0, Some(ErrorKind::NotFound));
    std::fs::rename(there.join("stream"), home.folder.path().join("half")).unwrap();
    write(&repository, &label("b2", Layout::Pages), vec![part("a", noise(10, 1))]).await;
    assert_eq!(kinds().await.0, Some(ErrorKind::NotFound));
}

#[test]
fn the_example_of_the_readme_is_read() {
    let readme = include_str!("../README.md");
    let example = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let config: repository_restic::Config = serde_saphyr::from_str(example).unwrap();
    config.validate().unwrap();
    assert_eq!(config, repository_restic::Config::new("backups"));
}
