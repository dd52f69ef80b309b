//! The records that make backups exist, one file each.

use contract::{BackupLabel, Kept, Layout};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustic_core::repofile::{SnapshotFile, SnapshotId};

use crate::backend::{id_of, read_named};
use crate::error::{Fault, FaultKind};
use crate::lock::hostname;
use crate::objects::Objects;
use crate::seal::Key;

/// The tag of every backup that Steward wrote.
const MARK: &str = "steward";

/// The record of a new backup, as far as it is known before.
pub(crate) fn record(label: &BackupLabel) -> SnapshotFile {
    let mut record = SnapshotFile {
        time: label.at.to_zoned(TimeZone::UTC),
        hostname: hostname(),
        username: "steward".into(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        program_version: concat!("steward ", env!("CARGO_PKG_VERSION")).into(),
        ..SnapshotFile::default()
    };
    // restic keeps tags and drops most other fields when it rewrites a record.
    record.tags.add(MARK.into());
    for (name, value) in
        [("id", &label.id), ("project", &label.project), ("store", &label.store), ("plan", &label.plan)]
    {
        record.tags.add(format!("{name}={value}"));
    }
    record
}

/// A record of this repository as a caller knows it.
pub(crate) fn kept(record: &SnapshotFile, snapshot: &str, layout: Layout) -> Kept {
    let is_ours = record.tags.contains(MARK);
    let tag = |name: &str| {
        let value = record.tags.iter().find_map(|tag| tag.strip_prefix(name)?.strip_prefix('='))?;
        is_ours.then(|| value.to_owned())
    };
    Kept {
        snapshot: snapshot.to_owned(),
        id: tag("id"),
        project: tag("project"),
        store: tag("store"),
        plan: tag("plan"),
        at: Timestamp::from(&record.time),
        layout,
    }
}

/// Reads one record without the library, which would need the repository's config for it.
pub(crate) fn read(objects: &dyn Objects, key: &Key, path: &str) -> Result<SnapshotFile, Fault> {
    let sealed = read_named(objects, path)?;
    let json = key
        .open_record(&sealed)
        .ok_or_else(|| Fault::new(FaultKind::Foreign, format!("`{path}` was written with another key")))?;
    let mut record: SnapshotFile = serde_json::from_slice(&json)
        .map_err(|error| Fault::damaged(path, &format!("it is no record of a backup: {error}")))?;
    record.id = SnapshotId::from(id_of(path).expect("a file whose name is the hash of its bytes has an id"));
    Ok(record)
}

/// All records, and why the others cannot be read.
pub(crate) struct Records {
    pub(crate) readable: Vec<SnapshotFile>,
    pub(crate) unreadable: Vec<(String, Fault)>,
}

pub(crate) fn read_all(objects: &dyn Objects, key: &Key) -> Result<Records, Fault> {
    let mut records = Records { readable: Vec::new(), unreadable: Vec::new() };
    for found in objects.list("snapshots")? {
        // Other names are not restic's.
        if id_of(&found.path).is_none() {
            continue;
        }
        match read(objects, key, &found.path) {
            Ok(record) => records.readable.push(record),
            // Forgotten since it was listed.
            Err(fault) if fault.kind == FaultKind::Missing => {}
            Err(fault) => records.unreadable.push((found.path, fault)),
        }
    }
    records.readable.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.id.cmp(&b.id)));
    records.unreadable.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(records)
}

/// Where the record of a backup lies; `None` where the name cannot be one.
pub(crate) fn path_of(snapshot: &str) -> Option<String> {
    let path = format!("snapshots/{snapshot}");
    (id_of(&path).is_some() && !snapshot.contains('/')).then_some(path)
}
