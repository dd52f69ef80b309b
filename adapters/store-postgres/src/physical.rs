//! Physical backups: the server's own files, taken by its own program, and its log.

mod base;
mod detail;
mod follow;
mod load;
mod manifest;
mod received;
mod receiver;
mod restored;
mod tar;

pub(crate) use load::log_start;

/// Parts of a backup, in their order.
const README: &str = "0-readme.txt";
const FILES: &str = "2-files";
const INDEX: &str = "3-index.tsv";
const SERVER_MANIFEST: &str = "4-backup-manifest.json";
const RESTORE: &str = "restore.sh";

/// Names of the server's files that are treated apart.
const BACKUP_MANIFEST: &str = "backup_manifest";
const BACKUP_LABEL: &str = "backup_label";
const TABLESPACE_MAP: &str = "tablespace_map";
