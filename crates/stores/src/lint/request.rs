//! `migration.lint`: the request, and the files judged with or without the live catalog.

use std::collections::BTreeSet;

use contract::{
    Context, Effect, Error, ErrorKind, Finding, Outcome, Relational, Request, Severity, StoreDirectory,
    Trigger,
};
use schema::{Dialect, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::judge::{judge, replay};
use super::lock::Blocking;
use super::operation::{Operation, Script};
use super::parse::{read, read_as};
use super::report;
use super::sqlite;
use super::verdict::Verdict;
use super::world::World;
use crate::inquiry::Inquiry;
use crate::migration::{MigrationFile, Progress};

/// Conditions of UPDATE and DELETE whose rows the planner is asked for, in all files together.
const ESTIMATES_MAX: usize = 100;

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LintFormat {
    /// For people.
    #[default]
    Text,
    /// Every verdict with its locks.
    Json,
    /// SARIF 2.1.0, as code hosts read it.
    Sarif,
}

/// Arguments of `migration.lint`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LintMigrations {
    /// SQL files of the project, such as `migrations/orders/0004_add_status.sql`.
    #[serde(default)]
    pub files: Vec<String>,
    /// The store that they are for: its live catalog is asked. Without it nothing is known but the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Also the migrations that the store does not have yet.
    #[serde(default)]
    pub pending: bool,
    /// Leave the store alone and assume the worst of its tables.
    #[serde(default)]
    pub offline: bool,
    /// Major version of the server when no store is asked, such as 17; all versions without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    /// How the answer is written.
    #[serde(default)]
    pub format: LintFormat,
}

impl Request for LintMigrations {
    const NAME: &'static str = "migration.lint";
    const SUMMARY: &'static str = "Judge what migrations lock, scan, rewrite and break, by the live catalog";
    const EXAMPLE: &'static str =
        "steward migration lint migrations/orders/0004_add_status.sql --store orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["files"];
}

/// A file and what the linter says of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Judged {
    pub(crate) path: String,
    pub(crate) verdicts: Vec<Verdict>,
    /// Allowances that allowed nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) idle_allowances: Vec<usize>,
}

/// Judges one file without a store. `version`: the server's major version, if known. `before`: the files that ran
/// before it, which say what there is, but not how large.
pub fn lint_text(text: &str, version: Option<u32>, before: &[&str]) -> Vec<Verdict> {
    let mut world = World::offline(version);
    for text in before {
        replay(&read(text), &mut world);
    }
    judge(&read(text), &mut world)
}

/// A live catalog, read once, by which any number of texts can be judged.
#[derive(Debug, Clone)]
pub struct Catalog {
    world: World,
}

impl Catalog {
    /// Reads the catalog of a PostgreSQL store, with what the texts will need of it: how volatile the functions are that
    /// they call, and how many rows the planner expects of their conditions.
    ///
    /// # Errors
    ///
    /// As `Relational::inspect` and `Relational::query`.
    pub async fn read(
        ctx: &Context,
        stores: &dyn StoreDirectory,
        store: &str,
        texts: &[&str],
    ) -> Result<Self, Error> {
        let mut inquiry = Inquiry::open(ctx, stores, store).await?;
        let scripts: Vec<(String, Script)> = texts.iter().map(|text| (String::new(), read(text))).collect();
        let schema = inquiry.schema().await?;
        let scripts: Vec<&Script> = scripts.iter().map(|(_, script)| script).collect();
        Ok(Self { world: read_world(&mut inquiry, &schema, &scripts).await? })
    }

    /// Judges a text as if nothing had run since the catalog was read.
    pub fn lint(&self, text: &str) -> Vec<Verdict> {
        judge(&read(text), &mut self.world.clone())
    }
}

/// Reads what must be known of a store to judge these scripts; `schema`: its catalog with the id of the evidence.
pub(crate) async fn read_world(
    inquiry: &mut Inquiry<'_>,
    schema: &(Schema, String),
    scripts: &[&Script],
) -> Result<World, Error> {
    let calls: BTreeSet<String> = scripts
        .iter()
        .flat_map(|script| &script.statements)
        .flat_map(|statement| statement.calls.iter().cloned())
        .collect();
    let mut world = World::read(inquiry, schema, &calls).await?;
    estimate_rows(inquiry, scripts, &mut world).await;
    Ok(world)
}

/// Judges migration files, each statement by its own lock, work and class.
///
/// With a store its catalog is read once, and the files are judged as if they ran one after the other. Without one
/// each file is judged by what the files before it in its folder made (`migrations`): types, keys, indexes, but no
/// sizes; a table that they do not make exists, and all are large. SQLite is judged by what is lost, what fails and what
/// old code meets; how long its one write lock is held is not weighed.
///
/// Value: `files[] {path, verdicts[] {line, range, statement, blocking, locks[], work[], remarks[], assumed[]}}`,
/// `worst`, `connected`, `server_version`. Findings: one for each remark that no `-- steward: allow` allows.
///
/// # Errors
///
/// `Invalid`: no file, a file that is not UTF-8, or `pending` without a store. `NotFound`: no such store. Otherwise as
/// `Relational::inspect` and `Relational::query`.
pub async fn lint(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    files: &[MigrationFile],
    migrations: &[MigrationFile],
    request: &LintMigrations,
) -> Result<Outcome, Error> {
    let mut files: Vec<MigrationFile> = files.to_vec();
    let mut inquiry = match (&request.store, request.offline) {
        (Some(store), false) => Some(Inquiry::open(ctx, stores, store).await?),
        _ => None,
    };
    if request.pending {
        let Some(inquiry) = &mut inquiry else {
            return Err(Error::new(ErrorKind::Invalid, "only a store knows what is pending")
                .hint("name it with `--store`, without `--offline`"));
        };
        let progress = Progress::read(inquiry, migrations).await?;
        for migration in &progress.files[progress.applied()..] {
            files.extend(migrations.iter().find(|file| file.path == migration.path).cloned());
        }
    }
    if files.is_empty() && !request.pending {
        return Err(Error::new(ErrorKind::Invalid, "no file to judge")
            .hint("give SQL files, or `--pending` with `--store`"));
    }
    let kind = match (&inquiry, &request.store) {
        (Some(inquiry), _) => Some(inquiry.store.kind().to_owned()),
        (None, Some(store)) => {
            let listed = stores.list(ctx).into_iter().find(|(name, _)| name == store);
            Some(listed.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no store `{store}`")))?.1)
        }
        (None, None) => None,
    };
    let dialect = if kind.as_deref() == Some("sqlite") { Dialect::Sqlite } else { Dialect::Postgres };
    let mut scripts = Vec::with_capacity(files.len());
    for file in &files {
        let text = std::str::from_utf8(&file.content)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the file is not UTF-8").with("file", &file.path))?;
        scripts.push((file.path.clone(), read_as(text, dialect)));
    }
    let (version, judged, evidence) = match (&mut inquiry, dialect) {
        (Some(inquiry), Dialect::Sqlite) => {
            let (schema, evidence) = inquiry.schema().await?;
            (None, judged_as_sqlite(&scripts, &schema), vec![evidence])
        }
        (None, Dialect::Sqlite) => {
            let (tables, views, others, extensions) = Default::default();
            let nothing = Schema { dialect, tables, views, others, extensions, size_bytes: None };
            (None, judged_as_sqlite(&scripts, &nothing), Vec::new())
        }
        (Some(inquiry), Dialect::Postgres) => {
            let schema = inquiry.schema().await?;
            let all: Vec<&Script> = scripts.iter().map(|(_, script)| script).collect();
            let mut world = read_world(inquiry, &schema, &all).await?;
            let each = |(path, script): &(String, Script)| judged(path, script, judge(script, &mut world));
            let judged = scripts.iter().map(each).collect();
            (world.version, judged, std::mem::take(&mut world.evidence))
        }
        (None, Dialect::Postgres) => {
            let version = request.server_version;
            let contents = files.iter().map(|file| file.content.as_slice());
            let given: Vec<(&[u8], &str, &Script)> = contents
                .zip(&scripts)
                .map(|(content, (path, script))| (content, path.as_str(), script))
                .collect();
            let verdicts = super::folder::judge_in_order(&given, migrations, version);
            let each = |((path, script), verdicts): (&(String, Script), Vec<Verdict>)| {
                judged(path, script, verdicts)
            };
            (version, scripts.iter().zip(verdicts).map(each).collect::<Vec<_>>(), Vec::new())
        }
    };
    let connected = inquiry.is_some();
    let findings = findings(&judged, &evidence);
    let worst = judged.iter().flat_map(|file| &file.verdicts).map(|verdict| verdict.blocking).max();
    let value = json!({
        "files": judged,
        "worst": worst.unwrap_or(Blocking::None),
        "connected": connected,
        "server_version": version,
    });
    let text = match request.format {
        LintFormat::Text => report::text(&judged, connected, request.store.as_deref()),
        LintFormat::Json => serde_json::to_string_pretty(&value).expect("verdicts are JSON"),
        LintFormat::Sarif => {
            let contents: Vec<&[u8]> = files.iter().map(|file| file.content.as_slice()).collect();
            serde_json::to_string_pretty(&report::sarif(&judged, &contents)).expect("SARIF is JSON")
        }
    };
    let mut outcome = Outcome::new(value, text);
    outcome.findings = findings;
    outcome.evidence = inquiry.map(|inquiry| inquiry.evidence).unwrap_or_default();
    Ok(outcome)
}

fn judged_as_sqlite(scripts: &[(String, Script)], schema: &Schema) -> Vec<Judged> {
    let mut made = BTreeSet::new();
    let mut each =
        |(path, script): &(String, Script)| judged(path, script, sqlite::judge(script, schema, &mut made));
    scripts.iter().map(&mut each).collect()
}

fn judged(path: &str, script: &Script, verdicts: Vec<Verdict>) -> Judged {
    let used = |line: usize| {
        let next = script.statements.iter().position(|statement| statement.line > line);
        next.and_then(|at| verdicts.get(at))
            .is_some_and(|verdict| verdict.remarks.iter().any(|remark| remark.allowed.is_some()))
    };
    let idle_allowances =
        script.allowances.iter().map(|allowance| allowance.line).filter(|line| !used(*line)).collect();
    Judged { path: path.to_owned(), verdicts, idle_allowances }
}

/// Asks the planner how many rows the conditions of UPDATE and DELETE reach; what it cannot say stays unknown.
async fn estimate_rows(inquiry: &mut Inquiry<'_>, scripts: &[&Script], world: &mut World) {
    let statements = scripts.iter().flat_map(|script| &script.statements);
    let mut asked = 0;
    for statement in statements {
        for operation in &statement.operations {
            let (table, condition) = match operation {
                Operation::Update { table, condition: Some(condition), .. }
                | Operation::Delete { table, condition: Some(condition), .. } => (table, condition.as_str()),
                _ => continue,
            };
            // With another table beside it the condition does not stand alone.
            if !world.known(&table.to_string()) || !statement.reads.is_empty() || asked == ESTIMATES_MAX {
                continue;
            }
            asked += 1;
            let sql = format!("SELECT 1 FROM {} WHERE {condition}", table.quoted());
            let Ok(relational) = inquiry.relational() else { return };
            let Ok(explained) = Relational::explain(relational, inquiry.ctx, &sql).await else { continue };
            let rows = explained
                .text
                .split("rows=")
                .nth(1)
                .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
            if let Some(rows) = rows.and_then(|rows| rows.parse().ok()) {
                world.row_estimates.insert(format!("{table} WHERE {condition}"), rows);
            }
        }
    }
}

fn findings(files: &[Judged], evidence: &[String]) -> Vec<Finding> {
    let mut out = Vec::new();
    for file in files {
        for verdict in &file.verdicts {
            for remark in verdict.remarks.iter().filter(|remark| remark.allowed.is_none()) {
                let unknown = matches!(remark.rule, "unknown_statement" | "unjudged_code");
                out.push(Finding {
                    code: remark.rule.to_owned(),
                    severity: remark.severity,
                    title: format!("{}:{}: {}", file.path, verdict.line, remark.message),
                    object: remark.object.clone(),
                    recommendation: remark.instead.clone(),
                    evidence: evidence.to_vec(),
                    // Nobody can say what it does, so somebody must read it.
                    escalate: (unknown && remark.severity == Severity::Critical)
                        .then_some(Trigger::DecisionRequired),
                });
            }
        }
    }
    out
}
