//! Gemini generateContent.
//!
//! Source: Gemini API reference "Generating content", guides "Function calling", "Thinking", "Thought signatures", "Structured output".

use crate::error::error_in;
use crate::json::{Object, Value};
use crate::mark::Mark;
use crate::neutral::{
    Ask, Body, Choice, Finish, MINTED_CALL, Output, Part, Reasoning, Reply, Role, Shown, Source, Target,
    Tool, Turn, alternate, arguments_object, array, keep_own_thinking, minted, no_equivalent, object,
    required, required_text, texts, whole,
};
use crate::usage;
use crate::{BadReply, BadRequest, Format};
use std::borrow::Cow;

/// What Google names as the signature of a call that another model made. Source: guide "Thought signatures", questions and answers.
const FOREIGN_CALL: &str = "skip_thought_signature_validator";

/// A member under its name in camel case or in snake case; protocol buffers take both.
fn take<'a>(object: &mut Object<'a>, camel: &str, snake: &str) -> Option<Value<'a>> {
    object.take(camel).or_else(|| object.take(snake))
}

fn take_text<'a>(object: &mut Object<'a>, camel: &str, snake: &str) -> Option<Cow<'a, str>> {
    match take(object, camel, snake) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

pub(crate) fn read_request(mut body: Object<'_>) -> Result<Ask<'_>, BadRequest> {
    let mut ask = Ask::default();
    body.take("model");
    if take(&mut body, "cachedContent", "cached_content").is_some() {
        return Err(no_equivalent("cachedContent"));
    }
    if let Some(system) = take(&mut body, "systemInstruction", "system_instruction") {
        // A text is not in the reference, but Google's clients send it.
        let parts = match system {
            Value::String(text) => vec![Body::Text(text).into()],
            system => {
                let mut system = object(system, "systemInstruction")?;
                let mut calls = Calls::default();
                read_parts(&mut system, "systemInstruction", &mut calls, &mut ask)?
            }
        };
        ask.turns.push(Turn { role: Role::System, parts, path: "systemInstruction".into() });
    }
    let contents = match required(&mut body, "contents", "")? {
        content @ Value::Object(_) => vec![content],
        contents => array(contents, "contents")?,
    };
    let mut calls = Calls::default();
    for (index, content) in contents.into_iter().enumerate() {
        let path = format!("contents[{index}]");
        let mut content = object(content, &path)?;
        let role = match content.take_text("role").as_deref() {
            None | Some("user" | "function") => Role::User,
            Some("model") => Role::Assistant,
            Some("system") => Role::System,
            Some(_) => return Err(BadRequest::field(format!("{path}.role"), "must be `user` or `model`")),
        };
        let parts = read_parts(&mut content, &path, &mut calls, &mut ask)?;
        ask.notes.drop_rest(&path, &content);
        ask.turns.push(Turn { role, parts, path });
    }
    if let Some(tools) = body.take("tools") {
        let tools = match tools {
            one @ Value::Object(_) => vec![one],
            tools => array(tools, "tools")?,
        };
        for (index, tool) in tools.into_iter().enumerate() {
            read_tool(tool, &format!("tools[{index}]"), &mut ask)?;
        }
    }
    if let Some(config) = take(&mut body, "toolConfig", "tool_config") {
        let mut config = object(config, "toolConfig")?;
        if let Some(calling) = take(&mut config, "functionCallingConfig", "function_calling_config") {
            ask.choice = read_choice(object(calling, "toolConfig.functionCallingConfig")?)?;
        }
        ask.notes.drop_rest("toolConfig", &config);
    }
    if let Some(config) = take(&mut body, "generationConfig", "generation_config") {
        read_config(object(config, "generationConfig")?, &mut ask)?;
    }
    ask.notes.drop_rest("", &body);
    Ok(ask)
}

/// Calls that have no answer yet, since Gemini's need not have ids.
#[derive(Default)]
struct Calls<'a> {
    made: u64,
    open: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

fn read_parts<'a>(
    content: &mut Object<'a>,
    path: &str,
    calls: &mut Calls<'a>,
    ask: &mut Ask<'a>,
) -> Result<Vec<Part<'a>>, BadRequest> {
    let parts = match content.take("parts") {
        None => return Ok(Vec::new()),
        Some(one @ Value::Object(_)) => vec![one],
        Some(parts) => array(parts, &format!("{path}.parts"))?,
    };
    let mut read: Vec<Part<'a>> = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        let path = format!("{path}.parts[{index}]");
        let mut part = object(part, &path)?;
        let mark = take_text(&mut part, "thoughtSignature", "thought_signature")
            .map(|text| Mark::read(Format::Gemini, text));
        let is_thought = part.take("thought").and_then(|value| value.as_bool()).unwrap_or(false);
        if let Some(text) = part.take_text("text") {
            push_text(&mut read, text, is_thought, mark);
        } else if let Some(blob) = take(&mut part, "inlineData", "inline_data") {
            let mut blob = object(blob, &path)?;
            let media_type = take_text(&mut blob, "mimeType", "mime_type").unwrap_or_default();
            let data = required_text(&mut blob, "data", &path)?;
            read.push(media(media_type, data).into());
        } else if let Some(file) = take(&mut part, "fileData", "file_data") {
            let mut file = object(file, &path)?;
            let media_type = take_text(&mut file, "mimeType", "mime_type").unwrap_or_default();
            let uri = take_text(&mut file, "fileUri", "file_uri").unwrap_or_default();
            // Files of Google's own store can be read by Google alone.
            if !uri.starts_with("https://") || uri.contains("generativelanguage.googleapis.com") {
                return Err(no_equivalent(format!("{path}.fileData")));
            }
            read.push(if media_type.starts_with("image/") || media_type.is_empty() {
                Body::Image { source: Source::Url(uri), detail: None }.into()
            } else {
                Body::File { source: Source::Url(uri), name: None }.into()
            });
        } else if let Some(call) = take(&mut part, "functionCall", "function_call") {
            let mut call = object(call, &path)?;
            let name = required_text(&mut call, "name", &path)?;
            let id = call.take_text("id").filter(|id| !id.is_empty()).unwrap_or_else(|| {
                calls.made += 1;
                format!("{MINTED_CALL}{:016x}", calls.made).into()
            });
            calls.open.push((name.clone(), id.clone()));
            let arguments = call.take("args").map(|args| args.to_json()).unwrap_or_default().into();
            read.push(Body::ToolCall { id, name, arguments, mark }.into());
        } else if let Some(response) = take(&mut part, "functionResponse", "function_response") {
            read.push(read_response(object(response, &path)?, &path, calls)?.into());
        } else if let Some(mark) = mark {
            read.push(Body::Thinking { text: Cow::Borrowed(""), mark: Some(mark) }.into());
        } else {
            let field = part.0.first().map_or("", |(name, _)| name.as_ref());
            return Err(no_equivalent(format!("{path}.{field}")));
        }
        ask.notes.drop_rest(&path, &part);
    }
    Ok(read)
}

/// Thoughts come in pieces, the signature in any of them; a signature of plain text belongs to what follows it here.
fn push_text<'a>(read: &mut Vec<Part<'a>>, text: Cow<'a, str>, is_thought: bool, mark: Option<Mark<'a>>) {
    if !is_thought {
        if let Some(mark) = mark {
            read.push(Body::Thinking { text: Cow::Borrowed(""), mark: Some(mark) }.into());
        }
        if !text.is_empty() {
            read.push(Body::Text(text).into());
        }
        return;
    }
    if let Some(Part { body: Body::Thinking { text: before, mark: open @ None }, .. }) = read.last_mut() {
        before.to_mut().push_str(&text);
        *open = mark;
        return;
    }
    read.push(Body::Thinking { text, mark }.into());
}

fn media<'a>(media_type: Cow<'a, str>, data: Cow<'a, str>) -> Body<'a> {
    if let Some(format) = media_type.strip_prefix("audio/") {
        let format = match format {
            "mpeg" => "mp3",
            "x-wav" | "wave" => "wav",
            other => other,
        };
        return Body::Audio { data, format: format.to_owned().into() };
    }
    let source = Source::Base64 { media_type, data };
    match &source {
        Source::Base64 { media_type, .. } if !media_type.starts_with("image/") => {
            Body::File { source, name: None }
        }
        _ => Body::Image { source, detail: None },
    }
}

fn read_response<'a>(
    mut response: Object<'a>,
    path: &str,
    calls: &mut Calls<'a>,
) -> Result<Body<'a>, BadRequest> {
    let name = required_text(&mut response, "name", path)?;
    let given = response.take_text("id").filter(|id| !id.is_empty());
    let position = calls
        .open
        .iter()
        .position(|(called, id)| given.as_ref().map_or(*called == name, |given| given == id));
    let id = match (position, given) {
        (Some(position), _) => calls.open.remove(position).1,
        (None, Some(given)) => given,
        (None, None) => {
            return Err(BadRequest::field(
                format!("{path}.functionResponse"),
                format_args!("answers a call of `{name}` that is not there"),
            ));
        }
    };
    let mut parts = Vec::new();
    let mut is_error = false;
    if let Some(value) = response.take("response") {
        let mut value = object(value, &format!("{path}.functionResponse.response"))?;
        // A single `output`, `result` or `error` is the wrapping that Google documents; anything else is the result itself.
        let wrapped = match value.0.as_slice() {
            [(key, _)] if matches!(key.as_ref(), "output" | "result" | "error") => {
                is_error = key == "error";
                value.0.pop().map(|(_, inner)| inner)
            }
            _ => None,
        };
        let text = match wrapped {
            Some(Value::String(text)) => text,
            Some(inner) => inner.to_json().into(),
            None => Value::Object(value).to_json().into(),
        };
        parts.push(Body::Text(text).into());
    }
    Ok(Body::ToolResult { id, parts, is_error })
}

fn read_tool<'a>(tool: Value<'a>, path: &str, ask: &mut Ask<'a>) -> Result<(), BadRequest> {
    let mut tool = object(tool, path)?;
    let functions = take(&mut tool, "functionDeclarations", "function_declarations");
    if let Some((field, _)) = tool.0.iter().find(|(_, value)| !value.is_null()) {
        return Err(no_equivalent(format!("{path}.{field}")));
    }
    let functions = functions.map(|functions| array(functions, path)).transpose()?.unwrap_or_default();
    for (index, function) in functions.into_iter().enumerate() {
        let path = format!("{path}.functionDeclarations[{index}]");
        let mut function = object(function, &path)?;
        let schema = take(&mut function, "parametersJsonSchema", "parameters_json_schema")
            .or_else(|| function.take("parameters").map(|schema| json_schema(schema, 0)));
        let read = Tool {
            name: required_text(&mut function, "name", &path)?,
            description: function.take_text("description"),
            schema,
            strict: None,
            cache: None,
        };
        ask.notes.drop_rest(&path, &function);
        ask.tools.push(read);
    }
    Ok(())
}

fn read_choice(mut calling: Object<'_>) -> Result<Option<Choice<'_>>, BadRequest> {
    let mut names = take(&mut calling, "allowedFunctionNames", "allowed_function_names")
        .map(|names| texts(names, "toolConfig.functionCallingConfig.allowedFunctionNames"))
        .transpose()?
        .unwrap_or_default();
    Ok(match calling.text("mode") {
        Some("NONE" | "none") => Some(Choice::None),
        Some("ANY" | "any") if names.len() == 1 => Some(Choice::Tool(names.remove(0))),
        Some("ANY" | "any") if names.is_empty() => Some(Choice::Required),
        Some("ANY" | "any") => Some(Choice::Among { names, required: true }),
        Some("VALIDATED" | "validated") if !names.is_empty() => {
            Some(Choice::Among { names, required: false })
        }
        Some(_) => Some(Choice::Auto),
        None => None,
    })
}

fn read_config<'a>(mut config: Object<'a>, ask: &mut Ask<'a>) -> Result<(), BadRequest> {
    let path = "generationConfig";
    if let Some(count) = take(&mut config, "candidateCount", "candidate_count")
        && count.as_u64() != Some(1)
    {
        return Err(no_equivalent("generationConfig.candidateCount"));
    }
    if let Some(modalities) = take(&mut config, "responseModalities", "response_modalities") {
        let modalities = texts(modalities, "generationConfig.responseModalities")?;
        if modalities.iter().any(|one| !one.eq_ignore_ascii_case("text")) {
            return Err(no_equivalent("generationConfig.responseModalities"));
        }
    }
    ask.max_tokens = take(&mut config, "maxOutputTokens", "max_output_tokens")
        .map(|value| whole(&value, "generationConfig.maxOutputTokens"))
        .transpose()?;
    ask.temperature = config.take("temperature");
    ask.top_p = take(&mut config, "topP", "top_p");
    ask.top_k = take(&mut config, "topK", "top_k");
    ask.seed = config.take("seed");
    ask.frequency_penalty = take(&mut config, "frequencyPenalty", "frequency_penalty");
    ask.presence_penalty = take(&mut config, "presencePenalty", "presence_penalty");
    ask.stop = take(&mut config, "stopSequences", "stop_sequences")
        .map(|stop| texts(stop, "generationConfig.stopSequences"))
        .transpose()?
        .unwrap_or_default();
    let schema = take(&mut config, "responseJsonSchema", "response_json_schema").or_else(|| {
        take(&mut config, "responseSchema", "response_schema").map(|schema| json_schema(schema, 0))
    });
    let media_type = take_text(&mut config, "responseMimeType", "response_mime_type");
    match (media_type.as_deref(), schema) {
        (Some("text/x.enum"), _) => return Err(no_equivalent("generationConfig.responseMimeType")),
        (_, Some(schema)) => {
            ask.output = Output::Schema { name: None, description: None, schema, strict: None }
        }
        (Some("application/json"), None) => ask.output = Output::Json,
        _ => {}
    }
    if let Some(thinking) = take(&mut config, "thinkingConfig", "thinking_config") {
        let mut thinking = object(thinking, "generationConfig.thinkingConfig")?;
        let budget =
            take(&mut thinking, "thinkingBudget", "thinking_budget").and_then(|budget| budget.as_i64());
        let level = take_text(&mut thinking, "thinkingLevel", "thinking_level");
        let shown =
            take(&mut thinking, "includeThoughts", "include_thoughts").and_then(|value| value.as_bool());
        ask.reasoning = Some(Reasoning {
            effort: level.map(|level| Cow::Owned(level.to_ascii_lowercase())),
            // A negative budget leaves it to the model.
            budget: budget.and_then(|budget| u64::try_from(budget).ok()),
            is_off: budget == Some(0),
            is_shown: shown == Some(true),
            field: "generationConfig.thinkingConfig",
        });
    }
    ask.notes.drop_rest(path, &config);
    Ok(())
}

/// Gemini's schema, a part of OpenAPI with types in capitals, as JSON schema.
pub(crate) fn json_schema(schema: Value<'_>, depth: usize) -> Value<'_> {
    let Value::Object(schema) = schema else { return schema };
    if depth > 64 {
        return Value::Object(schema);
    }
    let nullable = schema.get("nullable").and_then(Value::as_bool) == Some(true);
    let mut out = Object::default();
    for (key, value) in schema.0 {
        let value = match (key.as_ref(), value) {
            ("type", Value::String(sort)) => {
                let sort = Value::from(sort.to_ascii_lowercase());
                if nullable { Value::Array(vec![sort, "null".into()]) } else { sort }
            }
            ("nullable" | "propertyOrdering" | "property_ordering", _) => continue,
            ("properties" | "defs" | "$defs", Value::Object(properties)) => Value::Object(Object(
                properties.0.into_iter().map(|(name, inner)| (name, json_schema(inner, depth + 1))).collect(),
            )),
            ("items" | "additionalProperties", inner) => json_schema(inner, depth + 1),
            ("anyOf" | "any_of" | "oneOf" | "allOf", Value::Array(inner)) => {
                Value::Array(inner.into_iter().map(|one| json_schema(one, depth + 1)).collect())
            }
            // 64-bit integers are written as text in protocol buffers.
            (
                "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties"
                | "min_items" | "max_items",
                Value::String(number),
            ) => Value::Number(number),
            (_, value) => value,
        };
        let key = match key.as_ref() {
            "any_of" => Cow::Borrowed("anyOf"),
            "min_items" => Cow::Borrowed("minItems"),
            "max_items" => Cow::Borrowed("maxItems"),
            _ => key,
        };
        out.0.push((key, value));
    }
    Value::Object(out)
}

/// The first number in names such as `gemini-3-pro`.
fn generation(model: &str) -> Option<u32> {
    let rest = model.rsplit('/').next()?.strip_prefix("gemini-")?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

pub(crate) fn write_request<'a>(
    mut ask: Ask<'a>,
    target: &Target<'a>,
) -> Result<(Object<'a>, Ask<'a>), BadRequest> {
    let mut turns = std::mem::take(&mut ask.turns);
    keep_own_thinking(&mut turns, Format::Gemini, &mut ask.notes);
    let (system, turns) = alternate(turns, &mut ask.notes);
    let signs_calls = generation(target.model).is_some_and(|generation| generation >= 3);
    let mut names: Vec<(String, String)> = Vec::new();
    let mut contents = Vec::new();
    for turn in turns {
        let parts = write_parts(turn.parts, &turn.path, &mut names, signs_calls, &mut ask)?;
        if parts.is_empty() {
            ask.notes.drop_field(format!("{} (empty)", turn.path));
            continue;
        }
        let role = if turn.role == Role::Assistant { "model" } else { "user" };
        contents.push(Object::default().with("role", role).with("parts", parts).into());
    }
    let mut body = Object::default().with("contents", Value::Array(contents));
    let system = write_parts(system, "system", &mut names, false, &mut ask)?;
    if !system.is_empty() {
        body.put("systemInstruction", Object::default().with("parts", system));
    }
    write_tools(&mut body, &mut ask);
    let mut config = Object::default();
    config.put_some("maxOutputTokens", ask.max_tokens.take());
    config.put_some("temperature", ask.temperature.take());
    config.put_some("topP", ask.top_p.take());
    config.put_some("topK", ask.top_k.take());
    config.put_some("seed", ask.seed.take());
    config.put_some("frequencyPenalty", ask.frequency_penalty.take());
    config.put_some("presencePenalty", ask.presence_penalty.take());
    if !ask.stop.is_empty() {
        let stop: Vec<Value<'a>> = std::mem::take(&mut ask.stop).into_iter().map(Value::from).collect();
        config.put("stopSequences", stop);
    }
    match std::mem::take(&mut ask.output) {
        Output::Text => {}
        Output::Json => config.put("responseMimeType", "application/json"),
        Output::Schema { name, description, schema, .. } => {
            if name.is_some() || description.is_some() {
                ask.notes.drop_field("response_format.json_schema.name");
            }
            config.put("responseMimeType", "application/json");
            config.put("responseJsonSchema", schema);
        }
    }
    if let Some(thinking) = write_thinking(&mut ask, target) {
        config.put("thinkingConfig", thinking);
    }
    if !config.0.is_empty() {
        body.put("generationConfig", config);
    }
    Ok((body, ask))
}

fn write_thinking<'a>(ask: &mut Ask<'a>, target: &Target<'_>) -> Option<Object<'a>> {
    let reasoning = ask.reasoning.take()?;
    if !target.can_reason {
        ask.notes.drop_field(reasoning.field);
        return None;
    }
    let mut thinking = Object::default();
    if generation(target.model).is_some_and(|generation| generation >= 3) {
        // Levels in place of budgets; thinking cannot be switched off.
        let level = match reasoning.effort() {
            Some("none" | "minimal" | "low") => Some("LOW"),
            Some("medium") => Some("MEDIUM"),
            Some(_) => Some("HIGH"),
            None => None,
        };
        if reasoning.wants_none() {
            ask.notes.change(format!("{} (as little as possible)", reasoning.field));
            thinking.put("thinkingLevel", "LOW");
        } else {
            thinking.put_some("thinkingLevel", level);
        }
    } else if reasoning.wants_none() {
        thinking.put("thinkingBudget", 0u64);
    } else {
        // The most that every model of that generation takes.
        thinking.put_some("thinkingBudget", reasoning.budget().map(|budget| budget.min(24_576)));
    }
    if reasoning.is_shown {
        thinking.put("includeThoughts", true);
    }
    (!thinking.0.is_empty()).then_some(thinking)
}

fn write_tools<'a>(body: &mut Object<'a>, ask: &mut Ask<'a>) {
    if ask.tools.is_empty() {
        return;
    }
    let choice = ask.choice.take();
    if let Some(Choice::Among { names, required: false }) = &choice {
        ask.tools.retain(|tool| names.contains(&tool.name));
        ask.notes.change("tools (only those allowed)");
    }
    let mut functions = Vec::new();
    for tool in std::mem::take(&mut ask.tools) {
        if tool.cache.is_some() {
            ask.notes.drop_field("cache_control");
        }
        if tool.strict == Some(true) {
            ask.notes.drop_field("tools.strict");
        }
        let mut function = Object::default().with("name", tool.name);
        function.put_some("description", tool.description);
        // A schema without properties is refused as empty; leaving it out says the same.
        let has_properties = tool.schema.as_ref().is_some_and(|schema| {
            schema.as_object().is_some_and(|schema| {
                schema.0.iter().any(|(key, _)| {
                    key != "type" && key != "properties" && key != "additionalProperties" && key != "required"
                }) || schema
                    .get("properties")
                    .and_then(Value::as_object)
                    .is_some_and(|properties| !properties.0.is_empty())
            })
        });
        function.put_some("parametersJsonSchema", tool.schema.filter(|_| has_properties));
        functions.push(Value::from(function));
    }
    body.put("tools", vec![Object::default().with("functionDeclarations", functions).into()]);
    let (mode, names) = match choice {
        None => return,
        Some(Choice::Auto | Choice::Among { required: false, .. }) => ("AUTO", Vec::new()),
        Some(Choice::None) => ("NONE", Vec::new()),
        Some(Choice::Required) => ("ANY", Vec::new()),
        Some(Choice::Tool(name)) => ("ANY", vec![name]),
        Some(Choice::Among { names, required: true }) => ("ANY", names),
    };
    let mut calling = Object::default().with("mode", mode);
    if !names.is_empty() {
        calling.put("allowedFunctionNames", names.into_iter().map(Value::from).collect::<Vec<_>>());
    }
    body.put("toolConfig", Object::default().with("functionCallingConfig", calling));
}

fn write_parts<'a>(
    parts: Vec<Part<'a>>,
    path: &str,
    names: &mut Vec<(String, String)>,
    signs_calls: bool,
    ask: &mut Ask<'a>,
) -> Result<Vec<Value<'a>>, BadRequest> {
    let mut written: Vec<Value<'a>> = Vec::new();
    let mut signature: Option<Cow<'a, str>> = None;
    let mut has_call = false;
    // What is no text in a result follows all results, which have to stand together.
    let mut late = Vec::new();
    for part in parts {
        if part.cache.is_some() {
            ask.notes.drop_field("cache_control");
        }
        let mut one = match part.body {
            Body::Text(text) | Body::Refusal(text) if text.is_empty() => continue,
            Body::Text(text) | Body::Refusal(text) | Body::File { source: Source::Text(text), .. } => {
                Object::default().with("text", text)
            }
            Body::Thinking { text, mark } => {
                if let Some(mark) = mark.filter(|mark| !mark.payload.is_empty()) {
                    signature = Some(mark.payload);
                }
                if !text.is_empty() {
                    written.push(Object::default().with("text", text).with("thought", true).into());
                }
                continue;
            }
            Body::ToolCall { id, name, arguments, mark } => {
                names.push((id.to_string(), name.to_string()));
                let mut call = Object::default();
                if !id.starts_with(MINTED_CALL) {
                    call.put("id", id);
                }
                call.put("name", name);
                call.put("args", arguments_object(&arguments));
                let own = mark.filter(|mark| mark.family == Format::Gemini).map(|mark| mark.payload);
                // Only the first of parallel calls is signed.
                let foreign = (signs_calls && !has_call).then_some(Cow::Borrowed(FOREIGN_CALL));
                signature = own.or(signature.take()).or(foreign);
                has_call = true;
                Object::default().with("functionCall", call)
            }
            Body::ToolResult { id, parts, is_error } => {
                let Some((_, name)) = names.iter().rev().find(|(known, _)| *known == *id) else {
                    return Err(BadRequest::field(
                        path,
                        format_args!("answers the call `{id}`, which is not there"),
                    ));
                };
                let (mut texts, mut others) = (Vec::new(), Vec::new());
                for part in parts {
                    match part.body {
                        Body::Text(text)
                        | Body::Refusal(text)
                        | Body::File { source: Source::Text(text), .. } => texts.push(text),
                        body => others.push(Part { body, cache: None }),
                    }
                }
                let text = crate::chat::joined(texts);
                let response = match crate::json::parse(text.as_bytes()) {
                    Ok(value @ Value::Object(_)) if !is_error => value.into_owned(),
                    _ => Object::default().with(if is_error { "error" } else { "output" }, text).into(),
                };
                let mut answer = Object::default();
                if !id.starts_with(MINTED_CALL) {
                    answer.put("id", id);
                }
                answer.put("name", name.clone());
                answer.put("response", response);
                written.push(Object::default().with("functionResponse", answer).into());
                late.extend(others);
                continue;
            }
            Body::Image { source, detail } => {
                if detail.is_some() {
                    ask.notes.drop_field(format!("{path}.image_url.detail"));
                }
                write_source(source, "image/*")
            }
            Body::File { source, name } => {
                if name.is_some() {
                    ask.notes.drop_field(format!("{path}.filename"));
                }
                write_source(source, "application/pdf")
            }
            Body::Audio { data, format } => write_source(
                Source::Base64 {
                    media_type: format!("audio/{}", if format == "mp3" { "mpeg" } else { &format }).into(),
                    data,
                },
                "",
            ),
        };
        one.put_some("thoughtSignature", signature.take());
        written.push(one.into());
    }
    if let Some(signature) = signature {
        written.push(Object::default().with("text", "").with("thoughtSignature", signature).into());
    }
    if !late.is_empty() {
        written.extend(write_parts(late, path, names, false, ask)?);
    }
    Ok(written)
}

/// By URL the reference asks for a type, which the other formats do not say; it is guessed from the ending.
fn write_source<'a>(source: Source<'a>, otherwise: &'a str) -> Object<'a> {
    match source {
        Source::Base64 { media_type, data } => Object::default()
            .with("inlineData", Object::default().with("mimeType", media_type).with("data", data)),
        Source::Url(uri) => {
            let path = uri.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
            let known = [
                (".png", "image/png"),
                (".jpg", "image/jpeg"),
                (".jpeg", "image/jpeg"),
                (".webp", "image/webp"),
                (".gif", "image/gif"),
                (".pdf", "application/pdf"),
            ];
            let media_type =
                known.iter().find(|(ending, _)| path.ends_with(ending)).map_or(otherwise, |(_, sort)| *sort);
            let media_type = if media_type == "image/*" { "image/jpeg" } else { media_type };
            Object::default()
                .with("fileData", Object::default().with("mimeType", media_type).with("fileUri", uri))
        }
        Source::Text(text) => Object::default().with("text", text),
    }
}

pub(crate) fn read_finish(reason: &str) -> Option<Finish> {
    Some(match reason {
        "FINISH_REASON_UNSPECIFIED" => return None,
        "STOP" => Finish::Stop,
        "MAX_TOKENS" => Finish::Length,
        // Google says STOP; servers that imitate it say this.
        "FUNCTION_CALL" => Finish::ToolCalls,
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MALFORMED_RESPONSE"
        | "MISSING_THOUGHT_SIGNATURE" => Finish::Failed(reason.to_owned()),
        // SAFETY, RECITATION, BLOCKLIST, PROHIBITED_CONTENT, SPII, LANGUAGE, OTHER and what may come: the provider stopped it.
        _ => Finish::Refused,
    })
}

pub(crate) fn write_finish(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopSequence(_) | Finish::ToolCalls => "STOP",
        Finish::Length | Finish::Pause => "MAX_TOKENS",
        Finish::Refused => "SAFETY",
        Finish::Failed(_) => "OTHER",
    }
}

pub(crate) fn read_reply<'a>(value: Value<'a>, shown: &Shown<'_>) -> Result<Reply<'a>, BadReply> {
    if let Some(error) = error_in(Format::Gemini, &value, None) {
        return Err(error.into());
    }
    let Value::Object(mut body) = value else { return Err(BadReply::new("the reply is not a JSON object")) };
    let mut reply = Reply {
        id: body.take_text("responseId"),
        usage: usage::in_value(Format::Gemini, body.get("usageMetadata")),
        ..Reply::default()
    };
    let blocked = body.get("promptFeedback").and_then(|feedback| feedback.get("blockReason")).is_some();
    let candidate = match body.take("candidates") {
        Some(Value::Array(candidates)) => candidates.into_iter().next(),
        _ => None,
    };
    let Some(Value::Object(mut candidate)) = candidate else {
        if blocked {
            reply.finish = Some(Finish::Refused);
            return Ok(reply);
        }
        return Err(BadReply::new("the reply has no `candidates`"));
    };
    reply.finish = candidate.text("finishReason").and_then(read_finish);
    let parts = match candidate.take("content") {
        Some(Value::Object(mut content)) => content.take("parts"),
        _ => None,
    };
    let mut read: Vec<Part<'a>> = Vec::new();
    if let Some(Value::Array(parts)) = parts {
        for (index, part) in parts.into_iter().enumerate() {
            let Value::Object(mut part) = part else { continue };
            let mark = part.take_text("thoughtSignature").map(|text| Mark::new(Format::Gemini, text));
            let is_thought = part.take("thought").and_then(|value| value.as_bool()).unwrap_or(false);
            if let Some(text) = part.take_text("text") {
                push_text(&mut read, text, is_thought, mark);
            } else if let Some(Value::Object(mut call)) = part.take("functionCall") {
                read.push(read_call(&mut call, mark, shown.seed, index as u64).into());
            } else if let Some(Value::Object(mut blob)) = part.take("inlineData") {
                let media_type = blob.take_text("mimeType").unwrap_or_default();
                read.push(media(media_type, blob.take_text("data").unwrap_or_default()).into());
            }
        }
    }
    reply.parts = read
        .into_iter()
        .map(|part| match part.body {
            Body::Thinking { text, mark: None } => {
                Body::Thinking { text, mark: Some(Mark::new(Format::Gemini, "")) }
            }
            body => body,
        })
        .collect();
    Ok(reply)
}

/// Gemini's calls are whole, and most have no id.
pub(crate) fn read_call<'a>(
    call: &mut Object<'a>,
    mark: Option<Mark<'a>>,
    seed: u64,
    number: u64,
) -> Body<'a> {
    let id = call.take_text("id").filter(|id| !id.is_empty());
    Body::ToolCall {
        id: id.unwrap_or_else(|| minted(MINTED_CALL, seed, number).into()),
        name: call.take_text("name").unwrap_or_default(),
        arguments: call.take("args").map(|args| args.to_json()).unwrap_or_default().into(),
        mark,
    }
}

pub(crate) fn call_part<'a>(id: Cow<'a, str>, name: Cow<'a, str>, arguments: &str) -> Object<'a> {
    let call = Object::default().with("id", id).with("name", name).with("args", arguments_object(arguments));
    Object::default().with("functionCall", call)
}

/// Reasoning, signed when it is over.
pub(crate) fn thought_part<'a>(text: Cow<'a, str>, mark: Option<&Mark<'_>>) -> Object<'a> {
    let mut part = Object::default().with("text", text).with("thought", true);
    part.put_some("thoughtSignature", mark.map(|mark| mark.written_in(Format::Gemini)));
    part
}

pub(crate) fn envelope<'a>(
    parts: Vec<Value<'a>>,
    finish: Option<&Finish>,
    usage: Option<crate::Usage>,
    model: &'a str,
    id: Cow<'a, str>,
) -> Object<'a> {
    let mut candidate =
        Object::default().with("content", Object::default().with("parts", parts).with("role", "model"));
    candidate.put_some("finishReason", finish.map(write_finish));
    candidate.put("index", 0u64);
    let mut body = Object::default().with("candidates", vec![candidate.into()]);
    body.put_some("usageMetadata", usage.map(|usage| usage::write(Format::Gemini, &usage)));
    body.with("modelVersion", model).with("responseId", id)
}

pub(crate) fn write_reply<'a>(reply: Reply<'a>, shown: &Shown<'a>) -> Object<'a> {
    let mut parts: Vec<Value<'a>> = Vec::new();
    for part in reply.parts {
        match part {
            Body::Text(text) | Body::Refusal(text) => parts.push(Object::default().with("text", text).into()),
            Body::Thinking { text, mark } => parts.push(thought_part(text, mark.as_ref()).into()),
            Body::ToolCall { id, name, arguments, .. } => parts.push(call_part(id, name, &arguments).into()),
            Body::Image { source, .. } | Body::File { source, .. } => {
                parts.push(write_source(source, "image/*").into());
            }
            Body::Audio { .. } | Body::ToolResult { .. } => {}
        }
    }
    let id = reply.id.unwrap_or_else(|| minted("", shown.seed, u64::MAX).into());
    envelope(parts, reply.finish.as_ref(), reply.usage, shown.model, id)
}
