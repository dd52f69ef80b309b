//! The few fields of a request that a gateway decides on, and their replacement in place.

use crate::json::{Bad, Kind, Scanner, Text, write_text};
use crate::{BadRequest, Format};
use std::ops::Range;

/// Characters that are kept of a tool's name.
const CHARGED_CHARS_MAX: usize = 64;

/// A value with the bytes that it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<T> {
    /// What it says.
    pub value: T,
    /// Where the value stands in the body.
    pub range: Range<usize>,
}

/// What [`scan`] finds. A field is `None` when it is absent or `null`.
///
/// Gemini names model and streaming in the path: there `model` and `stream` are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scanned {
    /// `model`.
    pub model: Option<Field<String>>,
    /// `stream`.
    pub stream: Option<Field<bool>>,
    /// Most tokens of the answer: `max_completion_tokens`, `max_tokens` or llama.cpp's `n_predict` (chat), `max_output_tokens` (responses),
    /// `max_tokens` (messages), `generationConfig.maxOutputTokens` (Gemini). With several of chat's names, the largest one: servers disagree
    /// on which of them counts, and what is reserved must hold for each. `None` also when one of them says that there is no limit.
    pub max_tokens: Option<Field<u64>>,
    /// Answers generated at once: the larger of `n` and `best_of` (chat), `generationConfig.candidateCount` (Gemini); their tokens are all
    /// paid for.
    pub choices: Option<Field<u64>>,
    /// `background` (responses): the answer is made after the reply, so that what it uses is not in it.
    pub background: Option<Field<bool>>,
    /// `stream_options.include_usage` (chat).
    pub include_usage: Option<Field<bool>>,
    /// `store` (responses): whether the provider keeps the answer, which it does unless told otherwise.
    pub store: Option<Field<bool>>,
    /// `service_tier`.
    pub service_tier: Option<Field<String>>,
    /// Whether `tools` or `functions` is there and not `null`.
    pub has_tools: bool,
    /// The first thing in the request for which a provider charges beyond the tokens of its prices, or runs by itself as often as the model
    /// wants: a tool that is not the client's own (`web_search`, `code_interpreter`, `googleSearch`), or a field that brings one or raises
    /// the prices (`web_search_options`, `prompt`, `speed`, `inference_geo`).
    pub charged: Option<String>,
    format: Option<Format>,
    places: Places,
}

/// Where to write, also for fields that are `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Places {
    model: Option<Range<usize>>,
    stream: Option<Range<usize>>,
    /// Each name under which the limit is written.
    max_tokens: Vec<Range<usize>>,
    /// One of them says that there is none.
    is_unlimited: bool,
    /// The object that holds `include_usage` or Gemini's `maxOutputTokens`.
    holder: Option<Range<usize>>,
    holder_is_object: bool,
    holder_is_empty: bool,
    include_usage: Option<Range<usize>>,
    top_is_empty: bool,
    /// The closing brace of the whole.
    top_end: usize,
}

/// Reads the fields and checks that the whole body is JSON; nothing is kept of the rest.
///
/// Works for bodies of embeddings too, as `Format::Chat`.
///
/// # Errors
///
/// The body is no JSON object, a field has the wrong type, or a field is there twice: readers disagree on which of two counts, so
/// that what was checked need not be what is done.
pub fn scan(format: Format, body: &[u8]) -> Result<Scanned, BadRequest> {
    let mut found = Scanned { format: Some(format), ..Scanned::default() };
    if let Err(error) = std::str::from_utf8(body) {
        return Err(BadRequest::new(format!("the body is not UTF-8 at byte {}", error.valid_up_to())));
    }
    let mut scanner = Scanner::new(body);
    scanner.space();
    if body.get(scanner.at()) != Some(&b'{') {
        // The error of the parser when it is no JSON at all.
        scanner.skip().and_then(|()| scanner.end())?;
        return Err(BadRequest::new("the body is not a JSON object"));
    }
    let mut problem: Option<BadRequest> = None;
    let mut seen = Seen::default();
    found.places.top_is_empty = true;
    scanner.object(|key, scanner| {
        found.places.top_is_empty = false;
        let decoded;
        let name: &[u8] = if key.escaped {
            decoded = key.decode();
            decoded.as_bytes()
        } else {
            key.raw
        };
        let outcome = found.member(format, name, scanner, &mut seen)?;
        if problem.is_none() {
            problem = outcome.err();
        }
        Ok(())
    })?;
    found.places.top_end = scanner.at() - 1;
    scanner.end()?;
    match problem {
        Some(problem) => Err(problem),
        None => Ok(found),
    }
}

/// The names met so far, one bit each.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    fn first(&mut self, bit: u32, name: &str) -> Result<(), BadRequest> {
        if self.0 & (1 << bit) != 0 {
            return Err(BadRequest::field(name, "is there twice"));
        }
        self.0 |= 1 << bit;
        Ok(())
    }
}

/// A broken body stops the scan; a wrong field is told after the body has been checked.
type Outcome = Result<Result<(), BadRequest>, Bad>;

impl Scanned {
    fn member(&mut self, format: Format, name: &[u8], scanner: &mut Scanner<'_>, seen: &mut Seen) -> Outcome {
        use Format::{Chat, Gemini, Messages, Responses};
        match (format, name) {
            (Chat | Responses | Messages, b"model") => {
                let (value, range) = text(scanner, "model")?;
                self.places.model = Some(range.clone());
                Ok(seen
                    .first(0, "model")
                    .and(value)
                    .map(|value| self.model = value.map(|value| Field { value, range })))
            }
            (Chat | Responses | Messages, b"stream") => {
                let (value, range) = boolean(scanner, "stream")?;
                self.places.stream = Some(range.clone());
                Ok(seen
                    .first(1, "stream")
                    .and(value)
                    .map(|value| self.stream = value.map(|value| Field { value, range })))
            }
            (Chat, b"max_completion_tokens") => self.limit(scanner, seen, 2, "max_completion_tokens", false),
            (Chat | Messages, b"max_tokens") => self.limit(scanner, seen, 3, "max_tokens", false),
            (Responses, b"max_output_tokens") => self.limit(scanner, seen, 4, "max_output_tokens", false),
            (Chat, b"n_predict") => self.predicted(scanner, seen),
            (Chat, b"n") => self.count_of_choices(scanner, seen, 5, "n", false),
            (Chat, b"best_of") => self.count_of_choices(scanner, seen, 12, "best_of", false),
            (Responses, b"store") => {
                let (value, range) = boolean(scanner, "store")?;
                Ok(seen
                    .first(14, "store")
                    .and(value)
                    .map(|value| self.store = value.map(|value| Field { value, range })))
            }
            (Responses, b"background") => {
                let (value, range) = boolean(scanner, "background")?;
                Ok(seen
                    .first(13, "background")
                    .and(value)
                    .map(|value| self.background = value.map(|value| Field { value, range })))
            }
            (_, b"service_tier") | (Gemini, b"serviceTier") => {
                let (value, range) = text(scanner, "service_tier")?;
                Ok(seen
                    .first(6, "service_tier")
                    .and(value)
                    .map(|value| self.service_tier = value.map(|value| Field { value, range })))
            }
            (_, b"tools") | (Chat, b"functions") => {
                let kind = scanner.kind()?;
                self.has_tools |= kind != Kind::Null;
                if kind == Kind::Array && name == b"tools" {
                    scanner.array(|scanner| self.tool(format, scanner))?;
                } else {
                    scanner.skip()?;
                }
                Ok(Ok(()))
            }
            // A search for each answer; a stored prompt may hold any tool; faster or regional answers have a surcharge.
            // Source: OpenAI and Anthropic, pages of prices.
            (Chat, b"web_search_options")
            | (Responses, b"prompt")
            | (Messages, b"speed" | b"inference_geo") => {
                let plain = scanner.kind()? == Kind::Null
                    || matches!(scanner.look_ahead().text_or_skip()?, Some(word) if matches!(word.raw, b"standard" | b"global"));
                scanner.skip()?;
                if !plain {
                    self.charge(&String::from_utf8_lossy(name));
                }
                Ok(Ok(()))
            }
            (Chat, b"stream_options") => {
                let first = seen.first(7, "stream_options");
                let inside = self.holder(scanner, "stream_options", |this, name, scanner| match name {
                    b"include_usage" => {
                        let (value, range) = boolean(scanner, "stream_options.include_usage")?;
                        this.places.include_usage = Some(range.clone());
                        Ok(seen
                            .first(8, "stream_options.include_usage")
                            .and(value)
                            .map(|value| this.include_usage = value.map(|value| Field { value, range })))
                    }
                    _ => scanner.skip().map(|()| Ok(())),
                })?;
                Ok(first.and(inside))
            }
            (Gemini, b"generationConfig" | b"generation_config") => {
                let first = seen.first(9, "generationConfig");
                let inside = self.holder(scanner, "generationConfig", |this, name, scanner| match name {
                    b"maxOutputTokens" | b"max_output_tokens" => {
                        this.limit(scanner, seen, 10, "generationConfig.maxOutputTokens", true)
                    }
                    b"candidateCount" | b"candidate_count" => {
                        this.count_of_choices(scanner, seen, 5, "generationConfig.candidateCount", true)
                    }
                    _ => scanner.skip().map(|()| Ok(())),
                })?;
                Ok(first.and(inside))
            }
            _ => scanner.skip().map(|()| Ok(())),
        }
    }

    /// One of `tools`: the client's own ones are called by the client, and paid for with tokens alone.
    fn tool(&mut self, format: Format, scanner: &mut Scanner<'_>) -> Result<(), Bad> {
        if scanner.kind()? != Kind::Object {
            return scanner.skip();
        }
        scanner.object(|key, scanner| {
            let name = key.decode();
            if format == Format::Gemini {
                let own = matches!(
                    name.as_ref(),
                    "functionDeclarations" | "function_declarations" | "computerUse" | "computer_use"
                );
                if !own && scanner.kind()? != Kind::Null {
                    self.charge(&name);
                }
                return scanner.skip();
            }
            if name != "type" {
                return scanner.skip();
            }
            if let Some(sort) = scanner.text_or_skip()?.map(Text::decode)
                && !is_own_tool(format, &sort)
            {
                self.charge(&sort);
            }
            Ok(())
        })
    }

    fn charge(&mut self, what: &str) {
        if self.charged.is_none() {
            self.charged = Some(what.chars().take(CHARGED_CHARS_MAX).collect());
        }
    }

    fn limit(
        &mut self,
        scanner: &mut Scanner<'_>,
        seen: &mut Seen,
        bit: u32,
        name: &str,
        quoted: bool,
    ) -> Outcome {
        let (value, range) = whole(scanner, name, quoted)?;
        self.places.max_tokens.push(range.clone());
        Ok(seen.first(bit, name).and(value).map(|value| {
            if let Some(value) = value
                && !self.places.is_unlimited
                && self.max_tokens.as_ref().is_none_or(|field| value > field.value)
            {
                self.max_tokens = Some(Field { value, range });
            }
        }))
    }

    /// llama.cpp's own name of the limit, which goes before the others there; below zero it is none.
    /// Source: llama.cpp, `tools/server/README.md`, `n_predict`.
    fn predicted(&mut self, scanner: &mut Scanner<'_>, seen: &mut Seen) -> Outcome {
        const NAME: &str = "n_predict";
        let mut ahead = scanner.look_ahead();
        if ahead.kind()? != Kind::Number || !ahead.number()?.starts_with('-') {
            return self.limit(scanner, seen, 11, NAME, false);
        }
        let range = scanner.span()?;
        self.places.max_tokens.push(range);
        self.places.is_unlimited = true;
        self.max_tokens = None;
        Ok(seen.first(11, NAME))
    }

    fn count_of_choices(
        &mut self,
        scanner: &mut Scanner<'_>,
        seen: &mut Seen,
        bit: u32,
        name: &str,
        quoted: bool,
    ) -> Outcome {
        let (value, range) = whole(scanner, name, quoted)?;
        Ok(seen.first(bit, name).and(value).map(|value| {
            if let Some(value) = value
                && self.choices.as_ref().is_none_or(|field| value > field.value)
            {
                self.choices = Some(Field { value, range });
            }
        }))
    }

    fn holder(
        &mut self,
        scanner: &mut Scanner<'_>,
        name: &str,
        mut member: impl FnMut(&mut Self, &[u8], &mut Scanner<'_>) -> Outcome,
    ) -> Outcome {
        scanner.space();
        let start = scanner.at();
        let kind = scanner.kind()?;
        self.places.holder_is_object = kind == Kind::Object;
        let mut outcome = Ok(());
        if kind == Kind::Object {
            self.places.holder_is_empty = true;
            scanner.object(|key, scanner| {
                self.places.holder_is_empty = false;
                let inside = member(self, key.decode().as_bytes(), scanner)?;
                if outcome.is_ok() {
                    outcome = inside;
                }
                Ok(())
            })?;
        } else {
            scanner.skip()?;
            if kind != Kind::Null {
                outcome = Err(BadRequest::field(name, "must be an object"));
            }
        }
        self.places.holder = Some(start..scanner.at());
        Ok(outcome)
    }
}

/// Whether a tool of this type is run by the client. What is not known is taken for the provider's.
///
/// Source: OpenAI API reference "Create a model response", `tools`; Anthropic, "Tool use", client tools.
fn is_own_tool(format: Format, sort: &str) -> bool {
    match format {
        Format::Chat => matches!(sort, "function" | "custom"),
        Format::Responses => {
            matches!(sort, "function" | "custom" | "local_shell" | "apply_patch" | "computer")
                || sort.starts_with("computer_use")
        }
        Format::Messages => {
            matches!(sort, "custom" | "function")
                || ["bash_", "text_editor_", "computer_", "memory_"].iter().any(|own| sort.starts_with(own))
        }
        Format::Gemini => false,
    }
}

type Read<T> = Result<(Result<Option<T>, BadRequest>, Range<usize>), Bad>;

fn text(scanner: &mut Scanner<'_>, name: &str) -> Read<String> {
    let start = scanner.at();
    let value = match scanner.kind()? {
        Kind::String => Ok(Some(scanner.text()?.decode().into_owned())),
        Kind::Null => scanner.skip().map(|()| Ok(None))?,
        _ => scanner.skip().map(|()| Err(BadRequest::field(name, "must be a text")))?,
    };
    Ok((value, start..scanner.at()))
}

fn boolean(scanner: &mut Scanner<'_>, name: &str) -> Read<bool> {
    let kind = scanner.kind()?;
    let range = scanner.span()?;
    let value = match kind {
        // `true` has four letters.
        Kind::Bool => Ok(Some(range.len() == 4)),
        Kind::Null => Ok(None),
        _ => Err(BadRequest::field(name, "must be `true` or `false`")),
    };
    Ok((value, range))
}

fn whole(scanner: &mut Scanner<'_>, name: &str, quoted: bool) -> Read<u64> {
    let start = scanner.at();
    let number = match scanner.kind()? {
        Kind::Number => scanner.number()?.parse().ok(),
        // Protocol buffers may write integers in quotes.
        Kind::String if quoted => scanner.text()?.decode().parse().ok(),
        Kind::Null => {
            let range = scanner.span()?;
            return Ok((Ok(None), range));
        }
        _ => scanner.skip().map(|()| None)?,
    };
    let value = number
        .map(Some)
        .ok_or_else(|| BadRequest::field(name, "must be a whole number that is not negative"));
    Ok((value, start..scanner.at()))
}

/// The body with some ranges replaced; all other bytes stay as they are. An empty range inserts.
///
/// The ranges must not overlap; they may come in any order, those at one place are written in the order given.
pub fn splice<B: AsRef<[u8]>>(body: &[u8], replacements: &[(Range<usize>, B)]) -> Vec<u8> {
    let mut order: Vec<&(Range<usize>, B)> = replacements.iter().collect();
    order.sort_by_key(|(range, _)| (range.start, range.end));
    let added: usize = order.iter().map(|(_, bytes)| bytes.as_ref().len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut at = 0;
    for (range, bytes) in order {
        out.extend_from_slice(body.get(at..range.start).unwrap_or_default());
        out.extend_from_slice(bytes.as_ref());
        at = range.end.max(at);
    }
    out.extend_from_slice(body.get(at..).unwrap_or_default());
    out
}

/// Replaces or adds fields of a scanned body and leaves all its other bytes alone.
#[derive(Debug)]
pub struct Rewrite<'a> {
    body: &'a [u8],
    scanned: &'a Scanned,
    edits: Vec<(Range<usize>, Vec<u8>)>,
    /// Members to add at the end of the whole.
    added: Vec<u8>,
}

impl<'a> Rewrite<'a> {
    /// `scanned` must come from this body.
    pub fn new(body: &'a [u8], scanned: &'a Scanned) -> Self {
        Self { body, scanned, edits: Vec::new(), added: Vec::new() }
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        if !(self.scanned.places.top_is_empty && self.added.is_empty()) {
            self.added.push(b',');
        }
        write_text(name, &mut self.added);
        self.added.push(b':');
        self.added.extend_from_slice(value);
    }

    /// Sets `model`. Nothing happens for Gemini, whose path names it.
    #[must_use]
    pub fn model(mut self, model: &str) -> Self {
        if self.scanned.format == Some(Format::Gemini)
            || self.scanned.model.as_ref().is_some_and(|field| field.value == model)
        {
            return self;
        }
        let mut value = Vec::with_capacity(model.len() + 2);
        write_text(model, &mut value);
        match self.scanned.places.model.clone() {
            Some(range) => self.edits.push((range, value)),
            None => self.add("model", &value),
        }
        self
    }

    /// Sets `stream`. Nothing happens for Gemini.
    #[must_use]
    pub fn stream(mut self, stream: bool) -> Self {
        let same = self.scanned.stream.as_ref().map(|field| field.value) == Some(stream);
        if self.scanned.format == Some(Format::Gemini) || same {
            return self;
        }
        let value: &[u8] = if stream { b"true" } else { b"false" };
        match self.scanned.places.stream.clone() {
            Some(range) => self.edits.push((range, value.to_vec())),
            None => self.add("stream", value),
        }
        self
    }

    /// Limits the answer, under every name that the body uses for it; without one it is added as the format's current name
    /// (`max_completion_tokens` for chat).
    #[must_use]
    pub fn max_tokens(self, max_tokens: u64) -> Self {
        self.max_tokens_as(max_tokens, "max_completion_tokens")
    }

    /// Like [`Self::max_tokens`], but a limit that is added to a chat body gets this name: older servers only know `max_tokens`.
    #[must_use]
    pub fn max_tokens_as(mut self, max_tokens: u64, chat_name: &str) -> Self {
        let value = max_tokens.to_string().into_bytes();
        if !self.scanned.places.max_tokens.is_empty() {
            for range in &self.scanned.places.max_tokens {
                self.edits.push((range.clone(), value.clone()));
            }
            return self;
        }
        match self.scanned.format {
            Some(Format::Gemini) => self.in_holder("generationConfig", "maxOutputTokens", &value),
            Some(Format::Responses) => self.add("max_output_tokens", &value),
            Some(Format::Messages) => self.add("max_tokens", &value),
            Some(Format::Chat) | None => self.add(chat_name, &value),
        }
        self
    }

    /// Asks for usage at the end of a stream (chat only).
    #[must_use]
    pub fn include_usage(mut self) -> Self {
        let asked = self.scanned.include_usage.as_ref().is_some_and(|field| field.value);
        if self.scanned.format != Some(Format::Chat) || asked {
            return self;
        }
        match self.scanned.places.include_usage.clone() {
            Some(range) => self.edits.push((range, b"true".to_vec())),
            None => self.in_holder("stream_options", "include_usage", b"true"),
        }
        self
    }

    fn in_holder(&mut self, holder: &str, name: &str, value: &[u8]) {
        let mut member = Vec::new();
        write_text(name, &mut member);
        member.push(b':');
        member.extend_from_slice(value);
        let places = &self.scanned.places;
        match places.holder.clone() {
            Some(range) if places.holder_is_object => {
                if !places.holder_is_empty {
                    member.insert(0, b',');
                }
                self.edits.push((range.end - 1..range.end - 1, member));
            }
            holder_range => {
                let object = [b"{", member.as_slice(), b"}"].concat();
                match holder_range {
                    Some(range) => self.edits.push((range, object)),
                    None => self.add(holder, &object),
                }
            }
        }
    }

    /// Whether the body stays as it is.
    pub fn is_unchanged(&self) -> bool {
        self.edits.is_empty() && self.added.is_empty()
    }

    /// The new body.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.added.is_empty() {
            let end = self.scanned.places.top_end;
            self.edits.push((end..end, self.added));
        }
        splice(self.body, &self.edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_format_has_its_own_names() {
        for (format, body, max_tokens, choices) in [
            (Format::Chat, r#"{"max_tokens":5,"n":2}"#, Some(5), Some(2)),
            // Which of them counts, servers disagree on.
            (Format::Chat, r#"{"max_tokens":5,"max_completion_tokens":3}"#, Some(5), None),
            (Format::Chat, r#"{"max_tokens":1,"max_completion_tokens":100000}"#, Some(100_000), None),
            (Format::Chat, r#"{"max_completion_tokens":100000,"max_tokens":1}"#, Some(100_000), None),
            (Format::Chat, r#"{"max_tokens":1,"n_predict":90,"n":2,"best_of":8}"#, Some(90), Some(8)),
            (Format::Chat, r#"{"n_predict":-1,"max_tokens":1,"best_of":1,"n":2}"#, None, Some(2)),
            (Format::Chat, r#"{"max_tokens":1,"n_predict":-1}"#, None, None),
            (Format::Chat, r#"{"max_tokens":null}"#, None, None),
            (Format::Responses, r#"{"max_output_tokens":7,"max_tokens":1}"#, Some(7), None),
            (Format::Messages, r#"{"max_tokens":8}"#, Some(8), None),
            (
                Format::Gemini,
                r#"{"generationConfig":{"maxOutputTokens":"9","candidateCount":4}}"#,
                Some(9),
                Some(4),
            ),
            (Format::Gemini, r#"{"generation_config":{"max_output_tokens":9}}"#, Some(9), None),
        ] {
            let found = scan(format, body.as_bytes()).unwrap();
            assert_eq!(found.max_tokens.map(|field| field.value), max_tokens, "{body}");
            assert_eq!(found.choices.map(|field| field.value), choices, "{body}");
        }
        let found = scan(
            Format::Chat,
            br#" { "mod\u0065l" : "a\"b", "stream": true, "stream_options": {"include_usage": false}, "service_tier":"flex", "tools": [] } "#,
        )
        .unwrap();
        assert_eq!(found.model.unwrap().value, "a\"b");
        assert!(found.stream.unwrap().value && !found.include_usage.unwrap().value && found.has_tools);
        assert_eq!(found.service_tier.unwrap().value, "flex");
    }

    #[test]
    fn what_is_charged_beyond_tokens_is_found_and_the_clients_own_tools_are_not() {
        use Format::{Chat, Gemini, Messages, Responses};
        for (format, body, charged) in [
            (Chat, r#"{"tools":null}"#, None),
            (
                Chat,
                r#"{"tools":[{"type":"function","function":{"name":"web_search","parameters":{"type":"object"}}}]}"#,
                None,
            ),
            (Chat, r#"{"tools":[{"type":"custom"}],"functions":[{"name":"f","type":"x"}]}"#, None),
            (Chat, r#"{"tools":[{"type":"web_search"}]}"#, Some("web_search")),
            (Chat, r#"{"web_search_options":{}}"#, Some("web_search_options")),
            (Chat, r#"{"web_search_options":null}"#, None),
            (
                Responses,
                r#"{"tools":[{"type":"function","name":"f"},{"type":"apply_patch"},{"type":"local_shell"}]}"#,
                None,
            ),
            (Responses, r#"{"tools":[{"type":"computer_use_preview","display_width":1}]}"#, None),
            (
                Responses,
                r#"{"tools":[{"name":"f","type":"function"},{"type":"web_search_preview"}]}"#,
                Some("web_search_preview"),
            ),
            (
                Responses,
                r#"{"tools":[{"type":"code_interpreter","container":{"type":"auto"}}]}"#,
                Some("code_interpreter"),
            ),
            (Responses, r#"{"t\u006fols":[{"t\u0079pe":"file\u005fsearch"}]}"#, Some("file_search")),
            (Responses, r#"{"tools":[{"type":"mcp"}]}"#, Some("mcp")),
            (Responses, r#"{"tools":[{"type":"image_generation"}]}"#, Some("image_generation")),
            (Responses, r#"{"tools":[{"type":"what_comes_next"}]}"#, Some("what_comes_next")),
            // Readers disagree on which of two counts.
            (Responses, r#"{"tools":[{"type":"web_search","type":"function"}]}"#, Some("web_search")),
            (Responses, r#"{"tools":[{"type":"web_search"}],"tools":[]}"#, Some("web_search")),
            (Responses, r#"{"prompt":{"id":"pmpt_1"}}"#, Some("prompt")),
            (
                Messages,
                r#"{"tools":[{"name":"f","input_schema":{}},{"type":"custom"},{"type":"bash_20250124"}]}"#,
                None,
            ),
            (
                Messages,
                r#"{"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":5}]}"#,
                Some("web_search_20250305"),
            ),
            (Messages, r#"{"tools":[{"type":"code_execution_20250825"}]}"#, Some("code_execution_20250825")),
            (Messages, r#"{"speed":"fast"}"#, Some("speed")),
            (Messages, r#"{"speed":"standard","inference_geo":"global"}"#, None),
            (Messages, r#"{"inference_geo":"us"}"#, Some("inference_geo")),
            (Gemini, r#"{"tools":[{"functionDeclarations":[{"name":"f"}]},{}]}"#, None),
            (Gemini, r#"{"tools":[{"googleSearch":{}}]}"#, Some("googleSearch")),
            (
                Gemini,
                r#"{"tools":[{"function_declarations":[],"code_execution":{}}]}"#,
                Some("code_execution"),
            ),
        ] {
            let found = scan(format, body.as_bytes()).unwrap();
            assert_eq!(found.charged.as_deref(), charged, "{format} {body}");
        }
        let found = scan(Gemini, br#"{"serviceTier":"PRIORITY"}"#).unwrap();
        assert_eq!(found.service_tier.unwrap().value, "PRIORITY");
    }

    #[test]
    fn a_bad_body_is_told_with_the_field() {
        for (body, message) in [
            ("", "the body is not valid JSON: ends where a value is expected at byte 0"),
            ("[]", "the body is not a JSON object"),
            ("[", "the body is not valid JSON: ends where a value is expected at byte 1"),
            (r#"{"model":7}"#, "`model` must be a text"),
            (r#"{"model":"a","model":"b"}"#, "`model` is there twice"),
            (r#"{"model":"a","mode\u006c":"b"}"#, "`model` is there twice"),
            (r#"{"stream":"true"}"#, "`stream` must be `true` or `false`"),
            (r#"{"max_tokens":-1}"#, "`max_tokens` must be a whole number that is not negative"),
            (r#"{"max_tokens":1e3}"#, "`max_tokens` must be a whole number that is not negative"),
            (r#"{"n_predict":-1,"n_predict":5}"#, "`n_predict` is there twice"),
            (r#"{"stream_options":7}"#, "`stream_options` must be an object"),
            (r#"{"model":7,"x":}"#, "the body is not valid JSON: expected a value at byte 15"),
            (r#"{"model":"a"} x"#, "the body is not valid JSON: expected the end at byte 14"),
        ] {
            assert_eq!(scan(Format::Chat, body.as_bytes()).unwrap_err().message, message, "{body}");
        }
        let error = scan(Format::Chat, b"{\"model\":\"\xff\"}").unwrap_err();
        assert_eq!(error.message, "the body is not UTF-8 at byte 10");
    }

    fn rewritten(format: Format, body: &str) -> String {
        let found = scan(format, body.as_bytes()).unwrap();
        let rewrite =
            Rewrite::new(body.as_bytes(), &found).model("m").stream(true).max_tokens(9).include_usage();
        String::from_utf8(rewrite.finish()).unwrap()
    }

    #[test]
    fn fields_are_replaced_or_added_in_place() {
        for (format, body, expected) in [
            (
                Format::Chat,
                "{}",
                r#"{"model":"m","stream":true,"max_completion_tokens":9,"stream_options":{"include_usage":true}}"#,
            ),
            (
                Format::Chat,
                r#"{ "seed": 9007199254740993, "model" : "route", "max_tokens": 100, "stream_options": { "x": 1 }, "y": 1.0 }"#,
                r#"{ "seed": 9007199254740993, "model" : "m", "max_tokens": 9, "stream_options": { "x": 1 ,"include_usage":true}, "y": 1.0 ,"stream":true}"#,
            ),
            (
                Format::Chat,
                r#"{"stream":null,"stream_options":null,"max_tokens":null,"model":null}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true},"max_tokens":9,"model":"m"}"#,
            ),
            (
                Format::Chat,
                r#"{"stream":true,"stream_options":{"include_usage":false},"max_tokens":1,"max_completion_tokens":2,"model":"m"}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true},"max_tokens":9,"max_completion_tokens":9,"model":"m"}"#,
            ),
            (
                Format::Chat,
                r#"{"stream":true,"stream_options":{"include_usage":true},"max_tokens":100,"n_predict":-1,"model":"m"}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true},"max_tokens":9,"n_predict":9,"model":"m"}"#,
            ),
            (
                Format::Gemini,
                r#"{"contents":[]}"#,
                r#"{"contents":[],"generationConfig":{"maxOutputTokens":9}}"#,
            ),
            (
                Format::Gemini,
                r#"{"generationConfig":{"temperature":0.50},"contents":[]}"#,
                r#"{"generationConfig":{"temperature":0.50,"maxOutputTokens":9},"contents":[]}"#,
            ),
            (Format::Messages, r#"{"model":"m"}"#, r#"{"model":"m","stream":true,"max_tokens":9}"#),
            (Format::Responses, r#"{"model":"m"}"#, r#"{"model":"m","stream":true,"max_output_tokens":9}"#),
        ] {
            assert_eq!(rewritten(format, body), expected, "{body}");
        }
        let body = br#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
        let found = scan(Format::Chat, body).unwrap();
        assert!(Rewrite::new(body, &found).model("m").stream(true).include_usage().is_unchanged());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            "[a-z\"\\\\\n é{}]{0,8}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[a-z\"]{0,4}", inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_rewrite_changes_nothing_else(
            members in prop::collection::btree_map("[b-l]{1,6}", any_json(), 0..6),
            known in prop::collection::vec(0usize..5, 0..5),
            pretty in any::<bool>(),
        ) {
            let mut object: serde_json::Map<String, serde_json::Value> = members.into_iter().collect();
            for index in known {
                let (name, value) = [
                    ("model", serde_json::json!("route")),
                    ("stream", serde_json::json!(null)),
                    ("max_tokens", serde_json::json!(77)),
                    ("stream_options", serde_json::json!({"other": [1]})),
                    ("n", serde_json::json!(2)),
                ][index].clone();
                object.insert(name.into(), value);
            }
            let body = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let found = scan(Format::Chat, body.as_bytes()).unwrap();
            let new = Rewrite::new(body.as_bytes(), &found).model("m").stream(true).max_tokens_as(9, "max_tokens").include_usage().finish();
            let new: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&new).unwrap();
            object.insert("model".into(), "m".into());
            object.insert("stream".into(), true.into());
            object.insert("max_tokens".into(), 9.into());
            let options = object.entry("stream_options").or_insert_with(|| serde_json::json!({}));
            options["include_usage"] = true.into();
            prop_assert_eq!(new, object);
        }

        #[test]
        fn a_splice_leaves_the_other_bytes(body in "[a-z]{0,40}", cuts in prop::collection::vec((0usize..40, 0usize..4), 0..5)) {
            let mut at = 0;
            let (mut edits, mut kept) = (Vec::new(), String::new());
            for (gap, length) in cuts {
                let start = (at + gap).min(body.len());
                let end = (start + length).min(body.len());
                kept.push_str(&body[at..start]);
                kept.push('#');
                edits.push((start..end, b"#".to_vec()));
                at = end;
            }
            kept.push_str(&body[at..]);
            edits.reverse();
            edits.sort_by_key(|(range, _)| range.start);
            prop_assert_eq!(String::from_utf8(splice(body.as_bytes(), &edits)).unwrap(), kept);
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64), text in "[{}\\[\\]\":,a-z0-9\\\\ ]{0,64}") {
            for format in Format::ALL {
                drop(scan(format, &body));
                drop(scan(format, text.as_bytes()));
            }
        }
    }
}
