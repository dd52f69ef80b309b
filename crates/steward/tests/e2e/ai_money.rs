//! Money and limits of AI calls at real daemons: who may change them, and that they hold against many at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use fake_ai::{Answer, FakeAi, Gate, On, Reply, Usage};
use serde_json::{Value, json};

use crate::ai::{OLD, RUNTIME, key_in, provider, put};
use crate::program::{Daemon, Project, client, eventually};

const ANNA: &str = "violet harbor tin kettle";
const BERTA: &str = "seven copper lanterns hum";

/// What each call costs: 20,000 tokens in, 16 out of gpt-5-mini.
const CALL: i64 = 20_000 * 250 + 16 * 2_000;
/// Money for ten: what a call may cost at most fits ten times, and what ten leave over is too little for one more.
const TEN: i64 = 55_000_000;

/// A prompt of 20,000 letters, so that its most is a little above what the simulation says it cost; in a tier, since the
/// provider's own choice may be dearer.
fn call() -> Value {
    json!({ "model": "fast", "max_completion_tokens": 16, "service_tier": "default", "messages": [{ "role": "user", "content": "a".repeat(20_000) }] })
}

fn answer() -> Reply {
    Reply::answer(Answer::text("here it is").usage(Usage { input: 20_000, output: 16, ..Usage::default() }))
}

fn shop(fake: &FakeAi, more: &str) -> Project {
    let project = Project::new(&format!(
        "project: shop\nai:\n  providers:\n    openai: {{ kind: openai, url: {}/v1, keys: [openai/main] }}\n  \
         routes:\n    fast: {{ targets: [ {{ provider: openai, model: gpt-5-mini }} ] }}\n{more}",
        fake.url()
    ));
    put(&project, "openai/main", OLD);
    project
}

fn key(project: &Project, name: &str, more: &[&str]) -> String {
    let args: Vec<&str> = ["ai", "keys", "create", name].iter().chain(more).copied().collect();
    key_in(&project.run(&args).expect(0).stdout).unwrap()
}

/// Status and code of an error, of one call.
async fn ask(client: &reqwest::Client, daemon: &Daemon, key: &str) -> (u16, String) {
    let url = format!("{}/v1/chat/completions", daemon.url);
    let response = client.post(url).bearer_auth(key).json(&call()).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

fn ask_once(daemon: &Daemon, key: &str) -> (u16, String) {
    RUNTIME.block_on(ask(&client(), daemon, key))
}

/// So many calls at the same time; how many were answered. All others were refused for want of money.
fn wave(daemon: &Daemon, key: &str, calls: usize) -> i64 {
    RUNTIME.block_on(async {
        let client = client();
        let all = futures::future::join_all((0..calls).map(|_| ask(&client, daemon, key))).await;
        all.iter().map(|one| i64::from(is_let_in(one))).sum()
    })
}

fn is_let_in((status, code): &(u16, String)) -> bool {
    if *status != 200 {
        assert_eq!((*status, code.as_str()), (402, "budget_exceeded"));
    }
    *status == 200
}

/// What all calls cost, as the books say.
fn cost(project: &Project) -> i64 {
    project.answer(&["ai", "cost"])["value"]["total"]["cost_usd_nanos"].as_i64().unwrap_or(0)
}

/// The amount of the only budget.
fn amount(project: &Project) -> i64 {
    let limits = project.answer(&["ai", "limits"]);
    limits["value"]["budgets"][0]["limit_usd_nanos"].as_i64().unwrap_or_else(|| panic!("{limits}"))
}

fn metrics(project: &Project, daemon: &Daemon) -> String {
    let token = project.token("prometheus", "reader");
    RUNTIME.block_on(async {
        let url = format!("{}/metrics", daemon.url);
        client().get(url).bearer_auth(token).send().await.unwrap().text().await.unwrap()
    })
}

/// The value of the one line with all these words.
fn value_of(metrics: &str, words: &[&str]) -> f64 {
    let mut fitting = metrics.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    let line = fitting.next().unwrap_or_else(|| panic!("{words:?} in\n{metrics}"));
    assert_eq!(fitting.next(), None, "{words:?}");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_budget_is_raised_when_a_pm_grants_it_and_not_before() {
    let fake = provider(&[OLD]);
    fake.always(On::any(), answer());
    let project = shop(&fake, "  budgets:\n    month: { usd: 0.055, per: month, scope: project }\n");
    project.add_person("anna", ANNA, &["pm"]);
    let vouched = ["person", "add", "berta", "--role", "security", "--vouched-by", "anna"];
    project.run_on_terminal(&vouched, &[ANNA, BERTA, BERTA]).expect(0);
    let key = key(&project, "checkout", &[]);
    let agent = project.token("agent", "requester");
    let daemon = project.daemon(&[]);
    let before = wave(&daemon, &key, 20);
    assert_eq!(before, 10);
    assert_eq!(ask_once(&daemon, &key), (402, "budget_exceeded".into()));

    let raise = |usd: &str, code: i32| {
        project.run(&["ai", "budget", "month", "--usd", usd, "--json"]).expect(code).json()
    };
    let waiting = raise("0.11", 3);
    assert_eq!(waiting["status"], "waiting", "{waiting}");
    let approval = waiting["approval"].as_str().unwrap().to_owned();
    let (status, asked) = daemon.post(&agent, "ai/budget", &json!({ "budget": "month", "usd": "0.11" }));
    assert!((200..300).contains(&status) && asked["status"] == "waiting", "{status} {asked}");
    assert_eq!(amount(&project), TEN, "asking changes nothing");
    let grant = |person: &str, passphrase: &str| {
        project.run_on_terminal(&["approval", "grant", &approval, "--person", person], &[passphrase])
    };
    // It is the PM's money.
    assert_ne!(grant("berta", BERTA).code, 0);
    raise("0.11", 3);
    assert_eq!(amount(&project), TEN);
    assert_eq!(ask_once(&daemon, &key).0, 402, "nothing more is let in until a PM has said yes");
    grant("anna", ANNA).expect(0);
    // The grant is for this amount.
    raise("1000", 3);
    assert_eq!(amount(&project), TEN);
    let done = raise("0.11", 0);
    assert_eq!(done["status"], "done", "{done}");
    assert_eq!(amount(&project), 2 * TEN);
    let shown = project.run(&["ai", "limits"]).expect(0).stdout;
    assert!(shown.contains("month") && shown.contains("0.11"), "{shown}");
    eventually("the daemon has heard of it", || is_let_in(&ask_once(&daemon, &key)));
    let after = wave(&daemon, &key, 30);
    let answered = before + 1 + after;
    assert!(answered * CALL <= 2 * TEN && after >= 8, "{before} before, {after} after");
    eventually("all is in the books", || cost(&project) == answered * CALL);

    // Used up once.
    raise("0.2", 3);
    project.run(&["ai", "budget", "year", "--usd", "1"]).expect(1);
    project.run(&["ai", "budget", "month", "--usd", "0"]).expect(2);
    assert_eq!(amount(&project), 2 * TEN);
    assert_eq!(daemon.stop(), 0);
    let audit = project.run(&["audit", "export"]).expect(0).stdout;
    assert_eq!(audit.matches("\"kind\":\"ai.budget.set\"").count(), 1);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn the_project_file_raises_a_budget_only_when_a_pm_has_said_yes() {
    let fake = provider(&[OLD]);
    fake.always(On::any(), answer());
    let budget = |usd: &str| format!("  budgets:\n    month: {{ usd: {usd}, per: month, scope: project }}\n");
    let project = shop(&fake, &budget("0.055"));
    project.add_person("anna", ANNA, &["pm"]);
    let key = key(&project, "checkout", &[]);
    let agent = project.token("agent", "requester");
    let daemon = project.daemon(&[]);
    assert_eq!(wave(&daemon, &key, 20), 10);

    let small = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    let large = small.replace(&budget("0.055"), &budget("0.11"));
    assert_ne!(small, large);
    for (file, says) in
        [(small.replace(&budget("0.055"), ""), "no such budget any more"), (large, "0.11 USD per month")]
    {
        project.write("steward.yaml", &file);
        eventually("it is told what waits", || {
            let shown = project.run(&["ai", "limits"]).expect(0).stdout;
            shown.contains(says) && shown.contains("until `steward ai budget month` is approved")
        });
        eventually("the daemon's log tells it too", || {
            std::fs::read_to_string(project.file("daemon.log")).unwrap().contains(says)
        });
        assert_eq!((amount(&project), ask_once(&daemon, &key).0), (TEN, 402));
    }
    let (_, asked) = daemon.post(&agent, "ai/budget", &json!({ "budget": "month" }));
    assert_eq!(asked["status"], "waiting", "{asked}");
    let waiting = project.run(&["ai", "budget", "month", "--json"]).expect(3).json();
    let approval = waiting["approval"].as_str().unwrap();
    project.run_on_terminal(&["approval", "grant", approval, "--person", "anna"], &[ANNA]).expect(0);
    project.run(&["ai", "budget", "month"]).expect(0);
    assert_eq!(amount(&project), 2 * TEN);
    eventually("the daemon has heard of it", || is_let_in(&ask_once(&daemon, &key)));
    // Less is in force without a word, and nothing waits any more.
    project.write("steward.yaml", &small);
    eventually("the smaller budget is in force", || amount(&project) == TEN);
    eventually("the daemon has heard of that", || ask_once(&daemon, &key).0 == 402);
    let shown = project.run(&["ai", "limits"]).expect(0).stdout;
    assert!(!shown.contains("approved"), "{shown}");
    assert_eq!(daemon.stop(), 0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn limits_of_a_key_are_set_and_shown_and_the_daemon_keeps_them() {
    let fake = provider(&[OLD]);
    let project = shop(&fake, "  limits: { tpm: 9000000 }\n");
    let (key, free) = (key(&project, "checkout", &[]), key(&project, "free", &[]));
    let daemon = project.daemon(&[]);
    let rpm = |of: &str| {
        let limits = project.answer(&["ai", "limits", of]);
        let of_key = &limits["value"]["keys"][0];
        (of_key["rpm"].as_u64(), of_key["tpm"].as_u64(), of_key["concurrent"].as_u64())
    };
    assert_eq!(rpm("checkout"), (None, Some(9_000_000), None));
    assert_eq!((ask_once(&daemon, &key).0, ask_once(&daemon, &key).0), (200, 200));
    let set = project.run(&["ai", "limit", "checkout", "--rpm", "1"]).expect(0);
    assert!(set.stdout.contains("1 requests/min"), "{}", set.stdout);
    assert_eq!(rpm("checkout"), (Some(1), Some(9_000_000), None));
    assert_eq!(rpm("free"), (None, Some(9_000_000), None));
    let limited = |key: &str| {
        let (status, code) = ask_once(&daemon, key);
        if status != 200 {
            assert_eq!((status, code.as_str()), (429, "rate_limit_exceeded"));
        }
        status == 429
    };
    eventually("the daemon keeps it", || limited(&key));
    assert!(!limited(&free) && !limited(&free), "other keys have their own");
    // The text for people says both, and the same again is nothing to do.
    let shown = project.run(&["ai", "limits"]).expect(0).stdout;
    let line = shown.lines().find(|line| line.starts_with("checkout")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["checkout", "1", "9000000", "-"], "{shown}");
    assert!(shown.contains("no budgets"), "{shown}");
    project.run(&["ai", "limit", "checkout", "--rpm", "1"]).expect(0);
    project.run(&["ai", "limit", "checkout", "--rpm", "0", "--tpm", "5"]).expect(0);
    assert_eq!(rpm("checkout"), (None, Some(5), None));
    project.run(&["ai", "limit", "checkout", "--tpm", "0"]).expect(0);
    eventually("the daemon lets it in again", || !limited(&key));
    project.run(&["ai", "limit", "nobody", "--rpm", "1"]).expect(1);
    project.run(&["ai", "limits", "nobody"]).expect(1);
    assert_eq!(daemon.stop(), 0);
    let audit = project.run(&["audit", "export"]).expect(0).stdout;
    assert_eq!(
        audit.matches("\"kind\":\"ai.limit.set\"").count(),
        3,
        "the second time there was nothing to do"
    );
}

#[test]
fn two_hundred_at_once_on_money_for_ten_let_in_ten_at_a_real_daemon() {
    let fake = provider(&[OLD]);
    let gate = Gate::new();
    fake.times(200, On::any(), answer().gate(&gate));
    let project = shop(&fake, "  budgets:\n    month: { usd: 0.055, per: month, scope: project }\n");
    let key = key(&project, "checkout", &[]);
    let daemon = project.daemon(&[]);
    // The provider answers nobody before each call is either refused or with it.
    let (answered, refused) = RUNTIME.block_on(async {
        let client = client();
        let refused = AtomicUsize::new(0);
        let one = async || {
            let is_let_in = is_let_in(&ask(&client, &daemon, &key).await);
            refused.fetch_add(usize::from(!is_let_in), Ordering::SeqCst);
            i64::from(is_let_in)
        };
        let all_decided = async {
            while refused.load(Ordering::SeqCst) + fake.requests().len() < 200 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await; // Nothing tells both.
            }
            gate.open();
        };
        let (all, ()) = futures::join!(futures::future::join_all((0..200).map(|_| one())), all_decided);
        (all.iter().sum::<i64>(), refused.into_inner())
    });
    assert_eq!((answered, refused), (10, 190));
    assert_eq!((fake.requests().len(), fake.in_flight_max()), (10, 10));
    eventually("all is in the books", || cost(&project) == 10 * CALL);
    // What they did not use is free again, and too little for one more.
    assert_eq!(wave(&daemon, &key, 200), 0);
    let left =
        value_of(&metrics(&project, &daemon), &["steward_ai_budget_remaining_usd{", "budget=\"month\""]);
    assert!((left - 0.055 + f64::from(i32::try_from(10 * CALL).unwrap()) / 1e9).abs() < 1e-9, "{left}");
    assert_eq!(daemon.stop(), 0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn what_is_charged_by_the_call_is_refused_and_four_fifths_of_a_budget_are_told() {
    let fake = provider(&[OLD]);
    fake.always(On::any(), answer());
    let project = shop(&fake, "  budgets:\n    month: { usd: 0.055, per: month, scope: project }\n");
    let key = key(&project, "checkout", &[]);
    let daemon = project.daemon(&[]);
    // Nobody knows beforehand how often the provider would search.
    for (path, body, what) in [
        (
            "responses",
            json!({ "model": "fast", "input": "hello", "tools": [{ "type": "web_search" }] }),
            "`web_search`",
        ),
        (
            "chat/completions",
            json!({ "model": "fast", "messages": [], "web_search_options": {} }),
            "`web_search_options`",
        ),
        (
            "messages",
            json!({ "model": "fast", "max_tokens": 5, "messages": [], "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }),
            "`web_search_20250305`",
        ),
    ] {
        RUNTIME.block_on(async {
            let url = format!("{}/v1/{path}", daemon.url);
            let response = client().post(url).bearer_auth(&key).json(&body).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 402, "{path}");
            let text = response.text().await.unwrap();
            assert!(text.contains(what) && text.contains("`ai.budgets.month.enforce: estimate`"), "{text}");
        });
    }
    assert!(fake.requests().is_empty(), "nothing was sent");

    // Eight calls are 73 %, nine are 82 %.
    for count in 1..=9 {
        eventually("there is money", || is_let_in(&ask_once(&daemon, &key)));
        eventually("it is in the books", || cost(&project) == count * CALL);
        if count == 8 {
            assert!(project.escalations("cost_overrun").is_empty());
        }
    }
    eventually("the PM hears of it", || project.escalations("cost_overrun").len() == 1);
    let told = project.escalations("cost_overrun").pop().unwrap();
    assert_eq!(told["severity"], "warning", "{told}");
    let title = told["title"].as_str().unwrap();
    assert!(title.contains("`month`") && title.contains("nearly used up"), "{told}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn what_was_spent_is_replayed_reconciled_and_advised_on() {
    const CALLS: i64 = 30;
    let fake = provider(&[OLD]);
    fake.always(On::any(), answer());
    let project = shop(&fake, "");
    let key = key(&project, "checkout", &[]);
    let daemon = project.daemon(&[]);
    assert_eq!(wave(&daemon, &key, usize::try_from(CALLS).unwrap()), CALLS);
    eventually("all is in the books", || cost(&project) == CALLS * CALL);
    assert_eq!(daemon.stop(), 0);

    // Prices of one's own: twice as high from this month on, and half of that for tokens out before.
    project.write(
        "prices.json",
        r#"{ "table": "next-year", "models": [ { "provider": "openai", "model": "gpt-5-mini", "prices": [
          { "standard": { "input": "0.5", "output": "2" } },
          { "from": "2026-01-01", "standard": { "input": "0.5", "output": "4" } } ] } ] }"#,
    );
    let replay = |more: &[&str]| {
        let args: Vec<&str> = ["ai", "cost", "--by", "model"].iter().chain(more).copied().collect();
        let answer = project.answer(&args);
        assert_eq!(answer["value"]["total"]["cost_usd_nanos"], CALLS * CALL, "what was paid stays: {answer}");
        answer["value"]["replay"].clone()
    };
    let doubled = replay(&["--table", "prices.json"]);
    assert_eq!(doubled["cost_usd_nanos"], 2 * CALLS * CALL, "{doubled}");
    assert_eq!(doubled["by"]["openai/gpt-5-mini"], 2 * CALLS * CALL, "{doubled}");
    let before = replay(&["--table", "prices.json", "--prices-of", "2025-12-31"]);
    assert_eq!(before["cost_usd_nanos"], CALLS * (20_000 * 500 + 16 * 2_000), "{before}");
    let shown = project.run(&["ai", "cost", "--table", "prices.json"]).expect(0).stdout;
    assert!(shown.contains(doubled["table"].as_str().unwrap()), "{shown}");

    // The provider's export, by the days on which we counted.
    let days = project.answer(&["ai", "cost", "--by", "day"]);
    let export = |tokens: i64| {
        let rows = days["value"]["rows"].as_array().unwrap().iter().map(|day| {
            let (date, requests) = (day["name"].as_str().unwrap(), day["requests"].as_i64().unwrap());
            format!("{date},gpt-5-mini,{requests},{},{}\n", requests * tokens, requests * 16)
        });
        let head = "date,model,requests,input_tokens,output_tokens\n".to_owned();
        std::iter::once(head).chain(rows).collect::<String>()
    };
    project.write("usage.csv", export(20_000));
    let agrees = project.run(&["ai", "reconcile", "openai", "usage.csv", "--json"]).expect(0).json();
    assert_eq!(agrees["value"]["differences"], json!([]), "{agrees}");
    project.write("usage.csv", export(21_000));
    let differs = project.run(&["ai", "reconcile", "openai", "usage.csv", "--json"]).expect(0).json();
    assert_eq!(differs["findings"][0]["code"], "usage_differs", "{differs}");
    let shown = project.run(&["ai", "reconcile", "openai", "usage.csv"]).expect(0).stdout;
    assert!(shown.contains("gpt-5-mini") && shown.contains("prompt tokens"), "{shown}");

    let advice = project.run(&["ai", "advise", "--json"]).expect(0).json();
    let codes: Vec<&str> =
        advice["findings"].as_array().unwrap().iter().map(|found| found["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"batchable"), "{advice}");
    let shown = project.run(&["ai", "advise", "--route", "fast"]).expect(0).stdout;
    assert!(shown.contains("fast") && shown.contains("gpt-5-mini"), "{shown}");
}

/// Daemons with a state of their own that share what the name says.
fn sharing(fake: &FakeAi, more: &str) -> Project {
    let redis = conformance::server("STEWARD_TEST_REDIS_URL");
    shop(fake, &format!("  counters: {{ kind: redis, url: \"{redis}\" }}\n{more}"))
}

#[test]
fn two_daemons_with_states_of_their_own_share_one_budget() {
    let fake = provider(&[OLD]);
    fake.always(On::any(), answer());
    // A name of its own keeps runs apart.
    let budget = conformance::namespace("budget");
    let yaml = format!("  budgets:\n    {budget}: {{ usd: 0.055, per: month, scope: project }}\n");
    let (here, there) = (sharing(&fake, &yaml), sharing(&fake, &yaml));
    let keys = [key(&here, "checkout", &[]), key(&there, "checkout", &[])];
    let daemons = [here.daemon(&[]), there.daemon(&[])];
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| wave(&daemons[0], &keys[0], 100));
        let second = scope.spawn(|| wave(&daemons[1], &keys[1], 100));
        (first.join().unwrap(), second.join().unwrap())
    });
    let mut each = [first, second];
    // What one holds and does not use comes to the other by and by, up to a rest at each that is too little for a call.
    eventually("together they can spend it", || {
        for at in [0, 1] {
            each[at] += i64::from(is_let_in(&ask_once(&daemons[at], &keys[at])));
        }
        let spent = (each[0] + each[1]) * CALL;
        assert!(spent <= TEN, "{each:?} calls");
        spent > TEN - 3 * CALL
    });
    for (at, project) in [&here, &there].into_iter().enumerate() {
        eventually("all is in the books", || cost(project) == each[at] * CALL);
    }
    for daemon in daemons {
        assert_eq!(daemon.stop(), 0);
    }
    // A third one, with a third state, finds what they left.
    let third = sharing(&fake, &yaml);
    let key = key(&third, "checkout", &[]);
    let daemon = third.daemon(&[]);
    let more = wave(&daemon, &key, 50);
    assert!((each[0] + each[1] + more) * CALL <= TEN, "{each:?}, then {more}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn two_daemons_with_states_of_their_own_share_the_limit_of_a_key() {
    const RPM: u64 = 60;
    let fake = provider(&[OLD]);
    let (here, there) = (sharing(&fake, ""), sharing(&fake, ""));
    let name = conformance::namespace("limit");
    let rpm = RPM.to_string();
    let keys = [key(&here, &name, &["--rpm", &rpm]), key(&there, &name, &["--rpm", &rpm])];
    let daemons = [here.daemon(&[]), there.daemon(&[])];
    let burst = |at: usize| {
        RUNTIME.block_on(async {
            let client = client();
            let asking = (0..100).map(|_| ask(&client, &daemons[at], &keys[at]));
            let all = futures::future::join_all(asking).await;
            let let_in = all.iter().filter(|(status, code)| {
                if *status != 200 {
                    assert_eq!((*status, code.as_str()), (429, "rate_limit_exceeded"));
                }
                *status == 200
            });
            let_in.count() as u64
        })
    };
    // Nobody asks sooner than this, and whatever the machine takes for it adds a call for each second.
    let began = std::time::Instant::now();
    let (first, second) = (burst(0), burst(1));
    let since = began.elapsed().as_secs() + 1;
    let most = RPM + RPM / 10 + since * RPM / 60;
    assert!(first >= 1 && second >= 1 && first + second <= most, "{first} and {second} within {since} s");
    for daemon in daemons {
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn calls_of_a_declared_service_cost_count_and_have_receipts() {
    let fake = provider(&[OLD]);
    fake.always(On::path("/text/analyze"), Reply::raw("application/json", r#"{"documents":[]}"#));
    let project = shop(
        &fake,
        &format!(
            "  pass_through:\n    language: {{ prefix: /language, url: {}/text, keys: [language/main], usd_per_call: 0.001 }}\n  \
             budgets:\n    month: {{ usd: 0.0035, per: month, scope: project }}\n",
            fake.url()
        ),
    );
    put(&project, "language/main", OLD);
    let (key, limited) = (key(&project, "checkout", &[]), key(&project, "limited", &["--rpm", "1"]));
    let daemon = project.daemon(&[]);
    let analyze = |key: &str| {
        RUNTIME.block_on(async {
            let call = client().post(format!("{}/language/analyze", daemon.url)).bearer_auth(key);
            let response = call.header("content-type", "application/json").body("{}").send().await.unwrap();
            let receipt = response.headers().get("steward-receipt").map(|id| id.to_str().unwrap().to_owned());
            (response.status().as_u16(), receipt.unwrap_or_default(), response.text().await.unwrap())
        })
    };
    let (status, receipt, body) = analyze(&limited);
    assert_eq!((status, body.as_str()), (200, r#"{"documents":[]}"#));
    let (status, _, body) = analyze(&limited);
    assert!(
        status == 429 && body.contains("rate_limit_exceeded"),
        "the key's limit holds here too: {status} {body}"
    );
    assert_eq!((analyze(&key).0, analyze(&key).0), (200, 200));
    // Half of what a call costs is left.
    let (status, _, body) = analyze(&key);
    assert!(status == 402 && body.contains("`month`"), "{status} {body}");
    assert_eq!(fake.requests().len(), 3);
    eventually("all is in the books", || cost(&project) == 3_000_000);
    let by = project.answer(&["ai", "cost", "--by", "operation"]);
    let row = &by["value"]["rows"][0];
    assert_eq!(
        (&row["name"], &row["requests"], &row["cost_usd_nanos"]),
        (&json!("pass_through"), &json!(3), &json!(3_000_000))
    );
    let by = project.answer(&["ai", "cost", "--by", "route"]);
    assert_eq!(by["value"]["rows"][0]["name"], "language", "{by}");

    // The receipt, as people and as programs read it.
    let shown = project.run(&["ai", "receipt", &receipt]).expect(0).stdout;
    assert!(shown.contains("0.001 USD") && shown.contains("language"), "{shown}");
    let token = project.token("reader", "reader");
    let get = |id: &str, token: &str| {
        RUNTIME.block_on(async {
            let url = format!("{}/api/v1/ai/receipts/{id}", daemon.url);
            let response = client().get(url).bearer_auth(token).send().await.unwrap();
            (response.status().as_u16(), response.json::<Value>().await.unwrap_or_default())
        })
    };
    let (status, read) = get(&receipt, &token);
    assert_eq!((status, &read["cost_usd"]), (200, &json!("0.001")), "{read}");
    let proof = &read["billed"][0]["proof"];
    assert_eq!((&proof["row_unchanged"], &proof["batch_unchanged"]), (&json!(true), &json!(true)), "{read}");
    assert_eq!(get("req_nobody", &token).0, 404);
    assert_eq!(get(&receipt, "stw_nobody").0, 401);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_scrape_shows_money_states_failures_and_what_was_cut_off() {
    let fake = provider(&[OLD]);
    let project = shop(&fake, "  budgets:\n    month: { usd: 1, per: month, scope: project }\n");
    let key = key(&project, "checkout", &[]);
    let daemon = project.daemon(&[]);
    // Refused once and then answered; then a stream that its provider does not end.
    fake.next_on(On::any(), Reply::error(503, "server_error", "out of order"));
    fake.next_on(On::any(), answer());
    assert_eq!(ask_once(&daemon, &key).0, 200);
    fake.next_on(
        On::any(),
        Reply::text("one two three four five six").cut_after_events(4, fake_ai::Ending::Clean),
    );
    RUNTIME.block_on(async {
        let mut call = call();
        call["stream"] = json!(true);
        let url = format!("{}/v1/chat/completions", daemon.url);
        let response = client().post(url).bearer_auth(&key).json(&call).send().await.unwrap();
        let text = response.text().await.unwrap();
        assert!(text.contains("\"error\"") && !text.contains("[DONE]"), "{text}");
    });
    eventually("both are in the books", || {
        project.answer(&["ai", "usage"])["value"]["total"]["requests"] == 2
    });
    let spent = cost(&project);
    assert!(spent > CALL, "what came of the stream is paid for: {spent}");
    let text = metrics(&project, &daemon);
    let model = ["steward_route=\"fast\"", "gen_ai_request_model=\"gpt-5-mini\""];
    let of_model = |name: &str| value_of(&text, &[name, model[0], model[1]]);
    let of = |words: &[&str]| value_of(&text, words);
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}\n{text}");
    let dollars = f64::from(i32::try_from(spent).unwrap()) / 1e9;
    near(of_model("steward_ai_spend_usd_total{"), dollars);
    near(
        of(&["steward_ai_budget_remaining_usd{", "budget=\"month\"", "scope=\"project\"", "value=\"shop\""]),
        1.0 - dollars,
    );
    near(of_model("steward_ai_target_ready{"), 1.0);
    for class in ["error_type=\"server\"", "error_type=\"truncated\""] {
        near(of(&["steward_ai_failed_attempts_total{", class]), 1.0);
    }
    near(of(&["steward_ai_requests_total{", "ending=\"truncated\""]), 1.0);
    near(of(&["steward_ai_requests_total{", "ending=\"complete\"", "status=\"200\""]), 1.0);
    // Our own time is within the whole, and both were measured.
    near(of_model("steward_ai_overhead_seconds_count{"), 2.0);
    let overhead = of_model("steward_ai_overhead_seconds_sum{");
    let took =
        |error: &str| of(&["gen_ai_client_operation_duration_seconds_sum{", model[0], model[1], error]);
    let took = took("error_type=\"\"") + took("error_type=\"truncated\"");
    assert!(overhead > 0.0 && overhead < took, "{overhead} of {took}");

    // A provider that keeps failing rests.
    fake.always(On::any(), Reply::error(500, "server_error", "out of order"));
    eventually("the target is not ready", || {
        let _ = ask_once(&daemon, &key);
        value_of(&metrics(&project, &daemon), &["steward_ai_target_ready{", model[1]]) < 0.5
    });
    assert_eq!(daemon.stop(), 0);
}
