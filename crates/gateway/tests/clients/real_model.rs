//! A real model behind the gateway: SmolLM2 in a llama.cpp server, which counts its own tokens and shows what it is at.

use std::time::Duration;

use gateway::Ending;
use serde_json::{Value, json};

use crate::official::run;
use crate::raw::Ask;
use crate::stage::{KEY, Stage};

/// Longest wait for the server to notice something: the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(2);

/// The answers that are cut off would have at least this many tokens, and at most the second number.
const LONG: u64 = 1_000;
const ENDLESS: u64 = 1_900;

fn server() -> String {
    conformance::server("STEWARD_TEST_SMOLLM_URL")
}

async fn stage() -> Stage {
    Stage::new(json!({
        "providers": { "smol": { "kind": "openai", "url": format!("{}/v1", server()), "keys": ["main"], "formats": ["chat"] } },
        "routes": { "local": { "targets": [{ "provider": "smol", "model": "smollm2" }], "retry": { "attempts": 1 } } },
    }))
    .await
}

/// One after the other: the server shows all its work at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_model_is_counted_and_stopped() {
    clients_get_its_answers_and_its_own_count_of_tokens().await;
    who_leaves_stops_it().await;
}

async fn clients_get_its_answers_and_its_own_count_of_tokens() {
    let stage = stage().await;
    let (rounds, tokens) =
        if std::env::var_os("STEWARD_TEST_FULL").is_some() { ("6", "120") } else { ("1", "16") };
    let (url, server) = (stage.url(""), server());
    let with = [
        ("GATEWAY", url.as_str()),
        ("KEY", KEY),
        ("SERVER", &server),
        ("ROUNDS", rounds),
        ("TOKENS", tokens),
    ];
    let printed = run("real_model.py", &with).await;
    let told: Vec<Value> = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(told.len(), 6 * rounds.parse::<usize>().unwrap(), "{printed}");
    for (at, told) in told.iter().enumerate() {
        let settled = stage.records.settled(at + 1).await;
        let usage = settled.usage.unwrap_or_else(|| panic!("{told}"));
        assert_eq!(usage.input + usage.cache_read, told["input"].as_u64().unwrap(), "{told} {usage:?}");
        assert_eq!(usage.output, told["output"].as_u64().unwrap(), "{told} {usage:?}");
        assert_eq!(settled.ending, Ending::Complete, "{told}");
    }
    assert_eq!(stage.records.count(), told.len());
}

/// The places of the server that are at work: how many tokens each holds.
async fn at_work() -> Vec<(u64, u64)> {
    let address = server();
    let slots: Value =
        Ask::get("/slots").send(address.trim_start_matches("http://")).await.all().await.json();
    let slots = slots.as_array().unwrap().clone();
    slots
        .iter()
        .filter(|slot| slot["is_processing"] == true)
        .map(|slot| (slot["id"].as_u64().unwrap(), slot["n_prompt_tokens"].as_u64().unwrap()))
        .collect()
}

async fn who_leaves_stops_it() {
    let messages = json!([{ "role": "user", "content": "Count to one thousand." }]);
    let chat = json!({ "model": "local", "stream": true, "max_tokens": ENDLESS, "ignore_eos": true, "messages": messages });
    // Translated: the field above is not known there, but a schema of a long list is: a number and a comma each.
    let schema = json!({ "type": "ARRAY", "items": { "type": "INTEGER" }, "minItems": LONG / 2 });
    let foreign = json!({
        "contents": [{ "role": "user", "parts": [{ "text": "Count to one thousand." }] }],
        "generationConfig": { "maxOutputTokens": ENDLESS, "responseMimeType": "application/json", "responseSchema": schema },
    });
    for (path, body, first) in [
        ("/v1/chat/completions", chat, "\"content\":\""),
        ("/v1beta/models/local:streamGenerateContent?alt=sse", foreign, "\"text\":\""),
    ] {
        let stage = stage().await;
        let mut reading = Ask::post(path, body.to_string()).key(KEY).send(&stage.address.to_string()).await;
        reading.until(first).await;
        let working = at_work().await;
        assert_eq!(working.len(), 1, "{path}: it is at work: {working:?}");
        drop(reading);
        let settled = stage.records.settled(1).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut most = 0;
        loop {
            let working = at_work().await;
            most = working.iter().map(|(_, tokens)| *tokens).max().unwrap_or(0).max(most);
            if working.is_empty() {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "it never stops: {working:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(most < LONG, "it wrote its answer to the end: {most}");
        assert_eq!(settled.ending, Ending::Disconnected, "{settled:?}");
        assert!(settled.delivered_bytes > 0, "{settled:?}");
    }
}
