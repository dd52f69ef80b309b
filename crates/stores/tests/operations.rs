//! Operations through the room: plans, the one executor, and what an engine cannot do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the other suites")]
#[allow(clippy::unused_self, reason = "what a world gives may one day depend on it")]
mod world;

use contract::{Error, ErrorKind};
use serde_json::json;
use world::{World, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_says_what_it_cannot_do_and_what_to_do_instead() {
    let world = World::sqlite();
    world.seed().await;
    let ctx = world.ctx();
    let refused = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("reason: ") && error.hint_text().is_some(), "{error}");
    };
    refused(stores::access::list(&ctx, &world, &request(json!({"store": "shop"}))).await.unwrap_err());
    refused(stores::access::review(&ctx, &world, &request(json!({"store": "shop"}))).await.unwrap_err());
    let grant = json!({"store": "shop", "role": "app", "privileges": ["select"], "on": "table", "objects": ["orders"]});
    refused(stores::access::plan_grant(&ctx, &world, &request(grant.clone())).await.unwrap_err());
    refused(stores::access::plan_revoke(&ctx, &world, &request(grant)).await.unwrap_err());
    refused(stores::locks(&ctx, &world, &request(json!({"store": "shop"}))).await.unwrap_err());
    let end = json!({"store": "shop", "pid": 1, "started": "x"});
    refused(stores::operate::plan_end_session(&ctx, &world, &request(end)).await.unwrap_err());
    let configure = json!({"store": "shop", "setting": "cache_size", "value": "1"});
    refused(stores::operate::plan_configure(&ctx, &world, &request(configure)).await.unwrap_err());

    world.run("CREATE INDEX by_total ON orders (total)").await;
    for (vacuum, steps) in [(json!({"store": "shop"}), 1), (json!({"store": "shop", "full": true}), 2)] {
        let considered = stores::operate::plan_vacuum(&ctx, &world, &request(vacuum)).await.unwrap();
        assert_eq!(considered.plan.steps.len(), steps);
        assert_eq!(world.execute(&considered.plan).await.unwrap().value["verified"], true);
    }
    for rebuild in
        [json!({"store": "shop", "index": "by_total"}), json!({"store": "shop", "table": "orders"})]
    {
        let considered = stores::operate::plan_rebuild(&ctx, &world, &request(rebuild)).await.unwrap();
        assert_eq!(world.execute(&considered.plan).await.unwrap().value["verified"], true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_granted_verified_and_revoked_through_the_executor() {
    let world = World::postgres("operations").await;
    world.seed().await;
    let ctx = world.ctx();
    let reader = format!("{}_reader", world.address);
    let arguments = json!({"store": "shop", "role": reader, "privileges": ["insert,update"], "on": "table",
                           "objects": ["public.orders", "public.notes"]});
    let granted = stores::access::plan_grant(&ctx, &world, &request(arguments.clone())).await.unwrap();
    let text = stores::plan_text(&granted.plan);
    assert!(text.contains("GRANT INSERT, UPDATE ON TABLE public.notes, public.orders TO"), "{text}");
    // The same state gives the same plan; another state does not take it.
    let again = stores::access::plan_grant(&ctx, &world, &request(arguments.clone())).await.unwrap();
    assert_eq!(granted.plan.digest(), again.plan.digest());
    assert_eq!(world.execute(&granted.plan).await.unwrap().value["verified"], true);
    let nothing = stores::access::plan_grant(&ctx, &world, &request(arguments.clone())).await.unwrap();
    assert!(nothing.plan.steps.is_empty(), "{}", nothing.plan.summary);
    let list =
        stores::access::list(&ctx, &world, &request(json!({"store": "shop", "role": reader}))).await.unwrap();
    assert!(list.text.contains("INSERT, SELECT, UPDATE"), "{}", list.text);
    let review = stores::access::review(&ctx, &world, &request(json!({"store": "shop"}))).await.unwrap();
    let finding = review.findings.iter().find(|finding| finding.code == "write_right_of_a_reader").unwrap();
    assert!(!finding.evidence.is_empty() && finding.title.contains(&reader), "{finding:?}");

    let revoked = stores::access::plan_revoke(&ctx, &world, &request(arguments.clone())).await.unwrap();
    let stale = stores::access::plan_revoke(
        &ctx,
        &world,
        &request(json!({"store": "shop", "role": reader,
        "privileges": ["insert"], "on": "table", "objects": ["public.orders"]})),
    )
    .await
    .unwrap();
    assert_eq!(world.execute(&revoked.plan).await.unwrap().value["verified"], true);
    let error = world.execute(&stale.plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "the rights have changed since: {error}");

    let locks = stores::locks(&ctx, &world, &request(json!({"store": "shop"}))).await.unwrap();
    assert!(locks.text.contains("nobody waits for a lock"), "{}", locks.text);
    // Twice the same vacuum is two plans: the second does not find the first one's record.
    for _ in 0..2 {
        let vacuum = json!({"store": "shop", "tables": ["public.orders"]});
        let considered = stores::operate::plan_vacuum(&ctx, &world, &request(vacuum)).await.unwrap();
        let done = world.execute(&considered.plan).await.unwrap();
        assert_eq!(
            (&done.value["verified"], &done.value["steps_run"]),
            (&json!(true), &json!(1)),
            "{}",
            done.text
        );
    }
}
