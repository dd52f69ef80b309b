//! The counters on a real Redis.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use contract::{Actor, Context, ErrorKind, SharedCounters, SliceSpent, TakeSlice};
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

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    // Nothing listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = RedisConfig { url: format!("redis://127.0.0.1:{port}"), user: None };
    let counters = RedisCounters::new(&config, None).unwrap();
    let error = counters.take(&ctx(), &ask("x", "a", 1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
