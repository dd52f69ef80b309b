//! One small real call to a provider: the canary of a rotation, the probe of a key that is out of service, `ai test`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::Context;
use contract::ai::{Call, Failure, FailureClass, Operation, Rejection};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Uri};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use outbound::{Outgoing, Upstream};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;
use wire::Format;

use crate::rotate::{Canary, CanaryAnswer};
use crate::table::{OpenProvider, PassThrough, Project, Ready};

/// Longest wait for the whole answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Tokens that the answer may have: enough for servers that want a least number.
const TOKENS: u64 = 16;

/// Whom to call, and how.
pub struct Probe<'a> {
    /// The provider.
    pub provider: &'a OpenProvider,
    /// The way there.
    pub upstream: &'a Upstream,
    /// A model to call; without one the list of models is asked for, which costs nothing and needs the key as well.
    pub model: Option<&'a str>,
    /// The key; `None` for a server that asks for none.
    pub key: Option<&'a SecretString>,
}

/// Makes the call.
///
/// A model that refuses the question but not the key is asked no further: the list of models decides then.
///
/// # Errors
///
/// What the provider, or the way to it, answered.
pub async fn probe(probe: &Probe<'_>, now: Timestamp) -> Result<CanaryAnswer, Failure> {
    let Some(model) = probe.model else { return models(probe, now).await };
    let format = probe.provider.formats.first().copied().unwrap_or(Format::Chat);
    let operation = Operation::Generate { format, streaming: false };
    let ready = probe.provider.ready(&Call { operation, model }).map_err(|error| wrong(&error))?;
    match send(probe, ready, Some(question(format, model)), now).await {
        Ok((status, elapsed)) => {
            Ok(CanaryAnswer { what: format!("{}/{model}", probe.provider.name), status, elapsed })
        }
        // An embedding model, or one that takes none of these words.
        Err(failure) if matches!(failure.class, FailureClass::BadRequest | FailureClass::NotFound) => {
            models(probe, now).await
        }
        Err(failure) => Err(failure),
    }
}

async fn models(probe: &Probe<'_>, now: Timestamp) -> Result<CanaryAnswer, Failure> {
    let ready = probe
        .provider
        .ready(&Call { operation: Operation::Models, model: "" })
        .map_err(|error| wrong(&error))?;
    let (status, elapsed) = send(probe, ready, None, now).await?;
    Ok(CanaryAnswer { what: format!("{}: list of models", probe.provider.name), status, elapsed })
}

/// The call that a declared service names for this.
async fn of_service(
    service: &PassThrough,
    key: &SecretString,
    now: Timestamp,
) -> Result<CanaryAnswer, Failure> {
    let canary = service.canary.as_ref().ok_or_else(|| {
        Failure::new(
            FailureClass::BadRequest,
            "the service has no `canary`, a call that shows whether a key works",
        )
    })?;
    let uri = Uri::try_from(format!("{}{}", service.url, canary.path))
        .map_err(|_| Failure::new(FailureClass::BadRequest, "the canary's path makes no address"))?;
    let method = if canary.body.is_some() { Method::POST } else { Method::GET };
    let what = format!("{}: {method} {}", service.name, canary.path);
    let target = &service.route.targets[0];
    let call = Probe { provider: &target.provider, upstream: &target.upstream, model: None, key: Some(key) };
    let ready = Ready { method, uri, headers: HeaderMap::new() };
    let (status, elapsed) = send(&call, ready, canary.body.clone(), now).await?;
    Ok(CanaryAnswer { what, status, elapsed })
}

fn wrong(error: &contract::Error) -> Failure {
    Failure::new(FailureClass::BadRequest, error.message())
}

/// The smallest question in a format.
fn question(format: Format, model: &str) -> Value {
    match format {
        Format::Chat => json!({
            "model": model, "max_completion_tokens": TOKENS, "messages": [{ "role": "user", "content": "Say: ok" }],
        }),
        Format::Responses => {
            json!({ "model": model, "max_output_tokens": TOKENS, "store": false, "input": "Say: ok" })
        }
        Format::Messages => json!({
            "model": model, "max_tokens": TOKENS, "messages": [{ "role": "user", "content": "Say: ok" }],
        }),
        Format::Gemini => json!({
            "contents": [{ "role": "user", "parts": [{ "text": "Say: ok" }] }],
            "generationConfig": { "maxOutputTokens": TOKENS },
        }),
    }
}

async fn send(
    probe: &Probe<'_>,
    ready: Ready,
    body: Option<Value>,
    now: Timestamp,
) -> Result<(u16, Duration), Failure> {
    let mut request = http::Request::new(Outgoing::whole(Bytes::from(
        body.map_or_else(Vec::new, |body| body.to_string().into_bytes()),
    )));
    *request.method_mut() = ready.method;
    *request.uri_mut() = ready.uri;
    *request.headers_mut() = ready.headers;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = probe.key {
        let (name, value) = probe
            .provider
            .adapter
            .authorize(key)
            .map_err(|error| Failure::new(FailureClass::Key, error.message()))?;
        request.headers_mut().insert(name, value);
    }
    let began = Instant::now();
    let answered = tokio::time::timeout(TIMEOUT, async {
        let response = probe.upstream.send(request).await.map_err(|error| {
            let class = if error.timed_out { FailureClass::Timeout } else { FailureClass::Network };
            Failure::new(class, &error.to_string())
        })?;
        let (head, body) = response.into_parts();
        let bytes = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let bytes = bytes
            .map_err(|_| Failure::new(FailureClass::Truncated, "the answer broke off or is too large"))?
            .to_bytes();
        Ok((head, bytes))
    });
    let (head, bytes) = match answered.await {
        Ok(answered) => answered?,
        Err(_) => return Err(Failure::new(FailureClass::Timeout, "the provider took too long")),
    };
    if head.status.is_success() {
        return Ok((head.status.as_u16(), began.elapsed()));
    }
    // Servers echo keys; what is kept and shown must not hold it.
    let body = scrubbed(&bytes, probe.key);
    let rejection = Rejection { status: head.status, headers: &head.headers, body: &body, now };
    Err(probe.provider.adapter.classify(&rejection))
}

fn scrubbed(bytes: &[u8], key: Option<&SecretString>) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    match key {
        Some(key) if !key.expose_secret().is_empty() => {
            text.replace(key.expose_secret(), "[redacted]").into_bytes()
        }
        _ => text.into_owned().into_bytes(),
    }
}

/// Canary calls through a compiled project: of a provider's first target in the routes, or its list of models; of a
/// declared service the call that it names.
pub struct ProjectCanary(pub Arc<Project>);

#[async_trait]
impl Canary for ProjectCanary {
    async fn call(&self, ctx: &Context, provider: &str, key: &SecretString) -> Result<CanaryAnswer, Failure> {
        let project = &self.0;
        let gone =
            || Failure::new(FailureClass::NotFound, "the provider is not in the project file any more");
        if project.provider(provider).is_none()
            && let Some(service) = project.pass_through().iter().find(|service| *service.name == *provider)
        {
            return of_service(service, key, ctx.now()).await;
        }
        let provider = project.provider(provider).ok_or_else(gone)?;
        let targets = || project.routes().flat_map(|route| &route.targets);
        let target = targets().find(|target| *target.provider.name == *provider.name);
        let upstream = match target {
            Some(target) => Some(&target.upstream),
            None => project.upstream_of(provider),
        };
        let call = Probe {
            provider,
            upstream: upstream.ok_or_else(gone)?,
            model: target.map(|target| &*target.model),
            key: Some(key),
        };
        probe(&call, ctx.now()).await
    }
}
