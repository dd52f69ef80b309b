//! What a request and a reply say, whatever the format: the step between any two of them.

use crate::json::{Object, Value};
use crate::mark::Mark;
use crate::{BadRequest, Format, Usage};
use std::borrow::Cow;

/// Where a conversion leads, and what is known of the model there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The model as the provider names it.
    pub model: &'a str,
    /// Whether the reply is to be streamed. Gemini's clients say so in the path, so that the body cannot tell.
    pub stream: bool,
    /// What `max_tokens` becomes for Anthropic, which insists on it, when the client did not say. Default: 4,096, which every model allows.
    pub max_tokens_default: u64,
    /// The name of the limit in chat. Default: `max_completion_tokens`; older servers only know `max_tokens`.
    pub chat_limit: &'a str,
    /// Whether the model can reason. Default: yes. If not, wishes about reasoning are dropped, and said to be.
    pub can_reason: bool,
    /// Whether a chat server understands `cache_control`. Default: no; OpenAI's own refuses it.
    pub chat_cache_control: bool,
}

impl<'a> Target<'a> {
    /// The defaults for a model.
    pub const fn new(model: &'a str) -> Self {
        Self {
            model,
            stream: false,
            max_tokens_default: 4_096,
            chat_limit: "max_completion_tokens",
            can_reason: true,
            chat_cache_control: false,
        }
    }
}

/// What happened to a request on its way into another format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// Fields that have no equivalent.
    pub(crate) dropped: Vec<String>,
    /// Fields that mean something a little different now.
    pub(crate) changed: Vec<String>,
}

/// Most fields that are listed; a body can have thousands of unknown ones.
const NOTES_MAX: usize = 64;

impl Notes {
    pub(crate) fn drop_field(&mut self, field: impl Into<String>) {
        Self::note(&mut self.dropped, field.into());
    }

    pub(crate) fn change(&mut self, field: impl Into<String>) {
        Self::note(&mut self.changed, field.into());
    }

    fn note(list: &mut Vec<String>, field: String) {
        if list.len() < NOTES_MAX && !list.contains(&field) {
            list.push(field);
        }
    }

    /// Everything that is left of an object after its known members were taken.
    pub(crate) fn drop_rest(&mut self, path: &str, rest: &Object<'_>) {
        for (key, value) in &rest.0 {
            if !value.is_null() {
                self.drop_field(if path.is_empty() { key.to_string() } else { format!("{path}.{key}") });
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) turns: Vec<Turn<'a>>,
    pub(crate) tools: Vec<Tool<'a>>,
    pub(crate) choice: Option<Choice<'a>>,
    /// Whether several tools may be called at once.
    pub(crate) parallel: Option<bool>,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) temperature: Option<Value<'a>>,
    pub(crate) top_p: Option<Value<'a>>,
    pub(crate) top_k: Option<Value<'a>>,
    pub(crate) seed: Option<Value<'a>>,
    pub(crate) frequency_penalty: Option<Value<'a>>,
    pub(crate) presence_penalty: Option<Value<'a>>,
    pub(crate) stop: Vec<Cow<'a, str>>,
    pub(crate) output: Output<'a>,
    pub(crate) reasoning: Option<Reasoning<'a>>,
    pub(crate) user: Option<Cow<'a, str>>,
    /// What OpenAI's two formats share and no other has.
    pub(crate) openai: Vec<(&'static str, Value<'a>)>,
    pub(crate) stream: Option<bool>,
    pub(crate) notes: Notes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
}

#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) role: Role,
    pub(crate) parts: Vec<Part<'a>>,
    /// Where it stands in the request, for notes and errors.
    pub(crate) path: String,
}

#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) body: Body<'a>,
    /// Anthropic's mark that the prompt up to here is worth caching.
    pub(crate) cache: Option<Value<'a>>,
}

impl Part<'_> {
    fn is_empty_text(&self) -> bool {
        matches!(&self.body, Body::Text(text) | Body::Refusal(text) if text.is_empty())
    }
}

impl<'a> From<Body<'a>> for Part<'a> {
    fn from(body: Body<'a>) -> Self {
        Self { body, cache: None }
    }
}

#[derive(Debug)]
pub(crate) enum Body<'a> {
    Text(Cow<'a, str>),
    Refusal(Cow<'a, str>),
    Image {
        source: Source<'a>,
        detail: Option<Value<'a>>,
    },
    /// A document, such as a PDF.
    File {
        source: Source<'a>,
        name: Option<Cow<'a, str>>,
    },
    /// Sound in base64 with its format, such as `wav`.
    Audio {
        data: Cow<'a, str>,
        format: Cow<'a, str>,
    },
    Thinking {
        text: Cow<'a, str>,
        mark: Option<Mark<'a>>,
    },
    ToolCall {
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        /// JSON as text, as the model wrote it; empty for no arguments.
        arguments: Cow<'a, str>,
        mark: Option<Mark<'a>>,
    },
    ToolResult {
        id: Cow<'a, str>,
        parts: Vec<Part<'a>>,
        is_error: bool,
    },
}

#[derive(Debug)]
pub(crate) enum Source<'a> {
    Url(Cow<'a, str>),
    Base64 {
        media_type: Cow<'a, str>,
        data: Cow<'a, str>,
    },
    /// A document that is plain text.
    Text(Cow<'a, str>),
}

impl<'a> Source<'a> {
    /// A `data:` URL is the data itself.
    pub(crate) fn from_url(url: Cow<'a, str>) -> Self {
        let inline = url.strip_prefix("data:").and_then(|rest| {
            let (media_type, data) = rest.split_once(";base64,")?;
            Some((media_type.to_owned(), data.to_owned()))
        });
        match inline {
            Some((media_type, data)) => Source::Base64 { media_type: media_type.into(), data: data.into() },
            None => Source::Url(url),
        }
    }

    pub(crate) fn into_url(self) -> Cow<'a, str> {
        match self {
            Source::Url(url) => url,
            Source::Base64 { media_type, data } => format!("data:{media_type};base64,{data}").into(),
            Source::Text(text) => {
                use base64::Engine;
                format!("data:text/plain;base64,{}", crate::mark::BASE64.encode(text.as_bytes())).into()
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tool<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) description: Option<Cow<'a, str>>,
    /// JSON schema of the arguments.
    pub(crate) schema: Option<Value<'a>>,
    pub(crate) strict: Option<bool>,
    pub(crate) cache: Option<Value<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    Auto,
    None,
    Required,
    Tool(Cow<'a, str>),
    /// One of these, and whether one must be called.
    Among {
        names: Vec<Cow<'a, str>>,
        required: bool,
    },
}

#[derive(Debug, Default)]
pub(crate) enum Output<'a> {
    #[default]
    Text,
    Json,
    Schema {
        name: Option<Cow<'a, str>>,
        description: Option<Cow<'a, str>>,
        schema: Value<'a>,
        strict: Option<bool>,
    },
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Reasoning<'a> {
    pub(crate) effort: Option<Cow<'a, str>>,
    /// Tokens to think with.
    pub(crate) budget: Option<u64>,
    pub(crate) is_off: bool,
    /// Whether the client wants to see it, and so can send it back.
    pub(crate) is_shown: bool,
    /// What the client calls it.
    pub(crate) field: &'static str,
}

/// Tokens to think with for each effort. Source: the table of Google's guide "OpenAI compatibility", "Thinking".
const BUDGETS: [(&str, u64); 7] = [
    ("none", 0),
    ("minimal", 1_024),
    ("low", 1_024),
    ("medium", 8_192),
    ("high", 24_576),
    ("xhigh", 32_768),
    ("max", 32_768),
];

impl Reasoning<'_> {
    pub(crate) fn wants_none(&self) -> bool {
        self.is_off || self.effort.as_deref() == Some("none") || self.budget == Some(0)
    }

    /// Effort in words.
    pub(crate) fn effort(&self) -> Option<&str> {
        match (self.effort.as_deref(), self.budget) {
            (Some(effort), _) => Some(effort),
            (None, Some(0..=4_096)) => Some("low"),
            (None, Some(4_097..=16_384)) => Some("medium"),
            (None, Some(_)) => Some("high"),
            (None, None) => None,
        }
    }

    /// Effort in tokens.
    pub(crate) fn budget(&self) -> Option<u64> {
        let effort = self.effort();
        self.budget.or_else(|| {
            let (_, budget) = BUDGETS.iter().find(|(name, _)| Some(*name) == effort)?;
            Some(*budget)
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Reply<'a> {
    pub(crate) id: Option<Cow<'a, str>>,
    /// Texts, refusals, thinking, calls and images, in order.
    pub(crate) parts: Vec<Body<'a>>,
    pub(crate) finish: Option<Finish>,
    pub(crate) usage: Option<Usage>,
    pub(crate) created: Option<u64>,
}

impl Reply<'_> {
    /// Gemini and responses have no reason of their own for calls of tools.
    pub(crate) fn settle_finish(&mut self) {
        let calls = self.parts.iter().any(|part| matches!(part, Body::ToolCall { .. }));
        if calls && self.finish == Some(Finish::Stop) {
            self.finish = Some(Finish::ToolCalls);
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    StopSequence(Option<String>),
    Length,
    ToolCalls,
    /// Withheld because of what it holds.
    Refused,
    /// The provider wants to be asked to go on.
    Pause,
    /// The model made something that the provider cannot use.
    Failed(String),
}

/// What a client is shown in place of what only the gateway knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The name of the model.
    pub model: &'a str,
    /// When the answer began, in seconds since 1970, for formats that say so.
    pub created_s: u64,
    /// Any number that is not the same for two requests: ids are made of it where the provider gives none.
    pub seed: u64,
}

/// An id for what has none, the same for the same seed and number.
pub(crate) fn minted(prefix: &str, seed: u64, number: u64) -> String {
    // SplitMix64: spreads neighbouring seeds over all bits.
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number.wrapping_add(1)));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    format!("{prefix}{:016x}", mixed ^ (mixed >> 31))
}

/// How ids of calls begin that were made here, because Gemini gave none.
pub(crate) const MINTED_CALL: &str = "call_gm";

/// A field that another format cannot say.
pub(crate) fn no_equivalent(field: impl Into<String>) -> BadRequest {
    BadRequest::field(field, "has no equivalent in the API of the model's provider")
}

pub(crate) fn text<'a>(value: Value<'a>, path: &str) -> Result<Cow<'a, str>, BadRequest> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(BadRequest::field(path, "must be a text")),
    }
}

pub(crate) fn object<'a>(value: Value<'a>, path: &str) -> Result<Object<'a>, BadRequest> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(BadRequest::field(path, "must be an object")),
    }
}

pub(crate) fn array<'a>(value: Value<'a>, path: &str) -> Result<Vec<Value<'a>>, BadRequest> {
    match value {
        Value::Array(elements) => Ok(elements),
        _ => Err(BadRequest::field(path, "must be an array")),
    }
}

pub(crate) fn required<'a>(object: &mut Object<'a>, key: &str, path: &str) -> Result<Value<'a>, BadRequest> {
    object.take(key).ok_or_else(|| {
        let field = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        BadRequest::field(field, "is missing")
    })
}

pub(crate) fn required_text<'a>(
    object: &mut Object<'a>,
    key: &str,
    path: &str,
) -> Result<Cow<'a, str>, BadRequest> {
    text(required(object, key, path)?, &format!("{path}.{key}"))
}

pub(crate) fn whole(value: &Value<'_>, path: &str) -> Result<u64, BadRequest> {
    value.as_u64().ok_or_else(|| BadRequest::field(path, "must be a whole number that is not negative"))
}

pub(crate) fn boolean(value: &Value<'_>, path: &str) -> Result<bool, BadRequest> {
    value.as_bool().ok_or_else(|| BadRequest::field(path, "must be `true` or `false`"))
}

/// One text or several.
pub(crate) fn texts<'a>(value: Value<'a>, path: &str) -> Result<Vec<Cow<'a, str>>, BadRequest> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(elements) => elements.into_iter().map(|element| text(element, path)).collect(),
        _ => Err(BadRequest::field(path, "must be a text or an array of texts")),
    }
}

/// The arguments of a call as an object, for formats that do not take text. What is no JSON object is kept as text inside one:
/// an answer that was cut at its limit often ends inside its arguments.
pub(crate) fn arguments_object<'a>(arguments: &str) -> Value<'a> {
    if arguments.trim().is_empty() {
        return Value::Object(Object::default());
    }
    match crate::json::parse(arguments.as_bytes()) {
        Ok(value @ Value::Object(_)) => value.into_owned(),
        _ => Value::Object(Object::default().with("arguments_not_json", arguments.to_owned())),
    }
}

/// The arguments of a call as text.
pub(crate) fn arguments_text(arguments: Cow<'_, str>) -> Cow<'_, str> {
    if arguments.trim().is_empty() { Cow::Borrowed("{}") } else { arguments }
}

/// Whether OpenAI would take the schema with `strict`: every object closed, every property required.
pub(crate) fn is_strict(schema: &Value<'_>, depth: usize) -> bool {
    match schema {
        Value::Object(object) => {
            let is_object = object.text("type") == Some("object") || object.get("properties").is_some();
            if is_object {
                let closed = object.get("additionalProperties").and_then(Value::as_bool) == Some(false);
                let required = object.get("required").and_then(Value::as_array).unwrap_or_default();
                let all = object.get("properties").and_then(Value::as_object).is_none_or(|properties| {
                    properties.0.iter().all(|(name, _)| required.iter().any(|one| one.as_str() == Some(name)))
                });
                if !(closed && all) {
                    return false;
                }
            }
            depth < 32 && object.0.iter().all(|(_, value)| is_strict(value, depth + 1))
        }
        Value::Array(elements) => depth < 32 && elements.iter().all(|element| is_strict(element, depth + 1)),
        _ => true,
    }
}

/// Adds turns of the same side together, results of tools first.
pub(crate) fn merged(turns: Vec<Turn<'_>>) -> Vec<Turn<'_>> {
    let mut merged: Vec<Turn<'_>> = Vec::new();
    for turn in turns {
        match merged.last_mut() {
            Some(last) if last.role == turn.role => last.parts.extend(turn.parts),
            _ => merged.push(turn),
        }
    }
    for turn in &mut merged {
        // A stable sort: results keep their order, and so does the rest.
        turn.parts.sort_by_key(|part| !matches!(part.body, Body::ToolResult { .. }));
    }
    merged
}

/// What Anthropic and Gemini want: the system apart, the sides alternating, and results right after the calls. System turns that do not stand
/// at the start are noted as moved.
pub(crate) fn alternate<'a>(turns: Vec<Turn<'a>>, notes: &mut Notes) -> (Vec<Part<'a>>, Vec<Turn<'a>>) {
    let (mut system, mut others): (Vec<Part<'a>>, Vec<Turn<'a>>) = (Vec::new(), Vec::new());
    for turn in turns {
        if turn.role == Role::System {
            if !others.is_empty() {
                notes.change(format!("{} (moved to the front)", turn.path));
            }
            system.extend(turn.parts);
        } else if turn.parts.iter().all(Part::is_empty_text) {
            // Both refuse empty messages.
            notes.drop_field(format!("{} (empty)", turn.path));
        } else {
            others.push(turn);
        }
    }
    (system, merged(others))
}

/// Leaves those reasoning parts that `family` can read again, and notes the others.
pub(crate) fn keep_own_thinking(turns: &mut [Turn<'_>], family: Format, notes: &mut Notes) {
    for turn in turns {
        let path = &turn.path;
        turn.parts.retain_mut(|part| match &mut part.body {
            Body::Thinking { mark, .. } => {
                let own = mark.as_ref().is_some_and(|mark| mark.family == family);
                if !own {
                    notes.drop_field(format!("{path} (reasoning of another provider)"));
                }
                own
            }
            Body::ToolCall { mark, .. } => {
                if mark.take_if(|mark| mark.family != family).is_some() {
                    notes.drop_field(format!("{path} (reasoning of another provider)"));
                }
                true
            }
            _ => true,
        });
    }
}
