//! `steward up`: one per state, drained at the end, and following what happens beside it.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::program::{Project, eventually};

fn shop(more: &str) -> Project {
    Project::with_sqlite(
        &format!("project: shop\n{more}"),
        "CREATE TABLE orders (id INTEGER PRIMARY KEY); INSERT INTO orders VALUES (1);",
    )
}

#[test]
fn second_daemon_names_the_first() {
    let project = shop("");
    let daemon = project.daemon(&[]);
    let ended = project.run(&["up"]).expect(2);
    assert!(ended.stderr.contains(&format!("pid {}", daemon.child.id())), "{}", ended.stderr);
    let status = project.run(&["status"]).expect(0);
    assert!(status.stdout.contains(&format!("pid {}", daemon.child.id())), "{}", status.stdout);
    assert_eq!(daemon.stop(), 0);
    let status = project.run(&["status"]).expect(0);
    assert!(status.stdout.contains("not running"), "{}", status.stdout);
    assert_eq!(project.daemon(&[]).stop(), 0, "the lock ends with its daemon");
}

#[test]
fn taken_address_is_a_usage_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let project = shop(&format!("http:\n  listen: {}\n", taken.local_addr().unwrap()));
    let ended = project.run(&["up"]).expect(2);
    assert!(ended.stderr.contains("http.listen") && ended.stderr.contains("hint: "), "{}", ended.stderr);
}

#[test]
fn sigterm_lets_a_request_in_flight_end() {
    let project = Project::new(
        "project: shop\nstores:\n  app: { kind: sqlite, path: app.db, lock_timeout_ms: 600000 }\n",
    );
    project.database().execute_batch("CREATE TABLE orders (id INTEGER)").unwrap();
    let token = project.token("agent", "requester");
    let daemon = project.daemon(&[]);
    let address = daemon.url.strip_prefix("http://").unwrap().to_owned();
    // A change that waits for the lock of the store stays under way until the lock is given back.
    let body = json!({ "store": "app", "table": "orders", "columns": ["id"] }).to_string();
    let lock = project.database();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "POST /api/v1/index/create HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    eventually("the request is taken up", || {
        let open = "SELECT count(*) FROM intents WHERE finished_us IS NULL";
        project.state().query_row(open, [], |row| row.get::<_, i64>(0)).unwrap() == 1
    });
    daemon.terminate();
    // It no longer listens, and the request goes on.
    eventually("the daemon stops listening", || TcpStream::connect(&address).is_err());
    lock.execute_batch("COMMIT").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"done\""), "{answer}");
    assert_eq!(daemon.stop(), 0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn revoked_token_and_changed_files_reach_the_daemon() {
    let project = shop("");
    let (token, stays) = (project.token("agent", "requester"), project.token("other", "requester"));
    let daemon = project.daemon(&[]);
    assert_eq!(daemon.post(&token, "store/list", &json!({})).0, 200);
    project.run(&["token", "revoke", "agent"]).expect(0);
    // Promised within a second.
    eventually("a revoked token is refused", || daemon.post(&token, "store/list", &json!({})).0 == 401);
    let later = project.token("later", "reader");
    assert_eq!(daemon.post(&later, "store/list", &json!({})).0, 200, "a new token works at once");

    let good = std::fs::read_to_string(project.file("steward.yaml")).unwrap();
    let stores = |token: &str| daemon.post(token, "store/list", &json!({})).1["value"].to_string();
    project.write(
        "steward.yaml",
        good.replace("stores:\n", "stores:\n  more:\n    kind: sqlite\n    path: app.db\n"),
    );
    eventually("a new store is seen", || stores(&stays).contains("more"));
    assert_eq!(daemon.post(&stays, "store/inspect", &json!({ "store": "more" })).0, 200);

    project.write("steward.yaml", "project: shop\nstoress: {}\n");
    let log = || std::fs::read_to_string(project.file("daemon.log")).unwrap();
    eventually("the broken file is told", || log().contains("not used"));
    assert!(log().contains("storess"), "{}", log());
    assert!(stores(&stays).contains("more"), "the last good one stays in force");
    project.write("steward.yaml", &good);
    eventually("a mended file is used", || !stores(&stays).contains("more"));

    // Policies are part of the project.
    let write = json!({ "path": "pipelines/x.yaml", "content": "x" });
    assert_eq!(daemon.post(&stays, "file/write", &write).0, 200);
    project.write(
        "policies/freeze.cedar",
        "@id(\"team.freeze\")\n@tier(\"team\")\n@reason(\"no pipelines this week\")\n\
         forbid (principal, action == Action::\"file.write\", resource);\n",
    );
    eventually("a new policy counts", || daemon.post(&stays, "file/write", &write).0 == 403);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn schedules_run_catch_up_once_and_do_not_overlap() {
    let project = shop(
        "schedules:\n  missed:\n    cron: \"0 3 * * *\"\n    request: store.inspect\n    arguments: { store: app }\n  \
         skipped:\n    cron: \"0 3 * * *\"\n    catch_up: skip\n    request: store.list\n  \
         broken:\n    cron: \"0 3 * * *\"\n    request: store.inspect\n    arguments: { store: nowhere }\n  \
         forbidden:\n    cron: \"0 3 * * *\"\n    request: file.write\n    arguments: { path: src/pages/x.tsx, content: x }\n  \
         held:\n    cron: \"0 3 * * *\"\n    request: store.list\n",
    );
    let runs = |kind: &str, name: &str| -> i64 {
        project
            .state()
            .query_row(
                "SELECT count(*) FROM events WHERE kind = ?1 AND actor LIKE '%' || ?2 || '%'",
                [kind, name],
                |row| row.get(0),
            )
            .unwrap()
    };
    let job = |name: &str| {
        let list = project.answer(&["schedule", "list"]);
        list["value"].as_array().unwrap().iter().find(|job| job["name"] == name).unwrap().clone()
    };
    // The first start notes when each is due.
    let daemon = project.daemon(&[]);
    eventually("the jobs are noted", || {
        project.state().query_row("SELECT count(*) FROM jobs", [], |row| row.get::<_, i64>(0)).unwrap() == 5
    });
    assert_eq!(daemon.stop(), 0);
    // Days pass, during which the daemon is down; one run is held by a process elsewhere.
    let state = project.state();
    state.execute("UPDATE jobs SET next_us = next_us - 5 * 86400000000", []).unwrap();
    state
        .execute(
            "INSERT INTO leases (project, name, holder, expires_us) VALUES ('shop', 'schedule:held', 'another', 9000000000000000)",
            [],
        )
        .unwrap();
    drop(state);
    let daemon = project.daemon(&[]);
    eventually("the missed run is caught up", || job("missed")["last_status"] == "done");
    eventually("the others ended", || {
        job("broken")["last_status"] == "failed" && job("forbidden")["last_status"] == "forbidden"
    });
    // Two ticks more, in which nothing may run again. On a busy machine it may be fewer, and what is asserted still holds.
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(runs("store.inspect.answered", "missed"), 1, "five missed times are one run");
    assert_eq!(runs("store.list.answered", "skipped"), 0);
    assert_eq!(runs("store.list.answered", "held"), 0, "no overlap");
    assert!(job("skipped")["last"].is_null() && job("held")["last"].is_null());
    assert!(job("broken")["last_error"].as_str().unwrap().contains("nowhere"), "{}", job("broken"));
    assert!(!project.file("src").exists());
    for name in ["missed", "skipped", "broken", "forbidden", "held"] {
        let next: String = job(name)["next"].as_str().unwrap().to_owned();
        assert!(next.contains("T03:00:00"), "{next}");
    }
    assert_eq!(daemon.stop(), 0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn killed_daemon_leaves_a_valid_state() {
    let project = shop("");
    let token = project.token("agent", "requester");
    for round in 0..3 {
        let mut daemon = project.daemon(&[]);
        std::thread::scope(|scope| {
            let daemon = &daemon;
            for worker in 0..3 {
                let token = &token;
                scope.spawn(move || {
                    for n in 0..4 {
                        let body =
                            json!({ "path": format!("pipelines/{round}-{worker}-{n}.yaml"), "content": "x" });
                        assert_eq!(daemon.post(token, "file/write", &body).0, 200);
                    }
                });
            }
        });
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
        project.run(&["audit", "verify"]).expect(0);
        let status = project.run(&["status"]).expect(0);
        assert!(status.stdout.contains("not running"), "{}", status.stdout);
    }
    assert_eq!(project.daemon(&[]).stop(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_daemon_that_crashes_leaves_no_core() {
    let project = shop("");
    let daemon = project.daemon(&[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let values: Vec<_> = line.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{line}");
    assert_eq!(daemon.stop(), 0);
}
