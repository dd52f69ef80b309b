//! What errors mean: Azure uses OpenAI's codes and adds its own.
//!
//! Source: Azure OpenAI REST API reference, and "Content filtering", section on errors.

use contract::ai::{Failure, FailureClass, Rejection};

/// What an error of Azure OpenAI means.
pub(crate) fn classify(rejection: &Rejection<'_>) -> Failure {
    let mut failure = ai_openai::classify(rejection);
    // A prompt that the filter refuses is a 400 whose code may be `content_filter` or null with an inner error.
    if failure.class == FailureClass::BadRequest && contains(rejection.body, b"ResponsibleAIPolicyViolation")
    {
        failure.class = FailureClass::Refused;
    }
    failure
}

fn contains(body: &[u8], needle: &[u8]) -> bool {
    body.windows(needle.len()).any(|window| window == needle)
}
