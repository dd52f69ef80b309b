//! Requests that are forwarded with one attempt: files, batches, training, declared other services.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::ai::FailureClass;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::BodyExt;
use outbound::{Incoming, Outgoing};
use tokio::time::Instant;
use wire::{ErrorClass, Format};

use crate::answer::{Answer, BodyError, Problem, status_for, told_as};
use crate::attempt::{refusal, send};
use crate::balance::Load;
use crate::config::ProviderKind;
use crate::flight::Flight;
use crate::handle::{Gateway, Visit, name_route, refused};
use crate::header;
use crate::job_word::Wanted;
use crate::lookout::Lookout;
use crate::meter::{Ask, Ending, What};
use crate::once::{self, IDEMPOTENCY_KEY};
use crate::pool::Lent;
use crate::raw::RawRelay;
use crate::remote;
use crate::table::{Grant, OpenProvider, PassThrough, Route};

impl Gateway {
    /// Files, batches, training: to the provider that has them.
    #[expect(clippy::too_many_arguments, reason = "a request in its parts")]
    pub(crate) async fn forward<B>(
        &self,
        visit: &Visit,
        grant: &Arc<Grant>,
        format: Format,
        what: What,
        path: &str,
        parts: &Parts,
        body: B,
    ) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let refuse = |class, message: &str| Problem::new(class, message).answer(format, &visit.request_id);
        if !grant.rights.fine_tune {
            return refuse(ErrorClass::Forbidden, "this key may not use files, batches and training");
        }
        let provider = match provider_for(grant, format, &parts.headers) {
            Ok(provider) => provider,
            Err((class, message)) => return refuse(class, &message),
        };
        let name = format!("{}/*", provider.name);
        if !grant.reach.allows(&name) {
            return refuse(
                ErrorClass::Forbidden,
                "this key reaches single models and not the whole provider",
            );
        }
        let Some(wanted) = Wanted::of(&parts.method, path) else {
            return refuse(ErrorClass::NotFound, "there is no such call on files, batches and training here");
        };
        let query = parts.uri.query().unwrap_or_default();
        let (address, fixed) = match remote::address(&provider, what, format, path, query) {
            Ok(address) => address,
            Err(error) => return refuse(ErrorClass::NotFound, error.message()),
        };
        let Some(route) = grant.project.direct(&provider, "") else {
            return refuse(ErrorClass::Unavailable, "the provider cannot be reached");
        };
        let mut headers = HeaderMap::with_capacity(parts.headers.len() + 4);
        header::forward(&parts.headers, &mut headers);
        for (name, value) in fixed {
            headers.entry(name).or_insert(value);
        }
        let outgoing = Outward { grant, route: &route, what, format, address, headers };
        match self.jobs() {
            Some(jobs) => self.on_job(visit, jobs, outgoing, &provider, wanted, parts, body).await,
            None => self.send_on(visit, outgoing, parts, body).await,
        }
    }

    /// An answer that a provider keeps for the project: to the provider that made it.
    pub(crate) async fn kept_response<B>(
        &self,
        visit: &Visit,
        grant: &Arc<Grant>,
        path: &str,
        parts: &Parts,
        body: B,
    ) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let (format, what) = (Format::Responses, What::Responses);
        let refuse = |class, message: &str| Problem::new(class, message).answer(format, &visit.request_id);
        let unknown = || refuse(ErrorClass::NotFound, "this project has no such response");
        if !grant.rights.call {
            return refuse(ErrorClass::Forbidden, "this key may not call models");
        }
        let Some(jobs) = self.jobs() else { return unknown() };
        let id = path.split('/').nth(2).unwrap_or_default();
        let (provider, key) = match jobs.response(&grant.project.name, id).await {
            Ok(Some(known)) => known,
            Ok(None) => return unknown(),
            Err(error) => return refuse(ErrorClass::Unavailable, error.message()),
        };
        // The key that made it, or one that reaches all that the provider has.
        if *key != *grant.id && !grant.reach.allows(&format!("{provider}/*")) {
            return unknown();
        }
        let Some(provider) = grant.project.provider(&provider).cloned() else { return unknown() };
        let query = parts.uri.query().unwrap_or_default();
        let (address, fixed) = match remote::address(&provider, what, format, path, query) {
            Ok(address) => address,
            Err(error) => return refuse(ErrorClass::NotFound, error.message()),
        };
        let Some(route) = grant.project.direct(&provider, "") else {
            return refuse(ErrorClass::Unavailable, "the provider cannot be reached");
        };
        let mut headers = HeaderMap::with_capacity(parts.headers.len() + 4);
        header::forward(&parts.headers, &mut headers);
        for (name, value) in fixed {
            headers.entry(name).or_insert(value);
        }
        let outgoing = Outward { grant, route: &route, what, format, address, headers };
        if parts.method != http::Method::DELETE {
            return self.send_on(visit, outgoing, parts, body).await;
        }
        let (response, value) = self.whole(visit, outgoing, parts, body).await;
        if value.is_some()
            && let Err(error) = jobs.forget(&grant.project.name, &provider.name, id).await
        {
            tracing::warn!(%error, "a deleted response is still remembered");
        }
        response
    }

    /// A declared other service.
    pub(crate) async fn pass_through<B>(
        &self,
        visit: &Visit,
        grant: &Arc<Grant>,
        forwarded: &PassThrough,
        parts: &Parts,
        body: B,
    ) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let refuse =
            |class, message: &str| Problem::new(class, message).answer(Format::Chat, &visit.request_id);
        if !grant.rights.call || !grant.reach.allows(&forwarded.name) {
            return refuse(ErrorClass::Forbidden, "this key does not reach this service");
        }
        let rest = parts.uri.path().strip_prefix(&*forwarded.prefix).unwrap_or_default();
        let leads_out = rest.split('/').any(|part| {
            let part = part.to_ascii_lowercase().replace("%2e", ".");
            part == "." || part == ".."
        });
        if leads_out {
            return refuse(ErrorClass::BadRequest, "the path leads out of the service");
        }
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let address = format!("{}{rest}{query}", forwarded.url);
        let mut headers = HeaderMap::with_capacity(parts.headers.len() + 4);
        header::forward(&parts.headers, &mut headers);
        let (route, what) = (&forwarded.route, What::PassThrough);
        let outgoing = Outward { grant, route, what, format: Format::Chat, address, headers };
        self.send_on(visit, outgoing, parts, body).await
    }

    /// One attempt, since nobody knows whether the request may be repeated; bodies stream in both directions.
    pub(crate) async fn send_on<B>(
        &self,
        visit: &Visit,
        outgoing: Outward<'_>,
        parts: &Parts,
        body: B,
    ) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let (target, route) = (Arc::clone(&outgoing.route.targets[0]), Arc::clone(outgoing.route));
        let idle = Duration::from_millis(route.config.timeouts.idle_ms);
        let is_service = outgoing.what == What::PassThrough;
        let mut response = match self.dispatch(visit, outgoing, parts, body).await {
            Ok(Arrived { head, body, flight, lookout, lent, load }) => {
                let relay = RawRelay::new(body, flight, idle, lookout, lent, load);
                let relay = if is_service { relay.concealing() } else { relay };
                let mut response = Response::new(Answer::raw(relay));
                *response.status_mut() = head.status;
                header::backward(&head.headers, response.headers_mut(), true);
                if header::is_stream(&head.headers) {
                    response.headers_mut().insert(header::ACCEL_BUFFERING, HeaderValue::from_static("no"));
                }
                response
            }
            Err(response) => *response,
        };
        name_route(response.headers_mut(), &route);
        response.headers_mut().insert(header::TARGET, target.shown().clone());
        response
    }

    /// Lets a request in, sends it, and waits for the beginning of its answer; an answer that is no success is told.
    pub(crate) async fn dispatch<B>(
        &self,
        visit: &Visit,
        outgoing: Outward<'_>,
        parts: &Parts,
        body: B,
    ) -> Result<Arrived, Box<Response<Answer>>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let Outward { grant, route, what, format, address, mut headers } = outgoing;
        let refuse =
            |class, message: &str| Box::new(Problem::new(class, message).answer(format, &visit.request_id));
        let length: Option<u64> =
            parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let reservation = match self.admit(grant, &free(visit, what, route)).await {
            Ok(reservation) => reservation,
            Err(refusal) => return Err(Box::new(refused(&refusal, format, &visit.request_id))),
        };
        let Ok(uri) = Uri::try_from(address) else {
            return Err(refuse(ErrorClass::BadRequest, "the path makes no address"));
        };
        let mut flight = Flight::new(visit, what, grant, route, &route.name, false, reservation);
        flight.record().request_bytes = length.unwrap_or(0);
        let target = &route.targets[0];
        let now = Instant::now();
        let (Some(pass), Some(lent)) = (target.breaker.enter(now), target.provider.pool.pick(now)) else {
            // A key that rests for its rate limit is a rate limit for the client too.
            let opens = target.breaker.open_until(now);
            let waits = target.provider.pool.waits(now).filter(|_| opens.is_none());
            let mut problem = match waits {
                Some(_) => Problem::new(ErrorClass::Rate, target.provider.pool.why_none(now)),
                None => Problem::new(ErrorClass::Unavailable, "the provider cannot be asked now"),
            };
            problem.retry_after =
                opens.or(waits.map(|(at, _)| at)).map(|at| at.saturating_duration_since(now));
            let response = problem.answer(format, &visit.request_id);
            flight.committed(response.status().as_u16(), now);
            flight.end(Ending::Failed);
            return Err(Box::new(response));
        };
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        visit.trace(&target.provider, 0, &parts.headers, &mut headers);
        if let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) {
            let to: [&[u8]; 2] = [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes()];
            headers.insert(IDEMPOTENCY_KEY, once::for_provider(&grant.id, key, &to));
        }
        let is_empty = body.is_end_stream();
        let lookout = || Lookout::new(&self.detector, &self.notices, grant, &route.name, visit.id);
        let mut request = Request::new(if is_empty {
            Outgoing::whole(Bytes::new())
        } else {
            let lookout = is_text(&parts.headers).then(|| lookout().of_request());
            Outgoing::Forwarded(Passing { body: body.map_err(Into::into), length, lookout }.boxed_unsync())
        });
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let load = Load::on(target);
        flight.begin(target, lent.name(), now);
        let timeouts = &route.config.timeouts;
        let within = now + Duration::from_millis(timeouts.headers_ms.min(timeouts.total_ms));
        match send(target, &lent, request, within).await {
            Err((class, message, may_cost)) => {
                pass.failed(Instant::now(), None);
                flight.answered(None, Some((class, &message)), may_cost, Instant::now());
                let mut problem = Problem::new(told_as(class), &message);
                problem.status = status_for(class);
                let response = problem.answer(format, &visit.request_id);
                flight.committed(response.status().as_u16(), Instant::now());
                flight.end(Ending::Failed);
                Err(Box::new(response))
            }
            Ok(response) if response.status().is_success() || response.status().is_redirection() => {
                pass.succeeded();
                lent.worked();
                let (head, body) = response.into_parts();
                flight.answered(Some(head.status.as_u16()), None, true, Instant::now());
                flight.committed(head.status.as_u16(), Instant::now());
                let lookout = is_text(&head.headers).then(lookout);
                Ok(Arrived { head, body, flight, lookout, lent, load })
            }
            Ok(response) => {
                let (head, mut body): (_, Incoming) = response.into_parts();
                let (bytes, failure) = refusal(&target.provider, &lent, &head, &mut body, visit.now).await;
                let now = Instant::now();
                lent.failed(now, &failure);
                match failure.class {
                    FailureClass::Server | FailureClass::Overloaded | FailureClass::Timeout => {
                        pass.failed(now, failure.retry_after);
                    }
                    FailureClass::BadRequest | FailureClass::NotFound => pass.succeeded(),
                    _ => drop(pass),
                }
                let status = head.status.as_u16();
                flight.answered(Some(status), Some((failure.class, &failure.message)), false, now);
                flight.committed(status, now);
                flight.end(Ending::Failed);
                let mut response = Response::new(Answer::whole(bytes));
                *response.status_mut() = head.status;
                header::backward(&head.headers, response.headers_mut(), true);
                Err(Box::new(response))
            }
        }
    }
}

/// A request on its way to a provider.
pub(crate) struct Outward<'a> {
    pub(crate) grant: &'a Arc<Grant>,
    pub(crate) route: &'a Arc<Route>,
    pub(crate) what: What,
    /// In whose words errors are told.
    pub(crate) format: Format,
    pub(crate) address: String,
    pub(crate) headers: HeaderMap,
}

/// A success whose body is still to come.
pub(crate) struct Arrived {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Incoming,
    pub(crate) flight: Box<Flight>,
    /// Looks for keys in the answer.
    pub(crate) lookout: Option<Lookout>,
    pub(crate) lent: Lent,
    pub(crate) load: Load,
}

/// An ask for what costs nothing by itself.
pub(crate) fn free<'a>(visit: &Visit, what: What, route: &'a Arc<Route>) -> Ask<'a> {
    Ask {
        request: visit.id,
        what,
        route,
        input_tokens_bound: 0,
        input_tokens_estimate: 0,
        max_tokens: Some(0),
        choices: 1,
        service_tier: None,
        charged: None,
        now: visit.now,
    }
}

/// The provider that the client names, or the only one that can be meant.
fn provider_for(
    grant: &Grant,
    format: Format,
    headers: &HeaderMap,
) -> Result<Arc<OpenProvider>, (ErrorClass, String)> {
    if let Some(named) = headers.get(header::PROVIDER) {
        let named = named.to_str().unwrap_or_default();
        return grant
            .project
            .provider(named)
            .cloned()
            .ok_or_else(|| (ErrorClass::NotFound, "there is no provider of this name".to_owned()));
    }
    let speaks = |provider: &&Arc<OpenProvider>| match format {
        Format::Messages => provider.kind == ProviderKind::Anthropic,
        _ => matches!(provider.kind, ProviderKind::Openai | ProviderKind::AzureOpenai),
    };
    let mut fitting = grant.project.providers().filter(speaks);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(Arc::clone(one)),
        (None, _) => Err((ErrorClass::NotFound, "no provider of this project has such calls".to_owned())),
        (Some(_), Some(_)) => Err((
            ErrorClass::BadRequest,
            "several providers have such calls: name one in the header `steward-provider`".to_owned(),
        )),
    }
}

/// Whether a body is text, in which keys can be found. Forms are, since files for training and batches come in them.
fn is_text(headers: &HeaderMap) -> bool {
    let coded = headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    !coded
        && (kind.starts_with("text/")
            || kind.starts_with("multipart/")
            || ["json", "xml", "yaml", "x-ndjson", "jsonl", "x-www-form-urlencoded"]
                .iter()
                .any(|text| kind.rsplit(['/', '+']).next() == Some(*text)))
}

/// A body on its way to the provider. Its length is known from its header, so that it is not sent in chunks.
struct Passing<B> {
    body: B,
    length: Option<u64>,
    lookout: Option<Lookout>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Passing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, B::Error>>> {
        let polled = std::pin::Pin::new(&mut self.body).poll_frame(cx);
        if let (std::task::Poll::Ready(Some(Ok(frame))), Some(lookout)) = (&polled, &mut self.lookout)
            && let Some(bytes) = frame.data_ref()
        {
            lookout.piece(bytes);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.length.map_or_else(|| self.body.size_hint(), http_body::SizeHint::with_exact)
    }
}
