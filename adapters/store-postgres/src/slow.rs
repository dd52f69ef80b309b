//! Statements by time, from the extension `pg_stat_statements`.

use std::time::Instant;

use async_trait::async_trait;
use contract::{Context, Error, ErrorKind, SlowAnswer, SlowStatements, StatementStatistics};

use crate::error::translate;
use crate::session::{Purpose, Session};
use crate::statement::quote_identifier;
use crate::store::{CATALOG_TIMEOUT, PostgresStore, milliseconds};

/// Since this version the extension says since when it counts, and how much it has forgotten.
const INFO_VERSION_NUM: i32 = 140_000;

/// Nothing is counted, or nobody may look.
fn not_counted(reason: &str, instead: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "the server has no statistics of statements for this database")
        .with("reason", reason)
        .hint(instead)
}

#[async_trait]
impl SlowStatements for PostgresStore {
    /// Reads the extension's view with the reading login, without what Steward's own logins ran. Before PostgreSQL 14 it
    /// is not known since when it counts.
    async fn slow_statements(&self, ctx: &Context, statements_max: u32) -> Result<SlowAnswer, Error> {
        let session = self.within(ctx, self.opener.open(ctx, Purpose::Observe)).await?;
        let answer = self.within(ctx, self.read_statistics(&session, statements_max)).await;
        if answer.is_err() {
            session.stopper().stop().await;
        }
        answer
    }
}

impl PostgresStore {
    async fn read_statistics(&self, session: &Session, statements_max: u32) -> Result<SlowAnswer, Error> {
        let client = &session.client;
        let failed = |error: tokio_postgres::Error| translate(&error);
        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {}{}",
            milliseconds(CATALOG_TIMEOUT),
            session.prelude
        );
        client.batch_execute(&begin).await.map_err(failed)?;
        // The extension's settings are known if and only if the server has loaded it at its start.
        let row = client
            .query_one(
                "SELECT (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
                 WHERE e.extname = 'pg_stat_statements') AS schema, \
                 EXISTS (SELECT FROM pg_settings WHERE name = 'pg_stat_statements.max') AS loaded, \
                 current_setting('pg_stat_statements.track', true) AS track, \
                 pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all",
                &[],
            )
            .await
            .map_err(failed)?;
        let (schema, loaded): (Option<String>, bool) = (row.get("schema"), row.get("loaded"));
        let (track, sees_all): (Option<String>, bool) = (row.get("track"), row.get("sees_all"));
        let schema = match (schema, loaded) {
            (Some(schema), true) => schema,
            (None, true) => {
                return Err(not_counted(
                    "the server counts statements, and this database has no view of it",
                    "let an administrator run `CREATE EXTENSION pg_stat_statements` in this database; no restart is needed",
                ));
            }
            (_, false) => {
                return Err(not_counted(
                    "the server does not load the extension `pg_stat_statements`, so nothing is counted",
                    "let an administrator run `ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'` (after \
                     what it holds already), restart the server, and run `CREATE EXTENSION pg_stat_statements` in this \
                     database",
                ));
            }
        };
        let config = &self.opener.config;
        let excluded_users: Vec<String> = [Some(&config.reader), config.writer.as_ref()]
            .into_iter()
            .flatten()
            .map(|l| l.user.clone())
            .collect();
        let (since, forgotten) = if session.rights.version_num >= INFO_VERSION_NUM {
            let sql = format!(
                "SELECT to_char(stats_reset AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS since, dealloc \
                 FROM {schema}.pg_stat_statements_info"
            );
            let row = client.query_one(&sql, &[]).await.map_err(failed)?;
            (row.get::<_, Option<String>>("since"), row.get::<_, i64>("dealloc"))
        } else {
            (None, 0)
        };
        let statement = include_str!("sql/slow.sql").replace("{schema}", &schema);
        let started = Instant::now();
        let rows = client
            .query(&statement, &[&excluded_users, &i64::from(statements_max)])
            .await
            .map_err(failed)
            .map_err(|error| match error.kind() {
                ErrorKind::Denied => error.hint(format!(
                    "GRANT SELECT ON {schema}.pg_stat_statements TO {}",
                    quote_identifier(&session.rights.login.user)
                )),
                _ => error,
            })?;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        let hidden = if track.as_deref() == Some("none") {
            Some("`pg_stat_statements.track` is none: nothing is counted".to_owned())
        } else if rows.iter().any(|row| row.get::<_, bool>("hidden")) || !sees_all {
            Some(format!(
                "the texts of other logins' statements are hidden from `{user}`: `GRANT pg_read_all_stats TO {user}`, \
                 which `steward store setup` does, shows them",
                user = session.rights.login.user
            ))
        } else {
            None
        };
        Ok(SlowAnswer {
            statement,
            since,
            total_ms: rows.first().map_or(0.0, |row| row.get("all_ms")),
            forgotten: unsigned(forgotten),
            excluded_users,
            hidden,
            statements: rows
                .iter()
                .filter(|row| !row.get::<_, bool>("hidden"))
                .map(|row| StatementStatistics {
                    id: row.get::<_, Option<String>>("id").unwrap_or_default(),
                    text: row.get("text"),
                    user: row.get::<_, Option<String>>("user").unwrap_or_default(),
                    calls: unsigned(row.get("calls")),
                    total_ms: row.get("total_ms"),
                    mean_ms: row.get("mean_ms"),
                    stddev_ms: row.get("stddev_ms"),
                    max_ms: row.get("max_ms"),
                    rows: unsigned(row.get("rows")),
                    blocks_hit: unsigned(row.get("blocks_hit")),
                    blocks_read: unsigned(row.get("blocks_read")),
                    blocks_temporary: unsigned(row.get("blocks_temporary")),
                })
                .collect(),
            elapsed_ms,
        })
    }
}
