//! Anthropic messages.
//!
//! Source: Anthropic API reference "Messages", guides "Extended thinking", "Tool use", "Prompt caching", "Structured outputs", "Vision".

use crate::error::error_in;
use crate::json::{Object, Value};
use crate::mark::Mark;
use crate::neutral::{
    Ask, Body, Choice, Finish, Output, Part, Reasoning, Reply, Role, Shown, Source, Target, Tool, Turn,
    alternate, arguments_object, array, boolean, keep_own_thinking, minted, no_equivalent, object, required,
    required_text, texts, whole,
};
use crate::usage;
use crate::{BadReply, BadRequest, Format};
use std::borrow::Cow;

/// The least that may be thought with.
const BUDGET_MIN: u64 = 1_024;

pub(crate) fn read_request(mut body: Object<'_>) -> Result<Ask<'_>, BadRequest> {
    let mut ask = Ask::default();
    body.take("model");
    for field in ["container", "mcp_servers"] {
        if body.take(field).is_some_and(|value| value.as_array().is_none_or(|servers| !servers.is_empty())) {
            return Err(no_equivalent(field));
        }
    }
    ask.stream = body.take("stream").map(|value| boolean(&value, "stream")).transpose()?;
    ask.max_tokens = body.take("max_tokens").map(|value| whole(&value, "max_tokens")).transpose()?;
    ask.temperature = body.take("temperature");
    ask.top_p = body.take("top_p");
    ask.top_k = body.take("top_k");
    ask.stop = body
        .take("stop_sequences")
        .map(|stop| texts(stop, "stop_sequences"))
        .transpose()?
        .unwrap_or_default();
    if let Some(metadata) = body.take("metadata") {
        let mut metadata = object(metadata, "metadata")?;
        ask.user = metadata.take_text("user_id");
        ask.notes.drop_rest("metadata", &metadata);
    }
    read_thinking(&mut body, &mut ask)?;
    if let Some(system) = body.take("system") {
        let mut parts = Vec::new();
        read_content(system, "system", &mut parts, &mut ask)?;
        ask.turns.push(Turn { role: Role::System, parts, path: "system".into() });
    }
    for (index, message) in array(required(&mut body, "messages", "")?, "messages")?.into_iter().enumerate() {
        let path = format!("messages[{index}]");
        let mut message = object(message, &path)?;
        let role = match required_text(&mut message, "role", &path)?.as_ref() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(BadRequest::field(format!("{path}.role"), "is not a known role")),
        };
        let content_path = format!("{path}.content");
        let mut parts = Vec::new();
        read_content(required(&mut message, "content", &path)?, &content_path, &mut parts, &mut ask)?;
        ask.notes.drop_rest(&path, &message);
        ask.turns.push(Turn { role, parts, path });
    }
    for (index, tool) in body
        .take("tools")
        .map(|tools| array(tools, "tools"))
        .transpose()?
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        let path = format!("tools[{index}]");
        let mut tool = object(tool, &path)?;
        if !matches!(tool.take_text("type").as_deref(), None | Some("custom")) {
            return Err(no_equivalent(path));
        }
        let read = Tool {
            name: required_text(&mut tool, "name", &path)?,
            description: tool.take_text("description"),
            schema: tool.take("input_schema"),
            strict: tool.take("strict").and_then(|strict| strict.as_bool()),
            cache: tool.take("cache_control"),
        };
        ask.notes.drop_rest(&path, &tool);
        ask.tools.push(read);
    }
    if let Some(choice) = body.take("tool_choice") {
        let mut choice = object(choice, "tool_choice")?;
        if let Some(alone) = choice.take("disable_parallel_tool_use") {
            ask.parallel = Some(!boolean(&alone, "tool_choice.disable_parallel_tool_use")?);
        }
        ask.choice = Some(match required_text(&mut choice, "type", "tool_choice")?.as_ref() {
            "auto" => Choice::Auto,
            "any" => Choice::Required,
            "none" => Choice::None,
            "tool" => Choice::Tool(required_text(&mut choice, "name", "tool_choice")?),
            _ => {
                return Err(BadRequest::field("tool_choice.type", "must be `auto`, `any`, `tool` or `none`"));
            }
        });
    }
    ask.notes.drop_rest("", &body);
    Ok(ask)
}

fn read_thinking<'a>(body: &mut Object<'a>, ask: &mut Ask<'a>) -> Result<(), BadRequest> {
    let mut config = body
        .take("output_config")
        .map(|config| object(config, "output_config"))
        .transpose()?
        .unwrap_or_default();
    let effort = config.take_text("effort");
    let format = config.take("format").or_else(|| body.take("output_format"));
    ask.notes.drop_rest("output_config", &config);
    if let Some(format) = format {
        let mut format = object(format, "output_config.format")?;
        if format.text("type") == Some("json_schema") {
            let schema = required(&mut format, "schema", "output_config.format")?;
            ask.output = Output::Schema { name: None, description: None, schema, strict: None };
        }
    }
    if let Some(thinking) = body.take("thinking") {
        let mut thinking = object(thinking, "thinking")?;
        let sort = required_text(&mut thinking, "type", "thinking")?;
        let budget = thinking
            .take("budget_tokens")
            .map(|value| whole(&value, "thinking.budget_tokens"))
            .transpose()?;
        ask.reasoning = Some(Reasoning {
            effort,
            budget,
            is_off: sort == "disabled",
            is_shown: sort != "disabled" && thinking.text("display") != Some("omitted"),
            field: "thinking",
        });
        thinking.take("display");
        ask.notes.drop_rest("thinking", &thinking);
    } else if effort.is_some() {
        ask.reasoning = Some(Reasoning { effort, field: "output_config.effort", ..Reasoning::default() });
    }
    Ok(())
}

fn read_content<'a>(
    content: Value<'a>,
    path: &str,
    parts: &mut Vec<Part<'a>>,
    ask: &mut Ask<'a>,
) -> Result<(), BadRequest> {
    if let Value::String(text) = content {
        parts.push(Body::Text(text).into());
        return Ok(());
    }
    for (index, block) in array(content, path)?.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let mut block = object(block, &path)?;
        let cache = block.take("cache_control");
        let sort = required_text(&mut block, "type", &path)?;
        let body = match sort.as_ref() {
            "text" => {
                // An answer's citations point into what only Anthropic was shown.
                Body::Text(required_text(&mut block, "text", &path)?)
            }
            "image" => {
                let source = read_source(required(&mut block, "source", &path)?, &format!("{path}.source"))?;
                Body::Image { source, detail: None }
            }
            "document" => {
                let name = block.take_text("title");
                let source = read_source(required(&mut block, "source", &path)?, &format!("{path}.source"))?;
                Body::File { source, name }
            }
            "tool_use" => Body::ToolCall {
                id: required_text(&mut block, "id", &path)?,
                name: required_text(&mut block, "name", &path)?,
                arguments: block.take("input").map(|input| input.to_json()).unwrap_or_default().into(),
                mark: None,
            },
            "tool_result" => {
                let mut inside = Vec::new();
                if let Some(content) = block.take("content") {
                    read_content(content, &format!("{path}.content"), &mut inside, ask)?;
                }
                let is_error = block.take("is_error").and_then(|value| value.as_bool()).unwrap_or(false);
                Body::ToolResult {
                    id: required_text(&mut block, "tool_use_id", &path)?,
                    parts: inside,
                    is_error,
                }
            }
            "thinking" => Body::Thinking {
                text: required_text(&mut block, "thinking", &path)?,
                mark: block.take_text("signature").map(|signature| Mark::read(Format::Messages, signature)),
            },
            "redacted_thinking" => {
                let mut mark = Mark::read(Format::Messages, required_text(&mut block, "data", &path)?);
                mark.redacted |= mark.family == Format::Messages;
                Body::Thinking { text: Cow::Borrowed(""), mark: Some(mark) }
            }
            _ => return Err(no_equivalent(format!("{path}.type"))),
        };
        ask.notes.drop_rest(&path, &block);
        parts.push(Part { body, cache });
    }
    Ok(())
}

fn read_source<'a>(source: Value<'a>, path: &str) -> Result<Source<'a>, BadRequest> {
    let mut source = object(source, path)?;
    match required_text(&mut source, "type", path)?.as_ref() {
        "base64" => Ok(Source::Base64 {
            media_type: required_text(&mut source, "media_type", path)?,
            data: required_text(&mut source, "data", path)?,
        }),
        "url" => Ok(Source::Url(required_text(&mut source, "url", path)?)),
        "text" => Ok(Source::Text(required_text(&mut source, "data", path)?)),
        _ => Err(no_equivalent(format!("{path}.type"))),
    }
}

pub(crate) fn write_request<'a>(
    mut ask: Ask<'a>,
    target: &Target<'a>,
) -> Result<(Object<'a>, Ask<'a>), BadRequest> {
    let mut turns = std::mem::take(&mut ask.turns);
    keep_own_thinking(&mut turns, Format::Messages, &mut ask.notes);
    let (system, mut turns) = alternate(turns, &mut ask.notes);
    let is_forced =
        matches!(ask.choice, Some(Choice::Required | Choice::Tool(_) | Choice::Among { required: true, .. }))
            && !ask.tools.is_empty();
    let mut max_tokens = ask.max_tokens.take();
    let effort = adaptive_effort(&mut ask, target, is_forced);
    let budget = thinking_budget(&mut ask, target, &turns, is_forced, &mut max_tokens);
    let max_tokens = max_tokens.unwrap_or_else(|| {
        ask.notes.change("max_tokens (the default, since none was given)");
        target.max_tokens_default.saturating_add(budget.unwrap_or(0))
    });
    let mut body = Object::default().with("model", target.model).with("max_tokens", max_tokens);
    let system: Vec<Value<'a>> = system
        .into_iter()
        .filter_map(|part| write_block(part, "system", &mut ask).transpose())
        .collect::<Result<_, _>>()?;
    if !system.is_empty() {
        body.put("system", plain_if_one_text(system));
    }
    let mut messages = Vec::new();
    for turn in turns.drain(..) {
        let mut blocks = Vec::new();
        for part in turn.parts {
            if let Some(block) = write_block(part, &turn.path, &mut ask)? {
                blocks.push(block);
            }
        }
        // Anthropic refuses empty messages.
        if blocks.is_empty() {
            ask.notes.drop_field(format!("{} (empty)", turn.path));
            continue;
        }
        let role = if turn.role == Role::Assistant { "assistant" } else { "user" };
        messages.push(Object::default().with("role", role).with("content", plain_if_one_text(blocks)).into());
    }
    body.put("messages", Value::Array(messages));
    write_tools(&mut body, &mut ask);
    if effort.is_some() {
        body.put("thinking", Object::default().with("type", "adaptive"));
    } else if let Some(budget) = budget {
        body.put("thinking", Object::default().with("type", "enabled").with("budget_tokens", budget));
    }
    if effort.is_some() || budget.is_some() {
        // With thinking Anthropic takes these near their defaults alone.
        let is_within = |knob: &Option<Value<'_>>, range: std::ops::RangeInclusive<f64>| matches!(knob, Some(Value::Number(number)) if number.parse().is_ok_and(|number: f64| range.contains(&number)));
        let keeps = [
            ("temperature", is_within(&ask.temperature, 1.0..=1.0)),
            ("top_p", is_within(&ask.top_p, 0.95..=1.0)),
            ("top_k", false),
        ];
        for ((name, keeps), knob) in
            keeps.into_iter().zip([&mut ask.temperature, &mut ask.top_p, &mut ask.top_k])
        {
            if !keeps && knob.take().is_some() {
                ask.notes.drop_field(name);
            }
        }
    }
    if let Some(Value::Number(number)) = &ask.temperature
        && number.parse::<f64>().is_ok_and(|number| number > 1.0)
    {
        // OpenAI and Gemini go up to 2.
        ask.temperature = Some(Value::Number(Cow::Borrowed("1")));
        ask.notes.change("temperature (at most 1)");
    }
    body.put_some("temperature", ask.temperature.take());
    body.put_some("top_p", ask.top_p.take());
    body.put_some("top_k", ask.top_k.take());
    // Anthropic refuses sequences of white space alone.
    let stop: Vec<Value<'a>> = std::mem::take(&mut ask.stop)
        .into_iter()
        .filter(|stop| {
            if stop.trim().is_empty() {
                ask.notes.drop_field("stop (white space alone)");
            }
            !stop.trim().is_empty()
        })
        .map(Value::from)
        .collect();
    if !stop.is_empty() {
        body.put("stop_sequences", stop);
    }
    let mut config = Object::default();
    match std::mem::take(&mut ask.output) {
        Output::Text => {}
        Output::Json => ask.notes.drop_field("response_format"),
        Output::Schema { name, description, schema, .. } => {
            if name.is_some() || description.is_some() {
                ask.notes.drop_field("response_format.json_schema.name");
            }
            config.put("format", Object::default().with("type", "json_schema").with("schema", schema));
        }
    }
    config.put_some("effort", effort);
    if !config.0.is_empty() {
        body.put("output_config", config);
    }
    if let Some(user) = ask.user.take() {
        body.put("metadata", Object::default().with("user_id", user));
    }
    if ask.stream == Some(true) {
        body.put("stream", true);
    }
    Ok((body, ask))
}

/// Whether the model decides itself how much to think, and is told by effort: from version 4.6 on; budgets are going away there.
fn is_adaptive(model: &str) -> bool {
    let Some(rest) = model.split("claude-").nth(1) else { return false };
    let mut words = rest.split(['-', '.', '@', ':']).peekable();
    words.next_if(|word| word.chars().all(|character| character.is_ascii_alphabetic()));
    // A date in place of the second number means that there is none.
    let mut number = || words.next().filter(|word| word.len() <= 2).and_then(|word| word.parse::<u32>().ok());
    let major = number().unwrap_or(0);
    (major, number().unwrap_or(0)) >= (4, 6)
}

/// The effort for a model that thinks adaptively; it takes the wish out of the request.
fn adaptive_effort(ask: &mut Ask<'_>, target: &Target<'_>, is_forced: bool) -> Option<&'static str> {
    if !is_adaptive(target.model) || !target.can_reason || is_forced {
        return None;
    }
    let effort = match ask
        .reasoning
        .as_ref()?
        .effort()
        .filter(|_| ask.reasoning.as_ref().is_some_and(|reasoning| !reasoning.wants_none()))?
    {
        "minimal" | "low" => "low",
        "medium" => "medium",
        "xhigh" | "max" => "max",
        _ => "high",
    };
    ask.reasoning = None;
    Some(effort)
}

/// How much may be thought, when thinking is possible at all: not with a forced tool, and not when the turn in progress began without it.
fn thinking_budget<'a>(
    ask: &mut Ask<'a>,
    target: &Target<'_>,
    turns: &[Turn<'a>],
    is_forced: bool,
    max_tokens: &mut Option<u64>,
) -> Option<u64> {
    let reasoning = ask.reasoning.take()?;
    if reasoning.wants_none() {
        return None;
    }
    let wanted = reasoning.budget()?;
    let field = reasoning.field;
    let is_results = turns
        .last()
        .is_some_and(|turn| turn.parts.iter().any(|part| matches!(part.body, Body::ToolResult { .. })));
    let began_without = is_results
        && turns.iter().rev().find(|turn| turn.role == Role::Assistant).is_some_and(|turn| {
            !matches!(turn.parts.first(), Some(Part { body: Body::Thinking { .. }, .. }))
        });
    // The answer needs room beside the thoughts.
    let room = max_tokens.map_or(u64::MAX, |limit| limit.saturating_sub(1));
    if !target.can_reason || is_forced || began_without || room < BUDGET_MIN {
        ask.notes.drop_field(field);
        return None;
    }
    if wanted > room {
        ask.notes.change(format!("{field} (less than asked for, to stay below the limit)"));
    }
    Some(wanted.clamp(BUDGET_MIN, room))
}

fn write_tools<'a>(body: &mut Object<'a>, ask: &mut Ask<'a>) {
    if ask.tools.is_empty() {
        return;
    }
    let choice = ask.choice.take();
    if let Some(Choice::Among { names, .. }) = &choice {
        // Anthropic has no list of allowed tools; leaving the others out says the same.
        ask.tools.retain(|tool| names.contains(&tool.name));
        ask.notes.change("tools (only those allowed)");
    }
    let mut tools = Vec::new();
    for tool in std::mem::take(&mut ask.tools) {
        let mut object = Object::default().with("name", tool.name);
        object.put_some("description", tool.description);
        object.put("input_schema", object_schema(tool.schema));
        object.put_some("strict", tool.strict.filter(|strict| *strict));
        object.put_some("cache_control", tool.cache);
        tools.push(Value::from(object));
    }
    body.put("tools", tools);
    let alone = ask.parallel.take() == Some(false);
    let mut written = match choice {
        None if alone => Object::default().with("type", "auto"),
        None => return,
        Some(Choice::Auto | Choice::Among { required: false, .. }) => Object::default().with("type", "auto"),
        Some(Choice::None) => Object::default().with("type", "none"),
        Some(Choice::Required | Choice::Among { required: true, .. }) => {
            Object::default().with("type", "any")
        }
        Some(Choice::Tool(name)) => Object::default().with("type", "tool").with("name", name),
    };
    if alone && written.text("type") != Some("none") {
        written.put("disable_parallel_tool_use", true);
    }
    body.put("tool_choice", written);
}

/// Anthropic insists on a schema, and that it is one of an object.
fn object_schema(schema: Option<Value<'_>>) -> Value<'_> {
    match schema {
        Some(Value::Object(mut schema)) => {
            if schema.get("type").is_none() {
                schema.put("type", "object");
            }
            schema.into()
        }
        _ => Object::default().with("type", "object").with("properties", Object::default()).into(),
    }
}

/// Ids as Anthropic takes them: letters, digits, `_` and `-`.
pub(crate) fn safe_id(id: Cow<'_, str>) -> Cow<'_, str> {
    let is_safe = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
    if id.is_empty() {
        return Cow::Borrowed("call_0");
    }
    if id.chars().all(is_safe) {
        return id;
    }
    Cow::Owned(id.chars().map(|character| if is_safe(character) { character } else { '_' }).collect())
}

fn write_block<'a>(part: Part<'a>, path: &str, ask: &mut Ask<'a>) -> Result<Option<Value<'a>>, BadRequest> {
    let mut block = match part.body {
        // Anthropic refuses empty texts.
        Body::Text(text) | Body::Refusal(text) if text.is_empty() => return Ok(None),
        Body::Text(text) | Body::Refusal(text) => text_block(text),
        Body::Image { source, detail } => {
            if detail.is_some() {
                ask.notes.drop_field(format!("{path}.image_url.detail"));
            }
            Object::default().with("type", "image").with("source", write_source(source))
        }
        Body::File { source, name } => {
            let mut block = Object::default().with("type", "document").with("source", write_source(source));
            block.put_some("title", name);
            block
        }
        Body::Audio { .. } => return Err(no_equivalent(format!("{path}.input_audio"))),
        Body::Thinking { text, mark } => match mark {
            Some(mark) if mark.redacted => {
                Object::default().with("type", "redacted_thinking").with("data", mark.payload)
            }
            Some(mark) => Object::default()
                .with("type", "thinking")
                .with("thinking", text)
                .with("signature", mark.payload),
            None => return Ok(None),
        },
        Body::ToolCall { id, name, arguments, .. } => Object::default()
            .with("type", "tool_use")
            .with("id", safe_id(id))
            .with("name", name)
            .with("input", arguments_object(&arguments)),
        Body::ToolResult { id, parts, is_error } => {
            let mut content = Vec::new();
            for part in parts {
                if let Some(block) = write_block(part, path, ask)? {
                    content.push(block);
                }
            }
            let mut block = Object::default().with("type", "tool_result").with("tool_use_id", safe_id(id));
            if !content.is_empty() {
                block.put("content", plain_if_one_text(content));
            }
            if is_error {
                block.put("is_error", true);
            }
            block
        }
    };
    block.put_some("cache_control", part.cache);
    Ok(Some(block.into()))
}

fn text_block(text: Cow<'_, str>) -> Object<'_> {
    Object::default().with("type", "text").with("text", text)
}

fn write_source(source: Source<'_>) -> Object<'_> {
    match source {
        Source::Url(url) => Object::default().with("type", "url").with("url", url),
        Source::Base64 { media_type, data } => {
            Object::default().with("type", "base64").with("media_type", media_type).with("data", data)
        }
        Source::Text(text) => {
            Object::default().with("type", "text").with("media_type", "text/plain").with("data", text)
        }
    }
}

fn plain_if_one_text(mut blocks: Vec<Value<'_>>) -> Value<'_> {
    match blocks.as_mut_slice() {
        [Value::Object(one)] if one.0.len() == 2 && one.text("type") == Some("text") => {
            one.take("text").unwrap_or(Value::Null)
        }
        _ => Value::Array(blocks),
    }
}

pub(crate) fn read_finish(reason: &str, sequence: Option<&str>) -> Finish {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "stop_sequence" => Finish::StopSequence(sequence.map(str::to_owned)),
        "tool_use" => Finish::ToolCalls,
        "refusal" => Finish::Refused,
        "pause_turn" => Finish::Pause,
        _ => Finish::Stop,
    }
}

/// `stop_reason` and `stop_sequence`.
pub(crate) fn write_finish<'a>(finish: Option<&Finish>) -> (Value<'a>, Value<'a>) {
    let reason = match finish {
        None => return (Value::Null, Value::Null),
        Some(Finish::StopSequence(Some(sequence))) => {
            return ("stop_sequence".into(), sequence.clone().into());
        }
        Some(Finish::Stop | Finish::StopSequence(None)) => "end_turn",
        Some(Finish::Length) => "max_tokens",
        Some(Finish::ToolCalls) => "tool_use",
        Some(Finish::Refused | Finish::Failed(_)) => "refusal",
        Some(Finish::Pause) => "pause_turn",
    };
    (reason.into(), Value::Null)
}

pub(crate) fn read_reply<'a>(value: Value<'a>, shown: &Shown<'_>) -> Result<Reply<'a>, BadReply> {
    if let Some(error) = error_in(Format::Messages, &value, None) {
        return Err(error.into());
    }
    let Value::Object(mut body) = value else { return Err(BadReply::new("the reply is not a JSON object")) };
    let mut reply = Reply {
        id: body.take_text("id"),
        usage: usage::in_value(Format::Messages, body.get("usage")),
        ..Reply::default()
    };
    reply.finish = body.text("stop_reason").map(|reason| read_finish(reason, body.text("stop_sequence")));
    let Some(Value::Array(blocks)) = body.take("content") else {
        return Err(BadReply::new("the reply has no `content`"));
    };
    for (index, block) in blocks.into_iter().enumerate() {
        let Value::Object(mut block) = block else { continue };
        let text = |block: &mut Object<'a>, key: &str| block.take_text(key).unwrap_or_default();
        match block.take_text("type").as_deref() {
            Some("text") => match text(&mut block, "text") {
                empty if empty.is_empty() => {}
                text => reply.parts.push(Body::Text(text)),
            },
            Some("thinking") => {
                let mark = Mark::new(Format::Messages, text(&mut block, "signature"));
                reply.parts.push(Body::Thinking { text: text(&mut block, "thinking"), mark: Some(mark) });
            }
            Some("redacted_thinking") => {
                let mark = Mark { redacted: true, ..Mark::new(Format::Messages, text(&mut block, "data")) };
                reply.parts.push(Body::Thinking { text: Cow::Borrowed(""), mark: Some(mark) });
            }
            Some("tool_use") => {
                let id = block.take_text("id").filter(|id| !id.is_empty());
                reply.parts.push(Body::ToolCall {
                    id: id.unwrap_or_else(|| minted("toolu_", shown.seed, index as u64).into()),
                    name: text(&mut block, "name"),
                    arguments: block.take("input").map(|input| input.to_json()).unwrap_or_default().into(),
                    mark: None,
                });
            }
            _ => {}
        }
    }
    Ok(reply)
}

pub(crate) fn usage_or_null<'a>(usage: Option<crate::Usage>) -> Object<'a> {
    match usage {
        Some(usage) => usage::write(Format::Messages, &usage),
        None => Object::default().with("input_tokens", Value::Null).with("output_tokens", Value::Null),
    }
}

/// A block with reasoning: signed text, or what only its provider can read.
pub(crate) fn thinking_block<'a>(text: Cow<'a, str>, mark: Option<&Mark<'_>>) -> Object<'a> {
    let signature = mark.map(|mark| mark.written_in(Format::Messages)).unwrap_or_default();
    if text.is_empty() {
        Object::default().with("type", "redacted_thinking").with("data", signature)
    } else {
        Object::default().with("type", "thinking").with("thinking", text).with("signature", signature)
    }
}

pub(crate) fn write_reply<'a>(reply: Reply<'a>, shown: &Shown<'a>) -> Result<Object<'a>, BadReply> {
    let mut content: Vec<Value<'a>> = Vec::new();
    for part in reply.parts {
        match part {
            Body::Text(text) | Body::Refusal(text) => content.push(text_block(text).into()),
            Body::Thinking { text, mark } => content.push(thinking_block(text, mark.as_ref()).into()),
            Body::ToolCall { id, name, arguments, mark } => {
                if let Some(mark) = mark {
                    content.push(thinking_block(Cow::Borrowed(""), Some(&mark)).into());
                }
                content.push(
                    Object::default()
                        .with("type", "tool_use")
                        .with("id", safe_id(id))
                        .with("name", name)
                        .with("input", arguments_object(&arguments))
                        .into(),
                );
            }
            Body::Image { .. } | Body::File { .. } | Body::Audio { .. } | Body::ToolResult { .. } => {
                return Err(BadReply::new(
                    "the reply holds an image or a file, which the messages format cannot say",
                ));
            }
        }
    }
    let (stop_reason, stop_sequence) = write_finish(reply.finish.as_ref());
    Ok(Object::default()
        .with("id", reply.id.unwrap_or_else(|| minted("msg_", shown.seed, u64::MAX).into()))
        .with("type", "message")
        .with("role", "assistant")
        .with("model", shown.model)
        .with("content", content)
        .with("stop_reason", stop_reason)
        .with("stop_sequence", stop_sequence)
        .with("usage", usage_or_null(reply.usage)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn models_that_think_adaptively_are_known_by_their_version() {
        for (model, adaptive) in [
            ("claude-opus-4-6", true),
            ("claude-sonnet-4-7-20261001", true),
            ("claude-opus-5", true),
            ("anthropic.claude-opus-4-6-v1:0", true),
            ("claude-haiku-4-5", false),
            ("claude-opus-4-20250514", false),
            ("claude-3-7-sonnet-20250219", false),
            ("gpt-5", false),
            ("claude-", false),
        ] {
            assert_eq!(super::is_adaptive(model), adaptive, "{model}");
        }
    }
}
