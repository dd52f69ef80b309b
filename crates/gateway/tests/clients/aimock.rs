//! Providers as others imitate them: npm aimock speaks for OpenAI, Azure OpenAI, Anthropic and Gemini, and breaks on
//! demand. What its models do when their name is asked for stands in `testbed/services/aimock.json`.

use contract::ai::FailureClass;
use gateway::Ending;
use serde_json::{Value, json};

use crate::official::run;
use crate::raw::{Answer, Ask};
use crate::stage::{KEY, Stage};

const PROVIDERS: [&str; 4] = ["openai", "azure", "anthropic", "gemini"];

/// Models of aimock that answer, and those that fail in some way.
const MODELS: [&str; 12] = [
    "plain",
    "thinker",
    "drop",
    "malformed",
    "limited",
    "wait",
    "gone",
    "slow",
    "overloaded",
    "wrong",
    "cut",
    "late",
];

/// The gateway in front of aimock, with a route for each model of each provider.
async fn stage() -> Stage {
    let aimock = conformance::server("STEWARD_TEST_AIMOCK_URL");
    let mut routes = serde_json::Map::new();
    for provider in PROVIDERS {
        for model in MODELS {
            let mut route = json!({
                "targets": [{ "provider": provider, "model": model }], "retry": { "attempts": 1 },
            });
            if model == "slow" {
                // The model takes half a minute.
                route["timeouts"] = json!({ "headers_ms": 1_500, "first_token_ms": 1_500 });
            }
            routes.insert(format!("{model}-{provider}"), route);
        }
    }
    let targets: Vec<Value> = ["malformed", "gone", "drop", "plain"]
        .iter()
        .enumerate()
        .map(|(at, model)| json!({ "provider": PROVIDERS[at], "model": model, "priority": at + 1 }))
        .collect();
    let retry = json!({ "attempts": 4, "base_ms": 1 });
    routes.insert("ladder".into(), json!({ "targets": targets, "retry": retry }));
    Stage::new(json!({
        "providers": {
            "openai": { "kind": "openai", "url": format!("{aimock}/v1"), "keys": ["main"], "formats": ["chat", "responses"] },
            "azure": { "kind": "azure_openai", "url": aimock, "keys": ["main"] },
            "anthropic": { "kind": "anthropic", "url": format!("{aimock}/v1"), "keys": ["main"] },
            "gemini": { "kind": "gemini", "url": format!("{aimock}/v1beta"), "keys": ["main"] },
        },
        "routes": routes,
    }))
    .await
}

/// A way to ask.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Surface {
    Chat,
    Responses,
    Messages,
    Gemini,
    Deployment,
}

const SURFACES: [Surface; 5] =
    [Surface::Chat, Surface::Responses, Surface::Messages, Surface::Gemini, Surface::Deployment];

impl Surface {
    fn ask(self, route: &str, stream: bool) -> Ask {
        let messages = json!([{ "role": "user", "content": "good day" }]);
        let (path, body) = match self {
            Self::Chat => (
                "/v1/chat/completions".to_owned(),
                json!({ "model": route, "stream": stream, "messages": messages }),
            ),
            Self::Deployment => (
                format!("/openai/deployments/{route}/chat/completions?api-version=2024-10-21"),
                json!({ "stream": stream, "messages": messages }),
            ),
            Self::Responses => {
                ("/v1/responses".to_owned(), json!({ "model": route, "stream": stream, "input": "good day" }))
            }
            Self::Messages => (
                "/v1/messages".to_owned(),
                json!({ "model": route, "stream": stream, "max_tokens": 50, "messages": messages }),
            ),
            Self::Gemini => {
                let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
                (
                    format!("/v1beta/models/{route}:{verb}"),
                    json!({ "contents": [{ "role": "user", "parts": [{ "text": "good day" }] }] }),
                )
            }
        };
        Ask::post(&path, body.to_string()).key(KEY)
    }

    /// What only stands at the end of a whole stream.
    fn ends(self) -> &'static [&'static str] {
        match self {
            Self::Chat | Self::Deployment => &["[DONE]", "\"finish_reason\":\""],
            Self::Responses => &["response.completed"],
            Self::Messages => &["message_stop", "\"stop_reason\":\""],
            Self::Gemini => &["finishReason"],
        }
    }

    /// Whether the provider speaks it: then its answer passes as it is.
    fn is_spoken_by(self, provider: &str) -> bool {
        match self {
            Self::Chat | Self::Deployment => matches!(provider, "openai" | "azure"),
            Self::Responses => provider == "openai",
            Self::Messages => provider == "anthropic",
            Self::Gemini => provider == "gemini",
        }
    }

    /// Whether an error is said as this surface says errors.
    fn says_an_error(self, body: &Value) -> bool {
        let error = &body["error"];
        error["message"].is_string()
            && match self {
                Self::Messages => body["type"] == "error" && error["type"].is_string(),
                Self::Gemini => error["code"].is_u64() && error["status"].is_string(),
                Self::Chat | Self::Responses | Self::Deployment => error["type"].is_string(),
            }
    }
}

/// The surfaces that a short run asks of a provider: its own, and one that is translated.
fn surfaces(provider: &str) -> Vec<Surface> {
    if std::env::var_os("STEWARD_TEST_FULL").is_some() {
        return SURFACES.to_vec();
    }
    match provider {
        "openai" => vec![Surface::Chat, Surface::Responses, Surface::Messages],
        "azure" => vec![Surface::Deployment, Surface::Gemini],
        "anthropic" => vec![Surface::Messages, Surface::Chat],
        _ => vec![Surface::Gemini, Surface::Responses],
    }
}

/// Asks every provider on every surface for this model, plain and streamed. Each has a gateway of its own, because
/// breakers and keys remember what happened.
async fn everywhere(model: &str, streams: &[bool], judge: impl Fn(&Case)) {
    let mut failed = Vec::new();
    for provider in PROVIDERS {
        for surface in surfaces(provider) {
            for &stream in streams {
                let stage = stage().await;
                let ask = surface.ask(&format!("{model}-{provider}"), stream);
                let answer = ask.send(&stage.address.to_string()).await.all().await;
                let settled = stage.records.settled(1).await;
                let name = format!(
                    "{surface:?} onto {provider}, stream {stream}: {} {} {settled:?}",
                    answer.status,
                    answer.text()
                );
                let case = Case { surface, provider, stream, answer, settled, name };
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(&case))).is_err() {
                    failed.push(case.name);
                }
            }
        }
    }
    assert!(failed.is_empty(), "{model}:\n{}", failed.join("\n"));
}

struct Case {
    surface: Surface,
    provider: &'static str,
    stream: bool,
    answer: Answer,
    settled: std::sync::Arc<gateway::Settlement>,
    name: String,
}

impl Case {
    /// The client got an error with this status in its own words, and the record says so.
    #[track_caller]
    fn failed(&self, status: u16, upstream: Option<u16>, class: FailureClass) {
        let Self { surface, provider, answer, settled, name, .. } = self;
        assert_eq!(answer.status, status, "{name}");
        let body = answer.json();
        // The faults of aimock are said in OpenAI's words on all surfaces, and an error that is spoken passes as it is.
        let passes = upstream.is_some_and(|status| status >= 400) && surface.is_spoken_by(provider);
        let is_error =
            if passes { body["error"]["message"].is_string() } else { surface.says_an_error(&body) };
        assert!(answer.complete && is_error, "{name}");
        assert!(surface.ends().iter().all(|end| !answer.text().contains(end)), "{name}");
        assert_eq!((settled.ending, settled.status), (Ending::Failed, status), "{name}");
        let attempt = &settled.attempts[0];
        assert_eq!(
            (settled.attempts.len(), attempt.status, attempt.failure),
            (1, upstream, Some(class)),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_answers_arrive_and_are_counted_as_aimock_counts_them() {
    everywhere("plain", &[false, true], |case| {
        let Case { surface, provider, stream, answer, settled, name } = case;
        assert_eq!((answer.status, answer.complete), (200, true), "{name}");
        if *stream {
            assert!(surface.ends().iter().all(|end| answer.text().contains(end)), "{name}");
            assert!(
                answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")),
                "{name}"
            );
        } else {
            assert!(answer.text().contains("The answer of a simulated model, word by word."), "{name}");
        }
        assert_eq!(
            (settled.ending, settled.status, settled.streaming),
            (Ending::Complete, 200, *stream),
            "{name}"
        );
        let usage = settled.usage.as_ref().unwrap_or_else(|| panic!("{name}"));
        assert_eq!((usage.input, usage.output), (11, 7), "{name}");
        // What imitates Gemini does not say which model it is.
        let model = (*provider != "gemini").then_some("plain");
        assert_eq!(settled.reported_model.as_deref(), model, "{name}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_aimock_keep_their_status_and_their_wait() {
    everywhere("drop", &[false, true], |case| case.failed(500, Some(500), FailureClass::Server)).await;
    everywhere("wrong", &[false, true], |case| {
        case.failed(400, Some(400), FailureClass::BadRequest);
        assert!(case.answer.text().contains("no such parameter"), "{}", case.name);
    })
    .await;
    everywhere("wait", &[false, true], |case| {
        case.failed(429, Some(429), FailureClass::Rate);
        assert_eq!(case.answer.header("retry-after"), Some("7"), "{}", case.name);
    })
    .await;
    everywhere("overloaded", &[false, true], |case| {
        case.failed(529, Some(529), FailureClass::Overloaded);
        assert!(case.answer.text().contains("too much to do"), "{}", case.name);
    })
    .await;
    everywhere("limited", &[false, true], |case| {
        case.failed(429, Some(429), FailureClass::Rate);
        assert_eq!(case.answer.header("retry-after"), Some("1"), "{}", case.name);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_aimock_breaks_is_never_an_answer() {
    everywhere("gone", &[false, true], |case| case.failed(502, None, FailureClass::Network)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_aimock_garbles_is_not_passed_on_as_an_answer() {
    everywhere("malformed", &[false, true], |case| {
        case.failed(502, Some(200), FailureClass::Server);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_before_the_first_text_falls_back() {
    for surface in SURFACES {
        for stream in [false, true] {
            let stage = stage().await;
            let answer = surface.ask("ladder", stream).send(&stage.address.to_string()).await.all().await;
            assert_eq!(
                answer.header("steward-target"),
                Some("gemini/plain"),
                "{surface:?}: {}",
                answer.text()
            );
            let settled = stage.records.settled(1).await;
            let failures: Vec<_> = settled.attempts.iter().map(|attempt| attempt.failure).collect();
            let (server, network) = (Some(FailureClass::Server), Some(FailureClass::Network));
            assert_eq!(failures, [server, network, server, None], "{surface:?}");
            assert_eq!((answer.status, settled.ending), (200, Ending::Complete), "{surface:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_aimock_cuts_is_told_to_be_cut() {
    for model in ["cut", "late"] {
        everywhere(model, &[true], |case| {
            let Case { surface, answer, settled, name, .. } = case;
            let text = answer.text();
            assert!(surface.ends().iter().all(|end| !text.contains(end)), "{name}");
            assert!(text.contains("\"error\"") || !answer.complete, "{name}");
            // Slow machines: it may break before the first text, and is then an error like any other.
            if answer.status == 200 {
                assert_eq!(settled.ending, Ending::Truncated, "{name}");
                assert!(text.contains("This"), "{name}");
            } else {
                assert_eq!((answer.status, settled.ending), (502, Ending::Failed), "{name}");
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_aimock_longer_than_the_route_says() {
    let stage = stage().await;
    for (provider, surface) in [("openai", Surface::Chat), ("gemini", Surface::Messages)] {
        let ask = surface.ask(&format!("slow-{provider}"), true);
        let answer = ask.send(&stage.address.to_string()).await.all().await;
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert!(surface.says_an_error(&answer.json()), "{}", answer.text());
    }
    let settled = stage.records.settled(2).await;
    assert_eq!((settled.ending, settled.attempts[0].failure), (Ending::Failed, Some(FailureClass::Timeout)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn official_clients_are_content_with_aimock_behind() {
    let stage = stage().await;
    let providers = if std::env::var_os("STEWARD_TEST_FULL").is_some() {
        "openai,azure,anthropic,gemini"
    } else {
        "openai,anthropic,gemini"
    };
    let url = stage.url("");
    run("aimock.py", &[("GATEWAY", &url), ("KEY", KEY), ("PROVIDERS", providers)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_batches_and_training_pass_to_aimock() {
    let aimock = conformance::server("STEWARD_TEST_AIMOCK_URL");
    let stage = Stage::new(json!({
        "providers": { "openai": { "kind": "openai", "url": format!("{aimock}/v1"), "keys": ["main"] } },
    }))
    .await;
    let model = "gpt-4o-mini-2024-07-18";
    run("openai_jobs.py", &[("GATEWAY", &stage.url("")), ("KEY", KEY), ("MODEL", model)]).await;
}
