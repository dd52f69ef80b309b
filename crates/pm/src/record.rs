//! A task as it is kept: what was asked, what is planned, where it stands.

use async_trait::async_trait;
use contract::{Answer, Context, Error, ErrorKind};
use jiff::Timestamp;
use ledger::{Ledger, NewEvent, Place, Row, Write};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::escalation::{self, NewEscalation};
use crate::plan::TaskPlan;
use crate::report::Report;
use crate::task::Task;

/// How one request of a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Asked; the answer is not known yet, or never came because the process ended.
    Running,
    /// Done and, where the runbook says how, verified.
    Done,
    /// Waits for an approval.
    Waiting,
    /// Refused by the matrix.
    Forbidden,
    /// Handed to someone else.
    Escalated,
    /// Only planned.
    Planned,
    /// Failed, or its verification did.
    Failed,
    /// Not needed.
    Skipped,
    /// Not begun, because a step before it is not done.
    Blocked,
}

/// How the note of a step begins that was skipped because the store or its logins cannot do it.
pub(crate) const NOT_POSSIBLE: &str = "not possible: ";

impl StepState {
    /// The name in reports, such as `waiting`.
    pub fn as_str(self) -> &'static str {
        match self {
            StepState::Running => "running",
            StepState::Done => "done",
            StepState::Waiting => "waiting",
            StepState::Forbidden => "forbidden",
            StepState::Escalated => "escalated",
            StepState::Planned => "planned",
            StepState::Failed => "failed",
            StepState::Skipped => "skipped",
            StepState::Blocked => "blocked",
        }
    }

    /// Nothing more happens to it, also when the task is resumed.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, StepState::Done | StepState::Planned | StepState::Skipped)
    }
}

/// One request of a task, with its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepRecord {
    /// Index of the job.
    pub job: usize,
    /// The runbook's step.
    pub step: String,
    /// Index of the item, for steps that are done for each of several; otherwise 0.
    pub item: usize,
    /// The item.
    pub value: Value,
    /// The request's name.
    pub request: String,
    /// Its arguments.
    pub arguments: Value,
    /// It changes something.
    pub changes: bool,
    /// How it stands.
    pub state: StepState,
    /// Why the runbook has it.
    pub reason: String,
    /// Why it stands so, where that needs words.
    pub note: String,
    /// What the door answered.
    pub answer: Option<Answer>,
    /// Evidence of its verification.
    pub verified_by: Vec<String>,
}

/// A task as it is kept in the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its id in the project.
    pub id: String,
    /// `running`, or the status of its report.
    pub state: String,
    /// The text as it came.
    pub source: String,
    /// What was read in it.
    pub task: Task,
    /// What is done for it.
    pub plan: TaskPlan,
    /// Requests so far, in their order.
    pub steps: Vec<StepRecord>,
    /// Escalations that it opened.
    pub escalations: Vec<String>,
    /// When it came.
    pub created: Timestamp,
    /// Time worked on it, in milliseconds, over all resumptions.
    pub elapsed_ms: f64,
    /// The report, once there is one.
    pub report: Option<Report>,
}

/// Where a run keeps its state; the ledger, or a list in tests.
#[async_trait]
pub(crate) trait Journal: Send + Sync {
    /// Keeps the record durably.
    async fn save(&self, ctx: &Context, record: &TaskRecord) -> Result<(), Error>;

    /// Opens an escalation, or counts it again; gives its id.
    async fn raise(&self, ctx: &Context, escalation: NewEscalation) -> Result<String, Error>;

    /// Closes the open escalation with this key, if there is one, because its cause is gone.
    async fn settle(&self, ctx: &Context, key: &str, why: &str, evidence: &[String]) -> Result<(), Error>;

    /// Escalations that were raised for the context's task, by whomever.
    async fn raised(&self, ctx: &Context) -> Result<Vec<String>, Error>;
}

/// The ledger with the webhooks that escalations go to.
pub(crate) struct LedgerJournal<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) webhooks: &'a [String],
}

#[async_trait]
impl Journal for LedgerJournal<'_> {
    async fn save(&self, ctx: &Context, record: &TaskRecord) -> Result<(), Error> {
        let body = serde_json::to_string(&Body::of(record)).expect("a record holds only JSON values");
        let report = record
            .report
            .as_ref()
            .map(|report| serde_json::to_string(report).expect("a report holds only JSON values"));
        let mut write = Write::new().exec_expecting(
            "UPDATE tasks SET state = ?, body = ?, report = ?, updated_us = ? WHERE project = ? AND id = ?",
            vec![
                record.state.as_str().into(),
                self.ledger.seal(place(ctx, &record.id, "body"), &body),
                report.map_or(ledger::Value::Null, |report| {
                    self.ledger.seal(place(ctx, &record.id, "report"), &report)
                }),
                ctx.now().into(),
                ctx.project().into(),
                record.id.as_str().into(),
            ],
            1,
        );
        if let Some(report) = &record.report {
            let body =
                json!({ "status": report.status, "steps": record.steps.len(), "evidence": report.evidence });
            write = write.event(NewEvent::new("task.reported", format!("task:{}", record.id), body));
        }
        self.ledger.write(ctx, write).await.map(|_| ())
    }

    async fn raise(&self, ctx: &Context, escalation: NewEscalation) -> Result<String, Error> {
        escalation::raise(ctx, self.ledger, self.webhooks, escalation).await
    }

    async fn settle(&self, ctx: &Context, key: &str, why: &str, evidence: &[String]) -> Result<(), Error> {
        escalation::settle(ctx, self.ledger, key, why, evidence).await.map(drop)
    }

    async fn raised(&self, ctx: &Context) -> Result<Vec<String>, Error> {
        escalation::of_task(ctx, self.ledger).await
    }
}

/// What of a record goes into the column `body`.
#[derive(Serialize, Deserialize)]
struct Body {
    task: Task,
    plan: TaskPlan,
    steps: Vec<StepRecord>,
    escalations: Vec<String>,
    elapsed_ms: f64,
}

impl Body {
    fn of(record: &TaskRecord) -> Self {
        Self {
            task: record.task.clone(),
            plan: record.plan.clone(),
            steps: record.steps.clone(),
            escalations: record.escalations.clone(),
            elapsed_ms: record.elapsed_ms,
        }
    }
}

/// Keeps a new task. An id that is taken gets a number behind it.
///
/// # Errors
///
/// As `Ledger::write`.
pub(crate) async fn create(ctx: &Context, ledger: &Ledger, record: &mut TaskRecord) -> Result<(), Error> {
    let wanted = record.id.clone();
    for attempt in 1..1000 {
        if attempt > 1 {
            record.id = format!("{wanted}-{attempt}");
        }
        let body = serde_json::to_string(&Body::of(record)).expect("a record holds only JSON values");
        let write = Write::new()
            .exec_expecting(
                "INSERT INTO tasks (id, project, title, state, source, body, created_us, updated_us) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                vec![
                    record.id.as_str().into(),
                    ctx.project().into(),
                    ledger.seal(place(ctx, &record.id, "title"), &record.task.title),
                    record.state.as_str().into(),
                    ledger.seal(place(ctx, &record.id, "source"), &record.source),
                    ledger.seal(place(ctx, &record.id, "body"), &body),
                    record.created.into(),
                    ctx.now().into(),
                ],
                1,
            )
            .event(NewEvent::new(
                "task.received",
                format!("task:{}", record.id),
                json!({
                    "title": record.task.title,
                    "ticket": record.task.ticket,
                    "runbooks": record.plan.jobs.iter().map(|job| &job.runbook).collect::<Vec<_>>(),
                    "source_sha256": contract::sha256_hex(record.source.as_bytes()),
                }),
            ));
        match ledger.write(&ctx.clone().with_task(&record.id), write).await {
            Err(error) if error.kind() == ErrorKind::Conflict && exists(ctx, ledger, &record.id).await? => {}
            other => return other.map(|_| ()),
        }
    }
    Err(Error::new(ErrorKind::AlreadyExists, format!("there are too many tasks called `{wanted}`")))
}

async fn exists(ctx: &Context, ledger: &Ledger, id: &str) -> Result<bool, Error> {
    let rows = ledger
        .query("SELECT id FROM tasks WHERE project = ? AND id = ?", vec![ctx.project().into(), id.into()])
        .await?;
    Ok(!rows.is_empty())
}

/// The task `id` of the context's project.
///
/// # Errors
///
/// `NotFound`: the hint names the command that lists tasks. `Corrupt`: what is kept cannot be read.
pub(crate) async fn load(ctx: &Context, ledger: &Ledger, id: &str) -> Result<TaskRecord, Error> {
    let rows = ledger
        .query(
            "SELECT id, state, source, body, report, created_us FROM tasks WHERE project = ? AND id = ?",
            vec![ctx.project().into(), id.into()],
        )
        .await?;
    let row = rows.first().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no task `{id}`")).hint("see `steward task list`")
    })?;
    read(ctx, ledger, id, row).map_err(|error| error.with("task", id))
}

/// Where a text of the task is kept.
fn place<'a>(ctx: &'a Context, id: &'a str, column: &'a str) -> Place<'a> {
    Place { table: "tasks", project: ctx.project(), key: id, column }
}

fn read(ctx: &Context, ledger: &Ledger, id: &str, row: &Row) -> Result<TaskRecord, Error> {
    let text = |column: &str| ledger.unseal(place(ctx, id, column), row);
    let unreadable = |what: &str| Error::new(ErrorKind::Corrupt, format!("the kept {what} cannot be read"));
    let body = text("body")?.ok_or_else(|| unreadable("task"))?;
    let body: Body = serde_json::from_str(&body).map_err(|cause| unreadable("task").because(cause))?;
    let report = match text("report")? {
        Some(text) => Some(serde_json::from_str(&text).map_err(|cause| unreadable("report").because(cause))?),
        None => None,
    };
    Ok(TaskRecord {
        id: id.to_owned(),
        state: row.get_text("state")?.to_owned(),
        source: text("source")?.unwrap_or_default(),
        task: body.task,
        plan: body.plan,
        steps: body.steps,
        escalations: body.escalations,
        created: row.get_time("created_us")?,
        elapsed_ms: body.elapsed_ms,
        report,
    })
}

/// A line of `task.list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TaskLine {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) title: String,
    pub(crate) created: String,
    pub(crate) updated: String,
}

/// The newest tasks of the context's project.
///
/// # Errors
///
/// As `Ledger::query`.
pub(crate) async fn list(ctx: &Context, ledger: &Ledger, limit: u32) -> Result<Vec<TaskLine>, Error> {
    let rows = ledger
        .query(
            "SELECT id, state, title, created_us, updated_us FROM tasks WHERE project = ? \
             ORDER BY created_us DESC, id DESC LIMIT ?",
            vec![ctx.project().into(), limit.into()],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let id = row.get_text("id")?;
            Ok(TaskLine {
                id: id.to_owned(),
                state: row.get_text("state")?.to_owned(),
                title: ledger.unseal(place(ctx, id, "title"), row)?.unwrap_or_default(),
                created: row.get_time("created_us")?.to_string(),
                updated: row.get_time("updated_us")?.to_string(),
            })
        })
        .collect()
}
