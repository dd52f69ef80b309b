//! Looking for damage.
//!
//! The library's own check stops at the first bad index or record, and after one bad folder reads no data at all. This
//! one reads file by file, so that whatever is sound is told from what is not.

use std::collections::{BTreeSet, HashMap, HashSet};

use contract::{CheckDepth, Context, RepositoryCheck};
use rustic_core::repofile::{IndexFile, Node, NodeType, PackId};
use rustic_core::{Id, TreeId};

use crate::backend::{id_of, read_named};
use crate::error::{Fault, FaultKind, OrFault};
use crate::keyfile;
use crate::logs;
use crate::place::Place;
use crate::reading::{Indexed, indexed, salvaged};
use crate::run::stopped;
use crate::seal::Key;

/// Which of the files are read, by numbers that are random for each.
#[derive(Clone, Copy)]
pub(crate) struct Share(CheckDepth);

impl Share {
    pub(crate) fn has(self, number: u32) -> bool {
        match self.0 {
            CheckDepth::Structure => false,
            CheckDepth::Everything => true,
            CheckDepth::Share { nth, of } => number % of.max(1) == nth.saturating_sub(1) % of.max(1),
        }
    }
}

/// What was found in one repository.
struct Findings<'a> {
    ctx: &'a Context,
    place: &'a Place,
    key: &'a Key,
    check: RepositoryCheck,
    /// Packs that cannot give what the indexes say is in them.
    bad_packs: HashSet<Id>,
}

/// Checks one repository.
pub(crate) fn check(
    ctx: &Context,
    place: &Place,
    key: &Key,
    depth: CheckDepth,
) -> Result<RepositoryCheck, Fault> {
    let mut findings =
        Findings { ctx, place, key, check: RepositoryCheck::default(), bad_packs: HashSet::new() };
    match place.look(key) {
        Ok(_) => {}
        Err(fault) if fault.kind == FaultKind::Damaged => findings.check.problems.push(fault.to_string()),
        Err(fault) => return Err(fault),
    }
    findings.keys()?;
    let packs = findings.packs()?;
    findings.data(depth, &packs)?;
    findings.backups()?;
    findings.logs(depth)?;
    Ok(findings.check)
}

/// Whether backups need what no index names.
pub(crate) fn lacks_index(ctx: &Context, place: &Place, key: &Key) -> Result<bool, Fault> {
    let findings = Findings { ctx, place, key, check: RepositoryCheck::default(), bad_packs: HashSet::new() };
    let records = crate::snapshot::read_all(&*place.objects, key)?;
    let (_, repository) = indexed(ctx, &place.objects, key)?;
    let mut seen = HashMap::new();
    for record in &records.readable {
        if findings.tree(&repository, record.tree, &mut seen, 0)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Findings<'_> {
    fn go_on(&self) -> Result<(), Fault> {
        stopped(self.ctx).map_or(Ok(()), Err)
    }

    fn problem(&mut self, problem: impl std::fmt::Display) {
        let folder = self.place.folder();
        self.check.problems.push(format!("{folder}: {problem}"));
    }

    fn remark(&mut self, remark: impl std::fmt::Display) {
        let folder = self.place.folder();
        self.check.remarks.push(format!("{folder}: {remark}"));
    }

    fn keys(&mut self) -> Result<(), Fault> {
        for (id, file) in keyfile::key_files(&*self.place.objects)? {
            match file {
                Ok(file) => {
                    if let Err(fault) = file.check() {
                        self.problem(format_args!("`keys/{id}`: {fault}"));
                    }
                }
                Err(fault) if fault.kind == FaultKind::Damaged => self.problem(fault),
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Compares the packs that are there with those that the indexes name; gives the sound ones with their lengths.
    fn packs(&mut self) -> Result<Vec<(Id, String, u64)>, Fault> {
        let mut named: HashMap<Id, u64> = HashMap::new();
        let mut unreadable = 0;
        for found in self.place.objects.list("index")? {
            self.go_on()?;
            if id_of(&found.path).is_none() {
                continue;
            }
            match self.index(&found.path) {
                Ok(index) => {
                    // What is marked for deletion is still there, and may be needed again.
                    for pack in index.packs.iter().chain(&index.packs_to_delete) {
                        named.insert(id(pack.id), u64::from(pack.pack_size()));
                    }
                }
                Err(fault) if matches!(fault.kind, FaultKind::Damaged | FaultKind::Foreign) => {
                    unreadable += 1;
                    self.problem(fault);
                }
                Err(fault) if fault.kind == FaultKind::Missing => {}
                Err(fault) => return Err(fault),
            }
        }
        let mut sound = Vec::new();
        for found in self.place.objects.list("data")? {
            let Some(id) = id_of(&found.path) else { continue };
            match named.remove(&id) {
                Some(bytes) if bytes == found.bytes => sound.push((id, found.path, bytes)),
                Some(bytes) => {
                    self.bad_packs.insert(id);
                    self.problem(format_args!(
                        "`{}` has {} bytes instead of {bytes}",
                        found.path, found.bytes
                    ));
                }
                None if unreadable > 0 => sound.push((id, found.path, found.bytes)),
                None => self.remark(format_args!(
                    "`{}` is in no index: a backup is being written, or one was cut short",
                    found.path
                )),
            }
        }
        for missing in named.into_keys() {
            self.bad_packs.insert(missing);
            self.problem(format_args!("the pack `{}` is missing", missing.to_hex().as_str()));
        }
        sound.sort_unstable_by_key(|(id, ..)| *id);
        Ok(sound)
    }

    fn index(&self, path: &str) -> Result<IndexFile, Fault> {
        let sealed = read_named(&*self.place.objects, path)?;
        let json = self.key.open_record(&sealed).ok_or_else(|| {
            Fault::new(FaultKind::Foreign, format!("`{path}` was written with another key"))
        })?;
        serde_json::from_slice(&json)
            .map_err(|error| Fault::damaged(path, &format!("it is no index: {error}")))
    }

    /// Reads packs. The name of a pack is the hash of its bytes, and each blob was read again before it was written, so a
    /// pack with the right hash is sound.
    fn data(&mut self, depth: CheckDepth, packs: &[(Id, String, u64)]) -> Result<(), Fault> {
        for (id, path, _) in packs.iter().filter(|(id, ..)| Share(depth).has(id.as_u32())) {
            self.go_on()?;
            match read_named(&*self.place.objects, path) {
                Ok(bytes) => self.check.bytes_read += bytes.len() as u64,
                Err(fault) if matches!(fault.kind, FaultKind::Damaged | FaultKind::Missing) => {
                    self.bad_packs.insert(*id);
                    self.problem(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Reads pieces of the logs that lie here.
    fn logs(&mut self, depth: CheckDepth) -> Result<(), Fault> {
        for found in self.place.objects.list(logs::FOLDER)? {
            self.go_on()?;
            match logs::look(&*self.place.objects, self.key, &found, Share(depth)) {
                Ok(bytes) => self.check.bytes_read += bytes,
                Err(fault) if fault.kind == FaultKind::Damaged => self.problem(fault),
                // Deleted since it was listed.
                Err(fault) if fault.kind == FaultKind::Missing => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Walks through each backup and looks whether all that it needs is there.
    fn backups(&mut self) -> Result<(), Fault> {
        let records = crate::snapshot::read_all(&*self.place.objects, self.key)?;
        let mut damaged = BTreeSet::new();
        for (path, fault) in &records.unreadable {
            self.problem(fault);
            damaged.insert(path.rsplit('/').next().unwrap_or_default().to_owned());
        }
        if !records.readable.is_empty() {
            let trees: Vec<TreeId> = records.readable.iter().map(|record| record.tree).collect();
            match self.walk(&trees) {
                Ok(whys) => {
                    for (record, why) in records.readable.iter().zip(whys) {
                        let Some(why) = why else { continue };
                        let id = record.id.to_hex().as_str().to_owned();
                        self.problem(format_args!("the backup `{id}` cannot be restored whole: {why}"));
                        damaged.insert(id);
                    }
                }
                Err(fault) if fault.kind == FaultKind::Damaged => {
                    self.problem(fault);
                    damaged
                        .extend(records.readable.iter().map(|record| record.id.to_hex().as_str().to_owned()));
                }
                Err(fault) => return Err(fault),
            }
        }
        self.check.damaged.extend(damaged);
        Ok(())
    }

    /// What is wrong with each of these backups, if anything.
    fn walk(&mut self, trees: &[TreeId]) -> Result<Vec<Option<String>>, Fault> {
        let walk = |findings: &Self, repository: &Indexed| -> Result<Vec<Option<String>>, Fault> {
            let mut seen = HashMap::new();
            trees.iter().map(|tree| findings.tree(repository, *tree, &mut seen, 0)).collect()
        };
        let (_, repository) = indexed(self.ctx, &self.place.objects, self.key)?;
        let whys = walk(self, &repository)?;
        if whys.iter().all(Option::is_none) {
            return Ok(whys);
        }
        // Where an index is gone, the packs still say what is in them, and a restore asks them.
        drop(repository);
        let (_, repository) = salvaged(self.ctx, &self.place.objects, self.key)?;
        let salvaged = walk(self, &repository)?;
        if salvaged.iter().zip(&whys).any(|(with, without)| with.is_none() && without.is_some()) {
            self.problem(
                "an index is missing: what it said is in the packs; clean the repository to make it anew",
            );
        }
        Ok(salvaged)
    }

    /// What is wrong in a folder and below, if anything; each folder is read once.
    fn tree(
        &self,
        repository: &Indexed,
        tree: TreeId,
        seen: &mut HashMap<TreeId, Option<String>>,
        depth: usize,
    ) -> Result<Option<String>, Fault> {
        const DEPTH_MAX: usize = 64;
        self.go_on()?;
        if let Some(known) = seen.get(&tree) {
            return Ok(known.clone());
        }
        if depth > DEPTH_MAX {
            return Ok(Some("its folders do not end".into()));
        }
        let why = match self.nodes(repository, tree) {
            Ok(nodes) => {
                let mut first = None;
                for node in nodes {
                    let why = match (&node.node_type, node.subtree) {
                        (NodeType::Dir, Some(subtree)) => self.tree(repository, subtree, seen, depth + 1)?,
                        (NodeType::Dir, None) => Some(format!("the folder `{}` has no content", node.name)),
                        _ => self.file(repository, &node),
                    };
                    first = first.or(why);
                }
                first
            }
            Err(fault) if fault.kind == FaultKind::Damaged => Some(fault.to_string()),
            Err(fault) => return Err(fault),
        };
        seen.insert(tree, why.clone());
        Ok(why)
    }

    fn nodes(&self, repository: &Indexed, tree: TreeId) -> Result<Vec<Node>, Fault> {
        if let Ok(entry) = repository.get_index_entry(&tree)
            && self.bad_packs.contains(&id(entry.pack))
        {
            return Err(Fault::new(
                FaultKind::Damaged,
                format!("a folder is in the damaged pack `{}`", id(entry.pack).to_hex().as_str()),
            ));
        }
        Ok(repository.get_tree(&tree).or_fault("read a folder")?.nodes)
    }

    fn file(&self, repository: &Indexed, node: &Node) -> Option<String> {
        for blob in node.content.iter().flatten() {
            match repository.get_index_entry(blob) {
                Ok(entry) if self.bad_packs.contains(&id(entry.pack)) => {
                    let pack = id(entry.pack).to_hex();
                    return Some(format!("`{}` is in the damaged pack `{}`", node.name, pack.as_str()));
                }
                Ok(_) => {}
                Err(_) => return Some(format!("a part of `{}` is in no pack", node.name)),
            }
        }
        None
    }
}

fn id(pack: PackId) -> Id {
    pack.into_inner()
}
