//! The simulation itself, over a plain socket: what is scripted happens on the wire.

use fake_ai::{Answer, Ended, Ending, FakeAi, Gate, LineEnd, On, Reply, ToolDeltas};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends one request on a connection of its own and reads until the end: status, head, body without chunks, and
/// whether the body was complete.
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
    complete: bool,
    was_reset: bool,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

async fn connect(fake: &FakeAi, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(fake.address()).await.expect("the server listens");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: fake\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    stream
}

async fn read(mut stream: TcpStream) -> Got {
    let mut bytes = Vec::new();
    let was_reset = stream.read_to_end(&mut bytes).await.is_err();
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Got { status: 0, head: String::new(), body: Vec::new(), complete: false, was_reset };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut rest = &bytes[end + 4..];
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let mut body = Vec::new();
    let mut complete = false;
    if head.contains("chunked") {
        while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
            let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..at]), 16).expect("a size");
            if size == 0 || rest.len() < at + 2 + size + 2 {
                complete = size == 0;
                break;
            }
            body.extend_from_slice(&rest[at + 2..at + 2 + size]);
            rest = &rest[at + 2 + size + 2..];
        }
    } else {
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        complete = rest.len() == length;
        body = rest.to_vec();
    }
    Got { status, head, body, complete, was_reset }
}

async fn post(fake: &FakeAi, path: &str, body: &Value) -> Got {
    read(connect(fake, "POST", path, "authorization: Bearer sk-test\r\n", &body.to_string()).await).await
}

fn chat(text: &str, stream: bool) -> Value {
    json!({"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}], "stream": stream,
        "stream_options": {"include_usage": true}})
}

#[tokio::test]
async fn every_surface_answers_plain_and_as_a_stream() {
    let fake = FakeAi::start().await.unwrap();
    for (path, body, mark, stream_mark) in [
        ("/v1/chat/completions", chat("good day", false), "\"total_tokens\":", "data: [DONE]\n\n"),
        (
            "/v1/responses",
            json!({"model": "m", "input": "good day"}),
            "\"output_text\"",
            "response.completed",
        ),
        (
            "/v1/messages",
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "good day"}]}),
            "\"end_turn\"",
            "event: message_stop\n",
        ),
        (
            "/openai/deployments/mine/chat/completions",
            json!({"messages": [{"role": "user", "content": "good day"}]}),
            "\"mine\"",
            "\"choices\":[]",
        ),
    ] {
        let plain = post(&fake, path, &body).await;
        assert_eq!(plain.status, 200, "{path}");
        assert!(plain.complete && plain.text().contains("You said: good day"), "{path}: {}", plain.text());
        assert!(plain.text().contains(mark), "{path}: {}", plain.text());
        let mut body = body;
        body["stream"] = json!(true);
        let stream = post(&fake, path, &body).await;
        assert!(stream.head.contains("text/event-stream") && stream.complete, "{path}: {}", stream.head);
        assert!(stream.text().contains(stream_mark), "{path}: {}", stream.text());
    }
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "good day"}]}]});
    let plain = post(&fake, "/v1beta/models/gemini-x:generateContent", &body).await;
    assert_eq!(plain.json()["candidates"][0]["content"]["parts"][0]["text"], "You said: good day");
    let stream = post(&fake, "/v1/models/gemini-x:streamGenerateContent?alt=sse", &body).await;
    assert!(stream.text().contains("\"finishReason\":\"STOP\""), "{}", stream.text());
    assert!(!stream.text().contains("[DONE]"));
}

#[tokio::test]
async fn cuts_end_as_they_are_told_to() {
    let fake = FakeAi::start().await.unwrap();
    for (ending, complete) in [(Ending::Reset, false), (Ending::Close, false), (Ending::Clean, true)] {
        fake.next(Reply::text("one two three four five").cut_after_events(3, ending));
        let got = post(&fake, "/v1/chat/completions", &chat("x", true)).await;
        assert_eq!(got.complete, complete, "{ending:?}");
        assert!(!got.text().contains("[DONE]"), "{ending:?}");
        assert!(got.was_reset || ending != Ending::Reset, "{ending:?}");
        // With a whole body cut after its first bytes the length is the promised one.
        fake.next(Reply::text("one two three").cut_after_bytes(5, ending));
        let got = post(&fake, "/v1/chat/completions", &chat("x", false)).await;
        assert_eq!(got.complete, complete, "{ending:?}");
        assert!(got.body.len() <= 5, "{ending:?}");
    }
}

#[tokio::test]
async fn events_are_written_as_odd_as_wanted() {
    let fake = FakeAi::start().await.unwrap();
    let odd = Reply::text("größe 日本")
        .line_end(LineEnd::CrLf)
        .comments()
        .without_space()
        .byte_order_mark()
        .empty_choices_first()
        .unknown_fields()
        .pieces(7);
    fake.next(odd);
    let got = post(&fake, "/v1/chat/completions", &chat("x", true)).await;
    let text = got.text();
    assert!(text.starts_with("\u{feff}: keep-alive\r\n\r\n:\r\ndata:{"), "{text}");
    assert!(text.contains("\"big\":18446744073709551615") && text.ends_with("data:[DONE]\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn replies_wait_at_gates_and_the_journal_tells_how_they_ended() {
    let fake = FakeAi::start().await.unwrap();
    let gate = Gate::new();
    fake.next(Reply::text("one two three").gate_after_events(2, &gate));
    let stream = connect(&fake, "POST", "/v1/chat/completions", "", &chat("x", true).to_string()).await;
    gate.reached(1).await;
    assert_eq!(fake.request(0).await.ended_now(), None);
    drop(stream);
    assert_eq!(fake.request(0).await.ended().await, Ended::ClientGone);

    fake.next(Reply::text("one").gate(&gate));
    gate.open();
    assert!(post(&fake, "/v1/chat/completions", &chat("x", false)).await.complete);
    assert_eq!(fake.request(1).await.ended().await, Ended::Completed);

    fake.next(Reply::silent());
    let stream = connect(&fake, "POST", "/v1/chat/completions", "", &chat("x", true).to_string()).await;
    let exchange = fake.request(2).await;
    drop(stream);
    assert_eq!(exchange.ended().await, Ended::ClientGone);
}

#[tokio::test]
async fn errors_have_the_format_of_the_request() {
    let fake = FakeAi::start().await.unwrap();
    fake.always(
        On::generation(),
        Reply::error(401, "invalid_api_key", "bad key {key}").header("retry-after", "7"),
    );
    let got = post(&fake, "/v1/chat/completions", &chat("x", false)).await;
    assert_eq!((got.status, &got.json()["error"]["message"]), (401, &json!("bad key sk-test")));
    assert!(got.head.contains("retry-after: 7"));
    let got = post(&fake, "/v1/messages", &chat("x", false)).await;
    assert_eq!(got.json()["error"]["type"], "authentication_error");
    let got = post(&fake, "/v1beta/models/m:generateContent", &json!({})).await;
    assert_eq!(got.json()["error"]["status"], "UNAUTHENTICATED");
    fake.next(Reply::text("one two three").error_after_events(2, 529, "overloaded"));
    let mut request = chat("x", true);
    request["max_tokens"] = json!(5);
    let got = post(&fake, "/v1/messages", &request).await;
    assert!(got.text().contains("event: error\n"), "{}", got.text());
    assert!(!got.text().contains("message_stop") && got.complete);
}

#[tokio::test]
async fn keys_can_be_taken_away() {
    let fake = FakeAi::start().await.unwrap();
    fake.accept_keys(["sk-test"]);
    assert_eq!(post(&fake, "/v1/chat/completions", &chat("x", false)).await.status, 200);
    fake.accept_keys(["sk-other"]);
    let got = post(&fake, "/v1/chat/completions", &chat("x", false)).await;
    assert_eq!(got.status, 401);
    assert!(got.text().contains("sk-test"));
}

#[tokio::test]
async fn tools_are_called_by_name_and_cut_as_wanted() {
    let fake = FakeAi::start().await.unwrap();
    let schema =
        json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": schema}});
    let mut request = chat("use get_weather and get_time", false);
    request["tools"] = json!([tool("get_weather"), tool("get_time"), tool("other")]);
    let got = post(&fake, "/v1/chat/completions", &request).await.json();
    let calls = got["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0]["function"]["arguments"], r#"{"city":"city","days":1}"#);
    assert_eq!(got["choices"][0]["finish_reason"], "tool_calls");
    request["stream"] = json!(true);
    for deltas in [ToolDeltas::Pieces, ToolDeltas::Whole, ToolDeltas::Interleaved, ToolDeltas::WithText] {
        let answer =
            Answer::text("on it").tool("a", "get_weather", r#"{"city":"Bern"}"#).tool("b", "get_time", "");
        fake.next(Reply::answer(answer).tool_deltas(deltas));
        let text = post(&fake, "/v1/chat/completions", &request).await.text();
        let mut arguments = [String::new(), String::new()];
        for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let Ok(chunk) = serde_json::from_str::<Value>(data) else { continue };
            for call in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                arguments[index].push_str(call["function"]["arguments"].as_str().unwrap());
            }
        }
        assert_eq!(arguments, [r#"{"city":"Bern"}"#, ""], "{deltas:?}");
    }
}

#[tokio::test]
async fn jobs_advance_each_time_they_are_looked_at() {
    let fake = FakeAi::start().await.unwrap();
    let form = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--b\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"t.jsonl\"\r\n\r\n{\"custom_id\":\"1\",\"body\":{}}\n\r\n--b--\r\n";
    let upload = read(
        connect(&fake, "POST", "/v1/files", "content-type: multipart/form-data; boundary=b\r\n", form).await,
    )
    .await;
    let id = upload.json()["id"].clone();
    assert_eq!(upload.json()["filename"], "t.jsonl");
    let get = async |path: String| read(connect(&fake, "GET", &path, "", "").await).await;
    let job = post(&fake, "/v1/fine_tuning/jobs", &json!({"model": "gpt-5-mini", "training_file": id}))
        .await
        .json();
    let path = format!("/v1/fine_tuning/jobs/{}", job["id"].as_str().unwrap());
    for status in ["running", "succeeded", "succeeded"] {
        assert_eq!(get(path.clone()).await.json()["status"], status);
    }
    let batch =
        post(&fake, "/v1/batches", &json!({"input_file_id": id, "endpoint": "/v1/chat/completions"})).await;
    let path = format!("/v1/batches/{}", batch.json()["id"].as_str().unwrap());
    assert_eq!(get(path.clone()).await.json()["status"], "in_progress");
    let done = get(path).await.json();
    let output = get(format!("/v1/files/{}/content", done["output_file_id"].as_str().unwrap())).await;
    assert!(output.text().contains("\"custom_id\":\"1\""), "{}", output.text());
    assert_eq!(get("/v1/files/none".into()).await.status, 404);
}
