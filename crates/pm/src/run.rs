//! Doing what is planned: one request after another through the door, each with its state kept before the next.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use contract::{Answer, AnswerStatus, Context, Door, Effect, Error, ErrorKind, Trigger};
use ledger::Ledger;
use serde_json::{Map, Value, json};

use crate::acceptance::Subject;
use crate::escalation::NewEscalation;
use crate::evaluate::{self, Fresh};
use crate::expression;
use crate::plan::{self, Defaults, Job};
use crate::record::{self, Journal, LedgerJournal, NOT_POSSIBLE, StepRecord, StepState, TaskRecord};
use crate::report::{Report, Status};
use crate::runbook::{Step, Tolerated, Verify};
use crate::task::{Autonomy, Task};

/// Most items that one step is done for.
const ITEMS_MAX: usize = 100;
/// How long a run holds its task without a word: a killed process frees it after this.
const LEASE: Duration = Duration::from_secs(20);
/// How often a run says that it is still there.
const LEASE_RENEWED_EVERY: Duration = Duration::from_secs(5);

/// What a run needs besides the context and the door.
#[derive(Clone, Copy)]
pub struct Room<'a> {
    /// Where tasks, escalations and events are kept.
    pub ledger: &'a Ledger,
    /// What the project file says.
    pub defaults: &'a Defaults,
    /// Names of the webhooks that escalations go to.
    pub webhooks: &'a [String],
}

/// Runs a task to its report: plans it, keeps it, asks the door step by step, computes the status.
///
/// Each step is kept before and after a change, so that a process that ends at any point can be followed by
/// [`resume`], which begins with the first unfinished step.
///
/// # Errors
///
/// `Invalid`: the runbooks do not fit the door. `TimedOut`: the task's deadline passed; it can be resumed. As the
/// ledger. What a step returns is not an error of the task but a failed step in the report.
pub async fn run(
    ctx: &Context,
    door: &dyn Door,
    room: Room<'_>,
    task: Task,
    source: &str,
) -> Result<Report, Error> {
    let plan = plan::plan(ctx, door, room.defaults, &task).await?;
    let id = task.id.clone().unwrap_or_else(|| format!("task-{}", uuid::Uuid::now_v7().simple()));
    let mut record = TaskRecord {
        id,
        state: "running".into(),
        source: source.to_owned(),
        task,
        plan,
        steps: Vec::new(),
        escalations: Vec::new(),
        created: ctx.now(),
        elapsed_ms: 0.0,
        report: None,
    };
    record::create(ctx, room.ledger, &mut record).await?;
    alone(ctx, door, room, record).await
}

/// Goes on with a task: after an approval, or after a process ended in the middle.
///
/// # Errors
///
/// `NotFound`. `Conflict`: another process is at it. As [`run`].
pub async fn resume(ctx: &Context, door: &dyn Door, room: Room<'_>, id: &str) -> Result<Report, Error> {
    let record = record::load(ctx, room.ledger, id).await?;
    alone(ctx, door, room, record).await
}

async fn alone(ctx: &Context, door: &dyn Door, room: Room<'_>, record: TaskRecord) -> Result<Report, Error> {
    let name = format!("task:{}", record.id);
    let Some(lease) = room.ledger.acquire_lease(ctx, &name, LEASE).await? else {
        return Err(Error::new(ErrorKind::Conflict, format!("task `{}` is being run", record.id)).hint(
            "wait until the other process has ended; the task of a killed process is free after 20 s",
        ));
    };
    // Read again under the lease: the other process may have gone on in the meantime.
    let mut record = record::load(ctx, room.ledger, &record.id).await?;
    let journal = LedgerJournal { ledger: room.ledger, webhooks: room.webhooks };
    let kept = async {
        let mut lease = lease.clone();
        loop {
            tokio::time::sleep(LEASE_RENEWED_EVERY).await;
            match room.ledger.renew_lease(ctx, &lease, LEASE).await {
                Ok(renewed) => lease = renewed,
                Err(error) => break error,
            }
        }
    };
    let result = tokio::select! {
        result = go_on(ctx, door, &journal, &mut record) => result,
        // Someone else has the task now; whatever was begun is reconciled by them.
        error = kept => return Err(error),
    };
    let released = room.ledger.release_lease(ctx, &lease).await;
    let report = result?;
    released?;
    Ok(report)
}

/// Runs every step that is not finished, then computes the report.
///
/// # Errors
///
/// `TimedOut`, `Canceled`: the task can be resumed. As the journal.
pub(crate) async fn go_on(
    ctx: &Context,
    door: &dyn Door,
    journal: &dyn Journal,
    record: &mut TaskRecord,
) -> Result<Report, Error> {
    let mut ctx = ctx.clone().with_task(&record.id);
    let began = tokio::time::Instant::now();
    let elapsed_before = record.elapsed_ms;
    if let Some(deadline) = record.task.deadline {
        let left = deadline.duration_since(ctx.now());
        let Ok(left) = Duration::try_from(left) else {
            return Err(Error::new(ErrorKind::TimedOut, "the task's deadline has passed")
                .with("task", &record.id)
                .with("deadline", deadline));
        };
        ctx = ctx.with_timeout(left);
    }
    let mut run = Run { ctx: &ctx, door, journal, record, fresh: Fresh::default() };
    for job in 0..run.record.plan.jobs.len() {
        run.job(job).await?;
    }
    let fresh = std::mem::take(&mut run.fresh);
    let checks = evaluate::all(&ctx, door, record, &fresh).await?;
    for result in checks.iter().filter(|result| result.observed.is_some()) {
        if let Subject::Latency { .. } = &result.check.subject {
            let observed = result.observed.unwrap_or_default();
            let dedup_key =
                format!("acceptance:{}:{}", result.store.as_deref().unwrap_or_default(), result.check);
            if result.pass {
                // Whoever was told that it is too slow need not look any more.
                let why = format!("{} is met: {observed} was measured", result.check);
                journal.settle(&ctx, &dedup_key, &why, &result.evidence).await?;
                continue;
            }
            let escalation = NewEscalation {
                title: format!("{} was expected, {observed} was measured", result.check),
                subject: result.store.as_ref().map(|store| format!("store:{store}")).unwrap_or_default(),
                evidence: result.evidence.clone(),
                dedup_key,
                ..NewEscalation::of(Trigger::PerformanceDegradation)
            };
            raise(&ctx, journal, record, escalation).await?;
        }
    }
    for other in record.plan.not_ours.clone() {
        if other.outcome == "escalated" {
            let escalation = NewEscalation {
                title: format!("{}: decision by {} needed", other.title, other.owner),
                detail: other.text.clone(),
                dedup_key: format!("decision:{}:{}", other.title, other.text),
                ..NewEscalation::of(Trigger::DecisionRequired)
            };
            raise(&ctx, journal, record, escalation).await?;
        }
    }
    // Findings that demand it were escalated by the door, with the answer that held them.
    for id in journal.raised(&ctx).await? {
        if !record.escalations.contains(&id) {
            record.escalations.push(id);
        }
    }
    record.elapsed_ms = elapsed_before + began.elapsed().as_secs_f64() * 1000.0;
    let report = Report::compute(&ctx, record, checks);
    report.status.as_str().clone_into(&mut record.state);
    record.report = Some(report.clone());
    journal.save(&ctx, record).await?;
    Ok(report)
}

async fn raise(
    ctx: &Context,
    journal: &dyn Journal,
    record: &mut TaskRecord,
    escalation: NewEscalation,
) -> Result<(), Error> {
    let id = journal.raise(ctx, escalation).await?;
    if !record.escalations.contains(&id) {
        record.escalations.push(id);
    }
    Ok(())
}

struct Run<'a> {
    ctx: &'a Context,
    door: &'a dyn Door,
    journal: &'a dyn Journal,
    record: &'a mut TaskRecord,
    /// Answers of this run, for checks that need not ask again.
    fresh: Fresh,
}

impl Run<'_> {
    async fn job(&mut self, index: usize) -> Result<(), Error> {
        let job = self.record.plan.jobs[index].clone();
        for step in &job.steps {
            // What was not reached, not needed or went wrong before its request is looked at anew.
            self.record.steps.retain(|record| {
                let of_step = record.job == index && record.step == step.id;
                let open =
                    matches!(record.state, StepState::Blocked | StepState::Skipped | StepState::Failed);
                !(of_step && open && record.answer.is_none())
            });
            if let Some(why) = self.unmet(index, step) {
                self.note(index, step, StepState::Blocked, why);
                continue;
            }
            if let Err(error) = self.step(index, &job, step).await {
                // A passed deadline or a cancellation ends the run, not the step; it is resumed later.
                if ends_the_run(self.ctx, &error) {
                    self.journal.save(self.ctx, self.record).await?;
                    return Err(error);
                }
                self.note(index, step, StepState::Failed, one_line(&error));
            }
        }
        // A resumed task gets its steps back into the order of the runbook; sorting is stable, other jobs stay.
        let place = |record: &StepRecord| job.steps.iter().position(|step| step.id == record.step);
        self.record
            .steps
            .sort_by_key(|record| (record.job, (record.job == index).then(|| (place(record), record.item))));
        Ok(())
    }

    /// Why a step cannot begin yet.
    fn unmet(&self, job: usize, step: &Step) -> Option<String> {
        step.needs.iter().find_map(|need| {
            let unfinished = self
                .record
                .steps
                .iter()
                .find(|record| record.job == job && record.step == *need && !record.state.is_final())?;
            Some(format!("step `{need}` is {}", unfinished.state.as_str()))
        })
    }

    /// Keeps a state for a step that has no request of its own.
    fn note(&mut self, job: usize, step: &Step, state: StepState, note: String) {
        self.record.steps.retain(|record| {
            !(record.job == job && record.step == step.id && record.item == 0 && record.answer.is_none())
        });
        let changes = self.changes(&step.request);
        self.record.steps.push(StepRecord {
            job,
            step: step.id.clone(),
            item: 0,
            value: Value::Null,
            request: step.request.clone(),
            arguments: json!({}),
            changes,
            state,
            reason: step.reason.clone(),
            note,
            answer: None,
            verified_by: Vec::new(),
        });
    }

    fn changes(&self, request: &str) -> bool {
        self.door.requests().iter().any(|spec| spec.name == request && spec.effect == Effect::Change)
    }

    /// What expressions of the job can see: its inputs and, for each step so far, how it went.
    fn scope(&self, index: usize, job: &Job) -> Map<String, Value> {
        let mut steps = Map::new();
        for step in &job.steps {
            let of_step =
                self.record.steps.iter().filter(|record| record.job == index && record.step == step.id);
            let (mut values, mut findings) = (Vec::new(), Vec::new());
            let (mut done, mut planned) = (0u64, 0u64);
            for record in of_step {
                done += u64::from(record.state == StepState::Done);
                planned += u64::from(record.state == StepState::Planned);
                if let (StepState::Done, Some(answer)) = (record.state, &record.answer) {
                    values.push((*answer.value).clone());
                    findings.extend(answer.findings.iter().cloned());
                }
            }
            let mut entry =
                json!({ "done": done, "planned": planned, "values": values, "findings": findings });
            if let Some(last) = values.last() {
                entry["value"] = last.clone();
            }
            steps.insert(step.id.clone(), entry);
        }
        let mut scope = job.inputs.clone();
        scope.insert("steps".into(), Value::Object(steps));
        scope.insert("origins".into(), json!(job.origins));
        scope
    }

    async fn step(&mut self, index: usize, job: &Job, step: &Step) -> Result<(), Error> {
        let mut scope = self.scope(index, job);
        if let Some(when) = &step.when
            && !expression::is_true(when, &scope)?
        {
            self.note(index, step, StepState::Skipped, "there was nothing to do".into());
            return Ok(());
        }
        let items = match &step.for_each {
            Some(list) => {
                let items = expression::evaluate(list, &scope)?.as_array().cloned().unwrap_or_default();
                if items.len() > ITEMS_MAX {
                    return Err(Error::new(
                        ErrorKind::LimitExceeded,
                        format!("{} items are too many", items.len()),
                    )
                    .with("items_max", ITEMS_MAX));
                }
                if items.is_empty() {
                    self.note(index, step, StepState::Skipped, "there was nothing to do".into());
                    return Ok(());
                }
                items
            }
            None => vec![Value::Null],
        };
        for (number, item) in items.into_iter().enumerate() {
            scope = self.scope(index, job);
            scope.insert("item".into(), item.clone());
            let at =
                self.record.steps.iter().position(|record| {
                    record.job == index && record.step == step.id && record.item == number
                });
            let known = at.map(|at| self.record.steps[at].state);
            if known.is_some_and(StepState::is_final) {
                continue;
            }
            let answered = at
                .map(|at| &self.record.steps[at])
                .filter(|record| record.state == StepState::Running)
                .and_then(|record| record.answer.clone());
            if let Some(unless) = &step.unless
                && known.is_none()
                && expression::is_true(unless, &scope)?
            {
                self.note(index, step, StepState::Skipped, "not needed any more".into());
                if let Some(record) = self.record.steps.last_mut() {
                    record.item = number;
                    record.value = item;
                }
                continue;
            }
            if let Some(check) = &step.check
                && !expression::is_true(check, &scope)?
            {
                return Err(Error::new(ErrorKind::Invalid, format!("`{check}` does not hold")));
            }
            let mut arguments = expression::fill(&json!(step.arguments), &scope)?;
            let changes = self.changes(&step.request);
            if changes && self.record.plan.autonomy == Autonomy::PlanOnly {
                arguments["dry_run"] = json!(true);
            }
            let mut record = StepRecord {
                job: index,
                step: step.id.clone(),
                item: number,
                value: item,
                request: step.request.clone(),
                arguments,
                changes,
                state: StepState::Running,
                reason: step.reason.clone(),
                note: String::new(),
                answer: None,
                verified_by: Vec::new(),
            };
            let at = if let Some(at) = at {
                self.record.steps[at] = record.clone();
                at
            } else {
                self.record.steps.push(record.clone());
                self.record.steps.len() - 1
            };
            if changes {
                self.journal.save(self.ctx, self.record).await?;
            }
            match answered {
                Some(answer) => {
                    record.answer = Some(answer);
                    record.state = StepState::Done;
                }
                None => self.ask(&mut record, known == Some(StepState::Running), step).await?,
            }
            if let (StepState::Done, Some(verify)) = (record.state, &step.verify) {
                // A process that ends while verifying is followed by one that verifies, not by one that changes again.
                self.record.steps[at] = StepRecord { state: StepState::Running, ..record.clone() };
                self.journal.save(self.ctx, self.record).await?;
                self.verify(&mut record, step, verify, &scope).await?;
            }
            let state = record.state;
            self.record.steps[at] = record;
            self.journal.save(self.ctx, self.record).await?;
            if step.in_order && state != StepState::Done {
                break;
            }
        }
        Ok(())
    }

    /// Asks the door and keeps how it ended.
    async fn ask(&mut self, record: &mut StepRecord, interrupted: bool, step: &Step) -> Result<(), Error> {
        let submitted = self.door.submit(self.ctx, &record.request, record.arguments.clone());
        match self.ctx.run(submitted).await {
            Ok(answer) => {
                record.state = match answer.status {
                    AnswerStatus::Done => StepState::Done,
                    AnswerStatus::Waiting => StepState::Waiting,
                    AnswerStatus::Forbidden => StepState::Forbidden,
                    AnswerStatus::Escalated => StepState::Escalated,
                    AnswerStatus::Planned => StepState::Planned,
                };
                record.note.clone_from(&answer.decided.reason);
                if let Some(escalation) = &answer.escalation
                    && !self.record.escalations.contains(escalation)
                {
                    self.record.escalations.push(escalation.clone());
                }
                if record.changes && record.state == StepState::Done {
                    self.fresh.changed();
                } else if record.state == StepState::Done {
                    self.fresh.answered(&record.request, &record.arguments, &answer);
                }
                let mut answer = answer;
                if !step.concerns.is_empty() {
                    answer.findings.retain(|finding| step.concerns.contains(&finding.code));
                }
                record.answer = Some(answer);
                Ok(())
            }
            Err(error) if ends_the_run(self.ctx, &error) => Err(error),
            Err(error) => {
                record.note = one_line(&error);
                let tolerates = &step.tolerates;
                record.state = match error.kind() {
                    ErrorKind::Forbidden => StepState::Forbidden,
                    ErrorKind::Escalated => StepState::Escalated,
                    ErrorKind::NeedsApproval => StepState::Waiting,
                    // The process ended between the change and its record; the change is there.
                    ErrorKind::AlreadyExists if interrupted => StepState::Done,
                    ErrorKind::Unsupported if tolerates.contains(&Tolerated::Unsupported) => {
                        StepState::Skipped
                    }
                    ErrorKind::Denied if tolerates.contains(&Tolerated::Denied) => StepState::Skipped,
                    ErrorKind::NotFound if tolerates.contains(&Tolerated::NotFound) => StepState::Skipped,
                    _ => StepState::Failed,
                };
                if record.state == StepState::Skipped {
                    record.note.insert_str(0, NOT_POSSIBLE);
                }
                Ok(())
            }
        }
    }

    async fn verify(
        &mut self,
        record: &mut StepRecord,
        step: &Step,
        verify: &Verify,
        scope: &Map<String, Value>,
    ) -> Result<(), Error> {
        let answer: Answer = match &verify.request {
            Some(request) => {
                let arguments = expression::fill(&json!(verify.arguments), scope)?;
                match self.ctx.run(self.door.submit(self.ctx, request, arguments.clone())).await {
                    Ok(answer) => {
                        self.fresh.answered(request, &arguments, &answer);
                        answer
                    }
                    Err(error) if ends_the_run(self.ctx, &error) => return Err(error),
                    Err(error) => {
                        record.state = StepState::Failed;
                        record.note = format!("done, but it could not be verified: {}", one_line(&error));
                        return Ok(());
                    }
                }
            }
            None => record.answer.clone().expect("a step that is done has an answer"),
        };
        record.verified_by.clone_from(&answer.evidence);
        let mut scope = scope.clone();
        scope.insert("answer".into(), serde_json::to_value(&answer).expect("an answer is JSON"));
        if expression::is_true(&verify.expect, &scope).unwrap_or(false) {
            return Ok(());
        }
        record.state = StepState::Failed;
        record.note = format!("done, but `{}` does not hold afterwards", verify.expect);
        if let Some(undo) = &step.undo {
            let arguments = expression::fill(&json!(undo.arguments), &scope)?;
            if self.record.plan.autonomy == Autonomy::Full {
                let undone = self.ctx.run(self.door.submit(self.ctx, &undo.request, arguments)).await;
                let ended = match undone {
                    Ok(answer) => format!("ended as {}", status_name(answer.status)),
                    Err(error) => format!("failed: {}", one_line(&error)),
                };
                write!(record.note, "; `{}` {ended}", undo.request)
                    .expect("writing to a string does not fail");
                self.fresh.changed();
            } else {
                write!(record.note, "; take it back with `{}` {arguments}", undo.request)
                    .expect("writing to a string does not fail");
            }
        }
        Ok(())
    }
}

/// Whether the error is the end of the task's time rather than of one request.
pub(crate) fn ends_the_run(ctx: &Context, error: &Error) -> bool {
    error.kind() == ErrorKind::Canceled
        || ctx.cancellation().is_cancelled()
        || ctx.remaining() == Some(Duration::ZERO)
}

fn status_name(status: AnswerStatus) -> String {
    serde_json::to_value(status).ok().and_then(|v| v.as_str().map(ToOwned::to_owned)).unwrap_or_default()
}

/// Message, context and hint of an error in one line.
pub(crate) fn one_line(error: &Error) -> String {
    let mut parts: BTreeSet<&str> = BTreeSet::new();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| parts.insert(line)).collect();
    lines.join("; ")
}

/// The exit code of a status: a task with mixed steps ends with the first that applies of 1, 4, 3, 5, 0.
pub(crate) fn exit_code(status: Status) -> u8 {
    match status {
        Status::Done => 0,
        Status::Failed => 1,
        Status::Waiting | Status::NeedsClarification => 3,
        Status::Forbidden | Status::Escalated | Status::OutOfScope => 4,
        Status::Findings => 5,
    }
}
