//! Budgets and limits that several daemons share, each with a state of its own, over a real Redis.

use std::sync::Arc;

use contract::{SharedCounters, TakeSlice};
use counters_redis::{RedisConfig, RedisCounters};
use gateway::{Accounts, Refusal};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Home, PROJECT, Shop, tokens, until, use_up};

const EACH: i64 = 750_000;

async fn daemon(home: &Home, budget: &str) -> Shop {
    // A name of its own keeps runs apart.
    let yaml = format!("budgets: {{ {budget}: {{ usd: 0.0075, per: day, scope: project }} }}");
    over(home, conformance::server("STEWARD_TEST_REDIS_URL"), &yaml).await
}

async fn over(home: &Home, url: String, yaml: &str) -> Shop {
    let counters = RedisCounters::new(&RedisConfig { url, user: None }, None).unwrap();
    let shared: Arc<dyn SharedCounters> = Arc::new(counters);
    let ledger = home.ledger().await;
    let accounts = Accounts::open_shared(ledger.clone(), home.clock.clone(), Some(shared)).await.unwrap();
    Shop::over(ledger, accounts, yaml, home.clock.clone()).await
}

/// A daemon whose only key has this name and these limits.
async fn limited(home: &Home, url: String, key: &str, limits: &str) -> Shop {
    let mut shop = over(home, url, &format!("limits: {{ {limits} }}")).await;
    Arc::get_mut(&mut shop.grant).unwrap().name = key.into();
    shop
}

fn redis() -> String {
    conformance::server("STEWARD_TEST_REDIS_URL")
}

/// How many of so many requests at once are let in, as the gateway asks: who is told that a share is on its way, waits
/// for it and asks again.
async fn let_in(shop: &Shop, requests: usize) -> usize {
    let mut count = 0;
    for _ in 0..requests {
        let mut waited = 0;
        let asked = loop {
            match shop.ask() {
                Err(refusal) if refusal.on_its_way && waited < 3 => {
                    waited += 1;
                    gateway::Metering::replenished(&shop.accounts).await;
                }
                decided => break decided,
            }
        };
        match asked {
            Ok(asked) => {
                asked.used(tokens(10, 10));
                count += 1;
            }
            Err(refusal) => assert_eq!(refusal.code, "rate_limit_exceeded", "{}", refusal.message),
        }
    }
    count
}

/// What a daemon may use at once.
fn left(shop: &Shop) -> u64 {
    shop.accounts.remaining(&shop.grant).requests.map_or(0, |left| left.remaining)
}

/// A minute later by both clocks.
fn minute_later(homes: [&Home; 2]) {
    for home in homes {
        home.clock.advance_us(60_000_000);
    }
}

#[tokio::test]
async fn two_daemons_together_let_in_no_more_than_the_limit_and_both_have_a_part() {
    let (here, there) = (Home::new(), Home::new());
    let key = conformance::namespace("limit");
    let first = limited(&here, redis(), &key, "rpm: 100").await;
    // Alone it has the whole limit, at once.
    assert_eq!(let_in(&first, 120).await, 100);
    let second = limited(&there, redis(), &key, "rpm: 100").await;
    // What a daemon may use before it has a part: a tenth.
    let early = let_in(&second, 120).await;
    assert!((1..=10).contains(&early), "{early}");
    assert_eq!(let_in(&first, 20).await, 0, "nobody gets anything for having let go of a part");
    // Both want more than there is, so each gets half; from now on no minute sees more than the limit.
    until("both have half", || async {
        minute_later([&here, &there]);
        let (ours, theirs) = (left(&first), left(&second));
        let together = let_in(&first, 110).await + let_in(&second, 110).await;
        assert!(together <= 100 + 10, "{together} in a minute");
        (45..=55).contains(&ours) && (45..=55).contains(&theirs)
    })
    .await;
    for _ in 0..3 {
        minute_later([&here, &there]);
        let together = let_in(&first, 110).await + let_in(&second, 110).await;
        assert!((95..=100).contains(&together), "{together} in a minute");
    }
    // One that ends gives its part back.
    second.accounts.close().await.unwrap();
    until("the first one has all of it", || async {
        minute_later([&here, &there]);
        left(&first) == 100
    })
    .await;
    first.accounts.close().await.unwrap();
}

#[tokio::test]
async fn tokens_of_a_minute_are_shared_too() {
    let (here, there) = (Home::new(), Home::new());
    let key = conformance::namespace("tokens");
    // Each request takes 1,250 and uses 20.
    let first = limited(&here, redis(), &key, "tpm: 25000").await;
    let second = limited(&there, redis(), &key, "tpm: 25000").await;
    let mut held = Vec::new();
    let mut ask = |shop: &Shop| -> bool {
        let asked = shop.ask();
        let is_in = asked.is_ok();
        held.extend(asked.ok());
        is_in
    };
    for _ in 0..40 {
        ask(&first);
        ask(&second);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await; // Shares move by and by.
    }
    let taken = held.len() * 1250;
    // The first parts of both, of a tenth each, may come on top.
    assert!(taken <= 25_000 + 2 * 2_500, "{taken} tokens");
    assert!(taken >= 20_000, "{taken} tokens");
}

#[tokio::test]
async fn a_request_for_more_than_the_part_does_not_starve() {
    let (here, there) = (Home::new(), Home::new());
    let key = conformance::namespace("starve");
    let first = limited(&here, redis(), &key, "tpm: 2000").await;
    let second = limited(&there, redis(), &key, "tpm: 2000").await;
    // Each asks for 2,150 again and again, which is more than the whole limit; of that half is its own.
    let mut let_in = (0, 0);
    until("both are let in, again and again", || {
        minute_later([&here, &there]);
        for (shop, count) in [(&first, &mut let_in.0), (&second, &mut let_in.1)] {
            if let Ok(asked) = shop.ask_for("fast", Some(1900)) {
                asked.used(tokens(10, 10));
                *count += 1;
            }
        }
        let enough = let_in.0 >= 20 && let_in.1 >= 20;
        async move { enough }
    })
    .await;
}

#[tokio::test]
async fn the_part_of_a_daemon_that_was_killed_comes_back() {
    let (here, there) = (Home::new(), Home::new());
    let key = conformance::namespace("killed");
    let first = limited(&here, redis(), &key, "rpm: 100").await;
    assert_eq!(let_in(&first, 100).await, 100);
    first.accounts.abandon();
    let second = limited(&there, redis(), &key, "rpm: 100").await;
    let early = let_in(&second, 120).await;
    assert!(early <= 10, "the first one holds it all: {early}");
    // Ten seconds by the server's clock.
    until("the second one has all of it", || async {
        minute_later([&here, &there]);
        left(&second) == 100
    })
    .await;
    second.accounts.close().await.unwrap();
}

#[tokio::test]
async fn without_the_counters_a_tenth_of_the_limit_is_let_in_and_nobody_waits() {
    let home = Home::new();
    // Nothing listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let shop = limited(&home, format!("redis://127.0.0.1:{port}"), "website", "rpm: 100").await;
    assert_eq!(let_in(&shop, 50).await, 10);
    let refusal: Box<Refusal> = shop.ask().err().unwrap();
    assert!(!refusal.on_its_way, "nobody waits for what does not come");
    assert_eq!((refusal.code, refusal.retry_after.unwrap().as_secs()), ("rate_limit_exceeded", 6));
    assert!(
        refusal.message.contains("100 requests in a minute") && refusal.message.contains("10 that are"),
        "{}",
        refusal.message
    );
    // It goes on at that pace, and usage is written all the while.
    home.clock.advance_us(60_000_000);
    assert_eq!(let_in(&shop, 50).await, 10);
    shop.accounts.flush().await.unwrap();
    shop.accounts.close().await.unwrap();
}

#[tokio::test]
async fn a_daemon_keeps_its_part_while_the_counters_are_gone_and_shares_again_afterwards() {
    let (here, there) = (Home::new(), Home::new());
    let key = conformance::namespace("cut");
    let line = Line::to(redis()).await;
    let first = limited(&here, line.url(), &key, "rpm: 100").await;
    assert_eq!(let_in(&first, 120).await, 100);
    line.cut(true);
    minute_later([&here, &there]);
    assert_eq!(let_in(&first, 120).await, 100, "what it held it still holds");
    // The other one hears nothing of it, until the lease has ended, and then has all.
    let second = limited(&there, redis(), &key, "rpm: 100").await;
    until("the second one has all of it", || async {
        minute_later([&here, &there]);
        let_in(&second, 1).await;
        left(&second) >= 99
    })
    .await;
    // Now both count with all of it: the counters cannot tell while they are cut off. Back again, they divide it.
    line.cut(false);
    until("both have half", || async {
        minute_later([&here, &there]);
        let (ours, theirs) = (left(&first), left(&second));
        let_in(&first, 110).await;
        let_in(&second, 110).await;
        (45..=55).contains(&ours) && (45..=55).contains(&theirs)
    })
    .await;
    first.accounts.close().await.unwrap();
    second.accounts.close().await.unwrap();
}

/// A line to a server that can be cut.
struct Line {
    port: u16,
    is_cut: Arc<tokio::sync::watch::Sender<bool>>,
}

impl Line {
    async fn to(url: String) -> Self {
        let address = url.trim_start_matches("redis://").split('/').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_cut = Arc::new(tokio::sync::watch::Sender::new(false));
        let state = Arc::clone(&is_cut);
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut cut = state.subscribe();
                let address = address.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(&address).await.unwrap();
                    tokio::select! {
                        biased;
                        _ = cut.wait_for(|cut| *cut) => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { port, is_cut }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn cut(&self, cut: bool) {
        self.is_cut.send_replace(cut);
    }
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
async fn open_jobs_leave_a_daemon_that_is_alone_all_that_they_do_not_hold() {
    let home = Home::new();
    let budget = conformance::namespace("open");
    let counters = RedisCounters::new(&RedisConfig { url: redis(), user: None }, None).unwrap();
    let today: jiff::Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
    let counter = format!("{PROJECT}/{budget}/project/{PROJECT}/{}", today.as_microsecond());
    for job in 0..9 {
        let holder = format!("job/{job}");
        let ask = TakeSlice {
            counter: &counter,
            holder: &holder,
            limit: 10 * EACH,
            needs: EACH / 10,
            keep_for: std::time::Duration::from_hours(1),
        };
        let all = counters.take(&home.ctx(), &ask).await.unwrap().amount;
        counters.give_back(&home.ctx(), &counter, &holder, all - EACH / 10).await.unwrap();
    }
    let shop = daemon(&home, &budget).await;
    for _ in 0..9 {
        assert_eq!(shop.use_all(), Some(EACH));
    }
    assert_ne!(shop.use_all(), Some(EACH), "the jobs hold nine tenths of it");
    shop.accounts.close().await.unwrap();
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
