//! Tasks that wait, that are interrupted, and that are asked for twice.

mod support;

use contract::ErrorKind;
use pm::{Defaults, Report, ResumeTask, Room, RunTask, ShowReport, ShowTask};
use serde_json::json;
use support::{FakeDoor, QUERY, World, ctx, ledger};

fn review() -> RunTask {
    let text = format!(
        "id: review\nTask:\n  - Check the integrity of shop\n  - Add the missing index for the slow query\n  - Apply all pending \
         migrations\nContext:\n  query: {QUERY}\n"
    );
    RunTask { text: Some(text), ..RunTask::default() }
}

#[tokio::test]
async fn a_task_goes_on_after_the_approval_and_repeats_no_change() {
    let door = FakeDoor::new(World::named("risky"));
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let defaults = Defaults::default();
    let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
    let outcome = pm::run_task(&ctx(), &door, room, &review()).await.unwrap();
    assert_eq!(outcome.value["status"], json!("waiting"));
    assert_eq!(outcome.value["exit_code"], json!(3));
    let resume = ResumeTask { task: "review".into(), ..ResumeTask::default() };
    let still = pm::resume_task(&ctx(), &door, room, &resume).await.unwrap();
    assert_eq!(still.value["status"], json!("waiting"));
    door.approve("0004_drop_legacy");
    let outcome = pm::resume_task(&ctx(), &door, room, &resume).await.unwrap();
    let report: Report = serde_json::from_value(outcome.value.into_value()).unwrap();
    assert_eq!(report.status, pm::Status::Done, "{}", report.to_markdown());
    assert_eq!(door.count("index.create"), 1);
    let shown =
        pm::show_report(&ctx(), &ledger, &ShowReport { task: "review".into(), ..ShowReport::default() })
            .await;
    assert_eq!(shown.unwrap().value["status"], json!("done"));
    let shown = pm::show_task(&ctx(), &ledger, &door, &ShowTask { task: "review".into() }).await.unwrap();
    assert_eq!(shown.value["state"], json!("done"));
}

#[tokio::test]
async fn steps_that_were_not_needed_while_waiting_are_done_after_the_approval() {
    let door = FakeDoor::new(World::named("guarded"));
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let defaults = Defaults::default();
    let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
    let outcome = pm::run_task(&ctx(), &door, room, &review()).await.unwrap();
    assert_eq!(outcome.value["status"], json!("waiting"));
    door.approve("index.create");
    let resume = ResumeTask { task: "review".into(), ..ResumeTask::default() };
    let outcome = pm::resume_task(&ctx(), &door, room, &resume).await.unwrap();
    let report: Report = serde_json::from_value(outcome.value.into_value()).unwrap();
    assert_eq!(report.status, pm::Status::Done, "{}", report.to_markdown());
    let steps: Vec<&str> = report.actions.iter().map(|action| action.step.as_str()).collect();
    assert_eq!(
        steps[2..9],
        ["inspect", "slowest", "before", "advise", "create", "after", "advise_again"],
        "in the order of the runbook"
    );
    assert!(report.findings.iter().all(|finding| finding.resolved), "{:?}", report.findings);
}

#[tokio::test]
async fn a_task_that_ends_at_any_request_is_resumed_and_changes_nothing_twice() {
    let whole = {
        let door = FakeDoor::new(World::named("clean"));
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path()).await;
        let defaults = Defaults::default();
        let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
        pm::run_task(&ctx(), &door, room, &review()).await.unwrap();
        door.log().len()
    };
    assert!(whole > 10, "{whole}");
    for requests in 2..whole {
        let door = FakeDoor::new(World::named("clean"));
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path()).await;
        let defaults = Defaults::default();
        let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
        door.die_after(Some(requests));
        // Canceled while it runs; the token is what ends the run.
        let killed = ctx();
        let result = pm::run_task(&killed, &door, room, &review()).await;
        if let Err(error) = &result {
            assert_eq!(error.kind(), ErrorKind::Canceled, "after {requests}: {error}");
        }
        door.die_after(None);
        if pm::show_task(&ctx(), &ledger, &door, &ShowTask { task: "review".into() }).await.is_err() {
            continue; // It ended while planning; nothing was begun.
        }
        let resume = ResumeTask { task: "review".into(), ..ResumeTask::default() };
        let outcome = pm::resume_task(&ctx(), &door, room, &resume).await.unwrap();
        assert_eq!(outcome.value["status"], json!("done"), "after {requests}: {}", outcome.text);
        assert_eq!(door.count("index.create"), 1, "after {requests}");
        assert_eq!(door.count("migration.apply"), 1, "after {requests}");
    }
}

#[tokio::test]
async fn an_id_that_is_taken_gets_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let defaults = Defaults::default();
    let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
    for id in ["review", "review-2", "review-3"] {
        let door = FakeDoor::new(World::named("clean"));
        let outcome = pm::run_task(&ctx(), &door, room, &review()).await.unwrap();
        assert_eq!(outcome.value["id"], json!(id));
    }
    let listed = pm::list_tasks(&ctx(), &ledger, &pm::ListTasks::default()).await.unwrap();
    assert_eq!(listed.value["tasks"].as_array().unwrap().len(), 3);
    let other = contract::Context::new("other", contract::Actor::local());
    let listed = pm::list_tasks(&other, &ledger, &pm::ListTasks::default()).await.unwrap();
    assert_eq!(listed.value["tasks"], json!([]), "another project sees none of them");
}

#[tokio::test]
async fn a_task_that_is_being_run_is_not_run_twice() {
    let door = FakeDoor::new(World::named("risky"));
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let defaults = Defaults::default();
    let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
    pm::run_task(&ctx(), &door, room, &review()).await.unwrap();
    let lease = ledger
        .acquire_lease(&ctx(), "task:review", std::time::Duration::from_mins(1))
        .await
        .unwrap()
        .unwrap();
    let resume = ResumeTask { task: "review".into(), ..ResumeTask::default() };
    let error = pm::resume_task(&ctx(), &door, room, &resume).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    ledger.release_lease(&ctx(), &lease).await.unwrap();
    pm::resume_task(&ctx(), &door, room, &resume).await.unwrap();
}

#[tokio::test]
async fn a_passed_deadline_ends_the_task_before_anything_is_done() {
    let door = FakeDoor::new(World::named("clean"));
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let defaults = Defaults::default();
    let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
    let text = "deadline: 2001-01-01\nTask: Apply migration 0003_add_status\n".to_owned();
    let request = RunTask { text: Some(text), ..RunTask::default() };
    let error = pm::run_task(&ctx(), &door, room, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(door.count("migration.apply"), 0);
}
