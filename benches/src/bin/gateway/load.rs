//! The client of every measurement: warm connections, whole answers read and checked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::upstream::header;

/// What is asked, as bytes.
#[derive(Clone)]
pub(crate) struct Ask {
    bytes: Arc<[u8]>,
    /// What a whole answer contains.
    mark: &'static [u8],
}

impl Ask {
    /// A request to `path` with a key and a body of about a kilobyte.
    pub(crate) fn new(path: &str, key: &str, model: &str, stream: bool) -> Self {
        let text = "Tell me in one sentence what a gateway is for. ".repeat(16);
        let messages = format!(r#"[{{"role":"user","content":"{text}"}}]"#);
        let (body, mark): (String, &'static [u8]) = match (path.ends_with("/messages"), stream) {
            (true, true) => (
                format!(r#"{{"model":"{model}","max_tokens":64,"stream":true,"messages":{messages}}}"#),
                b"event: message_stop",
            ),
            (true, false) => {
                (format!(r#"{{"model":"{model}","max_tokens":64,"messages":{messages}}}"#), b"\"end_turn\"")
            }
            (false, true) => (
                format!(
                    r#"{{"model":"{model}","max_tokens":64,"stream":true,"stream_options":{{"include_usage":true}},"messages":{messages}}}"#
                ),
                b"data: [DONE]",
            ),
            (false, false) => (
                format!(r#"{{"model":"{model}","max_tokens":64,"messages":{messages}}}"#),
                b"\"total_tokens\"",
            ),
        };
        let bytes = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self { bytes: bytes.into_bytes().into(), mark }
    }
}

impl Ask {
    /// The same with one more header.
    pub(crate) fn with_header(self, name: &str, value: &str) -> Self {
        let end = memchr::memmem::find(&self.bytes, b"\r\n").unwrap_or_default() + 2;
        let header = format!("{name}: {value}\r\n");
        let bytes = [&self.bytes[..end], header.as_bytes(), &self.bytes[end..]].concat();
        Self { bytes: bytes.into(), mark: self.mark }
    }
}

/// A connection that asks again and again.
pub(crate) struct Line {
    connection: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    pub(crate) async fn open(port: u16) -> io::Result<Self> {
        let connection = TcpStream::connect(("127.0.0.1", port)).await?;
        connection.set_nodelay(true)?;
        Ok(Self { connection, buffer: Vec::with_capacity(32 * 1024) })
    }

    /// Asks once and reads the whole answer: the times until its first byte and until its end.
    pub(crate) async fn ask(&mut self, ask: &Ask) -> io::Result<(Duration, Duration)> {
        let begun = Instant::now();
        self.connection.write_all(&ask.bytes).await?;
        self.buffer.clear();
        let mut first = None;
        loop {
            if self.connection.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            first.get_or_insert_with(|| begun.elapsed());
            if self.is_whole() {
                break;
            }
        }
        let whole = begun.elapsed();
        let good = self.buffer.starts_with(b"HTTP/1.1 200")
            && memchr::memmem::find(&self.buffer, ask.mark).is_some();
        if good {
            Ok((first.unwrap_or(whole), whole))
        } else {
            let told: String = String::from_utf8_lossy(&self.buffer).chars().take(600).collect();
            Err(io::Error::other(format!("not the expected answer: {told}")))
        }
    }

    fn is_whole(&self) -> bool {
        let Some(head_end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") else { return false };
        let head = &self.buffer[..head_end];
        match header(head, b"content-length:").and_then(|value| value.parse::<usize>().ok()) {
            Some(length) => self.buffer.len() >= head_end + 4 + length,
            // The last chunk; no text of ours looks like it.
            None => self.buffer.ends_with(b"\r\n0\r\n\r\n"),
        }
    }
}

/// Asks `count` times over `lines` connections; requests per second.
pub(crate) async fn run(port: u16, ask: &Ask, lines: usize, count: u64) -> io::Result<f64> {
    let left = Arc::new(AtomicU64::new(count));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..lines {
        let (ask, left) = (ask.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let mut line = Line::open(port).await?;
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                line.ask(&ask).await?;
            }
            io::Result::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}
