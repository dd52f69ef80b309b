//! What a job holds, with budgets that daemons with states of their own share, over a real Redis.

use std::sync::Arc;

use contract::SharedCounters;
use counters_redis::{RedisConfig, RedisCounters};

use crate::world::{Home, SHOP, World, requests_file, until};

/// Each batch may cost some 400,000 nano-dollars.
const USD: &str = "0.0006";

async fn daemon(home: &Home, budget: &str) -> World {
    let url = conformance::server("STEWARD_TEST_REDIS_URL");
    let counters = RedisCounters::new(&RedisConfig { url, user: None }, None).unwrap();
    let shared: Arc<dyn SharedCounters> = Arc::new(counters);
    // A name of its own keeps runs apart.
    let yaml = format!("budgets: {{ {budget}: {{ usd: {USD}, per: day, scope: project, of: shop }} }}");
    home.open_shared(&yaml, Some(shared)).await
}

async fn batch(world: &World, file: &str) -> Option<String> {
    let made = world.make_batch(SHOP, file).await;
    assert!(made.status == 200 || made.status == 402 || made.status == 503, "{}", made.text());
    (made.status == 200).then(|| made.id())
}

#[tokio::test]
async fn what_a_job_holds_no_other_daemon_can_spend_and_its_end_frees_it_for_all() {
    let (here, there) = (Home::new().await, Home::new().await);
    let budget = conformance::namespace("jobs");
    let first = daemon(&here, &budget).await;
    let file = first.upload(SHOP, &requests_file(1)).await;
    let made = batch(&first, &file).await.expect("there is money for one");
    let held = first.held().await;
    assert!(held > 300_000 && held < 600_000, "{held}");
    // The process gives back what it has besides, so that the other daemon could take it.
    let second = daemon(&there, &budget).await;
    let other = second.upload(SHOP, &requests_file(1)).await;
    for _ in 0..3 {
        assert_eq!(batch(&second, &other).await, None, "the first one's job holds too much");
    }
    // It is held on a restart as well.
    first.accounts.close().await.unwrap();
    drop(first);
    let again = daemon(&here, &budget).await;
    assert_eq!((again.held().await, batch(&second, &other).await), (held, None));
    for _ in 0..2 {
        again.get(SHOP, &format!("/v1/batches/{made}")).await;
    }
    assert_eq!(again.held().await, 0);
    again.accounts.close().await.unwrap();
    until("the other daemon can spend what is free again", || async {
        batch(&second, &other).await.is_some()
    })
    .await;
}
