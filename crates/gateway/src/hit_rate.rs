//! How often caches answered, against what was aimed at.

use std::fmt::Write as _;

use contract::{Context, Error, Finding, Severity};
use ledger::Ledger;
use serde::Serialize;

use crate::config::AiConfig;
use crate::report::Between;

/// Fewer lookups say little about a rate.
const LOOKUPS_MIN: u64 = 100;

const BY_ROUTE: &str = "SELECT route, cache, COUNT(*) AS requests FROM ai_usage \
     WHERE project = ? AND at_us >= ? AND at_us < ? AND cache IN ('hit', 'semantic', 'miss', 'bypass') AND id NOT LIKE '%#%' \
     GROUP BY route, cache";

/// What the cache of a route did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HitRate {
    /// The route.
    pub route: String,
    /// Answered with the reply to the very same question.
    pub hits: u64,
    /// Answered with the reply to a question that asks the same.
    pub semantic: u64,
    /// Looked up and not found.
    pub misses: u64,
    /// Not looked up.
    pub bypassed: u64,
    /// The share that was aimed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<f64>,
}

impl HitRate {
    /// Requests that were looked up.
    pub fn lookups(&self) -> u64 {
        self.hits + self.semantic + self.misses
    }

    /// The share of them that was found.
    #[allow(clippy::cast_precision_loss, reason = "a share to look at")]
    pub fn share(&self) -> f64 {
        (self.hits + self.semantic) as f64 / self.lookups().max(1) as f64
    }

    fn is_missed(&self) -> bool {
        self.lookups() >= LOOKUPS_MIN && self.objective.is_some_and(|objective| self.share() < objective)
    }
}

/// The rates of the routes that have a cache now or were looked up in this time; by route.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn hit_rates(
    ctx: &Context,
    ledger: &Ledger,
    config: &AiConfig,
    between: Between,
) -> Result<Vec<HitRate>, Error> {
    let parameters = vec![ctx.project().into(), between.since.into(), between.until.into()];
    let mut rates: Vec<HitRate> = Vec::new();
    for row in ledger.query(BY_ROUTE, parameters).await? {
        let route = row.get_text("route")?;
        let at = rates.iter().position(|rate| rate.route == route).unwrap_or_else(|| {
            let cache = config.routes.get(route).and_then(|route| route.cache.as_ref());
            let objective = cache.and_then(|cache| cache.objective_hit_rate);
            let rate =
                HitRate { route: route.to_owned(), hits: 0, semantic: 0, misses: 0, bypassed: 0, objective };
            rates.push(rate);
            rates.len() - 1
        });
        let count = u64::try_from(row.get_i64("requests")?).unwrap_or(0);
        match row.get_text("cache")? {
            "hit" => rates[at].hits += count,
            "semantic" => rates[at].semantic += count,
            "miss" => rates[at].misses += count,
            _ => rates[at].bypassed += count,
        }
    }
    Ok(rates)
}

/// A line for each.
pub(crate) fn lines(rates: &[HitRate]) -> String {
    let mut text = String::new();
    for rate in rates {
        write!(
            text,
            "cache of `{}`: {} of {} lookups found",
            rate.route,
            percent(rate.share()),
            rate.lookups()
        )
        .expect("writing to a string does not fail");
        if rate.semantic > 0 {
            write!(text, " ({} by what they mean)", rate.semantic)
                .expect("writing to a string does not fail");
        }
        if let Some(objective) = rate.objective {
            let word = if rate.is_missed() { "MISSES its objective of" } else { "objective" };
            write!(text, ", {word} {}", percent(objective)).expect("writing to a string does not fail");
        }
        writeln!(text, "; {} not looked up", rate.bypassed).expect("writing to a string does not fail");
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Those that miss their objective over enough lookups.
pub(crate) fn findings(rates: &[HitRate]) -> Vec<Finding> {
    let missed = rates.iter().filter(|rate| rate.is_missed());
    missed
        .map(|rate| Finding {
            code: "cache_below_objective".into(),
            severity: Severity::Warning,
            title: format!(
                "the cache of `{}` answered {} of {} lookups, its objective is {}",
                rate.route,
                percent(rate.share()),
                rate.lookups(),
                percent(rate.objective.unwrap_or_default())
            ),
            object: rate.route.clone(),
            recommendation: Some(
                "`steward ai advise` says what share of the requests repeats within which time; a longer `ttl_s`, \
                 `sampled` or another objective follow from that"
                    .into(),
            ),
            evidence: Vec::new(),
            escalate: None,
        })
        .collect()
}
