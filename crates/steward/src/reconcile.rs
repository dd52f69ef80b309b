//! Changes that were begun and never concluded: after a crash they are taken up again.

use std::sync::Arc;

use contract::{Actor, Context, Error, ErrorKind, Plan, Severity, Trigger};
use ledger::{Event, EventFilter, Row};
use serde_json::json;

use crate::door::Steward;
use crate::project::Project;
use crate::request::Request;
use crate::{dispatch, holder};

/// An interrupted change.
struct Interrupted {
    plan: Plan,
    actor: Actor,
    task: String,
    /// The entry of the trail with which it began.
    event: Event,
}

/// Goes on with every change of the project whose process is gone. Returns how many there were.
///
/// # Errors
///
/// As the ledger's. A change that cannot be finished is escalated and stays open, so that the next start tries again.
pub(crate) async fn project(steward: &Steward, project: &Arc<Project>) -> Result<usize, Error> {
    let ctx = Context::new(project.name(), Actor::system()).with_clock(Arc::clone(steward.clock()));
    resume(steward, &ctx, project, None, false).await
}

/// The same for the one store (or other thing) that a new change is about: what was begun is finished first.
///
/// # Errors
///
/// `Conflict`: an interrupted change of the same store cannot be finished, so that nothing new is begun there.
pub(crate) async fn store_of(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    request: &Request,
) -> Result<(), Error> {
    let subject =
        crate::backups::store_of(project, request).unwrap_or_else(|| request.subject(ctx.project()));
    let system = Context::new(ctx.project(), Actor::system()).with_clock(ctx.clock());
    let restores = matches!(request, Request::BackupRestore(_) | Request::BackupRun(_));
    resume(steward, &system, project, Some(&subject), restores).await.map(|_| ())
}

async fn resume(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    subject: Option<&str>,
    restores: bool,
) -> Result<usize, Error> {
    // Nearly always none, and there is an index of just these.
    let rows = steward
        .ledger()
        .glance(
            "SELECT i.id, i.request, i.subject, i.plan_digest, i.holder, i.actor, i.task, p.body FROM intents i \
             LEFT JOIN plans p ON p.project = i.project AND p.digest = i.plan_digest \
             WHERE i.project = ? AND i.finished_us IS NULL ORDER BY i.begun_us",
            vec![ctx.project().into()],
        )
        .await?;
    let mut count = 0;
    for row in &rows {
        let (id, about, holder) =
            (row.get_text("id")?.to_owned(), row.get_text("subject")?, row.get_text("holder")?.to_owned());
        let wanted = subject.is_none_or(|subject| subject == about);
        // Other stores may be down. Everything else only has to be looked at. A restore in place may have left its store closed,
        // and whoever names a backup does not say which store that is.
        let may_be_closed = restores && row.get_text("request")? == "backup.restore";
        if !wanted && about.starts_with("store:") && !may_be_closed {
            continue;
        }
        if holder != steward.holder() && !holder::is_gone(&holder) {
            continue; // It still runs in another process.
        }
        // What this process began and no longer works on ended in the middle, such as by a failed write of its outcome.
        let Some(_under_way) = steward.take_up(&id) else { continue };
        count += 1;
        go_on(steward, ctx, project, row, subject.is_some() && wanted).await?;
    }
    Ok(count)
}

async fn go_on(
    steward: &Steward,
    system: &Context,
    project: &Arc<Project>,
    row: &Row,
    must_finish: bool,
) -> Result<(), Error> {
    let (id, request) = (row.get_text("id")?.to_owned(), row.get_text("request")?.to_owned());
    let (subject, holder) = (row.get_text("subject")?.to_owned(), row.get_text("holder")?.to_owned());
    tracing::warn!(intent = id, request, pid = holder::pid(&holder), "going on with an interrupted change");
    let mut ctx = system.clone();
    // From now on it is ours; another process that starts meanwhile leaves it alone.
    let claimed = steward
        .ledger()
        .write(
            &ctx,
            ledger::Write::new().exec_expecting(
                "UPDATE intents SET holder = ? WHERE id = ? AND holder = ? AND finished_us IS NULL",
                vec![steward.holder().to_owned().into(), id.clone().into(), holder.into()],
                1,
            ),
        )
        .await;
    match claimed {
        Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let result = match read(steward, system, row).await {
        Ok(interrupted) => {
            let Interrupted { plan, actor, task, event } = interrupted;
            ctx = ctx.with_actor(actor);
            if !task.is_empty() {
                ctx = ctx.with_task(&task);
            }
            dispatch::resume(steward, &ctx, project, &request, &plan, &event).await
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(outcome) => {
            let write = ledger::Write::new()
                .exec(
                    "UPDATE intents SET finished_us = ?, outcome = ? WHERE id = ?",
                    vec![ctx.now().as_microsecond().into(), outcome.word.into(), id.clone().into()],
                )
                .event(ledger::NewEvent::new(
                    format!("{request}.outcome"),
                    subject,
                    json!({ "intent": id, "outcome": outcome.word, "what": steward.redact(&outcome.text) }),
                ));
            steward.ledger().write(&ctx, write).await?;
            tracing::warn!(intent = id, outcome = outcome.word, "interrupted change reconciled");
            Ok(())
        }
        Err(error) => {
            let text = steward.redact(&error.to_string());
            let escalation = pm::NewEscalation {
                trigger: Trigger::DataLossRisk,
                severity: Severity::Critical,
                title: format!("an interrupted `{request}` on {subject} cannot be finished"),
                detail: text,
                subject: subject.clone(),
                evidence: Vec::new(),
                dedup_key: format!("unfinished:{id}"),
            };
            // Given back: the next start tries again.
            let give_back = ledger::Write::new()
                .exec("UPDATE intents SET holder = ? WHERE id = ?", vec!["gone".into(), id.clone().into()]);
            steward.ledger().write(&ctx, give_back).await?;
            steward.raise(&ctx, escalation).await?;
            if must_finish {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "an earlier change was interrupted and cannot be finished now",
                )
                .with("resource", &subject)
                .with("intent", &id)
                .because(error)
                .hint("see `steward inbox`; mend the cause and ask again"));
            }
            Ok(())
        }
    }
}

/// The change as it was begun, if what is stored of it is what the trail says: the tables can be edited by whoever may
/// write the file, the sealed entries of the trail cannot.
async fn read(steward: &Steward, ctx: &Context, row: &Row) -> Result<Interrupted, Error> {
    let (id, request) = (row.get_text("id")?, row.get_text("request")?);
    let digest = row.get_text("plan_digest")?;
    let corrupt = |why: &str| {
        Error::new(ErrorKind::Corrupt, format!("the interrupted change {why}"))
            .with("intent", id)
            .with("plan", digest)
            .hint("the state file was edited; `steward audit verify` checks the trail")
    };
    let place = ledger::Place { table: "plans", project: ctx.project(), key: digest, column: "body" };
    let body = steward
        .ledger()
        .unseal(place, row)
        .map_err(|cause| corrupt("has a plan that cannot be read").because(cause))?
        .ok_or_else(|| corrupt("has lost its plan"))?;
    let plan: Plan = serde_json::from_str(&body)
        .map_err(|cause| corrupt("has a plan that cannot be read").because(cause))?;
    if plan.digest().0 != digest || plan.project != ctx.project() || plan.request != request {
        return Err(corrupt("has another plan than it was begun with"));
    }
    let filter = EventFilter {
        subject: Some(plan.target.clone()),
        ..EventFilter::project(ctx.project()).kind(&format!("{request}.intent")).newest()
    };
    let begun_so = |event: &Event| {
        event.body.as_ref().is_some_and(|body| body["intent"] == json!(id) && body["plan"] == json!(digest))
    };
    let events = steward.ledger().events(filter).await?;
    let event = events.into_iter().find(begun_so).ok_or_else(|| corrupt("is not in the audit trail"))?;
    let actor: Actor = row.get_json("actor")?;
    if actor.to_string() != event.actor {
        return Err(corrupt("was begun by someone else"));
    }
    Ok(Interrupted { plan, actor, task: row.get_text("task")?.to_owned(), event })
}
