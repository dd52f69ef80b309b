//! What differs between a store and another, or an earlier picture of itself.

use contract::{Context, Effect, Error, ErrorKind, Finding, Outcome, Request, Severity, StoreDirectory};
use schema::{Change, Difference, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inquiry::Inquiry;
use crate::text;

/// Most differences that become findings of their own; the rest is one more.
const FINDINGS_MAX: usize = 50;

/// Arguments of `store.diff`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiffStore {
    /// The store's name in the project file.
    pub store: String,
    /// The store to compare with: differences lead from it to `store`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// The value of an earlier `store.inspect` to compare with, instead of `against`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Value>,
}

impl Request for DiffStore {
    const NAME: &'static str = "store.diff";
    const SUMMARY: &'static str = "Compare the structure with another store or an earlier inspect";
    const EXAMPLE: &'static str = "steward store diff orders orders-staging";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "store.read";
    const POSITIONAL: &'static [&'static str] = &["store", "against"];
}

/// Compares structures; counts and sizes do not count.
///
/// Value: `store`, `against`, `equal`, `differences[] {kind, object, change, from, to}`. Finding: `schema_drift` per
/// difference, up to 50.
///
/// # Errors
///
/// `Invalid`: neither or both of `against` and `snapshot`, or a snapshot that is no schema. `Unsupported`: the two
/// speak different SQL.
pub async fn diff(ctx: &Context, stores: &dyn StoreDirectory, request: &DiffStore) -> Result<Outcome, Error> {
    let mut inquiry = Inquiry::open(ctx, stores, &request.store).await?;
    let (after, evidence) = inquiry.schema().await?;
    let mut evidence = vec![evidence];
    let (name, before) = match (&request.against, &request.snapshot) {
        (Some(name), None) => {
            let mut other = Inquiry::open(ctx, stores, name).await?;
            let (schema, id) = other.schema().await?;
            evidence.push(id);
            inquiry.evidence.append(&mut other.evidence);
            (name.clone(), schema)
        }
        (None, Some(value)) => ("snapshot".to_owned(), snapshot(value)?),
        _ => {
            return Err(Error::new(ErrorKind::Invalid, "give one of `against` and `snapshot`")
                .hint("`steward store inspect NAME --json > FILE` makes a snapshot"));
        }
    };
    if before.dialect != after.dialect {
        return Err(inquiry.store.unsupported(
            "store.diff",
            "the two speak different SQL, so that every type would differ",
            "compare stores of one kind",
        ));
    }
    let differences = schema::diff(&before, &after);
    let value = json!({"store": request.store, "against": name, "equal": differences.is_empty(),
                       "differences": differences});
    let mut outcome = Outcome::new(value, diff_text(&request.store, &name, &differences));
    outcome.findings = findings(&differences, &evidence);
    outcome.evidence = inquiry.evidence;
    Ok(outcome)
}

/// The schema in an earlier answer, alone or under `value`.
fn snapshot(value: &Value) -> Result<Schema, Error> {
    let schema = value.get("value").unwrap_or(value);
    serde_json::from_value(schema.clone()).map_err(|error| {
        Error::new(ErrorKind::Invalid, "`snapshot` is not the value of a `store.inspect`")
            .because(error)
            .hint("make one with `steward store inspect NAME --json > FILE`")
    })
}

fn sentence(difference: &Difference) -> String {
    let Difference { kind, object, change, from, to } = difference;
    let kind = kind.replace('_', " ");
    let short = |text: &Option<String>| text::plain(text.as_deref().unwrap_or_default(), 120);
    match change {
        Change::Added => format!("{kind} {object} was added: {}", short(to)),
        Change::Removed => format!("{kind} {object} was removed: {}", short(from)),
        Change::Changed => format!("{kind} {object} was changed: {} became {}", short(from), short(to)),
    }
}

fn diff_text(store: &str, against: &str, differences: &[Difference]) -> String {
    if differences.is_empty() {
        return format!("{store} has the structure of {against}");
    }
    let mut lines = vec![format!(
        "{store} differs from {against}: {}",
        text::count(differences.len() as u64, "difference")
    )];
    lines.extend(differences.iter().map(|difference| {
        let sign = match difference.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed => '~',
        };
        format!("  {sign} {}", sentence(difference))
    }));
    lines.join("\n")
}

fn findings(differences: &[Difference], evidence: &[String]) -> Vec<Finding> {
    let finding = |title: String, object: String| Finding {
        code: "schema_drift".into(),
        severity: Severity::Warning,
        title,
        object,
        recommendation: Some("write the difference as a migration, or take it back".into()),
        evidence: evidence.to_vec(),
        escalate: None,
    };
    let mut findings: Vec<Finding> = differences
        .iter()
        .take(FINDINGS_MAX)
        .map(|difference| finding(sentence(difference), difference.object.clone()))
        .collect();
    if differences.len() > FINDINGS_MAX {
        let more = (differences.len() - FINDINGS_MAX) as u64;
        findings.push(finding(format!("there are {} more", text::count(more, "difference")), String::new()));
    }
    findings
}
