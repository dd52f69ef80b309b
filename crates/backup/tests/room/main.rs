//! What the room promises when dumps, repositories, copies and processes fail.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod age;
mod copies;
mod world;

use backup::{
    AcceptBackup, Level, ListBackups, PlanConfig, Probe, PruneBackups, Recorded, RestoreBackup, RestoreTo,
    Retention, RunBackup, ShowBackup, ShowPlans, Surroundings as _, VerifyBackup,
};
use contract::{Error, ErrorKind, Outcome, Severity, Trigger};
use serde_json::json;
use world::{Fault, World};

async fn run(world: &World, plan: &str) -> Result<Outcome, Error> {
    let request = RunBackup { plan: plan.into(), verify: None };
    let (plan, _) = backup::plan_run(&world.ctx(), world, &request).await?;
    let permit = world.permit("backup.run", &plan);
    backup::run(&world.ctx(), world, &permit, &plan, &request).await
}

async fn verify(world: &World, backup: &str, level: Option<Level>) -> Result<Outcome, Error> {
    let request = VerifyBackup { backup: backup.into(), level, from: None };
    let plan = backup::plan_verify(&world.ctx(), world, &request).await?;
    let permit = world.permit("backup.verify", &plan);
    backup::verify(&world.ctx(), world, &permit, &plan, &request).await
}

async fn restore(world: &World, request: RestoreBackup) -> Result<Outcome, Error> {
    let plan = backup::plan_restore(&world.ctx(), world, &request).await?;
    let permit = world.permit("backup.restore", &plan);
    backup::restore(&world.ctx(), world, &permit, &plan, &request).await
}

fn whole(to: RestoreTo) -> RestoreBackup {
    let name = (to == RestoreTo::Beside).then(|| "copy".to_owned());
    RestoreBackup {
        backup: "shop".into(),
        to,
        until: None,
        timeline: None,
        end_sessions: false,
        name,
        schema: None,
        tables: Vec::new(),
        from: None,
        accept_unsigned: false,
    }
}

async fn recorded(world: &World) -> Vec<Recorded> {
    let listed = backup::list(&world.ctx(), world, &ListBackups::default()).await.unwrap();
    serde_json::from_value(listed.value["backups"].clone()).unwrap()
}

fn codes(outcome: &Outcome) -> Vec<&str> {
    outcome.findings.iter().map(|finding| finding.code.as_str()).collect()
}

#[tokio::test]
async fn a_backup_is_restored_and_compared_before_it_counts() {
    let world = World::new().await;
    let before = backup::list(&world.ctx(), &world, &ListBackups::default()).await.unwrap();
    assert_eq!(codes(&before), ["backup_missing"]);
    let made = run(&world, "shop").await.unwrap();
    assert!(made.text.contains("1,003 rows in 2 tables: all as dumped"), "{}", made.text);
    let known = recorded(&world).await;
    assert_eq!((known[0].level, known[0].rows, known[0].problem.as_deref()), (Level::L3, Some(1_003), None));
    assert_eq!((world.copies(), world.scratch_left()), (vec![], vec![]), "nothing is left of the copy");
    let after = backup::list(&world.ctx(), &world, &ListBackups::default()).await.unwrap();
    assert_eq!(codes(&after), [""; 0]);
    // The objective is 25 hours.
    world.advance_s(25 * 3_600 + 1);
    let old = backup::list(&world.ctx(), &world, &ListBackups::default()).await.unwrap();
    assert_eq!(codes(&old), ["backup_too_old"], "{}", old.text);
    assert_eq!(old.value["stores"][0]["rpo_s"], json!(90_001));
    let shown = backup::show(&world.ctx(), &world, &ShowBackup { backup: "shop".into() }).await.unwrap();
    assert_eq!(shown.value["manifest"]["dumped"]["tables"][0]["table"], "orders", "{}", shown.text);
}

#[tokio::test]
async fn a_dump_a_repository_or_a_record_that_fails_leaves_no_backup() {
    for fault in [Fault::Dump, Fault::Put, Fault::Commit] {
        let world = World::new().await;
        world.fail(&[fault]);
        let error = run(&world, "shop").await.unwrap_err();
        assert_eq!(error.message(), format!("told to fail: {fault:?}"));
        let known = recorded(&world).await;
        assert_eq!(known.len(), 1, "{fault:?}");
        assert_eq!((known[0].state, known[0].level), (backup::State::Failed, Level::None), "{fault:?}");
        assert_eq!(known[0].problem.as_deref(), Some(error.message()));
        assert_eq!((world.snapshots(), world.scratch_left()), (0, vec![]), "{fault:?}");
        assert_eq!(world.abandoned(), u32::from(fault != Fault::Commit), "{fault:?}");
        for name in ["shop", &known[0].id] {
            let error =
                restore(&world, RestoreBackup { backup: name.into(), ..whole(RestoreTo::Scratch) }).await;
            let expected = if name == "shop" { ErrorKind::NotFound } else { ErrorKind::Conflict };
            assert_eq!(error.unwrap_err().kind(), expected, "{fault:?}");
        }
        world.fail(&[]);
        assert_eq!(
            codes(&run(&world, "shop").await.unwrap()),
            [""; 0],
            "the next one is as if nothing had been"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_copy_is_wrong_with_the_backup() {
    for (fault, said) in [
        (Fault::Row, "orders has 999 rows instead of 1,000"),
        (Fault::Value, "orders has as many rows as were dumped, and not the same"),
        (Fault::Schema, "the index orders_by_day is not there"),
        (Fault::Part, "other bytes than were written"),
    ] {
        let world = World::new().await;
        world.fail(&[fault]);
        let made = run(&world, "shop").await.unwrap();
        assert_eq!(codes(&made), ["backup_damaged"], "{fault:?}: {}", made.text);
        assert_eq!(made.findings[0].escalate, Some(Trigger::BackupFailure));
        assert!(made.findings[0].title.contains(said), "{}", made.findings[0].title);
        let known = recorded(&world).await;
        assert_eq!(known[0].level, Level::L0, "{fault:?}");
        assert!(known[0].problem.as_ref().unwrap().contains(said));
        let newest = backup::newest_proven(&world.ctx(), backup::Surroundings::ledger(&world), "shop").await;
        assert_eq!(newest.unwrap(), None, "{fault:?}: it proves nothing");
        assert_eq!((world.copies(), world.scratch_left()), (vec![], vec![]), "{fault:?}");
        // A look that finds it sound again says so: the machine's memory may have been at fault.
        world.fail(&[]);
        verify(&world, "shop", None).await.unwrap();
        assert_eq!(recorded(&world).await[0].level, Level::L3);
    }
}

#[tokio::test]
async fn a_backup_that_was_proven_and_is_damaged_later_proves_nothing_any_more() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    world.fail(&[Fault::Part]);
    let found = verify(&world, "shop", Some(Level::L2)).await.unwrap();
    assert_eq!(codes(&found), ["backup_damaged"], "{}", found.text);
    let newest = backup::newest_proven(&world.ctx(), backup::Surroundings::ledger(&world), "shop").await;
    assert_eq!(newest.unwrap(), None);
}

#[tokio::test]
async fn a_repository_that_is_away_is_an_error_and_no_verdict() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    world.fail(&[Fault::Load]);
    assert_eq!(verify(&world, "shop", None).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(recorded(&world).await[0].level, Level::L3, "what was known stays");
}

#[tokio::test]
async fn without_a_program_to_restore_with_a_backup_stays_unproven() {
    let world = World::new().await;
    world.fail(&[Fault::NoTool]);
    let made = run(&world, "shop").await.unwrap();
    assert_eq!(codes(&made), ["backup_unproven"]);
    assert!(made.text.contains("restorable: unproven (no server program is there)"), "{}", made.text);
    assert_eq!(recorded(&world).await[0].level, Level::L2);
    let listed = backup::list(&world.ctx(), &world, &ListBackups::default()).await.unwrap();
    assert_eq!(codes(&listed), ["backup_missing"], "{}", listed.text);
}

#[tokio::test]
async fn only_what_no_rule_keeps_is_deleted_and_only_as_it_was_approved() {
    let mut world = World::new().await;
    let mut plan = PlanConfig::of_store("shop");
    plan.keep =
        Retention { within_hours: 1, hourly: 0, daily: 2, weekly: 0, monthly: 0, yearly: 0, ..plan.keep };
    plan.keep.verified_min = 1;
    world.plan("nightly", plan);
    for _ in 0..5 {
        run(&world, "nightly").await.unwrap();
        world.advance_s(24 * 3_600);
    }
    let request = PruneBackups::default();
    let plan = backup::plan_prune(&world.ctx(), &world, &request).await.unwrap();
    assert!(plan.destructive() && !plan.reversible());
    let (oldest, newest) = (&recorded(&world).await[4].id, &recorded(&world).await[0].id);
    assert_eq!(plan.steps.len(), 3, "{plan:#?}");
    assert!(plan.steps[0].title.contains(oldest.as_str()), "{}", plan.steps[0].title);
    let permit = world.permit("backup.delete", &plan);
    // One more, and the rules would delete four.
    run(&world, "nightly").await.unwrap();
    let error = backup::prune(&world.ctx(), &world, &permit, &plan, &request).await.unwrap_err();
    assert_eq!((error.kind(), world.snapshots()), (ErrorKind::Conflict, 6), "{error}");
    let plan = backup::plan_prune(&world.ctx(), &world, &request).await.unwrap();
    let permit = world.permit("backup.delete", &plan);
    backup::prune(&world.ctx(), &world, &permit, &plan, &request).await.unwrap();
    assert_eq!(world.snapshots(), 2);
    let known = recorded(&world).await;
    assert_eq!(known.iter().filter(|backup| backup.state == backup::State::Forgotten).count(), 4);
    let error = restore(&world, RestoreBackup { backup: oldest.clone(), ..whole(RestoreTo::Scratch) })
        .await
        .unwrap_err();
    assert!(error.message().contains("deleted under the retention rules"), "{error}");
    restore(&world, RestoreBackup { backup: newest.clone(), ..whole(RestoreTo::Scratch) }).await.unwrap();
    // After one that is odd nothing is deleted, however old the others are.
    world.fill("orders", 0);
    world.advance_s(40 * 24 * 3_600);
    run(&world, "nightly").await.unwrap();
    let frozen = backup::plan_prune(&world.ctx(), &world, &request).await.unwrap();
    assert_eq!(frozen.steps, [], "{}", frozen.summary);
    assert_eq!(backup::prune_warnings(&frozen)[0].code, "backup_retention_frozen", "{}", frozen.summary);
}

/// Two plans of one store, each of which keeps its newest backup alone.
async fn of_two_plans() -> World {
    let mut world = World::new().await;
    for name in ["nightly", "hourly"] {
        let mut plan = PlanConfig::of_store("shop");
        plan.keep =
            Retention { within_hours: 0, hourly: 0, daily: 1, weekly: 0, monthly: 0, yearly: 0, ..plan.keep };
        plan.keep.verified_min = 1;
        world.plan(name, plan);
    }
    world
}

async fn doomed(world: &World) -> usize {
    backup::plan_prune(&world.ctx(), world, &PruneBackups::default()).await.unwrap().steps.len()
}

async fn accept(world: &World, backup: &str) -> Result<Outcome, Error> {
    let request = AcceptBackup { backup: backup.into() };
    let plan = backup::plan_accept(&world.ctx(), world, &request).await?;
    let permit = world.permit("backup.delete", &plan);
    backup::accept(&world.ctx(), world, &permit, &plan, &request).await
}

async fn rebuild(world: &World) -> Outcome {
    let request = backup::RebuildCatalog::default();
    let plan = backup::plan_rebuild(&world.ctx(), world, &request).unwrap();
    let permit = world.permit("backup.configure", &plan);
    backup::rebuild(&world.ctx(), world, &permit, &plan, &request).await.unwrap()
}

#[tokio::test]
async fn what_is_suspicious_freezes_retention_until_a_person_has_accepted_it() {
    let world = of_two_plans().await;
    for plan in ["nightly", "hourly", "nightly", "hourly"] {
        run(&world, plan).await.unwrap();
        world.advance_s(24 * 3_600);
    }
    assert_eq!(doomed(&world).await, 2);
    world.fill("orders", 0);
    for night in 0..3 {
        let made = run(&world, "nightly").await.unwrap();
        assert_eq!(codes(&made), ["backup_suspicious"], "night {night}: {}", made.text);
        assert!(made.findings[0].title.contains("orders (had 1,000 rows)"), "{}", made.findings[0].title);
        world.advance_s(24 * 3_600);
        assert_eq!(doomed(&world).await, 0, "night {night}, also of the other plan");
    }
    // Nor does a damaged one that is odd, nor rows that are back, end it.
    world.fill("orders", 1_000);
    assert_eq!(codes(&run(&world, "hourly").await.unwrap()), [""; 0]);
    world.advance_s(24 * 3_600);
    assert_eq!(doomed(&world).await, 0);
    let odd: Vec<Recorded> = recorded(&world).await.into_iter().filter(Recorded::is_suspicious).collect();
    assert_eq!(odd.len(), 3);
    // What was read is what is accepted.
    let request = AcceptBackup { backup: "shop".into() };
    let plan = backup::plan_accept(&world.ctx(), &world, &request).await.unwrap();
    assert_eq!((plan.steps.len(), plan.destructive()), (3, false));
    assert!(plan.steps[0].title.contains("empty now: orders (had 1,000 rows)"), "{}", plan.steps[0].title);
    let permit = world.permit("backup.delete", &plan);
    world.fill("orders", 0);
    run(&world, "nightly").await.unwrap();
    let error = backup::accept(&world.ctx(), &world, &permit, &plan, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(doomed(&world).await, 0);
    // The first of them: those behind it are still to be looked at.
    accept(&world, &odd[2].id).await.unwrap();
    assert_eq!(recorded(&world).await.iter().filter(|it| it.is_suspicious()).count(), 3);
    assert_eq!(doomed(&world).await, 0);
    let accepted = accept(&world, "shop").await.unwrap();
    assert_eq!(accepted.value["accepted"].as_array().unwrap().len(), 3, "{}", accepted.text);
    assert_eq!(accept(&world, "shop").await.unwrap().value["accepted"], json!([]));
    assert_ne!(doomed(&world).await, 0);
    // From now on the empty table is how it should be.
    world.advance_s(24 * 3_600);
    assert_eq!(codes(&run(&world, "nightly").await.unwrap()), [""; 0]);
    assert_ne!(doomed(&world).await, 0);
}

#[tokio::test]
async fn what_is_suspicious_is_so_after_the_list_was_made_anew() {
    let mut world = of_two_plans().await;
    run(&world, "nightly").await.unwrap();
    for _ in 0..2 {
        world.advance_s(24 * 3_600);
        world.fill("orders", 0);
        run(&world, "nightly").await.unwrap();
    }
    world.lose_the_state().await;
    let taken = rebuild(&world).await;
    assert_eq!(codes(&taken), ["backup_suspicious"; 2], "{}", taken.text);
    assert_eq!(taken.findings[0].escalate, Some(Trigger::DataLossRisk));
    let odd: Vec<bool> = recorded(&world).await.iter().map(Recorded::is_suspicious).collect();
    assert_eq!(odd, [true, true, false], "the newest first");
    world.advance_s(24 * 3_600);
    assert_eq!(codes(&run(&world, "nightly").await.unwrap()), ["backup_suspicious"]);
    assert_eq!(doomed(&world).await, 0);
}

/// As a copy of a server's files: what is in the tables is seen by whoever starts it.
#[tokio::test]
async fn rows_that_only_the_restored_copy_shows_are_missed_there() {
    let world = of_two_plans().await;
    world.fail(&[Fault::Blind]);
    let first = run(&world, "nightly").await.unwrap();
    assert_eq!(codes(&first), [""; 0], "{}", first.text);
    world.advance_s(60);
    // One that nobody has looked at says nothing, and the next is compared past it.
    let request = RunBackup { plan: "nightly".into(), verify: Some(Level::L1) };
    let (plan, _) = backup::plan_run(&world.ctx(), &world, &request).await.unwrap();
    let permit = world.permit("backup.run", &plan);
    world.fill("orders", 0);
    let blind = backup::run(&world.ctx(), &world, &permit, &plan, &request).await.unwrap();
    assert_eq!(codes(&blind), [""; 0], "{}", blind.text);
    world.advance_s(60);
    world.drop_table("orders");
    let odd = run(&world, "nightly").await.unwrap();
    assert_eq!(codes(&odd), ["backup_suspicious"], "{}", odd.text);
    assert_eq!(odd.findings[0].escalate, Some(Trigger::DataLossRisk));
    assert!(odd.findings[0].title.contains("no longer there: orders (had 1,000 rows)"), "{}", odd.text);
    let known = recorded(&world).await;
    assert_eq!(known[0].suspicions, ["no longer there: orders (had 1,000 rows)"]);
    let unseen = known[1].id.clone();
    // Looked at later, it is as odd.
    let looked = verify(&world, &unseen, None).await.unwrap();
    assert_eq!(codes(&looked), ["backup_suspicious"], "{}", looked.text);
    assert!(looked.text.contains("empty now: orders (had 1,000 rows)"), "{}", looked.text);
    assert_eq!(codes(&verify(&world, &unseen, None).await.unwrap()), [""; 0], "it is known by now");
    assert_eq!(recorded(&world).await[1].suspicions.len(), 1);
    accept(&world, "shop").await.unwrap();
    verify(&world, &unseen, None).await.unwrap();
    assert!(!recorded(&world).await.iter().any(Recorded::is_suspicious), "what was accepted stays so");
    world.advance_s(60);
    assert_eq!(codes(&run(&world, "nightly").await.unwrap()), [""; 0]);
}

#[tokio::test]
async fn a_clock_that_jumped_forward_deletes_nothing_until_the_machine_ran_as_long() {
    let world = of_two_plans().await;
    world.runs_for("one", 1_000);
    for _ in 0..2 {
        run(&world, "nightly").await.unwrap();
        world.advance_s(24 * 3_600);
        world.runs_for("one", 1_000 + 24 * 3_600);
    }
    let prune = async || {
        let request = PruneBackups::default();
        let plan = backup::plan_prune(&world.ctx(), &world, &request).await.unwrap();
        let permit = world.permit("backup.delete", &plan);
        backup::prune(&world.ctx(), &world, &permit, &plan, &request).await
    };
    // The machine ran for a day, the clock for two: so far only the second day is too much.
    let error = prune().await.unwrap_err();
    assert_eq!((error.kind(), world.snapshots()), (ErrorKind::Conflict, 2), "{error}");
    assert!(error.message().contains("the clock went further than the machine ran"), "{error}");
    // A backup in between proves nothing, and an hour before the time it is still refused.
    world.advance_s(47 * 3_600);
    world.runs_for("one", 1_000 + 71 * 3_600);
    run(&world, "hourly").await.unwrap();
    assert_eq!(prune().await.unwrap_err().kind(), ErrorKind::Conflict);
    world.advance_s(3_600);
    world.runs_for("one", 1_000 + 72 * 3_600);
    prune().await.unwrap();
    assert_eq!(world.snapshots(), 2);
    // After another start the clock is all there is.
    world.advance_s(200 * 3_600);
    world.runs_for("two", 5);
    prune().await.unwrap();
}

#[tokio::test]
async fn plans_say_what_stands_in_the_way() {
    let world = World::new().await;
    let shown = backup::show_plans(&world.ctx(), &world, &ShowPlans::default()).await.unwrap();
    let lamps = &shown.value["plans"][0]["stores"][0]["lamps"];
    assert_eq!((&lamps[4]["lamp"], &lamps[4]["on"]), (&json!("0 errors"), &json!(false)), "{}", shown.text);
    run(&world, "shop").await.unwrap();
    let shown = backup::show_plans(&world.ctx(), &world, &ShowPlans::default()).await.unwrap();
    assert_eq!(shown.value["plans"][0]["stores"][0]["lamps"][4]["on"], true, "{}", shown.text);
    assert_eq!(shown.value["plans"][0]["stores"][0]["lamps"][3]["why"], "local: it is a test");
}

#[tokio::test]
async fn the_manifest_of_another_backup_is_refused() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    world.advance_s(60);
    run(&world, "shop").await.unwrap();
    world.fail(&[Fault::Manifest]);
    let error = restore(&world, whole(RestoreTo::Scratch)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn rows_that_vanished_and_another_database_are_told_at_once() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    world.advance_s(60);
    world.fill("orders", 0);
    let emptied = run(&world, "shop").await.unwrap();
    assert_eq!(codes(&emptied), ["backup_suspicious"], "{}", emptied.text);
    assert_eq!(emptied.findings[0].escalate, Some(Trigger::DataLossRisk));
    assert_eq!(emptied.findings[0].severity, Severity::Critical);
    assert!(emptied.findings[0].title.contains("orders (had 1,000 rows)"), "{}", emptied.findings[0].title);
    world.advance_s(60);
    world.become_another();
    let moved = run(&world, "shop").await.unwrap();
    assert!(moved.findings[0].title.contains("of another database"), "{}", moved.findings[0].title);
}

#[tokio::test]
async fn probes_are_asked_of_the_copy() {
    let mut world = World::new().await;
    let mut plan = PlanConfig::of_store("shop");
    plan.verify.level = Level::L4;
    plan.verify.probes = vec![Probe { store: "shop".into(), sql: "orders".into() }];
    world.plan("nightly", plan.clone());
    plan.verify.probes.push(Probe { store: "shop".into(), sql: "nothing".into() });
    world.plan("strict", plan);
    let made = run(&world, "nightly").await.unwrap();
    assert!(made.text.contains("probes answered"), "{}", made.text);
    assert_eq!(recorded(&world).await[0].level, Level::L4);
    let strict = run(&world, "strict").await.unwrap();
    assert_eq!(codes(&strict), ["backup_damaged"]);
    assert!(
        strict.findings[0].title.contains("the probe `nothing` is not true"),
        "{}",
        strict.findings[0].title
    );
}

#[tokio::test]
async fn a_restore_into_scratch_or_beside_touches_nothing_else() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    world.fill("orders", 7);
    let now = world.tables();
    let scratch = restore(&world, whole(RestoreTo::Scratch)).await.unwrap();
    let beside = restore(&world, whole(RestoreTo::Beside)).await.unwrap();
    assert_eq!(world.tables(), now);
    let address = scratch.value["address"].as_str().unwrap();
    assert!(std::path::Path::new(address).join("copy").is_file(), "it is left for whoever asked");
    assert_eq!(beside.value["address"], "copy");
    assert_eq!(world.copies().len(), 2);
}

#[tokio::test]
async fn in_place_comes_only_what_was_compared_and_after_a_safety_backup() {
    let world = World::new().await;
    let good = world.tables();
    run(&world, "shop").await.unwrap();
    world.advance_s(60);
    world.fill("orders", 900);
    let now = world.tables();
    let backup = recorded(&world).await[0].id.clone();
    let request = RestoreBackup { backup, ..whole(RestoreTo::InPlace) };
    for (fault, kind) in [
        (Fault::Row, ErrorKind::Corrupt),
        (Fault::Part, ErrorKind::Corrupt),
        (Fault::Load, ErrorKind::Unavailable),
        (Fault::Swap, ErrorKind::Unavailable),
        (Fault::Dump, ErrorKind::Unavailable),
    ] {
        world.fail(&[fault]);
        let error = restore(&world, request.clone()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?}: {error}");
        assert_eq!(world.tables(), now, "{fault:?}: the store is as it was");
        assert_eq!(world.copies(), [""; 0], "{fault:?}: no copy is left");
    }
    world.fail(&[]);
    let done = restore(&world, request).await.unwrap();
    assert_eq!(world.tables(), good);
    let safety = done.value["safety_backup"].as_str().unwrap().to_owned();
    let back = RestoreBackup { backup: safety, ..whole(RestoreTo::InPlace) };
    restore(&world, back).await.unwrap();
    assert_eq!(world.tables(), now, "the safety backup holds what was there");
}

#[tokio::test]
async fn in_place_is_destructive_and_bound_to_one_backup_and_one_store() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    let request = whole(RestoreTo::InPlace);
    let plan = backup::plan_restore(&world.ctx(), &world, &request).await.unwrap();
    assert_eq!((plan.destructive(), plan.target.as_str()), (true, "store:shop"));
    assert_eq!(plan.predicted["warnings"], json!([]));
    assert!(plan.predicted["forecast_ms"].is_number(), "{}", plan.predicted);
    let harmless = backup::plan_restore(&world.ctx(), &world, &whole(RestoreTo::Scratch)).await.unwrap();
    assert!(!harmless.destructive());
    for (to, kind) in [(RestoreTo::InPlace, ErrorKind::Unsupported), (RestoreTo::Scratch, ErrorKind::Invalid)]
    {
        let ends = RestoreBackup { end_sessions: true, ..whole(to) };
        let error = backup::plan_restore(&world.ctx(), &world, &ends).await.unwrap_err();
        assert_eq!(error.kind(), kind, "this store has no sessions: {error}");
    }
    let permit = world.permit("backup.restore", &plan);
    let now = world.tables();
    world.become_another();
    let other = backup::plan_restore(&world.ctx(), &world, &request).await.unwrap();
    let said = "the backup is of another database, fake:shop, than the one that is at fake:shop now";
    assert_eq!(other.predicted["warnings"], json!([said]));
    assert!(other.steps.last().unwrap().title.ends_with(said), "{:#?}", other.steps);
    let error = backup::restore(&world.ctx(), &world, &permit, &plan, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    world.advance_s(60);
    run(&world, "shop").await.unwrap();
    let permit = world.permit("backup.restore", &plan);
    let error = backup::restore(&world.ctx(), &world, &permit, &plan, &request).await.unwrap_err();
    assert!(error.message().contains("another backup is the newest"), "{error}");
    let other = world.permit("backup.restore", &harmless);
    let error = backup::restore(&world.ctx(), &world, &other, &plan, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert_eq!(world.tables(), now);
}

#[tokio::test]
async fn arguments_that_do_not_go_together_are_refused_with_the_argument() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    for (request, named) in [
        (RestoreBackup { name: Some("x".into()), ..whole(RestoreTo::Scratch) }, "name"),
        (RestoreBackup { name: None, ..whole(RestoreTo::Beside) }, "name"),
        (RestoreBackup { tables: vec!["orders".into()], ..whole(RestoreTo::InPlace) }, "to"),
        (
            RestoreBackup {
                schema: Some("s".into()),
                tables: vec!["orders".into()],
                ..whole(RestoreTo::Scratch)
            },
            "schema",
        ),
    ] {
        let error = restore(&world, request).await.unwrap_err();
        assert_eq!(error.context(), [("argument", named.to_owned())], "{error}");
    }
    let unknown = RestoreBackup { tables: vec!["order".into()], ..whole(RestoreTo::Scratch) };
    let error = restore(&world, unknown).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("orders, teams"), "{error}");
    let error = run(&world, "shpo").await.unwrap_err();
    assert_eq!((error.kind(), error.hint_text()), (ErrorKind::NotFound, Some("there are: shop")));
}

#[tokio::test]
async fn rot_is_found_in_what_nobody_restores() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    world.fail(&[Fault::Rot]);
    assert_eq!(
        codes(&run(&world, "shop").await.unwrap()),
        [""; 0],
        "today's share was read back by the first run"
    );
    world.advance_s(24 * 3_600);
    let made = run(&world, "shop").await.unwrap();
    assert_eq!(codes(&made), ["backup_damaged", "repository_damaged"], "{}", made.text);
    assert!(made.findings.iter().all(|it| it.escalate == Some(Trigger::BackupFailure)), "{}", made.text);
    let known = recorded(&world).await;
    let damaged: Vec<bool> = known.iter().map(|backup| backup.problem.is_some()).collect();
    assert_eq!(damaged, [false, false, true], "the newest first; only the oldest needs the bytes");
}

async fn drill(world: &World, ctx: &contract::Context, lose: backup::Loss) -> Result<Outcome, Error> {
    let request = backup::DrillBackup { subject: Some("shop".into()), lose, with_recovery_key: false };
    let plan = backup::plan_drill(&world.ctx(), world, &request)?;
    let permit = world.permit("backup.verify", &plan);
    backup::drill(ctx, world, &permit, &plan, &request, None).await
}

/// What a copy lacks, a load that fails, a repository that lies: the drill says so, and nothing of it is left.
#[tokio::test]
async fn a_drill_that_fails_is_a_finding_with_a_receipt_and_leaves_nothing() {
    for (fault, said) in [
        (Fault::Row, "orders has 999 rows instead of 1,000"),
        (Fault::Schema, "the index orders_by_day is not there"),
        (Fault::Part, "other bytes than were written"),
        (Fault::Load, "told to fail: Load"),
        (Fault::Manifest, "no such backup"),
    ] {
        let world = World::new().await;
        run(&world, "shop").await.unwrap();
        let before = world.tables();
        world.fail(&[fault]);
        let played = drill(&world, &world.ctx(), backup::Loss::Database).await.unwrap();
        assert_eq!(codes(&played), ["drill_failed"], "{fault:?}: {}", played.text);
        assert_eq!(played.findings[0].escalate, Some(Trigger::BackupFailure));
        let receipts = backup::drills(&world.ctx(), world.ledger(), Some("shop"), 10).await.unwrap();
        assert!(receipts[0].problem.as_ref().unwrap().contains(said), "{fault:?}: {receipts:?}");
        assert_eq!((world.scratch_left(), world.copies()), (vec![], vec![]), "{fault:?}");
        assert_eq!(world.tables(), before, "the source is not touched");
        world.fail(&[]);
        let played = drill(&world, &world.ctx(), backup::Loss::Database).await.unwrap();
        assert_eq!(codes(&played), [""; 0], "{fault:?}: {}", played.text);
    }
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    world.fail(&[Fault::NoTool]);
    let untried = drill(&world, &world.ctx(), backup::Loss::Database).await.unwrap();
    assert_eq!(codes(&untried), ["drill_not_tried"], "{}", untried.text);
}

#[tokio::test]
async fn a_drill_that_is_canceled_leaves_a_receipt_and_nothing_else() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    let ctx = world.ctx();
    ctx.cancellation().cancel();
    let result = drill(&world, &ctx, backup::Loss::Database).await;
    let receipts = backup::drills(&world.ctx(), world.ledger(), Some("shop"), 10).await.unwrap();
    assert_eq!(receipts.len(), 1, "{result:?}");
    assert_eq!((world.scratch_left(), world.copies()), (vec![], vec![]));
}

/// A repository in which somebody else writes is read all the same.
#[tokio::test]
async fn the_list_is_made_anew_and_says_what_is_not_there() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    let same = rebuild(&world).await;
    assert_eq!((codes(&same), &same.value["known"]), (vec![], &json!(1)), "{}", same.text);
}
