//! What a job holds, with budgets that daemons with states of their own share, over a real Redis.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use contract::{Context, Error, ErrorKind, Share, SharedCounters, Slice, SliceSpent, TakeShare, TakeSlice};
use counters_redis::{RedisConfig, RedisCounters};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::world::{Home, SHOP, World, requests_file, until};

/// Each batch may cost some 400,000 nano-dollars.
const USD: &str = "0.0006";

fn redis() -> RedisCounters {
    let url = conformance::server("STEWARD_TEST_REDIS_URL");
    RedisCounters::new(&RedisConfig { url, user: None }, None).unwrap()
}

async fn daemon(home: &Home, budget: &str) -> World {
    over(home, Arc::new(redis()), &[budget]).await
}

/// A name of its own for each budget keeps runs apart.
async fn over(home: &Home, shared: Arc<dyn SharedCounters>, budgets: &[&str]) -> World {
    let of = |name: &&str| format!("{name}: {{ usd: {USD}, per: day, scope: project, of: shop }}");
    let budgets: Vec<String> = budgets.iter().map(of).collect();
    home.open_shared(&format!("budgets: {{ {} }}", budgets.join(", ")), Some(shared)).await
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

/// Counters whose answers are lost or come late.
struct Unsteady {
    counters: RedisCounters,
    /// Jobs that take of a counter with this in its name do so and hear nothing of it.
    loses: Option<String>,
    /// What jobs took of.
    of_jobs: Mutex<BTreeSet<String>>,
    /// The answers to the process come late: each after it has taken, and the test has let it.
    is_late: AtomicBool,
    took: Semaphore,
    may_hear: Semaphore,
}

impl Unsteady {
    fn new(loses: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            counters: redis(),
            loses,
            of_jobs: Mutex::default(),
            is_late: AtomicBool::new(false),
            took: Semaphore::new(0),
            may_hear: Semaphore::new(0),
        })
    }
}

#[async_trait]
impl SharedCounters for Unsteady {
    async fn take(&self, ctx: &Context, ask: &TakeSlice<'_>) -> Result<Slice, Error> {
        let slice = self.counters.take(ctx, ask).await?;
        if ask.holder.starts_with("job/") {
            self.of_jobs.lock().unwrap().insert(ask.counter.to_owned());
            if self.loses.as_ref().is_some_and(|budget| ask.counter.contains(budget)) {
                return Err(Error::new(ErrorKind::TimedOut, "the answer is lost"));
            }
        } else if self.is_late.load(Ordering::SeqCst) {
            self.took.add_permits(1);
            self.may_hear.acquire().await.unwrap().forget();
        }
        Ok(slice)
    }

    async fn spend(&self, ctx: &Context, spent: &SliceSpent<'_>) -> Result<(), Error> {
        self.counters.spend(ctx, spent).await
    }

    async fn give_back(&self, ctx: &Context, counter: &str, holder: &str, amount: i64) -> Result<(), Error> {
        self.counters.give_back(ctx, counter, holder, amount).await
    }

    async fn settle(&self, ctx: &Context, spent: &SliceSpent<'_>) -> Result<(), Error> {
        self.counters.settle(ctx, spent).await
    }

    async fn share(&self, ctx: &Context, holder: &str, asks: &[TakeShare<'_>]) -> Result<Vec<Share>, Error> {
        self.counters.share(ctx, holder, asks).await
    }
}

#[tokio::test]
async fn a_job_that_was_not_let_in_holds_nothing_whatever_it_took() {
    let home = Home::new().await;
    let (one, other) = (conformance::namespace("one"), conformance::namespace("other"));
    let counters = Unsteady::new(Some(other.clone()));
    let world = over(&home, Arc::clone(&counters) as _, &[&one, &other]).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    assert_eq!(batch(&world, &file).await, None);
    world.accounts.close().await.unwrap();
    let names = counters.of_jobs.lock().unwrap().clone();
    assert_eq!(names.len(), 2, "{names:?}");
    for counter in &names {
        let keep_for = std::time::Duration::from_mins(1);
        let look = TakeSlice { counter, holder: "look", limit: 1, needs: 0, keep_for };
        let slice = redis().take(&world.ctx(), &look).await.unwrap();
        assert_eq!((slice.held_in_all, slice.held_for_jobs), (0, 0), "{counter}");
    }
}

#[tokio::test]
async fn an_answer_from_before_a_job_had_its_money_does_not_give_it_back_to_the_process() {
    let home = Home::new().await;
    let budget = conformance::namespace("late");
    let counters = Unsteady::new(None);
    let world = over(&home, Arc::clone(&counters) as _, &[&budget]).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    counters.is_late.store(true, Ordering::SeqCst);
    counters.took.acquire().await.unwrap().forget();
    batch(&world, &file).await.expect("there is money for one");
    let held = world.held().await;
    // Once the process has taken again, it has noted what it heard.
    counters.may_hear.add_permits(1);
    counters.took.acquire().await.unwrap().forget();
    let ask = json!({ "model": "openai/gpt-4o-mini", "max_tokens": 800, "service_tier": "default", "messages": [{ "role": "user", "content": "hi" }] });
    let answer = world.post(SHOP, "/v1/chat/completions", &ask).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent: Value = serde_json::from_slice(&home.fake.requests().last().unwrap().body).unwrap();
    // At 600 nano-dollars each.
    assert!(sent["max_tokens"].as_i64().unwrap() * 600 <= 600_000 - held, "{sent} beside {held}");
    counters.is_late.store(false, Ordering::SeqCst);
    counters.may_hear.add_permits(100);
    world.accounts.close().await.unwrap();
}
