//! A state file that cannot be written: rows wait, then nothing more is let in, and nothing is lost.

use gateway::Accounts;

use crate::support::{Home, PROJECT, Shop, ledger_at, tokens, until};

#[tokio::test]
async fn while_the_disk_is_full_rows_wait_and_then_nothing_more_is_let_in() {
    let home = Home::new();
    let yaml = "budgets: { month: { usd: 1000000, per: month, scope: project } }";
    // Just large enough for the tables: soon there is no page left.
    let ledger = ledger_at(&home.path(), Some(130)).await;
    let accounts = Accounts::open(ledger.clone(), home.clock.clone()).await.unwrap();
    let shop = Shop::over(ledger, accounts, yaml, home.clock.clone()).await;
    let mut let_in: i64 = 0;
    let refusal = loop {
        match shop.ask() {
            Ok(asked) => {
                let_in += 1;
                asked.used(tokens(1000, 1000));
            }
            Err(refusal) => break refusal,
        }
        assert!(let_in < 100_000, "it is let in without end");
        if let_in % 500 == 0 {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!((refusal.code, refusal.status.as_u16()), ("accounts_unavailable", 503));
    until("the failure is known", || async { shop.accounts.flush().await.is_err() }).await;
    let refusal = shop.ask().err().unwrap();
    assert!(refusal.message.contains("disk is full"), "{}", refusal.message);
    assert_eq!(shop.accounts.standings(PROJECT)[0].spent.nanos(), let_in * 750_000);
    let written = i64::try_from(shop.column("id").await.len()).unwrap();
    let waiting = i64::try_from(shop.accounts.outstanding()).unwrap();
    assert_eq!(written + waiting, let_in, "every row is in the file or waits");
    assert!(waiting >= 4_000);
}

#[tokio::test]
async fn a_locked_state_file_delays_rows_and_loses_none() {
    let home = Home::new();
    let shop = home.shop("budgets: { month: { usd: 1, per: month, scope: project } }").await;
    let other = rusqlite::Connection::open(home.path()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for _ in 0..50 {
        shop.ask().unwrap().used(tokens(100, 100));
    }
    assert_eq!(shop.accounts.outstanding(), 50);
    other.execute_batch("COMMIT").unwrap();
    until("all rows are written", || async { shop.column("id").await.len() == 50 }).await;
    until("nothing waits", || async { shop.accounts.outstanding() == 0 }).await;
    assert_eq!(shop.spent().await, 50 * 75_000);
}
