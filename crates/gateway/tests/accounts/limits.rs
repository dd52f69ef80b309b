//! Limits of a key.

use crate::support::{Home, tokens};

#[tokio::test]
async fn requests_tokens_and_concurrency_of_a_key_are_bounded_and_say_when_to_come_back() {
    let home = Home::new();
    let shop = home.shop("limits: { rpm: 5, tpm: 100000, concurrent: 3 }").await;
    let mut held: Vec<_> = (0..3).map(|_| shop.ask().unwrap()).collect();
    let refusal = shop.ask().err().unwrap();
    assert_eq!((refusal.code, refusal.status.as_u16()), ("concurrency_exceeded", 429));
    held.pop().unwrap().used(tokens(10, 10));
    held.push(shop.ask().unwrap());
    drop(held);
    shop.ask().unwrap().used(tokens(10, 10));
    let refusal = shop.ask().err().unwrap();
    assert_eq!(refusal.code, "rate_limit_exceeded");
    assert_eq!(refusal.retry_after.unwrap().as_secs(), 12);
    assert!(
        refusal.message.contains("`website`") && refusal.message.contains("5 requests"),
        "{}",
        refusal.message
    );
    assert_eq!(shop.accounts.remaining(&shop.grant).requests.unwrap().remaining, 0);
    home.clock.advance_us(12_000_000);
    assert!(shop.ask().is_ok());
}

#[tokio::test]
async fn tokens_are_counted_as_used_and_not_as_asked_for() {
    let home = Home::new();
    let shop = home.shop("limits: { tpm: 2500 }").await;
    // Each is let in with 250 + 1000; the answers turn out short.
    shop.ask().unwrap().used(tokens(20, 30));
    shop.ask().unwrap().used(tokens(20, 30));
    assert_eq!(shop.accounts.remaining(&shop.grant).tokens.unwrap().remaining, 2400);
    // A long one makes the next wait.
    shop.ask().unwrap().used(tokens(2000, 400));
    let refusal = shop.ask().err().unwrap();
    assert_eq!(refusal.code, "rate_limit_exceeded");
    assert_eq!(refusal.retry_after.unwrap().as_secs(), 30);
    home.clock.advance_us(30_000_000);
    assert!(shop.ask().is_ok());
}
