//! Whether a database is well, and what to do where it is not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use contract::{
    Context, Effect, Error, Finding, HealthArea, HealthCheck, HealthScope, Outcome, Request, Seen, Severity,
    StoreDirectory,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::{Inquiry, millis_since, rows_answer};
use crate::text;

/// Arguments of `store.health`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckHealth {
    /// The store's name in the project file.
    pub store: String,
    /// What to look at: `integrity`, `connections`, `sessions`, `replication`, `vacuum`, `bloat`, `indexes`, `schema`,
    /// `sequences`, `cache`, `disk`, `settings`, `encryption`, `logins`; everything without it.
    #[serde(default)]
    pub areas: Vec<HealthArea>,
    /// How long a transaction may be open before it is reported, in milliseconds.
    #[serde(default = "default_transaction_max_ms")]
    pub transaction_max_ms: u64,
}

fn default_transaction_max_ms() -> u64 {
    u64::try_from(HealthScope::TRANSACTION_MAX.as_millis()).unwrap_or(u64::MAX)
}

impl Request for CheckHealth {
    const NAME: &'static str = "store.health";
    const SUMMARY: &'static str =
        "Judge a database's health: what is wrong, how bad it is, and what fixes it";
    const EXAMPLE: &'static str = "steward store health orders";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "performance.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Makes every check that the engine's expert knows, and reports the worst first.
///
/// Value: `store`, `kind`, `healthy` (nothing of severity warning or above), `critical`, `warnings`, `notes`,
/// `not_seen`, `checks[] {name, area, seen, because, findings[] (codes), statement, evidence}` in the order of the areas
/// with `rows[]` for those about disk. Findings: as the adapter's README lists them. The evidence is each check's exact
/// statement with its answer.
///
/// # Errors
///
/// `NotFound`: no such store. `Unsupported`: nobody has taught Steward what health means for this kind of store.
/// `Unavailable`, `Denied`, `TimedOut`, `Canceled`.
pub async fn health(
    ctx: &Context,
    stores: &dyn StoreDirectory,
    request: &CheckHealth,
) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let scope = HealthScope {
        areas: request.areas.clone(),
        transaction_max: Duration::from_millis(request.transaction_max_ms),
    };
    let started = Instant::now();
    let checks = {
        let health = inquiry.store.health().ok_or_else(|| {
            inquiry.store.unsupported(
                "store.health",
                "the adapter makes no checks of health",
                "ask `steward store check` whether it can be reached, and as whom",
            )
        })?;
        health.check_health(ctx, &scope).await?
    };
    let elapsed_ms = millis_since(started);
    let mut findings = Vec::new();
    let mut listed = Vec::new();
    for check in &checks {
        let evidence = check.answer.as_ref().map(|rows| {
            let answer = rows_answer(rows, &[]);
            inquiry.note(&check.statement, answer, rows.elapsed_ms)
        });
        findings.extend(check.findings.iter().map(|found| Finding {
            code: found.code.clone(),
            severity: found.severity,
            title: found.title.clone(),
            object: found.object.clone(),
            recommendation: Some(found.fix.clone()),
            evidence: evidence.iter().cloned().collect(),
            escalate: found.escalate,
        }));
        listed.push(listing(check, evidence.as_deref()));
    }
    // Stable: within a severity the order of the areas stays, which begins with what is lost first.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let (critical, warnings, notes) = (of(Severity::Critical), of(Severity::Warning), of(Severity::Info));
    let not_seen = checks.iter().filter(|check| check.seen != Seen::All).count();
    let value = json!({
        "store": request.store,
        "kind": inquiry.store.kind(),
        "healthy": critical + warnings == 0,
        "critical": critical,
        "warnings": warnings,
        "notes": notes,
        "not_seen": not_seen,
        "elapsed_ms": elapsed_ms,
        "checks": listed,
    });
    let mut outcome = Outcome::new(value, report(&request.store, &checks, &findings));
    outcome.findings = findings;
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

/// A check as programs read it.
fn listing(check: &HealthCheck, evidence: Option<&str>) -> Value {
    let codes: Vec<&str> = check.findings.iter().map(|finding| finding.code.as_str()).collect();
    let mut listing = json!({
        "name": check.name, "area": check.area, "findings": codes, "statement": check.statement, "evidence": evidence,
    });
    if let Value::Object(seen) = json!(check.seen) {
        for (key, value) in seen {
            listing[key] = value;
        }
    }
    if let (HealthArea::Disk, Some(rows)) = (check.area, &check.answer) {
        listing["rows"] = rows
            .rows
            .iter()
            .map(|row| rows.columns.iter().cloned().zip(row.iter().cloned()).collect::<Value>())
            .collect();
    }
    listing
}

/// For the person at 3 a.m.: the verdict, then the worst, each with what to do.
fn report(store: &str, checks: &[HealthCheck], findings: &[Finding]) -> String {
    let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let made = checks.iter().filter(|check| check.answer.is_some()).count() as u64;
    let (critical, warnings) = (of(Severity::Critical), of(Severity::Warning));
    let verdict = match (critical, warnings) {
        (0, 0) => "is well".to_owned(),
        (0, _) => format!("needs a look: {}", text::count(warnings, "warning")),
        _ => format!("is not well: {critical} critical, {}", text::count(warnings, "warning")),
    };
    let mut out = format!(
        "{store} {verdict}, {}, from {}",
        text::count(of(Severity::Info), "note"),
        text::count(made, "check")
    );
    for finding in findings {
        let severity = match finding.severity {
            Severity::Critical => "CRITICAL",
            Severity::Warning => "warning",
            Severity::Info => "note",
        };
        write!(out, "\n{severity:<9} {}", text::plain(&finding.title, TITLE_CHARS_MAX))
            .expect(text::TO_STRING);
        if let (Some(fix), true) = (&finding.recommendation, finding.severity > Severity::Info) {
            write!(out, "\n          fix: {}", text::plain(fix, TITLE_CHARS_MAX)).expect(text::TO_STRING);
        }
    }
    // One line for all checks that the same thing hides.
    let mut hidden: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for check in checks {
        if let Seen::Part { because } | Seen::Nothing { because } = &check.seen {
            hidden.entry(because).or_default().push(&check.name);
        }
    }
    if !hidden.is_empty() {
        out.push_str("\nnot seen, or not all of it:");
    }
    for (because, names) in hidden {
        write!(out, "\n  {}: {}", names.join(", "), text::plain(because, TITLE_CHARS_MAX))
            .expect(text::TO_STRING);
    }
    for check in checks.iter().filter(|check| check.name == "disk") {
        if let Some(rows) = check.answer.as_ref().filter(|rows| !rows.rows.is_empty()) {
            let most: Vec<Vec<Value>> = rows.rows.iter().take(DISK_ROWS_SHOWN).cloned().collect();
            write!(out, "\nlargest on disk:\n{}", text::table(&rows.columns, &most)).expect(text::TO_STRING);
        }
    }
    out
}

/// Longest title or fix on the screen; names may be of any length.
const TITLE_CHARS_MAX: usize = 400;

/// Tables that the report shows; the value has all that were asked for.
const DISK_ROWS_SHOWN: usize = 5;
