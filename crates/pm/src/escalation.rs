//! Escalations: what the mission says the PM must hear at once, kept until someone has taken note.

use contract::{Actor, Context, Error, ErrorKind, Finding, Severity, Trigger};
use jiff::Timestamp;
use ledger::{Ledger, NewEvent, Write};
use serde::Serialize;
use serde_json::json;

/// An escalation about to be raised.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEscalation {
    /// The mission's trigger.
    pub trigger: Trigger,
    /// How urgent it is.
    pub severity: Severity,
    /// One sentence.
    pub title: String,
    /// More, if there is more to say.
    pub detail: String,
    /// What it is about, such as `store:orders`.
    pub subject: String,
    /// What it rests on.
    pub evidence: Vec<String>,
    /// What makes two of them the same within the project while one is open.
    pub dedup_key: String,
}

impl NewEscalation {
    /// An escalation for this trigger, critical, to be filled in.
    pub fn of(trigger: Trigger) -> Self {
        let severity = match trigger {
            Trigger::PerformanceDegradation | Trigger::DecisionRequired => Severity::Warning,
            _ => Severity::Critical,
        };
        Self {
            trigger,
            severity,
            title: String::new(),
            detail: String::new(),
            subject: String::new(),
            evidence: Vec::new(),
            dedup_key: String::new(),
        }
    }

    /// The escalation that a finding asks for, if it does. Whoever raises it, it is the same one.
    pub fn of_finding(subject: &str, finding: &Finding) -> Option<Self> {
        let trigger = finding.escalate?;
        Some(Self {
            severity: finding.severity,
            title: finding.title.clone(),
            detail: finding.recommendation.clone().unwrap_or_default(),
            subject: subject.to_owned(),
            evidence: finding.evidence.clone(),
            dedup_key: format!("{}:{subject}:{}", finding.code, finding.object),
            ..Self::of(trigger)
        })
    }
}

/// An escalation as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Escalation {
    /// `esc-` and a UUIDv7.
    pub id: String,
    /// The project.
    pub project: String,
    /// The mission's trigger, such as `data_loss_risk`.
    pub trigger: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// One sentence.
    pub title: String,
    /// More.
    pub detail: String,
    /// What it is about.
    pub subject: String,
    /// What it rests on.
    pub evidence: Vec<String>,
    /// How often it was raised while open.
    pub seen: i64,
    /// The task it came from; empty for none.
    pub task: String,
    /// When it was raised first, UTC.
    pub created: Timestamp,
    /// When it was raised last, UTC.
    pub last: Timestamp,
    /// When someone took note of it, UTC.
    pub acknowledged: Option<Timestamp>,
    /// Who did.
    pub acknowledged_by: Option<String>,
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// Raises an escalation, queues it for every webhook, and gives its id.
///
/// While one with the same `dedup_key` is open in the project, that one is counted again instead.
///
/// # Errors
///
/// As `Ledger::write`.
pub async fn raise(
    ctx: &Context,
    ledger: &Ledger,
    webhooks: &[String],
    new: NewEscalation,
) -> Result<String, Error> {
    let key = new.dedup_key.clone();
    // Two processes may raise the same one at once: who comes second finds it open.
    for _ in 0..3 {
        let open = ledger
            .query(
                "SELECT id FROM escalations WHERE project = ? AND dedup_key = ? AND acknowledged_us IS NULL",
                vec![ctx.project().into(), key.as_str().into()],
            )
            .await?;
        if let Some(row) = open.first() {
            let id = row.get_text("id")?.to_owned();
            let write = Write::new().exec(
                "UPDATE escalations SET seen = seen + 1, last_us = ? \
                 WHERE project = ? AND id = ? AND acknowledged_us IS NULL",
                vec![ctx.now().into(), ctx.project().into(), id.as_str().into()],
            );
            if ledger.write(ctx, write).await?.rows_changed == [1] {
                return Ok(id);
            }
            continue;
        }
        let id = format!("esc-{}", uuid::Uuid::now_v7().simple());
        let evidence = serde_json::to_string(&new.evidence).expect("a list of texts is JSON");
        let mut write = Write::new().exec_expecting(
            "INSERT INTO escalations (id, project, trigger, severity, title, detail, subject, evidence, dedup_key, \
             seen, task, created_us, last_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?) ON CONFLICT DO NOTHING",
            vec![
                id.as_str().into(),
                ctx.project().into(),
                new.trigger.as_str().into(),
                severity_name(new.severity).into(),
                new.title.as_str().into(),
                new.detail.as_str().into(),
                new.subject.as_str().into(),
                evidence.into(),
                key.as_str().into(),
                ctx.task().unwrap_or_default().into(),
                ctx.now().into(),
                ctx.now().into(),
            ],
            1,
        );
        for webhook in webhooks {
            write = write.exec(
                "INSERT INTO deliveries (escalation, project, target, attempts, next_us) VALUES (?, ?, ?, 0, ?)",
                vec![id.as_str().into(), ctx.project().into(), webhook.into(), ctx.now().into()],
            );
        }
        write = write.event(NewEvent::new(
            "escalation.raised",
            new.subject.clone(),
            json!({
                "id": id,
                "trigger": new.trigger,
                "severity": severity_name(new.severity),
                "title": new.title,
                "evidence": new.evidence,
            }),
        ));
        match ledger.write(ctx, write).await {
            Ok(_) => return Ok(id),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::Conflict, "the escalation is being changed by others").with("key", key))
}

/// Closes the open escalation with this key because its cause is gone: the system acknowledges it, and its detail
/// says why. Gives its id; `None` when none is open.
///
/// # Errors
///
/// As `Ledger::write`.
pub(crate) async fn settle(
    ctx: &Context,
    ledger: &Ledger,
    key: &str,
    why: &str,
    evidence: &[String],
) -> Result<Option<String>, Error> {
    let ctx = ctx.clone().with_actor(Actor::system());
    let open = ledger
        .query(
            "SELECT id, detail FROM escalations WHERE project = ? AND dedup_key = ? AND acknowledged_us IS NULL",
            vec![ctx.project().into(), key.into()],
        )
        .await?;
    let Some(row) = open.first() else { return Ok(None) };
    let (id, detail) = (row.get_text("id")?.to_owned(), row.get_text("detail")?);
    let detail = if detail.is_empty() { why.to_owned() } else { format!("{detail}; {why}") };
    let write = Write::new()
        .exec_expecting(
            "UPDATE escalations SET acknowledged_us = ?, acknowledged_by = ?, detail = ? \
             WHERE project = ? AND id = ? AND acknowledged_us IS NULL",
            vec![
                ctx.now().into(),
                ctx.actor().to_string().into(),
                detail.into(),
                ctx.project().into(),
                id.as_str().into(),
            ],
            1,
        )
        .exec(
            "UPDATE deliveries SET next_us = NULL WHERE project = ? AND escalation = ?",
            vec![ctx.project().into(), id.as_str().into()],
        )
        .event(NewEvent::new(
            "escalation.acknowledged",
            format!("escalation:{id}"),
            json!({ "id": id, "reason": why, "evidence": evidence }),
        ));
    match ledger.write(&ctx, write).await {
        Ok(_) => Ok(Some(id)),
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(None), // Someone was quicker.
        Err(error) => Err(error),
    }
}

/// Ids of the escalations that were raised for the context's task, in their order.
///
/// # Errors
///
/// As `Ledger::query`.
pub(crate) async fn of_task(ctx: &Context, ledger: &Ledger) -> Result<Vec<String>, Error> {
    let Some(task) = ctx.task() else { return Ok(Vec::new()) };
    let rows = ledger
        .query(
            "SELECT id FROM escalations WHERE project = ? AND task = ? ORDER BY created_us, id",
            vec![ctx.project().into(), task.into()],
        )
        .await?;
    rows.iter().map(|row| Ok(row.get_text("id")?.to_owned())).collect()
}

/// The project's escalations, open ones first, newest first.
///
/// # Errors
///
/// As `Ledger::query`.
pub async fn list(ctx: &Context, ledger: &Ledger, all: bool) -> Result<Vec<Escalation>, Error> {
    let rows = ledger
        .query(
            "SELECT * FROM escalations WHERE project = ? AND (acknowledged_us IS NULL OR ? = 1) \
             ORDER BY acknowledged_us IS NOT NULL, last_us DESC, id DESC LIMIT 500",
            vec![ctx.project().into(), i64::from(all).into()],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let text = |name: &str| Ok::<_, Error>(row.get_text(name)?.to_owned());
            Ok(Escalation {
                id: text("id")?,
                project: text("project")?,
                trigger: text("trigger")?,
                severity: text("severity")?,
                title: text("title")?,
                detail: text("detail")?,
                subject: text("subject")?,
                evidence: row.get_json("evidence")?,
                seen: row.get_i64("seen")?,
                task: text("task")?,
                created: row.get_time("created_us")?,
                last: row.get_time("last_us")?,
                acknowledged: row.get_opt_time("acknowledged_us")?,
                acknowledged_by: row.get_opt_text("acknowledged_by")?.map(ToOwned::to_owned),
            })
        })
        .collect()
}

/// Takes note of an escalation: it leaves the inbox, and webhooks are no longer tried.
///
/// # Errors
///
/// `NotFound`: no open escalation of this id in the project.
pub async fn acknowledge(ctx: &Context, ledger: &Ledger, id: &str) -> Result<(), Error> {
    let write = Write::new()
        .exec_expecting(
            "UPDATE escalations SET acknowledged_us = ?, acknowledged_by = ? \
             WHERE project = ? AND id = ? AND acknowledged_us IS NULL",
            vec![ctx.now().into(), ctx.actor().to_string().into(), ctx.project().into(), id.into()],
            1,
        )
        .exec(
            "UPDATE deliveries SET next_us = NULL WHERE project = ? AND escalation = ?",
            vec![ctx.project().into(), id.into()],
        )
        .event(NewEvent::new("escalation.acknowledged", format!("escalation:{id}"), json!({ "id": id })));
    match ledger.write(ctx, write).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Conflict => {
            Err(Error::new(ErrorKind::NotFound, format!("there is no open escalation `{id}`"))
                .hint("see `steward inbox`"))
        }
        Err(error) => Err(error),
    }
}
