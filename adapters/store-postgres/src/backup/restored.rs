//! A database that was restored: what it comes to, whether it is sound.

use std::time::Duration;

use async_trait::async_trait;
use contract::{
    Context, Dumped, Error, ErrorKind, IntegrityProblem, IntegrityReport, PART_BYTES_MAX, PartSource,
    Restored, Selection, TableDigest,
};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::contents::{self, SETTINGS, Table};
use super::dump::{DUMP_ARGUMENTS, Detail};
use super::place::Place;
use super::programs::{self, Programs};
use super::{AFTER_ROWS, BEFORE_ROWS, COUNTED_LARGE_OBJECTS, COUNTED_SEQUENCES, schema_text};
use crate::error::translate;
use crate::integrity::IndexEntries;
use crate::statement::check_text;

/// Most sessions that count at once.
const SESSIONS_MAX: usize = 4;
/// Longest time for the check of one relation.
const CHECK_TIMEOUT: Duration = Duration::from_hours(1);

/// A restored database; it is taken away with its handle unless it is kept.
pub(crate) struct RestoredDatabase {
    place: Place,
    detail: Detail,
    selection: Selection,
    selected: Vec<Table>,
    programs: Programs,
}

impl RestoredDatabase {
    pub(crate) fn new(
        place: Place,
        detail: Detail,
        selection: Selection,
        selected: Vec<Table>,
        programs: Programs,
    ) -> Self {
        Self { place, detail, selection, selected, programs }
    }

    async fn counting_session(&self, ctx: &Context) -> Result<Client, Error> {
        let client = self.place.connect(ctx).await?;
        let settings = format!("{SETTINGS}; SET client_encoding = '{}'", self.detail.encoding);
        client.batch_execute(&settings).await.map_err(|error| translate(&error))?;
        Ok(client)
    }
}

/// Sessions that count or check side by side.
fn sessions() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(SESSIONS_MAX)
}

#[async_trait]
impl Restored for RestoredDatabase {
    fn address(&self) -> String {
        self.place.address()
    }

    async fn fingerprint(&self, ctx: &Context, dumped: &Dumped) -> Result<Vec<TableDigest>, Error> {
        ctx.run(async {
            let mut clients = Vec::new();
            for _ in 0..sessions() {
                clients.push(self.counting_session(ctx).await?);
            }
            let one = self.counting_session(ctx).await?;
            let sums = contents::count_tables(clients, &self.selected, self.detail.page_bytes).await?;
            let mut counted: Vec<TableDigest> =
                self.selected.iter().zip(sums).map(|(table, sum)| sum.of_table(&table.name)).collect();
            if self.selection == Selection::Whole {
                counted.push(contents::count_large_objects(&one).await?.of_table(COUNTED_LARGE_OBJECTS));
                let names: Vec<String> =
                    self.detail.sequences.iter().map(|sequence| sequence.name.clone()).collect();
                let values = contents::sequences(&one, &names).await?;
                counted.push(contents::count_sequences(&values).of_table(COUNTED_SEQUENCES));
            }
            let known = dumped.tables.iter();
            Ok(known
                .filter_map(|known| counted.iter().find(|counted| counted.table == known.table).cloned())
                .collect())
        })
        .await
    }

    async fn schema_differences(
        &self,
        ctx: &Context,
        _: &Dumped,
        parts: &dyn PartSource,
        selection: &Selection,
    ) -> Result<Vec<String>, Error> {
        let libpq = self.place.libpq(ctx, &self.programs).await?;
        let (mut dumped, mut restored) = (Vec::new(), Vec::new());
        for (part, section) in [(BEFORE_ROWS, "--section=pre-data"), (AFTER_ROWS, "--section=post-data")] {
            let arguments = [&DUMP_ARGUMENTS[..], &[&self.detail.encoding, section]].concat();
            let now = programs::dump_text(ctx, &self.programs, "pg_dump", &arguments, &libpq).await?;
            restored.extend(schema_text::entries(&String::from_utf8_lossy(&now)));
            let text = read_text(ctx, parts, part).await?;
            dumped.extend(schema_text::entries(&String::from_utf8_lossy(&text)));
        }
        let selected: Vec<&Table> = self.selected.iter().collect();
        Ok(schema_text::differences(&dumped, &restored, selection, &selected))
    }

    async fn check(&self, ctx: &Context) -> Result<IntegrityReport, Error> {
        ctx.run(async {
            let client = self.place.connect(ctx).await?;
            let mut others = Vec::new();
            for _ in 1..sessions() {
                others.push(self.place.connect(ctx).await?);
            }
            let clients: Vec<&Client> = std::iter::once(&client).chain(&others).collect();
            // The indexes were made here, from rows that were compared.
            check_side_by_side(&clients, self.detail.version_num, CHECK_TIMEOUT, IndexEntries::Trusted).await
        })
        .await
    }

    async fn probe(&self, ctx: &Context, sql: &str) -> Result<bool, Error> {
        ctx.run(async { probe(&self.place.connect(ctx).await?, sql).await }).await
    }

    fn keep(&mut self) -> String {
        self.place.keep()
    }

    async fn remove(self: Box<Self>) -> Result<(), Error> {
        self.place.remove().await
    }
}

/// Runs the engine's own check in one database, and looks for indexes that are not valid.
pub(crate) async fn check_database(
    client: &Client,
    version_num: i32,
    limit: Duration,
) -> Result<IntegrityReport, Error> {
    check_side_by_side(&[client], version_num, limit, IndexEntries::Compared).await
}

/// The same over several sessions.
async fn check_side_by_side(
    clients: &[&Client],
    version_num: i32,
    limit: Duration,
    entries: IndexEntries,
) -> Result<IntegrityReport, Error> {
    let Some(client) = clients.first() else {
        return Err(Error::new(ErrorKind::Unavailable, "no session to check with"));
    };
    let failed = |error: tokio_postgres::Error| translate(&error);
    client.batch_execute("SET idle_in_transaction_session_timeout = 0").await.map_err(failed)?;
    let has = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'amcheck')";
    let had: bool = client.query_one(has, &[]).await.map_err(failed)?.get(0);
    let made = had || client.batch_execute("CREATE EXTENSION amcheck SCHEMA pg_catalog").await.is_ok();
    let mut report = if made {
        let report = crate::integrity::check_side_by_side(clients, version_num, limit, entries).await;
        client.batch_execute("SET statement_timeout = 0").await.map_err(failed)?;
        if !had {
            client.batch_execute("DROP EXTENSION amcheck").await.map_err(failed)?;
        }
        report?
    } else {
        let problem = "the extension `amcheck` is not available here".to_owned();
        IntegrityReport {
            unchecked: vec![IntegrityProblem { object: "indexes and tables".to_owned(), problem }],
            ..IntegrityReport::default()
        }
    };
    let invalid = client
        .query(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_index i \
             JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready) ORDER BY 1",
            &[],
        )
        .await
        .map_err(failed)?;
    report.problems.extend(
        invalid
            .iter()
            .map(|row| IntegrityProblem { object: row.get(0), problem: "the index is not valid".to_owned() }),
    );
    Ok(report)
}

/// Asks a question of the user's that one row answers, in a transaction that cannot write.
pub(crate) async fn probe(client: &Client, sql: &str) -> Result<bool, Error> {
    check_text(sql)?;
    let failed = |error: tokio_postgres::Error| translate(&error);
    client.batch_execute("BEGIN READ ONLY").await.map_err(failed)?;
    // The extended protocol takes exactly one statement.
    let prepared = client.prepare(sql).await.map_err(failed)?;
    if prepared.columns().is_empty() || !prepared.params().is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the question must be one statement that gives a row"));
    }
    let is_truth = *prepared.columns()[0].type_() == tokio_postgres::types::Type::BOOL;
    let mut rows =
        client.simple_query(sql).await.map_err(failed)?.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
    match (rows.next(), rows.next()) {
        (Some(row), None) => Ok(is_truth && row.get(0) == Some("t")),
        _ => Err(Error::new(ErrorKind::Invalid, "the question must give one row")),
    }
}

async fn read_text(ctx: &Context, parts: &dyn PartSource, part: &str) -> Result<Vec<u8>, Error> {
    let large =
        parts.parts().iter().any(|record| record.path == part && record.bytes > PART_BYTES_MAX as u64);
    if !large {
        return Ok(ctx.run(parts.read(part)).await?.to_vec());
    }
    let file = super::load::Spool::new();
    ctx.run(parts.read_into(part, &file.0)).await?;
    tokio::fs::read(&file.0).await.map_err(|error| {
        Error::new(ErrorKind::Unavailable, "a part cannot be read").with("part", part).because(error)
    })
}
