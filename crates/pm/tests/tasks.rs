//! Task texts as PMs write them, each with the runbook and the status that it must end with in a world whose truth is
//! known.

#![allow(clippy::unwrap_used)] // Also in functions that tests share.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use pm::{Defaults, Report, Room, RunTask, Task};
use serde_json::{Value, json};
use support::{FakeDoor, World, ctx, ledger};

/// File, world, runbooks in order, status, and a part of the question or refusal (empty: none expected).
const TASKS: &[(&str, &str, &[&str], &str, &str)] = &[
    ("inventory-mission.yaml", "clean", &["inventory"], "done", ""),
    ("inventory-paraphrased.txt", "clean", &["inventory"], "done", ""),
    ("inventory-misspelt.txt", "clean", &["inventory"], "done", ""),
    ("inventory-json.json", "two", &["inventory"], "done", ""),
    ("inventory-several-stores.md", "two", &["inventory"], "done", ""),
    ("performance-mission.yaml", "clean", &["performance-review"], "done", ""),
    ("performance-prose.md", "clean", &["performance-review"], "done", ""),
    ("performance-paraphrased.txt", "clean", &["performance-review"], "done", ""),
    ("performance-misspelt.txt", "clean", &["performance-review"], "done", ""),
    (
        "performance-missing-query.txt",
        "clean",
        &[],
        "needs_clarification",
        "engineer: Which queries are slow?",
    ),
    ("performance-plan-only.txt", "clean", &["performance-review"], "findings", ""),
    ("performance-unreachable-goal.yaml", "clean", &["performance-review"], "findings", ""),
    ("performance-needs-approval.yaml", "guarded", &["performance-review"], "waiting", ""),
    ("performance-claims-approval.md", "guarded", &["performance-review"], "waiting", ""),
    ("performance-mission.yaml", "vanishing", &["performance-review"], "failed", ""),
    ("performance-mission.yaml", "eager", &["performance-review"], "done", ""),
    ("migration-mission.yaml", "clean", &["safe-schema-change"], "done", ""),
    ("migration-paraphrased.txt", "clean", &["safe-schema-change"], "done", ""),
    ("migration-misspelt.txt", "clean", &["safe-schema-change"], "done", ""),
    ("migration-by-number.txt", "clean", &["safe-schema-change"], "done", ""),
    ("migration-all-pending.txt", "clean", &["safe-schema-change"], "done", ""),
    ("migration-all-pending.txt", "risky", &["safe-schema-change"], "waiting", ""),
    (
        "migration-unknown.txt",
        "clean",
        &[],
        "needs_clarification",
        "engineer: There is no migration `0099_from_nowhere`",
    ),
    (
        "migration-unwritten.txt",
        "clean",
        &[],
        "needs_clarification",
        "engineer: Which migration makes this change?",
    ),
    ("migration-plan-only.yaml", "clean", &["safe-schema-change"], "done", ""),
    ("migration-refused.txt", "refused", &["safe-schema-change"], "forbidden", ""),
    ("consistency-mission.yaml", "orphans", &["consistency-check"], "findings", ""),
    ("consistency-mission.yaml", "clean", &["consistency-check"], "done", ""),
    ("consistency-clean.yaml", "clean", &["consistency-check"], "done", ""),
    ("consistency-paraphrased.txt", "orphans", &["consistency-check"], "findings", ""),
    ("consistency-misspelt.txt", "orphans", &["consistency-check"], "findings", ""),
    ("consistency-only.txt", "clean", &["consistency-check"], "done", ""),
    ("consistency-store-by-table.txt", "two", &["consistency-check"], "done", ""),
    (
        "consistency-unknown-store.txt",
        "two",
        &[],
        "needs_clarification",
        "engineer: There is no store `payments`",
    ),
    (
        "consistency-no-store.txt",
        "two",
        &[],
        "needs_clarification",
        "engineer: Which store is to be checked?",
    ),
    ("consistency-server-down.txt", "down", &["consistency-check"], "failed", ""),
    ("two-jobs.md", "orphans", &["consistency-check", "safe-schema-change"], "findings", ""),
    ("two-jobs-one-sentence.txt", "clean", &["performance-review", "consistency-check"], "done", ""),
    ("two-jobs-one-waits.txt", "risky", &["consistency-check", "safe-schema-change"], "waiting", ""),
    ("ambiguous.txt", "clean", &[], "needs_clarification", "pm: What is to be done, and on which store?"),
    (
        "ambiguous-vague.yaml",
        "clean",
        &[],
        "needs_clarification",
        "pm: What is to be done, and on which store?",
    ),
    ("ambiguous-two-runbooks.txt", "clean", &["consistency-check"], "done", ""),
    ("out-of-scope-interface.txt", "clean", &[], "out_of_scope", "engineer"),
    ("out-of-scope-logic.md", "clean", &[], "out_of_scope", "engineer"),
    ("out-of-scope-tests.txt", "clean", &[], "out_of_scope", "qa"),
    ("out-of-scope-docs.txt", "clean", &[], "out_of_scope", "documentation"),
    ("out-of-scope-system.txt", "clean", &[], "out_of_scope", "ops"),
    ("out-of-scope-mixed.txt", "orphans", &["consistency-check"], "out_of_scope", "engineer"),
    ("escalated-retention.txt", "clean", &[], "escalated", "pm"),
    ("escalated-project.yaml", "clean", &[], "escalated", "pm"),
    ("backup-sentence.txt", "clean", &["backup"], "done", ""),
    ("backup-sentence.txt", "unprovable", &["backup"], "failed", ""),
    ("backup-mission.yaml", "clean", &["backup"], "done", ""),
    ("backup-mission.yaml", "lossy", &["backup"], "findings", ""),
    ("backup-paraphrased.txt", "clean", &["backup"], "done", ""),
    ("backup-misspelt.txt", "clean", &["backup"], "done", ""),
    ("backup-plan-only.txt", "clean", &["backup"], "done", ""),
    ("later-restore.txt", "clean", &[], "needs_clarification", "pm: `restore"),
    ("later-prune.txt", "clean", &[], "needs_clarification", "pm: `delete"),
    ("production-mission.yaml", "fit", &["production-shape"], "done", ""),
    ("production-mission.yaml", "unfit", &["production-shape"], "findings", ""),
    ("production-mission.yaml", "file", &["production-shape"], "findings", ""),
    ("production-sentence.txt", "fit", &["production-shape"], "done", ""),
    ("production-paraphrased.txt", "fit", &["production-shape"], "done", ""),
    ("production-misspelt.txt", "fit", &["production-shape"], "done", ""),
    ("production-plan-only.txt", "fit", &["production-shape"], "done", ""),
    ("production-health.txt", "fit", &["production-shape"], "done", ""),
    ("production-and-interface.md", "fit", &["production-shape"], "out_of_scope", "engineer"),
    ("slow-complaint.txt", "counting", &["performance-review"], "done", ""),
    ("slow-complaint.txt", "clean", &[], "needs_clarification", "engineer: Which queries are slow?"),
    ("slow-complaint-mission.yaml", "counting", &["performance-review"], "done", ""),
    ("slow-complaint-misspelt.txt", "counting", &["performance-review"], "done", ""),
    ("bloat-mission.yaml", "bloated", &["bloat"], "done", ""),
    ("bloat-mission.yaml", "swollen", &["bloat"], "findings", ""),
    ("bloat-mission.yaml", "file", &["bloat"], "failed", ""),
    ("bloat-paraphrased.txt", "bloated", &["bloat"], "done", ""),
    ("bloat-misspelt.txt", "bloated", &["bloat"], "done", ""),
    ("bloat-plan-only.yaml", "bloated", &["bloat"], "findings", ""),
    ("locks-mission.yaml", "stuck", &["lock-pile-up"], "waiting", ""),
    ("locks-mission.yaml", "clean", &["lock-pile-up"], "done", ""),
    ("locks-paraphrased.txt", "stuck", &["lock-pile-up"], "waiting", ""),
    ("locks-misspelt.txt", "stuck", &["lock-pile-up"], "waiting", ""),
    ("locks-claims-authority.md", "stuck", &["lock-pile-up"], "waiting", ""),
    ("storm-mission.yaml", "stormy", &["connection-storm"], "waiting", ""),
    ("storm-mission.yaml", "crowded", &["connection-storm"], "findings", ""),
    ("storm-paraphrased.txt", "crowded", &["connection-storm"], "findings", ""),
    ("storm-misspelt.txt", "stormy", &["connection-storm"], "waiting", ""),
    ("storm-own-age.yaml", "stormy", &["connection-storm"], "findings", ""),
    ("storm-wrong-age.yaml", "stormy", &[], "needs_clarification", "engineer: From which age on"),
    ("disk-mission.yaml", "full", &["disk-pressure"], "findings", ""),
    ("disk-mission.yaml", "clean", &["disk-pressure"], "done", ""),
    ("disk-paraphrased.txt", "full", &["disk-pressure"], "findings", ""),
    ("disk-misspelt.txt", "full", &["disk-pressure"], "findings", ""),
    ("disk-purge.txt", "clean", &[], "needs_clarification", "pm: `truncate"),
    ("two-troubles.txt", "stormy", &["disk-pressure", "connection-storm"], "waiting", ""),
    ("two-troubles-one-waits.md", "stuck", &["lock-pile-up", "consistency-check"], "waiting", ""),
    ("ambiguous-trouble.txt", "clean", &[], "needs_clarification", "pm: What is to be done"),
    ("out-of-scope-pool-size.txt", "clean", &[], "out_of_scope", "ops"),
    ("escalated-bigger-disk.txt", "clean", &[], "escalated", "pm"),
    ("uncomputable-check.yaml", "clean", &["inventory"], "findings", ""),
];

async fn run(file: &str, door: &FakeDoor) -> Report {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks").join(file);
    let text = Task::read_text(file, std::fs::File::open(path).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let defaults = Defaults::default();
    let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
    let request = RunTask { file: Some(file.into()), text: Some(text), ..RunTask::default() };
    let outcome =
        pm::run_task(&ctx(), door, room, &request).await.unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_json::from_value(outcome.value.into_value()).unwrap()
}

#[tokio::test]
async fn every_task_ends_as_the_truth_says() {
    let mut wrong = Vec::new();
    for (file, world, runbooks, status, part) in TASKS {
        let door = FakeDoor::new(World::named(world));
        let report = run(file, &door).await;
        let followed: Vec<&str> = report.runbooks.iter().map(|r| r.split('@').next().unwrap()).collect();
        if followed != *runbooks || report.status.as_str() != *status {
            wrong.push(format!(
                "{file} in {world}: {followed:?} {}\n{}",
                report.status.as_str(),
                report.to_markdown()
            ));
        }
        let said: Vec<String> = report
            .questions
            .iter()
            .map(|question| format!("{}: {}", question.ask, question.question))
            .chain(report.not_ours.iter().map(|other| other.owner.clone()))
            .collect();
        let honest =
            if part.is_empty() { said.is_empty() } else { said.iter().any(|text| text.contains(part)) };
        if !honest {
            wrong.push(format!("{file} in {world}: said {said:?}, not {part:?}"));
        }
        traced(file, &report, &door);
        let nothing_happens = ["needs_clarification", "escalated"].contains(status)
            || (*status == "out_of_scope" && runbooks.is_empty());
        if nothing_happens {
            assert!(
                door.log().iter().all(|(name, _)| !name.ends_with("create") && !name.ends_with("apply")),
                "{file}"
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let files: BTreeSet<&str> = TASKS.iter().map(|task| task.0).collect();
    let there = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks")).unwrap().count();
    assert_eq!(files.len(), there, "every file is in the table");
}

/// Every number in a finding and every observed value occurs in the evidence that is cited for it.
fn traced(file: &str, report: &Report, door: &FakeDoor) {
    let answers = |ids: &[String]| -> String {
        ids.iter().map(|id| door.evidence(id).unwrap_or_else(|| panic!("{file}: {id}")).to_string()).collect()
    };
    for reported in &report.findings {
        let evidence = answers(&reported.finding.evidence);
        for number in numbers(&reported.finding.title) {
            assert!(evidence.contains(&number), "{file}: {number} of `{}`", reported.finding.title);
        }
    }
    for accepted in &report.acceptance {
        assert_eq!(accepted.observed.is_null(), accepted.evidence.is_empty(), "{file}: {accepted:?}");
        assert!(!(accepted.observed.is_null() && accepted.pass), "{file}: {accepted:?}");
        // A count of nothing is an empty list in its evidence.
        if let Some(observed) = accepted.observed.as_f64().filter(|observed| *observed != 0.0) {
            let evidence = answers(&accepted.evidence);
            assert!(
                evidence.contains(&json!(observed).to_string().trim_end_matches(".0").to_owned()),
                "{file}: {accepted:?}"
            );
        }
    }
    for id in &report.evidence {
        assert!(door.evidence(id).is_some(), "{file}: {id}");
    }
}

fn numbers(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|part| part.trim_matches('.').to_owned())
        .filter(|part| !part.is_empty())
        .collect()
}

#[tokio::test]
async fn the_index_is_measured_before_and_after_and_its_findings_are_resolved() {
    let door = FakeDoor::new(World::named("clean"));
    let report = run("performance-mission.yaml", &door).await;
    let create = report.actions.iter().find(|action| action.request == "index.create").unwrap();
    assert_eq!(create.before, Some(json!({ "p95_ms": 83.4 })));
    assert_eq!(create.after.as_ref().map(|after| &after["p95_ms"]), Some(&json!(1.9)));
    assert!(report.findings.iter().all(|finding| finding.resolved), "{:?}", report.findings);
    assert_eq!(report.acceptance[0].observed, json!(1.9));
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test]
async fn an_escalated_slowness_is_closed_by_the_measurement_that_meets_the_objective() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks/performance-mission.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path()).await;
    let defaults = Defaults::default();
    let room = || Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
    let door = FakeDoor::new(World::named("clean"));
    let task = |text: String| RunTask { text: Some(text), ..RunTask::default() };
    let looked = text.replace("auto_allowed", "plan_only").replace("orders-lookup", "orders-looked-at");
    pm::run_task(&ctx(), &door, room(), &task(looked)).await.unwrap();
    let open = pm::list(&ctx(), &ledger, false).await.unwrap();
    assert_eq!((open.len(), &*open[0].trigger), (1, "performance_degradation"), "{open:?}");

    pm::run_task(&ctx(), &door, room(), &task(text)).await.unwrap();
    assert_eq!(pm::list(&ctx(), &ledger, false).await.unwrap(), []);
    let closed = pm::list(&ctx(), &ledger, true).await.unwrap();
    assert_eq!(closed[0].id, open[0].id);
    assert_eq!(closed[0].acknowledged_by.as_deref(), Some("steward"));
    assert!(closed[0].detail.contains("is met: 1.9 was measured"), "{closed:?}");
    let filter = ledger::EventFilter::project("demo").kind("escalation.acknowledged");
    let events = ledger.events(filter).await.unwrap();
    let body = events[0].body.as_ref().unwrap();
    assert!(body["reason"].as_str().unwrap().contains("1.9"), "{body}");
    assert!(!body["evidence"].as_array().unwrap().is_empty(), "{body}");
}

#[tokio::test]
async fn migrations_are_summed_up_for_whoever_must_agree() {
    let applied = run("migration-mission.yaml", &FakeDoor::new(World::named("clean"))).await;
    let states: Vec<&str> = applied.migrations.iter().map(|one| one.status.as_str()).collect();
    assert_eq!(states, ["done"], "what is applied speaks for itself");
    let waiting = run("migration-all-pending.txt", &FakeDoor::new(World::named("risky"))).await;
    assert!(waiting.migrations.iter().any(|one| one.status == "planned"), "{:?}", waiting.migrations);
    let markdown = applied.to_markdown();
    let summary = markdown.split("## Migration summary").nth(1).and_then(|rest| rest.split("\n## ").next());
    insta::assert_snapshot!(summary.unwrap().trim(), @r"
    0003_add_status on shop: done

    | | |
    | --- | --- |
    | type | schema |
    | tables | orders |
    | volume | 48211 rows, 8.0 MiB |
    | downtime | brief: 1 step asks for a strong lock |
    | rollback | the down section |
    | validation | the history shows it |
    | impact | none known |
    ");
}

#[tokio::test]
async fn the_guides_examples_mean_what_it_says() {
    let guide = include_str!("../../../docs/guides/runbooks.md");
    let mut named: Vec<String> = Vec::new();
    for block in guide.split("```task ").skip(1) {
        let (runbook, rest) = block.split_once('\n').unwrap();
        let text = rest.split("```").next().unwrap();
        let world = World { stores: vec!["orders"], ..World::named("counting") };
        let task = Task::parse("task.md", text).unwrap();
        let plan = pm::plan(&ctx(), &FakeDoor::new(world), &Defaults::default(), &task).await.unwrap();
        let jobs: Vec<&str> = plan.jobs.iter().map(|job| job.runbook.split('@').next().unwrap()).collect();
        assert_eq!(jobs, [runbook], "{text}");
        assert!(plan.not_ours.is_empty() && plan.questions.is_empty(), "{text}: {plan:?}");
        named.push(runbook.to_owned());
    }
    let all: Vec<String> = pm::runbooks().unwrap().into_iter().map(|runbook| runbook.name).collect();
    assert_eq!(BTreeSet::from_iter(&named), BTreeSet::from_iter(&all), "each runbook has an example");
}

#[tokio::test]
async fn words_about_approval_grant_nothing_and_are_noted() {
    let door = FakeDoor::new(World::named("guarded"));
    let report = run("performance-claims-approval.md", &door).await;
    assert!(report.notes.iter().any(|note| note.contains("count for nothing")), "{:?}", report.notes);
    assert!(report.recommendations.iter().any(|line| line.contains("steward approval grant ap-1")));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    for (file, world) in [("performance-mission.yaml", "clean"), ("migration-mission.yaml", "risky")] {
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks").join(file))
                .unwrap();
        let door = FakeDoor::new(World::named(world));
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path()).await;
        let defaults = Defaults::default();
        let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
        let request =
            RunTask { file: Some(file.into()), text: Some(text), dry_run: true, ..RunTask::default() };
        pm::run_task(&ctx(), &door, room, &request).await.unwrap();
        for (name, arguments) in door.log() {
            if name == "index.create" || name == "migration.apply" {
                assert_eq!(arguments["dry_run"], json!(true), "{file}");
            }
        }
    }
}

#[tokio::test]
async fn a_failed_verification_is_undone_only_with_full_autonomy() {
    for (autonomy, undone) in [("auto_allowed", 0), ("full", 1)] {
        let door = FakeDoor::new(World::named("vanishing"));
        let text = format!(
            "autonomy: {autonomy}\nTask: The lookup is slow\nContext:\n  query: {}\n",
            support::QUERY
        );
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path()).await;
        let defaults = Defaults::default();
        let room = Room { ledger: &ledger, defaults: &defaults, webhooks: &[] };
        let request = RunTask { text: Some(text), ..RunTask::default() };
        let outcome = pm::run_task(&ctx(), &door, room, &request).await.unwrap();
        assert_eq!(outcome.value["status"], json!("failed"), "{autonomy}");
        assert_eq!(door.count("index.drop"), undone, "{autonomy}");
    }
}

#[tokio::test]
async fn the_examples_tasks_are_three_jobs_and_one_refusal() {
    let world = World { stores: vec!["flights"], ..World::named("clean") };
    for (file, text) in [
        ("review.md", include_str!("../../../examples/flights/tasks/review.md")),
        ("review.yaml", include_str!("../../../examples/flights/tasks/review.yaml")),
    ] {
        let task = Task::parse(file, text).unwrap();
        let ctx = contract::Context::new("flights", contract::Actor::local());
        let plan = pm::plan(&ctx, &FakeDoor::new(world.clone()), &Defaults::default(), &task).await.unwrap();
        let jobs: Vec<&str> = plan.jobs.iter().map(|job| job.runbook.as_str()).collect();
        assert_eq!(jobs, ["performance-review@2", "consistency-check@1", "safe-schema-change@2"], "{file}");
        assert_eq!(plan.not_ours.len(), 1, "{file}: {:?}", plan.not_ours);
        assert_eq!(plan.not_ours[0].owner, "engineer", "{file}");
        assert_eq!(plan.questions, [], "{file}");
        let queries: Vec<&str> = plan.queries.keys().map(String::as_str).collect();
        assert_eq!(queries, ["fleet_history"], "{file}");
        let checks: Vec<String> = plan.acceptance.iter().map(|planned| planned.check.to_string()).collect();
        assert_eq!(checks, ["p95_ms(fleet_history) < 50", "migration.applied"], "{file}");
    }
}

#[tokio::test]
async fn reports_have_the_missions_shape() {
    let door = FakeDoor::new(World::named("orphans"));
    let report = run("consistency-mission.yaml", &door).await;
    let yaml: Value = serde_saphyr::from_str(&report.to_yaml()).unwrap();
    for heading in [
        "Status",
        "Findings",
        "Issues",
        "Recommendations",
        "Actions",
        "Acceptance",
        "Evidence",
        "Time",
        "Cost",
    ] {
        assert!(!yaml[heading].is_null(), "{heading}");
    }
    assert_eq!(yaml["Status"][0], json!("findings"));
    let markdown = report.to_markdown();
    let fenced = markdown.split("```json\n").nth(1).and_then(|rest| rest.split("\n```").next()).unwrap();
    let summary: Value = serde_json::from_str(fenced).unwrap();
    assert_eq!(summary["task_completed"], json!(false));
    let mut filtered = markdown.split("## Record").next().unwrap().to_owned();
    filtered = filtered.replace(&report.id, "[task]");
    insta::assert_snapshot!(filtered, @r"
    # Check the data consistency of the store; find rows that refer to nothing.

    Task `[task]`, project `demo`

    ## Status

    **findings**

    - Consistency check: 2 done
    - acceptance: 0 of 1 checks passed

    ## Findings

    - critical: 12 rows of `order_items` refer to an order that does not exist [ev-0003]

    ## Issues

    - 12 rows of `order_items` refer to an order that does not exist
    - `orphans(order_items.order_id) == 0` did not pass: observed 12

    ## Recommendations

    - look at order_items.order_id

    ## Actions

    | step | request | about | status | decision | before | after | evidence |
    | --- | --- | --- | --- | --- | --- | --- | --- |
    | inspect | store.inspect | shop | done | permitted by own |  |  | ev-0002 |
    | orphans | store.consistency | shop | done | permitted by own |  |  | ev-0003 |

    ## Acceptance

    | check | expected | observed | result | evidence |
    | --- | --- | --- | --- | --- |
    | orphans(order_items.order_id) == 0 | 0 | 12 | failed | ev-0003 |
    ");
}
