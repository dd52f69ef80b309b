//! What errors mean, and how long Anthropic wants to be left alone.
//!
//! Source: Anthropic API reference, "Errors" and "Rate limits", section "Response headers".

use std::time::Duration;

use contract::ai::{Failure, FailureClass, Rejection};
use jiff::Timestamp;
use wire::Format;

/// What an error of Anthropic means.
pub(crate) fn classify(rejection: &Rejection<'_>) -> Failure {
    let mut failure = Failure::read(Format::Messages, rejection);
    // An account without money answers 400 with the type of any wrong request.
    if failure.class == FailureClass::BadRequest && failure.message.contains("credit balance is too low") {
        failure.class = FailureClass::Quota;
        failure.key_fault = true;
    }
    let wait = outbound::retry_after(rejection.headers, rejection.now).or_else(|| match failure.class {
        FailureClass::Rate => reset(rejection),
        _ => None,
    });
    failure.after(wait)
}

/// The time until the contingents that are used up are there again, from `anthropic-ratelimit-*-reset`.
fn reset(rejection: &Rejection<'_>) -> Option<Duration> {
    let text = |name: String| rejection.headers.get(name)?.to_str().ok();
    ["requests", "tokens", "input-tokens", "output-tokens"]
        .into_iter()
        .filter(|what| {
            text(format!("anthropic-ratelimit-{what}-remaining")).is_some_and(|left| left.trim() == "0")
        })
        .filter_map(|what| {
            let at: Timestamp = text(format!("anthropic-ratelimit-{what}-reset"))?.trim().parse().ok()?;
            Some(Duration::try_from(at.duration_since(rejection.now)).unwrap_or_default())
        })
        .max()
}
