//! The counters on a real Redis.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use contract::{Actor, Context, ErrorKind, SharedCounters, SliceSpent, TakeShare, TakeSlice};
use counters_redis::{RedisConfig, RedisCounters};

fn open() -> RedisCounters {
    let url = conformance::server("STEWARD_TEST_REDIS_URL");
    RedisCounters::new(&RedisConfig { url, user: None }, None).unwrap()
}

fn ctx() -> Context {
    Context::new("shop", Actor::system())
}

fn ask<'a>(counter: &'a str, holder: &'a str, limit: i64, needs: i64) -> TakeSlice<'a> {
    TakeSlice { counter, holder, limit, needs, keep_for: Duration::from_mins(10) }
}

#[tokio::test]
async fn who_is_alone_gets_all_and_others_their_part_of_what_comes_back() {
    let (counters, name, ctx) = (open(), conformance::namespace("alone"), ctx());
    let first = counters.take(&ctx, &ask(&name, "a", 1000, 10)).await.unwrap();
    assert_eq!((first.amount, first.spent_in_all, first.held_in_all, first.others), (1000, 0, 1000, 0));
    let second = counters.take(&ctx, &ask(&name, "b", 1000, 10)).await.unwrap();
    assert_eq!((second.amount, second.others), (0, 1));
    counters.spend(&ctx, &SliceSpent { counter: &name, holder: "a", spent: 100 }).await.unwrap();
    // Said twice, and late: it counts once.
    counters.spend(&ctx, &SliceSpent { counter: &name, holder: "a", spent: 100 }).await.unwrap();
    counters.spend(&ctx, &SliceSpent { counter: &name, holder: "a", spent: 40 }).await.unwrap();
    counters.give_back(&ctx, &name, "a", 500).await.unwrap();
    let second = counters.take(&ctx, &ask(&name, "b", 1000, 10)).await.unwrap();
    assert_eq!((second.amount, second.spent_in_all, second.held_in_all), (250, 100, 650));
    // No more comes back than is there.
    counters.give_back(&ctx, &name, "a", 1_000_000).await.unwrap();
    let look = counters.take(&ctx, &ask(&name, "a", 1000, 0)).await.unwrap();
    assert_eq!((look.amount, look.held_in_all), (100, 250));
}

#[tokio::test]
async fn the_slice_of_a_holder_that_is_gone_stays_until_it_is_settled() {
    let (counters, name, ctx) = (open(), conformance::namespace("gone"), ctx());
    counters.take(&ctx, &ask(&name, "gone", 1000, 1)).await.unwrap();
    assert_eq!(counters.take(&ctx, &ask(&name, "b", 1000, 1)).await.unwrap().amount, 0);
    for _ in 0..2 {
        counters.settle(&ctx, &SliceSpent { counter: &name, holder: "gone", spent: 300 }).await.unwrap();
    }
    let slice = counters.take(&ctx, &ask(&name, "b", 1000, 1)).await.unwrap();
    assert_eq!((slice.amount, slice.spent_in_all, slice.others), (700, 300, 0));
}

#[tokio::test]
async fn what_jobs_hold_is_no_part_of_what_processes_share() {
    let (counters, name, ctx) = (open(), conformance::namespace("held"), ctx());
    for job in ["job/1", "job/2"] {
        let all = counters.take(&ctx, &ask(&name, job, 1000, 100)).await.unwrap().amount;
        counters.give_back(&ctx, &name, job, all - 100).await.unwrap();
    }
    let first = counters.take(&ctx, &ask(&name, "a", 1000, 10)).await.unwrap();
    assert_eq!((first.amount, first.held_in_all, first.held_for_jobs, first.others), (800, 1000, 200, 0));
    counters.settle(&ctx, &SliceSpent { counter: &name, holder: "job/1", spent: 40 }).await.unwrap();
    let second = counters.take(&ctx, &ask(&name, "b", 1000, 10)).await.unwrap();
    assert_eq!((second.amount, second.held_in_all, second.held_for_jobs, second.others), (30, 930, 100, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_never_take_more_than_there_is() {
    let name = Arc::new(conformance::namespace("many"));
    let mut tasks = Vec::new();
    for holder in 0..20 {
        let name = Arc::clone(&name);
        tasks.push(tokio::spawn(async move {
            let counters = open();
            let holder = holder.to_string();
            let mut amount = 0;
            for _ in 0..10 {
                amount = counters.take(&ctx(), &ask(&name, &holder, 10_000, 100)).await.unwrap().amount;
            }
            amount
        }));
    }
    let mut all = 0;
    for task in tasks {
        all += task.await.unwrap();
    }
    assert_eq!(all, 10_000);
}

#[tokio::test]
async fn amounts_stay_exact_up_to_the_largest_and_larger_ones_are_refused() {
    let (counters, name, ctx) = (open(), conformance::namespace("large"), ctx());
    let largest = (1_i64 << 53) - 1;
    assert_eq!(counters.take(&ctx, &ask(&name, "a", largest, 1)).await.unwrap().amount, largest);
    let error = counters.take(&ctx, &ask(&name, "a", largest + 1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

fn rate(counter: &str, wants: i64, keep_ms: u64) -> TakeShare<'_> {
    TakeShare { counter, limit: 100, wants, keep_for: Duration::from_millis(keep_ms) }
}

async fn share(counters: &RedisCounters, holder: &str, ask: TakeShare<'_>) -> (i64, u32) {
    let shares = counters.share(&ctx(), holder, &[ask]).await.unwrap();
    (shares[0].amount, shares[0].others)
}

#[tokio::test]
async fn a_rate_is_shared_by_what_each_holder_wants() {
    const LONG: u64 = 600_000;
    let (counters, name) = (open(), conformance::namespace("rate"));
    assert_eq!(share(&counters, "a", rate(&name, 5, LONG)).await, (100, 0), "who is alone has all of it");
    assert_eq!(share(&counters, "b", rate(&name, 200, LONG)).await, (0, 1), "nothing is taken from anybody");
    assert_eq!(share(&counters, "a", rate(&name, 5, LONG)).await, (5, 1));
    assert_eq!(
        share(&counters, "b", rate(&name, 200, LONG)).await,
        (95, 1),
        "who wants little leaves the rest"
    );
    // Both want more than there is: half each, once the other has let go.
    assert_eq!(share(&counters, "a", rate(&name, 300, LONG)).await, (5, 1));
    assert_eq!(share(&counters, "b", rate(&name, 200, LONG)).await, (50, 1));
    assert_eq!(share(&counters, "a", rate(&name, 300, LONG)).await, (50, 1));
    // Together they want less: what is left over is divided.
    assert_eq!(share(&counters, "a", rate(&name, 20, LONG)).await, (20, 1));
    assert_eq!(share(&counters, "b", rate(&name, 30, LONG)).await, (55, 1));
    assert_eq!(share(&counters, "a", rate(&name, 20, LONG)).await, (45, 1));
    // What is given back is free at once.
    assert_eq!(share(&counters, "a", rate(&name, 0, LONG)).await, (0, 1));
    assert_eq!(share(&counters, "b", rate(&name, 30, LONG)).await, (100, 0));
}

#[tokio::test]
async fn the_share_of_a_holder_that_is_gone_comes_back_by_itself() {
    let (counters, name) = (open(), conformance::namespace("lease"));
    assert_eq!(share(&counters, "gone", rate(&name, 10, 300)).await.0, 100);
    for _ in 0..6_000 {
        if share(&counters, "b", rate(&name, 10, 60_000)).await == (100, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // The server's own clock decides.
    }
    panic!("the share never came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shares_of_many_holders_are_never_more_than_the_limit() {
    let name = Arc::new(conformance::namespace("shares"));
    let other = Arc::new(conformance::namespace("shares_too"));
    let mut shares = Vec::new();
    for round in 0..4 {
        let mut tasks = Vec::new();
        for holder in 0..12_i64 {
            let (name, other) = (Arc::clone(&name), Arc::clone(&other));
            tasks.push(tokio::spawn(async move {
                let asks = [rate(&name, 1 + holder * 7, 600_000), rate(&other, 100, 600_000)];
                let shares = open().share(&ctx(), &holder.to_string(), &asks).await.unwrap();
                (shares[0].amount, shares[1].amount)
            }));
        }
        shares.clear();
        for task in tasks {
            shares.push(task.await.unwrap());
        }
        let sum = shares.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert!(sum.0 <= 100 && sum.1 <= 100, "round {round}: {sum:?}");
    }
    assert!(shares.iter().all(|(_, of_equals)| *of_equals >= 8), "{shares:?}");
    assert_eq!(shares.iter().map(|one| one.1).sum::<i64>(), 100);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    // Nothing listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = RedisConfig { url: format!("redis://127.0.0.1:{port}"), user: None };
    let counters = RedisCounters::new(&config, None).unwrap();
    let error = counters.take(&ctx(), &ask("x", "a", 1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
