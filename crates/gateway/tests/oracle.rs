//! Our cost against PyPI `genai-prices` on a thousand generated usages: equal to the nano-dollar, or a difference that is
//! listed here with its reason. It has standard prices alone; the prices of all tiers are held against those that PyPI
//! `openai-cost-calculator` has read from the same pages, and against the rules that the providers publish for them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use gateway::cost::cost;
use gateway::price::{PriceTable, Prices, Rates, Tier};
use serde_json::{Value, json};
use wire::Usage;

const USAGES: usize = 1000;

/// Where the other side reckons otherwise, and why; a difference at any other model fails, and so does a line that no
/// longer holds.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "azure_openai/text-embedding-3-large",
        "it has OpenAI's own price; LiteLLM and we have Azure's, a tenth higher",
    ),
    (
        "azure_openai/text-embedding-3-small",
        "it has OpenAI's own price; LiteLLM and we have Azure's, a tenth higher",
    ),
    (
        "azure_openai/text-embedding-ada-002",
        "it has OpenAI's own price; LiteLLM and we have Azure's, a tenth higher",
    ),
];

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Mostly small, sometimes large enough to be a long request, often none.
    fn tokens(&mut self) -> u64 {
        match self.below(10) {
            0..=2 => 0,
            3..=7 => self.below(20_000),
            8 => self.below(150_000),
            _ => self.below(500_000),
        }
    }
}

/// A usage with only the classes that the model has prices for: what costs as its relative is counted there.
fn usage(numbers: &mut Numbers, prices: &Prices) -> Usage {
    let rates = &prices.standard;
    let mut some = |has: bool| if has { numbers.tokens() } else { 0 };
    let output = some(rates.output.nanos() > 0);
    Usage {
        input: some(true),
        cache_read: some(rates.cache_read.is_some()),
        cache_write_5m: some(rates.cache_write_5m.is_some()),
        cache_write_1h: some(rates.cache_write_1h.is_some()),
        audio_input: some(rates.audio_input.is_some()),
        output,
        reasoning: output / 3,
        audio_output: some(rates.audio_output.is_some()),
    }
}

/// Dollars with any number of decimals as nano-dollars, rounded up.
fn nanos(text: &str) -> i64 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let (kept, rest) = part.split_at(part.len().min(9));
    let exact: i64 = format!("{whole}{kept:0<9}").parse().unwrap();
    exact + i64::from(rest.bytes().any(|digit| digit != b'0'))
}

#[test]
fn our_cost_is_that_of_genai_prices_on_a_thousand_usages() {
    let home = conformance::server("STEWARD_TEST_AI_CLIENTS_URL");
    let table = PriceTable::built_in();
    let mut numbers = Numbers(20_261_123);
    let mut cases = Vec::new();
    // The other side knows rows of trained models only by the whole name of one.
    let models: Vec<_> = table.models().iter().filter(|model| !model.model.starts_with("ft:")).collect();
    for number in 0..USAGES {
        // Each model in turn, at a time between the start of 2026 and a year later.
        let model = models[number % models.len()];
        let at = 1_767_225_600 + i64::try_from(numbers.below(365 * 86_400)).unwrap();
        let prices = model.prices_at(jiff::Timestamp::from_second(at).unwrap());
        let usage = usage(&mut numbers, prices);
        let ours = cost(prices, &usage, Tier::Standard);
        let case = json!({ "provider": model.provider, "model": model.model, "at": at, "tokens": usage });
        cases.push((format!("{}/{}", model.provider, model.model), case, ours));
    }
    let mut program = Command::new(Path::new(&home).join("venv/ai/bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/price.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the Python environment of `testbed/testbed up ai-clients`");
    let mut input = program.stdin.take().unwrap();
    let lines: Vec<String> = cases.iter().map(|(_, case, _)| case.to_string()).collect();
    let writer = std::thread::spawn(move || {
        for line in lines {
            writeln!(input, "{line}").unwrap();
        }
    });
    let output = program.wait_with_output().unwrap();
    writer.join().unwrap();
    let answers: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), USAGES);

    let known: BTreeMap<&str, &str> = DIFFERENT.iter().copied().collect();
    let mut unknown = Vec::new();
    let mut seen = BTreeSet::new();
    let (mut equal, mut long) = (0, 0);
    for ((name, case, ours), theirs) in cases.iter().zip(&answers) {
        let theirs_nanos = theirs["usd"].as_str().map(nanos);
        if theirs_nanos == Some(ours.usd.nanos()) {
            equal += 1;
            long += usize::from(ours.long);
        } else if let Some((listed, _)) = known.get_key_value(name.as_str()) {
            seen.insert(*listed);
        } else {
            unknown.push(format!("{case}\n  ours {} nano-dollars, theirs {theirs}", ours.usd.nanos()));
        }
    }
    println!(
        "{equal} of {USAGES} are equal to the nano-dollar, {long} of them long; different with a reason:"
    );
    for (name, why) in DIFFERENT {
        println!("  {name}: {why}");
    }
    assert!(
        unknown.is_empty(),
        "{} differ without a reason:\n{}",
        unknown.len(),
        unknown[..unknown.len().min(20)].join("\n")
    );
    let stale: Vec<_> = known.keys().filter(|name| !seen.contains(*name)).collect();
    assert!(stale.is_empty(), "these no longer differ, so their lines must go: {stale:?}");
    assert!(equal > USAGES * 9 / 10 && long > 20, "{equal} equal, {long} long");
}

/// Models with tiers whose prices nobody else has recorded yet: they are newer than the recording.
const NEWER: &[&str] = &[
    "anthropic/claude-fable-5-2",
    "anthropic/claude-haiku-5-5",
    "anthropic/claude-sonnet-5-5",
    "gemini/gemini-4-argon",
    "openai/gpt-6.1-sol",
    "openai/gpt-6.1-terra",
];

/// Prices of a tier in a recording, by its names for the classes.
type Recorded = serde_json::Map<String, Value>;

/// What the recording has for a model and a tier, on its own day, for requests longer than this.
fn recorded<'a>(recording: &'a Value, model: &str, tier: &str, above_tokens: u64) -> Option<&'a Recorded> {
    let day = recording["verified_at"].as_str().unwrap();
    let models = recording["models"].as_array().unwrap();
    let found = models.iter().find(|one| {
        let aliases = one["aliases"].as_array().into_iter().flatten();
        one["id"] == model || aliases.into_iter().any(|alias| alias == model)
    })?;
    let held = found["prices"].as_array().unwrap().iter().find(|row| {
        let conditions = row["conditions"].as_object();
        let is_tier = conditions.and_then(|all| all.get("service_tier")).and_then(Value::as_str);
        let from = row["min_input_tokens"].as_u64().unwrap_or(0);
        is_tier.unwrap_or("standard") == tier
            && conditions.is_none_or(|all| all.keys().all(|key| key == "service_tier"))
            // Some say "from", some say "above".
            && (from == above_tokens || above_tokens > 0 && from == above_tokens + 1)
            && row["effective_from"].as_str().is_none_or(|from| from <= day)
            && row["effective_until"].as_str().is_none_or(|until| day < until)
    });
    held.and_then(|row| row["rates"].as_object())
}

#[test]
fn tiers_cost_what_a_second_recording_of_the_pages_says() {
    let home = conformance::server("STEWARD_TEST_AI_CLIENTS_URL");
    let library = std::fs::read_dir(Path::new(&home).join("venv/ai/lib")).unwrap().next().unwrap().unwrap();
    let folder = library.path().join("site-packages/openai_cost_calculator/data/pricing");
    let table = PriceTable::built_in();
    let (mut wrong, mut alone) = (Vec::new(), BTreeSet::new());
    let mut equal = BTreeMap::<(&str, &str), usize>::new();
    for provider in ["openai", "anthropic", "gemini"] {
        let recording = std::fs::read(folder.join(format!("{provider}.json"))).unwrap();
        let recording: Value = serde_json::from_slice(&recording).unwrap();
        let at = format!("{}T00:00:00Z", recording["verified_at"].as_str().unwrap()).parse().unwrap();
        for model in table.models().iter().filter(|model| &*model.provider == provider) {
            let name = format!("{provider}/{}", model.model);
            let prices = model.prices_at(at);
            let tiers = [
                ("standard", Tier::Standard),
                ("batch", Tier::Batch),
                ("flex", Tier::Flex),
                ("priority", Tier::Priority),
            ];
            for (tier, rates) in
                tiers.into_iter().filter_map(|(name, tier)| Some((name, prices.rates(tier)?)))
            {
                let Some(theirs) = recorded(&recording, &model.model, tier, 0) else {
                    if tier != "standard" {
                        alone.insert((name.clone(), tier));
                    }
                    continue;
                };
                let short = [
                    ("input", Some(rates.input)),
                    ("cached_input", rates.cache_read),
                    ("cache_write", rates.cache_write_5m),
                    ("cache_write_1h", rates.cache_write_1h),
                    ("input_audio", rates.audio_input),
                    ("output", Some(rates.output)),
                    ("output_audio", rates.audio_output),
                ];
                let mut pairs = vec![(theirs, short.to_vec())];
                if let Some(long) = &rates.long
                    && let Some(theirs) = recorded(&recording, &model.model, tier, long.above_tokens)
                {
                    let classes = [
                        ("input", Some(long.input)),
                        ("cached_input", long.cache_read),
                        ("cache_write", long.cache_write_5m),
                        ("output", Some(long.output)),
                    ];
                    pairs.push((theirs, classes.to_vec()));
                }
                for (theirs, classes) in pairs {
                    for (class, ours) in classes {
                        let Some((theirs, ours)) = theirs.get(class).and_then(Value::as_str).zip(ours) else {
                            continue;
                        };
                        if nanos(theirs) == ours.nanos() {
                            *equal.entry((provider, tier)).or_default() += 1;
                        } else {
                            wrong.push(format!("{name} {tier} {class}: ours {ours}, theirs {theirs}"));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Batches of trained models and of embeddings stand on a page that the recording has not read.
    let known = |name: &str, tier: &str| {
        NEWER.contains(&name)
            || tier == "batch"
                && ["/ft:", "/text-embedding-", "/gemini-embedding-"].iter().any(|of| name.contains(of))
    };
    alone.retain(|(name, tier)| !known(name, tier));
    assert!(alone.is_empty(), "nobody else has these, so say why: {alone:?}");
    println!("prices that are equal: {equal:?}");
    let priority = equal[&("openai", "priority")];
    assert!(priority > 60 && equal.values().sum::<usize>() > 600, "{equal:?}");
}

/// Rows whose batch or flex prices are published as other than half, each as its provider's page has them.
const NOT_HALF: &[(&str, &str)] =
    &[("openai/ft:gpt-4o", "published as 2.225 and 12.50 beside 3.75 and 15.00")];

/// OpenAI, Anthropic and Google publish batches, and OpenAI and Google flex, at half the standard price; Google publishes
/// priority at 1.8 times. What is read from caches has prices of its own at OpenAI and Google.
#[test]
fn other_tiers_are_what_the_providers_rules_say() {
    type Class = fn(&Rates) -> Option<i64>;
    let plain: [(&str, Class); 2] =
        [("input", |rates| Some(rates.input.nanos())), ("output", |rates| Some(rates.output.nanos()))];
    let cached: [(&str, Class); 3] = [
        ("cache_read", |rates| rates.cache_read.map(gateway::Usd::nanos)),
        ("cache_write_5m", |rates| rates.cache_write_5m.map(gateway::Usd::nanos)),
        ("cache_write_1h", |rates| rates.cache_write_1h.map(gateway::Usd::nanos)),
    ];
    let table = PriceTable::built_in();
    let (mut wrong, mut seen) = (Vec::new(), BTreeMap::<&str, usize>::new());
    let mut not_half = BTreeSet::new();
    for model in table.models() {
        let name = format!("{}/{}", model.provider, model.model);
        for prices in &model.prices {
            // Tier, prices, and how many tenths of the standard price they are.
            let tiers =
                [("batch", &prices.batch, 5), ("flex", &prices.flex, 5), ("priority", &prices.priority, 18)];
            for (tier, rates, tenths) in tiers {
                let Some(rates) = rates else { continue };
                // OpenAI's priority has another factor for each model.
                if tier == "priority" && &*model.provider != "gemini" {
                    continue;
                }
                *seen.entry(tier).or_default() += 1;
                let classes = plain.iter().chain(cached.iter().filter(|_| &*model.provider == "anthropic"));
                for (class, of) in classes {
                    let (Some(standard), Some(is)) = (of(&prices.standard), of(rates)) else { continue };
                    if is * 10 == standard * tenths {
                        continue;
                    }
                    if NOT_HALF.iter().any(|(listed, _)| *listed == name) {
                        not_half.insert(name.clone());
                    } else {
                        wrong.push(format!("{name} {tier} {class}: {is} beside {standard}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (name, why) in NOT_HALF {
        assert!(not_half.contains(*name), "`{name}` is half now, so its line must go: {why}");
    }
    assert!(seen["batch"] > 70 && seen["flex"] > 30 && seen["priority"] > 10, "{seen:?}");
}
