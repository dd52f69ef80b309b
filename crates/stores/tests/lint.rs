//! The linter against real servers: every case of `tests/lint` is run, measured and judged.
//!
//! `STEWARD_LINT_RECORD=1` writes what the server did to `tests/lint/cases-<version>.tsv` and `held_out-<version>.tsv` instead
//! of comparing with them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lint/measure.rs"]
mod measure;

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use conformance::Secrets;
use contract::{Actor, ActorKind, Context, Error, ErrorKind, Role, Store, StoreDirectory};
use measure::{Case, Truth, cases, connect, measure, rows};
use serde_json::json;
use store_postgres::{LoginConfig, Tls};
use stores::lint::{Blocking, Catalog, LintMigrations, Lock, lint, lint_text};
use stores::migration::MigrationFile;

const WORLD: &str = include_str!("lint/world.sql");
const APPLICATION: &str = include_str!("lint/application.sql");

/// A database on the server of this run, and a login that only reads.
struct Server {
    url: String,
    version: String,
    template: String,
    reader: String,
}

fn url(database: &str) -> String {
    at(&conformance::postgres(), database)
}

/// A database of another server than the run's.
fn at(server: &str, database: &str) -> String {
    let mut url = url::Url::parse(server).unwrap();
    url.set_path(database);
    url.to_string()
}

impl Server {
    async fn start() -> Server {
        Server::start_at(&conformance::postgres()).await
    }

    async fn start_at(url: &str) -> Server {
        let version = std::env::var("STEWARD_TEST_POSTGRES").unwrap_or_else(|_| "17".into());
        let template = conformance::namespace("lint");
        let reader = format!("{template}_reader");
        let admin = connect(url).await;
        admin.batch_execute(&format!("CREATE DATABASE {template} TEMPLATE template0")).await.unwrap();
        let role = format!(
            "CREATE ROLE {reader} LOGIN PASSWORD 'pa55word'; GRANT pg_read_all_data, pg_read_all_stats TO {reader}"
        );
        admin.batch_execute(&role).await.unwrap();
        connect(&at(url, &template)).await.batch_execute(WORLD).await.unwrap();
        let server = Server { url: url.to_owned(), version, template, reader };
        server.free(&admin).await;
        server
    }

    /// Waits until nobody is connected to the template: a server drops a session a moment after the client left.
    async fn free(&self, admin: &tokio_postgres::Client) {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend'",
            self.template
        );
        while rows(admin, &query).await[0][0] != "0" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// A copy of the world.
    async fn copy(&self, name: &str) -> String {
        let admin = connect(&self.url).await;
        let copy = format!("{}_{name}", self.template);
        let sql = format!("CREATE DATABASE {copy} TEMPLATE {}", self.template);
        admin.batch_execute(&sql).await.unwrap();
        copy
    }

    async fn drop_database(&self, name: &str) {
        let admin = connect(&self.url).await;
        admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    }

    async fn stop(self) {
        self.drop_database(&self.template).await;
        let admin = connect(&self.url).await;
        admin.batch_execute(&format!("DROP ROLE {}", self.reader)).await.unwrap();
    }
}

/// A project whose only store is a database of the server.
struct Project(Arc<dyn Store>);

impl Project {
    fn open(server: &Server, database: &str) -> Project {
        Project::open_at(&url(database), &server.reader)
    }

    fn open_at(url: &str, reader: &str) -> Project {
        let mut address = url::Url::parse(url).unwrap();
        address.set_username("").unwrap();
        let login = LoginConfig { user: reader.into(), password_secret: Some("lint".into()) };
        let mut config = store_postgres::Config::new(address.as_str(), login);
        config.tls = Some(Tls::Disable);
        let secrets = Arc::new(Secrets::new(&[("lint", "pa55word")]));
        Project(Arc::new(store_postgres::open("shop", config, "/".as_ref(), secrets).unwrap()))
    }
}

#[async_trait]
impl StoreDirectory for Project {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        vec![("shop".into(), self.0.kind().into())]
    }

    async fn open(&self, _: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        match name {
            "shop" => Ok(Arc::clone(&self.0)),
            _ => Err(Error::new(ErrorKind::NotFound, format!("no store `{name}`"))),
        }
    }
}

fn ctx() -> Context {
    Context::new("shop", Actor::new(ActorKind::Person, "anna", [Role::Requester]))
}

fn request(value: serde_json::Value) -> LintMigrations {
    serde_json::from_value(value).unwrap()
}

/// What the judge says of a file: its worst class, its strongest lock and whether it breaks old code.
#[derive(Debug, Clone, PartialEq)]
struct Judged {
    class: Blocking,
    lock: Option<Lock>,
    breaks: bool,
    why: String,
}

fn summary(verdicts: &serde_json::Value) -> Judged {
    let verdicts = verdicts.as_array().unwrap();
    let class = verdicts
        .iter()
        .map(|verdict| serde_json::from_value::<Blocking>(verdict["blocking"].clone()).unwrap());
    let lock = verdicts
        .iter()
        .flat_map(|verdict| verdict["locks"].as_array().unwrap())
        .map(|held| serde_json::from_value::<Lock>(held["lock"].clone()).unwrap());
    let remarks: Vec<&serde_json::Value> =
        verdicts.iter().filter_map(|verdict| verdict["remarks"].as_array()).flatten().collect();
    Judged {
        class: class.max().unwrap_or(Blocking::None),
        lock: lock.max(),
        breaks: remarks
            .iter()
            .any(|remark| remark["rule"] == "old_code_breaks" && remark["severity"] == "warning"),
        why: remarks.iter().map(|remark| remark["message"].as_str().unwrap()).collect::<Vec<_>>().join("; "),
    }
}

/// How often a yes or no was right.
#[derive(Default)]
struct Score {
    hit: u32,
    false_alarm: u32,
    miss: u32,
    wrong: String,
}

impl Score {
    fn take(&mut self, name: &str, truth: bool, said: bool, why: &str) {
        match (truth, said) {
            (true, true) => self.hit += 1,
            (false, true) => self.false_alarm += 1,
            (true, false) => self.miss += 1,
            (false, false) => {}
        }
        if truth != said {
            let kind = if said { "false alarm" } else { "miss" };
            writeln!(self.wrong, "    {kind}: {name}: {why}").unwrap();
        }
    }

    fn precision(&self) -> f64 {
        f64::from(self.hit) / f64::from((self.hit + self.false_alarm).max(1))
    }

    fn recall(&self) -> f64 {
        f64::from(self.hit) / f64::from((self.hit + self.miss).max(1))
    }
}

fn recorded(version: &str, set: &str) -> String {
    let path = format!("{}/tests/lint/{set}-{version}.tsv", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What the plan of a case says: its summary for the PM, and with `safe` its safe form. An error where it can be no migration.
async fn preview(project: &Project, case: &Case, safe: bool) -> Result<serde_json::Value, Error> {
    let files = [MigrationFile::new("migrations/shop/0001_case.sql", case.text.as_str())];
    let asked: stores::PlanMigrations =
        serde_json::from_value(json!({"store": "shop", "safe": safe})).unwrap();
    let outcome = stores::migration::preview(&ctx(), project, &files, &asked).await?;
    Ok(outcome.value.into_value())
}

/// Whether this run makes a plan of a case, or measures its safe form too, where `many` runs share the work: each version of
/// PostgreSQL takes other cases, and all of them with `STEWARD_TEST_FULL=1`.
fn is_own(at: usize, version: u32, many: usize) -> bool {
    let share = [15, 17, 18].iter().position(|one| *one == version).unwrap_or(0);
    is_full() || at % many == share
}

fn is_full() -> bool {
    std::env::var_os("STEWARD_TEST_FULL").is_some()
}

fn is_long(truth: &Truth) -> bool {
    matches!(truth.class, Blocking::Writes | Blocking::All)
}

/// Holds the summary that a PM reads against what was measured.
async fn summarized(scores: &mut Scores, project: &Project, case: &Case, truth: &Truth, judge: &Judged) {
    let name = &case.name;
    let value = match preview(project, case, false).await {
        Ok(value) => value,
        // What cannot run in a transaction, or be taken up again, is refused with the reason.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error}");
            return;
        }
    };
    let (summary, steps) = (&value["summary"], value["plan"]["steps"].as_array().unwrap());
    let impact = summary["impact"].to_string();
    assert!(!judge.breaks || !impact.contains("none known"), "{name}: {summary:#}");
    if truth.class >= Blocking::Fails {
        return;
    }
    let said = format!("measured {:?}, told {}", truth.class, summary["downtime_why"]);
    scores.told.take(name, truth.class.hurts(), summary["downtime"] == "long", &said);
    assert_eq!(summary["downtime"] == "none", judge.class == Blocking::None, "{name}: {summary:#}");
    let locks = steps.iter().filter(|step| step["id"].as_str().unwrap().starts_with("0001_case"));
    let lock = locks.filter_map(|step| Lock::named(step["lock"].as_str()?)).max();
    // Who only reads keeps nobody waiting but those who wait for him anyway.
    let expected = truth.lock.filter(|lock| *lock > Lock::RowShare);
    scores.told_locks.1 += 1;
    scores.told_locks.0 += u32::from(lock == expected);
    if lock != expected {
        writeln!(scores.lock_text, "    {name}, in the plan: measured {expected:?}, told {lock:?}").unwrap();
    }
}

/// A migration with a statement for each batch, as it runs.
fn in_batches(text: &str) -> String {
    let mut key = String::new();
    let mut out = String::new();
    for line in text.lines() {
        if let Some(batched) = line.strip_prefix("-- steward: batched ") {
            batched.split_once(" by ").unwrap().1.clone_into(&mut key);
        }
        if line.contains("{{batch}}") {
            for from in (0..12_000).step_by(2_000) {
                let range = format!("{key} > {from} AND {key} <= {}", from + 2_000);
                writeln!(out, "{}", line.replace("{{batch}}", &range)).unwrap();
            }
        } else {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

/// What was measured to block for long is rewritten or named; and what it becomes blocks nobody for long, step by step.
async fn made_safe(
    server: &Server,
    project: &Project,
    case: &Case,
    application: &[String],
    measured: bool,
) -> bool {
    let name = &case.name;
    let Ok(value) = preview(project, case, true).await else { return false };
    let form = &value["safe"][0];
    let parts = form["statements"].as_array().unwrap();
    let unsafe_still = parts.iter().any(|part| part["unsafe_still"] == true);
    let refreshes = case.text.contains("REFRESH");
    assert_eq!(value["summary"]["downtime"] == "long", unsafe_still || refreshes, "{name}: {value:#}");
    let Some(file) = form["file"].as_str() else {
        assert!(unsafe_still, "{name} blocks for long, and nothing says so: {form:#}");
        return false;
    };
    if unsafe_still || !measured {
        return !unsafe_still;
    }
    let database = server.copy(&format!("safe_{name}")).await;
    let safe = Case { name: name.clone(), text: in_batches(file) };
    let truth = measure(&url(&database), &safe, application).await;
    server.drop_database(&database).await;
    // Nobody writes a view that is refreshed while it is read: its EXCLUSIVE lock keeps off others who refresh it.
    let waits_for_itself =
        refreshes && truth.class == Blocking::Writes && truth.lock == Some(Lock::Exclusive);
    assert!(truth.class <= Blocking::Brief || waits_for_itself, "{name}: {truth:?}\n{}", safe.text);
    true
}

#[derive(Default)]
struct Scores {
    told: Score,
    told_locks: (u32, u32),
    /// Migrations that have a safe form.
    safe: u32,
    connected: Score,
    offline: Score,
    alone: Score,
    breaks: Score,
    locks: (u32, u32),
    lock_text: String,
}

/// Measures and judges the cases of one set, and compares with the record.
async fn run(server: &Server, set: &str, text: &str) -> Scores {
    let cases = cases(text);
    assert_eq!(measure::doubled(&cases), [""; 0]);
    let application: Vec<String> =
        stores::lint::read(APPLICATION).statements.into_iter().map(|statement| statement.sql).collect();
    let version: u32 = server.version.parse().unwrap();
    let shared = server.copy(set).await;
    let project = Project::open(server, &shared);
    let texts: Vec<&str> = cases.iter().map(|case| case.text.as_str()).collect();
    let catalog = Catalog::read(&ctx(), &project, "shop", &texts).await.unwrap();
    let mut scores = Scores::default();
    let mut lines = String::new();
    for (at, case) in cases.iter().enumerate() {
        let own = case.text.contains("no-transaction");
        let database = if own { server.copy(&case.name).await } else { shared.clone() };
        let truth = measure(&url(&database), case, &application).await;
        if own {
            server.drop_database(&database).await;
        }
        writeln!(lines, "{}", truth.line(&case.name)).unwrap();
        let judge = summary(&serde_json::to_value(catalog.lint(&case.text)).unwrap());
        score(&mut scores, case, &truth, &judge, version);
        let long = is_long(&truth) || case.name == "detach";
        if is_own(at, version, if long { 3 } else { 12 }) {
            summarized(&mut scores, &project, case, &truth, &judge).await;
        }
        if long && is_own(at, version, 3) {
            let measured = is_own(at / 3, version, 3);
            let safe = made_safe(server, &project, case, &application, measured).await;
            scores.safe += u32::from(safe);
        }
    }
    project.0.close().await;
    server.drop_database(&shared).await;
    if std::env::var_os("STEWARD_LINT_RECORD").is_some() {
        let path = format!("{}/tests/lint/{set}-{version}.tsv", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, &lines).unwrap();
    }
    assert_eq!(lines, recorded(&server.version, set), "the server does something else than what is recorded");
    scores
}

fn score(scores: &mut Scores, case: &Case, truth: &Truth, judge: &Judged, version: u32) {
    let name = &case.name;
    let said = format!("measured {:?}, judged {:?}: {}", truth.class, judge.class, judge.why);
    scores.connected.take(name, truth.class.hurts(), judge.class.hurts(), &said);
    let alone = serde_json::to_value(lint_text(&case.text, Some(version), &[])).unwrap();
    scores.alone.take(name, truth.class.hurts(), summary(&alone).class.hurts(), "");
    let offline = serde_json::to_value(lint_text(&case.text, Some(version), &[WORLD])).unwrap();
    let offline = summary(&offline);
    let said = format!("measured {:?}, judged {:?}: {}", truth.class, offline.class, offline.why);
    scores.offline.take(name, truth.class.hurts(), offline.class.hurts(), &said);
    if truth.class != Blocking::Fails {
        scores.breaks.take(name, !truth.broken.is_empty(), judge.breaks, &judge.why);
        scores.locks.1 += 1;
        if truth.lock == judge.lock {
            scores.locks.0 += 1;
        } else {
            writeln!(scores.lock_text, "    {name}: measured {:?}, judged {:?}", truth.lock, judge.lock)
                .unwrap();
        }
    }
}

fn table(set: &str, version: &str, scores: &Scores) -> String {
    let locks = f64::from(scores.locks.0) / f64::from(scores.locks.1.max(1));
    format!(
        "{set}, PostgreSQL {version}\n  connected: precision {:.3}, recall {:.3}\n{}  offline: precision {:.3}, recall {:.3}\n{}  offline, the text alone: precision {:.3}, recall {:.3}\n  strongest lock exact: {locks:.3} of {}\n{}  old code breaks: precision {:.3}, recall {:.3}\n{}  summary of the plan: precision {:.3}, recall {:.3}, lock exact in {} of {}; {} safe forms\n{}",
        scores.connected.precision(),
        scores.connected.recall(),
        scores.connected.wrong,
        scores.offline.precision(),
        scores.offline.recall(),
        scores.offline.wrong,
        scores.alone.precision(),
        scores.alone.recall(),
        scores.locks.1,
        scores.lock_text,
        scores.breaks.precision(),
        scores.breaks.recall(),
        scores.breaks.wrong,
        scores.told.precision(),
        scores.told.recall(),
        scores.told_locks.0,
        scores.told_locks.1,
        scores.safe,
        scores.told.wrong,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_agree_with_what_the_server_does() {
    let server = Server::start().await;
    let sets = [("cases", include_str!("lint/cases.sql")), ("held_out", include_str!("lint/held_out.sql"))];
    for (set, text) in sets {
        let scores = run(&server, set, text).await;
        let text = table(set, &server.version, &scores);
        println!("{text}");
        assert!(scores.connected.precision() >= 0.95 && scores.connected.recall() >= 0.95, "{text}");
        assert!(scores.offline.precision() >= 0.85 && scores.offline.recall() >= 0.85, "{text}");
        // What the guide says of the text alone; it is no aim.
        assert!(scores.alone.precision() >= 0.70 && scores.alone.recall() >= 0.80, "{text}");
        assert!(scores.locks.0 * 100 >= scores.locks.1 * 95, "{text}");
        assert!(scores.told.precision() >= 0.95 && scores.told.recall() >= 0.95, "{text}");
        assert!(scores.told_locks.0 * 100 >= scores.told_locks.1 * 95, "{text}");
        let safe = if set == "cases" { 20 } else { 9 };
        assert!(scores.safe >= if is_full() { safe } else { safe / 5 }, "{text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_as_text_and_sarif() {
    let nobody = Nobody;
    let text = "-- steward: allow index_blocks_writes at night\nCREATE INDEX i ON orders (a);\n\nDO $$ BEGIN END $$;\n";
    let files = [MigrationFile::new("migrations/shop/0002 ä.sql", text)];
    let before = [MigrationFile::new("migrations/shop/0001_a.sql", "CREATE TABLE orders (a int);")];
    let outcome = lint(&ctx(), &nobody, &files, &before, &request(json!({}))).await.unwrap();
    assert!(outcome.text.contains("allowed index_blocks_writes"), "{}", outcome.text);
    let codes: Vec<&str> = outcome.findings.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(codes, ["unjudged_code"]);
    assert!(outcome.findings[0].escalate.is_some());
    assert_eq!(outcome.value["worst"], "unjudged");

    let outcome = lint(&ctx(), &nobody, &files, &before, &request(json!({"format": "sarif"}))).await.unwrap();
    let sarif: serde_json::Value = serde_json::from_str(&outcome.text).unwrap();
    assert_eq!((&sarif["version"], sarif["runs"].as_array().unwrap().len()), (&json!("2.1.0"), 1));
    let driver = &sarif["runs"][0]["tool"]["driver"];
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{sarif:#}");
    for result in results {
        // Required by the schema: a message; a rule index that fits its id; lines and columns from 1; a URI without
        // spaces and letters beyond ASCII.
        assert!(result["message"]["text"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(["none", "note", "warning", "error"].contains(&result["level"].as_str().unwrap()));
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(driver["rules"][index]["id"], result["ruleId"]);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "migrations/shop/0002%20%C3%A4.sql");
        let region = &place["region"];
        assert!(region["startLine"].as_u64() <= region["endLine"].as_u64());
        assert!(region["startColumn"].as_u64() >= Some(1) && region["endColumn"].as_u64() >= Some(1));
    }
    assert_eq!(results[0]["suppressions"], json!([{"kind": "inSource", "justification": "at night"}]));
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["region"]["startLine"], 2);
    assert!(results[1].get("suppressions").is_none());

    for wrong in [json!({}), json!({"pending": true})] {
        let error = lint(&ctx(), &nobody, &[], &[], &request(wrong)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

/// Where the catalog is read from makes no difference: the primary, its standby, a pooler in front.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_and_a_pooler_answer_as_the_server_itself() {
    if std::env::var("STEWARD_TEST_POSTGRES").is_ok_and(|version| version != "17") {
        return; // Both are of a 17.
    }
    let files = [MigrationFile::new(
        "migrations/shop/0001_a.sql",
        "ALTER TABLE customers ALTER COLUMN flags TYPE bigint;\nCREATE INDEX ON customers (email);\n\
         DELETE FROM orders WHERE id < 10;\nALTER TABLE countries ADD COLUMN flag text;",
    )];
    let judged = async |url: &str, reader: &str| {
        let project = Project::open_at(url, reader);
        let outcome = lint(&ctx(), &project, &files, &[], &request(json!({"store": "shop"}))).await.unwrap();
        project.0.close().await;
        outcome.value.into_value()
    };
    let behind = conformance::server("STEWARD_TEST_POSTGRES17_BEHIND_URL");
    let server = Server::start_at(&behind).await;
    let (database, reader) = (server.template.clone(), server.reader.clone());
    let expected = judged(&at(&behind, &database), &reader).await;
    assert_eq!((&expected["connected"], &expected["worst"]), (&json!(true), &json!("all")), "{expected:#}");
    let admin = connect(&behind).await;
    let replica = rows(&admin, "SELECT application_name FROM pg_stat_replication").await[0][0].clone();
    let mut standby = url::Url::parse(&behind).unwrap();
    standby.set_port(replica.rsplit_once('_').unwrap().1.parse().ok()).unwrap();
    let replayed = "SELECT bool_and(replay_lsn >= pg_current_wal_lsn())::text FROM pg_stat_replication";
    while rows(&admin, replayed).await[0][0] != "true" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(judged(&at(standby.as_str(), &database), &reader).await, expected);
    server.stop().await;

    let server = Server::start().await;
    let pooler = conformance::server("STEWARD_TEST_PGBOUNCER_URL");
    let through = judged(&at(&pooler, &server.template), &server.reader).await;
    assert_eq!(through, judged(&url(&server.template), &server.reader).await);
    // Sizes are the planner's, so only the verdicts are the same on both servers.
    assert_eq!((&through["worst"], &through["connected"]), (&expected["worst"], &expected["connected"]));
    server.stop().await;
}

/// A project without stores.
struct Nobody;

#[async_trait]
impl StoreDirectory for Nobody {
    fn list(&self, _: &Context) -> Vec<(String, String)> {
        Vec::new()
    }

    async fn open(&self, _: &Context, name: &str) -> Result<Arc<dyn Store>, Error> {
        Err(Error::new(ErrorKind::NotFound, format!("no store `{name}`")))
    }
}
