//! Budgets that several daemons share, each with a state of its own, over a real Redis.

use std::sync::Arc;

use contract::SharedCounters;
use counters_redis::{RedisConfig, RedisCounters};
use gateway::Accounts;

use crate::support::{Home, PROJECT, Shop, tokens, until, use_up};

const EACH: i64 = 750_000;

async fn daemon(home: &Home, budget: &str) -> Shop {
    let url = conformance::server("STEWARD_TEST_REDIS_URL");
    let counters = RedisCounters::new(&RedisConfig { url, user: None }, None).unwrap();
    let shared: Arc<dyn SharedCounters> = Arc::new(counters);
    let ledger = home.ledger().await;
    let accounts = Accounts::open_shared(ledger.clone(), home.clock.clone(), Some(shared)).await.unwrap();
    // A name of its own keeps runs apart.
    let yaml = format!("budgets: {{ {budget}: {{ usd: 0.0075, per: day, scope: project }} }}");
    Shop::over(ledger, accounts, &yaml, home.clock.clone()).await
}

#[tokio::test]
async fn two_daemons_together_never_overspend_and_share_what_there_is() {
    let (here, there) = (Home::new(), Home::new());
    let budget = conformance::namespace("two");
    let first = daemon(&here, &budget).await;
    let second = daemon(&there, &budget).await;
    let mut spent = 0;
    for _ in 0..3 {
        spent += first.use_all().unwrap();
    }
    // The first one took all, and gives the second one its part.
    until("the second one has money", || {
        let used = second.use_all();
        spent += used.unwrap_or(0);
        async move { used.is_some() }
    })
    .await;
    spent += use_up(&first, &second, spent).await;
    until("both have written", || async { first.spent().await + second.spent().await == spent }).await;
    assert!(first.spent().await > 0 && second.spent().await > 0, "both had their part");
    first.accounts.close().await.unwrap();
    second.accounts.close().await.unwrap();
    // A third one, on a state that knows nothing, is told by the counters.
    let third = Home::new();
    let standing = daemon(&third, &budget).await.accounts.standings(PROJECT)[0].clone();
    assert_eq!(standing.spent.nanos(), spent);
}

#[tokio::test]
async fn what_a_daemon_held_that_is_gone_is_free_once_its_state_is_opened_again() {
    let (here, there) = (Home::new(), Home::new());
    let budget = conformance::namespace("gone");
    let first = daemon(&here, &budget).await;
    first.ask().unwrap().used(tokens(1000, 1000));
    let stream = first.ask().unwrap();
    until("both are in the file", || async {
        let open = first.ledger.query("SELECT id FROM ai_reservations", Vec::new()).await.unwrap();
        first.spent().await == EACH && open.len() == 1
    })
    .await;
    // As a killed process leaves it: nothing is settled or given back.
    first.accounts.abandon();
    std::mem::forget(stream);
    let second = daemon(&there, &budget).await;
    assert!(second.ask().is_err(), "the first one holds it all");
    here.clock.advance_us(121_000_000);
    let again = daemon(&here, &budget).await;
    until("the rest is shared", || async {
        second.ask().is_ok_and(|asked| {
            drop(asked);
            true
        })
    })
    .await;
    // One was counted, one is charged as lost; eight are left for both.
    assert_eq!(again.spent().await, 2 * EACH);
    again.accounts.close().await.unwrap();
    second.accounts.close().await.unwrap();
}
