//! Lines to clients as they are on the wire: half-closed, gone, waiting to be told to go on, with headers without end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use fake_ai::{Ended, FakeAi, Gate, Reply};
use serde_json::json;

use crate::ai::{OLD, RUNTIME, key_in, provider, put};
use crate::program::{Daemon, Project};

/// A daemon before a provider, and a key for it.
fn served() -> (FakeAi, Project, Daemon, String) {
    let fake = provider(&[OLD]);
    let project = Project::new(&format!(
        "project: shop\nai:\n  body_bytes_max: 100000\n  providers:\n    openai: {{ kind: openai, url: '{}/v1', keys: [openai/main] }}\n  \
         routes:\n    fast: {{ targets: [ {{ provider: openai, model: gpt-5-mini }} ] }}\n",
        fake.url()
    ));
    put(&project, "openai/main", OLD);
    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let key = key_in(&made.stdout).unwrap();
    let daemon = project.daemon(&[]);
    (fake, project, daemon, key)
}

/// A client that sees every byte.
struct Line {
    stream: TcpStream,
    read: String,
}

impl Line {
    fn to(daemon: &Daemon) -> Self {
        let address = daemon.url.strip_prefix("http://").unwrap();
        Self { stream: TcpStream::connect(address).unwrap(), read: String::new() }
    }

    /// A call to a model; `more` are further headers.
    fn ask(&mut self, key: &str, more: &str, stream: bool) {
        let body = call(stream);
        self.head(key, more, body.len());
        self.stream.write_all(body.as_bytes()).unwrap();
    }

    fn head(&mut self, key: &str, more: &str, body_bytes: usize) {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: steward\r\nauthorization: Bearer {key}\r\ncontent-type: \
             application/json\r\ncontent-length: {body_bytes}\r\n{more}\r\n"
        );
        // A server that has heard enough may have closed already.
        drop(self.stream.write_all(head.as_bytes()));
    }

    /// Reads until this has come, and gives what has come since the last time.
    fn until(&mut self, text: &str) -> String {
        let mut buffer = [0; 4096];
        while !self.read.contains(text) {
            let count = self.stream.read(&mut buffer).unwrap_or(0);
            assert!(count > 0, "`{text}` did not come, but: {}", self.read);
            self.read.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        std::mem::take(&mut self.read)
    }

    fn rest(mut self) -> String {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        self.read + &String::from_utf8_lossy(&rest)
    }
}

fn call(stream: bool) -> String {
    json!({ "model": "fast", "stream": stream, "messages": [{ "role": "user", "content": "count" }] })
        .to_string()
}

#[test]
fn a_client_that_has_shut_its_sending_side_gets_its_whole_answer() {
    let (fake, project, daemon, key) = served();
    // A plain answer: nothing of it is there when the client shuts its side.
    let gate = Gate::new();
    fake.next(Reply::text("one two three").gate(&gate));
    let mut line = Line::to(&daemon);
    line.ask(&key, "", false);
    RUNTIME.block_on(gate.reached(1));
    line.stream.shutdown(Shutdown::Write).unwrap();
    // The daemon has noticed, and is not misled.
    line.until("100 Continue");
    gate.open();
    let answer = line.rest();
    let (_, answer) = answer.split_once("HTTP/1.1 200 OK").unwrap_or_else(|| panic!("{answer}"));
    assert!(answer.contains("one two three") && answer.ends_with('}'), "{answer}");
    // A stream in its middle.
    let gate = Gate::new();
    fake.next(Reply::text("one two three four").gate_after_events(3, &gate));
    let mut line = Line::to(&daemon);
    line.ask(&key, "", true);
    let begin = line.until("two");
    assert!(begin.starts_with("HTTP/1.1 200") && begin.contains("x-accel-buffering: no"), "{begin}");
    line.stream.shutdown(Shutdown::Write).unwrap();
    line.until("\r\n: ");
    gate.open();
    let answer = line.rest();
    assert!(answer.contains("four") && answer.contains("data: [DONE]"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n") && !answer.contains("100 Continue"), "{answer}");
    assert_eq!(daemon.stop(), 0);
    let usage = project.answer(&["ai", "usage"]);
    assert_eq!(usage["value"]["total"]["complete"], 2, "{usage}");
}

#[test]
fn a_client_that_is_gone_leaves_no_provider_at_work() {
    let (fake, project, daemon, key) = served();
    for stream in [false, true] {
        let gate = Gate::new();
        let reply = Reply::text("one two three four");
        fake.next(if stream { reply.gate_after_events(3, &gate) } else { reply.gate(&gate) });
        let mut line = Line::to(&daemon);
        line.ask(&key, "", stream);
        if stream {
            line.until("two");
        }
        RUNTIME.block_on(gate.reached(1));
        // Nothing is left unread, so that this is a proper end, as of a client that only shuts its sending side.
        drop(line);
        let ended = RUNTIME.block_on(async { fake.request(usize::from(stream)).await.ended().await });
        assert_eq!(ended, Ended::ClientGone, "stream: {stream}");
    }
    assert_eq!(daemon.stop(), 0);
    let usage = project.answer(&["ai", "usage"]);
    assert_eq!(
        (&usage["value"]["total"]["requests"], &usage["value"]["total"]["complete"]),
        (&json!(2), &json!(0))
    );
}

#[test]
fn a_client_that_waits_is_told_to_go_on_only_where_its_body_is_wanted() {
    let (fake, _project, daemon, key) = served();
    let expect = "expect: 100-continue\r\nconnection: close\r\n";
    let mut line = Line::to(&daemon);
    let body = call(false);
    line.head(&key, expect, body.len());
    assert_eq!(line.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(fake.requests().is_empty());
    line.stream.write_all(body.as_bytes()).unwrap();
    let answer = line.rest();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(fake.requests()[0].header("expect").is_none(), "it is between the client and us");
    // The body is never sent: an answer can only come from who does not wait for it.
    for (key, bytes, status) in [("sk-steward-nobody", 500, "401"), (&key, 100_001, "413")] {
        let mut line = Line::to(&daemon);
        line.head(key, expect, bytes);
        let answer = line.rest();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert_eq!(fake.requests().len(), 1);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn headers_without_end_are_refused_and_the_daemon_goes_on() {
    let (fake, _project, daemon, key) = served();
    let many: String =
        (0..200).fold(String::new(), |all, number| all + "x-header-" + &number.to_string() + ": 1\r\n");
    let long = format!("x-long: {}\r\n", "a".repeat(2 << 20));
    for (more, status) in [(&many, "431"), (&long, "431")] {
        let mut line = Line::to(&daemon);
        line.head(&key, more, 0);
        let answer = line.until("\r\n");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    // What real clients send passes: many cookies, long tokens of a proxy on the way.
    let usual = format!("x-long: {}\r\nconnection: close\r\n", "a".repeat(60 << 10));
    let mut line = Line::to(&daemon);
    line.ask(&key, &usual, false);
    let answer = line.rest();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(fake.requests().len(), 1);
    assert_eq!(daemon.stop(), 0);
}
