//! A restored database in the place of the store's own: two names are exchanged, and whoever dies meanwhile leaves a sign.
//!
//! The sign is a setting of the database that is closed, written in the transaction that closes it. It follows the database
//! when it gets another name. So a closed database with the sign under its own name is one that a dead process has closed,
//! and one under another name is what was there before a swap that came to its end. A database that somebody else has
//! closed bears no sign and is left alone.

use std::time::Duration;

use contract::{Context, Error, ErrorKind, SwapLeft};
use jiff::Timestamp;
use tokio_postgres::Client;

use super::place::{drop_database, outside};
use crate::error::translate;
use crate::session::Purpose;
use crate::statement::{quote_identifier, quote_literal};
use crate::store::PostgresStore;

/// What sessions that were told to end have for it at least: a server stops at the next point where it can.
const END_TIME: Duration = Duration::from_secs(10);
/// How long putting in order may take when the time of whoever swapped is over: sessions of theirs may have to end first.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(1);
/// The setting that is the sign; its value is the copy's name and the moment.
const SIGN: &str = "steward.swap";
/// As in the names of databases that were replaced.
const STAMP: &str = "%Y%m%dt%H%M%S";
/// Longest part of a database's name that is in the name of what it was.
const NAME_BYTES_MAX: usize = 40;

/// The databases that are exchanged.
struct Names<'a> {
    live: &'a str,
    copy: &'a str,
    before: String,
    /// The value of the sign.
    sign: String,
}

impl<'a> Names<'a> {
    fn new(live: &'a str, copy: &'a str, now: Timestamp) -> Self {
        let cut =
            (0..=NAME_BYTES_MAX.min(live.len())).rev().find(|at| live.is_char_boundary(*at)).unwrap_or(0);
        let stamp = stamp(now);
        Self {
            live,
            copy,
            before: format!("{}_before_{stamp}", &live[..cut]),
            sign: format!("{copy} {stamp}"),
        }
    }
}

fn stamp(at: Timestamp) -> String {
    at.strftime(STAMP).to_string()
}

/// What undoes a swap, in words.
fn undo(live: &str, before: &str) -> String {
    let (live, before) = (quote_identifier(live), quote_identifier(before));
    format!(
        "the database as it was is {before}, closed for connections; back: ALTER DATABASE {live} RENAME TO \"wrong\"; \
         ALTER DATABASE {before} RENAME TO {live}; ALTER DATABASE {live} RESET {SIGN}; \
         ALTER DATABASE {live} WITH ALLOW_CONNECTIONS true"
    )
}

/// One swap of a database at a time. Held until the session ends, which the server does when it notices that a client is gone
/// and what that had asked for is done.
async fn alone(client: &Client, live: &str) -> Result<(), Error> {
    let key = quote_literal(&format!("steward swap {live}"));
    let lock = format!("SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended({key}, 0))");
    client.batch_execute(&lock).await.map_err(|error| translate(&error))
}

/// Locks others out, waits until they have ended or ends them, and exchanges the names in one transaction.
async fn exchange(
    client: &Client,
    names: &Names<'_>,
    wait: Duration,
    end_sessions: bool,
) -> Result<(), Error> {
    let failed = |error: tokio_postgres::Error| translate(&error);
    let (live, copy, before) =
        (quote_identifier(names.live), quote_identifier(names.copy), quote_identifier(&names.before));
    client
        .batch_execute(&format!(
            "BEGIN; ALTER DATABASE {live} SET {SIGN} = {}; ALTER DATABASE {live} WITH ALLOW_CONNECTIONS false; COMMIT",
            quote_literal(&names.sign)
        ))
        .await
        .map_err(failed)?;
    let mut until = tokio::time::Instant::now() + wait;
    let mut ended = false;
    loop {
        let others = client
            .query(
                "SELECT pg_catalog.format('session %s of %I (%s) in %I', pid, coalesce(usename, 'nobody'), \
                   coalesce(nullif(application_name, ''), 'no name'), datname) \
                 FROM pg_catalog.pg_stat_activity \
                 WHERE datname IN ($1, $2) AND pid <> pg_catalog.pg_backend_pid() AND backend_type <> 'autovacuum worker' \
                 ORDER BY pid LIMIT 10",
                &[&names.live, &names.copy],
            )
            .await
            .map_err(failed)?;
        if others.is_empty() {
            break;
        }
        let is_over = tokio::time::Instant::now() >= until;
        if is_over && end_sessions && !ended {
            // Nobody can come back: new ones are locked out.
            client
                .execute(
                    "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
                     WHERE datname IN ($1, $2) AND pid <> pg_catalog.pg_backend_pid()",
                    &[&names.live, &names.copy],
                )
                .await
                .map_err(failed)?;
            ended = true;
            until = tokio::time::Instant::now() + wait.max(END_TIME);
        } else if is_over {
            let connected: Vec<String> = others.iter().map(|row| row.get(0)).collect();
            return Err(Error::new(ErrorKind::Conflict, "others are connected and do not end")
                .because(connected.join("; "))
                .hint("end the programs that use it, or restore with `--end-sessions`, and try again"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client
        .batch_execute(&format!(
            "BEGIN; ALTER DATABASE {live} RENAME TO {before}; ALTER DATABASE {copy} RENAME TO {live}; \
             ALTER DATABASE {live} WITH ALLOW_CONNECTIONS true; COMMIT"
        ))
        .await
        .map_err(failed)
}

/// Opens the database again if a swap has closed it.
async fn reopen(client: &Client, live: &str) -> Result<bool, Error> {
    let failed = |error: tokio_postgres::Error| translate(&error);
    let signed = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database AS d \
         JOIN pg_catalog.pg_db_role_setting AS s ON s.setdatabase = d.oid AND s.setrole = 0, \
         pg_catalog.unnest(s.setconfig) AS one (setting) \
         WHERE d.datname = $1 AND pg_catalog.starts_with(one.setting, $2::text || '='))";
    if !client.query_one(signed, &[&live, &SIGN]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(false);
    }
    let live = quote_identifier(live);
    let open = format!(
        "BEGIN; ALTER DATABASE {live} RESET {SIGN}; ALTER DATABASE {live} WITH ALLOW_CONNECTIONS true; COMMIT"
    );
    client.batch_execute(&open).await.map_err(failed)?;
    Ok(true)
}

/// The database in whose place the copy of this name is since then.
async fn replaced_by(
    client: &Client,
    copy: &str,
    live: &str,
    since: Timestamp,
) -> Result<Option<String>, Error> {
    let failed = |error: tokio_postgres::Error| translate(&error);
    // While there is a copy of the name, it did not take anything's place.
    let before = "SELECT d.datname::text FROM pg_catalog.pg_database AS d \
         JOIN pg_catalog.pg_db_role_setting AS s ON s.setdatabase = d.oid AND s.setrole = 0, \
         pg_catalog.unnest(s.setconfig) AS one (setting) \
         WHERE d.datname <> $3 AND pg_catalog.starts_with(one.setting, $1::text || '=' || $2::text || ' ') \
           AND pg_catalog.right(one.setting, 15) COLLATE \"C\" >= $4 \
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_database AS c WHERE c.datname = $2) \
         ORDER BY pg_catalog.right(one.setting, 15) COLLATE \"C\" DESC LIMIT 1";
    let found = client.query_opt(before, &[&SIGN, &copy, &live, &stamp(since)]).await.map_err(failed)?;
    Ok(found.map(|row| row.get(0)))
}

impl PostgresStore {
    /// Puts the copy in the place of the store's own database. After an error that one is as before, open.
    pub(super) async fn exchange(
        &self,
        ctx: &Context,
        live: &str,
        copy: &str,
        end_sessions: bool,
    ) -> Result<String, Error> {
        // Our own sessions would be in the way.
        self.close_idle();
        let names = Names::new(live, copy, ctx.now());
        let wait = Duration::from_millis(self.opener.config.lock_timeout_ms);
        let swapped = async {
            // It ends with this block, and whoever puts in order waits for it.
            let session = outside(ctx, &self.opener).await?;
            alone(&session.client, live).await?;
            exchange(&session.client, &names, wait, end_sessions).await
        };
        let Err(error) = self.within(ctx, Box::pin(swapped)).await else {
            return Ok(undo(live, &names.before));
        };
        // Nobody stays locked out, whatever happened, and also when the caller's time is over.
        let again = Context::new(ctx.project(), ctx.actor().clone()).with_timeout(SETTLE_TIMEOUT);
        let settled = async {
            let session = outside(&again, &self.opener).await?;
            alone(&session.client, live).await?;
            reopen(&session.client, live).await?;
            let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)";
            let row = session.client.query_one(there, &[&names.before]).await;
            row.map(|row| row.get::<_, bool>(0)).map_err(|error| translate(&error))
        };
        match again.run(settled).await {
            // Only the answer was lost.
            Ok(true) => Ok(undo(live, &names.before)),
            Ok(false) => Err(error),
            Err(_) => Err(error.hint(format!(
                "the server could not be asked again: if `{live}` takes no connections, the next restore of this store opens it, \
                 or `ALTER DATABASE {} WITH ALLOW_CONNECTIONS true`",
                quote_identifier(live)
            ))),
        }
    }

    /// Ends what a swap that was cut off has left.
    pub(super) async fn settle(
        &self,
        ctx: &Context,
        copy: &str,
        since: Timestamp,
    ) -> Result<SwapLeft, Error> {
        let live = self.opener.address_for(Purpose::Administer).database.clone();
        let settled = async {
            let session = outside(ctx, &self.opener).await?;
            let client = &session.client;
            alone(client, &live).await?;
            if let Some(before) = replaced_by(client, copy, &live, since).await? {
                return Ok(SwapLeft::InPlace(format!(
                    "the restored copy is in the place of `{live}`; {}",
                    undo(&live, &before)
                )));
            }
            let reopened = reopen(client, &live).await?;
            let failed = |error: tokio_postgres::Error| translate(&error);
            let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)";
            let mut said = if reopened {
                format!("`{live}` was closed for the swap and is open again as it was before")
            } else {
                format!("`{live}` is as it was before")
            };
            // Its name was free when the restore was planned, so it is what that has loaded.
            if client.query_one(there, &[&copy]).await.map_err(failed)?.get::<_, bool>(0) {
                drop_database(&self.opener, copy).await?;
                said.push_str("; the restored copy was taken away");
            }
            Ok(SwapLeft::AsBefore(said))
        };
        self.within(ctx, Box::pin(settled)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_what_was_replaced_fits() {
        let at: Timestamp = "2026-03-04T05:06:07Z".parse().unwrap();
        let names = Names::new("shop", "restored_1", at);
        assert_eq!(names.before, "shop_before_20260304t050607");
        assert_eq!(names.sign, "restored_1 20260304t050607");
        let long = "ä".repeat(31);
        assert!(Names::new(&long, "c", at).before.len() <= 63);
    }
}
