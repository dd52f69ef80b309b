//! The report: computed from steps and checks, never asserted; as data, YAML and Markdown.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use contract::{Context, Finding, Severity};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::evaluate::CheckResult;
use crate::plan::{NotOurs, Question};
use crate::record::{NOT_POSSIBLE, StepRecord, StepState, TaskRecord};
use crate::run::exit_code;

/// How a task ended, or where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every step is done, every check passed, nothing is to be looked at.
    Done,
    /// At least one step waits for an approval.
    Waiting,
    /// Everything ran; something is to be looked at, or a check did not pass.
    Findings,
    /// A step failed.
    Failed,
    /// Someone must answer a question first.
    NeedsClarification,
    /// The matrix refused a step.
    Forbidden,
    /// A decision was handed to someone else.
    Escalated,
    /// The mission gives this work to another agent.
    OutOfScope,
}

impl Status {
    /// The name in reports, such as `needs_clarification`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Done => "done",
            Status::Waiting => "waiting",
            Status::Findings => "findings",
            Status::Failed => "failed",
            Status::NeedsClarification => "needs_clarification",
            Status::Forbidden => "forbidden",
            Status::Escalated => "escalated",
            Status::OutOfScope => "out_of_scope",
        }
    }
}

/// A finding in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportedFinding {
    /// What was found, with its evidence.
    #[serde(flatten)]
    pub finding: Finding,
    /// The store it was found in; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store: String,
    /// A later answer to the same request no longer has it.
    pub resolved: bool,
}

/// One request of the task, as it was decided and done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// The runbook's step.
    pub step: String,
    /// The request.
    pub request: String,
    /// What it is about, such as `orders`.
    pub about: String,
    /// `done`, `waiting`, `forbidden`, `escalated`, `planned`, `failed`, `skipped` or `blocked`.
    pub status: String,
    /// It changes something.
    pub changes: bool,
    /// Why the runbook has it.
    pub reason: String,
    /// The plan's digest, for changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// What the matrix said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub decision: String,
    /// Policies that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// The approval that is waited for or was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// Who approved, where the answer says so, or which roles may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Measured before the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Measured after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// Why it stands so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Evidence, also of the verification.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

/// What a migration means: type, tables, volume, downtime, rollback, validation and impact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrationSummary {
    /// The store.
    pub store: String,
    /// The last migration of the step; empty for all that are pending.
    pub migration: String,
    /// `done`, `waiting` or `planned`.
    pub status: String,
    /// As `migration.plan` and `migration.apply` answer it.
    pub summary: Value,
}

/// An acceptance check with what was observed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The check.
    pub check: String,
    /// `task`, or the runbook that brings it.
    pub from: String,
    /// What was expected.
    pub expected: Value,
    /// What was observed; null when it could not be computed.
    pub observed: Value,
    /// Whether it passed; a check that could not be computed has not.
    pub pass: bool,
    /// Why it could not be computed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the observation rests on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

/// What the PM gets back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The task's id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The project.
    pub project: String,
    /// Computed from steps and checks.
    pub status: Status,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// The status in sentences: what was done, what waits.
    pub progress: Vec<String>,
    /// What was found out.
    pub findings: Vec<ReportedFinding>,
    /// Problems: findings that matter, steps that failed, checks that did not pass, parts that are not ours.
    pub issues: Vec<String>,
    /// What to do next.
    pub recommendations: Vec<String>,
    /// Runbooks that were followed, with version.
    pub runbooks: Vec<String>,
    /// What each migration means, in the words of whoever must agree to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub migrations: Vec<MigrationSummary>,
    /// Every request, in its order.
    pub actions: Vec<Action>,
    /// Every check, in its order.
    pub acceptance: Vec<Accepted>,
    /// Questions that must be answered first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<Question>,
    /// Parts that were refused or handed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ours: Vec<NotOurs>,
    /// Evidence ids; `steward evidence ID` prints the statement and its answer.
    pub evidence: Vec<String>,
    /// Escalations that were opened.
    pub escalations: Vec<String>,
    /// Expectations in words, which no one can compute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_computed: Vec<String>,
    /// What Steward noticed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// When the task came, UTC.
    pub created: String,
    /// When the report was made, UTC.
    pub reported: String,
    /// Time worked on it, in milliseconds.
    pub elapsed_ms: f64,
    /// Money spent, in US dollars.
    pub cost_usd: f64,
}

impl Report {
    /// The report of what the record and the checks say.
    pub(crate) fn compute(ctx: &Context, record: &TaskRecord, checks: Vec<CheckResult>) -> Self {
        let findings = findings(record);
        let acceptance: Vec<Accepted> = checks.into_iter().map(accepted).collect();
        let status = status(record, &findings, &acceptance);
        let mut evidence: Vec<String> = Vec::new();
        let of_steps = record
            .steps
            .iter()
            .flat_map(|step| step.answer.iter().flat_map(|answer| &answer.evidence).chain(&step.verified_by));
        for id in of_steps.chain(acceptance.iter().flat_map(|accepted| &accepted.evidence)) {
            if !evidence.contains(id) {
                evidence.push(id.clone());
            }
        }
        let cost_nanos: u64 = record
            .steps
            .iter()
            .filter(|step| step.state == StepState::Done)
            .filter_map(|step| step.answer.as_ref()?.value["cost_usd_nanos"].as_u64())
            .sum();
        #[allow(clippy::cast_precision_loss)] // Exact up to nine million dollars.
        let cost_usd = cost_nanos as f64 / 1e9;
        Self {
            id: record.id.clone(),
            title: record.task.title.clone(),
            ticket: record.task.ticket.clone(),
            project: ctx.project().to_owned(),
            status,
            exit_code: exit_code(status),
            progress: progress(record, &acceptance),
            issues: issues(record, &findings, &acceptance, cost_usd),
            recommendations: recommendations(record, &findings),
            findings,
            runbooks: record.plan.jobs.iter().map(|job| job.runbook.clone()).collect(),
            migrations: migrations(record),
            actions: record
                .steps
                .iter()
                .map(action)
                .chain(record.plan.not_ours.iter().map(refusal))
                .collect(),
            acceptance,
            questions: record.plan.questions.clone(),
            not_ours: record.plan.not_ours.clone(),
            evidence,
            escalations: record.escalations.clone(),
            not_computed: record.task.expected_results.clone(),
            notes: notes(record),
            created: record.created.to_string(),
            reported: ctx.now().to_string(),
            elapsed_ms: (record.elapsed_ms * 10.0).round() / 10.0,
            cost_usd,
        }
    }

    /// The exit code: 0 done; 1 failed; 3 waits; 4 denied or escalated; 5 findings.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

/// Every finding once; one that the newest answer to its request no longer has is resolved, and so is one about what was
/// going to be done once it has been done.
fn findings(record: &TaskRecord) -> Vec<ReportedFinding> {
    let steps = &record.steps;
    let mut reported: Vec<ReportedFinding> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let Some(answer) = step.answer.as_ref() else { continue };
        let newest = steps[at + 1..]
            .iter()
            .rev()
            .filter(|later| later.state == StepState::Done)
            .find(|later| later.request == step.request && later.arguments == step.arguments)
            .and_then(|later| later.answer.as_ref());
        for finding in &answer.findings {
            let same = |other: &Finding| other.code == finding.code && other.object == finding.object;
            let again = newest.map(|newest| newest.findings.iter().any(same));
            if again == Some(true) || reported.iter().any(|known| known.finding == *finding) {
                // The newest answer says it with the newest numbers.
                continue;
            }
            reported.push(ReportedFinding {
                finding: finding.clone(),
                store: step.arguments["store"].as_str().unwrap_or_default().to_owned(),
                resolved: again == Some(false) || settled(record, step),
            });
        }
    }
    for reported in &mut reported {
        if !reported.resolved
            && reported.finding.code == "missing_index"
            && not_needed(record, &reported.finding)
        {
            reported.finding.severity = Severity::Info;
            reported.finding.recommendation = None;
        }
    }
    // The same thing found by two requests is one finding: the later one.
    let mut kept: Vec<ReportedFinding> = Vec::new();
    for finding in reported {
        let same = |known: &&mut ReportedFinding| {
            known.finding.code == finding.finding.code
                && known.finding.object == finding.finding.object
                && known.finding.title == finding.finding.title
                && known.store == finding.store
        };
        match kept.iter_mut().find(same) {
            Some(known) => *known = finding,
            None => kept.push(finding),
        }
    }
    kept
}

/// Whether the index was left out because its query is fast enough without it: good to know, but nothing to act on.
fn not_needed(record: &TaskRecord, finding: &Finding) -> bool {
    record.steps.iter().filter(|step| step.state == StepState::Skipped && step.request == "index.create").any(
        |step| {
            let columns: Vec<&str> =
                step.value["columns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let table = step.value["table"].as_str().unwrap_or_default();
            !columns.is_empty() && finding.object == format!("{table}.{}", columns.join(","))
        },
    )
}

/// Whether a later step of the same job that settles this one is done.
fn settled(record: &TaskRecord, step: &StepRecord) -> bool {
    record.plan.jobs[step.job].steps.iter().filter(|other| other.settles.contains(&step.step)).any(|other| {
        let mut of_step =
            record.steps.iter().filter(|record| record.job == step.job && record.step == other.id).peekable();
        of_step.peek().is_some() && of_step.all(|record| record.state == StepState::Done)
    })
}

/// The summaries that the steps answered, each migration once and as it was told last.
fn migrations(record: &TaskRecord) -> Vec<MigrationSummary> {
    let mut list: Vec<MigrationSummary> = Vec::new();
    for step in &record.steps {
        let Some(answer) = step.answer.as_ref() else { continue };
        // A plan that was not carried out holds it a level deeper.
        let summary = [&answer.value["summary"], &answer.value["plan"]["predicted"]["summary"]];
        let Some(summary) = summary.into_iter().find(|value| value.is_object()) else { continue };
        let applies = step.request == "migration.apply";
        if !applies && step.request != "migration.plan" {
            continue;
        }
        let named = MigrationSummary {
            store: step.arguments["store"].as_str().unwrap_or_default().to_owned(),
            migration: step.arguments["to"].as_str().unwrap_or_default().to_owned(),
            status: if applies { step.state.as_str() } else { "planned" }.to_owned(),
            summary: summary.clone(),
        };
        list.push(named);
    }
    // The preview speaks of all that are pending; once each is applied, it speaks for itself.
    let mut applied = record.steps.iter().filter(|step| step.request == "migration.apply").peekable();
    if applied.peek().is_some() && applied.all(|step| step.state == StepState::Done) {
        list.retain(|known| known.status != "planned");
    }
    list
}

/// What was noticed at planning, and what the store could not do.
fn notes(record: &TaskRecord) -> Vec<String> {
    let mut notes = record.plan.notes.clone();
    for step in record.steps.iter().filter(|step| step.note.starts_with(NOT_POSSIBLE)) {
        let note = format!("`{}` was {}", step.request, step.note);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

fn accepted(result: CheckResult) -> Accepted {
    let number = |number: f64| {
        let whole = number.fract() == 0.0 && number.abs() < 9e15;
        #[allow(clippy::cast_possible_truncation)] // Whole and small enough.
        if whole { json!(number as i64) } else { json!(number) }
    };
    let is_truth = !result.check.to_string().contains(['<', '>']) && !result.check.subject.is_number();
    let (expected, observed) = if is_truth {
        (json!(result.check.passes(1.0)), result.observed.map(|observed| json!(observed > 0.0)))
    } else {
        (number(result.check.expected), result.observed.map(number))
    };
    Accepted {
        check: result.check.to_string(),
        from: result.from,
        expected,
        observed: observed.unwrap_or(Value::Null),
        pass: result.pass,
        reason: result.reason,
        evidence: result.evidence,
    }
}

fn matters(finding: &ReportedFinding) -> bool {
    !finding.resolved && finding.finding.severity != Severity::Info
}

fn status(record: &TaskRecord, findings: &[ReportedFinding], acceptance: &[Accepted]) -> Status {
    let any = |state: StepState| record.steps.iter().any(|step| step.state == state);
    let handed = |outcome: &str| record.plan.not_ours.iter().any(|other| other.outcome == outcome);
    if any(StepState::Failed) || any(StepState::Running) {
        Status::Failed
    } else if any(StepState::Forbidden) {
        Status::Forbidden
    } else if any(StepState::Escalated) || handed("escalated") {
        Status::Escalated
    } else if handed("out_of_scope") {
        Status::OutOfScope
    } else if any(StepState::Waiting) {
        Status::Waiting
    } else if !record.plan.questions.is_empty() {
        Status::NeedsClarification
    } else if findings.iter().any(matters) || acceptance.iter().any(|accepted| !accepted.pass) {
        Status::Findings
    } else {
        Status::Done
    }
}

fn progress(record: &TaskRecord, acceptance: &[Accepted]) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, job) in record.plan.jobs.iter().enumerate() {
        let of_job: Vec<&StepRecord> = record.steps.iter().filter(|step| step.job == index).collect();
        let mut counts = Vec::new();
        for state in [
            StepState::Done,
            StepState::Waiting,
            StepState::Forbidden,
            StepState::Escalated,
            StepState::Planned,
            StepState::Failed,
            StepState::Blocked,
            StepState::Skipped,
        ] {
            let count = of_job.iter().filter(|step| step.state == state).count();
            if count > 0 {
                counts.push(format!("{count} {}", state.as_str()));
            }
        }
        let counts = if counts.is_empty() { "nothing to do".to_owned() } else { counts.join(", ") };
        lines.push(format!("{}: {counts}", job.title));
    }
    if !acceptance.is_empty() {
        let passed = acceptance.iter().filter(|accepted| accepted.pass).count();
        lines.push(format!("acceptance: {passed} of {} checks passed", acceptance.len()));
    }
    for other in &record.plan.not_ours {
        lines.push(format!("{}: `{}` is {}", other.outcome, other.text, ownership(other)));
    }
    for question in &record.plan.questions {
        lines.push(format!("needs clarification from {}: {}", agent(&question.ask), question.question));
    }
    lines
}

fn ownership(other: &NotOurs) -> String {
    if other.outcome == "out_of_scope" {
        format!("{}, the territory of the {} agent", other.title, agent(&other.owner))
    } else {
        format!("{}, which is decided by the {}", other.title, agent(&other.owner))
    }
}

/// The mission's name of an agent.
fn agent(name: &str) -> &str {
    match name {
        "engineer" => "Engineer",
        "ops" => "Ops",
        "qa" => "QA",
        "security" => "Security",
        "documentation" => "Documentation",
        "pm" => "PM",
        other => other,
    }
}

fn issues(
    record: &TaskRecord,
    findings: &[ReportedFinding],
    acceptance: &[Accepted],
    cost_usd: f64,
) -> Vec<String> {
    let mut issues: Vec<String> = findings
        .iter()
        .filter(|finding| matters(finding))
        .map(|finding| finding.finding.title.clone())
        .collect();
    for step in &record.steps {
        if matches!(step.state, StepState::Failed | StepState::Forbidden | StepState::Escalated) {
            issues.push(format!(
                "step `{}` ({}) is {}: {}",
                step.step,
                step.request,
                step.state.as_str(),
                step.note
            ));
        }
    }
    for check in acceptance.iter().filter(|accepted| !accepted.pass) {
        issues.push(if check.reason.is_empty() {
            format!("`{}` did not pass: observed {}", check.check, check.observed)
        } else {
            format!("`{}` did not pass: {}", check.check, check.reason)
        });
    }
    for other in &record.plan.not_ours {
        issues.push(format!("`{}` was not done: it is {}", other.text, ownership(other)));
    }
    if let Some(budget) = record.task.budget_usd.filter(|budget| cost_usd > *budget) {
        issues.push(format!("the task cost {cost_usd} USD, more than its budget of {budget} USD"));
    }
    issues
}

fn recommendations(record: &TaskRecord, findings: &[ReportedFinding]) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |text: String| {
        if seen.insert(text.clone()) {
            list.push(text);
        }
    };
    for step in record.steps.iter().filter(|step| step.state == StepState::Waiting) {
        let roles =
            step.answer.as_ref().map(|answer| answer.decided.approvers.join(" or ")).unwrap_or_default();
        let who = if roles.is_empty() { String::new() } else { format!(" as {roles}") };
        match step.answer.as_ref().and_then(|answer| answer.approval.as_deref()) {
            Some(approval) => add(format!(
                "decide on `{}`{who}: `steward approval show {approval}`, then `steward approval grant {approval}` or \
                 `steward approval deny {approval}`",
                step.request
            )),
            None => add(format!("decide on `{}`{who}: `steward approval list`", step.request)),
        }
    }
    if record.steps.iter().any(|step| matches!(step.state, StepState::Waiting | StepState::Blocked)) {
        add(format!("afterwards go on with `steward task resume {}`", record.id));
    }
    for finding in findings.iter().filter(|finding| !finding.resolved) {
        if let Some(recommendation) = &finding.finding.recommendation {
            add(recommendation.clone());
        }
    }
    for question in &record.plan.questions {
        add(format!("ask the {}: {}", agent(&question.ask), question.question));
    }
    for other in &record.plan.not_ours {
        add(format!("give `{}` to the {} agent", other.text, agent(&other.owner)));
    }
    if record.steps.iter().any(|step| step.state == StepState::Planned) {
        add("run the task without `plan_only` to carry the planned changes out".into());
    }
    list
}

fn action(step: &StepRecord) -> Action {
    let answer = step.answer.as_ref();
    let decided = answer.map(|answer| answer.decided.clone()).unwrap_or_default();
    let value = |key: &str| answer.map(|answer| answer.value[key].clone()).filter(|value| !value.is_null());
    let approved_by = answer.and_then(|answer| answer.value["approver"].as_str()).map(ToOwned::to_owned);
    let mut evidence: Vec<String> = answer.map(|answer| answer.evidence.clone()).unwrap_or_default();
    evidence.extend(
        step.verified_by.iter().filter(|id| !answer.is_some_and(|a| a.evidence.contains(id))).cloned(),
    );
    Action {
        step: step.step.clone(),
        request: step.request.clone(),
        about: ["table", "to", "query", "store"]
            .iter()
            .find_map(|key| step.arguments[*key].as_str())
            .map(|text| crate::task::shorten(&text.split_whitespace().collect::<Vec<_>>().join(" "), 60))
            .unwrap_or_default(),
        status: step.state.as_str().to_owned(),
        changes: step.changes,
        reason: step.reason.clone(),
        plan: answer.and_then(|answer| answer.plan.as_ref()).map(|digest| digest.0.clone()),
        decision: decided.decision,
        policies: decided.policies,
        approval: answer.and_then(|answer| answer.approval.clone()),
        approvers: approved_by.map_or(decided.approvers, |name| vec![name]),
        before: value("before"),
        after: value("after"),
        note: step.note.clone(),
        evidence,
    }
}

/// A part of the task that was not done, as an action of its own.
fn refusal(other: &NotOurs) -> Action {
    let status = if other.outcome == "escalated" { "escalated" } else { "forbidden" };
    Action {
        step: "not_ours".into(),
        request: String::new(),
        about: other.text.clone(),
        status: status.into(),
        changes: false,
        reason: ownership(other),
        plan: None,
        decision: status.into(),
        policies: Vec::new(),
        approval: None,
        approvers: Vec::new(),
        before: None,
        after: None,
        note: format!("it is {}", ownership(other)),
        evidence: Vec::new(),
    }
}

/// The report in the mission's shape, under its four headings first.
#[derive(Serialize)]
struct MissionShape<'a> {
    #[serde(rename = "Task")]
    task: Value,
    #[serde(rename = "Status")]
    status: Vec<String>,
    #[serde(rename = "Findings")]
    findings: &'a [ReportedFinding],
    #[serde(rename = "Issues")]
    issues: &'a [String],
    #[serde(rename = "Recommendations")]
    recommendations: &'a [String],
    #[serde(rename = "Migrations", skip_serializing_if = "<[MigrationSummary]>::is_empty")]
    migrations: &'a [MigrationSummary],
    #[serde(rename = "Actions")]
    actions: &'a [Action],
    #[serde(rename = "Acceptance")]
    acceptance: &'a [Accepted],
    #[serde(rename = "Evidence")]
    evidence: &'a [String],
    #[serde(rename = "Escalations")]
    escalations: &'a [String],
    #[serde(rename = "Not computed", skip_serializing_if = "<[String]>::is_empty")]
    not_computed: &'a [String],
    #[serde(rename = "Notes", skip_serializing_if = "<[String]>::is_empty")]
    notes: &'a [String],
    #[serde(rename = "Time")]
    time: Value,
    #[serde(rename = "Cost")]
    cost: Value,
}

impl Report {
    /// The report as YAML under the mission's headings; the first line of `Status` is the status itself.
    pub fn to_yaml(&self) -> String {
        let mut task =
            json!({ "id": self.id, "title": self.title, "project": self.project, "runbooks": self.runbooks });
        if let Some(ticket) = &self.ticket {
            task["ticket"] = json!(ticket);
        }
        let mut status = vec![self.status.as_str().to_owned()];
        status.extend(self.progress.iter().cloned());
        let shape = MissionShape {
            task,
            status,
            findings: &self.findings,
            issues: &self.issues,
            recommendations: &self.recommendations,
            migrations: &self.migrations,
            actions: &self.actions,
            acceptance: &self.acceptance,
            evidence: &self.evidence,
            escalations: &self.escalations,
            not_computed: &self.not_computed,
            notes: &self.notes,
            time: json!({ "created": self.created, "reported": self.reported, "elapsed_ms": self.elapsed_ms }),
            cost: json!({ "usd": self.cost_usd }),
        };
        serde_saphyr::to_string(&shape).expect("a report holds only texts, numbers and lists")
    }

    /// The report as Markdown, with a JSON summary in a fence at its end.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("# {}\n\n", cell(&self.title));
        let ticket =
            self.ticket.as_ref().map(|ticket| format!(", ticket {}", cell(ticket))).unwrap_or_default();
        writeln!(text, "Task `{}`{ticket}, project `{}`", self.id, self.project)
            .expect("writing to a string does not fail");
        section(&mut text, "Status");
        writeln!(text, "**{}**\n", self.status.as_str()).expect("writing to a string does not fail");
        for line in &self.progress {
            writeln!(text, "- {}", cell(line)).expect("writing to a string does not fail");
        }
        section(&mut text, "Findings");
        for reported in &self.findings {
            let finding = &reported.finding;
            let severity = match (reported.resolved, finding.severity) {
                (true, _) => "resolved",
                (_, Severity::Info) => "info",
                (_, Severity::Warning) => "warning",
                (_, Severity::Critical) => "critical",
            };
            writeln!(text, "- {severity}: {}{}", cell(&finding.title), cited(&finding.evidence))
                .expect("writing to a string does not fail");
        }
        none_if(&mut text, self.findings.is_empty());
        for (heading, list) in [("Issues", &self.issues), ("Recommendations", &self.recommendations)] {
            section(&mut text, heading);
            for line in list {
                writeln!(text, "- {}", cell(line)).expect("writing to a string does not fail");
            }
            none_if(&mut text, list.is_empty());
        }
        for migration in &self.migrations {
            migration_section(&mut text, migration);
        }
        section(&mut text, "Actions");
        if !self.actions.is_empty() {
            text.push_str("| step | request | about | status | decision | before | after | evidence |\n");
            text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
        }
        for action in &self.actions {
            let mut decision = action.decision.clone();
            if !action.policies.is_empty() {
                write!(decision, " by {}", action.policies.join(", "))
                    .expect("writing to a string does not fail");
            }
            if action.status == "waiting" && !action.approvers.is_empty() {
                write!(decision, "; {} may approve", action.approvers.join(" or "))
                    .expect("writing to a string does not fail");
            }
            if action.status == "done"
                && let Some(approval) = &action.approval
            {
                write!(decision, "; approved by {}, `{approval}`", action.approvers.join(" and "))
                    .expect("writing to a string does not fail");
            }
            if let Some(plan) = &action.plan {
                write!(decision, "; plan `{}`", &plan[..plan.len().min(12)])
                    .expect("writing to a string does not fail");
            }
            if !action.note.is_empty() && action.status != "done" {
                let between = if decision.is_empty() { "" } else { "; " };
                write!(decision, "{between}{}", action.note).expect("writing to a string does not fail");
            }
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                cell(&action.step),
                action.request,
                cell(&action.about),
                action.status,
                cell(&decision),
                cell(&measured(action.before.as_ref())),
                cell(&measured(action.after.as_ref())),
                action.evidence.join(" ")
            )
            .expect("writing to a string does not fail");
        }
        none_if(&mut text, self.actions.is_empty());
        section(&mut text, "Acceptance");
        if !self.acceptance.is_empty() {
            text.push_str(
                "| check | expected | observed | result | evidence |\n| --- | --- | --- | --- | --- |\n",
            );
        }
        for accepted in &self.acceptance {
            let result = match (accepted.pass, accepted.reason.as_str()) {
                (true, _) => "passed".to_owned(),
                (false, "") => "failed".to_owned(),
                (false, reason) => format!("failed: {reason}"),
            };
            let observed =
                if accepted.observed.is_null() { "—".to_owned() } else { accepted.observed.to_string() };
            writeln!(
                text,
                "| {} | {} | {observed} | {} | {} |",
                cell(&accepted.check),
                accepted.expected,
                cell(&result),
                accepted.evidence.join(" ")
            )
            .expect("writing to a string does not fail");
        }
        none_if(&mut text, self.acceptance.is_empty());
        for (heading, list) in [("Not computed", &self.not_computed), ("Notes", &self.notes)] {
            if !list.is_empty() {
                section(&mut text, heading);
                for line in list {
                    writeln!(text, "- {}", cell(line)).expect("writing to a string does not fail");
                }
            }
        }
        section(&mut text, "Record");
        writeln!(text, "- escalations: {}", or_none(&self.escalations))
            .expect("writing to a string does not fail");
        writeln!(text, "- evidence: {}; each is printed by `steward evidence ID`", self.evidence.len())
            .expect("writing to a string does not fail");
        writeln!(text, "- time: {} ms, reported {}", self.elapsed_ms, self.reported)
            .expect("writing to a string does not fail");
        writeln!(text, "- cost: {} USD\n", self.cost_usd).expect("writing to a string does not fail");
        let summary = json!({
            "task_completed": self.status == Status::Done,
            "task": self.id,
            "status": self.status,
            "exit_code": self.exit_code,
            "issues": self.issues,
            "recommendations": self.recommendations,
            "evidence": self.evidence,
            "escalations": self.escalations,
        });
        let summary = serde_json::to_string_pretty(&summary).expect("a summary is JSON");
        writeln!(text, "```json\n{}\n```", summary.replace("```", "'''"))
            .expect("writing to a string does not fail");
        text
    }
}

fn section(text: &mut String, heading: &str) {
    write!(text, "\n## {heading}\n\n").expect("writing to a string does not fail");
}

fn none_if(text: &mut String, empty: bool) {
    if empty {
        text.push_str("None.\n");
    }
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() { "none".into() } else { list.join(", ") }
}

fn cited(evidence: &[String]) -> String {
    if evidence.is_empty() { String::new() } else { format!(" [{}]", evidence.join(", ")) }
}

/// Text that may come from a task or a database, kept from breaking out of its line, cell or fence.
fn cell(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .replace("```", "'''")
        .replace('|', "\\|")
}

/// The seven lines that a PM decides by.
fn migration_section(text: &mut String, migration: &MigrationSummary) {
    let summary = &migration.summary;
    let which = if migration.migration.is_empty() { "all that are pending" } else { &migration.migration };
    section(text, "Migration summary");
    writeln!(text, "{} on {}: {}\n", cell(which), cell(&migration.store), migration.status)
        .expect("writing to a string does not fail");
    let words = |key: &str| match &summary[key] {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
        _ => String::new(),
    };
    let named =
        summary["tables"].as_array().into_iter().flatten().filter_map(|table| table["table"].as_str());
    let others = (summary["tables_unknown"] == true).then_some("others that nobody can name");
    let tables: Vec<&str> = named.chain(others).collect();
    let mebibytes = summary["size_bytes"].as_f64().unwrap_or_default() / 1_048_576.0;
    let downtime = [words("downtime"), words("downtime_why")].join(": ");
    text.push_str("| | |\n| --- | --- |\n");
    for (name, line) in [
        ("type", words("type")),
        ("tables", if tables.is_empty() { "none".to_owned() } else { tables.join(", ") }),
        ("volume", format!("{} rows, {mebibytes:.1} MiB", summary["rows"])),
        ("downtime", downtime.trim_end_matches(": ").to_owned()),
        ("rollback", words("rollback")),
        ("validation", words("validation")),
        ("impact", words("impact")),
    ] {
        writeln!(text, "| {name} | {} |", cell(&line)).expect("writing to a string does not fail");
    }
}

/// A measurement in a cell: its numbers by name.
fn measured(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::Object(map)) => {
            let numbers: Vec<String> = map
                .iter()
                .filter(|(key, value)| value.is_number() && (key.ends_with("_ms") || *key == "rows"))
                .map(|(key, value)| format!("{key} {value}"))
                .collect();
            numbers.join(", ")
        }
        Some(other) => other.to_string(),
    }
}
