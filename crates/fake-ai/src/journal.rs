//! What was received, and how each exchange ended.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use crate::Surface;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The whole reply was written.
    Completed,
    /// The client closed its connection before the reply was complete.
    ClientGone,
    /// The script cut the reply.
    Cut,
}

/// One request as it arrived, and the state of its reply.
#[derive(Debug)]
pub struct Exchange {
    /// Counts requests from 0.
    pub number: usize,
    /// Counts connections from 0: requests with the same number came over the same connection.
    pub connection: usize,
    /// Such as `POST`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What followed `?`, or empty.
    pub query: String,
    /// In the order and spelling in which they came.
    pub headers: Vec<(String, String)>,
    /// The body without its transfer encoding.
    pub body: Vec<u8>,
    /// Which of the surfaces the path belongs to.
    pub surface: Surface,
    ended: watch::Sender<Option<Ended>>,
}

impl Exchange {
    pub(crate) fn new(number: usize, connection: usize, request: crate::http::Request) -> Self {
        let surface = Surface::of(&request.method, &request.path);
        let crate::http::Request { method, path, query, headers, body } = request;
        let ended = watch::Sender::new(None);
        Self { number, connection, method, path, query, headers, body, surface, ended }
    }

    /// The value of the first header of that name, in any spelling.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text, with replacements for what is not UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The provider key that came with the request, in whichever header, or in the query as `key`.
    pub fn key(&self) -> Option<String> {
        let bearer =
            self.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
        let plain = || {
            ["x-api-key", "api-key", "x-goog-api-key"]
                .into_iter()
                .find_map(|name| self.header(name))
                .map(str::to_owned)
        };
        let in_query = || self.query.split('&').find_map(|pair| pair.strip_prefix("key=")).map(str::to_owned);
        bearer.or_else(plain).or_else(in_query)
    }

    /// The model: from the body, or from the path where it stands there.
    pub fn model(&self) -> Option<String> {
        self.surface.model().map(str::to_owned).or_else(|| self.json()["model"].as_str().map(str::to_owned))
    }

    /// Whether the client asked for a stream.
    pub fn is_stream(&self) -> bool {
        matches!(self.surface, Surface::Gemini { stream: true, .. }) || self.json()["stream"] == true
    }

    /// How the exchange has ended, if it has.
    pub fn ended_now(&self) -> Option<Ended> {
        *self.ended.borrow()
    }

    /// Waits for the exchange's end.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| *end);
        end.unwrap_or(Ended::Cut)
    }

    pub(crate) fn end(&self, how: Ended) {
        self.ended.send_replace(Some(how));
    }
}

#[derive(Debug, Default)]
pub(crate) struct Journal {
    exchanges: Mutex<Vec<Arc<Exchange>>>,
    count: watch::Sender<usize>,
}

impl Journal {
    /// Keeps the request that `make` makes with its number.
    pub(crate) fn add(&self, make: impl FnOnce(usize) -> Exchange) -> Arc<Exchange> {
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        let exchange = Arc::new(make(exchanges.len()));
        exchanges.push(Arc::clone(&exchange));
        self.count.send_replace(exchanges.len());
        exchange
    }

    pub(crate) fn all(&self) -> Vec<Arc<Exchange>> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn wait_for(&self, number: usize) -> Arc<Exchange> {
        let mut count = self.count.subscribe();
        // The sender lives as long as `self`.
        drop(count.wait_for(|&count| count > number).await);
        let exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&exchanges[number])
    }
}
