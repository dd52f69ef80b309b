//! The judgement of others on the gateway as a client: PyPI llmock breaks what it answers and watches how that is taken.

use std::time::Duration;

use serde_json::{Value, json};

use crate::official::run;
use crate::raw::Ask;
use crate::stage::{KEY, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn llmock_finds_no_fault_strictly() {
    let llmock = conformance::server("STEWARD_TEST_LLMOCK_URL");
    let address = llmock.trim_start_matches("http://");
    let stage = Stage::new(json!({
        "providers": { "up": { "kind": "openai", "url": format!("{llmock}/v1"), "keys": ["main"] } },
        "routes": { "chaos": { "targets": [{ "provider": "up", "model": "gpt-4o-mini" }] } },
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
    Ask::post("/_llmock/reset", "").send(address).await.all().await;
    // Each call meets one of these; the plain and the streamed ones take turns.
    let behaviors = json!({ "behaviors": [
        { "type": "fail", "status": 429, "retry_after": 1 },
        { "type": "stream_fault", "kind": "truncate", "after_chunks": 3 },
        { "type": "fail", "status": 503 },
        { "type": "stream_fault", "kind": "disconnect", "after_chunks": 3 },
    ] });
    let queued = Ask::post("/_llmock/scenario", behaviors.to_string()).send(address).await.all().await;
    assert_eq!(queued.json()["queued"], 4, "{}", queued.text());
    run("verdict.py", &[("GATEWAY", &stage.url("")), ("KEY", KEY), ("CALLS", "8")]).await;
    let verdict: Value = Ask::get("/_llmock/verdict").send(address).await.all().await.json();
    ticking.abort();
    assert_eq!((&verdict["errors"], &verdict["warnings"]), (&json!(0), &json!(0)), "{verdict:#}");
    assert!(verdict["faults_injected"].as_u64() >= Some(4), "{verdict:#}");
}
