//! What rows say of caches: how often they answered, against what was aimed at, and what one would be good for.

use gateway::price::PriceTable;
use gateway::{
    CacheDecision, CacheNote, Fingerprints, ListRoutes, Settlement, Table, advise, report, routes,
};
use secrecy::SecretBox;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Asked, Home, Shop, tokens, until};

fn ask<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn end(asked: Asked, change: impl FnOnce(&mut Settlement)) {
    let attempts = vec![asked.attempt(None)];
    let mut settlement = asked.settlement(attempts);
    settlement.usage = tokens(1000, 200);
    change(&mut settlement);
    asked.reservation.settle(settlement);
}

async fn written(shop: &Shop, rows: usize) {
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.column("id").await.len() == rows }).await;
}

#[tokio::test]
async fn advice_says_what_a_cache_would_have_answered() {
    let home = Home::new();
    let shop = home.shop("").await;
    for number in 0..20_u128 {
        // One question every thirty seconds, and another one each time.
        for (question, samples) in [(Some(7), false), (Some(1_000 + number), true)] {
            end(shop.ask().unwrap(), |settlement| {
                settlement.cache_note =
                    Some(Box::new(CacheNote { question, samples, ..CacheNote::default() }));
            });
        }
        // Two that are not in the sample.
        end(shop.ask().unwrap(), |_| {});
        end(shop.ask().unwrap(), |_| {});
        home.clock.advance_us(30_000_000);
    }
    written(&shop, 80).await;
    let request: advise::AdviseCost = ask(json!({ "route": "fast" }));
    let prices = PriceTable::built_in();
    let outcome = advise::advise(&home.ctx(), &shop.ledger, &shop.config, &prices, &request).await.unwrap();
    let repeats = &outcome.value["routes"][0]["repeats"];
    assert_eq!((&repeats["looked_at"], &repeats["sampling"]), (&json!(40), &json!(20)), "{repeats}");
    // Kept for a minute every second one is answered; for ten minutes all but the first.
    let answered: Vec<_> =
        repeats["kept_for"].as_array().unwrap().iter().map(|it| it["answered"].as_u64().unwrap()).collect();
    assert_eq!(answered, [10, 19, 19, 19]);
    // 19 of 40 that were looked at cost 270,000 each; the route had twice as many requests.
    assert_eq!(repeats["kept_for"][1]["would_save_usd_nanos"], 19 * 270_000 * 2, "{repeats}");
    let finding = outcome.findings.iter().find(|finding| finding.code == "repeated_requests").unwrap();
    assert!(finding.title.contains("47.5 %") && finding.title.contains("600 s"), "{finding:?}");
    let advice = finding.recommendation.as_deref().unwrap();
    assert!(advice.contains("ai.routes.fast.cache: { ttl_s: 600, sampled: true }"), "{advice}");
    assert!(outcome.text.contains("came again: 25.0 % within 60 s, 47.5 % within 600 s"), "{}", outcome.text);
}

#[tokio::test]
async fn a_cache_that_misses_its_objective_is_a_finding_wherever_it_is_shown() {
    let home = Home::new();
    let shop = home.shop("").await;
    let decided = |decision: CacheDecision| {
        end(shop.ask_for("kept", Some(10)).unwrap(), |settlement| {
            settlement.cache = decision;
            if decision == CacheDecision::Hit {
                settlement.attempts.clear();
            }
        });
    };
    let usage = async |rows: usize| {
        written(&shop, rows).await;
        report::usage(&home.ctx(), &shop.ledger, &shop.config, &ask(json!({}))).await.unwrap()
    };
    (0..30).for_each(|_| decided(CacheDecision::Hit));
    (0..60).for_each(|_| decided(CacheDecision::Miss));
    let few = usage(90).await;
    assert!(few.findings.is_empty(), "too few to say: {}", few.text);
    assert!(
        few.text.contains("cache of `kept`: 33.3 % of 90 lookups found, objective 50.0 %"),
        "{}",
        few.text
    );
    (0..30).for_each(|_| decided(CacheDecision::Miss));
    (0..7).for_each(|_| decided(CacheDecision::Bypass));
    let missed = usage(127).await;
    assert_eq!(missed.findings[0].code, "cache_below_objective", "{}", missed.text);
    assert!(missed.text.contains("MISSES its objective of 50.0 %; 7 not looked up"), "{}", missed.text);
    assert_eq!(missed.value["caches"][0]["misses"], 90);

    let rates = report::hit_rates(&home.ctx(), &shop.ledger, &shop.config).await.unwrap();
    let list: ListRoutes = ask(json!({}));
    let listed = routes(&shop.config, &list, &std::collections::BTreeMap::new(), None, &rates).unwrap();
    assert!(listed.text.contains("25.0 % of 120 lookups"), "{}", listed.text);
    assert!(listed.findings.iter().any(|finding| finding.code == "cache_below_objective"));
    let prices = PriceTable::built_in();
    let advice =
        advise::advise(&home.ctx(), &shop.ledger, &shop.config, &prices, &ask(json!({}))).await.unwrap();
    assert!(advice.findings.iter().any(|finding| finding.code == "cache_below_objective"), "{}", advice.text);

    let fingerprints = Fingerprints::new(&SecretBox::new(Box::new([7; 32])));
    let table = Table::new(fingerprints, vec![shop.grant.project.clone()], []);
    let metrics = shop.accounts.metrics().text("shop", &table, &shop.accounts, Instant::now());
    for (name, value) in [("hit_rate", "0.25"), ("hit_rate_objective", "0.5")] {
        let line =
            format!("steward_ai_cache_{name}{{steward_project=\"shop\",steward_route=\"kept\"}} {value}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn answers_to_other_words_that_disagree_too_often_are_a_finding() {
    // Checked, disagreed, and whether that is told: few checks say little, and two in a hundred are borne.
    for (checked, disagreed, is_told) in
        [(19, 19, false), (20, 0, false), (50, 1, false), (50, 2, true), (20, 1, true)]
    {
        let home = Home::new();
        let shop = home.shop("").await;
        end(shop.ask_for("kept", Some(10)).unwrap(), |settlement| {
            settlement.cache = CacheDecision::Semantic;
            settlement.attempts.clear();
        });
        written(&shop, 1).await;
        let at = shop.now().as_microsecond();
        let mut write = ledger::Write::new();
        for number in 0..checked {
            write = write.exec(
                "INSERT INTO ai_cache_checks (project, id, of, at_us, route, similarity, agrees) \
                 VALUES ('shop', ?, 'req_of', ?, 'kept', 9900, ?)",
                vec![format!("req_{number}").into(), at.into(), i64::from(number >= disagreed).into()],
            );
        }
        shop.ledger.write(&home.ctx(), write).await.unwrap();
        let usage = report::usage(&home.ctx(), &shop.ledger, &shop.config, &ask(json!({}))).await.unwrap();
        let case = format!("{disagreed} of {checked}: {}", usage.text);
        let found = usage.findings.iter().find(|finding| finding.code == "semantic_cache_disagrees");
        assert_eq!(found.is_some(), is_told, "{case}");
        assert_eq!(usage.value["caches"][0]["disagreed"], disagreed, "{case}");
        if let Some(found) = found {
            assert!(found.title.contains(&format!("of {checked} answers of `kept`")), "{found:?}");
            let advice = found.recommendation.as_deref().unwrap();
            assert!(advice.contains("`ai.routes.kept.cache.semantic.threshold`"), "{advice}");
        }
        shop.accounts.close().await.unwrap();
    }
}
