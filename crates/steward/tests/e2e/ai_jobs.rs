//! A batch and a training through a real daemon, from the estimate to the bill.

use fake_ai::JobPlan;
use serde_json::{Value, json};

use crate::ai::{OLD, RUNTIME, key_in, provider, put};
use crate::program::{Project, client, eventually};

const MODEL: &str = "gpt-4o-mini-2024-07-18";
/// 10 × 75 + 1 × 300 nano-dollars: an answer of the simulation in the batch tier.
const ANSWER: i64 = 1_050;

fn requests(count: usize) -> String {
    let line = |number: usize| {
        let body =
            json!({ "model": MODEL, "max_tokens": 1000, "messages": [{ "role": "user", "content": "hi" }] });
        json!({ "custom_id": number.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body })
            .to_string()
    };
    (0..count).map(line).collect::<Vec<_>>().join("\n")
}

fn examples(count: usize) -> String {
    let one = json!({ "messages": [{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "hello" }] });
    vec![one.to_string(); count].join("\n")
}

/// A number of nano-dollars that is written as dollars.
fn nanos(usd: &Value) -> i64 {
    let text = usd.as_str().unwrap_or_else(|| panic!("{usd}"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<9}").parse().unwrap()
}

#[test]
fn batches_and_training_are_estimated_held_shown_and_billed() {
    let fake = provider(&[OLD]);
    fake.jobs_go(JobPlan { trained_tokens: Some(600), ..JobPlan::default() });
    let project = Project::new(&format!(
        "project: shop\nai:\n  providers:\n    openai: {{ kind: openai, url: {}/v1, keys: [openai/main] }}\n  \
         budgets:\n    month: {{ usd: 0.02, per: month, scope: project }}\n",
        fake.url()
    ));
    put(&project, "openai/main", OLD);
    let made = project.run(&["ai", "keys", "create", "nightly", "--models", "openai/*"]).expect(0);
    let key = key_in(&made.stdout).unwrap();
    let none = project.run(&["ai", "jobs", "list"]).expect(0).stdout;
    assert!(none.contains("no batch and no training was made"), "{none}");
    let daemon = project.daemon(&[]);
    let send = |method: &str, path: &str, kind: &str, body: String| {
        RUNTIME.block_on(async {
            let method = method.parse::<reqwest::Method>().unwrap();
            let call = client().request(method, format!("{}/v1{path}", daemon.url)).bearer_auth(&key);
            let response = call.header("content-type", kind.to_owned()).body(body).send().await.unwrap();
            let receipt = response.headers().get("steward-receipt").map(|id| id.to_str().unwrap().to_owned());
            let status = response.status().as_u16();
            (status, response.json::<Value>().await.unwrap_or_default(), receipt.unwrap_or_default())
        })
    };
    let post = |path: &str, body: Value| send("POST", path, "application/json", body.to_string());
    let upload = |content: &str, purpose: &str| {
        let form = format!(
            "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n--b\r\ncontent-disposition: \
             form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{content}\r\n--b--\r\n"
        );
        let (status, file, _) = send("POST", "/files", "multipart/form-data; boundary=b", form);
        assert_eq!(status, 200, "{file}");
        file["id"].as_str().unwrap().to_owned()
    };
    let state =
        |path: &str| send("GET", path, "", String::new()).1["status"].as_str().unwrap_or_default().to_owned();
    let held = || {
        let limits = project.answer(&["ai", "limits"]);
        limits["value"]["budgets"][0]["set_aside_for_jobs_usd_nanos"].as_i64().unwrap()
    };
    let spent_by = |operation: &str| {
        let cost = project.answer(&["ai", "cost", "--by", "operation"]);
        let rows = cost["value"]["rows"].as_array().unwrap().clone();
        rows.iter()
            .filter(|row| row["name"] == operation)
            .map(|row| row["cost_usd_nanos"].as_i64().unwrap())
            .sum::<i64>()
    };

    // A batch: what it would cost, what is held, what it cost.
    project.write("requests.jsonl", requests(3));
    let estimate = project.answer(&["ai", "jobs", "estimate", "requests.jsonl"]);
    assert_eq!(
        (&estimate["value"]["kind"], &estimate["value"]["requests"]),
        (&json!("batch"), &json!(3)),
        "{estimate}"
    );
    let file = upload(&requests(3), "batch");
    let batch =
        json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let (status, made, receipt) = post("/batches", batch.clone());
    assert_eq!(status, 200, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    // The estimate's most is what is set aside.
    assert_eq!(held(), nanos(&estimate["value"]["usd_max"]), "{estimate}");
    let open = project.run(&["ai", "jobs", "list", "--open"]).expect(0).stdout;
    assert!(open.contains(&id) && open.contains("batch"), "{open}");
    let shown = project.run(&["ai", "jobs", "show", &id]).expect(0).stdout;
    assert!(
        shown.contains("asks     3 requests") && shown.contains("are set aside until it ends"),
        "{shown}"
    );
    eventually("the batch ends", || state(&format!("/batches/{id}")) == "completed");
    let shown = project.answer(&["ai", "jobs", "show", &id]);
    assert_eq!(
        (&shown["value"]["cost_usd_nanos"], &shown["value"]["key"]),
        (&json!(3 * ANSWER), &json!("nightly")),
        "{shown}"
    );
    assert_eq!((held(), spent_by("batches")), (0, 3 * ANSWER));
    let bill = project.run(&["ai", "receipt", &receipt]).expect(0).stdout;
    assert!(bill.contains("3 of 3 requests answered") && bill.contains("covers it, unchanged"), "{bill}");

    // A training, and the model that it made.
    project.write("training.jsonl", examples(20));
    let training = ["ai", "jobs", "estimate", "training.jsonl", "--model", MODEL, "--epochs", "2"];
    let estimate = project.answer(&training);
    assert_eq!(
        (&estimate["value"]["examples"], &estimate["value"]["epochs"]),
        (&json!(20), &json!(2)),
        "{estimate}"
    );
    let file = upload(&examples(20), "fine-tune");
    let train = json!({ "model": MODEL, "training_file": file, "hyperparameters": { "n_epochs": 2 } });
    let (status, made, _) = post("/fine_tuning/jobs", train.clone());
    assert_eq!(status, 200, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(held(), nanos(&estimate["value"]["usd_max"]), "{estimate}");
    let listed = project.answer(&["ai", "jobs", "list"]);
    let kinds: Vec<_> =
        listed["value"]["jobs"].as_array().unwrap().iter().map(|job| job["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["fine_tuning", "batch"], "the newest first: {listed}");
    // What is set aside leaves too little for a larger one; the provider does not hear of it.
    let asked = || {
        fake.requests().iter().filter(|sent| sent.method == "POST" && sent.path.ends_with("/jobs")).count()
    };
    let large = upload(&examples(100), "fine-tune");
    let (status, refused, _) = post(
        "/fine_tuning/jobs",
        json!({ "model": MODEL, "training_file": large, "hyperparameters": { "n_epochs": 2 } }),
    );
    assert!(
        status == 402 && refused["error"]["message"].as_str().unwrap().contains("`month`"),
        "{status} {refused}"
    );
    assert_eq!(asked(), 1);
    eventually("the training ends", || state(&format!("/fine_tuning/jobs/{id}")) == "succeeded");
    let shown = project.answer(&["ai", "jobs", "show", &id]);
    assert_eq!(shown["value"]["cost_usd_nanos"], 600 * 3_000, "{shown}");
    assert_eq!((held(), spent_by("fine_tuning")), (0, 600 * 3_000));
    let model = shown["value"]["tuned_model"].as_str().unwrap().to_owned();
    let chat = json!({ "model": format!("openai/{model}"), "max_tokens": 10, "messages": [{ "role": "user", "content": "hi" }] });
    eventually("its model can be called", || post("/chat/completions", chat.clone()).0 == 200);
    assert!(fake.requests().iter().any(|sent| sent.model().as_deref() == Some(&model)));

    // A batch that is under way outlives the daemon.
    let (_, made, _) = post("/batches", batch);
    let id = made["id"].as_str().unwrap().to_owned();
    let before = held();
    assert!(before > 0);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(held(), before);
    let daemon = project.daemon(&[]);
    let get = |path: &str| {
        RUNTIME.block_on(async {
            let call = client().get(format!("{}/v1{path}", daemon.url)).bearer_auth(&key);
            call.send().await.unwrap().json::<Value>().await.unwrap()
        })
    };
    eventually("it ends", || get(&format!("/batches/{id}"))["status"] == "completed");
    assert_eq!((held(), spent_by("batches")), (0, 6 * ANSWER));
    assert_eq!(daemon.stop(), 0);
    project.run(&["audit", "verify"]).expect(0);
}
