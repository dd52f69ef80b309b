//! A reply that was given whole, as a stream; a reply that was given as a stream, whole. For answers that are given again.

use bytes::{Bytes, BytesMut};

use crate::convert::{read_reply, write_reply};
use crate::decode::{Decoder, Trouble};
use crate::neutral::{Body, Finish, Reply, Shown, Source};
use crate::sse::Splitter;
use crate::stream::{Opening, StreamOptions, Writer};
use crate::{BadReply, Format, Usage};

/// The events that say the same as a whole reply of this format.
///
/// # Errors
///
/// The body is not a reply of its format, or holds what this module does not put into events: several choices.
pub fn reply_as_events(format: Format, body: &[u8], options: StreamOptions) -> Result<Vec<u8>, BadReply> {
    if has_choices(format, body)? {
        return Err(BadReply::new("a reply with several choices is not replayed as a stream"));
    }
    let model = options.model.clone();
    let shown = Shown { model: &model, created_s: options.created_s, seed: options.seed };
    let mut reply = read_reply(format, body, &shown)?;
    reply.settle_finish();
    let mut out = BytesMut::with_capacity(body.len() * 2);
    let mut writer = Writer::new(format, format, options);
    writer.usage_at_start(reply.usage);
    writer.start(reply.id.as_deref(), &mut out);
    for (key, part) in (0..).zip(reply.parts) {
        put(&mut writer, key, part, &mut out).map_err(|trouble| BadReply::from(trouble.into_error()))?;
    }
    writer.end(reply.finish.as_ref(), reply.usage, &mut out);
    Ok(out.to_vec())
}

fn put(writer: &mut Writer, key: u64, part: Body<'_>, out: &mut BytesMut) -> Result<(), Trouble> {
    match part {
        Body::Text(text) => {
            writer.append(key, &Opening::Text, &text, out)?;
            writer.close(key, None, out);
        }
        Body::Refusal(text) => {
            writer.append(key, &Opening::Refusal, &text, out)?;
            writer.close(key, None, out);
        }
        Body::Thinking { text, mark } => {
            let mark = mark.map(crate::mark::Mark::into_owned);
            writer.append(key, &Opening::Thinking, &text, out)?;
            writer.close(key, mark, out);
        }
        Body::ToolCall { id, name, arguments, mark } => {
            let mark = mark.map(crate::mark::Mark::into_owned);
            let opening = Opening::Tool { id: id.into_owned(), name: name.into_owned(), mark };
            writer.open(key, opening, out);
            writer.append_arguments(key, &arguments, out)?;
            writer.close(key, None, out);
        }
        Body::Image { source: Source::Base64 { media_type, data }, .. } => {
            writer.image(&media_type, &data, out)?;
        }
        Body::Image { .. } | Body::File { .. } | Body::Audio { .. } | Body::ToolResult { .. } => {
            return Err(Trouble::Bad("the reply holds what is not replayed as a stream"));
        }
    }
    Ok(())
}

/// What a reply is, for whoever decides whether to give it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nature {
    /// It calls tools.
    pub calls_tools: bool,
    /// It was withheld, or says no.
    pub refused: bool,
    /// It ended because it was finished, and not because of a limit.
    pub finished: bool,
}

/// The nature of a whole reply of this format.
///
/// # Errors
///
/// The body is not a reply of its format, or holds an error of the provider.
pub fn reply_nature(format: Format, body: &[u8]) -> Result<Nature, BadReply> {
    let mut reply = read_reply(format, body, &Shown::default())?;
    reply.settle_finish();
    let calls_tools = reply.parts.iter().any(|part| matches!(part, Body::ToolCall { .. }));
    let refused = reply.finish == Some(Finish::Refused)
        || reply.parts.iter().any(|part| matches!(part, Body::Refusal(_)));
    let finished = matches!(reply.finish, Some(Finish::Stop | Finish::StopSequence(_) | Finish::ToolCalls));
    Ok(Nature { calls_tools, refused, finished })
}

/// What a whole reply of this format says in words, without thoughts and calls.
///
/// # Errors
///
/// The body is not a reply of its format, or holds an error of the provider.
pub fn reply_text(format: Format, body: &[u8]) -> Result<String, BadReply> {
    let reply = read_reply(format, body, &Shown::default())?;
    let mut text = String::new();
    for part in &reply.parts {
        if let Body::Text(said) | Body::Refusal(said) = part {
            text.push_str(said);
        }
    }
    Ok(text)
}

fn has_choices(format: Format, body: &[u8]) -> Result<bool, BadReply> {
    let name = match format {
        Format::Chat => "choices",
        Format::Gemini => "candidates",
        Format::Messages | Format::Responses => return Ok(false),
    };
    let value = crate::json::parse(body)?;
    Ok(value.get(name).and_then(crate::json::Value::as_array).is_some_and(|choices| choices.len() > 1))
}

/// The whole reply that a stream of this format amounts to. `usage` is said where the stream says none.
///
/// # Errors
///
/// The stream broke off, holds an error of the provider, several choices, or makes no sense.
pub fn events_as_reply(
    format: Format,
    events: Bytes,
    shown: &Shown<'_>,
    usage: Option<Usage>,
) -> Result<Vec<u8>, BadReply> {
    let mut splitter = Splitter::new();
    let mut decoder = Decoder::new(format, shown.seed);
    let mut writer = Writer::gathering(format);
    let mut ignored = BytesMut::new();
    splitter.push(events);
    let mut last = None;
    loop {
        let event = match splitter.next() {
            Some(event) => event,
            None if last.is_none() => {
                last = Some(());
                match splitter.finish() {
                    Some(event) => event,
                    None => break,
                }
            }
            None => break,
        };
        if event.is_comment() {
            continue;
        }
        if has_choices(format, &event.data).unwrap_or(false) {
            return Err(BadReply::new("a stream with several choices is not kept"));
        }
        decoder
            .event(&event, &mut writer, &mut ignored)
            .map_err(|trouble| BadReply::from(trouble.into_error()))?;
    }
    let usage = decoder.usage().or(usage);
    let finish = decoder.finish.take();
    if finish.is_none() {
        return Err(BadReply::new("the stream broke off"));
    }
    let (id, parts) = writer.gathered();
    let mut reply = Reply { id: id.map(Into::into), parts, finish, usage, created: Some(shown.created_s) };
    reply.settle_finish();
    write_reply(format, reply, shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: Shown<'static> = Shown { model: "m", created_s: 1_700_000_000, seed: 7 };

    fn options() -> StreamOptions {
        StreamOptions { model: "m".into(), created_s: 1_700_000_000, seed: 7, include_usage: true }
    }

    /// What a reply says, in the neutral form.
    fn said(format: Format, body: &[u8]) -> String {
        let reply = read_reply(format, body, &SHOWN).unwrap();
        format!("{:?} {:?} {:?}", reply.parts, reply.finish, reply.usage)
    }

    const REPLIES: [(Format, &str); 4] = [
        (
            Format::Chat,
            r#"{"id":"c1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Two \"calls\" \u00e9.","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":9007199254740993}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}"#,
        ),
        (
            Format::Messages,
            r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"thinking","thinking":"hm","signature":"c2ln"},{"type":"text","text":"Yes."},{"type":"tool_use","id":"t1","name":"f","input":{"x":1}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":10,"cache_read_input_tokens":4,"output_tokens":6}}"#,
        ),
        (
            Format::Gemini,
            r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"Hi."}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5},"modelVersion":"m","responseId":"r1"}"#,
        ),
        (
            Format::Responses,
            r#"{"id":"resp_1","object":"response","created_at":1700000000,"status":"completed","model":"m","output":[{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello.","annotations":[]}]}],"usage":{"input_tokens":4,"output_tokens":2,"total_tokens":6}}"#,
        ),
    ];

    #[test]
    fn a_reply_comes_back_from_its_own_stream() {
        for (format, body) in REPLIES {
            let events = reply_as_events(format, body.as_bytes(), options()).unwrap();
            let again = events_as_reply(format, events.into(), &SHOWN, None).unwrap();
            assert_eq!(said(format, &again), said(format, body.as_bytes()), "{format}");
        }
    }

    #[test]
    fn the_words_of_a_reply() {
        for ((format, body), said) in REPLIES.into_iter().zip(["Two \"calls\" é.", "Yes.", "Hi.", "Hello."])
        {
            assert_eq!(reply_text(format, body.as_bytes()).unwrap(), said, "{format}");
        }
        assert!(reply_text(Format::Chat, b"{}").is_err());
    }

    #[test]
    fn a_stream_that_broke_off_is_no_reply() {
        for (format, body) in REPLIES {
            let events = reply_as_events(format, body.as_bytes(), options()).unwrap();
            let text = String::from_utf8(events).unwrap();
            let ends: Vec<usize> = text.match_indices("\n\n").map(|(at, _)| at + 2).collect();
            // Without its last event that carries the reason to finish, and what follows it.
            for cut in 0..ends.len() {
                let cut = &text[..ends[cut]];
                let reply = events_as_reply(format, Bytes::copy_from_slice(cut.as_bytes()), &SHOWN, None);
                let whole = ["finish_reason\":\"", "stop_reason\":\"", "finishReason", "response.completed"]
                    .iter()
                    .any(|mark| cut.contains(mark));
                assert_eq!(reply.is_ok(), whole, "{format}: {cut}");
            }
        }
    }

    #[test]
    fn the_nature_of_a_reply() {
        let natures: Vec<_> =
            REPLIES.iter().map(|(format, body)| reply_nature(*format, body.as_bytes()).unwrap()).collect();
        assert_eq!(
            natures.iter().map(|nature| nature.calls_tools).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert!(natures.iter().all(|nature| nature.finished && !nature.refused));
        let of = |body: &str| reply_nature(Format::Chat, body.as_bytes()).unwrap();
        let cut = of(r#"{"choices":[{"message":{"content":"a"},"finish_reason":"length"}]}"#);
        assert!(!cut.finished);
        let no = of(r#"{"choices":[{"message":{"refusal":"no"},"finish_reason":"stop"}]}"#);
        assert!(no.refused);
    }

    #[test]
    fn several_choices_are_not_replayed() {
        let body = r#"{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"},{"index":1,"message":{"content":"b"},"finish_reason":"stop"}]}"#;
        assert!(reply_as_events(Format::Chat, body.as_bytes(), options()).is_err());
    }
}
