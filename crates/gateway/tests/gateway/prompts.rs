//! Stored prompts: only where a route says so, sealed, without keys, and not for longer than it says.

use std::sync::Arc;

use authority::{Authority, Question};
use contract::{Actor, Context, ErrorKind, TestClock};
use fake_ai::{Ending as Cut, FakeAi, Reply};
use gateway::prompts::{ErasePrompts, ListPrompts, ShowPrompt};
use gateway::{AiConfig, Metrics, PromptStore, prompts};
use ledger::{Keys, Ledger, Options};
use secrecy::{SecretBox, SecretString};
use serde_json::{Value, json};
use vault::{KeySource, MasterKey, PutSecret, Vault};

use crate::stage::{NOW, Read, Stage};

/// A word that is looked for in the files.
const MARKER: &str = "marmalade-on-the-seventh-shelf";
const SECRET: &str = "quiet \"heron\" over the weir";
const KEY: &str = "sk-ant-api03-Zq3xV8nLw2Rk7TgYb5HcJd9MfPs4UaEoXi6Bv1CtGzKr0QyWhNjDmSlFpAuIeOxVb";

struct House {
    folder: tempfile::TempDir,
    ledger: Ledger,
    vault: Vault,
    clock: Arc<TestClock>,
    ctx: Context,
    config: Value,
    store: PromptStore,
    stage: Stage,
}

impl House {
    async fn new(fake: &FakeAi, store_prompts: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let master = MasterKey::create(&KeySource::File(folder.path().join("master.key"))).unwrap();
        let clock = Arc::new(TestClock::at(NOW.parse().unwrap()));
        let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
        let options = Options { clock: clock.clone(), ..Options::new(folder.path().join("audit.head")) };
        let ledger = Ledger::open(&folder.path().join("state.db"), keys, options).await.unwrap();
        let vault = Vault::new(ledger.clone(), &master);
        let ctx = Context::new("shop", Actor::local()).with_clock(clock.clone());
        let config = json!({
            "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
            "routes": { "fast": { "targets": [{ "provider": "up", "model": "model-1" }],
                "retry": { "attempts": 1 }, "store_prompts": store_prompts } },
        });
        let store = PromptStore::open(ledger.clone(), vault.clone(), clock.clone(), &Metrics::default());
        let stage =
            Stage::shaped(config.clone(), |_| {}, |gateway| gateway.storing(store.transcripts())).await;
        Self { folder, ledger, vault, clock, ctx, config, store, stage }
    }

    fn ai(&self) -> AiConfig {
        serde_json::from_value(self.config.clone()).unwrap()
    }

    async fn put(&self, name: &str, value: &str) {
        let plan = self.vault.plan_put(&self.ctx, &PutSecret { name: name.into() }).await.unwrap();
        let authority = Authority::built_in().unwrap();
        let question = Question::new("key.write", &plan.target);
        let permit = authority.permit(&self.ctx, &question, &plan, &[]).unwrap();
        self.vault.execute(&self.ctx, &permit, &plan, Some(SecretString::from(value))).await.unwrap();
    }

    async fn ask(&self, content: &str, stream: bool) -> Read {
        let body = json!({ "model": "fast", "stream": stream, "messages": [{ "role": "user", "content": content }] });
        self.stage.post("/v1/chat/completions", &body).await
    }

    async fn listed(&self) -> Vec<Value> {
        let answer =
            prompts::list(&self.ctx, &self.ledger, &self.ai(), &ListPrompts::default()).await.unwrap();
        answer.value["prompts"].as_array().unwrap().clone()
    }

    async fn show(&self, answer: &Read) -> Value {
        let request = ShowPrompt { id: answer.header("steward-receipt").to_owned() };
        let shown = prompts::show(&self.ctx, &self.ledger, &request).await.unwrap();
        assert!(!format!("{:?}", shown.evidence).contains(MARKER), "evidence outlives the retention");
        (*shown.value).clone()
    }

    fn files_hold(&self, text: &str) -> bool {
        std::fs::read_dir(self.folder.path()).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    }
}

/// A stream of chat whose text comes seven bytes at a time.
fn events(text: &str, whole: bool) -> Reply {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        format!(
            "data: {}\n\n",
            json!({ "id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice] })
        )
    };
    let mut stream = String::new();
    for piece in text.as_bytes().chunks(7) {
        stream.push_str(&chunk(json!({ "content": std::str::from_utf8(piece).unwrap() }), Value::Null));
    }
    if whole {
        stream.push_str(&chunk(json!({}), json!("stop")));
        stream.push_str("data: [DONE]\n\n");
    }
    Reply::raw("text/event-stream", stream)
}

#[tokio::test]
async fn nothing_is_stored_unless_asked_for() {
    let fake = FakeAi::start().await.unwrap();
    let house = House::new(&fake, Value::Null).await;
    fake.next(Reply::text(format!("{MARKER} again")));
    assert_eq!(house.ask(MARKER, false).await.status, 200);
    house.ask(MARKER, true).await;
    house.stage.records.settled(2).await;
    house.store.close().await;
    assert!(house.listed().await.is_empty());
    house.ledger.flush().await.unwrap();
    assert!(!house.files_hold(MARKER));
}

#[tokio::test]
async fn what_was_said_is_stored_sealed_and_shown() {
    let fake = FakeAi::start().await.unwrap();
    let house = House::new(&fake, json!({ "retention_days": 30 })).await;
    fake.next(Reply::text("a whole answer"));
    let plain = house.ask(MARKER, false).await;
    fake.next(Reply::text("an answer in many events").pieces(3));
    let stream = house.ask("and streamed", true).await;
    fake.next(Reply::text("half of an answer that breaks off").cut_after_events(4, Cut::Clean));
    let broken = house.ask("and broken", true).await;
    fake.next(Reply::error(500, "server_error", "no"));
    let failed = house.ask("and failed", false).await;
    house.stage.records.settled(4).await;
    house.store.close().await;
    assert_eq!(house.listed().await.len(), 4);

    let shown = house.show(&plain).await;
    assert_eq!(shown["prompt"]["messages"][0]["content"], MARKER);
    assert_eq!(shown["reply"]["choices"][0]["message"]["content"], "a whole answer");
    assert_eq!((&shown["status"], &shown["ending"]), (&json!(200), &json!("complete")));
    let shown = house.show(&stream).await;
    assert_eq!(shown["reply"]["choices"][0]["message"]["content"], "an answer in many events");
    let shown = house.show(&broken).await;
    let text = shown["reply"]["text"].as_str().unwrap();
    assert!("half of an answer that breaks off".starts_with(text) && !text.is_empty(), "{shown}");
    assert_eq!(shown["ending"], "truncated");
    let shown = house.show(&failed).await;
    assert_eq!((&shown["reply"], &shown["ending"]), (&json!(""), &json!("failed")));

    house.ledger.flush().await.unwrap();
    assert!(!house.files_hold(MARKER), "it lies sealed");
}

#[tokio::test]
async fn keys_and_secrets_are_replaced_before_anything_is_written() {
    let fake = FakeAi::start().await.unwrap();
    let house = House::new(&fake, json!({ "retention_days": 30 })).await;
    house.put("store/password", SECRET).await;
    // Base64 of words, in the frame of a key.
    let pem = "-----BEGIN PRIVATE KEY-----\nTWFkZSB1cCBmb3IgdGhpcyB0ZXN0OiBubyBrZXkgYXQgYWxsLCBvbmx5IHdvcmRz\n\
               TWFkZSB1cCBmb3IgdGhpcyB0ZXN0OiBubyBrZXkgYXQgYWxsLCBvbmx5IHdvcmRz\n-----END PRIVATE KEY-----\nthanks";
    // A model writes a key in several events, and its stream may break off after it.
    fake.next(events(&format!("it is {KEY}, as you know"), true));
    let stream = house.ask(&format!("{MARKER} {SECRET} {pem}"), true).await;
    fake.next(events(&format!("so {KEY} and more words"), false));
    let broken = house.ask("again", true).await;
    fake.next(Reply::text(format!("whole: {SECRET}")));
    let whole = house.ask(&format!("use {KEY} for it"), false).await;
    house.stage.records.settled(3).await;
    house.store.close().await;

    let shown = house.show(&stream).await;
    let prompt = shown["prompt"]["messages"][0]["content"].as_str().unwrap();
    assert_eq!(prompt, format!("{MARKER} [redacted] [redacted]\nthanks"));
    assert_eq!(shown["reply"]["choices"][0]["message"]["content"], "it is [redacted], as you know");
    assert_eq!(shown["redactions"], 3);
    let text = house.show(&broken).await["reply"]["text"].as_str().unwrap().to_owned();
    assert_eq!(text, "so [redacted] and more words");
    let shown = house.show(&whole).await;
    assert_eq!(shown["prompt"]["messages"][0]["content"], "use [redacted] for it");
    assert_eq!(shown["reply"]["choices"][0]["message"]["content"], "whole: [redacted]");
}

#[tokio::test]
async fn a_key_at_the_cut_of_a_long_prompt_is_not_stored_in_half() {
    let fake = FakeAi::start().await.unwrap();
    let house = House::new(&fake, json!({ "retention_days": 30 })).await;
    // Wherever the cut falls, there is a key.
    let filler = format!("{KEY} ").repeat((256 << 10) / KEY.len() + 100);
    let answer = house.ask(&filler, false).await;
    house.stage.records.settled(1).await;
    house.store.close().await;
    let shown = house.show(&answer).await;
    let stored = shown["prompt"].as_str().expect("what is cut is no document");
    assert!(stored.len() > 10_000 && !stored.contains("sk-ant"), "{}", &stored[stored.len() - 200..]);
    assert!(shown["prompt_bytes"].as_u64() > Some(256 << 10));
}

#[tokio::test]
async fn stored_prompts_are_deleted_when_their_time_is_over() {
    let fake = FakeAi::start().await.unwrap();
    let mut house = House::new(&fake, json!({ "retention_days": 30 })).await;
    let answer = house.ask(MARKER, false).await;
    house.stage.records.settled(1).await;
    house.store.close().await;
    let day_us = 86_400_000_000;
    house.clock.advance_us(29 * day_us);
    assert_eq!(prompts::sweep(&house.ctx, &house.ledger, &house.ai()).await.unwrap(), 0);
    // A shorter time in the project file counts at once.
    house.config["routes"]["fast"]["store_prompts"]["retention_days"] = json!(29);
    let shorter = house.ai();
    house.config["routes"]["fast"]["store_prompts"]["retention_days"] = json!(30);
    house.clock.advance_us(day_us);
    // Nobody sees it from this moment on, whenever the sweep comes.
    let request = ShowPrompt { id: answer.header("steward-receipt").to_owned() };
    let gone = prompts::show(&house.ctx, &house.ledger, &request).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(prompts::sweep(&house.ctx, &house.ledger, &house.ai()).await.unwrap(), 1);
    assert!(house.listed().await.is_empty());
    assert_eq!(prompts::sweep(&house.ctx, &house.ledger, &shorter).await.unwrap(), 0);
}

#[tokio::test]
async fn a_shorter_retention_counts_for_what_is_stored_already() {
    let fake = FakeAi::start().await.unwrap();
    let mut house = House::new(&fake, json!({ "retention_days": 30 })).await;
    house.ask(MARKER, false).await;
    house.stage.records.settled(1).await;
    house.store.close().await;
    house.clock.advance_us(3 * 86_400_000_000);
    house.config["routes"]["fast"]["store_prompts"]["retention_days"] = json!(2);
    assert_eq!(prompts::sweep(&house.ctx, &house.ledger, &house.ai()).await.unwrap(), 1);
}

#[tokio::test]
async fn an_erasure_says_what_it_means_and_leaves_the_rest() {
    let fake = FakeAi::start().await.unwrap();
    let house = House::new(&fake, json!({ "retention_days": 30 })).await;
    let first = house.ask("one", false).await;
    house.ask("two", false).await;
    house.stage.records.settled(2).await;
    house.store.close().await;
    let plan = |request: ErasePrompts| {
        let (ctx, ledger) = (house.ctx.clone(), house.ledger.clone());
        async move { prompts::plan_erase(&ctx, &ledger, &request).await }
    };
    assert_eq!(plan(ErasePrompts::default()).await.unwrap_err().kind(), ErrorKind::Invalid);
    let unset = ErasePrompts { person: Some(String::new()), ..ErasePrompts::default() };
    assert_eq!(plan(unset).await.unwrap_err().kind(), ErrorKind::Invalid, "an empty name is not all of them");
    let id = Some(first.header("steward-receipt").to_owned());
    let (one, present) = plan(ErasePrompts { id: id.clone(), ..ErasePrompts::default() }).await.unwrap();
    assert_eq!((present, one.destructive(), one.reversible()), (1, true, false));
    let person = Some("nobody".to_owned());
    let (none, present) = plan(ErasePrompts { person, ..ErasePrompts::default() }).await.unwrap();
    assert_eq!((present, none.steps.len()), (0, 0));
    // Nobody may do it alone.
    let authority = Authority::built_in().unwrap();
    let question = Question::new("compliance.erase", &one.target);
    assert!(authority.permit(&house.ctx, &question, &one, &[]).is_err());
    assert_eq!(house.listed().await.len(), 2);
}
