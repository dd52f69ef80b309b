//! The audit trail and the evidence, as requests.

use contract::{Context, Effect, Error, ErrorKind, Finding, Outcome, Request, Severity, Trigger};
use ledger::{EventFilter, Head, Ledger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Most entries that one list gives.
const LIST_MAX: u64 = 10_000;
/// Most entries that one export gives; the caller goes on with `after`.
const EXPORT_MAX: u64 = 100_000;
/// Most bytes that one export gives.
const EXPORT_BYTES_MAX: usize = 64 << 20;

/// Lists entries of the audit trail.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListAudit {
    /// Only kinds that begin so, such as `migration.`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Only entries of this task.
    #[serde(default)]
    pub task: Option<String>,
    /// Only entries after this sequence number.
    #[serde(default)]
    pub after: u64,
    /// Most entries; the newest ones are given.
    #[serde(default = "default_limit")]
    pub limit: u64,
}

fn default_limit() -> u64 {
    50
}

impl Request for ListAudit {
    const NAME: &'static str = "audit.list";
    const SUMMARY: &'static str = "Lists what was asked, decided and done";
    const EXAMPLE: &'static str = "steward audit list --kind migration. --limit 20";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "audit.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Checks the whole audit trail.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyAudit {
    /// A copy of `audit.head` that was kept elsewhere, to find out whether the tail was cut.
    #[serde(default)]
    pub head: Option<Value>,
}

impl Request for VerifyAudit {
    const NAME: &'static str = "audit.verify";
    const SUMMARY: &'static str =
        "Checks that nothing in the audit trail was edited, removed, reordered or cut";
    const EXAMPLE: &'static str = "steward audit verify --head /mnt/elsewhere/audit.head";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "audit.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Prints the audit trail as JSON lines.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportAudit {
    /// Only entries after this sequence number.
    #[serde(default)]
    pub after: u64,
    /// Most entries, 100,000 at the most; go on with `after`.
    #[serde(default = "default_export_limit")]
    pub limit: u64,
}

fn default_export_limit() -> u64 {
    EXPORT_MAX
}

impl Request for ExportAudit {
    const NAME: &'static str = "audit.export";
    const SUMMARY: &'static str = "Prints the audit trail as JSON lines, oldest first";
    const EXAMPLE: &'static str = "steward audit export > audit.jsonl";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "audit.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Erases the body of one entry; its header and hash stay, so that the chain still holds.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EraseAudit {
    /// The entry's sequence number.
    pub seq: u64,
    /// Why, such as the number of the erasure request.
    pub reason: String,
}

impl Request for EraseAudit {
    const NAME: &'static str = "audit.erase";
    const SUMMARY: &'static str = "Erases the body of one entry, such as for an erasure request";
    const EXAMPLE: &'static str = "steward audit erase 42 --reason 'erasure request 17'";
    const EFFECT: Effect = Effect::Change;
    const ACTION: &'static str = "audit.erase";
    const POSITIONAL: &'static [&'static str] = &["seq"];
}

/// Prints a statement and its answer again.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowEvidence {
    /// The evidence id, such as `ev-0198…`.
    pub id: String,
}

impl Request for ShowEvidence {
    const NAME: &'static str = "evidence.show";
    const SUMMARY: &'static str = "Prints the statement that a number rests on, and its answer";
    const EXAMPLE: &'static str = "steward evidence ev-01980f3a5d7c7d5e9b0e0d6a4b1c2d3e";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "audit.read";
    const POSITIONAL: &'static [&'static str] = &["id"];
}

/// The newest entries of the context's project that match, oldest first.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn list(ctx: &Context, ledger: &Ledger, request: &ListAudit) -> Result<Outcome, Error> {
    let filter = EventFilter {
        project: Some(ctx.project().to_owned()),
        kind_prefix: request.kind.clone(),
        task: request.task.clone(),
        after_seq: request.after,
        limit: Some(usize::try_from(request.limit.clamp(1, LIST_MAX)).unwrap_or(usize::MAX)),
        newest_first: true,
        ..EventFilter::default()
    };
    let mut events = ledger.events(filter).await?;
    events.reverse();
    let mut text = String::new();
    for event in &events {
        use std::fmt::Write;
        let at = event.at.strftime("%Y-%m-%d %H:%M:%S");
        let subject = if event.subject.is_empty() { "-" } else { event.subject.as_str() };
        writeln!(text, "{:>6}  {at}  {:<28}  {:<20}  {}", event.seq, event.kind, subject, event.actor)
            .expect("writing to a string does not fail");
    }
    if events.is_empty() {
        text.push_str("no entries match\n");
    }
    Ok(Outcome::new(&events, text))
}

/// Checks the trail of the whole state, all projects.
///
/// # Errors
///
/// `Invalid`: the head that was given cannot be read. `Corrupt`: the first bad entry and why.
pub(crate) async fn verify(ledger: &Ledger, head: Option<Value>) -> Result<Outcome, Error> {
    let verified = match head {
        None => ledger.verify().await?,
        Some(head) => {
            let head: Head = serde_json::from_value(head).map_err(|cause| {
                Error::new(ErrorKind::Invalid, "this is no head of an audit trail")
                    .because(cause)
                    .hint("give a copy of `.steward/audit.head`")
            })?;
            ledger.verify_against(&head).await?
        }
    };
    let problem = verified.problem.as_ref().map(|problem| json!({ "seq": problem.seq, "why": problem.why }));
    let value = json!({
        "entries": verified.events, "bodies": verified.bodies, "erased": verified.erased, "hash": verified.hash,
        "head_seq": verified.head_seq, "problem": problem,
    });
    let Some(problem) = &verified.problem else {
        let text = format!(
            "audit trail intact: {} entries, {} erased bodies, last hash {}\n",
            verified.events,
            verified.erased,
            &verified.hash[..verified.hash.len().min(12)]
        );
        return Ok(Outcome::new(value, text));
    };
    let text = format!("audit trail DAMAGED at entry {}: {}\n", problem.seq, problem.why);
    let mut outcome = Outcome::new(value, text);
    outcome.findings.push(Finding {
        code: "audit_damaged".into(),
        severity: Severity::Critical,
        title: format!("the audit trail is damaged at entry {}: {}", problem.seq, problem.why),
        object: String::new(),
        recommendation: Some("keep the state file as it is, and compare it with its last backup".into()),
        evidence: Vec::new(),
        escalate: Some(Trigger::SecurityViolation),
    });
    Ok(outcome)
}

/// The trail of the context's project as JSON lines.
///
/// # Errors
///
/// As the ledger's. `LimitExceeded`: more than fits into one answer.
pub(crate) async fn export(ctx: &Context, ledger: &Ledger, request: &ExportAudit) -> Result<Outcome, Error> {
    let filter = EventFilter {
        project: Some(ctx.project().to_owned()),
        after_seq: request.after,
        limit: Some(usize::try_from(request.limit.clamp(1, EXPORT_MAX)).unwrap_or(usize::MAX)),
        ..EventFilter::default()
    };
    let lines = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let sink = std::sync::Arc::clone(&lines);
    let entries = ledger
        .export(filter, move |line| {
            let mut lines = sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if lines.len() + line.len() > EXPORT_BYTES_MAX {
                return Err(Error::new(ErrorKind::LimitExceeded, "the export is too large for one answer")
                    .with("bytes_max", EXPORT_BYTES_MAX)
                    .hint("give a smaller `--limit`, and go on with `--after`"));
            }
            lines.push_str(line);
            lines.push('\n');
            Ok(())
        })
        .await?;
    let text = std::mem::take(&mut *lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    Ok(Outcome::new(json!({ "entries": entries, "after": request.after }), text))
}

/// One piece of evidence.
///
/// # Errors
///
/// `NotFound`: none of this id in the context's project.
pub(crate) async fn show_evidence(
    ctx: &Context,
    ledger: &Ledger,
    request: &ShowEvidence,
) -> Result<Outcome, Error> {
    let evidence = ledger.evidence(ctx.project(), &request.id).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no evidence `{}`", request.id))
            .hint("reports and `--json` answers list the ids")
    })?;
    let answer = serde_json::to_string_pretty(&evidence.answer).expect("evidence is JSON");
    let text = format!(
        "{} on {}, taken {} in {:.3} ms\n\n{}\n\n{answer}\n",
        evidence.id, evidence.source, evidence.taken_at, evidence.elapsed_ms, evidence.statement
    );
    Ok(Outcome::new(&evidence, text))
}
