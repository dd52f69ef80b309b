//! What the requests of a batch may cost and what its answers did cost; what training on a file may cost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use wire::{Format, Named, Tap, Usage};

use crate::cost::{bound, cost, estimated_usage, training_cost};
use crate::hold::Charge;
use crate::job_word::Kind;
use crate::price::{Model, Tier};
use crate::usd::Usd;

/// Models of one batch; a file that names more is refused.
const MODELS_MAX: usize = 64;
/// Files and answers that the requests of one batch may name, each of which is looked up.
const NAMES_MAX: usize = 50_000;
/// Tokens of an answer of `/v1/completions` whose request sets no bound.
/// Source: OpenAI API reference, "Create completion", `max_tokens`.
const COMPLETION_TOKENS: u64 = 16;
/// What the bound of a prompt counts at least for an image, or for a file that is only named.
const MEDIA_TOKENS_MIN: u64 = 50_000;
/// Output tokens that an answer is likely to have at most, where its request allows more.
const USUAL_OUTPUT: u64 = 1_024;

/// Finds the row of a model.
pub(crate) type Find<'a> = &'a (dyn Fn(&str) -> Option<Arc<Model>> + Send + Sync);

/// Why a job is not let in as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub message: String,
    pub field: Option<&'static str>,
    /// There is no price; otherwise what was sent is wrong.
    pub is_price: bool,
}

impl Wrong {
    pub(crate) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), field: Some(field), is_price: false }
    }

    fn unpriced(message: String) -> Self {
        Self { message, field: Some("model"), is_price: true }
    }
}

/// Reads JSON in which no member is there twice: readers disagree on which of two counts, so what was checked would not
/// have to be what is done.
///
/// # Errors
///
/// What is wrong with it, as the end of a sentence.
pub(crate) fn unique(json: &[u8]) -> Result<Value, String> {
    match serde_json::from_slice::<Unique>(json) {
        Ok(Unique) => serde_json::from_slice(json).map_err(|_| "is no JSON".to_owned()),
        Err(error) if error.is_data() => Err(format!("names a member twice ({error})")),
        Err(_) => Err("is no JSON".to_owned()),
    }
}

struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unique)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        while items.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
        let mut names: HashSet<String> = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value::<Unique>()?;
            if let Some(twice) = names.replace(name) {
                return Err(serde::de::Error::custom(format_args!("`{twice}`")));
            }
        }
        Ok(Unique)
    }
}

/// What the requests of a batch may cost.
pub(crate) struct Requests<'a> {
    find: Find<'a>,
    at: Timestamp,
    /// A budget needs a bound that holds.
    strict: bool,
    /// What the batch is made for; its lines may want nothing else.
    endpoint: Option<String>,
    pub count: u64,
    models: BTreeMap<String, OfModel>,
    names: BTreeSet<Named>,
}

#[derive(Default)]
struct OfModel {
    row: Option<Arc<Model>>,
    requests: u64,
    bound: i64,
    usual: i64,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(find: Find<'a>, at: Timestamp, strict: bool) -> Self {
        let (models, names) = (BTreeMap::new(), BTreeSet::new());
        Self { find, at, strict, endpoint: None, count: 0, models, names }
    }

    /// Refuses lines for anything but this, such as `/v1/responses`.
    pub(crate) fn only_for(self, endpoint: &str) -> Self {
        Self { endpoint: Some(endpoint.to_owned()), ..self }
    }

    /// What the requests name of what the provider keeps.
    pub(crate) fn names(&self) -> Vec<Named> {
        self.names.iter().cloned().collect()
    }

    /// A line of OpenAI's input file.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let number = self.count + 1;
        let asked = unique(line)
            .map_err(|why| Wrong::new("input_file_id", format!("line {number} of the file {why}")))?;
        let url = asked["url"].as_str().unwrap_or_default();
        if let Some(endpoint) =
            self.endpoint.as_deref().filter(|endpoint| operation(endpoint) != operation(url))
        {
            let message = format!("line {number} of the file is for `{url}`, and the batch for `{endpoint}`");
            return Err(Wrong::new("endpoint", message));
        }
        self.add(url, &asked["body"]).map_err(|wrong| Wrong {
            message: format!("line {number} of the file: {}", wrong.message),
            ..wrong
        })
    }

    /// One of Anthropic's `requests`.
    pub(crate) fn message(&mut self, request: &Value) -> Result<(), Wrong> {
        let number = self.count;
        self.add("/v1/messages", &request["params"])
            .map_err(|wrong| Wrong { message: format!("requests.{number}: {}", wrong.message), ..wrong })
    }

    fn add(&mut self, url: &str, body: &Value) -> Result<(), Wrong> {
        self.count += 1;
        let name = operation(url);
        let (format, default) = match name {
            "chat/completions" => (Format::Chat, None),
            "responses" => (Format::Responses, None),
            "messages" => (Format::Messages, None),
            "embeddings" => (Format::Chat, Some(0)),
            "completions" => (Format::Chat, Some(COMPLETION_TOKENS)),
            "moderations" => return Ok(()), // Costs nothing.
            _ if self.strict => {
                let message =
                    format!("`{url}` has no price by tokens, and a strict budget cannot hold without one");
                return Err(Wrong::unpriced(message));
            }
            _ => return Ok(()),
        };
        let bytes = body.to_string().into_bytes();
        let scanned =
            wire::scan(format, &bytes).map_err(|error| Wrong::new("input_file_id", error.message))?;
        let Some(model) = scanned.model.map(|field| field.value).filter(|model| !model.is_empty()) else {
            return Err(Wrong::new("model", "`model` is missing"));
        };
        if self.models.len() >= MODELS_MAX && !self.models.contains_key(&model) {
            return Err(Wrong::new("model", format!("a batch may name {MODELS_MAX} models")));
        }
        if scanned.background.is_some_and(|field| field.value) {
            return Err(Wrong::new(
                "background",
                "`background` is not for batches, which wait by themselves",
            ));
        }
        if let (Some(charged), true) = (&scanned.charged, self.strict) {
            return Err(Wrong::unpriced(format!(
                "`{charged}` is charged beyond its tokens, by the call or with a surcharge, and a strict budget cannot hold \
                 without a bound"
            )));
        }
        // Plain text or numbers of tokens: neither makes more tokens than bytes, nor names anything.
        let tokens = default.is_none().then(|| wire::input_tokens(format, &bytes));
        if tokens.is_some_and(|tokens| tokens.has_names) {
            self.names.extend(wire::names(&bytes).into_iter().flatten());
            if self.names.len() > NAMES_MAX {
                return Err(Wrong::new("input_file_id", format!("a batch may name {NAMES_MAX} files")));
            }
        }
        let find = self.find;
        let of = self
            .models
            .entry(model)
            .or_insert_with_key(|model| OfModel { row: find(model), ..OfModel::default() });
        of.requests += 1;
        let Some(row) = &of.row else { return Ok(()) };
        let prices = row.prices_at(self.at);
        let (input, likely) = match tokens {
            None => (bytes.len() as u64, (bytes.len() as u64).div_ceil(4)),
            Some(tokens) => (tokens.bound, tokens.estimate),
        };
        let asked = scanned.max_tokens.map(|field| field.value).or(default);
        let mut choices = scanned.choices.map_or(1, |field| field.value.max(1));
        if name == "completions" {
            choices = choices.max(best_of(body)?).saturating_mul(prompts(&body["prompt"]));
        }
        let most = match (asked, row.output_tokens_max) {
            (Some(asked), _) => asked,
            (None, Some(most)) => most,
            (None, None) if self.strict => {
                return Err(Wrong::new(
                    "max_tokens",
                    "no bound for the answer, and a strict budget cannot hold without one: set `max_tokens`",
                ));
            }
            (None, None) => USUAL_OUTPUT,
        };
        let output = if default == Some(0) { 0 } else { most.saturating_mul(choices) };
        let tier = &[Tier::Batch];
        of.bound = of.bound.saturating_add(bound(prices, input, output, tier).nanos());
        let usual = output.min(USUAL_OUTPUT.saturating_mul(choices));
        of.usual = of.usual.saturating_add(bound(prices, likely, usual, tier).nanos());
        Ok(())
    }

    /// The models that were asked for.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// What is to be set aside.
    ///
    /// # Errors
    ///
    /// A model has no price, and a budget needs one.
    pub(crate) fn charges(&self) -> Result<Vec<Charge>, Wrong> {
        let charge = |(model, of): (&String, &OfModel)| {
            if of.row.is_none() && self.strict {
                return Err(no_price(model));
            }
            Ok(Charge { model: model.clone(), bound_usd_nanos: of.bound, usual_usd_nanos: of.usual })
        };
        self.models.iter().map(charge).collect()
    }
}

/// What a path asks for, such as `chat/completions`.
fn operation(url: &str) -> &str {
    url.trim_end_matches('/').rsplit("/v1/").next().unwrap_or_default().trim_start_matches('/')
}

/// Answers that are made for each prompt of `/v1/completions`, of which the best are given.
fn best_of(body: &Value) -> Result<u64, Wrong> {
    match &body["best_of"] {
        Value::Null => Ok(1),
        count => count.as_u64().ok_or_else(|| Wrong::new("best_of", "`best_of` is no whole number")),
    }
}

/// Prompts of one request to `/v1/completions`: a text or the numbers of its tokens is one, each of a list another.
fn prompts(prompt: &Value) -> u64 {
    match prompt.as_array() {
        Some(list) if !list.iter().all(Value::is_number) => list.len() as u64,
        _ => 1,
    }
}

fn no_price(model: &str) -> Wrong {
    Wrong::unpriced(format!(
        "there is no price for `{model}`, and a strict budget cannot hold without one; add it to the project's file of \
         prices (key `ai.prices`)"
    ))
}

/// What a part of a job came to: one model, and all its requests long ones or none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counted {
    pub model: String,
    pub long: bool,
    pub requests: u64,
    pub usage: Usage,
    pub nanos: i64,
    /// 0: counted by the provider; 1: estimated; 2: taken from what was set aside.
    pub estimated: i64,
    pub price_row: String,
    pub tier: Tier,
}

/// What the answers of a batch did cost.
pub(crate) struct Answers<'a> {
    kind: Kind,
    format: Format,
    find: Find<'a>,
    at: Timestamp,
    asked: &'a [Charge],
    counted: BTreeMap<(String, bool), Counted>,
}

impl<'a> Answers<'a> {
    /// `endpoint` is what the batch was made for, such as `/v1/responses`; `asked` names its models.
    pub(crate) fn new(
        kind: Kind,
        endpoint: &str,
        asked: &'a [Charge],
        find: Find<'a>,
        at: Timestamp,
    ) -> Self {
        let format = match (kind, endpoint) {
            (Kind::MessageBatch, _) => Format::Messages,
            (_, endpoint) if endpoint.ends_with("/responses") => Format::Responses,
            _ => Format::Chat,
        };
        Self { kind, format, find, at, asked, counted: BTreeMap::new() }
    }

    /// A line of the file of answers. What is no answer costs nothing.
    pub(crate) fn line(&mut self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<Value>(line) else { return };
        let body = match self.kind {
            Kind::MessageBatch if line["result"]["type"] == "succeeded" => &line["result"]["message"],
            Kind::Batch if line["response"]["status_code"].as_u64().is_some_and(|status| status < 300) => {
                &line["response"]["body"]
            }
            _ => return,
        };
        let bytes = body.to_string().into_bytes();
        let mut tap = Tap::new(self.format, false);
        tap.see_body(&bytes);
        let seen = tap.observed();
        let (usage, estimated) = match seen.usage {
            Some(usage) => (usage, 0),
            None => (estimated_usage(0, seen.output_bytes), 1),
        };
        let model = self.asked_as(seen.model.as_deref().unwrap_or_default());
        self.add(&model, 1, usage, estimated);
    }

    /// All answers at once, as the batch's own description counts them.
    pub(crate) fn total(&mut self, requests: u64, usage: Usage) {
        let model = self.asked_as("");
        let row = (self.find)(&model);
        let usd = row.as_ref().map(|row| {
            let prices = row.prices_at(self.at);
            (crate::cost::cost_in_all(prices, &usage, Tier::Batch, false), row.row(prices))
        });
        let (usd, price_row) = usd.unwrap_or_default();
        let counted = Counted {
            model: model.clone(),
            requests,
            usage,
            nanos: usd.nanos(),
            price_row,
            tier: Tier::Batch,
            ..Counted::default()
        };
        self.counted.insert((model, false), counted);
    }

    fn add(&mut self, model: &str, requests: u64, usage: Usage, estimated: i64) {
        let priced = (self.find)(model).map(|row| {
            let prices = row.prices_at(self.at);
            let cost = cost(prices, &usage, Tier::Batch);
            (cost.usd, cost.long, row.row(prices))
        });
        let (usd, long, price_row) = priced.unwrap_or_default();
        let part = self.counted.entry((model.to_owned(), long)).or_insert_with(|| Counted {
            model: model.to_owned(),
            long,
            price_row,
            tier: Tier::Batch,
            ..Counted::default()
        });
        part.requests += requests;
        part.usage = sum(&part.usage, &usage);
        part.nanos = part.nanos.saturating_add(usd.nanos());
        part.estimated = part.estimated.max(estimated);
    }

    /// The name by which a model was asked for, of the one that the provider says it used.
    fn asked_as(&self, reported: &str) -> String {
        let row = (self.find)(reported);
        let same = |charge: &&Charge| {
            charge.model == reported
                || row.as_ref().is_some_and(|row| {
                    (self.find)(&charge.model).is_some_and(|asked| asked.model == row.model)
                })
        };
        let found = self.asked.iter().find(same).or(self.asked.first());
        found.map_or_else(|| reported.to_owned(), |charge| charge.model.clone())
    }

    pub(crate) fn done(self) -> Vec<Counted> {
        self.counted.into_values().collect()
    }
}

fn sum(one: &Usage, other: &Usage) -> Usage {
    let add = u64::saturating_add;
    Usage {
        input: add(one.input, other.input),
        cache_read: add(one.cache_read, other.cache_read),
        cache_write_5m: add(one.cache_write_5m, other.cache_write_5m),
        cache_write_1h: add(one.cache_write_1h, other.cache_write_1h),
        audio_input: add(one.audio_input, other.audio_input),
        output: add(one.output, other.output),
        reasoning: add(one.reasoning, other.reasoning),
        audio_output: add(one.audio_output, other.audio_output),
    }
}

/// What is known of a file for training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Training {
    pub examples: u64,
    /// Tokens of one pass, about.
    pub tokens: u64,
    /// What they cannot exceed.
    pub tokens_max: u64,
}

impl Training {
    pub(crate) fn line(&mut self, line: &[u8]) {
        let (bytes, tokens) = (line.len() as u64 + 1, wire::input_tokens(Format::Chat, line));
        self.examples += 1;
        self.tokens += tokens.estimate;
        // No tokenizer makes more tokens than bytes, but an image that is only named makes many.
        let has_media = tokens.bound.saturating_sub(bytes) >= MEDIA_TOKENS_MIN;
        self.tokens_max += if has_media { tokens.bound } else { bytes };
    }

    /// Passes over the file where the request leaves them to the provider: three, more for few examples and fewer for
    /// very many.
    ///
    /// Source: OpenAI cookbook, "Data preparation and analysis for chat model fine-tuning".
    pub(crate) fn epochs(&self, asked: Option<u64>) -> u64 {
        let examples = self.examples.max(1);
        match asked {
            Some(asked) => asked.max(1),
            None if examples * 3 < 100 => (100 / examples).clamp(3, 25),
            None if examples * 3 > 25_000 => (25_000 / examples).max(1),
            None => 3,
        }
    }

    /// What it is likely to cost, and what it cannot exceed.
    pub(crate) fn charge(
        &self,
        base: &str,
        row: Option<&Model>,
        at: Timestamp,
        epochs: u64,
    ) -> Option<Charge> {
        let prices = row?.prices_at(at);
        let of = |tokens: u64| Some(training_cost(prices, tokens.saturating_mul(epochs))?.nanos());
        Some(Charge {
            model: base.to_owned(),
            bound_usd_nanos: of(self.tokens_max)?,
            usual_usd_nanos: of(self.tokens)?,
        })
    }
}

/// What a training came to.
pub(crate) fn trained(base: &str, row: Option<&Model>, at: Timestamp, tokens: u64) -> Counted {
    let priced = row.and_then(|row| {
        let prices = row.prices_at(at);
        Some((training_cost(prices, tokens)?, row.row(prices)))
    });
    let (usd, price_row): (Usd, String) = priced.unwrap_or_default();
    Counted {
        model: base.to_owned(),
        requests: 1,
        usage: Usage { input: tokens, ..Usage::default() },
        nanos: usd.nanos(),
        price_row,
        ..Counted::default()
    }
}

/// What training asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrainingAsk {
    pub base: String,
    pub file: String,
    pub validation_file: Option<String>,
    pub epochs: Option<u64>,
    /// Billed by the hour and not by tokens.
    pub by_time: bool,
}

impl TrainingAsk {
    pub(crate) fn read(body: &Value) -> Result<Self, Wrong> {
        let text = |name: &'static str| {
            let value = body[name].as_str().filter(|value| !value.is_empty()).map(str::to_owned);
            value.ok_or_else(|| Wrong::new(name, format!("`{name}` is missing")))
        };
        let method = body["method"]["type"].as_str().unwrap_or("supervised");
        let places =
            (&body["method"][method]["hyperparameters"]["n_epochs"], &body["hyperparameters"]["n_epochs"]);
        let ((Value::Null, epochs) | (epochs, Value::Null)) = places else {
            // Readers disagree on which of two counts.
            return Err(Wrong::new("hyperparameters", "`n_epochs` is there twice: leave it in `method`"));
        };
        let epochs = match epochs {
            Value::Null => None,
            Value::String(text) if text == "auto" => None,
            epochs => Some(epochs.as_u64().ok_or_else(|| {
                Wrong::new("hyperparameters", "`n_epochs` is neither a whole number nor `auto`")
            })?),
        };
        Ok(Self {
            base: text("model")?,
            file: text("training_file")?,
            validation_file: body["validation_file"].as_str().map(str::to_owned),
            epochs,
            by_time: method == "reinforcement",
        })
    }

    /// What is to be set aside.
    ///
    /// # Errors
    ///
    /// There is no price, and a budget needs one.
    pub(crate) fn charges(
        &self,
        training: &Training,
        row: Option<&Model>,
        at: Timestamp,
        strict: bool,
    ) -> Result<Vec<Charge>, Wrong> {
        if self.by_time {
            return if strict {
                let message = "reinforcement training is billed by time, and a strict budget cannot hold without a bound";
                Err(Wrong { message: message.into(), field: Some("method"), is_price: true })
            } else {
                Ok(Vec::new())
            };
        }
        match training.charge(&self.base, row, at, training.epochs(self.epochs)) {
            Some(charge) => Ok(vec![charge]),
            None if strict => Err(Wrong::unpriced(format!(
                "there is no price for training `{0}`, and a strict budget cannot hold without one; add `training` to the \
                 row `ft:{0}` in the project's file of prices (key `ai.prices`)",
                self.base
            ))),
            None => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::price::PriceTable;

    fn at() -> Timestamp {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }

    fn line(model: &str, url: &str, more: &Value) -> Vec<u8> {
        let mut body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        json!({ "custom_id": "1", "method": "POST", "url": url, "body": body }).to_string().into_bytes()
    }

    #[test]
    fn a_batch_costs_at_most_the_sum_over_its_lines() {
        let table = PriceTable::built_in();
        let find = |model: &str| table.find("openai", model);
        let mut requests = Requests::new(&find, at(), true);
        let one = line("gpt-4o-mini", "/v1/chat/completions", &json!({ "max_tokens": 1000 }));
        requests.line(&one).unwrap();
        let alone = requests.charges().unwrap()[0].bound_usd_nanos;
        // Half the standard price: output 300 nano-dollars a token, and the prompt.
        assert!(alone > 300_000 && alone < 300_000 + 75 * 3_000, "{alone}");
        requests.line(&one).unwrap();
        requests
            .line(&line("gpt-4o-mini", "/v1/chat/completions", &json!({ "max_tokens": 1000, "n": 2 })))
            .unwrap();
        requests.line(&line("text-embedding-3-small", "/v1/embeddings", &json!({ "input": "x" }))).unwrap();
        requests.line(&line("omni-moderation", "/v1/moderations", &json!({}))).unwrap();
        let charges = requests.charges().unwrap();
        assert_eq!(charges.len(), 2);
        let mini = &charges[0];
        assert!(mini.bound_usd_nanos > 4 * 300_000, "{mini:?}");
        assert!(mini.usual_usd_nanos < mini.bound_usd_nanos);
        assert!(charges[1].bound_usd_nanos < 5_000, "{charges:?}");
    }

    #[test]
    fn what_cannot_be_bounded_is_refused_where_a_budget_is_strict() {
        let table = PriceTable::built_in();
        let find = |model: &str| table.find("openai", model);
        for (bytes, told) in [
            (line("nobody-knows", "/v1/chat/completions", &json!({})), "no price for `nobody-knows`"),
            (line("gpt-4o-mini", "/v1/videos", &json!({})), "`/v1/videos` has no price"),
            (b"{".to_vec(), "line 1 of the file is no JSON"),
            (
                br#"{"url":"/v1/chat/completions","body":{"max_tokens":1,"max_\u0074okens":9}}"#.to_vec(),
                "twice (`max_tokens`",
            ),
            (line("", "/v1/chat/completions", &json!({})), "`model` is missing"),
            (
                line("gpt-4o-mini", "/v1/responses", &json!({ "tools": [{ "type": "web_search" }] })),
                "`web_search` is charged beyond its tokens",
            ),
        ] {
            let mut requests = Requests::new(&find, at(), true);
            let wrong = requests.line(&bytes).err().or_else(|| requests.charges().err()).expect(told);
            assert!(wrong.message.contains(told), "{wrong:?}");
        }
        let mut lenient = Requests::new(&find, at(), false);
        lenient.line(&line("nobody-knows", "/v1/chat/completions", &json!({}))).unwrap();
        assert_eq!(lenient.charges().unwrap()[0].bound_usd_nanos, 0);
    }

    #[test]
    fn answers_are_priced_line_by_line() {
        let table = PriceTable::built_in();
        let find = |model: &str| table.find("openai", model);
        let asked = [Charge { model: "gpt-4o-mini".into(), bound_usd_nanos: 0, usual_usd_nanos: 0 }];
        let mut answers = Answers::new(Kind::Batch, "/v1/chat/completions", &asked, &find, at());
        let line = |status: u16, usage: Value| {
            let body = json!({ "model": "gpt-4o-mini-2024-07-18", "object": "chat.completion", "usage": usage,
                "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": "ok" } }] });
            json!({ "custom_id": "1", "response": { "status_code": status, "body": body } }).to_string()
        };
        let usage = json!({ "prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11 });
        answers.line(line(200, usage.clone()).as_bytes());
        answers.line(line(200, usage.clone()).as_bytes());
        answers.line(line(500, usage).as_bytes());
        answers.line(b"nonsense");
        let counted = answers.done();
        // 10 × 75 + 1 × 300 nano-dollars each.
        assert_eq!((counted.len(), counted[0].requests, counted[0].nanos), (1, 2, 2_100));
        assert_eq!((counted[0].model.as_str(), counted[0].usage.input), ("gpt-4o-mini", 20));
        let message = json!({ "id": "m", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": [{ "type": "text", "text": "ok" }], "stop_reason": "end_turn",
            "usage": { "input_tokens": 10, "output_tokens": 2 } });
        let asked = [Charge { model: "claude-haiku-4-5".into(), bound_usd_nanos: 0, usual_usd_nanos: 0 }];
        let find = |model: &str| table.find("anthropic", model);
        let mut answers = Answers::new(Kind::MessageBatch, "", &asked, &find, at());
        answers.line(json!({ "result": { "type": "succeeded", "message": message } }).to_string().as_bytes());
        answers.line(json!({ "result": { "type": "expired" } }).to_string().as_bytes());
        let counted = answers.done();
        // Half of 10 × 1000 + 2 × 5000.
        assert_eq!((counted[0].requests, counted[0].nanos), (1, 10_000));
    }

    #[test]
    fn training_costs_at_most_its_bytes() {
        let table = PriceTable::built_in();
        let mut training = Training::default();
        let example =
            br#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}"#;
        (0..10).for_each(|_| training.line(example));
        assert_eq!((training.examples, training.epochs(None), training.epochs(Some(4))), (10, 10, 4));
        let body = json!({ "model": "gpt-4o-mini-2024-07-18", "training_file": "f", "hyperparameters": { "n_epochs": 2 } });
        let ask = TrainingAsk::read(&body).unwrap();
        let row = table.training("openai", &ask.base).unwrap();
        let charges = ask.charges(&training, Some(&row), at(), true).unwrap();
        // 3 dollars a million: 3000 nano-dollars a token.
        assert_eq!(charges[0].bound_usd_nanos, i64::try_from(training.tokens_max).unwrap() * 2 * 3000);
        assert!(charges[0].usual_usd_nanos < charges[0].bound_usd_nanos / 2, "{charges:?}");
        let counted = trained(&ask.base, Some(&row), at(), 100);
        assert_eq!((counted.nanos, counted.usage.input), (300_000, 100));
        let other = TrainingAsk { base: "gpt-5".into(), ..ask.clone() };
        let wrong = other.charges(&training, None, at(), true).unwrap_err();
        assert!(wrong.is_price && wrong.message.contains("ai.prices"), "{wrong:?}");
        assert!(other.charges(&training, None, at(), false).unwrap().is_empty());
        let by_time = TrainingAsk { by_time: true, ..ask };
        assert!(by_time.charges(&training, Some(&row), at(), true).is_err());
        assert_eq!(TrainingAsk::read(&json!({ "model": "m" })).unwrap_err().field, Some("training_file"));
    }

    #[test]
    fn what_was_trained_costs_what_the_row_of_its_base_says() {
        let table = PriceTable::built_in();
        for (model, row) in [
            ("ft:gpt-4o-mini-2024-07-18:our-org:ours:abc", Some("ft:gpt-4o-mini")),
            ("ft:gpt-4.1-2025-04-14:our-org::abc", Some("ft:gpt-4.1")),
            ("ft:gpt-5:our-org::abc", None),
        ] {
            let found = table.find("openai", model);
            assert_eq!(found.as_ref().map(|row| row.model.as_str()), row, "{model}");
        }
        assert!(table.training("openai", "gpt-4o-mini").is_some());
        assert!(table.training("openai", "text-embedding-3-small").is_none());
    }
}
