//! The judgement of others on the gateway as a client: PyPI llmock breaks what it answers, watches how that is taken, and
//! gives its verdict by the exit code of `llmock report --strict`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::official::{installed, run};
use crate::raw::Ask;
use crate::stage::{KEY, Stage};

/// What llmock's own program says, and whether it is content.
async fn report(llmock: &str, more: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new(installed("venv/ai/bin/llmock"))
        .args(["report", "--strict", "--url", llmock])
        .args(more)
        .output()
        .await
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&told).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn llmock_finds_no_fault_strictly() {
    let llmock = conformance::server("STEWARD_TEST_LLMOCK_URL");
    let address = llmock.trim_start_matches("http://");
    let route = |provider: &str, model: &str| {
        json!({
            "targets": [{ "provider": provider, "model": model }],
            "retry": { "attempts": 2, "base_ms": 200 }, "timeouts": { "idle_ms": 2_000, "first_token_ms": 5_000 },
        })
    };
    let stage = Stage::new(json!({
        "providers": {
            "openai": { "kind": "openai", "url": format!("{llmock}/v1"), "keys": ["main"], "formats": ["chat", "responses"] },
            "anthropic": { "kind": "anthropic", "url": format!("{llmock}/anthropic/v1"), "keys": ["main"] },
            "gemini": { "kind": "gemini", "url": format!("{llmock}/gemini/v1beta"), "keys": ["main"] },
        },
        "routes": {
            "openai": route("openai", "gpt-4o-mini"),
            "anthropic": route("anthropic", "claude-haiku-4-5"),
            "gemini": route("gemini", "gemini-2.5-flash"),
        },
    }))
    .await;
    // Keys that were told to wait come back: this clock goes as the real one does.
    let clock = stage.clock.clone();
    let ticking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clock.advance_us(10_000);
        }
    });
    let everywhere = if std::env::var_os("STEWARD_TEST_FULL").is_some() { "1" } else { "0" };
    let url = stage.url("");
    let with = [("GATEWAY", url.as_str()), ("KEY", KEY), ("LLMOCK", &llmock), ("EVERYWHERE", everywhere)];
    let printed = run("verdict.py", &with).await;
    ticking.abort();
    let (content, said) = report(&llmock, &[]).await;
    assert!(content && said.contains("PASS"), "{said}");
    let (_, json) = report(&llmock, &["--json"]).await;
    let verdict: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!((&verdict["passed"], &verdict["warnings"]), (&json!(true), &json!(0)), "{verdict:#}");
    // Every fault was met, but those that only make slow are none to llmock.
    let faults = |line: &str| line.strip_prefix("faults ")?.parse::<u64>().ok();
    let faults = printed.lines().find_map(faults).unwrap();
    let met = verdict["faults_injected"].as_u64().unwrap();
    assert!(met * 10 >= faults * 9, "{met} of {faults}: {verdict:#}");

    // The program is able to find fault: with a client that takes half an answer for a whole one.
    Ask::post("/_llmock/reset", "").send(address).await.all().await;
    let cut = json!({ "behaviors": [{ "type": "stream_fault", "kind": "truncate", "after_chunks": 2 }] })
        .to_string();
    Ask::post("/_llmock/scenario", cut).send(address).await.all().await;
    let question = json!({ "model": "gpt-4o-mini", "stream": true, "messages": [{ "role": "user", "content": "direct" }] });
    Ask::post("/v1/chat/completions", question.to_string()).key(KEY).send(address).await.all().await;
    let (content, said) = report(&llmock, &[]).await;
    assert!(!content && said.contains("truncated_stream_accepted"), "{said}");
}
