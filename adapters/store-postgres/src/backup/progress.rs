//! How far the load of a database has come, kept in that database: a load that was killed is gone on with, not begun anew.
//!
//! Each mark is written in the transaction of what it stands for, so neither is there without the other.

use std::collections::HashSet;

use contract::{Error, ErrorKind, PartRecord, sha256_hex};
use tokio_postgres::Client;

use super::dump::Detail;
use crate::error::translate;
use crate::statement::quote_literal;

/// Milliseconds that sessions of a killed load have to end; the server may be in the middle of an index.
const END_MS: i64 = 10_000;
const MAKE: &str = "CREATE SCHEMA steward_loading; CREATE TABLE steward_loading.done (what text PRIMARY KEY)";
/// Event triggers of the database are none of this.
const END: &str = "SET session_replication_role = replica; SET client_min_messages = warning; \
     DROP SCHEMA IF EXISTS steward_loading CASCADE; RESET session_replication_role; RESET client_min_messages";

/// What was done; nothing is marked where a load is not gone on with.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    kept: bool,
    done: HashSet<String>,
}

impl Progress {
    /// That of a load of the same backup into the database of `client`, once no other session is in it; `None` where there is
    /// nothing to go on with.
    ///
    /// # Errors
    ///
    /// As the server's.
    pub(crate) async fn left(client: &Client, backup: &str) -> Result<Option<Self>, Error> {
        let failed = |error: tokio_postgres::Error| translate(&error);
        let others = "SELECT coalesce(bool_and(pg_catalog.pg_terminate_backend(pid, $1)), true) \
             FROM pg_catalog.pg_stat_activity \
             WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()";
        let alone: bool = client.query_one(others, &[&END_MS]).await.map_err(failed)?.get(0);
        let there = "SELECT pg_catalog.to_regclass('steward_loading.done') IS NOT NULL";
        if !alone || !client.query_one(there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
            return Ok(None);
        }
        let rows = client.query("SELECT what FROM steward_loading.done", &[]).await.map_err(failed)?;
        let done: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
        Ok(done.contains(backup).then_some(Self { kept: true, done }))
    }

    /// Begins to keep it, unless the backup has a schema of this name.
    ///
    /// # Errors
    ///
    /// As the server's.
    pub(crate) async fn begin(client: &Client, backup: &str) -> Result<Self, Error> {
        let failed = |error: tokio_postgres::Error| translate(&error);
        let taken = "SELECT pg_catalog.to_regnamespace('steward_loading') IS NOT NULL";
        if client.query_one(taken, &[]).await.map_err(failed)?.get(0) {
            return Ok(Self::default());
        }
        let mut begun = Self { kept: true, done: HashSet::new() };
        client
            .batch_execute(&format!("BEGIN; {MAKE}{}; COMMIT", begun.mark(backup)))
            .await
            .map_err(failed)?;
        begun.done.insert(backup.to_owned());
        Ok(begun)
    }

    /// Takes it out of the database, which is whole.
    ///
    /// # Errors
    ///
    /// As the server's.
    pub(crate) async fn end(&self, client: &Client) -> Result<(), Error> {
        if !self.kept {
            return Ok(());
        }
        client.batch_execute(END).await.map_err(|error| translate(&error))
    }

    pub(crate) fn is_done(&self, what: &str) -> bool {
        self.done.contains(what)
    }

    /// What goes into the transaction of a statement, behind it; empty where nothing is kept.
    pub(crate) fn mark(&self, what: &str) -> String {
        if !self.kept {
            return String::new();
        }
        format!(";\nINSERT INTO steward_loading.done VALUES ({}) ON CONFLICT DO NOTHING", quote_literal(what))
    }
}

/// Tells a backup from all others.
///
/// # Errors
///
/// `Other`: what is known of it cannot be written down.
pub(crate) fn backup_of(detail: &Detail, parts: &[PartRecord]) -> Result<String, Error> {
    let known = serde_json::to_vec(&(detail, parts)).map_err(|error| {
        Error::new(ErrorKind::Other, "what is known of the backup cannot be written").because(error)
    })?;
    Ok(format!("backup {}", sha256_hex(&known)))
}

/// Names a statement.
pub(crate) fn statement_of(sql: &str) -> String {
    format!("statement {}", sha256_hex(sql.as_bytes()))
}
