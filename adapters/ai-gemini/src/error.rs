//! What errors mean, and how long Google wants to be left alone.
//!
//! Source: Gemini API, "Troubleshooting"; google.rpc `RetryInfo`, `QuotaFailure` and `ErrorInfo` (AIP-193).

use std::time::Duration;

use contract::ai::{Failure, FailureClass, Rejection};
use serde_json::Value;
use wire::Format;

/// What an error of Gemini means.
pub(crate) fn classify(rejection: &Rejection<'_>) -> Failure {
    let mut failure = Failure::read(Format::Gemini, rejection);
    let body: Value = serde_json::from_slice(rejection.body).unwrap_or_default();
    let body = body.get(0).unwrap_or(&body);
    let details = body["error"]["details"].as_array().map_or(&[][..], Vec::as_slice);
    let of_type = |name: &str| {
        let suffix = format!("google.rpc.{name}");
        details
            .iter()
            .find(move |detail| detail["@type"].as_str().is_some_and(|kind| kind.ends_with(&suffix)))
    };
    if failure.class == FailureClass::Rate
        && of_type("QuotaFailure").is_some_and(|quota| {
            let violations = quota["violations"].as_array().map_or(&[][..], Vec::as_slice);
            violations
                .iter()
                .any(|violation| violation["quotaId"].as_str().is_some_and(|id| id.contains("PerDay")))
        })
    {
        failure.class = FailureClass::Quota;
    }
    // A place or a project that is not allowed to: another key may be.
    if rejection.status == http::StatusCode::BAD_REQUEST
        && failure.class == FailureClass::BadRequest
        && body["error"]["status"] == "FAILED_PRECONDITION"
    {
        failure.class = FailureClass::Key;
        failure.key_fault = true;
    }
    let wait = outbound::retry_after(rejection.headers, rejection.now)
        .or_else(|| seconds(of_type("RetryInfo")?["retryDelay"].as_str()?));
    failure.after(wait)
}

/// A duration of protocol buffers as JSON: `34.5s`.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds.min(86_400.0)).ok()
}
