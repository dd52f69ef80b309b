//! The gateway as clients meet it: what they see on the wire in hard cases, and the official clients themselves.

#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::format_push_string,
    clippy::unused_self,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "a test fails by panicking, and the stage has more than is used here"
)]

mod aimock;
mod hard_cases;
mod jobs;
mod official;
mod raw;
mod real_model;
#[path = "../gateway/stage.rs"]
mod stage;
mod verdict;

use fake_ai::FakeAi;
use gateway::Reach;

use crate::stage::Stage;

/// The gateway in front of a simulated provider.
struct Scene {
    fake: FakeAi,
    stage: Stage,
}

/// The keys of the providers, as the simulation sees them.
const PROVIDER_KEYS: [(&str, &str); 4] = [
    ("openai", "upstream-openai-key-12345678"),
    ("azure", "upstream-azure-key-12345678"),
    ("anthropic", "upstream-anthropic-key-12345678"),
    ("gemini", "upstream-gemini-key-12345678"),
];

impl Scene {
    /// Starts both; `more` is what stands in the configuration besides the providers.
    async fn new(more: &str, reach: Option<&str>) -> Self {
        let fake = FakeAi::start().await.unwrap();
        let url = fake.url();
        let yaml = format!(
            "  providers:
    openai: {{ kind: openai, url: \"{url}/v1\", keys: [openai], formats: [chat, responses] }}
    azure: {{ kind: azure_openai, url: \"{url}\", keys: [azure] }}
    anthropic: {{ kind: anthropic, url: \"{url}/v1\", keys: [anthropic] }}
    gemini: {{ kind: gemini, url: \"{url}/v1beta\", keys: [gemini] }}
{}",
            more.replace("{fake}", &url)
        );
        let config = serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{error}"));
        let reach = reach.map(|names| Reach::Named(names.split(',').map(Into::into).collect()));
        let stage = Stage::with(config, |grant| grant.reach = reach.unwrap_or(Reach::All)).await;
        Self { fake, stage }
    }

    fn address(&self) -> String {
        self.stage.address.to_string()
    }

    /// A POST with the key of this gateway.
    async fn post(&self, path: &str, body: &serde_json::Value) -> raw::Answer {
        raw::Ask::post(path, body.to_string()).key(stage::KEY).send(&self.address()).await.all().await
    }
}
