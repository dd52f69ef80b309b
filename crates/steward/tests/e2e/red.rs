//! What someone hostile, unlucky or impatient does: clients that go away, processes that die, states that were edited.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::program::{Daemon, Project, eventually};

const EMPTY: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);";

fn token(project: &Project, role: &str) -> String {
    let made = project.run(&["token", "create", "robot", "--role", role]).expect(0);
    made.stdout.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap().to_owned()
}

/// Makes the newest change of this request look as if its process had died before it recorded the outcome.
fn interrupt(project: &Project, request: &str) -> String {
    let state = project.state();
    let id: String = state
        .query_row(
            "SELECT id FROM intents WHERE request = ? ORDER BY begun_us DESC LIMIT 1",
            [request],
            |row| row.get(0),
        )
        .unwrap();
    state
        .execute("UPDATE intents SET finished_us = NULL, outcome = NULL, holder = 'gone' WHERE id = ?", [&id])
        .unwrap();
    id
}

fn outcome(project: &Project, intent: &str) -> Option<String> {
    project.state().query_row("SELECT outcome FROM intents WHERE id = ?", [intent], |row| row.get(0)).unwrap()
}

/// Any change of something else, which first looks after what is unfinished.
fn another_change(project: &Project) {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("other/{number}");
    project.run_with_input(&["secret", "put", &name], "a value for this\n").expect(0);
}

/// Sends raw bytes and gives the status, or 0 when the connection was closed without an answer.
fn raw(daemon: &Daemon, token: &str, path: &str, more: &str, body: &[u8]) -> u16 {
    use std::io::Read;
    let address = daemon.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let head = format!(
        "POST /api/v1/{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{more}\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server may have refused and closed before the whole body was sent.
    drop(stream.write_all(body));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[test]
fn a_change_whose_client_goes_away_is_concluded_by_the_same_process() {
    let project = Project::new(
        "project: red\nstores:\n  app: { kind: sqlite, path: app.db, lock_timeout_ms: 600000 }\n",
    );
    project.database().execute_batch(EMPTY).unwrap();
    let token = token(&project, "requester");
    let daemon = project.daemon(&[]);
    let address = daemon.url.strip_prefix("http://").unwrap();
    let body = json!({ "store": "app", "table": "t", "columns": ["a"] }).to_string();
    // The change waits for this lock in the middle.
    let lock = project.database();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "POST /api/v1/index/create HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let state = project.state();
    let open = |finished: &str| -> i64 {
        let sql =
            format!("SELECT count(*) FROM intents WHERE request = 'index.create' AND finished_us {finished}");
        state.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    eventually("the change has begun", || open("IS NULL") == 1);
    drop(stream);
    lock.execute_batch("COMMIT").unwrap();
    eventually("the change is concluded", || open("IS NULL") == 0);
    let events = project.answer(&["audit", "list", "--kind", "index.create.outcome"]);
    assert_eq!(events["value"].as_array().unwrap().len(), 1, "{events}");
    // And the next one is not in its way.
    let (status, answer) = daemon.post(&token, "index/create", &serde_json::from_str(&body).unwrap());
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn what_became_of_an_interrupted_file_is_found_out() {
    let project = Project::with_sqlite("project: red", EMPTY);
    project.run(&["file", "write", "pipelines/a.yaml", "--content", "one: 1\n"]).expect(0);
    let intent = interrupt(&project, "file.write");
    another_change(&project);
    assert_eq!(outcome(&project, &intent).as_deref(), Some("done"));

    let intent = interrupt(&project, "file.write");
    std::fs::remove_file(project.file("pipelines/a.yaml")).unwrap();
    another_change(&project);
    assert_eq!(outcome(&project, &intent).as_deref(), Some("undone"));

    let intent = interrupt(&project, "file.write");
    project.write("pipelines/a.yaml", "two: 2\n");
    another_change(&project);
    assert_eq!(outcome(&project, &intent).as_deref(), Some("unknown"));
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn what_became_of_an_interrupted_change_of_the_state_is_found_out() {
    let project = Project::with_sqlite("project: red", EMPTY);
    project.run_with_input(&["secret", "put", "db/password"], "correct horse\n").expect(0);
    let put = interrupt(&project, "secret.put");
    project.run(&["token", "create", "robot"]).expect(0);
    assert_eq!(outcome(&project, &put).as_deref(), Some("done"));
    let made = interrupt(&project, "token.create");
    // Too long is refused, not cut.
    project.run_with_input(&["secret", "put", "db/huge"], &"x".repeat(65 << 10)).expect(2);
    another_change(&project);
    assert_eq!(outcome(&project, &made).as_deref(), Some("done"));
    // Over HTTP the vault refuses an empty value after the intent was written: nothing was stored.
    let daemon = project.daemon(&[]);
    let token = token(&project, "requester");
    let (status, answer) =
        daemon.post(&token, "secret/put", &json!({ "name": "db/none", "secret_input": "" }));
    assert_eq!(status, 400, "{answer}");
    let intent = interrupt(&project, "secret.put");
    assert_eq!(
        daemon.post(&token, "secret/put", &json!({ "name": "db/a", "secret_input": "a value" })).0,
        200
    );
    assert_eq!(outcome(&project, &intent).as_deref(), Some("undone"));
}

#[test]
fn an_edited_or_invented_interrupted_change_is_not_carried_out() {
    let project = Project::with_sqlite("project: red", EMPTY);
    project.run(&["index", "create", "app", "t", "--columns", "a", "--yes"]).expect(0);
    let intent = interrupt(&project, "index.create");
    let state = project.state();
    let change = |sql: &str| state.execute_batch(sql).unwrap();
    // The plan is edited in place: it does not open any more.
    change("UPDATE plans SET body = zeroblob(length(body))");
    let refused = project.run(&["index", "create", "app", "t", "--columns", "id", "--yes"]).expect(1);
    assert!(refused.stderr.contains("cannot be finished"), "{refused:?}");
    assert_eq!(outcome(&project, &intent), None);
    // What is about something else goes on.
    another_change(&project);
    let inbox = project.answer(&["inbox"]).to_string();
    assert!(inbox.contains("interrupted `index.create`"), "{inbox}");

    // A plan that is whole, with an intent that was never begun.
    let planned = project.answer(&["index", "create", "app", "t", "--columns", "id", "--dry-run"]);
    let mut plan: Value = planned["value"]["plan"].clone();
    plan["steps"][0]["statements"][0]["sql"] = json!("DROP TABLE t");
    let plan: contract::Plan = serde_json::from_value(plan).unwrap();
    let text = contract::canonical_json(&serde_json::to_value(&plan).unwrap());
    state
        .execute(
            "INSERT INTO plans (digest, project, request, body, made_us) VALUES (?, 'red', 'index.create', ?, 1)",
            [plan.digest().0.as_str(), text.as_str()],
        )
        .unwrap();
    state.execute("UPDATE intents SET plan_digest = ? WHERE id = ?", [&plan.digest().0, &intent]).unwrap();
    project.run(&["index", "create", "app", "t", "--columns", "id", "--yes"]).expect(1);
    change("DELETE FROM plans");
    project.run(&["index", "create", "app", "t", "--columns", "id", "--yes"]).expect(1);
    let tables: i64 = project
        .database()
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 't'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1, "the invented plan was carried out");
    // A daemon starts nevertheless.
    drop(project.daemon(&[]));
}

#[test]
fn dry_run_of_what_only_leads_to_changes_changes_nothing() {
    let project = Project::with_sqlite("project: red", EMPTY);
    let token = token(&project, "requester");
    let daemon = project.daemon(&[]);
    for (path, body) in [
        ("task/resume?dry_run=true", json!({ "task": "x" })),
        ("inbox/ack?dry_run=true", json!({ "escalation": "x" })),
    ] {
        let (status, answer) = daemon.post(&token, path, &body);
        assert_eq!(status, 400, "{path}: {answer}");
    }
    let task = json!({ "text": "Create an index on t.a in the store app" });
    daemon.post(&token, "task/run?dry_run=true", &task);
    let indexes: i64 = project
        .database()
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'index'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(indexes, 0);
}

#[test]
fn a_secret_that_is_given_as_an_argument_is_not_kept() {
    let project = Project::with_sqlite("project: red", EMPTY);
    let token = token(&project, "requester");
    let daemon = project.daemon(&[]);
    let secret = "correct-horse-battery";
    let (status, answer) =
        daemon.post(&token, "secret/put", &json!({ "name": "db/password", "secret_input": secret }));
    assert_eq!(status, 200, "{answer}");
    let sql = format!("SELECT '{secret}' AS found");
    let (_, answer) = daemon.post(&token, "store/query", &json!({ "store": "app", "sql": sql }));
    assert!(!answer.to_string().contains(secret), "{answer}");
    let file = json!({ "path": "pipelines/a.yaml", "content": format!("password: {secret}") });
    let (status, answer) = daemon.post(&token, "file/write", &file);
    assert_eq!(status, 400, "{answer}");
    assert!(!answer.to_string().contains(secret), "{answer}");
    let task = json!({ "text": format!("Look at the store app with {secret}") });
    let (status, answer) = daemon.post(&token, "task/run", &task);
    assert_eq!(status, 400, "{answer}");
    assert_eq!(daemon.stop(), 0);
    for args in [&["audit", "export"][..], &["audit", "list", "--json"], &["task", "list", "--json"]] {
        let shown = project.run(args).expect(0);
        assert!(!shown.stdout.contains(secret) && !shown.stderr.contains(secret), "{args:?}");
    }
    let state = project.state();
    // Tasks and plans are sealed: it must not have come so far.
    for (sql, none) in [
        ("SELECT count(*) FROM tasks", 0),
        ("SELECT count(*) FROM plans WHERE request = 'file.write'", 0),
        ("SELECT count(*) FROM approvals WHERE instr(arguments, 'correct-horse-battery') > 0", 0),
    ] {
        let rows: i64 = state.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, none, "{sql}");
    }
    let log = std::fs::read_to_string(project.file("daemon.log")).unwrap();
    assert!(!log.contains(secret), "{log}");
}

#[test]
fn nothing_of_a_task_can_be_read_in_the_state_file() {
    let project = Project::with_sqlite("project: red", EMPTY);
    let task = "\
Context:
  - The marmalade quarter is over
Task:
  - Review the performance of the store app, for marmalade
Previous Learning:
  - Marmalade keeps well
";
    let run = project.run_with_input(&["task", "run", "-", "--json"], task);
    let id = run.json()["value"]["id"].as_str().unwrap_or_else(|| panic!("{run:?}")).to_owned();
    // Whoever may ask can read all of it.
    assert!(project.answer(&["task", "show", &id]).to_string().contains("marmalade"));
    project.answer(&["status"]);
    // An erased body goes as before, and nothing comes back by it.
    let seq = project
        .state()
        .query_row("SELECT max(seq) FROM events WHERE kind = 'task.received'", [], |row| row.get::<_, i64>(0))
        .unwrap();
    project.run(&["audit", "erase", &seq.to_string(), "--reason", "asked for", "--yes"]);
    project.run(&["audit", "verify"]).expect(0);
    let state = project.file(".steward");
    for file in std::fs::read_dir(state).unwrap().map(|file| file.unwrap().path()) {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).to_lowercase();
        for word in ["marmalade", "review the performance", "keeps well"] {
            assert!(!text.contains(word), "`{word}` is in {}", file.display());
        }
    }
}

#[test]
fn hostile_bytes_over_http_are_answered() {
    let project = Project::with_sqlite("project: red", EMPTY);
    let token = token(&project, "requester");
    let daemon = project.daemon(&[]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_object = format!(r#"{{"store":{}1{}}}"#, r#"{"a":"#.repeat(50_000), "}".repeat(50_000));
    let huge = format!(r#"{{"store":"app","sql":"SELECT '{}'"}}"#, "x".repeat(1 << 20));
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("store/query", deep.clone().into_bytes()),
        ("store/query", deep_object.into_bytes()),
        ("store/query", huge.into_bytes()),
        ("store/query", br#"{"store":"app","sql":"SELECT 1\u0000"}"#.to_vec()),
        ("store/query", b"{\"store\":\"a\xffpp\",\"sql\":\"SELECT 1\"}".to_vec()),
        ("store/query", br#"{"store":"app","sql":"SELECT 1","rows_max":18446744073709551615}"#.to_vec()),
        ("store/query", br#"{"store":"app","sql":"SELECT 1","rows_max":1e400}"#.to_vec()),
        ("store/query", br#"{"store":"app","sql":"SELECT 1","timeout_ms":18446744073709551615}"#.to_vec()),
        (
            "store/query",
            br#"{"store":"app","sql":"SELECT 9223372036854775807 + 1, 1e999, x'00ff'"}"#.to_vec(),
        ),
        ("store/measure", br#"{"store":"app","query":"SELECT 1","runs":4294967295}"#.to_vec()),
        ("store/inspect", br#"{"store":"app\u0000"}"#.to_vec()),
        ("store/inspect", br#"{"store":"../app"}"#.to_vec()),
        ("audit/list", br#"{"limit":18446744073709551615,"after":18446744073709551615}"#.to_vec()),
        ("audit/export", br#"{"limit":18446744073709551615,"after":18446744073709551615}"#.to_vec()),
        ("audit/erase", br#"{"seq":18446744073709551615,"reason":"\u0000"}"#.to_vec()),
        ("audit/verify", br#"{"head":{"seq":18446744073709551615,"hash":"x"}}"#.to_vec()),
        ("task/list", br#"{"limit":4294967295}"#.to_vec()),
        ("task/run", br#"{"text":"\u0000\u001b[2J"}"#.to_vec()),
        ("task/run", br#"{"text":"&a [*a, *a]"}"#.to_vec()),
        ("token/create", br#"{"name":"x","days":4294967295}"#.to_vec()),
        ("file/write", br#"{"path":"pipelines/\u0000","content":""}"#.to_vec()),
        ("file/write", br#"{"path":"pipelines/../../x","content":""}"#.to_vec()),
        (
            "file/write",
            format!(r#"{{"path":"pipelines/{}","content":""}}"#, "x".repeat(100_000)).into_bytes(),
        ),
        ("migration/new", br#"{"store":"../../app","name":"../x"}"#.to_vec()),
        ("migration/new", br#"{"store":"app","name":"\u0000/x"}"#.to_vec()),
        ("secret/put", br#"{"name":"../../x","secret_input":"a value"}"#.to_vec()),
        ("secret/put", br#"{"name":"x","secret_input":{"a":1}}"#.to_vec()),
        ("approval/grant", br#"{"id":"x","secret_input":"a value"}"#.to_vec()),
        ("person/add", br#"{"name":"mallory","role":["pm"],"secret_input":"a passphrase of mine"}"#.to_vec()),
        ("evidence/show", br#"{"id":"' OR 1=1 --"}"#.to_vec()),
        ("..%2f/x", b"{}".to_vec()),
        ("store/%00", b"{}".to_vec()),
    ];
    for (path, body) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let status = raw(&daemon, &token, path, "", &body);
        assert!((200..500).contains(&status) || status == 504 || status == 502, "{path} {shown}: {status}");
        if ["token/create", "person/add", "approval/grant"].contains(&path) {
            assert!(status >= 400, "{path}: {status}");
        }
    }
    for timeout_ms in ["18446744073709551615", "0", "-1", "99999999999999999999999"] {
        let more = format!("steward-timeout-ms: {timeout_ms}\r\n");
        let status = raw(&daemon, &token, "store/list", &more, b"{}");
        assert!(status == 200 || (timeout_ms == "0" && status == 504), "{timeout_ms}: {status}");
    }
    let log = std::fs::read_to_string(project.file("daemon.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    let people = project.answer(&["person", "list"]);
    assert!(!people.to_string().contains("mallory"), "{people}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_reader_neither_changes_nor_makes_others_change() {
    let project = Project::with_sqlite("project: red", EMPTY);
    let reader = token(&project, "reader");
    let daemon = project.daemon(&[]);
    for (path, body) in [
        ("index/create", json!({ "store": "app", "table": "t", "columns": ["a"] })),
        ("file/write", json!({ "path": "pipelines/a.yaml", "content": "a: 1" })),
        ("secret/put", json!({ "name": "a", "secret_input": "a value" })),
        ("task/run", json!({ "text": "Create an index on t.a in the store app" })),
        ("task/resume", json!({ "task": "x" })),
        ("token/create", json!({ "name": "friend" })),
        ("token/revoke", json!({ "token": "robot" })),
        ("inbox/ack", json!({ "escalation": "x" })),
        ("audit/erase", json!({ "seq": 1, "reason": "x" })),
        ("migration/new", json!({ "store": "app", "name": "x" })),
    ] {
        let (status, answer) = daemon.post(&reader, path, &body);
        assert_eq!(status, 403, "{path}: {answer}");
    }
    let begun: i64 = project
        .state()
        .query_row("SELECT count(*) FROM intents WHERE request <> 'token.create'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(begun, 0);
    assert!(!project.file("pipelines").exists());
}
