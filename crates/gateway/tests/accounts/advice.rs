//! Advice: each kind where it is due, with the numbers behind it, and none where too little was measured.

use std::sync::Arc;
use std::time::Duration;

use contract::Finding;
use gateway::price::PriceTable;
use gateway::{CacheDecision, CacheNote, Ending, Settlement, advise};
use serde_json::json;
use wire::Usage;

use crate::support::{Home, Shop, tokens, until};

/// A request that this target of the route `both` answered: gpt-4.1 is 0, gpt-4.1-mini 1.
fn answered(shop: &Shop, target: usize, change: impl FnOnce(&mut Settlement)) {
    let asked = shop.ask_for("both", Some(1000)).unwrap();
    let mut attempt = asked.attempt(None);
    attempt.target = Arc::clone(&asked.route.targets[target]);
    let mut settlement = asked.settlement(vec![attempt]);
    settlement.usage = tokens(1000, 200);
    // What could wait for a batch is not the matter here.
    settlement.streaming = true;
    change(&mut settlement);
    asked.reservation.settle(settlement);
}

/// The findings once so many rows are written.
async fn found(home: &Home, shop: &Shop, rows: usize) -> Vec<Finding> {
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.column("id").await.len() == rows }).await;
    let request: advise::AdviseCost = serde_json::from_value(json!({})).unwrap();
    let prices = PriceTable::built_in();
    let outcome = advise::advise(&home.ctx(), &shop.ledger, &shop.config, &prices, &request).await.unwrap();
    for finding in &outcome.findings {
        assert!(outcome.text.contains(&finding.title), "people read it too: {}", outcome.text);
        assert_eq!(finding.evidence, [outcome.evidence[0].id.clone()]);
    }
    outcome.findings
}

fn codes(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.code.as_str()).collect()
}

fn took(milliseconds: u64) -> impl FnOnce(&mut Settlement) {
    move |settlement| settlement.duration = Duration::from_millis(milliseconds)
}

#[tokio::test]
async fn a_cheaper_model_is_named_with_its_success_and_its_time() {
    let home = Home::new();
    let shop = home.shop("").await;
    for number in 1..=20 {
        answered(&shop, 0, took(100 * number));
    }
    for number in 1..=19 {
        answered(&shop, 1, took(10 * number));
    }
    assert_eq!(codes(&found(&home, &shop, 39).await), Vec::<&str>::new(), "nineteen answers say too little");
    answered(&shop, 1, took(200));
    let findings = found(&home, &shop, 40).await;
    assert_eq!(codes(&findings), ["cheaper_model"]);
    // 20 × (1000 × 2000 + 200 × 8000), and 20 × (1000 × 400 + 200 × 1600).
    assert_eq!(
        findings[0].title,
        "the 20 requests that `openai/gpt-4.1` answered for 0.072 USD would have cost about 0.0144 USD with \
         `openai/gpt-4.1-mini`"
    );
    let advice = findings[0].recommendation.as_deref().unwrap();
    assert!(
        advice.contains("completed 100.0 % of its 20 requests (now 100.0 %), p95 190 ms (now 1900 ms)"),
        "{advice}"
    );
    assert_eq!(findings[0].object, "both");
}

#[tokio::test]
async fn a_cheaper_model_that_fails_more_often_is_not_advised() {
    let home = Home::new();
    let shop = home.shop("").await;
    for _ in 0..100 {
        answered(&shop, 0, |_| {});
        answered(&shop, 1, |_| {});
    }
    // One in a hundred less is within what chance does.
    answered(&shop, 1, |settlement| settlement.ending = Ending::Truncated);
    assert_eq!(codes(&found(&home, &shop, 201).await), ["cheaper_model"]);
    answered(&shop, 1, |settlement| settlement.ending = Ending::Truncated);
    assert_eq!(codes(&found(&home, &shop, 202).await), Vec::<&str>::new());
}

#[tokio::test]
async fn long_prompts_that_no_prompt_cache_answers_are_told() {
    let prompt = |input, cache_read| {
        move |settlement: &mut Settlement| {
            settlement.usage = Some(Usage { input, cache_read, output: 10, ..Usage::default() });
        }
    };
    // Tokens of each prompt, and how many of them the provider had.
    for (input, cache_read, is_told) in
        [(2_000, 0, true), (1_900, 100, true), (1_700, 300, false), (1_000, 0, false)]
    {
        let home = Home::new();
        let shop = home.shop("").await;
        for _ in 0..20 {
            answered(&shop, 1, prompt(input, cache_read));
        }
        let findings = found(&home, &shop, 20).await;
        let expected: &[&str] = if is_told { &["prompt_cache_unused"] } else { &[] };
        assert_eq!(codes(&findings), expected, "{cache_read} of {}", input + cache_read);
        if cache_read == 100 {
            assert_eq!(
                findings[0].title,
                "20 of 20 prompts to `openai/gpt-4.1-mini` are long enough for its prompt cache, which gave 5.0 % of \
                 their tokens"
            );
        }
    }
    // Short ones among them, and then more of those.
    let home = Home::new();
    let shop = home.shop("").await;
    for _ in 0..10 {
        answered(&shop, 1, prompt(2_000, 0));
        answered(&shop, 1, prompt(100, 0));
    }
    assert_eq!(codes(&found(&home, &shop, 20).await), ["prompt_cache_unused"]);
    answered(&shop, 1, prompt(100, 0));
    assert_eq!(codes(&found(&home, &shop, 21).await), Vec::<&str>::new());
}

#[tokio::test]
async fn a_cache_that_forgets_too_soon_is_told_what_longer_would_give() {
    // Replies are kept for ten minutes; each question comes four times, once in so many minutes.
    for (minutes, is_told) in [(14, true), (3, false)] {
        let home = Home::new();
        let shop = home.shop("").await;
        for number in 0..20_u128 {
            let asked = shop.ask_for("kept", Some(1000)).unwrap();
            let mut settlement = asked.settlement(vec![asked.attempt(None)]);
            settlement.usage = tokens(1000, 200);
            settlement.streaming = true;
            settlement.cache = CacheDecision::Miss;
            if !is_told && number % 4 > 0 {
                settlement.cache = CacheDecision::Hit;
                settlement.attempts.clear();
            }
            let note = CacheNote { question: Some(number / 4), samples: false, ..CacheNote::default() };
            settlement.cache_note = Some(Box::new(note));
            asked.reservation.settle(settlement);
            home.clock.advance_us(minutes * 60_000_000);
        }
        let findings = found(&home, &shop, 20).await;
        let mine: Vec<&Finding> =
            findings.iter().filter(|finding| finding.code == "kept_too_short").collect();
        assert_eq!(mine.len(), usize::from(is_told), "every {minutes} minutes: {findings:?}");
        if let [finding] = mine[..] {
            assert_eq!(
                finding.title,
                "75.0 % more of its requests repeat within 3600 s than within the 600 s for which replies are kept"
            );
            let advice = finding.recommendation.as_deref().unwrap();
            assert!(advice.contains("`ai.routes.kept.cache.ttl_s: 3600`"), "{advice}");
        }
    }
}
