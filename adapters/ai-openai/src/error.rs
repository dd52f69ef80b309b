//! What errors mean, and how long OpenAI wants to be left alone.
//!
//! Source: OpenAI documentation, "Error codes" and "Rate limits", section "Rate limits in headers".

use std::time::Duration;

use contract::ai::{Failure, FailureClass, Rejection};
use wire::Format;

/// What an error of OpenAI, Azure OpenAI or a compatible server means.
pub fn classify(rejection: &Rejection<'_>) -> Failure {
    let failure = Failure::read(Format::Chat, rejection);
    let wait = outbound::retry_after(rejection.headers, rejection.now).or_else(|| match failure.class {
        FailureClass::Rate => reset(rejection).or_else(|| in_words(&failure.message)),
        _ => None,
    });
    failure.after(wait)
}

/// The time until the contingent that is used up is there again, from `x-ratelimit-reset-requests` and `-tokens`.
fn reset(rejection: &Rejection<'_>) -> Option<Duration> {
    let text = |name: String| rejection.headers.get(name)?.to_str().ok();
    ["requests", "tokens"]
        .into_iter()
        .filter(|what| text(format!("x-ratelimit-remaining-{what}")).is_none_or(|left| left.trim() == "0"))
        .filter_map(|what| duration(text(format!("x-ratelimit-reset-{what}"))?.trim()))
        .max()
}

/// The wait that the message names: `… try again in 1.5s …`.
fn in_words(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("try again in ")?;
    duration(rest.split_whitespace().next()?.trim_end_matches(['.', ',']))
}

/// `1h2m3.5s`, `20ms`, `7`.
fn duration(text: &str) -> Option<Duration> {
    let mut whole = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" | "" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        whole += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &rest[unit..];
    }
    Some(whole.min(Duration::from_hours(24)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, milliseconds) in [
            ("1s", Some(1_000)),
            ("6m0s", Some(360_000)),
            ("1h2m3.5s", Some(3_723_500)),
            ("20ms", Some(20)),
            ("7", Some(7_000)),
            ("99999h", Some(86_400_000)),
            ("", None),
            ("soon", None),
            ("1x", None),
        ] {
            assert_eq!(duration(text), milliseconds.map(Duration::from_millis), "{text}");
        }
    }
}
