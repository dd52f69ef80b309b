//! The listener: takes requests, looks for their script, writes the reply act by act.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::http::Reader;
use crate::jobs::Jobs;
use crate::journal::Journal;
use crate::reply::{Act, Own};
use crate::{Answer, Ended, Exchange, JobPlan, On, Reply, Surface, embeddings, gemini, messages, models};

#[derive(Debug)]
struct Script {
    on: On,
    /// `None`: for ever.
    times: Option<usize>,
    reply: Reply,
}

#[derive(Debug, Default)]
struct State {
    scripts: Mutex<Vec<Script>>,
    keys: Mutex<Option<HashSet<String>>>,
    journal: Journal,
    jobs: Jobs,
    connections: AtomicUsize,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
}

/// A running server. It ends, with all its connections, when this is dropped.
#[derive(Debug)]
pub struct FakeAi {
    address: SocketAddr,
    state: Arc<State>,
    listening: AbortHandle,
}

impl FakeAi {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// The port cannot be opened.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts on this address.
    ///
    /// # Errors
    ///
    /// The address cannot be opened.
    pub async fn start_on(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        connections.spawn(connection(stream, Arc::clone(&shared)));
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { address, state, listening: listening.abort_handle() })
    }

    /// Such as `http://127.0.0.1:40123`, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The reply to the next request that a model answers. Several calls make a queue.
    pub fn next(&self, reply: Reply) {
        self.script(On::generation(), Some(1), reply);
    }

    /// The reply to the next request that matches.
    pub fn next_on(&self, on: On, reply: Reply) {
        self.script(on, Some(1), reply);
    }

    /// The reply to the next so many requests that match.
    pub fn times(&self, times: usize, on: On, reply: Reply) {
        self.script(on, Some(times), reply);
    }

    /// The reply to every request that matches, where no reply with a count is left for it.
    pub fn always(&self, on: On, reply: Reply) {
        self.script(on, None, reply);
    }

    /// How batches and training go that are made from now on.
    pub fn jobs_go(&self, plan: JobPlan) {
        self.state.jobs.go(plan);
    }

    fn script(&self, on: On, times: Option<usize>, reply: Reply) {
        lock(&self.state.scripts).push(Script { on, times, reply });
    }

    /// Forgets all scripts.
    pub fn forget_scripts(&self) {
        lock(&self.state.scripts).clear();
    }

    /// From now on only these provider keys are let in; others get a 401 that repeats the key, as some servers do.
    pub fn accept_keys<'a>(&self, keys: impl IntoIterator<Item = &'a str>) {
        *lock(&self.state.keys) = Some(keys.into_iter().map(str::to_owned).collect());
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Arc<Exchange>> {
        self.state.journal.all()
    }

    /// The request with this number, from 0, once it has come.
    pub async fn request(&self, number: usize) -> Arc<Exchange> {
        self.state.journal.wait_for(number).await
    }

    /// Most requests that were in work at the same time.
    pub fn in_flight_max(&self) -> usize {
        self.state.in_flight_max.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FakeAi {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// An address on 127.0.0.1 where connections are refused, as long as the process lives: the port is held without being
/// listened at, so that no other server of the tests gets it.
///
/// # Errors
///
/// No port can be opened.
pub fn refused_address() -> io::Result<SocketAddr> {
    static HELD: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = socket.local_addr()?;
    lock(&HELD).push(socket);
    Ok(address)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let number = state.connections.fetch_add(1, Ordering::SeqCst);
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = Reader::new(reader);
    while let Ok(Some(request)) = reader.request(&mut writer).await {
        let exchange = state.journal.add(|count| Exchange::new(count, number, request));
        let in_flight = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        state.in_flight_max.fetch_max(in_flight, Ordering::SeqCst);
        let acts = state.acts(&exchange);
        let ended = {
            let writing = perform(acts, &mut writer);
            tokio::select! {
                ended = writing => ended,
                () = reader.closed() => Ended::ClientGone,
            }
        };
        state.in_flight.fetch_sub(1, Ordering::SeqCst);
        exchange.end(ended);
        let close = exchange.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if ended != Ended::Completed || close {
            break;
        }
    }
    // Dropped, it would close its side in order before a reset could be sent.
    writer.forget();
}

async fn perform(acts: Vec<Act>, writer: &mut OwnedWriteHalf) -> Ended {
    for act in acts {
        match act {
            Act::Send(bytes) => {
                if writer.write_all(&bytes).await.is_err() {
                    return Ended::ClientGone;
                }
                // Small pieces are read one by one only if the reader has its turn between them.
                tokio::task::yield_now().await;
            }
            Act::Pass(gate) => gate.pass().await,
            Act::Hold => std::future::pending().await,
            Act::Reset => {
                // Without the linger the close would be an orderly one.
                return match writer.as_ref().set_zero_linger() {
                    Ok(()) | Err(_) => Ended::Cut,
                };
            }
            Act::Close => return Ended::Cut,
        }
    }
    Ended::Completed
}

impl State {
    fn acts(&self, exchange: &Exchange) -> Vec<Act> {
        let refused = lock(&self.keys)
            .as_ref()
            .is_some_and(|keys| exchange.key().is_none_or(|key| !keys.contains(&key)));
        if refused {
            let told = "Incorrect API key provided: {key}.";
            let refusal = match exchange.surface {
                Surface::Gemini { .. } | Surface::GeminiOther { .. } => {
                    Reply::error(400, "API_KEY_INVALID", "API key not valid: {key}")
                }
                _ => Reply::error(401, "invalid_api_key", told),
            };
            return refusal.acts(exchange, || unreachable!("a refusal has its own body"));
        }
        let reply = self.scripted(exchange).unwrap_or_else(Reply::own);
        reply.acts(exchange, || self.own(exchange))
    }

    fn scripted(&self, exchange: &Exchange) -> Option<Reply> {
        let mut scripts = lock(&self.scripts);
        let counted = scripts.iter().position(|script| script.times.is_some() && script.on.matches(exchange));
        if let Some(at) = counted {
            let script = &mut scripts[at];
            let reply = script.reply.clone();
            script.times = script.times.map(|times| times.saturating_sub(1));
            if script.times == Some(0) {
                scripts.remove(at);
            }
            return Some(reply);
        }
        // The newest rule is the one that a test has just set.
        scripts
            .iter()
            .rev()
            .find(|script| script.times.is_none() && script.on.matches(exchange))
            .map(|script| script.reply.clone())
    }

    fn own(&self, exchange: &Exchange) -> Own {
        let json = |body: Option<serde_json::Value>| {
            let status = if body.is_some() { 200 } else { 404 };
            let body = body.unwrap_or_else(|| {
                crate::reply::error(&exchange.surface, 404, "not_found", "no such thing here", None)
            });
            Own::Content { status, kind: "application/json", bytes: body.to_string().into_bytes() }
        };
        match &exchange.surface {
            surface if surface.is_generation() => Own::Answer(Answer::to(exchange)),
            Surface::Embeddings { .. } => json(Some(embeddings::plain(exchange))),
            Surface::CountTokens => json(Some(messages::count(exchange))),
            Surface::GeminiOther { method, .. } => json(gemini::other(exchange, method)),
            Surface::Models => json(models::answer(exchange)),
            Surface::Jobs => {
                let content = self.jobs.answer(exchange);
                Own::Content { status: content.status, kind: content.kind, bytes: content.bytes }
            }
            _ => json(None),
        }
    }
}
