//! Which budgets are in force: those of the project file, as far as they allow no more than what was granted before.
//!
//! What a budget allows is recorded in the state when it is first met. Afterwards the project file can make it tighter
//! at any time; where it would allow more, the recorded budget stays until the PM has approved the other one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use contract::{Context, Error};
use ledger::{Ledger, NewEvent};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::budget::scope_word;
use crate::config::{AiConfig, BudgetConfig, BudgetScope, Enforce, Period, default_soft};
use crate::settings::set;
use crate::usd::Usd;

/// A budget as it was last granted, by the PM or by being the first of its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Granted {
    pub usd: Usd,
    /// The project file's amount at that time: as long as it is there, `usd` counts in its place.
    pub instead_of: Usd,
    /// Absent in records that were written before terms were kept.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

/// What a budget's amount is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Terms {
    per: Period,
    scope: BudgetScope,
    of: Option<String>,
    enforce: Enforce,
}

impl Terms {
    fn of(budget: &BudgetConfig) -> Self {
        Self { per: budget.per, scope: budget.scope, of: budget.of.clone(), enforce: budget.enforce }
    }

    /// Whether the same amount under other terms can let something through that these would not. Amounts for different
    /// times or scopes cannot be compared, so they count as more.
    fn allow_less_than(&self, other: &Self) -> bool {
        self.per != other.per
            || self.scope != other.scope
            || (other.of.is_some() && self.of != other.of)
            || (self.enforce == Enforce::Strict && other.enforce == Enforce::Estimate)
    }
}

impl Granted {
    pub(crate) fn new(usd: Usd, in_file: &BudgetConfig) -> Self {
        Self { usd, instead_of: in_file.usd, terms: Some(Terms::of(in_file)) }
    }
}

/// A budget that counts now.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    pub budget: BudgetConfig,
    /// What the project file has, where that waits for approval.
    pub waits: Option<Waits>,
    /// What is to be recorded of it.
    record: Option<Granted>,
}

/// What the project file would have instead.
#[derive(Debug, Clone)]
pub(crate) enum Waits {
    Other(BudgetConfig),
    /// It names the budget no more.
    Lifted,
}

/// Names a budget as a sentence does: `100.00 USD per month for each key`.
pub(crate) struct Described<'a>(pub &'a BudgetConfig);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BudgetConfig { usd, per, scope, of, enforce, .. } = self.0;
        let per = match per {
            Period::Day => "per day",
            Period::Month => "per month",
            Period::Total => "in total",
        };
        write!(f, "{usd} USD {per} for ")?;
        match (of, scope) {
            (Some(of), scope) => write!(f, "the {} `{of}`", scope_word(*scope))?,
            (None, BudgetScope::Project) => f.write_str("the project")?,
            (None, scope) => write!(f, "each {}", scope_word(*scope))?,
        }
        if *enforce == Enforce::Estimate { f.write_str(", by estimate") } else { Ok(()) }
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(budget) => write!(f, "{}", Described(budget)),
            Self::Lifted => f.write_str("no such budget any more"),
        }
    }
}

fn judge(in_file: Option<&BudgetConfig>, granted: Option<&Granted>) -> Option<InForce> {
    let (file, granted) = match (in_file, granted) {
        (None, None) => return None,
        (Some(file), None) => {
            let record = Some(Granted::new(file.usd, file));
            return Some(InForce { budget: file.clone(), waits: None, record });
        }
        (None, Some(granted)) => {
            let budget = as_granted(granted, granted.terms.as_ref()?, default_soft());
            return Some(InForce { budget, waits: Some(Waits::Lifted), record: None });
        }
        (Some(file), Some(granted)) => (file, granted),
    };
    let asked = Terms::of(file);
    let terms = granted.terms.as_ref().unwrap_or(&asked);
    let usd = if file.usd == granted.instead_of { granted.usd } else { file.usd };
    if terms.allow_less_than(&asked) || usd > granted.usd {
        let budget = as_granted(granted, terms, file.soft);
        return Some(InForce { budget, waits: Some(Waits::Other(file.clone())), record: None });
    }
    let now = Granted::new(usd, file);
    let budget = BudgetConfig { usd, ..file.clone() };
    Some(InForce { budget, waits: None, record: Some(now).filter(|now| now != granted) })
}

fn as_granted(granted: &Granted, terms: &Terms, soft: f64) -> BudgetConfig {
    let Terms { per, scope, of, enforce } = terms.clone();
    BudgetConfig { usd: granted.usd, per, scope, of, enforce, soft }
}

/// The budgets of a project that count now, by name.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn in_force(
    ledger: &Ledger,
    project: &str,
    config: &AiConfig,
) -> Result<BTreeMap<String, InForce>, Error> {
    let rows = ledger
        .query(
            "SELECT name, value FROM ai_settings WHERE project = ? AND name LIKE 'budget/%'",
            vec![project.into()],
        )
        .await?;
    let mut granted = BTreeMap::new();
    for row in rows {
        let name = row.get_text("name")?.trim_start_matches("budget/").to_owned();
        granted.insert(name, row.get_json::<Granted>("value")?);
    }
    let names: BTreeSet<&String> = config.budgets.keys().chain(granted.keys()).collect();
    let judged = names
        .into_iter()
        .filter_map(|name| Some((name.clone(), judge(config.budgets.get(name), granted.get(name))?)));
    Ok(judged.collect())
}

/// Records what is new or tighter in the project file than what was known.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn record(
    ctx: &Context,
    ledger: &Ledger,
    budgets: &BTreeMap<String, InForce>,
) -> Result<(), Error> {
    let mut write = None;
    for (name, budget) in budgets {
        let Some(granted) = &budget.record else { continue };
        let body = json!({ "budget": name, "is": Described(&budget.budget).to_string() });
        let event = NewEvent::new("ai.budget.noted", format!("budget:{name}"), body);
        let value = serde_json::to_string(granted).expect("a record holds only JSON values");
        write = Some(set(write.unwrap_or_default(), ctx, &format!("budget/{name}"), value).event(event));
    }
    match write {
        Some(write) => ledger.write(ctx, write).await.map(drop),
        None => Ok(()),
    }
}

/// A sentence for each budget whose other form in the project file waits for approval.
pub(crate) fn waiting(budgets: &BTreeMap<String, InForce>) -> Vec<String> {
    let sentence = |(name, in_force): (&String, &InForce)| {
        let waits = in_force.waits.as_ref()?;
        Some(format!(
            "the budget `{name}` is {} until `steward ai budget {name}` is approved; the project file has {waits}",
            Described(&in_force.budget)
        ))
    };
    budgets.iter().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(yaml: &str) -> BudgetConfig {
        serde_saphyr::from_str(&format!("{{ usd: 100, per: month, scope: project, {yaml} }}")).unwrap()
    }

    fn other(yaml: &str) -> BudgetConfig {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn what_allows_more_waits_and_what_allows_less_counts() {
        let route = budget("of: shop");
        for (granted, file, waits) in [
            (budget(""), "{ usd: 100, per: month, scope: project }", false),
            (budget(""), "{ usd: 99, per: month, scope: project, soft: 0.5 }", false),
            (budget(""), "{ usd: 100.01, per: month, scope: project }", true),
            (budget(""), "{ usd: 100, per: day, scope: project }", true),
            (budget(""), "{ usd: 1, per: total, scope: project }", true),
            (budget(""), "{ usd: 100, per: month, scope: key }", true),
            (budget(""), "{ usd: 100, per: month, scope: project, enforce: estimate }", true),
            (budget("enforce: estimate"), "{ usd: 100, per: month, scope: project }", false),
            (budget(""), "{ usd: 100, per: month, scope: project, of: other }", true),
            (route.clone(), "{ usd: 100, per: month, scope: project, of: other }", true),
            (route, "{ usd: 100, per: month, scope: project }", false),
        ] {
            let file = other(file);
            let known = Granted::new(granted.usd, &granted);
            let judged = judge(Some(&file), Some(&known)).unwrap();
            assert_eq!(judged.waits.is_some(), waits, "{granted:?} {file:?}");
            let counts = if waits { &granted } else { &file };
            assert_eq!(Described(&judged.budget).to_string(), Described(counts).to_string());
            // What is recorded then is what counts.
            let known = judged.record.unwrap_or(known);
            let again = judge(Some(&file), Some(&known)).unwrap();
            assert_eq!((again.waits.is_some(), again.record), (waits, None), "{file:?}");
        }
    }

    #[test]
    fn a_grant_counts_until_the_file_says_something_else() {
        let file = budget("");
        let granted = Granted::new("250".parse().unwrap(), &file);
        let usd = |file: Option<&BudgetConfig>| judge(file, Some(&granted)).unwrap().budget.usd.to_string();
        assert_eq!(usd(Some(&file)), "250.00");
        assert_eq!(usd(None), "250.00");
        for (now, counts) in [("250", "250.00"), ("200", "200.00"), ("50", "50.00"), ("300", "250.00")] {
            let file = other(&format!("{{ usd: {now}, per: month, scope: project }}"));
            assert_eq!(usd(Some(&file)), counts);
        }
    }

    #[test]
    fn records_of_older_versions_are_read() {
        let old: Granted = serde_json::from_str(r#"{"usd":"250","instead_of":"100"}"#).unwrap();
        let judged = judge(Some(&budget("")), Some(&old)).unwrap();
        assert_eq!((judged.budget.usd.to_string(), judged.waits.is_none()), ("250.00".into(), true));
        assert_eq!(judged.record, Some(Granted::new(old.usd, &budget(""))));
        assert!(judge(None, Some(&old)).is_none(), "for what it was is not known");
    }
}
