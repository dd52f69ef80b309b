//! A server that was restored: what it holds, whether it is sound.

use std::time::Duration;

use async_trait::async_trait;
use contract::quantity::count;
use contract::{
    Context, Dumped, Error, ErrorKind, IntegrityProblem, IntegrityReport, PartSource, RecoveryPoint,
    Restored, Selection, TableDigest,
};
use std::sync::Mutex;
use tokio_postgres::Client;

use super::detail::Detail;
use super::load::SET_ASIDE;
use crate::backup::ScratchServer;
use crate::backup::programs::Programs;
use crate::backup::scratch_server::as_somebody;
use crate::error::translate;

/// Longest time for the check of one relation.
const CHECK_TIMEOUT: Duration = Duration::from_hours(1);

/// A restored server; it is taken away with its handle unless it is kept.
pub(crate) struct RestoredServer {
    server: tokio::sync::Mutex<ScratchServer>,
    address: String,
    data: String,
    programs: Programs,
    detail: Detail,
    reached: Option<RecoveryPoint>,
    proof: Mutex<Vec<String>>,
}

impl RestoredServer {
    pub(super) fn new(
        server: ScratchServer,
        programs: Programs,
        detail: Detail,
        files: usize,
        reached: Option<RecoveryPoint>,
    ) -> Self {
        let consistent = format!("the server started on them and was consistent from {} on", detail.stop);
        let proof =
            vec![format!("{} as the server's own list has them", count(files as u64, "file")), consistent];
        Self {
            address: server.address(&detail.database),
            data: server.data().display().to_string(),
            server: tokio::sync::Mutex::new(server),
            programs,
            detail,
            reached,
            proof: Mutex::new(proof),
        }
    }

    fn prove(&self, line: String) {
        self.proof.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line);
    }

    async fn connect(&self, ctx: &Context, database: &str) -> Result<Client, Error> {
        let client = self.server.lock().await.connect(ctx, database).await?;
        let settings = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
                        SET row_security = off; SET search_path = ''";
        ctx.run(async { client.batch_execute(settings).await.map_err(|error| translate(&error)) }).await?;
        Ok(client)
    }

    async fn databases(&self, ctx: &Context) -> Result<Vec<String>, Error> {
        let client = self.connect(ctx, "template1").await?;
        let all = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1";
        let rows = ctx.run(async { client.query(all, &[]).await.map_err(|error| translate(&error)) }).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Reads every page once more with the server's own program, which wants the server stopped meanwhile.
    async fn check_pages(&self, ctx: &Context, report: &mut IntegrityReport) -> Result<(), Error> {
        if !self.detail.page_checksums {
            self.prove("its pages carry no checksums that could be compared".to_owned());
            return Ok(());
        }
        let mut server = self.server.lock().await;
        server.pause(ctx).await?;
        let ran = ScratchServer::run(&self.programs, "pg_checksums", &["--check", "-D", &self.data]);
        let started = server.again(ctx).await;
        let ran = ran?;
        started?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let number =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        match (ran.status.success(), number("Blocks scanned:"), number("Bad checksums:")) {
            (true, Some(blocks), Some(0)) => {
                self.prove(format!("the checksums of {} are right", count(blocks, "page")));
            }
            (_, _, Some(bad)) if bad > 0 => report.problems.push(IntegrityProblem {
                object: "pages".to_owned(),
                problem: format!(
                    "{bad} have a wrong checksum: {}",
                    String::from_utf8_lossy(&ran.stderr).trim()
                ),
            }),
            _ => {
                return Err(Error::new(ErrorKind::Unavailable, "`pg_checksums` failed")
                    .because(String::from_utf8_lossy(&ran.stderr).trim().to_owned()));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Restored for RestoredServer {
    fn address(&self) -> String {
        self.address.clone()
    }

    /// All rows of all databases, which are counted and have no digest.
    async fn fingerprint(&self, ctx: &Context, _: &Dumped) -> Result<Vec<TableDigest>, Error> {
        let (mut counted, databases) = (Vec::new(), self.databases(ctx).await?);
        for database in &databases {
            let client = self.connect(ctx, database).await?;
            let tables = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.pg_relation_size(c.oid) \
                 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
                   AND n.nspname NOT LIKE 'pg\\_toast%' AND c.relpersistence <> 't' AND c.relispopulated ORDER BY 1";
            let failed = |error: tokio_postgres::Error| translate(&error).with("database", database);
            let tables = ctx.run(async { client.query(tables, &[]).await.map_err(failed) }).await?;
            for row in &tables {
                let table: String = row.get(0);
                let count = format!("SELECT count(*) FROM ONLY {table}");
                let rows = ctx.run(async { client.query_one(&count, &[]).await.map_err(failed) }).await?;
                counted.push(TableDigest {
                    table: format!("{database}.{table}"),
                    rows: u64::try_from(rows.get::<_, i64>(0)).unwrap_or(0),
                    bytes: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
                    digest: String::new(),
                });
            }
        }
        let rows = counted.iter().map(|table| table.rows).sum();
        self.prove(format!(
            "{} in {} of {} read and counted",
            count(rows, "row"),
            count(counted.len() as u64, "table"),
            count(databases.len() as u64, "database")
        ));
        Ok(counted)
    }

    async fn schema_differences(
        &self,
        _: &Context,
        _: &Dumped,
        _: &dyn PartSource,
        _: &Selection,
    ) -> Result<Vec<String>, Error> {
        // The catalog came as files, which are compared as such.
        Ok(Vec::new())
    }

    async fn check(&self, ctx: &Context) -> Result<IntegrityReport, Error> {
        let mut whole = IntegrityReport::default();
        for database in self.databases(ctx).await? {
            let client = self.connect(ctx, &database).await?;
            let report = ctx
                .run(crate::backup::restored::check_database(&client, self.detail.version_num, CHECK_TIMEOUT))
                .await?;
            let named = |problem: IntegrityProblem| IntegrityProblem {
                object: format!("{database}: {}", problem.object),
                problem: problem.problem,
            };
            whole.checked += report.checked;
            whole.problems.extend(report.problems.into_iter().map(named));
            whole.unchecked.extend(report.unchecked.into_iter().map(named));
        }
        if whole.problems.is_empty() {
            self.prove(format!("amcheck found nothing in {}", count(whole.checked, "relation")));
        }
        self.check_pages(ctx, &mut whole).await?;
        Ok(whole)
    }

    async fn probe(&self, ctx: &Context, sql: &str) -> Result<bool, Error> {
        // With the settings that the user's own sessions have.
        let client = self.server.lock().await.connect(ctx, &self.detail.database).await?;
        ctx.run(crate::backup::restored::probe(&client, sql)).await
    }

    fn reached(&self) -> Option<RecoveryPoint> {
        self.reached.clone()
    }

    fn proven_by(&self) -> Vec<String> {
        self.proof.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn take_over(&self) -> Vec<String> {
        let quoted = |path: &str| format!("'{}'", path.replace('\'', r"'\''"));
        // Its programs refuse to run as root, and its files belong to who ran it.
        let somebody: String = as_somebody()
            .map(|(words, _)| words.iter().flat_map(|word| [word.as_str(), " "]).collect())
            .unwrap_or_default();
        let (data, bin) = (quoted(&self.data), quoted(&self.programs.folder.display().to_string()));
        let aside = quoted(&format!("{}/{SET_ASIDE}", self.data));
        let own = quoted(&format!("{}/postgresql.auto.conf", self.data));
        vec![
            format!("{somebody}{bin}/pg_ctl -D {data} -m fast stop"),
            format!("if [ -e {aside} ]; then mv {aside} {own}; fi"),
            format!("{somebody}{bin}/initdb --sync-only -D {data}"),
        ]
    }

    fn keep(&mut self) -> String {
        self.server.get_mut().keep()
    }

    async fn remove(self: Box<Self>) -> Result<(), Error> {
        self.server.into_inner().stop();
        Ok(())
    }
}
