//! What only this adapter reads of the manifest of a physical backup.

use contract::{BackupMethod, Dumped, Error, ErrorKind, LogPosition};
use serde::{Deserialize, Serialize};

use super::FILES;
use crate::store::KIND;

/// Mode of nearly all files of a server.
const USUAL_MODE: u32 = 0o600;
/// Parts of one folder.
const PARTS_PER_FOLDER: u64 = 1_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Detail {
    /// The server's own identity.
    pub(crate) system_id: String,
    pub(crate) version_num: i32,
    pub(crate) timeline: u32,
    /// Where redo begins.
    pub(crate) start: LogPosition,
    /// From where on the copy is consistent.
    pub(crate) stop: LogPosition,
    /// Length of a file of the log.
    pub(crate) wal_file_bytes: u64,
    /// Whether it was taken from a server that follows another.
    pub(crate) standby: bool,
    /// Whether pages carry checksums.
    pub(crate) page_checksums: bool,
    /// A superuser who may log in.
    pub(crate) superuser: String,
    /// The database that the store is about.
    pub(crate) database: String,
    /// Settings that a copy must have at least as large, with their values.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) tablespaces: Vec<Tablespace>,
    pub(crate) disk_bytes: u64,
    /// Folders, links and files in the order in which they are made. The parts of the files follow one another.
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tablespace {
    pub(crate) oid: u32,
    /// Where it was.
    pub(crate) location: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Below the data directory; what is in a tablespace is below its link.
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<u32>,
    /// Of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    /// How many parts a file has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) parts: u64,
    /// What a link points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Entry {
    pub(crate) fn file(path: String, mode: u32, bytes: u64, parts: u64) -> Self {
        let mode = (mode != USUAL_MODE).then_some(mode);
        Self { path, mode, bytes: Some(bytes), parts, link: None }
    }

    pub(crate) fn folder(path: String, mode: u32) -> Self {
        Self { path, mode: Some(mode), ..Self::default() }
    }

    pub(crate) fn link(path: String, target: String) -> Self {
        Self { path, link: Some(target), ..Self::default() }
    }

    pub(crate) fn file_mode(&self) -> u32 {
        self.mode.unwrap_or(USUAL_MODE)
    }
}

/// The path of the part of this number.
pub(crate) fn part_path(number: u64) -> String {
    format!("{FILES}/{:06}/{number:09}", number / PARTS_PER_FOLDER)
}

impl Detail {
    pub(crate) fn of(dumped: &Dumped) -> Result<Self, Error> {
        if dumped.kind != KIND || dumped.method != BackupMethod::Physical {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the backup is of a store of kind `{}`, not a physical one of `{KIND}`", dumped.kind),
            ));
        }
        serde_json::from_value(dumped.detail.clone()).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "the manifest does not say what the parts are").because(error)
        })
    }

    pub(crate) fn major(&self) -> u32 {
        u32::try_from(self.version_num / 10_000).unwrap_or(0)
    }

    /// The beginning of the first file of the log that the backup does not hold whole.
    pub(crate) fn log_goes_on_at(&self) -> LogPosition {
        let last = self.stop.0.saturating_sub(1) / self.wal_file_bytes;
        // What ends a backup switches to the next file; on a standby nothing does, and the last one may be cut short.
        LogPosition(if self.standby { last } else { last + 1 } * self.wal_file_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_goes_on_behind_the_last_whole_file() {
        let mut detail = Detail {
            system_id: String::new(),
            version_num: 170_000,
            timeline: 1,
            start: LogPosition(0),
            stop: LogPosition(0x0200_0100),
            wal_file_bytes: 16 << 20,
            standby: false,
            page_checksums: false,
            superuser: String::new(),
            database: String::new(),
            settings: Vec::new(),
            tablespaces: Vec::new(),
            disk_bytes: 0,
            entries: Vec::new(),
        };
        for (stop, standby, expected) in [
            (0x0200_0100, false, 0x0300_0000),
            (0x0300_0000, false, 0x0300_0000),
            (0x0200_0100, true, 0x0200_0000),
            (0x0300_0000, true, 0x0200_0000),
        ] {
            (detail.stop, detail.standby) = (LogPosition(stop), standby);
            assert_eq!(detail.log_goes_on_at(), LogPosition(expected), "{stop:x} {standby}");
        }
    }

    #[test]
    fn parts_sort_as_they_are_counted() {
        let paths: Vec<String> = [0, 1, 999, 1_000, 1_001, 999_999_999].map(part_path).to_vec();
        assert!(paths.is_sorted(), "{paths:?}");
        assert_eq!(paths[3], "2-files/000001/000001000");
    }
}
