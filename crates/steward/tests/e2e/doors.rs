//! The same request through every door: command line, HTTP, MCP over standard input and output, MCP over HTTP.

use std::collections::BTreeSet;

use fake_ai::FakeAi;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, JsonObject, ReadResourceRequestParams, ResourceContents,
};
use rmcp::service::RunningService;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};
use rmcp::{RoleClient, ServiceExt};
use serde_json::{Value, json};

use crate::program::{Daemon, Project, client, eventually};

pub(crate) type Mcp = RunningService<RoleClient, ()>;

fn shop() -> Project {
    Project::with_sqlite(
        "project: shop",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); INSERT INTO orders VALUES (1, 'a'), (2, 'b');",
    )
}

pub(crate) async fn over_stdio(project: &Project, args: &[&str]) -> Mcp {
    let all: Vec<&str> = ["mcp"].iter().chain(args).copied().collect();
    let command = tokio::process::Command::from(project.command(&all));
    ().serve(TokioChildProcess::new(command).unwrap()).await.unwrap()
}

async fn over_http(daemon: &Daemon, token: &str) -> Mcp {
    let config =
        StreamableHttpClientTransportConfig::with_uri(format!("{}/mcp", daemon.url)).auth_header(token);
    ().serve(StreamableHttpClientTransport::with_client(client(), config)).await.unwrap()
}

async fn call(mcp: &Mcp, tool: &str, arguments: Value) -> CallToolResult {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    mcp.call_tool(CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments)).await.unwrap()
}

pub(crate) async fn request(mcp: &Mcp, tool: &str, operation: &str, arguments: Value) -> Value {
    let result = call(mcp, tool, json!({ "operation": operation, "arguments": arguments })).await;
    assert_ne!(result.is_error, Some(true), "{result:?}");
    result.structured_content.unwrap()
}

fn text(result: &CallToolResult) -> String {
    serde_json::to_string(&result.content).unwrap()
}

/// Takes out what differs from run to run.
fn stable(mut value: Value) -> Value {
    fn clean(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object
                    // Ages grow while this goes on.
                    .retain(|name, _| {
                        !name.ends_with("_ms")
                            && !name.ends_with("_at")
                            && name != "evidence"
                            && !name.ends_with("age_s")
                            && name != "rpo_s"
                            // Says how long ago the newest backup was proven.
                            && name != "why"
                    });
                object.values_mut().for_each(clean);
            }
            Value::Array(items) => items.iter_mut().for_each(clean),
            _ => {}
        }
    }
    clean(&mut value);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_gives_the_same_value() {
    let project = shop();
    project.migrations(&[("0001_a.sql", "CREATE TABLE a (id INTEGER);\n-- steward: down\nDROP TABLE a;\n")]);
    let token = project.token("agent", "requester");
    let daemon = project.daemon(&[]);
    let stdio = over_stdio(&project, &[]).await;
    let http = over_http(&daemon, &token).await;
    let doors = Doors { project: &project, daemon: &daemon, token: &token, stdio: &stdio, http: &http };
    let cases: [(&str, &str, &[&str], Value); 5] = [
        ("store", "store.list", &["store", "list"], json!({})),
        ("store", "store.inspect", &["store", "inspect", "app"], json!({ "store": "app" })),
        (
            "store",
            "store.query",
            &["store", "query", "app", "SELECT * FROM orders WHERE id > ?1", "--parameters", "[1]"],
            json!({ "store": "app", "sql": "SELECT * FROM orders WHERE id > ?1", "parameters": [1] }),
        ),
        ("store", "migration.status", &["migration", "status", "app"], json!({ "store": "app" })),
        ("authority", "approval.list", &["approval", "list"], json!({})),
    ];
    for (tool, name, args, arguments) in cases {
        doors.agree(tool, name, args, &arguments).await;
    }
    stdio.cancel().await.unwrap();
    http.cancel().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_gives_the_same_value_of_ai_calls_and_backups() {
    const KEY: &str = "provider-key-0123456789";
    let fake = FakeAi::start().await.unwrap();
    fake.accept_keys([KEY]);
    let project = Project::with_sqlite(
        &format!(
            "project: shop\nai:\n  providers:\n    openai: {{ kind: openai, url: {}/v1, keys: [openai/main] }}\n  routes:\n    \
             fast: {{ targets: [ {{ provider: openai, model: gpt-5-mini }} ] }}\n  \
             budgets:\n    month: {{ usd: 5, per: month, scope: project }}\n",
            fake.url()
        ),
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); INSERT INTO orders VALUES (1, 'a'), (2, 'b');",
    );
    // Another program's work, which must not hold up the one that answers it.
    let here = |args: &[&str]| tokio::task::block_in_place(|| project.run(args));
    tokio::task::block_in_place(|| project.run_with_input(&["secret", "put", "openai/main"], KEY)).expect(0);
    here(&["backup", "setup", "--json"]).expect(0);
    here(&["backup", "run", "app"]).expect(0);
    let made = here(&["ai", "keys", "create", "lab"]).expect(0).stdout;
    let key = made.split_whitespace().find(|word| word.starts_with("sk-steward-")).unwrap().to_owned();
    project.write("notes.txt", "nothing to see here\n");
    let token = tokio::task::block_in_place(|| project.token("agent", "requester"));
    let daemon = tokio::task::block_in_place(|| project.daemon(&[]));
    let call =
        json!({ "model": "fast", "max_tokens": 5, "messages": [{ "role": "user", "content": "hello" }] });
    let answer = client()
        .post(format!("{}/v1/chat/completions", daemon.url))
        .bearer_auth(&key)
        .json(&call)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let receipt = answer.headers()["steward-receipt"].to_str().unwrap().to_owned();
    tokio::task::block_in_place(|| {
        eventually("it is in the books and the key in service", || {
            let routes = project.answer(&["ai", "routes"]);
            project.run(&["ai", "receipt", &receipt]).code == 0
                && routes["value"]["providers"]["openai"][0]["state"] == "active"
        });
    });
    let stdio = over_stdio(&project, &[]).await;
    let http = over_http(&daemon, &token).await;
    let doors = Doors { project: &project, daemon: &daemon, token: &token, stdio: &stdio, http: &http };
    // Without days these end now.
    let days = json!({ "since": "2026-01-01", "until": "2036-01-01" });
    let cases: Vec<(&str, &str, Vec<&str>, Value)> = vec![
        ("ai", "ai.models", vec!["ai", "models"], json!({})),
        ("ai", "ai.routes", vec!["ai", "routes"], json!({})),
        ("ai", "ai.limits", vec!["ai", "limits"], json!({})),
        (
            "ai",
            "ai.usage",
            vec!["ai", "usage", "--since", "2026-01-01", "--until", "2036-01-01"],
            days.clone(),
        ),
        ("ai", "ai.cost", vec!["ai", "cost", "--since", "2026-01-01", "--until", "2036-01-01"], days),
        ("ai", "ai.receipt", vec!["ai", "receipt", &receipt], json!({ "id": receipt })),
        ("ai", "ai.scan", vec!["ai", "scan", "notes.txt"], json!({ "path": "notes.txt" })),
        ("ai", "keys.list", vec!["ai", "keys", "list"], json!({})),
        ("store", "backup.list", vec!["backup", "list"], json!({})),
        ("store", "backup.show", vec!["backup", "show", "app"], json!({ "backup": "app" })),
        // Of one store: the state, which is backed up too, grows with each request.
        ("store", "backup.plan", vec!["backup", "plan", "app"], json!({ "plan": "app" })),
    ];
    for (tool, name, args, arguments) in cases {
        doors.agree(tool, name, &args, &arguments).await;
    }

    // What deletes, or takes over what lies in a repository, is not there for agents, under whatever tool.
    for mcp in [&stdio, &http] {
        for operation in ["backup.prune", "backup.rebuild", "backup.setup"] {
            for tool in ["store", "store_change"] {
                let refused = call_tool(mcp, tool, operation).await;
                let told = text(&refused);
                assert_eq!(refused.is_error, Some(true), "{tool} {operation}: {told}");
                assert!(told.contains(&format!("has no operation `{operation}`")), "{tool}: {told}");
                let offered = told.split_once("one of: ").unwrap().1;
                assert!(!offered.contains(operation), "{tool} {operation}: {told}");
            }
        }
    }
    let listed = tokio::task::block_in_place(|| project.answer(&["backup", "list"]));
    assert!(listed["value"]["backups"][0]["store"] == "app", "the backup is still there: {listed}");
    stdio.cancel().await.unwrap();
    http.cancel().await.unwrap();
}

async fn call_tool(mcp: &Mcp, tool: &str, operation: &str) -> CallToolResult {
    call(mcp, tool, json!({ "operation": operation, "arguments": {} })).await
}

/// All ways to say a request to one project.
struct Doors<'a> {
    project: &'a Project,
    daemon: &'a Daemon,
    token: &'a str,
    stdio: &'a Mcp,
    http: &'a Mcp,
}

impl Doors<'_> {
    /// Says a request through every door; the values must be the same. `args` are the words of the command line.
    async fn agree(&self, tool: &str, name: &str, args: &[&str], arguments: &Value) {
        let path = name.replace('.', "/");
        let answers = [
            tokio::task::block_in_place(|| self.project.answer(args)),
            tokio::task::block_in_place(|| post(self.daemon, self.token, &path, arguments)),
            request(self.stdio, tool, name, arguments.clone()).await,
            request(self.http, tool, name, arguments.clone()).await,
        ];
        let first = stable(answers[0]["value"].clone());
        assert!(!first.is_null(), "{name}: {}", answers[0]);
        for answer in &answers {
            assert_eq!(stable(answer["value"].clone()), first, "{name}");
            assert_eq!((&answer["status"], &answer["request"]), (&json!("done"), &json!(name)), "{answer}");
            assert_eq!(
                answer["evidence"].as_array().map(Vec::len),
                answers[0]["evidence"].as_array().map(Vec::len),
                "{name}"
            );
        }
    }
}

fn post(daemon: &Daemon, token: &str, path: &str, body: &Value) -> Value {
    // `Daemon::post` has a runtime of its own.
    let (status, answer) =
        std::thread::scope(|scope| scope.spawn(|| daemon.post(token, path, body)).join().unwrap());
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_few_and_describe_explains_each_operation() {
    let project = shop();
    let mcp = over_stdio(&project, &[]).await;
    let tools = mcp.list_all_tools().await.unwrap();
    assert!(tools.len() <= 12, "{}", tools.len());
    assert!(serde_json::to_string(&tools).unwrap().len() / 4 < 6_000);
    let mut seen = BTreeSet::new();
    for tool in &tools {
        let hints = tool.annotations.as_ref().unwrap();
        let schema = Value::Object(JsonObject::clone(&tool.input_schema));
        for operation in schema["properties"]["operation"]["enum"].as_array().into_iter().flatten() {
            let name = operation.as_str().unwrap();
            let described =
                call(&mcp, "describe", json!({ "request": name })).await.structured_content.unwrap();
            assert_eq!(described["arguments"]["type"], "object", "{described}");
            let reads = described["effect"] == "read";
            assert_eq!(hints.read_only_hint, Some(reads), "{name} in {}", tool.name);
            seen.insert(name.to_owned());
        }
    }
    for name in
        ["store.inspect", "migration.apply", "task.run", "approval.list", "audit.verify", "evidence.show"]
    {
        assert!(seen.contains(name), "{name} is in no tool");
    }
    for name in [
        "approval.grant",
        "approval.deny",
        "person.add",
        "secret.put",
        "token.create",
        "backup.setup",
        "backup.prune",
        "backup.accept",
    ] {
        assert!(!seen.contains(name), "{name} is offered to agents");
    }

    let wrong = call(&mcp, "store", json!({ "operation": "store.explode" })).await;
    assert_eq!(wrong.is_error, Some(true));
    assert!(
        text(&wrong).contains("store.inspect") && text(&wrong).contains("store.query"),
        "{}",
        text(&wrong)
    );
    // A change is no operation of a tool that reads, whatever its name.
    for (tool, operation) in
        [("store", "migration.apply"), ("authority_change", "approval.grant"), ("describe", "x")]
    {
        let wrong = call(&mcp, tool, json!({ "operation": operation, "request": operation })).await;
        assert_eq!(wrong.is_error, Some(true), "{tool} {operation}");
    }
    assert!(mcp.call_tool(CallToolRequestParams::new("nonsense")).await.is_err());
    let wrong =
        call(&mcp, "store", json!({ "operation": "store.inspect", "arguments": { "stor": "app" } })).await;
    assert!(text(&wrong).contains("stor") && wrong.is_error == Some(true), "{}", text(&wrong));
    mcp.cancel().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_is_refused_changes_and_the_inbox_resource_tells() {
    let project = shop();
    project.migrations(&[("0001_a.sql", "CREATE TABLE a (id INTEGER);\n-- steward: down\nDROP TABLE a;\n")]);
    let mcp = over_stdio(&project, &["--role", "reader", "--name", "spy"]).await;
    request(&mcp, "store", "store.inspect", json!({ "store": "app" })).await;
    let refused = call(
        &mcp,
        "store_change",
        json!({ "operation": "migration.apply", "arguments": { "store": "app" } }),
    )
    .await;
    assert_eq!(refused.is_error, Some(true), "{refused:?}");
    assert_eq!(refused.structured_content.unwrap()["status"], "forbidden");
    assert_eq!(project.number("SELECT count(*) FROM sqlite_master WHERE name = 'a'"), 0);

    let resources = mcp.list_all_resources().await.unwrap();
    assert!(resources.iter().any(|resource| resource.uri == "steward://inbox"), "{resources:?}");
    let inbox = mcp.read_resource(ReadResourceRequestParams::new("steward://inbox")).await.unwrap();
    let ResourceContents::TextResourceContents { text, .. } = &inbox.contents[0] else { panic!("{inbox:?}") };
    assert!(text.contains("data_access_violation") && text.contains("spy"), "{text}");
    assert!(mcp.read_resource(ReadResourceRequestParams::new("steward://vault")).await.is_err());
    mcp.cancel().await.unwrap();
}

#[test]
fn tokens_and_hosts_are_checked() {
    let project = shop();
    let reader = project.token("viewer", "reader");
    let daemon = project.daemon(&[]);
    let body = json!({ "store": "app" });
    assert_eq!(daemon.post(&reader, "store/inspect", &body).0, 200);
    let (status, answer) = daemon.post(&reader, "migration/new", &json!({ "store": "app", "name": "x" }));
    assert_eq!((status, answer["status"].as_str()), (403, Some("forbidden")), "{answer}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for path in ["/api/v1/store/inspect", "/mcp"] {
            let url = format!("{}{path}", daemon.url);
            let without = client().post(&url).json(&body).send().await.unwrap();
            assert_eq!(
                (without.status().as_u16(), without.headers()["www-authenticate"].to_str().unwrap()),
                (401, "Bearer")
            );
            let wrong = client().post(&url).bearer_auth("stw_not-a-token").json(&body).send().await.unwrap();
            assert_eq!(wrong.status(), 401);
            assert!(!wrong.text().await.unwrap().contains("not-a-token"));
            let basic = client().post(&url).basic_auth("u", Some(&reader)).json(&body).send().await.unwrap();
            assert_eq!(basic.status(), 401);
            for host in ["evil.example", "127.0.0.1.evil.example", ""] {
                let foreign = client()
                    .post(&url)
                    .bearer_auth(&reader)
                    .header("host", host)
                    .json(&body)
                    .send()
                    .await
                    .unwrap();
                assert_eq!(foreign.status(), 403, "{host}");
            }
        }
        for (content, expected) in
            [("{\"store\"", 400), ("[]", 400), ("\"app\"", 400), ("{}", 400), ("", 400)]
        {
            let answer = client()
                .post(daemon.api("store/inspect"))
                .bearer_auth(&reader)
                .body(content)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), expected, "{content}");
            assert_eq!(answer.headers()["content-type"], "application/problem+json", "{content}");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["status"], expected, "{problem}");
            assert!(
                problem["title"].is_string() && problem["hint"].is_string() || content == "{\"store\"",
                "{problem}"
            );
        }
        let huge = vec![b' '; 17 << 20];
        let answer = client().post(daemon.api("store/inspect")).bearer_auth(&reader).body(huge).send().await;
        // The server may close before everything is sent.
        assert!(answer.is_err() || answer.unwrap().status() == 413);
        for path in ["store/nonsense", "nonsense/inspect"] {
            let answer =
                client().post(daemon.api(path)).bearer_auth(&reader).json(&json!({})).send().await.unwrap();
            assert_eq!(answer.status(), 400, "{path}");
        }
    });
    let raised = project.escalations("data_access_violation");
    assert!(raised.iter().any(|one| one["title"].as_str().unwrap().contains("token")), "{raised:?}");
    assert!(raised.iter().any(|one| one["title"].as_str().unwrap().contains("viewer")), "{raised:?}");
    assert_eq!(daemon.stop(), 0);
}

/// All references in a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn openapi_document_has_every_request_and_its_references_resolve() {
    let project = Project::new("project: shop\n");
    let daemon = project.daemon(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let document: Value = runtime.block_on(async {
        client().get(daemon.api("openapi.json")).send().await.unwrap().json().await.unwrap()
    });
    assert_eq!(document["openapi"], "3.1.0");
    let names = project.answer(&["docs", "reference"]);
    let names = names["value"].as_array().unwrap();
    assert!(names.len() > 40, "{}", names.len());
    for name in names {
        let path = format!("/api/v1/{}", name.as_str().unwrap().replace('.', "/"));
        let post = &document["paths"][&path]["post"];
        assert_eq!(post["operationId"], *name);
        assert_eq!(post["requestBody"]["content"]["application/json"]["schema"]["type"], "object", "{path}");
    }
    let posts = document["paths"].as_object().unwrap().values().filter(|path| path["post"].is_object());
    assert_eq!(posts.count(), names.len());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn tls_is_served_and_a_wrong_certificate_is_a_usage_error() {
    let project = shop();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(project.path())
        .output()
        .expect("this test needs `openssl`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let yaml = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    let with = |certificate: &str| {
        format!(
            "{yaml}\nhttp:\n  listen: 127.0.0.1:0\n  tls: {{ certificate: {certificate}, key: key.pem }}\n"
        )
    };
    for wrong in ["missing.pem", "key.pem", "steward.yaml"] {
        project.write("steward.yaml", with(wrong));
        let ended = project.run(&["up"]).expect(2);
        assert!(ended.stderr.contains("http.tls") && ended.stderr.contains(wrong), "{}", ended.stderr);
        assert!(!ended.stderr.contains("PRIVATE"), "{}", ended.stderr);
    }
    project.write("steward.yaml", with("cert.pem"));
    let token = project.token("agent", "reader");
    let daemon = project.daemon(&[]);
    assert!(daemon.url.starts_with("https://"), "{}", daemon.url);
    assert_eq!(daemon.post(&token, "store/inspect", &json!({ "store": "app" })).0, 200);
    // Nothing is answered in the clear.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clear = client().get(daemon.url.replace("https", "http") + "/healthz").send().await;
        assert!(clear.is_err(), "{clear:?}");
        let strict = reqwest::Client::new().get(format!("{}/healthz", daemon.url)).send().await;
        assert!(strict.is_err(), "a certificate that nobody vouches for");
    });
    assert_eq!(daemon.stop(), 0);
}
