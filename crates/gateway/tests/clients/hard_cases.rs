//! Cases on which gateways fail, as one table: what clients were found to lose in others must hold here.
//!
//! Each case has a gateway and a simulated provider of its own, because keys and breakers remember what happened.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fake_ai::{Answer, Ended, Ending, Gate, LineEnd, On, Reply, ToolDeltas, Usage};
use serde_json::{Value, json};

use crate::raw::{self, Ask};
use crate::stage::KEY;
use crate::{PROVIDER_KEYS, Scene};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// Longest wait for something that is promised within seconds: the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(1);

type Case = (&'static str, fn(At) -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// Makes the table of cases from functions.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        const CASES: &[Case] = &[$((stringify!($name), |at| Box::pin($name(at)))),*];
    };
}

cases![
    stream_passes,
    stream_with_crlf_comments_and_no_space_passes,
    stream_in_seven_byte_pieces_passes,
    azure_empty_choices_pass,
    reset_in_mid_stream_is_told,
    close_in_mid_stream_is_told,
    truncated_stream_is_told,
    truncated_plain_answer_is_told,
    error_event_in_mid_stream_reaches_the_client,
    rate_limit_keeps_status_and_wait,
    rate_limit_keeps_a_date_and_the_milliseconds,
    overload_keeps_its_status,
    leaving_client_closes_the_upstream,
    leaving_client_closes_a_silent_upstream,
    unknown_request_fields_are_kept,
    unknown_reply_fields_are_kept,
    unknown_stream_fields_are_kept,
    large_integers_are_kept,
    usage_is_asked_for_and_hidden,
    usage_is_shown_to_whom_it_was_promised,
    echoed_key_is_scrubbed,
    echoed_key_in_a_stream_is_scrubbed,
    chat_reaches_anthropic,
    chat_stream_reaches_anthropic,
    chat_stream_with_tools_reaches_anthropic,
    chat_truncation_at_anthropic_is_told,
    messages_reach_openai,
    messages_stream_reaches_openai,
    messages_stream_with_tools_reaches_openai,
    messages_with_interleaved_tools_reach_openai,
    messages_with_text_and_tool_in_one_chunk_reach_openai,
    messages_truncation_at_openai_is_told,
    error_event_at_openai_reaches_messages,
    error_of_openai_is_told_as_anthropic,
    chat_reaches_gemini,
    gemini_reaches_gemini,
    gemini_reaches_openai,
    gemini_reaches_anthropic,
    responses_reach_anthropic,
    responses_reach_chat_only_servers,
    ten_megabytes_pass,
    silent_start_falls_back,
    error_before_the_first_text_falls_back,
    nothing_falls_back_after_the_first_text,
    short_wait_is_waited_and_tried_again,
    refused_connection_falls_back,
    silence_in_mid_stream_is_told,
];

/// Where a case takes place.
#[derive(Clone)]
struct At {
    scene: Arc<Scene>,
}

impl At {
    async fn new() -> Self {
        let refused = fake_ai::refused_address().unwrap().to_string();
        Self { scene: Arc::new(Scene::new(&routes(&refused), None).await) }
    }

    /// Routes and models have the same name.
    fn on(kind: &str) -> On {
        On::model(kind)
    }

    fn model(kind: &str) -> String {
        kind.to_owned()
    }

    fn next(&self, kind: &str, reply: Reply) {
        self.scene.fake.next_on(Self::on(kind), reply);
    }

    /// A chat request to the route of this kind.
    fn chat(&self, kind: &str, stream: bool) -> Value {
        json!({"model": Self::model(kind), "stream": stream, "messages": [{"role": "user", "content": "good day"}]})
    }

    fn messages(&self, kind: &str, stream: bool) -> Value {
        json!({"model": Self::model(kind), "stream": stream, "max_tokens": 100,
            "messages": [{"role": "user", "content": "good day"}]})
    }

    async fn post(&self, path: &str, body: &Value) -> raw::Answer {
        self.scene.post(path, body).await
    }

    async fn open(&self, path: &str, body: &Value) -> raw::Reading {
        Ask::post(path, body.to_string()).key(KEY).send(&self.scene.address()).await
    }

    /// Requests of this case that reached a provider of this kind.
    fn seen(&self, kind: &str) -> Vec<Arc<fake_ai::Exchange>> {
        let model = Self::model(kind);
        let all = self.scene.fake.requests();
        all.into_iter().filter(|exchange| exchange.model().as_deref() == Some(&model)).collect()
    }
}

/// A route for each kind of provider, which tries once; `retry` tries OpenAI three times, `pair` OpenAI first and
/// Anthropic after it, `impatient` the same with short times, `refused` a server that is not there before OpenAI.
fn routes(refused: &str) -> String {
    let mut yaml = format!(
        "    nobody: {{ kind: openai, url: \"http://{refused}/v1\", keys: [openai] }}
    compatible: {{ kind: openai, url: \"{{fake}}/v1\", keys: [openai], formats: [chat] }}
  routes:\n"
    );
    for kind in ["openai", "azure", "anthropic", "gemini", "compatible"] {
        yaml.push_str(&format!(
            "    {kind}: {{ targets: [{{ provider: {kind}, model: {kind} }}], retry: {{ attempts: 1 }} }}\n"
        ));
    }
    yaml.push_str(
        "    retry: { targets: [{ provider: openai, model: retry }], retry: { attempts: 3, base_ms: 1 } }
    pair: { targets: [{ provider: openai, model: pair }, { provider: anthropic, model: second, priority: 2 }], retry: { attempts: 3, base_ms: 1 } }
    impatient: { targets: [{ provider: openai, model: impatient }, { provider: anthropic, model: second, priority: 2 }], retry: { attempts: 3, base_ms: 1 }, timeouts: { first_token_ms: 4000, idle_ms: 4000 } }
    refused: { targets: [{ provider: nobody, model: m }, { provider: openai, model: refused, priority: 2 }], retry: { attempts: 3, base_ms: 1 } }\n",
    );
    yaml
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hard_cases() {
    let mut running = Vec::new();
    for (name, case) in CASES {
        let whole = async { case(At::new().await).await };
        running.push((name, tokio::spawn(tokio::time::timeout(PATIENCE, whole))));
    }
    let mut failed = Vec::new();
    for (name, case) in running {
        match case.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => failed.push(format!("{name}: it hangs")),
            Err(panic) => failed.push(format!("{name}: {panic}")),
        }
    }
    assert!(
        CASES.len() >= 28 && failed.is_empty(),
        "{} of {}:\n{}",
        failed.len(),
        CASES.len(),
        failed.join("\n")
    );
}

async fn stream_passes(at: At) {
    at.next("openai", Reply::text("one two three"));
    let got = at.post(CHAT, &at.chat("openai", true)).await;
    assert_eq!((got.status, got.chat_text().as_str()), (200, "one two three"), "{}", got.text());
    assert!(got.complete && got.text().ends_with("data: [DONE]\n\n"), "{}", got.text());
    assert_eq!(got.chat_finish().as_deref(), Some("stop"));
    assert!(got.header("content-type").unwrap().starts_with("text/event-stream"));
    assert_eq!(got.header("content-encoding"), None);
}

async fn stream_with_crlf_comments_and_no_space_passes(at: At) {
    for line_end in [LineEnd::CrLf, LineEnd::Cr, LineEnd::Lf] {
        at.next(
            "openai",
            Reply::text("one two").line_end(line_end).comments().without_space().byte_order_mark(),
        );
        let got = at.post(CHAT, &at.chat("openai", true)).await;
        let text = got.text().replace("\r\n", "\n").replace('\r', "\n");
        assert!(got.complete && text.contains("[DONE]"), "{line_end:?}: {text}");
        for word in ["\"content\":\"one\"", "\"content\":\" two\""] {
            assert!(text.contains(word), "{line_end:?}: {text}");
        }
        // The same through a translation.
        at.next(
            "openai",
            Reply::text("one two").line_end(line_end).comments().without_space().byte_order_mark(),
        );
        let got = at.post(MESSAGES, &at.messages("openai", true)).await;
        assert_eq!(got.blocks()[0]["text"], "one two", "{line_end:?}: {}", got.text());
    }
}

async fn stream_in_seven_byte_pieces_passes(at: At) {
    let text = "Grüße aus 東京 und 🦀 zurück";
    at.next("openai", Reply::text(text).pieces(7));
    assert_eq!(at.post(CHAT, &at.chat("openai", true)).await.chat_text(), text);
    at.next("openai", Reply::text(text).pieces(7));
    assert_eq!(at.post(MESSAGES, &at.messages("openai", true)).await.blocks()[0]["text"], text);
}

async fn azure_empty_choices_pass(at: At) {
    at.next("azure", Reply::text("one two"));
    let got = at.post(CHAT, &at.chat("azure", true)).await;
    assert_eq!(got.chat_text(), "one two", "{}", got.text());
    assert!(got.text().contains("prompt_filter_results"), "{}", got.text());
    let seen = at.seen("azure");
    assert_eq!(seen[0].header("api-key"), Some(PROVIDER_KEYS[1].1));
    at.next("azure", Reply::text("one two"));
    assert_eq!(at.post(MESSAGES, &at.messages("azure", true)).await.blocks()[0]["text"], "one two");
}

/// The client has read the first text before the cut, so what was delivered is known.
async fn cut(path: &str, kind: &str, body: &Value, ending: Ending) -> raw::Answer {
    let at = At::new().await;
    let gate = Gate::new();
    let text = "one two three four five six seven eight";
    let events = if kind == "anthropic" { 5 } else { 4 };
    at.next(kind, Reply::text(text).gate_after_events(events, &gate).cut_after_events(events, ending));
    let mut reading = at.open(path, body).await;
    reading.until("two").await;
    gate.open();
    let got = reading.all().await;
    assert_eq!(got.status, 200, "{}", got.text());
    got
}

async fn reset_in_mid_stream_is_told(at: At) {
    cut(CHAT, "openai", &at.chat("openai", true), Ending::Reset).await.assert_tells_the_cut();
    cut(MESSAGES, "anthropic", &at.messages("anthropic", true), Ending::Reset).await.assert_tells_the_cut();
}

async fn close_in_mid_stream_is_told(at: At) {
    cut(CHAT, "openai", &at.chat("openai", true), Ending::Close).await.assert_tells_the_cut();
    cut(MESSAGES, "anthropic", &at.messages("anthropic", true), Ending::Close).await.assert_tells_the_cut();
}

async fn truncated_stream_is_told(at: At) {
    let got = cut(CHAT, "openai", &at.chat("openai", true), Ending::Clean).await;
    got.assert_tells_the_cut();
    assert!(got.text().contains("\"error\""), "{}", got.text());
    let got = cut(MESSAGES, "anthropic", &at.messages("anthropic", true), Ending::Clean).await;
    got.assert_tells_the_cut();
    assert_eq!(got.events().last().unwrap().0, "error", "{}", got.text());
    let body = json!({"model": At::model("openai"), "input": "good day", "stream": true});
    let gate = Gate::new();
    at.next(
        "openai",
        Reply::text("one two three four").gate_after_events(6, &gate).cut_after_events(6, Ending::Clean),
    );
    let mut reading = at.open(RESPONSES, &body).await;
    reading.until("two").await;
    gate.open();
    let got = reading.all().await;
    assert!(!got.text().contains("response.completed"), "{}", got.text());
    assert!(got.text().contains("error") || got.text().contains("response.failed"), "{}", got.text());
}

async fn truncated_plain_answer_is_told(_: At) {
    for ending in [Ending::Close, Ending::Reset] {
        let at = At::new().await;
        at.next("openai", Reply::text("one two three four five six").cut_after_bytes(60, ending));
        let got = at.post(CHAT, &at.chat("openai", false)).await;
        assert!(got.status >= 500 || !got.complete, "{ending:?}: {} {}", got.status, got.text());
    }
}

async fn error_event_in_mid_stream_reaches_the_client(at: At) {
    for (path, kind, events) in [(CHAT, "openai", 4), (MESSAGES, "anthropic", 5)] {
        let gate = Gate::new();
        let reply = Reply::text("one two three four").gate_after_events(events, &gate);
        at.next(kind, reply.error_after_events(events, 529, "the engine is on fire"));
        let body = if path == CHAT { at.chat(kind, true) } else { at.messages(kind, true) };
        let mut reading = at.open(path, &body).await;
        reading.until("two").await;
        gate.open();
        let got = reading.all().await;
        assert!(got.text().contains("the engine is on fire"), "{}", got.text());
        got.assert_tells_the_cut();
    }
}

async fn rate_limit_keeps_status_and_wait(_: At) {
    for (path, kind) in [(CHAT, "openai"), (MESSAGES, "anthropic"), (MESSAGES, "openai"), (CHAT, "anthropic")]
    {
        let at = At::new().await;
        at.next(kind, Reply::rate_limited("37").header("x-ratelimit-remaining-requests", "0"));
        let body = if path == CHAT { at.chat(kind, false) } else { at.messages(kind, false) };
        let got = at.post(path, &body).await;
        assert_eq!(got.status, 429, "{path} {kind}: {}", got.text());
        assert_eq!(got.header("retry-after"), Some("37"), "{path} {kind}: {:?}", got.headers);
        assert!(got.text().contains("rate limit reached"), "{}", got.text());
    }
}

async fn rate_limit_keeps_a_date_and_the_milliseconds(at: At) {
    let reply = Reply::error(429, "rate_limit_exceeded", "later").header("retry-after-ms", "61500");
    at.next("openai", reply);
    let got = at.post(CHAT, &at.chat("openai", false)).await;
    assert_eq!((got.status, got.header("retry-after-ms")), (429, Some("61500")), "{:?}", got.headers);
    at.next("gemini", Reply::error(429, "quota", "later").retry_info(43));
    let got = at.post(CHAT, &at.chat("gemini", false)).await;
    assert_eq!(
        (got.status, got.header("retry-after")),
        (429, Some("43")),
        "{:?} {}",
        got.headers,
        got.text()
    );
}

async fn overload_keeps_its_status(at: At) {
    at.next("anthropic", Reply::error(529, "overloaded_error", "too many at once"));
    let got = at.post(MESSAGES, &at.messages("anthropic", false)).await;
    assert_eq!(
        (got.status, &got.json()["error"]["type"]),
        (529, &json!("overloaded_error")),
        "{}",
        got.text()
    );
    at.next("openai", Reply::error(503, "server_error", "restarting"));
    let got = at.post(CHAT, &at.chat("openai", false)).await;
    assert_eq!(got.status, 503, "{}", got.text());
}

async fn leaving_client_closes_the_upstream(at: At) {
    let gate = Gate::new();
    at.next("openai", Reply::text("one two three four").gate_after_events(3, &gate));
    let mut reading = at.open(CHAT, &at.chat("openai", true)).await;
    reading.until("two").await;
    drop(reading);
    assert_eq!(at.seen("openai")[0].ended().await, Ended::ClientGone);
}

async fn leaving_client_closes_a_silent_upstream(at: At) {
    for stream in [true, false] {
        at.next("openai", Reply::silent());
        let before = at.seen("openai").len();
        let reading = at.open(CHAT, &at.chat("openai", stream)).await;
        while at.seen("openai").len() == before {
            // Another process sends it; there is no event to wait for.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(reading);
        assert_eq!(at.seen("openai")[before].ended().await, Ended::ClientGone, "stream {stream}");
    }
}

async fn unknown_request_fields_are_kept(at: At) {
    let mut body = at.chat("openai", false);
    body["x_future"] = json!({"deep": [1, {"deeper": null}]});
    body["messages"][0]["x_nested"] = json!("kept");
    assert_eq!(at.post(CHAT, &body).await.status, 200);
    let seen = at.seen("openai")[0].json();
    assert_eq!((&seen["x_future"], &seen["messages"][0]["x_nested"]), (&body["x_future"], &json!("kept")));
    let mut body = at.messages("anthropic", false);
    body["x_future"] = json!(true);
    body["messages"][0]["content"] =
        json!([{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}, "x_nested": 1}]);
    assert_eq!(at.post(MESSAGES, &body).await.status, 200);
    let seen = at.seen("anthropic")[0].json();
    assert_eq!((&seen["x_future"], &seen["messages"]), (&json!(true), &body["messages"]));
}

async fn unknown_reply_fields_are_kept(at: At) {
    for (path, kind, body) in [
        (CHAT, "openai", at.chat("openai", false)),
        (MESSAGES, "anthropic", at.messages("anthropic", false)),
        (RESPONSES, "openai", json!({"model": At::model("openai"), "input": "hi"})),
    ] {
        at.next(kind, Reply::text("one").unknown_fields());
        let got = at.post(path, &body).await;
        assert_eq!(got.json()["x_unknown"], json!({"kept": true, "big": u64::MAX}), "{path}: {}", got.text());
    }
}

async fn unknown_stream_fields_are_kept(at: At) {
    at.next("openai", Reply::text("one two").unknown_fields());
    let got = at.post(CHAT, &at.chat("openai", true)).await;
    let deltas: Vec<Value> = got.chunks();
    assert!(deltas.len() > 2 && deltas[1]["x_unknown"]["kept"] == true, "{}", got.text());
    assert_eq!(deltas[1]["choices"][0]["delta"]["x_unknown"]["big"], u64::MAX, "{}", got.text());
    at.next("anthropic", Reply::text("one two").unknown_fields());
    let got = at.post(MESSAGES, &at.messages("anthropic", true)).await;
    assert!(got.chunks().iter().all(|event| event["x_unknown"]["kept"] == true), "{}", got.text());
}

async fn large_integers_are_kept(at: At) {
    let big = 9_007_199_254_740_993_u64;
    let mut body = at.chat("openai", false);
    body["seed"] = json!(big);
    body["metadata"] = json!({"n": u64::MAX});
    assert_eq!(at.post(CHAT, &body).await.status, 200);
    let text = at.seen("openai")[0].text();
    assert!(text.contains(&big.to_string()) && text.contains(&u64::MAX.to_string()), "{text}");
    // Numbers beyond any integer type stay as they were written.
    let body = body
        .to_string()
        .replace(&big.to_string(), "1e400")
        .replace(&u64::MAX.to_string(), "0.1000000000000000000001");
    let ask = Ask::post(CHAT, body).key(KEY);
    let got = ask.send(&at.scene.address()).await.all().await;
    assert_eq!(got.status, 200, "{}", got.text());
    // Its reader of JSON does not know such numbers either, so it is found by its place.
    let text = at.scene.fake.requests()[1].text();
    assert!(text.contains("1e400") && text.contains("0.1000000000000000000001"), "{text}");
}

async fn usage_is_asked_for_and_hidden(at: At) {
    let got = at.post(CHAT, &at.chat("openai", true)).await;
    assert_eq!(at.seen("openai")[0].json()["stream_options"]["include_usage"], true);
    assert!(got.complete && got.text().contains("[DONE]"), "{}", got.text());
    for chunk in got.chunks() {
        assert!(chunk["usage"].is_null() && chunk["choices"] != json!([]), "{}", got.text());
    }
}

async fn usage_is_shown_to_whom_it_was_promised(at: At) {
    let usage = Usage { input: 70, cache_read: 30, output: 12, reasoning: 5, ..Usage::default() };
    at.next("openai", Reply::answer(Answer::text("one two").usage(usage)));
    let mut body = at.chat("openai", true);
    body["stream_options"] = json!({"include_usage": true});
    let got = at.post(CHAT, &body).await;
    let last = got.chunks().pop().unwrap();
    assert_eq!(last["usage"]["prompt_tokens"], 100, "{}", got.text());
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 30);
    // Anthropic counts what was cached apart.
    at.next("anthropic", Reply::answer(Answer::text("one two").usage(Usage { cache_write_1h: 9, ..usage })));
    body["model"] = json!(At::model("anthropic"));
    let got = at.post(CHAT, &body).await;
    let last = got.chunks().pop().unwrap();
    assert_eq!(last["usage"]["prompt_tokens"], 109, "{}", got.text());
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 30, "{}", got.text());
    assert_eq!(last["usage"]["completion_tokens"], 12, "{}", got.text());
}

#[track_caller]
fn assert_no_key(got: &raw::Answer) {
    let (text, headers) = (got.text(), format!("{:?}", got.headers));
    for (_, key) in PROVIDER_KEYS {
        assert!(!text.contains(key) && !headers.contains(key), "{text} {headers}");
    }
}

async fn echoed_key_is_scrubbed(_: At) {
    for (path, kind) in
        [(CHAT, "openai"), (MESSAGES, "openai"), (MESSAGES, "anthropic"), (CHAT, "gemini"), (CHAT, "azure")]
    {
        let at = At::new().await;
        let told =
            Reply::error(401, "invalid_api_key", "Incorrect API key provided: {key}. And again: {key}");
        at.next(kind, told.header("x-echo", "Bearer {key}"));
        let body = if path == CHAT { at.chat(kind, false) } else { at.messages(kind, false) };
        let got = at.post(path, &body).await;
        // The client's own key is right, so this is no 401 of his.
        assert!(got.status >= 400, "{path} {kind}: {}", got.text());
        assert_no_key(&got);
    }
}

async fn echoed_key_in_a_stream_is_scrubbed(at: At) {
    let (gate, key) = (Gate::new(), PROVIDER_KEYS[0].1);
    let reply = Reply::text("one two three four").gate_after_events(4, &gate);
    at.next("openai", reply.error_after_events(4, 401, &format!("bad key {key}")).pieces(7));
    let mut reading = at.open(CHAT, &at.chat("openai", true)).await;
    reading.until("two").await;
    gate.open();
    let got = reading.all().await;
    assert!(got.text().contains("bad key"), "{}", got.text());
    assert_no_key(&got);
}

async fn chat_reaches_anthropic(at: At) {
    let usage = Usage { input: 11, output: 3, ..Usage::default() };
    at.next("anthropic", Reply::answer(Answer::text("hello there").usage(usage)));
    let mut body = at.chat("anthropic", false);
    body["messages"].as_array_mut().unwrap().insert(0, json!({"role": "system", "content": "be short"}));
    let got = at.post(CHAT, &body).await.json();
    assert_eq!(got["choices"][0]["message"]["content"], "hello there");
    assert_eq!(got["choices"][0]["finish_reason"], "stop");
    assert_eq!((&got["usage"]["prompt_tokens"], &got["usage"]["completion_tokens"]), (&json!(11), &json!(3)));
    assert_eq!(got["object"], "chat.completion");
    let exchange = &at.seen("anthropic")[0];
    let seen = exchange.json();
    assert!(seen["max_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "Anthropic wants a number: {seen}");
    assert!(seen["system"].to_string().contains("be short"), "{seen}");
    assert_eq!(exchange.header("x-api-key"), Some(PROVIDER_KEYS[2].1));
    assert_eq!(exchange.header("authorization"), None, "the client's key goes no further");
    assert!(exchange.header("anthropic-version").is_some());
}

async fn chat_stream_reaches_anthropic(at: At) {
    at.next("anthropic", Reply::text("one two three"));
    let got = at.post(CHAT, &at.chat("anthropic", true)).await;
    assert_eq!(got.chat_text(), "one two three", "{}", got.text());
    assert_eq!(got.chat_finish().as_deref(), Some("stop"));
    assert!(got.text().ends_with("data: [DONE]\n\n") && !got.text().contains("event:"), "{}", got.text());
}

const WEATHER: &str = r#"{"city":"Zürich","unit":"celsius"}"#;
const TIME: &str = r#"{"zone":"Europe/Zurich"}"#;

fn two_tools(first: &str, second: &str) -> Answer {
    Answer::text("let me look").tool("call_1", "get_weather", first).tool("call_2", "get_time", second)
}

fn with_chat_tools(mut body: Value) -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "description": name, "parameters": {"type": "object"}}});
    body["tools"] = json!([tool("get_weather"), tool("get_time")]);
    body
}

fn with_messages_tools(mut body: Value) -> Value {
    let tool = |name: &str| json!({"name": name, "description": name, "input_schema": {"type": "object"}});
    body["tools"] = json!([tool("get_weather"), tool("get_time")]);
    body
}

async fn chat_stream_with_tools_reaches_anthropic(at: At) {
    at.next("anthropic", Reply::answer(two_tools(WEATHER, "")));
    let got = at.post(CHAT, &with_chat_tools(at.chat("anthropic", true))).await;
    let calls = got.chat_tools();
    assert_eq!(calls.len(), 2, "{}", got.text());
    assert_eq!(calls[0].0, "get_weather");
    assert_eq!(
        serde_json::from_str::<Value>(&calls[0].1).unwrap(),
        serde_json::from_str::<Value>(WEATHER).unwrap()
    );
    assert_eq!(
        calls[1],
        ("get_time".into(), "{}".into()),
        "no arguments are an empty object: {}",
        got.text()
    );
    assert_eq!(got.chat_finish().as_deref(), Some("tool_calls"));
    assert_eq!(got.chat_text(), "let me look");
}

async fn chat_truncation_at_anthropic_is_told(at: At) {
    for ending in [Ending::Clean, Ending::Close, Ending::Reset] {
        cut(CHAT, "anthropic", &at.chat("anthropic", true), ending).await.assert_tells_the_cut();
    }
}

async fn messages_reach_openai(at: At) {
    let usage = Usage { input: 8, cache_read: 4, output: 3, ..Usage::default() };
    at.next("openai", Reply::answer(two_tools(WEATHER, "").usage(usage)));
    let mut body = with_messages_tools(at.messages("openai", false));
    body["system"] = json!([{"type": "text", "text": "be short"}]);
    let got = at.post(MESSAGES, &body).await.json();
    assert_eq!((&got["type"], &got["role"]), (&json!("message"), &json!("assistant")), "{got}");
    assert_eq!(got["content"][0], json!({"type": "text", "text": "let me look"}), "{got}");
    assert_eq!(got["content"][1]["input"], serde_json::from_str::<Value>(WEATHER).unwrap());
    assert_eq!((&got["content"][2]["name"], &got["content"][2]["input"]), (&json!("get_time"), &json!({})));
    assert_eq!(got["stop_reason"], "tool_use");
    assert_eq!(
        (&got["usage"]["input_tokens"], &got["usage"]["cache_read_input_tokens"]),
        (&json!(8), &json!(4)),
        "{got}"
    );
    let seen = at.seen("openai")[0].json();
    assert!(seen["messages"][0].to_string().contains("be short"), "{seen}");
    assert_eq!(seen["tools"][0]["function"]["name"], "get_weather", "{seen}");
}

async fn messages_stream_reaches_openai(at: At) {
    let usage = Usage { input: 8, output: 3, ..Usage::default() };
    at.next("openai", Reply::answer(Answer::text("one two three").usage(usage)));
    let got = at.post(MESSAGES, &at.messages("openai", true)).await;
    let events = got.events();
    assert_eq!(events.first().unwrap().0, "message_start", "{}", got.text());
    assert_eq!(events.last().unwrap().0, "message_stop", "{}", got.text());
    assert!(!got.text().contains("[DONE]"), "{}", got.text());
    assert_eq!(got.blocks(), [json!({"type": "text", "text": "one two three"})]);
    assert_eq!(got.stop_reason().as_deref(), Some("end_turn"));
    let delta = got.chunks().into_iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(delta["usage"]["output_tokens"], 3, "{}", got.text());
}

async fn tools_over(at: &At, deltas: ToolDeltas, answer: Answer) {
    at.next("openai", Reply::answer(answer).tool_deltas(deltas));
    let got = at.post(MESSAGES, &with_messages_tools(at.messages("openai", true))).await;
    let blocks = got.blocks();
    // Text may come before the tools and between them; nothing of it is lost.
    let texts: String = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
    assert_eq!(texts, "let me look", "{deltas:?}: {}", got.text());
    let tools: Vec<&Value> = blocks.iter().filter(|block| block["type"] == "tool_use").collect();
    assert_eq!(tools.len(), 2, "{deltas:?}: {}", got.text());
    assert_eq!(
        (&tools[0]["name"], &tools[0]["id"]),
        (&json!("get_weather"), &json!("call_1")),
        "{}",
        got.text()
    );
    assert_eq!(tools[0]["input"], serde_json::from_str::<Value>(WEATHER).unwrap(), "{deltas:?}");
    assert_eq!(tools[1]["name"], "get_time", "{deltas:?}: {}", got.text());
    assert_eq!(got.stop_reason().as_deref(), Some("tool_use"), "{deltas:?}");
    assert_eq!(got.events().last().unwrap().0, "message_stop");
}

async fn messages_stream_with_tools_reaches_openai(at: At) {
    tools_over(&at, ToolDeltas::Pieces, two_tools(WEATHER, "")).await;
    tools_over(&at, ToolDeltas::Whole, two_tools(WEATHER, TIME)).await;
}

async fn messages_with_interleaved_tools_reach_openai(at: At) {
    tools_over(&at, ToolDeltas::Interleaved, two_tools(WEATHER, TIME)).await;
}

async fn messages_with_text_and_tool_in_one_chunk_reach_openai(at: At) {
    tools_over(&at, ToolDeltas::WithText, two_tools(WEATHER, TIME)).await;
}

async fn messages_truncation_at_openai_is_told(at: At) {
    for ending in [Ending::Clean, Ending::Close, Ending::Reset] {
        let got = cut(MESSAGES, "openai", &at.messages("openai", true), ending).await;
        got.assert_tells_the_cut();
        assert_eq!(got.events().last().unwrap().0, "error", "{ending:?}: {}", got.text());
    }
}

async fn error_event_at_openai_reaches_messages(at: At) {
    let gate = Gate::new();
    let reply = Reply::text("one two three four").gate_after_events(4, &gate);
    at.next("openai", reply.error_after_events(4, 500, "the engine is on fire"));
    let mut reading = at.open(MESSAGES, &at.messages("openai", true)).await;
    reading.until("two").await;
    gate.open();
    let got = reading.all().await;
    let (name, data) = got.events().pop().unwrap();
    assert!(name == "error" && data.contains("the engine is on fire"), "{}", got.text());
    got.assert_tells_the_cut();
}

async fn error_of_openai_is_told_as_anthropic(_: At) {
    for (status, kind) in [(400, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error")] {
        let at = At::new().await;
        at.next("openai", Reply::error(status, "some_code", "told by the provider"));
        let got = at.post(MESSAGES, &at.messages("openai", false)).await;
        assert_eq!(got.status, status, "{}", got.text());
        assert_eq!((&got.json()["type"], &got.json()["error"]["type"]), (&json!("error"), &json!(kind)));
        assert!(got.text().contains("told by the provider"), "{}", got.text());
    }
}

async fn chat_reaches_gemini(at: At) {
    at.next("gemini", Reply::answer(two_tools(WEATHER, "")));
    let got = at.post(CHAT, &with_chat_tools(at.chat("gemini", true))).await;
    let calls = got.chat_tools();
    assert_eq!(
        calls.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["get_weather", "get_time"],
        "{}",
        got.text()
    );
    assert_eq!(got.chat_finish().as_deref(), Some("tool_calls"), "{}", got.text());
    assert!(got.text().ends_with("data: [DONE]\n\n"));
    let seen = &at.seen("gemini")[0];
    assert_eq!(seen.header("x-goog-api-key"), Some(PROVIDER_KEYS[3].1));
    assert!(!seen.query.contains("key="), "{}", seen.query);
    cut(CHAT, "gemini", &at.chat("gemini", true), Ending::Clean).await.assert_tells_the_cut();
}

async fn gemini(at: &At, kind: &str) {
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "good day"}]}], "generationConfig": {"maxOutputTokens": 50}});
    at.next(kind, Reply::text("one two three"));
    let path = format!("/v1beta/models/{}:generateContent", At::model(kind));
    let got = at.post(&path, &body).await;
    assert_eq!(got.json()["candidates"][0]["content"]["parts"][0]["text"], "one two three", "{}", got.text());
    assert_eq!(got.json()["candidates"][0]["finishReason"], "STOP");
    at.next(kind, Reply::answer(two_tools(WEATHER, TIME)));
    let path = format!("/v1/models/{}:streamGenerateContent?alt=sse", At::model(kind));
    let got = Ask::post(&path, body.to_string())
        .header("x-goog-api-key", KEY)
        .send(&at.scene.address())
        .await
        .all()
        .await;
    let parts: Vec<Value> = got
        .chunks()
        .iter()
        .flat_map(|chunk| chunk["candidates"][0]["content"]["parts"].as_array().cloned().unwrap_or_default())
        .collect();
    let text: String = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    assert_eq!(text, "let me look", "{}", got.text());
    let calls: Vec<&Value> =
        parts.iter().map(|part| &part["functionCall"]).filter(|call| call.is_object()).collect();
    assert_eq!(calls.len(), 2, "{}", got.text());
    assert_eq!(calls[0]["args"], serde_json::from_str::<Value>(WEATHER).unwrap(), "{}", got.text());
    assert!(
        got.chunks().pop().unwrap()["usageMetadata"]["totalTokenCount"].as_u64().unwrap() > 0,
        "{}",
        got.text()
    );
    assert!(!got.text().contains("[DONE]"));
}

async fn gemini_reaches_gemini(at: At) {
    gemini(&at, "gemini").await;
    // Without `alt=sse` it is one JSON array.
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "good day"}]}]});
    let got = at.post("/v1beta/models/gemini:streamGenerateContent", &body).await;
    assert!(got.json().as_array().is_some_and(|all| all.len() > 1), "{}", got.text());
}

async fn gemini_reaches_openai(at: At) {
    gemini(&at, "openai").await;
}

async fn gemini_reaches_anthropic(at: At) {
    gemini(&at, "anthropic").await;
}

async fn responses_over(at: &At, kind: &str) {
    let tool = |name: &str| json!({"type": "function", "name": name, "parameters": {"type": "object"}});
    let body = json!({"model": At::model(kind), "input": "good day", "instructions": "be short", "stream": true,
        "tools": [tool("get_weather"), tool("get_time")]});
    at.next(kind, Reply::answer(two_tools(WEATHER, TIME)));
    let got = at.post(RESPONSES, &body).await;
    let last = got.chunks().pop().unwrap();
    assert_eq!(last["type"], "response.completed", "{}", got.text());
    let output = last["response"]["output"].as_array().unwrap();
    let calls: Vec<&Value> = output.iter().filter(|item| item["type"] == "function_call").collect();
    assert_eq!(calls.len(), 2, "{}", got.text());
    assert_eq!(
        serde_json::from_str::<Value>(calls[0]["arguments"].as_str().unwrap()).unwrap(),
        serde_json::from_str::<Value>(WEATHER).unwrap()
    );
    let text: String = got
        .chunks()
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .filter_map(|event| event["delta"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, "let me look", "{}", got.text());
}

async fn responses_reach_anthropic(at: At) {
    responses_over(&at, "anthropic").await;
}

async fn responses_reach_chat_only_servers(at: At) {
    responses_over(&at, "compatible").await;
    assert_eq!(at.seen("compatible")[0].path, "/v1/chat/completions");
}

async fn ten_megabytes_pass(at: At) {
    let text = "0123456789abcdef ".repeat(10 * 1024 * 1024 / 17);
    at.next("openai", Reply::text(text.clone()));
    let mut body = at.chat("openai", false);
    body["messages"][0]["content"] = json!(text);
    let got = at.post(CHAT, &body).await;
    assert_eq!(got.status, 200, "{}", got.text().chars().take(300).collect::<String>());
    assert!(got.json()["choices"][0]["message"]["content"] == text.as_str(), "the answer came whole");
    assert!(at.seen("openai")[0].json()["messages"][0]["content"] == text.as_str(), "the request came whole");
}

async fn silent_start_falls_back(at: At) {
    // Headers and the opening come, but no text within the time for it.
    let gate = Gate::new();
    at.next("impatient", Reply::text("late").gate_after_events(1, &gate));
    at.scene.fake.next_on(On::model("second"), Reply::text("from the second"));
    let got = at.post(CHAT, &at.chat("impatient", true)).await;
    assert_eq!(got.chat_text(), "from the second", "{}", got.text());
    assert_eq!(got.text().matches("\"role\":\"assistant\"").count(), 1, "one opening: {}", got.text());
    assert_eq!(at.seen("impatient")[0].ended().await, Ended::ClientGone, "the first is not left waiting");
}

async fn error_before_the_first_text_falls_back(at: At) {
    at.next("pair", Reply::text("never").error_after_events(1, 529, "overloaded"));
    at.scene.fake.next_on(On::model("second"), Reply::text("from the second"));
    let got = at.post(CHAT, &at.chat("pair", true)).await;
    assert_eq!(got.chat_text(), "from the second", "{}", got.text());
    assert!(!got.text().contains("overloaded"), "{}", got.text());
    at.next("pair", Reply::error(503, "server_error", "restarting"));
    at.next("pair", Reply::error(503, "server_error", "restarting"));
    at.scene.fake.next_on(On::model("second"), Reply::text("from the second"));
    let got = at.post(CHAT, &at.chat("pair", false)).await;
    assert_eq!(got.json()["choices"][0]["message"]["content"], "from the second", "{}", got.text());
}

async fn nothing_falls_back_after_the_first_text(at: At) {
    let gate = Gate::new();
    at.next(
        "pair",
        Reply::text("one two three four").gate_after_events(3, &gate).cut_after_events(3, Ending::Reset),
    );
    let mut reading = at.open(CHAT, &at.chat("pair", true)).await;
    reading.until("two").await;
    gate.open();
    let got = reading.all().await;
    got.assert_tells_the_cut();
    assert_eq!(got.chat_text(), "one two", "{}", got.text());
    assert_eq!((at.seen("pair").len(), at.seen("second").len()), (1, 0));
}

async fn short_wait_is_waited_and_tried_again(at: At) {
    let limited = || Reply::error(429, "rate_limit_exceeded", "soon").header("retry-after-ms", "20");
    at.next("retry", limited());
    at.next("retry", Reply::error(500, "server_error", "once"));
    at.next("retry", Reply::text("at last"));
    let got = at.post(CHAT, &at.chat("retry", false)).await;
    assert_eq!(got.json()["choices"][0]["message"]["content"], "at last", "{}", got.text());
    assert_eq!(at.seen("retry").len(), 3);
    // What no attempt can mend is not tried again.
    let at = At::new().await;
    at.next("retry", Reply::error(400, "invalid_request", "this is wrong"));
    assert_eq!(at.post(CHAT, &at.chat("retry", false)).await.status, 400);
    assert_eq!(at.seen("retry").len(), 1);
    // A wait that is longer than anybody waits is the client's to wait.
    at.next("retry", Reply::rate_limited("3600"));
    let got = at.post(CHAT, &at.chat("retry", false)).await;
    assert_eq!((got.status, got.header("retry-after")), (429, Some("3600")), "{}", got.text());
    assert_eq!(at.seen("retry").len(), 2);
}

async fn refused_connection_falls_back(at: At) {
    at.next("refused", Reply::text("from the other"));
    let got = at.post(CHAT, &at.chat("refused", true)).await;
    assert_eq!(got.chat_text(), "from the other", "{}", got.text());
}

async fn silence_in_mid_stream_is_told(at: At) {
    let gate = Gate::new();
    at.next("impatient", Reply::text("one two three").gate_after_events(3, &gate));
    let got = at.post(CHAT, &at.chat("impatient", true)).await;
    got.assert_tells_the_cut();
    assert!(got.text().contains("\"error\""), "{}", got.text());
    assert_eq!(at.seen("impatient")[0].ended().await, Ended::ClientGone);
}
