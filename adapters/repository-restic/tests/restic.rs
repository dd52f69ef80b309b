//! restic itself, as the judge of what is written and as the neighbour that works beside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod home;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};

use bytes::Bytes;
use contract::{BackupWriter, CheckDepth, ErrorKind, Layout, Repository};
use home::{Home, ctx, label, manifest, noise, only, part, write};
use repository_restic::ResticRepository;
use secrecy::SecretString;

/// Of 128 random bits and more, so that each try is cheap.
const PASSPHRASE: &str = "kJ8+dT2/xQv7LmN4pRs6WyZ0aBcDeFgH";

fn restic(home: &Home, folder: &str, passphrase: &str, arguments: &[&str]) -> Output {
    Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(home.folder.path().join("backups").join(folder))
        .args(arguments)
        .env("RESTIC_PASSWORD", passphrase)
        .output()
        .expect("this test needs `restic`, 0.14 or later: sudo apt-get install -y restic")
}

/// What it prints; it must succeed.
fn done(home: &Home, folder: &str, arguments: &[&str]) -> Vec<u8> {
    let output = restic(home, folder, PASSPHRASE, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "restic {arguments:?}: {}{stderr}",
        String::from_utf8_lossy(&output.stdout)
    );
    output.stdout
}

fn contents(seed: u64) -> Vec<(&'static str, Bytes)> {
    vec![
        ("dump.sql", noise(1, seed)),
        ("tables/public.empty/00000.copy", Bytes::new()),
        ("tables/public.orders/00000.copy", noise(20_000_000, seed)),
        ("tables/public.orders/00001.copy", Bytes::from(vec![0; 3 << 20])),
        ("tables-more/x", noise(131_073, 4)),
    ]
}

async fn with_passphrase(home: &Home) -> ResticRepository {
    let repository = home.repository().await;
    repository.add_key(&ctx(), "passphrase", &SecretString::from(PASSPHRASE)).await.unwrap();
    repository
}

fn layouts() -> [(Layout, &'static str); 2] {
    [(Layout::Stream, "stream"), (Layout::Pages, "pages")]
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_reads_all_that_is_written() {
    let home = Home::new();
    let repository = with_passphrase(&home).await;
    let mut written = BTreeMap::new();
    for (layout, folder) in layouts() {
        for seed in [1, 2] {
            let parts = contents(seed).into_iter().map(|(path, bytes)| part(path, bytes)).collect();
            let label = label(&format!("b{seed}"), layout);
            let committed = write(&repository, &label, parts).await;
            written.insert((folder, committed.snapshot), (seed, label));
        }
        let check = done(&home, folder, &["check", "--read-data"]);
        assert!(String::from_utf8_lossy(&check).contains("no errors were found"));
    }
    for ((folder, snapshot), (seed, label)) in &written {
        let listed: serde_json::Value =
            serde_json::from_slice(&done(&home, folder, &["snapshots", "--json", snapshot])).unwrap();
        let record = &listed[0];
        assert_eq!(record["id"], snapshot.as_str());
        assert_eq!(record["paths"], serde_json::json!(["/orders"]));
        assert_eq!(record["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap(), label.at);
        let tags: Vec<&str> =
            record["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect();
        for tag in ["steward", &format!("id=b{seed}"), "project=shop", "store=orders", "plan=nightly"] {
            assert!(tags.contains(&tag), "{tags:?} lacks {tag}");
        }
        let target = tempfile::tempdir().unwrap();
        done(&home, folder, &["restore", snapshot, "--target", target.path().to_str().unwrap()]);
        for (path, bytes) in contents(*seed) {
            let file = target.path().join("orders").join(path);
            let about = fs::metadata(&file).unwrap();
            assert_eq!((about.len(), about.mode() & 0o777), (bytes.len() as u64, 0o600), "{path}");
            // What is as it was in the backup before has its time.
            if bytes == contents(1).into_iter().find(|(other, _)| *other == path).unwrap().1 {
                assert!(about.mtime() <= label.at.as_second(), "{path}");
            } else {
                assert_eq!(about.mtime(), label.at.as_second(), "{path}");
            }
            assert!(fs::read(&file).unwrap() == bytes, "restic restores {path} otherwise");
            let dumped = done(&home, folder, &["dump", snapshot, &format!("/orders/{path}")]);
            assert!(dumped == bytes, "restic dumps {path} otherwise");
        }
        let folder_of = |path: &str| fs::metadata(target.path().join(path)).unwrap();
        for path in ["orders", "orders/tables/public.orders"] {
            assert_eq!(
                (folder_of(path).mode() & 0o777, folder_of(path).mtime()),
                (0o700, label.at.as_second())
            );
        }
        let found: serde_json::Value =
            serde_json::from_slice(&fs::read(target.path().join("orders/~label.json")).unwrap()).unwrap();
        assert_eq!(found["id"], format!("b{seed}"));
    }
    let wrong = restic(&home, "stream", "wrong", &["snapshots"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("wrong password"), "{wrong:?}");
    assert_eq!(done(&home, "pages", &["list", "keys"]).len(), 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_restic_writes_beside_is_listed_and_left() {
    let home = Home::new();
    let repository = with_passphrase(&home).await;
    let ours = write(&repository, &label("b1", Layout::Pages), vec![part("a", noise(3_000_000, 1))]).await;
    let file = home.folder.path().join("theirs");
    fs::write(&file, noise(3_000_000, 2)).unwrap();
    done(&home, "pages", &["backup", file.to_str().unwrap()]);
    let listing = repository.list(&ctx()).await.unwrap();
    assert_eq!((listing.kept.len(), listing.unreadable.len()), (2, 0));
    let theirs = listing.kept.iter().find(|kept| kept.snapshot != ours.snapshot).unwrap();
    assert_eq!((&theirs.id, &theirs.store), (&None, &None));
    assert_eq!(repository.manifest(&ctx(), theirs).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Its prune rewrites indexes and packs; what is ours stays readable.
    done(&home, "pages", &["forget", "--prune", &theirs.snapshot]);
    let kept = only(&repository).await;
    assert_eq!(kept.snapshot, ours.snapshot);
    let records = home::listed(&repository.manifest(&ctx(), &kept).await.unwrap());
    let source = repository.open(&ctx(), &kept, records).await.unwrap();
    assert!(source.read("a").await.unwrap() == noise(3_000_000, 1));
    drop(source);
    let check = repository.check(&ctx(), CheckDepth::Everything).await.unwrap();
    assert_eq!((check.problems, check.remarks), (vec![], vec![]));
}

async fn begun(repository: &ResticRepository) -> Box<dyn BackupWriter> {
    let writer = repository.begin(&ctx(), &label("b2", Layout::Stream)).await.unwrap();
    for n in 10..14 {
        writer.put(part(&format!("part-{n}"), noise(9_000_000, n))).await.unwrap();
    }
    writer
}

fn locks(home: &Home) -> usize {
    fs::read_dir(home.folder.path().join("backups/stream/locks")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_does_not_prune_while_a_backup_is_written() {
    let home = Home::new();
    let repository = with_passphrase(&home).await;
    write(&repository, &label("b1", Layout::Stream), vec![part("a", noise(3_000_000, 1))]).await;
    let writer = begun(&repository).await;
    for command in ["prune", "check"] {
        let refused = restic(&home, "stream", PASSPHRASE, &[command]);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && stderr.contains("already locked"), "{command}: {stderr}");
        assert!(stderr.contains("steward@"), "{command}: {stderr}");
    }
    // This asks whether the process is alive where the host is its own, by a signal that would end it.
    done(&home, "stream", &["unlock"]);
    assert_eq!(locks(&home), 1);
    let committed = writer.commit(Box::new(manifest)).await.unwrap();
    done(&home, "stream", &["prune"]);
    done(&home, "stream", &["check", "--read-data"]);
    assert_eq!(
        done(&home, "stream", &["dump", &committed.snapshot, "/orders/part-10"]),
        noise(9_000_000, 10)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_restic_pruned_away_is_not_recorded() {
    let home = Home::new();
    let repository = with_passphrase(&home).await;
    let writer = begun(&repository).await;
    done(&home, "stream", &["unlock", "--remove-all"]);
    done(&home, "stream", &["prune"]);
    let error = writer.commit(Box::new(manifest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(repository.list(&ctx()).await.unwrap().kept, []);
    done(&home, "stream", &["check", "--read-data"]);
}
