//! A folder is taken out and comes back: every kind of thing in it, whole or in pieces, and into the place of the old one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Actor, BackupMethod, Context, DumpOptions, Dumped, Error, ErrorKind, LoadTarget, Part, PartBody,
    PartRecord, PartSink, PartSource, Selection, Store, TestClock,
};
use store_folder::{Config, FolderStore, open};

/// A repository in memory.
#[derive(Default)]
struct Kept {
    parts: Mutex<BTreeMap<String, Bytes>>,
    listed: Vec<PartRecord>,
}

#[async_trait]
impl PartSink for Kept {
    async fn put(&self, part: Part) -> Result<(), Error> {
        let PartBody::Bytes(bytes) = part.body else { panic!("a folder makes no files of its own") };
        assert!(bytes.len() <= contract::PART_BYTES_MAX);
        self.parts.lock().unwrap().insert(part.path, bytes);
        Ok(())
    }
}

#[async_trait]
impl PartSource for Kept {
    fn parts(&self) -> &[PartRecord] {
        &self.listed
    }

    async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let found = self.parts.lock().unwrap().get(path).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such part"))
    }

    async fn read_into(&self, path: &str, file: &Path) -> Result<(), Error> {
        std::fs::write(file, self.read(path).await?).unwrap();
        Ok(())
    }
}

fn ctx() -> Context {
    let clock = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().unwrap()));
    Context::new("shop", Actor::local()).with_clock(clock)
}

fn store(path: &Path, exclude: &[&str]) -> FolderStore {
    let exclude = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
    open("docs", &Config { exclude, ..Config::new(path.display().to_string()) }, Path::new("/")).unwrap()
}

async fn dump(store: &FolderStore) -> Result<(Dumped, Kept), Error> {
    let options = DumpOptions { method: BackupMethod::Logical, scratch: PathBuf::from("/none"), parallel: 1 };
    let kept = Kept::default();
    let dumped = store.dump().unwrap().dump(&ctx(), &options, &kept).await?;
    Ok((dumped, kept))
}

async fn load(
    store: &FolderStore,
    dumped: &Dumped,
    kept: &Kept,
    selection: &Selection,
    target: &LoadTarget,
) -> Result<Box<dyn contract::Restored>, Error> {
    store.load().unwrap().load(&ctx(), dumped, kept, selection, target).await
}

/// One of everything that a folder can hold.
fn zoo(root: &Path) {
    let file = |name: &OsStr, bytes: &[u8], mode: u32| {
        let path = root.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for folder in ["docs/deep/deeper", "empty", "closed", "cache"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    file(OsStr::new("docs/a.txt"), b"a", 0o644);
    file(OsStr::new("docs/deep/script"), b"#!/bin/sh\n", 0o755);
    file(OsStr::new("docs/deep/deeper/none"), b"", 0o600);
    file(OsStr::new("docs/with space\nand line"), b"odd", 0o640);
    file(OsStr::from_bytes(b"docs/\xff\xfe"), b"no text", 0o600);
    file(OsStr::new("closed/inside"), b"inside", 0o400);
    file(OsStr::new("cache/x.tmp"), b"no", 0o600);
    file(OsStr::new("docs/y.tmp"), b"no", 0o600);
    // Cut in the middle, and once more.
    file(OsStr::new("large"), &(0..(33_u32 << 20)).map(|n| n.to_le_bytes()[1]).collect::<Vec<_>>(), 0o600);
    std::fs::hard_link(root.join("docs/a.txt"), root.join("docs/b.txt")).unwrap();
    std::fs::hard_link(root.join("docs/a.txt"), root.join("top-link")).unwrap();
    symlink("docs/a.txt", root.join("link")).unwrap();
    symlink("../../nowhere/at all", root.join("docs/dangling")).unwrap();
    symlink("docs", root.join("folder-link")).unwrap();
    std::fs::set_permissions(root.join("closed"), std::fs::Permissions::from_mode(0o500)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o751)).unwrap();
}

/// Everything below a folder with what a copy must have too.
fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let it = full.symlink_metadata().unwrap();
            let time = (it.mtime(), it.mtime_nsec(), it.mode(), it.nlink(), it.uid());
            let said = if it.is_dir() {
                waiting.push(path.clone());
                format!("folder {time:?}")
            } else if it.is_symlink() {
                format!("link {} {time:?}", std::fs::read_link(&full).unwrap().display())
            } else if it.is_file() {
                format!("file {} {time:?}", contract::sha256_hex(&std::fs::read(&full).unwrap()))
            } else {
                continue;
            };
            found.insert(path, said);
        }
    }
    found
}

#[tokio::test]
async fn all_of_it_comes_back_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    std::fs::create_dir(&live).unwrap();
    zoo(&live);
    let store = store(&live, &["cache", "**/*.tmp"]);
    let (dumped, kept) = dump(&store).await.unwrap();
    assert_eq!(
        dumped.left_out,
        ["pipe: it is a pipe, which holds nothing", "socket: it is a socket, which holds nothing"]
    );
    let names: Vec<&str> = dumped.tables.iter().map(|table| table.table.as_str()).collect();
    assert_eq!(names, ["closed", "docs", "empty", "folder-link", "large", "link", "top-link"]);
    for path in kept.parts.lock().unwrap().keys() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-".contains(&byte);
        assert!(path.bytes().all(plain), "{path}");
    }
    let target = LoadTarget::Beside { name: "copy".into() };
    let mut restored = load(&store, &dumped, &kept, &Selection::Whole, &target).await.unwrap();
    assert_eq!(restored.fingerprint(&ctx(), &dumped).await.unwrap(), dumped.tables);
    let none = restored.schema_differences(&ctx(), &dumped, &kept, &Selection::Whole).await.unwrap();
    assert_eq!(none, Vec::<String>::new());
    let copy = root.path().join("copy");
    let mut expected = look(&live);
    expected.retain(|path, _| !path.starts_with("cache") && path.extension() != Some(OsStr::new("tmp")));
    let mut found = look(&copy);
    // The times of folders whose files are excluded or vanish are still those that were recorded.
    assert_eq!(found.len(), expected.len());
    for (path, said) in expected {
        assert_eq!(found.remove(&path), Some(said), "{}", path.display());
    }
    assert_eq!(copy.metadata().unwrap().mode() & 0o7777, 0o751, "the folder itself");
    // A change of one byte, of a mode, one thing more, one less: each is found, and named.
    std::fs::write(copy.join("docs/deep/script"), b"#!/bin/ms\n").unwrap();
    std::fs::set_permissions(copy.join("large"), std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::write(copy.join("empty/more"), b"").unwrap();
    std::fs::remove_file(copy.join("link")).unwrap();
    let now = restored.fingerprint(&ctx(), &dumped).await.unwrap();
    let changed: Vec<&str> = now
        .iter()
        .zip(&dumped.tables)
        .filter(|(now, was)| now != was)
        .map(|(now, _)| now.table.as_str())
        .collect();
    assert_eq!(changed, ["docs", "empty", "large", "link"]);
    let said = restored.schema_differences(&ctx(), &dumped, &kept, &Selection::Whole).await.unwrap();
    assert_eq!(
        said,
        [
            "large is another than was backed up",
            "link is not there",
            "docs/deep/script is another than was backed up",
            "empty/more was not backed up",
        ]
    );
    assert!(restored.keep().contains(&copy.display().to_string()));
    drop(restored);
    assert!(copy.exists(), "what is kept stays");
    // It exists: nothing is overwritten.
    let error = load(&store, &dumped, &kept, &Selection::Whole, &target).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_part_of_it_comes_back_and_links_to_the_rest_become_files() {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    std::fs::create_dir(&live).unwrap();
    zoo(&live);
    let store = store(&live, &[]);
    let (dumped, kept) = dump(&store).await.unwrap();
    let selection = Selection::Tables(vec!["top-link".into(), "empty".into()]);
    let target = LoadTarget::Scratch { folder: root.path().join("scratch") };
    let restored = load(&store, &dumped, &kept, &selection, &target).await.unwrap();
    let found = look(Path::new(&restored.address()));
    assert_eq!(found.keys().map(|path| path.to_str().unwrap()).collect::<Vec<_>>(), ["empty", "top-link"]);
    let of_selected = restored.fingerprint(&ctx(), &dumped).await.unwrap();
    for name in ["top-link", "empty"] {
        let same = |tables: &[contract::TableDigest]| tables.iter().find(|it| it.table == name).cloned();
        assert_eq!(same(&of_selected), same(&dumped.tables), "{name}");
    }
    let none = restored.schema_differences(&ctx(), &dumped, &kept, &selection).await.unwrap();
    assert_eq!(none, Vec::<String>::new());
    restored.remove().await.unwrap();
    assert_eq!(look(&root.path().join("scratch")).len(), 0, "nothing is left, nor of what was being written");
    for (selection, kind) in [
        (Selection::Tables(vec!["none".into()]), ErrorKind::NotFound),
        (Selection::Schema("docs".into()), ErrorKind::Unsupported),
    ] {
        let error = load(&store, &dumped, &kept, &selection, &target).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[tokio::test]
async fn a_restored_folder_takes_the_place_of_the_old_one() {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    std::fs::create_dir(&live).unwrap();
    zoo(&live);
    let store = store(&live, &["cache"]);
    let (dumped, kept) = dump(&store).await.unwrap();
    std::fs::remove_dir_all(live.join("docs")).unwrap();
    let target = LoadTarget::Beside { name: "restored_1".into() };
    let restored = load(&store, &dumped, &kept, &Selection::Whole, &target).await.unwrap();
    let undo = store.load().unwrap().swap(&ctx(), &*restored, false).await.unwrap();
    drop(restored);
    assert_eq!(std::fs::read(live.join("docs/a.txt")).unwrap(), b"a");
    let before = root.path().join("live-before-20260304T050607Z");
    assert!(undo.contains(&before.display().to_string()), "{undo}");
    assert!(before.join("cache/x.tmp").exists() && !before.join("docs").exists());
    assert_eq!(root.path().read_dir().unwrap().count(), 2, "nothing else is left");
}

/// Whoever can write the repository and not the manifest could make an index that leads elsewhere.
#[tokio::test]
async fn an_index_that_leads_out_or_lies_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    std::fs::create_dir(&live).unwrap();
    std::fs::write(live.join("a"), "a").unwrap();
    std::fs::create_dir(live.join("d")).unwrap();
    let store = store(&live, &[]);
    let (dumped, kept) = dump(&store).await.unwrap();
    let page = String::from_utf8(kept.read("index/000000").await.unwrap().to_vec()).unwrap();
    let through_a_link = page.replacen(r#"{"text":"a"}"#, r#"{"text":"d/a"}"#, 1).replacen(
        r#""folder""#,
        r#"{"link":{"to":{"text":"/tmp"}}}"#,
        1,
    );
    for (page, kind) in [
        (page.replacen(r#"{"text":"a"}"#, r#"{"text":"../a"}"#, 1), ErrorKind::Corrupt),
        (page.replacen(r#"{"text":"a"}"#, r#"{"text":"/tmp/a"}"#, 1), ErrorKind::Corrupt),
        (page.replacen(r#""bytes":1"#, r#""bytes":2"#, 1), ErrorKind::Corrupt),
        (page.replacen('{', "[", 1), ErrorKind::Corrupt),
        // A file below what is only a link: its folder is not there when files are written.
        (through_a_link, ErrorKind::Corrupt),
    ] {
        kept.parts.lock().unwrap().insert("index/000000".into(), page.clone().into());
        let target = LoadTarget::Beside { name: "copy".into() };
        let error = load(&store, &dumped, &kept, &Selection::Whole, &target).await.map(|_| ()).unwrap_err();
        let not_there = error.kind() == ErrorKind::NotFound && page.contains("/tmp\"}");
        assert!(error.kind() == kind || not_there, "{error}\n{page}");
        assert_eq!(root.path().read_dir().unwrap().count(), 1, "nothing is left: {page}");
    }
}

#[tokio::test]
async fn what_is_no_folder_is_said() {
    let root = tempfile::tempdir().unwrap();
    let missing = store(&root.path().join("none"), &[]);
    assert_eq!(missing.probe(&ctx()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(dump(&missing).await.map(|_| ()).unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::write(root.path().join("file"), "x").unwrap();
    let file = store(&root.path().join("file"), &[]);
    assert_eq!(file.probe(&ctx()).await.unwrap_err().kind(), ErrorKind::Invalid);
    let probed = store(root.path(), &[]).probe(&ctx()).await.unwrap();
    assert_eq!(probed.address, root.path().canonicalize().unwrap().display().to_string());
}

#[test]
fn example_in_the_readme_is_valid() {
    let readme = include_str!("../README.md");
    let example = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let fields: String =
        example.lines().filter(|line| !line.starts_with("kind:")).flat_map(|line| [line, "\n"]).collect();
    assert!(example.contains(&format!("kind: {}", store_folder::KIND)));
    let config: Config = serde_saphyr::from_str(&fields).unwrap();
    config.validate().unwrap();
    assert_eq!(config.exclude, ["cache", "**/*.tmp"]);
}
