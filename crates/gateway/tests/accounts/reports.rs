//! What the rows say: sums, receipts, other prices, advice, exports.

use contract::Outcome;
use gateway::price::PriceTable;
use gateway::{advise, receipt, reconcile, report};
use serde_json::json;

use crate::support::{Home, Shop, tokens, until};

/// Twice the prices of both models; the small one's were a third above the published ones before September.
const DOUBLED: &str = r#"{ "table": "doubled", "models": [
  { "provider": "openai", "model": "gpt-4o-mini", "prices": [
    { "standard": { "input": "0.2", "output": "0.8" } },
    { "from": "2026-09-01", "standard": { "input": "0.3", "output": "1.2" } } ] },
  { "provider": "openai", "model": "gpt-4o", "prices": [ { "standard": { "input": "5", "output": "20" } } ] } ] }"#;

async fn shop_with_usage(home: &Home) -> Shop {
    let shop = home.shop("").await;
    for _ in 0..30 {
        shop.ask().unwrap().used(tokens(1000, 200));
    }
    for _ in 0..5 {
        shop.ask_for("openai/gpt-4o", Some(10)).unwrap().used(tokens(100, 10));
    }
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.column("id").await.len() == 35 }).await;
    shop
}

fn ask<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn sums_replays_and_the_forecast_agree_with_the_rows() {
    let home = Home::new();
    let shop = shop_with_usage(&home).await;
    let ctx = home.ctx();
    let cost = |value| {
        let (shop, ctx) = (&shop, &ctx);
        async move {
            let request: report::ShowCost = ask(value);
            let other = match request.table.as_deref() {
                Some("doubled") => Some(PriceTable::built_in().with_overrides(DOUBLED).unwrap()),
                Some(_) => Some(PriceTable::built_in()),
                None => None,
            };
            let other = other.as_ref();
            report::show_cost(ctx, &shop.ledger, &shop.config, other, &request).await.unwrap()
        }
    };
    // 30 × (1000 × 150 + 200 × 600) + 5 × (100 × 2500 + 10 × 10,000)
    let total: i64 = 30 * 270_000 + 5 * 350_000;
    for by in [
        "model",
        "provider",
        "route",
        "key",
        "person",
        "day",
        "month",
        "tier",
        "operation",
        "ending",
        "cache",
        "project",
    ] {
        let outcome = cost(json!({ "by": by })).await;
        assert_eq!(outcome.value["total"]["cost_usd_nanos"], total, "{by}");
        assert_eq!(outcome.value["total"]["requests"], 35, "{by}");
    }
    let by_model = cost(json!({ "by": "model", "table": "any" })).await;
    assert_eq!(by_model.value["replay"]["cost_usd_nanos"], total, "the same prices give the same cost");
    assert_eq!(by_model.value["replay"]["by"]["openai/gpt-4o-mini"], 30 * 270_000);
    // At doubled prices, and at those of a day before the small model had them.
    let (mini, large) = (30 * 270_000, 5 * 350_000);
    for (prices_of, [of_mini, of_large]) in [
        (None, [2 * mini, 2 * large]),
        (Some("2026-11-23"), [2 * mini, 2 * large]),
        (Some("2026-08-31"), [mini * 4 / 3, 2 * large]),
    ] {
        let request = json!({ "by": "model", "table": "doubled", "prices_of": prices_of });
        let replay = cost(request).await.value["replay"].clone();
        assert_eq!(replay["by"]["openai/gpt-4o-mini"], of_mini, "{prices_of:?}: {replay}");
        assert_eq!(replay["by"]["openai/gpt-4o"], of_large, "{prices_of:?}: {replay}");
        assert_eq!(replay["cost_usd_nanos"], of_mini + of_large, "{prices_of:?}: {replay}");
    }
    assert_eq!(cost(json!({})).await.value["total"]["cost_usd_nanos"], total, "what was paid stays");
    let outcome = cost(json!({ "by": "day", "route": "fast" })).await;
    assert_eq!(outcome.value["rows"][0]["name"], "2026-11-23");
    assert_eq!(outcome.value["total"]["requests"], 30);
    assert!(
        cost(json!({ "since": "2026-10-01", "until": "2026-11-01" })).await.text.starts_with("no AI calls")
    );
    for field in ["since", "until", "prices_of"] {
        let request: report::ShowCost = ask(json!({ field: "yesterday" }));
        let error = report::show_cost(&ctx, &shop.ledger, &shop.config, None, &request).await.unwrap_err();
        assert!(error.to_string().contains("`yesterday` is no day"), "{field}: {error}");
    }

    // Three days later; the middle of what was spent on one of four days.
    home.clock.advance_us(4 * 86_400_000_000);
    let request: report::ForecastCost = ask(json!({}));
    let outcome = report::forecast(&home.ctx(), &shop.ledger, &[], &request).await.unwrap();
    // As the guide shows it.
    assert_eq!(
        outcome.text.trim_end(),
        "spent this month  0.00985 USD\na day             0.0024625 USD (mean of the last 4 whole days)\n\
         end of the month  0.018673958 USD (0.018673958 to 0.018673958 by the last two weeks)"
    );
    assert_eq!(outcome.value["days_looked_at"], 4);
    assert_eq!(outcome.value["per_day_usd_nanos"], total / 4);
    assert_eq!(outcome.value["spent_usd_nanos"], total);
}

#[tokio::test]
async fn a_forecast_has_parts_that_add_up_and_says_when_budgets_run_out() {
    let home = Home::new();
    let budgets = "budgets:
  month: { usd: 0.03, per: month, scope: project }
  day: { usd: 1, per: day, scope: project }
  mini: { usd: 0.02, per: total, scope: model, of: gpt-4o-mini }
  large: { usd: 5, per: total, scope: model, of: gpt-4o }
";
    let shop = home.shop(budgets).await;
    // The first day: 8,100,000 of the small model, 1,750,000 of the large one. The second: the half of the small one.
    for _ in 0..30 {
        shop.ask().unwrap().used(tokens(1000, 200));
    }
    for _ in 0..5 {
        shop.ask_for("openai/gpt-4o", Some(10)).unwrap().used(tokens(100, 10));
    }
    home.clock.advance_us(86_400_000_000);
    until("there is money on the second day", || async { shop.ask().map(drop).is_ok() }).await;
    for _ in 0..15 {
        shop.ask().unwrap().used(tokens(1000, 200));
    }
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.column("id").await.len() == 50 }).await;
    home.clock.advance_us(86_400_000_000);
    let ctx = home.ctx();
    let forecast = async |request: serde_json::Value| {
        let standings = gateway::settings::standings(&ctx, &shop.ledger, &shop.config).await.unwrap();
        report::forecast(&ctx, &shop.ledger, &standings, &ask(request)).await
    };
    // It is the 25th, at ten: 5 and 14/24 days are left. 8,100,000 + 1,750,000 + 4,050,000 in two days.
    let rest = |per_day: i64| i64::try_from(i128::from(per_day) * (5 * 24 + 14) / 24).unwrap();
    let whole = forecast(json!({})).await.unwrap();
    assert_eq!(whole.value["per_day_usd_nanos"], 6_950_000, "{}", whole.text);
    assert_eq!(whole.value["end_of_month_usd_nanos"], 13_900_000 + rest(6_950_000));
    let parts = forecast(json!({ "by": "model" })).await.unwrap();
    let of = |row: usize, field: &str| parts.value["rows"][row][field].as_i64().unwrap();
    let names = [&parts.value["rows"][0]["name"], &parts.value["rows"][1]["name"]];
    assert_eq!(names, ["openai/gpt-4o-mini", "openai/gpt-4o"], "the dearest first");
    assert_eq!((of(0, "per_day_usd_nanos"), of(1, "per_day_usd_nanos")), (6_075_000, 875_000));
    for field in ["spent_usd_nanos", "per_day_usd_nanos", "end_of_month_usd_nanos"] {
        let sum = of(0, field) + of(1, field);
        assert!((sum - parts.value[field].as_i64().unwrap()).abs() <= 1, "{field}: {}", parts.value);
    }
    assert!(
        parts.text.contains("end of the month") && parts.text.contains("openai/gpt-4o-mini"),
        "{}",
        parts.text
    );
    let only = forecast(json!({ "route": "fast" })).await.unwrap();
    assert_eq!((&only.value["spent_usd_nanos"], &only.value["budgets"]), (&json!(12_150_000), &json!([])));
    assert_eq!(forecast(json!({ "model": "nobody" })).await.unwrap().value["spent_usd_nanos"], 0);
    let error = forecast(json!({ "by": "day" })).await.unwrap_err();
    assert!(error.to_string().contains("no forecast by day"), "{error}");

    // 16,100,000 are left of the month's at 6,950,000 a day, 7,850,000 of the small model's at 6,075,000: not seven days' mean,
    // as there were only two days.
    let budget = |name: &str| {
        let all = whole.value["budgets"].as_array().unwrap();
        all.iter()
            .find(|budget| budget["budget"] == name)
            .unwrap_or_else(|| panic!("{name}: {all:?}"))
            .clone()
    };
    assert_eq!(budget("month")["per_day_usd_nanos"], 6_950_000);
    assert!(
        budget("month")["runs_out"].as_str().unwrap().starts_with("2026-11-27T17:3"),
        "{}",
        budget("month")
    );
    assert!(
        budget("mini")["runs_out"].as_str().unwrap().starts_with("2026-11-26T17:0"),
        "{}",
        budget("mini")
    );
    assert!(budget("day")["runs_out"].is_null(), "it lasts: {}", budget("day"));
    // One that never begins anew has a day, but nobody is warned for years.
    assert!(budget("large")["runs_out"].as_str().unwrap().starts_with("2042-07"), "{}", budget("large"));
    let found: Vec<_> =
        whole.findings.iter().map(|found| (found.code.as_str(), found.object.as_str())).collect();
    assert_eq!(found, [("budget_runs_out", "mini/gpt-4o-mini"), ("budget_runs_out", "month/shop")]);
    for line in [
        "budget `mini` of model `gpt-4o-mini`: used up on 2026-11-26 at this pace",
        "budget `month` of project `shop`: used up on 2026-11-27 at this pace",
    ] {
        assert!(whole.text.contains(line), "{line}: {}", whole.text);
    }
}

#[tokio::test]
async fn a_receipt_proves_itself_and_shows_when_a_row_was_changed() {
    let home = Home::new();
    let shop = shop_with_usage(&home).await;
    let id = shop.column("id").await[3].clone();
    let receipt_of = |id: String| {
        let (shop, ctx) = (&shop, home.ctx());
        async move { receipt::receipt(&ctx, &shop.ledger, &receipt::ShowReceipt { id }).await }
    };
    let outcome: Outcome = receipt_of(id.clone()).await.unwrap();
    let proof = &outcome.value["billed"][0]["proof"];
    assert_eq!((&proof["row_unchanged"], &proof["batch_unchanged"]), (&json!(true), &json!(true)), "{proof}");
    assert_eq!(outcome.value["cost_usd"], "0.00027");
    assert!(outcome.text.contains("openai/gpt-4o-mini of table 2026-11-23"), "{}", outcome.text);
    assert!(outcome.text.contains("covers it, unchanged"), "{}", outcome.text);
    let raw = rusqlite::Connection::open(home.path()).unwrap();
    raw.execute("UPDATE ai_usage SET cost_usd_nanos = 1 WHERE id = ?", [&id]).unwrap();
    let changed = receipt_of(id).await.unwrap();
    assert!(changed.text.contains("CHANGED"), "{}", changed.text);
    assert!(receipt_of("req_nobody".into()).await.unwrap_err().to_string().contains("no receipt"));
}

#[tokio::test]
async fn a_receipt_says_in_whose_place_a_model_answered() {
    let home = Home::new();
    let shop = home.shop("").await;
    let id = shop.ask_for("old", Some(10)).unwrap().used(tokens(100, 10)).to_string();
    shop.accounts.flush().await.unwrap();
    until("it is written", || async { shop.column("id").await.len() == 1 }).await;
    let request = receipt::ShowReceipt { id };
    let outcome = receipt::receipt(&home.ctx(), &shop.ledger, &request).await.unwrap();
    let retired =
        "retired  `gpt-4o-2024-05-13` is served no longer since 2026-10-23; `gpt-4o` takes its place";
    assert!(outcome.text.contains(retired), "{}", outcome.text);
    // The price is the successor's.
    assert!(outcome.text.contains("openai/gpt-4o of table"), "{}", outcome.text);
    assert_eq!(outcome.value["details"]["attempts"][0]["instead_of"]["model"], "gpt-4o-2024-05-13");
}

#[tokio::test]
async fn an_export_that_agrees_is_equal_and_one_that_does_not_says_where() {
    let home = Home::new();
    let shop = shop_with_usage(&home).await;
    let compare = |export: &'static str| {
        let (shop, ctx) = (&shop, home.ctx());
        async move {
            let request = ask(json!({ "provider": "openai", "file": "export.csv" }));
            let prices = PriceTable::built_in();
            reconcile::reconcile(&ctx, &shop.ledger, &shop.config, &prices, export, &request).await.unwrap()
        }
    };
    let same = "date,model,requests,input_tokens,output_tokens,cost_usd\n\
                2026-11-23,gpt-4o-mini-2024-07-18,30,30000,6000,0.0081\n2026-11-23,gpt-4o,5,500,50,0.00175\n";
    let outcome = compare(same).await;
    assert_eq!(outcome.value["differences"], json!([]), "{}", outcome.text);
    assert!(outcome.findings.is_empty());
    let other = "date,model,requests,input_tokens,output_tokens,cost_usd\n\
                 2026-11-23,gpt-4o-mini,31,31000,6000,0.00825\n2026-11-23,o3,1,5,5,0.1\n";
    let outcome = compare(other).await;
    let what: Vec<_> = outcome.value["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| format!("{} {}", it["model"].as_str().unwrap(), it["what"].as_str().unwrap()))
        .collect();
    assert!(
        what.contains(&"gpt-4o-mini prompt tokens".to_owned()) && what.contains(&"o3 cost".to_owned()),
        "{what:?}"
    );
    assert_eq!(outcome.findings[0].code, "usage_differs");
}

#[tokio::test]
async fn advice_rests_on_what_was_measured() {
    let home = Home::new();
    let shop = shop_with_usage(&home).await;
    let request: advise::AdviseCost = ask(json!({}));
    let prices = PriceTable::built_in();
    let outcome = advise::advise(&home.ctx(), &shop.ledger, &shop.config, &prices, &request).await.unwrap();
    let codes: Vec<&str> = outcome.findings.iter().map(|finding| finding.code.as_str()).collect();
    // Thirty plain requests could have been batched; five of the other route say nothing yet.
    assert_eq!(codes, ["batchable"]);
    assert!(outcome.findings[0].title.contains("0.00405 instead of 0.0081 USD"), "{:?}", outcome.findings[0]);
    assert!(outcome.findings.iter().all(|finding| !finding.evidence.is_empty()));
}
