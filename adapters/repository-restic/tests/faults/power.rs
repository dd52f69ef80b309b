//! A machine that loses its power: what was not made durable may be gone, and nothing that was reported is.
//!
//! A process works under `strace`, which writes down what it asks of the disk. From that record each state is built that a disk may be left
//! in after each call: names and bytes count as kept only where their folder and their file were synchronised.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use bytes::Bytes;
use contract::{CheckDepth, LogPosition, LogSpan, Repository};
use secrecy::ExposeSecret;

use super::home::{Answer, Home};
use crate::seal::Key;

const FOLDER: &str = "STEWARD_TEST_POWER_FOLDER";
const WORK: &str = "STEWARD_TEST_POWER_WORK";
const KEY: &str = "STEWARD_TEST_POWER_KEY";
/// Calls that change what is on a disk, or make it durable.
const CALLS: &str = "openat,creat,write,writev,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,\
     unlink,unlinkat,rmdir";
/// A passphrase of a test.
const PASSPHRASE: &str = "kJ8+dT2/xQv7LmN4pRs6WyZ0aBcDeFgH";

fn span(number: u64) -> LogSpan {
    LogSpan {
        store: "orders".into(),
        source: "7461234567890".into(),
        timeline: 1,
        file: "000000010000000000000001".into(),
        file_bytes: 16 << 20,
        start: LogPosition(0x0100_0000 + number * 1000),
        end: LogPosition(0x0100_0000 + (number + 1) * 1000),
        until: None,
        parent: None,
    }
}

fn log_body(number: u64) -> Bytes {
    vec![u8::try_from(number + 7).unwrap(); 1000].into()
}

/// Does its work in a process of its own, and reports what came to its end as a caller would be told: by a file outside the repository.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a part of others, which start it"]
async fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let folder = PathBuf::from(variable(FOLDER));
    let key = Key::from_text(&variable(KEY).into()).unwrap();
    let home = home_at(&folder, key);
    // The bytes of what is removed are asked for later, by a name outside of the disk.
    let (disk, aside) = (folder.join("disk"), folder.join("aside"));
    home.judge(move |call| {
        if call.what == "remove" {
            walk(&disk, &mut |path, is_folder| {
                let name = aside.join(path.file_name().unwrap());
                if !is_folder && !name.exists() {
                    std::fs::hard_link(path, name).unwrap();
                }
            });
        }
        Answer::Do
    });
    let report = |what: &str| std::fs::write(folder.join("told").join(what), "").unwrap();
    let repository = home.repository();
    let ctx = home.ctx();
    match variable(WORK).as_str() {
        "first" => {
            repository.create(&ctx).await.unwrap();
            home.write(&repository, 3).await.unwrap();
            report("backup-3");
        }
        "backup" => {
            home.write(&repository, 3).await.unwrap();
            report("backup-3");
        }
        "prune" => {
            let kept = home.kept(&repository).await;
            report("forgetting-1");
            repository.forget(&ctx, &kept[..1]).await.unwrap();
            repository.prune(&ctx).await.unwrap();
            repository.prune(&ctx).await.unwrap();
            home.write(&repository, 3).await.unwrap();
            report("backup-3");
        }
        "log" => {
            for number in 0..2 {
                repository.logs().unwrap().append(&ctx, &span(number), log_body(number)).await.unwrap();
                report(&format!("log-{number}"));
            }
        }
        "key" => {
            repository.add_key(&ctx, "recovery", &PASSPHRASE.into()).await.unwrap();
            report("key-1");
        }
        other => panic!("{other}"),
    }
}

fn home_at(folder: &Path, key: Key) -> Home {
    let mut home = Home::at(&folder.join("disk/project/backups"), key);
    home.limits.keep_marked_hours = 0;
    home
}

/// What was asked of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Create(PathBuf),
    Write(PathBuf),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Folder(PathBuf),
    Remove(PathBuf),
}

/// The texts between quotation marks, and the path of the first open file.
fn read(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let result = rest.rsplit_once(" = ")?.1;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let quoted: Vec<PathBuf> = rest.split('"').skip(1).step_by(2).map(PathBuf::from).collect();
    // Between the brackets behind a descriptor; a folder that paths start at comes the same way.
    let open = || {
        rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| PathBuf::from(path))
    };
    Some(match name {
        "openat" | "creat" if name == "creat" || rest.contains("O_CREAT") => {
            Call::Create(quoted.first()?.clone())
        }
        "write" | "writev" | "pwrite64" | "ftruncate" => Call::Write(open()?),
        "fsync" | "fdatasync" => Call::Sync(open()?),
        "rename" | "renameat" | "renameat2" => Call::Rename(quoted.first()?.clone(), quoted.get(1)?.clone()),
        "link" | "linkat" => Call::Link(quoted.first()?.clone(), quoted.get(1)?.clone()),
        "mkdir" | "mkdirat" => Call::Folder(quoted.first()?.clone()),
        "unlink" | "unlinkat" | "rmdir" => Call::Remove(quoted.first()?.clone()),
        _ => return None,
    })
}

/// The calls of all threads in the order in which they came to their end.
fn calls(record: &str, below: &Path) -> Vec<Call> {
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in record.lines() {
        let Some((thread, said)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let said = said.trim_start();
        let whole = if let Some(first) = said.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, first);
            continue;
        } else if let Some((_, rest)) =
            said.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"))
        {
            format!("{}{rest}", begun.remove(thread).unwrap_or_default())
        } else {
            said.to_owned()
        };
        calls.extend(read(&whole));
    }
    calls.retain(|call| match call {
        Call::Create(path)
        | Call::Write(path)
        | Call::Sync(path)
        | Call::Folder(path)
        | Call::Remove(path) => path.starts_with(below),
        Call::Rename(_, to) | Call::Link(_, to) => to.starts_with(below),
    });
    calls
}

/// A file or folder, whatever its name is.
#[derive(Debug, Clone)]
struct Thing {
    is_folder: bool,
    /// Where its bytes can be read after the work: they are written once.
    content: Option<PathBuf>,
    durable: bool,
}

type Names = BTreeMap<PathBuf, usize>;

/// A disk beside what the processes see of it.
struct Disk {
    things: Vec<Thing>,
    seen: Names,
    kept: Names,
}

fn walk(root: &Path, each: &mut impl FnMut(&Path, bool)) {
    for entry in std::fs::read_dir(root).into_iter().flatten() {
        let path = entry.unwrap().path();
        each(&path, path.is_dir());
        if path.is_dir() {
            walk(&path, each);
        }
    }
}

impl Disk {
    /// As the tree `before` lies on it, under the names that it has in `root`.
    fn with(before: &Path, root: &Path) -> Self {
        let mut disk = Self { things: Vec::new(), seen: Names::new(), kept: Names::new() };
        walk(before, &mut |path, is_folder| {
            let name = root.join(path.strip_prefix(before).unwrap());
            let content = (!is_folder).then(|| path.to_owned());
            disk.things.push(Thing { is_folder, content, durable: true });
            disk.seen.insert(name, disk.things.len() - 1);
        });
        disk.kept = disk.seen.clone();
        disk
    }

    fn make(&mut self, path: &Path, is_folder: bool) {
        if !self.seen.contains_key(path) {
            self.things.push(Thing { is_folder, content: None, durable: is_folder });
            self.seen.insert(path.to_owned(), self.things.len() - 1);
        }
    }

    fn run(&mut self, call: &Call) {
        match call {
            Call::Create(path) => self.make(path, false),
            Call::Folder(path) => self.make(path, true),
            Call::Write(path) => {
                if let Some(thing) = self.seen.get(path) {
                    self.things[*thing].durable = false;
                }
            }
            Call::Sync(path) => {
                if let Some(thing) = self.seen.get(path).filter(|thing| !self.things[**thing].is_folder) {
                    self.things[*thing].durable = true;
                    return;
                }
                // A folder: the names in it.
                let inside = |name: &&PathBuf| name.parent() == Some(path);
                let gone: Vec<PathBuf> = self
                    .kept
                    .keys()
                    .filter(inside)
                    .filter(|name| !self.seen.contains_key(*name))
                    .cloned()
                    .collect();
                for name in gone {
                    self.kept.remove(&name);
                }
                let there: Vec<_> =
                    self.seen.iter().filter(|(name, _)| inside(name)).map(|(n, t)| (n.clone(), *t)).collect();
                self.kept.extend(there);
            }
            Call::Rename(from, to) => {
                if let Some(thing) = self.seen.remove(from) {
                    self.seen.insert(to.clone(), thing);
                }
            }
            Call::Link(from, to) => {
                if let Some(thing) = self.seen.get(from) {
                    self.seen.insert(to.clone(), *thing);
                }
            }
            Call::Remove(path) => {
                self.seen.remove(path);
            }
        }
    }

    /// What may be found when the power is back, as names with the bytes behind them (none: lost).
    fn states(&self) -> BTreeSet<BTreeMap<PathBuf, (usize, bool)>> {
        let appeared = self.seen.iter().filter(|(name, _)| !self.kept.contains_key(*name));
        let mut added = self.kept.clone();
        added.extend(appeared.map(|(name, thing)| (name.clone(), *thing)));
        let mut less = self.kept.clone();
        less.retain(|name, _| self.seen.contains_key(name));
        [self.kept.clone(), self.seen.clone(), added, less]
            .into_iter()
            .map(|names| {
                let reachable = |name: &Path| {
                    name.ancestors().skip(1).all(|above| {
                        names
                            .get(above)
                            .map_or(!self.seen.contains_key(above), |it| self.things[*it].is_folder)
                    })
                };
                let mut state = BTreeMap::new();
                for (name, thing) in names.iter().filter(|(name, _)| reachable(name)) {
                    state.insert(name.clone(), (*thing, self.things[*thing].durable));
                }
                state
            })
            .collect()
    }
}

/// One piece of work: the tree before it, what it asked of the disk, and the tree behind it.
struct Recorded {
    folder: tempfile::TempDir,
    key: Rc<Key>,
    calls: Vec<Call>,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    walk(from, &mut |path, is_folder| {
        let name = to.join(path.strip_prefix(from).unwrap());
        if is_folder {
            std::fs::create_dir(name).unwrap();
        } else {
            std::fs::copy(path, name).unwrap();
        }
    });
}

async fn recorded(work: &str) -> Recorded {
    let folder = tempfile::tempdir().unwrap();
    for name in ["disk/project", "told", "aside"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let key = Rc::new(Key::random().unwrap());
    let home = home_at(folder.path(), key.copy());
    if work != "first" {
        let repository = home.created().await;
        for seed in 1..=2 {
            home.write(&repository, seed).await.unwrap();
        }
    }
    copy(&folder.path().join("disk"), &folder.path().join("before"));
    let record = folder.path().join("record");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "0", "-e", "signal=none", "-e", &format!("trace={CALLS}"), "-o"])
        .arg(&record)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "faults::power::child", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .env(WORK, work)
        .env(KEY, key.to_text().expose_secret())
        .output()
        .expect("strace is there: apt-get install strace");
    assert!(output.status.success(), "{work}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{work}: no test ran");
    let calls = calls(&std::fs::read_to_string(record).unwrap(), folder.path());
    Recorded { folder, key, calls }
}

impl Recorded {
    fn disk(&self) -> Disk {
        Disk::with(&self.folder.path().join("before"), &self.folder.path().join("disk"))
    }

    /// What is wrong with the disk after the power was lost at any moment, if the calls that `skips` names had not been made.
    async fn replayed(&self, skips: impl Fn(&Call, &Disk) -> bool) -> Result<usize, String> {
        let contents = self.contents();
        let mut disk = self.disk();
        let (mut told, mut looked_at) = (BTreeSet::new(), BTreeSet::new());
        for (nth, call) in self.calls.iter().enumerate() {
            if let Call::Create(path) = call
                && let Ok(what) = path.strip_prefix(self.folder.path().join("told"))
            {
                told.insert(what.to_str().unwrap().to_owned());
            }
            if !skips(call, &disk) {
                disk.run(call);
            }
            for state in disk.states() {
                if looked_at.insert((state.clone(), told.clone())) {
                    let scratch = tempfile::tempdir().unwrap();
                    self.build(&disk, &state, &contents, scratch.path());
                    self.look(scratch.path(), &told).await.map_err(|error| {
                        format!("power lost after call {nth}, {call:?}, {told:?}: {error}")
                    })?;
                }
            }
        }
        Ok(looked_at.len())
    }

    /// By the order in which they were made, where the bytes of new files can be read: under their last names.
    fn contents(&self) -> Vec<Option<PathBuf>> {
        let mut disk = self.disk();
        let old = disk.things.len();
        for call in &self.calls {
            disk.run(call);
        }
        let mut contents = vec![None; disk.things.len() - old];
        for (name, thing) in disk.seen.iter().filter(|(_, thing)| **thing >= old) {
            contents[*thing - old] = Some(name.clone());
        }
        contents
    }

    fn build(
        &self,
        disk: &Disk,
        state: &BTreeMap<PathBuf, (usize, bool)>,
        contents: &[Option<PathBuf>],
        to: &Path,
    ) {
        let first_new = self.disk().things.len();
        for (name, (thing, durable)) in state {
            let below = name.strip_prefix(self.folder.path()).unwrap();
            if !below.starts_with("disk") {
                continue;
            }
            let path = to.join(below);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if disk.things[*thing].is_folder {
                std::fs::create_dir_all(&path).unwrap();
                continue;
            }
            let content = match thing.checked_sub(first_new) {
                None => disk.things[*thing].content.as_ref(),
                Some(new) => contents[new].as_ref(),
            };
            match content {
                Some(content) if *durable => {
                    std::fs::hard_link(content, &path).unwrap();
                }
                _ => std::fs::write(&path, "").unwrap(),
            }
        }
    }

    /// Whether all that was reported is there, and nothing else is wrong.
    async fn look(&self, folder: &Path, told: &BTreeSet<String>) -> Result<(), String> {
        let home = home_at(folder, self.key.copy());
        let repository = home.repository();
        let ctx = home.ctx();
        let mut wanted: BTreeSet<String> =
            told.iter().filter_map(|what| what.strip_prefix("backup-")).map(str::to_owned).collect();
        if self.folder.path().join("before/project/backups").exists() {
            let forgotten = told.contains("forgetting-1");
            wanted.extend(["1", "2"].into_iter().filter(|id| !(forgotten && *id == "1")).map(str::to_owned));
        }
        if wanted.is_empty() && told.is_empty() {
            // Nothing was ever there: whoever sets it up again must be able to.
            let said = |error: contract::Error| format!("it cannot be begun again: {error}");
            repository.create(&ctx).await.map_err(said)?;
            return home.write(&repository, 4).await.map(|_| ()).map_err(said);
        }
        let listing = repository.list(&ctx).await.map_err(|error| format!("no list: {error}"))?;
        if !listing.unreadable.is_empty() {
            return Err(format!("unreadable: {:?}", listing.unreadable));
        }
        let there: BTreeSet<String> = listing.kept.iter().filter_map(|kept| kept.id.clone()).collect();
        if !there.is_superset(&wanted) {
            return Err(format!("there are {there:?} of {wanted:?}"));
        }
        let check =
            repository.check(&ctx, CheckDepth::Everything).await.map_err(|error| error.to_string())?;
        let half_key = |problem: &&String| problem.contains("`keys/") && !told.contains("key-1");
        if let Some(problem) = check.problems.iter().find(|problem| !half_key(problem)) {
            return Err(problem.clone());
        }
        for kept in &listing.kept {
            home.restores(&repository, kept).await.map_err(|error| format!("{:?}: {error}", kept.id))?;
        }
        for number in told.iter().filter_map(|what| what.strip_prefix("log-")) {
            let logs = repository.logs().unwrap();
            let number: u64 = number.parse().unwrap();
            let listed = logs.list(&ctx, "orders").await.map_err(|error| error.to_string())?;
            let piece = listed.pieces.iter().find(|piece| piece.span.start == span(number).start);
            let piece = piece.ok_or_else(|| format!("the log {number} is gone"))?;
            let body = logs.read(&ctx, piece).await.map_err(|error| error.to_string())?;
            if body != log_body(number) {
                return Err(format!("the log {number} came back otherwise"));
            }
        }
        if told.contains("key-1") {
            let opened =
                repository.opens_with(&ctx, &PASSPHRASE.into()).await.map_err(|error| error.to_string())?;
            opened.ok_or("the new passphrase opens nothing")?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_is_there_when_the_power_was_lost_at_any_moment() {
    let mut states = 0;
    for work in ["first", "backup", "prune", "log", "key"] {
        let recorded = recorded(work).await;
        states += recorded.replayed(|_, _| false).await.unwrap_or_else(|error| panic!("{work}: {error}"));
    }
    eprintln!("{states} states of a disk after a loss of power");
    assert!(states > 50, "{states}");
}

/// As if a call to make something durable were missing in the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_synchronisation_is_found_out() {
    for work in ["first", "backup", "log", "key"] {
        let recorded = recorded(work).await;
        let of_file = |call: &Call, disk: &Disk| matches!(call, Call::Sync(path) if disk.seen.get(path).is_some_and(|it| !disk.things[*it].is_folder));
        let of_folder = |call: &Call, disk: &Disk| matches!(call, Call::Sync(_)) && !of_file(call, disk);
        assert!(recorded.replayed(of_file).await.is_err(), "{work}: without the bytes");
        assert!(recorded.replayed(of_folder).await.is_err(), "{work}: without the names");
    }
}
