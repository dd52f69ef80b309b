//! Which answers are kept, for how long, and beyond the process.

use contract::TestClock;
use fake_ai::{Answer, FakeAi, Finish, Reply};
use gateway::Ending;
use ledger::{Keys, Ledger, Options};
use secrecy::SecretBox;
use serde_json::{Value, json};

use crate::stage::{NOW, PATIENCE, Read, Stage};

const FORMATS: [(&str, &str); 3] =
    [("chat", "/v1/chat/completions"), ("responses", "/v1/responses"), ("messages", "/v1/messages")];

fn config(fake: &FakeAi, cache: &Value) -> Value {
    json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
        "routes": { "fast": { "targets": [{ "provider": "up", "model": "model-1" }],
            "retry": { "attempts": 1 }, "cache": cache } },
    })
}

async fn stage(fake: &FakeAi, cache: Value) -> Stage {
    Stage::new(config(fake, &cache)).await
}

/// The same question in a format.
fn question(format: &str, stream: bool) -> Value {
    let mut body = match format {
        "responses" => json!({ "input": "hello" }),
        "messages" => json!({ "max_tokens": 50, "messages": [{ "role": "user", "content": "hello" }] }),
        _ => json!({ "messages": [{ "role": "user", "content": "hello" }] }),
    };
    body["model"] = json!("fast");
    body["temperature"] = json!(0);
    body["stream"] = json!(stream);
    body
}

async fn ask(stage: &Stage) -> Read {
    stage.post("/v1/chat/completions", &question("chat", false)).await
}

#[tokio::test]
async fn refusals_calls_of_tools_and_cut_answers_are_not_kept() {
    let fake = FakeAi::start().await.unwrap();
    let answers = [
        ("an answer that the provider's filter stopped", Answer::text("I must not").finish(Finish::Filter)),
        ("a call of a tool", Answer::default().tool("call_1", "weather", "{\"city\":\"Oslo\"}")),
        ("an answer without room", Answer::text("It all began when").finish(Finish::Length)),
    ];
    for (format, path) in FORMATS {
        for (what, answer) in &answers {
            for stream in [false, true] {
                let stage = stage(&fake, json!({ "ttl_s": 600 })).await;
                fake.next(Reply::answer(answer.clone()));
                let first = stage.post(path, &question(format, stream)).await;
                assert_eq!((first.status.as_u16(), first.header("steward-cache")), (200, "miss"));
                stage.records.settled(1).await;
                fake.next(Reply::text("well"));
                let second = stage.post(path, &question(format, false)).await;
                assert_eq!(second.header("steward-cache"), "miss", "{what} in {format}, stream: {stream}");
                assert!(second.text().contains("well"), "{}", second.text());
                // What is whole is kept, so that the test could fail.
                assert_eq!(stage.post(path, &question(format, false)).await.header("steward-cache"), "hit");
            }
        }
    }
    // A route may say that calls of tools are the same each time.
    for stream in [false, true] {
        let stage = stage(&fake, json!({ "ttl_s": 600, "tool_calls": true })).await;
        fake.next(Reply::answer(answers[1].1.clone()));
        stage.post("/v1/chat/completions", &question("chat", stream)).await;
        stage.records.settled(1).await;
        let again = ask(&stage).await;
        assert_eq!(again.header("steward-cache"), "hit", "stream: {stream}");
        let call = &again.json()["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!((&call["name"], &call["arguments"]), (&json!("weather"), &json!("{\"city\":\"Oslo\"}")));
    }
}

/// A model that says no ends as it does with any answer; only the place where it says so is another.
#[tokio::test]
async fn refusals_that_look_like_whole_answers_are_not_kept() {
    let fake = FakeAi::start().await.unwrap();
    let usage = json!({ "prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10 });
    let plain = json!({ "id": "c", "object": "chat.completion", "created": 1, "model": "model-1", "usage": usage,
        "choices": [{ "index": 0, "finish_reason": "stop",
            "message": { "role": "assistant", "content": null, "refusal": "I must not" } }] });
    let chunk = |delta: Value, finish: Value| {
        let chunk = json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "model-1",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
        format!("data: {chunk}\n\n")
    };
    let streamed = [
        chunk(json!({ "role": "assistant", "content": null, "refusal": "I must not" }), Value::Null),
        chunk(json!({}), json!("stop")),
        format!(
            "data: {}\n\ndata: [DONE]\n\n",
            json!({ "id": "c", "object": "chat.completion.chunk", "created": 1,
            "model": "model-1", "choices": [], "usage": usage })
        ),
    ]
    .concat();
    for (format, path) in FORMATS {
        for stream in [false, true] {
            let mut config = config(&fake, &json!({ "ttl_s": 600 }));
            config["providers"]["up"]["formats"] = json!(["chat"]);
            let stage = Stage::new(config).await;
            let (kind, body) = if stream {
                ("text/event-stream", streamed.clone())
            } else {
                ("application/json", plain.to_string())
            };
            fake.next(Reply::raw(kind, body));
            let first = stage.post(path, &question(format, stream)).await;
            assert!(first.status == 200 && first.text().contains("I must not"), "{format}: {}", first.text());
            assert_eq!(stage.records.settled(1).await.ending, Ending::Complete, "{format}, stream: {stream}");
            fake.next(Reply::text("well"));
            let second = stage.post(path, &question(format, false)).await;
            assert_eq!(second.header("steward-cache"), "miss", "{format}, stream: {stream}");
            assert_eq!(stage.post(path, &question(format, false)).await.header("steward-cache"), "hit");
        }
    }
}

#[tokio::test]
async fn an_answer_that_a_client_left_is_kept_only_if_it_was_whole() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, json!({ "ttl_s": 600 })).await;
    let gate = fake_ai::Gate::new();
    fake.next(Reply::text("one two three four").gate_after_events(3, &gate));
    let headers = [("content-type", "application/json")];
    let body = question("chat", true).to_string();
    let begun = stage.open("POST", "/v1/chat/completions", &headers, &body).await;
    tokio::time::timeout(PATIENCE, gate.reached(1)).await.unwrap();
    drop(begun);
    assert_eq!(stage.records.settled(1).await.ending, Ending::Disconnected);
    fake.next(Reply::text("all of it"));
    let next = ask(&stage).await;
    assert_eq!(next.header("steward-cache"), "miss");
    assert_eq!(next.json()["choices"][0]["message"]["content"], "all of it");
}

#[tokio::test]
async fn an_answer_is_given_until_its_time_is_over() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, json!({ "ttl_s": 600 })).await;
    fake.next(Reply::text("old"));
    fake.next(Reply::text("new"));
    assert_eq!(ask(&stage).await.header("steward-cache"), "miss");
    stage.clock.advance_us(599_999_999);
    assert_eq!(ask(&stage).await.header("steward-cache"), "hit");
    stage.clock.advance_us(1);
    let anew = ask(&stage).await;
    assert_eq!(anew.header("steward-cache"), "miss");
    assert_eq!(anew.json()["choices"][0]["message"]["content"], "new");
    // The hit in between did not make it last longer, and the new one has a time of its own.
    stage.clock.advance_us(599_999_999);
    let again = ask(&stage).await;
    assert_eq!(again.header("steward-cache"), "hit");
    assert_eq!(again.json()["choices"][0]["message"]["content"], "new");
}

/// The state file, opened once more.
async fn ledger(folder: &std::path::Path) -> Ledger {
    let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
    let clock = std::sync::Arc::new(TestClock::at(NOW.parse().unwrap()));
    let options = Options { clock, ..Options::new(folder.join("audit.head")) };
    Ledger::open(&folder.join("state.db"), keys, options).await.unwrap()
}

#[tokio::test]
async fn an_answer_outlives_the_process_and_neither_its_time_nor_its_route() {
    let fake = FakeAi::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = json!({ "ttl_s": 600 });
    let open = async |config: Value| {
        let ledger = ledger(folder.path()).await;
        let state = ledger.clone();
        (Stage::shaped(config, |_| {}, move |gateway| gateway.with_ledger(ledger)).await, state)
    };
    let (first, state) = open(config(&fake, &cache)).await;
    fake.next(Reply::text("streamed before the restart"));
    let answer = first.post("/v1/chat/completions", &question("chat", true)).await;
    assert!(answer.text().contains("[DONE]"), "{}", answer.text());
    // It is written beside the request; nothing tells when.
    let written = async {
        while state.query("SELECT 1 FROM ai_cache", Vec::new()).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("it is written");
    drop((first, state));
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(18).any(|window| window == b"before the restart"), "it is sealed");
    }

    let (second, _) = open(config(&fake, &cache)).await;
    let again = ask(&second).await;
    assert_eq!(again.header("steward-cache"), "hit", "{}", again.text());
    assert_eq!(again.json()["choices"][0]["message"]["content"], "streamed before the restart");
    assert_eq!(fake.requests().len(), 1, "the provider is not asked again");
    assert_eq!(second.records.settled(1).await.attempts.len(), 0);

    // With another model behind the route it is another question.
    let mut other = config(&fake, &cache);
    other["routes"]["fast"]["targets"][0]["model"] = json!("model-2");
    let (third, _) = open(other).await;
    fake.next(Reply::text("by the other model"));
    assert_eq!(ask(&third).await.header("steward-cache"), "miss");

    let (fourth, _) = open(config(&fake, &cache)).await;
    fourth.clock.advance_us(600_000_000);
    fake.next(Reply::text("after its time"));
    let late = ask(&fourth).await;
    assert_eq!(late.header("steward-cache"), "miss");
    assert_eq!(late.json()["choices"][0]["message"]["content"], "after its time");
}
