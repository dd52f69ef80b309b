//! What can be asked of this room: tasks, reports, the inbox.

use std::fmt::Write as _;

use contract::{Context, Door, Effect, Error, ErrorKind, Outcome, Request};
use ledger::Ledger;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::escalation::{self, Escalation};
use crate::plan::{self};
use crate::record;
use crate::report::Report;
use crate::run::{self, Room};
use crate::task::{Autonomy, Task};

/// How a report is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportFormat {
    /// Markdown with a JSON summary in a fence at its end.
    #[default]
    Markdown,
    /// YAML under the mission's headings.
    Yaml,
    /// All fields as JSON.
    Json,
}

/// Arguments of `task.run`.
///
/// Its effect is `Read`, because it changes nothing by itself: every step goes through the door again and is decided
/// there, a change with a plan of its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunTask {
    /// File with the task, or `-` for standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The task itself: YAML, prose, or a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// How the report is shown.
    #[serde(default)]
    pub format: ReportFormat,
    /// Only plan changes, whatever the task says.
    #[serde(default)]
    pub dry_run: bool,
}

impl Request for RunTask {
    const NAME: &'static str = "task.run";
    const SUMMARY: &'static str = "Run a PM's task and report";
    const EXAMPLE: &'static str = "steward task run tasks/review.md";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "task.run";
    const POSITIONAL: &'static [&'static str] = &["file"];
}

/// Arguments of `task.plan`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanTask {
    /// File with the task, or `-` for standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The task itself: YAML, prose, or a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Request for PlanTask {
    const NAME: &'static str = "task.plan";
    const SUMMARY: &'static str = "Show what a task would do";
    const EXAMPLE: &'static str = "steward task plan tasks/review.md";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "task.read";
    const POSITIONAL: &'static [&'static str] = &["file"];
}

/// Arguments of `task.list`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListTasks {
    /// Most tasks shown, newest first.
    #[serde(default = "default_limit")]
    pub limit: u32,
}

fn default_limit() -> u32 {
    20
}

impl Default for ListTasks {
    fn default() -> Self {
        Self { limit: default_limit() }
    }
}

impl Request for ListTasks {
    const NAME: &'static str = "task.list";
    const SUMMARY: &'static str = "List the project's tasks";
    const EXAMPLE: &'static str = "steward task list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "task.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Arguments of `task.show`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowTask {
    /// The task's id.
    pub task: String,
}

impl Request for ShowTask {
    const NAME: &'static str = "task.show";
    const SUMMARY: &'static str = "Show a task, its plan and where it stands";
    const EXAMPLE: &'static str = "steward task show fleet-history-review";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "task.read";
    const POSITIONAL: &'static [&'static str] = &["task"];
}

/// Arguments of `task.resume`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeTask {
    /// The task's id.
    pub task: String,
    /// How the report is shown.
    #[serde(default)]
    pub format: ReportFormat,
}

impl Request for ResumeTask {
    const NAME: &'static str = "task.resume";
    const SUMMARY: &'static str = "Go on with a task that waited or was interrupted";
    const EXAMPLE: &'static str = "steward task resume fleet-history-review";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "task.run";
    const POSITIONAL: &'static [&'static str] = &["task"];
}

/// Arguments of `report.show`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowReport {
    /// The task's id.
    pub task: String,
    /// How the report is shown.
    #[serde(default)]
    pub format: ReportFormat,
}

impl Request for ShowReport {
    const NAME: &'static str = "report.show";
    const SUMMARY: &'static str = "Show the report of a task";
    const EXAMPLE: &'static str = "steward report show fleet-history-review --format yaml";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "report.read";
    const POSITIONAL: &'static [&'static str] = &["task"];
}

/// Arguments of `inbox.list`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListInbox {
    /// Also those that someone has taken note of.
    #[serde(default)]
    pub all: bool,
}

impl Request for ListInbox {
    const NAME: &'static str = "inbox.list";
    const SUMMARY: &'static str = "List open escalations";
    const EXAMPLE: &'static str = "steward inbox list";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "escalation.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Arguments of `inbox.ack`.
///
/// Its effect is `Read`: it changes Steward's own state only, and is recorded there with who did it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeEscalation {
    /// The escalation's id.
    pub escalation: String,
}

impl Request for AcknowledgeEscalation {
    const NAME: &'static str = "inbox.ack";
    const SUMMARY: &'static str = "Take note of an escalation";
    const EXAMPLE: &'static str = "steward inbox ack esc-0198";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "escalation.acknowledge";
    const POSITIONAL: &'static [&'static str] = &["escalation"];
}

/// The text that a request carries; the door has put a file's content there before.
fn text_of(file: Option<&String>, text: Option<&String>) -> Result<(String, String), Error> {
    match (file, text) {
        (file, Some(text)) => Ok((file.cloned().unwrap_or_else(|| "task".into()), text.clone())),
        (_, None) => Err(Error::new(ErrorKind::Invalid, "no task is given")
            .with("key", "text")
            .hint("give a file, `-` for standard input, or `text`")),
    }
}

fn shown(report: &Report, format: ReportFormat) -> String {
    match format {
        ReportFormat::Markdown => report.to_markdown(),
        ReportFormat::Yaml => report.to_yaml(),
        ReportFormat::Json => serde_json::to_string_pretty(report).expect("a report is JSON"),
    }
}

fn reported(report: &Report, format: ReportFormat) -> Outcome {
    Outcome::new(report, shown(report, format))
}

/// Runs a task. Value: the report, with `status` and `exit_code`.
///
/// # Errors
///
/// `Invalid`: the text is not a task. As [`crate::run`].
pub async fn run_task(
    ctx: &Context,
    door: &dyn Door,
    room: Room<'_>,
    request: &RunTask,
) -> Result<Outcome, Error> {
    let (source, text) = text_of(request.file.as_ref(), request.text.as_ref())?;
    let mut task = Task::parse(&source, &text)?;
    if request.dry_run {
        task.autonomy = Autonomy::PlanOnly;
    }
    let report = run::run(ctx, door, room, task, &text).await?;
    Ok(reported(&report, request.format))
}

/// Plans a task and changes nothing, also in the ledger. Value: the plan.
///
/// # Errors
///
/// `Invalid`: the text is not a task. As [`crate::plan`].
pub async fn plan_task(
    ctx: &Context,
    door: &dyn Door,
    room: Room<'_>,
    request: &PlanTask,
) -> Result<Outcome, Error> {
    let (source, text) = text_of(request.file.as_ref(), request.text.as_ref())?;
    let task = Task::parse(&source, &text)?;
    let plan = plan::plan(ctx, door, room.defaults, &task).await?;
    let text = plan.text(door);
    Ok(Outcome::new(plan, text))
}

/// Lists tasks. Value: `tasks[] {id, state, title, created, updated}`.
///
/// # Errors
///
/// As the ledger.
pub async fn list_tasks(ctx: &Context, ledger: &Ledger, request: &ListTasks) -> Result<Outcome, Error> {
    let tasks = record::list(ctx, ledger, request.limit).await?;
    if tasks.is_empty() {
        return Ok(Outcome::new(json!({ "tasks": [] }), "no tasks; try `steward task run FILE`"));
    }
    let id_width = tasks.iter().map(|task| task.id.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for task in &tasks {
        writeln!(
            text,
            "{:<id_width$}  {:<19}  {:<20}  {}",
            task.id,
            task.state,
            &task.created[..task.created.len().min(19)],
            printable(&task.title)
        )
        .expect("writing to a string does not fail");
    }
    Ok(Outcome::new(json!({ "tasks": tasks }), text))
}

/// Shows a task. Value: `id, state, task, plan, steps, escalations, created, source`.
///
/// # Errors
///
/// `NotFound`.
pub async fn show_task(
    ctx: &Context,
    ledger: &Ledger,
    door: &dyn Door,
    request: &ShowTask,
) -> Result<Outcome, Error> {
    let record = record::load(ctx, ledger, &request.task).await?;
    let mut text = format!(
        "{}  {}\n{}\n\n{}\n",
        record.id,
        record.state,
        printable(&record.task.title),
        record.plan.text(door)
    );
    for step in &record.steps {
        writeln!(
            text,
            "{:<20} {:<18} {:<9} {}",
            step.step,
            step.request,
            step.state.as_str(),
            printable(&step.note)
        )
        .expect("writing to a string does not fail");
    }
    Ok(Outcome::new(record, text))
}

/// Goes on with a task. Value: the report.
///
/// # Errors
///
/// As [`crate::resume`].
pub async fn resume_task(
    ctx: &Context,
    door: &dyn Door,
    room: Room<'_>,
    request: &ResumeTask,
) -> Result<Outcome, Error> {
    let report = run::resume(ctx, door, room, &request.task).await?;
    Ok(reported(&report, request.format))
}

/// Shows a task's report. Value: the report.
///
/// # Errors
///
/// `NotFound`: no such task, or it has no report yet.
pub async fn show_report(ctx: &Context, ledger: &Ledger, request: &ShowReport) -> Result<Outcome, Error> {
    let record = record::load(ctx, ledger, &request.task).await?;
    let report = record.report.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("task `{}` has no report yet", request.task))
            .with("state", &record.state)
            .hint(format!("go on with `steward task resume {}`", request.task))
    })?;
    Ok(reported(&report, request.format))
}

/// Lists escalations. Value: `escalations[]`.
///
/// # Errors
///
/// As the ledger.
pub async fn list_inbox(ctx: &Context, ledger: &Ledger, request: &ListInbox) -> Result<Outcome, Error> {
    let escalations = escalation::list(ctx, ledger, request.all).await?;
    let text = inbox_text(&escalations);
    Ok(Outcome::new(json!({ "escalations": escalations }), text))
}

/// Takes note of an escalation. Value: `acknowledged`, the id.
///
/// # Errors
///
/// `NotFound`: no open escalation of this id.
pub async fn acknowledge_escalation(
    ctx: &Context,
    ledger: &Ledger,
    request: &AcknowledgeEscalation,
) -> Result<Outcome, Error> {
    escalation::acknowledge(ctx, ledger, &request.escalation).await?;
    Ok(Outcome::new(
        json!({ "acknowledged": request.escalation }),
        format!("acknowledged {}", request.escalation),
    ))
}

fn inbox_text(escalations: &[Escalation]) -> String {
    if escalations.is_empty() {
        return "the inbox is empty".into();
    }
    let mut text = String::new();
    for escalation in escalations {
        let times = if escalation.seen > 1 { format!(", {} times", escalation.seen) } else { String::new() };
        writeln!(
            text,
            "{} {} {} {}\n  {}",
            escalation.id,
            escalation.severity,
            escalation.trigger,
            escalation.subject,
            printable(&escalation.title)
        )
        .expect("writing to a string does not fail");
        writeln!(text, "  raised {}{times}", &escalation.created.to_string()[..19])
            .expect("writing to a string does not fail");
        if !escalation.evidence.is_empty() {
            writeln!(text, "  evidence {}", escalation.evidence.join(" "))
                .expect("writing to a string does not fail");
        }
        match (&escalation.acknowledged, &escalation.acknowledged_by) {
            (Some(at), Some(by)) => {
                writeln!(text, "  acknowledged by {by} at {at}").expect("writing to a string does not fail");
            }
            _ => {
                writeln!(text, "  take note with `steward inbox ack {}`", escalation.id)
                    .expect("writing to a string does not fail");
            }
        }
    }
    text
}

/// Text from a task or a database, kept from moving a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
