//! Batches: let in against the budgets, held across restarts, settled by what was answered.

use std::time::Duration;

use fake_ai::{Ending, Gate, JobPlan, On, Reply};
use gateway::job_view::{ListJobs, ShowJob};
use gateway::receipt::ShowReceipt;
use serde_json::json;

use crate::world::{AZURE_VERSION, BANK, Home, MODEL, SHOP, World, requests_file, until};

const BUDGET: &str = "budgets: { day: { usd: 0.01, per: day, scope: project } }";
/// 10 × 75 + 1 × 300 nano-dollars: an answer of the simulation in the batch tier.
const ANSWER: i64 = 1_050;

/// The client looks until the batch has ended.
async fn finish(world: &World, batch: &str) -> serde_json::Value {
    for _ in 0..3 {
        let seen = world.get(SHOP, &format!("/v1/batches/{batch}")).await.json();
        if !matches!(seen["status"].as_str(), Some("validating" | "in_progress")) {
            return seen;
        }
    }
    panic!("it never ends");
}

#[tokio::test]
async fn a_batch_is_held_until_it_ends_and_costs_what_was_answered() {
    held_until_it_ends(&Home::new().await).await;
}

#[tokio::test]
async fn a_batch_at_azure_is_held_until_it_ends_and_costs_what_was_answered() {
    let home = Home::at_azure().await;
    held_until_it_ends(&home).await;
    let sent = home.fake.requests();
    for path in ["/openai/files", "/openai/batches"] {
        assert!(sent.iter().any(|sent| sent.method == "POST" && sent.path == path), "{path}: {sent:?}");
    }
    for sent in sent {
        assert_eq!(sent.query, format!("api-version={AZURE_VERSION}"), "{}", sent.path);
        let keys = (sent.header("api-key"), sent.header("authorization"));
        assert_eq!(keys, (Some("upstream-main-key-12345678"), None), "{}", sent.path);
    }
}

async fn held_until_it_ends(home: &Home) {
    let world = home.open(BUDGET).await;
    let made = world.batch(2).await;
    let (batch, receipt) = (made.id(), made.receipt());
    let held = world.held().await;
    // Twice a thousand tokens of output at 300 nano-dollars, and the prompts.
    assert!(held > 600_000 && held < 1_500_000, "{held}");
    let all = gateway::settings::ShowLimits { key: None };
    let limits = gateway::settings::limits(&world.ctx(), &world.ledger, &world.config, &all).await.unwrap();
    assert!(limits.text.contains("are set aside for batches and training"), "{}", limits.text);
    let ask = ShowReceipt { id: receipt.clone() };
    let shown = gateway::receipt::receipt(&world.ctx(), &world.ledger, &ask).await.unwrap();
    assert!(shown.text.contains("is under way: batch"), "{}", shown.text);
    until("the hold is told", || async { world.standing().in_flight.nanos() == held }).await;

    let done = finish(&world, &batch).await;
    assert_eq!(done["status"], "completed");
    assert_eq!(world.settled().await, [(MODEL.to_owned(), "complete".to_owned(), 2 * ANSWER)]);
    assert_eq!((world.held().await, world.spent().await), (0, 2 * ANSWER));
    until("the rest is free", || async {
        let standing = world.standing();
        standing.in_flight.nanos() == 0 && standing.spent.nanos() == 2 * ANSWER
    })
    .await;
    let output = done["output_file_id"].as_str().unwrap();
    let content = world.get(SHOP, &format!("/v1/files/{output}/content")).await;
    assert_eq!(content.text().lines().count(), 2);

    let shown = gateway::receipt::receipt(&world.ctx(), &world.ledger, &ask).await.unwrap();
    for line in ["2 of 2 requests answered", "batch tier", "covers it, unchanged"] {
        assert!(shown.text.contains(line), "{line}: {}", shown.text);
    }
    let listed = gateway::job_view::list(&world.ctx(), &world.ledger, &ListJobs::default()).await.unwrap();
    assert!(listed.text.contains(&batch) && listed.text.contains("0.0000021"), "{}", listed.text);
    let open = gateway::job_view::list(&world.ctx(), &world.ledger, &ListJobs { open: true }).await.unwrap();
    assert!(open.text.contains("is under way"), "{}", open.text);
    for id in [&batch, &receipt] {
        let shown =
            gateway::job_view::show(&world.ctx(), &world.ledger, &ShowJob { id: id.clone() }).await.unwrap();
        assert!(shown.text.contains("2 requests") && shown.text.contains("0.0000021 USD"), "{}", shown.text);
    }
    let table = world.table();
    let metrics = world.accounts.metrics().text("shop", &table, &world.accounts, tokio::time::Instant::now());
    let spent = metrics.lines().find(|line| {
        line.starts_with("steward_ai_spend_usd") && line.contains("batches") && line.contains(MODEL)
    });
    let spent: f64 = spent.expect(&metrics).rsplit(' ').next().unwrap().parse().unwrap();
    assert!((spent - 0.000_002_1).abs() < 1e-12, "{metrics}");
    // Looking again counts nothing twice, and the same under the same table costs the same.
    finish(&world, &batch).await;
    assert_eq!(world.settled().await.len(), 1);
    let cost = gateway::report::show_cost(
        &world.ctx(),
        &world.ledger,
        &world.config,
        Some(&gateway::price::PriceTable::built_in()),
        &serde_json::from_value(json!({ "by": "operation" })).unwrap(),
    )
    .await
    .unwrap();
    assert_eq!(cost.value["replay"]["by"]["batches"], 2 * ANSWER, "{}", cost.value);
    world.accounts.close().await.unwrap();
    assert!(world.ledger.verify().await.unwrap().is_whole());
}

#[tokio::test]
async fn a_batch_that_no_budget_can_bear_is_refused_before_it_is_made() {
    let home = Home::new().await;
    let world = home.open("budgets: { day: { usd: 0.0001, per: day, scope: project } }").await;
    let refused = world.batch(3).await;
    assert_eq!(refused.status, 402);
    let told = refused.error();
    for word in ["budget_exceeded", "`day`", "the project `shop`", "2026-11-24T00:00:00Z"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(!home.fake.requests().iter().any(|sent| sent.path.ends_with("/batches")));
    assert_eq!((world.held().await, world.rows("SELECT id FROM ai_jobs").await.len()), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_bounded_is_refused_with_what_to_do() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let line = |body: serde_json::Value| {
        json!({ "custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body }).to_string()
    };
    for (content, status, told) in [
        (line(json!({ "model": "nobody-knows", "messages": [] })), 402, "`ai.prices`"),
        ("nonsense".to_owned(), 400, "line 1 of the file is no JSON"),
    ] {
        let file = world.upload(SHOP, &content).await;
        let refused = world.make_batch(SHOP, &file).await;
        assert_eq!(refused.status, status, "{}", refused.text());
        assert!(refused.error().contains(told), "{}", refused.text());
    }
    let refused = world.post(SHOP, "/v1/batches", &json!({})).await;
    assert!(refused.status == 400 && refused.error().contains("input_file_id"), "{}", refused.text());
    // Without a strict budget it is let in, and counted as what has no price.
    let elsewhere = Home::new().await;
    let lenient = elsewhere.open("").await;
    let file = lenient.upload(SHOP, &line(json!({ "model": "nobody-knows", "messages": [] }))).await;
    let batch = lenient.make_batch(SHOP, &file).await.id();
    finish(&lenient, &batch).await;
    assert_eq!(lenient.settled().await, [("nobody-knows".to_owned(), "complete".to_owned(), 0)]);
}

#[tokio::test]
async fn a_line_for_something_else_than_its_batch_is_refused() {
    let home = Home::new().await;
    // Also where nothing must be bounded: what costs nothing is not looked into.
    let world = home.open("").await;
    let line =
        json!({ "custom_id": "1", "method": "POST", "url": "/v1/moderations", "body": { "model": MODEL } });
    let file = world.upload(SHOP, &format!("{}\n{line}", requests_file(1))).await;
    let refused = world.make_batch(SHOP, &file).await;
    let told = "line 2 of the file is for `/v1/moderations`, and the batch for `/v1/chat/completions`";
    assert!(refused.status == 400 && refused.error().contains(told), "{}", refused.text());
}

#[tokio::test]
async fn a_completion_is_bounded_for_each_prompt_and_each_try() {
    let home = Home::new().await;
    let world = home.open("budgets: { day: { usd: 1, per: day, scope: project } }").await;
    let make = async |prompt: serde_json::Value, best_of: serde_json::Value| {
        let body = json!({ "model": MODEL, "max_tokens": 1000, "prompt": prompt, "best_of": best_of });
        let line = json!({ "custom_id": "1", "method": "POST", "url": "/v1/completions", "body": body });
        let file = world.upload(SHOP, &line.to_string()).await;
        let body =
            json!({ "input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h" });
        world.post(SHOP, "/v1/batches", &body).await
    };
    // A thousand tokens of output at 300 nano-dollars each time, and the prompts.
    for (prompt, best_of, answers) in [
        (json!("a"), json!(null), 1),
        (json!([1, 2, 3]), json!(null), 1),
        (json!("a"), json!(5), 5),
        (json!(["a", "b"]), json!(5), 10),
    ] {
        let before = world.held().await;
        make(prompt, best_of).await.id();
        let held = world.held().await - before;
        assert!((answers * 300_000..(answers + 1) * 300_000).contains(&held), "{answers}: {held}");
    }
    let refused = make(json!("a"), json!(5.0)).await;
    assert!(refused.status == 400 && refused.error().contains("`best_of`"), "{}", refused.text());
}

#[tokio::test]
async fn a_batch_outlives_the_process_and_is_settled_though_nobody_asks() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    world.batch(2).await.id();
    let held = world.held().await;
    // As a killed process leaves it.
    world.accounts.abandon();
    drop(world);
    home.hours(2);
    let world = home.open(BUDGET).await;
    assert_eq!(world.held().await, held, "the job holds it, not the process");
    assert_eq!(world.standing().in_flight.nanos(), held);
    // The first look finds it under way, the next one, when it is due, at its end.
    assert_eq!(world.look().await, 1);
    assert_eq!(world.look().await, 0, "it was just looked at");
    assert_eq!(world.held().await, held);
    home.hours(1);
    assert_eq!(world.look().await, 1);
    assert_eq!(world.settled().await, [(MODEL.to_owned(), "complete".to_owned(), 2 * ANSWER)]);
    assert_eq!((world.held().await, world.spent().await), (0, 2 * ANSWER));
    home.hours(1);
    assert_eq!(world.look().await, 0, "nothing is open");
    assert!(world.accounts.alerts().is_empty());
}

#[tokio::test]
async fn a_batch_that_ends_early_costs_what_was_answered_until_then() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    for (plan, cost) in [
        (JobPlan { batch_ends: "expired", answered: Some(1), ..JobPlan::default() }, ANSWER),
        (JobPlan { batch_ends: "failed", ..JobPlan::default() }, 0),
        (
            JobPlan {
                batch_ends: "expired",
                tells_usage: true,
                tokens: (20, 2),
                answered: Some(2),
                ..JobPlan::default()
            },
            4 * ANSWER,
        ),
    ] {
        home.fake.jobs_go(plan.clone());
        let before = world.spent().await;
        let batch = world.batch(2).await.id();
        finish(&world, &batch).await;
        assert_eq!((world.spent().await - before, world.held().await), (cost, 0), "{plan:?}");
    }
    home.fake.jobs_go(JobPlan { answered: Some(1), ..JobPlan::default() });
    let before = world.spent().await;
    let batch = world.batch(3).await.id();
    let cancelled = world.post(SHOP, &format!("/v1/batches/{batch}/cancel"), &json!({})).await;
    assert_eq!(cancelled.json()["status"], "cancelled");
    assert_eq!((world.spent().await - before, world.held().await), (ANSWER, 0));
    let endings: Vec<String> = world.settled().await.into_iter().map(|(_, ending, _)| ending).collect();
    assert_eq!(endings, ["truncated", "failed", "truncated", "truncated"]);
}

#[tokio::test]
async fn without_the_file_of_answers_the_batchs_own_sum_counts_and_without_that_what_was_set_aside() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let gone = Reply::error(404, "not_found", "no such file");
    let wrong = Reply::error(400, "invalid_request_error", "not for this file");
    // One line, longer than any that is read.
    let long = Reply::raw("application/jsonl", vec![b'x'; (32 << 20) + 1]);
    for (unread, tells_usage, spent) in [
        (&gone, true, Some(2 * ANSWER)),
        (&wrong, true, Some(2 * ANSWER)),
        (&long, true, Some(2 * ANSWER)),
        (&gone, false, None),
    ] {
        home.fake.jobs_go(JobPlan { tells_usage, ..JobPlan::default() });
        let before = world.spent().await;
        let batch = world.batch(2).await.id();
        let held = world.held().await;
        home.fake.always(On::path("/content"), unread.clone());
        finish(&world, &batch).await;
        home.fake.forget_scripts();
        assert_eq!(world.spent().await - before, spent.unwrap_or(held));
    }
    let estimated = world.rows("SELECT estimated FROM ai_usage WHERE model <> '' ORDER BY at_us, id").await;
    assert_eq!(estimated.last().unwrap().get_i64("estimated").unwrap(), 2);
}

#[tokio::test]
async fn answers_that_cannot_be_read_now_are_counted_later() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let batch = world.batch(1).await.id();
    home.fake.always(On::path("/content"), Reply::error(500, "server_error", "later"));
    let done = finish(&world, &batch).await;
    assert!(world.settled().await.is_empty());
    let file = done["output_file_id"].as_str().unwrap();
    // What is not counted yet must not be deleted.
    let kept = world.send(SHOP, "DELETE", &format!("/v1/files/{file}"), "", "").await;
    assert_eq!(kept.status, 409, "{}", kept.text());
    let shown = gateway::job_view::show(&world.ctx(), &world.ledger, &ShowJob { id: batch }).await.unwrap();
    assert!(shown.text.contains("problem  "), "{}", shown.text);
    home.fake.forget_scripts();
    home.hours(1);
    world.look().await;
    assert_eq!(world.settled().await[0].2, ANSWER);
    let deleted = world.send(SHOP, "DELETE", &format!("/v1/files/{file}"), "", "").await;
    assert_eq!(deleted.json()["deleted"], true);
    assert_eq!(world.get(SHOP, &format!("/v1/files/{file}")).await.status, 404);
}

#[tokio::test]
async fn a_batch_is_settled_though_the_client_that_asked_has_left() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let batch = world.batch(1).await.id();
    // A file may only be deleted when the answers are counted, so this counts them.
    home.fake.next_on(On::path("/content"), Reply::error(500, "server_error", "later"));
    let done = finish(&world, &batch).await;
    let file = done["output_file_id"].as_str().unwrap();
    let gate = Gate::new();
    home.fake.next_on(On::path("/content"), Reply::own().gate(&gate));
    let path = format!("/v1/files/{file}");
    tokio::select! {
        read = world.send(SHOP, "DELETE", &path, "", "") => panic!("{}", read.text()),
        () = gate.reached(1) => {}
    }
    gate.open();
    until("it is settled", || async { world.settled().await.len() == 1 }).await;
    assert_eq!((world.held().await, world.spent().await), (0, ANSWER));
    let deleted = world.send(SHOP, "DELETE", &path, "", "").await;
    assert_eq!(deleted.json()["deleted"], true, "{}", deleted.text());
}

#[tokio::test]
async fn a_batch_is_known_to_have_ended_before_its_answers_are_counted() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let batch = world.batch(1).await.id();
    let gate = Gate::new();
    home.fake.next_on(On::path("/content"), Reply::own().gate(&gate));
    tokio::select! {
        done = finish(&world, &batch) => panic!("{done}"),
        () = gate.reached(1) => {}
    }
    let rows = world.rows("SELECT state, status FROM ai_jobs").await;
    assert_eq!(rows[0].get_text("state").unwrap(), "open");
    assert_eq!(rows[0].get_text("status").unwrap(), "completed");
    gate.open();
    until("it is settled", || async { world.settled().await.len() == 1 }).await;
}

#[tokio::test]
async fn a_batch_that_the_provider_refuses_holds_nothing_and_one_of_which_nothing_is_known_is_charged() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    home.fake.next_on(On::path("/batches"), Reply::error(400, "invalid_request_error", "too many lines"));
    let refused = world.make_batch(SHOP, &file).await;
    assert!(refused.status == 400 && refused.text().contains("too many lines"), "{}", refused.text());
    assert_eq!((world.held().await, world.spent().await), (0, 0));
    let states = world.rows("SELECT state FROM ai_jobs").await;
    assert_eq!(states[0].get_text("state").unwrap(), "refused");

    home.fake.next_on(On::path("/batches"), Reply::error(503, "overloaded", "later"));
    let refused = world.make_batch(SHOP, &file).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!((world.held().await, world.spent().await, world.settled().await.len()), (0, 0, 0));

    home.fake.next_on(
        On::path("/batches"),
        Reply::raw("application/json", "{}").cut_after_bytes(1, Ending::Reset),
    );
    let cut = world.make_batch(SHOP, &file).await;
    assert_eq!(cut.status, 502, "{}", cut.text());
    let settled = world.settled().await;
    assert_eq!((settled.len(), settled[0].1.as_str()), (1, "lost"));
    assert!(settled[0].2 > 300_000 && world.spent().await == settled[0].2);
    assert_eq!(world.held().await, 0);
    let told = world.accounts.alerts();
    assert!(told.iter().any(|alarm| alarm.title.contains("is not known")), "{told:?}");
}

#[tokio::test]
async fn twenty_at_once_on_money_for_three_let_in_three() {
    let home = Home::new().await;
    // Each may cost some 400,000 nano-dollars.
    let world = home.open("budgets: { day: { usd: 0.0013, per: day, scope: project } }").await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    let mut all = futures::future::join_all((0..20).map(|_| world.make_batch(SHOP, &file))).await;
    // Who was in the way of another was told to try again.
    while all.iter().filter(|read| read.status == 200).count() < 3 && all.len() < 40 {
        all.push(world.make_batch(SHOP, &file).await);
    }
    all.push(world.make_batch(SHOP, &file).await);
    let let_in = all.iter().filter(|read| read.status == 200).count();
    let held = world.held().await;
    assert!(let_in == 3 && held <= 1_300_000, "{let_in} hold {held}");
    assert!(all.iter().all(|read| [200, 402, 503].contains(&read.status.as_u16())));
    assert_eq!(all.last().unwrap().status, 402);
    until("what is left is known", || async { world.standing().in_flight.nanos() == held }).await;
}

#[tokio::test]
async fn budgets_of_models_and_keys_hold_too() {
    let home = Home::new().await;
    let yaml = format!(
        "budgets: {{ big: {{ usd: 10, per: month, scope: key }}, mini: {{ usd: 0.0005, per: day, scope: model, of: {MODEL} }} }}"
    );
    let world = home.open(&yaml).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    let batch = world.make_batch(SHOP, &file).await.id();
    let refused = world.make_batch(SHOP, &file).await;
    assert!(refused.status == 402 && refused.error().contains("`mini`"), "{}", refused.text());
    finish(&world, &batch).await;
    // Both accounts were charged.
    assert_eq!(world.spent().await, 2 * ANSWER);
}

#[tokio::test]
async fn messages_of_anthropic_come_in_batches_too() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    home.fake.jobs_go(JobPlan { answered: Some(1), ..JobPlan::default() });
    let request = |id: &str| {
        json!({ "custom_id": id, "params": { "model": "claude-haiku-4-5", "max_tokens": 100,
            "messages": [{ "role": "user", "content": "hi" }] } })
    };
    let body = json!({ "requests": [request("a"), request("b")] });
    let made = world.post(SHOP, "/v1/messages/batches", &body).await;
    let batch = made.id();
    assert!(world.held().await > 2 * 100 * 2_500);
    assert_eq!(world.get(BANK, &format!("/v1/messages/batches/{batch}")).await.status, 404);
    let ended = world.get(SHOP, &format!("/v1/messages/batches/{batch}")).await.json();
    assert_eq!(ended["processing_status"], "ended");
    // Half of 10 × 1000 + 1 × 5000.
    assert_eq!(world.settled().await, [("claude-haiku-4-5".to_owned(), "truncated".to_owned(), 7_500)]);
    let results = world.get(SHOP, &format!("/v1/messages/batches/{batch}/results")).await;
    assert_eq!(results.text().lines().count(), 2);
    let deleted = world.send(SHOP, "DELETE", &format!("/v1/messages/batches/{batch}"), "", "").await;
    assert_eq!(deleted.status, 200, "{}", deleted.text());
}

#[tokio::test]
async fn one_projects_files_and_batches_are_not_there_for_another() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    let batch = world.make_batch(SHOP, &file).await.id();
    let theirs = world.upload(BANK, "{}").await;
    let done = finish(&world, &batch).await;
    let output = done["output_file_id"].as_str().unwrap();
    let sent = home.fake.requests().len();
    for (method, path) in [
        ("GET", format!("/v1/files/{file}")),
        ("GET", format!("/v1/files/{file}/content")),
        ("GET", format!("/v1/files/{output}/content")),
        ("DELETE", format!("/v1/files/{file}")),
        ("GET", format!("/v1/batches/{batch}")),
        ("POST", format!("/v1/batches/{batch}/cancel")),
        ("GET", "/v1/files/file-from-elsewhere".to_owned()),
        ("POST", "/v1/fine_tuning/checkpoints/ft:a:b/permissions".to_owned()),
    ] {
        let refused = world.send(BANK, method, &path, "application/json", "").await;
        assert_eq!(refused.status, 404, "{method} {path}: {}", refused.text());
    }
    let refused = world.make_batch(BANK, &file).await;
    assert!(refused.status == 404 && refused.error().contains("input_file_id"), "{}", refused.text());
    // Of two members the provider could take the other one.
    let twice =
        format!(r#"{{"input_file_id":"{theirs}","input_\u0066ile_id":"{file}","endpoint":"/v1/responses"}}"#);
    let refused = world.send(BANK, "POST", "/v1/batches", "application/json", twice).await;
    assert!(refused.status == 400 && refused.error().contains("twice"), "{}", refused.text());
    assert_eq!(home.fake.requests().len(), sent, "nothing of that reached the provider");
    let ids = |read: &crate::world::Read| -> Vec<String> {
        let data = read.json()["data"].as_array().unwrap().clone();
        data.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&world.get(BANK, "/v1/files").await), [theirs]);
    // Pages on which nothing is the project's own are passed over.
    assert_eq!(ids(&world.get(BANK, "/v1/files?limit=1").await).len(), 1);
    assert_eq!(ids(&world.get(SHOP, "/v1/files").await).len(), 2);
    assert!(ids(&world.get(BANK, "/v1/batches").await).is_empty());
    assert_eq!(ids(&world.get(SHOP, "/v1/batches").await), [batch]);
}

#[tokio::test]
async fn pages_of_others_that_are_passed_over_have_rows_of_their_own() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    world.upload(BANK, &requests_file(1)).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    let listed = world.get(SHOP, "/v1/files?limit=1").await;
    assert_eq!(listed.json()["data"][0]["id"], file.as_str());
    world.accounts.close().await.unwrap();
    let calls = home.fake.requests().len();
    assert_eq!((calls, world.rows("SELECT id FROM ai_usage").await.len()), (4, 4));
    let ask = ShowReceipt { id: listed.receipt() };
    let shown = gateway::receipt::receipt(&world.ctx(), &world.ledger, &ask).await.unwrap();
    assert!(shown.text.contains("covers it, unchanged"), "{}", shown.text);
}

#[tokio::test]
async fn a_key_without_the_right_makes_no_job() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    world.compile(|grant| grant.rights.fine_tune = false).await;
    let refused = world.make_batch(SHOP, &file).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let training = json!({ "model": MODEL, "training_file": file });
    assert_eq!(world.post(SHOP, "/v1/fine_tuning/jobs", &training).await.status, 403);
}

#[tokio::test]
async fn an_upload_in_parts_makes_a_file_of_the_project() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let asked = json!({ "filename": "a.jsonl", "purpose": "batch", "bytes": 100, "mime_type": "text/jsonl" });
    let upload = world.post(SHOP, "/v1/uploads", &asked).await.id();
    let path = |end: &str| format!("/v1/uploads/{upload}/{end}");
    let part = format!(
        "--b\r\ncontent-disposition: form-data; name=\"data\"\r\n\r\n{}\r\n--b--\r\n",
        requests_file(1)
    );
    world.send(SHOP, "POST", &path("parts"), "multipart/form-data; boundary=b", part).await.id();
    assert_eq!(world.post(BANK, &path("complete"), &json!({ "part_ids": [] })).await.status, 404);
    let complete = world.post(SHOP, &path("complete"), &json!({ "part_ids": [] })).await.json();
    let file = complete["file"]["id"].as_str().unwrap();
    let batch = world.make_batch(SHOP, file).await.id();
    finish(&world, &batch).await;
    assert_eq!(world.settled().await[0].2, ANSWER);
}

#[tokio::test]
async fn a_job_that_the_provider_forgot_is_charged_and_one_that_cannot_be_asked_for_waits() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let batch = world.batch(1).await.id();
    let held = world.held().await;
    home.hours(1);
    home.fake.next_on(On::path(&format!("/batches/{batch}")), Reply::error(503, "overloaded", "later"));
    world.look().await;
    assert_eq!((world.held().await, world.settled().await.len()), (held, 0));
    home.hours(1);
    // Once may be a mistake of the provider.
    home.fake.always(On::path(&format!("/batches/{batch}")), Reply::error(404, "not_found", "no such batch"));
    for hours in [1, 22, 2] {
        assert_eq!(world.look().await, 1);
        assert_eq!((world.held().await, world.settled().await.len()), (held, 0));
        home.hours(hours);
    }
    assert_eq!(world.look().await, 1);
    assert_eq!((world.held().await, world.spent().await), (0, held));
    assert_eq!(world.settled().await[0].1, "lost");
    tokio::time::timeout(Duration::from_mins(1), world.jobs.close()).await.unwrap();
}

#[tokio::test]
async fn a_batch_that_is_sent_twice_with_one_key_is_made_once() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    let body =
        json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let make = || {
        world.send_with(SHOP, "POST", "/v1/batches", &[("idempotency-key", "nightly-7")], body.to_string())
    };
    let (first, second) = tokio::join!(make(), make());
    assert_eq!(first.id(), second.id());
    assert_eq!(first.receipt(), second.receipt());
    let sent_on = home.fake.requests().iter().filter(|sent| sent.path.ends_with("/batches")).count();
    assert_eq!((sent_on, world.rows("SELECT id FROM ai_jobs").await.len()), (1, 1));
}

#[tokio::test]
async fn a_batch_is_made_once_though_its_client_leaves_and_sends_it_again() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let file = world.upload(SHOP, &requests_file(1)).await;
    let body =
        json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let make = || {
        world.send_with(SHOP, "POST", "/v1/batches", &[("idempotency-key", "nightly-7")], body.to_string())
    };
    let gate = Gate::new();
    home.fake.next_on(On::path("/batches"), Reply::own().gate(&gate));
    tokio::select! {
        read = make() => panic!("{}", read.text()),
        () = gate.reached(1) => {}
    }
    let (again, ()) = tokio::join!(make(), async { gate.open() });
    let later = make().await;
    assert_eq!((again.id(), again.receipt()), (later.id(), later.receipt()));
    let sent_on = home.fake.requests().iter().filter(|sent| sent.path.ends_with("/batches")).count();
    assert_eq!((sent_on, world.rows("SELECT id FROM ai_jobs").await.len()), (1, 1));
}
