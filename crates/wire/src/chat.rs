//! OpenAI chat completions.
//!
//! Source: OpenAI API reference, "Chat completions"; reasoning as DeepSeek (`reasoning_content`) and OpenRouter (`reasoning_details`) document it;
//! Gemini's signatures as Google's guide "OpenAI compatibility" does (`extra_content.google.thought_signature`).

use crate::error::error_in;
use crate::json::{Object, Value};
use crate::mark::Mark;
use crate::neutral::{
    Ask, Body, Choice, Finish, Output, Part, Reasoning, Reply, Role, Shown, Source, Target, Tool, Turn,
    arguments_text, array, boolean, minted, no_equivalent, object, required, required_text, text, texts,
    whole,
};
use crate::usage;
use crate::{BadReply, BadRequest, Format};
use std::borrow::Cow;

/// Members that OpenAI's two formats share under one name.
const SHARED: [&str; 10] = [
    "service_tier",
    "store",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "moderation",
    "top_logprobs",
    "verbosity",
];
/// Members without which the answer would not be what was asked for.
const REFUSED: [&str; 4] = ["audio", "web_search_options", "functions", "function_call"];

pub(crate) fn read_request(mut body: Object<'_>) -> Result<Ask<'_>, BadRequest> {
    let mut ask = Ask::default();
    body.take("model");
    for field in REFUSED {
        if body.take(field).is_some() {
            return Err(no_equivalent(field));
        }
    }
    if let Some(n) = body.take("n")
        && n.as_u64() != Some(1)
    {
        return Err(no_equivalent("n"));
    }
    if let Some(modalities) = body.take("modalities") {
        let modalities = texts(modalities, "modalities")?;
        if modalities.iter().any(|one| one != "text") {
            return Err(no_equivalent("modalities"));
        }
    }
    ask.stream = body.take("stream").map(|value| boolean(&value, "stream")).transpose()?;
    // Usage is asked of every provider, and shown to the client by the converter of the reply.
    body.take("stream_options");
    let limits = [body.take("max_completion_tokens"), body.take("max_tokens")];
    for limit in limits.into_iter().flatten() {
        let limit = whole(&limit, "max_tokens")?;
        ask.max_tokens = Some(ask.max_tokens.map_or(limit, |other| other.min(limit)));
    }
    ask.temperature = body.take("temperature");
    ask.top_p = body.take("top_p");
    ask.top_k = body.take("top_k");
    ask.seed = body.take("seed");
    ask.frequency_penalty = body.take("frequency_penalty");
    ask.presence_penalty = body.take("presence_penalty");
    ask.stop = body.take("stop").map(|stop| texts(stop, "stop")).transpose()?.unwrap_or_default();
    ask.parallel =
        body.take("parallel_tool_calls").map(|value| boolean(&value, "parallel_tool_calls")).transpose()?;
    ask.user = body.take("user").map(|user| text(user, "user")).transpose()?;
    if let Some(effort) = body.take("reasoning_effort") {
        ask.reasoning = Some(Reasoning {
            effort: Some(text(effort, "reasoning_effort")?),
            field: "reasoning_effort",
            ..Reasoning::default()
        });
    }
    if let Some(format) = body.take("response_format") {
        ask.output = read_output(object(format, "response_format")?)?;
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
        let tool = read_tool(tool, &format!("tools[{index}]"), &mut ask)?;
        ask.tools.push(tool);
    }
    ask.choice = body.take("tool_choice").map(read_choice).transpose()?;
    for (index, message) in array(required(&mut body, "messages", "")?, "messages")?.into_iter().enumerate() {
        let path = format!("messages[{index}]");
        let turn = read_message(object(message, &path)?, path, &mut ask)?;
        ask.turns.push(turn);
    }
    ask.notes.drop_rest("", &body);
    Ok(ask)
}

fn read_output(mut format: Object<'_>) -> Result<Output<'_>, BadRequest> {
    match format.text("type") {
        None | Some("text") => Ok(Output::Text),
        Some("json_object") => Ok(Output::Json),
        Some("json_schema") => {
            let mut inner = object(
                required(&mut format, "json_schema", "response_format")?,
                "response_format.json_schema",
            )?;
            Ok(Output::Schema {
                name: inner.take_text("name"),
                description: inner.take_text("description"),
                schema: inner.take("schema").unwrap_or(Value::Object(Object::default())),
                strict: inner.take("strict").and_then(|strict| strict.as_bool()),
            })
        }
        Some(_) => Err(no_equivalent("response_format")),
    }
}

fn read_tool<'a>(tool: Value<'a>, path: &str, ask: &mut Ask<'a>) -> Result<Tool<'a>, BadRequest> {
    let mut tool = object(tool, path)?;
    match tool.take_text("type").as_deref() {
        None | Some("function") => {}
        Some(_) => return Err(no_equivalent(path)),
    }
    let cache = tool.take("cache_control");
    let path_inside = format!("{path}.function");
    let mut function = object(required(&mut tool, "function", path)?, &path_inside)?;
    let read = Tool {
        name: required_text(&mut function, "name", &path_inside)?,
        description: function.take_text("description"),
        schema: function.take("parameters"),
        strict: function.take("strict").and_then(|strict| strict.as_bool()),
        cache: cache.or_else(|| function.take("cache_control")),
    };
    ask.notes.drop_rest(&path_inside, &function);
    ask.notes.drop_rest(path, &tool);
    Ok(read)
}

fn read_choice(choice: Value<'_>) -> Result<Choice<'_>, BadRequest> {
    let field = "tool_choice";
    if let Value::String(word) = &choice {
        return match word.as_ref() {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::None),
            "required" | "any" => Ok(Choice::Required),
            _ => Err(BadRequest::field(field, "must be `auto`, `none`, `required` or an object")),
        };
    }
    let mut choice = object(choice, field)?;
    match choice.text("type") {
        Some("function") => {
            let mut function = object(required(&mut choice, "function", field)?, "tool_choice.function")?;
            Ok(Choice::Tool(required_text(&mut function, "name", "tool_choice.function")?))
        }
        Some("allowed_tools") => {
            let mut allowed =
                object(required(&mut choice, "allowed_tools", field)?, "tool_choice.allowed_tools")?;
            let must = allowed.text("mode") == Some("required");
            let mut names = Vec::new();
            for tool in array(
                required(&mut allowed, "tools", "tool_choice.allowed_tools")?,
                "tool_choice.allowed_tools.tools",
            )? {
                let mut tool = object(tool, "tool_choice.allowed_tools.tools")?;
                let mut function = object(
                    required(&mut tool, "function", "tool_choice.allowed_tools.tools")?,
                    "tool_choice.allowed_tools.tools.function",
                )?;
                names.push(required_text(&mut function, "name", "tool_choice.allowed_tools.tools.function")?);
            }
            Ok(Choice::Among { names, required: must })
        }
        _ => Err(no_equivalent(field)),
    }
}

fn read_message<'a>(
    mut message: Object<'a>,
    path: String,
    ask: &mut Ask<'a>,
) -> Result<Turn<'a>, BadRequest> {
    let role = required_text(&mut message, "role", &path)?;
    let cache = message.take("cache_control");
    let content = message.take("content");
    let mut parts = Vec::new();
    let side = match role.as_ref() {
        "system" | "developer" => {
            read_content(content, &path, &mut parts, ask)?;
            Role::System
        }
        "user" => {
            read_content(content, &path, &mut parts, ask)?;
            Role::User
        }
        "assistant" => {
            read_reasoning(&mut message, &path, &mut parts, ask);
            read_content(content, &path, &mut parts, ask)?;
            if let Some(refusal) = message.take_text("refusal") {
                parts.push(Body::Refusal(refusal).into());
            }
            for field in ["audio", "function_call"] {
                if message.take(field).is_some() {
                    return Err(no_equivalent(format!("{path}.{field}")));
                }
            }
            let calls = message
                .take("tool_calls")
                .map(|calls| array(calls, &format!("{path}.tool_calls")))
                .transpose()?;
            for (index, call) in calls.unwrap_or_default().into_iter().enumerate() {
                let path = format!("{path}.tool_calls[{index}]");
                parts.push(read_call(object(call, &path)?, &path)?.into());
            }
            Role::Assistant
        }
        "tool" => {
            let id = required_text(&mut message, "tool_call_id", &path)?;
            let mut inside = Vec::new();
            read_content(content, &path, &mut inside, ask)?;
            parts.push(Body::ToolResult { id, parts: inside, is_error: false }.into());
            Role::User
        }
        "function" => return Err(no_equivalent(format!("{path}.role"))),
        _ => return Err(BadRequest::field(format!("{path}.role"), "is not a known role")),
    };
    if let Some(last) = parts.last_mut()
        && last.cache.is_none()
    {
        last.cache = cache;
    }
    ask.notes.drop_rest(&path, &message);
    Ok(Turn { role: side, parts, path })
}

fn read_content<'a>(
    content: Option<Value<'a>>,
    path: &str,
    parts: &mut Vec<Part<'a>>,
    ask: &mut Ask<'a>,
) -> Result<(), BadRequest> {
    let elements = match content {
        None => return Ok(()),
        Some(Value::String(text)) => {
            parts.push(Body::Text(text).into());
            return Ok(());
        }
        Some(value) => array(value, &format!("{path}.content"))?,
    };
    for (index, element) in elements.into_iter().enumerate() {
        let path = format!("{path}.content[{index}]");
        let mut element = object(element, &path)?;
        let cache = element.take("cache_control");
        let sort = required_text(&mut element, "type", &path)?;
        let body = match sort.as_ref() {
            "text" => Body::Text(required_text(&mut element, "text", &path)?),
            "refusal" => Body::Refusal(required_text(&mut element, "refusal", &path)?),
            "image_url" => {
                let path = format!("{path}.image_url");
                match required(&mut element, "image_url", &path)? {
                    Value::String(url) => Body::Image { source: Source::from_url(url), detail: None },
                    value => {
                        let mut image = object(value, &path)?;
                        let url = required_text(&mut image, "url", &path)?;
                        Body::Image { source: Source::from_url(url), detail: image.take("detail") }
                    }
                }
            }
            "input_audio" => {
                let path = format!("{path}.input_audio");
                let mut audio = object(required(&mut element, "input_audio", &path)?, &path)?;
                Body::Audio {
                    data: required_text(&mut audio, "data", &path)?,
                    format: required_text(&mut audio, "format", &path)?,
                }
            }
            "file" => {
                let path = format!("{path}.file");
                let mut file = object(required(&mut element, "file", &path)?, &path)?;
                if file.take("file_id").is_some() {
                    return Err(no_equivalent(format!("{path}.file_id")));
                }
                let name = file.take_text("filename");
                Body::File { source: Source::from_url(required_text(&mut file, "file_data", &path)?), name }
            }
            _ => return Err(no_equivalent(format!("{path}.type"))),
        };
        ask.notes.drop_rest(&path, &element);
        parts.push(Part { body, cache });
    }
    Ok(())
}

fn read_call<'a>(mut call: Object<'a>, path: &str) -> Result<Body<'a>, BadRequest> {
    if !matches!(call.text("type"), None | Some("function")) {
        return Err(no_equivalent(format!("{path}.type")));
    }
    let id = required_text(&mut call, "id", path)?;
    let mark = google_signature(&mut call);
    let mut function = object(required(&mut call, "function", path)?, &format!("{path}.function"))?;
    let name = required_text(&mut function, "name", &format!("{path}.function"))?;
    let arguments = function.take_text("arguments").unwrap_or_default();
    Ok(Body::ToolCall { id, name, arguments, mark })
}

fn google_signature<'a>(call: &mut Object<'a>) -> Option<Mark<'a>> {
    let Some(Value::Object(mut extra)) = call.take("extra_content") else { return None };
    let Some(Value::Object(mut google)) = extra.take("google") else { return None };
    Some(Mark::new(Format::Gemini, google.take_text("thought_signature")?))
}

/// Reasoning that an assistant's message brings back: details, which say whose they are, or the text alone.
fn read_reasoning<'a>(message: &mut Object<'a>, path: &str, parts: &mut Vec<Part<'a>>, ask: &mut Ask<'a>) {
    let content = message.take_text("reasoning_content").or_else(|| message.take_text("reasoning"));
    if let Some(Value::Array(details)) = message.take("reasoning_details") {
        parts.extend(details.into_iter().filter_map(read_detail).map(Part::from));
    } else if content.is_some() {
        ask.notes.drop_field(format!("{path}.reasoning_content"));
    }
}

fn read_detail(detail: Value<'_>) -> Option<Body<'_>> {
    let Value::Object(mut detail) = detail else { return None };
    let family = match detail.text("format") {
        Some(format) if format.starts_with("anthropic") => Format::Messages,
        Some(format) if format.starts_with("google") => Format::Gemini,
        _ => Format::Chat,
    };
    let text = detail.take_text("text").or_else(|| detail.take_text("summary")).unwrap_or_default();
    let (signature, redacted) = match (detail.take_text("signature"), detail.take_text("data")) {
        (Some(signature), _) => (signature, false),
        (None, Some(data)) => (data, true),
        (None, None) => (Cow::Borrowed(""), false),
    };
    let mut mark = Mark::read(family, signature);
    if family == Format::Messages && redacted {
        mark.redacted = true;
    }
    Some(Body::Thinking { text, mark: Some(mark) })
}

pub(crate) fn write_request<'a>(
    mut ask: Ask<'a>,
    target: &Target<'a>,
) -> Result<(Object<'a>, Ask<'a>), BadRequest> {
    let mut body = Object::default().with("model", target.model);
    crate::neutral::keep_own_thinking(&mut ask.turns, Format::Chat, &mut ask.notes);
    let mut messages = Vec::new();
    for turn in std::mem::take(&mut ask.turns) {
        write_turn(turn, target, &mut ask, &mut messages)?;
    }
    body.put("messages", messages);
    if !ask.tools.is_empty() {
        let mut tools = Vec::new();
        for tool in std::mem::take(&mut ask.tools) {
            let mut function = Object::default().with("name", tool.name);
            function.put_some("description", tool.description);
            function.put_some("parameters", tool.schema);
            function.put_some("strict", tool.strict);
            let mut whole = Object::default().with("type", "function").with("function", function);
            put_cache(&mut whole, tool.cache, target, &mut ask);
            tools.push(Value::from(whole));
        }
        body.put("tools", tools);
        body.put_some("tool_choice", ask.choice.take().map(write_choice));
        body.put_some("parallel_tool_calls", ask.parallel.take());
    }
    if let Some(limit) = ask.max_tokens.take() {
        body.put(target.chat_limit, limit);
    }
    body.put_some("temperature", ask.temperature.take());
    body.put_some("top_p", ask.top_p.take());
    body.put_some("seed", ask.seed.take());
    body.put_some("frequency_penalty", ask.frequency_penalty.take());
    body.put_some("presence_penalty", ask.presence_penalty.take());
    if !ask.stop.is_empty() {
        let stop: Vec<Value<'a>> = std::mem::take(&mut ask.stop).into_iter().map(Value::from).collect();
        body.put("stop", stop);
    }
    match std::mem::take(&mut ask.output) {
        Output::Text => {}
        Output::Json => body.put("response_format", Object::default().with("type", "json_object")),
        Output::Schema { name, description, schema, strict } => {
            let strict = strict.unwrap_or_else(|| crate::neutral::is_strict(&schema, 0));
            let mut inner = Object::default().with("name", name.unwrap_or(Cow::Borrowed("response")));
            inner.put_some("description", description);
            inner.put("schema", schema);
            inner.put("strict", strict);
            body.put(
                "response_format",
                Object::default().with("type", "json_schema").with("json_schema", inner),
            );
        }
    }
    if let Some(reasoning) = ask.reasoning.take() {
        match reasoning.effort() {
            Some(effort) if target.can_reason && !reasoning.is_off => {
                body.put("reasoning_effort", effort.to_owned());
            }
            _ => ask.notes.drop_field(reasoning.field),
        }
    }
    // OpenAI refuses longer ones, and Anthropic's clients send longer ones.
    match ask.user.take() {
        Some(user) if user.len() > 64 => ask.notes.drop_field("user"),
        user => body.put_some("user", user),
    }
    for (field, value) in std::mem::take(&mut ask.openai) {
        if field == "top_logprobs" {
            body.put("logprobs", true);
        }
        body.put(field, value);
    }
    if ask.stream == Some(true) {
        body.put("stream", true);
        body.put("stream_options", Object::default().with("include_usage", true));
    }
    Ok((body, ask))
}

fn put_cache<'a>(object: &mut Object<'a>, cache: Option<Value<'a>>, target: &Target<'_>, ask: &mut Ask<'_>) {
    match cache {
        Some(cache) if target.chat_cache_control => object.put("cache_control", cache),
        Some(_) => ask.notes.drop_field("cache_control"),
        None => {}
    }
}

fn write_choice(choice: Choice<'_>) -> Value<'_> {
    let function = |name| {
        Object::default().with("type", "function").with("function", Object::default().with("name", name))
    };
    match choice {
        Choice::Auto => "auto".into(),
        Choice::None => "none".into(),
        Choice::Required => "required".into(),
        Choice::Tool(name) => function(Value::from(name)).into(),
        Choice::Among { names, required } => Object::default()
            .with("type", "allowed_tools")
            .with(
                "allowed_tools",
                Object::default().with("mode", if required { "required" } else { "auto" }).with(
                    "tools",
                    names
                        .into_iter()
                        .map(|name| function(Value::from(name)).into())
                        .collect::<Vec<Value<'_>>>(),
                ),
            )
            .into(),
    }
}

/// One turn may be several messages: each result of a tool is its own, and images that came with results follow them.
fn write_turn<'a>(
    turn: Turn<'a>,
    target: &Target<'a>,
    ask: &mut Ask<'a>,
    messages: &mut Vec<Value<'a>>,
) -> Result<(), BadRequest> {
    let role = match turn.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let (mut content, mut calls) = (Vec::new(), Vec::new());
    let (mut details, mut reasoning, mut refusal) = (Vec::new(), String::new(), None);
    let mut late = Vec::new();
    for part in turn.parts {
        let mut element = match part.body {
            Body::Text(text) => Object::default().with("type", "text").with("text", text),
            Body::Refusal(text) => {
                refusal = Some(text);
                continue;
            }
            Body::Image { source, detail } => write_image(source, detail),
            Body::File { source: Source::Text(text), .. } => {
                Object::default().with("type", "text").with("text", text)
            }
            Body::File { source, name } => {
                // Images may be named by URL, documents may not.
                if matches!(source, Source::Url(_)) {
                    return Err(BadRequest::field(
                        turn.path,
                        "names a document by URL, which has no equivalent in the API of the model's provider",
                    ));
                }
                let mut file =
                    Object::default().with("filename", name.unwrap_or(Cow::Borrowed("document.pdf")));
                file.put("file_data", source.into_url());
                Object::default().with("type", "file").with("file", file)
            }
            Body::Audio { data, format } => Object::default()
                .with("type", "input_audio")
                .with("input_audio", Object::default().with("data", data).with("format", format)),
            Body::Thinking { text, mark } => {
                reasoning.push_str(&text);
                if let Some(mark) = mark.filter(|mark| !mark.payload.is_empty())
                    && let Ok(Value::Array(items)) = crate::json::parse(mark.payload.as_bytes())
                {
                    details.extend(items.into_iter().map(Value::into_owned));
                }
                continue;
            }
            Body::ToolCall { id, name, arguments, .. } => {
                calls.push(Value::from(Object::default().with("id", id).with("type", "function").with(
                    "function",
                    Object::default().with("name", name).with("arguments", arguments_text(arguments)),
                )));
                continue;
            }
            Body::ToolResult { id, parts, is_error } => {
                if is_error {
                    ask.notes.drop_field(format!("{}.is_error", turn.path));
                }
                let mut texts = Vec::new();
                for part in parts {
                    match part.body {
                        Body::Text(text)
                        | Body::Refusal(text)
                        | Body::File { source: Source::Text(text), .. } => texts.push(text),
                        body => {
                            ask.notes.change(format!("{} (what is no text follows the result)", turn.path));
                            late.push(Part { body, cache: None });
                        }
                    }
                }
                let mut message = Object::default()
                    .with("role", "tool")
                    .with("tool_call_id", id)
                    .with("content", joined(texts));
                put_cache(&mut message, part.cache, target, ask);
                messages.push(message.into());
                continue;
            }
        };
        put_cache(&mut element, part.cache, target, ask);
        content.push(Value::from(element));
    }
    if !late.is_empty() {
        write_turn(Turn { role: Role::User, parts: late, path: turn.path }, target, ask, messages)?;
    }
    let has_more = !calls.is_empty() || refusal.is_some();
    if content.is_empty() && !has_more && turn.role != Role::Assistant {
        return Ok(());
    }
    let mut message = Object::default().with("role", role);
    if content.is_empty() && has_more {
        message.put("content", Value::Null);
    } else {
        message.put("content", plain_if_one_text(content));
    }
    message.put_some("refusal", refusal);
    if !calls.is_empty() {
        message.put("tool_calls", calls);
    }
    if !details.is_empty() {
        message.put("reasoning_details", details);
    } else if !reasoning.is_empty() {
        message.put("reasoning_content", reasoning);
    }
    messages.push(message.into());
    Ok(())
}

fn write_image<'a>(source: Source<'a>, detail: Option<Value<'a>>) -> Object<'a> {
    let mut image = Object::default().with("url", source.into_url());
    image.put_some("detail", detail);
    Object::default().with("type", "image_url").with("image_url", image)
}

/// Several texts one after the other.
pub(crate) fn joined(mut texts: Vec<Cow<'_, str>>) -> Cow<'_, str> {
    match texts.len() {
        1 => texts.remove(0),
        _ => Cow::Owned(texts.join("\n")),
    }
}

/// Content that is a single text is written as text, which every server understands.
fn plain_if_one_text(mut content: Vec<Value<'_>>) -> Value<'_> {
    match content.as_mut_slice() {
        [] => "".into(),
        [Value::Object(one)] if one.0.len() == 2 && one.text("type") == Some("text") => {
            one.take("text").unwrap_or(Value::Null)
        }
        _ => Value::Array(content),
    }
}

pub(crate) fn read_finish(reason: &str) -> Finish {
    match reason {
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "content_filter" => Finish::Refused,
        "error" => Finish::Failed("the provider ended the answer with an error".into()),
        _ => Finish::Stop,
    }
}

pub(crate) fn write_finish(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopSequence(_) => "stop",
        // Nothing says that an answer was paused; that it is not whole must not be lost.
        Finish::Length | Finish::Pause => "length",
        Finish::ToolCalls => "tool_calls",
        Finish::Refused | Finish::Failed(_) => "content_filter",
    }
}

pub(crate) fn read_reply<'a>(value: Value<'a>, shown: &Shown<'_>) -> Result<Reply<'a>, BadReply> {
    if let Some(error) = error_in(Format::Chat, &value, None) {
        return Err(error.into());
    }
    let Value::Object(mut body) = value else { return Err(BadReply::new("the reply is not a JSON object")) };
    let mut reply = Reply {
        id: body.take_text("id"),
        usage: usage::in_value(Format::Chat, body.get("usage")),
        ..Reply::default()
    };
    reply.created = body.get("created").and_then(Value::as_u64);
    let Some(Value::Array(choices)) = body.take("choices") else {
        return Err(BadReply::new("the reply has no `choices`"));
    };
    let Some(Value::Object(mut choice)) = choices.into_iter().next() else {
        return Err(BadReply::new("the reply's `choices` are empty"));
    };
    reply.finish = choice.text("finish_reason").map(read_finish);
    let Some(Value::Object(mut message)) = choice.take("message") else {
        return Err(BadReply::new("the reply has no `message`"));
    };
    let details = message.take("reasoning_details");
    let reasoning = message.take_text("reasoning_content").or_else(|| message.take_text("reasoning"));
    if details.is_some() || reasoning.as_ref().is_some_and(|text| !text.is_empty()) {
        let payload = details.map(|details| details.to_json()).unwrap_or_default();
        reply.parts.push(Body::Thinking {
            text: reasoning.unwrap_or_default(),
            mark: Some(Mark::new(Format::Chat, payload)),
        });
    }
    match message.take("content") {
        Some(Value::String(text)) if !text.is_empty() => reply.parts.push(Body::Text(text)),
        Some(Value::Array(parts)) => {
            for part in parts {
                if let Value::Object(mut part) = part
                    && let Some(text) = part.take_text("text")
                {
                    reply.parts.push(Body::Text(text));
                }
            }
        }
        _ => {}
    }
    if let Some(refusal) = message.take_text("refusal").filter(|text| !text.is_empty()) {
        reply.parts.push(Body::Refusal(refusal));
    }
    if let Some(Value::Array(calls)) = message.take("tool_calls") {
        for (index, call) in calls.into_iter().enumerate() {
            let Value::Object(mut call) = call else { continue };
            let mark = google_signature(&mut call);
            let id = call.take_text("id").filter(|id| !id.is_empty());
            let Some(Value::Object(mut function)) = call.take("function") else { continue };
            reply.parts.push(Body::ToolCall {
                id: id.unwrap_or_else(|| minted("call_", shown.seed, index as u64).into()),
                name: function.take_text("name").unwrap_or_default(),
                arguments: arguments_of(&mut function),
                mark,
            });
        }
    }
    Ok(reply)
}

/// Some servers write the arguments as an object.
fn arguments_of<'a>(function: &mut Object<'a>) -> Cow<'a, str> {
    match function.take("arguments") {
        Some(Value::String(text)) => text,
        Some(value @ Value::Object(_)) => value.to_json().into(),
        _ => Cow::Borrowed(""),
    }
}

/// A finished stretch of reasoning, complete in itself, with its signature.
pub(crate) fn detail<'a>(text: Cow<'a, str>, mark: Option<&Mark<'_>>, index: u64) -> Value<'a> {
    let signature = mark.map(|mark| mark.written_in(Format::Chat));
    let object = if text.is_empty() {
        Object::default().with("type", "reasoning.encrypted").with("data", signature.unwrap_or_default())
    } else {
        let mut object = Object::default().with("type", "reasoning.text").with("text", text);
        object.put_some("signature", signature);
        object
    };
    object.with("format", "unknown").with("index", index).into()
}

pub(crate) fn call_object<'a>(id: Cow<'a, str>, function: Object<'a>, mark: Option<&Mark<'_>>) -> Object<'a> {
    let mut call = Object::default().with("id", id).with("type", "function").with("function", function);
    if let Some(mark) = mark.filter(|mark| mark.family == Format::Gemini) {
        let google = Object::default().with("thought_signature", mark.payload.clone().into_owned());
        call.put("extra_content", Object::default().with("google", google));
    }
    call
}

pub(crate) fn write_reply<'a>(reply: Reply<'a>, shown: &Shown<'a>) -> Object<'a> {
    let (mut text, mut reasoning): (Option<String>, String) = (None, String::new());
    let (mut details, mut calls, mut images, mut refusal) = (Vec::new(), Vec::new(), Vec::new(), None);
    for part in reply.parts {
        match part {
            Body::Text(piece) => text.get_or_insert_default().push_str(&piece),
            Body::Refusal(piece) => refusal = Some(piece),
            Body::Thinking { text, mark } => {
                reasoning.push_str(&text);
                details.push(detail(text, mark.as_ref(), details.len() as u64));
            }
            Body::ToolCall { id, name, arguments, mark } => {
                let function =
                    Object::default().with("name", name).with("arguments", arguments_text(arguments));
                calls.push(Value::from(call_object(id, function, mark.as_ref())));
            }
            Body::Image { source, detail } => images.push(Value::from(write_image(source, detail))),
            Body::File { .. } | Body::Audio { .. } | Body::ToolResult { .. } => {}
        }
    }
    let mut message = Object::default()
        .with("role", "assistant")
        .with("content", text.map_or(Value::Null, Value::from))
        .with("refusal", refusal.map_or(Value::Null, Value::from));
    if !reasoning.is_empty() {
        message.put("reasoning_content", reasoning);
    }
    for (name, elements) in [("reasoning_details", details), ("images", images), ("tool_calls", calls)] {
        if !elements.is_empty() {
            message.put(name, elements);
        }
    }
    let choice =
        Object::default().with("index", 0u64).with("message", message).with("logprobs", Value::Null).with(
            "finish_reason",
            reply.finish.as_ref().map_or(Value::Null, |finish| write_finish(finish).into()),
        );
    Object::default()
        .with("id", reply.id.unwrap_or_else(|| minted("chatcmpl-", shown.seed, u64::MAX).into()))
        .with("object", "chat.completion")
        .with("created", reply.created.unwrap_or(shown.created_s))
        .with("model", shown.model)
        .with("choices", vec![choice.into()])
        .with("usage", reply.usage.map_or(Value::Null, |usage| usage::write(Format::Chat, &usage).into()))
}
