//! What Git has in its last commit and the work tree has no more, or not so: read by the program `git`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes that are read at once.
const PIECE: usize = 1 << 16;
/// As much of what `git` says is read: the paths of a commit.
const LIST_BYTES_MAX: u64 = 512 << 20;

/// A file of the last commit.
struct Blob {
    id: String,
    size: u64,
    /// Where it would lie in the work tree.
    path: PathBuf,
}

/// Hands each file of the repository's last commit at or below `place` to `look`, piece by piece, that is gone from the
/// work tree or has changed there; `look` is called with `None` at a file's end, and stops the reading with `false`.
///
/// Nothing is asked of `git` that would run what a repository's configuration names: no filters, no hooks, no fetching.
///
/// # Errors
///
/// Why it cannot be read: there is no `git`, or what it says. A repository without a commit has nothing to read.
pub(crate) fn visit(
    repository: &Path,
    place: &Path,
    mut look: impl FnMut(&Path, Option<&[u8]>) -> bool,
) -> Result<(), String> {
    let blobs = blobs(repository, place)?;
    if blobs.is_empty() {
        return Ok(());
    }
    let mut child = git(repository, &["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(not_run)?;
    let asked = child.stdin.take().zip(child.stdout.take());
    let (mut stdin, stdout) = asked.expect("both are pipes");
    let mut stdout = BufReader::with_capacity(PIECE, stdout);
    let mut read = || -> io::Result<()> {
        for blob in &blobs {
            // Another size is another content; what is a link, a folder or a pipe now is gone.
            let is_alike =
                fs::symlink_metadata(&blob.path).is_ok_and(|data| data.is_file() && data.len() == blob.size);
            let mut there = if is_alike { File::open(&blob.path).ok() } else { None };
            if let Some(there) = &mut there {
                let mut same = true;
                fetch(&mut stdin, &mut stdout, &blob.id, |piece| {
                    let mut other = vec![0; piece.len()];
                    same = same && there.read_exact(&mut other).is_ok() && other == piece;
                    true
                })?;
                if same {
                    continue;
                }
            }
            let mut goes_on = true;
            fetch(&mut stdin, &mut stdout, &blob.id, |piece| {
                goes_on = goes_on && look(&blob.path, Some(piece));
                goes_on
            })?;
            if !(goes_on && look(&blob.path, None)) {
                break;
            }
        }
        Ok(())
    };
    let outcome = read().map_err(|cause| format!("what Git has committed cannot be read: {cause}"));
    // It ends when nothing more is asked.
    drop((stdin, stdout));
    drop(child.wait());
    outcome
}

/// Asks `cat-file` for an object and hands it on in pieces, all of them even when `piece` says that it has enough.
fn fetch(
    stdin: &mut impl Write,
    stdout: &mut impl BufRead,
    id: &str,
    mut piece: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    writeln!(stdin, "{id}")?;
    stdin.flush()?;
    let mut head = String::new();
    stdout.read_line(&mut head)?;
    let size: Option<u64> = head.trim_end().rsplit(' ').next().and_then(|size| size.parse().ok());
    let Some(size) = size else { return Err(io::Error::other(head.trim_end().to_owned())) };
    let mut left = size;
    let mut buffer = vec![0; PIECE];
    let mut wanted = true;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        stdout.read_exact(&mut buffer[..most])?;
        wanted = wanted && piece(&buffer[..most]);
        left -= most as u64;
    }
    stdout.read_exact(&mut buffer[..1]) // The line's end behind it.
}

/// The files of the last commit at or below a place.
fn blobs(repository: &Path, place: &Path) -> Result<Vec<Blob>, String> {
    let head = git(repository, &["rev-parse", "--quiet", "--verify", "HEAD^{commit}"])
        .stdin(Stdio::null())
        .output()
        .map_err(not_run)?;
    if !head.status.success() {
        let said = String::from_utf8_lossy(&head.stderr).trim().to_owned();
        return if said.is_empty() { Ok(Vec::new()) } else { Err(said) };
    }
    let commit = String::from_utf8_lossy(&head.stdout).trim().to_owned();
    let mut child = git(repository, &["ls-tree", "-r", "-l", "-z", "--full-tree", &commit])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(not_run)?;
    let mut listed = Vec::new();
    let mut stdout = child.stdout.take().expect("it is a pipe").take(LIST_BYTES_MAX);
    let read = stdout.read_to_end(&mut listed);
    drop(stdout);
    let ended = child.wait();
    if read.is_err() || !ended.is_ok_and(|status| status.success()) {
        return Err("the files of Git's last commit cannot be listed".to_owned());
    }
    let blob = |entry: &[u8]| {
        let at = entry.iter().position(|byte| *byte == b'\t')?;
        let (head, path) = (std::str::from_utf8(&entry[..at]).ok()?, &entry[at + 1..]);
        let mut words = head.split_whitespace();
        // Links are not followed, and submodules are repositories of their own.
        let mode = words.next().filter(|mode| mode.starts_with("100"))?;
        let (kind, id, size) = (words.next()?, words.next()?, words.next()?);
        debug_assert_eq!((kind, mode.len()), ("blob", 6));
        let path = repository.join(OsStr::from_bytes(path));
        let blob = Blob { id: id.to_owned(), size: size.parse().ok()?, path };
        blob.path.starts_with(place).then_some(blob)
    };
    Ok(listed.split(|byte| *byte == 0).filter_map(blob).collect())
}

fn git(repository: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    // Called from a hook, these name another repository.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"] {
        command.env_remove(name);
    }
    command
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .args(["-c", "protocol.allow=never", "-c", "core.fsmonitor=false", "-C"])
        .arg(repository)
        .args(args);
    command
}

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn not_run(cause: io::Error) -> String {
    if cause.kind() == io::ErrorKind::NotFound {
        return "what Git has committed needs the program `git`, which is not there".to_owned();
    }
    format!("`git` cannot be run: {cause}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn run(dir: &Path, args: &[&str]) {
        let mut all = vec!["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        all.extend(args);
        let done = git(dir, &all).output().expect("git runs");
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// What is handed over, by path.
    fn seen(repository: &Path, place: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut ended = Vec::new();
        visit(repository, place, |path, piece| {
            let name = path.strip_prefix(repository).expect("it lies in it").display().to_string();
            match piece {
                Some(piece) => all.entry(name).or_insert_with(Vec::new).extend_from_slice(piece),
                None => ended.push(name),
            }
            true
        })
        .expect("it is read");
        assert_eq!(ended, all.keys().cloned().collect::<Vec<_>>(), "each file has one end");
        all
    }

    #[test]
    fn what_is_gone_or_changed_since_the_last_commit_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        run(root, &["init", "-q"]);
        assert!(seen(root, root).is_empty(), "no commit yet");
        let large = vec![b'x'; 3 * PIECE + 7];
        fs::create_dir(root.join("a")).expect("a folder");
        for (name, bytes) in [
            ("same", &b"as it was\n"[..]),
            ("changed", b"before\n"),
            ("longer", b"short\n"),
            ("a/gone", b"gone\n"),
            ("a/old \n name", b"odd\n"),
            ("large", &large),
            ("linked", b"a link now\n"),
        ] {
            fs::write(root.join(name), bytes).expect("a file");
        }
        run(root, &["add", "."]);
        run(root, &["commit", "-q", "-m", "first"]);
        assert!(seen(root, root).is_empty(), "nothing has changed");
        fs::write(root.join("changed"), "after.\n").expect("a file");
        fs::write(root.join("longer"), "much longer\n").expect("a file");
        fs::write(root.join("new"), "never committed\n").expect("a file");
        for name in ["a/gone", "a/old \n name", "large", "linked"] {
            fs::remove_file(root.join(name)).expect("it is there");
        }
        std::os::unix::fs::symlink("same", root.join("linked")).expect("a link");
        // What is staged is not committed.
        run(root, &["add", "."]);
        let all = seen(root, root);
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(names, ["a/gone", "a/old \n name", "changed", "large", "linked", "longer"]);
        assert_eq!((&all["changed"][..], &all["longer"][..]), (&b"before\n"[..], &b"short\n"[..]));
        assert_eq!(all["large"], large);
        assert_eq!(seen(root, &root.join("a")).len(), 2, "only below the place");
        assert_eq!(seen(root, &root.join("a/gone")).len(), 1);
        // Reading stops when it is told to, also in the middle of a file.
        let mut calls = 0;
        visit(root, &root.join("large"), |_, _| {
            calls += 1;
            false
        })
        .expect("it is read");
        assert_eq!(calls, 1);
        let empty = tempfile::tempdir().expect("a folder");
        fs::write(empty.path().join(".git"), "gitdir: /nowhere\n").expect("a file");
        assert!(visit(empty.path(), empty.path(), |_, _| true).is_err_and(|why| why.contains("nowhere")));
    }
}
