//! From a task to jobs with known inputs: what will be asked of the door, what is not ours, what must be asked first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use contract::{Answer, AnswerStatus, Context, Door, Effect, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::acceptance::Check;
use crate::expression;
use crate::intent::{self, Matcher, looks_like_sql};
use crate::run::ends_the_run;
use crate::runbook::{Criterion, Input, InputKind, Origin, Ruling, Runbook, Step};
use crate::task::{Autonomy, Item, Task, shorten};
use crate::{names, runbook};

/// Where queries come from that the store itself found slow.
const STATISTICS: &str = "the store's own statistics";
/// Queries that one task looks at when nobody named any.
const SLOW_QUERIES_MAX: usize = 5;
/// Share of the whole time from which on a query is worth a look, also where each run is quick.
const SLOW_SHARE_MIN: f64 = 0.05;

/// What the project file says that a task need not repeat.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// The store that is meant when several exist and none is named.
    pub store: Option<String>,
    /// Queries that matter, by store and name.
    pub queries: BTreeMap<String, BTreeMap<String, String>>,
}

/// A job: a runbook with what it needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Name and version, such as `performance-review@1`.
    pub runbook: String,
    /// For people.
    pub title: String,
    /// Words of the task that asked for it.
    pub because: Vec<String>,
    /// What the steps know.
    pub inputs: Map<String, Value>,
    /// Where each input came from.
    pub origins: BTreeMap<String, String>,
    /// The steps, as they stood in the runbook.
    pub steps: Vec<Step>,
}

/// What must be known before a job can begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The question.
    pub question: String,
    /// Who can answer it, such as `engineer`.
    pub ask: String,
    /// The runbook that waits for it; empty when none was recognised.
    pub runbook: String,
}

/// A part of the task that is someone else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotOurs {
    /// The words of the task.
    pub text: String,
    /// What the mission calls such work.
    pub title: String,
    /// The agent that owns or decides it.
    pub owner: String,
    /// `out_of_scope`: the mission forbids it. `escalated`: it cannot be decided alone.
    pub outcome: String,
}

/// A check and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedCheck {
    /// The check.
    pub check: Check,
    /// `task`, or the runbook.
    pub from: String,
}

/// What will be done for a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskPlan {
    /// How far Steward goes on its own.
    pub autonomy: Autonomy,
    /// Jobs, in the order of the task.
    pub jobs: Vec<Job>,
    /// Parts that are refused or handed over.
    pub not_ours: Vec<NotOurs>,
    /// What must be known first.
    pub questions: Vec<Question>,
    /// What decides whether it is done.
    pub acceptance: Vec<PlannedCheck>,
    /// Queries by name, for the checks.
    pub queries: BTreeMap<String, String>,
    /// What Steward noticed.
    pub notes: Vec<String>,
}

/// Plans a task. Looks, through the door, at what stores and migrations there are; changes nothing.
///
/// # Errors
///
/// `Invalid`: a runbook names a request that the door does not have. What `store.list` returns.
pub async fn plan(
    ctx: &Context,
    door: &dyn Door,
    defaults: &Defaults,
    task: &Task,
) -> Result<TaskPlan, Error> {
    let runbooks = runbook::runbooks()?;
    for runbook in &runbooks {
        runbook.validate_requests(door.requests())?;
    }
    let mut plan = TaskPlan {
        autonomy: task.autonomy,
        jobs: Vec::new(),
        not_ours: Vec::new(),
        questions: Vec::new(),
        acceptance: Vec::new(),
        queries: BTreeMap::new(),
        notes: task.notes.clone(),
    };
    if let Some(project) = task.project.as_deref().filter(|project| *project != ctx.project()) {
        plan.not_ours.push(NotOurs {
            text: format!("project: {project}"),
            title: format!("work on another project than `{}`", ctx.project()),
            owner: "pm".into(),
            outcome: "escalated".into(),
        });
        return Ok(plan);
    }
    let stores = list_stores(ctx, door).await?;
    let matcher = Matcher::new(&runbooks);
    let store_names: BTreeSet<String> = stores.iter().map(|name| name.to_lowercase()).collect();
    let mut reading = matcher.read(&task.assignment(), &store_names);
    if reading.jobs.is_empty() && reading.not_ours.is_empty() && reading.ambiguous.is_empty() {
        // The assignment may only say "as above".
        let all: Vec<String> = task
            .assignment()
            .into_iter()
            .chain(task.context.iter().map(Item::text))
            .chain(task.expected_results.iter().cloned())
            .collect();
        let forbids_changes = reading.forbids_changes;
        reading = matcher.read(&all, &store_names);
        reading.forbids_changes |= forbids_changes;
    }
    let rules: Vec<String> = task.standards.iter().map(Item::text).collect();
    if plan.autonomy != Autonomy::PlanOnly && (reading.forbids_changes || intent::forbid_changes(&rules)) {
        plan.autonomy = Autonomy::PlanOnly;
        plan.notes.push("the text forbids changes, so every change is only planned".into());
    }
    if !reading.jobs.is_empty() {
        // Honest about what was read over; most of it is courtesy or detail.
        let unread = reading.unread.iter().take(10);
        plan.notes.extend(unread.map(|text| format!("not acted on: `{}`", shorten(text, 120))));
    }
    for other in reading.not_ours {
        match other.ruling {
            Ruling::Refuse | Ruling::Escalate => plan.not_ours.push(NotOurs {
                text: shorten(&other.text, 160),
                title: other.title,
                owner: other.owner,
                outcome: if other.ruling == Ruling::Refuse { "out_of_scope" } else { "escalated" }.into(),
            }),
            Ruling::Ask => plan.questions.push(Question {
                question: format!(
                    "`{}` is about {}: there is no runbook for it in this version. {} What is to be done instead?",
                    shorten(&other.text, 80),
                    other.title,
                    abilities(&runbooks)
                ),
                ask: "pm".into(),
                runbook: String::new(),
            }),
        }
    }
    for (text, close) in reading.ambiguous {
        let titles: Vec<&str> = close.iter().map(|index| runbooks[*index].title.as_str()).collect();
        plan.questions.push(Question {
            question: format!(
                "`{}` could mean {}. Which one is wanted? {}",
                shorten(&text, 80),
                titles.join(" or "),
                abilities(&runbooks)
            ),
            ask: "pm".into(),
            runbook: String::new(),
        });
    }
    if reading.jobs.is_empty() && plan.not_ours.is_empty() && plan.questions.is_empty() {
        plan.questions.push(Question {
            question: format!("What is to be done, and on which store? {}", abilities(&runbooks)),
            ask: "pm".into(),
            runbook: String::new(),
        });
    }
    let known = Known { ctx, door, defaults, task, stores: &stores };
    for recognised in reading.jobs {
        let runbook = &runbooks[recognised.runbook];
        let mut job = Job {
            runbook: runbook.reference(),
            title: runbook.title.clone(),
            because: recognised.words,
            inputs: Map::new(),
            origins: BTreeMap::new(),
            steps: runbook.steps.clone(),
        };
        let mut questions = Vec::new();
        for input in &runbook.inputs {
            match known.find(input, &job.inputs).await? {
                Ok((value, origin)) => {
                    job.inputs.insert(input.name.clone(), value);
                    job.origins.insert(input.name.clone(), origin);
                }
                Err(question) => {
                    questions.push(Question {
                        question,
                        ask: input.ask.clone(),
                        runbook: runbook.reference(),
                    });
                    // Later inputs may depend on this one.
                    break;
                }
            }
        }
        if !questions.is_empty() {
            plan.questions.extend(questions);
            continue;
        }
        if let Some(queries) = job.inputs.get("queries").and_then(Value::as_object) {
            let texts =
                queries.iter().filter_map(|(name, sql)| Some((name.clone(), sql.as_str()?.to_owned())));
            plan.queries.extend(texts);
        }
        plan.notes.extend(runbook.notes.iter().cloned());
        for check in criteria(&runbook.acceptance, &job.inputs, plan.autonomy)? {
            let given = task.acceptance.iter().any(|own| own.same_subject(&check));
            if !given {
                plan.acceptance.push(PlannedCheck { check, from: runbook.reference() });
            }
        }
        plan.jobs.push(job);
    }
    let own = task.acceptance.iter().map(|check| PlannedCheck { check: check.clone(), from: "task".into() });
    plan.acceptance.splice(0..0, own);
    plan.queries.extend(names::queries(task));
    Ok(plan)
}

fn criteria(
    criteria: &[Criterion],
    inputs: &Map<String, Value>,
    autonomy: Autonomy,
) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    for criterion in criteria {
        if criterion.after_change && autonomy == Autonomy::PlanOnly {
            continue;
        }
        let items = match &criterion.for_each {
            Some(list) => expression::evaluate(list, inputs)?.as_array().cloned().unwrap_or_default(),
            None => vec![Value::Null],
        };
        for item in items {
            let mut scope = inputs.clone();
            scope.insert("item".into(), item);
            if let Some(when) = &criterion.when
                && !expression::is_true(when, &scope)?
            {
                continue;
            }
            let filled = expression::fill(&json!(criterion.check), &scope)?;
            checks.push(Check::parse(filled.as_str().unwrap_or_default())?);
        }
    }
    Ok(checks)
}

/// The number as requests take it: without a fraction where it has none.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Whole, from 0, and small enough.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number < 9e15 { json!(number as u64) } else { json!(number) }
}

/// What Steward can do, in one sentence.
fn abilities(runbooks: &[Runbook]) -> String {
    let list: Vec<&str> = runbooks.iter().map(|runbook| runbook.does.as_str()).collect();
    format!("Steward can: {}.", list.join("; "))
}

/// Asks the door and gives the value of a `Done` answer.
async fn look(ctx: &Context, door: &dyn Door, request: &str, arguments: Value) -> Result<Answer, Error> {
    let answer = door.submit(ctx, request, arguments).await?;
    if answer.status == AnswerStatus::Done {
        return Ok(answer);
    }
    Err(Error::new(contract::ErrorKind::Forbidden, format!("`{request}` was not permitted"))
        .with("decision", &answer.decided.decision)
        .with("reason", &answer.decided.reason))
}

async fn list_stores(ctx: &Context, door: &dyn Door) -> Result<Vec<String>, Error> {
    let answer = look(ctx, door, "store.list", json!({})).await?;
    let stores = answer.value["stores"].as_array().cloned().unwrap_or_default();
    Ok(stores.iter().filter_map(|store| store["name"].as_str().map(ToOwned::to_owned)).collect())
}

struct Known<'a> {
    ctx: &'a Context,
    door: &'a dyn Door,
    defaults: &'a Defaults,
    task: &'a Task,
    stores: &'a [String],
}

/// A value with where it came from, or the question to ask.
type Found = Result<(Value, String), String>;

impl Known<'_> {
    async fn find(&self, input: &Input, inputs: &Map<String, Value>) -> Result<Found, Error> {
        let store = inputs.get("store").and_then(Value::as_str).unwrap_or_default();
        match input.kind {
            InputKind::Store => self.store(input).await,
            InputKind::Stores => Ok(self.stores(input)),
            InputKind::Queries => self.queries(input, store).await,
            InputKind::Migration => self.migration(input, store).await,
            InputKind::Number => Ok(self.number(input)),
            InputKind::Word => Ok(self.word(input)),
        }
    }

    fn list(&self) -> String {
        if self.stores.is_empty() {
            return "The project has no store; add one under `stores:` in steward.yaml.".into();
        }
        let names: Vec<String> = self.stores.iter().map(|name| format!("`{name}`")).collect();
        format!("There are: {}.", names.join(", "))
    }

    async fn store(&self, input: &Input) -> Result<Found, Error> {
        let ask = || Err(format!("{} {}", input.question, self.list()));
        for origin in &input.from {
            match origin {
                Origin::Context => {
                    let Some(value) = self.task.keyed(&["store", "database", "stores", "db"]) else {
                        continue;
                    };
                    let Some(name) = value.as_str() else { return Ok(ask()) };
                    return Ok(match names::exact(self.stores, name) {
                        Some(store) => Ok((json!(store), "the task's context".into())),
                        None => Err(format!("There is no store `{name}`. {}", self.list())),
                    });
                }
                Origin::Text => match names::mentioned(&self.task.mentions(), self.stores) {
                    names::Mentioned::One(store, how) => return Ok(Ok((json!(store), how))),
                    names::Mentioned::Several(several) => {
                        return Ok(Err(format!(
                            "{} The text names {}.",
                            input.question,
                            several.join(" and ")
                        )));
                    }
                    names::Mentioned::Unknown(name) => {
                        return Ok(Err(format!("There is no store `{name}`. {}", self.list())));
                    }
                    names::Mentioned::None => {}
                },
                Origin::Project => {
                    let store =
                        self.defaults.store.as_deref().and_then(|name| names::exact(self.stores, name));
                    if let Some(store) = store {
                        return Ok(Ok((json!(store), "the project file".into())));
                    }
                }
                Origin::Only => match self.stores {
                    [only] => return Ok(Ok((json!(only), "the only store of the project".into()))),
                    [] => return Ok(ask()),
                    _ => {
                        if let Some(store) = self.store_by_table().await {
                            return Ok(Ok((
                                json!(store),
                                "the only store with the table that is named".into(),
                            )));
                        }
                    }
                },
                Origin::All | Origin::Pending | Origin::Statistics => {}
            }
        }
        Ok(ask())
    }

    /// The one store that has a table which the task names.
    async fn store_by_table(&self) -> Option<String> {
        let text = self.task.mentions();
        let mut found = None;
        for store in self.stores {
            let Ok(answer) = look(self.ctx, self.door, "store.inspect", json!({ "store": store })).await
            else {
                continue;
            };
            let tables = answer.value["tables"].as_array().cloned().unwrap_or_default();
            let named = tables
                .iter()
                .filter_map(|table| table["name"].as_str())
                .any(|table| names::stands_in(&text, table));
            if named && found.replace(store.clone()).is_some() {
                return None;
            }
        }
        found
    }

    fn stores(&self, input: &Input) -> Found {
        if let Some(value) = self.task.keyed(&["store", "database", "stores", "db"]) {
            let given: Vec<&str> = match value {
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
                other => {
                    other.as_str().map(|text| text.split(',').map(str::trim).collect()).unwrap_or_default()
                }
            };
            let mut stores = Vec::new();
            for name in given {
                match names::exact(self.stores, name) {
                    Some(store) => stores.push(store),
                    None => return Err(format!("There is no store `{name}`. {}", self.list())),
                }
            }
            return Ok((json!(stores), "the task's context".into()));
        }
        match names::mentioned(&self.task.mentions(), self.stores) {
            names::Mentioned::One(store, how) => Ok((json!([store]), how)),
            names::Mentioned::Several(several) => Ok((json!(several), "names in the text".into())),
            names::Mentioned::Unknown(name) => Err(format!("There is no store `{name}`. {}", self.list())),
            names::Mentioned::None if self.stores.is_empty() => {
                Err(format!("{} {}", input.question, self.list()))
            }
            names::Mentioned::None => Ok((json!(self.stores), "all stores of the project".into())),
        }
    }

    fn number(&self, input: &Input) -> Found {
        match (self.task.keyed(&[&input.name]), &input.default) {
            (Some(value), _) => {
                let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
                let number = number.filter(|number| number.is_finite() && *number >= 0.0);
                let ask = || format!("{} `{}` must be a number from 0.", input.question, input.name);
                number.map(|number| (whole(number), "the task's context".into())).ok_or_else(ask)
            }
            (None, Some(default)) => Ok((default.clone(), "usual".into())),
            (None, None) => Err(input.question.clone()),
        }
    }

    fn word(&self, input: &Input) -> Found {
        match (self.task.keyed(&[&input.name]), &input.default) {
            (Some(Value::String(word)), _) if !word.trim().is_empty() => {
                Ok((json!(word.trim().trim_matches('`')), "the task's context".into()))
            }
            (Some(_), _) | (None, None) => Err(input.question.clone()),
            (None, Some(default)) => Ok((default.clone(), "usual".into())),
        }
    }

    async fn queries(&self, input: &Input, store: &str) -> Result<Found, Error> {
        let given = names::queries(self.task);
        if !given.is_empty() {
            return Ok(Ok((json!(given), "the task".into())));
        }
        match self.defaults.queries.get(store) {
            Some(queries) if !queries.is_empty() => {
                return Ok(Ok((json!(queries), "the project file".into())));
            }
            _ => {}
        }
        if input.from.contains(&Origin::Statistics) {
            let counted = self.slowest(store).await?;
            if !counted.is_empty() {
                return Ok(Ok((json!(counted), STATISTICS.into())));
            }
        }
        Ok(Err(input.question.clone()))
    }

    /// The reading statements that take most of the time, by what the store counts; none where it does not count.
    async fn slowest(&self, store: &str) -> Result<BTreeMap<String, String>, Error> {
        let answer = match look(self.ctx, self.door, "store.slow", json!({ "store": store })).await {
            Ok(answer) => answer,
            Err(error) if ends_the_run(self.ctx, &error) => return Err(error),
            // It does not count, or may not be asked: then whoever knows is asked.
            Err(_) => return Ok(BTreeMap::new()),
        };
        let statements = answer.value["statements"].as_array().cloned().unwrap_or_default();
        let slow = statements.iter().filter(|statement| {
            statement["above_objective"] == json!(true)
                || statement["share"].as_f64().is_some_and(|share| share >= SLOW_SHARE_MIN)
        });
        let texts = slow.filter_map(|statement| statement["text"].as_str());
        let reads = texts.filter(|text| looks_like_sql(text)).take(SLOW_QUERIES_MAX);
        Ok(reads.enumerate().map(|(i, text)| (format!("slow_{}", i + 1), text.to_owned())).collect())
    }

    async fn migration(&self, input: &Input, store: &str) -> Result<Found, Error> {
        let status = match look(self.ctx, self.door, "migration.status", json!({ "store": store })).await {
            Ok(answer) => answer.value,
            // The step that asks again will fail and say why.
            Err(_) => return Ok(Ok((json!(""), "not known".into()))),
        };
        let list = |key: &str| -> Vec<String> {
            let rows = status[key].as_array().cloned().unwrap_or_default();
            rows.iter()
                .filter_map(|row| row["name"].as_str().or_else(|| row.as_str()).map(ToOwned::to_owned))
                .collect()
        };
        let (applied, pending) = (list("applied"), list("pending"));
        let all: Vec<&String> = applied.iter().chain(&pending).collect();
        let keyed =
            self.task.keyed(&["migration", "migrations"]).and_then(Value::as_str).map(ToOwned::to_owned);
        let wanted = keyed.map_or_else(|| names::migrations(&self.task.mentions()), |name| vec![name]);
        let waiting = if pending.is_empty() {
            "nothing is pending".into()
        } else {
            format!("pending: {}", pending.join(", "))
        };
        if let Some(last) = wanted.last() {
            let matching: Vec<&&String> =
                all.iter().filter(|name| **name == last || name.starts_with(&format!("{last}_"))).collect();
            return Ok(match matching.as_slice() {
                [name] => Ok((json!(name), "the task".into())),
                [] => Err(format!(
                    "There is no migration `{last}` for `{store}` ({waiting}). {}",
                    input.question
                )),
                _ => Err(format!("Several migrations begin with `{last}`. {}", input.question)),
            });
        }
        let text = self.task.assignment().join("\n");
        if names::speaks_of_migrations(&text) {
            return Ok(Ok((json!(""), "all that are pending".into())));
        }
        Ok(Err(format!("{} ({waiting})", input.question)))
    }
}

impl TaskPlan {
    /// The plan as a person reads it.
    pub fn text(&self, door: &dyn Door) -> String {
        let mut text = String::new();
        for job in &self.jobs {
            let inputs: Vec<String> = job
                .inputs
                .iter()
                .map(|(name, value)| {
                    let shown = match value {
                        Value::String(text) if text.is_empty() => "all".into(),
                        Value::String(text) => text.clone(),
                        Value::Object(map) => map.keys().cloned().collect::<Vec<_>>().join(", "),
                        other => other.to_string(),
                    };
                    format!("{name} {shown} ({})", job.origins.get(name).map_or("", String::as_str))
                })
                .collect();
            writeln!(text, "{} ({}): {}", job.title, job.runbook, inputs.join("; "))
                .expect("writing to a string does not fail");
            for step in &job.steps {
                let changes = door
                    .requests()
                    .iter()
                    .any(|spec| spec.name == step.request && spec.effect == Effect::Change);
                let mark = if changes { "change" } else { "read" };
                writeln!(text, "  {:<20} {:<18} {mark:<7} {}", step.id, step.request, step.reason)
                    .expect("writing to a string does not fail");
            }
        }
        for other in &self.not_ours {
            writeln!(text, "{}: `{}`: {}; ask {}", other.outcome, other.text, other.title, other.owner)
                .expect("writing to a string does not fail");
        }
        for question in &self.questions {
            writeln!(text, "needs clarification from {}: {}", question.ask, question.question)
                .expect("writing to a string does not fail");
        }
        for check in &self.acceptance {
            writeln!(text, "accepted when {} ({})", check.check, check.from)
                .expect("writing to a string does not fail");
        }
        writeln!(text, "autonomy: {}", self.autonomy.as_str()).expect("writing to a string does not fail");
        for note in &self.notes {
            writeln!(text, "note: {note}").expect("writing to a string does not fail");
        }
        text
    }
}
