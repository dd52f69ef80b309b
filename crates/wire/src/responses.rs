//! OpenAI responses.
//!
//! Source: OpenAI API reference "Responses" and "Streaming events", guides "Migrate to the Responses API", "Reasoning".

use crate::error::error_in;
use crate::json::{Object, Value};
use crate::mark::Mark;
use crate::neutral::{
    Ask, Body, Choice, Finish, Output, Part, Reasoning, Reply, Role, Shown, Source, Target, Tool, Turn,
    arguments_text, array, boolean, keep_own_thinking, minted, no_equivalent, object, required,
    required_text, text, whole,
};
use crate::usage;
use crate::{BadReply, BadRequest, Format};
use std::borrow::Cow;

/// Members that OpenAI's two formats share under one name.
const SHARED: [&str; 9] = [
    "service_tier",
    "store",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "moderation",
    "top_logprobs",
];
/// Members that point at what the provider keeps, or at work in its background.
const REFUSED: [&str; 3] = ["previous_response_id", "conversation", "prompt"];

pub(crate) fn read_request(mut body: Object<'_>) -> Result<Ask<'_>, BadRequest> {
    let mut ask = Ask::default();
    body.take("model");
    for field in REFUSED {
        if body.take(field).is_some() {
            return Err(no_equivalent(field));
        }
    }
    if body.take("background").and_then(|value| value.as_bool()) == Some(true) {
        return Err(no_equivalent("background"));
    }
    // Whether it is cut or refused when too long is the provider's default elsewhere.
    if body.text("truncation") == Some("disabled") {
        body.take("truncation");
    }
    ask.stream = body.take("stream").map(|value| boolean(&value, "stream")).transpose()?;
    body.take("stream_options");
    ask.max_tokens =
        body.take("max_output_tokens").map(|value| whole(&value, "max_output_tokens")).transpose()?;
    ask.temperature = body.take("temperature");
    ask.top_p = body.take("top_p");
    ask.parallel =
        body.take("parallel_tool_calls").map(|value| boolean(&value, "parallel_tool_calls")).transpose()?;
    ask.user = body.take("user").map(|user| text(user, "user")).transpose()?;
    let mut wants_encrypted = false;
    if let Some(Value::Array(include)) = body.take("include") {
        for one in include {
            match one.as_str() {
                // Reasoning is always carried along.
                Some("reasoning.encrypted_content") => wants_encrypted = true,
                Some(other) => ask.notes.drop_field(format!("include.{other}")),
                None => {}
            }
        }
    }
    if let Some(reasoning) = body.take("reasoning") {
        let mut reasoning = object(reasoning, "reasoning")?;
        let is_shown = reasoning.take("summary").or_else(|| reasoning.take("generate_summary")).is_some();
        let effort = reasoning.take_text("effort");
        if effort.is_some() || is_shown {
            ask.reasoning = Some(Reasoning {
                effort,
                is_shown: is_shown || wants_encrypted,
                field: "reasoning",
                ..Reasoning::default()
            });
        }
        ask.notes.drop_rest("reasoning", &reasoning);
    }
    if let Some(config) = body.take("text") {
        let mut config = object(config, "text")?;
        if let Some(format) = config.take("format") {
            ask.output = read_output(object(format, "text.format")?)?;
        }
        if let Some(verbosity) = config.take("verbosity") {
            ask.openai.push(("verbosity", verbosity));
        }
        ask.notes.drop_rest("text", &config);
    }
    for field in SHARED {
        if let Some(value) = body.take(field) {
            ask.openai.push((field, value));
        }
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
        if tool.take_text("type").as_deref() != Some("function") {
            return Err(no_equivalent(path));
        }
        let read = Tool {
            name: required_text(&mut tool, "name", &path)?,
            description: tool.take_text("description"),
            schema: tool.take("parameters"),
            strict: tool.take("strict").and_then(|strict| strict.as_bool()),
            cache: None,
        };
        ask.notes.drop_rest(&path, &tool);
        ask.tools.push(read);
    }
    ask.choice = body.take("tool_choice").map(read_choice).transpose()?;
    if let Some(instructions) = body.take("instructions") {
        let parts = vec![Body::Text(text(instructions, "instructions")?).into()];
        ask.turns.push(Turn { role: Role::System, parts, path: "instructions".into() });
    }
    match required(&mut body, "input", "")? {
        Value::String(text) => {
            ask.turns.push(Turn {
                role: Role::User,
                parts: vec![Body::Text(text).into()],
                path: "input".into(),
            });
        }
        input => {
            for (index, item) in array(input, "input")?.into_iter().enumerate() {
                let path = format!("input[{index}]");
                read_item(object(item, &path)?, path, &mut ask)?;
            }
        }
    }
    ask.notes.drop_rest("", &body);
    Ok(ask)
}

fn read_output(mut format: Object<'_>) -> Result<Output<'_>, BadRequest> {
    match format.text("type") {
        None | Some("text") => Ok(Output::Text),
        Some("json_object") => Ok(Output::Json),
        Some("json_schema") => Ok(Output::Schema {
            name: format.take_text("name"),
            description: format.take_text("description"),
            schema: required(&mut format, "schema", "text.format")?,
            strict: format.take("strict").and_then(|strict| strict.as_bool()),
        }),
        Some(_) => Err(no_equivalent("text.format")),
    }
}

fn read_choice(choice: Value<'_>) -> Result<Choice<'_>, BadRequest> {
    let field = "tool_choice";
    if let Value::String(word) = &choice {
        return match word.as_ref() {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::None),
            "required" => Ok(Choice::Required),
            _ => Err(BadRequest::field(field, "must be `auto`, `none`, `required` or an object")),
        };
    }
    let mut choice = object(choice, field)?;
    match choice.text("type") {
        Some("function") => Ok(Choice::Tool(required_text(&mut choice, "name", field)?)),
        Some("allowed_tools") => {
            let must = choice.text("mode") == Some("required");
            let tools = array(required(&mut choice, "tools", field)?, "tool_choice.tools")?;
            let names = tools
                .into_iter()
                .map(|tool| {
                    required_text(&mut object(tool, "tool_choice.tools")?, "name", "tool_choice.tools")
                })
                .collect::<Result<_, _>>()?;
            Ok(Choice::Among { names, required: must })
        }
        _ => Err(no_equivalent(field)),
    }
}

fn read_item<'a>(mut item: Object<'a>, path: String, ask: &mut Ask<'a>) -> Result<(), BadRequest> {
    item.take("status");
    let sort = item.take_text("type").unwrap_or(Cow::Borrowed("message"));
    let (role, parts) = match sort.as_ref() {
        "message" => {
            item.take("id");
            let role = match required_text(&mut item, "role", &path)?.as_ref() {
                "user" => Role::User,
                "assistant" => Role::Assistant,
                "system" | "developer" => Role::System,
                _ => return Err(BadRequest::field(format!("{path}.role"), "is not a known role")),
            };
            let mut parts = Vec::new();
            read_content(
                required(&mut item, "content", &path)?,
                &format!("{path}.content"),
                &mut parts,
                ask,
            )?;
            (role, parts)
        }
        "function_call" => {
            item.take("id");
            let call = Body::ToolCall {
                id: required_text(&mut item, "call_id", &path)?,
                name: required_text(&mut item, "name", &path)?,
                arguments: item.take_text("arguments").unwrap_or_default(),
                mark: None,
            };
            (Role::Assistant, vec![call.into()])
        }
        "function_call_output" => {
            item.take("id");
            let id = required_text(&mut item, "call_id", &path)?;
            let mut parts = Vec::new();
            read_content(required(&mut item, "output", &path)?, &format!("{path}.output"), &mut parts, ask)?;
            (Role::User, vec![Body::ToolResult { id, parts, is_error: false }.into()])
        }
        "reasoning" => (Role::Assistant, vec![read_reasoning(&mut item).into()]),
        _ => return Err(no_equivalent(format!("{path}.type"))),
    };
    ask.notes.drop_rest(&path, &item);
    // Reasoning, text and calls of one answer are items of their own here and one turn elsewhere.
    match ask.turns.last_mut() {
        Some(last) if last.role == Role::Assistant && role == Role::Assistant => last.parts.extend(parts),
        _ => ask.turns.push(Turn { role, parts, path }),
    }
    Ok(())
}

/// A reasoning item; its mark is id and encrypted content, which OpenAI wants back together.
pub(crate) fn read_reasoning<'a>(item: &mut Object<'a>) -> Body<'a> {
    let id = item.take_text("id").unwrap_or_default();
    let mut pieces = Vec::new();
    for list in ["summary", "content"] {
        if let Some(Value::Array(parts)) = item.take(list) {
            for part in parts {
                if let Value::Object(mut part) = part
                    && let Some(text) = part.take_text("text")
                {
                    pieces.push(text);
                }
            }
        }
    }
    let text = match pieces.len() {
        1 => pieces.remove(0),
        _ => Cow::Owned(pieces.join("\n\n")),
    };
    let mark = match item.take_text("encrypted_content") {
        Some(encrypted) => {
            let mut mark = Mark::read(Format::Responses, encrypted);
            if mark.family == Format::Responses {
                mark.payload = format!("{id}\n{}", mark.payload).into();
            }
            Some(mark)
        }
        None => None,
    };
    Body::Thinking { text, mark }
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
    for (index, element) in array(content, path)?.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let mut element = object(element, &path)?;
        let sort = required_text(&mut element, "type", &path)?;
        let body = match sort.as_ref() {
            "input_text" | "output_text" | "text" | "summary_text" => {
                element.take("annotations");
                element.take("logprobs");
                Body::Text(required_text(&mut element, "text", &path)?)
            }
            "refusal" => Body::Refusal(required_text(&mut element, "refusal", &path)?),
            "input_image" => {
                if element.take("file_id").is_some() {
                    return Err(no_equivalent(format!("{path}.file_id")));
                }
                let detail = element.take("detail").filter(|detail| detail.as_str() != Some("auto"));
                let url = required_text(&mut element, "image_url", &path)?;
                Body::Image { source: Source::from_url(url), detail }
            }
            "input_file" => {
                if element.take("file_id").is_some() {
                    return Err(no_equivalent(format!("{path}.file_id")));
                }
                let name = element.take_text("filename");
                let data = match element.take_text("file_url") {
                    Some(url) => url,
                    None => required_text(&mut element, "file_data", &path)?,
                };
                Body::File { source: Source::from_url(data), name }
            }
            "input_audio" => {
                let path = format!("{path}.input_audio");
                let mut audio = object(required(&mut element, "input_audio", &path)?, &path)?;
                Body::Audio {
                    data: required_text(&mut audio, "data", &path)?,
                    format: required_text(&mut audio, "format", &path)?,
                }
            }
            _ => return Err(no_equivalent(format!("{path}.type"))),
        };
        ask.notes.drop_rest(&path, &element);
        parts.push(body.into());
    }
    Ok(())
}

pub(crate) fn write_request<'a>(
    mut ask: Ask<'a>,
    target: &Target<'a>,
) -> Result<(Object<'a>, Ask<'a>), BadRequest> {
    let mut turns = std::mem::take(&mut ask.turns);
    keep_own_thinking(&mut turns, Format::Responses, &mut ask.notes);
    let mut body = Object::default().with("model", target.model);
    let is_instruction = |turn: &Turn<'_>| {
        turn.role == Role::System && turn.parts.iter().all(|part| matches!(part.body, Body::Text(_)))
    };
    let leading = turns.iter().take_while(|turn| is_instruction(turn)).count();
    let instructions: Vec<Cow<'a, str>> = turns
        .drain(..leading)
        .flat_map(|turn| turn.parts)
        .filter_map(|part| {
            if part.cache.is_some() {
                ask.notes.drop_field("cache_control");
            }
            if let Body::Text(text) = part.body { Some(text) } else { None }
        })
        .collect();
    if !instructions.is_empty() {
        body.put("instructions", instructions.join("\n\n"));
    }
    let mut items = Vec::new();
    for turn in turns {
        write_turn(turn, &mut ask, &mut items)?;
    }
    body.put("input", Value::Array(items));
    if !ask.tools.is_empty() {
        let mut tools = Vec::new();
        for tool in std::mem::take(&mut ask.tools) {
            if tool.cache.is_some() {
                ask.notes.drop_field("cache_control");
            }
            let mut object = Object::default().with("type", "function").with("name", tool.name);
            object.put_some("description", tool.description);
            // Both members are required here, and strict is the default elsewhere only.
            object.put(
                "parameters",
                tool.schema.unwrap_or_else(|| {
                    Object::default().with("type", "object").with("properties", Object::default()).into()
                }),
            );
            object.put("strict", tool.strict.unwrap_or(false));
            tools.push(Value::from(object));
        }
        body.put("tools", tools);
        body.put_some("tool_choice", ask.choice.take().map(write_choice));
        body.put_some("parallel_tool_calls", ask.parallel.take());
    }
    body.put_some("max_output_tokens", ask.max_tokens.take());
    body.put_some("temperature", ask.temperature.take());
    body.put_some("top_p", ask.top_p.take());
    if !ask.stop.is_empty() {
        // An answer that runs past its stop is not what was asked for.
        return Err(no_equivalent("stop"));
    }
    let mut config = Object::default();
    match std::mem::take(&mut ask.output) {
        Output::Text => {}
        Output::Json => config.put("format", Object::default().with("type", "json_object")),
        Output::Schema { name, description, schema, strict } => {
            let strict = strict.unwrap_or_else(|| crate::neutral::is_strict(&schema, 0));
            let mut format = Object::default()
                .with("type", "json_schema")
                .with("name", name.unwrap_or(Cow::Borrowed("response")));
            format.put_some("description", description);
            format.put("schema", schema);
            format.put("strict", strict);
            config.put("format", format);
        }
    }
    let mut has_store = false;
    for (field, value) in std::mem::take(&mut ask.openai) {
        has_store |= field == "store";
        if field == "verbosity" { config.put(field, value) } else { body.put(field, value) }
    }
    if !config.0.is_empty() {
        body.put("text", config);
    }
    // Here answers are kept by default, in the other formats they are not.
    if !has_store {
        body.put("store", false);
    }
    if let Some(reasoning) = ask.reasoning.take() {
        let mut written = Object::default();
        match reasoning.effort() {
            Some(effort) if target.can_reason && !reasoning.is_off => {
                written.put("effort", effort.to_owned());
            }
            _ if target.can_reason && reasoning.is_shown => {}
            _ => ask.notes.drop_field(reasoning.field),
        }
        if target.can_reason && reasoning.is_shown {
            written.put("summary", "auto");
            body.put("include", vec!["reasoning.encrypted_content".into()]);
        }
        if !written.0.is_empty() {
            body.put("reasoning", written);
        }
    }
    match ask.user.take() {
        Some(user) if user.len() > 64 => ask.notes.drop_field("user"),
        user => body.put_some("user", user),
    }
    if ask.stream == Some(true) {
        body.put("stream", true);
    }
    Ok((body, ask))
}

fn write_choice(choice: Choice<'_>) -> Value<'_> {
    match choice {
        Choice::Auto => "auto".into(),
        Choice::None => "none".into(),
        Choice::Required => "required".into(),
        Choice::Tool(name) => Object::default().with("type", "function").with("name", name).into(),
        Choice::Among { names, required } => Object::default()
            .with("type", "allowed_tools")
            .with("mode", if required { "required" } else { "auto" })
            .with(
                "tools",
                names
                    .into_iter()
                    .map(|name| Object::default().with("type", "function").with("name", name).into())
                    .collect::<Vec<Value<'_>>>(),
            )
            .into(),
    }
}

/// One turn becomes items: results, the message, reasoning and calls each on their own, in order.
fn write_turn<'a>(turn: Turn<'a>, ask: &mut Ask<'a>, items: &mut Vec<Value<'a>>) -> Result<(), BadRequest> {
    let role = match turn.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let mut content: Vec<Value<'a>> = Vec::new();
    let flush = |content: &mut Vec<Value<'a>>, items: &mut Vec<Value<'a>>| {
        if !content.is_empty() {
            let content = std::mem::take(content);
            items.push(
                Object::default().with("type", "message").with("role", role).with("content", content).into(),
            );
        }
    };
    for part in turn.parts {
        if part.cache.is_some() {
            ask.notes.drop_field("cache_control");
        }
        match part.body {
            Body::ToolCall { id, name, arguments, .. } => {
                flush(&mut content, items);
                items.push(
                    Object::default()
                        .with("type", "function_call")
                        .with("call_id", id)
                        .with("name", name)
                        .with("arguments", arguments_text(arguments))
                        .into(),
                );
            }
            Body::ToolResult { id, parts, is_error } => {
                flush(&mut content, items);
                if is_error {
                    ask.notes.drop_field(format!("{}.is_error", turn.path));
                }
                let mut inside = Vec::new();
                for part in parts {
                    inside.extend(write_element(part.body, &turn.path)?);
                }
                let output = match inside.as_mut_slice() {
                    [] => "".into(),
                    [Value::Object(one)] if one.text("type") == Some("input_text") => {
                        one.take("text").unwrap_or(Value::Null)
                    }
                    _ => Value::Array(inside),
                };
                items.push(
                    Object::default()
                        .with("type", "function_call_output")
                        .with("call_id", id)
                        .with("output", output)
                        .into(),
                );
            }
            Body::Thinking { text, mark } => {
                flush(&mut content, items);
                let Some(mark) = mark else { continue };
                items.push(reasoning_item(text, &mark).into());
            }
            // What an assistant said is text here; in elements it would need the id under which OpenAI keeps it.
            Body::Text(text) | Body::Refusal(text) if turn.role == Role::Assistant => {
                if !text.is_empty() {
                    items.push(
                        Object::default()
                            .with("type", "message")
                            .with("role", role)
                            .with("content", text)
                            .into(),
                    );
                }
            }
            body => content.extend(write_element(body, &turn.path)?),
        }
    }
    flush(&mut content, items);
    Ok(())
}

fn write_element<'a>(body: Body<'a>, path: &str) -> Result<Option<Value<'a>>, BadRequest> {
    Ok(Some(match body {
        Body::Text(text) if text.is_empty() => return Ok(None),
        Body::Text(text) | Body::Refusal(text) | Body::File { source: Source::Text(text), .. } => {
            Object::default().with("type", "input_text").with("text", text).into()
        }
        Body::Image { source, detail } => Object::default()
            .with("type", "input_image")
            .with("image_url", source.into_url())
            .with("detail", detail.unwrap_or_else(|| "auto".into()))
            .into(),
        Body::File { source, name } => {
            let mut file = Object::default().with("type", "input_file");
            match source {
                Source::Url(url) => file.put("file_url", url),
                source => {
                    file.put("filename", name.unwrap_or(Cow::Borrowed("document.pdf")));
                    file.put("file_data", source.into_url());
                }
            }
            file.into()
        }
        Body::Audio { .. } => return Err(no_equivalent(format!("{path}.input_audio"))),
        Body::Thinking { .. } | Body::ToolCall { .. } | Body::ToolResult { .. } => {
            return Err(no_equivalent(format!("{path}.content")));
        }
    }))
}

pub(crate) fn output_text(text: Cow<'_, str>) -> Object<'_> {
    Object::default().with("type", "output_text").with("text", text).with("annotations", Vec::new())
}

fn summary(text: Cow<'_, str>) -> Value<'_> {
    if text.is_empty() {
        return Value::Array(Vec::new());
    }
    Value::Array(vec![Object::default().with("type", "summary_text").with("text", text).into()])
}

/// A reasoning item for OpenAI, out of its own id and encrypted content.
fn reasoning_item<'a>(text: Cow<'a, str>, mark: &Mark<'a>) -> Object<'a> {
    let (id, encrypted) = mark.payload.split_once('\n').unwrap_or(("", &mark.payload));
    let mut item = Object::default().with("type", "reasoning");
    if !id.is_empty() {
        item.put("id", id.to_owned());
    }
    item.put("summary", summary(text));
    if !encrypted.is_empty() {
        item.put("encrypted_content", encrypted.to_owned());
    }
    item
}

/// A reasoning item for a client.
pub(crate) fn shown_reasoning<'a>(id: String, text: Cow<'a, str>, mark: Option<&Mark<'_>>) -> Object<'a> {
    let mut item = Object::default().with("id", id).with("type", "reasoning").with("summary", summary(text));
    item.put_some("encrypted_content", mark.map(|mark| mark.written_in(Format::Responses)));
    item
}

pub(crate) fn shown_message<'a>(id: String, element: Object<'a>, status: &'static str) -> Object<'a> {
    Object::default()
        .with("id", id)
        .with("type", "message")
        .with("status", status)
        .with("role", "assistant")
        .with("content", vec![element.into()])
}

pub(crate) fn shown_call<'a>(
    id: String,
    call_id: Cow<'a, str>,
    name: Cow<'a, str>,
    arguments: Cow<'a, str>,
    status: &'static str,
) -> Object<'a> {
    Object::default()
        .with("id", id)
        .with("type", "function_call")
        .with("status", status)
        .with("arguments", arguments)
        .with("call_id", call_id)
        .with("name", name)
}

pub(crate) fn refusal_element(text: Cow<'_, str>) -> Object<'_> {
    Object::default().with("type", "refusal").with("refusal", text)
}

/// `status` and `incomplete_details`.
pub(crate) fn write_finish(finish: Option<&Finish>) -> (&'static str, Value<'static>) {
    let incomplete = |reason: &'static str| ("incomplete", Object::default().with("reason", reason).into());
    match finish {
        Some(Finish::Length | Finish::Pause) => incomplete("max_output_tokens"),
        Some(Finish::Refused | Finish::Failed(_)) => incomplete("content_filter"),
        _ => ("completed", Value::Null),
    }
}

pub(crate) fn read_finish(body: &Object<'_>) -> Option<Finish> {
    match body.text("status")? {
        "completed" => Some(Finish::Stop),
        "incomplete" => match body
            .get("incomplete_details")
            .and_then(|details| details.get("reason"))
            .and_then(Value::as_str)
        {
            Some("content_filter") => Some(Finish::Refused),
            _ => Some(Finish::Length),
        },
        _ => None,
    }
}

pub(crate) fn read_reply<'a>(value: Value<'a>, shown: &Shown<'_>) -> Result<Reply<'a>, BadReply> {
    if let Some(error) = error_in(Format::Responses, &value, None) {
        return Err(error.into());
    }
    let Value::Object(mut body) = value else { return Err(BadReply::new("the reply is not a JSON object")) };
    let mut reply = Reply {
        usage: usage::in_value(Format::Responses, body.get("usage")),
        finish: read_finish(&body),
        created: body.get("created_at").and_then(Value::as_u64),
        ..Reply::default()
    };
    if let Some(status @ ("failed" | "cancelled" | "queued" | "in_progress")) = body.text("status") {
        return Err(BadReply::new(format!("the response is `{status}`")));
    }
    reply.id = body.take_text("id");
    let Some(Value::Array(items)) = body.take("output") else {
        return Err(BadReply::new("the reply has no `output`"));
    };
    for (index, item) in items.into_iter().enumerate() {
        let Value::Object(mut item) = item else { continue };
        match item.take_text("type").as_deref() {
            Some("message") => {
                let Some(Value::Array(elements)) = item.take("content") else { continue };
                for element in elements {
                    let Value::Object(mut element) = element else { continue };
                    if let Some(text) = element.take_text("text").filter(|text| !text.is_empty()) {
                        reply.parts.push(Body::Text(text));
                    } else if let Some(refusal) = element.take_text("refusal") {
                        reply.parts.push(Body::Refusal(refusal));
                    }
                }
            }
            Some("function_call") => {
                let id = item.take_text("call_id").filter(|id| !id.is_empty());
                reply.parts.push(Body::ToolCall {
                    id: id.unwrap_or_else(|| minted("call_", shown.seed, index as u64).into()),
                    name: item.take_text("name").unwrap_or_default(),
                    arguments: item.take_text("arguments").unwrap_or_default(),
                    mark: None,
                });
            }
            Some("reasoning") => {
                // Without a summary and without anything to send back there is nothing to say.
                if let Body::Thinking { text, mark } = read_reasoning(&mut item)
                    && (mark.is_some() || !text.is_empty())
                {
                    let mark = mark.unwrap_or_else(|| Mark::new(Format::Responses, "\n"));
                    reply.parts.push(Body::Thinking { text, mark: Some(mark) });
                }
            }
            Some("image_generation_call") => {
                if let Some(data) = item.take_text("result") {
                    let source = Source::Base64 { media_type: Cow::Borrowed("image/png"), data };
                    reply.parts.push(Body::Image { source, detail: None });
                }
            }
            _ => {}
        }
    }
    Ok(reply)
}

/// The whole response, with the members that clients expect.
pub(crate) fn envelope<'a>(
    id: Cow<'a, str>,
    created_s: u64,
    model: &'a str,
    status: &'a str,
    incomplete: Value<'a>,
    output: Vec<Value<'a>>,
    usage: Option<crate::Usage>,
) -> Object<'a> {
    Object::default()
        .with("id", id)
        .with("object", "response")
        .with("created_at", created_s)
        .with("status", status)
        .with("error", Value::Null)
        .with("incomplete_details", incomplete)
        .with("instructions", Value::Null)
        .with("max_output_tokens", Value::Null)
        .with("model", model)
        .with("output", output)
        .with("parallel_tool_calls", true)
        .with("previous_response_id", Value::Null)
        .with("store", false)
        .with("temperature", Value::Null)
        .with("text", Object::default().with("format", Object::default().with("type", "text")))
        .with("tool_choice", "auto")
        .with("tools", Vec::new())
        .with("top_p", Value::Null)
        .with("truncation", "disabled")
        .with("usage", usage.map_or(Value::Null, |usage| usage::write(Format::Responses, &usage).into()))
        .with("metadata", Object::default())
}

/// Ids of items: the sort, the response and the place.
pub(crate) fn item_id(prefix: &str, seed: u64, number: u64) -> String {
    minted(prefix, seed, 1_000 + number)
}

pub(crate) fn write_reply<'a>(reply: Reply<'a>, shown: &Shown<'a>) -> Object<'a> {
    let (status, incomplete) = write_finish(reply.finish.as_ref());
    let mut output: Vec<Value<'a>> = Vec::new();
    for part in reply.parts {
        let number = output.len() as u64;
        let id = |prefix: &str| item_id(prefix, shown.seed, number);
        match part {
            Body::Text(text) => output.push(shown_message(id("msg_"), output_text(text), status).into()),
            Body::Refusal(text) => {
                output.push(shown_message(id("msg_"), refusal_element(text), status).into());
            }
            Body::Thinking { text, mark } => {
                output.push(shown_reasoning(id("rs_"), text, mark.as_ref()).into());
            }
            Body::ToolCall { id: call, name, arguments, mark } => {
                if let Some(mark) = mark {
                    output.push(shown_reasoning(id("rs_"), Cow::Borrowed(""), Some(&mark)).into());
                }
                let id = item_id("fc_", shown.seed, output.len() as u64);
                output.push(shown_call(id, call, name, arguments_text(arguments), status).into());
            }
            Body::Image { source: Source::Base64 { data, .. }, .. } => output.push(
                Object::default()
                    .with("id", id("ig_"))
                    .with("type", "image_generation_call")
                    .with("status", "completed")
                    .with("result", data)
                    .into(),
            ),
            Body::Image { .. } | Body::File { .. } | Body::Audio { .. } | Body::ToolResult { .. } => {}
        }
    }
    let id = reply.id.unwrap_or_else(|| minted("resp_", shown.seed, u64::MAX).into());
    envelope(
        id,
        reply.created.unwrap_or(shown.created_s),
        shown.model,
        status,
        incomplete,
        output,
        reply.usage,
    )
}
