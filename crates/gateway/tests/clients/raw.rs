//! A client that sees what a client can see on the wire: bytes, and whether the answer was complete.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A request.
#[derive(Clone)]
pub struct Ask {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Ask {
    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".into(), "application/json".into())];
        Self { method: "POST", path: path.into(), headers, body: body.into() }
    }

    pub fn get(path: &str) -> Self {
        Self { method: "GET", path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// As a bearer token.
    pub fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// Sends it over a connection of its own.
    pub async fn send(self, address: &str) -> Reading {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.headers.iter().any(|(name, _)| name == "content-length") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may refuse before it has read everything.
        drop(stream.write_all(&self.body).await);
        Reading { stream, bytes: Vec::new() }
    }
}

/// An answer that arrives.
pub struct Reading {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// An answer as far as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the HTTP body ended as it should.
    pub complete: bool,
}

impl Reading {
    /// Reads until this text has come; what came so far.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            let so_far = String::from_utf8_lossy(&self.bytes).into_owned();
            if so_far.contains(text) {
                return so_far;
            }
            let count = self.stream.read_buf(&mut self.bytes).await.unwrap_or(0);
            assert!(count > 0, "`{text}` did not come, but: {so_far}");
        }
    }

    /// Reads to the end.
    pub async fn all(mut self) -> Answer {
        // A reset is an end as well; the framing tells whether the body was complete.
        drop(self.stream.read_to_end(&mut self.bytes).await);
        let end = self.bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = end else {
            return Answer { status: 0, headers: Vec::new(), body: Vec::new(), complete: false };
        };
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let rest = &self.bytes[end + 4..];
        let header =
            |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let (body, complete) = if header("transfer-encoding") == Some("chunked") {
            unchunked(rest)
        } else {
            let length = header("content-length").and_then(|length| length.parse().ok());
            (rest.to_vec(), length.is_none_or(|length: usize| rest.len() == length))
        };
        Answer { status, headers, body, complete }
    }
}

fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..at]), 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let chunk = &rest[at + 2..];
        body.extend_from_slice(&chunk[..size.min(chunk.len())]);
        if chunk.len() < size + 2 {
            break;
        }
        rest = &chunk[size + 2..];
    }
    (body, false)
}

impl Answer {
    pub fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?} {}", self.text()))
    }

    /// Names and data of the events of a stream.
    pub fn events(&self) -> Vec<(String, String)> {
        let text = self.text().replace("\r\n", "\n");
        let text = text.trim_start_matches('\u{feff}');
        text.split("\n\n")
            .map(|event| {
                let field = |wanted: &str| {
                    let values: Vec<&str> = event
                        .lines()
                        .filter_map(|line| line.strip_prefix(wanted)?.strip_prefix(':'))
                        .map(|value| value.strip_prefix(' ').unwrap_or(value))
                        .collect();
                    values.join("\n")
                };
                (field("event"), field("data"))
            })
            .filter(|(_, data)| !data.is_empty())
            .collect()
    }

    /// The events' data as JSON, without `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        self.events().iter().filter_map(|(_, data)| serde_json::from_str(data).ok()).collect()
    }

    /// The text of a chat stream.
    pub fn chat_text(&self) -> String {
        let pieces: Vec<String> = self
            .chunks()
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
        pieces.concat()
    }

    /// Why a chat stream says it ended.
    pub fn chat_finish(&self) -> Option<String> {
        self.chunks()
            .iter()
            .find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str().map(str::to_owned))
    }

    /// Names and arguments of the tools that a chat stream calls.
    pub fn chat_tools(&self) -> Vec<(String, String)> {
        let mut calls: Vec<(String, String)> = Vec::new();
        for chunk in self.chunks() {
            for call in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                if calls.len() <= index {
                    calls.resize(index + 1, Default::default());
                }
                calls[index].0.push_str(call["function"]["name"].as_str().unwrap_or_default());
                calls[index].1.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
            }
        }
        calls
    }

    /// The content blocks of an Anthropic stream, put together; blocks must open and close in order.
    #[track_caller]
    pub fn blocks(&self) -> Vec<Value> {
        let mut blocks: Vec<Value> = Vec::new();
        let mut open: Option<(u64, String)> = None;
        for (name, data) in self.events() {
            let data: Value = serde_json::from_str(&data).unwrap();
            assert_eq!(data["type"], name.as_str(), "event and type agree: {}", self.text());
            match name.as_str() {
                "content_block_start" => {
                    assert!(open.is_none(), "one block at a time: {}", self.text());
                    assert_eq!(data["index"], blocks.len(), "{}", self.text());
                    open = Some((data["index"].as_u64().unwrap(), String::new()));
                    blocks.push(data["content_block"].clone());
                }
                "content_block_delta" => {
                    let (index, arguments) = open.as_mut().expect("a delta is in a block");
                    assert_eq!(data["index"], *index, "{}", self.text());
                    let block = blocks.last_mut().unwrap();
                    let delta = &data["delta"];
                    for field in ["text", "thinking", "signature"] {
                        if let Some(more) = delta[field].as_str() {
                            let so_far = block[field].as_str().unwrap_or_default().to_owned();
                            block[field] = Value::String(so_far + more);
                        }
                    }
                    arguments.push_str(delta["partial_json"].as_str().unwrap_or_default());
                }
                "content_block_stop" => {
                    let (_, arguments) = open.take().expect("only an open block is closed");
                    let block = blocks.last_mut().unwrap();
                    if block["type"] == "tool_use" && !arguments.is_empty() {
                        block["input"] = serde_json::from_str(&arguments).unwrap();
                    }
                }
                _ => {}
            }
        }
        blocks
    }

    /// The reason to stop in an Anthropic stream.
    pub fn stop_reason(&self) -> Option<String> {
        self.chunks().iter().find_map(|event| event["delta"]["stop_reason"].as_str().map(str::to_owned))
    }

    /// Whether a client of the OpenAI stream can tell that something is missing: no end is claimed, and there is an
    /// error or a broken body.
    #[track_caller]
    pub fn assert_tells_the_cut(&self) {
        let text = self.text();
        assert!(!text.contains("[DONE]"), "no end is made up: {text}");
        assert!(!text.contains("message_stop"), "no end is made up: {text}");
        assert_eq!(self.chat_finish(), None, "no reason to stop is made up: {text}");
        assert_eq!(self.stop_reason(), None, "no reason to stop is made up: {text}");
        assert!(!self.complete || text.contains("\"error\""), "the client is told: {text}");
    }
}
