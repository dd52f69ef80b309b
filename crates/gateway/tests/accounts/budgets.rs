//! Budgets over several requests, periods, processes and restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use contract::Severity;
use contract::ai::FailureClass;
use gateway::{Accounts, Ending, What};

use crate::support::{Home, PROJECT, Shop, tokens, until, use_up};

/// What one request of these tests can cost at most.
const EACH: i64 = 750_000;
const TEN: &str = "budgets: { day: { usd: 0.0075, per: day, scope: project } }";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_at_once_on_money_for_ten_let_in_ten_and_spend_no_more() {
    let home = Home::new();
    let shop = home.shop(TEN).await;
    let let_in = AtomicUsize::new(0);
    let together = std::sync::Barrier::new(200);
    std::thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| {
                together.wait();
                match shop.ask() {
                    Ok(asked) => {
                        let_in.fetch_add(1, Ordering::SeqCst);
                        asked.used(tokens(1000, 1000));
                    }
                    Err(refusal) => {
                        assert_eq!((refusal.code, refusal.status.as_u16()), ("budget_exceeded", 402));
                        assert!(
                            refusal.message.contains("`day` of the project `shop`"),
                            "{}",
                            refusal.message
                        );
                        assert!(refusal.message.contains("2026-11-24T00:00:00Z"), "{}", refusal.message);
                        assert_eq!(refusal.retry_after.unwrap().as_secs(), 14 * 3600);
                    }
                }
            });
        }
    });
    assert_eq!(let_in.into_inner(), 10);
    shop.accounts.flush().await.unwrap();
    until("all is written", || async { shop.spent().await == 10 * EACH }).await;
    shop.accounts.close().await.unwrap();
    assert!(shop.ledger.verify().await.unwrap().is_whole());
    // Also for who comes after a restart.
    let again = home.shop(TEN).await;
    assert_eq!(again.ask().err().unwrap().code, "budget_exceeded");
    assert_eq!(again.accounts.standings(PROJECT)[0].spent.nanos(), 10 * EACH);
}

#[tokio::test]
async fn what_is_not_used_is_there_for_the_next() {
    let home = Home::new();
    let shop = home.shop(TEN).await;
    for _ in 0..40 {
        // 100 and 100 tokens cost a tenth of what is set aside.
        shop.ask().expect("there is money").used(tokens(100, 100));
    }
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.spent().await == 40 * EACH / 10 }).await;
    // A request that was let in and never sent costs nothing.
    let before = shop.accounts.standings(PROJECT)[0].clone();
    drop(shop.ask().unwrap().reservation);
    let after = shop.accounts.standings(PROJECT)[0].clone();
    assert_eq!((after.spent, after.in_flight), (before.spent, before.in_flight));
}

#[tokio::test]
async fn two_processes_on_one_state_together_never_overspend_and_share_what_there_is() {
    let home = Home::new();
    let first = home.shop(TEN).await;
    let second = home.shop(TEN).await;
    let spent = use_up(&first, &second, 0).await;
    for shop in [&first, &second] {
        assert_eq!(shop.ask().err().unwrap().code, "budget_exceeded");
        shop.accounts.flush().await.unwrap();
    }
    until("both have written", || async { first.spent().await == spent }).await;
    second.accounts.close().await.unwrap();
    first.accounts.close().await.unwrap();
    let rows = first.ledger.query("SELECT spent_usd_nanos FROM ai_accounts", Vec::new()).await.unwrap();
    assert_eq!(rows[0].get_i64("spent_usd_nanos").unwrap(), spent);
    let left = first.ledger.query("SELECT * FROM ai_slices", Vec::new()).await.unwrap();
    assert!(left.is_empty(), "slices are given back");
}

#[tokio::test]
async fn two_processes_share_what_jobs_do_not_hold() {
    let home = Home::new();
    let today: jiff::Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
    let job = ledger::Write::new().exec(
        "INSERT INTO ai_slices (project, account, period_us, holder, amount_usd_nanos, spent_usd_nanos, expires_us) \
         VALUES (?, 'day/project/shop', ?, 'job/1', ?, 0, ?)",
        vec![PROJECT.into(), today.as_microsecond().into(), (9 * EACH).into(), i64::MAX.into()],
    );
    home.ledger().await.write(&home.ctx(), job).await.unwrap();
    let first = home.shop(TEN).await;
    let second = home.shop(TEN).await;
    // The first one has all that is left, uses nothing, and gives half of it to the second one.
    let mut used = None;
    until("the second one has its part", || {
        used = second.use_all();
        let has = used.is_some();
        async move { has }
    })
    .await;
    assert!(used.unwrap() <= EACH / 2, "{used:?}");
    first.accounts.close().await.unwrap();
    second.accounts.close().await.unwrap();
}

/// What is looked after by the clock is so also while there is always something to write.
#[tokio::test]
async fn a_daemon_that_is_never_idle_shares_its_slices_all_the_same() {
    let home = Home::new();
    let first = home.shop(TEN).await;
    // Now that it has all there is, and some of its ticks are behind it.
    until("it has all", || async { first.accounts.standings(PROJECT).len() == 1 }).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let second = home.shop(TEN).await;
    let mut used = None;
    until("the second one has its part", || {
        // The first one has something to write at each moment, none of which costs anything.
        for _ in 0..4 {
            first.call("free").unwrap().used(tokens(0, 0));
        }
        used = second.use_all();
        let has = used.is_some();
        async move { has }
    })
    .await;
    first.accounts.close().await.unwrap();
    second.accounts.close().await.unwrap();
}

/// Asks without using anything; waits for money that is on its way.
async fn is_let_in(shop: &Shop, route: &str) -> bool {
    let mut let_in = false;
    until("it is decided", || {
        let decided = match shop.ask_for(route, Some(1000)) {
            Ok(_) => {
                let_in = true;
                true
            }
            Err(refusal) if refusal.on_its_way => false,
            Err(refusal) => {
                assert_eq!(refusal.code, "budget_exceeded", "{route}");
                true
            }
        };
        async move { decided }
    })
    .await;
    let_in
}

#[tokio::test]
async fn a_budget_bars_what_it_is_about_and_nothing_else() {
    // For one request of gpt-4o-mini and not for two. Asked for then, by the key that made it: its route, another
    // model, another provider; and its route by somebody else's key.
    for (scope, expected) in [
        ("scope: project", [false, false, false, false]),
        ("scope: key", [false, false, false, true]),
        ("scope: person", [false, false, false, true]),
        ("scope: person, of: anna", [false, false, false, true]),
        ("scope: route, of: fast", [false, true, true, false]),
        ("scope: provider, of: openai", [false, false, true, false]),
        ("scope: model, of: gpt-4o-mini", [false, true, true, false]),
    ] {
        for per in ["day", "month", "total"] {
            let home = Home::new();
            let shop = home.shop(&format!("budgets: {{ b: {{ usd: 0.0008, per: {per}, {scope} }} }}")).await;
            let other = shop.with_key("vk_2", "berta");
            assert!(is_let_in(&shop, "fast").await, "{scope} {per}");
            shop.ask().unwrap().used(tokens(1000, 1000));
            let asked = [(&shop, "fast"), (&shop, "both"), (&shop, "old"), (&other, "fast")];
            let mut let_in = Vec::new();
            for (shop, route) in asked {
                let_in.push(is_let_in(shop, route).await);
            }
            assert_eq!(let_in, expected, "{scope} {per}");
            shop.accounts.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_budget_of_a_provider_leaves_a_routes_other_targets() {
    let home = Home::new();
    let shop = home.shop("budgets: { b: { usd: 0.0008, per: day, scope: provider, of: openai } }").await;
    let allowed = |shop: &Shop| {
        let asked = shop.ask_for("mixed", Some(1000)).unwrap();
        [0, 1].map(|at| asked.reservation.allows(&asked.route.targets[at]))
    };
    assert!(is_let_in(&shop, "mixed").await);
    assert_eq!(allowed(&shop), [true, true]);
    shop.ask().unwrap().used(tokens(1000, 1000));
    assert_eq!(allowed(&shop), [false, true]);
    shop.accounts.close().await.unwrap();
}

#[tokio::test]
async fn a_budget_begins_anew_with_its_period_and_a_total_never() {
    const DAY_US: i64 = 86_400_000_000;
    // It is 23 November, ten in the morning.
    for (per, days, again) in
        [("day", 0, false), ("day", 1, true), ("month", 7, false), ("month", 8, true), ("total", 400, false)]
    {
        let home = Home::new();
        let shop =
            home.shop(&format!("budgets: {{ b: {{ usd: 0.0008, per: {per}, scope: project }} }}")).await;
        assert!(is_let_in(&shop, "fast").await, "{per}");
        shop.ask().unwrap().used(tokens(1000, 1000));
        home.clock.advance_us(days * DAY_US);
        assert_eq!(is_let_in(&shop, "fast").await, again, "{per} after {days} days");
        shop.accounts.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_new_day_begins_with_its_whole_budget() {
    let home = Home::new();
    let shop = home.shop(TEN).await;
    for _ in 0..10 {
        shop.ask().unwrap().used(tokens(1000, 1000));
    }
    assert!(shop.ask().is_err());
    home.clock.advance_us(13 * 3_600_000_000 + 59 * 60_000_000 + 59_000_000);
    assert!(shop.ask().is_err(), "a second before midnight");
    home.clock.advance_us(2_000_000);
    until("there is new money", || async { shop.ask().is_ok() }).await;
    shop.accounts.flush().await.unwrap();
    let periods = shop
        .ledger
        .query("SELECT period_us, spent_usd_nanos FROM ai_accounts ORDER BY period_us", Vec::new())
        .await
        .unwrap();
    assert_eq!(periods[0].get_i64("spent_usd_nanos").unwrap(), 10 * EACH);
    assert_eq!(periods.last().unwrap().get_i64("spent_usd_nanos").unwrap(), 0);
}

#[tokio::test]
async fn a_budget_that_is_new_within_its_month_knows_what_was_spent_before() {
    let home = Home::new();
    let shop = home.shop("").await;
    for _ in 0..4 {
        shop.ask().unwrap().used(tokens(1000, 1000));
    }
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.spent().await == 4 * EACH }).await;
    shop.accounts.close().await.unwrap();
    let yaml = "
budgets:
  month: { usd: 0.0045, per: month, scope: project }
  anna: { usd: 1, per: total, scope: person }
  berta: { usd: 0.0000001, per: total, scope: person, of: berta }
";
    let shop = home.shop(yaml).await;
    // That anna would come was not known before.
    until("her money has come", || async { shop.ask().is_ok() }).await;
    for standing in shop.accounts.standings(PROJECT) {
        assert_eq!(standing.spent.nanos() >= 4 * EACH, standing.budget != "berta", "{standing:?}");
    }
    // Money for two more: one thousand tokens each.
    shop.ask().unwrap().used(tokens(1000, 1000));
    shop.ask().unwrap().used(tokens(1000, 1000));
    assert!(shop.ask().is_err());
}

#[tokio::test]
async fn a_raised_budget_has_more_to_give_and_thresholds_are_told_once() {
    let home = Home::new();
    let shop = home.shop(TEN).await;
    for _ in 0..8 {
        shop.ask().unwrap().used(tokens(1000, 1000));
    }
    let mut told = Vec::new();
    for _ in 0..3_000 {
        told.extend(shop.accounts.alerts());
        if !told.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // The task looks by and by.
    }
    assert_eq!((told[0].severity, told[0].trigger.as_str()), (Severity::Warning, "cost_overrun"));
    assert!(told[0].title.contains("`day`"), "{told:?}");
    shop.ask().unwrap().used(tokens(1000, 1000));
    shop.ask().unwrap().used(tokens(1000, 1000));
    assert!(shop.ask().is_err());
    // As `ai.budget` writes it.
    let write = ledger::Write::new().exec(
        "INSERT OR REPLACE INTO ai_settings (project, name, value, set_us) VALUES (?, ?, ?, 0)",
        vec![PROJECT.into(), "budget/day".into(), r#"{"usd":"0.0090","instead_of":"0.0075"}"#.into()],
    );
    shop.ledger.write(&home.ctx(), write).await.unwrap();
    shop.prepare().await;
    assert!(shop.ask().is_ok() && shop.ask().is_ok());
}

#[tokio::test]
async fn the_project_file_makes_a_budget_tighter_and_not_wider() {
    let home = Home::new();
    let limits = async |yaml: &str| {
        let shop = home.shop(yaml).await;
        let standings = shop.accounts.standings(PROJECT).into_iter();
        let limits: Vec<_> = standings
            .map(|one| format!("{} {} {} {}", one.budget, one.scope, one.value, one.limit))
            .collect();
        shop.accounts.close().await.unwrap();
        limits.join("; ")
    };
    let day = |usd: &str| format!("budgets: {{ day: {{ usd: {usd}, per: day, scope: project }} }}");
    assert_eq!(limits(&day("0.0075")).await, "day project shop 0.0075");
    assert_eq!(limits(&day("0.0076")).await, "day project shop 0.0075", "more waits");
    assert_eq!(limits(&day("0.005")).await, "day project shop 0.005", "less counts at once");
    assert_eq!(limits(&day("0.0075")).await, "day project shop 0.005", "and there is no way back");
    assert_eq!(limits("").await, "day project shop 0.005", "nor is it gone with its line");
    let wider = "budgets: { day: { usd: 0.005, per: day, scope: key } }";
    assert_eq!(limits(wider).await, "day project shop 0.005", "as much for each key is more");
    let shop = home.shop("").await;
    while let Ok(asked) = shop.ask() {
        asked.used(tokens(1000, 10));
    }
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.spent().await > 3_000_000 }).await;
    assert!(shop.spent().await <= 5_000_000, "what is not in the file any more is kept to");
}

#[tokio::test]
async fn what_nobody_counted_is_estimated_and_cut_off_attempts_cost_their_prompt() {
    let home = Home::new();
    let shop = home.shop(TEN).await;
    shop.ask().unwrap().end(None, Ending::Disconnected, 300);
    // Timed out once, then answered.
    let mut asked = shop.ask().unwrap();
    asked.reservation.again().unwrap();
    let attempts = vec![asked.attempt(Some(FailureClass::Timeout)), asked.attempt(None)];
    let mut settlement = asked.settlement(attempts);
    settlement.usage = tokens(1000, 10);
    asked.reservation.settle(settlement);
    // Refused by the provider: nothing is charged.
    let asked = shop.ask().unwrap();
    let mut settlement = asked.settlement(vec![asked.attempt(Some(FailureClass::Rate))]);
    settlement.ending = Ending::Failed;
    settlement.status = 429;
    asked.reservation.settle(settlement);
    shop.accounts.flush().await.unwrap();
    until("four rows are written", || async { shop.column("id").await.len() == 4 }).await;
    // 250 × 150 + 100 × 600; then 1000 × 150 + 10 × 600 and its failed attempt's 250 × 150.
    assert_eq!(shop.column("cost_usd_nanos").await, ["97500", "156000", "37500", "0"]);
    assert_eq!(shop.column("estimated").await, ["1", "0", "1", "0"]);
    assert_eq!(shop.column("ending").await, ["disconnected", "complete", "failed", "failed"]);
    let standing = shop.accounts.standings(PROJECT)[0].clone();
    assert_eq!((standing.spent.nanos(), standing.in_flight.nanos()), (97_500 + 156_000 + 37_500, 0));
}

#[tokio::test]
async fn a_failed_attempt_is_billed_if_the_provider_may_have_worked() {
    let home = Home::new();
    let shop = home.shop(TEN).await;
    // The class alone does not tell: a connection can fail before and after the request was sent.
    for (class, may_cost) in [
        (FailureClass::Network, true),
        (FailureClass::Network, false),
        (FailureClass::Server, true),
        (FailureClass::Server, false),
        (FailureClass::Timeout, false),
    ] {
        let asked = shop.ask().unwrap();
        let mut attempts = vec![asked.attempt(Some(class)), asked.attempt(Some(FailureClass::Rate))];
        attempts[0].may_cost = may_cost;
        let mut settlement = asked.settlement(attempts);
        (settlement.ending, settlement.status) = (Ending::Failed, 502);
        asked.reservation.settle(settlement);
    }
    // A client that leaves while the next attempt is waited for was served by nobody.
    let asked = shop.ask().unwrap();
    let mut settlement = asked.settlement(vec![asked.attempt(Some(FailureClass::Rate))]);
    (settlement.ending, settlement.status) = (Ending::Disconnected, 499);
    asked.reservation.settle(settlement);
    // What providers do for nothing costs nothing when it fails either.
    let asked = shop.ask_what(What::CountTokens, shop.route("fast"), None).unwrap();
    let mut settlement = asked.settlement(vec![asked.attempt(Some(FailureClass::Timeout))]);
    (settlement.ending, settlement.status) = (Ending::Failed, 504);
    asked.reservation.settle(settlement);
    shop.accounts.flush().await.unwrap();
    // Its prompt: 250 × 150.
    assert_eq!(shop.column("cost_usd_nanos").await, ["0", "37500", "0", "0", "37500", "0", "0", "0", "0"]);
    let standing = shop.accounts.standings(PROJECT)[0].clone();
    assert_eq!((standing.spent.nanos(), standing.in_flight.nanos()), (2 * 37_500, 0));
}

#[tokio::test]
async fn calls_of_other_services_cost_what_is_declared_and_come_out_of_the_budgets() {
    let home = Home::new();
    let shop =
        home.shop("budgets: { day: { usd: 0.0025, per: day, scope: project } }\nlimits: { rpm: 4 }").await;
    shop.call("free").unwrap().used(None);
    shop.call("maps").unwrap().used(None);
    // One that was sent and not answered may have been done.
    let asked = shop.call("maps").unwrap();
    let mut settlement = asked.settlement(vec![asked.attempt(Some(FailureClass::Timeout))]);
    (settlement.ending, settlement.status) = (Ending::Failed, 504);
    asked.reservation.settle(settlement);
    let refusal = shop.call("maps").err().unwrap();
    assert_eq!((refusal.code, refusal.status.as_u16()), ("budget_exceeded", 402));
    assert!(refusal.message.contains("could cost 0.001 USD"), "{}", refusal.message);
    assert_eq!(shop.call("maps").err().unwrap().code, "rate_limit_exceeded", "refused ones count too");
    home.clock.advance_us(60_000_000);
    // Without a price a strict budget could not hold; that a call costs nothing is a price.
    let refusal = shop.call("open").err().unwrap();
    assert_eq!((refusal.code, refusal.status.as_u16()), ("price_unknown", 402));
    assert!(refusal.message.contains("`ai.pass_through.open.usd_per_call`"), "{}", refusal.message);
    shop.accounts.flush().await.unwrap();
    until("four rows are written", || async { shop.column("id").await.len() == 4 }).await;
    assert_eq!(shop.column("cost_usd_nanos").await, ["0", "1000000", "0", "1000000"]);
    assert_eq!(
        shop.column("price_row").await,
        ["pass_through/free", "pass_through/maps", "", "pass_through/maps"]
    );
    assert_eq!(shop.column("operation").await, ["pass_through"; 4]);
    shop.accounts.close().await.unwrap();
    // Where no budget is strict it is let in, and reported as unpriced.
    for yaml in ["", "budgets: { day: { usd: 1, per: day, scope: project, enforce: estimate } }"] {
        let home = Home::new();
        let shop = home.shop(yaml).await;
        shop.call("open").unwrap().used(None);
        shop.accounts.flush().await.unwrap();
        until("it is written", || async { shop.column("price_row").await == [""] }).await;
        assert_eq!(shop.column("cost_usd_nanos").await, ["0"]);
        shop.accounts.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_model_without_a_price_is_refused_where_a_budget_is_strict_and_reported_where_none_is() {
    let home = Home::new();
    let shop = home.shop(TEN).await;
    let refusal = shop.ask_for("odd", Some(10)).err().unwrap();
    assert_eq!(refusal.code, "price_unknown");
    assert!(refusal.message.contains("`openai/nobody-knows`"), "{}", refusal.message);
    shop.accounts.close().await.unwrap();
    let without = Home::new();
    let shop = without.shop("").await;
    shop.ask_for("odd", Some(10)).unwrap().used(tokens(5, 5));
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.column("price_row").await == [""] }).await;
}

/// What a thousand tokens each way of gpt-5-mini cost in each tier.
const STANDARD: i64 = 1000 * 250 + 1000 * 2_000;
const CHEAP: i64 = 1000 * 125 + 1000 * 1_000;
const PRIORITY: i64 = 1000 * 450 + 1000 * 3_600;

#[tokio::test]
async fn the_dearest_tier_that_could_be_billed_is_set_aside_and_the_reported_one_is_billed() {
    let home = Home::new();
    let shop = home.shop("budgets: { all: { usd: 5, per: total, scope: project } }").await;
    let (mini, cloud) = ("openai/gpt-5-mini", "cloud/gpt-5-mini");
    let (claude, google) = ("claude/claude-haiku-4-5", "google/gemini-2.5-flash");
    let spent = || shop.accounts.standings(PROJECT)[0].spent.nanos();
    for (model, asked, reported, reserved, billed) in [
        // Nothing said is `auto` at these two: the project's or the deployment's setting.
        (mini, None, Some("priority"), PRIORITY, PRIORITY),
        (mini, None, Some("default"), PRIORITY, STANDARD),
        (mini, None, Some("flex"), PRIORITY, CHEAP),
        (mini, None, None, PRIORITY, STANDARD),
        (mini, Some("auto"), Some("priority"), PRIORITY, PRIORITY),
        (mini, Some("auto"), Some("auto"), PRIORITY, STANDARD),
        (mini, Some("default"), Some("default"), STANDARD, STANDARD),
        (mini, Some("default"), None, STANDARD, STANDARD),
        (mini, Some("flex"), Some("flex"), STANDARD, CHEAP),
        (mini, Some("flex"), Some("default"), STANDARD, STANDARD),
        (mini, Some("flex"), None, STANDARD, CHEAP),
        (mini, Some("batch"), Some("default"), STANDARD, STANDARD),
        (mini, Some("priority"), Some("priority"), PRIORITY, PRIORITY),
        (mini, Some("priority"), Some("default"), PRIORITY, STANDARD),
        (mini, Some("priority"), None, PRIORITY, PRIORITY),
        (mini, Some("what-comes-next"), Some("priority"), PRIORITY, PRIORITY),
        (cloud, None, Some("priority"), PRIORITY, PRIORITY),
        (cloud, None, Some("default"), PRIORITY, STANDARD),
        (cloud, Some("default"), Some("default"), STANDARD, STANDARD),
        // Input may be a cache write for an hour; the table has no other tier.
        (claude, None, Some("standard"), 7_000_000, 6_000_000),
        (claude, None, Some("priority"), 7_000_000, 6_000_000),
        // Input may be sound. Nothing said is the standard tier.
        (google, None, None, 3_500_000, 2_800_000),
        (google, Some("PRIORITY"), None, 6_300_000, 5_040_000),
        (google, Some("FLEX"), None, 3_500_000, 1_400_000),
    ] {
        let case = format!("{model}, asked {asked:?}, reported {reported:?}");
        let route = shop.route(model);
        let mut admitted = None;
        until("there is money", || {
            admitted = shop.ask_in(What::Generate, Arc::clone(&route), Some(1000), asked, None).ok();
            let is_in = admitted.is_some();
            async move { is_in }
        })
        .await;
        let asked = admitted.unwrap();
        assert_eq!(shop.accounts.standings(PROJECT)[0].in_flight.nanos(), reserved, "{case}");
        let before = spent();
        let mut settlement = asked.settlement(vec![asked.attempt(None)]);
        settlement.usage = tokens(1000, 1000);
        settlement.service_tier = reported.map(Into::into);
        asked.reservation.settle(settlement);
        assert_eq!(spent() - before, billed, "{case}");
        assert!(billed <= reserved, "{case}");
    }
    shop.accounts.close().await.unwrap();
}

#[tokio::test]
async fn what_is_charged_beyond_tokens_is_refused_where_a_budget_is_strict() {
    for (yaml, is_strict) in [
        ("", false),
        ("budgets: { day: { usd: 1, per: day, scope: project, enforce: estimate } }", false),
        ("budgets: { day: { usd: 1, per: day, scope: project } }", true),
        // Of somebody else: what is spent past the accounts cannot be told from what is not.
        ("budgets: { theirs: { usd: 1, per: day, scope: person, of: berta } }", true),
    ] {
        let home = Home::new();
        let shop = home.shop(yaml).await;
        let ask = || shop.ask_in(What::Generate, shop.route("fast"), Some(10), None, Some("web_search"));
        if is_strict {
            let refusal = ask().err().unwrap();
            assert_eq!((refusal.code, refusal.status.as_u16()), ("price_unknown", 402), "{yaml}");
            let name = if yaml.contains("theirs") { "theirs" } else { "day" };
            for words in ["`web_search`".to_owned(), format!("`ai.budgets.{name}.enforce: estimate`")] {
                assert!(refusal.message.contains(&words), "{yaml}: {}", refusal.message);
            }
        } else {
            until("it is let in", || async { ask().is_ok() }).await;
        }
        shop.accounts.close().await.unwrap();
    }
}

#[tokio::test]
async fn who_waits_for_a_slice_gets_it() {
    let home = Home::new();
    let ledger = home.ledger().await;
    let accounts = Accounts::open(ledger.clone(), home.clock.clone()).await.unwrap();
    let yaml = "budgets: { each: { usd: 1, per: day, scope: model } }";
    let shop = Shop::over(ledger, accounts, yaml, home.clock.clone()).await;
    // Nobody knew before that this model would be asked for.
    let refusal = shop.ask_for("openai/gpt-4o", Some(10)).err().unwrap();
    assert!(refusal.on_its_way && refusal.retry_after.unwrap().as_secs() == 1, "{refusal:?}");
    until("its money has come", || async {
        gateway::Metering::replenished(&shop.accounts).await;
        shop.ask_for("openai/gpt-4o", Some(10)).is_ok()
    })
    .await;
}
