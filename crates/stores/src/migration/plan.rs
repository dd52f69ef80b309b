//! Plans that lead a store from one migration to another.

use std::collections::BTreeSet;

use contract::{
    Batches, Context, Error, ErrorKind, Limits, Plan, PlanStep, Query, Retry, Severity, Statement, StepMode,
    StoreDirectory, sha256_hex,
};
use schema::{Dialect, Index, Schema, Table};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::effect::{self, Effect};
use super::file::{Migration, MigrationFile, Sql, read, read_form};
use super::history::{self, Record, State};
use super::risk::{Judge, Risk, resolve, stronger};
use super::safe::{self, Rewritten};
use super::split::words;
use crate::inquiry::{Inquiry, quoted_literal};
use crate::lint::operation::{Kind, Operation, Script, Target};
use crate::lint::{Blocking, World, read_statement, read_world};
use crate::prestate::Scope;
use crate::request::{ApplyMigrations, RollbackMigrations, Waits};
use crate::text;

/// A risk and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlacedRisk {
    pub(crate) migration: String,
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) statement: String,
    #[serde(flatten)]
    pub(crate) risk: Risk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// The files and what the store says of them.
pub(crate) struct Progress {
    pub(crate) files: Vec<Migration>,
    /// `None` when the store has no history table.
    pub(crate) history: Option<Vec<Record>>,
}

impl Progress {
    /// Reads files and history and refuses when they do not fit.
    pub(crate) async fn read(inquiry: &mut Inquiry<'_>, files: &[MigrationFile]) -> Result<Self, Error> {
        let files = read(files, inquiry.dialect()?)?;
        let history = history::read(inquiry).await?;
        history::match_files(&files, history.as_deref().unwrap_or_default())?;
        Ok(Self { files, history })
    }

    pub(crate) fn records(&self) -> &[Record] {
        self.history.as_deref().unwrap_or_default()
    }

    /// Migrations whose every statement has run.
    pub(crate) fn applied(&self) -> usize {
        self.records().iter().filter(|record| record.state == State::Applied).count()
    }

    /// The one that was cut short, if any.
    fn unfinished(&self) -> Option<&Record> {
        self.records().last().filter(|record| record.state != State::Applied)
    }
}

/// Plans the migrations that the store does not have yet, up to number `to`.
///
/// A migration that was cut short is continued after the last statement that the store remembers. A plan without
/// steps means that there is nothing to do.
///
/// # Errors
///
/// `Invalid`: a file is wrong, or a statement cannot be part of a migration. `Conflict`: files and history do not fit,
/// or a rollback was cut short. `NotFound`: no migration has the number `to`.
pub async fn plan_apply(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    files: &[MigrationFile],
    request: &ApplyMigrations,
) -> Result<Plan, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let progress = Progress::read(&mut inquiry, files).await?;
    let applied = progress.applied();
    let to = match &request.to {
        Some(to) => target(&progress, to)?,
        None => progress.files.len(),
    };
    if to < applied {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("the store has already applied {applied} migrations"),
        )
        .with("to", to)
        .hint("`steward migration rollback` takes migrations back"));
    }
    let mut done = 0;
    match progress.unfinished() {
        Some(record) if record.state == State::Undoing => {
            return Err(cut_short(record, "a rollback", "`steward migration rollback` finishes it"));
        }
        Some(record) => done = usize::try_from(record.statements_done).unwrap_or(usize::MAX),
        None => {}
    }
    let pending = &progress.files[applied..to];
    let scripts = pending.iter().map(|migration| effect::script(&migration.up, migration.transaction));
    let mut builder = Builder::new(&mut inquiry, scripts.collect()).await?;
    if progress.history.is_none() && !pending.is_empty() {
        builder.create_history().await?;
    }
    let begun_form = progress.unfinished().and_then(|record| record.form.as_deref());
    let mut forms = Vec::new();
    for (i, migration) in pending.iter().enumerate() {
        let (done, mut form) = (if i == 0 { done } else { 0 }, None);
        if i == 0
            && let Some(text) = begun_form
        {
            // However it is asked for: what was begun in its safe form ends in it, as it was then.
            form = Some(read_form(migration, text, builder.schema.dialect)?);
        } else if request.safe && done == 0 {
            let rewritten = builder.rewrite(migration).await?;
            if let Some(text) = rewritten.text() {
                form = Some(read_form(migration, text, builder.schema.dialect)?);
                builder.begin(migration, text).await?;
            }
            forms.push(rewritten);
        }
        if let Some(form) = &form {
            builder.destructive_anyway = builder.is_destructive(migration);
            builder.begun = true;
            builder.add(form, Direction::Up, done, &request.waits).await?;
            builder.destructive_anyway = false;
            builder.begun = false;
        } else {
            builder.add(migration, Direction::Up, done, &request.waits).await?;
        }
        builder.new_tables_of(migration);
    }
    builder.forms = forms;
    let summary = match pending {
        [] => format!(
            "{}: nothing to apply; {} applied before",
            request.store,
            text::count(applied as u64, "migration")
        ),
        [one] => format!("apply migration `{}` to {}", one.name, request.store),
        [first, .., last] => format!(
            "apply {} to {}, `{}` to `{}`",
            text::count(pending.len() as u64, "migration"),
            request.store,
            first.name,
            last.name
        ),
    };
    builder.finish("migration.apply", json!(request), &request.store, summary, pending).await
}

/// The safe form of one pending migration: what became of each statement, and the file's path.
///
/// # Errors
///
/// As [`plan_apply`]; `Conflict`: the migration has been begun or applied. `Invalid`: there is nothing to rewrite.
pub(crate) async fn rewrite_one(
    inquiry: &mut Inquiry<'_>,
    files: &[MigrationFile],
    wanted: &str,
) -> Result<(String, Rewritten), Error> {
    let progress = Progress::read(inquiry, files).await?;
    let at = target(&progress, wanted)?;
    let Some(migration) = at.checked_sub(1).map(|at| &progress.files[at]) else {
        return Err(Error::new(ErrorKind::NotFound, format!("no migration `{wanted}`")));
    };
    if at <= progress.records().len() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("migration `{}` has been applied or begun", migration.name),
        )
        .with("file", &migration.path)
        .with_retry(Retry::Never)
        .hint("a file that a store has applied stays as it is; put the change into a new migration"));
    }
    let before = &progress.files[progress.applied()..at - 1];
    let scripts = before.iter().chain([migration]);
    let scripts = scripts.map(|migration| effect::script(&migration.up, migration.transaction)).collect();
    let mut builder = Builder::new(inquiry, scripts).await?;
    for earlier in before {
        builder.new_tables_of(earlier);
        builder.judge(earlier, &earlier.up, 0)?;
    }
    let rewritten = builder.rewrite(migration).await?;
    Ok((migration.path.clone(), rewritten))
}

/// Plans the way back through the `down` sections, the newest migration first.
///
/// # Errors
///
/// As [`plan_apply`]; `Unsupported`: a migration has no way back.
pub async fn plan_rollback(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    files: &[MigrationFile],
    request: &RollbackMigrations,
) -> Result<Plan, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let progress = Progress::read(&mut inquiry, files).await?;
    let there = progress.records().len();
    let mut done = 0;
    match progress.unfinished() {
        Some(record) if record.state == State::Begun => {
            return Err(cut_short(record, "an application", "`steward migration apply` finishes it"));
        }
        Some(record) => done = usize::try_from(record.statements_done).unwrap_or(usize::MAX),
        None => {}
    }
    let keep = match (&request.to, request.steps) {
        (Some(_), Some(_)) => {
            return Err(Error::new(ErrorKind::Invalid, "give one of `to` and `steps`"));
        }
        (Some(to), None) => target(&progress, to)?,
        (None, steps) => there.saturating_sub(usize::try_from(steps.unwrap_or(1)).unwrap_or(usize::MAX)),
    };
    if keep > there {
        return Err(Error::new(ErrorKind::Invalid, format!("the store has applied only {there} migrations"))
            .with("to", keep)
            .hint("`steward migration apply` applies more"));
    }
    let back: Vec<Migration> = progress.files[keep..there].iter().rev().cloned().collect();
    if let Some(migration) = back.iter().find(|migration| migration.down.is_none()) {
        return Err(inquiry
            .store
            .unsupported(
                "migration.rollback",
                "the migration has no `-- steward: down` section",
                "write a new migration that leads back, or restore a backup",
            )
            .with("file", &migration.path));
    }
    let scripts = back.iter().map(|migration| {
        effect::script(migration.down.as_deref().unwrap_or_default(), migration.transaction)
    });
    let mut builder = Builder::new(&mut inquiry, scripts.collect()).await?;
    for (i, migration) in back.iter().enumerate() {
        let done = if i == 0 { done } else { 0 };
        builder.add(migration, Direction::Down, done, &request.waits).await?;
    }
    let summary = match back.as_slice() {
        [] => format!("{}: nothing to take back", request.store),
        [one] => format!("take migration `{}` back from {}", one.name, request.store),
        [first, .., last] => format!(
            "take {} back from {}, `{}` to `{}`",
            text::count(back.len() as u64, "migration"),
            request.store,
            first.name,
            last.name
        ),
    };
    builder.finish("migration.rollback", json!(request), &request.store, summary, &back).await
}

fn cut_short(record: &Record, what: &str, hint: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{what} of migration `{}` was cut short", record.name))
        .with("statements_done", record.statements_done)
        .with_retry(Retry::Never)
        .hint(hint)
}

/// How many migrations the store has when `to`, a number or a name, is reached.
fn target(progress: &Progress, to: &str) -> Result<usize, Error> {
    let number = to.parse().ok().filter(|number| *number <= progress.files.len());
    let named = || {
        let name = to.strip_suffix(".sql").unwrap_or(to);
        progress.files.iter().position(|file| file.name == name).map(|at| at + 1)
    };
    number.or_else(named).ok_or_else(|| {
        let error = Error::new(ErrorKind::NotFound, format!("no migration `{to}`"));
        match progress.files.last() {
            Some(last) => error.hint(format!("the last one is `{}`", last.name)),
            None => error.hint("there are no migrations; `steward migration new` makes one"),
        }
    })
}

/// How a statement is run in a migration that is not one transaction.
enum Apart {
    /// In a transaction of its own, so that it runs exactly once.
    Transaction,
    /// Outside of any; `is_done` and `clean_up` make it safe to try again, or it can be repeated without harm.
    Autocommit {
        is_done: Option<Statement>,
        clean_up: Vec<Statement>,
        /// Run together with the record that it is done: what a cut in the middle of it leaves to do.
        after: Vec<Statement>,
    },
}

struct Builder<'a, 'c> {
    inquiry: &'a mut Inquiry<'c>,
    schema: Schema,
    judged: Vec<PlacedRisk>,
    /// The database as the linter knows it, changed by each migration; `None` where it reads another language.
    world: Option<World>,
    effects: Vec<Effect>,
    steps: Vec<PlanStep>,
    /// Tables that may be changed; `None`: nobody can say.
    tables: Option<BTreeSet<String>>,
    /// Those of them that are known by name.
    named: BTreeSet<String>,
    new_tables: BTreeSet<String>,
    /// What became of each migration in its safe form.
    forms: Vec<Rewritten>,
    /// The history knows the migration before its first statement: it was begun in its safe form.
    begun: bool,
    /// What it was rewritten from loses data.
    destructive_anyway: bool,
}

impl<'a, 'c> Builder<'a, 'c> {
    async fn new(inquiry: &'a mut Inquiry<'c>, scripts: Vec<Script>) -> Result<Self, Error> {
        let schema = inquiry.schema().await?;
        let world = if schema.0.dialect == Dialect::Postgres && !scripts.is_empty() {
            let read = read_world(inquiry, &schema, &scripts.iter().collect::<Vec<_>>()).await;
            let mut world = match read {
                // A catalog too large to be read at once: then every table is taken for large.
                Err(error) if error.kind() == ErrorKind::Unsupported => World::offline(None),
                read => read?,
            };
            // Of now, while a plan is for later too.
            world.busy.clear();
            world.rounded = true;
            Some(world)
        } else {
            None
        };
        Ok(Self {
            inquiry,
            schema: schema.0,
            judged: Vec::new(),
            world,
            effects: Vec::new(),
            steps: Vec::new(),
            tables: Some(BTreeSet::new()),
            named: BTreeSet::new(),
            new_tables: BTreeSet::new(),
            forms: Vec::new(),
            begun: false,
            destructive_anyway: false,
        })
    }

    async fn rewrite(&mut self, migration: &Migration) -> Result<Rewritten, Error> {
        safe::rewrite(self.inquiry, &self.schema, &self.new_tables, self.world.as_ref(), migration).await
    }

    /// The step that remembers the safe form, so that the next start goes on in it.
    async fn begin(&mut self, migration: &Migration, form: &str) -> Result<(), Error> {
        let dialect = self.schema.dialect;
        let mut statements = Vec::new();
        // A table that this plan makes has the column.
        let columns = history::columns(self.inquiry).await?;
        if columns > 0
            && columns < history::COLUMNS
            && !self.steps.iter().any(|step| step.id.ends_with("/begin"))
        {
            statements.push(history::complete(dialect));
        }
        statements.push(history::begin(dialect, migration, form));
        self.steps.push(PlanStep {
            undo: vec![history::forget(dialect, migration)],
            reversible: true,
            ..PlanStep::new(
                format!("{}/begin", migration.name),
                format!("remember that `{}` begins in its safe form", migration.name),
                StepMode::Transaction,
                statements,
            )
        });
        Ok(())
    }

    /// Whether the migration as its file says it loses data.
    fn is_destructive(&self, migration: &Migration) -> bool {
        let mut judge = Judge::new(&self.schema, self.new_tables.clone());
        migration.up.iter().any(|sql| judge.judge(&sql.readable()).destructive)
    }

    /// Remembers the tables that a migration makes, for the ones after it.
    fn new_tables_of(&mut self, migration: &Migration) {
        let mut judge = Judge::new(&self.schema, std::mem::take(&mut self.new_tables));
        for sql in &migration.up {
            judge.judge(&sql.readable());
        }
        self.new_tables = judge.into_new_tables();
    }

    /// The first step of the first migration: the table of the history, which the reader may read.
    async fn create_history(&mut self) -> Result<(), Error> {
        let mut statements = history::create(self.schema.dialect);
        if self.schema.dialect == Dialect::Postgres {
            let probe = self.inquiry.store.probe(self.inquiry.ctx).await?;
            if probe.writer.is_some_and(|writer| writer.user != probe.reader.user) {
                let reader = self.inquiry.quoted(&probe.reader.user)?;
                statements.push(Statement::new(format!("GRANT USAGE ON SCHEMA steward TO {reader}")));
                statements
                    .push(Statement::new(format!("GRANT SELECT ON steward.steward_migrations TO {reader}")));
            }
        }
        self.steps.push(PlanStep {
            undo: vec![Statement::new(format!("DROP TABLE {}", history::table(self.schema.dialect)))],
            reversible: true,
            ..PlanStep::new(
                "steward_migrations",
                "make the table that remembers migrations",
                StepMode::Transaction,
                statements,
            )
        });
        Ok(())
    }

    async fn add(
        &mut self,
        migration: &Migration,
        direction: Direction,
        done: usize,
        waits: &Waits,
    ) -> Result<(), Error> {
        let dialect = self.schema.dialect;
        let list: &[Sql] = match direction {
            Direction::Up => &migration.up,
            Direction::Down => migration.down.as_deref().unwrap_or_default(),
        };
        let settings = waits.settings(dialect, false);
        let judged = self.judge(migration, list, done)?;
        let (verb, suffix) = match direction {
            Direction::Up => ("apply", ""),
            Direction::Down => ("take back", "/down"),
        };
        let id = format!("{}{suffix}", migration.name);
        let destructive_any = judged.iter().any(|one| one.0) || self.destructive_anyway;
        // Data that a way back would have to bring back is gone; of a way back itself, the way forth is the undo.
        let has_way_back = direction == Direction::Down || migration.down.is_some();
        let reversible = has_way_back && !destructive_any && !migration.irreversible;
        let undo = || match direction {
            Direction::Up => {
                let mut undo: Vec<Statement> =
                    migration.down.iter().flatten().map(|sql| Statement::new(&sql.text)).collect();
                if !undo.is_empty() {
                    undo.push(history::forget(dialect, migration));
                }
                undo
            }
            Direction::Down => migration.up.iter().map(|sql| Statement::new(&sql.text)).collect(),
        };
        let begun = self.begun;
        let remember = |done: usize| match direction {
            Direction::Up => {
                let state = if done == list.len() { State::Applied } else { State::Begun };
                let first = !begun && (done == 1 || migration.transaction);
                history::remember(dialect, migration, first, state, done)
            }
            Direction::Down if done == list.len() => history::forget(dialect, migration),
            Direction::Down => history::remember(dialect, migration, false, State::Undoing, done),
        };
        if migration.transaction {
            for sql in list {
                self.refuse_outside_transaction(migration, sql)?;
            }
            let mut statements = settings;
            statements.extend(list.iter().map(|sql| Statement::new(&sql.text)));
            // SQLite's adapter switches foreign keys off around a step that begins and ends with this pragma.
            let ends_with_pragma = dialect == Dialect::Sqlite
                && list.last().is_some_and(|sql| words(&sql.text, dialect).starts_with(&["PRAGMA".into()]));
            let at = statements.len() - usize::from(ends_with_pragma);
            statements.insert(at, remember(list.len()));
            self.steps.push(PlanStep {
                undo: undo(),
                destructive: destructive_any,
                reversible,
                lock: judged.iter().fold(None, |lock, one| stronger(lock, one.1)).map(ToOwned::to_owned),
                ..PlanStep::new(
                    id,
                    format!("{verb} `{}`: {}", migration.name, text::count(list.len() as u64, "statement")),
                    StepMode::Transaction,
                    statements,
                )
            });
            return Ok(());
        }
        for (i, (sql, (destructive, lock))) in list.iter().zip(&judged).enumerate().skip(done) {
            let number = i + 1;
            let is_last = number == list.len();
            let step = |id: String, title: String, mode, statements| PlanStep {
                undo: if is_last { undo() } else { Vec::new() },
                destructive: *destructive,
                reversible,
                lock: lock.map(ToOwned::to_owned),
                ..PlanStep::new(id, title, mode, statements)
            };
            let title = format!("{verb} `{}`, statement {number} of {}", migration.name, list.len());
            if let Some(batched) = &sql.batched {
                let mut batches = Batches::new(&batched.table, batched.key.clone());
                batches.finish = vec![remember(number)];
                let text = sha256_hex(sql.text.as_bytes());
                batches.resume = Some(format!("{id}/{number} {} {}", migration.checksum, &text[..12]));
                let mut statements = settings.clone();
                statements.push(Statement::new(&sql.text));
                let mode = StepMode::Batched(Box::new(batches));
                let mut step = step(format!("{id}/{number}"), title, mode, statements);
                step.destructive = *destructive || self.destructive_anyway;
                self.steps.push(step);
                continue;
            }
            match self.apart(migration, sql)? {
                Apart::Transaction => {
                    let mut statements = settings.clone();
                    statements.push(Statement::new(&sql.text));
                    statements.push(remember(number));
                    self.steps.push(step(format!("{id}/{number}"), title, StepMode::Transaction, statements));
                }
                Apart::Autocommit { is_done, clean_up, after } => {
                    if !self.is_done_already(is_done.as_ref()).await? {
                        let mut statements = Vec::new();
                        if words(&sql.text, dialect).iter().any(|word| word == "CONCURRENTLY") {
                            statements = waits.settings(dialect, true);
                        }
                        statements.extend(self.left_by_rebuild(sql, true)?);
                        statements.push(Statement::new(&sql.text));
                        let mut step =
                            step(format!("{id}/{number}"), title, StepMode::Autocommit, statements);
                        step.is_done = is_done;
                        step.clean_up = clean_up;
                        step.undo = Vec::new();
                        self.steps.push(step);
                    }
                    let mut statements = if after.is_empty() { Vec::new() } else { settings.clone() };
                    statements.extend(after);
                    statements.push(remember(number));
                    self.steps.push(step(
                        format!("{id}/{number}/recorded"),
                        format!("remember statement {number} of `{}`", migration.name),
                        StepMode::Transaction,
                        statements,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Judges the statements of one migration, of which `done` have run: destructive, lock.
    fn judge(
        &mut self,
        migration: &Migration,
        list: &[Sql],
        done: usize,
    ) -> Result<Vec<(bool, Option<&'static str>)>, Error> {
        let left = list.get(done..).unwrap_or_default();
        let effects = match &mut self.world {
            Some(world) => effect::effects(&migration.name, left, migration.transaction, world),
            None => Vec::new(),
        };
        let schema = &self.schema;
        let mut judge = Judge::new(schema, std::mem::take(&mut self.new_tables));
        let mut judged = Vec::with_capacity(list.len());
        let mut before = "";
        for (at, sql) in list.iter().enumerate() {
            refuse_foreign(migration, sql, schema.dialect)?;
            let mut judgement = judge.judge(&sql.readable());
            if let Some(effect) = at.checked_sub(done).and_then(|at| effects.get(at)) {
                effect.correct(&mut judgement);
                let parts = |name: &String| name.split('.').map(ToOwned::to_owned).collect::<Vec<_>>();
                let there = effect.relations.iter().filter(|name| resolve(schema, &parts(name)).is_some());
                let there: BTreeSet<String> = there.cloned().collect();
                match &judgement.tables {
                    Some(tables) if tables.is_empty() => judgement.tables = Some(there),
                    Some(_) => {}
                    None => self.named.extend(there),
                }
            }
            if migration.form.is_some() {
                judgement.risks.retain(|risk| !safe::is_settled(&risk.rule, before, &sql.text));
            }
            before = &sql.text;
            self.named.extend(judgement.tables.iter().flatten().cloned());
            match (&mut self.tables, judgement.tables) {
                (Some(all), Some(tables)) => all.extend(tables),
                (all, _) => *all = None,
            }
            self.judged.extend(judgement.risks.into_iter().map(|risk| PlacedRisk {
                migration: migration.name.clone(),
                file: migration.path.clone(),
                line: sql.line,
                statement: text::plain(&sql.text.split_whitespace().collect::<Vec<_>>().join(" "), 100),
                risk,
            }));
            judged.push((judgement.destructive, judgement.lock));
        }
        self.new_tables = judge.into_new_tables();
        self.effects.extend(effects);
        Ok(judged)
    }

    /// Whether an autocommit statement took effect before it was remembered.
    async fn is_done_already(&mut self, is_done: Option<&Statement>) -> Result<bool, Error> {
        let Some(is_done) = is_done else { return Ok(false) };
        let query = Query {
            sql: is_done.sql.clone(),
            parameters: is_done.parameters.clone(),
            limits: Limits::default(),
        };
        let (rows, _) = self.inquiry.rows(&query).await?;
        Ok(rows.rows.first().and_then(|row| row.first()).is_some_and(|value| *value == json!(true)))
    }

    fn refuse_outside_transaction(&self, migration: &Migration, sql: &Sql) -> Result<(), Error> {
        let words = words(&sql.text, self.schema.dialect);
        if !runs_alone(&words, self.schema.dialect) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, "this statement cannot run inside a transaction")
            .with("file", &migration.path)
            .with("line", sql.line)
            .with("statement", text::plain(&sql.text, 100))
            .hint("put it into a migration of its own that says `-- steward: no-transaction`"))
    }

    /// Where an index lies that is named without its namespace.
    fn namespace_of_index(&self, index: &str) -> &str {
        let owner = self.schema.tables.iter().find(|table| table.indexes.iter().any(|one| one.name == index));
        owner.map_or("public", |table| &table.name.namespace)
    }

    fn apart(&self, migration: &Migration, sql: &Sql) -> Result<Apart, Error> {
        let dialect = self.schema.dialect;
        let words = words(&sql.text, dialect);
        let head: Vec<&str> = words.iter().map(String::as_str).collect();
        let invalid = |message: &str, hint: &str| {
            Error::new(ErrorKind::Invalid, message)
                .with("file", &migration.path)
                .with("line", sql.line)
                .with("statement", text::plain(&sql.text, 100))
                .hint(hint)
        };
        if dialect == Dialect::Sqlite {
            return Ok(match head.as_slice() {
                ["VACUUM" | "PRAGMA", ..] => {
                    Apart::Autocommit { is_done: None, clean_up: Vec::new(), after: Vec::new() }
                }
                _ => Apart::Transaction,
            });
        }
        let concurrently = head.contains(&"CONCURRENTLY");
        match head.as_slice() {
            ["VACUUM", ..] => {
                Ok(Apart::Autocommit { is_done: None, clean_up: Vec::new(), after: Vec::new() })
            }
            // Nothing tells an index that was built anew from one that was not: it is built again.
            ["REINDEX", ..] if concurrently => Ok(Apart::Autocommit {
                is_done: Some(Statement::new("SELECT false")),
                clean_up: self.left_by_rebuild(sql, false)?,
                after: Vec::new(),
            }),
            ["ALTER", "TABLE", ..] if concurrently && head.contains(&"DETACH") => {
                let operations = read_statement(sql.line, 0, sql.text.clone()).operations;
                let [Operation::DetachPartition { table, partition, .. }] = operations.as_slice() else {
                    return Err(invalid(
                        "this statement cannot be read",
                        "detach one partition per statement",
                    ));
                };
                let parts: Vec<String> =
                    partition.namespace.iter().chain([&partition.name]).cloned().collect();
                let namespace = match (resolve(&self.schema, &parts), &partition.namespace) {
                    (Some(known), _) => known.name.namespace.clone(),
                    (None, namespace) => namespace.clone().unwrap_or_else(|| "public".to_owned()),
                };
                let quoted =
                    format!("{}.{}", self.inquiry.quoted(&namespace)?, self.inquiry.quoted(&partition.name)?);
                Ok(Apart::Autocommit {
                    is_done: Some(is_detached(&namespace, &partition.name)?),
                    clean_up: Vec::new(),
                    after: vec![finish_detaching(&table.quoted(), &quoted)?],
                })
            }
            ["CREATE", "INDEX", ..] | ["CREATE", "UNIQUE", "INDEX", ..] if concurrently => {
                let parsed = super::risk::parse(&sql.text, dialect);
                let Some(sqlparser::ast::Statement::CreateIndex(create)) = parsed else {
                    return Err(invalid("this index cannot be read", "write it as the manual shows it"));
                };
                let Some(name) = &create.name else {
                    return Err(invalid(
                        "an index that is built concurrently needs a name",
                        "name it, so that a build that was cut short can be found and dropped",
                    ));
                };
                let table = super::risk::name_parts(&create.table_name, dialect);
                let namespace = match (resolve(&self.schema, &table), table.as_slice()) {
                    (Some(table), _) => table.name.namespace.clone(),
                    (None, [namespace, _]) => namespace.clone(),
                    (None, _) => "public".to_owned(),
                };
                let name = super::risk::name_parts(name, dialect).pop().unwrap_or_default();
                let quoted = format!("{}.{}", self.inquiry.quoted(&namespace)?, self.inquiry.quoted(&name)?);
                Ok(Apart::Autocommit {
                    is_done: Some(index_is_valid(&namespace, &name)?),
                    clean_up: vec![Statement::new(format!("DROP INDEX CONCURRENTLY IF EXISTS {quoted}"))],
                    after: Vec::new(),
                })
            }
            ["DROP", "INDEX", ..] if concurrently => {
                // The other parser does not know the word.
                let operations = read_statement(sql.line, 0, sql.text.clone()).operations;
                let [Operation::Drop { kind: Kind::Index, object, .. }] = operations.as_slice() else {
                    return Err(invalid("this statement cannot be read", "drop one index per statement"));
                };
                let namespace =
                    object.namespace.as_deref().unwrap_or_else(|| self.namespace_of_index(&object.name));
                Ok(Apart::Autocommit {
                    is_done: Some(index_is_gone(namespace, &object.name)?),
                    clean_up: Vec::new(),
                    after: Vec::new(),
                })
            }
            _ if runs_alone(&words, dialect) => Err(invalid(
                "this statement cannot be resumed when it is cut short, so it cannot be part of a migration",
                "run it by hand, with a plan for what to do when it fails half-way",
            )),
            _ => Ok(Apart::Transaction),
        }
    }

    /// Drops what a rebuild leaves when it is cut short: the new index, or the old one. `found`: only what is there.
    ///
    /// Source: PostgreSQL manual, "REINDEX", Rebuilding Indexes Concurrently.
    fn left_by_rebuild(&self, sql: &Sql, found: bool) -> Result<Vec<Statement>, Error> {
        let operations = read_statement(sql.line, 0, sql.text.clone()).operations;
        let [Operation::Reindex { target, concurrently: true }] = operations.as_slice() else {
            return Ok(Vec::new());
        };
        let is_meant = |table: &Table, index: &Index| match target {
            Target::Table(name) => {
                let parts: Vec<String> = name.namespace.iter().chain([&name.name]).cloned().collect();
                let whole = resolve(&self.schema, &parts);
                whole.is_some_and(|whole| self.is_within(table, whole))
            }
            Target::Index(name) => {
                name.name == index.name
                    && name.namespace.as_ref().is_none_or(|namespace| *namespace == table.name.namespace)
            }
            Target::Schema(name) => *name == table.name.namespace,
            Target::Database => true,
        };
        let mut drops = Vec::new();
        for table in &self.schema.tables {
            let meant = table.indexes.iter().filter(|index| index.valid && is_meant(table, index));
            let names = meant
                .flat_map(|index| ["ccnew", "ccold"].map(|kind| safe::server_name(&index.name, "", kind)));
            for name in names {
                let beside =
                    self.schema.tables.iter().filter(|other| other.name.namespace == table.name.namespace);
                let there = beside.flat_map(|other| &other.indexes).find(|index| index.name == name);
                // Somebody may have given a usable index such a name.
                if there.map_or(!found, |there| !there.valid) {
                    let namespace = self.inquiry.quoted(&table.name.namespace)?;
                    let name = self.inquiry.quoted(&name)?;
                    drops.push(Statement::new(format!(
                        "DROP INDEX CONCURRENTLY IF EXISTS {namespace}.{name}"
                    )));
                }
            }
        }
        Ok(drops)
    }

    /// Whether a table is this one, or a partition of it at any depth.
    fn is_within(&self, table: &Table, whole: &Table) -> bool {
        table.name == whole.name
            || table
                .partition
                .as_ref()
                .and_then(|one| one.parent.as_ref())
                .and_then(|parent| self.schema.tables.iter().find(|table| table.name == *parent))
                .is_some_and(|parent| self.is_within(parent, whole))
    }

    async fn finish(
        self,
        request: &str,
        arguments: serde_json::Value,
        store: &str,
        summary: String,
        migrations: &[Migration],
    ) -> Result<Plan, Error> {
        let scope = Scope { tables: self.tables.map(|tables| tables.into_iter().collect()), history: true };
        let unknown = scope.tables.is_none()
            && (self.world.is_none()
                || self.effects.iter().any(|effect| effect.blocking == Blocking::Unjudged));
        let rows: serde_json::Map<String, serde_json::Value> = self
            .named
            .iter()
            .filter_map(|name| {
                let parts: Vec<String> = name.split('.').map(ToOwned::to_owned).collect();
                let table = resolve(&self.schema, &parts)?;
                Some((table.name.to_string(), json!(text::magnitude(table.rows))))
            })
            .collect();
        let critical = self.judged.iter().filter(|placed| placed.risk.severity == Severity::Critical).count();
        let predicted = json!({
            "scope": scope,
            "migrations": migrations.iter().map(|migration| &migration.name).collect::<Vec<_>>(),
            "versions": migrations.iter().map(|migration| migration.version).collect::<Vec<_>>(),
            "table_rows_at_most": rows,
            "tables_unknown": unknown,
            "risks": self.judged,
            "risks_critical": critical,
        });
        let mut predicted = predicted;
        if self.world.is_some() {
            predicted["effects"] = json!(self.effects);
        }
        if !self.forms.is_empty() {
            predicted["safe"] = json!(self.forms);
        }
        let pre_state = self.inquiry.pre_state(&scope, &self.steps).await?;
        Ok(Plan {
            request: request.into(),
            arguments,
            project: self.inquiry.ctx.project().into(),
            target: format!("store:{store}"),
            summary,
            steps: self.steps,
            pre_state,
            predicted,
            cost_usd_nanos: 0,
        })
    }
}

/// True when the index is there and usable.
pub(crate) fn index_is_valid(namespace: &str, name: &str) -> Result<Statement, Error> {
    Ok(Statement::new(format!(
        "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND i.indisvalid)",
        quoted_literal(namespace)?,
        quoted_literal(name)?
    )))
}

/// True when there is no such index.
pub(crate) fn index_is_gone(namespace: &str, name: &str) -> Result<Statement, Error> {
    Ok(Statement::new(format!(
        "SELECT NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n \
         ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {} AND c.relkind IN ('i', 'I'))",
        quoted_literal(namespace)?,
        quoted_literal(name)?
    )))
}

/// True when the partition is none any more, or only the end of detaching it is left.
fn is_detached(namespace: &str, name: &str) -> Result<Statement, Error> {
    Ok(Statement::new(format!(
        "SELECT NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND NOT i.inhdetachpending)",
        quoted_literal(namespace)?,
        quoted_literal(name)?
    )))
}

/// Detaching has two transactions; whoever is cut off between them leaves the second one to be done.
fn finish_detaching(table: &str, partition: &str) -> Result<Statement, Error> {
    let pending = format!(
        "SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = pg_catalog.to_regclass({}) AND inhdetachpending",
        quoted_literal(partition)?
    );
    Ok(Statement::new(format!(
        "DO $steward$ BEGIN IF EXISTS ({pending}) THEN ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE; \
         END IF; END $steward$"
    )))
}

/// Statements that the engine refuses inside a transaction.
fn runs_alone(words: &[String], dialect: Dialect) -> bool {
    let head: Vec<&str> = words.iter().map(String::as_str).collect();
    match (dialect, head.as_slice()) {
        (_, ["VACUUM", ..])
        | (Dialect::Postgres, ["CREATE" | "DROP", "DATABASE" | "TABLESPACE", ..] | ["ALTER", "SYSTEM", ..]) => {
            true
        }
        (Dialect::Postgres, ["CREATE" | "DROP" | "REINDEX" | "ALTER", ..]) => {
            let objects = ["INDEX", "REINDEX", "DETACH"];
            head.contains(&"CONCURRENTLY") && head.iter().any(|word| objects.contains(word))
        }
        _ => false,
    }
}

/// Refuses what would take the transaction out of Steward's hands or leave the database.
fn refuse_foreign(migration: &Migration, sql: &Sql, dialect: Dialect) -> Result<(), Error> {
    let words = words(&sql.text, dialect);
    let head: Vec<&str> = words.iter().map(String::as_str).collect();
    let (message, hint) = match head.as_slice() {
        ["BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE", ..]
        | ["PREPARE", "TRANSACTION", ..] => (
            "a migration cannot control the transaction",
            "leave it out: Steward runs each migration in one transaction, or each statement in its own with `-- steward: no-transaction`",
        ),
        ["COPY", ..] if words.iter().any(|word| word == "PROGRAM") => {
            ("a migration cannot run a program on the server", "leave it out")
        }
        ["COPY", ..] if words.iter().any(|word| word == "STDIN" || word == "STDOUT") => {
            ("a migration has no standard input", "write INSERT statements")
        }
        ["ATTACH" | "DETACH", ..] if dialect == Dialect::Sqlite => {
            ("a migration cannot leave its database", "leave it out")
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Invalid, message)
        .with("file", &migration.path)
        .with("line", sql.line)
        .with("statement", text::plain(&sql.text, 100))
        .hint(hint))
}
