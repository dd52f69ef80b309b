//! From statuses and broken connections to error kinds.

use std::error::Error as _;
use std::time::Duration;

use contract::{Error, ErrorKind, Retry};
use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// A server that asks for more is not believed.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// What a status other than success means for the caller.
///
/// Source: RFC 9110, section 15; RFC 6585, section 4 for 429.
pub(crate) fn of_status(status: u16, retry_after: Option<Duration>) -> Error {
    let (kind, message) = match status {
        300..=399 => (ErrorKind::Invalid, "the server answers with a redirect that is not followed"),
        401 | 403 | 407 => (ErrorKind::Denied, "the server refused"),
        404 | 410 => (ErrorKind::NotFound, "the server does not know the address"),
        408 => (ErrorKind::TimedOut, "the server waited too long"),
        409 | 412 | 423 => (ErrorKind::Conflict, "the server reports a conflict"),
        413 => (ErrorKind::LimitExceeded, "the server finds the request too large"),
        429 => (ErrorKind::LimitExceeded, "the server asks for fewer requests"),
        501 | 505 => (ErrorKind::Unsupported, "the server cannot do this"),
        425 | 500..=599 => (ErrorKind::Unavailable, "the server failed"),
        _ => (ErrorKind::Invalid, "the server does not accept the request"),
    };
    let error = Error::new(kind, message).with("status", status);
    let error = match (status, retry_after) {
        (429 | 503, Some(after)) => error.with_retry(Retry::After(after)),
        (429, None) => error.with_retry(Retry::Later),
        _ => error,
    };
    match status {
        300..=399 => error.hint("set the URL to where the server points"),
        401 | 403 => error.hint("check the secret that the request was signed or authorised with"),
        _ => error,
    }
}

/// The header `Retry-After`: seconds, or a date.
///
/// Source: RFC 9110, section 10.2.3.
pub(crate) fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    let wait = if let Ok(seconds) = header.parse() {
        Duration::from_secs(seconds)
    } else {
        let at = rfc2822::DateTimeParser::new().parse_timestamp(header).ok()?;
        // A date that has passed is no wait.
        Duration::try_from(at.duration_since(now)).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// What a request without an answer means. The URL is taken out of the cause; the caller adds it as it may be shown.
pub(crate) fn of_connection(error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.source().is_some_and(is_certificate) {
        return Error::new(ErrorKind::Denied, "the server's certificate is not trusted")
            .because(error)
            .hint("if the server has a private authority, name its certificate in the configuration");
    }
    let (kind, message) = if error.is_timeout() {
        (ErrorKind::TimedOut, "the server cannot be reached in time")
    } else if error.is_connect() {
        (ErrorKind::Unavailable, "the server cannot be reached")
    } else if error.is_builder() {
        (ErrorKind::Invalid, "the request cannot be made")
    } else {
        (ErrorKind::Unavailable, "the connection broke")
    };
    Error::new(kind, message).because(error)
}

/// Whether this error, or one that it comes from, is that a certificate is not trusted.
pub(crate) fn is_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return matches!(
                tls,
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented
            );
        }
        // An io::Error gives the error inside it not as its source but by get_ref; here one lies in another.
        next = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_kinds_and_retries() {
        let after = Some(Duration::from_secs(7));
        for (status, kind, retry) in [
            (302, ErrorKind::Invalid, Retry::Never),
            (400, ErrorKind::Invalid, Retry::Never),
            (401, ErrorKind::Denied, Retry::Never),
            (403, ErrorKind::Denied, Retry::Never),
            (404, ErrorKind::NotFound, Retry::Never),
            (408, ErrorKind::TimedOut, Retry::Later),
            (409, ErrorKind::Conflict, Retry::Later),
            (413, ErrorKind::LimitExceeded, Retry::Never),
            (418, ErrorKind::Invalid, Retry::Never),
            (429, ErrorKind::LimitExceeded, Retry::After(Duration::from_secs(7))),
            (500, ErrorKind::Unavailable, Retry::Later),
            (501, ErrorKind::Unsupported, Retry::Never),
            (503, ErrorKind::Unavailable, Retry::After(Duration::from_secs(7))),
            (599, ErrorKind::Unavailable, Retry::Later),
        ] {
            let error = of_status(status, after);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{status}");
        }
        assert_eq!(of_status(429, None).retry(), Retry::Later);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-03-04T02:00:00Z".parse().unwrap();
        for (header, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Wed, 04 Mar 2026 02:00:30 GMT", Some(30)),
            ("Wed, 04 Mar 2026 01:00:00 GMT", Some(0)),
            ("99999999", Some(86_400)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(header, now), seconds.map(Duration::from_secs), "{header}");
        }
    }
}
