//! Taking a database out: one exported snapshot, definitions by `pg_dump`, rows by `COPY` over several sessions.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    BackupMethod, Context, Dump, DumpOptions, Dumped, Error, ErrorKind, Execute, Layout, PART_BYTES_MAX,
    Part, PartBody, PartSink, Preflight, RecoveryPoint, RowSum, Store, TableDigest, Tool, sha256_hex,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

use super::contents::{self, PIECE_BYTES, Range, Reading, SETTINGS, Table};
use super::programs::{self, Libpq, Programs};
use super::{
    AFTER_ROWS, BEFORE_ROWS, COUNTED_LARGE_OBJECTS, COUNTED_SEQUENCES, DATABASE, INDEX, LARGE_OBJECTS,
    README, RESTORE, ROLES, ROWS, SEQUENCES, TABLESPACES, schema_text,
};
use crate::error::translate;
use crate::session::{Purpose, Session};
use crate::statement::{quote_identifier, quote_literal};
use crate::store::{KIND, PostgresStore};

/// Tables that are locked by one statement.
const LOCKED_AT_ONCE: usize = 50;
/// Tables up to which every session locks all of them at its beginning. Later it would wait behind a change of the schema
/// that waits for us; of very many tables the server has no room for so many locks.
const LOCKED_BY_ALL_MAX: usize = 1_000;
/// SQLSTATE of a lock that did not come.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// How often a dump begins again when a table was rewritten between its snapshot and its lock.
const ATTEMPTS: usize = 3;
/// Bytes of statements that make large objects, per part.
const LARGE_OBJECTS_PART_BYTES: usize = 16 << 20;
/// Most tables that one message names.
const NAMED_MAX: usize = 10;

/// Arguments of `pg_dump` that do not depend on the run.
pub(crate) const DUMP_ARGUMENTS: [&str; 4] =
    ["--format=plain", "-B", "--quote-all-identifiers", "--encoding"];

/// What only this adapter reads of a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Detail {
    pub(crate) database: String,
    /// Client encoding of all text: UTF8, or SQL_ASCII where the database does not know its own.
    pub(crate) encoding: String,
    /// The server's first superuser.
    pub(crate) bootstrap: String,
    pub(crate) tablespaces: Vec<String>,
    /// What follows the name in CREATE DATABASE.
    pub(crate) create: String,
    /// Statements of the database itself, cut where its name stands.
    pub(crate) statements: Vec<(String, String)>,
    pub(crate) page_bytes: u64,
    /// Bytes on the server's disk, with indexes.
    pub(crate) disk_bytes: u64,
    pub(crate) version_num: i32,
    pub(crate) large_objects: u64,
    /// Libraries that the server loads at its start, as far as the login may see them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) preload: Vec<String>,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) tables: Vec<Table>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sequence {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// The table that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
}

impl Detail {
    pub(crate) fn of(dumped: &Dumped) -> Result<Self, Error> {
        if dumped.kind != KIND || dumped.method != BackupMethod::Logical {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the backup is of a store of kind `{}`, not a logical one of `{KIND}`", dumped.kind),
            ));
        }
        serde_json::from_value(dumped.detail.clone()).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "the manifest does not say what the parts are").because(error)
        })
    }

    pub(crate) fn major(&self) -> u32 {
        u32::try_from(self.version_num / 10_000).unwrap_or(0)
    }
}

/// A table of the source as its catalog has it.
struct Found {
    table: Table,
    is_foreign: bool,
    is_unlogged: bool,
    readable: bool,
    filtered: bool,
    rewritten: bool,
    bytes: u64,
}

/// The state that is dumped: a transaction that keeps its snapshot and its locks until it is dropped.
struct Snapshot {
    session: Session,
    name: String,
    tables: Vec<Found>,
    source: Source,
    /// By our clock, just before it.
    at: jiff::Timestamp,
}

/// What must be the same at the beginning and at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    standby: bool,
    started: String,
    timeline: Option<i32>,
    position: Option<String>,
    server_at: String,
    database_oid: u32,
}

#[async_trait]
impl Dump for PostgresStore {
    fn methods(&self) -> Vec<BackupMethod> {
        vec![BackupMethod::Logical, BackupMethod::Physical]
    }

    async fn preflight(&self, ctx: &Context, options: &DumpOptions) -> Result<Preflight, Error> {
        if options.method == BackupMethod::Physical {
            return self.physical_preflight(ctx, options).await;
        }
        let session = self.dumping_session(ctx).await?;
        let user = session.rights.login.user.clone();
        let mut preflight = Preflight::default();
        match self.dump_programs(&session).await {
            Ok(programs) => {
                preflight.tools = ["pg_dump", "pg_dumpall"].map(|name| programs.tool(name, &[])).to_vec();
            }
            Err(error) => preflight.refusals.push(with_hint(&error)),
        }
        let asked = self.within(ctx, async {
            session.client.batch_execute(SETTINGS).await.map_err(|error| translate(&error))?;
            let tables = tables(&session.client, false).await?;
            let size = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())";
            let size = session
                .client
                .query_one(size, &[])
                .await
                .map_err(|error| translate(&error))?
                .get::<_, i64>(0);
            let sequences = session.client.query(include_str!("../sql/dump_sequences.sql"), &[]).await;
            let objects = session.client.query(include_str!("../sql/dump_large_objects.sql"), &[]).await;
            let failed = |error: tokio_postgres::Error| translate(&error);
            let subscriptions = subscriptions(&session).await?;
            Ok((tables, size, sequences.map_err(failed)?, objects.map_err(failed)?, subscriptions))
        });
        let (tables, size, sequences, objects, subscriptions) = asked.await?;
        let closed: Vec<String> = tables
            .iter()
            .filter(|found| !found.is_foreign && !found.readable)
            .map(|found| found.table.name.clone())
            .chain(sequences.iter().filter(|row| !row.get::<_, bool>("readable")).map(|row| row.get("name")))
            .collect();
        let ways =
            "configure `admin` for this store, or let an administrator run `GRANT pg_read_all_data TO …`";
        if !closed.is_empty() {
            preflight.refusals.push(format!("the login `{user}` may not read {}: {ways}", some(&closed)));
        }
        let filtered: Vec<String> =
            tables.iter().filter(|found| found.filtered).map(|found| found.table.name.clone()).collect();
        if !filtered.is_empty() {
            preflight.refusals.push(format!(
                "row security hides rows of {} from the login `{user}`: configure `admin`, or let an administrator run `ALTER ROLE … BYPASSRLS`",
                some(&filtered)
            ));
        }
        let objects = objects.iter().filter(|row| !row.get::<_, bool>("readable")).count();
        if objects > 0 {
            preflight.refusals.push(format!(
                "the login `{user}` may not read {objects} large objects: configure `admin` for this store"
            ));
        }
        preflight.notes = left_out(&session, &tables);
        preflight.notes.extend(subscriptions);
        preflight.bytes_expected = u64::try_from(size).ok();
        Ok(preflight)
    }

    async fn dump(&self, ctx: &Context, options: &DumpOptions, sink: &dyn PartSink) -> Result<Dumped, Error> {
        if options.method == BackupMethod::Physical {
            return self.physical_dump(ctx, options, sink).await;
        }
        let session = self.dumping_session(ctx).await?;
        let programs =
            self.dump_programs(&session).await.map_err(|error| error.with("store", self.name()))?;
        let identity = self.within(ctx, crate::store::identity(&session)).await?;
        let snapshot = self.freeze(ctx, session).await?;
        let stopper = snapshot.session.stopper();
        let names: Vec<String> = snapshot.tables.iter().map(|found| found.table.name.clone()).collect();
        let run = Box::pin(self.dump_frozen(ctx, options, sink, &programs, snapshot, identity));
        let answer = self.within(ctx, run).await;
        match answer {
            Err(error) => {
                stopper.stop().await;
                if is_lock_timeout(&error) {
                    Err(self.with_holders(ctx, error, &names).await)
                } else {
                    Err(error)
                }
            }
            answer => answer,
        }
    }
}

fn is_lock_timeout(error: &Error) -> bool {
    error.context().iter().any(|(name, code)| *name == "code" && code == LOCK_NOT_AVAILABLE)
}

fn with_hint(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{}: {hint}", error.message()),
        None => error.message().to_owned(),
    }
}

/// The first of them, and how many more.
fn some(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

/// The tables; their sizes only where they are locked already, as asking for them waits for locks.
async fn tables(client: &Client, locked: bool) -> Result<Vec<Found>, Error> {
    let rows = client.query(include_str!("../sql/dump_tables.sql"), &[&locked]).await;
    let rows = rows.map_err(|error| translate(&error))?;
    let bytes = |row: &Row, column: &str| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    let found = |(index, row): (usize, &Row)| Found {
        table: Table {
            name: row.get("name"),
            namespace: row.get("namespace"),
            folder: format!("{index:05}-{}", component(row.get("plain_name"))),
            columns: row.get("columns"),
            condition: row.get::<_, Option<String>>("condition").unwrap_or_default(),
            parents: row.get("parents"),
            pages: if row.get("has_pages") { bytes(row, "pages") } else { 0 },
        },
        is_foreign: row.get("is_foreign"),
        is_unlogged: row.get("is_unlogged"),
        readable: row.get("readable"),
        filtered: row.get("filtered"),
        rewritten: row.get("rewritten"),
        bytes: bytes(row, "bytes"),
    };
    Ok(rows.iter().enumerate().map(found).collect())
}

/// The name as a component of a part's path.
fn component(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    name.chars().take(80).map(plain).collect()
}

fn left_out(session: &Session, tables: &[Found]) -> Vec<String> {
    let mut left_out = Vec::new();
    let names = |wanted: fn(&Found) -> bool| -> Vec<String> {
        tables.iter().filter(|found| wanted(found)).map(|found| found.table.name.clone()).collect()
    };
    let foreign = names(|found| found.is_foreign);
    if !foreign.is_empty() {
        left_out.push(format!("rows of the foreign tables {}: they are another server's", some(&foreign)));
    }
    let unlogged = names(|found| found.is_unlogged);
    if session.rights.standby && !unlogged.is_empty() {
        left_out
            .push(format!("rows of the unlogged tables {}: a standby does not have them", some(&unlogged)));
    }
    if !session.rights.login.superuser {
        left_out.push(format!(
            "passwords of roles: only a superuser may read them, and the login `{}` is none",
            session.rights.login.user
        ));
    }
    left_out
}

/// What of subscriptions a copy does not have.
async fn subscriptions(session: &Session) -> Result<Option<String>, Error> {
    let names = "SELECT pg_catalog.quote_ident(s.subname) FROM pg_catalog.pg_subscription AS s \
         JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid WHERE d.datname = pg_catalog.current_database() ORDER BY 1";
    let rows = session.client.query(names, &[]).await.map_err(|error| translate(&error))?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let login = &session.rights.login;
    Ok(match (names.is_empty(), login.superuser) {
        (true, _) => None,
        (false, true) => Some(format!(
            "that the subscriptions {} run: they come back switched off, so that no copy takes from a publisher",
            some(&names)
        )),
        // The dump program leaves them out and says so only in passing.
        (false, false) => Some(format!(
            "the subscriptions {}: only a superuser may read them, and the login `{}` is none",
            some(&names),
            login.user
        )),
    })
}

impl PostgresStore {
    /// A session of the login that dumps, which is ours alone.
    pub(crate) async fn dumping_session(&self, ctx: &Context) -> Result<Session, Error> {
        let session = self.within(ctx, self.opener.open(ctx, self.dumping())).await?;
        self.refuse_shared(&session).map_err(|error| error.with("store", self.name()))?;
        Ok(session)
    }

    /// The administering login where there is one: it can read everything.
    pub(crate) fn dumping(&self) -> Purpose {
        if self.opener.login(Purpose::Administer).is_some() { Purpose::Administer } else { Purpose::Observe }
    }

    async fn dump_programs(&self, session: &Session) -> Result<Programs, Error> {
        let major = u32::try_from(session.rights.version_num / 10_000).unwrap_or(0);
        programs::to_dump(self.opener.config.bin_dir.as_deref(), major, &session.rights.version).await
    }

    /// Takes a snapshot and locks every table against being changed in its definition, so that all that follows sees the
    /// same.
    async fn freeze(&self, ctx: &Context, session: Session) -> Result<Snapshot, Error> {
        let lock_timeout = format!("SET lock_timeout = {}", self.opener.config.lock_timeout_ms);
        let client = &session.client;
        let failed = |error: tokio_postgres::Error| translate(&error).with("store", self.name());
        client.batch_execute(&format!("{SETTINGS}; {lock_timeout}")).await.map_err(failed)?;
        let mut rewritten = Vec::new();
        for _ in 0..ATTEMPTS {
            let begin = "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            // Whatever was committed before is in the snapshot.
            let at = ctx.now();
            let frozen = self.within(ctx, async {
                client.batch_execute(begin).await.map_err(|error| translate(&error))?;
                let source = source(client).await?;
                let name = client.query_one("SELECT pg_catalog.pg_export_snapshot()", &[]).await;
                let name: String = name.map_err(|error| translate(&error))?.get(0);
                let before = tables(client, false).await?;
                let lockable: Vec<String> = before
                    .iter()
                    .filter(|found| !found.is_foreign)
                    .map(|found| found.table.name.clone())
                    .collect();
                Ok((name, lockable, source))
            });
            let (name, lockable, source) = frozen.await?;
            match self.lock(ctx, &session.client, &lockable).await {
                // Dropped since the snapshot: there is a newer state without it.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    rewritten = vec![error.message().to_owned()];
                    continue;
                }
                other => other?,
            }
            // Sizes are asked again: now nobody can put the rows elsewhere.
            let tables = self.within(ctx, tables(client, true)).await?;
            rewritten =
                tables.iter().filter(|found| found.rewritten).map(|found| found.table.name.clone()).collect();
            if rewritten.is_empty() {
                return Ok(Snapshot { session, name, tables, source, at });
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("tables are being rewritten: {}", some(&rewritten)))
            .with("store", self.name())
            .hint("try again when the change of the schema is through"))
    }

    /// Locks tables so that they can be read and written and not changed in their definition; a lock that does not come
    /// names who has it.
    async fn lock(&self, ctx: &Context, client: &Client, tables: &[String]) -> Result<(), Error> {
        for some in tables.chunks(LOCKED_AT_ONCE) {
            let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", only(some));
            let locked = self
                .within(ctx, async { client.batch_execute(&lock).await.map_err(|error| translate(&error)) });
            match locked.await {
                Err(error) if is_lock_timeout(&error) => {
                    return Err(self.with_holders(ctx, error, some).await);
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// The error of a lock that did not come, with those who have it.
    async fn with_holders(&self, ctx: &Context, error: Error, tables: &[String]) -> Error {
        let holders = self.lock_holders(ctx, tables).await.unwrap_or_default();
        let exclusive = holders.into_iter().filter(|holder| holder.lock == "ACCESS EXCLUSIVE");
        let named: Vec<String> = exclusive
            .map(|holder| {
                format!(
                    "session {} of `{}` ({}) {} {} on {}",
                    holder.pid,
                    holder.user,
                    if holder.application.is_empty() { "no name" } else { &holder.application },
                    if holder.waiting { "waits for" } else { "holds" },
                    holder.lock,
                    holder.table
                )
            })
            .collect();
        if named.is_empty() {
            return error;
        }
        Error::new(ErrorKind::Conflict, "a lock did not come")
            .with("store", self.name())
            .with("lock_timeout_ms", self.opener.config.lock_timeout_ms)
            .because(named.join("; "))
            .hint("try again when it has ended; `steward session end` ends it through a plan")
    }

    async fn dump_frozen(
        &self,
        ctx: &Context,
        options: &DumpOptions,
        sink: &dyn PartSink,
        programs: &Programs,
        snapshot: Snapshot,
        identity: String,
    ) -> Result<Dumped, Error> {
        let client = &snapshot.session.client;
        let failed = |error: tokio_postgres::Error| translate(&error);
        let mut left_out = left_out(&snapshot.session, &snapshot.tables);
        left_out.extend(subscriptions(&snapshot.session).await?);
        let standby = snapshot.session.rights.standby;
        let tables: Vec<Table> = snapshot
            .tables
            .iter()
            .filter(|found| !(found.is_foreign || standby && found.is_unlogged))
            .map(|found| found.table.clone())
            .collect();
        let database =
            client.query_one(include_str!("../sql/dump_database.sql"), &[]).await.map_err(failed)?;
        let page_bytes: String = client
            .query_one("SELECT pg_catalog.current_setting('block_size')", &[])
            .await
            .map_err(failed)?
            .get(0);
        let page_bytes = page_bytes.parse().unwrap_or(8_192);
        let encoding = if database.get::<_, &str>("encoding") == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" };
        client.batch_execute(&format!("SET client_encoding = '{encoding}'")).await.map_err(failed)?;
        let name: String = database.get("name");
        let (create, statements) = database_statements(&database)?;
        // Sessions for the rows first: they and the programs hold the locks that nobody waits for yet.
        let ranges = Arc::new(contents::ranges(&tables, page_bytes));
        let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
        let readers = self.readers(ctx, options, &names, ranges.len(), &snapshot.name, encoding).await?;
        let libpq = self.opener.libpq(ctx, self.dumping(), programs.major).await?;
        let texts = self.definitions(ctx, programs, &libpq, &snapshot, encoding, &name).await?;
        let mut tools: Vec<Tool> = texts.tools;

        put_text(sink, options, README, readme(&name, &snapshot.session.rights.version).into_bytes()).await?;
        put_text(sink, options, ROLES, texts.roles).await?;
        put_text(sink, options, TABLESPACES, texts.tablespaces).await?;
        let mut of_database = format!("CREATE DATABASE {}{create};\n", quote_identifier(&name));
        for (before, after) in &statements {
            writeln!(of_database, "{before}{}{after};", quote_identifier(&name))
                .expect("writing to a string does not fail");
        }
        put_text(sink, options, DATABASE, of_database.into_bytes()).await?;
        let schema_sha256 = sha256_hex(schema_text::normalised(&texts.before, &texts.after).as_bytes());
        put_text(sink, options, BEFORE_ROWS, texts.before).await?;

        let counted = put_rows(sink, options, &tables, &ranges, readers).await?;
        let mut digests: Vec<TableDigest> =
            tables.iter().zip(counted).map(|(table, sum)| sum.of_table(&table.name)).collect();
        let mut index = String::new();
        for table in &tables {
            let target = format!("{} {}", table.name, table.column_list());
            writeln!(index, "{}\t{}", table.folder, one_line(&target))
                .expect("writing to a string does not fail");
        }
        put_text(sink, options, INDEX, index.into_bytes()).await?;
        let (objects, sum) = put_large_objects(sink, client).await?;
        if objects > 0 {
            digests.push(sum.of_table(COUNTED_LARGE_OBJECTS));
        }
        let sequences = client.query(include_str!("../sql/dump_sequences.sql"), &[]).await.map_err(failed)?;
        let sequences: Vec<Sequence> = sequences
            .iter()
            .map(|row| Sequence {
                name: row.get("name"),
                namespace: row.get("namespace"),
                owner: row.get("owner"),
            })
            .collect();
        let names: Vec<String> = sequences.iter().map(|sequence| sequence.name.clone()).collect();
        let values = contents::sequences(client, &names).await?;
        if !values.is_empty() {
            digests.push(contents::count_sequences(&values).of_table(COUNTED_SEQUENCES));
        }
        put_text(sink, options, SEQUENCES, (values.join("\n") + "\n").into_bytes()).await?;
        put_text(sink, options, AFTER_ROWS, texts.after).await?;
        put_text(sink, options, RESTORE, include_bytes!("restore.sh").to_vec()).await?;

        let now = source(client).await?;
        if let Some(why) = snapshot.source.became(&now) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the source became another during the dump: {why}"),
            )
            .with("address", &self.opener.address));
        }
        tools.sort_by(|a, b| a.command.cmp(&b.command));
        let mut needs: Vec<String> = database.get("extensions");
        needs.extend(database.get::<_, Vec<String>>("roles"));
        let detail = Detail {
            database: name,
            encoding: encoding.to_owned(),
            bootstrap: database.get("bootstrap"),
            tablespaces: database.get("tablespaces"),
            create,
            statements,
            page_bytes,
            disk_bytes: snapshot.tables.iter().map(|found| found.bytes).sum(),
            version_num: snapshot.session.rights.version_num,
            large_objects: objects,
            preload: preload(client).await?,
            sequences,
            tables,
        };
        Ok(Dumped {
            kind: KIND.to_owned(),
            version: snapshot.session.rights.version.clone(),
            identity,
            address: self.opener.address_for(self.dumping()).to_string(),
            method: BackupMethod::Logical,
            layout: Layout::Stream,
            point: RecoveryPoint {
                at: snapshot.at,
                server_at: snapshot.source.server_at.parse().ok(),
                position: snapshot.source.position.clone(),
                timeline: snapshot.source.timeline.and_then(|timeline| u32::try_from(timeline).ok()),
            },
            tables: digests,
            schema_sha256,
            needs,
            left_out,
            tools,
            detail: serde_json::to_value(detail).map_err(|error| {
                Error::new(ErrorKind::Other, "the manifest cannot be written").because(error)
            })?,
        })
    }

    /// Sessions that see the snapshot, at most one per range.
    async fn readers(
        &self,
        ctx: &Context,
        options: &DumpOptions,
        tables: &[String],
        ranges: usize,
        snapshot: &str,
        encoding: &str,
    ) -> Result<Vec<Client>, Error> {
        let mut readers = Vec::new();
        for _ in 0..options.parallel.clamp(1, 64).min(ranges) {
            let opened = self.opener.open(ctx, self.dumping()).await;
            let session = match opened {
                // Fewer do it too.
                Err(error) if !readers.is_empty() && crate::session::is_full(&error) => break,
                other => other?,
            };
            let begin = format!(
                "{SETTINGS}; SET lock_timeout = {}; SET client_encoding = '{encoding}'; \
                 BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'",
                self.opener.config.lock_timeout_ms
            );
            session.client.batch_execute(&begin).await.map_err(|error| translate(&error))?;
            if tables.len() <= LOCKED_BY_ALL_MAX {
                self.lock(ctx, &session.client, tables).await?;
            }
            readers.push(session.client);
        }
        Ok(readers)
    }

    async fn definitions(
        &self,
        ctx: &Context,
        programs: &Programs,
        libpq: &Libpq,
        snapshot: &Snapshot,
        encoding: &str,
        database: &str,
    ) -> Result<Definitions, Error> {
        let lock = format!("--lock-wait-timeout={}", self.opener.config.lock_timeout_ms);
        let in_snapshot = format!("--snapshot={}", snapshot.name);
        let mut tools = Vec::new();
        let mut sections = Vec::new();
        for section in ["--section=pre-data", "--section=post-data"] {
            let arguments = [&DUMP_ARGUMENTS[..], &[encoding, section, &lock, &in_snapshot]].concat();
            tools.push(programs.tool("pg_dump", &arguments));
            match programs::dump_text(ctx, programs, "pg_dump", &arguments, libpq).await {
                // Says it as the server does, so that the holder is named.
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Err(error.with("code", LOCK_NOT_AVAILABLE));
                }
                text => sections.push(text?),
            }
        }
        let from = format!("--database={database}");
        let mut globals = Vec::new();
        for what in ["--roles-only", "--tablespaces-only"] {
            let mut arguments = vec![what, "--quote-all-identifiers", &from, &lock];
            if !snapshot.session.rights.login.superuser {
                arguments.push("--no-role-passwords");
            }
            tools.push(programs.tool("pg_dumpall", &arguments));
            globals.push(programs::dump_text(ctx, programs, "pg_dumpall", &arguments, libpq).await?);
        }
        let (after, before) = (sections.pop().unwrap_or_default(), sections.pop().unwrap_or_default());
        let (tablespaces, roles) = (globals.pop().unwrap_or_default(), globals.pop().unwrap_or_default());
        Ok(Definitions { roles, tablespaces, before, after, tools })
    }
}

struct Definitions {
    roles: Vec<u8>,
    tablespaces: Vec<u8>,
    before: Vec<u8>,
    after: Vec<u8>,
    tools: Vec<Tool>,
}

impl Source {
    /// Why this is not the same source any more.
    fn became(&self, now: &Self) -> Option<String> {
        if self.database_oid != now.database_oid {
            return Some("another database".to_owned());
        }
        if self.started != now.started {
            return Some("the server was started anew".to_owned());
        }
        if self.standby != now.standby {
            return Some("the standby was promoted".to_owned());
        }
        (self.timeline != now.timeline)
            .then(|| format!("timeline {:?} became {:?}", self.timeline, now.timeline))
    }
}

/// Libraries that are loaded at the server's start; none where the login may not see the setting.
async fn preload(client: &Client) -> Result<Vec<String>, Error> {
    let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries'";
    let row = client.query_opt(sql, &[]).await.map_err(|error| translate(&error))?;
    let text: String = row.map(|row| row.get(0)).unwrap_or_default();
    let plain = |name: &str| name.trim().trim_matches('"').trim_start_matches("$libdir/").to_owned();
    Ok(text.split(',').map(plain).filter(|name| !name.is_empty()).collect())
}

async fn source(client: &Client) -> Result<Source, Error> {
    let row = client.query_one(include_str!("../sql/dump_source.sql"), &[]).await;
    let row = row.map_err(|error| translate(&error))?;
    Ok(Source {
        standby: row.get("standby"),
        started: row.get("started"),
        timeline: row.get("timeline"),
        position: row.get("position"),
        server_at: row.get("server_at"),
        database_oid: row.get("database_oid"),
    })
}

/// Each table by itself, without those that inherit from it: they are named, too.
fn only(tables: &[String]) -> String {
    let only: Vec<String> = tables.iter().map(|table| format!("ONLY {table}")).collect();
    only.join(", ")
}

/// Quoted identifiers so that the text is one line: control characters in them as `U&"…"` has them.
fn one_line(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut line = String::new();
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                line.push_str("\"\"");
            }
            '"' => {
                line.push_str(if quoted { "\"" } else { "U&\"" });
                quoted = !quoted;
            }
            '\\' => line.push_str("\\\\"),
            control if control.is_control() => {
                write!(line, "\\{:04x}", u32::from(control)).expect("writing to a string does not fail");
            }
            other => line.push(other),
        }
    }
    line
}

async fn put_text(
    sink: &dyn PartSink,
    options: &DumpOptions,
    path: &str,
    text: Vec<u8>,
) -> Result<(), Error> {
    put(sink, &options.scratch, path, Bytes::from(text)).await
}

/// Gives a part; what is too large to be held goes through a file.
async fn put(sink: &dyn PartSink, scratch: &Path, path: &str, bytes: Bytes) -> Result<(), Error> {
    if bytes.len() <= PART_BYTES_MAX {
        return sink.put(Part { path: path.to_owned(), body: PartBody::Bytes(bytes) }).await;
    }
    let file = scratch.join(format!("{}.part", uuid::Uuid::new_v4()));
    let length = bytes.len() as u64;
    let written = file.clone();
    let write = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&written);
        made.and_then(|mut made| made.write_all(&bytes)).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorKind::LimitExceeded
                }
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "a part cannot be written to the scratch folder")
                .with("file", written.display())
                .because(error)
        })
    });
    write.await.map_err(|_| Error::new(ErrorKind::Canceled, "the runtime is shutting down"))??;
    sink.put(Part { path: path.to_owned(), body: PartBody::File { path: file, bytes: length } }).await
}

/// Gives the rows of all tables in their order; what each came to, in the order of `tables`.
async fn put_rows(
    sink: &dyn PartSink,
    options: &DumpOptions,
    tables: &[Table],
    ranges: &Arc<Vec<Range>>,
    readers: Vec<Client>,
) -> Result<Vec<RowSum>, Error> {
    let mut reading = Reading::begin(readers, ranges);
    for (index, range) in ranges.iter().enumerate() {
        let mut number = 0;
        while let Some(rows) = reading.next(index).await? {
            let folder = &tables[range.table].folder;
            let path = format!("{ROWS}/{folder}/{:06}-{number:04}.copy", range.number);
            put(sink, &options.scratch, &path, rows).await?;
            number += 1;
        }
    }
    let mut sums = vec![RowSum::default(); tables.len()];
    for (table, sum) in reading.end().await? {
        sums[table].merge(sum);
    }
    Ok(sums)
}

/// Gives statements that make the large objects again; how many there are and what they come to.
async fn put_large_objects(sink: &dyn PartSink, client: &Client) -> Result<(u64, RowSum), Error> {
    let rows = client.query(include_str!("../sql/dump_large_objects.sql"), &[]).await;
    let rows = rows.map_err(|error| translate(&error))?;
    let mut sum = RowSum::default();
    let (mut text, mut number) = (String::new(), 0);
    let piece_length = usize::try_from(PIECE_BYTES).expect("a piece is short");
    let write = |text: &mut String, line: std::fmt::Arguments<'_>| {
        text.write_fmt(line).expect("writing to a string does not fail");
    };
    for row in &rows {
        let oid: u32 = row.get("oid");
        write(&mut text, format_args!("SELECT pg_catalog.lo_create('{oid}');\n"));
        let mut from = 0;
        loop {
            let piece = contents::large_object_piece(client, oid, from).await?;
            contents::count_piece(&mut sum, oid, from, &piece);
            if !piece.is_empty() {
                write(&mut text, format_args!("SELECT pg_catalog.lo_put('{oid}', {from}, '\\x"));
                for byte in &piece {
                    write(&mut text, format_args!("{byte:02x}"));
                }
                text.push_str("');\n");
            }
            if text.len() >= LARGE_OBJECTS_PART_BYTES {
                put_objects(sink, &mut number, &mut text).await?;
            }
            if piece.len() < piece_length {
                break;
            }
            from += PIECE_BYTES;
        }
        for statement in row.get::<_, Vec<String>>("statements") {
            write(&mut text, format_args!("{statement};\n"));
        }
    }
    if !text.is_empty() {
        put_objects(sink, &mut number, &mut text).await?;
    }
    Ok((rows.len() as u64, sum))
}

async fn put_objects(sink: &dyn PartSink, number: &mut u32, text: &mut String) -> Result<(), Error> {
    let path = format!("{LARGE_OBJECTS}/{number:06}.sql");
    *number += 1;
    let body = PartBody::Bytes(Bytes::from(std::mem::take(text)));
    sink.put(Part { path, body }).await
}

/// What makes the database itself: what follows its name in CREATE DATABASE, and the statements behind it.
fn database_statements(row: &Row) -> Result<(String, Vec<(String, String)>), Error> {
    let text = |column: &str| row.get::<_, Option<String>>(column);
    let literal = |column: &str| quote_literal(&text(column).unwrap_or_default());
    let mut create = format!(
        " WITH TEMPLATE = template0 ENCODING = {} LC_COLLATE = {} LC_CTYPE = {}",
        literal("encoding"),
        literal("lc_collate"),
        literal("lc_ctype")
    );
    match text("provider").as_deref() {
        Some("i") => write!(create, " LOCALE_PROVIDER = icu ICU_LOCALE = {}", literal("locale")),
        Some("b") => write!(create, " LOCALE_PROVIDER = builtin BUILTIN_LOCALE = {}", literal("locale")),
        _ => Ok(()),
    }
    .expect("writing to a string does not fail");
    if text("rules").is_some() {
        write!(create, " ICU_RULES = {}", literal("rules")).expect("writing to a string does not fail");
    }
    let mut statements = Vec::new();
    let mut add = |before: &str, after: String| statements.push((before.to_owned(), after));
    let owner: String = row.get("owner");
    add("ALTER DATABASE ", format!(" OWNER TO {}", quote_identifier(&owner)));
    if let Some(comment) = text("comment") {
        add("COMMENT ON DATABASE ", format!(" IS {}", quote_literal(&comment)));
    }
    if row.get("has_rights") {
        add("REVOKE ALL ON DATABASE ", format!(" FROM PUBLIC, {}", quote_identifier(&owner)));
        for right in row.get::<_, Vec<String>>("rights") {
            let mut parts = right.splitn(2, '|');
            let (right, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let (role, option) = rest.rsplit_once('|').unwrap_or((rest, ""));
            add(&format!("GRANT {right} ON DATABASE "), format!(" TO {role}{option}"));
        }
    }
    let most: i32 = row.get("connections_max");
    if most != -1 {
        add("ALTER DATABASE ", format!(" CONNECTION LIMIT {most}"));
    }
    for setting in row.get::<_, Vec<String>>("settings") {
        let (role, setting): (Option<String>, String) = serde_json::from_str(&setting).map_err(|error| {
            Error::new(ErrorKind::Other, "a setting of the database cannot be read").because(error)
        })?;
        let (name, value) = setting.split_once('=').unwrap_or((&setting, ""));
        let set = format!(" SET {} TO {}", setting_name(name), setting_value(name, value));
        match role {
            Some(role) => add(&format!("ALTER ROLE {} IN DATABASE ", quote_identifier(&role)), set),
            None => add("ALTER DATABASE ", set),
        }
    }
    Ok((create, statements))
}

/// `plpgsql.extra_warnings` is two names.
fn setting_name(name: &str) -> String {
    name.split('.').map(quote_identifier).collect::<Vec<_>>().join(".")
}

/// Settings that are lists are kept as lists of identifiers; every other one is a text.
///
/// Source: PostgreSQL, `src/bin/pg_dump/dumputils.c`, `variable_is_guc_list_quote`.
fn setting_value(name: &str, value: &str) -> String {
    const LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    if !LISTS.contains(&name.to_ascii_lowercase().as_str()) {
        return quote_literal(value);
    }
    let mut items: Vec<String> = vec![String::new()];
    let mut quoted = false;
    let mut letters = value.chars().peekable();
    while let Some(letter) = letters.next() {
        let last = items.last_mut().expect("there is always one");
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                last.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => items.push(String::new()),
            ' ' if !quoted => {}
            other => last.push(other),
        }
    }
    items.iter().map(|item| quote_literal(item)).collect::<Vec<_>>().join(", ")
}

fn readme(database: &str, version: &str) -> String {
    let parts: BTreeMap<&str, &str> = BTreeMap::from([
        (ROLES, "the server's roles"),
        (TABLESPACES, "its tablespaces; their folders must exist"),
        (DATABASE, "the database itself with its settings"),
        (BEFORE_ROWS, "schemas, types, functions, tables"),
        (INDEX, "which folder holds the rows of which table, and in which columns"),
        (LARGE_OBJECTS, "large objects, if there are any"),
        (SEQUENCES, "the values of sequences"),
        (AFTER_ROWS, "indexes, constraints, triggers, policies, contents of materialized views"),
        (RESTORE, "does it all: sh restore.sh NEW_DATABASE"),
    ]);
    let mut text = format!(
        "The database `{database}` of PostgreSQL {version}, as SQL and as the text of COPY.\n\n\
         It can be restored with psql alone, of the same or a newer version. Roles that are missing are made first:\n\
         psql -f {ROLES} postgres (roles that exist already are reported and left as they are).\n\
         Then, with PGHOST, PGPORT and PGUSER set as for any program of PostgreSQL's:\n\n    sh {RESTORE} NEW_DATABASE\n\n"
    );
    for (part, what) in parts {
        writeln!(text, "{part:<20} {what}").expect("writing to a string does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_literals() {
        for (name, value, expected) in [
            ("search_path", "\"$user\", public", "'$user', 'public'"),
            ("search_path", "\"\"", "''"),
            ("search_path", "\"a\"\"b, c\", d", "'a\"b, c', 'd'"),
            ("work_mem", "64MB", "'64MB'"),
            ("app.name", "it's, so", "'it''s, so'"),
        ] {
            assert_eq!(setting_value(name, value), expected, "{name} = {value}");
        }
        assert_eq!(setting_name("app.name"), "\"app\".\"name\"");
    }

    #[test]
    fn names_stay_on_one_line() {
        assert_eq!(one_line("public.\"a\\b\" (c)"), "public.\"a\\b\" (c)");
        assert_eq!(one_line("s.\"a\n\"\"\\\" (c, \"d\te\")"), r#"s.U&"a\000a""\\" (c, U&"d\0009e")"#);
    }

    #[test]
    fn another_source_is_noticed() {
        let source = Source {
            standby: false,
            started: "1.5".into(),
            timeline: Some(1),
            position: Some("0/1".into()),
            server_at: String::new(),
            database_oid: 5,
        };
        assert_eq!(source.became(&Source { position: Some("0/2".into()), ..source.clone() }), None);
        for other in [
            Source { standby: true, ..source.clone() },
            Source { started: "2".into(), ..source.clone() },
            Source { timeline: Some(2), ..source.clone() },
            Source { database_oid: 6, ..source.clone() },
        ] {
            assert!(source.became(&other).is_some(), "{other:?}");
        }
    }
}
