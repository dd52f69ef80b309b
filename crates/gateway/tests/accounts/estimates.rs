//! Budgets that estimate: what a request of a route usually costs is learnt, and what goes beyond it is bounded and told.

use gateway::{Alarm, Ending};

use crate::support::{Home, PROJECT, Shop, tokens};

const BUDGET: &str = "budgets: { day: { usd: 0.01, per: day, scope: project, enforce: estimate } }";

/// What is set aside for the next request.
fn set_aside(shop: &Shop) -> i64 {
    set_aside_on(shop, "fast")
}

fn set_aside_on(shop: &Shop, route: &str) -> i64 {
    let before = shop.accounts.standings(PROJECT)[0].in_flight.nanos();
    let asked = shop.ask_for(route, Some(1000)).unwrap_or_else(|refusal| panic!("{}", refusal.message));
    let after = shop.accounts.standings(PROJECT)[0].in_flight.nanos();
    drop(asked); // Never sent: it costs nothing and teaches nothing.
    after - before
}

/// 1,000 tokens in and so many out of gpt-4o-mini.
fn costs(output: u64) -> i64 {
    1000 * 150 + i64::try_from(output).unwrap() * 600
}

async fn told(shop: &Shop) -> Vec<Alarm> {
    let mut all = Vec::new();
    crate::support::until("it is told", || {
        all.extend(shop.accounts.alerts());
        let is_there = all.iter().any(|alarm: &Alarm| alarm.title.contains("is used up"));
        async move { is_there }
    })
    .await;
    all
}

#[tokio::test]
async fn what_a_route_usually_costs_is_the_95th_of_a_hundred() {
    let home = Home::new();
    let shop = home.shop("budgets: { day: { usd: 1, per: day, scope: project, enforce: estimate } }").await;
    // Before anything is known: the prompt as estimated, and all that the answer may have.
    assert_eq!(set_aside(&shop), 250 * 150 + 1000 * 600);
    shop.ask().unwrap().used(tokens(1000, 10));
    assert_eq!(set_aside(&shop), costs(10), "the first one is all that is known");
    // 64 requests: most of them small, in any order, and every twentieth a large one.
    let outputs: Vec<u64> =
        (1..64).map(|number| if number % 16 == 0 { 900 } else { 10 + (number * 7) % 50 }).collect();
    for output in &outputs {
        shop.ask().unwrap().used(tokens(1000, *output));
    }
    let mut sorted: Vec<i64> = outputs.iter().chain([&10]).map(|output| costs(*output)).collect();
    sorted.sort_unstable();
    assert_eq!(set_aside(&shop), sorted[63 * 95 / 100]);
    assert!(set_aside(&shop) < costs(900) && set_aside(&shop) > costs(10));
    // Two hundred and fifty-six dear ones later only those are remembered.
    for _ in 0..256 {
        shop.ask().unwrap().used(tokens(1000, 700));
    }
    assert_eq!(set_aside(&shop), costs(700));
    assert_eq!(set_aside_on(&shop, "kept"), 250 * 150 + 1000 * 600, "another route learns for itself");
    shop.accounts.close().await.unwrap();
}

#[tokio::test]
async fn what_goes_beyond_an_estimate_is_bounded_by_what_is_under_way_and_told() {
    let home = Home::new();
    let shop = home.shop(BUDGET).await;
    let usual = costs(10);
    for _ in 0..16 {
        shop.ask().unwrap().used(tokens(1000, 10));
    }
    let before = 16 * usual;
    // As many as fit by what is usual; the next one is refused.
    let mut under_way = Vec::new();
    let refusal = loop {
        match shop.ask() {
            Ok(asked) => {
                assert_eq!(asked.reservation.max_tokens(), None, "an estimate bounds no answer");
                under_way.push(asked);
            }
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code, "budget_exceeded");
    let count = i64::try_from(under_way.len()).unwrap();
    assert_eq!(count, (10_000_000 - before) / usual);
    // Each turns out as dear as it could: that is what may be overspent, and no more.
    for asked in under_way {
        asked.used(tokens(1000, 1000));
    }
    let standing = shop.accounts.standings(PROJECT)[0].clone();
    assert_eq!(standing.spent.nanos(), before + count * costs(1000));
    assert_eq!(standing.overshoot.nanos(), count * (costs(1000) - usual));
    assert!(standing.spent.nanos() - 10_000_000 <= standing.overshoot.nanos());
    assert_eq!(shop.ask().err().unwrap().code, "budget_exceeded", "nothing more is let in");
    let all = told(&shop).await;
    let told = all.iter().find(|alarm| alarm.title.contains("is used up")).unwrap();
    let beyond = format!("{} USD were spent beyond what was set aside", standing.overshoot);
    assert!(told.detail.contains(&beyond), "{beyond}: {}", told.detail);
    shop.accounts.close().await.unwrap();
}

#[tokio::test]
async fn what_failed_teaches_nothing() {
    let home = Home::new();
    let shop = home.shop("budgets: { day: { usd: 1, per: day, scope: project, enforce: estimate } }").await;
    shop.ask().unwrap().used(tokens(1000, 10));
    let asked = shop.ask().unwrap();
    let mut settlement = asked.settlement(vec![asked.attempt(Some(contract::ai::FailureClass::Rate))]);
    settlement.ending = Ending::Failed;
    settlement.status = 429;
    asked.reservation.settle(settlement);
    assert_eq!(set_aside(&shop), costs(10));
    shop.accounts.close().await.unwrap();
}
