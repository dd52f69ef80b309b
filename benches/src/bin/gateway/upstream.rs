//! The provider behind every measurement: the same bytes for every request, as cheap as can be.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Text events of a stream, besides its opening, its end and its usage.
pub(crate) const EVENTS: usize = 20;

/// Answers on a free port for ever; the port is printed by the caller through `ready`.
pub(crate) async fn serve(ready: impl FnOnce(u16) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(listener.local_addr()?.port())?;
    let (plain, stream): (&'static [u8], &'static [Vec<u8>]) = (plain().leak(), stream().leak());
    loop {
        let (connection, _) = listener.accept().await?;
        tokio::spawn(answer(connection, plain, stream));
    }
}

fn plain() -> Vec<u8> {
    let body = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1750000000,"model":"gpt-5-mini-2025-08-07","choices":[{"index":0,"message":{"role":"assistant","content":"A plain answer of about the length that a short question gets, so that the body is not empty.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":42,"completion_tokens":20,"total_tokens":62,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":null}"#;
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What is written, one write after the other: the head, then each event as a chunk of its own.
fn stream() -> Vec<Vec<u8>> {
    let mut writes = vec![
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
    ];
    let mut event = |data: &str| {
        let event = format!("data: {data}\n\n");
        writes.push(format!("{:x}\r\n{event}\r\n", event.len()).into_bytes());
    };
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"{{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1750000000,"model":"gpt-5-mini-2025-08-07","service_tier":"default","system_fingerprint":null,"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}],"usage":null}}"#
        )
    };
    event(&chunk(r#"{"role":"assistant","content":"","refusal":null}"#, "null"));
    for number in 0..EVENTS {
        event(&chunk(&format!(r#"{{"content":" word{number}"}}"#), "null"));
    }
    event(&chunk("{}", "\"stop\""));
    event(
        r#"{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1750000000,"model":"gpt-5-mini-2025-08-07","service_tier":"default","system_fingerprint":null,"choices":[],"usage":{"prompt_tokens":42,"completion_tokens":20,"total_tokens":62,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#,
    );
    event("[DONE]");
    writes.push(b"0\r\n\r\n".to_vec());
    writes
}

async fn answer(
    mut connection: TcpStream,
    plain: &'static [u8],
    stream: &'static [Vec<u8>],
) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer: Vec<u8> = Vec::with_capacity(16 * 1024);
    loop {
        let (end, wants_stream) = loop {
            if let Some(found) = request(&buffer) {
                break found;
            }
            if connection.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..end);
        if wants_stream {
            for write in stream {
                connection.write_all(write).await?;
            }
        } else {
            connection.write_all(plain).await?;
        }
    }
}

/// Where the first request ends, and whether it asks for a stream.
fn request(bytes: &[u8]) -> Option<(usize, bool)> {
    let head_end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = &bytes[..head_end];
    let length = header(head, b"content-length:").and_then(|value| value.parse().ok()).unwrap_or(0_usize);
    let end = head_end + length;
    let body = bytes.get(head_end..end)?;
    Some((end, memchr::memmem::find(body, b"\"stream\":true").is_some()))
}

/// The value of a header whose name is given in lower case with its colon.
pub(crate) fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let line = head
        .split(|byte| *byte == b'\n')
        .find(|line| line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name))?;
    std::str::from_utf8(&line[name.len()..]).ok().map(str::trim)
}
