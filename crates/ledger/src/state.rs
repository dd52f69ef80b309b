//! The state file: made, recognised, migrated.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use contract::{Error, ErrorKind};

use crate::head::Signer;
use crate::seal::Sealer;
use crate::sealed::seal_old_rows;
use crate::sqlite::Connection;

/// One script for each version; never edited once shipped.
const MIGRATIONS: [&str; 18] = [
    include_str!("../sql/0001_state.sql"),
    include_str!("../sql/0002_ai.sql"),
    include_str!("../sql/0003_ai_keys.sql"),
    include_str!("../sql/0004_sealed.sql"),
    include_str!("../sql/0005_unsealed_gone.sql"),
    include_str!("../sql/0006_ai_cache.sql"),
    include_str!("../sql/0007_ai_prompts.sql"),
    include_str!("../sql/0008_ai_jobs.sql"),
    include_str!("../sql/0009_ai_cache_checks.sql"),
    include_str!("../sql/0010_ai_things_by_id.sql"),
    include_str!("../sql/0011_backups.sql"),
    include_str!("../sql/0012_backup_origin_and_drills.sql"),
    include_str!("../sql/0013_backup_copies.sql"),
    include_str!("../sql/0014_job_timing.sql"),
    include_str!("../sql/0015_backup_groups.sql"),
    include_str!("../sql/0016_repository_shares.sql"),
    include_str!("../sql/0017_backup_logs.sql"),
    include_str!("../sql/0018_backup_acceptance.sql"),
];
/// After this one, what lies in the clear is sealed.
const SEALING: usize = 4;

/// The keys by which a state file is recognised, and what to tell whoever has others.
pub(crate) struct Locks<'a> {
    pub(crate) sealer: &'a Sealer,
    pub(crate) signer: &'a Signer,
    pub(crate) key_hint: &'a str,
}

/// Opens the state file for writing; makes it if there is none. Writes nothing to a file of another key, of another
/// program or of a newer version.
pub(crate) fn open(path: &Path, locks: &Locks<'_>, pages_max: Option<u32>) -> Result<Connection, Error> {
    make_file(path)?;
    let connection = Connection::open_writer(path, pages_max)?;
    let version = version(&connection, path, locks)?;
    if version < MIGRATIONS.len() {
        connection.use_write_ahead_log()?;
        connection.begin_write()?;
        let result = migrate(&connection, path, locks).and_then(|()| connection.commit());
        if result.is_err() {
            connection.rollback();
        }
        result?;
        if (1..SEALING).contains(&version) {
            connection.empty_log(); // It holds what was in the clear.
        }
    }
    Ok(connection)
}

/// Checks an existing state file without writing to it.
pub(crate) fn check(connection: &Connection, path: &Path, locks: &Locks<'_>) -> Result<(), Error> {
    match version(connection, path, locks)? {
        0 => Err(Error::new(ErrorKind::NotFound, "the state file is empty").with("file", path.display())),
        version if version < MIGRATIONS.len() => {
            Err(Error::new(ErrorKind::Unsupported, "the state file is of an older version of Steward")
                .with("file", path.display())
                .with("schema_version", version)
                .hint("open it once with a command that may write, such as `steward up`"))
        }
        _ => Ok(()),
    }
}

fn make_file(path: &Path) -> Result<(), Error> {
    let denied = |cause: std::io::Error| {
        let kind = match cause.kind() {
            std::io::ErrorKind::StorageFull => ErrorKind::LimitExceeded,
            _ => ErrorKind::Denied,
        };
        Error::new(kind, "the state file cannot be made")
            .with("file", path.display())
            .because(cause)
            .hint("make its directory writable for the user that runs Steward")
    };
    if path.exists() {
        // Best effort: a file that belongs to someone else keeps its mode and opens if it may be opened.
        if let Ok(metadata) = path.metadata()
            && metadata.permissions().mode() & 0o077 != 0
            && let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        {
            tracing::warn!(file = %path.display(), %error, "others may read the state file");
        }
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory
        && !directory.exists()
    {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(denied)?;
    }
    match std::fs::File::options().create_new(true).write(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {} // Another process was faster.
        Err(cause) => return Err(denied(cause)),
    }
    // So that a power failure cannot take a file whose content has been fsynced.
    std::fs::File::open(directory.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .map_err(denied)
}

/// The version of a file that is ours and opens with our keys; 0 for an empty file.
fn version(connection: &Connection, path: &Path, locks: &Locks<'_>) -> Result<usize, Error> {
    let tables = connection.tables()?;
    if tables.is_empty() {
        return Ok(0);
    }
    let foreign = || {
        Error::new(ErrorKind::Invalid, "this file is a database, but not a state file of Steward")
            .with("file", path.display())
            .hint("name another file for the state, or move this one away")
    };
    if !["meta", "events", "bodies"].iter().all(|name| tables.iter().any(|table| table == name)) {
        return Err(foreign());
    }
    let mut found = [None, None, None];
    for row in connection.query("SELECT name, value FROM meta", &[])? {
        let value = row.get_text("value")?.to_owned();
        match row.get_text("name")? {
            "schema_version" => found[0] = Some(value),
            "key_check" => found[1] = Some(value),
            "audit_public_key" => found[2] = Some(value),
            _ => {}
        }
    }
    let [Some(version), Some(key_check), Some(public_key)] = found else { return Err(foreign()) };
    let version: usize = version.parse().map_err(|_| foreign())?;
    if version > MIGRATIONS.len() {
        return Err(Error::new(ErrorKind::Unsupported, "the state file is of a newer version of Steward")
            .with("file", path.display())
            .with("schema_version", version)
            .with("schema_version_max", MIGRATIONS.len())
            .hint("use the newer version of Steward that wrote it"));
    }
    let wrong_key = |error: Error| error.with("file", path.display()).hint(locks.key_hint);
    locks.sealer.check(&key_check).map_err(wrong_key)?;
    if public_key != locks.signer.public_key() {
        return Err(wrong_key(Error::new(ErrorKind::Denied, "the master key does not sign this state file")));
    }
    Ok(version)
}

fn migrate(connection: &Connection, path: &Path, locks: &Locks<'_>) -> Result<(), Error> {
    // Another process may have been faster.
    let version = version(connection, path, locks)?;
    for (script, number) in MIGRATIONS.iter().zip(1..).skip(version) {
        connection.migrate(script, number == 1)?;
        if number == SEALING {
            seal_old_rows(connection, locks.sealer)?;
        }
    }
    if version == 0 {
        let insert = "INSERT INTO meta (name, value) VALUES (?, ?)";
        connection.execute(insert, &["key_check".into(), locks.sealer.key_check().into()])?;
        connection.execute(insert, &["audit_public_key".into(), locks.signer.public_key().into()])?;
    }
    connection.execute(
        "INSERT INTO meta (name, value) VALUES ('schema_version', ?) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        &[MIGRATIONS.len().to_string().into()],
    )?;
    Ok(())
}
