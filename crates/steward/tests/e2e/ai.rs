//! Keys of the AI gateway as people, programs and agents meet them, with a simulated provider behind.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

use fake_ai::{FakeAi, Gate, On, Reply};
use serde_json::{Value, json};

use crate::program::{Project, client, eventually};

pub(crate) const OLD: &str = "old-provider-key-0123456789";
const NEW: &str = "new-provider-key-9876543210";

/// Where simulated providers live while the tests, which are not async, go on.
pub(crate) static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());

pub(crate) fn provider(keys: &[&str]) -> FakeAi {
    let fake = RUNTIME.block_on(FakeAi::start()).unwrap();
    fake.accept_keys(keys.iter().copied());
    fake
}

fn shop(fake: &FakeAi) -> Project {
    Project::new(&format!(
        "project: shop\nai:\n  providers:\n    openai:\n      kind: openai\n      url: {}/v1\n      keys: [openai/main]\n  \
         routes:\n    fast:\n      targets: [ {{ provider: openai, model: gpt-5-mini }} ]\n    smart:\n      \
         targets: [ {{ provider: openai, model: gpt-5 }} ]\n",
        fake.url()
    ))
}

pub(crate) fn put(project: &Project, name: &str, value: &str) {
    project.run_with_input(&["secret", "put", name], value).expect(0);
}

pub(crate) fn key_in(text: &str) -> Option<String> {
    text.split_whitespace().find(|word| word.starts_with("sk-steward-")).map(str::to_owned)
}

fn folder(project: &Project) -> Vec<u8> {
    let files = std::fs::read_dir(project.file(".steward")).unwrap();
    files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// State of the provider key `openai/main`, as `ai routes` tells it.
fn key_state(project: &Project) -> String {
    let routes = project.answer(&["ai", "routes"]);
    routes["value"]["providers"]["openai"][0]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_virtual_key_is_shown_once_to_people_and_programs_and_never_to_agents() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    let made =
        project.run(&["ai", "keys", "create", "checkout", "--routes", "fast", "--expires", "30d"]).expect(0);
    let value = key_in(&made.stdout).unwrap();
    let regenerated = project.answer(&["ai", "keys", "regenerate", "checkout"]);
    let second = regenerated["value"]["value"].as_str().unwrap().to_owned();
    assert_ne!(value, second);

    let token = project.token("ci", "requester");
    let daemon = project.daemon(&[]);
    let (status, answer) =
        daemon.post(&token, "keys/create", &json!({ "name": "batch", "models": ["openai/*"] }));
    let third = key_in(answer["text"].as_str().unwrap()).unwrap_or_else(|| panic!("{status} {answer}"));
    assert_eq!(daemon.stop(), 0);

    // An agent over MCP may make one, and a person gets its value.
    let calls = [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-06-18",
            "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "ai_change",
            "arguments": { "operation": "keys.create", "arguments": { "name": "agent" } } } }),
        json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": "ai",
            "arguments": { "operation": "keys.list" } } }),
    ];
    let mut input = String::new();
    for call in &calls {
        input.push_str(&call.to_string());
        input.push('\n');
    }
    let mut child = project
        .command(&["mcp"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
    let mut said = String::new();
    while !(said.contains("\"id\":2") && said.contains("\"id\":3")) {
        assert!(std::io::BufRead::read_line(&mut out, &mut said).unwrap() > 0, "{said}");
    }
    drop(stdin);
    child.wait().unwrap();
    assert!(
        said.contains("not shown to agents") && key_in(&said.replace(['"', '\\'], " ")).is_none(),
        "{said}"
    );

    let list = project.run(&["ai", "keys"]).expect(0);
    for name in ["checkout", "batch", "agent"] {
        assert!(list.stdout.contains(name), "{}", list.stdout);
    }
    let audit = project.run(&["audit", "export"]).expect(0);
    let (files, models) = (folder(&project), project.run(&["ai", "models", "--key", "checkout"]).expect(0));
    for value in [&value, &second, &third] {
        for text in [&list.stdout, &audit.stdout, &models.stdout] {
            assert!(!text.contains(&value[11..]), "{text}");
        }
        assert!(!holds(&files, &value[11..]), "the value lies in the state");
    }
    assert!(
        models.stdout.contains("openai/gpt-5-mini") && !models.stdout.contains("openai/gpt-5 "),
        "{}",
        models.stdout
    );
    project.run(&["ai", "keys", "revoke", "checkout"]).expect(0);
    let list = project.run(&["ai", "keys", "list", "--all"]).expect(0);
    assert!(list.stdout.contains("revoked"), "{}", list.stdout);
    project.run(&["ai", "keys", "revoke", "checkout"]).expect(1);
    project.run(&["ai", "keys", "create", "x", "--routes", "nowhere"]).expect(2);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_missing_secret_is_a_state_and_the_daemon_lives() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    assert_eq!(key_state(&project), "missing");
    let daemon = project.daemon(&[]);
    let routes = project.run(&["ai", "routes"]).expect(0);
    assert!(routes.stdout.contains("steward secret put openai/main"), "{}", routes.stdout);
    assert!(routes.stdout.contains("a daemon serves"), "{}", routes.stdout);
    put(&project, "openai/main", OLD);
    eventually("the key is in service", || key_state(&project) == "active");
    project.run(&["secret", "remove", "openai/main", "--yes"]);
    assert_eq!(daemon.stop(), 0);
    assert!(matches!(key_state(&project).as_str(), "stored" | "missing"));
}

#[test]
fn a_running_daemon_follows_keys_within_a_second() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let daemon = project.daemon(&[]);
    let status = |key: &str, model: &str| {
        let call = json!({ "model": model, "messages": [{ "role": "user", "content": "hello" }] });
        RUNTIME.block_on(async {
            let url = format!("{}/v1/chat/completions", daemon.url);
            client().post(url).bearer_auth(key).json(&call).send().await.unwrap().status().as_u16()
        })
    };
    let made = project.run(&["ai", "keys", "create", "checkout", "--routes", "fast"]).expect(0);
    let first = key_in(&made.stdout).unwrap();
    // Promised within a second, each time: `ai::tests` of the program count looks, `benches/gateway` measures.
    eventually("a new key opens the gateway", || status(&first, "fast") == 200);
    assert_eq!(status(&first, "smart"), 404, "what its scope does not name is not there for it");
    let made = project.run(&["ai", "keys", "regenerate", "checkout", "--overlap-minutes", "5"]).expect(0);
    let second = key_in(&made.stdout).unwrap();
    eventually("the new value works", || status(&second, "fast") == 200);
    assert_eq!(status(&first, "fast"), 200, "the old one until the overlap ends");
    project.write(
        "policies/freeze.cedar",
        "@id(\"team.freeze\")\n@reason(\"no calls this week\")\n\
         forbid (principal, action == Action::\"ai.call\", resource == Resource::\"ai:route/fast\");\n",
    );
    // With nothing left to call it is the key that is refused, otherwise the route is not there.
    eventually("a new policy counts", || [403, 404].contains(&status(&second, "fast")));
    std::fs::remove_file(project.file("policies/freeze.cedar")).unwrap();
    eventually("without the policy it is as before", || status(&second, "fast") == 200);
    project.run(&["ai", "keys", "revoke", "checkout"]).expect(0);
    eventually("a revoked key is refused", || status(&second, "fast") == 401);
    assert_eq!(status(&first, "fast"), 401);
    assert!(fake.requests().iter().all(|call| call.key().as_deref() == Some(OLD)), "clients' keys stay here");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_key_in_a_prompt_or_a_reply_is_heard_of() {
    let fake = provider(&[OLD]);
    let leaked = "sk-ant-api03-Zq3xV8nLw2Rk7TgYb5HcJd9MfPs4UaEoXi6Bv1CtGzKr0QyWhNjDmSlFpAuIeOxVb";
    fake.next_on(On::body("say it"), Reply::text(format!("it is {leaked}, as you know")));
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let key = key_in(&made.stdout).unwrap();
    let daemon = project.daemon(&[]);
    let ask = |text: &str, stream: bool| {
        let call =
            json!({ "model": "fast", "stream": stream, "messages": [{ "role": "user", "content": text }] });
        RUNTIME.block_on(async {
            let url = format!("{}/v1/chat/completions", daemon.url);
            let response = client().post(url).bearer_auth(&key).json(&call).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 200);
            response.text().await.unwrap()
        })
    };
    ask("my key is safe with you", false);
    ask("say it", true);
    eventually("the reply is heard of", || project.escalations("ai_api_misuse").len() == 1);
    ask(&format!("use {leaked} for that"), false);
    eventually("the prompt is heard of", || project.escalations("ai_api_misuse").len() == 2);
    assert_eq!(daemon.stop(), 0);
    let audit = project.run(&["audit", "export"]).expect(0);
    assert!(audit.stdout.contains("ai.key.exposed") && !audit.stdout.contains(leaked));
}

#[test]
fn a_refused_provider_key_is_taken_out_and_told() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let key = key_in(&made.stdout).unwrap();
    let daemon = project.daemon(&[]);
    fake.accept_keys([NEW]);
    let call = json!({ "model": "fast", "messages": [{ "role": "user", "content": "hello" }] });
    RUNTIME.block_on(async {
        let url = format!("{}/v1/chat/completions", daemon.url);
        let response = client().post(url).bearer_auth(&key).json(&call).send().await.unwrap();
        assert!(!response.status().is_success());
        assert!(
            !response.text().await.unwrap().contains(OLD),
            "the provider repeats the key, and nobody else does"
        );
    });
    eventually("the key is out of service", || key_state(&project) == "demoted");
    eventually("the PM hears of it", || project.escalations("ai_api_failure").len() == 1);
    let routes = project.run(&["ai", "routes"]).expect(0);
    assert!(routes.stdout.contains("the provider refuses the key"), "{}", routes.stdout);
    // A new value of the secret is another key, and serves.
    project.run_with_input(&["secret", "rotate", "openai/main"], NEW).expect(0);
    eventually("the new value is in service", || key_state(&project) == "active");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_real_call_tests_each_target() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let tested = project.run(&["ai", "test", "fast"]).expect(0);
    assert!(
        tested.stdout.contains("openai/gpt-5-mini") && tested.stdout.contains("200 in "),
        "{}",
        tested.stdout
    );
    assert_eq!(fake.requests().len(), 1, "one route, one call");
    fake.accept_keys([NEW]);
    let tested = project.run(&["ai", "test"]).expect(5);
    assert!(tested.stdout.contains("failed: key"), "{}", tested.stdout);
    assert!(
        !tested.stdout.contains(OLD),
        "the provider repeats the key, and nobody else does: {}",
        tested.stdout
    );
    project.run(&["ai", "test", "nowhere"]).expect(1);
}

#[test]
fn a_key_is_rotated_only_when_the_provider_takes_it() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let refused = project.run_with_input(&["ai", "keys", "rotate", "openai"], NEW).expect(5);
    assert!(refused.stdout.contains("version 1 serves as before"), "{}", refused.stdout);
    assert_eq!(project.escalations("ai_api_failure").len(), 1);
    assert!(fake.requests().iter().any(|call| call.key().as_deref() == Some(NEW)), "it was tried");
    project.run(&["ai", "test"]).expect(0);

    fake.accept_keys([NEW]);
    let done = project.run_with_input(&["ai", "keys", "rotate", "openai"], NEW).expect(0);
    assert!(done.stdout.contains("version 3 serves, version 1 is out of service"), "{}", done.stdout);
    assert!(done.stdout.contains("refuses it already"), "{}", done.stdout);
    project.run(&["ai", "test"]).expect(0);
    let audit = project.run(&["audit", "export"]).expect(0);
    assert!(audit.stdout.contains("ai.rotation.done") && audit.stdout.contains("ai.rotation.failed"));
    for text in [&refused.stdout, &refused.stderr, &done.stdout, &done.stderr, &audit.stdout] {
        assert!(!text.contains(NEW) && !text.contains(OLD), "{text}");
    }
    let files = folder(&project);
    assert!(!holds(&files, NEW) && !holds(&files, OLD));
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_rotation_overlaps_and_drains_in_a_running_daemon() {
    let fake = provider(&[OLD, NEW]);
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let daemon = project.daemon(&[]);
    eventually("the key is in service", || key_state(&project) == "active");
    let done = project.run_with_input(&["ai", "keys", "rotate", "openai", "--overlap-s", "1"], NEW).expect(0);
    assert!(done.stdout.contains("still takes it: delete it there"), "{}", done.stdout);
    let rotation = &project.answer(&["ai", "keys", "list", "--all"])["value"]["rotations"][0];
    let steps: Vec<&str> =
        rotation["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["add", "canary", "overlap", "drain", "revoke"], "{rotation}");
    assert!(rotation["steps"][3]["drained_at"].is_string(), "the daemon said so: {rotation}");
    let routes = project.answer(&["ai", "routes"]);
    assert_eq!(routes["value"]["providers"]["openai"][0]["version"], 2, "{routes}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_rotation_drains_until_the_last_call_on_the_old_key_has_ended() {
    let fake = provider(&[OLD, NEW]);
    let gate = Gate::new();
    fake.next_on(On::body("take your time"), Reply::text("one two three").gate_after_events(2, &gate));
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let key = key_in(&project.run(&["ai", "keys", "create", "checkout"]).expect(0).stdout).unwrap();
    let daemon = project.daemon(&[]);
    let ask = |text: &str, stream: bool| {
        let call =
            json!({ "model": "fast", "stream": stream, "messages": [{ "role": "user", "content": text }] });
        client().post(format!("{}/v1/chat/completions", daemon.url)).bearer_auth(&key).json(&call)
    };
    let slow = RUNTIME.block_on(async {
        let answer = ask("take your time", true).send().await.unwrap();
        gate.reached(1).await;
        answer
    });
    assert_eq!(slow.status().as_u16(), 200);
    let mut rotating = project
        .command(&["ai", "keys", "rotate", "openai", "--overlap-s", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut rotating.stdin.take().unwrap(), NEW.as_bytes()).unwrap();
    let rotation = || project.answer(&["ai", "keys", "list", "--all"])["value"]["rotations"][0].clone();
    eventually("the old key drains", || rotation()["state"] == "draining");
    // The daemon looks every second: three looks, of which each would end it if the call were not counted.
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_secs(1));
        RUNTIME
            .block_on(async { assert_eq!(ask("quick", false).send().await.unwrap().status().as_u16(), 200) });
        let last = fake.requests().pop().unwrap();
        assert_eq!(last.key().as_deref(), Some(NEW), "what begins now goes with the new key");
        let rotation = rotation();
        assert_eq!(
            (&rotation["state"], &rotation["drained_at"]),
            (&json!("draining"), &Value::Null),
            "{rotation}"
        );
    }
    assert_eq!(rotating.try_wait().unwrap(), None, "who asked for it waits too");
    gate.open();
    let said = RUNTIME.block_on(slow.text()).unwrap();
    assert!(said.contains("three") && said.contains("[DONE]"), "the old call is answered whole: {said}");
    eventually("it is done", || rotation()["state"] == "done");
    assert!(rotation()["steps"][3]["drained_at"].is_string(), "{}", rotation());
    let done = rotating.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(daemon.stop(), 0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_rotation_whose_process_is_killed_is_finished_by_the_next_start() {
    let fake = provider(&[OLD, NEW]);
    let gate = Gate::new();
    fake.next_on(On::key(NEW), Reply::own().gate(&gate));
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let mut child = project
        .command(&["ai", "keys", "rotate", "openai", "--overlap-s", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), NEW.as_bytes()).unwrap();
    // The canary call is under way: the new value is stored and serves nobody.
    RUNTIME.block_on(gate.reached(1));
    child.kill().unwrap();
    child.wait().unwrap();
    let rotations = || project.answer(&["ai", "keys", "list", "--all"])["value"]["rotations"].clone();
    assert_eq!(rotations()[0]["state"], "added", "{}", rotations());
    let used = |key: &str| fake.requests().iter().filter(|call| call.key().as_deref() == Some(key)).count();
    let before = used(OLD);
    project.run(&["ai", "test", "fast"]).expect(0);
    assert_eq!(used(OLD), before + 1, "the old key serves");
    let daemon = project.daemon(&[]);
    eventually("it is finished", || rotations()[0]["state"] == "done");
    let routes = project.answer(&["ai", "routes"]);
    assert_eq!(routes["value"]["providers"]["openai"][0]["version"], 2, "{routes}");
    assert_eq!(daemon.stop(), 0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_scheduled_rotation_takes_what_is_staged_and_tells_when_nothing_is() {
    let fake = provider(&[OLD, NEW]);
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    project.run(&["ai", "keys", "rotate", "openai", "--staged"]).expect(1);
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project.write(
        "steward.yaml",
        format!(
            "{yaml}schedules:\n  keys:\n    cron: \"* * * * *\"\n    request: keys.rotate\n    \
             arguments: {{ provider: openai, staged: true, overlap_s: 0 }}\n"
        ),
    );
    // The schedule is due: its next time lies in the past.
    project.run(&["schedule", "list"]).expect(0);
    let due = || {
        let state = project.state();
        state
            .execute(
                "INSERT INTO jobs (project, name, request, arguments, next_us) VALUES ('shop', 'keys', 'keys.rotate', '{}', 0) \
                 ON CONFLICT (project, name) DO UPDATE SET next_us = 0",
                [],
            )
            .unwrap();
    };
    due();
    let daemon = project.daemon(&[]);
    eventually("the PM hears that no key is staged", || !project.escalations("decision_required").is_empty());
    put(&project, "openai/main.next", NEW);
    due();
    let rotated =
        || project.answer(&["ai", "keys", "list", "--all"])["value"]["rotations"][0]["state"] == "done";
    eventually("the staged key is in force", rotated);
    let staged = || project.run(&["secret", "list"]).stdout.contains("openai/main.next");
    eventually("what was staged is used up", || !staged());
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn exposed_keys_are_found_and_told_without_their_values() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    put(&project, "db/password", "correct horse battery");
    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let own = key_in(&made.stdout).unwrap();
    let foreign = "sk-ant-api03-Zq3xV8nLw2Rk7TgYb5HcJd9MfPs4UaEoXi6Bv1CtGzKr0QyWhNjDmSlFpAuIeOxVb";
    project.write("src/config.py", format!("a = 1\nKEY = \"{foreign}\"\n"));
    project.write("notes/todo.txt", format!("call with {own}\n\nthe password is correct horse battery!\n"));
    project.write("clean.txt", "nothing to see here, only a task-force\n");
    let git = |args: &[&str]| {
        let done = Command::new("git").args(args).current_dir(project.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "src/config.py", "clean.txt"]);

    let found = project.run(&["ai", "scan", "."]).expect(5);
    for line in [
        "src/config.py:2: an Anthropic key, kept by Git",
        "notes/todo.txt:1: a virtual key of this gateway: `checkout`",
        "notes/todo.txt:3: a secret of the vault: `db/password@1`",
    ] {
        assert!(found.stdout.contains(line), "{line}\n→ {}", found.stdout);
    }
    assert!(!found.stdout.contains("clean.txt"), "{}", found.stdout);
    let escalations = project.escalations("ai_api_misuse");
    assert_eq!(escalations.len(), 1, "{escalations:?}");
    let json = project.run(&["ai", "scan", "--json"]);
    let audit = project.run(&["audit", "export"]).expect(0);
    for text in [&found.stdout, &found.stderr, &json.stdout, &audit.stdout] {
        for secret in [foreign, &own, "correct horse"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    project.run(&["ai", "scan", "clean.txt"]).expect(0);
    // What is committed and gone, or changed, is still there for whoever has the repository.
    git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first"]);
    std::fs::remove_file(project.file("src/config.py")).unwrap();
    std::fs::remove_file(project.file("notes/todo.txt")).unwrap();
    let gone = project.run(&["ai", "scan", "."]).expect(5);
    assert!(
        gone.stdout.contains("src/config.py:2: an Anthropic key, in Git's last commit\n"),
        "{}",
        gone.stdout
    );
    assert!(
        gone.stdout.contains(" and in 1 of Git's last commit that are gone or changed here"),
        "{}",
        gone.stdout
    );
    assert!(!gone.stdout.contains(foreign) && !gone.stdout.contains("clean.txt"), "{}", gone.stdout);
    let exposure = &project.run(&["ai", "scan", "--json"]).expect(5).json()["value"]["exposures"][0];
    assert_eq!(
        (&exposure["file"], &exposure["committed"]),
        (&json!("src/config.py"), &json!(true)),
        "{exposure}"
    );
    project.write("src/config.py", "KEY = os.environ[\"KEY\"]\n");
    assert!(
        project
            .run(&["ai", "scan", "src"])
            .expect(5)
            .stdout
            .contains("src/config.py:2: an Anthropic key, in Git's")
    );
    git(&["add", "-A", "src"]);
    git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "second"]);
    project.run(&["ai", "scan", "src"]).expect(0);
    project.run(&["ai", "scan", "/nowhere/at/all"]).expect(1);

    // A program with a token looks into the project's folder and nowhere else.
    let token = project.token("ci", "requester");
    let daemon = project.daemon(&[]);
    assert_eq!(daemon.post(&token, "ai/scan", &json!({ "path": "clean.txt" })).0, 200);
    assert_eq!(daemon.post(&token, "ai/scan", &json!({ "path": "/etc" })).0, 400);
    assert_eq!(daemon.post(&token, "ai/import", &json!({ "path": "../x" })).0, 400);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn an_imported_configuration_is_one() {
    let project = Project::new("project: shop\n");
    project.write(
        "litellm.yaml",
        "model_list:\n  - model_name: gpt\n    litellm_params: { model: openai/gpt-5-mini, api_key: os.environ/OPENAI_API_KEY }\n\
         router_settings: { redis_host: cache }\n",
    );
    let printed = project.run(&["ai", "import", "litellm.yaml"]).expect(0);
    assert!(printed.stdout.contains("router_settings.redis_host"), "{}", printed.stdout);
    project.write("steward.yaml", format!("project: shop\n{}", printed.stdout));
    let models = project.run(&["ai", "models"]).expect(0);
    assert!(
        models.stdout.contains("openai/gpt-5-mini") && models.stdout.contains("by gpt"),
        "{}",
        models.stdout
    );
    let routes: Value = project.answer(&["ai", "routes"]);
    assert_eq!(routes["value"]["routes"][0]["route"], "gpt");
    // What cannot be read is refused without showing it.
    project.write("broken.yaml", "model_list: [ { api_key: sk-hunter2 \n");
    let broken = project.run(&["ai", "import", "broken.yaml"]).expect(2);
    assert!(!broken.stderr.contains("hunter2"), "{}", broken.stderr);
}

/// A daemon with one key, and a stream that has begun: the provider waits for the gate after its first words.
struct Streaming {
    project: Project,
    daemon: crate::program::Daemon,
    gate: Gate,
    response: reqwest::Response,
    first: String,
    // Lives as long as the stream.
    _fake: FakeAi,
}

fn streaming() -> Streaming {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project.write(
        "steward.yaml",
        format!(
            "{yaml}  budgets:\n    month: {{ usd: 10, per: month, scope: project }}\n\
             http: {{ listen: 127.0.0.1:0, drain_s: 600 }}\n"
        ),
    );
    put(&project, "openai/main", OLD);
    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let key = key_in(&made.stdout).unwrap();
    let daemon = project.daemon(&[]);
    let gate = Gate::new();
    fake.next(Reply::text("one two three four five six seven eight").gate_after_events(4, &gate));
    let call =
        json!({ "model": "fast", "stream": true, "messages": [{ "role": "user", "content": "count" }] });
    let (response, first) = RUNTIME.block_on(async {
        let url = format!("{}/v1/chat/completions", daemon.url);
        let mut response = client().post(url).bearer_auth(&key).json(&call).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let first = response.chunk().await.unwrap().unwrap();
        (response, String::from_utf8_lossy(&first).into_owned())
    });
    Streaming { project, daemon, gate, response, first, _fake: fake }
}

#[test]
fn a_stopping_daemon_lets_streams_end() {
    let Streaming { project, daemon, gate, response, first, _fake: _provider } = streaming();
    daemon.terminate();
    let refused = || {
        let again = RUNTIME.block_on(async { client().get(format!("{}/healthz", daemon.url)).send().await });
        again.is_err()
    };
    eventually("nobody new is let in", refused);
    gate.open();
    let rest = RUNTIME.block_on(async { response.text().await });
    let rest = rest.unwrap_or_else(|error| {
        panic!("{error:?}: {}", std::fs::read_to_string(project.file("daemon.log")).unwrap_or_default())
    });
    assert!(rest.trim_end().ends_with("data: [DONE]"), "{first}{rest}");
    assert_eq!(daemon.stop(), 0);
    let usage = project.answer(&["ai", "usage"]);
    assert_eq!(usage["value"]["total"]["complete"], 1, "{usage}");
}

#[test]
fn spend_of_a_killed_daemon_is_not_lost() {
    let Streaming { project, daemon, response, _fake: _provider, gate: _gate, .. } = streaming();
    // The reservation is written a moment after the request was let in.
    eventually("it is written", || {
        project
            .state()
            .query_row("SELECT count(*) FROM ai_reservations", [], |row| row.get::<_, i64>(0))
            .unwrap()
            == 1
    });
    drop(daemon); // By SIGKILL.
    let broken = RUNTIME.block_on(async { response.text().await });
    assert!(broken.is_err(), "a client hears that it was cut off: {broken:?}");
    let daemon = project.daemon(&[]);
    let usage = project.answer(&["ai", "usage"]);
    assert_eq!(usage["value"]["total"]["requests"], 1, "{usage}");
    let cost = project.answer(&["ai", "cost"]);
    assert!(cost["value"]["total"]["cost_usd_nanos"].as_i64() > Some(0), "{cost}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn calls_are_measured_and_each_project_sees_its_own() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let key = key_in(&made.stdout).unwrap();
    let token = project.token("prometheus", "reader");
    let daemon = project.daemon(&[]);
    let call = json!({ "model": "fast", "messages": [{ "role": "user", "content": "hello" }] });
    let (metrics, unknown) = RUNTIME.block_on(async {
        let url = format!("{}/v1/chat/completions", daemon.url);
        let answer = client().post(url).bearer_auth(&key).json(&call).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let url = format!("{}/metrics", daemon.url);
        let metrics = client().get(&url).bearer_auth(&token).send().await.unwrap().text().await.unwrap();
        (metrics, client().get(&url).send().await.unwrap().status().as_u16())
    });
    assert_eq!(unknown, 401);
    for line in [
        "gen_ai_client_operation_duration_seconds_count{steward_project=\"shop\",steward_route=\"fast\",\
         gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai\",gen_ai_request_model=\"gpt-5-mini\",error_type=\"\"} 1",
        "steward_ai_requests_total{steward_project=\"shop\",steward_route=\"fast\",ending=\"complete\",status=\"200\"} 1",
        "steward_ai_key_ready{steward_project=\"shop\",steward_provider=\"openai\",key=\"openai/main\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    assert!(metrics.trim_end().ends_with("# EOF"));
    assert!(!metrics.contains(&key) && !metrics.contains(OLD));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_collector_gets_spans_without_prompts() {
    let collector = RUNTIME.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = collector.local_addr().unwrap();
    let (sender, received) = std::sync::mpsc::channel();
    RUNTIME.spawn(async move {
        loop {
            let (stream, _) = collector.accept().await.unwrap();
            let sender = sender.clone();
            let service =
                hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let sender = sender.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let body =
                            http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
                        sender.send((path, body)).unwrap();
                        Ok::<_, std::convert::Infallible>(hyper::Response::new(String::new()))
                    }
                });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    project.write("steward.yaml", format!("{yaml}  otlp_url: http://{address}/v1/traces\n"));
    put(&project, "openai/main", OLD);
    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let key = key_in(&made.stdout).unwrap();
    let daemon = project.daemon(&[]);
    let call = json!({ "model": "fast", "messages": [{ "role": "user", "content": "marmalade" }] });
    RUNTIME.block_on(async {
        let url = format!("{}/v1/chat/completions", daemon.url);
        let call = client().post(url).bearer_auth(&key).json(&call);
        let call = call.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert!(call.send().await.unwrap().status().is_success());
    });
    let (path, body) = received.recv_timeout(std::time::Duration::from_mins(1)).expect("spans come");
    assert_eq!(path, "/v1/traces");
    for text in [
        "chat gpt-5-mini",
        "attempt 1",
        "gen_ai.usage.input_tokens",
        "gen_ai.provider.name",
        "steward.request_id",
    ] {
        assert!(holds(&body, text), "{text}");
    }
    // The client's trace and span, and the span that the provider was told.
    let sent = fake.requests().last().unwrap().header("traceparent").unwrap().to_owned();
    for hex in ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", &sent[36..52]] {
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        assert!(body.windows(bytes.len()).any(|window| window == bytes), "{hex}");
    }
    for secret in ["marmalade", OLD, &key] {
        assert!(!holds(&body, secret), "{secret}");
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn false_hits_of_the_semantic_cache_are_measured() {
    let fake = provider(&[OLD]);
    let project = Project::new(&format!(
        "project: shop\nai:\n  providers:\n    openai:\n      kind: openai\n      url: {}/v1\n      keys: [openai/main]\n  \
         routes:\n    vectors:\n      targets: [ {{ provider: openai, model: text-embedding-3-small }} ]\n    fast:\n      \
         targets: [ {{ provider: openai, model: gpt-5-mini }} ]\n      cache:\n        ttl_s: 600\n        \
         semantic: {{ embeddings: vectors, check: 1 }}\n",
        fake.url()
    ));
    put(&project, "openai/main", OLD);
    let key =
        key_in(&project.run(&["ai", "keys", "create", "checkout", "--routes", "fast"]).expect(0).stdout)
            .unwrap();
    let daemon = project.daemon(&[]);
    let vectors = |all: &[[f32; 2]]| {
        let data: Vec<Value> = all.iter().map(|numbers| json!({ "embedding": numbers })).collect();
        let body = json!({ "data": data, "usage": { "prompt_tokens": 8, "total_tokens": 8 } });
        fake.next_on(On::path("/embeddings"), Reply::raw("application/json", body.to_string()));
    };
    let ask = |text: &str| {
        let call =
            json!({ "model": "fast", "temperature": 0, "messages": [{ "role": "user", "content": text }] });
        RUNTIME.block_on(async {
            let url = format!("{}/v1/chat/completions", daemon.url);
            let response = client().post(url).bearer_auth(&key).json(&call).send().await.unwrap();
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            (header("steward-cache"), header("steward-receipt"))
        })
    };
    fake.next_on(On::generation(), Reply::text("Use the link in the mail."));
    assert_eq!(ask("How do I reset the password?").0, "miss");
    vectors(&[[1.0, 0.0], [1.0, 0.0]]);
    fake.next_on(On::generation(), Reply::text("Ask your administrator."));
    vectors(&[[1.0, 0.0], [0.0, 1.0]]);
    let (decision, receipt) = ask("How do I reset my password?");
    assert_eq!(decision, "semantic");
    let usage = || project.run(&["ai", "usage", "--by", "cache"]).expect(0).stdout;
    eventually("the check is counted", || usage().contains("checked 1 disagree (100.0 % false hits)"));
    assert!(usage().contains("(1 by what they mean)"), "{}", usage());
    let shown = project.run(&["ai", "receipt", &receipt]).expect(0).stdout;
    assert!(
        shown.contains("cache    semantic: the answer of req_") && shown.contains("similarity 1.0000"),
        "{shown}"
    );
    let metrics = RUNTIME.block_on(async {
        let token = project.token("prometheus", "reader");
        let url = format!("{}/metrics", daemon.url);
        client().get(url).bearer_auth(token).send().await.unwrap().text().await.unwrap()
    });
    let line =
        "steward_ai_cache_checks_total{steward_project=\"shop\",steward_route=\"fast\",agrees=\"no\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    // Embeddings cost money and are counted like other calls.
    let routes = project.answer(&["ai", "usage", "--by", "route"]);
    let vectors =
        routes["value"]["rows"].as_array().unwrap().iter().find(|row| row["name"] == "vectors").unwrap();
    assert_eq!(vectors["requests"], 2, "{routes}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_stored_prompt_of_production_is_shown_and_erased_only_with_approval() {
    const PASSPHRASE: &str = "violet harbor tin kettle";
    let fake = provider(&[OLD]);
    let stored = |yaml: &str| {
        Project::new(&format!(
            "project: shop\nenvironment: production\nai:\n  providers:\n    openai:\n      kind: openai\n      url: {}/v1\n      \
             keys: [openai/main]\n  routes:\n    fast:\n      targets: [ {{ provider: openai, model: gpt-5-mini }} ]\n{yaml}",
            fake.url()
        ))
    };
    let project = stored("      store_prompts: { retention_days: 30 }\n");
    project.add_person("anna", PASSPHRASE, &["security"]);
    put(&project, "openai/main", OLD);
    let key = key_in(&project.run(&["ai", "keys", "create", "checkout"]).expect(0).stdout).unwrap();
    let daemon = project.daemon(&[]);
    let ask = |text: &str| {
        let call = json!({ "model": "fast", "messages": [{ "role": "user", "content": text }] });
        RUNTIME.block_on(async {
            let url = format!("{}/v1/chat/completions", daemon.url);
            let response = client().post(url).bearer_auth(&key).json(&call).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 200);
            response.headers()["steward-receipt"].to_str().unwrap().to_owned()
        })
    };
    let (first, second) = (ask("my name is Tove"), ask(&format!("the password is {OLD}")));
    let count = || project.answer(&["ai", "prompts"])["value"]["prompts"].as_array().unwrap().len();
    eventually("both are stored", || count() == 2);
    let (status, metrics) = RUNTIME.block_on(async {
        let token = project.token("prometheus", "reader");
        let url = format!("{}/metrics", daemon.url);
        let response = client().get(url).bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    });
    assert!(
        status == 200
            && metrics.contains("steward_ai_prompts_total{")
            && metrics.contains("outcome=\"stored\"} 2"),
        "{metrics}"
    );
    let receipt = project.run(&["ai", "receipt", &first]).expect(0).stdout;
    assert!(receipt.contains("steward ai prompts show"), "{receipt}");

    // Reading it out waits for Security, each time.
    let show =
        |id: &str, code: i32| project.run(&["ai", "prompts", "show", id, "--json"]).expect(code).json();
    let grant = |answer: &Value| {
        let id = answer["approval"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        project.run_on_terminal(&["approval", "grant", &id, "--person", "anna"], &[PASSPHRASE]).expect(0);
    };
    let waiting = show(&first, 3);
    assert!(!waiting.to_string().contains("Tove"), "{waiting}");
    grant(&waiting);
    let shown = show(&first, 0);
    assert_eq!(shown["value"]["prompt"]["messages"][0]["content"], "my name is Tove", "{shown}");
    show(&first, 3);
    grant(&show(&second, 3));
    let shown = show(&second, 0);
    assert_eq!(shown["value"]["prompt"]["messages"][0]["content"], "the password is [redacted]", "{shown}");

    // So does erasing.
    let erase =
        |code: i32| project.run(&["ai", "prompts", "erase", &first, "--yes", "--json"]).expect(code).json();
    grant(&erase(3));
    assert_eq!(count(), 2);
    let erased = erase(0);
    assert_eq!(erased["value"]["erased"], 1, "{erased}");
    assert_eq!(count(), 1);
    assert_eq!(daemon.stop(), 0);
    let audit = project.run(&["audit", "export"]).expect(0).stdout;
    assert!(audit.contains("ai.prompts.erased") && !audit.contains("Tove"), "{audit}");
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn keys_of_declared_services_are_kept_as_those_of_providers() {
    let fake = provider(&[OLD]);
    let service = |name: &str, more: &str| {
        format!("    {name}: {{ prefix: /{name}, url: {}/text, keys: [{name}/main]{more} }}\n", fake.url())
    };
    let services = service("language", ", canary: { path: \"/health?v=3\" }") + &service("vision", "");
    let project = Project::new(&format!("project: shop\nai:\n  pass_through:\n{services}"));
    put(&project, "language/main", OLD);
    put(&project, "vision/main", OLD);
    fake.always(On::path("/text/health"), Reply::raw("application/json", "{}"));
    let leaked = "sk-ant-api03-Zq3xV8nLw2Rk7TgYb5HcJd9MfPs4UaEoXi6Bv1CtGzKr0QyWhNjDmSlFpAuIeOxVb";
    fake.always(On::path("/text/analyze"), Reply::raw("application/json", r#"{"documents":[]}"#));
    let told = Reply::raw("text/plain", format!("it is {leaked}, as you know"));
    fake.always(On::path("/text/tell"), told);
    fake.always(On::path("/text/picture"), Reply::raw("image/png", leaked));

    // A new key is proven by the service's own call before it serves.
    let rotate = ["ai", "keys", "rotate", "language"];
    let refused = project.run_with_input(&rotate, NEW).expect(5);
    assert!(refused.stdout.contains("version 1 serves as before"), "{}", refused.stdout);
    fake.accept_keys([OLD, NEW]);
    let done = project.run_with_input(&rotate, NEW).expect(0);
    assert!(done.stdout.contains("version 3 serves, version 1 is out of service"), "{}", done.stdout);
    let canary = fake.requests().iter().rfind(|call| call.key().as_deref() == Some(NEW)).cloned().unwrap();
    assert_eq!((canary.path.as_str(), canary.query.as_str()), ("/text/health", "v=3"));
    // Without such a call nothing is tried.
    let refused = project.run_with_input(&["ai", "keys", "rotate", "vision"], NEW).expect(2);
    assert!(refused.stderr.contains("ai.pass_through.vision.canary"), "{}", refused.stderr);

    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let key = key_in(&made.stdout).unwrap();
    let daemon = project.daemon(&[]);
    let call = |path: &str, kind: &str, body: String| {
        RUNTIME.block_on(async {
            let call = client().post(format!("{}{path}", daemon.url)).bearer_auth(&key);
            let response = call.header("content-type", kind.to_owned()).body(body).send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    };
    // What is exposed in a text is heard of, in both directions; pictures are not looked at.
    assert_eq!(call("/language/analyze", "image/png", leaked.to_owned()).0, 200);
    assert_eq!(call("/language/picture", "application/json", "{}".to_owned()), (200, leaked.to_owned()));
    assert_eq!(call("/language/analyze", "application/json", format!("{{\"text\":\"{leaked}\"}}")).0, 200);
    eventually("the request is heard of", || project.escalations("ai_api_misuse").len() == 1);
    assert!(call("/language/tell", "application/json", "{}".to_owned()).1.contains(leaked));
    eventually("the reply is heard of", || project.escalations("ai_api_misuse").len() == 2);

    // A key that the service refuses is out of service, and the PM hears of it.
    fake.accept_keys(["another-provider-key-0000000000"]);
    assert_eq!(call("/language/analyze", "application/json", "{}".to_owned()).0, 401);
    assert_eq!(
        call("/language/analyze", "application/json", "{}".to_owned()).0,
        503,
        "nobody is asked with it"
    );
    eventually("it is told", || {
        let told = project.escalations("ai_api_failure");
        told.iter().any(|one| one["title"].as_str().is_some_and(|title| title.contains("language/main")))
    });
    eventually("people see it", || {
        let keys = project.run(&["ai", "keys"]).expect(0).stdout;
        keys.lines().any(|line| line.contains("language/main") && line.contains("demoted"))
    });
    let audit = project.run(&["audit", "export"]).expect(0);
    assert!(!audit.stdout.contains(leaked) && !audit.stdout.contains(NEW));
    assert_eq!(daemon.stop(), 0);
}

/// So many calls of `fast`, one after the other; how many were answered.
fn calls(daemon: &crate::program::Daemon, key: &str, count: usize) -> usize {
    let call = json!({ "model": "fast", "messages": [{ "role": "user", "content": "hello" }] });
    RUNTIME.block_on(async {
        let client = client();
        let mut answered = 0;
        for _ in 0..count {
            let url = format!("{}/v1/chat/completions", daemon.url);
            let response = client.post(url).bearer_auth(key).json(&call).send().await.unwrap();
            answered += usize::from(response.status().is_success());
            response.bytes().await.unwrap();
        }
        answered
    })
}

/// Whether the PM was told something with these words, for this reason.
fn is_told(project: &Project, trigger: &str, words: &str) -> bool {
    let told = project.escalations(trigger);
    told.iter().any(|one| one["title"].as_str().is_some_and(|title| title.contains(words)))
}

#[test]
fn rate_limits_above_one_in_a_hundred_are_told_ours_and_the_providers() {
    let fake = provider(&[OLD]);
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let key = |name: &str, more: &[&str]| {
        let args: Vec<&str> = ["ai", "keys", "create", name].iter().chain(more).copied().collect();
        key_in(&project.run(&args).expect(0).stdout).unwrap()
    };
    let (free, limited) = (key("free", &[]), key("limited", &["--rpm", "5"]));
    let daemon = project.daemon(&[]);
    // Two of the provider's answers are refusals, tried again after a moment.
    fake.times(2, On::any(), Reply::rate_limited("0.01"));
    assert_eq!(calls(&daemon, &free, 110), 110);
    eventually("the provider's limit is told", || {
        is_told(&project, "ai_api_misuse", "`openai` refused 2 of")
    });
    assert_eq!(calls(&daemon, &limited, 110), 5);
    eventually("our own limit is told", || {
        is_told(&project, "ai_api_failure", "refused by rate limits, above 1 %")
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_provider_that_fails_for_a_minute_is_told() {
    let fake = provider(&[OLD]);
    fake.always(On::any(), Reply::error(500, "server_error", "out of order"));
    let project = shop(&fake);
    put(&project, "openai/main", OLD);
    let key = key_in(&project.run(&["ai", "keys", "create", "checkout"]).expect(0).stdout).unwrap();
    let daemon = project.daemon(&[]);
    assert_eq!(calls(&daemon, &key, 6), 0);
    assert!(!is_told(&project, "ai_api_failure", "nothing has come"), "a moment is no persistent failure");
    // A minute without any success, by the daemon's own clock.
    let told = || is_told(&project, "ai_api_failure", "nothing has come from `openai` for");
    for _ in 0..4 {
        if told() {
            break;
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !told() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(500)); // Nothing tells when it is so.
        }
    }
    assert!(told());
    assert_eq!(daemon.stop(), 0);
}
