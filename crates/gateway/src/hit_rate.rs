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

const CHECKS: &str = "SELECT route, COUNT(*) AS checked, SUM(1 - agrees) AS disagreed FROM ai_cache_checks \
     WHERE project = ? AND at_us >= ? AND at_us < ? GROUP BY route";

/// Fewer checks say little about how often answers disagree.
const CHECKS_MIN: u64 = 20;
/// More answers that disagree than this share are a finding.
const DISAGREE_MAX: f64 = 0.02;

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
    /// Answers to a question in other words that were asked for once more.
    pub checked: u64,
    /// Those of them that disagree: false hits.
    pub disagreed: u64,
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

    /// The share of answers to a question in other words that were false hits, as measured by checks.
    #[allow(clippy::cast_precision_loss, reason = "a share to look at")]
    pub fn false_hits(&self) -> f64 {
        self.disagreed as f64 / self.checked.max(1) as f64
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
            let rate = HitRate {
                route: route.to_owned(),
                hits: 0,
                semantic: 0,
                misses: 0,
                bypassed: 0,
                checked: 0,
                disagreed: 0,
                objective,
            };
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
    let parameters = vec![ctx.project().into(), between.since.into(), between.until.into()];
    for row in ledger.query(CHECKS, parameters).await? {
        let route = row.get_text("route")?;
        if let Some(rate) = rates.iter_mut().find(|rate| rate.route == route) {
            let count = |name| row.get_i64(name).map(|count| u64::try_from(count).unwrap_or(0));
            (rate.checked, rate.disagreed) = (count("checked")?, count("disagreed")?);
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
        if rate.checked > 0 {
            writeln!(
                text,
                "of {} answers to other words that were checked {} disagree ({} false hits)",
                rate.checked,
                rate.disagreed,
                percent(rate.false_hits())
            )
            .expect("writing to a string does not fail");
        }
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Those that miss their objective over enough lookups.
pub(crate) fn findings(rates: &[HitRate]) -> Vec<Finding> {
    let wrong = rates.iter().filter(|rate| rate.checked >= CHECKS_MIN && rate.false_hits() > DISAGREE_MAX);
    let wrong = wrong.map(|rate| Finding {
        code: "semantic_cache_disagrees".into(),
        severity: Severity::Warning,
        title: format!(
            "of {} answers of `{}` to a question in other words {} disagree with a fresh one",
            rate.checked, rate.route, rate.disagreed
        ),
        object: rate.route.clone(),
        recommendation: Some(format!(
            "raise `ai.routes.{}.cache.semantic.threshold`, or remove `semantic`",
            rate.route
        )),
        evidence: Vec::new(),
        escalate: None,
    });
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
        .chain(wrong)
        .collect()
}
