//! Backups by the server's own words: definitions by its dump program, rows by `COPY` from one exported snapshot.

mod after_rows;
mod contents;
mod dump;
pub(crate) mod load;
mod place;
pub(crate) mod programs;
mod progress;
pub(crate) mod restored;
mod schema_text;
pub(crate) mod scratch_server;
mod swap;

pub(crate) use programs::{Libpq, Programs};
pub(crate) use scratch_server::{ScratchServer, on_this_disk};

/// Parts of a backup, in their order.
const README: &str = "0-readme.txt";
const ROLES: &str = "1-roles.sql";
const TABLESPACES: &str = "2-tablespaces.sql";
const DATABASE: &str = "3-database.sql";
const BEFORE_ROWS: &str = "4-before-rows.sql";
const ROWS: &str = "5-rows";
const INDEX: &str = "5-rows/index.tsv";
const LARGE_OBJECTS: &str = "6-large-objects";
const SEQUENCES: &str = "7-sequences.sql";
const AFTER_ROWS: &str = "8-after-rows.sql";
const RESTORE: &str = "restore.sh";

/// Names under which large objects and sequences are counted beside the tables.
const COUNTED_LARGE_OBJECTS: &str = "pg_catalog.pg_largeobject";
const COUNTED_SEQUENCES: &str = "pg_catalog.pg_sequences";
