//! The same question in other words: answered again only if words and embedding agree, and checked from time to time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contract::TestClock;
use fake_ai::{FakeAi, On, Reply};
use gateway::{AiConfig, CacheDecision, Limits, Metrics, Reach, Settlement, What};
use ledger::{Keys, Ledger, Options};
use secrecy::SecretBox;
use serde_json::{Value, json};

use crate::stage::{NOW, PATIENCE, Read, Stage, books};

fn config(fake: &FakeAi, semantic: &Value) -> Value {
    let mut settings = json!({ "embeddings": "vectors", "check": 0 });
    settings.as_object_mut().unwrap().extend(semantic.as_object().unwrap().clone());
    let route = json!({ "targets": [{ "provider": "up", "model": "model-1" }],
        "retry": { "attempts": 1 }, "cache": { "ttl_s": 600, "semantic": settings } });
    json!({
        "providers": { "up": { "kind": "openai", "url": fake.url(), "keys": ["main"] } },
        "routes": {
            "fast": route, "other": route,
            "vectors": { "targets": [{ "provider": "up", "model": "embed-1" }], "retry": { "attempts": 1 } },
        },
    })
}

/// Whoever asks may ask `fast` and `other`; what the cache asks for itself needs no right of theirs.
async fn stage(fake: &FakeAi, semantic: Value) -> Stage {
    Stage::with(config(fake, &semantic), |grant| {
        grant.reach = Reach::Named(BTreeSet::from(["fast".into(), "other".into()]));
    })
    .await
}

/// Embeddings in the order of the texts.
fn vectors(all: &[[f32; 2]]) -> Reply {
    let data: Vec<Value> = all
        .iter()
        .enumerate()
        .map(|(index, numbers)| json!({ "index": index, "embedding": numbers }))
        .collect();
    let body = json!({ "object": "list", "data": data, "model": "embed-1", "usage": { "prompt_tokens": 8, "total_tokens": 8 } });
    Reply::raw("application/json", body.to_string())
}

fn embeddings() -> On {
    On::path("/embeddings")
}

fn embedded(fake: &FakeAi) -> Vec<Value> {
    let requests = fake.requests();
    requests
        .iter()
        .filter(|it| it.path.ends_with("/embeddings"))
        .map(|it| it.json()["input"].clone())
        .collect()
}

fn asked(content: &str) -> Value {
    json!({ "model": "fast", "temperature": 0, "messages": [{ "role": "user", "content": content }] })
}

async fn ask(stage: &Stage, body: &Value) -> Read {
    let answer = stage.post("/v1/chat/completions", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

const ONE: &str = "What is the capital of France?";
const SAME: &str = "what's France's capital";

#[tokio::test]
async fn other_words_get_the_same_answer_and_are_told_so() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, json!({})).await;
    fake.next_on(On::generation(), Reply::text("Paris."));
    let first = ask(&stage, &asked(ONE)).await;
    assert_eq!(first.header("steward-cache"), "miss");
    assert!(embedded(&fake).is_empty(), "with nothing to compare nothing is embedded");

    fake.next_on(embeddings(), vectors(&[[1.0, 0.1], [1.0, 0.0]]));
    let again = ask(&stage, &asked(SAME)).await;
    assert_eq!(again.header("steward-cache"), "semantic");
    assert_eq!(again.header("steward-cache-of"), first.header("steward-receipt"));
    assert_eq!(again.header("steward-cache-similarity"), "0.9950");
    assert_eq!(again.json()["choices"][0]["message"]["content"], "Paris.");
    assert_eq!(embedded(&fake), [json!([SAME, ONE])]);

    // Its embedding is known now, so only the new wording is embedded; and a stream is answered as well.
    fake.next_on(embeddings(), vectors(&[[1.0, 0.0]]));
    let mut stream = asked("Tell me what the capital of France is");
    stream["messages"][0]["content"] = json!("Please tell me what is the capital of France");
    stream["stream"] = json!(true);
    let streamed = ask(&stage, &stream).await;
    assert_eq!(streamed.header("steward-cache"), "semantic", "{}", streamed.text());
    assert!(streamed.text().contains("Paris") && streamed.text().contains("[DONE]"));
    assert_eq!(embedded(&fake)[1], json!(["Please tell me what is the capital of France"]));

    // A wording that was answered so is known from then on: nothing is embedded for it again.
    let settled_before = stage.records.count();
    let again = ask(&stage, &asked(SAME)).await;
    assert_eq!(again.header("steward-cache"), "semantic");
    assert_eq!(again.header("steward-cache-similarity"), "0.9950");
    assert_eq!((embedded(&fake).len(), stage.records.count()), (2, settled_before + 1));

    // The embeddings are calls like others, with receipts in the name of who asked.
    let settled: Vec<Arc<Settlement>> = {
        let mut all = Vec::new();
        for number in 1..=5 {
            all.push(stage.records.settled(number).await);
        }
        all
    };
    let calls: Vec<_> = settled.iter().map(|it| (it.what, it.cache, &*it.route.name)).collect();
    assert_eq!(
        calls,
        [
            (What::Generate, CacheDecision::Miss, "fast"),
            (What::Embed, CacheDecision::Off, "vectors"),
            (What::Generate, CacheDecision::Semantic, "fast"),
            (What::Embed, CacheDecision::Off, "vectors"),
            (What::Generate, CacheDecision::Semantic, "fast"),
        ]
    );
    assert_eq!(settled[2].attempts.len(), 0);
    assert_eq!(settled[2].cache_note.as_ref().unwrap().like.unwrap().of, settled[0].request);
}

#[tokio::test]
async fn what_the_cache_asks_for_itself_takes_nothing_of_the_keys_limits() {
    let fake = FakeAi::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::at(NOW.parse().unwrap()));
    let (ledger, accounts) = books(folder.path(), &clock).await;
    let config: AiConfig = serde_json::from_value(config(&fake, &json!({ "check": 1 }))).unwrap();
    let prices = Arc::new(gateway::price::PriceTable::built_in());
    accounts.prepare("shop", &config, prices, None).await.unwrap();
    let limit = |grant: &mut gateway::Grant| {
        grant.limits = Limits { requests_per_minute: Some(2), tokens_per_minute: None, concurrent: Some(1) };
    };
    let meter = Arc::new(accounts.clone());
    let with = |gateway: gateway::Gateway| gateway.with_clock(clock.clone()).with_ledger(ledger.clone());
    let stage = Stage::over(&config, meter, Arc::default(), limit, with).await;
    fake.always(On::generation(), Reply::text("Paris."));
    ask(&stage, &asked(ONE)).await;
    fake.next_on(embeddings(), vectors(&[[1.0, 0.1], [1.0, 0.0]]));
    assert_eq!(ask(&stage, &asked(SAME)).await.header("steward-cache"), "semantic");
    // The check goes past them as well, and all of it has rows in the name of the key.
    assert_eq!(recorded(&ledger, 1).await, [(9950, 1)]);
    assert_eq!(stage.post("/v1/chat/completions", &asked("another")).await.status, 429);
    accounts.flush().await.unwrap();
    let rows =
        ledger.query("SELECT key_name, operation FROM ai_usage ORDER BY id", Vec::new()).await.unwrap();
    let mut rows: Vec<_> = rows
        .iter()
        .map(|row| (row.get_text("key_name").unwrap(), row.get_text("operation").unwrap()))
        .collect();
    rows.sort_unstable();
    assert_eq!(rows, [("test", "chat"), ("test", "chat"), ("test", "chat"), ("test", "embeddings")]);
    accounts.close().await.unwrap();
}

#[tokio::test]
async fn both_judges_must_agree() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, json!({ "threshold": 0.97 })).await;
    ask(&stage, &asked(ONE)).await;
    // The words agree, the embedding does not.
    fake.next_on(embeddings(), vectors(&[[1.0, 0.3], [1.0, 0.0]]));
    assert_eq!(ask(&stage, &asked(SAME)).await.header("steward-cache"), "miss");
    // The words do not, so the embedding is not even asked.
    let count = embedded(&fake).len();
    for other in [
        "What is the capital of Spain?",
        "What was the capital of France?",
        "What isn't the capital of France?",
    ] {
        assert_eq!(ask(&stage, &asked(other)).await.header("steward-cache"), "miss", "{other}");
    }
    assert_eq!(embedded(&fake).len(), count);
}

#[tokio::test]
async fn what_says_more_than_one_question_is_never_compared() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, json!({ "question_bytes_max": 60 })).await;
    fake.always(embeddings(), vectors(&[[1.0, 0.0], [1.0, 0.0]]));
    ask(&stage, &asked(ONE)).await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = asked(SAME);
        change(&mut body);
        body
    };
    let others: [(&str, Value); 9] = [
        (
            "tools",
            with(&|body| {
                body["tools"] =
                    json!([{ "type": "function", "function": { "name": "f", "parameters": {} } }]);
            }),
        ),
        (
            "an image",
            with(&|body| {
                body["messages"][0]["content"] =
                    json!([{ "type": "image_url", "image_url": { "url": "https://x/y.png" } }]);
            }),
        ),
        (
            "several turns",
            with(&|body| {
                body["messages"] = json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "hello" }, { "role": "user", "content": SAME }]);
            }),
        ),
        (
            "other instructions",
            with(&|body| {
                body["messages"] = json!([{ "role": "system", "content": "In French." }, { "role": "user", "content": SAME }]);
            }),
        ),
        ("another bound", with(&|body| body["max_tokens"] = json!(5))),
        ("another form", with(&|body| body["response_format"] = json!({ "type": "json_object" }))),
        ("chance", with(&|body| body["temperature"] = json!(0.5))),
        ("another route", with(&|body| body["model"] = json!("other"))),
        (
            "a long one",
            with(&|body| body["messages"][0]["content"] = json!(format!("{SAME}{}", "?".repeat(60)))),
        ),
    ];
    for (what, body) in others {
        let answer = ask(&stage, &body).await;
        assert_ne!(answer.header("steward-cache"), "semantic", "{what}");
    }
    assert!(embedded(&fake).is_empty(), "none of it was compared");
}

#[tokio::test]
async fn an_embedding_that_fails_fails_no_request() {
    let fake = FakeAi::start().await.unwrap();
    let stage = stage(&fake, json!({ "timeout_ms": 50 })).await;
    ask(&stage, &asked(ONE)).await;
    let failures = [
        ("an error", Reply::error(500, "server_error", "no")),
        ("silence", Reply::silent()),
        ("another shape", Reply::raw("application/json", "{}")),
        ("too few", vectors(&[[1.0, 0.0]])),
        (
            "numbers that are none",
            Reply::raw("application/json", r#"{"data":[{"embedding":[0,0]},{"embedding":[0,0]}]}"#),
        ),
    ];
    for (number, (what, reply)) in failures.into_iter().enumerate() {
        fake.next_on(embeddings(), reply);
        // Each in a wording of its own, so that none is answered by the exact tier.
        let answer = ask(&stage, &asked(&format!("{}{SAME}", "please ".repeat(number)))).await;
        assert_eq!(answer.header("steward-cache"), "miss", "{what}");
    }
}

async fn ledger(folder: &std::path::Path) -> Ledger {
    let keys = Keys { seal: SecretBox::new(Box::new([1; 32])), sign: SecretBox::new(Box::new([2; 32])) };
    Ledger::open(&folder.join("state.db"), keys, Options::new(folder.join("audit.head"))).await.unwrap()
}

async fn recorded(ledger: &Ledger, count: usize) -> Vec<(i64, i64)> {
    let query = async {
        loop {
            let rows = ledger
                .query("SELECT similarity, agrees FROM ai_cache_checks ORDER BY at_us, id", Vec::new())
                .await
                .unwrap();
            if rows.len() >= count {
                return rows
                    .iter()
                    .map(|row| (row.get_i64("similarity").unwrap(), row.get_i64("agrees").unwrap()))
                    .collect();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await; // Nothing tells when it is written.
        }
    };
    tokio::time::timeout(PATIENCE, query).await.expect("it is recorded")
}

#[tokio::test]
async fn a_false_hit_is_noticed_and_counted() {
    let fake = FakeAi::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(folder.path()).await;
    let metrics = Metrics::default();
    let stage = Stage::shaped(
        config(&fake, &json!({ "check": 1 })),
        |_| {},
        |gateway| gateway.with_ledger(ledger.clone()).measured(&metrics),
    )
    .await;
    // Words and embedding say that both ask the same; the answers say that they do not.
    fake.next_on(On::generation(), Reply::text("Use the link in the mail."));
    ask(&stage, &asked("How do I reset the password?")).await;
    fake.next_on(embeddings(), vectors(&[[1.0, 0.0], [1.0, 0.0]]));
    fake.next_on(On::generation(), Reply::text("Ask your administrator for it."));
    fake.next_on(embeddings(), vectors(&[[1.0, 0.0], [0.2, 1.0]]));
    let answer = ask(&stage, &asked("How do I reset my password?")).await;
    assert_eq!(answer.header("steward-cache"), "semantic");
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Use the link in the mail.");
    assert_eq!(recorded(&ledger, 1).await, [(10_000, 0)]);

    // One that is right: the same words; then another one: other words that mean the same, streamed.
    fake.next_on(embeddings(), vectors(&[[1.0, 0.0]]));
    fake.next_on(On::generation(), Reply::text("use the link in the mail"));
    ask(&stage, &asked("Please, how do I reset my password?")).await;
    assert_eq!(recorded(&ledger, 2).await[1..], [(10_000, 1)]);
    fake.next_on(embeddings(), vectors(&[[1.0, 0.0]]));
    fake.next_on(On::generation(), Reply::text("There is a link in your mail, use it."));
    fake.next_on(embeddings(), vectors(&[[1.0, 0.0], [1.0, 0.1]]));
    let mut stream = asked("Hello, how do I reset my password?");
    stream["stream"] = json!(true);
    ask(&stage, &stream).await;
    assert_eq!(recorded(&ledger, 3).await.iter().filter(|(_, agrees)| *agrees == 1).count(), 2);
    // What is asked once more has a receipt that says so.
    let mut checks = 0;
    for number in 1..=stage.records.count() {
        checks += usize::from(
            stage.records.settled(number).await.cache_note.as_ref().is_some_and(|note| note.checks.is_some()),
        );
    }
    assert_eq!(checks, 3);
}

/// Pairs of questions through the gate, with the embeddings of a real model: SmolLM2, its token states averaged.
///
/// What is measured is printed; `docs/internals/gateway.md` has the numbers.
#[tokio::test]
async fn pairs_of_questions_with_a_real_embedding() {
    if std::env::var("STEWARD_TEST_FULL").is_err() {
        return; // In the long run: it needs a model.
    }
    let url = conformance::server("STEWARD_TEST_SMOLLM_EMBEDDINGS_URL");
    let fake = FakeAi::start().await.unwrap();
    let pairs: Vec<Pair> = pairs();
    // At every threshold, what the embedding alone would do, and what both judges do.
    let thresholds = [0.5_f32, 0.9, 0.95, 0.97, 0.99];
    let mut similar = BTreeMap::new();
    // By threshold and whether they may share: hits, pairs.
    let mut gated: BTreeMap<(usize, bool), (usize, usize)> = BTreeMap::new();
    for (index, threshold) in thresholds.into_iter().enumerate() {
        let mut config = config(&fake, &json!({ "threshold": threshold, "timeout_ms": 60_000 }));
        config["providers"]["model"] = json!({ "kind": "openai", "url": format!("{url}/v1") });
        config["routes"]["vectors"]["targets"] = json!([{ "provider": "model", "model": "smollm2" }]);
        let stage = Stage::new(config).await;
        for (number, pair) in pairs.iter().enumerate() {
            if index == 0 {
                let body = json!({ "model": "vectors", "input": [pair.one, pair.other] });
                let answer = stage.post("/v1/embeddings", &body).await.json();
                let vector = |at: usize| -> Vec<f64> {
                    answer["data"][at]["embedding"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|it| it.as_f64().unwrap())
                        .collect()
                };
                similar.insert(number, cosine(&vector(0), &vector(1)));
            }
            // Instructions of its own keep each pair from all others.
            let asked = |text: &str| {
                json!({ "model": "fast", "temperature": 0, "messages":
                    [{ "role": "system", "content": format!("pair {number}") }, { "role": "user", "content": text }] })
            };
            ask(&stage, &asked(&pair.one)).await;
            let hit = ask(&stage, &asked(&pair.other)).await.header("steward-cache") == "semantic";
            let count = gated.entry((index, pair.may_share)).or_default();
            count.0 += usize::from(hit);
            count.1 += 1;
            assert!(pair.may_share || !hit, "a false hit at {threshold}: {} / {}", pair.one, pair.other);
        }
    }
    for (index, threshold) in thresholds.into_iter().enumerate() {
        let alone = |may_share: bool| {
            let of: Vec<_> =
                pairs.iter().enumerate().filter(|(_, pair)| pair.may_share == may_share).collect();
            (of.iter().filter(|(number, _)| similar[number] >= f64::from(threshold)).count(), of.len())
        };
        let (right, wrong) = (alone(true), alone(false));
        let both = |may_share| gated[&(index, may_share)];
        println!(
            "threshold {threshold}: embedding alone {}/{} right, {}/{} false; with the words {}/{} right, {}/{} false",
            right.0,
            right.1,
            wrong.0,
            wrong.1,
            both(true).0,
            both(true).1,
            both(false).0,
            both(false).1
        );
    }
    assert!(gated[&(3, true)].0 > 0, "it finds something");
}

struct Pair {
    may_share: bool,
    one: String,
    other: String,
}

/// `pairs.csv`: whether both may have one answer, what is different, and both questions.
fn pairs() -> Vec<Pair> {
    let lines = include_str!("pairs.csv").lines().skip(1);
    let pairs: Vec<Pair> = lines
        .map(|line| {
            let fields = fields(line);
            let [share, _, one, other] = fields.as_slice() else { panic!("{line}") };
            Pair { may_share: share == "yes", one: one.clone(), other: other.clone() }
        })
        .collect();
    assert!(pairs.len() > 80);
    pairs
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                fields.last_mut().unwrap().push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().unwrap().push(other),
        }
    }
    fields
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    product(one, other) / (product(one, one) * product(other, other)).sqrt()
}
