//! Copies: made, interrupted, damaged, read when the first place is gone; and the lamps that follow.

use backup::{
    CopyBackup, ListBackups, PlanConfig, PruneBackups, RestoreBackup, RestoreTo, Retention, ShowPlans,
    VerifyBackup,
};
use contract::{Error, ErrorKind, Outcome};
use serde_json::{Value, json};

use super::world::{Fault, World};
use super::{recorded, restore, run, whole};

async fn copy(world: &World, request: CopyBackup) -> Result<Outcome, Error> {
    let plan = backup::plan_copy(&world.ctx(), world, &request).await?;
    let permit = world.permit("backup.run", &plan);
    backup::copy(&world.ctx(), world, &permit, &plan, &request).await
}

fn to_far(backup: &str) -> CopyBackup {
    CopyBackup { backup: Some(backup.into()), all: false, to: Some("far".into()) }
}

async fn verify(world: &World, from: Option<&str>) -> Result<Outcome, Error> {
    let request = VerifyBackup { backup: "shop".into(), level: None, from: from.map(str::to_owned) };
    let plan = backup::plan_verify(&world.ctx(), world, &request).await?;
    let permit = world.permit("backup.verify", &plan);
    backup::verify(&world.ctx(), world, &permit, &plan, &request).await
}

fn from(repository: &str) -> RestoreBackup {
    RestoreBackup { from: Some(repository.into()), ..whole(RestoreTo::Scratch) }
}

/// Which lamps are on, as `plan` and `list` say it alike.
async fn lamps(world: &World) -> (Vec<bool>, Value) {
    let shown = backup::show_plans(&world.ctx(), world, &ShowPlans::default()).await.unwrap();
    let lamps = shown.value["plans"][0]["stores"][0]["lamps"].clone();
    let listed = backup::list(&world.ctx(), world, &ListBackups::default()).await.unwrap();
    assert_eq!(listed.value["stores"][0]["lamps"], lamps);
    let on = lamps.as_array().unwrap().iter().map(|lamp| lamp["on"].as_bool().unwrap()).collect();
    for lamp in lamps.as_array().unwrap() {
        assert_eq!(lamp["todo"].is_string(), lamp["on"] == false, "{lamp}");
    }
    (on, lamps)
}

fn planned() -> PlanConfig {
    PlanConfig { copies: vec!["far".into()], ..PlanConfig::of_store("shop") }
}

#[tokio::test]
async fn a_proven_backup_is_copied_as_its_plan_says() {
    let mut world = World::new().await;
    world.plan("nightly", planned());
    let made = run(&world, "nightly").await.unwrap();
    assert!(made.text.contains("copied to far"), "{}", made.text);
    assert_eq!((world.far(), made.findings.len()), (1, 0));
    let copies = &made.value["backups"][0]["backup"]["copies"];
    assert_eq!(copies[0]["repository"], "far", "{copies}");
    assert_eq!(world.scratch_left(), Vec::<String>::new());
    // A backup that is none is not copied.
    world.fail(&[Fault::Row]);
    let bad = run(&world, "nightly").await.unwrap();
    assert_eq!(world.far(), 1, "{}", bad.text);
}

#[tokio::test]
async fn a_copy_that_fails_leaves_nothing_and_is_repeated() {
    let mut world = World::new().await;
    world.plan("nightly", planned());
    for fault in [Fault::FarPut, Fault::FarCommit, Fault::FarPart] {
        world.fail(&[fault]);
        let made = run(&world, "nightly").await.unwrap();
        assert!(made.text.contains("NOT COPIED to far"), "{fault:?}: {}", made.text);
        assert_eq!(made.findings[0].code, "backup_copy_failed", "{fault:?}");
        assert_eq!(world.far(), 0, "{fault:?}");
        assert_eq!(recorded(&world).await[0].copies, [], "{fault:?}");
        let error = copy(&world, to_far("shop")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt), "{fault:?}: {error}");
        assert_eq!(world.scratch_left(), Vec::<String>::new(), "{fault:?}");
    }
    world.fail(&[]);
    let all = copy(&world, CopyBackup { all: true, ..CopyBackup::default() }).await.unwrap();
    assert_eq!((world.far(), all.value["copies"].as_array().unwrap().len()), (3, 3), "{}", all.text);
    let again = copy(&world, CopyBackup { all: true, ..CopyBackup::default() }).await.unwrap();
    assert!(again.text.contains("nothing to do"), "{}", again.text);
}

#[tokio::test]
async fn a_copy_is_read_when_its_first_place_is_gone_or_damaged() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    let error = restore(&world, from("far")).await.unwrap_err();
    assert!(error.message().contains("not in `far`"), "{error}");
    copy(&world, to_far("shop")).await.unwrap();
    let restored = restore(&world, from("far")).await.unwrap();
    assert_eq!(restored.value["from"], "far");
    for fault in [Fault::Gone, Fault::Part] {
        world.fail(&[fault]);
        let restored = restore(&world, whole(RestoreTo::Scratch)).await.unwrap();
        assert_eq!(restored.value["from"], "far", "{fault:?}: {}", restored.text);
        assert!(
            restored.text.contains("read from the copy in far; not from local"),
            "{fault:?}: {}",
            restored.text
        );
        let error = restore(&world, from("local")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt), "{fault:?}: {error}");
        let verified = verify(&world, None).await.unwrap();
        assert_eq!(verified.value["from"], "far", "{fault:?}: {}", verified.text);
        assert!(verified.text.contains("(the copy in far): restored"), "{fault:?}: {}", verified.text);
        assert_eq!(verified.findings.len(), 1, "{fault:?}: {}", verified.text);
    }
    world.fail(&[Fault::Part, Fault::FarPart]);
    assert_eq!(restore(&world, whole(RestoreTo::Scratch)).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_damaged_copy_is_found_and_made_again() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    copy(&world, to_far("shop")).await.unwrap();
    world.fail(&[Fault::FarPart]);
    let verified = verify(&world, Some("far")).await.unwrap();
    assert_eq!(verified.findings[0].code, "backup_damaged", "{}", verified.text);
    let backup = &recorded(&world).await[0];
    assert!(backup.problem.is_none() && backup.copies[0].problem.is_some(), "{backup:?}");
    world.fail(&[]);
    copy(&world, to_far("shop")).await.unwrap();
    assert_eq!(recorded(&world).await[0].copies[0].problem, None);
}

#[tokio::test]
async fn every_lamp_says_what_is_true_and_what_to_do() {
    let world = World::new().await;
    assert_eq!(lamps(&world).await.0, [false; 5]);
    run(&world, "shop").await.unwrap();
    let (on, said) = lamps(&world).await;
    assert_eq!(on, [false, false, false, false, true], "{said:#}");
    assert_eq!(said[3]["why"], "local: it is a test");
    copy(&world, to_far("shop")).await.unwrap();
    let (on, said) = lamps(&world).await;
    assert_eq!(on, [true, true, true, false, true], "{said:#}");
    world.make_firm();
    assert_eq!(lamps(&world).await.0, [true; 5]);
    // The copy is damaged: what hung on it goes out, and so does the last.
    world.fail(&[Fault::FarPart]);
    verify(&world, Some("far")).await.unwrap();
    let (on, said) = lamps(&world).await;
    assert_eq!(on, [false; 5], "{said:#}");
    assert!(said[4]["why"].as_str().unwrap().contains("the copy in far is damaged"), "{said:#}");
    world.fail(&[]);
    copy(&world, to_far("shop")).await.unwrap();
    assert_eq!(lamps(&world).await.0, [true; 5]);
    // A newer backup without a copy is the newest.
    run(&world, "shop").await.unwrap();
    assert_eq!(lamps(&world).await.0, [false, false, false, false, true]);
    world.fail(&[Fault::Dump]);
    run(&world, "shop").await.unwrap_err();
    let (on, said) = lamps(&world).await;
    assert!(!on[4] && said[4]["why"].as_str().unwrap().contains("the newest backup failed"), "{said:#}");
    world.fail(&[Fault::Gone]);
    let (on, said) = lamps(&world).await;
    assert_eq!(on, [false; 5], "{said:#}");
}

#[tokio::test]
async fn copies_go_when_their_backup_goes() {
    let mut world = World::new().await;
    let keep = Retention {
        within_hours: 0,
        hourly: 1,
        daily: 0,
        weekly: 0,
        monthly: 0,
        yearly: 0,
        verified_min: 1,
        legal_hold: Vec::new(),
    };
    world.plan("nightly", PlanConfig { keep, ..planned() });
    run(&world, "nightly").await.unwrap();
    world.advance_s(2 * 3_600);
    run(&world, "nightly").await.unwrap();
    assert_eq!((world.snapshots(), world.far()), (2, 2));
    let request = PruneBackups { plan: Some("nightly".into()) };
    let plan = backup::plan_prune(&world.ctx(), &world, &request).await.unwrap();
    let permit = world.permit("backup.delete", &plan);
    backup::prune(&world.ctx(), &world, &permit, &plan, &request).await.unwrap();
    assert_eq!((world.snapshots(), world.far()), (1, 1));
    let kept = recorded(&world).await;
    let copies: Vec<usize> = kept.iter().map(|backup| backup.copies.len()).collect();
    assert_eq!(copies, [1, 0], "{kept:?}");
}

#[tokio::test]
async fn what_cannot_be_copied_is_refused_with_words() {
    let world = World::new().await;
    run(&world, "shop").await.unwrap();
    for (request, kind) in [
        (CopyBackup::default(), ErrorKind::Invalid),
        (CopyBackup { all: true, ..to_far("shop") }, ErrorKind::Invalid),
        (CopyBackup { to: None, ..to_far("shop") }, ErrorKind::Invalid),
        (CopyBackup { to: Some("nowhere".into()), ..to_far("shop") }, ErrorKind::NotFound),
        (to_far("bk-none"), ErrorKind::NotFound),
    ] {
        let error = copy(&world, request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.hint_text().is_some(), "{error}");
    }
    let stores = ["shop".to_owned()].into();
    for (copies, message) in [
        ("nowhere", "there is no repository `nowhere`"),
        ("local", "a backup is copied to other repositories than its own"),
    ] {
        let plan = PlanConfig { copies: vec![copies.into()], ..PlanConfig::of_store("shop") };
        let error = plan.check(&stores, &["local".into(), "far".into()]).unwrap_err();
        assert_eq!(error.message(), message);
        assert_eq!(error.context()[0], ("key", "copies".to_owned()));
    }
    assert_eq!(json!(PlanConfig::of_store("shop"))["copies"], Value::Null);
}
