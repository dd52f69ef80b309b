//! What models cost: the price table with its sources, effective dates, tiers, retirements and the user's overrides.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use contract::{Error, ErrorKind};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::Usd;

/// The table that comes with this version of Steward.
const BUILT_IN: &str = include_str!("../prices.json");
/// Largest file of prices that is read.
const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Successors that are followed; a table that goes round in circles is refused when it is read.
const SUCCESSORS_MAX: usize = 8;

/// The service tier that a request asks for or that a reply reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The usual one.
    #[default]
    Standard,
    /// Answered within a day, through a batch.
    Batch,
    /// Slower and cheaper.
    Flex,
    /// Faster and dearer.
    Priority,
}

impl Tier {
    /// The tier behind a provider's word, such as `default`, `on_demand` or `priority`; `None` for `auto` and for
    /// words that are not known.
    pub fn parse(word: &str) -> Option<Tier> {
        const WORDS: [(&str, Tier); 8] = [
            ("default", Tier::Standard),
            ("standard", Tier::Standard),
            ("standard_only", Tier::Standard),
            ("on_demand", Tier::Standard),
            ("batch", Tier::Batch),
            ("flex", Tier::Flex),
            ("priority", Tier::Priority),
            ("fast", Tier::Priority),
        ];
        // Google writes them in capitals.
        WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, tier)| *tier)
    }

    /// The name in tables and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Standard => "standard",
            Tier::Batch => "batch",
            Tier::Flex => "flex",
            Tier::Priority => "priority",
        }
    }
}

/// Prices by class of token, in US dollars per million tokens. A class without a price of its own costs what its nearest relative costs: cache reads,
/// cache writes and audio as `input`; one-hour writes as five-minute writes; reasoning and audio as `output`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Input that no cache knows.
    pub input: Usd,
    /// Input read from the provider's prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<Usd>,
    /// Input written to the provider's prompt cache for five minutes, or for as long as it keeps it by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_5m: Option<Usd>,
    /// Input written to the provider's prompt cache for an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<Usd>,
    /// Input that is sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_input: Option<Usd>,
    /// Output; absent for embeddings, which have none.
    #[serde(default)]
    pub output: Usd,
    /// Output that is reasoning, where it has another price than the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Usd>,
    /// Output that is sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_output: Option<Usd>,
    /// Prices of all tokens of a request whose whole input is longer than a threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<Box<Long>>,
}

/// Prices of long requests; the threshold looks at the whole input, cached or not, and then holds for every token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Long {
    /// Requests with more input tokens than this are long.
    pub above_tokens: u64,
    /// Input that no cache knows.
    pub input: Usd,
    /// Input read from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<Usd>,
    /// Input written to the cache for five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_5m: Option<Usd>,
    /// Input written to the cache for an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<Usd>,
    /// Input that is sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_input: Option<Usd>,
    /// Output.
    #[serde(default)]
    pub output: Usd,
    /// Output that is reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Usd>,
    /// Output that is sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_output: Option<Usd>,
}

/// The prices of a model in one period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// First day, UTC; absent: since the model exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Date>,
    /// The usual tier.
    pub standard: Rates,
    /// Through a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Rates>,
    /// Slower and cheaper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flex: Option<Rates>,
    /// Faster and dearer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Rates>,
    /// Training, for each million tokens of the training file and each epoch; stands in the row of the model that
    /// results, such as `ft:gpt-4o-mini`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Usd>,
    /// For each call, beside its tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_call: Option<Usd>,
}

impl Prices {
    /// The rates of a tier; `None` if the table names none for it.
    pub fn rates(&self, tier: Tier) -> Option<&Rates> {
        match tier {
            Tier::Standard => Some(&self.standard),
            Tier::Batch => self.batch.as_ref(),
            Tier::Flex => self.flex.as_ref(),
            Tier::Priority => self.priority.as_ref(),
        }
    }

    fn amounts(&self) -> Vec<Usd> {
        let mut all: Vec<Usd> = self.usd_per_call.into_iter().chain(self.training).collect();
        let tiers = [Tier::Standard, Tier::Batch, Tier::Flex, Tier::Priority];
        for rates in tiers.into_iter().filter_map(|tier| self.rates(tier)) {
            all.extend([rates.input, rates.output]);
            all.extend(
                [rates.cache_read, rates.cache_write_5m, rates.cache_write_1h, rates.audio_input]
                    .into_iter()
                    .chain([rates.reasoning, rates.audio_output])
                    .flatten(),
            );
            if let Some(long) = &rates.long {
                all.extend([long.input, long.output]);
                all.extend(
                    [long.cache_read, long.cache_write_5m, long.cache_write_1h, long.audio_input]
                        .into_iter()
                        .chain([long.reasoning, long.audio_output])
                        .flatten(),
                );
            }
        }
        all
    }
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Text, often with tools and images.
    #[default]
    Chat,
    /// The same, and thinks before it answers.
    Reasoning,
    /// Vectors.
    Embedding,
    /// Sound in or out.
    Audio,
}

/// A model in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The kind of provider, such as `openai`, or in a user's file the name of a provider of the project.
    pub provider: String,
    /// The name that the provider gives it.
    pub model: String,
    /// What it is for.
    #[serde(default)]
    pub kind: Kind,
    /// Where the prices come from: a name of `sources`, or in a user's file any text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Other names of the same model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Most input tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// Most output tokens of one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_max: Option<u64>,
    /// First day on which the provider no longer serves it, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retires: Option<Date>,
    /// The model to use afterwards, of the same provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// What a reader should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Prices by period, the oldest first.
    pub prices: Vec<Prices>,
}

impl Model {
    /// The prices that hold at `at`; before the first period, the first.
    pub fn prices_at(&self, at: Timestamp) -> &Prices {
        let day = day(at);
        let held = self.prices.iter().rev().find(|period| period.from.is_none_or(|from| from <= day));
        held.or(self.prices.first()).expect("a model without prices is refused when the table is read")
    }

    /// Which row of which table: `openai/gpt-5-mini`, with ` from 2026-03-13` where prices have changed.
    pub fn row(&self, prices: &Prices) -> String {
        match prices.from {
            Some(from) => format!("{}/{} from {from}", self.provider, self.model),
            None => format!("{}/{}", self.provider, self.model),
        }
    }

    /// Whether the provider has stopped serving it at `at`.
    pub fn is_retired(&self, at: Timestamp) -> bool {
        self.retires.is_some_and(|retires| retires <= day(at))
    }
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// Names that are served no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// The kind of provider.
    pub provider: String,
    /// Their names.
    pub models: Vec<String>,
    /// First day on which the provider no longer served them, UTC.
    pub retired: Date,
    /// The model to use instead, of the same provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
}

/// Where prices were published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The page's name.
    pub name: String,
    /// Its address.
    pub url: String,
}

/// When the table was compared with recordings of the pages by others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checked {
    on: Date,
    against: Vec<String>,
}

/// Models that cost at one provider what they cost at another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SamePrices {
    provider: String,
    #[serde(rename = "as")]
    like: String,
    source: String,
    models: Vec<String>,
}

/// A file of prices: the built-in one, or the user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    table: String,
    #[serde(default)]
    checked: Option<Checked>,
    #[serde(default)]
    sources: BTreeMap<String, Source>,
    #[serde(default)]
    models: Vec<Model>,
    #[serde(default)]
    same_prices: Vec<SamePrices>,
    #[serde(default)]
    retired: Vec<Retired>,
}

/// What the table says of a name.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// A model that is served.
    Known(Arc<Model>),
    /// The name is served no longer; this model takes its place.
    Succeeded {
        /// The model to use.
        by: Arc<Model>,
        /// Since when the asked one is gone.
        since: Date,
    },
    /// The name is served no longer, and the table names nothing for it.
    Retired {
        /// Since when.
        since: Date,
    },
    /// The table does not know the name.
    Unknown,
}

/// All prices, read once and never changed.
#[derive(Debug, Clone)]
pub struct PriceTable {
    version: String,
    sources: BTreeMap<String, Source>,
    models: Vec<Arc<Model>>,
    retired: Vec<Retired>,
    by_name: HashMap<(String, String), usize>,
    retired_by_name: HashMap<(String, String), usize>,
}

impl PriceTable {
    /// The table that comes with Steward.
    pub fn built_in() -> Self {
        Self::read(BUILT_IN).expect("a test reads the built-in table")
    }

    /// A table from the text of a file in JSON or YAML.
    ///
    /// # Errors
    ///
    /// `Invalid`: what is wrong and where.
    pub fn read(text: &str) -> Result<Self, Error> {
        let mut table = Self {
            version: String::new(),
            sources: BTreeMap::new(),
            models: Vec::new(),
            retired: Vec::new(),
            by_name: HashMap::new(),
            retired_by_name: HashMap::new(),
        };
        table.add(text)?;
        Ok(table)
    }

    /// The same with the rows of another file, which take the place of rows for the same model.
    ///
    /// # Errors
    ///
    /// `Invalid`: what is wrong and where.
    pub fn with_overrides(mut self, text: &str) -> Result<Self, Error> {
        let version = std::mem::take(&mut self.version);
        self.add(text)?;
        let digest = contract::sha256_hex(text.as_bytes());
        let own = if self.version.is_empty() { &digest[..12] } else { &self.version };
        self.version = format!("{version}+{own}");
        Ok(self)
    }

    fn add(&mut self, text: &str) -> Result<(), Error> {
        if text.len() > FILE_BYTES_MAX {
            return Err(Error::new(ErrorKind::Invalid, "the file of prices is too large")
                .with("bytes_max", FILE_BYTES_MAX));
        }
        let wrong = |cause: String| {
            Error::new(ErrorKind::Invalid, "the prices cannot be read")
                .because(cause)
                .hint("docs/guides/what-do-our-ai-calls-cost.md shows a file of prices")
        };
        let file: File = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|cause| wrong(cause.to_string()))?
        } else {
            serde_saphyr::from_str(text).map_err(|cause| wrong(cause.to_string()))?
        };
        self.version = file.table;
        self.sources.extend(file.sources);
        for model in file.models {
            self.insert(model)?;
        }
        for same in file.same_prices {
            for name in same.models {
                let like = self.find(&same.like, &name).ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, "`same_prices` names a model without prices")
                        .with("model", format_args!("{}/{name}", same.like))
                })?;
                let model = Model {
                    provider: same.provider.clone(),
                    source: same.source.clone(),
                    // When another provider stops serving it is that provider's decision.
                    retires: None,
                    successor: None,
                    ..(*like).clone()
                };
                self.insert(model)?;
            }
        }
        for retired in file.retired {
            let index = self.retired.len();
            for name in &retired.models {
                self.retired_by_name.insert((retired.provider.clone(), name.to_ascii_lowercase()), index);
            }
            self.retired.push(retired);
        }
        self.check_successors()
    }

    fn insert(&mut self, model: Model) -> Result<(), Error> {
        let invalid = |why: &str| {
            Err(Error::new(ErrorKind::Invalid, format!("a model's prices are wrong: {why}"))
                .with("model", format_args!("{}/{}", model.provider, model.model)))
        };
        if model.provider.is_empty() || model.model.is_empty() {
            return invalid("`provider` and `model` must be named");
        }
        if model.prices.is_empty() {
            return invalid("`prices` is empty");
        }
        if !model.prices.windows(2).all(|pair| pair[0].from < pair[1].from) {
            return invalid("periods must be in the order of their `from`, only the first may be without");
        }
        if model.prices.iter().flat_map(Prices::amounts).any(|amount| amount < Usd::default()) {
            return invalid("an amount is below 0");
        }
        let names = std::iter::once(&model.model).chain(&model.aliases);
        let keys: Vec<_> = names.map(|name| (model.provider.clone(), name.to_ascii_lowercase())).collect();
        let known = self.by_name.get(&keys[0]).copied();
        let index = known.unwrap_or(self.models.len());
        for key in keys {
            self.retired_by_name.remove(&key);
            self.by_name.insert(key, index);
        }
        if index == self.models.len() {
            self.models.push(Arc::new(model));
        } else {
            self.models[index] = Arc::new(model);
        }
        Ok(())
    }

    fn check_successors(&self) -> Result<(), Error> {
        let named = self.models.iter().filter_map(|model| {
            model.successor.as_ref().map(|successor| (&model.provider, &model.model, successor))
        });
        let gone = self.retired.iter().filter_map(|retired| {
            retired.successor.as_ref().map(|successor| (&retired.provider, &retired.models[0], successor))
        });
        for (provider, name, successor) in named.chain(gone) {
            let mut next = Some(successor.clone());
            let mut steps = 0;
            while let Some(name_now) = next {
                steps += 1;
                let model = self.find(provider, &name_now);
                if model.is_none() || steps > SUCCESSORS_MAX {
                    let why = if model.is_none() { "has no prices" } else { "leads in a circle" };
                    return Err(Error::new(ErrorKind::Invalid, format!("a successor {why}"))
                        .with("model", format_args!("{provider}/{name}"))
                        .with("successor", name_now));
                }
                next = model.and_then(|model| model.successor.clone());
            }
        }
        Ok(())
    }

    /// Which table this is: the day of the built-in one, and `+` what overrides it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Every model, in the order of the files.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// Where a row comes from, for people.
    pub fn source_of(&self, model: &Model) -> String {
        match self.sources.get(&model.source) {
            Some(source) => format!("{} <{}>", source.name, source.url),
            None if model.source.is_empty() => "the project's own file of prices".to_owned(),
            None => model.source.clone(),
        }
    }

    /// The row for a model of a provider, by its name, another of its names, or its name with a date behind it
    /// (`…-2026-03-13`, `…-20260313`, `…@20260313`); also when the provider has stopped serving it. A model that was
    /// trained (`ft:BASE:…`) without a row of its own has that of `ft:BASE`.
    ///
    /// `provider` is the kind, such as `openai`, or the name of a provider of the project.
    pub fn find(&self, provider: &str, model: &str) -> Option<Arc<Model>> {
        let name = model.trim_start_matches("models/").to_ascii_lowercase();
        let find = |name: &str| self.exact(provider, name).or_else(|| self.exact(provider, undated(name)?));
        find(&name).or_else(|| {
            let base = name.strip_prefix("ft:")?.split(':').next()?;
            find(&format!("ft:{base}"))
        })
    }

    /// The row that prices the training of a model, which is also that of what results; `None`: it has no such price.
    pub fn training(&self, provider: &str, base: &str) -> Option<Arc<Model>> {
        let base = base.trim_start_matches("models/");
        let name = if base.starts_with("ft:") { base.to_owned() } else { format!("ft:{base}") };
        let row = self.find(provider, &name)?;
        row.prices.iter().any(|prices| prices.training.is_some()).then_some(row)
    }

    fn exact(&self, provider: &str, name: &str) -> Option<Arc<Model>> {
        let index = self.by_name.get(&(provider.to_owned(), name.to_owned()))?;
        Some(Arc::clone(&self.models[*index]))
    }

    /// What to do about a name at `at`: use it, use its successor, or say that it is gone.
    pub fn look_up(&self, provider: &str, model: &str, at: Timestamp) -> Lookup {
        let name = model.trim_start_matches("models/").to_ascii_lowercase();
        // An exact entry among the retired goes before a row that fits without its date.
        let gone = |name: &str| self.retired_by_name.get(&(provider.to_owned(), name.to_owned())).copied();
        let retired = match self.exact(provider, &name) {
            Some(_) => None,
            None => gone(&name).or_else(|| {
                let base = undated(&name)?;
                if self.exact(provider, base).is_some() { None } else { gone(base) }
            }),
        };
        let (mut next, since) = if let Some(index) = retired {
            let entry = &self.retired[index];
            (entry.successor.clone(), entry.retired)
        } else {
            let Some(row) = self.find(provider, &name) else { return Lookup::Unknown };
            match row.retires {
                Some(since) if row.is_retired(at) => (row.successor.clone(), since),
                _ => return Lookup::Known(row),
            }
        };
        while let Some(row) = next.as_deref().and_then(|name| self.find(provider, name)) {
            if !row.is_retired(at) {
                return Lookup::Succeeded { by: row, since };
            }
            next.clone_from(&row.successor);
        }
        Lookup::Retired { since }
    }

    /// The model to send a request for `model` to, with its row.
    ///
    /// # Errors
    ///
    /// `NotFound`: the provider has stopped serving it and the table names no successor. An unknown name is
    /// `Ok(None)`: it may be new, or of a server of one's own.
    pub fn resolve(&self, provider: &str, model: &str, at: Timestamp) -> Result<Option<Arc<Model>>, Error> {
        match self.look_up(provider, model, at) {
            Lookup::Known(row) | Lookup::Succeeded { by: row, .. } => Ok(Some(row)),
            Lookup::Unknown => Ok(None),
            Lookup::Retired { since } => {
                Err(Error::new(ErrorKind::NotFound, format!("`{model}` is no longer served by `{provider}`"))
                    .with("retired", since)
                    .with("price_table", &self.version)
                    .hint("ask for a model that `steward ai models` lists"))
            }
        }
    }
}

/// The name without a date behind it.
fn undated(name: &str) -> Option<&str> {
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((base, date)) = name.rsplit_once(['-', '@'])
        && digits(date, 8)
    {
        return Some(base);
    }
    let cut = name.len().checked_sub(11)?;
    let (base, date) = (name.get(..cut)?, name.get(cut..)?);
    let mut parts = date.strip_prefix('-')?.split('-');
    let is_date = [4, 2, 2].into_iter().all(|count| parts.next().is_some_and(|part| digits(part, count)));
    (is_date && parts.next().is_none()).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("{text}T12:00:00Z").parse().unwrap()
    }

    #[test]
    fn numbers_in_a_file_mean_what_is_written() {
        let yaml =
            "models:\n- provider: local\n  model: m\n  prices:\n  - standard: { input: 0.1, output: 3 }\n";
        let table = PriceTable::read(yaml).unwrap();
        let model = table.find("local", "m").unwrap();
        assert_eq!(model.prices[0].standard.input, Usd::from_nanos(100_000_000));
        assert_eq!(model.prices[0].standard.output, Usd::from_nanos(3_000_000_000));
    }

    #[test]
    fn the_built_in_table_holds_together() {
        let table = PriceTable::built_in();
        assert!(table.models().len() >= 90, "{}", table.models().len());
        for model in table.models() {
            let name = format!("{}/{}", model.provider, model.model);
            assert!(table.sources.contains_key(&model.source), "{name}: source");
            assert!(model.successor.is_none() || model.retires.is_some(), "{name}: succeeded, when?");
            for prices in &model.prices {
                assert!(prices.standard.input.nanos() > 0, "{name}");
                assert_eq!(prices.standard.output.nanos() > 0, model.kind != Kind::Embedding, "{name}");
                for tier in [Tier::Batch, Tier::Flex] {
                    let Some(rates) = prices.rates(tier) else { continue };
                    assert!(rates.input <= prices.standard.input, "{name} {tier:?}");
                    assert!(rates.output <= prices.standard.output, "{name} {tier:?}");
                }
                if let Some(priority) = &prices.priority {
                    assert!(priority.input >= prices.standard.input, "{name}");
                }
                if let Some(long) = &prices.standard.long {
                    assert!(long.input > prices.standard.input && long.above_tokens >= 100_000, "{name}");
                }
                assert!(
                    prices.standard.cache_read.is_none_or(|rate| rate <= prices.standard.input),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn dates_aliases_and_prefixes_lead_to_the_model() {
        let table = PriceTable::built_in();
        for (provider, asked, found) in [
            ("openai", "gpt-5-mini-2025-08-07", "gpt-5-mini"),
            ("openai", "GPT-4o", "gpt-4o"),
            ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
            ("anthropic", "claude-haiku-4-5@20251001", "claude-haiku-4-5"),
            ("gemini", "models/gemini-2.5-flash", "gemini-2.5-flash"),
            ("gemini", "gemini-flash-latest", "gemini-3.8-flash"),
            ("azure_openai", "gpt-5-mini", "gpt-5-mini"),
        ] {
            assert_eq!(table.find(provider, asked).expect(asked).model, found);
        }
        for (provider, asked) in
            [("openai", "claude-haiku-4-5"), ("openai", "gpt-99"), ("openai", "2025-08-07"), ("openai", "")]
        {
            assert!(table.find(provider, asked).is_none(), "{asked}");
        }
    }

    #[test]
    fn retired_names_resolve_to_what_is_served() {
        let table = PriceTable::built_in();
        let now = at("2026-11-23");
        for (provider, asked, served) in [
            ("gemini", "text-bison-001", "gemini-2.5-flash"),
            ("gemini", "bard", "gemini-2.5-flash"),
            ("gemini", "gemini-1.5-pro-002", "gemini-1.5-pro-002"),
            ("anthropic", "claude-3-5-sonnet-20241022", "claude-sonnet-5"),
            ("anthropic", "claude-2.1", "claude-opus-4-8"),
            ("openai", "gpt-4-32k", "gpt-4.1"),
            ("openai", "o4-mini", "gpt-5.4-mini"),
            ("openai", "gpt-5", "gpt-5"),
        ] {
            let found = match table.look_up(provider, asked, now) {
                Lookup::Known(row) | Lookup::Succeeded { by: row, .. } => row.model.clone(),
                Lookup::Unknown => asked.to_owned(),
                Lookup::Retired { .. } => panic!("{asked} leads nowhere"),
            };
            assert_eq!(found, served, "{asked}");
        }
        // The day after its retirement the same name means another model.
        let later = table.resolve("openai", "gpt-5", at("2026-12-11")).unwrap().unwrap();
        assert_eq!(later.model, "gpt-5.2");
        let error = table.resolve("openai", "text-davinci-003", now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("2024-01-04"), "{error}");
    }

    #[test]
    fn prices_hold_from_their_day_on() {
        let table = PriceTable::built_in();
        let model = table.find("openai", "gpt-5.6-luna").unwrap();
        assert_eq!(model.prices_at(at("2026-07-29")).standard.input, Usd::from_nanos(1_000_000_000));
        assert_eq!(model.prices_at(at("2026-07-30")).standard.input, Usd::from_nanos(200_000_000));
        assert_eq!(model.row(model.prices_at(at("2026-08-01"))), "openai/gpt-5.6-luna from 2026-07-30");
    }

    #[test]
    fn overrides_take_the_place_of_rows_and_say_so() {
        let own = "models:\n- provider: openai\n  model: gpt-4o\n  source: our contract\n  prices:\n  - standard: { input: '2', output: '8' }\n";
        let table = PriceTable::built_in().with_overrides(own).unwrap();
        let model = table.find("openai", "gpt-4o-2024-08-06").unwrap();
        assert_eq!(model.prices[0].standard.output, Usd::from_nanos(8_000_000_000));
        assert_eq!(table.source_of(&model), "our contract");
        assert!(table.version().starts_with("2026-11-23+"), "{}", table.version());
        assert!(table.find("openai", "gpt-4o-mini").is_some());
    }

    #[test]
    fn wrong_files_are_refused_with_the_reason() {
        for (text, says) in [
            ("models: [{ provider: a, model: b, prices: [] }]", "`prices` is empty"),
            ("models: [{ provider: a, model: b, prices: [{ standard: { input: '-1' } }] }]", "below 0"),
            ("models: [{ provider: a, model: b, prices: [{ standard: { input: 'x' } }] }]", "amount"),
            ("models: [{ provider: a, model: b, price: 1 }]", "unknown field"),
            ("models: [{ provider: '', model: b, prices: [{ standard: { input: 1 } }] }]", "must be named"),
            (
                "models: [{ provider: a, model: b, prices: [{ from: 2026-02-01, standard: { input: 1 } }, { from: 2026-01-01, standard: { input: 1 } }] }]",
                "order",
            ),
            (
                "models: [{ provider: a, model: b, successor: c, prices: [{ standard: { input: 1 } }] }]",
                "has no prices",
            ),
            (
                "models: [{ provider: a, model: b, successor: b, prices: [{ standard: { input: 1 } }] }]",
                "circle",
            ),
            ("same_prices: [{ provider: a, as: b, source: x, models: [c] }]", "same_prices"),
            ("[1]", "cannot be read"),
        ] {
            let error = PriceTable::read(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }
}
