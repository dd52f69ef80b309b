//! The door for programs: HTTP with JSON, and MCP under `/mcp`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use contract::{AnswerStatus, Context, Effect, Error, ErrorKind, Progress};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::ai::Ai;
use crate::door::{Options, Steward};
use crate::mcp::{Caller, Server};
use crate::progress::{Newest, TOLD_EVERY};

/// Largest body that is read, in bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

const EVENTS_TYPE: &str = "text/event-stream";
/// Longest time without a word in a stream of events.
const SILENT_MAX: Duration = Duration::from_secs(15);

const METRICS_TYPE: &str = "application/openmetrics-text";

/// Key of a JSON body that carries a secret value beside the arguments, for `secret.put` and `secret.rotate`.
const SECRET_KEY: &str = "secret_input";

/// The application: routes, authentication, limits.
pub(crate) fn app(
    steward: Arc<Steward>,
    ai: Arc<Ai>,
    listen: SocketAddr,
    hosts: &[String],
    stop: CancellationToken,
) -> Router {
    let mut allowed: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    allowed.push(listen.ip().to_string());
    allowed.extend(hosts.iter().cloned());
    let allowed: Arc<[String]> = allowed.into();

    let mut mcp_config = StreamableHttpServerConfig::default();
    mcp_config.cancellation_token = stop;
    // The Host header is checked below, for every route alike.
    mcp_config.allowed_hosts = Vec::new();
    let mcp_steward = Arc::clone(&steward);
    let mcp = StreamableHttpService::new(
        move || Ok(Server::new(Arc::clone(&mcp_steward), None)),
        Arc::new(LocalSessionManager::default()),
        mcp_config,
    );

    let of_metrics = Arc::clone(&steward);
    let metrics = get(move |axum::Extension(caller): axum::Extension<Caller>| async move {
        let kind = format!("{METRICS_TYPE}; version=1.0.0; charset=utf-8");
        match crate::backups::metrics(&of_metrics, &caller.project).await {
            Ok(of_backups) => {
                let text = ai.metrics(&caller.project);
                // The format ends with a line that says so.
                let all = text.strip_suffix("# EOF\n").unwrap_or(&text);
                ([(header::CONTENT_TYPE, kind)], format!("{all}{of_backups}# EOF\n")).into_response()
            }
            Err(error) => problem(status_of(error.kind()), &error, |text| of_metrics.redact(text)),
        }
    });
    let protected = Router::new()
        .route("/api/v1/{noun}/{verb}", post(submit))
        .route("/metrics", metrics)
        .route("/api/v1/ai/receipts/{id}", get(receipt))
        .nest_service("/mcp", mcp)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&steward), authenticate));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/api/v1/openapi.json", get(openapi))
        .merge(protected)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(move |request: Request, next: Next| {
            let allowed = Arc::clone(&allowed);
            async move { check_host(&allowed, request, next).await }
        }))
        .with_state(steward)
}

/// Refuses names that are not ours: a web page cannot rebind its own name to us (DNS rebinding).
async fn check_host(allowed: &[String], request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    if !allowed.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        let error =
            Error::new(ErrorKind::Forbidden, "unknown Host header").hint("add the name to `http.hosts`");
        return problem(StatusCode::FORBIDDEN, &error, std::borrow::ToOwned::to_owned);
    }
    next.run(request).await
}

async fn authenticate(State(steward): State<Arc<Steward>>, mut request: Request, next: Next) -> Response {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")))
        .map(|token| SecretString::from(token.trim().to_owned()));
    match steward.authenticate(token).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => {
            let status = if error.kind() == ErrorKind::Forbidden {
                StatusCode::UNAUTHORIZED
            } else {
                status_of(error.kind())
            };
            let mut response = problem(status, &error, |text| steward.redact(text));
            if status == StatusCode::UNAUTHORIZED {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmitOptions {
    #[serde(default)]
    dry_run: bool,
}

async fn submit(
    State(steward): State<Arc<Steward>>,
    Path((noun, verb)): Path<(String, String)>,
    query: Result<Query<SubmitOptions>, QueryRejection>,
    axum::Extension(caller): axum::Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let redact = |text: &str| steward.redact(text);
    let query = match query {
        Ok(Query(query)) => query,
        Err(cause) => {
            let error = Error::new(ErrorKind::Invalid, "these are no options of a request")
                .because(cause.body_text());
            return problem(StatusCode::BAD_REQUEST, &error, redact);
        }
    };
    let body = match body {
        Ok(body) => body,
        Err(cause) => {
            let error = Error::new(ErrorKind::Invalid, "the body cannot be read").because(cause.body_text());
            return problem(cause.status(), &error, redact);
        }
    };
    let parsed = if body.is_empty() { Ok(json!({})) } else { serde_json::from_slice::<Value>(&body) };
    let mut arguments = match parsed {
        Ok(arguments) => arguments,
        Err(cause) => {
            let error = Error::new(ErrorKind::Invalid, "the body is no JSON").because(cause);
            return problem(StatusCode::BAD_REQUEST, &error, redact);
        }
    };
    let secret =
        arguments.as_object_mut().and_then(|object| object.remove(SECRET_KEY)).and_then(
            |value| match value {
                Value::String(text) => Some(SecretString::from(text)),
                _ => None,
            },
        );
    let cancel = CancellationToken::new();
    // Dropped when the client goes away: the request then ends at its next await.
    let guard = cancel.clone().drop_guard();
    let mut ctx = Context::new(&caller.project, caller.actor.clone()).with_cancellation(cancel);
    if let Some(timeout_ms) =
        headers.get("steward-timeout-ms").and_then(|value| value.to_str().ok()?.parse().ok())
    {
        ctx = ctx.with_timeout(std::time::Duration::from_millis(timeout_ms));
    }
    let options = Options { dry_run: query.dry_run, secret, reveal: true, ..Options::default() };
    let name = format!("{noun}.{verb}");
    if accepts_events(&headers) {
        return told_meanwhile(steward, ctx, name, arguments, options, guard);
    }
    answered(&steward, steward.submit_with(&ctx, &name, arguments, options).await)
}

/// Whether the client asks for events.
fn accepts_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == EVENTS_TYPE))
}

/// The answer as the last of a stream of events, before it how far the request has come.
fn told_meanwhile(
    steward: Arc<Steward>,
    ctx: Context,
    name: String,
    arguments: Value,
    options: Options,
    guard: DropGuard,
) -> Response {
    struct Stream<F> {
        work: Pin<Box<F>>,
        newest: watch::Receiver<Option<Progress>>,
        pause: Duration,
        _guard: DropGuard,
    }
    let (told, newest) = Newest::new();
    let ctx = ctx.with_watch(Arc::new(told));
    let work = Box::pin(async move {
        match steward.submit_with(&ctx, &name, arguments, options).await {
            Ok(answer) => event("answer", &serde_json::to_string(&answer).expect("answers are JSON")),
            Err(error) => {
                let status = status_of(error.kind());
                event("problem", &problem_body(status, &error, |text| steward.redact(text)).to_string())
            }
        }
    });
    let stream = futures::stream::unfold(
        Some(Stream { work, newest, pause: Duration::ZERO, _guard: guard }),
        |state| async {
            let mut state = state?;
            let sent = tokio::select! {
                biased;
                last = &mut state.work => return Some((Ok::<_, Infallible>(last), None)),
                () = next(&mut state.newest, state.pause) => {
                    let progress = state.newest.borrow_and_update().clone();
                    progress.map_or_else(
                        // So that nobody between takes the connection for dead.
                        || ": at work\n\n".to_owned(),
                        |progress| event("progress", &json!(progress).to_string()),
                    )
                }
            };
            state.pause = TOLD_EVERY;
            Some((Ok(sent), Some(state)))
        },
    );
    let kind = [(header::CONTENT_TYPE, EVENTS_TYPE), (header::CACHE_CONTROL, "no-store")];
    (kind, Body::from_stream(stream)).into_response()
}

/// Waits until there is something to tell after a pause; at most as long as a connection may be silent.
async fn next(newest: &mut watch::Receiver<Option<Progress>>, pause: Duration) {
    tokio::time::sleep(pause).await;
    // The sender lives as long as the request; then nothing is left to wait for.
    drop(tokio::time::timeout(SILENT_MAX, newest.changed()).await);
}

/// One server-sent event; JSON has no line breaks.
fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn answered(steward: &Steward, result: Result<contract::Answer, Error>) -> Response {
    match result {
        Ok(answer) => {
            let status = match answer.status {
                AnswerStatus::Done | AnswerStatus::Planned => StatusCode::OK,
                AnswerStatus::Waiting => StatusCode::ACCEPTED,
                AnswerStatus::Forbidden | AnswerStatus::Escalated => StatusCode::FORBIDDEN,
            };
            let text = serde_json::to_string(&answer).expect("answers are JSON");
            (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(error) => problem(status_of(error.kind()), &error, |text| steward.redact(text)),
    }
}

/// The receipt of an AI call.
async fn receipt(
    State(steward): State<Arc<Steward>>,
    Path(id): Path<String>,
    axum::Extension(caller): axum::Extension<Caller>,
) -> Response {
    let ctx = Context::new(&caller.project, caller.actor.clone());
    match steward.submit_with(&ctx, "ai.receipt", json!({ "id": id }), Options::default()).await {
        Ok(answer) if answer.status == AnswerStatus::Done => {
            ([(header::CONTENT_TYPE, "application/json")], answer.value.to_string()).into_response()
        }
        Ok(answer) => {
            let error = Error::new(ErrorKind::Forbidden, answer.decided.reason);
            problem(StatusCode::FORBIDDEN, &error, |text| steward.redact(text))
        }
        Err(error) => problem(status_of(error.kind()), &error, |text| steward.redact(text)),
    }
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Forbidden | ErrorKind::Escalated => StatusCode::FORBIDDEN,
        ErrorKind::NeedsApproval => StatusCode::ACCEPTED,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Denied => StatusCode::BAD_GATEWAY,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::LimitExceeded => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Canceled | ErrorKind::Corrupt | ErrorKind::Other => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn problem(status: StatusCode, error: &Error, redact: impl Fn(&str) -> String) -> Response {
    let body = problem_body(status, error, redact);
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Problem details (RFC 9457).
fn problem_body(status: StatusCode, error: &Error, redact: impl Fn(&str) -> String) -> Value {
    let context: serde_json::Map<String, Value> = error
        .context()
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::String(redact(value))))
        .collect();
    let causes: Vec<String> = error.causes().iter().map(|cause| redact(cause)).collect();
    json!({
        "title": redact(error.message()),
        "status": status.as_u16(),
        "kind": format!("{:?}", error.kind()),
        "context": context,
        "causes": causes,
        "hint": error.hint_text().map(redact),
    })
}

async fn openapi(State(steward): State<Arc<Steward>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document(&steward).to_string()).into_response()
}

/// The OpenAPI 3.1 document, made from the requests' schemas.
pub(crate) fn document(steward: &Steward) -> Value {
    let mut paths = serde_json::Map::new();
    let mut schemas = serde_json::Map::new();
    for spec in steward.specs() {
        let mut schema = spec.schema.clone();
        // Definitions move to the document's components, where every schema can refer to them.
        if let Some(object) = schema.as_object_mut() {
            object.remove("$schema");
            if let Some(Value::Object(definitions)) = object.remove("$defs") {
                schemas.extend(definitions);
            }
        }
        let mut parameters = Vec::new();
        if spec.effect == Effect::Change {
            parameters.push(json!({
                "name": "dry_run", "in": "query", "schema": { "type": "boolean" },
                "description": "Only plan and decide; change nothing",
            }));
        }
        let answer = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Answer" } } });
        let mut responses = problems(&[400, 401, 403, 404, 409, 413, 422, 500, 501, 502, 503, 504]);
        let mut done = answer.clone();
        done[EVENTS_TYPE] = json!({ "schema": {
            "type": "string",
            "description": "Where the client accepts it: events `progress` (stage, bytes, expected), at last one `answer` or `problem`",
        } });
        responses["200"] = json!({ "description": "Done", "content": done });
        responses["202"] =
            json!({ "description": "Waits for an approval; nothing has changed", "content": answer });
        responses["403"]["description"] = json!("Forbidden or escalated; nothing has changed");
        responses["403"]["content"]["application/json"] = answer["application/json"].clone();
        let operation = json!({
            "operationId": spec.name,
            "summary": spec.summary,
            "tags": [spec.name.split('.').next()],
            "parameters": parameters,
            "requestBody": { "content": { "application/json": { "schema": schema } } },
            "responses": responses,
        });
        paths.insert(format!("/api/v1/{}", spec.name.replace('.', "/")), json!({ "post": operation }));
    }
    let mut responses = problems(&[400, 401, 403, 404, 500, 503, 504]);
    responses["200"] = json!({ "description": "The receipt", "content": { "application/json": { "schema": { "type": "object" } } } });
    paths.insert(
        "/api/v1/ai/receipts/{id}".into(),
        json!({ "get": {
            "operationId": "ai.receipts",
            "summary": "The receipt of an AI call",
            "tags": ["ai"],
            "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }],
            "responses": responses,
        } }),
    );
    let mut responses = problems(&[401, 403, 500, 503]);
    responses["200"] = json!({ "description": "Measurements of the project's AI calls and backups, as OpenMetrics", "content": {
        METRICS_TYPE: { "schema": { "type": "string" } },
    } });
    paths.insert(
        "/metrics".into(),
        json!({ "get": {
            "operationId": "metrics",
            "summary": "Measurements for Prometheus",
            "tags": ["ai"],
            "responses": responses,
        } }),
    );
    let mut responses = problems(&[403]);
    responses["200"] =
        json!({ "description": "It does", "content": { "text/plain": { "schema": { "type": "string" } } } });
    paths.insert(
        "/healthz".into(),
        json!({ "get": {
            "operationId": "healthz",
            "summary": "Whether the daemon listens",
            "security": [],
            "responses": responses,
        } }),
    );
    let mut answer = serde_json::to_value(schemars::schema_for!(contract::Answer)).expect("a schema is JSON");
    if let Some(object) = answer.as_object_mut() {
        object.remove("$schema");
        if let Some(Value::Object(definitions)) = object.remove("$defs") {
            schemas.extend(definitions);
        }
    }
    schemas.insert("Answer".into(), answer);
    schemas.insert(
        "Problem".into(),
        json!({
            "type": "object", "required": ["title", "status", "kind"],
            "properties": {
                "title": { "type": "string" }, "status": { "type": "integer" }, "kind": { "type": "string" },
                "context": { "type": "object" }, "causes": { "type": "array", "items": { "type": "string" } },
                "hint": { "type": ["string", "null"] },
            },
        }),
    );
    let mut document = json!({
        "openapi": "3.1.0",
        "info": { "title": "Steward", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    });
    rewrite_references(&mut document);
    document
}

/// What goes wrong, by status.
fn problems(statuses: &[u16]) -> Value {
    let content =
        json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    let one = |status: &u16| {
        let description = match status {
            400 => "Wrong input",
            401 => "No valid token",
            403 => "Forbidden",
            404 => "Not there",
            409 => "Does not fit what is there",
            413 => "The body is too large",
            422 => "Larger than a limit allows",
            500 => "Failed",
            501 => "This store or provider cannot do it",
            502 => "A server that was asked refused",
            503 => "A server that was asked cannot be reached",
            _ => "Not done in time",
        };
        (status.to_string(), json!({ "description": description, "content": content }))
    };
    Value::Object(statuses.iter().map(one).collect())
}

fn rewrite_references(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/$defs/")
            {
                *reference = format!("#/components/schemas/{name}");
            }
            object.values_mut().for_each(rewrite_references);
        }
        Value::Array(items) => items.iter_mut().for_each(rewrite_references),
        _ => {}
    }
}
