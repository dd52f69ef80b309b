//! Runs what is due: one run of a schedule at a time, and a backup that was cut off once more.

use std::sync::Arc;
use std::time::Duration;

use contract::{Actor, ActorKind, AnswerStatus, Context, Error, Severity, Trigger};
use jiff::Timestamp;
use ledger::{Lease, Ledger, Write};
use serde_json::Value;
use tokio_util::task::TaskTracker;

use crate::config::{CatchUp, ScheduleConfig};
use crate::door::{Options, Steward};
use crate::project::Project;
use crate::schedule;

/// How late a scheduled run may start and still count as in time, in seconds.
const LATE_S: i64 = 60;
/// How long a run that nobody renews keeps others out, such as one whose machine is gone.
const LEASE: Duration = Duration::from_mins(1);
/// How often a run renews its lease.
const LEASE_RENEWED_EVERY: Duration = Duration::from_secs(15);
/// The status of a run that has not ended; found at a start, it was cut off.
const RUNNING: &str = "running";
/// The status of a run that was cut off.
const INTERRUPTED: &str = "interrupted";

/// Starts what is due, and notes when each schedule is due next.
///
/// # Errors
///
/// As the ledger's; `Invalid`: a schedule that cannot be read.
pub(crate) async fn run(
    steward: &Arc<Steward>,
    ctx: &Context,
    project: &Arc<Project>,
    tracker: &TaskTracker,
) -> Result<(), Error> {
    for (name, schedule) in &schedule::all(&project.loaded().config) {
        // One whose times were changed in the project file begins anew.
        let rows = steward
            .ledger()
            .query(
                "SELECT next_us FROM jobs WHERE project = ? AND name = ? AND timing IN ('', ?)",
                vec![ctx.project().into(), name.clone().into(), schedule::timing(schedule).into()],
            )
            .await?;
        let known = rows.first().map(|row| row.get_opt_time("next_us")).transpose()?.flatten();
        let now = ctx.now();
        let seed = schedule::seed(ctx, name);
        let due = match known {
            Some(due) => due,
            None => schedule::next_after(schedule, &seed, now)?,
        };
        let plan = schedule::due(schedule, &seed, due, now, LATE_S)?;
        if known.is_some() && plan.run.is_none() && plan.next == due {
            continue;
        }
        let Some(due) = plan.run else {
            note(steward, ctx, name, schedule, plan.next, None).await?;
            continue;
        };
        // No overlap: further due times are passed over, whatever the clock says of the lease of a run of ours.
        let lease = lease_of(name);
        let under_way = steward.take_up(&format!("{lease} {}", ctx.project()));
        let lease = match &under_way {
            Some(_) => steward.ledger().acquire_lease(ctx, &lease, LEASE).await?,
            None => None,
        };
        let Some(lease) = lease else {
            tracing::warn!(schedule = name, "the last run has not ended; this one is passed over");
            note(steward, ctx, name, schedule, plan.next, None).await?;
            continue;
        };
        note(steward, ctx, name, schedule, plan.next, Some(RUNNING)).await?;
        let (steward, name, schedule) = (Arc::clone(steward), name.clone(), schedule.clone());
        let ctx = ctx.clone();
        tracker.spawn(async move {
            let _under_way = under_way;
            run_one(&steward, &ctx, &name, &schedule, due, &lease).await;
        });
    }
    Ok(())
}

/// Makes good what an earlier daemon left in the middle; called while no other daemon can run.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn take_up(steward: &Steward, ctx: &Context, project: &Project) -> Result<(), Error> {
    for (name, schedule) in &schedule::all(&project.loaded().config) {
        let rows = steward
            .ledger()
            .query(
                "SELECT 1 AS n FROM jobs WHERE project = ? AND name = ? AND last_status = ?",
                vec![ctx.project().into(), name.clone().into(), RUNNING.into()],
            )
            .await?;
        if rows.is_empty() {
            continue;
        }
        tracing::warn!(schedule = name, "the last run was cut off");
        // Whoever held it is gone, and by a clock that ran ahead it would keep us out for days.
        let free = Write::new().exec(
            "DELETE FROM leases WHERE project = ? AND name = ?",
            vec![ctx.project().into(), lease_of(name).into()],
        );
        steward.ledger().write(ctx, free).await?;
        make_good(steward, ctx, name, schedule).await?;
    }
    Ok(())
}

fn lease_of(name: &str) -> String {
    format!("schedule:{name}")
}

/// A backup that was cut off is due again at once, or told of where times that were missed are not made up for.
async fn make_good(
    steward: &Steward,
    ctx: &Context,
    name: &str,
    schedule: &ScheduleConfig,
) -> Result<(), Error> {
    let is_backup = schedule.request.starts_with("backup.");
    if is_backup && schedule.catch_up == CatchUp::Once {
        return note(steward, ctx, name, schedule, ctx.now(), Some(INTERRUPTED)).await;
    }
    let write = Write::new().exec(
        "UPDATE jobs SET last_status = ? WHERE project = ? AND name = ?",
        vec![INTERRUPTED.into(), ctx.project().into(), name.into()],
    );
    steward.ledger().write(ctx, write).await?;
    if is_backup {
        let escalation = pm::NewEscalation {
            trigger: Trigger::BackupFailure,
            severity: Severity::Critical,
            title: format!("`{}` of the schedule {name} was cut off", schedule.request),
            detail: "`catch_up: skip` says not to repeat it; it runs again when it is due next".into(),
            subject: format!("project:{}", ctx.project()),
            evidence: Vec::new(),
            dedup_key: format!("schedule:{name}"),
        };
        steward.raise(ctx, escalation).await?;
    }
    Ok(())
}

/// Runs the request of a schedule and notes how it ended.
async fn run_one(
    steward: &Steward,
    ctx: &Context,
    name: &str,
    schedule: &ScheduleConfig,
    due: Timestamp,
    lease: &Lease,
) {
    let run_ctx = ctx.clone().with_actor(Actor::new(ActorKind::Schedule, name, []));
    let arguments = Value::Object(schedule.arguments.clone());
    let asked = steward.submit_with(&run_ctx, &schedule.request, arguments, Options::default());
    // What is recorded of the end is recorded also while the daemon stops.
    let ctx = Context::new(ctx.project(), Actor::system()).with_clock(ctx.clock());
    let result = renewing(steward.ledger(), &ctx, lease, LEASE_RENEWED_EVERY, asked).await;
    let recorded = if result.is_err() && run_ctx.cancellation().is_cancelled() {
        make_good(steward, &ctx, name, schedule).await
    } else {
        let (status, error) = match &result {
            Ok(answer) if answer.status == AnswerStatus::Done => ("done", None),
            Ok(answer) => match answer.status {
                AnswerStatus::Waiting => ("waiting", None),
                _ => ("forbidden", None),
            },
            Err(error) => ("failed", Some(steward.redact(&error.to_string()))),
        };
        let write = Write::new().exec(
            "UPDATE jobs SET last_us = ?, last_status = ?, last_error = ? WHERE project = ? AND name = ?",
            vec![due.as_microsecond().into(), status.into(), error.into(), ctx.project().into(), name.into()],
        );
        steward.ledger().write(&ctx, write).await.map(|_| ())
    };
    if let Err(error) = recorded {
        tracing::error!(%error, schedule = name, "cannot record the run");
    }
    if let Err(error) = steward.ledger().release_lease(&ctx, lease).await {
        tracing::error!(%error, schedule = name, "cannot release the lease");
    }
}

/// Does the work and keeps its lease meanwhile. The work goes on where the lease is lost: half a backup is none.
async fn renewing<T>(
    ledger: &Ledger,
    ctx: &Context,
    lease: &Lease,
    every: Duration,
    work: impl Future<Output = T>,
) -> T {
    let keep = async {
        loop {
            tokio::time::sleep(every).await;
            if let Err(error) = ledger.renew_lease(ctx, lease, LEASE).await {
                tracing::warn!(%error, lease = lease.name, "the lease of a run is not renewed");
            }
        }
    };
    tokio::select! {
        done = work => done,
        () = keep => unreachable!("it has no end"),
    }
}

/// Notes when a schedule is due next, and, if given, the status of its last run.
async fn note(
    steward: &Steward,
    ctx: &Context,
    name: &str,
    schedule: &ScheduleConfig,
    next: Timestamp,
    status: Option<&str>,
) -> Result<(), Error> {
    let arguments = Value::Object(schedule.arguments.clone()).to_string();
    let write = Write::new().exec(
        "INSERT INTO jobs (project, name, request, arguments, next_us, timing, last_status) VALUES (?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (project, name) DO UPDATE SET request = excluded.request, arguments = excluded.arguments, \
         next_us = excluded.next_us, timing = excluded.timing, \
         last_status = COALESCE(excluded.last_status, last_status)",
        vec![
            ctx.project().into(),
            name.into(),
            schedule.request.clone().into(),
            arguments.into(),
            next.as_microsecond().into(),
            schedule::timing(schedule).into(),
            status.map(str::to_owned).into(),
        ],
    );
    steward.ledger().write(ctx, write).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use contract::{Clock, TestClock};
    use ledger::Keys;
    use secrecy::SecretBox;

    use super::*;

    #[tokio::test]
    async fn a_lease_is_kept_as_long_as_the_run_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
        let options = ledger::Options::new(folder.path().join("audit.head"));
        let ledger = Ledger::open(&folder.path().join("state.db"), keys, options).await.expect("a ledger");
        let clock = Arc::new(TestClock::at("2026-03-04T05:06:07Z".parse().expect("a time")));
        let ctx = Context::new("shop", Actor::system()).with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        let lease =
            ledger.acquire_lease(&ctx, "schedule:x", LEASE).await.expect("a ledger").expect("it is free");
        let ends = async || ledger.lease(&ctx, "schedule:x").await.expect("a ledger").map(|it| it.expires);
        // Hours long, in steps that are shorter than the lease; each ends when it was renewed.
        let work = async {
            for _ in 0..200 {
                let before = ends().await.expect("nobody else can have it");
                clock.advance_us(50_000_000);
                while ends().await.expect("nobody else can have it") <= before {
                    tokio::task::yield_now().await;
                }
            }
        };
        renewing(&ledger, &ctx, &lease, Duration::from_millis(1), work).await;
        assert!(ctx.now() > lease.expires);
        assert!(ledger.acquire_lease(&ctx, "schedule:x", LEASE).await.expect("a ledger").is_none());
    }
}
