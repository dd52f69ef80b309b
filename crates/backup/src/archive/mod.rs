//! Rows that are old: moved into files that others can read, or deleted, by rules, and never while they are under a hold.

mod ending;
mod files;
mod look;
mod manifest;
mod place;
mod predicate;
mod query;
mod restore;
mod rule;
mod run;
mod sweep;

pub use look::{ListArchives, ShowArchive, VerifyArchive, list_archives, show_archive, verify_archive};
pub use manifest::{ArchiveFile, ArchiveManifest, Ending, Stayed};
pub use place::Folder;
pub use query::{QueryArchive, query_archive};
pub use restore::{RestoreArchive, plan_restore_archive, restore_archive};
pub use rule::{ColdRule, LegalHold};
pub use run::{ArchiveRows, finish_archive, plan_archive, run_archive};
pub use sweep::{ApplyRetention, ListRetention, apply_retention, list_retention, plan_retention};

use std::collections::BTreeMap;
use std::sync::Arc;

use contract::cold::ArchivePlace;
use contract::columnar::Columnar;
use contract::{Error, ErrorKind};

use crate::Surroundings;

/// What the room knows of a project's old rows, beside what it knows of its backups.
pub trait ColdSurroundings: Surroundings {
    /// Rules that move rows, by name.
    fn archive_rules(&self) -> &BTreeMap<String, ColdRule>;

    /// Rules that delete rows, by name.
    fn retention_rules(&self) -> &BTreeMap<String, ColdRule>;

    /// What no rule may touch, by name.
    fn legal_holds(&self) -> &BTreeMap<String, LegalHold>;

    /// The place that a rule's `to` names.
    ///
    /// # Errors
    ///
    /// `Invalid`: it names none.
    fn archive_place(&self, to: &str) -> Result<Arc<dyn ArchivePlace>, Error>;

    /// What reads and writes the files.
    fn columnar(&self) -> Arc<dyn Columnar>;
}

/// A rule by its name.
///
/// # Errors
///
/// `NotFound`: there is none; the hint names those that there are.
fn rule_named<'a>(
    rules: &'a BTreeMap<String, ColdRule>,
    name: &str,
    section: &str,
) -> Result<&'a ColdRule, Error> {
    rules.get(name).ok_or_else(|| {
        let known: Vec<&str> = rules.keys().map(String::as_str).collect();
        let error = Error::new(ErrorKind::NotFound, format!("there is no rule `{name}` under `{section}`"));
        if known.is_empty() {
            error.hint(format!("add one under `{section}.rules` in steward.yaml"))
        } else {
            error.hint(format!("there are: {}", known.join(", ")))
        }
    })
}

/// The next number with two digits that are not 0: what an approval covers does not change with the next row.
fn at_most(rows: u64) -> u64 {
    let mut step = 1;
    while rows / step >= 100 {
        step *= 10;
    }
    rows.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    #[test]
    fn bounds_have_two_digits() {
        for (rows, bound) in
            [(0, 0), (7, 7), (99, 99), (100, 100), (101, 110), (12_345, 13_000), (990_001, 1_000_000)]
        {
            assert_eq!(super::at_most(rows), bound, "{rows}");
        }
    }
}
