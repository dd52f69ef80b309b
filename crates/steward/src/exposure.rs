//! Exposed keys in files: walks a folder and shows each file to the gateway's detector, and what Git's last commit has
//! of files that are gone or have changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use contract::{ActorKind, Context, Error, ErrorKind, Evidence, Finding, Outcome, Severity, Trigger};
use gateway::ScanPath;
use gateway::scan::{Detector, Exposure, FileScan, Known, Leak};
use serde_json::json;

use crate::committed;
use crate::door::Steward;
use crate::project::Project;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;
/// Files and bytes after which a scan ends, and says so.
const FILES_MAX: u64 = 1_000_000;
const BYTES_MAX: u64 = 64 << 30;
/// Exposures that are told one by one.
const EXPOSURES_MAX: usize = 10_000;
/// Folders that are not looked into: Git's objects are compressed, and Steward's state is sealed.
const SKIPPED: &[&str] = &[".git", ".steward"];
/// Largest index of a Git repository that is read.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// The file or folder that a request means: anywhere for who sits at this machine, otherwise in the project's folder.
///
/// # Errors
///
/// `Invalid`: the path leads out of the project's folder. `NotFound`.
pub(crate) fn place(ctx: &Context, project: &Project, path: Option<&str>) -> Result<PathBuf, Error> {
    let dir = &project.loaded().dir;
    let here = matches!(ctx.actor().kind, ActorKind::Local | ActorKind::Person);
    let place = match path {
        None | Some("." | "./") => dir.clone(),
        Some(path) if here && Path::new(path).is_absolute() => PathBuf::from(path),
        Some(path) => dir.join(crate::files::real_relative(dir, path)?),
    };
    if fs::symlink_metadata(&place).is_err() {
        return Err(Error::new(ErrorKind::NotFound, "there is no such file or folder")
            .with("path", path.unwrap_or(".")));
    }
    Ok(place)
}

#[derive(Default)]
struct Found {
    files: u64,
    bytes: u64,
    exposures: Vec<Exposure>,
    more: u64,
    /// Files of last commits that are gone or have changed in the work tree.
    committed: u64,
    /// Work trees of Git that were met.
    repositories: BTreeSet<PathBuf>,
    /// Files that could not be read, with why.
    unread: Vec<(String, String)>,
    /// A bound was reached.
    cut: bool,
}

/// Looks at every file below a place.
///
/// # Errors
///
/// `NotFound`, `Invalid`: the path. Otherwise as the vault's and the ledger's.
pub(crate) async fn scan(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &ScanPath,
) -> Result<Outcome, Error> {
    let root = place(ctx, project, request.path.as_deref())?;
    let keys = steward.virtual_keys();
    let mut known = Known::new(keys.fingerprints().clone());
    let mut values = Vec::new();
    steward
        .vault()
        .visit(ctx, |name, version, value| values.push((format!("{name}@{version}"), value.clone())))
        .await?;
    for (name, value) in &values {
        known.add(name, value);
    }
    drop(values);
    for stored in keys.stored(ctx).await? {
        let state = if stored.key.valid(ctx.now()) { "" } else { " (no longer valid)" };
        for (hash, _) in &stored.hashes {
            known.add_key(&format!("{}{state}", stored.key.name), *hash);
        }
    }
    let (base, started, cancellation) =
        (project.loaded().dir.clone(), std::time::Instant::now(), ctx.cancellation().clone());
    let walked = root.clone();
    let found = ctx
        .run(async move {
            tokio::task::spawn_blocking(move || {
                let mut found = Found::default();
                let walk = Walk { detector: &Detector::new(), known: &known, base: &base };
                let tracked = Tracked::above(&walked);
                found
                    .repositories
                    .extend(walked.ancestors().skip(1).find(|at| is_work_tree(at)).map(Path::to_owned));
                let canceled = || cancellation.is_cancelled();
                walk.visit(&walked, tracked.as_ref(), &mut found, &canceled);
                for repository in std::mem::take(&mut found.repositories) {
                    walk.last_commit(&repository, &walked, &mut found, &canceled);
                }
                found
            })
            .await
            .map_err(|cause| Error::new(ErrorKind::Other, "the scan ended in the middle").because(cause))
        })
        .await?;
    Ok(outcome(ctx, &root, &found, started.elapsed().as_secs_f64() * 1e3))
}

fn outcome(ctx: &Context, root: &Path, found: &Found, elapsed_ms: f64) -> Outcome {
    let value = json!({
        "path": root, "files": found.files, "bytes": found.bytes, "exposures": found.exposures,
        "committed_files": found.committed,
        "not_listed": found.more, "cut": found.cut,
        "unread": found.unread.iter().map(|(file, why)| json!({ "file": file, "reason": why })).collect::<Vec<_>>(),
    });
    let evidence =
        Evidence::new("files", &format!("scan {}", root.display()), value.clone(), ctx.now(), elapsed_ms);
    let mut lines = Vec::new();
    let mut findings = Vec::new();
    let finding =
        |code: &str, severity, title: String, object: String, recommendation: Option<&str>| Finding {
            code: code.into(),
            severity,
            title,
            object,
            recommendation: recommendation.map(str::to_owned),
            evidence: vec![evidence.id.clone()],
            escalate: None,
        };
    for exposure in &found.exposures {
        let mut what = exposure.kind.about().to_owned();
        if let Some(name) = &exposure.name {
            what = format!("{what}: `{name}`");
        }
        if exposure.committed {
            what.push_str(", in Git's last commit");
        } else if exposure.tracked {
            what.push_str(", kept by Git");
        }
        lines.push(format!("{}:{}: {what}", exposure.file, exposure.line));
        findings.push(finding(
            "exposed_key",
            severity(exposure),
            format!("{what} in {}:{}", exposure.file, exposure.line),
            format!("{}:{} {}", exposure.file, exposure.line, exposure.kind),
            Some(advice(exposure)),
        ));
    }
    if found.more > 0 {
        lines.push(format!("{} further exposures are not listed", found.more));
    }
    for (file, why) in &found.unread {
        lines.push(format!("{file}: not read: {why}"));
        findings.push(finding(
            "not_read",
            Severity::Info,
            format!("{file} was not read: {why}"),
            file.clone(),
            None,
        ));
    }
    if found.cut {
        let title = "the scan ended before everything was looked at: scan its parts".to_owned();
        lines.push(title.clone());
        findings.push(finding("scan_cut", Severity::Warning, title, String::new(), None));
    }
    let count = found.exposures.len() as u64 + found.more;
    let mut summary = format!(
        "{} exposed {} in {} {} ({} KiB)",
        if count == 0 { "no".to_owned() } else { count.to_string() },
        if count == 1 { "key or secret" } else { "keys and secrets" },
        found.files,
        if found.files == 1 { "file" } else { "files" },
        found.bytes.div_ceil(1024)
    );
    if found.committed > 0 {
        write!(summary, " and in {} of Git's last commit that are gone or changed here", found.committed)
            .expect("writing to a string does not fail");
    }
    let serious = findings.iter().filter(|finding| finding.severity == Severity::Critical).count();
    if serious > 0 {
        // One escalation for the scan: a folder full of keys is one incident.
        let mut whole = finding(
            "keys_exposed",
            Severity::Critical,
            format!("{serious} keys or secrets lie open in files below {}", root.display()),
            root.display().to_string(),
            Some("treat each as known to others: give it a new value first, then remove it from the file"),
        );
        whole.escalate = Some(Trigger::AiApiMisuse);
        findings.insert(0, whole);
    }
    lines.push(summary);
    let mut outcome = Outcome::new(value, lines.join("\n"));
    outcome.findings = findings;
    outcome.evidence.push(evidence);
    outcome
}

fn severity(exposure: &Exposure) -> Severity {
    match exposure.kind {
        // The id of a key without its secret, and what only looks like a key.
        Leak::AwsAccessKeyId | Leak::ApiKey if exposure.name.is_none() => Severity::Warning,
        _ => Severity::Critical,
    }
}

fn advice(exposure: &Exposure) -> &'static str {
    match (exposure.kind, exposure.tracked) {
        (Leak::StewardKey, _) => "give the client a new value: `steward ai keys regenerate NAME`",
        (Leak::StewardToken, _) => "withdraw it: `steward token revoke NAME`",
        (_, true) => "give it a new value; Git's history keeps the old one for whoever has the repository",
        (_, false) => "give it a new value, keep that in the vault, and remove this one from the file",
    }
}

struct Walk<'a> {
    detector: &'a Detector,
    known: &'a Known,
    base: &'a Path,
}

impl Walk<'_> {
    fn visit(&self, path: &Path, tracked: Option<&Tracked>, found: &mut Found, canceled: &dyn Fn() -> bool) {
        if found.cut || canceled() {
            return;
        }
        let data = match fs::symlink_metadata(path) {
            Ok(data) => data,
            Err(cause) => return found.unread.push((self.shown(path), cause.to_string())),
        };
        if data.is_dir() {
            if is_work_tree(path) {
                found.repositories.insert(path.to_owned());
            }
            let own = Tracked::of(path);
            let tracked = own.as_ref().or(tracked);
            let mut entries: Vec<PathBuf> = match fs::read_dir(path) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(cause) => return found.unread.push((self.shown(path), cause.to_string())),
            };
            entries.sort();
            for entry in entries {
                let skipped =
                    entry.file_name().is_some_and(|name| SKIPPED.iter().any(|skipped| *skipped == name));
                if skipped && entry.is_dir() {
                    // Addresses of remotes may hold tokens.
                    if entry.ends_with(".git") && entry.join("config").is_file() {
                        self.file(&entry.join("config"), None, found);
                    }
                    continue;
                }
                self.visit(&entry, tracked, found, canceled);
            }
        } else if data.is_file() {
            self.file(path, tracked, found);
        }
    }

    fn file(&self, path: &Path, tracked: Option<&Tracked>, found: &mut Found) {
        if found.files >= FILES_MAX || found.bytes >= BYTES_MAX {
            found.cut = true;
            return;
        }
        let mut scan = FileScan::new(self.detector, self.known);
        let read = File::open(path).and_then(|mut file| {
            let mut piece = vec![0; PIECE];
            loop {
                let count = file.read(&mut piece)?;
                if count == 0 {
                    return Ok(());
                }
                found.bytes += count as u64;
                scan.push(&piece[..count]);
                if found.bytes >= BYTES_MAX {
                    return Ok(());
                }
            }
        });
        if let Err(cause) = read {
            return found.unread.push((self.shown(path), cause.to_string()));
        }
        found.files += 1;
        self.tell(path, scan, tracked.is_some_and(|tracked| tracked.has(path)), false, found);
    }

    /// What the last commit has of files that are gone or have changed.
    fn last_commit(&self, repository: &Path, place: &Path, found: &mut Found, canceled: &dyn Fn() -> bool) {
        if found.cut || canceled() {
            return;
        }
        let mut scan: Option<FileScan<'_>> = None;
        let read = committed::visit(repository, place, |path, piece| {
            let within = path.strip_prefix(repository).unwrap_or(path);
            if within.components().any(|part| SKIPPED.iter().any(|skipped| part.as_os_str() == *skipped)) {
                return true;
            }
            let Some(piece) = piece else {
                found.committed += 1;
                let scan = scan.take().unwrap_or_else(|| FileScan::new(self.detector, self.known));
                self.tell(path, scan, true, true, found);
                return true;
            };
            found.bytes += piece.len() as u64;
            scan.get_or_insert_with(|| FileScan::new(self.detector, self.known)).push(piece);
            found.cut |= found.files + found.committed >= FILES_MAX || found.bytes >= BYTES_MAX;
            !(found.cut || canceled())
        });
        if let Err(why) = read {
            found.unread.push((self.shown(&repository.join(".git")), why));
        }
    }

    fn tell(&self, path: &Path, scan: FileScan<'_>, tracked: bool, committed: bool, found: &mut Found) {
        for (line, hit) in scan.finish() {
            if found.exposures.len() >= EXPOSURES_MAX {
                found.more += 1;
                continue;
            }
            found.exposures.push(Exposure {
                file: self.shown(path),
                line,
                kind: hit.leak,
                length: hit.range.len(),
                name: hit.name,
                tracked,
                committed,
            });
        }
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(self.base).unwrap_or(path).display().to_string()
    }
}

/// Whether a work tree of Git begins here.
fn is_work_tree(path: &Path) -> bool {
    fs::symlink_metadata(path.join(".git")).is_ok()
}

/// The files that a Git repository keeps.
struct Tracked {
    root: PathBuf,
    files: BTreeSet<Vec<u8>>,
}

impl Tracked {
    /// The repository in whose work tree a place lies.
    fn above(place: &Path) -> Option<Tracked> {
        place.ancestors().skip(1).find_map(Self::of)
    }

    /// The repository whose work tree begins at this folder.
    fn of(root: &Path) -> Option<Tracked> {
        let git = root.join(".git");
        let data = fs::symlink_metadata(&git).ok()?;
        let git = if data.is_dir() {
            git
        } else {
            // A work tree or submodule names its folder in a file.
            let text = fs::read_to_string(&git).ok()?;
            root.join(text.strip_prefix("gitdir:")?.trim())
        };
        let index = git.join("index");
        if fs::metadata(&index).ok()?.len() > INDEX_BYTES_MAX {
            return None;
        }
        Some(Tracked { root: root.to_owned(), files: paths(&fs::read(index).ok()?)? })
    }

    fn has(&self, path: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let Ok(relative) = path.strip_prefix(&self.root) else { return false };
        let parts: Vec<&[u8]> = relative
            .components()
            .filter_map(|part| match part {
                Component::Normal(part) => Some(part.as_bytes()),
                _ => None,
            })
            .collect();
        self.files.contains(&parts.join(&b'/'))
    }
}

/// The paths in a Git index, version 2 to 4, of a repository with SHA-1 names.
///
/// Source: Git's gitformat-index(5).
fn paths(index: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
    let number = |at: usize| Some(u32::from_be_bytes(index.get(at..at + 4)?.try_into().ok()?));
    if index.get(..4)? != b"DIRC" {
        return None;
    }
    let (version, count) = (number(4)?, number(8)?);
    if !(2..=4).contains(&version) {
        return None;
    }
    let mut at = 12;
    let mut before: Vec<u8> = Vec::new();
    let mut files = BTreeSet::new();
    for _ in 0..count {
        let flags = u16::from_be_bytes(index.get(at + 60..at + 62)?.try_into().ok()?);
        let mut name = at + 62 + if version >= 3 && flags & 0x4000 != 0 { 2 } else { 0 };
        if version == 4 {
            let mut strip = 0_usize;
            loop {
                let byte = *index.get(name)?;
                name += 1;
                strip = (strip << 7) | usize::from(byte & 0x7f);
                if byte & 0x80 == 0 {
                    break;
                }
                strip += 1;
            }
            before.truncate(before.len().checked_sub(strip)?);
        } else {
            before.clear();
        }
        let length = index.get(name..)?.iter().position(|byte| *byte == 0)?;
        before.extend_from_slice(&index[name..name + length]);
        files.insert(before.clone());
        at = if version == 4 { name + length + 1 } else { at + (name + length - at + 8) / 8 * 8 };
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(dir: &Path, args: &[&str]) {
        let done = std::process::Command::new("git").args(args).current_dir(dir).output().expect("git runs");
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    #[test]
    fn what_git_keeps_is_read_from_its_index() {
        for version in ["2", "3", "4"] {
            let dir = tempfile::tempdir().expect("a folder");
            git(dir.path(), &["init", "-q"]);
            fs::create_dir_all(dir.path().join("a/b")).expect("a folder");
            for name in ["a/b/one", "a/b/oneself", "a/two", "z", "a/b/not"] {
                fs::write(dir.path().join(name), name).expect("a file");
            }
            git(dir.path(), &["add", "a/b/one", "a/b/oneself", "a/two", "z"]);
            git(dir.path(), &["update-index", "--index-version", version]);
            let tracked = Tracked::above(&dir.path().join("a/b")).expect("a repository");
            for (name, kept) in [
                ("a/b/one", true),
                ("a/b/oneself", true),
                ("a/two", true),
                ("z", true),
                ("a/b/not", false),
                ("a", false),
            ] {
                assert_eq!(tracked.has(&dir.path().join(name)), kept, "{name} in version {version}");
            }
        }
        for broken in [&b"DIRC"[..], b"DIRC\0\0\0\x02\0\0\0\x09", b"", b"DIRC\0\0\0\x09\0\0\0\0"] {
            assert_eq!(paths(broken), None, "{broken:?}");
        }
    }
}
