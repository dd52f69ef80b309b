//! One connection that speaks the server's protocol.
//!
//! Source: Redis, "Redis serialization protocol specification", RESP2.

use contract::{Error, ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::config::Address;
use crate::error;

/// Longest reply that is read.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// Longest line of a reply.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What came back; arrays hold only texts and numbers here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Text(String),
    Nothing,
    List(Vec<String>),
}

pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) async fn open(
        address: &Address,
        user: Option<&str>,
        password: Option<&SecretString>,
    ) -> Result<Self, Error> {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(error::of_io)?;
        stream.set_nodelay(true).map_err(error::of_io)?;
        let mut connection = Self { stream: BufReader::new(stream) };
        if let Some(password) = password {
            let mut login = vec!["AUTH"];
            login.extend(user);
            login.push(password.expose_secret());
            connection.call(&login).await?;
        }
        if address.database != 0 {
            connection.call(&["SELECT", &address.database.to_string()]).await?;
        }
        Ok(connection)
    }

    /// Sends a command and waits for its reply. A connection on which this failed is of no more use.
    pub(crate) async fn call(&mut self, words: &[&str]) -> Result<Reply, Error> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            command.extend_from_slice(word.as_bytes());
            command.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&command).await.map_err(error::of_io)?;
        let line = self.line().await?;
        if let Some(count) = line.strip_prefix('*') {
            let count: usize = count.parse().map_err(|_| error::odd_reply())?;
            let mut list = Vec::new();
            for _ in 0..count.min(REPLY_BYTES_MAX) {
                let line = self.line().await?;
                match self.scalar(&line).await? {
                    Reply::Text(text) => list.push(text),
                    _ => list.push(String::new()),
                }
            }
            return Ok(Reply::List(list));
        }
        self.scalar(&line).await
    }

    async fn scalar(&mut self, line: &str) -> Result<Reply, Error> {
        let (kind, rest) = line.split_at_checked(1).ok_or_else(error::odd_reply)?;
        match kind {
            "+" | ":" => Ok(Reply::Text(rest.to_owned())),
            "-" => Err(error::of_reply(rest)),
            "$" if rest == "-1" => Ok(Reply::Nothing),
            "$" => {
                let length: usize = rest.parse().map_err(|_| error::odd_reply())?;
                if length > REPLY_BYTES_MAX {
                    return Err(Error::new(
                        ErrorKind::LimitExceeded,
                        "a reply of the counters' server is too long",
                    )
                    .with("bytes_max", REPLY_BYTES_MAX));
                }
                let mut bytes = vec![0; length + 2];
                self.stream.read_exact(&mut bytes).await.map_err(error::of_io)?;
                bytes.truncate(length);
                String::from_utf8(bytes).map(Reply::Text).map_err(|_| error::odd_reply())
            }
            _ => Err(error::odd_reply()),
        }
    }

    async fn line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
        if read.map_err(error::of_io)? == 0 {
            return Err(error::of_io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let line = String::from_utf8(line).map_err(|_| error::odd_reply())?;
        line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(error::odd_reply)
    }
}
