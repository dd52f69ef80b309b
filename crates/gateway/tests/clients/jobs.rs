//! A gateway with accounts and jobs, so that files, batches and training are paid for.

use std::sync::Arc;

use contract::SystemClock;
use fake_ai::{FakeAi, On, Reply};
use gateway::price::PriceTable;
use gateway::{Accounts, AiConfig, Jobs};
use ledger::{Keys, Ledger, Options};
use secrecy::SecretBox;
use serde_json::json;

use crate::stage::Stage;

/// A provider that has every answer that it is asked for, and always the same one.
fn keep_responses(fake: &FakeAi) {
    let message = json!({ "type": "message", "id": "msg_kept", "role": "assistant", "status": "completed",
        "content": [{ "type": "output_text", "text": "kept", "annotations": [] }] });
    let items = json!({ "object": "list", "data": [message], "has_more": false, "first_id": "msg_kept", "last_id": "msg_kept" });
    let answer = json!({ "id": "resp_kept", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-5-mini",
        "output": [message], "parallel_tool_calls": true, "tool_choice": "auto", "tools": [] });
    let kept = On::when(|exchange| {
        exchange.path.starts_with("/v1/responses/") && !exchange.path.ends_with("/input_items")
    });
    fake.always(kept, Reply::raw("application/json", answer.to_string()));
    fake.always(On::path("/input_items"), Reply::raw("application/json", items.to_string()));
}

pub struct Paid {
    _directory: tempfile::TempDir,
    _fake: FakeAi,
    ledger: Ledger,
    accounts: Accounts,
    stage: Stage,
}

impl Paid {
    pub async fn new() -> Self {
        let fake = FakeAi::start().await.unwrap();
        keep_responses(&fake);
        let directory = tempfile::tempdir().unwrap();
        let secret = |byte| SecretBox::new(Box::new([byte; 32]));
        let keys = Keys { seal: secret(7), sign: secret(8) };
        let path = directory.path().join("state.db");
        let options = Options::new(path.with_file_name("audit.head"));
        let ledger = Ledger::open(&path, keys, options).await.unwrap();
        let config: AiConfig = serde_json::from_value(serde_json::json!({
            "providers": { "openai": { "kind": "openai", "url": format!("{}/v1", fake.url()), "keys": ["openai"],
                "formats": ["chat", "responses"] } },
            "budgets": { "day": { "usd": "1", "per": "day", "scope": "project" } },
        }))
        .unwrap();
        let clock = Arc::new(SystemClock);
        let accounts = Accounts::open(ledger.clone(), clock.clone()).await.unwrap();
        accounts.prepare("shop", &config, Arc::new(PriceTable::built_in()), None).await.unwrap();
        let jobs = Jobs::new(ledger.clone(), accounts.clone(), clock);
        let stage = Stage::over(
            &config,
            Arc::new(accounts.clone()),
            Arc::default(),
            |_| {},
            |gateway| gateway.with_jobs(jobs),
        )
        .await;
        Self { _directory: directory, _fake: fake, ledger, accounts, stage }
    }

    pub fn url(&self) -> String {
        self.stage.url("")
    }

    /// Both jobs of the script were counted, and hold nothing any more.
    pub async fn check(&self) {
        let ask = |sql| self.ledger.query(sql, Vec::new());
        let jobs = ask("SELECT kind, state, cost_usd_nanos FROM ai_jobs ORDER BY kind").await.unwrap();
        let states: Vec<(&str, &str)> =
            jobs.iter().map(|job| (job.get_text("kind").unwrap(), job.get_text("state").unwrap())).collect();
        assert_eq!(states, [("batch", "settled"), ("fine_tuning", "settled")]);
        assert!(jobs.iter().all(|job| job.get_i64("cost_usd_nanos").unwrap() > 0));
        assert!(ask("SELECT 1 AS held FROM ai_slices WHERE holder LIKE 'job/%'").await.unwrap().is_empty());
        self.accounts.close().await.unwrap();
    }
}
