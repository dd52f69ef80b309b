//! How old backups are, whatever the clock said; how many of them succeeded.

use backup::{ListBackups, Objectives, PlanConfig, RestoreTo, Surroundings as _};
use contract::{Outcome, Severity, Trigger};
use serde_json::{Value, json};

use crate::world::{Fault, World};
use crate::{codes, recorded, run, whole};

const DAY_S: i64 = 86_400;

async fn list(world: &World) -> Outcome {
    backup::list(&world.ctx(), world, &ListBackups::default()).await.unwrap()
}

/// Makes a backup of the store and gives its id.
async fn made(world: &World) -> String {
    let made = run(world, "shop").await.unwrap();
    made.value["backups"][0]["backup"]["id"].as_str().unwrap().to_owned()
}

/// The backup that a restore of the store would take.
async fn restored(world: &World) -> String {
    backup::plan_restore(&world.ctx(), world, &whole(RestoreTo::Scratch)).await.unwrap().target
}

#[tokio::test]
async fn a_backup_that_a_wrong_clock_dated_is_no_measure_of_age_and_the_last_one_is_restored() {
    let world = World::new().await;
    let before = made(&world).await;
    world.advance_s(2 * DAY_S);
    let ahead = made(&world).await;
    world.advance_s(90 - 2 * DAY_S);
    let listed = list(&world).await;
    assert_eq!(codes(&listed), ["backup_from_the_future"], "{}", listed.text);
    assert!(listed.findings[0].title.contains(&ahead), "{}", listed.findings[0].title);
    let store = &listed.value["stores"][0];
    assert_eq!((&store["rpo_s"], &store["proven"]), (&json!(90), &json!(before)), "{store:#}");
    assert_eq!(store["runs_30d"], 1, "{store:#}");
    // It is what was made last, and so holds the newest state.
    assert_eq!(restored(&world).await, format!("backup:{ahead}"));
    let after = made(&world).await;
    assert_eq!(restored(&world).await, format!("backup:{after}"));
    let store = &list(&world).await.value["stores"][0].clone();
    assert_eq!((&store["rpo_s"], &store["proven"]), (&json!(0), &json!(after)), "{store:#}");
    // Without a clock that is right again, the same one would be too old.
    world.advance_s(DAY_S + 3_601);
    assert_eq!(codes(&list(&world).await), ["backup_from_the_future", "backup_too_old"]);
    // Once its date has come, it is a backup like the others.
    world.advance_s(DAY_S);
    let listed = list(&world).await;
    assert_eq!(codes(&listed), [""; 0], "{}", listed.text);
    assert_eq!(listed.value["stores"][0]["proven"], json!(ahead));
}

#[tokio::test]
async fn a_declared_store_that_never_gets_a_proven_backup_is_escalated() {
    let mut world = World::new().await;
    world.fail(&[Fault::Put]);
    run(&world, "shop").await.unwrap_err();
    world.advance_s(25 * 3_600 + 1);
    let severity = |listed: &Outcome| (listed.findings[0].severity, listed.findings[0].escalate);
    let listed = list(&world).await;
    assert_eq!(codes(&listed), ["backup_missing"]);
    assert_eq!(severity(&listed), (Severity::Warning, None), "nobody has asked for backups of it");
    let objectives = Objectives { rpo_minutes: 25 * 60 + 1, ..Objectives::default() };
    world.plan("nightly", PlanConfig { objectives, ..PlanConfig::of_store("shop") });
    assert_eq!(severity(&list(&world).await), (Severity::Warning, None), "it may come yet");
    world.advance_s(60);
    let listed = list(&world).await;
    assert_eq!(severity(&listed), (Severity::Critical, Some(Trigger::BackupFailure)), "{}", listed.text);
}

#[tokio::test]
async fn the_numbers_of_a_store_are_those_of_its_backups() {
    let world = World::new().await;
    let numbers = async || list(&world).await.value["stores"][0].clone();
    let share = |store: &Value| {
        (store["runs_30d"].clone(), store["succeeded_30d"].clone(), store["success_rate_30d"].clone())
    };
    assert_eq!(share(&numbers().await), (json!(0), json!(0), Value::Null));
    made(&world).await;
    for fault in [Fault::Dump, Fault::Commit] {
        world.fail(&[fault]);
        run(&world, "shop").await.unwrap_err();
    }
    // It came to its end, and is no backup.
    world.fail(&[Fault::Row]);
    run(&world, "shop").await.unwrap();
    world.fail(&[]);
    world.advance_s(2 * DAY_S);
    for _ in 0..4 {
        made(&world).await;
    }
    world.advance_s(120);
    let store = numbers().await;
    assert_eq!(share(&store), (json!(8), json!(5), json!(0.625)), "{store:#}");
    assert_eq!(store["success_objective"], 1.0);
    assert_eq!((&store["rpo_s"], &store["verified_age_s"]), (&json!(120), &json!(120)), "{store:#}");
    assert_eq!((&store["rpo_objective_s"], &store["rto_objective_s"]), (&json!(90_000), &json!(1_800)));
    let listed = list(&world).await.text;
    let said = "5 of 8 backups in 30 days succeeded (62.5 %; the objective is 100 %)";
    assert!(listed.contains(said), "{listed}");
    // The same numbers for whoever does not ask the repositories.
    let indicators =
        backup::Indicators::of(&world.ctx(), world.ledger(), "shop", Objectives::default()).await.unwrap();
    assert_eq!((indicators.rpo_s, indicators.success_rate_30d), (Some(120), Some(0.625)));
    assert_eq!(indicators.proven, Some(recorded(&world).await[0].id.clone()));
    assert!(!indicators.is_too_old());
    // The first four are older than 30 days.
    world.advance_s(29 * DAY_S);
    assert_eq!(share(&numbers().await), (json!(4), json!(4), json!(1.0)));
}
