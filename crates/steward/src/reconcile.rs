//! Changes that were begun and never concluded: after a crash they are taken up again.

use std::sync::Arc;

use contract::{Actor, Context, Error, ErrorKind, Plan, Severity, Trigger};
use ledger::Row;
use serde_json::json;

use crate::door::Steward;
use crate::project::Project;
use crate::request::Request;
use crate::{dispatch, holder};

/// An interrupted change.
struct Interrupted {
    id: String,
    request: String,
    holder: String,
    plan: Plan,
    actor: Actor,
    task: String,
}

/// Goes on with every change of the project whose process is gone. Returns how many there were.
///
/// # Errors
///
/// As the ledger's. A change that cannot be finished is escalated and stays open, so that the next start tries again.
pub(crate) async fn project(steward: &Steward, project: &Arc<Project>) -> Result<usize, Error> {
    let ctx = Context::new(project.name(), Actor::system()).with_clock(Arc::clone(steward.clock()));
    resume(steward, &ctx, project, None).await
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
    let subject = request.subject(ctx.project());
    let system = Context::new(ctx.project(), Actor::system()).with_clock(ctx.clock());
    resume(steward, &system, project, Some(&subject)).await.map(|_| ())
}

async fn resume(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    subject: Option<&str>,
) -> Result<usize, Error> {
    let rows = steward
        .ledger()
        .query(
            "SELECT i.id, i.request, i.subject, i.holder, i.actor, i.task, p.body FROM intents i \
             JOIN plans p ON p.project = i.project AND p.digest = i.plan_digest \
             WHERE i.project = ? AND i.finished_us IS NULL ORDER BY i.begun_us",
            vec![ctx.project().into()],
        )
        .await?;
    let mut count = 0;
    for row in &rows {
        if subject.is_some_and(|subject| row.get_text("subject").is_ok_and(|known| known != subject)) {
            continue;
        }
        let interrupted = read(row)?;
        if interrupted.holder == steward.holder() || !holder::is_gone(&interrupted.holder) {
            continue; // It still runs, here or in another process.
        }
        count += 1;
        go_on(steward, ctx, project, interrupted, subject.is_some()).await?;
    }
    Ok(count)
}

async fn go_on(
    steward: &Steward,
    ctx: &Context,
    project: &Arc<Project>,
    interrupted: Interrupted,
    must_finish: bool,
) -> Result<(), Error> {
    let Interrupted { id, request, plan, actor, task, holder } = interrupted;
    tracing::warn!(intent = id, request, pid = holder::pid(&holder), "going on with an interrupted change");
    let mut ctx = ctx.clone().with_actor(actor);
    if !task.is_empty() {
        ctx = ctx.with_task(&task);
    }
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
    let result = dispatch::resume(steward, &ctx, project, &request, &plan, &id).await;
    match result {
        Ok(outcome) => {
            let write = ledger::Write::new()
                .exec(
                    "UPDATE intents SET finished_us = ?, outcome = ? WHERE id = ?",
                    vec![ctx.now().as_microsecond().into(), outcome.word.into(), id.clone().into()],
                )
                .event(ledger::NewEvent::new(
                    format!("{request}.outcome"),
                    plan.target.clone(),
                    json!({ "intent": id, "outcome": outcome.word, "what": outcome.text }),
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
                title: format!("an interrupted `{request}` on {} cannot be finished", plan.target),
                detail: text,
                subject: plan.target.clone(),
                evidence: Vec::new(),
                dedup_key: format!("unfinished:{id}"),
            };
            steward.raise(&ctx, escalation).await?;
            // Given back: the next start tries again.
            let give_back = ledger::Write::new()
                .exec("UPDATE intents SET holder = ? WHERE id = ?", vec!["gone".into(), id.clone().into()]);
            steward.ledger().write(&ctx, give_back).await?;
            if must_finish {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "an earlier change was interrupted and cannot be finished now",
                )
                .with("resource", &plan.target)
                .with("intent", &id)
                .because(error)
                .hint("see `steward inbox`; mend the cause and ask again"));
            }
            Ok(())
        }
    }
}

fn read(row: &Row) -> Result<Interrupted, Error> {
    Ok(Interrupted {
        id: row.get_text("id")?.to_owned(),
        request: row.get_text("request")?.to_owned(),
        holder: row.get_text("holder")?.to_owned(),
        plan: row.get_json("body")?,
        actor: row.get_json("actor")?,
        task: row.get_text("task")?.to_owned(),
    })
}
