//! What the price table says of models beside their prices: who took the place of one that is served no longer, and how many
//! tokens fit.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;

use crate::price::{Lookup, PriceTable};

/// The price table at a time.
#[derive(Clone)]
pub struct Catalog {
    prices: Arc<PriceTable>,
    at: Timestamp,
}

/// The name of a model that its provider serves no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// As it was asked for.
    pub model: Arc<str>,
    /// First day on which it was not served, UTC.
    pub since: Date,
}

/// What is sent for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The model to ask.
    pub model: Arc<str>,
    /// The name in whose place it is asked, or that nobody has taken.
    pub retired: Option<Retired>,
    /// Nothing takes the place of the name.
    pub is_gone: bool,
    pub context_tokens: Option<u64>,
    pub output_tokens_max: Option<u64>,
}

impl Catalog {
    /// This table, with the retirements as of `at`.
    pub fn new(prices: Arc<PriceTable>, at: Timestamp) -> Self {
        Self { prices, at }
    }

    /// What to send for a model of a provider. What the project's own file says of the provider counts always; what is
    /// known of its kind's retirements only where `follows`: a server of one's own serves what it likes.
    pub(crate) fn find(&self, provider: &str, kind: &str, follows: bool, model: &str) -> Found {
        let by_name = if provider == kind && !follows { None } else { self.look(provider, model) };
        let found = by_name.or_else(|| if follows { self.look(kind, model) } else { None });
        found.unwrap_or_else(|| {
            let row = self.prices.find(provider, model).or_else(|| self.prices.find(kind, model));
            Found {
                model: model.into(),
                retired: None,
                is_gone: false,
                context_tokens: row.as_ref().and_then(|row| row.context_tokens),
                output_tokens_max: row.and_then(|row| row.output_tokens_max),
            }
        })
    }

    /// `None`: the table does not know the name.
    fn look(&self, provider: &str, model: &str) -> Option<Found> {
        let retired = |since| Some(Retired { model: model.into(), since });
        Some(match self.prices.look_up(provider, model, self.at) {
            Lookup::Known(row) => Found {
                model: model.into(),
                retired: None,
                is_gone: false,
                context_tokens: row.context_tokens,
                output_tokens_max: row.output_tokens_max,
            },
            Lookup::Succeeded { by, since } => Found {
                model: by.model.as_str().into(),
                retired: retired(since),
                is_gone: false,
                context_tokens: by.context_tokens,
                output_tokens_max: by.output_tokens_max,
            },
            Lookup::Retired { since } => Found {
                model: model.into(),
                retired: retired(since),
                is_gone: true,
                context_tokens: None,
                output_tokens_max: None,
            },
            Lookup::Unknown => return None,
        })
    }

    /// What is known of a name that nothing answers to: `None` for one that is not retired.
    pub(crate) fn farewell(&self, kind: &str, model: &str) -> Option<String> {
        let found = self.look(kind, model)?;
        let retired = found.retired?;
        Some(if found.is_gone {
            gone(kind, &retired)
        } else {
            format!(
                "`{model}` is served no longer by {kind} since {}; its successor is `{}`, which no route leads to",
                retired.since, found.model
            )
        })
    }
}

/// Why there is no answer from a model without a successor.
pub(crate) fn gone(provider: &str, retired: &Retired) -> String {
    format!(
        "`{}` is served no longer by {provider} since {}, and the price table names no successor; `GET /v1/models` lists \
         what there is",
        retired.model, retired.since
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        Catalog::new(Arc::new(PriceTable::built_in()), "2026-11-23T10:00:00Z".parse().unwrap())
    }

    #[test]
    fn retired_names_lead_to_their_successors_and_dated_ones_to_themselves() {
        let catalog = catalog();
        for (kind, asked, model) in [
            ("gemini", "text-bison-001", "gemini-2.5-flash"),
            ("gemini", "bard", "gemini-2.5-flash"),
            ("gemini", "models/chat-bison", "gemini-2.5-flash"),
            ("openai", "gpt-4-32k-0613", "gpt-4.1"),
            ("openai", "gpt-4o-2024-05-13", "gpt-4o"),
            ("anthropic", "claude-2.1", "claude-opus-4-8"),
        ] {
            let found = catalog.find("mine", kind, true, asked);
            assert_eq!((&*found.model, found.is_gone), (model, false), "{asked}");
            assert_eq!(&*found.retired.unwrap().model, asked);
            assert!(found.context_tokens.is_some(), "{asked}: the successor's window");
            // A server of one's own may serve what it likes.
            assert_eq!(&*catalog.find("mine", kind, false, asked).model, asked);
        }
        let found = catalog.find("mine", "openai", true, "gpt-4o-2024-08-06");
        assert_eq!((&*found.model, &found.retired), ("gpt-4o-2024-08-06", &None));
        assert_eq!((found.context_tokens, found.output_tokens_max), (Some(128_000), Some(16_384)));
    }

    #[test]
    fn a_name_without_a_successor_is_gone_and_the_day_is_said() {
        let catalog = catalog();
        let found = catalog.find("mine", "openai", true, "text-davinci-003");
        assert!(found.is_gone);
        let said = gone("openai", &found.retired.unwrap());
        assert!(said.contains("text-davinci-003") && said.contains("2024-01-04"), "{said}");
        let said = catalog.farewell("gemini", "bard").unwrap();
        assert!(said.contains("gemini-2.5-flash"), "{said}");
        assert_eq!(catalog.farewell("openai", "gpt-5.2"), None);
        assert_eq!(catalog.farewell("openai", "nobody-knows"), None);
    }

    #[test]
    fn the_projects_own_file_decides_about_its_own_servers() {
        let own = "
models: [{ provider: basement, model: llama-5, prices: [{ standard: { input: 0, output: 0 } }] }]
retired: [{ provider: basement, models: [llama-3], retired: 2026-01-01, successor: llama-5 }]
";
        let prices = PriceTable::built_in().with_overrides(own).unwrap();
        let catalog = Catalog::new(Arc::new(prices), "2026-11-23T10:00:00Z".parse().unwrap());
        assert_eq!(&*catalog.find("basement", "openai", false, "llama-3").model, "llama-5");
        assert_eq!(&*catalog.find("other", "openai", false, "llama-3").model, "llama-3");
    }
}
