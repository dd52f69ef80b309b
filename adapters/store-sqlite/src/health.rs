//! Whether the file is well: what SQLite says, what its catalog shows, and what lies around it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use contract::quantity::{percent, size, thousands};
use contract::{
    Context, Error, ErrorKind, Health, HealthArea, HealthCheck, HealthFinding, HealthScope, Rows, Seen,
    Severity, Trigger,
};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use schema::{Index, Schema, Table};
use serde_json::{Value, json};

use crate::catalog;
use crate::error::translate;
use crate::session::{Stop, beside};
use crate::store::{SqliteStore, milliseconds, to_json};
use crate::text::{self, quote_identifier};

/// Files of more pages are not read from end to end by a check of health.
///
/// 4 GiB at the usual page size; `steward store consistency` reads files of any size.
const PAGES_READ_MAX: u64 = 1 << 20;
/// Rows of one answer.
const ROWS_MAX: usize = 1_000;
/// Damages that one check lists.
const PROBLEMS_MAX: usize = 100;
/// Free space from which on it is worth giving back.
const FREE_BYTES_MIN: u64 = 1 << 20;
/// Share of free space from which on it is worth giving back.
const FREE_SHARE: f64 = 0.25;
/// Share of the space in used pages that may be empty; a B-tree filled in random order has about 0.3.
const UNUSED_SHARE: f64 = 0.5;
/// Pages of a table from which on their order matters.
const JUMPS_PAGES_MIN: u64 = 256;
/// Share of pages that may lie apart from the one before.
const JUMPS_SHARE: f64 = 0.5;
/// Page size since SQLite 3.12. Source: sqlite.org, "The default page size change of SQLite 3.12.0".
const PAGE_BYTES_MIN: u64 = 4096;
/// Four times the size at which SQLite begins a checkpoint by itself. Source: sqlite.org, "Write-Ahead Logging".
const WAL_BYTES_MAX: u64 = 16 << 20;
/// Rows of a table from which on statistics and indexes matter.
const ROWS_MIN: u64 = 1_000;
/// So many times more or fewer rows than ANALYZE saw.
const STALE_FACTOR: u64 = 10;
/// Share of the largest number from which on an AUTOINCREMENT nears its end.
const SEQUENCE_WARNING: f64 = 0.75;
/// Share from which on inserts may soon fail with `SQLITE_FULL`. Source: sqlite.org, "SQLite Autoincrement".
const SEQUENCE_CRITICAL: f64 = 0.9;
/// How a rollback journal that is not empty begins. Source: sqlite.org, "Database File Format", section 3.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

#[async_trait]
impl Health for SqliteStore {
    /// Everything is asked within one snapshot, by a connection that only reads. A transaction's age is not visible to
    /// others in SQLite, so `transaction_max` plays no part.
    async fn check_health(&self, ctx: &Context, scope: &HealthScope) -> Result<Vec<HealthCheck>, Error> {
        let (file, scope, rows_counted_max) = (self.file.clone(), scope.clone(), self.rows_counted_max);
        let journal = beside(&self.file.path, "-journal");
        // Looked at before the first read, because that rolls the journal of a dead process back.
        let was_hot = has_journal(&journal);
        self.read(ctx, Some(self.statement_timeout), move |connection, stop| {
            let path = file.canonical()?;
            let mut checker = Checker { connection, stop, checks: Vec::new() };
            if scope.wants(HealthArea::Integrity) {
                checker.integrity(was_hot && !has_journal(&journal))?;
            }
            if scope.wants(HealthArea::Bloat) {
                checker.space()?;
            }
            let of_catalog =
                [HealthArea::Vacuum, HealthArea::Indexes, HealthArea::Schema].iter().any(|area| scope.wants(*area));
            if of_catalog {
                let schema = catalog::inspect(checker.connection, rows_counted_max)
                    .map_err(|error| translate(&error, stop))?;
                if scope.wants(HealthArea::Vacuum) {
                    checker.statistics(&schema)?;
                }
                if scope.wants(HealthArea::Indexes) {
                    checker.indexes(&schema);
                }
                if scope.wants(HealthArea::Schema) {
                    checker.schema(&schema, rows_counted_max)?;
                }
            }
            if scope.wants(HealthArea::Sequences) {
                checker.sequences()?;
            }
            if scope.wants(HealthArea::Disk) {
                checker.disk(&path);
            }
            if scope.wants(HealthArea::Settings) {
                checker.settings()?;
            }
            if scope.wants(HealthArea::Encryption) {
                checker.nothing(
                    "encryption_at_rest",
                    HealthArea::Encryption,
                    "SQLite does not encrypt its files and cannot tell whether the disk below does: ask who runs the \
                     machine",
                );
            }
            if scope.wants(HealthArea::Logins) {
                checker.permissions(&path);
            }
            Ok(checker.checks)
        })
        .await
    }
}

/// Whether a rollback journal with something in it lies beside the file.
fn has_journal(path: &Path) -> bool {
    let mut start = [0u8; 8];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start))
        .is_ok_and(|()| start == JOURNAL_MAGIC)
}

/// The checks so far, and the connection for more.
struct Checker<'a> {
    connection: &'a mut Connection,
    stop: &'a Arc<Stop>,
    checks: Vec<HealthCheck>,
}

fn finding(
    code: &str,
    severity: Severity,
    object: &str,
    title: String,
    fix: impl Into<String>,
) -> HealthFinding {
    HealthFinding {
        code: code.into(),
        severity,
        title,
        object: object.into(),
        fix: fix.into(),
        escalate: None,
    }
}

fn escalated(trigger: Trigger, mut finding: HealthFinding) -> HealthFinding {
    finding.escalate = Some(trigger);
    finding
}

/// An answer that no statement gave.
fn facts(columns: &[&str], rows: Vec<Vec<Value>>) -> Rows {
    Rows {
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        types: vec![String::new(); columns.len()],
        rows,
        truncated: None,
        elapsed_ms: 0.0,
    }
}

fn number(rows: &Rows, column: &str) -> u64 {
    let at = rows.columns.iter().position(|name| name == column);
    at.and_then(|at| rows.rows.first()?.get(at)?.as_u64()).unwrap_or(0)
}

#[allow(clippy::cast_precision_loss)] // Shares are shown without decimals.
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Checker<'_> {
    /// Runs a statement and gives at most [`ROWS_MAX`] rows.
    fn ask(&self, sql: &str) -> Result<Rows, Error> {
        let started = Instant::now();
        let read = || -> rusqlite::Result<Rows> {
            let mut statement = self.connection.prepare(sql)?;
            let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let mut out = facts(&[], Vec::new());
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if out.rows.len() == ROWS_MAX {
                    out.truncated = Some(contract::Truncation::Rows);
                    break;
                }
                out.rows.push(
                    (0..columns.len()).map(|at| row.get_ref(at).map(to_json)).collect::<Result<_, _>>()?,
                );
            }
            out.types = vec![String::new(); columns.len()];
            out.columns = columns;
            Ok(out)
        };
        let mut rows = read().map_err(|error| translate(&error, self.stop))?;
        rows.elapsed_ms = milliseconds(started);
        Ok(rows)
    }

    fn add(
        &mut self,
        name: &str,
        area: HealthArea,
        statement: &str,
        rows: Rows,
        findings: Vec<HealthFinding>,
    ) {
        self.checks.push(HealthCheck {
            name: name.into(),
            area,
            statement: statement.into(),
            answer: Some(rows),
            seen: Seen::All,
            findings,
        });
    }

    fn nothing(&mut self, name: &str, area: HealthArea, because: &str) {
        self.checks.push(HealthCheck {
            name: name.into(),
            area,
            statement: String::new(),
            answer: None,
            seen: Seen::Nothing { because: because.into() },
            findings: Vec::new(),
        });
    }

    fn pages(&self) -> Result<Rows, Error> {
        self.ask(&statement(include_str!("sql/health/pages.sql")))
    }

    fn integrity(&mut self, was_rolled_back: bool) -> Result<(), Error> {
        let pages = number(&self.pages()?, "pages");
        if pages > PAGES_READ_MAX {
            for name in ["quick_check", "foreign_keys"] {
                self.nothing(
                    name,
                    HealthArea::Integrity,
                    "the file is too large to be read from end to end here: `steward store consistency` does it",
                );
            }
        } else {
            let sql = format!("PRAGMA quick_check({PROBLEMS_MAX})");
            let rows = match self.ask(&sql) {
                // Too damaged even to be checked: that is the answer.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    facts(&["quick_check"], vec![vec![json!(error.message())]])
                }
                other => other?,
            };
            let problems: Vec<&str> = rows
                .rows
                .iter()
                .filter_map(|row| row.first()?.as_str())
                .filter(|text| *text != "ok")
                .collect();
            let findings = problems
                .first()
                .map(|first| {
                    escalated(
                        Trigger::DataCorruption,
                        finding(
                            "corruption",
                            Severity::Critical,
                            "database",
                            format!("the file is damaged in {} places: {first}", problems.len()),
                            "copy the file and what lies beside it before anything else; then restore a backup, or \
                             `sqlite3 FILE .recover`",
                        ),
                    )
                })
                .into_iter()
                .collect();
            self.add("quick_check", HealthArea::Integrity, &sql, rows, findings);
            self.foreign_keys()?;
        }
        let findings = if was_rolled_back {
            vec![finding(
                "hot_journal",
                Severity::Warning,
                "",
                "a process had died in the middle of a write; what it had not finished was taken back just now".into(),
                "find out which process died and why; its last transaction did not happen",
            )]
        } else {
            Vec::new()
        };
        let rows = facts(&["journal_was_rolled_back"], vec![vec![json!(was_rolled_back)]]);
        self.add(
            "journal_left_behind",
            HealthArea::Integrity,
            "the file `-journal` before and after reading",
            rows,
            findings,
        );
        Ok(())
    }

    fn foreign_keys(&mut self) -> Result<(), Error> {
        let sql = "PRAGMA foreign_key_check";
        let rows = match self.ask(sql) {
            Ok(rows) => rows,
            // A key that refers to something that is no key, or to no table.
            Err(error) if error.kind() == ErrorKind::Invalid || error.kind() == ErrorKind::NotFound => {
                self.nothing(
                    "foreign_keys",
                    HealthArea::Integrity,
                    &format!("SQLite answers: {}", error.message()),
                );
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut by_table: BTreeMap<(String, String), u64> = BTreeMap::new();
        for row in &rows.rows {
            let name = |at: usize| row.get(at).and_then(Value::as_str).unwrap_or_default().to_owned();
            *by_table.entry((name(0), name(2))).or_default() += 1;
        }
        let more = if rows.truncated.is_some() { "at least " } else { "" };
        let findings = by_table
            .into_iter()
            .map(|((table, parent), rows)| {
                escalated(
                    Trigger::DataCorruption,
                    finding(
                        "foreign_key_violations",
                        Severity::Critical,
                        &table,
                        format!("{more}{} rows of `{table}` refer to rows of `{parent}` that are not there", thousands(rows)),
                        "`steward store consistency` lists them; then let every connection run `PRAGMA foreign_keys = ON`",
                    ),
                )
            })
            .collect();
        self.add("foreign_keys", HealthArea::Integrity, sql, rows, findings);
        Ok(())
    }

    fn space(&mut self) -> Result<(), Error> {
        let sql = statement(include_str!("sql/health/pages.sql"));
        let rows = self.pages()?;
        let (pages, page_bytes) = (number(&rows, "pages"), number(&rows, "page_bytes"));
        let (free, auto_vacuum) = (number(&rows, "free_pages"), number(&rows, "auto_vacuum"));
        let mut findings = Vec::new();
        if free * page_bytes >= FREE_BYTES_MIN && share(free, pages) >= FREE_SHARE {
            findings.push(finding(
                "free_pages",
                Severity::Warning,
                "",
                format!(
                    "{} of the {} of the file are free ({})",
                    size(free * page_bytes),
                    size(pages * page_bytes),
                    percent(share(free, pages))
                ),
                if auto_vacuum == 2 {
                    "PRAGMA incremental_vacuum"
                } else {
                    "VACUUM, which locks the file and needs as much room again; with `PRAGMA auto_vacuum = INCREMENTAL` \
                     before it, free pages can be given back little by little afterwards"
                },
            ));
        }
        self.add("free_pages", HealthArea::Bloat, &sql, rows, findings);
        if pages > PAGES_READ_MAX {
            self.nothing("filling", HealthArea::Bloat, "the file is too large to look at each page");
            return Ok(());
        }
        let sql = statement(include_str!("sql/health/filling.sql"));
        let rows = self.ask(&sql)?;
        let mut findings = Vec::new();
        for row in &rows.rows {
            let name = row[0].as_str().unwrap_or_default();
            let of = |at: usize| row[at].as_u64().unwrap_or(0);
            let (pages, bytes, unused, jumps) = (of(1), of(2), of(3), of(4));
            if unused >= FREE_BYTES_MIN && share(unused, bytes) >= UNUSED_SHARE {
                findings.push(finding(
                    "pages_half_empty",
                    Severity::Warning,
                    name,
                    format!(
                        "{} of the {} of `{name}` are empty ({})",
                        size(unused),
                        size(bytes),
                        percent(share(unused, bytes))
                    ),
                    "VACUUM, which locks the file and needs as much room again",
                ));
            } else if pages >= JUMPS_PAGES_MIN && share(jumps, pages) >= JUMPS_SHARE {
                findings.push(finding(
                    "fragmented",
                    Severity::Info,
                    name,
                    format!(
                        "{} of the {} pages of `{name}` lie apart from the one before",
                        percent(share(jumps, pages)),
                        thousands(pages)
                    ),
                    "VACUUM, if the whole table is often read from a slow disk",
                ));
            }
        }
        self.add("filling", HealthArea::Bloat, &sql, rows, findings);
        Ok(())
    }

    fn statistics(&mut self, schema: &Schema) -> Result<(), Error> {
        let there = self.ask("SELECT count(*) AS there FROM sqlite_schema WHERE name = 'sqlite_stat1'")?;
        let sql = statement(include_str!("sql/health/statistics.sql"));
        let rows = if number(&there, "there") > 0 {
            self.ask(&sql)?
        } else {
            facts(&["table_name", "index_name", "stat"], Vec::new())
        };
        let mut known: BTreeMap<&str, u64> = BTreeMap::new();
        let mut findings = Vec::new();
        for row in &rows.rows {
            let text = |at: usize| row[at].as_str().unwrap_or_default();
            let mut numbers = text(2).split(' ').map_while(|word| word.parse::<u64>().ok());
            let (all, per_key) = (numbers.next().unwrap_or(0), numbers.next());
            let most = known.entry(text(0)).or_default();
            *most = all.max(*most);
            // An index that finds half of the table for each key is no help, whatever the planner does with it.
            if per_key.is_some_and(|rows| all >= ROWS_MIN && rows * 2 >= all) {
                findings.push(finding(
                    "index_not_selective",
                    Severity::Info,
                    text(1),
                    format!(
                        "`{}` finds {} of the {} rows of `{}` for each key of its first column",
                        text(1),
                        thousands(per_key.unwrap_or(0)),
                        thousands(all),
                        text(0)
                    ),
                    format!(
                        "DROP INDEX {}, unless rare keys are what is looked for",
                        quote_identifier(text(1))
                    ),
                ));
            }
        }
        for table in schema.tables.iter().filter(|table| table.rows >= ROWS_MIN && !is_virtual(table)) {
            let name = table.name.name.as_str();
            match known.get(name) {
                None if !table.indexes.is_empty() => findings.push(finding(
                    "never_analyzed",
                    Severity::Warning,
                    name,
                    format!(
                        "`{name}` has {} rows, and the planner knows nothing of them",
                        thousands(table.rows)
                    ),
                    "ANALYZE; and `PRAGMA optimize` when the application closes its connections",
                )),
                Some(seen)
                    if table.rows >= seen.max(&1) * STALE_FACTOR || seen >= &(table.rows * STALE_FACTOR) =>
                {
                    findings.push(finding(
                        "statistics_stale",
                        Severity::Warning,
                        name,
                        format!(
                            "`{name}` has {} rows and had {} when it was analyzed",
                            thousands(table.rows),
                            thousands(*seen)
                        ),
                        format!("ANALYZE {}", quote_identifier(name)),
                    ));
                }
                _ => {}
            }
        }
        // What was recorded, and how many rows there are now.
        let mut answer: Vec<Vec<Value>> =
            rows.rows.into_iter().map(|row| [row, vec![Value::Null]].concat()).collect();
        answer.extend(
            schema
                .tables
                .iter()
                .map(|table| vec![json!(table.name.name), Value::Null, Value::Null, json!(table.rows)]),
        );
        answer.truncate(ROWS_MAX);
        let answer = facts(&["table_name", "index_name", "stat", "rows_now"], answer);
        self.add("statistics", HealthArea::Vacuum, &sql, answer, findings);
        Ok(())
    }

    fn indexes(&mut self, schema: &Schema) {
        let mut findings = Vec::new();
        let mut listed = Vec::new();
        for table in &schema.tables {
            let name = table.name.name.as_str();
            for index in &table.indexes {
                listed.push(vec![
                    json!(name),
                    json!(index.name),
                    json!(index.columns.join(", ")),
                    json!(index.unique),
                ]);
                if index.backs_constraint {
                    continue;
                }
                if let Some(kept) = table.indexes.iter().find(|other| does_all_of(other, index)) {
                    let same = kept.columns == index.columns;
                    let drop = format!("DROP INDEX {}", quote_identifier(&index.name));
                    findings.push(finding(
                        if same { "index_duplicate" } else { "index_redundant" },
                        if same { Severity::Warning } else { Severity::Info },
                        &index.name,
                        if same {
                            format!("`{}` of `{name}` does nothing that `{}` does not", index.name, kept.name)
                        } else {
                            format!(
                                "`{}` of `{name}` begins as `{}` does, which can answer for it",
                                index.name, kept.name
                            )
                        },
                        drop,
                    ));
                }
            }
            for key in &table.foreign_keys {
                let covers = |columns: &[String]| {
                    columns.len() >= key.columns.len()
                        && columns[..key.columns.len()]
                            .iter()
                            .all(|column| key.columns.iter().any(|of| of.eq_ignore_ascii_case(column)))
                };
                let by_key = table.primary_key.as_ref().is_some_and(|primary| covers(&primary.columns));
                if by_key
                    || table.indexes.iter().any(|index| index.predicate.is_none() && covers(&index.columns))
                {
                    continue;
                }
                let columns = key.columns.join(", ");
                findings.push(finding(
                    "foreign_key_without_index",
                    if table.rows >= ROWS_MIN { Severity::Warning } else { Severity::Info },
                    &format!("{name}.{columns}"),
                    format!(
                        "a delete in `{}` reads all {} rows of `{name}`: no index begins with ({columns})",
                        key.parent,
                        thousands(table.rows)
                    ),
                    format!(
                        "CREATE INDEX {} ON {} ({})",
                        quote_identifier(&format!("{name}_{}", key.columns.join("_"))),
                        quote_identifier(name),
                        key.columns
                            .iter()
                            .map(|column| quote_identifier(column))
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                ));
            }
        }
        listed.truncate(ROWS_MAX);
        let rows = facts(&["table_name", "index_name", "columns", "is_unique"], listed);
        self.add(
            "indexes",
            HealthArea::Indexes,
            "sqlite_schema, pragma_index_list, pragma_foreign_key_list",
            rows,
            findings,
        );
    }

    fn schema(&mut self, schema: &Schema, rows_counted_max: u64) -> Result<(), Error> {
        let keyless: Vec<&Table> =
            schema.tables.iter().filter(|table| table.primary_key.is_none() && !is_virtual(table)).collect();
        let findings = keyless
            .iter()
            .map(|table| {
                finding(
                    "no_primary_key",
                    Severity::Warning,
                    &table.name.name,
                    format!(
                        "`{}` ({} rows) has no primary key; its hidden rowid may change with VACUUM",
                        table.name.name,
                        thousands(table.rows)
                    ),
                    "rebuild the table with `id INTEGER PRIMARY KEY`: `steward migration new`",
                )
            })
            .collect();
        let rows = keyless.iter().map(|table| vec![json!(table.name.name), json!(table.rows)]).collect();
        self.add(
            "primary_keys",
            HealthArea::Schema,
            "sqlite_schema, pragma_table_xinfo",
            facts(&["name", "rows"], rows),
            findings,
        );
        self.views(schema);
        self.double_quotes()?;
        self.types(schema, rows_counted_max)
    }

    fn views(&mut self, schema: &Schema) {
        let (mut findings, mut rows) = (Vec::new(), Vec::new());
        for view in &schema.views {
            let name = view.name.name.as_str();
            let error = self.connection.prepare(&format!("SELECT * FROM {}", quote_identifier(name))).err();
            let error = error.map(|error| translate(&error, self.stop).message().to_owned());
            if let Some(error) = &error {
                findings.push(finding(
                    "view_broken",
                    Severity::Warning,
                    name,
                    format!("the view `{name}` cannot be read: {error}"),
                    format!("DROP VIEW {}, or bring back what it reads", quote_identifier(name)),
                ));
            }
            rows.push(vec![json!(name), json!(error)]);
        }
        self.add(
            "views",
            HealthArea::Schema,
            "each view, prepared and not run",
            facts(&["view", "error"], rows),
            findings,
        );
    }

    /// Makes the same schema in memory with a SQLite that takes `"x"` for a name only.
    ///
    /// Source: sqlite.org, "Quirks, Caveats, and Gotchas In SQLite", section 8.
    fn double_quotes(&mut self) -> Result<(), Error> {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                   AND name NOT LIKE 'steward%' ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'view' THEN 1 ELSE 2 END";
        let rows = self.ask(sql)?;
        let strict = || -> rusqlite::Result<Connection> {
            let strict = Connection::open_in_memory()?;
            strict.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
            strict.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
            Ok(strict)
        };
        let strict = strict().map_err(|error| translate(&error, self.stop))?;
        let mut findings = Vec::new();
        for row in &rows.rows {
            let (Some(name), Some(sql)) = (row[0].as_str(), row[1].as_str()) else { continue };
            let mut quoted: Option<String> = None;
            let made = strict.execute_batch(sql);
            let view = format!("SELECT * FROM {}", quote_identifier(name));
            // A view is looked at when it is used, the rest when it is made.
            let is_view = made.is_ok() && text::words(sql).iter().take(3).any(|word| word.is("VIEW"));
            let error = made.err().or_else(|| if is_view { strict.prepare(&view).err() } else { None });
            if let Some(error) = error {
                let message = error.to_string();
                if message.contains("should this be a string literal in single-quotes") {
                    quoted = Some(message);
                }
            }
            if let Some(message) = quoted {
                let what = message.split('"').nth(1).unwrap_or_default().to_owned();
                findings.push(finding(
                    "double_quoted_literal",
                    Severity::Warning,
                    name,
                    format!("`{name}` holds the text \"{what}\" in double quotes, which SQLite takes for text only because no column is called so"),
                    format!("write '{what}' in single quotes; a column of that name would change what `{name}` means"),
                ));
            }
        }
        let names = facts(&["name"], rows.rows.iter().map(|row| vec![row[0].clone()]).collect());
        self.add("double_quoted_literals", HealthArea::Schema, sql, names, findings);
        Ok(())
    }

    /// Texts in columns that are declared as numbers: SQLite keeps what it is given.
    fn types(&mut self, schema: &Schema, rows_counted_max: u64) -> Result<(), Error> {
        let (mut findings, mut answers, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        let mut statements = Vec::new();
        for table in &schema.tables {
            let name = table.name.name.as_str();
            if is_virtual(table) || table.options.iter().any(|option| option == "STRICT") {
                continue;
            }
            let numeric: Vec<&str> = table
                .columns
                .iter()
                .filter(|column| {
                    let kind = column.native_type.to_ascii_uppercase();
                    ["INT", "REAL", "FLOA", "DOUB", "NUMERIC", "DECIMAL"]
                        .iter()
                        .any(|part| kind.contains(part))
                })
                .map(|column| column.name.as_str())
                .collect();
            if numeric.is_empty() || table.rows == 0 {
                continue;
            }
            if table.rows > rows_counted_max {
                unread.push(name.to_owned());
                continue;
            }
            let counts: Vec<String> = numeric
                .iter()
                .map(|column| {
                    format!(
                        "count(CASE WHEN typeof({0}) IN ('text', 'blob') THEN 1 END)",
                        quote_identifier(column)
                    )
                })
                .collect();
            let sql = format!("SELECT {} FROM {}", counts.join(", "), quote_identifier(name));
            let rows = self.ask(&sql)?;
            for (column, count) in numeric.iter().zip(rows.rows.first().into_iter().flatten()) {
                let count = count.as_u64().unwrap_or(0);
                answers.push(vec![json!(name), json!(column), json!(count)]);
                if count > 0 {
                    findings.push(finding(
                        "values_of_other_type",
                        Severity::Warning,
                        &format!("{name}.{column}"),
                        format!(
                            "{} values of `{name}.{column}` are text in a column of numbers",
                            thousands(count)
                        ),
                        "put them right and rebuild the table as STRICT, which refuses them",
                    ));
                }
            }
            statements.push(sql);
        }
        answers.truncate(ROWS_MAX);
        let rows = facts(&["table_name", "column", "texts"], answers);
        self.add("types_of_values", HealthArea::Schema, &statements.join(";\n"), rows, findings);
        if let (Some(check), false) = (self.checks.last_mut(), unread.is_empty()) {
            check.seen = Seen::Part {
                because: format!("too large to be read from end to end here: {}", unread.join(", ")),
            };
        }
        Ok(())
    }

    fn sequences(&mut self) -> Result<(), Error> {
        let there = self.ask("SELECT count(*) AS there FROM sqlite_schema WHERE name = 'sqlite_sequence'")?;
        let sql = statement(include_str!("sql/health/sequences.sql"));
        let rows =
            if number(&there, "there") > 0 { self.ask(&sql)? } else { facts(&["name", "seq"], Vec::new()) };
        let mut findings = Vec::new();
        for row in &rows.rows {
            let name = row[0].as_str().unwrap_or_default();
            let last =
                row[1].as_i64().or_else(|| row[1].as_str()?.parse().ok()).unwrap_or(0).max(0).unsigned_abs();
            let used = share(last, i64::MAX.unsigned_abs());
            if used >= SEQUENCE_WARNING {
                let critical = used >= SEQUENCE_CRITICAL;
                let mut found = finding(
                    "autoincrement_near_end",
                    if critical { Severity::Critical } else { Severity::Warning },
                    name,
                    format!(
                        "{} of the numbers of `{name}` are used; at the last one inserts fail",
                        percent(used)
                    ),
                    format!(
                        "find the row with the huge number in `{name}`; delete or renumber it and correct `sqlite_sequence`"
                    ),
                );
                found.escalate = critical.then_some(Trigger::DataLossRisk);
                findings.push(found);
            }
        }
        self.add("autoincrement", HealthArea::Sequences, &sql, rows, findings);
        Ok(())
    }

    fn disk(&mut self, path: &Path) {
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let (main, wal) = (bytes(path), bytes(&beside(path, "-wal")));
        let findings = if wal >= WAL_BYTES_MAX {
            vec![finding(
                "wal_not_checkpointed",
                Severity::Warning,
                "",
                format!(
                    "the write-ahead log beside the file takes {}: a reader that never ends, or nobody, lets it be emptied",
                    size(wal)
                ),
                "end the longest reader, then PRAGMA wal_checkpoint(TRUNCATE); set PRAGMA journal_size_limit",
            )]
        } else {
            Vec::new()
        };
        let rows = facts(
            &["file", "bytes"],
            vec![vec![json!("database"), json!(main)], vec![json!("-wal"), json!(wal)]],
        );
        self.add("disk", HealthArea::Disk, "sizes of the file and of `-wal`", rows, findings);
    }

    fn settings(&mut self) -> Result<(), Error> {
        let sql = "PRAGMA journal_mode";
        let rows = self.ask(sql)?;
        let mode = rows.rows.first().and_then(|row| row[0].as_str()).unwrap_or_default().to_owned();
        let findings = if mode == "wal" {
            Vec::new()
        } else {
            vec![finding(
                "journal_not_wal",
                Severity::Info,
                "journal_mode",
                format!(
                    "the journal is `{mode}`: who writes keeps readers out, and readers keep who writes waiting"
                ),
                "PRAGMA journal_mode = WAL, if all who use the file are on this machine",
            )]
        };
        self.add("journal_mode", HealthArea::Settings, sql, rows, findings);
        let rows = self.pages()?;
        let page_bytes = number(&rows, "page_bytes");
        let findings = if page_bytes < PAGE_BYTES_MIN {
            vec![finding(
                "page_size_small",
                Severity::Info,
                "page_size",
                format!("pages are of {}; today's disks work in 4 KiB", size(page_bytes)),
                "PRAGMA page_size = 4096, then VACUUM (not in WAL mode)",
            )]
        } else {
            Vec::new()
        };
        self.add(
            "page_size",
            HealthArea::Settings,
            &statement(include_str!("sql/health/pages.sql")),
            rows,
            findings,
        );
        self.nothing(
            "connection_settings",
            HealthArea::Settings,
            "`synchronous`, `foreign_keys` and `busy_timeout` belong to each connection and are not in the file: look for \
             them in the application",
        );
        Ok(())
    }

    fn permissions(&mut self, path: &Path) {
        match permissions(path) {
            None => self.nothing(
                "file_permissions",
                HealthArea::Logins,
                "this system keeps no permissions as Unix does",
            ),
            Some((rows, findings)) => {
                self.add(
                    "file_permissions",
                    HealthArea::Logins,
                    "permissions of the file, of what lies beside it, and of its folders",
                    rows,
                    findings,
                );
            }
        }
    }
}

fn is_virtual(table: &Table) -> bool {
    table.options.iter().any(|option| option.starts_with("VIRTUAL"))
}

/// Whether `other` answers everything that `index` does: the same columns, or more after them.
fn does_all_of(other: &Index, index: &Index) -> bool {
    // The definition has what the names do not tell: collations and directions.
    let keys = |index: &Index| text::index(&index.definition).0;
    let plain = |index: &Index| index.columns.clone();
    let (a, b) =
        if other.backs_constraint { (plain(other), plain(index)) } else { (keys(other), keys(index)) };
    let descending = |index: &Index| index.definition.to_ascii_uppercase().contains(" DESC");
    if other.name == index.name
        || other.predicate != index.predicate
        || a.len() < b.len()
        || a[..b.len()] != b[..]
        || descending(other) != descending(index)
        || (index.definition.to_ascii_uppercase().contains("COLLATE") && other.backs_constraint)
    {
        return false;
    }
    match a.len() == b.len() {
        // Of two that are alike in all, the one whose name comes later goes.
        true if other.unique == index.unique => other.backs_constraint || other.name < index.name,
        true => other.unique,
        false => !index.unique,
    }
}

/// The statement without the comments above it, as it is shown and kept.
fn statement(file: &str) -> String {
    let lines = file.lines().skip_while(|line| line.starts_with("--"));
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[cfg(not(unix))]
fn permissions(_: &Path) -> Option<(Rows, Vec<HealthFinding>)> {
    None
}

/// Who else may read or write the file; a folder that lets nobody through protects what is in it.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)] // Other systems give none.
fn permissions(path: &Path) -> Option<(Rows, Vec<HealthFinding>)> {
    use std::os::unix::fs::PermissionsExt;

    const OTHERS_READ: u32 = 0o004;
    const OTHERS_WRITE: u32 = 0o002;
    const OTHERS_PASS: u32 = 0o001;
    const STICKY: u32 = 0o1000;
    let mode = |path: &Path| std::fs::metadata(path).map(|file| file.permissions().mode() & 0o7777).ok();
    let reachable =
        path.ancestors().skip(1).all(|folder| mode(folder).is_none_or(|mode| mode & OTHERS_PASS != 0));
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    let files: Vec<PathBuf> = [path.to_owned()]
        .into_iter()
        .chain(["-wal", "-shm", "-journal"].map(|suffix| beside(path, suffix)))
        .collect();
    for file in files {
        let Some(mode) = mode(&file) else { continue };
        let shown = file.display().to_string();
        rows.push(vec![json!(shown), json!(format!("{mode:04o}"))]);
        if !reachable {
            continue;
        }
        if mode & OTHERS_WRITE != 0 {
            findings.push(escalated(
                Trigger::SecurityViolation,
                finding(
                    "file_writable_by_all",
                    Severity::Critical,
                    &shown,
                    format!("every user of this machine may write `{shown}` (mode {mode:04o})"),
                    format!("chmod 0640 '{}'", shown.replace('\'', "'\\''")),
                ),
            ));
        } else if mode & OTHERS_READ != 0 {
            findings.push(finding(
                "file_readable_by_all",
                Severity::Warning,
                &shown,
                format!("every user of this machine may read `{shown}` (mode {mode:04o})"),
                format!("chmod 0640 '{}'", shown.replace('\'', "'\\''")),
            ));
        }
    }
    if let Some((folder, mode)) = path.parent().and_then(|folder| Some((folder, mode(folder)?))) {
        let shown = folder.display().to_string();
        rows.push(vec![json!(shown), json!(format!("{mode:04o}"))]);
        // Whoever may write the folder may put another file, or a journal, in its place.
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            findings.push(escalated(
                Trigger::SecurityViolation,
                finding(
                    "folder_writable_by_all",
                    Severity::Critical,
                    &shown,
                    format!(
                        "every user of this machine may exchange the files in `{shown}` (mode {mode:04o})"
                    ),
                    format!("chmod o-w '{}'", shown.replace('\'', "'\\''")),
                ),
            ));
        }
    }
    Some((facts(&["path", "mode"], rows), findings))
}
