//! Requests and replies from one format into another, through what they say.

use crate::json::{self, Value};
use crate::neutral::{Ask, Choice, Finish, Notes, Reply, Shown, Target, merged};
use crate::{BadReply, BadRequest, Format, chat, gemini, messages, responses};

/// A request in the format of the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The body.
    pub body: Vec<u8>,
    /// Fields of the client's request that the provider's format cannot say, as paths; they were left out.
    pub dropped: Vec<String>,
    /// Fields that say a little less or something else now, each with what happened to it.
    pub changed: Vec<String>,
}

/// Says a request in another format.
///
/// What has no equivalent and would make the answer another one is refused; everything else that is lost is listed. With the same
/// format on both sides the body comes back as it was, but for its model: use [`crate::Rewrite`] there.
///
/// # Errors
///
/// The body is no valid request of its format, or says what the other cannot. The error names the field.
pub fn convert_request(
    from: Format,
    to: Format,
    body: &[u8],
    target: &Target<'_>,
) -> Result<Converted, BadRequest> {
    if from == to {
        let scanned = crate::scan(from, body)?;
        let body = crate::Rewrite::new(body, &scanned).model(target.model).finish();
        return Ok(Converted { body, dropped: Vec::new(), changed: Vec::new() });
    }
    let Value::Object(object) = json::parse(body)? else {
        return Err(BadRequest::new("the body is not a JSON object"));
    };
    let mut ask = match from {
        Format::Chat => chat::read_request(object),
        Format::Responses => responses::read_request(object),
        Format::Messages => messages::read_request(object),
        Format::Gemini => gemini::read_request(object),
    }?;
    check_choice(&ask)?;
    if matches!(from, Format::Messages | Format::Gemini) {
        // There turns of one side are one turn; elsewhere the results have to follow their calls at once.
        ask.turns = merged(std::mem::take(&mut ask.turns));
    }
    ask.stream = Some(ask.stream.unwrap_or(target.stream));
    let (body, rest) = match to {
        Format::Chat => chat::write_request(ask, target),
        Format::Responses => responses::write_request(ask, target),
        Format::Messages => messages::write_request(ask, target),
        Format::Gemini => gemini::write_request(ask, target),
    }?;
    let Notes { dropped, changed } = left_over(rest);
    Ok(Converted { body: body.into_bytes(), dropped, changed })
}

/// A tool that must be called has to be there.
fn check_choice(ask: &Ask<'_>) -> Result<(), BadRequest> {
    let names = match &ask.choice {
        Some(Choice::Tool(name)) => std::slice::from_ref(name),
        Some(Choice::Among { names, .. }) => names.as_slice(),
        _ => return Ok(()),
    };
    match names.iter().find(|name| ask.tools.iter().all(|tool| tool.name != **name)) {
        Some(name) => {
            Err(BadRequest::field("tool_choice", format_args!("names the tool `{name}`, which is not there")))
        }
        None => Ok(()),
    }
}

/// What the writer did not take, it could not say.
fn left_over(ask: Ask<'_>) -> Notes {
    let mut notes = ask.notes;
    let knobs = [
        ("temperature", ask.temperature.is_some()),
        ("top_p", ask.top_p.is_some()),
        ("top_k", ask.top_k.is_some()),
        ("seed", ask.seed.is_some()),
        ("frequency_penalty", ask.frequency_penalty.is_some()),
        ("presence_penalty", ask.presence_penalty.is_some()),
        ("stop", !ask.stop.is_empty()),
        ("user", ask.user.is_some()),
        ("tool_choice", ask.choice.is_some()),
        ("parallel_tool_calls", ask.parallel == Some(false)),
    ];
    for (name, _) in knobs.into_iter().filter(|(_, is_left)| *is_left) {
        notes.drop_field(name);
    }
    for (name, _) in &ask.openai {
        notes.drop_field(*name);
    }
    notes
}

/// Says a whole reply of the provider (`from`) in the client's format (`to`).
///
/// With the same format on both sides the body comes back as it was.
///
/// # Errors
///
/// The body is not a reply of its format, holds an error of the provider, or says what the client's format cannot.
pub fn convert_reply(from: Format, to: Format, body: &[u8], shown: &Shown<'_>) -> Result<Vec<u8>, BadReply> {
    if from == to {
        return Ok(body.to_vec());
    }
    let mut reply = read_reply(from, body, shown)?;
    if let Some(Finish::Failed(reason)) = &reply.finish {
        return Err(BadReply::new(format!("the model's answer cannot be used: {reason}")));
    }
    reply.settle_finish();
    write_reply(to, reply, shown)
}

pub(crate) fn write_reply(to: Format, reply: Reply<'_>, shown: &Shown<'_>) -> Result<Vec<u8>, BadReply> {
    let body = match to {
        Format::Chat => chat::write_reply(reply, shown),
        Format::Responses => responses::write_reply(reply, shown),
        Format::Messages => messages::write_reply(reply, shown)?,
        Format::Gemini => gemini::write_reply(reply, shown),
    };
    Ok(body.into_bytes())
}

pub(crate) fn read_reply<'a>(from: Format, body: &'a [u8], shown: &Shown<'_>) -> Result<Reply<'a>, BadReply> {
    let value = json::parse(body)?;
    match from {
        Format::Chat => chat::read_reply(value, shown),
        Format::Responses => responses::read_reply(value, shown),
        Format::Messages => messages::read_reply(value, shown),
        Format::Gemini => gemini::read_reply(value, shown),
    }
}
