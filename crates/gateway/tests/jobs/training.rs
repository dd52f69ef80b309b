//! Training: estimated, let in against the budgets, settled by what was trained, and its model called.

use fake_ai::JobPlan;
use gateway::job_view::{EstimateJob, ShowJob};
use gateway::price::PriceTable;
use serde_json::{Value, json};

use crate::world::{BANK, Home, MODEL, Read, SHOP, World};

const BUDGET: &str = "budgets: { month: { usd: 0.1, per: month, scope: project } }";

fn examples(count: usize) -> String {
    let one = json!({ "messages": [{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "hello" }] });
    vec![one.to_string(); count].join("\n")
}

async fn train(world: &World, base: &str, epochs: u64) -> Read {
    let file = world.upload(SHOP, &examples(20)).await;
    let body = json!({ "model": base, "training_file": file, "suffix": "ours", "hyperparameters": { "n_epochs": epochs } });
    world.post(SHOP, "/v1/fine_tuning/jobs", &body).await
}

async fn finish(world: &World, job: &str) -> Value {
    for _ in 0..3 {
        let seen = world.get(SHOP, &format!("/v1/fine_tuning/jobs/{job}")).await.json();
        if !matches!(seen["status"].as_str(), Some("validating_files" | "running")) {
            return seen;
        }
    }
    panic!("it never ends");
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "max_tokens": 10, "messages": [{ "role": "user", "content": "hi" }] })
}

#[tokio::test]
async fn training_costs_what_was_trained_and_its_model_can_be_called() {
    trained_and_called(&Home::new().await).await;
}

#[tokio::test]
async fn training_at_azure_costs_what_was_trained_and_its_model_can_be_called() {
    let home = Home::at_azure().await;
    trained_and_called(&home).await;
    let path = "/openai/fine_tuning/jobs";
    assert!(home.fake.requests().iter().any(|sent| sent.method == "POST" && sent.path == path));
}

async fn trained_and_called(home: &Home) {
    let world = home.open(BUDGET).await;
    let provider = world.provider();
    home.fake.jobs_go(JobPlan { trained_tokens: Some(600), ..JobPlan::default() });
    let made = train(&world, MODEL, 2).await;
    let job = made.id();
    // Bytes of the file × 2 epochs × 3000 nano-dollars.
    let held = world.held().await;
    assert_eq!(held, i64::try_from(examples(20).len() + 1).unwrap() * 2 * 3_000);
    let events = world.get(SHOP, &format!("/v1/fine_tuning/jobs/{job}/events")).await.json();
    assert!(events["data"][0]["message"].as_str().unwrap().contains("Validating"), "{events}");
    let done = finish(&world, &job).await;
    let model = done["fine_tuned_model"].as_str().unwrap();
    assert_eq!(world.settled().await, [(MODEL.to_owned(), "complete".to_owned(), 600 * 3_000)]);
    assert_eq!((world.held().await, world.spent().await), (0, 600 * 3_000));
    let shown =
        gateway::job_view::show(&world.ctx(), &world.ledger, &ShowJob { id: job.clone() }).await.unwrap();
    assert!(shown.text.contains(&format!("model    {provider}/{model}")), "{}", shown.text);
    let receipt = gateway::receipt::ShowReceipt { id: made.receipt() };
    let receipt = gateway::receipt::receipt(&world.ctx(), &world.ledger, &receipt).await.unwrap();
    assert!(
        receipt.text.contains("20 examples, 2 epochs") && receipt.text.contains(model),
        "{}",
        receipt.text
    );

    // The daemon compiles its table anew when the generation rises.
    assert!(world.ledger.generation(gateway::GENERATION).await.unwrap() > 0);
    world.compile(|_| {}).await;
    let checkpoint = chat(&format!("{provider}/{model}:ckpt-step-88"));
    assert_eq!(world.post(BANK, "/v1/chat/completions", &checkpoint).await.status, 404);
    for name in [format!("{provider}/{model}"), model.to_owned()] {
        let answer = world.post(SHOP, "/v1/chat/completions", &chat(&name)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let refused = world.post(BANK, "/v1/chat/completions", &chat(&name)).await;
        assert_eq!(refused.status, 404, "it belongs to another project: {}", refused.text());
    }
    assert!(world.get(SHOP, "/v1/models").await.text().contains(model));
    assert!(!world.get(BANK, "/v1/models").await.text().contains(model));
    world.accounts.flush().await.unwrap();
    let rows = world
        .rows("SELECT price_row, tier FROM ai_usage WHERE operation = 'chat' AND ending = 'complete'")
        .await;
    assert_eq!(rows[0].get_text("price_row").unwrap(), format!("{provider}/ft:gpt-4o-mini"));

    // A batch with it counts too, and not for another project.
    let file = |model: &str| {
        json!({ "custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": chat(model) })
            .to_string()
    };
    let own = world.upload(SHOP, &file(model)).await;
    assert_eq!(world.make_batch(SHOP, &own).await.status, 200);
    let theirs = world.upload(BANK, &file(model)).await;
    assert_eq!(world.make_batch(BANK, &theirs).await.status, 404);

    // As a target of a route, by its price; the first process gives back what it holds of the budget.
    world.accounts.close().await.unwrap();
    let yaml = format!(
        "{BUDGET}\nroutes: {{ ours: {{ targets: [{{ provider: {provider}, model: '{model}' }}] }} }}"
    );
    let routed = home.open(&yaml).await;
    assert_eq!(routed.post(SHOP, "/v1/chat/completions", &chat("ours")).await.status, 200);
}

#[tokio::test]
async fn a_trained_model_without_a_price_is_not_called() {
    let home = Home::new().await;
    let world =
        home.open("routes: { ours: { targets: [{ provider: openai, model: 'ft:own-model:o::x' }] } }").await;
    for name in ["ours", "openai/ft:own-model:o::x"] {
        let refused = world.post(SHOP, "/v1/chat/completions", &chat(name)).await;
        assert_eq!(refused.status, 402, "{}", refused.text());
        assert!(
            refused.error().contains("price_unknown") && refused.error().contains("`ai.prices`"),
            "{}",
            refused.text()
        );
    }
    // The project's own price makes it callable.
    let prices = PriceTable::built_in()
        .with_overrides("models: [{ provider: openai, model: 'ft:own-model', prices: [{ standard: { input: 1, output: 2 } }] }]")
        .unwrap();
    world.accounts.prepare("shop", &world.config, prices.into(), None).await.unwrap();
    assert_eq!(world.post(SHOP, "/v1/chat/completions", &chat("ours")).await.status, 200);
}

#[tokio::test]
async fn training_is_refused_by_a_budget_and_without_a_price() {
    let home = Home::new().await;
    let world = home.open("budgets: { month: { usd: 0.001, per: month, scope: project } }").await;
    let refused = train(&world, MODEL, 3).await;
    assert!(refused.status == 402 && refused.error().contains("`month`"), "{}", refused.text());
    let refused = train(&world, "gpt-5-mini", 3).await;
    let told = refused.error();
    assert!(
        refused.status == 402 && told.contains("`ft:gpt-5-mini`") && told.contains("`ai.prices`"),
        "{told}"
    );
    let file = world.upload(BANK, &examples(20)).await;
    let refused =
        world.post(SHOP, "/v1/fine_tuning/jobs", &json!({ "model": MODEL, "training_file": file })).await;
    assert!(refused.status == 404 && refused.error().contains("training_file"), "{}", refused.text());
    assert!(!home.fake.requests().iter().any(|sent| sent.path.ends_with("/jobs")));
}

#[tokio::test]
async fn training_that_fails_or_is_cancelled_costs_what_the_provider_says() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    home.fake.jobs_go(JobPlan { training_ends: "failed", ..JobPlan::default() });
    let job = train(&world, MODEL, 2).await.id();
    assert_eq!(finish(&world, &job).await["status"], "failed");
    assert_eq!((world.held().await, world.spent().await), (0, 0));
    home.fake.jobs_go(JobPlan { trained_tokens: Some(100), ..JobPlan::default() });
    let job = train(&world, MODEL, 2).await.id();
    let cancelled = world.post(SHOP, &format!("/v1/fine_tuning/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(cancelled.json()["status"], "cancelled");
    assert_eq!((world.held().await, world.spent().await), (0, 300_000));
    assert!(gateway::tuned(&world.ledger).await.unwrap().is_empty());
    // More than was set aside is told.
    home.fake.jobs_go(JobPlan { trained_tokens: Some(1_000_000), ..JobPlan::default() });
    let job = train(&world, MODEL, 2).await.id();
    finish(&world, &job).await;
    let told = world.accounts.alerts();
    assert!(told.iter().any(|alarm| alarm.title.contains("cost more than was set aside")), "{told:?}");
}

#[tokio::test]
async fn what_a_file_would_cost_is_known_before() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let prices = PriceTable::built_in();
    let ask = |model: Option<&str>, epochs| EstimateJob {
        file: "training.jsonl".into(),
        model: model.map(str::to_owned),
        epochs,
        provider: None,
    };
    let estimate = |content: &str, ask: &EstimateJob| {
        gateway::job_view::estimate(&world.ctx(), &world.config, &prices, content.as_bytes(), ask)
    };
    let told = estimate(&examples(20), &ask(Some(MODEL), Some(2))).unwrap();
    assert_eq!((told.value["examples"].as_u64(), told.value["epochs"].as_u64()), (Some(20), Some(2)));
    // The same as is set aside when it is sent.
    train(&world, MODEL, 2).await.id();
    let most: gateway::Usd = told.value["usd_max"].as_str().unwrap().parse().unwrap();
    assert_eq!(world.held().await, most.nanos());
    assert!(told.text.contains("row openai/ft:gpt-4o-mini"), "{}", told.text);
    let by_itself = estimate(&examples(20), &ask(Some(MODEL), None)).unwrap();
    assert_eq!(by_itself.value["epochs"], 5);
    let batch = estimate(&crate::world::requests_file(2), &ask(None, None)).unwrap();
    assert_eq!((batch.value["kind"].as_str(), batch.value["requests"].as_u64()), (Some("batch"), Some(2)));
    for (content, ask, told) in [
        ("{}", ask(Some(MODEL), None), "neither"),
        ("", ask(Some(MODEL), None), "no lines of JSON"),
        (&*examples(1), ask(None, None), "which model"),
        (&*examples(1), ask(Some("gpt-5"), None), "no price for training"),
    ] {
        let error = estimate(content, &ask).unwrap_err();
        assert!(error.message().contains(told), "{error}");
    }
}

#[tokio::test]
async fn passes_over_a_file_are_a_number_or_left_to_the_provider_and_said_once() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let file = world.upload(SHOP, &examples(20)).await;
    let own = |epochs: Value| json!({ "type": "supervised", "supervised": { "hyperparameters": { "n_epochs": epochs } } });
    let ask = |method: Value, legacy: Value| json!({ "model": MODEL, "training_file": file, "method": method, "hyperparameters": { "n_epochs": legacy } });
    for (body, told) in [
        (ask(Value::Null, json!(50.0)), "neither a whole number nor `auto`"),
        (ask(Value::Null, json!("50")), "neither a whole number nor `auto`"),
        (ask(own(json!(-1)), Value::Null), "neither a whole number nor `auto`"),
        (ask(own(json!("auto")), json!(1)), "there twice"),
    ] {
        let refused = world.post(SHOP, "/v1/fine_tuning/jobs", &body).await;
        assert!(refused.status == 400 && refused.error().contains(told), "{body}: {}", refused.text());
    }
    // Twenty examples are passed over five times where the provider chooses.
    let each = i64::try_from(examples(20).len() + 1).unwrap() * 3_000;
    for (body, epochs) in [(ask(own(json!(2)), Value::Null), 2), (ask(Value::Null, json!("auto")), 5)] {
        let before = world.held().await;
        world.post(SHOP, "/v1/fine_tuning/jobs", &body).await.id();
        assert_eq!(world.held().await - before, each * epochs, "{body}");
    }
}

#[tokio::test]
async fn an_image_may_cost_more_tokens_than_its_address_has_bytes() {
    let home = Home::new().await;
    let world = home.open(BUDGET).await;
    let ask = EstimateJob {
        file: "training.jsonl".into(),
        model: Some(MODEL.to_owned()),
        epochs: Some(1),
        provider: None,
    };
    let image = json!({ "type": "image_url", "image_url": { "url": "https://a/b.png" } });
    let line = json!({ "messages": [{ "role": "user", "content": [image] }] }).to_string();
    let prices = PriceTable::built_in();
    let told =
        gateway::job_view::estimate(&world.ctx(), &world.config, &prices, line.as_bytes(), &ask).unwrap();
    assert!(told.value["tokens_max"].as_u64().unwrap() >= 50_000, "{}", told.value);
}
