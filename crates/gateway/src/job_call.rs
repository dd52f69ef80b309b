//! Files, batches and training as clients ask for them: each project sees its own, and what a job may cost is held
//! before it is made.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::Empty;
use serde_json::Value;
use tokio::time::Instant;
use wire::ErrorClass;

use crate::answer::{Answer, BodyError, Problem, status_for, told_as};
use crate::attempt::read;
use crate::flight::Flight;
use crate::forward::{Arrived, Outward, free};
use crate::handle::{Gateway, Visit, name_route, receive, refused};
use crate::header;
use crate::job::{Created, Creation, Jobs};
use crate::job_word::{Kind, Wanted};
use crate::lookout::Lookout;
use crate::meter::{Ending, RequestId, Reservation};
use crate::once::{self, IDEMPOTENCY_KEY, Turn};
use crate::remote::OBJECT_BYTES_MAX;
use crate::table::OpenProvider;

/// How long a description may take after its headers.
const OBJECT_WITHIN: Duration = Duration::from_mins(1);
/// Pages of a list that are looked through for something that belongs to the project.
const PAGES_MAX: usize = 20;

impl Gateway {
    /// Answers a call on files, batches or training.
    #[expect(clippy::too_many_arguments, reason = "a request in its parts")]
    pub(crate) async fn on_job<B>(
        &self,
        visit: &Visit,
        jobs: &Jobs,
        outgoing: Outward<'_>,
        provider: &Arc<OpenProvider>,
        wanted: Wanted<'_>,
        parts: &Parts,
        body: B,
    ) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let format = outgoing.format;
        let project = &outgoing.grant.project;
        let refuse = |class, message: &str| Problem::new(class, message).answer(format, &visit.request_id);
        if let Some(id) = wanted.id() {
            match jobs.owns(&project.name, &provider.name, &[id]).await {
                Ok(true) => {}
                Ok(false) => {
                    return refuse(
                        ErrorClass::NotFound,
                        "this project has no such file or job at this provider",
                    );
                }
                Err(error) => return refuse(ErrorClass::Unavailable, error.message()),
            }
        }
        match wanted {
            Wanted::Create(kind) => self.create(visit, jobs, outgoing, provider, kind, parts, body).await,
            // Large, and nothing in them is needed.
            Wanted::Content(_) | Wanted::Below(..) => self.send_on(visit, outgoing, parts, body).await,
            Wanted::List(kind) => self.list(visit, jobs, outgoing, provider, kind, parts).await,
            Wanted::Delete(id) | Wanted::Forget(_, id) => {
                match jobs.is_awaited(project, provider, &wanted, id).await {
                    Ok(false) => {}
                    Ok(true) => {
                        let mut problem = Problem::new(
                            ErrorClass::BadRequest,
                            "a batch has ended whose answers are still being counted; try again in a moment",
                        );
                        problem.status = StatusCode::CONFLICT;
                        return problem.answer(format, &visit.request_id);
                    }
                    Err(error) => return refuse(ErrorClass::Unavailable, error.message()),
                }
                let name = Arc::clone(&project.name);
                let (response, value) = self.whole(visit, outgoing, parts, body).await;
                if value.is_some()
                    && let Err(error) = jobs.forget(&name, &provider.name, id).await
                {
                    tracing::warn!(%error, "a deleted file is still remembered");
                }
                response
            }
            Wanted::New(_) | Wanted::OfUpload(_) | Wanted::File(_) | Wanted::Job(..) => {
                let grant = Arc::clone(outgoing.grant);
                let (response, value) = self.whole(visit, outgoing, parts, body).await;
                let Some(value) = value else { return response };
                let ids = |id: &Value| id.as_str().map(str::to_owned);
                let (kind, made) = match wanted {
                    Wanted::New(kind) => (kind, ids(&value["id"])),
                    // The end of an upload makes a file.
                    Wanted::OfUpload(_) => ("file", ids(&value["file"]["id"])),
                    Wanted::Job(kind, _) => {
                        jobs.saw(&grant, provider, kind, &value).await;
                        return response;
                    }
                    _ => return response,
                };
                let made: Vec<&str> = made.iter().map(String::as_str).collect();
                match jobs.remember(&grant, &provider.name, kind, &made).await {
                    Ok(()) => response,
                    // The client could not use what we do not know to be its own.
                    Err(error) => refuse(ErrorClass::Unavailable, error.message()),
                }
            }
        }
    }

    /// Sends a request on whose answer is a description; gives the answer, and what it describes if it is a success.
    pub(crate) async fn whole<B>(
        &self,
        visit: &Visit,
        outgoing: Outward<'_>,
        parts: &Parts,
        body: B,
    ) -> (Response<Answer>, Option<Value>)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let (format, route) = (outgoing.format, Arc::clone(outgoing.route));
        let named = |mut response: Response<Answer>| {
            name_route(response.headers_mut(), &route);
            response.headers_mut().insert(header::TARGET, route.targets[0].shown().clone());
            response
        };
        let Arrived { head, mut body, mut flight, lookout, lent, load } =
            match self.dispatch(visit, outgoing, parts, body).await {
                Ok(arrived) => arrived,
                Err(response) => return (named(*response), None),
            };
        let reading = tokio::time::timeout(OBJECT_WITHIN, read(&mut body, OBJECT_BYTES_MAX)).await;
        drop((lent, load));
        if let (Some(mut lookout), Ok(Ok(bytes))) = (lookout, &reading) {
            lookout.whole(bytes);
        }
        let Ok(Ok(bytes)) = reading else {
            let problem = Problem::new(ErrorClass::Truncated, "the provider's answer broke off");
            let response = problem.answer(format, &visit.request_id);
            flight.failed_later(contract::ai::FailureClass::Truncated, "the answer broke off");
            flight.committed(response.status().as_u16(), Instant::now());
            flight.end(Ending::Truncated);
            return (named(response), None);
        };
        flight.record().response_bytes = bytes.len() as u64;
        flight.end(Ending::Complete);
        let value = head.status.is_success().then(|| serde_json::from_slice(&bytes).unwrap_or(Value::Null));
        let mut response = Response::new(Answer::whole(bytes));
        *response.status_mut() = head.status;
        header::backward(&head.headers, response.headers_mut(), true);
        (named(response), value)
    }

    /// A list without what belongs to others. A page on which nothing belongs to the project is passed over, since clients
    /// take an empty page for the last one.
    async fn list(
        &self,
        visit: &Visit,
        jobs: &Jobs,
        outgoing: Outward<'_>,
        provider: &Arc<OpenProvider>,
        kind: &'static str,
        parts: &Parts,
    ) -> Response<Answer> {
        let Outward { grant, route, what, format, headers, .. } = outgoing;
        let (grant, first) = (Arc::clone(grant), visit);
        let path = match Kind::parse(kind) {
            Some(kind) => kind.folder(),
            None => "/files",
        };
        let query = parts.uri.query().unwrap_or_default();
        let mut after: Option<String> = None;
        for page in 0..PAGES_MAX {
            // Each call to the provider has a row of usage with an id of its own; the receipt is the first one's.
            let id = if page == 0 { visit.id } else { RequestId::new(visit.now) };
            let visit = &Visit { id, ..visit.clone() };
            let query = match &after {
                Some(after) => with_after(query, format, after),
                None => query.to_owned(),
            };
            let address = match crate::remote::address(provider, what, format, path, &query) {
                Ok((address, _)) => address,
                Err(error) => {
                    return Problem::new(ErrorClass::NotFound, error.message())
                        .answer(format, &visit.request_id);
                }
            };
            let page = Outward { grant: &grant, route, what, format, address, headers: headers.clone() };
            let (response, value) = self.whole(visit, page, parts, Empty::<Bytes>::new()).await;
            first.recorded.copy(&visit.recorded);
            let Some(mut value) = value else { return response };
            let Some(data) = value["data"].as_array_mut() else { return response };
            let ids: Vec<String> =
                data.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
            let owned = match jobs.owned(&grant.project.name, &provider.name, &ids).await {
                Ok(owned) => owned,
                Err(error) => {
                    return Problem::new(ErrorClass::Unavailable, error.message())
                        .answer(format, &visit.request_id);
                }
            };
            data.retain(|one| one["id"].as_str().is_some_and(|id| owned.contains(id)));
            let first = data.first().map(|one| one["id"].clone());
            let last = data.last().map(|one| one["id"].clone());
            let more = value["has_more"].as_bool().unwrap_or(false);
            if first.is_none() && more && ids.last() != after.as_ref() {
                after = ids.last().cloned();
                continue;
            }
            for (name, id) in [("first_id", first), ("last_id", last)] {
                if value.get(name).is_some() {
                    value[name] = id.unwrap_or(Value::Null);
                }
            }
            let (mut head, _) = response.into_parts();
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Response::from_parts(head, Answer::whole(value.to_string()));
        }
        Problem::new(ErrorClass::NotFound, "nothing of this project is on the pages that were looked through")
            .answer(format, &visit.request_id)
    }

    /// A job is let in, made and answered; what it costs is recorded when it ends.
    #[expect(clippy::too_many_arguments, reason = "a request in its parts")]
    async fn create<B>(
        &self,
        visit: &Visit,
        jobs: &Jobs,
        outgoing: Outward<'_>,
        provider: &Arc<OpenProvider>,
        kind: Kind,
        parts: &Parts,
        body: B,
    ) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + std::fmt::Display,
    {
        let (grant, format) = (outgoing.grant, outgoing.format);
        let body = match receive(&parts.headers, body, grant.project.body_bytes_max).await {
            Ok(body) => body,
            Err(problem) => return problem.answer(format, &visit.request_id),
        };
        let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) else {
            return self.make(visit, jobs, outgoing, provider, kind, parts, body, None).await;
        };
        let mut outgoing = outgoing;
        let shown = once::for_provider(&grant.id, key, &[kind.as_str().as_bytes(), &body]);
        outgoing.headers.insert(IDEMPOTENCY_KEY, shown);
        match self.once.turn(visit, &grant.id, format, (&parts.uri, key), &body).await {
            Ok(turn) => self.make(visit, jobs, outgoing, provider, kind, parts, body, Some(turn)).await,
            Err(response) => *response,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a request in its parts")]
    async fn make(
        &self,
        visit: &Visit,
        jobs: &Jobs,
        outgoing: Outward<'_>,
        provider: &Arc<OpenProvider>,
        kind: Kind,
        parts: &Parts,
        body: Bytes,
        turn: Option<Turn>,
    ) -> Response<Answer> {
        let Outward { grant, route, what, format, headers, .. } = outgoing;
        let reservation = match self.admit(grant, &free(visit, what, route)).await {
            Ok(reservation) => reservation,
            Err(refusal) => return refused(&refusal, format, &visit.request_id),
        };
        Lookout::new(&self.detector, &self.notices, grant, &route.name, visit.id).of_request().whole(&body);
        let bytes = body.len() as u64;
        let (id, routed) = (visit.id, Arc::clone(route));
        // With the turn: who asks again while the job is being made, though its client has left, waits for this answer.
        let answer = move |status, headers: &HeaderMap, bytes| {
            let mut response = Response::new(Answer::whole(bytes));
            *response.status_mut() = status;
            header::backward(headers, response.headers_mut(), true);
            name_route(response.headers_mut(), &routed);
            response.headers_mut().insert(header::TARGET, routed.targets[0].shown().clone());
            match turn {
                Some(turn) => turn.record(format, response, id),
                None => response,
            }
        };
        let creation = Creation {
            kind,
            request: visit.id,
            grant: Arc::clone(grant),
            provider: Arc::clone(provider),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers,
            body,
            now: visit.now,
            reservation,
            answer: Box::new(answer),
        };
        let Some(created) = jobs.create(creation).await else {
            return Problem::new(ErrorClass::Server, "the job could not be made")
                .answer(format, &visit.request_id);
        };
        let end = |response: &Response<Answer>, reservation: Reservation, called: Option<(_, &str)>| {
            let mut flight = Flight::new(visit, what, grant, route, &route.name, false, reservation);
            flight.record().request_bytes = bytes;
            let now = Instant::now();
            if let Some((class, message)) = called {
                flight.begin(&route.targets[0], &Arc::from(""), now);
                let status = response.status().as_u16();
                flight.answered(Some(status), Some((class, message)), false, now);
            }
            flight.committed(response.status().as_u16(), now);
            flight.end(Ending::Failed);
        };
        let mut response = match created {
            Created::Made(response) => {
                visit.recorded.set(); // The job's own row stands for the request.
                return response;
            }
            Created::Refused(refusal, reservation) => {
                let response = refused(&refusal, format, &visit.request_id);
                end(&response, reservation, None);
                response
            }
            Created::Wrong(wrong, reservation) => {
                let mut problem = Problem::new(ErrorClass::BadRequest, &wrong.message);
                if wrong.is_price {
                    (problem.class, problem.status) = (ErrorClass::Quota, StatusCode::PAYMENT_REQUIRED);
                    problem.code = Some("price_unknown");
                }
                problem.field = wrong.field;
                let response = problem.answer(format, &visit.request_id);
                end(&response, reservation, None);
                response
            }
            Created::Foreign(field, reservation) => {
                let message = format!("`{field}`: this project has nothing of this name at this provider");
                let mut problem = Problem::new(ErrorClass::NotFound, &message);
                problem.field = Some(field);
                let response = problem.answer(format, &visit.request_id);
                end(&response, reservation, None);
                response
            }
            Created::Failed(failed, reservation) => {
                let class = failed.failure.class;
                let response = if let Some((status, headers, bytes)) = failed.answer {
                    let mut response = Response::new(Answer::whole(bytes));
                    header::backward(&headers, response.headers_mut(), true);
                    *response.status_mut() = status;
                    response
                } else {
                    let mut problem = Problem::new(told_as(class), &failed.failure.message);
                    problem.status = status_for(class);
                    problem.answer(format, &visit.request_id)
                };
                if failed.may_be_done {
                    visit.recorded.set();
                    drop(reservation); // The job's own row stands for the request.
                } else {
                    end(&response, reservation, Some((class, &failed.failure.message)));
                }
                response
            }
        };
        name_route(response.headers_mut(), route);
        response.headers_mut().insert(header::TARGET, route.targets[0].shown().clone());
        response
    }
}

/// The query with the place of the next page.
fn with_after(query: &str, format: wire::Format, after: &str) -> String {
    let name = if format == wire::Format::Messages { "after_id" } else { "after" };
    let kept = query.split('&').filter(|pair| {
        !pair.is_empty()
            && !["after", "after_id", "before_id"].contains(&pair.split('=').next().unwrap_or_default())
    });
    let next = format!("{name}={after}");
    kept.chain([next.as_str()]).collect::<Vec<_>>().join("&")
}
