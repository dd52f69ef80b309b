//! A process that is killed: what it spent is known, what it had set aside is taken, the rest is free at once.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use gateway::Accounts;

use crate::support::{Home, PROJECT, Shop, column, ledger_at, tokens, until};

const STATE: &str = "STEWARD_TEST_ACCOUNTS_STATE";
const BUDGET: &str = "budgets: { month: { usd: 0.0075, per: month, scope: project } }";

/// Not a test of its own: the process that is killed.
#[tokio::test]
async fn the_process_that_is_killed() {
    let Ok(path) = std::env::var(STATE) else { return };
    let home = Home::new();
    let ledger = ledger_at(path.as_ref(), None).await;
    let accounts = Accounts::open(ledger.clone(), home.clock.clone()).await.unwrap();
    let shop = Shop::over(ledger, accounts, BUDGET, home.clock.clone()).await;
    let streams = [shop.ask().unwrap(), shop.ask().unwrap()];
    shop.ask().unwrap().used(tokens(1000, 100));
    shop.accounts.flush().await.unwrap();
    until("reservations are in the file", || async {
        let open = shop.ledger.query("SELECT id FROM ai_reservations", Vec::new()).await.unwrap();
        open.len() == 2 && shop.spent().await > 0
    })
    .await;
    println!("under way {}", streams.len());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_process_loses_no_spend_and_holds_no_money() {
    let home = Home::new();
    // The state file is made before, so that both processes find it whole.
    home.ledger().await.close().await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["crash::the_process_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(STATE, home.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("under way 2")));
    assert!(started.is_some(), "the other process ended early");
    child.kill().unwrap();
    child.wait().unwrap();

    let shop = home.shop(BUDGET).await;
    // 1000 × 150 + 100 × 600 were counted; two times 750,000 had been set aside.
    assert_eq!(shop.spent().await, 210_000 + 2 * 750_000);
    let mut endings = column(&shop.ledger, "ending").await;
    endings.sort();
    assert_eq!(endings, ["complete", "lost", "lost"]);
    let mut estimated = column(&shop.ledger, "estimated").await;
    estimated.sort();
    assert_eq!(estimated, ["0", "2", "2"]);
    let standing = shop.accounts.standings(PROJECT)[0].clone();
    assert_eq!(standing.spent.nanos(), 1_710_000);
    let told = shop.accounts.alerts();
    assert!(told.iter().any(|alarm| alarm.title.contains("2 AI calls were cut off")), "{told:?}");
    // All that is left can be spent: 5,790,000 are seven more.
    let mut let_in = 0;
    while let Ok(asked) = shop.ask() {
        if asked.reservation.max_tokens().is_some() {
            break;
        }
        asked.used(tokens(1000, 1000));
        let_in += 1;
    }
    assert_eq!(let_in, 7);
    shop.accounts.close().await.unwrap();
    assert!(shop.ledger.verify().await.unwrap().is_whole());
    let events =
        shop.ledger.events(ledger::EventFilter::project(PROJECT).kind("ai.usage.recovered")).await.unwrap();
    assert_eq!(events[0].body.as_ref().unwrap()["taken_as_spent_usd_nanos"], 1_500_000);
}

#[tokio::test]
async fn a_process_elsewhere_that_is_silent_for_long_is_gone() {
    let home = Home::new();
    let shop = home.shop(BUDGET).await;
    let write = ledger::Write::new()
        .exec(
            "INSERT INTO ai_slices VALUES (?, 'month/project/shop', 1793491200000000, 'elsewhere/1/1/1', 700, 0, ?)",
            vec![PROJECT.into(), (home.now().as_microsecond() + 120_000_000).into()],
        )
        .exec(
            "INSERT INTO ai_reservations VALUES ('req_0', ?, 'elsewhere/1/1/1', ?, 500, ?)",
            vec![
                PROJECT.into(),
                home.now().into(),
                r#"{"key_id":"vk","key_name":"k","person":"","route":"fast","provider":"openai","model":"m",
                    "operation":"chat","price_table":"t","draws":[["month/project/shop",1793491200000000,500]]}"#
                    .into(),
            ],
        );
    shop.ledger.write(&home.ctx(), write).await.unwrap();
    let again = Accounts::open(shop.ledger.clone(), home.clock.clone()).await.unwrap();
    assert_eq!(shop.spent().await, 0, "it may still live");
    again.close().await.unwrap();
    home.clock.advance_us(120_000_001);
    let again = Accounts::open(shop.ledger.clone(), home.clock.clone()).await.unwrap();
    assert_eq!(shop.spent().await, 500);
    again.close().await.unwrap();
}
