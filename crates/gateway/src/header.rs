//! Which headers go through, in both directions.

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};

use crate::meter::RequestId;

/// The receipt's id; `steward ai receipt ID` shows it.
pub(crate) const RECEIPT: HeaderName = HeaderName::from_static("steward-receipt");
pub(crate) const ROUTE: HeaderName = HeaderName::from_static("steward-route");
pub(crate) const TARGET: HeaderName = HeaderName::from_static("steward-target");
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("steward-attempts");
/// The limit of tokens that the budget allowed, when it is lower than asked for.
pub(crate) const MAX_TOKENS: HeaderName = HeaderName::from_static("steward-max-tokens");
/// Whether the answer was given before: `hit`, `miss`, or `bypass`; absent where the route has no cache.
pub(crate) const CACHE: HeaderName = HeaderName::from_static("steward-cache");
/// The retired model that was asked for, where its successor answered.
pub(crate) const INSTEAD_OF: HeaderName = HeaderName::from_static("steward-instead-of");
/// Whose answer was given, where it was not asked in the same words, and how alike the two questions are.
pub(crate) const CACHE_OF: HeaderName = HeaderName::from_static("steward-cache-of");
pub(crate) const CACHE_SIMILARITY: HeaderName = HeaderName::from_static("steward-cache-similarity");
/// Fields that the provider's format cannot say.
pub(crate) const DROPPED: HeaderName = HeaderName::from_static("steward-dropped");
/// A count that is ours and not the provider's.
pub(crate) const ESTIMATED: HeaderName = HeaderName::from_static("steward-estimated");
/// Who answers, for calls without a model.
pub(crate) const PROVIDER: HeaderName = HeaderName::from_static("steward-provider");
pub(crate) const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("steward-upstream-request-id");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
pub(crate) const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Longest id of a request that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Hop-by-hop headers, and those that describe the connection or the body as it was.
/// Source: RFC 9110, section 7.6.1.
fn is_of_the_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "content-length"
            | "expect"
    )
}

/// What the client says to us and not to the provider.
fn is_private(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "x-api-key"
            | "x-goog-api-key"
            | "api-key"
            | "cookie"
            | "forwarded"
            | "via"
            | "x-real-ip"
            | "origin"
            | "referer"
            | "accept-encoding"
            | "openai-organization"
            | "openai-project"
            | "x-goog-user-project"
            | "x-request-id"
            // The gateway has a span of its own between the two; see `Trace::pass_on`.
            | "traceparent"
            | "tracestate"
    ) || name.starts_with("x-forwarded-")
        || name.starts_with("steward-")
        || name.starts_with("sec-")
        || name.starts_with("cf-")
}

/// Whether what follows are events.
pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"))
}

/// Adds the client's headers that the provider may see.
pub(crate) fn forward(from: &HeaderMap, to: &mut HeaderMap) {
    let named_by_connection = connection_options(from);
    for (name, value) in from {
        let text = name.as_str();
        if is_of_the_connection(text)
            || is_private(text)
            || named_by_connection.iter().any(|option| option.eq_ignore_ascii_case(text))
        {
            continue;
        }
        to.append(name, value.clone());
    }
}

/// The client's headers that make sense to a provider that speaks another format: only what identifies.
pub(crate) fn forward_neutral(from: &HeaderMap, to: &mut HeaderMap) {
    for name in ["user-agent", "idempotency-key"] {
        if let Some(value) = from.get(name) {
            to.insert(HeaderName::from_static(name), value.clone());
        }
    }
}

/// What `connection` declares as its own.
fn connection_options(headers: &HeaderMap) -> Vec<&str> {
    let Some(options) = headers.get(http::header::CONNECTION).and_then(|value| value.to_str().ok()) else {
        return Vec::new();
    };
    options.split(',').map(str::trim).filter(|option| !matches!(*option, "keep-alive" | "close")).collect()
}

/// What is about the provider's account, machines or connections.
fn is_of_the_provider(name: &str) -> bool {
    matches!(
        name,
        "set-cookie"
            | "set-cookie2"
            | "server"
            | "via"
            | "alt-svc"
            | "date"
            | "strict-transport-security"
            | "openai-organization"
            | "openai-project"
            | "anthropic-organization-id"
            | "x-envoy-upstream-service-time"
            | "x-powered-by"
            | "www-authenticate"
            | "x-content-type-options"
            | "access-control-allow-origin"
            | "access-control-expose-headers"
            | "idempotency-replayed"
    ) || name.starts_with("steward-")
        || name.starts_with("cf-")
        || name.starts_with("x-ms-")
        || name.starts_with("apim-")
}

/// Adds the provider's headers that the client may see. Its own request id gets another name beside ours.
pub(crate) fn backward(from: &HeaderMap, to: &mut HeaderMap, with_body: bool) {
    for (name, value) in from {
        let text = name.as_str();
        if is_of_the_connection(text) || is_of_the_provider(text) {
            continue;
        }
        if matches!(text, "x-request-id" | "request-id") {
            to.insert(UPSTREAM_REQUEST_ID, value.clone());
            continue;
        }
        if !with_body && (text.starts_with("content-") || matches!(text, "etag" | "last-modified")) {
            continue;
        }
        to.append(name, value.clone());
    }
}

/// The client's own id of the request, or ours.
pub(crate) fn request_id(from: &HeaderMap, id: RequestId) -> HeaderValue {
    from.get(REQUEST_ID)
        .filter(|value| value.len() <= REQUEST_ID_BYTES_MAX && !value.is_empty())
        .cloned()
        .unwrap_or_else(|| id_value(id))
}

/// The id as a header's value.
pub(crate) fn id_value(id: RequestId) -> HeaderValue {
    HeaderValue::try_from(id.to_string()).unwrap_or_else(|_| HeaderValue::from_static("req"))
}

/// A number as a header's value.
pub(crate) fn number(number: u64) -> HeaderValue {
    HeaderValue::from(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_is_private_stays_with_us() {
        let from = map(&[
            ("authorization", "Bearer sk-steward-x"),
            ("x-api-key", "sk-steward-x"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("openai-organization", "org"),
            ("anthropic-beta", "a"),
            ("anthropic-version", "2024-01-01"),
            ("traceparent", "00-1"),
            ("tracestate", "a=1"),
            ("content-length", "5"),
        ]);
        let mut to = HeaderMap::new();
        forward(&from, &mut to);
        let mut names: Vec<_> = to.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["anthropic-beta", "anthropic-version"]);
    }

    #[test]
    fn what_is_the_providers_stays_there() {
        let from = map(&[
            ("set-cookie", "a=b"),
            ("openai-organization", "org"),
            ("x-request-id", "theirs"),
            ("retry-after", "3"),
            ("x-ratelimit-remaining-requests", "1"),
            ("content-type", "application/json"),
            ("transfer-encoding", "chunked"),
        ]);
        let mut to = HeaderMap::new();
        backward(&from, &mut to, false);
        let mut names: Vec<_> = to.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["retry-after", "steward-upstream-request-id", "x-ratelimit-remaining-requests"]);
    }
}
