//! A server that speaks as S3 does and fails when it is told to. It checks no signature: the real one does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Of the object, without the bucket; empty for the bucket.
    pub(super) key: String,
    pub(super) query: String,
    pub(super) token: Option<String>,
}

impl Asked {
    /// Such as `data`.
    pub(super) fn folder(&self) -> &str {
        let of = if self.key.is_empty() {
            self.query.rsplit("stream%2F").next()
        } else {
            self.key.split("/stream/").nth(1)
        };
        of.unwrap_or_default().split(['/', '%', '&']).next().unwrap_or_default()
    }
}

/// What the server does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Do {
    Serve,
    /// Refuses with this status and code; nothing is done.
    Refuse(u16, &'static str),
    /// Breaks the connection before anything is done.
    Reset,
    /// Does it, and breaks the connection without an answer.
    LoseAnswer,
    /// Announces the whole answer and gives half of it.
    Truncate,
    /// Answers with other bytes.
    Change,
    /// Lists what was there when this was first asked for.
    Stale,
    /// Never answers, until the server ends.
    Hang,
    /// Answers as if it was done.
    Forget,
    /// Lists all but what has this in its key.
    Hide(&'static str),
}

type Judge = Box<dyn FnMut(&Asked) -> Do + Send>;

struct State {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, (String, BTreeMap<u32, Bytes>)>,
    stale: Option<BTreeMap<String, Bytes>>,
    judge: Judge,
    page: usize,
    ended: bool,
}

/// The server; it ends with the handle.
pub(super) struct FakeS3 {
    pub(super) url: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl FakeS3 {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            stale: None,
            judge: Box::new(|_| Do::Serve),
            page: 1_000,
            ended: false,
        };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.0.lock().unwrap().ended {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || stream.map(|stream| serve(stream, &shared)));
            }
        });
        Self { url, state }
    }

    pub(super) fn judge(&self, judge: impl FnMut(&Asked) -> Do + Send + 'static) {
        let mut state = self.state.0.lock().unwrap();
        state.judge = Box::new(judge);
        state.stale = None;
    }

    pub(super) fn calm(&self) {
        self.judge(|_| Do::Serve);
    }

    pub(super) fn pages_of(&self, objects: usize) {
        self.state.0.lock().unwrap().page = objects;
    }

    pub(super) fn uploads(&self) -> usize {
        self.state.0.lock().unwrap().uploads.len()
    }
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        self.state.0.lock().unwrap().ended = true;
        self.state.1.notify_all();
        // Wakes the thread that waits for connections.
        TcpStream::connect(self.url.trim_start_matches("http://")).ok();
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into() }
}

fn error(status: u16, code: &str) -> Answer {
    answer(status, format!("<Error><Code>{code}</Code><Message>told to</Message></Error>"))
}

fn serve(stream: TcpStream, shared: &(Mutex<State>, Condvar)) {
    // Head and body are written one after the other: the second must not wait until the first has been acknowledged.
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((asked, headers, body)) = request(&mut reader) {
        let what = {
            let mut state = shared.0.lock().unwrap();
            (state.judge)(&asked)
        };
        let mut answer = match &what {
            Do::Refuse(status, code) => error(*status, code),
            Do::Reset => {
                writer.shutdown(Shutdown::Both).ok();
                return;
            }
            Do::Hang => {
                let state = shared.0.lock().unwrap();
                drop(shared.1.wait_while(state, |state| !state.ended).unwrap());
                return;
            }
            Do::Forget if asked.method != "GET" => answer(200, ""),
            Do::Hide(part) => {
                let mut state = shared.0.lock().unwrap();
                let all = state.objects.clone();
                state.objects.retain(|key, _| !key.contains(part));
                let answer = state.answer(&asked, &headers, body, false);
                state.objects = all;
                answer
            }
            _ => {
                let mut state = shared.0.lock().unwrap();
                if what == Do::Stale && state.stale.is_none() {
                    state.stale = Some(state.objects.clone());
                }
                state.answer(&asked, &headers, body, what == Do::Stale)
            }
        };
        if what == Do::LoseAnswer {
            writer.shutdown(Shutdown::Both).ok();
            return;
        }
        let length = answer.body.len();
        if what == Do::Change && length > 0 {
            let mut bytes = answer.body.to_vec();
            bytes[length / 2] ^= 0x40;
            answer.body = bytes.into();
        }
        let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let announced = if asked.method == "HEAD" { 0 } else { length };
        head.push_str(&format!("content-length: {announced}\r\n\r\n"));
        let sent = if what == Do::Truncate { &answer.body[..length / 2] } else { &answer.body[..] };
        let sent = if asked.method == "HEAD" { &[][..] } else { sent };
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(sent)).is_err() {
            return;
        }
        if what == Do::Truncate {
            writer.shutdown(Shutdown::Both).ok();
            return;
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<(Asked, BTreeMap<String, String>, Bytes)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (_, key) = path[1..].split_once('/').unwrap_or((path, ""));
    let asked = Asked {
        method,
        key: key.to_owned(),
        query: query.to_owned(),
        token: headers.get("x-amz-security-token").cloned(),
    };
    Some((asked, headers, body.into()))
}

impl State {
    fn answer(
        &mut self,
        asked: &Asked,
        headers: &BTreeMap<String, String>,
        body: Bytes,
        stale: bool,
    ) -> Answer {
        let parameter = |name: &str| {
            asked
                .query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
                .map(|it| it.replace("%2F", "/"))
        };
        match (asked.method.as_str(), asked.key.as_str()) {
            ("GET", "") if asked.query.contains("list-type=2") => {
                let objects = if stale { self.stale.as_ref().unwrap() } else { &self.objects };
                let (prefix, after) =
                    (parameter("prefix").unwrap(), parameter("continuation-token").unwrap_or_default());
                let mut found = objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
                let mut list = String::from("<ListBucketResult>");
                let mut end = "";
                for (key, bytes) in found.by_ref().take(self.page) {
                    list.push_str(&format!(
                        "<Contents><Key>{key}</Key><LastModified>2026-03-04T02:00:00.000Z</LastModified><Size>{}</Size></Contents>",
                        bytes.len()
                    ));
                    end = key;
                }
                let more = found.next().is_some();
                list.push_str(&format!("<IsTruncated>{more}</IsTruncated>"));
                if more {
                    list.push_str(&format!("<NextContinuationToken>{end}</NextContinuationToken>"));
                }
                answer(200, list + "</ListBucketResult>")
            }
            ("GET", "") if asked.query.starts_with("prefix") => {
                let uploads: String = self.uploads.iter().map(|(id, (key, _))| {
                    format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>2026-03-04T02:00:00.000Z</Initiated></Upload>")
                }).collect();
                answer(
                    200,
                    format!(
                        "<ListMultipartUploadsResult>{uploads}<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
                    ),
                )
            }
            ("GET", "") => error(404, "ObjectLockConfigurationNotFoundError"),
            ("GET", key) => {
                let Some(bytes) = self.objects.get(key) else { return error(404, "NoSuchKey") };
                let Some(range) = headers.get("range") else { return answer(200, bytes.clone()) };
                let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
                if start >= bytes.len() {
                    return error(416, "InvalidRange");
                }
                answer(206, bytes.slice(start..bytes.len().min(end + 1)))
            }
            ("POST", key) if asked.query == "uploads=" => {
                let id = format!("upload-{}", self.uploads.len());
                self.uploads.insert(id.clone(), (key.to_owned(), BTreeMap::new()));
                answer(
                    200,
                    format!(
                        "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                    ),
                )
            }
            ("POST", key) => {
                let Some((_, parts)) = self.uploads.remove(&parameter("uploadId").unwrap()) else {
                    return error(404, "NoSuchUpload");
                };
                let whole: Vec<u8> = parts.values().flatten().copied().collect();
                self.objects.insert(key.to_owned(), whole.into());
                answer(200, "<CompleteMultipartUploadResult/>")
            }
            ("PUT", _) if asked.query.contains("partNumber") => {
                let number = parameter("partNumber").unwrap().parse().unwrap();
                let Some((_, parts)) = self.uploads.get_mut(&parameter("uploadId").unwrap()) else {
                    return error(404, "NoSuchUpload");
                };
                parts.insert(number, body);
                Answer { headers: vec![("etag", format!("\"{number}\""))], ..answer(200, "") }
            }
            ("PUT", key) => {
                if headers.contains_key("if-none-match") && self.objects.contains_key(key) {
                    return error(412, "PreconditionFailed");
                }
                self.objects.insert(key.to_owned(), body);
                answer(200, "")
            }
            ("DELETE", key) => {
                match parameter("uploadId") {
                    Some(id) => drop(self.uploads.remove(&id)),
                    None => drop(self.objects.remove(key)),
                }
                answer(204, "")
            }
            _ => error(501, "NotImplemented"),
        }
    }
}
