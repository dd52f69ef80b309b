//! What a scrape of the metrics says: every name with its kind and unit, and every label.

use std::collections::{BTreeMap, BTreeSet};

use contract::ai::FailureClass;
use gateway::{CacheDecision, Ending, Fingerprints, Settlement, Table, What};
use secrecy::SecretBox;
use tokio::time::Instant;

use crate::support::{Asked, Home, Shop, tokens};

fn end(asked: Asked, failure: Option<FailureClass>, change: impl FnOnce(&mut Settlement)) {
    let attempts = vec![asked.attempt(failure)];
    let mut settlement = asked.settlement(attempts);
    change(&mut settlement);
    asked.reservation.settle(settlement);
}

fn scrape(shop: &Shop) -> String {
    let fingerprints = Fingerprints::new(&SecretBox::new(Box::new([7; 32])));
    let table = Table::new(fingerprints, vec![shop.grant.project.clone()], []);
    shop.accounts.metrics().text("shop", &table, &shop.accounts, Instant::now())
}

/// The value of the one sample of this name that has all these words.
fn value(text: &str, name: &str, words: &[&str]) -> Option<String> {
    let head = format!("{name}{{");
    let mut fitting =
        text.lines().filter(|line| line.starts_with(&head) && words.iter().all(|word| line.contains(word)));
    let found = fitting.next().map(|line| line.rsplit(' ').next().unwrap().to_owned());
    assert_eq!(fitting.next(), None, "{name} {words:?}");
    found
}

const GEN_AI: [&str; 5] = [
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "steward_project",
    "steward_route",
];

#[tokio::test]
async fn every_name_unit_and_label_of_a_scrape_is_known() {
    let home = Home::new();
    let shop = home.shop("budgets: { month: { usd: 5, per: month, scope: project } }").await;
    end(shop.ask_for("kept", Some(1000)).unwrap(), None, |settlement| {
        settlement.usage = tokens(1000, 200);
        settlement.cache = CacheDecision::Miss;
    });
    end(shop.ask().unwrap(), Some(FailureClass::Rate), |settlement| {
        (settlement.ending, settlement.status) = (Ending::Failed, 429);
    });
    // Three more are told only where there is something to tell: checks of the cache, stored prompts, providers' keys.
    // Kind, unit and labels beside those of the encoding itself (`le`).
    let with = |more: &[&'static str]| -> Vec<&'static str> { GEN_AI.iter().chain(more).copied().collect() };
    let expected: Vec<(&str, &str, &str, Vec<&str>)> = vec![
        ("gen_ai_client_operation_duration_seconds", "histogram", "seconds", with(&["error_type"])),
        ("gen_ai_server_request_duration_seconds", "histogram", "seconds", with(&["error_type"])),
        ("gen_ai_client_operation_time_to_first_chunk_seconds", "histogram", "seconds", with(&[])),
        ("gen_ai_server_time_to_first_token_seconds", "histogram", "seconds", with(&[])),
        ("gen_ai_server_time_per_output_token_seconds", "histogram", "seconds", with(&[])),
        ("gen_ai_client_token_usage", "histogram", "", with(&["gen_ai_token_type"])),
        ("steward_ai_overhead_seconds", "histogram", "seconds", with(&[])),
        ("steward_ai_cache_read_tokens", "counter", "", with(&[])),
        ("steward_ai_spend_usd", "counter", "", with(&[])),
        ("steward_ai_requests", "counter", "", vec!["ending", "status", "steward_project", "steward_route"]),
        (
            "steward_ai_failed_attempts",
            "counter",
            "",
            vec!["error_type", "gen_ai_provider_name", "gen_ai_request_model", "steward_project"],
        ),
        ("steward_ai_cache", "counter", "", vec!["decision", "steward_project", "steward_route"]),
        ("steward_ai_cache_hit_rate", "gauge", "", vec!["steward_project", "steward_route"]),
        ("steward_ai_cache_hit_rate_objective", "gauge", "", vec!["steward_project", "steward_route"]),
        (
            "steward_ai_target_ready",
            "gauge",
            "",
            vec!["gen_ai_request_model", "steward_project", "steward_provider", "steward_route"],
        ),
        ("steward_ai_budget_remaining_usd", "gauge", "", vec!["budget", "scope", "steward_project", "value"]),
    ];
    let text = scrape(&shop);
    let told = |what: &str| -> BTreeMap<&str, &str> {
        let start = format!("# {what} ");
        text.lines().filter_map(|line| line.strip_prefix(&start)?.split_once(' ')).collect()
    };
    let (kinds, units, helps) = (told("TYPE"), told("UNIT"), told("HELP"));
    let names: BTreeSet<&str> = expected.iter().map(|(name, ..)| *name).collect();
    assert_eq!(kinds.keys().copied().collect::<BTreeSet<_>>(), names, "{text}");
    for (name, kind, unit, labels) in &expected {
        assert_eq!(kinds[name], *kind, "{name}");
        assert_eq!(units.get(name).copied().unwrap_or_default(), *unit, "{name}");
        assert!(helps[name].ends_with('.') && helps[name].len() > 10, "{name}: {}", helps[name]);
        let suffixes: &[&str] = match *kind {
            "histogram" => &["_sum", "_count", "_bucket"],
            "counter" => &["_total"],
            _ => &[""],
        };
        let mut seen = BTreeSet::new();
        for suffix in suffixes {
            let head = format!("{name}{suffix}{{");
            for line in text.lines().filter_map(|line| line.strip_prefix(&head)) {
                let inside = line.rsplit_once("} ").unwrap().0;
                seen.extend(
                    inside.split("\",").filter_map(|label| label.split_once('=')).map(|(label, _)| label),
                );
            }
        }
        seen.remove("le");
        let mut labels = labels.clone();
        labels.sort_unstable();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), labels, "{name} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn durations_say_what_failed_and_only_streams_have_a_first_chunk() {
    let home = Home::new();
    let shop = home.shop("").await;
    let duration = "gen_ai_client_operation_duration_seconds_count";
    end(shop.ask().unwrap(), None, |settlement| settlement.usage = tokens(1000, 200));
    let text = scrape(&shop);
    assert_eq!(value(&text, duration, &["error_type=\"\""]).as_deref(), Some("1"), "{text}");
    let first = "gen_ai_client_operation_time_to_first_chunk_seconds_count";
    assert_eq!(value(&text, first, &[]).as_deref(), Some("0"), "a plain answer has none: {text}");
    assert_eq!(value(&text, "steward_ai_overhead_seconds_count", &[]).as_deref(), Some("1"), "{text}");

    // Four hundred milliseconds, of which three hundred until the first: a hundred for two hundred tokens more.
    end(shop.ask().unwrap(), None, |settlement| {
        settlement.streaming = true;
        settlement.usage = tokens(1000, 201);
    });
    let text = scrape(&shop);
    for (name, sum) in [
        ("gen_ai_client_operation_time_to_first_chunk_seconds", "0.3"),
        ("gen_ai_server_time_to_first_token_seconds", "0.3"),
        ("gen_ai_server_time_per_output_token_seconds", "0.0005"),
    ] {
        assert_eq!(value(&text, &format!("{name}_count"), &[]).as_deref(), Some("1"), "{text}");
        let told: f64 = value(&text, &format!("{name}_sum"), &[]).unwrap().parse().unwrap();
        assert!((told - sum.parse::<f64>().unwrap()).abs() < 1e-9, "{name}: {told}");
    }

    // Refused by the provider, timed out, broken off, left by the client.
    for (failure, ending, status, told) in [
        (Some(FailureClass::Rate), Ending::Failed, 429, "rate"),
        (Some(FailureClass::BadRequest), Ending::Failed, 400, "bad_request"),
        (Some(FailureClass::Timeout), Ending::Failed, 504, "timeout"),
        (None, Ending::Truncated, 200, "truncated"),
        (None, Ending::Interrupted, 200, "interrupted"),
        (None, Ending::Disconnected, 200, "disconnected"),
    ] {
        end(shop.ask().unwrap(), failure, |settlement| {
            (settlement.ending, settlement.status, settlement.streaming) = (ending, status, true);
        });
        let text = scrape(&shop);
        let label = format!("error_type=\"{told}\"");
        for name in [duration, "gen_ai_server_request_duration_seconds_count"] {
            let counted = value(&text, name, &[&label, "gen_ai_provider_name=\"openai\"", "gpt-4o-mini"]);
            assert_eq!(counted.as_deref(), Some("1"), "{told}: {text}");
        }
    }
    let text = scrape(&shop);
    assert_eq!(value(&text, duration, &["error_type=\"\""]).as_deref(), Some("2"), "{text}");
    // Those that broke off had begun; those that were refused had not.
    assert_eq!(value(&text, first, &[]).as_deref(), Some("4"), "{text}");
    // The attempt that timed out may cost its prompt, and is counted as the rows count it.
    shop.accounts.flush().await.unwrap();
    let spent: f64 = value(&text, "steward_ai_spend_usd_total", &[]).unwrap().parse().unwrap();
    #[allow(clippy::cast_precision_loss, reason = "a figure to compare")]
    let rows = shop.spent().await as f64 / 1e9;
    assert!((spent - rows).abs() < 1e-12, "{spent} and {rows}");

    // Where nobody was asked there was no operation.
    let asked = shop.ask_what(What::Generate, shop.route("old"), Some(10)).unwrap();
    let mut settlement = asked.settlement(Vec::new());
    (settlement.ending, settlement.status) = (Ending::Failed, 503);
    asked.reservation.settle(settlement);
    let text = scrape(&shop);
    assert_eq!(value(&text, duration, &["steward_route=\"old\""]), None, "{text}");
}
